"""A heap of (key, who) pairs in two arrays, the smallest pair on top; its size is the caller's to keep."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from traceprof.kernels.jit import jit

Int: TypeAlias = Any
I64: TypeAlias = NDArray[np.int64]


@jit
def _rise(keys: I64, who: I64, at: Int, key: Int, r: Int) -> Int:
    """Where a pair that may stand at `at` belongs, or above; what it passes moves down."""
    while at > 0:
        above = (at - 1) >> 1
        if (keys[above], who[above]) <= (key, r):
            break
        keys[at] = keys[above]
        who[at] = who[above]
        at = above
    return at


@jit
def push(keys: I64, who: I64, size: Int, key: Int, r: Int) -> None:
    """Enter a pair into a heap of `size`, which has one more then."""
    at = _rise(keys, who, size, key, r)
    keys[at] = key
    who[at] = r


@jit
def sift(keys: I64, who: I64, size: Int, at: Int, key: Int, r: Int) -> None:
    """Put a pair where the entry `at` was."""
    at = _rise(keys, who, at, key, r)  # above: only after an entry was taken from the middle
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        if below + 1 < size and (keys[below + 1], who[below + 1]) < (keys[below], who[below]):
            below += 1
        if (key, r) <= (keys[below], who[below]):
            break
        keys[at] = keys[below]
        who[at] = who[below]
        at = below
    keys[at] = key
    who[at] = r


@jit
def take(keys: I64, who: I64, size: Int, at: Int) -> None:
    """Remove the entry `at` of a heap of `size`, which has one less then."""
    if at < size - 1:
        sift(keys, who, size - 1, at, keys[size - 1], who[size - 1])
