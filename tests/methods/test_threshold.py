"""Threshold, AdaptiveThreshold, Progressive and Freeze: what they do to numbers one can follow."""

import pytest
import torch
from torch import nn

from spikewire import AdaptiveThreshold, Freeze, Linear, Progressive, Pruner, Threshold
from spikewire.config import method


def layer(*rows):
    net = nn.Linear(len(rows[0]), len(rows), bias=False)
    net.weight.data = torch.tensor(rows)
    return net


def loop(net, how, steps=2, move=lambda weight: None, **options):
    """Steps of a loop that has no optimizer: `move` is what learning does to the weights."""
    pruner = Pruner(net, how, steps=steps, **options)
    for _ in range(steps):
        pruner.before_step()
        with torch.no_grad():
            move(net.weight)
        pruner.after_step()
    pruner.finish()
    return pruner


def rows(net):
    return [[round(w, 6) for w in row] for row in net.weight.tolist()]


def test_what_is_weaker_than_tau_goes_and_stays_away():
    net = layer([0.9, -0.2, 0.05, 0.1, -0.04])
    pruner = loop(net, Threshold(tau=0.1, every=1), 3, lambda weight: weight.add_(0.01))
    # after the first step 0.05 has moved to 0.06, and -0.04 to -0.03
    assert rows(net) == [[0.93, -0.17, 0.0, 0.13, 0.0]]
    assert pruner.sparsity == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("every", "begin", "left"), [(2, 0.0, [3, 3, 2, 2]), (1, 0.75, [3, 3, 3, 2])]
)
def test_when_it_cuts(every, begin, left):
    """At step 0 nothing has been learned: the first event comes `every` steps later, or more."""
    net = layer([0.9, 0.2, 0.05])
    pruner = Pruner(net, Threshold(tau=0.1, every=every, begin=begin), steps=4)
    alive = []
    for _ in range(4):
        pruner.before_step()
        pruner.after_step()
        alive.append(int(net.weight.count_nonzero()))
    assert alive == left


def test_the_threshold_may_be_a_schedule():
    net = layer([0.1, 0.3, 0.5, 0.7])
    pruner = Pruner(net, Threshold(tau=Linear(0.0, 0.8), every=1), steps=4)
    alive = []
    for _ in range(4):
        pruner.before_step()
        pruner.after_step()
        alive.append(int(net.weight.count_nonzero()))
    assert alive == [4, 3, 2, 1]  # thresholds 0.2, 0.4 and 0.6


def test_survivors_take_the_nearest_of_a_few_levels():
    net = layer([0.2, 0.26, -0.34, 0.6, 0.05])
    loop(net, Threshold(tau=0.1, every=1, levels=3))
    assert rows(net) == [[0.2, 0.2, -0.4, 0.6, 0.0]]  # levels 0.2, 0.4 and 0.6


def test_levels_are_those_of_the_neuron():
    net = layer([0.2, 0.3, 0.6], [0.0, 20.0, 60.0], [0.0, 0.0, 0.0])
    loop(net, Threshold(tau=0.1, every=1, levels=2))
    assert rows(net) == [[0.2, 0.2, 0.6], [0.0, 20.0, 60.0], [0.0, 0.0, 0.0]]


def test_a_neuron_with_one_strong_synapse_keeps_it():
    net = layer([72.0, 0.0, 0.0], [0.2, 0.4, 0.0])
    loop(net, Threshold(tau=0.1, every=1, levels=2))
    assert rows(net) == [[72.0, 0.0, 0.0], [0.2, 0.4, 0.0]]


def test_a_convolution_is_quantised_too():
    net = nn.Conv2d(1, 2, 2, bias=False)
    net.weight.data = torch.tensor([1.0, 2, 2, 4, -10, 20, 30, 40]).view(2, 1, 2, 2)
    loop(net, Threshold(tau=0.1, every=1, levels=3))
    assert net.weight.flatten().tolist() == [1, 2.5, 2.5, 4, -10, 25, 25, 40]


def test_weights_that_move_after_the_last_event_are_quantised_in_the_end():
    net = layer([0.2, 0.3, 0.6])
    loop(net, Threshold(tau=0.1, every=10, levels=2), 3, lambda weight: weight.mul_(0.5))
    assert rows(net) == [[0.025, 0.025, 0.075]]


