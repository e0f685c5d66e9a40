"""The leaderboard: its numbers by hand, its levels, its links, and no winner within the noise."""

import base64
import csv
import hashlib
import json
import re
import statistics
from urllib.parse import unquote

import pytest
import tomli_w
from scipy import stats

from spikewire import config, formats, leaderboard, sweep
from spikewire.config import override
from spikewire.records import Records
from spikewire.study import Grid, Search, Study, plain

LEVELS = [0.9, 0.95]


def grid(method, **vary):
    return Grid(method, ["mnist", f"method={method}"], vary | {"seed": [0, 1, 2]})


def write_run(out, words, accuracy, sparsity=None, **facts):
    """The files of a finished run of two epochs."""
    recipe = config.recipe(override(config.read(words[0]), words[1:]))
    told = recipe.dump()["method"]
    sparsity = told.get("sparsity", 0.0) if sparsity is None else sparsity
    record = {"accuracy": {"test": accuracy}, "sparsity": sparsity, "seconds": 1.5}
    report = {
        "method": told["name"],
        "seed": recipe.seed,
        "epochs": 2,
        "sparsity": sparsity,
        "accuracy": {"last": accuracy, "validation_best": None},
        "layers": [],
    }
    out.mkdir(parents=True)
    (out / "run.toml").write_text(recipe.toml())
    lines = [json.dumps({"epoch": epoch, **record}) + "\n" for epoch in (1, 2)]
    (out / "metrics.jsonl").write_text("".join(lines))
    (out / "report.json").write_text(json.dumps(report | facts))


def write_sweep(place, study, accuracies, **facts):
    """A finished sweep; accuracies by grid and other values, for the seeds in turn."""
    told = {"settings": [], "study": plain(study)}
    formats.write(place / "sweep.toml", tomli_w.dumps(told).encode())
    for each in study.grids if study.search else ():
        trials = [
            {"run": f"trials/{each.name}-0", "settings": ["epochs=2"], "validation": 91.25,
             "sparsity": 0.75, "reason": ""},
        ]  # fmt: skip
        file = place / "trials" / f"{each.name}.json"
        formats.write_json(file, {"trials": trials, "chosen": ["epochs=2"]})
    records: Records = sweep.settled(sweep.read(place))
    for row, (values, *sparsity) in accuracies.items():
        for seed, accuracy in enumerate(values):
            name = f"{row}-{seed}"
            write_run(place / name, records.study.all_runs[name], accuracy, *sparsity, **facts)


@pytest.fixture
def board(tmp_path):
    """Three exact methods and one whose sparsity emerges; what was written, and the JSON."""
    study = Study(
        "MNIST <1>",
        grids=[
            grid("dense"),
            grid("gmp", **{"method.sparsity": LEVELS}),
            grid("rigl", **{"method.sparsity": LEVELS}),
            grid("set", **{"method.sparsity": LEVELS}),
            grid("gradr", **{"method.alpha": [0.01, 0.05]}),
        ],
        search=Search(1),
    )
    accuracies = {
        "dense": ([98.0, 98.2, 98.4], 0.0),
        "gmp-0.9": ([97.0, 97.5, 97.3],),
        "rigl-0.9": ([96.9, 97.2, 97.4],),
        "set-0.9": ([95.0, 95.4],),  # the third is not finished
        "gmp-0.95": ([96.0, 96.5, 96.3],),
        "rigl-0.95": ([95.0, 95.5, 95.2],),
        "set-0.95": ([94.0, 94.5, 94.2],),
        "gradr-0.01": ([97.9, 97.8, 97.9], 0.88),
        "gradr-0.05": ([97.1, 97.0, 97.0], 0.93),
    }
    firing = [{"name": n, "neurons": k, "rate": r, "silent": 0,
               "histogram": {"low": 0, "high": 1, "counts": [1]}}
              for n, k, r in (("a", 30, 0.5), ("b", 10, 0.1))]  # fmt: skip
    write_sweep(
        tmp_path / "my sweep",
        study,
        accuracies,
        synops=1234.0,
        bytes={"dense": 9000, "sparse": 2500},
        firing=firing,
        engine={"milliseconds_sparse": 0.25, "milliseconds_dense": 1.0},
    )
    return leaderboard.write([tmp_path / "my sweep"], tmp_path / "board"), rows_of(tmp_path)


def rows_of(tmp_path):
    (track,) = json.loads((tmp_path / "board" / "leaderboard.json").read_text())
    return {f"{row['name']} {' '.join(map(str, row['settings'].values()))}".strip(): row
            for row in track["rows"]}  # fmt: skip


