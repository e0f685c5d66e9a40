"""One thread for all tests: the networks are tiny, and two ranks shall not fight for cores."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch

from spikewire import cli


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def spikewire(monkeypatch, capsys, *words):
    """Exit status, standard output and standard error of a command."""
    monkeypatch.setattr(sys, "argv", ["spikewire", *map(str, words)])
    monkeypatch.setattr(cli.console, "width", 200)
    with pytest.raises(SystemExit) as end:
        cli.main()
        sys.exit(0)
    captured = capsys.readouterr()
    return end.value.code, captured.out, captured.err


@pytest.fixture
def command(monkeypatch, capsys):
    """The command line, as a function of its words."""
    yield lambda *words: spikewire(monkeypatch, capsys, *words)
    torch.set_flush_denormal(False)  # as it was before the command


@pytest.fixture
def bars():
    """Images of two classes that a network can learn in a moment, and their labels."""

    def made(count, seed=0):
        """Bright upper (0) or lower (1) halves of 4 x 4 images, on a dim ground."""
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(2, (count,), generator=generator)
        images = 0.2 * torch.rand(count, 1, 4, 4, generator=generator)
        for image, label in zip(images, labels, strict=True):
            image[0, 2 * label : 2 * label + 2] += 0.8
        return images, labels

    return made


def histogram(values: np.ndarray, low: float, high: float) -> dict:
    """Return a histogram as runs record it."""
    counts, _ = np.histogram(values, bins=40, range=(low, high))
    return {"low": low, "high": high, "counts": counts.tolist()}


def write_run(
    folder: Path,
    *,
    epochs: int = 12,
    sizes: dict[str, int] | None = None,
    target: float = 0.9,
    method: str = "gradr",
    seed: int = 0,
    theta: bool = True,
    histograms: bool = True,
    validation: bool = True,
    twin: bool = False,
) -> Path:
    """Write a run folder that looks like a real one; the numbers hang together."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = sizes or {"conv1.weight": 2400, "fc1.weight": 627200, "fc2.weight": 8000}
    chance = np.random.default_rng(seed)
    alive = dict(sizes)
    records = []
    for epoch in range(1, epochs + 1):
        share = target * (1 - (1 - epoch / epochs) ** 3)
        layers = []
        for place, (name, synapses) in enumerate(sizes.items()):
            left = max(1, round(synapses * (1 - share * (0.7 + 0.3 * place / len(sizes)))))
            regrown = round(0.3 * (alive[name] - left))
            pruned = alive[name] - left + regrown
            alive[name] = left
            layers.append(
                {"name": name, "synapses": synapses, "alive": left, "pruned": pruned,
                 "regrown": regrown}
            )  # fmt: skip
        sparsity = 1 - sum(alive.values()) / sum(sizes.values())
        test = 97.6 - 30 * math.exp(-epoch / 1.5) - 1.2 * share**6 + chance.normal(0, 0.15)
        kept = {}
        for name in sizes if histograms else ():
            spread = 0.05 + 0.05 * epoch / epochs
            weights = chance.normal(0, spread, 3000)
            weights = weights[np.abs(weights) > 0.05 * share]
            kept[name] = {"weight": histogram(weights, -0.4, 0.4)}
            if theta:
                kept[name]["theta"] = histogram(
                    chance.normal(0.1 - 0.3 * share, 0.1, 3000), -0.6, 0.5
                )
        records.append(
            {
                "epoch": epoch,
                "step": 100 * epoch,
                "seconds": 3.0,
                "lr": 1e-3,
                "loss": 0.5 / epoch,
                "accuracy": {
                    "train": test + 1.1,
                    "validation": test - 0.2 if validation else None,
                    "test": test,
                },
                "firing_rate": 0.1,
                "sparsity": sparsity,
                "connectivity": 1 - sparsity,
                "layers": layers,
                "histograms": kept,
            }
        )
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(lines)
    synapses, left = sum(sizes.values()), sum(alive.values())
    firing = []
    for place, neurons in enumerate((800, 10), 1):
        rates = np.clip(chance.gamma(1.2, 0.1 if target else 0.14, neurons), 0, 1)
        firing.append(
            {"name": str(place), "neurons": neurons, "rate": float(rates.mean()),
             "silent": int((rates < 0.01).sum()), "histogram": histogram(rates, 0.0, 1.0)}
        )  # fmt: skip
    synops = 800_000 * (1 - sparsity)
    content = {
        "accuracy": {
            "last": records[-1]["accuracy"]["test"],
            "validation_best": records[-1]["accuracy"]["test"] if validation else None,
            "validation_best_epoch": epochs if validation else None,
        },
        "sparsity": sparsity,
        "connectivity": 1 - sparsity,
        "layers": [
            {"name": name, "synapses": size, "alive": alive[name],
             "sparsity": 1 - alive[name] / size}
            for name, size in sizes.items()
        ],
        "epochs": epochs,
        "seconds_per_epoch": 3.1,
        "parameters": synapses + 810,
        "synops": synops,
        "dense_synops": 4_000_000.0,
        "macs": 50_000.0 * (1 - sparsity),
        "energy_nj": 0.9e-3 * synops + 4.6e-3 * 50_000 * (1 - sparsity),
        "energy_assumptions": "45 nm: 0.9 pJ per accumulate, 4.6 pJ per multiply-accumulate "
        "(Horowitz 2014); memory traffic is not counted",
        "bytes": {"dense": 4 * synapses, "sparse": 6 * left + 1000},
        "firing": firing,
        "neurobench": {"footprint": 4 * synapses, "synaptic_operations": {"Effective_ACs": synops}},
        "machine": {"processor": "x86_64", "cores": 2, "memory_gb": 8.0},
        "versions": {"spikewire": "0.1.0", "torch": "2.13.0", "python": "3.11.7"},
        "commit": "0123abc",
        "method": method,
        "network": "fc",
        "data": "digits",
        "seed": seed,
    }  # fmt: skip
    (folder / "report.json").write_text(json.dumps(content))
    config = {
        "network": "fc",
        "data": "digits",
        "epochs": epochs,
        "seed": seed,
        "twin": twin,
        "method": {"name": method, "sparsity": target},
        "optimizer": {"name": "adam", "lr": 1e-3, "betas": [0.9, 0.999]},
    }
    (folder / "run.toml").write_text(tomli_w.dumps(config))
    if twin:
        write_run(folder / "dense", epochs=epochs, sizes=sizes, target=0.0, method="dense",
                  seed=seed, theta=False, validation=validation)  # fmt: skip
    return folder


@pytest.fixture
def fake_run():
    """A function that writes a run folder."""
    return write_run
