"""vLLM's block pool: chained full blocks, one queue of free blocks in the order of their eviction."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from traceprof.kernels.clock import ADMIT, DONE, GROW, Clock, admitted, ended, grown, preempted, refused, step
from traceprof.kernels.jit import jit
from traceprof.kernels.paths import Paths, block_base, block_number, blocks, longest

Int: TypeAlias = Any
I32: TypeAlias = NDArray[np.int32]
I64: TypeAlias = NDArray[np.int64]


class _Pool(NamedTuple):
    """Physical blocks; block 0 is the null block and never used. The last entry of before/after is the queue's ring."""

    before: I32  # [block + 1] in the queue of free blocks
    after: I32
    used: I32  # [block] running requests that hold it
    holds: I32  # [block] the number of the prefix that it is cached for, -1: none
    first: I32  # [prefix number] the block that was cached for it first, -1: none
    older: I32  # [block] other blocks of the same prefix, a ring in the order in which they were cached
    newer: I32
    tally: I64  # [2] free blocks, evictions


class _Tables(NamedTuple):
    """The blocks of each running request, in regions of powers of two."""

    where: I64  # [request]
    size: I32  # [request] blocks held
    cached: I32  # [request] how many of them have been published
    power: I32  # [request] of the region
    spare: I64  # [power] first free region, chained through `blocks`, -1: none
    top: I64  # [1]


@jit
def _enqueue(pool: _Pool, block: Int, before: Int) -> None:
    """Put a block in front of another (or of the ring: at the end)."""
    previous = pool.before[before]
    pool.after[previous] = block
    pool.before[block] = previous
    pool.after[block] = before
    pool.before[before] = block
    pool.tally[0] += 1


@jit
def _dequeue(pool: _Pool, block: Int) -> None:
    pool.after[pool.before[block]] = pool.after[block]
    pool.before[pool.after[block]] = pool.before[block]
    pool.tally[0] -= 1


@jit
def _publish(pool: _Pool, block: Int, number: Int) -> None:
    pool.holds[block] = number
    first = pool.first[number]
    if first < 0:
        pool.first[number] = block
        pool.older[block] = block
        pool.newer[block] = block
    else:
        last = pool.older[first]
        pool.newer[last] = block
        pool.older[block] = last
        pool.newer[block] = first
        pool.older[first] = block


@jit
def _fresh(pool: _Pool) -> Int:
    """The first free block, which loses what it was cached for."""
    block = pool.after[pool.after.shape[0] - 1]
    _dequeue(pool, block)
    number = pool.holds[block]
    if number >= 0:
        pool.holds[block] = -1
        pool.tally[1] += 1
        if pool.newer[block] == block:
            pool.first[number] = -1
        else:
            pool.newer[pool.older[block]] = pool.newer[block]
            pool.older[pool.newer[block]] = pool.older[block]
            if pool.first[number] == block:
                pool.first[number] = pool.newer[block]
    pool.used[block] = 1
    return block


@jit
def _region(tables: _Tables, table: I32, request: Int, most: Int) -> I32:
    """Room for that many blocks of a request; returns the table, perhaps a larger copy."""
    power = 0
    while (1 << power) < most:
        power += 1
    tables.power[request] = power
    at = tables.spare[power]
    if at >= 0:
        tables.spare[power] = table[at]
    else:
        at = tables.top[0]
        tables.top[0] += 1 << power
        if tables.top[0] > table.shape[0]:
            larger = np.empty(2 * tables.top[0], np.int32)
            larger[:at] = table[:at]
            table = larger
    tables.where[request] = at
    return table


@jit
def _release(pool: _Pool, tables: _Tables, table: I32, request: Int, prepend: Int) -> None:
    """Free a request's blocks, the last ones first."""
    ring = pool.after.shape[0] - 1
    begin = tables.where[request]
    front = pool.after[ring]
    for k in range(tables.size[request] - 1, -1, -1):
        block = table[begin + k]
        pool.used[block] -= 1
        if pool.used[block] == 0:
            _enqueue(pool, block, front if prepend and pool.holds[block] < 0 else ring)
            if front == ring:  # the queue was empty: what comes next stands in front of the cached ones only
                front = pool.after[ring] if pool.holds[pool.after[ring]] >= 0 else ring
    tables.size[request] = 0
    power = tables.power[request]
    table[begin] = tables.spare[power]
    tables.spare[power] = begin


@jit
def vllm(p: Paths, c: Clock, block: Int, total: Int, prepend: Int) -> Int:
    """Requests through a pool of `total` blocks of `block` tokens. Fills c.hits; returns how many cached blocks were evicted.

    prepend   1: of freed blocks those that are cached for nothing are used again first; 0: all queue up at the end
    """
    base = block_base(p, block)
    ring = total
    requests = c.prompt.shape[0]
    pool = _Pool(
        np.empty(total + 1, np.int32),
        np.empty(total + 1, np.int32),
        np.zeros(total, np.int32),
        np.full(total, -1, np.int32),
        np.full(base[base.shape[0] - 1], -1, np.int32),
        np.empty(total, np.int32),
        np.empty(total, np.int32),
        np.zeros(2, np.int64),
    )
    pool.before[ring] = ring
    pool.after[ring] = ring
    for b in range(1, total):
        _enqueue(pool, b, ring)
    tables = _Tables(
        np.empty(requests, np.int64),
        np.zeros(requests, np.int32),
        np.zeros(requests, np.int32),
        np.zeros(requests, np.int32),
        np.full(40, -1, np.int64),
        np.zeros(1, np.int64),
    )
    table = np.empty(max(1024, 2 * total), np.int32)
    numbers = np.empty(longest(p)[1] // block + 1, np.int32)
    while True:
        kind, r, length = step(c)
        if kind == DONE:
            break
        if kind == ADMIT:
            full = blocks(p, base, block, r, length, numbers)
            most = (length - 1) // block
            hit = 0
            idle = 0
            while hit < most:
                found = pool.first[numbers[hit]]
                if found < 0:
                    break
                idle += pool.used[found] == 0
                hit += 1
            wanted = (length + block - 1) // block
            if wanted - hit + idle > pool.tally[0]:
                refused(c)
                continue
            table = _region(tables, table, r, max(1, (c.final[r] + block - 1) // block))
            begin = tables.where[r]
            for k in range(hit):
                found = pool.first[numbers[k]]
                if pool.used[found] == 0:
                    _dequeue(pool, found)
                pool.used[found] += 1
                table[begin + k] = found
            for k in range(hit, wanted):
                table[begin + k] = _fresh(pool)
            for k in range(hit, full):
                _publish(pool, table[begin + k], numbers[k])
            tables.size[r] = wanted
            tables.cached[r] = full
            admitted(c, r, hit * block)
        elif kind == GROW:
            wanted = (length + block - 1) // block
            if wanted - tables.size[r] > pool.tally[0]:
                _release(pool, tables, table, preempted(c), prepend)
                continue
            begin = tables.where[r]
            for k in range(tables.size[r], wanted):
                table[begin + k] = _fresh(pool)
            tables.size[r] = wanted
            for k in range(tables.cached[r], length // block):
                _publish(pool, table[begin + k], block_number(p, base, block, r, k))
            tables.cached[r] = length // block
            grown(c, r, length)
        else:
            _release(pool, tables, table, r, prepend)
            ended(c, r)
    return pool.tally[1]
