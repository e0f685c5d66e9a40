"""A convolutional network small enough to train in seconds on 8 x 8 digits."""

from collections import OrderedDict

from spikingjelly.activation_based import layer
from torch import nn

from spikewire.nets.neurons import LIF, VOTERS, Repeat, check_image, whole


def tiny(
    T: int = 4,
    channels: int = 1,
    size: int = 8,
    classes: int = 10,
    width: int = 16,
    tau: float = 2.0,
    detach_reset: bool = True,
) -> nn.Sequential:
    """Return two convolutions and a linear layer: images (B, C, H, W) to (T, B, classes).

    (conv 3x3 - BN - LIF) x 2 - max-pool - FC - BN - LIF - vote, without biases. The first layer and
    its normalisation are computed once per image. Ten neurons vote for each class: outputs are
    multiples of 0.1. The last layer is normalised too, so that its neurons go on firing when few
    synapses are left.

    Arguments: `T`, time steps; `channels` and `size`, of the square image, `size` even; `classes`;
    `width`, channels of both convolutions; `tau`, membrane time constant above 1; `detach_reset`,
    whether gradients leave out the reset. Raises ValueError, naming the argument, when one is out
    of range.

    >>> import torch
    >>> network = tiny()
    >>> network(torch.rand(2, 1, 8, 8)).shape
    torch.Size([4, 2, 10])
    """
    whole("width", width)
    check_image(channels, size, classes, halvings=1)
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, width, 3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(width),
            repeat=Repeat(T),
            lif1=LIF(tau, detach_reset=detach_reset),
            conv2=layer.Conv2d(width, width, 3, padding=1, bias=False, step_mode="m"),
            bn2=layer.BatchNorm2d(width, step_mode="m"),
            lif2=LIF(tau, detach_reset=detach_reset),
            pool=layer.MaxPool2d(2, step_mode="m"),
            flatten=layer.Flatten(step_mode="m"),
            fc=layer.Linear(width * (size // 2) ** 2, VOTERS * classes, bias=False, step_mode="m"),
            bn3=layer.BatchNorm1d(VOTERS * classes, step_mode="m"),
            lif3=LIF(tau, detach_reset=detach_reset),
            vote=layer.VotingLayer(VOTERS, step_mode="m"),
        )
    )
