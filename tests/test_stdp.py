"""Learning by STDP: the rule, normalisation, thresholds, labels, and whole runs."""

import copy
import json
import math

import pytest
import torch
from spikingjelly.activation_based import layer, learning
from torch import nn

from spikewire import METHODS, Pruner, Threshold
from spikewire.config import override, read, recipe
from spikewire.data import Batches, load
from spikewire.nets import NETS, Competition, NormalisedSGD, diehl_cook, stdp
from spikewire.nets.stdp import MEAN, normalise
from spikewire.run import run
from spikewire.train import fit


def train_of(*times, T=4):
    """Spikes (T, 1, 1) of one neuron at these times."""
    spikes = torch.zeros(T, 1, 1)
    spikes[list(times)] = 1.0
    return spikes


def spikes(T, B, N, share, seed):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(T, B, N, generator=generator) < share).double()


# --- the rule -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "behind", "change"),
    [
        # a trace of 1 is 1/2 one step later, then 1/4
        ([0], [2], 0.25),  # causes count with the trace of the input
        ([0, 1], [2], 0.75),
        ([0], [0], 1.0 - 3.0),  # at the same time, both do
        ([2], [0], -3.0 * 0.25),  # the wrong order counts three times, below 0
        ([0, 3], [1], 0.5 - 3.0 * 0.25),
        ([1], [], 0.0),
    ],
)
def test_the_rule_by_hand(before, behind, change):
    found = stdp(train_of(*before), train_of(*behind), trace=2.0, depression=3.0)
    assert found.item() == pytest.approx(change)


def test_the_rule_against_a_transcription_pair_by_pair():
    """Sum over pairs of spikes of (1 - 1/trace)^distance, no trace involved."""
    before, behind = spikes(7, 3, 5, 0.4, 0), spikes(7, 3, 4, 0.3, 1)
    expected = torch.zeros(4, 5, dtype=torch.float64)
    for sample in range(3):
        for s, i in before[:, sample].nonzero().tolist():
            for t, n in behind[:, sample].nonzero().tolist():
                if s <= t:
                    expected[n, i] += (1 - 1 / 3) ** (t - s)
                if t <= s:
                    expected[n, i] -= 0.2 * (1 - 1 / 3) ** (s - t)
    assert torch.allclose(stdp(before, behind, 3.0, 0.2), expected, rtol=1e-12)


def test_the_rule_is_that_of_spikingjelly():
    synapses = layer.Linear(5, 4, bias=False, step_mode="m").double()
    given = spikes(7, 3, 4, 0.3, 1)
    neurons = nn.Identity()
    learner = learning.STDPLearner("m", synapses, neurons, 3.0, 3.0, f_pre=lambda w: 0.2 * w**0,
                                   f_post=lambda w: w**0)  # fmt: skip
    before = spikes(7, 3, 5, 0.4, 0)
    synapses(before), neurons(given)
    learner.step(on_grad=True)
    assert torch.allclose(stdp(before, given, 3.0, 0.2), -synapses.weight.grad, rtol=1e-12)


@pytest.mark.parametrize(
    ("trace", "depression", "name"), [(0.5, 0.0, "trace"), (2.0, -1.0, "depression")]
)
def test_the_rule_refuses(trace, depression, name):
    with pytest.raises(ValueError, match=name):
        stdp(train_of(0), train_of(1), trace, depression)


# --- normalisation --------------------------------------------------------------------------------


def test_weights_are_moved_kept_above_0_and_normalised():
    weight = nn.Parameter(torch.tensor([[0.1, 0.1, 0.1, 0.1], [0.4, 0.0, 0.0, 0.0]]))
    weight.grad = torch.tensor([[-0.2, 0.0, 0.3, 0.1], [0.0, 0.0, 0.0, -0.4]])
    NormalisedSGD([weight], lr=1.0).step()
    # 0.3, 0.1, -0.2 and 0; 0.4, 0, 0 and 0.4: both to a sum of 0.4
    expected = torch.tensor([[0.3, 0.1, 0.0, 0.0], [0.2, 0.0, 0.0, 0.2]])
    assert torch.allclose(weight, expected)


