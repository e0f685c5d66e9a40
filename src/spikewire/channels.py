"""Channels: what normalisations pass on, and what one of them is worth.

A channel is taken out by a gain and a bias of 0 in its normalisation: it is silent from there on,
and `compact` leaves it out of the network. What is worth keeping is said by functions of the pruner
that give scores by the normalisation's name; those below are in `CHANNEL_SCORES`. One that looks at
neurons has an attribute ``looks = True``: it is tried on one batch before any training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from pydantic import BeforeValidator, PlainSerializer
from torch import Tensor, nn

from spikewire import distributed
from spikewire.compact import Outline
from spikewire.dialects import reset
from spikewire.measure import pairs, testing
from spikewire.observe import Layer, over_map, watch
from spikewire.spelling import check, parse, spell
from spikewire.surrogates import SURROGATES, Arctan, Surrogate

if TYPE_CHECKING:
    from spikewire.pruner import Pruner


@dataclass(eq=False)
class Channels:
    """The channels of one normalisation.

    Attributes:
        name: of the normalisation, as in ``model.get_submodule``.
        gain, bias: its parameters (C,), exactly 0 where ``mask`` is False.
        mask: bool (C,), True for the channels that are there.
        behind: the layer whose output channels it normalises; None where it normalises a sum.
        ahead: the neuron layer that its channels reach first; None if none does.
        state: tensors of the method, saved with the pruner.
    """

    name: str
    gain: nn.Parameter
    bias: nn.Parameter
    mask: Tensor
    behind: str | None
    ahead: str | None
    state: dict[str, Tensor]

    @torch.no_grad()
    def enforce(self) -> None:
        """Make gain and bias exactly 0 where the channel is out."""
        self.gain.mul_(self.mask)
        self.bias.mul_(self.mask)


def channels_of(model: nn.Module, example: Tensor) -> list[Channels]:
    """All channels of a network that a normalisation can take out, in the order of the network.

    Normalisations whose channels cannot leave the network, such as those of a read-out, are left
    out.

    Args:
        model: a network that `compact` can trace.
        example: a batch of its inputs.

    Raises:
        ValueError: if it cannot be traced, or has no batch normalisation with gains and biases.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1))
    >>> [(c.name, c.behind, len(c.mask)) for c in channels_of(net, torch.rand(1, 1, 4, 4))]
    [('1', '0', 2)]
    """
    found = []
    places = Outline(model, example).normalisations()
    for place in places:
        norm: Any = model.get_submodule(place.name)
        if norm.affine and place.free:
            mask = torch.ones_like(norm.weight, dtype=torch.bool)
            found.append(
                Channels(place.name, norm.weight, norm.bias, mask, place.behind, place.ahead, {})
            )
    if not found:
        raise ValueError(_nothing_free([place.name for place in places]))
    return found


def _nothing_free(norms: list[str]) -> str:
    if not norms:
        return (
            "the model has no batch normalisation: methods that take out channels do so there; "
            "prune synapses instead, for example with GMP"
        )
    return (
        f"no channel of {', '.join(norms)} can leave the network: they have no gains, or something "
        "that compact does not understand takes all their channels; a layer of your own that "
        "does nothing across channels may say keeps_channels = True"
    )


def survey(
    model: nn.Module,
    batches: Iterable[Any],
    look: Callable[[Layer], Tensor],
    *,
    membranes: bool = False,
) -> dict[str, Tensor]:
    """What is seen in each neuron layer on average over samples, in evaluation mode.

    Args:
        model: the network; it is left at rest.
        batches: of inputs, or of pairs of inputs and labels.
        look: gives (B, C) for a layer that was just run.
        membranes: whether it looks at membrane potentials.

    Raises:
        ValueError: if there are no batches, or as `watch`.

    >>> from spikewire.nets import tiny
    >>> seen = survey(tiny(T=2), [torch.rand(3, 1, 8, 8)], fired)
    >>> seen["lif1"].shape
    torch.Size([16])
    """
    sums: dict[str, Tensor] = {}
    samples = 0
    device = next(model.parameters()).device
    with testing(model), watch(model, membranes=membranes) as layers:
        for inputs, _ in pairs(batches):
            model(inputs.to(device))
            seen = {name: look(layer) for name, layer in layers.items() if layer.heard}
            for name, values in seen.items():
                sums[name] = sums.get(name, 0.0) + values.double().sum(0)
            samples += max(len(values) for values in seen.values())
            reset(model)
    if not samples:
        raise ValueError("data has no batches: give a DataLoader, or a list of batches")
    return {name: distributed.mean(total, samples) for name, total in sums.items()}


# --- what a neuron layer shows --------------------------------------------------------------------


def fired(layer: Layer) -> Tensor:
    """Spikes per neuron and time step (B, C)."""
    return over_map(layer.spikes.float().mean(0), 2, "mean")


def charged(layer: Layer) -> Tensor:
    """Absolute membrane potential before reset (B, C)."""
    return over_map(layer.membranes.float().abs().mean(0), 2, "mean")


# --- scores ---------------------------------------------------------------------------------------


def gain(pruner: Pruner) -> dict[str, Tensor]:
    """``|gamma|``: what a normalisation multiplies a channel with.

    Liu et al. 2017 (network slimming, arXiv 1708.06519).
    """
    return {c.name: c.gain.abs() for c in pruner.channels}


def gradient(pruner: Pruner) -> dict[str, Tensor]:
    """``|dL/dgamma|``, of silent channels too: where the loss asks for one.

    Li et al. 2024 (SCA, arXiv 2406.01072).

    Raises:
        ValueError: if a gain has no gradient.
    """
    scores = {}
    for channels in pruner.channels:
        if channels.gain.grad is None:
            raise ValueError(
                f"the gains of {channels.name} have no gradient: call loss.backward() before the "
                "optimizer's step, or use a score that needs none, such as gain"
            )
        scores[channels.name] = channels.gain.grad.abs()
    return scores


def chance(pruner: Pruner) -> dict[str, Tensor]:
    """Uniform in [0, 1), from the pruner's seeded generator."""
    return {
        c.name: torch.rand(c.mask.shape, generator=pruner.random).to(c.gain)
        for c in pruner.channels
    }


