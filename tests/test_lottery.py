"""Lotteries in the user's own loop: ladder, masks, distances and time steps worked out by hand."""

import math

import pytest
import torch
from torch import nn

from spikewire import Pruner, Ticket, lottery, synaptic_weights
from spikewire.lottery import Level, Settled, draw, early_time, ladder
from spikewire.nets import vgg16
from spikewire.scores import chance
from spikewire.shares import uniform

PRINTED = [25.04, 43.71, 57.76, 68.30, 76.20, 82.13, 86.58,
           89.91, 92.41, 94.29, 95.69, 96.75, 97.54, 98.13]  # fmt: skip
"""Sparsities of VGG16 in percent, Kim et al. 2022."""


def layers(**weights):
    """A network of named layers, each with one output and the given weights."""
    net = nn.ModuleDict({name: nn.Linear(len(w), 1) for name, w in weights.items()})
    for name, values in weights.items():
        net[name].weight.data = torch.tensor([values])
    return net


def drawn(*arguments, **options):
    masks = draw(*arguments, **options)
    return {name.removesuffix(".weight"): mask[0].int().tolist() for name, mask in masks.items()}


def test_a_ladder_by_hand():
    assert ladder(0.25, 4) == [0.0, 0.25, 0.4375, 0.578125, 0.68359375]
    assert ladder(0.5, 1) == [0.0, 0.5]


def test_the_printed_ladder_counts_biases_and_normalisations():
    """They are never pruned; those that start at 0 were counted as zeros in the first round."""
    net = vgg16(form="lottery", classes=100)
    synapses = sum(weight.numel() for _, weight in synaptic_weights(net))
    parameters = sum(p.numel() for p in net.parameters())
    zeros = sum(p.numel() for name, p in net.named_parameters() if name.endswith("bias"))
    assert (synapses, parameters) == (14_761_664, 14_774_436)
    pruned = [sparsity * synapses for sparsity in ladder(0.25, 14)]
    pruned[1] += zeros
    assert [round(100 * each / parameters, 2) for each in pruned[1:]] == PRINTED


def test_masks_by_hand():
    net = layers(a=[0.1, 0.2, -0.8, 0.3], b=[-0.9, 0.5, 0.4, 0.6])
    assert drawn(net, 0.25) == {"a": [0, 0, 1, 1], "b": [1, 1, 1, 1]}
    assert drawn(net, 0.5) == {"a": [0, 0, 1, 0], "b": [1, 1, 0, 1]}
    assert drawn(net, 0.5, share=uniform) == {"a": [0, 0, 1, 1], "b": [1, 0, 0, 1]}
    assert drawn(net, 0.5, only=["b.*"]) == {"b": [1, 0, 0, 1]}
    assert drawn(net, 0.875, floor=1) == {"a": [0, 0, 1, 0], "b": [1, 0, 0, 0]}
    assert drawn(net, 0.0) == {"a": [1, 1, 1, 1], "b": [1, 1, 1, 1]}
    kept = torch.tensor([[0.1, 0.2, -0.8, 0.3]])
    assert net["a"].weight.equal(kept)  # to draw is not to cut


def test_only_survivors_are_drawn_again_even_if_they_are_zero():
    net = layers(a=[0.0, 0.9, 0.0, 0.1])
    among = {"a.weight": torch.tensor([[True, False, True, True]])}
    assert drawn(net, 0.25, among) == {"a": [1, 0, 1, 1]}
    assert drawn(net, 0.5, among) == {"a": [1, 0, 0, 1]}


def test_random_tickets_are_nested_and_of_the_seed():
    net = layers(a=[0.1] * 64)
    first = draw(net, 0.5, score=chance, seed=3)["a.weight"]
    second = draw(net, 0.75, {"a.weight": first}, score=chance, seed=3)["a.weight"]
    assert int(second.sum()) == 16 and not (second & ~first).any()
    assert not draw(net, 0.5, score=chance, seed=4)["a.weight"].equal(first)


def masks(*bits):
    return {"a": torch.tensor(bits[:2]) > 0, "b": torch.tensor(bits[2:]) > 0}


