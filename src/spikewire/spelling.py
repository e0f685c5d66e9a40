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
