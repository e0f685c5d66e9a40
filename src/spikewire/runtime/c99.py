"""C99: a program as a folder of plain C for microcontrollers, which gives the reference's bits.

Only synapses that are there are stored. Time steps are computed one after the other, so that only
membrane potentials last. The number at each place of a layer is a C function; it is called where
the number is needed, if that is once and in the same order, and else fills a buffer. Buffers that
are needed no more are used again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from spikewire import formats
from spikewire.runtime.file import rounded, stored
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
    Step,
    Value,
    Vote,
)
from spikewire.runtime.reference import trace
from spikewire.spelling import check

Precision = Literal["float32", "int8"]
"""How weights are stored."""

_FLAGS = "-std=c99 -ffp-contract=off -O2"
_LARGEST = 2**31 - 1  # of an int32_t, which numbers places
_PER_CHANNEL = "biases and other numbers per channel"
_KINDS = ("weights", "indices", _PER_CHANNEL)


def write(
    folder: Path | str,
    program: Program,
    *,
    precision: Precision = "float32",
    samples: Floats | None = None,
) -> Path:
    """Write network.h, network.c and main.c, an example that checks itself; returns the folder.

    The C gives the outputs, spikes and membrane potentials of the reference, bit for bit. Files of
    these names are replaced, others left alone.

    Args:
        folder: of the files; it is made if it is missing.
        program: what to write.
        precision: of weights: "int8" takes a byte for each and a scale per output channel. The C
            computes with what `file.rounded` makes of them.
        samples: float32 (T, B, C, H, W) if the program's input is a sequence, else
            (1, B, C, H, W); B samples that main.c runs. None is one sample of ones.

    Raises:
        ValueError: if the precision is unknown, the samples do not fit the program, or a layer
            has numbers that are too large; nothing is written then.
        OSError: if the folder cannot be written to.

    >>> import tempfile
    >>> from spikewire.runtime.program import Step, Value
    >>> lif = Program(4, Value((1, 1, 1), True), [Step("lif", Neuron("divide", 2.0), (0,))])
    >>> with tempfile.TemporaryDirectory() as name:
    ...     sorted(path.name for path in write(f"{name}/lif", lif).iterdir())
    ['main.c', 'network.c', 'network.h']
    """
    check("precision", precision, get_args(Precision))
    samples = _checked(samples, program)
    files = {
        "main.c": _example(rounded(program, precision), samples),
        "network.c": _network(program, precision),
        "network.h": _interface(program),
    }
    for name, text in files.items():
        formats.write(Path(folder, name), text.encode())
    return Path(folder)


# --- what is refused ------------------------------------------------------------------------------


def _checked(samples: Floats | None, program: Program) -> Floats:
    lead = program.T if program.input.sequence else 1
    if samples is None:
        return np.ones((lead, 1, *program.input.shape), np.float32)
    known = samples.dtype == np.float32 and samples.ndim == 5 and np.isfinite(samples).all()
    if not known or not samples.size or samples[:, 0].shape != (lead, *program.input.shape):
        shape = ", ".join(map(str, program.input.shape))
        raise ValueError(
            f"samples are {samples.dtype} of shape {samples.shape}: give finite numbers, float32 "
            f"of shape ({lead}, B, {shape}) for B samples"
        )
    return samples


# --- numbers in C ---------------------------------------------------------------------------------


def _float32(number: float) -> str:
    """Hexadecimal unless it is whole: C may read a decimal fraction as a neighbour of its."""
    number = float(np.float32(number))
    if number.is_integer() and abs(number) < 2**24:
        return f"{number:.1f}f"
    mantissa, exponent = number.hex().split("p")
    return f"{mantissa.rstrip('0').rstrip('.')}p{exponent}f"


@dataclass(frozen=True)
class _Table:
    """Constants in flash."""

    kind: str
    name: str
    numbers: np.ndarray[Any, Any]

    @property
    def bytes(self) -> int:
        return self.numbers.itemsize * max(1, self.numbers.size)

    @property
    def c(self) -> str:
        real = self.numbers.dtype.kind == "f"
        type, shown = ("float", _float32) if real else (f"{self.numbers.dtype}_t", str)
        words = [shown(number) for number in self.numbers.flat] or ["0"]  # C knows no empty array
        row = 95 // (max(map(len, words)) + 2)  # words that fit into a line
        lines = (", ".join(words[start : start + row]) for start in range(0, len(words), row))
        body = ",\n    ".join(lines)
        return f"static const {type} {self.name}[{len(words)}] = {{\n    {body}\n}};"


def _unsigned(numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """In the smallest type that holds them."""
    return numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))


# --- where numbers are computed and kept ----------------------------------------------------------


@dataclass
class _Buffer:
    """Room for values of one type, one at a time."""

    name: str
    type: str
    size: int = 0
    until: float = 0.0

    @property
    def bytes(self) -> int:
        return self.size * (1 if self.type == "uint8_t" else 4)


class _Plan:
    """Which values are called for, which fill buffers, and when; the output is one value more."""

    def __init__(self, program: Program) -> None:
        operations = [None, *(step.operation for step in program.steps), None]
        output = len(program.steps) + 1
        self.values = [*program.values, program.values[-1]]
        self.sources = [(), *(tuple(step.sources) for step in program.steps), (output - 1,)]
        self.names = ["input", *(_name(n, step) for n, step in enumerate(program.steps, 1))]
        self.roots = list(range(output + 1))  # without what only gives a value another name
        self.spiking = [isinstance(operation, Neuron) for operation in operations]
        for n, operation in enumerate(operations):
            if isinstance(operation, Flatten | Repeat):
                self.roots[n] = self.roots[self.sources[n][0]]
            if isinstance(operation, Pool) and operation.kind == "max":
                self.spiking[n] = self.spiking[self.roots[self.sources[n][0]]]
        self.called = set(self._called(operations))
        self.reads = self._reads()
        filling = [n for n in range(1, output + 1) if self.roots[n] == n and n not in self.called]
        self.order = sorted(filling, key=lambda n: self.values[n].sequence)
        self.arrays = {0: "input", output: "output"}
        self.buffers = self._buffers()

    def array(self, n: int) -> str | None:
        """Its name in C, or None if the number at each place is called for."""
        return self.arrays.get(self.roots[n])

    def number(self, n: int) -> str:
        """What stands in C for the number at place p."""
        return f"value_{self.names[n]}(p)" if n in self.called else f"{self.array(n)}[p]"

    def type(self, n: int) -> str:
        return "uint8_t" if self.spiking[self.roots[n]] else "float"

    def _called(self, operations: Sequence[Operation | None]) -> Iterator[int]:
        """Values that one layer takes, place by place and as often as they are computed."""
        readers: list[list[int]] = [[] for _ in self.values]
        for n, sources in enumerate(self.sources):
            for source in sources:
                readers[source].append(n)
        for n, found in enumerate(readers):
            if len(found) != 1 or n == 0 or self.roots[n] != n:
                continue
            by_place = isinstance(operations[found[0]], Add | Affine | Neuron | None)
            if by_place and self.values[n].sequence == self.values[found[0]].sequence:
                yield n

    def _reads(self) -> list[set[int]]:
        """The arrays that are read to compute each value, also by the functions it calls."""
        reads: list[set[int]] = []
        for sources in self.sources:
            found = [reads[n] if n in self.called else {self.roots[n]} for n in sources]
            reads.append(set().union(*found))
        return reads

    def _ends(self) -> dict[int, float]:
        """The place in the order after which an array is read no more."""
        ends: dict[int, float] = {}
        for place, n in enumerate(self.order):
            for read in self.reads[n]:
                again = self.values[n].sequence and not self.values[read].sequence
                ends[read] = math.inf if again else place
        return ends

    def _buffers(self) -> list[_Buffer]:
        buffers: list[_Buffer] = []
        ends = self._ends()
        for place, n in enumerate(self.order):
            if n in self.arrays:
                continue
            free = [one for one in buffers if one.type == self.type(n) and one.until < place]
            if not free:
                free = [_Buffer(f"buffer_{len(buffers)}", self.type(n))]
                buffers += free
            chosen = max(free, key=lambda one: one.size)
            chosen.size, chosen.until = max(chosen.size, self.values[n].size), ends.get(n, place)
            self.arrays[n] = chosen.name
        return buffers


def _name(n: int, step: Step) -> str:
    """Of C, and different for each step: its number comes first, as only 63 letters count."""
    return f"{n}_{re.sub('[^A-Za-z0-9]', '_', step.name)}"


# --- layers as the templates read them ------------------------------------------------------------


class _Synapses:
    """Synapses of a convolution that are there: of each output those from its start to the next's.

    A tap is the address of a synapse's source. If the map is padded, it is c, i, j, each in as many
    bits as it needs, since a source may lie outside; else it counts from the first number of a
    window.
    """

    def __init__(
        self, name: str, layer: Convolution, given: Value, found: Value, precision: Precision
    ) -> None:
        down, across = ((size - 1).bit_length() for size in layer.weight.shape[2:])
        self.padded, self.down, self.across = any(layer.padding), down, across
        self.first = " + ".join(_offsets(layer, given, found, self.padded))
        self.scaled = precision == "int8"
        numbers, scale = stored(name, layer.weight.dense(), precision)
        out, c, i, j = np.nonzero(numbers)
        _, rows, columns = given.shape
        y, x = i * layer.dilation[0], j * layer.dilation[1]
        packed, counted = (c << down | i) << across | j, (c * rows + y) * columns + x
        starts = np.searchsorted(out, np.arange(len(numbers) + 1))
        self.tables = [
            _Table("indices", f"starts_{name}", _unsigned(starts)),
            _Table("indices", f"taps_{name}", _unsigned(packed if self.padded else counted)),
            _Table("weights", f"weights_{name}", numbers[out, c, i, j]),
        ]
        if scale is not None:
            self.tables.append(_Table("weights", f"scales_{name}", scale))
        if layer.bias.any():
            self.tables.append(_Table(_PER_CHANNEL, f"bias_{name}", layer.bias + np.float32(0)))
        self.count = f"{len(out)} of {numbers.size}"


def _offsets(layer: Convolution, given: Value, found: Value, padded: bool) -> Iterator[str]:
    """Where the numbers of a group begin, and the window in them, if it lies within the map."""
    out, per_group, *_ = layer.weight.shape
    (_, height, width), (_, rows, columns) = given.shape, found.shape
    if layer.groups > 1:
        yield f"o / {out // layer.groups} * {per_group * height * width}"
    if rows > 1 and not padded:
        yield f"p / {columns} % {rows} * {layer.stride[0] * width}"
    if columns > 1 and not padded:
        yield f"p % {columns} * {layer.stride[1]}"


class _Layer:
    """A layer: `array` is all of its source, `numbers` what each of its sources has at place p."""

    def __init__(self, plan: _Plan, n: int, operation: Operation, precision: Precision) -> None:
        source = plan.sources[n][0]
        self.name = plan.names[n]
        self.operation, self.given, self.found = _seen(
            operation, plan.values[source], plan.values[n]
        )
        self.kind = type(self.operation).__name__
        area = self.found.size // self.found.shape[0]
        self.channel = f"p / {area}" if area > 1 else "p"
        self.array, self.numbers = plan.array(source), [plan.number(m) for m in plan.sources[n]]
        self.takes, self.gives = plan.type(source), plan.type(n)
        self.synapses = None
        self.tables: list[_Table] = []
        match operation:
            case Convolution():
                self.synapses = _Synapses(self.name, operation, self.given, self.found, precision)
                self.tables = self.synapses.tables
            case Neuron(beta=beta) if beta is not None:
                self.tables = [_Table(_PER_CHANNEL, f"beta_{self.name}", beta)]
            case Affine(scale, shift):
                self.tables = [
                    _Table(_PER_CHANNEL, f"scale_{self.name}", scale),
                    _Table(_PER_CHANNEL, f"shift_{self.name}", shift),
                ]


def _seen(operation: Operation, given: Value, found: Value) -> tuple[Operation, Value, Value]:
    """A vote as what it is in C: an average over a map of one channel."""
    if not isinstance(operation, Vote):
        return operation, given, found
    pool = Pool("average", (operation.size, 1), (operation.size, 1))
    given = Value((1, given.size, 1), given.sequence)
    return pool, given, pool.value(given)


@dataclass(frozen=True)
class _Fill:
    """An array, and what each of its places is set to."""

    array: str
    size: int
    number: str


def _resets(layer: _Layer) -> Iterator[_Fill]:
    if isinstance(neuron := layer.operation, Neuron):
        rest = _float32(neuron.reset or 0.0)
        yield _Fill(f"potential_{layer.name}", layer.found.size, rest)
        if neuron.beta is not None:
            yield _Fill(f"adaptation_{layer.name}", layer.found.size, _float32(0))


def _fill(plan: _Plan, n: int) -> _Fill:
    size, output = plan.values[n].size, len(plan.values) - 1
    if n < output:
        return _Fill(plan.arrays[n], size, f"value_{plan.names[n]}(p)")
    number = plan.number(n - 1)
    return _Fill("output", size, f"output[p] + {number}" if plan.values[n].sequence else number)


# --- files ----------------------------------------------------------------------------------------


def _interface(program: Program) -> str:
    lead = [program.T] if program.input.sequence else []
    shape = [*lead, *program.input.shape]
    return _render("network.h", program=program, shape=shape, inputs=math.prod(shape))


def _network(program: Program, precision: Precision) -> str:
    plan = _Plan(program)
    layers = [
        _Layer(plan, n, step.operation, precision)
        for n, step in enumerate(program.steps, 1)
        if plan.roots[n] == n
    ]
    resets = [reset for layer in layers for reset in _resets(layer)]
    state = [_Buffer(reset.array, "float", reset.size) for reset in resets]
    tables = [table for layer in layers for table in layer.tables]
    once, in_time = (
        [_fill(plan, n) for n in plan.order if plan.values[n].sequence == sequence]
        for sequence in (False, True)
    )
    output = program.values[-1]
    zero, mean = (
        [_Fill("output", output.size, number)] if output.sequence else []
        for number in (_float32(0), f"output[p] / {_float32(program.T)}")
    )
    return _render(
        "network.c",
        layers=layers,
        table=_listed(layers),
        tables=tables,
        flash={kind: sum(t.bytes for t in tables if t.kind == kind) for kind in _KINDS},
        ram={
            "membrane potentials and thresholds": sum(one.bytes for one in state),
            "values of one time step": sum(one.bytes for one in plan.buffers),
            "a pointer and a counter, where addresses have 32 bits": 8,
        },
        state=[*state, *plan.buffers],
        before=[*resets, *once, *zero],
        in_time=in_time,
        after=mean,
        frame=program.input.size if program.input.sequence else 0,
    )


def _listed(layers: Sequence[_Layer]) -> Iterator[str]:
    rows = [("layer", "shape", "synapses")]
    for layer in layers:
        shape = " x ".join(map(str, layer.found.shape))
        rows.append((layer.name, shape, layer.synapses.count if layer.synapses else ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        words = (word.ljust(width) for word, width in zip(row, widths, strict=True))
        yield "  ".join(words).rstrip()


def _example(program: Program, samples: Floats) -> str:
    found = trace(program, samples)
    output = found.values[-1]
    mean = np.zeros(output.shape[1:], np.float32)
    for step in output:
        mean += step
    mean /= np.float32(len(output))
    spikes = np.zeros(samples.shape[1], np.int64)
    for n in found.potentials:
        spikes += np.count_nonzero(found.values[n + 1], axis=(0, 2, 3, 4))
    tables = [
        _Table("samples", "samples", samples.swapaxes(0, 1)),
        _Table("samples", "expected", mean),
        _Table("samples", "expected_spikes", spikes.astype(np.uint32)),
    ]
    return _render("main.c", tables=tables, samples=samples.shape[1])


def _render(name: str, **facts: Any) -> str:
    return _environment().get_template(f"{name}.j2").render(flags=_FLAGS, **facts)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("spikewire"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["float32"] = _float32
    return environment
