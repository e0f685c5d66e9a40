"""What an event costs: a global ranking of the 36.7 M weights of 6Conv-2FC at the paper's width.

The unit is one elementwise pass over the same weights in the same process (``torch.abs``, which
reads every weight and writes a new tensor). Prints a table; ``--json FILE`` writes the record.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from spikewire import GMP, Pruner, RigL
from spikewire.masks import choose
from spikewire.nets import conv6fc2
from spikewire.run import provenance


def seconds(work: Callable[[], object], runs: int) -> list[float]:
    work()
    times = []
    for _ in range(runs):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return times


def event(method: Any, net: torch.nn.Module, sparsity: float) -> Callable[[], object]:
    """A whole event on a network that is half as sparse as it is to become."""
    sgd = torch.optim.SGD(net.parameters(), lr=0.0, momentum=0.9)
    pruner = Pruner(net, method, sgd, steps=10)
    full = {s.name: torch.ones_like(s.weight, dtype=torch.bool) for s in pruner}

    def once() -> None:
        with torch.no_grad():
            for s in pruner:
                s.mask = full[s.name]
            pruner.step = 5
            pruner.method.before_step(pruner)

    return once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    net = conv6fc2(T=2)
    weights = {n: p for n, p in net.named_parameters() if p.ndim > 1}
    for p in weights.values():
        p.grad = torch.randn_like(p)
    scores = {n: p.detach().abs() for n, p in weights.items()}
    total = sum(p.numel() for p in weights.values())

    rows = {
        "elementwise pass (abs)": lambda: [p.abs() for p in weights.values()],
        "elementwise pass in place (mul_)": lambda: [v.mul_(1.0) for v in scores.values()],
        "choose, global": lambda: choose(scores, total // 10),
        "GMP event": event(GMP(0.9, every=1), net, 0.9),
        "RigL event": event(RigL(0.9, every=1), net, 0.9),
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
