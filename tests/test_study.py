"""Studies: their files, their tables by hand, their figures, and training what is missing."""

import json
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spikewire import config, study, tables, words
from spikewire.config import override
from spikewire.lock import alone
from spikewire.nets.neurons import LIF
from spikewire.records import KINDS, Records, folder_name
from spikewire.schedules import at
from spikewire.study import Drawing, Grid, Row, Study

SMALL = ["epochs=2", "network.T=2", "network.width=8", "twin=false", "compile=false"]


def recipe_of(name, *words):
    """What run.toml of a recipe says."""
    return config.recipe(override(config.read(name), words)).toml()


def write_run(folder, accuracies, sparsities, method="gradr", seed=0, toml="", validation=None):
    """Write the files of a finished run."""
    folder.mkdir(parents=True)
    histogram = {"low": -1.0, "high": 1.0, "counts": [1, 5, 2]}
    records = [
        {
            "epoch": epoch,
            "accuracy": {"train": 99.0, "validation": validation, "test": accuracy},
            "sparsity": sparsity,
            "connectivity": 1 - sparsity,
            "layers": [
                {"name": name, "synapses": 100, "alive": 50, "pruned": 7 + rank, "regrown": 2}
                for rank, name in enumerate(("fc1.weight", "fc2.weight"))
            ],
            "histograms": {
                name: {"weight": histogram, "theta": histogram}
                for name in ("fc1.weight", "fc2.weight")
            },
        }
        for epoch, (accuracy, sparsity) in enumerate(zip(accuracies, sparsities, strict=True), 1)
    ]
    facts = {
        "method": method,
        "network": "fc",
        "data": "mnist",
        "seed": seed,
        "epochs": len(records),
        "sparsity": sparsities[-1],
        "accuracy": {"last": accuracies[-1]},
        "layers": records[-1]["layers"],
        "distributions": {"fc1.weight": histogram},
        "firing": [
            {"name": "lif1", "neurons": 8, "rate": 0.1, "silent": 1, "histogram": histogram}
        ],
    }
    (folder / "run.toml").write_text(toml or f"seed = {seed}\n")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (folder / "report.json").write_text(json.dumps(facts))


@pytest.mark.parametrize("name", study.names())
def test_every_run_of_a_study_is_a_recipe(name):
    asked = study.read(name)
    for run, (recipe, *settings) in asked.all_runs.items():
        assert config.recipe(override(config.read(recipe), settings)), run
    records = Records(asked, Path("nowhere"))
    for item in asked.items:
        assert set(records.needed(item)) <= set(asked.all_runs)
    for drawing in asked.figures:
        assert drawing.kind in KINDS


def test_paper_g_has_the_numbers_of_its_tables():
    """Tables 1, 2 and 4 of Chen et al. 2021."""
    asked = study.read("paper-g")
    numbers = {
        (row.method, row.dataset, row.alpha): (row.paper_connectivity, row.paper_accuracy)
        for row in asked.rows
    }
    assert numbers["Grad R", "MNIST", 0.2] == (1.38, 90.84)
    assert numbers["Grad R", "CIFAR-10", 0.005] == (0.73, 89.32)
    assert numbers["Deep R", "MNIST", 0.0] == (37.14, 98.56)
    assert numbers["no pruning", "CIFAR-10", None] == (100.0, 92.84)
    assert {item for item in asked.items if item.startswith("figure")} == {
        f"figure-{number}" for number in range(3, 8)
    }
    in_table_4 = [row for row in asked.rows if "table-4" in row.tables]
    assert len(in_table_4) == 5 + 2 + 4 + 7 + 3
    for row in in_table_4:
        for run in row.runs:
            words = override(config.read(asked.runs[run][0]), asked.runs[run][1:])
            chosen = config.recipe(words).method
            assert row.alpha in (getattr(chosen, "alpha", None), getattr(chosen, "l1", None))


def recipe_in(asked, run):
    """What a run of a study trains."""
    name, *settings = asked.all_runs[run]
    return config.recipe(override(config.read(name), settings))


def test_no_run_of_paper_c_is_trained_twice():
    asked = study.read("paper-c")
    recipes = [recipe_in(asked, run).toml() for run in asked.all_runs]
    recipes = [text.replace('surrogate = "arctan"\n', "") for text in recipes]  # the default
    assert len(set(recipes)) == len(recipes)


def test_channel_methods_are_compared_at_equal_cost():
    asked = study.read("paper-c-quarter")
    grids = [grid for grid in asked.grids if grid.tables == ["channels"]]
    assert len(grids) == 7
    shared = set()
    for grid in grids:
        assert len(grid.runs()) == 3
        for run in grid.runs():
            chosen = recipe_in(asked, run)
            assert (chosen.method.operations, chosen.data.fraction) == (0.5, 0.2)
            told = chosen.dump()
            shared.add(str({key: told[key] for key in told if key not in ("method", "seed")}))
    assert len(shared) == 1
    rows = [row for row in asked.all_rows if row.tables == ["channels-differences"]]
    assert {row.runs[0] for row in rows[:6]} == {"channels-slim-criticality-*"}
    assert {row.rivals[0] for row in rows[:6]} == {f"{g.name}-*" for g in grids[1:]}
    for row in rows:  # no pattern names the runs of two methods
        for pattern in (*row.runs, *row.rivals):
            assert len(Records(asked, Path()).matching([pattern])) == 3


