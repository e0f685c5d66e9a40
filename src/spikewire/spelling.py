"""Spelling: a wrong word in a configuration is answered with the nearest right one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for an error message, or nothing if no known word is close.

    >>> nearest("cubik", ["cubic", "linear"])
    " (did you mean 'cubic'?)"
    """
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def check(kind: str, name: str, known: Iterable[str], more: str = "") -> None:
    """Refuse a name that is not among those known.

    Args:
        kind: what it names, for the message.
        name: as given.
        known: the right ones.
        more: what else could be given.

    Raises:
        ValueError: naming the nearest right one, and all of them.

    >>> check("schedule", "cubik", ["cubic", "linear"])
    Traceback (most recent call last):
    ...
    ValueError: no schedule 'cubik' (did you mean 'cubic'?): use cubic, linear
    """
    known = list(known)
    if name not in known:
        raise ValueError(f"no {kind} {name!r}{nearest(name, known)}: use {', '.join(known)}{more}")
