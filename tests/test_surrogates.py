"""Surrogates: formulas in float64, slopes against autograd, training with each of them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from spikingjelly.activation_based import neuron, surrogate

from spikewire.nets.neurons import LIF
from spikewire.surrogates import SURROGATES, Arctan, Sigmoid, Tanh

X = torch.linspace(-3, 3, 601, dtype=torch.float64)
STEEPNESS = st.floats(0.2, 20.0)


@given(st.sampled_from(sorted(SURROGATES)), STEEPNESS)
def test_the_slope_is_the_derivative_of_the_value(name, steepness):
    one, x = SURROGATES[name](steepness), X.clone().requires_grad_()
    (derivative,) = torch.autograd.grad(one.value(x).sum(), x)
    assert torch.allclose(derivative, one.slope(X), atol=1e-9)


@given(st.sampled_from(sorted(SURROGATES)), STEEPNESS)
def test_a_surrogate_rises_from_0_to_1_through_one_half(name, steepness):
    value = SURROGATES[name](steepness).value(X)
    assert ((value > -1e-12) & (value < 1 + 1e-12)).all() and (value.diff() > -1e-12).all()
    assert torch.allclose(value + value.flip(0), torch.ones_like(value))


@pytest.mark.parametrize(
    ("one", "formula"),
    [
        (Arctan(3.0), lambda x: 1.5 / (1 + (1.5 * math.pi * x) ** 2)),
        (Sigmoid(4.0), lambda x: 1 / math.cosh(2 * x) ** 2),
        (Tanh(3.0), lambda x: 3 / math.cosh(3 * x) ** 2 / (2 * math.tanh(1.5)) * (abs(x) <= 0.5)),
    ],
)
def test_slopes_by_formula(one, formula):
    assert one.slope(X).tolist() == pytest.approx([formula(x) for x in X.tolist()], rel=1e-9)


@pytest.mark.parametrize("name", sorted(SURROGATES))
@pytest.mark.parametrize("detach_reset", [True, False])
def test_networks_train_with_each(name, detach_reset):
    """Our pass over time and SpikingJelly's own, with the same surrogate."""
    one = SURROGATES[name]()
    theirs = neuron.LIFNode(
        tau=2.0, surrogate_function=one, detach_reset=detach_reset, step_mode="m"
    )
    currents = torch.randn(6, 4, 5, dtype=torch.float64) * 2
    weights = torch.randn(6, 4, 5, dtype=torch.float64)
    gradients = []
    for layer in (LIF(surrogate=name, detach_reset=detach_reset), theirs):
        x = currents.clone().requires_grad_()
        spikes = layer(x)
        (spikes * weights).sum().backward()
        gradients.append(x.grad)
    assert torch.allclose(*gradients, atol=1e-12) and gradients[0].abs().sum() > 0


def test_arctan_is_that_of_spikingjelly():
    ours, theirs = X.clone().requires_grad_(), X.clone().requires_grad_()
    assert torch.equal(Arctan()(ours), surrogate.ATan()(theirs))
    Arctan()(ours).sum().backward()
    surrogate.ATan()(theirs).sum().backward()
    assert torch.allclose(ours.grad, theirs.grad)


@pytest.mark.parametrize("kind", SURROGATES.values())
@pytest.mark.parametrize("steepness", [0.0, -1.0, float("nan")])
def test_a_steepness_that_is_none_is_refused(kind, steepness):
    with pytest.raises(ValueError, match="above 0"):
        kind(steepness)
