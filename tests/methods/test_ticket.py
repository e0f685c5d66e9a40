"""Ticket: what is held, by hand."""

import torch
from torch import nn

from spikewire import Pruner, Ticket


def trained(net, **options):
    """Three steps of Adam with weight decay on random data; returns the pruner."""
    adam = torch.optim.Adam(net.parameters(), 0.1, weight_decay=0.01)
    pruner = Pruner(net, Ticket(), adam, steps=3, **options)
    for _ in range(3):
        adam.zero_grad()
        net(torch.randn(8, 4)).square().sum().backward()
        adam.step()
    pruner.finish()
    return pruner


def layer(*weights):
    net = nn.Linear(4, 1)
    net.weight.data = torch.tensor([weights])
    return net


def test_zeros_of_a_pruned_network_stay_and_all_else_moves():
    net = layer(0.5, 0.0, -0.5, 0.0)
    pruner = trained(net)
    assert (net.weight == 0).tolist() == [[False, True, False, True]]
    assert (net.weight != torch.tensor([[0.5, 0.0, -0.5, 0.0]])).sum() == 2
    assert net.bias.grad is not None and pruner.sparsity == 0.5


def test_given_masks_count_and_not_the_weights():
    """A synapse of the ticket may start at 0; one that is outside of it does not exist."""
    net = layer(0.0, 0.5, 0.0, 0.5)
    masks = {"weight": torch.tensor([[True, True, False, False]])}
    assert trained(net, possible=masks).masks["weight"].equal(masks["weight"])
    assert (net.weight == 0).tolist() == [[False, False, True, True]]


def test_gradients_of_pruned_synapses_can_be_left_out_of_clipping():
    net = layer(0.5, 0.0, -0.5, 0.0)
    pruner = Pruner(net, Ticket(), torch.optim.SGD(net.parameters(), 0.1), steps=3)
    net(torch.ones(1, 4)).sum().backward()
    pruner.still()
    assert net.weight.grad.tolist() == [[1.0, 0.0, 1.0, 0.0]]
