"""Run by test_run.py as a process of its own: kill a run at random moments, again and again.

Children are forked from here, after the imports, and killed with SIGKILL; each continues where the
one before had got to. Prints how many were killed before the run was finished.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from spikewire import report
from spikewire.config import override, read, recipe
from spikewire.run import finished, run

WORDS = [
    "epochs=8",
    "network.T=2",
    "network.width=8",
    "twin=false",
    "method=rigl",
    "method.every=5",
    "compile=false",
]


def start(out: Path) -> int:
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        report.write = lambda _: None  # drawing is not what is tested
        run(recipe(override(read("digits"), WORDS)), out)
        os._exit(0)
    return child


def main(folder: Path, kills: int) -> None:
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


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
