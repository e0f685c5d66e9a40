"""Run by tests as a process of its own: a sweep alone, and one shared by two workers.

Workers are forked from here, after the imports. One of the two kills itself with SIGKILL when it is
about to write down the second epoch of a run. Prints how the workers ended, which runs each of them
has trained, and the training steps that each sweep took.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from spikewire import formats, report, sweep
from spikewire import run as runs
from spikewire.records import Records
from spikewire.study import Grid, Search, Study

PATIENCE = 3.0
SMALL = ["epochs=3", "batch=200", "network.T=2", "network.width=8", "twin=false", "compile=false"]
SWEEP = Study(
    "Small",
    grids=[
        Grid(name, ["digits", *SMALL, f"method={name}", "method.every=2"], {"seed": [0, 1]})
        for name in ("gmp", "rigl")
    ],
    search=Search(2, ["epochs=1"], {"optimizer.lr": [1e-3, 1e-2]}),
)


def worker(folder: Path, name: str, *, mortal: bool = False) -> int:
    """A child that works in the folder."""
    child = os.fork()
    if child:
        return child

    def write(path: Path, content: bytes, write: Callable[..., None] = formats.write) -> None:
        late = path.name == "metrics.jsonl" and content.count(b"\n") == 2  # trials have one epoch
        if mortal and late:
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, content)

    def note(kind: str, text: str) -> None:
        with open(f"{folder}.{kind}", "a") as file:
            file.write(text)

    def run(*args, show: Callable[..., None], run: Callable[..., Path] = runs.run, **more) -> Path:
        def count(*state) -> None:
            note("steps", ".")
            show(*state)

        return run(*args, show=count, **more)

    formats.write, runs.run = write, run
    sweep.work(
        Records(SWEEP, folder),
        patience=PATIENCE,
        done=lambda run: note("trained", f"{name} {run}\n"),
    )
    os._exit(0)


def told(folder: Path, **workers: int) -> dict[str, object]:
    """What a sweep came to, once its workers have ended."""
    ends = {name: os.waitpid(child, 0)[1] for name, child in workers.items()}
    lines = Path(f"{folder}.trained").read_text().splitlines()
    steps = Path(f"{folder}.steps").stat().st_size
    return {"ends": ends, "trained": [line.split() for line in lines], "steps": steps}


def main(folder: Path) -> None:
    alone, shared = folder / "alone", folder / "shared"
    results = {"alone": told(alone, a=worker(alone, "a"))}
    both = {"a": worker(shared, "a", mortal=True), "b": worker(shared, "b")}
    results["shared"] = told(shared, **both)
    print(json.dumps(results))


if __name__ == "__main__":
    torch.set_num_threads(1)
    report.write = lambda _: None  # neither pages nor the engine are what is tested
    runs._engine = lambda *_: {"reason": "not tested"}
    main(Path(sys.argv[1]))
