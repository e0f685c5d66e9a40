"""Learning by contrast: coincidences, unreliable synapses, the two phases, and whole runs."""

import copy
import json

import pytest
import torch

from spikewire import Pruner, Threshold
from spikewire.config import override, read, recipe
from spikewire.nets import NETS, sampling_machine
from spikewire.nets.sampling import Dice, coincidence
from spikewire.run import run


def small(**settings):
    options = {"hidden": 12, "T": 10, "inputs": 16, "classes": 2, "low": 0.0, "high": 1.0}
    return sampling_machine(**{**options, **settings})


def certain(**settings):
    """One pixel, one class, one hidden neuron; nothing is left to chance."""
    options = {"hidden": 1, "inputs": 1, "classes": 1, "copies": 1, "T": 4, "settle": 1}
    net = small(**{**options, "release": 1.0, "noise": 0.0, "rate": 1.0, **settings})
    with torch.no_grad():
        net.synapses.weight.copy_(torch.tensor([[2.0, 2.0]]))
    return net


# --- the rule -------------------------------------------------------------------------------------


def test_coincidence_against_a_transcription_pair_by_pair():
    """Sum over pairs of spikes of (1 - 1/trace)^distance, in either order; at once counts twice."""
    generator = torch.Generator().manual_seed(0)
    visible, hidden = ((torch.rand(6, 3, n, generator=generator) < 0.4).double() for n in (5, 4))
    expected = torch.zeros(4, 5, dtype=torch.float64)
    for sample in range(3):
        for s, i in visible[:, sample].nonzero().tolist():
            for t, j in hidden[:, sample].nonzero().tolist():
                expected[j, i] += (1 + (s == t)) * (1 - 1 / 3) ** abs(t - s)
    assert torch.allclose(coincidence(visible, hidden, 3.0), expected, rtol=1e-12)


def test_contrast_by_hand():
    """A dark pixel learns from the class that fires with it afterwards, of itself."""
    net = certain()
    weight, bias, back = net.contrast(torch.zeros(1, 1), torch.tensor([0]))
    # Three of four time steps count. Shown: the class fires always, and the hidden neuron with it
    # (2 >= 1); the pixel never. Alone: hidden drives both (2 - 0.5 >= 1), both drive hidden.
    together = sum(2 * 0.5 ** abs(s - t) / (1 + (s != t)) for s in range(3) for t in range(3)) / 3
    assert weight.flatten().tolist() == pytest.approx([-together, 0.0])
    assert bias.tolist() == [0.0] and back.tolist() == [-1.0, 0.0]


def test_a_network_that_dreams_of_what_it_sees_has_nothing_to_learn():
    for change in certain().contrast(torch.ones(1, 1), torch.tensor([0])):
        assert change.eq(0).all()


def test_phases_begin_at_rest_and_leave_nothing(bars):
    net = small(release=1.0, noise=0.0)
    images, labels = bars(4)
    torch.manual_seed(1)
    first = net.contrast(images.flatten(1), labels)
    torch.manual_seed(1)
    again = net.contrast(images.flatten(1), labels)
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))


# --- chance ---------------------------------------------------------------------------------------


def test_unreliable_synapses_have_the_mean_and_variance_of_a_mask_over_spikes():
    net = small(release=0.4, noise=0.0)
    spikes = (torch.rand(1, 24) < 0.5).float()
    got_through = (torch.rand(40_000, *net.synapses.weight.shape) < 0.4) / 0.4
    currents = (got_through * net.synapses.weight * spikes).sum(2)
    spread = net._spread(spikes, net.synapses.weight)[0].detach()
    assert torch.allclose(currents.std(0), spread, rtol=5 / 80_000**0.5)
    mean = net.synapses(spikes)[0] - net.synapses.bias
    assert torch.allclose(currents.mean(0), mean, atol=5 * float(spread.max()) / 200)


