"""Runtime: trained networks that run as fast as few synapses let them.

>>> import torch
>>> from spikewire.nets import fc
>>> images = torch.rand(2, 1, 28, 28)
>>> net = sparse(fc(T=4), images)
>>> net(images).shape
torch.Size([2, 10])
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from spikewire.runtime import c99, file
from spikewire.runtime.compare import Comparison, compare
from spikewire.runtime.engine import SparseNetwork, Timing
from spikewire.runtime.program import Program
from spikewire.runtime.trace import program_of

__all__ = [
    "Comparison",
    "Program",
    "SparseNetwork",
    "Timing",
    "c99",
    "compare",
    "file",
    "load",
    "program_of",
    "sparse",
]


def sparse(model: nn.Module, example: Tensor, *, threads: int | None = None) -> SparseNetwork:
    """A trained network for inference on the CPU, its batch normalisation folded into its weights.

    Spikes are those of the network in evaluation mode, but where a potential lies within rounding
    of its threshold: sums are added up in another order than PyTorch's (`compare` counts them).

    Args:
        model: a trained network, left as it is; `program_of` says what it may be made of.
        example: inputs as it takes them, at least one sample.
        threads: that share the work, 1 to 256; None for as many as torch has.

    Raises:
        ValueError: naming the layer that the engine cannot run, with the reason.
        ImportError: if spikewire was installed without a C++ compiler.

    >>> import torch
    >>> from spikewire.nets import fc
    >>> images = torch.rand(2, 1, 28, 28)
    >>> [timing.name for timing in sparse(fc(T=4), images).profile(images)]
    ['flatten', 'fc1 + lif1', 'fc2 + lif2']
    """
    return SparseNetwork(program_of(model, example), threads)


def load(path: Path | str, *, threads: int | None = None) -> SparseNetwork:
    """The network of a file that `spikewire export` wrote; its classes are not needed.

    Args:
        path: of the file.
        threads: as of `sparse`.

    Raises:
        ValueError: if the file is damaged or no network.
        FileNotFoundError: if there is none.
        ImportError: if spikewire was installed without a C++ compiler.

    >>> import tempfile, torch
    >>> from spikewire.nets import fc
    >>> images = torch.rand(2, 1, 28, 28)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = file.save(Path(folder) / "net.spikewire", program_of(fc(T=4), images))
    ...     load(Path(folder) / "net.spikewire")(images).shape
    torch.Size([2, 10])
    """
    return SparseNetwork(file.load(Path(path))[0], threads)
