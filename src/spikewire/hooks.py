"""Hooks: the two moments of an optimizer's step at which a pruner acts.

They lie inside ``optimizer.step()``, so that gradient accumulation, closures, schedulers and
GradScaler need no word about pruning.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Hooks:
    """Calls ``before`` and ``after`` around the steps of the optimizers that hold the synapses.

    With several optimizers a round goes from the first that steps to the last; a round that one of
    them sits out (GradScaler skipped it) is closed before the next forward pass.

    Args:
        model: the network, watched for a forward pass while a round of several is open.
        weights: the synaptic weights by name.
        optimizers: those that hold none are ignored.
        before: gradients are complete and unscaled, weights have not moved.
        after: the optimizers have moved the weights.

    GradScaler unscales an optimizer's gradients when that one steps, but a round begins with the
    first: with several, call ``scaler.unscale_`` on each before the first step.

    Raises:
        ValueError: if a tensor is in none of the optimizers or in two, or one cannot be hooked
            onto.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: Mapping[str, nn.Parameter],
        optimizers: Sequence[Optimizer],
        before: Callable[[], None],
        after: Callable[[], None],
    ) -> None:
        self._model, self._before, self._after = model, before, after
        self._weights = dict(weights)
        self._places = _places(weights, optimizers)
        self.optimizers = [
            o for o in optimizers if any(o is holder for holder, _ in self._places.values())
        ]
        self._handles: list[Any] = []
        self._guards: list[Any] = []
        self._waiting: set[int] | None = None

    def hold(self) -> None:
        """Take hold of the optimizers."""
        _HOLDING.add(self)
        for optimizer in self.optimizers:
            self._handles += [
                optimizer.register_step_pre_hook(self._pre),
                optimizer.register_step_post_hook(self._post),
            ]

    def release(self) -> None:
        """Let go of them."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        _HOLDING.discard(self)
        self.settle()

    def refuse_rival(self) -> None:
        """See that no other pruner holds one of these tensors through one of these optimizers.

        Raises:
            ValueError: if one does.
        """
        mine = {(id(holder), id(self._weights[n])): n for n, (holder, _) in self._places.items()}
        for rival in _HOLDING:
            for name, (holder, _) in rival._places.items():
                if (id(holder), id(rival._weights[name])) in mine:
                    raise ValueError(
                        f"{name} is held by another pruner: call its finish() first, give the two "
                        "different synapses with only=[...], or build the optimizer anew"
                    )

    def settle(self) -> None:
        """End a round that is still open: one of several optimizers sat out."""
        if self.abandon():
            self._after()

    def abandon(self) -> bool:
        """Forget an open round as if no optimizer had stepped; whether there was one."""
        for guard in self._guards:
            guard.remove()
        self._guards = []
        is_open, self._waiting = self._waiting is not None, None
        return is_open

    def group(self, name: str) -> dict[str, Any]:
        """The optimizer's settings for a tensor: learning rate, momentum."""
        optimizer, place = self._places[name]
        return optimizer.param_groups[place]

    def forget(self, name: str, changed: Tensor) -> None:
        """Zero whatever the optimizer remembers of these entries: any state shaped like them."""
        for key, value in self._state(name).items():
            # Rprop's step sizes are no memory of gradients: at 0 they would hardly grow again
            if key != "step_size" and isinstance(value, Tensor) and value.shape == changed.shape:
                value.masked_fill_(changed, 0.0)

    def momentum(self, name: str) -> Tensor | None:
        """The optimizer's running mean of a tensor's gradient; None if it keeps none."""
        group, weight, state = self.group(name), self._weights[name], self._state(name)
        if "betas" in group:
            return state.get("exp_avg", torch.zeros_like(weight))
        if group.get("momentum"):
            return state.get("momentum_buffer", torch.zeros_like(weight))
        return None

    def _state(self, name: str) -> Mapping[str, Any]:
        optimizer: Any = self._places[name][0]
        # ZeroRedundancyOptimizer leaves it to the optimizer of this process's share
        return getattr(optimizer, "optim", optimizer).state.get(self._weights[name], {})

    def _pre(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        if _skips(optimizer):
            return None
        _unscale(optimizer)
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._open(optimizer)
            return None

        def evaluated() -> Any:  # with a closure, gradients are complete only after it
            loss = closure()
            self._open(optimizer)
            return loss

        return args[:1], {**kwargs, "closure": evaluated}

    def _post(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._waiting is None or _skips(optimizer) or _goes_on(optimizer):
            return
        self._waiting.discard(id(optimizer))
        if not self._waiting:
            self.settle()

    def _open(self, optimizer: Optimizer) -> None:
        if self._waiting is not None and id(optimizer) not in self._waiting:
            self.settle()  # it steps again before another has stepped at all
        if self._waiting is None:
            self._before()
            self._waiting = {id(each) for each in self.optimizers}
            if len(self.optimizers) > 1:
                guard = _Guard(self)
                self._guards = [m.register_forward_pre_hook(guard) for m in self._guarded()]

    def _guarded(self) -> list[nn.Module]:
        """What a forward pass can begin with: the network, or a part of it that has synapses."""
        held = {id(weight) for weight in self._weights.values()}
        parts = (
            module
            for module in self._model.modules()
            if any(id(parameter) in held for parameter in module.parameters(recurse=False))
        )
        return list(dict.fromkeys([self._model, *parts]))


_HOLDING: WeakSet[Hooks] = WeakSet()  # those that hold optimizers now


class _Guard:
    """Ends an open round before the next forward pass; a copied model leaves it behind."""

    def __init__(self, hooks: Hooks | None) -> None:
        self.hooks = hooks

    def __call__(self, *_: Any) -> None:
        if self.hooks is not None:
            self.hooks.settle()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Guard, (None,)


def _places(
    weights: Mapping[str, nn.Parameter], optimizers: Sequence[Optimizer]
) -> dict[str, tuple[Optimizer, int]]:
    """Where each tensor is: its optimizer, and the number of its group (the dict may change)."""
    found: dict[int, tuple[Optimizer, int]] = {}
    for optimizer in optimizers:
        if not isinstance(optimizer, Optimizer):
            raise ValueError(
                f"optimizer: {type(optimizer).__name__} is none: give a torch.optim.Optimizer, "
                "several in a list, or None and call before_step and after_step yourself"
            )
        if isinstance(optimizer, torch.optim.LBFGS):
            raise ValueError(
                "optimizer: LBFGS evaluates the loss several times in one step, so there is no "
                "moment between gradient and update: use SGD, Adam or another such optimizer"
            )
        for number, group in enumerate(optimizer.param_groups):
            held = {id(parameter): (optimizer, number) for parameter in group["params"]}
            both = found.keys() & held.keys()
            if twice := [name for name, weight in weights.items() if id(weight) in both]:
                raise ValueError(
                    f"optimizer: {twice[0]} is in two optimizers: only one may move a synapse"
                )
            found |= held
    if missing := [name for name, weight in weights.items() if id(weight) not in found]:
        raise ValueError(
            f"optimizer: it does not hold {', '.join(missing)}: build it on this model's "
            "parameters, give all that hold some in a list, or name the synapses it holds with "
            "only=[...]"
        )
    return {name: found[id(weight)] for name, weight in weights.items()}


def _skips(optimizer: Optimizer) -> bool:
    """Whether a GradScaler has told a fused optimizer to leave this step out."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


_STEP = Optimizer.profile_hook_step(lambda *_: None).__code__  # what torch wraps around all steps


def _goes_on(optimizer: Optimizer) -> bool:
    """Whether the step that ends was begun by another one of the same optimizer.

    One that calls ``super().step()`` may move weights after that, and hooks hear both of them: the
    parent's step is wrapped as soon as a plain parent was built anywhere. Looking is safer than
    counting, which a step that raises would leave wrong.
    """
    steps, frame = 0, sys._getframe()
    while frame is not None and steps < 2:
        steps += frame.f_code is _STEP and frame.f_locals.get("self") is optimizer
        frame = frame.f_back
    return steps == 2


def _unscale(optimizer: Optimizer) -> None:
    """Undo a GradScaler's factor that a fused optimizer would undo only inside its kernel."""
    scale = getattr(optimizer, "grad_scale", None)
    if scale is None:
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.div_(scale.to(parameter.grad.device))
    optimizer.grad_scale = None  # pyright: ignore[reportAttributeAccessIssue]
