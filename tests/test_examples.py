"""The examples run, and the three lines are all that pruning takes."""

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(source: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def zeros(output: str) -> tuple[int, int]:
    found = re.search(r"zeros: (\d+) of (\d+)", output)
    assert found
    return int(found[1]), int(found[2])


def test_channels_are_taken_out_and_the_network_shrinks():
    source = (EXAMPLES / "channels.py").read_text().replace("width=32), 10", "width=8), 2")
    found = re.findall(
        r"(?:accuracy|parameters|multiplications): (\S+).*? (?:and|to) (\S+)", run(source)
    )
    accuracy, parameters, multiplications = [tuple(map(float, pair)) for pair in found]
    assert accuracy[0] == accuracy[1]
    assert parameters[1] < 0.8 * parameters[0]
    assert multiplications[1] < 0.8 * multiplications[0]


def test_three_lines_prune_a_plain_script_and_leave_it_when_removed():
    # fewer epochs than the example shows: it is the wiring that counts here, not the accuracy
    lines = (EXAMPLES / "spikingjelly_loop.py").read_text().replace("8, 50", "2, 50").splitlines()
    plain = [line for line in lines if not line.endswith("# spikewire")]
    assert len(lines) - len(plain) == 3
    assert not any("pruner" in line.lower() or "import spikewire" in line for line in plain)
    assert zeros(run("\n".join(plain)))[0] == 0
    pruned, total = zeros(run("\n".join(lines)))
    assert total == 256 * 64 + 256 * 10
    # newborn synapses of pixels that are always black stand at 0 as well
    assert total - round(0.2 * total) <= pruned < 0.85 * total
