"""Study: runs that belong together, and the tables and figures that they answer for.

A study is a TOML file: a paper with its numbers, or a comparison of our own. Its runs lie in one
folder, the records; whoever has them draws every table and figure anew, and whoever has not can
train what is missing::

    [runs]                                   # a recipe and settings laid over it
    dense = ["paper-g-mnist", "method=dense"]

    [[grids]]                                # many runs: gmp-0.9-0, gmp-0.9-1, gmp-0.95-0, ...
    name = "gmp"
    run = ["mnist"]
    vary = { "method.sparsity" = [0.9, 0.95], seed = [0, 1] }

    [[rows]]                                 # what the paper says, and which runs say it here
    tables = ["table-1"]
    method = "Grad R"
    dataset = "MNIST"
    paper_accuracy = 98.59
    runs = ["gradr-0.005"]

    [[figures]]
    name = "figure-4-mnist"
    kind = "courses"
    runs = { "no pruning" = "dense" }

Settings can be found before the runs, see `sweep`: as many trials for each grid, judged on
validation images::

    [search]
    trials = 4
    run = ["epochs=3"]                       # laid over every trial
    vary = { "optimizer.lr" = [1e-3, 3e-3] } # for all grids

    [[grids]]
    name = "gmp"
    run = ["mnist"]
    vary = { "method.sparsity" = [0.95, 0.9], seed = [0, 1] }
    search = { "method.until" = [0.5, 0.7] } # for this one as well
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from spikewire import config, plots, report
from spikewire.plots import Plot, mean_and_spread
from spikewire.run import finished, near, refuse_other
from spikewire.spelling import check

STRICT = ConfigDict(extra="forbid")  # a misspelt key is refused
WRITTEN = "Written by `spikewire reproduce"
"""How the page of a study tells that it is one."""


@dataclass(frozen=True)
class Grid:
    """Runs that differ in some settings: one for each choice of a value for every key.

    In its tables each has a row, named after the method and the values; those that differ in their
    seed alone share one. `against` names the grid whose runs, at the same values, they are compared
    with, seed by seed. `search` adds to what the study's search varies.
    """

    __pydantic_config__ = STRICT
    name: str
    run: list[str]
    vary: dict[str, list[Any]]
    tables: list[str] = field(default_factory=list)
    method: str = ""
    dataset: str = ""
    against: str = ""
    search: dict[str, list[Any]] = field(default_factory=dict)

    def runs(self) -> dict[str, list[str]]:
        """The words of each run by its name.

        >>> Grid("gmp", ["mnist"], {"seed": [0, 1]}).runs()
        {'gmp-0': ['mnist', 'seed=0'], 'gmp-1': ['mnist', 'seed=1']}
        """
        return {
            "-".join([self.name, *map(str, values)]): [
                *self.run,
                *(f"{key}={value}" for key, value in zip(self.vary, values, strict=True)),
            ]
            for values in product(*self.vary.values())
        }

    def rows(self) -> list[Row]:
        """The rows of its tables.

        >>> grid = Grid("a", ["mnist"], {"optimizer.lr": [0.1], "seed": [0, 1]}, ["t"], "GMP")
        >>> [(row.method, row.runs) for row in grid.rows()]
        [('GMP, lr 0.1', ['a-0.1-*'])]
        """
        if not self.tables:
            return []
        told = {key: values for key, values in self.vary.items() if key != "seed"}
        rows = []
        for values in product(*told.values()):
            chosen = dict(zip(told, values, strict=True))
            words = [f"{key.rpartition('.')[2]} {value}" for key, value in chosen.items()]
            suffix = "-".join(str(chosen.get(key, "*")) for key in self.vary)
            label = ", ".join([self.method, *words])
            rivals = [f"{self.against}-{suffix}"] if self.against else []
            row = Row(self.tables, label, self.dataset, runs=[f"{self.name}-{suffix}"])
            rows.append(replace(row, rivals=rivals))
        return rows


@dataclass(frozen=True)
class Row:
    """One line of a table: what the paper says and the runs, by name pattern, that stand beside it.

    Connectivities, accuracies and operations saved are in percent; `alpha` is the strength of the
    penalty, `ratio` the share of synapses or channels that come back. `paper` is the method that
    has the paper's numbers, where it is not the one that has ours. `rivals` are the runs, by name
    pattern, that those of the row are compared with, seed by seed.
    """

    __pydantic_config__ = STRICT
    tables: list[str]
    method: str
    dataset: str
    alpha: float | None = None
    paper_connectivity: float | None = None
    paper_accuracy: float | None = None
    runs: list[str] = field(default_factory=list)
    paper: str = ""
    ratio: float | None = None
    paper_operations: float | None = None
    paper_epochs: int | None = None
    rivals: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Drawing:
    """One figure: its kind, the runs it shows by label, and the layer it is about."""

    __pydantic_config__ = STRICT
    name: str
    kind: str
    runs: dict[str, str] = field(default_factory=dict)
    table: str = ""
    dataset: str = ""
    layer: str = ""


@dataclass(frozen=True)
class Search:
    """How settings are found for each grid before its runs, see `sweep`.

    Args:
        trials: of each grid, the same number for all.
        run: settings laid over every trial, such as fewer epochs.
        vary: values of the settings that are searched for all grids.
        seed: of the order in which choices are tried; another order is another search where
            there are more choices than trials.
    """

    __pydantic_config__ = STRICT
    trials: Annotated[int, Field(ge=1)]
    run: list[str] = field(default_factory=list)
    vary: dict[str, list[Any]] = field(default_factory=dict)
    seed: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True)
class Study:
    """What a study asks; see the module for its file.

    Args:
        title, note: of what the study is, and what a reader of its numbers must know.
        runs: a recipe and the settings laid over it, by name.
        grids: many runs at once.
        rows: of its tables; those of its grids come after them.
        figures: all drawings; ``figure-6-a`` belongs to the item ``figure-6``.
        course: the run that is shown epoch by epoch.
        costs: whether its tables tell SynOps and milliseconds in the engine.
        search: how settings are found before the runs of the grids; None for as they are written.
    """

    __pydantic_config__ = STRICT
    title: str
    note: str = ""
    runs: dict[str, list[str]] = field(default_factory=dict)
    grids: list[Grid] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    figures: list[Drawing] = field(default_factory=list)
    course: str = ""
    costs: bool = False
    search: Search | None = None

    @property
    def all_runs(self) -> dict[str, list[str]]:
        """The runs of the study and of its grids.

        Those of the first seed come before those of the next, so that what there is of an
        unfinished study compares all that it is about.
        """
        runs = self.runs | {name: run for grid in self.grids for name, run in grid.runs().items()}
        return dict(sorted(runs.items(), key=lambda item: _seed(item[1])))

    @property
    def all_rows(self) -> list[Row]:
        """The rows of the study and of its grids."""
        return [*self.rows, *(row for grid in self.grids for row in grid.rows())]

    @property
    def tables(self) -> list[str]:
        """Names of the tables, in the order of their rows."""
        return list(dict.fromkeys(table for row in self.all_rows for table in row.tables))

    @property
    def items(self) -> list[str]:
        """Names of everything that can be asked for."""
        return [*self.tables, *dict.fromkeys(item_of(drawing.name) for drawing in self.figures)]


_STUDY = TypeAdapter(Study)


def _seed(run: Iterable[str]) -> str:
    """The seed among the words of a run, in a form that sorts."""
    told = [word.removeprefix("seed=") for word in run if word.startswith("seed=")]
    return (told or ["0"])[-1].zfill(20)


def item_of(name: str) -> str:
    """The item that a figure belongs to.

    >>> item_of("figure-6-a"), item_of("figure-5-mnist"), item_of("tradeoff")
    ('figure-6', 'figure-5', 'tradeoff')
    """
    found = re.match(r"figure-\d+", name)
    return found.group() if found else name


def names() -> list[str]:
    """The studies that come with spikewire.

    >>> "paper-g" in names()
    True
    """
    return list(config.shipped("studies"))


def read(name: str) -> Study:
    """A study by its name, or from a .toml file.

    Raises:
        ValueError: if there is no such study, or the file is none.

    >>> read("paper-g").tables
    ['table-1', 'table-4', 'table-2']
    """
    return study_of(name, config.table("study", name, config.shipped("studies")))


def study_of(name: str, told: Mapping[str, Any]) -> Study:
    """A study from the plain values of its file.

    Raises:
        ValueError: if they describe none.

    >>> study_of("mine.toml", {"title": "Mine"}).title
    'Mine'
    """
    try:
        return _STUDY.validate_python(told)
    except ValidationError as error:
        raise ValueError(f"{name} is no study: {error}") from error


def plain(study: Study) -> dict[str, Any]:
    """The plain values that `study_of` makes the same study of.

    >>> study_of("mine.toml", plain(read("demo"))) == read("demo")
    True
    """
    return _STUDY.dump_python(study, mode="json", exclude_none=True)


@dataclass(frozen=True)
class Records:
    """Where the runs of a study lie, under which settings.

    Args:
        study: whose runs.
        folder: holds one run folder a run.
        settings: words laid over every run, such as ``epochs=16``; such runs lie in a folder
            that is named after them.
    """

    study: Study
    folder: Path
    settings: Sequence[str] = ()

    @property
    def place(self) -> Path:
        """The folder of the runs with these settings."""
        return self.folder / folder_name(self.settings) if self.settings else self.folder

    def path(self, run: str) -> Path:
        """The folder of one run."""
        return self.place / run

    def matching(self, patterns: Iterable[str]) -> list[str]:
        """The runs that one of the patterns names.

        Raises:
            ValueError: if a pattern names none.
        """
        found: list[str] = []
        known = self.study.all_runs
        for pattern in patterns:
            these = [name for name in known if fnmatchcase(name, pattern)]
            if not these:
                raise ValueError(f"{pattern}: the study has no such run, only {', '.join(known)}")
            found += these
        return list(dict.fromkeys(found))

    def needed(self, item: str) -> list[str]:
        """The runs that an item shows.

        Raises:
            ValueError: if the study has no such item.
        """
        check("item", item, self.study.items)
        drawings = [d for d in self.study.figures if item_of(d.name) == item]
        rows = [row for row in self.study.all_rows if item in row.tables]
        rows += [row for drawing in drawings for row in self._rows(drawing)]
        named = [run for drawing in drawings for run in drawing.runs.values()]
        for run in named:
            check("run", run, self.study.all_runs)
        patterns = (pattern for row in rows for pattern in (*row.runs, *row.rivals))
        return list(dict.fromkeys([*self.matching(patterns), *named]))

    def missing(self, runs: Iterable[str]) -> list[str]:
        """Those that are not finished here.

        Raises:
            ValueError: if a setting is none of a recipe's, or a folder holds the run of another.
        """
        return [run for run in runs if not self._finished(run)]

    def _finished(self, run: str) -> bool:
        recipe, *settings = self.study.all_runs[run]
        asked = config.recipe(config.override(config.read(recipe), [*settings, *self.settings]))
        if not finished(self.path(run)):
            return False
        refuse_other(asked, self.path(run))
        return True

    def _rows(self, drawing: Drawing) -> list[Row]:
        return [
            row
            for row in self.study.all_rows
            if drawing.table in row.tables and row.dataset == drawing.dataset
        ]

    def train(
        self,
        runs: Iterable[str],
        data: Path | None,
        jobs: int,
        done: Callable[[str], None] = lambda run: None,
    ) -> None:
        """Train what is missing, `jobs` runs side by side; stopped runs are continued.

        Args:
            runs: names of runs.
            data: folder with the data sets.
            jobs: how many at a time, each with its share of the cores.
            done: called with the name of each run as it ends.

        Raises:
            ValueError: as soon as a run fails, with what it said; no other is begun then.
        """
        threads = str(max(1, (os.cpu_count() or 1) // jobs))
        with ThreadPoolExecutor(jobs) as pool:
            begun = {pool.submit(self._train, r, data, threads): r for r in self.missing(runs)}
            try:
                for future in as_completed(begun):
                    future.result()
                    done(begun[future])
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _train(self, run: str, data: Path | None, threads: str) -> None:
        recipe, *settings = self.study.all_runs[run]
        command = [sys.executable, "-m", "spikewire", "train", recipe]
        command += [*settings, *self.settings, "--out", str(self.path(run)), "--json"]
        command += ["--data", str(data)] if data else []
        ended = subprocess.run(
            command,
            env=os.environ | {"OMP_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            raise ValueError(f"{run}: {ended.stderr.strip()}")

    def table(self, table: str) -> list[dict[str, Any]]:
        """The rows of a table: the paper's numbers, and ours where the runs are there.

        `operations` is the share of multiplications, in percent, that the compact network does
        without where channels were taken out; `accuracy` is that of the last epoch, `best_on_test`
        the largest on the test set among the epochs about as sparse as the last one, `validation`
        that of the last epoch on a validation split; `synops` and, in the engine, `milliseconds` of
        a sample are there where the study asks for costs; all are means over `seeds` runs.
        `difference` is the mean of what a run's accuracy is above that of its rival with the same
        seed, and `interval` the half width of its 95 % confidence interval, by Student's t. Rows
        over several sparsities, networks or data sets compare runs of the same; those of one seed
        on one network and data set share weights and images, whatever their sparsity, so that
        their mean counts as one of `pairs` differences.
        """
        check("table", table, self.study.tables)
        return [self._row(row) for row in self.study.all_rows if table in row.tables]

    def _read(self, run: str) -> report.Run:
        return report.read(self.path(run))

    def _row(self, row: Row) -> dict[str, Any]:
        runs, rivals = self._finished_of(row.runs), self._finished_of(row.rivals)
        costs = COSTS if self.study.costs else {}
        accuracy, spread = _over(runs, _last)
        pairs = _differences(runs, rivals)
        difference, interval = mean_and_interval(pairs)
        return {
            "method": row.method,
            "dataset": row.dataset,
            "alpha": row.alpha,
            "ratio": row.ratio,
            "connectivity": _over(runs, lambda run: 100 * (1 - run.report["sparsity"]))[0],
            "operations": _over(runs, _saved)[0],
            "accuracy": accuracy,
            "accuracy_std": spread,
            "best_on_test": _over(runs, _best_on_test)[0],
            "validation": _over(runs, _validation)[0],
            **{name: _over(runs, of)[0] for name, of in costs.items()},
            "difference": difference,
            "interval": interval,
            "pairs": len(pairs),
            "paper": row.paper or row.method,
            "paper_connectivity": row.paper_connectivity,
            "paper_operations": row.paper_operations,
            "paper_accuracy": row.paper_accuracy,
            "paper_epochs": row.paper_epochs,
            "epochs": max((run.report["epochs"] for run in runs), default=None),
            "seeds": len(by_seed(runs)),
        }

    def _finished_of(self, patterns: Iterable[str]) -> list[report.Run]:
        return [self._read(run) for run in self.matching(patterns) if not self.missing([run])]

    def readme(self, words: str) -> str:
        """All that the records say, as Markdown; `words` are those of the command."""
        study, runs = self.study, self.study.all_runs
        there = [run for run in runs if not self.missing([run])]
        parts = [f"# {study.title}", study.note.strip()]
        parts += [f"{WRITTEN} {words}`."]
        for table in study.tables:
            parts += [f"## {table}", markdown(*text(self.table(table)))]
        if not study.all_rows and there:
            rows = report.table([self.path(run) for run in there])
            parts += [markdown(list(rows[0]), [list(row.values()) for row in rows])]
        for plot in (plot for item in study.items for plot in self.draw(item)):
            parts += [f"## {plot.name}", f"![{plot.title}]({plot.name}.svg)", plot.caption]
        if study.course in there:
            parts += [f"## {study.course}, epoch by epoch", course(self._read(study.course))]
        return "\n\n".join(parts) + "\n"

    def draw(self, item: str) -> list[Plot]:
        """The figures of an item, as far as their runs are there."""
        drawn = [self._draw(d) for d in self.study.figures if item_of(d.name) == item]
        return [plot for plot in drawn if plot is not None]

    def _draw(self, drawing: Drawing) -> Plot | None:
        check(f"kind of {drawing.name}", drawing.kind, KINDS)
        there = {
            label: self._read(run) for label, run in drawing.runs.items() if not self.missing([run])
        }
        rows = [self._row(row) for row in self._rows(drawing) if row.runs]
        if not there and not any(row["seeds"] for row in rows):
            return None
        plot = KINDS[drawing.kind](drawing, there, rows)
        return None if plot is None else replace(plot, name=drawing.name)


def folder_name(settings: Iterable[str]) -> str:
    """A file name for settings.

    >>> folder_name(["epochs=16", "network.name=a/b"])
    'epochs=16-network.name=a_b'
    """
    return re.sub(r"[^\w.=+-]+", "_", "-".join(settings))


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
        "pairs": [_word(row["pairs"] or None, "d") for row in rows],
        "best on test": [_word(row["best_on_test"]) for row in rows],
        "paper acc. %": [_word(row["paper_accuracy"]) for row in rows],
        "epochs": [_word(row["epochs"], "d") for row in rows],
        "paper epochs": [_word(row["paper_epochs"], "d") for row in rows],
        "seeds": [_word(row["seeds"] or None, "d") for row in rows],
    }
    told = {name: cells for name, cells in columns.items() if {*cells} != {report.NONE}}
    return list(told), [list(cells) for cells in zip(*told.values(), strict=True)]


def _word(value: float | None, form: str = ".2f") -> str:
    return report.NONE if value is None else format(value, form)


def _spread(row: Mapping[str, Any]) -> str:
    return f" ± {row['accuracy_std']:.2f}" if row["seeds"] > 1 else ""


def signed(difference: float | None, interval: float | None) -> str:
    """A difference and half of its confidence interval, as words.

    >>> signed(0.5, 0.25), signed(0.5, None)
    ('+0.50 ± 0.25', '+0.50')
    """
    if difference is None:
        return report.NONE
    spread = "" if interval is None else f" ± {interval:.2f}"
    return f"{difference:+.2f}{spread}".replace("-", report.MINUS)


def above(ours: Mapping[Hashable, float], theirs: Mapping[Hashable, float]) -> list[float]:
    """Differences in the cases that both have.

    >>> above({0: 2.0, 1: 4.0}, {1: 3.0, 2: 5.0})
    [1.0]
    """
    return [ours[case] - theirs[case] for case in ours if case in theirs]


def mean_and_interval(differences: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean, and half of its 95 % confidence interval, None where they are too few.

    ``t(0.975, n - 1) s / sqrt(n)`` with the sample standard deviation s of n differences.

    >>> mean, half = mean_and_interval([1.0, 2.0, 3.0])
    >>> mean, round(half, 4)
    (2.0, 2.4841)
    """
    if not differences:
        return None, None
    mean, spread = mean_and_spread(differences)
    count = len(differences)
    if count == 1:
        return mean, None
    from scipy.special import stdtrit  # takes half a second, which other commands need not wait

    return mean, float(stdtrit(count - 1, 0.975)) * spread / count**0.5


