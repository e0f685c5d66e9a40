"""Networks in files: read back to the bit, as small as their synapses, refused if damaged."""

import json
import math
import runpy
import subprocess
import sys
import tracemalloc
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load as decode
from safetensors.numpy import save as encode

from spikewire.nets import fc, tiny
from spikewire.runtime import file
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
from spikewire.runtime.trace import program_of

FORMAT = "spikewire-network-1"
PRECISIONS = ("float32", "float16", "int8")
SCRIPT = Path(__file__).with_name("fuzz_file.py")
FUZZ = runpy.run_path(str(SCRIPT))
NETWORK = FUZZ["network"]()
FLOATS = st.floats(-1e38, 1e38)
NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)
SMALL = st.floats(-2.0, 2.0, width=32)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("file") / "net.spikewire"


def same(one, other):
    """Whether two programs, or parts of them, are equal to the last bit."""
    if isinstance(one, np.ndarray):
        alike = one.dtype == other.dtype and one.shape == other.shape
        return alike and one.tobytes() == other.tobytes()
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Program | Step | Convolution | Weight | Neuron | Affine):
        names = [field.name for field in fields(one)]
        mine, theirs = ([getattr(whole, name) for name in names] for whole in (one, other))
        return type(one) is type(other) and same(mine, theirs)
    return one == other


def alone(weight):
    """A network of one linear layer."""
    weight = np.asarray(weight, np.float32)[..., None, None]
    out, features = weight.shape[:2]
    layer = Convolution(Weight.of(weight), np.ones(out, np.float32))
    return Program(1, Value((features, 1, 1), True), (Step("fc", layer, (0,)),))


def tensors_of(path):
    return decode(path.read_bytes())


def text_of(path):
    """The JSON of the network."""
    header, _ = FUZZ["parts"](path.read_bytes())
    return header["__metadata__"][FORMAT]


# --- what comes back -----------------------------------------------------------------------------


@st.composite
def convolutions(draw, x, numbers):
    channels, height, width = x.shape
    groups = draw(st.sampled_from([g for g in (1, 2, 3) if channels % g == 0]))
    kernel = draw(st.integers(1, min(height, 3))), draw(st.integers(1, min(width, 3)))
    shape = groups * draw(st.integers(1, 3)), channels // groups, *kernel
    weight = draw(arrays(np.float32, shape, elements=numbers, fill=st.sampled_from([0.0, -0.0])))
    bias = draw(arrays(np.float32, shape[:1], elements=NUMBERS))
    stride, padding = draw(st.tuples(*[st.tuples(st.integers(1, 3), st.integers(1, 3))] * 2))
    return Convolution(Weight.of(weight), bias, stride, padding, (1, 1), groups)


@st.composite
def neurons(draw, x):
    charge = draw(st.sampled_from(["integrate", "divide", "multiply", "leak"]))
    constant = draw(FLOATS.filter(np.float32))
    beta = draw(st.none() | arrays(np.float32, x.shape[:1], elements=NUMBERS))
    recovery = draw(st.floats(0, 1))
    return Neuron(charge, constant, draw(FLOATS), draw(st.none() | FLOATS), beta, recovery)


@st.composite
def pools(draw, x):
    kernel = draw(st.integers(1, x.shape[1])), draw(st.integers(1, x.shape[2]))
    if draw(st.booleans()):
        return Pool("average", kernel, (1, 2))
    return Pool("max", kernel, (2, 1), (kernel[0] - 1, kernel[1] - 1))


@st.composite
def operations(draw, values, numbers):
    """An operation, and numbers of values that it can take."""
    source = draw(st.integers(0, len(values) - 1))
    x = values[source]
    affine = arrays(np.float32, x.shape[:1], elements=NUMBERS)
    alike = [n for n, value in enumerate(values) if value.shape == x.shape]
    kinds = [
        convolutions(x, numbers),
        neurons(x) if x.sequence else st.just(Repeat()),
        pools(x),
        st.builds(Affine, affine, affine),
        st.just(Add()),
        st.just(Flatten()),
        *([st.just(Vote(x.shape[0]))] if x.shape[1:] == (1, 1) else []),
    ]
    operation = draw(st.one_of(kinds))
    if isinstance(operation, Add):
        return operation, (source, draw(st.sampled_from(alike)))
    return operation, (source,)


