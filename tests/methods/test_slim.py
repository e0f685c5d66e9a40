"""Taking out channels: which ones go, which come back, and what is left of the network."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from spikewire import Pruner, scores
from spikewire.channels import criticality, gain, gradient
from spikewire.compact import Outline, compact
from spikewire.dialects import reset
from spikewire.measure import measure
from spikewire.methods import SCA, APoZ, GReg1, GReg2, Slim, SlimCriticality
from spikewire.nets import resnet19, vgg16
from spikewire.schedules import Constant, Linear, Steps
from spikewire.shares import compute

STEPS = 8
GAINS = {"bn1": [0.9, 0.1, 0.4, 0.3], "bn2": [0.2, 0.8, 0.7, 0.05]}


class Chain(nn.Sequential):
    """Two normalised convolutions of four channels each, and a read-out; no neurons."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.bn1 = nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.flat, self.fc = nn.Flatten(), nn.Linear(4, 3)
        with torch.no_grad():
            for name, values in GAINS.items():
                self.get_submodule(name).weight.copy_(torch.tensor(values))


IMAGES = torch.rand(6, 1, 5, 5, generator=torch.Generator().manual_seed(0))
SMALL = {"T": 2, "width": 4}
PICTURES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def train(net, method, steps, *, lr=0.0, momentum=0.0, data=IMAGES):
    optimizer = torch.optim.SGD(net.parameters(), lr, momentum=momentum)
    pruner = Pruner(net, method, optimizer, steps=STEPS, data=[data])
    for _ in range(steps):
        step(net, optimizer, data)
    return pruner


def step(net, optimizer, data):
    optimizer.zero_grad()
    outputs = net(data)
    outputs = outputs.mean(0) if outputs.ndim == 3 else outputs
    nn.functional.cross_entropy(outputs, torch.arange(len(data)) % 3).backward()
    optimizer.step()
    reset(net)


def masks(pruner):
    return {c.name: [int(kept) for kept in c.mask] for c in pruner.channels}


# --- network slimming -----------------------------------------------------------------------------


def test_the_smallest_gains_of_the_network_go():
    pruner = train(Chain(), Slim(0.5, l1=0.0, until=0.25), 2)
    assert masks(pruner) == {"bn1": [1, 1, 1, 1], "bn2": [1, 1, 1, 1]}
    pruner = train(Chain(), Slim(0.5, l1=0.0, until=0.25), 3)
    assert masks(pruner) == {"bn1": [1, 0, 1, 0], "bn2": [0, 1, 1, 0]}
    assert pruner.model.bn1.weight.tolist() == pytest.approx([0.9, 0.0, 0.4, 0.0])


def test_what_feeds_a_channel_and_listens_to_it_goes_with_it():
    pruner = train(Chain(), Slim(0.5, l1=0.0, until=0.25), 3)
    alive = {s.name: s.alive for s in pruner}
    assert alive == {"conv1.weight": 2 * 9, "conv2.weight": 2 * 2 * 9, "fc.weight": 3 * 2}


def test_no_normalisation_loses_its_last_channel():
    net = Chain()
    with torch.no_grad():
        net.bn2.weight.mul_(1e-3)
    assert masks(train(net, Slim(0.75, until=0.25), 3))["bn2"] == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("l1", "after"), [(0.1, 0.0), (Constant(0.1), 0.1)], ids=["number", "schedule"]
)
def test_gains_are_pushed_towards_0(l1, after):
    """A number until channels go, a schedule as it says."""
    net = Chain()
    seen = []
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    Pruner(net, Slim(0.5, l1=l1, until=0.25), optimizer, steps=STEPS, data=[IMAGES])
    for _ in range(4):
        optimizer.zero_grad()
        net(IMAGES).pow(2).mean().backward()
        plain = net.bn1.weight.grad.clone()
        optimizer.step()
        seen.append(float((net.bn1.weight.grad - plain)[0]))
    assert seen == pytest.approx([0.1, 0.1, after, after], abs=1e-6)


