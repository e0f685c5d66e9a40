"""Rounds: a lottery whose rounds are run folders.

::

    LOTTERY/lottery.json                    its settings, and what each round reached
    LOTTERY/accuracy-against-sparsity.svg   the same as a figure; its numbers are in the CSV
    LOTTERY/round-00/                       the dense run, with epoch-020.safetensors
    LOTTERY/round-01/masks-01.safetensors   where the synapses of this round are
    LOTTERY/round-01/run.toml, ...          the run that started from both
    LOTTERY/time/                           the epoch after which time steps were chosen, if asked

Whatever a round needs is in files before it begins, so a lottery goes on wherever it was killed.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from spikewire import config, distributed, facts, formats, plots, repeats
from spikewire import run as runs
from spikewire.config import Recipe
from spikewire.data import Batches
from spikewire.finished import finished, kept, network_of, trained
from spikewire.lottery import Settled, draw, early_time, ladder
from spikewire.measure import testing
from spikewire.methods import Dense, Ticket
from spikewire.run import Log, Show
from spikewire.schedules import Constant
from spikewire.scores import Score, magnitude
from spikewire.shares import Share

SUMMARY = "lottery.json"
_SAMPLES = 1000  # training images at which early time looks


@dataclass(frozen=True)
class Lottery:
    """How a lottery goes; what it does and where it departs from its authors says `lottery`.

    Every round has a new optimizer and the recipe's whole schedule of learning rates. It starts
    from the network that the dense round kept, so weights, biases, gains and running statistics
    are all put back.

    Args:
        rounds, fraction, score, share: as of `lottery.lottery`.
        rewind: epoch of the dense round to go back to; None for the 15th part, as 20 of 300.
        early_bird: sparsity of the one ticket that is drawn as soon as its mask has settled, see
            `lottery.Settled`, and trained from the first weights; None to prune round by round.
        early_time: train all rounds but the last with as few time steps as `lottery.early_time`
            says after one epoch, which is trained for that alone.

    Raises:
        ValueError: if one of them is out of its range, or they do not fit together.

    >>> Lottery(rounds=2).sparsities, Lottery(early_bird=0.9).sparsities
    ([0.0, 0.25, 0.4375], [0.0, 0.9])
    """

    rounds: int = 14
    fraction: float = 0.25
    rewind: int | None = None
    score: Score = magnitude
    share: Share = None
    early_bird: float | None = None
    early_time: bool = False

    def __post_init__(self) -> None:
        ladder(self.fraction, self.rounds)
        if getattr(self.score, "observes", False):
            raise ValueError(
                f"score={self.score!r} watches neurons in training, and rounds are drawn after it: "
                "give magnitude or chance"
            )
        if self.early_bird is None:
            return
        Settled(self.early_bird)
        idle = ("rounds", "fraction", "rewind", "score", "share")
        if given := [key for key in idle if getattr(self, key) != getattr(Lottery, key)]:
            raise ValueError(
                f"early_bird draws one ticket, by magnitude, from the first weights: leave out "
                f"{', '.join(given)}"
            )

    @property
    def sparsities(self) -> list[float]:
        """Of the rounds, the dense one first."""
        if self.early_bird is not None:
            return [0.0, self.early_bird]
        return ladder(self.fraction, self.rounds)

    def back(self, epochs: int) -> int:
        """The epoch of the dense round, of so many, that the others go back to.

        Raises:
            ValueError: if it is not before the last.

        >>> Lottery().back(300), Lottery(early_bird=0.9).back(300)
        (20, 0)
        """
        if self.early_bird is not None:
            return 0
        if self.rewind is None:
            return min(math.ceil(epochs / 15), epochs - 1)
        if not 0 <= self.rewind < epochs:
            raise ValueError(
                f"rewind={self.rewind}: give an epoch from 0 to {epochs - 1}, before the last"
            )
        return self.rewind

    def settings(self) -> dict[str, Any]:
        """What makes this lottery the one it is: all but the number of rounds."""
        plain = TypeAdapter(Lottery).dump_python(self, mode="json")
        return {key: value for key, value in plain.items() if key != "rounds"}

    def recipe(self, base: Recipe, number: int, T: int | None = None) -> Recipe:
        """What the run of a round is.

        Args:
            base: recipe of the lottery; its method gives way.
            number: of the round, 0 for the dense one.
            T: time steps of all rounds but the last, None for those of the recipe.

        >>> Lottery(rewind=2).recipe(Recipe(epochs=10), 3).epochs
        8
        """
        back = self.back(base.epochs)
        if T is not None and number < len(self.sparsities) - 1:
            base = _shortened(base, T)
        if not number:
            stop = Settled(self.early_bird) if self.early_bird is not None else base.stop
            return _dense(base, stop=stop, keep=sorted({*base.keep, back}))
        return replace(
            base,
            method=Ticket(),
            weights=f"../{folder(0)}/{kept(back)}",
            possible=masks_of(number),
            epochs=base.epochs - back,
            stop=None,
            keep=[],
            twin=False,
        )


def folder(number: int) -> str:
    """The folder of a round.

    >>> folder(3)
    'round-03'
    """
    return f"round-{number:02}"


def masks_of(number: int) -> str:
    """The file with the masks of a round; the number tells the records of rounds apart.

    >>> masks_of(3)
    'masks-03.safetensors'
    """
    return f"masks-{number:02}.safetensors"


def play(
    recipe: Recipe,
    lottery: Lottery,
    out: Path | str,
    *,
    root: Path | str | None = None,
    show: Show = lambda *_: None,
    log: Log = lambda *_: None,
) -> dict[str, Any]:
    """Train all rounds of a lottery; the same call again continues, bit-exactly, or returns.

    Args:
        recipe: what to train; its method gives way to `Dense` in round 0, then to `Ticket`.
        lottery: how it goes.
        out: its folder, made if absent.
        root, show, log: as of `run.run`, for each round.

    Returns:
        What lottery.json says.

    Raises:
        ValueError: if ``out`` holds another lottery, or something does not fit together.
        Stopped: after SIGINT or SIGTERM, when everything is saved.
    """
    out = Path(out)
    train = partial(runs.run, root=root, show=show, log=log)
    with distributed.group() as device:
        _refuse_other(lottery, out)
        if not (out / SUMMARY).is_file():
            _rehearse(recipe, lottery)
        T = None
        if lottery.early_time:
            train(_glance(recipe), out / "time")
            known = _rows(out)
            T = known[0]["T"] if known else _enough(out / "time", root, device)
        for number in range(len(lottery.sparsities)):
            if number:
                _draw(lottery, out, number)
            train(lottery.recipe(recipe, number, T), out / folder(number))
            _summarise(lottery, out)
    return read(out)


def read(out: Path) -> dict[str, Any]:
    """What lottery.json says: the settings, and a row for each round that is finished.

    A row holds the round, its folder, T if the recipe says it, sparsity, test accuracy after the
    last epoch in percent, epochs of the round, and ``total_epochs``, of all rounds up to this one.

    Raises:
        FileNotFoundError: if there is none.
    """
    return json.loads((out / SUMMARY).read_text(encoding="utf-8"))


def _rehearse(recipe: Recipe, lottery: Lottery) -> None:
    """Refuse what could not be done later, before any work is."""
    lottery.back(recipe.epochs)
    network = _shortened(recipe, 2).network if lottery.early_time else recipe.network
    draw(
        config.build(network),
        lottery.sparsities[1],
        score=lottery.score,
        share=lottery.share,
        only=recipe.only or None,
        floor=recipe.floor,
    )


def _glance(recipe: Recipe) -> Recipe:
    """An epoch as the dense round begins."""
    rate = Constant(recipe.optimizer.schedule(0.0))
    return _dense(recipe, epochs=1, optimizer=replace(recipe.optimizer, schedule=rate))


def _dense(recipe: Recipe, **changes: Any) -> Recipe:
    plain = {"method": Dense(), "stop": None, "keep": [], "twin": False}
    return replace(recipe, **plain | changes)


def _enough(glanced: Path, root: Path | str | None, device: torch.device) -> int:
    """How many time steps are enough for a network that was trained for an epoch."""
    _, model, data = trained(glanced, root)
    size = min(_SAMPLES, len(data.train))
    images, _ = next(iter(Batches(data.train, size, data.mean, data.std, device=device)))
    with testing(model.to(device)):
        return early_time(model(images))


def _shortened(recipe: Recipe, T: int) -> Recipe:
    arguments = recipe.network.arguments | {"T": T}
    return replace(recipe, network=replace(recipe.network, arguments=arguments))


def _draw(lottery: Lottery, out: Path, number: int) -> None:
    """Write the masks of a round: the best synapses of the round before."""
    file = out / folder(number) / masks_of(number)
    if not file.is_file() and distributed.rank() == 0:
        before = out / folder(number - 1)
        recipe, model = network_of(before)
        masks = draw(
            model,
            lottery.sparsities[number],
            runs.possible(recipe, before, model),
            score=lottery.score,
            share=lottery.share,
            only=recipe.only or None,
            floor=recipe.floor,
            seed=recipe.seed,
        )
        formats.save_masks(file, masks)
    distributed.wait()


def _refuse_other(lottery: Lottery, out: Path) -> None:
    """Refuse a folder that holds another lottery, or one that cannot become this one."""
    if not (out / SUMMARY).is_file():
        return
    told, here = read(out), lottery.settings()
    if told["settings"] != here:
        changed = sorted(key for key in here if told["settings"].get(key) != here[key])
        raise ValueError(
            f"{out} holds another lottery (it differs in {', '.join(changed)}): give another "
            "--out, or delete it"
        )
    rows = told["rounds"]
    if rows and len(rows) < len(lottery.sparsities) and rows[-1]["T"] != rows[0]["T"]:
        last = rows[-1]["round"]
        raise ValueError(
            f"{out} has its last round, {folder(last)}, which --early-time trained with all time "
            f"steps: give --rounds {last}, or another --out for more"
        )


def _summarise(lottery: Lottery, out: Path) -> None:
    """Write lottery.json and the figure of what is finished."""
    file = out / SUMMARY
    told = read(out) if file.is_file() else None
    new = {"settings": lottery.settings(), "rounds": _rows(out)}
    if new != told and distributed.rank() == 0:
        if new["rounds"]:
            finished = repeats.collect(out / row["folder"] for row in new["rounds"])
            plots.tradeoff(finished, x="sparsity").save(out)
        formats.write_json(file, new)
    distributed.wait()


def _rows(out: Path) -> list[dict[str, Any]]:
    total = int(finished(out / "time"))
    rows: list[dict[str, Any]] = []
    for number in takewhile(lambda number: finished(out / folder(number)), count()):
        run = facts.read(out / folder(number))
        total += run.report["epochs"]
        rows.append(
            {
                "round": number,
                "folder": folder(number),
                "T": run.config["network"].get("T"),
                "sparsity": run.report["sparsity"],
                "accuracy": run.report["accuracy"]["last"],
                "epochs": run.report["epochs"],
                "total_epochs": total,
            }
        )
    return rows
