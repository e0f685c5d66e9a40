"""Graph: in which order a network calls its layers, and the shapes in between; by torch.fx."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from contextlib import redirect_stderr
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.modules.batchnorm import _BatchNorm
from torch.random import fork_rng
from torch.utils._pytree import tree_leaves

from spikewire.dialects import dialect, reset
from spikewire.weights import unwrapped

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def traced(
    model: nn.Module, example: Tensor, whole: Callable[[nn.Module], bool] = lambda module: False
) -> fx.GraphModule:
    """A copy of a network as a graph, in evaluation mode and at rest.

    Args:
        model: the network; it is left as it is.
        example: a batch of inputs, to learn the shapes in between.
        whole: which modules not to look into, besides neurons, layers with weights, normalisation,
            flattening and what torch.nn has.

    Raises:
        ValueError: if the network cannot be traced, uses a layer twice, is not at rest, or does
            more than its graph shows.

    >>> graph = traced(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.rand(1, 2))
    >>> [(node.name, tuple(shape_of(node))) for node in graph.graph.nodes if node.op != "output"]
    [('input_1', (1, 2)), ('_0', (1, 3)), ('_1', (1, 3))]
    """
    try:
        frozen = copy.deepcopy(unwrapped(model)).eval()
    except RuntimeError as error:  # torch copies no tensor that has a history
        raise ValueError(
            "the network is not at rest: its neurons hold the potentials of the last sequence; "
            "reset it first (spikingjelly: functional.reset_net). If it has masks of "
            "torch.nn.utils.prune, make them permanent first (prune.remove)"
        ) from error
    reset(frozen)
    try:
        graph = fx.GraphModule(frozen, _Tracer(whole).trace(frozen))
    except Exception as error:  # whatever a foreign forward function raises
        raise ValueError(
            f"this network cannot be traced ({_line(error)}): its forward pass must not branch on "
            "values, nor unpack shapes"
        ) from error
    try:
        # fx prints a traceback of its own
        with torch.no_grad(), fork_rng(devices=[]), redirect_stderr(io.StringIO()):
            ShapeProp(graph).propagate(example)
    except Exception as error:  # as above
        raise ValueError(
            f"the network does not take an example of shape {tuple(example.shape)}, "
            f"{example.dtype} ({_line(error.__cause__ or error)})"
        ) from error
    reset(frozen)
    seen: set[str] = set()
    for node in graph.graph.nodes:
        if node.op == "call_module":
            if node.target in seen:
                raise ValueError(f"{node.target} is used twice: give each use a layer of its own")
            seen.add(node.target)
    _check_same(graph, frozen, example)
    return graph


def _check_same(graph: fx.GraphModule, frozen: nn.Module, example: Tensor) -> None:
    """Refuse what the graph cannot show, such as a value that is changed under another name."""
    outputs = []
    with torch.no_grad(), fork_rng(devices=[]):
        for network in (graph, frozen):
            torch.default_generator.manual_seed(0)  # of the CPU's: other devices keep theirs
            outputs.append(network(example))
            reset(frozen)  # whose neurons the graph has
    if not all(map(_same, *map(_tensors, outputs))):
        raise ValueError(
            "the network does more than its graph shows: its forward pass changes a value in place "
            "that is used again (write y = y + x for y += x), or depends on something else than "
            "its input"
        )


def _same(one: Tensor, other: Tensor) -> bool:
    """But for rounding: a GPU need not add up alike twice."""
    return torch.allclose(one.float(), other.float(), equal_nan=True)


def _tensors(outputs: Any) -> list[Tensor]:
    return [one for one in tree_leaves(outputs) if isinstance(one, Tensor)]


def _line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


class _Tracer(fx.Tracer):
    """Looks into containers only."""

    def __init__(self, whole: Callable[[nn.Module], bool]) -> None:
        super().__init__()
        self.whole = whole

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = (nn.Linear, _BatchNorm, nn.Flatten, *CONVOLUTIONS)
        return (
            dialect(m) is not None
            or self.whole(m)
            or isinstance(m, known)
            or super().is_leaf_module(m, module_qualified_name)
        )


def module_of(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The layer that a node calls, or None."""
    return graph.get_submodule(str(node.target)) if node.op == "call_module" else None


def shape_of(node: fx.Node) -> Any:
    """The shape of a node's value, None if that is no tensor."""
    return getattr(node.meta.get("tensor_meta"), "shape", None)
