"""The contract: what every method promises, whatever the optimizer and however the loop is made.

Run as a script, this file is one of two ranks that train under DistributedDataParallel.
"""

import copy
import gc
import io
import os
import subprocess
import sys
import warnings
from dataclasses import dataclass, field, fields

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

from spikewire import METHODS, Dense, GradR, Method, Pruner, apply_masks, split, synaptic_weights
from spikewire.observe import _ignore
from spikewire.scores import CriticalityScore, lamp, momentum, slamp, synops
from spikewire.shares import by_size, compute, counts, uniform
from spikewire.units import NM, Block, FanIn, Kernel

STEPS = 24
EVERY = 4
STEADY = CriticalityScore(primitive=True)
SPARSITY = 0.8

# every method of the library, with events every few steps; None where sparsity emerges
RECIPES = {
    "dense": ({}, None),
    "ticket": ({}, None),  # of a network with zeros
    "one-shot": ({"sparsity": SPARSITY}, SPARSITY),
    "gmp": ({"sparsity": SPARSITY, "every": EVERY}, SPARSITY),
    "snip": ({"sparsity": SPARSITY}, SPARSITY),
    "prune": ({"sparsity": SPARSITY, "every": EVERY, "share": by_size}, SPARSITY),
    "set": ({"sparsity": SPARSITY, "every": EVERY}, SPARSITY),
    "rigl": ({"sparsity": SPARSITY, "every": EVERY}, SPARSITY),
    "itop": ({"sparsity": SPARSITY, "every": EVERY}, SPARSITY),
    "esl": ({"sparsity": SPARSITY, "every": EVERY}, SPARSITY),
    "granet": ({"sparsity": SPARSITY, "every": EVERY}, SPARSITY),
    "ndsnn": ({"sparsity": SPARSITY, "every": EVERY}, SPARSITY),
    "criticality": ({"sparsity": SPARSITY, "every": EVERY}, SPARSITY),
    # arctan: neurons of this network are so far from threshold that tanh would be 0 for all
    "criticality-released": ({"sparsity": SPARSITY, "every": EVERY, "grow": STEADY}, None),
    "rewire": ({"sparsity": SPARSITY, "every": EVERY, "share": None}, SPARSITY),
    "dpap": ({"every": 2, "life": 4.0}, None),
    "threshold": ({"tau": 0.05, "every": EVERY}, None),
    "adaptive-threshold": ({"every": EVERY}, None),
    "progressive": ({"tau": 0.05, "every": EVERY}, None),
    "freeze": ({"tau": 0.05, "value": 0.0, "every": EVERY}, None),
    "gradr": ({"alpha": 0.15}, None),
    "stds": ({"width": 0.1}, None),
    "upf": ({"penalty": 1e-6, "rate": 0.1, "until": 0.6, "birth": 0.3}, None),
    "admm": ({"sparsity": SPARSITY, "every": EVERY, "until": 0.7, "activity": 0.1}, SPARSITY),
    "minimax": ({"sparsity": SPARSITY, "every": EVERY, "until": 0.7}, SPARSITY),
    "deepr": ({"sparsity": SPARSITY, "l1": 0.1, "temperature": 1e-4}, SPARSITY),
    "soft-deepr": ({"sparsity": SPARSITY, "l1": 0.1, "temperature": 1e-4}, None),
    "deepr-chen": ({"l1": 0.1, "max_sparsity": 0.5, "temperature": 1e-4}, None),
    "slim": ({"sparsity": 0.5, "until": 0.3, "l1": 0.01}, None),
    "slim-criticality": ({"sparsity": 0.5, "until": 0.3, "churn": 0.5}, None),
    "apoz": ({"sparsity": 0.5, "until": 0.3}, None),
    "sca": ({"sparsity": 0.5, "until": 0.5, "every": EVERY, "churn": 0.5}, None),
    "greg-1": ({"sparsity": 0.5, "until": 0.5, "begin": 0.1}, None),
    "greg-2": ({"sparsity": 0.5, "until": 0.5, "begin": 0.1, "pick": 0.3}, None),
}
STRUCTURED = {"slim", "slim-criticality", "apoz", "sca", "greg-1", "greg-2"}
GROWING = {
    "set",
    "rigl",
    "itop",
    "esl",
    "granet",
    "ndsnn",
    "criticality",
    "criticality-released",
    "rewire",
    "deepr",
    "soft-deepr",
    "deepr-chen",
}

OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.02, "momentum": 0.9, "weight_decay": 1e-3}, torch.float32),
    "adam": (torch.optim.Adam, {"lr": 0.01}, torch.float64),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}, torch.bfloat16),
    "fused adam": (torch.optim.Adam, {"lr": 0.01, "fused": True}, torch.float32),
    "foreach adam": (torch.optim.Adam, {"lr": 0.01, "foreach": True}, torch.float32),
}

all_methods = pytest.mark.parametrize("name", RECIPES)
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is held at its last", "ignore:.*has lost its last", "ignore:finish.. after"
)


class Net(nn.Module):
    """Convolution, normalisation and two dense layers with leaky neurons; 907 synapses."""

    def __init__(self, width=4):
        super().__init__()
        self.conv = layer.Conv2d(1, width, 3, padding=1, bias=False, step_mode="m")
        self.norm = layer.BatchNorm2d(width, step_mode="m")
        self.lif1 = self.neuron()
        self.flat = layer.Flatten(step_mode="m")
        self.fc1 = layer.Linear(16 * width, 13, step_mode="m")
        self.lif2 = self.neuron()
        self.fc2 = layer.Linear(13, 3, bias=False, step_mode="m")

    @staticmethod
    def neuron():
        return neuron.LIFNode(surrogate_function=surrogate.ATan(), detach_reset=True, step_mode="m")

    def forward(self, xs):  # (T, B, 1, 4, 4) -> (T, B, 3)
        hidden = self.lif1(self.norm(self.conv(xs)))
        return self.fc2(self.lif2(self.fc1(self.flat(hidden))))


