"""Engine: run a program on the CPU, in time that falls with the synapses that are left.

A convolution and the neurons behind it are one stage. For each stage with weights there is a sparse
kernel and PyTorch's dense one; the faster one runs, by measurement.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from spikewire.runtime.kernels import kernels as loaded
from spikewire.runtime.maps import Map, empty, group_of, laid_out, numbers_of, unfolded, words
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
    Value,
)
from spikewire.runtime.reference import computed

# Of up to so many samples, linear layers follow the spikes one by one.
_FEW = 3
_MOST_THREADS = 256
_CHARGES = ("integrate", "divide", "multiply", "leak")
# A dense kernel is tried where the sparse one takes more than this share of the least time that the
# dense one could take.
_SAFE = 0.5


@dataclass(frozen=True)
class Stage:
    """What one kernel does.

    Attributes:
        name: of the step, or of the two of them.
        step, last: numbers of its first and last step.
        sources: numbers of the values it takes; it gives value ``last + 1``.
        neurons: number of the step of its neurons, if it has any.
        operation: of its first step.
        value: what it gives.
    """

    name: str
    step: int
    last: int
    sources: tuple[int, ...]
    neurons: int | None
    operation: Operation
    value: Value

    @property
    def layer(self) -> Convolution:
        """Its operation, where that has weights."""
        assert isinstance(self.operation, Convolution)
        return self.operation


@dataclass(frozen=True)
class Timing:
    """What one stage took.

    Attributes:
        name: of the layer, with that of its neurons.
        kernel: "sparse", "events", "dense"; "" where there is nothing to choose.
        milliseconds: for the batch, the median of several runs.
        synapses: that are not 0.
        operations: additions for the batch, as a dense layer would have them times connectivity.
    """

    name: str
    kernel: str
    milliseconds: float
    synapses: int
    operations: float


@dataclass
class Record:
    """What `SparseNetwork.run` is asked to keep, by the number of the step."""

    spikes: dict[int, Floats] = field(default_factory=dict)
    potentials: dict[int, Floats] = field(default_factory=dict)


class SparseNetwork:
    """A trained network for inference on the CPU.

    Args:
        program: what it computes.
        threads: that share the work; None for as many as torch has.
        kernel: "sparse" or "dense" for all layers; None for the faster one of each.

    >>> from spikewire.nets import fc
    >>> from spikewire.runtime.trace import program_of
    >>> images = torch.rand(2, 1, 28, 28)
    >>> SparseNetwork(program_of(fc(T=4), images))(images).shape
    torch.Size([2, 10])
    """

    def __init__(
        self, program: Program, threads: int | None = None, kernel: str | None = None
    ) -> None:
        if kernel not in (None, "sparse", "dense"):
            raise ValueError(f"kernel is {kernel!r}: give 'sparse', 'dense' or None for the faster")
        if threads is not None and not 1 <= threads <= _MOST_THREADS:
            raise ValueError(f"threads is {threads}: give 1 to 256, or None for torch's number")
        self._kernels = loaded()
        self.program = program
        self.threads = threads or min(torch.get_num_threads(), _MOST_THREADS)
        self.kernel = kernel
        self._stages = list(_stages(program))
        self._neurons = {
            number: _compiled(self._kernels, step.operation)
            for number, step in enumerate(program.steps)
            if isinstance(step.operation, Neuron)
        }
        self._flat_by_samples = _needs_samples(program)
        self._layers: dict[Any, Any] = {}
        self._weights: dict[int, Tensor] = {}  # of dense kernels
        self._chosen: dict[Any, str] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs per class (B, classes): rates of spikes or logits, the mean over time.

        Args:
            x: inputs as the network took them, float: (B, ...), or (T, B, ...) if it took a
                sequence.
        """
        return self.outputs(self.run(x))

    def outputs(self, last: Floats) -> Tensor:
        """The mean over time, one step after the other, of what `run` gives: (B, classes)."""
        mean = last[0]
        if len(last) > 1:
            mean = np.divide(np.add.accumulate(last, 0)[-1], self.program.T, dtype=np.float32)
        return torch.from_numpy(mean).flatten(1)

    def spikes(self, x: Tensor) -> dict[str, Tensor]:
        """Spikes of each layer of neurons, bool (T, B, C, H, W), flat features (T, B, F, 1, 1)."""
        record = Record()
        self.run(x, record)
        steps = self.program.steps
        return {steps[n].name: torch.from_numpy(s != 0) for n, s in record.spikes.items()}

    def profile(self, x: Tensor, repeats: int = 5) -> list[Timing]:
        """What each stage takes, and by which kernel.

        Args:
            x: as of a call.
            repeats: runs to take the median of.
        """
        self.run(x)  # kernels are chosen
        runs = [self._timed(x) for _ in range(repeats)]
        rows = []
        for place, (name, kernel, _, synapses, operations) in enumerate(runs[0]):
            milliseconds = 1e3 * float(np.median([run[place][2] for run in runs]))
            rows.append(Timing(name, kernel, milliseconds, synapses, operations))
        return rows

    def run(self, x: Tensor, record: Record | None = None) -> Floats:
        """The last value (T or 1, B, C, H, W); a T of 1 stands for all time steps."""
        maps = {0: self._input(x)}
        for stage in self._stages:
            self._advance(stage, maps, record)
        return unfolded(maps[len(self.program.steps)])

    # --- stages ----------------------------------------------------------------------------------

    def _input(self, x: Tensor) -> Map:
        value, T = self.program.input, self.program.T
        lead = 2 if value.sequence else 1
        flat = value.shape[1:] == (1, 1)
        sample = tuple(x.shape[lead:])
        fits = sample == value.shape or (flat and sample == value.shape[:1])
        if x.ndim <= lead or not fits or (value.sequence and len(x) != T) or not x.shape[lead - 1]:
            wanted = value.shape[:1] if flat else value.shape
            before = f"({T}, B, " if value.sequence else "(B, "
            raise ValueError(
                f"x has shape {tuple(x.shape)}: give {before}{', '.join(map(str, wanted))})"
            )
        numbers = x.detach().cpu().float().reshape(T if value.sequence else 1, -1, *value.shape)
        return laid_out(numbers.numpy(), value)

    def _advance(self, stage: Stage, maps: dict[int, Map], record: Record | None) -> None:
        given = [maps[source] for source in stage.sources]
        potentials: list[Any] = []
        found = self._run(stage, given, None if record is None else potentials)
        maps[stage.last + 1] = found
        if record is not None and stage.neurons is not None:
            record.spikes[stage.neurons] = unfolded(found)
            record.potentials[stage.neurons] = potentials[0]
        for source in stage.sources:
            if self.program.last[source] <= stage.last:
                maps.pop(source, None)

    def _run(self, stage: Stage, given: list[Map], potentials: list[Any] | None) -> Map:
        x, operation, value = given[0], stage.operation, stage.value
        match operation:
            case Convolution():
                return self._connect(stage, _suited(x, operation), potentials)
            case Neuron():
                return self._fire(stage, numbers_of(x), potentials)
            case Flatten():
                return self._flatten(x, value)
            case Repeat():
                return Map(x.data, value, x.batch, x.width, x.lanes)
            case Pool() if x.spikes and x.lanes == "columns":
                return self._pool(operation, x, value)
            case Add() if _alike(*given):
                left, right = (numbers_of(one).data for one in given)
                return Map(left + right, value, x.batch, x.width, x.lanes)
            case Affine() if x.lanes != "features":
                by, plus = (p[:, None, None, None] for p in (operation.scale, operation.shift))
                return Map(numbers_of(x).data * by + plus, value, x.batch, x.width, x.lanes)
            case _:
                return laid_out(computed(operation, x.T, *map(unfolded, given)), value)

    # --- layers with weights ---------------------------------------------------------------------

    def _connect(self, stage: Stage, x: Map, potentials: list[Any] | None) -> Map:
        key = (stage.step, x.lanes, x.batch, x.T)
        kernel = self.kernel or self._chosen.get(key)
        if kernel is None:
            kernel = self._chosen[key] = self._faster(stage, x)
        run = self._dense if kernel == "dense" else self._sparse
        return run(stage, x, potentials)

    def _sparse(self, stage: Stage, x: Map, potentials: list[Any] | None) -> Map:
        fires = stage.neurons is not None
        T = self.program.T if fires else x.T
        to = empty(x, stage.value, T, fires)
        v = _room(to, potentials if fires else None)
        neurons = self._neurons[stage.neurons] if stage.neurons is not None else None
        where = (to.data, None) if fires else (None, to.data)
        rest = (*where, v.data if v else None, neurons, len(x.data))
        found = self._layer(stage, x)
        if isinstance(found, self._kernels.EventLayer):
            found.spikes(x.data, (*x.data.shape[1:3], x.width), *rest, self.threads)
        else:
            (found.spikes if x.spikes else found.numbers)(x.data, *rest, T, self.threads)
        _keep(v, potentials)
        return to

    def _layer(self, stage: Stage, x: Map) -> Any:
        layer, key = stage.layer, (stage.step, x.lanes, x.width, x.T, x.spikes)
        if key not in self._layers:
            if x.lanes == "features":
                built = self._kernels.EventLayer(*layer.weight.parts, layer.bias, x.T, self.threads)
            else:
                shape = (*x.data.shape[1:3], x.width)
                geometry = layer.stride, layer.padding, layer.dilation
                if x.lanes == "samples":  # one place, and no neighbours
                    geometry = (1, 1), (0, 0), (1, 1)
                how = shape, x.T, *geometry, layer.groups, self.threads
                built = self._kernels.Layer(*layer.weight.parts, layer.bias, *how)
            self._layers[key] = built
        return self._layers[key]

    def _dense(self, stage: Stage, x: Map, potentials: list[Any] | None) -> Map:
        layer, value = stage.layer, stage.value
        numbers = torch.from_numpy(self._rows(x))  # (T, B, C, H, W)
        if stage.step not in self._weights:
            self._weights[stage.step] = torch.from_numpy(layer.weight.dense())
        weight, bias = self._weights[stage.step], torch.from_numpy(layer.bias)
        with torch.inference_mode():
            flat = numbers.flatten(0, 1)
            if x.lanes == "columns" or layer.groups > 1:
                geometry = layer.stride, layer.padding, layer.dilation, layer.groups
                currents = functional.conv2d(flat, weight, bias, *geometry)
            else:
                currents = functional.linear(flat.flatten(1), weight.flatten(1), bias)
            found = currents.contiguous().numpy().reshape(x.T, x.batch, *value.shape)
        if stage.neurons is None:
            return laid_out(found, value)
        if value.shape[1:] == (1, 1):
            return self._fire(stage, laid_out(found, value, binary=False), potentials)
        return self._fire_rows(stage, found, potentials)

    def _rows(self, x: Map) -> Floats:
        """A map as numbers (T or 1, B, C, H, W), side by side as PyTorch has them."""
        if not x.spikes or x.lanes == "samples":
            return np.ascontiguousarray(unfolded(x))
        N, C, H, W, T = x.shape
        out = np.empty((T, N, C, H, W), np.float32)
        strides = C * H * W, H * W, W, N * C * H * W
        self._kernels.unpack(x.data, x.shape, out, strides, self.threads)
        return out.reshape(T, N, *x.value.shape)

    def _faster(self, stage: Stage, x: Map) -> str:
        """The faster kernel for this layer and batch; the dense one is tried only near it."""
        self._layer(stage, x)
        shape = stage.layer.weight.shape
        products = self._sums(stage, x) * math.prod(shape[1:])
        # it multiplies, and it reads its weights at least once
        least = max(
            products / _products_per_second(self.threads),
            math.prod(shape) / _weights_per_second(self.threads),
        )
        sparse = math.inf
        for runs in (1, 3):  # the first has to find memory
            sparse = min(sparse, _seconds(lambda: self._sparse(stage, x, None), runs))
            if sparse < _SAFE * least:
                return "sparse"
        dense = _seconds(lambda: self._dense(stage, x, None))
        if dense < sparse:
            return "dense"
        self._weights.pop(stage.step, None)
        return "sparse"

    def _sums(self, stage: Stage, x: Map) -> float:
        """How many sums this layer calculates for a batch."""
        return float(self.program.values[stage.step + 1].size) * x.batch * x.T

    # --- neurons ---------------------------------------------------------------------------------

    def _fire(self, stage: Stage, x: Map, potentials: list[Any] | None) -> Map:
        if x.lanes == "features" and (self._flat_by_samples or x.width != x.value.size):
            x = laid_out(unfolded(x), x.value, binary=False)
        _, C, H, T, wide = x.data.shape
        strides = (C * H * T * wide, H * T * wide, T * wide, wide if T > 1 else 0)
        to = empty(x, stage.value, self.program.T, True)
        return self._fired(stage, x.data, strides, wide, to, potentials)

    def _fire_rows(self, stage: Stage, x: Floats, potentials: list[Any] | None) -> Map:
        """From currents (T, B, C, H, W) as PyTorch lays them out."""
        T, (Tx, B, C, H, W) = self.program.T, x.shape
        to = Map(np.empty((B, C, H, T, words(W)), np.uint16), stage.value, B, W)
        strides = (C * H * W, H * W, W, B * C * H * W if Tx > 1 else 0)
        return self._fired(stage, x, strides, W, to, potentials)

    def _fired(
        self,
        stage: Stage,
        x: Floats,
        strides: tuple[int, ...],
        readable: int,
        to: Map,
        potentials: list[Any] | None,
    ) -> Map:
        v = _room(to, potentials)
        assert stage.neurons is not None
        neurons = self._neurons[stage.neurons]
        last = v.data if v else None
        self._kernels.fire(x, strides, readable, to.shape, neurons, to.data, last, self.threads)
        _keep(v, potentials)
        return to

    # --- the rest --------------------------------------------------------------------------------

    def _flatten(self, x: Map, value: Value) -> Map:
        if x.lanes != "columns":
            return x
        moves = x.T == self.program.T  # events are not repeated
        if x.spikes and moves and x.batch <= _FEW and not self._flat_by_samples:
            return Map(x.data, value, x.batch, x.width, "features")
        if not x.spikes:
            return laid_out(unfolded(x).reshape(x.T, x.batch, *value.shape), value)
        group = group_of(x.batch)
        out = np.empty((-(-x.batch // group), value.size, 1, x.T, words(group)), np.uint16)
        self._kernels.flatten(x.data, x.shape, group, out, self.threads)
        return Map(out, value, x.batch, group, "samples")

    def _pool(self, pool: Pool, x: Map, value: Value) -> Map:
        to = empty(x, value, x.T, pool.kind == "max")
        shape = x.shape, pool.kernel, pool.stride
        if pool.kind == "max":
            self._kernels.pool_max(x.data, *shape, pool.padding, to.data, self.threads)
        else:
            self._kernels.pool_average(x.data, *shape, to.data, self.threads)
        return to

    def _timed(self, x: Tensor) -> list[tuple[str, str, float, int, float]]:
        maps, rows = {0: self._input(x)}, []
        for stage in self._stages:
            given = maps[stage.sources[0]]
            start = time.perf_counter()
            self._advance(stage, maps, None)
            seconds = time.perf_counter() - start
            rows.append((stage.name, *self._work(stage, given, seconds)))
        return rows

    def _work(self, stage: Stage, x: Map, seconds: float) -> tuple[str, float, int, float]:
        if not isinstance(layer := stage.operation, Convolution):
            return "", seconds, 0, 0.0
        synapses = len(layer.weight.values)
        x = _suited(x, layer)
        kernel = self.kernel or self._chosen[stage.step, x.lanes, x.batch, x.T]
        events = kernel == "sparse" and x.lanes == "features"
        operations = self._sums(stage, x) * synapses / len(layer.bias)
        return "events" if events else kernel, seconds, synapses, operations


def _stages(program: Program) -> Iterator[Stage]:
    """Steps, convolutions together with the neurons that alone listen to them."""
    uses = np.bincount([source for step in program.steps for source in step.sources])
    taken = -1
    for number, step in enumerate(program.steps):
        if number <= taken:
            continue
        taken = _reached(program, number, uses)
        fires = isinstance(program.steps[taken].operation, Neuron)
        name = step.name if taken == number else f"{step.name} + {program.steps[taken].name}"
        neurons = taken if fires else None
        value = program.values[taken + 1]
        yield Stage(name, number, taken, step.sources, neurons, step.operation, value)


def _reached(program: Program, number: int, uses: Any) -> int:
    """The step of the neurons right behind a convolution, repeated or not; else the step itself."""
    if not isinstance(program.steps[number].operation, Convolution):
        return number
    for last in range(number + 1, len(program.steps)):
        after = program.steps[last]
        alone = after.sources == (last,) and uses[last] == 1
        if not alone or not isinstance(after.operation, Repeat | Neuron):
            return number
        if isinstance(after.operation, Neuron):
            return last
    return number


def _needs_samples(program: Program) -> bool:
    """Whether something treats each flat feature in its own way."""
    return any(
        program.values[step.sources[0]].shape[1:] == (1, 1) and _own_way(step.operation)
        for step in program.steps
    )


def _own_way(operation: Operation) -> bool:
    adapts = isinstance(operation, Neuron) and operation.beta is not None
    return adapts or isinstance(operation, Affine)


def _compiled(kernels: Any, neuron: Neuron) -> Any:
    charge, constant = neuron.charge, neuron.constant
    if charge == "divide" and abs(np.frexp(constant)[0]) == 0.5 and abs(constant) > 1e-30:
        charge, constant = "multiply", 1.0 / constant  # of a power of two: the same bits, quicker
    return kernels.Neurons(
        _CHARGES.index(charge),
        constant,
        neuron.threshold,
        None if neuron.reset is None else neuron.reset + 0.0,
        neuron.beta,
        neuron.recovery,
        1.0 - neuron.recovery,
    )


def _suited(x: Map, layer: Convolution) -> Map:
    """A map in lanes that a layer's kernels can do with."""
    local = layer.weight.shape[2:] == (1, 1) and layer.padding == (0, 0)
    if x.lanes != "columns" and not local:
        return laid_out(unfolded(x), x.value, flat=False)
    if x.lanes == "features" and (not x.spikes or layer.groups > 1):
        return laid_out(unfolded(x), x.value)
    return x


def _alike(one: Map, other: Map) -> bool:
    """Whether two maps of one shape lie alike: flat features may lie as those of any map did."""
    where = [(x.lanes, x.width, x.data.shape[:3]) for x in (one, other)]
    return where[0] == where[1]


def _room(to: Map, potentials: list[Any] | None) -> Map | None:
    return None if potentials is None else empty(to, to.value, 1, False)


def _keep(v: Map | None, potentials: list[Any] | None) -> None:
    if v is not None and potentials is not None:
        potentials.append(unfolded(v)[0])


def _seconds(run: Any, runs: int = 3) -> float:
    """The least of some runs: the first may have to find memory, any may be disturbed."""
    found = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return min(found)


@functools.cache
def _products_per_second(threads: int) -> float:
    """How many products of a dense layer this machine adds up at best."""
    x = torch.rand(512, 512)
    with torch.inference_mode():
        return 512.0**3 / _seconds(lambda: x @ x)


@functools.cache
def _weights_per_second(threads: int) -> float:
    """How many weights this machine reads at best: these may still be in a cache, unlike many."""
    x = torch.ones(2**21)
    with torch.inference_mode():
        return len(x) / _seconds(x.sum)
