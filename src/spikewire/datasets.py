"""The data sets there are, and how their published files are got and read.

A data set is one entry of ``DATASETS``: its classes, a function that reads it from a folder, and
the checksums of the published files. Files are read in the formats of their publishers and
checked before they are parsed.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import math
import os
import pickle
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from zipfile import BadZipFile

import numpy as np
import pooch
import torch
from PIL import Image
from torch import Tensor

from spikewire.spelling import check


@dataclass(frozen=True, eq=False)
class Images:
    """Images, or recordings of events, with their labels.

    Args:
        pixels: uint8 (N, C, H, W); of recordings (N, T, C, H, W), with 255 where an event fell into
            a time step.
        labels: int64 (N,), class numbers from 0.

    Raises:
        ValueError: if types or shapes are not these.

    >>> len(Images(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0])))
    3
    """

    pixels: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim not in (4, 5):
            raise ValueError(
                f"pixels are {self.pixels.dtype} of shape {tuple(self.pixels.shape)}: "
                "give uint8 of shape (N, C, H, W), or (N, T, C, H, W) of recordings"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.pixels.shape[:1]:
            raise ValueError(
                f"labels are {self.labels.dtype} of shape {tuple(self.labels.shape)}: "
                f"give int64 of shape ({len(self.pixels)},), one for each image"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def recordings(self) -> bool:
        """Whether they have time steps."""
        return self.pixels.ndim == 5

    def __getitem__(self, index: Tensor | slice) -> Images:
        """The images at ``index``, in that order."""
        return Images(self.pixels[index], self.labels[index])

    def to(self, device: torch.device | str) -> Images:
        """The same images held on ``device``, which spares a copy for each batch."""
        return Images(self.pixels.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Source:
    """Where a data set comes from and how it is read.

    Args:
        name: its key in `DATASETS`.
        classes: names of the classes, in the order of the labels.
        read: function from this source and the data folder to training and test `Images`; it
            raises ``FileNotFoundError`` if files are missing.
        folder: place of the published files within the data folder.
        url: address at which ``files`` are published, up to the name of the file.
        files: names of the published files, as downloaded; each has a checksum.
        checksums: "algorithm:digest" of files, and of arrays where no file is published.

    >>> def blank(source, root):
    ...     images = Images(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]))
    ...     return images, images[:1]
    >>> train, test = read(Source("blank", ("no", "yes"), blank))
    >>> len(train), len(test)
    (2, 1)
    """

    name: str
    classes: tuple[str, ...]
    read: Callable[[Source, Path], tuple[Images, Images]]
    folder: str = "."
    url: str = ""
    files: tuple[str, ...] = ()
    checksums: Mapping[str, str] = field(default_factory=dict)

    def check(self, name: str, content: bytes | memoryview) -> None:
        """Compare content with its published checksum; without one, anything will do.

        Args:
            name: a key of ``checksums``, or any other.
            content: all bytes of the file or the array.

        Raises:
            ValueError: if ``content`` has not the checksum published for ``name``.

        >>> known = {"a": "md5:5d41402abc4b2a76b9719d911017c592"}
        >>> source = Source("mine", ("no", "yes"), lambda source, root: ..., checksums=known)
        >>> source.check("a", b"hello")
        >>> source.check("a", b"help")
        Traceback (most recent call last):
        ...
        ValueError: mine: a is not as published (its md5 differs): delete the file and get it again
        """
        algorithm, _, digest = self.checksums.get(name, "").partition(":")
        if algorithm and hashlib.new(algorithm, content).hexdigest() != digest:
            raise ValueError(
                f"{self.name}: {name} is not as published (its {algorithm} differs): "
                "delete the file and get it again"
            )


def find(name: str | Source) -> Source:
    """The source called ``name``; a source of your own is given back as it is.

    Raises:
        ValueError: if ``name`` is not a key of ``DATASETS``.

    >>> find("cifar10").classes[:3]
    ('airplane', 'automobile', 'bird')
    """
    if isinstance(name, Source):
        return name
    check("data set", name, DATASETS)
    return DATASETS[name]


def read(
    source: Source, root: str | Path | None = None, *, download: bool = False
) -> tuple[Images, Images]:
    """Read the training and the test images of a data set whole into memory.

    Args:
        source: what to read.
        root: the data folder; by default the environment variable ``SPIKEWIRE_DATA``, or else a
            folder in the user's cache.
        download: get the published files first if they are not there.

    Raises:
        ValueError: if a file is not as published, or a label has no class.
        FileNotFoundError: if the files are not in ``root``.

    >>> train, test = read(DATASETS["digits"])
    >>> len(train), len(test)
    (1438, 359)
    """
    root = _folder(root)
    try:
        parts = source.read(source, root)
    except FileNotFoundError:
        if not download:
            raise
        parts = source.read(source, fetch(source, root))
    for images in parts:
        _check_labels(source, images)
    return parts


def fetch(name: str | Source, root: str | Path | None = None) -> Path:
    """Download the published files of a data set, check them and return the folder they are in.

    Files which are there already, whole, are not downloaded again.

    Args:
        name: a key of ``DATASETS``, or a source of your own.
        root: the data folder, as in :func:`read`.

    Raises:
        ValueError: if a downloaded file is not as published.
        OSError: if the address cannot be reached.

    >>> fetch("digits", "data").name  # part of scikit-learn: nothing to download
    'data'
    """
    source, root = find(name), _folder(root)
    folder = root / source.folder
    for file in source.files:
        known = source.checksums[file]
        try:
            pooch.retrieve(source.url + file, known, fname=file, path=folder)
        except OSError as error:
            raise OSError(
                f"{source.url + file} cannot be had ({error}): put this file into {folder} yourself"
            ) from error
        except ValueError as error:
            raise ValueError(
                f"{source.url + file} has not the published checksum {known}: "
                f"get this file elsewhere and put it into {folder}"
            ) from error
    return root


def split(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Positions of the rest and of a random ``share`` of every class, both ascending.

    Args:
        labels: int64 (N,).
        share: of the images, above 0 and below 1.
        seed: picks the images, at least 0.

    Raises:
        ValueError: if one of the two parts would be empty.

    >>> rest, part = split(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), 0.25, seed=0)
    >>> len(rest), (part < 4).tolist()
    (6, [True, False])
    """
    shuffled = torch.randperm(len(labels), generator=generator("split", seed))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    # Walking through the classes in turn, take an image whenever the share passes a whole number.
    taken = (torch.arange(len(labels) + 1, dtype=torch.float64) * share).round().diff() > 0
    if not taken.any() or taken.all():
        raise ValueError(
            f"a share of {share} of {len(labels)} images leaves one part empty: give another share"
        )
    return by_class[~taken].sort().values, by_class[taken].sort().values