@pytest.mark.parametrize("build", [vgg16, resnet19])
def test_channels_go_until_so_many_operations_are_saved(build):
    torch.manual_seed(0)
    net = build(**SMALL)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight)
    pruner = train(net, Slim(operations=0.4, until=0.25), 3, data=PICTURES)
    taken = {c.name: c.mask for c in pruner.channels}
    whole = {name: torch.ones_like(mask) for name, mask in taken.items()}
    assert 0.4 <= pruner.outline().saving(taken) < 0.42
    assert pruner.outline().saving(whole) == pytest.approx(pruner.outline().saving(taken))


def test_operations_count_whatever_the_sparsity_and_only_what_can_be_saved():
    torch.manual_seed(0)
    net = vgg16(**SMALL)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight)
    pruner = train(net, Slim(0.0, operations=0.4, until=0.25), 3, data=PICTURES)
    assert pruner.outline().saving({c.name: c.mask for c in pruner.channels}) >= 0.4
    with pytest.raises(ValueError, match=r"with 1 left of each normalisation's channels 0\.\d+ of"):
        train(vgg16(**SMALL), Slim(operations=0.999), 1, data=PICTURES)


def deep_ones_first(pruner):
    """The deeper a channel, the less it is worth."""
    last = len(pruner.channels)
    return {c.name: last - n + torch.rand(len(c.mask)) for n, c in enumerate(pruner.channels)}


def test_what_is_asked_for_is_saved_in_depth_too_where_padding_is_most_of_an_image():
    torch.manual_seed(0)
    net = vgg16(**SMALL)
    whole = measure(net, PICTURES).operations.dense
    method = Slim(operations=0.4, drop=deep_ones_first, until=0.25)
    net = train(net, method, 3, data=PICTURES).model
    assert 0.4 <= Outline(net, PICTURES).saving({}) < 0.42
    assert 1 - measure(compact(net, PICTURES), PICTURES).operations.dense / whole < 0.36


def test_no_floor_leaves_a_channel_all_the_same():
    net = Chain()
    with torch.no_grad():
        net.bn2.weight.mul_(1e-3)
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    pruner = Pruner(net, Slim(0.75, until=0.25), optimizer, steps=STEPS, data=[IMAGES], floor=0)
    for _ in range(3):
        step(net, optimizer, IMAGES)
    assert masks(pruner)["bn2"] == [0, 1, 0, 0]


def test_still_leaves_nothing_of_channels_that_are_out():
    net = Chain()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    pruner = Pruner(net, Slim(0.5, until=0.25), optimizer, steps=STEPS, data=[IMAGES])
    for _ in range(3):
        step(net, optimizer, IMAGES)
    optimizer.zero_grad()
    net(IMAGES).sum().backward()
    pruner.still()
    for c in pruner.channels:
        assert c.gain.grad[~c.mask].eq(0).all() and c.bias.grad[~c.mask].eq(0).all()


@pytest.mark.parametrize("build", [vgg16, resnet19])
def test_fine_tuning_is_that_of_the_compact_network(build):
    """Masks hold what is out at 0 exactly as if it were not there."""
    torch.manual_seed(0)
    net = build(**SMALL).double()
    pictures = PICTURES.double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 3.0)
            nn.init.uniform_(module.bias, 0.0, 1.0)
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    Pruner(net, Slim(0.5, until=0.25), optimizer, steps=STEPS, data=[pictures])
    for _ in range(3):
        step(net, optimizer, pictures)
    small = compact(net, pictures).train()
    # the optimizer of the small network starts anew, so that of the masked one does as well
    optimizer.state.clear()
    other = torch.optim.SGD(small.parameters(), 0.05, momentum=0.9)
    for _ in range(3):
        step(net, optimizer, pictures)
        step(small, other, pictures)
    assert sum(p.numel() for p in small.parameters()) < 0.5 * sum(
        p.numel() for p in net.parameters()
    )
    with torch.no_grad():
        assert torch.allclose(net.eval()(pictures), small.eval()(pictures), atol=1e-9)