def strength(pruner: Pruner) -> dict[str, Tensor]:
    """Mean ``|w|`` of the filter that makes a channel; normalised sums have none.

    Li et al. 2017 (arXiv 1608.08710); Wang et al. 2021 (GReg, arXiv 2012.09243).
    """
    return {
        c.name: filters(pruner, c).detach().abs().flatten(1).mean(1)
        for c in pruner.channels
        if c.behind is not None
    }


def filters(pruner: Pruner, channels: Channels) -> nn.Parameter:
    """The weights that make these channels, (C, ...)."""
    return pruner.model.get_parameter(f"{channels.behind}.weight")


def activity(pruner: Pruner) -> dict[str, Tensor]:
    """Spikes per neuron and time step over the data: 1 - APoZ, the share of zeros.

    Hu et al. 2016 (arXiv 1607.03250).
    """
    return _ahead(pruner, pruner.survey(fired))


activity.looks = True  # pyright: ignore[reportFunctionMemberAccess]


def potential(pruner: Pruner) -> dict[str, Tensor]:
    """Mean absolute membrane potential before reset over the data.

    Li et al. 2024 (SCA, arXiv 2406.01072).
    """
    return _ahead(pruner, pruner.survey(charged, membranes=True))


potential.looks = True  # pyright: ignore[reportFunctionMemberAccess]


@dataclass(frozen=True)
class ChannelCriticality:
    """How near to threshold a channel's neurons work, over the data.

    ``mean over t of h'(u_t - v_th)`` with the pre-reset membrane potential u, the threshold v_th
    and a surrogate h; then the largest of the channel's map; then the mean over samples. Chen, Liu,
    Liu and You 2023 (arXiv 2311.16141 v3), Eq. 13 and Algorithm 2.

    Args:
        surrogate: h, as of `scores.CriticalityScore`.
        over: "max" or "mean", of a channel's map.

    Raises:
        ValueError: if ``over`` is neither.
    """

    surrogate: Surrogate = Arctan()
    over: str = "max"
    looks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check("way to take a map together", self.over, ("max", "mean"))

    def __call__(self, pruner: Pruner) -> dict[str, Tensor]:
        return _ahead(pruner, pruner.survey(self.near, membranes=True))

    def near(self, layer: Layer) -> Tensor:
        """Criticality of the channels of a layer that was just run (B, C)."""
        slopes = self.surrogate.slope(layer.distance.float())  # (T, B, C, ...)
        return over_map(slopes.mean(0), 2, self.over)


criticality = ChannelCriticality()


def _ahead(pruner: Pruner, seen: dict[str, Tensor]) -> dict[str, Tensor]:
    """What was seen in the neuron layer that each normalisation feeds."""
    scores = {
        c.name: seen[c.ahead].to(c.gain)
        for c in pruner.channels
        if c.ahead is not None and len(seen[c.ahead]) == len(c.mask)
    }
    if not scores:
        raise ValueError(
            f"{', '.join(c.name for c in pruner.channels)}: no neuron layer receives these "
            "channels as they are; use a score that looks at no neurons, such as gain"
        )
    return scores


CHANNEL_SCORES: dict[str, Any] = {
    "gain": gain,
    "gradient": gradient,
    "chance": chance,
    "strength": strength,
    "activity": activity,
    "potential": potential,
    "criticality": ChannelCriticality,
}

_WORDS = CHANNEL_SCORES | SURROGATES

ChannelScore = Annotated[
    Callable[..., dict[str, Tensor]],
    BeforeValidator(lambda text: parse("channel score", text, CHANNEL_SCORES, SURROGATES)),
    PlainSerializer(lambda score: spell(score, _WORDS), when_used="json"),
]
"""``pruner -> {normalisation: scores (C,)}``; higher is better, what is not named is left alone."""
