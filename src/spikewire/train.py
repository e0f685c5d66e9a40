"""Train: one epoch after the other, as a generator.

::

    for epoch in fit(model, optimizer, train, epochs=10, test=test):
        print(epoch.accuracy["test"])

Logging, plotting and stopping early are the caller's plain Python. All randomness is a function of
(seed, epoch, batch): a run can stop after any batch and continue bit-exactly.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, one_hot
from torch.optim import Optimizer

from spikewire import distributed
from spikewire.dialects import reset
from spikewire.measure import activity_of, readout, testing
from spikewire.pruner import Pruner
from spikewire.schedules import Constant, Schedule
from spikewire.spelling import check
from spikewire.weights import unwrapped

# torch.compile costs about half a minute; below so many steps it is not earned back.
_COMPILE_PAYS_FROM = 2000


class Diverged(ValueError):  # noqa: N818 - it says what training did
    """The loss, or a weight, is no longer finite."""


class Loader(Protocol):
    """Batches in an order that is a function of the epoch: `spikewire.data.Batches`."""

    def __len__(self) -> int: ...
    def epoch(self, epoch: int, start: int = 0) -> Iterable[tuple[Tensor, Tensor]]: ...


class Sized(Protocol):
    """Batches in any order, such as a torch DataLoader."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...


