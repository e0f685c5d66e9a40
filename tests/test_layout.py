"""The order in which modules build on each other, as CONTRIBUTING.md tells it."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "spikewire"
ENTRY = {"__init__", "__main__"}  # they stand above all


def told(after):
    """The modules of the list that follows some words of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text().partition(after)[2]
    listed = re.search(r"\s+(\w+(?:,\s+\w+)+)\n", text)
    assert listed
    return re.split(r",\s+", listed[1])


def statements(tree):
    """Everything below a node but what only type checkers see."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from statements(node)


def imported(file, package):
    """Names of the modules of a package that a file imports, at any depth."""
    for node in statements(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == package:
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package}."):
            yield str(node.module).split(".")[package.count(".") + 1]


def modules(folder):
    return {
        path.stem: path for path in folder.iterdir() if path.suffix == ".py" or is_package(path)
    }


def is_package(path):
    return (path / "__init__.py").is_file()


def files(module):
    return module.rglob("*.py") if module.is_dir() else [module]


@pytest.mark.parametrize(
    ("folder", "package", "after"),
    [(SOURCE, "spikewire", "imports only from those before it (names of types aside):"),
     (SOURCE / "runtime", "spikewire.runtime", "within `runtime`:")],
)  # fmt: skip
def test_a_module_imports_only_from_those_before_it(folder, package, after):
    order, found = told(after), modules(folder)
    assert set(found) - ENTRY == set(order)
    for place, name in enumerate(order):
        later = set(order[place + 1 :])
        for file in files(found[name]):
            assert not later & set(imported(file, package)), f"{file} imports what comes later"
