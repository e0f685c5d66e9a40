"""Formats: what a run leaves on disk, without a pickle anywhere.

Tensors go into safetensors, the rest into JSON. Every file is written beside its place, synced and
renamed, so that a reader never sees half of one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as decode
from safetensors.torch import save as encode
from torch import Tensor, nn

from spikewire.masks import pack, unpack

_TENSOR = "$tensor"
_MANIFEST = "checkpoint.json"
_SPARSE = "spikewire-sparse-1"
_PLACES = 2**31  # positions are int32


def write(path: Path, content: bytes) -> None:
    """Put a file in place in one step: temporary file, fsync, rename.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(Path(folder) / "a" / "b.txt", b"hello")
    ...     (Path(folder) / "a" / "b.txt").read_bytes()
    b'hello'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON that other programs can read: no NaN, UTF-8, a newline at the end."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    write(path, f"{text}\n".encode())


def save_checkpoint(folder: Path, state: Mapping[str, Any], label: str) -> None:
    """Write nested dicts of tensors and plain values; the manifest comes last.

    Until the manifest is replaced, the checkpoint before is the valid one. What it no longer names
    is deleted.

    Args:
        folder: of the checkpoint.
        state: nested dicts and lists of tensors, numbers, texts, None.
        label: part of the file's name, different for each checkpoint.
    """
    tensors: dict[str, Tensor] = {}
    manifest = {"tensors": f"checkpoint-{label}.safetensors", "state": _strip(state, "", tensors)}
    write(folder / manifest["tensors"], encode(tensors))
    write_json(folder / _MANIFEST, manifest)
    for old in folder.glob("*checkpoint-*"):
        if old.name != manifest["tensors"]:
            old.unlink()


def load_checkpoint(folder: Path) -> Any:
    """What `save_checkpoint` last completed, or None if there is none.

    Raises:
        ValueError: if a file is damaged.
    """
    manifest = folder / _MANIFEST
    if not manifest.exists():
        return None
    try:
        record = json.loads(manifest.read_bytes())
        file = folder / Path(record["tensors"]).name
        return _fill(record["state"], decode(file.read_bytes()))
    except (SafetensorError, json.JSONDecodeError, KeyError, TypeError, OSError) as error:
        raise ValueError(
            f"{manifest} or the file it names is damaged ({error}): delete {folder} to start the "
            "run again"
        ) from error


def remove_checkpoint(folder: Path) -> None:
    """Delete a checkpoint: the manifest first, so that no half of one remains valid."""
    (folder / _MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _strip(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[path] = _stored(value)
        return {_TENSOR: path}
    if isinstance(value, Mapping):
        return {str(key): _strip(part, f"{path}/{key}", tensors) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_strip(part, f"{path}/{i}", tensors) for i, part in enumerate(value)]
    return value


def _fill(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if set(value) == {_TENSOR}:
            # torch's own allocation: results must not depend on how the file was aligned
            return tensors[value[_TENSOR]].clone()
        return {key: _fill(part, tensors) for key, part in value.items()}
    if isinstance(value, list):
        return [_fill(part, tensors) for part in value]
    return value


def _stored(value: Tensor) -> Tensor:
    """A copy, since safetensors refuses tensors that share memory."""
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def save_dense(path: Path, model: nn.Module) -> int:
    """Write the state_dict as it is, zeros included; returns the file's size in bytes."""
    content = encode({name: _stored(value) for name, value in model.state_dict().items()})
    write(path, content)
    return len(content)


def save_sparse(path: Path, model: nn.Module, masks: Mapping[str, Tensor]) -> int:
    """Write only the surviving weights of masked tensors; returns the file's size in bytes.

    A masked tensor ``w`` becomes ``w.values`` (surviving weights in row-major order) and either
    ``w.bits`` (its mask, eight entries to a byte) or ``w.places`` (int32 positions), whichever is
    smaller. Everything else, and what has too few zeros to gain, is stored as it is. `load_sparse`
    reads it back.
    """
    tensors: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for name, value in model.state_dict().items():
        value = _stored(value)
        alive = int(masks[name].sum()) if name in masks else value.numel()
        if value.element_size() * (value.numel() - alive) <= value.numel() / 8:
            tensors[name] = value  # a mask would cost more than the zeros
            continue
        mask = masks[name].cpu()
        shapes[name] = list(value.shape)
        tensors[f"{name}.values"] = value[mask]
        if 4 * alive < mask.numel() / 8:
            tensors[f"{name}.places"] = mask.flatten().nonzero().squeeze(1).int()
        else:
            tensors[f"{name}.bits"] = pack(mask)
    # one entry: with several, their order in the file would be a matter of chance
    content = encode(tensors, metadata={_SPARSE: json.dumps(shapes)})
    write(path, content)
    return len(content)


def load_sparse(path: Path) -> dict[str, Tensor]:
    """The state_dict of a file that `save_sparse` wrote, zeros filled in.

    Raises:
        ValueError: if the file is not of this format or does not fit together.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        for name, shape in json.loads(metadata[_SPARSE]).items():
            tensors[name] = _dense(name, tuple(shape), tensors)
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is no sparse network of spikewire ({error}): give a file that save_sparse "
            "wrote, such as model.sparse.safetensors of a run"
        ) from error
    return tensors


def _dense(name: str, shape: tuple[int, ...], tensors: dict[str, Tensor]) -> Tensor:
    """Fill the zeros in; sizes are checked before anything of the claimed shape is made."""
    values, size = tensors.pop(f"{name}.values"), torch.Size(shape).numel()
    if (places := tensors.pop(f"{name}.places", None)) is None:
        places = unpack(tensors.pop(f"{name}.bits"), shape).flatten().nonzero().squeeze(1)
    fits = len(places) == len(values) and size < _PLACES
    if not fits or (len(places) and not 0 <= int(places.min()) <= int(places.max()) < size):
        raise ValueError(f"{name}: places and values of the sparse file do not fit together")
    dense = values.new_zeros(size)
    dense[places.long()] = values
    return dense.view(shape)
