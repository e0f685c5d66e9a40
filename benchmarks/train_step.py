"""How long one training step of the 784-800-10 network takes, beside plain SpikingJelly.

A step is forward, loss, backward, Adam and the reset of the neurons, on 128 images for T = 8. The
rows take turns within one process, so that whatever else the machine does slows them alike.

What a pruner adds is measured twice: as a row of its own, and as the time of its two moments alone,
which is the steadier number; events, which come every hundred steps, are benchmarks/event.py.

    python benchmarks/train_step.py --runs 30 --json train_step.json
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn
from torch.nn.functional import mse_loss, one_hot
from torch.optim import Adam, Optimizer

from spikewire import GradR, Method, Prune, Pruner
from spikewire.nets import conv6fc2, fc
from spikewire.provenance import provenance

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


def forward_backward(
    model: nn.Module, images: Tensor, targets: Tensor, *, compiled: bool = False
) -> Call:
    """Return a call that computes the gradients of one batch."""
    forward = torch.compile(model, dynamic=False) if compiled else model

    def call() -> None:
        model.zero_grad()
        mse_loss(forward(images).mean(0), targets).backward()
        functional.reset_net(model)

    return call


def train_step(
    model: nn.Module,
    optimizer: Optimizer,
    images: Tensor,
    targets: Tensor,
    *,
    compiled: bool = False,
) -> Call:
    """Return a call that trains `model` for one step on one batch."""
    gradients = forward_backward(model, images, targets, compiled=compiled)

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


def start(model: nn.Module, method: Method, adam: Adam) -> Pruner:
    """Return a pruner whose first event, if it has one, lies behind it."""
    pruner = Pruner(model, method, adam, steps=10**9)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    pruner.before_step()
    pruner.after_step()
    return pruner


def pruned_step(method: Method, images: Tensor, targets: Tensor) -> tuple[Call, Call]:
    """Return a compiled training step with a pruner, and its two moments alone."""
    model = fc(T)
    adam = Adam(model.parameters(), fused=True)
    pruner = start(model, method, adam)

    def moments() -> None:
        pruner.before_step()
        pruner.after_step()

    return train_step(model, adam, images, targets, compiled=True), moments


def rows(images: Tensor, targets: Tensor) -> dict[str, Call]:
    """Return what is timed, by name."""
    plain, eager, compiled = Plain(), fc(T), fc(T)
    adam = Adam(compiled.parameters(), fused=True)
    masked, masks = pruned_step(Prune(0.9, every=10**9), images, targets)
    gradr, hidden = pruned_step(GradR(alpha=1e-3), images, targets)
    return {
        "plain SpikingJelly": train_step(plain, Adam(plain.parameters()), images, targets),
        "spikewire": train_step(eager, Adam(eager.parameters(), fused=True), images, targets),
        "spikewire, compiled": train_step(compiled, adam, images, targets, compiled=True),
        "  its forward and backward": forward_backward(compiled, images, targets, compiled=True),
        "  its matrix products": matrix_products(images),
        "compiled, with masks": masked,
        "  the pruner alone, masks": masks,
        "compiled, with Grad R": gradr,
        "  the pruner alone, Grad R": hidden,
    }


def large(runs: int) -> dict[str, list[float]]:
    """Milliseconds of a step of 6Conv-2FC at the paper's size (batch 16), and of the pruner in it.

    The network is not compiled here: the step could only become shorter by what neurons take.
    """
    model = conv6fc2(T)
    adam = Adam(model.parameters(), fused=True)
    images = torch.rand(16, 3, 32, 32)
    targets = one_hot(torch.randint(10, (16,)), 10).float()
    step = train_step(model, adam, images, targets)
    times = {"6Conv-2FC": [milliseconds(step, 1) for _ in range(max(1, runs // 10))]}
    methods = {"masks": Prune(0.9, every=10**9), "Grad R": GradR(alpha=1e-3)}
    for name, method in methods.items():
        pruner = start(model, method, adam)

        def moments(pruner: Pruner = pruner) -> None:
            pruner.before_step()
            pruner.after_step()

        times[large_row(name)] = [milliseconds(moments, 3) for _ in range(runs)]
        with warnings.catch_warnings(action="ignore"):
            pruner.finish()
    return times


def first_call(call: Call) -> float:
    """Return the seconds the first call takes, compilation included."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def milliseconds(call: Call, repeats: int = REPEATS) -> float:
    """Return the time of one call, averaged over a few in a row."""
    call()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats * 1e3


def rounds(calls: dict[str, Call], runs: int) -> dict[str, list[float]]:
    """Return the milliseconds of every call, which take turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            times[name].append(milliseconds(call))
    return times


def main() -> None:
    """Time every row and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="measurements of each row")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--large", action="store_true", help="6Conv-2FC at paper size as well")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    images = torch.rand(BATCH, 1, 28, 28)
    targets = one_hot(torch.randint(CLASSES, (BATCH,)), CLASSES).float()
    calls = rows(images, targets)
    first = {name: first_call(call) for name, call in calls.items()}
    times = rounds(calls, options.runs)
    if options.large:
        times |= large(options.runs)
    median = {name: statistics.median(values) for name, values in times.items()}
    ratios = compare(median)
    facts = provenance(torch.device("cpu"))
    print(", ".join(f"{key} {value}" for key, value in facts["machine"].items()))
    print(f"{'ms per step':28}{'median':>10}{'min':>10}{'max':>10}{'first (s)':>11}")
    for name, values in times.items():
        start = f"{first[name]:11.2f}" if name in first else ""
        print(f"{name:28}{median[name]:10.3f}{min(values):10.3f}{max(values):10.3f}{start}")
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.3f}")
    if options.json:
        results = {"ms": times, "first_s": first, "ratios": ratios, **facts}
        options.json.write_text(json.dumps(results, indent=1) + "\n")


def compare(median: dict[str, float]) -> dict[str, float]:
    """Return the ratios that matter."""
    step = median["spikewire, compiled"]
    ratios = {
        "plain / compiled": median["plain SpikingJelly"] / step,
        "plain / eager": median["plain SpikingJelly"] / median["spikewire"],
        "forward and backward / matrix products": median["  its forward and backward"]
        / median["  its matrix products"],
        "masks: pruner alone / step": median["  the pruner alone, masks"] / step,
        "masks: step with / without": median["compiled, with masks"] / step,
        "Grad R: pruner alone / step": median["  the pruner alone, Grad R"] / step,
        "Grad R: step with / without": median["compiled, with Grad R"] / step,
    }
    if "6Conv-2FC" in median:
        for name in ("masks", "Grad R"):
            alone = large_row(name)
            ratios[f"6Conv-2FC, {name}: pruner alone / step"] = median[alone] / median["6Conv-2FC"]
    return ratios


def large_row(name: str) -> str:
    """The name of a row of `large`."""
    return f"  6Conv-2FC pruner, {name}"


if __name__ == "__main__":
    main()
