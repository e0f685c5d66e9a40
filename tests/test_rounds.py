"""Lotteries as folders: every round a run, continued to the bit, whatever happens."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from spikewire import Ticket, report
from spikewire import rounds as module
from spikewire.config import override, read, recipe
from spikewire.facts import read as read_run
from spikewire.lottery import Settled, ladder
from spikewire.masks import distance
from spikewire.rounds import Lottery, play
from spikewire.run import run
from spikewire.scores import chance, criticality
from spikewire.shares import uniform

SMALL = ["epochs=3", "batch=200", "network.T=2", "network.width=8", "compile=false"]


def small(*words):
    return recipe(override(read("digits"), [*SMALL, *words]))


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Neither pages nor the engine are what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write", lambda _: None)
        patch.setattr("spikewire.run._engine", lambda *_: {"reason": "not tested"})
        yield


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A lottery of two rounds that leave 3/4 and 9/16, from after the first of three epochs."""
    out = tmp_path_factory.mktemp("lottery") / "a"
    play(small(), Lottery(rounds=2, rewind=1), out)
    return out


def test_every_round_is_a_run_of_exactly_its_synapses(played):
    told = json.loads((played / "lottery.json").read_text())
    assert [row["round"] for row in told["rounds"]] == [0, 1, 2]
    assert [row["epochs"] for row in told["rounds"]] == [3, 2, 2]
    assert [row["total_epochs"] for row in told["rounds"]] == [3, 5, 7]
    first = load_file(played / "round-00" / "model.safetensors")
    before = {name: torch.ones_like(w, dtype=torch.bool) for name, w in first.items()}
    for number in (1, 2):
        out = played / f"round-{number:02}"
        masks = load_file(out / f"masks-{number:02}.safetensors")
        total = sum(mask.numel() for mask in masks.values())
        assert sum(int(mask.sum()) for mask in masks.values()) == int(0.75**number * total)
        weights = load_file(out / "model.safetensors")
        for name, mask in masks.items():
            assert (weights[name] != 0).equal(mask), name
            assert not (mask & ~before[name]).any()
        before = masks
        facts = read_run(out)
        assert facts.report["method"] == "ticket"
        assert facts.report["accuracy"]["last"] == told["rounds"][number]["accuracy"]
        assert facts.report["sparsity"] == pytest.approx(ladder(0.25, 2)[number], abs=1e-4)
    assert (played / "accuracy-against-sparsity.svg").read_text().startswith("<?xml")
    rows = (played / "accuracy-against-sparsity.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["dense", "ticket", "ticket"]


def test_a_round_begins_with_the_network_that_was_kept(played, tmp_path):
    """Survivors, biases, gains and running statistics: exactly; and a record repeats its run."""
    toml = played / "round-02" / "run.toml"
    again = run(recipe(override(read(str(toml)), ["keep=0"])), tmp_path / "again")
    begun = load_file(again / "epoch-000.safetensors")
    kept = load_file(played / "round-00" / "epoch-001.safetensors")
    masks = load_file(played / "round-02" / "masks-02.safetensors")
    assert begun.keys() == kept.keys() > masks.keys()
    for name, value in begun.items():
        assert value.equal(kept[name] * masks[name] if name in masks else kept[name]), name
    first = load_file(run(small("method=dense", "keep=0", "epochs=1"), tmp_path / "b")
                    / "epoch-000.safetensors")  # fmt: skip
    assert not first["bn1.running_mean"].equal(kept["bn1.running_mean"])
    one, other = ((d / "model.safetensors").read_bytes() for d in (again, played / "round-02"))
    assert one == other


def test_a_record_may_be_continued_by_its_own_recipe(played):
    out = played / "round-01"
    stamp = (out / "report.json").stat().st_mtime_ns
    run(recipe(read(str(out / "run.toml"))), out)
    assert (out / "report.json").stat().st_mtime_ns == stamp


def test_the_same_again_returns_and_more_rounds_go_on(played):
    files = [path for path in played.rglob("*") if path.is_file()]
    stamps = {path: path.stat().st_mtime_ns for path in files}
    play(small(), Lottery(rounds=2, rewind=1), played)
    assert {path: path.stat().st_mtime_ns for path in files} == stamps
    told = play(small(), Lottery(rounds=3, rewind=1), played)
    assert [row["total_epochs"] for row in told["rounds"]] == [3, 5, 7, 9]
    assert told == json.loads((played / "lottery.json").read_text())


@pytest.mark.parametrize(
    ("words", "lottery", "message"),
    [
        ([], {"rewind": 1, "fraction": 0.5}, "another lottery (it differs in fraction)"),
        ([], {"rewind": 2}, "another lottery (it differs in rewind)"),
        (["seed=1"], {"rewind": 1}, "holds another run (it differs in seed)"),
    ],
)
def test_another_lottery_is_refused(played, words, lottery, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        play(small(*words), Lottery(rounds=2, **lottery), played)


def test_a_killed_lottery_loses_an_epoch_and_nothing_else(tmp_path):
    """SIGKILL between rounds and within them; the last weights are equal to the bit."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("killing.py"), tmp_path],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    whole, killed = map(int, done.stdout.split())
    assert whole == 7 * (6 + 1)  # epochs of six batches, one more call at the end of each
    assert whole < killed <= whole + 9 * (6 + 1)
    for file in ("round-01/masks-01.safetensors", "round-02/model.safetensors", "lottery.json"):
        one, other = ((tmp_path / folder / file).read_bytes() for folder in ("whole", "killed"))
        assert one == other, file


class Crash(Exception):
    pass


def crash_after(calls):
    seen = []

    def show(*_):
        seen.append(1)
        if len(seen) == calls:
            raise Crash

    return show


def test_an_early_bird_stops_by_distances_that_can_be_calculated_again(tmp_path):
    words = ["method=dense", "epochs=8", "stop=settled(0.8, window=3, tolerance=0.06)"]
    asked = small(*words, "keep=[1, 2, 3, 4, 5, 6, 7, 8]", "optimizer.lr=0.01")
    out = run(asked, tmp_path / "whole")
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert 3 < len(records) < 8
    assert json.loads((out / "report.json").read_text())["epochs"] == len(records)
    masks = []
    for record in records:
        kept = load_file(out / f"epoch-{record['epoch']:03}.safetensors")
        weights = {name: w.abs() for name, w in kept.items() if w.ndim > 1}
        flat = torch.cat([w.flatten() for w in weights.values()])
        line = flat.sort(descending=True).values[int(0.2 * len(flat) + 1e-6) - 1]
        masks.append({name: w >= line for name, w in weights.items()})
        far = max((distance(masks[-1], mask) for mask in masks[-3:-1]), default=1.0)
        assert record["distance"] == pytest.approx(far)
        settled = len(masks) >= 3 and far < 0.06
        assert settled == (record is records[-1])
    with pytest.raises(Crash):  # within the fourth epoch
        run(asked, tmp_path / "broken", show=crash_after(3 * 7 + 2))
    run(asked, tmp_path / "broken")
    one, other = ((tmp_path / d / "model.safetensors").read_bytes() for d in ("whole", "broken"))
    assert one == other


def test_a_run_that_was_killed_when_its_mask_had_settled_stops_there(tmp_path, monkeypatch):
    words = ["method=dense", "epochs=8", "stop=settled(0.8, window=2, tolerance=1)"]
    monkeypatch.setattr("spikewire.run._Training._conclude", lambda _: crash_after(1)())
    with pytest.raises(Crash):
        run(small(*words), tmp_path / "run")
    monkeypatch.undo()
    facts = read_run(run(small(*words), tmp_path / "run")).report
    assert facts["epochs"] == 2


def test_a_lottery_with_an_early_bird(tmp_path, recwarn):
    told = play(small(), Lottery(early_bird=0.8), tmp_path / "a")  # three epochs are too few
    assert any("the mask has not settled: over 5 epochs" in str(w.message) for w in recwarn)
    assert not any("schedules had not run their course" in str(w.message) for w in recwarn)
    assert [row["epochs"] for row in told["rounds"]] == [3, 3]
    assert told["rounds"][1]["sparsity"] == pytest.approx(0.8, abs=1e-4)
    search, ticket = (
        recipe(tomllib.loads((tmp_path / "a" / f"round-0{n}" / "run.toml").read_text()))
        for n in (0, 1)
    )
    assert (search.stop, search.keep) == (Settled(0.8), [0])
    assert (ticket.method, ticket.weights) == (Ticket(), "../round-00/epoch-000.safetensors")


def test_early_time_shortens_all_rounds_but_the_last(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(module, "early_time", lambda outputs: seen.append(outputs.shape) or 2)
    lottery = Lottery(rounds=2, fraction=0.5, rewind=1, early_time=True)
    told = play(small("network.T=4", "epochs=2"), lottery, tmp_path / "a")
    assert seen == [(4, 1000, 10)]
    assert [row["T"] for row in told["rounds"]] == [2, 2, 4]
    assert [row["total_epochs"] for row in told["rounds"]] == [3, 4, 5]  # one to look at
    play(small("network.T=4", "epochs=2"), lottery, tmp_path / "a")
    assert len(seen) == 1
    more = Lottery(rounds=3, fraction=0.5, rewind=1, early_time=True)
    with pytest.raises(ValueError, match="last round, round-02, .*: give --rounds 2"):
        play(small("network.T=4", "epochs=2"), more, tmp_path / "a")


def test_rounds_can_be_random_and_even_over_tensors(tmp_path):
    lottery = Lottery(rounds=1, fraction=0.5, rewind=0, score=chance, share=uniform)
    play(small("epochs=1"), lottery, tmp_path / "a")
    masks = load_file(tmp_path / "a" / "round-01" / "masks-01.safetensors")
    assert {float(mask.float().mean()) for mask in masks.values()} == {0.5}
    strong = load_file(tmp_path / "a" / "round-00" / "model.safetensors")["fc.weight"].abs()
    mask = masks["fc.weight"]
    assert abs(float(strong[mask].mean() / strong[~mask].mean()) - 1) < 0.1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fraction": 0.0}, "above 0 and below 1"),
        ({"rounds": 0}, "1 or more"),
        ({"early_bird": 1.0}, "not including 1"),
        ({"early_bird": 0.9, "rounds": 3, "rewind": 1}, "leave out rounds, rewind"),
        ({"early_bird": 0.9, "share": uniform}, "leave out share"),
        ({"score": criticality}, "give magnitude or chance"),
    ],
)
def test_wrong_settings(values, message):
    with pytest.raises(ValueError, match=message):
        Lottery(**values)


@pytest.mark.parametrize(
    ("words", "lottery", "message"),
    [
        ([], {"rewind": 3}, "give an epoch from 0 to 2"),
        (["network=lsnn"], {"early_time": True}, "no argument of network lsnn 'T'"),
        (["only=nothing"], {}, "matches no synapses"),
        (["network.classes=7"], {}, "set network.classes=10"),
        (["data=mnist"], {}, "mnist"),
    ],
)
def test_what_cannot_be_played_is_refused_before_any_work(tmp_path, words, lottery, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        play(small(*words), Lottery(**lottery), tmp_path / "a", root=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("epochs", "expected"), [(300, 20), (30, 2), (10, 1), (2, 1), (1, 0)])
def test_by_default_rounds_go_back_to_a_fifteenth(epochs, expected):
    assert Lottery().back(epochs) == expected


def test_epochs_to_each_level_are_those_of_the_paper():
    """300 + 280 i, for instance 2540 to 89.91 %, 4220 to 98.13 %."""
    lottery, base = Lottery(), small("epochs=300")
    epochs = [lottery.recipe(base, number).epochs for number in range(15)]
    assert [sum(epochs[: number + 1]) for number in (0, 8, 11, 14)] == [300, 2540, 3380, 4220]