@st.composite
def programs(draw, numbers=NUMBERS):
    size = st.integers(1, 5)
    values = [Value(draw(st.tuples(size, size, size)), draw(st.booleans()))]
    steps = []
    for name in draw(st.lists(st.text(max_size=5), min_size=1, max_size=5)):
        operation, sources = draw(operations(values, numbers))
        steps.append(Step(name, operation, sources))
        values.append(operation.value(*(values[source] for source in sources)))
    return Program(draw(st.integers(1, 256)), values[0], tuple(steps))


@settings(max_examples=60, deadline=None)
@given(programs(SMALL), st.sampled_from(PRECISIONS))
def test_a_network_comes_back_to_the_bit(path, program, precision):
    size = file.save(path, program, precision=precision)
    read, facts = file.load(path)
    assert same(read, file.rounded(program, precision))
    assert size == path.stat().st_size and facts == {}


@settings(max_examples=40, deadline=None)
@given(programs(), st.sampled_from(PRECISIONS))
def test_weights_of_any_size_are_stored_or_refused_by_name(path, program, precision):
    try:
        expected = file.rounded(program, precision)
    except ValueError:
        with pytest.raises(ValueError, match=f"too large for {precision}: store the network as"):
            file.save(path, program, precision=precision)
    else:
        file.save(path, program, precision=precision)
        assert same(file.load(path)[0], expected)


@settings(max_examples=20, deadline=None)
@given(programs())
def test_float32_changes_nothing_but_the_sign_of_zeros(program):
    for step, stored in zip(program.steps, file.rounded(program, "float32").steps, strict=True):
        if isinstance(step.operation, Convolution):
            assert same(step.operation.weight, stored.operation.weight)
        else:
            assert same(step, stored)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_operation_comes_back_with_the_facts(path, precision):
    facts = {"classes": ["Käse", "🧀"], "mean": [0.5, 1e-300], "T": 4, "more": {"a": [None, True]}}
    file.save(path, NETWORK, precision=precision, facts=facts)
    program, read = file.load(path)
    assert same(program, file.rounded(NETWORK, precision)) and read == facts
    assert all(type(step.operation) is type(other.operation)
               for step, other in zip(program.steps, NETWORK.steps, strict=True))  # fmt: skip
    first = path.read_bytes()
    file.save(path, NETWORK, precision=precision, facts=facts)
    assert path.read_bytes() == first


def test_arrays_are_free_of_the_file(path):
    file.save(path, NETWORK)
    program, _ = file.load(path)
    path.unlink()
    for number in (0, 5, 10):
        weight = program.steps[number].operation.weight.values
        assert weight.flags.aligned and weight.flags.c_contiguous and weight.flags.writeable
        assert np.array_equal(weight, NETWORK.steps[number].operation.weight.values)


def test_int8_has_a_scale_for_each_output_channel(path):
    program = alone([[127.0, -63.6, 0.4, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 2.54, -0.011]])
    file.save(path, program, precision="int8")
    tensors = tensors_of(path)
    assert tensors["0.weight"].tolist() == [127, -64, 127, -1]  # 0.4 is gone
    assert tensors["0.weight.scale"].tolist() == [1.0, 0.0, np.float32(2.54) / np.float32(127)]
    step = np.float32(2.54) / np.float32(127)
    weight = file.load(path)[0].steps[0].operation.weight.dense()[..., 0, 0]
    assert weight.tolist() == [[127, -64, 0, 0], [0] * 4, [0, 0, np.float32(127) * step, -step]]


