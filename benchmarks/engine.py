"""The sparse engine beside PyTorch: layers, networks, memory and start-up, on this machine.

The rival is PyTorch in float32 and inference mode, the best of eager and compiled, contiguous and
channels_last, on as many threads. Both take turns, each after a call that is not counted, and
medians are compared. ``--json FILE`` writes the record; ``--runs FOLDER ...`` adds networks that
were trained.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from spikingjelly.activation_based import layer
from torch import Tensor, nn

from spikewire.dialects import reset
from spikewire.finished import trained
from spikewire.nets import conv6fc2
from spikewire.nets.neurons import LIF
from spikewire.provenance import provenance
from spikewire.runtime import file, program_of, sparse
from spikewire.runtime.engine import SparseNetwork
from spikewire.runtime.kernels import kernels
from spikewire.runtime.program import Weight

T, CHANNELS, SIZE, RATE = 8, 256, 32, 0.15
CONNECTIVITIES = (0.5, 0.05, 0.0235, 0.0073)
FRESH = """
import json, sys, time
from pathlib import Path
import torch
from spikewire.runtime import load

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))

torch.set_num_threads(int(sys.argv[2]))
x = torch.randn(1, 3, 32, 32)
before, begun = peak(), time.perf_counter()
load(sys.argv[1])(x)
spent = time.perf_counter() - begun
print(json.dumps({"seconds": spent, "mib_before": before, "mib_peak": peak()}))
"""


@torch.no_grad()
def thinned(model: nn.Module, connectivity: float) -> nn.Module:
    """Keep this share of the synapses of every layer."""
    generator = torch.Generator().manual_seed(1)  # other numbers than weights were drawn from
    for parameter in model.parameters():
        if parameter.ndim > 1:
            kept = torch.rand(parameter.shape, generator=generator) < connectivity
            parameter.mul_(kept / connectivity**0.5)
    return model


@torch.no_grad()
def network(connectivity: float) -> nn.Module:
    """6Conv-2FC at the paper's width, in which every layer fires: the record says how often."""
    torch.manual_seed(0)
    model = thinned(conv6fc2(T=T, width=CHANNELS, dropout=0.0), connectivity)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 1.5)
            nn.init.constant_(module.bias, 0.25)
            module.momentum = None  # the mean over all batches
        if isinstance(module, nn.Linear):
            module.weight *= 6.0
    for _ in range(2):
        model.train()(torch.randn(2, 3, SIZE, SIZE))
        reset(model)
    return model.eval()


def rivals(model: nn.Module, x: Tensor) -> Iterator[tuple[str, Callable[[], None]]]:
    """PyTorch in its four ways."""
    for form in (torch.contiguous_format, torch.channels_last):
        shaped = model.to(memory_format=form)
        for name, forward in (("eager", shaped), ("compiled", torch.compile(shaped))):
            yield f"{name}, {str(form).split('.')[1]}", lambda run=forward: called(run, model, x)


def called(run: Callable[[Tensor], Tensor], model: nn.Module, x: Tensor) -> None:
    with torch.inference_mode():
        run(x)
    reset(model)


def timed(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - begun)


def best(model: nn.Module, x: Tensor) -> tuple[str, Callable[[], None]]:
    """The quickest of PyTorch's ways."""
    found = []
    for name, run in rivals(model, x):
        run()
        found.append((min(timed(run) for _ in range(3)), name, run))
    _, name, run = min(found, key=lambda each: each[0])
    return name, run


def row(
    case: str, connectivity: float, dense: tuple[str, Any], quick: dict[str, Any], runs: int
) -> dict[str, Any]:
    """Both in turns of two; ``quick`` has a run for each path, the first is compared."""
    rival, slow = dense
    first, run = next(iter(quick.items()))
    times: list[list[float]] = [[], []]
    with_path(first, run)
    for _ in range(runs):
        for call, found in zip((slow, run), times, strict=True):
            call()  # pays for what the other left: threads that still look for work, full caches
            found.extend(timed(call) for _ in range(2))
    dense_ms, sparse_ms = (statistics.median(each) for each in times)
    others = {name: statistics.median(with_path(name, each)) for name, each in quick.items()}
    kernels().use(first)
    return {
        "case": case,
        "connectivity": connectivity,
        "dense_ms": dense_ms,
        "sparse_ms": sparse_ms,
        "ratio": dense_ms / sparse_ms,
        "rival": rival,
        "paths": others,
        "times": times,
    }


def with_path(name: str, run: Callable[[], object]) -> list[float]:
    kernels().use(name)
    run()
    return [timed(run) for _ in range(3)]