def mse_on_rates(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error between firing rates and one-hot labels (Grad R, Chen et al. 2021).

    >>> mse_on_rates(torch.tensor([[[1.0, 0.0]]]), torch.tensor([0])).item()
    0.0
    """
    rates = readout(outputs)
    return mse_loss(rates, one_hot(labels, rates.shape[-1]).to(rates))


def cross_entropy_on_rates(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with the mean over time as logits.

    >>> round(cross_entropy_on_rates(torch.tensor([[[0.0, 0.0]]]), torch.tensor([0])).item(), 4)
    0.6931
    """
    return cross_entropy(readout(outputs), labels)


def cross_entropy_at_each_step(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean over time of the cross-entropy of every time step, outputs (T, B, classes).

    >>> outputs = torch.tensor([[[0.0, 0.0]], [[0.0, 9.0]]])
    >>> round(cross_entropy_at_each_step(outputs, torch.tensor([1])).item(), 4)
    0.3466
    """
    if outputs.ndim != 3:
        raise ValueError(
            f"outputs are of shape {tuple(outputs.shape)}: this loss needs those of each time "
            'step, (T, B, classes); use "cross-entropy"'
        )
    return cross_entropy(outputs.flatten(0, 1), labels.repeat(len(outputs)))


Loss = Callable[[Tensor, Tensor], Tensor]
"""``(outputs, labels) -> scalar``."""

LOSSES: dict[str, Loss] = {
    "mse": mse_on_rates,
    "cross-entropy": cross_entropy_on_rates,
    "cross-entropy-at-each-step": cross_entropy_at_each_step,
}
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Epoch:
    """What happened up to the end of an epoch, or up to where it was stopped.

    Attributes:
        epoch: counts from 1.
        batch, batches: batches done of this epoch, and all of it.
        step: optimizer steps attempted since the beginning.
        seconds: spent on this epoch's training.
        lr: learning rate of its last step.
        loss_sum, hits, seen: over its training samples.
        accuracy, losses: percent, and mean over samples, by part; None where there is none.
        firing_rate: spikes per neuron and time step on the last part evaluated.
    """

    epoch: int
    batch: int
    batches: int
    step: int
    seconds: float = 0.0
    lr: float = 0.0
    loss_sum: float = 0.0
    hits: int = 0
    seen: int = 0
    accuracy: dict[str, float | None] = field(default_factory=dict)
    losses: dict[str, float | None] = field(default_factory=dict)
    firing_rate: float | None = None

    @property
    def complete(self) -> bool:
        return self.batch == self.batches

    @property
    def loss(self) -> float:
        """Mean over the training samples."""
        return self.loss_sum / max(self.seen, 1)


def fit(
    model: nn.Module,
    optimizer: Optimizer,
    train: Loader | Sized,
    *,
    epochs: int,
    validation: Iterable[tuple[Tensor, Tensor]] | None = None,
    test: Iterable[tuple[Tensor, Tensor]] | None = None,
    evaluate_every: int = 1,
    loss: str | Loss = "mse",
    schedule: Schedule | None = None,
    precision: str = "float32",
    compile: bool | str = "auto",
    pruner: Pruner | None = None,
    seed: int = 0,
    resume: Epoch | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[Epoch], None] = lambda epoch: None,
) -> Generator[Epoch]:
    """Train, and yield an `Epoch` after each.

    Args:
        model: images (B, C, H, W) to outputs (T, B, classes) or (B, classes); reset after every
            batch. One that learns without labels has a method ``assign(batches)``, which is shown
            the training data before every evaluation.
        optimizer: holds the parameters; a `Pruner` attached to it works along.
        train: batches of (images, labels): `data.Batches`, or a torch DataLoader. With a
            DataLoader a continued run is exact if its workers and transforms draw no randomness;
            of several processes each must be given its own share.
        epochs: of the whole training, >= 1.
        validation, test: iterables of batches, evaluated after each epoch.
        evaluate_every: epochs between two evaluations; the last epoch always has one. 0 for none.
        loss: a name of `LOSSES`, such as "mse" on rates, or a function of (outputs, labels).
        schedule: factor on the optimizer's learning rates as a function of progress.
        precision: "float32", or "bfloat16" for automatic mixed precision.
        compile: True, False, or "auto": torch.compile if the run is long enough for it to pay.
        pruner: needed only for methods that observe neurons (criticality): the step of an event
            runs the network uncompiled.
        seed: of dropout and the like.
        resume: the last `Epoch` of the run to continue.
        stop: asked after every batch; True ends training there, with an incomplete `Epoch`.
        progress: called after every batch.

    Raises:
        ValueError: on wrong arguments.
        Diverged: as soon as the loss, or after an epoch a weight, is no longer finite.

    >>> from spikewire.data import Batches, load
    >>> from spikewire.nets import tiny
    >>> digits, net = load("digits"), tiny(T=2)
    >>> batches = Batches(digits.train, 64, digits.mean, digits.std, drop_last=True)
    >>> adam = torch.optim.Adam(net.parameters(), 3e-3)
    >>> [epoch.epoch for epoch in fit(net, adam, batches, epochs=2)]
    [1, 2]
    """
    check("precision", precision, PRECISIONS)
    if epochs < 1 or not len(train):
        raise ValueError(f"epochs={epochs}, batches={len(train)}: give one or more of both")
    if evaluate_every < 0:
        raise ValueError(
            f"evaluate_every={evaluate_every}: give the epochs between two, or 0 for no evaluation"
        )
    device = next(model.parameters()).device
    steps = epochs * len(train)
    forward = distributed.replicated(model, device)
    trainer = _Trainer(
        forward,
        _compiled(forward, device) if _compiles(compile, steps) else forward,
        _Update(optimizer, _objective(loss), device, PRECISIONS[precision]),
        _Rates(optimizer, schedule or Constant(1.0), steps, fresh=resume is None),
        pruner,
        seed,
    )
    start = _beginning(resume, len(train))
    while start.epoch <= epochs:
        state, halt = start, False
        for state in trainer.epoch(start, train):
            progress(state)
            if halt := distributed.agree(stop()):
                break
        _check_weights(model, state.epoch)
        state = _summed(state, device)
        due = evaluate_every > 0 and (state.epoch % evaluate_every == 0 or state.epoch == epochs)
        if state.complete and due:
            label(model, trainer.batches(train, replace(state, batch=0)))
        parts = {"validation": validation, "test": test} if due else {}
        yield _evaluated(state, model, _objective(loss), parts) if state.complete else state
        if halt:
            return
        start = Epoch(state.epoch + 1, 0, len(train), state.step)


@dataclass(frozen=True)
class _Update:
    """What is done with a batch: forward, loss, backward, optimizer step."""

    optimizer: Optimizer
    objective: Loss
    device: torch.device
    dtype: torch.dtype | None

    def __call__(self, network: Any, images: Tensor, labels: Tensor) -> tuple[float, int]:
        """Loss and hits of the batch."""
        cast = torch.autocast(self.device.type, self.dtype) if self.dtype else nullcontext()
        self.optimizer.zero_grad(set_to_none=True)
        with cast:
            outputs = network(images)
        value = self.objective(outputs.float(), labels)
        value.backward()
        self.optimizer.step()
        return float(value.detach()), int((readout(outputs.detach()).argmax(1) == labels).sum())


class _Rates:
    """The learning rates of an optimizer, as a function of steps done."""

    def __init__(
        self, optimizer: Optimizer, schedule: Schedule, steps: int, *, fresh: bool
    ) -> None:
        self.groups, self.schedule, self.steps = optimizer.param_groups, schedule, steps
        for group in self.groups:
            if fresh:
                group.pop("initial_lr", None)  # of an earlier training
            group.setdefault("initial_lr", group["lr"])

    def set(self, step: int) -> float:
        """Set all of them; returns the first."""
        factor = self.schedule(step / self.steps)
        for group in self.groups:
            group["lr"] = group["initial_lr"] * factor
        return self.groups[0]["lr"]


@dataclass(frozen=True)
class _Trainer:
    """Goes through epochs, from wherever training stands."""

    forward: nn.Module
    fast: Any  # the same network compiled, which hides its neurons
    update: _Update
    rates: _Rates
    pruner: Pruner | None
    seed: int

    def epoch(self, state: Epoch, train: Loader | Sized) -> Iterator[Epoch]:
        """The rest of an epoch: where training stands after each batch."""
        began = time.perf_counter() - state.seconds
        self.forward.train()
        for images, labels in self.batches(train, state):
            lr = self.rates.set(state.step)
            loss, hits = self.batch(state, images, labels)
            state = replace(
                state,
                batch=state.batch + 1,
                step=state.step + 1,
                seconds=time.perf_counter() - began,
                lr=lr,
                loss_sum=state.loss_sum + loss * len(labels),
                hits=state.hits + hits,
                seen=state.seen + len(labels),
            )
            yield state

    def batches(self, train: Any, state: Epoch) -> Iterable[tuple[Tensor, Tensor]]:
        if hasattr(train, "epoch"):
            return train.epoch(state.epoch, state.batch)
        _seed(self.seed, state.epoch, 0)  # of the order that a DataLoader draws
        return islice(train, state.batch, None)

    def batch(self, state: Epoch, images: Tensor, labels: Tensor) -> tuple[float, int]:
        _seed(self.seed, state.epoch, state.batch)
        observed = self.pruner is not None and self.pruner.due
        network, device = self.forward if observed else self.fast, self.update.device
        loss, hits = self.update(network, images.to(device), labels.to(device))
        reset(unwrapped(self.forward))
        if distributed.agree(not math.isfinite(loss)):
            raise Diverged(
                f"the loss is no longer finite in epoch {state.epoch}, batch {state.batch + 1}: "
                "lower the learning rate (optimizer.lr)"
            )
        return loss, hits


def label(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Show labels to a network that learns without them: one with a method ``assign(batches)``.

    >>> label(nn.Linear(2, 1), [])
    """
    assign = getattr(unwrapped(model), "assign", None)
    if assign is not None:
        assign(batches)


class Evaluation(NamedTuple):
    """Accuracy in percent, mean loss, and spikes per neuron and time step, None without neurons."""

    accuracy: float
    loss: float
    firing_rate: float | None


def evaluate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], loss: str | Loss = "mse"
) -> Evaluation:
    """How a network does on data; under several processes each evaluates its share.

    Args:
        model: images (B, C, H, W) to outputs (T, B, classes) or (B, classes).
        batches: of images and labels.
        loss: a name of `LOSSES`, or a function of (outputs, labels).

    >>> from spikewire.nets import tiny
    >>> 0.0 <= evaluate(tiny(T=2), [(torch.rand(4, 1, 8, 8), torch.arange(4))]).accuracy <= 100.0
    True
    """
    objective = _objective(loss)
    network = unwrapped(model)
    distributed.share_buffers(network)
    device = next(network.parameters()).device
    hits, seen, lost = 0.0, 0.0, 0.0
    with testing(network), activity_of(network) as activity:
        for images, given in batches:
            labels = given.to(device, torch.int64)
            outputs = network(images.to(device))
            reset(network)
            hits += int((readout(outputs).argmax(1) == labels).sum())
            lost += len(labels) * float(objective(outputs.float(), labels))
            seen += len(labels)
    rate = (activity.rate or 0.0) * seen
    sums = torch.tensor([hits, lost, rate, seen], dtype=torch.float64, device=device)
    hits, lost, rate, seen = distributed.total(sums).tolist()
    return Evaluation(
        100.0 * hits / seen, lost / seen, None if activity.rate is None else rate / seen
    )


