"""Runs: whole folders, continued to the bit, whatever happens to the process."""

import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import multiprocessing

from spikewire import METHODS, distributed, plots, report, tables, words
from spikewire.bought import bought
from spikewire.compact import rebuild
from spikewire.config import build, override, read, recipe
from spikewire.epochs import histogram
from spikewire.facts import read as read_run
from spikewire.finished import export, measured
from spikewire.formats import load_sparse
from spikewire.lock import Busy, alone
from spikewire.nets import NETS
from spikewire.records import validation
from spikewire.run import run
from spikewire.train import Diverged

SMALL = ["epochs=3", "network.T=2", "network.width=8", "twin=false", "compile=false"]


def small(*words):
    return recipe(override(read("digits"), [*SMALL, *words]))


def test_a_run_leaves_everything_that_a_user_has_afterwards(tmp_path):
    out = run(small("twin=true", "method.sparsity=0.8"), tmp_path / "run")
    facts = json.loads((out / "report.json").read_text())
    assert {"last", "validation_best"} <= set(facts["accuracy"])
    assert facts["sparsity"] == pytest.approx(0.8, abs=1e-3)
    assert facts["connectivity"] == pytest.approx(1 - facts["sparsity"])
    assert sum(layer["alive"] for layer in facts["layers"]) == round(
        (1 - facts["sparsity"]) * sum(layer["synapses"] for layer in facts["layers"])
    )
    assert facts["epochs"] == 3 and facts["seconds_per_epoch"] > 0
    assert facts["synops"] > 0 and facts["macs"] > 0
    for kind, name in (("dense", "model"), ("sparse", "model.sparse")):
        assert facts["bytes"][kind] == (out / f"{name}.safetensors").stat().st_size
    assert facts["bytes"]["sparse"] < facts["bytes"]["dense"]
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert sum(layer["pruned"] for layer in records[-1]["layers"]) >= 0
    assert recipe(tomllib.loads((out / "run.toml").read_text())) == small(
        "twin=true", "method.sparsity=0.8"
    )
    assert (
        "<svg" in (out / "report.html").read_text()
        or "data:image" in (out / "report.html").read_text()
    )
    assert json.loads((out / "dense" / "report.json").read_text())["sparsity"] == 0
    assert not (out / "checkpoint").exists()
    assert load_sparse(out / "model.sparse.safetensors").keys()
    assert measured(out).accuracy == facts["accuracy"]["last"]

    stamp = (out / "report.json").stat().st_mtime_ns
    run(small("twin=true", "method.sparsity=0.8"), out)  # finished: returns at once
    assert (out / "report.json").stat().st_mtime_ns == stamp
    text = (out / "run.toml").read_text()
    (out / "run.toml").write_text(text.replace("fraction = 1.0\n", ""))  # as before it existed
    run(small("twin=true", "method.sparsity=0.8"), out)
    with pytest.raises(ValueError, match=r"holds another run \(it differs in seed\)"):
        run(small("twin=true", "method.sparsity=0.8", "seed=1"), out)


def test_pages_and_tables_of_a_run_that_was_seldom_evaluated(tmp_path):
    out = run(small("epochs=4", "evaluate_every=3"), tmp_path / "run")
    run_read = read_run(out)
    assert [r["accuracy"]["test"] is None for r in run_read.records] == [True, True, False, False]
    assert tables.course(run_read).count(f"| {words.NONE} |") == 2
    assert plots.courses({"a": run_read.records}).rows[0][2] is None
    assert plots.learning({"a": run_read.records}) is not None


def test_a_run_that_is_never_evaluated_ends_with_its_network_measured(tmp_path):
    words = ("features=true", "twin=true")
    twice = [run(small(f"evaluate_every={n}", *words), tmp_path / f"{n}") for n in (0, 1)]
    never, always = map(read_run, twice)
    assert {r["accuracy"]["test"] for r in never.records} == {None}
    assert never.report["accuracy"]["last"] == always.report["accuracy"]["last"]
    assert validation(never) == validation(always)
    pages = [(out / "report.html").read_text() for out in twice]
    assert ["test accuracy of the dense twin" in page for page in pages] == [False, True]
    seen = [plots.consistency({"a": (read.records, read.report)}) for read in (never, always)]
    assert seen[0].rows == seen[1].rows


