"""The fully connected network of Chen et al. (2021) for 28 x 28 images."""

from collections import OrderedDict

from spikingjelly.activation_based import layer
from torch import nn

from spikewire.nets.neurons import LIF, Repeat, whole


def fc(
    T: int = 8,
    hidden: int = 800,
    inputs: int = 784,
    classes: int = 10,
    tau: float = 2.0,
    detach_reset: bool = True,
) -> nn.Sequential:
    """Return FC-LIF-FC-LIF without biases: images (B, C, H, W) to spikes (T, B, classes).

    The first layer is computed once per image; its neurons see the result at every time step.

    Arguments: `T`, time steps; `hidden`, neurons of the hidden layer; `inputs`, numbers in an image
    (C H W); `classes`; `tau`, membrane time constant above 1; `detach_reset`, whether gradients
    leave out the reset. Raises ValueError, naming the argument, when one is out of range.

    Source: Chen, Yu, Fang, Huang, Tian, 2021, "Pruning of deep spiking neural networks through
    gradient rewiring".

    >>> import torch
    >>> network = fc(T=4, hidden=20, inputs=64)
    >>> network(torch.rand(2, 1, 8, 8)).shape
    torch.Size([4, 2, 10])
    """
    whole("inputs", inputs)
    whole("hidden", hidden)
    whole("classes", classes)
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(inputs, hidden, bias=False),
            repeat=Repeat(T),
            lif1=LIF(tau, detach_reset=detach_reset),
            fc2=layer.Linear(hidden, classes, bias=False, step_mode="m"),
            lif2=LIF(tau, detach_reset=detach_reset),
        )
    )
