"""The command line: train, lottery, report, measure, plot, export, run, reproduce, sweep, ..."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

from spikewire import (
    config,
    distributed,
    facts,
    formats,
    leaderboard,
    plots,
    repeats,
    report,
    study,
    words,
)
from spikewire import finished as results
from spikewire import run as runs
from spikewire import sweep as sweeps
from spikewire import tensorboard as board
from spikewire.bought import TIMED, bought
from spikewire.claims import PATIENCE
from spikewire.methods import METHODS
from spikewire.records import Records, folder_name
from spikewire.rounds import Lottery, play
from spikewire.runtime import file
from spikewire.scores import SCORES
from spikewire.shares import SHARES
from spikewire.spelling import check, parse
from spikewire.surrogates import SURROGATES
from spikewire.tables import text
from spikewire.train import Epoch

app = typer.Typer(
    help="Prune deep spiking neural networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
Root = Annotated[
    Path | None,
    typer.Option("--data", help="Folder with the data sets.", show_default="$SPIKEWIRE_DATA"),
]


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(help="A recipe by name, a .toml file, or file.py:function (a network).")
    ],
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value, such as method.sparsity=0.95 epochs=5.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder.", show_default="runs/RECIPE-SETTINGS")
    ] = None,
    data: Root = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write OUT/tensorboard as well.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train and prune a network; the same command again continues, or returns at once."""
    chosen = config.recipe(config.override(config.read(recipe), settings or []))
    if tensorboard:
        board.check()
    folder = out or _folder(recipe, settings or [])
    with _Display(quiet=as_json or distributed.rank() > 0) as display:
        log = board.log if tensorboard else lambda *_: None
        runs.run(chosen, folder, root=data, show=display, log=log)
    _show([folder], as_json)


@app.command()
def lottery(
    recipe: Annotated[
        str, typer.Argument(help="A recipe by name, a .toml file, or file.py:function (a network).")
    ],
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value, such as optimizer.lr=0.3 epochs=300.")
    ] = None,
    rounds: Annotated[
        int,
        typer.Option(
            min=1, help="Rounds after the dense one; more can be added later, but for --early-time."
        ),
    ] = 14,
    fraction: Annotated[
        float, typer.Option(help="Share of the survivors that each round removes.")
    ] = 0.25,
    rewind: Annotated[
        int | None,
        typer.Option(min=0, help="Epoch to go back to.", show_default="one in 15, as 20 of 300"),
    ] = None,
    score: Annotated[str, typer.Option(help="What a synapse is worth.")] = "magnitude",
    share: Annotated[str, typer.Option(help="How sparsity is spread over tensors.")] = "global",
    early_bird: Annotated[
        float | None,
        typer.Option(
            help="Instead of rounds: one ticket of this sparsity, drawn once its mask has settled."
        ),
    ] = None,
    early_time: Annotated[
        bool, typer.Option("--early-time", help="Fewer time steps in all rounds but the last.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the rounds.", show_default="runs/lottery-RECIPE-..."),
    ] = None,
    data: Root = None,
    as_json: Json = False,
) -> None:
    """Find lottery tickets: train, remove the weakest, go back, again; each round is a run."""
    words = settings or []
    if any(word.partition("=")[0].partition(".")[0] == "method" for word in words):
        raise ValueError(
            "method: a lottery trains densely, then holds masks: leave it out, and say how to "
            "prune by --rounds and --fraction, or --early-bird"
        )
    chosen = config.recipe(config.override(config.read(recipe), words))
    plan = Lottery(
        rounds,
        fraction,
        rewind,
        parse("score", score, SCORES, SURROGATES),
        parse("share", share, SHARES),
        early_bird,
        early_time,
    )
    usual = Lottery().settings()
    told = [f"{key}={value}" for key, value in plan.settings().items() if value != usual[key]]
    folder = out or _folder("lottery", [Path(recipe.partition(":")[0]).stem, *words, *told])
    with _Display(quiet=as_json or distributed.rank() > 0) as display:
        found = play(chosen, plan, folder, root=data, show=display)
    if distributed.rank() > 0:
        return
    if as_json:
        typer.echo(json.dumps(found))
        return
    _rounds(folder, found["rounds"])


@app.command("report")
def show_report(
    folders: Annotated[list[Path], typer.Argument(help="Run folders.")],
    as_json: Json = False,
) -> None:
    """Write report.html of each run again, and print what pruning bought."""
    for folder in folders:
        report.write(folder)
    _show(folders, as_json)


