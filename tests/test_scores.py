"""Scores: the formulas by hand; criticality from membrane potentials worked out on paper."""

import copy
import math
import statistics
from dataclasses import dataclass, field

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from spikewire import Method, Prune, Pruner, Rewire, config
from spikewire.scores import (
    SCORES,
    CriticalityScore,
    SynOpsScore,
    chance,
    criticality,
    density,
    gradient,
    lamp,
    magnitude,
    momentum,
    primitive,
    saliency,
    slamp,
    synops,
)
from spikewire.surrogates import Sigmoid, Tanh


@dataclass(frozen=True)
class Record(Method):
    """Prune nothing; keep what the score says at every step."""

    score: object = criticality
    seen: dict = field(default_factory=dict)

    def event(self, pruner):
        return True

    def before_step(self, pruner):
        self.seen.update({name: s.clone() for name, s in pruner.scored(self.score).items()})


def scores_of(net, score, *batches, loss=lambda out: out.sum(), step=True, **options):
    """The scores in one step whose gradients come from these batches."""
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    pruner = Pruner(net, Record(score), optimizer, steps=9, **options)
    for batch in batches:
        loss(net(batch)).backward()
        functional.reset_net(net)
    optimizer.step()
    return pruner.method.seen


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (magnitude, [0.5, 2.0, 0.0]),
        (gradient, [3.0, 1.0, 4.0]),  # sum of the inputs
        (saliency, [1.5, 2.0, 0.0]),
    ],
)
def test_by_hand(score, expected):
    net = nn.Linear(3, 1, bias=False)
    net.weight.data = torch.tensor([[-0.5, 2.0, 0.0]])
    inputs = torch.tensor([[1.0, -2.0, -1.0], [2.0, 1.0, -3.0]])
    assert scores_of(net, score, inputs)["weight"].tolist() == [expected]


@pytest.mark.parametrize("score", [gradient, saliency])
def test_a_missing_gradient_is_named(score):
    net = nn.Linear(3, 1)
    pruner = Pruner(net, Record(score), steps=9)
    with pytest.raises(ValueError, match=r"weight has no gradient: call loss.backward"):
        pruner.before_step()


def test_chance_is_uniform_and_seeded_and_the_same_in_every_data_type():
    def draw(dtype, seed):
        net = nn.Linear(100, 100, dtype=dtype)
        return scores_of(net, chance, torch.ones(1, 100, dtype=dtype), seed=seed)["weight"]

    drawn = draw(torch.float32, 1)
    assert drawn.equal(draw(torch.float32, 1))
    assert not drawn.equal(draw(torch.float32, 2))
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert drawn.histc(10, 0, 1).tolist() == pytest.approx([1000] * 10, abs=150)
    # in bfloat16 many draws would tie, and ties go to the first places
    assert drawn.flatten().argsort().equal(draw(torch.bfloat16, 1).flatten().argsort())


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        (torch.optim.SGD, {"momentum": 0.5}, [3.0, 6.0]),  # g + g/2
        (torch.optim.Adam, {"betas": (0.5, 0.9)}, [1.5, 3.0]),  # g/2 + g/4
    ],
)
def test_momentum_is_the_optimizer_s(kind, options, expected):
    net = nn.Linear(2, 1, bias=False)
    optimizer = kind(net.parameters(), 0.1, **options)
    pruner = Pruner(net, Record(momentum), optimizer, steps=9)
    seen = []
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.tensor([[2.0, -4.0]])).sum().backward()
        optimizer.step()
        seen.append(pruner.method.seen["weight"][0].tolist())
    assert seen[0] == [0.0, 0.0]  # before its first step
    assert seen[2] == expected


@pytest.mark.parametrize("optimizer", [True, False])
def test_an_optimizer_without_momentum_is_refused(optimizer):
    net = nn.Linear(2, 1)
    sgd = torch.optim.SGD(net.parameters(), 0.1) if optimizer else None
    pruner = Pruner(net, Record(momentum), sgd, steps=9)
    with pytest.raises(ValueError, match="no running mean"):
        pruner.before_step()