def network(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return Net().to(dtype)


@pytest.fixture(autouse=True)
def some_zeros(request, monkeypatch):
    """A ticket holds the zeros that a network starts with, so let there be some."""

    def pruned(*arguments, whole=network, **options):
        net = whole(*arguments, **options)
        apply_masks(net, {name: w.abs() > 0.05 for name, w in synaptic_weights(net)})
        return net

    if "ticket" in request.node.name:
        monkeypatch.setitem(globals(), "network", pruned)


def images(step, rank=0, dtype=torch.float32):
    """A mini-batch (T, B, C, H, W) that depends on the step alone, and its labels."""
    generator = torch.Generator().manual_seed(1000 * rank + step)
    xs = 2 * torch.rand(2, 6, 1, 4, 4, generator=generator) - 0.3
    return xs.to(dtype), torch.randint(3, (6,), generator=generator)


def loss_of(net, step, rank=0):
    xs, labels = images(step, rank, next(net.parameters()).dtype)
    return nn.functional.cross_entropy(net(xs).mean(0), labels)


def backward(net, step, scale=lambda loss: loss):
    scale(loss_of(net, step)).backward()
    functional.reset_net(net)


def data(dtype=torch.float32):
    """What methods that take out channels look at."""
    return [images(step, dtype=dtype)[0] for step in (900, 901)]


def recipe(name):
    options, _ = RECIPES[name]
    return METHODS[name](**options)


def set_up(name, kind="sgd", seed=0, **options):
    net = network(dtype=OPTIMIZERS[kind][2])
    make, arguments, _ = OPTIMIZERS[kind]
    optimizer = make(net.parameters(), **arguments)
    pruner = Pruner(
        net,
        recipe(name),
        optimizer,
        steps=STEPS,
        seed=seed,
        data=data(OPTIMIZERS[kind][2]),
        **options,
    )
    return net, optimizer, pruner


def train(net, optimizer, first=0, last=STEPS):
    for step in range(first, last):
        optimizer.zero_grad()
        backward(net, step)
        optimizer.step()


def snapshot(net, pruner):
    """All that a skipped step must leave alone."""
    tensors = {f"model {name}": value.clone() for name, value in net.named_parameters()}
    tensors |= {f"channels {c.name}": c.mask for c in pruner.channels}
    for s in pruner:
        tensors[f"mask {s.name}"] = s.mask
        tensors |= {f"{key} {s.name}": value.clone() for key, value in s.state.items()}
    return tensors | {"step": torch.tensor(pruner.step), "random": pruner.random.get_state()}


def assert_equal(left, right):
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert value.equal(right[name]), name


def assert_zeros(net, pruner):
    for s in pruner:
        assert s.weight is net.get_parameter(s.name)
        assert s.weight[~s.mask].eq(0).all(), s.name
        assert s.weight.isfinite().all(), s.name
    for c in pruner.channels:
        assert torch.cat([c.gain[~c.mask], c.bias[~c.mask]]).eq(0).all(), c.name


def saved(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return buffer


def hooks(net, optimizer):
    found = [*optimizer._optimizer_step_pre_hooks, *optimizer._optimizer_step_post_hooks]
    for module in net.modules():
        for those in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks):
            # a copy keeps the places of hooks that no longer hear anything
            found += [hook for hook in those.values() if getattr(hook, "hear", 0) is not _ignore]
    return found


def test_every_method_is_in_the_table():
    assert set(RECIPES) == set(METHODS)
    for name, (_, target) in RECIPES.items():
        assert (METHODS[name].sparsity_is == "exact, of synapses") == (target is not None), name
        assert METHODS[name].structured == (METHODS[name].sparsity_is == "exact, of channels"), name


@all_methods
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_whole_training(name, kind):
    """Zeros after each step, dense gradients, plain model, exact end, no trace left."""
    net, optimizer, pruner = set_up(name, kind)
    keys, kinds = list(net.state_dict()), [type(module) for module in net.modules()]
    parameters = list(net.parameters())
    for step in range(STEPS):
        train(net, optimizer, step, step + 1)
        assert pruner.step == step + 1
        assert_zeros(net, pruner)
        pruned = torch.cat([s.weight.grad[~s.mask] for s in pruner])
        # no gradient reaches what fed a channel that is out
        assert pruned.ne(0).any() or len(pruned) < 20 or name in STRUCTURED
    assert list(net.state_dict()) == keys
    assert [type(module) for module in net.modules()] == kinds
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    masks = pruner.finish()
    assert_zeros(net, pruner)
    target = RECIPES[name][1]
    alive = sum(int(w.count_nonzero()) for w in (net.get_parameter(n) for n in masks))
    total = sum(mask.numel() for mask in masks.values())
    if target is not None:
        assert sum(int(mask.sum()) for mask in masks.values()) == int((1 - target) * total + 1e-6)
        assert alive <= int((1 - target) * total + 1e-6)
    elif name != "dense":
        assert 0.05 * total < alive < 0.95 * total
    assert not hooks(net, optimizer)
    assert saved(net)


@all_methods
def test_the_model_is_copied_and_saved_at_any_moment(name):
    net, optimizer, _ = set_up(name)
    for step in range(6):
        for moment in ("before the forward pass", "before the step"):
            if moment == "before the step":
                optimizer.zero_grad()
                backward(net, step)
            for twin in (
                copy.deepcopy(net),
                torch.load(saved(net), weights_only=False),
            ):
                assert_equal(twin.state_dict(), net.state_dict())
                assert not hooks(twin, torch.optim.SGD(twin.parameters(), 0.1)), moment
                assert len(saved(twin).getvalue()) < 60_000  # nothing of the pruner in it
        optimizer.step()


@all_methods
@pytest.mark.parametrize(("kind", "cut"), [("sgd", 12), ("fused adam", 14)])  # 12: an event is due
def test_a_continued_run_is_bit_exact(name, kind, cut):
    net, optimizer, pruner = set_up(name, kind)
    train(net, optimizer, 0, cut)
    kept = {
        "model": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "pruner": pruner.state_dict(),
    }
    through_a_file = torch.load(saved(kept), weights_only=True)
    through_a_copy = copy.deepcopy(kept)
    train(net, optimizer, cut, 20)
    expected = snapshot(net, pruner)
    for again in (through_a_file, through_a_copy):
        other = network(seed=77)
        make, arguments, _ = OPTIMIZERS[kind]
        moves = make(other.parameters(), **arguments)
        other.load_state_dict(again["model"])
        moves.load_state_dict(again["optimizer"])
        continued = Pruner(
            other, recipe(name), moves, steps=STEPS, data=data(), state=again["pruner"]
        )
        train(other, moves, cut, 20)
        assert_equal(snapshot(other, continued), expected)


@all_methods
def test_states_may_be_loaded_in_any_order(name):
    """A pruner built first, on a fresh model, and everything loaded into place afterwards."""
    net, optimizer, pruner = set_up(name)
    train(net, optimizer, 0, 12)
    kept = copy.deepcopy((net.state_dict(), optimizer.state_dict(), pruner.state_dict()))
    train(net, optimizer, 12, 20)
    other, moves, continued = set_up(name, seed=5)
    for thing, state in zip((other, moves, continued)[::-1], kept[::-1], strict=True):
        thing.load_state_dict(state)
    train(other, moves, 12, 20)
    assert_equal(snapshot(other, continued), snapshot(net, pruner))


@all_methods
def test_the_seed_alone_decides_what_is_random(name):
    def masks(seed, elsewhere):
        net, optimizer, pruner = set_up(name, seed=seed)
        torch.manual_seed(elsewhere)
        train(net, optimizer, 0, 9)
        return pruner.masks

    assert_equal(masks(3, 0), masks(3, 1))
    if name in GROWING and set_up(name)[2].observer is None:  # one that listens draws nothing
        assert any(not mask.equal(masks(4, 0)[key]) for key, mask in masks(3, 0).items())


@all_methods
def test_connections_are_only_where_they_are_possible(name, monkeypatch):
    monkeypatch.setitem(RECIPES, "stds", ({"width": 1e-4}, None))  # lets nearly everything through
    possible = {"fc1.weight": torch.rand(13, 64, generator=torch.Generator().manual_seed(1)) < 0.7}
    net, optimizer, pruner = set_up(name, possible=possible)
    for step in range(14):
        train(net, optimizer, step, step + 1)
        assert net.fc1.weight[~possible["fc1.weight"]].eq(0).all()
        assert not (pruner.masks["fc1.weight"] & ~possible["fc1.weight"]).any()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner.finish()
    if RECIPES[name][1] is not None:
        assert sum(s.alive for s in pruner) == int((1 - SPARSITY) * 907)


UNITS = [Kernel(), FanIn(), Block(2, 3), NM(2, 4)]
IN_UNITS = [name for name, kind in METHODS.items() if "unit" in {f.name for f in fields(kind)}]


@pytest.mark.parametrize("unit", UNITS, ids=str)
@pytest.mark.parametrize("name", IN_UNITS)
def test_units_stay_whole(name, unit, monkeypatch):
    """Every method that ranks synapses ranks units as well."""
    options, target = RECIPES[name]
    # a share of its own would give some tensors more than 2 of 4
    monkeypatch.setitem(RECIPES, name, (options | {"unit": unit, "share": uniform}, target))
    net, optimizer, pruner = set_up(name)
    for step in range(STEPS):
        train(net, optimizer, step, step + 1)
        for name_, mask in pruner.masks.items():
            assert_in_units(unit, mask, name_)
    masks = pruner.finish()
    assert_zeros(net, pruner)
    for name_, mask in masks.items():
        assert_in_units(unit, mask, name_)
    if target is not None:
        largest = [
            1 if isinstance(unit, NM) else unit.split(m.double()).shape[1] for m in masks.values()
        ]
        budget = sum(counts({s.name: s.weight.shape for s in pruner}, target, uniform).values())
        # each tensor may lack up to a unit, and keeps one whatever the budget
        assert budget - sum(largest) < sum(s.alive for s in pruner) < budget + sum(largest)


@pytest.mark.parametrize("name", ["one-shot", "gmp", "snip", "set", "rigl"])
def test_pruning_goes_where_the_operations_are(name, monkeypatch):
    options, target = RECIPES[name]
    monkeypatch.setitem(RECIPES, name, (options | {"share": compute}, target))
    net, optimizer, pruner = set_up(name)
    train(net, optimizer)
    masks = pruner.finish()
    assert sum(int(mask.sum()) for mask in masks.values()) == int((1 - target) * 907 + 1e-6)
    # a synapse of the convolution is used at 16 places, less at the border
    conv, fc = (float(masks[f"{layer}.weight"].float().mean()) for layer in ("conv", "fc1"))
    assert conv == pytest.approx(fc / 3.6, rel=0.2)


@pytest.mark.parametrize(
    "score", [lamp, slamp, synops, momentum], ids=["lamp", "slamp", "synops", "momentum"]
)
def test_scores_through_a_whole_training(score, monkeypatch):
    options, target = RECIPES["gmp"]
    monkeypatch.setitem(RECIPES, "gmp", (options | {"score": score}, target))
    net, optimizer, pruner = set_up("gmp")
    train(net, optimizer)
    assert sum(int(mask.sum()) for mask in pruner.finish().values()) == int(0.2 * 907)
    assert_zeros(net, pruner)


def assert_in_units(unit, mask, name):
    rows = unit.split(mask.double())
    if isinstance(unit, NM):
        assert mask.double().mean() > 0.5 or rows.sum(1).max() <= unit.n, name
    else:
        there = rows > -torch.inf
        assert ((rows == 1) | ~there).all(1).logical_or(((rows == 0) | ~there).all(1)).all(), name


# --- loops of other kinds -------------------------------------------------------------------------


@all_methods
@pytest.mark.parametrize("kind", ["adam", "fused adam"])
def test_a_gradient_scaler_changes_nothing_and_may_skip(name, kind):
    """A power of two as scale is exact, so all must be equal to a run without scaler."""
    plain, optimizer, reference = set_up(name, kind)
    train(plain, optimizer, 0, 9)
    net, moves, pruner = set_up(name, kind)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
    if pruner.cost is not None:
        pruner.cost.scale = scaler.get_scale
    for step in range(9):
        if step in (0, 4, 6):
            before = snapshot(net, pruner)
            moves.zero_grad()
            backward(net, 500, lambda loss: scaler.scale(loss) * float("inf"))
            scaler.step(moves)
            scaler.update(1024.0)
            assert_equal(snapshot(net, pruner), before)
        moves.zero_grad()
        backward(net, step, scaler.scale)
        scaler.step(moves)
        scaler.update(1024.0)
    if pruner.observer is None:  # others have seen the skipped batch at their event as well
        assert_equal(snapshot(net, pruner), snapshot(plain, reference))


@dataclass(frozen=True)
class Witness(Method):
    """Keep the gradients that a method sees."""

    seen: dict = field(default_factory=dict)

    def before_step(self, pruner):
        self.seen.update({s.name: s.weight.grad.clone() for s in pruner})


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("parts", "unscaled_by_hand"), [(1, False), (1, True), (2, True)])
def test_methods_see_unscaled_gradients(fused, parts, unscaled_by_hand):
    net = network()
    backward(net, 0)
    expected = {name: p.grad.clone() for name, p in net.named_parameters()}
    net = network()
    groups = [list(net.parameters())] if parts == 1 else [
        list(net.conv.parameters()) + list(net.norm.parameters()),
        list(net.fc1.parameters()) + list(net.fc2.parameters()),
    ]  # fmt: skip
    moves = [torch.optim.Adam(group, 0.01, fused=fused) for group in groups]
    pruner = Pruner(net, Witness(), moves, steps=9)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    backward(net, 0, scaler.scale)
    for optimizer in moves if unscaled_by_hand else ():  # with several, before the first step
        scaler.unscale_(optimizer)
    for optimizer in moves:
        scaler.step(optimizer)
    assert pruner.step == 1
    for name, gradient in pruner.method.seen.items():
        assert torch.allclose(gradient, expected[name]), name


