"""Maps: how the engine lays values out in memory.

Sixteen columns of a row are the lanes of a vector. A map of spikes has a bit for each, one word
(uint16) after the other: (N, C, H, T, words); a map of numbers has floats (N, C, H, T, 16 words),
T being 1 if they are the same at all time steps. Flat features have one of two forms: with a lane
for each *sample* (N groups of samples, C features, W samples of a group), or, of a few samples,
those of each sample in the order in which they lie in a map (N, C, H, T, words) of columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from spikewire.runtime.program import Floats, Value

LANES = 16
_ONE = np.float32(1).view(np.uint32)


@dataclass(frozen=True, eq=False)
class Map:
    """A value of a batch, laid out.

    Attributes:
        data: uint16 words of spikes or float32 numbers, as the module says.
        value: what it is of one sample.
        batch: samples.
        width: columns of a row, or samples of a group: how many lanes mean something.
        lanes: "columns" of maps, "samples", or "features": columns, but of flat features.
    """

    data: np.ndarray[Any, Any]
    value: Value
    batch: int
    width: int
    lanes: str = "columns"

    @property
    def spikes(self) -> bool:
        return self.data.dtype == np.uint16

    @property
    def T(self) -> int:  # noqa: N802
        return self.data.shape[3]

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """(N, C, H, W, T), as kernels ask for it."""
        N, C, H, T = self.data.shape[:4]
        return N, C, H, self.width, T


def words(width: int) -> int:
    """Vectors for so many lanes."""
    return -(-width // LANES)


def empty(like: Map, value: Value, T: int, spikes: bool) -> Map:
    """A map to be written to, for a value that is computed from that of another map."""
    channels, height, width = value.shape
    if like.lanes == "samples":
        shape, width = (len(like.data), channels, height, T, words(like.width)), like.width
    elif like.lanes == "features":
        shape, width = (like.batch, 1, 1, T, words(value.size)), value.size
    else:
        shape = (like.batch, channels, height, T, words(width))
    if spikes:
        return Map(np.empty(shape, np.uint16), value, like.batch, width, like.lanes)
    make = np.empty if width % LANES == 0 else np.zeros  # lanes that mean nothing are numbers too
    numbers = make((*shape[:-1], shape[-1] * LANES), np.float32)
    return Map(numbers, value, like.batch, width, like.lanes)


def laid_out(x: Floats, value: Value, binary: bool | None = None, flat: bool | None = None) -> Map:
    """Numbers (T or 1, B, C, H, W) as a map.

    Args:
        x: the numbers.
        value: what they are.
        binary: whether as spikes; None if they are nothing but zeros and ones.
        flat: whether by samples; None if these are flat features.
    """
    _, B, _, _, W = x.shape
    flat = value.shape[1:] == (1, 1) if flat is None else flat
    rows = _by_samples(x) if flat else np.ascontiguousarray(x.transpose(1, 2, 3, 0, 4))
    width = rows.shape[4]
    if binary is None:
        binary = value.sequence and _binary(x)
    padded = _padded(rows)
    data = _packed(padded) if binary else padded
    return Map(data, value, B, width if flat else W, "samples" if flat else "columns")


def _binary(x: Floats) -> bool:
    """Whether they are nothing but +0 and 1, whatever the process thinks of denormal numbers."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    return bool(((bits == 0) | (bits == _ONE)).all())


def _by_samples(x: Floats) -> Floats:
    """(T, B, F, 1, 1) to (groups, F, 1, T, samples of a group)."""
    T, B, F = x.shape[:3]
    group = group_of(B)
    padded = np.zeros((T, -(-B // group) * group, F), np.float32)
    padded[:, :B] = x.reshape(T, B, F)
    return padded.reshape(T, -1, group, F).transpose(1, 3, 0, 2)[:, :, None]


def group_of(batch: int) -> int:
    """How many samples share vectors: their lanes must not be empty, nor too many for registers."""
    return LANES if batch <= LANES else 2 * LANES


def _padded(rows: Floats) -> Floats:
    width = rows.shape[-1]
    if width % LANES == 0:
        return np.ascontiguousarray(rows)
    padded = np.zeros((*rows.shape[:-1], words(width) * LANES), np.float32)
    padded[..., :width] = rows
    return padded


def _packed(numbers: Floats) -> np.ndarray[Any, Any]:
    bits = np.packbits(numbers != 0, axis=-1, bitorder="little")
    return bits.view(np.dtype("<u2")).astype(np.uint16)


def numbers_of(map: Map) -> Map:
    """The same as numbers."""
    if not map.spikes:
        return map
    bits = map.data.astype(np.dtype("<u2")).view(np.uint8)
    numbers = np.unpackbits(bits, axis=-1, bitorder="little").astype(np.float32)
    return Map(numbers, map.value, map.batch, map.width, map.lanes)


def unfolded(map: Map) -> Floats:
    """A map as numbers (T or 1, B, C, H, W)."""
    numbers = numbers_of(map).data
    if map.lanes == "samples":  # (groups, F, 1, T, samples)
        flat = numbers[:, :, 0].transpose(2, 0, 3, 1).reshape(map.T, -1, map.value.size)
        return flat[:, : map.batch, :, None, None]
    columns = numbers[..., : map.width].transpose(3, 0, 1, 2, 4)
    return columns.reshape(map.T, map.batch, *map.value.shape)
