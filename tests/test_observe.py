"""Watching neurons: spikes, rates and membranes against hand arithmetic and the library itself."""

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from spikewire import Criticality, Prune, Pruner, dialects
from spikewire.observe import Probe, Traces, watch
from spikewire.scores import criticality

CURRENT = torch.tensor([0.6, 0.8, 1.5, 0.2])  # one neuron, one sample, four steps

# (neuron, membranes before reset, spikes) for CURRENT, threshold 1, all worked out by hand
CASES = {
    # u = v + x
    "if hard": (
        lambda mode: neuron.IFNode(step_mode=mode),
        [0.6, 1.4, 1.5, 0.2],
        [0, 1, 1, 0],
    ),
    "if soft": (
        lambda mode: neuron.IFNode(v_reset=None, step_mode=mode),
        [0.6, 1.4, 1.9, 1.1],
        [0, 1, 1, 1],
    ),
    # u = v + (x - v) / 2
    "lif hard": (
        lambda mode: neuron.LIFNode(tau=2.0, v_threshold=0.5, step_mode=mode),
        [0.3, 0.55, 0.75, 0.1],
        [0, 1, 1, 0],
    ),
    "lif soft": (
        lambda mode: neuron.LIFNode(tau=2.0, v_threshold=0.5, v_reset=None, step_mode=mode),
        [0.3, 0.55, 0.775, 0.2375],
        [0, 1, 1, 0],
    ),
    # u = v - (v + 1) / 2 + x, at rest at -1
    "lif without input decay": (
        lambda mode: neuron.LIFNode(tau=2.0, decay_input=False, v_reset=-1.0, step_mode=mode),
        [-0.4, 0.1, 1.05, -0.8],
        [0, 0, 1, 0],
    ),
    # u = v + (x - v) / 4
    "plif": (
        lambda mode: neuron.ParametricLIFNode(init_tau=4.0, v_threshold=0.3, step_mode=mode),
        [0.15, 0.3125, 0.375, 0.05],
        [0, 1, 1, 0],
    ),
    "lif that stores its potential": (
        lambda mode: neuron.LIFNode(
            tau=2.0, v_threshold=0.5, step_mode=mode, store_v_seq=mode == "m"
        ),
        [0.3, 0.55, 0.75, 0.1],
        [0, 1, 1, 0],
    ),
}


def show(net, currents, mode):
    """Run currents (T, B, ...) through a network in either mode, from rest."""
    functional.reset_net(net)
    return net(currents) if mode == "m" else torch.stack([net(x) for x in currents])


@pytest.mark.parametrize("mode", ["m", "s"])
@pytest.mark.parametrize("case", CASES)
def test_membranes_and_spikes_by_hand(case, mode):
    make, membranes, spikes = CASES[case]
    net = nn.Sequential(make(mode))
    with watch(net, membranes=True) as activity:
        show(net, CURRENT.view(4, 1, 1), mode)
    seen = activity["0"]
    assert seen.membranes.shape == seen.spikes.shape == (4, 1, 1)
    assert seen.membranes.flatten().tolist() == pytest.approx(membranes, abs=1e-5)
    assert seen.spikes.flatten().tolist() == spikes
    assert seen.rates.tolist() == [sum(spikes) / 4]


@pytest.mark.parametrize("mode", ["m", "s"])
def test_sums_run_over_batches_and_the_last_sequence_stays(mode):
    net = nn.Sequential(neuron.IFNode(step_mode=mode))
    first = torch.tensor([[[1.0, 0.0, 0.5]], [[1.0, 0.0, 0.5]]])  # (T=2, B=1, N=3)
    second = torch.tensor([[[1.0, 0.0, 0.2]] * 3] * 2)  # (2, 3, 3)
    with watch(net) as activity:
        show(net, first, mode)
        show(net, second, mode)
    seen = activity["0"]
    assert seen.samples == 4
    assert seen.rates.tolist() == [1.0, 0.0, 1 / 8]
    assert seen.silent == 1
    assert seen.rate == pytest.approx((1 + 1 / 8) / 3)
    assert seen.spikes.shape == (2, 3, 3)
    assert activity.rate == pytest.approx(seen.rate)


def test_a_network_rate_counts_neurons_not_layers():
    fast, slow = neuron.IFNode(step_mode="m"), neuron.IFNode(step_mode="m", v_threshold=9.0)
    net = nn.Sequential(fast, nn.Linear(1, 3, bias=False), slow)
    with watch(net) as activity:
        net(torch.ones(2, 1, 1))
    assert list(activity) == ["0", "2"]
    assert activity.rate == pytest.approx(1 / 4)


