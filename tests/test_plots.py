"""Figures: their numbers by hand, their bytes the same twice, and odd records."""

import csv
import io
import math
import statistics
import xml.etree.ElementTree as ElementTree

import matplotlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from spikewire import plots

NAMES = st.text(st.characters(codec="utf-8"), max_size=60)


def epoch(number: int, alive: dict[str, int], synapses: int = 100, **more) -> dict:
    """Return the record of one epoch."""
    layers = [
        {"name": name, "synapses": synapses, "alive": left, "pruned": 7, "regrown": 2}
        for name, left in alive.items()
    ]
    zeros = 1 - sum(alive.values()) / (synapses * len(alive))
    return {
        "epoch": number,
        "accuracy": {"train": 90.0, "validation": None, "test": 88.0},
        "sparsity": zeros,
        "layers": layers,
        "histograms": {},
        **more,
    }


def result(method: str, sparsity: float, last: float, **more) -> dict:
    """Return the report of one run."""
    return {
        "method": method,
        "network": "fc",
        "data": "digits",
        "sparsity": sparsity,
        "accuracy": {"last": last},
        **more,
    }


def neurons(name: str, counts: list[int]) -> dict:
    """Return the firing of one layer of neurons."""
    return {
        "name": name,
        "neurons": sum(counts),
        "rate": 0.1,
        "silent": 0,
        "histogram": {"low": 0.0, "high": 1.0, "counts": counts},
    }


def well_formed(plot: plots.Plot | None) -> plots.Plot:
    """Return the plot after drawing it and checking that the drawing is XML."""
    assert plot is not None
    ElementTree.fromstring(plot.svg())
    return plot


def test_accuracy_leaves_out_a_split_that_is_null():
    plot = well_formed(plots.accuracy([epoch(1, {"a": 50}), epoch(2, {"a": 25})]))
    assert plot.columns == ("epoch", "train", "validation", "test", "sparsity", "dense_test")
    assert plot.rows == ((1, 90.0, None, 88.0, 0.5, None), (2, 90.0, None, 88.0, 0.75, None))
    labels = [line.get_label() for axes in plot.figure.axes for line in axes.get_lines()]
    assert labels == ["train", "test", "sparsity"]


def test_accuracy_beside_a_shorter_dense_twin():
    dense = [epoch(1, {"a": 100}, accuracy={"test": 95.0})]
    plot = plots.accuracy([epoch(1, {"a": 50}), epoch(2, {"a": 25})], dense)
    assert plot is not None
    assert [row[-1] for row in plot.rows] == [95.0, None]
    assert "dense twin" in plot.caption


def test_sparsity_of_few_layers_is_lines_and_of_many_a_map():
    few = plots.sparsity([epoch(1, {"a": 50, "b": 25})])
    assert few is not None
    assert few.rows == ((1, "a", 100, 50, 0.5), (1, "b", 100, 25, 0.75))
    assert len(few.figure.axes[0].get_lines()) == 2
    names = {f"layer{n}": 50 for n in range(53)}
    many = well_formed(plots.sparsity([epoch(n, names) for n in range(1, 4)]))
    assert not many.figure.axes[0].get_lines()
    assert "40 of 53 layers are drawn" in many.caption
    assert len(many.rows) == 3 * 53


def test_rewiring_counts_all_layers_and_each():
    plot = well_formed(plots.rewiring([epoch(1, {"a": 50, "b": 25})]))
    assert plot.rows == (
        (1, "all", None, 14, 4), (1, "layer", "a", 7, 2), (1, "layer", "b", 7, 2),
    )  # fmt: skip


def test_dense_run_has_no_pruning_figures():
    record = epoch(1, {"a": 100})
    record["layers"][0] |= {"pruned": 0, "regrown": 0}
    report = {"method": "dense", "layers": record["layers"]}
    assert [plot.name for plot in plots.figures([record], report)] == ["accuracy"]


