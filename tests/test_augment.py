"""Augmentation: cases computed by hand, and properties of the random ones."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikewire.augment import AUGMENTS, Affine, Crop, Cutout, Flip, affine, crop, cutout

NINE = torch.arange(1.0, 10.0).reshape(1, 1, 3, 3)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moved(degrees=0.0, down=0.0, right=0.0, scale=1.0, sampling="bilinear"):
    def one(value: float) -> torch.Tensor:
        return torch.tensor([value])

    turn = one(math.radians(degrees))
    return affine(NINE, turn, one(down), one(right), one(scale), sampling)[0, 0]


def test_crop_cuts_each_image_at_its_own_place():
    images = NINE.repeat(2, 1, 1, 1) + torch.tensor([0.0, 10.0]).reshape(2, 1, 1, 1)
    windows = crop(images, torch.tensor([0, 1]), torch.tensor([1, 0]), torch.Size((2, 2)))
    assert windows[0, 0].tolist() == [[2, 3], [5, 6]]
    assert windows[1, 0].tolist() == [[14, 15], [17, 18]]


@given(st.integers(0, 3), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_crop_moves_an_image_by_at_most_the_padding_and_brings_in_black(padding, seed):
    image = NINE.repeat(1, 2, 1, 1)
    result = Crop(padding)(image, seeded(seed))
    padded = torch.nn.functional.pad(image, (padding,) * 4)
    places = range(2 * padding + 1)
    assert any(
        torch.equal(result, padded[:, :, top : top + 3, left : left + 3])
        for top in places
        for left in places
    )


def test_crop_reaches_every_place():
    images = NINE.repeat(400, 1, 1, 1)
    assert len(Crop(1)(images, seeded()).flatten(1).unique(dim=0)) == 9


def test_crop_without_padding_and_flip_without_chance_change_nothing():
    assert torch.equal(Crop(0)(NINE, seeded()), NINE)
    assert torch.equal(Flip(0.0)(NINE, seeded()), NINE)


def test_flip_mirrors_columns_of_about_half_of_the_images():
    assert Flip(1.0)(NINE, seeded())[0, 0].tolist() == [[3, 2, 1], [6, 5, 4], [9, 8, 7]]
    flipped = (Flip()(NINE.repeat(1000, 1, 1, 1), seeded())[:, 0, 0, 0] == 3).sum()
    assert 450 < flipped < 550


def test_affine_identity_returns_the_images():
    assert torch.allclose(moved(), NINE[0, 0], atol=1e-5)
    assert torch.allclose(Affine(0.0)(NINE, seeded()), NINE, atol=1e-5)


@pytest.mark.parametrize(
    ("move", "expected"),
    [
        ({"degrees": 90}, [[3, 6, 9], [2, 5, 8], [1, 4, 7]]),
        ({"degrees": 180}, [[9, 8, 7], [6, 5, 4], [3, 2, 1]]),
        ({"down": 1}, [[0, 0, 0], [1, 2, 3], [4, 5, 6]]),
        ({"right": -1}, [[2, 3, 0], [5, 6, 0], [8, 9, 0]]),
        ({"right": 0.5}, [[0.5, 1.5, 2.5], [2, 4.5, 5.5], [3.5, 7.5, 8.5]]),
        ({"scale": 2}, [[3, 3.5, 4], [4.5, 5, 5.5], [6, 6.5, 7]]),
        ({"scale": 0.5}, [[0, 0, 0], [0, 5, 0], [0, 0, 0]]),
        ({"degrees": 90, "right": 1}, [[0, 3, 6], [0, 2, 5], [0, 1, 4]]),
    ],
)
def test_affine_moves_as_computed_by_hand(move, expected):
    assert torch.allclose(moved(**move), torch.tensor(expected).float(), atol=1e-4)


@pytest.mark.parametrize(
    ("move", "expected"),
    [
        ({"degrees": 90}, [[3, 6, 9], [2, 5, 8], [1, 4, 7]]),
        ({"right": 0.4, "down": 0.3}, [[1, 2, 3], [4, 5, 6], [7, 8, 9]]),
        ({"right": 0.6}, [[0, 1, 2], [0, 4, 5], [0, 7, 8]]),
        ({"scale": 0.6}, [[0, 0, 0], [0, 5, 0], [0, 0, 0]]),
    ],
)
def test_affine_takes_the_nearest_pixel(move, expected):
    assert moved(**move, sampling="nearest").tolist() == expected


def test_affine_turns_images_which_are_not_square_without_shearing():
    image = torch.zeros(1, 1, 3, 5)
    image[0, 0, 1] = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    quarter, none, same = torch.tensor([math.pi / 2]), torch.zeros(1), torch.ones(1)
    turned = affine(image, quarter, none, none, same)[0, 0]
    expected = torch.zeros(3, 5)
    expected[:, 2] = torch.tensor([4.0, 3.0, 2.0])
    assert torch.allclose(turned, expected, atol=1e-4)


@given(st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_affine_stays_within_its_ranges(seed):
    dot = torch.zeros(64, 1, 41, 41)
    dot[:, :, 18:23, 18:23] = 1.0
    result = Affine(30.0, 0.15, (0.85, 1.11))(dot, seeded(seed))[:, 0]
    mass = result.sum((1, 2))
    assert (mass > 25 * 0.85**2 * 0.9).all()
    assert (mass < 25 * 1.11**2 * 1.1).all()
    place = torch.arange(41.0) - 20.0
    for axis in (1, 2):
        centre = (result.sum(axis) * place).sum(1) / mass
        assert (centre.abs() < 0.15 * 41 + 0.5).all()
        assert centre.abs().max() > 2.0


def test_cutout_blacks_out_a_square_which_may_lie_across_the_border():
    ones = torch.ones(2, 2, 3, 4)
    result = cutout(ones, torch.tensor([-1, 1]), torch.tensor([2, 1]), 2)
    assert result[0, 1].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert result[1, 0].tolist() == [[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1]]


def test_cutout_is_centred_on_any_pixel():
    blacked = (Cutout(3)(torch.ones(500, 1, 6, 6), seeded()) == 0).sum((1, 2, 3))
    assert set(blacked.tolist()) == {4, 6, 9}  # in a corner, at a border, inside


@pytest.mark.parametrize("name", AUGMENTS)
def test_named_augmentations_keep_shape_and_range_and_depend_on_the_generator_only(name):
    images = torch.rand(16, 3, 32, 32)
    original = images.clone()

    def augmented(seed: int) -> torch.Tensor:
        generator, result = seeded(seed), images
        for augmentation in AUGMENTS[name]:
            result = augmentation(result, generator)
        return result

    assert augmented(1).shape == images.shape
    assert augmented(1).min() >= 0.0
    assert augmented(1).max() <= 1.0 + 1e-6
    assert torch.equal(augmented(1), augmented(1))
    assert torch.equal(augmented(1), augmented(2)) == (name == "none")
    assert torch.equal(images, original)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Crop(-1), "padding is -1"),
        (lambda: Flip(1.5), "probability is 1.5"),
        (lambda: Affine(181.0), "degrees is 181.0"),
        (lambda: Affine(10.0, 1.5), "translate is 1.5"),
        (lambda: Affine(10.0, 0.1, (1.0, 0.5)), "0 < low <= high"),
        (lambda: Affine(10.0, sampling="cubic"), "no sampling 'cubic'"),
        (lambda: Cutout(0), "size is 0"),
    ],
)
def test_values_out_of_range_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
