"""Words: numbers as people read them, in tables, pages and on a terminal.

A value that is not known, None, is a dash everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, datetime, time
from typing import Any

NONE, MINUS, TIMES = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"


def percent(value: float | None) -> str:
    """A value in percent.

    >>> percent(97.5), percent(None) == NONE
    ('97.50 %', True)
    """
    return NONE if value is None else f"{value:.2f} %"


def share(value: float | None) -> str:
    """A share of one, in percent.

    >>> share(0.125)
    '12.50 %'
    """
    return percent(None if value is None else 100 * value)


def count(value: float | None) -> str:
    """How many; a mean below 100 keeps a digit.

    >>> count(1200), count(7), count(7.25)
    ('1,200', '7', '7.2')
    """
    if value is None:
        return NONE
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.1f}"


def size(value: float | None) -> str:
    """Bytes, in a unit that leaves few digits.

    >>> size(18_533)
    '18.5 kB'
    """
    return _scaled(value, ("B", "kB", "MB", "GB"))


def energy(value: float | None) -> str:
    """Nanojoules, in a unit that leaves few digits.

    >>> energy(1_088)
    '1.09 µJ'
    """
    return _scaled(value, ("nJ", "µJ", "mJ", "J"))


def duration(value: float | None) -> str:
    """Milliseconds, in a unit that leaves few digits.

    >>> duration(0.2214), duration(1234.5)
    ('0.221 ms', '1.23 s')
    """
    return _scaled(value, ("ms", "s"))


def _scaled(value: float | None, units: Sequence[str]) -> str:
    if value is None:
        return NONE
    rank = 0
    while value >= 1000 and rank < len(units) - 1:
        value, rank = value / 1000, rank + 1
    return f"{value:,.0f} {units[rank]}" if value >= 100 else f"{value:.3g} {units[rank]}"


def signed(value: float, digits: int = 2) -> str:
    """A difference with its sign, which a zero has not.

    >>> signed(0.5), signed(-0.5) == f"{MINUS}0.50", signed(-0.001)
    ('+0.50', True, '±0.00')
    """
    text = f"{value:+.{digits}f}"
    return "±" + text[1:] if float(text) == 0 else text.replace("-", MINUS)


def points(dense: float | None, pruned: float | None) -> str:
    """What became of a percentage.

    >>> points(97, 97.5)
    '+0.50 points'
    """
    return NONE if dense is None or pruned is None else f"{signed(pruned - dense)} points"


def ratio(dense: float | None, pruned: float | None) -> str:
    """What became of a value: divided or multiplied from a factor of two on, in percent below.

    >>> ratio(1000, 100), ratio(100, 110), ratio(1, 1)
    ('÷ 10', '+10.0 %', 'same')
    >>> ratio(1, 3) == f"{TIMES} 3", ratio(1, None) == NONE
    (True, True)
    """
    if dense is None or pruned is None:
        return NONE
    if dense == pruned:
        return "same"
    if not dense or not pruned:
        return NONE
    if dense / pruned >= 2:
        return f"÷ {_short(dense / pruned)}"
    if pruned / dense >= 2:
        return f"{TIMES} {_short(pruned / dense)}"
    return f"{signed(100 * (pruned / dense - 1), 1)} %"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def shown(value: Any) -> str:
    """A setting, as its file would have it but for long fractions.

    >>> shown("rigl"), shown([1, 2]), shown(1 / 3), shown(True)
    ('rigl', '[1, 2]', '0.333333', 'true')
    """
    if value is None:
        return NONE
    if isinstance(value, str | datetime | date | time):
        return str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value, ensure_ascii=False, default=str)
