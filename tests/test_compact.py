"""Compact networks: the same outputs from fewer channels, on every reference network."""

import copy
from types import SimpleNamespace

import pytest
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.batchnorm import _BatchNorm

from spikewire.compact import Outline, Select, _Flow, _normalised, _sum, compact, rebuild
from spikewire.dialects import reset
from spikewire.measure import measure
from spikewire.nets import net
from spikewire.nets.forms import FORMS

DEEP = {
    "conv6fc2": ({"T": 3, "width": 8, "size": 8}, (4, 3, 8, 8)),
    "tiny": ({"T": 3, "width": 8}, (4, 1, 8, 8)),
    **{
        f"{name} {form}": ({"form": form, "T": 2, "width": 8}, (3, 3, 32, 32))
        for name in ("vgg16", "resnet19")
        for form in FORMS
    },
}


def lively(name):
    """A network whose neurons fire in all layers, with statistics of its own."""
    torch.manual_seed(0)
    model = net(name.partition(" ")[0], **DEEP[name][0]).double()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 1.0, 3.0)
            nn.init.uniform_(module.bias, -0.5, 1.0)
            module.momentum = 0.5
        elif isinstance(module, nn.Linear):
            with torch.no_grad():
                module.weight.mul_(8)
    for _ in range(5):
        model(torch.randn(DEEP[name][1], dtype=torch.float64))
        reset(model)
    return model.eval()


def silence(model, share):
    """Zero a share of the channels of every normalisation."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            gone = torch.rand(module.num_features) < share
            gone[0] = False
            with torch.no_grad():
                module.weight[gone] = 0.0
                module.bias[gone] = 0.0


def outputs(model, x):
    with torch.no_grad():
        y = model(x)
    reset(model)
    return y


def size(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_a_compact_network_says_the_same(name, share):
    model = lively(name)
    silence(model, share)
    x = torch.randn(DEEP[name][1], dtype=torch.float64)
    before = copy.deepcopy(model.state_dict())
    smaller = compact(model, x)
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())
    expected = outputs(model, x)
    assert expected.std() > 0
    torch.testing.assert_close(outputs(smaller, x), expected, rtol=1e-9, atol=1e-9)
    if share:
        assert size(smaller) < (1 - 0.3 * share) * size(model)
    else:
        assert size(smaller) == size(model)
    again = rebuild(net(name.partition(" ")[0], **DEEP[name][0]).double(), smaller.state_dict())
    assert outputs(again, x).equal(outputs(smaller, x))


def test_all_places_count_in_what_is_saved_and_taps_on_padding_are_not_measured():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),  # 16 places, 18 weights: 288; 100 of the 144 taps are inside
        nn.AvgPool2d(2),
        nn.Conv2d(2, 4, 3, padding=1, bias=False),  # 4 places, 72 weights: 288; 16 of 36 taps
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(16, 2),  # 32
    ).eval()
    with torch.no_grad():
        model[3].weight[:2] = model[3].bias[:2] = 0.0
    images = torch.rand(3, 1, 4, 4)
    assert Outline(model, images).saving({}) == pytest.approx((144 + 16) / (288 + 288 + 32))
    before, after = (measure(one, images).operations for one in (model, compact(model, images)))
    assert (before.dense, after.dense) == (200 + 128 + 32, 200 + 64 + 16)


def test_what_nobody_listens_to_goes():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)
    ).eval()
    with torch.no_grad():
        model[2].weight[:, [1, 3]] = 0.0
    smaller = compact(model, torch.rand(2, 1, 5, 5))
    assert [smaller[0].out_channels, smaller[1].num_features, smaller[2].in_channels] == [2, 2, 2]
    torch.testing.assert_close(smaller(torch.ones(1, 1, 5, 5)), model(torch.ones(1, 1, 5, 5)))


def test_a_constant_goes_if_it_never_reaches_the_threshold():
    """Channels without weights hold what normalisation adds: 0.9 is silent, 1.2 fires."""
    model = nn.Sequential(
        layer.Conv2d(1, 3, 1, bias=False, step_mode="m"),
        layer.BatchNorm2d(3, step_mode="m"),
        neuron.LIFNode(tau=2.0, step_mode="m"),
        layer.Conv2d(3, 2, 1, step_mode="m"),
    ).eval()
    with torch.no_grad():
        model[0].weight[1:] = 0.0
        model[1].bias.copy_(torch.tensor([0.0, 0.9, 1.2]))
    x = torch.rand(6, 2, 1, 4, 4)
    smaller = compact(model, x)
    assert smaller[0].out_channels == 2
    torch.testing.assert_close(outputs(smaller, x), outputs(model, x))


class Shortcut(nn.Module):
    """A sum whose two sides prune other channels, and a reader of some of them."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 1, bias=False), nn.Conv2d(1, 4, 1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.read, self.whole = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        both = self.first(x) + self.second(x)
        return self.read(self.norm(both)) + self.whole(both)


