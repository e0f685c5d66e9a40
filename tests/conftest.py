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


@pytest.fixture
def bars():
    """Images of two classes that a network can learn in a moment, and their labels."""

    def made(count, seed=0):
        """Bright upper (0) or lower (1) halves of 4 x 4 images, on a dim ground."""
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(2, (count,), generator=generator)
        images = 0.2 * torch.rand(count, 1, 4, 4, generator=generator)
        for image, label in zip(images, labels, strict=True):
            image[0, 2 * label : 2 * label + 2] += 0.8
        return images, labels

    return made
