"""ADMM: the alternating direction method of multipliers, pruning as a constrained optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from spikewire.activity import check_activity
from spikewire.methods.checks import check_every, check_rise, check_share
from spikewire.methods.prune import cut, reaches, trim
from spikewire.pruner import Method, Pruner
from spikewire.scores import magnitude
from spikewire.shares import Share, uniform
from spikewire.units import Unit


@dataclass(frozen=True)
class ADMM(Method):
    """ADMM: pull weights towards the nearest sparse ones, while these move towards them.

    ``min L(W)`` such that W is sparse, by three steps in turn, with Z sparse, U the sum of what the
    two have differed by, and Pi the projection that keeps the largest ``|.|``:
    ``W`` trains on ``L(W) + rho/2 ||W - Z + U||^2`` for ``every`` steps, ``Z <- Pi(W + U)``,
    ``U <- U + W - Z``. It begins with ``Z = Pi(W)``, ``U = 0``. At ``until`` W becomes Pi(W), and
    trains on with that mask. Deng et al. 2019 (arXiv 1911.00822), whose code is not released:
    their rho and lengths are not known to us, these defaults are ours.

    Args:
        sparsity: share of zeros at the end, [0, 1).
        rho: strength of the pull, > 0, in units of loss over weight squared. To let go of a weight,
            rho times the largest that stays must exceed its gradient.
        activity: lambda, what a network whose neurons all fire all the time pays, in units of the
            loss, >= 0, throughout the training; see `activity.SpikeCost`.
        share: how sparsity is spread over tensors; None for one ranking over the network.
        unit: what is chosen together, see `spikewire.units`; None for synapse by synapse.
        every: steps in which W trains, between two projections, 1 or more.
        begin: progress at which the pull begins, [0, until); before, the network is trained.
        until: progress at which the rest is cut, (begin, 1).

    Raises:
        ValueError: if one of them is out of its range.

    >>> from torch import nn
    >>> net = nn.Linear(4, 1)
    >>> adam = torch.optim.Adam(net.parameters())
    >>> pruner = Pruner(net, ADMM(sparsity=0.75, begin=0.0), adam, steps=100)
    """

    source: ClassVar[str] = "Deng et al. 2019, arXiv 1911.00822"

    sparsity: float = 0.9
    rho: float = 1e-3
    activity: float = 0.0
    share: Share = uniform
    unit: Unit = None
    every: int = 100
    begin: float = 0.1
    until: float = 0.5

    def __post_init__(self) -> None:
        check_rise(0.0, self.sparsity)
        check_activity(self.activity)
        check_share(self.share)
        check_every(self.every)
        if not 0.0 < self.rho < float("inf"):
            raise ValueError(f"rho={self.rho!r}: give the strength of the pull, above 0")
        if not 0.0 <= self.begin < self.until < 1.0:
            raise ValueError(
                f"begin={self.begin!r}, until={self.until!r}: give the progress at which the pull "
                "begins and at which the rest is cut, 0 <= begin < until < 1"
            )

    def event(self, pruner: Pruner) -> bool:
        return reaches(pruner, self.until)

    def before_step(self, pruner: Pruner) -> None:
        if self.event(pruner):
            cut(pruner, self._budget(pruner), magnitude)
            for s in pruner:
                s.state.clear()
        if self.begin <= pruner.progress < self.until:
            self._pull(pruner)

    def finish(self, pruner: Pruner) -> None:
        trim(pruner, self._budget(pruner))

    def _pull(self, pruner: Pruner) -> None:
        if reaches(pruner, self.begin):
            for s in pruner:
                s.state["u"] = torch.zeros_like(s.weight)
            self._project(pruner)
        elif pruner.step % self.every == 0:
            self._project(pruner)
            for s in pruner:
                s.state["u"] += s.weight - s.state["z"]
        for s in pruner:
            if s.weight.grad is not None:
                s.weight.grad.add_(s.weight - s.state["z"] + s.state["u"], alpha=self.rho)

    def _project(self, pruner: Pruner) -> None:
        """Z <- Pi(W + U)."""
        sums = {s.name: s.weight + s.state["u"] for s in pruner}
        sizes = {name: value.abs() for name, value in sums.items()}
        masks = pruner.choose(sizes, self._budget(pruner))
        for s in pruner:
            s.state["z"] = sums[s.name] * masks[s.name]

    def _budget(self, pruner: Pruner) -> int | dict[str, int]:
        return pruner.budget(self.sparsity, self.share)
