"""Deep R: random walks with a wall at zero; who crosses it dies, and others are born.

Three forms of it: with a fixed number of synapses (`DeepR`), with a number that emerges
(`SoftDeepR`), and the one behind the Deep R rows of Chen et al. 2021 (`ChenDeepR`). They share the
walk, and with it this file; when and where synapses are born sets them apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from spikewire.methods.checks import check_share, check_sparsity
from spikewire.methods.hidden import Hidden, rectify
from spikewire.pruner import Method, Pruner
from spikewire.scores import chance
from spikewire.shares import Share, uniform
from spikewire.synapses import Synapses

# A newborn stands just inside its own side of zero.
_BIRTH = 1e-12
# In Chen's form it stands above zero, whatever its sign, for a single step.
_CHEN_BIRTH = 1e-8


@dataclass(frozen=True)
class DeepR(Method):
    """Deep rewiring with a fixed number of synapses.

    An active synapse with sign s and theta = s w moves by
    ``-lr dE/dtheta - lr l1 + sqrt(2 lr temperature) nu`` with nu ~ N(0, 1); when theta falls below
    0 it becomes dormant and a dormant one, drawn uniformly, is born with a tiny theta and the
    sign of its weight at the start. Bellec et al. 2018 (ICLR, arXiv 1711.05136), Algorithm 1.

    Args:
        sparsity: share of zeros, [0, 1).
        l1: strength of the pull towards zero, >= 0.
        temperature: of the noise, >= 0, in units of theta^2 per unit of learning rate. The authors'
            demo has noise of standard deviation 1e-5 lr, a temperature of 2.5e-11 at lr = 0.5.
        share: how sparsity is spread over tensors, not global.
        global_constraint: keep the number of synapses of the network instead of each tensor's: a
            birth falls to a tensor with a probability proportional to its number at the start; one
            that falls to a full tensor is drawn again in the next step.

    Raises:
        ValueError: if one of them is out of its range.

    >>> DeepR(sparsity=0.95, l1=1e-2).share.__name__
    'uniform'
    """

    source: ClassVar[str] = "Bellec et al. 2018, arXiv 1711.05136"
    needs_rate: ClassVar[bool] = True

    sparsity: float = 0.9
    l1: float = 1e-4
    temperature: float = 1e-9
    share: Share = uniform
    global_constraint: bool = False

    def __post_init__(self) -> None:
        check_sparsity("sparsity", self.sparsity)
        check_share(self.share)
        _check_walk(self.l1, self.temperature)
        if self.share is None:
            raise ValueError(
                "share=global: Deep R begins with a number of synapses for each tensor; use "
                "uniform, erk or by_size, and global_constraint=True to let the numbers move"
            )

    def start(self, pruner: Pruner) -> None:
        masks = pruner.choose(pruner.scored(chance), pruner.budget(self.sparsity, self.share))
        for s in pruner:
            s.state["sign"] = _signs(s, pruner)
        pruner.rewire(masks)

    def after_step(self, pruner: Pruner) -> None:
        walked = {s.name: self._walk(s, pruner) for s in pruner}
        places = {s.name: _dormant(s, walked[s.name]) for s in pruner}
        for name, count in self._births(pruner, walked).items():
            places[name] = _drawn(places[name], count, pruner.random)
        for s in pruner:
            born, alive = places[s.name], walked[s.name]
            if born.any() or not alive.equal(s.mask):
                pruner.rewire({s.name: alive | born}, restart={s.name: born})
                s.weight.add_(s.state["sign"] * born, alpha=_BIRTH)

    def _walk(self, s: Synapses, pruner: Pruner) -> Tensor:
        """Move the active synapses; which of them are still alive."""
        _push(s, self.l1, self.temperature, pruner.lr(s), pruner)
        return s.mask & (s.state["sign"] * s.weight > 0)

    def _births(self, pruner: Pruner, alive: dict[str, Tensor]) -> dict[str, int]:
        """How many synapses each tensor lacks, or has drawn of what the network lacks."""
        budget = pruner.budget(self.sparsity, self.share)
        assert isinstance(budget, dict)  # the share is not global
        wanted = {s.name: max(budget[s.name], min(pruner.floor, s.weight.numel())) for s in pruner}
        lacks = {name: wanted[name] - int(alive[name].sum()) for name in wanted}
        if self.global_constraint:
            drawn = torch.zeros(len(wanted), dtype=torch.int64)
            if (total := sum(lacks.values())) > 0:
                chances = torch.tensor(list(wanted.values()), dtype=torch.float64)
                falls = torch.multinomial(chances, total, True, generator=pruner.random)
                drawn = falls.bincount(minlength=len(wanted))
            lacks = dict(zip(wanted, drawn.tolist(), strict=True))
        return lacks


@dataclass(frozen=True)
class SoftDeepR(Hidden):
    """Deep rewiring with a number of synapses that emerges.

    Active synapses (theta > 0) walk as in `DeepR`; dormant ones by noise alone, above
    ``theta_min = -(1 - p) / (p beta)`` with ``beta = l1 / temperature`` and p = 1 - sparsity: so
    that, were it not for the loss, a share p would be active. Bellec et al. 2018 (ICLR, arXiv
    1711.05136), Algorithm 2. As in the authors' demo a share p begins active, the others uniformly
    between theta_min and 0.

    Args:
        sparsity: share of zeros that the prior asks for, [0, 1); the loss keeps more alive.
        l1: strength of the pull towards zero, > 0.
        temperature: of the noise, > 0, as of `DeepR`.

    Raises:
        ValueError: if one of them is out of its range.

    >>> round(SoftDeepR(sparsity=0.9, l1=1e-4, temperature=1e-9).lowest, 6)
    -9e-05
    """

    source: ClassVar[str] = "Bellec et al. 2018, arXiv 1711.05136"
    needs_rate: ClassVar[bool] = True

    sparsity: float = 0.9
    l1: float = 1e-4
    temperature: float = 1e-9

    def __post_init__(self) -> None:
        check_sparsity("sparsity", self.sparsity)
        if not (self.l1 > 0.0 and self.temperature > 0.0):
            raise ValueError(
                f"l1={self.l1}, temperature={self.temperature}: give both above 0; without noise "
                "no dormant synapse would ever come back, without l1 none would be held down"
            )

    @property
    def lowest(self) -> float:
        """The floor theta_min under dormant synapses."""
        return -self.sparsity / (1.0 - self.sparsity) * self.temperature / self.l1

    def start(self, pruner: Pruner) -> None:
        for s in pruner:
            sign = s.state["sign"] = _signs(s, pruner)
            depth = chance(s, pruner).to(s.weight)
            active = chance(s, pruner) < 1.0 - self.sparsity
            s.state["theta"] = sign * torch.where(active, s.weight.abs(), depth * self.lowest)
            self.project(s, s.state["theta"], s.weight, pruner)

    def drift(self, synapses: Synapses, theta: Tensor, pruner: Pruner) -> None:
        """Note where everyone stands, since the optimizer moves the dormant as well."""
        synapses.derived["before"] = theta.clone()

    def project(self, synapses: Synapses, theta: Tensor, weight: Tensor, pruner: Pruner) -> None:
        before = synapses.derived.pop("before", None)
        if before is not None:
            active = synapses.state["sign"] * before > 0
            theta.copy_(torch.where(active, theta, before))
            self._walk(synapses, theta, active, pruner)
        rectify(synapses, theta, weight)

    def _walk(self, s: Synapses, theta: Tensor, active: Tensor, pruner: Pruner) -> None:
        sign, rate = s.state["sign"], pruner.lr(s)
        theta.sub_(sign * active, alpha=rate * self.l1)
        noise = torch.randn(theta.shape, generator=pruner.random).to(theta)
        theta.add_(noise, alpha=math.sqrt(2.0 * rate * self.temperature))
        theta.copy_(sign * (sign * theta).clamp_(min=self.lowest))


@dataclass(frozen=True)
class ChenDeepR(Method):
    """Deep R as in the released code of Chen et al. 2021, whose tables compare Grad R with it.

    It differs from `DeepR` in all that matters: training begins with all synapses; those that
    cross zero are dormant for good; L1 and noise bear Adam's bias correction; the optimizer forgets
    nothing. While the sparsity c of a tensor exceeds ``max_sparsity``, each dormant synapse is
    "born" with probability ``(c - max_sparsity) / c``, as a weight of +1e-8; but the authors' code
    does not enter it among the active, so the next step makes it 0 again. Such births are seen in
    the count of synapses, which does not fall below ``1 - max_sparsity``, and in nothing else:
    this is L1 with irreversible pruning. Their scripts leave the temperature at 0.

    Args:
        l1: strength of the pull towards zero, >= 0.
        max_sparsity: sparsity of a tensor above which synapses are born, [0, 1].
        temperature: of the noise, >= 0.

    Raises:
        ValueError: if one of them is out of its range.

    >>> ChenDeepR(l1=1e-2, max_sparsity=0.99).temperature
    0.0
    """

    source: ClassVar[str] = "released code of Chen et al. 2021, arXiv 2105.04916"
    sparsity_is: ClassVar[str] = "emergent"
    needs_rate: ClassVar[bool] = True

    l1: float = 1e-4
    max_sparsity: float = 1.0
    temperature: float = 0.0

    def __post_init__(self) -> None:
        _check_walk(self.l1, self.temperature)
        if not 0.0 <= self.max_sparsity <= 1.0:
            raise ValueError(
                f"max_sparsity={self.max_sparsity!r}: give a share of zeros from 0 to 1"
            )

    def start(self, pruner: Pruner) -> None:
        for s in pruner:
            s.state["sign"] = s.weight.sign()

    def after_step(self, pruner: Pruner) -> None:
        for s in pruner:
            sign = s.state["sign"]  # 0 where a synapse is dormant
            rate = pruner.lr(s) / (1.0 - pruner.beta1(s) ** pruner.step)
            _push(s, self.l1, self.temperature, rate, pruner)
            s.weight.mul_(sign).clamp_(min=0.0).mul_(sign)
            torch.sign(s.weight, out=sign)
            sparsity = 1.0 - s.alive / s.weight.numel()
            if sparsity > self.max_sparsity:
                s.weight.masked_fill_(self._born(s, sparsity, pruner.random), _CHEN_BIRTH)

    def _born(self, s: Synapses, sparsity: float, random: torch.Generator) -> Tensor:
        dormant = _dormant(s, s.mask)
        births = torch.binomial(
            dormant.sum().cpu().double(),
            torch.tensor((sparsity - self.max_sparsity) / sparsity, dtype=torch.float64),
            generator=random,
        )
        return _drawn(dormant, int(births), random)


def _check_walk(l1: float, temperature: float) -> None:
    if not (l1 >= 0.0 and temperature >= 0.0):
        raise ValueError(f"l1={l1}, temperature={temperature}: both must be 0 or more")


def _signs(s: Synapses, pruner: Pruner) -> Tensor:
    """The signs of the weights, drawn where a weight is 0."""
    coin = (chance(s, pruner) < 0.5).to(s.weight) * 2.0 - 1.0
    return torch.where(s.weight == 0, coin, s.weight.sign())


def _push(s: Synapses, l1: float, temperature: float, rate: float, pruner: Pruner) -> None:
    """L1, and noise on synapses that exist; what is dormant has to be zeroed by the caller."""
    s.weight.sub_(s.state["sign"], alpha=rate * l1)
    if temperature:
        active = s.mask
        noise = torch.randn(int(active.sum()), generator=pruner.random).to(s.weight)
        s.weight[active] += math.sqrt(2.0 * rate * temperature) * noise


def _dormant(s: Synapses, alive: Tensor) -> Tensor:
    return ~alive if s.possible is None else ~alive & s.possible


def _drawn(among: Tensor, count: int, random: torch.Generator) -> Tensor:
    """A mask of ``count`` places, or as many as there are, uniformly among those marked."""
    picked = torch.zeros_like(among).flatten()
    seed = int(torch.randint(2**63 - 1, (), generator=random))
    if count > 0:
        places = among.flatten().nonzero().squeeze(1)
        take = min(count, len(places))
        numbers = np.random.default_rng(seed).choice(len(places), take, False, shuffle=False)
        picked[places[torch.from_numpy(numbers).to(places.device)]] = True
    return picked.view(among.shape)
