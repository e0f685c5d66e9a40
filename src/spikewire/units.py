"""Units: synapses that are chosen together, because hardware handles them together.

A unit chooses masks as `masks.choose` does, which chooses synapse by synapse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, PlainSerializer
from torch import Tensor
from torch.nn.functional import pad

from spikewire import spelling
from spikewire.masks import NAN, choose


@dataclass(frozen=True)
class Grouped:
    """A tensor seen as rows of synapses; its children say which, and how they are chosen."""

    def split(self, scores: Tensor) -> Tensor:
        """As rows (groups, size); a last group that is not full is filled up with ``-inf``."""
        raise TypeError(f"{type(self).__name__} has no groups of its own: define split()")

    def join(self, rows: Tensor, shape: torch.Size) -> Tensor:
        """Back from rows to the shape of the tensor."""
        raise TypeError(f"{type(self).__name__} has no groups of its own: define join()")

    def choose(
        self,
        scores: Mapping[str, Tensor],
        keep: int | Mapping[str, int],
        *,
        floor: int = 0,
        exact: bool = True,
    ) -> dict[str, Tensor]:
        """`masks.choose`, in units: no more synapses than asked for.

        Args:
            scores: by name of tensor; ``-inf`` is never chosen.
            keep: how many synapses, together or of each tensor.
            floor: if above 0, every tensor keeps its best unit, whatever ``keep`` says.
            exact: as of `masks.choose`.

        Raises:
            ValueError: if a score is NaN.
        """
        for name, score in scores.items():
            if score.isnan().any():
                raise ValueError(f"{name}: {NAN}")
        if not isinstance(keep, Mapping):
            return self.chosen(scores, keep, floor, exact)
        return {
            name: self.chosen({name: score}, keep[name], floor, exact)[name]
            for name, score in scores.items()
        }

    def chosen(
        self, scores: Mapping[str, Tensor], keep: int, floor: int, exact: bool
    ) -> dict[str, Tensor]:
        """Masks of one ranking over all these tensors."""
        raise TypeError(f"{type(self).__name__} does not say how to choose: define chosen()")


@dataclass(frozen=True)
class Whole(Grouped):
    """Groups that exist as a whole or not at all, ranked by the mean of their scores.

    The best are taken as long as they fit, so less than a group may be missing to the number asked
    for. Impossible synapses of a group do not count.
    """

    def chosen(
        self, scores: Mapping[str, Tensor], keep: int, floor: int, exact: bool
    ) -> dict[str, Tensor]:
        rows = {name: self.split(score) for name, score in scores.items()}
        sizes = torch.cat([(row > -torch.inf).sum(1) for row in rows.values()])
        worth = torch.cat([_mean(row) for row in rows.values()])
        best = self._best(rows, worth) if floor else torch.zeros_like(worth, dtype=torch.bool)
        keep = max(keep, int(sizes[best].sum()))
        order = worth.masked_fill(best, torch.inf).argsort(descending=True, stable=True)
        taken = order[(sizes[order].cumsum(0) <= keep) & (worth[order] > -torch.inf)]
        chosen = torch.zeros_like(best)
        chosen[taken] = True
        if not exact and len(taken):
            chosen |= worth >= worth[taken].min()
        parts = chosen.split([len(row) for row in rows.values()])
        return {
            name: self.join(part.unsqueeze(1) & (rows[name] > -torch.inf), scores[name].shape)
            for name, part in zip(rows, parts, strict=True)
        }

    def _best(self, rows: Mapping[str, Tensor], worth: Tensor) -> Tensor:
        """Marks the best group of each tensor that has one."""
        best, begin = torch.zeros_like(worth, dtype=torch.bool), 0
        for row in rows.values():
            here = worth[begin : begin + len(row)]
            best[begin + int(here.argmax())] = bool(here.max() > -torch.inf)
            begin += len(row)
        return best


@dataclass(frozen=True)
class Kernel(Whole):
    """The kernel between two channels, kh x kw; in a linear layer, one synapse.

    >>> scores = {"conv": torch.tensor([[[1.0, 9.0]], [[4.0, 4.0]]])}  # (2, 1, 2)
    >>> Kernel().choose(scores, 2)["conv"].tolist()
    [[[True, True]], [[False, False]]]
    """

    def split(self, scores: Tensor) -> Tensor:
        return scores.reshape(scores.shape[0] * scores.shape[1], -1)

    def join(self, rows: Tensor, shape: torch.Size) -> Tensor:
        return rows.reshape(shape)


@dataclass(frozen=True)
class FanIn(Whole):
    """All that one neuron, or one channel, listens to: a row of the weights.

    >>> FanIn().choose({"fc": torch.tensor([[1.0, 2.0], [3.0, 1.0]])}, 3)["fc"].tolist()
    [[False, False], [True, True]]
    """

    def split(self, scores: Tensor) -> Tensor:
        return scores.flatten(1)

    def join(self, rows: Tensor, shape: torch.Size) -> Tensor:
        return rows.reshape(shape)


@dataclass(frozen=True)
class Block(Whole):
    """Blocks of the weights as a matrix (C_out, fan-in); those at its edges may be smaller.

    Args:
        rows, columns: of a block, 1 or more.

    Raises:
        ValueError: if one of them is not.

    >>> Block(1, 2).choose({"fc": torch.tensor([[1.0, 2.0, 9.0]])}, 1)["fc"].tolist()
    [[False, False, True]]
    """

    rows: int = 4
    columns: int = 4

    def __post_init__(self) -> None:
        _check("rows", self.rows)
        _check("columns", self.columns)

    def split(self, scores: Tensor) -> Tensor:
        matrix = scores.flatten(1)
        down, right = -len(matrix) % self.rows, -matrix.shape[1] % self.columns
        tiled = pad(matrix, (0, right, 0, down), value=-torch.inf)
        tiled = tiled.unflatten(1, (-1, self.columns)).unflatten(0, (-1, self.rows))
        return tiled.transpose(1, 2).flatten(2).flatten(0, 1)

    def join(self, rows: Tensor, shape: torch.Size) -> Tensor:
        across = -(-shape[1:].numel() // self.columns)
        tiled = rows.unflatten(1, (self.rows, self.columns)).unflatten(0, (-1, across))
        matrix = tiled.transpose(1, 2).flatten(2).flatten(0, 1)
        return matrix[: shape[0], : shape[1:].numel()].reshape(shape)


@dataclass(frozen=True)
class NM(Grouped):
    """At most n of m neighbouring inputs, as sparse tensor cores want it: 2:4 and the like.

    The n of highest score in each group come before all other synapses: of these as many exist as
    are asked for. With a sparsity of 1 - n/m or more no group has more than n; with less, the
    others fill up by their rank. Inputs are neighbours along the input channels, at the same place
    of a kernel. Mishra et al. 2021 (arXiv 2104.08378); for SNNs, learned masks: SpikeNM (arXiv
    2511.12097).

    Args:
        n: synapses of a group, 1 or more.
        m: inputs of a group, more than n.

    Raises:
        ValueError: if they are not.

    >>> NM(1, 2).choose({"fc": torch.tensor([[1.0, 2.0, 8.0, 9.0]])}, 2)["fc"].tolist()
    [[False, True, False, True]]
    """

    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        _check("n", self.n)
        _check("m", self.m)
        if self.n >= self.m:
            raise ValueError(f"n={self.n}, m={self.m}: give fewer synapses than inputs, as in 2:4")

    def split(self, scores: Tensor) -> Tensor:
        inputs_last = scores.movedim(1, -1)
        filled = pad(inputs_last, (0, -inputs_last.shape[-1] % self.m), value=-torch.inf)
        return filled.reshape(-1, self.m)

    def join(self, rows: Tensor, shape: torch.Size) -> Tensor:
        places = (shape[0], *shape[2:], -1)
        return rows.reshape(places)[..., : shape[1]].movedim(-1, 1)

    def chosen(
        self, scores: Mapping[str, Tensor], keep: int, floor: int, exact: bool
    ) -> dict[str, Tensor]:
        strong = {name: self._strong(score) for name, score in scores.items()}
        rest = keep - sum(int(torch.count_nonzero(mask)) for mask in strong.values())
        if rest <= 0:
            among = {name: s.masked_fill(~strong[name], -torch.inf) for name, s in scores.items()}
            return choose(among, keep, floor=floor, exact=exact)
        among = {name: s.masked_fill(strong[name], -torch.inf) for name, s in scores.items()}
        others = choose(among, rest, exact=exact)
        return {name: mask | others[name] for name, mask in strong.items()}

    def _strong(self, scores: Tensor) -> Tensor:
        """The n of highest score in each group."""
        rows = self.split(scores)
        order = rows.argsort(dim=1, descending=True, stable=True)[:, : self.n]
        first = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, order, True)
        return self.join(first & (rows > -torch.inf), scores.shape)


def _mean(rows: Tensor) -> Tensor:
    """Of what is possible in each row; ``-inf`` where nothing is."""
    there = rows > -torch.inf
    count = there.sum(1)
    mean = rows.masked_fill(~there, 0.0).sum(1) / count.clamp(min=1)
    return mean.masked_fill(count == 0, -torch.inf)


def _check(name: str, value: Any) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r}: give a whole number, 1 or more")


UNITS: dict[str, Any] = {
    "synapse": None,
    "kernel": Kernel,
    "fan_in": FanIn,
    "block": Block,
    "nm": NM,
}

Unit = Annotated[
    Grouped | None,
    BeforeValidator(lambda text: spelling.parse("unit", text, UNITS)),
    PlainSerializer(lambda unit: spelling.spell(unit, UNITS), when_used="json"),
]
"""What is chosen together; None for synapse by synapse."""
