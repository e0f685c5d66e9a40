"""File: a program in one safetensors file, of its weights only those that survive.

The metadata has one entry, ``spikewire-network-1``: JSON of T, the input, the steps and the facts.
A step has its name, its operation, its sources if they are not just the value before it, and the
fields of the operation that differ from their defaults; an array is there by its shape. The weight
of step 3 lies in these tensors:

    3.weight         surviving values in row-major order: F32, F16 or I8
    3.weight.bits    where they are: eight entries to a byte, the first in the highest bit,
    3.weight.gaps    or how many zeros g are before each, and after the last: g // 255 bytes of
                     255, then one of g % 255
    3.weight.scale   of I8: F32, what the values of each output channel are multiplied by

Without bits and gaps, zeros are stored as well. Other arrays lie in tensors alike, but all as F32.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, create_model
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as encode

from spikewire.formats import write
from spikewire.runtime.program import Convolution, Floats, Operation, Program, Step, Value, Weight
from spikewire.spelling import check

Precision = Literal["float32", "float16", "int8"]
"""How weights are stored."""

_FORMAT = "spikewire-network-1"
_MOST_TEXT = 2**20  # characters; so that reading them takes little memory
_MOST_NUMBERS = 2**28  # of all arrays together: gaps make 1 KiB of one byte


def save(
    path: Path | str,
    program: Program,
    *,
    precision: Precision = "float32",
    facts: Mapping[str, Any] | None = None,
) -> int:
    """Write a program; returns the file's size in bytes.

    k survivors of n weights of b bytes each become ``b k + min(n / 8, k)`` bytes, and a few more
    if there are gaps of 255 zeros and longer; where that gains nothing, all n are stored. `load`
    reads the file back.

    Args:
        path: of the file; what was there is replaced, in one step.
        program: at most 2**28 numbers in all.
        precision: of weights, see `rounded`; everything else stays float32.
        facts: what else to keep, such as the names of classes: nested dicts and lists of finite
            numbers, texts, bools, None. Keys come back as texts, tuples as lists.

    Raises:
        ValueError: if a weight is too large for the precision, the program is too large, or the
            facts are no such values; the file is then left as it was.
        OSError: if the place cannot be written to.

    >>> import tempfile
    >>> weight = Weight.of(np.eye(100, dtype=np.float32)[..., None, None])
    >>> layer = Convolution(weight, np.zeros(100, np.float32))
    >>> program = Program(4, Value((100, 1, 1), True), [Step("fc", layer, (0,))])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/net.spikewire", program) < 4 * 100 + 100 + 4 * 100 + 500
    True
    """
    check("precision", precision, get_args(Precision))
    tensors: dict[str, np.ndarray] = {}
    told = {
        "T": program.T,
        "input": program.input.shape,
        "sequence": program.input.sequence,
        "steps": [_told(n, step, precision, tensors) for n, step in enumerate(program.steps)],
        "facts": facts or {},
    }
    try:
        text = json.dumps(told, allow_nan=False, separators=(",", ":"))
        _understood(text)  # what could not be read is not written
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} cannot hold this network ({error}): it may have {_MOST_NUMBERS} numbers, and "
            "facts of nested dicts and lists of finite numbers, texts, bools, None"
        ) from None
    # one entry: with several, their order in the file would be a matter of chance
    content = encode(tensors, metadata={_FORMAT: text})
    write(path, content)
    return len(content)


def load(path: Path | str) -> tuple[Program, dict[str, Any]]:
    """The program and the facts of a file that `save` wrote, everything checked before its use.

    Args:
        path: of the file. It may come from anyone: nothing in it is executed, and it makes no
            more than 2**28 numbers.

    Raises:
        ValueError: if the file is not of this format or does not fit together.
        FileNotFoundError: if there is no such file.

    >>> import tempfile
    >>> from spikewire.runtime.program import Neuron
    >>> program = Program(4, Value((3, 1, 1), True), [Step("lif", Neuron("divide", 2.0), (0,))])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "net.spikewire"
    ...     _ = save(path, program, facts={"classes": ["cat", "dog"]})
    ...     program, facts = load(path)
    >>> program.steps[0].operation.constant, facts
    (2.0, {'classes': ['cat', 'dog']})
    """
    try:
        with safe_open(path, framework="np") as file:
            return _loaded(file)
    except (SafetensorError, ValueError) as error:
        reason = "".join(c if c.isprintable() else " " for c in str(error))[:200]
        raise ValueError(
            f"{path} is no network of spikewire ({reason}): give a file that `spikewire export` "
            "wrote"
        ) from None


def rounded(program: Program, precision: Precision) -> Program:
    """What a program becomes when it is stored: `load` gives these very bits.

    Args:
        program: any; it is left as it is.
        precision: of weights. "float32" makes -0 to 0 and changes nothing else, "float16" rounds
            to the nearest, "int8" to the nearest multiple of the largest of the output channel
            divided by 127.

    Raises:
        ValueError: if a weight is too large for the precision, naming the step.

    >>> weight = Weight.of(np.float32([[[[1.0]], [[0.3]]]]))
    >>> layer = Convolution(weight, np.zeros(1, np.float32))
    >>> program = Program(4, Value((2, 1, 1), True), [Step("fc", layer, (0,))])
    >>> rounded(program, "int8").steps[0].operation.weight.values.tolist()
    [1.0, 0.29921260476112366]
    """
    check("precision", precision, get_args(Precision))
    steps = tuple(_rounded(step, precision) for step in program.steps)
    return Program(program.T, program.input, steps)


# --- weights as they are stored ------------------------------------------------------------------


def _rounded(step: Step, precision: Precision) -> Step:
    layer = step.operation
    if not isinstance(layer, Convolution):
        return step
    weight = _restored(*stored(step.name, layer.weight.dense(), precision))
    return replace(step, operation=replace(layer, weight=Weight.of(weight)))


def stored(layer: str, weight: Floats, precision: Precision) -> tuple[np.ndarray, Floats | None]:
    """A weight as it is stored, zeros included, and for int8 the scales of output channels."""
    scale = None
    if precision == "int8":
        scale = np.abs(weight).max((1, 2, 3)) / np.float32(127)
        quotients = weight / np.where(scale > 0, scale, np.float32(1))[:, None, None, None]
        # where the scale is subnormal, a quotient may be larger
        numbers = np.rint(quotients).clip(-127, 127).astype(np.int8)
    else:
        with np.errstate(over="ignore"):
            numbers = weight.astype(precision) + 0  # makes -0 to 0, of which a file knows one
    if not np.isfinite(_restored(numbers, scale)).all():
        raise ValueError(
            f"{layer}: a weight of {np.abs(weight).max():g} is too large for {precision}: "
            "store the network as float32"
        )
    return numbers, scale


def _restored(stored: np.ndarray, scale: Floats | None) -> Floats:
    weight = stored.astype(np.float32, copy=False)
    if scale is None:
        return weight
    with np.errstate(over="ignore"):
        return weight * scale[:, None, None, None]


def _gaps(places: np.ndarray, size: int) -> np.ndarray:
    """Ascending positions as the numbers of zeros between them.

    Those after the last count as well, so that no small file can claim a large array.
    """
    gaps = np.diff(places, prepend=-1, append=size) - 1
    ends = np.cumsum(gaps // 255 + 1) - 1
    code = np.full(ends[-1] + 1, 255, np.uint8)
    code[ends] = gaps % 255
    return code


def _from_gaps(name: str, code: np.ndarray, size: int) -> np.ndarray:
    ends = np.flatnonzero(code < 255)
    places = np.cumsum(code, dtype=np.int64)[ends] + np.arange(len(ends))
    if not len(places) or code[-1] == 255 or places[-1] != size:
        raise ValueError(f"{name}: {len(code)} bytes of gaps do not add up to {size} entries")
    return places[:-1]


def _from_bits(name: str, code: np.ndarray, size: int) -> np.ndarray:
    bits = np.unpackbits(code)
    if len(code) != (size + 7) // 8 or bits[size:].any():
        raise ValueError(f"{name}: {len(code)} bytes of bits do not fit {size} entries")
    return np.flatnonzero(bits)


# --- writing -------------------------------------------------------------------------------------


def _told(
    number: int, step: Step, precision: Precision, tensors: dict[str, np.ndarray]
) -> dict[str, Any]:
    """A step as JSON; its arrays go to the tensors."""
    told: dict[str, Any] = {"name": step.name, "operation": type(step.operation).__name__}
    if step.sources != (number,):
        told["sources"] = step.sources
    for field in fields(step.operation):
        value = getattr(step.operation, field.name)
        if isinstance(value, Weight):
            value = value.dense()
        if isinstance(value, np.ndarray):
            tensors |= _tensors(f"{number}.{field.name}", step.name, value, precision)
            value = value.shape
        if value != field.default:  # for another default, change the name of the format
            told[field.name] = value
    return told


def _tensors(name: str, layer: str, array: Floats, precision: Precision) -> dict[str, np.ndarray]:
    """What an array is stored as."""
    held, scale = stored(layer, array, precision) if array.ndim == 4 else (array, None)
    scales = {} if scale is None else {f"{name}.scale": scale}
    mask = _there(held)
    index, code = _index(mask)
    if code.nbytes + mask.sum() * held.itemsize >= held.nbytes:
        return scales | {name: held.flatten()}
    return scales | {name: held[mask], f"{name}.{index}": code}


def _there(array: np.ndarray) -> np.ndarray:
    """Which entries are not 0; outside of weights a zero may have a sign, and -0 is none."""
    return array.view(f"u{array.itemsize}") != 0


def _index(mask: np.ndarray) -> tuple[str, np.ndarray]:
    """Where the survivors are, in the smaller form."""
    bits, places = np.packbits(mask), np.flatnonzero(mask)
    if len(places) >= len(bits):  # a gap has a byte at least
        return "bits", bits
    gaps = _gaps(places, mask.size)
    return ("gaps", gaps) if len(gaps) < len(bits) else ("bits", bits)


# --- reading -------------------------------------------------------------------------------------


_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
_Size = Annotated[int, Field(ge=1, le=_MOST_NUMBERS)]
# the first error is enough: a list of all takes much memory
_Shape: Any = Annotated[tuple[_Size, ...], Field(max_length=4, fail_fast=True)]
_Sources: Any = Annotated[tuple[int, ...], Field(fail_fast=True)]
_ARRAYS = {Weight: _Shape, Floats: _Shape, Floats | None: _Shape | None}
_KINDS = {kind.__name__: kind for kind in get_args(Operation)}
_HINTS = {name: get_type_hints(kind) for name, kind in _KINDS.items()}


def _step_of(kind: type) -> Any:
    """What the JSON of a step with this operation must be."""
    told: dict[str, Any] = {
        "name": (str, ...),
        "operation": (Literal[kind.__name__], ...),  # type: ignore[valid-type]
        "sources": (_Sources | None, None),
    }
    for field in fields(kind):
        hint = _HINTS[kind.__name__][field.name]
        default = ... if field.default is MISSING else field.default
        told[field.name] = (_ARRAYS.get(hint, hint), default)
    return create_model(kind.__name__, __config__=_STRICT, **told)


_Step: Any = Annotated[
    reduce(or_, map(_step_of, _KINDS.values())), Field(discriminator="operation")
]


class _Network(BaseModel):
    """What the JSON of a network must be."""

    model_config = _STRICT
    T: int
    input: tuple[int, int, int]
    sequence: bool
    steps: Annotated[list[_Step], Field(fail_fast=True)]  # type: ignore[valid-type]
    facts: dict[str, JsonValue]


def _understood(text: str) -> _Network:
    """The JSON of a network, if it is as it must be."""
    if len(text) > _MOST_TEXT:
        raise ValueError(f"its JSON has {len(text)} characters, the most are {_MOST_TEXT}")
    try:
        told = _Network.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "its JSON"
        raise ValueError(f"{place}: {first['msg']}") from None
    json.dumps(told.facts, allow_nan=False)  # pydantic lets NaN and 1e999 pass in facts
    numbers = sum(math.prod(shape) for step in told.steps for shape in _shapes(step).values())
    if numbers > _MOST_NUMBERS:
        raise ValueError(f"it has {numbers} numbers, the most are {_MOST_NUMBERS}")
    return told


def _shapes(told: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of a step's arrays."""
    hints = _HINTS[told.operation].items()
    shapes = {name: getattr(told, name) for name, hint in hints if hint in _ARRAYS}
    return {name: shape for name, shape in shapes.items() if shape is not None}