def test_channels_taken_out_leave_a_smaller_network(tmp_path):
    out = run(small("method=slim-criticality", "method.sparsity=0.5"), tmp_path / "run")
    facts = json.loads((out / "report.json").read_text())
    whole = build(small().network)
    size = (out / "model.compact.safetensors").stat().st_size
    assert facts["compact"]["bytes"] == size < 0.7 * facts["bytes"]["dense"]
    assert facts["compact"]["accuracy"] == facts["accuracy"]["last"]
    smaller = rebuild(whole, load_file(out / "model.compact.safetensors"))
    assert facts["compact"]["parameters"] == sum(p.numel() for p in smaller.parameters())
    whole.load_state_dict(load_file(out / "model.safetensors"))
    images = torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(smaller(images), whole.eval()(images))
    rows = {row.name: row for row in bought(facts)}
    assert rows["Parameters, compact network"].dense == f"{facts['parameters']:,}"
    assert rows["Multiplications per image, compact network"].ratio.startswith("÷")
    assert "compact network" in (out / "report.html").read_text()


def test_the_share_of_operations_saved_is_what_was_asked_for(tmp_path):
    words = ["method=slim", "method.operations=0.5", "method.drop=activity", "network.width=16"]
    told = read_run(run(small(*words), tmp_path / "run"))
    saving = told.report["compact"]["saving"]
    assert 0.5 <= saving < 0.55
    rows = {row.name: row for row in bought(told.report)}
    note = rows["Multiplications per image, compact network"].note
    assert f"as the literature counts FLOPs, {100 * saving:.2f} % saved" in note


def test_classes_and_neurons_are_described(tmp_path):
    out = run(small("method=slim", "method.sparsity=0.5", "features=true"), tmp_path / "run")
    told = read_run(out)
    features = told.report["features"]
    assert features["classes"] == [str(digit) for digit in range(10)]
    assert [len(features["variance"][part]) for part in ("train", "test")] == [10, 10]
    assert all(-1 <= cosine <= 1 for cosine in features["likeness"])
    neurons = {layer["name"]: layer["neurons"] for layer in told.report["firing"]}
    entropies = told.report["entropies"]
    assert {name: sum(each["neurons"]) for name, each in entropies.items()} == neurons
    assert (out / "figures" / "entropy.svg").is_file()
    for record in told.records:
        assert set(record["losses"]) == {"train", "validation", "test"}
        assert [len(gains) for gains in record["gains"].values()] == [8, 8]
    assert any(0.0 in gains for gains in told.records[-1]["gains"].values())
    assert plots.classes({"a": told.report, "b": told.report}) is not None


def test_a_long_run_keeps_few_histograms(tmp_path, monkeypatch):
    monkeypatch.setattr("spikewire.epochs._PORTRAITS", 2)
    out = run(small("epochs=5", "method=gradr", "method.alpha=0.1"), tmp_path / "run")
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [bool(record["histograms"]) for record in records] == [True, False, True, False, True]
    # theta as papers have it: as many above 0 as there are synapses
    theta = records[-1]["histograms"]["fc.weight"]["theta"]
    assert theta["low"] < 0 < theta["high"]
    alive = next(layer for layer in records[-1]["layers"] if layer["name"] == "fc.weight")
    width = (theta["high"] - theta["low"]) / len(theta["counts"])
    above = sum(
        count
        for place, count in enumerate(theta["counts"])
        if theta["low"] + (place + 1) * width > 0
    )
    assert abs(above - alive["alive"]) <= max(theta["counts"])
    facts = json.loads((out / "report.json").read_text())
    assert set(facts["distributions"]) >= {"conv1.weight", "bn1.weight", "bn1.bias", "fc.weight"}
    assert sum(facts["distributions"]["bn1.weight"]["counts"]) == 8


