"""Schedules: how a value changes with training progress.

A schedule is any function of progress in [0, 1]. Those here are frozen dataclasses: they print,
compare, travel through a configuration file as text (``"cubic(0, 0.9, finish=0.7)"``) and know
nothing of steps or epochs, so a recipe does not depend on batch size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from spikewire import spelling


@dataclass(frozen=True)
class Constant:
    """The same value at all times.

    >>> Constant(0.9)(0.3)
    0.9
    """

    value: float

    def __call__(self, progress: float) -> float:
        return self.value


@dataclass(frozen=True)
class Ramp:
    """From ``first`` to ``last`` while progress goes from ``begin`` to ``finish``; flat outside.

    Args:
        first, last: the values at both ends.
        begin, finish: progress at which the change starts and ends, 0 <= begin < finish <= 1.

    Raises:
        ValueError: if ``begin`` and ``finish`` are not in that order within [0, 1].
    """

    first: float
    last: float = 0.0
    begin: float = 0.0
    finish: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.begin < self.finish <= 1.0:
            raise ValueError(
                f"a schedule needs 0 <= begin < finish <= 1, got begin={self.begin}, "
                f"finish={self.finish}: both are shares of the training, not steps or epochs"
            )

    def __call__(self, progress: float) -> float:
        done = (progress - self.begin) / (self.finish - self.begin)
        remaining = self.remaining(min(max(done, 0.0), 1.0))
        return self.first * remaining + self.last * (1.0 - remaining)  # exact at both ends

    def remaining(self, done: float) -> float:
        """How much of the way from ``first`` to ``last`` is left; falls from 1 to 0."""
        raise TypeError("Ramp has no shape of its own: use Linear, Cubic or Cosine")


@dataclass(frozen=True)
class Linear(Ramp):
    """A straight line: ``last + (first - last) (1 - u)``, with u the completed share.

    >>> Linear(0.0, 0.8)(0.5)
    0.4
    """

    def remaining(self, done: float) -> float:
        return 1.0 - done


@dataclass(frozen=True)
class Cubic(Ramp):
    """Fast at first, gentle at the end: ``last + (first - last) (1 - u)^3``.

    Zhu and Gupta 2017 (arXiv 1710.01878), the schedule of gradual magnitude pruning.

    >>> Cubic(0.0, 0.8)(0.5)
    0.7000000000000001
    """

    def remaining(self, done: float) -> float:
        return (1.0 - done) ** 3


@dataclass(frozen=True)
class Cosine(Ramp):
    """Half a cosine wave: ``last + (first - last) (1 + cos(pi u)) / 2``.

    Falling, it is the annealing of the exchanged share in RigL (Evci et al. 2020); rising from 0
    it is the sine curve ``(1 + sin(pi (u - 1/2))) / 2`` of STDS (Chen et al. 2022).

    >>> round(Cosine(0.3)(0.5), 6)
    0.15
    """

    def remaining(self, done: float) -> float:
        return (1.0 + math.cos(math.pi * done)) / 2.0


@dataclass(frozen=True)
class Steps:
    """Constant between marks: ``values[i]`` once progress has reached ``i`` of the ``marks``.

    Args:
        values: one more than there are marks.
        marks: rising, progress in (0, 1]; ``values[0]`` holds before the first.

    Raises:
        ValueError: if their numbers do not fit or the marks do not rise.

    >>> Steps((1.0, 0.1, 0.01), marks=(0.5, 0.75))(0.6)
    0.1
    """

    values: tuple[float, ...]
    marks: tuple[float, ...]

    def __post_init__(self) -> None:
        rising = all(
            a < b for a, b in zip((0.0, *self.marks), (*self.marks, math.inf), strict=True)
        )
        if len(self.values) != len(self.marks) + 1 or not rising or self.marks[-1:] > (1,):
            raise ValueError(
                "steps needs rising marks, shares of the training in (0, 1], and one value more "
                f"than marks, got values={self.values}, marks={self.marks}: write "
                "steps((1.0, 0.1), marks=(0.5,))"
            )

    def __call__(self, progress: float) -> float:
        return self.values[sum(progress >= mark for mark in self.marks)]


SCHEDULES: dict[str, Callable[..., Callable[[float], float]]] = {
    "constant": Constant,
    "linear": Linear,
    "cubic": Cubic,
    "cosine": Cosine,
    "steps": Steps,
}


def at(value: Schedule | float, progress: float) -> float:
    """The value of a schedule, or of a plain number, at this progress.

    >>> at(0.9, 0.5), at(Linear(0.0, 1.0), 0.5)
    (0.9, 0.5)
    """
    return float(value(progress)) if callable(value) else float(value)


def parse(text: Any) -> Any:
    """Turn ``"cubic(0, 0.9, finish=0.7)"`` into the schedule it names; pass anything else on.

    Raises:
        ValueError: if the name is unknown or the arguments do not fit it.

    >>> parse("cubic(0, 0.9, finish=0.7)")
    Cubic(first=0, last=0.9, begin=0.0, finish=0.7)
    """
    return spelling.parse("schedule", text, SCHEDULES)


def spell(schedule: Any) -> Any:
    """The text that `parse` reads back; numbers and foreign functions stay as they can.

    >>> spell(Cosine(0.3, finish=0.75))
    'cosine(0.3, 0.0, 0.0, 0.75)'
    """
    return spelling.spell(schedule, SCHEDULES)


Schedule = Annotated[
    Callable[[float], float],
    BeforeValidator(parse),
    PlainSerializer(spell, when_used="json"),
]
"""A function of progress in [0, 1]."""
