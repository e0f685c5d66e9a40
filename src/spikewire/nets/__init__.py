"""Reference networks, by name: images (B, C, H, W) in, (T, B, classes) or (B, classes) out.

`fc3` takes sequences (T, B, C, H, W).
"""

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from spikewire.nets.conv3fc2 import conv3fc2
from spikewire.nets.conv6fc2 import conv6fc2
from spikewire.nets.fc import fc
from spikewire.nets.fc3 import fc3
from spikewire.nets.lsnn import ALIF, lsnn
from spikewire.nets.neurons import LIF, Repeat
from spikewire.nets.resnet19 import resnet19
from spikewire.nets.sampling import sampling_machine
from spikewire.nets.stdp import Competition, NormalisedSGD, diehl_cook, stdp
from spikewire.nets.tiny import tiny
from spikewire.nets.vgg16 import vgg16
from spikewire.spelling import check

NETS: dict[str, Callable[..., nn.Module]] = {
    "fc": fc,
    "fc3": fc3,
    "conv3fc2": conv3fc2,
    "conv6fc2": conv6fc2,
    "vgg16": vgg16,
    "resnet19": resnet19,
    "tiny": tiny,
    "lsnn": lsnn,
    "diehl-cook": diehl_cook,
    "sampling-machine": sampling_machine,
}

__all__ = [
    "ALIF",
    "LIF",
    "NETS",
    "Competition",
    "NormalisedSGD",
    "Repeat",
    "conv3fc2",
    "conv6fc2",
    "diehl_cook",
    "fc",
    "fc3",
    "lsnn",
    "net",
    "resnet19",
    "sampling_machine",
    "stdp",
    "tiny",
    "vgg16",
]


def net(name: str, **arguments: Any) -> nn.Module:
    """Return the reference network called `name`, built with `arguments`.

    Arguments: `name`, a key of `NETS`; `arguments`, those of the network's function. Raises
    ValueError for an unknown name or argument, naming the nearest right one.

    >>> import torch
    >>> net("tiny", T=2)(torch.rand(3, 1, 8, 8)).shape
    torch.Size([2, 3, 10])
    """
    check("network", name, NETS)
    known = inspect.signature(NETS[name]).parameters
    for argument in arguments:
        check(f"argument of network {name}", argument, known)
    return NETS[name](**arguments)
