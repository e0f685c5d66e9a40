"""spikewire: prune deep spiking neural networks, in place, in your own training loop."""

from spikewire.compact import compact
from spikewire.lottery import lottery
from spikewire.masks import apply_masks, choose
from spikewire.measure import measure
from spikewire.methods import (
    ESL,
    GMP,
    ITOP,
    METHODS,
    NDSNN,
    SCA,
    SET,
    SNIP,
    STDS,
    APoZ,
    ChenDeepR,
    Criticality,
    DeepR,
    Dense,
    GradR,
    GraNet,
    GReg1,
    GReg2,
    OneShot,
    Prune,
    ReleasedCriticality,
    Rewire,
    RigL,
    Slim,
    SlimCriticality,
    SoftDeepR,
    Ticket,
)
from spikewire.observe import watch
from spikewire.pruner import Method, Pruner
from spikewire.schedules import Constant, Cosine, Cubic, Linear, Steps
from spikewire.synapses import Synapses
from spikewire.train import fit
from spikewire.weights import split, synaptic_weights

__all__ = [
    "ESL",
    "GMP",
    "ITOP",
    "METHODS",
    "NDSNN",
    "SCA",
    "SET",
    "SNIP",
    "STDS",
    "APoZ",
    "ChenDeepR",
    "Constant",
    "Cosine",
    "Criticality",
    "Cubic",
    "DeepR",
    "Dense",
    "GReg1",
    "GReg2",
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
    "Slim",
    "SlimCriticality",
    "SoftDeepR",
    "Steps",
    "Synapses",
    "Ticket",
    "apply_masks",
    "choose",
    "compact",
    "fit",
    "lottery",
    "measure",
    "split",
    "synaptic_weights",
    "watch",
]
