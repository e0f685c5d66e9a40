"""The page of a run: its numbers, its figures, and what it refuses to be talked into."""

import html.parser
import re
import xml.etree.ElementTree as ElementTree
from base64 import b64decode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spikewire import report

HOSTILE = (
    "<script>alert(1)</script>", "=cmd()", "$\\frac{1}$", "_hidden", "--><img src=x>", "\x1b[31m",
)  # fmt: skip


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
def plain(tmp_path, without_figures, fake_run):
    """Return the tags of a page whose names are harmless."""
    run = fake_run(tmp_path / "plain", epochs=1, sizes={"a": 100}, histograms=False)
    return [tag for tag, _ in Elements(report.write(run).read_text()).found]


def test_page_and_figures_are_written(tmp_path, fake_run):
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


def test_page_comes_out_the_same_twice(tmp_path, without_figures, fake_run):
    run = fake_run(tmp_path / "run", epochs=1, histograms=False)
    first = report.write(run).read_bytes()
    assert report.write(run).read_bytes() == first


def test_page_needs_neither_script_nor_network(tmp_path, fake_run):
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


def test_hostile_names_stay_text(tmp_path, fake_run):
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
def test_any_name_is_escaped(tmp_path, plain, name, fake_run):
    run = fake_run(tmp_path / "run", epochs=1, sizes={name: 100}, method=name, histograms=False)
    assert [tag for tag, _ in Elements(report.write(run).read_text()).found] == plain


def test_hostile_configuration_is_escaped(tmp_path, without_figures, fake_run):
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
def test_every_kind_of_run_has_a_page(tmp_path, options, fake_run):
    page = report.write(fake_run(tmp_path / "run", **options)).read_text()
    assert images(page)


def test_run_without_epochs_has_a_page(tmp_path, fake_run):
    run = fake_run(tmp_path / "run", epochs=1)
    (run / "metrics.jsonl").write_text("")
    assert "No epoch was recorded" in report.write(run).read_text()


def test_dense_run_says_what_it_costs(tmp_path, without_figures, fake_run):
    run = fake_run(tmp_path / "run", epochs=1, target=0.0, method="dense")
    page = report.write(run).read_text()
    assert "What it costs" in page
    assert "No synapse of 637,600 was pruned" in page


def test_dense_twin_elsewhere(tmp_path, without_figures, fake_run):
    run = fake_run(tmp_path / "run", epochs=2)
    dense = fake_run(tmp_path / "other", epochs=2, target=0.0, method="dense", theta=False)
    assert "dense twin" in report.write(run, dense).read_text()
    with pytest.raises(FileNotFoundError, match="is no run folder"):
        report.write(run, tmp_path / "nowhere")


def test_diverged_run_still_has_a_page(tmp_path, fake_run):
    run = fake_run(tmp_path / "run", epochs=1)
    text = (run / "metrics.jsonl").read_text()
    text = re.sub(r'"loss": [0-9.]+', '"loss": NaN', text).replace('"low": -0.4', '"low": NaN')
    (run / "metrics.jsonl").write_text(text)
    assert images(report.write(run).read_text())
