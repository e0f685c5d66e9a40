"""ResNet19 for small images, as the literature on pruning spiking networks has it."""

from collections import OrderedDict

from spikingjelly.activation_based import layer
from torch import Tensor, nn

from spikewire.nets.forms import Form, form_of
from spikewire.nets.neurons import Repeat

STAGES = ((2, 3), (4, 3), (8, 2))
"""Channels in units of the width, and blocks; the first block of each halves the image."""


class PreActivation(nn.Module):
    """A block that normalises and fires before its convolutions: (T, B, C, H, W) to the same.

    BN - LIF - conv - BN - LIF - conv, plus its input, through a 1x1 convolution where shapes
    differ.
    """

    def __init__(self, form: Form, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.lif1 = form.norm(before), form.lif()
        self.conv1 = _conv(before, after, 3, stride)
        self.bn2, self.lif2 = form.norm(after), form.lif()
        self.conv2 = _conv(after, after, 3)
        self.shortcut = nn.Identity() if stride == 1 else _conv(before, after, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return currents for the next block."""
        spikes = self.lif1(self.bn1(x))
        return self.conv2(self.lif2(self.bn2(self.conv1(spikes)))) + self.shortcut(x)


class PostActivation(nn.Module):
    """A block that fires after its convolutions: spikes (T, B, C, H, W) to spikes.

    conv - BN - LIF - conv - BN, plus its input, through a 1x1 convolution and BN where shapes
    differ, - LIF.
    """

    def __init__(self, form: Form, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(before, after, 3, stride), form.norm(after)
        self.lif1 = form.lif()
        self.conv2, self.bn2 = _conv(after, after, 3), form.norm(after)
        self.lif2 = form.lif()
        self.shortcut = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(_conv(before, after, 1, stride), form.norm(after))

    def forward(self, x: Tensor) -> Tensor:
        """Return spikes."""
        currents = self.bn2(self.conv2(self.lif1(self.bn1(self.conv1(x)))))
        return self.lif2(currents + self.shortcut(x))


def resnet19(
    form: str = "criticality",
    T: int = 5,
    width: int = 64,
    channels: int = 3,
    classes: int = 10,
    surrogate: str = "",
) -> nn.Sequential:
    """Return a convolution, 8 residual blocks and a read-out: (B, C, H, W) to (T, B, classes).

    Three stages of 3, 3 and 2 blocks with 2, 4 and 8 times `width` channels, each halving the
    image; then the average over the image, and one linear layer ("lottery": FC - LIF - FC). The
    first convolution is computed once per image.

    Arguments: `form`, of `FORMS`, see `vgg16`: "criticality" and "channels" normalise and fire
    before the convolutions of a block, "lottery" after them; `T`, time steps; `width`, channels of
    the first convolution; `channels`, of the image; `classes`; `surrogate`, see `vgg16`. Raises
    ValueError, naming the argument, when one is out of range.

    Sources: as of `vgg16`.

    >>> import torch
    >>> network = resnet19(T=2, width=4)
    >>> network(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 2, 10])
    """
    chosen = form_of(form, surrogate, width=width, channels=channels, classes=classes)
    layers = OrderedDict[str, nn.Module](conv1=nn.Conv2d(channels, width, 3, padding=1, bias=False))
    if chosen.preactivation:
        layers["repeat"] = Repeat(T)
    else:
        layers |= OrderedDict[str, nn.Module](
            bn1=nn.BatchNorm2d(width), repeat=Repeat(T), lif1=chosen.lif()
        )
    kind = PreActivation if chosen.preactivation else PostActivation
    before = width
    for stage, (multiple, blocks) in enumerate(STAGES, 1):
        for place in range(1, blocks + 1):
            stride = 2 if place == 1 else 1
            layers[f"block{stage}_{place}"] = kind(chosen, before, multiple * width, stride)
            before = multiple * width
    if chosen.preactivation:
        layers |= OrderedDict[str, nn.Module](bn=chosen.norm(before), lif=chosen.lif())
    layers["average"] = layer.AdaptiveAvgPool2d(1, step_mode="m")
    layers["flatten"] = layer.Flatten(step_mode="m")
    if not chosen.preactivation:
        layers |= OrderedDict[str, nn.Module](
            fc1=layer.Linear(before, before // 2, step_mode="m"), lif2=chosen.lif()
        )
        before //= 2
    layers["fc"] = layer.Linear(before, classes, step_mode="m")
    return nn.Sequential(layers)


def _conv(before: int, after: int, kernel: int, stride: int = 1) -> nn.Module:
    return layer.Conv2d(
        before, after, kernel, stride, padding=kernel // 2, bias=False, step_mode="m"
    )
