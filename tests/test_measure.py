"""Numbers that can be recomputed by hand."""

import math

import pytest
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

from spikewire.measure import count, measure, places, uses
from spikewire.nets import fc3


def two_layers() -> nn.Sequential:
    """Passes spikes on: 3 inputs, 3 neurons that copy them, 4 neurons behind 3 x 4 synapses."""
    net = nn.Sequential(
        layer.Linear(3, 3, bias=False, step_mode="m"),
        neuron.IFNode(step_mode="m"),
        layer.Linear(3, 4, bias=False, step_mode="m"),
        neuron.IFNode(step_mode="m"),
    )
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(3))
        net[2].weight.fill_(0.25)
        net[2].weight[:, 2] = 0.0
        net[2].weight[0, 0] = 0.0
    return net


def test_synops_count_spikes_times_surviving_fan_out():
    # two steps, one sample; neurons 0 and 1 fire at t=0, neurons 1 and 2 at t=1
    spikes = torch.tensor([[[1.0, 1.0, 0.0]], [[0.0, 1.0, 1.0]]])  # (T, B, N)
    report = measure(two_layers(), [spikes])
    # first layer: 4 spikes x fan-out 1; second: neuron 0 has 3 synapses left, 1 has 4, 2 none
    assert report.operations.synops * report.samples == 4 * 1 + (3 + 4) + (4 + 0)
    assert report.operations.macs == 0
    assert report.operations.dense * report.samples == 2 * (3 * 3 + 3 * 4)
    assert report.operations.energy_nj * report.samples == pytest.approx(15 * 0.9e-3)


def test_real_valued_input_costs_multiply_accumulates_and_zeros_cost_nothing():
    report = measure(two_layers(), torch.tensor([[[0.5, 0.0, 2.0]]]))
    assert report.operations.macs * report.samples == 2  # two inputs that are not 0, fan-out 1


def test_convolutions_count_border_positions_exactly():
    conv = nn.Conv2d(1, 2, 3, padding=1, bias=True)
    report = measure(conv_only(conv), torch.ones(1, 1, 3, 3))
    # a 3 x 3 kernel on a 3 x 3 map with padding: 4 corners see 4 inputs, 4 edges 6, the centre 9
    assert report.operations.synops == 2 * (4 * 4 + 4 * 6 + 9)
    with torch.no_grad():
        conv.weight[1] = 0.0
    assert measure(conv_only(conv), torch.ones(1, 1, 3, 3)).operations.synops == 49


def test_grouped_convolutions_and_multi_step_layers_agree_with_plain_counting():
    torch.manual_seed(0)
    conv = layer.Conv2d(4, 6, 3, groups=2, stride=2, padding=1, bias=False, step_mode="m")
    with torch.no_grad():
        conv.weight.mul_(torch.rand_like(conv.weight) < 0.3)
    spikes = (torch.rand(3, 2, 4, 5, 5) < 0.4).float()  # (T, B, C, H, W)
    ones = nn.functional.conv2d(
        spikes.flatten(0, 1), (conv.weight != 0).float(), stride=2, padding=1, groups=2
    )
    report = measure(conv_only(conv), spikes)
    assert report.operations.synops * report.samples == pytest.approx(float(ones.sum()))


def conv_only(conv: nn.Module) -> nn.Module:
    return nn.Sequential(conv)


def test_uses_times_synapses_are_the_operations():
    torch.manual_seed(0)
    net = nn.Sequential(
        layer.Conv2d(2, 6, 3, stride=2, padding=1, bias=False, step_mode="m"),
        neuron.IFNode(step_mode="m"),
        layer.Flatten(step_mode="m"),
        layer.Linear(54, 3, bias=False, step_mode="m"),
    )
    spikes = (torch.rand(3, 2, 2, 5, 5) < 0.4).float()  # (T, B, C, H, W)
    found, operations = uses(net, spikes), measure(net, spikes).operations
    sizes = {"0.weight": 108, "3.weight": 162}
    assert sum(found[name].met * n for name, n in sizes.items()) == pytest.approx(operations.synops)
    always = sum(found[name].always * n for name, n in sizes.items())
    assert always == pytest.approx(operations.dense)
    # uses do not depend on which synapses are there; each meets a place of the map in each step,
    # but those at its border
    with torch.no_grad():
        net[3].weight.zero_()
    assert uses(net, spikes)["3.weight"] == found["3.weight"]
    assert found["3.weight"].always == 3.0  # time steps of each sample


def test_firing_rates_and_silent_neurons():
    spikes = torch.tensor([[[1.0, 1.0, 0.0]], [[0.0, 1.0, 0.0]]])
    first = measure(two_layers(), [spikes]).firing[0]
    assert (first.neurons, first.silent) == (3, 1)
    assert first.rate == pytest.approx(3 / 6)
    assert first.counts == (1, *[0] * 9, 1, *[0] * 8, 1)  # rates 0, 0.5 and 1 in twenty bins


