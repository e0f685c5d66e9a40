"""The convolutional network of Chen et al. (2021) for 32 x 32 colour images."""

from collections import OrderedDict

from spikingjelly.activation_based import layer
from torch import nn

from spikewire.nets.neurons import LIF, VOTERS, Repeat, check_image, whole


def conv6fc2(
    T: int = 8,
    width: int = 256,
    channels: int = 3,
    size: int = 32,
    classes: int = 10,
    dropout: float = 0.5,
    tau: float = 2.0,
    detach_reset: bool = True,
) -> nn.Sequential:
    """Return six convolutions and two linear layers: images (B, C, H, W) to (T, B, classes).

    (conv 3x3 - BN - LIF) x 3 - max-pool - the same again - dropout - FC - LIF - FC - LIF - vote,
    without biases. The first convolution and its normalisation are computed once per image. Ten
    neurons vote for each class: outputs are multiples of 0.1. Dropout keeps its choice over time.

    Arguments: `T`, time steps; `width`, channels of every convolution (the first linear layer has 8
    times as many neurons); `channels` and `size`, of the square image, `size` a multiple of 4;
    `classes`; `dropout`, probability in [0, 1); `tau`, membrane time constant above 1;
    `detach_reset`, whether gradients leave out the reset. Raises ValueError, naming the argument,
    when one is out of range.

    Source: Chen, Yu, Fang, Huang, Tian, 2021, "Pruning of deep spiking neural networks through
    gradient rewiring".

    >>> import torch
    >>> network = conv6fc2(T=2, width=4, size=8)
    >>> network(torch.rand(2, 3, 8, 8)).shape
    torch.Size([2, 2, 10])
    """
    whole("width", width)
    check_image(channels, size, classes, halvings=2)
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout!r}; give a probability in [0, 1).")

    def lif() -> LIF:
        return LIF(tau, detach_reset=detach_reset)

    layers = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(channels, width, 3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(width),
        repeat=Repeat(T),
        lif1=lif(),
    )
    for i in range(2, 7):
        layers[f"conv{i}"] = layer.Conv2d(width, width, 3, padding=1, bias=False, step_mode="m")
        layers[f"bn{i}"] = layer.BatchNorm2d(width, step_mode="m")
        layers[f"lif{i}"] = lif()
        if i % 3 == 0:
            layers[f"pool{i // 3}"] = layer.MaxPool2d(2, step_mode="m")
    layers |= OrderedDict[str, nn.Module](
        flatten=layer.Flatten(step_mode="m"),
        dropout=layer.Dropout(dropout, step_mode="m"),
        fc1=layer.Linear(width * (size // 4) ** 2, 8 * width, bias=False, step_mode="m"),
        lif7=lif(),
        fc2=layer.Linear(8 * width, VOTERS * classes, bias=False, step_mode="m"),
        lif8=lif(),
        vote=layer.VotingLayer(VOTERS, step_mode="m"),
    )
    return nn.Sequential(layers)
