"""The engine's tests under AddressSanitizer and UndefinedBehaviorSanitizer.

Installs the package once more, with both, into build/sanitized, and runs test_engine.py with that.
Whole networks are left out, which take minutes so. Other arguments go to pytest.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]
SITE = ROOT / "build" / "sanitized"
FLAGS = (
    "-O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=undefined "
    "'-DSPIKEWIRE_REGISTERS(count)=2'"
)


def install() -> None:
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    where = ["--no-deps", "--upgrade", "--target", str(SITE), str(ROOT)]
    how = {
        "cmake.define.CMAKE_CXX_FLAGS": FLAGS,
        "cmake.build-type": "None",
        "build-dir": str(ROOT / "build" / "sanitizing"),
        "install.strip": "false",
    }
    settings = [f"--config-settings={name}={value}" for name, value in how.items()]
    subprocess.run([*words, *settings, *where], check=True)


def library(name: str) -> str:
    found = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True)
    return found.stdout.strip()


def test(words: list[str]) -> int:
    # without `site` no editable installation comes before the one that was just made
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(SITE), sysconfig.get_path("purelib")]),
        "LD_PRELOAD": f"{library('libasan.so')} {library('libstdc++.so')}",
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own are not ours
        "OMP_NUM_THREADS": "1",
    }
    tests = str(ROOT / "tests" / "runtime" / "test_engine.py")
    chosen = ["-k", "not papers and not pytorch and not environment"]
    pytest = [
        sys.executable,
        "-S",
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        tests,
        *chosen,
        *words,
    ]
    return subprocess.run(pytest, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    install()
    sys.exit(test(sys.argv[1:]))
