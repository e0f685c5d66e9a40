"""ADMM against a transcription in numpy, and where its answer is known by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from spikewire import ADMM, OneShot, Pruner
from spikewire.shares import uniform
from spikewire.units import Block

STEPS, BEGIN, UNTIL, EVERY, RHO, LR = 60, 6, 48, 5, 0.4, 0.05
CURVATURES = [[1.0, 0.1, 1.0, 0.1], [1.0, 0.3, 2.0, 0.5]]
TARGETS = [[1.0, 1.2, 0.1, -0.2], [0.4, -1.0, 0.6, 0.9]]
FIRST = [[0.3, -0.1, 0.2, 0.5], [-0.2, 0.1, 0.3, -0.4]]


def rows(values):
    return [np.array(row) for row in values]


def tensor(row):
    return torch.tensor([row], dtype=torch.float64)


class Layers(nn.Module):
    """Two layers without a network between them, each with a parabola of its own to go down."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 1, bias=False), nn.Linear(4, 1, bias=False)
        self.double()
        with torch.no_grad():
            for layer, first in zip((self.a, self.b), FIRST, strict=True):
                layer.weight.copy_(tensor(first))

    def loss(self):
        """``sum of a (w - c)^2 / 2``."""
        loss = 0.0
        for layer, a, c in zip((self.a, self.b), CURVATURES, TARGETS, strict=True):
            loss += (tensor(a) * (layer.weight - tensor(c)).square()).sum() / 2
        return loss

    @property
    def weights(self):
        return [layer.weight.detach().numpy()[0].copy() for layer in (self.a, self.b)]


def train(net, sgd, steps):
    for _ in range(steps):
        sgd.zero_grad()
        net.loss().backward()
        sgd.step()


def set_up(method, steps=STEPS, lr=LR):
    net = Layers()
    sgd = torch.optim.SGD(net.parameters(), lr)
    return net, sgd, Pruner(net, method, sgd, steps=steps)


def largest(values, keep):
    """Pi: all but the largest become 0."""
    out = np.zeros_like(values)
    kept = np.argsort(-np.abs(values))[:keep]
    out[kept] = values[kept]
    return out


def transcription():
    """Weights after every step: Deng et al. 2019, half of each layer to go."""
    w, z, u, seen = rows(FIRST), [None, None], [None, None], []
    alive = [np.ones(4), np.ones(4)]
    for step in range(STEPS):
        for i, (a, c) in enumerate(zip(rows(CURVATURES), rows(TARGETS), strict=True)):
            if step == UNTIL:
                w[i] = largest(w[i], 2)
                alive[i] = w[i] != 0
            elif step == BEGIN:
                z[i], u[i] = largest(w[i], 2), np.zeros(4)
            elif BEGIN < step < UNTIL and step % EVERY == 0:
                z[i] = largest(w[i] + u[i], 2)
                u[i] = u[i] + w[i] - z[i]
            gradient = a * (w[i] - c)
            if BEGIN <= step < UNTIL:
                gradient = gradient + RHO * (w[i] - z[i] + u[i])
            w[i] = (w[i] - LR * gradient) * alive[i]
        seen.append([row.copy() for row in w])
    return seen


def test_every_step_is_that_of_the_formulas():
    method = ADMM(0.5, RHO, every=EVERY, begin=BEGIN / STEPS, until=UNTIL / STEPS)
    net, sgd, pruner = set_up(method)
    for step, expected in enumerate(transcription()):
        train(net, sgd, 1)
        for found, wanted in zip(net.weights, expected, strict=True):
            assert np.allclose(found, wanted, rtol=1e-12, atol=1e-15), step
        assert set(pruner.masks["a.weight"].sum(1).tolist()) == {2 if step >= UNTIL else 4}
    assert all(not s.state for s in pruner)


def test_the_pull_is_the_gradient_of_the_written_penalty():
    net, sgd, pruner = set_up(ADMM(0.5, RHO, every=EVERY, begin=0.0, until=0.9))
    train(net, sgd, 13)
    net.zero_grad()
    loss = net.loss()
    for s in pruner:
        loss = loss + RHO / 2 * (s.weight - s.state["z"] + s.state["u"]).square().sum()
    loss.backward()
    written = [s.weight.grad.clone() for s in pruner]
    net.zero_grad()
    net.loss().backward()
    pruner.before_step()
    assert all(torch.allclose(s.weight.grad, g) for s, g in zip(pruner, written, strict=True))


@pytest.mark.filterwarnings("ignore:.*is held at its last")
def test_it_converges_to_the_best_sparse_weights_where_magnitude_does_not():
    """One synapse of two may stay: without 1 the loss is 1/2, without 1.2 only 0.1 * 1.44 / 2.

    With w = z a fixed point has u = -dL/dw / rho: 1 / rho without the first, 0.12 / rho without the
    second. It stays where |u| is below the weight that is kept, so rho is to be between 0.12, for
    the good one to be stable, and 1 / 1.2, for the other not to be.
    """
    kept = {}
    for method in (OneShot(0.75, share=uniform), ADMM(0.75, 0.4, every=20, begin=0.1, until=0.5)):
        net, sgd, pruner = set_up(method, steps=600, lr=0.5)
        train(net, sgd, 600)
        pruner.finish()
        kept[type(method)] = net.weights
    for found, best in zip(kept[ADMM], ([1.0, 0, 0, 0], [0, 0, 0.6, 0]), strict=True):
        assert np.allclose(found, best, atol=1e-6)
    for found, worse in zip(kept[OneShot], ([0, 1.2, 0, 0], [0, -1.0, 0, 0]), strict=True):
        assert np.allclose(found, worse, atol=1e-6)


def test_weights_that_are_to_go_are_nearly_gone_before_they_are_cut():
    """At rho = 1 no gradient of those exceeds what stays: the largest is 0.3, the least 0.6."""
    net, sgd, pruner = set_up(ADMM(0.5, 1.0, every=10, begin=0.1, until=0.95), 200, lr=0.5)
    train(net, sgd, 190)
    assert pruner.sparsity == 0.0
    going = torch.cat([s.weight.detach().abs().sort().values[:, :2] for s in pruner])
    assert going.max() < 1e-3
    train(net, sgd, 1)
    assert pruner.sparsity == 0.5


def test_share_and_unit_say_what_stays_together():
    net, sgd, pruner = set_up(ADMM(0.5, RHO, share=None, unit=Block(1, 2), until=0.4))
    train(net, sgd, STEPS)
    for mask in pruner.finish().values():
        pairs = mask.view(2, 2)
        assert pairs[:, 0].equal(pairs[:, 1])
    assert pruner.sparsity == 0.5


def test_a_training_that_ends_early_is_cut_all_the_same():
    net, sgd, pruner = set_up(ADMM(0.5, RHO))
    train(net, sgd, 20)
    with pytest.warns(UserWarning, match="finish"):
        pruner.finish()
    assert pruner.sparsity == 0.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sparsity": 1.0}, "share of zeros"),
        ({"rho": 0.0}, "above 0"),
        ({"rho": float("nan")}, "above 0"),
        ({"every": 0}, "1 or more"),
        ({"share": "erk"}, "give a function"),
        ({"begin": 0.5, "until": 0.5}, "begin < until < 1"),
        ({"until": 1.0}, "begin < until < 1"),
    ],
)
def test_refusals(options, words):
    with pytest.raises(ValueError, match=words):
        ADMM(**options)
