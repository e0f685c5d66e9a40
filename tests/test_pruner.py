"""The pruner by itself: what it refuses, what it warns of, how it follows the optimizer."""

import contextlib
import copy
import math
import pickle
import subprocess
import sys
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import distributed, nn

from spikewire import (
    GMP,
    SET,
    Constant,
    Criticality,
    DeepR,
    Dense,
    GradR,
    Method,
    Prune,
    Pruner,
    RigL,
    synaptic_weights,
)
from spikewire.units import FanIn


def two_layers(neurons=False):
    middle = neuron.IFNode(step_mode="m") if neurons else nn.ReLU()
    return nn.Sequential(nn.Linear(8, 6), middle, nn.Linear(6, 4))


def sgd(net, rate=0.1, **options):
    return torch.optim.SGD(net.parameters(), rate, **options)


def random_gradients(pruner):
    for s in pruner:
        s.weight.grad = torch.randn_like(s.weight)


# --- refusals -------------------------------------------------------------------------------------


def with_nan(net):
    net[2].weight.data[0, 0] = math.nan
    return net


def half(net):
    return torch.optim.SGD(net[0].parameters(), 0.1)


def some(shape, dtype=torch.bool):
    return torch.ones(shape, dtype=dtype)


def unfair(shapes, sparsity):
    raise ValueError("a share of the user's own that fails")


