"""Sweeps: work is shared, survives its workers, and settings are chosen on validation images."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from spikewire import config, facts, study, sweep
from spikewire.lock import Busy
from spikewire.records import Records, folder_name
from spikewire.run import Stopped
from spikewire.study import Grid, Search, Study
from spikewire.train import Diverged, Epoch

SMALL = ["epochs=1", "batch=200", "network.T=2", "network.width=8", "twin=false", "compile=false"]

FROM_THE_LAST = ["digits", *SMALL, "weights=../trained/model.safetensors"]


def small(name="gmp", search=(), **vary):
    words = ["digits", *SMALL, f"method={name}"]
    return Grid(name, words, vary or {"seed": [0]}, search=dict(search))


def searched(*grids, trials=2, **vary):
    return Study("t", grids=[*grids], search=Search(trials, [], vary))


def write_run(out, recipe, validation, test):
    """The files of a finished run of one epoch."""
    out.mkdir(parents=True, exist_ok=True)
    accuracy = {"validation": validation, "test": test}
    facts = {"method": "gmp", "sparsity": 0.5, "layers": [], "accuracy": {"last": test}}
    (out / "run.toml").write_text(recipe.toml())
    (out / "metrics.jsonl").write_text(
        json.dumps({"epoch": 1, "accuracy": accuracy, "sparsity": 0.5}) + "\n"
    )
    (out / "report.json").write_text(json.dumps(facts))


@pytest.fixture
def pretended(monkeypatch):
    """Training that writes what a function of the recipe says: validation and test accuracy."""
    begun = []

    def pretend(reach):
        def run(recipe, out, **_):
            begun.append(out.name)
            write_run(out, recipe, *reach(recipe))

        monkeypatch.setattr("spikewire.run.run", run)
        return begun

    return pretend


def test_two_workers_share_a_sweep_and_one_survives_the_other(tmp_path):
    """Nothing is trained twice but an epoch that SIGKILL cut off; files are equal to the bit."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("sweeping.py"), tmp_path],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    alone, shared = told["alone"], told["shared"]
    assert alone["ends"] == {"a": 0} and shared["ends"] == {"a": 9, "b": 0}
    names = sorted(run for _, run in alone["trained"])
    assert len(names) == 4 + 4
    assert sorted(run for _, run in shared["trained"]) == names
    assert {worker for worker, _ in shared["trained"]} == {"a", "b"}
    assert alone["steps"] <= shared["steps"] <= alone["steps"] + 8  # one epoch of seven calls
    taken = [p.parent.name for p in (tmp_path / "shared" / "claims").glob("*/0002")]
    (taken_over,) = [name for name in taken if name != "sweep"]
    assert ["b", taken_over] in shared["trained"]
    files = [*(f"{name}/model.safetensors" for name in names), "trials/gmp.json"]
    for file in files:
        one, other = ((tmp_path / folder / file).read_bytes() for folder in ("alone", "shared"))
        assert one == other, file


def test_the_validation_images_choose_and_not_the_test_images(tmp_path, pretended):
    """The rate that is best on test is the worst on validation; of equals the first is chosen."""
    validated = {0.1: 90.0, 0.2: 95.0, 0.3: 95.0, 0.4: 80.0}
    begun = pretended(lambda recipe: (validated[rate := recipe.optimizer.lr], 50.0 + 100 * rate))
    asked = searched(small(seed=[0, 1]), trials=4, **{"optimizer.lr": [*validated]})
    sweep.work(Records(asked, tmp_path))
    tried = sweep.trials(asked, asked.grids[0])
    equals = [t.words for t in tried if validated[t.choice["optimizer.lr"]] == 95.0]
    told = json.loads((tmp_path / "trials" / "gmp.json").read_text())
    assert told["chosen"] == equals[0]
    assert [row["validation"] for row in told["trials"]] == [
        validated[trial.choice["optimizer.lr"]] for trial in tried
    ]
    assert begun == ["gmp-0", "gmp-1", "gmp-2", "gmp-3", "gmp-0", "gmp-1"]
    for name in ("gmp-0", "gmp-1"):
        final = config.recipe(config.read(str(tmp_path / name / "run.toml")))
        assert [f"optimizer.lr={final.optimizer.lr}"] == told["chosen"]
        trial = config.recipe(config.read(str(tmp_path / "trials" / name / "run.toml")))
        assert trial.data.validation == final.data.validation == 0.1


