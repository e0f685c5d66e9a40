"""Programs: shapes and values by hand, and whatever does not fit together is refused."""

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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

DRAWING = runpy.run_path(str(Path(__file__).with_name("drawing.py")))
SEVERAL = Value((4, 7, 9), True)
FLAT = Value((6, 1, 1), True)
ONE = Value((1, 1, 1), True)


def floats(*numbers):
    return np.array(numbers, np.float32)


def ones(*shape):
    return np.ones(shape, np.float32)


def layer(*shape, **geometry):
    """A convolution whose weight has this shape."""
    return Convolution(Weight.of(ones(*shape)), np.zeros(shape[0], np.float32), **geometry)


def program(value, *operations, T=4):
    """A program of steps that each take the one before."""
    return Program(T, value, [Step(f"layer{n}", one, (n,)) for n, one in enumerate(operations)])


def last(made, *given):
    """What a program with one number per sample and time step gives."""
    T = made.T if made.input.sequence else 1
    x = floats(*given).reshape(T, 1, *made.input.shape)
    return trace(made, x).values[-1].squeeze().tolist()


# --- shapes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "given", "shape"),
    [
        (layer(5, 4, 3, 3), SEVERAL, (5, 5, 7)),
        (layer(5, 4, 3, 3, padding=(1, 1)), SEVERAL, (5, 7, 9)),
        (layer(5, 4, 3, 3, stride=(2, 3)), SEVERAL, (5, 3, 3)),
        (layer(5, 4, 3, 2, stride=(2, 2), padding=(0, 1)), SEVERAL, (5, 3, 5)),
        (layer(5, 4, 3, 3, dilation=(3, 2)), SEVERAL, (5, 1, 5)),
        (layer(6, 2, 1, 1, groups=2), SEVERAL, (6, 7, 9)),
        (layer(8, 1, 7, 9, groups=4), SEVERAL, (8, 1, 1)),
        (layer(3, 6, 1, 1), FLAT, (3, 1, 1)),
        (Neuron("integrate"), SEVERAL, (4, 7, 9)),
        (Neuron("leak", 0.5, beta=ones(4)), SEVERAL, (4, 7, 9)),
        (Pool("max", (2, 2), (2, 2)), SEVERAL, (4, 3, 4)),
        (Pool("max", (3, 3), (2, 2), (1, 1)), SEVERAL, (4, 4, 5)),
        (Pool("average", (2, 3), (1, 3)), SEVERAL, (4, 6, 3)),
        (Affine(ones(4), ones(4)), SEVERAL, (4, 7, 9)),
        (Flatten(), SEVERAL, (252, 1, 1)),
        (Vote(2), FLAT, (3, 1, 1)),
        (Vote(6), FLAT, (1, 1, 1)),
    ],
)
def test_shapes_by_hand(operation, given, shape):
    assert program(given, operation).values == (given, Value(shape, True))


@pytest.mark.parametrize("operation", [layer(5, 4, 3, 3), Flatten(), Pool("max", (2, 2), (2, 2))])
def test_what_does_not_vary_in_time_stays_so(operation):
    still = program(replace(SEVERAL, sequence=False), operation, Repeat())
    assert [value.sequence for value in still.values] == [False, False, True]


@pytest.mark.parametrize("one", [True, False])
@pytest.mark.parametrize("other", [True, False])
def test_a_sum_varies_if_one_of_both_does(one, other):
    assert Add().value(Value((2, 1, 1), one), Value((2, 1, 1), other)).sequence is (one or other)


def test_the_size_of_a_value():
    assert SEVERAL.size == 252


def test_values_are_needed_until_their_last_use():
    steps = [
        Step("a", Neuron("integrate"), (0,)),
        Step("b", Neuron("integrate"), (1,)),
        Step("c", Add(), (2, 0)),
        Step("d", Add(), (3, 3)),
    ]
    assert Program(4, FLAT, steps).last == {0: 2, 1: 1, 2: 2, 3: 3, 4: 4}


