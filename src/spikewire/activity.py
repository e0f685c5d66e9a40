"""Activity: what spikes cost while a network is trained, so that it learns to fire less.

A spike moves whatever its neuron is connected to, so fewer spikes are fewer operations, as fewer
synapses are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from spikewire.dialects import neurons
from spikewire.observe import Ear, spikes_of
from spikewire.weights import unwrapped


class SpikeCost:
    """Trains a network as if ``weight * R`` were part of its loss, R its mean firing rate.

    ``R = (spikes) / (neurons * samples * time steps)`` over all neuron layers, so
    ``dR/ds = 1 / count`` for each of the count spikes s, 0 or 1: that is added to their gradients
    in the backward pass, and the neurons' surrogate does the rest. The loss itself keeps its value,
    and no other pass is needed. Deng et al. 2019 (arXiv 1911.00822), activity regularisation;
    that R counts the read-out's neurons too is our reading.

    The mean is over all forward passes of training since the last backward pass: those of a
    sequence that is shown step by step. Spikes that the loss does not depend on cost nothing.

    Args:
        model: a network with neuron layers of a library that `dialects` knows; it keeps its keys
            and types, and copies of it leave the cost behind.
        weight: what a network that fires all the time costs, in units of the loss, >= 0.
        scale: what the loss is multiplied with before ``backward()``, as the cost must be too:
            1/n for gradients that are accumulated over n batches, ``scaler.get_scale`` under a
            GradScaler.

    Raises:
        ValueError: if the model has no neuron layer that is known, or the weight is below 0.

    >>> from spikingjelly.activation_based import neuron
    >>> net = nn.Sequential(nn.Linear(1, 2), neuron.IFNode(step_mode="m"))
    >>> cost = SpikeCost(net, 0.5).attach()
    >>> spikes = net(torch.rand(4, 3, 1))  # (T, B, N), so a spike costs 0.5 / 24
    >>> spikes.retain_grad()
    >>> (0.0 * spikes.sum()).backward()
    >>> round(24 * spikes.grad.max().item(), 6)
    0.5
    >>> cost.detach()
    """

    def __init__(
        self, model: nn.Module, weight: float, scale: float | Callable[[], float] = 1.0
    ) -> None:
        check_activity(weight)
        self.weight, self.scale = weight, scale
        self._neurons = [module for _, module, _ in neurons(unwrapped(model))]
        if not self._neurons:
            raise ValueError(
                "activity: the model has no neuron layer of a known library (SpikingJelly, "
                "snnTorch), so no spikes to count: leave it at 0, or add a row to "
                "spikewire.dialects.DIALECTS"
            )
        self._handles: list[Any] = []
        self._passes = _Passes()
        self._charged = False

    def attach(self) -> SpikeCost:
        """Let spikes cost something from now on; compile the network after that, not before."""
        self.detach()
        # named only now: importing torch's compiler takes longer than importing torch
        uncompiled: Any = torch.compiler.disable
        self._handles = [
            neuron.register_forward_hook(Ear(uncompiled(self._hear))) for neuron in self._neurons
        ]
        return self

    def detach(self) -> None:
        """Leave the network as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def settle(self) -> None:
        """The optimizer is about to step.

        Raises:
            ValueError: if no spike was charged since the last step.
        """
        if not self._charged:
            raise ValueError(
                "activity: no spikes were heard in this step, so they cost nothing: build the "
                "pruner before the network is compiled and run, and train in training mode"
            )
        self._charged = False

    def _hear(self, neuron: nn.Module, inputs: Any, outputs: Any) -> None:
        spikes = spikes_of(outputs)
        if self._passes.over:
            self._passes = _Passes()
        self._passes.count += spikes.numel()
        if spikes.requires_grad:
            spikes.register_hook(partial(self._charge, self._passes))

    def _charge(self, passes: _Passes, gradient: Tensor) -> Tensor:
        self._charged = passes.over = True
        scale = self.scale() if callable(self.scale) else self.scale
        return gradient + self.weight * scale / passes.count


class _Passes:
    """Forward passes up to a backward pass, in which alone it is known how many spikes there are.

    Attributes:
        count: places where a spike could have been.
        over: whether the backward pass has begun.
    """

    def __init__(self) -> None:
        self.count = 0
        self.over = False


def check_activity(weight: float) -> None:
    """Refuse a cost of spikes that is below 0, or no number.

    >>> check_activity(1e-3)
    """
    if not 0.0 <= weight < float("inf"):
        raise ValueError(
            f"activity={weight!r}: give what a network that fires all the time costs, in units of "
            "the loss, 0 or more"
        )
