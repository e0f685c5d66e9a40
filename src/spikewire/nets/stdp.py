"""A two-layer network that learns without labels, in the manner of Diehl and Cook (2015).

Spikes of the pixels drive a layer of neurons that compete. What spike-timing-dependent plasticity
(STDP) would add to the weights is left where backpropagation would leave its gradient, with the
sign turned: so any loop, optimizer and `Pruner` trains it, batches accumulate, and several
processes average. `NormalisedSGD` is the optimizer it needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from spikingjelly.activation_based import layer, neuron
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import one_hot

from spikewire import distributed
from spikewire.measure import testing
from spikewire.nets.neurons import whole

MEAN = 0.1  # of a neuron's weights: Diehl and Cook have a sum of 78 over 784 of them


def stdp(before: Tensor, behind: Tensor, trace: float, depression: float = 0.0) -> Tensor:
    """Return what pair-based STDP adds to the weights (N, inputs) between two trains of spikes.

    ```
    x[t] = (1 - 1/trace) x[t-1] + before[t],    y[t] = (1 - 1/trace) y[t-1] + behind[t]
    dw = sum over t and B of  behind[t] x[t] - depression before[t] y[t]
    ```

    It is the rule of SpikingJelly's `STDPLearner`, which makes a product (B, N, inputs) at every
    time step; here it is one matrix product over all of them.

    Arguments: `before`, spikes (T, B, inputs); `behind`, spikes (T, B, N); `trace`, time constant
    of both traces in time steps, at least 1; `depression`, what a pair in the wrong order counts, 0
    or more. Raises ValueError, naming the argument, when one is out of range.

    >>> before, behind = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
    >>> stdp(before.view(3, 1, 1), behind.view(3, 1, 1), trace=2.0)
    tensor([[0.2500]])
    """
    check_rule(trace, depression)
    fired = behind.any(-1)  # (T, B), few of them
    change = behind[fired].T @ _traces(before, trace)[fired]
    if depression:
        change -= depression * _traces(behind, trace).flatten(0, 1).T @ before.flatten(0, 1)
    return change


def check_rule(trace: float, depression: float = 0.0) -> None:
    """Raise ValueError, naming the argument, when one of `stdp` is out of range."""
    if not trace >= 1:
        raise ValueError(f"trace is {trace!r}; give a time constant of at least 1 time step.")
    if not depression >= 0:
        raise ValueError(f"depression is {depression!r}; give 0 or more.")


def check_code(rate: float, low: float, high: float) -> None:
    """Raise ValueError, naming the argument, when images cannot be turned into spikes by these."""
    if not 0 < rate <= 1:
        raise ValueError(f"rate is {rate!r}; give a number above 0, up to 1 for a spike each step.")
    if not low < high:
        raise ValueError(f"low is {low!r}, high is {high!r}; give the grey level of black first.")


def brightness(images: Tensor, low: float, high: float) -> Tensor:
    """Return pixels (B, inputs) from 0, for those at or below `low`, to 1, from `high` on.

    >>> brightness(torch.tensor([[-1.0, 0.0, 2.0]]), -1.0, 1.0)
    tensor([[0.0000, 0.5000, 1.0000]])
    """
    return ((images.flatten(1) - low) / (high - low)).clamp(0.0, 1.0)


def _traces(spikes: Tensor, trace: float) -> Tensor:
    traces = spikes.clone()
    for t in range(1, len(traces)):
        traces[t].add_(traces[t - 1], alpha=1 - 1 / trace)
    return traces


class NormalisedSGD(torch.optim.Optimizer):
    """Gradient descent that keeps weights at or above 0 and the mean of each neuron's at 0.1.

    ``w <- max(w - lr dL/dw, 0)``, then ``w <- 0.1 w / mean(w)`` over the inputs of each neuron.
    Diehl and Cook normalise before each image; here it is part of the step, so that a pruner, whose
    hooks are around it, has the last word. A neuron without weights stays without.

    Arguments: `parameters`, those of two or more dimensions with a neuron in each row, others are
    moved without bounds; `lr`, learning rate above 0. Raises ValueError for any other rate.

    >>> weight = nn.Parameter(torch.tensor([[0.1, 0.1]]))
    >>> weight.grad = torch.tensor([[-0.2, 0.2]])
    >>> NormalisedSGD([weight], lr=1.0).step()
    >>> weight.data
    tensor([[0.2000, 0.0000]])
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        if not lr > 0:
            raise ValueError(f"lr is {lr!r}; give a learning rate above 0.")
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move the weights; `closure` evaluates gradients first, and its result is returned."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.sub_(weight.grad, alpha=group["lr"])
                    if weight.ndim > 1:
                        normalise(weight)
        return loss


