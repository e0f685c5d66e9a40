"""The command, as a user calls it."""

import json
import sys
from pathlib import Path

import pytest
import torch

from spikewire import METHODS, cli, config
from spikewire.train import Epoch

SMALL = ["epochs=2", "network.T=2", "network.width=8", "twin=false", "compile=false"]


def test_train_report_measure_plot(command, tmp_path):
    out = tmp_path / "one"
    status, printed, _ = command("train", "digits", *SMALL, "--out", out, "--json")
    assert status == 0
    assert json.loads(printed)["epochs"] == 2
    words = ["seed=1", "--tensorboard", "--out", tmp_path / "two"]
    status, printed, _ = command("train", "digits", *SMALL, *words)
    assert len(list((tmp_path / "two" / "tensorboard").iterdir())) == 1
    assert status == 0 and "report.html" in printed and "what pruning bought" in printed
    status, printed, _ = command("measure", out, "--json")
    assert status == 0
    last = json.loads((out / "report.json").read_text())["accuracy"]["last"]
    assert json.loads(printed)["accuracy"] == last
    assert json.loads(printed)["bytes"] == json.loads((out / "report.json").read_text())["bytes"]
    status, printed, _ = command("report", out, tmp_path / "two")
    assert status == 0 and "±" in printed
    assert "Time per image, one at a time: " in printed and "; this network in PyTorch" in printed
    status, printed, _ = command("report", out, tmp_path / "two", "--json")
    assert [told["seed"] for told in json.loads(printed)] == [0, 1]
    assert json.loads(command("report", out, "--json")[1])["accuracy"]["last"]
    picture = tmp_path / "tradeoff.svg"
    status, printed, _ = command("plot", out, tmp_path / "two", "--x", "sparsity", "-o", picture)
    assert status == 0 and picture.read_text().startswith("<?xml")
    assert picture.with_suffix(".csv").is_file()