# (what is passed, words of the sentence that refuses it)
WRONG = {
    "method by name": ({"method": "rigl"}, "give an object such as RigL"),
    "method as class": ({"method": RigL}, "not its name or class"),
    "no steps": ({"steps": 0}, "steps=0"),
    "negative steps": ({"steps": -5}, "1 or more"),
    "fractional steps": ({"steps": 10.5}, "steps=10.5"),
    "negative floor": ({"floor": -1}, "floor=-1"),
    "pattern that matches nothing": ({"only": ["conv*"]}, "'conv\\*' matches no synapses"),
    "frozen": ({"model": two_layers().requires_grad_(False)}, "no trainable parameter"),
    "no synapses": ({"model": nn.BatchNorm2d(3)}, "no synapses"),
    "NaN weights": ({"model": with_nan(two_layers())}, "2.weight holds NaN"),
    "optimizer of half the weights": ({"optimizer": half}, "does not hold 2.weight"),
    "optimizer of another model": ({"optimizer": lambda _: sgd(two_layers())}, "does not hold"),
    "a tensor in two optimizers": (
        {"optimizer": lambda net: [sgd(net), half(net)]},
        "0.weight is in two optimizers",
    ),
    "no optimizer in the list": ({"optimizer": lambda _: []}, "does not hold"),
    "LBFGS": ({"optimizer": lambda net: torch.optim.LBFGS(net.parameters())}, "LBFGS"),
    "no optimizer at all": ({"optimizer": lambda _: "adam"}, "optimizer: str is none"),
    "a learning-rate schedule": (
        {"optimizer": lambda net: torch.optim.lr_scheduler.ConstantLR(sgd(net))},
        "optimizer: ConstantLR is none",
    ),
    "Grad R without rate": ({"method": GradR(), "optimizer": None}, "learning_rate="),
    "Deep R without rate": ({"method": DeepR(), "optimizer": None}, "learning_rate="),
    "unknown name in possible": ({"possible": {"9.weight": some((1, 1))}}, "possible names"),
    "bias in possible": ({"possible": {"0.bias": some((6,))}}, "possible names"),
    "wrong shape in possible": ({"possible": {"0.weight": some((8, 6))}}, r"\(8, 6\)"),
    "numbers in possible": ({"possible": {"0.weight": some((6, 8), torch.float)}}, "bool"),
    "numpy in possible": ({"possible": {"0.weight": np.ones((6, 8), bool)}}, "is a ndarray: give"),
    "possible as a list": ({"possible": [some((6, 8))]}, "possible is a list: give a dict"),
    "state of a network": ({"state": lambda net: net.state_dict()}, "state is no pruner's"),
    "no neurons": ({"method": Criticality(), "model": two_layers()}, "no neuron layer"),
    "state of other steps": (
        {"state": lambda net: Pruner(net, Dense(), steps=7).state_dict()},
        "saved by Dense with steps=7",
    ),
    "state of other tensors": (
        {"state": lambda net: Pruner(nn.Linear(2, 2), Dense(), steps=100).state_dict()},
        "with the arguments of the one that was saved",
    ),
    "state of another method": (
        {
            "method": RigL(),
            "state": lambda _: Pruner(
                two_layers(), GradR(), steps=100, learning_rate=0.1
            ).state_dict(),
        },
        "saved by GradR",
    ),
    "rows of a transposed convolution": (
        {"model": nn.ConvTranspose2d(2, 4, 3), "method": Prune(0.5, unit=FanIn())},
        "weight is a transposed convolution",
    ),
    "a method that fails to start": ({"method": SET(share=unfair)}, "of the user's own"),
    "the same where connections are not possible everywhere": (
        {"method": SET(share=unfair), "possible": {"0.weight": ~some((6, 8))}},
        "of the user's own",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_refused_before_anything_is_changed(case):
    given, words = WRONG[case]
    arguments = {"model": two_layers(neurons=True), "method": SET(0.5), "steps": 100} | given
    net = arguments.pop("model")
    optimizer = given.get("optimizer", lambda net: sgd(net))
    held = optimizer(net) if callable(optimizer) else None
    if callable(arguments.get("state")):
        arguments["state"] = arguments["state"](copy.deepcopy(net))
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match=words) as refusal:
        Pruner(net, optimizer=held, **{k: v for k, v in arguments.items() if k != "optimizer"})
    assert "\n" not in str(refusal.value)
    for name, value in net.state_dict().items():
        assert torch.equal(value.nan_to_num(), before[name].nan_to_num()), name
    if isinstance(held, torch.optim.Optimizer):
        assert not held._optimizer_step_pre_hooks
        assert not held._optimizer_step_post_hooks
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_steps_may_be_any_whole_number():
    numpy = pytest.importorskip("numpy")
    assert Pruner(two_layers(), Dense(), steps=numpy.int64(5)).steps == 5


def test_sharded_weights_are_refused(tmp_path):
    from torch.distributed.fsdp import fully_shard

    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        mesh = distributed.init_device_mesh("cpu", (1,))
        net = fully_shard(two_layers(), mesh=mesh)
        with pytest.raises(ValueError, match=r"0.weight is sharded \(FSDP\).*DistributedData"):
            Pruner(net, SET(0.5), sgd(net), steps=10)
    finally:
        distributed.destroy_process_group()


# --- optimizers -----------------------------------------------------------------------------------


def test_closures_see_the_network_and_not_what_is_hidden():
    """``optimizer.step(closure)``, Lightning's way, computes gradients inside the step."""

    def train(closures):
        torch.manual_seed(1)
        net, xs = two_layers(), torch.randn(12, 5, 8)
        optimizer = sgd(net)
        Pruner(net, GradR(alpha=0.5), optimizer, steps=12)
        for x in xs:

            def closure(x=x):
                optimizer.zero_grad()
                loss = net(x).square().sum()
                loss.backward()
                return loss

            if closures:
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
        return net.state_dict()

    plain, with_closures = train(closures=False), train(closures=True)
    assert all(value.equal(plain[name]) for name, value in with_closures.items())


@pytest.mark.parametrize("method", [GradR(alpha=0.5), SET(0.5, every=2), DeepR(0.5)])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_optimizers_equal_one_in_either_order(method, order):
    def train(split):
        torch.manual_seed(1)
        net, xs = two_layers(), torch.randn(12, 5, 8)
        parts = [net[0].parameters(), net[2].parameters()] if split else [net.parameters()]
        optimizers = [torch.optim.SGD(part, 0.1, momentum=0.5) for part in parts]
        pruner = Pruner(net, method, optimizers, steps=12)
        for step, x in enumerate(xs):
            net.zero_grad()
            net(x).square().sum().backward()
            for place in order if split else (0,):
                optimizers[place].step()
            assert pruner.step == step + 1
        return net.state_dict()

    one, two = train(split=False), train(split=True)
    assert all(two[name].equal(value) for name, value in one.items())


def open_round():
    """A pruner of two optimizers of which only the first has stepped."""
    net = two_layers()
    optimizers = [torch.optim.SGD(part.parameters(), 0.1) for part in (net[0], net[2])]
    pruner = Pruner(net, GradR(alpha=0.5), optimizers, steps=12)
    net(torch.ones(1, 8)).sum().backward()
    optimizers[0].step()
    return net, pruner


def test_a_state_is_never_taken_from_an_open_round():
    _, pruner = open_round()
    assert pruner.state_dict()["step"] == 1
    for s in pruner:
        theta, sign = s.state["theta"], s.state["sign"]
        assert s.weight.equal(sign * (sign * theta).relu())


@pytest.mark.parametrize("model_first", [True, False])
def test_going_back_from_an_open_round_leaves_nothing_of_it(model_first):
    net, pruner = open_round()
    kept = copy.deepcopy(net.state_dict()), copy.deepcopy(pruner.state_dict())
    net(torch.ones(1, 8)).sum().backward()
    pruner._hooks.optimizers[0].step()
    for load in (lambda: net.load_state_dict(kept[0]), lambda: pruner.load_state_dict(kept[1]))[
        :: 1 if model_first else -1
    ]:
        load()
    net(torch.ones(1, 8))
    assert pruner.step == kept[1]["step"]
    for s in pruner:
        assert s.weight.equal(kept[0][s.name])
        assert s.state["theta"].equal(kept[1]["synapses"][s.name]["state"]["theta"])


def test_parts_that_are_called_by_themselves_end_a_round_too():
    """Encoder and decoder have an optimizer each; the decoder's steps every second time."""
    net = two_layers()
    optimizers = [torch.optim.SGD(part.parameters(), 0.1) for part in (net[0], net[2])]
    pruner = Pruner(net, GradR(alpha=0.5), optimizers, steps=12)
    for step in range(4):
        net[2](net[0](torch.ones(1, 8))).sum().backward()
        for s in pruner:
            assert s.weight.equal(s.state["sign"] * (s.state["sign"] * s.state["theta"]).relu())
        optimizers[0].step()
        if step % 2:
            optimizers[1].step()


def test_a_second_pruner_of_the_same_synapses_is_refused():
    net = two_layers()
    optimizer = sgd(net)
    first = Pruner(net, SET(0.5), optimizer, steps=9, only=["0.*"])
    Pruner(net, SET(0.5), optimizer, steps=9, only=["2.*"])
    before = net[0].weight.detach().clone()
    with pytest.raises(ValueError, match="0.weight is held by another pruner: .*finish"):
        Pruner(net, SET(0.9), optimizer, steps=9, only=["0.*"])
    assert net[0].weight.equal(before)
    with pytest.warns(UserWarning, match="finish"):
        first.finish()
    Pruner(net, SET(0.9), optimizer, steps=9, only=["0.*"])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, pickle.dumps])
