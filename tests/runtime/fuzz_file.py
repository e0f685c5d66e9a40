"""Mutate files of networks at random; `load` must refuse each, or give a network that runs.

    python tests/runtime/fuzz_file.py SECONDS [SEED] [--keep FILE]

Mutations are of bytes, of the JSON of both headers, of tensors. They are random and not guided by
coverage: that would need atheris, which is no dependency. The first file that raises anything but
ValueError goes to FILE, as hex, and the exit status is 1.
"""

import argparse
import copy
import json
import math
import random
import resource
import struct
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path

import numpy as np

from spikewire.runtime import file, reference
from spikewire.runtime.program import (
    Add,
    Affine,
    Convolution,
    Flatten,
    Neuron,
    Pool,
    Program,
    Repeat,
    Step,
    Value,
    Vote,
    Weight,
)

FORMAT = "spikewire-network-1"
MOST_MEMORY = 8 * 2**30
"""Far more than the largest network that `load` accepts takes."""
ODD = (
    *(None, True, False, "", "gaps", "Neuron", [], {}, [[]], math.nan, math.inf, 1.5, -0.0, 1e308),
    *(0, 1, -1, 2, 3, 5, 255, 256, 2**14, 2**28, 2**31, 2**32, 2**63, 2**64, 10**40, 10**400),
)

TYPES = ("BOOL", "U8", "I8", "F8_E4M3", "F16", "BF16", "U16", "F32", "I32", "F64", "C64", "F4")


def network():
    """Every operation; a weight with bits, one without zeros, one with gaps, one of them long."""
    chance = np.random.default_rng(0)

    def numbers(*shape):
        return chance.normal(size=shape).astype(np.float32)

    half, few = numbers(4, 2, 3, 3), np.zeros((20, 16, 1, 1), np.float32)
    half[chance.random(half.shape) < 0.5] = 0
    few.flat[[3, 4, 20, 300]] = numbers(4)
    lif = Neuron("divide", 2.0)
    adaptive = Neuron("leak", 0.9, 0.7, None, numbers(4), 0.95)
    operations = [
        ("conv1", Convolution(Weight.of(half), numbers(4), (1, 1), (1, 2), (1, 2)), 0),
        ("repeat", Repeat(), 1),
        ("norm", Affine(numbers(4), numbers(4)), 2),
        ("lif1", lif, 3),
        ("pool1", Pool("max", (2, 2), (2, 2)), 4),
        ("conv2", Convolution(Weight.of(numbers(4, 2, 1, 1)), numbers(4), groups=2), 5),
        ("add", Add(), 5, 6),
        ("lif2", adaptive, 7),
        ("pool2", Pool("average", (2, 2), (1, 1)), 8),
        ("flatten", Flatten(), 9),
        ("fc", Convolution(Weight.of(few), numbers(20)), 10),
        ("vote", Vote(5), 11),
    ]
    steps = [Step(name, operation, tuple(sources)) for name, operation, *sources in operations]
    return Program(3, Value((2, 6, 6), False), steps)


def accepted(path):
    """Whether a file is taken for a network; a small one must run."""
    try:
        program, _ = file.load(path)
    except ValueError:
        return False
    if small(program):
        lead = program.T if program.input.sequence else 1
        with np.errstate(all="ignore"):
            reference.trace(program, np.ones((lead, 1, *program.input.shape), np.float32))
    return True


def small(program):
    """Whether the reference, slow and wasteful as it is, has little to do."""
    work = sum(value.size for value in program.values)
    for step, value in zip(program.steps, program.values[1:], strict=True):
        if isinstance(step.operation, Convolution):
            work += value.size * math.prod(step.operation.weight.shape[1:])
        if isinstance(step.operation, Pool):
            work += value.size * math.prod(step.operation.kernel)
        if isinstance(step.operation, Convolution | Pool) and max(step.operation.padding) > 20:
            return False
    return work * program.T < 1_000_000


# --- mutations -----------------------------------------------------------------------------------


