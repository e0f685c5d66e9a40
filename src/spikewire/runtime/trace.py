"""Trace: a trained network as a program, or the name of the layer that cannot be one, and why.

Layers are known by their exact class: a subclass may compute something else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from spikewire.graph import module_of, shape_of, traced
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
    Weight,
)

_MIXING = (nn.Conv2d, _BatchNorm, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
_EACH_STEP = ("spikewire.nets.forms.NormEachStep",)
_IN_PLACE = ("iadd", "add_")
_SUMS = ("add", *_IN_PLACE)
_RESHAPES = ("flatten", "view", "reshape")
_REPEATS = ("repeat", "expand")


def program_of(model: nn.Module, example: Tensor) -> Program:
    """What a network computes in evaluation mode, as a program.

    Args:
        model: a trained network; it is left as it is.
        example: inputs as the network takes them: images (B, C, H, W) or features (B, F), if it
            makes a sequence of them itself; else a sequence (T, B, C, H, W) or (T, B, F).

    Raises:
        ValueError: naming the layer that the engine does not know, with the reason; or if the
            network cannot be traced.

    >>> from spikewire.nets import fc
    >>> [step.name for step in program_of(fc(T=4), torch.rand(2, 1, 28, 28)).steps]
    ['flatten', 'fc1', 'repeat', 'lif1', 'fc2', 'lif2']
    """
    graph = traced(model, example, lambda module: _kind(module) in (*_LAYERS, *_CONTAINERS))
    return _Reading(graph, example).program


def _kind(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


class _Refusal(Exception):  # noqa: N818 - never leaves this module
    """Why a layer cannot be read."""


class _Reading:
    """Goes through the graph once and writes steps down."""

    def __init__(self, graph: fx.GraphModule, example: Tensor) -> None:
        self.graph = graph
        self.steps: list[Step] = []
        self.numbers: dict[fx.Node, int] = {}  # of the value that a node's output is
        self.values = [_input(example)]
        self.T = example.shape[0] if self.values[0].sequence else 0
        for node in graph.graph.nodes:
            try:
                self._read(node)
            except _Refusal as reason:
                raise ValueError(
                    f"the engine cannot run {_called(graph, node)}: {reason}"
                ) from None
        if not self.T:
            raise ValueError("this network has no time steps: there is nothing spiking to run")
        self.program = Program(self.T, self.values[0], tuple(self.steps))

    def _read(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            if self.numbers:
                raise _Refusal("the network takes more than one input")
            self.numbers[node] = 0
        elif node.op == "output":
            self._finish(node)
        elif node.op == "call_module":
            module: Any = module_of(self.graph, node)
            self._module(node, str(node.target), module)
        elif isinstance(shape_of(node), torch.Size):
            self._function(node)
        # what is left works on shapes; what makes a tensor of it is looked at above

    def _finish(self, node: fx.Node) -> None:
        result = node.args[0]
        if not isinstance(result, fx.Node) or result not in self.numbers:
            raise _Refusal("the network gives something else than one tensor")
        if self.numbers[result] != len(self.steps):
            raise _Refusal("layers come after its output")

    # --- modules ---------------------------------------------------------------------------------

    def _module(self, node: fx.Node, name: str, module: Any) -> None:
        if len(node.args) + len(node.kwargs) != 1:
            raise _Refusal("it is called with more than one input")
        source = self.values[self._of(node.all_input_nodes[0])]
        if source.sequence and _blind_to_time(module):
            raise _Refusal("it takes time steps for samples: use SpikingJelly's with step_mode='m'")
        self._end(node, self._layer(name, module, self._of(node.all_input_nodes[0])))

    def _layer(self, name: str, module: Any, source: int) -> int:
        kind, value = _kind(module), self.values[source]
        if module._forward_hooks or module._forward_pre_hooks:
            raise _Refusal("it has hooks, which may change what it gives: remove them first")
        if kind in _CONTAINERS:
            for child, part in module.named_children():
                source = self._layer(f"{name}.{child}", part, source)
            return source
        if kind not in _LAYERS:
            raise _Refusal(f"{type(module).__name__} is none of the layers that are known")
        operation = _LAYERS[kind](module, value)
        if operation is None:
            return source
        if isinstance(operation, Repeat):
            return self._repeat(name, module.T, source)
        if isinstance(operation, Affine) and self._follows_convolution(source):
            before = self.steps[-1]
            self.steps[-1] = replace(before, operation=_folded(before.operation, operation))
            return source
        return self._step(name, operation, source)

    def _follows_convolution(self, source: int) -> bool:
        """Whether a value is a convolution's, and nothing else takes it."""
        last = self.steps[-1].operation if self.steps else None
        if source != len(self.steps) or not isinstance(last, Convolution):
            return False
        nodes = [node for node, number in self.numbers.items() if number == source]
        return all(len(node.users) == 1 for node in nodes)

    # --- functions and methods -------------------------------------------------------------------

    def _function(self, node: fx.Node) -> None:
        word = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
        inputs = [one for one in node.all_input_nodes if one in self.numbers]
        if word in _IN_PLACE and self._used_after(node, inputs[0]):
            raise _Refusal("it changes a value that is used again: write y = y + x")
        if word in _SUMS and len(inputs) == len(node.args) == 2 and not node.kwargs:
            left, right = (self._of(one) for one in inputs)
            self._end(node, self._step(node.name, Add(), left, right))
        elif word == "mean" and self._over_time(node):
            self.numbers[node] = self._of(inputs[0])  # as the output of a program is read anyway
        elif word in _RESHAPES and len(inputs) == 1:
            self._reshape(node, self._of(inputs[0]))
        elif word == "unsqueeze" and node.args[1:] == (0,) and _only_repeated(node):
            self.numbers[node] = self._of(inputs[0])
        elif word in _REPEATS and self._repeats(node, inputs[0]):
            T = int(shape_of(node)[0])
            self._end(node, self._repeat(node.name, T, self._of(inputs[0])))
        else:
            raise _Refusal("it is none of the functions that are known")

    def _reshape(self, node: fx.Node, source: int) -> None:
        given = self.values[source]
        lead = len(shape_of(node)) - 1
        if lead == 1 + given.sequence and shape_of(node)[-1] == given.size:
            self._end(node, self._step(node.name, Flatten(), source))
        elif shape_of(node) == shape_of(node.all_input_nodes[0]):
            self.numbers[node] = source
        else:
            raise _Refusal(f"it gives a tensor of shape {tuple(shape_of(node))}")

    def _used_after(self, node: fx.Node, value: fx.Node) -> bool:
        order = {each: place for place, each in enumerate(self.graph.graph.nodes)}
        return any(order[user] > order[node] for user in value.users)

    def _over_time(self, node: fx.Node) -> bool:
        dims = node.args[1:] or (node.kwargs.get("dim"),)
        ends = all(user.op == "output" for user in node.users)
        source = self._of(node.all_input_nodes[0])
        return ends and dims in ((0,), ([0],)) and self.values[source].sequence

    def _repeats(self, node: fx.Node, source: fx.Node) -> bool:
        """Whether it shows (1, B, ...) or (B, ...) at T time steps."""
        shape = tuple(shape_of(node))
        before = tuple(shape_of(source))[-len(shape) + 1 :]
        return not self.values[self._of(source)].sequence and shape[1:] == before

    # --- steps -----------------------------------------------------------------------------------

    def _of(self, node: Any) -> int:
        if node not in self.numbers:
            raise _Refusal(f"{node} is nothing that the engine has")
        return self.numbers[node]

    def _repeat(self, name: str, T: int, source: int) -> int:
        if self.T not in (0, T):
            raise _Refusal(f"it has {T} time steps, others have {self.T}")
        self.T = T
        return self._step(name, Repeat(), source)

    def _step(self, name: str, operation: Operation, *sources: int) -> int:
        try:
            value = operation.value(*(self.values[source] for source in sources))
        except (TypeError, ValueError) as error:
            raise _Refusal(str(error)) from None
        self.steps.append(Step(name, operation, sources))
        self.values.append(value)
        return len(self.steps)

    def _end(self, node: fx.Node, number: int) -> None:
        """Note what a node gives, if that is what torch says it gives."""
        value, shape = self.values[number], tuple(shape_of(node))
        lead = 1 + value.sequence
        if _padded(shape[lead:]) != value.shape or (value.sequence and shape[0] != self.T):
            raise _Refusal(f"it gives a tensor of shape {shape}, the engine one of {value.shape}")
        self.numbers[node] = number