def test_int8_keeps_to_its_range_where_scales_are_coarse(path):
    smallest = 2.0**-149
    file.save(path, alone([[190 * smallest, -190 * smallest], [smallest, 0]]), precision="int8")
    weight = file.load(path)[0].steps[0].operation.weight.dense()
    assert (weight.flatten() / smallest).tolist() == [127, -127, 0, 0]


def test_float16_rounds_to_the_nearest_and_drops_what_becomes_zero(path):
    file.save(path, alone([[1.0009765, 2.0**-25, -(2.0**-24), 65519.0]]), precision="float16")
    weight = file.load(path)[0].steps[0].operation.weight.dense().flatten()
    assert weight.tolist() == [1.0009765625, 0.0, -(2.0**-24), 65504.0]
    assert not np.signbit(weight[1])


def test_zeros_keep_their_sign_where_it_counts(path):
    shift = np.zeros(100, np.float32)
    shift[50] = -0.0
    steps = (Step("norm", Affine(np.ones(100, np.float32), shift), (0,)),)
    program = Program(1, Value((100, 1, 1), True), steps)
    file.save(path, program)
    assert "0.shift.gaps" in tensors_of(path) and same(file.load(path)[0], program)


# --- how it is stored ----------------------------------------------------------------------------


def gaps_of(mask):
    """The slow way."""
    code, zeros = [], 0
    for alive in [*mask, True]:
        if alive:
            code += [255] * (zeros // 255) + [zeros % 255]
        zeros = 0 if alive else zeros + 1
    return code


def test_gaps_count_zeros_in_bytes(path):
    weight = np.zeros((1, 600))
    weight[0, [0, 1, 300, 599]] = 1, 2, 3, 4
    file.save(path, alone(weight))
    tensors = tensors_of(path)
    assert sorted(tensors) == ["0.bias", "0.weight", "0.weight.gaps"]
    assert tensors["0.weight"].tolist() == [1, 2, 3, 4]
    assert tensors["0.weight.gaps"].tolist() == [0, 0, 255, 43, 255, 43, 0]


def test_bits_begin_with_the_highest(path):
    file.save(path, alone([[1.5, 0, 0, 0, 0, 0, 0, 2.5, 3.5]]))
    tensors = tensors_of(path)
    assert sorted(tensors) == ["0.bias", "0.weight", "0.weight.bits"]
    assert tensors["0.weight"].tolist() == [1.5, 2.5, 3.5]
    assert tensors["0.weight.bits"].tolist() == [0b10000001, 0b10000000]


@settings(deadline=None)
@example(32, set(range(31)))
@given(st.integers(1, 1200), st.sets(st.integers(0, 1199)))
def test_the_smaller_code_of_a_mask_is_taken(path, size, places):
    mask = [place in places for place in range(size)]
    file.save(path, alone([np.where(mask, 1.5, 0.0)]))
    tensors = tensors_of(path)
    codes = {"0.weight.gaps": gaps_of(mask), "0.weight.bits": np.packbits(mask).tolist()}
    smallest = min(map(len, codes.values()))
    found = {name: code for name, code in codes.items() if name in tensors}
    if 4 * sum(mask) + smallest >= 4 * size:
        assert tensors["0.weight"].tolist() == np.where(mask, 1.5, 0.0).tolist() and not found
    else:
        ((name, code),) = found.items()
        assert tensors[name].tolist() == code and len(code) == smallest
        assert tensors["0.weight"].tolist() == [1.5] * sum(mask)


def pruned(program, connectivity):
    """With so much of each layer left, at random, and with biases."""
    chance = np.random.default_rng(0)
    steps = []
    for step in program.steps:
        if isinstance(layer := step.operation, Convolution):
            kept = chance.random(layer.weight.shape) < connectivity
            weight = Weight.of(layer.weight.dense() * kept)
            bias = chance.normal(size=layer.bias.shape).astype(np.float32)
            step = replace(step, operation=replace(layer, weight=weight, bias=bias))
        steps.append(step)
    return replace(program, steps=tuple(steps))


NETS = [
    pytest.param(fc(T=4), (1, 28, 28), 0.014, id="784-800-10"),
    pytest.param(tiny(T=4, width=256), (1, 8, 8), 0.03, id="convolutions"),
    pytest.param(tiny(T=4, width=64), (1, 8, 8), 0.3, id="convolutions, bits"),
]


@pytest.mark.parametrize(("model", "shape", "connectivity"), NETS)
@pytest.mark.parametrize(("precision", "each"), [("float32", 4), ("float16", 2), ("int8", 1)])
def test_a_file_is_as_small_as_its_synapses(path, model, shape, connectivity, precision, each):
    program = pruned(program_of(model, torch.rand(1, *shape)), connectivity)
    bound = 0
    for step in file.rounded(program, precision).steps:
        if isinstance(layer := step.operation, Convolution):
            mask = layer.weight.dense().flatten() != 0
            bound += each * int(mask.sum()) + min(len(gaps_of(mask)), math.ceil(mask.size / 8))
            bound += layer.bias.nbytes + (4 * len(layer.bias) if precision == "int8" else 0)
    assert bound < file.save(path, program, precision=precision) < 1.05 * bound


def test_a_file_of_today_is_read_as_today(path):
    """Names, defaults and codes are the format's: files that exist depend on them."""
    told = {
        "T": 2,
        "input": [1, 2, 2],
        "sequence": False,
        "steps": [
            {"name": "c", "operation": "Convolution", "weight": [2, 1, 2, 2],
             "bias": [2]},
            {"name": "r", "operation": "Repeat"},
            {"name": "a", "operation": "Affine", "scale": [2], "shift": [2]},
            {"name": "n", "operation": "Neuron", "sources": [3], "charge": "integrate"},
            {"name": "p", "operation": "Pool", "sources": [4], "kind": "max", "kernel": [1, 1],
             "stride": [1, 1]},
            {"name": "s", "operation": "Add", "sources": [5, 4]},
            {"name": "f", "operation": "Flatten"},
            {"name": "v", "operation": "Vote", "sources": [7], "size": 2},
        ],
        "facts": {"a": 1},
    }  # fmt: skip
    tensors = {
        "0.weight": np.array([3, -4], np.int8),
        "0.weight.gaps": np.array([1, 4, 1], np.uint8),
        "0.weight.scale": np.array([0.5, 0.25], np.float32),
        "0.bias": np.array([7], np.float32),
        "0.bias.bits": np.array([0b01000000], np.uint8),
        "2.scale": np.array([1, 2], np.float32),
        "2.shift": np.array([3, -0.0], np.float32),
    }
    path.write_bytes(encode(tensors, metadata={FORMAT: json.dumps(told)}))
    weight = np.zeros((2, 1, 2, 2), np.float32)
    weight.flat[[1, 6]] = 1.5, -1.0
    operations = [
        Convolution(Weight.of(weight), np.float32([0, 7]), (1, 1), (0, 0), (1, 1), 1),
        Repeat(),
        Affine(np.float32([1, 2]), np.float32([3, -0.0])),
        Neuron("integrate", 1.0, 1.0, 0.0, None, 0.0),
        Pool("max", (1, 1), (1, 1), (0, 0)),
        Add(),
        Flatten(),
        Vote(2),
    ]
    sources = [(0,), (1,), (2,), (3,), (4,), (5, 4), (6,), (7,)]
    steps = tuple(map(Step, "cranpsfv", operations, sources))
    program, facts = file.load(path)
    assert same(program, Program(2, Value((1, 2, 2), False), steps)) and facts == {"a": 1}


# --- what is refused -----------------------------------------------------------------------------


def deep(levels):
    tree = []
    for _ in range(levels):
        tree = [tree]
    return tree


UNFIT = {
    "nan": {"a": math.nan},
    "infinity": {"a": [1.0, {"b": -math.inf}]},
    "numpy": {"a": np.float32(1)},
    "array": {"a": np.ones(2)},
    "many digits": {"a": 10**5000},
    "bytes": {"a": b"x"},
    "set": {"a": {1}},
    "surrogate": {"a": "\ud800"},
    "deep": {"a": deep(300)},
    "very deep": {"a": deep(100_000)},
    "long": {"a": "x" * 2**20},
    "key": {(1, 2): 3},
}


@pytest.mark.parametrize("facts", UNFIT.values(), ids=UNFIT)
def test_facts_that_are_no_json_are_refused_and_the_file_stays(path, facts):
    file.save(path, NETWORK)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="facts of nested dicts and lists of finite numbers"):
        file.save(path, NETWORK, facts=facts)
    assert path.read_bytes() == before and [path] == list(path.parent.iterdir())


