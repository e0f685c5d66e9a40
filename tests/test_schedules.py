"""Schedules: exact at both ends, flat outside, readable back from their text."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikewire.schedules import (
    Constant,
    Cosine,
    Cubic,
    Linear,
    Steps,
    at,
    parse,
    spell,
)

RAMPS = (Linear, Cubic, Cosine)
VALUES = st.floats(-10, 10)
PROGRESS = st.floats(0, 1)


@pytest.mark.parametrize(
    ("schedule", "progress", "value"),
    [
        (Constant(0.9), 0.0, 0.9),
        (Linear(0.0, 0.8), 0.25, 0.2),
        (Linear(1.0, 0.0, begin=0.5), 0.75, 0.5),
        (Cubic(0.0, 0.8), 0.5, 0.7),  # 0.8 (1 - 1/8)
        (Cubic(0.5, 0.9, finish=0.5), 0.25, 0.85),  # 0.9 - 0.4 / 8
        (Cosine(0.3), 0.5, 0.15),
        (Cosine(0.3, finish=0.75), 0.25, 0.225),  # 0.15 (1 + cos 60 degrees)
        (Cosine(0.0, 2.0), 1 / 3, 0.5),  # the sine of STDS: (1 + sin(-30 degrees)) / 2 * 2
        (Steps((1.0, 0.1, 0.01), marks=(0.5, 0.75)), 0.4999, 1.0),
        (Steps((1.0, 0.1, 0.01), marks=(0.5, 0.75)), 0.5, 0.1),
        (Steps((1.0, 0.1, 0.01), marks=(0.5, 0.75)), 1.0, 0.01),
    ],
)
def test_values_by_hand(schedule, progress, value):
    assert schedule(progress) == pytest.approx(value, abs=1e-12)


@given(st.sampled_from(RAMPS), VALUES, VALUES, PROGRESS, PROGRESS)
def test_a_ramp_is_exact_at_its_ends_and_flat_outside(kind, first, last, one, other):
    begin, finish = sorted((one, other))
    if begin == finish:
        begin, finish = 0.0, 1.0
    ramp = kind(first, last, begin, finish)
    assert ramp(0.0) == ramp(begin) == first
    assert ramp(1.0) == ramp(finish) == last


@given(st.sampled_from(RAMPS), VALUES, VALUES, PROGRESS, PROGRESS)
def test_a_ramp_goes_one_way(kind, first, last, one, other):
    early, late = (kind(first, last)(progress) for progress in sorted((one, other)))
    assert (late - early) * (last - first) >= -1e-9
    assert min(first, last) - 1e-12 <= early <= max(first, last) + 1e-12


@given(st.sampled_from(RAMPS), VALUES, VALUES, st.floats(0.1, 0.9))
def test_text_reads_back(kind, first, last, moment):
    for schedule in (
        kind(first, last, moment),
        Constant(first),
        Steps((first, last), (moment,)),
    ):
        assert parse(spell(schedule)) == schedule


def test_what_is_no_text_passes_unchanged():
    assert parse(0.5) == 0.5
    assert spell(0.5) == 0.5
    assert spell(math.sin) == repr(math.sin)
    assert parse(" constant(0.25) ") == Constant(0.25)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("cubik(0, 1)", "did you mean 'cubic'"),
        ("cubic", "name(value, ...)"),
        ("cubic.linear", "name(value, ...)"),
        ("cubic(0, 1", "no schedule"),
        ("cubic(0, 1, 2, 3, 4, 5)", "no schedule"),
        ("cubic(0, 1, begin=0.9, finish=0.1)", "0 <= begin < finish <= 1"),
        ("cubic(__import__('os'), 1)", "no schedule"),
        ("", "no schedule"),
    ],
)
def test_bad_text_is_refused_with_a_hint(text, hint):
    with pytest.raises(ValueError, match="schedule") as refusal:
        parse(text)
    assert hint in str(refusal.value)


@pytest.mark.parametrize(("begin", "finish"), [(0.5, 0.5), (-0.1, 1), (0, 1.1), (0.9, 0.1)])
def test_moments_outside_the_training_are_refused(begin, finish):
    with pytest.raises(ValueError, match="not steps or epochs"):
        Linear(0.0, 1.0, begin, finish)


def test_at_takes_numbers_and_functions():
    assert at(0.25, 0.9) == 0.25
    assert at(lambda progress: progress**2, 0.5) == 0.25


@pytest.mark.parametrize(
    ("values", "marks"),
    [
        ((1.0,), (0.5,)),
        ((1.0, 2.0), ()),
        ((1, 2, 3), (0.7, 0.2)),
        ((1, 2), (50,)),
        ((1, 2), (0,)),
        ((1, 2, 3), (0.5, 0.5)),
    ],
)
def test_steps_that_do_not_fit_their_marks_are_refused(values, marks):
    with pytest.raises(ValueError, match="rising marks"):
        Steps(values, marks)
