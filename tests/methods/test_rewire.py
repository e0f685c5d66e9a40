"""SET, RigL, GraNet, NDSNN, Criticality: events by hand and against a transcription in numpy."""

import warnings

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from spikewire import (
    ESL,
    ITOP,
    NDSNN,
    SET,
    Constant,
    Criticality,
    Cubic,
    DeepR,
    GraNet,
    Linear,
    Pruner,
    ReleasedCriticality,
    Rewire,
    RigL,
    Steps,
)
from spikewire.channels import gain
from spikewire.methods.rewire import explored
from spikewire.scores import chance, criticality, gradient, primitive, slamp
from spikewire.shares import counts, erk


class Scene:
    """A pruner whose optimizer moves nothing; its masks are those of the given weights."""

    def __init__(self, method, steps=100, momentum=0.0, **weights):
        self.net = nn.ModuleDict(
            {name: nn.Linear(len(w), 1, bias=False) for name, w in weights.items()}
        )
        self.optimizer = torch.optim.SGD(self.net.parameters(), 0.0, momentum=momentum)
        self.pruner = Pruner(self.net, method, self.optimizer, steps=steps)
        with torch.no_grad():
            for name, values in weights.items():
                self.net[name].weight.copy_(torch.tensor([values]))
            self.pruner.rewire({s.name: s.weight != 0 for s in self.pruner})

    def step(self, **gradients):
        for s in self.pruner:
            given = gradients.get(s.name.removesuffix(".weight"))
            s.weight.grad = torch.zeros_like(s.weight) if given is None else torch.tensor([given])
        self.optimizer.step()
        return self

    def event(self, **gradients):
        """One idle step, as there is no event before the first, then one with gradients."""
        return self.step().step(**gradients)

    @property
    def weights(self):
        return {name: layer.weight[0].tolist() for name, layer in self.net.items()}

    @property
    def masks(self):
        return {
            n.removesuffix(".weight"): m[0].int().tolist() for n, m in self.pruner.masks.items()
        }


def rounded(weights):
    return {name: [round(value, 6) for value in values] for name, values in weights.items()}


W = [0.9, 0.1, -0.5, 0.2, 0.0, 0.0, 0.0, 0.0]
G = [0.0, 0.3, 0.0, -0.1, 0.2, -0.9, 0.1, 0.05]
# half of the four stay (.9, -.5); of the others the largest |g| are places 5 (.9) and 1 (.3)


@pytest.mark.parametrize(
    ("method", "regrown"),
    [
        (RigL(0.5, churn=Constant(0.5), every=1), 0.1),  # regrown: keeps .1
        (Rewire(0.5, churn=0.5, every=1), 0.1),
        (Rewire(0.5, churn=0.5, every=1, restart=True), 0),  # regrown: from 0
        (NDSNN(0.5, initial=0.5, churn=0.5, every=1), 0),
    ],
)
def test_one_exchange_by_hand(method, regrown):
    scene = Scene(method, a=W).event(a=G)
    assert scene.masks == {"a": [1, 1, 1, 0, 0, 1, 0, 0]}
    assert rounded(scene.weights) == {"a": [0.9, regrown, -0.5, 0, 0, 0, 0, 0]}


@pytest.mark.parametrize("kind", [SET, ESL])
def test_the_strong_stay_and_others_grow_anywhere(kind):
    grown = set()
    for seed in range(40):
        scene = Scene(kind(0.5, churn=Constant(0.5), every=1), a=W)
        scene.pruner.random.manual_seed(seed)
        mask = scene.event(a=G).masks["a"]
        assert mask[0] == mask[2] == 1
        assert sum(mask) == 4
        grown |= {place for place, there in enumerate(mask) if there}
    assert grown == set(range(8))


def test_itop_counts_what_has_ever_existed():
    method = ITOP(0.5, churn=Constant(0.5), every=1)
    scene = Scene(method, a=W)
    scene.pruner._synapses[0].state["explored"] = torch.tensor([[True] * 4 + [False] * 4])
    assert explored(scene.pruner) == 0.5
    scene.event(a=G)  # .2 goes, place 5 comes
    assert explored(scene.pruner) == 5 / 8
    scene.step(a=[0, 0, 0, 0, 0, 0, 0, 1.0])
    assert explored(scene.pruner) == 6 / 8