def test_a_copy_would_hold_no_optimizer(duplicate):
    net = two_layers()
    pruner = Pruner(net, SET(0.5), sgd(net), steps=9)
    with pytest.raises(TypeError, match="state_dict"):
        duplicate(pruner)


def test_a_model_copied_within_a_round_leaves_the_pruner_behind():
    net, pruner = open_round()
    twins = copy.deepcopy(net), pickle.loads(pickle.dumps(net))
    for twin in twins:
        twin(torch.ones(1, 8))
    assert pruner.step == 0
    net(torch.ones(1, 8))
    assert pruner.step == 1


def test_chance_is_not_the_chance_that_drew_the_weights():
    torch.manual_seed(7)
    net = nn.Linear(100, 100)
    pruner = Pruner(net, SET(0.5), sgd(net), steps=100, seed=7)
    torch.manual_seed(7)
    weights = nn.Linear(100, 100).weight
    both = torch.stack([weights.flatten(), pruner.masks["weight"].flatten().float()])
    assert abs(torch.corrcoef(both)[0, 1]) < 0.05


def test_a_state_from_before_the_first_cut_lets_all_synapses_exist_again():
    net = two_layers()
    optimizer = sgd(net)
    pruner = Pruner(net, Prune(0.5, every=1), optimizer, steps=10)
    early, weights = pruner.state_dict(), copy.deepcopy(net.state_dict())
    random_gradients(pruner)
    optimizer.step()
    assert pruner.sparsity == 0.5
    net.load_state_dict(weights)
    pruner.load_state_dict(early)
    assert pruner.sparsity == 0.0
    assert not any(s.masked for s in pruner)


def test_an_optimizer_without_synapses_is_left_alone():
    net = two_layers()
    weights = torch.optim.SGD([w for _, w in synaptic_weights(net)], 0.1)
    biases = torch.optim.SGD([net[0].bias, net[2].bias], 0.1)
    pruner = Pruner(net, SET(0.5), [weights, biases], steps=10)
    assert not biases._optimizer_step_pre_hooks
    biases.step()
    assert pruner.step == 0


class Drifting(torch.optim.SGD):
    """Moves weights once more after its parent has; its parent fails when told to."""

    fails = False

    def step(self, closure=None):
        super().step(self._fail if self.fails else closure)
        with torch.no_grad():
            for weight in self.param_groups[0]["params"]:
                weight.add_(0.01)

    def _fail(self):
        raise RuntimeError("out of memory")