def test_networks_of_paper_c_are_those_of_its_text_but_for_the_released_code():
    """Table 2: a threshold of 1, and a membrane that keeps a quarter, everywhere."""
    asked = study.read("paper-c")
    networks = {}
    for run in asked.all_runs:
        chosen = recipe_in(asked, run)
        networks.setdefault(str(chosen.network), (run, chosen.network))
        if "released" in run:  # cross-entropy / T, under SGD with momentum
            settings = chosen.optimizer.lr, chosen.optimizer.weight_decay
            assert settings == pytest.approx((0.3 / 5, 1e-4 * 5))
    for run, network in networks.values():
        with torch.device("meta"):
            layers = [m for m in config.build(network).modules() if isinstance(m, LIF)]
        threshold = 0.5 if "released" in run else 1.0
        assert {(m.tau, m.v_threshold) for m in layers} == {(4 / 3, threshold)}, run
        assert not any(m.detach_reset for m in layers), run


def test_paper_c_follows_gains_through_fine_tuning_with_a_push():
    drawings = (("paper-c", "figure-3-b", 1e-4), ("paper-c-quarter", "transition", 1e-3))
    for name, figure, push in drawings:
        asked = study.read(name)
        (drawn,) = (drawing for drawing in asked.figures if drawing.name == figure)
        for run in drawn.runs.values():
            assert at(recipe_in(asked, run).method.l1, 1.0) == push
            assert callable(recipe_in(asked, run).method.l1)


def test_paper_c_has_the_numbers_of_its_tables():
    """Tables 1, 3, 4 and 5 of Chen, Liu, Liu and You 2023."""
    asked = study.read("paper-c")

    def number(table, method, data, **given):
        found = [
            row
            for row in asked.rows
            if table in row.tables
            and row.method == method
            and row.dataset.endswith(data)
            and all(getattr(row, f"paper_{key}") == value for key, value in given.items())
        ]
        (row,) = found
        return row.paper_accuracy

    assert number("table-1", "criticality", "ResNet19") == 73.01
    assert number("table-1", "IMP (Kim 2022)", "ResNet19", epochs=3380) == 70.54
    assert number("table-3", "criticality", "CIFAR-100, VGG16", connectivity=4.31) == 72.23
    assert number("table-3", "criticality", "6Conv-2FC", connectivity=0.69) == 90.45
    assert number("table-3", "RigL (Evci 2020)", "ResNet19", connectivity=2.0) == 37.98
    assert number("table-5", "without regrowth", "VGG16", connectivity=1.87) == 69.98
    assert number("table-4", "GReg", "VGG16", operations=57.21) == 70.13
    assert number("table-4", "criticality", "ResNet19", operations=67.85) == 72.51
    assert [sum(f"table-{n}" in row.tables for row in asked.rows) for n in (1, 3, 4, 5)] == [
        *(5, 46, 12, 9)
    ]
    assert {item for item in asked.items if item.startswith("figure")} == {
        f"figure-{number}" for number in range(2, 7)
    }
    assert "entropy" in asked.items
    for row in asked.rows:
        for run in row.runs:
            chosen = recipe_in(asked, run).method
            if row.ratio is not None and run.partition("-")[0] != "ratio":
                assert row.ratio == chosen.churn
            if row.paper_operations is not None:
                assert chosen.operations == pytest.approx(row.paper_operations / 100)
            elif row.paper_connectivity not in (None, 100.0):
                assert chosen.sparsity == pytest.approx(1 - row.paper_connectivity / 100)


def test_a_row_is_the_mean_over_the_runs_that_are_there(tmp_path):
    asked = Study(
        "t",
        grids=[Grid("a", ["mnist"], {"seed": [0, 1, 2]})],
        rows=[
            Row(["table-1"], "A", "MNIST", 0.1, 9.0, 97.0, ["a-*"]),
            Row(["table-1"], "B", "MNIST", paper_accuracy=95.0),
        ],
    )
    for seed, accuracies, final in ((0, [99.0, 97.0, 96.0], 0.9), (1, [99.0, 95.0, 94.0], 0.88)):
        toml = recipe_of("mnist", f"seed={seed}")
        write_run(tmp_path / f"a-{seed}", accuracies, [0.0, final, final], seed=seed, toml=toml)
    records = Records(asked, tmp_path)
    assert records.missing(asked.all_runs) == ["a-2"]
    ours, theirs = records.table("table-1")
    assert ours == {
        "method": "A",
        "dataset": "MNIST",
        "alpha": 0.1,
        "ratio": None,
        "connectivity": pytest.approx(11.0),
        "operations": None,
        "accuracy": 95.0,
        "accuracy_std": pytest.approx(2**0.5),
        "best_on_test": 96.0,  # not 99: that network was dense
        "validation": None,
        "difference": None,
        "interval": None,
        "pairs": 0,
        "paper": "A",
        "paper_connectivity": 9.0,
        "paper_operations": None,
        "paper_accuracy": 97.0,
        "paper_epochs": None,
        "epochs": 3,
        "seeds": 2,
    }
    assert (theirs["accuracy"], theirs["seeds"], theirs["paper_accuracy"]) == (None, 0, 95.0)
    columns, lines = tables.text([ours, theirs])
    assert {"alpha", "paper conn. %"} < {*columns} and "validation" not in columns
    accuracy = columns.index("acc. %")
    assert (lines[0][accuracy], lines[1][accuracy]) == ("95.00 ± 1.41", words.NONE)