@pytest.mark.parametrize(("churn", "stay"), [(0.3, 4), (0.9, 1), (0.1, 5), (0.7, 2), (0.0, 5)])
def test_the_dropped_are_rounded_down(churn, stay):
    """``k = floor(churn * active)`` go, here of 5; Evci et al. 2020."""
    scene = Scene(RigL(0.5, churn=Constant(churn), every=1), a=[5.0, 4, 3, 2, 1, 0, 0, 0, 0, 0])
    scene.event(a=[0.0] * 5 + [5.0, 4, 3, 2, 1])
    assert scene.masks["a"] == [1] * stay + [0] * (5 - stay) + [1] * (5 - stay) + [0] * stay


def test_no_event_at_the_first_step_nor_after_until():
    scene = Scene(RigL(0.5, churn=Constant(0.5), every=1, until=0.3), steps=10, a=W)
    assert scene.step(a=G).masks == {"a": [1, 1, 1, 1, 0, 0, 0, 0]}
    for _ in range(3):
        scene.step()
    late = scene.masks
    for _ in range(6):
        scene.step(a=[0.0] * 6 + [9.0, 9.0])
    assert scene.masks == late


def test_pause_leaves_all_parameters_where_they_are():
    scene = Scene(RigL(0.5, churn=Constant(0.5), every=1, pause=True), a=W, b=W)
    scene.optimizer.param_groups[0]["lr"] = 1.0
    scene.step()
    before = scene.weights
    scene.step(a=G, b=[1.0] * 8)
    assert scene.weights["b"][0] == before["b"][0]
    assert scene.masks["a"] == [1, 1, 1, 0, 0, 1, 0, 0]


@pytest.mark.parametrize("forget", [True, False])
def test_the_optimizer_forgets_what_changed(forget):
    method = Rewire(0.5, churn=0.5, every=1, restart=True, forget=forget)
    scene = Scene(method, momentum=0.5, a=W)
    scene.step(a=[1.0] * 8)
    scene.step(a=G)
    memory = scene.optimizer.state[scene.net["a"].weight]["momentum_buffer"][0]
    # unchanged: places 0, 2 (kept) and 4, 6, 7 (still absent); the others dropped or born
    ran_on = 0.5 + torch.tensor(G)
    changed = [place in (1, 3, 5) and forget for place in range(8)]
    expected = torch.where(torch.tensor(changed), torch.tensor(G), ran_on)
    assert torch.allclose(memory, expected)


def test_granet_cuts_globally_then_exchanges_by_layer():
    """10 of 16 alive, 8 to stay: the cut takes two of b; each layer then exchanges half."""
    method = GraNet(0.5, initial=0.375, settle=0.01, churn=0.5, every=1)
    scene = Scene(
        method,
        a=[0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.0, 0.0],
        b=[0.3, 0.2, 0.1, 0.05, 0.0, 0.0, 0.0, 0.0],
    )
    scene.event(
        a=[0.0, 0.0, 0.0, 0.0, 0.0, 0.3, 0.2, 0.1],
        b=[0.0, 0.0, 0.0, 9.0, 8.0, 7.0, 6.0, 5.0],
    )
    assert scene.masks == {"a": [1, 1, 1, 0, 0, 1, 1, 1], "b": [1, 0, 0, 1, 0, 0, 0, 0]}
    assert rounded(scene.weights)["a"] == [0.9, 0.8, 0.7, 0, 0, 0.4, 0, 0]  # .4 went and came back


def test_ndsnn_drops_more_than_it_grows():
    """6 alive, 4 wanted; half of the 6 go, 1 comes."""
    scene = Scene(
        NDSNN(0.5, initial=0.25, churn=0.5, every=1),
        steps=1,
        a=[0.6, -0.5, 0.4, 0.3, 0.2, 0.1, 0.0, 0.0],
    )
    scene.event(a=[0.0, 0.0, 0.0, 0.1, 0.2, 0.3, 0.9, 0.4])
    assert scene.masks == {"a": [1, 1, 1, 0, 0, 0, 1, 0]}


def test_ndsnn_grows_nothing_if_the_schedule_falls_faster_than_it_drops():
    scene = Scene(
        NDSNN(0.75, initial=0.0, churn=0.1, every=1), steps=1, a=[8.0, 7, 6, 5, 4, 3, 2, 1]
    )
    assert scene.event(a=[0.0] * 4 + [9.0] * 4).masks == {"a": [1, 1, 0, 0, 0, 0, 0, 0]}