def test_a_step_ends_when_that_of_the_whole_optimizer_does():
    net = two_layers()
    sgd(net)  # from now on torch calls the hooks of the parent's step, too
    optimizer = Drifting(net.parameters(), 0.1)
    pruner = Pruner(net, SET(0.5, every=100), optimizer, steps=10)
    for optimizer.fails in (False, True, False, False):
        random_gradients(pruner)
        with contextlib.suppress(RuntimeError):
            optimizer.step()
        assert sum(int((s.weight == 0).sum()) for s in pruner) == sum(
            int((~s.mask).sum()) for s in pruner
        )
    assert pruner.step == 3


def test_the_rate_is_that_of_each_group_and_follows_schedules_and_restored_states():
    net = two_layers()
    optimizer = torch.optim.SGD(
        [{"params": net[0].parameters(), "lr": 0.5}, {"params": net[2].parameters()}], 0.1
    )
    saved = copy.deepcopy(optimizer.state_dict())
    pruner = Pruner(net, GradR(), optimizer, steps=10)
    assert [pruner.lr(s) for s in pruner] == [0.5, 0.1]
    optimizer.param_groups[0]["lr"] = 0.25
    assert [pruner.lr(s) for s in pruner] == [0.25, 0.1]
    optimizer.load_state_dict(saved)
    optimizer.param_groups[1]["lr"] = torch.tensor(2.0)
    assert [pruner.lr(s) for s in pruner] == [0.5, 2.0]


def test_attach_moves_to_another_optimizer():
    net = two_layers()
    first, second = sgd(net), torch.optim.Adam(net.parameters())
    pruner = Pruner(net, SET(0.5), first, steps=10)
    assert pruner.attach(second) is pruner
    random_gradients(pruner)
    first.step()
    assert pruner.step == 0
    second.step()
    assert pruner.step == 1
    assert pruner.beta1(next(iter(pruner))) == 0.9


def test_attach_keeps_listening_for_an_event_that_is_due():
    net = two_layers(neurons=True)
    pruner = Pruner(net, Criticality(0.5, every=1), steps=10)
    pruner.after_step()
    assert pruner.due
    pruner.attach(sgd(net))
    assert pruner.due


# --- the floor, warnings, finish ------------------------------------------------------------------


def starved(floor):
    net = two_layers()
    net[2].weight.data *= 1e-3
    optimizer = sgd(net, 0.0)
    pruner = Pruner(net, Prune(0.5), optimizer, steps=1, floor=floor)
    random_gradients(pruner)
    optimizer.step()
    return pruner


def test_the_last_synapse_is_held_and_named():
    with pytest.warns(UserWarning, match=r"2\.weight is held at its last 1 of 24"):
        pruner = starved(floor=1)
    assert [s.alive for s in pruner] == [35, 1]


def test_a_floor_of_zero_lets_a_tensor_go_but_not_silently():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pruner = starved(floor=0)
        assert [s.alive for s in pruner] == [36, 0]
        pruner.finish()
    assert any("2.weight has lost its last synapse" in str(w.message) for w in caught)


def test_a_higher_floor_holds_more():
    with pytest.warns(UserWarning, match="held at its last 5"):
        assert [s.alive for s in starved(floor=5)] == [31, 5]


@pytest.mark.parametrize("steps", [1, 200])
def test_grad_r_warns_of_extinction(steps):
    """At the end, and every so often on the way."""
    net = two_layers()
    optimizer = sgd(net, 1.0)
    pruner = Pruner(net, GradR(alpha=1.0), optimizer, steps=steps)  # down by 1, then around -2.3
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(steps):
            optimizer.step()
        if steps == 1:
            pruner.finish()
    assert any("0.weight has lost its last synapse" in str(w.message) for w in caught)


def test_finish_before_the_end_is_noticed():
    net = two_layers()
    pruner = Pruner(net, GMP(0.5), sgd(net), steps=10)
    with pytest.warns(UserWarning, match="finish\\(\\) after 0 of steps=10"):
        masks = pruner.finish()
    assert sum(int(m.sum()) for m in masks.values()) == 36
    assert pruner.sparsity == 0.5


def test_more_steps_than_planned_keep_progress_at_one():
    net = two_layers()
    optimizer = sgd(net)
    pruner = Pruner(net, GMP(0.5, every=1), optimizer, steps=2)
    for _ in range(5):
        random_gradients(pruner)
        optimizer.step()
    assert pruner.step == 5
    assert pruner.progress == 1.0
    assert pruner.sparsity == 0.5


# --- what methods use -----------------------------------------------------------------------------


def test_still_zeroes_gradients_of_pruned_synapses_only():
    net = two_layers()
    pruner = Pruner(net, SET(0.5), sgd(net), steps=10)
    random_gradients(pruner)
    before = {s.name: s.weight.grad.clone() for s in pruner}
    net[2].weight.grad = None
    pruner.still()
    assert net[0].weight.grad.equal(before["0.weight"] * pruner.masks["0.weight"])
    assert net[2].weight.grad is None


