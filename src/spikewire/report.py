"""The page of a run: what pruning bought, figures, layers, configuration and provenance.

`write` turns a run folder into one HTML page that needs neither network nor script. Everything
read from a run folder is taken as foreign: it is checked on reading and escaped on writing.
"""

import base64
import json
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NotRequired

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from pydantic import ConfigDict, Field, FiniteFloat, NonNegativeInt, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from spikewire import formats
from spikewire.plots import Plot, figures, mean_and_spread

Fraction = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[FiniteFloat, Field(ge=0)]
OPEN = ConfigDict(extra="allow")  # later versions may write more than this one reads
NONE, MINUS, TIMES = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
REPETITION = ("seed", "out", "twin")  # settings that tell runs of one recipe apart


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
    """The network without the channels that were taken out; multiplications are per image."""

    parameters: NonNegativeInt
    multiplications: Amount
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
    records: Sequence[Any]
    report: Any


class Bought(NamedTuple):
    """One row of the table of what pruning bought; all cells are text for people.

    The note may come from a run file: escape it before giving it to anything that reads markup.
    """

    name: str
    dense: str
    pruned: str
    ratio: str
    note: str = ""


def write(run: Path | str, dense: Path | str | None = None) -> Path:
    """Write RUN/report.html and RUN/figures/*.svg, *.csv from the files of a run.

    Args:
        run: run folder with run.toml, metrics.jsonl and report.json.
        dense: run folder of the dense twin; by default RUN/dense, if that holds a finished run.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: if a file of the run is missing.
        ValueError: if a file of the run cannot be understood.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> report = '{"method": "gmp", "sparsity": 0.9, "layers": [], "accuracy": {"last": 97}}'
        >>> files = {"run.toml": "", "metrics.jsonl": "", "report.json": report}
        >>> for name, text in files.items():
        ...     _ = (folder / name).write_text(text)
        >>> write(folder).name
        'report.html'
    """
    pruned = read(run)
    other = read(dense) if dense is not None else twin(pruned.path)
    drawn = figures(
        pruned.records,
        pruned.report,
        other.records if other else (),
        other.report if other else None,
    )
    saved = [plot.save(pruned.path / "figures") for plot in drawn]
    embedded = [_embedded(plot, svg) for plot, (svg, _) in zip(drawn, saved, strict=True)]
    page = pruned.path / "report.html"
    formats.write(page, _page(pruned, other, embedded).encode())
    return page


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


def bought(report: Any, dense: Any = None) -> list[Bought]:
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
        _ratio_row("Synapses alive", _alive(other), _alive(report)),
        _ratio_row("File", (other.get("bytes") or {}).get("dense"), sizes.get("sparse"), _size,
                   "the dense network stored dense, the pruned network stored sparse"
                   + (f" (stored dense: {_size(stored)})" if stored is not None else "")),
        _ratio_row("SynOps per image", other.get("synops"), report.get("synops"),
                   note=_synops_note(report)),
        _ratio_row("MACs per image", other.get("macs"), report.get("macs"),
                   note="multiply-accumulates on real-valued input"),
        _ratio_row("Energy per image, estimate", other.get("energy_nj"), report.get("energy_nj"),
                   _energy, report.get("energy_assumptions") or ""),
        _ratio_row("Firing rate", firing_rate(other), firing_rate(report), _share,
                   "mean over neurons and time steps"),
        _ratio_row("Silent neurons", _silent(other), _silent(report),
                   note=_of_neurons(report)),
        *_compact_rows(report),
        *_engine_rows(report),
    ]  # fmt: skip
    return [row for row in rows if (row.dense, row.pruned) != (NONE, NONE)]


def collect(runs: Iterable[Path | str]) -> list[dict[str, Any]]:
    """Return the reports of several runs and of the dense twins inside them.

    Each report gains "run" (its folder) and "recipe" (its configuration without the seed, so
    that runs of one recipe are repetitions of each other).

    Args:
        runs: run folders; a folder that occurs twice is read once, and of dense runs with the
            same recipe and seed (twins of several runs) the first is taken.

    Raises:
        FileNotFoundError: if a file of a run is missing.
        ValueError: if a file of a run cannot be understood.

    Example:
        >>> collect([])
        []
    """
    found: dict[Any, dict[str, Any]] = {}
    for folder in runs:
        run = read(folder)
        for each in filter(None, (run, twin(run.path))):
            report = {**each.report, "run": str(each.path), "recipe": _recipe(each.config)}
            dense = (report["recipe"], report.get("seed"))
            key = dense if report["method"] == "dense" else each.path.resolve()
            found.setdefault(key, report)
    return list(found.values())


