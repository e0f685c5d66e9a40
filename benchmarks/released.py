"""How long a training step with Grad R takes, beside the code that its authors released.

Their code is not part of this repository: give a clone of Yanqi-Chen/Gradient-Rewiring and one of
fangwei123456/spikingjelly as of November 2020 (c8a9ba8), the version it was written for. A step is
forward, loss, backward, the optimizer with Grad R and the reset of the neurons, on 128 images of
MNIST's size for T = 8; both take turns within one process.

    python benchmarks/released.py GRADIENT-REWIRING SPIKINGJELLY --runs 30 --json released.json
"""

import argparse
import importlib
import json
import statistics
import sys
from pathlib import Path
from types import ModuleType

import spikingjelly
import torch
from torch import Tensor
from torch.nn.functional import mse_loss, one_hot
from torch.optim import Adam
from train_step import BATCH, CLASSES, Call, T, rounds, train_step

from spikewire import GradR, Pruner
from spikewire.augment import AUGMENTS
from spikewire.nets import fc
from spikewire.provenance import provenance

ALPHA, LR = 1e-2, 1e-4


def released(code: Path, library: Path, images: Tensor, targets: Tensor) -> Call:
    """Return a call that makes one step of the authors' own loop."""
    spikingjelly.__path__.append(str(library / "spikingjelly"))  # for spikingjelly.clock_driven
    sys.path[:0] = [str(code), str(code / "mnist")]
    unused = sys.modules["torchvision"] = ModuleType("torchvision")  # imported for nothing
    unused.__dict__["transforms"] = None
    functional = importlib.import_module("spikingjelly.clock_driven.functional")
    model = importlib.import_module("model").MnistNet(T=T)
    rewiring = importlib.import_module("gradrewire").GradRewiring
    optimizer = rewiring(model.parameters(), lr=LR, alpha=ALPHA, s=0.95)

    def call() -> None:
        optimizer.zero_grad()
        mse_loss(model(images) / T, targets).backward()
        optimizer.step()
        functional.reset_net(model)

    return call


def ours(images: Tensor, targets: Tensor) -> Call:
    """Return a call that makes one step of ours."""
    model = fc(T)
    adam = Adam(model.parameters(), lr=LR, fused=True)
    Pruner(model, GradR(alpha=ALPHA, bias_corrected=True), adam, steps=10**9)
    return train_step(model, adam, images, targets, compiled=True)


def augmentation(images: Tensor) -> Call:
    """Return a call that augments one batch as the paper's code does, image by image at random."""
    random = torch.Generator().manual_seed(0)

    def call() -> None:
        augmented = images
        for augment in AUGMENTS["mnist"]:
            augmented = augment(augmented, random)

    return call


def main() -> None:
    """Time every row and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("code", type=Path, help="clone of Yanqi-Chen/Gradient-Rewiring")
    parser.add_argument("library", type=Path, help="clone of spikingjelly at c8a9ba8")
    parser.add_argument("--runs", type=int, default=30, help="measurements of each row")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    images = torch.rand(BATCH, 1, 28, 28)
    targets = one_hot(torch.randint(CLASSES, (BATCH,)), CLASSES).float()
    calls = {
        "released code": released(options.code, options.library, images, targets),
        "spikewire": ours(images, targets),
        "  augmentation of a batch": augmentation(images),
    }
    rounds(calls, 1)  # compilation
    times = rounds(calls, options.runs)
    median = {name: statistics.median(values) for name, values in times.items()}
    ratios = {
        "released / spikewire": median["released code"] / median["spikewire"],
        "augmentation / step": median["  augmentation of a batch"] / median["spikewire"],
    }
    facts = provenance(torch.device("cpu"))
    print(", ".join(f"{key} {value}" for key, value in facts["machine"].items()))
    for name, value in median.items():
        print(f"{name:28}{value:10.3f} ms")
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.3f}")
    if options.json:
        results = {"ms": times, "ratios": ratios, **facts}
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