# --- regeneration ---------------------------------------------------------------------------------


def test_the_most_critical_of_the_others_come_back_with_all_they_had():
    def score(pruner):
        values = {"bn1": [0.0, 1.0, 0.0, 0.0], "bn2": [0.9, 0.0, 0.0, 0.0]}
        return {name: torch.tensor(value) for name, value in values.items()}

    pruner = train(Chain(), SlimCriticality(0.5, l1=0.0, until=0.25, churn=0.5, grow=score), 3)
    # 4 of 8 stay: the 2 largest gains, 0.9 and 0.8, and the 2 most critical of the rest
    assert masks(pruner) == {"bn1": [1, 1, 0, 0], "bn2": [1, 1, 0, 0]}
    assert pruner.model.bn1.weight.tolist() == pytest.approx([0.9, 0.1, 0.0, 0.0])


def slope_at_the_largest_place(layer):
    return (1 / (1 + (torch.pi * layer.distance) ** 2)).mean(0).flatten(2).amax(2)


def test_criticality_revives_on_a_spiking_network():
    """The largest gains, then the most critical of the others: 35 % and 15 % of all channels."""
    torch.manual_seed(0)
    net = vgg16(**SMALL)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 3.0)
            module.momentum = 1.0
    net(PICTURES)
    reset(net)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0  # the event sees what we see
    pruner = train(net, SlimCriticality(0.5, l1=0.0, until=0.25), 2, data=PICTURES)
    seen = pruner.survey(slope_at_the_largest_place, membranes=True)
    gains = torch.cat([*gain(pruner).values()])
    hopes = torch.cat([seen[c.ahead].float() for c in pruner.channels])
    stay = len(gains) // 2
    strongest = gains.argsort(descending=True)[: stay - int(0.3 * stay)]
    others = hopes.index_fill(0, strongest, -torch.inf)
    critical = others.argsort(descending=True, stable=True)[: int(0.3 * stay)]
    expected = torch.zeros(len(gains), dtype=torch.bool)
    expected[strongest] = expected[critical] = True
    step(net, pruner._hooks.optimizers[0], PICTURES)
    assert torch.cat([c.mask for c in pruner.channels]).equal(expected)
    assert SlimCriticality().grow is criticality


# --- activity -------------------------------------------------------------------------------------


def test_silent_channels_go_from_each_layer():
    torch.manual_seed(0)
    net = vgg16(**SMALL)
    with torch.no_grad():
        net.bn1.weight.fill_(0.01)
        net.bn1.bias.copy_(torch.tensor([9.0, -9.0, 9.0, -9.0]))
    pruner = train(net, APoZ(0.5, until=0.25), 3, data=PICTURES)
    assert masks(pruner)["bn1"] == [1, 0, 1, 0]
    assert all(2 * int(c.mask.sum()) == len(c.mask) for c in pruner.channels)


def test_channels_that_return_learn_again():
    net = Chain()
    method = SCA(0.5, until=0.75, every=1, churn=0.5, drop=first_or_last, grow=first_or_last)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    pruner = Pruner(net, method, optimizer, steps=STEPS, data=[IMAGES])
    seen = []
    for _ in range(STEPS):
        step(net, optimizer, IMAGES)
        seen.append({c.name: c.mask.clone() for c in pruner.channels})
    counted = [sum(int(mask.sum()) for mask in each.values()) for each in seen]
    assert counted == [8, 6, 5, 4, 4, 4, 4, 4]
    returned = seen[2]["bn1"] & ~seen[1]["bn1"]
    assert returned.any()
    assert net.bn1.weight[returned & seen[-1]["bn1"]].ne(0).all()
    assert net.conv1.weight[returned & seen[-1]["bn1"]].ne(0).all()


