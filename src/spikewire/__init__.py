"""spikewire: prune deep spiking neural networks, in place, in your own training loop."""

from spikewire.masks import apply_masks, choose
from spikewire.measure import measure
from spikewire.methods import (
    GMP,
    METHODS,
    NDSNN,
    SET,
    SNIP,
    STDS,
    ChenDeepR,
    Criticality,
    DeepR,
    Dense,
    GradR,
    GraNet,
    OneShot,
    Prune,
    ReleasedCriticality,
    Rewire,
    RigL,
    SoftDeepR,
)
from spikewire.observe import watch
from spikewire.pruner import Method, Pruner
from spikewire.schedules import Constant, Cosine, Cubic, Linear, Steps
from spikewire.synapses import Synapses
from spikewire.train import fit
from spikewire.weights import split, synaptic_weights

__all__ = [
    "GMP",
    "METHODS",
    "NDSNN",
    "SET",
    "SNIP",
    "STDS",
    "ChenDeepR",
    "Constant",
    "Cosine",
    "Criticality",
    "Cubic",
    "DeepR",
    "Dense",
    "GraNet",
    "GradR",
    "Linear",
    "Method",
    "OneShot",
    "Prune",
    "Pruner",
    "ReleasedCriticality",
    "Rewire",
    "RigL",
    "SoftDeepR",
    "Steps",
    "Synapses",
    "apply_masks",
    "choose",
    "fit",
    "measure",
    "split",
    "synaptic_weights",
    "watch",
]
