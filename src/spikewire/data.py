"""Data whole in memory, and batches of it in an order that can be repeated.

The order of the images and their augmentation depend on the seed, the epoch and the number of the
batch only, so that training can go on from any batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from spikewire.augment import Augmentation
from spikewire.datasets import Images, Source, find, generator, read, split


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in its parts, with the mean and standard deviation of its training pixels.

    ``mean`` and ``std`` have one value a channel, for pixels in [0, 1], from ``train`` alone; those
    of recordings are 0 and 1, so that events stay spikes.
    """

    name: str
    classes: tuple[str, ...]
    train: Images
    validation: Images | None
    test: Images
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (C, H, W) of an image, or (T, C, H, W) of a recording."""
        return tuple(self.train.pixels.shape[1:])

    def blank(self, samples: int, device: torch.device | str = "cpu") -> Tensor:
        """Zeros in the shape of a batch of so many samples.

        >>> load("digits").blank(2).shape
        torch.Size([2, 1, 8, 8])
        """
        return _batched(torch.zeros(samples, *self.shape, device=device))


def load(
    name: str | Source,
    root: str | Path | None = None,
    *,
    validation: float = 0.1,
    fraction: float = 1.0,
    test: float = 1.0,
    seed: int = 0,
    download: bool = False,
) -> Data:
    """Load a data set whole into memory and split a validation part off its training images.

    Args:
        name: a key of ``DATASETS``, or a source of your own.
        root: folder with the files; by default the environment variable ``SPIKEWIRE_DATA``, or
            else a folder in the user's cache.
        validation: share of the training images, the same in every class, kept for validation,
            0 <= validation < 1; with 0 there is no validation part.
        fraction: share of the other training images that is used, the same in every class,
            0 < fraction <= 1.
        test: share of the test images, the same in every class and for every seed, 0 < test <= 1.
        seed: picks the images of the other parts, at least 0.
        download: get the published files first if they are not there.

    Raises:
        ValueError: if an argument is out of range, or a file is not as published.
        FileNotFoundError: if the files are not in ``root``.

    >>> data = load("digits", validation=0.25)
    >>> data.shape, len(data.train), len(data.test)
    ((1, 8, 8), 1078, 359)
    """
    source = find(name)
    if not 0.0 <= validation < 1.0:
        raise ValueError(f"validation is {validation}: give a share from 0 to below 1")
    for key, share in {"fraction": fraction, "test": test}.items():
        if not 0.0 < share <= 1.0:
            raise ValueError(f"{key} is {share}: give a share above 0, up to 1 for all images")
    if seed < 0:
        raise ValueError(f"seed is {seed}: give a whole number of 0 or more")
    train, unseen = read(source, root, download=download)
    kept = None
    if validation:
        rest, part = split(train.labels, validation, seed)
        train, kept = train[rest], train[part]
    if fraction < 1.0:
        _, part = split(train.labels, fraction, seed)
        train = train[part]
    if test < 1.0:
        _, part = split(unseen.labels, test, seed=0)
        unseen = unseen[part]
    mean, std = _moments(train)
    return Data(source.name, source.classes, train, kept, unseen, mean, std)


@dataclass(frozen=True, eq=False)
class Batches:
    """Batches of normalised images, in an order set by the seed and the epoch alone.

    Under data-parallel training every rank goes through the same global batches and takes the
    positions ``rank, rank + world, ...`` of each. A last batch that is not full is given, unless
    ``drop_last``; its shares may differ by one image between the ranks.

    Args:
        images: the images to go through.
        size: images in a global batch, a multiple of ``world``.
        mean, std: one value a channel, for pixels in [0, 1].
        seed: of the order and of the augmentation, at least 0.
        shuffle: a new order in every epoch; otherwise that of ``images``.
        drop_last: leave out a last batch that is not full.
        rank, world: number of this process, and of all.
        augment: augmentations, applied one after the other before normalisation.
        device: where the batches go.

    Raises:
        ValueError: if an argument is out of range, a rank would get an empty last batch, or
            recordings were to be augmented.

    >>> data = load("digits")
    >>> batches = Batches(data.train, 32, data.mean, data.std, device="cpu")
    >>> images, labels = next(batches.epoch(1))
    >>> len(batches), images.shape, labels.shape
    (41, torch.Size([32, 1, 8, 8]), torch.Size([32]))
    """

    images: Images
    size: int
    mean: Sequence[float]
    std: Sequence[float]
    seed: int = 0
    shuffle: bool = True
    drop_last: bool = False
    rank: int = 0
    world: int = 1
    augment: Sequence[Augmentation] = ()
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank is {self.rank} of world {self.world}: ranks count from 0")
        if self.size < 1 or self.size % self.world:
            raise ValueError(
                f"size is {self.size}: give a positive multiple of the {self.world} processes"
            )
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: give a whole number of 0 or more")
        if self.augment and self.images.recordings:
            raise ValueError("recordings cannot be augmented as images: give augment=()")
        channels = self.images.pixels.shape[-3]
        if not len(self.mean) == len(self.std) == channels or min(self.std) <= 0.0:
            raise ValueError(
                f"mean is {self.mean} and std is {self.std}: give one value for each of "
                f"{channels} channels, std above 0"
            )
        left = len(self.images) % self.size
        if not self.drop_last and 0 < left < self.world:
            raise ValueError(
                f"size is {self.size}: the last batch of {left} images is too small for "
                f"{self.world} processes; give another size, or drop_last=True"
            )

    def __len__(self) -> int:
        """Number of batches in an epoch, the same on every rank."""
        whole, left = divmod(len(self.images), self.size)
        return whole + (left > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of epoch 0."""
        return self.epoch(0)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through an epoch from batch ``start``: float32 (B, C, H, W) and labels (B,).

        Recordings come as sequences (T, B, C, H, W).

        The batches from ``start`` are bit for bit those of an epoch begun at 0.

        Raises:
            ValueError: if ``epoch`` is negative or ``start`` is not in 0 ... len(self).
        """
        if epoch < 0 or not 0 <= start <= len(self):
            raise ValueError(
                f"epoch is {epoch} and start is {start}: give an epoch of 0 or more "
                f"and a batch from 0 to {len(self)}"
            )
        return self._epoch(epoch, start)

    def _epoch(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = self._order(epoch).to(self.images.pixels.device)
        mean, std = (_channels(values, self.device) for values in (self.mean, self.std))
        for number in range(start, len(self)):
            batch = order[number * self.size : (number + 1) * self.size][self.rank :: self.world]
            images = self.images.pixels[batch].to(self.device).to(torch.float32) / 255.0
            random = generator("augment", self.seed, epoch, number, self.rank)
            for augmentation in self.augment:
                images = augmentation(images, random)
            yield _batched((images - mean) / std), self.images.labels[batch].to(self.device)

    def _order(self, epoch: int) -> Tensor:
        if not self.shuffle:
            return torch.arange(len(self.images))
        return torch.randperm(len(self.images), generator=generator("order", self.seed, epoch))


def _batched(samples: Tensor) -> Tensor:
    """Images as they are; recordings (B, T, C, H, W) with time first, as networks take them."""
    return samples.transpose(0, 1).contiguous() if samples.ndim == 5 else samples


def _channels(values: Sequence[float], device: torch.device | str) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]  # (C, 1, 1)


def _moments(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, exact: from the counts of the 256 values."""
    pixels = images.pixels
    if images.recordings:
        return (0.0,) * pixels.shape[2], (1.0,) * pixels.shape[2]
    values = torch.arange(256, dtype=torch.float64) / 255.0
    counts = torch.stack([part.flatten().bincount(minlength=256) for part in pixels.unbind(1)])
    shares = counts.double() / counts.sum(dim=1, keepdim=True)
    mean = shares @ values
    std = (shares @ values**2 - mean**2).clamp(min=0.0).sqrt()
    std[std == 0.0] = 1.0  # a channel that never changes becomes 0
    return tuple(mean.tolist()), tuple(std.tolist())