def test_what_nothing_takes_is_needed_never():
    steps = [Step("a", Neuron("integrate"), (0,)), Step("b", Neuron("integrate"), (0,))]
    assert Program(4, FLAT, steps).last == {0: 1, 2: 2}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), batch=st.integers(1, 3))
def test_shapes_are_those_that_the_reference_gives(seed, batch):
    rng = np.random.default_rng(seed)
    made = DRAWING["program"](rng, T=3)
    found = trace(made, DRAWING["inputs"](rng, made, batch)).values
    for value, array in zip(made.values, found, strict=True):
        assert array.shape == (3 if value.sequence else 1, batch, *value.shape)
        assert array.dtype == np.float32


# --- refusals -------------------------------------------------------------------------------------


def convolution(weight, bias):
    return Convolution(Weight.of(weight), bias)


def strange(*shape, number=np.nan):
    return np.full(shape, number, np.float32)


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (convolution(ones(5, 4, 3), ones(5)), r"weight has shape \(5, 4, 3\), not 4 dimensions"),
        (convolution(ones(5, 4, 3, 3).astype("f8"), ones(5)), "weight is no finite float32"),
        (convolution(strange(5, 4, 3, 3), ones(5)), "weight is no finite float32"),
        (convolution(strange(5, 4, 3, 3, number=np.inf), ones(5)), "weight is no finite float32"),
        (convolution(ones(5, 4, 3, 3), ones(4)), r"bias has shape \(4,\), not \(5,\)"),
        (convolution(ones(5, 4, 3, 3), ones(5, 1)), "bias is no finite float32 array of 1 dim"),
        (convolution(ones(5, 4, 3, 3), strange(5)), "bias is no finite float32"),
        (layer(5, 3, 3, 3), r"\(5, 3, 3, 3\) in 1 groups does not fit 4 channels"),
        (layer(5, 4, 3, 3, groups=0), "in 0 groups does not fit 4 channels"),
        (layer(5, 2, 3, 3, groups=2), "in 2 groups does not fit 4 channels"),
        (layer(6, 4, 3, 3, groups=2), "in 2 groups does not fit 4 channels"),
        (layer(5, 4, 3, 3, stride=(1, 0)), "kernel 3, stride 0, padding 0, dilation 1 are no"),
        (layer(5, 4, 3, 3, padding=(-1, 0)), "stride 1, padding -1, dilation 1 are no window"),
        (layer(5, 4, 3, 3, padding=(0, 1025)), "padding 1025, dilation 1 are no window"),
        (layer(5, 4, 3, 3, dilation=(0, 1)), "dilation 0 are no window"),
        (layer(5, 4, 3, 3, dilation=(2**28 + 1, 1)), "dilation 268435457 are no window"),
        (layer(5, 4, 3, 3, stride=(1, 2**28 + 1)), "stride 268435457, .* are no window"),
        (layer(5, 4, 8, 3), r"shape \(5, 0, 7\) is empty or too large"),
        (Neuron("rectify"), "no charge 'rectify'"),
        (Neuron("leak", float("nan")), "not finite numbers of float32"),
        (Neuron("integrate", threshold=float("inf")), "not finite numbers of float32"),
        (Neuron("integrate", reset=1e39), "not finite numbers of float32"),
        (Neuron("integrate", recovery=-1e39), "not finite numbers of float32"),
        (Neuron("divide", 0.0), "it divides by 0, which is 0 in float32"),
        (Neuron("divide", 1e-50), "it divides by 1e-50, which is 0 in float32"),
        (Neuron("leak", beta=ones(5)), r"beta has shape \(5,\), not \(4,\)"),
        (Neuron("leak", beta=strange(4)), "beta is no finite float32 array of 1 dimensions"),
        (Pool("least", (2, 2), (2, 2)), "no pooling 'least'"),
        (Pool("average", (2, 2), (2, 2), (1, 0)), "padding of an average is not understood"),
        (Pool("max", (2, 2), (2, 2), (1, 2)), r"padding \(1, 2\) reaches beyond windows of \(2, 2"),
        (Pool("max", (2, 2), (2, 2), (-1, 0)), "padding -1, dilation 1 are no window"),
        (Pool("average", (2, 2), (0, 2)), "stride 0, padding 0, dilation 1 are no window"),
        (Pool("max", (8, 2), (2, 2)), r"shape \(4, 0, 4\) is empty or too large"),
        (Affine(ones(3), ones(4)), "scale does not fit 4 channels"),
        (Affine(ones(4), ones(3)), "shift does not fit 4 channels"),
        (Affine(strange(4), ones(4)), "scale is no finite float32 array of 1 dimensions"),
        (Affine(ones(4), ones(4, 1)), "shift is no finite float32 array of 1 dimensions"),
        (Repeat(), "what is a sequence already cannot be repeated"),
        (Vote(2), r"a vote of 2 does not fit a value of shape \(4, 7, 9\)"),
        (Add(), "missing 1 required positional argument"),
    ],
)
def test_what_does_not_fit_is_refused_by_the_name_of_its_step(operation, message):
    with pytest.raises(ValueError, match=f"^layer0: .*{message}"):
        program(SEVERAL, operation)


