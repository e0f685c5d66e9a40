"""Units: whole groups or n of m, as many synapses as asked for and no more."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikewire.masks import choose
from spikewire.units import NM, UNITS, Block, FanIn, Kernel

SHAPES = [(4, 6), (5, 7), (3, 4, 3, 3), (2, 5, 1), (1, 1)]
UNIT = st.sampled_from([Kernel(), FanIn(), Block(2, 3), Block(1, 4), NM(1, 2), NM(2, 4), NM(3, 5)])
WHOLE = st.sampled_from([Kernel(), FanIn(), Block(2, 3), Block(1, 4)])


@st.composite
def networks(draw):
    """Scores of some tensors, with ties and with impossible places."""
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    levels = draw(st.sampled_from([3, 1000]))
    scores = {}
    for i, shape in enumerate(shapes):
        score = torch.randint(levels, shape, generator=generator).double()
        impossible = torch.rand(shape, generator=generator) < draw(st.sampled_from([0.0, 0.3]))
        scores[f"w{i}"] = score.masked_fill(impossible, -math.inf)
    return scores


def alive(masks):
    return sum(int(mask.sum()) for mask in masks.values())


def eligible(scores):
    return sum(int((score > -math.inf).sum()) for score in scores.values())


@given(networks(), UNIT)
def test_splitting_and_joining_loses_nothing(scores, unit):
    for score in scores.values():
        assert unit.join(unit.split(score), score.shape).equal(score)


@given(networks(), UNIT, st.floats(0, 1))
def test_no_more_than_asked_for_and_only_where_possible(scores, unit, share):
    keep = int(share * eligible(scores))
    masks = unit.choose(scores, keep)
    assert alive(masks) <= keep
    for name, mask in masks.items():
        assert mask.shape == scores[name].shape
        assert mask.dtype == torch.bool
        assert not mask[scores[name] == -math.inf].any()
    assert alive(unit.choose(scores, eligible(scores))) == eligible(scores)


@given(networks(), WHOLE, st.floats(0, 1))
def test_groups_are_whole_and_less_than_one_is_missing(scores, unit, share):
    keep = int(share * eligible(scores))
    masks = unit.choose(scores, keep)
    largest, best_left, worst_taken = 0, -math.inf, math.inf
    for name, score in scores.items():
        for row, taken in zip(unit.split(score), unit.split(masks[name].double()), strict=True):
            there = row > -math.inf
            assert taken[there].eq(taken[there][:1]).all()
            if not there.any():
                continue
            mean = float(row[there].mean())
            if taken[there].any():
                worst_taken = min(worst_taken, mean)
            else:
                largest, best_left = max(largest, int(there.sum())), max(best_left, mean)
    assert worst_taken >= best_left or math.isclose(worst_taken, best_left)
    assert keep - alive(masks) < max(largest, 1)


@given(networks(), st.sampled_from([(1, 2), (2, 4), (3, 5)]), st.floats(0, 1))
def test_at_most_n_of_m_and_exactly_as_many_as_asked_for(scores, nm, share):
    unit = NM(*nm)
    keep = int(share * eligible(scores))
    masks = unit.choose(scores, keep)
    assert alive(masks) == keep
    members = sum(
        int((row > -math.inf).sum().clamp(max=nm[0]))
        for score in scores.values()
        for row in unit.split(score)
    )
    for name, score in scores.items():
        rows, taken = unit.split(score), unit.split(masks[name].double()) > 0
        if keep <= members:
            assert taken.sum(1).max() <= nm[0]
        for row, mine in zip(rows, taken, strict=True):  # within a group the best come first
            if mine.any() and not mine.all():
                assert row[mine].min() >= row[~mine].max()


@given(networks(), st.floats(0, 1))
def test_groups_of_one_are_synapses(scores, share):
    keep = int(share * eligible(scores))
    ours, plain = Block(1, 1).choose(scores, keep), choose(scores, keep)
    assert all(ours[name].equal(plain[name]) for name in scores)


@given(networks(), UNIT)
def test_every_tensor_keeps_its_best_unit_above_a_floor(scores, unit):
    for name, mask in unit.choose(scores, 0, floor=1).items():
        assert bool(mask.any()) == bool((scores[name] > -math.inf).any())
        if mask.any() and isinstance(unit, NM):
            assert scores[name][mask].max() == scores[name].max()


def test_two_of_four_by_hand():
    scores = {"fc": torch.tensor([[4.0, 3.0, 2.0, 1.0, 5.0, 6.0]])}
    half = NM(2, 4).choose(scores, 3)["fc"]  # the third best of those allowed is 4
    assert half.tolist() == [[True, False, False, False, True, True]]
    assert NM(2, 4).choose(scores, 4)["fc"].tolist() == [[True, True, False, False, True, True]]
    more = NM(2, 4).choose(scores, 5)["fc"]
    assert more.tolist() == [[True, True, True, False, True, True]]


def test_neighbours_in_a_convolution_are_input_channels():
    scores = torch.zeros(1, 4, 1, 2)
    scores[0, :, 0, 0] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    scores[0, :, 0, 1] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    mask = NM(1, 4).choose({"conv": scores}, 2)["conv"]
    assert mask[0, :, 0, 0].tolist() == [False, False, False, True]
    assert mask[0, :, 0, 1].tolist() == [True, False, False, False]


def test_blocks_by_hand():
    scores = torch.tensor([[1.0, 1.0, 5.0], [1.0, 9.0, 5.0], [8.0, 8.0, 0.0]])
    # blocks of 2 x 2, cut off at the edges: means 3, 5, 8 and 0
    masks = [Block(2, 2).choose({"fc": scores}, keep)["fc"] for keep in (2, 4, 8, 9)]
    assert [int(mask.sum()) for mask in masks] == [2, 4, 8, 9]
    assert masks[0].tolist() == [[False] * 3, [False] * 3, [True, True, False]]
    assert masks[1].tolist() == [[False, False, True], [False, False, True], [True, True, False]]


def test_all_that_tie_come_together_if_asked_to():
    scores = {"fc": torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]])}
    assert FanIn().choose(scores, 2, exact=False)["fc"].sum() == 4
    scores["fc"] = torch.cat([scores["fc"], torch.full((1, 2), -math.inf)])
    assert FanIn().choose(scores, 8, exact=False)["fc"].tolist() == [[True, True]] * 3 + [
        [False] * 2
    ]
    scores["fc"] = scores["fc"][:3]
    assert FanIn().choose(scores, 2)["fc"].tolist() == [[True, True], [False] * 2, [False] * 2]


@pytest.mark.parametrize("unit", [Kernel(), NM(1, 2)])
def test_a_score_that_is_no_number_is_refused(unit):
    with pytest.raises(ValueError, match="fc: a score is NaN"):
        unit.choose({"fc": torch.tensor([[1.0, math.nan]])}, 1)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Block(0, 4), "rows=0"),
        (lambda: Block(4, 1.5), "columns=1.5"),
        (lambda: NM(4, 4), "n=4, m=4"),
        (lambda: NM(0, 4), "n=0"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(make, what):
    with pytest.raises(ValueError, match=what):
        make()


def test_every_unit_has_a_name():
    kinds = {type(unit()) for unit in UNITS.values() if unit is not None}
    assert kinds == {Kernel, FanIn, Block, NM}
