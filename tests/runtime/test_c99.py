"""C99: compiled by gcc, it gives the reference's bits, from as little memory as it says."""

import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spikewire.nets import fc, tiny
from spikewire.runtime.c99 import write
from spikewire.runtime.file import rounded
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
from spikewire.runtime.reference import trace
from spikewire.runtime.trace import program_of

STRICT = "-std=c99 -Wall -Wextra -Werror -pedantic -Wdouble-promotion -Wfloat-conversion -O2"
SANITIZED = "-std=c99 -Werror -O1 -fsanitize=address,undefined -fno-sanitize-recover=all"
FASTEST = "-std=c99 -Werror -O3 -march=native"  # where there is one, with fused multiply-add
NAMES = ["block1_1.conv1", "0.weight", "größe", "int", "a */ b", "a\\\n", "??/", "a.b", "a_b", ""]

pytestmark = pytest.mark.skipif(
    not shutil.which("gcc"), reason="gcc is not installed: nothing can compile the C"
)


def normal(rng, *shape, density=1.0):
    kept = rng.random(shape) < density
    return np.where(kept, rng.normal(size=shape), 0).astype(np.float32)


def convolution(rng, channels, out, kernel=(1, 1), density=0.5, **how):
    weight = normal(rng, out, channels // how.get("groups", 1), *kernel, density=density)
    return Convolution(Weight.of(weight), normal(rng, out) / 4, **how)


def chained(T, value, *operations):
    """A program of steps that each take the one before."""
    return Program(T, value, [Step("layer", one, (n,)) for n, one in enumerate(operations)])


def sampled(rng, program, count=2):
    """Samples with zeros in them."""
    lead = program.T if program.input.sequence else 1
    return normal(rng, lead, count, *program.input.shape, density=0.8)


def compiled(folder, flags, *files):
    """A program of C files of a folder."""
    words = ["gcc", *flags.split(), *files, "-o", "example"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "example"


def run(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def identifier(program, n):
    return f"{n + 1}_{re.sub('[^A-Za-z0-9]', '_', program.steps[n].name)}"


PRINTING = """
#include "network.c"
#define main example
#include "main.c"
#undef main

static void show(const float *potentials, int size)
{
    for (int i = 0; i < size; i++) {
        printf("%a ", (double)potentials[i]);
    }
    printf("\\n");
}
"""


def with_potentials(folder, program):
    """A C file of the example that goes on to print the last sample's membrane potentials."""
    shows = [
        f"show(potential_{identifier(program, n)}, {program.values[n + 1].size});"
        for n, step in enumerate(program.steps)
        if isinstance(step.operation, Neuron)
    ]
    shows = "\n".join(["show(output, 0);", *shows])
    main = f"int main(void)\n{{\nconst int wrong = example();\n{shows}\nreturn wrong;\n}}\n"
    (folder / "all.c").write_text(PRINTING + main)
    return "all.c"


def bits(numbers):
    return np.asarray(numbers, np.float32).view(np.uint32).tolist()


def means(values):
    total = np.zeros(values.shape[1:], np.float32)
    for value in values:
        total = total + value
    return total / np.float32(len(values))


def assert_same(folder, program, samples, precision="float32", flags=STRICT):
    """What the C prints are the outputs and potentials of the reference, to the bit."""
    write(folder, program, precision=precision, samples=samples)
    lines = run(compiled(folder, flags, with_potentials(folder, program))).splitlines()
    expected = trace(rounded(program, precision), samples)
    count = samples.shape[1]
    for line, outputs in zip(lines[:count], means(expected.values[-1]), strict=True):
        assert "as expected" in line
        assert bits(line.partition("outputs ")[2].split()) == bits(outputs.flatten())
    for line, potentials in zip(lines[count + 1 :], expected.potentials.values(), strict=True):
        found = [float.fromhex(word) for word in line.split()]
        assert bits(found) == bits(potentials[-1].flatten())


# --- programs -------------------------------------------------------------------------------------


def all_neurons():
    """Every charge, reset and threshold, of one current; the spikes of all are added up."""
    rng = np.random.default_rng(0)
    steps = [Step("fc", convolution(rng, 5, 6), (0,))]
    for charge in ("integrate", "divide", "multiply", "leak"):
        for reset in (0.0, -0.3, None):
            for beta in (None, np.abs(normal(rng, 6))):
                constant = 1.7 if charge == "divide" else 0.6
                neuron = Neuron(charge, constant, 0.4, reset, beta, 0.9)
                steps.append(Step(charge, neuron, (1,)))
    total = 2
    for n in range(3, len(steps) + 1):
        steps.append(Step("sum", Add(), (total, n)))
        total = len(steps)
    return Program(7, Value((5, 1, 1), True), steps)


def all_maps():
    """Every form of window, a residual, an average, a vote; an image seen at each time step."""
    rng = np.random.default_rng(1)
    lif = Neuron("divide", 2.0, 0.3)
    far = convolution(rng, 4, 6, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 2), groups=2)
    steps = [
        Step("stem", convolution(rng, 2, 4, (3, 3), padding=(1, 1)), (0,)),
        Step("norm", Affine(normal(rng, 4), normal(rng, 4)), (1,)),
        Step("repeat", Repeat(), (2,)),
        Step("lif1", lif, (3,)),
        Step("far", far, (4,)),
        Step("lif2", lif, (5,)),
        Step("near", convolution(rng, 6, 6, (2, 2), dilation=(2, 1), groups=3), (6,)),
        Step("shortcut", convolution(rng, 6, 6, (3, 2), stride=(1, 1)), (6,)),
        Step("add", Add(), (7, 8)),
        Step("lif3", lif, (9,)),
        Step("largest", Pool("max", (3, 3), (2, 2), (1, 1)), (10,)),
        Step("point", convolution(rng, 6, 6, stride=(2, 2)), (11,)),
        Step("highest", Pool("max", (1, 2), (1, 1), (0, 1)), (12,)),
        Step("again", convolution(rng, 6, 4, (1, 2)), (13,)),
        Step("average", Pool("average", (1, 2), (1, 1)), (14,)),
        Step("flat", Flatten(), (15,)),
        Step("fc", convolution(rng, 16, 9), (16,)),
        Step("lif4", lif, (17,)),
        Step("vote", Vote(3), (18,)),
    ]
    return Program(5, Value((2, 13, 12), False), steps)


@st.composite
def programs(draw):
    """Any operations that fit, of values that came shortly before; some results go nowhere."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def pair(low, high):
        return int(rng.integers(low, high + 1)), int(rng.integers(low, high + 1))

    def convolved(x):
        groups = int(rng.choice([n for n in (1, 2, 3) if x.shape[0] % n == 0]))
        how = {"stride": pair(1, 2), "padding": pair(0, 2), "dilation": pair(1, 2)}
        density = rng.choice([0.0, 0.4, 1.0])
        out = groups * int(rng.integers(1, 4))
        return convolution(rng, x.shape[0], out, pair(1, 3), density, groups=groups, **how)

    def neurons(x):
        charge = str(rng.choice(["integrate", "divide", "multiply", "leak"]))
        reset, beta = rng.choice([None, 0.0, 0.1]), rng.choice([None, 1])
        return Neuron(charge, 1.3, 0.2, reset, beta and normal(rng, x.shape[0]), 0.8)

    make = {
        "convolution": convolved,
        "neuron": neurons,
        "max": lambda x: Pool("max", pair(2, 3), pair(1, 2), pair(0, 1)),
        "average": lambda x: Pool("average", pair(1, 2), pair(1, 2)),
        "add": lambda x: Add(),
        "affine": lambda x: Affine(normal(rng, x.shape[0]), normal(rng, x.shape[0])),
        "flatten": lambda x: Flatten(),
        "repeat": lambda x: Repeat(),
        "vote": lambda x: Vote(2),
    }
    program = chained(draw(st.integers(1, 5)), Value((2, 5, 4), draw(st.booleans())), Flatten())
    steps = []
    for kind in draw(st.lists(st.sampled_from(list(make)), min_size=4, max_size=12)):
        values = program.values if steps else program.values[:1]
        source = max(0, len(values) - 1 - int(rng.integers(0, 3)))
        sources = (source, len(values) - 1) if kind == "add" else (source,)
        step = Step(draw(st.sampled_from(NAMES)), make[kind](values[source]), sources)
        try:
            program = Program(program.T, program.input, [*steps, step])
        except ValueError:
            continue
        steps.append(step)
    return program, sampled(rng, program)


# --- the same bits --------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("program", [all_neurons(), all_maps()], ids=["neurons", "maps"])
def test_every_operation_gives_the_bits_of_the_reference(tmp_path, program, precision):
    samples = sampled(np.random.default_rng(2), program)
    expected = trace(program, samples)
    for n in expected.potentials:
        assert 0 < expected.values[n + 1].mean() < 1  # there is something to compare
    assert_same(tmp_path, program, samples, precision)


@pytest.mark.parametrize(
    ("program", "flags"),
    [(all_neurons(), FASTEST), (all_maps(), FASTEST), (all_maps(), SANITIZED)],
    ids=["neurons-fast", "maps-fast", "maps-sanitized"],
)
def test_no_compiler_changes_them_and_nothing_outside_is_read(tmp_path, program, flags):
    assert_same(tmp_path, program, sampled(np.random.default_rng(3), program), flags=flags)


def test_names_are_mended_and_layers_may_be_empty(tmp_path):
    rng = np.random.default_rng(4)
    empty = convolution(rng, 3, 3, density=0.0)
    long = "block." * 20
    names = [*NAMES, *NAMES, f"{long}1", f"{long}2"]
    operations = [empty, Neuron("integrate", threshold=0.3)] * (len(names) // 2)
    steps = [Step(*one, (n,)) for n, one in enumerate(zip(names, operations, strict=True))]
    program = Program(3, Value((3, 1, 1), True), steps)
    assert_same(tmp_path, program, sampled(rng, program), "int8")


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs(), st.sampled_from(["float32", "int8"]))
def test_any_program_gives_the_bits_of_the_reference(tmp_path_factory, sampled, precision):
    program, samples = sampled
    assert_same(tmp_path_factory.mktemp("c"), program, samples, precision)


def test_trained_layers_give_them_too(tmp_path):
    samples = torch.rand(2, 1, 8, 8)
    assert_same(tmp_path, program_of(tiny(T=3), samples), samples.numpy()[None], "int8")


# --- by hand --------------------------------------------------------------------------------------


def test_a_neuron_computed_by_hand(tmp_path):
    neuron = Neuron("divide", constant=2.0)
    samples = np.array([[1.5, 1.0], [1.5, 1.0], [1.5, 2.0], [1.5, 1.25]], np.float32)
    program = chained(4, Value((1, 1, 1), True), neuron)
    write(tmp_path, program, samples=samples.reshape(4, 2, 1, 1, 1))
    # u: 0.75, 1.125; 0.75, 1.125 and 0.5, 0.75, 1.375; 0.625
    assert run(compiled(tmp_path, STRICT, "network.c", "main.c")).splitlines() == [
        "sample 0: class 0, 2 spikes, as expected, outputs 0.5",
        "sample 1: class 0, 1 spikes, as expected, outputs 0.25",
    ]


def test_a_threshold_is_passed_when_it_is_reached(tmp_path):
    program = chained(2, Value((1, 1, 1), True), Neuron("integrate"))
    samples = np.full((2, 1, 1, 1, 1), 0.5, np.float32)
    write(tmp_path, program, samples=samples)
    assert "1 spikes, as expected, outputs 0.5\n" in run(
        compiled(tmp_path, STRICT, "network.c", "main.c")
    )


def test_int8_computes_with_a_byte_and_a_scale(tmp_path):
    weight = np.array([[1.0, 0.3, 0.001], [0.0, -2.54, 1.0]], np.float32)[..., None, None]
    layer = Convolution(Weight.of(weight), np.array([0.0, 0.5], np.float32))
    write(tmp_path, chained(1, Value((3, 1, 1), False), layer), precision="int8")
    code = (tmp_path / "network.c").read_text()
    assert "static const int8_t weights_1_layer[4] = {\n    127, 38, -127, 50\n};" in code
    assert "static const uint8_t taps_1_layer[4] = {\n    0, 1, 1, 2\n};" in code
    assert "static const uint8_t starts_1_layer[3] = {\n    0, 2, 4\n};" in code
    line = run(compiled(tmp_path, STRICT, "network.c", "main.c"))
    # 1 + 38 / 127 and 0.5 - 2.54 + 50 * 0.02
    assert [float(word) for word in line.split()[-2:]] == pytest.approx([1.2992126, -1.04])


def test_the_example_fails_if_the_network_is_another(tmp_path):
    write(tmp_path, chained(4, Value((1, 1, 1), True), Neuron("divide", 2.0, threshold=0.6)))
    code = (tmp_path / "network.c").read_text()
    (tmp_path / "network.c").write_text(code.replace("threshold = 0x1.333334p-1f", "threshold = 1"))
    done = subprocess.run([compiled(tmp_path, STRICT, "network.c", "main.c")], capture_output=True)
    assert (done.returncode, done.stdout.count(b"WRONG")) == (1, 1)


# --- memory ---------------------------------------------------------------------------------------


def told(folder):
    """The bytes of flash and RAM that network.c speaks of, and each of their parts."""
    head = (folder / "network.c").read_text().partition("*/")[0]
    return {name.strip(): int(size) for size, name in re.findall(r"^ +(\d+) (.*)$", head, re.M)} | {
        name: int(size) for name, size in re.findall(r"^   (\w+) +(\d+) bytes", head, re.M)
    }


@pytest.mark.parametrize(("precision", "each"), [("float32", 4), ("int8", 1)])
def test_memory_is_what_synapses_and_neurons_need(tmp_path, precision, each):
    torch.manual_seed(0)
    network = fc(T=4)
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(torch.rand_like(weight) < 0.014)
    synapses = sum(int(weight.count_nonzero()) for weight in network.parameters())
    write(tmp_path, program_of(network, torch.rand(1, 1, 28, 28)), precision=precision)
    found = told(tmp_path)
    scales = 810 * 4 * (precision == "int8")
    assert found["weights"] == pytest.approx(each * synapses + scales, rel=0.01)
    assert found["indices"] == pytest.approx(2 * (synapses + 801 + 11), rel=0.01)
    assert found["biases and other numbers per channel"] == 0
    assert found["membrane potentials and thresholds"] == 4 * 810
    assert found["values of one time step"] == 800 * (4 + 1)  # its current, its spikes
    subprocess.run(["gcc", "-std=c99", "-O2", "-c", "network.c"], cwd=tmp_path, check=True)
    sections = dict(re.findall(r"(\S+) +(\d+) ", run("size", "-A", tmp_path / "network.o")))
    assert int(sections[".rodata"]) == pytest.approx(found["Flash"], rel=0.02)
    assert int(sections[".bss"]) == pytest.approx(found["RAM"], rel=0.02)


def test_buffers_are_used_again(tmp_path):
    rng = np.random.default_rng(0)
    layers = [
        layer
        for _ in range(4)
        for layer in (convolution(rng, 2, 2, (3, 3), padding=(1, 1)), Neuron("integrate"))
    ]
    write(tmp_path, chained(3, Value((2, 4, 4), True), *layers))
    assert told(tmp_path)["membrane potentials and thresholds"] == 4 * 32 * 4
    assert told(tmp_path)["values of one time step"] == 2 * 32  # spikes; no current is kept


# --- folders and refusals -------------------------------------------------------------------------


def test_other_files_of_the_folder_stay(tmp_path):
    (tmp_path / "board.c").write_text("int board;\n")
    (tmp_path / "network.c").write_text("old")
    program = chained(2, Value((1, 1, 1), True), Neuron("integrate"))
    assert write(tmp_path, program) == tmp_path
    assert (tmp_path / "board.c").read_text() == "int board;\n"
    assert (tmp_path / "network.c").read_text() != "old"
    assert len(list(tmp_path.iterdir())) == 4


ONE = np.ones((1, 1, 1, 1), np.float32)
LARGE = Convolution(Weight.of(ONE * np.float32(3.4028235e38)), ONE[0, 0, 0])


@pytest.mark.parametrize(
    ("operation", "how", "reason"),
    [
        (Neuron("integrate"), {"precision": "int4"}, "no precision 'int4'"),
        (Neuron("integrate"), {"precision": "float16"}, "use float32, int8"),
        (LARGE, {"precision": "int8"}, "layer: .* too large for int8"),
        (Flatten(), {"samples": np.ones((2, 1, 1, 1), np.float32)}, r"\(2, 1, 1, 1\).*\(2, B, "),
        (Flatten(), {"samples": np.ones((3, 1, 1, 1, 1), np.float32)}, r"float32 .*\(2, B, 1,"),
        (Flatten(), {"samples": np.ones((2, 0, 1, 1, 1), np.float32)}, r"give .*\(2, B, 1,"),
        (Flatten(), {"samples": np.ones((2, 1, 1, 1, 1))}, "samples are float64"),
        (Flatten(), {"samples": np.full((2, 1, 1, 1, 1), np.nan, np.float32)}, "give finite"),
    ],
)
def test_what_cannot_be_written_is_refused_and_nothing_changes(tmp_path, operation, how, reason):
    (tmp_path / "network.c").write_text("old")
    program = chained(2, Value((1, 1, 1), True), operation)
    with pytest.raises(ValueError, match=reason):
        write(tmp_path, program, **how)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
