"""Tables: rows as words, and Markdown of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from spikewire import words
from spikewire.facts import Run


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table.

    >>> print(markdown(["a"], [["1"]]))
    | a |
    | --- |
    | 1 |
    """
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def text(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Rows of `Records.table` as words: the columns that say something, and their cells."""
    columns = {
        "method": [row["method"] for row in rows],
        "data": [row["dataset"] for row in rows],
        "alpha": [_word(row["alpha"], "g") for row in rows],
        "ratio": [_word(row["ratio"], "g") for row in rows],
        "conn. %": [_word(row["connectivity"]) for row in rows],
        "paper conn. %": [_word(row["paper_connectivity"]) for row in rows],
        "FLOPs saved %": [_word(row["operations"]) for row in rows],
        "paper FLOPs saved %": [_word(row["paper_operations"]) for row in rows],
        "validation": [_word(row["validation"]) for row in rows],
        "acc. %": [_word(row["accuracy"]) + _spread(row) for row in rows],
        "SynOps": [_word(row.get("synops"), ",.0f") for row in rows],
        "engine ms": [_word(row.get("milliseconds"), ".3f") for row in rows],
        "difference, 95 %": [signed(row["difference"], row["interval"]) for row in rows],
        "pairs": [_word(_pairs(row), "d") for row in rows],
        "best on test": [_word(row["best_on_test"]) for row in rows],
        "paper acc. %": [_word(row["paper_accuracy"]) for row in rows],
        "epochs": [_word(row["epochs"], "d") for row in rows],
        "paper epochs": [_word(row["paper_epochs"], "d") for row in rows],
        "seeds": [_word(row["seeds"] or None, "d") for row in rows],
    }
    told = {name: cells for name, cells in columns.items() if {*cells} != {words.NONE}}
    return list(told), [list(cells) for cells in zip(*told.values(), strict=True)]


def _word(value: float | None, form: str = ".2f") -> str:
    return words.NONE if value is None else format(value, form)


def _pairs(row: Mapping[str, Any]) -> int | None:
    """How many differences there are, where it is not one for each seed."""
    return None if row["pairs"] in (0, row["seeds"]) else row["pairs"]


def _spread(row: Mapping[str, Any]) -> str:
    spread = row["accuracy_std"]
    return "" if spread is None or row["seeds"] < 2 else f" ± {spread:.2f}"


def signed(difference: float | None, interval: float | None) -> str:
    """A difference and half of its confidence interval, as words.

    >>> signed(0.5, 0.25), signed(0.5, None)
    ('+0.50 ± 0.25', '+0.50')
    """
    if difference is None:
        return words.NONE
    spread = "" if interval is None else f" ± {interval:.2f}"
    return f"{difference:+.2f}{spread}".replace("-", words.MINUS)


def course(run: Run) -> str:
    """Connectivity, pruned and regrown synapses of one run, epoch by epoch, as Markdown."""
    columns = ["epoch", "connectivity %", "pruned", "regrown", "test accuracy %"]
    return markdown(
        columns,
        [
            [
                str(record["epoch"]),
                f"{100 * record['connectivity']:.2f}",
                f"{sum(layer['pruned'] for layer in record['layers']):,}",
                f"{sum(layer['regrown'] for layer in record['layers']):,}",
                _word(record["accuracy"]["test"]),
            ]
            for record in run.records
        ],
    )