def test_operations_saved_are_those_that_methods_count(tmp_path):
    """Not what was measured, which leaves out padding; unknown of records from before."""
    names = ["old", "new", "newer"]
    asked = Study(
        "t",
        runs={name: ["mnist"] for name in names},
        rows=[Row(["t"], "old", "MNIST", runs=["old"]), Row(["t"], "new", "MNIST", runs=["new*"])],
    )
    for name, saving in zip(names, ({}, {"saving": 0.25}, {"saving": 0.5}), strict=True):
        write_run(tmp_path / name, [96.0], [0.5], toml=recipe_of("mnist"))
        file = tmp_path / name / "report.json"
        compact = {"parameters": 9, "multiplications": 90.0, "bytes": 36, **saving}
        told = json.loads(file.read_text()) | {"dense_synops": 100.0, "compact": compact}
        file.write_text(json.dumps(told))
    rows = Records(asked, tmp_path).table("t")
    assert [row["operations"] for row in rows] == [None, 37.5]


def test_a_grid_has_a_row_for_each_choice_and_one_for_all_seeds(tmp_path):
    vary = {"optimizer.lr": [0.1, 0.2], "seed": [0, 1]}
    grid = Grid("a", ["mnist"], vary, tables=["trials"], method="GMP", dataset="MNIST")
    asked = Study("t", grids=[grid])
    for seed, accuracy in ((0, 96.0), (1, 97.0)):
        toml = recipe_of("mnist", "optimizer.lr=0.2", f"seed={seed}")
        folder = tmp_path / f"a-0.2-{seed}"
        write_run(folder, [accuracy], [0.9], seed=seed, validation=98.0, toml=toml)
    records = Records(asked, tmp_path)
    assert records.needed("trials") == ["a-0.1-0", "a-0.1-1", "a-0.2-0", "a-0.2-1"]
    assert tables.text(records.table("trials"))[1] == [
        ["GMP, lr 0.1", "MNIST", *[words.NONE] * 6],
        ["GMP, lr 0.2", "MNIST", "10.00", "98.00", "96.50 ± 0.71", "96.50", "1", "2"],
    ]


def test_numbers_of_a_row_are_of_the_same_runs(tmp_path):
    grid = Grid("a", ["mnist"], {"seed": [0, 1]}, tables=["t"], method="GMP", dataset="MNIST")
    for seed, validation in ((0, 98.0), (1, None)):
        toml = recipe_of("mnist", f"seed={seed}")
        folder = tmp_path / f"a-{seed}"
        write_run(folder, [96.0 + seed], [0.9], seed=seed, validation=validation, toml=toml)
    (row,) = Records(Study("t", grids=[grid]), tmp_path).table("t")
    assert (row["accuracy"], row["validation"]) == (96.5, None)


def test_the_best_on_test_is_told_if_all_epochs_were_tested(tmp_path):
    row = Row(["t"], "A", "MNIST", runs=["a"])
    write_run(tmp_path / "a", [98.0, 96.0], [0.9, 0.9], toml=recipe_of("mnist"))
    records = Records(Study("t", runs={"a": ["mnist"]}, rows=[row]), tmp_path)
    assert records.table("t")[0]["best_on_test"] == 98.0
    metrics = tmp_path / "a" / "metrics.jsonl"
    first, last = map(json.loads, metrics.read_text().splitlines())
    first["accuracy"]["test"] = None
    metrics.write_text(f"{json.dumps(first)}\n{json.dumps(last)}\n")
    assert records.table("t")[0]["best_on_test"] is None


def test_a_row_over_several_sparsities_has_no_spread_over_seeds(tmp_path):
    runs = {
        f"a-{sparsity}-{seed}": ["mnist", f"method.sparsity={sparsity}", f"seed={seed}"]
        for sparsity in (0.8, 0.9) for seed in (0, 1)
    }  # fmt: skip
    for name, asked in runs.items():
        sparsity, seed = (float(word) for word in name.split("-")[1:])
        epochs = 1 + (sparsity == 0.8)
        accuracies, sparsities = [90.0 + seed] * epochs, [sparsity] * epochs
        write_run(tmp_path / name, accuracies, sparsities, seed=int(seed), toml=recipe_of(*asked))
    rows = [Row(["t"], name, "MNIST", runs=[f"a-{name}-*"]) for name in ("*", "0.9")]
    both, one = Records(Study("t", runs=runs, rows=rows), tmp_path).table("t")
    assert (both["accuracy"], both["accuracy_std"], both["epochs"]) == (90.5, None, None)
    assert (one["accuracy_std"], one["epochs"]) == (pytest.approx(0.5**0.5), 1)
    columns, lines = tables.text([both, one])
    assert [line[columns.index("acc. %")] for line in lines] == ["90.50", "90.50 ± 0.71"]