def normalise(weight: Tensor) -> None:
    """Make weights (N, ...) 0 where they are below, and the mean of each row 0.1, in place.

    >>> weight = torch.tensor([[3.0, 1.0], [-1.0, 0.0]])
    >>> normalise(weight)
    >>> weight
    tensor([[0.1500, 0.0500],
            [0.0000, 0.0000]])
    """
    mean = weight.clamp_(min=0.0).flatten(1).mean(1)
    scale = MEAN / mean.clamp(min=torch.finfo(mean.dtype).tiny)
    weight.mul_(scale.view(-1, *[1] * (weight.ndim - 1)))


class Competition(neuron.BaseNode):
    """A layer of leaky neurons of which at most one fires at a time, with adaptive thresholds.

    ```
    u[t] = exp(-1/tau) v[t-1] + x[t]
    S[t] = 1 for the neuron of largest u[t] - (threshold + theta), if that is not below 0
    v[t] = 0 for all neurons of a sample in which one has fired, else u[t]
    ```

    Inhibition is so strong that a spike resets the whole layer. Thresholds rise when `adapt` is
    told of spikes: those who fire often leave the next image to others.

    Arguments: `neurons`, how many; `tau`, membrane time constant in time steps, above 0;
    `threshold`, above 0; `rise` of theta with a spike and `recovery`, the share of theta that is
    lost with each sample, both in units of potential and 0 or more, `recovery` below 1. Raises
    ValueError, naming the argument, when one is out of range.

    >>> Competition(2, threshold=1.0)(torch.tensor([[[1.2, 1.5]]]))
    tensor([[[0., 1.]]])
    """

    theta: Tensor

    def __init__(
        self,
        neurons: int,
        tau: float = 25.0,
        threshold: float = 13.0,
        rise: float = 0.26,
        recovery: float = 1e-3,
    ) -> None:
        for name, value in (("tau", tau), ("threshold", threshold)):
            if not value > 0:
                raise ValueError(f"{name} is {value!r}; give a number above 0.")
        if not rise >= 0:
            raise ValueError(f"rise is {rise!r}; give 0 or more, or thresholds fall with spikes.")
        if not 0 <= recovery < 1:
            raise ValueError(f"recovery is {recovery!r}; give a share from 0 to below 1.")
        super().__init__(v_threshold=float(threshold), v_reset=0.0, step_mode="m")
        self.decay, self.rise, self.recovery = math.exp(-1.0 / tau), rise, recovery
        self.register_buffer("theta", torch.zeros(whole("neurons", neurons)))

    def single_step_functional_forward(
        self, inputs: tuple[Tensor, ...], states: tuple[Any, ...], **kwargs: object
    ) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
        """Return the spikes (B, N) and the potentials (B, N)."""
        u = torch.add(inputs[0], states[0], alpha=self.decay)
        excess, winner = (u - (self.v_threshold + self.theta)).max(1, keepdim=True)
        fired = (excess >= 0).to(u)  # (B, 1)
        return (torch.zeros_like(u).scatter_(1, winner, fired),), (u * (1.0 - fired),)

    @torch.no_grad()
    def adapt(self, spikes: Tensor) -> None:
        """Let thresholds rise with the spikes (T, B, N) of a batch, and recover."""
        self.theta += self.rise * distributed.total(spikes.sum((0, 1)))
        self.theta *= (1.0 - self.recovery) ** (spikes.shape[1] * distributed.world())