def test_a_mask_has_settled_by_hand():
    """Distances of the last one from the two before: 2/8 and 0, then 0 and 0."""
    one = masks(1, 1, 1, 1, 0, 0, 0, 0)
    other = masks(1, 1, 1, 0, 1, 0, 0, 0)
    seen = [one, other, other, other]
    strict = Settled(0.5, window=3, tolerance=0.25)
    assert [strict.farthest(seen[:n]) for n in (1, 2, 3, 4)] == [1.0, 0.25, 0.25, 0.0]
    assert [strict(seen[:n]) for n in (0, 1, 2, 3, 4)] == [False, False, False, False, True]
    assert Settled(0.5, window=3, tolerance=0.26)(seen[:3])
    assert not Settled(0.5, window=3, tolerance=0.26)(seen[:2])  # too few


def outputs_of(*means):
    """Outputs (T, 1, 2) whose mean over the first t is (means[t], 0), for t = 1 ... T."""
    sums = torch.tensor(means) * torch.arange(1, len(means) + 1)
    return torch.stack([sums.diff(prepend=torch.zeros(1)), torch.zeros(len(means))], 1)[:, None]


def test_early_time_by_hand():
    """The last mean is 0, so KL_t = ln cosh(mean_t / 2): 0.6 ln cosh 2 = ln cosh 1.4322."""
    at = 2 * math.acosh(math.cosh(2) ** 0.6)
    assert early_time(outputs_of(9.0, 4.0, at - 0.01, 0.5, 0.0)) == 3
    assert early_time(outputs_of(9.0, 4.0, at + 0.01, 0.5, 0.0)) == 4
    assert early_time(outputs_of(9.0, 4.0, at + 0.01, at + 0.01, 0.0)) == 5
    assert early_time(outputs_of(9.0, 1.0, 4.0, 4.0, 0.0)) == 2
    assert early_time(outputs_of(9.0, 4.0, at + 0.01, 0.5, 0.0), ratio=0.7) == 3
    assert early_time(outputs_of(9.0, 4.0, 0.0)) == 3  # the largest is the only one
    assert early_time(torch.zeros(5, 1, 2)) == 2


def test_early_time_averages_over_samples():
    """Alone the first sample would ask for all five steps, the second for two."""
    outputs = torch.cat(
        [outputs_of(9.0, 0.4, 0.4, 0.4, 0.0), outputs_of(9.0, 4.0, 1.0, 1.0, 0.0)], dim=1
    )
    assert early_time(outputs[:, :1]) == 5
    assert early_time(outputs) == 3


class Own:
    """A network, and a user's own loop on it, with Adam and batch normalisation."""

    def __init__(self, epochs=(4, 2)):
        torch.manual_seed(1)
        self.net = nn.Sequential(
            nn.Linear(12, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 4, bias=False)
        )
        self.epochs = epochs
        self.begun = []  # state_dict at the beginning of each round
        self.states = []  # after each epoch of the dense one

    def train(self, level):
        self.begun.append({k: v.clone() for k, v in self.net.state_dict().items()})
        adam = torch.optim.Adam(self.net.parameters(), 0.05)
        count = self.epochs[level.round > 0]
        pruner = Pruner(self.net, Ticket(), adam, steps=count, possible=level.masks)
        random = torch.Generator().manual_seed(level.round)
        for _ in range(count):
            adam.zero_grad()
            self.net(torch.randn(16, 12, generator=random)).square().sum().backward()
            adam.step()
            if not level.round:
                self.states.append({k: v.clone() for k, v in self.net.state_dict().items()})
            yield
        pruner.finish()


def test_every_round_starts_from_the_remembered_state_with_its_masks_alone():
    own = Own()
    before = {}
    levels = []
    for level in lottery(own.net, own.train, rounds=3, fraction=0.25, rewind=2):
        levels.append(level)
        alive = {name: own.net.get_parameter(name) != 0 for name in level.masks}
        for name, mask in level.masks.items():
            assert alive[name].equal(mask), name  # exactly: nothing more, nothing less
            assert not (mask & ~before.get(name, mask)).any()
        before = level.masks
    assert [level.epochs for level in levels] == [4, 6, 8, 10]
    total = 12 * 10 + 10 * 4
    assert [sum(int(m.sum()) for m in level.masks.values()) for level in levels] == [
        total, 120, 90, 67
    ]  # fmt: skip
    remembered = own.states[1]
    for level, begun in zip(levels[1:], own.begun[1:], strict=True):
        for name, value in begun.items():
            mask = level.masks.get(name)
            expected = remembered[name] if mask is None else remembered[name] * mask
            assert value.equal(expected), name  # biases, gains and running statistics too


