"""Bought: what pruning bought, a run beside its dense twin, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from spikewire import words
from spikewire.facts import alive_of, firing_rate, neurons_of

# Of the pruned network in PyTorch and in the engine: its first column is not the dense network's.
TIMED = "Time per image, one at a time"


class Bought(NamedTuple):
    """One row of the table of what pruning bought; all cells are text for people.

    The note may come from a run file: escape it before giving it to anything that reads markup.
    """

    name: str
    dense: str
    pruned: str
    ratio: str
    note: str = ""


def bought(report: Mapping[str, Any], dense: Mapping[str, Any] | None = None) -> list[Bought]:
    """Return the table of what pruning bought: dense network, pruned network, change.

    Without a dense twin the dense column holds what the pruned network itself would need if all
    its synapses were there, where that is known.

    Args:
        report: report of the pruned run.
        dense: report of its dense twin, or None.

    Example:
        >>> layers = [{"name": "fc1.weight", "synapses": 1000, "alive": 100}]
        >>> report = {"accuracy": {"last": 97.0}, "sparsity": 0.9, "layers": layers}
        >>> dense = {"accuracy": {"last": 96.5}, "sparsity": 0.0,
        ...          "layers": [{"name": "fc1.weight", "synapses": 1000, "alive": 1000}]}
        >>> for row in bought(report, dense)[:3]:
        ...     print(*row[:4], sep=" | ")
        Test accuracy, last epoch | 96.50 % | 97.00 % | +0.50 points
        Sparsity | 0.00 % | 90.00 % | +90.00 points
        Synapses alive | 1,000 | 100 | ÷ 10
    """
    other = dense if dense is not None else _as_if_dense(report)
    sizes = report.get("bytes") or {}
    stored = sizes.get("dense")
    best = _best(report)
    rows = [
        _points_row("Test accuracy, last epoch", other["accuracy"].get("last"),
                    report["accuracy"]["last"]),
        _points_row("Test accuracy, best validation epoch", _best(other)[0], best[0],
                    f"epoch {best[1]}" if best[1] is not None else ""),
        _points_row("Sparsity", 100 * other["sparsity"], 100 * report["sparsity"]),
        _ratio_row("Synapses alive", alive_of(other), alive_of(report)),
        _ratio_row("File", (other.get("bytes") or {}).get("dense"), sizes.get("sparse"), words.size,
                   "the dense network stored dense, the pruned network stored sparse"
                   + (f" (stored dense: {words.size(stored)})" if stored is not None else "")),
        _ratio_row("SynOps per image", other.get("synops"), report.get("synops"),
                   note=_synops_note(report)),
        _ratio_row("MACs per image", other.get("macs"), report.get("macs"),
                   note="multiply-accumulates on real-valued input"),
        _ratio_row("Energy per image, estimate", other.get("energy_nj"), report.get("energy_nj"),
                   words.energy, report.get("energy_assumptions") or ""),
        _ratio_row("Firing rate", firing_rate(other), firing_rate(report), words.share,
                   "mean over neurons and time steps"),
        _ratio_row("Silent neurons", _silent(other), _silent(report),
                   note=_of_neurons(report)),
        *_compact_rows(report),
        *_engine_rows(report),
    ]  # fmt: skip
    return [row for row in rows if (row.dense, row.pruned) != (words.NONE, words.NONE)]


def _as_if_dense(report: Mapping[str, Any]) -> dict[str, Any]:
    every = [{**layer, "alive": layer["synapses"]} for layer in report["layers"]]
    return {
        "accuracy": {},
        "sparsity": 0.0,
        "layers": every,
        "bytes": report.get("bytes"),
    }


def _points_row(name: str, dense: float | None, pruned: float | None, note: str = "") -> Bought:
    change = words.points(dense, pruned)
    return Bought(name, words.percent(dense), words.percent(pruned), change, note)


def _ratio_row(
    name: str,
    dense: float | None,
    pruned: float | None,
    form: Callable[[float | None], str] | None = None,
    note: str = "",
) -> Bought:
    form = form or words.count
    return Bought(name, form(dense), form(pruned), words.ratio(dense, pruned), note)


def _compact_rows(report: Mapping[str, Any]) -> list[Bought]:
    """What is left once channels are physically out, against the network that was trained."""
    small = report.get("compact")
    if not small:
        return []
    stored = (report.get("bytes") or {}).get("dense")
    return [
        _ratio_row("Parameters, compact network", report.get("parameters"), small["parameters"]),
        _ratio_row("Multiplications per image, compact network", report.get("dense_synops"),
                   small["multiplications"], note=_multiplications_note(small)),
        _ratio_row("File, compact network", stored, small["bytes"], words.size,
                   "both stored dense: it needs no sparse arithmetic"),
    ]  # fmt: skip


def _multiplications_note(small: Mapping[str, Any]) -> str:
    note = (
        "of convolutions and linear layers, over all time steps, zeros of the weights and spikes "
        "included, taps on the padding not"
    )
    if (saving := small.get("saving")) is None:
        return note
    return f"{note}; with them, as the literature counts FLOPs, {words.percent(100 * saving)} saved"


def _engine_rows(report: Mapping[str, Any]) -> list[Bought]:
    """What the same pruned network takes in PyTorch and in the sparse engine."""
    engine = report.get("engine") or {}
    if "milliseconds_sparse" not in engine:
        return []
    accuracy = engine.get("accuracy_sparse")
    note = (
        f"this network in PyTorch and in the sparse engine, {engine.get('threads')} threads; "
        f"on {engine.get('samples', 0):,} test images {engine.get('differing', 0):,} of "
        f"{engine.get('spikes', 0):,} spikes differ"
    )
    if accuracy is not None:
        note += (
            f", accuracy there {words.percent(accuracy)}, "
            f"of PyTorch {words.percent(engine.get('accuracy_dense'))}"
        )
    dense, quick = engine.get("milliseconds_dense"), engine["milliseconds_sparse"]
    return [_ratio_row(TIMED, dense, quick, words.duration, note)]


def _best(report: Mapping[str, Any]) -> tuple[float | None, int | None]:
    accuracy = report["accuracy"]
    return accuracy.get("validation_best"), accuracy.get("validation_best_epoch")


def _silent(report: Mapping[str, Any]) -> int | None:
    if not neurons_of(report):
        return None
    return sum(layer["silent"] for layer in report["firing"])


def _synops_note(report: Mapping[str, Any]) -> str:
    note = "accumulates caused by spikes, over surviving synapses"
    # Not the dense column: it counts silent inputs too, which a dense spiking network skips.
    if (every := report.get("dense_synops")) is None:
        return note
    return f"{note}; {words.count(every)} if every input met every synapse"


def _of_neurons(report: Mapping[str, Any]) -> str:
    neurons = neurons_of(report)
    return f"of {neurons:,} neurons" if neurons else ""
