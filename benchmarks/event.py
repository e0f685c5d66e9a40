"""What an event costs: a global ranking of the 36.7 M weights of 6Conv-2FC at the paper's width.

The unit is one elementwise pass over the same weights in the same process (``torch.abs``, which
reads every weight and writes a new tensor). Prints a table; ``--json FILE`` writes the record.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spikewire import GMP, Pruner, RigL
from spikewire.masks import choose
from spikewire.nets import conv6fc2
from spikewire.provenance import provenance


def seconds(work: Callable[[], object], runs: int) -> list[float]:
    times = []
    for _ in range(runs + 1):  # the first one warms up
        if isinstance(work, Event):
            work.restore()
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return times[1:]


class Event:
    """One event of a method on weights as they are before it, put back outside of the timing."""

    def __init__(self, method: Any) -> None:
        torch.manual_seed(0)
        self.net = conv6fc2(T=2)
        sgd = torch.optim.SGD(self.net.parameters(), lr=0.0, momentum=0.9)
        with warnings.catch_warnings(action="ignore"):
            self.pruner = Pruner(self.net, method, sgd, steps=10)
        self.before = {s.name: (s.weight.detach().clone(), s.mask) for s in self.pruner}
        self.pruner.step = 5

    @torch.no_grad()
    def restore(self) -> None:
        for s in self.pruner:
            weight, mask = self.before[s.name]
            s.weight.copy_(weight)
            s.mask = mask
            s.weight.grad = torch.randn(s.weight.shape)

    @torch.no_grad()
    def __call__(self) -> None:
        self.pruner.method.before_step(self.pruner)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    net = conv6fc2(T=2)
    weights = {n: p for n, p in net.named_parameters() if p.ndim > 1}
    scores = {n: p.detach().abs() for n, p in weights.items()}
    total = sum(p.numel() for p in weights.values())

    flat = torch.cat([score.flatten() for score in scores.values()])
    barred = flat.masked_fill(torch.rand(total) < 0.9, -torch.inf)
    mask = barred > 0

    rows = {
        "elementwise pass (abs)": lambda: [p.abs() for p in weights.values()],
        "elementwise pass in place (mul_)": lambda: [v.mul_(1.0) for v in scores.values()],
        "torch.kthvalue": lambda: flat.kthvalue(total - total // 10),
        "torch.topk": lambda: flat.topk(total // 10),
        "numpy.partition": lambda: np.partition(flat.numpy(), total - total // 10),
        "numpy.partition, 9 of 10 equal": lambda: np.partition(barred.numpy(), total - total // 20),
        "sum of a bool tensor": lambda: mask.sum(),
        "count_nonzero of a bool tensor": lambda: mask.count_nonzero(),
        "choose, global": lambda: choose(scores, total // 10),
        "GMP event": Event(GMP(0.9, every=1)),
        "RigL event": Event(RigL(0.9, every=1, until=1.0)),
    }
    measured = {name: seconds(work, options.runs) for name, work in rows.items()}
    unit = statistics.median(measured["elementwise pass (abs)"])
    print(f"{total:,} weights, {torch.get_num_threads()} threads")
    print(f"{'':<34}{'median s':>10}{'min':>9}{'max':>9}{'passes':>9}")
    for name, times in measured.items():
        middle = statistics.median(times)
        print(f"{name:<34}{middle:>10.3f}{min(times):>9.3f}{max(times):>9.3f}{middle / unit:>9.1f}")
    if options.json:
        record = {"weights": total, "seconds": measured, **provenance(torch.device("cpu"))}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
