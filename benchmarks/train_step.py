"""How long one training step of the 784-800-10 network takes, beside plain SpikingJelly.

A step is forward, loss, backward, Adam and the reset of the neurons, on 128 images for T = 8. The
rows take turns within one process, so that whatever else the machine does slows them alike.

    python benchmarks/train_step.py --runs 30 --json train_step.json
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn
from torch.nn.functional import mse_loss, one_hot
from torch.optim import Adam, Optimizer

from spikewire.nets import fc

T, BATCH, INPUTS, HIDDEN, CLASSES = 8, 128, 784, 800, 10
REPEATS = 3  # calls in a row per measurement, after one that refills the caches

Call = Callable[[], object]


class Plain(nn.Sequential):
    """The same network out of SpikingJelly's own layers, computed in full at every time step."""

    def __init__(self) -> None:
        def lif() -> nn.Module:
            return neuron.LIFNode(
                tau=2.0, surrogate_function=surrogate.ATan(), detach_reset=True, step_mode="m"
            )

        super().__init__(
            layer.Flatten(step_mode="m"),
            layer.Linear(INPUTS, HIDDEN, bias=False, step_mode="m"),
            lif(),
            layer.Linear(HIDDEN, CLASSES, bias=False, step_mode="m"),
            lif(),
        )

    def forward(self, input: Tensor) -> Tensor:
        """Return the spikes (T, B, classes) for images (B, C, H, W)."""
        return super().forward(input.repeat(T, 1, 1, 1, 1))


def forward_backward(model: nn.Module, images: Tensor, targets: Tensor) -> Call:
    """Return a call that computes the gradients of one batch."""

    def call() -> None:
        model.zero_grad()
        mse_loss(model(images).mean(0), targets).backward()
        functional.reset_net(model)

    return call


def train_step(model: nn.Module, optimizer: Optimizer, images: Tensor, targets: Tensor) -> Call:
    """Return a call that trains `model` for one step on one batch."""
    gradients = forward_backward(model, images, targets)

    def call() -> None:
        gradients()
        optimizer.step()

    return call


def matrix_products(images: Tensor) -> Call:
    """Return a call that computes the five matrix products of a step and nothing else."""
    x = images.flatten(1)  # (B, inputs)
    w1, w2 = torch.randn(HIDDEN, INPUTS), torch.randn(CLASSES, HIDDEN)
    grad_current = torch.randn(BATCH, HIDDEN)
    spikes, grad_out = torch.randn(T * BATCH, HIDDEN), torch.randn(T * BATCH, CLASSES)

    def call() -> tuple[Tensor, ...]:
        forward = x @ w1.T, spikes @ w2.T
        backward = grad_out @ w2, grad_out.T @ spikes, grad_current.T @ x
        return *forward, *backward

    return call


def rows(images: Tensor, targets: Tensor) -> dict[str, Call]:
    """Return what is timed, by name. A step with a pruner is one more entry here."""
    plain, eager, compiled = Plain(), fc(T), fc(T)
    compiled.compile()
    adam = Adam(compiled.parameters(), fused=True)
    return {
        "plain SpikingJelly": train_step(plain, Adam(plain.parameters()), images, targets),
        "spikewire": train_step(eager, Adam(eager.parameters(), fused=True), images, targets),
        "spikewire, compiled": train_step(compiled, adam, images, targets),
        "  its forward and backward": forward_backward(compiled, images, targets),
        "  its matrix products": matrix_products(images),
    }


def first_call(call: Call) -> float:
    """Return the seconds the first call takes, compilation included."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def milliseconds(call: Call) -> float:
    """Return the time of one call, averaged over a few in a row."""
    call()
    start = time.perf_counter()
    for _ in range(REPEATS):
        call()
    return (time.perf_counter() - start) / REPEATS * 1e3


def machine() -> dict[str, str | int]:
    """Return what the numbers depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def main() -> None:
    """Time every row and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="measurements of each row")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    images = torch.rand(BATCH, 1, 28, 28)
    targets = one_hot(torch.randint(CLASSES, (BATCH,)), CLASSES).float()
    calls = rows(images, targets)
    first = {name: first_call(call) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(options.runs):
        for name, call in calls.items():
            times[name].append(milliseconds(call))

    median = {name: statistics.median(values) for name, values in times.items()}
    step = median["spikewire, compiled"]
    ratios = {
        "plain / compiled": median["plain SpikingJelly"] / step,
        "forward and backward / matrix products": median["  its forward and backward"]
        / median["  its matrix products"],
    }
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    print(f"{'ms per step':28}{'median':>8}{'min':>8}{'max':>8}{'first (s)':>11}")
    for name, values in times.items():
        print(
            f"{name:28}{median[name]:8.2f}{min(values):8.2f}{max(values):8.2f}{first[name]:11.2f}"
        )
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f}")
    if options.json:
        results = {"machine": machine(), "ms": times, "first_s": first, "ratios": ratios}
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
