"""Theorem 1 and Lemma 1 of Chen et al. 2021, in float64, along the gradient that Grad R follows.

The map is the SoftPlus of the theorem, ``w = s log(1 + exp(beta theta)) / beta``; the loss is a
convex quadratic of the weights, so its curvature is known.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import softplus

from spikewire import GradR, Pruner

SIZES = st.integers(1, 30)
SEEDS = st.integers(0, 10**6)
BETAS = st.floats(1.0, 10.0)
FLOORS = st.floats(-0.5, 0.0)


class Problem:
    """A loss of weights, and a point whose theta are all ``floor`` or more."""

    def __init__(self, size, seed, beta, floor):
        random = torch.Generator().manual_seed(seed)
        rows = torch.randn(size + 2, size, generator=random, dtype=torch.float64)
        self.curvature = rows.T @ rows / size
        self.goal = torch.randn(size, generator=random, dtype=torch.float64)
        self.sign = torch.randn(size, generator=random, dtype=torch.float64).sign()
        self.theta = floor + torch.rand(size, generator=random, dtype=torch.float64)
        self.beta = beta

    def loss(self, theta):
        missing = self.sign * softplus(theta, self.beta, threshold=1e3) - self.goal
        return 0.5 * missing @ self.curvature @ missing

    def gradients(self):
        """The true gradient in theta, and the one that takes the slope of the map for 1."""
        theta = self.theta.clone().requires_grad_()
        (true,) = torch.autograd.grad(self.loss(theta), theta)
        weights = self.sign * softplus(self.theta, self.beta, threshold=1e3)
        return true, self.sign * (self.curvature @ (weights - self.goal))


def least_slope(beta, floor):
    return 1.0 / (1.0 + math.exp(-beta * floor))


@given(SIZES, SEEDS, BETAS, FLOORS)
def test_lemma_1(size, seed, beta, floor):
    """``|redefined|^2 <= <true, redefined> / sigma(beta C)``: never more than a right angle."""
    true, redefined = Problem(size, seed, beta, floor).gradients()
    along = float(true @ redefined)
    assert along >= 0.0
    assert float(redefined @ redefined) * least_slope(beta, floor) <= along * (1.0 + 1e-9)


@settings(max_examples=200)
@given(SIZES, SEEDS, BETAS, FLOORS)
def test_theorem_1(size, seed, beta, floor):
    """A step short enough for the curvature lowers the loss, by as much as the proof says."""
    problem = Problem(size, seed, beta, floor)
    true, redefined = problem.gradients()
    stiffness = torch.linalg.matrix_norm(problem.curvature, 2)
    # the second derivative in theta, twice over: the gradient changes on the way
    smooth = 2.0 * float(stiffness + 0.25 * beta * redefined.abs().max())
    rate = least_slope(beta, floor) / smooth
    fall = problem.loss(problem.theta) - problem.loss(problem.theta - rate * redefined)
    proven = rate * (true @ redefined) - 0.5 * smooth * rate**2 * (redefined @ redefined)
    assert float(proven) > 0.0
    rounding = 1e-13 * (1.0 + float(problem.loss(problem.theta)))
    assert float(fall) >= float(proven) - rounding


@pytest.mark.parametrize("seed", range(5))
def test_grad_r_follows_the_redefined_gradient(seed):
    """Without a prior a step of SGD moves ``s theta`` by the plain gradient of w, pruned or not."""
    torch.manual_seed(seed)
    net = nn.Linear(12, 7, bias=False).double()
    sgd = torch.optim.SGD(net.parameters(), 0.3)
    pruner = Pruner(net, GradR(alpha=0.0), sgd, steps=20)
    (s,) = pruner
    sign = s.state["sign"].clone()
    for _ in range(20):
        theta = sign * s.state["theta"]
        sgd.zero_grad()
        net(torch.randn(4, 12).double()).square().sum().backward()
        redefined = sign * net.weight.grad
        sgd.step()
        torch.testing.assert_close(sign * s.state["theta"], theta - 0.3 * redefined)
        assert net.weight.equal(sign * (sign * s.state["theta"]).relu())
    assert (net.weight == 0).any()
