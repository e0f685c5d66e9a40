"""Leaderboard: methods of one or more sweeps side by side, as a page, Markdown, JSON and CSV.

::

    LEADERBOARD/index.html         a section for each sweep, its rows by sparsity; needs no network
    LEADERBOARD/README.md          the same rows as tables
    LEADERBOARD/leaderboard.json   the same numbers, complete
    LEADERBOARD/leaderboard.csv    a line for each row

All of it is made of the records alone, so the same command writes it again. A row is the runs that
differ in their seed only. Rows of the same length of training compete in the level of the highest
sparsity asked of an exact method that they reached, whatever they were asked for. So a method whose
sparsity emerges has at most as many synapses as its level allows, and may have fewer. All else but
the method and its optimizer must be equal.

In a level the row with the highest mean accuracy is compared with each other one, seed by seed: the
mean of the differences and its 95 % confidence interval by Student's t, not corrected for the
number of comparisons. Where the interval holds 0, or fewer than three seeds are common, the row
stands in the noise of the highest, which is ahead only if no row does.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from markupsafe import Markup, escape

from spikewire import facts, formats, report, sweep, words
from spikewire.facts import Run, firing_rate, milliseconds, stored_bytes
from spikewire.methods import METHODS
from spikewire.plots import mean_and_spread
from spikewire.records import Records, above, by_seed, mean_and_interval
from spikewire.study import Grid, Study
from spikewire.tables import markdown, signed

NAME = "leaderboard"
# From two seeds an interval says little: equal differences, by chance, would leave none.
_SEEDS = 3
# What competes differs in nothing else that a recipe says of the training.
_EQUAL = ("network", "data", "batch", "loss", "precision", "weights", "possible", "only", "floor")
_ROUNDING = 1e-9  # of a sparsity, far below a synapse


class Quantity(NamedTuple):
    """A number of every run, and how it is shown."""

    label: str
    of: Callable[[Run], float | None]
    form: str
    note: str


def _seconds(run: Run) -> float | None:
    times = [record["seconds"] for record in run.records if "seconds" in record]
    return sum(times) if times else None


def _rate(run: Run) -> float | None:
    rate = firing_rate(run.report)
    return None if rate is None else 100 * rate


QUANTITIES = {
    "accuracy": Quantity(
        "accuracy %", lambda run: run.report["accuracy"]["last"], ".2f",
        "on test images, after the last epoch"),
    "validated": Quantity(
        "validated %", lambda run: run.report["accuracy"].get("validation_best"), ".2f",
        "on test images, after the epoch that was best on validation images among those about as "
        "sparse as the last; only runs that keep validation images have it"),
    "connectivity": Quantity(
        "conn. %", lambda run: 100 * (1 - run.report["sparsity"]), ".2f",
        "share of the synapses that are left: weights of the trained network that are not 0; what "
        "came back and never moved is not counted"),
    "synops": Quantity(
        "SynOps", lambda run: run.report.get("synops"), ",.0f",
        "accumulates a test sample causes: spikes times the synapses that they meet"),
    "firing_rate": Quantity("firing %", _rate, ".1f", "spikes per neuron and time step"),
    "seconds": Quantity(
        "training s", _seconds, ",.0f",
        "of all epochs, without evaluation; the machine may have had other work"),
    "kilobytes": Quantity(
        "file kB", lambda run: _scaled(stored_bytes(run.report), 1e-3), ",.0f",
        "of the network: its surviving weights, or all of a dense one"),
    "milliseconds": Quantity(
        "engine ms", lambda run: milliseconds(run.report), ".3f",
        "a sample takes in the sparse engine, one at a time; the machine may have had other work"),
}  # fmt: skip
"""What is told of every row, by name."""


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value


class Spread(NamedTuple):
    """Mean and sample standard deviation over so many runs."""

    mean: float
    std: float
    runs: int


Standing = Literal["ahead", "highest", "noise", "behind", ""]


@dataclass(frozen=True)
class Row:
    """The runs that differ in their seed alone.

    Args:
        name: of the grid, or of the single run.
        settings: what else the grid varies, by key.
        runs: those that are finished.
        standing: in its level: "ahead" of all others, "highest" but not ahead, in the "noise" of
            the highest, or "behind"; empty if nothing can be said.
        pairs: seeds that it has in common with the highest.
        difference, interval: of accuracies to the highest, in points, seed by seed: the mean, and
            half of its 95 % confidence interval.
    """

    name: str
    settings: Mapping[str, Any]
    runs: Sequence[Run]
    standing: Standing = ""
    pairs: int = 0
    difference: float | None = None
    interval: float | None = None

    @property
    def method(self) -> str:
        """Under its command-line name."""
        return self.runs[0].report["method"]

    @property
    def epochs(self) -> int:
        """How long its runs trained."""
        return max(run.report.get("epochs") or len(run.records) for run in self.runs)

    def spread(self, quantity: str) -> Spread | None:
        """A quantity over the runs that have it; None if none has."""
        values = [QUANTITIES[quantity].of(run) for run in self.runs]
        known = [value for value in values if value is not None]
        return Spread(*mean_and_spread(known), len(known)) if known else None


@dataclass(frozen=True)
class Level:
    """Rows that compete.

    Args:
        sparsity: that they reached, of those asked for; None if they reached none, and are there
            for comparison only.
        epochs: how long they trained.
        rows: in falling accuracy.
    """

    sparsity: float | None
    epochs: int
    rows: Sequence[Row]


@dataclass(frozen=True)
class Track:
    """A sweep as a section of the leaderboard.

    Args:
        place: its folder.
        study: what it asked.
        levels: of the finished runs, the sparsest last.
        tried: what each grid's search came to, by grid.
        missing: runs that are not finished.
    """

    place: Path
    study: Study
    levels: Sequence[Level]
    tried: Mapping[str, Mapping[str, Any]]
    missing: Sequence[str]


def read(place: Path) -> Track:
    """The track that the records of a sweep make.

    Raises:
        FileNotFoundError: if the folder holds no sweep.
        ValueError: if a file cannot be understood, no run is finished, or runs differ in more than
            their method, optimizer, epochs and seed.
    """
    asked = sweep.read(place)
    records = sweep.settled(asked)
    ready = records.study.all_runs
    missing = set(records.missing(ready))
    if len(missing) == len(ready):
        raise ValueError(f"no run of {place} is finished: spikewire sweep goes on with it")
    rows = _rows(records, missing)
    _refuse_unequal([run for row in rows for run in row.runs])
    found = {grid.name: sweep.tried(asked, grid.name) for grid in asked.study.grids}
    return Track(
        place,
        asked.study,
        ranked(rows),
        {grid: told for grid, told in found.items() if told is not None},
        [run for run in asked.study.all_runs if run in missing or run not in ready],
    )


def _rows(records: Records, missing: set[str]) -> list[Row]:
    study = records.study
    groups = [(name, {}, [name]) for name in study.runs]
    groups += [group for grid in study.grids for group in _groups(grid)]
    found = []
    for name, settings, names in groups:
        runs = [facts.read(records.path(run)) for run in names if run not in missing]
        found += [Row(name, settings, runs)] if runs else []
    return found


def _groups(grid: Grid) -> list[tuple[str, dict[str, Any], list[str]]]:
    """The runs of a grid that differ in their seed alone: its name, other values, their names."""
    groups: dict[str, tuple[str, dict[str, Any], list[str]]] = {}
    for values, run in zip(product(*grid.vary.values()), grid.runs(), strict=True):
        chosen = dict(zip(grid.vary, values, strict=True))
        chosen.pop("seed", None)
        groups.setdefault(repr(chosen), (grid.name, chosen, []))[2].append(run)
    return list(groups.values())


def _refuse_unequal(runs: Sequence[Run]) -> None:
    """Refuse runs that differ in what all who compete must have in common."""
    first, *others = runs
    for run in others:
        for key in _EQUAL:
            one, other = _told(first, key), _told(run, key)
            if one != other:
                raise ValueError(
                    f"{run.path} cannot compete with {first.path}: {key} is {other}, not {one}; "
                    "give each a sweep of its own"
                )


def _told(run: Run, key: str) -> Any:
    """A setting, without what decides no number; older records lack some that are empty."""
    value = run.config.get(key) or ""
    return {k: v for k, v in value.items() if k != "download"} if isinstance(value, dict) else value


def ranked(rows: Iterable[Row]) -> list[Level]:
    """The rows level by level, each compared with the highest of its level.

    Rows that reach no level come first, and are compared with none.
    """
    rows = sorted(rows, key=lambda row: -_accuracy(row))
    asked = sorted({level for row in rows for run in row.runs if (level := _asked(run))})
    contests: dict[tuple[float, int], list[Row]] = {}
    for row in rows:
        contests.setdefault((_reached(row, asked), row.epochs), []).append(row)
    return [
        Level(level or None, epochs, _compared(contest) if level else contest)
        for (level, epochs), contest in sorted(contests.items(), key=lambda item: item[0])
    ]


def _asked(run: Run) -> float | None:
    """The sparsity that was asked of a run, if its method keeps to it."""
    method = METHODS.get(run.report["method"])
    if method is None or method.sparsity_is != "exact, of synapses":
        return None
    asked = (run.config.get("method") or {}).get("sparsity")
    return asked if isinstance(asked, float) else None  # a schedule is told by what it leaves


def _reached(row: Row, asked: Iterable[float]) -> float:
    """The highest sparsity asked of anyone that a row has; 0 for none."""
    sparsity = mean_and_spread([run.report["sparsity"] for run in row.runs])[0]
    return max((level for level in asked if sparsity >= level - _ROUNDING), default=0.0)


def _accuracy(row: Row) -> float:
    return mean_and_spread([run.report["accuracy"]["last"] for run in row.runs])[0]


def _compared(contest: Sequence[Row]) -> list[Row]:
    """The highest and the others, each with its difference to it."""
    highest, *others = contest
    judged = [_judged(row, highest) for row in others]
    ahead = bool(judged) and all(row.standing == "behind" for row in judged)
    return [replace(highest, standing="ahead" if ahead else "highest"), *judged]


def _judged(row: Row, highest: Row) -> Row:
    ours, theirs = by_seed(row.runs), by_seed(highest.runs)
    pairs = len(ours.keys() & theirs.keys())
    difference, interval = mean_and_interval(above(ours, theirs))
    standing: Standing = "noise"
    if pairs >= _SEEDS and difference is not None and interval is not None:
        standing = "behind" if difference + interval < 0 else "noise"
    return replace(row, standing=standing, pairs=pairs, difference=difference, interval=interval)


def write(places: Sequence[Path], out: Path) -> list[Path]:
    """Write the page and its data.

    Args:
        places: folders of sweeps, in the order of the sections.
        out: folder to write to.

    Returns:
        The files written.

    Raises:
        FileNotFoundError: if a folder holds no sweep.
        ValueError: if a sweep's files cannot be understood, or none of its runs is finished.
    """
    tracks = [read(place) for place in places]
    names = ("index.html", "README.md", f"{NAME}.json", f"{NAME}.csv")
    page, readme, data, table = (out / name for name in names)
    formats.write(page, _page(tracks, out).encode())
    formats.write(readme, _readme(tracks, out).encode())
    formats.write_json(data, [_plain(track, out) for track in tracks])
    formats.write(table, _csv(tracks).encode())
    return [page, readme, data, table]


def _link(file: Path, out: Path) -> str:
    """The address of a file, seen from the page."""
    return quote(Path(os.path.relpath(file, out)).as_posix())


def _plain(track: Track, out: Path) -> dict[str, Any]:
    return {
        "title": track.study.title,
        "note": track.study.note.strip(),
        "folder": _link(track.place, out),
        "missing": list(track.missing),
        "search": track.tried,
        "rows": [_plain_row(row, level, out) for level in track.levels for row in level.rows],
    }


def _plain_row(row: Row, level: Level, out: Path) -> dict[str, Any]:
    spreads = {name: row.spread(name) for name in QUANTITIES}
    return {
        "name": row.name,
        "method": row.method,
        "settings": dict(row.settings),
        "level": level.sparsity,
        "epochs": level.epochs,
        "standing": row.standing,
        "pairs": row.pairs,
        "difference": row.difference,
        "interval": row.interval,
        **{name: spread and spread._asdict() for name, spread in spreads.items()},
        "runs": [
            {
                "seed": run.report.get("seed"),
                "accuracy": run.report["accuracy"]["last"],
                "recipe": _link(run.path / "run.toml", out),
                "record": _link(run.path / "report.json", out),
            }
            for run in row.runs
        ],
    }


def _csv(tracks: Sequence[Track]) -> str:
    numbers = [f"{name}_{part}" for name in QUANTITIES for part in ("mean", "std")]
    head = ["track", "name", "method", "settings", "level", "epochs", "seeds", *numbers]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*head, "standing", "pairs", "difference", "interval"])
    for track, level, row in _all_rows(tracks):
        spreads = [row.spread(name) for name in QUANTITIES]
        cells = [cell for spread in spreads for cell in (spread or (None, None))[:2]]
        told = [track.study.title, row.name, row.method, _settings(row), level.sparsity]
        after = [row.standing, row.pairs, row.difference, row.interval]
        writer.writerow([*told, level.epochs, len(row.runs), *cells, *after])
    return text.getvalue()


def _all_rows(tracks: Iterable[Track]) -> Iterator[tuple[Track, Level, Row]]:
    for track in tracks:
        for level in track.levels:
            for row in level.rows:
                yield track, level, row


def _settings(row: Row) -> str:
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in row.settings.items())


def _page(tracks: Sequence[Track], out: Path) -> str:
    script = (resources.files("spikewire") / "templates" / "sort.js").read_text(encoding="utf-8")
    digest = hashlib.sha256(script.encode()).digest()
    return report.template(f"{NAME}.html.j2").render(
        title="Leaderboard",
        script=script,
        script_hash=base64.b64encode(digest).decode(),
        quantities=QUANTITIES,
        tracks=[_section(track, out) for track in tracks],
        name=NAME,
    )


def _readme(tracks: Sequence[Track], out: Path) -> str:
    parts = [
        "# Leaderboard",
        "Mean ± standard deviation over seeds. *To the highest*: the difference to the highest "
        "accuracy of the level, seed by seed, with its 95 % confidence interval (Student's t, not "
        "corrected for the number of comparisons; it covers seeds, not the choice of test images); "
        "in the noise if that holds 0 or fewer than three seeds are common. Only accuracies are "
        "compared so. A row competes in the level of the highest sparsity that it reached, and may "
        "be sparser. *Validated*: test accuracy at the epoch that is best on validation images. "
        "SynOps are the spikes that meet a synapse, the first layer's multiplications not among "
        "them; the machine may have had other work while times were taken. The same as a "
        f"[page](index.html) that sorts, as [JSON]({NAME}.json) and as [CSV]({NAME}.csv).",
    ]
    for track in tracks:
        section = _section(track, out)
        parts += [f"## {section['title']}", track.study.note.strip()]
        numbers = [QUANTITIES[name].label for name in section["columns"]]
        columns = ["method", "varied", numbers[0], "to the highest", *numbers[1:]]
        for level in section["levels"]:
            lines = [_line(row) for row in level["rows"]]
            parts += [f"**{level['title']}**: {level['verdict']}", markdown(columns, lines)]
    return "\n\n".join(parts) + "\n"


def _line(row: Mapping[str, Any]) -> list[str]:
    accuracy, *others = (number["text"] for number in row["numbers"])
    mark = f" ({row['mark']})" if row["mark"] else ""
    name = f"[{row['name']}]({row['recipe']}){mark}"
    return [name, row["settings"], accuracy, row["difference"], *others]


def _section(track: Track, out: Path) -> dict[str, Any]:
    rows = [row for level in track.levels for row in level.rows]
    told = {name for name in QUANTITIES for row in rows if row.spread(name) is not None}
    budgets = {level.epochs for level in track.levels}
    return {
        "title": track.study.title,
        "note": _marked_up(track.study.note.strip()),
        "missing": len(track.missing),
        "columns": [name for name in QUANTITIES if name in told],
        "levels": [
            {
                "title": _title(level) + (f", {level.epochs} epochs" if len(budgets) > 1 else ""),
                "verdict": _verdict(level.rows, whole=not track.missing),
                "rows": [_cells(row, out, told) for row in level.rows],
            }
            for level in track.levels
        ],
        "search": [
            _found(grid, found, _link(track.place / sweep.TRIALS / f"{grid}.json", out))
            for grid, found in track.tried.items()
        ],
    }


def _found(grid: str, found: Mapping[str, Any], record: str) -> dict[str, Any]:
    """What the search of a grid came to, for the page."""
    (best,) = [trial for trial in found["trials"] if trial["settings"] == found["chosen"]]
    sparsity = best.get("sparsity")
    return {
        "grid": grid,
        "chosen": " ".join(found["chosen"]),
        "validation": f"{best['validation']:.2f}",
        "connectivity": words.NONE if sparsity is None else f"{100 * (1 - sparsity):.2f}",
        "trials": len(found["trials"]),
        "record": record,
    }


def _marked_up(note: str) -> Markup:
    """A study's note, which is Markdown of one paragraph, as HTML.

    >>> print(_marked_up("*Short*: `T` < 9"))
    <em>Short</em>: <code>T</code> &lt; 9
    """
    emphasized = re.sub(r"\*([^*]+)\*", r"<em>\1</em>", str(escape(note)))
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", emphasized))


def _title(level: Level) -> str:
    if level.sparsity is None:
        return "denser than any level"
    return f"{100 * level.sparsity:g} % sparse or sparser"


def _verdict(rows: Sequence[Row], *, whole: bool) -> str:
    """What the noise lets one say of a level, and whether that may yet change."""
    highest, *others = rows
    if not highest.standing:
        return "for comparison"
    if not others:
        return "nothing to compare with"
    until = "" if whole else ", so far"
    if highest.standing == "ahead":
        return f"{highest.name} is ahead of all others{until}"
    close = sum(row.standing == "noise" for row in others)
    return f"no winner: {close} of {len(others)} others are in the noise of the highest{until}"


_MARKS = {"ahead": "best", "highest": "highest", "noise": "in the noise"}


def _cells(row: Row, out: Path, told: set[str]) -> dict[str, Any]:
    leads = row.standing in ("ahead", "highest")
    return {
        "name": row.name,
        "settings": _settings(row),
        "mark": _MARKS.get(row.standing, ""),
        "standing": row.standing,
        "difference": signed(row.difference, row.interval),
        "points": 0.0 if leads else row.difference,
        "numbers": [
            {"text": _text(row.spread(name), quantity.form), "value": _mean(row.spread(name))}
            for name, quantity in QUANTITIES.items()
            if name in told
        ],
        "recipe": _link(row.runs[0].path / "run.toml", out),
        "records": [
            (run.report.get("seed"), _link(run.path / "report.json", out)) for run in row.runs
        ],
    }


def _mean(spread: Spread | None) -> float | None:
    return None if spread is None else spread.mean


def _text(spread: Spread | None, form: str) -> str:
    """Mean and standard deviation as words.

    >>> _text(Spread(97.125, 0.5, 3), ".2f"), _text(Spread(97.125, 0.0, 1), ".1f")
    ('97.12 ± 0.50', '97.1')
    """
    if spread is None:
        return words.NONE
    deviation = f" ± {spread.std:{form}}" if spread.runs > 1 else ""
    return f"{spread.mean:{form}}{deviation}"
