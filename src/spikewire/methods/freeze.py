"""Freeze: what is weak stops learning, which need not mean that it is gone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from spikewire.methods.threshold import ByThreshold
from spikewire.pruner import Pruner


@dataclass(frozen=True)
class Freeze(ByThreshold):
    """Soft pruning: synapses weaker than a threshold are held at a value and learn no more.

    ``|w| < tau`` becomes ``sign(w) value`` (``value`` where w is 0), at intervals, for good. With a
    value above 0 nothing is pruned: the network is as dense as before, and what is saved are
    updates, while it trains. With ``value=0`` it is the conventional pruning that Shi et al. 2019
    (doi 10.3389/fnins.2019.00405) compare theirs with. They choose the time by how the neurons
    fire, here it is at intervals; their value and thresholds are not verified here.

    Args:
        tau: threshold in units of weights, >= 0, or its schedule.
        every: steps between two events, 1 or more.
        begin: progress before which nothing is frozen, [0, 1): weights must have learned something.
        value: ``|w|`` of a frozen synapse, >= 0.

    Raises:
        ValueError: if one of them is out of its range.

    >>> from torch import nn
    >>> net = nn.Linear(3, 1)
    >>> net.weight.data = torch.tensor([[0.9, -0.2, 0.05]])
    >>> pruner = Pruner(net, Freeze(tau=0.3, value=0.1, every=1), steps=2)
    >>> for _ in range(2):  # your own loop would move the weights between the two
    ...     pruner.before_step()
    ...     pruner.after_step()
    >>> net.weight.data
    tensor([[ 0.9000, -0.1000,  0.1000]])
    """

    source: ClassVar[str] = "Shi et al. 2019, doi 10.3389/fnins.2019.00405"

    value: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.value >= 0.0:
            raise ValueError(f"value={self.value!r}: give |w| of a frozen synapse, 0 or more")

    def start(self, pruner: Pruner) -> None:
        for s in pruner:
            s.state["frozen"] = torch.zeros_like(s.weight, dtype=torch.bool)
            s.state["held"] = torch.zeros_like(s.weight)

    def before_step(self, pruner: Pruner) -> None:
        for s in pruner if self.event(pruner) else ():
            frozen = s.state["frozen"]
            weak = self.weak(s, pruner) & ~frozen
            value = torch.full_like(s.weight, self.value).copysign_(s.weight)
            s.state["held"] = torch.where(weak, value, s.state["held"])
            s.state["frozen"] = frozen | weak

    def after_step(self, pruner: Pruner) -> None:
        for s in pruner:
            torch.where(s.state["frozen"], s.state["held"], s.weight, out=s.weight)
