"""Figures of a run, drawn from its records alone.

Each function takes parsed metrics (one mapping per epoch) or reports and returns a `Plot`: a
figure, a caption in words, and the numbers behind it. The same records give the same bytes.
Nothing here uses the global state of matplotlib, so figures may be drawn inside any program.
"""

import csv
import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import ceil, isfinite
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from spikewire.formats import write

Record = Mapping[str, Any]
Cell = str | int | float | None

# Okabe and Ito (2008): told apart with every common kind of colour blindness.
BLUE, VERMILION, GREEN, SKY, PURPLE, AMBER = (
    "#0072B2", "#D55E00", "#009E73", "#56B4E9", "#CC79A7", "#E69F00",
)  # fmt: skip
GREY, BLACK = "#6B6B6B", "#222222"
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, AMBER, SKY, BLACK)
MARKERS = "osD^vPX"
DEPTH = "viridis"

WIDTH = 5.0  # inches: text of 9 points stays readable when the figure is shown 350 pixels wide
PANELS = 6
LINES = 7
BARS = 40
EPOCHS = 6
BINS = 32
COLUMNS = 100

STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters on every machine
    "font.size": 9,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.handlelength": 2.4,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": BLACK,
    "ytick.labelcolor": BLACK,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
    "svg.fonttype": "path",  # names become outlines: no reader's font or parser is involved
    "svg.hashsalt": "spikewire",
}
# Starting from the defaults keeps a reader's own matplotlibrc (usetex, fonts) out of the figures.
drawn_in_style = matplotlib.style.context(["default", STYLE])


@dataclass(frozen=True)
class Plot:
    """One figure with its words and its numbers.

    Args:
        name: file name without its ending.
        title: what is shown, in a few words.
        caption: how to read it, in a sentence or two.
        figure: the drawing.
        columns: headings of the numbers.
        rows: the numbers, one tuple per row.

    Example:
        >>> plot = accuracy([{"epoch": 1, "accuracy": {"test": 90.0}, "sparsity": 0.5}])
        >>> print(plot.csv().splitlines()[1])
        1,,,90.0,0.5,
    """

    name: str
    title: str
    caption: str
    figure: Figure
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def svg(self) -> bytes:
        """Return the figure as SVG; the same records give the same bytes."""
        data = io.BytesIO()
        with matplotlib.style.context(["default", STYLE]):
            self.figure.savefig(data, format="svg", metadata={"Date": None, "Creator": None})
        return data.getvalue()

    def csv(self) -> str:
        """Return the numbers as CSV; no text cell can be taken for a formula."""
        text = io.StringIO()
        lines = csv.writer(text)
        lines.writerow(self.columns)
        lines.writerows([_harmless(cell) for cell in row] for row in self.rows)
        return text.getvalue()

    def save(self, folder: Path | str, name: str | None = None) -> tuple[Path, Path]:
        """Write NAME.svg and NAME.csv into `folder`, by default under the name of the plot.

        Returns:
            The paths of the SVG and of the CSV.
        """
        name = name or self.name
        svg, numbers = Path(folder) / f"{name}.svg", Path(folder) / f"{name}.csv"
        write(svg, self.svg())
        write(numbers, self.csv().encode())
        return svg, numbers


def figures(
    records: Sequence[Record],
    report: Record,
    dense_records: Sequence[Record] = (),
    dense_report: Record | None = None,
) -> list[Plot]:
    """Return every figure that the records and the report of one run allow, in reading order.

    Args:
        records: metrics of the run, one mapping per epoch.
        report: report of the run.
        dense_records: metrics of its dense twin, if there is one.
        dense_report: report of its dense twin, if there is one.

    Example:
        >>> records = [{"epoch": 1, "accuracy": {"test": 90.0}, "sparsity": 0.5}]
        >>> [plot.name for plot in figures(records, {"method": "gmp"})]
        ['accuracy']
    """
    drawn = (
        accuracy(records, dense_records),
        sparsity(records),
        connectivity(report),
        rewiring(records),
        firing(report, dense_report),
        weights(records),
        thetas(records),
    )
    return [plot for plot in drawn if plot is not None]


