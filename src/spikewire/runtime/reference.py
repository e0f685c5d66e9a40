"""Reference: what a program gives, defined with NumPy, one rounding after the other.

Every kernel must give these very bits. It is far too slow for anything but tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from spikewire.runtime.program import (
    Add,
    Affine,
    Convolution,
    Flatten,
    Floats,
    Neuron,
    Operation,
    Pool,
    Program,
    Repeat,
    Vote,
)


@dataclass(frozen=True, eq=False)
class Trace:
    """What happened in a program.

    Attributes:
        values: float32 of the input and of each step: (T, B, C, H, W) of sequences, else
            (1, B, C, H, W).
        potentials: the last membrane potentials (B, C, H, W), by the number of the step.
    """

    values: list[Floats]
    potentials: dict[int, Floats]


def trace(program: Program, x: Floats) -> Trace:
    """Run a program.

    Args:
        program: what to run.
        x: float32 (T, B, C, H, W) if its input is a sequence, else (1, B, C, H, W).

    >>> from spikewire.runtime.program import Step, Value
    >>> lif = Program(4, Value((1, 1, 1), True), [Step("lif", Neuron("divide", 2.0), (0,))])
    >>> trace(lif, np.full((4, 1, 1, 1, 1), 1.5, np.float32)).values[-1].flatten()
    array([0., 1., 0., 1.], dtype=float32)
    """
    found = Trace([x], {})
    for number, step in enumerate(program.steps):
        given = [found.values[source] for source in step.sources]
        if isinstance(step.operation, Neuron):
            spikes, found.potentials[number] = _fire(step.operation, given[0])
            found.values.append(spikes)
        else:
            found.values.append(computed(step.operation, program.T, *given))
    return found


def computed(operation: Operation, T: int, *given: Floats) -> Floats:
    x = given[0]
    match operation:
        case Convolution():
            return _convolved(operation, x)
        case Pool():
            return _pooled(operation, x)
        case Add():
            return x + given[1]
        case Affine():
            return x * _channels(operation.scale) + _channels(operation.shift)
        case Flatten():
            return x.reshape(*x.shape[:2], -1, 1, 1)
        case Repeat():
            return np.repeat(x, T, axis=0)
        case Vote():
            parts = x.reshape(*x.shape[:2], -1, operation.size)
            return (_summed(parts, 3) / np.float32(operation.size))[..., None, None]
        case _:
            raise TypeError(f"no operation {operation!r}")


def _channels(numbers: Floats) -> Floats:
    return numbers[:, None, None]


def _convolved(layer: Convolution, x: Floats) -> Floats:
    out, per_group, *kernel = layer.weight.shape
    windows = _windows(x, kernel, layer.stride, layer.padding, layer.dilation, np.float32(0))
    T, B, _, height, width = windows.shape[:5]
    windows = windows.reshape(T, B, layer.groups, per_group, height, width, *kernel)
    weight = layer.weight.dense().reshape(layer.groups, out // layer.groups, per_group, *kernel)
    sums = np.empty((T, B, *weight.shape[:2], height, width), np.float32)
    sums[:] = (layer.bias + np.float32(0)).reshape(*weight.shape[:2], 1, 1)
    for c, i, j in np.ndindex(per_group, *kernel):
        synapses = weight[:, :, c, i, j, None, None]
        sums += synapses * windows[:, :, :, None, c, :, :, i, j]
    return sums.reshape(T, B, out, height, width)


def _pooled(pool: Pool, x: Floats) -> Floats:
    windows = _windows(x, pool.kernel, pool.stride, pool.padding, (1, 1), np.float32(-np.inf))
    windows = windows.reshape(*windows.shape[:5], -1)
    if pool.kind == "max":
        return windows.max(5)
    return _summed(windows, 5) / np.float32(windows.shape[5])


def _summed(x: Floats, axis: int) -> Floats:
    """One after the other: NumPy's own sum adds in pairs."""
    return np.add.accumulate(x, axis).take(-1, axis)


def _windows(
    x: Floats, kernel: Any, stride: Any, padding: Any, dilation: Any, outside: np.float32
) -> Floats:
    """(T, B, C, H, W) to (T, B, C, places down, places across, height, width)."""
    (down, across), size = padding, x.shape[3:]
    space = ((0, 0), (0, 0), (0, 0), (down, down), (across, across))
    x = np.pad(x, space, constant_values=outside)
    rows, columns = (
        np.arange(0, n + 2 * p - d * (k - 1), s)[:, None] + np.arange(k) * d
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    )
    return x[:, :, :, rows[:, None, :, None], columns[None, :, None, :]]


def _fire(neuron: Neuron, x: Floats) -> tuple[Floats, Floats]:
    rest, k = np.float32(neuron.reset or 0.0), np.float32(neuron.constant)
    recovery, rise = np.float32(neuron.recovery), np.float32(1.0 - neuron.recovery)
    beta = None if neuron.beta is None else _channels(neuron.beta)
    v, b, spikes = np.full_like(x[0], rest), np.zeros_like(x[0]), np.empty_like(x)
    for t, current in enumerate(x):
        u = _charged(neuron, v, current, rest, k)
        threshold = np.float32(neuron.threshold)
        if beta is not None:
            threshold = threshold + beta * b
        fired = u >= threshold
        v = np.where(fired, rest if neuron.reset is not None else u - threshold, u)
        b = recovery * b + rise * fired.astype(np.float32)
        spikes[t] = fired
    return spikes, v


def _charged(neuron: Neuron, v: Floats, x: Floats, rest: np.float32, k: np.float32) -> Floats:
    match neuron.charge:
        case "integrate":
            return v + x
        case "divide":
            return v + (x - (v - rest)) / k
        case "multiply":
            return v + (x - (v - rest)) * k
        case _:
            return ((v - rest) * k + rest) + x