def test_runs_can_train_on_the_images_that_trials_are_judged_on(tmp_path, pretended):
    pretended(lambda recipe: (90.0, 90.0))
    asked = searched(small(seed=[0]), trials=2, **{"optimizer.lr": [0.1, 0.2]})
    grid = replace(asked.grids[0], run=[*asked.grids[0].run, "data.validation=0.0"])
    search = replace(asked.search, run=["data.validation=0.2"])
    sweep.work(Records(replace(asked, grids=[grid], search=search), tmp_path))
    for name, share in (("gmp-0", 0.0), ("trials/gmp-0", 0.2)):
        recipe = config.recipe(config.read(str(tmp_path / name / "run.toml")))
        assert recipe.data.validation == share


def test_every_grid_is_searched_equally_and_always_alike(tmp_path):
    asked = searched(
        small(search={"method.until": [0.5, 0.6, 0.7]}, seed=[3, 4]),
        small("rigl", search={"method.churn": [0.1, 0.3]}, **{"method.sparsity": [0.8, 0.9]}),
        trials=4,
        **{"optimizer.lr": [1e-3, 3e-3, 1e-2]},
    )
    found = {grid.name: sweep.trials(asked, grid) for grid in asked.grids}
    assert found == {grid.name: sweep.trials(asked, grid) for grid in asked.grids}
    for tried in found.values():
        assert len({tuple(trial.words) for trial in tried}) == 4
    assert all(trial.run[8] == "seed=3" for trial in found["gmp"])
    assert all(trial.run[8] == "method.sparsity=0.8" for trial in found["rigl"])
    other = replace(asked, search=replace(asked.search, seed=1))
    assert sweep.trials(other, asked.grids[0]) != found["gmp"]
    more = replace(asked, search=replace(asked.search, trials=6))
    assert sweep.trials(more, asked.grids[0])[:4] == found["gmp"]


def test_a_search_can_be_repeated_and_read_by_optuna(tmp_path, pretended):
    begun = pretended(lambda recipe: (90.0, 90.0))
    asked = searched(small(), small("rigl"), **{"optimizer.lr": [1e-3, 1e-2]})
    for _ in range(2):
        sweep.work(Records(asked, tmp_path))
    assert len(begun) == 4 + 2
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "search.journal"))
    storage = optuna.storages.JournalStorage(backend)
    for name in ("gmp", "rigl"):
        trials = optuna.load_study(study_name=name, storage=storage).trials
        assert [trial.value for trial in trials] == [90.0, 90.0]
        assert [trial.params for trial in trials] == [
            trial.choice for trial in sweep.trials(asked, small(name))
        ]


def test_a_trial_that_diverges_is_lost_and_no_more(tmp_path, pretended):
    def reach(recipe):
        if recipe.optimizer.lr > 1:
            raise Diverged("no longer finite")
        return 10.0, 10.0

    pretended(reach)
    asked = searched(small(), **{"optimizer.lr": [1e-3, 9.0]})
    sweep.work(Records(asked, tmp_path))
    told = json.loads((tmp_path / "trials" / "gmp.json").read_text())
    assert told["chosen"] == ["optimizer.lr=0.001"]
    assert {(row["validation"], row["reason"]) for row in told["trials"]} == {
        (10.0, ""),
        (None, "no longer finite"),
    }
    asked = searched(small(), trials=1, **{"optimizer.lr": [9.0]})
    with pytest.raises(ValueError, match="trials/gmp: every trial failed.* no longer finite"):
        sweep.work(Records(asked, tmp_path / "none"))


