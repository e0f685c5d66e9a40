"""Rewire: drop the weakest connections, grow the most promising ones, keep to the budget.

Published methods of this family are settings of one exchange, `Rewire`, so they share its file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from spikewire.methods.checks import (
    check_churn,
    check_every,
    check_rise,
    check_score,
    check_share,
    check_sparsity,
    warn_if_no_event,
)
from spikewire.methods.prune import cut, reaches, trim
from spikewire.pruner import Method, Pruner
from spikewire.schedules import Constant, Cosine, Cubic, Schedule
from spikewire.scores import (
    Score,
    chance,
    criticality,
    gradient,
    magnitude,
    primitive,
)
from spikewire.shares import Share, erk
from spikewire.units import Unit

Budget = int | dict[str, int]


def without(budget: Budget, share: float) -> Budget:
    """What is left of a budget when this share of it goes, the going rounded down.

    >>> without({"a": 10, "b": 5}, 0.5)
    {'a': 5, 'b': 3}
    """
    if isinstance(budget, dict):
        return {name: count - int(count * share) for name, count in budget.items()}
    return budget - int(budget * share)


@dataclass(frozen=True)
class Rewire(Method):
    """Exchange a share of the synapses at every event: the weakest go, the most promising come.

    Of a budget of ``B = (1 - s_t) n`` synapses the ``B - k`` of highest ``drop`` stay, with ``k =
    floor(churn B)``, and the k of highest ``grow`` among all others come.

    Args:
        sparsity: share of zeros, [0, 1), a number or a schedule.
        churn: share of the budget exchanged at an event, [0, 1), a number or a schedule.
        drop: synapses of lowest score are dropped.
        grow: pruned synapses of highest score are grown, at weight 0.
        share: how sparsity is spread over tensors; None for one ranking over the network.
        every: steps between two events.
        until: progress after which the wiring is frozen.
        restart: a synapse dropped and grown again in one event restarts at 0 (NDSNN,
            criticality); if False it keeps its value (the released codes of RigL, SET, GraNet).
        forget: the optimizer's state of whatever changed becomes 0; if False it runs on
            (criticality's released code).
        exact: grow exactly the budget, ties by position; if False, all that tie with the last one
            (criticality's released code revives whole channels).
        pause: no parameter moves in the step of an event (RigL's released code).
        unit: what is dropped and grown together, see `spikewire.units`; None for synapse by
            synapse. Up to a unit may be missing to the budget.

    Raises:
        ValueError: if one of them is out of its range.

    >>> Rewire(0.9, churn=Cosine(0.3)).exchange()(0.5)
    0.15
    """

    sparsity: Schedule | float = 0.9
    churn: Schedule | float = 0.3
    drop: Score = magnitude
    grow: Score = gradient
    share: Share = erk
    every: int = 100
    until: float = 0.75
    restart: bool = False
    forget: bool = True
    exact: bool = True
    pause: bool = False
    unit: Unit = None

    def __post_init__(self) -> None:
        check_sparsity("sparsity", self.sparsity)
        check_sparsity("sparsity", self.plan())
        check_every(self.every)
        check_score("drop", self.drop)
        check_score("grow", self.grow)
        check_share(self.share)
        if not 0.0 < self.until <= 1.0:
            raise ValueError(f"until={self.until}: give the progress of the last event, in (0, 1]")
        check_churn(self.churn)

    def plan(self) -> Callable[[float], float]:
        """Sparsity as a function of progress."""
        return self.sparsity if callable(self.sparsity) else Constant(self.sparsity)

    def exchange(self) -> Callable[[float], float]:
        """Exchanged share of the budget as a function of progress."""
        return self.churn if callable(self.churn) else Constant(self.churn)

    def event(self, pruner: Pruner) -> bool:
        return pruner.step > 0 and pruner.step % self.every == 0 and pruner.progress <= self.until

    def start(self, pruner: Pruner) -> None:
        warn_if_no_event(self.every, self.until, pruner.steps)
        budget = pruner.budget(self.plan()(0.0), self.share)
        pruner.rewire(pruner.choose(pruner.scored(chance), budget))

    def before_step(self, pruner: Pruner) -> None:
        if not self.event(pruner):
            return
        budget = self.spend(pruner)
        before = pruner.masks
        kept = self.keep(pruner, before, budget)
        hope = self.hope(pruner)
        for name, mask in kept.items():
            hope[name] = hope[name].masked_fill(mask, math.inf)
        chosen = pruner.choose(hope, budget, exact=self.exact)
        restart = {name: before[name] & ~kept[name] for name in kept} if self.restart else None
        pruner.rewire(chosen, forget=self.forget, restart=restart)
        if self.pause:
            pruner.model.zero_grad(set_to_none=True)

    def finish(self, pruner: Pruner) -> None:
        if self.exact:  # the last event may have come too early for the final sparsity
            trim(pruner, pruner.budget(self.plan()(1.0), self.share))

    def spend(self, pruner: Pruner) -> Budget:
        """How many synapses there are to be after this event."""
        return pruner.budget(self.plan()(pruner.progress), self.share)

    def keep(self, pruner: Pruner, before: dict[str, Tensor], budget: Budget) -> dict[str, Tensor]:
        """Which of the present synapses stay."""
        return pruner.choose(pruner.scored(self.drop, before), self.survivors(pruner, budget))

    def hope(self, pruner: Pruner) -> dict[str, Tensor]:
        """What each synapse is worth growing."""
        return pruner.scored(self.grow)

    def survivors(self, pruner: Pruner, budget: Budget) -> Budget:
        """How many of the present synapses stay."""
        return without(budget, self.exchange()(pruner.progress))


@dataclass(frozen=True)
class SET(Rewire):
    """Sparse evolutionary training: the weakest go, any others come.

    In each layer the ``k = floor(churn B)`` of smallest ``|w|`` go and k others come, all equally
    probable. Mocanu et al. 2018 (Nature Communications 9, 2383). Its fields are those of `Rewire`.

    >>> SET(0.95).grow.__name__
    'chance'
    """

    source: ClassVar[str] = "Mocanu et al. 2018, Nature Communications 9, 2383"

    grow: Score = chance


@dataclass(frozen=True)
class RigL(Rewire):
    """Rigged lottery: grow where the dense gradient is largest, less and less on a cosine.

    In each layer the ``k = floor(churn_t B)`` of smallest ``|w|`` go and the k of largest
    ``|dL/dw|`` come. A number ``churn`` is alpha in ``churn_t = alpha / 2 (1 + cos(pi t /
    until))``. Evci et al. 2020 (arXiv 1911.11134). The released code leaves the weights unmoved in
    the step of an event: ``pause=True``. Its fields are those of `Rewire`.

    >>> round(RigL(churn=0.3, until=0.8).exchange()(0.4), 3)
    0.15
    """

    source: ClassVar[str] = "Evci et al. 2020, arXiv 1911.11134"

    def exchange(self) -> Callable[[float], float]:
        return self.churn if callable(self.churn) else Cosine(self.churn, finish=self.until)


@dataclass(frozen=True)
class ITOP(RigL):
    """In-time over-parameterisation: rewire seldom and much, so that each choice is well informed.

    RigL or SET with many steps between events, and half the budget exchanged at first: over the
    training as many different synapses as possible are each given time to grow. Liu et al. 2021
    (arXiv 2102.02887), whose code takes 1500 steps with random growth (``grow=chance``) and 4000 by
    gradient, in 250 epochs of CIFAR at batch 128, 98 000 steps. `explored` says what share of the
    synapses has ever existed, ``R_s = |m_0 or m_1 or ...| / n``. Its fields are those of `Rewire`.

    >>> ITOP(0.9).exchange()(0.0)
    0.5
    """

    source: ClassVar[str] = "Liu et al. 2021, arXiv 2102.02887"

    churn: Schedule | float = 0.5
    every: int = 400
    until: float = 1.0

    def start(self, pruner: Pruner) -> None:
        super().start(pruner)
        for s in pruner:
            s.state["explored"] = s.mask.clone()

    def before_step(self, pruner: Pruner) -> None:
        super().before_step(pruner)
        if self.event(pruner):
            for s in pruner:
                s.state["explored"] |= s.mask


def explored(pruner: Pruner) -> float:
    """The share of all synapses that have ever existed in a training by `ITOP`.

    >>> import spikewire
    >>> explored(spikewire.Pruner(torch.nn.Linear(10, 10), ITOP(0.9, every=1), steps=9))
    0.1
    """
    seen = [s.state["explored"] for s in pruner]
    return sum(int(mask.count_nonzero()) for mask in seen) / sum(mask.numel() for mask in seen)


@dataclass(frozen=True)
class ESL(RigL):
    """Evolutionary structure learning: sparse from the start, rewired less and less.

    Shen et al. 2023 (ESL-SNNs, AAAI, arXiv 2306.03693): an Erdos-Renyi network, of which the
    smallest weights are dropped again and again, and as many synapses grown: at random, by gradient
    (``grow=gradient``) or by the optimizer's momentum (``grow=momentum``; leave `Pruner.still`
    alone then, it hides the gradients of pruned synapses). No code was released; that half is
    exchanged at first, ``churn / 2 (1 + cos(pi t / until))`` later, is our reading. Its fields are
    those of `Rewire`.

    >>> ESL(0.5).grow.__name__
    'chance'
    """

    source: ClassVar[str] = "Shen et al. 2023, arXiv 2306.03693"

    churn: Schedule | float = 0.5
    grow: Score = chance


@dataclass(frozen=True)
class GraNet(Rewire):
    """Gradual pruning with neuroregeneration.

    At an event the network is first cut globally by magnitude to
    ``s_t = s_f + (s_i - s_f) (1 - u)^3``, u the progress towards ``settle``; then every layer
    exchanges the share ``churn`` of its survivors, ``0.005 + 0.495 (1 + cos(pi t)) / 2``, for those
    with the largest gradient. The exchange goes on after the cut has ended. Liu et al. 2021 (arXiv
    2106.10404). Their code rounds the exchanged number up, ours down.

    Args:
        sparsity: the final one.
        initial: sparsity at the beginning; ERK masks at random if above 0.
        settle: progress at which the final sparsity is reached.

    Raises:
        ValueError: if one of them is out of its range.

    >>> GraNet(0.9, initial=0.5).plan()(0.5)
    0.9
    """

    source: ClassVar[str] = "Liu et al. 2021, arXiv 2106.10404"

    sparsity: float = 0.9
    churn: Schedule | float = Cosine(0.5, 0.005)
    until: float = 1.0
    initial: float = 0.5
    settle: float = 0.5

    def __post_init__(self) -> None:
        check_rise(self.initial, self.sparsity)
        super().__post_init__()

    def plan(self) -> Callable[[float], float]:
        return Cubic(self.initial, self.sparsity, finish=self.settle)

    def spend(self, pruner: Pruner) -> Budget:
        cut(pruner, pruner.budget(self.plan()(pruner.progress), None), self.drop)
        return {s.name: s.alive for s in pruner}

    def finish(self, pruner: Pruner) -> None:
        trim(pruner, pruner.budget(self.plan()(1.0), None))


@dataclass(frozen=True)
class NDSNN(Rewire):
    """Neurogenesis dynamics: sparse from the start and ever sparser, dropping more than it grows.

    At an event every layer drops the share ``d_t = 0.05 + 0.45 (1 + cos(pi t)) / 2`` of what it
    has, ``churn``, and grows by gradient up to its budget, whose sparsity follows
    ``s_t = s_f + (s_i - s_f) (1 - t)^3`` between those that the share gives the layer at
    ``initial`` and at ``sparsity``. Where that falls faster than d_t, more is dropped and nothing
    grown. Huang et al. 2023 (arXiv 2304.12214); no code was released, ``initial`` and ``churn`` are
    our reading.

    Args:
        sparsity: the final one.
        initial: sparsity at the beginning.

    Raises:
        ValueError: if one of them is out of its range.

    >>> NDSNN(0.9).plan()(0.0), NDSNN(0.9).plan()(1.0)
    (0.6, 0.9)
    """

    source: ClassVar[str] = "Huang et al. 2023, arXiv 2304.12214"

    sparsity: float = 0.9
    churn: Schedule | float = Cosine(0.5, 0.05)
    until: float = 1.0
    restart: bool = True
    initial: float = 0.6

    def __post_init__(self) -> None:
        check_rise(self.initial, self.sparsity)
        super().__post_init__()

    def plan(self) -> Callable[[float], float]:
        return Cubic(self.initial, self.sparsity)

    def spend(self, pruner: Pruner) -> Budget:
        first, last = (pruner.budget(s, self.share) for s in (self.initial, self.sparsity))
        ahead = Cubic(1.0, 0.0)(pruner.progress)
        if isinstance(first, dict) and isinstance(last, dict):
            return {name: last[name] + int(ahead * (first[name] - last[name])) for name in last}
        return super().spend(pruner)

    def survivors(self, pruner: Pruner, budget: Budget) -> Budget:
        churn = self.exchange()(pruner.progress)
        if isinstance(budget, dict):
            return {s.name: min(budget[s.name], s.alive - int(churn * s.alive)) for s in pruner}
        alive = sum(s.alive for s in pruner)
        return min(budget, alive - int(churn * alive))


@dataclass(frozen=True)
class Criticality(Rewire):
    """Prune by magnitude beyond the target, then revive what feeds critical neurons.

    Sparsity follows ``s_t = s_f (1 - (1 - u)^3)``; an event cuts globally to ``s_t + r (1 - s_t)``
    and revives the most critical pruned synapses up to ``s_t``: those of the neurons with the
    largest mean over time of ``h'(u - v_th)``, `scores.CriticalityScore`. A read-out without
    neurons has no criticality: it is cut to its part of ``s_t`` and left alone, by any other
    ``grow`` too, so that all of them choose among the same synapses. Chen et al. (arXiv 2311.16141
    v3), Algorithm 1, Eqs. 11-15. Their released code: `ReleasedCriticality`.

    Args:
        sparsity: the final one.
        churn: the share r of the budget that is revived.
        grow: pruned synapses of highest score are revived, at weight 0.
        until: progress at which the final sparsity is reached and the wiring frozen; half of the
            training is our reading, the paper does not say how its 200 epochs are split.

    Raises:
        ValueError: if one of them is out of its range.

    >>> Criticality(0.9, until=0.5).plan()(0.5)
    0.9
    """

    source: ClassVar[str] = "Chen, Liu, Liu & You 2023, arXiv 2311.16141"
    asks_who_follows: ClassVar[bool] = True  # only neurons tell which synapses are a read-out

    sparsity: float = 0.9
    churn: Schedule | float = 0.2
    grow: Score = criticality
    share: Share = None
    until: float = 0.5
    restart: bool = True

    def __post_init__(self) -> None:
        check_rise(0.0, self.sparsity)
        super().__post_init__()

    def plan(self) -> Callable[[float], float]:
        return Cubic(0.0, self.sparsity, finish=self.until)

    def hope(self, pruner: Pruner) -> dict[str, Tensor]:
        aside = self._aside(pruner)
        worth = super().hope(pruner)
        return {n: torch.full_like(w, -math.inf) if n in aside else w for n, w in worth.items()}

    def keep(self, pruner: Pruner, before: dict[str, Tensor], budget: Budget) -> dict[str, Tensor]:
        aside = self._aside(pruner)
        if not aside:
            return super().keep(pruner, before, budget)
        scores = pruner.scored(self.drop, before)
        plain = pruner.choose(scores, budget)
        rest = {name: score for name, score in scores.items() if name not in aside}
        if not rest:
            return plain
        if isinstance(budget, dict):
            room: Budget = {name: budget[name] for name in rest}
        else:
            room = budget - sum(int(plain[name].count_nonzero()) for name in aside)
        return plain | pruner.choose(rest, without(room, self.exchange()(pruner.progress)))

    def _aside(self, pruner: Pruner) -> set[str]:
        """Tensors which no neuron layer follows: nothing is revived of what is cut there."""
        if pruner.observer is None:
            return set()
        return {s.name for s in pruner if pruner.observer.layer_of(s.name) is None}

    def event(self, pruner: Pruner) -> bool:
        # the last event is due when the final sparsity is, whatever ``every`` says
        return super().event(pruner) or reaches(pruner, self.until)

    def start(self, pruner: Pruner) -> None:
        warn_if_no_event(self.every, self.until, pruner.steps)
        pruner.rewire({s.name: torch.ones_like(s.weight, dtype=torch.bool) for s in pruner})


@dataclass(frozen=True)
class ReleasedCriticality(Criticality):
    """Criticality as in the authors' released code, which departs from the paper.

    Pruned synapses are ranked by the surrogate itself, ``h(u - v_th)`` with ``h(x) = tanh(3 x) / (2
    tanh(3/2)) + 1/2``, instead of its slope (`primitive`). All that tie with the last one revived
    come back with it: whole channels, so that sparsity stays somewhat below its schedule, and very
    much where neurons are so far below threshold that they all score 0. Momentum runs on below the
    masks. Their runs end pruning after 200 of 500 epochs, with an event every 2000 steps. Its
    fields are those of `Criticality`.

    >>> ReleasedCriticality(0.9).grow.primitive
    True
    """

    source: ClassVar[str] = "released code of Chen, Liu, Liu & You 2023, arXiv 2311.16141"
    sparsity_is: ClassVar[str] = "emergent"

    grow: Score = primitive
    until: float = 0.4
    forget: bool = False
    exact: bool = False
