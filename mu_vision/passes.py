"""Training on sets of labelled samples, sweep by sweep, under the one loop.

A pass is a set of samples with a loss on a batch of them. The plan of all steps is known before the
first, so step n reads its batch from (seed, n) alone and a stopped run goes on exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from . import seeding
from .data.labelled import Labelled, augmented
from .loop import Objective

Losses = dict[str, torch.Tensor]
# x, y of a batch and the positions of its samples in the data of the pass
BatchLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Losses]


@dataclass(frozen=True)
class Pass:
    """One sweep over some samples.

    Attributes:
        name: keys the shuffling; passes of one name in one epoch see the same order.
        data: the samples.
        loss: losses of a batch.
        batch: samples a step.
    """

    name: str
    data: Labelled
    loss: BatchLoss
    batch: int

    def __len__(self) -> int:
        return -(-len(self.data) // self.batch)


class PassObjective(Objective):
    """An objective whose epochs are passes.

    Attributes:
        epochs: how often ``passes`` are made.
        batch: samples a step, if a pass does not say.
        order_seed: seed of the order of samples.
        augment: crop and flip the batches.
        plan: epoch, pass and number of the batch in it, of every step.
    """

    epochs: int
    batch: int
    order_seed: int
    augment: bool
    plan: list[tuple[int, Pass, int]]

    def passes(self, epoch: int) -> list[Pass]:
        """The sweeps of an epoch, in order."""
        raise NotImplementedError

    def network(self) -> torch.nn.Module:
        """What learns."""
        raise NotImplementedError

    def sweep(self, name: str, data: Labelled, loss: BatchLoss) -> Pass:
        return Pass(name, data, loss, min(self.batch, len(data)))

    def length(self) -> int:
        """Steps of all epochs."""
        return sum(len(sweep) for e in range(self.epochs) for sweep in self.passes(e))

    def make_plan(self) -> None:
        """Lay out all steps; called once the data is on its device."""
        self.orders: dict[tuple[int, str], torch.Tensor] = {}
        self.plan = [
            (epoch, sweep, number)
            for epoch in range(self.epochs)
            for sweep in self.passes(epoch)
            for number in range(len(sweep))
        ]

    def loss(self, step: int) -> Losses:
        rounds, place = divmod(step, len(self.plan))
        epoch, sweep, number = self.plan[place]
        rows = self._order(sweep, rounds * self.epochs + epoch)
        rows = rows[number * sweep.batch : (number + 1) * sweep.batch]
        x, y = sweep.data.x[rows], sweep.data.y[rows]
        return sweep.loss(augmented(x) if self.augment else x, y, rows)

    def _order(self, sweep: Pass, epoch: int) -> torch.Tensor:
        key = (epoch, sweep.name)
        if key not in self.orders:
            self.orders = {k: order for k, order in self.orders.items() if k[0] == epoch}
            draw = seeding.generator("order", self.order_seed, *key)
            order = torch.randperm(len(sweep.data), generator=draw)
            self.orders[key] = order.to(sweep.data.y.device)
        return self.orders[key]

    def state(self) -> dict[str, torch.Tensor]:
        """Running statistics move without a gradient, so a resumed run needs them."""
        return {name: buffer.cpu() for name, buffer in self.network().named_buffers()}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        for name, buffer in self.network().named_buffers():
            buffer.copy_(state[name])
