"""Grad R and STDS against straight transcriptions of their formulas, in float64."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from spikewire import STDS, GradR, Linear, Pruner, Steps

STEPS = 200
RATE = 0.02


class Task:
    """A linear regression, new data at each step; gradients by hand in numpy."""

    def __init__(self, seed=0):
        random = np.random.default_rng(seed)
        self.start = random.normal(0, 0.2, (5, 30))
        self.xs = random.normal(0, 1, (STEPS, 8, 30))
        self.ys = random.normal(0, 1, (STEPS, 8, 5))

    def gradient(self, w, step):
        """Of ``sum of squares / (2 B)``."""
        x, y = self.xs[step], self.ys[step]
        return (x @ w.T - y).T @ x / len(x)

    def train(self, method, optimizer, *arguments, **options):
        """The weights after each step, as the library trains them."""
        net = nn.Linear(30, 5, bias=False, dtype=torch.float64)
        net.weight.data = torch.from_numpy(self.start.copy())
        moves = optimizer(net.parameters(), RATE, *arguments, **options)
        pruner = Pruner(net, method, moves, steps=STEPS)
        for x, y in zip(torch.from_numpy(self.xs), torch.from_numpy(self.ys), strict=True):
            moves.zero_grad()
            ((net(x) - y) ** 2).sum().div(2 * len(x)).backward()
            moves.step()
            yield net.weight.detach().numpy()
        pruner.finish()
        yield net.weight.detach().numpy()


def mu_of(p, alpha):
    return math.log(2 - 2 * p) / alpha if alpha > 0 else -math.inf


def gradr_by_sgd(task, alpha, p):
    """``theta -= eta (s g + alpha sign(theta - mu))``, ``w = s relu(theta)``."""
    s, theta = np.sign(task.start), np.abs(task.start)
    for step in range(STEPS):
        g = task.gradient(s * np.maximum(theta, 0), step)
        theta = theta - RATE * s * g - RATE * alpha * np.sign(theta - mu_of(p, alpha))
        yield s * np.maximum(theta, 0)


def gradr_by_adam(task, alpha, p, corrected):
    """Moments of the gradient of w; the prior beside them, on the old theta."""
    s, theta = np.sign(task.start), np.abs(task.start)
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for k in range(1, STEPS + 1):
        g = task.gradient(s * np.maximum(theta, 0), k - 1)
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        a = RATE / (1 - 0.9**k)
        z = s * theta - a * m / (np.sqrt(v) / np.sqrt(1 - 0.999**k) + 1e-8)
        z = z - (a if corrected else RATE) * alpha * np.sign(theta - mu_of(p, alpha)) * s
        theta = s * z
        yield s * np.maximum(theta, 0)


def compare(trained, transcribed):
    """Same weights and same zeros after each step, zeros come and go; the end changes nothing."""
    expected = list(transcribed)
    for ours, theirs in zip(trained, [*expected, expected[-1]], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-11)
        assert np.array_equal(ours == 0, theirs == 0)
    sparsities = np.array([(w == 0).mean() for w in expected])
    assert sparsities.max() > 0.1
    assert np.diff(sparsities).max() > 0


# alpha 5 puts mu at -0.46 for p = .95, where strengths do arrive
P_AND_ALPHA = [(p, alpha) for p in (0.5, 0.95) for alpha in (0.0, 0.05, 5.0)]
DYING = pytest.mark.filterwarnings("ignore:.*has lost its last synapse")


@DYING
@pytest.mark.parametrize(("p", "alpha"), P_AND_ALPHA)
def test_gradr_with_sgd(p, alpha):
    task = Task()
    compare(task.train(GradR(alpha, p), torch.optim.SGD), gradr_by_sgd(task, alpha, p))
    corrected = task.train(GradR(alpha, p, bias_corrected=True), torch.optim.SGD)
    compare(corrected, gradr_by_sgd(task, alpha, p))  # without momentum nothing is biased


@DYING
@pytest.mark.parametrize(("p", "alpha"), P_AND_ALPHA)
@pytest.mark.parametrize(
    ("corrected", "kernel"), [(True, {"foreach": False}), (False, {"fused": True})]
)
def test_gradr_with_adam(p, alpha, corrected, kernel):
    task = Task()
    ours = task.train(GradR(alpha, p, corrected), torch.optim.Adam, **kernel)
    compare(ours, gradr_by_adam(task, alpha, p, corrected))


def test_gradr_moves_mu_as_the_paper_says():
    assert GradR(alpha=0.2, sparsity=0.95).mean == pytest.approx(-11.513, abs=1e-3)
    assert GradR(alpha=1e-3, sparsity=0.5).mean == 0
    assert GradR(alpha=0.0).mean == -math.inf


def test_a_weight_born_at_zero_stays_there():
    net = nn.Linear(4, 1, bias=False)
    net.weight.data = torch.tensor([[0.0, 0.5, 0.0, -0.5]])
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    Pruner(net, GradR(), optimizer, steps=5)
    for _ in range(3):
        net.weight.grad = torch.tensor([[-1.0, -1.0, 1.0, 1.0]])
        optimizer.step()
    assert net.weight[0, [0, 2]].tolist() == [0, 0]
    assert net.weight[0, 1] > 0.5
    assert net.weight[0, 3] < -0.5


def sine(k, width):
    return width * (1 + math.sin(math.pi * (k / STEPS - 0.5))) / 2


def line(k, width):
    return width * k / STEPS


def stds(task, rise, width, moments):
    """``w = sign(theta) max(|theta| - d, 0)``; the gradient goes straight through."""
    theta = task.start.copy()
    w, one, two = theta, np.zeros_like(theta), np.zeros_like(theta)
    for k in range(1, STEPS + 1):
        g = task.gradient(w, k - 1)
        if moments == "sgd":
            one = 0.9 * one + g
            theta = theta - RATE * one
        else:
            one, two = 0.9 * one + 0.1 * g, 0.999 * two + 0.001 * g * g
            d = np.sqrt(two) / np.sqrt(1 - 0.999**k) + 1e-8
            theta = theta - RATE / (1 - 0.9**k) * one / d
        w = np.sign(theta) * np.maximum(np.abs(theta) - rise(k, width), 0)
        yield w


@pytest.mark.parametrize(
    ("optimizer", "options", "moments"),
    [(torch.optim.SGD, {"momentum": 0.9}, "sgd"), (torch.optim.Adam, {"fused": True}, "adam")],
)
@pytest.mark.parametrize(("rise", "width"), [(sine, 0.3), (line, Linear(0.0, 0.3))])
def test_stds(optimizer, options, moments, rise, width):
    task = Task()
    compare(task.train(STDS(width), optimizer, **options), stds(task, rise, 0.3, moments))


def test_stds_lets_a_synapse_change_sign_through_the_dead_zone():
    net = nn.Linear(1, 1, bias=False)
    net.weight.data.fill_(0.3)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    Pruner(net, STDS(width=lambda progress: 0.25), optimizer, steps=6)
    weights = []
    for _ in range(6):
        net.weight.grad = torch.ones(1, 1)
        optimizer.step()
        weights.append(round(net.weight.item(), 6))
    # theta: .2 .1 0 -.1 -.2 -.3
    assert weights == [0, 0, 0, 0, 0, -0.05]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GradR(sparsity=0.49), "0.5 <= sparsity < 1"),
        (lambda: GradR(sparsity=1.0), "0.5 <= sparsity < 1"),
        (lambda: GradR(alpha=-1e-3), "0 or more"),
        (lambda: GradR(alpha=float("nan")), "0 or more"),
        (lambda: STDS(width=-0.1), "width=-0.1: give the final threshold"),
        (lambda: STDS(width=float("nan")), "width=nan"),
        (lambda: STDS(width=Linear(0.0, -1.0)), "width=Linear"),
        (lambda: STDS(width=Steps((0.0, -1.0, 0.1), marks=(0.2, 0.6))), "width=Steps"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_no_bias_is_corrected_where_the_optimizer_corrects_none(momentum):
    weights = []
    for corrected in (False, True):
        torch.manual_seed(0)
        net = nn.Linear(6, 6)
        sgd = torch.optim.SGD(net.parameters(), 0.1, momentum=momentum)
        Pruner(net, GradR(alpha=0.1, bias_corrected=corrected), sgd, steps=9)
        net(torch.ones(1, 6)).sum().backward()
        sgd.step()
        weights.append(net.weight.detach().clone())
    assert weights[0].equal(weights[1])
