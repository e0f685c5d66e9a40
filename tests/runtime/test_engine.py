"""The engine: on every path the bits of the reference, whatever the network and the machine do."""

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from runpy import run_path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikewire.dialects import reset
from spikewire.measure import readout
from spikewire.nets import net
from spikewire.runtime import compare, load, sparse
from spikewire.runtime import file as files
from spikewire.runtime import kernels as package
from spikewire.runtime.engine import Record, SparseNetwork
from spikewire.runtime.program import (
    Convolution,
    Flatten,
    Neuron,
    Pool,
    Program,
    Repeat,
    Step,
    Value,
    Weight,
)
from spikewire.runtime.reference import trace
from spikewire.runtime.trace import program_of

try:
    KERNELS = package.kernels()
except ImportError as error:
    pytest.skip(f"no engine: {error}", allow_module_level=True)

drawing = run_path(str(Path(__file__).with_name("drawing.py")))


@pytest.fixture(params=KERNELS.paths())
def path(request):
    before = KERNELS.path()
    KERNELS.use(request.param)
    yield request.param
    KERNELS.use(before)


def shown(program, x):
    """Inputs as a user gives them."""
    return torch.from_numpy(x if program.input.sequence else x[0])


def assert_same(program, x, threads=1):
    """Spikes, potentials and the last value, to the last bit."""
    expected, record = trace(program, x), Record()
    found = SparseNetwork(program, threads, "sparse").run(shown(program, x), record)
    for number, potentials in expected.potentials.items():
        assert np.array_equal(record.spikes[number], expected.values[number + 1])
        assert np.array_equal(record.potentials[number], potentials)
    last = expected.values[-1]
    assert np.array_equal(np.broadcast_to(found, last.shape), last)


def lively(name, shape, density=0.3, **arguments):
    """A network whose neurons fire, with few synapses and normalisation that does something."""
    model = net(name, **arguments)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter *= (torch.rand_like(parameter) < density) / density**0.5
            elif len(parameter) > 1:
                parameter.uniform_(0.5, 2.0)
        for _ in range(3):
            model.train()(torch.randn(4, *shape))
            reset(model)
    return model.eval()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), batch=st.sampled_from([1, 2, 3, 5, 17, 40]))
def test_any_program_gives_the_bits_of_the_reference_on_every_path(seed, batch):
    rng = np.random.default_rng(seed)
    program = drawing["program"](rng)
    x = drawing["inputs"](rng, program, batch)
    for each in KERNELS.paths():
        KERNELS.use(each)
        assert_same(program, x)


NETWORKS = {
    "fc": ("fc", (1, 28, 28), {}),
    "tiny": ("tiny", (1, 8, 8), {}),
    "conv6fc2": ("conv6fc2", (3, 16, 16), {"width": 8, "size": 16}),
    "vgg16": ("vgg16", (3, 32, 32), {"width": 4}),
    "resnet19": ("resnet19", (3, 32, 32), {"width": 4}),
    "resnet19-lottery": ("resnet19", (3, 32, 32), {"width": 4, "form": "lottery"}),
}


@pytest.mark.parametrize("which", NETWORKS)
@pytest.mark.parametrize("batch", [1, 6])
def test_networks_of_the_papers(path, which, batch):
    name, shape, arguments = NETWORKS[which]
    model = lively(name, shape, **arguments)
    images = torch.randn(batch, *shape)
    program = program_of(model, images)
    assert_same(program, images.numpy()[None], threads=2)


@pytest.mark.parametrize("which", NETWORKS)
def test_few_spikes_differ_from_pytorch(which):
    name, shape, arguments = NETWORKS[which]
    model = lively(name, shape, **arguments)
    images = torch.randn(8, *shape)
    network = sparse(model, images)
    found = compare(network, images, model)
    assert found.spikes > 100
    assert found.differing < 1e-3 * found.spikes
    with torch.no_grad():
        outputs = model(images).mean(0)
    agree = (network(images) - outputs).abs() < 1e-4
    assert agree.float().mean() > 0.95  # the rest may have another spike


def test_the_comparison_is_with_the_network_itself():
    model = lively("tiny", (1, 8, 8))
    images = torch.randn(64, 1, 8, 8)
    network = sparse(model, images)
    with torch.no_grad():
        labels = readout(model(images)).argmax(1)
        for parameter in model.parameters():
            parameter.neg_()
    reset(model)
    found = compare(network, (images, labels), model)
    assert found.differing > 0.1 * found.spikes
    assert found.accuracy_dense is not None and found.accuracy_sparse is not None
    assert found.accuracy_dense < found.accuracy_sparse
    assert compare(network, images).differing < 1e-3 * found.spikes