@drawn_in_style
def accuracy(records: Sequence[Record], dense: Sequence[Record] = ()) -> Plot | None:
    """Draw accuracy (solid) and sparsity (dashed, right axis) against epochs.

    Args:
        records: metrics of the run; a split whose accuracy is null is left out.
        dense: metrics of the dense twin; its test accuracy is drawn beside the run's.

    Returns:
        The plot, or None when there are no records.

    Example:
        >>> accuracy([{"epoch": 1, "accuracy": {"test": 90.0}, "sparsity": 0.5}]).title
        'Accuracy and sparsity'
    """
    if not records:
        return None
    figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
    axes = figure.subplots()
    splits = {"train": SKY, "validation": AMBER, "test": BLUE}
    _curve(axes, dense, lambda record: record["accuracy"].get("test"), "test, dense twin", GREY)
    for split, colour in splits.items():
        _curve(axes, records, lambda record, s=split: record["accuracy"].get(s), split, colour)
    _epochs(axes)
    axes.set_ylabel("accuracy (%)")

    right = axes.twinx()
    right.grid(False)
    right.spines["right"].set(visible=True, color=GREEN)
    right.set_ylim(-3, 103)
    right.set_ylabel("sparsity (%)", color=GREEN)
    right.tick_params(axis="y", color=GREEN, labelcolor=GREEN)
    _curve(right, records, lambda record: 100 * record["sparsity"], "sparsity", GREEN, "--")
    handles = [*reversed(axes.get_lines()), *right.get_lines()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)

    twin = {record["epoch"]: record["accuracy"].get("test") for record in dense}
    rows = [
        (record["epoch"], *(record["accuracy"].get(split) for split in splits),
         record["sparsity"], twin.get(record["epoch"]))
        for record in records
    ]  # fmt: skip
    return Plot(
        name="accuracy",
        title="Accuracy and sparsity",
        caption="Accuracy after each epoch (solid, left axis) and the share of synapses that are "
        "zero (dashed, right axis)." + (" Grey: test accuracy of the dense twin." if dense else ""),
        figure=figure,
        columns=("epoch", *splits, "sparsity", "dense_test"),
        rows=tuple(rows),
    )


@drawn_in_style
def sparsity(records: Sequence[Record]) -> Plot | None:
    """Draw the sparsity of each layer against epochs: lines, or a map when layers are many.

    Args:
        records: metrics of the run with their `layers`.

    Returns:
        The plot, or None when nothing was ever pruned.

    Example:
        >>> layers = [{"name": "fc1.weight", "synapses": 8, "alive": 2}]
        >>> sparsity([{"epoch": 1, "layers": layers}]).rows
        ((1, 'fc1.weight', 8, 2, 0.75),)
    """
    rows = [
        (record["epoch"], layer["name"], layer["synapses"], layer["alive"], _sparsity(layer))
        for record in records
        for layer in record.get("layers", ())
    ]
    if not any(row[-1] for row in rows):
        return None
    names = list(dict.fromkeys(row[1] for row in rows))
    draw = _sparsity_lines if len(names) <= LINES else _sparsity_map
    figure, caption = draw(names, {(name, epoch): share for epoch, name, _, _, share in rows})
    return Plot(
        name="sparsity-by-layer",
        title="Sparsity of each layer",
        caption=caption,
        figure=figure,
        columns=("epoch", "layer", "synapses", "alive", "sparsity"),
        rows=tuple(rows),
    )