def _evaluated(
    state: Epoch,
    model: nn.Module,
    objective: Loss,
    parts: Mapping[str, Iterable[tuple[Tensor, Tensor]] | None],
) -> Epoch:
    accuracy: dict[str, float | None] = {"train": 100.0 * state.hits / state.seen}
    losses: dict[str, float | None] = {"train": state.loss}
    rate = None
    for name in ("validation", "test"):
        accuracy[name] = losses[name] = None
        if (batches := parts.get(name)) is not None:
            accuracy[name], lost, rate = evaluate(model, batches, objective)
            if not math.isfinite(lost):
                raise Diverged(
                    f"the {name} loss is not finite after epoch {state.epoch}: lower the learning "
                    "rate (optimizer.lr), or see what the network does when it is not training"
                )
            losses[name] = lost
    return replace(state, accuracy=accuracy, losses=losses, firing_rate=rate)


def _check_weights(model: nn.Module, epoch: int) -> None:
    """Refuse weights that the last step has made infinite: no loss has shown them yet."""
    learned = ((name, p) for name, p in model.named_parameters() if p.requires_grad)
    wrong = [name for name, p in learned if not bool(p.isfinite().all())]
    if distributed.agree(bool(wrong)):
        raise Diverged(
            f"weights are no longer finite in epoch {epoch} ({', '.join(wrong[:3])}): lower the "
            "learning rate (optimizer.lr)"
        )