_STREAMS = ("split", "order", "augment")


def generator(stream: str, *numbers: int) -> torch.Generator:
    """A random generator of its own for each stream and each row of numbers.

    Args:
        stream: what it is for: "split", "order" or "augment".
        numbers: such as the seed and the epoch, each at least 0.

    >>> generator("order", 0, 1).initial_seed() == generator("order", 1, 0).initial_seed()
    False
    """
    entropy = np.random.SeedSequence((_STREAMS.index(stream), *numbers))
    return torch.Generator().manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> 1))


def _folder(root: str | Path | None) -> Path:
    root = root or os.environ.get("SPIKEWIRE_DATA") or pooch.os_cache("spikewire")
    return Path(root).expanduser()


def _check_labels(source: Source, images: Images) -> None:
    low, high = images.labels.aminmax()
    if low < 0 or high >= len(source.classes):
        raise ValueError(
            f"{source.name} has labels from {low} to {high}: its {len(source.classes)} classes "
            f"allow 0 to {len(source.classes) - 1}"
        )


def _missing(source: Source, root: Path, expected: str) -> FileNotFoundError:
    download = ", or download it (download=True; on the command line data.download=true)"
    return FileNotFoundError(
        f"{source.name} is not in the folder {root}: expected {expected} there; give the folder "
        "that holds it (root, --data DIR, or the environment variable SPIKEWIRE_DATA)"
        + (download if source.files else "")
    )