def test_every_layer_of_ndsnn_follows_a_cubic_of_its_own():
    """Half way an eighth is left of the way from 12 to 8, and from 8 to 4 of another layer."""

    def given(shapes, sparsity):  # not in proportion: one layer is spared
        return {"a.weight": 0.25, "b.weight": 0.5} if sparsity < 0.6 else dict.fromkeys(shapes, 0.5)

    method = NDSNN(0.75, initial=0.375, share=given, every=1)
    scene = Scene(method, steps=4, a=[1.0] * 16, b=[1.0] * 16)
    scene.pruner.step = 2
    assert method.spend(scene.pruner) == {"a.weight": 8, "b.weight": 8}


def worth(synapses, pruner):
    """A stand-in for criticality: the last places are the most critical; b is a read-out."""
    if synapses.name == "b.weight":
        return torch.full_like(synapses.weight, -torch.inf)
    return torch.arange(8.0).div(2, rounding_mode="floor").expand_as(synapses.weight)


@pytest.mark.parametrize(
    ("exact", "revived"), [(True, [0, 0, 0, 0, 0, 0, 1, 0]), (False, [0, 0, 0, 0, 0, 0, 1, 1])]
)
def test_criticality_cuts_beyond_the_target_and_revives(exact, revived):
    """16 weights, s = .75: 4 to be; r = .25: 3 stay globally, the most critical one returns."""
    method = Criticality(0.75, churn=0.25, grow=worth, until=0.01, every=1, exact=exact)
    scene = Scene(
        method,
        a=[0.8, 0.7, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1],
        b=[0.9, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2],
    )
    scene.event()
    strong = [1, 1, 0, 0, 0, 0, 0, 0]
    assert scene.masks == {
        "a": [x + y for x, y in zip(strong, revived, strict=True)],
        "b": [1, 0, 0, 0, 0, 0, 0, 0],
    }
    assert scene.net["a"].weight[0, 6] == 0.0


def slope(x):
    return 1 / (1 + (np.pi * x) ** 2)


def tanh(x):
    return np.tanh(3 * np.clip(x, -0.5, 0.5)) / (2 * np.tanh(1.5)) + 0.5