def learned(outputs: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
    """Return the outputs; going back from them, this is the gradient of the weights.

    >>> weight = nn.Parameter(torch.zeros(1))
    >>> learned(torch.ones(3), weight, torch.tensor([5.0])).sum().backward()
    >>> weight.grad
    tensor([5.])
    """
    found = _Learned.apply(outputs, weight, gradient)
    assert isinstance(found, Tensor)
    return found


class _Learned(torch.autograd.Function):
    @staticmethod
    def forward(ctx, outputs, weight, gradient):
        ctx.save_for_backward(gradient)
        return outputs.view_as(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, _):  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, ctx.saved_tensors[0], None


class DiehlCook(nn.Module):
    """Learn what images have in common, and vote; see `diehl_cook`."""

    chance: Tensor
    votes: Tensor

    def __init__(
        self,
        synapses: nn.Linear,
        neurons: Competition,
        T: int,
        classes: int,
        labelled: int,
        rate: float,
        grey: tuple[float, float],
        trace: float,
        depression: float,
    ) -> None:
        super().__init__()
        self.synapses, self.neurons = synapses, neurons
        self.labelled, self.rate, self.grey = labelled, rate, grey
        self.trace, self.depression = trace, depression
        always = torch.Generator().manual_seed(0)
        chance = torch.rand(T, 1, synapses.in_features, generator=always)
        self.register_buffer("chance", chance, persistent=False)
        self.register_buffer("votes", torch.zeros(len(neurons.theta), classes))
        nn.init.uniform_(synapses.weight)
        with torch.no_grad():
            normalise(synapses.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Return the mean firing rate of the neurons of each class (B, classes).

        In training, thresholds adapt, and the backward pass leaves ``-dw / B`` as the gradient of
        the weights. Raises ValueError there if weights are far from normalised.
        """
        with torch.no_grad():
            before = self.encode(images)  # (T, B, inputs)
            behind = self.neurons(self.synapses(before))  # (T, B, N)
            outputs = behind.mean(0) @ self.votes
            if not self.training:
                return outputs
            self._check()
            self.neurons.adapt(behind)
            change = stdp(before, behind, self.trace, self.depression)
        return learned(outputs, self.synapses.weight, -change / len(images))

    def encode(self, images: Tensor) -> Tensor:
        """Return Poisson spikes (T, B, inputs), the more probable the brighter the pixel.

        In evaluation the numbers that are drawn are always the same, for all images: so an
        accuracy can be measured again.
        """
        bright = brightness(images, *self.grey)
        chance = self.chance
        if self.training:
            chance = torch.rand(len(chance), *bright.shape, device=bright.device)
        return (self.rate * bright > chance).to(bright)

    def assign(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Give each neuron the class to whose images it answers most, on average.

        Neurons that are silent get none.

        Arguments: `batches`, of images and labels; no more are taken than `labelled` images need.
        """
        answers, seen = torch.zeros_like(self.votes), torch.zeros_like(self.votes[0])
        with testing(self):
            for images, labels in batches:
                classes = one_hot(labels.to(answers.device, torch.int64), len(seen)).to(answers)
                spikes = self.neurons(self.synapses(self.encode(images.to(answers.device))))
                self.neurons.reset()
                answers += spikes.sum(0).T @ classes
                seen += classes.sum(0)
                if distributed.world() * int(seen.sum()) >= self.labelled:
                    break
        most, label = (distributed.total(answers) / distributed.total(seen).clamp(min=1)).max(1)
        votes = one_hot(label, len(seen)).to(answers) * (most > 0).unsqueeze(1)
        self.votes.copy_(votes / votes.sum(0).clamp(min=1))

    def _check(self) -> None:
        # a pruner may have the last word, so it need not be exactly what it should be
        if (mean := float(self.synapses.weight.mean(1).max())) > 2.0 * MEAN:
            raise ValueError(
                f"weights of a neuron have a mean of {mean:.3g} instead of {MEAN}: STDP alone adds "
                'to them; train this network with optimizer "normalised-sgd" (nets.NormalisedSGD)'
            )


def diehl_cook(
    neurons: int = 400,
    T: int = 50,
    inputs: int = 784,
    classes: int = 10,
    labelled: int = 10_000,
    rate: float = 0.4,
    low: float = -0.42,
    high: float = 2.82,
    tau: float = 25.0,
    trace: float = 5.0,
    depression: float = 0.0,
    threshold: float = 13.0,
    rise: float = 0.26,
    recovery: float = 1e-3,
) -> DiehlCook:
    """Return a layer of competing neurons that learns by STDP: images (B, C, H, W) to (B, classes).

    Pixels fire at random, the brighter the more often; see `stdp` for what synapses learn and
    `Competition` for neurons. Labels are needed afterwards only: `DiehlCook.assign` tells each
    neuron the class that it answers to, and the neurons of a class vote with their mean rate.

    Arguments: `neurons`; `T`, time steps; `inputs`, numbers in an image (C H W); `classes`;
    `labelled`, images that `assign` looks at; `rate`, spikes of the brightest pixel in a time step,
    above 0 and up to 1; `low` and `high`, the grey levels of black and white (normalised MNIST ends
    there); `tau` and `trace`, time constants of membranes and of the traces of spikes in time
    steps; `depression`, of synapses whose spikes come in the wrong order; `threshold`, `rise` and
    `recovery` of the neurons. Raises ValueError, naming the argument, when one is out of range.

    Source: Diehl and Cook, 2015, "Unsupervised learning of digit recognition using
    spike-timing-dependent plasticity", doi 10.3389/fncom.2015.00099. Here weights change after a
    batch, by what each of its images adds (Saunders et al. 2019, arXiv 1909.02549); inhibition has
    no neurons of its own; thresholds recover, and rise, faster, for fewer images; an image has
    fewer and longer time steps, and is not shown again when it stirred hardly a neuron.

    >>> network = diehl_cook(neurons=20, T=10, inputs=64)
    >>> network(torch.rand(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    whole("inputs", inputs)
    whole("classes", classes)
    whole("labelled", labelled)
    check_code(rate, low, high)
    check_rule(trace, depression)
    return DiehlCook(
        layer.Linear(inputs, neurons, bias=False, step_mode="m"),
        Competition(neurons, tau, threshold, rise, recovery),
        whole("T", T),
        classes,
        labelled,
        rate,
        (low, high),
        trace,
        depression,
    )
