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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from spikewire.dialects import dialect, reset
from spikewire.graph import CONVOLUTIONS, module_of, shape_of, traced
from spikewire.weights import unwrapped

_AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_SAME = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.Dropout, nn.Identity),
)
# how `Select` before a normalisation shows in a state_dict
_PLACES = ".0.places"
_SUMS = (operator.add, operator.iadd, torch.add)


class Select(nn.Module):
    """Give some of the channels on: (..., C, H, W) to (..., fewer, H, W).

    Args:
        places: int64, of the channels to keep, (fewer, 1, 1) if two dimensions follow them.

    >>> Select(torch.tensor([2, 0]))(torch.tensor([[5, 6, 7]]))
    tensor([[7, 5]])
    """

    places: Tensor

    def __init__(self, places: Tensor) -> None:
        super().__init__()
        self.register_buffer("places", places)

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(-self.places.ndim, self.places.flatten())


def compact(model: nn.Module, example: Tensor) -> nn.Module:
    """Return a smaller copy of a network without the channels that do nothing.

    Understood are convolutions, linear layers, batch normalisation, neurons, pooling, dropout,
    flattening, sums, and modules with an attribute ``keeps_channels = True``, which do nothing
    across channels and give 0 for 0 (and any constant for itself, if ``keeps_values = True`` too),
    in networks that torch.fx can trace; channels of anything else are all kept. The copy is for
    evaluation: statistics of its normalisation are those of the original.

    Args:
        model: the network; it is left as it is.
        example: a batch of inputs, to learn the shapes in between, and for how many time steps a
            neuron that is shown a constant has to stay silent: give sequences as long as any.

    Raises:
        ValueError: if the network cannot be traced, uses a layer twice, changes a value in place
            that is used again, or would have no channel left somewhere.

    >>> net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 1, 1))
    >>> with torch.no_grad():
    ...     _ = net[2].weight[:, 1].zero_()
    >>> compact(nn.Sequential(net[0], net[2]), torch.rand(1, 1, 2, 2))[0].out_channels
    2
    """
    model = unwrapped(model)
    channels = _Channels(traced(model, example, _keeps_channels))
    smaller = copy.deepcopy(model).eval()
    for node in channels.graph.graph.nodes:
        if node.op == "call_module":
            channels.shrink(smaller, node)
    reset(smaller)
    return smaller