def test_accuracy_and_comparison():
    net = two_layers()
    images = torch.rand(2, 5, 3)
    with torch.no_grad():
        best = net(images).mean(0).argmax(1)
    for module in net:
        getattr(module, "reset", lambda: None)()

    class Batched(nn.Module):
        """Takes (B, T, N), as a loader would give it."""

        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x.transpose(0, 1))

    report = measure(Batched(), (images.transpose(0, 1), best))
    assert report.accuracy == 100.0
    assert report.samples == 5
    rows = {name: difference for name, _, _, difference in (report - report).rows()}
    assert set(rows.values()) == {0.0}
    assert "accuracy" in str(report) and "difference" in str(report - report)


def test_bytes_and_neurobench_names():
    net = two_layers()
    report = measure(net, torch.zeros(1, 1, 3))
    assert report.bytes_dense == 4 * (9 + 12)
    # eye: 6 zeros of 9, 2 bytes of mask; second layer: 5 zeros of 12, 2 bytes of mask
    assert report.bytes_sparse == report.bytes_dense - (6 * 4 - 2) - (5 * 4 - 2)
    assert report.sparsity == pytest.approx(11 / 21)
    assert [layer.alive for layer in count(net)] == [3, 7]
    assert report.neurobench()["ConnectionSparsity"] == report.sparsity
    assert report.as_dict()["connectivity"] == pytest.approx(10 / 21)
    assert math.isnan(report.figures()["accuracy %"])


def test_the_model_is_left_as_it_was():
    net = two_layers().train()
    measure(net, torch.ones(2, 1, 3))
    assert net.training
    assert not isinstance(net[1].v, torch.Tensor)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_no_data_is_refused():
    with pytest.raises(ValueError, match="batches is empty"):
        measure(two_layers(), [])
    with pytest.raises(ValueError, match="batches is int"):
        measure(two_layers(), 3)


class Half(nn.Module):
    """Has a neuron layer that it does not use."""

    def __init__(self):
        super().__init__()
        self.used, self.idle = two_layers(), neuron.IFNode(step_mode="m")

    def forward(self, x):
        return self.used(x)


def test_layers_that_are_not_run_are_left_out():
    report = measure(Half(), torch.ones(2, 1, 3))
    assert len(report.firing) == len(measure(two_layers(), torch.ones(2, 1, 3)).firing)
    assert report.firing_rate == measure(two_layers(), torch.ones(2, 1, 3)).firing_rate


def test_each_module_keeps_its_mode_and_old_potentials_count_nowhere():
    net = two_layers()
    clean = measure(net, torch.full((2, 1, 3), 0.6)).operations
    net.train()
    net[1].eval()
    net(torch.full((1, 1, 3), 0.6))  # leaves potentials behind
    assert measure(net, torch.full((2, 1, 3), 0.6)).operations == clean
    assert (net[0].training, net[1].training) == (True, False)


def test_places_of_each_weight_in_the_order_of_the_network():
    net = nn.Module()
    net.last = layer.Linear(8, 2, step_mode="m")
    net.first = layer.Conv2d(1, 2, 3, stride=2, padding=1, step_mode="m")
    net.forward = lambda xs: net.last(net.first(xs).flatten(2))
    # a map of 4 x 3 halves to 2 x 2, in 5 time steps of 3 samples each
    found = places(net, torch.rand(5, 3, 1, 4, 3))
    assert list(found.items()) == [("first.weight", 4), ("last.weight", 1)]
    assert places(nn.Conv1d(1, 1, 2), torch.rand(7, 1, 5)) == {"weight": 4}
    assert places(nn.Linear(2, 1), torch.rand(7, 2)) == {"weight": 1}


def test_counting_places_leaves_no_trace():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), neuron.IFNode())
    before = net[1].running_mean.clone()
    places(net, torch.rand(3, 2))
    assert net.training
    assert net[1].running_mean.equal(before)
    assert net[2].v == 0.0
    assert not net[0]._forward_hooks


def test_sequences_are_counted_by_their_samples():
    """Four recordings of seven steps; of the first layer by hand: spikes times outputs."""
    net, events = fc3(hidden=5, inputs=6, classes=2), torch.zeros(7, 4, 6)
    events[2, 0, 1] = events[6, 3, :2] = 1.0
    assert measure(net, events).samples == 4
    assert uses(net, events)["fc1.weight"] == (7.0, 3 / (4 * 6))
    assert measure(net, events).operations.synops >= 3 * 5 / 4
