"""Traced networks: what the program computes is what the network does, or a reason is given."""

import copy
import math

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import layer, neuron, surrogate
from torch import nn
from torch.nn.utils import prune

from spikewire.dialects import reset
from spikewire.nets import ALIF, LIF, NETS, Repeat, net
from spikewire.nets.forms import NormEachStep
from spikewire.runtime.program import Convolution
from spikewire.runtime.reference import trace
from spikewire.runtime.trace import program_of


class Forward(nn.Module):
    """A network with a forward pass of its own: a function of its parts and the input."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x):
        return self.function(self, x)


def shaped(outputs, value):
    """Outputs of PyTorch as a program has them: (T or 1, B, C, H, W)."""
    lead = outputs.shape[:2] if value.sequence else (1, len(outputs))
    return outputs.reshape(*lead, *value.shape)


def found(program, x):
    """Outputs of the reference."""
    return torch.from_numpy(trace(program, shaped(x, program.input).numpy()).values[-1])


def wanted(model, x, program):
    """Outputs of the network in evaluation mode."""
    model.eval()
    with torch.no_grad():
        outputs = model(x)
    reset(model)
    return shaped(outputs, program.values[-1])


def assert_close(model, x):
    """The program gives what the network does; returns the program."""
    program = program_of(model, x)
    torch.testing.assert_close(found(program, x), wanted(model, x, program), rtol=1e-5, atol=1e-5)
    return program


def names(program):
    return [step.name for step in program.steps]


def normal(norm):
    """A normalisation that does something."""
    for tensor in (norm.running_mean, norm.bias):
        nn.init.normal_(tensor)
    for tensor in (norm.running_var, norm.weight):
        nn.init.uniform_(tensor, 0.5, 2.0)
    return norm


# --- neurons --------------------------------------------------------------------------------------

T, B, N = 12, 5, 40
EXACT = {  # with these, all sums are exact: currents are multiples of 1/64, the membrane halves
    "IF": lambda v: neuron.IFNode(v_reset=v, step_mode="m"),
    "LIF": lambda v: neuron.LIFNode(2.0, v_reset=v, step_mode="m"),
    "LIF, current undivided": lambda v: neuron.LIFNode(2.0, False, v_reset=v, step_mode="m"),
    "PLIF": lambda v: neuron.ParametricLIFNode(2.0, v_reset=v, step_mode="m"),
    "PLIF, current undivided": lambda v: neuron.ParametricLIFNode(
        2.0, False, v_reset=v, step_mode="m"
    ),
}
ROUNDED = {
    "LIF": lambda v: neuron.LIFNode(4 / 3, v_reset=v, step_mode="m"),
    "LIF, current undivided": lambda v: neuron.LIFNode(4 / 3, False, v_reset=v, step_mode="m"),
    "PLIF": lambda v: neuron.ParametricLIFNode(4 / 3, v_reset=v, step_mode="m"),
    "PLIF, current undivided": lambda v: neuron.ParametricLIFNode(
        4 / 3, False, v_reset=v, step_mode="m"
    ),
}


def assert_same_spikes(node, x):
    program = program_of(nn.Sequential(node), x)
    spikes = wanted(node, x, program)
    assert 0.1 < spikes.mean() < 0.9
    assert torch.equal(found(program, x), spikes)


@pytest.mark.parametrize("v_reset", [0.0, 0.25, -0.5, None])
@pytest.mark.parametrize("kind", EXACT)
def test_neurons_whose_sums_are_exact(kind, v_reset):
    assert_same_spikes(EXACT[kind](v_reset), torch.randint(-32, 192, (T, B, N)) / 64)


@pytest.mark.parametrize("v_reset", [0.0, 0.25, -0.5, None])
@pytest.mark.parametrize("kind", ROUNDED)
def test_neurons_whose_sums_are_rounded(kind, v_reset):
    """None of these 2400 potentials happens to lie within rounding of the threshold."""
    assert_same_spikes(ROUNDED[kind](v_reset), torch.randn(T, B, N) + 0.75)


@pytest.mark.parametrize("tau", [2.0, 4 / 3])
@pytest.mark.parametrize("decay_input", [True, False])
def test_neurons_of_the_reference_networks(tau, decay_input):
    x = torch.randint(-32, 192, (T, B, N)) / 64 if tau == 2.0 else torch.randn(T, B, N) + 0.75
    assert_same_spikes(LIF(tau, decay_input=decay_input, v_threshold=0.5), x)


def test_neurons_with_another_threshold():
    x = torch.randint(-32, 192, (T, B, N)) / 64
    assert_same_spikes(neuron.IFNode(v_threshold=1.75, step_mode="m"), x)


def test_leaks_that_were_learnt():
    node = neuron.ParametricLIFNode(step_mode="m")
    with torch.no_grad():
        node.w.fill_(0.3)
    assert_same_spikes(node, torch.randn(T, B, N) + 0.75)


def test_neurons_with_adaptive_thresholds():
    node = ALIF(torch.linspace(0.0, 5.0, N), tau=5.0, tau_b=8.0)
    node.step_mode = "m"
    assert_same_spikes(node, torch.rand(T, B, N))


# --- layers ---------------------------------------------------------------------------------------

FEATURES, IMAGES = (3, 6), (3, 4, 8, 8)
LAYERS = {
    "linear": (lambda: nn.Linear(6, 5), FEATURES),
    "linear without bias": (lambda: nn.Linear(6, 5, bias=False), FEATURES),
    "identity": (lambda: nn.Sequential(nn.Linear(6, 5), nn.Identity()), FEATURES),
    "norm1d": (lambda: nn.Sequential(nn.Linear(6, 5), normal(nn.BatchNorm1d(5))), FEATURES),
    "dropout": (lambda: nn.Sequential(nn.Dropout(), nn.Linear(6, 5)), FEATURES),
    "conv": (lambda: nn.Conv2d(4, 5, 3), IMAGES),
    "conv without bias": (lambda: nn.Conv2d(4, 5, 3, bias=False), IMAGES),
    "conv, stride": (lambda: nn.Conv2d(4, 5, 3, stride=(2, 3)), IMAGES),
    "conv, padding": (lambda: nn.Conv2d(4, 5, (3, 1), padding=(2, 1)), IMAGES),
    "conv, dilation": (lambda: nn.Conv2d(4, 5, 3, dilation=(2, 3)), IMAGES),
    "conv, groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), IMAGES),
    "conv, each channel": (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4), IMAGES),
    "norm2d": (lambda: nn.Sequential(nn.Conv2d(4, 5, 3), normal(nn.BatchNorm2d(5))), IMAGES),
    "dropout2d": (lambda: nn.Sequential(nn.Dropout2d(), nn.Conv2d(4, 5, 1)), IMAGES),
    "max": (lambda: nn.MaxPool2d(2), IMAGES),
    "max, stride and padding": (lambda: nn.MaxPool2d((3, 2), (2, 1), (1, 0)), IMAGES),
    "average": (lambda: nn.AvgPool2d(2), IMAGES),
    "average, stride": (lambda: nn.AvgPool2d((3, 2), 1), IMAGES),
    "adaptive": (lambda: nn.AdaptiveAvgPool2d(2), IMAGES),
    "adaptive, pair": (lambda: nn.AdaptiveAvgPool2d((1, None)), IMAGES),
    "flatten": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(256, 5)), IMAGES),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_on_images(kind):
    build, shape = LAYERS[kind]
    assert_close(nn.Sequential(build(), Repeat(2)), torch.randn(shape))


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_on_sequences_in_a_container(kind):
    build, shape = LAYERS[kind]
    parts = build()
    parts = parts if isinstance(parts, nn.Sequential) else [parts]
    assert_close(nn.Sequential(layer.SeqToANNContainer(*parts)), torch.randn(2, *shape))


SEQUENCES = {
    "linear": (lambda: layer.Linear(6, 5, step_mode="m"), FEATURES),
    "norm1d": (lambda: normal(layer.BatchNorm1d(6, step_mode="m")), FEATURES),
    "dropout": (lambda: layer.Dropout(step_mode="m"), FEATURES),
    "vote": (lambda: layer.VotingLayer(3, step_mode="m"), FEATURES),
    "conv": (lambda: layer.Conv2d(4, 6, 3, 2, 1, groups=2, step_mode="m"), IMAGES),
    "norm2d": (lambda: normal(layer.BatchNorm2d(4, step_mode="m")), IMAGES),
    "norm of each step": (lambda: normal(NormEachStep(4)), IMAGES),
    "dropout2d": (lambda: layer.Dropout2d(step_mode="m"), IMAGES),
    "max": (lambda: layer.MaxPool2d(3, 2, 1, step_mode="m"), IMAGES),
    "average": (lambda: layer.AvgPool2d(2, step_mode="m"), IMAGES),
    "adaptive": (lambda: layer.AdaptiveAvgPool2d((4, 2), step_mode="m"), IMAGES),
    "flatten": (lambda: layer.Flatten(step_mode="m"), IMAGES),
}


@pytest.mark.parametrize("kind", SEQUENCES)
def test_layers_on_sequences(kind):
    build, shape = SEQUENCES[kind]
    spikes = neuron.IFNode(step_mode="m")  # a network that does nothing is none
    assert_close(nn.Sequential(spikes, build()), 2 * torch.randn(2, *shape))


def test_normalisation_goes_into_the_weights_before_it():
    norms = (nn.BatchNorm2d(5), NormEachStep(3))
    model = nn.Sequential(
        nn.Conv2d(4, 5, 3, bias=False),
        nn.Identity(),
        normal(norms[0]),
        Repeat(2),
        layer.Conv2d(5, 3, 3, step_mode="m"),
        normal(norms[1]),
    )
    program = assert_close(model, torch.randn(IMAGES))
    assert names(program) == ["0", "3", "4"]


@pytest.mark.parametrize("affine", [True, False])
def test_normalisation_without_weights_before_it_stands_alone(affine):
    norm = nn.BatchNorm2d(4, affine=affine)
    nn.init.normal_(norm.running_mean)
    model = nn.Sequential(nn.MaxPool2d(2), norm, Repeat(2))
    assert names(assert_close(model, torch.randn(IMAGES))) == ["0", "1", "2"]


def test_weights_that_something_else_sees_keep_their_values():
    def forward(self, x):
        before = self.same(self.conv(x))
        return self.repeat(self.norm(before) + before)

    parts = {"conv": nn.Conv2d(4, 5, 3), "same": nn.Identity(), "norm": normal(nn.BatchNorm2d(5))}
    program = assert_close(Forward(forward, repeat=Repeat(2), **parts), torch.randn(IMAGES))
    assert names(program) == ["conv", "norm", "add", "repeat"]


def test_normalisation_may_come_first():
    assert_close(nn.Sequential(normal(nn.BatchNorm2d(4)), Repeat(2)), torch.randn(IMAGES))


# --- forward functions ----------------------------------------------------------------------------


def after(function, **parts):
    """What follows a layer of neurons."""
    neurons = neuron.IFNode(step_mode="m")
    return Forward(lambda self, x: function(self, self.neurons(x)), neurons=neurons, **parts)


def reshaped(self, x):
    return self.fc(x.reshape(x.shape[0], x.size(1), -1))


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: self.fc(x.flatten(2)),
        lambda self, x: self.fc(x.flatten(start_dim=2)),
        lambda self, x: self.fc(torch.flatten(x, 2)),
        lambda self, x: self.fc(x.view(x.shape[0], x.shape[1], -1)),
        reshaped,
        lambda self, x: self.fc(torch.reshape(x, (2, 3, 256))),
    ],
)
def test_ways_to_flatten(function):
    x = 2 * torch.randn(2, *IMAGES)
    assert_close(after(function, fc=layer.Linear(256, 5, step_mode="m")), x)


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: self.fc(x).unsqueeze(0).repeat(4, 1, 1),
        lambda self, x: self.fc(x).repeat(4, 1, 1),
        lambda self, x: self.fc(x).unsqueeze(0).expand(4, -1, -1),
        lambda self, x: self.fc(x).expand(4, x.shape[0], -1),
        lambda self, x: self.fc(x.unsqueeze(0).repeat(4, 1, 1)),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_ways_to_repeat(function, batch):
    program = assert_close(Forward(function, fc=nn.Linear(6, 5)), torch.randn(batch, 6))
    assert program.T == 4


def test_images_are_repeated_as_well():
    def forward(self, x):
        return self.conv(x.unsqueeze(0).repeat(4, 1, 1, 1, 1))

    conv = layer.Conv2d(4, 5, 3, step_mode="m")
    assert_close(Forward(forward, conv=conv), torch.randn(IMAGES))


def accumulated(self, x):
    current = self.a(x)
    current += self.b(x)
    return current


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: self.a(x) + x,
        lambda self, x: x + self.a(x) + self.b(x),
        lambda self, x: torch.add(self.a(x), x),
        lambda self, x: self.a(x).add(x),
        lambda self, x: self.a(x).add_(x),
        accumulated,
    ],
)
def test_ways_to_add(function):
    parts = {name: layer.Conv2d(4, 4, 3, padding=1, step_mode="m") for name in "ab"}
    assert_close(after(function, **parts), 2 * torch.randn(2, *IMAGES))


def test_a_still_current_is_added_at_each_step():
    model = Forward(
        lambda self, x: self.repeat(self.a(x)) + self.b(x),
        a=nn.Linear(6, 5),
        b=nn.Linear(6, 5),
        repeat=Repeat(3),
    )
    assert_close(model, torch.randn(FEATURES))


@pytest.mark.parametrize(
    "mean", [lambda x: x.mean(0), lambda x: x.mean(dim=0), lambda x: torch.mean(x, 0)]
)
def test_a_mean_over_time_at_the_end(mean):
    model = Forward(lambda self, x: mean(self.fc(x)), fc=layer.Linear(6, 5))
    x = torch.randn(4, 3, 6)
    outputs = found(program_of(model, x), x).mean(0).flatten(1)
    torch.testing.assert_close(outputs, model(x), rtol=1e-5, atol=1e-5)


# the others have neurons, or a way through them, of their own
@pytest.mark.parametrize("name", sorted(NETS.keys() - {"lsnn", "diehl-cook", "sampling-machine"}))
def test_reference_networks_are_known(name):
    small = {"fc": {}, "fc3": {}, "tiny": {}, "conv6fc2": {"width": 4}}.get(name, {"width": 2})
    model = net(name, **small) if name == "fc3" else net(name, T=2, **small)
    shapes = {"fc": (1, 1, 28, 28), "fc3": (2, 1, 24), "tiny": (1, 1, 8, 8)}
    program = program_of(model, torch.rand(*shapes.get(name, (1, 3, 32, 32))))
    layers = [step for step in program.steps if isinstance(step.operation, Convolution)]
    weights = [p for p in model.parameters() if p.ndim > 1]
    assert program.T == 2
    assert [math.prod(step.operation.weight.shape) for step in layers] == [
        p.numel() for p in weights
    ]


# --- refusals -------------------------------------------------------------------------------------


class Exponential(neuron.LIFNode):
    """Equations of its own."""

    def single_step_functional_forward(self, inputs, states, **kwargs):
        return super().single_step_functional_forward((inputs[0].exp(),), states, **kwargs)


def recurrent(self, x):
    spikes = 0.0
    for current in x:
        spikes = self.neurons(self.a(current) + spikes)
    return spikes


def ending(function):
    """Two linear layers, and what is done with them."""
    return Forward(function, a=layer.Linear(6, 6), b=layer.Linear(6, 6))


SHARED = layer.Linear(6, 6)
FIRING = surrogate.ATan(spiking=False)
SERIES, MAPS = (2, *FEATURES), (2, *IMAGES)
REFUSALS = {
    "unknown layer": (
        nn.Sequential(layer.Linear(6, 5), nn.ReLU()),
        SERIES,
        r"1 \(ReLU\): ReLU is none of the layers that are known",
    ),
    "unknown layer in a container": (
        layer.SeqToANNContainer(nn.Linear(6, 5), nn.ReLU()),
        SERIES,
        r"ReLU is none of the layers that are known",
    ),
    "neurons with equations of their own": (
        nn.Sequential(layer.Linear(6, 5), Exponential(step_mode="m")),
        SERIES,
        r"1 \(Exponential\): Exponential is none of the layers",
    ),
    "circular padding": (
        nn.Conv2d(4, 5, 3, padding=1, padding_mode="circular"),
        IMAGES,
        r"\(Conv2d\): its padding is circular \(1, 1\), not so many zeros",
    ),
    "padding by a word": (
        nn.Conv2d(4, 5, 3, padding="same"),
        IMAGES,
        r"\(Conv2d\): its padding is zeros same, not so many zeros",
    ),
    "no running statistics": (
        nn.Sequential(nn.MaxPool2d(2), nn.BatchNorm2d(4, track_running_stats=False)),
        IMAGES,
        r"1 \(BatchNorm2d\): .* it has no running statistics",
    ),
    "neurons for single steps": (
        nn.Sequential(layer.Linear(6, 5), neuron.IFNode()),
        SERIES,
        r'1 \(IFNode\): its step_mode is "s": the engine takes whole sequences',
    ),
    "neurons that do not spike": (
        nn.Sequential(neuron.IFNode(surrogate_function=FIRING, step_mode="m")),
        SERIES,
        r"0 \(IFNode\): its surrogate gives no spikes \(spiking=False\)",
    ),
    "neurons before time": (
        nn.Sequential(nn.Linear(6, 5), neuron.IFNode(step_mode="m")),
        FEATURES,
        r"1 \(IFNode\): a layer of neurons needs a sequence: repeat its current first",
    ),
    "the same layer twice": (
        nn.Sequential(SHARED, neuron.IFNode(step_mode="m"), SHARED),
        SERIES,
        "0 is used twice: give each use a layer of its own",
    ),
    "max-pooling beyond the edge": (
        nn.MaxPool2d(3, ceil_mode=True),
        IMAGES,
        r"\(MaxPool2d\): only plain max-pooling is known: no dilation, ceil_mode",
    ),
    "dilated max-pooling": (
        nn.MaxPool2d(2, dilation=2),
        IMAGES,
        r"\(MaxPool2d\): only plain max-pooling is known",
    ),
    "averages beyond the edge": (
        nn.AvgPool2d(3, ceil_mode=True),
        IMAGES,
        r"\(AvgPool2d\): only plain averages are known",
    ),
    "averages divided otherwise": (
        nn.AvgPool2d(2, divisor_override=3),
        IMAGES,
        r"\(AvgPool2d\): only plain averages are known",
    ),
    "padded averages": (
        nn.AvgPool2d(3, padding=1),
        IMAGES,
        r"\(AvgPool2d\): padding of an average is not understood",
    ),
    "uneven parts": (
        nn.AdaptiveAvgPool2d(3),
        IMAGES,
        r"\(AdaptiveAvgPool2d\): 8 x 8 is not divided evenly into 3 x 3",
    ),
    "maps into a linear layer": (
        nn.Linear(8, 5),
        IMAGES,
        r"\(Linear\): a linear layer must have flat features before it",
    ),
    "voters of the wrong number": (
        layer.VotingLayer(4, step_mode="m"),
        SERIES,
        r"\(VotingLayer\): a vote of 4 does not fit a value of shape \(6, 1, 1\)",
    ),
    "other time steps": (
        nn.Sequential(layer.Linear(6, 5), Repeat(3)),
        SERIES,
        r"1 \(Repeat\): it has 3 time steps, others have 2",
    ),
    "no time steps": (
        nn.Linear(6, 5),
        FEATURES,
        "this network has no time steps: there is nothing spiking to run",
    ),
    "nothing at all": (nn.Identity(), SERIES, "a program needs at least one step"),
    "recurrence": (
        Forward(recurrent, a=layer.Linear(6, 6), neurons=neuron.IFNode()),
        SERIES,
        r"cannot be traced \(.*its forward pass must not branch on values",
    ),
    "branches": (
        ending(lambda self, x: self.a(x) if x.sum() > 0 else self.b(x)),
        SERIES,
        r"cannot be traced \(.*its forward pass must not branch on values",
    ),
    "concatenation": (
        ending(lambda self, x: torch.cat([self.a(x), self.b(x)], -1)),
        SERIES,
        "cannot run cat: it is none of the functions that are known",
    ),
    "multiplication": (
        ending(lambda self, x: self.a(x) * self.b(x)),
        SERIES,
        "cannot run mul: it is none of the functions that are known",
    ),
    "a constant added": (
        ending(lambda self, x: self.a(x) + 1),
        SERIES,
        "cannot run add: it is none of the functions that are known",
    ),
    "a weighted sum": (
        ending(lambda self, x: torch.add(self.a(x), self.b(x), alpha=2)),
        SERIES,
        "cannot run add: it is none of the functions that are known",
    ),
    "a mean over samples": (
        ending(lambda self, x: self.a(x).mean(1)),
        SERIES,
        "cannot run mean: it is none of the functions that are known",
    ),
    "a mean before the end": (
        ending(lambda self, x: self.a(self.b(x).mean(0))),
        SERIES,
        "cannot run mean: it is none of the functions that are known",
    ),
    "time and samples as one": (
        ending(lambda self, x: self.a(x.flatten(0, 1))),
        SERIES,
        r"cannot run flatten: it gives a tensor of shape \(6, 6\)",
    ),
    "flattened too far": (
        nn.Sequential(layer.Flatten()),
        MAPS,
        r"\(Flatten\): it gives a tensor of shape \(2, 768\), the engine one of \(256, 1, 1\)",
    ),
    "samples as time steps": (
        Forward(lambda self, x: self.a(x).expand(4, -1), a=nn.Linear(6, 6)),
        (1, 6),
        r"cannot run expand: it gives a tensor of shape \(4, 6\)",
    ),
    "several outputs": (
        ending(lambda self, x: (self.a(x), self.b(x))),
        SERIES,
        "cannot run output: the network gives something else than one tensor",
    ),
    "an output from the middle": (
        ending(lambda self, x: [self.a(x), self.b(x)][0]),
        SERIES,
        "cannot run output: layers come after its output",
    ),
    "a vector": (layer.Linear(6, 5), (6,), r"example has shape \(6,\): give images \(B, C, H, W\)"),
}


@pytest.mark.parametrize("which", REFUSALS)
def test_refusals_name_the_layer_and_the_reason(which):
    model, shape, message = REFUSALS[which]
    with pytest.raises(ValueError, match=message):
        program_of(nn.Sequential(model), torch.randn(shape))


def test_a_second_input_is_refused():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = layer.Linear(6, 5)

        def forward(self, x, y=None):
            return self.fc(x)

    with pytest.raises(ValueError, match="cannot run y: the network takes more than one input"):
        program_of(Two(), torch.randn(SERIES))


def test_a_network_in_the_middle_of_a_sequence_is_refused():
    model = nn.Sequential(layer.Linear(6, 5), neuron.IFNode(step_mode="m"))
    model(torch.randn(SERIES))
    with pytest.raises(ValueError, match="not at rest: .* reset it first"):
        program_of(model, torch.randn(SERIES))


# --- what only looks like something else ---------------------------------------------------------


def renamed(self, x):
    current = self.a(x)
    total = current
    total += self.b(x)
    return current + total


def hooked(doubled=None):
    doubled = doubled or layer.Linear(6, 5)
    doubled.register_forward_hook(lambda module, inputs, outputs: 2 * outputs)
    return doubled


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        pytest.param(ending(renamed), SERIES, id="added in place, used by its other name"),
        pytest.param(nn.Sequential(hooked()), SERIES, id="a hook changes what a layer gives"),
        pytest.param(
            nn.Sequential(hooked(layer.SeqToANNContainer(nn.Linear(6, 5)))),
            SERIES,
            id="a hook changes what a container gives",
        ),
        pytest.param(
            nn.Sequential(layer.Linear(6, 6), normal(nn.BatchNorm1d(6))),
            (2, 6, 6),
            id="normalises samples, of which there happen to be as many as features",
        ),
        pytest.param(
            nn.Sequential(layer.Linear(6, 6), nn.MaxPool2d(3, 1, 1)),
            SERIES,
            id="pools samples and features",
        ),
    ],
)
def test_what_is_not_understood_is_refused(model, shape):
    with pytest.raises(ValueError, match="the engine cannot run|more than its graph shows"):
        program_of(model, torch.randn(shape))


@pytest.mark.parametrize("pool", [nn.MaxPool2d([2, 2]), nn.AdaptiveAvgPool2d([2, 2])])
def test_sizes_may_be_lists(pool):
    assert_close(nn.Sequential(pool, Repeat(2)), torch.randn(IMAGES))


def test_a_shape_that_is_unpacked_is_refused():
    model = Forward(lambda self, x: self.fc(x.expand(3, *x.shape)), fc=layer.Linear(6, 5))
    with pytest.raises(ValueError, match="nor unpack shapes"):
        program_of(model, torch.randn(FEATURES))


def test_an_example_of_another_shape_costs_one_sentence(capsys):
    with pytest.raises(ValueError, match="shape") as refusal:
        program_of(nn.Sequential(layer.Linear(6, 5)), torch.randn(2, 3, 7))
    assert "\n" not in str(refusal.value)
    assert capsys.readouterr().err == ""


def test_an_output_that_is_no_tensor_is_refused():
    with pytest.raises(ValueError, match="cannot run output"):
        program_of(ending(lambda self, x: self.a(x).shape[0]), torch.randn(SERIES))


def test_masks_of_torch_are_no_potentials():
    model = nn.Sequential(layer.Linear(6, 5), neuron.IFNode(step_mode="m"))
    prune.random_unstructured(model[0], "weight", 0.5)
    with pytest.raises(ValueError, match=r"permanent first \(prune.remove\)"):
        program_of(model, torch.randn(SERIES))


# --- the network afterwards -----------------------------------------------------------------------


def test_the_network_is_left_as_it_was():
    model = net("tiny", T=2).train()
    model.get_submodule("bn2").eval()
    model.get_submodule("conv1").weight.requires_grad_(False)
    model.get_submodule("lif1").v = torch.full((3, 16, 8, 8), 0.25)
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    program_of(model, torch.rand(3, 1, 8, 8))
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(model.get_submodule("lif1").v, torch.full((3, 16, 8, 8), 0.25))
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 8
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_program_keeps_its_weights_when_the_network_learns_on():
    fc = layer.Linear(6, 5)
    model, x = nn.Sequential(fc), torch.randn(SERIES)
    program, before = program_of(model, x), fc.weight.detach().clone()
    with torch.no_grad():
        fc.weight.zero_()
    assert np.array_equal(program.steps[0].operation.weight.dense()[..., 0, 0], before.numpy())
