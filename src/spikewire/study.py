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

    [[contrasts]]                            # how much better GMP is than SET, seed by seed
    arms = { gmp = "GMP", set = "SET" }      # runs fc-gmp-..., fc-set-...
    pairs = [["gmp", "set"]]
    tables.differences = { "MNIST" = "fc" }

    [[figures]]
    name = "figure-4-mnist"
    kind = "courses"
    runs = { "no pruning" = "dense" }

A run may start from the network of another, once that is trained::

    [runs]
    trained = ["cifar100", "method=dense"]
    pruned = ["cifar100", "weights=../trained/model.safetensors"]

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

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from itertools import permutations, product
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, TypeGuard

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from spikewire import config
from spikewire.spelling import check
from spikewire.words import NONE

STRICT = ConfigDict(extra="forbid")  # a misspelt key is refused


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

    def __post_init__(self) -> None:
        _check_values(f"grid {self.name}", self.vary)
        _check_values(f"the search of grid {self.name}", self.search)

    def runs(self) -> dict[str, list[str]]:
        """The words of each run by its name.

        >>> Grid("gmp", ["mnist"], {"seed": [0, 1]}).runs()
        {'gmp-0': ['mnist', 'seed=0'], 'gmp-1': ['mnist', 'seed=1']}
        """
        return {
            "-".join([self.name, *map(str, values)]): [
                *self.run,
                *map(config.setting, self.vary, values),
            ]
            for values in product(*self.vary.values())
        }

    def rows(self, others: Iterable[Grid] = ()) -> list[Row]:
        """The rows of its tables, told apart by all that varies but the seed.

        Args:
            others: the grids of the study, of which `against` names one.

        >>> grid = Grid("a", ["mnist"], {"optimizer.lr": [0.1], "seed": [0, 1]}, ["t"], "GMP")
        >>> [(row.method, row.runs) for row in grid.rows()]
        [('GMP, lr 0.1', ['a-0.1-0', 'a-0.1-1'])]
        """
        if not self.tables:
            return []
        told = {key: values for key, values in self.vary.items() if key != "seed"}
        rows = []
        for values in product(*told.values()):
            chosen = dict(zip(told, values, strict=True))
            words = [f"{key.rpartition('.')[2]} {value}" for key, value in chosen.items()]
            row = Row(self.tables, ", ".join([self.method, *words]), self.dataset)
            rivals = self._rivals(chosen, others) if self.against else []
            rows.append(replace(row, runs=self._named(chosen), rivals=rivals))
        return rows

    def _rivals(self, chosen: Mapping[str, Any], others: Iterable[Grid]) -> list[str]:
        """The runs that those with these values are compared with."""
        grids = (grid for grid in others if grid.name == self.against)
        found = [name for grid in grids for name in grid._named(chosen)]
        return found or [self.against]  # names no run: whoever looks for it says so

    def _named(self, chosen: Mapping[str, Any]) -> list[str]:
        """The names of the runs with these values, whatever their seed."""
        told = [{**chosen, "seed": seed} for seed in self.vary.get("seed", [None])]
        asked = ["-".join([self.name, *(str(one.get(key)) for key in self.vary)]) for one in told]
        return [name for name in asked if name in self.runs()]


