"""Spelling: objects as words of a configuration, and the nearest right word for a wrong one."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any


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


def parse(
    kind: str, text: Any, known: Mapping[str, Any], within: Mapping[str, Any] | None = None
) -> Any:
    """Turn ``"cubic(0, 0.9, finish=0.7)"`` into the object it names; pass anything else on.

    A name alone stands for what is known by it, a class for an object of it with its defaults.
    Values are literals, or again of this form.

    Args:
        kind: what it names, for messages.
        text: as given.
        known: classes, functions and objects by name.
        within: what may stand among their values besides.

    Raises:
        ValueError: if the name is unknown or the values do not fit it.

    >>> parse("number", "fraction('0.5')", {"fraction": float}), parse("number", 3, {})
    (0.5, 3)
    """
    if not isinstance(text, str):
        return text
    word = text.strip()
    if word.isidentifier():  # maybe one that Python keeps for itself, such as global
        return _named(kind, word, known)
    try:
        tree = ast.parse(word, mode="eval").body
        if not isinstance(tree, ast.Call):
            raise ValueError("not of the form name(value, ...)")
        return _built(kind, tree, known, {**known, **(within or {})})
    except (SyntaxError, TypeError, ValueError) as error:
        raise ValueError(
            f"{text!r} is no {kind}: use {', '.join(known)}, with values where it takes any, like "
            f"name(value, name=value) ({error})"
        ) from None


def _named(kind: str, name: str, known: Mapping[str, Any]) -> Any:
    check(kind, name, known)
    found = known[name]
    try:
        return found() if isinstance(found, type) else found
    except TypeError as error:
        raise ValueError(f"{kind} {name!r} takes values, like name(value, ...) ({error})") from None


def _built(kind: str, tree: ast.expr, known: Mapping[str, Any], within: Mapping[str, Any]) -> Any:
    if isinstance(tree, ast.Name):
        return _named(kind, tree.id, known)
    if not (isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name)):
        return ast.literal_eval(tree)
    name = tree.func.id
    check(kind, name, known)
    if not isinstance(known[name], type):
        raise ValueError(f"{name} takes no values")
    values = [_built(kind, value, within, within) for value in tree.args]
    named = {str(one.arg): _built(kind, one.value, within, within) for one in tree.keywords}
    return known[name](*values, **named)


def spell(value: Any, known: Mapping[str, Any]) -> Any:
    """The text that `parse` reads back; what is not known stays as it can.

    >>> spell(abs, {"magnitude": abs}), spell(0.5, {})
    ('magnitude', 0.5)
    """
    for name, found in known.items():
        if value is found:
            return name
        if isinstance(found, type) and type(value) is found:
            values = [getattr(value, field.name) for field in fields(value)]
            if values == [field.default for field in fields(value)]:
                return name
            return f"{name}({', '.join(_within(one, known) for one in values)})"
    return repr(value) if callable(value) else value


def _within(value: Any, known: Mapping[str, Any]) -> str:
    text = spell(value, known)
    return repr(value) if text is value else text
