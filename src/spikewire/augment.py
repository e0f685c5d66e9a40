"""Augmentation: random changes of training images, a whole batch at a time.

An augmentation is any function ``(images, generator) -> images`` on float images (B, C, H, W) in
[0, 1], before normalisation, so that what is moved in from outside is black. Those here are
frozen dataclasses. Random numbers are drawn where the generator lives and then moved to the
images: a CPU generator gives the same augmentation on every device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from spikewire.spelling import check

Augmentation: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Crop:
    """Pad each image with black on all sides and cut the old size out at a random place.

    Args:
        padding: pixels added on each side, at least 0; an image moves by at most that many.

    Raises:
        ValueError: if ``padding`` is negative.

    >>> images = torch.ones(2, 1, 4, 4)
    >>> Crop(1)(images, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 1, 4, 4])
    """

    padding: int

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise ValueError(f"padding is {self.padding}: give 0 or more pixels")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        top, left = _integers(images, generator, 2, high=2 * self.padding + 1)
        return crop(functional.pad(images, (self.padding,) * 4), top, left, images.shape[2:])


@dataclass(frozen=True)
class Flip:
    """Mirror each image left to right with a probability.

    Args:
        probability: in [0, 1].

    Raises:
        ValueError: if ``probability`` is outside [0, 1].

    >>> Flip(1.0)(torch.tensor([[[[1.0, 2.0]]]]), torch.Generator())
    tensor([[[[2., 1.]]]])
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError(f"probability is {self.probability}: give a value from 0 to 1")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        (chance,) = _uniform(images, generator, 1)
        return torch.where(_each(chance < self.probability), images.flip(3), images)


@dataclass(frozen=True)
class Affine:
    """Rotate, scale and shift each image at random about its centre.

    Args:
        degrees: the angle is uniform in [-degrees, degrees], 0 to 180.
        translate: the shift is uniform in [-translate, translate], as a share of the height and
            of the width, 0 to 1.
        scale: the range of the uniform scale, 0 < low <= high; above 1 enlarges.
        sampling: "bilinear", or "nearest" as torchvision's RandomAffine does unless told otherwise.

    Raises:
        ValueError: if one of them is out of its range.

    >>> images = torch.rand(2, 1, 5, 5)
    >>> same = Affine(0.0)(images, torch.Generator())
    >>> torch.allclose(same, images, atol=1e-5)
    True
    """

    degrees: float
    translate: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    sampling: str = "bilinear"

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 0.0 <= self.degrees <= 180.0:
            raise ValueError(f"degrees is {self.degrees}: give an angle from 0 to 180")
        if not 0.0 <= self.translate <= 1.0:
            raise ValueError(
                f"translate is {self.translate}: give a share of the image size from 0 to 1"
            )
        if not 0.0 < low <= high:
            raise ValueError(f"scale is {self.scale}: give (low, high) with 0 < low <= high")
        check("sampling", self.sampling, SAMPLINGS)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        angle, down, right, scale = _uniform(images, generator, 4)
        low, high = self.scale
        height, width = images.shape[2:]
        return affine(
            images,
            math.radians(self.degrees) * (2.0 * angle - 1.0),
            self.translate * height * (2.0 * down - 1.0),
            self.translate * width * (2.0 * right - 1.0),
            low + (high - low) * scale,
            self.sampling,
        )


