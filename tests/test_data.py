"""Data sets: real files, files in the publishers' formats, and batches that can be repeated."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import io
import itertools
import os
import pickle
import re
import struct
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from spikewire.augment import AUGMENTS, Crop
from spikewire.data import DATASETS, Batches, Data, Images, Source, fetch, load

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
REAL = Path(os.environ.get("SPIKEWIRE_DATA", BESIDE))


def published(name: str, **changes: Any) -> Source:
    """A source which accepts other files than the published ones."""
    return replace(DATASETS[name], checksums={}, **changes)


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


# --- real data -------------------------------------------------------------------------------


def real(name: str) -> Data:
    try:
        return load(name, REAL, validation=0.0)
    except FileNotFoundError as error:
        pytest.skip(f"the published files are not at hand: {error}")


@pytest.mark.parametrize(
    ("name", "shape", "counts", "first", "mean", "std"),
    [
        ("mnist", (1, 28, 28), (60000, 10000), (5, 7), [0.1307], [0.3081]),
        ("fashion-mnist", (1, 28, 28), (60000, 10000), (9, 9), [0.2860], [0.3530]),
        (
            "cifar10",
            (3, 32, 32),
            (50000, 10000),
            (6, 3),
            [0.4914, 0.4822, 0.4465],
            [0.2470, 0.2435, 0.2616],
        ),
        (
            "cifar100",
            (3, 32, 32),
            (50000, 10000),
            (19, 49),
            [0.5071, 0.4865, 0.4409],
            [0.2673, 0.2564, 0.2762],
        ),
    ],
)
def test_real_data_sets_have_the_published_figures(name, shape, counts, first, mean, std):
    data = real(name)
    assert data.name == name
    assert data.shape == shape
    assert data.validation is None
    assert (len(data.train), len(data.test)) == counts
    assert (data.train.labels[0], data.test.labels[0]) == first
    assert data.mean == pytest.approx(mean, abs=6e-5)
    assert data.std == pytest.approx(std, abs=6e-5)
    assert set(data.test.labels.tolist()) == set(range(len(data.classes)))


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_checksums_of_plain_idx_files_are_those_of_the_unpacked_published_ones(name):
    source = DATASETS[name]
    folder = REAL / source.folder
    if not all((folder / file).is_file() for file in source.files):
        pytest.skip(f"the published files of {name} are not in {folder}")
    for file in source.files:
        source.check(file.removesuffix(".gz"), gzip.decompress((folder / file).read_bytes()))


def test_digits_need_no_files_and_keep_their_classes_balanced(tmp_path):
    data = load("digits", tmp_path / "absent", validation=0.0)
    assert data.shape == (1, 8, 8)
    assert (len(data.train), len(data.test)) == (1438, 359)
    assert data.train.pixels.max() == 255
    shares = data.test.labels.bincount() / (
        data.test.labels.bincount() + data.train.labels.bincount()
    )
    assert torch.allclose(shares, torch.full((10,), 0.2), atol=0.007)


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


def test_images_refuse_other_types_and_shapes():
    with pytest.raises(ValueError, match=r"give uint8 of shape \(N, C, H, W\)"):
        Images(torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"give int64 of shape \(2,\)"):
        Images(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))


# --- idx files -------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(folder: Path, packed: bool) -> np.ndarray:
    """Two training images and one test image, 2 x 3, with their labels."""
    images = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    contents = {
        "train-images-idx3-ubyte": idx(images),
        "train-labels-idx1-ubyte": idx(np.array([3, 1], np.uint8)),
        "t10k-images-idx3-ubyte": idx(images[:1]),
        "t10k-labels-idx1-ubyte": idx(np.array([7], np.uint8)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)
    return images


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("name", "folder"),
    [("mnist", "."), ("mnist", "MNIST/raw"), ("fashion-mnist", "FashionMNIST/raw")],
)
def test_idx_files_are_read_from_each_usual_place(tmp_path, name, folder, packed):
    images = write_idx(tmp_path / folder, packed)
    data = load(published(name), tmp_path, validation=0.0)
    assert data.shape == (1, 2, 3)
    assert np.array_equal(data.train.pixels[:, 0].numpy(), images)
    assert data.train.labels.tolist() == [3, 1]
    assert data.test.labels.tolist() == [7]


def test_the_data_folder_can_come_from_the_environment(tmp_path, monkeypatch):
    write_idx(tmp_path, packed=False)
    monkeypatch.setenv("SPIKEWIRE_DATA", str(tmp_path))
    assert len(load(published("mnist"), validation=0.0).train) == 2


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_which_is_not_the_published_one_is_refused(tmp_path, packed):
    write_idx(tmp_path, packed)
    with pytest.raises(ValueError, match=r"mnist: train-images\S+ is not as published .* delete"):
        load("mnist", tmp_path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: content[:6],
        lambda content: b"",
        lambda content: b"\0\0\x0d" + content[3:],
        lambda content: content[:3] + b"\x01" + content[4:],
        lambda content: content[:4] + b"\xff" * 12 + content[16:],
    ],
)
def test_idx_files_which_are_not_whole_are_refused(tmp_path, spoil):
    write_idx(tmp_path, packed=False)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match="not a whole idx file"):
        load(published("mnist"), tmp_path)


def test_images_and_labels_of_different_number_are_refused(tmp_path):
    write_idx(tmp_path, packed=False)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(5, np.uint8)))
    with pytest.raises(ValueError, match="one for each image"):
        load(published("mnist"), tmp_path)


@pytest.mark.parametrize(
    ("name", "file"),
    [("mnist", "train-images-idx3-ubyte.gz"), ("cifar100", "cifar-100-python.tar.gz")],
)
def test_missing_files_are_named_with_the_folder_and_the_remedy(tmp_path, name, file):
    with pytest.raises(FileNotFoundError) as raised:
        load(name, tmp_path)
    for part in (name, str(tmp_path), file, "--data DIR", "SPIKEWIRE_DATA", "download=True"):
        assert part in str(raised.value)


# --- CIFAR -----------------------------------------------------------------------------------


PurePickler: Any = pickle._Pickler  # the one whose way of writing a type can be changed


class Python2Pickler(PurePickler):
    """Writes byte strings as Python 2 did, in which the published batches were pickled."""

    dispatch: ClassVar = dict(PurePickler.dispatch)

    def save_string(self, value: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = save_string


def batch(rows: np.ndarray, labels: list[int], key: bytes) -> bytes:
    stream = io.BytesIO()
    Python2Pickler(stream, protocol=2).dump({b"batch_label": b"one", key: labels, b"data": rows})
    return stream.getvalue().replace(b"numpy._core.", b"numpy.core.")


def rows(count: int, first: int = 0) -> np.ndarray:
    """Rows of 3072 values: a red, a green and a blue plane, different in each row."""
    return (np.arange(count * 3072) // 7 + first).astype(np.uint8).reshape(count, 3072)


def cifar10_files() -> dict[str, bytes]:
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    return {
        f"cifar-10-batches-py/{name}": batch(rows(2, first), [first, 9], b"labels")
        for first, name in enumerate(names)
    }


def cifar100_files() -> dict[str, bytes]:
    return {
        "cifar-100-python/train": batch(rows(3), [99, 0, 50], b"fine_labels"),
        "cifar-100-python/test": batch(rows(1), [42], b"fine_labels"),
    }


def write_files(root: Path, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def write_archive(path: Path, contents: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in contents.items():
            part = tarfile.TarInfo(name)
            part.size = len(content)
            tar.addfile(part, io.BytesIO(content))


def test_the_batches_of_the_test_are_in_the_published_form():
    content = batch(rows(1), [0], b"labels")
    assert content.startswith(b"\x80\x02}")
    assert b"cnumpy.core.multiarray\n_reconstruct\n" in content
    assert b"_codecs" not in content


@pytest.mark.parametrize("archived", [False, True])
def test_cifar10_batches_are_read_in_turn_from_folder_or_archive(tmp_path, archived):
    files = cifar10_files()
    if archived:
        write_archive(tmp_path / "cifar-10-python.tar.gz", dict(reversed(files.items())))
    else:
        write_files(tmp_path, files)
    data = load(published("cifar10"), tmp_path, validation=0.0)
    expected = np.concatenate([rows(2, first) for first in range(5)])
    assert np.array_equal(data.train.pixels.flatten(1).numpy(), expected)
    assert data.train.labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert data.test.labels.tolist() == [5, 9]
    assert data.train.pixels[0, 1, 0, 0] == rows(1)[0, 1024]  # the green plane comes second


@pytest.mark.parametrize("archived", [False, True])
def test_cifar100_is_read_with_its_fine_labels(tmp_path, archived):
    if archived:
        write_archive(tmp_path / "cifar-100-python.tar.gz", cifar100_files())
    else:
        write_files(tmp_path, cifar100_files())
    data = load(published("cifar100"), tmp_path, validation=0.0)
    assert data.train.labels.tolist() == [99, 0, 50]
    assert data.classes[99] == "worm"


def test_cifar_files_which_are_not_the_published_ones_are_refused(tmp_path):
    write_archive(tmp_path / "cifar-10-python.tar.gz", cifar10_files())
    with pytest.raises(ValueError, match=r"cifar-10-python.tar.gz is not as published"):
        load("cifar10", tmp_path)
    write_files(tmp_path, cifar10_files())
    with pytest.raises(ValueError, match=r"data_batch_1 is not as published"):
        load("cifar10", tmp_path)


class Malice:
    """Pickles as a call of ``open(path, "w")``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_which_calls_anything_else_is_refused_and_not_executed(tmp_path, protocol):
    trap = tmp_path / "executed"
    files = cifar10_files() | {
        "cifar-10-batches-py/test_batch": pickle.dumps({"data": Malice(trap)}, protocol)
    }
    write_files(tmp_path, files)
    with pytest.raises(ValueError, match=r"asks for \w+.open.*do not trust"):
        load(published("cifar10"), tmp_path)
    assert not trap.exists()
    pickle.loads(files["cifar-10-batches-py/test_batch"])["data"].close()
    assert trap.exists()  # the trap would have worked


