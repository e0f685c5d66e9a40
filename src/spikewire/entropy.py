"""Entropy: how much the spikes of neurons can tell, in bits.

Chen, Liu, Liu and You 2023 (arXiv 2311.16141 v3), Eqs. 3-10: a neuron tells most if it fires half
of the time, and a feature map tells at most what its neurons tell one by one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def neuron_entropy(rates: Tensor) -> Tensor:
    """``H = -r log2 r - (1 - r) log2 (1 - r)`` of neurons that fire with probability r.

    Chen, Liu, Liu and You 2023, Eqs. 3 and 4; in bits for each time step.

    Args:
        rates: spikes per time step, in [0, 1], of any shape.

    Raises:
        ValueError: if a rate is outside [0, 1].

    >>> neuron_entropy(torch.tensor([0.0, 0.5, 1.0])).tolist()
    [0.0, 1.0, 0.0]
    """
    if not ((rates >= 0) & (rates <= 1)).all():
        raise ValueError(
            f"rates go from {rates.min():.3g} to {rates.max():.3g}: give spikes per time step, "
            "in [0, 1]"
        )
    return (torch.special.entr(rates) + torch.special.entr(1 - rates)) / math.log(2)


def joint_entropy(spikes: Tensor) -> float:
    """``H(o) = -sum over patterns of p(o) log2 p(o)`` of neurons that are seen together.

    Chen, Liu, Liu and You 2023, Eq. 5, with the share of moments that show a pattern for its
    probability. That is too low when there are more patterns than moments: it never exceeds log2 of
    the number of moments, so it serves for a few neurons, or for a small feature map.

    Args:
        spikes: 0 or 1, (moments, neurons): for moments, take time steps and samples together.

    Raises:
        ValueError: if there are no moments, or they are not given so.

    >>> joint_entropy(torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]))
    2.0
    """
    if spikes.ndim != 2 or not spikes.numel():
        raise ValueError(
            f"spikes are of shape {tuple(spikes.shape)}: give (moments, neurons), one or more of "
            "both"
        )
    _, counts = spikes.bool().unique(dim=0, return_counts=True)
    shares = counts.double() / len(spikes)
    return float(-(shares * shares.log2()).sum()) + 0.0


def redundancy(spikes: Tensor) -> float:
    """``sum over i of H(o_i) - H(o)``, what neurons say more than once; 0 if they are independent.

    The divergence of their joint distribution from the product of each one's own, in bits; also
    known as total correlation. Chen, Liu, Liu and You 2023, Eqs. 8-10. Its limits are those of
    `joint_entropy`.

    Args:
        spikes: 0 or 1, (moments, neurons).

    Raises:
        ValueError: as `joint_entropy`.

    >>> redundancy(torch.tensor([[0, 0], [1, 1]]))
    1.0
    """
    whole = joint_entropy(spikes)
    return float(neuron_entropy(spikes.bool().double().mean(0)).sum()) - whole