def test_rewire_from_the_user_s_own_loop():
    net = two_layers()
    pruner = Pruner(net, Dense(), sgd(net), steps=10)
    mask = torch.rand(6, 8) < 0.5
    pruner.rewire({"0.weight": mask})
    assert pruner.masks["0.weight"].equal(mask)
    assert net[0].weight[~mask].eq(0).all()
    assert net[2].weight.ne(0).all()


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        ({"0.bias": torch.ones(6, dtype=torch.bool)}, "names 0.bias, none of the network's"),
        ({"0.weight": torch.ones(8, dtype=torch.bool)}, r"give a bool mask of shape \(6, 8\)"),
        ({"2.weight": torch.ones(4, 6)}, "torch.float32"),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks, words):
    net = two_layers()
    pruner = Pruner(net, Dense(), sgd(net), steps=10)
    with pytest.raises(ValueError, match=words):
        pruner.rewire({"0.weight": torch.zeros(6, 8, dtype=torch.bool)} | masks)
    assert all(mask.all() for mask in pruner.masks.values())


def test_step_sizes_are_no_memory():
    net = two_layers()
    optimizer = torch.optim.Rprop(net.parameters(), 0.01)
    pruner = Pruner(net, Dense(), optimizer, steps=10)
    random_gradients(pruner)
    optimizer.step()
    pruner.rewire({"0.weight": torch.zeros(6, 8, dtype=torch.bool)})
    state = optimizer.state[net[0].weight]
    assert state["prev"].eq(0).all()
    assert state["step_size"].eq(0.01).all()


def test_only_and_possible():
    net = two_layers()
    before = net[0].weight.detach().clone()
    possible = torch.rand(4, 6) < 0.7
    pruner = Pruner(net, SET(0.6), sgd(net), steps=9, only=["2.*"], possible={"2.weight": possible})
    (s,) = pruner
    assert s.name == "2.weight"
    assert s.alive == 9  # of 9.6
    assert not (s.mask & ~possible).any()
    assert net[0].weight.equal(before)


def test_too_few_possible_places_are_all_taken():
    net = nn.Linear(10, 1)
    possible = torch.arange(10).view(1, 10) < 3
    pruner = Pruner(net, SET(0.5), sgd(net), steps=9, possible={"weight": possible})
    assert pruner.masks["weight"].equal(possible)


@dataclass(frozen=True)
class Threshold(Method):
    """A method of the user's own, of a few lines."""

    tau: float = 0.1

    def before_step(self, pruner):
        pruner.rewire({s.name: s.mask & (s.weight.abs() > self.tau) for s in pruner})


def test_a_method_of_the_user_s_own():
    net = two_layers()
    expected = {name: w.abs() > 0.1 for name, w in synaptic_weights(net)}
    optimizer = sgd(net)
    pruner = Pruner(net, Threshold(), optimizer, steps=3)
    random_gradients(pruner)
    optimizer.step()
    assert all(mask.equal(expected[name]) for name, mask in pruner.masks.items())


def test_hidden_parameters_survive_a_step_called_twice():
    """A loop that stumbles between the two moments must not mix weights and hidden parameters."""
    net = two_layers()
    pruner = Pruner(net, GradR(alpha=5.0), steps=10, learning_rate=0.01)
    pruner.before_step()
    with pytest.raises(RuntimeError, match="after_step"):
        pruner.before_step()
    pruner.after_step()
    for s in pruner:
        assert s.weight.data_ptr() != s.state["theta"].data_ptr()


def test_a_pruner_says_where_it_is():
    net = two_layers()
    pruner = Pruner(net, SET(0.75, share=None), sgd(net), steps=4, seed=3)
    assert (pruner.step, pruner.steps, pruner.progress) == (0, 4, 0.0)
    assert pruner.sparsity == 0.75
    assert [s.name for s in pruner] == list(pruner.masks) == ["0.weight", "2.weight"]
    assert not pruner.due
    with pytest.raises(ValueError, match=r"score\.observes = True"):
        _ = pruner.criticality
    assert Constant(0.75)(pruner.progress) == pruner.sparsity


def test_importing_the_library_does_not_import_a_compiler_or_a_spiking_library():
    code = "import sys, spikewire; print([m for m in sys.modules if m in sys.argv])"
    heavy = ["torch._dynamo", "torch._inductor", "spikingjelly", "snntorch", "matplotlib"]
    done = subprocess.run(
        [sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
