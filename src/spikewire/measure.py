"""Measure: what a network has and does, counted so that it can be recomputed by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from spikewire.dialects import neurons, reset
from spikewire.observe import Activity, watch
from spikewire.weights import synaptic_weights, unwrapped

ACCUMULATE_PJ = 0.9
MULTIPLY_ACCUMULATE_PJ = 4.6
ENERGY_ASSUMPTIONS = (
    "arithmetic only, 45 nm CMOS, 32-bit float: 0.9 pJ per accumulate, 4.6 pJ per "
    "multiply-accumulate (Horowitz, ISSCC 2014); memory traffic, neurons and control left out"
)
_BINS = 20
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class LayerCount:
    """Synapses of one tensor: all of them, and those which are not 0."""

    name: str
    synapses: int
    alive: int

    @property
    def sparsity(self) -> float:
        return 1.0 - self.alive / self.synapses


@dataclass(frozen=True)
class Firing:
    """Firing of one neuron layer: mean rate, neurons that never fired, histogram over neurons."""

    name: str
    neurons: int
    rate: float
    silent: int
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Operations:
    """Operations per sample, summed over its time steps.

    Attributes:
        synops: accumulates, one for each spike that meets a surviving synapse (NeuroBench:
            Effective_ACs).
        macs: multiply-accumulates, for each non-zero real-valued input that meets a surviving
            synapse (Effective_MACs): of the first layer, and behind average pooling.
        dense: operations if every input and every synapse counted (Dense).
    """

    synops: float = 0.0
    macs: float = 0.0
    dense: float = 0.0

    @property
    def energy_nj(self) -> float:
        """Energy per sample in nanojoules, under `ENERGY_ASSUMPTIONS`."""
        return (self.synops * ACCUMULATE_PJ + self.macs * MULTIPLY_ACCUMULATE_PJ) * 1e-3


@dataclass(frozen=True)
class Report:
    """What was measured of one network. ``str(report)`` is a table, ``a - b`` compares two.

    Attributes:
        accuracy: percent of samples, None without labels.
        parameters: all of them, biases and norms included.
        layers: synapses per tensor.
        firing: per neuron layer.
        operations: per sample.
        bytes_dense, bytes_sparse: of the weights in memory, and with only the survivors stored
            behind a bit mask.
        samples: how many the rates and operations were averaged over.
    """

    accuracy: float | None
    parameters: int
    layers: tuple[LayerCount, ...]
    firing: tuple[Firing, ...]
    operations: Operations
    bytes_dense: int
    bytes_sparse: int
    samples: int

    @property
    def synapses(self) -> int:
        return sum(layer.synapses for layer in self.layers)

    @property
    def alive(self) -> int:
        return sum(layer.alive for layer in self.layers)

    @property
    def sparsity(self) -> float:
        """Share of zeros among all prunable weights."""
        return 1.0 - self.alive / self.synapses

    @property
    def firing_rate(self) -> float | None:
        """Spikes per neuron and time step over all neuron layers; None if there are none."""
        total = sum(layer.neurons for layer in self.firing)
        return sum(layer.rate * layer.neurons for layer in self.firing) / total if total else None

    @property
    def silent(self) -> int:
        return sum(layer.silent for layer in self.firing)

    def figures(self) -> dict[str, float]:
        """The numbers that two reports are compared by."""
        return {
            "accuracy %": _or_nan(self.accuracy),
            "sparsity": self.sparsity,
            "synapses": self.alive,
            "bytes, dense": self.bytes_dense,
            "bytes, sparse": self.bytes_sparse,
            "synops per sample": self.operations.synops,
            "MACs per sample": self.operations.macs,
            "energy nJ per sample": self.operations.energy_nj,
            "firing rate": _or_nan(self.firing_rate),
            "silent neurons": self.silent,
        }

    def neurobench(self) -> dict[str, Any]:
        """The same under the metric names of NeuroBench (Yik et al. 2025)."""
        return {
            "Footprint": self.bytes_dense,
            "ConnectionSparsity": self.sparsity,
            "ActivationSparsity": None if self.firing_rate is None else 1.0 - self.firing_rate,
            "SynapticOperations": {
                "Effective_MACs": self.operations.macs,
                "Effective_ACs": self.operations.synops,
                "Dense": self.operations.dense,
            },
            "ClassificationAccuracy": None if self.accuracy is None else self.accuracy / 100.0,
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "accuracy": self.accuracy,
            "sparsity": self.sparsity,
            "connectivity": 1.0 - self.sparsity,
            "parameters": self.parameters,
            "layers": [asdict(layer) | {"sparsity": layer.sparsity} for layer in self.layers],
            "synops": self.operations.synops,
            "macs": self.operations.macs,
            "dense_synops": self.operations.dense,
            "energy_nj": self.operations.energy_nj,
            "energy_assumptions": ENERGY_ASSUMPTIONS,
            "bytes": {"dense": self.bytes_dense, "sparse": self.bytes_sparse},
            "firing_rate": self.firing_rate,
            "firing": [
                {
                    "name": layer.name,
                    "neurons": layer.neurons,
                    "rate": layer.rate,
                    "silent": layer.silent,
                    "histogram": {"low": 0.0, "high": 1.0, "counts": list(layer.counts)},
                }
                for layer in self.firing
            ],
            "samples": self.samples,
            "neurobench": self.neurobench(),
        }

    def __sub__(self, other: Report) -> Comparison:
        return Comparison(self, other)

    def __str__(self) -> str:
        return "\n".join(f"{name:<22}{value:>16,.6g}" for name, value in self.figures().items())


@dataclass(frozen=True)
class Comparison:
    """Two reports side by side: ``pruned - dense``."""

    one: Report
    other: Report

    def rows(self) -> list[tuple[str, float, float, float]]:
        """Name, value of one, value of the other, difference."""
        right = self.other.figures()
        return [(name, v, right[name], v - right[name]) for name, v in self.one.figures().items()]

    def __str__(self) -> str:
        head = f"{'':<22}{'one':>16}{'other':>16}{'difference':>16}"
        return "\n".join(
            [head]
            + [f"{name:<22}{a:>16,.6g}{b:>16,.6g}{d:>+16,.6g}" for name, a, b, d in self.rows()]
        )


def measure(model: nn.Module, batches: Any, *, only: Sequence[str] | None = None) -> Report:
    """Count what a network has, and what it does on data.

    Operations are those of linear and convolutional layers. Transposed convolutions and recurrent
    cells of torch are not counted.

    Args:
        model: images (B, C, H, W), or sequences (T, B, C, H, W), to outputs (T, B, classes) or
            (B, classes). It is evaluated and left in the mode it was in, at rest.
        batches: one batch (a tensor, or a pair with labels), or an iterable of batches.
        only: name patterns of the prunable tensors, as given to `Pruner`; sparsity is theirs.

    Raises:
        ValueError: if there is no data or no synapse.

    >>> from spikewire.nets import fc
    >>> report = measure(fc(T=4, hidden=20, inputs=64), torch.rand(8, 1, 8, 8))
    >>> report.sparsity, report.synapses, report.samples
    (0.0, 1480, 8)
    """
    model = unwrapped(model)  # one that is compiled already hears no hooks
    hits, labelled, samples = 0, 0, 0
    with testing(model), activity_of(model) as activity, _operations(model) as totals:
        for images, labels in pairs(batches):
            rates = readout(model(images))
            reset(model)
            samples += len(rates)
            if labels is not None:
                hits += int((rates.argmax(1) == labels).sum())
                labelled += len(labels)
    if not samples:
        raise ValueError("batches is empty: give at least one batch of images")
    return Report(
        accuracy=100.0 * hits / labelled if labelled else None,
        parameters=sum(p.numel() for p in model.parameters()),
        layers=count(model, only),
        firing=_firing(activity),
        operations=Operations(**{name: value / samples for name, value in totals.items()}),
        bytes_dense=_bytes(model),
        bytes_sparse=_sparse_bytes(model, only),
        samples=samples,
    )


class Uses(NamedTuple):
    """How often each synapse of a tensor is used per sample, summed over places and time steps.

    Attributes:
        always: if every input counted, as in a dense network.
        met: by inputs that are not 0, on average over the tensor.
    """

    always: float
    met: float


def uses(model: nn.Module, images: Tensor) -> dict[str, Uses]:
    """How often the synapses of each linear and convolutional layer are used, whatever their value.

    Args:
        model: as of `measure`; evaluated, and left as it was, at rest.
        images: one batch.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), nn.Linear(8, 3))
    >>> uses(net, torch.ones(5, 1, 3, 3))["0.weight"]
    Uses(always=4.0, met=4.0)
    """
    found: dict[str, Uses] = {}
    model = unwrapped(model)  # as in `measure`

    def hear(name: str, module: Any, x: Tensor) -> None:
        tensor, synapses = f"{name}.weight" if name else "weight", module.weight.numel()
        before = found.get(tensor, Uses(0.0, 0.0))
        always = _dense_meetings(module, x) / synapses
        met = _meetings(module, x != 0, torch.ones_like(module.weight)) / synapses
        found[tensor] = Uses(before.always + always, before.met + met)

    with testing(model), _inputs_of_layers(model, hear):
        samples = len(readout(model(images)))
    return {name: Uses(each.always / samples, each.met / samples) for name, each in found.items()}


def places(model: nn.Module, example: Tensor) -> dict[str, int]:
    """At how many places of a sample's map each weight of a layer is used, by the weight's name.

    So many synapses it has in a network that is unfolded in space: one in a linear layer, the
    positions of the output in a convolution, those at the border included. Layers come in the order
    in which they are run.

    Args:
        model: the network; it is left as it was, at rest.
        example: a batch of inputs.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 1))
    >>> places(net, torch.rand(1, 1, 4, 4))
    {'0.weight': 4, '2.weight': 1}
    """
    found: dict[str, int] = {}
    model = unwrapped(model)  # as in `measure`

    def note(name: str, module: Any, inputs: Any, output: Tensor) -> None:
        found[name] = output.shape[output.ndim - module.weight.ndim + 2 :].numel()

    handles = [
        module.register_forward_hook(partial(note, f"{name}.weight".removeprefix(".")))
        for name, module in model.named_modules()
        if isinstance(module, _LAYERS)
    ]
    try:
        with testing(model):
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return found


def count(model: nn.Module, only: Sequence[str] | None = None) -> tuple[LayerCount, ...]:
    """Synapses per tensor, alive meaning not 0.

    >>> count(nn.Linear(2, 3))
    (LayerCount(name='weight', synapses=6, alive=6),)
    """
    return tuple(
        LayerCount(name, weight.numel(), int(torch.count_nonzero(weight)))
        for name, weight in synaptic_weights(model, only)
    )


def readout(outputs: Tensor) -> Tensor:
    """Outputs per class (B, classes): the mean over time of (T, B, classes).

    Raises:
        ValueError: if they are no tensor.

    >>> readout(torch.tensor([[[0.0, 1.0]], [[1.0, 1.0]]]))
    tensor([[0.5000, 1.0000]])
    """
    if not isinstance(outputs, Tensor):
        raise ValueError(
            f"the network gives a {type(outputs).__name__}: let it give one tensor, (T, B, "
            "classes) or (B, classes), such as its spikes alone"
        )
    return outputs.mean(0) if outputs.ndim == 3 else outputs


@contextmanager
def testing(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, at rest and without gradients; afterwards as it was, at rest.

    >>> net = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2).eval())
    >>> with testing(net):
    ...     print(net[0].training)
    False
    >>> [module.training for module in net]
    [True, False]
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    reset(model)
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        reset(model)


def activity_of(model: nn.Module) -> AbstractContextManager[Activity]:
    """`watch` for firing rates alone; nothing is seen where no neuron layer is known.

    >>> with activity_of(nn.Linear(2, 1)) as activity:
    ...     print(activity, activity.rate)
    {} None
    """
    known = any(True for _ in neurons(unwrapped(model)))
    return watch(model, spikes=False) if known else nullcontext(Activity())


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def pairs(batches: Any) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Inputs and labels, one batch after the other; labels are None where none are given.

    Args:
        batches: a batch (a tensor, or a pair of inputs and labels), or an iterable of batches.

    Raises:
        ValueError: if it is something else.

    >>> [labels for _, labels in pairs([torch.zeros(2, 3), (torch.zeros(1, 3), torch.tensor([0]))])]
    [None, tensor([0])]
    """
    one = isinstance(batches, tuple | list) and len(batches) == 2 and _are_labels(batches[1])
    if one or isinstance(batches, Tensor):
        yield _pair(batches)
    elif isinstance(batches, Iterable) and not isinstance(batches, str | Mapping):
        yield from map(_pair, batches)
    else:
        raise ValueError(_no_batch("batches is", batches))


