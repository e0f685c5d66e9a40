"""Scores: what a synapse is worth.

A score looks at one tensor of synapses and returns a tensor of the same shape, higher for synapses
more worth having. Any function of that form is a score; `SCORES` names those below.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from pydantic import BeforeValidator, PlainSerializer
from torch import Tensor

from spikewire.spelling import check, parse, spell
from spikewire.surrogates import SURROGATES, Arctan, Surrogate, Tanh

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


def momentum(synapses: Synapses, pruner: Pruner) -> Tensor:
    """The optimizer's running mean of the gradient, absolute, of pruned synapses too.

    Dettmers and Zettlemoyer 2019 (sparse momentum, arXiv 1907.04840), who share growth among layers
    by it as well. Of Adam the first moment, of SGD the momentum. `Pruner.still` hides the gradients
    of pruned synapses from it.

    Args:
        synapses: weights of any shape, moved by an optimizer with momentum; the scores have the
            same shape, and are 0 or more.
        pruner: knows the optimizer.

    Raises:
        ValueError: if the optimizer keeps no such mean.
    """
    return pruner.momentum(synapses).abs()


def lamp(synapses: Synapses, pruner: Pruner) -> Tensor:
    """``w_i^2 / sum of w_j^2 over |w_j| >= |w_i|``, within its tensor: ranks a whole network.

    How much of what is left of the tensor would go with this synapse, once all weaker ones are
    gone. The strongest synapse of each tensor scores 1, so none dies out. Equal ones count as
    stronger by position. Lee et al. 2021 (LAMP, arXiv 2010.07611), Eq. 2.

    Args:
        synapses: weights of any shape; the scores have the same, within [0, 1].
        pruner: not used.

    >>> from spikewire.synapses import Synapses
    >>> synapses = Synapses("weight", torch.nn.Linear(3, 1).weight)
    >>> with torch.no_grad():
    ...     _ = synapses.weight.copy_(torch.tensor([[3.0, -1.0, 4.0]]))
    >>> [round(score, 3) for score in lamp(synapses, None)[0].tolist()]
    [0.36, 0.038, 1.0]
    """
    return _share_of_what_is_left(synapses.weight.double().square())


@dataclass(frozen=True)
class SpikingLampScore:
    """`lamp` of ``w^2 E[x^2]``: the part of what a layer adds to potentials that goes with it.

    ``E[x^2]`` is over samples, places and time steps; of spikes it is their rate. Layer-adaptive
    pruning generalised to distortion over time is due to Wang et al. 2026 (SLAMP, arXiv
    2603.14946). Only their abstract was at hand: that all time steps weigh the same is our reading,
    and real-valued inputs count with their mean absolute value. Where a layer's inputs are not
    known by channel (grouped convolutions), it is `lamp`.

    As a score it takes weights (C_out, C_in, ...) and gives scores of the same shape, within
    [0, 1]; it raises ValueError if no forward pass was heard.
    """

    observes: ClassVar[bool] = True
    inputs: ClassVar[bool] = True
    over: ClassVar[str] = "mean"

    def quantities(self) -> tuple[Callable[[Tensor], Tensor], ...]:
        """Nothing of membrane potentials."""
        return ()

    def __call__(self, synapses: Synapses, pruner: Pruner) -> Tensor:
        squares = synapses.weight.double().square()
        return _share_of_what_is_left(_of_inputs(squares, pruner.criticality.inputs(synapses.name)))


@dataclass(frozen=True)
class SynOpsScore:
    """``|w| / uses^power``: magnitude, the less worth the more operations a synapse takes.

    Uses are the spikes that a synapse of the tensor meets per sample, over places and time steps,
    measured at the event on the first batch of the pruner's ``data``. With ``power=0`` this is
    `magnitude`, with 1 magnitude per operation. Ours; compare `shares.compute`.

    Args:
        power: how much operations count, 0 or more.

    Raises:
        ValueError: if the power is negative.
    """

    power: float = 0.5
    measures: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.power >= 0.0:
            raise ValueError(f"power={self.power!r}: give how much operations count, 0 or more")

    def __call__(self, synapses: Synapses, pruner: Pruner) -> Tensor:
        found = pruner.uses().get(synapses.name)
        if found is None:
            raise ValueError(
                f"score=synops: {synapses.name} belongs to no linear or convolutional layer, so "
                "that its operations are not counted: leave it out with only=..."
            )
        least = found.always * torch.finfo(torch.float32).eps  # a silent layer's are not free
        return synapses.weight.abs() / max(found.met, least) ** self.power


@dataclass(frozen=True)
class CriticalityScore:
    """How near to threshold the post-synaptic neuron works, the same for its whole fan-in.

    ``mean over t of h'(u_t - v_th)`` with the pre-reset membrane potential u, the threshold v_th
    and a surrogate h; then the largest of a channel's map; then the mean over samples. Synapses
    which no neuron layer follows (a read-out) score ``-inf``: criticality never regrows them. Chen,
    Liu, Liu and You 2023 (arXiv 2311.16141 v3), Eq. 13. Their released code ranks by h itself, the
    hyperbolic tangent: `primitive`.

    Args:
        surrogate: h. It does not follow the network's own: of one trained with tanh give `Tanh()`.
        primitive: rank by h instead of its slope, so that a neuron far above threshold counts most.
        over: "max" or "mean", of a channel's map.

    Raises:
        ValueError: if ``over`` is neither.

    As a score it takes weights (C_out, ...) and gives scores of the same shape, 0 or more, or
    ``-inf``; it raises ValueError if no forward pass was heard. Where more synapses score 0 than
    are to be chosen, as with `Tanh` far from the threshold, those of the first tensors are.

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

    surrogate: Surrogate = Arctan()
    primitive: bool = False
    over: str = "max"
    observes: ClassVar[bool] = True
    inputs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check("way to take a map together", self.over, ("max", "mean"))

    def quantities(self) -> tuple[Callable[[Tensor], Tensor], ...]:
        """What to average, of a membrane potential's distance from the threshold."""
        return (self.surrogate.value if self.primitive else self.surrogate.slope,)

    def __call__(self, synapses: Synapses, pruner: Pruner) -> Tensor:
        return _of_outputs(synapses, pruner, pruner.criticality.of(synapses.name))


