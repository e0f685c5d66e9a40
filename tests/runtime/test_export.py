"""Exported networks on the command line: what a run found is what its file and report say."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spikewire import report
from spikewire.bought import bought
from spikewire.config import override, read, recipe
from spikewire.finished import export
from spikewire.formats import write_json
from spikewire.run import run
from spikewire.runtime import file
from spikewire.runtime import kernels as package
from spikewire.runtime.program import Neuron, Program, Step, Value

try:
    package.kernels()
except ImportError as error:
    pytest.skip(f"no engine: {error}", allow_module_level=True)

SMALL = ["epochs=1", "batch=32", "twin=false", "compile=false"]
TINY = ["network.T=2", "network.width=8", "method.sparsity=0.5"]
ANALOG = """
from torch import nn
from spikewire.nets import LIF, Repeat

def analog():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU(), Repeat(2), LIF())
"""
KEYS = {
    "samples",
    "accuracy_dense",
    "accuracy_sparse",
    "spikes",
    "differing",
    "milliseconds_dense",
    "milliseconds_sparse",
    "threads",
}


def trained(out, network, *words):
    return run(recipe(override(read(network), [*SMALL, *words])), out)


def facts(folder):
    return json.loads((folder / "report.json").read_text())


def names(folder):
    """The rows of what pruning bought."""
    return [row.name for row in bought(facts(folder))]


ROW = "Time per image, one at a time"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("export") / "run", "digits", *TINY)


@pytest.fixture(scope="module")
def analog(tmp_path_factory):
    """A run of a network with a layer that the engine does not know."""
    folder = tmp_path_factory.mktemp("analog")
    (folder / "net.py").write_text(ANALOG)
    words = ["data.name=digits", "method=prune", "method.sparsity=0.5"]
    return trained(folder / "run", f"{folder / 'net.py'}:analog", *words)


@pytest.fixture(scope="module")
def original(finished):
    return export(finished, finished.parent / "net.spikewire")


@pytest.fixture
def exported(original, tmp_path, monkeypatch):
    """A file that may be damaged, in the working directory."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copy(original, "net.spikewire"))


# --- what works -----------------------------------------------------------------------------------


def test_a_run_becomes_a_file(command, finished, original, tmp_path):
    network = tmp_path / "new" / "net.spikewire"
    for _ in range(2):
        status, printed, complaint = command("export", finished, "--to", network)
        assert (status, printed, complaint) == (0, f"{network}\n", "")
        assert network.read_bytes() == original.read_bytes()
        network.write_text("to be replaced")


def test_the_file_has_the_accuracy_of_the_run(command, finished, exported):
    status, printed, _ = command("run", exported, "--json", "--threads", 1, "--batch", 100)
    assert status == 0
    found, told = json.loads(printed), facts(finished)
    assert set(found) == KEYS | {"file", "bytes"}
    assert found["file"] == str(exported)
    assert found["bytes"] == exported.stat().st_size
    assert found["samples"] == told["engine"]["samples"] == 359
    assert told["accuracy"]["last"] > 50  # or networks that learnt nothing would do as well
    for kind in ("dense", "sparse"):
        assert found[f"accuracy_{kind}"] == pytest.approx(told["accuracy"]["last"], abs=0.5)
        assert found[f"milliseconds_{kind}"] > 0
    assert found["spikes"] == pytest.approx(told["engine"]["spikes"], rel=1e-2)
    assert 0 <= found["differing"] < 1e-2 * found["spikes"]
    assert found["threads"] == 1


def test_a_table_for_people(command, exported):
    status, printed, _ = command("run", exported, "--threads", 1)
    found = json.loads(command("run", exported, "--threads", 1, "--json")[1])
    assert status == 0
    assert f"net.spikewire, {found['bytes']:,} bytes" in printed
    accuracies = next(line for line in printed.splitlines() if "accuracy" in line)
    for kind in ("dense", "sparse"):
        assert f"{found[f'accuracy_{kind}']:.2f} %" in accuracies
    assert "time per sample" in printed
    assert f"of {found['spikes']:,} spikes differ, 1 threads" in printed


def test_a_long_name_is_printed_in_one_piece(command, original, tmp_path):
    network = shutil.copy(original, tmp_path / f"{'network' * 20}.spikewire")
    assert str(network) in command("run", network, "--threads", 1)[1]