@app.command()
def measure(
    folder: Annotated[Path, typer.Argument(help="A finished run.")],
    data: Root = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples per batch.")] = 500,
    as_json: Json = False,
) -> None:
    """Measure the network of a run again, on its test data."""
    measured = results.measured(folder, root=data, batch=batch)
    if as_json:
        typer.echo(json.dumps(measured.as_dict()))
    else:
        console.print(str(measured), highlight=False)


@app.command()
def plot(
    folders: Annotated[list[Path], typer.Argument(help="Run folders.")],
    x: Annotated[str, typer.Option(help="Quantity on the horizontal axis.")] = "connectivity",
    y: Annotated[str, typer.Option(help="Quantity on the vertical axis.")] = "accuracy",
    out: Annotated[Path, typer.Option("--out", "-o", help="SVG file.")] = Path("tradeoff.svg"),
) -> None:
    """Draw runs against each other; the CSV of the points lies beside the picture."""
    drawn = plots.tradeoff(repeats.collect(folders), x=x, y=y)
    for path in drawn.save(out.parent, out.stem):
        typer.echo(path)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="A finished run.")],
    to: Annotated[Path, typer.Option(help="NAME.spikewire, or a folder called c for C99.")],
    precision: Annotated[
        str, typer.Option(help="Of weights: float32, float16 (not in C) or int8.")
    ] = "float32",
    data: Root = None,
) -> None:
    """Write the network of a run for the sparse engine, or as C99 without dependencies."""
    check("precision", precision, get_args(file.Precision))
    written = results.export(folder, to, root=data, precision=cast(Any, precision))
    typer.echo(written)


@app.command("run")
def run_network(
    network: Annotated[Path, typer.Argument(help="A file that export wrote.")],
    data: Root = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples per batch.")] = 500,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of both.", show_default="as torch has")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run an exported network on its test data, sparse and dense: accuracy and milliseconds."""
    found = results.compared(network, root=data, batch=batch, threads=threads)
    if as_json:
        typer.echo(json.dumps(found))
        return
    typer.echo(f"{network}, {found['bytes']:,} bytes")
    table = Table("", "dense PyTorch", "sparse engine")
    for name, key, form in (
        ("accuracy", "accuracy", "{:.2f} %"),
        ("time per sample", "milliseconds", "{:.3g} ms"),
    ):
        table.add_row(name, *(form.format(found[f"{key}_{kind}"]) for kind in ("dense", "sparse")))
    console.print(table)
    console.print(
        f"{found['differing']:,} of {found['spikes']:,} spikes differ, {found['threads']} threads",
        highlight=False,
    )


@app.command()
def reproduce(
    name: Annotated[str, typer.Argument(help="A study by name, such as paper-g, or a .toml file.")],
    item: Annotated[
        str | None, typer.Argument(help="A table or figure, such as table-4; all if left out.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value, laid over every run, such as epochs=16.")
    ] = None,
    records: Annotated[
        Path | None, typer.Option(help="Folder of the runs.", show_default="reproduce/STUDY")
    ] = None,
    train: Annotated[
        bool, typer.Option("--train", help="Train the runs that are missing.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Runs side by side.")] = 1,
    data: Root = None,
    as_json: Json = False,
) -> None:
    """Write a table or figure of a paper from the records of its runs, ours beside the paper's."""
    words = [word for word in (item, *(settings or [])) if word is not None]
    items = [word for word in words if "=" not in word]
    asked = study.read(name)
    folder = records or Path("reproduce") / Path(name).stem
    given = Records(asked, folder, _sorted(word for word in words if "=" in word))
    if asked.search is not None and (given.place / sweeps.SUMMARY).is_file():
        given = sweeps.read(given.place)  # as it was swept, whatever the study asks for by now
    at = sweeps.settled(given)
    if train and at is not given:
        raise ValueError(f"{name} searches for settings first: spikewire sweep {name}")
    asked = at.study
    needed = {run for each in items for run in at.needed(each)} if items else asked.all_runs
    wanted = [run for run in asked.all_runs if run in needed]
    for each in items or asked.items:  # before hours of training
        at.check(each)
    if not items:
        at.check_page()
    if train:
        at.train(wanted, data, jobs, lambda run: typer.echo(f"trained {run}", err=True))
    missing = at.missing(wanted)
    tables = {each: at.table(each) for each in items or asked.items if each in asked.tables}
    published = any(row["paper_accuracy"] for rows in tables.values() for row in rows)
    if len(missing) == len(wanted) and not (items and published):
        raise ValueError(
            f"no run of {' '.join([name, *words])} is in {at.place}: give the folder of the "
            "records (--records), or let them be trained (--train)"
        )
    if missing:
        typer.echo(
            f"not in {at.place}: {', '.join(missing)}; --train trains what is missing", err=True
        )
    for each in items or asked.items:
        for drawn in at.draw(each):
            _written(drawn.save(at.place), as_json)
    for each, rows in tables.items():
        formats.write_json(at.place / f"{each}.json", rows)
        _written([at.place / f"{each}.json"], as_json)
    if as_json:  # the rows of one table, or of each by its name
        typer.echo(json.dumps(tables[items[0]] if len(items) == len(tables) == 1 else tables))
    else:
        _tables(tables)
    if not items:
        _page(at, " ".join([name, *words]), as_json)


