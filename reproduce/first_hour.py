"""Every method for ten epochs on MNIST: the records under reproduce/first-hour and their table.

    python reproduce/first_hour.py --data DIR [--jobs 2]

The network is 784-800-10 (T=8, batch 128). Grad R, STDS and Deep R are shortened from the papers'
hundreds of epochs; nothing is tuned on the test set. Finished runs are skipped, so the command can
be stopped and given again. Runs lie in runs/first-hour; their small files are the record.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
RECORDS = HERE / "first-hour"

RUNS = {
    "dense": ["method=dense"],
    "one-shot": ["method=one-shot"],
    "gmp": [],
    "snip": ["method=snip"],
    "set": ["method=set"],
    "rigl": ["method=rigl"],
    "granet": ["method=granet"],
    "ndsnn": ["method=ndsnn"],
    "criticality": ["method=criticality"],
    "gradr": ["method=gradr", "method.alpha=0.05", "method.bias_corrected=true"],
    "stds": ["method=stds", "method.width=0.05"],
    "deepr": ["method=deepr", "method.l1=0.01"],
}


def run(name: str, data: Path, threads: int) -> None:
    out = ROOT / "runs" / "first-hour" / name
    command = [sys.executable, "-m", "spikewire", "train", "mnist", *RUNS[name]]
    command += ["--data", str(data), "--out", str(out), "--json"]
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr}")
    record = RECORDS / name
    record.mkdir(parents=True, exist_ok=True)
    for file in ("run.toml", "metrics.jsonl", "report.json"):
        shutil.copy(out / file, record / file)
    print(f"{name}: {json.loads(done.stdout)['accuracy']['last']:.2f} %", flush=True)


def table() -> str:
    """The records as a Markdown table."""
    lines = [
        "| method | test accuracy, last epoch % | at the validated epoch % | sparsity % | "
        "file, sparse | SynOps per image | seconds per epoch |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in RUNS:
        report = json.loads((RECORDS / name / "report.json").read_text())
        best = report["accuracy"]["validation_best"]
        lines.append(
            f"| {name} | {report['accuracy']['last']:.2f} | {best:.2f} "
            f"| {100 * report['sparsity']:.2f} | {report['bytes']['sparse'] / 1024:,.0f} KiB "
            f"| {report['synops']:,.0f} | {report['seconds_per_epoch']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with MNIST")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    options = parser.parse_args()
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda name: run(name, options.data, threads), RUNS))
    (RECORDS / "README.md").write_text(
        "# Ten epochs on MNIST\n\n"
        "784-800-10, T=8, batch 128, Adam, learning rate 1e-3 falling on a cosine, seed 0, one\n"
        "run per method; nothing was tuned. The schedules of Grad R, STDS and Deep R are *shortened*\n"
        "from the hundreds of epochs of their papers. Sparsity is asked for (90 %) by all methods\n"
        "but dense, Grad R and STDS, whose sparsity emerges.\n"
        "Written by `python reproduce/first_hour.py --data DIR`.\n\n" + table() + "\n"
    )


if __name__ == "__main__":
    main()
