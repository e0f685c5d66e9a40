"""Run: from a recipe to a folder that holds all of it.

::

    RUN/run.toml                   what was run, complete
    RUN/metrics.jsonl              a line per epoch
    RUN/model.safetensors          the pruned network, zeros included
    RUN/model.sparse.safetensors   only its surviving weights
    RUN/model.compact.safetensors  the smaller network, if channels were taken out
    RUN/epoch-020.safetensors      the network after that epoch, if the recipe keeps it
    RUN/report.json, report.html   what it bought
    RUN/checkpoint/                while it is not finished
    RUN/dense/                     the dense twin, if the recipe asks for one

The same call again continues where it was stopped, bit-exactly, or returns at once.
"""

from __future__ import annotations

import copy
import json
import signal
import statistics
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spikewire import config, distributed, formats, report
from spikewire.augment import AUGMENTS
from spikewire.compact import Outline, compact
from spikewire.config import Recipe
from spikewire.data import Batches, Data
from spikewire.epochs import accuracy_of, existing, histogram, record_of
from spikewire.features import entropies, features
from spikewire.finished import (
    COMPACT,
    DENSE,
    SPARSE,
    edited,
    finished,
    kept,
    load_data,
    measured_files,
    recipe_of,
)
from spikewire.lock import alone
from spikewire.lottery import Masks, draw
from spikewire.masks import pack, unpack
from spikewire.measure import measure, readout, testing
from spikewire.methods import Dense
from spikewire.nets import NormalisedSGD
from spikewire.provenance import commit, provenance
from spikewire.pruner import Pruner
from spikewire.runtime import compare, sparse
from spikewire.train import Epoch, fit, label
from spikewire.weights import synaptic_weights

# Test images shown to PyTorch beside the sparse engine, to count spikes that differ: all of them
# would take longer than a short training. `compared` shows all.
_COMPARED = 1000

# What a run writes beside run.toml: a folder that has one of these without it is somebody's own.
_WRITTEN = (
    "metrics.jsonl",
    "model*.safetensors",
    "epoch-*.safetensors",
    "report.json",
    "report.html",
    "figures",
    "checkpoint",
    "dense",
)

Show = Callable[[Path, Recipe, Epoch, dict[str, Any] | None], None]
"""Called after every batch and epoch: folder, recipe, where training is, the last record."""


Log = Callable[[Path, dict[str, Any]], None]
"""Called after every epoch, on rank 0: folder and record."""


class Stopped(Exception):  # noqa: N818 - as KeyboardInterrupt, it is no error
    """Training was interrupted and saved; the same call continues it."""


def run(
    recipe: Recipe,
    out: Path | str,
    *,
    root: Path | str | None = None,
    show: Show = lambda *_: None,
    log: Log = lambda *_: None,
) -> Path:
    """Train, prune, measure and report; returns the run folder.

    Args:
        recipe: what to run.
        out: the run folder, made if absent; continued if the same recipe was begun there.
        root: folder of the data sets, see `data.load`.
        show: called after every batch and every epoch.
        log: called with every epoch's record, such as `tensorboard.log`.

    Raises:
        ValueError: if ``out`` holds another run, or files that are of none, or the recipe does not
            fit together.
        Busy: if another process is at work in ``out``.
        Stopped: after SIGINT or SIGTERM, when everything is saved.
    """
    out = Path(out)
    with distributed.group() as device, alone(out):
        refuse_other(recipe, out)
        train = partial(_run, root=root, device=device, show=show, log=log)
        if recipe.twin:
            dense, place = _twin(recipe, out), out / "dense"
            with alone(place):
                refuse_other(dense, place)
                if not finished(out):  # what the run refuses is said before its twin is trained
                    _Training(recipe, out, load_data(recipe, root), device, log)
                train(dense, place)
        train(recipe, out)
    return out


def _twin(recipe: Recipe, out: Path) -> Recipe:
    weights = str(config.beside(out, recipe.weights)) if recipe.weights else ""
    return replace(recipe, method=Dense(), weights=weights, possible="", twin=False)