def test_one_level_that_all_survivors_have_already():
    net = layer([0.3, -0.3, 0.01])
    loop(net, Threshold(tau=0.1, every=1, levels=2))
    assert rows(net) == [[0.3, -0.3, 0.0]]


def test_each_neuron_has_a_threshold_of_its_own():
    # means 0.5 and 0.05: a tenth of the strength, the same share goes
    net = layer([0.2, 0.4, 0.9], [0.02, 0.04, 0.09])
    loop(net, AdaptiveThreshold(tau=0.7, every=1))
    assert rows(net) == [[0.0, 0.4, 0.9], [0.0, 0.04, 0.09]]


def test_the_mean_is_that_of_the_synapses_a_neuron_still_has():
    net = layer([0.2, 0.4, 0.9])
    loop(net, AdaptiveThreshold(tau=0.7, every=1), 3)
    # 0.7 times 0.5 cuts 0.2; 0.7 times 0.65, the mean of those left, cuts 0.4
    assert rows(net) == [[0.0, 0.0, 0.9]]


def test_neurons_of_a_convolution_have_thresholds_too():
    net = nn.Conv2d(1, 2, 2, bias=False)
    net.weight.data = torch.tensor([1.0, 2, 3, 4, 10, 20, 30, 40]).view(2, 1, 2, 2)
    loop(net, AdaptiveThreshold(tau=0.8, every=1))  # means 2.5 and 25
    assert net.weight.flatten().tolist() == [0, 2, 3, 4, 0, 20, 30, 40]


def test_a_neuron_that_has_nothing_is_left_alone():
    net = layer([0.0, 0.0], [1.0, 3.0])
    loop(net, AdaptiveThreshold(tau=0.9, every=1))
    assert rows(net) == [[0.0, 0.0], [0.0, 3.0]]


def test_survivors_are_reinforced_by_a_share_of_the_threshold():
    net = layer([0.9, -0.3, 0.05])
    loop(net, Progressive(tau=0.2, boost=0.5, every=1))
    assert rows(net) == [[1.0, -0.4, 0.0]]


def test_what_was_reinforced_stands_above_a_threshold_that_rises():
    def left(boost):
        net = layer([0.3, 0.5])
        loop(net, Progressive(tau=Linear(0.0, 0.8), boost=boost, every=1), 3)
        return int(net.weight.count_nonzero())

    assert (left(0.0), left(1.0)) == (0, 2)  # thresholds 0.267 and 0.533; 0.3 becomes 0.567


def test_frozen_synapses_stand_still_at_their_value_and_the_others_learn():
    net = layer([0.9, -0.2, 0.05, 0.0])
    how = Freeze(tau=0.3, value=0.1, every=1)
    pruner = loop(net, how, 3, lambda weight: weight.add_(0.01))
    assert rows(net) == [[0.93, -0.1, 0.1, 0.1]]
    assert pruner.sparsity == 0.0 and pruner.masks["weight"].all()


def test_a_frozen_synapse_keeps_its_value_when_the_threshold_rises():
    net = layer([0.9, 0.2])
    loop(net, Freeze(tau=Linear(0.3, 0.8), value=0.25, every=1), 4, lambda w: w.sub_(0.05))
    assert rows(net) == [[0.7, 0.25]]


def test_at_value_0_freezing_is_pruning():
    net, other = layer([0.9, -0.2, 0.05]), layer([0.9, -0.2, 0.05])
    frozen = loop(net, Freeze(tau=0.1, value=0.0, every=1), 3, lambda weight: weight.add_(0.01))
    cut = loop(other, Threshold(tau=0.1, every=1), 3, lambda weight: weight.add_(0.01))
    assert net.weight.equal(other.weight) and frozen.masks["weight"].equal(cut.masks["weight"])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("threshold", {"tau": -0.1}, "tau=-0.1.*or more"),
        ("threshold", {"tau": "linear(0, -1)"}, "tau=.*or more"),
        ("threshold", {"every": 0}, "every=0"),
        ("threshold", {"begin": 1.0}, "begin=1.0"),
        ("threshold", {"levels": 1}, "levels=1.*2 values or more"),
        ("progressive", {"boost": -1.0}, "boost=-1.0"),
        ("freeze", {"value": -1.0}, "value=-1.0"),
        ("freeze", {"tau": float("nan")}, "tau=nan"),
    ],
)
def test_what_makes_no_sense_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        method(name, **options)
