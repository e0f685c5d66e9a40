"""One thread for all tests: the networks are tiny, and two ranks shall not fight for cores."""

import sys

import pytest
import torch

from spikewire import cli


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def spikewire(monkeypatch, capsys, *words):
    """Exit status, standard output and standard error of a command."""
    monkeypatch.setattr(sys, "argv", ["spikewire", *map(str, words)])
    monkeypatch.setattr(cli.console, "width", 200)
    with pytest.raises(SystemExit) as end:
        cli.main()
        sys.exit(0)
    captured = capsys.readouterr()
    return end.value.code, captured.out, captured.err


@pytest.fixture
def command(monkeypatch, capsys):
    """The command line, as a function of its words."""
    yield lambda *words: spikewire(monkeypatch, capsys, *words)
    torch.set_flush_denormal(False)  # as it was before the command
