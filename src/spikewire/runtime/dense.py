"""Dense: a program in plain PyTorch, to compare with, and where the engine was not built."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikewire.runtime.program import (
    Add,
    Affine,
    Convolution,
    Flatten,
    Neuron,
    Operation,
    Pool,
    Program,
    Repeat,
    Vote,
    Weight,
)


class DenseNetwork(nn.Module):
    """A program as a network of PyTorch: inputs as a program takes them to outputs.

    Args:
        program: what it computes.

    >>> from spikewire.nets import fc
    >>> from spikewire.runtime.trace import program_of
    >>> images = torch.rand(2, 1, 28, 28)
    >>> DenseNetwork(program_of(fc(T=4), images))(images).shape
    torch.Size([4, 2, 10])
    """

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        for number, step in enumerate(program.steps):
            for name, found in vars(step.operation).items():
                array = found.dense() if isinstance(found, Weight) else found
                if isinstance(array, np.ndarray):
                    self.register_buffer(f"{name}_{number}", torch.from_numpy(array))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (T, B, classes), or (B, classes) if nothing of them varies in time."""
        values = self.values(x)
        last = values[-1].flatten(2)
        return last if self.program.values[-1].sequence else last[0]

    def values(self, x: Tensor) -> list[Tensor]:
        """The input and what each step gives: (T, B, C, H, W), or (1, B, C, H, W)."""
        first = self.program.input
        found = [x.reshape(self.program.T if first.sequence else 1, -1, *first.shape)]
        for number, step in enumerate(self.program.steps):
            given = [found[source] for source in step.sources]
            found.append(self._computed(number, step.operation, *given))
        return found

    def _computed(self, number: int, operation: Operation, *given: Tensor) -> Tensor:
        x = given[0]
        match operation:
            case Convolution():
                return self._convolved(number, operation, x)
            case Neuron():
                return self._fired(number, operation, x)
            case Pool():
                return _pooled(operation, x)
            case Add():
                return x + given[1]
            case Affine():
                scale, shift = self._array(number, "scale"), self._array(number, "shift")
                return x * scale[:, None, None] + shift[:, None, None]
            case Flatten():
                return x.reshape(*x.shape[:2], -1, 1, 1)
            case Repeat():
                return x.expand(self.program.T, *x.shape[1:])
            case Vote():
                return x.flatten(2).unflatten(2, (-1, operation.size)).mean(3)[..., None, None]

    def _array(self, number: int, name: str) -> Tensor:
        return getattr(self, f"{name}_{number}")

    def _convolved(self, number: int, layer: Convolution, x: Tensor) -> Tensor:
        weight, bias = self._array(number, "weight"), self._array(number, "bias")
        if len(x) > 1 and x.stride(0) == 0:  # the same at all time steps
            return self._convolved(number, layer, x[:1]).expand(len(x), -1, -1, -1, -1)
        flat = x.flatten(0, 1)
        if self.program.values[number + 1].shape[1:] == flat.shape[2:] == (1, 1):
            found = F.linear(flat.flatten(1), weight.flatten(1), bias)[..., None, None]
        else:
            geometry = layer.stride, layer.padding, layer.dilation, layer.groups
            found = F.conv2d(flat, weight, bias, *geometry)
        return found.unflatten(0, x.shape[:2])

    def _fired(self, number: int, neuron: Neuron, x: Tensor) -> Tensor:
        rest = neuron.reset or 0.0
        v: Any = torch.full_like(x[0], rest)
        b: Any = 0.0
        spikes = []
        for current in x:
            u = _charged(neuron, v, current, rest)
            threshold: Any = neuron.threshold
            if neuron.beta is not None:
                threshold = threshold + self._array(number, "beta")[:, None, None] * b
            fired = u >= threshold
            v = u.masked_fill(fired, rest) if neuron.reset is not None else u - threshold * fired
            b = neuron.recovery * b + (1.0 - neuron.recovery) * fired
            spikes.append(fired.to(x.dtype))
        return torch.stack(spikes)


def _pooled(pool: Pool, x: Tensor) -> Tensor:
    flat = x.flatten(0, 1)
    if pool.kind == "max":
        found = F.max_pool2d(flat, pool.kernel, pool.stride, pool.padding)
    else:
        found = F.avg_pool2d(flat, pool.kernel, pool.stride)
    return found.unflatten(0, x.shape[:2])


def _charged(neuron: Neuron, v: Tensor, x: Tensor, rest: float) -> Tensor:
    match neuron.charge:
        case "integrate":
            return v + x
        case "divide":
            return v + (x - (v - rest)) / neuron.constant
        case "multiply":
            return v + (x - (v - rest)) * neuron.constant
        case _:
            return (v - rest) * neuron.constant + rest + x
