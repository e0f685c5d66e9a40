"""The pruner: owns what the weights are between two optimizer steps.

::

    start -> loop:  zero_grad, forward (T steps), backward,  optimizer.step()
                                                             |- before_step: gradients are complete
                                                             |- the optimizer moves the weights
                                                             |- after_step:  zeros are zero again
          -> finish

The network is never wrapped, renamed or subclassed: the two moments are hooks of the optimizer, and
taking the pruner away leaves a plain program.
"""

from __future__ import annotations

import hashlib
import math
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from spikewire import distributed
from spikewire.activity import SpikeCost
from spikewire.channels import Channels, channels_of, survey
from spikewire.compact import Outline
from spikewire.dialects import neurons
from spikewire.hooks import Hooks
from spikewire.masks import check_masks, choose, pack, unpack
from spikewire.measure import Uses, pairs, testing, uses
from spikewire.observe import Layer, Observer, Probe
from spikewire.scores import Score, criticality
from spikewire.shares import Share, counts
from spikewire.synapses import Synapses, synapses_of
from spikewire.units import Kernel, Unit
from spikewire.weights import transposed, unwrapped

# How often, in steps, a method whose sparsity emerges is checked for tensors that died out.
_CHECK_EVERY = 200

_SAVED = {"method", "step", "steps", "random", "synapses"}


class Method:
    """How connections come and go: four moments, each of which a method may act in.

    Subclass it as a frozen dataclass; its fields are its hyperparameters.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Threshold(Method):
    ...     tau: float = 1e-2
    ...     def before_step(self, pruner):
    ...         pruner.rewire({s.name: s.mask & (s.weight.abs() > self.tau) for s in pruner})
    """

    source: ClassVar[str] = ""
    """Authors, year and where the paper is."""

    needs_rate: ClassVar[bool] = False
    """Whether the method moves weights itself, in units of the optimizer's learning rate."""

    asks_who_follows: ClassVar[bool] = False
    """Whether the method asks, at events, which neurons a tensor feeds: `Observer.layer_of`."""

    structured: ClassVar[bool] = False
    """Whether the method takes out channels."""

    needs_data: ClassVar[bool] = False
    """Whether the method looks at the network at work before training, or between steps."""

    sparsity_is: ClassVar[str] = "exact, of synapses"
    """How the sparsity of the end relates to the method's fields, in a few words."""

    unit: Unit = None
    """What is chosen together; None for synapse by synapse."""

    activity: float = 0.0
    """What spikes cost during training, see `activity.SpikeCost`; 0 for nothing."""

    def start(self, pruner: Pruner) -> None:
        """Once, before training: first masks, hidden parameters."""

    def before_step(self, pruner: Pruner) -> None:
        """Gradients are complete and dense, weights have not moved."""

    def after_step(self, pruner: Pruner) -> None:
        """The optimizer has moved the weights."""

    def finish(self, pruner: Pruner) -> None:
        """Once, after training: make the sparsity final."""

    def event(self, pruner: Pruner) -> bool:
        """Whether the coming step changes the wiring by what scores say."""
        return False

    def observer(self, model: nn.Module) -> Observer | None:
        """What hears the network in the step of an event: what the scores, or the method, ask for.

        Raises:
            ValueError: if scores ask for different things, or there are no neurons to hear.
        """
        heard = [one for one in vars(self).values() if getattr(one, "observes", False)]
        layers = self.asks_who_follows and any(neurons(model))
        if not heard:
            return Observer(model) if layers else None
        if any(one != heard[0] for one in heard):
            raise ValueError(
                f"method has scores that observe differently, {heard}: give it one of them"
            )
        # a function of the user's own sees criticality as it is by default
        score: Any = heard[0] if hasattr(heard[0], "quantities") else criticality
        return Probe(model, score.quantities(), score.over, inputs=score.inputs, layers=layers)


