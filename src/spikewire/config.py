"""Config: what a run is, as dataclasses, as TOML and as ``key=value`` words: one mechanism.

A recipe is a TOML file; ``dotted.key=value`` words override it; the result, complete, is written to
``run.toml`` and builds the same run again.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BeforeValidator, Field, InstanceOf, TypeAdapter, ValidationError
from torch import nn

from spikewire.augment import AUGMENTS
from spikewire.lottery import STOPS, Stop
from spikewire.methods import METHODS, Dense
from spikewire.nets import NETS, net
from spikewire.pruner import Method
from spikewire.schedules import Constant, Schedule
from spikewire.spelling import check, nearest, spell
from spikewire.train import LOSSES, PRECISIONS

FILES = ("weights", "possible")
"""The settings of a recipe that name files."""

OPTIMIZERS = ("adam", "adamw", "sgd", "normalised-sgd")
"""What may move the weights of a recipe's network; the last is for STDP."""

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]


def _listed(value: Any) -> Any:
    """One pattern, or number, may be given without brackets."""
    return [value] if isinstance(value, str | int) else value


@dataclass(frozen=True)
class Network:
    """Which network: a name of `nets.NETS` or ``file.py:function``, and its arguments."""

    name: str = "tiny"
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """Which data, what shares of it validate, train and test, how it is augmented."""

    name: str = "digits"
    validation: Fraction = 0.1
    fraction: Share = 1.0
    test: Share = 1.0
    augment: str = "none"
    download: bool = False


@dataclass(frozen=True)
class Optimizer:
    """How weights move: a name of `OPTIMIZERS`; ``schedule`` is a factor on ``lr``."""

    name: str = "adam"
    lr: Annotated[float, Field(gt=0.0)] = 1e-3
    schedule: Schedule = Constant(1.0)
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    momentum: Fraction = 0.9


