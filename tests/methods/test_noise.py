"""What Grad R leaves of noise: the calculator, beside the paper, walks and recorded runs."""

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from spikewire import Cosine, GradR, Pruner
from spikewire.methods.noise import alpha_among, alpha_for, expected_connectivity

RECORDS = Path(__file__).parents[2] / "reproduce"


@pytest.mark.parametrize(
    ("alpha", "predicted"), [(0, 50.6), (1e-4, 40.6), (2e-4, 31.2), (5e-4, 10.6), (1e-3, 0.6)]
)
def test_the_paper_s_setting_by_hand(alpha, predicted):
    """CIFAR-10 of Chen et al. 2021: 2049 epochs of 3125 steps at 1e-4, initial |w| about 0.0039."""
    n, start = 3125 * 2049, 0.0039
    z = -alpha * math.sqrt(n) + start / (1e-4 * math.sqrt(n))
    by_hand = 0.5 * math.erfc(-z / math.sqrt(2))
    found = expected_connectivity(alpha, n, lr=1e-4, theta=[start])
    assert found == pytest.approx(by_hand)
    assert 100 * found == pytest.approx(predicted, abs=0.06)


@pytest.mark.parametrize("schedule", [1.0, Cosine(1.0, 0.01)])
@pytest.mark.parametrize("alpha", [0.0, 0.01, 0.03])
def test_real_runs_on_pure_noise_leave_what_is_predicted(alpha, schedule):
    torch.manual_seed(0)
    steps, lr = 1500, 1e-3
    net = nn.Linear(100, 100, bias=False)
    theta = net.weight.detach().abs().flatten().tolist()
    adam = torch.optim.Adam(net.parameters(), lr)
    pruner = Pruner(net, GradR(alpha=alpha), adam, steps=steps)
    for step in range(steps):
        adam.param_groups[0]["lr"] = lr * (schedule(step / steps) if callable(schedule) else 1.0)
        net.weight.grad = torch.randn_like(net.weight)
        adam.step()
    expected = expected_connectivity(alpha, steps, lr=lr, schedule=schedule, theta=theta)
    assert 1.0 - pruner.sparsity == pytest.approx(expected, abs=0.03)


def test_a_shorter_training_needs_a_stronger_prior():
    """The law of the root: a quarter of the steps, twice the alpha."""
    assert alpha_for(0.05, 1000) == pytest.approx(2 * alpha_for(0.05, 4000))


@given(st.floats(1e-3, 0.49), st.integers(10, 10**7), st.floats(1e-5, 1e-1))
def test_alpha_is_the_inverse(connectivity, steps, lr):
    alpha = alpha_for(connectivity, steps, lr=lr)
    assert expected_connectivity(alpha, steps, lr=lr) == pytest.approx(connectivity)


def test_where_signal_dominates_it_is_only_a_limit_from_below():
    """The recorded run on MNIST keeps what carries signal, far more than noise would leave."""
    if not RECORDS.is_dir():
        pytest.skip("the records in reproduce are not here")
    lines = (RECORDS / "first-hour" / "gradr" / "metrics.jsonl").read_text().splitlines()
    record = json.loads(lines[-1])
    left = expected_connectivity(0.05, record["step"], schedule=Cosine(1.0, 0.01), theta=[0.018])
    assert left < 0.02 < record["connectivity"]


# Table 4 of Chen et al. 2021, MNIST
TABLE_4 = {5e-3: 0.2571, 1e-2: 0.1794, 5e-2: 0.0563, 1e-1: 0.0306, 2e-1: 0.0138}


@pytest.mark.parametrize("left_out", TABLE_4)
def test_runs_among_each_other_tell_the_one_left_out(left_out):
    others = {alpha: found for alpha, found in TABLE_4.items() if alpha != left_out}
    found = alpha_among(TABLE_4[left_out], others)
    assert 0.8 < found / left_out < 1.25


def test_recorded_runs_tell_the_one_left_out():
    files = {a: RECORDS / f"paper-g/mnist-gradr-{a:g}/report.json" for a in TABLE_4}
    if not all(file.is_file() for file in files.values()):
        pytest.skip("the records of reproduce/paper-g are not all here")
    runs = {a: json.loads(file.read_text())["connectivity"] for a, file in files.items()}
    for left_out, connectivity in runs.items():
        others = {alpha: found for alpha, found in runs.items() if alpha != left_out}
        assert 0.8 < alpha_among(connectivity, others) / left_out < 1.25


@given(
    st.floats(1e-4, 1.0),
    st.floats(-2.0, -0.2),
    st.lists(st.floats(1e-4, 1.0), min_size=2, max_size=5, unique=True),
    st.floats(1e-4, 1.0),
)
def test_a_power_law_is_met_exactly(scale, power, alphas, wanted):
    # two runs that hardly differ tell a slope no better than rounding does
    assume(all(high / low > 1.01 for low, high in pairwise(sorted(alphas))))
    runs = {alpha: scale * alpha**power for alpha in alphas}
    expected = (wanted / scale) ** (1 / power)
    assert alpha_among(wanted, runs) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: alpha_among(0.0, {0.1: 0.2, 0.2: 0.1}), "connectivity=0.0"),
        (lambda: alpha_among(0.1, {0.1: 0.2}), "two runs or more"),
        (lambda: alpha_among(0.1, {0.0: 0.5, 0.2: 0.1}), "all above 0"),
        (lambda: alpha_among(0.1, {0.1: 0.1, 0.2: 0.1}), "fewer synapses"),
        (lambda: expected_connectivity(-1.0, 10), "alpha=-1.0"),
        (lambda: expected_connectivity(0.1, 0), "steps=0"),
        (lambda: expected_connectivity(0.1, 10, lr=0.0), "lr=0.0"),
        (lambda: expected_connectivity(0.1, 10, theta=[]), "theta is empty"),
        (lambda: alpha_for(0.6, 10), "noise alone leaves 0.500"),
        (lambda: alpha_for(0.0, 10), "connectivity=0.0"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call()
