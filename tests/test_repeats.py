"""Runs of one recipe: found, and told over their seeds."""

from spikewire import facts, plots, repeats, words
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


def test_dense_runs_of_other_recipes_are_not_averaged(tmp_path, fake_run):
    for epochs in (2, 6):
        fake_run(tmp_path / f"{epochs}", epochs=epochs, twin=True)
    fake_run(tmp_path / "alone", epochs=3)
    rows = repeats.table([tmp_path / name for name in ("2", "6", "alone")])
    dense = {
        epochs: facts.read(tmp_path / f"{epochs}" / "dense").report["accuracy"]["last"]
        for epochs in (2, 6)
    }
    assert [(row["method"], row["runs"]) for row in rows] == [("dense", "1")] * 2 + [
        ("gradr", "1")
    ] * 3
    assert [row["accuracy"] for row in rows[:2]] == [f"{dense[n]:.2f} %" for n in (2, 6)]
    for row, epochs in zip(rows[2:], (2, 6), strict=False):
        ours = facts.read(tmp_path / f"{epochs}").report["accuracy"]["last"]
        assert row["against dense"] == words.signed(ours - dense[epochs])
    assert rows[4]["against dense"] == NONE


def test_a_run_and_its_twin_begin_with_the_same_weights(tmp_path, fake_run):
    """Which the twin names by a path of its own; masks and what is pruned are none of it."""
    (tmp_path / "first.safetensors").touch()
    told = {tmp_path / "run": "../first.safetensors", tmp_path / "run" / "dense": None}
    fake_run(tmp_path / "run", epochs=2, twin=True)
    for folder, name in told.items():
        file = folder / "run.toml"
        more = [f'weights = "{name or tmp_path / "first.safetensors"}"']
        more += ['possible = "masks.safetensors"'] if name else ['possible = ""']
        file.write_text("\n".join([*more, file.read_text()]))
    *_, row = repeats.table([tmp_path / "run"])
    assert row["method"] == "gradr" and row["against dense"] != NONE


def test_a_search_may_give_each_method_its_own_optimizer(tmp_path, fake_run):
    run = fake_run(tmp_path / "run", epochs=2, twin=True)
    searched = (run / "run.toml").read_text().replace("lr = 0.001", "lr = 0.004")
    (run / "run.toml").write_text(searched)
    *_, row = repeats.table([run])
    assert row["against dense"] != NONE
    other = fake_run(tmp_path / "other", epochs=2, target=0.0, method="dense")
    slower = (other / "run.toml").read_text().replace("lr = 0.001", "lr = 0.002")
    (other / "run.toml").write_text(slower)
    *_, row = repeats.table([run, other])
    assert row["against dense"] == NONE  # two dense twins, and nothing that tells which


def test_a_run_is_compared_with_the_dense_run_of_its_seed(tmp_path, fake_run):
    runs = [fake_run(tmp_path / f"{n}", epochs=2, seed=n, twin=n == 2) for n in range(3)]
    paired = [facts.read(each).report["accuracy"]["last"] for each in (runs[2], runs[2] / "dense")]
    *_, row = repeats.table(runs)
    assert row["runs"] == "3" and row["against dense"] == words.signed(paired[0] - paired[1])
