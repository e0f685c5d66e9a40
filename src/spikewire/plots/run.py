"""Figures of one run, drawn from its records alone."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from spikewire.plots.features import entropy
from spikewire.plots.figure import (
    AMBER,
    BARS,
    BLACK,
    BLUE,
    COLUMNS,
    DEPTH,
    EPOCHS,
    GREEN,
    GREY,
    LINES,
    MARKERS,
    PALETTE,
    PANELS,
    SKY,
    VERMILION,
    WIDTH,
    Cell,
    Plot,
    Record,
    bins_of,
    coarse,
    curve,
    drawn_in_style,
    epoch_axis,
    evenly,
    left_out,
    legend_columns,
    mass,
    method_of,
    panel_grid,
    readable,
    shows_marks,
    sparsity_of,
)


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
        entropy(report),
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
    curve(axes, dense, lambda record: record["accuracy"].get("test"), "test, dense twin", GREY)
    for split, colour in splits.items():
        curve(axes, records, lambda record, s=split: record["accuracy"].get(s), split, colour)
    epoch_axis(axes)
    axes.set_ylabel("accuracy (%)")

    right = axes.twinx()
    right.grid(False)
    right.spines["right"].set(visible=True, color=GREEN)
    right.set_ylim(-3, 103)
    right.set_ylabel("sparsity (%)", color=GREEN)
    right.tick_params(axis="y", color=GREEN, labelcolor=GREEN)
    curve(right, records, lambda record: 100 * record["sparsity"], "sparsity", GREEN, "--")
    handles = [*reversed(axes.get_lines()), *right.get_lines()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)

    tests = {record["epoch"]: record["accuracy"].get("test") for record in dense}
    twin = {epoch: test for epoch, test in tests.items() if test is not None}
    rows = [
        (record["epoch"], *(record["accuracy"].get(split) for split in splits),
         record["sparsity"], twin.get(record["epoch"]))
        for record in records
    ]  # fmt: skip
    return Plot(
        name="accuracy",
        title="Accuracy and sparsity",
        caption="Accuracy after each epoch (solid, left axis) and the share of synapses that are "
        "zero (dashed, right axis)." + (" Grey: test accuracy of the dense twin." if twin else ""),
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
        (record["epoch"], layer["name"], layer["synapses"], layer["alive"], sparsity_of(layer))
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
    mark = shows_marks(len(epochs))
    axes.plot(epochs, pruned, color=VERMILION, marker="v" if mark else None, label="pruned")
    axes.plot(
        epochs, regrown, color=BLUE, marker="^" if mark else None, linestyle="--", label="regrown"
    )
    axes.set_yscale("symlog", linthresh=1)  # shows zero too, which a plain logarithm cannot
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    epoch_axis(axes)
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
        {layer["name"]: layer for layer in side.get("firing") or () if bins_of(layer["histogram"])}
        for side, _ in sides
    ]
    names = list(layers[0])
    if not names:
        return None
    shown = evenly(names, PANELS)
    figure, panels = panel_grid(len(shown), 1.55, "neurons (%)")
    for name, axes in zip(shown, panels, strict=True):
        drawn = [
            (found[name], colour)
            for found, (_, colour) in zip(layers, sides, strict=True)
            if name in found
        ]
        _firing_panel(axes, name, drawn)
    figure.supxlabel("firing rate (spikes per neuron and time step)", fontsize=9)
    labels = [method_of(report), "dense twin"]
    handles = [
        Line2D([], [], color=colour, label=readable(label))
        for (_, colour), label in zip(sides, labels, strict=False)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    rows = [
        (label, name, *each)
        for found, label in zip(layers, labels, strict=False)
        for name, layer in found.items()
        for each in bins_of(layer["histogram"])
    ]
    return Plot(
        name="firing-rates",
        title="Firing rates",
        caption="Share of the neurons of a layer at each firing rate (logarithmic); dotted lines "
        "mark the mean rates." + left_out(shown, names),
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
    if not any(sparsity_of(layer) for layer in layers):
        return None
    shown = evenly(layers, BARS)
    figure = Figure(figsize=(WIDTH, 1.0 + 0.24 * len(shown)), layout="constrained")
    axes = figure.subplots()
    places = range(len(shown))
    axes.barh(places, [100] * len(shown), height=0.7, color="#EDEDED")
    axes.barh(places, [100 - 100 * sparsity_of(layer) for layer in shown], height=0.7, color=BLUE)
    for place, layer in zip(places, shown, strict=True):
        axes.annotate(
            f"{layer['alive']:,} of {layer['synapses']:,}",
            (102, place),
            annotation_clip=False,
            va="center",
            fontsize=7,
        )
    axes.set_yticks(places, [readable(layer["name"]) for layer in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)  # input at the top
    axes.set_xlim(0, 100)
    axes.grid(False, axis="y")
    axes.set_xlabel("synapses alive (%)")
    return Plot(
        name="connectivity-by-layer",
        title="What is left of each layer",
        caption="Share of the synapses of each layer that are alive at the end, input layer at "
        "the top, with their count." + left_out(shown, layers),
        figure=figure,
        columns=("layer", "synapses", "alive", "connectivity"),
        rows=tuple(
            (layer["name"], layer["synapses"], layer["alive"], 1 - sparsity_of(layer))
            for layer in layers
        ),
    )


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
            marker=marker if shows_marks(len(epochs)) else None,
        )
    axes.set_ylabel("sparsity (%)")
    axes.set_ylim(-3, 103)
    epoch_axis(axes)
    labels = [readable(name) for name in names]
    figure.legend(lines, labels, loc="outside lower center", ncols=legend_columns(labels))
    return figure, "Share of the synapses of each layer that are zero after each epoch."


def _sparsity_map(names: list[str], shares: Mapping[tuple[str, int], float]) -> tuple[Figure, str]:
    epochs = sorted({epoch for _, epoch in shares})
    shown, times = evenly(names, BARS), evenly(epochs, COLUMNS)
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
    axes.set_yticks([place + 0.5 for place in range(len(shown))], [readable(n) for n in shown])
    axes.tick_params(axis="y", labelsize=7, length=0)
    axes.invert_yaxis()
    axes.grid(False)
    epoch_axis(axes)
    figure.colorbar(mesh, ax=axes, label="sparsity (%)", fraction=0.05, aspect=40)
    caption = (
        "Share of the synapses of each layer that are zero (colour) after each epoch, input layer "
        "at the top." + left_out(shown, names) + left_out(times, epochs, "epochs")
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
            if (bins := bins_of(histograms.get(kind)))
        }
        for record in records
    }
    epochs = evenly([epoch for epoch, layers in found.items() if layers], EPOCHS)
    names = list(dict.fromkeys(name for epoch in epochs for name in found[epoch]))
    if not names:
        return None
    shown = evenly(names, PANELS)
    figure, panels = panel_grid(len(shown), 1.75, "epoch")
    for name, axes in zip(shown, panels, strict=True):
        _ridge_panel(axes, [(epoch, found[epoch].get(name)) for epoch in epochs])
        axes.set_title(readable(name))
        if kind == "theta":
            axes.axvline(0, color=BLACK, linewidth=0.8)
    figure.supxlabel(kind, fontsize=9)
    return Plot(
        name=f"{kind}-histograms",
        title=title,
        caption=caption + left_out(shown, names),
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
    filled = [(rank, coarse(bins)) for rank, (_, bins) in enumerate(histograms) if bins]
    for rank, bins in filled:
        floor, peak = last - rank, max(count for *_, count in bins)
        edges = [low for low, *_ in bins] + [bins[-1][1]]
        heights = [floor + 1.5 * count / peak for *_, count in bins]
        colour = colours(0.88 * rank / max(last, 1))
        axes.stairs(
            heights, edges, baseline=floor, fill=True, facecolor=colour, alpha=0.8, zorder=rank + 2
        )
        axes.stairs(heights, edges, baseline=None, color="white", linewidth=0.7, zorder=rank + 2)
    lows, highs = zip(*(mass(bins) for _, bins in filled), strict=True)
    axes.set_xlim(min(lows), max(highs))
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.set_yticks(range(last + 1), [str(epoch) for epoch, _ in reversed(histograms)])
    axes.tick_params(axis="y", length=0)


def _firing_panel(axes: Axes, name: str, sides: Sequence[tuple[Record, str]]) -> None:
    ends = []
    for rank, (layer, colour) in enumerate(sides):
        bins = bins_of(layer["histogram"])
        total = sum(count for *_, count in bins)
        edges = [low for low, *_ in bins] + [bins[-1][1]]
        shares = [100 * count / total for *_, count in bins]
        axes.stairs(
            shares, edges, color=colour, fill=rank == 0, alpha=0.45 if rank == 0 else 1, zorder=3
        )
        axes.stairs(shares, edges, color=colour, linewidth=1.2, zorder=3)
        if layer.get("rate") is not None:
            axes.axvline(layer["rate"], color=colour, linestyle=":", linewidth=1.4, zorder=4)
        ends.append(mass(bins))
    axes.set_xlim(min(low for low, _ in ends), max(high for _, high in ends))
    axes.set_yscale("log")
    axes.set_ylim(0.05, 130)
    axes.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    axes.minorticks_off()
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.set_title(readable(f"layer {name}"))
