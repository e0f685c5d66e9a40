"""What spikes cost: the gradient is that of the written loss, and the network is left alone."""

import copy
import io
from dataclasses import dataclass

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

from spikewire import ADMM, Method, Pruner
from spikewire.activity import SpikeCost
from spikewire.nets import tiny
from spikewire.train import fit

T, B = 4, 3


class Net(nn.Module):
    """(T, B, 5) to (T, B, 2), with 7 and 2 neurons; spikes of both layers are kept."""

    def __init__(self, mode="m", detach=True):
        super().__init__()
        self.fc1 = layer.Linear(5, 7, step_mode=mode)
        self.lif1 = self.lif(mode, detach)
        self.fc2 = layer.Linear(7, 2, step_mode=mode)
        self.lif2 = self.lif(mode, detach)
        self.mode = mode
        self.double()

    @staticmethod
    def lif(mode, detach):
        return neuron.LIFNode(
            v_threshold=0.2,
            surrogate_function=surrogate.ATan(),
            detach_reset=detach,
            step_mode=mode,
        )

    def once(self, x):
        hidden = self.lif1(self.fc1(x))
        out = self.lif2(self.fc2(hidden))
        self.spikes += [hidden, out]
        return out

    def forward(self, xs):
        self.spikes = []
        out = self.once(xs) if self.mode == "m" else torch.stack([self.once(x) for x in xs])
        functional.reset_net(self)
        return out


def network(**options):
    torch.manual_seed(0)
    return Net(**options)


def batch(seed=0, samples=B):
    random = torch.Generator().manual_seed(seed)
    return torch.rand(T, samples, 5, generator=random, dtype=torch.float64)


def loss_of(net, xs):
    return (net(xs).mean(0) - 0.3).square().mean()


def rate(spikes):
    """The mean firing rate, as written."""
    return sum(s.sum() for s in spikes) / sum(s.numel() for s in spikes)


def gradients(net):
    found = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    return found


def assert_close(left, right):
    for name, value in left.items():
        assert torch.allclose(value, right[name], rtol=1e-12, atol=1e-15), name


def differ(left, right):
    return any(not torch.allclose(value, right[name]) for name, value in left.items())


@pytest.mark.parametrize("mode", ["m", "s"])
@pytest.mark.parametrize("detach", [True, False])
def test_gradients_are_those_of_the_written_loss(mode, detach):
    net = network(mode=mode, detach=detach)
    loss = loss_of(net, batch())
    assert rate(net.spikes) > 0
    (loss + 0.7 * rate(net.spikes)).backward()
    written = gradients(net)
    loss_of(net, batch()).backward()
    free = gradients(net)
    cost = SpikeCost(net, 0.7).attach()
    for _ in range(2):  # a backward pass ends the count
        charged = loss_of(net, batch())
        charged.backward()
        assert charged.equal(loss)
        assert_close(gradients(net), written)
    assert differ(written, free)
    cost.detach()
    loss_of(net, batch()).backward()
    assert_close(gradients(net), free)


def test_the_mean_is_over_all_passes_before_a_backward_pass():
    net = network()
    spikes, losses = [], []
    for seed, samples in enumerate((2, 5)):
        losses.append(loss_of(net, batch(seed, samples)))
        spikes += net.spikes
    (sum(losses) + 0.7 * rate(spikes)).backward()
    written = gradients(net)
    SpikeCost(net, 0.7).attach()
    (loss_of(net, batch(0, 2)) + loss_of(net, batch(1, 5))).backward()
    assert_close(gradients(net), written)


def test_the_scale_of_a_loss_is_that_of_the_cost():
    net = network()
    for seed in range(3):
        loss = loss_of(net, batch(seed))
        ((loss + 0.7 * rate(net.spikes)) / 3).backward()
    written = gradients(net)
    SpikeCost(net, 0.7, scale=1 / 3).attach()
    for seed in range(3):
        (loss_of(net, batch(seed)) / 3).backward()
    assert_close(gradients(net), written)


def test_evaluation_neither_costs_nor_counts():
    net = network()
    SpikeCost(net, 0.7).attach()
    loss_of(net, batch()).backward()
    expected = gradients(net)
    loss = loss_of(net, batch())
    with torch.no_grad():
        net(batch(1, 50))
    net.eval()
    free = loss_of(net, batch(2))
    net.train()
    loss.backward()
    assert_close(gradients(net), expected)
    free.backward()
    fresh = network()
    loss_of(fresh, batch(2)).backward()
    assert_close(gradients(net), gradients(fresh))


def test_snntorch_neurons_return_more_than_spikes():
    snntorch = pytest.importorskip("snntorch", reason="snnTorch is not installed")
    net = nn.Sequential(nn.Linear(5, 4), snntorch.Leaky(beta=0.5, threshold=0.2)).double()

    def run():
        memory, spikes = net[1].init_leaky(), []
        for x in batch():
            spike, memory = net[1](net[0](x), memory)
            spikes.append(spike)
        return (torch.stack(spikes).mean(0) - 0.3).square().mean(), spikes

    loss, spikes = run()
    (loss + 0.7 * rate(spikes)).backward()
    written = gradients(net[0])
    assert written["weight"].any()
    SpikeCost(net, 0.7).attach()
    run()[0].backward()
    assert_close(gradients(net[0]), written)


