"""Compare: the sparse engine beside dense PyTorch, in one process and on the same data."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spikewire.dialects import reset
from spikewire.measure import pairs, readout, testing
from spikewire.observe import watch
from spikewire.runtime.dense import DenseNetwork
from spikewire.runtime.engine import Record, SparseNetwork
from spikewire.runtime.program import Neuron

_ROUNDS = 7


@dataclass(frozen=True)
class Comparison:
    """What the sparse engine does beside PyTorch.

    Attributes:
        samples: that both were shown.
        accuracy_dense, accuracy_sparse: in percent, None without labels.
        spikes: of the sparse network, over all samples.
        differing: spikes that only one of both has. Sums are added up in another order; where one
            lies within rounding of the threshold, a spike differs, and what follows from it.
        milliseconds_dense, milliseconds_sparse: of one sample, the median of several runs.
        threads: of both.
    """

    samples: int
    accuracy_dense: float | None
    accuracy_sparse: float | None
    spikes: int
    differing: int
    milliseconds_dense: float
    milliseconds_sparse: float
    threads: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def compare(network: SparseNetwork, batches: Any, model: nn.Module | None = None) -> Comparison:
    """Run a network sparse and dense: same spikes, same accuracy, in which time?

    Args:
        network: the sparse one.
        batches: one batch (a tensor, or a pair with labels), or an iterable of batches.
        model: the network it was made of, as the rival; None for the program in plain PyTorch, its
            normalisation folded already.

    Raises:
        ValueError: if there is no data.

    >>> from spikewire.nets import fc
    >>> from spikewire.runtime.trace import program_of
    >>> images = torch.rand(2, 1, 28, 28)
    >>> compare(SparseNetwork(program_of(fc(T=4), images)), images).differing
    0
    """
    rival = DenseNetwork(network.program) if model is None else model
    seen, one = _Seen(), None
    for inputs, labels in pairs(batches):
        one = inputs[:, :1] if network.program.input.sequence else inputs[:1]
        seen.add(network, rival, inputs, labels)
    if one is None:
        raise ValueError("batches is empty: give at least one batch of inputs")
    example: Tensor = one
    with testing(rival):
        milliseconds = _milliseconds(lambda: _run(rival, example), lambda: network(example))
    return Comparison(
        seen.samples,
        100.0 * seen.hits_dense / seen.labelled if seen.labelled else None,
        100.0 * seen.hits_sparse / seen.labelled if seen.labelled else None,
        seen.spikes,
        seen.differing,
        *milliseconds,
        network.threads,
    )


@dataclass
class _Seen:
    """Counts over batches."""

    samples: int = 0
    labelled: int = 0
    hits_dense: int = 0
    hits_sparse: int = 0
    spikes: int = 0
    differing: int = 0

    def add(
        self, network: SparseNetwork, rival: nn.Module, inputs: Tensor, labels: Tensor | None
    ) -> None:
        record = Record()
        outputs = network.outputs(network.run(inputs, record))
        expected, spikes = _expected(network, rival, inputs)
        self.samples += len(outputs)
        for number, found in record.spikes.items():
            fired = found != 0
            dense = spikes[number].bool().numpy().reshape(fired.shape)
            self.spikes += int(np.count_nonzero(fired))  # far quicker than a sum
            self.differing += int(np.count_nonzero(fired ^ dense))
        if labels is not None:
            self.labelled += len(labels)
            self.hits_dense += int((expected.argmax(1) == labels).sum())
            self.hits_sparse += int((outputs.argmax(1) == labels).sum())


def _expected(
    network: SparseNetwork, rival: nn.Module, inputs: Tensor
) -> tuple[Tensor, dict[int, Tensor]]:
    """Outputs (B, classes) of the rival, and its spikes by the number of the step."""
    steps = network.program.steps
    if isinstance(rival, DenseNetwork):
        with torch.inference_mode():
            values = rival.values(inputs)
        return values[-1].flatten(2).mean(0), dict(enumerate(values[1:]))
    with testing(rival), watch(rival) as activity:
        outputs = readout(rival(inputs))
    places = {step.name: n for n, step in enumerate(steps) if isinstance(step.operation, Neuron)}
    return outputs, {n: activity[name].spikes.contiguous() for name, n in places.items()}


def _run(model: nn.Module, inputs: Tensor) -> None:
    model(inputs)
    reset(model)


def _milliseconds(*runs: Callable[[], object]) -> tuple[float, float]:
    """The median of each of two, taken in turns: a machine that slows down slows both.

    The first call of a turn is not counted: it pays for what the other left behind, threads that
    still look for work and caches full of something else.
    """
    found: list[list[float]] = [[] for _ in runs]
    for _ in range(_ROUNDS):
        for run, times in zip(runs, found, strict=True):
            run()
            start = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - start))
    dense, sparse = (statistics.median(times) for times in found)
    return dense, sparse