@pytest.mark.filterwarnings("error")
def test_what_cannot_be_stored_so_is_refused_and_the_file_stays(path):
    file.save(path, NETWORK)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="fc: a weight of 65520 is too large for float16"):
        file.save(path, alone([[-65520.0]]), precision="float16")
    with pytest.raises(ValueError, match=r"fc: a weight of 3.40282e\+38 is too large for int8"):
        file.save(path, alone([[np.finfo(np.float32).max]]), precision="int8")
    for refuse in (file.rounded, lambda *given: file.save(path, given[0], precision=given[1])):
        with pytest.raises(ValueError, match=r"no precision 'int9' \(did you mean 'int8'\?\): use"):
            refuse(NETWORK, "int9")
    assert path.read_bytes() == before and [path] == list(path.parent.iterdir())


def test_a_network_of_too_many_weights_is_not_written(path, monkeypatch):
    monkeypatch.setattr(file, "_MOST_NUMBERS", 100)
    with pytest.raises(ValueError, match="it has 110 numbers, the most are 100"):
        file.save(path, alone(np.ones((10, 10))))


def test_a_write_that_breaks_off_leaves_the_file(path, monkeypatch):
    file.save(path, NETWORK)
    before = path.read_bytes()

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", die)
    with pytest.raises(KeyboardInterrupt):
        file.save(path, NETWORK, precision="int8")
    assert path.read_bytes() == before and [path] == list(path.parent.iterdir())


