"""Program: what a network is to the engine, a list of steps that needs no class of the user's.

A value is a map of numbers (C, H, W) for each sample, either one map for all time steps or one for
each; flat features are (F, 1, 1). Value 0 is the input, value i + 1 what step i gives. Everything
is checked when a program is made, so whoever runs one need not.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np

Shape = tuple[int, int, int]
"""Channels, height, width."""
Pair = tuple[int, int]
"""Of the vertical and the horizontal direction."""
Floats = np.ndarray[Any, np.dtype[np.float32]]

_FLOAT = float(np.finfo(np.float32).max)
MOST_STEPS = 256
"""Time steps that a program may have."""
# Numbers in a value over all time steps, and rows around a map: no file may ask for more memory
# than a machine has.
_LARGEST, _MOST_PADDING = 2**28, 1024


@dataclass(frozen=True)
class Value:
    """What is known of a value before it is computed: its shape, and whether it varies in time."""

    shape: Shape
    sequence: bool

    @property
    def size(self) -> int:
        """Numbers in it, of one sample and time step."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight as the synapses that are left, those of each output in row-major order.

    Args:
        shape: (out, in / groups, height, width).
        starts: int64 (out + 1,), where the synapses of each output begin, and where the last end.
        places: int32 (synapses,), in (in / groups, height, width) made flat, ascending.
        values: float32 (synapses,).
    """

    shape: tuple[int, ...]
    starts: np.ndarray[Any, np.dtype[np.int64]]
    places: np.ndarray[Any, np.dtype[np.int32]]
    values: Floats

    @classmethod
    def of(cls, array: Floats) -> Self:
        """What is not 0 of an array.

        >>> Weight.of(np.float32([[[[0.0]], [[0.5]]], [[[2.0]], [[0.0]]]])).places.tolist()
        [1, 0]
        """
        return cls.at(array.shape, np.flatnonzero(array), array[array != 0])

    @classmethod
    def at(cls, shape: tuple[int, ...], places: np.ndarray, values: Floats) -> Self:
        """From ascending places in the whole array made flat; values of 0 are no synapses."""
        if not values.all():
            places, values = places[values != 0], values[values != 0]
        rows = math.prod(shape[1:]) * np.arange(shape[0] + 1)
        starts = np.searchsorted(places, rows)
        within = places - np.repeat(rows[:-1], np.diff(starts))
        return cls(shape, starts, within.astype(np.int32), values)

    @property
    def parts(self) -> tuple[tuple[int, ...], np.ndarray, np.ndarray, Floats]:
        """What it is made of, for the kernels."""
        return self.shape, self.starts, self.places, self.values

    def dense(self) -> Floats:
        """The array, zeros included."""
        array = np.zeros(self.shape, self.values.dtype)
        outputs = np.repeat(np.arange(self.shape[0]), np.diff(self.starts))
        array.reshape(self.shape[0], -1)[outputs, self.places] = self.values
        return array


@dataclass(frozen=True, eq=False)
class Convolution:
    """``y[o] = bias[o] + sum w[o, c, i, j] x[c, ...]``, added up in the order of c, i, j.

    Each product is rounded to float32, then each sum. A linear layer is one of size 1 x 1.

    Args:
        weight: of shape (out, in / groups, height, width).
        bias: float32 (out,).
        stride, padding, dilation: of both directions.
        groups: into how many parts channels are divided.
    """

    weight: Weight
    bias: Floats
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def value(self, x: Value) -> Value:
        if len(self.weight.shape) != 4:
            raise ValueError(f"weight has shape {self.weight.shape}, not 4 dimensions")
        _array("weight", self.weight.values, 1)
        out, per_group, *kernel = self.weight.shape
        if len(_array("bias", self.bias, 1)) != 1 or self.bias.shape != (out,):
            raise ValueError(f"bias has shape {self.bias.shape}, not ({out},)")
        channels, *size = x.shape
        if self.groups < 1 or out % self.groups or per_group * self.groups != channels:
            raise ValueError(
                f"a weight of shape {self.weight.shape} in {self.groups} groups does not fit "
                f"{channels} channels"
            )
        height, width = _slid(size, kernel, self.stride, self.padding, self.dilation)
        return Value((out, height, width), x.sequence)


Charge = Literal["integrate", "divide", "multiply", "leak"]


@dataclass(frozen=True, eq=False)
class Neuron:
    """A layer of neurons: spikes from currents x, one rounding to float32 for each operation.

    ```
    u = v + x                         "integrate"
    u = v + (x - (v - r)) / k         "divide"
    u = v + (x - (v - r)) k           "multiply"
    u = ((v - r) k + r) + x           "leak"
    A = threshold + beta b,           S = 1 if u >= A else 0
    v = r where S else u              reset = r
    v = u - A where S else u          reset = None, with r = 0
    b = recovery b + (1 - recovery) S
    ```

    v begins at r, b at 0. Without `beta`, A is the threshold.

    Args:
        charge: how the membrane takes a current in.
        constant: k.
        threshold: of u.
        reset: membrane potential after a spike, None to subtract A from it.
        beta: float32 (C,), by how much b raises the threshold, or None.
        recovery: what b keeps from step to step, in [0, 1].
    """

    charge: Charge
    constant: float = 1.0
    threshold: float = 1.0
    reset: float | None = 0.0
    beta: Floats | None = None
    recovery: float = 0.0

    def value(self, x: Value) -> Value:
        if not x.sequence:
            raise ValueError("a layer of neurons needs a sequence: repeat its current first")
        if self.charge not in ("integrate", "divide", "multiply", "leak"):
            raise ValueError(f"no charge {self.charge!r}")
        numbers = (self.constant, self.threshold, self.reset or 0.0, self.recovery)
        if not all(isinstance(one, int | float) and abs(one) <= _FLOAT for one in numbers):
            raise ValueError(f"its constants are {numbers}, not finite numbers of float32")
        if not 0 <= self.recovery <= 1:
            raise ValueError(f"its recovery is {self.recovery:g}, not in [0, 1]")
        if self.charge == "divide" and np.float32(self.constant) == 0:
            raise ValueError(f"it divides by {self.constant:g}, which is 0 in float32")
        if self.beta is not None and _array("beta", self.beta, 1) != (x.shape[0],):
            raise ValueError(f"beta has shape {self.beta.shape}, not ({x.shape[0]},)")
        return x


@dataclass(frozen=True)
class Pool:
    """The largest number, or the sum divided by how many there are, of each window of a map.

    Args:
        kind: "max" or "average".
        kernel, stride, padding: of both directions; only "max" may be padded, by less than a
            window, and what is padded never is the largest.
    """

    kind: Literal["max", "average"]
    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)

    def value(self, x: Value) -> Value:
        if self.kind not in ("max", "average"):
            raise ValueError(f"no pooling {self.kind!r}")
        if self.kind == "average" and any(self.padding):
            raise ValueError("padding of an average is not understood")
        if any(p >= k for p, k in zip(self.padding, self.kernel, strict=True)):
            raise ValueError(f"padding {self.padding} reaches beyond windows of {self.kernel}")
        height, width = _slid(x.shape[1:], self.kernel, self.stride, self.padding, (1, 1))
        return Value((x.shape[0], height, width), x.sequence)


@dataclass(frozen=True)
class Add:
    """The sum of two values of the same shape; what does not vary in time is added at each step."""

    def value(self, x: Value, y: Value) -> Value:
        if x.shape != y.shape:
            raise ValueError(f"shapes {x.shape} and {y.shape} cannot be added")
        return Value(x.shape, x.sequence or y.sequence)


@dataclass(frozen=True, eq=False)
class Affine:
    """``y[c] = x[c] scale[c] + shift[c]``: a normalisation that stands alone.

    Args:
        scale, shift: float32 (C,).
    """

    scale: Floats
    shift: Floats

    def value(self, x: Value) -> Value:
        for name in ("scale", "shift"):
            if _array(name, getattr(self, name), 1) != (x.shape[0],):
                raise ValueError(f"{name} does not fit {x.shape[0]} channels")
        return x


@dataclass(frozen=True)
class Flatten:
    """(C, H, W) as (C H W, 1, 1), in that order."""

    def value(self, x: Value) -> Value:
        return Value((x.size, 1, 1), x.sequence)


@dataclass(frozen=True)
class Repeat:
    """What does not vary in time, at each time step."""

    def value(self, x: Value) -> Value:
        if x.sequence:
            raise ValueError("what is a sequence already cannot be repeated")
        return Value(x.shape, True)


@dataclass(frozen=True)
class Vote:
    """The mean of each `size` features that follow one another: their sum divided by `size`."""

    size: int

    def value(self, x: Value) -> Value:
        features = x.shape[0]
        if x.shape[1:] != (1, 1) or self.size < 1 or features % self.size:
            raise ValueError(f"a vote of {self.size} does not fit a value of shape {x.shape}")
        return Value((features // self.size, 1, 1), x.sequence)


Operation = Convolution | Neuron | Pool | Add | Affine | Flatten | Repeat | Vote


@dataclass(frozen=True, eq=False)
class Step:
    """An operation on values that came before.

    Args:
        name: of the module in the network that it was made of.
        operation: what is done.
        sources: numbers of the values it takes.
    """

    name: str
    operation: Operation
    sources: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Program:
    """A network as a list of steps; the last one's value is the output.

    Args:
        T: time steps, 1 to 256.
        input: what a sample is; a sequence has T steps.
        steps: in an order in which each has its sources before it.

    Attributes:
        values: of the input and of every step.

    Raises:
        ValueError: naming the step, if they do not fit together.

    >>> ones = Weight.of(np.ones((2, 3, 1, 1), np.float32))
    >>> layer = Convolution(ones, np.zeros(2, np.float32))
    >>> Program(4, Value((3, 1, 1), True), [Step("fc", layer, (0,))]).values[-1]
    Value(shape=(2, 1, 1), sequence=True)
    """

    T: int
    input: Value
    steps: Sequence[Step]
    values: tuple[Value, ...] = field(init=False)

    def __post_init__(self) -> None:
        if not 1 <= self.T <= MOST_STEPS:
            raise ValueError(f"T is {self.T}; a program has 1 to {MOST_STEPS} time steps")
        if not self.steps:
            raise ValueError("a program needs at least one step")
        self._check_size("the input", self.input)
        values = [self.input]
        for step in self.steps:
            try:
                given = [values[_known(source, len(values))] for source in step.sources]
                value = step.operation.value(*given)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{step.name}: {error}") from None
            self._check_size(step.name, value)
            values.append(value)
        object.__setattr__(self, "values", tuple(values))

    def _check_size(self, name: str, value: Value) -> None:
        numbers = value.size * (self.T if value.sequence else 1)
        if min(value.shape) < 1 or numbers > _LARGEST:
            raise ValueError(f"{name}: a value of shape {value.shape} is empty or too large")

    @functools.cached_property
    def last(self) -> dict[int, int]:
        """The step after which each value is needed no more."""
        ends = {source: place for place, step in enumerate(self.steps) for source in step.sources}
        return ends | {len(self.steps): len(self.steps)}


def _known(source: int, count: int) -> int:
    if not 0 <= source < count:
        raise ValueError(f"it takes value {source}, of {count} that there are")
    return source


def _array(name: str, array: Floats, dims: int) -> tuple[int, ...]:
    """Its shape, if it is a finite float32 array of so many dimensions."""
    if array.dtype != np.float32 or array.ndim != dims or not np.isfinite(array).all():
        raise ValueError(f"{name} is no finite float32 array of {dims} dimensions")
    return array.shape


def _slid(
    size: Sequence[int], kernel: Sequence[int], stride: Pair, padding: Pair, dilation: Pair
) -> list[int]:
    """How many places a window finds in each direction."""
    found = []
    for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True):
        if k < 1 or s < 1 or p < 0 or d < 1 or max(k, s, d) > _LARGEST or p > _MOST_PADDING:
            raise ValueError(f"kernel {k}, stride {s}, padding {p}, dilation {d} are no window")
        found.append((n + 2 * p - d * (k - 1) - 1) // s + 1)
    return found
