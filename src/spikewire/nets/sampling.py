"""A network that learns images together with their classes by contrast (Neftci et al. 2016).

Spikes go both ways over the same synapses, from visible to hidden neurons and back, and noise makes
the network wander among the images that it takes to be likely. It learns by the difference between
what fires together while an image and its class are shown and what does when it is left alone:
event-driven contrastive divergence. As in `stdp`, the change of a weight is left where
backpropagation would leave its gradient, with the sign turned.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, one_hot

from spikewire.dialects import reset
from spikewire.nets.neurons import LIF, whole
from spikewire.nets.stdp import brightness, check_code, check_rule, stdp

REST = -0.5  # first drive of visible neurons: few pixels of an image are bright
SLOW = 0.1  # how much slower biases learn than weights, or they silence the hidden neurons


def coincidence(visible: Tensor, hidden: Tensor, trace: float) -> Tensor:
    """Return how often neurons fired together, (hidden, visible): `stdp` in both directions.

    ```
    dw = sum over t and B of  h[t] x[t] + y[t] v[t],     x and y the traces of v and h
    ```

    Arguments: `visible`, spikes (T, B, visible); `hidden`, spikes (T, B, hidden); `trace`, time
    constant of both traces in time steps, at least 1.

    >>> v, h = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    >>> coincidence(v.view(2, 1, 1), h.view(2, 1, 1), trace=2.0)
    tensor([[0.5000]])
    """
    return stdp(visible, hidden, trace) + stdp(hidden, visible, trace).T


class Dice:
    """Random numbers: of each image in training; in evaluation the same for all, and each time.

    So an accuracy can be measured again.

    >>> dice = Dice(torch.zeros(1), fresh=False)
    >>> dice.happens(torch.tensor([[0.4, 0.6], [0.6, 0.4]]))
    tensor([[0., 0.],
            [1., 0.]])
    """

    def __init__(self, like: Tensor, fresh: bool) -> None:
        self.fresh = fresh
        always = None if fresh else torch.Generator(like.device).manual_seed(0)
        self.generator = always  # torch's own where there is none

    def happens(self, chance: Tensor) -> Tensor:
        """1 with this chance (B, N), else 0."""
        return (self._empty(chance).uniform_(generator=self.generator) < chance).to(chance)

    def normal(self, spread: Tensor) -> Tensor:
        """Numbers (B, N) around 0 with these standard deviations."""
        return self._empty(spread).normal_(generator=self.generator) * spread

    def _empty(self, like: Tensor) -> Tensor:
        return like.new_empty(like.shape if self.fresh else (1, *like.shape[1:]))


class SamplingMachine(nn.Module):
    """Show images to the visible neurons, let those of the classes answer; see `sampling_machine`.

    The visible neurons are those of the pixels and, for each class, `copies` more.
    """

    def __init__(
        self,
        pixels: int,
        hidden: int,
        classes: int,
        copies: int,
        T: int,
        settle: int,
        release: float,
        noise: float,
        rate: float,
        grey: tuple[float, float],
        trace: float,
    ) -> None:
        super().__init__()
        visible = pixels + classes * copies
        self.synapses = nn.Linear(visible, hidden)
        self.back = nn.Parameter(torch.full((visible,), REST))
        self.hidden = LIF(2.0, decay_input=False, step_mode="s")
        self.visible = LIF(2.0, decay_input=False, step_mode="s")
        self.pixels, self.classes, self.copies = pixels, classes, copies
        self.T, self.settle, self.trace = T, settle, trace
        self.unreliable, self.noise = (1.0 - release) / release, noise
        self.rate, self.grey = rate, grey
        nn.init.normal_(self.synapses.weight, std=0.1)
        nn.init.zeros_(self.synapses.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return the mean firing rate of the neurons of each class (B, classes).

        In training the backward pass takes the class of which the loss wants more, and leaves
        ``-dw / B`` of `contrast` as the gradients.
        """
        with torch.no_grad():
            bright = self.rate * brightness(images, *self.grey)
            answers = self._answers(bright, Dice(bright, fresh=self.training))
            outputs = answers.unflatten(1, (self.classes, self.copies)).mean(2)
        if not self.training:
            return outputs
        parameters = self.synapses.weight, self.synapses.bias, self.back
        found = _Taught.apply(outputs, bright, self, *parameters)
        assert isinstance(found, Tensor)
        return found

    def contrast(self, bright: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return dw of the weights, and of the biases of hidden and of visible neurons.

        ```
        dw = (h v while image and class are shown  -  h v after they are taken away) / time steps
        ```

        summed over images; `coincidence` tells h v. Of biases it is the difference in spikes. The
        first `settle` time steps of either phase do not count.

        Arguments: `bright`, the chance (B, pixels) of pixels to fire in a time step; `labels`,
        class numbers (B,).
        """
        taught = self.rate * one_hot(labels, self.classes).to(bright)
        shown = torch.cat([bright, taught.repeat_interleave(self.copies, 1)], 1)
        hidden = shown.new_zeros(len(shown), self.synapses.out_features)
        dice = Dice(shown, fresh=True)
        reset(self)
        present = self._watch(hidden, lambda _: dice.happens(shown), dice)
        absent = self._watch(present[1][-1], lambda hidden: self._down(hidden, dice), dice)
        reset(self)
        steps = self.T - self.settle
        weight = coincidence(*present, self.trace) - coincidence(*absent, self.trace)
        back, bias = (
            (seen - alone).sum((0, 1)) for seen, alone in zip(present, absent, strict=True)
        )
        return weight / steps, bias / steps, back / steps

    def _answers(self, bright: Tensor, dice: Dice) -> Tensor:
        """Mean spikes (B, classes x copies) of the neurons of classes while the image is shown."""
        hidden = bright.new_zeros(len(bright), self.synapses.out_features)
        spikes = []
        for _ in range(self.T):
            answers = self._down(hidden, dice, slice(self.pixels, None))
            hidden = self._up(torch.cat([dice.happens(bright), answers], 1), dice)
            spikes.append(answers)
        return torch.stack(spikes[self.settle :]).mean(0)

    def _watch(
        self, hidden: Tensor, visible: Callable[[Tensor], Tensor], dice: Dice
    ) -> tuple[Tensor, Tensor]:
        """Spikes (T - settle, B, N) of visible and of hidden neurons."""
        seen, told = [], []
        for _ in range(self.T):
            spikes = visible(hidden)
            hidden = self._up(spikes, dice)
            seen.append(spikes)
            told.append(hidden)
        return torch.stack(seen[self.settle :]), torch.stack(told[self.settle :])

    def _up(self, visible: Tensor, dice: Dice) -> Tensor:
        spread = self._spread(visible, self.synapses.weight)
        return self.hidden(self.synapses(visible) + dice.normal(spread))

    def _down(self, hidden: Tensor, dice: Dice, part: slice = slice(None)) -> Tensor:
        weight = self.synapses.weight[:, part].T
        current = linear(hidden, weight, self.back[part])
        return self.visible(current + dice.normal(self._spread(hidden, weight)))

    def _spread(self, spikes: Tensor, weight: Tensor) -> Tensor:
        """Standard deviation of a current whose spikes get through by chance."""
        return (self.unreliable * linear(spikes, weight.square()) + self.noise**2).sqrt()


class _Taught(torch.autograd.Function):
    @staticmethod
    def forward(ctx, outputs, bright, machine, *parameters):
        ctx.machine = machine
        ctx.save_for_backward(bright)
        return outputs.view_as(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, wanted):  # pyright: ignore[reportIncompatibleMethodOverride]
        less, label = wanted.min(1)
        taught = less < 0  # a loss that is content asks for nothing
        bright = ctx.saved_tensors[0]
        weight, bias, back = ctx.machine.contrast(bright[taught], label[taught])
        batch = -len(bright)
        return None, None, None, weight / batch, SLOW * bias / batch, SLOW * back / batch


def sampling_machine(
    hidden: int = 500,
    T: int = 16,
    inputs: int = 784,
    classes: int = 10,
    copies: int = 4,
    settle: int = 4,
    release: float = 0.5,
    noise: float = 0.3,
    rate: float = 0.8,
    low: float = -0.42,
    high: float = 2.82,
    trace: float = 2.0,
) -> SamplingMachine:
    """Return a network that learns by contrast: images (B, C, H, W) to rates (B, classes).

    Visible neurons, which are the pixels and `copies` neurons for each class, and hidden ones fire
    upon each other over the same synapses. To classify, the image is shown and the neurons of the
    classes answer. To learn, image and class are shown for `T` time steps, then the network is left
    alone for as many; see `SamplingMachine.contrast`. The class comes with the gradient of the
    loss, so that any loop trains it, with a loss that is never content ("cross-entropy").

    Arguments: `hidden`, neurons; `T`, time steps of a phase; `inputs`, numbers in an image (C H W);
    `classes`; `copies`, visible neurons for each class; `settle`, time steps of a phase that are
    not looked at, below `T`; `release`, the chance of a spike to get through a synapse, above 0 up
    to 1; `noise`, standard deviation of the noise in each neuron's current, 0 or more; `rate`,
    spikes of the brightest pixel in a time step, above 0 and up to 1; `low` and `high`, the grey
    levels of black and white (normalised MNIST ends there); `trace`, time constant of the traces
    of spikes in time steps. Raises ValueError, naming the argument, when one is out of range.

    Source: Neftci, Pedroni, Joshi, Al-Shedivat, Cauwenberghs, 2016, "Stochastic synapses enable
    efficient brain-inspired learning machines", doi 10.3389/fnins.2016.00241. Here time steps are
    long, a neuron that has fired has no refractory period, weights change after a batch, biases
    learn more slowly than weights, and instead of letting each spike through each synapse by chance
    their sum is drawn from the normal distribution of the same mean and variance.

    >>> network = sampling_machine(hidden=20, T=6, inputs=64)
    >>> network(torch.rand(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    for name, value in (("hidden", hidden), ("inputs", inputs), ("classes", classes)):
        whole(name, value)
    whole("copies", copies)
    if not whole("settle", settle, 0) < whole("T", T):
        raise ValueError(f"settle is {settle}; give fewer time steps than T, which is {T}.")
    if not 0 < release <= 1:
        raise ValueError(f"release is {release!r}; give a chance above 0, up to 1.")
    if not noise >= 0:
        raise ValueError(f"noise is {noise!r}; give a standard deviation of 0 or more.")
    check_code(rate, low, high)
    check_rule(trace)
    grey = (low, high)
    return SamplingMachine(
        inputs, hidden, classes, copies, T, settle, release, noise, rate, grey, trace
    )