def test_a_missing_file_is_called_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        file.load(tmp_path / "none")


def put(key, value):
    """A change of the JSON: of the network, or at such a key as "0.stride" of a step."""

    def change(told, tensors):
        number, _, field = key.rpartition(".")
        (told["steps"][int(number)] if number else told)[field] = value

    return change


def swap(name, array):
    """A change of a tensor."""
    return lambda told, tensors: tensors.update({name: np.asarray(array)})


def drop(name):
    return lambda told, tensors: tensors.pop(name)


def shout(told, tensors):
    told["steps"][0] |= {"name": "\x1b[31m" + 999 * "x", "groups": 2}


# steps of NETWORK: 0 a weight with bits, 2 affine, 5 all weights, 7 beta, 10 a weight with gaps
F4, U1 = np.float32, np.uint8
DAMAGES = [
    (put("T", 0), "T is 0; a program has 1 to 256"),
    (put("T", True), "T: Input should be a valid integer"),
    (put("T", 3.0), "T: Input should be a valid integer"),
    (put("T", 10**4000), "T is 1000"),
    (put("T", None), "T: Input should be a valid integer"),
    (lambda told, tensors: told.pop("T"), "T: Field required"),
    (put("version", 1), "version: Extra inputs are not permitted"),
    (put("input", [2, 6]), "input.2: Field required"),
    (put("input", [2, 6, 2**40]), "the input: a value of shape .* too large"),
    (put("input", [2, 6, -6]), "the input: a value of shape .* is empty"),
    (put("sequence", 0), "sequence: Input should be a valid boolean"),
    (put("steps", []), "no step has the tensor 0.bias"),
    (put("steps", {}), "steps: Input should be a valid array"),
    (put("steps", [{}]), "steps.0: Unable to extract tag"),
    (put("facts", []), "facts: Input should be an object"),
    (put("facts", {"a": math.nan}), "not JSON compliant"),
    (put("facts", {"a": [-math.inf]}), "not JSON compliant"),
    (put("0.operation", "exec"), "Input tag 'exec' found using 'operation' does not match"),
    (put("0.name", 3), "name: Input should be a valid string"),
    (put("0.sources", [7]), "conv1: it takes value 7, of 1"),
    (put("0.sources", [-1]), "conv1: it takes value -1, of 1"),
    (put("0.sources", []), "conv1: .*missing 1 required"),
    (put("0.sources", [False]), "sources.0: Input should be a valid integer"),
    (put("0.stride", [0, 1]), "conv1: kernel 3, stride 0"),
    (put("0.stride", [1]), "stride.1: Field required"),
    (put("0.groups", 2), "conv1: a weight of shape"),
    (put("0.dilation", [9, 9]), "conv1: a value of shape .* is empty"),
    (put("0.code", "bits"), "code: Extra inputs are not permitted"),
    (put("0.weight", None), "weight: Input should be a valid array"),
    (put("0.weight", [4, 2, 3]), "tensor 0.weight is I8 of shape .*, not F32"),
    (put("0.bias", [2, 2]), "conv1: bias is no finite float32 array of 1 dim"),
    (put("0.weight", [4, 2, 3, 3, 1]), "weight: Tuple should have at most 4 items"),
    (put("0.weight", [2**40, 2, 3, 3]), "weight.0: .* less than or equal to 268435456"),
    (put("0.weight", [4, 2, 3, 0]), "weight.3: .* greater than or equal to 1"),
    (put("0.weight", [4, 2, 3, 3.0]), "weight.3: Input should be a valid integer"),
    (put("0.weight", [4, 2, 4, 3]), "9 bytes of bits do not fit 96 entries"),
    (put("5.weight", [4, 2, 1, 2**20]), "5.weight has 8 values for 8388608 and says not where"),
    (put("10.weight", [20, 2**20, 1, 1]), "bytes of gaps do not add up to 20971520 entries"),
    (put("0.weight", [2**14, 2**14, 1, 1]), "it has 2684.* numbers, the most are 268435456"),
    (shout, r"\( \[31mxxx"),
    (put("7.threshold", math.nan), "threshold: Input should be a finite number"),
    (put("7.constant", 10**400), "constant: Input should be a finite number"),
    (put("7.reset", "0"), "reset: Input should be a valid number"),
    (put("7.recovery", True), "recovery: Input should be a valid number"),
    (put("7.charge", "sum"), "charge: Input should be 'integrate', 'divide', 'multiply' or 'leak'"),
    (put("7.beta", None), "no step has the tensor 7.beta"),
    (put("3.beta", [4]), "tensor 3.beta is missing"),
    (put("3.constant", 0), "lif1: it divides by 0"),
    (put("4.kind", "median"), "kind: Input should be 'max' or 'average'"),
    (put("4.kernel", [7, 2]), "pool1: a value of shape .* is empty"),
    (put("11.size", 0), "vote: a vote of 0"),
    (drop("0.weight"), "tensor 0.weight is missing"),
    (drop("0.weight.bits"), "0.weight has .* values for 72 and says not where"),
    (drop("0.weight.scale"), "tensor 0.weight.scale is missing"),
    (drop("2.shift"), "tensor 2.shift is missing"),
    (swap("x", F4([1])), "no step has the tensor x"),
    (swap("0.weight.gaps", U1([1])), "no step has the tensor 0.weight.gaps"),
    (swap("2.shift.scale", F4([1])), "no step has the tensor 2.shift.scale"),
    (swap("2.shift", np.ones(4)), "tensor 2.shift is F64 of shape .4., not F32"),
    (swap("2.shift", np.float16([1] * 4)), "tensor 2.shift is F16 of shape .4., not F32"),
    (swap("2.shift", np.ones((4, 1), F4)), "tensor 2.shift is F32 of shape .4, 1., not F32"),
    (swap("2.shift", F4(1)), "tensor 2.shift is F32 of shape .., not F32"),
    (swap("2.shift", F4([1] * 5)), "2.shift has 5 values for 4 and says not where"),
    (swap("2.shift", F4([1, 1, 1, np.nan])), "tensor 2.shift has numbers that are not finite"),
    (swap("7.beta", F4([np.inf] * 4)), "tensor 7.beta has numbers that are not finite"),
    (swap("10.weight", np.int8([1] * 5)), "10.weight has 5 values for 4 places"),
    (swap("10.weight", np.int8([1] * 3)), "10.weight has 3 values for 4 places"),
    (swap("10.weight", U1([1] * 4)), "10.weight is U8 of shape .4., not F32 or F16 or I8"),
    (swap("10.weight", np.float16([1, 2, 3, np.nan])), "10.weight has numbers that are not finite"),
    (swap("10.weight", F4([1, 2, 3, 4])), "no step has the tensor 10.weight.scale"),
    (swap("10.weight.scale", F4([1] * 19)), "10.weight.scale is F32 of shape .19., not F32 of sha"),
    (swap("10.weight.scale", F4([1] * 19 + [-1])), "10.weight: a scale is -1.0, below 0"),
    (swap("10.weight.scale", F4([np.inf] * 20)), "10.weight.scale has numbers that are not fin"),
    (swap("10.weight.scale", F4([3e38] * 20)), "fc: weight is no finite float32 array"),
    (swap("10.weight.gaps", U1([])), "0 bytes of gaps do not add up to 320 entries"),
    (swap("10.weight.gaps", U1([3, 0, 15, 255, 24, 20])), "do not add up to 320 entries"),
    (swap("10.weight.gaps", U1([3, 0, 15, 255, 24, 19, 255])), "do not add up to 320 entries"),
    (swap("10.weight.gaps", U1([3, 0, 15, 255, 24, 19, 0])), "do not add up to 320 entries"),
    (swap("10.weight.gaps", U1([255, 62, 2])), "10.weight has 4 values for 1 places"),
    (swap("10.weight.gaps", np.int8([1])), "10.weight.gaps is I8 of shape .1., not U8"),
    (swap("0.weight.bits", U1([255] * 9)), "values for 72 places"),
    (swap("0.weight.bits", U1([255] * 8)), "8 bytes of bits do not fit 72 entries"),
    (swap("0.weight.bits", U1([255] * 10)), "10 bytes of bits do not fit 72 entries"),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("damage", "reason"), DAMAGES)
