"""UPF against the explicit network that it stands for, with torch's own derivatives, in float64."""

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn
from torch.nn.functional import conv2d, linear, max_pool2d

from spikewire import UPF, Pruner
from spikewire.measure import places
from spikewire.methods.gates import _NEURONS, _WEIGHTS

STEPS, SEARCH, RATE, PENALTY = 20, 12, 0.05, 1.0


def lif():
    return neuron.LIFNode(
        v_threshold=0.1, surrogate_function=surrogate.ATan(), detach_reset=True, step_mode="m"
    )


class Net(nn.Sequential):
    """(T, B, 1, 6, 6) to (T, B, 4); places: 36, 4, 1; synapses when unfolded: 648 + 96 + 48."""

    def __init__(self):
        super().__init__(
            layer.Conv2d(1, 2, 3, padding=1, bias=False, step_mode="m"),
            lif(),
            layer.MaxPool2d(2, step_mode="m"),
            layer.Conv2d(2, 3, 2, bias=False, step_mode="m"),
            lif(),
            layer.Flatten(step_mode="m"),
            layer.Linear(12, 4, bias=False, step_mode="m"),
        )
        self.double()
        with torch.no_grad():
            for weight in self.parameters():
                weight.mul_(4.0)  # so that there are spikes behind gates that are half closed


TENSORS = ("0.weight", "3.weight", "6.weight")
PLACES = {"0.weight": 36, "3.weight": 4, "6.weight": 1}


def batch(step):
    random = torch.Generator().manual_seed(step)
    xs = 3 * torch.rand(3, 5, 1, 6, 6, generator=random, dtype=torch.float64)
    return xs, xs.mean(0)[:, 0, 1, :4]


def loss_of(outputs, wanted):
    return (outputs.mean(0) - wanted).square().sum()


class Explicit:
    """The paper's form: masks on weights, masks on the spikes of neurons, one penalty, autograd.

    Neurons of the first layer have a mask for each map, those of the second one for each neuron.
    """

    def __init__(self, net):
        self.theta = {name: net.get_parameter(name).detach().clone() for name in TENSORS}
        self.a = {name: torch.zeros_like(value) for name, value in self.theta.items()}
        self.b = {
            "3.weight": torch.zeros(2, dtype=torch.float64),
            "6.weight": torch.zeros(12, dtype=torch.float64),
        }
        logits = [*self.a.values(), *self.b.values()]
        for value in (*self.theta.values(), *logits):
            value.requires_grad_()
        self.sgd = torch.optim.SGD(self.theta.values(), 0.01)
        self.adam = torch.optim.Adam(logits, RATE)

    def masks(self, beta):
        if beta is None:
            return tuple(
                {n: (v > 0).double() for n, v in logit.items()} for logit in (self.a, self.b)
            )
        return tuple(
            {n: (beta * v).sigmoid() for n, v in each.items()} for each in (self.a, self.b)
        )

    def outputs(self, xs, beta):
        weight, spike = self.masks(beta)
        w = {name: weight[name] * self.theta[name] for name in TENSORS}
        x = conv2d(xs.flatten(0, 1), w["0.weight"], padding=1)
        x = lif()(x.unflatten(0, xs.shape[:2])) * spike["3.weight"].view(2, 1, 1)
        x = conv2d(max_pool2d(x.flatten(0, 1), 2), w["3.weight"])
        x = lif()(x.unflatten(0, xs.shape[:2])).flatten(2) * spike["6.weight"]
        return linear(x, w["6.weight"])

    def penalty(self, beta):
        weight, spike = self.masks(beta)
        paid = sum(PLACES[name] * weight[name].sum() for name in TENSORS)
        # a map of the first layer has 4 places x 3 maps x 4 weights, a neuron of the second 4
        return PENALTY / 792 * (paid + 48 * spike["3.weight"].sum() + 4 * spike["6.weight"].sum())

    def step(self, step):
        xs, wanted = batch(step)
        beta = 5 * 200 ** (step / SEARCH) if step < SEARCH else None
        for optimizer in (self.sgd, self.adam):
            optimizer.zero_grad()
        loss = loss_of(self.outputs(xs, beta), wanted)
        (loss + self.penalty(beta) if beta else loss).backward()
        self.sgd.step()
        if beta:
            self.adam.step()

    def weights(self, step):
        """What the network multiplies with after so many steps."""
        weight, spike = self.masks(5 * 200 ** (step / SEARCH) if step < SEARCH else None)
        inputs = {"0.weight": 1.0, "3.weight": spike["3.weight"].view(2, 1, 1)}
        inputs["6.weight"] = spike["6.weight"]
        return {name: weight[name] * inputs[name] * self.theta[name] for name in TENSORS}