def first_or_last(pruner):
    """One time the first channels are worth most, the other time the last."""
    places = torch.arange(4.0)
    return {c.name: places if pruner.step % 2 else -places for c in pruner.channels}


# --- growing regularisation -----------------------------------------------------------------------


def pushes(method, steps):
    """What is added to the gradient of conv1 at each step, in units of its weights."""
    net = Chain()
    with torch.no_grad():
        net.conv1.weight.copy_(
            torch.tensor([0.1, 0.4, 0.2, 0.3]).view(4, 1, 1, 1).expand(4, 1, 3, 3)
        )
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    pruner = Pruner(net, method, optimizer, steps=STEPS, data=[IMAGES])
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        net(IMAGES).pow(2).mean().backward()
        plain = net.conv1.weight.grad.clone()
        optimizer.step()
        added = net.conv1.weight.grad - plain
        share = (added / net.conv1.weight).nan_to_num(0.0)
        found.append(share.mean((1, 2, 3)).tolist())
    return found, pruner


def test_chosen_filters_are_pushed_ever_harder():
    found, pruner = pushes(GReg1(0.5, begin=0.25, until=0.75), 6)
    for each, strength in zip(found, [0, 0, 0, 0.25, 0.5, 0.75], strict=True):
        assert each == pytest.approx([strength, 0, strength, 0], abs=1e-5)
    step(pruner.model, pruner._hooks.optimizers[0], IMAGES)
    assert masks(pruner)["bn1"] == [0, 1, 0, 1]


def test_fine_tuning_is_not_regularised():
    method = GReg2(0.5, begin=0.0, pick=0.25, until=0.5, recover=0.1)
    found, _ = pushes(method, 8)
    assert found[3][1] == pytest.approx(-0.1, abs=1e-5)
    for each in found[4:]:
        assert [each[1], each[3]] == pytest.approx([0, 0], abs=1e-5)


def test_all_filters_are_pushed_before_the_choice():
    method = GReg2(0.5, begin=0.0, pick=0.25, until=0.75, early=0.1, recover=0.01)
    found, _ = pushes(method, 5)
    assert found[0] == pytest.approx([0.0] * 4, abs=1e-5)
    assert found[1] == pytest.approx([0.05] * 4, abs=1e-5)
    assert found[2] == pytest.approx([0.1, -0.01, 0.1, -0.01], abs=1e-5)
    assert found[4] == pytest.approx([0.55, -0.01, 0.55, -0.01], abs=1e-5)


def test_what_can_be_saved_leaves_out_what_is_left_alone():
    """Growing regularisation does not touch the sums of ResNet19: the limit is that of the rest."""
    torch.manual_seed(0)
    net = resnet19(**SMALL)
    with pytest.raises(ValueError, match=r"saved, as 9 others are left alone; ask") as told:
        train(net, GReg1(operations=0.9, begin=0.0, until=0.25), 1, data=PICTURES)
    limit = float(str(told.value).partition("channels ")[2].partition(" ")[0])
    method = GReg1(operations=limit - 1e-3, begin=0.0, until=0.25)
    pruner = train(resnet19(**SMALL), method, 3, data=PICTURES)
    assert pruner.outline().saving({}) == pytest.approx(limit, abs=2e-3)
    assert {int(c.mask.sum()) for c in pruner.channels if c.behind is not None} == {1}


def test_a_score_of_gradients_is_not_asked_before_there_are_any():
    net = vgg16(**SMALL)
    pruner = train(net, Slim(operations=0.4, drop=gradient, until=0.25), 3, data=PICTURES)
    assert pruner.outline().saving({}) >= 0.4


def test_sums_are_left_alone():
    torch.manual_seed(0)
    pruner = train(resnet19(**SMALL), GReg1(0.5, begin=0.0, until=0.25), 3, data=PICTURES)
    for channels in pruner.channels:
        expected = len(channels.mask) if channels.behind is None else len(channels.mask) // 2
        assert int(channels.mask.sum()) == expected, channels.name