def test_a_file_that_does_not_fit_together_is_refused_with_the_reason(path, damage, reason):
    file.save(path, NETWORK, precision="int8")
    tensors = tensors_of(path)
    told = json.loads(text_of(path))
    damage(told, tensors)
    path.write_bytes(encode(tensors, metadata={FORMAT: json.dumps(told)}))
    refused(path, reason)


def refused(path, reason):
    """Whether `load` says what is wrong with which file, and what to do."""
    with pytest.raises(ValueError, match=reason) as refusal:
        file.load(path)
    message = str(refusal.value)
    assert message.startswith(f"{path} is no network of spikewire (")
    assert message.endswith("): give a file that `spikewire export` wrote")
    assert message.isprintable() and len(message) < len(str(path)) + 300


def test_padding_of_bits_must_be_zero(path):
    file.save(path, alone([[1.5, 0, 0, 0, 0, 0, 0, 2.5, 3.5]]))
    tensors = tensors_of(path)
    text = text_of(path)
    tensors["0.weight.bits"] = np.array([0b10000001, 0b10000001], np.uint8)
    path.write_bytes(encode(tensors, metadata={FORMAT: text}))
    refused(path, "2 bytes of bits do not fit 9 entries")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "its JSON: Invalid JSON: EOF"),
        ("[]", "its JSON: Input should be an object"),
        ("{", "its JSON: Invalid JSON"),
        ("[" * 100_000, "its JSON: Invalid JSON: recursion limit"),
        ('{"T": ' + "1" * 5000 + "}", "its JSON: Invalid JSON: number out of range"),
        ('{"\\ud800": 1}', "its JSON: Invalid JSON"),
        (" " * 2**20 + "{}", "its JSON has 1048578 characters, the most are 1048576"),
        ('{"steps": [' + "{}," * 300_000 + "{}]}", "T: Field required"),
    ],
    ids=lambda text: text[:9],
)
def test_json_that_is_none_of_a_network_is_refused(path, text, reason):
    path.write_bytes(encode({}, metadata={FORMAT: text}))
    refused(path, reason)