def test_normalisation_has_its_mean_and_leaves_proportions():
    weight = torch.rand(6, 3, 5, dtype=torch.float64) - 0.3
    kept = weight.clamp(min=0.0)
    normalise(weight)
    assert torch.allclose(weight.mean((1, 2)), torch.full((6,), MEAN, dtype=torch.float64))
    assert torch.allclose(weight * kept.sum((1, 2), keepdim=True), kept * 15 * MEAN)


def test_biases_are_not_normalised_and_a_closure_is_heard():
    bias = nn.Parameter(torch.tensor([1.0, -3.0]))
    optimizer = NormalisedSGD([bias], lr=0.5)

    def closure():
        optimizer.zero_grad()
        (lost := bias.sum()).backward()
        return lost

    assert optimizer.step(closure).item() == -2.0
    assert bias.tolist() == [0.5, -3.5]


def test_a_pruner_has_the_last_word():
    """The step normalises what it moves; pruned synapses are 0 afterwards all the same."""
    net = nn.Linear(4, 2, bias=False)
    net.weight.data = torch.tensor([[0.2, 0.1, 0.07, 0.03], [0.1, 0.1, 0.1, 0.1]])
    optimizer = NormalisedSGD(net.parameters(), lr=0.1)
    pruner = Pruner(net, Threshold(tau=0.05, every=1), optimizer, steps=3)
    for push in (0.0, -1.0, -1.0):
        net.weight.grad = torch.tensor([[0.0, 0.0, 0.0, push], [0.0, 0.0, 0.0, 0.0]])
        optimizer.step()
    pruner.finish()
    # the dead synapse grows by 0.1 in each step, and takes its share of the sum of 0.4 with it
    assert net.weight[0, 3] == 0.0 and 0.0 < net.weight[0].sum() < 0.4
    assert torch.allclose(net.weight[1], torch.tensor(0.1))


def test_another_optimizer_is_refused_when_weights_have_left_their_mean():
    net = diehl_cook(neurons=4, T=5, inputs=16, threshold=0.1, low=0.0, high=1.0)
    adam = torch.optim.Adam(net.parameters(), 0.1)
    with pytest.raises(ValueError, match="normalised-sgd"):
        for _ in range(3):
            adam.zero_grad()
            net(torch.ones(2, 1, 4, 4)).sum().backward()
            net.neurons.reset()
            adam.step()


# --- neurons --------------------------------------------------------------------------------------


def test_one_neuron_fires_at_a_time_and_resets_all():
    neurons = Competition(3, tau=1 / math.log(2), threshold=1.0)
    currents = torch.tensor([[0.8, 0.2, 0.0], [0.8, 1.2, 0.0], [0.4, 0.9, 0.0], [0.4, 0.6, 0.0]])
    fired = neurons(currents.unsqueeze(1)).squeeze(1)
    # u: .8 .2 0; then 1.2 1.3 0: the second fires; from 0 again: .4 .9 0; then .6 1.05 0: it fires
    assert fired.tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 1, 0]]
    assert neurons.v.tolist() == [[0, 0, 0]]


def test_samples_do_not_compete_with_one_another():
    fired = Competition(2, threshold=1.0)(torch.tensor([[[1.5, 1.4], [1.1, 1.2], [0.5, 0.9]]]))
    assert fired.tolist() == [[[1, 0], [0, 1], [0, 0]]]


def test_thresholds_rise_with_spikes_and_recover_with_samples():
    neurons = Competition(3, rise=0.5, recovery=0.1)
    neurons.adapt(torch.tensor([[[1.0, 0, 0], [0, 1, 0]], [[1, 0, 0], [0, 0, 0]]]))
    # two samples: 2, 1 and 0 spikes, times 0.5, times 0.9 squared
    assert torch.allclose(neurons.theta, torch.tensor([0.81, 0.405, 0.0]))


def test_who_has_a_higher_threshold_leaves_the_image_to_another():
    neurons = Competition(2, threshold=1.0)
    neurons.theta.copy_(torch.tensor([0.5, 0.0]))
    assert neurons(torch.tensor([[[1.4, 1.2]], [[1.6, 0.9]]])).tolist() == [[[0, 1]], [[1, 0]]]


