"""Measure the embedded models: what their model cards say comes from here.

    python benchmarks/embedded_models.py

Judges and CLIP are measured on MiniCanvas's test split (no training saw it), the Stable Diffusion
pipeline on the pictures that it draws for all 80 prompts x the 5 seeds of ``eval/minicanvas.yaml``,
as marked by the judges. Prints sizes too.
"""

from __future__ import annotations

import numpy as np

from mu_vision import evaluate, load_card, load_model, resources
from mu_vision.data import minicanvas
from mu_vision.evaluation.judges import load_clip, load_judge
from mu_vision.metrics.clip import normalised
from mu_vision.metrics.rates import wilson_interval


def share(name: str, right: np.ndarray) -> None:
    low, high = wilson_interval(int(right.sum()), len(right))
    print(f"{name:34} {right.mean():7.2%}  [{low:.2%}, {high:.2%}]  of {len(right)}", flush=True)


def main() -> None:
    pictures = minicanvas.load(minicanvas.SPLITS["test"])
    card = load_card("minicanvas")
    for kind, labels in (("style", pictures.styles), ("object", pictures.objects)):
        judge = load_judge(f"minicanvas/{kind}-judge")
        share(f"{kind} judge, test split", judge.predict(pictures.pixels).argmax(1) == labels)
    clip = load_clip("minicanvas/clip")
    prompts = [card.prompt(o, s) for o in card.object_names for s in card.style_names]
    images = normalised(clip.image_features(pictures.pixels))
    texts = normalised(clip.text_features(prompts))
    best = (images @ texts.T).argmax(1)
    share("CLIP zero-shot style, test split", best % len(card.styles) == pictures.styles)
    share("CLIP zero-shot object, test split", best // len(card.styles) == pictures.objects)
    print(evaluate(load_model("minicanvas/sd"), "minicanvas"))
    for folder in sorted(resources.EMBEDDED.iterdir()):
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{folder.name:34} {size / 1e6:7.2f} MB")


if __name__ == "__main__":
    main()