@pytest.mark.parametrize("recovery", [-0.5, 1.5])
def test_recovery_is_a_share(recovery):
    with pytest.raises(ValueError, match="recovery"):
        program(SEVERAL, Neuron("leak", beta=ones(4), recovery=recovery))


@pytest.mark.parametrize("size", [0, -2, 4])
def test_votes_must_have_as_many_voters_for_each(size):
    with pytest.raises(ValueError, match=f"a vote of {size} does not fit"):
        program(FLAT, Vote(size))


def test_neurons_need_a_sequence():
    with pytest.raises(ValueError, match="layer0: a layer of neurons needs a sequence: repeat its"):
        program(replace(FLAT, sequence=False), Neuron("integrate"))


def test_shapes_that_differ_cannot_be_added():
    steps = [Step("flat", Flatten(), (0,)), Step("add", Add(), (0, 1))]
    with pytest.raises(ValueError, match=r"add: shapes \(4, 7, 9\) and \(252, 1, 1\) cannot be"):
        Program(4, SEVERAL, steps)


@pytest.mark.parametrize("source", [-1, 1, 7])
def test_sources_must_come_before(source):
    with pytest.raises(ValueError, match=f"lif: it takes value {source}, of 1 that there are"):
        Program(4, FLAT, [Step("lif", Neuron("integrate"), (source,))])


@pytest.mark.parametrize("T", [0, -1, 257])
def test_time_steps_have_limits(T):
    with pytest.raises(ValueError, match=f"T is {T}; a program has 1 to 256 time steps"):
        program(FLAT, Neuron("integrate"), T=T)
    assert program(FLAT, Neuron("integrate"), T=256).T == 256


def test_nothing_is_no_program():
    with pytest.raises(ValueError, match="a program needs at least one step"):
        Program(4, FLAT, [])


@pytest.mark.parametrize("shape", [(0, 3, 3), (2**28 + 1, 1, 1), (2**10, 2**10, 2**9)])
def test_values_have_limits(shape):
    with pytest.raises(ValueError, match="the input: a value of shape .* is empty or too large"):
        program(Value(shape, True), Neuron("integrate"))


def test_a_padded_value_has_limits_too():
    grown = layer(2**8, 1, 1, 1, padding=(1024, 1024))
    with pytest.raises(ValueError, match="the input: a value of shape .* is empty or too large"):
        Program(256, Value((2**20 + 1, 1, 1), True), [Step("flatten", Flatten(), (0,))])
    with pytest.raises(ValueError, match=r"layer0: .*\(256, 2049, 2049\) is empty or too large"):
        program(ONE, grown)


# --- values ---------------------------------------------------------------------------------------

BIG = 2.0**24  # adding 1 to it changes nothing in float32


