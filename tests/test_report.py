"""The page of a run: its numbers, its figures, and what it refuses to be talked into."""

import html.parser
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spikewire import plots, report

HOSTILE = (
    "<script>alert(1)</script>", "=cmd()", "$\\frac{1}$", "_hidden", "--><img src=x>", "\x1b[31m",
)  # fmt: skip
NONE, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


def histogram(values: np.ndarray, low: float, high: float) -> dict:
    """Return a histogram as runs record it."""
    counts, _ = np.histogram(values, bins=40, range=(low, high))
    return {"low": low, "high": high, "counts": counts.tolist()}


def fake_run(
    folder: Path,
    *,
    epochs: int = 12,
    sizes: dict[str, int] | None = None,
    target: float = 0.9,
    method: str = "gradr",
    seed: int = 0,
    theta: bool = True,
    histograms: bool = True,
    validation: bool = True,
    twin: bool = False,
) -> Path:
    """Write a run folder that looks like a real one; the numbers hang together."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = sizes or {"conv1.weight": 2400, "fc1.weight": 627200, "fc2.weight": 8000}
    chance = np.random.default_rng(seed)
    alive = dict(sizes)
    records = []
    for epoch in range(1, epochs + 1):
        share = target * (1 - (1 - epoch / epochs) ** 3)
        layers = []
        for place, (name, synapses) in enumerate(sizes.items()):
            left = max(1, round(synapses * (1 - share * (0.7 + 0.3 * place / len(sizes)))))
            regrown = round(0.3 * (alive[name] - left))
            pruned = alive[name] - left + regrown
            alive[name] = left
            layers.append(
                {"name": name, "synapses": synapses, "alive": left, "pruned": pruned,
                 "regrown": regrown}
            )  # fmt: skip
        sparsity = 1 - sum(alive.values()) / sum(sizes.values())
        test = 97.6 - 30 * math.exp(-epoch / 1.5) - 1.2 * share**6 + chance.normal(0, 0.15)
        kept = {}
        for name in sizes if histograms else ():
            spread = 0.05 + 0.05 * epoch / epochs
            weights = chance.normal(0, spread, 3000)
            weights = weights[np.abs(weights) > 0.05 * share]
            kept[name] = {"weight": histogram(weights, -0.4, 0.4)}
            if theta:
                kept[name]["theta"] = histogram(
                    chance.normal(0.1 - 0.3 * share, 0.1, 3000), -0.6, 0.5
                )
        records.append(
            {
                "epoch": epoch,
                "step": 100 * epoch,
                "seconds": 3.0,
                "lr": 1e-3,
                "loss": 0.5 / epoch,
                "accuracy": {
                    "train": test + 1.1,
                    "validation": test - 0.2 if validation else None,
                    "test": test,
                },
                "firing_rate": 0.1,
                "sparsity": sparsity,
                "connectivity": 1 - sparsity,
                "layers": layers,
                "histograms": kept,
            }
        )
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(lines)
    synapses, left = sum(sizes.values()), sum(alive.values())
    firing = []
    for place, neurons in enumerate((800, 10), 1):
        rates = np.clip(chance.gamma(1.2, 0.1 if target else 0.14, neurons), 0, 1)
        firing.append(
            {"name": str(place), "neurons": neurons, "rate": float(rates.mean()),
             "silent": int((rates < 0.01).sum()), "histogram": histogram(rates, 0.0, 1.0)}
        )  # fmt: skip
    synops = 800_000 * (1 - sparsity)
    content = {
        "accuracy": {
            "last": records[-1]["accuracy"]["test"],
            "validation_best": records[-1]["accuracy"]["test"] if validation else None,
            "validation_best_epoch": epochs if validation else None,
        },
        "sparsity": sparsity,
        "connectivity": 1 - sparsity,
        "layers": [
            {"name": name, "synapses": size, "alive": alive[name],
             "sparsity": 1 - alive[name] / size}
            for name, size in sizes.items()
        ],
        "epochs": epochs,
        "seconds_per_epoch": 3.1,
        "parameters": synapses + 810,
        "synops": synops,
        "dense_synops": 4_000_000.0,
        "macs": 50_000.0 * (1 - sparsity),
        "energy_nj": 0.9e-3 * synops + 4.6e-3 * 50_000 * (1 - sparsity),
        "energy_assumptions": "45 nm: 0.9 pJ per accumulate, 4.6 pJ per multiply-accumulate "
        "(Horowitz 2014); memory traffic is not counted",
        "bytes": {"dense": 4 * synapses, "sparse": 6 * left + 1000},
        "firing": firing,
        "neurobench": {"footprint": 4 * synapses, "synaptic_operations": {"Effective_ACs": synops}},
        "machine": {"processor": "x86_64", "cores": 2, "memory_gb": 8.0},
        "versions": {"spikewire": "0.1.0", "torch": "2.13.0", "python": "3.11.7"},
        "commit": "0123abc",
        "method": method,
        "network": "fc",
        "data": "digits",
        "seed": seed,
    }  # fmt: skip
    (folder / "report.json").write_text(json.dumps(content))
    config = {
        "network": "fc",
        "data": "digits",
        "epochs": epochs,
        "seed": seed,
        "twin": twin,
        "method": {"name": method, "sparsity": target},
        "optimizer": {"name": "adam", "lr": 1e-3, "betas": [0.9, 0.999]},
    }
    (folder / "run.toml").write_text(tomli_w.dumps(config))
    if twin:
        fake_run(folder / "dense", epochs=epochs, sizes=sizes, target=0.0, method="dense",
                 seed=seed, theta=False, validation=validation)  # fmt: skip
    return folder


@pytest.fixture
def without_figures(monkeypatch):
    """Leave the figures out of the page: they take most of the time."""
    monkeypatch.setattr(report, "figures", lambda *_: [])


class Elements(html.parser.HTMLParser):
    """Collects the tags of a page with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of each element called `tag`."""
        return [attributes for name, attributes in self.found if name == tag]


def images(page: str) -> list[bytes]:
    """Return the figures inside a page as SVG."""
    sources = [str(image["src"]) for image in Elements(page).of("img")]
    start = "data:image/svg+xml;base64,"
    assert all(source.startswith(start) for source in sources)
    return [b64decode(source.removeprefix(start)) for source in sources]


@pytest.fixture
def plain(tmp_path, without_figures):
    """Return the tags of a page whose names are harmless."""
    run = fake_run(tmp_path / "plain", epochs=1, sizes={"a": 100}, histograms=False)
    return [tag for tag, _ in Elements(report.write(run).read_text()).found]


def test_page_and_figures_are_written(tmp_path):
    run = fake_run(tmp_path / "run", twin=True)
    path = report.write(run)
    assert path == run / "report.html"
    names = {file.name for file in (run / "figures").iterdir()}
    expected = {
        "accuracy", "sparsity-by-layer", "connectivity-by-layer", "rewiring", "firing-rates",
        "weight-histograms", "theta-histograms",
    }  # fmt: skip
    assert names == {f"{name}{end}" for name in expected for end in (".svg", ".csv")}
    page = path.read_text()
    assert len(images(page)) == len(expected)
    for link in Elements(page).of("a"):
        assert (run / str(link["href"])).is_file()
    assert not list(run.rglob("*.partial"))


def test_page_comes_out_the_same_twice(tmp_path, without_figures):
    run = fake_run(tmp_path / "run", epochs=1, histograms=False)
    first = report.write(run).read_bytes()
    assert report.write(run).read_bytes() == first


def test_page_needs_neither_script_nor_network(tmp_path):
    run = fake_run(tmp_path / "run", epochs=1, histograms=False)
    page = report.write(run).read_text()
    elements = Elements(page)
    assert not {"script", "link", "iframe", "object", "embed", "form"} & {
        tag for tag, _ in elements.found
    }
    policy = next(
        str(meta["content"])
        for meta in elements.of("meta")
        if meta.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert not re.search(r"(src|href)=\"(https?:)?//", page)
    assert not [name for _, attributes in elements.found for name in attributes if name[:2] == "on"]


def test_hostile_names_stay_text(tmp_path):
    sizes = dict.fromkeys(HOSTILE, 100)
    run = fake_run(tmp_path / "run", epochs=1, sizes=sizes, method=HOSTILE[0], histograms=False)
    page = report.write(run).read_text()
    assert "script" not in {tag for tag, _ in Elements(page).found}
    assert all(set(image) == {"src", "alt"} for image in Elements(page).of("img"))
    for svg in images(page):
        kinds = {element.tag.split("}")[-1] for element in ElementTree.fromstring(svg).iter()}
        assert not kinds & {"script", "foreignObject", "image", "a"}
    for file in (run / "figures").glob("*.csv"):
        assert not re.search(r"(^|,)\"?[=@]", file.read_text(), re.MULTILINE)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.text(st.characters(codec="utf-8"), min_size=1, max_size=40))
def test_any_name_is_escaped(tmp_path, plain, name):
    run = fake_run(tmp_path / "run", epochs=1, sizes={name: 100}, method=name, histograms=False)
    assert [tag for tag, _ in Elements(report.write(run).read_text()).found] == plain


def test_hostile_configuration_is_escaped(tmp_path, without_figures):
    run = fake_run(tmp_path / "run", epochs=1)
    with (run / "run.toml").open("a") as file:
        file.write('["<img src=x onerror=alert(1)>"]\n"\\"><script>" = "</table><script>"\n')
    page = report.write(run).read_text()
    assert not Elements(page).of("script")
    assert "&lt;/table&gt;&lt;script&gt;" in page


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 1},
        {"epochs": 2, "validation": False, "histograms": False},
        {"epochs": 2, "theta": False},
        {"epochs": 2, "target": 0.0, "method": "dense", "theta": False},
    ],
)
def test_every_kind_of_run_has_a_page(tmp_path, options):
    page = report.write(fake_run(tmp_path / "run", **options)).read_text()
    assert images(page)


def test_run_without_epochs_has_a_page(tmp_path):
    run = fake_run(tmp_path / "run", epochs=1)
    (run / "metrics.jsonl").write_text("")
    assert "No epoch was recorded" in report.write(run).read_text()


def test_dense_run_says_what_it_costs(tmp_path, without_figures):
    run = fake_run(tmp_path / "run", epochs=1, target=0.0, method="dense")
    page = report.write(run).read_text()
    assert "What it costs" in page
    assert "No synapse of 637,600 was pruned" in page


def test_bought_by_hand():
    pruned = {
        "accuracy": {"last": 97.0, "validation_best": 97.2, "validation_best_epoch": 9},
        "sparsity": 0.75,
        "layers": [
            {"name": "a", "synapses": 300, "alive": 50},
            {"name": "b", "synapses": 100, "alive": 50},
        ],
        "bytes": {"dense": 1600, "sparse": 800},
        "synops": 100.0,
        "dense_synops": 390.0,
        "macs": 0.0,
        "energy_nj": 1500.0,
        "energy_assumptions": "0.9 pJ each",
        "firing": [
            {"name": "1", "neurons": 30, "rate": 0.1, "silent": 4, "histogram": {}},
            {"name": "2", "neurons": 10, "rate": 0.3, "silent": 1, "histogram": {}},
        ],
    }  # fmt: skip
    dense = {
        **pruned,
        "accuracy": {"last": 98.25, "validation_best": None},
        "sparsity": 0.0,
        "layers": [
            {"name": "a", "synapses": 300, "alive": 300},
            {"name": "b", "synapses": 100, "alive": 100},
        ],
        "synops": 400.0,
        "energy_nj": 1000.0,
    }  # fmt: skip
    rows = {row.name: row for row in report.bought(pruned, dense)}
    assert rows["Test accuracy, last epoch"][1:4] == ("98.25 %", "97.00 %", f"{MINUS}1.25 points")
    assert rows["Test accuracy, best validation epoch"][1:] == (NONE, "97.20 %", NONE, "epoch 9")
    assert rows["Synapses alive"][1:4] == ("400", "100", "÷ 4")
    assert rows["File"][1:4] == ("1.6 kB", "800 B", "÷ 2")
    assert rows["SynOps per image"][1:4] == ("400", "100", "÷ 4")
    assert rows["MACs per image"][1:4] == ("0", "0", "same")
    assert rows["Energy per image, estimate"][1:] == ("1 µJ", "1.5 µJ", "+50.0 %", "0.9 pJ each")
    assert rows["Firing rate"][1:4] == ("15.00 %", "15.00 %", "same")
    assert rows["Silent neurons"][1:] == ("5", "5", "same", "of 40 neurons")
    alone = {row.name: row for row in report.bought(pruned)}
    assert alone["Synapses alive"][1:4] == ("400", "100", "÷ 4")
    assert alone["SynOps per image"][1:4] == (NONE, "100", NONE)
    assert "390 if every input met every synapse" in alone["SynOps per image"].note
    assert alone["Test accuracy, last epoch"][1:4] == (NONE, "97.00 %", NONE)


def test_dense_twin_elsewhere(tmp_path, without_figures):
    run = fake_run(tmp_path / "run", epochs=2)
    dense = fake_run(tmp_path / "other", epochs=2, target=0.0, method="dense", theta=False)
    assert "dense twin" in report.write(run, dense).read_text()
    with pytest.raises(FileNotFoundError, match="is no run folder"):
        report.write(run, tmp_path / "nowhere")


def test_table_averages_over_seeds(tmp_path):
    runs = [fake_run(tmp_path / f"{seed}", epochs=2, seed=seed, twin=True) for seed in range(3)]
    runs.append(fake_run(tmp_path / "other", epochs=2, target=0.5))
    rows = report.table(runs)
    assert [(row["method"], row["runs"]) for row in rows] == [
        ("dense", "3"), ("gradr", "3"), ("gradr", "1"),
    ]  # fmt: skip
    accuracies = [report.read(run).report["accuracy"]["last"] for run in runs[:3]]
    mean, spread = plots.mean_and_spread(accuracies)
    assert rows[1]["accuracy"] == f"{mean:.2f} ± {spread:.2f} %"
    assert rows[0]["against dense"] == NONE
    assert rows[1]["against dense"].startswith(MINUS)


def test_collected_runs_can_be_plotted(tmp_path):
    runs = [
        fake_run(tmp_path / f"{seed}-{target}", epochs=2, seed=seed, target=target, twin=True)
        for seed in range(2)
        for target in (0.5, 0.9)
    ]
    plot = plots.tradeoff(report.collect(runs), x="connectivity", y="accuracy")
    assert [(row[0], row[3]) for row in plot.rows] == [("gradr", 2), ("dense", 2), ("gradr", 2)]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("report.json", None, "is missing, so the run is not finished"),
        ("metrics.jsonl", None, "is missing, so the run is not finished"),
        ("run.toml", None, "is missing, so the run is not finished"),
        ("report.json", b"{", "is not what a run writes"),
        ("report.json", b'{"accuracy": {"last": "high"}}', "at accuracy.last"),
        ("report.json", b"[" * 100_000, "is not what a run writes"),
        ("metrics.jsonl", b'{"epoch": 1}\n', "line 1 is not what a run writes"),
        ("metrics.jsonl", b"\xff\xfe\n", "is not UTF-8 text"),
        ("report.json", b'{"method": "\\ud800"}', "is not what a run writes"),
        ("run.toml", b"seed = \n", "is no valid TOML"),
        ("run.toml", b"a = " + b"[" * 5000, "is no valid TOML"),
    ],
)
def test_bad_files_are_named(tmp_path, monkeypatch, name, content, words):
    run = fake_run(tmp_path / "run", epochs=1)
    monkeypatch.setattr(report, "figures", lambda *_: pytest.fail("work before reading"))
    (run / name).unlink()
    if content is not None:
        (run / name).write_bytes(content)
    with pytest.raises((FileNotFoundError, ValueError), match=words) as caught:
        report.write(run)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (run / "report.html").exists()


def test_line_cut_off_while_writing_is_left_out(tmp_path):
    run = fake_run(tmp_path / "run", epochs=3)
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text[:-20])
    assert len(report.read(run).records) == 2
    (run / "metrics.jsonl").write_text(text.rstrip("\n"))
    assert len(report.read(run).records) == 3


def test_diverged_run_still_has_a_page(tmp_path):
    run = fake_run(tmp_path / "run", epochs=1)
    text = (run / "metrics.jsonl").read_text()
    text = re.sub(r'"loss": [0-9.]+', '"loss": NaN', text).replace('"low": -0.4', '"low": NaN')
    (run / "metrics.jsonl").write_text(text)
    assert images(report.write(run).read_text())
