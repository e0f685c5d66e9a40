"""Slim: take out channels, whole filters with all that listens to them.

What is left is a smaller network of the same kind, which `spikewire.compact` makes: it needs no
sparse arithmetic to be faster. What the methods of this family share, choosing, taking out and
bringing back, is longer than what sets them apart, so they stand in one file.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from spikewire.channels import (
    ChannelScore,
    activity,
    chance,
    criticality,
    gain,
    gradient,
    potential,
)
from spikewire.masks import choose
from spikewire.methods.checks import (
    check_channel_score,
    check_churn,
    check_every,
    check_not_negative,
    check_rise,
    check_share,
    warn_if_no_event,
)
from spikewire.methods.prune import reaches
from spikewire.methods.rewire import without
from spikewire.pruner import Method, Pruner
from spikewire.schedules import Cosine, Cubic, Schedule, at
from spikewire.shares import Share, counts, uniform

# How near to the wanted share of operations a number of channels is looked for.
_HALVINGS = 10


@dataclass(frozen=True)
class TakeOut(Method):
    """Take out the channels that are worth least; its children say what that is, and when.

    Args:
        sparsity: share of the channels that are out at the end, [0, 1). Counted are the channels
            that the score knows.
        operations: share of the multiplications to save, [0, 1). Above 0, channels go until that
            much is saved, whatever their number: for comparisons at equal cost.
        drop: channels of lowest score go.
        churn: share of those that stay which is chosen by ``grow`` instead of ``drop``, [0, 1).
        grow: channels of highest score come back.
        share: how sparsity is spread over normalisations; None for one ranking over the network.
        until: progress at which the network has its final channels, (0, 1); training after that is
            fine-tuning.

    Raises:
        ValueError: if one of them is out of its range.
    """

    structured: ClassVar[bool] = True
    sparsity_is: ClassVar[str] = "exact, of channels"
    needs_data: ClassVar[bool] = True

    sparsity: float = 0.5
    operations: float = 0.0
    drop: ChannelScore = gain
    churn: Schedule | float = 0.0
    grow: ChannelScore = chance
    share: Share = None
    until: float = 0.5

    def __post_init__(self) -> None:
        check_rise(0.0, self.sparsity)
        check_channel_score("drop", self.drop)
        check_channel_score("grow", self.grow)
        check_share(self.share)
        check_churn(self.churn)
        if getattr(self.share, "measures", False):
            name = getattr(self.share, "__name__", repr(self.share))
            raise ValueError(
                f"share={name} counts operations of synapses: give one that asks for shapes only, "
                "such as uniform, or operations=..., the share of multiplications to save"
            )
        if not 0.0 < self.until < 1.0:
            raise ValueError(
                f"until={self.until}: give the progress at which channels are out, in (0, 1)"
            )
        if not 0.0 <= self.operations < 1.0:
            raise ValueError(
                f"operations={self.operations}: give the share of multiplications to save, in "
                "(0, 1), or 0 to go by sparsity"
            )

    def start(self, pruner: Pruner) -> None:
        if self.until > (pruner.steps - 1) / pruner.steps:
            warnings.warn(
                f"until={self.until} comes after the last of {pruner.steps} steps: no channel will "
                "be taken out; give an earlier one, or more steps",
                stacklevel=5,
            )
        for score in (self.drop, self.grow) if self.churn else (self.drop,):
            if getattr(score, "looks", False):
                pruner.rehearse(score)
        if self.operations:
            self._refuse_too_much(pruner)

    def _refuse_too_much(self, pruner: Pruner) -> None:
        floor, ranked = self.floor(pruner), self._ranked(pruner)
        masks = {c.name: c.mask for c in pruner.channels if c.name in ranked}
        least = {name: torch.arange(len(mask)) < floor for name, mask in masks.items()}
        if (most := pruner.outline().saving(least)) >= self.operations:
            return
        spared = len(pruner.channels) - len(least)
        alone = f", as {spared} others are left alone" if spared else ""
        raise ValueError(
            f"operations={self.operations}: with {floor} left of each normalisation's channels "
            f"{most:.3f} of them are saved{alone}; ask for less"
        )

    def _ranked(self, pruner: Pruner) -> set[str]:
        """Normalisations whose channels may go: those that ``drop`` says something of."""
        ranked: set[str] = set()
        try:
            pruner.rehearse(lambda pruner: ranked.update(self.drop(pruner)))
        except ValueError:  # it asks for a gradient, which nothing has before training
            return {c.name for c in pruner.channels}
        return ranked

    def event(self, pruner: Pruner) -> bool:
        return reaches(pruner, self.until)

    def done(self, progress: float) -> float:
        """How much of the taking out is to be done at this progress, 0 to 1."""
        return float(progress >= self.until)

    def floor(self, pruner: Pruner) -> int:
        """Least number of channels in each normalisation: without any, nothing passes through."""
        return max(1, pruner.floor)

    def before_step(self, pruner: Pruner) -> None:
        if not self.event(pruner):
            return
        chosen = self.chosen(pruner, self.done(pruner.progress))
        pruner.keep_channels(chosen)
        if reaches(pruner, self.until):  # what fed the others, or listened to them, goes with them
            needed = pruner.outline().needed(chosen)
            left = [s for s in pruner if s.name in needed]
            pruner.rewire({s.name: s.mask & needed[s.name].to(s.mask.device) for s in left})

    def chosen(self, pruner: Pruner, done: float) -> dict[str, Tensor]:
        """Which channels are to pass when so much is done."""
        here = {c.name: c.mask for c in pruner.channels}
        scores = self.drop(pruner)
        worth = {name: s.masked_fill(~here[name], -math.inf) for name, s in scores.items()}
        churn = at(self.churn, pruner.progress)
        hope = self.grow(pruner) if churn else {}
        shapes = {name: score.shape for name, score in worth.items()}

        def best(sparsity: float) -> dict[str, Tensor]:
            budget, floor = counts(shapes, sparsity, self.share), self.floor(pruner)
            kept = choose(worth, without(budget, churn), floor=floor)
            return choose(_after(kept, hope), budget, floor=floor) if hope else kept

        if not self.operations:
            return best(self.sparsity * done)
        return _saving(pruner, best, self.operations * done)


def _after(kept: dict[str, Tensor], hope: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scores that have those kept first, and never a channel of which nothing is known."""
    scores = {}
    for name, mask in kept.items():
        unknown = torch.full(mask.shape, -math.inf, device=mask.device)
        scores[name] = hope.get(name, unknown).masked_fill(mask, math.inf)
    return scores