def test_the_numbers_of_a_row(board):
    _, rows = board
    row = rows["gmp 0.9"]
    values = [97.0, 97.5, 97.3]
    assert row["accuracy"] == {
        "mean": pytest.approx(statistics.fmean(values)),
        "std": pytest.approx(statistics.stdev(values)),
        "runs": 3,
    }
    assert row["connectivity"]["mean"] == pytest.approx(10.0)
    assert (row["synops"]["mean"], row["seconds"]["mean"]) == (1234.0, 3.0)
    assert row["firing_rate"]["mean"] == pytest.approx(100 * (30 * 0.5 + 10 * 0.1) / 40)
    assert (row["kilobytes"]["mean"], row["milliseconds"]["mean"]) == (2.5, 0.25)
    assert rows["dense"]["kilobytes"]["mean"] == 9.0
    assert row["validated"] is None


def test_a_difference_and_its_interval_by_hand(board):
    """Seed by seed; scipy's own interval of a mean says the same."""
    _, rows = board
    row = rows["rigl 0.95"]
    differences = [95.0 - 96.0, 95.5 - 96.5, 95.2 - 96.3]
    mean = sum(differences) / 3
    spread = (sum((d - mean) ** 2 for d in differences) / 2) ** 0.5
    assert row["difference"] == pytest.approx(mean)
    assert row["interval"] == pytest.approx(4.302653 * spread / 3**0.5, rel=1e-6)
    low, high = stats.t.interval(0.95, 2, mean, stats.sem(differences))
    assert (mean - row["interval"], mean + row["interval"]) == pytest.approx((low, high))
    assert row["standing"] == "behind"


def test_nobody_wins_within_the_noise(board):
    _, rows = board
    at = {level: {n: r["standing"] for n, r in rows.items() if r["level"] == level}
          for level in LEVELS}  # fmt: skip
    # rigl at 90 %: differences -0.1, -0.3, +0.1 to gmp, interval 0.5; set has two seeds only
    assert at[0.9] == {
        "gmp 0.9": "highest", "rigl 0.9": "noise", "gradr 0.05": "noise", "set 0.9": "noise"
    }  # fmt: skip
    assert (rows["set 0.9"]["pairs"], rows["set 0.9"]["difference"]) == (2, pytest.approx(-2.05))
    assert at[0.95] == {"gmp 0.95": "ahead", "rigl 0.95": "behind", "set 0.95": "behind"}


def test_a_row_without_repetition_is_in_the_noise(tmp_path):
    study = Study("t", grids=[grid("gmp", **{"method.sparsity": [0.9]}),
                              grid("set", **{"method.sparsity": [0.9]})])  # fmt: skip
    write_sweep(tmp_path / "s", study, {"gmp-0.9": ([99.0],), "set-0.9": ([50.0, 50.0],)})
    leaderboard.write([tmp_path / "s"], tmp_path / "board")
    rows = rows_of(tmp_path)
    assert (rows["set 0.9"]["standing"], rows["set 0.9"]["interval"]) == ("noise", None)
    assert rows["gmp 0.9"]["standing"] == "highest"


def test_what_emerges_competes_only_with_what_is_as_dense_or_denser(board):
    _, rows = board
    assert rows["dense"]["level"] is None and rows["gradr 0.01"]["level"] is None  # 12 % are left
    assert rows["gradr 0.05"]["level"] == 0.9  # 7 % are left
    assert {rows[name]["standing"] for name in ("dense", "gradr 0.01")} == {""}
    levels = [row["level"] or 0 for row in rows.values()]
    assert levels == sorted(levels)
    inside = [row["accuracy"]["mean"] for row in rows.values() if row["level"] == 0.9]
    assert inside == sorted(inside, reverse=True)


def test_channels_that_were_asked_for_are_no_level_of_synapses(tmp_path):
    study = Study("t", grids=[grid("gmp", **{"method.sparsity": [0.9]}),
                              grid("slim", **{"method.sparsity": [0.95]})])  # fmt: skip
    accuracies = {"gmp-0.9": ([90.0, 91.0],), "slim-0.95": ([80.0, 81.0], 0.97)}
    write_sweep(tmp_path / "s", study, accuracies)
    leaderboard.write([tmp_path / "s"], tmp_path / "board")
    assert {row["level"] for row in rows_of(tmp_path).values()} == {0.9}


def test_seeds_that_only_one_has_say_nothing(tmp_path):
    """The mean of `set` is lower for a hard seed that `gmp` has not run; on the others it leads."""
    study = Study("t", grids=[grid("gmp", **{"method.sparsity": [0.9]}),
                              grid("set", **{"method.sparsity": [0.9]})])  # fmt: skip
    write_sweep(
        tmp_path / "s", study, {"gmp-0.9": ([90.0, 91.0],), "set-0.9": ([92.0, 93.0, 50.0],)}
    )
    leaderboard.write([tmp_path / "s"], tmp_path / "board")
    row = rows_of(tmp_path)["set 0.9"]
    assert (row["difference"], row["interval"], row["standing"]) == (2.0, 0.0, "noise")


