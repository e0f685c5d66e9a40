"""Sweep: the runs of a study, shared by all who work in its folder; first a search, if it has one.

::

    SWEEP/sweep.toml       the study, complete, and the settings laid over all of its runs
    SWEEP/search.journal   Optuna's: what each grid tries, and what came of it
    SWEEP/trials/gmp-0/    a run folder for each trial
    SWEEP/trials/gmp.json  what was tried for a grid, and what was chosen
    SWEEP/gmp-0.9-0/       a run folder for each run
    SWEEP/claims/          who is at work on what

The same command on several machines that share the folder shares the work. Every grid has as many
trials as the others; each takes the first of the values that the grid varies. What reached the
highest accuracy on validation images after its last epoch is chosen, the earlier one of equals.
Test images play no part in the choice. The runs of a grid keep validation images like their trials,
so that they have an accuracy at the epoch that is best on those; a grid that is to train on all
images says ``data.validation=0.0`` and the search ``data.validation=0.1``.

A worker that dies loses what it did since the end of an epoch: its claim becomes stale, and another
one continues the run.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tomli_w
import torch

from spikewire import config, facts, formats
from spikewire import run as runs
from spikewire.claims import PATIENCE, Claim, Claims, Lost
from spikewire.config import Recipe
from spikewire.finished import finished
from spikewire.lock import Busy
from spikewire.records import Records, validation
from spikewire.study import Grid, Search, Study, plain, study_of
from spikewire.train import Diverged, Epoch

SUMMARY, TRIALS, CLAIMS = "sweep.toml", "trials", "claims"
_POLL = 1.0  # seconds between two looks at what others do


@dataclass(frozen=True)
class Trial:
    """One choice of the settings that are searched for a grid.

    Args:
        name: of its run folder, within the sweep's.
        choice: values by setting.
        run: a recipe, and all settings laid over it.
    """

    name: str
    choice: dict[str, Any]
    run: list[str]

    @property
    def words(self) -> list[str]:
        """The choice as settings are written."""
        return [config.setting(key, value) for key, value in self.choice.items()]


def trials(study: Study, grid: Grid, settings: Iterable[str] = ()) -> list[Trial]:
    """What is tried for a grid: the same for the same study, wherever and whenever.

    Optuna's `GridSampler` goes through the choices in an order that the search's seed shuffles.

    Args:
        study, grid: whose search, for which grid.
        settings: laid over every run, as of `records.Records`.

    Raises:
        ValueError: if there are fewer choices than trials, or Optuna is not installed.

    >>> grid = Grid("gmp", ["mnist"], {"seed": [7, 8]}, search={"method.until": [0.5, 0.7]})
    >>> for trial in trials(Study("t", search=Search(2, ["epochs=1"])), grid):
    ...     print(trial.name, trial.run)
    trials/gmp-0 ['mnist', 'seed=7', 'epochs=1', 'method.until=0.7']
    trials/gmp-1 ['mnist', 'seed=7', 'epochs=1', 'method.until=0.5']
    """
    if (search := study.search) is None:
        return []
    first = [f"{key}={values[0]}" for key, values in grid.vary.items()]
    asked = [
        Trial(f"{TRIALS}/{grid.name}-{number}", choice, [])
        for number, choice in enumerate(_choices(search, grid))
    ]
    given = [*grid.run, *first, *search.run]
    return [replace(trial, run=[*given, *trial.words, *settings]) for trial in asked]


def _space(search: Search, grid: Grid) -> dict[str, list[Any]]:
    """All values of the settings that are searched for a grid."""
    space = search.vary | grid.search
    if twice := sorted(space.keys() & grid.vary.keys()):
        raise ValueError(
            f"{', '.join(twice)} of grid {grid.name} is both varied and searched: give it in one"
        )
    return space


def _choices(search: Search, grid: Grid) -> list[dict[str, Any]]:
    space = _space(search, grid)
    there = math.prod(map(len, space.values()))
    if search.trials > there:
        raise ValueError(
            f"search.trials is {search.trials}, but grid {grid.name} has {there} choices: give at "
            "most as many, or more values to choose from"
        )
    optuna = _optuna()
    study = optuna.create_study(sampler=optuna.samplers.GridSampler(space, seed=search.seed))
    among = _distributions(space)
    found = [study.ask(among).params for _ in range(search.trials)]
    return [{key: choice[key] for key in space} for choice in found]


def _distributions(space: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    categorical = _optuna().distributions.CategoricalDistribution
    return {key: categorical(values) for key, values in space.items()}


def _optuna() -> Any:
    if find_spec("optuna") is None:
        raise ValueError("Optuna, which a search needs, is not installed: pip install "
                         "'spikewire[sweep]'")  # fmt: skip
    import optuna  # only searches need it

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


# --- what a search came to -------------------------------------------------------------------


def tried(records: Records, grid: str) -> dict[str, Any] | None:
    """What TRIALS/GRID.json says; None while the search of the grid goes on.

    Under ``trials`` it has the run, the settings, the accuracy on validation images in percent and
    the sparsity of each, None and the reason where training failed; under ``chosen`` the settings
    chosen.
    """
    file = records.place / TRIALS / f"{grid}.json"
    if not file.is_file():
        return None
    told = json.loads(file.read_text(encoding="utf-8"))
    search = records.study.search
    whole = search is not None and len(told["trials"]) == search.trials
    return told if whole else None


def settled(records: Records) -> Records:
    """The records of the study that is left once settings are chosen: those of its runs.

    Grids whose search goes on are left out.

    >>> from spikewire.study import read
    >>> records = Records(read("demo"), Path("nowhere"))
    >>> settled(records) == records
    True
    """
    if records.study.search is None:
        return records
    grids = [
        replace(grid, run=[*grid.run, *told["chosen"]], search={})
        for grid in records.study.grids
        if (told := tried(records, grid.name)) is not None
    ]
    return replace(records, study=replace(records.study, grids=grids, search=None))


def best(accuracies: Sequence[float | None]) -> int | None:
    """The place of the highest, the first of equals; None if there is none.

    >>> best([90.0, None, 95.0, 95.0])
    2
    """
    known = [(value, -number) for number, value in enumerate(accuracies) if value is not None]
    return -max(known)[1] if known else None


def read(place: Path) -> Records:
    """The records in the folder of a sweep, as its sweep.toml describes them.

    Raises:
        FileNotFoundError: if the folder holds no sweep.
        ValueError: if it had another name when it was written.
    """
    file = place / SUMMARY
    if not file.is_file():
        raise FileNotFoundError(f"{place} holds no sweep: there is no {SUMMARY} in it")
    told = tomllib.loads(file.read_text(encoding="utf-8"))
    settings = told["settings"]
    found = Records(
        study_of(str(file), told["study"]), place.parent if settings else place, settings
    )
    if found.place.resolve() != place.resolve():
        raise ValueError(f"{place} was called {found.place.name}: give it that name again")
    return found


class _Journal:
    """Optuna's record of a search: a study for each grid, which all workers write to."""

    def __init__(self, path: Path) -> None:
        optuna = self.optuna = _optuna()
        path.parent.mkdir(parents=True, exist_ok=True)
        backend = optuna.storages.journal.JournalFileBackend(str(path.resolve()))
        self.storage = optuna.storages.JournalStorage(backend)
        self.studies: dict[str, Any] = {}

    def propose(self, grid: str, asked: Sequence[Trial], space: Mapping[str, Any]) -> None:
        """Enter the trials of a grid that are not there yet."""
        study = self.studies[grid] = self.optuna.create_study(
            storage=self.storage,
            sampler=self.optuna.samplers.RandomSampler(seed=0),  # never asked: trials are given
            study_name=grid,
            direction="maximize",
            load_if_exists=True,
        )
        among = _distributions(space)
        running = self.optuna.trial.TrialState.RUNNING
        for trial in asked[len(study.trials) :]:
            study.add_trial(
                self.optuna.trial.create_trial(
                    state=running,
                    params=trial.choice,
                    distributions=among,
                    user_attrs={"run": trial.name},
                )
            )

    def tell(self, grid: str, number: int, accuracy: float | None, **told: Any) -> None:
        """Enter what a trial reached, None if its training failed, and what else is known."""
        study = self.studies[grid]
        trial = study.trials[number]
        if trial.state.is_finished():
            return
        for key, value in told.items():
            self.storage.set_trial_user_attr(trial._trial_id, key, value)
        if accuracy is None:
            study.tell(number, state=self.optuna.trial.TrialState.FAIL, skip_if_finished=True)
        else:
            study.tell(number, accuracy, skip_if_finished=True)

    def told(self, grid: str) -> list[dict[str, Any] | None]:
        """What each trial reached, None while it goes on."""
        return [
            {
                "validation": trial.value,
                "sparsity": trial.user_attrs.get("sparsity"),
                "reason": trial.user_attrs.get("reason", ""),
            }
            if trial.state.is_finished()
            else None
            for trial in self.studies[grid].trials
        ]


