"""Deep R: its rules against transcriptions where they are deterministic, invariants elsewhere."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from spikewire import ChenDeepR, DeepR, Pruner, SoftDeepR
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
    pruner = Pruner(net, DeepR(0.0, l1=l1, temperature=0.0), optimizer, steps=100)
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
    pruner = Pruner(net, DeepR(0.5, l1=0.0, temperature=0.0), optimizer, steps=9)
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
        pruner = Pruner(net, DeepR(0.5, l1=0.0, temperature=0.0), optimizer, steps=9, seed=seed)
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


def noisy_training(method, steps=120, lr=0.05, seed=0):
    """Train on gradients that are noise; yields the pruner after every step."""
    torch.manual_seed(seed)
    net = two_layers()
    optimizer = torch.optim.SGD(net.parameters(), lr)
    pruner = Pruner(net, method, optimizer, steps=steps, seed=seed)
    yield pruner
    for _ in range(steps):
        for s in pruner:
            s.weight.grad = torch.randn_like(s.weight)
        optimizer.step()
        yield pruner


def test_under_the_global_constraint_tensors_trade_synapses():
    method = DeepR(0.7, l1=1e-3, global_constraint=True)
    seen = [tuple(s.alive for s in pruner) for pruner in noisy_training(method)]
    assert {sum(counts) for counts in seen} == {round(0.3 * 260)}
    assert seen[0] == (60, 18)
    assert len(set(seen)) > 10


def test_births_fall_to_tensors_as_their_first_numbers():
    """With everyone dying at each step, who is born shows the chances alone."""
    births = np.zeros(2)
    for seed in range(200):
        net = two_layers()
        optimizer = torch.optim.SGD(net.parameters(), 1.0)
        pruner = Pruner(
            net,
            DeepR(0.7, l1=0.0, temperature=0.0, global_constraint=True),
            optimizer,
            steps=9,
            seed=seed,
        )
        for s in pruner:
            s.weight.grad = 2 * s.weight.detach()
        optimizer.step()
        births += [s.alive for s in pruner]
    assert births.sum() == 200 * 78
    expected = 200 * 60  # a binomial of 15600 draws with p = 60 / 78
    assert abs(births[0] - expected) < 5 * math.sqrt(15600 * 60 / 78 * 18 / 78)


def test_a_full_tensor_takes_no_births():
    method = DeepR(0.05, l1=1e-3, global_constraint=True)
    for pruner in noisy_training(method, steps=40):
        assert all(s.alive <= s.weight.numel() for s in pruner)
        assert sum(s.alive for s in pruner) <= round(0.95 * 260)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_soft_deep_r_by_its_rule(momentum, monkeypatch):
    """Noise from outside, the rest in numpy."""
    method = SoftDeepR(0.8, l1=0.3, temperature=0.02)
    random = np.random.default_rng(1)
    net = two_layers().double()
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=momentum)
    pruner = Pruner(net, method, optimizer, steps=60)
    sign = {s.name: s.state["sign"].numpy() for s in pruner}
    theta = {s.name: sign[s.name] * s.state["theta"].numpy().copy() for s in pruner}
    memory = {name: np.zeros_like(t) for name, t in theta.items()}
    lowest = -0.8 / 0.2 / (0.3 / 0.02)
    back = 0
    for _ in range(60):
        noise = [random.normal(0, 1, s.weight.shape) for s in pruner]
        for s, nu in zip(pruner, noise, strict=True):
            g = random.normal(0, 0.3, s.weight.shape)
            s.weight.grad = torch.from_numpy(g)
            m = memory[s.name] = momentum * memory[s.name] + g
            t, eta = theta[s.name], 0.05
            active = t > 0
            walked = t - active * (eta * sign[s.name] * m + eta * 0.3)
            walked += math.sqrt(2 * eta * 0.02) * nu * sign[s.name]
            walked = np.maximum(walked, lowest)
            back += int((~active & (walked > 0)).sum())
            theta[s.name] = walked
        left = iter([torch.from_numpy(nu) for nu in noise])
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randn", lambda *_, left=left, **__: next(left))
            optimizer.step()
        for s in pruner:
            expected = sign[s.name] * np.maximum(theta[s.name], 0)
            np.testing.assert_allclose(s.weight.detach().numpy(), expected, atol=1e-12)
    assert back > 20


def test_soft_deep_r_settles_at_the_connectivity_of_its_prior():
    """Without a loss, as the derivation of theta_min has it."""
    net = nn.Linear(100, 50, bias=False)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    pruner = Pruner(net, SoftDeepR(0.7, l1=1.0, temperature=0.02), optimizer, steps=4000)
    (s,) = pruner
    shares = []
    for step in range(4000):
        s.weight.grad = torch.zeros_like(s.weight)
        optimizer.step()
        if step >= 2000 and step % 100 == 0:
            shares.append(s.alive / 5000)
    # steps of finite size stick to the floor a little more often than the limit says
    assert np.mean(shares) == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("max_sparsity", [1.0, 0.4])
def test_chen_s_deep_r_by_its_rule(max_sparsity):
    """The released step in float64: Adam, L1 with its bias correction, births that do not last.

    Who is born is drawn; the transcription takes it from the run and checks that nothing follows.
    """
    random = np.random.default_rng(2)
    net = two_layers().double()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    w = {name: p.detach().numpy().copy() for name, p in net.named_parameters()}
    active = {name: value != 0 for name, value in w.items()}
    pruner = Pruner(net, ChenDeepR(l1=0.2, max_sparsity=max_sparsity), optimizer, steps=80)
    sign = {name: np.sign(value) for name, value in w.items()}
    m1, m2 = ({name: np.zeros_like(v) for name, v in w.items()} for _ in range(2))
    births = expected_births = 0.0
    for k in range(1, 81):
        for name, p in net.named_parameters():
            g = random.normal(0, 1, p.shape)
            p.grad = torch.from_numpy(g)
            m1[name] = 0.9 * m1[name] + 0.1 * g
            m2[name] = 0.999 * m2[name] + 0.001 * g * g
            a, d = 0.01 / (1 - 0.9**k), np.sqrt(m2[name]) / math.sqrt(1 - 0.999**k) + 1e-8
            on = active[name].astype(float)
            moved = w[name] - a * on * m1[name] / d - a * 0.2 * sign[name] * on
            w[name] = np.maximum(moved * on * sign[name], 0) * sign[name]
            active[name] = w[name] != 0
        optimizer.step()
        for s in pruner:
            found, alive = s.weight.detach().numpy(), active[s.name]
            np.testing.assert_allclose(found[alive], w[s.name][alive], rtol=1e-9, atol=1e-14)
            assert set(np.unique(found[~alive])) <= {0.0, 1e-8}
            c = 1 - alive.mean()
            births += (found[~alive] == 1e-8).sum()
            expected_births += (~alive).sum() * max(0.0, (c - max_sparsity) / c if c else 0.0)
            assert s.alive == (found != 0).sum()
            w[s.name] = found.copy()  # with the newborn, as in the released code
    assert pruner.sparsity > 0.3
    if max_sparsity == 1.0:
        assert births == 0
    else:
        assert births == pytest.approx(expected_births, rel=0.1)
        assert births > 500


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (SoftDeepR, {"l1": 0.0}, "above 0"),
        (SoftDeepR, {"temperature": 0.0}, "above 0"),
        (SoftDeepR, {"sparsity": 1.0}, "sparsity=1.0"),
        (ChenDeepR, {"l1": -1.0}, "0 or more"),
        (ChenDeepR, {"max_sparsity": 1.1}, "max_sparsity=1.1"),
    ],
)
def test_refusals_of_the_other_forms(kind, options, words):
    with pytest.raises(ValueError, match=words):
        kind(**options)


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