def course(run: report.Run) -> str:
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


def _over(
    runs: Iterable[report.Run], of: Callable[[report.Run], float | None]
) -> tuple[float | None, float | None]:
    """Mean and standard deviation over the runs that have the value."""
    values = [value for run in runs if (value := of(run)) is not None]
    return mean_and_spread(values) if values else (None, None)


def _last(run: report.Run) -> float:
    return run.report["accuracy"]["last"]


def by_seed(runs: Iterable[report.Run]) -> dict[Hashable, float]:
    """Test accuracy after the last epoch of each run, in percent, by its seed.

    >>> by_seed([])
    {}
    """
    return {run.report["seed"]: _last(run) for run in runs}


def _differences(runs: Sequence[report.Run], rivals: Sequence[report.Run]) -> list[float]:
    """What runs are above their rivals, once for all that are not independent of each other."""
    if all(len(by_seed(side)) == len(side) for side in (runs, rivals)):
        return above(by_seed(runs), by_seed(rivals))
    ours, theirs = _by_case(runs), _by_case(rivals)
    cases = [(ours[unit], theirs[unit]) for unit in ours if unit in theirs]
    found = (above(one, other) for one, other in cases)
    return [mean_and_spread(each)[0] for each in found if each]


def _by_case(runs: Iterable[report.Run]) -> dict[Hashable, dict[Hashable, float]]:
    """Accuracies by sparsity, for each seed, network and data set."""
    found: dict[Hashable, dict[Hashable, float]] = {}
    for run in runs:
        unit = run.report["seed"], run.config["network"]["name"], run.config["data"]["name"]
        found.setdefault(unit, {})[run.config["method"].get("sparsity")] = _last(run)
    return found


