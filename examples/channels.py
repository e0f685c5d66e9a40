"""Channels taken out of a small network on digits, and the smaller network that is left."""

import torch

from spikewire import Pruner, SlimCriticality, compact, fit, measure
from spikewire.data import Batches, load
from spikewire.nets import tiny

torch.manual_seed(0)
digits, net, epochs = load("digits"), tiny(width=32), 10
scale = {"mean": digits.mean, "std": digits.std}
train = Batches(digits.train, 64, drop_last=True, **scale)
shown = Batches(digits.train, 256, shuffle=False, **scale)
test = Batches(digits.test, 256, shuffle=False, **scale)

optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
method = SlimCriticality(sparsity=0.5, l1=1e-3)
pruner = Pruner(net, method, optimizer, steps=epochs * len(train), data=shown)
for epoch in fit(net, optimizer, train, epochs=epochs, test=test):
    print(f"epoch {epoch.epoch}: test accuracy {epoch.accuracy['test']:.1f} %")
pruner.finish()

before, after = measure(net, test), measure(compact(net, pruner.example), test)
print(f"accuracy: {before.accuracy:.2f} % and {after.accuracy:.2f} %")
print(f"parameters: {before.parameters} to {after.parameters}")
print(f"multiplications: {before.operations.dense:.0f} to {after.operations.dense:.0f}")
