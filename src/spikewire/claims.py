"""Claims: which of several workers that share a folder does what, also when one of them dies.

A claim is a file, ``NAME/0001``, that can be made once only: of all who try, one succeeds. While
its owner lives, a thread renews the file's time: its heartbeat. A claim without a heartbeat for
`patience` seconds is stale, and whoever makes ``NAME/0002`` takes over; again one succeeds. Nothing
is deleted, so nobody can take over from the wrong one.

Whoever waits measures patience on a clock of its own, from when it last saw the heartbeat move:
machines need not agree on the time, only on the folder. Locks of the operating system would be
freed at once, but on many network file systems they hold on one machine alone.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

PATIENCE = 120.0
"""Seconds: longer than network file systems keep the time of a file in their caches (60 s)."""

_BEATS = 6  # within the patience of others


class Lost(Exception):  # noqa: N818 - its reader goes on with something else
    """Somebody took over what this worker had claimed: it was taken for dead."""


@dataclass
class Claims:
    """The claims in a folder, as one worker sees them.

    Args:
        folder: shared by all workers; made if absent.
        patience: seconds without a heartbeat after which a claim is stale, the same for all
            workers.

    Raises:
        ValueError: if ``patience`` is not above 0.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     mine, theirs = Claims(Path(folder)), Claims(Path(folder))
    ...     claim = mine.take("a")
    ...     print(theirs.take("a"))
    ...     claim.give_back()
    ...     theirs.take("a").path.name
    None
    '0002'
    """

    folder: Path
    patience: float = PATIENCE
    _seen: dict[Path, tuple[int, float]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.patience > 0:
            raise ValueError(f"patience is {self.patience}: give seconds, above 0")

    def take(self, name: str) -> Claim | None:
        """The claim of this name, to be held as a context; None while another worker has it.

        Args:
            name: of what is to be done; parts may be divided by slashes.
        """
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        numbers = [path.name for path in folder.iterdir() if path.name.isdecimal()]
        last = max(map(int, numbers), default=0)  # a file system may add files of its own
        if last and self._alive(_numbered(folder, last)):
            return None
        path = _numbered(folder, last + 1)
        try:
            with path.open("x", encoding="utf-8") as file:
                json.dump({"host": platform.node(), "pid": os.getpid()}, file)
        except FileExistsError:
            return None
        return Claim(path, self.patience / _BEATS)

    def _alive(self, path: Path) -> bool:
        beat, now = path.stat().st_mtime_ns, time.monotonic()
        if beat == 0:
            return False  # given back
        if self._seen.get(path, (0, now))[0] != beat:
            self._seen[path] = beat, now
        if now - self._seen[path][1] < self.patience:
            return True
        # If this worker was paused, so was perhaps the owner: give its heart the time to beat.
        time.sleep(self.patience / _BEATS)
        return path.stat().st_mtime_ns not in (beat, 0)


class Claim:
    """A claim that this worker holds; as a context it has a heartbeat, and is given back."""

    def __init__(self, path: Path, interval: float) -> None:
        self.path = path
        self._interval = interval
        self._over = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    @property
    def lost(self) -> bool:
        """Whether somebody took over."""
        return _numbered(self.path.parent, int(self.path.name) + 1).exists()

    def give_back(self) -> None:
        """Let anybody take it at once."""
        os.utime(self.path, (0, 0))

    def __enter__(self) -> Claim:
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._heart.join()
        self.give_back()

    def _beat(self) -> None:
        while not self._over.wait(self._interval):
            with suppress(OSError):  # a network that is away for a moment
                os.utime(self.path)


def _numbered(folder: Path, number: int) -> Path:
    return folder / f"{number:04}"