def _run(
    recipe: Recipe,
    out: Path,
    root: Path | str | None,
    device: torch.device,
    show: Show,
    log: Log,
) -> None:
    refuse_other(recipe, out)
    if finished(out) and distributed.rank() == 0:
        formats.remove_checkpoint(out / "checkpoint")  # killed just before its removal
    if not finished(out):
        training = _Training(recipe, out, load_data(recipe, root), device, log)
        if distributed.rank() == 0:  # only now: what cannot be built must not claim the folder
            formats.write(out / "run.toml", recipe.toml().encode())
            (out / "report.html").unlink(missing_ok=True)  # of a training that began here before
        training.run(show)
    if distributed.rank() == 0 and not (out / "report.html").is_file():
        report.write(out)
    distributed.wait()


def optimizer_of(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimizer on all parameters of the model."""
    chosen, parameters = recipe.optimizer, list(model.parameters())
    if chosen.name == "sgd":
        return torch.optim.SGD(
            parameters, chosen.lr, momentum=chosen.momentum, weight_decay=chosen.weight_decay
        )
    if chosen.name == "normalised-sgd":
        return NormalisedSGD(parameters, chosen.lr)
    kind = torch.optim.Adam if chosen.name == "adam" else torch.optim.AdamW
    return kind(parameters, chosen.lr, weight_decay=chosen.weight_decay, fused=True)


def refuse_other(recipe: Recipe, out: Path) -> None:
    """Refuse a folder that holds the run of another recipe, or files that are of no run.

    Raises:
        ValueError: naming what differs, or what is there.

    >>> refuse_other(Recipe(), Path("no-such-folder"))
    """
    if not (out / "run.toml").is_file():
        _refuse_files(recipe, out)
    else:
        written = recipe_of(out)
        there, here = _identity(written, out), _identity(recipe, out)
        if there != here:
            changed = sorted(k for k in there | here if there.get(k) != here.get(k))
            raise ValueError(
                f"{out} holds another run (it differs in {', '.join(changed)}): give another "
                "--out, or delete it"
            )
    distributed.wait()


def _refuse_files(recipe: Recipe, out: Path) -> None:
    """Refuse a folder that is no run's, but has files that a run would replace or delete."""
    patterns = [name for name in _WRITTEN if name != "dense" or not recipe.twin]  # it comes first
    there = sorted(path.name for pattern in patterns for path in out.glob(pattern))
    if there:
        raise ValueError(
            f"{out} holds {', '.join(there)}, but no run.toml: it is no run folder, and a run "
            "would write over them: give another --out, or move them away"
        )


def _identity(recipe: Recipe, out: Path) -> dict[str, Any]:
    """What makes a run the one it is: all of it but whether the data may be downloaded."""
    named = {key: name for key in config.FILES if (name := getattr(recipe, key))}
    files = {key: str(config.beside(out, name).resolve()) for key, name in named.items()}
    return replace(recipe, data=replace(recipe.data, download=False), **files).dump()


@dataclass
class _Parts:
    """The batches of a data set's three parts; ``shown`` is the training part as it is.

    Methods look at all of it in every process: what they choose must be the same everywhere.
    """

    train: Batches
    shown: Batches
    validation: Batches | None
    test: Batches


class _Training:
    """One run from its last checkpoint to its report."""

    def __init__(
        self, recipe: Recipe, out: Path, data: Data, device: torch.device, log: Log
    ) -> None:
        self.recipe, self.out, self.device, self.log = recipe, out, device, log
        commit()  # of the source as it is now: it may change before the report is written
        self.parts = _batches(recipe, data, device)
        torch.manual_seed(recipe.seed)
        self.classes = data.classes
        self.model = config.build(recipe.network).to(device)
        _check_shapes(self.model, data, device)
        if recipe.features:
            _check_features(self.model, data, device)
        self.optimizer = optimizer_of(recipe, self.model)
        saved = formats.load_checkpoint(out / "checkpoint")
        if saved is not None:
            formats.restore(self.model, saved["model"], str(out / "checkpoint"), edited(recipe))
            _load(self.optimizer, saved["optimizer"])
        elif recipe.weights:
            file = config.beside(out, recipe.weights)
            formats.restore(self.model, formats.load_weights(file), f"weights: {file}")
        self.pruner = Pruner(
            self.model,
            recipe.method,
            self.optimizer,
            steps=recipe.epochs * len(self.parts.train),
            only=recipe.only or None,
            seed=recipe.seed,
            floor=recipe.floor,
            possible=possible(recipe, out, self.model),
            data=self.parts.shown,
            state=saved["pruner"] if saved is not None else None,
        )
        self.before = existing(self.pruner)
        self.seen: list[Masks] = []  # that the recipe's rule for stopping compares
        self.resume: Epoch | None = None
        if saved is not None:
            self.resume = Epoch(**saved["epoch"])
            self.seen = [_unpacked(masks, self.before) for masks in saved.get("seen", ())]
            self.before = _unpacked(saved["before"], self.before)
        self.records = _records(out, self.resume)

    def run(self, show: Show) -> None:
        def progress(epoch: Epoch) -> None:
            show(self.out, self.recipe, epoch, self.records[-1] if self.records else None)

        if self.resume is None:
            self._snapshot(0)
        with _interrupts() as stop, closing(self._epochs(stop, progress)) as epochs:
            while not self._settled and (epoch := next(epochs, None)):
                self._record(epoch)
                progress(epoch)  # who lost the run to another while it was evaluated ends here
                self._save(epoch)
                if distributed.agree(stop()):
                    raise Stopped(f"stopped in epoch {epoch.epoch}, batch {epoch.batch}")
        self._conclude()

    @property
    def _settled(self) -> bool:
        return self.recipe.stop is not None and self.recipe.stop(self.seen)

    def _epochs(
        self, stop: Callable[[], bool], progress: Callable[[Epoch], None]
    ) -> Generator[Epoch]:
        recipe = self.recipe
        return fit(
            self.model,
            self.optimizer,
            self.parts.train,
            epochs=recipe.epochs,
            validation=self.parts.validation,
            test=self.parts.test,
            evaluate_every=recipe.evaluate_every,
            loss=recipe.loss,
            schedule=recipe.optimizer.schedule,
            precision=recipe.precision,
            compile=recipe.compile,
            pruner=self.pruner,
            seed=recipe.seed,
            resume=self.resume,
            stop=stop,
            progress=progress,
        )

    def _record(self, epoch: Epoch) -> None:
        """Say what a finished epoch came to."""
        if epoch.complete:
            self.records.append(record_of(epoch, self.pruner, self.before, self.recipe.epochs))
            self.before = existing(self.pruner)
            self._look()

    def _save(self, epoch: Epoch) -> None:
        """Write the records, and where training stands."""
        if epoch.complete:
            self._snapshot(epoch.epoch)
        if distributed.rank() == 0:
            lines = "".join(json.dumps(record) + "\n" for record in self.records)
            formats.write(self.out / "metrics.jsonl", lines.encode())
            formats.save_checkpoint(self.out / "checkpoint", self._state(epoch), f"{epoch.step}")
            if epoch.complete:
                self.log(self.out, self.records[-1])
        distributed.wait()

    def _look(self) -> None:
        """See which mask would be cut now, if that decides when to stop."""
        if (stop := self.recipe.stop) is not None:
            masks = draw(
                self.model,
                stop.sparsity,
                only=self.recipe.only or None,
                floor=self.recipe.floor,
            )
            self.seen = [*self.seen, masks][-stop.window :]
            self.records[-1]["distance"] = stop.farthest(self.seen)

    def _snapshot(self, epoch: int) -> None:
        """Write the network as it is after an epoch, if the recipe keeps that one."""
        if epoch in self.recipe.keep and distributed.rank() == 0:
            formats.save_dense(self.out / kept(epoch), self.model)

    def _state(self, epoch: Epoch) -> dict[str, Any]:
        return {
            "epoch": asdict(epoch),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "pruner": self.pruner.state_dict(),
            "before": _packed(self.before),
            "seen": [_packed(masks) for masks in self.seen],
        }

    def _conclude(self) -> None:
        if self.recipe.stop is not None:
            self.recipe.stop.complain(self.seen)
            self.pruner.steps = self.pruner.step  # that were all, as it turned out
        self.pruner.finish()
        label(self.model, self.parts.train.epoch(self.recipe.epochs))  # of what it has left
        if distributed.rank() == 0:
            formats.save_dense(self.out / DENSE, self.model)
            formats.save_sparse(self.out / SPARSE, self.model, existing(self.pruner))
            facts = self._facts()
            facts |= self._compact() if self.pruner.channels else {}
            facts |= self._features() if self.recipe.features else {}
            facts |= {"engine": _engine(self.model, _whole(self.parts.test))}
            formats.write_json(self.out / "report.json", facts)
            formats.remove_checkpoint(self.out / "checkpoint")
        distributed.wait()

    def _compact(self) -> dict[str, Any]:
        """Write the network without the channels that are out; what report.json says of it."""
        try:
            smaller = compact(self.model, self.pruner.example)
        except ValueError as error:  # a trained network is worth its report all the same
            warnings.warn(f"no compact network was written: {error}", stacklevel=2)
            return {}
        size = formats.save_dense(self.out / COMPACT, smaller)
        measured = measure(smaller, _whole(self.parts.test))
        return {
            "compact": {
                "parameters": measured.parameters,
                "multiplications": measured.operations.dense,
                # not `pruner.outline`: that speaks to the other processes, which do not come here
                "saving": Outline(self.model, self.pruner.example).saving({}),
                "accuracy": measured.accuracy,
                "bytes": size,
            }
        }

    def _features(self) -> dict[str, Any]:
        """What report.json says of the classes, and of the neurons."""
        test, classes = _whole(self.parts.test), len(self.classes)
        seen = features(self.model, self.parts.shown, classes)
        unseen = features(self.model, test, classes)
        return {
            "features": {
                "classes": list(self.classes),
                "variance": {"train": seen.variances.tolist(), "test": unseen.variances.tolist()},
                "likeness": seen.likeness(unseen).tolist(),
            },
            "entropies": entropies(self.model, test),
        }

    def _facts(self) -> dict[str, Any]:
        """What report.json says."""
        measured = measured_files(self.recipe, self.out, self.model, _whole(self.parts.test))
        return measured.as_dict() | {
            "accuracy": {
                **accuracy_of(measured.accuracy, 1.0 - measured.sparsity, self.records),
                "validation": self._validated(),
            },
            "epochs": len(self.records),
            # the median: neither the compilation in the first nor a machine that slept counts
            "seconds_per_epoch": statistics.median(record["seconds"] for record in self.records),
            "distributions": {
                name: histogram(values.detach()) for name, values in self.model.named_parameters()
            },
            "method": self.recipe.dump()["method"]["name"],
            "network": self.recipe.network.name,
            "data": self.recipe.data.name,
            "seed": self.recipe.seed,
            **provenance(self.device),
        }

    def _validated(self) -> float | None:
        """Of the final network: `Pruner.finish` may have cut after the last record."""
        batches = self.parts.validation
        return None if batches is None else measure(self.model, _whole(batches)).accuracy


def _batches(recipe: Recipe, data: Data, device: torch.device) -> _Parts:
    shared = {
        "mean": data.mean,
        "std": data.std,
        "seed": recipe.seed,
        "rank": distributed.rank(),
        "world": distributed.world(),
        "device": device,
    }
    size = min(recipe.batch, len(data.train))
    still = shared | {"size": 2 * recipe.batch, "shuffle": False}
    return _Parts(
        Batches(
            data.train.to(device),
            size=size,
            drop_last=True,
            augment=AUGMENTS[recipe.data.augment],
            **shared,
        ),
        _whole(Batches(data.train.to(device), **still)),
        Batches(data.validation.to(device), **still) if data.validation is not None else None,
        Batches(data.test.to(device), **still),
    )


def _whole(batches: Batches) -> Batches:
    """All the data, whichever share of it this process has."""
    return replace(batches, rank=0, world=1)


def _check_shapes(model: nn.Module, data: Data, device: torch.device) -> None:
    """Refuse a network that does not take these images, before any work is done."""
    try:
        with testing(model):
            outputs = model(data.blank(2, device))
    except RuntimeError as error:
        raise ValueError(
            f"the network does not take images of shape {data.shape} from {data.name}: {error}; "
            "set network.channels, network.size or network.inputs"
        ) from error
    shape = tuple(readout(outputs).shape) if isinstance(outputs, Tensor) else None
    if shape != (2, len(data.classes)):
        given = type(outputs).__name__ if shape is None else f"outputs of shape {shape}"
        raise ValueError(
            f"the network gives {given} for 2 images, but {data.name} has {len(data.classes)} "
            f"classes: set network.classes={len(data.classes)}, and let it return a tensor "
            "(T, B, classes) or (B, classes)"
        )


def _check_features(model: nn.Module, data: Data, device: torch.device) -> None:
    """Refuse a network whose classes or neurons cannot be described, before any work is done."""
    blank = data.blank(2, device), torch.zeros(2, dtype=torch.long)
    features(model, [blank], len(data.classes))
    entropies(model, [blank])


def _load(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    optimizer.load_state_dict(
        {
            "state": {int(index): value for index, value in state["state"].items()},
            "param_groups": state["param_groups"],
        }
    )


def possible(recipe: Recipe, out: Path, model: nn.Module) -> Masks | None:
    """Where the recipe of a run folder lets synapses exist; None for everywhere.

    Raises:
        ValueError: if its file names none of the network's synapses.
        FileNotFoundError: if there is no such file.

    >>> possible(Recipe(), Path("no-such-folder"), nn.Linear(2, 1)) is None
    True
    """
    if not recipe.possible:
        return None
    file = config.beside(out, recipe.possible)
    found = formats.load_weights(file)
    weights = dict(synaptic_weights(model, recipe.only or None))
    masks = {name: (found[name] != 0).to(w.device) for name, w in weights.items() if name in found}
    if not masks:
        raise ValueError(
            f"possible: {file} names no synapses of the network, which are {', '.join(weights)}"
        )
    return masks


def _packed(masks: Masks) -> dict[str, Tensor]:
    return {name: pack(mask) for name, mask in masks.items()}


def _unpacked(bits: Mapping[str, Tensor], like: Masks) -> Masks:
    return {name: unpack(bits[name], mask.shape).to(mask.device) for name, mask in like.items()}


def _records(out: Path, resume: Epoch | None) -> list[dict[str, Any]]:
    """The records of the epochs that the checkpoint has behind it."""
    file = out / "metrics.jsonl"
    if resume is None or not file.is_file():
        return []
    done = resume.epoch if resume.complete else resume.epoch - 1
    records = [json.loads(line) for line in file.read_text().splitlines()]
    return [record for record in records if record["epoch"] <= done]


def _engine(model: nn.Module, test: Batches) -> dict[str, Any]:
    """What report.json says of the sparse engine: beside PyTorch, or why it cannot run this."""
    still = copy.deepcopy(model).cpu()
    here = replace(test, images=test.images[:_COMPARED].to("cpu"), device="cpu")
    try:
        network = sparse(still, next(iter(replace(here, size=1)))[0])
        return compare(network, here, still).as_dict()
    except (ValueError, ImportError) as reason:  # a trained network is worth its report anyway
        return {"reason": str(reason)}


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a flag; the second acts as ever."""
    caught: list[int] = []
    former: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        caught.append(number)
        signal.signal(number, former[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        former[number] = signal.getsignal(number)
    try:
        for number in former:
            signal.signal(number, note)
    except ValueError:  # signals reach the main thread only
        former.clear()
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
