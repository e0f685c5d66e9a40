"""Masks: which synapses exist. True means that the synapse is there.

A set of masks is a plain ``dict`` from parameter names to bool tensors, as in a state_dict.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spikewire.weights import unwrapped

NAN = "a score is NaN: look for a diverged loss, or mend the score function"


def choose(
    scores: Mapping[str, Tensor],
    keep: int | Mapping[str, int],
    *,
    floor: int = 0,
    exact: bool = True,
) -> dict[str, Tensor]:
    """Masks of the synapses with the highest scores, exactly as many as asked for.

    Args:
        scores: a tensor of scores per name; higher is more worth having, ``-inf`` is never chosen.
        keep: how many to choose: one number for a single ranking over all tensors, or a number
            for each tensor.
        floor: at least so many in each tensor, as far as it has eligible ones. In one ranking the
            total stays, unless it is below the sum of the floors.
        exact: break ties by position (first name, first index). If False, everything that ties
            with the last one chosen is chosen too.

    Raises:
        ValueError: if a score is NaN or a name is missing from ``keep``.

    >>> choose({"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0, 2.0])}, 2)
    {'a': tensor([ True, False]), 'b': tensor([ True, False])}
    """
    if not isinstance(keep, Mapping):
        return _choose_together(scores, keep, floor, exact)
    if missing := [name for name in scores if name not in keep]:
        raise ValueError(f"keep names no count for {missing[0]!r}: give one for every tensor")
    return {
        name: _strongest(name, score.flatten(), max(keep[name], floor), exact).view(score.shape)
        for name, score in scores.items()
    }


def _choose_together(
    scores: Mapping[str, Tensor], keep: int, floor: int, exact: bool
) -> dict[str, Tensor]:
    flat = torch.cat([score.flatten() for score in scores.values()])
    chosen = _split(_strongest("scores", flat, keep, exact), scores)
    low = [name for name, mask in chosen.items() if floor and _count(mask) < floor]
    if not low:
        return chosen
    # the best of each tensor come first: should there be room for nothing else, they are all
    best = torch.cat(
        [_strongest(name, score.flatten(), floor, True) for name, score in scores.items()]
    )
    others = flat.masked_fill(best, -torch.inf)
    return _split(best | _strongest("scores", others, keep - _count(best), exact), scores)


def _split(flat: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    parts = flat.split([tensor.numel() for tensor in like.values()])
    return {name: part.view(like[name].shape) for name, part in zip(like, parts, strict=True)}


def _strongest(name: str, flat: Tensor, keep: int, exact: bool) -> Tensor:
    """A bool vector that marks the ``keep`` largest entries, never one that is -inf."""
    if keep <= 0 or not len(flat):
        return torch.zeros_like(flat, dtype=torch.bool)
    threshold = _kth_largest(flat, min(keep, len(flat)))
    if threshold != threshold:
        raise ValueError(f"{name}: {NAN}")
    if threshold == -torch.inf:
        return flat > threshold
    if not exact:
        return flat >= threshold
    chosen = flat > threshold
    short = keep - _count(chosen)
    ties = _places(flat == threshold)
    chosen[ties[:short]] = True
    return chosen


def _kth_largest(flat: Tensor, k: int) -> float:
    """The k-th largest value, or NaN if any entry is NaN (which torch's max passes on).

    On the CPU numpy's vectorised partition is several times faster than torch's kthvalue and topk
    (docs/design.md, "Ranking").
    """
    if torch.isnan(flat.max()):
        return float("nan")
    if flat.device.type == "cpu":
        known = flat.float() if flat.dtype == torch.bfloat16 else flat  # unknown to numpy
        values = known.detach().numpy()
        # many equal ones slow partition down twentyfold; indexing takes thrice as long as compress
        values = np.compress(values > -np.inf, values)
        place = len(values) - k
        if place < 0:
            return -float("inf")
        values.partition(place)
        return float(values[place])
    return float(flat.topk(k).values[-1])


def _places(mask: Tensor) -> Tensor:
    """Where a bool vector is True."""
    if mask.device.type == "cpu":  # numpy takes a quarter of torch's time
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero().squeeze(1)


def _count(mask: Tensor) -> int:
    return int(torch.count_nonzero(mask))  # ten times faster than the sum of a bool tensor


def check_masks(argument: str, masks: Any, weights: Mapping[str, Tensor]) -> None:
    """Refuse what is no dict of bool masks that fit these weights.

    Raises:
        ValueError: naming the argument, or what of it is wrong.

    >>> check_masks("masks", {"a": torch.tensor([True])}, {"a": torch.ones(1)})
    """
    if not isinstance(masks, Mapping):
        raise ValueError(
            f"{argument} is a {type(masks).__name__}: give a dict of bool masks by name, such as "
            f"{{{next(iter(weights))!r}: mask}}"
        )
    if unknown := sorted(set(masks) - set(weights)):
        raise ValueError(
            f"{argument} names {', '.join(unknown)}, none of the network's {', '.join(weights)}"
        )
    for name, mask in masks.items():
        shape = tuple(weights[name].shape)
        if not isinstance(mask, Tensor):
            told = f"a {type(mask).__name__}"
        elif mask.dtype != torch.bool or mask.shape != shape:
            told = f"{mask.dtype} of shape {tuple(mask.shape)}"
        else:
            continue
        raise ValueError(
            f"{argument}[{name!r}] is {told}: give a bool mask of shape {shape}, like the weight"
        )


def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set to zero what the masks say is gone, in place: for an EMA copy or a loaded checkpoint.

    Args:
        model: any network, wrapped or not, on any device.
        masks: bool by name of parameter, each of its shape; what is not named stays as it is.

    Raises:
        ValueError: if the model lacks a parameter of that name, or its shape differs; nothing is
            changed then.

    >>> layer = nn.Linear(2, 1)
    >>> apply_masks(layer, {"weight": torch.tensor([[True, False]])})
    >>> layer.weight[0, 1].item()
    0.0
    """
    weights = dict(unwrapped(model).named_parameters())
    check_masks("masks", masks, weights)
    with torch.no_grad():
        for name, mask in masks.items():
            weights[name].masked_fill_(~mask.to(weights[name].device), 0.0)


def distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Share of the places, [0, 1], at which two sets of masks differ (normalised Hamming distance).

    Args:
        one, other: bool by name, for the same names and shapes.

    >>> one = {"a": torch.tensor([True, False]), "b": torch.tensor([True, True])}
    >>> distance(one, one | {"a": torch.tensor([False, True])})
    0.5
    """
    differing = sum(_count(mask ^ other[name]) for name, mask in one.items())
    return differing / sum(mask.numel() for mask in one.values())


def pack(mask: Tensor) -> Tensor:
    """Eight entries to a byte, the first in the highest bit; the last byte is filled with zeros.

    n entries, in row-major order, become ``ceil(n / 8)`` bytes; `unpack` reads them back.

    Args:
        mask: bool, of any shape and on any device.

    Raises:
        TypeError: if the entries are floating-point numbers.

    >>> pack(torch.tensor([True, False, False, False, False, False, False, True, True]))
    tensor([129, 128], dtype=torch.uint8)
    """
    return torch.from_numpy(np.packbits(mask.detach().cpu().flatten().numpy()))


def unpack(packed: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """The mask of this shape that was packed.

    Args:
        packed: uint8 (ceil(n / 8),), as `pack` gave it, on any device; the mask is on the CPU.
        shape: of the mask, n entries in all.

    Raises:
        ValueError: if the bytes do not fit the shape, or are not uint8.

    >>> unpack(pack(torch.tensor([[True], [False]])), (2, 1))
    tensor([[ True],
            [False]])
    """
    count = torch.Size(shape).numel()
    if packed.dtype != torch.uint8 or len(packed) != (count + 7) // 8:
        raise ValueError(
            f"a mask of shape {tuple(shape)} needs {(count + 7) // 8} bytes, got "
            f"{packed.numel()} of {packed.dtype}: the file belongs to another network"
        )
    bits = np.unpackbits(packed.cpu().numpy(), count=count)
    return torch.from_numpy(bits.astype(bool)).view(shape)