class Crash(Exception):
    pass


def crash_after(batches):
    """A display that fails after so many batches, as a full disk or a bug would."""
    seen = []

    def show(*_):
        seen.append(1)
        if len(seen) == batches:
            raise Crash

    return show


@pytest.mark.parametrize("name", [n for n in METHODS if n != "dense"])
def test_every_method_continues_bit_exactly_after_a_crash(tmp_path, monkeypatch, name):
    monkeypatch.setattr(report, "write", lambda _: None)  # neither drawing nor the engine is tested
    monkeypatch.setattr("spikewire.run._engine", lambda *_: {"reason": "not tested"})
    words = ["epochs=2", f"method={name}"] + (
        ["method.every=5"] if hasattr(METHODS[name](), "every") else []
    )
    run(small(*words), tmp_path / "whole")
    with pytest.raises(Crash):
        run(small(*words), tmp_path / "broken", show=crash_after(29))
    run(small(*words), tmp_path / "broken")
    for file in ("model.safetensors", "model.sparse.safetensors"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "broken" / file).read_bytes()
    timeless = [
        [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
        for lines in (
            (tmp_path / folder / "metrics.jsonl").read_text().splitlines()
            for folder in ("whole", "broken")
        )
    ]
    assert timeless[0] == timeless[1]


def test_twenty_kills_at_random_moments_change_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("killing.py"), tmp_path, "20"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    killed, rounds = map(int, done.stdout.split())
    assert killed == 20
    whole = (tmp_path / "whole" / "model.safetensors").read_bytes()
    for number in range(rounds):
        assert (tmp_path / f"killed-{number}" / "model.safetensors").read_bytes() == whole


def test_an_interrupt_saves_in_mid_epoch_and_the_same_command_continues(tmp_path):
    script = (
        "import os, signal, sys\n"
        "from spikewire import cli\n"
        "seen = []\n"
        "def note(self, *_):\n"
        "    seen.append(1)\n"
        "    if len(seen) == 25: os.kill(os.getpid(), signal.SIGINT)\n"
        "cli._Display.__call__ = note\n"
        "cli.main()\n"
    )
    words = ["train", "digits", *SMALL, "--json", "--out"]
    stopped = subprocess.run(
        [sys.executable, "-c", script, *words, tmp_path / "stopped"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # as here: threads change the order of sums
    )
    assert stopped.returncode == 130
    assert "the same command continues" in stopped.stderr
    state = json.loads((tmp_path / "stopped" / "checkpoint" / "checkpoint.json").read_text())
    assert state["state"]["epoch"]["step"] == 24  # the 25th call was the end of the first epoch
    run(small(), tmp_path / "stopped")
    run(small(), tmp_path / "whole")
    one, other = ((tmp_path / d / "model.safetensors").read_bytes() for d in ("stopped", "whole"))
    assert one == other


def rank_process(rank, port, folder):
    """One of three processes under torchrun's variables: sums of three depend on their order."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "3",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    words = ["method=criticality", "method.every=5", "epochs=2", "batch=66"]
    with distributed.group():
        run(small(*words), Path(folder) / "whole")
        try:
            run(small(*words), Path(folder) / "broken", show=crash_after(30))
        except Crash:
            distributed.wait()
        run(small(*words), Path(folder) / "broken")
    assert not distributed.running()


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_three_processes_train_one_network_and_continue_bit_exactly(tmp_path):
    multiprocessing.spawn(rank_process, (free_port(), str(tmp_path)), nprocs=3)
    one, other = ((tmp_path / d / "model.safetensors").read_bytes() for d in ("whole", "broken"))
    assert one == other
    facts = json.loads((tmp_path / "whole" / "report.json").read_text())
    assert facts["machine"]["processes"] == 3
    assert facts["accuracy"]["last"] > 30


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["network.classes=7"], "set network.classes=10"),
        (["network.size=16"], "does not take images of shape"),
        (["network.width=x"], "width"),
        (['only=["nothing*"]'], "matches no synapses"),
        (["data=mnist"], "mnist"),
        (["twin=true", 'only=["nothing*"]'], "matches no synapses"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_any_work(tmp_path, words, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(small(*words), tmp_path / "run", root=tmp_path)
    assert not (tmp_path / "run").exists()


def test_features_of_what_has_none_are_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(NETS, "plain", lambda: torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 10)
    ))  # fmt: skip
    with pytest.raises(ValueError, match="no neuron layer of a known library"):
        run(recipe({"network": {"name": "plain"}, "data": {"name": "digits"}, "features": True}),
            tmp_path / "run")  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_a_network_without_tensors_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(NETS, "pair", Pair)
    with pytest.raises(ValueError, match=r"gives tuple for 2 images.*let it return a tensor"):
        run(recipe({"network": "pair"}), tmp_path / "run")


def weights_of(out):
    return load_file(out / "model.safetensors")


def test_a_pruned_network_is_trained_on_with_its_zeros(tmp_path):
    """From each kind of file; it begins with those weights, and what is 0 stays so."""
    pruned = run(small("epochs=1", "method.until=0.5"), tmp_path / "pruned")
    torch.save(weights_of(pruned), tmp_path / "net.pth")
    for number, file in enumerate(
        (pruned / "model.safetensors", pruned / "model.sparse.safetensors", tmp_path / "net.pth")
    ):
        words = [f"weights={file}", "method=ticket", "epochs=1", "keep=0"]
        out = run(small(*words), tmp_path / f"fine-{number}")
        begun, before = load_file(out / "epoch-000.safetensors"), weights_of(pruned)
        assert all(value.equal(before[name]) for name, value in begun.items())
        for name in ("conv1.weight", "conv2.weight", "fc.weight"):
            assert (weights_of(out)[name] != 0).equal(before[name] != 0), name
        assert json.loads((out / "report.json").read_text())["method"] == "ticket"


def test_synapses_come_back_only_where_they_are_possible(tmp_path):
    """With RigL, after a crash too; the dense twin is free, and starts from the same weights."""
    pruned = run(small("epochs=1", "method.sparsity=0.6", "method.until=0.5"), tmp_path / "pruned")
    file = pruned / "model.sparse.safetensors"
    words = ["method=rigl", "method.sparsity=0.8", "method.every=3", "epochs=2", "twin=true"]
    words += [f"possible={file}", f"weights={file}"]
    with pytest.raises(Crash):
        run(small(*words), tmp_path / "run", show=crash_after(2 * 21 + 25))
    out = run(small(*words), tmp_path / "run")
    for name in ("conv1.weight", "conv2.weight", "fc.weight"):
        assert not ((weights_of(out)[name] != 0) & (weights_of(pruned)[name] == 0)).any(), name
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert sum(layer["regrown"] for layer in records[-1]["layers"]) > 0
    assert json.loads((out / "dense" / "report.json").read_text())["sparsity"] < 0.1


def test_files_of_other_networks_are_refused_before_any_work(tmp_path):
    wide = build(small("network.width=4").network)
    torch.save(wide.state_dict() | {"head.weight": torch.zeros(1)}, tmp_path / "wide.pth")
    torch.save({"model": wide.state_dict(), "epoch": 3}, tmp_path / "whole.pth")
    torch.save({"head.weight": torch.zeros(1)}, tmp_path / "head.pth")
    for word, message in (
        ("weights=wide.pth", r"conv1.weight is of shape \(4, 1, 3, 3\), not \(8, .*and \d+ more"),
        ("weights=head.pth", "conv1.weight is missing"),
        ("weights=whole.pth", r"holds model, epoch: save model.state_dict\(\) alone"),
        ("possible=head.pth", "names no synapses of the network, which are conv1.weight"),
        ("possible=wide.pth", r"possible\['conv1.weight'\] is torch.bool of shape"),
    ):
        key, _, name = word.partition("=")
        with pytest.raises(ValueError, match=message):
            run(small(f"{key}={tmp_path / name}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Pair(torch.nn.Module):
    """Gives its output and something else."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(64, 10)

    def forward(self, x):
        return self.linear(x.flatten(1)), x


class Plain(Pair):
    """No spiking neuron is in it."""

    def forward(self, x):
        return super().forward(x)[0]


class Blind(Plain):
    """Half of its inputs are always 0."""

    def forward(self, x):
        return super().forward(x.flatten(1) * (torch.arange(64) < 32))


def test_sparsity_is_that_of_the_tensors_that_are_pruned(tmp_path):
    words = ["method.sparsity=0.5", 'only=["conv*"]', "epochs=1"]
    out = run(small(*words), tmp_path / "some")
    facts = json.loads((out / "report.json").read_text())
    (record,) = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    assert facts["sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert [layer["name"] for layer in facts["layers"]] == [
        layer["name"] for layer in record["layers"]
    ]
    assert measured(out).as_dict()["bytes"] == facts["bytes"]


def test_synapses_regrown_onto_silent_inputs_count_nowhere(tmp_path, monkeypatch):
    monkeypatch.setitem(NETS, "blind", Blind)
    table = {"network": "blind", "method": {"name": "set", "every": 3}, "epochs": 2}
    out = run(recipe(table), tmp_path / "run")
    facts = json.loads((out / "report.json").read_text())
    *_, record = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    assert 0.9 < facts["sparsity"] < 0.99
    assert record["sparsity"] == facts["sparsity"]
    assert [layer["alive"] for layer in record["layers"]] == [
        layer["alive"] for layer in facts["layers"]
    ]


def test_a_network_without_known_neurons_is_trained_and_measured(tmp_path, monkeypatch):
    monkeypatch.setitem(NETS, "plain", Plain)
    out = run(recipe({"network": "plain", "epochs": 1}), tmp_path / "run")
    facts = json.loads((out / "report.json").read_text())
    assert facts["firing_rate"] is None and facts["neurobench"]["ActivationSparsity"] is None
    (record,) = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    assert record["firing_rate"] is None


def test_a_run_that_is_trained_again_has_a_new_page(tmp_path):
    out = run(small("epochs=1"), tmp_path)
    (out / "report.json").unlink()
    (out / "report.html").write_text("old")
    run(small("epochs=1"), out)
    assert (out / "report.html").read_text() != "old"


@pytest.mark.parametrize("twin", ["false", "true"])
def test_a_folder_of_somebody_else_is_left_as_it_is(tmp_path, twin):
    out = tmp_path / "project"
    names = ["checkpoint/best.pth", "model.safetensors", "report.json", "report.html"]
    names += ["dense/model.safetensors"]
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("mine")
    with pytest.raises(ValueError, match=r"holds checkpoint, .*report.json, but no run.toml"):
        run(small(f"twin={twin}"), out)
    assert [(out / name).read_text() for name in names] == ["mine"] * len(names)
    assert len([path for path in out.rglob("*") if path.is_file()]) == len(names)


def test_a_dense_folder_of_somebody_else_is_left_as_it_is(tmp_path):
    (tmp_path / "dense").mkdir()
    (tmp_path / "dense" / "report.json").write_text("mine")
    for twin in ("true", "false"):
        with pytest.raises(ValueError, match=r"dense.*but no run.toml"):
            run(small(f"twin={twin}"), tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["dense", "report.json"]


def test_a_run_that_was_stopped_in_its_twin_is_no_folder_of_somebody_else(tmp_path):
    with pytest.raises(Crash):
        run(small("twin=true"), tmp_path / "run", show=crash_after(1))
    assert (tmp_path / "run" / "dense" / "run.toml").is_file()
    assert not (tmp_path / "run" / "run.toml").exists()
    with pytest.raises(Crash):
        run(small("twin=true"), tmp_path / "run", show=crash_after(1))


def test_a_folder_belongs_to_one_process_until_it_ends_or_is_killed(tmp_path):
    out = tmp_path / "run"
    begun, begin = os.pipe()
    child = os.fork()
    if not child:
        try:
            with alone(out):
                os.write(begin, b".")
                signal.pause()
        finally:
            os._exit(1)
    os.close(begin)
    assert os.read(begun, 1) == b"."
    with pytest.raises(Busy, match="another process is at work in .*give another --out"):
        run(small(), out)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with alone(out), alone(out / "dense"):
        assert [path.name for path in out.iterdir()] == ["dense"]
    assert not list(out.iterdir())


def test_counts_of_a_histogram_are_exact():
    counts = histogram(torch.zeros(2**24 + 2))["counts"]
    assert sum(counts) == 2**24 + 2


def plain_of(width):
    """A small network that is not always the same."""
    flat = torch.nn.Flatten()
    return torch.nn.Sequential(flat, torch.nn.Linear(64, width), torch.nn.Linear(width, 10))


def test_an_edited_network_is_told_from_the_one_of_the_files(tmp_path, monkeypatch):
    monkeypatch.setitem(NETS, "plain", lambda: plain_of(6))
    asked = recipe({"network": "plain", "epochs": 2, "batch": 2000, "compile": False})
    run(asked, tmp_path / "whole")
    with pytest.raises(Crash):
        run(asked, tmp_path / "broken", show=crash_after(3))  # the first epoch is written
    monkeypatch.setitem(NETS, "plain", lambda: plain_of(5))
    told = r"is of another network: 1.weight is of shape \(6, 64\), not \(5, 64\).*plain was edited"
    with pytest.raises(ValueError, match=rf"whole/model.safetensors {told}"):
        measured(tmp_path / "whole")
    with pytest.raises(ValueError, match=rf"broken/checkpoint {told}"):
        run(asked, tmp_path / "broken")
    monkeypatch.setitem(NETS, "plain", lambda: plain_of(6))
    (tmp_path / "whole" / "report.json").write_text('{"accuracy"')
    with pytest.raises(ValueError, match="report.json' is not what a run writes"):
        export(tmp_path / "whole", tmp_path / "net.spikewire")
    file = tmp_path / "whole" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ValueError, match="model.safetensors holds no weights that can be read"):
        measured(tmp_path / "whole")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"epochs = \n", "run.toml is not TOML"),
        (b"epoch = 3\n", "run.toml is no recipe: unknown key epoch"),
        (b"only = ['\xfc']\n", "run.toml is not UTF-8 text"),
    ],
)
def test_a_damaged_recipe_is_named(tmp_path, text, message):
    (tmp_path / "run.toml").write_bytes(text)
    (tmp_path / "report.json").write_text("{}")
    for act in (measured, lambda out: run(small(), out)):
        with pytest.raises(ValueError, match=message):
            act(tmp_path)