def test_the_file_says_where_it_is_from(exported, finished):
    _, told = file.load(exported)
    assert told["data"]["name"] == "digits"
    assert told["data"]["classes"] == [str(digit) for digit in range(10)]
    assert (told["method"], told["network"], told["seed"]) == ("gmp", "tiny", 0)
    assert told["trained"] == facts(finished)["commit"]
    assert told["versions"]["torch"] == facts(finished)["versions"]["torch"]


def test_lower_precision_takes_fewer_bytes(command, finished, exported, tmp_path):
    sizes = [exported.stat().st_size]
    for precision in ("float16", "int8"):
        network = tmp_path / f"{precision}.spikewire"
        words = ["--to", network, "--precision", precision]
        assert command("export", finished, *words)[0] == 0
        sizes.append(network.stat().st_size)
        found = json.loads(command("run", network, "--json", "--threads", 1)[1])
        assert found["accuracy_sparse"] == pytest.approx(found["accuracy_dense"], abs=0.5)
    assert sizes[0] > 1.3 * sizes[1] > 1.3 * sizes[2]


@pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")
def test_c_checks_itself(command, finished, tmp_path):
    flash = []
    for precision in ("float32", "int8"):
        folder = tmp_path / precision / "c"
        words = ["--to", folder, "--precision", precision]
        assert command("export", finished, *words)[:2] == (0, f"{folder}\n")
        assert {path.name for path in folder.iterdir()} == {"main.c", "network.c", "network.h"}
        compiler = ["gcc", "-std=c99", "-ffp-contract=off", "main.c", "network.c", "-o", "example"]
        subprocess.run(compiler, cwd=folder, check=True)
        done = subprocess.run([folder / "example"], capture_output=True, text=True)
        assert done.returncode == 0
        assert done.stdout.count("as expected") == 2
        flash.append(int(re.findall(r"Flash +(\d+) bytes", (folder / "network.c").read_text())[0]))
    assert flash[1] < 0.8 * flash[0]


# --- what is refused ------------------------------------------------------------------------------


def assert_refused(answer, *words):
    """Exit status 2, and one sentence for the user."""
    status, printed, complaint = answer
    assert (status, printed) == (2, "")
    assert complaint.startswith("spikewire: ")
    assert complaint.count("\n") == 1 and complaint.endswith("\n")
    assert "Traceback" not in complaint
    for word in words:
        assert word in complaint


@pytest.mark.parametrize("name", ["net.safetensors", "net", "C", "c.txt"])
def test_other_names_are_refused(command, finished, tmp_path, name):
    answer = command("export", finished, "--to", tmp_path / name)
    assert_refused(answer, f"--to is {tmp_path / name}", "NAME.spikewire, or a folder called c")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("to", "precision", "sentence"),
    [
        ("net.spikewire", "int4", "no precision 'int4'"),
        ("net.spikewire", "float33", "did you mean 'float32'"),
        ("c", "float16", "precision is float16, which C99 does not have: give float32 or int8"),
    ],
)
def test_other_precisions_are_refused(command, finished, tmp_path, to, precision, sentence):
    answer = command("export", finished, "--to", tmp_path / to, "--precision", precision)
    assert_refused(answer, sentence)
    assert not any(tmp_path.iterdir())


def test_an_unfinished_run_is_refused(command, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "report.json").unlink()
    for folder in (tmp_path / "run", tmp_path / "nowhere"):
        answer = command("export", folder, "--to", tmp_path / "net.spikewire")
        assert_refused(answer, f"{folder} holds no finished run: train it first")
        assert not (tmp_path / "net.spikewire").exists()


def test_a_place_that_cannot_be_written_to(command, finished, tmp_path):
    (tmp_path / "taken").write_text("a file, not a folder")
    for to in ("net.spikewire", "c"):
        assert_refused(command("export", finished, "--to", tmp_path / "taken" / to), "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_network_that_the_engine_does_not_know(command, analog, tmp_path):
    for to in ("net.spikewire", "c"):
        answer = command("export", analog, "--to", tmp_path / to)
        assert_refused(
            answer, "the engine cannot run 2 (ReLU)", "none of the layers that are known"
        )
    assert not any(tmp_path.iterdir())


def test_a_missing_file_is_refused(command, tmp_path):
    answer = command("run", tmp_path / "nowhere.spikewire")
    assert_refused(answer, "nowhere.spikewire", "No such file")


def test_a_folder_is_no_network(command, tmp_path):
    assert_refused(command("run", tmp_path), str(tmp_path))


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "weights of a run"])
def test_other_files_are_refused(command, exported, finished, damage):
    whole = exported.read_bytes()
    weights = (finished / "model.safetensors").read_bytes()
    contents = {"empty": b"", "text": b"hello\n" * 99, "cut": whole[:-9]}
    exported.write_bytes(contents.get(damage, weights))
    answer = command("run", exported)
    assert_refused(answer, f"{exported} is no network of spikewire", "`spikewire export` wrote")


