"""Distributed: several processes train one network with PyTorch's own DistributedDataParallel.

Every process does the same arithmetic on all-reduced gradients, so weights and masks are equal
everywhere without being sent; rank 0 alone writes files.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch import distributed as dist


def running() -> bool:
    """Whether this process is one of several in a process group.

    >>> running()
    False
    """
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """The number of this process, from 0, also before and after the process group."""
    return dist.get_rank() if running() else int(os.environ.get("RANK", "0"))


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if running() else 1


@contextmanager
def group() -> Iterator[torch.device]:
    """Join the other processes if torchrun started this one; gives the device to work on."""
    cuda = torch.cuda.is_available()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if "RANK" not in os.environ or running():
        yield device
        return
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield device
    finally:
        gc.collect()  # torch can hang if a replica outlives its process group
        dist.destroy_process_group()


def replicated(model: nn.Module, device: torch.device) -> nn.Module:
    """The model to call in training: under DistributedDataParallel if there are several processes.

    >>> net = nn.Linear(2, 2)
    >>> replicated(net, torch.device("cpu")) is net
    True
    """
    if not running():
        return model
    return nn.parallel.DistributedDataParallel(
        model,
        device_ids=[device.index] if device.type == "cuda" else None,
        # otherwise gradients are packed anew, and added up in another order, after the first step
        # of a process: a continued run would differ in the last bit
        find_unused_parameters=True,
    )


def total(values: Tensor) -> Tensor:
    """The sum over all processes, the same on each.

    >>> total(torch.tensor([1.0]))
    tensor([1.])
    """
    if running():
        dist.all_reduce(values)
    return values


def mean(sums: Tensor, count: int) -> Tensor:
    """Sums over so many samples, as the mean over the samples of all processes.

    >>> mean(torch.tensor([[2.0, 4.0]]), 2)
    tensor([[1., 2.]])
    """
    parts = sums.double().flatten(), sums.new_tensor([count], dtype=torch.float64)
    both = total(torch.cat(parts))
    return (both[:-1] / both[-1]).view(sums.shape).to(sums.dtype)


def share_buffers(model: nn.Module) -> None:
    """Give all processes the buffers of rank 0: running statistics differ between steps.

    >>> share_buffers(nn.BatchNorm1d(2))
    """
    if running():
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def agree(flag: bool) -> bool:
    """True on all processes if it is True on any.

    >>> agree(True), agree(False)
    (True, False)
    """
    return bool(total(torch.tensor(float(flag), device=_device())) > 0) if running() else flag


def wait() -> None:
    """Until all processes are here."""
    if running():
        dist.barrier()


def _device() -> torch.device:
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