def test_a_sum_by_hand(path):
    # weights 0.5 and 0.25 from inputs that fire at steps 0, 2 and 1, 2; tau 2, threshold 0.3:
    # u = 0.25; 0.125 + 0.0625 + ... = 0.25 + (0.25 - 0.25) / 2 = 0.25; 0.25 + 0.5 / 2 = 0.5: fires
    weight = np.float32([[[[0.5]], [[0.25]]]])
    steps = [
        Step("fc", Convolution(Weight.of(weight), np.zeros(1, np.float32)), (0,)),
        Step("lif", Neuron("divide", 2.0, 0.3), (1,)),
    ]
    program = Program(3, Value((2, 1, 1), True), steps)
    x = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 1.0]]])
    spikes = SparseNetwork(program, 1, "sparse").spikes(x)
    assert spikes["lif"].flatten().tolist() == [False, False, True]


def test_linear_layers_follow_events_of_a_few_samples(path):
    rng = np.random.default_rng(0)
    shape = (3, 5, 18)
    weight = drawing["normal"](rng, 700, 270, 1, 1, density=0.2)
    steps = [
        Step("flatten", Flatten(), (0,)),
        Step("fc", Convolution(Weight.of(weight), np.zeros(700, np.float32)), (1,)),
        Step("lif", Neuron("leak", 0.5), (2,)),
    ]
    for T in (1, 8, 9, 40):
        program = Program(T, Value(shape, True), steps)
        x = (rng.random((T, 2, *shape)) < 0.2).astype(np.float32)
        assert_same(program, x)
        timings = SparseNetwork(program, 1, "sparse").profile(torch.from_numpy(x), 1)
        assert [timing.kernel for timing in timings] == ["", "events"]


@pytest.mark.parametrize("kernel", ["dense", None])
def test_dense_kernels_give_the_same_within_rounding(kernel):
    images = torch.randn(4, 3, 16, 16)
    model = lively("conv6fc2", (3, 16, 16), width=8, size=16)
    program = program_of(model, images)
    expected, record = SparseNetwork(program, 1, "sparse").spikes(images), Record()
    SparseNetwork(program, 1, kernel).run(images, record)
    for number, spikes in record.spikes.items():
        differ = torch.from_numpy(spikes != 0) != expected[program.steps[number].name]
        assert differ.float().mean() < 1e-3


@pytest.mark.parametrize("faster", ["sparse", "dense"])
def test_the_faster_kernel_is_chosen(monkeypatch, faster):
    images = torch.randn(2, 1, 28, 28)
    program = program_of(net("fc"), images)
    network = SparseNetwork(program, 1)
    quick = {"sparse": [3.0, 1.0, 2.0], "dense": [3.0, 2.0, 1.0]}[faster] * 2
    monkeypatch.setattr("spikewire.runtime.engine._seconds", lambda run, runs=3: quick.pop(0))
    monkeypatch.setattr("spikewire.runtime.engine._products_per_second", lambda threads: 1e12)
    chosen = {timing.kernel for timing in network.profile(images, 1)}
    assert chosen == {"", faster}


def test_a_kernel_that_is_quick_enough_is_not_compared(monkeypatch):
    images = torch.randn(2, 1, 28, 28)
    network = SparseNetwork(program_of(net("fc"), images), 1)
    monkeypatch.setattr("spikewire.runtime.engine._products_per_second", lambda threads: 1e-9)
    monkeypatch.setattr(network, "_dense", None)
    assert {timing.kernel for timing in network.profile(images, 1)} == {"", "sparse"}


def test_threads_change_nothing():
    rng = np.random.default_rng(1)
    for _ in range(5):
        program = drawing["program"](rng)
        x = drawing["inputs"](rng, program, 5)
        for threads in (1, 2, 7):
            assert_same(program, x, threads)


def test_several_callers_at_once():
    images = torch.randn(6, 3, 16, 16)
    network = sparse(lively("conv6fc2", (3, 16, 16), width=8, size=16), images, threads=2)
    expected = network(images)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: network(images), range(24)):
            assert torch.equal(found, expected)


def _child(network, images, pipe):
    pipe.send(network(images).tolist())