def test_membranes_agree_with_the_library_in_a_deep_network():
    net = nn.Sequential(
        layer.Conv2d(2, 3, 3, step_mode="m", bias=False),
        neuron.LIFNode(tau=1.5, v_reset=None, step_mode="m", store_v_seq=True),
        layer.Conv2d(3, 4, 3, step_mode="m", bias=False),
        neuron.ParametricLIFNode(v_reset=None, step_mode="m", store_v_seq=True),
    )
    with watch(net, membranes=True) as activity:
        net[2].weight.data *= 5
        net(10 * torch.randn(5, 2, 2, 6, 6))
    for name in ("1", "3"):  # with soft reset, what remains is the potential less its spikes
        seen = activity[name]
        assert seen.spikes.any()
        assert torch.allclose(seen.membranes - seen.spikes, net[int(name)].v_seq, atol=1e-5)
        assert seen.spikes.equal((seen.membranes >= 1).float())


@pytest.mark.parametrize("mode", ["m", "s"])
def test_watching_changes_nothing(mode):
    net = nn.Sequential(
        layer.Linear(3, 3, step_mode=mode), neuron.ParametricLIFNode(step_mode=mode)
    )
    inputs = torch.randn(4, 2, 3)
    outputs, gradients = [], []
    for membranes in (None, False, True):
        net.zero_grad()
        if membranes is None:
            out = show(net, inputs, mode)
        else:
            with watch(net, membranes=membranes):
                out = show(net, inputs, mode)
        out.sum().backward()
        outputs.append((out.detach(), net[1].v.detach()))
        gradients.append(net[0].weight.grad)
    assert all(out.equal(outputs[0][0]) and v.equal(outputs[0][1]) for out, v in outputs)
    assert all(gradient.equal(gradients[0]) for gradient in gradients)
    assert net[1].v_threshold == 1.0


def hooks(net):
    return [
        hook
        for module in net.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    ]


def test_hooks_go_with_the_block_and_with_an_exception():
    net = nn.Sequential(neuron.IFNode(), nn.Linear(2, 2), neuron.LIFNode())
    with watch(net):
        assert len(hooks(net)) == 4
    assert not hooks(net)
    with pytest.raises(KeyError), watch(net):
        raise KeyError
    assert not hooks(net)


def test_what_was_not_shown_or_kept_is_said():
    net = nn.Sequential(neuron.IFNode(step_mode="m"))
    with watch(net) as activity:
        pass
    with pytest.raises(ValueError, match="run the network there"):
        _ = activity["0"].rates
    with watch(net) as activity:
        net(torch.ones(1, 1, 1))
    with pytest.raises(ValueError, match="membranes=True"):
        _ = activity["0"].membranes


def test_a_network_without_neurons_is_refused():
    with pytest.raises(ValueError, match="no neuron layer"), watch(nn.Linear(2, 2)):
        pass


def test_the_network_inside_wrappers_is_watched():
    net = nn.DataParallel(nn.Sequential(neuron.IFNode(step_mode="m")))
    with watch(net) as activity:
        net.module(torch.ones(2, 1, 1))
    assert activity["0"].rate == 1.0


def test_reset_reaches_neurons_and_whatever_else_remembers():
    net = nn.Sequential(
        neuron.LIFNode(step_mode="m"), layer.Dropout(0.5, step_mode="m"), nn.Linear(2, 2)
    )
    net(torch.ones(3, 4, 2))
    assert isinstance(net[0].v, torch.Tensor)
    assert net[1].mask is not None
    dialects.reset(net)
    assert net[0].v == 0.0
    assert net[1].mask is None


def test_dialect_is_found_by_ancestry():
    class Mine(neuron.LIFNode):
        """A neuron of the user's own."""

    assert [known.name for _, _, known in dialects.neurons(nn.Sequential(Mine()))] == [
        "SpikingJelly"
    ]
    assert dialects.dialect(nn.ReLU()) is None


def test_spikes_that_were_not_kept_are_refused():
    net = nn.Sequential(neuron.IFNode(step_mode="m"))
    with watch(net, spikes=False) as activity:
        net(torch.ones(4, 1, 1))
    with pytest.raises(ValueError, match=r"use watch\(model, spikes=True\)"):
        _ = activity["0"].spikes