def _input(example: Tensor) -> Value:
    lead = {2: 1, 3: 2, 4: 1, 5: 2}.get(example.ndim)
    if lead is None:
        raise ValueError(
            f"example has shape {tuple(example.shape)}: give images (B, C, H, W) or features "
            "(B, F), or a sequence (T, B, C, H, W) or (T, B, F), as the network takes them"
        )
    return Value(_padded(tuple(example.shape[lead:])), lead == 2)


def _blind_to_time(module: nn.Module) -> bool:
    """Whether a layer of torch.nn, or one of SpikingJelly's like it, mixes time with the rest."""
    mixes = isinstance(module, _MIXING)
    single = getattr(module, "step_mode", "s") == "s"
    return mixes and single and _kind(module) not in _EACH_STEP


def _padded(shape: tuple[int, ...]) -> Any:
    return (*shape, 1, 1) if len(shape) == 1 else shape


def _called(graph: fx.GraphModule, node: fx.Node) -> str:
    module = module_of(graph, node)
    return f"{node.target} ({type(module).__name__})" if module is not None else f"{node.name}"


def _only_repeated(node: fx.Node) -> bool:
    return all(
        user.op == "call_method" and user.target in _REPEATS for user in node.users
    ) and bool(node.users)


# --- what each layer computes on its input; None is nothing --------------------------------------


