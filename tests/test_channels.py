"""Channels: found, looked at and scored, against numbers computed by hand."""

import pytest
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

from spikewire import Pruner
from spikewire.channels import (
    CHANNEL_SCORES,
    ChannelCriticality,
    activity,
    channels_of,
    charged,
    criticality,
    fired,
    gain,
    gradient,
    potential,
    strength,
    survey,
)
from spikewire.methods import SCA, APoZ, Slim, SlimCriticality
from spikewire.nets import resnet19, tiny, vgg16
from spikewire.spelling import parse, spell


class Two(nn.Module):
    """Two channels, normalised by the identity, and a neuron that integrates without leak."""

    def __init__(self, gains=(1.0, 1.0)):
        super().__init__()
        self.conv = layer.Conv2d(1, 2, 1, bias=False, step_mode="m")
        self.norm = layer.BatchNorm2d(2, eps=0.0, step_mode="m")
        self.fire = neuron.IFNode(step_mode="m")
        self.flat = layer.Flatten(step_mode="m")
        self.fc = layer.Linear(4, 3, step_mode="m")
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, -2.0]).view(2, 1, 1, 1))
            self.norm.weight.copy_(torch.tensor(gains))

    def forward(self, xs):  # (T, B, 1, 1, 2)
        return self.fc(self.flat(self.fire(self.norm(self.conv(xs)))))


IMAGES = torch.tensor([[[[[0.5, 0.25]]]], [[[[0.5, 0.25]]]]])  # (2, 1, 1, 1, 2)


def pruner_of(net, data=(IMAGES,), method=None):
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    return Pruner(net, method or Slim(0.5), optimizer, steps=4, data=list(data))


def test_what_is_seen_is_averaged_over_samples_places_and_time():
    seen = survey(Two(), [IMAGES], fired)["fire"]
    # potentials 0.5, 1 (fires) and 0.25, 0.5; the second channel sinks
    assert seen.tolist() == [1 / 4, 0.0]
    potentials = survey(Two(), [IMAGES], charged, membranes=True)["fire"]
    assert potentials.tolist() == [(0.5 + 1.0 + 0.25 + 0.5) / 4, (1 + 2 + 0.5 + 1) / 4]


def test_batches_of_unequal_size_weigh_by_their_samples():
    silent = torch.zeros(2, 3, 1, 1, 2)
    seen = survey(Two(), [IMAGES, (silent, torch.zeros(3, dtype=torch.long))], fired)["fire"]
    assert seen.tolist() == [1 / 16, 0.0]


def test_the_network_is_left_as_it_was():
    net = Two().train()
    net.norm.eps = 1e-5
    net(IMAGES)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    survey(net, [IMAGES], fired)
    assert net.training and net.norm.training
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())
    assert net.fire.v == 0.0


def test_criticality_is_the_slope_at_the_largest_place():
    """Mean over time first, then the largest place, then the mean over samples."""
    # of the first sample one place is nearer to threshold at each step, of the second the other one
    one, other = [[0.9, 0.0], [-0.9, 0.8]], [[0.0, 0.5], [0.0, 0.0]]  # (T, H W)
    images = torch.tensor([one, other]).transpose(0, 1).reshape(2, 2, 1, 1, 2)  # (T, B, C, H, W)

    def slope(*distances):
        return sum(1 / (1 + (torch.pi * x) ** 2) for x in distances) / len(distances)

    # by channel, sample and place: potentials of 1 and -2 times what came so far, less 1
    first = [[slope(-0.1, -1.0), slope(-1.0, -0.2)], [slope(-1.0), slope(-0.5)]]
    second = [[slope(-2.8, -1.0), slope(-1.0, -2.6)], [slope(-1.0), slope(-2.0)]]
    scores = criticality(pruner_of(Two(), [images]))["norm"].tolist()
    assert scores == pytest.approx([sum(map(max, places)) / 2 for places in (first, second)])
    means = ChannelCriticality(over="mean")(pruner_of(Two(), [images]))["norm"].tolist()
    assert means == pytest.approx([sum(map(sum, places)) / 4 for places in (first, second)])


def test_scores_of_each_kind():
    net = Two(gains=(-2.0, 0.5))
    pruner = pruner_of(net)
    net.norm.weight.grad = torch.tensor([0.1, -0.3])
    assert gain(pruner)["norm"].tolist() == [2.0, 0.5]
    assert gradient(pruner)["norm"].tolist() == pytest.approx([0.1, 0.3])
    assert strength(pruner)["norm"].tolist() == [1.0, 2.0]
    assert activity(pruner_of(Two()))["norm"].tolist() == [1 / 4, 0.0]
    assert potential(pruner_of(Two()))["norm"].tolist() == pytest.approx([2.25 / 4, 4.5 / 4])


def test_a_gradient_is_asked_for():
    with pytest.raises(ValueError, match=r"gains of norm have no gradient: call loss.backward"):
        gradient(pruner_of(Two()))


def test_where_normalisations_stand():
    vgg = channels_of(vgg16(T=2, width=4), torch.rand(1, 3, 32, 32))
    assert [(c.name, c.behind, c.ahead) for c in vgg[:2]] == [
        ("bn1", "conv1", "lif1"),
        ("bn2", "conv2", "lif2"),
    ]
    assert len(vgg) == 13
    resnet = channels_of(resnet19(T=2, width=4), torch.rand(1, 3, 32, 32))
    # what enters a pre-activation block is a sum, except in the first
    assert [(c.name, c.behind) for c in resnet[1:4]] == [
        ("block1_1.bn2", "block1_1.conv1"),
        ("block1_2.bn1", None),
        ("block1_2.bn2", "block1_2.conv1"),
    ]
    assert resnet[-1].ahead == "lif"


