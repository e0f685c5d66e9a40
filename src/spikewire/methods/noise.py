"""Noise: how many synapses Grad R's prior leaves where gradients are nothing but noise.

Adam moves a hidden parameter by its learning rate times the signal-to-noise ratio of its gradient,
and the prior by its learning rate times alpha. So alpha is a threshold on that ratio; below it a
synapse is a random walker that drifts towards zero, and how many have arrived depends on the number
of steps: alpha must grow like ``1 / sqrt(steps)`` when training is made shorter.

No method, but what one must know to choose a strength of Grad R: formulas and how they were derived
stand in one file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import NormalDist

from spikewire.schedules import Schedule, at

_SAMPLES = 1000  # moments at which a schedule is looked at


def expected_connectivity(
    alpha: float,
    steps: int,
    *,
    lr: float = 1e-3,
    schedule: Schedule | float = 1.0,
    theta: Sequence[float] = (0.0,),
    ratio: float = 0.0,
) -> float:
    """The share of synapses that live after so many steps of Adam, if gradients are mostly noise.

    ``P(theta_n > 0) = Phi((theta_0 + (ratio - alpha) sum_k lr_k) / sqrt(sum_k lr_k^2))``: a random
    walk of independent steps ``lr_k``, with a drift. With a constant rate this is
    ``Phi((ratio - alpha) sqrt(n) + theta_0 / (lr sqrt(n)))``.

    It is a limit from below wherever some synapses carry signal, as on MNIST: there two short runs
    and `alpha_among` say more. Momentum, which ties
    successive steps together, hardly changes it over many: its noise sums to the same variance.

    Args:
        alpha: strength of the prior, >= 0.
        steps: optimizer steps of the training, >= 1.
        lr: Adam's learning rate, > 0.
        schedule: factor on the learning rate, as a function of progress.
        theta: initial ``|w|`` of the synapses, or a sample of them; the mean over it is returned.
        ratio: signal-to-noise ratio of the gradients in favour of a synapse.

    Raises:
        ValueError: if alpha, steps or lr are out of their range, or theta is empty.

    >>> round(expected_connectivity(0.0, 1000), 2), round(expected_connectivity(0.05, 1000), 3)
    (0.5, 0.057)
    """
    _check(alpha >= 0.0, f"alpha={alpha}: give the strength of the prior, 0 or more")
    _check(steps >= 1, f"steps={steps}: give the optimizer steps of the training, 1 or more")
    _check(lr > 0.0, f"lr={lr}: give Adam's learning rate, above 0")
    _check(len(theta) > 0, "theta is empty: give the initial |w| of some synapses")
    return _left(alpha - ratio, theta, *_walk(steps, lr, schedule))


def alpha_for(
    connectivity: float,
    steps: int,
    *,
    lr: float = 1e-3,
    schedule: Schedule | float = 1.0,
    theta: Sequence[float] = (0.0,),
    ratio: float = 0.0,
) -> float:
    """The strength of the prior that leaves this connectivity: `expected_connectivity`, inverted.

    Args:
        connectivity: wanted share of synapses alive, above 0 and at most what alpha = 0 leaves.
        steps, lr, schedule, theta, ratio: as of `expected_connectivity`.

    Raises:
        ValueError: if no alpha >= 0 leaves this connectivity, or an argument is out of its range.

    >>> alpha = alpha_for(0.1, 4000)
    >>> round(alpha, 4), round(expected_connectivity(alpha, 4000), 3)
    (0.0203, 0.1)
    """
    expected_connectivity(0.0, steps, lr=lr, theta=theta)  # refuses what it cannot use
    way, spread = _walk(steps, lr, schedule)
    most = _left(-ratio, theta, way, spread)
    _check(
        0.0 < connectivity <= most,
        f"connectivity={connectivity}: noise alone leaves {most:.3f} without a prior; give a share "
        "above 0 and not above that",
    )
    low, high = 0.0, 1.0
    while _left(high - ratio, theta, way, spread) > connectivity:
        high *= 2.0
    for _ in range(100):
        middle = (low + high) / 2.0
        too_weak = _left(middle - ratio, theta, way, spread) > connectivity
        low, high = (middle, high) if too_weak else (low, middle)
    return high


def alpha_among(connectivity: float, runs: Mapping[float, float]) -> float:
    """The strength of the prior that leaves this connectivity, read off runs of the same length.

    Where synapses carry signal, how many survive is a matter of the data, not of noise. There the
    logarithm of the connectivity is taken as linear in that of alpha, between the two runs around
    the wanted connectivity, or beyond the last two on its side. Left out one by one, the runs of
    Chen et al. 2021 on MNIST (Table 4) are met within a quarter.

    Args:
        connectivity: wanted share of synapses alive, in (0, 1].
        runs: connectivity by alpha, of two runs or more that differ in nothing else; both above 0.

    Raises:
        ValueError: if an argument is out of its range, or more alpha did not leave less.

    >>> round(alpha_among(0.0563, {0.01: 0.1794, 0.1: 0.0306}), 3)  # Table 4 has 0.05
    0.045
    """
    _check(0.0 < connectivity <= 1.0, f"connectivity={connectivity}: give a share in (0, 1]")
    known = sorted(runs.items())
    _check(
        len(known) > 1 and all(alpha > 0.0 and left > 0.0 for alpha, left in known),
        f"runs={dict(runs)}: give two runs or more, connectivity by alpha, all above 0",
    )
    _check(
        all(one > other for (_, one), (_, other) in pairwise(known)),
        f"runs={dict(runs)}: a larger alpha must have left fewer synapses: give longer runs, or "
        "others",
    )
    around = [pair for pair in pairwise(known) if pair[0][1] >= connectivity]
    (low, dense), (high, sparse) = around[-1] if around else known[:2]
    place = math.log(dense / connectivity) / math.log(dense / sparse)
    return low * (high / low) ** place


def _walk(steps: int, lr: float, schedule: Schedule | float) -> tuple[float, float]:
    """The sum of the learning rates, and the root of the sum of their squares."""
    factors = [at(schedule, (sample + 0.5) / _SAMPLES) for sample in range(_SAMPLES)]
    mean = sum(factors) / _SAMPLES
    square = sum(factor * factor for factor in factors) / _SAMPLES
    return lr * steps * mean, lr * math.sqrt(steps * square)


def _left(pull: float, theta: Sequence[float], way: float, spread: float) -> float:
    """The mean probability to be above 0, pulled down along the way with so much spread."""
    cdf = NormalDist().cdf
    return sum(cdf((start - pull * way) / spread) for start in theta) / len(theta)


def _check(right: bool, message: str) -> None:
    if not right:
        raise ValueError(message)
