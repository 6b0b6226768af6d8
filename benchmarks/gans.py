"""Measure the embedded GANs: what their model cards say comes from here.

    python benchmarks/gans.py gan-digits gan-digits-without-3
    python benchmarks/gans.py gan gan-without-cat

FID is the Frechet distance of CLIP features of 2,048 pictures to all held-out real pictures of what
the GAN was trained on; confidence and balance are those of a small classifier that was trained on
real pictures at the GAN's resolution.
"""

from __future__ import annotations

import sys

import numpy as np

from mu_vision import resources
from mu_vision.data.labelled import Splits, load_splits
from mu_vision.evaluation.gan import GanBench
from mu_vision.evaluation.judges import load_clip
from mu_vision.evaluation.oracles import Scorer
from mu_vision.metrics.frechet import frechet_from_features
from mu_vision.metrics.gan import balance
from mu_vision.models.gan import Gan, read_facts
from mu_vision.train.classifier import ClassifierTrainer
from mu_vision.train.gan import GanTrainer, kept_samples


def main() -> None:
    clip, judges = load_clip("minicanvas/clip"), {}
    for name in sys.argv[1:]:
        gan = Gan.load(f"minicanvas/{name}")
        trainer = GanTrainer(**read_facts(resources.EMBEDDED / name)["trainer"])
        if trainer.data not in judges:
            found, size = load_splits(trainer.data), gan.config.size
            splits = Splits(
                found.name, kept_samples(found.train, (), size), kept_samples(found.test, (), size)
            )
            model, _ = ClassifierTrainer(data=trainer.data, epochs=20, seed=202).fit(splits)
            right = model.logits(splits.test.x).argmax(1) == splits.test.y
            print(f"classifier of {trainer.data}: accuracy {right.float().mean():.4f}")
            judges[trainer.data] = splits, Scorer.of_classifier(model, gan.config.channels, size)
        splits, scorer = judges[trainer.data]
        real = kept_samples(splits.test, trainer.without, gan.config.size)
        bench = GanBench(scorer, scorer, splits.classes[0], clip, real)
        pictures = bench.pictures(gan)
        chances = scorer.chances(pictures).numpy()
        labels = chances.argmax(1)
        known = np.isin(np.arange(len(splits.classes)), real.y.unique().numpy())
        features = bench.features(pictures)
        fid = frechet_from_features(features, bench.features(real.x * 2 - 1))
        print(
            f"{name}: fid_clip {fid:.2f}, confidence {chances.max(1).mean():.3f}, balance"
            f" {balance(labels, known):.3f}, of classes left out {(~known[labels]).mean():.2%},"
            f" counts {np.bincount(labels, minlength=len(known)).tolist()}",
            flush=True,
        )


if __name__ == "__main__":
    main()
