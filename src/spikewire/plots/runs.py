"""Figures of several runs beside each other, drawn from their records alone."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

from spikewire.plots.figure import (
    GREY,
    MARKERS,
    PALETTE,
    WIDTH,
    Plot,
    Record,
    drawn_in_style,
    legend_columns,
    method_of,
    readable,
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
    figure.legend(handles, labels, loc="outside lower center", ncols=legend_columns(labels))
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
