"""Ticket: a mask that is given and held, for networks that were pruned before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from spikewire.pruner import Method, Pruner


@dataclass(frozen=True)
class Ticket(Method):
    """Hold a given mask: train the synapses that are there, and no other.

    ``m = possible`` where the pruner was told what is possible, and ``m = [w != 0]`` of the first
    weights elsewhere. To fine-tune a pruned network, load its weights first; to train a lottery
    ticket, give its masks as ``possible``. Frankle and Carbin 2019 (arXiv 1803.03635).

    >>> import torch
    >>> from torch import nn
    >>> net = nn.Linear(2, 1)
    >>> with torch.no_grad():
    ...     _ = net.weight.copy_(torch.tensor([[0.0, 1.0]]))
    >>> Pruner(net, Ticket(), torch.optim.Adam(net.parameters()), steps=100).masks
    {'weight': tensor([[False,  True]])}
    """

    source: ClassVar[str] = "Frankle & Carbin 2019, arXiv 1803.03635"
    sparsity_is: ClassVar[str] = "as given"

    def start(self, pruner: Pruner) -> None:
        for s in pruner:
            s.mask = s.weight != 0 if s.possible is None else s.possible
