"""What every figure is made of: the `Plot`, its style, and the parts that figures share."""

import csv
import io
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
from matplotlib.ticker import MaxNLocator

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
        >>> plot = Plot("a", "Title", "Caption", Figure(), ("x", "y"), ((1, "=2"),))
        >>> print(plot.csv().splitlines()[1])
        1,'=2
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


def colours(count: int) -> list[Any]:
    """So many colours, each another."""
    if count <= len(PALETTE) + 1:
        return [*PALETTE, GREY][:count]
    ramp = matplotlib.colormaps[DEPTH]
    return [BLACK, *(ramp(0.92 * place / (count - 2)) for place in range(count - 1))]


def curve(
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
    marker = "o" if shows_marks(len(epochs)) else None
    axes.plot(epochs, values, style, color=colour, marker=marker, label=label)


def bins_of(histogram: Any) -> list[tuple[float, float, float]]:
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


def coarse(bins: Sequence[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    """Return at most `BINS` bins, each the sum of neighbours: few synapses fill no fine ones."""
    step = ceil(len(bins) / BINS)
    groups = [bins[start : start + step] for start in range(0, len(bins), step)]
    return [
        # a density, so that a last group of fewer bins is not drawn too low
        (group[0][0], group[-1][1], sum(count for *_, count in group) / len(group))
        for group in groups
    ]


def mass(bins: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    occupied = [(low, high) for low, high, count in bins if count]
    return occupied[0][0], occupied[-1][1]


def panel_grid(count: int, height: float, upwards: str) -> tuple[Figure, list[Axes]]:
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


def epoch_axis(axes: Axes) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))


def legend_columns(labels: Sequence[str]) -> int:
    """Return how many legend columns of these labels fit beside each other."""
    letters = 8 + max(map(len, labels), default=0)  # the line before a label is as wide as 8
    return max(1, min(3, 66 // letters))


def shows_marks(count: int) -> bool:
    return count <= 30


def evenly(items: Sequence[Any], count: int) -> list[Any]:
    """Return at most `count` items, evenly chosen, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(place * (len(items) - 1) / (count - 1))] for place in range(count)]


def left_out(shown: Sequence[Any], all_of_them: Sequence[Any], noun: str = "layers") -> str:
    if len(shown) == len(all_of_them):
        return ""
    return (
        f" {len(shown)} of {len(all_of_them)} {noun} are drawn, evenly chosen; "
        "the CSV has them all."
    )


def sparsity_of(layer: Record) -> float:
    return 1 - layer["alive"] / layer["synapses"] if layer["synapses"] else 0.0


def method_of(report: Record) -> str:
    return str(report.get("method", "this run"))


@cache
def _letters() -> frozenset[int]:
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def readable(name: str, longest: int = 22) -> str:
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
