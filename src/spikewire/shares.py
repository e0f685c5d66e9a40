"""Shares: how a network's sparsity is spread over its tensors.

A share maps shapes and the sparsity of the whole to a sparsity for each tensor, such that the whole
meets its target. One that has an attribute ``measures = True`` is told besides how often synapses
are used: ``(shapes, sparsity, uses)``. Without a share (None, "global" in text) one ranking runs
over all tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer
from torch import Size

from spikewire import spelling
from spikewire.measure import Uses


def uniform(shapes: Mapping[str, Size], sparsity: float) -> dict[str, float]:
    """The same sparsity for every tensor.

    Args:
        shapes: of the tensors, by name.
        sparsity: share of zeros in the whole network, [0, 1].

    >>> uniform({"a": Size([2, 2]), "b": Size([10, 4])}, 0.5)
    {'a': 0.5, 'b': 0.5}
    """
    return dict.fromkeys(shapes, sparsity)


def erk(shapes: Mapping[str, Size], sparsity: float) -> dict[str, float]:
    """Erdos-Renyi-Kernel: connectivity proportional to ``sum(dims) / prod(dims)``, at most 1.

    Tensors whose connectivity would exceed 1 become dense and the rest is solved for again.
    Evci et al. 2020 (arXiv 1911.11134), after Mocanu et al. 2018 (arXiv 1707.04780).

    Args:
        shapes: of the tensors, by name: (C_out, C_in), (C_out, C_in, H, W) and so on.
        sparsity: share of zeros in the whole network, [0, 1].

    >>> shares = erk({"conv": Size([8, 4, 3, 3]), "fc": Size([10, 100])}, 0.5)
    >>> {name: round(value, 3) for name, value in shares.items()}
    {'conv': 0.686, 'fc': 0.447}
    """
    return _proportional(
        {name: sum(shape) / shape.numel() for name, shape in shapes.items()}, shapes, sparsity
    )


def by_size(shapes: Mapping[str, Size], sparsity: float) -> dict[str, float]:
    """Connectivity proportional to ``1 / sqrt(number of weights)``: large tensors bear more.

    Tensors whose connectivity would exceed 1 become dense and the rest is solved for again.

    Args:
        shapes: of the tensors, by name.
        sparsity: share of zeros in the whole network, [0, 1].

    >>> {name: round(value, 3) for name, value in
    ...  by_size({"a": Size([10, 10]), "b": Size([100, 100])}, 0.9).items()}
    {'a': 0.082, 'b': 0.908}
    """
    return _proportional(
        {name: shape.numel() ** -0.5 for name, shape in shapes.items()}, shapes, sparsity
    )


def compute(
    shapes: Mapping[str, Size], sparsity: float, uses: Mapping[str, Uses]
) -> dict[str, float]:
    """Connectivity proportional to ``1 / sqrt(uses)``: pruning goes where the operations are.

    A synapse is used once for every place of the output map and every time step. If the error that
    a tensor causes falls with one over its connectivity, these connectivities have the least error
    for their operations. Tensors whose connectivity would exceed 1 become dense and the rest is
    solved for again. The pruner measures the uses on its ``data``.

    Args:
        shapes: of the tensors, by name.
        sparsity: share of zeros in the whole network, [0, 1].
        uses: of each synapse of a tensor per sample, by name.

    Raises:
        ValueError: if the uses of a tensor are not known.

    >>> shapes = {"conv": Size([10, 10]), "fc": Size([10, 10])}
    >>> uses = {"conv": Uses(16.0, 4.0), "fc": Uses(1.0, 0.5)}
    >>> {name: round(value, 3) for name, value in compute(shapes, 0.9, uses).items()}
    {'conv': 0.96, 'fc': 0.84}
    """
    if unknown := [name for name in shapes if name not in uses]:
        raise ValueError(
            f"share=compute: {', '.join(unknown)} belongs to no linear or convolutional layer, so "
            "that its operations are not counted: leave it out with only=..., or use share=erk"
        )
    return _proportional({name: uses[name].always ** -0.5 for name in shapes}, shapes, sparsity)


compute.measures = True  # pyright: ignore[reportFunctionMemberAccess]


def _proportional(
    raw: Mapping[str, float], shapes: Mapping[str, Size], sparsity: float
) -> dict[str, float]:
    """Sparsities that meet that of the whole, connectivities proportional to ``raw``, at most 1."""
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    budget = (1.0 - sparsity) * sum(sizes.values())
    full: set[str] = set()
    while True:
        rest = [name for name in shapes if name not in full]
        left = budget - sum(sizes[name] for name in full)
        weight = sum(raw[name] * sizes[name] for name in rest)
        scale = left / weight if rest else 0.0
        over = {name for name in rest if scale * raw[name] > 1.0}
        if not over:
            connectivities = {name: 1.0 if name in full else scale * raw[name] for name in shapes}
            return {name: 1.0 - share for name, share in connectivities.items()}
        full |= over


def counts(
    shapes: Mapping[str, Size], sparsity: float, share: Callable[..., Any] | None
) -> int | dict[str, int]:
    """How many synapses to keep: in the whole network, or in each tensor if there is a share.

    The whole, ``(1 - sparsity) n`` of n weights, is rounded down, to no less sparsity than asked
    for; of the tensors, those with the largest remainders are rounded up.

    Args:
        shapes: of the tensors, by name.
        sparsity: share of zeros in the whole network, [0, 1].
        share: how it is spread over the tensors; None for one number for the whole network.

    >>> shapes = {"a": Size([3]), "b": Size([4])}
    >>> counts(shapes, 0.5, uniform), counts(shapes, 0.5, None)
    ({'a': 1, 'b': 2}, 3)
    """
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    # never less sparse than asked for; the margin is far above rounding and far below a synapse
    total = math.floor((1.0 - sparsity) * sum(sizes.values()) + 1e-6)
    if share is None:
        return total
    exact = {name: (1.0 - s) * sizes[name] for name, s in share(shapes, sparsity).items()}
    keep = {name: int(count) for name, count in exact.items()}
    by_remainder = sorted(exact, key=lambda name: keep[name] - exact[name])
    open_places = (name for name in by_remainder if keep[name] < sizes[name])
    for name, _ in zip(open_places, range(total - sum(keep.values())), strict=False):
        keep[name] += 1
    return keep


SHARES: dict[str, Callable[..., dict[str, float]] | None] = {
    "uniform": uniform,
    "erk": erk,
    "by_size": by_size,
    "compute": compute,
    "global": None,
}


Share = Annotated[
    Callable[..., dict[str, float]] | None,
    BeforeValidator(lambda text: spelling.parse("share", text, SHARES)),
    PlainSerializer(lambda share: spelling.spell(share, SHARES), when_used="json"),
]
"""``(shapes, sparsity) -> {name: sparsity}``; None for one ranking over the whole network."""
