"""VGG16 for small images, as the literature on pruning spiking networks has it."""

from collections import OrderedDict

from spikingjelly.activation_based import layer
from torch import nn

from spikewire.nets.forms import form_of
from spikewire.nets.neurons import Repeat, whole

PLAN = (1, 1, 0, 2, 2, 0, 4, 4, 4, 0, 8, 8, 8, 0, 8, 8, 8, 0)
"""Channels of each convolution in units of the width; 0 halves the image."""


def vgg16(
    form: str = "criticality",
    T: int = 5,
    width: int = 64,
    channels: int = 3,
    size: int = 32,
    classes: int = 10,
    surrogate: str = "",
) -> nn.Sequential:
    """Return 13 convolutions and a linear read-out: images (B, C, H, W) to (T, B, classes).

    (conv 3x3 - BN - LIF) x 2 - pool - x 2 - pool - x 3 - pool - x 3 - pool - x 3 - pool - average -
    FC. The first convolution and its normalisation are computed once per image.

    Arguments: `form`, of `FORMS`: "criticality" (average pooling, no biases, tanh surrogate, a
    threshold of 1/2, one normalisation over all time steps), "channels" (the same with arctan and a
    threshold of 1), "lottery" (max-pooling, biases, each time step normalised by itself); `T`, time
    steps; `width`, channels of the first convolution, the last have 8 times as many; `channels` and
    `size`, of the square image, `size` a multiple of 32; `classes`; `surrogate` of the neurons, as
    "sigmoid", in place of the form's own. Raises ValueError, naming the argument, when one is out
    of range.

    Sources: Kim, Li, Park, Venkatesha, Yin, Panda, 2022, "Exploring lottery ticket hypothesis in
    spiking neural networks"; the released code of Chen, Liu, Liu, You, 2023, arXiv 2311.16141.

    >>> import torch
    >>> network = vgg16(T=2, width=4)
    >>> network(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 2, 10])
    """
    chosen = form_of(form, surrogate, width=width, channels=channels, classes=classes)
    if whole("size", size, 32) % 32:
        raise ValueError(f"size is {size}; give a multiple of 32, as the image is halved 5 times.")
    layers = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(channels, width, 3, padding=1, bias=chosen.bias),
        bn1=nn.BatchNorm2d(width),
        repeat=Repeat(T),
        lif1=chosen.lif(),
    )
    before, place, pools = width, 1, 0
    for multiple in PLAN[1:]:
        if multiple == 0:
            pools += 1
            layers[f"pool{pools}"] = chosen.pool(2, step_mode="m")
            continue
        place += 1
        after = multiple * width
        layers[f"conv{place}"] = layer.Conv2d(
            before, after, 3, padding=1, bias=chosen.bias, step_mode="m"
        )
        layers[f"bn{place}"] = chosen.norm(after)
        layers[f"lif{place}"] = chosen.lif()
        before = after
    layers |= OrderedDict[str, nn.Module](
        average=layer.AdaptiveAvgPool2d(1, step_mode="m"),
        flatten=layer.Flatten(step_mode="m"),
        fc=layer.Linear(before, classes, step_mode="m"),
    )
    return _initialised(nn.Sequential(layers))


def _initialised(network: nn.Sequential) -> nn.Sequential:
    for module in network:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return network
