"""Run by tests as a process of its own: kill a run, or a lottery, again and again.

Children are forked from here, after the imports, and killed with SIGKILL; each continues where the
one before had got to. A run is killed at random moments; prints how many were killed before it was
finished. A lottery kills itself as soon as it has written certain files; prints the training steps
that it took in all, left alone and killed.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from spikewire import formats, report
from spikewire import run as runs
from spikewire.config import Recipe, override, read, recipe
from spikewire.finished import finished
from spikewire.rounds import Lottery, play

WORDS = [
    "epochs=8",
    "network.T=2",
    "network.width=8",
    "twin=false",
    "method=rigl",
    "method.every=5",
    "compile=false",
]


MOMENTS = [  # in the order in which a lottery of 3 + 2 + 2 epochs writes them
    "round-00/epoch-001.safetensors",
    "round-00/checkpoint/checkpoint-12.safetensors",
    "round-00/report.json",
    "lottery.json",
    "round-01/masks-01.safetensors",
    "round-01/checkpoint/checkpoint.json",
    "round-01/report.json",
    "round-02/masks-02.safetensors",
    "round-02/metrics.jsonl",
]


def forked(work: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return child


def recipe_of(*words: str) -> Recipe:
    return recipe(override(read("digits"), [*WORDS, *words]))


def start(out: Path) -> int:
    return forked(lambda: runs.run(recipe_of(), out))


def kill_runs(folder: Path, kills: int) -> None:
    os.waitpid(start(folder / "whole"), 0)
    chance = random.Random(0)
    killed = rounds = 0
    while killed < kills:
        out = folder / f"killed-{rounds}"
        while killed < kills and not finished(out):
            child = start(out)
            time.sleep(chance.uniform(0.05, 0.9))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            killed += os.WIFSIGNALED(status)
        os.waitpid(start(out), 0)
        rounds += 1
    print(killed, rounds)


def play_until(moment: str | None, out: Path) -> int:
    """Play a lottery in a child that dies once it has written that file; returns its status."""

    def write(path: Path, content: bytes, write: Callable[..., None] = formats.write) -> None:
        write(path, content)
        if moment is not None and path == out / moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def note(*_: object) -> None:
        with open(f"{out}.steps", "a") as steps:
            steps.write(".")

    def work() -> None:
        formats.write = write
        asked = recipe_of("method=gmp", "epochs=3", "batch=200")
        play(asked, Lottery(2, 0.5, 1), out, show=note)

    return os.waitpid(forked(work), 0)[1]


def kill_lotteries(folder: Path) -> None:
    assert play_until(None, folder / "whole") == 0
    for moment in MOMENTS:
        status = play_until(moment, folder / "killed")
        assert os.WIFSIGNALED(status), moment
    assert play_until(None, folder / "killed") == 0
    print(*((folder / f"{name}.steps").stat().st_size for name in ("whole", "killed")))


if __name__ == "__main__":
    torch.set_num_threads(1)
    report.write = lambda _: None  # neither pages nor the engine are what is tested
    runs._engine = lambda *_: {"reason": "not tested"}
    runs.run(
        recipe_of("epochs=1"), Path(sys.argv[1]) / "warm"
    )  # what children need is imported now
    if len(sys.argv) > 2:
        kill_runs(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        kill_lotteries(Path(sys.argv[1]))
