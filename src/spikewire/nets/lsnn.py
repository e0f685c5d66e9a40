"""The recurrent network with adaptive thresholds of Bellec et al. (2018), for images read in order.

A neuron that has fired needs more for its next spike; how much more decays over hundreds of time
steps. That is a memory far longer than the membrane's.
"""

import math
from typing import Any

import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor, nn

from spikewire.nets.neurons import whole

# Standard deviation of initial weights, times the root of the fan-in. Bellec et al. have 1, with
# currents scaled by 1 - exp(-1/20) and a resting threshold of 0.01.
_GAIN = 5.0


class ALIF(neuron.BaseNode):
    """A layer of leaky integrate-and-fire neurons whose threshold rises with each spike.

    ```
    u[t] = exp(-1/tau) v[t-1] + x[t]
    S[t] = 1 if u[t] >= A[t] else 0,            A[t] = 1 + beta b[t-1]
    v[t] = u[t] - A[t] S[t]
    b[t] = exp(-1/tau_b) b[t-1] + (1 - exp(-1/tau_b)) S[t]
    dS/du = damping / A max(0, 1 - |u/A - 1|)
    ```

    Arguments: `beta`, a Tensor with a value for each neuron, 0 for those that do not adapt; `tau`
    and `tau_b`, time constants of membrane and threshold in time steps, above 0; `damping`, of the
    gradient through a spike, above 0. The reset takes part in the gradient.

    Source: Bellec, Salaj, Subramoney, Legenstein, Maass, 2018, "Long short-term memory and
    learning-to-learn in networks of spiking neurons", without refractory period and with
    thresholds in units of the resting threshold.

    >>> ALIF(torch.tensor([0.0, 50.0]))(torch.full((1, 2), 1.5))
    tensor([[1., 1.]])
    """

    beta: Tensor

    def __init__(
        self, beta: Tensor, tau: float = 20.0, tau_b: float = 700.0, damping: float = 0.3
    ) -> None:
        for name, value in (("tau", tau), ("tau_b", tau_b), ("damping", damping)):
            if not value > 0:
                raise ValueError(f"{name} is {value!r}; give a number above 0.")
        if not bool((beta >= 0).all()):
            raise ValueError(f"beta is {beta}; give 0 or more, or thresholds fall with spikes.")
        super().__init__(
            v_threshold=1.0,
            v_reset=None,
            surrogate_function=surrogate.PiecewiseQuadratic(1.0),
            step_mode="s",
        )
        self.decay, self.recovery = math.exp(-1.0 / tau), math.exp(-1.0 / tau_b)
        self.damping = damping
        self.register_buffer("beta", beta)
        self.register_memory("b", 0.0)

    def extra_repr(self) -> str:
        """Show how many of the neurons adapt when the module is printed."""
        return f"neurons={len(self.beta)}, adaptive={int(self.beta.count_nonzero())}"

    def single_step_functional_forward(
        self, inputs: tuple[Tensor, ...], states: tuple[Any, ...], **kwargs: object
    ) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
        """Return the spikes (B, N) and the states v and b, (B, N) each."""
        v, b = states
        u = torch.add(inputs[0], v, alpha=self.decay)
        threshold = self.v_threshold + self.beta * b
        excess = u / threshold - 1.0
        # the value of the excess, with a damped gradient
        spikes = self.surrogate_function(torch.lerp(excess.detach(), excess, self.damping))
        risen = self.recovery * b + (1.0 - self.recovery) * spikes
        return (spikes,), (u - threshold * spikes, risen)