def test_sides_of_a_sum_keep_the_same_channels():
    model = Shortcut().eval()
    with torch.no_grad():
        model.first.weight[0] = 0.0  # only the second side speaks
        model.first.weight[1] = model.second.weight[1] = 0.0  # neither
        model.norm.weight[2] = model.norm.bias[2] = 0.0  # whole still listens
    x = torch.rand(2, 1, 3, 3)
    smaller = compact(model, x)
    assert smaller.first.out_channels == smaller.second.out_channels == smaller.whole.in_channels
    assert smaller.first.out_channels == 3
    assert isinstance(smaller.norm[0], Select) and smaller.read.in_channels == 2
    torch.testing.assert_close(smaller(x), model(x))


def test_images_and_outputs_keep_their_shape():
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 4), nn.Linear(4, 3))
    with torch.no_grad():
        model[1].weight[:, 5] = 0.0
        model[1].weight[2] = model[1].bias[2] = 0.0
        model[2].weight[1] = model[2].bias[1] = 0.0
    x = torch.rand(2, 2, 2, 2)
    smaller = compact(model, x)
    assert smaller[1].weight.shape == (3, 8) and smaller[2].weight.shape == (3, 3)
    torch.testing.assert_close(smaller(x), model(x))


def test_normalised_entries_of_flattened_channels_are_all_kept():
    model = nn.Sequential(
        nn.Conv2d(1, 3, 1), nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 2)
    ).eval()
    nn.init.zeros_(model[3].weight[:, :4].detach())
    x = torch.rand(2, 1, 2, 2)
    smaller = compact(model, x)
    assert smaller[0].out_channels == 3
    torch.testing.assert_close(smaller(x), model(x))


class Branch(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Branch(), "cannot be traced"),
        (nn.Sequential(*[nn.Linear(2, 2)] * 2), "0 is used twice"),
    ],
)
def test_what_cannot_be_made_smaller_is_refused(model, words):
    with pytest.raises(ValueError, match=words):
        compact(model, torch.rand(3, 2))


def test_a_network_that_says_nothing_is_refused():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    nn.init.zeros_(model[1].weight)
    with pytest.raises(ValueError, match="0 has no channel left"):
        compact(model, torch.rand(3, 2))


@pytest.mark.parametrize("build", [lambda: nn.Linear(3, 1), lambda: nn.Sequential(nn.Linear(1, 1))])
def test_tensors_of_another_network_are_refused(build):
    small = compact(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), torch.rand(1, 2))
    with pytest.raises(ValueError, match="of no compact form of this network"):
        rebuild(build(), small.state_dict())


def test_a_layer_of_the_users_own_may_keep_channels():
    class Double(nn.Module):
        keeps_channels = True

        def forward(self, x):
            return 2 * x

    model = nn.Sequential(nn.Linear(2, 3, bias=False), Double(), nn.Linear(3, 1))
    with torch.no_grad():
        model[0].weight[1] = 0.0
    x = torch.rand(4, 2)
    smaller = compact(model, x)
    assert smaller[0].out_features == smaller[2].in_features == 2
    torch.testing.assert_close(smaller(x), model(x))


def test_a_network_with_potentials_of_its_last_sequence_is_to_be_reset_first():
    model = nn.Sequential(nn.Linear(2, 2), neuron.LIFNode())
    model(torch.rand(3, 2))
    with pytest.raises(ValueError, match="not at rest"):
        compact(model, torch.rand(3, 2))


def test_normalisation_without_gains_is_rebuilt():
    model = nn.Sequential(
        nn.Conv2d(1, 3, 1, bias=False), nn.BatchNorm2d(3, affine=False), nn.Conv2d(3, 2, 1)
    ).eval()
    with torch.no_grad():
        model[2].weight[:, 1] = 0.0
    x = torch.rand(2, 1, 2, 2)
    smaller = compact(model, x)
    assert smaller[1].num_features == 2
    torch.testing.assert_close(rebuild(model, smaller.state_dict())(x), model(x))


