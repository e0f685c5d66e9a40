"""Prune: remove the weakest connections for good."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from spikewire.pruner import Method, Pruner
from spikewire.schedules import Constant, Cubic, Schedule, Steps, at
from spikewire.scores import Score, magnitude, saliency
from spikewire.shares import Share


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


def check_every(every: int) -> None:
    """Refuse a number of steps between events that is below 1.

    >>> check_every(100)
    """
    if every < 1:
        raise ValueError(f"every={every}: give the steps between two events, 1 or more")


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


@dataclass(frozen=True)
class Prune(Method):
    """Remove the synapses of lowest score, whenever the schedule of sparsity asks for it.

    Args:
        sparsity: share of zeros, [0, 1), a number or a schedule.
        score: what a synapse is worth.
        share: how sparsity is spread over tensors; None for one ranking over the network.
        every: steps between two events.

    >>> Prune(Cubic(0.0, 0.95, begin=0.1, finish=0.7)).plan()(1.0)
    0.95
    """

    sparsity: Schedule | float = 0.9
    score: Score = magnitude
    share: Share = None
    every: int = 100

    def __post_init__(self) -> None:
        check_sparsity("sparsity", self.sparsity)
        check_every(self.every)

    def plan(self) -> Callable[[float], float]:
        """Sparsity as a function of progress."""
        return self.sparsity if callable(self.sparsity) else Constant(self.sparsity)

    def event(self, pruner: Pruner) -> bool:
        return pruner.step % self.every == 0

    def before_step(self, pruner: Pruner) -> None:
        if self.event(pruner):
            cut(pruner, pruner.budget(self.plan()(pruner.progress), self.share), self.score)

    def finish(self, pruner: Pruner) -> None:
        # by magnitude: gradients may be gone once training has ended
        cut(pruner, pruner.budget(self.plan()(1.0), self.share), magnitude)


@dataclass(frozen=True)
class OneShot(Prune):
    """Train densely, remove everything at once when progress reaches ``when``, go on training.

    With ``when=0`` it prunes a network that was trained before. Han et al. 2015 (one round).
    """

    when: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.when < 1.0:
            raise ValueError(f"when={self.when}: give the progress at which to prune, in [0, 1)")

    def event(self, pruner: Pruner) -> bool:
        return reaches(pruner, self.when)

    def plan(self) -> Callable[[float], float]:
        return Steps((0.0, at(self.sparsity, 1.0)), (self.when,))


@dataclass(frozen=True)
class GMP(Prune):
    """Gradual magnitude pruning: sparsity rises on a cubic, fast at first.

    ``s(t) = s_f + (s_i - s_f) (1 - u)^3`` between ``begin`` and ``until``. Zhu and Gupta 2017
    (arXiv 1710.01878), ranked globally as in GraNet (Liu et al. 2021); the original ranks each
    layer by itself: ``share=uniform``.

    Args:
        initial: sparsity at the beginning.
        begin, until: progress at which pruning starts and at which the target is reached.
    """

    initial: float = 0.0
    begin: float = 0.0
    until: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sparsity("initial", self.initial)
        self.plan()

    def plan(self) -> Callable[[float], float]:
        return Cubic(self.initial, at(self.sparsity, 1.0), self.begin, self.until)


@dataclass(frozen=True)
class SNIP(Prune):
    """Prune before training: one cut at the first step, by ``|w dL/dw|`` on its batch.

    Lee et al. 2019 (arXiv 1810.02340). Use a large batch, or accumulate gradients over several.
    """

    score: Score = saliency

    def event(self, pruner: Pruner) -> bool:
        return pruner.step == 0
