"""Prune, OneShot, GMP, SNIP: eight synapses and masks worked out by hand."""

import warnings

import pytest
import torch
from torch import nn

from spikewire import GMP, SNIP, Cubic, Linear, OneShot, Prune, Pruner
from spikewire.scores import saliency
from spikewire.shares import uniform


def layers(**weights):
    """A network of named layers, each with one output and the given weights."""
    net = nn.ModuleDict({name: nn.Linear(len(w), 1, bias=False) for name, w in weights.items()})
    for name, values in weights.items():
        net[name].weight.data = torch.tensor([values])
    return net


class Scene:
    """A pruner whose optimizer moves nothing; gradients are given by hand."""

    def __init__(self, method, steps=10, **weights):
        self.net = layers(**weights)
        self.optimizer = torch.optim.SGD(self.net.parameters(), 0.0)
        self.pruner = Pruner(self.net, method, self.optimizer, steps=steps)

    def step(self, **gradients):
        for s in self.pruner:
            given = gradients.get(s.name.removesuffix(".weight"))
            s.weight.grad = torch.zeros_like(s.weight) if given is None else torch.tensor([given])
        self.optimizer.step()
        return self

    @property
    def masks(self):
        return {
            n.removesuffix(".weight"): m[0].int().tolist() for n, m in self.pruner.masks.items()
        }

    @property
    def alive(self):
        return sum(s.alive for s in self.pruner)


EIGHT = [0.1, -0.8, 0.3, 0.7, -0.2, 0.6, -0.5, 0.4]


def test_the_weakest_go():
    scene = Scene(Prune(0.5), a=EIGHT).step()
    assert scene.masks == {"a": [0, 1, 0, 1, 0, 1, 1, 0]}
    assert torch.allclose(scene.net["a"].weight, torch.tensor([[0, -0.8, 0, 0.7, 0, 0.6, -0.5, 0]]))


def test_ties_go_to_the_first_places():
    scene = Scene(Prune(0.5), a=[0.5, -0.5, 0.5, 0.5], b=[0.5, 0.5, 0.9, 0.5]).step()
    assert scene.masks == {"a": [1, 1, 1, 0], "b": [0, 0, 1, 0]}


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (None, {"a": [0, 0, 1, 0], "b": [1, 1, 0, 1]}),
        (uniform, {"a": [0, 0, 1, 1], "b": [1, 0, 0, 1]}),
    ],
)
def test_one_ranking_or_one_per_tensor(share, expected):
    scene = Scene(Prune(0.5, share=share), a=[0.1, 0.2, -0.8, 0.3], b=[-0.9, 0.5, 0.4, 0.6]).step()
    assert scene.masks == expected


def test_gmp_cuts_when_its_schedule_ends_however_rare_its_events():
    scene = Scene(GMP(0.5, every=100, until=0.6), steps=10, a=EIGHT)
    alive = []
    for _ in range(10):
        scene.step()
        alive.append(scene.alive)
    assert alive == [8] * 6 + [4] * 4
    with warnings.catch_warnings(action="error"):
        scene.pruner.finish()


def test_a_schedule_that_no_event_follows_is_cut_at_the_end_and_said_aloud():
    scene = Scene(Prune(Linear(0.0, 0.5), every=100), steps=1, a=EIGHT).step()
    with pytest.warns(UserWarning, match=r"finish\(\) cut 4 of 8 synapses"):
        scene.pruner.finish()
    assert scene.alive == 4


def test_gmp_follows_the_cubic_by_hand():
    """``s = 0.75 (1 - (1 - k/8)^3)`` of 16 at k = 0 ... 8: 0, .2476, .4336, .5669, .6563, .7105."""
    weights = [(place + 1) / 16 for place in range(16)]
    scene = Scene(GMP(0.75, every=1, until=1.0), steps=8, a=weights)
    alive = []
    for _ in range(8):
        scene.step()
        alive.append(scene.alive)
    assert alive == [16, 12, 9, 6, 5, 4, 4, 4]  # of 16 (1 - s) = 12.04 9.06 6.93 5.5 4.63 4.19
    assert scene.masks["a"] == [0] * 12 + [1] * 4
    scene.pruner.finish()
    assert scene.alive == 4