@pytest.mark.parametrize(
    ("name", "value"),
    [("tau", 0), ("threshold", -1), ("rise", -0.1), ("recovery", 1.0), ("neurons", 0)],
)
def test_neurons_refuse(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}"):
        Competition(**{"neurons": 3, name: value})


# --- the network ----------------------------------------------------------------------------------


def small(**settings):
    options = {"neurons": 6, "T": 12, "inputs": 16, "classes": 2, "low": 0.0, "high": 1.0}
    return diehl_cook(**{**options, "threshold": 0.8, **settings})


def test_the_gradient_is_what_stdp_adds_and_no_loss_changes_it(bars):
    net = small()
    images, _ = bars(8)
    torch.manual_seed(3)
    before = net.train().encode(images)
    behind = net.neurons(net.synapses(before))
    net.neurons.reset()
    for loss in (lambda outputs: outputs.sum(), lambda outputs: 7 * outputs.square().mean()):
        twin = copy.deepcopy(net)
        torch.manual_seed(3)
        loss(twin(images)).backward()
        assert behind.sum() > 0
        assert torch.allclose(twin.synapses.weight.grad, -stdp(before, behind, net.trace) / 8)


def test_only_training_changes_thresholds_and_draws_numbers(bars):
    net = small().eval()
    images, _ = bars(8)
    first = net.encode(images)
    torch.manual_seed(99)
    assert net.encode(images[3:5]).equal(first[:, 3:5])  # whatever the batch, too
    net(images)
    assert net.neurons.theta.eq(0).all()
    net.neurons.reset()
    net.train()
    assert not net.encode(images).equal(net.encode(images))
    net(images)
    assert net.neurons.theta.gt(0).any()


@pytest.mark.parametrize("training", [False, True])
def test_bright_pixels_fire_at_the_rate(training):
    net = small(T=4000, rate=0.3).train(training)
    grey = torch.tensor([-1.0, 0.0, 0.5, 1.0] * 4).view(1, 1, 4, 4)
    rates = net.encode(grey).mean((0, 1))[:4]
    # five standard errors of a mean of 4000
    assert torch.allclose(rates, torch.tensor([0.0, 0.0, 0.15, 0.3]), atol=0.037)
    assert rates[:2].eq(0).all()


def test_neurons_take_the_class_they_answer_to_most_and_silent_ones_none(bars):
    net = small(neurons=3, rate=1.0)
    with torch.no_grad():
        net.synapses.weight.copy_(
            torch.stack([torch.tensor([0.2] * 8 + [0] * 8), torch.tensor([0] * 8 + [0.2] * 8),
                         torch.zeros(16)])
        )  # fmt: skip
    images, labels = bars(20)
    net.assign([(images[:10], labels[:10]), (images[10:], labels[10:])])
    assert net.votes.tolist() == [[1, 0], [0, 1], [0, 0]]
    assert net.training and net.eval()(images).argmax(1).equal(labels)


def test_classes_vote_with_the_mean_of_their_neurons_however_rare_they_are(bars):
    """Nine images of one class, three of the other: sums would give most neurons to the first."""
    net = small(neurons=3, rate=1.0)
    with torch.no_grad():
        upper, lower = [0.2] * 8 + [0] * 8, [0.04] * 8 + [0.16] * 8
        net.synapses.weight.copy_(torch.tensor([upper, lower, lower[::-1]]))
    images, labels = bars(40)
    upper, lower = (labels == 0).nonzero().flatten()[:9], (labels == 1).nonzero().flatten()[:3]
    few = torch.cat([upper, lower])
    net.assign([(images[few], labels[few])])
    assert net.votes[1].tolist() == [0, 1]
    assert net.votes.sum(0).tolist() == pytest.approx([1.0, 1.0])


def test_no_more_images_are_labelled_than_asked_for(bars):
    net, shown = small(labelled=25), []

    def batches():
        for number in range(9):
            shown.append(number)
            yield bars(10, seed=number)

    net.assign(batches())
    assert shown == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "value"),
    [("T", 0), ("inputs", 0), ("classes", 0), ("labelled", 0), ("rate", 0), ("rate", 1.5),
     ("low", 2.0), ("trace", 0.5), ("depression", -1.0)],
)  # fmt: skip
def test_the_network_refuses(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}"):
        small(**{name: value})


