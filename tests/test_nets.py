"""The networks and their neuron compute what SpikingJelly's own layers would."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

from spikewire import watch
from spikewire.nets import (
    ALIF,
    LIF,
    NETS,
    Repeat,
    conv3fc2,
    conv6fc2,
    fc,
    fc3,
    lsnn,
    net,
    resnet19,
    tiny,
    vgg16,
)
from spikewire.nets.forms import FORMS, NormEachStep
from spikewire.surrogates import Tanh

T = 6
BOTH = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
DETACH = pytest.mark.parametrize("detach_reset", [True, False])


def plain(tau=2.0, detach_reset=True, v_reset=0.0, decay_input=True) -> neuron.LIFNode:
    return neuron.LIFNode(
        tau=tau,
        decay_input=decay_input,
        v_reset=v_reset,
        surrogate_function=surrogate.ATan(),
        detach_reset=detach_reset,
        step_mode="m",
    )


def run(lif: nn.Module, current: Tensor, constant: bool) -> tuple[Tensor, ...]:
    """Two sequences on end; spikes, last potential and the gradient of something of them all."""
    leaf = current.clone().requires_grad_()
    x = leaf.expand(T, *leaf.shape) if constant else leaf
    first, second = lif(x), lif(x.flip(0) if not constant else x)
    weight = torch.linspace(-1, 2, first.numel(), dtype=x.dtype).view_as(first)
    (weight * first + weight.flip(0) * second).sum().add(lif.v.square().sum()).backward()
    assert leaf.grad is not None
    return first, second, lif.v, leaf.grad


@BOTH
@DETACH
@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("decay_input", [True, False])
@pytest.mark.parametrize(("tau", "v_reset"), [(2.0, 0.0), (1.7, -0.25)])
def test_lif_is_spikingjellys(dtype, detach_reset, constant, decay_input, tau, v_reset):
    torch.manual_seed(0)
    current = torch.randn(5, 3, 4, dtype=dtype) * 2 + 1
    current = current if constant else current + torch.randn(T, 5, 3, 4, dtype=dtype)
    current = current if decay_input else current / tau
    mine = LIF(tau, decay_input=decay_input, v_reset=v_reset, detach_reset=detach_reset)
    ours = run(mine, current, constant)
    theirs = run(plain(tau, detach_reset, v_reset, decay_input), current, constant)
    assert 0.1 < ours[0].mean() < 0.9
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)
    torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=0)


@given(
    st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=12),
    st.floats(1.0625, 8, width=32),
)
@settings(max_examples=30, deadline=None)
def test_spikes_equal_for_any_current_and_tau(currents, tau):
    x = torch.tensor(currents)[:, None]  # (T, 1)
    assert torch.equal(LIF(tau)(x), plain(tau)(x))


def test_spikes_by_hand():
    # u: 0.75, 1.125 (spike), 0.75, 1.125 (spike)
    lif = LIF()
    assert lif(torch.full((4, 1), 1.5)).flatten().tolist() == [0, 1, 0, 1]
    assert lif.v.item() == 0


def test_gradient_by_hand():
    current = torch.tensor([1.5], dtype=torch.float64, requires_grad=True)
    LIF()(Repeat(1)(current)).sum().backward()
    assert current.grad is not None
    assert current.grad.item() == pytest.approx(0.5 / (1 + (math.pi * 0.25) ** 2))


@DETACH
def test_gradient_of_a_constant_is_the_sum_over_time(detach_reset):
    torch.manual_seed(1)
    once = (torch.randn(20, dtype=torch.float64) + 1).requires_grad_()
    often = once.detach().repeat(T, 1).requires_grad_()
    for x in (Repeat(T)(once), often):
        LIF(detach_reset=detach_reset)(x).cumsum(0).square().sum().backward()
    assert once.grad is not None
    assert often.grad is not None
    torch.testing.assert_close(once.grad, often.grad.sum(0))


def test_lif_remains_a_spikingjelly_neuron():
    lif, x = LIF(3), torch.randn(T, 2, 5) * 3
    assert isinstance(lif, neuron.LIFNode)
    assert "tau=3.0" in repr(lif)
    assert "step_mode=m" in repr(lif)
    together = lif(x)
    last = lif.v
    functional.reset_net(lif)
    assert lif.v == 0.0
    functional.set_step_mode(lif, "s")
    torch.testing.assert_close(torch.stack([lif(step) for step in x]), together)
    torch.testing.assert_close(lif.v, last)


def test_detached_potential_continues():
    lif, x = LIF(), torch.randn(T, 2, 5) * 3
    x.requires_grad_()
    lif(x)
    functional.detach_net(lif)
    lif(x).sum().backward()
    assert lif.v.grad_fn is not None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("v_reset", None),
        ("decay_input", False),
        ("surrogate_function", surrogate.Sigmoid()),
        ("surrogate_function", surrogate.ATan(spiking=False)),
        ("store_v_seq", True),
    ],
)
def test_other_settings_compute_as_spikingjelly(name, value):
    current = torch.randn(T, 4, 3, dtype=torch.float64) * 2
    ours, theirs = LIF(), plain()
    for lif in (ours, theirs):
        setattr(lif, name, value)
    for mine, other in zip(run(ours, current, False), run(theirs, current, False), strict=True):
        torch.testing.assert_close(mine, other)
    if name == "store_v_seq":
        torch.testing.assert_close(ours.v_seq, theirs.v_seq)


SMALL = {
    "fc": ({"T": 3, "hidden": 20, "inputs": 64}, (4, 1, 8, 8)),
    "conv3fc2": ({"T": 3, "width": 4, "size": 8}, (4, 3, 8, 8)),
    "conv6fc2": ({"T": 3, "width": 4, "size": 8}, (4, 3, 8, 8)),
    "tiny": ({"T": 3, "width": 4}, (4, 1, 8, 8)),
    **{
        f"{name} {form}": ({"form": form, "T": 3, "width": 4}, (4, 3, 32, 32))
        for name in ("vgg16", "resnet19")
        for form in FORMS
    },
}
EVERY = pytest.mark.parametrize("name", SMALL)


def test_every_network_is_tested():
    named = {name.partition(" ")[0] for name in SMALL}
    # which take no images, or learn without gradients, and have tests of their own
    assert named | {"lsnn", "fc3", "diehl-cook", "sampling-machine"} == NETS.keys()


def small(name: str) -> nn.Module:
    return net(name.partition(" ")[0], **SMALL[name][0])


@EVERY
def test_hooks_see_sequences_and_the_first_layer_runs_once(name):
    model, seen = small(name), {}

    def remember(module, inputs, output):
        seen.setdefault(module, []).append((inputs[0].shape, output.shape))

    for module in model:
        module.register_forward_hook(remember)
    out = model(torch.randn(SMALL[name][1]))
    assert out.shape == (3, 4, 10)
    for module in model:
        (inputs, output), *again = seen[module]
        assert not again
        if isinstance(module, LIF):
            assert inputs == output
            assert inputs[:2] == (3, 4)
    first = next(m for m in model if isinstance(m, nn.Linear | nn.Conv2d))
    assert seen[first][0][0][0] == 4  # (B, ...), not (T, B, ...)


@EVERY
def test_every_parameter_learns(name):
    torch.manual_seed(0)
    model = small(name)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    with torch.no_grad():  # small networks of random weights are silent
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    before = copy.deepcopy(model.state_dict())
    model(torch.rand(SMALL[name][1])).mean(0).sub(1).square().sum().backward()
    optimizer.step()
    for key, _ in model.named_parameters():
        assert not torch.equal(before[key], model.state_dict()[key]), key


def test_fc_equals_plain_spikingjelly_with_repeated_images():
    torch.manual_seed(0)
    ours = fc(T, hidden=50, inputs=64).double()
    theirs = nn.Sequential(
        layer.Flatten(step_mode="m"),
        layer.Linear(64, 50, bias=False, step_mode="m"),
        plain(),
        layer.Linear(50, 10, bias=False, step_mode="m"),
        plain(),
    ).double()
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            other.copy_(mine.mul_(4))
    images = torch.rand(7, 1, 8, 8, dtype=torch.float64)
    outputs = ours(images), theirs(images.repeat(T, 1, 1, 1, 1))
    assert torch.equal(*outputs)
    assert outputs[0].sum() > 0
    for output in outputs:
        output.mean(0).sub(0.5).square().sum().backward()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_fc3_reads_what_happens_at_each_time_step_and_remembers_it():
    torch.manual_seed(0)
    model = fc3(hidden=30, inputs=6, classes=5).eval()
    events = (torch.rand(7, 4, 2, 3, 1) < 0.3).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
        whole = model(events)
        functional.reset_net(model)
        other_future, other_past = events.clone(), events.clone()
        other_future[3:] = 0
        other_past[:3] = 0
        changed = model(other_future)
        functional.reset_net(model)
        forgot = model(other_past)
    assert whole.shape == (7, 4, 5)
    assert torch.equal(whole[:3], changed[:3]) and not torch.equal(whole[3], changed[3])
    assert not torch.equal(whole[3], forgot[3])  # the same events meet other potentials
    first = next(m for m in model if isinstance(m, nn.Linear))
    assert first.in_features == 6


def test_fc3_runs_in_the_sparse_engine():
    from spikewire.runtime import compare, sparse

    torch.manual_seed(0)
    model = fc3(hidden=30, inputs=6, classes=5).eval()
    events = (torch.rand(7, 4, 2, 3, 1) < 0.3).float()
    with torch.no_grad():
        model.fc1.weight.mul_(4)
    found = compare(sparse(model, events[:, :1]), events, model)
    assert (found.samples, found.differing) == (4, 0) and found.spikes > 0


def test_published_sizes_and_names():
    def synapses(model: nn.Module) -> dict[str, int]:
        return {k: p.numel() for k, p in model.named_parameters() if p.dim() > 1}

    with torch.device("meta"):
        assert synapses(fc()) == {"fc1.weight": 627_200, "fc2.weight": 8_000}
        deep = synapses(conv6fc2())
        assert sum(synapses(conv3fc2()).values()) == 432 + 4608 + 9216 + 262_144 + 12_800
        assert sum(synapses(fc3()).values()) == 24 * 256 + 256**2 + 256 * 27
        assert 10_000 <= sum(synapses(tiny()).values()) <= 30_000
    assert sum(deep.values()) == 36_715_264
    assert deep["fc1.weight"] / sum(deep.values()) == pytest.approx(0.914, abs=5e-4)
    assert list(deep) == [f"conv{i}.weight" for i in range(1, 7)] + ["fc1.weight", "fc2.weight"]


@pytest.mark.parametrize(
    ("name", "form", "synapses"),
    [  # of 100 classes: 14.8, 12.5 and 12.6 million
        ("vgg16", "criticality", 14_761_664),
        ("resnet19", "criticality", 12_537_536),
        ("resnet19", "lottery", 12_643_008),
    ],
)
def test_published_sizes_of_deep_networks(name, form, synapses):
    with torch.device("meta"):
        model = net(name, form=form, classes=100)
    found = {k: p.numel() for k, p in model.named_parameters() if p.dim() > 1}
    assert sum(found.values()) == synapses


def test_each_time_step_may_be_normalised_by_itself():
    torch.manual_seed(0)
    ours, theirs = NormEachStep(4), nn.BatchNorm2d(4)
    x = torch.randn(3, 5, 4, 6, 6) * torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1, 1)
    expected = torch.stack([theirs(step) for step in x])
    torch.testing.assert_close(ours(x), expected)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    assert int(ours.num_batches_tracked) == 3
    torch.testing.assert_close(ours.eval()(x)[1], theirs.eval()(x[1]))


def test_forms_differ_where_they_say():
    made = {form: net("vgg16", form=form, width=4, T=2) for form in FORMS}
    assert [m.lif1.v_threshold for m in made.values()] == [0.5, 1.0, 1.0]
    assert [m.lif1.decay_input for m in made.values()] == [False, True, True]
    assert [m.lif1.detach_reset for m in made.values()] == [False, False, True]
    assert [m.conv2.bias is None for m in made.values()] == [True, True, False]
    assert [type(m.pool1) for m in made.values()] == [layer.AvgPool2d] * 2 + [layer.MaxPool2d]
    assert [isinstance(m.bn2, NormEachStep) for m in made.values()] == [False, False, True]
    assert [isinstance(m.lif1.surrogate_function, Tanh) for m in made.values()] == [
        True,
        False,
        False,
    ]


def test_normalisation_is_over_time_and_batch():
    torch.manual_seed(0)
    model, x = tiny(T=3, width=4), torch.randn(5, 1, 8, 8)
    seen = {}
    model.conv2.register_forward_hook(lambda _module, _inputs, y: seen.update(y=y))
    model(x)
    expected = 0.1 * seen["y"].mean((0, 1, 3, 4))
    torch.testing.assert_close(model.bn2.running_mean, expected)


def test_dropout_chooses_once_per_sequence():
    model, seen = conv6fc2(T=3, width=4, size=8), []
    model.dropout.register_forward_hook(lambda module, _inputs, _output: seen.append(module.mask))
    for _ in range(2):
        model(torch.randn(4, 3, 8, 8))
        functional.reset_net(model)
    assert seen[0].shape == (4, 16)  # (B, width (size / 4)^2): no T
    assert not torch.equal(*seen)
    assert set(seen[0].flatten().tolist()) <= {0.0, 2.0}


@pytest.mark.parametrize("name", ["fc", "conv6fc2", "tiny"])
def test_compiles_as_one_graph(name):
    torch.compiler.reset()  # or the networks before count against the limit of recompilations
    eager = small(name).eval()
    traced = copy.deepcopy(eager)
    compiled = torch.compile(traced, fullgraph=True, dynamic=False, backend="eager")
    images = torch.rand(SMALL[name][1]) * 3
    for _ in range(2):
        for model in (eager, compiled):
            model.zero_grad()
            model(images).square().sum().backward()
            functional.reset_net(model)
        for mine, other in zip(eager.parameters(), traced.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, other.grad)


def test_compiled_code_computes_the_same():
    # convolutions invite the compiler to change layouts in memory
    torch.manual_seed(0)
    eager = nn.Sequential(
        nn.Conv2d(2, 8, 3), Repeat(2), LIF(), layer.Conv2d(8, 8, 3, step_mode="m")
    )
    traced = copy.deepcopy(eager)
    images = torch.randn(3, 2, 8, 8) * 6
    for model in (eager, torch.compile(traced, fullgraph=True, dynamic=False)):
        currents = model(images)
        (currents * torch.arange(currents.numel()).view_as(currents)).mean().backward()
    for mine, other in zip(eager.parameters(), traced.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(eager[2].v, traced[2].v)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@DETACH
def test_lif_on_cuda(detach_reset):
    current = torch.randn(T, 50, dtype=torch.float64) * 2
    here = run(LIF(detach_reset=detach_reset), current, False)
    there = run(LIF(detach_reset=detach_reset), current.cuda(), False)
    for mine, other in zip(here, there, strict=True):
        torch.testing.assert_close(mine, other.cpu())


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: LIF(1.0), "tau"),
        (lambda: LIF(float("nan")), "tau"),
        (lambda: LIF(surrogate="tan"), "did you mean 'tanh'"),
        (lambda: fc(T=0), "T is 0"),
        (lambda: fc(T=2.5), "T is 2.5"),
        (lambda: fc(hidden=0), "hidden"),
        (lambda: fc(inputs=True), "inputs"),
        (lambda: conv6fc2(size=30), "size"),
        (lambda: conv6fc2(dropout=1.0), "dropout"),
        (lambda: conv6fc2(width=-1), "width"),
        (lambda: tiny(size=7), "size"),
        (lambda: vgg16(size=40), "size is 40"),
        (lambda: vgg16(width=0), "width is 0"),
        (lambda: resnet19(form="lotery"), "did you mean 'lottery'"),
        (lambda: resnet19(classes=0), "classes is 0"),
        (lambda: tiny(tau=0.5), "tau"),
        (lambda: net("conv6fc"), "conv6fc2"),
        (lambda: net("tiny", hiden=3), "tiny.*hiden"),
        (lambda: net("fc", hiden=3), "hidden"),
    ],
)
def test_refusals_name_the_argument(build, words):
    with pytest.raises(ValueError, match=words):
        build()


# --- the recurrent network ------------------------------------------------------------------------


def alif_by_hand(beta, x, tau, tau_b, damping):
    """Spikes and the gradient of their weighted sum, neuron by neuron, with numbers alone."""
    decay, recovery = math.exp(-1 / tau), math.exp(-1 / tau_b)
    T = len(x)
    u, threshold, spikes = [0.0] * T, [0.0] * T, [0.0] * T
    v = b = 0.0
    for t in range(T):
        u[t] = decay * v + x[t]
        threshold[t] = 1 + beta * b
        spikes[t] = float(u[t] >= threshold[t])
        v = u[t] - threshold[t] * spikes[t]
        b = recovery * b + (1 - recovery) * spikes[t]
    grad_x, grad_v, grad_b = [0.0] * T, 0.0, 0.0
    for t in reversed(range(T)):
        # v = u - A s, b' = r b + (1 - r) s, s = H(u / A - 1), A = 1 + beta b
        grad_s = (t + 1.0) - threshold[t] * grad_v + (1 - recovery) * grad_b
        slope = damping * max(0.0, 1 - abs(u[t] / threshold[t] - 1))
        grad_u = grad_v + grad_s * slope / threshold[t]
        grad_a = -spikes[t] * grad_v - grad_s * slope * u[t] / threshold[t] ** 2
        grad_b = recovery * grad_b + beta * grad_a
        grad_x[t] = grad_u
        grad_v = decay * grad_u
    return spikes, grad_x


@pytest.mark.parametrize("beta", [0.0, 3.0])
def test_alif_by_hand(beta):
    torch.manual_seed(1)
    neurons = ALIF(torch.full((5,), beta, dtype=torch.float64), 3.0, 6.0, 0.4)
    x = (torch.randn(20, 2, 5, dtype=torch.float64) + 0.6).requires_grad_()
    spikes = torch.stack([neurons(each) for each in x])
    assert 0.05 < spikes.mean() < 0.6
    (spikes.sum((1, 2)) * torch.arange(1, 21)).sum().backward()
    for row in range(2):
        for column in range(5):
            s, g = alif_by_hand(beta, x[:, row, column].tolist(), 3.0, 6.0, 0.4)
            assert spikes[:, row, column].tolist() == s
            assert x.grad[:, row, column].tolist() == pytest.approx(g, rel=1e-9, abs=1e-12)


def test_an_adaptive_neuron_tires():
    neurons = ALIF(torch.tensor([0.0, 180.0]))
    spikes = torch.stack([neurons(torch.full((1, 2), 0.5)) for _ in range(300)])
    first, last = spikes[:100].sum((0, 1)), spikes[-100:].sum((0, 1))
    assert abs(first[0] - last[0]) <= 1
    assert last[1] < first[1] < first[0]


def test_pixels_cross_grey_levels():
    network = lsnn(3, 2, pixels=2, inputs=6, levels=3, low=0.0, high=1.0, cue=2)
    image = torch.tensor([0.0, 0.3, 0.6, 0.3, 0.9, 0.3]).view(1, 1, 2, 3)
    spikes = network.encode(image)[:, 0]  # three steps of two pixels, then the cue
    assert network.levels.tolist() == [0.25, 0.5, 0.75]
    up, down, cue = spikes[:, :6].view(5, 2, 3), spikes[:, 6:12].view(5, 2, 3), spikes[:, 12]
    assert cue.tolist() == [0, 0, 0, 1, 1]
    assert up[0].tolist() == [[0, 0, 0], [1, 0, 0]]  # pixels 0.0 and 0.3
    assert up[1].tolist() == [[1, 1, 0], [0, 0, 0]]  # 0.0 -> 0.6 and 0.3 -> 0.3
    assert up[2].tolist() == [[0, 0, 1], [0, 0, 0]]  # 0.6 -> 0.9
    assert down.sum() == 0 and spikes[3:, :12].sum() == 0
    falling = network.encode(image.flip(2, 3))[:, 0]  # 0.3, 0.9 | 0.3, 0.6 | 0.3, 0.0
    assert falling[1, 6:12].tolist() == [0, 0, 0, 0, 0, 1]  # 0.9 -> 0.6
    assert falling[2, 6:12].tolist() == [0, 0, 0, 1, 1, 0]  # 0.6 -> 0.0


def test_the_recurrent_network_remembers_pixels_and_forgets_images():
    torch.manual_seed(0)
    network = lsnn(20, 20, pixels=8, inputs=64, levels=4, low=0.0, high=1.0, cue=3)
    images = torch.rand(3, 1, 8, 8)
    first = network(images)
    functional.reset_net(network)
    torch.testing.assert_close(network(images), first)
    functional.reset_net(network)
    images[1, 0, 0] = 0.0  # the first pixels of the second image
    changed = network(images)
    assert changed.shape == (3, 10)
    assert not torch.equal(changed[1], first[1])
    assert torch.equal(changed[0], first[0])


def test_neurons_of_the_recurrent_network_are_seen():
    network = lsnn(20, 20, pixels=8, inputs=64, levels=4, low=0.0, high=1.0, cue=3)
    with watch(network) as activity:
        network(torch.rand(3, 1, 8, 8))
    assert activity["neurons"].rates.shape == (40,)
    assert activity["neurons"].spikes.shape == (11, 3, 40)
    assert activity["neurons"].samples == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"pixels": 5}, "divisor of inputs"),
        ({"regular": 0, "adaptive": 0}, "regular"),
        ({"regular": -1}, "regular is -1"),
        ({"low": 1.0, "high": 0.0}, "darker"),
        ({"cue": 0}, "cue is 0"),
        ({"levels": 0}, "levels is 0"),
        ({"tau": 0.0}, "tau is 0.0"),
        ({"tau_b": -1.0}, "tau_b is -1.0"),
        ({"beta": -2.0}, "beta is"),
    ],
)
def test_the_recurrent_network_refuses(arguments, words):
    with pytest.raises(ValueError, match=words):
        lsnn(**arguments)
