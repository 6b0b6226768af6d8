"""What a GAN has forgotten and kept, beside the original and one that never saw the target.

Every GAN draws the same latents once; the scorer, CLIP and the search read these pictures. FID is
the Frechet distance of CLIP features to real pictures without the target, Ret-FID that to the
retrained GAN on other latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ..data.labelled import Labelled, named
from ..metrics import gan as metrics
from ..metrics.frechet import frechet_from_features
from ..metrics.rates import Rate
from ..models.gan import Gan, to_uint8
from .judges import ClipModel
from .latent_search import LatentSearch, curve
from .oracles import Scorer

REPORT, OTHER, PAIRS = "report", "report-other", "pairs"
# classes that the original draws less often than this are not its own
LEAST_SHARE = 0.01


@dataclass(frozen=True)
class Look:
    """What one GAN draws on the report's latents.

    Attributes:
        labels: [N] positions of the scorer's classes.
        shows: [N] bool, where the target is to be seen.
        sure: mean of the largest probability.
        features: [N, D] CLIP features.
        path: length between neighbours.
        search: share found within each budget of the attack.
    """

    labels: np.ndarray
    shows: np.ndarray
    sure: float
    features: np.ndarray
    path: float
    search: list[dict[str, Any]] = field(default_factory=list)


class GanBench:
    """Everything that all GANs of one request are measured with.

    Args:
        scorer: says what a picture shows; it never gave feedback.
        climber: the network that the search climbs.
        target: a class, or a word of several.
        clip: for features.
        real: real pictures, the target among them.
        latents: how many each GAN draws.
        search: settings of the attack; None for none.
        threshold: probability from which a picture shows the target.
    """

    def __init__(
        self, scorer: Scorer, climber: Scorer, target: str, clip: ClipModel, real: Labelled,
        latents: int = 2048, search: LatentSearch | None = None, threshold: float = 0.5,
    ):  # fmt: skip
        self.scorer, self.climber, self.target = scorer, climber, target
        self.clip, self.real, self.count, self.search = clip, real, latents, search
        self.threshold = threshold

    def embed(self, pictures: torch.Tensor) -> torch.Tensor:
        """[N, D] CLIP features of pictures [N, C, S, S] in [-1, 1]."""
        x = pictures.expand(-1, 3, -1, -1) if pictures.shape[1] == 1 else pictures
        return self.clip.embed(((x + 1) / 2).to(self.clip.device))

    @torch.no_grad()
    def features(self, pictures: torch.Tensor, batch: int = 256) -> np.ndarray:
        """The same in batches, as an array."""
        return torch.cat([self.embed(part).cpu() for part in pictures.split(batch)]).numpy()

    @cached_property
    def real_features(self) -> tuple[np.ndarray, np.ndarray]:
        """Features of the real pictures without the target, and of all."""
        every = self.features(self.real.x * 2 - 1)
        out = torch.tensor(named(self.real.classes, self.target))
        return every[~torch.isin(self.real.y, out).numpy()], every

    def pictures(self, gan: Gan, which: str = REPORT) -> torch.Tensor:
        return gan.pictures(gan.latents(self.count, which))

    def look(self, gan: Gan, which: str = REPORT) -> Look:
        """Draw, judge, measure and search one GAN."""
        pictures = self.pictures(gan, which)
        chances = self.scorer.chances(pictures)
        shows = chances[:, self.scorer.columns(self.target)].sum(1) >= self.threshold
        pairs = torch.stack([gan.latents(256, PAIRS, side) for side in (0, 1)])
        found = self.search and self.search.run(gan, self.climber, self.scorer, self.target)
        return Look(
            chances.argmax(1).numpy(), shows.numpy(), float(chances.amax(1).mean()),
            self.features(pictures), metrics.neighbour_path(gan, self.embed, pairs),
            curve(found or []),
        )  # fmt: skip

    def measure(self, look: Look, original: Look, retrained: Look | None = None) -> dict[str, Any]:
        """The numbers of one GAN, plain JSON.

        Args:
            look: of the GAN.
            original: of the original, on the same latents.
            retrained: of the retrained GAN, on other latents, for Ret-FID.

        Raises:
            RunError: if the original's pictures do not show the target once.
        """
        kept_real, every = self.real_features
        kept = self._kept(original)
        value = metrics.pul(original.shows, look.shows)
        low, high = metrics.pul_interval(original.shows, look.shows)
        after = Rate.of(look.shows)
        found: dict[str, Any] = {
            "pul": value, "pul_interval": [low, high],
            "negatives": after.value, "negatives_interval": list(after.interval),
            "negatives_hits": after.hits, "negatives_total": after.total,
            "fid": frechet_from_features(look.features, kept_real),
            "fid_all": frechet_from_features(look.features, every),
            "balance": metrics.balance(look.labels, kept), "sure": look.sure,
            "moved": metrics.moved(original.labels, look.labels, kept),
            "counts": np.bincount(look.labels, minlength=len(kept)).tolist(),
            "path": look.path, "search": look.search,
        }  # fmt: skip
        if retrained is not None:
            found["ret_fid"] = frechet_from_features(look.features, retrained.features)
        return found

    def _kept(self, original: Look) -> np.ndarray:
        """[K] bool: classes other than the target that the original draws."""
        shares = np.bincount(original.labels, minlength=len(self.scorer.classes))
        kept = shares >= LEAST_SHARE * len(original.labels)
        kept[self.scorer.columns(self.target)] = False
        return kept

    def show(self, gan: Gan, rows: Sequence[int]) -> np.ndarray:
        """[n, S, S, 3] uint8: the pictures of some of the report's latents."""
        return to_uint8(gan.pictures(gan.latents(self.count, REPORT)[list(rows)]))