def _digits(source: Source, root: Path) -> tuple[Images, Images]:
    """The digits of scikit-learn, 0 to 16 made 0 to 255; a fixed fifth of them is for testing."""
    from sklearn.datasets import load_digits  # takes a second to import, and only needed here

    images, labels = load_digits(return_X_y=True)
    pixels = torch.from_numpy(np.rint(images * (255 / 16)).astype(np.uint8)).reshape(-1, 1, 8, 8)
    digits = Images(pixels, torch.from_numpy(labels).long())
    train, test = split(digits.labels, 0.2, seed=0)
    return digits[train], digits[test]


def _mnist(source: Source, root: Path) -> tuple[Images, Images]:
    """Four idx files, packed with gzip or not, in the source's folder or in ``root`` itself."""
    paths = [_idx_path(source, root, file.removesuffix(".gz")) for file in source.files]
    train, labels, test, test_labels = (_idx(source, path) for path in paths)
    return Images(train[:, None], labels.long()), Images(test[:, None], test_labels.long())


def _idx_path(source: Source, root: Path, name: str) -> Path:
    for folder in (root / source.folder, root):
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    raise _missing(source, root, f"{name} or {name}.gz (or in {source.folder})")


def _idx(source: Source, path: Path) -> Tensor:
    """The bytes of an idx file: 0, 0, type 8, rank, each size in 4 bytes (big end first), bytes."""
    content = path.read_bytes()
    source.check(path.name, content)
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    rank = 3 if "-idx3-" in path.name else 1
    head, body = content[: 4 + 4 * rank], content[4 + 4 * rank :]
    shape = np.frombuffer(head.ljust(4 + 4 * rank, b"\0"), ">u4")[1:].tolist()
    if head[:4] != bytes((0, 0, 8, rank)) or not body or len(body) != math.prod(shape):
        raise ValueError(f"{path} is not a whole idx file of images or labels: get it again")
    return torch.from_numpy(np.frombuffer(body, np.uint8).reshape(shape).copy())


def _cifar(
    source: Source, root: Path, *, train: Sequence[str], test: Sequence[str], labels: bytes
) -> tuple[Images, Images]:
    """The published python batches, in their folder or their archive, or packed as WebP."""
    packed = [root / source.name / file for file in ("train.npz", "test.npz")]
    if all(path.is_file() for path in packed):
        return _packed(source, packed[0]), _packed(source, packed[1])
    contents = _batch_files(source, root, [*train, *test])
    for name, content in contents.items():
        source.check(name, content)
    return _unpickled(contents, train, labels), _unpickled(contents, test, labels)


def _batch_files(source: Source, root: Path, names: Sequence[str]) -> dict[str, bytes]:
    if all((root / name).is_file() for name in names):
        return {name: (root / name).read_bytes() for name in names}
    archive = root / source.files[0]
    if not archive.is_file():
        packed = f"{source.name}/train.npz and test.npz"
        raise _missing(source, root, f"{archive.name}, or {names[0]} and so on, or {packed}")
    source.check(archive.name, archive.read_bytes())
    with tarfile.open(archive, "r|gz") as tar:  # one pass: going back would unpack it again
        return {part.name: _member(tar, part) for part in tar if part.name in names}


