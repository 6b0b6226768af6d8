"""Sparse original models: prune the convolutions of a classifier, then train what is left.

Whatever unlearns a pruned model afterwards sets its pruned weights back to 0 after every step.
Sparsity as a help to unlearning is due to "Model Sparsity Can Simplify Machine Unlearning" (Jia et
al., NeurIPS 2023, arXiv 2304.04934).

    omp      train; drop the smallest |w|; rewind; train under the mask        (Jia et al.)
    imp      the same in rounds, each dropping a share of what is alive        (arXiv 1803.03635)
    synflow  before training, without data, by |dR/dw * w| in rounds           (arXiv 2006.05467)
    random   before training, by chance
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.func import functional_call
from torch.nn.utils import prune as torch_prune

from . import seeding
from .data.labelled import Splits
from .errors import UsageError
from .loop import train
from .models.classifier import Classifier
from .models.predictor import PREFIX
from .train.classifier import ClassifierTrainer, Training

Masks = dict[str, torch.Tensor]
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Pruning(BaseModel):
    """How a network becomes sparse; linear layers, biases and batch norms are never pruned.

    Attributes:
        how: ``omp`` (one-shot magnitude), ``imp`` (iterative magnitude), ``synflow`` or ``random``.
        sparsity: share of all convolution weights together that is pruned, in [0, 1).
        rewind_epochs: the epoch of the first, dense training whose weights omp and imp go back to;
            0 for the weights that it began with.
        rate: share of the living weights that a round of imp prunes; the last round prunes less.
        rounds: rounds of synflow.
        seed: of the random choice.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    how: Literal["omp", "imp", "synflow", "random"] = Field("omp", description="way of pruning")
    sparsity: float = Field(0.95, ge=0, lt=1, description="share of convolution weights pruned")
    rewind_epochs: int = Field(0, ge=0, description="epoch that omp and imp rewind to")
    rate: float = Field(0.2, gt=0, lt=1, description="share pruned by a round of imp")
    rounds: int = Field(100, ge=1, description="rounds of synflow")
    seed: int = Field(0, ge=0, description="seed of the random choice")

    def prune(
        self, model: Classifier | None, splits: Splits, trainer: ClassifierTrainer
    ) -> Classifier:
        """A trained sparse classifier; its ``mask`` says which weights are alive.

        Training goes on from the rewound step with the rest of the trainer's schedule, so no weight
        is trained for longer than in a dense model; the published code adds all epochs again.

        Args:
            model: the untrained network; None for the one that the trainer starts from. It is not
                changed, and a mask that it has is kept.
            splits: the data; synflow and random read its shape alone before they train.
            trainer: how every training goes.

        Raises:
            UsageError: if there is no convolution, more is pruned already, or ``rewind_epochs`` is
                not before the end of the training.
        """
        if self.rewind_epochs >= trainer.epochs:
            raise UsageError(
                f"rewind_epochs={self.rewind_epochs} is not before the end of a training of"
                f" {trainer.epochs} epochs; give a smaller number."
            )
        # masks are made on the CPU; training moves everything to its device
        start = (model or trainer.untrained(splits)).clone().freeze().to("cpu")
        start.mask = alive_masks(start)
        start.apply_mask()
        counts = self.kept_by_round(start)
        first = 0
        if self.how in ("omp", "imp"):
            start, first = self._by_magnitude(start, counts, splits, trainer)
        else:
            self._at_start(start, counts, splits)
        return _fit(trainer, start, splits, first).student.freeze()

    def kept_by_round(self, model: Classifier) -> list[int]:
        """How many convolution weights are alive after each round; at least one is."""
        modules, masks = convolutions(model), alive_masks(model)
        size = sum(module.weight.numel() for module in modules.values())
        alive = sum(int(masks[name].sum()) for name in modules)
        last = max(1, round((1 - self.sparsity) * size))
        if last > alive:
            raise UsageError(
                f"{model.name} has {alive} of {size} convolution weights left, fewer than"
                f" sparsity={self.sparsity:g} would keep; give a larger sparsity."
            )
        if self.how == "imp":
            return _shrinking(alive, last, self.rate)
        rounds = self.rounds if self.how == "synflow" else 1
        return [round(alive * (last / alive) ** (n / rounds)) for n in range(1, rounds + 1)]

    def _by_magnitude(
        self, start: Classifier, counts: list[int], splits: Splits, trainer: ClassifierTrainer
    ) -> tuple[Classifier, int]:
        """The rewound network with its final mask, and the step that training goes on from."""
        rewind, first = self.rewind_epochs * -(-len(splits.train) // trainer.batch), 0
        for kept in counts:
            done = _fit(trainer, start, splits, first, rewind)
            if first < rewind:  # only the first training passes the step that all rewind to
                start, first = done.kept, rewind
            start.mask = pruned_masks(done.student, kept)
        return start, first

    def _at_start(self, start: Classifier, counts: list[int], splits: Splits) -> None:
        """Set the mask of an untrained network."""
        if self.how == "random":
            with seeding.seeded("pruning", self.seed):
                chance = torch_prune.RandomUnstructured
                start.mask = pruned_masks(start, counts[-1], method=chance)
            return
        for kept in counts:
            scores = synflow_scores(start, tuple(splits.train.x.shape[1:]))
            start.mask = pruned_masks(start, kept, scores)
            start.apply_mask()


def convolutions(model: Classifier) -> dict[str, nn.Module]:
    """{full name of the weight: module} of all convolutions, in the order of the network.

    Raises:
        UsageError: if there is none.
    """
    found = {
        f"{PREFIX}.{name}.weight": module
        for name, module in model.network.named_modules()
        if isinstance(module, CONVOLUTIONS)
    }
    if not found:
        raise UsageError(f"{model.name} has no convolution, and nothing else is pruned.")
    return found


def alive_masks(model: Classifier) -> Masks:
    """A mask for every convolution weight; all True where the model has none yet."""
    return {
        **model.mask,
        **{
            name: model.mask.get(name, torch.ones_like(module.weight, dtype=torch.bool))
            for name, module in convolutions(model).items()
        },
    }


def sparsity_of(model: Classifier) -> float:
    """Share of the convolution weights that are exactly 0, in [0, 1].

    Raises:
        UsageError: if there is no convolution.
    """
    weights = [module.weight for module in convolutions(model).values()]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


@torch.no_grad()
def pruned_masks(
    model: Classifier,
    kept: int,
    scores: Masks | None = None,
    method: type[torch_prune.BasePruningMethod] = torch_prune.L1Unstructured,
) -> Masks:
    """The masks that leave ``kept`` convolution weights of all layers together alive.

    Args:
        model: the network; it is not changed, and what its masks prune stays pruned.
        kept: weights that stay alive.
        scores: {full name: scores of the weight's shape}; the smallest are pruned. The weights
            themselves, by magnitude, if None.
        method: an unstructured one of ``torch.nn.utils.prune``.

    Returns:
        {full name: bool tensor of the weight's shape} on the CPU, True where a weight is alive.
    """
    twin = model.clone().freeze().to("cpu")  # random draws are then the same on every device
    masks, modules = alive_masks(twin), convolutions(twin)
    for name, module in modules.items():
        torch_prune.custom_from_mask(module, "weight", masks[name])
    alive = sum(int(masks[name].sum()) for name in modules)
    torch_prune.global_unstructured(
        [(module, "weight") for module in modules.values()],
        pruning_method=method,
        importance_scores=scores and {(m, "weight"): scores[n].cpu() for n, m in modules.items()},
        amount=alive - kept,
    )
    return {**masks, **{name: module.weight_mask.bool() for name, module in modules.items()}}


def synflow_scores(model: Classifier, shape: tuple[int, ...]) -> Masks:
    """|dR/dw * w| of every convolution weight, R = sum of outputs for a picture of ones.

    All parameters and statistics are replaced by their absolute values. Source: Tanaka et al.,
    "Pruning neural networks without any data by iteratively conserving synaptic flow", NeurIPS
    2020, arXiv 2006.05467.

    Args:
        model: the network, in eval mode; it is not changed.
        shape: (C, H, W) of a picture.

    Returns:
        {full name: float64 tensor >= 0 of the weight's shape}.
    """
    state = {
        # products over many layers leave the range of float32
        name: tensor.detach().abs().double() if tensor.is_floating_point() else tensor
        for name, tensor in model.network.state_dict().items()
    }
    names = {name.removeprefix(f"{PREFIX}."): name for name in convolutions(model)}
    weights = [state[name].requires_grad_() for name in names]
    ones = torch.ones(1, *shape, dtype=torch.float64, device=model.device)
    flow = functional_call(model.network, state, (ones,)).sum()
    slopes = torch.autograd.grad(flow, weights)
    return {
        name: (slope * weight).detach().abs()
        for name, slope, weight in zip(names.values(), slopes, weights, strict=True)
    }


class RewindableTraining(Training):
    """A training that can keep its weights of one step, or begin at a later one.

    Earlier steps are passed over, so that batches, augmentation and learning rate of step n do not
    depend on where training began.

    Attributes:
        first: the first step that trains.
        rewind: the number of steps after which ``kept`` is taken.
        kept: the model at that step.
    """

    def __init__(self, settings, model: Classifier, splits: Splits, first: int, rewind: int):
        super().__init__(settings, model, splits)
        self.first, self.rewind = first, rewind
        self.kept: Classifier | None = None

    def step(self, step, run):
        return super().step(step, run) if step >= self.first else {}

    def after_step(self, step: int) -> None:
        super().after_step(step)
        if step + 1 == self.rewind:
            self.kept = self.student.clone().freeze()


def _fit(
    trainer: ClassifierTrainer, start: Classifier, splits: Splits, first: int = 0, rewind: int = 0
) -> RewindableTraining:
    """Train a copy of ``start`` as the trainer would."""
    objective = RewindableTraining(trainer, start, splits, first, rewind)
    config = trainer.loop_config(objective.length())
    train(objective, config, label="training the classifier")
    return objective


def _shrinking(alive: int, last: int, rate: float) -> list[int]:
    """Counts alive * (1 - rate)^k down to ``last``."""
    counts = [alive]
    while counts[-1] > last:
        counts.append(max(last, round(alive * (1 - rate) ** len(counts))))
    return counts[1:]
