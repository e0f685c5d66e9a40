"""Dense: prune nothing, the twin that every pruned network is measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from spikewire.pruner import Method


@dataclass(frozen=True)
class Dense(Method):
    """Leave all synapses where they are: training as it would be without pruning."""

    sparsity_is: ClassVar[str] = "none"
