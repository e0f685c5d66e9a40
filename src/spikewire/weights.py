"""Weights: which parameters of a network are synapses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.optim.swa_utils import AveragedModel

_WRAPPERS = (nn.parallel.DistributedDataParallel, nn.DataParallel, AveragedModel)


def synaptic_weights(
    model: nn.Module, only: Sequence[str] | None = None
) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield name and tensor of every prunable weight of a network.

    A synapse is an entry of a trainable parameter with two or more dimensions whose own name
    contains "weight" and whose module is neither a normalisation nor an embedding. That takes the
    recurrent matrices of any library in and leaves thresholds, time constants, batch-norm gains
    and biases out. A tensor that several modules share is yielded once.

    Args:
        model: any network; under DistributedDataParallel or torch.compile, the network inside.
        only: shell-style patterns on names, ``["features.*", "!*.0.weight"]``; a leading ``!``
            leaves out what it matches.

    Raises:
        ValueError: if nothing is found, a pattern matches nothing, or the patterns leave nothing;
            raised when the first weight is asked for.

    >>> [name for name, _ in synaptic_weights(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))]
    ['0.weight']
    """
    found = dict(_candidates(unwrapped(model)))
    if not found:
        raise ValueError(
            "the model has no synapses: no trainable parameter with two or more dimensions is "
            "named '...weight' outside of normalisations and embeddings"
        )
    yield from ((name, found[name]) for name in _selected(list(found), only))


def split(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The synaptic weights, and all other trainable parameters, for two optimizers.

    Args:
        model: any network; `synaptic_weights` says what its synapses are.

    Raises:
        ValueError: if it has no synapses.

    >>> [len(part) for part in split(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))]
    [1, 3]
    """
    synapses = [weight for _, weight in synaptic_weights(model)]
    known = {id(weight) for weight in synapses}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    return synapses, rest


def transposed(model: nn.Module) -> set[str]:
    """Names of the weights of transposed convolutions, whose outputs are counted second.

    >>> transposed(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ConvTranspose2d(2, 1, 3)))
    {'1.weight'}
    """
    return {
        f"{name}.weight".removeprefix(".")
        for name, module in model.named_modules()
        if getattr(module, "transposed", False)
    }


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's own network inside torch.compile, DistributedDataParallel and AveragedModel.

    Args:
        model: a network, wrapped or not; wrappers may lie inside one another.

    >>> net = nn.Linear(2, 2)
    >>> unwrapped(nn.DataParallel(net)) is net
    True
    """
    while True:
        if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        elif isinstance(model, _WRAPPERS):
            model = model.module
        else:
            return model


def _candidates(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    owners = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        owner, _, last = name.rpartition(".")
        trained = parameter.requires_grad and parameter.numel()
        if trained and parameter.ndim >= 2 and "weight" in last:
            if not _is_norm_or_embedding(owners[owner]):
                yield name, parameter


def _is_norm_or_embedding(module: nn.Module) -> bool:
    # By class name along the ancestry: libraries subclass torch's norms, and bring their own.
    names = [kind.__name__ for kind in type(module).__mro__]
    return any("Norm" in name or name.startswith("Embedding") for name in names)


def _selected(names: list[str], only: Sequence[str] | None) -> list[str]:
    if only is None:
        return names
    patterns = [only] if isinstance(only, str) else list(only)
    if not patterns:
        raise ValueError("only=[]: give a pattern or more, or None for all synapses")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern.removeprefix("!")) for name in names):
            raise ValueError(
                f"only: the pattern {pattern!r} matches no synapses; the model has "
                f"{', '.join(names)}"
            )
    wanted = [p for p in patterns if not p.startswith("!")] or ["*"]
    unwanted = [p[1:] for p in patterns if p.startswith("!")]
    chosen = [
        name
        for name in names
        if any(fnmatchcase(name, p) for p in wanted)
        and not any(fnmatchcase(name, p) for p in unwanted)
    ]
    if not chosen:
        raise ValueError(f"only={patterns!r} leaves no synapses of {', '.join(names)}")
    return chosen