def test_no_setting_makes_a_run_start_from_its_own_network(tmp_path):
    runs = {"a": ["mnist", "possible=../b/masks.pt"], "b": ["mnist"]}
    with pytest.raises(ValueError, match="no run can start from its own network"):
        Records(Study("t", runs=runs), tmp_path, ["weights=../a/model.safetensors"])


def test_a_word_of_a_run_that_sets_nothing_is_named(tmp_path):
    asked = Study("t", runs={"a": ["mnist", "epochs"]})
    with pytest.raises(ValueError, match="'epochs': write key=value"):
        Records(asked, tmp_path).missing(["a"])


def test_runs_are_compared_with_their_rivals_seed_by_seed(tmp_path):
    vary = {"method.sparsity": [0.8, 0.9], "seed": [0, 1, 2]}
    shared = {"tables": ["t"], "dataset": "MNIST"}
    asked = Study(
        "t",
        grids=[
            Grid("with", ["mnist"], vary, method="with", against="without", **shared),
            Grid("without", ["mnist", "method=gmp"], vary, method="without", **shared),
        ],
    )
    for name, accuracies in (("with", [96.0, 98.0, 97.0]), ("without", [95.0, 96.0])):
        for seed, accuracy in enumerate(accuracies):
            words = ["method.sparsity=0.9", f"seed={seed}"]
            words = ["method=gmp", *words] if name == "without" else words
            toml = recipe_of("mnist", *words)
            write_run(tmp_path / f"{name}-0.9-{seed}", [accuracy], [0.9], seed=seed, toml=toml)
    records = Records(asked, tmp_path)
    assert set(records.needed("t")) == set(asked.all_runs)
    rows = {row["method"]: row for row in records.table("t")}
    ours = rows["with, sparsity 0.9"]
    assert ours["difference"] == 1.5  # of seeds 0 and 1
    assert ours["interval"] == pytest.approx(12.7062 * 0.5**0.5 / 2**0.5, rel=1e-4)
    assert rows["with, sparsity 0.8"]["difference"] is None
    assert rows["without, sparsity 0.9"]["difference"] is None
    columns, lines = tables.text([ours])
    assert lines[0][columns.index("difference, 95 %")] == "+1.50 ± 6.35"


def test_rows_of_a_grid_are_about_its_own_runs(tmp_path):
    """Whatever other grids are called, and whatever characters of patterns values have."""
    shared = {"tables": ["t"], "dataset": "MNIST"}
    seeds, odd = {"seed": [0, 1]}, {"only": [["fc*"], ["conv?"]], "seed": [0, 1]}
    grids = [
        Grid("gmp", ["mnist"], seeds, method="GMP", against="set", **shared),
        Grid("gmp-late", ["mnist"], seeds, method="late", **shared),
        Grid("set", ["mnist"], seeds, method="SET", **shared),
        Grid("set-late", ["mnist"], seeds, method="SET late", **shared),
        Grid("a", ["mnist"], odd, method="odd", against="b", **shared),
        Grid("b", ["mnist"], odd | {"seed": [1, 0, 2]}, method="rival", **shared),
    ]
    asked = Study("t", grids=grids)
    records = Records(asked, tmp_path)
    rows = {row.method: row for row in asked.all_rows}
    named = {name: records.matching(row.runs) for name, row in rows.items()}
    assert named["GMP"] == ["gmp-0", "gmp-1"]
    assert records.matching(rows["GMP"].rivals) == ["set-0", "set-1"]
    assert named["odd, only ['fc*']"] == ["a-['fc*']-0", "a-['fc*']-1"]
    rivals = records.matching(rows["odd, only ['conv?']"].rivals)
    assert rivals == ["b-['conv?']-1", "b-['conv?']-0", "b-['conv?']-2"]
    assert records.needed("t") and records.table("t")
    wrong = Study("t", grids=[Grid("a", ["mnist"], seeds, against="b", method="A", **shared)])
    with pytest.raises(ValueError, match="b: the study has no such run"):
        Records(wrong, tmp_path).needed("t")


def test_runs_come_seed_by_seed():
    """An unfinished study then has all that it compares, if with fewer seeds."""
    grids = [Grid(name, ["mnist"], {"seed": [0, 10, 2]}) for name in "ab"]
    asked = Study("t", runs={"c": ["mnist"]}, grids=grids)
    assert list(asked.all_runs) == ["c", "a-0", "b-0", "a-2", "b-2", "a-10", "b-10"]


def row_of(folder, told):
    """The row of a table about runs: sparsity, seed, accuracy if finished, other settings."""
    rows = [Row(["t"], "with", "MNIST", runs=["with-*"], rivals=["without-*"])]
    runs = {}
    for name, cases in told.items():
        for number, (sparsity, seed, accuracy, *others) in enumerate(cases):
            words = [f"method.sparsity={sparsity}", f"seed={seed}", *others]
            runs[f"{name}-{number}"] = ["mnist", *words]
            if accuracy is None:
                continue
            toml = recipe_of("mnist", *words)
            write_run(folder / f"{name}-{number}", [accuracy], [sparsity], seed=seed, toml=toml)
    (row,) = Records(Study("t", runs=runs, rows=rows), folder).table("t")
    return row


