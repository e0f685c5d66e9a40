"""The forms in which the literature builds VGG16 and ResNet19: neurons, normalisation, pooling."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from spikingjelly.activation_based import layer
from torch import Tensor, nn

from spikewire.nets.neurons import LIF, whole
from spikewire.spelling import check


class NormEachStep(nn.BatchNorm2d):
    """Batch normalisation of every time step by itself: (T, B, C, H, W) to the same.

    Statistics are those of one time step; the running ones, which evaluation uses, are updated T
    times. Arguments are those of `nn.BatchNorm2d`.

    >>> NormEachStep(3)(torch.randn(2, 4, 3, 5, 5)).shape
    torch.Size([2, 4, 3, 5, 5])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the sequence, normalised."""
        return torch.stack([super(NormEachStep, self).forward(step) for step in input])


def _norm_all_steps(channels: int) -> nn.Module:
    return layer.BatchNorm2d(channels, step_mode="m")


@dataclass(frozen=True)
class Form:
    """What sets the networks of one source apart from those of another.

    Arguments: `norm`, of channels, for sequences (T, B, C, H, W); `pool`, halves an image; `bias`,
    of VGG16's convolutions; `preactivation`, whether ResNet19's blocks normalise and fire before
    their convolutions; the others are those of `LIF`.
    """

    norm: Callable[[int], nn.Module] = _norm_all_steps
    pool: type[nn.Module] = layer.AvgPool2d
    bias: bool = False
    preactivation: bool = True
    surrogate: str = "arctan"
    decay_input: bool = True
    v_threshold: float = 1.0
    detach_reset: bool = False

    def lif(self) -> LIF:
        """A layer of neurons; all forms have a membrane that keeps a quarter, tau = 4/3."""
        return LIF(
            4 / 3,
            decay_input=self.decay_input,
            v_threshold=self.v_threshold,
            surrogate=self.surrogate,
            detach_reset=self.detach_reset,
        )


FORMS = {
    # Chen, Liu, Liu, You, 2023 (arXiv 2311.16141): released code for pruning synapses ...
    "criticality": Form(surrogate="tanh", decay_input=False, v_threshold=0.5),
    # ... and for pruning channels
    "channels": Form(),
    # Kim, Li, Park, Venkatesha, Yin, Panda, 2022 (arXiv 2207.01382)
    "lottery": Form(
        NormEachStep, layer.MaxPool2d, bias=True, preactivation=False, detach_reset=True
    ),
}


def form_of(name: str, surrogate: str = "", **sizes: int) -> Form:
    """Return the form called `name`, for a network of these sizes.

    A `surrogate` takes the place of the form's own. Raises ValueError, naming the nearest form, if
    there is none, or the size that is no whole number of 1 or more.

    >>> form_of("lottery").bias
    True
    """
    check("form", name, FORMS)
    for size, value in sizes.items():
        whole(size, value)
    return replace(FORMS[name], surrogate=surrogate) if surrogate else FORMS[name]
