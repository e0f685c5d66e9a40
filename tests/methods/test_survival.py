"""DPAP against a transcription of its laws in numpy, from spikes recorded beside it."""

import math

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

from spikewire import DPAP, Pruner

STEPS, EVERY, T, B = 60, 2, 3, 6


class Net(nn.Module):
    """(T, B, 2, 4, 4) to (T, B, 3): a convolution, a hidden layer, a read-out with neurons."""

    def __init__(self):
        super().__init__()
        self.conv = layer.Conv2d(2, 9, 3, padding=1, step_mode="m")
        self.lif1 = self.lif()
        self.pool = layer.MaxPool2d(2, step_mode="m")
        self.flat = layer.Flatten(step_mode="m")
        self.fc = layer.Linear(36, 20, step_mode="m")
        self.lif2 = self.lif()
        self.out = layer.Linear(20, 3, step_mode="m")
        self.lif3 = self.lif()
        self.double()

    @staticmethod
    def lif():
        return neuron.LIFNode(
            v_threshold=0.2, surrogate_function=surrogate.ATan(), detach_reset=True, step_mode="m"
        )

    def layers(self, xs):
        """What goes into and comes out of the two layers that may lose connections."""
        first = self.lif1(self.conv(xs))
        into = self.flat(self.pool(first))
        second = self.lif2(self.fc(into))
        functional.reset_net(self)
        return {"conv.weight": (xs, first), "fc.weight": (into, second)}

    def forward(self, xs):
        into = self.flat(self.pool(self.lif1(self.conv(xs))))
        return self.lif3(self.out(self.lif2(self.fc(into))))


def batch(step):
    random = torch.Generator().manual_seed(step)
    xs = torch.rand(T, B, 2, 4, 4, generator=random, dtype=torch.float64)
    return xs, torch.rand(B, 3, generator=random, dtype=torch.float64)


def trace(spikes):
    """Decay one half in a time step, then added up over the map (T, B, C, ...)."""
    x = 0.0
    for s in spikes.detach().double().numpy():
        x = 0.5 * x + s
    return x.reshape(*x.shape[:2], -1).sum(2)


def rescaled(x, high):
    low = x.min()
    return np.full_like(x, 0.5) if high == low else np.clip((x - low) / (high - low), 0, 1)


class Law:
    """Lives of one layer."""

    def __init__(self, shape):
        self.linear = len(shape) == 2
        self.bcm, self.mean, self.traces = (
            np.zeros(shape[:2]),
            np.zeros(shape[0]),
            np.zeros(shape[0]),
        )
        self.neurons, self.synapses = np.full(shape[0], 10.0), np.full(shape[:2], 10.0)
        self.gone = np.zeros(shape[:2], bool)
        self.seen = 0

    def delta(self, importance, n):
        x = rescaled(importance, np.percentile(importance, 75))
        cost, reward, fade = (1.5, 2, 13) if self.linear else (0.65, 5, 12)
        d = 2 * x - cost
        return np.where(d > 0, d + reward, d) * math.exp(-int(n / fade))

    def event(self, before, behind, n):
        pre, post = trace(before), trace(behind)
        for sample in range(B):
            for i in range(len(self.mean)):
                factor = post[sample, i] * (post[sample, i] - self.mean[i])
                self.bcm[i] += factor * pre[sample]
        self.seen += 1
        self.mean = (self.mean * (self.seen - 1) + post.mean(0)) / self.seen
        self.traces += post.sum(0)
        if n < 0:
            return
        rows = self.bcm.sum(1)
        spine = rescaled(rows, rows.max()) * rescaled(self.traces, self.traces.max())
        self.neurons = 0.999 * self.neurons + self.delta(spine, n)
        self.gone[self.neurons < 0] = True
        if self.linear:
            self.synapses = 0.999 * self.synapses + self.delta(self.bcm, n)
            self.gone |= self.synapses < 0


def train(net, sgd, step):
    xs, wanted = batch(step)
    sgd.zero_grad()
    (net(xs).mean(0) - wanted).square().sum().backward()
    functional.reset_net(net)
    sgd.step()


def set_up(**options):
    net = Net()
    sgd = torch.optim.SGD(net.parameters(), 0.02)
    return net, sgd, Pruner(net, DPAP(**{"every": EVERY} | options), sgd, steps=STEPS)


