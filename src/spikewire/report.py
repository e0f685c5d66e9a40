"""Report: the page of a run: what pruning bought, figures, layers, configuration and provenance.

`write` turns a run folder into one HTML page that needs neither network nor script. Everything
read from a run folder is taken as foreign: it is checked on reading and escaped on writing.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from spikewire import formats, words
from spikewire.bought import bought
from spikewire.facts import Run, alive_of, read, synapses_of, twin
from spikewire.plots import Plot, figures


def write(run: Path | str, dense: Path | str | None = None) -> Path:
    """Write RUN/report.html and RUN/figures/*.svg, *.csv from the files of a run.

    Args:
        run: run folder with run.toml, metrics.jsonl and report.json.
        dense: run folder of the dense twin; by default RUN/dense, if that holds a finished run.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: if a file of the run is missing.
        ValueError: if a file of the run cannot be understood.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> report = '{"method": "gmp", "sparsity": 0.9, "layers": [], "accuracy": {"last": 97}}'
        >>> files = {"run.toml": "", "metrics.jsonl": "", "report.json": report}
        >>> for name, text in files.items():
        ...     _ = (folder / name).write_text(text)
        >>> write(folder).name
        'report.html'
    """
    pruned = read(run)
    other = read(dense) if dense is not None else twin(pruned.path)
    drawn = figures(
        pruned.records,
        pruned.report,
        other.records if other else (),
        other.report if other else None,
    )
    saved = [plot.save(pruned.path / "figures") for plot in drawn]
    embedded = [_embedded(plot, svg) for plot, (svg, _) in zip(drawn, saved, strict=True)]
    page = pruned.path / "report.html"
    formats.write(page, _page(pruned, other, embedded).encode())
    return page


@cache
def template(name: str) -> Template:
    """A page of `templates`, which escapes whatever it is given.

    >>> template("report.html.j2").name
    'report.html.j2'
    """
    environment = Environment(
        loader=PackageLoader("spikewire"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _page(run: Run, other: Run | None, embedded: Sequence[Mapping[str, str]]) -> str:
    report, dense = run.report, other.report if other else None
    return template("report.html.j2").render(
        title=_title(report),
        facts=_facts(run),
        lead=_lead(report, dense),
        bought=bought(report, dense),
        is_dense=report["method"] == "dense",
        has_twin=dense is not None,
        figures=embedded,
        epochs=len(run.records),
        layers=_layers(run),
        neurons=_firing_rows(report, dense),
        configuration=_tables(run.config),
        provenance=_provenance(run),
        neurobench=_flat(report.get("neurobench") or {}),
    )


def _title(report: Mapping[str, Any]) -> str:
    where = [report[name] for name in ("network", "data") if report.get(name)]
    return " · ".join([report["method"], *where])


def _facts(run: Run) -> list[str]:
    report = run.report
    known = (
        (len(run.records), "{:,} epochs" if len(run.records) != 1 else "{} epoch"),
        (report.get("parameters"), "{:,} parameters"),
        (report.get("seconds_per_epoch"), "{:.3g} s per epoch"),
        (report.get("seed"), "seed {}"),
    )
    return [form.format(value) for value, form in known if value is not None]


def _lead(report: Mapping[str, Any], dense: Mapping[str, Any] | None) -> str:
    """Return the result in one sentence."""
    every, pruned = synapses_of(report), synapses_of(report) - alive_of(report)
    images = f"{samples:,} test images" if (samples := report.get("samples")) else "test images"
    accuracy = f"{report['accuracy']['last']:.2f} % of the {images} are classified correctly"
    if not pruned:
        return f"No synapse of {every:,} was pruned; {accuracy}."
    against = ""
    if dense is not None:
        gain = report["accuracy"]["last"] - dense["accuracy"]["last"]
        against = f", {words.signed(gain)} points against the dense twin"
    return (
        f"{pruned:,} of {every:,} synapses were pruned ({100 * report['sparsity']:.2f} %); "
        f"{accuracy}{against}."
    )


def _embedded(plot: Plot, svg: Path) -> dict[str, str]:
    # As an image the SVG is a document of its own: it can run no script and load nothing, and its
    # identifiers and styles cannot meet those of the page or of another figure.
    data = base64.b64encode(svg.read_bytes()).decode()
    return {
        "name": plot.name,
        "title": plot.title,
        "caption": plot.caption,
        "source": f"data:image/svg+xml;base64,{data}",
    }


def _layers(run: Run) -> list[dict[str, Any]]:
    moved: dict[str, list[int]] = {}
    for record in run.records:
        for layer in record.get("layers", ()):
            counts = moved.setdefault(layer["name"], [0, 0])
            counts[0] += layer.get("pruned", 0)
            counts[1] += layer.get("regrown", 0)
    return [
        {
            "name": layer["name"],
            "synapses": f"{layer['synapses']:,}",
            "alive": f"{layer['alive']:,}",
            "connectivity": 100 * layer["alive"] / max(layer["synapses"], 1),
            "pruned": f"{moved[layer['name']][0]:,}" if layer["name"] in moved else words.NONE,
            "regrown": f"{moved[layer['name']][1]:,}" if layer["name"] in moved else words.NONE,
        }
        for layer in run.report["layers"]
    ]


def _firing_rows(
    report: Mapping[str, Any], dense: Mapping[str, Any] | None
) -> list[dict[str, str]]:
    pairs = {layer["name"]: layer for layer in (dense or {}).get("firing") or ()}
    rows = []
    for layer in report.get("firing") or ():
        pair = pairs.get(layer["name"])
        rows.append(
            {
                "name": layer["name"],
                "neurons": f"{layer['neurons']:,}",
                "rate": words.share(layer["rate"]),
                "dense_rate": words.share(pair["rate"]) if pair else words.NONE,
                "silent": f"{layer['silent']:,}",
                "dense_silent": f"{pair['silent']:,}" if pair else words.NONE,
            }
        )
    return rows


def _provenance(run: Run) -> list[tuple[str, str]]:
    report = run.report
    return [
        ("commit", report.get("commit") or "not recorded"),
        ("seed", words.shown(report.get("seed"))),
        *_flat(report.get("versions") or {}, "versions"),
        *_flat(report.get("machine") or {}, "machine"),
    ]


def _tables(config: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    plain = {name: value for name, value in config.items() if not isinstance(value, Mapping)}
    named = [(name, value) for name, value in config.items() if isinstance(value, Mapping)]
    found = [("run", plain), *named] if plain else named
    return [(name, _flat(values)) for name, values in found]


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        called = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(value, Mapping) and value:
            rows += _flat(value, called)
        else:
            rows.append((called, words.shown(value)))
    return rows
