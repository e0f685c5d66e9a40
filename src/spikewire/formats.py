"""Formats: what a run leaves on disk, without a pickle anywhere.

Tensors go into safetensors, the rest into JSON. Every file is written beside its place, synced and
renamed, so that a reader never sees half of one.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import NonNegativeInt, TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as decode
from safetensors.torch import load_file
from safetensors.torch import save as encode
from torch import Tensor, nn

from spikewire.masks import check_masks, pack, unpack

_TENSOR = "$tensor"
_MANIFEST = "checkpoint.json"
_SPARSE = "spikewire-sparse-1"
# Of all masked tensors together: no file may ask for more memory than a machine has.
_MOST_NUMBERS = 2**28
_SHAPES = TypeAdapter(dict[str, list[NonNegativeInt]])


def write(path: Path | str, content: bytes) -> None:
    """Put a file in place in one step: temporary file, fsync, rename.

    Args:
        path: of the file; folders above it that are missing are made.
        content: all of its bytes.

    Raises:
        OSError: if the place cannot be written to.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(Path(folder) / "a" / "b.txt", b"hello")
    ...     (Path(folder) / "a" / "b.txt").read_bytes()
    b'hello'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # of a name of its own: others may be writing the same file
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON that other programs can read: no NaN, UTF-8, a newline at the end.

    Args:
        path: of the file; what was there is replaced, in one step.
        value: nested dicts and lists of finite numbers, texts, bools, None.

    Raises:
        ValueError: if a number is NaN or infinite; the file is then left as it was.
        TypeError: if JSON has no form for a value, such as a tensor.
        OSError: if the place cannot be written to.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_json(Path(folder) / "a.json", {"sparsity": 0.9, "seed": None})
    ...     print((Path(folder) / "a.json").read_text(), end="")
    {
     "sparsity": 0.9,
     "seed": null
    }
    """
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    write(path, f"{text}\n".encode())


def save_checkpoint(folder: Path, state: Mapping[str, Any], label: str) -> None:
    """Write nested dicts of tensors and plain values; the manifest comes last.

    Until the manifest is replaced, the checkpoint before is the valid one. Then the tensors that
    it no longer names are deleted.

    Args:
        folder: of the checkpoint; it is made if it is missing.
        state: nested dicts and lists of tensors of any shape, finite numbers, texts, bools, None.
            Keys come back as texts, tuples as lists, tensors on the CPU.
        label: part of the file's name, different for each checkpoint of the folder.

    Raises:
        ValueError: if a number outside of the tensors is NaN or infinite.
        TypeError: if a value is none of these.
        OSError: if the folder cannot be written to.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_checkpoint(Path(folder), {"step": 7, "mask": torch.tensor([True, False])}, "7")
    ...     sorted(path.name for path in Path(folder).iterdir())
    ['checkpoint-7.safetensors', 'checkpoint.json']
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

    Args:
        folder: of the checkpoint.

    Raises:
        ValueError: if a file is damaged, or the tensors that the manifest names are not there.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_checkpoint(Path(folder), {"step": 7, "mask": torch.tensor([True, False])}, "7")
    ...     load_checkpoint(Path(folder)), load_checkpoint(Path(folder) / "other")
    ({'step': 7, 'mask': tensor([ True, False])}, None)
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
    """Delete a checkpoint: the manifest first, so that no half of one remains valid.

    Args:
        folder: of the checkpoint; it goes with everything in it, and may be missing already.

    Raises:
        OSError: if the manifest cannot be deleted.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_checkpoint(Path(folder) / "checkpoint", {"step": 7}, "7")
    ...     remove_checkpoint(Path(folder) / "checkpoint")
    ...     (Path(folder) / "checkpoint").exists()
    False
    """
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


def save_dense(path: Path | str, model: nn.Module) -> int:
    """Write the state_dict as it is, zeros included; returns the file's size in bytes.

    Args:
        path: of the safetensors file; what was there is replaced, in one step.
        model: any network, on any device.

    Raises:
        OSError: if the place cannot be written to.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "model.safetensors"
    ...     save_dense(path, nn.Linear(2, 1)) == path.stat().st_size
    True
    """
    content = encode({name: _stored(value) for name, value in _tensors_of(model)})
    write(path, content)
    return len(content)