def test_lamp_against_its_definition():
    net = nn.Linear(30, 20, dtype=torch.float64)
    with torch.no_grad():
        net.weight[::3] = 0.0
    w = net.weight.detach().flatten().tolist()
    found = scores_of(net, lamp, torch.ones(1, 30, dtype=torch.float64))["weight"].flatten()
    for value, score in zip(w, found.tolist(), strict=True):
        rest = math.fsum(other**2 for other in w if abs(other) >= abs(value))
        assert score == pytest.approx(value**2 / rest if value else 0.0, rel=1e-12)


def test_lamp_of_equal_weights_counts_them_by_position():
    net = nn.Linear(3, 1, bias=False)
    net.weight.data.fill_(2.0)
    found = scores_of(net, lamp, torch.ones(1, 3))["weight"]
    assert found.tolist() == [pytest.approx([1 / 3, 1 / 2, 1])]


def test_lamp_does_not_hide_a_weight_that_is_no_number():
    net = nn.Linear(3, 1, bias=False)
    pruner = Pruner(net, Record(lamp), steps=9)
    net.weight.data[0, 1] = math.nan
    assert lamp(next(iter(pruner)), pruner).isnan().any()


def test_slamp_weighs_with_how_often_the_input_fires():
    net = nn.Sequential(layer.Linear(2, 1, bias=False, step_mode="m"))
    net[0].weight.data = torch.tensor([[2.0, 3.0]])
    spikes = torch.tensor([[[1.0, 1.0]], [[1.0, 0.0]], [[1.0, 0.0]], [[1.0, 0.0]]])  # (T, B, 2)
    found = scores_of(net, slamp, spikes)["0.weight"]
    # 4 x 1 against 9 x 1/4: what is stronger is the weaker of the two
    assert found.tolist() == [pytest.approx([1.0, 2.25 / 6.25])]


def test_slamp_hears_a_forward_pass_or_says_so():
    pruner = Pruner(nn.Linear(2, 1), Record(slamp), steps=9)
    with pytest.raises(ValueError, match="no forward pass was heard"):
        pruner.before_step()


