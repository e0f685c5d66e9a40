"""TensorBoard: the records of a run as scalars, for those who watch many at once."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def check() -> None:
    """Refuse to begin without TensorBoard.

    Raises:
        ValueError: if it is not installed.
    """
    if find_spec("tensorboard") is None:
        raise ValueError("TensorBoard is not installed: pip install 'spikewire[tensorboard]'")


def log(out: Path, record: dict[str, Any]) -> None:
    """Write one epoch's record under ``OUT/tensorboard``.

    >>> import tempfile
    >>> record = {"epoch": 1, "loss": 0.5, "accuracy": {"test": 90.0}, "layers": []}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log(Path(folder), record)
    ...     len(list((Path(folder) / "tensorboard").iterdir()))
    1
    """
    writer = _writer(out / "tensorboard")
    for name in ("loss", "lr", "sparsity", "firing_rate", "seconds"):
        if record.get(name) is not None:
            writer.add_scalar(name, record[name], record["epoch"])
    for part, value in record["accuracy"].items():
        if value is not None:
            writer.add_scalar(f"accuracy/{part}", value, record["epoch"])
    for layer in record["layers"]:
        writer.add_scalar(
            f"connectivity/{layer['name']}", layer["alive"] / layer["synapses"], record["epoch"]
        )
    writer.flush()


@cache
def _writer(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))