def _nothing(module: Any, x: Value) -> None:
    return None


def _convolution(module: Any, x: Value) -> Convolution:
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise _Refusal(f"its padding is {module.padding_mode} {module.padding}, not so many zeros")
    geometry = module.stride, module.padding, module.dilation, module.groups
    return Convolution(Weight.of(_floats(module.weight)), _bias(module), *geometry)


def _linear(module: Any, x: Value) -> Convolution:
    if x.shape[1:] != (1, 1):
        raise _Refusal("a linear layer must have flat features before it")
    return Convolution(Weight.of(_floats(module.weight)[:, :, None, None]), _bias(module))


def _bias(module: Any) -> Floats:
    if module.bias is None:
        return np.zeros(len(module.weight), np.float32)
    return _floats(module.bias)


def _affine(module: Any, x: Value) -> Affine:
    if module.running_mean is None:
        raise _Refusal("it normalises each batch by itself: it has no running statistics")
    ones = torch.ones_like(module.running_mean, dtype=torch.float64)
    weight = ones if module.weight is None else module.weight
    bias = 0 * ones if module.bias is None else module.bias
    scale = weight * (module.running_var.double() + module.eps).rsqrt()
    return Affine(_floats(scale), _floats(bias - module.running_mean * scale))


def _folded(layer: Any, norm: Affine) -> Convolution:
    scale = norm.scale.astype(np.float64)
    weight = (layer.weight.dense() * scale[:, None, None, None]).astype(np.float32)
    bias = (layer.bias * scale + norm.shift).astype(np.float32)
    return replace(layer, weight=Weight.of(weight), bias=bias)


def _max_pool(module: Any, x: Value) -> Pool:
    if _pair(module.dilation) != (1, 1) or module.ceil_mode or module.return_indices:
        raise _Refusal("only plain max-pooling is known: no dilation, ceil_mode, return_indices")
    return Pool("max", _pair(module.kernel_size), _pair(module.stride), _pair(module.padding))


def _average_pool(module: Any, x: Value) -> Pool:
    if module.ceil_mode or module.divisor_override:
        raise _Refusal("only plain averages are known: no ceil_mode, divisor_override")
    return Pool("average", _pair(module.kernel_size), _pair(module.stride), _pair(module.padding))