def table(runs: Iterable[Path | str]) -> list[dict[str, str]]:
    """Return one row of text per recipe over several runs: mean ± standard deviation over seeds.

    "against dense" is the difference of mean accuracies, in points, to the dense runs of the same
    network and data.

    Args:
        runs: run folders; their dense twins are included.

    Raises:
        FileNotFoundError: if a file of a run is missing.
        ValueError: if a file of a run cannot be understood.

    Example:
        >>> table([])
        []
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for report in collect(runs):
        setting = (report["method"], report.get("network"), report.get("data"))
        # Dense twins are one group: what their pruned siblings were pruned to is no part of them.
        kind = None if report["method"] == "dense" else report["recipe"]
        groups.setdefault((*setting, kind), []).append(report)
    dense = {
        (network, data): _mean(reports, _last)
        for (method, network, data, _), reports in groups.items()
        if method == "dense"
    }
    rows = [_row(reports, dense) for reports in groups.values()]
    return sorted(rows, key=lambda row: [row[name] for name in ("data", "network", "method")])


def _row(reports: list[dict[str, Any]], dense: Mapping[Any, float | None]) -> dict[str, str]:
    first = reports[0]
    setting = (first.get("network"), first.get("data"))
    mean, base = _mean(reports, _last), dense.get(setting)
    pruned = first["method"] != "dense"
    known = pruned and mean is not None and base is not None
    return {
        "method": first["method"],
        "network": first.get("network") or NONE,
        "data": first.get("data") or NONE,
        "runs": str(len(reports)),
        "sparsity": _over_seeds(reports, lambda run: 100 * run["sparsity"], "{:.2f} %"),
        "accuracy": _over_seeds(reports, _last, "{:.2f} %"),
        "against dense": _signed(mean - base) if known else NONE,  # type: ignore[operator]
        "SynOps": _over_seeds(reports, lambda run: run.get("synops"), "{:,.0f}"),
        "energy": _over_seeds(reports, lambda run: run.get("energy_nj"), "{:,.1f} nJ"),
        "file": _over_seeds(reports, stored_bytes, "{:,.0f} B"),
        "firing rate": _over_seeds(reports, _percent_rate, "{:.2f} %"),
        "seconds per epoch": _over_seeds(
            reports, lambda run: run.get("seconds_per_epoch"), "{:.1f}"
        ),
    }


def _values(reports: Sequence[Any], of: Callable[[Any], float | None]) -> list[float]:
    return [value for report in reports if (value := of(report)) is not None]


def _mean(reports: Sequence[Any], of: Callable[[Any], float | None]) -> float | None:
    values = _values(reports, of)
    return mean_and_spread(values)[0] if values else None


def _over_seeds(reports: Sequence[Any], of: Callable[[Any], float | None], form: str) -> str:
    values = _values(reports, of)
    if not values:
        return NONE
    mean, spread = mean_and_spread(values)
    number, *unit = form.split(" ")
    parts = [number.format(mean)]
    if len(values) > 1:
        parts += ["±", number.format(spread)]
    return " ".join([*parts, *unit])


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


def _as_if_dense(report: Any) -> dict[str, Any]:
    every = [{**layer, "alive": layer["synapses"]} for layer in report["layers"]]
    return {
        "accuracy": {},
        "sparsity": 0.0,
        "layers": every,
        "bytes": report.get("bytes"),
    }


def _points_row(name: str, dense: float | None, pruned: float | None, note: str = "") -> Bought:
    change = NONE if dense is None or pruned is None else f"{_signed(pruned - dense)} points"
    return Bought(name, _percent(dense), _percent(pruned), change, note)


def _ratio_row(
    name: str,
    dense: float | None,
    pruned: float | None,
    form: Callable[[float | None], str] | None = None,
    note: str = "",
) -> Bought:
    form = form or _count
    return Bought(name, form(dense), form(pruned), _ratio(dense, pruned), note)


def _ratio(dense: float | None, pruned: float | None) -> str:
    if dense is None or pruned is None:
        return NONE
    if dense == pruned:
        return "same"
    if not dense or not pruned:
        return NONE
    if dense / pruned >= 2:
        return f"÷ {_short(dense / pruned)}"
    if pruned / dense >= 2:
        return f"{TIMES} {_short(pruned / dense)}"
    return f"{_signed(100 * (pruned / dense - 1), 1)} %"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _signed(value: float, digits: int = 2) -> str:
    text = f"{value:+.{digits}f}"
    return "±" + text[1:] if float(text) == 0 else text.replace("-", MINUS)


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f} %"


def _compact_rows(report: Any) -> list[Bought]:
    """What is left once channels are physically out, against the network that was trained."""
    small = report.get("compact")
    if not small:
        return []
    stored = (report.get("bytes") or {}).get("dense")
    return [
        _ratio_row("Parameters, compact network", report.get("parameters"), small["parameters"]),
        _ratio_row("Multiplications per image, compact network", report.get("dense_synops"),
                   small["multiplications"], note="of convolutions and linear layers, zeros "
                   "included, over all time steps: the literature's FLOPs"),
        _ratio_row("File, compact network", stored, small["bytes"], _size,
                   "both stored dense: it needs no sparse arithmetic"),
    ]  # fmt: skip


def _engine_rows(report: Any) -> list[Bought]:
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
            f", accuracy there {_percent(accuracy)}, "
            f"of PyTorch {_percent(engine.get('accuracy_dense'))}"
        )
    dense, quick = engine.get("milliseconds_dense"), engine["milliseconds_sparse"]
    return [_ratio_row("Time per image, one at a time", dense, quick, _milliseconds, note)]


def _milliseconds(value: float | None) -> str:
    return NONE if value is None else f"{value:,.3g} ms"


def _share(value: float | None) -> str:
    return _percent(None if value is None else 100 * value)


def _count(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.1f}"


def _size(value: float | None) -> str:
    return _scaled(value, ("B", "kB", "MB", "GB"))


def _energy(value: float | None) -> str:
    return _scaled(value, ("nJ", "µJ", "mJ", "J"))


def _scaled(value: float | None, units: Sequence[str]) -> str:
    if value is None:
        return NONE
    rank = 0
    while value >= 1000 and rank < len(units) - 1:
        value, rank = value / 1000, rank + 1
    return f"{value:,.0f} {units[rank]}" if value >= 100 else f"{value:.3g} {units[rank]}"


def _last(report: Any) -> float | None:
    return report["accuracy"]["last"]


def _best(report: Any) -> tuple[float | None, int | None]:
    accuracy = report["accuracy"]
    return accuracy.get("validation_best"), accuracy.get("validation_best_epoch")


def stored_bytes(report: Any) -> float | None:
    """Size of the network's file: sparse, or dense of a dense run; None if it is not known.

    >>> stored_bytes({"method": "gmp", "bytes": {"dense": 900, "sparse": 90}})
    90
    """
    kind = "dense" if report["method"] == "dense" else "sparse"
    return (report.get("bytes") or {}).get(kind)


def _alive(report: Any) -> int:
    return sum(layer["alive"] for layer in report["layers"])


def _synapses(report: Any) -> int:
    return sum(layer["synapses"] for layer in report["layers"])


def _neurons(report: Any) -> int:
    return sum(layer["neurons"] for layer in report.get("firing") or ())


def firing_rate(report: Any) -> float | None:
    """Spikes per neuron and time step over all neuron layers; None if there are none.

    >>> firing_rate({"firing": [{"neurons": 3, "rate": 0.5}, {"neurons": 1, "rate": 0.1}]})
    0.4
    """
    neurons = _neurons(report)
    if not neurons:
        return None
    return sum(layer["rate"] * layer["neurons"] for layer in report["firing"]) / neurons


def milliseconds(report: Any) -> float | None:
    """What a sample takes in the sparse engine; None where the engine does not know the network.

    >>> milliseconds({"engine": {"milliseconds_sparse": 0.5}}), milliseconds({"engine": None})
    (0.5, None)
    """
    return (report.get("engine") or {}).get("milliseconds_sparse")


def _percent_rate(report: Any) -> float | None:
    rate = firing_rate(report)
    return None if rate is None else 100 * rate


def _silent(report: Any) -> int | None:
    if not _neurons(report):
        return None
    return sum(layer["silent"] for layer in report["firing"])


def _synops_note(report: Any) -> str:
    note = "accumulates caused by spikes, over surviving synapses"
    # Not the dense column: it counts silent inputs too, which a dense spiking network skips.
    every = report.get("dense_synops")
    return note if every is None else f"{note}; {_count(every)} if every input met every synapse"


def _of_neurons(report: Any) -> str:
    neurons = _neurons(report)
    return f"of {neurons:,} neurons" if neurons else ""


def _recipe(config: Mapping[str, Any]) -> str:
    kept = {name: value for name, value in config.items() if name not in REPETITION}
    return json.dumps(kept, sort_keys=True, default=str, ensure_ascii=False)


@cache
def template(name: str) -> Template:
    """A page of `templates`, which escapes whatever it is given.

    >>> template("report.html.j2").name
    'report.html.j2'
    """
    environment = Environment(
        loader=PackageLoader("spikewire"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _page(run: Run, other: Run | None, embedded: Sequence[Mapping[str, str]]) -> str:
    report, dense = run.report, other.report if other else None
    return template("report.html.j2").render(
        title=_title(report),
        facts=_facts(run),
        lead=_lead(report, dense),
        bought=bought(report, dense),
        is_dense=report["method"] == "dense",
        has_twin=dense is not None,
        figures=embedded,
        epochs=len(run.records),
        layers=_layers(run),
        neurons=_firing_rows(report, dense),
        configuration=_tables(run.config),
        provenance=_provenance(run),
        neurobench=_flat(report.get("neurobench") or {}),
    )


def _title(report: Any) -> str:
    where = [report[name] for name in ("network", "data") if report.get(name)]
    return " · ".join([report["method"], *where])


def _facts(run: Run) -> list[str]:
    report = run.report
    known = (
        (len(run.records), "{:,} epochs" if len(run.records) != 1 else "{} epoch"),
        (report.get("parameters"), "{:,} parameters"),
        (report.get("seconds_per_epoch"), "{:.3g} s per epoch"),
        (report.get("seed"), "seed {}"),
    )
    return [form.format(value) for value, form in known if value is not None]


def _lead(report: Any, dense: Any) -> str:
    """Return the result in one sentence."""
    synapses, pruned = _synapses(report), _synapses(report) - _alive(report)
    images = f"{samples:,} test images" if (samples := report.get("samples")) else "test images"
    accuracy = f"{report['accuracy']['last']:.2f} % of the {images} are classified correctly"
    if not pruned:
        return f"No synapse of {synapses:,} was pruned; {accuracy}."
    against = (
        f", {_signed(report['accuracy']['last'] - dense['accuracy']['last'])} points against the "
        "dense twin"
        if dense is not None
        else ""
    )
    return (
        f"{pruned:,} of {synapses:,} synapses were pruned ({100 * report['sparsity']:.2f} %); "
        f"{accuracy}{against}."
    )


def _embedded(plot: Plot, svg: Path) -> dict[str, str]:
    # As an image the SVG is a document of its own: it can run no script and load nothing, and its
    # identifiers and styles cannot meet those of the page or of another figure.
    data = base64.b64encode(svg.read_bytes()).decode()
    return {
        "name": plot.name,
        "title": plot.title,
        "caption": plot.caption,
        "source": f"data:image/svg+xml;base64,{data}",
    }


def _layers(run: Run) -> list[dict[str, Any]]:
    moved: dict[str, list[int]] = {}
    for record in run.records:
        for layer in record.get("layers", ()):
            counts = moved.setdefault(layer["name"], [0, 0])
            counts[0] += layer.get("pruned", 0)
            counts[1] += layer.get("regrown", 0)
    return [
        {
            "name": layer["name"],
            "synapses": f"{layer['synapses']:,}",
            "alive": f"{layer['alive']:,}",
            "connectivity": 100 * layer["alive"] / max(layer["synapses"], 1),
            "pruned": f"{moved[layer['name']][0]:,}" if layer["name"] in moved else NONE,
            "regrown": f"{moved[layer['name']][1]:,}" if layer["name"] in moved else NONE,
        }
        for layer in run.report["layers"]
    ]


def _firing_rows(report: Any, dense: Any) -> list[dict[str, str]]:
    pairs = {layer["name"]: layer for layer in (dense or {}).get("firing") or ()}
    rows = []
    for layer in report.get("firing") or ():
        pair = pairs.get(layer["name"])
        rows.append(
            {
                "name": layer["name"],
                "neurons": f"{layer['neurons']:,}",
                "rate": _share(layer["rate"]),
                "dense_rate": _share(pair["rate"]) if pair else NONE,
                "silent": f"{layer['silent']:,}",
                "dense_silent": f"{pair['silent']:,}" if pair else NONE,
            }
        )
    return rows


def _provenance(run: Run) -> list[tuple[str, str]]:
    report = run.report
    return [
        ("commit", report.get("commit") or "not recorded"),
        ("seed", _shown(report.get("seed"))),
        *_flat(report.get("versions") or {}, "versions"),
        *_flat(report.get("machine") or {}, "machine"),
    ]


def _tables(config: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    plain = {name: value for name, value in config.items() if not isinstance(value, Mapping)}
    named = [(name, value) for name, value in config.items() if isinstance(value, Mapping)]
    found = [("run", plain), *named] if plain else named
    return [(name, _flat(values)) for name, values in found]


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        called = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(value, Mapping) and value:
            rows += _flat(value, called)
        else:
            rows.append((called, _shown(value)))
    return rows


def _shown(value: Any) -> str:
    if value is None:
        return NONE
    if isinstance(value, str | datetime | date | time):
        return str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value, ensure_ascii=False, default=str)