@pytest.mark.parametrize("name", ["gradr", "set", "gmp", "upf"])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("broken", ["conv", "fc2"])
def test_one_of_two_optimizers_is_skipped(name, fused, broken):
    """A scaler decides per optimizer; the pruner stays in step, zeros and theta in place."""
    net = network()
    groups = [*net.conv.parameters()], [*net.fc1.parameters(), *net.fc2.parameters()]
    moves = [torch.optim.Adam(group, 0.01, fused=fused) for group in groups]
    pruner = Pruner(net, recipe(name), moves, steps=STEPS, data=data())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
    for step in range(10):
        net.zero_grad()
        backward(net, step, scaler.scale)
        assert_zeros(net, pruner)  # at the latest when the network runs again
        if name == "gradr":
            for s in pruner:
                shown = s.state["sign"] * (s.state["sign"] * s.state["theta"]).relu()
                assert s.weight.equal(shown), (step, s.name)
        if step == 5:
            net.get_submodule(broken).weight.grad.fill_(float("inf"))
        for optimizer in moves:
            scaler.step(optimizer)
        scaler.update(1024.0)


@all_methods
def test_gradients_accumulate_over_micro_batches(name):
    """A step of the pruner is a step of the optimizer."""
    net, optimizer, pruner = set_up(name)
    for step in range(9):
        optimizer.zero_grad()
        for micro in range(3):
            backward(net, 3 * step + micro, scale=lambda loss: loss / 3)
        optimizer.step()
        assert pruner.step == step + 1
        assert_zeros(net, pruner)