def test_synops_divides_by_the_spikes_that_a_synapse_meets():
    net = nn.Sequential(nn.Conv2d(1, 1, 2, bias=False), nn.Flatten(), nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[2].weight.fill_(1.0)
    image = torch.zeros(1, 1, 3, 3)
    image[0, 0, 0, 0] = 1.0  # one of its four places at one tap of the kernel: 1/4 per synapse
    found = scores_of(net, synops, image, data=[image])
    assert found["0.weight"].flatten().tolist() == pytest.approx([2.0] * 4)  # 1 / sqrt(1/4)
    # the sum is 1 at one of four places: each of its synapses is met 1/4 times as well
    assert found["2.weight"].flatten().tolist() == pytest.approx([2.0] * 4)
    plain = scores_of(net, SynOpsScore(power=0.0), image, data=[image])
    assert plain["0.weight"].flatten().tolist() == [1.0] * 4


def test_synops_needs_data():
    with pytest.raises(ValueError, match="Prune looks at the network at work: give data="):
        Pruner(nn.Linear(2, 1), Prune(0.5, score=synops), steps=9)


def test_synops_follows_the_network_as_it_learns():
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    data = [torch.ones(1, 2)]
    net[0].weight.data = torch.ones(2, 2)
    pruner = Pruner(net, Record(synops), steps=9, data=data)
    assert pruner.uses()["2.weight"].met == 1.0
    net[0].weight.data = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    assert pruner.uses()["2.weight"].met == 1.0  # within a step, what was measured stays
    pruner.after_step()
    assert pruner.uses()["2.weight"].met == 0.5


def test_names():
    named = {"magnitude", "gradient", "saliency", "momentum", "chance", "lamp", "slamp", "synops"}
    assert set(SCORES) == named | {"primitive", "density", "criticality"}


# --- criticality ----------------------------------------------------------------------------------


def h(*distances):
    """The mean of 1 / (1 + (pi x)^2) over distances from the threshold."""
    return sum(1 / (1 + (math.pi * x) ** 2) for x in distances) / len(distances)


def dense(mode):
    """Two neurons on one input with weights 1 and 3; a read-out without neurons."""
    net = nn.Sequential(
        layer.Linear(1, 2, bias=False, step_mode=mode),
        neuron.LIFNode(tau=2.0, step_mode=mode),
        layer.Linear(2, 1, bias=False, step_mode=mode),
    )
    net[0].weight.data = torch.tensor([[1.0], [3.0]])
    return over_time(net, mode)


def over_time(net, mode):
    """A network that takes (T, B, ...) in either mode."""
    if mode == "s":
        forward = net.forward
        net.forward = lambda xs: torch.stack([forward(x) for x in xs])
    return net


CURRENTS = torch.tensor([[1.0, 2.0]] * 3).unsqueeze(2)  # (T=3, B=2, 1): constant 1, constant 2

# u = v + (x - v) / 2, hard reset to 0, threshold 1; distances u - 1 at the three steps:
#            sample of current 1                    sample of current 2
# weight 1   u = .5 .75 .875                        u = 1 1 1 (fires each time)
# weight 3   u = 1.5 1.5 1.5                        u = 3 3 3
FIRST = (h(-0.5, -0.25, -0.125) + h(0.0)) / 2
SECOND = (h(0.5) + h(2.0)) / 2


@pytest.mark.parametrize("mode", ["m", "s"])
def test_criticality_of_a_dense_layer_by_hand(mode):
    scores = scores_of(dense(mode), criticality, CURRENTS)
    assert scores["0.weight"].flatten().tolist() == pytest.approx([FIRST, SECOND], rel=1e-5)
    assert scores["2.weight"].tolist() == [[-math.inf] * 2]  # no neuron follows the read-out


@pytest.mark.parametrize("mode", ["m", "s"])
def test_criticality_averages_over_accumulated_micro_batches(mode):
    halves = CURRENTS[:, :1], CURRENTS[:, 1:]
    scores = scores_of(dense(mode), criticality, *halves)
    assert scores["0.weight"].flatten().tolist() == pytest.approx([FIRST, SECOND], rel=1e-5)
    thirds = CURRENTS[:, :1], CURRENTS[:, [0, 1]]  # micro-batches of 1 and 2 samples
    weighted = scores_of(dense(mode), criticality, *thirds)["0.weight"][0]
    assert weighted.item() == pytest.approx((2 * h(-0.5, -0.25, -0.125) + h(0.0)) / 3, rel=1e-5)


@pytest.mark.parametrize("mode", ["m", "s"])
def test_criticality_of_a_channel_is_its_maximum_over_space(mode):
    """Mean over time first, then maximum over space, then mean over samples."""
    net = nn.Sequential(
        layer.Conv2d(1, 2, 1, bias=False, step_mode=mode), neuron.IFNode(step_mode=mode)
    )
    net[0].weight.data = torch.tensor([1.0, 0.5]).view(2, 1, 1, 1)
    # two places, (T, H W); one wins at the first step, the other at the second (u = v + x):
    #   channel 0: distances (-.1, -1), (-1, -.2)    channel 1: (-.55, -1), (-1, -.6)
    one = torch.tensor([[0.9, 0.0], [-0.9, 0.8]])
    # in a second sample the other place is the best:
    #   channel 0: (-1, -1), (-.5, -.5)              channel 1: (-1, -1), (-.75, -.75)
    other = torch.tensor([[0.0, 0.5], [0.0, 0.0]])
    xs = torch.stack([one, other], 1).view(2, 2, 1, 1, 2)  # (T, B, C, H, W)
    scores = scores_of(over_time(net, mode), criticality, xs)["0.weight"]
    expected = [(h(-0.1, -1.0) + h(-0.5)) / 2, (h(-0.55, -1.0) + h(-0.75)) / 2]
    assert scores.flatten().tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("score", "worth"),
    [
        (primitive, lambda x: math.tanh(3 * max(-0.5, min(0.5, x))) / (2 * math.tanh(1.5)) + 0.5),
        (
            CriticalityScore(Sigmoid(4.0)),
            lambda x: math.exp(-4 * x) * 4 / (1 + math.exp(-4 * x)) ** 2,
        ),
        (CriticalityScore(Sigmoid(2.0), primitive=True), lambda x: 1 / (1 + math.exp(-2 * x))),
    ],
)
def test_other_surrogates_and_the_released_code_s_ranking(score, worth):
    scores = scores_of(dense("m"), score, CURRENTS)["0.weight"].flatten()
    first = (sum(map(worth, (-0.5, -0.25, -0.125))) / 3 + worth(0.0)) / 2
    assert scores.tolist() == pytest.approx([first, (worth(0.5) + worth(2.0)) / 2], rel=1e-5)


