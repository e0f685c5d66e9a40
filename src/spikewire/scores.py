"""Scores: what a synapse is worth.

A score looks at one tensor of synapses and returns a tensor of the same shape, higher for synapses
more worth having. Any function of that form is a score; `SCORES` names those below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import BeforeValidator, PlainSerializer
from torch import Tensor

from spikewire.spelling import check

if TYPE_CHECKING:
    from spikewire.pruner import Pruner
    from spikewire.synapses import Synapses


def magnitude(synapses: Synapses, pruner: Pruner) -> Tensor:
    """``|w|``: strong synapses are worth keeping (Han et al. 2015)."""
    return synapses.weight.abs()


def gradient(synapses: Synapses, pruner: Pruner) -> Tensor:
    """``|dL/dw|``, dense: where the loss asks for a connection (RigL, Evci et al. 2020)."""
    return _gradient(synapses).abs()


def saliency(synapses: Synapses, pruner: Pruner) -> Tensor:
    """``|w dL/dw|``: how much the loss would change without it (SNIP, Lee et al. 2019)."""
    return (synapses.weight * _gradient(synapses)).abs()


def chance(synapses: Synapses, pruner: Pruner) -> Tensor:
    """Uniform in [0, 1), from the pruner's seeded generator (SET, Mocanu et al. 2018).

    Drawn on the CPU, so that all devices and all ranks see the same numbers.
    """
    return torch.rand(synapses.weight.shape, generator=pruner.random).to(synapses.weight.device)


def criticality(synapses: Synapses, pruner: Pruner) -> Tensor:
    """How near to threshold the post-synaptic neuron works, the same for its whole fan-in.

    See `spikewire.observe.CriticalityProbe` for the formula. Synapses which no neuron layer follows
    (a read-out) score ``-inf``: criticality never regrows them.
    """
    channels = pruner.criticality.of(synapses.name)
    weight = synapses.weight
    if channels is None:
        return torch.full_like(weight, -torch.inf)
    return channels.to(weight).view(-1, *[1] * (weight.ndim - 1)).expand_as(weight)


criticality.observes = True  # pyright: ignore[reportFunctionMemberAccess]


def _gradient(synapses: Synapses) -> Tensor:
    if synapses.weight.grad is None:
        raise ValueError(
            f"{synapses.name} has no gradient: call loss.backward() before the optimizer's step, "
            "or use a score that needs none, such as magnitude"
        )
    return synapses.weight.grad


SCORES: dict[str, Callable[..., Tensor]] = {
    "magnitude": magnitude,
    "gradient": gradient,
    "saliency": saliency,
    "chance": chance,
    "criticality": criticality,
}


def _by_name(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    check("score", value, SCORES)
    return SCORES[value]


Score = Annotated[
    Callable[..., Tensor],
    BeforeValidator(_by_name),
    PlainSerializer(lambda score: getattr(score, "__name__", repr(score)), when_used="json"),
]
"""``(synapses, pruner) -> Tensor`` like the weight; higher is more worth having."""