def parts(content):
    """The JSON of the header and what follows it."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header, data):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def changed(tree, chance):
    """The same JSON, changed at one place."""
    tree = copy.deepcopy(tree)
    places = [(node, key) for node in nodes(tree) for key in keys(node)]
    node, key = chance.choice(places)
    match chance.randrange(5):
        case 0:
            del node[key]
        case 1:
            other, place = chance.choice(places)
            node[key] = copy.deepcopy(other[place])
        case 2 if isinstance(node[key], int):
            node[key] += chance.choice((-1, 1, 7))
        case 3 if isinstance(key, str):
            node[chance.choice((f"{key}x", key[1:], key.upper()))] = node.pop(key)
        case _:
            node[key] = chance.choice(ODD)
    return tree


def nodes(tree):
    """All dicts and lists in it."""
    if isinstance(tree, dict | list):
        yield tree
        for key in keys(tree):
            yield from nodes(tree[key])


def keys(node):
    return list(node) if isinstance(node, dict) else range(len(node))


def flipped(content, others, chance):
    content = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        content[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(content)


def flipped_data(content, others, chance):
    header, data = parts(content)
    return joined(header, flipped(data, others, chance))


def spliced(content, others, chance):
    other = chance.choice(others)
    begin, end = sorted(chance.choices(range(len(other)), k=2))
    place, skip = chance.randrange(len(content)), chance.choice((0, end - begin))
    return content[:place] + other[begin:end] + content[place + skip :]


def cut(content, others, chance):
    begin, end = sorted(chance.choices(range(len(content)), k=2))
    return content[:begin] + content[end:] * chance.randrange(2)


def stretched(content, others, chance):
    (length,) = struct.unpack("<Q", content[:8])
    new = chance.choice((length + chance.randrange(-9, 9), chance.getrandbits(64), 0, 2**63))
    return struct.pack("<Q", new % 2**64) + content[8:]


def changed_header(content, others, chance):
    header, data = parts(content)
    return joined(changed(header, chance), data)


def changed_tensor(content, others, chance):
    """Another type, shape, name or place, which safetensors itself may find well."""
    header, data = parts(content)
    name, other = chance.sample([name for name in header if name != "__metadata__"], 2)
    tensor = header[name]
    match chance.randrange(4):
        case 0:
            tensor["dtype"] = chance.choice(TYPES)
        case 1:
            tensor["shape"] = chance.choice(([1, *tensor["shape"]], [*tensor["shape"], 1], []))
        case 2:
            header[name], header[other] = header[other], header[name]
        case _:
            header[chance.choice((f"{other}.bits", f"{other}.gaps", "x"))] = header.pop(name)
    return joined(header, data)


def changed_network(content, others, chance):
    header, data = parts(content)
    told = json.loads(header["__metadata__"][FORMAT])
    for _ in range(chance.choice((1, 1, 2, 4))):
        told = changed(told, chance)
    header["__metadata__"][FORMAT] = json.dumps(told)
    return joined(header, data)


def deepened(content, others, chance):
    header, data = parts(content)
    depth = chance.choice((10, 190, 300, 10_000))
    text = header["__metadata__"][FORMAT]
    header["__metadata__"][FORMAT] = text.replace("{}", '{"":' * depth + "[]" + "}" * depth)
    return joined(header, data)


MUTATIONS = (
    *(flipped, flipped_data, spliced, cut, stretched),
    *(changed_header, changed_tensor, changed_tensor, flipped_data, deepened),
    *(changed_network, changed_network, changed_network, changed_network, changed_network),
)


LACKING = (ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error)
"""What a mutation raises if an earlier one took away what it is about."""


def mutated(content, others, chance):
    """A file like this one but for one mutation, sometimes a few."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        with suppress(*LACKING):
            content = chance.choice(MUTATIONS)(content, others, chance)
    return content


def main():
    words = argparse.ArgumentParser()
    words.add_argument("seconds", type=float)
    words.add_argument("seed", type=int, nargs="?", default=0)
    words.add_argument("--keep", type=Path, default=Path("fuzz_file.hex"))
    given = words.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    chance = random.Random(given.seed)
    end, tried, valid = time.monotonic() + given.seconds, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.spikewire"
        originals = []
        for precision in ("float32", "float16", "int8"):
            file.save(path, network(), precision=precision)
            originals.append(path.read_bytes())
        while time.monotonic() < end:
            content = mutated(chance.choice(originals), originals, chance)
            path.write_bytes(content)
            try:
                valid += accepted(path)
            except BaseException:
                traceback.print_exc()
                given.keep.write_text(content.hex())
                raise SystemExit(1) from None
            tried += 1
    print(f"{tried} tried, {valid} accepted")


if __name__ == "__main__":
    main()