def _tensors_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The state_dict without what a module keeps besides tensors, which no file here can hold."""
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            yield name, value


def save_sparse(path: Path | str, model: nn.Module, masks: Mapping[str, Tensor]) -> int:
    """Write only the surviving weights of masked tensors; returns the file's size in bytes.

    A masked tensor ``w`` becomes ``w.values`` (surviving weights in row-major order) and either
    ``w.bits`` (its mask, eight entries to a byte) or ``w.places`` (int32 positions), whichever is
    smaller: ``b k + min(n / 8, 4 k)`` bytes for k survivors of n weights of b bytes each.
    Everything else, what has too few zeros to gain, ``b (n - k) <= n / 8``, and what would make
    more than 2**28 numbers of this kind, is stored as it is. `load_sparse` reads it back.

    Args:
        path: of the safetensors file; what was there is replaced, in one step.
        model: any network, on any device; weights that its masks leave out count as 0.
        masks: bool, shaped like the tensors of the state_dict that they are named after. Other
            names are passed over.

    Raises:
        ValueError: if a mask does not fit its tensor; nothing is written then.
        OSError: if the place cannot be written to.

    >>> import tempfile
    >>> layer = nn.Linear(100, 100, bias=False)
    >>> mask = torch.eye(100, dtype=torch.bool)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     dense = save_dense(Path(folder) / "dense", layer)
    ...     dense > 40_000, save_sparse(Path(folder) / "sparse", layer, {"weight": mask}) < 1200
    (True, True)
    """
    tensors: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    state = dict(_tensors_of(model))
    check_masks("masks", {name: mask for name, mask in masks.items() if name in state}, state)
    for name, value in state.items():
        value = _stored(value)
        mask = masks[name].cpu() if name in masks else torch.ones(value.shape, dtype=torch.bool)
        alive = int(mask.sum())
        much = value.numel() + sum(map(math.prod, shapes.values())) > _MOST_NUMBERS
        if much or value.element_size() * (value.numel() - alive) <= value.numel() / 8:
            tensors[name] = value.masked_fill_(~mask, 0)  # a mask costs more than the zeros
            continue
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


def load_sparse(path: Path | str) -> dict[str, Tensor]:
    """The state_dict of a file that `save_sparse` wrote, zeros filled in.

    Args:
        path: of the file.

    Raises:
        ValueError: if the file is not of this format or does not fit together.
        FileNotFoundError: if there is no such file.

    >>> import tempfile
    >>> layer, mask = nn.Linear(2, 2, bias=False), torch.eye(2, dtype=torch.bool)
    >>> _ = nn.init.ones_(layer.weight)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = save_sparse(f"{folder}/sparse", layer, {"weight": mask})
    ...     load_sparse(f"{folder}/sparse")["weight"].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        shapes = _SHAPES.validate_json(metadata[_SPARSE])
        if sum(map(math.prod, shapes.values())) > _MOST_NUMBERS:
            raise ValueError(f"it claims more than {_MOST_NUMBERS} numbers")
        for name, shape in shapes.items():
            tensors[name] = _dense(name, tuple(shape), tensors)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is no sparse network of spikewire ({error}): give a file that save_sparse "
            "wrote, such as model.sparse.safetensors of a run"
        ) from error
    return tensors


def save_masks(path: Path | str, masks: Mapping[str, Tensor]) -> None:
    """Write masks as they are, a byte for each synapse; `load_weights` reads them back.

    Args:
        path: of the safetensors file; what was there is replaced, in one step.
        masks: bool by name, of any shape and on any device.

    Raises:
        OSError: if the place cannot be written to.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_masks(f"{folder}/masks.safetensors", {"weight": torch.tensor([True, False])})
    ...     load_weights(f"{folder}/masks.safetensors")
    {'weight': tensor([ True, False])}
    """
    write(path, encode({name: _stored(mask) for name, mask in masks.items()}))


def load_weights(path: Path | str) -> dict[str, Tensor]:
    """The state_dict in a file: of a run, dense or sparse, or what ``torch.save`` wrote.

    Args:
        path: ``*.safetensors``, or else a file that holds a state_dict alone; nothing in it is run.

    Raises:
        ValueError: if the file is damaged, or holds something else.
        FileNotFoundError: if there is no such file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"bias": torch.zeros(1)}, f"{folder}/net.pth")
    ...     load_weights(f"{folder}/net.pth")
    {'bias': tensor([0.])}
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                sparse = _SPARSE in (file.metadata() or {})
            return load_sparse(path) if sparse else load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except ValueError:
        raise
    except Exception as error:  # torch.load fails in many ways on what is no file of its own
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path} holds no weights that can be read: {reason}") from error
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        held = ", ".join(map(str, found)) if isinstance(found, Mapping) else type(found).__name__
        raise ValueError(f"{path} is no state_dict, it holds {held}: save model.state_dict() alone")
    return dict(found)


def restore(
    model: nn.Module, state: Mapping[str, Any], source: str, mend: str = "give its own"
) -> None:
    """Give a network the tensors of a state_dict, or say in one sentence what does not fit.

    Args:
        model: any network, on any device.
        state: tensors by name.
        source: where they are from, such as a file, for the message.
        mend: what to do about it, for the message.

    Raises:
        ValueError: if they are of another network.

    >>> restore(nn.Linear(1, 2), nn.Linear(1, 3).state_dict(), "net.pth")
    Traceback (most recent call last):
    ...
    ValueError: net.pth is of another network: weight is of shape (3, 1), not (2, 1); bias is of \
shape (3,), not (2,): give its own
    """
    own = model.state_dict()
    wrong = [
        f"{name} is of shape {tuple(state[name].shape)}, not {tuple(value.shape)}"
        for name, value in own.items()
        if name in state and isinstance(value, Tensor) and state[name].shape != value.shape
    ]
    wrong += [f"{name} is missing" for name in own if name not in state]
    wrong += [f"{name} is none of the network's" for name in state if name not in own]
    if wrong:
        raise ValueError(
            f"{source} is of another network: {'; '.join(wrong[:3])}"
            + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else "")
            + f": {mend}"
        )
    model.load_state_dict(state)


def _dense(name: str, shape: tuple[int, ...], tensors: dict[str, Tensor]) -> Tensor:
    """Fill the zeros in; sizes are checked before anything of the claimed shape is made."""
    values, size = tensors.pop(f"{name}.values"), torch.Size(shape).numel()
    if (places := tensors.pop(f"{name}.places", None)) is None:
        places = unpack(tensors.pop(f"{name}.bits"), shape).flatten().nonzero().squeeze(1)
    whole = not places.is_floating_point() and places.ndim == values.ndim == 1
    fits = whole and len(places) == len(values) and bool((places.diff() > 0).all())
    if not fits or (len(places) and not 0 <= int(places[0]) <= int(places[-1]) < size):
        raise ValueError(f"{name}: places and values of the sparse file do not fit together")
    dense = values.new_zeros(size)
    dense[places.long()] = values
    return dense.view(shape)
