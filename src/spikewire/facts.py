"""Facts: what a run folder says, checked on reading.

A folder may come from anyone, so nothing of it is used before its types and ranges are known.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, FiniteFloat, NonNegativeInt, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

Fraction = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[FiniteFloat, Field(ge=0)]
OPEN = ConfigDict(extra="allow")  # later versions may write more than this one reads


class Histogram(TypedDict):
    """Counts in bins of equal width between `low` and `high`."""

    low: float
    high: float
    counts: list[Amount]


class Layer(TypedDict):
    """The synapses of one layer; `pruned` and `regrown` count one epoch."""

    name: str
    synapses: NonNegativeInt
    alive: NonNegativeInt
    pruned: NotRequired[NonNegativeInt]
    regrown: NotRequired[NonNegativeInt]


class Neurons(TypedDict):
    """How one layer of neurons fired."""

    name: str
    neurons: NonNegativeInt
    rate: Amount
    silent: NonNegativeInt
    histogram: Histogram


class Record(TypedDict):
    """One line of metrics.jsonl: one epoch."""

    __pydantic_config__ = OPEN  # type: ignore[misc]
    epoch: NonNegativeInt
    accuracy: dict[str, FiniteFloat | None]
    sparsity: Fraction
    layers: NotRequired[list[Layer]]
    losses: NotRequired[dict[str, FiniteFloat | None] | None]
    histograms: NotRequired[dict[str, dict[str, Histogram]] | None]
    gains: NotRequired[dict[str, list[FiniteFloat]] | None]


class Accuracy(TypedDict):
    """Test accuracies in percent."""

    last: FiniteFloat
    validation_best: NotRequired[FiniteFloat | None]
    validation_best_epoch: NotRequired[int | None]


class Bytes(TypedDict):
    """Sizes of the stored network."""

    dense: NotRequired[NonNegativeInt | None]
    sparse: NotRequired[NonNegativeInt | None]


class Compact(TypedDict):
    """The network without the channels that were taken out; multiplications are per image.

    `multiplications` leaves out the taps on zero padding, as all operations that are measured;
    `saving`, which older records lack, is the share of them that are saved, those taps included:
    the literature's FLOPs, and what methods take as ``operations``.
    """

    parameters: NonNegativeInt
    multiplications: Amount
    saving: NotRequired[Fraction]
    bytes: NonNegativeInt


class Engine(TypedDict):
    """The sparse engine beside PyTorch; only the reason, where it cannot run the network."""

    reason: NotRequired[str]
    samples: NotRequired[NonNegativeInt]
    accuracy_dense: NotRequired[FiniteFloat | None]
    accuracy_sparse: NotRequired[FiniteFloat | None]
    spikes: NotRequired[NonNegativeInt]
    differing: NotRequired[NonNegativeInt]
    milliseconds_dense: NotRequired[Amount]
    milliseconds_sparse: NotRequired[Amount]
    threads: NotRequired[NonNegativeInt]


class Variance(TypedDict):
    """Of the features of each class, on both parts of the data."""

    train: list[Amount]
    test: list[Amount]


class ClassFeatures(TypedDict):
    """How consistently each class is represented."""

    classes: list[str]
    variance: Variance
    likeness: list[FiniteFloat]


class Entropies(TypedDict):
    """Entropy of neurons by distance from threshold, in bins of equal width."""

    low: FiniteFloat
    high: FiniteFloat
    neurons: list[NonNegativeInt]
    entropy: list[Amount]


class Facts(TypedDict):
    """The file report.json."""

    __pydantic_config__ = OPEN  # type: ignore[misc]
    accuracy: Accuracy
    sparsity: Fraction
    layers: list[Layer]
    method: str
    network: NotRequired[str | None]
    data: NotRequired[str | None]
    seed: NotRequired[int | None]
    epochs: NotRequired[NonNegativeInt | None]
    seconds_per_epoch: NotRequired[Amount | None]
    parameters: NotRequired[NonNegativeInt | None]
    synops: NotRequired[Amount | None]
    dense_synops: NotRequired[Amount | None]
    macs: NotRequired[Amount | None]
    energy_nj: NotRequired[Amount | None]
    energy_assumptions: NotRequired[str | None]
    bytes: NotRequired[Bytes | None]
    compact: NotRequired[Compact | None]
    engine: NotRequired[Engine | None]
    features: NotRequired[ClassFeatures | None]
    entropies: NotRequired[dict[str, Entropies] | None]
    firing: NotRequired[list[Neurons] | None]
    neurobench: NotRequired[dict[str, Any] | None]
    machine: NotRequired[dict[str, Any] | None]
    versions: NotRequired[dict[str, Any] | None]
    commit: NotRequired[str | None]


RECORD = TypeAdapter(Record)
REPORT = TypeAdapter(Facts)


@dataclass(frozen=True)
class Run:
    """A run folder, read and checked.

    Args:
        path: the folder.
        config: run.toml.
        records: metrics.jsonl, one mapping per epoch.
        report: report.json.
    """

    path: Path
    config: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    report: Mapping[str, Any]


def read(run: Path | str) -> Run:
    """Read a run folder and check that its files are what a run writes.

    Args:
        run: run folder with run.toml, metrics.jsonl and report.json.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file cannot be understood.

    Example:
        >>> read("no-such-run")
        Traceback (most recent call last):
        ...
        FileNotFoundError: 'no-such-run' is no run folder; give the folder that training wrote.
    """
    path = Path(run)
    if not path.is_dir():
        raise FileNotFoundError(f"'{path}' is no run folder; give the folder that training wrote.")
    return Run(path, _config(path), _records(path), _report(path))


def twin(run: Path | str) -> Run | None:
    """Read the dense twin inside a run folder; None if there is none, or an unfinished one.

    Raises:
        ValueError: if a file of the twin cannot be understood.

    Example:
        >>> twin("no-such-run") is None
        True
    """
    path = Path(run) / "dense"
    return read(path) if (path / "report.json").is_file() else None


def stored_bytes(report: Mapping[str, Any]) -> float | None:
    """Size of the network's file: sparse, or dense of a dense run; None if it is not known.

    >>> stored_bytes({"method": "gmp", "bytes": {"dense": 900, "sparse": 90}})
    90
    """
    kind = "dense" if report["method"] == "dense" else "sparse"
    return (report.get("bytes") or {}).get(kind)


def firing_rate(report: Mapping[str, Any]) -> float | None:
    """Spikes per neuron and time step over all neuron layers; None if there are none.

    >>> firing_rate({"firing": [{"neurons": 3, "rate": 0.5}, {"neurons": 1, "rate": 0.1}]})
    0.4
    """
    neurons = neurons_of(report)
    if not neurons:
        return None
    return sum(layer["rate"] * layer["neurons"] for layer in report["firing"]) / neurons


def milliseconds(report: Mapping[str, Any]) -> float | None:
    """What a sample takes in the sparse engine; None where the engine does not know the network.

    >>> milliseconds({"engine": {"milliseconds_sparse": 0.5}}), milliseconds({"engine": None})
    (0.5, None)
    """
    return (report.get("engine") or {}).get("milliseconds_sparse")


def alive_of(report: Mapping[str, Any]) -> int:
    """Synapses that are left.

    >>> alive_of({"layers": [{"alive": 2, "synapses": 8}, {"alive": 1, "synapses": 4}]})
    3
    """
    return sum(layer["alive"] for layer in report["layers"])


def synapses_of(report: Mapping[str, Any]) -> int:
    """Synapses that there were.

    >>> synapses_of({"layers": [{"alive": 2, "synapses": 8}, {"alive": 1, "synapses": 4}]})
    12
    """
    return sum(layer["synapses"] for layer in report["layers"])


def neurons_of(report: Mapping[str, Any]) -> int:
    """Neurons of all neuron layers.

    >>> neurons_of({"firing": [{"neurons": 3}, {"neurons": 1}]}), neurons_of({})
    (4, 0)
    """
    return sum(layer["neurons"] for layer in report.get("firing") or ())


def _config(path: Path) -> dict[str, Any]:
    file = path / "run.toml"
    try:
        return tomllib.loads(_text(file))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(
            f"'{file}' is no valid TOML ({_clean(error)}); correct that line, or train the run "
            "again."
        ) from None


def _records(path: Path) -> list[Any]:
    file = path / "metrics.jsonl"
    lines = _text(file).split("\n")
    *whole, last = lines  # a line without its end was cut off while it was written
    numbered = [(number, line) for number, line in enumerate(whole, 1) if line.strip()]
    if last.strip() and _parses(last):
        numbered.append((len(lines), last))
    return [_checked(RECORD, line, f"'{file}', line {number}") for number, line in numbered]


def _parses(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _report(path: Path) -> Any:
    file = path / "report.json"
    return _checked(REPORT, _text(file), f"'{file}'")


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(
            f"'{file}' is missing, so the run is not finished; give the same training command "
            "again to finish it."
        ) from None
    except UnicodeDecodeError:
        raise ValueError(
            f"'{file}' is not UTF-8 text; restore the file, or train the run again."
        ) from None


def _checked(kind: TypeAdapter[Any], text: str, place: str) -> Any:
    try:
        return kind.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        where = f"at {_clean(where)}: " if where else ""
        raise ValueError(
            f"{place} is not what a run writes ({where}{_clean(first['msg'])}); restore the "
            "file, or train the run again."
        ) from None


def _clean(text: object) -> str:
    """Return one short line without control characters, fit for a terminal."""
    return "".join(c if c.isprintable() else " " for c in str(text))[:200]