SPIKES = Program(2, Value((1, 8, 8), True), [Step("if", Neuron("integrate"), (0,))])
DIGITS = {"name": "digits", "mean": [0.0], "std": [1.0], "classes": ["0"]}


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({}, "does not say which data it is for: export it again"),
        ({"data": "digits"}, "does not say which data it is for"),
        ({"data": {"name": "digits"}}, "does not say which data it is for"),
        ({"data": DIGITS | {"mean": ["dark"]}}, "does not say which data it is for"),
        ({"data": DIGITS | {"name": "digit"}}, "did you mean 'digits'"),
        ({"data": DIGITS | {"mean": [0.0] * 3}}, "is for images with 3 channels"),
        ({"data": DIGITS}, "x has shape (359, 1, 8, 8): give (2, B, 1, 8, 8)"),
    ],
)
def test_files_for_other_data_are_refused(command, tmp_path, told, sentence):
    file.save(tmp_path / "net.spikewire", SPIKES, facts=told)
    assert_refused(command("run", tmp_path / "net.spikewire"), sentence)


@pytest.mark.parametrize("option", ["--threads", "--batch"])
def test_numbers_start_at_one(command, exported, option):
    status, printed, complaint = command("run", exported, option, 0)
    assert (status, printed) == (2, "")
    assert option in complaint and "Traceback" not in complaint


def test_too_many_threads_are_refused(command, exported, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    assert_refused(command("run", exported, "--threads", 257), "threads is 257: give 1 to 256")


def test_data_that_are_not_there_are_refused(command, tmp_path):
    told = {"data": DIGITS | {"name": "mnist"}}
    file.save(tmp_path / "net.spikewire", SPIKES, facts=told)
    assert_refused(command("run", tmp_path / "net.spikewire", "--data", tmp_path), "mnist")


# --- what reports say -----------------------------------------------------------------------------


def test_the_report_has_the_engine_beside_pytorch(finished):
    engine = facts(finished)["engine"]
    assert set(engine) == KEYS
    assert engine["milliseconds_dense"] > 0 and engine["milliseconds_sparse"] > 0
    assert engine["accuracy_sparse"] == pytest.approx(facts(finished)["accuracy"]["last"], abs=0.5)
    assert engine["spikes"] > 1000 and 0 <= engine["differing"] < 1e-2 * engine["spikes"]
    row = next(row for row in bought(facts(finished)) if row.name == ROW)
    assert row.dense == f"{engine['milliseconds_dense']:,.3g} ms"
    assert row.pruned == f"{engine['milliseconds_sparse']:,.3g} ms"
    page = (finished / "report.html").read_text()
    assert ROW in page and row.dense in page and row.pruned in page
    assert f"of {engine['spikes']:,} spikes differ" in page


def test_a_network_that_the_engine_cannot_run_has_the_reason_in_its_report(analog):
    reason = facts(analog)["engine"]["reason"]
    assert reason == "the engine cannot run 2 (ReLU): ReLU is none of the layers that are known"
    assert ROW not in names(analog)
    assert ROW not in (analog / "report.html").read_text()


def test_training_needs_no_engine(monkeypatch, tmp_path, finished):
    monkeypatch.setitem(sys.modules, "spikewire.runtime.kernels._kernels", None)
    monkeypatch.setattr(report, "write", lambda _: None)  # drawing is not what is tested
    package.kernels.cache_clear()
    try:
        out = trained(tmp_path / "run", "digits", *TINY)
    finally:
        monkeypatch.undo()
        package.kernels.cache_clear()
    assert (
        "installed without its engine: install a C++17 compiler" in facts(out)["engine"]["reason"]
    )
    assert ROW not in names(out) and ROW in names(finished)
    assert facts(out)["accuracy"] == facts(finished)["accuracy"]


def test_reports_from_before_the_engine_are_read(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    told = {name: value for name, value in facts(finished).items() if name != "engine"}
    write_json(tmp_path / "run" / "report.json", told)
    assert ROW not in names(tmp_path / "run")
