"""A fully connected network for recordings of events, which come as sequences."""

from collections import OrderedDict

from spikingjelly.activation_based import layer
from torch import nn

from spikewire.nets.neurons import LIF, whole


def fc3(
    hidden: int = 256,
    inputs: int = 24,
    classes: int = 27,
    tau: float = 5.0,
    detach_reset: bool = True,
) -> nn.Sequential:
    """Return (FC - BN - LIF) x 2 - FC: sequences (T, B, C, H, W) to currents (T, B, classes).

    Time is that of the recording: the network has no time steps of its own, and what it remembers
    is in the membranes. Nothing fires at the output; its mean over time is the read-out.

    Arguments: `hidden`, neurons of both hidden layers; `inputs`, places at which events happen in a
    time step (C H W); `classes`; `tau`, membrane time constant in time steps, above 1;
    `detach_reset`, whether gradients leave out the reset. Raises ValueError, naming the argument,
    when one is out of range.

    >>> import torch
    >>> fc3(hidden=20, inputs=6)(torch.rand(5, 3, 2, 3, 1).round()).shape
    torch.Size([5, 3, 27])
    """
    whole("inputs", inputs)
    whole("hidden", hidden)
    whole("classes", classes)
    return nn.Sequential(
        OrderedDict(
            flatten=layer.Flatten(step_mode="m"),
            fc1=layer.Linear(inputs, hidden, bias=False, step_mode="m"),
            bn1=layer.BatchNorm1d(hidden, step_mode="m"),
            lif1=LIF(tau, decay_input=False, detach_reset=detach_reset),
            fc2=layer.Linear(hidden, hidden, bias=False, step_mode="m"),
            bn2=layer.BatchNorm1d(hidden, step_mode="m"),
            lif2=LIF(tau, decay_input=False, detach_reset=detach_reset),
            fc3=layer.Linear(hidden, classes, bias=False, step_mode="m"),
        )
    )