def test_nothing_is_written_of_an_epoch_that_diverged(tmp_path, monkeypatch):
    class Blown(Plain):
        def forward(self, x):
            return super().forward(x) * (1.0 if self.training else float("nan"))

    monkeypatch.setitem(NETS, "blown", Blown)
    with pytest.raises(Diverged, match="the validation loss is not finite after epoch 1"):
        run(recipe({"network": "blown", "batch": 2000, "compile": False}), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.toml"]


def test_who_came_too_late_leaves_the_folder_to_its_owner(tmp_path, monkeypatch):
    """It had seen no folder when it began, and would have taken the empty one for its own."""
    with alone(tmp_path / "run"):
        monkeypatch.setattr(Path, "exists", lambda self: False)
        with pytest.raises(Busy), alone(tmp_path / "run"):
            pass
        monkeypatch.undo()
        assert (tmp_path / "run").is_dir()
    assert not (tmp_path / "run").exists()


def test_an_epoch_is_not_written_over_that_of_an_heir(tmp_path):
    """Who watches is asked once more after the evaluation, which may have taken long."""

    def watch(out, recipe, epoch, record):
        if record is not None:
            raise InterruptedError("lost")

    with pytest.raises(InterruptedError):
        run(small("epochs=1"), tmp_path / "run", show=watch)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert not (tmp_path / "run" / "checkpoint").exists()
