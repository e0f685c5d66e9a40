"""Prune: remove the weakest connections for good.

The methods of this family differ only in when they cut and by which score, so they share one file.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from spikewire.methods.checks import (
    check_every,
    check_rise,
    check_score,
    check_share,
    check_sparsity,
)
from spikewire.pruner import Method, Pruner
from spikewire.schedules import Constant, Cubic, Schedule
from spikewire.scores import Score, magnitude, saliency
from spikewire.shares import Share
from spikewire.units import Unit


def reaches(pruner: Pruner, moment: float) -> bool:
    """Whether the coming step is the first whose progress is ``moment`` or more."""
    return (pruner.step - 1) / pruner.steps < moment <= pruner.step / pruner.steps


def cut(pruner: Pruner, budget: int | dict[str, int], score: Score) -> None:
    """Leave no more synapses than the budget, those of highest score; nothing is revived."""
    alive = {s.name: s.alive for s in pruner}
    if isinstance(budget, dict):
        # a share that falls between events would otherwise bring dead synapses back
        budget = {name: min(count, alive[name]) for name, count in budget.items()}
    left = sum(budget.values()) if isinstance(budget, dict) else budget
    if left < sum(alive.values()):
        pruner.rewire(pruner.choose(pruner.scored(score, pruner.masks), budget))


def trim(pruner: Pruner, budget: int | dict[str, int]) -> None:
    """After training, cut what the last event left over, by magnitude; said aloud if it is much."""
    before = sum(s.alive for s in pruner)
    cut(pruner, budget, magnitude)
    gone = before - sum(s.alive for s in pruner)
    if gone > before // 100:
        warnings.warn(
            f"finish() cut {gone} of {before} synapses, with no training after it: let "
            "the schedule end, and an event come after that (every=...), before training does",
            stacklevel=5,
        )


@dataclass(frozen=True)
class Cut(Method):
    """Remove the synapses of lowest score at events; its children say when these are.

    At the end what the last event left over goes by magnitude: gradients may be gone by then.
    """

    sparsity: Schedule | float = 0.9
    score: Score = magnitude
    share: Share = None
    unit: Unit = None

    def __post_init__(self) -> None:
        check_sparsity("sparsity", self.sparsity)
        check_score("score", self.score)
        check_share(self.share)

    def plan(self) -> Callable[[float], float]:
        """Sparsity as a function of progress."""
        return self.sparsity if callable(self.sparsity) else Constant(self.sparsity)

    def before_step(self, pruner: Pruner) -> None:
        if self.event(pruner):
            cut(pruner, pruner.budget(self.plan()(pruner.progress), self.share), self.score)

    def finish(self, pruner: Pruner) -> None:
        trim(pruner, pruner.budget(self.plan()(1.0), self.share))


@dataclass(frozen=True)
class Prune(Cut):
    """Remove the synapses of lowest score, whenever the schedule of sparsity asks for it.

    At an event ``m <- m [score >= tau]``, with tau such that ``(1 - s_t) n`` of n synapses stay.

    Args:
        sparsity: share of zeros, [0, 1), a number or a schedule.
        score: what a synapse is worth.
        share: how sparsity is spread over tensors; None for one ranking over the network.
        unit: what is cut together, see `spikewire.units`; None for synapse by synapse. Up to a unit
            may be missing to the budget.
        every: steps between two events, 1 or more.

    Raises:
        ValueError: if one of them is out of its range.

    >>> Prune(Cubic(0.0, 0.95, begin=0.1, finish=0.7)).plan()(1.0)
    0.95
    """

    every: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        check_every(self.every)

    def event(self, pruner: Pruner) -> bool:
        return pruner.step % self.every == 0


@dataclass(frozen=True)
class OneShot(Cut):
    """Train densely, remove everything at once when progress reaches ``when``, go on training.

    ``m = [score >= tau]``, with tau such that ``(1 - s) n`` of n synapses stay. With ``when=0`` it
    prunes a network that was trained before. Han et al. 2015 (arXiv 1506.02626), one round.

    Args:
        sparsity, score, share, unit: as of `Prune`.
        when: progress at which to prune, [0, 1).

    Raises:
        ValueError: if one of them is out of its range.

    >>> plan = OneShot(0.9, when=0.5).plan()
    >>> plan(0.49), plan(0.5)
    (0.0, 0.9)
    """

    source: ClassVar[str] = "Han et al. 2015, arXiv 1506.02626"

    sparsity: float = 0.9
    when: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rise(0.0, self.sparsity)
        if not 0.0 <= self.when < 1.0:
            raise ValueError(f"when={self.when}: give the progress at which to prune, in [0, 1)")

    def event(self, pruner: Pruner) -> bool:
        return reaches(pruner, self.when)

    def plan(self) -> Callable[[float], float]:
        return lambda progress: self.sparsity if progress >= self.when else 0.0


@dataclass(frozen=True)
class GMP(Prune):
    """Gradual magnitude pruning: sparsity rises on a cubic, fast at first.

    ``s(t) = s_f + (s_i - s_f) (1 - u)^3`` between ``begin`` and ``until``. Zhu and Gupta 2017
    (arXiv 1710.01878), ranked globally as in GraNet (Liu et al. 2021); the original ranks each
    layer by itself: ``share=uniform``.

    Args:
        sparsity, score, share, unit, every: as of `Prune`; sparsity is the final one.
        initial: sparsity at the beginning, [0, 1).
        begin, until: progress at which pruning starts and at which the target is reached.

    Raises:
        ValueError: if one of them is out of its range.

    >>> GMP(0.9, until=0.7).plan()(0.7)
    0.9
    """

    source: ClassVar[str] = "Zhu & Gupta 2017, arXiv 1710.01878"

    sparsity: float = 0.9
    initial: float = 0.0
    begin: float = 0.0
    until: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rise(self.initial, self.sparsity)
        self.plan()

    def plan(self) -> Callable[[float], float]:
        return Cubic(self.initial, self.sparsity, self.begin, self.until)

    def event(self, pruner: Pruner) -> bool:
        # the last cut is due when the final sparsity is, whatever ``every`` says
        return super().event(pruner) or reaches(pruner, self.until)


@dataclass(frozen=True)
class SNIP(Cut):
    """Prune before training: one cut at the first step, by ``|w dL/dw|`` on its batch.

    Lee et al. 2019 (arXiv 1810.02340). Use a large batch, or accumulate gradients over several.

    Args:
        sparsity, score, share, unit: as of `Prune`.

    Raises:
        ValueError: if the sparsity is out of its range.

    >>> SNIP(0.9).score.__name__
    'saliency'
    """

    source: ClassVar[str] = "Lee et al. 2019, arXiv 1810.02340"

    score: Score = saliency

    def event(self, pruner: Pruner) -> bool:
        return pruner.step == 0