def test_an_event_that_would_never_come_is_warned_of():
    with pytest.warns(UserWarning, match="until=0.9 comes after the last of 8 steps"):
        train(Chain(), Slim(until=0.9), 1)


class Chosen(Slim):
    def chosen(self, pruner, done):
        return {}


class AtTheEvent:
    """A pruner in the step that takes out channels, with one tensor on a GPU."""

    step, steps, progress, channels = 1, 2, 0.5, ()

    def __init__(self):
        mask = torch.empty(2, 3, dtype=torch.bool, device="cuda")
        self.synapses = SimpleNamespace(name="w", mask=mask)

    def __iter__(self):
        yield self.synapses

    def outline(self):
        return SimpleNamespace(needed=lambda masks: {"w": torch.empty(2, 3, dtype=torch.bool)})

    def keep_channels(self, masks):
        assert masks == {}

    def rewire(self, masks):
        self.synapses.mask = masks["w"]


def test_weights_on_a_gpu_are_cut_by_what_was_worked_out_on_the_cpu():
    with FakeTensorMode():
        pruner = AtTheEvent()
        Chosen(until=0.5).before_step(pruner)
    assert pruner.synapses.mask.device.type == "cuda"


def test_only_the_channels_that_were_named_may_go():
    optimizer = torch.optim.SGD((net := Chain()).parameters(), 0.0)
    pruner = Pruner(net, Slim(), optimizer, steps=STEPS, data=[IMAGES], only=["!conv1*"])
    assert [c.name for c in pruner.channels] == ["bn2"]
    with pytest.raises(ValueError, match=r"no channel to take out: name some of conv1.weight, con"):
        Pruner(net, Slim(), optimizer, steps=STEPS, data=[IMAGES], only=["fc.*"])


def test_no_sum_of_a_network_goes_if_tensors_are_named():
    net = resnet19(**SMALL)
    pruner = Pruner(net, Slim(), None, steps=STEPS, data=[PICTURES], only=["*"])
    assert pruner.channels
    assert all(c.behind is not None for c in pruner.channels)


@pytest.mark.parametrize("churn", [0.5, Linear(0.0, 0.5)])
def test_what_the_score_to_grow_by_cannot_do_is_said_before_training(churn):
    with pytest.raises(ValueError, match="no neuron layer"):
        train(Chain(), SlimCriticality(churn=churn), 0)


# --- wrong input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Slim(1.0), "sparsity=1.0"),
        (lambda: Slim(until=1.0), "until=1.0: give the progress"),
        (lambda: Slim(operations=1.5), "operations=1.5: give the share"),
        (lambda: Slim(churn=1.0), "churn=1.0"),
        (lambda: Slim(churn=Steps((0.1, 3.0, 0.1), marks=(0.2, 0.6))), "churn=Steps"),
        (lambda: Slim(l1=-1.0), "l1=-1.0"),
        (lambda: Slim(l1=Linear(1e-4, -1.0)), "l1=Linear"),
        (lambda: Slim(drop=3), "drop=3: give a function"),
        (lambda: Slim(drop=scores.magnitude), "drop=.*: give a function of the pruner that scores"),
        (lambda: Slim(churn=0.1, grow=scores.criticality), "grow=CriticalityScore"),
        (lambda: Slim(share=compute), "share=compute counts operations of synapses"),
        (lambda: SCA(every=0), "every=0"),
        (lambda: GReg1(begin=0.5), "begin=0.5: give a progress"),
        (lambda: GReg1(ceiling=0.0), "ceiling=0.0"),
        (lambda: GReg2(pick=0.2), "pick=0.2: give a progress between begin=0.25"),
        (lambda: GReg2(early=1.0), "early=1.0"),
        (lambda: GReg2(recover=-1.0), "recover=-1.0"),
    ],
)
def test_wrong_values_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
