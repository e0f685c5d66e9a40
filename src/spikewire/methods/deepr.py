"""Deep R: random walks with a wall at zero; who crosses it dies, and another is born."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from spikewire.methods.prune import check_share, check_sparsity
from spikewire.pruner import Method, Pruner
from spikewire.scores import chance
from spikewire.shares import Share, uniform
from spikewire.synapses import Synapses

# A newborn stands just inside its own side of zero.
_BIRTH = 1e-12


@dataclass(frozen=True)
class DeepR(Method):
    """Deep rewiring with a fixed number of synapses per tensor.

    An active synapse with sign s and theta = s w moves by
    ``-lr dE/dtheta - lr l1 + sqrt(2 lr temperature) nu`` with nu ~ N(0, 1); when theta falls below
    0 it becomes dormant and a dormant one, drawn uniformly, is born with a tiny theta and the
    sign of its weight at the start. Bellec et al. 2018 (ICLR, arXiv 1711.05136), Algorithm 1.

    Args:
        sparsity: share of zeros, [0, 1).
        l1: strength of the pull towards zero, >= 0.
        temperature: of the noise, >= 0. The default of 0 explores by chance births alone, as the
            runs that Chen et al. 2021 compare with; there is a random walk only above 0.
        share: how sparsity is spread over tensors; by tensor, so not global.

    Raises:
        ValueError: if one of them is out of its range.

    >>> DeepR(sparsity=0.95, l1=1e-2).share.__name__
    'uniform'
    """

    source: ClassVar[str] = "Bellec et al. 2018, arXiv 1711.05136"
    needs_rate: ClassVar[bool] = True

    sparsity: float = 0.9
    l1: float = 1e-4
    temperature: float = 0.0
    share: Share = uniform

    def __post_init__(self) -> None:
        check_sparsity("sparsity", self.sparsity)
        check_share(self.share)
        if not (self.l1 >= 0.0 and self.temperature >= 0.0):
            raise ValueError(
                f"l1={self.l1}, temperature={self.temperature}: both must be 0 or more"
            )
        if self.share is None:
            raise ValueError(
                "share=global: Deep R keeps a fixed number of synapses in each tensor; use "
                "uniform, erk or by_size"
            )

    def start(self, pruner: Pruner) -> None:
        budget = pruner.budget(self.sparsity, self.share)
        masks = pruner.choose(pruner.scored(chance), budget)
        for s in pruner:
            coin = torch.rand(s.weight.shape, generator=pruner.random).to(s.weight)
            coin = torch.where(coin < 0.5, -1.0, 1.0).to(s.weight)
            s.state["sign"] = torch.where(s.weight == 0, coin, s.weight.sign())
            s.weight.copy_(s.weight.abs() * s.state["sign"])
        pruner.rewire(masks)

    def after_step(self, pruner: Pruner) -> None:
        for s in pruner:
            mask = s.mask
            s.enforce()
            self._push(s, pruner)
            dead = mask & (s.state["sign"] * s.weight <= 0)
            if dead.any():
                self._replace(s, mask, dead, pruner)

    def _push(self, s: Synapses, pruner: Pruner) -> None:
        """L1 and noise, on active synapses only."""
        rate = pruner.lr(s)
        push = s.state["sign"] * (-rate * self.l1)
        if self.temperature:
            noise = torch.randn(s.weight.shape, generator=pruner.random).to(s.weight)
            push += math.sqrt(2.0 * rate * self.temperature) * noise
        s.weight.add_(push)
        s.enforce()

    def _replace(self, s: Synapses, mask: Tensor, dead: Tensor, pruner: Pruner) -> None:
        """The dead become dormant, as many of all the dormant are born."""
        alive = mask & ~dead
        dormant = ~alive if s.possible is None else ~alive & s.possible
        places = dormant.flatten().nonzero().squeeze(1)
        order = torch.randperm(len(places), generator=pruner.random).to(places.device)
        born = torch.zeros_like(alive).flatten()
        born[places[order[: int(dead.sum())]]] = True
        born = born.view(alive.shape)
        pruner.rewire({s.name: alive | born}, restart={s.name: born})
        s.weight.add_(s.state["sign"] * born, alpha=_BIRTH)