def test_copies_leave_the_cost_behind():
    net = network()
    loss_of(net, batch()).backward()
    free = gradients(net)
    cost = SpikeCost(net, 0.7).attach()
    net.spikes = []  # torch copies no tensors within a graph
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(net), torch.load(buffer, weights_only=False)):
        loss_of(twin, batch()).backward()
        assert_close(gradients(twin), free)
    cost.detach()
    assert not any(module._forward_hooks for module in net.modules())


@dataclass(frozen=True)
class Quiet(Method):
    """Prune nothing, but let spikes cost something."""

    activity: float = 0.7


def test_the_pruner_owns_it_until_the_end():
    net, free = network(), network()
    sgd = torch.optim.SGD(net.parameters(), 0.1)
    pruner = Pruner(net, Quiet(), sgd, steps=2)
    for step in range(2):
        sgd.zero_grad()
        loss_of(net, batch(step)).backward()
        found = {name: p.grad.clone() for name, p in net.named_parameters()}
        free.load_state_dict(net.state_dict())
        loss = loss_of(free, batch(step))
        (loss + 0.7 * rate(free.spikes)).backward()
        assert_close(found, gradients(free))
        sgd.step()
    pruner.finish()
    assert not any(module._forward_hooks for module in net.modules())
    assert Pruner(net, Quiet(0.0), steps=2).cost is None


@pytest.mark.parametrize("fused", [False, True])
def test_under_a_gradient_scaler(fused):
    """A power of two is exact, so weights must be equal to a run without scaler."""
    runs = []
    for factor in (None, 1024.0):
        net = network()
        adam = torch.optim.Adam(net.parameters(), 0.01, fused=fused)
        pruner = Pruner(net, Quiet(), adam, steps=5)
        scaler = torch.amp.GradScaler("cpu", init_scale=factor or 1.0, enabled=factor is not None)
        pruner.cost.scale = scaler.get_scale
        for step in range(5):
            adam.zero_grad()
            scaler.scale(loss_of(net, batch(step))).backward()
            scaler.step(adam)
            scaler.update()
        runs.append(net.state_dict())
    for name, value in runs[0].items():
        assert value.equal(runs[1][name]), name


def test_a_compiled_network_pays_as_well():
    torch._dynamo.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    runs = []
    for compiled in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 7), neuron.LIFNode(step_mode="m"), nn.Linear(7, 2))
        sgd = torch.optim.SGD(net.parameters(), 0.5)
        Pruner(net, Quiet(), sgd, steps=5)
        forward = torch.compile(net, backend=backend) if compiled else net
        counts = []
        for step in range(5):
            sgd.zero_grad()
            (forward(batch(step).float()).mean(0) - 0.3).square().mean().backward()
            functional.reset_net(net)
            sgd.step()
            counts.append(len(graphs))
        runs.append(net.state_dict())
    assert counts[0] == counts[-1] > 0
    for name, value in runs[0].items():
        assert torch.allclose(value, runs[1][name]), name


def test_spikes_that_a_compiled_network_hides_are_missed():
    """Hooks that come after compilation are not called: nothing may go on as if all were well."""
    torch._dynamo.reset()
    net = nn.Sequential(nn.Linear(5, 7), neuron.LIFNode(step_mode="m"), nn.Linear(7, 2))
    forward = torch.compile(net, backend="eager")
    forward(batch().float())
    functional.reset_net(net)
    sgd = torch.optim.SGD(net.parameters(), 0.5)
    Pruner(net, Quiet(), sgd, steps=5)
    forward(batch().float()).sum().backward()
    with pytest.raises(ValueError, match="no spikes were heard in this step"):
        sgd.step()


def test_fit_trains_networks_that_fire_less():
    images, labels = torch.rand(64, 1, 8, 8), torch.arange(64) % 10
    pairs = torch.utils.data.TensorDataset(images, labels)
    loader = torch.utils.data.DataLoader(pairs, batch_size=32)
    rates = []
    for activity in (0.0, 1.0):
        torch.manual_seed(0)
        net = tiny(T=2, width=8)
        adam = torch.optim.Adam(net.parameters(), 5e-3)
        method = ADMM(sparsity=0.5, activity=activity)
        Pruner(net, method, adam, steps=20)
        rates += [e.firing_rate for e in fit(net, adam, loader, epochs=10, test=loader)][-1:]
    assert rates[1] < 0.7 * rates[0]


@pytest.mark.parametrize("weight", [-0.1, float("inf"), float("nan")])
def test_a_wrong_cost_is_refused(weight):
    for make in (lambda: SpikeCost(network(), weight), lambda: ADMM(activity=weight)):
        with pytest.raises(ValueError, match="in units of the loss, 0 or more"):
            make()


def test_a_network_without_neurons_is_refused_before_anything_is_changed():
    net = nn.Linear(4, 2)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match="no neuron layer of a known library"):
        Pruner(net, ADMM(activity=0.1), steps=3)
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())
