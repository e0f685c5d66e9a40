"""A convolutional network that two cores train on 28 x 28 or 32 x 32 images in minutes."""

from collections import OrderedDict

from spikingjelly.activation_based import layer
from torch import nn

from spikewire.nets.neurons import LIF, VOTERS, Repeat, check_image, whole


def conv3fc2(
    T: int = 4,
    width: int = 16,
    channels: int = 3,
    size: int = 32,
    classes: int = 10,
    tau: float = 2.0,
    detach_reset: bool = True,
) -> nn.Sequential:
    """Return three convolutions and two linear layers: images (B, C, H, W) to (T, B, classes).

    (conv 3x3 - BN - LIF - max-pool) x 2 - conv 3x3 - BN - LIF - (FC - BN - LIF) x 2 - vote, without
    biases; `width`, twice and twice as many channels, then eight times as many neurons. The first
    convolution and its normalisation are computed once per image. Ten neurons vote for each class.

    Arguments: `T`, time steps; `width`, channels of the first convolution; `channels` and `size`,
    of the square image, `size` a multiple of 4; `classes`; `tau`, membrane time constant above 1;
    `detach_reset`, whether gradients leave out the reset. Raises ValueError, naming the argument,
    when one is out of range.

    >>> import torch
    >>> conv3fc2(T=2, width=4, channels=1, size=28)(torch.rand(3, 1, 28, 28)).shape
    torch.Size([2, 3, 10])
    """
    whole("width", width)
    check_image(channels, size, classes, halvings=2)

    def lif() -> LIF:
        return LIF(tau, detach_reset=detach_reset)

    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, width, 3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(width),
            repeat=Repeat(T),
            lif1=lif(),
            pool1=layer.MaxPool2d(2, step_mode="m"),
            conv2=layer.Conv2d(width, 2 * width, 3, padding=1, bias=False, step_mode="m"),
            bn2=layer.BatchNorm2d(2 * width, step_mode="m"),
            lif2=lif(),
            pool2=layer.MaxPool2d(2, step_mode="m"),
            conv3=layer.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False, step_mode="m"),
            bn3=layer.BatchNorm2d(2 * width, step_mode="m"),
            lif3=lif(),
            flatten=layer.Flatten(step_mode="m"),
            fc1=layer.Linear(2 * width * (size // 4) ** 2, 8 * width, bias=False, step_mode="m"),
            bn4=layer.BatchNorm1d(8 * width, step_mode="m"),
            lif4=lif(),
            fc2=layer.Linear(8 * width, VOTERS * classes, bias=False, step_mode="m"),
            bn5=layer.BatchNorm1d(VOTERS * classes, step_mode="m"),
            lif5=lif(),
            vote=layer.VotingLayer(VOTERS, step_mode="m"),
        )
    )