def test_criticality_of_a_channel_may_be_its_mean_over_space():
    net = nn.Sequential(
        layer.Conv2d(1, 1, 1, bias=False, step_mode="m"), neuron.IFNode(step_mode="m")
    )
    net[0].weight.data.fill_(1.0)
    xs = torch.tensor([0.5, 1.0]).view(1, 1, 1, 1, 2)
    scores = scores_of(net, CriticalityScore(over="mean"), xs)["0.weight"]
    assert scores.item() == pytest.approx((h(-0.5) + h(0.0)) / 2, rel=1e-5)
    with pytest.raises(ValueError, match="'median'.*use max, mean"):
        CriticalityScore(over="median")


def test_a_method_observes_in_one_way():
    net = dense("m")
    with pytest.raises(ValueError, match="observe differently"):
        Pruner(net, Rewire(drop=primitive, grow=criticality), steps=9)


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (criticality, "criticality"),
        (primitive, "primitive"),
        (CriticalityScore(Tanh(2.0), over="mean"), "criticality(tanh(2.0), False, 'mean')"),
        (CriticalityScore(Tanh()), "criticality(tanh, False, 'max')"),
        (magnitude, "magnitude"),
    ],
)
def test_a_score_is_a_word_of_a_recipe(score, text):
    recipe = config.recipe({"method": {"name": "criticality", "grow": text}})
    assert recipe.method.grow == score
    assert recipe.dump()["method"]["grow"] == text


def test_criticality_is_the_same_for_the_whole_fan_in():
    net = nn.Sequential(
        layer.Conv2d(3, 4, 3, step_mode="m"),
        layer.BatchNorm2d(4, step_mode="m"),
        neuron.ParametricLIFNode(step_mode="m"),
    )
    scores = scores_of(net, criticality, torch.randn(2, 2, 3, 5, 5))["0.weight"]
    assert scores.shape == net[0].weight.shape
    assert scores.equal(scores[:, :1, :1, :1].expand_as(scores))
    assert len(scores[:, 0, 0, 0].unique()) == 4


class Residual(nn.Module):
    """Two blocks; the first block's sum goes on into the second without passing a neuron.

    ``a -> lif1 -> b -> + -> lif2`` with a shortcut convolution, then ``c -> + -> lif3`` with the
    pre-activation sum itself as the shortcut.
    """

    def __init__(self):
        super().__init__()
        for name in ("a", "b", "short", "c"):
            setattr(self, name, layer.Linear(2, 2, step_mode="m"))
        for name in ("lif1", "lif2", "lif3"):
            setattr(self, name, neuron.LIFNode(step_mode="m"))

    def forward(self, xs):
        summed = self.b(self.lif1(self.a(xs))) + self.short(xs)
        return self.lif3(self.c(self.lif2(summed)) + summed)


def test_a_shortcut_feeds_the_neurons_after_the_sum():
    net = Residual()
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    pruner = Pruner(net, Record(), optimizer, steps=9)
    net(torch.randn(3, 2, 2)).sum().backward()
    assert pruner.criticality.follows == {
        "a.weight": "lif1",
        "b.weight": "lif2",
        "short.weight": "lif2",
        "c.weight": "lif3",
    } | {f"{name}.bias": lif for name, lif in zip(
        ("a", "b", "short", "c"), ("lif1", "lif2", "lif2", "lif3"), strict=True
    )}  # fmt: skip
    optimizer.step()
    seen = pruner.method.seen
    assert seen["b.weight"].equal(seen["short.weight"])
    assert not seen["b.weight"].equal(seen["a.weight"])


def test_a_layer_computed_once_and_shown_to_its_neuron_at_every_step():
    class Static(nn.Module):
        """Constant current: one pass through the weights, three through the neuron."""

        def __init__(self):
            super().__init__()
            self.fc, self.lif = nn.Linear(1, 1, bias=False), neuron.LIFNode(tau=2.0)

        def forward(self, image):
            current = self.fc(image)
            return torch.stack([self.lif(current) for _ in range(3)])

    net = Static()
    net.fc.weight.data.fill_(1.0)
    scores = scores_of(net, criticality, torch.ones(1, 1))
    assert scores["fc.weight"].item() == pytest.approx(h(-0.5, -0.25, -0.125), rel=1e-5)


