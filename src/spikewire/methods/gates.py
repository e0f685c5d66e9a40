"""Gates: learned masks, soft while they are learned, that pay for the synapses behind them.

Long for one method: its gates, on weights and on neurons, learn by an Adam of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from spikewire.measure import places
from spikewire.methods.hidden import Hidden
from spikewire.pruner import Pruner
from spikewire.synapses import Synapses

_WEIGHTS, _NEURONS = "weight gates", "neuron gates"  # their logits, in a tensor's state
_MOMENTS = ("", " mean", " square")  # and Adam's moments of these


@dataclass(frozen=True)
class UPF(Hidden):
    """Unstructured pruning framework: gates on weights and on neurons, learned against SynOps.

    ``w = sigma(beta a) sigma(beta b) theta``, with a logit a for each weight and b for each neuron
    that a layer listens to, and ``beta = soft (hard / soft)^(t / until)`` at
    progress t. At ``until`` weights with a > 0 and b > 0 become theta, the others 0 for good, and
    training goes on. The gradient at w reaches theta, a and b by the chain rule. The logits follow,
    by Adam, the loss and ``penalty / N (sum of kappa sigma(beta a) + sum of kappa' sigma(beta b))``
    in units of synapses of the network unfolded in space: kappa is the number of places where a
    weight is used, kappa' the fan-out of a neuron, both counted once, N the number of all. Shi et
    al. 2024 (ICLR, OpenReview eoSeaK4QJo).

    Scaling a neuron's spikes is scaling the weights that listen to it, so its gate is kept with
    those and nothing but weights ever changes. Where we depart: a convolution shares weights over
    its map, so there a gate is for a whole map (kappa' the fan-out of all of it), where the authors
    have one for each of its neurons; a neuron that two layers listen to has a gate for each. Data,
    which the layer that runs first listens to, has none, nor has what a convolution in groups
    listens to. Tensors that are no linear or convolutional layer's count with kappa = 1.

    Args:
        penalty: what all synapses together cost, in units of the loss, >= 0. The authors' lambda is
            ``penalty / N``: theirs for 6Conv-2FC (N = 1.7e9), 5e-12 to 5e-11, are 0.0085 to 0.085.
            Before a normalisation a factor for all weights is free: with a large penalty and a
            small rate the gates of such a layer can all close together.
        rate: learning rate of the logits, > 0. The authors take 1e-4 over 2.5 million steps.
        until: progress at which gates become masks, (0, 1].
        neurons: whether neurons have gates, too.
        soft, hard: beta at the beginning and at ``until``, 0 < soft <= hard.
        birth: all logits at the beginning. At 0, as the authors have it, a network begins with half
            or a quarter of each weight; one without normalisation may need more than that.

    Raises:
        ValueError: if one of them is out of its range.

    >>> UPF(until=0.5).beta(0.0), UPF(until=0.5).beta(0.5)
    (5.0, 1000.0)
    """

    source: ClassVar[str] = "Shi et al. 2024, OpenReview eoSeaK4QJo"
    needs_data: ClassVar[bool] = True

    penalty: float = 0.01
    rate: float = 3e-3
    until: float = 0.8
    neurons: bool = True
    soft: float = 5.0
    hard: float = 1000.0
    birth: float = 0.0

    def __post_init__(self) -> None:
        if not self.penalty >= 0.0:
            raise ValueError(f"penalty={self.penalty!r}: give what all synapses cost, 0 or more")
        if not self.rate > 0.0:
            raise ValueError(f"rate={self.rate!r}: give the learning rate of the logits, above 0")
        if not 0.0 < self.until <= 1.0:
            raise ValueError(f"until={self.until!r}: give the progress of hard masks, in (0, 1]")
        if not 0.0 < self.soft <= self.hard:
            raise ValueError(
                f"soft={self.soft!r}, hard={self.hard!r}: give slopes of the gates above 0, the "
                "second no smaller than the first"
            )

    def beta(self, progress: float) -> float:
        """How steep the gates are."""
        return self.soft * (self.hard / self.soft) ** min(progress / self.until, 1.0)

    def start(self, pruner: Pruner) -> None:
        super().start(pruner)
        used = places(pruner.model, pruner.example)
        inner = list(used)[1:] if self.neurons else []
        total = sum(used.get(s.name, 1) * s.weight.numel() for s in pruner)
        for s in pruner:
            self._give(s, _WEIGHTS, s.weight.shape)
            s.state["kappa"] = s.state[_WEIGHTS].new_tensor(used.get(s.name, 1) / total)
            layer = pruner.model.get_submodule(s.name.rpartition(".")[0])
            if s.name in inner and getattr(layer, "groups", 1) == 1:
                self._give(s, _NEURONS, [1, s.weight.shape[1], *[1] * (s.weight.ndim - 2)])
            self.project(s, s.state["theta"], s.weight, pruner)

    def before_step(self, pruner: Pruner) -> None:
        if _soft(pruner):
            super().before_step(pruner)

    def after_step(self, pruner: Pruner) -> None:
        if _soft(pruner):
            super().after_step(pruner)
            if pruner.progress >= self.until:
                self.finish(pruner)

    def finish(self, pruner: Pruner) -> None:
        """Make masks of the gates, if that is still to be done."""
        if not _soft(pruner):
            return
        masks = {s.name: _passing(s, lambda logits: logits > 0.0) for s in pruner}
        for s in pruner:
            s.weight.copy_(s.state["theta"])
            s.state.clear()
        pruner.rewire(masks)

    def project(self, synapses: Synapses, theta: Tensor, weight: Tensor, pruner: Pruner) -> None:
        weight.copy_(theta * self._passing(synapses, pruner))

    def pull(self, synapses: Synapses, theta: Tensor, pruner: Pruner) -> None:
        s, gradient = synapses, synapses.weight.grad
        if gradient is None or not gradient.isfinite().all():
            return  # the optimizer leaves this tensor out as well
        if s.possible is not None:
            gradient.mul_(s.possible)
        gradient.mul_(self._passing(s, pruner))
        gain = (gradient * theta).to(s.state[_WEIGHTS].dtype)  # w dL/dw
        cost = self.penalty * s.state["kappa"]
        self._learn(s, _WEIGHTS, gain, cost, pruner)
        if _NEURONS in s.state:
            fan_out = gain.numel() // gain.shape[1]
            gain = gain.sum([dim for dim in range(gain.ndim) if dim != 1], keepdim=True)
            self._learn(s, _NEURONS, gain, cost * fan_out, pruner)

    def _give(self, s: Synapses, gates: str, shape: Sequence[int]) -> None:
        """Logits, in float32 at least, and their moments."""
        dtype = torch.promote_types(s.weight.dtype, torch.float32)
        for moment in _MOMENTS:
            s.state[gates + moment] = torch.zeros(shape, dtype=dtype, device=s.weight.device)
        s.state[gates].fill_(self.birth)

    def _learn(self, s: Synapses, gates: str, gain: Tensor, cost: Tensor, pruner: Pruner) -> None:
        """A step of Adam for logits, given w dL/dw behind each gate and what an open one costs."""
        logits, mean, square = (s.state[gates + moment] for moment in _MOMENTS)
        beta, step = self.beta(pruner.progress), pruner.step + 1
        passing = (beta * logits).sigmoid()
        gradient = beta * (1.0 - passing) * (gain + cost * passing)
        mean.lerp_(gradient, 0.1)
        square.lerp_(gradient.square(), 0.001)
        deviation = (square / (1.0 - 0.999**step)).sqrt_().add_(1e-8)
        logits.addcdiv_(mean, deviation, value=-self.rate / (1.0 - 0.9**step))

    def _passing(self, s: Synapses, pruner: Pruner) -> Tensor:
        beta = self.beta(pruner.progress)
        return _passing(s, lambda logits: (beta * logits).sigmoid())


def _passing(s: Synapses, gate: Callable[[Tensor], Tensor]) -> Tensor:
    """What the gates let through of each weight."""
    passing = gate(s.state[_WEIGHTS])
    return passing * gate(s.state[_NEURONS]) if _NEURONS in s.state else passing


def _soft(pruner: Pruner) -> bool:
    """Whether gates are still learned."""
    return any("theta" in s.state for s in pruner)
