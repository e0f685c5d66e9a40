"""Figures of several runs beside each other, drawn from their records alone."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from spikewire.plots.figure import (
    BLACK,
    BLUE,
    GREY,
    MARKERS,
    PALETTE,
    WIDTH,
    Plot,
    Record,
    bins_of,
    colours,
    curve,
    drawn_in_style,
    epoch_axis,
    legend_columns,
    method_of,
    panel_grid,
    readable,
)

# In inches: a figure with a legend of so many rows, and what each row more takes.
_HEIGHT, _LEGEND_ROWS, _LEGEND_ROW = 3.6, 4, 0.17
# Ticks of an axis of connectivities, which is logarithmic above 1 %.
_PERCENTS = (0, 1, 2, 5, 10, 20, 50, 100)


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


COSTS = {"synops": "SynOps per image", "milliseconds": "ms per image, sparse engine"}


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
    figure = Figure(figsize=(WIDTH, _HEIGHT), layout="constrained")
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
    columns = legend_columns(labels)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)
    longer = math.ceil(len(labels) / columns) - _LEGEND_ROWS
    figure.set_figheight(_HEIGHT + _LEGEND_ROW * max(0, longer))
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
        series = (method_of(run), run.get("network"), run.get("data"))
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
        called = run.get("run", method_of(run))
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
    return readable(method if len(settings) == 1 else f"{method}, {network}, {data}", 40)


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


@drawn_in_style
def courses(runs: Mapping[str, Sequence[Record]]) -> Plot:
    """Draw test accuracy (solid) and connectivity (dashed, right axis) of several runs.

    Args:
        runs: metrics of each run, by label.

    Example:
        >>> record = {"epoch": 1, "accuracy": {"test": 90.0}, "sparsity": 0.75}
        >>> courses({"0.1": [record]}).rows
        (('0.1', 1, 90.0, 25.0),)
    """
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    right = axes.twinx()
    right.grid(False)
    for colour, (label, records) in zip(colours(len(runs)), runs.items(), strict=True):
        curve(axes, records, lambda record: record["accuracy"]["test"], readable(label), colour)
        curve(right, records, lambda record: 100 * (1 - record["sparsity"]), "_", colour, "--")
    epoch_axis(axes)
    axes.set_ylabel("test accuracy (%), solid")
    right.spines["right"].set_visible(True)
    right.set_yscale("log")
    right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    right.yaxis.set_minor_formatter(NullFormatter())
    right.set_ylabel("connectivity (%), dashed")
    labels = [readable(label) for label in runs]
    figure.legend(
        axes.get_lines(), labels, loc="outside lower center", ncols=legend_columns(labels)
    )
    return Plot(
        name="courses",
        title="Accuracy and connectivity over epochs",
        caption="Test accuracy after each epoch (solid, left axis) and the share of synapses that "
        "are left (dashed, right axis, logarithmic).",
        figure=figure,
        columns=("run", "epoch", "test_accuracy", "connectivity"),
        rows=tuple(
            (label, record["epoch"], record["accuracy"]["test"], 100 * (1 - record["sparsity"]))
            for label, records in runs.items()
            for record in records
        ),
    )


@drawn_in_style
def connectivities(runs: Mapping[str, Sequence[Record]]) -> Plot | None:
    """Draw how much several runs leave of each layer: its connectivity at the end.

    Args:
        runs: metrics of each run, with the counts `alive` and `synapses` of each layer, by label.

    Returns:
        The plot, or None when there is no run.

    Example:
        >>> layers = [{"name": "fc1.weight", "alive": 6, "synapses": 8}]
        >>> connectivities({"a": [{"epoch": 1, "layers": layers}]}).rows
        (('a', 'fc1.weight', 6, 75.0),)
    """
    rows = tuple(
        (label, layer["name"], layer["alive"], 100.0 * layer["alive"] / layer["synapses"])
        for label, records in runs.items()
        for layer in records[-1]["layers"]
        if layer["synapses"]
    )
    if not rows:
        return None
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    layers = list(dict.fromkeys(layer for _, layer, *_ in rows))
    for rank, (colour, label) in enumerate(zip(colours(len(runs)), runs, strict=True)):
        own = [(layers.index(layer), share) for name, layer, _, share in rows if name == label]
        marker = MARKERS[rank % len(MARKERS)]
        axes.plot(*zip(*own, strict=True), color=colour, marker=marker, label=readable(label))
    axes.set_yscale("symlog", linthresh=1.0)
    axes.set_yticks(_PERCENTS, map(str, _PERCENTS))
    axes.set_ylim(1.0 if min(share for *_, share in rows) >= 1.0 else 0.0, 120.0)
    axes.set_xticks(range(len(layers)), [readable(layer, 14) for layer in layers], rotation=60)
    axes.set_ylabel("connectivity (%)")
    labels = [readable(label) for label in runs]
    figure.legend(loc="outside lower center", ncols=legend_columns(labels))
    return Plot(
        name="connectivities",
        title="Connectivity of each layer",
        caption="Share of the synapses of each layer, in the order of the network, that there are "
        "at the end; the axis is logarithmic above 1 %.",
        figure=figure,
        columns=("run", "layer", "alive", "connectivity"),
        rows=rows,
    )


@drawn_in_style
def frontier(rows: Sequence[Mapping[str, Any]]) -> Plot:
    """Draw accuracy against connectivity, ours beside a paper's.

    Args:
        rows: of a table of a study; a row whose connectivity is 100 % is a dense network, drawn as
            a horizontal line. Ours is the accuracy of the last epoch; `paper` is the method that
            has the paper's numbers.

    Example:
        >>> row = {"method": "GMP", "connectivity": 5.0, "accuracy": 97.0, "accuracy_std": 0.0,
        ...        "paper": "Grad R", "paper_connectivity": 5.63, "paper_accuracy": 96.9}
        >>> frontier([row]).rows
        (('GMP', 5.0, 97.0, 0.0, 'Grad R', 5.63, 96.9),)
    """
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    named = dict.fromkeys(row[key] for key in ("method", "paper") for row in rows)
    for rank, (colour, method) in enumerate(zip(colours(len(named)), named, strict=True)):
        marker = MARKERS[rank % len(MARKERS)]
        label = readable(method, 40)
        measured = [row for row in rows if row["method"] == method]
        ours = _pairs(measured, "connectivity", "accuracy", "accuracy_std")
        _frontier(axes, ours, colour, marker, label, filled=True)
        published = [row for row in rows if row["paper"] == method]
        theirs = _pairs(published, "paper_connectivity", "paper_accuracy")
        _frontier(axes, theirs, colour, marker, f"{label}, paper", filled=False)
    _scale(axes.xaxis, axes.set_xscale, QUANTITIES["connectivity"])
    axes.set_ylabel("test accuracy (%)")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=legend_columns(labels))
    columns = ("method", "connectivity", "accuracy", "accuracy_std",
               "paper", "paper_connectivity", "paper_accuracy")  # fmt: skip
    return Plot(
        name="frontier",
        title="Accuracy against connectivity",
        caption="Test accuracy of the last epoch against the share of synapses left: measured "
        "(filled, solid) and as the paper has it (hollow, dashed); horizontal lines are networks "
        "without pruning.",
        figure=figure,
        columns=columns,
        rows=tuple(tuple(row[column] for column in columns) for row in rows),
    )


@drawn_in_style
def costs(rows: Sequence[Mapping[str, Any]]) -> Plot:
    """Draw accuracy against SynOps (left) and milliseconds (right), one series per method.

    Args:
        rows: of a table of a study that asks for these costs; SynOps of an image, and milliseconds
            that the sparse engine takes for it.

    Example:
        >>> row = {"method": "erk", "accuracy": 90.0, "accuracy_std": 0.5, "synops": 2e6,
        ...        "milliseconds": 1.5}
        >>> costs([row]).rows
        (('erk', 2000000.0, 1.5, 90.0, 0.5),)
    """
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    named = list(dict.fromkeys(row["method"] for row in rows))
    for x, label, axes in zip(COSTS, COSTS.values(), panels, strict=True):
        for rank, (colour, method) in enumerate(zip(colours(len(named)), named, strict=True)):
            points = _pairs(
                [r for r in rows if r["method"] == method], x, "accuracy", "accuracy_std"
            )
            marker = MARKERS[rank % len(MARKERS)]
            _frontier(axes, points, colour, marker, readable(method, 40), filled=True)
        axes.set_xlabel(label)
    panels[0].set_ylabel("test accuracy (%)")
    panels[0].set_xscale("symlog", linthresh=100)  # a network may have died: 0
    panels[0].xaxis.set_major_formatter(EngFormatter(sep=""))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=legend_columns(labels))
    columns = ("method", *COSTS, "accuracy", "accuracy_std")
    return Plot(
        name="costs",
        title="Accuracy against what an image costs",
        caption="Test accuracy of the last epoch against spikes times the synapses that they meet "
        "(left) and against the time of an image in the sparse engine, one at a time (right).",
        figure=figure,
        columns=columns,
        rows=tuple(tuple(row.get(column) for column in columns) for row in rows),
    )


@drawn_in_style
def ratios(rows: Sequence[Mapping[str, Any]]) -> Plot:
    """Draw accuracy against the share of synapses that come back, one series per method.

    Chen, Liu, Liu and You 2023 (arXiv 2311.16141 v3), Fig. 2.

    Args:
        rows: of a table of a study; a method without a `ratio` becomes a horizontal line.

    Example:
        >>> row = {"method": "chance", "ratio": 0.2, "accuracy": 70.0, "accuracy_std": 0.5}
        >>> ratios([row]).rows
        (('chance', 0.2, 70.0, 0.5),)
    """
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    there = [row for row in rows if row["accuracy"] is not None]
    named = dict.fromkeys(row["method"] for row in there)
    for rank, (colour, method) in enumerate(zip(colours(len(named)), named, strict=True)):
        mine = [row for row in there if row["method"] == method]
        points = _pairs(mine, "ratio", "accuracy", "accuracy_std")
        label = readable(method, 40)
        if points:
            _frontier(axes, points, colour, MARKERS[rank % len(MARKERS)], label, filled=True)
        else:
            axes.axhline(mine[0]["accuracy"], color=colour, linestyle="--", label=label)
    axes.set_xlabel("share of synapses that come back at an event")
    axes.set_ylabel("test accuracy (%)")
    _, labels = axes.get_legend_handles_labels()
    figure.legend(loc="outside lower center", ncols=legend_columns(labels))
    columns = ("method", "ratio", "accuracy", "accuracy_std")
    return Plot(
        name="ratios",
        title="Accuracy against the share that comes back",
        caption="Test accuracy of the last epoch, mean over seeds and sample standard deviation; "
        "dashed: without regrowth, or without pruning.",
        figure=figure,
        columns=columns,
        rows=tuple(tuple(row[column] for column in columns) for row in there),
    )


@drawn_in_style
def bars(rows: Sequence[Mapping[str, Any]]) -> Plot | None:
    """Draw accuracies as bars, one for each method.

    Args:
        rows: of a table of a study; those without runs are left out.

    Returns:
        The plot, or None when none has runs.

    Example:
        >>> bars([{"method": "tanh", "accuracy": 70.0, "accuracy_std": 0.5}]).rows
        (('tanh', 70.0, 0.5),)
    """
    there = [row for row in rows if row["accuracy"] is not None]
    if not there:
        return None
    figure = Figure(figsize=(WIDTH, 0.8 + 0.3 * len(there)), layout="constrained")
    axes = figure.subplots()
    values = [row["accuracy"] for row in there]
    spreads = [row["accuracy_std"] or 0.0 for row in there]
    places = range(len(there))
    axes.barh(places, values, xerr=spreads, color=BLUE, height=0.6, capsize=2.5)
    axes.set_yticks(places, [readable(row["method"], 40) for row in there])
    axes.invert_yaxis()
    margin = 3 * max(spreads) or 1.0
    axes.set_xlim(min(values) - margin, max(values) + margin)
    axes.set_xlabel("test accuracy (%), axis not from 0")
    axes.grid(visible=False, axis="y")
    columns = ("method", "accuracy", "accuracy_std")
    return Plot(
        name="bars",
        title="Accuracies",
        caption="Test accuracy of the last epoch, mean over seeds and sample standard deviation.",
        figure=figure,
        columns=columns,
        rows=tuple(tuple(row[column] for column in columns) for row in there),
    )


def _pairs(rows: Sequence[Mapping[str, Any]], x: str, y: str, spread: str = "") -> list[Any]:
    """(x, y, spread of y) of the rows that have both, each once, from left to right."""
    return sorted(
        {
            (row[x], row[y], row.get(spread) or 0.0)
            for row in rows
            if row.get(x) is not None and row[y] is not None
        }
    )


def _frontier(
    axes: Axes, points: Sequence[Any], colour: str, marker: str, label: str, *, filled: bool
) -> None:
    if not points:
        return
    style = "-" if filled else "--"
    across, upwards, spreads = zip(*points, strict=True)
    if across == (100.0,):
        axes.axhline(upwards[0], color=colour, linestyle=style, linewidth=1.2, label=label)
        return
    axes.errorbar(
        across,
        upwards,
        yerr=spreads if any(spreads) else None,
        color=colour,
        marker=marker,
        markerfacecolor=colour if filled else "white",
        linestyle=style,
        capsize=2.5,
        elinewidth=1,
        linewidth=1.2,
        label=label,
    )


@drawn_in_style
def distributions(report: Record) -> Plot | None:
    """Draw how the values of each parameter of a trained network are distributed.

    Args:
        report: report of a run with its `distributions`, a histogram for each parameter.

    Returns:
        The plot, or None when the run recorded none.

    Example:
        >>> histogram = {"low": 0.0, "high": 1.0, "counts": [3, 1]}
        >>> distributions({"distributions": {"bn1.weight": histogram}}).rows[0]
        ('bn1.weight', 0.0, 0.5, 3)
    """
    found = {
        name: bins
        for name, histogram in (report.get("distributions") or {}).items()
        if (bins := bins_of(histogram))
    }
    if not found:
        return None
    figure, panels = panel_grid(len(found), 1.25, "values (%)")
    for (name, bins), axes in zip(found.items(), panels, strict=True):
        total = sum(count for *_, count in bins)
        edges = [low for low, *_ in bins] + [bins[-1][1]]
        shares = [100 * count / total for *_, count in bins]
        axes.stairs(shares, edges, color=BLUE, fill=True, alpha=0.6)
        axes.axvline(0, color=BLACK, linewidth=0.8)
        axes.set_title(readable(name))
        axes.xaxis.set_major_locator(MaxNLocator(3))
    figure.supxlabel("value", fontsize=9)
    return Plot(
        name="distributions",
        title="Distributions of the parameters",
        caption="Share of the values of each parameter in each of its bins; the line marks 0.",
        figure=figure,
        columns=("parameter", "low", "high", "count"),
        rows=tuple((name, *each) for name, bins in found.items() for each in bins),
    )


@drawn_in_style
def rates(reports: Mapping[str, Record], layer: str) -> Plot:
    """Draw the firing rates of one layer of neurons in several networks.

    Args:
        reports: report of each run with its `firing` histograms, by label.
        layer: name of the layer of neurons.

    Raises:
        ValueError: if a report has no such layer.

    Example:
        >>> histogram = {"low": 0.0, "high": 1.0, "counts": [3, 1]}
        >>> firing = [{"name": "lif1", "neurons": 4, "rate": 0.2, "histogram": histogram}]
        >>> rates({"5 %": {"firing": firing}}, "lif1").rows[0]
        ('5 %', 0.0, 0.5, 3)
    """
    found = {label: bins_of(_firing(label, report, layer)) for label, report in reports.items()}
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    for colour, (label, bins) in zip(colours(len(found)), found.items(), strict=True):
        total = sum(count for *_, count in bins)
        middles = [(low + high) / 2 for low, high, _ in bins]
        shares = [100 * count / total for *_, count in bins]
        axes.plot(middles, shares, color=colour, label=readable(label), linewidth=1.4)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    axes.set_xlabel("firing rate (spikes per neuron and time step)")
    axes.set_ylabel("neurons (%)")
    labels = [readable(label) for label in found]
    figure.legend(loc="outside lower center", ncols=legend_columns(labels))
    return Plot(
        name="rates",
        title=f"Firing rates of {layer}",
        caption=f"Share of the neurons of {layer} at each firing rate (logarithmic), averaged over "
        "the test set and time.",
        figure=figure,
        columns=("run", "low", "high", "neurons"),
        rows=tuple((label, *each) for label, bins in found.items() for each in bins),
    )


def _firing(label: str, report: Record, layer: str) -> Any:
    layers = {each["name"]: each for each in report.get("firing") or ()}
    if layer not in layers:
        raise ValueError(f"{label}: no layer of neurons is called {layer!r}, only {list(layers)}")
    return layers[layer]["histogram"]