def _adaptive_pool(module: Any, x: Value) -> Pool:
    rows, columns = _pair(module.output_size)
    _, height, width = x.shape
    if height % (rows or height) or width % (columns or width):
        raise _Refusal(f"{height} x {width} is not divided evenly into {rows} x {columns}")
    window = height // (rows or height), width // (columns or width)
    return Pool("average", window, window)


def _flatten(module: Any, x: Value) -> Flatten:
    return Flatten()


def _repeat(module: Any, x: Value) -> Repeat:
    return Repeat()


def _vote(module: Any, x: Value) -> Vote:
    return Vote(module.voting_size)


def _integrate_and_fire(module: Any, x: Value) -> Neuron:
    return Neuron("integrate", 1.0, *_firing(module))


def _leaky(module: Any, x: Value) -> Neuron:
    if module.decay_input:
        return Neuron("divide", float(module.tau), *_firing(module))
    return Neuron("leak", 1.0 - 1.0 / module.tau, *_firing(module))


def _learnt_leak(module: Any, x: Value) -> Neuron:
    keeps = float(module.w.detach().sigmoid())
    if module.decay_input:
        return Neuron("multiply", keeps, *_firing(module))
    return Neuron("leak", 1.0 - keeps, *_firing(module))


def _adaptive_threshold(module: Any, x: Value) -> Neuron:
    beta = _floats(module.beta)
    return Neuron("leak", module.decay, *_firing(module), beta, module.recovery)


def _firing(module: Any) -> tuple[float, float | None]:
    """Threshold and reset."""
    if module.step_mode != "m":
        raise _Refusal('its step_mode is "s": the engine takes whole sequences')
    if not getattr(module.surrogate_function, "spiking", True):
        raise _Refusal("its surrogate gives no spikes (spiking=False)")
    reset = None if module.v_reset is None else float(module.v_reset)
    return float(module.v_threshold), reset


def _pair(value: Any) -> Any:
    return tuple(value) if isinstance(value, tuple | list) else (value, value)


def _floats(tensor: Tensor) -> Floats:
    return tensor.detach().cpu().float().contiguous().numpy()


_JELLY = "spikingjelly.activation_based"
_TORCH = {
    "linear.Linear": _linear,
    "linear.Identity": _nothing,
    "conv.Conv2d": _convolution,
    "batchnorm.BatchNorm1d": _affine,
    "batchnorm.BatchNorm2d": _affine,
    "pooling.MaxPool2d": _max_pool,
    "pooling.AvgPool2d": _average_pool,
    "pooling.AdaptiveAvgPool2d": _adaptive_pool,
    "flatten.Flatten": _flatten,
    "dropout.Dropout": _nothing,
    "dropout.Dropout2d": _nothing,
}
_STATELESS = {
    "Linear": _linear,
    "Conv2d": _convolution,
    "MaxPool2d": _max_pool,
    "AvgPool2d": _average_pool,
    "AdaptiveAvgPool2d": _adaptive_pool,
    "Flatten": _flatten,
}
_LAYERS: dict[str, Callable[[Any, Value], Operation | None]] = {
    **{f"torch.nn.modules.{name}": read for name, read in _TORCH.items()},
    **{f"{_JELLY}.layer.stateless_wrapper.{name}": read for name, read in _STATELESS.items()},
    f"{_JELLY}.layer.bn.BatchNorm1d": _affine,
    f"{_JELLY}.layer.bn.BatchNorm2d": _affine,
    f"{_JELLY}.layer.dropout.Dropout": _nothing,
    f"{_JELLY}.layer.dropout.Dropout2d": _nothing,
    f"{_JELLY}.layer.misc.VotingLayer": _vote,
    f"{_JELLY}.neuron.integrate_and_fire.IFNode": _integrate_and_fire,
    f"{_JELLY}.neuron.lif.LIFNode": _leaky,
    f"{_JELLY}.neuron.plif.ParametricLIFNode": _learnt_leak,
    "spikewire.nets.neurons.LIF": _leaky,
    "spikewire.nets.neurons.Repeat": _repeat,
    "spikewire.nets.lsnn.ALIF": _adaptive_threshold,
    "spikewire.nets.forms.NormEachStep": _affine,
}
_CONTAINERS = (f"{_JELLY}.layer.container.SeqToANNContainer",)