def test_dice_are_fresh_in_training_and_always_the_same_in_evaluation():
    chance = torch.full((3, 1000), 0.3)
    still, again = (Dice(chance, fresh=False) for _ in range(2))
    first = still.happens(chance)
    assert first[0].equal(first[2]) and again.happens(chance[:1]).equal(first[:1])
    assert not still.happens(chance).equal(first)
    fresh = Dice(chance, fresh=True)
    drawn = fresh.happens(chance)
    assert not drawn[0].equal(drawn[1])
    assert abs(float(drawn.mean()) - 0.3) < 5 * (0.21 / 3000) ** 0.5
    assert float(fresh.normal(2 * torch.ones(10_000, 1)).std()) == pytest.approx(2.0, rel=0.04)


def test_an_accuracy_can_be_measured_again_whatever_the_batch(bars):
    net = small().eval()
    images, _ = bars(6)
    whole = net(images)
    for neurons in (net.hidden, net.visible):
        neurons.reset()
    torch.manual_seed(7)
    assert torch.allclose(net(images[2:5]), whole[2:5])


# --- the network ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_the_gradient_is_the_contrast_of_the_class_that_the_loss_wants(scale, bars):
    net, (images, labels) = small(), bars(8)
    twin = copy.deepcopy(net)
    torch.manual_seed(3)
    outputs = net(images)
    (scale * torch.nn.functional.cross_entropy(outputs, labels)).backward()
    torch.manual_seed(3)
    twin(images)
    weight, bias, back = twin.contrast(0.8 * images.flatten(1), labels)
    assert torch.allclose(net.synapses.weight.grad, -weight / 8)
    assert torch.allclose(net.synapses.bias.grad, -0.1 * bias / 8)
    assert torch.allclose(net.back.grad, -0.1 * back / 8)


def test_a_loss_that_is_content_teaches_nothing(bars):
    net, (images, _) = small(), bars(4)
    (0.0 * net(images).sum()).backward()
    assert all(parameter.grad.eq(0).all() for parameter in net.parameters())


def test_it_learns_and_goes_on_without_its_weakest_synapses(bars):
    """The user's own loop, with a pruner in it."""
    torch.manual_seed(0)
    net = small(hidden=30)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    pruner = Pruner(net, Threshold(tau=0.1, every=60), optimizer, steps=80)
    images, labels = bars(800)
    for start in range(0, 800, 10):
        optimizer.zero_grad()
        taught = slice(start, start + 10)
        torch.nn.functional.cross_entropy(net(images[taught]), labels[taught]).backward()
        for neurons in (net.hidden, net.visible):
            neurons.reset()
        optimizer.step()
    pruner.finish()
    unseen, truth = bars(100, seed=1)
    assert (net.eval()(unseen).argmax(1) == truth).float().mean() > 0.95
    assert 0.2 < net.synapses.weight.count_nonzero() / net.synapses.weight.numel() < 0.8


@pytest.mark.parametrize(
    ("name", "value"),
    [("hidden", 0), ("T", 0), ("inputs", 0), ("classes", 0), ("copies", 0), ("settle", 10),
     ("settle", -1), ("release", 0), ("release", 1.5), ("noise", -0.1), ("rate", 0), ("low", 2.0),
     ("trace", 0.5)],
)  # fmt: skip
def test_the_network_refuses(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}"):
        small(**{name: value})


# --- runs -----------------------------------------------------------------------------------------

DIGITS = ("data=digits", "epochs=3", "network.inputs=64", "network.hidden=60", "network.low=-0.82",
          "network.high=1.84")  # fmt: skip


def test_the_recipe_and_that_it_goes_on_bit_exactly(tmp_path):
    words = [*DIGITS, "method=threshold", "method.tau=0.1", "method.every=150"]
    plan = recipe(override(read("contrast"), words))

    def interrupt(out, chosen, epoch, record):
        if epoch.complete and epoch.epoch == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(plan, tmp_path / "halved", show=interrupt)
    for name in ("whole", "halved"):
        run(plan, tmp_path / name)
    halves = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "halved")]
    assert halves[0] == halves[1]
    report = json.loads((tmp_path / "whole" / "report.json").read_text())
    assert report["accuracy"]["last"] > 60.0  # of ten classes
    assert 0.05 < report["connectivity"] < 0.9
    assert report["synops"] > 0 and report["firing_rate"] > 0


def test_the_name():
    assert NETS["sampling-machine"] is sampling_machine