@pytest.mark.parametrize(
    ("kind", "worth", "whole"), [(Criticality, slope, False), (ReleasedCriticality, tanh, True)]
)
def test_both_readings_of_criticality_on_spiking_neurons(kind, worth, whole):
    """One time step, two samples: 24 weights, 12 to be; r = .25: 9 stay, 3 come back, or more."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(4, 6)).astype(np.float32)
    x = rng.uniform(size=(1, 2, 6)).astype(np.float32)
    net = nn.Sequential(layer.Linear(6, 4, bias=False), neuron.IFNode())
    functional.set_step_mode(net, "m")
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor(w))
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    pruner = Pruner(net, kind(0.5, churn=0.25, until=0.1, every=1), optimizer, steps=10)
    for _ in range(2):
        net(torch.tensor(x)).sum().backward()
        optimizer.step()
        functional.reset_net(net)
    score = worth(x[0].astype(float) @ w.T.astype(float) - 1).mean(0)
    kept = top(np.abs(w), 9)
    hope = np.where(kept, -np.inf, score[:, None])
    back = hope >= np.sort(hope, axis=None)[-3] if whole else top(hope, 3)
    assert np.array_equal(pruner.masks["0.weight"].numpy(), kept | back)
    assert back.sum() > 3 or not whole


def test_criticality_starts_dense_and_follows_the_cubic():
    scene = Scene(
        Criticality(0.75, grow=worth, until=1.0, every=1), steps=8, a=[1.0] * 8, b=[2.0] * 8
    )
    alive = []
    for _ in range(8):
        scene.step()
        alive.append(sum(s.alive for s in scene.pruner))
    assert alive == [16, 12, 9, 6, 5, 4, 4, 4]  # the same cubic as gradual magnitude pruning


@pytest.mark.parametrize("churn", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("grow", [criticality, primitive, gradient, chance, slamp])
def test_criticality_leaves_a_read_out_without_neurons_its_part(grow, churn):
    """Nothing could be revived there: it is cut to its part of the sparsity, whatever the churn."""
    torch.manual_seed(0)
    net = nn.Sequential(
        layer.Linear(20, 30), neuron.LIFNode(), layer.Linear(30, 30), neuron.LIFNode(),
        nn.Linear(30, 10),
    )  # fmt: skip
    functional.set_step_mode(net, "m")
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    method = Criticality(0.8, grow=grow, churn=churn, until=0.1, every=1)
    pruner = Pruner(net, method, optimizer, steps=10)
    for _ in range(2):
        net(torch.rand(4, 8, 20)).sum().backward()
        optimizer.step()
        functional.reset_net(net)
    sizes = {n: w.abs() for n, w in before.items() if w.ndim == 2}
    cut = torch.cat([size.flatten() for size in sizes.values()]).sort().values[-360]
    assert pruner.masks["4.weight"].equal(sizes["4.weight"] >= cut)
    assert sum(s.alive for s in pruner) == 360  # 0.2 of 600 + 900 + 300


@pytest.mark.parametrize("until", [0.3, 0.75, 0.95])
def test_criticality_has_events_until_its_sparsity_is_reached(until):
    scene = Scene(Criticality(0.5, grow=worth, until=until, every=1), a=[1.0] * 8, b=[2.0] * 8)
    events = []
    for step in range(100):
        scene.pruner.step = step
        if scene.pruner.method.event(scene.pruner):
            events.append(step / 100)
    assert events[-1] == until


@pytest.mark.parametrize("until", [0.5, 0.75, 1.0])
def test_rigl_anneals_until_the_wiring_is_frozen(until):
    """The formula: ``churn(t) = alpha / 2 (1 + cos(pi t / until))``."""
    exchange = RigL(until=until).exchange()
    assert exchange(0.0) == pytest.approx(0.3)
    assert exchange(until / 2) == pytest.approx(0.15)
    assert exchange(until) == pytest.approx(0.0)


def test_criticality_in_one_event_is_warned_of():
    with pytest.warns(UserWarning, match="every=2000 leaves no event before until=0.5 of 100"):
        Scene(Criticality(0.9, grow=worth, every=2000), a=[1.0] * 8)


def test_a_large_cut_after_training_is_said_aloud():
    scene = Scene(Rewire(Linear(0.5, 0.875), every=1, until=0.5), a=[1.0] * 32)
    with pytest.warns(UserWarning, match=r"finish\(\) cut 28 of 32 synapses"):
        scene.pruner.finish()


def test_no_warning_when_nothing_is_at_its_last_synapse():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scene = Scene(RigL(0.75, churn=Constant(0.5), every=1), a=[0.9, 0.1, 0, 0, 0, 0, 0, 0])
        assert scene.event(a=G).masks["a"][0] == 1


# --- against a transcription ----------------------------------------------------------------------


def top(values, count):
    """A mask of the largest values, ties by place."""
    mask = np.zeros(values.shape, bool)
    mask.flat[np.argsort(-values, axis=None, kind="stable")[:count]] = True
    return mask


def top_of_all(values, count):
    flat = top(np.concatenate([v.ravel() for v in values.values()]), count)
    parts = np.split(flat, np.cumsum([v.size for v in values.values()])[:-1])
    return {
        name: part.reshape(values[name].shape) for name, part in zip(values, parts, strict=True)
    }


def hidden_below(values, mask):
    return np.where(mask, values, -np.inf)


def by_layer(w, g, masks, keep, budget):
    """Drop to ``keep`` by magnitude, grow to ``budget`` by gradient, each tensor by itself."""
    new = {}
    for name, mask in masks.items():
        stay = top(hidden_below(np.abs(w[name]), mask), keep[name])
        new[name] = top(np.where(stay, np.inf, np.abs(g[name])), budget[name])
    return new


def cosine(first, last, u):
    return last + (first - last) * (1 + np.cos(np.pi * min(u, 1.0))) / 2


def cubic(first, last, u):
    return last + (first - last) * (1 - min(u, 1.0)) ** 3


def expected_masks(name, progress, w, g, masks, shapes):
    size = sum(s.numel() for s in shapes.values())
    exchanges = {
        "rigl": cosine(0.3, 0.0, progress / 0.75),
        "itop": cosine(0.5, 0.0, progress),
        "esl": cosine(0.5, 0.0, progress / 0.75),
    }
    if name in exchanges:
        budget, churn = counts(shapes, 0.8, erk), exchanges[name]
        return by_layer(w, g, masks, {n: b - int(b * churn) for n, b in budget.items()}, budget)
    if name == "ndsnn":
        first, last = (counts(shapes, sparsity, erk) for sparsity in (0.6, 0.8))
        ahead = cubic(1.0, 0.0, progress)
        budget = {n: last[n] + int(ahead * (first[n] - last[n])) for n in last}
        churn = cosine(0.5, 0.05, progress)
        keep = {n: int(m.sum()) - int(m.sum() * churn) for n, m in masks.items()}
        return by_layer(w, g, masks, {n: min(budget[n], keep[n]) for n in keep}, budget)
    if name == "granet":
        left = int(size * (1 - cubic(0.5, 0.8, progress / 0.5)) + 1e-6)
        if left < sum(m.sum() for m in masks.values()):
            masks = top_of_all({n: hidden_below(np.abs(w[n]), m) for n, m in masks.items()}, left)
        have = {n: int(m.sum()) for n, m in masks.items()}
        churn = cosine(0.5, 0.005, progress)
        return by_layer(w, g, masks, {n: k - int(k * churn) for n, k in have.items()}, have)
    # criticality, growing by gradient
    budget = int(size * (1 - cubic(0.0, 0.8, progress / 0.5)) + 1e-6)
    stay = top_of_all(
        {n: hidden_below(np.abs(w[n]), m) for n, m in masks.items()}, budget - int(0.2 * budget)
    )
    return top_of_all({n: np.where(stay[n], np.inf, np.abs(g[n])) for n in masks}, budget)


@pytest.mark.parametrize(
    ("name", "method", "last"),
    [
        ("rigl", RigL(0.8, every=5), 0.75),
        ("itop", ITOP(0.8, every=5), 1.0),
        ("esl", ESL(0.8, every=5, grow=lambda s, _: s.weight.grad.abs()), 0.75),
        ("ndsnn", NDSNN(0.8, every=5), 1.0),
        ("granet", GraNet(0.8, every=5), 1.0),
        ("criticality", Criticality(0.8, every=5, grow=lambda s, _: s.weight.grad.abs()), 0.5),
    ],
)
def test_every_event_of_a_training_equals_the_transcription(name, method, last):
    net = nn.Sequential(nn.Linear(12, 20), nn.Conv2d(2, 4, 3))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    pruner = Pruner(net, method, optimizer, steps=100)
    shapes = {s.name: s.weight.shape for s in pruner}
    events = 0
    for step in range(100):
        for p in net.parameters():
            p.grad = torch.randn_like(p)
        w = {s.name: s.weight.detach().numpy().copy() for s in pruner}
        g = {s.name: s.weight.grad.numpy().copy() for s in pruner}
        masks = {n: m.numpy().copy() for n, m in pruner.masks.items()}
        optimizer.step()
        if step and step % 5 == 0 and step / 100 <= last:
            events += 1
            masks = expected_masks(name, step / 100, w, g, masks, shapes)
        for key, mask in pruner.masks.items():
            assert np.array_equal(mask.numpy(), masks[key]), (step, key)
    assert events > 8


def test_the_first_masks_are_random_with_the_shares_of_erk():
    net = nn.Sequential(nn.Linear(100, 100), nn.Conv2d(8, 8, 3))
    pruner = Pruner(net, SET(0.9), torch.optim.SGD(net.parameters(), 0.1), steps=10)
    budget = counts({s.name: s.weight.shape for s in pruner}, 0.9, erk)
    assert {s.name: s.alive for s in pruner} == budget
    rows = net[0].weight.ne(0).sum(1).float()
    assert rows.std() > 0.5
    assert rows.min() < rows.mean() < rows.max()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Rewire(sparsity=1.0), "sparsity=1.0"),
        (lambda: Rewire(churn=1.0), "churn=1.0"),
        (lambda: Rewire(churn=-0.1), "churn=-0.1"),
        (lambda: Criticality(churn=Steps((0.1, 3.0, 0.1), marks=(0.2, 0.6))), "churn=Steps"),
        (lambda: Criticality(grow=gain), "grow=.*: give a function of the synapses and the prune"),
        (lambda: Rewire(every=0), "every=0"),
        (lambda: GraNet(initial=1.0), "initial=1.0"),
        (lambda: NDSNN(initial=-0.5), "initial=-0.5"),
        (lambda: Criticality(until=0.0), "begin < finish"),
        (lambda: GraNet(0.3), "initial=0.5: sparsity would fall to 0.3"),
        (lambda: NDSNN(0.5), "initial=0.6"),
        (lambda: Criticality(Cubic(0.0, 0.9)), "a schedule of its own"),
        (lambda: RigL(grow="gradient"), "grow='gradient': give a function"),
        (lambda: RigL(drop="magnitude"), "drop='magnitude'"),
        (lambda: RigL(share="uniform"), "share='uniform': give a function"),
        (lambda: RigL(every=2.5), "every=2.5"),
        (lambda: DeepR(share="erk"), "share='erk'"),
        (lambda: GraNet(settle=2.0), "begin < finish"),
        (lambda: Rewire(Cubic(0.2, 1.0)), "not including 1"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(ValueError, match=words):
        make()
