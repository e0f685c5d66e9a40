"""Deep R: its rule against a transcription where it is deterministic, its invariants elsewhere."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from spikewire import DeepR, Pruner
from spikewire.shares import erk


def two_layers():
    return nn.Sequential(nn.Linear(20, 10, bias=False), nn.Linear(10, 6, bias=False))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("l1", [0.0, 0.3])
def test_the_rule_with_all_synapses_active(l1, momentum):
    """Without dormant synapses whoever dies is born again at once, so nothing is left to chance."""
    random = np.random.default_rng(0)
    net = two_layers().double()
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=momentum)
    pruner = Pruner(net, DeepR(0.0, l1=l1), optimizer, steps=100)
    sign = {s.name: s.state["sign"].numpy() for s in pruner}
    theta = {s.name: np.abs(s.weight.detach().numpy()) for s in pruner}
    memory = {name: np.zeros_like(t) for name, t in theta.items()}
    births = 0
    for _ in range(100):
        for s in pruner:
            g = random.normal(0, 0.3, s.weight.shape)
            s.weight.grad = torch.from_numpy(g)
            m = memory[s.name] = momentum * memory[s.name] + g
            t = theta[s.name] - 0.05 * sign[s.name] * m - 0.05 * l1
            dead = t <= 0
            births += dead.sum()
            memory[s.name] = np.where(dead, 0, m)
            theta[s.name] = np.where(dead, 1e-12, t)
        optimizer.step()
        for s in pruner:
            expected = sign[s.name] * theta[s.name]
            np.testing.assert_allclose(s.weight.detach().numpy(), expected, rtol=1e-9, atol=1e-15)
    assert births > 20


@pytest.mark.parametrize("share", [erk, DeepR().share])
@pytest.mark.parametrize("temperature", [0.0, 0.01])
def test_counts_and_signs_hold(share, temperature):
    net = two_layers()
    optimizer = torch.optim.Adam(net.parameters(), 0.05)
    pruner = Pruner(
        net, DeepR(0.7, l1=1e-3, temperature=temperature, share=share), optimizer, steps=60
    )
    counts = {s.name: s.alive for s in pruner}
    assert sum(counts.values()) == round(0.3 * 260)
    signs = {s.name: s.state["sign"].clone() for s in pruner}
    assert all(set(sign.unique().tolist()) == {-1.0, 1.0} for sign in signs.values())
    ever = {s.name: s.mask.clone() for s in pruner}
    for _ in range(60):
        for s in pruner:
            s.weight.grad = torch.randn_like(s.weight)
        optimizer.step()
        for s in pruner:
            assert s.alive == counts[s.name]
            assert (signs[s.name] * s.weight)[s.mask].gt(0).all()
            assert s.weight[~s.mask].eq(0).all()
            ever[s.name] |= s.mask
    assert all(int(ever[name].sum()) > 1.5 * counts[name] for name in counts)


def test_one_death_is_followed_by_one_birth_elsewhere_in_the_same_tensor():
    net = two_layers()
    optimizer = torch.optim.SGD(net.parameters(), 1.0)
    pruner = Pruner(net, DeepR(0.5, l1=0.0), optimizer, steps=9)
    first, second = pruner
    before, other = first.mask, second.mask
    row, column = before.nonzero()[0].tolist()
    for s in pruner:
        s.weight.grad = torch.zeros_like(s.weight)
    first.weight.grad[row, column] = 2 * first.weight[row, column].detach()
    optimizer.step()
    born = first.mask & ~before
    assert not first.mask[row, column] or not born.any()  # the dead may be drawn again itself
    assert int(first.mask.sum()) == int(before.sum())
    assert int(born.sum()) <= 1
    assert first.weight[born].abs().le(1.01e-12).all()
    assert second.mask.equal(other)


def test_the_dead_wait_their_turn_among_all_the_dormant():
    places = torch.zeros(8)
    for seed in range(200):
        net = nn.Linear(8, 1, bias=False)
        optimizer = torch.optim.SGD(net.parameters(), 1.0)
        pruner = Pruner(net, DeepR(0.5, l1=0.0), optimizer, steps=9, seed=seed)
        (s,) = pruner
        alive = s.mask.flatten().nonzero().flatten()
        s.weight.grad = torch.zeros_like(s.weight)
        s.weight.grad[0, alive[0]] = 2 * s.weight[0, alive[0]].detach()
        optimizer.step()
        newborn = s.weight.abs().lt(1e-6) & s.mask
        places += newborn[0]
    assert places.sum() == 200
    assert places.min() > 8


def test_noise_has_the_temperature_s_width():
    net = nn.Linear(200, 100, bias=False)
    net.weight.data.fill_(50.0)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    pruner = Pruner(net, DeepR(0.5, l1=3.0, temperature=0.02), optimizer, steps=9)
    (s,) = pruner
    s.weight.grad = torch.zeros_like(s.weight)
    optimizer.step()
    moved = (s.state["sign"] * s.weight)[s.mask] - 50.0
    assert moved.mean().item() == pytest.approx(-0.3, abs=0.003)
    assert moved.std().item() == pytest.approx(math.sqrt(2 * 0.1 * 0.02), rel=0.03)
    assert s.weight[~s.mask].eq(0).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sparsity": 1.0}, "sparsity=1.0"),
        ({"l1": -1.0}, "0 or more"),
        ({"temperature": -1.0}, "0 or more"),
        ({"l1": float("nan")}, "0 or more"),
        ({"share": None}, "uniform, erk or by_size"),
    ],
)
def test_refusals(options, words):
    with pytest.raises(ValueError, match=words):
        DeepR(**options)


def test_a_trained_network_keeps_its_signs():
    net = nn.Linear(20, 20)
    before = net.weight.detach().clone()
    pruner = Pruner(net, DeepR(0.5), torch.optim.SGD(net.parameters(), 0.1), steps=10)
    kept = pruner.masks["weight"]
    assert kept.sum() == 200
    assert net.weight[kept].equal(before[kept])