def test_no_records_no_figures():
    assert plots.figures([], {"method": "gmp"}) == []


def test_histograms_of_chosen_epochs():
    bins = {"low": 0.0, "high": 2.0, "counts": [1, 3]}
    records = [
        epoch(n, {"a": 50}, histograms={"a": {"weight": bins, "theta": bins}})
        for n in range(1, 102)
    ]
    plot = well_formed(plots.weights(records))
    assert sorted({row[0] for row in plot.rows}) == [1, 21, 41, 61, 81, 101]
    assert plot.rows[:2] == ((1, "a", 0.0, 1.0, 1), (1, "a", 1.0, 2.0, 3))
    thetas = plots.thetas(records)
    assert thetas is not None
    assert thetas.name == "theta-histograms"


@pytest.mark.parametrize(
    "bins",
    [
        {"low": 0.0, "high": 1.0, "counts": [0, 0]},
        {"low": 0.0, "high": 1.0, "counts": []},
        {"low": math.nan, "high": 1.0, "counts": [1]},
        {"low": 0.0, "high": math.inf, "counts": [1]},
        {"low": 1.0, "high": 0.0, "counts": [1]},
    ],
)
def test_histogram_with_nothing_to_draw_is_left_out(bins):
    assert plots.weights([epoch(1, {"a": 1}, histograms={"a": {"weight": bins}})]) is None


def test_histogram_of_equal_values_is_one_column():
    bins = {"low": 0.5, "high": 0.5, "counts": [9]}
    plot = well_formed(plots.weights([epoch(1, {"a": 1}, histograms={"a": {"weight": bins}})]))
    (_, _, low, high, count), *_ = plot.rows
    assert low < 0.5 < high
    assert count == 9


def test_layer_pruned_away_keeps_its_panel():
    bins = {"low": 0.0, "high": 1.0, "counts": [4]}
    empty = {"low": 0.0, "high": 0.0, "counts": [0]}
    records = [
        epoch(1, {"a": 4}, histograms={"a": {"weight": bins}, "b": {"weight": bins}}),
        epoch(2, {"a": 0}, histograms={"a": {"weight": empty}, "b": {"weight": bins}}),
    ]
    assert len(well_formed(plots.weights(records)).rows) == 3


def test_firing_beside_the_dense_twin():
    report = result("gmp", 0.9, 97.0, firing=[neurons("1", [3, 1]), neurons("2", [2, 0])])
    dense = result("dense", 0.0, 98.0, firing=[neurons("1", [1, 3])])
    plot = well_formed(plots.firing(report, dense))
    assert plot.rows[-2:] == (("dense twin", "1", 0.0, 0.5, 1), ("dense twin", "1", 0.5, 1.0, 3))
    assert len(plot.rows) == 6


def test_many_layers_are_capped_and_told_so():
    layers = [neurons(str(place), [1, 2]) for place in range(20)]
    plot = plots.firing(result("gmp", 0.9, 97.0, firing=layers))
    assert plot is not None
    assert len(plot.figure.axes) == 6
    assert "6 of 20 layers are drawn" in plot.caption
    assert {row[1] for row in plot.rows} == {str(place) for place in range(20)}


def test_connectivity_of_an_empty_layer():
    layers = [
        {"name": "a", "synapses": 4, "alive": 1},
        {"name": "b", "synapses": 0, "alive": 0},
    ]
    plot = well_formed(plots.connectivity({"layers": layers}))
    assert plot.rows == (("a", 4, 1, 0.25), ("b", 0, 0, 1.0))