@pytest.mark.parametrize(
    ("weight", "bias", "total"),
    [
        ([[[1.0, BIG, -BIG]]], 0.0, 0.0),
        ([[[BIG, -BIG, 1.0]]], 0.0, 1.0),
        ([[[1.0], [BIG], [-BIG]]], 0.0, 0.0),
        ([[[BIG], [-BIG], [1.0]]], 0.0, 1.0),
        ([[[1.0]], [[BIG]], [[-BIG]]], 0.0, 0.0),
        ([[[BIG]], [[-BIG]], [[1.0]]], 0.0, 1.0),
        ([[[BIG, -BIG]], [[1.0, 0.0]]], 0.0, 1.0),  # channels before columns
        ([[[BIG, 1.0]], [[-BIG, 0.0]]], 0.0, 0.0),
        ([[[BIG], [-BIG]], [[1.0], [0.0]]], 0.0, 1.0),  # channels before rows
        ([[[BIG, -BIG], [1.0, 0.0]]], 0.0, 1.0),  # rows before columns
        ([[[BIG, 1.0], [-BIG, 0.0]]], 0.0, 0.0),
        ([[[BIG, -BIG]]], 1.0, 0.0),  # the bias is first
    ],
)
def test_sums_are_added_up_in_one_order(weight, bias, total):
    weight = floats(weight)
    made = program(Value(weight.shape[1:], False), Convolution(Weight.of(weight), floats(bias)))
    assert last(made, *np.ones(weight.size)) == total


def test_products_are_rounded_before_they_are_added():
    near = 1.0 + 2.0**-12  # its square is 1 + 2**-11 + 2**-24, the last of which is lost
    made = program(Value((1, 1, 1), False), layer(1, 1, 1, 1))
    with_bias = replace(
        made.steps[0].operation, weight=Weight.of(floats([[[near]]])), bias=floats(-1.0)
    )
    assert last(program(made.input, with_bias), near) == 2.0**-11


def test_a_convolution_by_hand():
    #  1 2 3    weight   1 10    padded above and below, every second row:
    #  4 5 6           100 1000
    weight = floats([[[1.0, 10.0], [100.0, 1000.0]]])
    by_hand = Convolution(Weight.of(weight), floats(0.5), (2, 1), (1, 0))
    found = last(program(Value((1, 2, 3), False), by_hand), 1, 2, 3, 4, 5, 6)
    assert found == [[2100.5, 3200.5], [54.5, 65.5]]


def test_dilation_and_groups_by_hand():
    weight = floats([[[1.0, 10.0]]], [[[2.0, 20.0]]])
    wide = Convolution(Weight.of(weight), floats(0.0, 0.0), dilation=(1, 2), groups=2)
    found = last(program(Value((2, 1, 4), False), wide), 1, 2, 3, 4, 5, 6, 7, 8)
    assert found == [[31.0, 42.0], [150.0, 172.0]]


@pytest.mark.parametrize(
    ("pool", "found"),
    [
        (Pool("max", (2, 2), (1, 1)), [-2.0, -1.0]),
        (Pool("max", (2, 3), (2, 2), (1, 1)), [[-2.0, -1.0], [-2.0, -2.0]]),
        (Pool("average", (1, 2), (1, 1)), [[-2.5, -1.5], [-3.0, -3.5]]),
        (Pool("average", (2, 1), (2, 2)), [-3.5, -3.0]),
    ],
)
def test_pools_by_hand(pool, found):
    assert last(program(Value((1, 2, 3), False), pool), -3, -2, -1, -4, -2, -5) == found


def test_averages_are_added_up_in_order():
    average = Pool("average", (1, 4), (1, 1))
    assert last(program(Value((1, 1, 4), False), average), 1, BIG, -BIG, 2) == 0.5


def test_votes_by_hand():
    made = program(Value((6, 1, 1), False), Vote(3))
    assert last(made, 1, 0, 0.5, 1, BIG, -BIG) == [0.5, 0.0]


def test_affine_by_hand():
    made = program(Value((2, 1, 2), False), Affine(floats(2.0, -0.5), floats(1.0, 0.25)))
    assert last(made, 1, 2, 3, 4) == [[3.0, 5.0], [-1.25, -1.75]]


