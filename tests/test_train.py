"""`fit` learns, evaluates, compiles, continues, and is not disturbed by how it is looked at."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from spikewire import Cosine, Criticality, Pruner, Steps
from spikewire.data import Batches, load
from spikewire.nets import tiny
from spikewire.train import LOSSES, Diverged, Epoch, evaluate, fit

DATA = load("digits")


def batches(size=64, part="train", **more):
    images = getattr(DATA, part)
    return Batches(images, size, DATA.mean, DATA.std, **more)


def network(seed=0, **arguments):
    torch.manual_seed(seed)
    return tiny(**({"T": 2, "width": 8} | arguments))


def adam(net, lr=5e-3):
    return torch.optim.Adam(net.parameters(), lr)


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def test_it_learns_and_reports_each_epoch():
    net = network()
    history = list(
        fit(
            net,
            adam(net),
            batches(drop_last=True),
            epochs=6,
            validation=batches(200, "validation", shuffle=False),
            test=batches(200, "test", shuffle=False),
        )
    )
    assert [epoch.epoch for epoch in history] == [1, 2, 3, 4, 5, 6]
    assert all(epoch.complete for epoch in history)
    assert history[-1].loss < history[0].loss / 2
    assert history[-1].accuracy["test"] > 85
    assert set(history[-1].accuracy) == {"train", "validation", "test"}
    assert 0 < history[-1].firing_rate < 1
    assert history[-1].step == 6 * len(batches(drop_last=True))


def test_evaluations_may_be_rare_but_the_last_epoch_has_one():
    net, test = network(), batches(200, "test", shuffle=False)
    history = fit(net, adam(net), batches(), epochs=5, test=test, evaluate_every=2)
    known = [epoch.accuracy["test"] is not None for epoch in history]
    assert known == [False, True, False, True, True]
    (never,) = fit(net, adam(net), batches(), epochs=1, test=test, evaluate_every=0)
    assert never.accuracy["train"] > 0 and never.accuracy["test"] is None


@pytest.mark.parametrize("loss", ["mse", "cross-entropy", lambda out, y: out.mean()])
def test_losses(loss):
    net = network()
    assert len(list(fit(net, adam(net), batches(500), epochs=1, loss=loss))) == 1


def test_learning_rates_follow_their_schedule_and_return_to_their_start():
    net = network()
    sgd = torch.optim.SGD(net.parameters(), 0.1)
    run = fit(net, sgd, batches(500), epochs=4, schedule=Steps((1.0, 0.1), marks=(0.5,)))
    assert [round(epoch.lr, 6) for epoch in run] == [0.1, 0.1, 0.01, 0.01]
    assert next(iter(fit(net, sgd, batches(500), epochs=1, schedule=Cosine(1.0)))).lr < 0.1


def test_stopping_anywhere_and_continuing_is_bit_exact():
    def train(until=None, resume=None, net=None, optimizer=None):
        net = net or network()
        optimizer = optimizer or adam(net)
        seen = []
        for epoch in fit(
            net,
            optimizer,
            batches(drop_last=True),
            epochs=2,
            schedule=Cosine(1.0, 0.1),
            resume=resume,
            progress=seen.append,
            stop=lambda: len(seen) == until,
        ):
            last = epoch
        return net, optimizer, last

    whole = train()
    for until in (1, 7, 19, 20, 25):
        net, optimizer, stopped = train(until)
        assert stopped.step == until or stopped.complete
        net, _, last = train(resume=stopped, net=net, optimizer=optimizer)
        assert torch.equal(weights(net), weights(whole[0]))
        assert (last.hits, last.seen, last.loss_sum) == (
            whole[2].hits,
            whole[2].seen,
            whole[2].loss_sum,
        )


def test_the_step_of_an_event_runs_uncompiled_and_all_others_compiled():
    net = network()
    optimizer = adam(net)
    train = batches(500, drop_last=True)
    method = Criticality(sparsity=0.5, every=2, until=0.9)
    pruner = Pruner(net, method, optimizer, steps=4 * len(train))
    calls = []
    real = torch.compile
    torch.compile = lambda model, **_: lambda x: (calls.append(pruner.due), model(x))[1]
    try:
        list(fit(net, optimizer, train, epochs=4, compile=True, pruner=pruner))
    finally:
        torch.compile = real
    assert calls and not any(calls)
    assert len(calls) < 4 * len(train)
    pruner.finish()
    assert abs(pruner.sparsity - 0.5) < 1e-3


def test_evaluate_counts_by_hand():
    net = network().eval()
    images, labels = next(iter(batches(50, "test", shuffle=False)))
    with torch.no_grad():
        outputs = net(images).mean(0)
    right = outputs.argmax(1)
    for module in net:
        getattr(module, "reset", lambda: None)()
    labels = right.clone()
    labels[:10] = (right[:10] + 1) % 10
    halves = list(zip(images.split(20), labels.split(20), strict=True))
    accuracy, loss, rate = evaluate(net, halves, "cross-entropy")
    assert accuracy == pytest.approx(80.0)
    assert loss == pytest.approx(float(cross_entropy(outputs, labels)), rel=1e-5)
    assert 0 <= rate <= 1
    assert not net.training


def test_labels_may_be_small_integers():
    net = network().eval()
    images, labels = next(iter(batches(50, "test", shuffle=False)))
    small = evaluate(net, [(images, labels.to(torch.int32))])
    assert small == evaluate(net, [(images, labels)])


def test_a_loss_of_each_time_step_needs_time_steps():
    with pytest.raises(ValueError, match='needs those of each time step.*use "cross-entropy"'):
        LOSSES["cross-entropy-at-each-step"](torch.rand(4, 10), torch.arange(4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "mze"}, "did you mean 'mse'"),
        ({"precision": "bfloat"}, "did you mean 'bfloat16'"),
        ({"epochs": 0}, "give one or more"),
        ({"compile": "yes"}, "true, false or auto"),
        ({"evaluate_every": -1}, "or 0 for no evaluation"),
    ],
)
def test_wrong_arguments(change, message):
    net = network()
    with pytest.raises(ValueError, match=message):
        next(iter(fit(net, adam(net), batches(500), **({"epochs": 1} | change))))


def test_bfloat16_learns_with_float32_weights():
    net = network()
    history = list(fit(net, adam(net), batches(64), epochs=3, precision="bfloat16"))
    assert history[-1].loss < history[0].loss
    assert all(p.dtype == torch.float32 for p in net.parameters())


def test_an_epoch_knows_whether_it_is_complete():
    assert Epoch(1, 3, 3, 3).complete and not Epoch(1, 2, 3, 2).complete


def test_a_torch_data_loader_will_do_and_continues_bit_exactly():
    images, labels = next(iter(batches(500)))
    pairs = torch.utils.data.TensorDataset(images, labels)
    loader = torch.utils.data.DataLoader(pairs, batch_size=50, shuffle=True)
    whole, broken = network(), network()
    last = list(fit(whole, adam(whole), loader, epochs=2))[-1]
    assert last.batches == 10 and last.seen == 500
    optimizer, seen = adam(broken), []
    *_, stopped = fit(
        broken, optimizer, loader, epochs=2, stop=lambda: seen.append(1) or len(seen) == 13
    )
    assert (stopped.epoch, stopped.batch) == (2, 3)
    list(fit(broken, optimizer, loader, epochs=2, resume=stopped))
    assert all(a.equal(b) for a, b in zip(weights(whole), weights(broken), strict=True))


def test_weights_that_the_last_batch_made_infinite_are_refused():
    net = torch.nn.Linear(2, 2)
    far = torch.optim.SGD(net.parameters(), 3e38)
    data = [(torch.rand(8, 2), torch.arange(8) % 2)]
    steep = fit(
        net, far, data, epochs=1, loss=lambda outputs, _: 100 * outputs.sum(), compile=False
    )
    with pytest.raises(Diverged, match=r"no longer finite in epoch 1 \(weight, bias\)"):
        next(steep)


def test_an_evaluated_loss_that_is_not_finite_is_refused():
    net = torch.nn.BatchNorm1d(2)
    data = [(torch.rand(8, 2), torch.arange(8) % 2)]
    net.running_var.fill_(float("nan"))
    with pytest.raises(Diverged, match="the test loss is not finite after epoch 1"):
        next(fit(net, adam(net), data, epochs=1, test=data, compile=False))