@all_methods
def test_several_optimizers_hold_part_of_the_synapses_each(name):
    net, optimizer, pruner = set_up(name)
    train(net, optimizer, 0, 14)
    other = network()
    parts = [[*other.conv.parameters(), *other.norm.parameters()], [*other.fc1.parameters()]]
    parts.append([*other.fc2.parameters()])
    moves = [torch.optim.SGD(part, **OPTIMIZERS["sgd"][1]) for part in parts]
    together = Pruner(other, recipe(name), moves, steps=STEPS, data=data())
    for step in range(14):
        other.zero_grad()
        backward(other, step)
        for each in moves:
            each.step()
        assert together.step == step + 1
        assert_zeros(other, together)
    assert_equal(snapshot(other, together), snapshot(net, pruner))


@all_methods
def test_one_optimizer_for_the_synapses_and_one_for_the_rest(name):
    net = network()
    synapses, rest = split(net)
    assert [len(synapses), len(rest)] == [3, 3]
    moves = [torch.optim.SGD(synapses, 0.05), torch.optim.SGD(rest, 0.05)]
    holders = moves if name in STRUCTURED else moves[0]  # these also hold gains to 0
    pruner = Pruner(net, recipe(name), holders, steps=STEPS, data=data())
    for step in range(9):
        net.zero_grad()
        backward(net, step)
        for each in reversed(moves) if step % 2 else moves:
            each.step()
        assert_zeros(net, pruner)
    assert pruner.step == 9


