"""Run a study and keep its records: ``python reproduce/record.py STUDY [--data DIR] [--jobs 2]``.

Runs lie in runs/STUDY; their small files (run.toml, metrics.jsonl, report.json) are copied to
reproduce/STUDY beside a table. Finished runs are skipped, so the command can be stopped and given
again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from spikewire import plots, report

HERE = Path(__file__).parent
FILES = ("run.toml", "metrics.jsonl", "report.json")


@dataclass(frozen=True)
class Study:
    """Runs of one recipe with different settings, and what a reader must know of them."""

    recipe: str
    runs: dict[str, list[str]]
    note: str
    course: str | None = None  # the run whose epochs are shown one by one


STUDIES = {
    "demo": Study(
        "digits",
        {f"seed-{seed}": [f"seed={seed}"] for seed in range(3)},
        "A small convolutional network on scikit-learn's digits, each seed beside its dense\n"
        "twin of the same budget: what `make demo` runs.",
    ),
    "first-hour": Study(
        "mnist",
        {
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
        },
        "Every method for ten epochs on MNIST: 784-800-10, T=8, batch 128, Adam, learning rate\n"
        "1e-3 falling on a cosine, seed 0, one run per method. Methods run with their defaults;\n"
        "the strengths of Grad R, STDS and Deep R were set by hand beforehand, towards 90 %,\n"
        "and these three are *shortened* from the hundreds of epochs of their papers. All methods\n"
        "but dense, Grad R and STDS, whose sparsity emerges, were asked for 90 %.",
        course="gradr",
    ),
}


def run(study: str, name: str, data: Path | None, threads: int) -> None:
    """Run one row of a study, unless it is finished, and copy its records."""
    out = HERE.parent / "runs" / study / name
    command = [sys.executable, "-m", "spikewire", "train", STUDIES[study].recipe]
    command += [*STUDIES[study].runs[name], "--out", str(out), "--json"]
    command += ["--data", str(data)] if data else []
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr}")
    for folder in (out, out / "dense"):
        if folder.is_dir():
            record = HERE / study / folder.relative_to(HERE.parent / "runs" / study)
            record.mkdir(parents=True, exist_ok=True)
            for file in FILES:
                shutil.copy(folder / file, record / file)
    print(f"{study}: {name}", flush=True)


def table(study: str) -> str:
    """What the records say, as Markdown."""
    rows = report.table([HERE / study / name for name in STUDIES[study].runs])
    return markdown(list(rows[0]), [list(row.values()) for row in rows])


def course(study: str, name: str) -> str:
    """Connectivity, pruned and regrown synapses of one run, epoch by epoch."""
    lines = (HERE / study / name / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    columns = ["epoch", "connectivity %", "pruned", "regrown", "test accuracy %"]
    rows = [
        [
            str(record["epoch"]),
            f"{100 * record['connectivity']:.2f}",
            f"{sum(layer['pruned'] for layer in record['layers']):,}",
            f"{sum(layer['regrown'] for layer in record['layers']):,}",
            f"{record['accuracy']['test']:.2f}",
        ]
        for record in records
    ]
    return f"\n## {name}, epoch by epoch\n\n{markdown(columns, rows)}\n"


def markdown(columns: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Run what is missing, then write the study's README and picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--data", type=Path, help="folder with the data sets")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    options = parser.parse_args()
    study = STUDIES[options.study]
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda n: run(options.study, n, options.data, threads), study.runs))
    folder = HERE / options.study
    (folder / "README.md").write_text(
        f"# {options.study}\n\n{study.note}\n\nWritten by `python reproduce/record.py "
        f"{options.study}`.\n\n{table(options.study)}\n"
        + (course(options.study, study.course) if study.course else "")
    )
    plots.tradeoff(report.collect([folder / name for name in study.runs])).save(folder)


if __name__ == "__main__":
    main()