def _summed(state: Epoch, device: torch.device) -> Epoch:
    """With the sums of all processes."""
    sums = torch.tensor([state.loss_sum, state.hits, state.seen], dtype=torch.float64)
    loss_sum, hits, seen = distributed.total(sums.to(device)).tolist()
    return replace(state, loss_sum=loss_sum, hits=int(hits), seen=int(seen))


def _objective(
    loss: str | Callable[[Tensor, Tensor], Tensor],
) -> Callable[[Tensor, Tensor], Tensor]:
    if callable(loss):
        return loss
    check("loss", loss, LOSSES)
    return LOSSES[loss]


def _compiles(wish: bool | str, steps: int) -> bool:
    if wish == "auto":
        return steps >= _COMPILE_PAYS_FROM and any(map(shutil.which, ("g++", "clang++", "c++")))
    if not isinstance(wish, bool):
        raise ValueError(f"compile={wish!r}: use true, false or auto")
    return wish


def _compiled(forward: nn.Module, device: torch.device) -> Any:
    """The same network in compiled code."""
    # On a CPU, convolutions would leave channels last, and neurons, to which a layer is one row of
    # numbers in the usual order, would gather them one by one.
    options: Any = {"layout_optimization": False} if device.type == "cpu" else None
    return torch.compile(forward, dynamic=False, options=options)


def _beginning(resume: Epoch | None, batches: int) -> Epoch:
    if resume is None:
        return Epoch(1, 0, batches, 0)
    if resume.complete:
        return Epoch(resume.epoch + 1, 0, batches, resume.step)
    if distributed.rank() == 0:
        return resume
    return replace(resume, loss_sum=0.0, hits=0, seen=0)  # rank 0 carries the sums of all


def _seed(seed: int, epoch: int, batch: int) -> None:
    """The global generators, for dropout: a function of where we are, not of how we got there."""
    number = hash((seed, epoch, batch, distributed.rank())) & (2**63 - 1)
    if torch.accelerator.is_available():
        torch.manual_seed(number)
    else:  # torch.manual_seed notes its whole stack for devices to come, which takes 0.3 ms
        torch.default_generator.manual_seed(number)