def test_a_row_over_several_sparsities_compares_runs_of_the_same(tmp_path):
    told = {
        "with": [(0.8, 0, 97.0), (0.9, 0, 95.0), (0.8, 1, 99.0), (0.9, 1, 94.0)],
        "without": [(0.8, 0, 96.0), (0.9, 0, 92.0), (0.8, 1, 96.0), (0.9, 1, 92.0)],
    }
    row = row_of(tmp_path, told)
    assert row["seeds"] == 2
    assert row["pairs"] == 2  # runs of one seed are one observation, whatever their sparsity
    assert row["difference"] == 2.25  # of (1 + 3) / 2 and (3 + 2) / 2
    assert row["interval"] == pytest.approx(12.7062 * 0.125**0.5 / 2**0.5, rel=1e-4)


def test_what_is_not_finished_on_both_sides_is_not_compared(tmp_path):
    """One run a seed on one side does not mean that its rivals are of the same sparsity."""
    told = {
        "with": [(0.9, 0, 95.0)],
        "without": [(0.8, 0, 96.0), (0.9, 0, 92.0), (0.98, 0, 70.0)],
    }
    assert row_of(tmp_path / "one", told)["difference"] == 3.0
    told = {
        "with": [(0.9, 0, 95.0), (0.98, 0, None)],
        "without": [(0.9, 0, None), (0.98, 0, 70.0)],
    }
    assert row_of(tmp_path / "two", told)["difference"] is None


def test_an_unfinished_seed_is_not_compared_by_what_it_has_so_far(tmp_path):
    told = {
        "with": [(0.9, 0, 95.0), (0.98, 0, 80.0), (0.9, 1, 96.0), (0.98, 1, None)],
        "without": [(0.9, 0, 95.0), (0.98, 0, 74.0), (0.9, 1, 96.0), (0.98, 1, None)],
    }
    row = row_of(tmp_path, told)
    assert (row["pairs"], row["difference"]) == (1, 3.0)


def test_data_sets_count_alike_and_the_interval_is_for_these(tmp_path):
    fashion = "data.name=fashion-mnist"
    gains = {"": (1.0, 2.0), fashion: (10.0, 10.0)}
    told: dict[str, list] = {"with": [], "without": []}
    for more, (first, second) in gains.items():
        for seed, gain in enumerate((first, second)):
            others = [more] if more else []
            told["with"].append((0.9, seed, 80.0 + gain, *others))
            told["without"].append((0.9, seed, 80.0, *others))
    row = row_of(tmp_path, told)
    assert (row["pairs"], row["difference"]) == (4, 5.75)
    # one group has the variance 1/2 of two, the other none: Welch's freedom is 1
    assert row["interval"] == pytest.approx(12.7062 * (0.5 / 2) ** 0.5 / 2, rel=1e-4)


def test_runs_that_nothing_tells_apart_are_not_averaged(tmp_path):
    told = {"with": [(0.9, 0, 95.0), (0.9, 0, 96.0)], "without": [(0.9, 0, 92.0)]}
    with pytest.raises(ValueError, match="one of two runs of seed 0 on fc and mnist"):
        row_of(tmp_path, told)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[grids]]\nname = 'a'\nrun = ['mnist']\nvary = {seed = [0]}\n" * 2, "two of the run a-0"),
        (
            "[runs]\na-0 = ['mnist']\n[[grids]]\nname = 'a'\nrun = ['mnist']\nvary = {seed = [0]}",
            "two of the run a-0",
        ),
        (
            "[[contrasts]]\narms = {a = 'A', a-b = 'B'}\npairs = [['a', 'a-b']]\ntables.t = {}",
            "runs of the arm a-b are found under a too",
        ),
        (
            "[[grids]]\nname = 'a'\nrun = ['mnist']\nvary = {seed = [1, 0, 1]}",
            "grid a varies seed over .1, 0, 1.: give each value once",
        ),
        ("[search]\ntrials = 1\nvary = {epochs = []}", "the search varies epochs over "),
        (
            "[runs]\na = ['mnist', 'weights=../b/n.pt']\nb = ['mnist', 'weights=../a/n.pt']",
            "no run can start from its own network",
        ),
        ("course = 'b'\n[runs]\na = ['mnist']", "no course 'b'"),
        (
            "[[grids]]\nname = 'a'\nrun = ['mnist']\nvary = {seed = [0]}\nsearch = {epochs = [1]}",
            "grid a adds to a search that the study has not",
        ),
    ],
)
def test_two_of_one_name_are_refused(tmp_path, text, message):
    (tmp_path / "mine.toml").write_text(f"title = 'x'\n{text}")
    with pytest.raises(ValueError, match=message):
        study.read(str(tmp_path / "mine.toml"))