@dataclass(frozen=True)
class Row:
    """One line of a table: what the paper says and the runs, by name pattern, that stand beside it.

    A pattern that is the name of a run is that run alone.

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
class Contrast:
    """How much better one arm of a comparison is than another, in tables of differences.

    Args:
        arms: what each arm is called, by the word that its runs have in their names.
        pairs: the arm, and the one that it is compared with.
        tables: the beginning of the names of the runs, as a pattern, by table and data set.
    """

    __pydantic_config__ = STRICT
    arms: dict[str, str]
    pairs: list[tuple[str, str]]
    tables: dict[str, dict[str, str]]

    def __post_init__(self) -> None:
        for arm in (arm for pair in self.pairs for arm in pair):
            check("arm", arm, self.arms)
        for one, other in permutations(self.arms, 2):
            if other.startswith(f"{one}-"):
                raise ValueError(
                    f"runs of the arm {other} are found under {one} too: give one of them a name "
                    "that does not begin with the other's"
                )

    def rows(self) -> list[Row]:
        """The rows of its tables: every pair on every data set.

        >>> arms = {"gmp": "GMP", "set": "SET"}
        >>> [row] = Contrast(arms, [("gmp", "set")], {"t": {"MNIST": "fc-*"}}).rows()
        >>> row.dataset, row.runs, row.rivals
        ('MNIST', ['fc-*-gmp-*'], ['fc-*-set-*'])
        """
        return [
            Row(
                [table],
                f"{self.arms[arm]} {NONE} {self.arms[rival]}",
                dataset,
                runs=[f"{begin}-{arm}-*"],
                rivals=[f"{begin}-{rival}-*"],
            )
            for table, begins in self.tables.items()
            for dataset, begin in begins.items()
            for arm, rival in self.pairs
        ]


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

    def __post_init__(self) -> None:
        _check_values("the search", self.vary)


@dataclass(frozen=True)
class Study:
    """What a study asks; see the module for its file.

    Args:
        title, note: of what the study is, and what a reader of its numbers must know.
        runs: a recipe and the settings laid over it, by name.
        grids: many runs at once, each with rows of its own, which come last.
        rows: of its tables.
        contrasts: differences between runs, each a row; they come after the rows.
        figures: all drawings; ``figure-6-a`` belongs to the item ``figure-6``.
        course: the run that is shown epoch by epoch.
        costs: which costs of an image its tables tell: ``synops``, and ``milliseconds`` in the
            sparse engine, for runs that had the machine to themselves.
        search: how settings are found before the runs of the grids; None for as they are written.
    """

    __pydantic_config__ = STRICT
    title: str
    note: str = ""
    runs: dict[str, list[str]] = field(default_factory=dict)
    grids: list[Grid] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    contrasts: list[Contrast] = field(default_factory=list)
    figures: list[Drawing] = field(default_factory=list)
    course: str = ""
    costs: list[Literal["synops", "milliseconds"]] = field(default_factory=list)
    search: Search | None = None

    def __post_init__(self) -> None:
        lost = [grid.name for grid in self.grids if grid.search and self.search is None]
        if lost:
            raise ValueError(f"grid {lost[0]} adds to a search that the study has not: [search]")
        named = [*self.runs, *(name for grid in self.grids for name in grid.runs())]
        grids = [grid.name for grid in self.grids]
        for kind, names in (("run", named), ("grid", grids)):
            if twice := [name for name, times in Counter(names).items() if times > 1]:
                raise ValueError(f"there are two of the {kind} {twice[0]}: give one another name")
        if self.course:
            check("course", self.course, named)
        self.refuse_circle()

    def refuse_circle(self, settings: Sequence[str] = ()) -> None:
        """See that no run starts, by way of others, from its own network.

        Args:
            settings: laid over all runs.

        Raises:
            ValueError: if one does.
        """
        runs = self.all_runs
        origins = {run: [name for name, _ in self.origins(run, settings)] for run in runs}
        try:
            TopologicalSorter(origins).prepare()
        except CycleError as error:
            circle = " from ".join(reversed(error.args[1]))
            raise ValueError(
                f"{circle}: no run can start from its own network: give one of them other weights"
            ) from error

    @cached_property
    def all_runs(self) -> dict[str, list[str]]:
        """The runs of the study and of its grids.

        Those of the first seed come before those of the next, so that what there is of an
        unfinished study compares all that it is about.
        """
        runs = self.runs | {name: run for grid in self.grids for name, run in grid.runs().items()}
        return dict(sorted(runs.items(), key=lambda item: seed_of(item[1])))

    def origins(self, run: str, settings: Sequence[str] = ()) -> list[tuple[str, str]]:
        """The runs of the study whose networks a run starts from, each with the file it reads.

        Args:
            run: the name of a run.
            settings: laid over it.

        >>> runs = {"a": ["mnist"], "b": ["mnist", "weights=../a/model.safetensors"]}
        >>> Study("t", runs=runs).origins("b")
        [('a', 'model.safetensors')]
        """
        words = [word.partition("=") for word in (*self.all_runs[run][1:], *settings)]
        told = {key: value for key, _, value in words}
        places = [PurePosixPath(told[key]).parts for key in config.FILES if key in told]
        others = self.all_runs.keys() - {run}
        return [place[1:] for place in places if _is_beside(place) and place[1] in others]

    @cached_property
    def all_rows(self) -> list[Row]:
        """The rows of the study, of its contrasts and of its grids."""
        differences = (row for contrast in self.contrasts for row in contrast.rows())
        grids = (row for grid in self.grids for row in grid.rows(self.grids))
        return [*self.rows, *differences, *grids]

    @property
    def tables(self) -> list[str]:
        """Names of the tables, in the order of their rows."""
        return list(dict.fromkeys(table for row in self.all_rows for table in row.tables))

    @property
    def items(self) -> list[str]:
        """Names of everything that can be asked for."""
        return [*self.tables, *dict.fromkeys(item_of(drawing.name) for drawing in self.figures)]


def _is_beside(place: Sequence[str]) -> TypeGuard[tuple[str, str, str]]:
    """Whether this is ``../RUN/FILE``."""
    return len(place) == 3 and place[0] == ".."


def _check_values(of: str, vary: Mapping[str, Sequence[Any]]) -> None:
    """Refuse a setting without values, or with one twice, which would be the same run twice."""
    for key, values in vary.items():
        if not values or len(set(map(str, values))) < len(values):
            raise ValueError(f"{of} varies {key} over {values}: give each value once, at least one")


_STUDY = TypeAdapter(Study)


def seed_of(run: Iterable[str]) -> str:
    """The seed among the words of a run, in a form that sorts.

    >>> seed_of(["mnist", "seed=10"]) > seed_of(["mnist", "seed=2"])
    True
    """
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