@dataclass(frozen=True)
class DensityScore:
    """How probable a spike on this synapse is, times how probable it finds the neuron at threshold.

    ``rate(pre) N(0 | mean(u - v_th), var(u))``: membrane potentials of a channel are taken to be
    normal over samples, places and time. Yao et al. ("Probabilistic modeling", firing-probability
    criterion for lottery tickets) rank living synapses by it times ``|w gamma| / sigma``, with gain
    and deviation of the normalisation between; a pruned synapse has no w, so that factor is left
    out here. Real-valued inputs count with their mean absolute value.

    As a score it takes weights (C_out, C_in, ...) and gives scores of the same shape, >= 0 or
    ``-inf``, as `CriticalityScore`.

    >>> import spikewire
    >>> from spikingjelly.activation_based import neuron
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False), neuron.IFNode())
    >>> with torch.no_grad():
    ...     _ = net[0].weight.copy_(torch.tensor([[1.0, 0.5]]))
    >>> pruner = spikewire.Pruner(net, spikewire.Prune(0.5, score=density), steps=1)
    >>> spikes = net(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    >>> scores = density(next(iter(pruner)), pruner)
    >>> round(float(scores[0, 0] / scores[0, 1]), 6)
    2.0
    """

    observes: ClassVar[bool] = True
    inputs: ClassVar[bool] = True
    over: ClassVar[str] = "mean"

    def quantities(self) -> tuple[Callable[[Tensor], Tensor], ...]:
        """What to average, of a membrane potential's distance from the threshold."""
        return torch.Tensor.double, lambda distance: distance.double().square()

    def __call__(self, synapses: Synapses, pruner: Pruner) -> Tensor:
        moments = pruner.criticality.means(synapses.name)
        if moments is None:
            return torch.full_like(synapses.weight, -torch.inf)
        mean, square = moments
        variance = (square - mean**2).clamp(min=torch.finfo(torch.float32).eps)
        density = (-(mean**2) / (2 * variance)).exp() / (2 * math.pi * variance).sqrt()
        scores = _of_outputs(synapses, pruner, density)
        return _of_inputs(scores, pruner.criticality.inputs(synapses.name))


criticality = CriticalityScore()
primitive = CriticalityScore(Tanh(), primitive=True)
density = DensityScore()
slamp = SpikingLampScore()
synops = SynOpsScore()


def _of_outputs(synapses: Synapses, pruner: Pruner, channels: Tensor | None) -> Tensor:
    """The same score for the whole fan-in of a channel; -inf where none is known."""
    weight = synapses.weight
    if channels is None:
        return torch.full_like(weight, -torch.inf)
    place = pruner.criticality.outputs(synapses.name)
    alone = channels.to(weight).view(-1, *[1] * (weight.ndim - 1)).movedim(0, place)
    return alone.expand_as(weight)


def _of_inputs(scores: Tensor, rates: Tensor | None) -> Tensor:
    """Times the rate of the input channel, where it is known."""
    if rates is None or len(rates) != scores.shape[1]:
        return scores
    return scores * rates.to(scores).view(1, -1, *[1] * (scores.ndim - 2))


def _share_of_what_is_left(squares: Tensor) -> Tensor:
    """Each entry over the sum of itself and all larger ones; 0 stays 0."""
    rising, order = squares.flatten().sort(stable=True)
    left = rising.flip(0).cumsum(0).flip(0)
    shares = torch.where(rising == 0, 0.0, rising / left)
    return torch.empty_like(shares).scatter_(0, order, shares).view(squares.shape)


def _gradient(synapses: Synapses) -> Tensor:
    if synapses.weight.grad is None:
        raise ValueError(
            f"{synapses.name} has no gradient: call loss.backward() before the optimizer's step, "
            "or use a score that needs none, such as magnitude"
        )
    return synapses.weight.grad


SCORES: dict[str, Any] = {
    "magnitude": magnitude,
    "gradient": gradient,
    "saliency": saliency,
    "momentum": momentum,
    "chance": chance,
    "lamp": lamp,
    "slamp": SpikingLampScore,
    "synops": SynOpsScore,
    "primitive": primitive,
    "density": DensityScore,
    "criticality": CriticalityScore,
}

_WORDS = SCORES | SURROGATES

Score = Annotated[
    Callable[..., Tensor],
    BeforeValidator(lambda text: parse("score", text, SCORES, SURROGATES)),
    PlainSerializer(lambda score: spell(score, _WORDS), when_used="json"),
]
"""``(synapses, pruner) -> Tensor`` like the weight; higher is more worth having."""