def test_tradeoff_averages_over_seeds():
    runs = [
        *(result("gmp", 0.9, last, recipe="slow", seed=seed) for seed, last in enumerate((96, 98))),
        result("gmp", 0.95, 95.0, recipe="fast"),
        result("rigl", 0.9, 97.0, recipe="other"),
        *(result("dense", 0.0, last, recipe=str(last)) for last in (98.0, 99.0)),
    ]
    plot = well_formed(plots.tradeoff(runs, x="sparsity"))
    spread = statistics.stdev([96, 98])
    assert plot.rows == (
        ("gmp", "fc", "digits", 2, 90.0, 0.0, 97.0, spread),
        ("gmp", "fc", "digits", 1, 95.0, 0.0, 95.0, 0.0),
        ("rigl", "fc", "digits", 1, 90.0, 0.0, 97.0, 0.0),
        ("dense", "fc", "digits", 2, 0.0, 0.0, 98.5, statistics.stdev([98.0, 99.0])),
    )
    assert plot.figure.axes[0].get_xscale() == "linear"
    labels = plot.figure.axes[0].get_legend_handles_labels()[1]
    assert sorted(labels) == ["dense", "gmp", "rigl"]


def test_tradeoff_over_connectivity_is_logarithmic():
    runs = [result("gmp", sparsity, 97.0) for sparsity in (0.9, 0.99, 1.0)]
    plot = well_formed(plots.tradeoff(runs))
    assert plot.figure.axes[0].get_xscale() == "log"
    assert plot.name == "accuracy-against-connectivity"


def test_tradeoff_over_two_data_sets_names_them():
    runs = [result("gmp", 0.9, 97.0), result("gmp", 0.9, 80.0) | {"data": "cifar10"}]
    labels = plots.tradeoff(runs).figure.axes[0].get_legend_handles_labels()[1]
    assert labels == ["gmp, fc, digits", "gmp, fc, cifar10"]


@pytest.mark.parametrize(
    ("runs", "x", "words"),
    [
        ([], "sparsity", "at least one is needed"),
        ([result("gmp", 0.9, 97.0)], "beauty", "choose one of accuracy, "),
        ([result("gmp", 0.9, 97.0)], "synops", "holds no 'synops'"),
        ([result("gmp", 0.9, 97.0, synops=None)], "synops", "holds no 'synops'"),
    ],
)
def test_tradeoff_refuses_in_a_sentence(runs, x, words):
    with pytest.raises(ValueError, match=words):
        plots.tradeoff(runs, x=x)


def test_same_records_give_the_same_bytes(monkeypatch):
    bins = {"low": -1.0, "high": 1.0, "counts": [1, 5, 2]}
    records = [epoch(1, {"a": 50}, histograms={"a": {"weight": bins}})]
    first = [plot.svg() for plot in plots.figures(records, {"method": "gmp"})]
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 30)
    monkeypatch.setitem(matplotlib.rcParams, "svg.hashsalt", "another")
    assert [plot.svg() for plot in plots.figures(records, {"method": "gmp"})] == first
    assert b"<dc:date>" not in first[0]


def test_save_writes_both_files(tmp_path):
    plot = plots.connectivity({"layers": [{"name": "a", "synapses": 4, "alive": 1}]})
    assert plot is not None
    svg, numbers = plot.save(tmp_path / "new")
    assert (svg.name, numbers.name) == ("connectivity-by-layer.svg", "connectivity-by-layer.csv")
    assert numbers.read_text() == "layer,synapses,alive,connectivity\na,4,1,0.25\n"
    assert plot.save(tmp_path, "mine")[0] == tmp_path / "mine.svg"
    assert len(list(tmp_path.rglob("*.*"))) == 4


@given(name=NAMES, number=st.integers() | st.floats(allow_nan=False))
def test_csv_disarms_text_and_keeps_numbers(name, number):
    figure = Figure()
    plot = plots.Plot("p", "t", "c", figure, ("layer", "value"), ((name, number),))
    _, (text, value) = csv.reader(io.StringIO(plot.csv(), newline=""))
    assert text in (name, f"'{name}")
    assert not text.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert type(number)(value) == number


@settings(max_examples=8, deadline=None)
@given(name=NAMES)
@pytest.mark.filterwarnings("error")
def test_any_layer_name_can_be_drawn(name):
    well_formed(plots.connectivity({"layers": [{"name": name, "synapses": 4, "alive": 1}]}))


