"""Threshold: cut what is weak, whatever number of synapses that is.

Three methods that differ in where the threshold lies and in what becomes of the survivors. They
need no gradient, so they work in any loop, also one that learns by STDP. Long for that: each says
how it departs from its paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from spikewire.methods.checks import check_every, check_not_negative
from spikewire.pruner import Method, Pruner
from spikewire.schedules import Linear, Schedule, at
from spikewire.synapses import Synapses


@dataclass(frozen=True)
class ByThreshold(Method):
    """Find synapses weaker than a threshold at events; its children say what becomes of them."""

    sparsity_is: ClassVar[str] = "emergent"

    tau: Schedule | float = 1e-2
    every: int = 100
    begin: float = 0.0

    def __post_init__(self) -> None:
        check_not_negative("tau", self.tau, "a threshold on |w|")
        check_every(self.every)
        if not 0.0 <= self.begin < 1.0:
            raise ValueError(
                f"begin={self.begin!r}: give a progress from 0 up to but not including 1"
            )

    def event(self, pruner: Pruner) -> bool:
        return pruner.step > 0 and pruner.step % self.every == 0 and pruner.progress >= self.begin

    def limit(self, synapses: Synapses, pruner: Pruner) -> Tensor | float:
        """What ``|w|`` must reach: a number, or a tensor that can be broadcast to the weight."""
        return at(self.tau, pruner.progress)

    def weak(self, synapses: Synapses, pruner: Pruner) -> Tensor:
        """True where ``|w|`` is below the limit."""
        return synapses.weight.abs() < self.limit(synapses, pruner)


@dataclass(frozen=True)
class Threshold(ByThreshold):
    """Cut synapses that are weaker than a threshold, at intervals, for good; quantise the others.

    ``|w| < tau`` goes. With ``levels``, the survivors of a neuron take the nearest of so many
    values, evenly from its weakest ``|w|`` to its strongest, at each event and in the end. Rathi et
    al. 2019 (arXiv 1710.04734), who train by STDP; without ``levels`` it is what Neftci et al. 2016
    (doi 10.3389/fnins.2016.00241) do. Their thresholds, intervals and levels are not verified here;
    levels are each neuron's own, since one with few synapses may have far stronger ones.

    Args:
        tau: threshold in units of weights, >= 0, or its schedule.
        every: steps between two events, 1 or more.
        begin: progress before which nothing is cut, [0, 1): weights must have learned something.
        levels: values of the quantised weights, 0 for no quantisation or 2 and more.

    Raises:
        ValueError: if one of them is out of its range.

    >>> from torch import nn
    >>> net = nn.Linear(4, 1)
    >>> net.weight.data = torch.tensor([[0.9, -0.2, 0.05, 0.5]])
    >>> pruner = Pruner(net, Threshold(tau=0.1, every=1), steps=2)
    >>> for _ in range(2):  # your own loop would move the weights between the two
    ...     pruner.before_step()
    ...     pruner.after_step()
    >>> pruner.masks["weight"]
    tensor([[ True,  True, False,  True]])
    """

    source: ClassVar[str] = "Rathi et al. 2019, arXiv 1710.04734"

    levels: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.levels, bool) or self.levels < 0 or self.levels == 1:
            raise ValueError(f"levels={self.levels!r}: give 2 values or more, or 0 for any value")

    def before_step(self, pruner: Pruner) -> None:
        if self.event(pruner):
            pruner.rewire({s.name: s.mask & ~self.weak(s, pruner) for s in pruner})
            self.settle(pruner)

    def finish(self, pruner: Pruner) -> None:
        self._quantise(pruner)

    def settle(self, pruner: Pruner) -> None:
        """What becomes of the survivors of an event."""
        self._quantise(pruner)

    def _quantise(self, pruner: Pruner) -> None:
        for s in pruner if self.levels else ():
            strength = s.weight.abs().flatten(1)
            high = strength.amax(1, keepdim=True)
            low = strength.where(strength > 0, high).amin(1, keepdim=True)
            step = ((high - low) / (self.levels - 1)).clamp(min=torch.finfo(high.dtype).tiny)
            above = (strength - low).clamp(min=0.0)  # pruned ones lie below, by any number of steps
            nearest = low + (above / step).round() * step
            s.weight.copy_(s.weight.sign() * nearest.view_as(s.weight))


@dataclass(frozen=True)
class AdaptiveThreshold(Threshold):
    """Cut synapses by a threshold of each neuron's own, which rises while it learns.

    ``|w| < tau m`` goes, with m the mean ``|w|`` of the synapses that the neuron still has: neurons
    with weak synapses keep as large a share of them as others, and none fails. Guo et al. 2020 (doi
    10.3389/fnins.2020.598876), whose thresholds adapt over time and neurons to that end, from
    firing activity; their formula is not verified here, and this one only sees weights. Fields
    besides those of `Threshold`:

    Args:
        tau: threshold in units of m, >= 0, or its schedule; from 1 on there is no end to it, since
            m rises with each cut.

    >>> AdaptiveThreshold().tau(0.5)
    0.35
    """

    source: ClassVar[str] = "Guo et al. 2020, doi 10.3389/fnins.2020.598876"

    tau: Schedule | float = Linear(0.0, 0.7)

    def limit(self, synapses: Synapses, pruner: Pruner) -> Tensor | float:
        strength = synapses.weight.abs().flatten(1)
        mean = strength.sum(1) / strength.count_nonzero(1).clamp(min=1)
        return at(self.tau, pruner.progress) * mean.view(-1, *[1] * (synapses.weight.ndim - 1))


@dataclass(frozen=True)
class Progressive(Threshold):
    """Cut by a threshold that rises event by event, and reinforce what it spares.

    ``|w| < tau`` goes, and ``|w| <- |w| + boost tau`` for the others, as much for the weak as for
    the strong: what has just passed the threshold is lifted above the next. Elbez et al. 2020
    (Progressive Pruning and Dynamic Synaptic Weight Reinforcement, published as doi
    10.1002/cpe.6891); their formulas are not verified here. Fields besides those of `Threshold`:

    Args:
        tau: as there; by default it rises on a line.
        boost: reinforcement at an event in units of the threshold, >= 0.

    Raises:
        ValueError: if one of them is out of its range.
    """

    source: ClassVar[str] = "Elbez et al. 2020, doi 10.1002/cpe.6891"

    tau: Schedule | float = Linear(0.0, 2e-2)
    boost: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.boost >= 0.0:
            raise ValueError(f"boost={self.boost!r}: give 0 or more, in units of the threshold")

    def settle(self, pruner: Pruner) -> None:
        lift = self.boost * at(self.tau, pruner.progress)
        for s in pruner:
            s.weight.add_(s.weight.sign(), alpha=lift)
        super().settle(pruner)
