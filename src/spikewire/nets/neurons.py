"""The neuron of every reference network: a leaky integrate-and-fire layer that is quick to train.

`LIF` is SpikingJelly's `LIFNode` with one explicit pass over time in each direction. Only the input
current is kept for the backward pass, which computes the membrane potentials again: that is quicker
than reading T of them from memory. `Repeat` shows one current to a neuron T times, uncopied.
"""

from typing import Any

import torch
from spikingjelly.activation_based import neuron
from spikingjelly.activation_based.surrogate import ATan
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spikewire import spelling
from spikewire.surrogates import SURROGATES, Arctan, Surrogate

VOTERS = 10
"""Output neurons per class, of networks that vote; their mean is the class's output."""


def whole(name: str, value: int, least: int = 1, *, multiple_of: int = 1) -> int:
    """Return `value` if it is a whole number of at least `least`, and a multiple.

    Raises ValueError, naming the argument `name`, for anything else.

    >>> whole("T", 8)
    8
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r}; give a whole number of at least {least}.")
    if value % multiple_of:
        raise ValueError(f"{name} is {value}; give a multiple of {multiple_of}.")
    return value


def check_image(channels: int, size: int, classes: int, *, halvings: int) -> None:
    """Refuse a square image that cannot be halved so often, or no channels or classes.

    >>> check_image(channels=3, size=32, classes=10, halvings=2)
    """
    whole("channels", channels)
    whole("classes", classes)
    whole("size", size, 2**halvings, multiple_of=2**halvings)


class Repeat(nn.Module):
    """Present one current at each of T time steps: (B, ...) -> (T, B, ...).

    The result is a view whose time steps share their memory; `LIF` notices and reads it once.

    Arguments: `T`, the number of time steps, at least 1. Raises ValueError for any other T.

    >>> Repeat(8)(torch.zeros(2, 5)).shape
    torch.Size([8, 2, 5])
    """

    keeps_channels = keeps_values = True  # for `compact`

    def __init__(self, T: int) -> None:
        super().__init__()
        self.T = whole("T", T)

    def extra_repr(self) -> str:
        """Show the number of time steps when the module is printed."""
        return f"T={self.T}"

    def forward(self, current: Tensor) -> Tensor:
        """Return `current` (B, ...) as a sequence (T, B, ...)."""
        return current.expand(self.T, *current.shape)


class LIF(neuron.LIFNode):
    """A layer of leaky integrate-and-fire neurons with hard reset.

    ```
    u[t] = v[t-1] + (x[t] - (v[t-1] - v_reset)) / tau       decay_input
    u[t] = v[t-1] - (v[t-1] - v_reset) / tau + x[t]         otherwise
    S[t] = 1 if u[t] >= v_threshold else 0,             dS/du = h'(u - v_threshold)
    v[t] = (1 - S[t]) u[t] + S[t] v_reset
    ```

    It remains a `LIFNode` in all else: memory `v`, single steps, `functional.reset_net`. When a
    setting is changed to one outside these formulas (soft reset, a surrogate of another kind), it
    computes as `LIFNode` does.

    Arguments: `tau`, membrane time constant in time steps, above 1; `decay_input`, whether it also
    divides the input; `v_threshold` and `v_reset`, membrane potentials; `surrogate`, whose slope is
    h', or its name such as "tanh"; `detach_reset`, whether the gradient leaves out the reset;
    `step_mode`, "m" for sequences (T, B, ...), "s" for single steps (B, ...). Raises ValueError for
    a `tau` out of range or an unknown surrogate.

    >>> LIF()(torch.full((4, 1), 1.5)).flatten()
    tensor([0., 1., 0., 1.])
    """

    def __init__(
        self,
        tau: float = 2.0,
        *,
        decay_input: bool = True,
        v_threshold: float = 1.0,
        v_reset: float = 0.0,
        surrogate: Surrogate | str = "arctan",
        detach_reset: bool = True,
        step_mode: str = "m",
    ) -> None:
        if not tau > 1:
            raise ValueError(f"tau is {tau!r}; give a membrane time constant above 1 time step.")
        super().__init__(
            tau=float(tau),
            decay_input=decay_input,
            v_threshold=float(v_threshold),
            v_reset=float(v_reset),
            surrogate_function=spelling.parse("surrogate", surrogate, SURROGATES),
            detach_reset=detach_reset,
            step_mode=step_mode,
        )

    def multi_step_functional_forward(
        self, inputs: tuple[Tensor, ...], states: tuple[Any, ...], **kwargs: object
    ) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
        """Return the spikes (T, B, ...) and the last membrane potential (B, ...)."""
        surrogate = self._surrogate()
        if surrogate is None:
            return super().multi_step_functional_forward(inputs, states, **kwargs)
        x, v = inputs[0], states[0]  # (T, B, ...), (B, ...)
        current = x[:1] if x.stride(0) == 0 else x  # (1 or T, B, ...)
        spikes, last = _Integrate.apply(
            current.reshape(len(current), v.numel()),
            v.reshape(v.numel()),
            x.shape[0],
            self.tau,
            self.decay_input,
            self.v_threshold,
            self.v_reset,
            surrogate,
            self.detach_reset,
        )
        # a copy, since `functional.detach_net` cannot detach a view
        return (spikes.reshape(x.shape),), (last.reshape(v.shape).clone(),)

    def _surrogate(self) -> Surrogate | None:
        """The surrogate, if all else is as in the formulas above."""
        found: Any = self.surrogate_function
        if self.v_reset is None:
            return None
        if isinstance(found, Surrogate):
            return found
        arctangent = type(found) is ATan and found.spiking
        return Arctan(vars(found)["alpha"]) if arctangent else None


class _Integrate(torch.autograd.Function):
    """Spikes (T, N) and last potential (N), from a current (1 or T, N) and the first potential (N).

    N stands for B and all that follows, as one dimension: `_once` needs tensors that can lie in
    memory in one way only.
    """

    @staticmethod
    def forward(ctx, current, v, T, tau, scaled, threshold, reset, surrogate, detach):
        ctx.save_for_backward(current, v)
        ctx.settings = T, tau, scaled, threshold, reset, surrogate, detach
        spikes = []
        for t in range(T):
            u = _charge(v, current[t % len(current)], tau, scaled, reset)
            fired = u >= threshold
            v = _once(u.masked_fill_(fired, reset))
            spikes.append(fired.to(u.dtype))  # a stack of booleans would not be vectorised
        return torch.stack(spikes), v

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_spikes, grad_v):  # pyright: ignore[reportIncompatibleMethodOverride]
        current, v = ctx.saved_tensors
        T, tau, scaled, threshold, reset, surrogate, detach = ctx.settings
        potentials = []
        for t in range(T):
            u = _charge(v, current[t % len(current)], tau, scaled, reset)
            v = _once(u.masked_fill(u >= threshold, reset))
            potentials.append(u)
        grad_potentials = []
        for t in reversed(range(T)):
            u = potentials[t]
            slope = surrogate.slope(u - threshold)
            grad_u = grad_v.masked_fill(u >= threshold, 0)
            if not detach:
                grad_u = grad_u + grad_v * (reset - u) * slope
            grad_u = _once(grad_u + grad_spikes[t] * slope)
            grad_potentials.append(grad_u)
            grad_v = _once(grad_u * (1 - 1 / tau))
        grad_potentials.reverse()
        if len(current) == T:
            grad_current = torch.stack(grad_potentials)
        else:
            grad_current = sum(grad_potentials[1:], grad_potentials[0]).unsqueeze(0)
        if scaled:
            grad_current = grad_current / tau
        return grad_current, grad_v, None, None, None, None, None, None, None


def _charge(v: Tensor, x: Tensor, tau: float, scaled: bool, reset: float) -> Tensor:
    """Return the membrane potential after one time step of current `x`, before any reset."""
    # `v - 0` is `v`; the order of the other operations is SpikingJelly's, to the last bit
    above = v - reset if reset else v
    if scaled:
        return _once((x - above).div_(tau).add_(v))
    return _once(v - above / tau + x if reset else v * (1.0 - 1.0 / tau) + x)


def _once(x: Tensor) -> Tensor:
    """Return `x` (N), to be computed once: a compiler would else repeat its history at each use."""
    return x.as_strided(x.shape, x.stride()) if torch.compiler.is_compiling() else x