@pytest.mark.parametrize("begin", [0.0, 0.1])
def test_lives_and_masks_are_those_of_the_law(begin):
    net, sgd, pruner = set_up(begin=begin)
    named = {s.name: s for s in pruner}
    laws = {name: Law(named[name].weight.shape) for name in ("conv.weight", "fc.weight")}
    first = 3 if begin else 1  # of the events at steps 2, 4, 6, ...
    for step in range(STEPS):
        if step and step % EVERY == 0:
            for name, (before, behind) in net.layers(batch(step)[0]).items():
                laws[name].event(before, behind, step // EVERY - first)
        train(net, sgd, step)
        for name, law in laws.items():
            s = named[name]
            gone = np.broadcast_to(
                law.gone.reshape(*law.gone.shape, *[1] * (s.weight.ndim - 2)), s.weight.shape
            )
            assert np.array_equal(~s.mask.numpy(), gone), (step, name)
    for name, law in laws.items():
        assert np.allclose(named[name].state["neuron life"].numpy(), law.neurons, atol=1e-9)
        assert 0 < law.gone.mean() < 1
    assert np.allclose(
        named["fc.weight"].state["life"].numpy(), laws["fc.weight"].synapses, atol=1e-9
    )
    assert net.out.weight.ne(0).all()  # the read-out


def test_what_is_gone_stays_gone_whatever_its_life():
    net, sgd, pruner = set_up()
    before = pruner.masks
    for step in range(40):
        train(net, sgd, step)
        for s in pruner:
            assert not (s.mask & ~before[s.name]).any()
            for name in s.state.keys() & {"life", "neuron life"}:
                s.state[name].abs_()  # all would come back
        before = pruner.masks
    assert pruner.sparsity > 0.05


def test_spikes_are_heard_in_the_steps_of_events_alone():
    net, sgd, pruner = set_up(every=5)
    heard = []
    for step in range(12):
        heard.append(pruner.due)
        assert bool(net.lif1._forward_hooks) == pruner.due
        train(net, sgd, step)
    assert [step for step, due in enumerate(heard) if due] == [5, 10]


def test_layers_that_no_neurons_follow_are_left_alone():
    net = nn.Sequential(
        *(layer.Linear(5, 6, step_mode="m"), Net.lif(), layer.Linear(6, 7, step_mode="m")),
        *(layer.Linear(7, 8, step_mode="m"), layer.Linear(8, 2, step_mode="m")),
    )
    pruner = Pruner(net, DPAP(every=1, life=0.1, linear_toll=2.0), steps=9)
    for _ in range(9):
        net(torch.rand(T, B, 5) * 4).sum().backward()
        functional.reset_net(net)
        pruner.before_step()
        pruner.after_step()
    assert [name for name, mask in pruner.masks.items() if not mask.all()] == ["0.weight"]


def test_time_steps_one_by_one_are_the_same():
    lost = []
    for mode in ("m", "s"):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 9), Net.lif(), nn.Linear(9, 3))
        net[1].step_mode = mode
        pruner = Pruner(net, DPAP(every=1, life=3.0), steps=9)
        for step in range(9):
            xs = batch(step)[0].flatten(3)[..., :3].flatten(2).float()  # (T, B, 6)
            functional.reset_net(net)
            outputs = net(xs) if mode == "m" else torch.stack([net(x) for x in xs])
            outputs.sum().backward()
            pruner.before_step()
            pruner.after_step()
        lost.append((pruner.masks["0.weight"], next(iter(pruner)).state["bcm"]))
    assert lost[0][0].equal(lost[1][0])
    assert torch.allclose(lost[0][1], lost[1][1])
    assert not lost[0][0].all()


def test_it_says_when_there_are_too_few_events():
    with pytest.warns(UserWarning, match="leaves 6 events in 60 steps, and nothing dies before 7"):
        set_up(every=10)


def test_it_needs_neurons():
    with pytest.raises(ValueError, match="no neuron layer of a known library"):
        Pruner(nn.Linear(2, 2), DPAP(every=1), steps=99)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"every": 0}, "1 or more"),
        ({"begin": 1.0}, "begin=1.0"),
        ({"life": 0.0}, "above 0"),
        ({"decay": 0.0}, r"\(0, 1\]"),
        ({"trace": 1.0}, "trace=1.0"),
        ({"linear_fade": 0}, "1 or more"),
    ],
)
def test_refusals(options, words):
    with pytest.raises(ValueError, match=words):
        DPAP(**options)