def test_rows_of_other_budgets_do_not_compete(tmp_path):
    study = Study("t", grids=[grid("gmp", **{"method.sparsity": [0.9]}),
                              grid("set", **{"method.sparsity": [0.9]})])  # fmt: skip
    write_sweep(tmp_path / "s", study, {"gmp-0.9": ([99.0, 98.0],)})
    write_sweep(tmp_path / "s", study, {"set-0.9": ([50.0, 50.0],)}, epochs=9)
    leaderboard.write([tmp_path / "s"], tmp_path / "board")
    assert {row["standing"] for row in rows_of(tmp_path).values()} == {"highest"}
    page = (tmp_path / "board" / "index.html").read_text()
    assert "90 % sparse or sparser, 9 epochs" in page and "nothing to compare with" in page


def test_a_hair_too_dense_is_too_dense(tmp_path):
    study = Study("t", grids=[grid("gmp", **{"method.sparsity": [0.9]}),
                              grid("gradr", **{"method.alpha": [0.1, 0.2]})])  # fmt: skip
    accuracies = {"gmp-0.9": ([90.0],), "gradr-0.1": ([99.0], 0.899), "gradr-0.2": ([98.0], 0.9)}
    write_sweep(tmp_path / "s", study, accuracies)
    leaderboard.write([tmp_path / "s"], tmp_path / "board")
    levels = {name: row["level"] for name, row in rows_of(tmp_path).items()}
    assert levels == {"gmp 0.9": 0.9, "gradr 0.1": None, "gradr 0.2": 0.9}


def test_runs_on_other_data_do_not_compete(tmp_path):
    unequal = grid("set", **{"method.sparsity": [0.9], "data.fraction": [0.5]})
    study = Study("t", grids=[grid("gmp", **{"method.sparsity": [0.9]}), unequal])
    write_sweep(tmp_path / "s", study, {"gmp-0.9": ([90.0],), "set-0.9-0.5": ([50.0],)})
    with pytest.raises(ValueError, match="set-0.9-0.5-0 cannot compete with .*gmp-0.9-0: data is"):
        leaderboard.read(tmp_path / "s")


def test_the_page(board):
    page = board[0][0]
    text = page.read_text()
    assert "MNIST &lt;1&gt;" in text and "Runs that are not finished: 1." in text
    assert "no winner: 3 of 3 others are in the noise of the highest, so far" in text
    assert "gmp is ahead of all others, so far" in text
    assert "97.27 ± 0.25" in text and "epochs=2" in text and "91.25" in text
    assert '<td class="number">25.00</td>' in text  # connectivity of the trial chosen
    assert "validated %</th>" not in text  # no run has it
    links = [unquote(link) for link in re.findall(r'href="([^"]+)"', text)]
    assert len(links) == 9 + (8 * 3 + 2) + 5 + 2
    for link in links:
        assert (page.parent / link).is_file(), link
    assert "../my sweep/gmp-0.9-0/run.toml" in links


def test_the_readme_has_the_rows_of_the_page(board):
    (_, readme, _, _), rows = board
    text = readme.read_text()
    assert text.count("\n| [") == len(rows)
    assert "no winner: 3 of 3 others are in the noise of the highest, so far" in text
    assert (
        "| [gmp](../my%20sweep/gmp-0.9-0/run.toml) (highest) | sparsity 0.9 | 97.27 ± 0.25 |"
        in text
    )


def test_the_policy_of_the_page_admits_its_own_script_and_no_other(board):
    text = board[0][0].read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy"\s+content="([^"]+)"', text)
    assert policy is not None
    assert "default-src 'none'; " in policy[1] and f"script-src 'sha256-{digest}';" in policy[1]


def test_the_table_has_the_numbers_of_the_page(board):
    (_, _, _, table), rows = board
    lines = list(csv.DictReader(table.open()))
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows.values(), strict=True):
        assert line["name"] == row["name"] and line["standing"] == row["standing"]
        assert float(line["accuracy_mean"]) == row["accuracy"]["mean"]
        assert float(line["connectivity_std"]) == row["connectivity"]["std"]
        assert line["validated_mean"] == ""


def test_the_same_again_writes_the_same(board, command, tmp_path):
    files, _ = board
    before = [file.read_bytes() for file in files]
    status, printed, said = command(
        "leaderboard", tmp_path / "my sweep", "--out", tmp_path / "board"
    )
    assert status == 0, said
    assert printed.split("\n")[:4] == [str(file) for file in files]
    assert [file.read_bytes() for file in files] == before


def test_what_is_no_sweep_is_named(command, tmp_path):
    status, _, said = command("leaderboard", tmp_path)
    assert status == 2 and "holds no sweep" in said
    study = Study("t", runs={"one": ["mnist"]})
    write_sweep(tmp_path, study, {})
    status, _, said = command("leaderboard", tmp_path)
    assert status == 2 and "no run of" in said
