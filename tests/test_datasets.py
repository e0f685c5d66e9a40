"""Data sets: real files, and small files in the publishers' formats."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import io
import lzma
import os
import pickle
import shutil
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
from PIL import Image

from spikewire.datasets import DATASETS, Images, Source, fetch, find, read

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
REAL = Path(os.environ.get("SPIKEWIRE_DATA", BESIDE))


def published(name: str, **changes: Any) -> Source:
    """A source which accepts other files than the published ones."""
    return replace(DATASETS[name], checksums={}, **changes)


# --- real data -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "first", "mean"), [("mnist", (5, 7), 0.1307), ("fashion-mnist", (9, 9), 0.2860)]
)
def test_real_idx_files_have_the_published_figures(name, first, mean):
    try:
        train, test = read(DATASETS[name], REAL)
    except FileNotFoundError as error:
        pytest.skip(f"the published files are not at hand: {error}")
    assert train.pixels.shape == (60000, 1, 28, 28)
    assert test.pixels.shape == (10000, 1, 28, 28)
    assert (train.labels[0], test.labels[0]) == first
    assert train.pixels.float().mean().item() / 255 == pytest.approx(mean, abs=6e-5)
    assert set(test.labels.tolist()) == set(range(len(DATASETS[name].classes)))


def test_real_braille_letters_are_the_recorded_ones():
    """Labels, channels and times are checked against their sums; the rest was counted."""
    try:
        train, test = read(DATASETS["braille"], REAL)
    except FileNotFoundError as error:
        pytest.skip(f"the recordings are not at hand: {error}")
    assert train.pixels.shape == (4320, 27, 2, 12, 1) and test.pixels.shape == (1080, 27, 2, 12, 1)
    assert set(train.labels.bincount().tolist()) == {160}
    assert set(test.labels.bincount().tolist()) == {40}
    assert set(train.pixels.unique().tolist()) == {0, 255}
    # of 221,107 events; those of a taxel and polarity within a step are one
    assert sum(int((part.pixels > 0).sum()) for part in (train, test)) == 168_349


@pytest.mark.parametrize(("name", "first"), [("cifar10", 3), ("cifar100", 49)])
def test_real_packed_images_are_the_published_ones(tmp_path, name, first):
    # only the test part: the training part has the same form and takes five times as long
    path = REAL / name / "test.npz"
    if not path.is_file():
        pytest.skip(f"the packed images are not at hand: {path}")
    (tmp_path / name).mkdir()
    (tmp_path / name / "test.npz").symlink_to(path.resolve())
    write_packed(tmp_path / name / "train.npz", noise(1), [0], [0])
    known = {part: DATASETS[name].checksums[part] for part in ("test pixels", "test labels")}
    _, test = read(replace(DATASETS[name], checksums=known), tmp_path)
    assert test.pixels.shape == (10000, 3, 32, 32)
    assert test.labels[0] == first
    assert (test.labels.bincount() == 10000 // len(DATASETS[name].classes)).all()


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_checksums_of_plain_idx_files_are_those_of_the_unpacked_published_ones(name):
    source = DATASETS[name]
    folder = REAL / source.folder
    if not all((folder / file).is_file() for file in source.files):
        pytest.skip(f"the published files of {name} are not in {folder}")
    for file in source.files:
        source.check(file.removesuffix(".gz"), gzip.decompress((folder / file).read_bytes()))


def test_digits_need_no_files_and_keep_their_classes_balanced(tmp_path):
    train, test = read(DATASETS["digits"], tmp_path / "absent")
    assert train.pixels.shape == (1438, 1, 8, 8)
    assert test.pixels.shape == (359, 1, 8, 8)
    assert train.pixels.max() == 255
    counts = test.labels.bincount()
    shares = counts / (counts + train.labels.bincount())
    assert torch.allclose(shares, torch.full((10,), 0.2), atol=0.007)


# --- sources and images ----------------------------------------------------------------------


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"no data set 'cifar' \(did you mean 'cifar10'\?\)"):
        find("cifar")


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
    train, test = read(published(name), tmp_path)
    assert np.array_equal(train.pixels[:, 0].numpy(), images)
    assert train.labels.tolist() == [3, 1]
    assert test.labels.tolist() == [7]


def test_the_data_folder_can_come_from_the_environment(tmp_path, monkeypatch):
    write_idx(tmp_path, packed=False)
    monkeypatch.setenv("SPIKEWIRE_DATA", str(tmp_path))
    assert len(read(published("mnist"))[0]) == 2


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_which_is_not_the_published_one_is_refused(tmp_path, packed):
    write_idx(tmp_path, packed)
    with pytest.raises(ValueError, match=r"mnist: train-images\S+ is not as published .* delete"):
        read(DATASETS["mnist"], tmp_path)


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
        read(published("mnist"), tmp_path)


def test_images_and_labels_of_different_number_are_refused(tmp_path):
    write_idx(tmp_path, packed=False)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(5, np.uint8)))
    with pytest.raises(ValueError, match="one for each image"):
        read(published("mnist"), tmp_path)


@pytest.mark.parametrize(
    ("name", "file"),
    [("mnist", "train-images-idx3-ubyte.gz"), ("cifar100", "cifar-100-python.tar.gz")],
)
def test_missing_files_are_named_with_the_folder_and_the_remedy(tmp_path, name, file):
    with pytest.raises(FileNotFoundError) as raised:
        read(DATASETS[name], tmp_path)
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
    train, test = read(published("cifar10"), tmp_path)
    expected = np.concatenate([rows(2, first) for first in range(5)])
    assert np.array_equal(train.pixels.flatten(1).numpy(), expected)
    assert train.labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert test.labels.tolist() == [5, 9]
    assert train.pixels[0, 1, 0, 0] == rows(1)[0, 1024]  # the green plane comes second


@pytest.mark.parametrize("archived", [False, True])
def test_cifar100_is_read_with_its_fine_labels(tmp_path, archived):
    if archived:
        write_archive(tmp_path / "cifar-100-python.tar.gz", cifar100_files())
    else:
        write_files(tmp_path, cifar100_files())
    train, _ = read(published("cifar100"), tmp_path)
    assert train.labels.tolist() == [99, 0, 50]
    assert DATASETS["cifar100"].classes[99] == "worm"


def test_cifar_files_which_are_not_the_published_ones_are_refused(tmp_path):
    write_archive(tmp_path / "cifar-10-python.tar.gz", cifar10_files())
    with pytest.raises(ValueError, match=r"cifar-10-python.tar.gz is not as published"):
        read(DATASETS["cifar10"], tmp_path)
    write_files(tmp_path, cifar10_files())
    with pytest.raises(ValueError, match=r"data_batch_1 is not as published"):
        read(DATASETS["cifar10"], tmp_path)


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
        read(published("cifar10"), tmp_path)
    assert not trap.exists()
    pickle.loads(files["cifar-10-batches-py/test_batch"])["data"].close()
    assert trap.exists()  # the trap would have worked


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


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
    images = noise(5)
    write_packed(tmp_path / "cifar10" / "train.npz", images, [1, 2, 3, 4, 5], [1, 0, 1, 0, 0])
    write_packed(tmp_path / "cifar10" / "test.npz", images[:1], [9], [0])
    return images


def test_packed_images_come_back_in_their_order(tmp_path, packed):
    train, test = read(published("cifar10"), tmp_path)
    assert np.array_equal(train.pixels.permute(0, 2, 3, 1).numpy(), packed)
    assert train.pixels.is_contiguous()
    assert train.labels.tolist() == [1, 2, 3, 4, 5]
    assert test.labels.tolist() == [9]


@pytest.mark.parametrize("array", ["pixels", "labels"])
def test_packed_arrays_which_are_not_the_published_ones_are_refused(tmp_path, packed, array):
    known = DATASETS["cifar10"].checksums[f"train {array}"]
    source = replace(DATASETS["cifar10"], checksums={f"train {array}": known})
    with pytest.raises(ValueError, match=f"train {array} is not as published"):
        read(source, tmp_path)


def test_packed_files_which_are_not_whole_are_refused(tmp_path, packed):
    path = tmp_path / "cifar10" / "train.npz"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="not a whole file of packed images"):
        read(published("cifar10"), tmp_path)


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
    train, _ = read(source, root, download=True)
    read(source, root, download=True)
    assert train.labels.tolist() == [3, 1]
    fetch(source, root)
    assert sorted(server.asked) == sorted(f"/{file}" for file in source.files)
    assert sorted(path.name for path in (root / "MNIST/raw").iterdir()) == sorted(source.files)


def test_a_download_with_a_wrong_checksum_is_refused_and_not_kept(tmp_path, server):
    source = replace(DATASETS["mnist"], url=server.url)
    with pytest.raises(ValueError, match=r"has not the published checksum md5:\w+: get this file"):
        read(source, tmp_path / "data", download=True)
    assert list((tmp_path / "data" / "MNIST/raw").iterdir()) == []


def test_an_address_without_the_file_is_named_with_the_remedy(tmp_path, server):
    source = replace(DATASETS["cifar10"], url=server.url)
    with pytest.raises(OSError, match=r"cifar-10-python.tar.gz cannot be had .* yourself"):
        read(source, tmp_path / "data", download=True)


def test_everything_published_has_a_checksum_and_a_safe_address():
    for source in DATASETS.values():
        assert set(source.files) <= set(source.checksums)
        assert not source.files or source.url.startswith("https://")


# --- Tiny-ImageNet ---------------------------------------------------------------------------


def write_tiny_imagenet(root: Path) -> Source:
    """Two classes of the published tree: four grey training images, two for validation."""
    place = root / "tiny-imagenet-200"
    grey = {"n01443537": [10, 200], "n01629819": [90, 30]}
    for name, values in grey.items():
        (place / "train" / name / "images").mkdir(parents=True)
        for number, value in enumerate(values):
            image = Image.new("L", (64, 64), value)  # some of the published ones are grey too
            image.save(place / "train" / name / "images" / f"{name}_{number}.JPEG", quality=100)
    (place / "val" / "images").mkdir(parents=True)
    lines = []
    for number, name in enumerate(["n01629819", "n01443537"]):
        Image.new("RGB", (64, 64), (number * 255,) * 3).save(
            place / "val" / "images" / f"val_{number}.JPEG"
        )
        lines.append(f"val_{number}.JPEG\t{name}\t0\t32\t44\t62\n")
    (place / "val" / "val_annotations.txt").write_text("".join(lines))
    return published("tiny-imagenet-200", classes=tuple(grey))


@pytest.mark.parametrize("packed", [False, True])
def test_tiny_imagenet_in_its_published_tree(tmp_path, packed):
    source = write_tiny_imagenet(tmp_path)
    if packed:
        place = tmp_path / "tiny-imagenet-200"
        shutil.make_archive(str(place), "zip", tmp_path, place.name)
        shutil.rmtree(place)
    train, test = read(source, tmp_path)
    assert train.pixels.shape == (4, 3, 64, 64) and test.pixels.shape == (2, 3, 64, 64)
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 0, 1, 1], [1, 0])
    assert train.pixels.float().mean((1, 2, 3)).tolist() == pytest.approx([10, 200, 90, 30], abs=1)
    assert test.pixels.float().mean((1, 2, 3)).tolist() == pytest.approx([0, 255], abs=1)


def test_tiny_imagenet_that_is_missing_or_broken(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tiny-imagenet-200.zip"):
        read(DATASETS["tiny-imagenet-200"], tmp_path)
    source = write_tiny_imagenet(tmp_path)
    (tmp_path / "tiny-imagenet-200/val/images/val_0.JPEG").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"val_0.JPEG is not a whole image"):
        read(source, tmp_path)
    assert len(DATASETS["tiny-imagenet-200"].classes) == 200


@pytest.mark.parametrize(
    ("gone", "told"),
    [
        ("train/n01629819/images/n01629819_1.JPEG", "class n01629819 has 1 images, another has 2"),
        ("val/val_annotations.txt", "class n01629819 has 0 images, another has 1"),
    ],
)
def test_tiny_imagenet_that_was_not_wholly_unpacked(tmp_path, gone, told):
    source = write_tiny_imagenet(tmp_path)
    file = tmp_path / "tiny-imagenet-200" / gone
    if file.suffix == ".txt":
        file.write_text(file.read_text().splitlines(keepends=True)[1])
    else:
        file.unlink()
    with pytest.raises(ValueError, match=rf"is not whole: {told}.*: unpack tiny-imagenet-200.zip"):
        read(source, tmp_path)


# --- Braille -----------------------------------------------------------------------------------


def write_events(folder: Path, **changes: Any) -> None:
    """Six trials of two letters; each has its number in events, at its number times 0.2 s."""
    counts = np.array([1, 2, 3, 4, 5, 6], np.uint16)
    arrays = {
        "label": np.array([0, 0, 0, 0, 0, 1], np.uint8),
        "count": counts,
        "c": np.concatenate([np.arange(count) for count in counts]).astype(np.uint8),
        "t": np.repeat(0.2 * np.arange(1, 7), counts),
    }
    held = io.BytesIO()
    np.savez(held, **(arrays | changes))
    folder.mkdir(parents=True, exist_ok=True)
    with lzma.open(folder / "braille_letters_th10.npz.xz", "w") as file:
        file.write(held.getvalue())


def test_events_lie_in_the_time_step_the_polarity_and_the_taxel_of_their_own(tmp_path):
    write_events(tmp_path / "braille")
    train, test = read(published("braille"), tmp_path)
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 0, 0, 0, 1], [0])
    assert train.recordings
    (fifth,) = test.pixels
    assert fifth.nonzero().tolist() == [  # channels 0 to 4 at 1 s, the 21st step of 50 ms
        [20, 0, 0, 0], [20, 0, 1, 0], [20, 0, 2, 0], [20, 1, 0, 0], [20, 1, 1, 0]
    ]  # fmt: skip
    assert train.pixels[1].nonzero().tolist() == [[8, 0, 0, 0], [8, 1, 0, 0]]
    assert set(fifth.unique().tolist()) == {0, 255}


@pytest.mark.parametrize(
    "changes",
    [
        {"c": np.arange(20, dtype=np.uint8)},
        {"c": np.full(21, 24, np.uint8)},
        {"t": np.full(21, -0.1)},
        {"label": np.zeros(5, np.uint8)},
    ],
)
def test_events_that_do_not_fit_together_are_refused(tmp_path, changes):
    write_events(tmp_path / "braille", **changes)
    with pytest.raises(ValueError, match="other sizes than 12 taxels have"):
        read(published("braille"), tmp_path)


def test_events_that_are_not_the_recorded_ones_are_refused(tmp_path):
    file = tmp_path / "braille" / "braille_letters_th10.npz.xz"
    write_events(file.parent)
    with pytest.raises(ValueError, match="label is not as published"):
        read(DATASETS["braille"], tmp_path)
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(ValueError, match="not a whole file of packed events"):
        read(DATASETS["braille"], tmp_path)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"expected braille/data_braille_letters_th10"):
        read(DATASETS["braille"], tmp_path)


def test_published_events_are_read_as_packed_ones_are(tmp_path):
    """A list of trials, each taxel with its times of either polarity; every fifth one tests."""
    trials = [{"letter": "Space", "events": [[[], []] for _ in range(12)]} for _ in range(5)]
    trials += [{"letter": "B", "events": [[[], [0.26, 0.12]]] + [[[], []]] * 11}]
    trials[4]["events"][11][0] += [0.0, 1.3]
    file = tmp_path / "braille" / "data_braille_letters_th10"
    file.parent.mkdir()
    file.write_bytes(pickle.dumps(trials))
    with pytest.raises(ValueError, match="data_braille_letters_th10 is not as published"):
        read(DATASETS["braille"], tmp_path)
    train, test = read(published("braille"), tmp_path)
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 0, 0, 0, 2], [0])
    assert test.pixels[0].nonzero().tolist() == [[0, 0, 11, 0], [26, 0, 11, 0]]
    assert train.pixels.nonzero().tolist() == [[4, 2, 1, 0, 0], [4, 5, 1, 0, 0]]
