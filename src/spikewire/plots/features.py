"""Figures of how networks represent classes, and of what their neurons tell."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spikewire.plots.figure import (
    BLUE,
    GREY,
    MARKERS,
    VERMILION,
    WIDTH,
    Plot,
    Record,
    colours,
    curve,
    drawn_in_style,
    epoch_axis,
    legend_columns,
    panel_grid,
    readable,
)

# Of fewer neurons a bin's mean entropy says little.
_FEWEST = 5
_PARTS = ("train", "test")


@drawn_in_style
def entropy(report: Record) -> Plot | None:
    """Draw the entropy of neurons against their distance from threshold.

    Args:
        report: report of a run with its `entropies`, in bins of distance for each neuron layer.

    Returns:
        The plot, or None when the run recorded none.

    Example:
        >>> layer = {"low": -1.0, "high": 1.0, "neurons": [9, 8], "entropy": [0.1, 0.9]}
        >>> entropy({"entropies": {"lif1": layer}}).rows
        (('lif1', -1.0, 0.0, 9, 0.1), ('lif1', 0.0, 1.0, 8, 0.9))
    """
    layers = report.get("entropies")
    if not layers:
        return None
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    rows = [(name, *each) for name, told in layers.items() for each in _bins(told)]
    for colour, name in zip(colours(len(layers)), layers, strict=True):
        mine = [row for row in rows if row[0] == name and row[3] >= _FEWEST]
        if mine:
            middles = [(low + high) / 2 for _, low, high, *_ in mine]
            marker = "o" if len(mine) == 1 else None
            values = [row[4] for row in mine]
            axes.plot(middles, values, color=colour, marker=marker, label=readable(name))
    axes.axvline(0, color=GREY, linestyle="--", linewidth=1)
    axes.set_xlabel("mean membrane potential less threshold")
    axes.set_ylabel("entropy (bits per time step)")
    figure.legend(loc="outside lower center", ncols=legend_columns(list(layers)))
    return Plot(
        name="entropy",
        title="Entropy of neurons by distance from threshold",
        caption="Mean entropy of the neurons of each layer whose membrane potential before reset "
        "lies so far from the threshold (dashed) on average over test images and time steps; bins "
        f"of fewer than {_FEWEST} neurons are in the CSV only.",
        figure=figure,
        columns=("layer", "low", "high", "neurons", "entropy"),
        rows=tuple(row for row in rows if row[3]),
    )


def _bins(told: Record) -> list[tuple[float, float, int, float]]:
    width = (told["high"] - told["low"]) / len(told["neurons"])
    return [
        (told["low"] + place * width, told["low"] + (place + 1) * width, count, bits)
        for place, (count, bits) in enumerate(zip(told["neurons"], told["entropy"], strict=True))
    ]


@drawn_in_style
def classes(reports: Mapping[str, Record]) -> Plot | None:
    """Draw two networks against each other, class by class: how alike features are.

    Left the variance of test features within each class, right the cosine between the mean features
    of training and test images. Chen, Liu, Liu and You 2023 (arXiv 2311.16141 v3), section 6.2.

    Args:
        reports: of two runs by label, the one to compare with first, with their `features`.

    Returns:
        The plot, or None unless both are there.

    Example:
        >>> told = {"classes": ["a"], "variance": {"test": [0.5]}, "likeness": [0.9]}
        >>> classes({"one": {"features": told}, "other": {"features": told}}).rows
        (('a', 0.5, 0.5, 0.9, 0.9),)
    """
    told: list[Any] = [report.get("features") for report in reports.values()]
    if len(told) != 2 or not all(told):
        return None
    before, after = reports
    variances, likeness = ([of(each) for each in told] for of in (_variance, _likeness))
    varies = [min(pair) > 0 for pair in zip(*variances, strict=True)]
    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    _against(left, variances, BLUE, "variance within a class")
    _against(right, likeness, VERMILION, "cosine of train and test")
    for axes in (left, right):
        axes.set_xlabel(readable(before))
        axes.set_ylabel(readable(after))
    count, aside = sum(varies), len(varies) - sum(varies)
    tighter = sum(a < b for b, a in compress(zip(*variances, strict=True), varies))
    closer = sum(a > b for b, a in compress(zip(*likeness, strict=True), varies))
    silent = f" Not counted are {aside} in which nothing varies, or fires." if aside else ""
    return Plot(
        name="classes",
        title="Features class by class",
        caption=f"Each point is a class; on the line both networks are equal. Of {count} classes, "
        f"{after} has the smaller variance of test features in {tighter}, and the larger cosine "
        f"between the mean features of training and test images in {closer}.{silent}",
        figure=figure,
        columns=("class", "variance_before", "variance_after", "cosine_before", "cosine_after"),
        rows=tuple(zip(told[0]["classes"], *variances, *likeness, strict=True)),
    )


def _variance(told: Any) -> list[float]:
    return told["variance"]["test"]


def _likeness(told: Any) -> list[float]:
    return told["likeness"]


def _against(axes: Axes, pairs: Sequence[Sequence[float]], colour: str, title: str) -> None:
    low, high = min(map(min, pairs)), max(map(max, pairs))
    axes.plot([low, high], [low, high], color=GREY, linewidth=1)
    axes.plot(*pairs, linestyle="", marker="o", markersize=3, color=colour)
    axes.set_title(title)


@drawn_in_style
def consistency(runs: Mapping[str, tuple[Sequence[Record], Record]]) -> Plot | None:
    """Draw means over classes, and accuracy on both parts of the data, of several networks.

    Args:
        runs: records and report of each run by label, the report with its `features`.

    Returns:
        The plot, or None when no run recorded features.

    Example:
        >>> told = {"variance": {"test": [0.5]}, "likeness": [0.9]}
        >>> report = {"features": told, "accuracy": {"last": 90.0}}
        >>> consistency({"a": ([{"accuracy": {"train": 99.0}}], report)}).rows
        (('a', 0.5, 0.9, 99.0, 90.0),)
    """
    found = {label: run for label, run in runs.items() if run[1].get("features")}
    if not found:
        return None
    titles = ("variance within classes", "cosine, train and test",
              "training accuracy (%)", "test accuracy (%)")  # fmt: skip
    rows: list[tuple[Any, ...]] = [(label, *_means(*run)) for label, run in found.items()]
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    panels = figure.subplots(2, 2)
    labels = [readable(row[0]) for row in rows]
    for place, (axes, title) in enumerate(zip(panels.flat, titles, strict=True), 1):
        values = [row[place] for row in rows]
        bars = axes.bar(range(len(rows)), values, color=colours(len(rows)), width=0.6)
        margin = (max(values) - min(values)) or 0.1 * abs(values[0]) or 1.0
        axes.set_ylim(min(values) - margin, max(values) + margin / 2)
        axes.set_xticks([])
        axes.set_title(title)
        if place == 1:
            figure.legend(bars, labels, loc="outside lower center", ncols=legend_columns(labels))
    return Plot(
        name="consistency",
        title="Features and accuracies",
        caption="Means over classes of the variance of test features and of the cosine between the "
        "mean features of training and test images; test accuracy of the trained network, and "
        "accuracy over the training batches of the last epoch, which are augmented and pass while "
        "the network changes. A class for which nothing fires has 0 in both. Axes do not begin at "
        "0.",
        figure=figure,
        columns=("run", "variance", "cosine", "train_accuracy", "test_accuracy"),
        rows=tuple(rows),
    )


def _means(records: Sequence[Record], report: Record) -> tuple[float, float, float, float]:
    told = report["features"]
    return (
        statistics.fmean(_variance(told)),
        statistics.fmean(_likeness(told)),
        records[-1]["accuracy"]["train"],
        report["accuracy"]["last"],
    )


@drawn_in_style
def learning(runs: Mapping[str, Sequence[Record]]) -> Plot | None:
    """Draw loss and accuracy of several runs, in training (dashed) and on test images (solid).

    Args:
        runs: metrics of each run, by label.

    Returns:
        The plot, or None when no run recorded the loss on test images.

    Example:
        >>> losses, accuracy = {"train": 0.5, "test": 0.6}, {"train": 80.0, "test": 75.0}
        >>> learning({"a": [{"epoch": 1, "losses": losses, "accuracy": accuracy}]}).rows
        (('a', 1, 0.5, 0.6, 80.0, 75.0),)
    """
    found = {label: records for label, records in runs.items() if _has_losses(records)}
    if not found:
        return None
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    kinds = {"losses": "loss", "accuracy": "accuracy (%)"}
    panels = figure.subplots(1, 2)
    for axes, (kind, upwards) in zip(panels, kinds.items(), strict=True):
        for colour, (label, records) in zip(colours(len(found)), found.items(), strict=True):
            curve(axes, records, _of_part(kind, "test"), readable(label), colour)
            curve(axes, records, _of_part(kind, "train"), "_", colour, "--")
        epoch_axis(axes)
        axes.set_ylabel(upwards)
    labels = [readable(label) for label in found]
    shown = [line for line in panels[0].get_lines() if line.get_linestyle() == "-"]
    figure.legend(shown, labels, loc="outside lower center", ncols=legend_columns(labels))
    return Plot(
        name="learning",
        title="Loss and accuracy over epochs",
        caption="On the test set after each epoch (solid), and over the training batches of that "
        "epoch (dashed), which are augmented and pass while the network changes.",
        figure=figure,
        columns=("run", "epoch", "train_loss", "test_loss", "train_accuracy", "test_accuracy"),
        rows=tuple(
            (label, record["epoch"], *(record[kind][part] for kind in kinds for part in _PARTS))
            for label, records in found.items()
            for record in records
        ),
    )


def _has_losses(records: Sequence[Record]) -> bool:
    return any((record.get("losses") or {}).get("test") is not None for record in records)


def _of_part(kind: str, part: str) -> Callable[[Record], float]:
    return lambda record: record[kind][part]


@drawn_in_style
def transition(runs: Mapping[str, Sequence[Record]]) -> Plot | None:
    """Draw how much weight two networks give the channels that only one of them has.

    Chen, Liu, Liu and You 2023 (arXiv 2311.16141 v3), section 6.1: the mean gain of a network's own
    channels, each in units of the mean gain of those that stay in its layer, from before the others
    are taken out until fine-tuning ends. How gains are normalised is our reading.

    Args:
        runs: metrics of two runs of one network by label, with the `gains` of some epochs.

    Returns:
        The plot, or None unless there are two runs that end with different channels.

    Example:
        >>> def record(*gains): return {"epoch": 1, "gains": {"bn1": gains}}
        >>> transition({"a": [record(1.0, 0.0, 3.0)], "b": [record(0.0, 1.0, 1.0)]}).rows
        (('a', 1, 1, 0.5), ('b', 1, 1, 1.0))
    """
    told = {label: [r for r in records if r.get("gains")] for label, records in runs.items()}
    if len(told) != 2 or not all(told.values()):
        return None
    pairs = zip(told, told.values(), reversed(told.values()), strict=True)
    rows = [row for pair in pairs for row in _of_own_channels(*pair)]
    if not rows:
        return None
    figure, (axes,) = panel_grid(1, 2.8, "gain of own channels / layer's mean")
    for colour, marker, label in zip(colours(2), MARKERS, told, strict=False):
        mine = [(epoch, share) for name, epoch, _, share in rows if name == label]
        if mine:
            axes.plot(*zip(*mine, strict=True), color=colour, marker=marker, label=readable(label))
    epoch_axis(axes)
    figure.legend(loc="outside lower center", ncols=legend_columns(list(told)))
    return Plot(
        name="transition",
        title="Gains of channels that one network has and the other has not",
        caption="Mean absolute gain of a network's channels that the other does not end with, each "
        "in units of the mean absolute gain of those that its layer ends with; first as it was "
        "before the others were taken out.",
        figure=figure,
        columns=("run", "epoch", "channels", "share_of_gain"),
        rows=tuple(rows),
    )


def _present(record: Record) -> set[tuple[str, int]]:
    """The channels, by layer and place, that pass anything."""
    gains = record["gains"].items()
    return {(name, place) for name, each in gains for place, gain in enumerate(each) if gain}


def _of_own_channels(
    label: str, records: Sequence[Record], others: Sequence[Record]
) -> list[tuple[str, int, int, float]]:
    """What own channels have in epochs with the channels of the end, and in the last one before."""
    mine = _present(records[-1])
    own = mine - _present(others[-1])
    first = next(place for place, record in enumerate(records) if _present(record) == mine)
    told = records[max(first - 1, 0) :] if own else ()
    return [(label, each["epoch"], len(own), _share_of_gain(each, own, mine)) for each in told]


def _share_of_gain(record: Record, own: set[tuple[str, int]], mine: set[tuple[str, int]]) -> float:
    """Mean gain of a network's own channels, each over the mean of what stays in its layer."""
    gains = record["gains"]
    stay = {layer: [abs(gains[name][place]) for name, place in mine if name == layer]
            for layer in {name for name, _ in own}}  # fmt: skip
    means = {layer: statistics.fmean(each) or 1.0 for layer, each in stay.items()}  # all new: 0
    return statistics.fmean(abs(gains[name][place]) / means[name] for name, place in own)
