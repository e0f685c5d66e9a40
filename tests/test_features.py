"""Features and entropies of trained networks, against what they are by definition."""

import pytest
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

from spikewire.dialects import reset
from spikewire.features import entropies, features
from spikewire.nets import lsnn, tiny

IMAGES = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3


def network():
    torch.manual_seed(0)
    net = tiny(T=3)
    for norm in (net.bn1, net.bn2, net.bn3):
        norm.momentum = 1.0
        nn.init.constant_(norm.weight, 3.0)  # all images make something fire
    net(IMAGES)
    reset(net)
    return net.eval()


def given_to_the_classifier(net):
    """Unit features (12, 256), the long way round."""
    with torch.no_grad():
        spikes = net[: list(dict(net.named_children())).index("fc")](IMAGES)
    reset(net)
    mean = spikes.double().mean(0)
    return mean / mean.norm(dim=1, keepdim=True)


def test_variances_within_classes_are_mean_squared_distances():
    net = network()
    found = features(net, [(IMAGES[:5], LABELS[:5]), (IMAGES[5:], LABELS[5:])], 3)
    unit = given_to_the_classifier(net)
    assert found.counts.tolist() == [4, 4, 4]
    for number in range(3):
        mine = unit[number == LABELS]
        expected = (mine - mine.mean(0)).square().sum(1).mean()
        assert float(found.variances[number]) == pytest.approx(float(expected), rel=1e-5)


def test_likeness_is_the_cosine_between_centroids():
    net = network()
    unit = given_to_the_classifier(net)
    parts = slice(0, 6), slice(6, 12)
    train, test = (features(net, [(IMAGES[part], LABELS[part])], 3) for part in parts)
    for number in range(3):
        one, other = (unit[part][number == LABELS[part]].mean(0) for part in parts)
        expected = float(one @ other / one.norm() / other.norm())
        assert float(train.likeness(test)[number]) == pytest.approx(expected, rel=1e-5)
    assert train.likeness(train).tolist() == pytest.approx([1, 1, 1])


def test_classes_without_images_and_images_without_spikes_are_zeros():
    net = network()
    found = features(net, [(torch.zeros(2, 1, 8, 8), torch.tensor([1, 1]))], 3)
    assert found.counts.tolist() == [0, 2, 0]
    assert found.variances[0] == 0
    assert torch.isfinite(found.likeness(found)).all()


def test_networks_that_step_through_time_themselves():
    net = lsnn(regular=4, adaptive=3)
    found = features(net, [(torch.rand(4, 1, 28, 28), torch.arange(4))], 10)
    assert found.centroids.shape[0] == 10 and found.counts.sum() == 4


def test_one_batch_leaves_nothing_to_the_next():
    torch.manual_seed(0)
    net = nn.Sequential(
        layer.Linear(3, 8, step_mode="m"),
        neuron.LIFNode(step_mode="m"),
        layer.Linear(8, 2, step_mode="m"),
    )
    batch = (3 * torch.rand(4, 5, 3), torch.tensor([0, 1, 0, 1, 0]))
    once, twice = features(net, [batch], 2), features(net, [batch, batch], 2)
    torch.testing.assert_close(once.centroids, twice.centroids)


def test_labels_and_a_classifier_are_asked_for():
    with pytest.raises(ValueError, match="need labels"):
        features(network(), [IMAGES], 3)
    with pytest.raises(ValueError, match="no linear layer"):
        features(nn.Conv2d(1, 1, 1), [(IMAGES, LABELS)], 3)


class Steady(nn.Module):
    """Neurons that get the same current for ever, and forget all of it."""

    def __init__(self):
        super().__init__()
        self.read = layer.Linear(4, 4, bias=False, step_mode="m")
        nn.init.eye_(self.read.weight)
        self.fire = neuron.IFNode(step_mode="m")

    def forward(self, xs):
        return self.fire(self.read(xs))


def test_entropy_by_distance():
    # potentials of an integrator: 0.5, 1 and again; 2 each time; 0.25 to 1; never anything
    currents = torch.tensor([0.5, 2.0, 0.25, 0.0]).expand(4, 2, 4)
    found = entropies(Steady(), [currents])["fire"]
    width = (found["high"] - found["low"]) / len(found["neurons"])
    quarter = -(0.25 * torch.log2(torch.tensor(0.25)) + 0.75 * torch.log2(torch.tensor(0.75)))
    expected = {-0.25: 1.0, 1.0: 0.0, -0.375: float(quarter), -1.0: 0.0}
    bins = {}
    for distance, entropy in expected.items():
        place = int((distance - found["low"]) // width)
        bins.setdefault(place, []).append(entropy)
    for place, entropies_there in bins.items():
        assert found["neurons"][place] == len(entropies_there)
        mean = sum(entropies_there) / len(entropies_there)
        assert found["entropy"][place] == pytest.approx(mean, abs=1e-6)
    assert sum(found["neurons"]) == 4


def test_entropy_of_the_farthest_is_kept():
    found = entropies(Steady(), [torch.full((1, 1, 4), 90.0)])["fire"]
    assert found["neurons"][-1] == 4