def layer_rows(runs: int, threads: int) -> Iterator[dict[str, Any]]:
    """One layer whole: spikes in words are packed, added up, fire, and become words again."""
    generator = np.random.default_rng(0)
    spikes = generator.random((1, CHANNELS, SIZE, T, SIZE)) < RATE
    words = np.packbits(spikes, axis=-1, bitorder="little").view(np.uint16)
    x = torch.from_numpy(spikes.astype(np.float32)).permute(3, 0, 1, 2, 4).contiguous()
    convolution = layer.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False, step_mode="m")
    model = nn.Sequential(convolution, LIF(2.0)).eval()
    rival = best(model, x)
    out = np.empty((1, CHANNELS, SIZE, T, words.shape[-1]), np.uint16)
    neurons = kernels().Neurons(2, 0.5, 1.0, 0.0, None, 0.0, 1.0)
    for connectivity in CONNECTIVITIES:
        weight = torch.nn.init.kaiming_normal_(torch.empty(convolution.weight.shape))
        weight *= torch.rand(weight.shape) < connectivity
        geometry = (1, 1), (1, 1), (1, 1), 1
        engine = kernels().Layer(
            *Weight.of(weight.numpy()).parts, np.zeros(CHANNELS, np.float32),
            (CHANNELS, SIZE, SIZE), T, *geometry, threads,
        )  # fmt: skip

        def run(engine: Any = engine) -> None:
            engine.spikes(words, out, None, None, neurons, 1, T, threads)

        paths = dict.fromkeys(reversed(kernels().paths()), run)
        found = row("layer 256-256 3x3, batch 1", connectivity, rival, paths, runs)
        yield found | {"additions": engine.additions}


def network_rows(batch: int, runs: int, threads: int) -> Iterator[dict[str, Any]]:
    x = torch.randn(batch, 3, SIZE, SIZE)
    rival = None
    for connectivity in CONNECTIVITIES:
        model = network(connectivity)
        quick = SparseNetwork(program_of(model, x[:1]), threads)
        rates = [float(s.float().mean()) for s in quick.spikes(x[:1]).values()]
        rival = rival or best(model, x)  # zeros cost PyTorch what other numbers do
        paths = reversed(kernels().paths()) if batch == 1 else [kernels().path()]
        calls = dict.fromkeys(paths, lambda net=quick: net(x))
        found = row(f"6Conv-2FC, batch {batch}", connectivity, rival, calls, runs)
        stages = [vars(each) for each in quick.profile(x, 3)]
        yield found | {"firing_rates": rates, "stages": stages}
        gc.collect()


Trained = tuple[str, nn.Module, tuple[int, ...]]


def trained_rows(models: list[Trained], runs: int, threads: int) -> Iterator[dict[str, Any]]:
    for name, model, shape in models:
        x = torch.randn(1, *shape)
        quick = sparse(model.eval(), x, threads=threads)
        weights = [p for p in model.parameters() if p.ndim > 1]
        alive = sum(int(p.count_nonzero()) for p in weights) / sum(p.numel() for p in weights)
        calls = {kernels().path(): lambda net=quick, x=x: net(x)}
        yield row(f"{name}, batch 1", alive, best(model, x), calls, 10 * runs)


def start_up(threads: int) -> dict[str, Any]:
    """From opening the file of 6Conv-2FC to the first result, in a process of its own."""
    model = network(0.05)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.spikewire"
        size = file.save(path, program_of(model, torch.randn(1, 3, SIZE, SIZE)))
        words = [sys.executable, "-c", FRESH, str(path), str(threads)]
        found = [
            json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
            for _ in range(3)
        ]
    return min(found, key=lambda each: each["seconds"]) | {"bytes": size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="turns of two calls each")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help="folders of runs")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 32])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    threads = options.threads
    torch.set_num_threads(threads)
    models = []  # what is missing is missed before any work is done
    for folder in options.runs:
        _, model, data = trained(folder, None)
        models.append((folder.name, model, data.shape))
    paths = list(reversed(kernels().paths()))
    print(f"{threads} threads, medians, times in ms; paths {', '.join(paths)}")
    head = ("case", "connectivity", "dense", "sparse", "ratio", "rival", "paths")
    print("{:<30}{:>13}{:>9}{:>9}{:>8}  {:<30}{}".format(*head))
    rows = []
    sources = [
        layer_rows(options.repeats, threads),
        *(network_rows(n, 1 if n > 1 else options.repeats, threads) for n in options.batches),
        trained_rows(models, options.repeats, threads),
    ]  # fmt: skip
    for found in (each for source in sources for each in source):
        rows.append(found)
        others = " ".join(f"{milliseconds:.3g}" for milliseconds in found["paths"].values())
        print(
            f"{found['case']:<30}{found['connectivity']:>13.2%}{found['dense_ms']:>9.3g}"
            f"{found['sparse_ms']:>9.3g}{found['ratio']:>7.1f}x  {found['rival']:<30}{others}",
            flush=True,
        )
    begun = start_up(threads)
    print(
        f"6Conv-2FC at 5 %, file of {begun['bytes']:,} bytes: {begun['seconds']:.3f} s from load "
        f"to first result, {begun['mib_peak']:.0f} MiB at most, {begun['mib_before']:.0f} before"
    )
    if options.json:
        facts = {"threads": threads, "rows": rows, "start_up": begun}
        record = facts | provenance(torch.device("cpu"))
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
