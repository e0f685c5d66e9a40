"""Synapses: the prunable tensors of a network, and where their zeros are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from spikewire.masks import check_masks
from spikewire.weights import synaptic_weights


class Synapses:
    """One prunable tensor: its weights, which of them exist, what the method remembers of them.

    Attributes:
        name: as in the model's state_dict, "features.0.weight".
        weight: what the network multiplies with; exactly 0 where ``mask`` is False.
        possible: bool, where a connection may exist at all; None for anywhere.
        state: tensors of the method ("theta", "sign", ...), saved with the pruner.
        derived: tensors that follow from ``state`` and are kept to save time, not saved.

    >>> synapses = Synapses("weight", nn.Linear(2, 1).weight)
    >>> with torch.no_grad():
    ...     synapses.mask = torch.tensor([[True, False]])
    >>> synapses.weight[0, 1].item() == 0, synapses.alive
    (True, 1)
    """

    def __init__(self, name: str, weight: nn.Parameter, possible: Tensor | None = None) -> None:
        self.name = name
        self.weight = weight
        self.possible = possible
        self.state: dict[str, Tensor] = {}
        self.derived: dict[str, Tensor] = {}
        self._visible: Tensor | None = None
        self.unmask()

    @property
    def mask(self) -> Tensor:
        """True where a synapse exists. Methods without masks leave that to the weights: w != 0."""
        return self._gate.bool() if self._masked and self._gate is not None else self.weight != 0

    @mask.setter
    def mask(self, mask: Tensor) -> None:
        if self.possible is not None:
            mask = mask & self.possible
        # in the weight's own type: multiplying by bool costs torch five times as much on a CPU
        self._gate = mask.to(self.weight)
        self._masked = True
        self.enforce()

    def unmask(self) -> None:
        """Let the weights alone tell again which synapses exist."""
        self._gate = None if self.possible is None else self.possible.to(self.weight)
        self._masked = False

    @property
    def masked(self) -> bool:
        """Whether a mask holds the zeros (True), or the weights alone tell (hidden parameters)."""
        return self._masked

    @property
    def alive(self) -> int:
        """How many synapses exist."""
        gate = self._gate if self._masked else None
        return int(torch.count_nonzero(self.weight if gate is None else gate))

    def enforce(self) -> None:
        """Make weights exactly 0 where no synapse exists, or may exist."""
        if self._gate is not None:
            self.weight.mul_(self._gate)

    def expose(self) -> Tensor:
        """Let the optimizer see the hidden parameters instead of the weights; returns them.

        The two storages change places, nothing is copied.
        """
        if self._visible is not None:
            raise RuntimeError(f"{self.name}: after_step must come between two before_step")
        self._visible = self.weight.data
        self.weight.data = self.state["theta"]
        return self.weight.data

    def conceal(self) -> Tensor:
        """Take the hidden parameters back; returns the weights, for a projection to write to."""
        if self._visible is None:
            raise RuntimeError(f"{self.name}: before_step must come before after_step")
        self.state["theta"] = self.weight.data
        self.weight.data, self._visible = self._visible, None
        return self.weight.data

    def forget_exposure(self) -> None:
        """Take what the optimizer sees for the weights: both are about to be set anew."""
        self._visible = None


def synapses_of(
    model: nn.Module,
    only: Sequence[str] | None = None,
    possible: Mapping[str, Tensor] | None = None,
) -> list[Synapses]:
    """All prunable tensors of a network, checked.

    Raises:
        ValueError: if a tensor is sharded or not finite, or ``possible`` does not fit.

    >>> [s.name for s in synapses_of(nn.Linear(2, 1))]
    ['weight']
    """
    weights = dict(synaptic_weights(model, only))
    possible = {} if possible is None else possible
    check_masks("possible", possible, weights)
    for name, weight in weights.items():
        _check(name, weight)
    return [Synapses(name, weight, possible.get(name)) for name, weight in weights.items()]


def _check(name: str, weight: Tensor) -> None:
    if hasattr(weight, "device_mesh") or type(weight).__name__ == "FlatParameter":
        raise ValueError(
            f"{name} is sharded (FSDP): a ranking needs whole tensors; train with "
            "DistributedDataParallel"
        )
    if not torch.isfinite(weight).all():
        raise ValueError(f"{name} holds NaN or infinite weights: initialise or load it again")