def test_flatten_goes_by_channel_row_column():
    made = program(Value((2, 1, 2), False), Flatten())
    assert last(made, 1, 2, 3, 4) == [1.0, 2.0, 3.0, 4.0]


def test_what_does_not_vary_is_added_at_each_step():
    still = Program(
        3,
        Value((1, 1, 1), False),
        [
            Step("fc", layer(1, 1, 1, 1), (0,)),
            Step("repeat", Repeat(), (1,)),
            Step("if", Neuron("integrate"), (2,)),
            Step("add", Add(), (3, 1)),
        ],
    )
    assert last(still, 0.5) == [0.5, 1.5, 0.5]


@pytest.mark.parametrize(
    ("neuron", "currents", "spikes", "potential"),
    [
        (Neuron("integrate"), [0.5, 0.75, 0.25, 1.0], [0, 1, 0, 1], 0.0),
        (Neuron("integrate", reset=None), [0.5, 0.75, 0.25, 1.0], [0, 1, 0, 1], 0.5),
        (Neuron("integrate", reset=-0.5), [0.5, 0.75, 0.25, 1.0], [0, 0, 1, 0], 0.5),
        (Neuron("integrate", threshold=0.5), [0.5, 0.25, 0.125, 0.0], [1, 0, 0, 0], 0.375),
        (Neuron("divide", 2.0), [2.0, 1.0, 1.0, 2.0], [1, 0, 0, 1], 0.0),
        (Neuron("divide", 2.0, reset=-0.5), [1.0, 2.0, 2.0, 0.0], [0, 0, 1, 0], -0.5),
        (Neuron("divide", 4.0, reset=None), [4.0, 2.0, 4.0, 0.0], [1, 0, 1, 0], 0.28125),
        (Neuron("multiply", 0.25), [2.0, 2.0, 2.0, 1.0], [0, 0, 1, 0], 0.25),
        (Neuron("multiply", 0.5, reset=0.25), [1.0, 0.5, 1.5, 1.0], [0, 0, 1, 0], 0.75),
        (Neuron("leak", 0.5, reset=None), [0.75, 0.5, 1.0, 0.25], [0, 0, 1, 0], 0.46875),
        (Neuron("leak", 0.5, reset=0.25), [0.5, 0.25, 1.0, 0.0], [0, 0, 1, 0], 0.25),
    ],
)
def test_neurons_step_by_step(neuron, currents, spikes, potential):
    found = trace(program(ONE, neuron), floats(*currents).reshape(4, 1, 1, 1, 1))
    assert found.values[-1].flatten().tolist() == spikes
    assert found.potentials[0].item() == potential


@pytest.mark.parametrize(
    ("reset", "current", "potential"), [(None, 1.0, 1.625), (0.0, 1.0, 1.0), (-0.25, 1.25, 1.0)]
)
def test_thresholds_that_rise_with_spikes(reset, current, potential):
    # beta 2, recovery 0.75: b is 0, 0.25, 0.1875, 0.390625, so the threshold is 1, 1.5, 1.375,
    # 1.78125; with beta 0 it stays 1
    rising = Neuron("integrate", reset=reset, beta=floats(0.0, 2.0), recovery=0.75)
    currents = np.full((4, 1, 2, 1, 1), current, np.float32)
    found = trace(program(Value((2, 1, 1), True), rising), currents)
    assert found.values[-1].squeeze().T.tolist() == [[1, 1, 1, 1], [1, 0, 1, 0]]
    assert found.potentials[0].squeeze()[1] == potential


def test_rounding_comes_after_each_operation_of_a_neuron():
    made = program(ONE, Neuron("divide", 1.0, threshold=4.0), T=2)
    found = trace(made, floats(1.0, 2.0**-25).reshape(2, 1, 1, 1, 1))
    assert found.potentials[0].item() == 0.0  # 1 + (2**-25 - 1): the difference becomes -1
