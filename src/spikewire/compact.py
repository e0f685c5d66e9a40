"""Compact: take out the channels that do nothing, and leave a smaller ordinary network.

A channel does nothing if it is 0 whatever the input, or if no weight listens to it. Both are read
off the graph of the network, so shortcuts and normalisation need no table. The outputs stay what
they were, up to the order in which a layer adds up.

The graph is torch.fx's. Dependency graphs that others have (Torch-Pruning) take a channel out of
all layers it passes through or of none; here a layer may also leave some out by itself (`Select`),
as pruned pre-activation networks ask for.
"""

from __future__ import annotations

import copy
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.modules.batchnorm import _BatchNorm

from spikewire.dialects import dialect, reset
from spikewire.nets.neurons import Repeat

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_SAME = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.Dropout, nn.Identity, Repeat),
)
_SUMS = (operator.add, operator.iadd, torch.add)


class Select(nn.Module):
    """Give some of the channels on: (..., C, H, W) to (..., fewer, H, W).

    Args:
        places: int64, of the channels to keep.
        dim: of the channels, counted from the end.

    >>> Select(torch.tensor([2, 0]), -1)(torch.tensor([[5, 6, 7]]))
    tensor([[7, 5]])
    """

    places: Tensor

    def __init__(self, places: Tensor, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("places", places)

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(self.dim, self.places)


def compact(model: nn.Module, example: Tensor) -> nn.Module:
    """Return a smaller copy of a network without the channels that do nothing.

    Understood are convolutions, linear layers, batch normalisation, neurons, pooling, dropout,
    flattening and sums, in networks that torch.fx can trace; channels of anything else are all
    kept. The copy is for evaluation: statistics of its normalisation are those of the original.

    Args:
        model: the network; it is left as it is.
        example: a batch of inputs, to learn the shapes in between.

    Raises:
        ValueError: if the network cannot be traced, uses a layer twice, or would have no channel
            left somewhere.

    >>> net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 1, 1))
    >>> with torch.no_grad():
    ...     _ = net[2].weight[:, 1].zero_()
    >>> compact(nn.Sequential(net[0], net[2]), torch.rand(1, 1, 2, 2))[0].out_channels
    2
    """
    graph = _traced(model, example)
    channels = _Channels(graph)
    channels.settle()
    smaller = copy.deepcopy(model).eval()
    for node in graph.graph.nodes:
        if node.op == "call_module":
            channels.shrink(smaller, node)
    reset(smaller)
    return smaller


class _Tracer(fx.Tracer):
    """Looks into containers only."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = (nn.Linear, _BatchNorm, nn.Flatten, *_CONVOLUTIONS, *_AVERAGES, *_SAME)
        return (
            dialect(m) is not None
            or isinstance(m, known)
            or super().is_leaf_module(m, module_qualified_name)
        )


def _traced(model: nn.Module, example: Tensor) -> fx.GraphModule:
    frozen = copy.deepcopy(model).eval()
    reset(frozen)
    try:
        graph = fx.GraphModule(frozen, _Tracer().trace(frozen))
        with torch.no_grad():
            ShapeProp(graph).propagate(example)
    except Exception as error:  # whatever a foreign forward function raises
        raise ValueError(
            f"this network cannot be traced ({error}): compact needs a forward pass without "
            "branches on values"
        ) from error
    reset(frozen)
    seen: set[str] = set()
    for node in graph.graph.nodes:
        if node.op == "call_module":
            if node.target in seen:
                raise ValueError(f"{node.target} is used twice: give each use a layer of its own")
            seen.add(node.target)
    return graph


@dataclass
class _Flow:
    """What is known of a node's output.

    Attributes:
        space: the number of its set of channels; nodes whose channels are the same share one.
        constant: (C,), the value of a channel that is always and everywhere the same, else nan.
        spread: entries of a channel that lie side by side, after flattening.
        dim: of the channels, counted from the end.
    """

    space: int
    constant: Tensor
    spread: int
    dim: int


class _Channels:
    """Which channels each layer needs."""

    def __init__(self, graph: fx.GraphModule) -> None:
        self.graph = graph
        self.flows: dict[fx.Node, _Flow] = {}
        self.kept: list[Tensor] = []
        self.parents: list[int] = []
        for node in graph.graph.nodes:
            if node.op != "output" and isinstance(_shape(node), torch.Size):
                self.flows[node] = self._flow(node)

    # --- forwards: which channels are constant ---------------------------------------------------

    def _flow(self, node: fx.Node) -> _Flow:
        module = self._module(node)
        sources = [self.flows[one] for one in node.all_input_nodes if one in self.flows]
        if isinstance(module, (*_CONVOLUTIONS, nn.Linear)) and _plain(module):
            return self._new(_sum(module, sources[0]), _dim(module))
        if self._normalises(node):
            return self._new(_normalised(module, sources[0].constant), sources[0].dim)
        if self._passes(node):
            return self._passed(node, module, sources)
        shape = _shape(node)
        dim = -3 if len(shape) > 3 else -1
        unknown = self._new(torch.full((shape[dim],), torch.nan), dim)
        self.kept[unknown.space].fill_(True)
        return unknown

    def _normalises(self, node: fx.Node) -> bool:
        """Whether it normalises channels, and not the entries of flattened ones."""
        return isinstance(self._module(node), _BatchNorm) and all(
            self.flows[one].spread == 1 for one in node.all_input_nodes
        )

    def _passes(self, node: fx.Node) -> bool:
        """Whether the channels of its output are those of its inputs."""
        module = self._module(node)
        if node.op == "call_function" and node.target in _SUMS:
            spreads = [self.flows[one].spread for one in node.all_input_nodes if one in self.flows]
            shapes = {_shape(one) for one in [node, *node.all_input_nodes]}
            return len(spreads) == 2 and spreads[0] == spreads[1] and len(shapes) == 1
        if isinstance(module, nn.Flatten):
            return _shape(node)[-1] % len(self.flows[node.all_input_nodes[0]].constant) == 0
        if module is not None and dialect(module) is not None:
            return all(one.numel() == 1 for one in (*module.parameters(), *module.buffers()))
        return isinstance(module, (*_AVERAGES, *_SAME))

    def _passed(self, node: fx.Node, module: nn.Module | None, sources: list[_Flow]) -> _Flow:
        first = sources[0]
        constant, spread, dim = first.constant, first.spread, first.dim
        if module is None:
            for other in sources[1:]:
                constant = constant + other.constant
                self._join(first.space, other.space)
        elif isinstance(module, nn.Flatten):
            spread, dim = _shape(node)[-1] // len(constant), -1
        elif dialect(module) is not None:
            constant = _fired(module, constant, _shape(node))
        elif isinstance(module, _AVERAGES) and module.padding not in (0, (0,), (0, 0), (0, 0, 0)):
            constant = constant.masked_fill(constant != 0, torch.nan)  # zeros are averaged in
        return _Flow(first.space, constant, spread, dim)

    def _new(self, constant: Tensor, dim: int) -> _Flow:
        self.parents.append(len(self.parents))
        self.kept.append(torch.zeros(len(constant), dtype=torch.bool))
        return _Flow(len(self.parents) - 1, constant, 1, dim)

    def _join(self, one: int, other: int) -> None:
        one, other = self._root(one), self._root(other)
        self.kept[one] |= self.kept[other]
        self.parents[other] = one

    def _root(self, space: int) -> int:
        while self.parents[space] != space:
            space = self.parents[space]
        return space

    # --- backwards: which channels are used ------------------------------------------------------

    def of(self, node: fx.Node) -> Tensor:
        """Which channels of its output are kept."""
        return self.kept[self._root(self.flows[node].space)]

    def settle(self) -> None:
        """Keep what is used, until nothing is added: shortcuts use what lies before them."""
        before = None
        while before != (now := [int(kept.sum()) for kept in self.kept]):
            before = now
            for node in reversed(self.graph.graph.nodes):
                for source in node.all_input_nodes:
                    if source in self.flows:
                        self.of(source).logical_or_(self._used(node, source))

    def _used(self, node: fx.Node, source: fx.Node) -> Tensor:
        """Which channels of the source this node uses."""
        module, flow = self._module(node), self.flows[source]
        if node in self.flows and isinstance(module, (*_CONVOLUTIONS, nn.Linear)):
            if _plain(module):
                rows = module.weight[self.of(node)]  # (kept, in * spread, ...)
                columns = rows.transpose(0, 1).flatten(1).ne(0).any(1)
                return columns.view(-1, flow.spread).any(1) & (flow.constant != 0)
        if node in self.flows and self._normalises(node):
            return self.of(node)
        if node in self.flows and self._passes(node):
            return torch.zeros_like(self.of(source))  # they share them
        return torch.ones_like(self.of(source))

    # --- the smaller network ---------------------------------------------------------------------

    def shrink(self, smaller: nn.Module, node: fx.Node) -> None:
        """Cut the layer of this node to what is kept."""
        module = smaller.get_submodule(str(node.target))
        if node not in self.flows or not node.all_input_nodes:
            return
        source = node.all_input_nodes[0]
        if isinstance(module, (*_CONVOLUTIONS, nn.Linear)) and _plain(module):
            rows, columns = self.of(node), self.of(source)
            if not rows.any():
                raise ValueError(f"{node.target} has no channel left that does anything")
            _cut(module, rows, columns.repeat_interleave(self.flows[source].spread))
        elif self._normalises(node):
            had, has = self.of(source), self.of(node)
            _narrow(module, has)
            if not had.equal(has):
                places = has[had].nonzero().squeeze(1)
                chosen = nn.Sequential(Select(places, self.flows[source].dim), module)
                _replace(smaller, str(node.target), chosen)

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.graph.get_submodule(str(node.target)) if node.op == "call_module" else None


def _shape(node: fx.Node) -> Any:
    return getattr(node.meta.get("tensor_meta"), "shape", None)


def _plain(module: Any) -> bool:
    """Whether each output channel listens to all input channels."""
    return getattr(module, "groups", 1) == 1


def _dim(module: nn.Module) -> int:
    return -1 if isinstance(module, nn.Linear) else -1 - len(module.kernel_size)  # pyright: ignore


def _sum(module: Any, source: _Flow) -> Tensor:
    """A channel that listens to nothing holds its bias."""
    out, into = module.weight.shape[:2]
    listens = module.weight.reshape(out, into, -1).ne(0).any(2)  # (out, in * spread)
    speaks = (source.constant != 0).repeat_interleave(source.spread)  # nan speaks
    bias = torch.zeros(out) if module.bias is None else module.bias.detach()
    return bias.masked_fill((listens & speaks).any(1), torch.nan)


def _normalised(norm: Any, constant: Tensor) -> Tensor:
    if norm.running_mean is None:
        return torch.full_like(constant, torch.nan)
    scale = (norm.running_var + norm.eps).rsqrt()
    gain = torch.ones_like(scale) if norm.weight is None else norm.weight.detach()
    shift = torch.zeros_like(scale) if norm.bias is None else norm.bias.detach()
    known = gain * (constant - norm.running_mean) * scale + shift
    return torch.where(gain == 0, shift, known)


def _fired(neuron: nn.Module, constant: Tensor, shape: torch.Size) -> Tensor:
    """0 where a constant current never makes the neuron fire within the sequence."""
    known = dialect(neuron)
    assert known is not None
    silent = copy.deepcopy(neuron)
    known.reset(silent)
    current = constant.nan_to_num(0.0)
    with torch.no_grad():
        if known.stepwise(neuron):  # for how many steps, nobody says
            spikes: Any = silent(torch.zeros_like(current).unsqueeze(0))
            still = (spikes[0] if isinstance(spikes, tuple) else spikes)[0] == 0
            still &= constant == 0
        else:
            still = (silent(current.expand(shape[0], 1, -1)) == 0).all(0)[0]
    return torch.full_like(constant, torch.nan).masked_fill(still & ~constant.isnan(), 0.0)


def _cut(module: Any, rows: Tensor, columns: Tensor) -> None:
    module.weight = nn.Parameter(module.weight.detach()[rows][:, columns].clone())
    if module.bias is not None:
        module.bias = nn.Parameter(module.bias.detach()[rows].clone())
    out, into = int(rows.sum()), int(columns.sum())
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = out, into
    else:
        module.out_channels, module.in_channels = out, into


def _narrow(norm: Any, has: Tensor) -> None:
    norm.num_features = int(has.sum())
    for name in ("weight", "bias"):
        if getattr(norm, name) is not None:
            setattr(norm, name, nn.Parameter(getattr(norm, name).detach()[has].clone()))
    for name in ("running_mean", "running_var"):
        if getattr(norm, name) is not None:
            setattr(norm, name, getattr(norm, name)[has].clone())


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
