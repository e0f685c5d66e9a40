"""Weights: what is a synapse and what is not."""

import pytest
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

from spikewire.weights import split, synaptic_weights, unwrapped


class Thresholds(nn.Module):
    """A neuron layer with one learned threshold per neuron."""

    def __init__(self):
        super().__init__()
        self.threshold = nn.Parameter(torch.ones(2, 3, 3))  # (C, H, W)
        self.recurrent_weights = nn.Parameter(torch.ones(4, 4))


class ScaleNorm(nn.Module):
    """A normalisation that descends from none of torch's."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 3, 3))


def names(model, only=None):
    return [name for name, _ in synaptic_weights(model, only)]


def tied():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    return nn.Sequential(first, second, nn.Linear(4, 2))


def half_frozen():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    net[0].weight.requires_grad_(False)
    return net


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (nn.Linear(3, 2), ["weight"]),
        (
            nn.Sequential(
                layer.Conv2d(1, 2, 3),
                layer.BatchNorm2d(2),
                layer.ThresholdDependentBatchNorm2d(1.0, 1.0, 2),
                neuron.ParametricLIFNode(),
                layer.Linear(2, 2),
            ),
            ["0.weight", "4.weight"],
        ),
        (nn.Sequential(nn.LayerNorm((4, 4)), nn.GroupNorm(2, 4), nn.Linear(4, 4)), ["2.weight"]),
        (nn.Sequential(nn.Embedding(9, 4), nn.EmbeddingBag(9, 4), nn.Linear(4, 4)), ["2.weight"]),
        (nn.Sequential(nn.Linear(0, 4), nn.Linear(4, 4)), ["1.weight"]),
        (nn.Sequential(Thresholds(), ScaleNorm()), ["0.recurrent_weights"]),
        (tied(), ["0.weight", "2.weight"]),
        (half_frozen(), ["1.weight"]),
        (nn.RNN(3, 4, num_layers=1), ["weight_ih_l0", "weight_hh_l0"]),
        (nn.LSTM(3, 4, bidirectional=True), [
            "weight_ih_l0", "weight_hh_l0", "weight_ih_l0_reverse", "weight_hh_l0_reverse"
        ]),
        (nn.MultiheadAttention(4, 2), ["in_proj_weight", "out_proj.weight"]),
        (nn.ConvTranspose2d(2, 3, 3), ["weight"]),
        (nn.Bilinear(2, 3, 4), ["weight"]),
    ],
)  # fmt: skip
def test_the_rule(model, expected):
    assert names(model) == expected
    assert all(weight is model.get_parameter(name) for name, weight in synaptic_weights(model))


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        (None, ["0.weight", "1.weight", "2.weight"]),
        ("1.*", ["1.weight"]),
        (["0.*", "2.*"], ["0.weight", "2.weight"]),
        (["!0.weight"], ["1.weight", "2.weight"]),
        (["*", "!0.*", "!2.*"], ["1.weight"]),
        (["[01].weight", "!1.*"], ["0.weight"]),
    ],
)
def test_patterns(only, expected):
    assert names(nn.Sequential(*(nn.Linear(2, 2) for _ in range(3))), only) == expected


@pytest.mark.parametrize(
    ("model", "only", "words"),
    [
        (nn.Linear(2, 2), ["conv*"], "'conv\\*' matches no synapses; the model has weight"),
        (nn.Linear(2, 2), ["weight", "!conv*"], "'!conv\\*' matches no synapses"),
        (nn.Linear(2, 2), ["bias"], "matches no synapses"),
        (nn.Linear(2, 2), ["!weight"], "leaves no synapses"),
        (nn.Linear(2, 2), [], "only=\\[\\]: give a pattern or more, or None"),
        (nn.BatchNorm2d(3), None, "no synapses"),
        (nn.Linear(2, 2).requires_grad_(False), None, "no trainable parameter"),
    ],
)
def test_what_matches_nothing_is_refused(model, only, words):
    with pytest.raises(ValueError, match=words):
        names(model, only)


def test_split_takes_every_trainable_parameter_once():
    net = nn.Sequential(
        nn.Embedding(5, 4), tied(), layer.BatchNorm1d(2), neuron.ParametricLIFNode()
    )
    net[0].weight.requires_grad_(False)
    synapses, rest = split(net)
    assert [id(weight) for weight in synapses] == [
        id(weight) for _, weight in synaptic_weights(net)
    ]
    everything = [id(p) for p in net.parameters() if p.requires_grad]
    assert sorted(id(p) for p in synapses + rest) == sorted(everything)


def test_names_are_those_of_the_network_inside_its_wrappers():
    net = nn.Sequential(nn.Linear(2, 2))
    wrapped = torch.compile(nn.DataParallel(torch.compile(net, backend="eager")), backend="eager")
    assert unwrapped(wrapped) is net
    assert names(wrapped) == ["0.weight"]
