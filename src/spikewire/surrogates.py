"""Surrogates: smooth stand-ins for the step from no spike to a spike.

A surrogate has a value, which rises from about 0 to about 1 around the threshold, and a slope, its
derivative. Training takes the slope for the derivative of a spike; criticality takes it for how
near to its threshold a neuron works. Called, it fires: any neuron layer that asks for a surrogate
function takes one of these.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Surrogate(ABC):
    """A smooth step h and its derivative; x is the membrane potential less the threshold."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name} is {value!r}: give a steepness above 0")

    @abstractmethod
    def value(self, x: Tensor) -> Tensor:
        """h(x), of x of any shape."""

    @abstractmethod
    def slope(self, x: Tensor) -> Tensor:
        """h'(x), of x of any shape."""

    def __call__(self, x: Tensor) -> Tensor:
        """Spikes: 1 where x >= 0, with the slope as their gradient."""
        return _Fire.apply(x, self)


@dataclass(frozen=True)
class Arctan(Surrogate):
    """``h(x) = arctan(pi a x / 2) / pi + 1/2``, ``h'(x) = (a/2) / (1 + (pi a x / 2)^2)``.

    Fang et al. 2021 (arXiv 2007.05785); with a = 2 Eq. 2 of Chen, Liu, Liu and You 2023 (arXiv
    2311.16141 v3).

    Args:
        alpha: steepness a, > 0; the slope at the threshold is a/2.

    Raises:
        ValueError: if the steepness is not above 0.

    >>> Arctan().value(torch.tensor(0.0)).item(), Arctan().slope(torch.tensor(0.0)).item()
    (0.5, 1.0)
    """

    alpha: float = 2.0

    def value(self, x: Tensor) -> Tensor:
        return (x * (math.pi * self.alpha / 2)).atan() / math.pi + 0.5

    def slope(self, x: Tensor) -> Tensor:
        return (self.alpha / 2) / (x * (math.pi * self.alpha / 2)).square_().add_(1)


@dataclass(frozen=True)
class Tanh(Surrogate):
    """``h(x) = (tanh(k x) / tanh(k/2) + 1) / 2`` for ``|x| <= 1/2``, 0 below and 1 above.

    Its slope ``k (1 - tanh(k x)^2) / (2 tanh(k/2))`` is 0 outside. Eq. 17 of Chen, Liu, Liu and You
    2023 (arXiv 2311.16141 v3) as their released code has it, with k = 3.

    Args:
        k: steepness, > 0.

    Raises:
        ValueError: if the steepness is not above 0.

    >>> Tanh().value(torch.tensor([-1.0, -0.5, 0.0, 0.5])).tolist()
    [0.0, 0.0, 0.5, 1.0]
    """

    k: float = 3.0

    def value(self, x: Tensor) -> Tensor:
        return (x.clamp(-0.5, 0.5) * self.k).tanh() / (2 * math.tanh(self.k / 2)) + 0.5

    def slope(self, x: Tensor) -> Tensor:
        steep = 1 - (x * self.k).tanh().square_()
        return (steep * (self.k / (2 * math.tanh(self.k / 2)))).masked_fill(x.abs() > 0.5, 0)


@dataclass(frozen=True)
class Sigmoid(Surrogate):
    """``h(x) = 1 / (1 + exp(-k x))``, ``h'(x) = k h(x) (1 - h(x))``.

    Eq. 18 of Chen, Liu, Liu and You 2023 (arXiv 2311.16141 v3), with the steepness of their
    released code.

    Args:
        k: steepness, > 0.

    Raises:
        ValueError: if the steepness is not above 0.

    >>> Sigmoid().slope(torch.tensor(0.0)).item()
    1.0
    """

    k: float = 4.0

    def value(self, x: Tensor) -> Tensor:
        return (x * self.k).sigmoid()

    def slope(self, x: Tensor) -> Tensor:
        value = self.value(x)
        return value * (1 - value) * self.k


class _Fire(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, surrogate: Surrogate) -> Tensor:
        ctx.save_for_backward(x)
        ctx.surrogate = surrogate
        return (x >= 0).to(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad * ctx.surrogate.slope(*ctx.saved_tensors), None


SURROGATES: dict[str, type[Surrogate]] = {"arctan": Arctan, "tanh": Tanh, "sigmoid": Sigmoid}
