"""A plain SpikingJelly training script, pruned by the three lines marked ``# spikewire``.

Take those lines away and the script is what it was before.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from spikingjelly.activation_based import encoding, functional, layer, neuron, surrogate
from torch import nn

from spikewire import Pruner, RigL  # spikewire

T, epochs, batch = 4, 8, 50
torch.manual_seed(0)

pixels, digits = load_digits(return_X_y=True)
images = torch.tensor(pixels, dtype=torch.float32) / 16
labels = torch.tensor(digits)
train, test = slice(0, 1400), slice(1400, None)

net = nn.Sequential(
    layer.Flatten(),
    layer.Linear(64, 256, bias=False),
    neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan()),
    layer.Linear(256, 10, bias=False),
    neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan()),
)
encoder = encoding.PoissonEncoder()
optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
steps = epochs * (1400 // batch)
pruner = Pruner(net, RigL(sparsity=0.8, every=20), optimizer, steps=steps)  # spikewire

for epoch in range(epochs):
    net.train()
    for chosen in torch.randperm(1400)[: 1400 // batch * batch].view(-1, batch):
        optimizer.zero_grad()
        rate = sum(net(encoder(images[train][chosen])) for _ in range(T)) / T
        loss = F.mse_loss(rate, F.one_hot(labels[train][chosen], 10).float())
        loss.backward()
        optimizer.step()
        functional.reset_net(net)

    net.eval()
    with torch.no_grad():
        rate = sum(net(encoder(images[test])) for _ in range(T)) / T
        functional.reset_net(net)
    accuracy = (rate.argmax(1) == labels[test]).float().mean().item()
    print(f"epoch {epoch + 1}: test accuracy {100 * accuracy:.1f} %")

pruner.finish()  # spikewire
zeros = sum(int((p == 0).sum()) for p in net.parameters())
print(f"zeros: {zeros} of {sum(p.numel() for p in net.parameters())}")
