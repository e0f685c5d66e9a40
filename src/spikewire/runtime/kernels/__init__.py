"""Kernels in C++, for the fastest kind of instructions that the processor has.

``SPIKEWIRE_PATH=avx2`` (or ``avx512``, ``portable``) asks for a kind.
"""

from __future__ import annotations

import functools
import importlib
import os
from typing import Any


@functools.cache
def kernels() -> Any:
    """The extension module, loaded when it is first asked for.

    Raises:
        ImportError: if spikewire was installed without a compiler.
        ValueError: if the environment asks for a kind that there is not.
    """
    try:
        _kernels: Any = importlib.import_module(f"{__name__}._kernels")
    except ImportError as error:
        raise ImportError(
            "spikewire was installed without its engine: install a C++17 compiler (g++ or clang) "
            "and install spikewire again; everything else works without it"
        ) from error
    if path := os.environ.get("SPIKEWIRE_PATH"):
        if path not in _kernels.paths():
            raise ValueError(
                f"SPIKEWIRE_PATH is {path!r}: this processor has {', '.join(_kernels.paths())}"
            )
        _kernels.use(path)
    return _kernels