@drawn_in_style
def rewiring(records: Sequence[Record]) -> Plot | None:
    """Draw how many synapses were pruned and regrown in each epoch, on a logarithmic axis.

    Args:
        records: metrics of the run with the counts `pruned` and `regrown` of each layer.

    Returns:
        The plot, or None when no synapse was ever pruned or regrown.

    Example:
        >>> layers = [{"name": "fc1.weight", "pruned": 6, "regrown": 2}]
        >>> rewiring([{"epoch": 1, "layers": layers}]).rows[0]
        (1, 'all', None, 6, 2)
    """
    rows: list[tuple[Cell, ...]] = []
    for record in records:
        counts = [
            (layer["name"], layer.get("pruned", 0), layer.get("regrown", 0))
            for layer in record.get("layers", ())
        ]
        totals = (sum(pruned for _, pruned, _ in counts), sum(regrown for *_, regrown in counts))
        rows.append((record["epoch"], "all", None, *totals))
        rows += [(record["epoch"], "layer", *count) for count in counts]
    totals = [(row[0], row[3], row[4]) for row in rows if row[1] == "all"]
    if not any(pruned or regrown for _, pruned, regrown in totals):
        return None

    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    axes = figure.subplots()
    epochs, pruned, regrown = zip(*totals, strict=True)
    mark = _marks(len(epochs))
    axes.plot(epochs, pruned, color=VERMILION, marker="v" if mark else None, label="pruned")
    axes.plot(
        epochs, regrown, color=BLUE, marker="^" if mark else None, linestyle="--", label="regrown"
    )
    axes.set_yscale("symlog", linthresh=1)  # shows zero too, which a plain logarithm cannot
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    _epochs(axes)
    axes.set_ylabel("synapses per epoch")
    figure.legend(loc="outside lower center", ncols=2)
    return Plot(
        name="rewiring",
        title="Synapses pruned and regrown",
        caption="Synapses that were pruned and that came back within each epoch, all layers "
        "together (logarithmic above 1); the CSV also counts them layer by layer.",
        figure=figure,
        columns=("epoch", "scope", "layer", "pruned", "regrown"),
        rows=tuple(rows),
    )


@drawn_in_style
def weights(records: Sequence[Record]) -> Plot | None:
    """Draw how the surviving weights of each layer were distributed as training went on.

    Args:
        records: metrics of the run with their `histograms`.

    Returns:
        The plot, or None when no histogram was recorded.

    Example:
        >>> histogram = {"low": -1.0, "high": 1.0, "counts": [3, 5]}
        >>> plot = weights([{"epoch": 1, "histograms": {"fc1.weight": {"weight": histogram}}}])
        >>> plot.rows
        ((1, 'fc1.weight', -1.0, 0.0, 3), (1, 'fc1.weight', 0.0, 1.0, 5))
    """
    return _ridges(
        records,
        "weight",
        "Weights over time",
        "Distribution of the surviving weights, first epoch at the back. Each curve is scaled to "
        "its own peak.",
    )


@drawn_in_style
def thetas(records: Sequence[Record]) -> Plot | None:
    """Draw how the hidden parameters of each layer were distributed as training went on.

    Args:
        records: metrics of the run; only methods with hidden parameters record theta.

    Returns:
        The plot, or None when no theta was recorded.

    Example:
        >>> thetas([{"epoch": 1, "histograms": {}}]) is None
        True
    """
    return _ridges(
        records,
        "theta",
        "Hidden parameters over time",
        "Distribution of the hidden parameters (theta), first epoch at the back; the line marks "
        "theta = 0. Each curve is scaled to its own peak.",
    )