def test_a_child_process_has_threads_of_its_own():
    images = torch.randn(3, 1, 8, 8)
    network = sparse(lively("tiny", (1, 8, 8)), images, threads=3)
    expected = network(images).tolist()
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_child, args=(network, images, theirs))
    child.start()
    assert ours.poll(60)
    assert ours.recv() == expected
    child.join()


def test_denormal_numbers_are_numbers():
    weight = np.full((1, 1, 1, 1), 2.0**-100, np.float32)
    steps = [Step("fc", Convolution(Weight.of(weight), np.zeros(1, np.float32)), (0,))]
    program = Program(2, Value((1, 1, 1), True), steps)
    x = torch.full((2, 1, 1), 2.0**-40)
    torch.set_flush_denormal(True)
    try:
        found = SparseNetwork(program, 1, "sparse").run(x)
    finally:
        torch.set_flush_denormal(False)
    assert found.flatten().tolist() == [2.0**-140] * 2


def test_sequences_and_features_as_inputs():
    rng = np.random.default_rng(2)
    weight = drawing["normal"](rng, 4, 6, 1, 1)
    steps = [
        Step("fc", Convolution(Weight.of(weight), np.zeros(4, np.float32)), (0,)),
        Step("lif", Neuron("divide", 2.0), (1,)),
    ]
    network = SparseNetwork(Program(5, Value((6, 1, 1), True), steps))
    x = torch.rand(5, 3, 6)
    assert network(x).shape == (3, 4)
    assert torch.equal(network(x), network(x[..., None, None]))


@pytest.mark.parametrize(
    ("x", "wanted"),
    [
        (torch.zeros(2, 3, 28, 28), r"give \(B, 1, 28, 28\)"),
        (torch.zeros(1, 28, 28), "give"),
        (torch.zeros(0, 1, 28, 28), "give"),
    ],
)
def test_inputs_of_another_shape_are_refused(x, wanted):
    network = sparse(net("fc"), torch.zeros(1, 1, 28, 28))
    with pytest.raises(ValueError, match=wanted):
        network(x)


def test_wrong_settings_are_refused():
    program = program_of(net("fc"), torch.zeros(1, 1, 28, 28))
    with pytest.raises(ValueError, match="threads is 0"):
        SparseNetwork(program, 0)
    with pytest.raises(ValueError, match="kernel is 'fast'"):
        SparseNetwork(program, None, "fast")


def test_kernels_check_what_they_are_given():
    weight = Weight.of(np.ones((4, 2, 3, 3), np.float32)).parts
    bias = np.zeros(4, np.float32)
    geometry = (1, 1), (1, 1), (1, 1), 1
    layer = KERNELS.Layer(*weight, bias, (2, 5, 5), 4, *geometry, 1)
    x, out = np.zeros((1, 2, 5, 4, 1), np.uint16), np.zeros((1, 4, 5, 4, 16), np.float32)
    layer.spikes(x, None, out, None, None, 1, 4, 1)
    for wrong in (x[:, :1].copy(), np.zeros((2, 2, 5, 4, 1), np.uint16)):
        with pytest.raises(ValueError, match="x has another size"):
            layer.spikes(wrong, None, out, None, None, 1, 4, 1)
    with pytest.raises(ValueError, match="numbers has another size"):
        layer.spikes(x, None, out[:, :3].copy(), None, None, 1, 4, 1)
    with pytest.raises(ValueError, match="do not fit"):
        KERNELS.Layer(*weight, bias, (3, 5, 5), 4, *geometry, 1)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        layer.spikes(x, None, out.astype(np.float64), None, None, 1, 4, 1)
    for size in (2**30, 2**31 - 1):
        with pytest.raises(ValueError, match="too large"):
            KERNELS.pool_max(x, (1, 2, size, 4, 4), (2, 2), (2, 2), (0, 0), x, 1)
    with pytest.raises(ValueError, match="strides"):
        KERNELS.unpack(x, (1, 2, 5, 5, 4), out, (0, 2**63, 1, 1), 1)
    for kernel in ((6, 6), (2, 6)):
        with pytest.raises(ValueError, match="smaller than the window"):
            KERNELS.pool_average(x, (1, 2, 5, 5, 4), kernel, kernel, out, 1)
    with pytest.raises(ValueError, match="smaller than the kernel"):
        KERNELS.Layer(*weight, bias, (2, 1, 1), 4, (1, 1), (0, 0), (1, 1), 1, 1)
    with pytest.raises(ValueError, match="no path of that name"):
        KERNELS.use("abacus")