def test_a_read_out_keeps_its_channels():
    """Ten neurons vote for each class of `tiny`: none of them can leave the network."""
    found = channels_of(tiny(T=2), torch.rand(1, 1, 8, 8))
    assert [c.name for c in found] == ["bn1", "bn2"]


def test_a_layer_that_others_listen_to_is_behind_nobody():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1)
            self.norm, self.read = nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1)

        def forward(self, x):
            x = self.first(x)
            return self.read(x + self.second(self.norm(x)))

    (found,) = channels_of(Shared(), torch.rand(1, 1, 2, 2))
    assert found.behind is None


@pytest.mark.parametrize("flatten", [lambda x: x.flatten(1), lambda x: torch.flatten(x, 1)])
def test_flattening_without_a_module_is_understood(flatten):
    class Flat(nn.Sequential):
        def forward(self, x):
            return self[2](flatten(self[1](self[0](x))))

    net = Flat(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Linear(8, 3))
    assert [c.name for c in channels_of(net, torch.rand(1, 1, 2, 2))] == ["1"]


def test_normalisations_that_cannot_lose_a_channel_are_named():
    class Opaque(nn.Sequential):
        def forward(self, x):
            return self[2](self[1](self[0](x)).sort(1).values)

    net = Opaque(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1))
    with pytest.raises(ValueError, match="no channel of 1 can leave the network"):
        channels_of(net, torch.rand(1, 1, 2, 2))


def test_shortcuts_of_post_activation_blocks_reach_the_neurons_after_the_sum():
    found = channels_of(resnet19("lottery", T=2, width=4), torch.rand(1, 3, 32, 32))
    ahead = {c.name: c.ahead for c in found}
    assert ahead["block1_1.bn2"] == ahead["block1_1.shortcut.1"] == "block1_1.lif2"


@pytest.mark.parametrize("name", CHANNEL_SCORES)
def test_scores_are_spelled(name):
    score = parse("channel score", name, CHANNEL_SCORES)
    assert parse("channel score", spell(score, CHANNEL_SCORES), CHANNEL_SCORES) == score


def test_without_normalisation_there_is_nothing_to_take_out():
    net = nn.Sequential(nn.Linear(2, 2), neuron.IFNode())
    with pytest.raises(ValueError, match="the model has no batch normalisation"):
        Pruner(net, Slim(0.5), steps=4, data=[torch.rand(3, 2)])


@pytest.mark.parametrize("method", [APoZ(0.5), SCA(0.5), SlimCriticality(0.5)])
@pytest.mark.parametrize("ahead", [False, True])
def test_neurons_are_looked_for_before_anything_is_done(method, ahead):
    last = layer.Conv2d(2, 2, 1, step_mode="m")
    parts = [*list(Two().children())[:2], last, *([neuron.IFNode(step_mode="m")] if ahead else [])]
    words = "no neuron layer receives these" if ahead else "no neuron layer of a known library"
    with pytest.raises(ValueError, match=words):
        pruner_of(nn.Sequential(*parts), method=method)


def test_data_may_hold_more_than_inputs_and_labels():
    batch = (IMAGES, torch.eye(2)[:1], torch.tensor([7]))  # one-hot labels, places
    assert activity(pruner_of(Two(), data=[batch]))["norm"].tolist() == [1 / 4, 0.0]


def test_a_shuffling_loader_leaves_the_users_randomness_alone():
    pictures = torch.utils.data.TensorDataset(torch.rand(8, 3, 32, 32))
    loader = torch.utils.data.DataLoader(pictures, batch_size=4, shuffle=True)
    net = vgg16(T=2, width=4)
    before = torch.random.get_rng_state()
    pruner = Pruner(net, SlimCriticality(0.5), steps=4, data=loader)
    criticality(pruner)
    assert torch.random.get_rng_state().equal(before)


def test_a_network_that_was_just_run_is_put_to_rest():
    net = Two().eval()
    net(IMAGES)
    assert pruner_of(net).channels
    assert net.fire.v == 0.0


def test_a_state_of_other_channels_is_refused_before_anything_is_loaded():
    state = pruner_of(Two()).state_dict()
    state["channels"]["other"] = state["channels"].pop("norm")
    pruner = pruner_of(Two())
    state["step"] = 3
    with pytest.raises(ValueError, match="saved by Slim"):
        pruner.load_state_dict(state)
    assert pruner.step == 0


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([{"image": IMAGES}], "a batch is dict"),
        ("images", "batches is str"),
        (None, "SCA looks at the network at work: give data="),
        (iter([IMAGES]), "can be gone through once only"),
        ([], "data has no batches"),
        ([3], "a batch is int: give a tensor of images"),
    ],
)
def test_data_is_asked_for_before_anything_is_done(data, words):
    with pytest.raises(ValueError, match=words):
        Pruner(Two(), SCA(0.5), steps=4, data=data)


def test_a_network_that_cannot_be_traced_is_refused():
    class Branching(Two):
        def forward(self, xs):
            return super().forward(xs if xs.sum() > 0 else -xs)

    with pytest.raises(ValueError, match="cannot be traced"):
        pruner_of(Branching())