@drawn_in_style
def firing(report: Record, dense: Record | None = None) -> Plot | None:
    """Draw how firing rates are distributed in each neuron layer, beside the dense twin's.

    Args:
        report: report of the run with its `firing` histograms.
        dense: report of the dense twin.

    Returns:
        The plot, or None when no firing rates were measured.

    Example:
        >>> histogram = {"low": 0.0, "high": 1.0, "counts": [3, 1]}
        >>> layer = {"name": "1", "neurons": 4, "rate": 0.2, "silent": 1, "histogram": histogram}
        >>> firing({"method": "gmp", "firing": [layer]}).rows[0]
        ('gmp', '1', 0.0, 0.5, 3)
    """
    sides = [(report, BLUE)] if dense is None else [(report, BLUE), (dense, GREY)]
    layers = [
        {layer["name"]: layer for layer in side.get("firing") or () if _bins(layer["histogram"])}
        for side, _ in sides
    ]
    names = list(layers[0])
    if not names:
        return None
    shown = _spread(names, PANELS)
    figure, panels = _panels(len(shown), 1.55, "neurons (%)")
    for name, axes in zip(shown, panels, strict=True):
        drawn = [
            (found[name], colour)
            for found, (_, colour) in zip(layers, sides, strict=True)
            if name in found
        ]
        _firing_panel(axes, name, drawn)
    figure.supxlabel("firing rate (spikes per neuron and time step)", fontsize=9)
    labels = [_method(report), "dense twin"]
    handles = [
        Line2D([], [], color=colour, label=_readable(label))
        for (_, colour), label in zip(sides, labels, strict=False)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    rows = [
        (label, name, *each)
        for found, label in zip(layers, labels, strict=False)
        for name, layer in found.items()
        for each in _bins(layer["histogram"])
    ]
    return Plot(
        name="firing-rates",
        title="Firing rates",
        caption="Share of the neurons of a layer at each firing rate (logarithmic); dotted lines "
        "mark the mean rates." + _left_out(shown, names),
        figure=figure,
        columns=("run", "layer", "low", "high", "neurons"),
        rows=tuple(rows),
    )


@drawn_in_style
def connectivity(report: Record) -> Plot | None:
    """Draw the share of the synapses of each layer that are alive.

    Args:
        report: report of the run with its `layers`.

    Returns:
        The plot, or None when every synapse is alive.

    Example:
        >>> layers = [{"name": "fc1.weight", "synapses": 8, "alive": 2}]
        >>> connectivity({"layers": layers}).rows
        (('fc1.weight', 8, 2, 0.25),)
    """
    layers = report.get("layers", ())
    if not any(_sparsity(layer) for layer in layers):
        return None
    shown = _spread(layers, BARS)
    figure = Figure(figsize=(WIDTH, 1.0 + 0.24 * len(shown)), layout="constrained")
    axes = figure.subplots()
    places = range(len(shown))
    axes.barh(places, [100] * len(shown), height=0.7, color="#EDEDED")
    axes.barh(places, [100 - 100 * _sparsity(layer) for layer in shown], height=0.7, color=BLUE)
    for place, layer in zip(places, shown, strict=True):
        axes.annotate(
            f"{layer['alive']:,} of {layer['synapses']:,}",
            (102, place),
            annotation_clip=False,
            va="center",
            fontsize=7,
        )
    axes.set_yticks(places, [_readable(layer["name"]) for layer in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)  # input at the top
    axes.set_xlim(0, 100)
    axes.grid(False, axis="y")
    axes.set_xlabel("synapses alive (%)")
    return Plot(
        name="connectivity-by-layer",
        title="What is left of each layer",
        caption="Share of the synapses of each layer that are alive at the end, input layer at "
        "the top, with their count." + _left_out(shown, layers),
        figure=figure,
        columns=("layer", "synapses", "alive", "connectivity"),
        rows=tuple(
            (layer["name"], layer["synapses"], layer["alive"], 1 - _sparsity(layer))
            for layer in layers
        ),
    )


@dataclass(frozen=True)
class Quantity:
    """One number of a report that can be an axis.

    Args:
        label: words and unit on the axis.
        of: report -> number; raises KeyError, TypeError where the report lacks it.
        logarithmic: whether the axis is logarithmic.

    Example:
        >>> QUANTITIES["sparsity"].of({"sparsity": 0.5})
        50.0
    """

    label: str
    of: Callable[[Record], float]
    logarithmic: bool = False


QUANTITIES: dict[str, Quantity] = {
    "accuracy": Quantity("test accuracy (%)", lambda run: run["accuracy"]["last"]),
    "best_accuracy": Quantity(
        "test accuracy at best validation (%)", lambda run: run["accuracy"]["validation_best"]
    ),
    "sparsity": Quantity("sparsity (%)", lambda run: 100 * run["sparsity"]),
    "connectivity": Quantity("connectivity (%)", lambda run: 100 * (1 - run["sparsity"]), True),
    "synapses": Quantity(
        "synapses alive", lambda run: sum(layer["alive"] for layer in run["layers"]), True
    ),
    "synops": Quantity("SynOps per image", lambda run: run["synops"], True),
    "macs": Quantity("MACs per image", lambda run: run["macs"], True),
    "energy": Quantity("energy per image, estimate (nJ)", lambda run: run["energy_nj"], True),
    "bytes": Quantity("file stored sparse (bytes)", lambda run: run["bytes"]["sparse"], True),
    "seconds": Quantity("seconds per epoch", lambda run: run["seconds_per_epoch"]),
}


@drawn_in_style
def tradeoff(runs: Sequence[Record], x: str = "connectivity", y: str = "accuracy") -> Plot:
    """Draw one quantity against another over several runs, one series per method.

    Runs of one recipe (all settings equal but the seed) become one point: the mean, with the
    sample standard deviation as error bars. Dense runs become a dashed line at their mean.

    Args:
        runs: reports; the key "recipe" (text, optional) tells which runs differ only by seed,
            and without it runs of one method with the same sparsity are taken together.
        x: name of the quantity across, a key of `QUANTITIES`.
        y: name of the quantity upwards, a key of `QUANTITIES`.

    Raises:
        ValueError: if there are no runs, a quantity is unknown, or a run lacks it.

    Example:
        >>> runs = [{"method": "gmp", "network": "fc", "data": "digits", "sparsity": 0.9,
        ...          "accuracy": {"last": last}} for last in (97.0, 98.0)]
        >>> tradeoff(runs, x="sparsity").rows[0][3:7]
        (2, 90.0, 0.0, 97.5)
    """
    across, upwards = _quantity("x", x), _quantity("y", y)
    if not runs:
        raise ValueError("runs: none were given, but at least one is needed; name a run folder.")
    points = _points(runs, x, y)
    settings = {series[1:] for series, *_ in points}
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    dense = [point for point in points if point[0][0] == "dense"]
    sparse = [point for point in points if point[0][0] != "dense"]
    for rank, series in enumerate(dict.fromkeys(point[0] for point in sparse)):
        mine = [point for point in sparse if point[0] == series]
        _line(axes, rank, _series(series, settings), mine)
    for rank, (series, _, _, level) in enumerate(dense):
        _level(axes, rank, _series(series, settings), level)
    _scale(axes.xaxis, axes.set_xscale, across)
    _scale(axes.yaxis, axes.set_yscale, upwards)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=_columns(labels))
    return Plot(
        name=f"{y}-against-{x}",
        title=f"{upwards.label.capitalize()} against {across.label}",
        caption="Each point is the mean over the runs of one recipe, error bars are the sample "
        "standard deviation over seeds" + ("; dashed: the dense network." if dense else "."),
        figure=figure,
        columns=(
            "method", "network", "data", "runs",
            f"{x}_mean", f"{x}_std", f"{y}_mean", f"{y}_std",
        ),
        rows=tuple((*series, count, *mean_x, *mean_y) for series, count, mean_x, mean_y in points),
    )  # fmt: skip


def _line(axes: Axes, rank: int, label: str, points: Sequence[tuple[Any, ...]]) -> None:
    """One series: a point with error bars per recipe, joined from left to right."""
    across, upwards = zip(*sorted(point[2:] for point in points), strict=True)
    axes.errorbar(
        [mean for mean, _ in across],
        [mean for mean, _ in upwards],
        xerr=[spread for _, spread in across],
        yerr=[spread for _, spread in upwards],
        color=PALETTE[rank % len(PALETTE)],
        marker=MARKERS[(rank + rank // len(PALETTE)) % len(MARKERS)],
        capsize=2.5,
        elinewidth=1,
        linewidth=1.2,
        label=label,
    )


def _level(axes: Axes, rank: int, label: str, level: tuple[float, float]) -> None:
    """A dense network: a line at its mean, in a band of its spread."""
    mean, spread = level
    axes.axhline(mean, color=GREY, linestyle=("--", "-.", ":")[rank % 3], label=label)
    axes.axhspan(mean - spread, mean + spread, color=GREY, alpha=0.12, linewidth=0)


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation (0 for a single value).

    Example:
        >>> mean_and_spread([1.0, 3.0])
        (2.0, 1.4142135623730951)
    """
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _points(runs: Sequence[Record], x: str, y: str) -> list[tuple[Any, ...]]:
    groups: dict[tuple[Any, ...], list[tuple[float, float]]] = {}
    for run in runs:
        series = (_method(run), run.get("network"), run.get("data"))
        # Dense runs of one network and data set have one line, whatever their other settings.
        recipe = None if series[0] == "dense" else run.get("recipe", run["sparsity"])
        pair = (_number(run, x), _number(run, y))
        groups.setdefault((series, recipe), []).append(pair)
    return [
        (series, len(pairs), *(mean_and_spread(values) for values in zip(*pairs, strict=True)))
        for (series, _), pairs in groups.items()
    ]


def _number(run: Record, name: str) -> float:
    try:
        value = QUANTITIES[name].of(run)
        return float(value)
    except (KeyError, TypeError):
        called = run.get("run", _method(run))
        raise ValueError(
            f"runs: the report of {called!r} holds no {name!r}; leave that run out, or choose "
            "another quantity."
        ) from None


def _quantity(argument: str, name: str) -> Quantity:
    if name not in QUANTITIES:
        raise ValueError(
            f"{argument}: {name!r} is no quantity of a report; choose one of "
            f"{', '.join(QUANTITIES)}."
        )
    return QUANTITIES[name]


def _series(series: tuple[Any, ...], settings: set[Any]) -> str:
    method, network, data = series
    return _readable(method if len(settings) == 1 else f"{method}, {network}, {data}", 40)


def _scale(axis: Any, set_scale: Callable[..., None], quantity: Quantity) -> None:
    axis.set_label_text(quantity.label)
    if not quantity.logarithmic:
        return
    set_scale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    axis.set_minor_formatter(NullFormatter())


def _tick(value: float) -> str:
    return EngFormatter(sep="")(value) if value >= 1000 else f"{value:g}"


def _curve(
    axes: Axes,
    records: Sequence[Record],
    of: Callable[[Record], float | None],
    label: str,
    colour: Any,
    style: str = "-",
) -> None:
    points = [(record["epoch"], of(record)) for record in records]
    points = [(epoch, value) for epoch, value in points if value is not None]
    if not points:
        return
    epochs, values = zip(*points, strict=True)
    marker = "o" if _marks(len(epochs)) else None
    axes.plot(epochs, values, style, color=colour, marker=marker, label=label)


def _sparsity_lines(
    names: list[str], shares: Mapping[tuple[str, int], float]
) -> tuple[Figure, str]:
    figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
    axes = figure.subplots()
    lines = []
    for name, colour, marker in zip(names, PALETTE, MARKERS, strict=False):
        epochs = [epoch for layer, epoch in shares if layer == name]
        lines += axes.plot(
            epochs,
            [100 * shares[name, epoch] for epoch in epochs],
            color=colour,
            marker=marker if _marks(len(epochs)) else None,
        )
    axes.set_ylabel("sparsity (%)")
    axes.set_ylim(-3, 103)
    _epochs(axes)
    labels = [_readable(name) for name in names]
    figure.legend(lines, labels, loc="outside lower center", ncols=_columns(labels))
    return figure, "Share of the synapses of each layer that are zero after each epoch."


def _sparsity_map(names: list[str], shares: Mapping[tuple[str, int], float]) -> tuple[Figure, str]:
    epochs = sorted({epoch for _, epoch in shares})
    shown, times = _spread(names, BARS), _spread(epochs, COLUMNS)
    figure = Figure(figsize=(WIDTH, 1.0 + 0.19 * len(shown)), layout="constrained")
    axes = figure.subplots()
    values = [[100 * shares.get((name, time), float("nan")) for time in times] for name in shown]
    mesh = axes.pcolormesh(
        _edges(times),
        range(len(shown) + 1),
        values,
        cmap=DEPTH,
        vmin=0,
        vmax=100,
        edgecolor="face",  # cells that only touch show hairlines between them
        linewidth=0.8,
    )
    axes.set_yticks([place + 0.5 for place in range(len(shown))], [_readable(n) for n in shown])
    axes.tick_params(axis="y", labelsize=7, length=0)
    axes.invert_yaxis()
    axes.grid(False)
    _epochs(axes)
    figure.colorbar(mesh, ax=axes, label="sparsity (%)", fraction=0.05, aspect=40)
    caption = (
        "Share of the synapses of each layer that are zero (colour) after each epoch, input layer "
        "at the top." + _left_out(shown, names) + _left_out(times, epochs, "epochs")
    )
    return figure, caption


def _edges(times: Sequence[float]) -> list[float]:
    middles = [(before + after) / 2 for before, after in pairwise(times)]
    return [times[0] - 0.5, *middles, times[-1] + 0.5]


def _ridges(records: Sequence[Record], kind: str, title: str, caption: str) -> Plot | None:
    found = {
        record["epoch"]: {
            name: bins
            for name, histograms in (record.get("histograms") or {}).items()
            if (bins := _bins(histograms.get(kind)))
        }
        for record in records
    }
    epochs = _spread([epoch for epoch, layers in found.items() if layers], EPOCHS)
    names = list(dict.fromkeys(name for epoch in epochs for name in found[epoch]))
    if not names:
        return None
    shown = _spread(names, PANELS)
    figure, panels = _panels(len(shown), 1.75, "epoch")
    for name, axes in zip(shown, panels, strict=True):
        _ridge_panel(axes, [(epoch, found[epoch].get(name)) for epoch in epochs])
        axes.set_title(_readable(name))
        if kind == "theta":
            axes.axvline(0, color=BLACK, linewidth=0.8)
    figure.supxlabel(kind, fontsize=9)
    return Plot(
        name=f"{kind}-histograms",
        title=title,
        caption=caption + _left_out(shown, names),
        figure=figure,
        columns=("epoch", "layer", "low", "high", "count"),
        rows=tuple(
            (epoch, name, *each)
            for epoch in epochs
            for name, bins in found[epoch].items()
            for each in bins
        ),
    )


def _ridge_panel(axes: Axes, histograms: Sequence[tuple[int, Any]]) -> None:
    colours = matplotlib.colormaps[DEPTH]
    last = len(histograms) - 1
    filled = [(rank, _coarse(bins)) for rank, (_, bins) in enumerate(histograms) if bins]
    for rank, bins in filled:
        floor, peak = last - rank, max(count for *_, count in bins)
        edges = [low for low, *_ in bins] + [bins[-1][1]]
        heights = [floor + 1.5 * count / peak for *_, count in bins]
        colour = colours(0.88 * rank / max(last, 1))
        axes.stairs(
            heights, edges, baseline=floor, fill=True, facecolor=colour, alpha=0.8, zorder=rank + 2
        )
        axes.stairs(heights, edges, baseline=None, color="white", linewidth=0.7, zorder=rank + 2)
    lows, highs = zip(*(_mass(bins) for _, bins in filled), strict=True)
    axes.set_xlim(min(lows), max(highs))
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.set_yticks(range(last + 1), [str(epoch) for epoch, _ in reversed(histograms)])
    axes.tick_params(axis="y", length=0)


def _firing_panel(axes: Axes, name: str, sides: Sequence[tuple[Record, str]]) -> None:
    ends = []
    for rank, (layer, colour) in enumerate(sides):
        bins = _bins(layer["histogram"])
        total = sum(count for *_, count in bins)
        edges = [low for low, *_ in bins] + [bins[-1][1]]
        shares = [100 * count / total for *_, count in bins]
        axes.stairs(
            shares, edges, color=colour, fill=rank == 0, alpha=0.45 if rank == 0 else 1, zorder=3
        )
        axes.stairs(shares, edges, color=colour, linewidth=1.2, zorder=3)
        if layer.get("rate") is not None:
            axes.axvline(layer["rate"], color=colour, linestyle=":", linewidth=1.4, zorder=4)
        ends.append(_mass(bins))
    axes.set_xlim(min(low for low, _ in ends), max(high for _, high in ends))
    axes.set_yscale("log")
    axes.set_ylim(0.05, 130)
    axes.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    axes.minorticks_off()
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.set_title(_readable(f"layer {name}"))


def _bins(histogram: Any) -> list[tuple[float, float, float]]:
    """Return (low, high, count) of each bin; an empty list where there is nothing to draw."""
    if not histogram or not sum(histogram["counts"]):
        return []
    low, high, counts = histogram["low"], histogram["high"], histogram["counts"]
    if not isfinite(high - low) or high < low:
        return []
    if high == low:  # all values equal: give the single column a width
        low, high = low - (abs(low) or 1) / 20, high + (abs(high) or 1) / 20
    width = (high - low) / len(counts)
    edges = [low + width * place for place in range(len(counts))] + [high]
    return [(*pair, count) for pair, count in zip(pairwise(edges), counts, strict=True)]


def _coarse(bins: Sequence[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    """Return at most `BINS` bins, each the sum of neighbours: few synapses fill no fine ones."""
    step = ceil(len(bins) / BINS)
    groups = [bins[start : start + step] for start in range(0, len(bins), step)]
    return [
        # a density, so that a last group of fewer bins is not drawn too low
        (group[0][0], group[-1][1], sum(count for *_, count in group) / len(group))
        for group in groups
    ]


def _mass(bins: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    occupied = [(low, high) for low, high, count in bins if count]
    return occupied[0][0], occupied[-1][1]


def _panels(count: int, height: float, upwards: str) -> tuple[Figure, list[Axes]]:
    columns = count if count <= 3 else 2
    rows = ceil(count / columns)
    figure = Figure(figsize=(WIDTH, 0.7 + height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    cells: list[Axes] = list(grid.flat)
    for axes in grid[:, 0]:
        axes.set_ylabel(upwards)
    for axes in cells[count:]:
        axes.set_axis_off()
    return figure, cells[:count]


def _epochs(axes: Axes) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))


def _columns(labels: Sequence[str]) -> int:
    """Return how many legend columns of these labels fit beside each other."""
    letters = 8 + max(map(len, labels), default=0)  # the line before a label is as wide as 8
    return max(1, min(3, 66 // letters))


def _marks(count: int) -> bool:
    return count <= 30


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """Return at most `count` items, evenly chosen, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(place * (len(items) - 1) / (count - 1))] for place in range(count)]


def _left_out(shown: Sequence[Any], all_of_them: Sequence[Any], noun: str = "layers") -> str:
    if len(shown) == len(all_of_them):
        return ""
    return (
        f" {len(shown)} of {len(all_of_them)} {noun} are drawn, evenly chosen; "
        "the CSV has them all."
    )


def _sparsity(layer: Record) -> float:
    return 1 - layer["alive"] / layer["synapses"] if layer["synapses"] else 0.0


def _method(report: Record) -> str:
    return str(report.get("method", "this run"))


@cache
def _letters() -> frozenset[int]:
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def _readable(name: str, longest: int = 22) -> str:
    """Return `name` as a label that is drawn letter by letter, never read as a formula."""
    known = [c if c.isprintable() and ord(c) in _letters() else "□" for c in str(name)]
    text = "".join(known).strip() or "(no name)"
    if len(text) > longest:
        half = (longest - 1) // 2
        text = f"{text[:half]}…{text[-half:]}"
    if text.startswith("_"):  # matplotlib leaves labels that begin so out of legends
        text = f"\u200a{text}"
    return text.replace("$", r"\$")


def _harmless(cell: Cell) -> Cell:
    """Return the cell so that a spreadsheet shows text as text, whatever it begins with."""
    if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
        return f"'{cell}"
    return cell