def _member(tar: tarfile.TarFile, part: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(part)
    if stream is None:
        raise ValueError(f"{part.name} is not a file in its archive: get the archive again")
    return stream.read()


class _Unpickler(pickle.Unpickler):
    """Builds numpy arrays and plain values only, where a pickle could call any function."""

    admitted: ClassVar = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.admitted:
            return self.admitted[module, name]
        raise ValueError(
            f"a file of the data set asks for {module}.{name}, which the published one does not: "
            "do not trust this file, and get it again"
        )


def _unpickled(contents: Mapping[str, bytes], names: Sequence[str], key: bytes) -> Images:
    parts = [_Unpickler(io.BytesIO(contents[name]), encoding="bytes").load() for name in names]
    pixels = torch.from_numpy(np.concatenate([part[b"data"] for part in parts]))
    labels = torch.tensor([label for part in parts for label in part[key]])
    return Images(pixels.reshape(-1, 3, 32, 32), labels)


def _packed(source: Source, path: Path) -> Images:
    """CIFAR as lossless WebP: strips of images one above the other, as told by ``strip``."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            labels = arrays["label"]
            pixels = _unstrip(arrays["webp"], arrays["sizes"], arrays["strip"])
    except (OSError, KeyError, ValueError, BadZipFile) as error:
        raise ValueError(f"{path} is not a whole file of packed images: get it again") from error
    source.check(f"{path.stem} pixels", pixels.numpy().data)
    source.check(f"{path.stem} labels", labels.tobytes())
    return Images(pixels, torch.from_numpy(labels).long())


def _unstrip(webp: np.ndarray, sizes: np.ndarray, strip: np.ndarray) -> Tensor:
    """Pixels (N, 3, 32, 32) from WebP streams end to end, each a strip of images.

    Args:
        webp: uint8, the streams.
        sizes: bytes of each stream.
        strip: (N,), for each image the strip that holds it, below the earlier ones.
    """
    pixels = np.empty((len(strip), 32, 32, 3), np.uint8)
    streams = np.split(webp, np.cumsum(sizes, dtype=np.int64)[:-1])
    members = np.split(np.argsort(strip, kind="stable"), np.cumsum(np.bincount(strip))[:-1])

    def decode(stream: np.ndarray, images: np.ndarray) -> None:
        with Image.open(io.BytesIO(stream.tobytes()), formats=["WEBP"]) as image:
            pixels[images] = np.asarray(image.convert("RGB")).reshape(-1, 32, 32, 3)

    with ThreadPoolExecutor() as pool:  # decoding leaves the interpreter's lock
        list(pool.map(decode, streams, members))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def _tiny_imagenet(source: Source, root: Path) -> tuple[Images, Images]:
    """The published tree, unpacked or in its archive; its validation part is for testing."""
    place: Any = root / source.name
    if not place.is_dir():
        archive = root / source.files[0]
        if not archive.is_file():
            raise _missing(source, root, f"the folder {source.name} or {archive.name}")
        source.check(archive.name, archive.read_bytes())
        place = zipfile.Path(archive) / source.name
    train = [
        (path, label)
        for label, name in enumerate(source.classes)
        for path in sorted((place / "train" / name / "images").iterdir(), key=str)
    ]
    _check_even(source, place / "train", [label for _, label in train])
    told = (place / "val" / "val_annotations.txt").read_text().splitlines()
    test = [
        (place / "val" / "images" / file, source.classes.index(name))
        for file, name, *_ in (line.split("\t") for line in told)
    ]
    _check_even(source, place / "val", [label for _, label in test])
    return _decoded(train), _decoded(test)


def _check_even(source: Source, place: Any, labels: Sequence[int]) -> None:
    """Refuse a folder whose unpacking was interrupted: its classes are of one size."""
    found = Counter(labels)
    sizes = [found[label] for label in range(len(source.classes))]
    least, most = min(sizes), max(sizes)
    if not least or least != most:
        name = source.classes[sizes.index(least)]
        raise ValueError(
            f"{place} is not whole: class {name} has {least} images, another has {most}: unpack "
            f"{source.files[0]} again"
        )


def _decoded(labelled: Sequence[tuple[Any, int]]) -> Images:
    """Square colour images from their files, all of the size of the first."""

    def decode(path: Any) -> np.ndarray:
        try:
            with Image.open(io.BytesIO(path.read_bytes())) as image:
                return np.asarray(image.convert("RGB"))
        except OSError as error:
            raise ValueError(f"{path} is not a whole image: get it again") from error

    with ThreadPoolExecutor() as pool:  # decoding leaves the interpreter's lock
        pixels = np.stack(list(pool.map(decode, [path for path, _ in labelled])))
    labels = torch.tensor([label for _, label in labelled])
    return Images(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels)


def _braille(source: Source, root: Path) -> tuple[Images, Images]:
    """Touch events in steps of 50 ms, (T, polarity, taxel, 1); every fifth trial of a letter tests.

    Events of a taxel and polarity that share a step are one. The publisher has no split. A packed
    file has, for all trials in turn, ``label`` and ``count`` of events; for all events in turn,
    ``t`` in seconds and ``c`` = 2 taxel + polarity.
    """
    packed, raw = (root / source.folder / file for file in (_BRAILLE_PACKED, *source.files))
    if packed.is_file():
        labels, counts, channels, times = _packed_events(source, packed)
    elif raw.is_file():
        labels, counts, channels, times = _raw_events(source, raw)
    else:
        raise _missing(source, root, f"{source.folder}/{raw.name} or {packed.name}")
    trials = np.repeat(np.arange(len(counts)), counts)
    steps = np.minimum(times / _BRAILLE_STEP, _BRAILLE_STEPS - 1).astype(np.int64)
    pixels = np.zeros((len(counts), _BRAILLE_STEPS, 2, 12, 1), np.uint8)
    pixels[trials, steps, channels % 2, channels // 2] = 255
    images = Images(torch.from_numpy(pixels), torch.from_numpy(labels).long())
    order = np.argsort(labels, kind="stable")
    nth = np.empty(len(labels), np.int64)  # of its letter, from 0
    nth[order] = np.concatenate([np.arange(n) for n in np.bincount(labels)])
    test = torch.from_numpy(nth % 5 == 4)
    return images[test.logical_not().nonzero()[:, 0]], images[test.nonzero()[:, 0]]


def _packed_events(source: Source, path: Path) -> list[np.ndarray]:
    """Arrays of an npz file within xz: label, count, c and t, as far as they fit together."""
    try:
        with lzma.open(path) as file, np.load(io.BytesIO(file.read()), allow_pickle=False) as held:
            arrays = {name: held[name] for name in ("label", "count", "c", "t")}
    except (OSError, EOFError, lzma.LZMAError, KeyError, ValueError, BadZipFile) as error:
        raise ValueError(f"{path} is not a whole file of packed events: get it again") from error
    for name, array in arrays.items():
        source.check(name, array.tobytes())
    labels, counts, channels, times = arrays.values()
    if not (
        len(labels) == len(counts)
        and len(channels) == len(times) == counts.sum()
        and channels.max(initial=0) < 24
        and times.min(initial=0.0) >= 0.0
    ):
        raise ValueError(f"{path} has events of other sizes than 12 taxels have: get it again")
    return [labels, counts, channels, times]


def _raw_events(source: Source, path: Path) -> list[np.ndarray]:
    """The same of the published list of trials: ``letter``, and ``events[taxel][polarity]``."""
    content = path.read_bytes()
    source.check(path.name, content)
    trials = _Unpickler(io.BytesIO(content)).load()
    channels = [[times for taxel in trial["events"] for times in taxel] for trial in trials]
    sizes = np.array([[len(times) for times in each] for each in channels])
    return [
        np.array([source.classes.index(trial["letter"].lower()) for trial in trials]),
        sizes.sum(1),
        np.repeat(np.tile(np.arange(sizes.shape[1]), len(sizes)), sizes.ravel()),
        np.array([time for each in channels for times in each for time in times]),
    ]


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_IDX = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_DIGITS = tuple("0123456789")
_FASHION_CLASSES = _names("""
    t-shirt/top trouser pullover dress coat sandal shirt sneaker bag ankle_boot
""")
_CIFAR10_CLASSES = _names("""
    airplane automobile bird cat deer dog frog horse ship truck
""")
_CIFAR100_CLASSES = _names("""
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
    crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
    keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse
    mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy
    porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper
    snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television
    tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
""")

# WordNet numbers, as the published folders are called
_TINY_IMAGENET_CLASSES = _names("""
    n01443537 n01629819 n01641577 n01644900 n01698640 n01742172 n01768244 n01770393 n01774384
    n01774750 n01784675 n01855672 n01882714 n01910747 n01917289 n01944390 n01945685 n01950731
    n01983481 n01984695 n02002724 n02056570 n02058221 n02074367 n02085620 n02094433 n02099601
    n02099712 n02106662 n02113799 n02123045 n02123394 n02124075 n02125311 n02129165 n02132136
    n02165456 n02190166 n02206856 n02226429 n02231487 n02233338 n02236044 n02268443 n02279972
    n02281406 n02321529 n02364673 n02395406 n02403003 n02410509 n02415577 n02423022 n02437312
    n02480495 n02481823 n02486410 n02504458 n02509815 n02666196 n02669723 n02699494 n02730930
    n02769748 n02788148 n02791270 n02793495 n02795169 n02802426 n02808440 n02814533 n02814860
    n02815834 n02823428 n02837789 n02841315 n02843684 n02883205 n02892201 n02906734 n02909870
    n02917067 n02927161 n02948072 n02950826 n02963159 n02977058 n02988304 n02999410 n03014705
    n03026506 n03042490 n03085013 n03089624 n03100240 n03126707 n03160309 n03179701 n03201208
    n03250847 n03255030 n03355925 n03388043 n03393912 n03400231 n03404251 n03424325 n03444034
    n03447447 n03544143 n03584254 n03599486 n03617480 n03637318 n03649909 n03662601 n03670208
    n03706229 n03733131 n03763968 n03770439 n03796401 n03804744 n03814639 n03837869 n03838899
    n03854065 n03891332 n03902125 n03930313 n03937543 n03970156 n03976657 n03977966 n03980874
    n03983396 n03992509 n04008634 n04023962 n04067472 n04070727 n04074963 n04099969 n04118538
    n04133789 n04146614 n04149813 n04179913 n04251144 n04254777 n04259630 n04265275 n04275548
    n04285008 n04311004 n04328186 n04356056 n04366367 n04371430 n04376876 n04398044 n04399382
    n04417672 n04456115 n04465501 n04486054 n04487081 n04501370 n04507155 n04532106 n04532670
    n04540053 n04560804 n04562935 n04596742 n04597913 n06596364 n07579787 n07583066 n07614500
    n07615774 n07695742 n07711569 n07715103 n07720875 n07734744 n07747607 n07749582 n07753592
    n07768694 n07871810 n07873807 n07875152 n07920052 n09193705 n09246464 n09256479 n09332890
    n09428293 n12267677
""")

_BRAILLE_CLASSES = ("space", *"abcdefghijklmnopqrstuvwxyz")
_BRAILLE_RAW = "data_braille_letters_th10"
_BRAILLE_PACKED = "braille_letters_th10.npz.xz"
_BRAILLE_STEP, _BRAILLE_STEPS = 0.05, 27  # seconds; the last event is at 1.3

_BRAILLE_CHECKSUMS = {
    _BRAILLE_RAW: "sha256:9c74da8eb0dff3055363853d3c41d336847a6f5d833067924484363774938473",
    "label": "sha256:47a0bef544bfa6a3580e30ee5c9e05c673542bfd6f20c25c898144dc807172f7",
    "count": "sha256:e4b326227ecf3bd43cc391670200958b1e56f49890ac2f3be3ead7ef609fce61",
    "c": "sha256:03ad81b2c917ef9baf94ffb9208fbbd323fc4b976ed955cfab0b80bb23cd9a76",
    "t": "sha256:2764455c97aa7e724d6efa543826c5f1b61686bf7e4dcaf195c3494fc85a877f",
}
_MNIST_CHECKSUMS = {
    "train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
    "train-images-idx3-ubyte": "md5:6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "md5:a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "md5:2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "md5:27ae3e4e09519cfbb04c329615203637",
}
_FASHION_CHECKSUMS = {
    "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
    "train-images-idx3-ubyte": "md5:f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "md5:9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "md5:8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "md5:15d484375f8d13e6eb1aabb0c3f46965",
}
_CIFAR10_CHECKSUMS = {
    "cifar-10-python.tar.gz": "md5:c58f30108f718f92721af3b95e74349a",
    "cifar-10-batches-py/data_batch_1": "md5:c99cafc152244af753f735de768cd75f",
    "cifar-10-batches-py/data_batch_2": "md5:d4bba439e000b95fd0a9bffe97cbabec",
    "cifar-10-batches-py/data_batch_3": "md5:54ebc095f3ab1f0389bbae665268c751",
    "cifar-10-batches-py/data_batch_4": "md5:634d18415352ddfa80567beed471001a",
    "cifar-10-batches-py/data_batch_5": "md5:482c414d41f54cd18b22e5b47cb7c3cb",
    "cifar-10-batches-py/test_batch": "md5:40351d587109b95175f43aff81a1287e",
    "train pixels": "sha256:9d5c2eddadb0deff02c14c350c0385aab7b1d5ff1edfeb4997c8dc8644960111",
    "test pixels": "sha256:177777c33ba79825320efa646ad04a94bdc3c80e4ebe3bd21724f8cdfd4b9d56",
    "train labels": "sha256:2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "test labels": "sha256:cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}
_CIFAR100_CHECKSUMS = {
    "cifar-100-python.tar.gz": "md5:eb9058c3a382ffc7106e4002c42a8d85",
    "cifar-100-python/train": "md5:16019d7e3df5f24257cddd939b257f8d",
    "cifar-100-python/test": "md5:f0ef6b0ae62326f3e7ffdfab6717acfc",
    "train pixels": "sha256:de64658905c6b161606e3649ddafce7cf86c7634a0cf9116d518e64ef46a33c5",
    "test pixels": "sha256:83c56492b2c11211ad1bb2dbd4f2eef4170a0441e41a41f3039c3144b1f5a511",
    "train labels": "sha256:9f11b9f97aad759ba6df0a33e3218b01d8deaf4ed3a14aa1185d69b9ad7ebcb3",
    "test labels": "sha256:4dad7d09c7c97d33f6cb928d705cf4196221316fd6e31bdd978a08ed9103ee0b",
}

_SOURCES = (
    Source("digits", _DIGITS, _digits),
    Source(
        "mnist",
        _DIGITS,
        _mnist,
        folder="MNIST/raw",
        url="https://ossci-datasets.s3.amazonaws.com/mnist/",
        files=_IDX,
        checksums=_MNIST_CHECKSUMS,
    ),
    Source(
        "fashion-mnist",
        _FASHION_CLASSES,
        _mnist,
        folder="FashionMNIST/raw",
        url="https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        files=_IDX,
        checksums=_FASHION_CHECKSUMS,
    ),
    Source(
        "cifar10",
        _CIFAR10_CLASSES,
        partial(
            _cifar,
            train=tuple(f"cifar-10-batches-py/data_batch_{number}" for number in range(1, 6)),
            test=("cifar-10-batches-py/test_batch",),
            labels=b"labels",
        ),
        url="https://www.cs.toronto.edu/~kriz/",
        files=("cifar-10-python.tar.gz",),
        checksums=_CIFAR10_CHECKSUMS,
    ),
    Source(
        "cifar100",
        _CIFAR100_CLASSES,
        partial(
            _cifar,
            train=("cifar-100-python/train",),
            test=("cifar-100-python/test",),
            labels=b"fine_labels",
        ),
        url="https://www.cs.toronto.edu/~kriz/",
        files=("cifar-100-python.tar.gz",),
        checksums=_CIFAR100_CHECKSUMS,
    ),
    Source(
        "tiny-imagenet-200",
        _TINY_IMAGENET_CLASSES,
        _tiny_imagenet,
        url="https://cs231n.stanford.edu/",
        files=("tiny-imagenet-200.zip",),
        checksums={"tiny-imagenet-200.zip": "md5:90528d7ca1a48142e341f4ef8d21d0de"},
    ),
    # Mueller-Cleve et al., 2022, "Braille letter reading", doi:10.5281/zenodo.7050094: the events
    # of threshold 10, which the authors also have beside their code
    Source(
        "braille",
        _BRAILLE_CLASSES,
        _braille,
        folder="braille",
        url="https://raw.githubusercontent.com/miskarous/tactile_braille_reading/"
        "30e2adf4872886d05755e964476a8acfa4f855c0/notebooks/data/",
        files=(_BRAILLE_RAW,),
        checksums=_BRAILLE_CHECKSUMS,
    ),
)

DATASETS: dict[str, Source] = {source.name: source for source in _SOURCES}
