"""Dialects: how each spiking library says "neuron", "reset" and "membrane potential".

Classes are matched by qualified name along their ancestry, so nothing is imported for a library
that the user does not have.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# A threshold which no membrane reaches: a neuron that has it only charges. Finite, because
# libraries multiply the threshold with spikes that are 0.
_UNREACHABLE = 1e30

# Neurons of snnTorch that fire where their membrane potential, ``mem``, is above their threshold.
_SNNTORCH_TELLS = ("Leaky", "Lapicque", "Synaptic", "Alpha", "RLeaky", "RSynaptic")
# Those that are given all time steps at once (T, B, ...), and carry nothing to the next call.
_SNNTORCH_SEQUENCES = ("StateLeaky", "AssociativeLeaky")
_BY_SUBTRACTION, _TO_ZERO = 0, 1  # what `reset_mechanism_val` says


@dataclass(frozen=True)
class Dialect:
    """What spikewire must know of one spiking library.

    Args:
        name: the library.
        neurons: qualified names of the classes that its neuron layers descend from; what descends
            from none of them (PSN and SimpleLIFNode of SpikingJelly) is no neuron layer here.
        memory: (neuron, what it is called with, that by name) -> the tensor that it carries from
            step to step, None at rest.
        reset: put one neuron layer back to rest.
        stepwise: whether the layer's input is one time step (B, ...), not a sequence (T, B, ...).
        silent: why `potentials` cannot be had of this neuron layer, and what to do; "" if they can.
        potentials: (neuron after its call, state before, input (T, B, ...), spikes) -> pre-reset
            membrane potentials.
        state: what `potentials` needs to know of the neuron before its call.
        threshold: the firing threshold.
    """

    name: str
    neurons: tuple[str, ...]
    memory: Callable[[Any, Sequence[Any], Mapping[str, Any]], Tensor | None]
    reset: Callable[[Any], None]
    stepwise: Callable[[Any], bool]
    state: Callable[[Any], Any]
    silent: Callable[[Any], str]
    potentials: Callable[[Any, Any, Tensor, Tensor], Tensor]
    threshold: Callable[[Any], float | Tensor]

    def refuse_silent(self, neuron: nn.Module) -> None:
        """See that a neuron layer tells its membrane potential.

        Raises:
            ValueError: if it does not.
        """
        if reason := self.silent(neuron):
            raise ValueError(
                f"{type(neuron).__name__} does not tell its membrane potential, which watch(..., "
                f"membranes=True) and criticality need: {reason}"
            )


def _spikingjelly_state(neuron: Any) -> tuple[Any, ...]:
    return tuple(neuron._memories.values())


def _spikingjelly_silent(neuron: Any) -> str:
    if hasattr(neuron, "single_step_functional_forward"):
        return ""
    return (
        "give one with single_step_functional_forward, such as LIFNode, IFNode or ParametricLIFNode"
    )


def _spikingjelly_potentials(
    neuron: Any, state: tuple[Any, ...], inputs: Tensor, spikes: Tensor
) -> Tensor:
    """Run the neuron's own equations once more and keep what it compares with its threshold.

    SpikingJelly keeps the potential after the reset only. The charged potential is the state that
    a copy of the neuron with an unreachable threshold ends a step with.
    """
    charging = copy.copy(neuron)
    charging._parameters = {k: v for k, v in neuron._parameters.items() if k != "v_threshold"}
    charging._buffers = {k: v for k, v in neuron._buffers.items() if k != "v_threshold"}
    charging.v_threshold = _UNREACHABLE
    place = list(neuron._memories).index("v")
    potentials = []
    for x in inputs:
        state = neuron.materialize_states((x,), state, "s")
        _, charged = charging.single_step_functional_forward((x,), state)
        _, state = neuron.single_step_functional_forward((x,), state)
        potentials.append(charged[place])
    return torch.stack(potentials)


def _tensor(value: Any) -> Tensor | None:
    return value if isinstance(value, Tensor) else None


def _snntorch_reset(neuron: Any) -> None:
    if hasattr(neuron, "reset_mem"):
        neuron.reset_mem()


def _snntorch_memory(neuron: Any, given: Sequence[Any], named: Mapping[str, Any]) -> Tensor | None:
    """Its membrane potential: that of the states that it is given, or else its own."""
    if not _snntorch_stepwise(neuron):
        return None
    state = named.get("mem", given[-1] if len(given) > 1 else None)
    return state if isinstance(state, Tensor) else _tensor(getattr(neuron, "mem", None))


def _snntorch_silent(neuron: Any) -> str:
    """The potential of a step is had from the one that the step leaves behind, if it can be."""
    names = _kinds(neuron)
    if not names & set(_SNNTORCH_TELLS) or "DeltaLeaky" in names:  # that one fires at changes
        return f"give one of {', '.join(_SNNTORCH_TELLS)}"
    if _resets_at_once(neuron) and neuron.reset_mechanism_val == _TO_ZERO:
        return (
            "at once it is reset to zero, and what it was is gone: give reset_delay=True, or "
            'reset_mechanism="subtract"'
        )
    return ""


def _snntorch_potentials(neuron: Any, state: Any, inputs: Tensor, spikes: Tensor) -> Tensor:
    """snnTorch resets in the next step, unless it is told to do so at once: then, put it back."""
    potential = neuron.mem.detach()
    if _resets_at_once(neuron) and neuron.reset_mechanism_val == _BY_SUBTRACTION:
        fired = spikes[0] / neuron.graded_spikes_factor - neuron.reset
        potential = potential + fired * neuron.threshold
    return potential.unsqueeze(0)


def _resets_at_once(neuron: Any) -> bool:
    return not getattr(neuron, "reset_delay", True)


def _snntorch_stepwise(neuron: Any) -> bool:
    return not _kinds(neuron).intersection(_SNNTORCH_SEQUENCES)


def _kinds(neuron: nn.Module) -> set[str]:
    return {name.rpartition(".")[2] for name in _ancestry(neuron)}


def _ancestry(module: nn.Module) -> set[str]:
    """The qualified names of the classes that a module descends from, its own among them."""
    return {f"{kind.__module__}.{kind.__qualname__}" for kind in type(module).__mro__}


DIALECTS: tuple[Dialect, ...] = (
    Dialect(
        name="SpikingJelly",
        neurons=("spikingjelly.activation_based.neuron.base_node.BaseNode",),
        memory=lambda neuron, given, named: _tensor(neuron.v),
        reset=lambda neuron: neuron.reset(),
        stepwise=lambda neuron: neuron.step_mode == "s",
        state=_spikingjelly_state,
        silent=_spikingjelly_silent,
        potentials=_spikingjelly_potentials,
        threshold=lambda neuron: neuron.v_threshold,
    ),
    Dialect(
        name="snnTorch",
        neurons=("snntorch._neurons.neurons.SpikingNeuron",),
        memory=_snntorch_memory,
        reset=_snntorch_reset,
        stepwise=_snntorch_stepwise,
        state=lambda neuron: None,
        silent=_snntorch_silent,
        potentials=_snntorch_potentials,
        threshold=lambda neuron: neuron.threshold,
    ),
)


def dialect(module: nn.Module) -> Dialect | None:
    """The dialect of a neuron layer, or None if the module is no spiking neuron.

    >>> dialect(nn.Linear(2, 2)) is None
    True
    """
    ancestry = _ancestry(module)
    for known in DIALECTS:
        if ancestry.intersection(known.neurons):
            return known
    return None


def neurons(model: nn.Module) -> Iterator[tuple[str, nn.Module, Dialect]]:
    """Every neuron layer of a network: its name, the module, its dialect.

    >>> list(neurons(nn.Linear(2, 2)))
    []
    """
    for name, module in model.named_modules():
        if (known := dialect(module)) is not None:
            yield name, module, known


def reset(model: nn.Module) -> None:
    """Put every stateful layer of the network back to rest, whichever library it comes from.

    Whatever has a memory besides neurons (SpikingJelly's dropout, which draws one mask per
    sequence) is reset too.

    >>> reset(nn.Linear(2, 2))
    """
    for module in model.modules():
        if (known := dialect(module)) is not None:
            known.reset(module)
        elif hasattr(module, "_memories") and callable(again := getattr(module, "reset", None)):
            again()
