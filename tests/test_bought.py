"""What pruning bought, row by row."""

from spikewire.bought import bought
from spikewire.words import MINUS, NONE


def test_bought_by_hand():
    pruned = {
        "accuracy": {"last": 97.0, "validation_best": 97.2, "validation_best_epoch": 9},
        "sparsity": 0.75,
        "layers": [
            {"name": "a", "synapses": 300, "alive": 50},
            {"name": "b", "synapses": 100, "alive": 50},
        ],
        "bytes": {"dense": 1600, "sparse": 800},
        "synops": 100.0,
        "dense_synops": 390.0,
        "macs": 0.0,
        "energy_nj": 1500.0,
        "energy_assumptions": "0.9 pJ each",
        "firing": [
            {"name": "1", "neurons": 30, "rate": 0.1, "silent": 4, "histogram": {}},
            {"name": "2", "neurons": 10, "rate": 0.3, "silent": 1, "histogram": {}},
        ],
    }  # fmt: skip
    dense = {
        **pruned,
        "accuracy": {"last": 98.25, "validation_best": None},
        "sparsity": 0.0,
        "layers": [
            {"name": "a", "synapses": 300, "alive": 300},
            {"name": "b", "synapses": 100, "alive": 100},
        ],
        "synops": 400.0,
        "energy_nj": 1000.0,
    }  # fmt: skip
    rows = {row.name: row for row in bought(pruned, dense)}
    assert rows["Test accuracy, last epoch"][1:4] == ("98.25 %", "97.00 %", f"{MINUS}1.25 points")
    assert rows["Test accuracy, best validation epoch"][1:] == (NONE, "97.20 %", NONE, "epoch 9")
    assert rows["Synapses alive"][1:4] == ("400", "100", "÷ 4")
    assert rows["File"][1:4] == ("1.6 kB", "800 B", "÷ 2")
    assert rows["SynOps per image"][1:4] == ("400", "100", "÷ 4")
    assert rows["MACs per image"][1:4] == ("0", "0", "same")
    assert rows["Energy per image, estimate"][1:] == ("1 µJ", "1.5 µJ", "+50.0 %", "0.9 pJ each")
    assert rows["Firing rate"][1:4] == ("15.00 %", "15.00 %", "same")
    assert rows["Silent neurons"][1:] == ("5", "5", "same", "of 40 neurons")
    alone = {row.name: row for row in bought(pruned)}
    assert alone["Synapses alive"][1:4] == ("400", "100", "÷ 4")
    assert alone["SynOps per image"][1:4] == (NONE, "100", NONE)
    assert "390 if every input met every synapse" in alone["SynOps per image"].note
    assert alone["Test accuracy, last epoch"][1:4] == (NONE, "97.00 %", NONE)


def test_multiplications_say_what_they_count():
    layers = [{"name": "a", "synapses": 400, "alive": 100}]
    small = {"parameters": 100, "multiplications": 1000.0, "bytes": 400}
    report = {
        "accuracy": {"last": 97.0}, "sparsity": 0.75, "layers": layers, "dense_synops": 2000.0
    }  # fmt: skip

    def row(compact):
        rows = {row.name: row for row in bought(report | {"compact": compact})}
        return rows["Multiplications per image, compact network"]

    assert row(small)[1:4] == ("2,000", "1,000", "÷ 2")
    assert row(small).note.endswith("taps on the padding not")
    known = row(small | {"saving": 0.4723}).note
    assert known.endswith("with them, as the literature counts FLOPs, 47.23 % saved")
