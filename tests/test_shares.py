"""Shares: the whole meets its target, no tensor is asked for more than it has."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import Size

from spikewire.measure import Uses
from spikewire.shares import SHARES, by_size, compute, counts, erk, uniform


def used(shapes, sparsity):
    """`compute`, with uses made up from the shapes."""
    uses = {name: Uses(1.0 + 7 * sum(shape) % 50, 0.0) for name, shape in shapes.items()}
    return compute(shapes, sparsity, uses)


SPREAD = [used if share is compute else share for share in SHARES.values() if share is not None]
SHAPES = st.lists(
    st.lists(st.integers(1, 12), min_size=2, max_size=4).map(Size), min_size=1, max_size=5
).map(lambda shapes: {f"{place}.weight": shape for place, shape in enumerate(shapes)})


def test_erk_by_hand():
    # densities go like 3/2 and 101/100; at 70 % sparsity 30.6 of 102 stay: eps = 30.6 / 104
    shares = erk({"a": Size([1, 2]), "b": Size([1, 100])}, 0.7)
    assert shares["a"] == pytest.approx(1 - 1.5 * 30.6 / 104)
    assert shares["b"] == pytest.approx(1 - 1.01 * 30.6 / 104)


def test_erk_makes_small_tensors_dense_and_solves_again():
    # alone: eps 50.5 * 2 / (4 + 20) > 1 for "a" (2x2, ratio 1), so "b" (10x10) bears everything
    shares = erk({"a": Size([2, 2]), "b": Size([10, 10])}, 0.5)
    assert shares == pytest.approx({"a": 0.0, "b": 1 - 48 / 100})


def test_by_size_by_hand():
    # densities go like 1/2 and 1/4: eps (4/2 + 16/4) = 5 stay, eps = 5/6
    shares = by_size({"a": Size([2, 2]), "b": Size([4, 4])}, 0.75)
    assert shares == pytest.approx({"a": 1 - 5 / 12, "b": 1 - 5 / 24})


def test_compute_by_hand():
    # connectivities go like 1 and 1/4: eps (40 + 40/4) = 25 stay, eps = 1/2
    shapes = {"fc": Size([4, 10]), "conv": Size([4, 10])}
    shares = compute(shapes, 1 - 25 / 80, {"fc": Uses(1.0, 0.1), "conv": Uses(16.0, 9.0)})
    assert shares == pytest.approx({"fc": 0.5, "conv": 1 - 1 / 8})


def test_compute_refuses_what_it_cannot_count():
    with pytest.raises(ValueError, match="cell.weight_hh belongs to no linear"):
        compute({"cell.weight_hh": Size([2, 2])}, 0.5, {})


@given(st.sampled_from(SPREAD), SHAPES, st.floats(0, 0.999))
def test_the_whole_meets_the_target(share, shapes, sparsity):
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    shares = share(shapes, sparsity)
    assert list(shares) == list(shapes)
    assert all(-1e-9 <= value <= 1 + 1e-9 for value in shares.values())
    kept = sum((1 - shares[name]) * size for name, size in sizes.items())
    assert kept == pytest.approx((1 - sparsity) * sum(sizes.values()))


@given(st.sampled_from(SPREAD), SHAPES, st.floats(0, 0.999))
def test_counts_are_whole_and_meet_the_target(share, shapes, sparsity):
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    keep = counts(shapes, sparsity, share)
    total = sum(keep.values())
    assert 1 - total / sum(sizes.values()) >= sparsity - 1e-6  # never less sparse than asked for
    assert total + 1 > (1 - sparsity) * sum(sizes.values())
    exact = {name: (1 - s) * sizes[name] for name, s in share(shapes, sparsity).items()}
    for name, count in keep.items():
        assert 0 <= count <= sizes[name]
        assert abs(count - exact[name]) < 1 + 1e-6


def test_counts_without_a_share_are_one_number():
    assert counts({"a": Size([3, 3]), "b": Size([1, 1])}, 0.7, None) == 3


def test_the_largest_remainders_are_rounded_up():
    # 0.25 of 5, 7 and 4: 1.25, 1.75, 1.0 and 4 together
    shapes = {"a": Size([5]), "b": Size([7]), "c": Size([4])}
    assert counts(shapes, 0.75, uniform) == {"a": 1, "b": 2, "c": 1}