@pytest.mark.parametrize("name", ["$x$", "$\\bad{$", "_a", "", "\n", "a" * 500, "层", "\x00<&>--"])
def test_names_are_drawn_as_written(name):
    plot = well_formed(plots.sparsity([epoch(1, {name: 50})]))
    assert "math" not in plot.svg().decode()
    (label,) = plot.figure.legends[0].get_texts()
    assert 0 < len(label.get_text()) <= 26


def test_one_epoch_is_drawn_with_a_marker():
    plot = plots.accuracy([epoch(1, {"a": 50})])
    assert plot is not None
    assert all(line.get_marker() == "o" for line in plot.figure.axes[0].get_lines())


# --- features and neurons -------------------------------------------------------------------------


def told(variances: list[float], likeness: list[float]) -> dict:
    """What a report says of its classes."""
    names = [f"class {n}" for n in range(len(variances))]
    return {"classes": names, "variance": {"test": variances}, "likeness": likeness}


def test_entropy_leaves_empty_bins_out_and_draws_only_full_ones():
    layer = {"low": -2.0, "high": 2.0, "neurons": [0, 4, 40, 9], "entropy": [0.0, 0.3, 0.9, 0.6]}
    plot = well_formed(plots.entropy({"entropies": {"lif1": layer}}))
    assert plot.rows == (
        ("lif1", -1.0, 0.0, 4, 0.3),
        ("lif1", 0.0, 1.0, 40, 0.9),
        ("lif1", 1.0, 2.0, 9, 0.6),
    )
    line = plot.figure.axes[0].get_lines()[0]
    assert [list(line.get_xdata()), list(line.get_ydata())] == [[0.5, 1.5], [0.9, 0.6]]
    assert plots.entropy({}) is None


def test_classes_are_counted_in_the_caption():
    before, after = told([0.5, 0.6, 0.7], [0.8, 0.9, 0.7]), told([0.4, 0.7, 0.6], [0.9, 0.95, 0.6])
    reports = {"baseline": {"features": before}, "criticality": {"features": after}}
    plot = well_formed(plots.classes(reports))
    assert plot.rows[1] == ("class 1", 0.6, 0.7, 0.9, 0.95)
    assert (
        "Of 3 classes, criticality has the smaller variance of test features in 2" in plot.caption
    )
    assert "training and test images in 2" in plot.caption
    assert plots.classes({"baseline": {"features": before}, "other": {}}) is None


def test_a_class_for_which_nothing_fires_is_not_the_tighter_one():
    before, after = told([0.5, 0.6, 0.7], [0.8, 0.9, 0.7]), told([0.0, 0.7, 0.6], [0.0, 0.95, 0.6])
    plot = plots.classes({"baseline": {"features": before}, "pruned": {"features": after}})
    assert plot is not None
    assert "Of 2 classes, pruned has the smaller variance of test features in 1" in plot.caption
    assert "Not counted are 1 in which nothing varies" in plot.caption


def test_consistency_takes_means_over_classes():
    runs = {
        name: (
            [epoch(1, {"a": 50})],
            {"features": told(variances, [0.5, 0.7]), "accuracy": {"last": 88.0}},
        )
        for name, variances in (("a", [0.2, 0.4]), ("b", [0.6, 0.6]))
    }
    plot = well_formed(plots.consistency(runs))
    assert plot.rows[0] == ("a", pytest.approx(0.3), pytest.approx(0.6), 90.0, 88.0)
    assert plot.rows[1][1] == pytest.approx(0.6)
    assert "over the training batches of the last epoch" in plot.caption
    assert plots.consistency({"a": ([], {})}) is None


