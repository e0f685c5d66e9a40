"""Minimax against a transcription in numpy, and its budgets against trying all of them."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from spikewire import Minimax, Pruner

STEPS, UNTIL, EVERY, Y, RATE, LR = 60, 48, 4, 0.5, 30.0, 0.05
FIRST = {"a.weight": [0.3, -0.1, 0.2, 0.5, -0.6, 0.05], "b.weight": [-0.2, 0.12, 0.32, -0.45]}
TARGETS = {"a.weight": [1.0, 1.2, 0.1, -0.2, 0.3, 0.7], "b.weight": [0.4, -1.0, 0.6, 0.9]}
CURVATURES = {"a.weight": [1.0, 0.1, 1.0, 0.1, 0.2, 0.3], "b.weight": [1.0, 3.0, 2.0, 0.5]}


def tensor(row):
    return torch.tensor([row], dtype=torch.float64)


class Layers(nn.Module):
    """Two layers without a network between them, each with a parabola of its own to go down."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 1, bias=False), nn.Linear(4, 1, bias=False)
        self.double()
        with torch.no_grad():
            for name, first in FIRST.items():
                self.get_parameter(name).copy_(tensor(first))

    def loss(self):
        """``sum of a (w - c)^2 / 2``."""
        loss = 0.0
        for name, w in self.named_parameters():
            loss += (tensor(CURVATURES[name]) * (w - tensor(TARGETS[name])).square()).sum() / 2
        return loss


def set_up(**options):
    net = Layers()
    sgd = torch.optim.SGD(net.parameters(), LR)
    method = Minimax(
        **{"sparsity": 0.6, "y": Y, "rate": RATE, "every": EVERY, "until": UNTIL / STEPS} | options
    )
    return net, sgd, Pruner(net, method, sgd, steps=STEPS)


def train(net, sgd, steps):
    for _ in range(steps):
        sgd.zero_grad()
        net.loss().backward()
        sgd.step()


def smallest_prices(w, y, number):
    """The synapses of smallest y w^2: (layer, place)."""
    prices = {(name, i): y[name] * v**2 for name, row in w.items() for i, v in enumerate(row)}
    return set(sorted(prices, key=prices.get)[:number])


def transcription():
    """Weights and prices after every step; 6 of 10 synapses are to go in the end."""
    w = {name: np.array(row) for name, row in FIRST.items()}
    y = dict.fromkeys(w, Y)
    going, gone, seen = set(), set(), []
    for step in range(STEPS):
        sparsity = 0.6 * (1 - (1 - min(step / UNTIL, 1)) ** 3)
        number = 10 - int((1 - sparsity) * 10 + 1e-6)
        if step == UNTIL:
            gone, going = smallest_prices(w, y, number), set()
        elif step < UNTIL and step % EVERY == 0:
            for name, row in w.items():
                left = sum(row[i] ** 2 for layer, i in going if layer == name)
                y[name] += RATE * EVERY / STEPS * left / sum(row**2)
            going = smallest_prices(w, y, number)
        for name, row in w.items():
            row -= LR * np.array(CURVATURES[name]) * (row - np.array(TARGETS[name]))
        for name, i in going:
            w[name][i] /= 1 + 2 * LR * y[name]
        for name, i in gone:
            w[name][i] = 0.0
        seen.append(({name: row.copy() for name, row in w.items()}, dict(y)))
    return seen


def test_every_step_is_that_of_the_formulas():
    net, sgd, pruner = set_up()
    prices = []
    for step, (w, y) in enumerate(transcription()):
        train(net, sgd, 1)
        for s in pruner:
            found = s.weight.detach().numpy()[0]
            assert np.allclose(found, w[s.name], rtol=1e-12, atol=1e-15), step
            if step < UNTIL:
                assert float(s.state["y"]) == pytest.approx(y[s.name], rel=1e-12)
            else:
                assert not s.state
        prices.append(y)
    assert prices[0]["a.weight"] == prices[0]["b.weight"]
    assert prices[-1]["a.weight"] != prices[-1]["b.weight"]
    assert pruner.sparsity == pytest.approx(0.6)


def test_budgets_are_the_best_of_all_for_these_prices():
    """s minimises ``sum of y_l B_l(s_l)``: all ways to take so many from two layers are tried."""
    net, sgd, pruner = set_up()
    train(net, sgd, UNTIL - EVERY + 1)
    going = {s.name: int(s.state["going"].sum()) for s in pruner}
    # the step after the event moved the weights, so look at those of the event
    before, sgd, other = set_up()
    train(before, sgd, UNTIL - EVERY)
    y = {s.name: float(s.state["y"]) for s in pruner}
    squares = {s.name: np.sort(s.weight.detach().numpy()[0] ** 2) for s in other}
    costs = {}
    for one, two in itertools.product(range(6), range(4)):  # each layer keeps a synapse
        if one + two == sum(going.values()):
            parts = {"a.weight": one, "b.weight": two}
            costs[one, two] = sum(y[n] * squares[n][:k].sum() for n, k in parts.items())
    assert len(costs) > 2
    assert min(costs, key=costs.get) == tuple(going.values())


def test_the_shrinking_is_the_proximal_step_of_the_price():
    """``argmin of y v^2 + (v - w)^2 / (2 lr)``, found by autograd's zero."""
    net, sgd, pruner = set_up()
    train(net, sgd, 20)
    s = next(iter(pruner))
    y, going = float(s.state["y"]), s.state["going"].bool()
    before = s.weight.detach().clone()
    assert going.any() and not going.all()
    pruner.after_step()
    v = s.weight.detach().clone().requires_grad_()
    (y * v.square() + (v - before).square() / (2 * LR)).sum().backward()
    assert v.grad[going].abs().max() < 1e-12
    assert v[~going].equal(before[~going])


@pytest.mark.filterwarnings("ignore:.*is held at its last")
def test_a_layer_that_holds_on_to_its_synapses_gets_dearer_and_keeps_more(monkeypatch):
    """Those of b are a little smaller, but its loss is steep; that of a is nearly flat."""
    monkeypatch.setitem(CURVATURES, "a.weight", [0.02] * 6)
    monkeypatch.setitem(CURVATURES, "b.weight", [10.0] * 4)
    monkeypatch.setitem(TARGETS, "b.weight", [0.4, -0.41, 0.42, 0.43])
    monkeypatch.setitem(FIRST, "a.weight", [0.46, -0.47, 0.48, 0.49, -0.5, 0.51])
    kept = []
    for rate in (0.0, 30.0):
        net, sgd, pruner = set_up(rate=rate)
        train(net, sgd, STEPS)
        kept.append([int(mask.sum()) for mask in pruner.finish().values()])
    assert kept == [[3, 1], [2, 2]]


def test_a_training_that_ends_early_is_cut_all_the_same():
    net, sgd, pruner = set_up()
    train(net, sgd, 20)
    with pytest.warns(UserWarning, match="finish"):
        pruner.finish()
    assert pruner.sparsity == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sparsity": 1.0}, "share of zeros"),
        ({"y": 0.0}, "above 0"),
        ({"rate": -1.0}, "0 or more"),
        ({"rate": float("nan")}, "0 or more"),
        ({"every": 0}, "1 or more"),
        ({"begin": 0.5, "until": 0.5}, "begin < until < 1"),
        ({"until": 1.0}, "begin < until < 1"),
    ],
)
def test_refusals(options, words):
    with pytest.raises(ValueError, match=words):
        Minimax(**options)


def test_it_needs_a_learning_rate():
    with pytest.raises(ValueError, match="Minimax moves weights in units of the learning rate"):
        Pruner(Layers(), Minimax(), steps=3)