@app.command()
def sweep(
    name: Annotated[str, typer.Argument(help="A study by name, or a .toml file.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value, laid over every run, such as epochs=2.")
    ] = None,
    records: Annotated[
        Path | None, typer.Option(help="Folder of the runs.", show_default="reproduce/STUDY")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
    patience: Annotated[
        float, typer.Option(help="Seconds until the run of a worker that died is taken over.")
    ] = PATIENCE,
    data: Root = None,
    as_json: Json = False,
) -> None:
    """Search for settings, then train all runs of a study, beside all who work in its folder."""
    words = _sorted(settings or [])
    folder = records or Path("reproduce") / Path(name).stem
    at = Records(study.read(name), folder, words)
    sweeps.check(at)
    if jobs > 1:
        command = [sys.executable, "-m", "spikewire", "sweep", name, *words]
        command += ["--records", str(folder), "--patience", str(patience), "--json"]
        command += ["--data", str(data)] if data else []
        sweeps.employ(command, jobs)
    else:
        sweeps.work(
            at, data, patience=patience, done=lambda run: typer.echo(f"trained {run}", err=True)
        )
    found = {grid.name: sweeps.tried(at, grid.name) for grid in at.study.grids}
    chosen = {grid: told["chosen"] for grid, told in found.items() if told is not None}
    if as_json:
        runs_done = list(sweeps.settled(at).study.all_runs)
        typer.echo(json.dumps({"folder": str(at.place), "chosen": chosen, "runs": runs_done}))
        return
    for grid, choice in chosen.items():
        typer.echo(f"{grid}: {' '.join(choice)}")
    typer.echo(f"{at.place}; spikewire leaderboard {at.place} compares its runs")


@app.command("leaderboard")
def write_leaderboard(
    folders: Annotated[list[Path], typer.Argument(help="Folders of sweeps, one for each section.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")] = Path(
        leaderboard.NAME
    ),
) -> None:
    """Compare the methods of sweeps, from their records: a page, and Markdown, JSON and CSV."""
    _written(leaderboard.write(folders, out), as_json=False)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="Describe this method.")] = None,
    as_json: Json = False,
) -> None:
    """List the methods, or describe one: its formula, its source, its fields with defaults."""
    if name is not None:
        check("method", name, METHODS)
    rows = {key: _about(key) for key in ([name] if name else METHODS)}
    if as_json:
        typer.echo(json.dumps(list(rows.values())))
        return
    if name is not None:
        typer.echo(inspect.getdoc(METHODS[name]))
        console.print_json(data=rows[name]["fields"])
        return
    table = Table("method", "family", "sparsity", "what it does", "source")
    for row in rows.values():
        table.add_row(*(row[key] for key in ("name", "family", "sparsity", "what", "source")))
    console.print(table)


def _about(method: str) -> dict[str, Any]:
    """A method, as `spikewire methods` shows it."""
    kind = METHODS[method]
    return {
        "name": method,
        "family": kind.__module__.rpartition(".")[2],
        "sparsity": kind.sparsity_is,
        "what": (kind.__doc__ or "").strip().splitlines()[0].replace("``", ""),
        "source": kind.source,
        "fields": config.defaults(kind),
    }


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe, complete.")] = None,
    as_json: Json = False,
) -> None:
    """List the recipes that come with spikewire, or print one with all its settings."""
    if name is not None:
        chosen = config.recipe(config.read(name))
        typer.echo(json.dumps(chosen.dump()) if as_json else chosen.toml())
        return
    known = {name: config.about(name) for name in config.recipes()}
    if as_json:
        typer.echo(json.dumps(known))
        return
    for name, about in known.items():
        typer.echo(f"{name:<{max(map(len, known))}}  {about}")


def _sorted(settings: Iterable[str]) -> list[str]:
    """By key: in another order they are the same study, and of one key the last counts."""
    return sorted(settings, key=lambda word: word.partition("=")[0])


def _folder(recipe: str, settings: list[str]) -> Path:
    """A folder for each command: the same words continue the same run."""
    return Path("runs") / folder_name([Path(recipe.partition(":")[0]).stem, *settings])


def _written(paths: Iterable[Path], as_json: bool) -> None:
    for path in paths:
        typer.echo(path, err=as_json)


