"""Import decord without the CUDA libraries that it would load for the whole process.

Where CUDA packages are installed, decord2 opens all their libraries with global symbols at its import. One of them,
NVBLAS, then replaces torch's matrix products, and ends the process where there is no GPU. Decoding runs on the CPU, so
those packages are hidden during the import.
"""

import sys
from typing import Any

_CUDA_PACKAGES = "nvidia"


def _import_decord() -> Any:
    known = sys.modules.get(_CUDA_PACKAGES)
    sys.modules[_CUDA_PACKAGES] = None  # type: ignore[assignment]  # what the import system calls "not there"
    try:
        import decord
    finally:
        if known is None:
            del sys.modules[_CUDA_PACKAGES]
        else:
            sys.modules[_CUDA_PACKAGES] = known
    return decord


decord: Any = _import_decord()
