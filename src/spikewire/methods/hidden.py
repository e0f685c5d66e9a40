"""Hidden: the optimizer moves hidden parameters, the network multiplies with their projection.

Grad R and STDS are two projections of one idea, so they stand beside it in one file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softshrink

from spikewire.methods.checks import check_not_negative
from spikewire.pruner import Method, Pruner
from spikewire.schedules import Cosine, Schedule
from spikewire.synapses import Synapses

# How often, in steps, Grad R looks how far theta is from mu.
_LOOK_EVERY = 16


class Hidden(Method):
    """A weight is ``w = project(theta)``, and theta is what the optimizer moves.

    The gradient taken at w reaches theta unchanged, also where the projection is flat: that is what
    lets a pruned connection come back; `pull` is for another chain rule. There is no mask: a
    synapse exists where w is not 0, and sparsity is what emerges. Theta travels through the
    optimizer's own parameter, so this is exact for any optimizer, and each keeps its own state of
    theta.
    """

    sparsity_is: ClassVar[str] = "emergent"

    def project(self, synapses: Synapses, theta: Tensor, weight: Tensor, pruner: Pruner) -> None:
        """Write the weights that belong to theta into ``weight``."""
        raise TypeError(f"{type(self).__name__} has no projection of its own: define project()")

    def pull(self, synapses: Synapses, theta: Tensor, pruner: Pruner) -> None:
        """Make the gradient at w that of theta, in place; straight through, they are the same."""

    def drift(self, synapses: Synapses, theta: Tensor, pruner: Pruner) -> None:
        """Move theta by something else than the loss: a prior, noise."""

    def start(self, pruner: Pruner) -> None:
        for s in pruner:
            s.state["theta"] = s.weight.detach().clone()

    def before_step(self, pruner: Pruner) -> None:
        for s in pruner:
            theta = s.expose()
            self.pull(s, theta, pruner)
            self.drift(s, theta, pruner)

    def after_step(self, pruner: Pruner) -> None:
        for s in pruner:
            weight = s.conceal()
            self.project(s, s.state["theta"], weight, pruner)


def rectify(synapses: Synapses, theta: Tensor, weight: Tensor) -> None:
    """Write ``w = s relu(s theta)`` into ``weight``: what is on the wrong side of its sign is 0.

    >>> synapses = Synapses("weight", torch.nn.Linear(2, 1).weight)
    >>> synapses.state["sign"] = torch.tensor([[1.0, -1.0]])
    >>> weight = torch.empty(1, 2)
    >>> rectify(synapses, torch.tensor([[0.5, 0.5]]), weight)
    >>> weight
    tensor([[0.5000, 0.0000]])
    """
    kept = synapses.derived
    if "low" not in kept:  # the ends of where each weight may be: one pass instead of three
        sign = synapses.state["sign"]
        kept["low"] = torch.zeros_like(sign).masked_fill_(sign < 0, -math.inf)
        kept["high"] = torch.zeros_like(sign).masked_fill_(sign > 0, math.inf)
    torch.clamp(theta, kept["low"], kept["high"], out=weight)


@dataclass(frozen=True)
class GradR(Hidden):
    """Gradient rewiring: ``w = s relu(theta)``, with the sign s fixed at birth.

    Chen et al. 2021 (IJCAI, arXiv 2105.04916), Algorithm 1. In the paper's terms:
    ``theta <- theta - lr (s dL/dw + alpha sign(theta - mu))``: a Laplace prior with scale alpha
    pulls every theta towards ``mu = ln(2 - 2p) / alpha``, below 0. We keep ``s theta`` as the
    hidden parameter, so the optimizer sees plain gradients of w. Under Adam the prior is not
    divided by its denominator, as in the authors' code; their step also bears Adam's bias
    correction: ``bias_corrected=True``. A weight that is 0 at birth has no sign and stays 0.

    Args:
        alpha: strength of the prior, >= 0. With the number of steps it decides the connectivity:
            synapses live on where the signal-to-noise ratio of their gradient exceeds alpha.
        sparsity: p of the paper, [0.5, 1). It only sets mu, which theta hardly ever reaches.
        bias_corrected: multiply the prior by ``1 / (1 - beta1^k)`` at step k; no effect with an
            optimizer that has no beta1, such as SGD.

    Raises:
        ValueError: if alpha or sparsity is out of its range.

    >>> round(GradR(alpha=0.01, sparsity=0.95).mean, 2)
    -230.26
    """

    source: ClassVar[str] = "Chen et al. 2021, arXiv 2105.04916"
    needs_rate: ClassVar[bool] = True

    alpha: float = 1e-3
    sparsity: float = 0.95
    bias_corrected: bool = False

    def __post_init__(self) -> None:
        if not 0.5 <= self.sparsity < 1.0:
            raise ValueError(
                f"sparsity={self.sparsity!r}: Grad R needs 0.5 <= sparsity < 1; below one half mu "
                "would be above 0 and the prior of w = s relu(theta) have two peaks, while trained "
                "weights have one, at 0 (Chen et al. 2021, Appendix C)"
            )
        if not self.alpha >= 0.0:
            raise ValueError(f"alpha={self.alpha!r}: give the strength of the prior, 0 or more")

    @property
    def mean(self) -> float:
        """Location mu of the prior; minus infinity without a prior."""
        return math.log(2.0 - 2.0 * self.sparsity) / self.alpha if self.alpha else -math.inf

    def start(self, pruner: Pruner) -> None:
        super().start(pruner)
        for s in pruner:
            s.state["sign"] = s.weight.sign()

    def drift(self, synapses: Synapses, theta: Tensor, pruner: Pruner) -> None:
        step = pruner.lr(synapses) * self.alpha
        if self.bias_corrected:
            step /= 1.0 - pruner.beta1(synapses) ** (pruner.step + 1)
        sign = synapses.state["sign"]
        if self._reach(synapses, theta, pruner) < -self.mean:
            # no theta is as low as mu, so the prior pulls all of them down: one cheap pass
            theta.sub_(sign, alpha=step)
        else:
            theta.sub_(sign * (sign * theta - self.mean).sign(), alpha=step)

    def project(self, synapses: Synapses, theta: Tensor, weight: Tensor, pruner: Pruner) -> None:
        rectify(synapses, theta, weight)

    def _reach(self, synapses: Synapses, theta: Tensor, pruner: Pruner) -> float:
        """The largest ``|theta|``, looked at now and then while it is less than half way to mu.

        Nothing that trains goes the other half, several units, between two looks.
        """
        reach = synapses.state.get("reach")
        if reach is None or pruner.step % _LOOK_EVERY == 0 or 2.0 * float(reach) > -self.mean:
            low, high = theta.aminmax()
            reach = synapses.state["reach"] = torch.maximum(-low, high)
        return float(reach)


@dataclass(frozen=True)
class STDS(Hidden):
    """State transition of dendritic spines: a soft threshold that widens.

    ``w = sign(theta) max(|theta| - d, 0)``, gradient straight through; d rises to ``width`` on a
    sine, ``d = width (1 + sin(pi (k/n - 1/2))) / 2`` after step k of n. Chen et al. 2022 (ICML,
    PMLR 162:3701). The authors' linear rise is ``width=Linear(0, 1)``. Their widths for CIFAR-10
    are 1 to 5, over 2048 epochs; 0.1 suits short trainings, in which theta stays near its start.

    Args:
        width: final threshold d, >= 0, in units of weights; or its schedule.

    Raises:
        ValueError: if the threshold is negative.

    >>> STDS(width=0.2).threshold()(0.5)
    0.1
    """

    source: ClassVar[str] = "Chen et al. 2022, PMLR 162:3701"

    width: Schedule | float = 0.1

    def __post_init__(self) -> None:
        check_not_negative("width", self.width, "the final threshold on |theta|")

    def threshold(self) -> Callable[[float], float]:
        """The threshold d as a function of progress."""
        return self.width if callable(self.width) else Cosine(0.0, self.width)

    def project(self, synapses: Synapses, theta: Tensor, weight: Tensor, pruner: Pruner) -> None:
        weight.copy_(softshrink(theta, self.threshold()(pruner.progress)))
