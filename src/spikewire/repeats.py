"""Repeats: runs of one recipe with several seeds, told as mean ± standard deviation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from spikewire import config, words
from spikewire.facts import firing_rate, read, stored_bytes, twin
from spikewire.plots import mean_and_spread

Quantity = Callable[[Mapping[str, Any]], float | None]  # of a report
REPETITION = ("seed", "out", "twin")  # settings that tell runs of one recipe apart
# How a network is pruned, kept and described: it is nothing to how a dense one is trained.
_IDLE = ("method", "possible", "only", "floor", "keep", "features")


def collect(runs: Iterable[Path | str]) -> list[dict[str, Any]]:
    """Return the reports of several runs and of the dense twins inside them.

    Each report gains "run" (its folder) and "recipe" (its configuration without the seed, so
    that runs of one recipe are repetitions of each other).

    Args:
        runs: run folders; a folder that occurs twice is read once, and of dense runs with the
            same recipe and seed (twins of several runs) the first is taken.

    Raises:
        FileNotFoundError: if a file of a run is missing.
        ValueError: if a file of a run cannot be understood.

    Example:
        >>> collect([])
        []
    """
    found: dict[Any, dict[str, Any]] = {}
    for folder in runs:
        run = read(folder)
        for each in filter(None, (run, twin(run.path))):
            report = {**each.report, "run": str(each.path), "recipe": _recipe(each.config)}
            dense = (_budget(report), report.get("seed"))
            key = dense if report["method"] == "dense" else each.path.resolve()
            found.setdefault(key, report)
    return list(found.values())


def table(runs: Iterable[Path | str]) -> list[dict[str, str]]:
    """Return one row of text per recipe over several runs: mean ± standard deviation over seeds.

    "against dense" is the difference of mean accuracies, in points, to the dense runs whose recipe
    is the same but for the method; or, where a search gave each its own optimizer, but for both.

    Args:
        runs: run folders; their dense twins are included.

    Raises:
        FileNotFoundError: if a file of a run is missing.
        ValueError: if a file of a run cannot be understood.

    Example:
        >>> table([])
        []
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for report in collect(runs):
        setting = (report["method"], report.get("network"), report.get("data"))
        # Dense twins are one group: what their pruned siblings were pruned to is no part of them.
        kind = _budget(report) if report["method"] == "dense" else report["recipe"]
        groups.setdefault((*setting, kind), []).append(report)
    dense = [reports for (method, *_), reports in groups.items() if method == "dense"]
    rows = [_row(reports, dense) for reports in groups.values()]
    return sorted(rows, key=lambda row: [row[name] for name in ("data", "network", "method")])


def _row(
    reports: list[dict[str, Any]], dense: Sequence[Sequence[Mapping[str, Any]]]
) -> dict[str, str]:
    first = reports[0]
    gain = _gain(reports, _twins(first, dense))
    return {
        "method": first["method"],
        "network": first.get("network") or words.NONE,
        "data": first.get("data") or words.NONE,
        "runs": str(len(reports)),
        "sparsity": _over_seeds(reports, lambda run: 100 * run["sparsity"], "{:.2f} %"),
        "accuracy": _over_seeds(reports, _last, "{:.2f} %"),
        "against dense": words.NONE if gain is None else words.signed(gain),
        "SynOps": _over_seeds(reports, lambda run: run.get("synops"), "{:,.0f}"),
        "energy": _over_seeds(reports, lambda run: run.get("energy_nj"), "{:,.1f} nJ"),
        "file": _over_seeds(reports, stored_bytes, "{:,.0f} B"),
        "firing rate": _over_seeds(reports, _percent_rate, "{:.2f} %"),
        "seconds per epoch": _over_seeds(
            reports, lambda run: run.get("seconds_per_epoch"), "{:.1f}"
        ),
    }


def _gain(reports: Sequence[Mapping[str, Any]], twins: Sequence[Mapping[str, Any]]) -> float | None:
    """How much more accurate than the dense twins of the same seeds, or of any if none is."""
    seeds = {run.get("seed") for run in reports} & {run.get("seed") for run in twins}
    if seeds:
        reports = [run for run in reports if run.get("seed") in seeds]
        twins = [run for run in twins if run.get("seed") in seeds]
    mean, base = _mean(reports, _last), _mean(twins, _last)
    return mean - base if mean is not None and base is not None else None


def _values(reports: Sequence[Mapping[str, Any]], of: Quantity) -> list[float]:
    return [value for report in reports if (value := of(report)) is not None]


def _mean(reports: Sequence[Mapping[str, Any]], of: Quantity) -> float | None:
    values = _values(reports, of)
    return mean_and_spread(values)[0] if values else None


def _over_seeds(reports: Sequence[Mapping[str, Any]], of: Quantity, form: str) -> str:
    values = _values(reports, of)
    if not values:
        return words.NONE
    mean, spread = mean_and_spread(values)
    number, *unit = form.split(" ")
    parts = [number.format(mean)]
    if len(values) > 1:
        parts += ["±", number.format(spread)]
    return " ".join([*parts, *unit])


def _last(report: Mapping[str, Any]) -> float | None:
    return report["accuracy"]["last"]


def _percent_rate(report: Mapping[str, Any]) -> float | None:
    rate = firing_rate(report)
    return None if rate is None else 100 * rate


def _recipe(config: Mapping[str, Any]) -> str:
    kept = {name: value for name, value in config.items() if name not in REPETITION}
    return json.dumps(kept, sort_keys=True, default=str, ensure_ascii=False)


def _twins(
    report: Mapping[str, Any], dense: Sequence[Sequence[Mapping[str, Any]]]
) -> Sequence[Mapping[str, Any]]:
    """The group of dense runs that a run is compared with; none if it cannot be told."""
    if report["method"] == "dense":
        return ()
    for searched in ((), ("optimizer",)):
        wanted = _budget(report, searched)
        found = [runs for runs in dense if _budget(runs[0], searched) == wanted]
        if len(found) == 1:
            return found[0]
    return ()


def _budget(report: Mapping[str, Any], but: Iterable[str] = ()) -> str:
    """All of a recipe that a dense network is trained by: a run and its twin have it in common."""
    idle = (*_IDLE, *but)
    told = {key: value for key, value in json.loads(report["recipe"]).items() if key not in idle}
    if weights := told.get("weights"):  # beside the run or not, by whichever name
        told["weights"] = str(config.beside(Path(report["run"]), weights).resolve())
    with suppress(ValueError):  # defaults that an older record does not know
        told = config.recipe({**told, "method": "dense"}).dump()
    return json.dumps(told, sort_keys=True, default=str)
