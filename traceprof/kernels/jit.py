"""The one home of numba's flags: every kernel is decorated with `jit` and nothing else.

Two rules keep the disk cache truthful, since numba keys it on the file that holds the kernel:
a kernel never calls a kernel of another file, and none has an eager signature (it would compile at import).
After a change of the flags below, delete `__pycache__/*.nb[ci]`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

Kernel = TypeVar("Kernel", bound=Callable[..., object])

_FLAGS = {
    "nogil": True,  # kernels touch arrays only
    "boundscheck": False,  # the facade reserves capacity before it calls
    "error_model": "numpy",  # no Python exception paths inside the loops
}


def jit(kernel: Kernel) -> Kernel:
    """Compile on first call, keep the machine code on disk; where no folder can be written, compile per process."""
    try:
        return cast(Kernel, numba.njit(cache=True, **_FLAGS)(kernel))
    except RuntimeError:  # numba found no writable place for its cache (read-only install, no home)
        return cast(Kernel, numba.njit(**_FLAGS)(kernel))
