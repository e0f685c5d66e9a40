"""Penalty: push what is to go towards 0 while the network learns to do without it.

One file for two methods, of which the second changes only who is pushed when.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from spikewire.channels import Channels, ChannelScore, filters, strength
from spikewire.methods.prune import reaches
from spikewire.methods.slim import TakeOut
from spikewire.pruner import Pruner
from spikewire.schedules import Linear
from spikewire.shares import Share, uniform


@dataclass(frozen=True)
class GReg1(TakeOut):
    """Growing regularisation: filters chosen once are pushed to 0 ever harder, then taken out.

    ``dL/dw += lambda w`` for the filters of smallest mean ``|w|`` in each layer, with lambda rising
    on a line from 0 at ``begin`` to ``ceiling`` at ``until``. Wang et al. 2021 (arXiv 2012.09243),
    who raise it a ten-thousandth every few steps, however many that takes, and hold it for
    thousands more before they take out; a line that ends there fits any length of training.
    Channels that a normalisation takes from a sum are left alone, so that on residual networks
    fewer ``operations`` can be saved. Fields besides those of `TakeOut`:

    Args:
        begin: progress at which filters are chosen, [0, until); before, the network is trained.
        ceiling: the last lambda, > 0.

    Raises:
        ValueError: if one of them is out of its range.

    >>> GReg1(0.5, begin=0.25, until=0.75).push(0.5)
    0.5
    """

    source: ClassVar[str] = "Wang et al. 2021, arXiv 2012.09243"

    drop: ChannelScore = strength
    share: Share = uniform
    begin: float = 0.25
    ceiling: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.begin < self.until:
            raise ValueError(
                f"begin={self.begin}: give a progress from 0 up to but not including {self.until}, "
                "when channels are out"
            )
        if not self.ceiling > 0.0:
            raise ValueError(f"ceiling={self.ceiling}: give a lambda above 0")

    def push(self, progress: float) -> float:
        """Lambda of the filters that are to go."""
        return Linear(0.0, self.ceiling, self.begin, self.until)(progress)

    def lambdas(self, channels: Channels, progress: float) -> Tensor:
        """Lambda of each filter (C,)."""
        return self.push(progress) * channels.state["doomed"]

    def choice(self) -> float:
        """Progress at which the filters to go are chosen."""
        return self.begin

    def before_step(self, pruner: Pruner) -> None:
        if reaches(pruner, self.choice()):
            chosen = super().chosen(pruner, 1.0)
            for channels in pruner.channels:
                staying = chosen.get(channels.name, channels.mask)
                channels.state["doomed"] = (~staying).to(channels.gain)
        if self.begin <= pruner.progress < self.until:
            self._penalise(pruner)
        super().before_step(pruner)

    def chosen(self, pruner: Pruner, done: float) -> dict[str, Tensor]:
        return {c.name: c.state["doomed"] == 0 for c in pruner.channels}

    def _penalise(self, pruner: Pruner) -> None:
        for channels in pruner.channels:
            weight = None if channels.behind is None else filters(pruner, channels)
            if weight is not None and weight.grad is not None:
                strengths = self.lambdas(channels, pruner.progress)
                weight.grad.addcmul_(weight, strengths.view(-1, *[1] * (weight.ndim - 1)))


@dataclass(frozen=True)
class GReg2(GReg1):
    """Growing regularisation that pushes all filters a little before it chooses among them.

    From ``begin`` on, lambda of all filters rises to ``early``, which sets apart those that the
    loss holds on to. At ``pick`` those of smallest mean ``|w|`` are chosen and pushed on to
    ``ceiling``, while the others get ``-recover``. Wang et al. 2021 (arXiv 2012.09243). Fields
    besides those of `GReg1`:

    Args:
        pick: progress at which filters are chosen, (begin, until).
        early: lambda at that time, in (0, ceiling).
        recover: what the filters that stay are pushed away from 0 with, >= 0.

    Raises:
        ValueError: if one of them is out of its range.

    >>> GReg2(0.5, begin=0.0, pick=0.25, until=0.5).push(0.5)
    1.0
    """

    pick: float = 0.35
    early: float = 1e-2
    recover: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.begin < self.pick < self.until:
            raise ValueError(
                f"pick={self.pick}: give a progress between begin={self.begin} and "
                f"until={self.until}"
            )
        if not 0.0 < self.early < self.ceiling:
            raise ValueError(f"early={self.early}: give a lambda between 0 and {self.ceiling}")
        if not self.recover >= 0.0:
            raise ValueError(f"recover={self.recover}: give 0 or more")

    def push(self, progress: float) -> float:
        if progress < self.pick:
            return Linear(0.0, self.early, self.begin, self.pick)(progress)
        return Linear(self.early, self.ceiling, self.pick, self.until)(progress)

    def lambdas(self, channels: Channels, progress: float) -> Tensor:
        push = torch.full_like(channels.gain, self.push(progress))
        if "doomed" not in channels.state:
            return push
        return torch.where(channels.state["doomed"] > 0, push, -self.recover)

    def choice(self) -> float:
        return self.pick