def test_what_a_study_varies_is_not_laid_over_it(tmp_path):
    grid = Grid("a", ["mnist"], {"seed": [0, 1], "network.bias": [True]})
    assert grid.runs() == {
        "a-0-True": ["mnist", "seed=0", "network.bias=true"],
        "a-1-True": ["mnist", "seed=1", "network.bias=true"],
    }
    with pytest.raises(ValueError, match="seed=5: the study varies seed"):
        Records(Study("t", grids=[grid]), tmp_path, ["seed=5"])


def test_a_row_over_several_data_sets_counts_each_of_them(tmp_path):
    told = {
        "with": [(0.9, 0, 95.0), (0.9, 0, 80.0, "data.name=fashion-mnist")],
        "without": [(0.9, 0, 94.0), (0.9, 0, 77.0, "data.name=fashion-mnist")],
    }
    row = row_of(tmp_path, told)
    assert (row["pairs"], row["difference"]) == (2, 2.0)
    columns, (line,) = tables.text([row])
    assert line[columns.index("pairs")] == "2"  # of one seed


def test_a_study_that_asks_for_costs_tells_and_draws_them(tmp_path):
    settings = {"erk": "method.share=erk", "compute": "method.share=compute"}
    runs = {name: ["mnist", word] for name, word in settings.items()}
    rows = [Row(["t"], name, "MNIST", runs=[name]) for name in settings]
    rows.append(Row(["t"], "somebody's", "MNIST", paper_accuracy=95.0))
    runs["unknown"] = ["mnist"]  # to the engine
    rows.append(Row(["t"], "unknown", "MNIST", runs=["unknown"]))
    write_run(tmp_path / "unknown", [97.0], [0.9], toml=recipe_of("mnist"))
    figures = [Drawing("costs", "costs", table="t", dataset="MNIST")]
    for name, (synops, milliseconds) in {"erk": (3e6, 1.25), "compute": (1e6, 0.5)}.items():
        folder = tmp_path / name
        write_run(folder, [97.0], [0.9], toml=recipe_of(*runs[name]))
        facts = json.loads((folder / "report.json").read_text())
        facts |= {"synops": synops, "engine": {"milliseconds_sparse": milliseconds}}
        (folder / "report.json").write_text(json.dumps(facts))
    asked = Study("t", runs=runs, rows=rows, figures=figures, costs=["synops", "milliseconds"])
    records = Records(asked, tmp_path)
    columns, lines = tables.text(records.table("t"))
    told = [[line[columns.index(name)] for name in ("SynOps", "engine ms")] for line in lines]
    assert told == [["3,000,000", "1.250"], ["1,000,000", "0.500"], *2 * [2 * [words.NONE]]]
    (plot,) = records.draw("costs")
    assert plot.rows[:2] == (("erk", 3e6, 1.25, 97.0, 0.0), ("compute", 1e6, 0.5, 97.0, 0.0))
    records = Records(replace(asked, costs=["synops"]), tmp_path)
    columns, _ = tables.text(records.table("t"))
    assert "SynOps" in columns and "engine ms" not in columns
    (plot,) = records.draw("costs")
    assert plot.rows[0] == ("erk", 3e6, None, 97.0, 0.0)


def test_settings_have_a_folder_of_their_own(tmp_path):
    asked = Study("t", runs={"a": ["mnist"]})
    assert Records(asked, tmp_path).path("a") == tmp_path / "a"
    assert Records(asked, tmp_path, ["epochs=3"]).path("a") == tmp_path / "epochs=3" / "a"


def test_reproduce_draws_what_the_records_allow(command, tmp_path):
    dense = recipe_of("paper-g-mnist", "method=dense")
    write_run(tmp_path / "mnist-dense", [97.0, 98.0], [0.0, 0.0], method="dense", toml=dense)
    gradr = recipe_of("paper-g-mnist", "method.alpha=5e-3")
    write_run(tmp_path / "mnist-gradr-0.005", [97.0, 96.0], [0.5, 0.8], toml=gradr)
    for number in range(3, 8):
        status, printed, said = command(
            "reproduce", "paper-g", f"figure-{number}", "--records", tmp_path
        )
        assert status == 0, said
        assert f"figure-{number}" in printed
        assert printed.split()[0].endswith(".svg")
    drift = (tmp_path / "figure-6-a-mnist.csv").read_text()
    assert "fc1.weight" in drift and "fc2.weight" not in drift
    counts = (tmp_path / "figure-6-b-mnist.csv").read_text()
    assert "1,all,,7,2" in counts
    status, printed, said = command(
        "reproduce", "paper-g", "table-4", "--records", tmp_path, "--json"
    )
    (row,) = [row for row in json.loads(printed) if row["seeds"]]
    assert (row["method"], row["alpha"], row["accuracy"]) == ("Grad R", 0.005, 96.0)
    assert {"paper_connectivity", "paper_accuracy", "connectivity", "dataset", "epochs"} <= {*row}
    assert "mnist-gradr-0.1" in said and "--train" in said
    printed = command("reproduce", "paper-g", "--records", tmp_path, "--json")[1]
    assert list(json.loads(printed)) == ["table-1", "table-4", "table-2"]
    page = (tmp_path / "README.md").read_text()
    assert "| Grad R | MNIST | 0.005 | 20.00 | 25.71 | 96.00 | 96.00 | 98.59 | 2 | 1 |" in page
    assert "](figure-5-mnist.svg)" in page


