"""oMLX: full blocks on an SSD, least recently written or read first to go, and an index in memory that may lag behind."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from traceprof.kernels.clock import admitted, ended, grown, step
from traceprof.kernels.jit import jit
from traceprof.kernels.paths import Paths, block_base, blocks, longest
from traceprof.kernels.state import ADMIT, DONE, GROW, Clock

Int: TypeAlias = Any
I32: TypeAlias = NDArray[np.int32]
U8: TypeAlias = NDArray[np.uint8]


class _Disk(NamedTuple):
    """Blocks on the SSD as a ring by last use: entry `blocks` is head and tail."""

    before: I32  # [block] -1: not there
    after: I32
    known: U8  # [block] 1: the index in memory has it
    since: I32  # [block] number of the event at which the index learned of it
    holders: I32  # [block] running requests that were given it since


@jit
def _take(d: _Disk, b: Int) -> None:
    d.after[d.before[b]] = d.after[b]
    d.before[d.after[b]] = d.before[b]
    d.before[b] = -1


@jit
def _learn(d: _Disk, b: Int, event: Int) -> None:
    """The index has a block that it did not have."""
    d.known[b] = 1
    d.since[b] = event
    d.holders[b] = 0


@jit
def _put(d: _Disk, b: Int) -> None:
    """As the last to go."""
    ring = d.before.shape[0] - 1
    last = d.before[ring]
    d.before[b], d.after[b] = last, ring
    d.after[last] = b
    d.before[ring] = b


@jit
def omlx(p: Paths, c: Clock, block: Int, room: Int) -> Int:
    """Requests against an SSD of `room` blocks. Fills c.hits; returns the blocks that were evicted from it."""
    base = block_base(p, block)
    total = base[-1]
    d = _Disk(
        np.full(total + 1, -1, np.int32), np.full(total + 1, -1, np.int32), np.zeros(total + 1, np.uint8),
        np.zeros(total + 1, np.int32), np.zeros(total + 1, np.int32),
    )  # fmt: skip
    d.before[total] = d.after[total] = total
    on = np.empty(longest(p)[1] // block + 1, np.int32)
    given = np.zeros(c.prompt.shape[0], np.int32)  # [request] blocks it found
    began = np.zeros(c.prompt.shape[0], np.int32)  # [request] number of the event
    event = 0
    there = 0
    evicted = 0
    while True:
        kind, r, length = step(c)
        if kind == DONE:
            return evicted
        event += 1
        if kind == GROW:
            grown(c, r, length)
            continue
        if kind == ADMIT:
            n = blocks(p, base, block, r, length, on)
            matched = 0  # by the index, which learns of what is on the SSD only
            while matched < n and (d.known[on[matched]] == 1 or d.before[on[matched]] >= 0):
                if d.known[on[matched]] == 0:
                    _learn(d, on[matched], event)
                matched += 1
            found = 0  # and read
            while found < matched and d.before[on[found]] >= 0:
                _take(d, on[found])
                _put(d, on[found])
                d.holders[on[found]] += 1
                found += 1
            if found < matched:
                d.known[on[found]] = 0
            for k in range(found, matched):
                if d.holders[on[k]] == 0:
                    d.known[on[k]] = 0
            given[r], began[r] = found, event
            admitted(c, r, min(found * block, length - 1))
            continue
        n = blocks(p, base, block, r, c.final[r], on)
        for k in range(given[r], n):
            if d.known[on[k]] == 1:
                continue
            _learn(d, on[k], event)
            if d.before[on[k]] >= 0:
                _take(d, on[k])
                _put(d, on[k])
            elif room > 0:
                if there == room:
                    _take(d, d.after[total])
                    evicted += 1
                    there -= 1
                _put(d, on[k])
                there += 1
        for k in range(given[r]):
            if d.since[on[k]] <= began[r]:
                d.holders[on[k]] -= 1
        ended(c, r)
