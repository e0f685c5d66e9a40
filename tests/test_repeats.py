"""Runs of one recipe: found, and told over their seeds."""

from spikewire import facts, plots, repeats
from spikewire.words import MINUS, NONE


def test_table_averages_over_seeds(tmp_path, fake_run):
    runs = [fake_run(tmp_path / f"{seed}", epochs=2, seed=seed, twin=True) for seed in range(3)]
    runs.append(fake_run(tmp_path / "other", epochs=2, target=0.5))
    rows = repeats.table(runs)
    assert [(row["method"], row["runs"]) for row in rows] == [
        ("dense", "3"), ("gradr", "3"), ("gradr", "1"),
    ]  # fmt: skip
    accuracies = [facts.read(run).report["accuracy"]["last"] for run in runs[:3]]
    mean, spread = plots.mean_and_spread(accuracies)
    assert rows[1]["accuracy"] == f"{mean:.2f} ± {spread:.2f} %"
    assert rows[0]["against dense"] == NONE
    assert rows[1]["against dense"].startswith(MINUS)


def test_collected_runs_can_be_plotted(tmp_path, fake_run):
    runs = [
        fake_run(tmp_path / f"{seed}-{target}", epochs=2, seed=seed, target=target, twin=True)
        for seed in range(2)
        for target in (0.5, 0.9)
    ]
    plot = plots.tradeoff(repeats.collect(runs), x="connectivity", y="accuracy")
    assert [(row[0], row[3]) for row in plot.rows] == [("gradr", 2), ("dense", 2), ("gradr", 2)]