def test_reproduce_trains_what_is_missing_and_nothing_twice(command, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(
        'title = "Mine"\ncourse = "net-0"\n'
        '[[grids]]\nname = "net"\nrun = ["digits", "method.sparsity=0.5"]\nvary = {seed = [0, 1]}\n'
        '[[figures]]\nname = "tradeoff"\nkind = "tradeoff"\nruns = {a = "net-0", b = "net-1"}\n'
    )
    words = ["reproduce", file, *SMALL, "--records", tmp_path / "here"]
    status, printed, said = command(*words)
    assert (status, printed) == (2, "") and "--train" in said
    assert not (tmp_path / "here").exists()
    status, _, said = command(*words, "--train", "--jobs", 2)
    assert status == 0 and sorted(said.split()) == ["net-0", "net-1", "trained", "trained"]
    place = tmp_path / "here" / folder_name(sorted(SMALL))
    assert (place / "tradeoff.svg").is_file()
    page = (place / "README.md").read_text()
    assert "## net-0, epoch by epoch" in page and "| gmp | tiny | digits | 2 |" in page
    before = (place / "net-0" / "report.json").stat().st_mtime_ns
    assert command(*words, "--train")[0] == 0
    assert (place / "net-0" / "report.json").stat().st_mtime_ns == before


def test_what_a_run_starts_from_is_trained_before_it(command, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(
        'title = "Mine"\n[runs]\n'
        'pruned = ["digits", "weights=../trained/model.safetensors"]\n'
        'trained = ["digits", "method=dense"]\n'
        '[[rows]]\ntables = ["t"]\nmethod = "GMP"\ndataset = "digits"\nruns = ["pruned"]\n'
    )
    words = ["reproduce", file, "t", *SMALL, "--records", tmp_path, "--train", "--jobs", 2]
    status, _, said = command(*words)
    assert status == 0 and said.splitlines()[:2] == ["trained trained", "trained pruned"]
    place = tmp_path / folder_name(sorted(SMALL))
    shutil.rmtree(place / "pruned")
    (place / "trained" / "model.safetensors").unlink()
    status, _, said = command(*words)
    assert status == 2 and "delete the folder, so that it is trained again" in said


def test_settings_that_are_laid_over_say_what_runs_start_from():
    runs = {"a": ["mnist"], "b": ["mnist", "weights=../a/model.safetensors"], "c": ["mnist"]}
    study = Study("t", runs=runs)
    assert study.origins("b", ["weights=/elsewhere/net.pth"]) == []
    assert study.origins("b", ["weights=../c/epoch-002.safetensors"])[0][0] == "c"
    assert study.origins("c", ["possible=../a/model.safetensors"]) == [("a", "model.safetensors")]
    assert study.origins("c", ["weights=../c/model.safetensors"]) == []


def test_only_what_needs_another_run_waits_for_it(tmp_path, monkeypatch):
    runs = {
        "late": ["mnist", "weights=../trained/model.safetensors"],
        "trained": ["mnist"],
        "other": ["mnist"],
    }
    records = Records(Study("t", runs=runs), tmp_path)
    begun: list[str] = []
    ended: list[str] = []
    together = threading.Barrier(2, timeout=30)

    def train(self, run, **_):
        begun.append(run)
        if run == "late":
            assert not self.missing(["trained"])
        else:
            together.wait()
        self.path(run).mkdir()
        for name in ("model.safetensors", "run.toml", "report.json"):
            (self.path(run) / name).touch()

    monkeypatch.setattr(Records, "_train", train)
    monkeypatch.setattr("spikewire.records.refuse_other", lambda *_: None)
    records.train(["late", "other"], None, 2, ended.append)
    assert begun[-1] == "late"
    assert sorted(begun) == sorted(ended) == ["late", "other", "trained"]


def test_the_run_of_another_recipe_is_refused(command, tmp_path):
    toml = recipe_of("mnist", "method=dense")  # ten epochs
    write_run(tmp_path / "mnist-dense", [98.0], [0.0], method="dense", toml=toml)
    status, printed, said = command("reproduce", "paper-g", "table-1", "--records", tmp_path)
    assert (status, printed) == (2, "")
    assert "holds another run" in said and "epochs" in said


def test_a_table_of_a_paper_is_there_before_any_run_is(command, tmp_path):
    words = ["reproduce", "paper-c", "table-3", "--records", tmp_path]
    status, printed, said = command(*words)
    assert status == 0 and "56.24" in printed
    assert f"not in {tmp_path}" in said
    assert command("reproduce", "paper-c", "--records", tmp_path)[0] == 2
    assert command("reproduce", "paper-c", "figure-5", "--records", tmp_path)[0] == 2


def test_a_page_of_somebody_else_is_left_alone(command, tmp_path):
    toml = recipe_of("paper-g-mnist", "method=dense")
    write_run(tmp_path / "mnist-dense", [98.0], [0.0], method="dense", toml=toml)
    (tmp_path / "README.md").write_text("# My project\n")
    status, _, said = command("reproduce", "paper-g", "--records", tmp_path)
    assert status == 2 and "was not written by this command" in said
    assert (tmp_path / "README.md").read_text() == "# My project\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["paper-h"], "did you mean 'paper-g'"),
        (["none.toml"], "no such file"),
        (["paper-g", "table-9"], "table-4"),
        (["paper-g", "figure-2", "--json"], "figure-3"),
    ],
)
def test_what_is_not_there_is_named(command, words, message):
    status, _, said = command("reproduce", *words)
    assert status == 2
    assert message in said


