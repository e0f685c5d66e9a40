"""What criticality costs: an event on VGG16 (14.8 M weights), and its share of a training.

The unit is one elementwise pass over the same weights in the same process (``torch.abs``), as one
vector, as a ranking over the network sees them; tensor by tensor it is quicker, for the new memory
is small and used again. The share is what steps with an event take longer than the others, over the
2000 steps from one to the next, beside the same training without regrowth (``churn=0``). Prints a
table; ``--json FILE`` writes the record.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from spikewire import Criticality, Pruner
from spikewire.dialects import reset
from spikewire.nets import vgg16
from spikewire.provenance import provenance

EVERY = 2000


class Training:
    """VGG16 in training with a batch of noise, an event whenever it is asked for."""

    def __init__(self, churn: float, batch: int, width: int) -> None:
        torch.manual_seed(0)
        self.net = vgg16("channels", width=width, classes=100)
        self.images = torch.randn(batch, 3, 32, 32)
        self.labels = torch.randint(100, (batch,))
        self.sgd = torch.optim.SGD(self.net.parameters(), lr=0.0, momentum=0.9)
        method = Criticality(0.9, churn=churn, every=EVERY, until=1.0)
        self.pruner = Pruner(self.net, method, self.sgd, steps=100 * EVERY)
        self.at_event = [0.0]

    def step(self, *, event: bool) -> None:
        if event:
            self.pruner.step = 50 * EVERY - 1
            self.pruner.after_step()  # it listens to the coming forward pass
        else:
            self.pruner.step = 50 * EVERY + 1
        self.sgd.zero_grad()
        outputs: Tensor = self.net(self.images)
        torch.nn.functional.cross_entropy(outputs.mean(0), self.labels).backward()
        begun = time.perf_counter()
        self.sgd.step()
        self.at_event.append(time.perf_counter() - begun)
        reset(self.net)


def seconds(work: Callable[[], object], runs: int) -> list[float]:
    times = []
    for _ in range(runs + 1):  # the first one warms up
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return times[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, list[float]] = {}
    for name, churn in (("without regrowth", 0.0), ("criticality", 0.2)):
        training = Training(churn, options.batch, options.width)
        weights = [s.weight for s in training.pruner]
        found[f"{name}: step"] = seconds(lambda t=training: t.step(event=False), options.runs)
        plain = training.at_event[-options.runs :]
        found[f"{name}: step with an event"] = seconds(
            lambda t=training: t.step(event=True), options.runs
        )
        events = training.at_event[-options.runs :]
        usual = statistics.median(plain)
        found[f"{name}: the event alone"] = [each - usual for each in events]
        flat = torch.cat([weight.detach().flatten() for weight in weights])
        found["pass (abs), one vector"] = seconds(flat.abs, 4 * options.runs)
        found["pass (abs), tensor by tensor"] = seconds(
            lambda w=weights: [each.abs() for each in w], 4 * options.runs
        )
    middle = {name: statistics.median(times) for name, times in found.items()}
    unit = middle["pass (abs), one vector"]
    total = sum(weight.numel() for weight in weights)
    print(f"{total:,} weights, batch {options.batch}, {torch.get_num_threads()} threads")
    for name, value in middle.items():
        print(f"{name:<36}{value:>10.4f} s{value / unit:>9.1f} passes")
    shares = {
        name: 100
        * (middle[f"{name}: step with an event"] - middle[f"{name}: step"])
        / (EVERY * middle[f"{name}: step"])
        for name in ("without regrowth", "criticality")
    }
    for name, share in shares.items():
        print(f"{name}: events are {share:.3f} % of a training, one in {EVERY} steps")
    if options.json:
        record = {"weights": total, "batch": options.batch, "seconds": found, "share": shares}
        record |= provenance(torch.device("cpu"))
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