def _saving(
    pruner: Pruner, best: Callable[[float], dict[str, Tensor]], wanted: float
) -> dict[str, Tensor]:
    """The best channels at the least sparsity that saves the wanted share of operations."""
    outline, low, high = pruner.outline(), 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        enough = outline.saving(best(middle)) >= wanted
        low, high = (low, middle) if enough else (middle, high)
    return best(high)


@dataclass(frozen=True)
class Slim(TakeOut):
    """Network slimming: gains are pushed towards 0, and the smallest go, all over the network.

    ``dL/dgamma += l1 sign(gamma)`` until channels are taken out. Liu et al. 2017 (arXiv
    1708.06519); fields besides those of `TakeOut`:

    Args:
        l1: strength of that push, >= 0; a schedule, such as ``constant(1e-4)``, does not end with
            the taking out.

    Raises:
        ValueError: if one of them is out of its range.

    >>> Slim(0.7, until=0.4).done(0.4)
    1.0
    """

    source: ClassVar[str] = "Liu et al. 2017, arXiv 1708.06519"

    l1: Schedule | float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative("l1", self.l1, "the strength of the push")

    def before_step(self, pruner: Pruner) -> None:
        strength = at(self.l1, pruner.progress)
        if callable(self.l1) or pruner.progress < self.until:
            for channels in pruner.channels:
                if channels.gain.grad is not None:
                    channels.gain.grad.add_(channels.gain.sign(), alpha=strength)
        super().before_step(pruner)


@dataclass(frozen=True)
class SlimCriticality(Slim):
    """Slimming that takes out more than it should, then revives the most critical channels.

    Of the ``k = (1 - s) n`` channels that stay, gains ``|gamma|`` choose ``(1 - churn) k``, and
    criticality over the data, the mean of ``h'(u - v_th)``, the rest from all others; the revived
    keep their weights, gains and biases. Chen, Liu, Liu and You 2023 (arXiv 2311.16141 v3),
    Algorithm 2. Its fields are those of `Slim`.

    >>> SlimCriticality(0.658, churn=0.1).churn
    0.1
    """

    source: ClassVar[str] = "Chen, Liu, Liu & You 2023, arXiv 2311.16141"

    churn: Schedule | float = 0.3
    grow: ChannelScore = criticality


@dataclass(frozen=True)
class APoZ(TakeOut):
    """Take out the channels whose neurons are silent most often, in each layer the same share.

    ``APoZ = mean [S = 0]``, the average percentage of zeros, over samples, places and time steps.
    Hu et al. 2016 (arXiv 1607.03250), whose networks are not spiking and who go a few layers at a
    time. Its fields are those of `TakeOut`.

    >>> APoZ(0.5).drop.__name__
    'activity'
    """

    source: ClassVar[str] = "Hu et al. 2016, arXiv 1607.03250"

    drop: ChannelScore = activity
    share: Share = uniform


@dataclass(frozen=True)
class SCA(TakeOut):
    """Structure learning by activity: again and again, quiet channels go and promising ones come.

    At an event the channels of lowest ``mean |u|``, their membrane potential, go, those with the
    largest ``|dL/dgamma|`` come (back), and ``k = (1 - s_t) n`` are left, on a cubic. Li et al.
    2024 (arXiv 2406.01072); their code is not released: the cubic, the share that comes back and
    the interval are our choice.

    Args:
        every: steps between two events.

    Raises:
        ValueError: if one of its fields is out of its range.

    >>> SCA(0.8).done(0.0), SCA(0.8).done(0.5)
    (0.0, 1.0)
    """

    source: ClassVar[str] = "Li et al. 2024, arXiv 2406.01072"

    drop: ChannelScore = potential
    churn: Schedule | float = Cosine(0.3, finish=0.5)
    grow: ChannelScore = gradient
    every: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        check_every(self.every)

    def start(self, pruner: Pruner) -> None:
        warn_if_no_event(self.every, self.until, pruner.steps)
        super().start(pruner)

    def done(self, progress: float) -> float:
        return Cubic(0.0, 1.0, finish=self.until)(progress)

    def event(self, pruner: Pruner) -> bool:
        regular = pruner.step > 0 and pruner.step % self.every == 0
        return (regular and pruner.progress < self.until) or super().event(pruner)