def rebuild(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return the compact network whose state_dict this is.

    Args:
        model: the network that it was made of, with any weights; it is left as it is.
        tensors: such as those of ``model.compact.safetensors`` in a run folder.

    Raises:
        ValueError: if they are not of a compact form of this network.

    >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1))
    >>> with torch.no_grad():
    ...     _ = net[0].weight[1].zero_()
    >>> small = compact(net, torch.rand(1, 2))
    >>> rebuild(net, small.state_dict())[0]
    Linear(in_features=2, out_features=1, bias=False)
    """
    smaller = copy.deepcopy(unwrapped(model)).eval()
    try:
        for name, value in tensors.items():
            if name.endswith(_PLACES):
                _put_before(smaller, name.removesuffix(_PLACES), Select(torch.empty_like(value)))
        module: Any
        for name, module in smaller.named_modules():
            if _weighted(module):
                shape, full = tensors[f"{name}.weight"].shape, module.weight.shape
                _cut(module, _first(shape[0], full[0]), _first(shape[1], full[1]))
            elif isinstance(module, _BatchNorm):
                _narrow(module, _first(len(tensors[f"{name}.running_mean"]), module.num_features))
        smaller.load_state_dict(tensors)
    except (KeyError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"these tensors are of no compact form of this network ({error}): give the network "
            "that was pruned, built with the same arguments"
        ) from error
    return smaller


def _first(count: int, size: int) -> Tensor:
    return torch.arange(size) < count


@dataclass(frozen=True)
class Normalisation:
    """Where a batch normalisation stands in a network.

    Attributes:
        name: of its module.
        behind: the layer whose output channels it normalises, it alone; None where it normalises a
            sum, or where others take that output too.
        ahead: the neuron layer that its channels reach first; None if none does.
        free: whether its channels may leave the network; those of a read-out may not.
    """

    name: str
    behind: str | None
    ahead: str | None
    free: bool


class Outline:
    """What `compact` would leave of a network, without making it.

    Args:
        model: the network; a copy is kept of what it is now.
        example: a batch of inputs, to learn the shapes in between.

    Raises:
        ValueError: if the network cannot be traced, or uses a layer twice.

    >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    >>> with torch.no_grad():
    ...     _ = net[0].weight.copy_(torch.tensor([[1.0], [0.0]]))
    >>> Outline(net, torch.rand(3, 1)).needed()["1.weight"]
    tensor([[ True, False]])
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self._graph = traced(model, example, _keeps_channels)

    def needed(self, masks: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Which weights of convolutions and linear layers would be left: masks by name, on the CPU.

        Args:
            masks: bool (C,) by the name of a normalisation: the channels that it lets pass, be it
                that their gain is still 0. Others are what their gains and biases make them.
        """
        with self._passing(masks or {}) as channels:
            return {f"{node.target}.weight": channels.needed(node) for node in channels.weighted()}

    def saving(self, masks: Mapping[str, Tensor]) -> float:
        """Share of the multiplications that would be saved if only these channels passed.

        Multiplications are those of convolutions and linear layers, over all time steps, zeros
        included: the literature's FLOPs.

        Args:
            masks: as of `needed`.
        """
        with self._passing(masks) as channels:
            before = after = 0.0
            for node in channels.weighted():
                mask = channels.needed(node)
                places = shape_of(node).numel() / len(mask)
                before += places * mask.numel()
                after += places * float(mask.count_nonzero())
        return 1.0 - after / before

    def normalisations(self) -> list[Normalisation]:
        """Every batch normalisation of channels, in the order of the forward pass."""
        channels = _Channels(self._graph)
        return [
            Normalisation(
                str(node.target), channels.behind(node), channels.ahead(node), channels.free(node)
            )
            for node in channels.flows
            if channels.normalises(node)
        ]

    @contextmanager
    def _passing(self, masks: Mapping[str, Tensor]) -> Iterator[_Channels]:
        norms: list[Any] = [self._graph.get_submodule(name) for name in masks]
        held = [(norm.weight.data, norm.bias.data) for norm in norms]
        for norm, mask in zip(norms, masks.values(), strict=True):
            newborn = (norm.weight == 0) & (norm.bias == 0)
            norm.weight.data = norm.weight.masked_fill(newborn, 1.0) * mask.to(norm.weight)
            norm.bias.data = norm.bias * mask.to(norm.bias)
        try:
            yield _Channels(self._graph)
        finally:
            for norm, (weight, bias) in zip(norms, held, strict=True):
                norm.weight.data, norm.bias.data = weight, bias


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
        self.given: list[int] = []  # spaces of what is not understood
        for node in graph.graph.nodes:
            if node.op != "output" and isinstance(shape_of(node), torch.Size):
                self.flows[node] = self._flow(node)
        self._settle()

    # --- forwards: which channels are constant ---------------------------------------------------

    def _flow(self, node: fx.Node) -> _Flow:
        module: Any = module_of(self.graph, node)
        sources = [self.flows[one] for one in node.all_input_nodes if one in self.flows]
        if _weighted(module):
            _check_channels(node, sources[0], module.weight.shape[1])
            return self._new(_sum(module, sources[0]), _dim(module))
        if self.normalises(node):
            _check_channels(node, sources[0], module.num_features)
            return self._new(_normalised(module, sources[0].constant), sources[0].dim)
        if self._passes(node):
            return self._passed(node, module, sources)
        shape = shape_of(node)
        dim = self._told(node) or (-3 if len(shape) > 3 else -1)
        unknown = self._new(torch.full((shape[dim],), torch.nan), dim)
        self.kept[unknown.space].fill_(True)
        self.given.append(unknown.space)
        return unknown

    def _told(self, node: fx.Node) -> int | None:
        """Where its channels are for the layers that take it; None if there are none."""
        for user in node.users:
            module = module_of(self.graph, user)
            if module is not None and _weighted(module):
                return _dim(module)
            alike = module is not None and (_keeps_channels(module) or dialect(module) is not None)
            if (alike or user.target in _SUMS) and (dim := self._told(user)) is not None:
                return dim
        return None

    def normalises(self, node: fx.Node) -> bool:
        """Whether it normalises channels, and not the entries of flattened ones."""
        return isinstance(module_of(self.graph, node), _BatchNorm) and all(
            self.flows[one].spread == 1 for one in node.all_input_nodes
        )

    def _passes(self, node: fx.Node) -> bool:
        """Whether the channels of its output are those of its inputs."""
        module = module_of(self.graph, node)
        if node.op == "call_function" and node.target in _SUMS:
            flows = [self.flows[one] for one in node.all_input_nodes if one in self.flows]
            shapes = {shape_of(one) for one in [node, *node.all_input_nodes]}
            alike = len({(flow.spread, flow.dim) for flow in flows}) == len(shapes) == 1
            return alike and len(flows) == 2 and not node.kwargs  # torch.add may be given a factor
        if _flattens(node, module):
            return self._keeps_entries(node)
        if module is not None and (known := dialect(module)) is not None:
            # what a neuron layer has for each channel would have to be cut with it
            memory = known.memory(module, (), {})
            held = (*module.parameters(), *module.buffers())
            return all(one.numel() <= 1 or one is memory for one in held)
        return module is not None and _keeps_channels(module)

    def _keeps_entries(self, node: fx.Node) -> bool:
        """Whether channels, and what follows them, become the last dimension."""
        source = node.all_input_nodes[0]
        return shape_of(node)[-1] == shape_of(source)[self.flows[source].dim :].numel()

    def _passed(self, node: fx.Node, module: nn.Module | None, sources: list[_Flow]) -> _Flow:
        first = sources[0]
        constant, spread, dim = first.constant, first.spread, first.dim
        if len(sources) > 1:
            for other in sources[1:]:
                constant = constant + other.constant
                self._join(first.space, other.space)
        elif _flattens(node, module):
            spread, dim = shape_of(node)[-1] // len(constant), -1
        elif module is not None and dialect(module) is not None:
            constant = _fired(module, constant, shape_of(node))
        elif module is not None and not _keeps_values(module):
            constant = constant.masked_fill(constant != 0, torch.nan)
        return _Flow(first.space, constant, spread, dim)

    def _new(self, constant: Tensor, dim: int) -> _Flow:
        self.parents.append(len(self.parents))
        self.kept.append(torch.zeros(len(constant), dtype=torch.bool))
        return _Flow(len(self.parents) - 1, constant, 1, dim)

    def _join(self, one: int, other: int) -> None:
        one, other = self._root(one), self._root(other)
        self.kept[one] |= self.kept[other]
        self.parents[other] = one

    def _share(self, one: fx.Node, other: fx.Node) -> bool:
        return self._root(self.flows[one].space) == self._root(self.flows[other].space)

    def _root(self, space: int) -> int:
        while self.parents[space] != space:
            space = self.parents[space]
        return space

    # --- backwards: which channels are used ------------------------------------------------------

    def of(self, node: fx.Node) -> Tensor:
        """Which channels of its output are kept."""
        return self.kept[self._root(self.flows[node].space)]

    def _settle(self) -> None:
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
        module: Any = module_of(self.graph, node)
        flow = self.flows[source]
        if node in self.flows and _weighted(module):
            rows = module.weight[self.of(node)]  # (kept, in * spread, ...)
            columns = rows.transpose(0, 1).flatten(1).ne(0).any(1).cpu()
            return columns.view(-1, flow.spread).any(1) & (flow.constant != 0)
        if node in self.flows and self.normalises(node):
            return self.of(node)
        if node in self.flows and self._passes(node):
            return torch.zeros_like(self.of(source))  # they share them
        return torch.ones_like(self.of(source))

    # --- what a layer stands between -------------------------------------------------------------

    def weighted(self) -> Iterator[fx.Node]:
        """Convolutions and linear layers whose outputs each listen to all inputs."""
        return (node for node in self.flows if _weighted(module_of(self.graph, node)))

    def needed(self, node: fx.Node) -> Tensor:
        """Which weights of such a layer are kept."""
        weight: Any = self.graph.get_submodule(str(node.target)).weight
        source = node.all_input_nodes[0]
        columns = self.of(source).repeat_interleave(self.flows[source].spread)
        rest = [1] * (weight.ndim - 2)
        kept = self.of(node).view(-1, 1, *rest) & columns.view(1, -1, *rest)
        return kept.expand_as(weight).clone()

    def behind(self, node: fx.Node) -> str | None:
        """The layer with weights whose output this node takes, and no other, or None."""
        source = node.all_input_nodes[0]
        alone = source in self.weighted() and len(source.users) == 1
        return str(source.target) if alone else None

    def ahead(self, node: fx.Node) -> str | None:
        """The first neuron layer that this node's channels reach, or None."""
        for user in node.users:
            module = module_of(self.graph, user)
            if user not in self.flows or not self._share(user, node):
                continue
            if module is not None and dialect(module) is not None:
                return str(user.target) if self.flows[user].spread == 1 else None
            if (found := self.ahead(user)) is not None:
                return found
        return None

    def free(self, node: fx.Node) -> bool:
        """Whether nothing asks for all channels of this node, whatever the weights are."""
        root = self._root(self.flows[node].space)
        if any(self._root(space) == root for space in self.given):
            return False
        sharing = (one for one in self.flows if self._root(self.flows[one].space) == root)
        return all(self._understood(user) for one in sharing for user in one.users)

    def _understood(self, node: fx.Node) -> bool:
        return node in self.flows and self.flows[node].space not in self.given

    # --- the smaller network ---------------------------------------------------------------------

    def shrink(self, smaller: nn.Module, node: fx.Node) -> None:
        """Cut the layer of this node to what is kept."""
        module: Any = smaller.get_submodule(str(node.target))
        if node not in self.flows or not node.all_input_nodes:
            return
        source = node.all_input_nodes[0]
        if _weighted(module):
            rows, columns = self.of(node), self.of(source)
            if not rows.any():
                raise ValueError(f"{node.target} has no channel left that does anything")
            _cut(module, rows, columns.repeat_interleave(self.flows[source].spread))
        elif self.normalises(node):
            had, has = self.of(source), self.of(node)
            _narrow(module, has)
            if not had.equal(has):
                places = has[had].nonzero().view(-1, *[1] * (-1 - self.flows[source].dim))
                select = Select(places).to(next(smaller.parameters()).device)
                _put_before(smaller, str(node.target), select)


def _flattens(node: fx.Node, module: nn.Module | None) -> bool:
    plain = node.op == "call_method" and node.target == "flatten"
    return isinstance(module, nn.Flatten) or plain or node.target is torch.flatten


def _keeps_channels(module: nn.Module) -> bool:
    return isinstance(module, (*_AVERAGES, *_SAME)) or getattr(module, "keeps_channels", False)


def _keeps_values(module: nn.Module) -> bool:
    """Whether it gives a constant for itself, and not only 0 for 0."""
    if isinstance(module, _AVERAGES):
        padded = module.padding not in (0, (0,), (0, 0), (0, 0, 0))  # zeros are averaged in
        return not padded and getattr(module, "divisor_override", None) is None
    return isinstance(module, (*_SAME, nn.Flatten)) or getattr(module, "keeps_values", False)


def _check_channels(node: fx.Node, source: _Flow, wanted: int) -> None:
    found = len(source.constant) * source.spread
    if found != wanted:
        raise ValueError(
            f"{node.target} has {wanted} input channels where {found} are seen: channels are "
            "looked for before the dimensions of a convolution's map, or last in features"
        )


def _weighted(module: Any) -> bool:
    """Whether it is a layer whose outputs each listen to all input channels."""
    known = isinstance(module, (*CONVOLUTIONS, nn.Linear))
    return known and getattr(module, "groups", 1) == 1


def _dim(module: nn.Module) -> int:
    return -1 if isinstance(module, nn.Linear) else -1 - len(module.kernel_size)  # pyright: ignore


def _sum(module: Any, source: _Flow) -> Tensor:
    """A channel that listens to nothing holds its bias."""
    out, into = module.weight.shape[:2]
    listens = module.weight.detach().reshape(out, into, -1).ne(0).any(2).cpu()  # (out, in * spread)
    speaks = (source.constant != 0).repeat_interleave(source.spread)  # nan speaks
    bias = torch.zeros(out) if module.bias is None else module.bias.detach().cpu()
    return bias.masked_fill((listens & speaks).any(1), torch.nan)


def _normalised(norm: Any, constant: Tensor) -> Tensor:
    if norm.running_mean is None:
        return torch.full_like(constant, torch.nan)
    scale = (norm.running_var.cpu() + norm.eps).rsqrt()
    gain = torch.ones_like(scale) if norm.weight is None else norm.weight.detach().cpu()
    shift = torch.zeros_like(scale) if norm.bias is None else norm.bias.detach().cpu()
    known = gain * (constant - norm.running_mean.cpu()) * scale + shift
    return torch.where(gain == 0, shift, known)


def _fired(neuron: nn.Module, constant: Tensor, shape: torch.Size) -> Tensor:
    """0 where a constant current never makes the neuron fire within the sequence."""
    known = dialect(neuron)
    assert known is not None
    silent = copy.deepcopy(neuron).cpu()
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


def _put_before(model: nn.Module, name: str, select: Select) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, nn.Sequential(select, model.get_submodule(name)))
