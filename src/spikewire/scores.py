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
    """``|w|``: strong synapses are worth keeping.

    Han et al. 2015 (arXiv 1506.02626).

    Args:
        synapses: weights of any shape; the scores have the same, and are 0 or more.
        pruner: not used.

    >>> from spikewire.synapses import Synapses
    >>> synapses = Synapses("weight", torch.nn.Linear(2, 1).weight)
    >>> with torch.no_grad():
    ...     _ = synapses.weight.copy_(torch.tensor([[0.5, -2.0]]))
    >>> magnitude(synapses, None).tolist()
    [[0.5, 2.0]]
    """
    return synapses.weight.abs()


def gradient(synapses: Synapses, pruner: Pruner) -> Tensor:
    """``|dL/dw|``, of pruned synapses too: where the loss asks for one.

    Evci et al. 2020 (RigL, arXiv 1911.11134).

    Args:
        synapses: weights of any shape with their dense gradient; the scores have the same shape,
            and are 0 or more.
        pruner: not used.

    Raises:
        ValueError: if the weights have no gradient.

    >>> from spikewire.synapses import Synapses
    >>> synapses = Synapses("weight", torch.nn.Linear(2, 1).weight)
    >>> synapses.weight.grad = torch.tensor([[3.0, -1.0]])
    >>> gradient(synapses, None).tolist()
    [[3.0, 1.0]]
    """
    return _gradient(synapses).abs()


def saliency(synapses: Synapses, pruner: Pruner) -> Tensor:
    """``|w dL/dw|``: how much the loss would change without it, to first order.

    Lee et al. 2019 (SNIP, arXiv 1810.02340), there divided by the sum over the network, which
    leaves the ranking as it is.

    Args:
        synapses: weights of any shape with their dense gradient; the scores have the same shape,
            and are 0 or more.
        pruner: not used.

    Raises:
        ValueError: if the weights have no gradient.

    >>> from spikewire.synapses import Synapses
    >>> synapses = Synapses("weight", torch.nn.Linear(2, 1).weight)
    >>> with torch.no_grad():
    ...     _ = synapses.weight.copy_(torch.tensor([[0.5, -2.0]]))
    >>> synapses.weight.grad = torch.tensor([[3.0, -1.0]])
    >>> saliency(synapses, None).tolist()
    [[1.5, 2.0]]
    """
    return (synapses.weight * _gradient(synapses)).abs()


def chance(synapses: Synapses, pruner: Pruner) -> Tensor:
    """Uniform in [0, 1), from the pruner's seeded generator.

    Drawn on the CPU, so that all devices and all ranks see the same numbers. Mocanu et al. 2018
    (SET, arXiv 1707.04780).

    Args:
        synapses: weights of any shape; the scores have the same, in float32.
        pruner: its ``random`` moves on by one draw for each weight.

    >>> import spikewire
    >>> pruner = spikewire.Pruner(torch.nn.Linear(4, 4), spikewire.Dense(), steps=1)
    >>> scores = chance(next(iter(pruner)), pruner)
    >>> scores.shape, bool(((scores >= 0) & (scores < 1)).all())
    (torch.Size([4, 4]), True)
    """
    return torch.rand(synapses.weight.shape, generator=pruner.random).to(synapses.weight.device)


def criticality(synapses: Synapses, pruner: Pruner) -> Tensor:
    """How near to threshold the post-synaptic neuron works, the same for its whole fan-in.

    ``mean over t of 1 / (1 + (pi (u_t - v_th))^2)`` with the pre-reset membrane potential u and the
    threshold v_th; `spikewire.observe.CriticalityProbe` says how channels and samples are taken
    together. Synapses which no neuron layer follows (a read-out) score ``-inf``: criticality never
    regrows them. Chen, Liu, Liu and You 2023 (arXiv 2311.16141 v3), Eq. 13.

    Args:
        synapses: weights (C_out, ...); the scores have the same shape, in (0, 1] or ``-inf``.
        pruner: its ``criticality`` heard the forward passes of the step.

    Raises:
        ValueError: if no score of the pruner's method observes, or no forward pass was heard.

    >>> import spikewire
    >>> from spikingjelly.activation_based import neuron
    >>> net = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False), neuron.LIFNode(tau=2.0))
    >>> with torch.no_grad():
    ...     _ = net[0].weight.copy_(torch.tensor([[2.0], [1.0]]))
    >>> pruner = spikewire.Pruner(net, spikewire.Prune(0.5, score=criticality), steps=1)
    >>> spikes = net(torch.ones(1, 1))  # potentials 1 and 0.5, threshold 1
    >>> criticality(next(iter(pruner)), pruner)
    tensor([[1.0000],
            [0.2884]])
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