def test_it_learns_what_images_have_in_common_without_labels(bars):
    """The user's own loop: neurons have their fields before a label is told."""
    torch.manual_seed(0)
    net = small(T=20, rise=0.02)
    optimizer = NormalisedSGD(net.parameters(), lr=0.05)
    images, labels = bars(400)
    for start in range(0, 400, 20):
        optimizer.zero_grad()
        net(images[start : start + 20]).sum().backward()
        optimizer.step()
        net.neurons.reset()
    halves = net.synapses.weight.view(6, 2, 8).sum(2)
    assert (halves.amax(1) > 2 * halves.amin(1)).sum() >= 4
    assert torch.allclose(net.synapses.weight.mean(1), torch.tensor(MEAN))
    net.assign([(images, labels)])
    unseen, truth = bars(100, seed=1)
    assert (net.eval()(unseen).argmax(1) == truth).float().mean() > 0.95


# --- runs -----------------------------------------------------------------------------------------

DIGITS = ("data=digits", "data.fraction=0.2", "epochs=2", "batch=16", "network.inputs=64",
          "network.neurons=30", "network.T=15", "network.threshold=2.0", "network.low=-0.82",
          "network.high=1.84", "optimizer.lr=0.03", "network.labelled=200")  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [
        ["method=threshold", "method.tau=0.03", "method.every=10"],
        ["method=adaptive-threshold", "method.every=10"],
        ["method=progressive", "method.tau=linear(0.0, 0.05)", "method.every=10"],
        ["method=freeze", "method.tau=0.03", "method.value=0.0", "method.every=10"],
        ["method=freeze", "method.tau=0.08", "method.value=0.04", "method.every=10"],
        ["method=gmp", "method.sparsity=0.5", "method.every=5"],
    ],
    ids=lambda words: words[0].removeprefix("method="),
)
def test_the_recipe_with_every_method_of_the_family(words, tmp_path):
    out = run(recipe(override(read("stdp"), [*DIGITS, *words])), tmp_path / "run")
    report = json.loads((out / "report.json").read_text())
    soft = "method.value=0.04" in words  # which freezes, and prunes nothing
    assert report["connectivity"] == 1.0 if soft else 0.1 < report["connectivity"] < 0.9
    assert report["accuracy"]["last"] > 30.0  # of ten classes
    assert report["synops"] > 0 and report["macs"] == 0 and report["firing_rate"] > 0


class Stop(Exception):
    pass


def test_a_run_goes_on_bit_exactly(tmp_path, monkeypatch):
    words = [*DIGITS, "method=threshold", "method.tau=0.03", "method.every=7"]
    plan = recipe(override(read("stdp"), words))
    run(plan, tmp_path / "whole")

    def interrupt(out, chosen, epoch, record):
        if epoch.complete and epoch.epoch == 1:
            raise Stop

    with pytest.raises(Stop):
        run(plan, tmp_path / "halved", show=interrupt)
    run(plan, tmp_path / "halved")
    for name in ("model.safetensors", "model.sparse.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "halved" / name).read_bytes()


def test_labels_are_told_before_every_evaluation_whatever_the_loader():
    digits = load("digits", validation=0.0, fraction=0.3)
    batches = Batches(digits.train, 16, digits.mean, digits.std, drop_last=True)
    loader = [(images, labels) for images, labels in batches.epoch(1)]
    for train in (batches, loader):
        net = diehl_cook(neurons=10, T=15, inputs=64, threshold=2.0, low=-0.82, high=1.84)
        optimizer = NormalisedSGD(net.parameters(), lr=0.03)
        assert net.votes.eq(0).all()
        for epoch in fit(net, optimizer, train, epochs=1, test=loader):
            assert net.votes.sum() > 0 and epoch.accuracy["test"] > 20.0


def test_the_names():
    assert NETS["diehl-cook"] is diehl_cook
    assert METHODS["threshold"] is Threshold
    with pytest.raises(ValueError, match=r"normalised-sgd"):
        recipe(override(read("stdp"), ["optimizer=rmsprop"]))
    with pytest.raises(ValueError, match=r"weight_decay=0\.1"):
        recipe(override(read("stdp"), ["optimizer.weight_decay=0.1"]))