# --- snnTorch -------------------------------------------------------------------------------------


@pytest.fixture
def leaky():
    snntorch = pytest.importorskip("snntorch", reason="snnTorch is not installed")
    # u = 0.5 u + x, minus the threshold in the step after a spike
    return nn.Sequential(snntorch.Leaky(beta=0.5, init_hidden=True, reset_delay=False))


def test_snntorch_rates(leaky):
    # by hand: u = 0.6 0.9 1.2(spike) -> 0.2, then 0.7 0.95 1.075(spike); a second neuron is silent
    currents = torch.tensor([0.6] * 7).view(7, 1, 1) * torch.tensor([1.0, 0.0])
    with watch(leaky) as activity:
        dialects.reset(leaky)
        spikes = torch.stack([leaky(x) for x in currents])
    assert spikes.any()
    assert activity["0"].rates.tolist() == pytest.approx(spikes.mean((0, 1)).tolist())
    assert activity["0"].spikes.equal(spikes)
    assert activity["0"].samples == 1


def test_snntorch_sequences_that_begin_in_silence_are_one_sequence(leaky):
    currents = torch.tensor([0.0, 0.0, 3.0, 0.0]).view(4, 1, 1)
    with watch(leaky) as activity:
        for _ in range(2):
            dialects.reset(leaky)
            for x in currents:
                leaky(x)
    assert activity["0"].samples == 2
    assert activity["0"].spikes.shape == (4, 1, 1)


SNNTORCH = {
    "Leaky": {"beta": 0.8},
    "Lapicque": {"beta": 0.8},
    "Synaptic": {"alpha": 0.5, "beta": 0.8},
    "Alpha": {"alpha": 0.9, "beta": 0.8},
    "RLeaky": {"beta": 0.8, "linear_features": 4},
    "RSynaptic": {"alpha": 0.5, "beta": 0.8, "linear_features": 4},
}


def snntorch_steps(layer, hidden):
    """Shown two sequences of six steps: spikes, and what it compared with its threshold."""
    compared, spikes, fire = [], [], layer.fire
    layer.fire = lambda potential: (compared.append(potential.detach()), fire(potential))[1]
    for _ in range(2):
        dialects.reset(layer)
        states = []
        for x in torch.rand(6, 3, 4) * 2:
            out = layer(x, *states)
            spikes.append(out if hidden else out[0])
            # recurrent neurons are given their spikes as well
            states = [] if hidden else [*out][0 if hasattr(layer, "recurrent") else 1 :]
    return torch.stack(spikes), torch.stack(compared)


@pytest.mark.parametrize("hidden", [True, False])
@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize("name", SNNTORCH)
def test_snntorch_membranes_are_what_is_compared_with_the_threshold(name, reset, hidden):
    snntorch = pytest.importorskip("snntorch", reason="snnTorch is not installed")
    options = {**SNNTORCH[name], "reset_mechanism": reset, "init_hidden": hidden}
    kind = getattr(snntorch, name)
    torch.manual_seed(0)
    # RSynaptic has reset_delay as well, but snnTorch 1.0.0 fails with it
    for delay in [{}, {"reset_delay": False}] if name in ("Leaky", "Synaptic", "RLeaky") else [{}]:
        layer = kind(**options, **delay, threshold=0.7)
        if delay and reset == "zero":  # what it was is gone
            with pytest.raises(ValueError, match="give reset_delay=True"):
                watch(layer, membranes=True).__enter__()
            continue
        with watch(layer, membranes=True) as activity:
            spikes, compared = snntorch_steps(layer, hidden)
        (seen,) = activity.values()
        assert 0 < spikes.mean() < 1
        assert seen.membranes.shape == (6, 3, 4) and seen.samples == 6
        torch.testing.assert_close(seen.membranes, compared[6:])
        assert seen.spikes.equal(spikes[6:])


@pytest.mark.parametrize("begin", ["position", "name", "reset"])
@pytest.mark.parametrize("carry", [lambda mem: mem, torch.Tensor.detach])
def test_snntorch_sequences_begin_with_the_states_that_are_given(begin, carry):
    snntorch = pytest.importorskip("snntorch", reason="snnTorch is not installed")
    layer = snntorch.Leaky(beta=0.8)
    with watch(layer, membranes=True) as activity:
        for _ in range(2):
            mem = layer.reset_mem() if begin == "reset" else torch.zeros(3, 4)
            for x in torch.rand(6, 3, 4):
                _, mem = layer(x, mem=mem) if begin == "name" else layer(x, mem)
                mem = carry(mem)
    (seen,) = activity.values()
    assert seen.samples == 6 and seen.membranes.shape == (6, 3, 4)


