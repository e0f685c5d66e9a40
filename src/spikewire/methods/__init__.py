"""Methods: how connections come and go.

Each is a frozen dataclass whose fields are its hyperparameters: the object is the configuration,
the record and the algorithm.
"""

from __future__ import annotations

from spikewire.methods.admm import ADMM
from spikewire.methods.deepr import ChenDeepR, DeepR, SoftDeepR
from spikewire.methods.dense import Dense
from spikewire.methods.freeze import Freeze
from spikewire.methods.gates import UPF
from spikewire.methods.hidden import STDS, GradR
from spikewire.methods.minimax import Minimax
from spikewire.methods.penalty import GReg1, GReg2
from spikewire.methods.prune import GMP, SNIP, OneShot, Prune
from spikewire.methods.rewire import (
    ESL,
    ITOP,
    NDSNN,
    SET,
    Criticality,
    GraNet,
    ReleasedCriticality,
    Rewire,
    RigL,
)
from spikewire.methods.slim import SCA, APoZ, Slim, SlimCriticality
from spikewire.methods.survival import DPAP
from spikewire.methods.threshold import AdaptiveThreshold, Progressive, Threshold
from spikewire.methods.ticket import Ticket
from spikewire.pruner import Method

METHODS: dict[str, type[Method]] = {
    "dense": Dense,
    "ticket": Ticket,
    "one-shot": OneShot,
    "gmp": GMP,
    "snip": SNIP,
    "prune": Prune,
    "set": SET,
    "rigl": RigL,
    "itop": ITOP,
    "esl": ESL,
    "granet": GraNet,
    "ndsnn": NDSNN,
    "criticality": Criticality,
    "criticality-released": ReleasedCriticality,
    "rewire": Rewire,
    "dpap": DPAP,
    "threshold": Threshold,
    "adaptive-threshold": AdaptiveThreshold,
    "progressive": Progressive,
    "freeze": Freeze,
    "gradr": GradR,
    "stds": STDS,
    "upf": UPF,
    "admm": ADMM,
    "minimax": Minimax,
    "deepr": DeepR,
    "soft-deepr": SoftDeepR,
    "deepr-chen": ChenDeepR,
    "slim": Slim,
    "slim-criticality": SlimCriticality,
    "apoz": APoZ,
    "sca": SCA,
    "greg-1": GReg1,
    "greg-2": GReg2,
}
"""Every method under its command-line name."""

__all__ = [
    "ADMM",
    "DPAP",
    "ESL",
    "GMP",
    "ITOP",
    "METHODS",
    "NDSNN",
    "SCA",
    "SET",
    "SNIP",
    "STDS",
    "UPF",
    "APoZ",
    "AdaptiveThreshold",
    "ChenDeepR",
    "Criticality",
    "DeepR",
    "Dense",
    "Freeze",
    "GReg1",
    "GReg2",
    "GraNet",
    "GradR",
    "Minimax",
    "OneShot",
    "Progressive",
    "Prune",
    "ReleasedCriticality",
    "Rewire",
    "RigL",
    "Slim",
    "SlimCriticality",
    "SoftDeepR",
    "Threshold",
    "Ticket",
]
