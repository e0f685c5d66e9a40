"""Entropy: by hand, and the inequalities that the paper derives from it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikewire.entropy import joint_entropy, neuron_entropy, redundancy

SPIKES = st.tuples(
    st.integers(1, 40), st.integers(1, 5), st.integers(0, 2**31), st.floats(0, 1)
).map(lambda args: torch.rand(args[:2], generator=torch.Generator().manual_seed(args[2])) < args[3])


def test_a_neuron_by_hand():
    quarter = 0.25 * 2 + 0.75 * math.log2(4 / 3)
    rates = torch.tensor([0.25, 0.75, 0.5], dtype=torch.float64)
    assert neuron_entropy(rates).tolist() == pytest.approx([quarter, quarter, 1.0], rel=1e-12)
    assert (
        neuron_entropy(torch.linspace(0, 0.5, 20)).diff().min() > 0
    )  # nearer to one half tells more


def test_patterns_by_hand():
    spikes = torch.tensor([[0, 0], [0, 0], [1, 1], [0, 1]])
    assert joint_entropy(spikes) == pytest.approx(0.5 + 0.5 + 0.5)
    first, second = 0.25 * 2 + 0.75 * math.log2(4 / 3), 1.0
    assert redundancy(spikes) == pytest.approx(first + second - 1.5)


def test_independent_neurons_say_nothing_twice():
    every = torch.cartesian_prod(*[torch.tensor([0, 0, 1])] * 3)  # rates of 1/3, all combinations
    assert redundancy(every) == pytest.approx(0.0, abs=1e-12)
    copies = every[:, :1].expand(-1, 3)
    assert joint_entropy(copies) == pytest.approx(
        float(neuron_entropy(torch.tensor(1 / 3))), rel=1e-6
    )


@given(SPIKES)
@settings(deadline=None)
def test_a_map_tells_at_most_what_its_neurons_tell(spikes):
    moments, neurons = spikes.shape
    assert redundancy(spikes) > -1e-9
    assert -1e-9 < joint_entropy(spikes) <= min(math.log2(moments), neurons) + 1e-9
    assert joint_entropy(spikes) == pytest.approx(joint_entropy(~spikes), abs=1e-12)


@pytest.mark.parametrize(
    "rates", [torch.tensor([-0.1]), torch.tensor([1.1]), torch.tensor([math.nan])]
)
def test_rates_are_shares(rates):
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        neuron_entropy(rates)


@pytest.mark.parametrize("shape", [(3,), (0, 4), (2, 3, 4)])
def test_spikes_are_moments_and_neurons(shape):
    with pytest.raises(ValueError, match=r"moments, neurons"):
        joint_entropy(torch.zeros(shape))
