"""Lock: a run folder belongs to one process at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from spikewire import distributed

try:
    import fcntl
except ImportError:  # a system without such locks
    fcntl = None  # type: ignore[assignment]


class Busy(ValueError):  # noqa: N818 - it says what the folder is
    """Another process is at work in the run folder."""


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Hold a run folder, made if absent, against other processes; left empty, it goes again.

    Of the processes that train one network, the first holds it for all. The lock leaves no file,
    and the system frees that of a process that was killed.

    Raises:
        Busy: if another process holds it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place, alone(Path(place) / "run"):
    ...     (Path(place) / "run").is_dir()
    True
    """
    first = distributed.rank() == 0
    with ExitStack() as undo:
        if distributed.agree(first and not _held(out, undo)):
            raise Busy(f"another process is at work in {out}: wait for it, or give another --out")
        yield


def _held(out: Path, undo: ExitStack) -> bool:
    """Whether this process has now got the folder."""
    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    if fcntl is not None and not _locked(out, undo):
        return False
    for folder in reversed(missing):  # last of all, so that they go while the lock is held
        undo.callback(_remove_empty, folder)
    return True


def _locked(out: Path, undo: ExitStack) -> bool:
    """Whether this process has now got the lock of the folder, or there are no locks."""
    assert fcntl is not None
    number = os.open(out, os.O_RDONLY)
    undo.callback(os.close, number)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    undo.callback(fcntl.flock, number, fcntl.LOCK_UN)  # a child may have the folder open as well
    # whoever held it a moment ago may have removed the folder that was opened here
    return out.exists() and os.path.samestat(os.fstat(number), out.stat())


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
