"""The documentation: its tables are those of the records, and its links lead somewhere."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from spikewire import METHODS

DOCS = Path(__file__).parents[1] / "docs"
RECORDS = DOCS.parent / "reproduce" / "paper-g"
FORMULA = r"``[^`]*(?: = | <- | < |mean|\\|)[^`]*``"


def tables():
    """The script that writes the tables, as a module."""
    spec = importlib.util.spec_from_file_location("tables", DOCS / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", tables().PAGES, ids=lambda page: page.name)
def test_tables_are_those_of_the_records(page):
    """If not: ``make docs``."""
    text = page.read_text()
    assert tables().filled(text) == text


def test_a_table_is_written_from_records():
    page = "a\n<!-- paper-g table-4 -->\nold\n<!-- end -->\nb\n"
    filled = tables().filled(page)
    assert filled.startswith("a\n<!-- paper-g table-4 -->\n| method | data |")
    record = json.loads((RECORDS / "mnist-gradr-0.1" / "report.json").read_text())
    ours = f"{100 * record['connectivity']:.2f} | 3.06 | {record['accuracy']['last']:.2f}"
    assert f"| Grad R | MNIST | 0.1 | {ours} |" in filled
    assert filled.endswith("|\n<!-- end -->\nb\n") and "old" not in filled


@pytest.mark.parametrize("page", [*tables().PAGES, DOCS.parent / "CONTRIBUTING.md"], ids=str)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_method_has_a_formula_a_proof_and_a_run():
    link = re.compile(r"\[`?([\w-]+)`?\]\(([^)]+)\)")
    lines = (DOCS / "methods.md").read_text().splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| `")][: len(METHODS)]
    assert [name.strip("| `") for name, *_ in rows] == list(METHODS)
    for method, (_, formula, proofs, run) in zip(METHODS, rows, strict=True):
        ((kind, source),), ((_, record),) = link.findall(formula), link.findall(run)
        assert METHODS[method].__name__ == kind
        assert f"class {kind}(" in (DOCS / source).read_text(), method
        assert method == "dense" or re.search(FORMULA, METHODS[method].__doc__), method
        assert link.findall(proofs), method
        for proof, test in link.findall(proofs):
            assert f"def {proof}(" in (DOCS / test).read_text(), method
        assert json.loads((DOCS / record).read_text())["method"] == method
    others = [line for line in lines if line.startswith("| ") and "../tests/" in line]
    for proof, test in link.findall("".join(others)):
        if test.startswith("../tests/"):
            assert f"def {proof}(" in (DOCS / test).read_text(), proof


def test_the_file_of_a_method_is_short_or_says_why():
    for file in (DOCS.parent / "src" / "spikewire" / "methods").glob("*.py"):
        text = file.read_text()
        why = text.partition('"""')[2].partition('"""')[0]
        assert len(text.splitlines()) <= 120 or re.search("file|Long for", why), file.name