@all_methods
def test_hand_called_moments_equal_hooks(name):
    net, optimizer, pruner = set_up(name, "sgd")
    optimizer.param_groups[0].update(momentum=0.0, weight_decay=0.0, foreach=False)
    train(net, optimizer, 0, 14)
    other = network()
    by_hand = Pruner(other, recipe(name), steps=STEPS, learning_rate=0.02, data=data())
    for step in range(14):
        other.zero_grad()
        backward(other, step)
        by_hand.before_step()
        with torch.no_grad():
            for p in other.parameters():
                p.add_(p.grad, alpha=-0.02)
        by_hand.after_step()
    assert_equal(snapshot(other, by_hand), snapshot(net, pruner))


@all_methods
def test_still_before_clipping(name):
    net, optimizer, pruner = set_up(name)
    train(net, optimizer, 0, 5)
    optimizer.zero_grad()
    backward(net, 5)
    dense = {s.name: s.weight.grad.clone() for s in pruner}
    pruner.still()
    for s in pruner:  # what learns through a gradient at 0 must go on learning
        hidden = not s.masked
        assert s.weight.grad.equal(dense[s.name] if hidden else dense[s.name] * s.mask)
    optimizer.step()
    assert_zeros(net, pruner)


@all_methods
def test_clipping_costs_no_regrowth(name):
    runs = []
    for stills in (False, True):
        net, optimizer, pruner = set_up(name)
        wirings = []
        for step in range(14):
            optimizer.zero_grad()
            backward(net, step)
            if stills:
                pruner.still()
            optimizer.step()
            wirings.append(pruner.masks)
        runs.append(wirings)
    assert all(same_masks(*pair) for pair in zip(*runs, strict=True))


def same_masks(one, other):
    return all(mask.equal(other[name]) for name, mask in one.items())


# --- torch.compile --------------------------------------------------------------------------------


