"""Survival: connections that their neurons do not use lose their life, and are gone for good.

Long for one method: two laws of life, for synapses and for neurons, and what they refuse.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from spikewire import distributed
from spikewire.methods.checks import check_every
from spikewire.observe import Traces
from spikewire.pruner import Method, Pruner
from spikewire.synapses import Synapses


@dataclass(frozen=True)
class DPAP(Method):
    """Developmental plasticity-inspired adaptive pruning: use it or lose it.

    Each neuron, and in linear layers each synapse, has a life R. At an event n = 0, 1, ... it is
    ``R <- decay R + delta exp(-floor(n / fade))`` with ``delta = 2 x - toll``, plus ``bonus`` where
    that is above 0. Where R < 0, the synapse or the whole fan-in of the neuron is gone for good.
    x is an importance, rescaled to [0, 1] between its least value and its upper quartile.
    For a synapse that is ``B = sum of post (post - theta) pre`` (BCM) over all observed samples,
    with traces of spikes before and behind it (`observe.Traces`) and theta, the mean of what was
    post so far. For a neuron it is the sum of B over its fan-in times the sum of its traces, either
    rescaled between its least and largest value. Han et al. 2022 (arXiv 2211.12714), as in their
    released code; their numbers are not verified here.

    Where we depart: an event comes every so many steps, theirs after each epoch; spikes are
    observed in the steps of events only, so that no other step costs anything, theirs in all; theta
    is a mean over samples too, theirs has one for each place in a batch. The layer that runs last,
    the read-out, is left alone as there, and so is one that no neurons follow. Of accumulated
    micro-batches the last is observed.

    Args:
        begin: progress from which on lives change, [0, 1); events before only observe. Theirs: 5 of
            300 epochs.
        every: steps between two events. An idle neuron lives for about 20 events, an idle synapse
            for 7; theirs has 300, and after 40 hardly anything changes any more.
        life: R at birth, > 0.
        decay: of R at an event, (0, 1].
        trace: decay of a spike's trace in a time step, [0, 1).
        toll, bonus, fade: of neurons of convolutions; fade in events, >= 1.
        linear_toll, linear_bonus, linear_fade: of synapses and neurons of linear layers.

    Raises:
        ValueError: if one of them is out of its range.

    >>> DPAP().growth(torch.tensor([0.0, 1.0, 4.0, 4.0]), 0, linear=True)
    tensor([-1.5000, -1.0000,  2.5000,  2.5000])
    """

    source: ClassVar[str] = "Han et al. 2022, arXiv 2211.12714"
    sparsity_is: ClassVar[str] = "emergent"

    begin: float = 0.02
    every: int = 100
    life: float = 10.0
    decay: float = 0.999
    trace: float = 0.5
    toll: float = 0.65
    bonus: float = 5.0
    fade: int = 12
    linear_toll: float = 1.5
    linear_bonus: float = 2.0
    linear_fade: int = 13

    def __post_init__(self) -> None:
        check_every(self.every)
        for name, value in (("begin", self.begin), ("trace", self.trace)):
            if not 0.0 <= value < 1.0:
                raise ValueError(f"{name}={value!r}: give a share from 0 up to but not including 1")
        if not (self.life > 0.0 and 0.0 < self.decay <= 1.0):
            raise ValueError(
                f"life={self.life!r}, decay={self.decay!r}: give a life at birth above 0 and what "
                "an event leaves of it, in (0, 1]"
            )
        if not (self.fade >= 1 and self.linear_fade >= 1):
            raise ValueError(f"fade={self.fade}, linear_fade={self.linear_fade}: give 1 or more")

    def observer(self, model: nn.Module) -> Traces:
        return Traces(model, self.trace)

    def event(self, pruner: Pruner) -> bool:
        return pruner.step > 0 and pruner.step % self.every == 0

    def start(self, pruner: Pruner) -> None:
        soonest = self.life / max(self.toll, self.linear_toll)
        if (events := (1.0 - self.begin) * pruner.steps / self.every) < soonest:
            warnings.warn(
                f"every={self.every} leaves {events:.0f} events in {pruner.steps} steps, and "
                f"nothing dies before {soonest:.0f}: give a smaller one, or more steps",
                stacklevel=2,
            )

    def before_step(self, pruner: Pruner) -> None:
        if not self.event(pruner):
            return
        traces = pruner.observer
        assert isinstance(traces, Traces)
        seen, first = pruner.step // self.every, math.ceil(self.begin * pruner.steps / self.every)
        for s in pruner:
            if (heard := traces.of(s.name)) is not None:
                self._remember(s, *heard, seen)
                if seen >= first:
                    self._age(s, seen - max(first, 1), pruner)

    def growth(self, importance: Tensor, n: int, *, linear: bool) -> Tensor:
        """What is added to lives at event n."""
        kind = (self.linear_toll, self.linear_bonus, self.linear_fade)
        toll, bonus, fade = kind if linear else (self.toll, self.bonus, self.fade)
        delta = 2.0 * _rescaled(importance, 0.75) - toll
        return (delta + bonus * (delta > 0.0)) * math.exp(-(n // fade))

    def _remember(self, s: Synapses, before: Tensor, behind: Tensor, seen: int) -> None:
        """Take in the traces (B, C_in) and (B, C_out) of the step that is the so-many-th seen."""
        if not s.state:
            lives = {"neuron life": [len(s.weight)]}
            lives |= {"life": s.weight.shape} if s.weight.ndim == 2 else {}
            s.state |= {name: before.new_full(shape, self.life) for name, shape in lives.items()}
            s.state["bcm"] = before.new_zeros(s.weight.shape[:2])
            s.state |= {name: before.new_zeros(len(s.weight)) for name in ("trace", "threshold")}
        threshold = s.state["threshold"]
        s.state["bcm"] += distributed.total((behind * (behind - threshold)).T @ before)
        s.state["trace"] += distributed.total(behind.sum(0))
        threshold += (distributed.mean(behind.sum(0), len(behind)) - threshold) / seen

    def _age(self, s: Synapses, n: int, pruner: Pruner) -> None:
        """Let lives go on by event n, and those end that are below 0."""
        bcm, linear, alive = s.state["bcm"], s.weight.ndim == 2, s.mask
        spine = _rescaled(bcm.sum(1), 1.0) * _rescaled(s.state["trace"], 1.0)
        for name, importance in {"neuron life": spine, "life": bcm}.items():
            if (life := s.state.get(name)) is not None:
                life.mul_(self.decay).add_(self.growth(importance, n, linear=linear))
                alive = alive & (life >= 0.0).view(len(life), -1, *[1] * (s.weight.ndim - 2))
        pruner.rewire({s.name: alive})


def _rescaled(values: Tensor, upper: float) -> Tensor:
    """To [0, 1], from the least value to this quantile; one half if they are equal."""
    low, high = values.min(), float(np.quantile(values.numpy(force=True), upper))
    if high == low:
        return torch.full_like(values, 0.5)
    return ((values - low) / (high - low)).clamp(0.0, 1.0)