def set_up(**options):
    torch.manual_seed(0)
    net = Net()
    sgd = torch.optim.SGD(net.parameters(), 0.01)
    method = UPF(**{"penalty": PENALTY, "rate": RATE, "until": SEARCH / STEPS} | options)
    return net, sgd, Pruner(net, method, sgd, steps=STEPS, data=[batch(0)[0]])


def train(net, sgd, steps):
    for step in steps:
        xs, wanted = batch(step)
        sgd.zero_grad()
        loss_of(net(xs), wanted).backward()
        functional.reset_net(net)
        sgd.step()


def test_every_step_is_that_of_the_explicit_network():
    net, sgd, pruner = set_up()
    torch.manual_seed(0)
    explicit = Explicit(Net())
    for step in range(STEPS):
        for name, expected in explicit.weights(step).items():
            assert torch.allclose(net.get_parameter(name), expected, rtol=1e-9, atol=1e-12), step
        if step < SEARCH:
            for s in pruner:
                assert torch.allclose(s.state[_WEIGHTS], explicit.a[s.name], rtol=1e-7, atol=1e-12)
                if s.name in explicit.b:
                    b = explicit.b[s.name]
                    assert torch.allclose(s.state[_NEURONS].flatten(), b, rtol=1e-7, atol=1e-12)
        train(net, sgd, [step])
        explicit.step(step)
    assert 0.1 < pruner.sparsity < 0.9
    closed = [float((b <= 0).double().mean()) for b in explicit.b.values()]
    assert max(closed) > 0  # neurons were taken out as well


def test_what_survives_is_what_has_positive_logits_with_theta_for_its_weight():
    net, sgd, pruner = set_up()
    train(net, sgd, range(SEARCH - 1))
    assert pruner.sparsity == 0.0
    xs, wanted = batch(SEARCH - 1)
    sgd.zero_grad()
    loss_of(net(xs), wanted).backward()
    pruner.before_step()
    logits = {s.name: (s.state[_WEIGHTS].clone(), s.state.get(_NEURONS)) for s in pruner}
    pruner.after_step()
    for s in pruner:
        a, b = logits[s.name]
        assert s.mask.equal((a > 0) & (b > 0) if b is not None else a > 0)
        assert not s.state
    assert 0.1 < pruner.sparsity < 0.9


def test_kappas_are_counted_in_the_unfolded_network():
    _, _, pruner = set_up()
    kappas = {s.name: round(792 * float(s.state["kappa"]), 6) for s in pruner}
    assert kappas == PLACES


def test_only_inputs_from_other_layers_have_gates():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(16, 2)
    )
    pruner = Pruner(net, UPF(), steps=4, data=[torch.rand(2, 1, 6, 6)])
    shapes = {s.name: s.state[_NEURONS].shape if _NEURONS in s.state else None for s in pruner}
    assert shapes == {"0.weight": None, "1.weight": None, "3.weight": (1, 16)}
    pruner = Pruner(net, UPF(neurons=False), steps=4, data=[torch.rand(2, 1, 6, 6)])
    assert not any(_NEURONS in s.state for s in pruner)


def test_birth_decides_how_open_gates_are():
    torch.manual_seed(0)
    before = Net().get_parameter("3.weight").detach()
    for birth in (0.0, 0.2):
        net, _, _ = set_up(birth=birth)
        gate = float(torch.tensor(5 * birth).sigmoid())
        assert torch.allclose(net.get_parameter("3.weight"), gate**2 * before)


def test_a_training_that_ends_early_has_masks_all_the_same():
    net, sgd, pruner = set_up()
    train(net, sgd, range(8))
    theta = {s.name: s.state["theta"].clone() for s in pruner}
    with pytest.warns(UserWarning, match="finish"):
        masks = pruner.finish()
    assert 0.1 < pruner.sparsity < 0.9
    for name, mask in masks.items():
        assert net.get_parameter(name).equal(theta[name] * mask)


def test_a_larger_penalty_leaves_fewer_unfolded_synapses():
    left = []
    for penalty in (0.0, 1.0, 5.0):
        net, sgd, pruner = set_up(penalty=penalty)
        train(net, sgd, range(STEPS))
        pruner.finish()
        used = places(net, batch(0)[0])
        left.append(sum(used[s.name] * s.alive for s in pruner))
    assert left[0] > left[1] > left[2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"penalty": -0.1}, "0 or more"),
        ({"rate": 0.0}, "above 0"),
        ({"until": 0.0}, r"\(0, 1\]"),
        ({"soft": 0.0}, "above 0"),
        ({"soft": 5.0, "hard": 4.0}, "no smaller"),
    ],
)
def test_refusals(options, words):
    with pytest.raises(ValueError, match=words):
        UPF(**options)


def test_it_says_that_it_needs_data():
    with pytest.raises(ValueError, match="UPF looks at the network at work: give data="):
        Pruner(Net(), UPF(), steps=4)