class Counting:
    """A backend that runs graphs as they are and counts how many it was given."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph.forward


@all_methods
def test_a_compiled_model_is_compiled_once_and_trains_as_the_plain_one(name):
    """The pruner is built on the wrapper; masks that change compile nothing anew."""
    torch._dynamo.reset()
    net, backend = network(), Counting()
    fast = torch.compile(net, backend=backend)
    optimizer = torch.optim.SGD(fast.parameters(), **OPTIMIZERS["sgd"][1])
    pruner = Pruner(fast, recipe(name), optimizer, steps=STEPS, data=data())
    compiled = []
    for step in range(9):
        optimizer.zero_grad()
        loss_of(net if pruner.due else fast, step).backward()
        functional.reset_net(net)
        optimizer.step()
        compiled.append(backend.graphs)
    assert compiled[0] > 0
    assert compiled[-1] == compiled[0]
    plain, moves, reference = set_up(name)
    train(plain, moves, 0, 9)
    assert_equal(snapshot(net, pruner), snapshot(plain, reference))


def test_criticality_refuses_to_guess_for_a_compiled_model():
    """Hooks that come after compilation are not called: nothing may go on as if all were well."""
    torch._dynamo.reset()
    net, optimizer, _ = set_up("criticality")
    fast = torch.compile(net, backend="eager")
    train(fast, optimizer, 0, EVERY)
    optimizer.zero_grad()
    backward(fast, EVERY)
    with pytest.raises(ValueError, match="forward"):
        optimizer.step()


def test_a_model_compiled_to_machine_code():
    torch._dynamo.reset()
    net = nn.Sequential(nn.Linear(16, 16, bias=False), nn.Sigmoid(), nn.Linear(16, 4, bias=False))
    optimizer = torch.optim.Adam(net.parameters(), 0.05)
    pruner = Pruner(net, GradR(alpha=0.5), optimizer, steps=8)
    fast = torch.compile(net)
    for _ in range(8):
        xs = torch.randn(5, 16)
        assert torch.allclose(fast(xs), net(xs), atol=1e-5)
        optimizer.zero_grad()
        fast(xs).square().sum().backward()
        optimizer.step()
    assert 0 < pruner.sparsity < 1


# --- two processes --------------------------------------------------------------------------------


def train_in_step(name, rank):
    """Train with a method on this rank's own data; compare everything after each step."""
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    torch.manual_seed(0)
    net = Net(width=96 if name in STRUCTURED else 4)  # of many channels some are nearly alike
    parallel = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(parallel.parameters(), **OPTIMIZERS["sgd"][1])
    pruner = Pruner(parallel, recipe(name), optimizer, steps=14, data=data())
    for step in range(14):
        optimizer.zero_grad()
        loss_of(parallel, step, rank).backward()
        functional.reset_net(net)
        optimizer.step()
        assert_zeros(net, pruner)
        mine = torch.cat([t.double().flatten() for t in snapshot(net, pruner).values()])
        theirs = mine.clone()
        distributed.broadcast(theirs, src=0)
        assert mine.equal(theirs), f"{name} differs between the ranks after step {step}"
    pruner.finish()
    print(f"{name}: {pruner.sparsity:.3f}", flush=True)


def rank_of_two(rank, store):
    """Train with every method as one of two processes."""
    from torch import distributed

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for name in RECIPES:
        train_in_step(name, rank)
    gc.collect()  # torch can hang if a replica outlives its process group
    distributed.destroy_process_group()


def test_two_ranks_stay_equal_bit_for_bit(tmp_path):
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(tmp_path / "store")],
            stdout=(tmp_path / f"out-{rank}").open("w"),
            stderr=(tmp_path / f"err-{rank}").open("w"),
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    try:
        codes = [process.wait(timeout=240) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    spoken = [(tmp_path / f"out-{rank}").read_text() for rank in range(2)]
    assert codes == [0, 0], (tmp_path / "err-0").read_text()[-3000:]
    assert len(spoken[0].split("\n")) == len(RECIPES) + 1
    assert spoken[0] == spoken[1]


def test_the_dense_twin_is_trained_as_without_a_pruner():
    net, optimizer, pruner = set_up("dense")
    train(net, optimizer, 0, 9)
    assert isinstance(pruner.method, Dense)
    other = network()
    train(other, torch.optim.SGD(other.parameters(), **OPTIMIZERS["sgd"][1]), 0, 9)
    assert_equal(net.state_dict(), other.state_dict())


if __name__ == "__main__":
    rank_of_two(int(sys.argv[1]), sys.argv[2])
