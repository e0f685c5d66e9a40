"""Records: the runs of a study where they lie, and the tables and figures that they answer for."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from statistics import fmean, variance
from typing import Any

from spikewire import config, facts, plots, repeats
from spikewire.epochs import near
from spikewire.facts import Run, milliseconds
from spikewire.finished import finished
from spikewire.plots import Plot, mean_and_spread
from spikewire.run import refuse_other
from spikewire.spelling import check
from spikewire.study import Drawing, Row, Study, item_of, seed_of
from spikewire.tables import course, markdown, text

WRITTEN = "Written by `spikewire reproduce"
"""How the page of a study tells that it is one."""


@dataclass(frozen=True)
class Records:
    """Where the runs of a study lie, under which settings.

    Args:
        study: whose runs.
        folder: holds one run folder a run.
        settings: words laid over every run, such as ``epochs=16``; such runs lie in a folder
            that is named after them.

    Raises:
        ValueError: if the study varies what is set, or a run would start from its own network.
    """

    study: Study
    folder: Path
    settings: Sequence[str] = ()

    def __post_init__(self) -> None:
        varied = {key for grid in self.study.grids for key in grid.vary}
        for word in self.settings:
            if (key := word.partition("=")[0]) in varied:
                raise ValueError(
                    f"{word}: the study varies {key}, and names its runs and rows after it: leave "
                    "it out, or change the study"
                )
        self.study.refuse_circle(self.settings)

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
            exact = pattern in known  # whatever characters of a pattern the name has
            these = [pattern] if exact else [name for name in known if fnmatchcase(name, pattern)]
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

    def check(self, item: str) -> None:
        """Refuse an item that could not be drawn once its runs are there.

        Raises:
            ValueError: if a run, a pattern, or the kind, table or data set of a figure is none.
        """
        self.needed(item)
        for drawing in (d for d in self.study.figures if item_of(d.name) == item):
            check(f"kind of {drawing.name}", drawing.kind, KINDS)
            if (drawing.kind in _OF_TABLES) != bool(drawing.table):
                needs = "a table and a dataset" if drawing.kind in _OF_TABLES else "runs, no table"
                raise ValueError(
                    f"{drawing.name}: a figure of the kind {drawing.kind} is drawn from {needs}"
                )
            if drawing.kind in _OF_TWO and len(drawing.runs) != 2:
                raise ValueError(
                    f"{drawing.name}: a figure of the kind {drawing.kind} compares two runs, not "
                    f"{len(drawing.runs)}"
                )
            if drawing.table:
                check(f"table of {drawing.name}", drawing.table, self.study.tables)
                rows = [row for row in self.study.all_rows if drawing.table in row.tables]
                check(f"data set of {drawing.name}", drawing.dataset, {r.dataset for r in rows})

    def check_page(self) -> None:
        """Refuse to write README.md over one that is none of ours.

        Raises:
            ValueError: if there is one.
        """
        path = self.place / "README.md"
        if path.is_file() and WRITTEN not in path.read_text(encoding="utf-8", errors="replace"):
            raise ValueError(f"{path} was not written by this command: give another --records")

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

    def awaited(self, run: str) -> str | None:
        """A run whose network this one starts from, as long as that is not finished.

        Raises:
            ValueError: if it is finished, but its network is not there.
        """
        for name, file in self.study.origins(run, self.settings):
            if self.missing([name]):
                return name
            if not (self.path(name) / file).is_file():
                raise ValueError(
                    f"{run} starts from {file} of the run {name}, which is not in "
                    f"{self.path(name)}: put it there, or delete the folder, so that it is "
                    "trained again"
                )
        return None

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

        Runs whose networks others start from are trained before these, whether named or not.

        Args:
            runs: names of runs.
            data: folder with the data sets.
            jobs: how many at a time, each with its share of the cores.
            done: called with the name of each run as it ends.

        Raises:
            ValueError: as soon as a run fails, with what it said; no other is begun then.
            SystemExit, KeyboardInterrupt: after SIGTERM and SIGINT, when all runs have saved where
                they stand.
        """
        left = self.missing(self._with_origins(runs))
        threads = str(max(1, (os.cpu_count() or 1) // jobs))
        at_work: set[subprocess.Popen[str]] = set()
        train = partial(self._train, data=data, threads=threads, at_work=at_work)
        with _ended_by_sigterm(), ThreadPoolExecutor(jobs) as pool:
            begun: dict[Future[None], str] = {}
            try:
                while left or begun:
                    ready = [run for run in left if self.awaited(run) is None]
                    begun |= {pool.submit(train, run): run for run in ready}
                    left = [run for run in left if run not in ready]
                    for future in wait(begun, return_when=FIRST_COMPLETED).done:
                        future.result()
                        done(begun.pop(future))
            except BaseException as reason:
                pool.shutdown(wait=False, cancel_futures=True)
                if not isinstance(reason, Exception):
                    for process in tuple(at_work):
                        process.terminate()
                raise

    def _with_origins(self, runs: Iterable[str]) -> list[str]:
        """Runs, before each of them those whose networks it starts from."""
        found: dict[str, None] = {}
        for run in runs:
            before = [name for name, _ in self.study.origins(run, self.settings)]
            found |= dict.fromkeys([*self._with_origins(before), run])
        return list(found)

    def _train(
        self, run: str, data: Path | None, threads: str, at_work: set[subprocess.Popen[str]]
    ) -> None:
        recipe, *settings = self.study.all_runs[run]
        command = [sys.executable, "-m", "spikewire", "train", recipe]
        command += [*settings, *self.settings, "--out", str(self.path(run)), "--json"]
        command += ["--data", str(data)] if data else []
        environment = os.environ | {"OMP_NUM_THREADS": threads}
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)
        at_work.add(process)
        said = process.communicate()[1].strip()
        at_work.discard(process)
        if process.returncode:
            raise ValueError(f"{run}: {said or f'it ended with status {process.returncode}'}")

    def table(self, table: str) -> list[dict[str, Any]]:
        """The rows of a table: the paper's numbers, and ours where the runs are there.

        `operations` is the share of multiplications, in percent, that is saved where channels are
        out, as the literature counts FLOPs; `accuracy` is that of the last epoch, `best_on_test`
        the largest on the test set among the epochs about as sparse as the last one, `validation`
        that of the last epoch on a validation split; `synops` and, in the engine, `milliseconds` of
        a sample are there where the study asks for them. All are means over the runs of the row,
        and None where not all of them have it; `accuracy_std` is the standard deviation over
        `seeds`, None where runs differ in more than their seed.
        `difference` is the mean of what a run's accuracy is above that of its rival with the same
        seed, and `interval` the half width of its 95 % confidence interval, by Student's t. Rows
        over several sparsities, networks or data sets compare runs of the same; those of one seed
        on one network and data set share weights and images, whatever their sparsity, so that
        their mean counts as one of `pairs` differences. Networks and data sets count alike, and the
        interval is for these: it says nothing of others.
        """
        check("table", table, self.study.tables)
        return self._filled([row for row in self.study.all_rows if table in row.tables])

    def _read(self, run: str) -> Run:
        return facts.read(self.path(run))

    def _filled(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Rows with the numbers of their runs, each of which is read once."""
        named = self.matching(pattern for row in rows for pattern in (*row.runs, *row.rivals))
        there = {run: self._read(run) for run in named if not self.missing([run])}
        return [self._row(row, there) for row in rows]

    def _row(self, row: Row, there: Mapping[str, Run]) -> dict[str, Any]:
        runs, rivals = (
            [there[run] for run in self.matching(patterns) if run in there]
            for patterns in (row.runs, row.rivals)
        )
        accuracy, spread = _over(runs, _last)
        epochs = {run.report["epochs"] for run in runs}
        plain = self._one_of_each_seed(row.runs) and self._one_of_each_seed(row.rivals)
        if plain:
            groups = [above(by_seed(runs), by_seed(rivals))]
        else:
            groups = _differences(runs, rivals) if rivals else []
        difference, interval = mean_and_interval(*groups)
        return {
            "method": row.method,
            "dataset": row.dataset,
            "alpha": row.alpha,
            "ratio": row.ratio,
            "connectivity": _over(runs, lambda run: 100 * (1 - run.report["sparsity"]))[0],
            "operations": _over(runs, _saved)[0],
            "accuracy": accuracy,
            "accuracy_std": spread if plain else None,
            "best_on_test": _over(runs, _best_on_test)[0],
            "validation": _over(runs, validation)[0],
            **{name: _over(runs, COSTS[name])[0] for name in self.study.costs},
            "difference": difference,
            "interval": interval,
            "pairs": sum(map(len, groups)),
            "paper": row.paper or row.method,
            "paper_connectivity": row.paper_connectivity,
            "paper_operations": row.paper_operations,
            "paper_accuracy": row.paper_accuracy,
            "paper_epochs": row.paper_epochs,
            "epochs": epochs.pop() if len(epochs) == 1 else None,
            "seeds": len(by_seed(runs)),
        }

    def _one_of_each_seed(self, patterns: Iterable[str]) -> bool:
        """Whether seeds alone tell these runs apart, those that are not finished included."""
        named = self.matching(patterns)
        known = self.study.all_runs
        return len({seed_of(known[name]) for name in named}) == len(named)

    def readme(self, words: str) -> str:
        """All that the records say, as Markdown; `words` are those of the command."""
        study, runs = self.study, self.study.all_runs
        there = [run for run in runs if not self.missing([run])]
        parts = [f"# {study.title}", study.note.strip()]
        parts += [f"{WRITTEN} {words}`."]
        for table in study.tables:
            parts += [f"## {table}", markdown(*text(self.table(table)))]
        if not study.all_rows and there:
            rows = repeats.table([self.path(run) for run in there])
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
        rows = self._filled([row for row in self._rows(drawing) if row.runs])
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


def _over(
    runs: Iterable[Run], of: Callable[[Run], float | None]
) -> tuple[float | None, float | None]:
    """Mean and standard deviation, if all runs have the value: a row's numbers are of the same."""
    values = [of(run) for run in runs]
    known = [value for value in values if value is not None]
    return mean_and_spread(known) if known and len(known) == len(values) else (None, None)


def _last(run: Run) -> float:
    return run.report["accuracy"]["last"]


def by_seed(runs: Iterable[Run]) -> dict[Hashable, float]:
    """Test accuracy after the last epoch of each run, in percent, by its seed.

    >>> by_seed([])
    {}
    """
    return {run.report["seed"]: _last(run) for run in runs}


def above(ours: Mapping[Hashable, float], theirs: Mapping[Hashable, float]) -> list[float]:
    """Differences in the cases that both have.

    >>> above({0: 2.0, 1: 4.0}, {1: 3.0, 2: 5.0})
    [1.0]
    """
    return [ours[case] - theirs[case] for case in ours if case in theirs]


def mean_and_interval(*groups: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean, and half of its 95 % confidence interval, None where they are too few.

    Of n differences ``t(0.975, n - 1) s / sqrt(n)`` with their sample standard deviation s. Of K
    groups each counts alike, and the interval is for these very groups: ``t(0.975, nu) sqrt(sum v)
    / K`` with ``v = s^2 / n`` of each and Welch's ``nu = (sum v)^2 / sum(v^2 / (n - 1))``.

    >>> mean, half = mean_and_interval([1.0, 2.0, 3.0])
    >>> mean, round(half, 4)
    (2.0, 2.4841)
    >>> mean, half = mean_and_interval([1.0, 2.0, 3.0], [5.0, 6.0, 7.0])
    >>> mean, round(half, 4)
    (4.0, 1.1335)
    """
    groups = tuple(group for group in groups if group)
    if not groups:
        return None, None
    mean = fmean(map(fmean, groups))
    if min(map(len, groups)) == 1:
        return mean, None
    parts = [variance(group) / len(group) for group in groups]
    if not (total := sum(parts)):
        return mean, 0.0
    freedom = total**2 / sum(v**2 / (len(g) - 1) for v, g in zip(parts, groups, strict=True))
    from scipy.special import stdtrit  # takes half a second, which other commands need not wait

    return mean, float(stdtrit(freedom, 0.975)) * total**0.5 / len(groups)


def _differences(runs: Sequence[Run], rivals: Sequence[Run]) -> list[list[float]]:
    """What runs are above their rivals, seed by seed, for each network and data set.

    Runs of one seed are not independent of each other: they count once, as soon as all are there.
    """
    ours, theirs = _by_case(runs), _by_case(rivals)
    found = []
    for setting in (setting for setting in ours if setting in theirs):
        mine, other = ours[setting], theirs[setting]
        cases = set().union(*mine.values()) & set().union(*other.values())
        whole = [seed for seed in mine if cases <= mine[seed].keys() & other.get(seed, {}).keys()]
        found.append([fmean(mine[s][c] - other[s][c] for c in cases) for s in whole if cases])
    return found


Cases = dict[Hashable, dict[Hashable, dict[Hashable, float]]]


def _by_case(runs: Iterable[Run]) -> Cases:
    """Accuracies by what was asked for, by seed, by network and data set."""
    found: Cases = {}
    for run in runs:
        setting = run.config["network"]["name"], run.config["data"]["name"]
        asked = tuple(run.config["method"].get(key) for key in ("sparsity", "operations"))
        cases = found.setdefault(setting, {}).setdefault(seed := run.report["seed"], {})
        if asked in cases:
            raise ValueError(
                f"{run.path.name} is one of two runs of seed {seed} on {setting[0]} and "
                f"{setting[1]} with the same sparsity: a difference needs runs that are told apart"
            )
        cases[asked] = _last(run)
    return found


def _saved(run: Run) -> float | None:
    """Percent of the multiplications that are saved, as the literature counts FLOPs, if known.

    Not from those that were measured: they leave out the taps on padding, of which there are more
    where images are small, so that what is taken out in depth would seem to save less.
    """
    saving = (run.report.get("compact") or {}).get("saving")
    return None if saving is None else 100 * saving


COSTS: dict[str, Callable[[Run], float | None]] = {
    "synops": lambda run: run.report.get("synops"),
    "milliseconds": lambda run: milliseconds(run.report),
}
"""What an image costs, by the name of the column; None where it is not known."""


def validation(run: Run) -> Any:
    """Accuracy of the final network on validation images, or else that of the last epoch."""
    last = run.records[-1]["accuracy"]["validation"]
    return run.report["accuracy"].get("validation", last)


def _best_on_test(run: Run) -> float | None:
    """The largest of the epochs about as sparse as the last one, if all of them were tested."""
    final = 1 - run.report["sparsity"]
    *before, end = run.records
    tests = [r["accuracy"]["test"] for r in before if near(1 - r["sparsity"], final)]
    if None in tests:
        return None
    if near(1 - end["sparsity"], final) and end["accuracy"]["test"] is not None:
        tests.append(end["accuracy"]["test"])
    return max([_last(run), *tests])


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the process as an exception, so that those it has begun are ended too."""

    def end(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # which alone hears signals
        yield
        return
    former = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _first(runs: Mapping[str, Run]) -> Run:
    return next(iter(runs.values()))


Kind = Callable[[Drawing, Mapping[str, Run], Sequence[Mapping[str, Any]]], Plot | None]


def _records_of(run: Run, layer: str) -> list[dict[str, Any]]:
    """Records of an epoch as if the network had but this layer."""
    return [
        {
            **record,
            "layers": [each for each in record["layers"] if each["name"] == layer],
            "histograms": {k: v for k, v in (record["histograms"] or {}).items() if k == layer},
        }
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
    "connectivities": lambda _, runs, rows: plots.connectivities(
        {k: run.records for k, run in runs.items()}
    ),
    "transition": lambda _, runs, rows: plots.transition(
        {k: run.records for k, run in runs.items()}
    ),
    "tradeoff": lambda _, runs, rows: plots.tradeoff(
        repeats.collect([run.path for run in runs.values()])
    ),
}
"""How a figure is drawn from its runs by label, and from the rows of its table."""

_OF_TABLES = ("frontier", "costs", "bars", "ratios")
_OF_TWO = ("classes", "transition")