def _saved(run: report.Run) -> float | None:
    """Share of the multiplications that the compact network, if there is one, does without."""
    if not (compact := run.report.get("compact")):
        return None
    return 100 * (1 - compact["multiplications"] / run.report["dense_synops"])


COSTS: dict[str, Callable[[report.Run], float | None]] = {
    "synops": lambda run: run.report.get("synops"),
    "milliseconds": lambda run: report.milliseconds(run.report),
}
"""What an image costs, by the name of the column; None where it is not known."""


def _validation(run: report.Run) -> Any:
    return run.records[-1]["accuracy"]["validation"]


def _best_on_test(run: report.Run) -> float:
    final = 1 - run.report["sparsity"]
    tests = (r["accuracy"]["test"] for r in run.records if near(1 - r["sparsity"], final))
    return max((test for test in tests if test is not None), default=run.report["accuracy"]["last"])


def _first(runs: Mapping[str, report.Run]) -> report.Run:
    return next(iter(runs.values()))


Kind = Callable[[Drawing, Mapping[str, report.Run], Sequence[Mapping[str, Any]]], Plot | None]


def _records_of(run: report.Run, layer: str) -> list[dict[str, Any]]:
    """Records of an epoch as if the network had but this layer."""
    return [
        record
        | {"layers": [each for each in record["layers"] if each["name"] == layer]}
        | {"histograms": {k: v for k, v in (record["histograms"] or {}).items() if k == layer}}
        for record in run.records
    ]