# --- working ---------------------------------------------------------------------------------


def check(records: Records) -> None:
    """Refuse what could not be done later, before any work is.

    Raises:
        ValueError: naming what is wrong.
    """
    study, settings = records.study, records.settings
    if study.search is None:
        for name, words in study.all_runs.items():
            _recipe(name, [*words, *settings])
        return
    for name, words in study.runs.items():
        _recipe(name, [*words, *settings])
    for grid in study.grids:
        _check_search(study, study.search, grid, settings)
    for run in study.all_runs:
        for origin, _ in study.origins(run, settings):
            if not {run, origin} <= study.runs.keys():
                raise ValueError(
                    f"{run} starts from the network of {origin}: where settings are searched for, "
                    "runs that are part of it cannot; give weights that lie elsewhere"
                )


def _check_search(study: Study, search: Search, grid: Grid, settings: Sequence[str]) -> None:
    fixed = {word.partition("=")[0] for word in settings} & _space(search, grid).keys()
    if fixed:
        raise ValueError(f"{', '.join(sorted(fixed))} is searched for: leave it to the search")
    asked = trials(study, grid, settings)
    for trial in asked:
        if not _recipe(trial.name, trial.run).data.validation:
            raise ValueError(
                f"{trial.name} has no validation images to be judged on: give "
                "data.validation=0.1, or another share of the training images"
            )
    some = replace(grid, run=[*grid.run, *asked[0].words])
    for name, words in some.runs().items():
        _recipe(name, [*words, *settings])