def test_a_run_is_left_to_a_process_that_still_holds_its_folder(tmp_path, pretended, monkeypatch):
    """As that of a worker which was paused for so long that it was taken for dead."""
    monkeypatch.setattr(sweep, "_POLL", 0.01)
    holding = [True]

    def reach(recipe):
        if holding:
            holding.pop()
            raise Busy("another process is at work")
        return 90.0, 90.0

    begun = pretended(reach)
    sweep.work(Records(Study("Small", grids=[small(seed=[0])]), tmp_path))
    assert begun == ["gmp-0", "gmp-0"]


def test_a_run_that_diverges_does_not_keep_the_others_from_their_end(tmp_path, pretended):
    def reach(recipe):
        if recipe.seed == 0:
            raise Diverged("no longer finite")
        return 10.0, 10.0

    begun = pretended(reach)
    asked = Records(Study("t", grids=[small(seed=[0, 1, 2])]), tmp_path)
    with pytest.raises(ValueError, match="all is done but what failed: gmp-0: no longer finite"):
        sweep.work(asked)
    assert begun == ["gmp-0", "gmp-1", "gmp-2"]
    assert asked.missing(asked.study.all_runs) == ["gmp-0"]


def test_a_run_waits_for_the_network_that_it_starts_from(tmp_path, pretended):
    def reach(recipe):
        if recipe.weights:
            assert (tmp_path / "trained" / "report.json").is_file()
        else:
            (tmp_path / "trained" / "model.safetensors").touch()
        return 10.0, 10.0

    (tmp_path / "trained").mkdir()
    begun = pretended(reach)
    runs = {"pruned": FROM_THE_LAST, "trained": ["digits", *SMALL]}
    sweep.work(Records(Study("t", runs=runs), tmp_path))
    assert begun == ["trained", "pruned"]


def test_what_starts_from_a_run_that_failed_is_left(tmp_path, pretended):
    def reach(recipe):
        raise Diverged("no longer finite")

    begun = pretended(reach)
    again = ["digits", *SMALL, "possible=../pruned/model.safetensors"]
    runs = {"again": again, "pruned": FROM_THE_LAST, "trained": ["digits", *SMALL]}
    lost = "pruned: it starts from the network of trained; again: it starts from .* of pruned"
    with pytest.raises(ValueError, match=lost):
        sweep.work(Records(Study("t", runs=runs), tmp_path))
    assert begun == ["trained"]


def test_a_network_that_is_gone_is_named(tmp_path, pretended):
    pretended(lambda recipe: (10.0, 10.0))  # which leaves no network
    runs = {"trained": ["digits", *SMALL], "pruned": FROM_THE_LAST}
    with pytest.raises(ValueError, match="starts from model.safetensors of the run trained, which"):
        sweep.work(Records(Study("t", runs=runs), tmp_path))


def test_a_run_that_fails_is_named_and_can_be_had_by_others(tmp_path, pretended):
    def fail(recipe):
        raise ValueError("it does not fit")

    pretended(fail)
    asked = Records(Study("t", runs={"one": ["digits"]}), tmp_path)
    for _ in range(2):  # the second does not wait until the claim of the first is stale
        with pytest.raises(ValueError, match="one: it does not fit"):
            sweep.work(asked)


def test_who_was_taken_for_dead_leaves_the_run_to_its_heir(tmp_path, monkeypatch):
    """A machine that slept wakes up in the middle of a run that another one has taken over."""
    epochs = []

    def run(recipe, out, *, show, **_):
        epochs.append(out.name)
        if len(epochs) == 1:
            (tmp_path / "claims" / "one" / "0002").touch()  # by the heir
            show(out, recipe, Epoch(1, 6, 7, 6), None)
            show(out, recipe, Epoch(1, 7, 7, 7), None)
            pytest.fail("went on")
        write_run(out, recipe, 90.0, 90.0)

    monkeypatch.setattr("spikewire.run.run", run)
    sweep.work(Records(Study("t", runs={"one": ["digits"]}), tmp_path), patience=0.2)
    assert epochs == ["one", "one"]  # the heir died in turn