def test_learning_on_both_parts():
    records = [epoch(n, {"a": 50}, losses={"train": 1 / n, "test": 2 / n}) for n in (1, 2)]
    plot = well_formed(plots.learning({"a": records, "b": [epoch(1, {"a": 50})]}))
    assert plot.rows == (("a", 1, 1.0, 2.0, 90.0, 88.0), ("a", 2, 0.5, 1.0, 90.0, 88.0))
    loss, accuracy = plot.figure.axes
    assert [list(line.get_ydata()) for line in loss.get_lines()] == [[2.0, 1.0], [1.0, 0.5]]
    assert [list(line.get_ydata()) for line in accuracy.get_lines()] == [[88.0] * 2, [90.0] * 2]
    assert plots.learning({"b": [epoch(1, {"a": 50})]}) is None


def test_what_is_left_of_each_layer_is_that_of_the_last_epoch():
    records = [epoch(n, {"a": 50 // n, "b": 0}) for n in (1, 2)]
    plot = well_formed(plots.connectivities({"one": records, "other": records[:1]}))
    assert plot.rows == (
        ("one", "a", 25, 25.0), ("one", "b", 0, 0.0),
        ("other", "a", 50, 50.0), ("other", "b", 0, 0.0),
    )  # fmt: skip
    assert plots.connectivities({}) is None
    eight = plots.connectivities({f"run {n}": records for n in range(8)})
    assert eight is not None and len(eight.figure.axes[0].get_lines()) == 8


def test_transition_follows_the_channels_that_one_network_has_alone():
    def gains(number, *values):
        return epoch(number, {"a": 50}, gains={"bn1": list(values)})

    first = [gains(1, 4.0, 3.0, 2.0, 1.0), gains(2, 4.0, 3.0, 2.0, 0.0), epoch(3, {"a": 50})]
    second = [gains(1, 4.0, 3.0, 2.0, 1.0), gains(2, 4.0, 0.0, 2.0, 1.2)]
    plot = well_formed(plots.transition({"slim": first, "revived": second}))
    assert plot.rows == (
        ("slim", 1, 1, pytest.approx(3 / 3)),
        ("slim", 2, 1, pytest.approx(3 / 3)),
        ("revived", 1, 1, pytest.approx(1 / (7 / 3))),
        ("revived", 2, 1, pytest.approx(1.2 / 2.4)),
    )
    assert plots.transition({"slim": first, "same": first}) is None
    assert plots.transition({"slim": first}) is None


def test_transition_counts_a_gain_in_units_of_its_layer():
    def gains(number, first, second):
        return epoch(number, {"a": 50}, gains={"bn1": first, "bn2": second})

    ours = [gains(1, [1.0, 2.0, 3.0], [30.0, 50.0]), gains(2, [1.0, 0.0, 3.0], [-30.0, 50.0])]
    theirs = [gains(1, [1.0, 2.0, 3.0], [30.0, 50.0]), gains(2, [0.0, 2.0, 3.0], [0.0, 50.0])]
    plot = well_formed(plots.transition({"ours": ours, "theirs": theirs}))
    expected = (1.0 / 2.0 + 30.0 / 40.0) / 2  # each layer's mean is of the channels that stay
    assert [row for row in plot.rows if row[0] == "ours"] == [
        ("ours", 1, 2, expected), ("ours", 2, 2, expected)
    ]  # fmt: skip
    assert [row[3] for row in plot.rows if row[0] == "theirs"] == [2.0 / 2.5, 2.0 / 2.5]


def test_ratios_are_lines_and_what_has_none_is_level():
    rows = [
        {"method": method, "ratio": ratio, "accuracy": accuracy, "accuracy_std": 0.1}
        for method, ratio, accuracy in (
            ("criticality", 0.2, 70.0),
            ("criticality", 0.1, 69.0),
            ("without", None, 68.0),
            ("missing", 0.1, None),
        )
    ]
    plot = well_formed(plots.ratios(rows))
    assert [row[0] for row in plot.rows] == ["criticality", "criticality", "without"]
    _, labels = plot.figure.axes[0].get_legend_handles_labels()
    assert sorted(labels) == ["criticality", "without"]