@dataclass(frozen=True)
class Cutout:
    """Black out a square at a random place in each image (DeVries, Taylor 2017).

    The centre is any pixel, so a square near the border is cut off there.

    Args:
        size: side of the square in pixels, at least 1.

    Raises:
        ValueError: if ``size`` is below 1.

    >>> Cutout(9)(torch.ones(1, 1, 2, 2), torch.Generator())
    tensor([[[[0., 0.],
              [0., 0.]]]])
    """

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size is {self.size}: give a side of 1 pixel or more")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        height, width = images.shape[2:]
        (row,) = _integers(images, generator, 1, high=height)
        (column,) = _integers(images, generator, 1, high=width)
        return cutout(images, row - self.size // 2, column - self.size // 2, self.size)


SAMPLINGS = ("bilinear", "nearest")

AUGMENTS: dict[str, tuple[Augmentation, ...]] = {
    "none": (),
    "shift": (Crop(1),),
    "mnist": (Affine(30.0, 0.15, (0.85, 1.11), "nearest"),),
    "cifar": (Crop(4), Flip()),
    "cifar-cutout": (Crop(4), Flip(), Cutout(16)),
    "tiny-imagenet": (Crop(8), Flip()),
}


def crop(images: Tensor, top: Tensor, left: Tensor, size: torch.Size) -> Tensor:
    """Cut from each image the window of ``size`` whose upper left pixel is (``top``, ``left``).

    Args:
        images: (B, C, H, W).
        top, left: integers (B,), 0 <= top <= H - height and 0 <= left <= W - width.
        size: (height, width) of the windows.

    >>> images = torch.arange(9.0).reshape(1, 1, 3, 3)
    >>> crop(images, torch.tensor([1]), torch.tensor([0]), torch.Size((2, 2)))
    tensor([[[[3., 4.],
              [6., 7.]]]])
    """
    windows = images.unfold(2, size[0], 1).unfold(3, size[1], 1)  # (B, C, tops, lefts, H, W)
    return windows[torch.arange(len(images), device=images.device), :, top, left]


def affine(
    images: Tensor,
    angle: Tensor,
    down: Tensor,
    right: Tensor,
    scale: Tensor,
    sampling: str = "bilinear",
) -> Tensor:
    """Rotate, scale and shift each image about its centre; black comes in from outside.

    A pixel at p from the centre shows what lay at ``R(-angle) (p - shift) / scale``.

    Args:
        images: floats (B, C, H, W).
        angle: (B,) in radians, counter-clockwise.
        down, right: (B,) shifts in pixels.
        scale: (B,) above 0; 2 doubles the size of what is shown.
        sampling: "bilinear" between four pixels, or the "nearest" one.

    >>> turn, none, same = torch.tensor([torch.pi / 2]), torch.zeros(1), torch.ones(1)
    >>> affine(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), turn, none, none, same).round()
    tensor([[[[2., 4.],
              [1., 3.]]]])
    """
    height, width = images.shape[2:]
    cosine, sine = torch.cos(angle) / scale, torch.sin(angle) / scale
    # grid_sample counts x and y in half widths and half heights; y points down.
    x, y = 2.0 * right / width, 2.0 * down / height
    xx, xy = cosine, -sine * height / width
    yx, yy = sine * width / height, cosine
    theta = torch.stack((xx, xy, -xx * x - xy * y, yx, yy, -yx * x - yy * y), dim=1)
    grid = functional.affine_grid(theta.reshape(-1, 2, 3), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode=sampling, align_corners=False)


def cutout(images: Tensor, top: Tensor, left: Tensor, size: int) -> Tensor:
    """Black out in each image the square of ``size`` whose upper left pixel is (``top``, ``left``).

    Args:
        images: (B, C, H, W).
        top, left: integers (B,), which may lie outside the image.
        size: side of the square in pixels.

    >>> cutout(torch.ones(1, 1, 2, 3), torch.tensor([-1]), torch.tensor([1]), 2)
    tensor([[[[1., 0., 0.],
              [1., 1., 1.]]]])
    """
    height, width = images.shape[2:]
    row = torch.arange(height, device=images.device)[:, None] - _each(top)  # (B, 1, H, 1)
    column = torch.arange(width, device=images.device) - _each(left)  # (B, 1, 1, W)
    inside = (row >= 0) & (row < size) & (column >= 0) & (column < size)
    return images.masked_fill(inside, 0.0)


def _each(values: Tensor) -> Tensor:
    """One value an image, (B,), in the shape (B, 1, 1, 1) that meets whole images."""
    return values[:, None, None, None]


def _uniform(images: Tensor, generator: torch.Generator, count: int) -> Tensor:
    """Draw ``count`` numbers in [0, 1) for each image: (count, B)."""
    shape = (count, len(images))
    return torch.rand(shape, generator=generator, device=generator.device).to(images.device)


def _integers(images: Tensor, generator: torch.Generator, count: int, *, high: int) -> Tensor:
    """Draw ``count`` integers in [0, high) for each image: (count, B)."""
    shape = (count, len(images))
    drawn = torch.randint(high, shape, generator=generator, device=generator.device)
    return drawn.to(images.device)
