"""Compare: the sparse engine beside dense PyTorch, in one process and on the same data."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spikewire.dialects import reset
from spikewire.measure import pairs, testing
from spikewire.runtime.dense import DenseNetwork
from spikewire.runtime.engine import Record, SparseNetwork

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
        model: the network it was made of, to be timed in its place; None for the program in plain
            PyTorch.

    Raises:
        ValueError: if there is no data.

    >>> from spikewire.nets import fc
    >>> from spikewire.runtime.trace import program_of
    >>> images = torch.rand(2, 1, 28, 28)
    >>> compare(SparseNetwork(program_of(fc(T=4), images)), images).differing
    0
    """
    dense, seen = DenseNetwork(network.program), _Seen()
    one: Tensor | None = None
    for inputs, labels in pairs(batches):
        one = inputs[:, :1] if network.program.input.sequence else inputs[:1]
        seen.add(network, dense, inputs, labels)
    if one is None:
        raise ValueError("batches is empty: give at least one batch of inputs")
    rival, example = model or dense, one
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
        self, network: SparseNetwork, dense: DenseNetwork, inputs: Tensor, labels: Tensor | None
    ) -> None:
        record = Record()
        outputs = network.outputs(network.run(inputs, record))
        with torch.inference_mode():
            expected = dense.values(inputs)
        self.samples += len(outputs)
        for number, spikes in record.spikes.items():
            fired = torch.from_numpy(spikes)
            self.spikes += int(fired.sum())
            self.differing += int((fired != expected[number + 1]).sum())
        if labels is not None:
            self.labelled += len(labels)
            right = expected[-1].flatten(2).mean(0).argmax(1) == labels
            self.hits_dense += int(right.sum())
            self.hits_sparse += int((outputs.argmax(1) == labels).sum())


def _run(model: nn.Module, inputs: Tensor) -> None:
    model(inputs)
    reset(model)


def _milliseconds(*runs: Callable[[], object]) -> tuple[float, float]:
    """The median of each of two, taken in turns: a machine that slows down slows both."""
    found: list[list[float]] = [[] for _ in runs]
    for place in range(_ROUNDS + 1):
        for run, times in zip(runs, found, strict=True):
            start = time.perf_counter()
            run()
            if place:  # the first finds memory, and kernels are chosen
                times.append(1e3 * (time.perf_counter() - start))
    dense, sparse = (statistics.median(times) for times in found)
    return dense, sparse
