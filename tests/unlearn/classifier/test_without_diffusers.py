"""Classifiers are trained and unlearned where the libraries of diffusion models are missing."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
import sys
for name in ("diffusers", "transformers", "open_clip"):
    sys.modules[name] = None

from mu_vision import registry
from mu_vision.data.labelled import Splits, digits
from mu_vision.data.selectors import Selector
from mu_vision.train.classifier import ClassifierTrainer

names = registry.names("method")
assert {"finetune", "esd", "salun"} <= set(names), names
registry.names("attack")
assert {"classifier", "unet", "clip", "autoencoder"} <= set(registry.names("trainer"))
whole = digits()
few = Splits("few", whole.train.take(range(100)), whole.test.take(range(50)))
model, _ = ClassifierTrainer(epochs=1).fit(few)
request = Selector(kind="class", of="3").select(few)
done = registry.get("method", "finetune", "classifier")(epochs=1).unlearn(model, request)
print(done.report["steps"], done.model.logits(request.test.x).shape)
"""


def test_a_classifier_is_trained_and_finetuned_without_diffusion_libraries():
    environment = {**os.environ, "MU_VISION_QUIET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    steps, shape = done.stdout.strip().split(" ", 1)
    assert int(steps) == 2
    assert shape.startswith("torch.Size([") and shape.endswith(", 10])")
