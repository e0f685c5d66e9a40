"""What a compact network saves: parameters, multiplications, latency on this machine.

A share of the channels of every normalisation is taken out at random; the rival is the same network
with those channels held at 0. Prints a table; ``--json FILE`` writes the record.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spikewire import compact
from spikewire.channels import channels_of
from spikewire.compact import Outline
from spikewire.dialects import reset
from spikewire.nets import conv6fc2, resnet19, vgg16
from spikewire.provenance import provenance

NETWORKS = {
    "VGG16": lambda width: vgg16("channels", width=width, classes=100),
    "ResNet19": lambda width: resnet19("channels", width=width, classes=100),
    "6Conv-2FC": lambda width: conv6fc2(T=5, width=4 * width),
}
SHARES = (0.3, 0.5, 0.7)


@torch.no_grad()
def silence(net: nn.Module, example: Tensor, share: float) -> dict[str, Tensor]:
    """Take out this share of the channels; returns which are left."""
    masks = {}
    for channels in channels_of(net, example):
        order = torch.randperm(len(channels.mask))
        channels.mask[order[: round(share * len(order))]] = False
        channels.enforce()
        masks[channels.name] = channels.mask
    return masks


@torch.no_grad()
def lively(net: nn.Module, images: Tensor) -> None:
    """Gains with which neurons fire in every layer, and statistics to go with them."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 1.0, 3.0)
            nn.init.uniform_(module.bias, -0.5, 1.0)
            module.momentum = 1.0
        elif isinstance(module, nn.Linear):
            module.weight.mul_(8.0)
    net(images)
    reset(net)
    net.eval()


@torch.no_grad()
def run(net: nn.Module, images: Tensor) -> tuple[float, Tensor]:
    begun = time.perf_counter()
    outputs = net(images)
    spent = time.perf_counter() - begun
    reset(net)
    return spent, outputs


def largest_difference(net: nn.Module, small: nn.Module, images: Tensor) -> float:
    """In float64: in float32 a sum at the threshold may fall either way, and spikes follow it."""
    pair = [copy.deepcopy(each).double() for each in (net, small)]
    (_, one), (_, other) = (run(each, images.double()) for each in pair)
    return float((one - other).abs().max())


def measured(name: str, share: float, runs: int, batch: int, width: int) -> dict[str, Any]:
    torch.manual_seed(0)
    net, images = NETWORKS[name](width), torch.randn(batch, 3, 32, 32)
    lively(net, images)
    masks = silence(net, images, share)
    small = compact(net, images)
    pairs = [(run(net, images), run(small, images)) for _ in range(runs + 1)][1:]
    whole = [before for (before, _), _ in pairs]
    left = [after for _, (after, _) in pairs]
    return {
        "network": name,
        "channels_out": share,
        "parameters": [sum(p.numel() for p in each.parameters()) for each in (net, small)],
        "multiplications_saved": Outline(net, images).saving(masks),
        "seconds": [whole, left],
        "largest_difference": largest_difference(net, small, images),
        "outputs_std": float(pairs[-1][0][1].std()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(f"T=5, batch {options.batch}, {torch.get_num_threads()} threads, medians")
    head = ("network", "channels out", "parameters", "multipl.", "latency ms", "faster", "diff")
    print("{:<11}{:>13}{:>18}{:>10}{:>18}{:>8}{:>10}".format(*head))
    rows = []
    for name in NETWORKS:
        for share in SHARES:
            row = measured(name, share, options.runs, options.batch, options.width)
            rows.append(row)
            slow, fast = (1e3 * statistics.median(times) for times in row["seconds"])
            before, after = (count / 1e6 for count in row["parameters"])
            print(
                f"{name:<11}{share:>13.0%}{f'{before:.2f} > {after:.2f} M':>18}"
                f"{-row['multiplications_saved']:>10.1%}{f'{slow:.0f} > {fast:.0f}':>18}"
                f"{slow / fast:>7.1f}x{row['largest_difference']:>10.1e}"
            )
    if options.json:
        record = {"batch": options.batch, "rows": rows, **provenance(torch.device("cpu"))}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