def _recipe(name: str, words: Sequence[str]) -> Recipe:
    recipe, *settings = words
    try:
        return config.recipe(config.override(config.read(recipe), settings))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def work(
    records: Records,
    data: Path | None = None,
    *,
    patience: float = PATIENCE,
    done: Callable[[str], None] = lambda name: None,
) -> None:
    """Do what is left of a sweep, a run at a time, beside whoever else works in its folder.

    Returns once everything is done, by whomever. Networks are trained on one thread, unless the
    environment variable OMP_NUM_THREADS says otherwise.

    Args:
        records: whose runs; see the module for what is written.
        data: folder with the data sets.
        patience: seconds without a heartbeat after which the run of another worker is taken over;
            the same for all workers.
        done: called with the name of each run that this worker has finished.

    Raises:
        ValueError: if the study is none that can be run, the folder holds another search, or a run
            fails; if training diverged somewhere, once everything else is done.
        Stopped: after SIGINT or SIGTERM, when everything is saved.
    """
    check(records)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    _Worker(records, data, Claims(records.place / CLAIMS, patience), done).work()


Job = Callable[[Claim], None]


class _Worker:
    """One of those who work in the folder of a sweep."""

    def __init__(
        self, records: Records, data: Path | None, claims: Claims, done: Callable[[str], None]
    ) -> None:
        self.records, self.data, self.claims, self.done = records, data, claims, done
        self.study, self.search = records.study, records.study.search
        self.finished: set[str] = set()
        self.failed: dict[str, str] = {}
        with self._turn("sweep"):
            self._refuse_other_search()
            told = {"settings": list(records.settings), "study": plain(records.study)}
            formats.write(records.place / SUMMARY, tomli_w.dumps(told).encode())
            if self.search is not None:
                self._propose(self.search)

    def work(self) -> None:
        while left := self._left():
            if not any(self._attempt(name, job) for name, job in left.items()):
                time.sleep(min(_POLL, self.claims.patience / 4))
        if self.failed:
            told = "; ".join(f"{name}: {reason}" for name, reason in self.failed.items())
            raise ValueError(f"all is done but what failed: {told}")

    def _refuse_other_search(self) -> None:
        """Refuse a folder with other trials than are asked for; there may be fewer, or more."""
        place, settings = self.records.place, self.records.settings
        if not (place / SUMMARY).is_file():
            return
        former = read(place).study
        there = {grid.name: trials(former, grid, settings) for grid in former.grids}
        for grid in self.study.grids:
            asked = trials(self.study, grid, settings)
            if any(old != new for old, new in zip(there.get(grid.name, []), asked, strict=False)):
                raise ValueError(
                    f"{place} holds another search for grid {grid.name}: give another --records, "
                    "or delete it"
                )

    def _propose(self, search: Search) -> None:
        self.journal = _Journal(self.records.place / "search.journal")
        self.asked = {
            g.name: trials(self.study, g, self.records.settings) for g in self.study.grids
        }
        for grid in self.study.grids:
            self.journal.propose(grid.name, self.asked[grid.name], _space(search, grid))

    @contextmanager
    def _turn(self, name: str) -> Iterator[None]:
        """What only one worker may do at a time, and all must have done."""
        while (claim := self.claims.take(name)) is None:
            time.sleep(min(_POLL, self.claims.patience / 4))
        with claim:
            yield

    def _left(self) -> dict[str, Job]:
        """What can be done now, by name; what another worker does is among it."""
        left = {name: job for grid in self.study.grids for name, job in self._searching(grid)}
        ready = settled(self.records)
        names = [name for name in ready.study.all_runs if name not in self.finished]
        new = {name for name in names if finished(ready.path(name))}
        ready.missing(new)  # refuses runs of another sweep
        self.finished |= new
        awaited = {name: ready.awaited(name) for name in names if name not in new}
        self._lose(awaited)
        left |= {name: partial(self._run, ready, name) for name, of in awaited.items() if not of}
        return {name: job for name, job in left.items() if name not in self.failed}

    def _lose(self, awaited: Mapping[str, str | None]) -> None:
        """Give up what starts from the network of a run that failed, and what starts from that."""
        left = {name: of for name, of in awaited.items() if name not in self.failed}
        reasons = {
            name: f"it starts from the network of {of}"
            for name, of in left.items()
            if of in self.failed
        }
        if reasons:
            self.failed |= reasons
            self._lose(left)

    def _searching(self, grid: Grid) -> list[tuple[str, Job]]:
        if self.search is None or tried(self.records, grid.name) is not None:
            return []
        told = self._told(grid)
        left = [number for number, outcome in enumerate(told) if outcome is None]
        if not left:
            return [(f"{TRIALS}/{grid.name}", partial(self._choose, grid))]
        asked = self.asked[grid.name]
        return [(asked[number].name, partial(self._try, grid, number)) for number in left]

    def _told(self, grid: Grid) -> list[dict[str, Any] | None]:
        """What each trial that is asked for reached; a longer search may have been here."""
        return self.journal.told(grid.name)[: len(self.asked[grid.name])]

    def _attempt(self, name: str, job: Job) -> bool:
        """Whether it was this worker's turn to do that."""
        if (claim := self.claims.take(name)) is None:
            return False
        with claim, suppress(Lost):
            try:
                job(claim)
            except Busy:  # its owner was taken for dead, and will see that it lost the claim
                return False
            except Diverged as error:  # what others have to do goes on
                self.failed[name] = str(error)
        return True

    def _run(self, ready: Records, name: str, claim: Claim) -> None:
        words = [*ready.study.all_runs[name], *ready.settings]
        self._train(name, words, claim)

    def _try(self, grid: Grid, number: int, claim: Claim) -> None:
        trial = self.asked[grid.name][number]
        try:
            self._train(trial.name, trial.run, claim)
        except Diverged as error:
            self.journal.tell(grid.name, number, None, reason=str(error))
            return
        run = facts.read(self.records.path(trial.name))
        sparsity = run.report["sparsity"]
        self.journal.tell(grid.name, number, validation(run), sparsity=sparsity)

    def _choose(self, grid: Grid, claim: Claim) -> None:
        outcomes = [outcome or {} for outcome in self._told(grid)]
        chosen = best([outcome["validation"] for outcome in outcomes])
        if chosen is None:
            raise Diverged(f"every trial failed, the first since {outcomes[0]['reason']}")
        asked = self.asked[grid.name]
        told = [
            {"run": trial.name, "settings": trial.words, **outcome}
            for trial, outcome in zip(asked, outcomes, strict=True)
        ]
        formats.write_json(
            self.records.path(f"{TRIALS}/{grid.name}.json"),
            {"trials": told, "chosen": asked[chosen].words},
        )

    def _train(self, name: str, words: Sequence[str], claim: Claim) -> None:
        def keep_watch(out: Path, recipe: Recipe, epoch: Epoch, record: Any) -> None:
            if epoch.complete and claim.lost:  # before the epoch is written
                raise Lost(name)

        out = self.records.path(name)
        if finished(out):
            return
        recipe = _recipe(name, words)
        try:
            runs.run(recipe, out, root=self.data, show=keep_watch)
        except (Diverged, Busy):
            raise
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        self.done(name)


def employ(command: Sequence[str], jobs: int) -> None:
    """Let several processes of this machine work, each on one thread.

    Args:
        command: words of the command that each of them runs.
        jobs: how many.

    Raises:
        ValueError: if none of them came to the end without a failure.
        Stopped: after SIGINT or SIGTERM, when everything is saved.
    """
    environment = {"OMP_NUM_THREADS": "1"} | os.environ
    quiet = {"stdout": subprocess.DEVNULL, "env": environment}
    processes = [subprocess.Popen(list(command), **quiet) for _ in range(jobs)]
    ended: list[int] = []

    def end(number: int, frame: Any) -> None:
        ended.append(number)
        for process in processes:
            process.terminate()

    former = signal.signal(signal.SIGTERM, end)
    try:
        ends = [process.wait() for process in processes]
    except KeyboardInterrupt as interrupt:  # which they have heard as well
        for process in processes:
            process.wait()
        raise runs.Stopped("stopped") from interrupt
    finally:
        signal.signal(signal.SIGTERM, former)
    if ended or 130 in ends:
        raise runs.Stopped("stopped")
    if all(ends):  # a worker that died is replaced by the others
        raise ValueError("the sweep is not complete; what each worker said stands above")