def test_gmp_waits_until_it_begins_and_keeps_what_it_left():
    scene = Scene(GMP(0.5, begin=0.4, until=0.8, every=1), steps=10, a=EIGHT)
    for step in range(10):
        scene.step()
        assert scene.alive == 8 if step <= 4 else scene.alive < 8
        if step >= 8:
            assert scene.masks["a"] == [0, 1, 0, 1, 0, 1, 1, 0]


def test_pruning_is_for_good():
    """A share that falls for one tensor between events revives nothing there."""

    def shifting(shapes, sparsity):
        return {"a.weight": 1 - sparsity, "b.weight": sparsity}

    rising = Prune(lambda progress: 0.25 + progress / 2, share=shifting, every=1)
    scene = Scene(rising, steps=4, a=EIGHT, b=EIGHT)
    before = {name: [1] * 8 for name in "ab"}
    for _ in range(4):
        masks = scene.step().masks
        assert all(x <= y for name in "ab" for x, y in zip(masks[name], before[name], strict=True))
        before = masks


def test_one_shot_is_dense_until_its_moment():
    scene = Scene(OneShot(0.5, when=0.5), steps=10, a=EIGHT)
    for step in range(10):
        assert scene.step().alive == (8 if step < 5 else 4)
    assert Scene(OneShot(0.5, when=0.0), a=EIGHT).step().alive == 4


def test_one_shot_leaves_time_to_train_on_however_short_the_run():
    scene = Scene(OneShot(0.5), steps=20, a=EIGHT)  # the default distance of events is 100 steps
    for _ in range(15):
        scene.step()
    assert scene.alive == 4


def test_snip_by_hand_and_only_once():
    #            |w g|: .9  .08  .6  0  .1  .06  1.0  .4
    gradient = [9.0, -0.1, 2.0, 0.0, 0.5, 0.1, -2.0, 1.0]
    scene = Scene(SNIP(0.5), a=EIGHT).step(a=gradient)
    assert scene.masks == {"a": [1, 0, 1, 0, 0, 0, 1, 1]}
    for _ in range(9):
        scene.step(a=[1.0, 9, 1, 9, 9, 9, 1, 1])
    scene.pruner.finish()
    assert scene.masks == {"a": [1, 0, 1, 0, 0, 0, 1, 1]}


def test_snip_sees_gradients_of_all_micro_batches():
    scene = Scene(SNIP(0.5), a=[1.0, 1.0])
    scene.net["a"](torch.tensor([[3.0, 0.0]])).sum().backward()
    scene.net["a"](torch.tensor([[0.0, 4.0]])).sum().backward()
    scene.optimizer.step()
    assert scene.masks == {"a": [0, 1]}


def test_finish_meets_the_target_if_the_last_event_came_early():
    scene = Scene(Prune(Linear(0.0, 0.75), every=7), steps=10, a=EIGHT)
    for _ in range(10):
        scene.step()
    assert scene.alive > 2
    scene.pruner.finish()
    assert scene.masks == {"a": [0, 1, 0, 1, 0, 0, 0, 0]}


def test_a_score_other_than_magnitude_decides_alone():
    scene = Scene(Prune(0.75, score=saliency), a=EIGHT).step(a=[9.0, 0, 0, 0, 0, 0, 0, 8.0])
    assert scene.masks == {"a": [1, 0, 0, 0, 0, 0, 0, 1]}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Prune(1.0), "sparsity=1.0"),
        (lambda: Prune(-0.1), "sparsity=-0.1"),
        (lambda: Prune(float("nan")), "share of zeros"),
        (lambda: Prune(90), "0.9 keeps one synapse in ten"),
        (lambda: Prune(Cubic(0.0, 1.0)), "not including 1"),
        (lambda: Prune(0.9, every=0), "every=0"),
        (lambda: GMP(0.9, initial=1.5), "initial=1.5"),
        (lambda: GMP(0.9, begin=0.8, until=0.3), "0 <= begin < finish <= 1"),
        (lambda: OneShot(0.9, when=1.5), "when=1.5"),
        (lambda: GMP(0.5, initial=0.6), "initial=0.6: sparsity would fall to 0.5"),
        (lambda: GMP(Linear(0.0, 0.9)), "a schedule of its own"),
        (lambda: OneShot(Linear(0.0, 0.9)), "a schedule of its own"),
        (lambda: Prune(score="magnitude"), "score='magnitude': give a function"),
        (lambda: Prune(share="erk"), "share='erk': give a function"),
        (lambda: Prune(every="10"), "every='10'"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(ValueError, match=words):
        make()