class LSNN(nn.Module):
    """Read an image a few pixels at a time; see `lsnn`."""

    levels: Tensor

    def __init__(
        self,
        neurons: ALIF,
        inputs: int,
        pixels: int,
        levels: Tensor,
        cue: int,
        classes: int,
    ) -> None:
        super().__init__()
        hidden = len(neurons.beta)
        self.pixels, self.cue, self.steps = pixels, cue, inputs // pixels
        self.input = nn.Linear(2 * len(levels) * pixels + 1, hidden, bias=False)
        self.recurrent = nn.Linear(hidden, hidden, bias=False)
        self.neurons = neurons
        self.output = nn.Linear(hidden, classes)
        for drive in (self.input, self.recurrent):
            nn.init.normal_(drive.weight, std=_GAIN / math.sqrt(drive.in_features))
        self.register_buffer("levels", levels)

    def forward(self, images: Tensor) -> Tensor:
        """Return the mean read-out (B, classes) over the cue, for images (B, C, H, W)."""
        currents = self.input(self.encode(images))
        spikes = currents.new_zeros(currents.shape[1:])
        spoken = []
        for current in currents:
            spikes = self.neurons(current + self.recurrent(spikes))
            spoken.append(spikes)
        return self.output(torch.stack(spoken[-self.cue :])).mean(0)

    def encode(self, images: Tensor) -> Tensor:
        """Return input spikes (T, B, inputs): a level was crossed, upwards or downwards; the cue.

        A pixel before the first counts as below all levels.
        """
        series = images.flatten(1).unflatten(1, (self.steps, self.pixels))  # (B, T, pixels)
        above = (series.transpose(0, 1).unsqueeze(-1) > self.levels).to(images)
        change = torch.diff(above, dim=0, prepend=torch.zeros_like(above[:1])).flatten(2)
        seen = torch.cat([(change > 0).to(images), (change < 0).to(images)], dim=2)
        shape = (self.steps + self.cue, len(images), seen.shape[2] + 1)
        spikes = images.new_zeros(shape)
        spikes[: self.steps, :, :-1] = seen
        spikes[self.steps :, :, -1] = 1.0
        return spikes


def lsnn(
    regular: int = 120,
    adaptive: int = 100,
    pixels: int = 1,
    inputs: int = 784,
    classes: int = 10,
    levels: int = 40,
    low: float = -0.42,
    high: float = 2.82,
    cue: int = 56,
    tau: float = 20.0,
    tau_b: float = 700.0,
    beta: float = 180.0,
) -> LSNN:
    """Return a recurrent network that reads images pixel by pixel: (B, C, H, W) to (B, classes).

    The pixels go by in `inputs / pixels` time steps. Two input neurons for each grey level fire
    when a pixel crosses it, upwards and downwards, from one time step to the next. After the last
    pixel one more input neuron fires for `cue` time steps; the read-out is the mean over these.

    Arguments: `regular` and `adaptive`, neurons with fixed and with rising threshold; `pixels`, of
    a time step, a divisor of `inputs`, the numbers in an image; `classes`; `levels`, grey levels,
    evenly between `low` and `high` (normalised MNIST ends there); `cue`, time steps of the answer;
    `tau` and `tau_b`, time constants of membrane and threshold in time steps; `beta`, by how much
    a neuron that fires at every step would raise its threshold. Raises ValueError, naming the
    argument, when one is out of range.

    Source: Bellec, Salaj, Subramoney, Legenstein, Maass, 2018, "Long short-term memory and
    learning-to-learn in networks of spiking neurons": its sequential MNIST. Here all connections
    take one time step, and neurons have no refractory period.

    >>> network = lsnn(regular=5, adaptive=3, pixels=16, inputs=64, levels=4, cue=2)
    >>> network(torch.rand(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    whole("regular", regular, 0)
    whole("adaptive", adaptive, 0)
    whole("regular + adaptive", regular + adaptive)
    whole("classes", classes)
    whole("cue", cue)
    if whole("inputs", inputs) % whole("pixels", pixels):
        raise ValueError(f"pixels is {pixels}; give a divisor of inputs, which is {inputs}.")
    if not low < high:
        raise ValueError(f"low is {low!r}, high is {high!r}; give the darker grey level first.")
    grey = torch.linspace(low, high, whole("levels", levels) + 2)[1:-1]
    adapts = torch.cat([torch.zeros(regular), torch.full((adaptive,), float(beta))])
    return LSNN(ALIF(adapts, tau, tau_b), inputs, pixels, grey, cue, classes)