def _page(at: Records, command: str, as_json: bool) -> None:
    """Write README.md, unless there is one that is none of ours."""
    path = at.place / "README.md"
    at.check_page()
    formats.write(path, at.readme(command).encode())
    _written([path], as_json)


def _tables(tables: dict[str, list[dict[str, Any]]]) -> None:
    for name, rows in tables.items():
        table = Table(title=name, box=None)
        columns, lines = text(rows)
        for column in columns:
            table.add_column(column, justify="left" if column in ("method", "data") else "right")
        for line in lines:
            table.add_row(*map(escape, line))
        console.print(table)


def _show(folders: list[Path], as_json: bool) -> None:
    if distributed.rank() > 0:
        return
    if as_json:
        told = [facts.read(folder).report for folder in folders]
        typer.echo(json.dumps(told[0] if len(told) == 1 else told))
        return
    for folder in folders:
        _bought(folder)
    if len(folders) > 1:
        _over_runs(folders)


def _bought(folder: Path) -> None:
    run = facts.read(folder)
    twin = facts.twin(folder)
    table = Table("", "dense", "pruned", "bought", title="what pruning bought")
    rows = bought(run.report, twin.report if twin else None)
    timed = [row for row in rows if row.name == TIMED]
    for row in rows:
        if row not in timed:
            table.add_row(*map(escape, (row.name, row.dense, row.pruned, row.ratio)))
    console.print(f"{folder}", highlight=False, markup=False, soft_wrap=True)
    console.print(table)
    for row in timed:
        console.print(
            f"{row.name}: {row.dense} and {row.pruned}, {row.ratio}; {row.note}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    console.print(
        f"report: {folder / 'report.html'}", highlight=False, markup=False, soft_wrap=True
    )


def _rounds(folder: Path, rows: list[dict[str, Any]]) -> None:
    names = ("round", "T", "sparsity", "accuracy", "against dense", "epochs", "epochs in all")
    table = Table(*(Column(name, justify="right") for name in names))
    for row in rows:
        gain = row["accuracy"] - rows[0]["accuracy"]
        table.add_row(
            str(row["round"]),
            str(row["T"] or words.NONE),
            f"{100 * row['sparsity']:.2f} %",
            f"{row['accuracy']:.2f} %",
            f"{gain:+.2f}".replace("-", words.MINUS),
            str(row["epochs"]),
            str(row["total_epochs"]),
        )
    console.print(f"{folder}", highlight=False, markup=False, soft_wrap=True)
    console.print(table)
    figure = folder / "accuracy-against-sparsity.svg"
    console.print(f"figure: {figure}", highlight=False, markup=False, soft_wrap=True)


def _over_runs(folders: list[Path]) -> None:
    rows = repeats.table(folders)
    names = list(rows[0])
    table = Table(names[0], *(escape(row[names[0]]) for row in rows), title="mean over seeds")
    for name in names[1:]:
        table.add_row(name, *(escape(row[name]) for row in rows))
    console.print(table)


class _Display:
    """The progress bar: epoch, accuracy, sparsity, firing rate, time left."""

    def __init__(self, quiet: bool) -> None:
        terminal = Console(stderr=True)
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=terminal,
            disable=quiet or not terminal.is_terminal,
        )
        self.tasks: dict[Path, Any] = {}

    def __enter__(self) -> _Display:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(
        self, out: Path, recipe: config.Recipe, epoch: Epoch, record: dict[str, Any] | None
    ) -> None:
        if out not in self.tasks:
            self.tasks[out] = self.progress.add_task(
                escape(str(out)),
                total=recipe.epochs * epoch.batches,
                completed=epoch.step,
                state="",
            )
        state = f"epoch {epoch.epoch} loss {epoch.loss:.4f}"
        if record is not None:
            if (test := record["accuracy"]["test"]) is not None:
                state += f"  test {test:.2f} %"
            state += f"  sparsity {record['sparsity']:.4f}"
            if record["firing_rate"] is not None:
                state += f"  rate {record['firing_rate']:.3f}"
        self.progress.update(self.tasks[out], completed=epoch.step, state=state)


def main() -> None:
    """Run the command; wrong input becomes one sentence and exit status 2."""
    # Moments of synapses whose gradients have ceased decay into denormal numbers, with which a CPU
    # calculates several times more slowly.
    torch.set_flush_denormal(True)
    try:
        app()
    except runs.Stopped as stop:
        typer.echo(f"{stop}; saved: the same command continues", err=True)
        sys.exit(130)
    except (ValueError, OSError) as error:
        typer.echo(f"spikewire: {error}", err=True)
        sys.exit(2)
