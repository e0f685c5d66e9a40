"""Observe: what the neurons of a network do, seen from outside.

`watch` opens a window on a network: spikes, firing rates and pre-reset membrane potentials of each
neuron layer. The model is left as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from spikewire import distributed
from spikewire.dialects import Dialect, neurons
from spikewire.weights import transposed, unwrapped


def spikes_of(outputs: Any) -> Tensor:
    """The spikes among what a neuron layer returns: all of it, or the first of several.

    >>> spikes_of((torch.tensor(1.0), torch.tensor(0.3)))
    tensor(1.)
    """
    return outputs[0] if isinstance(outputs, tuple | list) else outputs


class _Listener:
    """Follows one neuron layer from call to call: where a sequence begins, what state it had."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.fresh = True
        self.state: Any = None
        self._left: Tensor | None = None

    def enter(self, neuron: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        memory = self.dialect.memory(neuron, inputs, named)
        # a sequence goes on if the neuron still carries what its last call left, detached or not
        left = None if self._left is None else self._left.data_ptr()
        self.fresh = memory is None or memory.data_ptr() != left
        self.state = self.dialect.state(neuron)

    def leave(
        self, neuron: nn.Module, inputs: tuple[Any, ...], outputs: Any
    ) -> tuple[Tensor, Tensor]:
        """Spikes and input currents, both (T, B, ...)."""
        self._left = self.dialect.memory(neuron, (), {})
        spikes = spikes_of(outputs)
        if self.dialect.stepwise(neuron):
            return spikes.unsqueeze(0), inputs[0].unsqueeze(0)
        return spikes, inputs[0]


class Layer:
    """What one neuron layer did while it was watched.

    Attributes:
        name: the layer's name in the model.
        rates: spikes per time step of each neuron, averaged over all samples and steps (...).
        spikes: the spikes of the last sequence (T, B, ...).
        membranes: its membrane potentials after charging and before reset (T, B, ...).
        distance: of these from the neurons' threshold, above 0 where they fire (T, B, ...).
        samples: sequences seen so far.
    """

    def __init__(
        self, name: str, neuron: nn.Module, dialect: Dialect, spikes: bool, membranes: bool
    ) -> None:
        self.name = name
        self.neuron = neuron
        self.samples = 0
        self._listener = _Listener(dialect)
        self._keep_spikes = spikes
        self._keep_membranes = membranes
        self._count: Tensor | None = None
        self._chances = 0
        self._spikes: list[Tensor] = []
        self._membranes: list[Tensor] = []

    @property
    def heard(self) -> bool:
        """Whether the layer was run at all."""
        return self._count is not None

    @property
    def rates(self) -> Tensor:
        if self._count is None:
            raise ValueError(
                f"layer {self.name!r} was not run inside `with watch(model)`: run the network there"
            )
        return self._count / self._chances

    @property
    def rate(self) -> float:
        """Spikes per neuron and time step, averaged over the layer."""
        return float(self.rates.mean())

    @property
    def silent(self) -> int:
        """How many neurons never fired."""
        return int((self.rates == 0).sum())

    @property
    def spikes(self) -> Tensor:
        if not self._spikes:
            raise ValueError("no spikes were kept: use watch(model, spikes=True) and run the model")
        return torch.cat(self._spikes)

    @property
    def membranes(self) -> Tensor:
        if not self._membranes:
            raise ValueError("no membrane potentials were kept: use watch(model, membranes=True)")
        return torch.cat(self._membranes)

    @property
    def distance(self) -> Tensor:
        return self.membranes - self._listener.dialect.threshold(self.neuron)

    def _enter(self, neuron: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._listener.enter(neuron, inputs, named)

    @torch.no_grad()
    def _leave(self, neuron: nn.Module, inputs: tuple[Any, ...], outputs: Any) -> None:
        spikes, current = self._listener.leave(neuron, inputs, outputs)
        if self._listener.fresh:
            self._spikes, self._membranes = [], []
            self.samples += spikes.shape[1]
        if self._keep_spikes:
            self._spikes.append(spikes.detach())
        if self._keep_membranes:
            potentials = self._listener.dialect.potentials
            state, fired = self._listener.state, spikes.detach()
            self._membranes.append(potentials(neuron, state, current.detach(), fired))
        count = (spikes != 0).float().sum((0, 1)).double()  # a spike may weigh more than 1, or -1
        self._count = count if self._count is None else self._count + count
        self._chances += spikes.shape[0] * spikes.shape[1]


class Activity(dict[str, Layer]):
    """The watched layers by name, in the order of the network."""

    @property
    def rate(self) -> float | None:
        """Spikes per neuron and time step over the layers that were run; None if none was."""
        rates = [layer.rates.flatten() for layer in self.values() if layer.heard]
        return float(torch.cat(rates).mean()) if rates else None


@contextmanager
def watch(model: nn.Module, *, spikes: bool = True, membranes: bool = False) -> Iterator[Activity]:
    """Record what every neuron layer does, for as long as the ``with`` block lasts.

    Works for layers in single-step and multi-step mode. Running sums are kept over everything the
    network is shown; spikes and membranes are those of the last sequence only.

    Args:
        model: a network with neuron layers of a library that `dialects` knows.
        spikes: keep the spikes of the last sequence; rates are known without.
        membranes: keep the membrane potentials before reset as well; they are recomputed from the
            input currents, which costs another pass through the neurons.

    Raises:
        ValueError: if the model has no neuron layer that is known, or ``membranes`` is asked of
            neurons that do not tell theirs.

    >>> from spikingjelly.activation_based import neuron
    >>> net = nn.Sequential(neuron.IFNode(step_mode="m"))
    >>> with watch(net, membranes=True) as activity:
    ...     _ = net(torch.full((4, 1, 1), 0.5))
    >>> activity["0"].rate, activity["0"].membranes.flatten().tolist()
    (0.5, [0.5, 1.0, 0.5, 1.0])
    """
    layers = Activity(
        (name, Layer(name, module, known, spikes, membranes))
        for name, module, known in neurons(unwrapped(model))
    )
    if not layers:
        raise ValueError(
            "the model has no neuron layer of a known library (SpikingJelly, snnTorch): add a row "
            "to spikewire.dialects.DIALECTS for another"
        )
    for layer in layers.values() if membranes else ():
        layer._listener.dialect.refuse_silent(layer.neuron)
    handles = []
    for layer in layers.values():
        enter: Any = layer._enter
        handles.append(layer.neuron.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(layer.neuron.register_forward_hook(layer._leave))
    try:
        yield layers
    finally:
        for handle in handles:
            handle.remove()


class Observer:
    """Hears what neurons, and layers with synapses, do in the forward passes before an event.

    It listens only between `listen` and `rest`, and only to forward passes of training: a step
    without an event costs nothing. What is kept of it, its children say.

    Args:
        model: a network with neuron layers of a library that `dialects` knows.
        inputs: whether to listen to what comes into layers with synapses as well.
        layers: whether to listen to neuron layers.

    Attributes:
        follows: for each tensor of synapses, the neuron layer that it feeds, as far as heard.

    Raises:
        ValueError: if the model has no neuron layer that is known.
    """

    def __init__(self, model: nn.Module, *, inputs: bool = False, layers: bool = True) -> None:
        found = list(neurons(model)) if layers else []
        if layers and not found:
            raise ValueError(
                "this method listens to neurons (criticality needs their membrane potentials), but "
                "the model has no neuron layer of a known library: use another method, or a score "
                "such as grow=gradient"
            )
        self._modules = {name: module for name, module, _ in found}
        self._listeners = {name: _Listener(known) for name, _, known in found}
        self._owners = {id(weight): name for name, weight in model.named_parameters()}
        self._layers = dict(_layers_with_synapses(model)) if inputs else {}
        self.follows: dict[str, str] = {}
        self._handles: list[Any] = []
        self._outputs: list[Any] = []
        self.forget()

    @property
    def listening(self) -> bool:
        return bool(self._handles)

    def listen(self) -> None:
        """Forget what was heard and listen to the coming forward passes."""
        self._outputs = []
        self.forget()
        if self.listening:
            return
        # named only now: importing torch's compiler takes longer than importing torch
        uncompiled: Any = torch.compiler.disable
        for name, module in self._modules.items():
            enter: Any = Ear(uncompiled(partial(self._enter, name)))
            leave: Any = Ear(uncompiled(partial(self._leave, name)))
            self._handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            self._handles.append(module.register_forward_hook(leave))
        for synapses, module in self._layers.items():
            take: Any = Ear(uncompiled(partial(self._take, synapses)))
            self._handles.append(module.register_forward_pre_hook(take))

    def rest(self) -> None:
        """Stop listening; what was heard stays readable."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._outputs = [], []

    def layer_of(self, synapses: str) -> str | None:
        """The neuron layer that these synapses feed; None for a read-out without neurons.

        Raises:
            ValueError: if no forward pass was heard.
        """
        _refuse_silence(self.follows)
        return self.follows.get(synapses)

    def forget(self) -> None:
        """Begin anew with what is kept."""

    def receive(self, synapses: str, module: Any, x: Tensor) -> None:
        """A layer with synapses is given x, of one time step or of all, as the network has it."""

    def fire(self, name: str, spikes: Tensor, current: Tensor) -> None:
        """A neuron layer made spikes of currents, both (T, B, ...)."""

    def _take(self, synapses: str, module: Any, inputs: tuple[Any, ...]) -> None:
        self.receive(synapses, module, inputs[0].detach())

    def _enter(
        self, name: str, neuron: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> None:
        self._listeners[name].enter(neuron, inputs, named)
        recurrent = neuron.parameters()  # a layer's own synapses lead back to it
        for weight in (*recurrent, *_weights_behind(inputs[0], stop=self._outputs)):
            # the first layer to receive from a weight is its own; a shortcut reaches later ones
            if (synapses := self._owners.get(id(weight))) is not None:
                self.follows.setdefault(synapses, name)

    def _leave(self, name: str, neuron: nn.Module, inputs: tuple[Any, ...], outputs: Any) -> None:
        spikes, current = self._listeners[name].leave(neuron, inputs, outputs)
        self._outputs.append(spikes_of(outputs).grad_fn)
        with torch.no_grad():
            self.fire(name, spikes.detach(), current.detach())


class Probe(Observer):
    """What every neuron or channel does on average, in the forward passes before an event.

    For each neuron i and sample, ``c_i = mean over t of quantity(u_it - v_th)`` with the pre-reset
    membrane potential u; a channel takes the largest or the mean c_i of its map; samples are
    averaged. With a surrogate's slope for the quantity it is criticality: Chen, Liu, Liu and You,
    "Brain-Inspired Efficient Pruning" (arXiv 2311.16141 v3), Eq. 13.

    Args:
        model, inputs: as of `Observer`.
        quantities: of a potential's distance from the threshold, elementwise; there may be none.
        over: "max" or "mean", of a channel's map.
        layers: whether to listen to neurons though there are no quantities of them.

    Raises:
        ValueError: as `Observer`, or if neurons do not tell their membrane potentials.
    """

    def __init__(
        self,
        model: nn.Module,
        quantities: Sequence[Callable[[Tensor], Tensor]],
        over: str,
        *,
        inputs: bool = False,
        layers: bool = False,
    ) -> None:
        super().__init__(model, inputs=inputs, layers=layers or bool(quantities))
        self.quantities, self.over = tuple(quantities), over
        self._weights = {n: w.shape for n, w in model.named_parameters() if w.ndim > 1}
        self._transposed = transposed(model)
        for name, listener in self._listeners.items() if quantities else ():
            listener.dialect.refuse_silent(self._modules[name])

    def forget(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._samples: dict[str, int] = {}
        self._open: dict[str, tuple[Tensor, int]] = {}
        self._inputs: dict[str, tuple[Tensor, int]] = {}
        self._maps: dict[str, torch.Size] = {}

    def outputs(self, synapses: str) -> int:
        """The dimension of the weights that counts their outputs: 1 of transposed convolutions."""
        return int(synapses in self._transposed)

    def of(self, synapses: str) -> Tensor | None:
        """The first quantity per output channel (C_out,) of the neurons that these synapses feed.

        None if no neuron layer follows them, as for a read-out without neurons.

        Raises:
            ValueError: if no forward pass was heard, or the neurons have other channels.
        """
        means = self.means(synapses)
        return None if means is None else means[0]

    def means(self, synapses: str) -> Tensor | None:
        """All quantities (quantities, C_out), or None as `of`."""
        for name in list(self._open):
            self._close(name)
        _refuse_silence(self._sums)
        layer = self.follows.get(synapses)
        if layer not in self._sums:
            return None
        self._check_channels(synapses, layer)
        sums, samples = self._sums[layer], self._samples[layer]
        return distributed.mean(sums, samples)

    def inputs(self, synapses: str) -> Tensor | None:
        """Mean absolute input (C_in,) of the layer with these synapses; of spikes, their rate.

        None if that is no layer through whose inputs its channels are known.
        """
        if self._layers:
            _refuse_silence(self._inputs)
        heard = self._inputs.get(synapses)
        return None if heard is None else distributed.mean(*heard)

    def receive(self, synapses: str, module: Any, x: Tensor) -> None:
        into = x.abs().movedim(1 - module.weight.ndim, 0).flatten(1)  # (C_in, times samples places)
        total, count = self._inputs.get(synapses, (0.0, 0))
        sums = into.sum(1, dtype=torch.float64)  # half precision counts no further than 65 504
        self._inputs[synapses] = (total + sums, count + into.shape[1])

    def fire(self, name: str, spikes: Tensor, current: Tensor) -> None:
        if not self.quantities:
            return
        neuron, listener = self._modules[name], self._listeners[name]
        potentials = listener.dialect.potentials(neuron, listener.state, current, spikes)
        distance = potentials - listener.dialect.threshold(neuron)  # (T, B, ...)
        sums = torch.stack([f(distance.float()).sum(0) for f in self.quantities])
        if listener.fresh:
            self._close(name)
        total, steps = self._open.get(name, (0.0, 0))
        self._open[name] = (total + sums, steps + len(distance))

    def _close(self, name: str) -> None:
        """Fold a finished sequence into the sums over samples."""
        if name not in self._open:
            return
        total, steps = self._open.pop(name)
        self._maps[name] = total.shape[2:]
        channels = (total / steps).movedim(self._channel_of(name), 2)
        mean = over_map(channels, 3, self.over)  # (quantities, B, C)
        self._sums[name] = self._sums.get(name, 0.0) + mean.sum(1)  # (quantities, C)
        self._samples[name] = self._samples.get(name, 0) + mean.shape[1]

    def _channel_of(self, name: str) -> int:
        """Where in (quantities, B, ...) the channels are: behind linear layers at the end."""
        fed = [self._weights.get(s, ()) for s, layer in self.follows.items() if layer == name]
        return -1 if any(len(shape) == 2 for shape in fed) else 2

    def _check_channels(self, synapses: str, layer: str) -> None:
        shape, maps = self._weights[synapses], self._maps[layer]
        channels = shape[self.outputs(synapses)]
        dimensions = (1, len(maps)) if len(shape) == 2 else (1, len(shape) - 1)
        if len(maps) not in dimensions or self._sums[layer].shape[-1] != channels:
            raise ValueError(
                f"{synapses} has {channels} output channels, but the neurons that it feeds, layer "
                f"{layer!r}, are {tuple(maps)}, and which of them are whose is not known: leave "
                f"it out with only=['!{synapses}'], or take a score that hears no neurons, such "
                "as gradient"
            )


class Traces(Observer):
    """Traces of what comes into each layer with synapses, and of the neurons behind it.

    ``x_t = decay x_(t-1) + s_t`` from 0 on, with spikes s averaged over a channel's map; kept is
    the trace at the end of the last sequence. An input that is computed once for all time steps is
    its own trace, but for a factor.

    Args:
        model: as of `Observer`.
        decay: of a trace in a time step, [0, 1).

    >>> from spikingjelly.activation_based import neuron
    >>> net = nn.Sequential(nn.Linear(1, 1), neuron.IFNode(step_mode="m"), nn.Linear(1, 1))
    >>> with torch.no_grad():
    ...     _ = net[0].weight.fill_(1.0), net[0].bias.fill_(0.0)
    >>> traces = Traces(net, 0.5)
    >>> traces.listen()
    >>> _ = net(torch.tensor([[[1.0]], [[0.0]], [[2.0]]]))
    >>> traces.of("0.weight")
    (tensor([[2.2500]]), tensor([[1.2500]]))
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, inputs=True)
        self.decay = decay

    def forget(self) -> None:
        self._received: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}
        self._behind: dict[str, Tensor] = {}

    def of(self, synapses: str) -> tuple[Tensor, Tensor] | None:
        """Traces (B, C_in) before and (B, C_out) behind these synapses.

        None for the layer that was run last, the read-out, where no neuron layer follows, and where
        inputs or neurons have other dimensions.

        Raises:
            ValueError: if no forward pass was heard.
        """
        _refuse_silence(self._received)
        if synapses not in self._before or synapses == list(self._received)[-1]:
            return None
        before, behind = self._before[synapses], self._behind[self.follows[synapses]]
        weight: Any = self._layers[synapses].weight
        fits = (*behind.shape[1:], *before.shape[1:]) == weight.shape[:2]
        return (before, behind) if fits else None

    def receive(self, synapses: str, module: Any, x: Tensor) -> None:
        x = over_map(_at_least_single(x), x.ndim - module.weight.ndim + 2, "mean")
        self._received[synapses] = x if x.ndim > 2 else x.unsqueeze(0)  # (T or 1, B, C)

    def fire(self, name: str, spikes: Tensor, current: Tensor) -> None:
        fed = [synapses for synapses in self._received if self.follows.get(synapses) == name]
        if self._listeners[name].fresh:
            for trace in (self._behind, self._before):
                for key in (name, *fed):
                    trace.pop(key, None)
        self._grow(self._behind, name, over_map(_at_least_single(spikes), 3, "mean"))
        for synapses in fed:
            self._grow(self._before, synapses, self._received[synapses])

    def _grow(self, traces: dict[str, Tensor], name: str, values: Tensor) -> None:
        """Take some more time steps (T, B, C) into a trace (B, C)."""
        for value in values:
            traces[name] = self.decay * traces[name] + value if name in traces else value


def _at_least_single(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _refuse_silence(heard: Mapping[str, Any]) -> None:
    if not heard:
        raise ValueError(
            "no forward pass was heard before this event: run the network in training mode with "
            "gradients, and not its compiled copy in steps where pruner.due is True"
        )


class Ear:
    """A hook for training's forward passes, which a copied or pickled model leaves behind."""

    def __init__(self, hear: Callable[..., None]) -> None:
        self.hear = hear

    def __call__(self, *passed: Any) -> None:
        # an evaluation between two steps is none of an event's business
        if passed[0].training and torch.is_grad_enabled():
            self.hear(*passed)

    def __reduce__(self) -> tuple[Any, ...]:
        return Ear, (_ignore,)


def _ignore(*_: Any) -> None: ...


def over_map(values: Tensor, lead: int, over: str) -> Tensor:
    """The largest or the mean of each channel's map: what follows the first ``lead`` dimensions.

    >>> maps = torch.tensor([[[1.0, 3.0]]])
    >>> over_map(maps, 2, "max"), over_map(maps, 2, "mean"), over_map(maps, 3, "max").shape
    (tensor([[3.]]), tensor([[2.]]), torch.Size([1, 1, 2]))
    """
    if values.ndim <= lead:
        return values
    maps = values.flatten(lead)
    return maps.amax(lead) if over == "max" else maps.mean(lead)


def _layers_with_synapses(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    for name, module in model.named_modules():
        if isinstance(module, kinds) and getattr(module, "groups", 1) == 1:
            yield f"{name}.weight" if name else "weight", module


def _weights_behind(tensor: Tensor, stop: list[Any]) -> Iterator[Tensor]:
    """The leaves that this tensor was computed from, not looking past other neurons' spikes."""
    seen, waiting = set(stop), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            yield leaf
        waiting += [parent for parent, _ in node.next_functions]