@pytest.mark.parametrize(
    ("starts", "places", "message"),
    [
        ([0, 1, 2], [5, -1], "out of place"),
        ([0, 1, 2], [5, 6], "out of place"),
        ([0, 0, 2], [3, 3], "out of place"),
        ([0, 0, 2], [4, 3], "out of place"),
        ([0, 1, 3], [0, 1], "do not fit"),
        ([1, 1, 2], [0, 1], "do not fit"),
        ([0, 3, 2], [0, 1], "do not fit"),
        ([0, 2], [0, 1], "do not fit"),
        ([0, 1, 1], [0], "do not fit"),
    ],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_kernels_check_each_synapse(starts, places, message, threads):
    values = np.ones(2, np.float32)
    weight = (2, 6, 1, 1), np.int64(starts), np.int32(places), values, np.zeros(2, np.float32)
    with pytest.raises(ValueError, match=message):
        KERNELS.EventLayer(*weight, 4, threads)
    with pytest.raises(ValueError, match=message):
        KERNELS.Layer(*weight, (6, 1, 1), 4, (1, 1), (0, 0), (1, 1), 1, threads)


def test_bits_beyond_the_width_are_no_spikes():
    words = np.full((1, 2, 3, 4, 1), 0xFFFF, np.uint16)
    clean = np.full((1, 2, 3, 4, 1), 0b11111, np.uint16)
    flat = [np.empty((1, 30, 1, 4, 1), np.uint16) for _ in range(2)]
    for x, out in zip((words, clean), flat, strict=True):
        KERNELS.flatten(x, (1, 2, 3, 5, 4), 16, out, 1)
    assert np.array_equal(*flat)
    weight = np.random.default_rng(0).normal(size=(7, 30, 1, 1)).astype(np.float32)
    layer = KERNELS.EventLayer(*Weight.of(weight).parts, np.zeros(7, np.float32), 4, 1)
    sums = [np.empty((1, 1, 1, 4, 16), np.float32) for _ in range(2)]
    for x, out in zip((words, clean), sums, strict=True):
        layer.spikes(x, (2, 3, 5), None, out, None, None, 1, 1)
    assert np.array_equal(*sums)


def test_what_is_the_same_at_all_times_may_be_flattened():
    ones = np.ones((3, 4, 1, 1), np.float32)
    steps = [
        Step("repeat", Repeat(), (0,)),
        Step("pool", Pool("max", (2, 2), (2, 2)), (1,)),
        Step("flatten", Flatten(), (2,)),
        Step("fc", Convolution(Weight.of(ones), np.zeros(3, np.float32)), (3,)),
        Step("lif", Neuron("divide", 2.0), (4,)),
    ]
    program = Program(5, Value((1, 4, 4), False), steps)
    for batch in (1, 4):
        assert_same(program, np.ones((1, batch, 1, 4, 4), np.float32))


def run_python(code, **environment):
    words = [sys.executable, "-c", code]
    return subprocess.run(words, capture_output=True, text=True, env=os.environ | environment)


def test_the_environment_asks_for_a_path(monkeypatch):
    code = "from spikewire.runtime.kernels import kernels; print(kernels().path())"
    assert run_python(code, SPIKEWIRE_PATH="portable").stdout.strip() == "portable"
    monkeypatch.setenv("SPIKEWIRE_PATH", "abacus")
    package.kernels.cache_clear()
    with pytest.raises(ValueError, match="SPIKEWIRE_PATH is 'abacus': this processor has portable"):
        package.kernels()
    package.kernels.cache_clear()


def test_without_a_compiler_only_the_engine_is_missing(monkeypatch):
    images = torch.zeros(1, 1, 28, 28)
    monkeypatch.setitem(sys.modules, "spikewire.runtime.kernels._kernels", None)
    package.kernels.cache_clear()
    try:
        with pytest.raises(ImportError, match="installed without its engine: install a C"):
            sparse(net("fc"), images)
        assert program_of(net("fc"), images).T == 8
    finally:
        monkeypatch.undo()
        package.kernels.cache_clear()


def test_a_file_runs_without_the_classes_it_was_made_of(tmp_path):
    model, images = lively("tiny", (1, 8, 8)), torch.randn(5, 1, 8, 8)
    files.save(tmp_path / "net.spikewire", program_of(model, images))
    assert torch.equal(load(tmp_path / "net.spikewire")(images), sparse(model, images)(images))


def test_nothing_to_compare_is_refused():
    network = sparse(net("fc"), torch.zeros(1, 1, 28, 28))
    with pytest.raises(ValueError, match="batches is empty"):
        compare(network, [])
