"""Minimax: pruning under a budget, with a price for each layer that breaks it.

Long for one method: it says what it leaves out of the published one, and refuses what cannot work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from spikewire.methods.checks import check_every, check_rise
from spikewire.methods.prune import cut, reaches, trim
from spikewire.pruner import Method, Pruner
from spikewire.schedules import Cubic
from spikewire.synapses import Synapses


@dataclass(frozen=True)
class Minimax(Method):
    """Minimax: learned budgets of layers, and prices that rise until all keep to theirs.

    ``min_{w, s} max_{y >= 0} L(w) + sum_l y_l B_l(w, s_l)``, with s_l synapses of layer l to go,
    ``sum_l s_l`` the whole network's budget, and ``B_l`` the sum of the s_l smallest w^2. Chen et
    al. 2023 (arXiv 2308.04672). In turn: w by the optimizer on L, then
    ``w <- w / (1 + 2 lr y_l)`` for the synapses to go (the proximal step of ``y_l B_l``); every so
    many steps ``y_l <- y_l + rate (every / steps) B_l / ||w_l||^2``, and s anew. At ``until`` what
    is to go then is cut, and the rest trains on with that mask.

    Where we depart from the authors' code: s is not descended on, with a second dual variable for
    the budget whose rate is 1e10, but solved for: ``sum_l y_l B_l`` is least under the budget if
    the smallest ``y_l w^2`` of the whole network go. So the budget is met at every moment, and it
    follows a cubic. Each layer has a y of its own, theirs is one for all; B counts as a share of
    the layer's ``||w||^2``, and the rate per training, so neither depends on sizes. Theirs masks in
    every step too, starts trained, spares the first layer, and returns to the best on test data.

    Args:
        sparsity: share of zeros at the end, [0, 1).
        y: price of each layer at the beginning, > 0, in units of loss over weight squared.
        rate: what a price would rise by in a training if nothing gave way, >= 0.
        every: steps between two events, 1 or more.
        begin, until: progress when pruning starts and the rest is cut, 0 <= begin < until < 1.

    Raises:
        ValueError: if one of them is out of its range.

    >>> Minimax(sparsity=0.9).plan()(0.5)
    0.9
    """

    source: ClassVar[str] = "Chen et al. 2023, arXiv 2308.04672"
    needs_rate: ClassVar[bool] = True

    sparsity: float = 0.9
    y: float = 10.0
    rate: float = 1000.0
    every: int = 100
    begin: float = 0.0
    until: float = 0.5

    def __post_init__(self) -> None:
        check_rise(0.0, self.sparsity)
        check_every(self.every)
        if not (0.0 < self.y < math.inf and 0.0 <= self.rate < math.inf):
            raise ValueError(
                f"y={self.y!r}, rate={self.rate!r}: give a price above 0, and what it may rise by, "
                "0 or more"
            )
        if not 0.0 <= self.begin < self.until < 1.0:
            raise ValueError(
                f"begin={self.begin!r}, until={self.until!r}: give the progress at which pruning "
                "starts and at which the rest is cut, 0 <= begin < until < 1"
            )

    def plan(self) -> Cubic:
        """Sparsity that is budgeted for, as a function of progress."""
        return Cubic(0.0, self.sparsity, self.begin, self.until)

    def event(self, pruner: Pruner) -> bool:
        return reaches(pruner, self.until)

    def start(self, pruner: Pruner) -> None:
        for s in pruner:
            dtype = torch.promote_types(s.weight.dtype, torch.float32)
            s.state["y"] = torch.full((), self.y, dtype=dtype, device=s.weight.device)
            s.state["going"] = torch.zeros_like(s.weight)

    def before_step(self, pruner: Pruner) -> None:
        if self.event(pruner):
            cut(pruner, self._budget(pruner), _worth)
            for s in pruner:
                s.state.clear()
        elif pruner.progress < self.until and pruner.step % self.every == 0:
            for s in pruner:
                s.state["y"] += self.rate * self.every / pruner.steps * _left(s)
            masks = pruner.choose(pruner.scored(_worth), self._budget(pruner))
            for s in pruner:
                s.state["going"] = (~masks[s.name]).to(s.weight)

    def after_step(self, pruner: Pruner) -> None:
        for s in pruner:
            if s.state:
                shrunk = 1.0 / (1.0 + 2.0 * pruner.lr(s) * float(s.state["y"]))
                s.weight.addcmul_(s.weight, s.state["going"], value=shrunk - 1.0)

    def finish(self, pruner: Pruner) -> None:
        trim(pruner, pruner.budget(self.sparsity, None))

    def _budget(self, pruner: Pruner) -> int | dict[str, int]:
        return pruner.budget(self.plan()(pruner.progress), None)


def _worth(synapses: Synapses, pruner: Pruner) -> Tensor:
    """``sqrt(y) |w|``, which ranks as ``y w^2`` does."""
    return synapses.state["y"].sqrt() * synapses.weight.abs()


def _left(synapses: Synapses) -> Tensor:
    """``B / ||w||^2``: what is still there of the synapses that are to go, as a share of all."""
    squares = synapses.weight.to(synapses.state["y"].dtype).square()
    return (squares * synapses.state["going"]).sum() / squares.sum()
