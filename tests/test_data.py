"""Data: its parts and figures, and batches that can be repeated."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikewire.augment import AUGMENTS, Crop
from spikewire.data import Batches, load
from spikewire.datasets import Images, Source


def numbered(count: int, channels: int = 1, side: int = 2) -> Images:
    """Images whose pixels all hold the number of the image."""
    numbers = torch.arange(count)
    pixels = numbers.to(torch.uint8)[:, None, None, None].expand(-1, channels, side, side)
    return Images(pixels.contiguous(), numbers % 10)


def raw(images: Images, size: int, **settings: Any) -> Batches:
    """Batches whose pixels are those of the images, divided by 255."""
    channels = images.pixels.shape[1]
    return Batches(images, size, [0.0] * channels, [1.0] * channels, **settings)


def numbers(batch: torch.Tensor) -> list[int]:
    """The numbers of the images in a batch of ``numbered`` images."""
    return (batch[:, 0, 0, 0] * 255).round().int().tolist()


# --- parts and figures -----------------------------------------------------------------------


def test_validation_is_taken_from_training_and_depends_on_the_seed_only():
    whole, one, two, again = (
        load("digits", validation=0.0),
        load("digits", validation=0.25, seed=1),
        load("digits", validation=0.25, seed=2),
        load("digits", validation=0.25, seed=1),
    )
    assert one.validation is not None
    assert again.validation is not None
    both = torch.cat((one.train.pixels, one.validation.pixels)).flatten(1)
    assert torch.equal(both.unique(dim=0), whole.train.pixels.flatten(1).unique(dim=0))
    assert len(one.train) + len(one.validation) == len(whole.train)
    assert torch.equal(one.test.pixels, whole.test.pixels)
    assert torch.equal(one.validation.pixels, again.validation.pixels)
    assert not torch.equal(one.train.pixels, two.train.pixels)
    expected = whole.train.labels.bincount() * 0.25
    assert ((one.validation.labels.bincount() - expected).abs() <= 1.0).all()


def test_a_fraction_of_the_training_images_and_the_same_of_all_else():
    whole, tenth = load("digits", seed=1), load("digits", fraction=0.1, seed=1)
    assert whole.validation is not None
    assert tenth.validation is not None
    assert len(tenth.train) == round(0.1 * len(whole.train))
    assert torch.equal(tenth.validation.pixels, whole.validation.pixels)
    assert torch.equal(tenth.test.pixels, whole.test.pixels)
    expected = whole.train.labels.bincount() * 0.1
    assert ((tenth.train.labels.bincount() - expected).abs() <= 1.0).all()
    for share in (0.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="fraction is"):
            load("digits", fraction=share)
        with pytest.raises(ValueError, match="test is"):
            load("digits", test=share)


def test_a_share_of_the_test_images_is_the_same_for_every_seed():
    whole, tenth = load("digits", seed=1), load("digits", test=0.1, seed=1)
    counts = tenth.test.labels.bincount(minlength=10)
    wanted = 0.1 * whole.test.labels.bincount(minlength=10)
    assert ((counts - wanted).abs() < 1).all()
    other = load("digits", test=0.1, seed=2)
    assert torch.equal(tenth.test.pixels, other.test.pixels)
    assert torch.equal(tenth.train.pixels, whole.train.pixels)
    assert (tenth.mean, tenth.std) == (whole.mean, whole.std)


def own(train: Images, test: Images, classes: int = 10) -> Source:
    names = tuple(str(number) for number in range(classes))
    return Source("own", names, lambda source, root: (train, test))


@given(st.lists(st.integers(0, 3), min_size=8, max_size=80), st.floats(0.2, 0.8), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_a_split_has_the_asked_size_and_every_image_once(labels, share, seed):
    images = Images(numbered(len(labels)).pixels, torch.tensor(labels))
    data = load(own(images, images), validation=share, seed=seed)
    assert data.validation is not None
    assert len(data.validation) == round(share * len(labels))
    parts = torch.cat((data.train.pixels, data.validation.pixels))[:, 0, 0, 0]
    assert sorted(parts.tolist()) == list(range(len(labels)))
    ideal = torch.tensor(labels).bincount(minlength=4) * share
    assert ((data.validation.labels.bincount(minlength=4) - ideal).abs() <= 1.0).all()


def test_mean_and_std_are_of_the_training_pixels_alone_and_by_channel():
    pixels = torch.zeros(2, 2, 1, 2, dtype=torch.uint8)
    pixels[0, 0] = 255
    train = Images(pixels, torch.tensor([0, 1]))
    test = Images(torch.full_like(pixels, 77), torch.tensor([0, 1]))
    data = load(own(train, test), validation=0.0)
    assert data.mean == (0.5, 0.0)
    assert data.std == (0.5, 1.0)  # a constant channel is left as it is


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": "cifar"}, "did you mean 'cifar10'"),
        ({"name": "digits", "validation": 1.0}, "from 0 to below 1"),
        ({"name": "digits", "validation": -0.1}, "from 0 to below 1"),
        ({"name": "digits", "validation": 0.0001}, "leaves one part empty"),
        ({"name": "digits", "seed": -1}, "whole number of 0 or more"),
        ({"name": own(numbered(12), numbered(3), classes=9)}, "labels from 0 to 9"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        load(**arguments)


# --- batches ---------------------------------------------------------------------------------


@given(
    count=st.integers(1, 60),
    share=st.integers(1, 8),
    world=st.integers(1, 4),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
)
@settings(max_examples=80, deadline=None)
def test_ranks_share_every_batch_and_all_batches_cover_the_images(
    count, share, world, shuffle, drop_last, seed, epoch
):
    size = share * world
    images = numbered(count)
    if not drop_last and 0 < count % size < world:
        with pytest.raises(ValueError, match="another size, or drop_last=True"):
            raw(images, size, world=world)
        return
    settings = {"shuffle": shuffle, "drop_last": drop_last, "seed": seed}
    whole = [numbers(pixels) for pixels, _ in raw(images, size, **settings).epoch(epoch)]
    ranks = [raw(images, size, rank=rank, world=world, **settings) for rank in range(world)]
    for rank, batches in enumerate(ranks):
        assert [numbers(pixels) for pixels, _ in batches.epoch(epoch)] == [
            part[rank::world] for part in whole
        ]
        assert len(batches) == len(whole)
    seen = list(itertools.chain.from_iterable(whole))
    kept = count // size * size if drop_last else count
    assert len(seen) == len(set(seen)) == kept
    if not shuffle:
        assert seen == list(range(kept))


@given(
    count=st.integers(1, 40), size=st.integers(1, 9), start=st.integers(0, 40), rank=st.booleans()
)
@settings(max_examples=40, deadline=None)
def test_an_epoch_goes_on_from_any_batch_bit_for_bit(count, size, start, rank):
    settings = {"augment": AUGMENTS["cifar-cutout"], "drop_last": True, "seed": 5}
    batches = raw(numbered(count, 3, 6), 2 * size, rank=int(rank), world=2, **settings)
    start = min(start, len(batches))
    whole, rest = list(batches.epoch(3)), list(batches.epoch(3, start))
    assert len(rest) == len(whole) - start
    for (pixels, labels), (again, labels_again) in zip(whole[start:], rest, strict=True):
        assert torch.equal(pixels, again)
        assert torch.equal(labels, labels_again)


def test_order_and_augmentation_change_with_seed_and_epoch():
    images = Images(torch.randint(1, 256, (64, 1, 8, 8)).to(torch.uint8), torch.arange(64))

    def first(seed: int, epoch: int, rank: int = 0, shuffle: bool = True) -> torch.Tensor:
        batches = raw(
            images, 32, seed=seed, rank=rank, world=2, augment=(Crop(2),), shuffle=shuffle
        )
        return next(batches.epoch(epoch))[0]

    assert torch.equal(first(0, 0), first(0, 0))
    assert not torch.equal(first(0, 0), first(0, 1))
    assert not torch.equal(first(0, 0), first(1, 0))
    assert not torch.equal(first(0, 0, shuffle=False), first(0, 1, shuffle=False))


def test_ranks_and_batches_are_augmented_differently():
    same = Images(
        torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8).repeat(64, 1, 1, 1),
        torch.zeros(64, dtype=torch.int64),
    )
    settings = {"world": 2, "augment": (Crop(3),), "shuffle": False}
    (one, _), (two, _) = raw(same, 32, rank=0, **settings)
    other, _ = next(iter(raw(same, 32, rank=1, **settings)))
    assert not torch.equal(one, two)
    assert not torch.equal(one, other)


def test_the_random_state_of_the_caller_is_left_alone():
    before = torch.random.get_rng_state()
    list(raw(numbered(20), 4, augment=AUGMENTS["cifar"]).epoch(0))
    assert torch.equal(before, torch.random.get_rng_state())


def test_pixels_are_normalised_by_channel():
    pixels = torch.tensor([0, 255, 51], dtype=torch.uint8).reshape(1, 3, 1, 1)
    batches = Batches(Images(pixels, torch.tensor([4])), 1, (0.5, 0.5, 0.1), (0.5, 0.25, 0.1))
    images, labels = next(iter(batches))
    assert images.dtype == torch.float32
    assert torch.allclose(images.flatten(), torch.tensor([-1.0, 2.0, 1.0]))
    assert labels.tolist() == [4]


def test_augmentation_sees_pixels_from_0_to_1_and_black_is_0():
    images = Images(torch.full((4, 1, 4, 4), 255, dtype=torch.uint8), torch.arange(4))
    seen = []

    def look(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        seen.append(batch.clone())
        return batch * 0.0

    (shown, _) = next(iter(Batches(images, 4, [0.5], [0.5], augment=(look,))))
    assert torch.equal(seen[0], torch.ones(4, 1, 4, 4))
    assert torch.equal(shown, -torch.ones(4, 1, 4, 4))


def test_images_are_unchanged_after_augmented_batches():
    images = numbered(10, 3, 8)
    before = images.pixels.clone()
    list(raw(images, 4, augment=AUGMENTS["cifar-cutout"]).epoch(0))
    assert torch.equal(images.pixels, before)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"size": 0}, "positive multiple"),
        ({"size": 3, "world": 2}, "positive multiple of the 2 processes"),
        ({"size": 4, "rank": 2, "world": 2}, "ranks count from 0"),
        ({"size": 4, "seed": -1}, "0 or more"),
        ({"size": 4, "mean": (0.0, 0.0)}, "one value for each of 1 channels"),
        ({"size": 4, "std": (0.0,)}, "std above 0"),
    ],
)
def test_bad_settings_of_batches_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        Batches(numbered(8), **({"mean": (0.0,), "std": (1.0,)} | settings))


@pytest.mark.parametrize(("epoch", "start"), [(-1, 0), (0, -1), (0, 4)])
def test_epochs_and_batches_out_of_range_are_refused_at_once(epoch, start):
    with pytest.raises(ValueError, match="a batch from 0 to 3"):
        raw(numbered(10), 4).epoch(epoch, start)


def test_recordings_come_as_sequences_of_spikes():
    pixels = torch.zeros(6, 3, 2, 4, 1, dtype=torch.uint8)
    pixels[torch.arange(6), torch.arange(6) % 3, 1, 2, 0] = 255

    def recorded(source, root):
        images = Images(pixels, torch.tensor([0, 1] * 3))
        return images, images[:2]

    data = load(Source("touch", ("no", "yes"), recorded), validation=0.0)
    assert (data.shape, data.mean, data.std) == ((3, 2, 4, 1), (0.0, 0.0), (1.0, 1.0))
    batches = Batches(data.train, 4, data.mean, data.std, shuffle=False)
    (first, labels), (last, _) = batches
    assert first.shape == data.blank(4).shape == (3, 4, 2, 4, 1) and last.shape[1] == 2
    assert first.nonzero().tolist() == [
        [0, 0, 1, 2, 0], [0, 3, 1, 2, 0], [1, 1, 1, 2, 0], [2, 2, 1, 2, 0]
    ]  # fmt: skip
    assert set(first.unique().tolist()) == {0.0, 1.0} and labels.tolist() == [0, 1, 0, 1]
    with pytest.raises(ValueError, match="recordings cannot be augmented"):
        Batches(data.train, 4, data.mean, data.std, augment=(Crop(1),))