@dataclass(frozen=True)
class Recipe:
    """All that a run is; its tables are those of ``run.toml``.

    Attributes:
        network, data, method, optimizer: what is trained, on what, pruned how, moved how.
        epochs, batch: length of the training, samples per optimizer step (over all processes).
        loss: of `train.LOSSES`, such as "mse" on rates or "cross-entropy".
        precision: "float32" or "bfloat16".
        compile: true, false, or "auto".
        evaluate_every: epochs between two evaluations; the last epoch always has one. 0 for none:
            the trained network is measured all the same, but validation can choose no epoch.
        weights: file of the network to start from, such as that of another run.
        possible: file of masks or of a network; synapses exist only where it is not 0.
        stop: "never", or "settled(sparsity)" to end early, see `lottery.Settled`.
        keep: epochs after which the network is kept as a file; 0 for before training.
        only: name patterns of the tensors to prune; all if empty.
        floor: least number of synapses in each tensor.
        seed: of everything random.
        twin: train the same network densely as well, with the same budget, for comparison.
        features: at the end, describe how consistently each class is represented, and how much
            neurons tell.
    """

    network: Network = Network()
    data: Dataset = Dataset()
    method: InstanceOf[Method] = METHODS["gmp"]()
    optimizer: Optimizer = Optimizer()
    epochs: Positive = 10
    batch: Positive = 128
    loss: str = "mse"
    precision: str = "float32"
    compile: bool | Literal["auto"] = "auto"
    evaluate_every: Annotated[int, Field(ge=0)] = 1
    weights: str = ""
    possible: str = ""
    stop: Stop = None
    keep: Annotated[list[Annotated[int, Field(ge=0)]], BeforeValidator(_listed)] = field(
        default_factory=list
    )
    only: Annotated[list[str], BeforeValidator(_listed)] = field(default_factory=list)
    floor: Annotated[int, Field(ge=0)] = 1
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0  # what torch.manual_seed takes
    twin: bool = False
    features: bool = False

    def dump(self) -> dict[str, Any]:
        """Plain nested values, complete: `recipe` builds an equal recipe from them."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "method"}
        tables = {
            key: _adapter(type(value)).dump_python(value, mode="json")
            for key, value in plain.items()
        }
        network = {"name": self.network.name, **self.network.arguments}
        return tables | {
            "network": network,
            "method": _dump_method(self.method),
            "stop": spell(self.stop, STOPS),
        }

    def toml(self) -> str:
        """The text of ``run.toml``."""
        return tomli_w.dumps(self.dump())


def recipe(table: Mapping[str, Any]) -> Recipe:
    """Build a recipe from nested plain values.

    Raises:
        ValueError: for an unknown key, naming the nearest right one, or a value out of range.

    >>> recipe({"method": {"name": "set", "sparsity": 0.8}}).method.sparsity
    0.8
    """
    parts = {key: _table(key, value) for key, value in table.items()}
    _check_keys("", parts, _names(Recipe))
    builders: dict[str, Callable[[Any], Any]] = {
        "network": _network,
        "method": _method,
        "data": lambda part: _built("data", Dataset, part),
        "optimizer": lambda part: _built("optimizer", Optimizer, part),
    }
    for key, builder in builders.items():
        if key in parts:
            parts[key] = builder(parts[key])
    built = _validated("", Recipe, parts)
    check("data.augment", built.data.augment, AUGMENTS)
    check("optimizer", built.optimizer.name, OPTIMIZERS)
    if built.optimizer.name == "normalised-sgd" and built.optimizer.weight_decay:
        raise ValueError(
            f"optimizer.weight_decay={built.optimizer.weight_decay}: normalised-sgd keeps the mean "
            "of a neuron's weights, which decay would not change: leave it at 0"
        )
    check("loss", built.loss, LOSSES)
    check("precision", built.precision, PRECISIONS)
    if max(built.keep, default=0) > built.epochs:
        raise ValueError(f"keep={built.keep}: there are {built.epochs} epochs, give some of those")
    if built.stop is not None and type(built.method) is not Dense:
        raise ValueError(
            "stop=settled(...) asks which mask would be cut from a dense network: give method=dense"
        )
    if built.possible and type(built.method) is Dense:
        raise ValueError(
            "possible with method=dense: a network without all of its synapses is no dense one; "
            "give method=ticket, which holds these masks"
        )
    return built


def read(name: str) -> dict[str, Any]:
    """The table of a recipe: a name of `recipes`, a TOML file, or ``file.py:net`` on defaults.

    Files that lie beside a TOML file need no path in it.

    Raises:
        ValueError: if there is no such recipe.

    >>> read("digits")["data"]["name"]
    'digits'
    """
    if ".py:" in name:
        return {"network": {"name": name}}
    found = table("recipe", name, shipped("recipes"), ", or file.py:function for your own network")
    files = {key: found[key] for key in FILES if isinstance(found.get(key), str) and found[key]}
    return found | {key: str(beside(Path(name).parent, file)) for key, file in files.items()}


def beside(folder: Path, name: str) -> Path:
    """The file of this name in a folder, that of a recipe; else what the name says by itself.

    >>> beside(Path("no-such-folder"), "net.pth").name
    'net.pth'
    """
    inside = folder / name
    return inside if inside.is_file() else Path(name)


def recipes() -> list[str]:
    """Names of the recipes that come with spikewire.

    >>> "digits" in recipes()
    True
    """
    return list(shipped("recipes"))


def shipped(folder: str) -> dict[str, str]:
    """The TOML files that come with spikewire, as text by name.

    >>> list(shipped("studies"))[0]
    'demo'
    """
    files = sorted((resources.files("spikewire") / folder).iterdir(), key=lambda file: file.name)
    return {
        file.name.removesuffix(".toml"): file.read_text(encoding="utf-8")
        for file in files
        if file.name.endswith(".toml")
    }


def table(kind: str, name: str, known: Mapping[str, str], more: str = "") -> dict[str, Any]:
    """What a TOML file says.

    Args:
        kind: of the file, for messages.
        name: one of those known, or a path that ends in .toml.
        known: texts by name.
        more: what else could be given, for messages.

    Raises:
        ValueError: if there is no such file, or it is not TOML.

    >>> table("study", "mine", {"mine": "title = 'Mine'"})
    {'title': 'Mine'}
    """
    if not name.endswith(".toml"):
        check(kind, name, known, f", a .toml file{more}")
        text = known[name]
    elif Path(name).is_file():
        text = _text(Path(name))
    else:
        raise ValueError(f"{name}: no such file; by name there are {', '.join(known)}")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{name} is not TOML: {error}") from error


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text ({error}): save it as UTF-8") from error


def setting(key: str, value: Any) -> str:
    """The word that `override` reads as this value.

    >>> setting("network.bias", True), setting("network.surrogate", "sigmoid")
    ('network.bias=true', 'network.surrogate=sigmoid')
    """
    told = isinstance(value, bool) or (isinstance(value, str) and _value(value) != value)
    return f"{key}={json.dumps(value) if told else value}"


def override(table: Mapping[str, Any], words: Iterable[str]) -> dict[str, Any]:
    """The table with ``dotted.key=value`` words laid over it.

    ``method=rigl`` stands for ``method.name=rigl``. Another name empties its table first: fields of
    GMP mean nothing to RigL.

    Raises:
        ValueError: if a word is not of this form.

    >>> override({"method": {"name": "gmp", "sparsity": 0.9}}, ["method=set", "epochs=3"])
    {'method': {'name': 'set'}, 'epochs': 3}
    """
    merged = {key: dict(v) if isinstance(v, Mapping) else v for key, v in table.items()}
    # names first: another name empties its table, whichever word came first
    for word in sorted(words, key=lambda word: not _is_name(word)):
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ValueError(f"{word!r}: write key=value, such as method.sparsity=0.9")
        head, _, rest = key.partition(".")
        if not rest and head in _TABLES:
            rest = "name"
        value = _value(text)
        if not rest:
            merged[head] = value
            continue
        inner = merged.setdefault(head, {})
        if not isinstance(inner, dict):
            raise ValueError(f"{word!r}: {head} is a single value, not a table with {rest!r}")
        if rest == "name" and head in ("method", "network") and inner.get("name") != value:
            inner.clear()
        inner[rest] = value
    return merged


def method(name: str, **values: Any) -> Method:
    """A method by its command-line name, or ``module:Class``, ``file.py:Class`` for your own.

    Raises:
        ValueError: for an unknown name or field, naming the nearest right one.

    >>> method("rigl", sparsity=0.95).sparsity
    0.95
    """
    return _method({"name": name, **values})


def build(network: Network) -> nn.Module:
    """The network itself.

    Raises:
        ValueError: if there is no such network or it does not take these arguments.

    >>> type(build(Network("tiny", {"T": 2}))).__name__
    'Sequential'
    """
    if ":" not in network.name:
        return net(network.name, **network.arguments)
    make = _imported(network.name)
    try:  # only the arguments: what fails inside is for its author to see, with its traceback
        inspect.signature(make).bind(**network.arguments)
    except TypeError as error:
        raise ValueError(
            f"network {network.name} does not take {network.arguments}: {error}"
        ) from error
    made = make(**network.arguments)
    if not isinstance(made, nn.Module):
        raise ValueError(f"network {network.name} gave a {type(made).__name__}, no torch module")
    return made


_TABLES = ("network", "data", "method", "optimizer")


def _is_name(word: str) -> bool:
    key = word.partition("=")[0]
    return key in _TABLES or key.removesuffix(".name") in _TABLES


def _table(key: str, value: Any) -> Any:
    if key not in _TABLES:
        return value
    if isinstance(value, Mapping):
        value, table = value.get("name", ""), value
    else:
        table = {"name": value}
    if not isinstance(value, str):
        raise ValueError(f"{key}={value!r}: give a name, or set {key}.name and the like")
    return table


def _network(table: Mapping[str, Any]) -> Network:
    arguments = {key: value for key, value in table.items() if key != "name"}
    name = table.get("name", Network.name)
    if ":" not in name:
        check("network", name, NETS, " or file.py:function")
    return Network(name, arguments)


def _method(table: Mapping[str, Any]) -> Method:
    name = table.get("name", "gmp")
    if ":" in name:
        kind = _imported(name)
        if not (isinstance(kind, type) and issubclass(kind, Method) and is_dataclass(kind)):
            raise ValueError(f"method {name} is no dataclass that descends from spikewire.Method")
    else:
        check("method", name, METHODS, " or file.py:Class")
        kind = METHODS[name]
    return _built("method", kind, {key: v for key, v in table.items() if key != "name"})


def _dump_method(chosen: Method) -> dict[str, Any]:
    names = {kind: name for name, kind in METHODS.items()}
    kind = type(chosen)
    name = names.get(kind, f"{kind.__module__}:{kind.__qualname__}")
    return {"name": name, **_adapter(kind).dump_python(chosen, mode="json")}


def _built(path: str, kind: type, table: Any) -> Any:
    _check_keys(f"{path}.", table, _names(kind))
    return _validated(f"{path}.", kind, table)


def _validated(path: str, kind: type, values: Any) -> Any:
    try:
        return _adapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = first["loc"][:1]  # the rest is how the types of the field are put together
        reasons = [e["msg"].removeprefix("Value error, ") for e in error.errors()
                   if e["loc"][:1] == key]  # fmt: skip
        given = f" (given: {values[key[0]]!r})" if key and key[0] in values else ""
        where = f"{path}{key[0]}" if key else path.rstrip(".")
        raise ValueError(f"{where}: {', or '.join(dict.fromkeys(reasons))}{given}") from None


@cache  # a study has hundreds of recipes, and building an adapter takes longer than using it
def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _check_keys(path: str, table: Mapping[str, Any], known: Iterable[str]) -> None:
    known = list(known)
    for key in table:
        if key not in known:
            raise ValueError(
                f"unknown key {path}{key}{nearest(key, known)}: "
                f"{path.rstrip('.') or 'a recipe'} has {', '.join(known)}"
            )


def _names(kind: type) -> list[str]:
    return [f.name for f in fields(kind)]


def _value(text: str) -> Any:
    """A TOML value, or the text itself if it is none."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _imported(name: str) -> Callable[..., Any]:
    """``module:Name`` or ``path/file.py:Name``."""
    place, _, attribute = name.rpartition(":")
    if place.endswith(".py"):
        path = Path(place)
        if not path.is_file():
            raise ValueError(f"{name}: there is no file {place}")
        spec = importlib.util.spec_from_file_location(place, path)  # named so in run.toml
        if spec is None or spec.loader is None:
            raise ValueError(f"{name}: {place} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        sys.path.insert(0, str(path.parent.resolve()))  # files beside it can be imported
        spec.loader.exec_module(module)
    else:
        try:
            module = importlib.import_module(place)
        except ImportError as error:
            raise ValueError(f"{name}: cannot import {place} ({error})") from error
    if not hasattr(module, attribute):
        raise ValueError(f"{name}: {place} has no {attribute!r}{nearest(attribute, dir(module))}")
    return getattr(module, attribute)


def about(name: str) -> str:
    """The first comment line of a recipe that comes with spikewire.

    >>> about("digits").startswith("A small")
    True
    """
    return shipped("recipes")[name].partition("\n")[0].removeprefix("# ")


def defaults(kind: type[Method]) -> dict[str, Any]:
    """The fields of a method with their defaults, as plain values.

    >>> defaults(METHODS["stds"])
    {'width': 0.1}
    """
    return {key: value for key, value in _dump_method(kind()).items() if key != "name"}
