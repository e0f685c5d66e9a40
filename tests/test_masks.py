"""Masks: `choose` against a naive reference, packing, applying."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spikewire.masks import apply_masks, choose, pack, unpack

# ties, -inf, and neighbours that float32 cannot tell apart
ENTRIES = st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 1.0, 1.0 + 1e-9, 1.0 + 2e-9, 3.0])
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16])


@st.composite
def rankings(draw):
    """A few tensors of scores with their shapes, in one data type."""
    dtype = draw(DTYPES)
    shapes = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=4))
    return {
        f"layer{place}.weight": torch.tensor(
            draw(st.lists(ENTRIES, min_size=a * b, max_size=a * b)), dtype=dtype
        ).view(a, b)
        for place, (a, b) in enumerate(shapes)
    }


def reference(scores, keep, floor=0, exact=True):
    """The slow way: one sorted list; if a tensor gets too few, its best count as infinite."""
    masks = best(scores, keep, exact)
    if all(int(mask.sum()) >= floor for mask in masks.values()):
        return masks
    lifted, floors = {}, 0
    for name, score in scores.items():
        mask = best({name: score}, floor, True)[name]
        lifted[name] = torch.where(mask, math.inf, score.double())
        floors += int(mask.sum())
    return best(lifted, max(keep, floors), exact)


def best(scores, keep, exact):
    """Entries by falling score and then by place, as many as asked for."""
    entries = [
        (value, name, place)
        for name, score in scores.items()
        for place, value in enumerate(score.flatten().tolist())
        if value > -math.inf
    ]
    chosen = sorted(entries, key=lambda entry: -entry[0])[: max(keep, 0)]
    if not exact and chosen:
        chosen = [entry for entry in entries if entry[0] >= chosen[-1][0]]
    masks = {name: torch.zeros_like(score, dtype=torch.bool) for name, score in scores.items()}
    for _, name, place in chosen:
        masks[name].view(-1)[place] = True
    return masks


def same(masks, others):
    return list(masks) == list(others) and all(masks[n].equal(others[n]) for n in masks)


@settings(max_examples=300)
@given(rankings(), st.integers(-1, 40), st.integers(0, 2), st.booleans())
def test_one_ranking_equals_the_naive_reference(scores, keep, floor, exact):
    chosen = choose(scores, keep, floor=floor, exact=exact)
    assert same(chosen, reference(scores, keep, floor, exact))
    eligible = [int((score > -math.inf).sum()) for score in scores.values()]
    if exact:
        floors = sum(min(floor, number) for number in eligible)
        expected = min(max(keep, floors), sum(eligible))
        assert sum(int(m.sum()) for m in chosen.values()) == expected


@given(rankings(), st.lists(st.integers(0, 20), min_size=4, max_size=4), st.integers(0, 2))
def test_a_ranking_per_tensor_equals_the_naive_reference(scores, numbers, floor):
    keep = dict(zip(scores, numbers, strict=False))
    expected = {
        name: reference({name: score}, max(keep[name], floor))[name]
        for name, score in scores.items()
    }
    assert same(choose(scores, keep, floor=floor), expected)


def test_ties_go_to_the_first_names_and_places():
    scores = {"a": torch.ones(2, 2), "b": torch.ones(3)}
    masks = choose(scores, 5)
    assert masks["a"].all()
    assert masks["b"].tolist() == [True, False, False]
    assert choose(scores, 1, exact=False)["b"].all()


def test_a_floor_moves_the_last_places_and_keeps_the_total():
    scores = {"strong": torch.tensor([9.0, 8.0, 7.0]), "weak": torch.tensor([0.1, 0.2])}
    masks = choose(scores, 3, floor=1)
    assert masks["strong"].tolist() == [True, True, False]
    assert masks["weak"].tolist() == [False, True]


def test_infinite_scores_leave_the_others_their_floor():
    protected = {"a": torch.full((4,), math.inf), "b": torch.tensor([1.0, 2.0])}
    masks = choose(protected, 3, floor=1)
    assert masks["a"].tolist() == [True, True, False, False]
    assert masks["b"].tolist() == [False, True]


def test_minus_infinity_is_never_chosen():
    barred = {"a": torch.tensor([-math.inf, 1.0]), "b": torch.full((2,), -math.inf)}
    assert sum(int(m.sum()) for m in choose(barred, 4).values()) == 1
    assert sum(int(m.sum()) for m in choose(barred, 4, floor=2, exact=False).values()) == 1
    assert sum(int(m.sum()) for m in choose(barred, {"a": 2, "b": 2}).values()) == 1


@pytest.mark.parametrize("keep", [1, {"a": 1, "b": 1}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_nan_is_refused(keep, dtype):
    scores = {
        "a": torch.tensor([2.0, math.nan, 3.0], dtype=dtype),
        "b": torch.tensor([1.0, 9.0], dtype=dtype),
    }
    with pytest.raises(ValueError, match="NaN"):
        choose(scores, keep)


def test_a_count_is_needed_for_each_tensor():
    with pytest.raises(ValueError, match="'b'"):
        choose({"a": torch.ones(2), "b": torch.ones(2)}, {"a": 1})


def test_float64_scores_are_ranked_in_float64():
    scores = {"a": 1.0 + torch.arange(100, dtype=torch.float64) * 1e-12}
    assert choose(scores, 30)["a"].nonzero().flatten().tolist() == list(range(70, 100))


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 4))
def test_masks_pack_and_unpack(bits, width):
    bits = bits * width
    mask = torch.tensor(bits).view(width, -1)
    packed = pack(mask)
    assert packed.dtype == torch.uint8
    assert len(packed) == math.ceil(len(bits) / 8)
    assert unpack(packed, mask.shape).equal(mask)


def test_bytes_of_another_network_are_refused():
    with pytest.raises(ValueError, match="needs 2 bytes"):
        unpack(torch.zeros(1, dtype=torch.uint8), (3, 3))
    with pytest.raises(ValueError, match="float32"):
        unpack(torch.zeros(2), (3, 3))


def test_masks_are_applied_in_place():
    net = nn.Linear(3, 2)
    storage, bias = net.weight.data_ptr(), net.bias.clone()
    mask = torch.tensor([[True, False, True], [False, True, False]])
    expected = net.weight.detach() * mask
    apply_masks(net, {"weight": mask})
    assert net.weight.data_ptr() == storage
    assert net.weight.equal(expected)
    assert net.bias.equal(bias)


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        ({"weight": torch.ones(2, 2, dtype=torch.bool)}, r"\(2, 2\).*\(2, 3\)"),
        (
            {"other": torch.ones(2, 3, dtype=torch.bool)},
            "names other, none of the network's weight",
        ),
        (
            {
                "weight": torch.zeros(2, 3, dtype=torch.bool),
                "bias": torch.zeros(3, dtype=torch.bool),
            },
            "bias",
        ),
    ],
)
def test_masks_of_another_network_are_refused_before_anything_is_changed(masks, words):
    net = nn.Linear(3, 2)
    before = net.weight.clone()
    with pytest.raises(ValueError, match=words):
        apply_masks(net, masks)
    assert net.weight.equal(before)
