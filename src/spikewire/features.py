"""Features: how consistently a network represents the classes it tells apart.

Chen, Liu, Liu and You 2023 (arXiv 2311.16141 v3), section 6: what the classifier is given, compared
within a class, and between training and test images.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from spikewire.dialects import reset
from spikewire.entropy import neuron_entropy
from spikewire.measure import pairs, testing
from spikewire.observe import watch

_BINS = 24
# Farther from the threshold than this, neurons share the outermost bin.
_FARTHEST = 3.0


@dataclass(frozen=True)
class Features:
    """Sums over the features of a data set, class by class.

    A feature is what the classifier is given for one image, averaged over time and scaled to length
    1; an image for which nothing fires has the feature 0.

    Attributes:
        counts: images of each class (classes,).
        centroids: mean feature of each class (classes, features).
        squares: mean squared length of its features (classes,).
    """

    counts: Tensor
    centroids: Tensor
    squares: Tensor

    @property
    def variances(self) -> Tensor:
        """Mean squared distance from the centroid, of each class (classes,).

        ``sum_k |x_k - mean|^2 / n = mean |x|^2 - |mean x|^2``: Chen, Liu, Liu and You 2023, Eq. 19,
        divided by the number of samples.
        """
        return self.squares - self.centroids.square().sum(1)

    def likeness(self, other: Features) -> Tensor:
        """Cosine of the angle between the two centroids of each class (classes,).

        Args:
            other: features of other images under the same network, such as of the test set.
        """
        return cosine_similarity(self.centroids, other.centroids, dim=1)


def features(model: nn.Module, batches: Iterable[Any], classes: int) -> Features:
    """Go through a data set and sum up what the last linear layer is given.

    Args:
        model: a network that ends in a linear layer (neurons may follow), as classifiers do.
        batches: of images and labels.
        classes: how many there are.

    Raises:
        ValueError: if the model has no linear layer, or there are no labels.

    >>> from spikewire.nets import tiny
    >>> found = features(tiny(T=2), [(torch.rand(4, 1, 8, 8), torch.tensor([0, 0, 1, 1]))], 2)
    >>> found.counts.tolist(), found.centroids.shape
    ([2.0, 2.0], torch.Size([2, 256]))
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ValueError("the model has no linear layer, whose input would be its features")
    device = layers[-1].weight.device
    width = layers[-1].in_features
    sums = torch.zeros(classes, width, dtype=torch.float64, device=device)
    squares, counts = sums.new_zeros(classes), sums.new_zeros(classes)
    seen: list[Tensor] = []
    handle = layers[-1].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        with testing(model):
            for images, labels in pairs(batches):
                if labels is None:
                    raise ValueError("features of classes need labels: give (images, labels)")
                seen.clear()
                model(images.to(device))
                reset(model)
                unit = normalize(torch.stack(seen).flatten(0, -3).double().mean(0), dim=1)
                at = labels.to(device)
                sums.index_add_(0, at, unit)
                squares.index_add_(0, at, unit.square().sum(1))
                counts.index_add_(0, at, torch.ones_like(unit[:, 0]))
    finally:
        handle.remove()
    shares = counts.clamp(min=1)
    return Features(counts, sums / shares[:, None], squares / shares)


def entropies(model: nn.Module, batches: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """Mean entropy of neurons by their mean distance from threshold, for each neuron layer.

    Distances of membrane potentials before reset are averaged over samples and time steps; below 0
    a neuron stays below its threshold on average. Neurons farther than 3 from it share a bin.

    Args:
        model: a network whose neurons tell their membrane potentials.
        batches: of images, or of pairs of images and labels.

    Returns:
        By layer: `low`, `high`, and, for each bin between them, `neurons` and their mean `entropy`
        in bits a time step (0 where there are none).

    >>> from spikewire.nets import tiny
    >>> found = entropies(tiny(T=2), [torch.rand(4, 1, 8, 8)])["lif1"]
    >>> len(found["neurons"]) == len(found["entropy"]), sum(found["neurons"])
    (True, 1024)
    """
    sums: dict[str, Tensor] = {}
    moments = 0
    device = next(model.parameters()).device
    with testing(model), watch(model, spikes=False, membranes=True) as layers:
        for images, _ in pairs(batches):
            model(images.to(device))
            distances = {name: layer.distance for name, layer in layers.items()}
            reset(model)
            for name, each in distances.items():
                sums[name] = sums.get(name, 0.0) + each.double().sum((0, 1)).flatten()
            moments += next(iter(distances.values())).shape[:2].numel()
        told = {name: neuron_entropy(layer.rates.flatten()) for name, layer in layers.items()}
    return {name: _binned(total / moments, told[name]) for name, total in sums.items()}


def _binned(distances: Tensor, entropy: Tensor) -> dict[str, Any]:
    width = 2 * _FARTHEST / _BINS
    places = ((distances + _FARTHEST) / width).floor().long().clamp(0, _BINS - 1)
    counts = torch.zeros(_BINS, dtype=torch.float64, device=distances.device)
    sums = counts.clone()
    counts.index_add_(0, places, torch.ones_like(distances))
    sums.index_add_(0, places, entropy.double())
    return {
        "low": -_FARTHEST,
        "high": _FARTHEST,
        "neurons": [int(count) for count in counts],
        "entropy": (sums / counts.clamp(min=1)).tolist(),
    }
