"""Checks: what the fields of methods may be, refused with how to mend it.

They stand in one file since a method shares most of its fields with others.
"""

import inspect
import math
import warnings
from typing import Any

from spikewire.schedules import Schedule, at


def check_sparsity(name: str, value: Schedule | float) -> None:
    """Refuse a sparsity that is outside [0, 1) at any time.

    >>> check_sparsity("sparsity", 0.9)
    """
    if not _always(value, 1.0):
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


def check_churn(churn: Schedule | float) -> None:
    """Refuse an exchanged share that is outside [0, 1) at any time.

    >>> check_churn(0.3)
    """
    if not _always(churn, 1.0):
        raise ValueError(
            f"churn={churn!r}: give the share that grow chooses, a number or a schedule in [0, 1)"
        )


def check_not_negative(name: str, value: Schedule | float, what: str) -> None:
    """Refuse a number, or a schedule, that is below 0 at any time; say what it is.

    >>> check_not_negative("tau", 1e-2, "a threshold on |w|")
    """
    if not _always(value, math.inf):
        raise ValueError(f"{name}={value!r}: give {what}, 0 or more, or its schedule")


def check_every(every: int) -> None:
    """Refuse what is no whole number of steps between events, 1 or more.

    >>> check_every(100)
    """
    if not isinstance(every, int) or every < 1:
        raise ValueError(f"every={every!r}: give the steps between two events, 1 or more")


def warn_if_no_event(every: int, until: float, steps: int) -> None:
    """Warn of steps between events that are as many as there are before the last one is due.

    >>> warn_if_no_event(100, until=0.75, steps=1000)
    """
    if every >= until * steps:
        warnings.warn(
            f"every={every} leaves no event before until={until} of {steps} steps: give a smaller "
            "one",
            stacklevel=6,
        )


def check_score(name: str, score: Any) -> None:
    """Refuse a score that is no function of a tensor's synapses and the pruner.

    >>> check_score("score", lambda synapses, pruner: synapses.weight.abs())
    """
    if not _takes(score, 2):
        raise ValueError(
            f"{name}={score!r}: give a function of the synapses and the pruner, such as "
            "spikewire.scores.magnitude"
        )


def check_channel_score(name: str, score: Any) -> None:
    """Refuse a score that is no function of the pruner alone.

    >>> check_channel_score("drop", lambda pruner: {})
    """
    if not _takes(score, 1):
        raise ValueError(
            f"{name}={score!r}: give a function of the pruner that scores channels, such as "
            "spikewire.channels.gain"
        )


def _always(value: Schedule | float, below: float) -> bool:
    """Whether a number, or a schedule in the course of a training, is in [0, below)."""
    moments = [i / 100 for i in range(101)] if callable(value) else [0.0]
    return not isinstance(value, str) and all(0.0 <= at(value, u) < below for u in moments)


def _takes(function: Any, count: int) -> bool:
    """Whether something can be called with so many arguments, as far as it tells."""
    if not callable(function):
        return False
    try:
        signature = inspect.signature(function)
    except ValueError:  # functions that are not written in Python need not tell
        return True
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def check_share(share: Any) -> None:
    """Refuse a share that is neither a function nor None.

    >>> check_share(None)
    """
    if share is not None and not callable(share):
        raise ValueError(
            f"share={share!r}: give a function, such as spikewire.shares.erk, or None for one "
            "ranking over the network"
        )