KINDS: dict[str, Kind] = {
    "courses": lambda _, runs, rows: plots.courses({k: run.records for k, run in runs.items()}),
    "frontier": lambda _, runs, rows: plots.frontier(rows),
    "distributions": lambda _, runs, rows: plots.distributions(_first(runs).report),
    "thetas": lambda d, runs, rows: plots.thetas(_records_of(_first(runs), d.layer)),
    "rewiring": lambda d, runs, rows: plots.rewiring(_records_of(_first(runs), d.layer)),
    "rates": lambda d, runs, rows: plots.rates({k: r.report for k, r in runs.items()}, d.layer),
    "costs": lambda _, runs, rows: plots.costs(rows),
    "bars": lambda _, runs, rows: plots.bars(rows),
    "ratios": lambda _, runs, rows: plots.ratios(rows),
    "entropy": lambda _, runs, rows: plots.entropy(_first(runs).report),
    "classes": lambda _, runs, rows: plots.classes({k: r.report for k, r in runs.items()}),
    "consistency": lambda _, runs, rows: plots.consistency(
        {k: (run.records, run.report) for k, run in runs.items()}
    ),
    "learning": lambda _, runs, rows: plots.learning({k: run.records for k, run in runs.items()}),
    "revived": lambda _, runs, rows: plots.revived({k: run.records for k, run in runs.items()}),
    "transition": lambda _, runs, rows: plots.transition(
        {k: run.records for k, run in runs.items()}
    ),
    "tradeoff": lambda _, runs, rows: plots.tradeoff(
        report.collect([run.path for run in runs.values()])
    ),
}
"""How a figure is drawn from its runs by label, and from the rows of its table."""
