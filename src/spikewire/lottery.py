"""Lottery: sparse networks that, trained alone, do as well as the dense one they were found in.

::

    train dense --> remove the weakest --> back to early weights --> train what is left
                          ^                                                |
                          '------------------ next round ------------------'

A driver around the user's own training, not a method: within a round the mask is merely held.
Frankle and Carbin 2019 (arXiv 1803.03635), Frankle et al. 2020 (late rewinding, arXiv 1912.05671);
of spiking networks Kim et al. 2022 (arXiv 2207.01382), whose Early-Bird tickets are `Settled` and
whose Early-Time tickets `early_time`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, InstanceOf, PlainSerializer
from torch import Tensor, nn
from torch.nn.functional import kl_div

from spikewire import spelling
from spikewire.masks import apply_masks, distance
from spikewire.methods import Dense
from spikewire.methods.checks import check_sparsity
from spikewire.pruner import Pruner
from spikewire.scores import Score, magnitude
from spikewire.shares import Share
from spikewire.weights import unwrapped

Masks = dict[str, Tensor]


@dataclass(frozen=True)
class Level:
    """A round of a lottery: what there is to train, and what its training took.

    Attributes:
        round: 0 for the dense network.
        masks: bool by name, where synapses exist; all of them in round 0.
        start: the state_dict that the rounds after the first begin with, their masks applied; None
            until the dense network has been trained for so long.
        epochs: of all rounds, up to the end of this one; before it is trained, up to its beginning.
    """

    round: int
    masks: Masks
    start: dict[str, Tensor] | None = None
    epochs: int = 0

    @property
    def sparsity(self) -> float:
        """Share of synapses that do not exist."""
        alive = sum(int(mask.sum()) for mask in self.masks.values())
        return 1.0 - alive / sum(mask.numel() for mask in self.masks.values())


Train = Callable[[Level], Iterable[Any]]
"""Trains the network of a level, holding its masks, and yields after each epoch."""


@dataclass(frozen=True)
class Settled:
    """Early-Bird: stop training densely once the mask that a cut would leave changes no more.

    After each epoch, the mask ``m`` at this sparsity, by ``|w|`` over the whole network, is
    compared with those of the epochs before: ``max over the window of |m - m'| / n < tolerance``,
    n synapses in all. Kim et al. 2022 (arXiv 2207.01382), after You et al. 2020 (arXiv 1909.11957),
    who prune channels. Their released code searches with twice the learning rate, and lets the
    schedule of the ticket's training go down and up again; neither is done here.

    Args:
        sparsity: share of zeros that the cut will leave, (0, 1).
        window: epochs that are compared, this one included, 2 or more.
        tolerance: share of the mask that may still differ, above 0.

    Raises:
        ValueError: if one of them is out of its range.

    >>> one, other = {"w": torch.tensor([True, False])}, {"w": torch.tensor([False, True])}
    >>> settled = Settled(0.5, window=2)
    >>> settled([one]), settled([one, other]), settled([one, other, other])
    (False, False, True)
    """

    sparsity: float = 0.9
    window: int = 5
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        check_sparsity("sparsity", self.sparsity)
        if not self.sparsity:
            raise ValueError("sparsity=0: a dense mask never changes: give more than 0")
        if not isinstance(self.window, int) or self.window < 2:
            raise ValueError(f"window={self.window!r}: give the epochs to compare, 2 or more")
        if not self.tolerance > 0:
            raise ValueError(
                f"tolerance={self.tolerance!r}: give a share of the mask above 0, such as 0.02"
            )

    def __call__(self, seen: Sequence[Masks]) -> bool:
        """Whether the last of the masks, one after each epoch, is near enough to those before."""
        return len(seen) >= self.window and self.farthest(seen) < self.tolerance

    def farthest(self, seen: Sequence[Masks]) -> float:
        """The largest distance between the last mask and those before it in the window."""
        *before, last = seen[-self.window :]
        return max((distance(last, mask) for mask in before), default=1.0)

    def complain(self, seen: Sequence[Masks]) -> None:
        """Warn that training has ended before the mask had settled."""
        if not self(seen):
            warnings.warn(
                f"the mask has not settled: over {self.window} epochs it differs in "
                f"{self.farthest(seen):.4f} of its places, and tolerance is {self.tolerance}: "
                "train longer, or raise it",
                stacklevel=2,
            )


STOPS: dict[str, Any] = {"never": None, "settled": Settled}

Stop = Annotated[
    InstanceOf[Settled] | None,
    BeforeValidator(lambda text: spelling.parse("stop", text, STOPS)),
    PlainSerializer(lambda stop: spelling.spell(stop, STOPS), when_used="json"),
]
"""When a training ends before all its epochs are done; None for never."""


def ladder(fraction: float, rounds: int) -> list[float]:
    """Sparsity of each round, ``1 - (1 - fraction)^i`` for i = 0 ... rounds.

    The sparsities that Kim et al. 2022 print (0.4371, 0.5776, ...) are those of this ladder counted
    over all parameters, with biases and normalisations, which are never pruned.

    Args:
        fraction: share of the survivors that each round removes, (0, 1).
        rounds: after the dense one, 1 or more.

    Raises:
        ValueError: if one of them is out of its range.

    >>> ladder(0.25, 3)
    [0.0, 0.25, 0.4375, 0.578125]
    """
    if not 0.0 < fraction < 1.0:
        raise ValueError(
            f"fraction={fraction}: give the share of the survivors that each round removes, above "
            "0 and below 1"
        )
    if rounds < 1:
        raise ValueError(f"rounds={rounds}: give the rounds after the dense one, 1 or more")
    return [1.0 - (1.0 - fraction) ** number for number in range(rounds + 1)]


def draw(
    model: nn.Module,
    sparsity: float,
    among: Masks | None = None,
    *,
    score: Score = magnitude,
    share: Share = None,
    only: Sequence[str] | None = None,
    floor: int = 1,
    seed: int = 0,
) -> Masks:
    """Masks of the synapses with the highest scores; the weights stay as they are.

    Args:
        model: a trained network, wrapped or not.
        sparsity: share of zeros among all its synapses, [0, 1).
        among: masks of the synapses that may be drawn; all if None.
        score: what a synapse is worth; there is no training to observe any more.
        share: how sparsity is spread over tensors; None for one ranking over the network.
        only, floor, seed: as of `Pruner`.

    Raises:
        ValueError: if one of them does not fit the network.

    >>> layer = nn.Linear(4, 1)
    >>> with torch.no_grad():
    ...     _ = layer.weight.copy_(torch.tensor([[0.1, -0.8, 0.3, 0.7]]))
    >>> draw(layer, 0.5)
    {'weight': tensor([[False,  True, False,  True]])}
    """
    check_sparsity("sparsity", sparsity)
    pruner = Pruner(model, Dense(), steps=1, only=only, floor=floor, seed=seed, possible=among)
    with torch.no_grad():
        return pruner.choose(pruner.scored(score), pruner.budget(sparsity, share))


def early_time(outputs: Tensor, ratio: float = 0.6) -> int:
    """Early-Time: so many time steps tell nearly what all of them do, enough to find tickets.

    ``KL_t = KL(softmax(y_T) || softmax(y_t))``, averaged over samples, where ``y_t`` is the mean of
    the first t outputs; the answer is the smallest t of 2 ... T - 1 with
    ``KL_t / max_t KL_t < ratio``, or T if there is none, as always with T < 4. Kim et al. 2022
    (arXiv 2207.01382), who look after one epoch, at 1000 training images.

    Args:
        outputs: of each time step, (T, B, classes).
        ratio: (0, 1].

    Raises:
        ValueError: if the outputs are of another shape.

    >>> early_time(torch.tensor([[[0.0, 4.0]], [[0.0, 0.0]], [[4.0, 0.0]], [[4.0, 0.0]]]))
    3
    """
    if outputs.ndim != 3:
        raise ValueError(
            f"outputs are of shape {tuple(outputs.shape)}: give those of each time step, "
            "(T, B, classes)"
        )
    T = len(outputs)
    counts = torch.arange(1, T + 1, device=outputs.device).view(-1, 1, 1)
    logs = (outputs.cumsum(0) / counts).log_softmax(-1)  # (T, B, classes)
    apart = kl_div(logs, logs[-1].expand_as(logs), reduction="none", log_target=True)
    each = apart.sum(-1).mean(1)[1:-1].tolist()  # of t = 2 ... T - 1
    near = (t for t, value in enumerate(each, 2) if value < ratio * max(each) or not any(each))
    return next(near, T)


def lottery(
    model: nn.Module,
    train: Train,
    *,
    rounds: int = 14,
    fraction: float = 0.25,
    rewind: int = 0,
    stop: Settled | None = None,
    score: Score = magnitude,
    share: Share = None,
    only: Sequence[str] | None = None,
    floor: int = 1,
    seed: int = 0,
    resume: Level | None = None,
) -> Generator[Level]:
    """Train a network again and again, each time sparser and from the same early weights.

    The dense network is trained first; its state after ``rewind`` epochs is remembered. Each round
    removes ``fraction`` of the surviving synapses, those of lowest score, puts *all* else back to
    that state (weights, biases, gains, running statistics) and trains anew. With
    ``rounds=1, fraction=0.9, stop=Settled(0.9)`` the dense training ends early: Early-Bird.

    Departures from the released code of Kim et al. 2022: there the epoch of index 20, the 21st, is
    remembered; biases are no longer put back after the first round, running statistics never; a
    weight decay of 5e-4 reaches the optimizer as dampening. Optimizer and schedule of a round are
    up to ``train``: give it new ones, as they do.

    Args:
        model: any torch network.
        train: a generator function: given a `Level`, it trains the model, holds ``level.masks``,
            and yields after each epoch.
        rounds: after the dense one, 1 or more.
        fraction: share of the survivors that each round removes, (0, 1).
        rewind: epochs of the dense training after which its state is remembered; 0 for the
            weights as they are now. Kim et al.: 20 of 300, and 280 in each round after it.
        stop: end the dense training early, not before ``rewind``.
        score, share: what a synapse is worth after a round, and how sparsity is spread over
            tensors; None for one ranking over the network.
        only, floor, seed: as of `Pruner`.
        resume: the last `Level` of a lottery to continue, bit-exactly; the model must have the
            weights that it had then.

    Raises:
        ValueError: on wrong arguments, or if ``train`` lets a pruned weight move.

    >>> from spikewire import Pruner, Ticket, fit
    >>> from spikewire.data import Batches, load
    >>> from spikewire.nets import tiny
    >>> digits, net = load("digits"), tiny(T=2, width=4)
    >>> batches = Batches(digits.train, 200, digits.mean, digits.std)
    >>> def train(level):
    ...     adam = torch.optim.Adam(net.parameters(), 5e-3)
    ...     epochs = 2 if level.round else 3
    ...     pruner = Pruner(net, Ticket(), adam, steps=epochs * len(batches), possible=level.masks)
    ...     yield from fit(net, adam, batches, epochs=epochs)
    ...     pruner.finish()
    >>> for level in lottery(net, train, rounds=2, fraction=0.5, rewind=1):
    ...     print(level.round, round(level.sparsity, 2), level.epochs)
    0 0.0 3
    1 0.5 5
    2 0.75 7
    """
    sparsities, net = ladder(fraction, rounds), unwrapped(model)
    best = partial(draw, net, score=score, share=share, only=only, floor=floor, seed=seed)
    level = resume
    if level is None:
        level = Level(0, draw(net, 0.0, only=only), _state(net) if rewind == 0 else None)
        level = _dense_round(net, train, level, rewind, stop, best)
        yield level
    for number in range(level.round + 1, rounds + 1):
        masks = best(sparsities[number], level.masks)
        level = _round(net, train, replace(level, round=number, masks=masks))
        yield level


def _dense_round(
    net: nn.Module,
    train: Train,
    level: Level,
    rewind: int,
    stop: Settled | None,
    best: Callable[[float], Masks],
) -> Level:
    """Train densely; remember the state that all rounds go back to."""
    seen: list[Masks] = []
    for _ in train(level):
        level = replace(level, epochs=level.epochs + 1)
        if level.epochs == rewind:
            level = replace(level, start=_state(net))
        if stop is not None:
            seen = [*seen, best(stop.sparsity)][-stop.window :]
            if stop(seen) and level.start is not None:
                break
    if level.start is None or not level.epochs:
        raise ValueError(
            f"rewind={rewind}: train yielded {level.epochs} times in the dense round: let it yield "
            "after each epoch, or rewind to an earlier one"
        )
    if stop is not None:
        stop.complain(seen)
    return level


def _round(net: nn.Module, train: Train, level: Level) -> Level:
    """Go back, train what is left."""
    assert level.start is not None
    net.load_state_dict(level.start)
    apply_masks(net, level.masks)
    for _ in train(level):
        level = replace(level, epochs=level.epochs + 1)
    for name, mask in level.masks.items():
        if net.get_parameter(name)[~mask].any():
            raise ValueError(
                f"train lets pruned weights of {name} move: hold the masks, by "
                "Pruner(model, Ticket(), optimizer, steps=..., possible=level.masks)"
            )
    return level


def _state(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in net.state_dict().items()}
