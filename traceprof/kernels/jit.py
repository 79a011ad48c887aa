"""The one home of numba's flags: every kernel is decorated with `jit` and nothing else.

numba's cache on disk knows a kernel by the file that holds it, and would not notice that a kernel it calls in another
file has changed. So the state of all files of this folder is part of the key here. No kernel has an eager signature:
it would compile at import.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import FunctionCache

Kernel = TypeVar("Kernel", bound=Callable[..., object])

_FLAGS = {
    "nogil": True,  # kernels touch arrays only
    "boundscheck": False,  # the facade reserves capacity before it calls
    "error_model": "numpy",  # no Python exception paths inside the loops
}


def jit(kernel: Kernel) -> Kernel:
    """Compile on first call, keep the machine code on disk; where no folder can be written, compile per process."""
    compiled: Any = numba.njit(**_FLAGS)(kernel)
    with contextlib.suppress(RuntimeError):  # no writable place for it (read-only install, no home)
        compiled._cache = _Cache(kernel)  # what cache=True does, with our key
    return cast(Kernel, compiled)


class _Cache(FunctionCache):  # type: ignore[misc]
    """Machine code is good for one state of the sources and one set of flags."""

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return (*super()._index_key(sig, codegen), _sources(), tuple(_FLAGS.items()))


@functools.cache
def _sources() -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of change of every file of this folder."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return tuple((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files)