def _pair(batch: Any) -> tuple[Tensor, Tensor | None]:
    """Inputs come first, labels (B,) may follow, and whatever else a data set gives."""
    if isinstance(batch, Tensor):
        return batch, None
    if not isinstance(batch, tuple | list) or not batch or not isinstance(batch[0], Tensor):
        raise ValueError(_no_batch("a batch is", batch))
    return batch[0], batch[1] if len(batch) > 1 and _are_labels(batch[1]) else None


def _no_batch(what: str, given: Any) -> str:
    return (
        f"{what} {type(given).__name__}: give a tensor of images, a pair of images and labels "
        "(B,), or an iterable of those"
    )


def _are_labels(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 1


def _firing(activity: Activity) -> tuple[Firing, ...]:
    return tuple(
        Firing(
            name,
            layer.rates.numel(),
            layer.rate,
            layer.silent,
            tuple(int(n) for n in torch.histc(layer.rates.float().cpu(), _BINS, 0.0, 1.0)),
        )
        for name, layer in activity.items()
        if layer.heard
    )


@contextmanager
def _operations(model: nn.Module) -> Iterator[dict[str, float]]:
    """Count operations of linear and convolutional layers through their inputs."""
    totals = {field.name: 0.0 for field in fields(Operations)}

    def hear(name: str, module: Any, x: Tensor) -> None:
        marked = (x != 0).to(x.dtype)
        kind = "synops" if torch.equal(x, marked) else "macs"
        totals[kind] += _meetings(module, marked, module.weight != 0)
        totals["dense"] += _dense_meetings(module, x)

    with _inputs_of_layers(model, hear):
        yield totals


@contextmanager
def _inputs_of_layers(model: nn.Module, hear: Callable[[str, Any, Tensor], None]) -> Iterator[None]:
    """Let a function hear the inputs (T B, C, ...) of every linear and convolutional layer."""

    def pass_on(name: str, module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        x = inputs[0] if inputs else named["input"]
        hear(name, module, x.reshape(-1, *x.shape[1 - module.weight.ndim :]))

    handles = [
        module.register_forward_pre_hook(partial(pass_on, name), with_kwargs=True)
        for name, module in model.named_modules()
        if isinstance(module, _LAYERS)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _dense_meetings(module: Any, x: Tensor) -> float:
    """As `_meetings`, if every input and every synapse counted."""
    return len(x) * _meetings(module, torch.ones_like(x[:1]), torch.ones_like(module.weight))


def _meetings(module: Any, x: Tensor, weight: Tensor) -> float:
    """How often a marked input meets a marked synapse: the layer's own sum, over ones."""
    # counts, exact whatever the layer's own type; samples are added up first, for the sum is linear
    x, weight = x.float().sum(0, keepdim=True).double(), weight.double()
    if isinstance(module, nn.Linear):
        return float(linear(x, weight.sum(0, keepdim=True)).sum())
    # without groups the output channels can be added up beforehand
    weight = weight.sum(0, keepdim=True) if module.groups == 1 else weight
    return float(module._conv_forward(x, weight, None).sum())


def _bytes(model: nn.Module) -> int:
    tensors = (value for value in model.state_dict().values() if isinstance(value, Tensor))
    return sum(value.numel() * value.element_size() for value in tensors)


def _sparse_bytes(model: nn.Module, only: Sequence[str] | None) -> int:
    """With each synaptic tensor as survivors behind a bit mask, where that is smaller."""
    return _bytes(model) - sum(
        max(0, weight.element_size() * int((weight == 0).sum()) - (weight.numel() + 7) // 8)
        for _, weight in synaptic_weights(model, only)
    )
