"""Epochs: what a line of metrics.jsonl says of one, and what all of them say together."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from spikewire.pruner import Pruner
from spikewire.synapses import Synapses
from spikewire.train import Epoch

_BINS = 60
# Histograms are kept of the first epoch, the last, and some between: long runs have small records.
_PORTRAITS = 16
# Accuracy at the best validated epoch counts only among epochs about as sparse as the last one.
_SAME_CONNECTIVITY = 0.05


def record_of(
    epoch: Epoch, pruner: Pruner, before: dict[str, Tensor], epochs: int
) -> dict[str, Any]:
    """The line of metrics.jsonl about a finished epoch.

    Args:
        epoch: what training says of it.
        pruner: of the network as it is after it.
        before: where weights were not 0 before it, see `existing`.
        epochs: of the whole training.
    """
    now = existing(pruner)
    every = math.ceil(epochs / _PORTRAITS)
    portrayed = epoch.epoch in (1, epochs) or epoch.epoch % every == 0
    layers = [_layer(name, before[name], mask) for name, mask in now.items()]
    connectivity = sum(each["alive"] for each in layers) / sum(each["synapses"] for each in layers)
    return {
        "epoch": epoch.epoch,
        "step": epoch.step,
        "seconds": epoch.seconds,
        "lr": epoch.lr,
        "loss": epoch.loss,
        "accuracy": epoch.accuracy,
        "losses": epoch.losses,
        "firing_rate": epoch.firing_rate,
        "sparsity": 1.0 - connectivity,
        "connectivity": connectivity,
        "layers": layers,
        "histograms": {
            s.name: {
                kind: histogram(values)
                for kind, values in (
                    ("weight", s.weight.detach()[now[s.name]]),
                    ("theta", _theta(s)),
                )
                if values is not None and len(values)
            }
            for s in (pruner if portrayed else ())
        },
        "gains": {
            c.name: [float(f"{gain:.4g}") for gain in c.gain.tolist()]
            for c in (pruner.channels if portrayed else ())
        },
    }


def _theta(synapses: Synapses) -> Tensor | None:
    """Hidden parameters as papers have them: with a fixed sign, above 0 where a synapse exists."""
    theta, sign = synapses.state.get("theta"), synapses.state.get("sign")
    return theta if theta is None or sign is None else sign * theta


def existing(pruner: Pruner) -> dict[str, Tensor]:
    """Where weights are not 0: as in the report, a regrown synapse counts once it has moved.

    >>> from torch import nn
    >>> from spikewire import Dense
    >>> net = nn.Linear(2, 1)
    >>> _ = net.weight.data.copy_(torch.tensor([[0.5, 0.0]]))
    >>> existing(Pruner(net, Dense(), steps=1))
    {'weight': tensor([[ True, False]])}
    """
    return {s.name: s.weight != 0 for s in pruner}


def _layer(name: str, before: Tensor, now: Tensor) -> dict[str, Any]:
    return {
        "name": name,
        "synapses": now.numel(),
        "alive": int(now.sum()),
        "pruned": int((before & ~now).sum()),
        "regrown": int((~before & now).sum()),
    }


def histogram(values: Tensor) -> dict[str, Any]:
    """Counts of values, of any shape, in 60 bins of equal width between their extremes.

    >>> histogram(torch.tensor([0.0, 1.0, 1.0]))["counts"][-1]
    2
    """
    low, high = float(values.min()), float(values.max())
    counts = torch.histc(values.double().cpu(), _BINS, low, high)  # float counts to 2**24 only
    return {"low": low, "high": high, "counts": [int(count) for count in counts]}


def near(connectivity: float, final: float) -> bool:
    """Whether a network is about as sparse as the final one, within a twentieth.

    >>> near(0.0104, 0.01), near(0.02, 0.01)
    (True, False)
    """
    return abs(connectivity - final) <= _SAME_CONNECTIVITY * final


def accuracy_of(last: float | None, final: float, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Test accuracy after the last epoch, and at the epoch that validation would choose.

    Only epochs about as sparse as the final network are eligible: the best accuracy of a run is
    often that of its denser past.

    Args:
        last: after the last epoch, in percent; None if it is not known.
        final: connectivity of the final network, [0, 1].
        records: lines of metrics.jsonl.

    >>> first = {"epoch": 1, "connectivity": 0.5, "accuracy": {"validation": 99.0, "test": 98.0}}
    >>> last = {"epoch": 2, "connectivity": 0.1, "accuracy": {"validation": 97.0, "test": 96.0}}
    >>> accuracy_of(96.0, 0.1, [first, last])
    {'last': 96.0, 'validation_best': 96.0, 'validation_best_epoch': 2}
    """
    eligible = [
        record
        for record in records
        if near(record["connectivity"], final) and record["accuracy"]["validation"] is not None
    ]
    if not eligible:
        return {"last": last, "validation_best": None, "validation_best_epoch": None}
    best = max(eligible, key=lambda record: record["accuracy"]["validation"])
    return {
        "last": last,
        "validation_best": best["accuracy"]["test"],
        "validation_best_epoch": best["epoch"],
    }