def test_constants_are_worked_out_on_the_cpu_wherever_the_network_is():
    with FakeTensorMode():
        weight, two = torch.empty(2, 3, device="cuda"), torch.empty(2, device="cuda")
        linear = SimpleNamespace(weight=weight, bias=two)
        norm = SimpleNamespace(weight=two, bias=two, running_mean=two, running_var=two, eps=1e-5)
        flow = _Flow(0, torch.zeros(3), 1, -1)
        assert _sum(linear, flow).device.type == "cpu"
        assert _normalised(norm, torch.zeros(2)).device.type == "cpu"


class Difference(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(2, 3), nn.Linear(2, 3)

    def forward(self, x):
        return torch.add(self.one(x), self.other(x), alpha=-1)


class TokensAndMap(nn.Module):
    """A sum of what has its channels last and what has them before its map."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(5, 4, 1), nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(self.conv(x) + torch.tanh(x[:, :4]))


class Quadruple(nn.Module):
    keeps_channels = True

    def forward(self, x):
        return 4 * x


def constant_first(*rest):
    """A convolution whose channels hold their biases, and what follows it."""
    net = nn.Sequential(nn.Conv2d(1, 2, 1), *rest)
    nn.init.zeros_(net[0].weight)
    nn.init.constant_(net[0].bias, 0.4)
    return net


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (Difference(), (3, 2)),
        (constant_first(nn.AvgPool2d(2, divisor_override=1), nn.Conv2d(2, 1, 1)), (1, 1, 4, 4)),
        (constant_first(Quadruple(), neuron.IFNode(), nn.Conv2d(2, 1, 1)), (1, 1, 4, 4)),
        (nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2)), (2, 3, 8, 5)),
        (
            nn.Sequential(
                nn.Linear(5, 4), nn.LayerNorm(4), neuron.IFNode(step_mode="m"), nn.Linear(4, 2)
            ),
            (2, 3, 8, 5),
        ),
        (nn.Sequential(neuron.IFNode(step_mode="m"), nn.Linear(5, 2)), (2, 3, 8, 5)),
        (TokensAndMap(), (2, 5, 4, 4)),
    ],
)
def test_whatever_is_made_of_constants_and_dimensions_the_outputs_stay(net, shape):
    x = torch.rand(shape)
    expected = outputs(net.eval(), x)
    assert torch.allclose(outputs(compact(net, x), x), expected, atol=1e-6)


def test_channels_of_a_sequence_leave_as_those_of_a_map_do():
    net = nn.Sequential(nn.Conv1d(2, 6, 3), nn.BatchNorm1d(6), nn.Conv1d(6, 1, 3)).eval()
    nn.init.zeros_(net[1].weight[:4])
    x = torch.rand(2, 2, 9)
    small = compact(net, x)
    assert small[0].out_channels == 2
    assert torch.allclose(outputs(small, x), outputs(net, x), atol=1e-6)


def test_a_value_changed_in_place_and_used_by_its_other_name_is_refused():
    class Renamed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = (nn.Linear(2, 2) for _ in range(3))

        def forward(self, x):
            y = h = self.first(x)
            y += self.second(x)
            return self.third(h)

    with pytest.raises(ValueError, match="write y = y"):
        compact(Renamed(), torch.rand(1, 2))


def test_a_compiled_network_is_the_network_in_it():
    net = constant_first(nn.Conv2d(2, 1, 1))
    x = torch.rand(1, 1, 2, 2)
    compiled = torch.compile(net, backend="eager")
    outputs(compiled, x)  # from now on it hears no hooks
    assert compact(compiled, x)[1].in_channels == compact(net, x)[1].in_channels
    assert measure(compiled, x).operations == measure(net, x).operations
    assert measure(compiled, x).operations.macs > 0


class Noisy(nn.Module):
    keeps_channels = True

    def forward(self, x):
        return x * torch.rand_like(x)


def test_a_network_that_draws_is_understood_and_draws_on_from_where_it_was():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), Noisy(), nn.Conv2d(2, 1, 1))
    x, before = torch.rand(1, 1, 2, 2), torch.get_rng_state()
    assert compact(net, x)[2].in_channels == 2
    assert torch.get_rng_state().equal(before)