def write_packed(path: Path, images: np.ndarray, labels: list[int], strip: list[int]) -> None:
    """Images (N, 32, 32, 3) as WebP strips; ``strip`` gives the strip of each image."""
    streams = []
    for number in range(max(strip) + 1):
        stream = io.BytesIO()
        column = images[np.array(strip) == number].reshape(-1, 32, 3)
        Image.fromarray(column).save(stream, "WEBP", lossless=True, exact=True)
        streams.append(stream.getvalue())
    path.parent.mkdir(exist_ok=True)
    np.savez(
        path,
        webp=np.frombuffer(b"".join(streams), np.uint8),
        sizes=np.array([len(stream) for stream in streams], np.uint32),
        strip=np.array(strip, np.uint16),
        label=np.array(labels, np.uint8),
    )


@pytest.fixture
def packed(tmp_path) -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    write_packed(tmp_path / "cifar10" / "train.npz", images, [1, 2, 3, 4, 5], [1, 0, 1, 0, 0])
    write_packed(tmp_path / "cifar10" / "test.npz", images[:1], [9], [0])
    return images


def test_packed_images_come_back_in_their_order(tmp_path, packed):
    data = load(published("cifar10"), tmp_path, validation=0.0)
    assert np.array_equal(data.train.pixels.permute(0, 2, 3, 1).numpy(), packed)
    assert data.train.pixels.is_contiguous()
    assert data.train.labels.tolist() == [1, 2, 3, 4, 5]
    assert data.test.labels.tolist() == [9]