def _loaded(file: Any) -> tuple[Program, dict[str, Any]]:
    metadata = file.metadata() or {}
    if set(metadata) != {_FORMAT}:
        raise ValueError(f"its metadata are {sorted(metadata)}, not {_FORMAT}")
    told, tensors = _understood(metadata[_FORMAT]), _Tensors(file)
    steps = [_step(number, step, tensors) for number, step in enumerate(told.steps)]
    if tensors.left:
        raise ValueError(f"no step has the tensor {min(tensors.left)}")
    return Program(told.T, Value(told.input, told.sequence), tuple(steps)), told.facts


def _step(number: int, told: Any, tensors: _Tensors) -> Step:
    kind = _KINDS[told.operation]
    given = {field.name: getattr(told, field.name) for field in fields(kind)}
    shapes = _shapes(told).items()
    arrays = {name: tensors.read(f"{number}.{name}", shape) for name, shape in shapes}
    sources = (number,) if told.sources is None else told.sources
    return Step(told.name, kind(**given | arrays), sources)


class _Tensors:
    """The tensors of a file; each is taken once, and checked before it is read."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.left = set(file.keys())

    def read(self, name: str, shape: tuple[int, ...]) -> Weight | Floats:
        """A weight, which has four dimensions, or another array."""
        if len(shape) == 4:
            return self._weight(name, shape)
        places, values = self._placed(name, self._take(name, "F32"), math.prod(shape))
        array = np.zeros(shape, np.float32)
        array.reshape(-1)[places] = values
        return array

    def _weight(self, name: str, shape: tuple[int, ...]) -> Weight:
        values = self._take(name, "F32", "F16", "I8")
        scale = self._scale(name, shape[0]) if values.dtype == np.int8 else None
        places, values = self._placed(name, values, math.prod(shape))
        values = values.astype(np.float32)
        if scale is not None:
            with np.errstate(over="ignore"):  # a program refuses what is not finite
                values *= scale[places // math.prod(shape[1:])]
        return Weight.at(shape, places, values)

    def _placed(self, name: str, values: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Where in an array of this size values are, and they; the rest of it is 0."""
        if f"{name}.bits" in self.left:
            places = _from_bits(name, self._take(f"{name}.bits", "U8"), size)
        elif f"{name}.gaps" in self.left:
            places = _from_gaps(name, self._take(f"{name}.gaps", "U8"), size)
        elif len(values) == size:
            places = np.flatnonzero(_there(values))
            values = values[places]
        else:
            raise ValueError(f"{name} has {len(values)} values for {size} and says not where")
        if len(places) != len(values):
            raise ValueError(f"{name} has {len(values)} values for {len(places)} places")
        return places, values

    def _scale(self, name: str, channels: int) -> Floats:
        scale = self._take(f"{name}.scale", "F32", count=channels)
        if scale.min() < 0:
            raise ValueError(f"{name}: a scale is {scale.min()}, below 0")
        return scale

    def _take(self, name: str, *types: str, count: int | None = None) -> np.ndarray:
        """A finite tensor of one dimension."""
        if name not in self.left:
            raise ValueError(f"tensor {name} is missing")
        self.left.remove(name)
        part = self.file.get_slice(name)
        kind, shape = part.get_dtype(), part.get_shape()
        if kind not in types or len(shape) != 1 or count not in (None, shape[0]):
            need = f"{' or '.join(types)} of shape [{count or 'n'}]"
            raise ValueError(f"tensor {name} is {kind} of shape {shape}, not {need}")
        tensor = self.file.get_tensor(name)
        if not np.isfinite(tensor).all():
            raise ValueError(f"tensor {name} has numbers that are not finite")
        return tensor