class Pruner:
    """Prunes a network while the user's own loop trains it.

    Args:
        model: any torch network; it keeps its keys, types and methods. Under
            DistributedDataParallel, wrap it first.
        method: what to do, such as ``RigL(sparsity=0.95)``.
        optimizer: the optimizer that moves the synapses, or several (under GradScaler, call
            ``scaler.unscale_`` on each of several before the first steps). None if the loop calls
            `before_step` and `after_step` by hand.
        steps: optimizer steps of the whole training; progress is ``step / steps``.
        only: name patterns of the tensors to prune, see `synaptic_weights`. Of methods that take
            out channels, those that these tensors make may go, and none of a normalised sum.
        seed: of everything random the method does.
        floor: least number of synapses in each tensor; a warning names tensors held at it.
        possible: bool masks by name, where connections may exist at all (others stay 0).
        learning_rate: for methods that need one (Grad R, Deep R) when there is no optimizer.
        data: for methods that look at the network at work, such as those that take out channels:
            batches of inputs, or of pairs of inputs and labels, that can be gone through again and
            again, such as a DataLoader of the training set without augmentation. Several processes
            may each give their share.
        state: what `state_dict` gave, to continue a run: ``method.start`` is then not called.

    Raises:
        ValueError: on wrong input, with how to mend it, before anything is changed.

    >>> from spikewire import SET
    >>> net = nn.Linear(10, 10)
    >>> adam = torch.optim.Adam(net.parameters())
    >>> pruner = Pruner(net, SET(sparsity=0.9), adam, steps=100)
    >>> int((net.weight != 0).sum())
    10
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
        *,
        steps: int,
        only: Sequence[str] | None = None,
        seed: int = 0,
        floor: int = 1,
        possible: Mapping[str, Tensor] | None = None,
        learning_rate: float | None = None,
        data: Iterable[Any] | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        _check(method, steps, floor)
        if method.needs_rate and optimizer is None and learning_rate is None:
            raise ValueError(
                f"{type(method).__name__} moves weights in units of the learning rate: give the "
                "optimizer, or learning_rate=... if there is none"
            )
        if _measures(method):
            _check_data(method, data)
        self.model = unwrapped(model)
        self.method = method
        self.steps = operator.index(steps)
        self.step = 0
        self.floor = floor
        self.random = torch.Generator().manual_seed(_stream(seed))
        self.learning_rate = learning_rate
        self.data = data
        self._uses: tuple[int, dict[str, Uses]] = (-1, {})
        self._synapses = synapses_of(self.model, only, possible)
        self.channels = self._channels(only) if method.structured else []
        _check_unit(method.unit, transposed(self.model) & {s.name for s in self})
        self.observer = method.observer(self.model)
        self.cost = SpikeCost(self.model, method.activity) if method.activity else None
        self._hooks: Hooks | None = None
        held = list(optimizer) if isinstance(optimizer, Sequence) else [optimizer]
        hooks = self._hooks = self._hooks_on(*held) if optimizer is not None else None
        if hooks is not None:
            hooks.refuse_rival()
        if state is not None:
            self.load_state_dict(state)
        else:
            self._start()
        if hooks is not None:
            hooks.hold()
        if self.cost is not None:
            self.cost.attach()

    # --- what a loop needs ---------------------------------------------------------------------

    def attach(self, *optimizers: Optimizer) -> Pruner:
        """Hook onto other optimizers instead, those that hold the synapses.

        Raises:
            ValueError: if a tensor is in none of them, or one cannot be hooked onto.
        """
        hooks = self._hooks_on(*optimizers)
        if self._hooks is not None:
            self._hooks.release()
        self._hooks = hooks
        hooks.hold()
        return self

    @torch.no_grad()
    def before_step(self) -> None:
        """Gradients are complete: the method acts, then the optimizer may move the weights."""
        if self.cost is not None:
            self.cost.settle()
        self.method.before_step(self)
        if self.observer is not None:
            self.observer.rest()

    @torch.no_grad()
    def after_step(self) -> None:
        """The optimizer has moved the weights: count the step and make pruned weights 0 again."""
        self.step += 1
        self.method.after_step(self)
        self._enforce()
        if self.step % _CHECK_EVERY == 0:
            self._warn_of_extinction()
        self._listen()

    @torch.no_grad()
    def finish(self) -> dict[str, Tensor]:
        """End pruning: make the sparsity final, take the hooks away, return the masks.

        Afterwards the model is an ordinary model whose pruned weights are 0.
        """
        if self.progress < 1.0:
            warnings.warn(
                f"finish() after {self.step} of steps={self.steps}: schedules had not run their "
                "course; give the true number of optimizer steps",
                stacklevel=3,
            )
        if self._hooks is not None:
            self._hooks.release()
        self.method.finish(self)
        self._enforce()
        self._warn_of_extinction()
        if self.observer is not None:
            self.observer.rest()
        if self.cost is not None:
            self.cost.detach()
        return self.masks

    def state_dict(self) -> dict[str, Any]:
        """All that continuing needs: step, masks (bit-packed), the method's tensors, randomness.

        Save it beside the model and the optimizer, between two steps and before their state is
        taken; a continued run is bit-exact.
        """
        if self._hooks is not None:
            self._hooks.settle()
        return {
            "method": type(self.method).__name__,
            "step": self.step,
            "steps": self.steps,
            "random": self.random.get_state(),
            "synapses": {
                s.name: {
                    "mask": pack(s.mask) if s.masked else None,
                    "state": {key: value.clone() for key, value in s.state.items()},
                }
                for s in self
            },
            "channels": {
                c.name: {
                    "mask": pack(c.mask),
                    "state": {key: value.clone() for key, value in c.state.items()},
                }
                for c in self.channels
            },
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            ValueError: if it is no pruner's, belongs to other tensors or another number of steps.
        """
        if not isinstance(state, Mapping) or _SAVED - state.keys():
            raise ValueError("state is no pruner's: give what state_dict() of one returned")
        saved, name = state["synapses"], type(self.method).__name__
        theirs = [*saved, *state.get("channels", ())]
        names = [owned.name for owned in (*self, *self.channels)]
        if (state["method"], state["steps"], set(theirs)) != (name, self.steps, set(names)):
            raise ValueError(
                f"state: saved by {state['method']} with steps={state['steps']} for "
                f"{', '.join(theirs)}, but this is {name} with steps={self.steps} for "
                f"{', '.join(names)}: build the pruner with the arguments of the one that was saved"
            )
        masks = {
            s.name: unpack(saved[s.name]["mask"], s.weight.shape).to(s.weight.device)
            for s in self
            if saved[s.name]["mask"] is not None
        }
        if self._hooks is not None:
            self._hooks.abandon()
        self.step = int(state["step"])
        self.random.set_state(state["random"].cpu())
        for s in self:
            s.forget_exposure()
            s.derived = {}
            s.state = {
                key: value.to(s.weight.device, copy=True)
                for key, value in saved[s.name]["state"].items()
            }
            if s.name in masks:
                s.mask = masks[s.name]
            else:
                s.unmask()
        for c in self.channels:
            kept = state["channels"][c.name]
            c.mask = unpack(kept["mask"], c.mask.shape).to(c.mask.device)
            c.state = {
                key: value.to(c.mask.device, copy=True) for key, value in kept["state"].items()
            }
        self._listen()

    # --- what it knows -------------------------------------------------------------------------

    @property
    def progress(self) -> float:
        """Completed share of the training, 0 to 1."""
        return min(self.step / self.steps, 1.0)

    @property
    def due(self) -> bool:
        """Whether the forward pass of the coming step is observed for an event.

        Then run the network itself: a compiled copy hides its neurons.
        """
        return self.observer is not None and self.observer.listening

    @property
    def sparsity(self) -> float:
        """Share of zeros among all prunable weights; regrown ones exist while they still are 0."""
        return 1.0 - sum(s.alive for s in self) / sum(s.weight.numel() for s in self)

    @property
    def masks(self) -> dict[str, Tensor]:
        """True where a synapse exists, by name."""
        return {s.name: s.mask for s in self}

    @property
    def criticality(self) -> Probe:
        """Criticality of the neurons in the forward passes of the current step."""
        if not isinstance(self.observer, Probe):
            raise ValueError("no score of this method observes: set score.observes = True on yours")
        return self.observer

    def __iter__(self) -> Iterator[Synapses]:
        return iter(self._synapses)

    # --- what methods use ----------------------------------------------------------------------

    def lr(self, synapses: Synapses) -> float:
        """The learning rate with which the optimizer moves these synapses."""
        if self._hooks is not None:
            return float(self._hooks.group(synapses.name)["lr"])
        if self.learning_rate is None:
            raise ValueError("no learning rate is known: give the optimizer or learning_rate=...")
        return self.learning_rate

    def beta1(self, synapses: Synapses) -> float:
        """Adam's decay of its running mean of gradients; 0 for optimizers that correct no bias."""
        group = self._hooks.group(synapses.name) if self._hooks is not None else {}
        return float(group["betas"][0] if "betas" in group else 0.0)

    def momentum(self, synapses: Synapses) -> Tensor:
        """The optimizer's running mean of the gradient, 0 before its first step.

        Raises:
            ValueError: if it keeps none.
        """
        found = None if self._hooks is None else self._hooks.momentum(synapses.name)
        if found is None:
            raise ValueError(
                "the optimizer keeps no running mean of the gradient: use one that does, such as "
                "Adam or SGD with momentum, or a score that needs none, such as gradient"
            )
        return found

    def budget(self, sparsity: float, share: Share) -> int | dict[str, int]:
        """How many synapses to keep at this sparsity, counted over all prunable weights."""
        if share is not None and getattr(share, "measures", False):
            share = partial(share, uses=self.uses())
        return counts({s.name: s.weight.shape for s in self}, sparsity, share)

    def scored(self, score: Score, among: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Scores of all tensors; -inf outside of the masks ``among``."""
        scores = {s.name: score(s, self) for s in self}
        if among is None:
            return scores
        return {name: value.masked_fill(~among[name], -math.inf) for name, value in scores.items()}

    def uses(self) -> dict[str, Uses]:
        """`measure.uses` of the network as it is in this step, on the first batch of ``data``."""
        step, found = self._uses
        if step != self.step:
            distributed.share_buffers(self.model)
            found = uses(self.model, self.example)
            self._uses = self.step, found
        return found

    def choose(
        self, scores: dict[str, Tensor], keep: int | Mapping[str, int], *, exact: bool = True
    ) -> dict[str, Tensor]:
        """Masks of the highest scores, in the method's units, only where synapses are possible.

        No tensor loses its last one. `masks.choose` says the rest.
        """
        scores = dict(scores)
        for s in self:
            if s.possible is not None and s.name in scores:
                scores[s.name] = scores[s.name].masked_fill(~s.possible, -math.inf)
        how = choose if self.method.unit is None else self.method.unit.choose
        return how(scores, keep, floor=self.floor, exact=exact)

    @torch.no_grad()
    def rewire(
        self,
        masks: Mapping[str, Tensor],
        *,
        forget: bool = True,
        restart: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Let exactly these synapses exist; newborn ones start at 0.

        Args:
            masks: by name; tensors that are not named stay as they are.
            forget: the optimizer forgets whatever changed: any of its state tensors that is shaped
                like the weight becomes 0 there.
            restart: where synapses that exist before and after start again at 0 all the same.

        Raises:
            ValueError: if a mask is not bool, or fits none of the tensors.
        """
        check_masks("masks", masks, {s.name: s.weight for s in self})
        for s in (s for s in self if s.name in masks):
            changed = s.mask ^ masks[s.name]
            if restart is not None:
                changed |= restart[s.name]
                s.weight.masked_fill_(restart[s.name], 0.0)
            s.mask = masks[s.name]
            if forget and self._hooks is not None:
                self._hooks.forget(s.name, changed)
            if s.weight.numel() > self.floor >= s.alive > 0:
                warnings.warn(
                    f"{s.name} is held at its last {s.alive} of {s.weight.numel()} synapses: ask "
                    "for less sparsity, or spread it with share=uniform or share=erk",
                    stacklevel=2,
                )

    # --- what methods that take out channels use -----------------------------------------------

    def survey(
        self, look: Callable[[Layer], Tensor], *, membranes: bool = False
    ) -> dict[str, Tensor]:
        """`channels.survey` of this network over the pruner's data."""
        distributed.share_buffers(self.model)  # ranks must see the same network
        with torch.random.fork_rng(devices=[]):  # a DataLoader draws from the user's generator
            return survey(
                self.model, () if self.data is None else self.data, look, membranes=membranes
            )

    @torch.no_grad()
    def keep_channels(self, masks: Mapping[str, Tensor]) -> None:
        """Let exactly these channels pass; those that come back start with gain and bias 0.

        Args:
            masks: bool (C,) by normalisation; those that are not named stay as they are.
        """
        for c in (c for c in self.channels if c.name in masks):
            changed, c.mask = c.mask ^ masks[c.name], masks[c.name]
            if self._hooks is not None:
                self._hooks.forget(f"{c.name}.weight", changed)
                self._hooks.forget(f"{c.name}.bias", changed)
            c.enforce()

    def rehearse(self, score: Callable[[Pruner], Any]) -> None:
        """Try a score on one batch of data, so that what it cannot do is said before training."""
        data, self.data = self.data, [self.example]
        try:
            score(self)
        finally:
            self.data = data

    def outline(self) -> Outline:
        """What could be taken out of the network as it is now."""
        distributed.share_buffers(self.model)
        with testing(self.model):
            return Outline(self.model, self.example)

    # --- what a loop may use -------------------------------------------------------------------

    def still(self) -> None:
        """Zero the gradients of pruned synapses, for those who clip gradients before the step.

        Those that may bring a synapse back are left: all of hidden parameters, and all before an
        event.
        """
        if self.method.event(self):
            return
        for s in self:
            if s.masked and s.weight.grad is not None:
                s.weight.grad.mul_(s.mask)
        for c in self.channels:
            for parameter in (c.gain, c.bias):
                if parameter.grad is not None:
                    parameter.grad.mul_(c.mask)

    # --- inside --------------------------------------------------------------------------------

    def __reduce__(self) -> Any:
        raise TypeError(
            "a copy of a pruner would hold no optimizer: copy the network and the optimizer, build "
            "a pruner on them, and give it state=pruner.state_dict()"
        )

    @torch.no_grad()
    def _start(self) -> None:
        given = [(s.weight, s.weight.clone()) for s in self if s.possible is not None]
        self._enforce()
        try:
            self.method.start(self)
        except BaseException:
            for weight, values in given:
                weight.copy_(values)
            raise
        self._listen()

    def _channels(self, only: Sequence[str] | None) -> list[Channels]:
        with testing(self.model):
            found = channels_of(self.model, self.example)
        if only is None:
            return found
        names = {s.name for s in self}
        if not (chosen := [c for c in found if f"{c.behind}.weight" in names]):
            makers = ", ".join(f"{c.behind}.weight" for c in found if c.behind is not None)
            raise ValueError(f"only={only!r} leaves no channel to take out: name some of {makers}")
        return chosen

    def _enforce(self) -> None:
        for owned in (*self, *self.channels):
            owned.enforce()

    @cached_property
    def example(self) -> Tensor:
        """A batch of inputs, the first of ``data``, on the model's device."""
        with torch.random.fork_rng(devices=[]):
            for inputs, _ in pairs(self.data):
                return inputs.to(next(self.model.parameters()).device)
        raise ValueError("data has no batches: give a DataLoader, or a list of batches")

    def _hooks_on(self, *optimizers: Any) -> Hooks:
        weights = {s.name: s.weight for s in self}
        for c in self.channels:
            weights |= {f"{c.name}.weight": c.gain, f"{c.name}.bias": c.bias}
        return Hooks(self.model, weights, optimizers, self.before_step, self.after_step)

    def _listen(self) -> None:
        if self.observer is not None and self.method.event(self):
            self.observer.listen()

    def _warn_of_extinction(self) -> None:
        for s in self:
            if not s.alive:
                warnings.warn(
                    f"{s.name} has lost its last synapse: nothing passes through it any more; "
                    "weaken the penalty or ask for less sparsity",
                    stacklevel=3,
                )


def _check(method: Any, steps: Any, floor: int) -> None:
    if not isinstance(method, Method):
        raise ValueError(
            f"method is {method!r}: give an object such as RigL(sparsity=0.9), not its name "
            "or class"
        )
    if not hasattr(steps, "__index__") or operator.index(steps) < 1:
        raise ValueError(f"steps={steps!r}: give the optimizer steps of the training, 1 or more")
    if floor < 0:
        raise ValueError(f"floor={floor}: give 0 or more synapses per tensor")


def _check_unit(unit: Unit, turned: set[str]) -> None:
    if turned and unit is not None and not isinstance(unit, Kernel):
        raise ValueError(
            f"unit={unit!r}: {', '.join(sorted(turned))} is a transposed convolution, in whose "
            "weights inputs come first, so that a row is no neuron's: use unit=kernel, or leave "
            "it out with only=[...]"
        )


def _measures(method: Method) -> bool:
    """Whether a method looks at the network at work, on data."""
    parts = vars(method).values()
    return method.needs_data or any(getattr(part, "measures", False) for part in parts)


def _check_data(method: Method, data: Any) -> None:
    name = type(method).__name__
    if data is None:
        raise ValueError(
            f"{name} looks at the network at work: give data=..., batches of the training set "
            "without augmentation, such as a DataLoader"
        )
    if isinstance(data, Iterator):
        raise ValueError(
            f"data is a {type(data).__name__}, which can be gone through once only: give a list "
            "of batches, or a DataLoader"
        )


def _stream(seed: int) -> int:
    """A stream of its own: the same seed often drew the weights that are to be chosen among."""
    digest = hashlib.blake2b(f"pruner {seed}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")
