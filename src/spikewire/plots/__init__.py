"""Figures, drawn from the records of runs alone.

Each function takes parsed metrics (one mapping per epoch) or reports and returns a `Plot`: a
figure, a caption in words, and the numbers behind it. The same records give the same bytes.
Nothing here uses the global state of matplotlib, so figures may be drawn inside any program.
"""

from spikewire.plots.features import classes, consistency, entropy, learning, transition
from spikewire.plots.figure import Plot
from spikewire.plots.run import (
    accuracy,
    connectivity,
    figures,
    firing,
    rewiring,
    sparsity,
    thetas,
    weights,
)
from spikewire.plots.runs import (
    QUANTITIES,
    Quantity,
    bars,
    connectivities,
    costs,
    courses,
    distributions,
    frontier,
    mean_and_spread,
    rates,
    ratios,
    tradeoff,
)

__all__ = [
    "QUANTITIES",
    "Plot",
    "Quantity",
    "accuracy",
    "bars",
    "classes",
    "connectivities",
    "connectivity",
    "consistency",
    "costs",
    "courses",
    "distributions",
    "entropy",
    "figures",
    "firing",
    "frontier",
    "learning",
    "mean_and_spread",
    "rates",
    "ratios",
    "rewiring",
    "sparsity",
    "thetas",
    "tradeoff",
    "transition",
    "weights",
]