def test_without_rewinding_rounds_start_from_the_first_weights():
    own = Own()
    *_, last = lottery(own.net, own.train, rounds=1, fraction=0.5)
    first = own.begun[0]
    assert all(own.begun[1][name].equal(first[name] * mask) for name, mask in last.masks.items())
    assert own.begun[1]["1.running_mean"].equal(first["1.running_mean"])


def test_the_weakest_survivors_of_a_round_are_what_the_next_has_lost():
    own = Own()
    rounds = lottery(own.net, own.train, rounds=2, fraction=0.25, rewind=1)
    next(rounds)
    one = next(rounds)
    trained = torch.cat([own.net.get_parameter(n)[m].abs() for n, m in one.masks.items()])
    line = trained.sort().values[len(trained) - 90]
    strong = {n: own.net.get_parameter(n).abs() >= line for n in one.masks}
    two = next(rounds)
    assert all(two.masks[name].equal(strong[name]) for name in strong)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_lottery_continues_bit_exactly_after_any_round(after):
    whole = Own()
    expected = list(lottery(whole.net, whole.train, rounds=3, fraction=0.3, rewind=1))
    own = Own()
    for level in lottery(own.net, own.train, rounds=3, fraction=0.3, rewind=1):
        if level.round == after:
            break
    other = Own()
    other.net.load_state_dict(own.net.state_dict())
    rest = list(lottery(other.net, other.train, rounds=3, fraction=0.3, rewind=1, resume=level))
    assert [each.round for each in rest] == list(range(after + 1, 4))
    assert rest[-1].epochs == expected[-1].epochs
    for name, value in whole.net.state_dict().items():
        assert other.net.state_dict()[name].equal(value), name


def test_an_early_bird_stops_searching_and_goes_back_to_the_first_weights():
    """After the epochs, the larger two of four weights are 0 1, 0 2, 2 3, 2 3, 2 3, 0 1."""
    net = layers(a=[0.4, 0.3, 0.2, 0.1])
    first = net["a"].weight.detach().clone()
    course = [[9, 9, 1, 1], [9, 1, 9, 1], [1, 2, 9, 9], [1, 1, 8, 8], [3, 1, 8, 9], [9, 9, 1, 1]]

    def train(level):
        assert level.round == 0 or net["a"].weight.equal(first * level.masks["a.weight"])
        for weights in course:
            net["a"].weight.data = torch.tensor([weights]).float() * level.masks["a.weight"]
            yield

    options = {"rounds": 1, "fraction": 0.5, "stop": Settled(0.5, window=3, tolerance=0.02)}
    search, ticket = lottery(net, train, **options)
    assert (search.epochs, ticket.epochs) == (5, 11)
    assert ticket.masks["a.weight"].tolist() == [[False, False, True, True]]

    net["a"].weight.data = first.clone()
    del course[4:]
    with pytest.warns(UserWarning, match="has not settled: over 3 epochs it differs in 0.5000"):
        list(lottery(net, train, **options))


def test_a_loop_that_does_not_hold_its_masks_is_found_out():
    net = layers(a=[0.4, 0.3, 0.2, 0.1])

    def train(level):
        net["a"].weight.data = torch.rand(1, 4) + 1
        yield

    with pytest.raises(ValueError, match=r"lets pruned weights of a.weight move: hold the masks"):
        list(lottery(net, train, rounds=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rewind": 5}, "train yielded 4 times"),
        ({"rounds": 0}, "1 or more"),
        ({"fraction": 1.0}, "above 0 and below 1"),
        ({"only": ["nothing"]}, "matches no synapses"),
    ],
)
def test_wrong_arguments(options, message):
    own = Own()
    with pytest.raises(ValueError, match=message):
        list(lottery(own.net, own.train, **options))


@pytest.mark.parametrize(
    ("values", "message"),
    [((0.0,), "more than 0"), ((1.0,), "not including 1"), ((0.5, 1), "2 or more"),
     ((0.5, 5, 0.0), "above 0")],
)  # fmt: skip
def test_wrong_rules_for_stopping(values, message):
    with pytest.raises(ValueError, match=message):
        Settled(*values)


def test_outputs_without_time_steps_are_refused():
    with pytest.raises(ValueError, match="give those of each time step"):
        early_time(torch.rand(4, 10))


def test_a_level_tells_its_sparsity():
    level = Level(1, {"a": torch.tensor([True, False]), "b": torch.tensor([True, True])})
    assert level.sparsity == 0.25
