"""Prune: remove the weakest connections for good."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from spikewire.pruner import Method, Pruner
from spikewire.schedules import Constant, Cubic, Schedule, at
from spikewire.scores import Score, magnitude, saliency
from spikewire.shares import Share
from spikewire.units import Unit


def check_sparsity(name: str, value: Schedule | float) -> None:
    """Refuse a sparsity that is outside [0, 1) at any time.

    >>> check_sparsity("sparsity", 0.9)
    """
    moments = (0.0, 1.0) if not callable(value) else [i / 100 for i in range(101)]
    for progress in moments:
        if isinstance(value, str) or not 0.0 <= at(value, progress) < 1.0:
            raise ValueError(
                f"{name}={value!r}: give the share of zeros, from 0 up to but not including 1 "
                "(0.9 keeps one synapse in ten)"
            )


def check_rise(initial: float, final: Any) -> None:
    """Refuse a sparsity that does not rise from one number to another, both in [0, 1).

    >>> check_rise(0.5, 0.9)
    """
    if callable(final):
        raise ValueError(
            f"sparsity={final!r}: this method has a schedule of its own: give the final sparsity, "
            "or use Prune or Rewire for another schedule"
        )
    check_sparsity("sparsity", final)
    check_sparsity("initial", initial)
    if initial > final:
        raise ValueError(
            f"initial={initial}: sparsity would fall to {final}: begin no sparser than it ends"
        )


def check_every(every: int) -> None:
    """Refuse what is no whole number of steps between events, 1 or more.

    >>> check_every(100)
    """
    if not isinstance(every, int) or every < 1:
        raise ValueError(f"every={every!r}: give the steps between two events, 1 or more")


def check_score(name: str, score: Any) -> None:
    """Refuse a score that is no function.

    >>> check_score("score", magnitude)
    """
    if not callable(score):
        raise ValueError(f"{name}={score!r}: give a function, such as spikewire.scores.magnitude")


def check_share(share: Any) -> None:
    """Refuse a share that is neither a function nor None.

    >>> check_share(None)
    """
    if share is not None and not callable(share):
        raise ValueError(
            f"share={share!r}: give a function, such as spikewire.shares.erk, or None for one "
            "ranking over the network"
        )


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

    With ``when=0`` it prunes a network that was trained before. Han et al. 2015 (arXiv
    1506.02626), one round.

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