@pytest.mark.parametrize(
    "metadata",
    [None, {}, {"spikewire-network-2": "{}"}, {FORMAT: "{}", "more": ""}, {"\x1b[31m": "x" * 999}],
)
def test_other_formats_and_versions_are_refused(path, metadata):
    path.write_bytes(encode({"0.bias": np.ones(2, np.float32)}, metadata=metadata))
    refused(path, "its metadata are")


@pytest.mark.parametrize(
    ("kind", "count"), [("BF16", 8), ("F8_E4M3", 16), ("F4", 32), ("C64", 2), ("BOOL", 16)]
)
def test_types_that_numpy_does_not_know_are_refused(path, kind, count):
    file.save(path, NETWORK)
    header, data = FUZZ["parts"](path.read_bytes())
    header["2.shift"] |= {"dtype": kind, "shape": [count]}
    path.write_bytes(FUZZ["joined"](header, data))
    refused(path, f"tensor 2.shift is {kind} of shape .{count}., not F32")


def test_tensors_of_impossible_shapes_are_refused(path):
    file.save(path, alone(np.zeros((1, 9))))
    header, data = FUZZ["parts"](path.read_bytes())
    header["0.weight"]["shape"] = [0, 2**63, 2**63]
    path.write_bytes(FUZZ["joined"](header, data))
    refused(path, "tensor 0.weight is F32 of shape .0, 9223372036854775808, 9223372036854775808.")