def test_snntorch_neurons_with_other_states_are_watched_as_well():
    snntorch = pytest.importorskip("snntorch", reason="snnTorch is not installed")
    layer = snntorch.DeltaLeaky(beta=0.8, delta_threshold=0.1)
    states = (None, None)
    with watch(layer) as activity:
        for x in torch.rand(6, 3, 4):
            _, states = layer(x, states)
    (seen,) = activity.values()
    assert seen.samples == 3 and seen.spikes.shape == (6, 3, 4)
    with pytest.raises(ValueError, match="DeltaLeaky does not tell"):
        watch(layer, membranes=True).__enter__()


def test_recurrent_synapses_are_those_of_their_own_neurons():
    snntorch = pytest.importorskip("snntorch", reason="snnTorch is not installed")
    layer = snntorch.RLeaky(beta=0.5, linear_features=4, init_hidden=True)
    net = nn.Sequential(nn.Linear(4, 4), layer, nn.Linear(4, 2))
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    pruner = Pruner(net, Criticality(0.5, every=1), optimizer, steps=9)
    for _ in range(2):
        dialects.reset(net)
        net(torch.rand(3, 4)).sum().backward()
        optimizer.step()
    followed = {s.name: pruner.observer.layer_of(s.name) for s in pruner}
    assert followed == {"0.weight": "1", "1.recurrent.weight": "1", "2.weight": None}


def test_snntorch_networks_are_pruned_by_criticality():
    """The synapses that come back are those of the neuron that is nearest to its threshold."""
    snntorch = pytest.importorskip("snntorch", reason="snnTorch is not installed")
    net = nn.Sequential(nn.Linear(2, 3), snntorch.Leaky(beta=0.5, threshold=1.0), nn.Linear(3, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[3.0, 0.1], [1.0, 0.1], [0.2, 0.1]]))
        net[0].bias.zero_()
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    method = Criticality(0.5, every=1, until=0.5, churn=1 / 3)
    pruner = Pruner(net, method, optimizer, steps=4, only=["0.weight"])
    for _ in range(4):
        mem = net[1].init_leaky()
        for _ in range(3):
            spikes, mem = net[1](net[0](torch.tensor([[1.0, 0.0]])), mem)
        net[2](spikes).sum().backward()
        optimizer.step()
    (synapses,) = pruner
    assert synapses.mask.tolist() == [[True, False], [True, True], [False, False]]


def test_neurons_that_keep_their_membranes_to_themselves_are_refused_before_anything_is_run():
    snntorch = pytest.importorskip("snntorch", reason="snnTorch is not installed")
    layer = snntorch.StateLeaky(beta=0.5, channels=1)
    with pytest.raises(ValueError, match="StateLeaky does not tell"), watch(layer, membranes=True):
        pass
    with pytest.raises(ValueError, match="StateLeaky does not tell"):
        Pruner(nn.Sequential(nn.Linear(1, 1), layer), Criticality(0.5), steps=9)


def test_snntorch_neurons_that_are_given_all_time_steps_begin_anew_with_every_call():
    snntorch = pytest.importorskip("snntorch", reason="snnTorch is not installed")
    layer = snntorch.StateLeaky(beta=0.5, channels=3, output=True)
    with torch.no_grad(), watch(layer) as activity:
        for seed in (0, 1):
            torch.manual_seed(seed)
            spikes, _ = layer(2 * torch.rand(5, 2, 3))  # (T, B, channels)
    (heard,) = activity.values()
    assert heard.samples == 4
    assert heard.spikes.equal(spikes)
    assert heard.rates.shape == (3,)


def test_a_learned_threshold():
    class Learned(neuron.IFNode):
        def __init__(self):
            super().__init__(step_mode="m")
            del self.v_threshold
            self.v_threshold = nn.Parameter(torch.tensor(1.0))

    net = nn.Sequential(Learned())
    with torch.no_grad(), watch(net, membranes=True) as activity:
        net(CURRENT.view(4, 1, 1))
    assert activity["0"].membranes.flatten().tolist() == pytest.approx([0.6, 1.4, 1.5, 0.2])
    assert isinstance(net[0].v_threshold, nn.Parameter)