def test_the_command_with_two_processes(command, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(
        'title = "Mine"\n[search]\ntrials = 1\nvary = { "optimizer.lr" = [1e-3, 1e-2] }\n'
        '[[grids]]\nname = "gmp"\nrun = ["digits"]\nvary = { seed = [0, 1] }\n'
    )
    words = ["sweep", file, *SMALL, "--records", tmp_path / "here"]
    status, printed, said = command(*words, "--jobs", 2, "--json")
    assert status == 0, said
    place = tmp_path / "here" / folder_name(sorted(SMALL))
    told = json.loads(printed)
    assert (told["folder"], told["runs"]) == (str(place), ["gmp-0", "gmp-1"])
    again = sweep.settled(sweep.read(place))
    assert again.missing(again.study.all_runs) == []
    status, printed, _ = command(*words)
    assert status == 0 and "gmp: optimizer.lr=" in printed and str(place) in printed
    status, printed, said = command("reproduce", file, *SMALL, "--records", tmp_path / "here")
    assert status == 0, said
    assert "| gmp | tiny | digits | 2 |" in (place / "README.md").read_text()
    file.write_text(file.read_text().replace("trials = 1", "trials = 2"))  # what was swept stands
    status, printed, said = command("reproduce", file, *SMALL, "--records", tmp_path / "here")
    assert status == 0, said
    assert command("reproduce", file, *SMALL, "--train")[0] == 2


def test_an_interrupted_worker_stops_and_gives_its_claim_back(tmp_path, monkeypatch):
    def stop(*_, **__):
        raise Stopped("stopped")

    monkeypatch.setattr("spikewire.run.run", stop)
    with pytest.raises(Stopped):
        sweep.work(Records(Study("t", runs={"one": ["digits"]}), tmp_path))
    assert (tmp_path / "claims" / "one" / "0001").stat().st_mtime == 0


@pytest.mark.parametrize(
    ("asked", "settings", "message"),
    [
        (searched(small(), **{"optimizer.lr": [0.1]}), [], "grid gmp has 1 choices"),
        (searched(small(), seed=[0, 1]), [], "seed of grid gmp is both varied and searched"),
        (searched(small(), **{"optimizer.rl": [1, 2]}), [], "trials/gmp-0: unknown key"),
        (searched(small(), **{"method.until": [1, 2]}), ["method.until=1"], "is searched for"),
        (searched(small(), epochs=[1, 2]), ["data.validation=0"], "no validation images"),
        (searched(small(batch=[0, 1]), epochs=[1, 2]), [], "gmp-0: batch"),
        (Study("t", runs={"one": ["digits", "epoch=1"]}), [], "one: unknown key epoch"),
        (
            replace(
                searched(Grid("gmp", FROM_THE_LAST, {"seed": [0]}), epochs=[1, 2]),
                runs={"trained": ["digits", *SMALL]},
            ),
            [],
            "gmp-0 starts from the network of trained: where settings are searched for",
        ),
        (
            replace(
                searched(small(), epochs=[1, 2]),
                runs={"late": ["digits", *SMALL, "weights=../gmp-0/model.safetensors"]},
            ),
            [],
            "late starts from the network of gmp-0: where settings are searched for",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(tmp_path, asked, settings, message):
    with pytest.raises(ValueError, match=message):
        sweep.work(Records(asked, tmp_path / "here", settings))
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("name", [name for name in study.names() if study.read(name).search])
def test_every_search_that_is_shipped_can_be_done(name):
    asked = study.read(name)
    sweep.check(Records(asked, Path("nowhere")))
    assert {grid.name for grid in asked.grids} >= {
        *("gmp", "set", "rigl", "granet", "ndsnn", "criticality", "itop", "esl", "snip"),
        *("one-shot", "gradr", "stds", "deepr"),
    }
    for grid in asked.grids:
        assert len(sweep.trials(asked, grid)) == 8
        assert f"method={grid.name}" in grid.run and grid.vary["seed"] == [0, 1, 2]


def test_another_search_in_the_same_folder_is_refused(tmp_path, pretended):
    pretended(lambda recipe: (90.0, 90.0))
    sweep.work(Records(searched(small(), epochs=[1, 2]), tmp_path))
    summary = (tmp_path / "sweep.toml").read_text()
    longer = searched(small(), epochs=[1, 2])
    longer = replace(longer, search=replace(longer.search, run=["batch=100"]))
    for other in (searched(small(), epochs=[1, 3]), longer):
        with pytest.raises(ValueError, match="another search for grid gmp"):
            sweep.work(Records(other, tmp_path))
        assert (tmp_path / "sweep.toml").read_text() == summary


def test_a_search_can_be_made_longer(tmp_path, pretended):
    """What was tried is kept; another choice then makes other runs."""
    begun = pretended(lambda recipe: (recipe.optimizer.lr, 90.0))
    rates = {"optimizer.lr": [1e-3, 2e-3, 3e-3]}
    sweep.work(Records(searched(small(), trials=2, **rates), tmp_path / "a"))
    former = json.loads((tmp_path / "a" / "trials" / "gmp.json").read_text())
    begun.clear()
    shutil.rmtree(tmp_path / "a" / "gmp-0")
    sweep.work(Records(searched(small(), trials=3, **rates), tmp_path / "a"))
    assert begun == ["gmp-2", "gmp-0"]
    told = json.loads((tmp_path / "a" / "trials" / "gmp.json").read_text())
    assert told["trials"][:2] == former["trials"]
    assert told["chosen"] == ["optimizer.lr=0.003"]
    assert [trial["sparsity"] for trial in told["trials"]] == [0.5] * 3


def test_a_search_can_be_made_shorter(tmp_path, pretended):
    """What it does not ask for any more plays no part in the choice."""
    begun = pretended(lambda recipe: (recipe.optimizer.lr, 90.0))
    rates = {"optimizer.lr": [1e-3, 2e-3, 3e-3]}
    asked = [searched(small(), trials=trials, **rates) for trials in (3, 2)]
    sweep.work(Records(asked[0], tmp_path))
    shutil.rmtree(tmp_path / "gmp-0")
    begun.clear()
    sweep.work(Records(asked[1], tmp_path))
    assert begun == ["gmp-0"]
    told = json.loads((tmp_path / "trials" / "gmp.json").read_text())
    left = sweep.trials(asked[1], asked[1].grids[0])
    assert [trial["settings"] for trial in told["trials"]] == [trial.words for trial in left]
    highest = max(left, key=lambda trial: trial.choice["optimizer.lr"])
    assert told["chosen"] == highest.words


def test_a_folder_without_a_sweep(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no sweep"):
        sweep.read(tmp_path)


def test_trials_are_judged_by_the_network_that_is_left_in_the_end(tmp_path):
    """A schedule that leaves the pruning to finish() has the better accuracies before it."""
    late = small("ndsnn", {"method.every": [1000]}, **{"method.sparsity": [0.99], "seed": [0]})
    asked = searched(late, trials=1)
    sweep.work(Records(asked, tmp_path))
    (trial,) = json.loads((tmp_path / "trials" / "ndsnn.json").read_text())["trials"]
    run = facts.read(tmp_path / trial["run"])
    assert trial["sparsity"] == run.report["sparsity"] == pytest.approx(0.99, abs=2e-3)
    assert trial["validation"] == run.report["accuracy"]["validation"]
    assert run.records[-1]["sparsity"] < 0.7