def test_lottery(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["lottery", "digits", *SMALL, "batch=200", "--rounds", 1, "--fraction", 0.5]
    status, printed, complaint = command(*words)
    assert status == 0, complaint
    assert "50.00 %" in printed and "accuracy-against-sparsity.svg" in printed
    status, printed, _ = command(*words, "--json")
    assert status == 0
    assert [row["total_epochs"] for row in json.loads(printed)["rounds"]] == [2, 3]
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("lottery-digits-") and folder.name.endswith("fraction=0.5")
    status, printed, _ = command("report", folder / "round-00", folder / "round-01")
    assert status == 0 and "against dense" in printed
    net = tmp_path / "ticket.spikewire"
    assert command("export", folder / "round-01", "--to", net)[0] == 0 and net.is_file()


def test_a_folder_may_look_like_markup():
    display = cli._Display(quiet=True)
    display(Path("tag[/x]"), config.Recipe(), Epoch(1, 1, 2, 1, seen=1), None)
    (bar,) = display.progress.tasks
    assert "tag[/x]" in display.progress.columns[0](bar).plain


def test_a_command_flushes_denormal_numbers(command):
    """Moments that decay into them make a step of Adam several times as long."""
    tiny = torch.tensor(1e-40)
    assert (tiny * 1.0).item() > 0
    command("recipes")
    assert (tiny * 1.0).item() == 0


def test_methods_and_recipes(command):
    status, printed, _ = command("methods", "--json")
    assert status == 0
    rows = json.loads(printed)
    assert [row["name"] for row in rows] == list(METHODS)
    assert {row["name"] for row in rows if not row["source"]} == {"dense", "prune", "rewire"}
    assert {row["sparsity"] for row in rows} == {
        "none",
        "as given",
        "emergent",
        "exact, of synapses",
        "exact, of channels",
    }
    assert "arXiv 1911.11134" in command("methods")[1]
    status, printed, _ = command("methods", "rigl")
    assert status == 0 and "Rigged lottery" in printed and '"until": 0.75' in printed
    assert [row["name"] for row in json.loads(command("methods", "rigl", "--json")[1])] == ["rigl"]
    assert "did you mean 'rigl'" in command("methods", "rigle")[2]
    status, printed, _ = command("recipes", "--json")
    assert status == 0 and "digits" in json.loads(printed)
    assert all(told.endswith(".") for told in json.loads(printed).values())  # a whole sentence
    assert json.loads(command("recipes", "digits", "--json")[1])["data"]["name"] == "digits"
    status, printed, _ = command("recipes")
    assert status == 0 and "digits" in printed
    status, printed, _ = command("recipes", "mnist")
    assert status == 0 and "[method]" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "digit"], "did you mean 'digits'"),
        (["train", "digits", "method.sparsty=1"], "did you mean 'sparsity'"),
        (["train", "digits", "method.sparsity=1.5"], "from 0 up to but not including 1"),
        (["train", "digits", "loss=mze"], "did you mean 'mse'"),
        (["train", "digits", "precision=bfloat"], "did you mean 'bfloat16'"),
        (["lottery", "digits", "method=gmp"], "leave it out, and say how to prune by --rounds"),
        (["lottery", "digits", "--fraction", "1.5"], "above 0 and below 1"),
        (["lottery", "digits", "--share", "erx"], "did you mean 'erk'"),
        (["lottery", "digits", "--score", "gradient"], "has no gradient"),
        (["train", "digits", "weights=nowhere.pth"], "there is no file nowhere.pth"),
        (["measure", "nowhere"], "no finished run"),
        (["report", "nowhere"], "no run folder"),
        (["train", "nowhere.py:net"], "there is no file"),
    ],
)
def test_wrong_words_cost_one_sentence(command, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    status, _, complaint = command(*words)
    assert status == 2
    assert message in complaint
    assert "Traceback" not in complaint
    assert complaint.count("\n") == 1


def test_every_command_has_a_folder_of_its_own(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in ([], ["method=rigl", "method.sparsity=0.8"]):
        status, _, complaint = command("train", "digits", *SMALL, *words, "--json")
        assert status == 0, complaint
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert any("method=rigl" in folder.name for folder in (tmp_path / "runs").iterdir())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["method.sparsity=high"], "method.sparsity: "),
        (["compile=maybe"], "'auto'"),
        (["epochs=none"], "epochs: Input should be a valid integer"),
    ],
)
def test_bad_values_are_named_as_the_user_wrote_them(command, words, sentence):
    status, _, complaint = command("train", "digits", *words)
    assert status == 2 and sentence in complaint
    assert "[" not in complaint and complaint.count("\n") == 1


def test_one_pattern_needs_no_brackets(command, tmp_path):
    words = ["only=fc.weight", "--json", "--out", tmp_path / "run"]
    status, printed, complaint = command("train", "digits", *SMALL, *words)
    assert status == 0, complaint
    assert [layer["name"] for layer in json.loads(printed)["layers"]] == ["fc.weight"]


def test_a_bug_in_a_network_of_your_own_keeps_its_traceback(command, tmp_path, monkeypatch):
    (tmp_path / "parts.py").write_text("from torch import nn\nWIDTH = 5\n")
    file = tmp_path / "net.py"
    file.write_text("from parts import WIDTH, nn\ndef make(depth=1):\n    return len(WIDTH)\n")
    monkeypatch.setattr(sys, "argv", ["spikewire", "train", f"{file}:make"])
    with pytest.raises(TypeError, match="has no len"):
        cli.main()
    status, _, complaint = command("train", f"{file}:make", "network.width=3")
    assert status == 2 and "does not take {'width': 3}" in complaint


def test_a_network_of_your_own(command, tmp_path):
    file = tmp_path / "net.py"
    file.write_text(
        "from torch import nn\n"
        "from spikingjelly.activation_based import layer, neuron, functional\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layers = nn.Sequential(layer.Flatten(), layer.Linear(64, 10),\n"
        "                                    neuron.IFNode())\n"
        "        functional.set_step_mode(self.layers, 'm')\n"
        "    def forward(self, x):\n"
        "        return self.layers(x.expand(3, *x.shape))\n"
    )
    words = ["epochs=1", "method=set", "--json", "--out", tmp_path / "run"]
    status, printed, complaint = command("train", f"{file}:Net", *words)
    assert status == 0, complaint
    assert json.loads(printed)["sparsity"] == pytest.approx(0.9)
