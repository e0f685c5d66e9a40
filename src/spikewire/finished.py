"""Finished: what is done with a run that is: its network measured, exported, compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from spikewire import config, facts, formats
from spikewire.config import Recipe
from spikewire.data import Batches, Data, load
from spikewire.measure import Report, measure
from spikewire.provenance import provenance
from spikewire.runtime import SparseNetwork, c99, compare, file, program_of

DENSE, SPARSE = "model.safetensors", "model.sparse.safetensors"
COMPACT = "model.compact.safetensors"


def finished(out: Path) -> bool:
    """Whether a run folder holds a finished run.

    >>> finished(Path("no-such-folder"))
    False
    """
    return all((out / name).is_file() for name in ("run.toml", "report.json"))


def kept(epoch: int) -> str:
    """The file in which a run keeps its network after an epoch.

    >>> kept(20)
    'epoch-020.safetensors'
    """
    return f"epoch-{epoch:03}.safetensors"


def recipe_of(out: Path) -> Recipe:
    """The recipe that a run folder holds, with defaults for what it did not know.

    Raises:
        ValueError: if its run.toml is none, naming the file.
    """
    file = out / "run.toml"
    told = config.table("run", str(file), {})
    try:
        return config.recipe(told)
    except ValueError as error:
        raise ValueError(
            f"{file} is no recipe: {error}; restore the file, or give another folder"
        ) from error


def load_data(recipe: Recipe, root: Path | str | None) -> Data:
    """The recipe's data set, split by its seed."""
    chosen = recipe.data
    return load(
        chosen.name,
        root,
        validation=chosen.validation,
        fraction=chosen.fraction,
        test=chosen.test,
        seed=recipe.seed,
        download=chosen.download,
    )


def measured(out: Path, *, root: Path | str | None = None, batch: int = 500) -> Report:
    """Measure the network of a finished run again, on its test data.

    Raises:
        ValueError: if the run is not finished.
    """
    chosen, model, data = trained(out, root)
    test = Batches(data.test, batch, data.mean, data.std, shuffle=False)
    return measured_files(chosen, out, model, test)


def export(
    out: Path,
    to: Path,
    *,
    root: Path | str | None = None,
    precision: file.Precision = "float32",
) -> Path:
    """Write the network of a finished run as a file, or as C if the last part of `to` is "c".

    Args:
        out: the run folder.
        to: ``*.spikewire`` for `runtime.load` and ``spikewire run``, or a folder called ``c``.
        root: folder of the data sets, as of `run`.
        precision: of weights: "float32", "float16" (not in C) or "int8".

    Raises:
        ValueError: if the run is not finished, `to` is neither, or the engine cannot run the
            network.
    """
    if to.suffix != ".spikewire" and to.name != "c":
        raise ValueError(f"--to is {to}: give a file NAME.spikewire, or a folder called c")
    recipe, model, data = trained(out, root)
    report = facts.read(out).report
    test = Batches(data.test, 2, data.mean, data.std, shuffle=False)
    samples, _ = next(iter(test))
    program = program_of(model, samples)
    if to.name == "c":
        if precision == "float16":
            raise ValueError("precision is float16, which C99 does not have: give float32 or int8")
        given = samples if program.input.sequence else samples[None]
        return c99.write(to, program, precision=precision, samples=given.numpy())
    told = {
        "data": {"name": data.name, "mean": data.mean, "std": data.std, "classes": data.classes},
        "method": recipe.dump()["method"]["name"],
        "network": recipe.network.name,
        "seed": recipe.seed,
        "trained": report.get("commit"),
        "versions": provenance(torch.device("cpu"))["versions"],
    }
    file.save(to, program, precision=precision, facts=told)
    return to


def compared(
    network: Path, *, root: Path | str | None = None, batch: int = 500, threads: int | None = None
) -> dict[str, Any]:
    """Run an exported network on its test data, sparse and dense, as `runtime.compare` does.

    Args:
        network: a file that `export` wrote.
        root: folder of the data sets, as of `run`.
        batch: samples per batch; times are those of one sample at a time.
        threads: of both; None for as many as torch has.

    Raises:
        ValueError: if the file is damaged, or does not say which data it is for.
        FileNotFoundError: if there is no such file, or its data is not there.
    """
    if network.is_dir():
        raise ValueError(f"{network} is a folder: give a file NAME.spikewire that export wrote")
    program, about = file.load(network)
    try:
        told = _DATA.validate_python(about.get("data"))
    except ValidationError:
        raise ValueError(f"{network} does not say which data it is for: export it again") from None
    test = load(told["name"], root, validation=0.0).test
    channels = test.pixels.shape[-3]
    if len(told["mean"]) != channels or len(told["std"]) != channels:
        raise ValueError(f"{network} is for images with {len(told['mean'])} channels")
    quick = SparseNetwork(program, threads)
    torch.set_num_threads(quick.threads)
    batches = Batches(test, batch, tuple(told["mean"]), tuple(told["std"]), shuffle=False)
    found = compare(quick, batches)
    return found.as_dict() | {"file": str(network), "bytes": network.stat().st_size}


class _OfData(TypedDict):
    """What a network's file says of its data."""

    name: str
    mean: list[float]
    std: list[float]
    classes: list[str]


_DATA = TypeAdapter(_OfData)


def trained(out: Path, root: Path | str | None) -> tuple[Recipe, nn.Module, Data]:
    """Recipe, network and data of a finished run.

    Args:
        out: the run folder.
        root: folder of the data sets, as of `run`.

    Raises:
        ValueError: if the run is not finished.
    """
    chosen, model = network_of(out)
    return chosen, model, load_data(chosen, root)


def network_of(out: Path) -> tuple[Recipe, nn.Module]:
    """Recipe and network of a finished run.

    Raises:
        ValueError: if the run is not finished, or its files do not fit the network.
    """
    if not finished(out):
        raise ValueError(f"{out} holds no finished run: train it first, or give another folder")
    chosen, file = recipe_of(out), out / DENSE
    model = config.build(chosen.network)
    formats.restore(model, formats.load_weights(file), str(file), edited(chosen))
    return chosen, model


def edited(recipe: Recipe) -> str:
    """How to mend files that do not fit the network of their own recipe.

    >>> edited(Recipe())
    'if network tiny was edited since, put it back, or train it anew in another folder'
    """
    name = recipe.network.name
    return f"if network {name} was edited since, put it back, or train it anew in another folder"


def measured_files(recipe: Recipe, out: Path, model: nn.Module, test: Batches) -> Report:
    """Measure a network whose files have been written: bytes are the sizes of those.

    Args:
        recipe, out: of the run that wrote them.
        model: the network.
        test: batches to measure it on.

    Raises:
        FileNotFoundError: if the run has not written them.
    """
    return replace(
        measure(model, test, only=recipe.only or None),
        bytes_dense=(out / DENSE).stat().st_size,
        bytes_sparse=(out / SPARSE).stat().st_size,
    )