@pytest.mark.parametrize("mode", ["m", "s"])
def test_traces_of_the_last_sequence_by_hand(mode):
    net = nn.Sequential(
        layer.Conv2d(1, 1, 1, bias=False, step_mode=mode),
        neuron.IFNode(step_mode=mode),
        layer.Flatten(step_mode=mode),
        layer.Linear(2, 1, step_mode=mode),
    )
    torch.nn.init.ones_(net[0].weight)
    traces = Traces(net, 0.5)
    traces.listen()
    show(net, torch.ones(2, 3, 1, 1, 2), mode)
    # two places of one sample: the first fires at once and in the end, the second never
    show(net, torch.tensor([[1.0, 0.25], [0.5, 0.25], [0.5, 0.25]]).view(3, 1, 1, 1, 2), mode)
    traces.rest()
    before, behind = traces.of("0.weight")
    # means over the map are 5/8, 3/8, 3/8 before and 1/2, 0, 1/2 behind
    assert before.tolist() == [[5 / 32 + 3 / 16 + 3 / 8]]
    assert behind.tolist() == [[1 / 8 + 1 / 2]]
    assert traces.of("3.weight") is None  # the read-out


def test_an_input_that_is_computed_once_is_its_own_trace():
    net = nn.Sequential(nn.Linear(2, 2), neuron.IFNode(step_mode="m"), nn.Linear(2, 1))
    traces = Traces(net, 0.5)
    traces.listen()
    images = torch.rand(3, 2)
    net[2](net[1](net[0](images).expand(4, 3, 2)))
    assert traces.of("0.weight")[0].equal(images)


def test_traces_need_a_forward_pass():
    with pytest.raises(ValueError, match="no forward pass was heard"):
        Traces(nn.Sequential(nn.Linear(2, 2), neuron.IFNode()), 0.5).of("0.weight")


# --- the channels behind synapses -----------------------------------------------------------------


def test_tokens_have_their_channels_last():
    """Linear layers of a spiking transformer: (T, B, tokens, channels), as many of both."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False), neuron.IFNode(step_mode="m"))
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(2))
    probe = Probe(net, [torch.abs], "mean")
    probe.listen()
    net(torch.tensor([[[[0.0, 0.5], [0.0, 0.7]]]]))
    assert probe.of("0.weight").tolist() == pytest.approx([1.0, 0.4])


def test_transposed_convolutions_have_their_outputs_second():
    net = nn.Sequential(
        layer.ConvTranspose2d(2, 2, 1, bias=False, step_mode="m"), neuron.IFNode(step_mode="m")
    )
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 0.1], [1.0, 0.1]]).view(2, 2, 1, 1))
    pruner = Pruner(net, Prune(0.5, score=criticality), steps=1)
    net(torch.full((1, 1, 2, 1, 1), 0.5))
    (synapses,) = pruner
    scores = criticality(synapses, pruner).view(2, 2)
    assert scores[0].equal(scores[1])
    assert scores[0, 0] > scores[0, 1]  # the first output is at its threshold


@pytest.mark.parametrize(
    "between",
    [nn.Flatten(2), nn.Unflatten(2, (1, 8)), nn.AvgPool3d((2, 1, 1))],
    ids=["flattened", "unflattened", "averaged over channels"],
)
def test_neurons_whose_channels_are_not_those_of_the_synapses_are_refused(between):
    net = nn.Sequential(layer.Conv2d(1, 8, 1, step_mode="m"), between, neuron.IFNode(step_mode="m"))
    probe = Probe(net, [torch.abs], "max")
    probe.listen()
    net(torch.ones(2, 3, 1, 4, 4))
    with pytest.raises(ValueError, match="0.weight has 8 output channels, but .* '2'"):
        probe.of("0.weight")


def test_a_list_of_outputs_begins_with_the_spikes():
    net = nn.Sequential(neuron.OTTTLIFNode(step_mode="s"))
    with watch(net) as activity:
        net(torch.full((2, 3), 2.0))
    assert activity["0"].rate == 1.0


def test_a_spike_counts_once_whatever_it_weighs():
    net = nn.Sequential(neuron.TernaryIFNode(step_mode="m"))
    with watch(net) as activity:
        spikes = net(torch.tensor([2.0, -2.0, 2.0, -2.0])[:, None, None])
    assert spikes.flatten().tolist() == [1.0, -1.0, 1.0, -1.0]
    assert activity["0"].rate == 1.0 and activity["0"].silent == 0