@pytest.mark.parametrize("number", [0, 5, 10])
def test_a_small_file_that_claims_a_large_array_takes_no_memory(path, number):
    file.save(path, NETWORK)
    told, tensors = json.loads(text_of(path)), tensors_of(path)
    told["steps"][number]["weight"] = [1, 2, 2**13, 2**13]
    path.write_bytes(encode(tensors, metadata={FORMAT: json.dumps(told)}))
    tracemalloc.start()
    refused(path, f"{number}.weight.* 134217728")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_a_file_cut_anywhere_is_refused(path):
    file.save(path, alone(np.eye(5, 40)))
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        refused(path, "Error while deserializing header")


def test_a_byte_that_flips_is_refused_or_gives_a_network(path):
    file.save(path, replace(NETWORK, steps=NETWORK.steps[:4]), precision="int8")
    content = path.read_bytes()
    chance = np.random.default_rng(0)
    valid = 0
    for place, mask in enumerate(chance.integers(1, 256, len(content)).tolist()):
        path.write_bytes(content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :])
        with suppress(ValueError):
            file.load(path)
            valid += 1
    assert 0 < valid < len(content)


def test_a_little_fuzzing_finds_nothing(tmp_path):
    words = [sys.executable, SCRIPT, "0.5", "--keep", tmp_path / "found"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    tried, accepted = (int(word) for word in done.stdout.split() if word.isdigit())
    assert tried > accepted and not (tmp_path / "found").exists()