@pytest.mark.parametrize("array", ["pixels", "labels"])
def test_packed_arrays_which_are_not_the_published_ones_are_refused(tmp_path, packed, array):
    known = DATASETS["cifar10"].checksums[f"train {array}"]
    source = replace(DATASETS["cifar10"], checksums={f"train {array}": known})
    with pytest.raises(ValueError, match=f"train {array} is not as published"):
        load(source, tmp_path)


def test_packed_files_which_are_not_whole_are_refused(tmp_path, packed):
    path = tmp_path / "cifar10" / "train.npz"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="not a whole file of packed images"):
        load(published("cifar10"), tmp_path)


# --- download --------------------------------------------------------------------------------


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder on this machine and remembers what was asked for."""

    def __init__(self, folder: Path) -> None:
        asked = self.asked = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                asked.append(self.path)

        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server_port}/"


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    folder = tmp_path / "published"
    write_idx(folder, packed=True)
    with Server(folder) as served:
        threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True).start()
        yield served
        served.shutdown()


def with_checksums(folder: Path, source: Source) -> Source:
    sums = {file: hashlib.md5((folder / file).read_bytes()).hexdigest() for file in source.files}
    return replace(source, checksums={file: f"md5:{digest}" for file, digest in sums.items()})


def test_a_download_is_checked_stored_and_made_once(tmp_path, server):
    source = with_checksums(tmp_path / "published", replace(DATASETS["mnist"], url=server.url))
    root = tmp_path / "data"
    data = load(source, root, validation=0.0, download=True)
    load(source, root, validation=0.0, download=True)
    assert data.train.labels.tolist() == [3, 1]
    fetch(source, root)
    assert sorted(server.asked) == sorted(f"/{file}" for file in source.files)
    assert sorted(path.name for path in (root / "MNIST/raw").iterdir()) == sorted(source.files)


def test_a_download_with_a_wrong_checksum_is_refused_and_not_kept(tmp_path, server):
    source = replace(DATASETS["mnist"], url=server.url)
    with pytest.raises(ValueError, match=r"has not the published checksum md5:\w+: get this file"):
        load(source, tmp_path / "data", download=True)
    assert list((tmp_path / "data" / "MNIST/raw").iterdir()) == []


def test_an_address_without_the_file_is_named_with_the_remedy(tmp_path, server):
    source = replace(DATASETS["cifar10"], url=server.url)
    with pytest.raises(OSError, match=r"cifar-10-python.tar.gz cannot be had .* yourself"):
        load(source, tmp_path / "data", download=True)


def test_everything_published_has_a_checksum_and_a_safe_address():
    for source in DATASETS.values():
        assert set(source.files) <= set(source.checksums)
        assert not source.files or source.url.startswith("https://")


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