def test_a_failing_run_says_why(command, tmp_path):
    file = tmp_path / "bad.toml"
    file.write_text('title = "Bad"\n[runs]\na = ["mnist"]\n')
    empty = tmp_path / "empty"
    status, _, said = command("reproduce", file, "--train", "--records", tmp_path, "--data", empty)
    assert status == 2
    assert "a: spikewire: " in said and str(empty) in said


def test_who_is_told_to_stop_stops_its_runs_and_the_same_command_goes_on(tmp_path):
    file, records = tmp_path / "mine.toml", tmp_path / "records"
    words = ["epochs=300", "network.T=2", "network.width=8", "twin=false", "compile=false"]
    runs = {name: ["digits", *words] for name in "ab"}
    file.write_text(f'title = "Mine"\n[runs]\na = {runs["a"]}\nb = {runs["b"]}\n')
    command = [sys.executable, "-m", "spikewire", "reproduce", file, "--train", "--jobs", "2"]
    process = subprocess.Popen([*command, "--records", records])
    while not all((records / run / "metrics.jsonl").is_file() for run in runs):
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert process.wait(60) == 143
    for run in runs:
        with alone(records / run):  # nobody is at work in it
            assert (records / run / "checkpoint").is_dir()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("[[figures]]\nname = 'tradeoff'\nkind = 'tradeof'\nruns = {a = 'a'}", "kind of tradeoff"),
        ("[[figures]]\nname = 'tradeoff'\nkind = 'tradeoff'\nruns = {a = 'b'}", "'b'"),
        ("[[figures]]\nname = 'c'\nkind = 'classes'\nruns = {a = 'a'}", "compares two runs, not 1"),
        ("[[figures]]\nname = 'f'\nkind = 'frontier'\nruns = {a = 'a'}", "drawn from a table and"),
        ("[[rows]]\ntables = ['t']\nmethod = 'A'\ndataset = 'B'\nruns = ['b-*']", "b-*: the study"),
        (
            "[[rows]]\ntables = ['t']\nmethod = 'A'\ndataset = 'B'\nruns = ['a']\n"
            "[[figures]]\nname = 'f'\nkind = 'frontier'\ntable = 't'\ndataset = 'C'",
            "no data set of f 'C'",
        ),
        ("", "README.md was not written by this command"),
    ],
)
def test_what_could_not_be_written_is_refused_before_training(command, tmp_path, more, message):
    file, records = tmp_path / "mine.toml", tmp_path / "records"
    file.write_text(f'title = "Mine"\n[runs]\na = ["digits"]\n{more}\n')
    if not more:
        (records / "epochs=1").mkdir(parents=True)
        (records / "epochs=1" / "README.md").write_text("# My project\n")
    status, _, said = command("reproduce", file, "--train", "--records", records, "epochs=1")
    assert status == 2 and message in said
    assert not list(tmp_path.rglob("run.toml"))


def test_a_misspelt_setting_is_refused_before_anything(command, tmp_path):
    words = ("reproduce", "paper-g", "table-4", "epoch=3", "--records", tmp_path / "here")
    for more in ([], ["--train"]):
        status, _, said = command(*words, *more)
        assert status == 2 and "epoch" in said
    assert not (tmp_path / "here").exists()


def test_a_table_is_trained_seed_by_seed(command, tmp_path, monkeypatch):
    trained: list[str] = []
    monkeypatch.setattr(Records, "train", lambda self, runs, *_: trained.extend(runs))
    command("reproduce", "paper-c-quarter", "regrowth", "--train", "--records", tmp_path)
    seeds = [run[-1] for run in trained]
    assert seeds == sorted(seeds) and set(seeds) == {"0", "1", "2"}


def test_a_figure_needs_its_own_runs_and_no_others():
    records = Records(study.read("paper-g"), Path("nowhere"))
    assert "mnist-dense" in records.needed("figure-5")
    assert not any(run.startswith("smnist") for run in records.needed("figure-5"))


@pytest.mark.parametrize(
    "text",
    [
        "title = ",
        "runs = {a = 'b'}",
        "title = 'x'\n[[rows]]\nmethod = 'y'",
        "title = 'x'\ncoarse = 'a'",
        "title = 'x'\n[[row]]",
        "title = 'x'\n[[contrasts]]\narms = {a = 'A'}\npairs = [['a', 'b']]\ntables.t = {}",
        "title = 'x'\n[[figures]]\nname = 'a'\nkind = 'rates'\nlayers = 'b'",
    ],
)
def test_a_file_that_is_no_study(tmp_path, text):
    file = tmp_path / "broken.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match="is no study|is not TOML"):
        study.read(str(file))