def test_evaluation_between_two_steps_leaves_criticality_alone():
    """What the test set does to the neurons is none of the training's business."""
    net, untouched = dense("m"), dense("m")
    expected = scores_of(untouched, criticality, CURRENTS)["0.weight"]
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    pruner = Pruner(net, Record(), optimizer, steps=9)
    net.eval()
    with torch.no_grad():
        net(10 * CURRENTS)
    functional.reset_net(net)
    net.train()
    net(CURRENTS).sum().backward()
    optimizer.step()
    assert pruner.method.seen["0.weight"].equal(expected)


def test_a_step_without_a_forward_pass_is_explained():
    """Gradients that come from elsewhere leave nothing to score with; guessing would be wrong."""
    net = dense("m")
    pruner = Pruner(net, Record(), steps=9)
    net(CURRENTS).sum().backward()
    pruner.before_step()
    pruner.after_step()
    with pytest.raises(ValueError, match="forward"):
        pruner.before_step()


def test_a_copy_made_while_listening_is_not_heard():
    net = dense("m")
    pruner = Pruner(net, Record(), steps=9)
    assert pruner.due
    copy.deepcopy(net)(torch.ones(1, 1))
    with pytest.raises(ValueError, match="no forward pass was heard"):
        pruner.before_step()


def test_a_network_without_neurons_is_refused():
    with pytest.raises(ValueError, match="no neuron layer"):
        Pruner(nn.Linear(2, 2), Record(), steps=9)


# --- density --------------------------------------------------------------------------------------


class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.conv = layer.Conv2d(2, 3, 3, step_mode="m")
        self.fire = neuron.IFNode(step_mode="m")
        self.read = layer.Linear(3, 2, step_mode="m")

    def forward(self, xs):
        return self.read(self.fire(self.conv(xs)).mean((-2, -1)))


def test_density_against_the_formula():
    net = Convolution()
    batches = [(torch.rand(4, n, 2, 5, 5) < 0.3).float() for n in (2, 3)]
    seen = scores_of(net, density, *batches)
    potentials, rates = [], []
    for batch in batches:
        v = torch.zeros(batch.shape[1], 3, 3, 3, dtype=torch.float64)
        for x in batch:
            u = v + net.conv._conv_forward(x, net.conv.weight, net.conv.bias).detach().double()
            potentials.append(u.movedim(1, 0).flatten(1))
            v = u * (u < 1)
        rates.append(batch.movedim(2, 0).flatten(1))
    u = torch.cat(potentials, 1).numpy()
    at_threshold = [statistics.NormalDist(row.mean(), row.std()).pdf(1.0) for row in u]
    expected = torch.outer(torch.tensor(at_threshold), torch.cat(rates, 1).double().mean(1))
    found = seen["conv.weight"]
    assert found.shape == net.conv.weight.shape
    for place in found.flatten(2).unbind(2):
        torch.testing.assert_close(place.double(), expected, rtol=1e-4, atol=1e-7)
    assert seen["read.weight"].eq(-torch.inf).all()


def test_density_regrows_onto_busy_inputs():
    net = Convolution()
    silent = torch.zeros(4, 2, 1, 5, 5)
    batch = torch.cat([(torch.rand(4, 2, 1, 5, 5) < 0.5).float(), silent], 2)
    found = scores_of(net, density, batch)["conv.weight"]
    assert found[:, 1].eq(0).all() and found[:, 0].gt(0).all()


def test_density_counts_beyond_half_precision():
    net = nn.Sequential(layer.Linear(1, 1, step_mode="m"), neuron.IFNode(step_mode="m")).half()
    inputs = torch.ones(2, 40_000, 1, dtype=torch.float16)
    pruner = Pruner(net, Record(density), torch.optim.SGD(net.parameters(), 0.0), steps=9)
    net(inputs).sum().backward()
    assert pruner.criticality.inputs("0.weight").tolist() == [1.0]


@pytest.mark.parametrize("method", ["criticality", "slim-criticality"])
def test_a_surrogate_is_no_score(method):
    def recipe(grow):
        return config.recipe({"method": {"name": method, "grow": grow}}).method

    with pytest.raises(ValueError, match=r"score 'arctan'"):
        recipe("arctan")
    found = recipe("criticality(tanh)")
    assert found.grow.surrogate == Tanh()
