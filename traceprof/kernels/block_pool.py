"""A pool of blocks under chained hashes with one queue of free blocks: vLLM's, and LMDeploy's (`traceprof.kernels.lmdeploy`).

Freed blocks queue up, a request's last block first, and keep their content until they are taken from the front. Whoever
holds a block holds all before it, so in the queue a block stands before those that it continues: the front is a leaf of
the tree of cached blocks. vLLM keeps equal blocks side by side; a lookup finds the one that was cached first.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from traceprof.kernels.clock import admitted, ended, grown, preempted, refused, step
from traceprof.kernels.jit import jit
from traceprof.kernels.paths import Paths, block_base, blocks, longest
from traceprof.kernels.state import ADMIT, DONE, GROW, Clock

Int: TypeAlias = Any
I32: TypeAlias = NDArray[np.int32]
I64: TypeAlias = NDArray[np.int64]


class Pool(NamedTuple):
    """Physical blocks; block 0 is never used (vLLM's null block). The last entry of before/after is the queue's ring."""

    before: I32  # [block + 1] in the queue of free blocks
    after: I32
    used: I32  # [block] running requests that hold it
    holds: I32  # [block] the number of the prefix that it is cached for, -1: none
    first: I32  # [prefix number] the block that was cached for it first, -1: none
    older: I32  # [block] other blocks of the same prefix, a ring in the order in which they were cached
    newer: I32
    tally: I64  # [2] free blocks, evictions


class Tables(NamedTuple):
    """The blocks of each running request, in regions of powers of two."""

    where: I64  # [request]
    size: I32  # [request] blocks held
    cached: I32  # [request] how many of them have been published
    power: I32  # [request] of the region
    spare: I64  # [power] first free region, chained through `blocks`, -1: none
    top: I64  # [1]


@jit
def empty_pool(total: Int, prefixes: Int) -> Pool:
    """Blocks 1 to total - 1, all of them free, for so many different prefixes."""
    pool = Pool(
        np.empty(total + 1, np.int32),
        np.empty(total + 1, np.int32),
        np.zeros(total, np.int32),
        np.full(total, -1, np.int32),
        np.full(prefixes, -1, np.int32),
        np.empty(total, np.int32),
        np.empty(total, np.int32),
        np.zeros(2, np.int64),
    )
    pool.before[total] = total
    pool.after[total] = total
    for block in range(1, total):
        enqueue(pool, block, total)
    return pool


@jit
def empty_tables(requests: Int) -> Tables:
    """Nobody holds anything."""
    return Tables(
        np.empty(requests, np.int64),
        np.zeros(requests, np.int32),
        np.zeros(requests, np.int32),
        np.zeros(requests, np.int32),
        np.full(40, -1, np.int64),
        np.zeros(1, np.int64),
    )


@jit
def enqueue(pool: Pool, block: Int, before: Int) -> None:
    """Put a block in front of another (or of the ring: at the end)."""
    previous = pool.before[before]
    pool.after[previous] = block
    pool.before[block] = previous
    pool.after[block] = before
    pool.before[before] = block
    pool.tally[0] += 1


@jit
def dequeue(pool: Pool, block: Int) -> None:
    """Take a block out of the queue, wherever it stands."""
    pool.after[pool.before[block]] = pool.after[block]
    pool.before[pool.after[block]] = pool.before[block]
    pool.tally[0] -= 1


@jit
def node_of(p: Paths, request: Int, depth: Int) -> Int:
    """The static node in which a request's token at that depth, counted from 1, lies."""
    node = np.int64(p.node[request])
    while p.begin[node] >= depth:
        node = np.int64(p.parent[node])
    return node


@jit
def publish(pool: Pool, block: Int, number: Int) -> None:
    """Cache a block for a prefix, behind those that are cached for it already."""
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
def fresh(pool: Pool) -> Int:
    """The first free block, which loses what it was cached for."""
    block = pool.after[pool.after.shape[0] - 1]
    dequeue(pool, block)
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
def region(tables: Tables, table: I32, request: Int, most: Int) -> I32:
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
def release(pool: Pool, tables: Tables, table: I32, request: Int, prepend: Int) -> None:
    """Free a request's blocks, the last ones first."""
    ring = pool.after.shape[0] - 1
    begin = tables.where[request]
    size = tables.size[request]
    front = pool.after[ring]
    for k in range(size - 1, -1, -1):
        block = table[begin + k]
        pool.used[block] -= 1
        if pool.used[block] == 0 and not (prepend and pool.holds[block] >= 0):
            enqueue(pool, block, front if prepend else ring)
    if prepend:
        for k in range(size - 1, -1, -1):
            block = table[begin + k]
            if pool.used[block] == 0 and pool.holds[block] >= 0:
                enqueue(pool, block, ring)
    tables.size[request] = 0
    power = tables.power[request]
    table[begin] = tables.spare[power]
    tables.spare[power] = begin


@jit
def block_pool(p: Paths, c: Clock, block: Int, total: Int, prepend: Int) -> Int:
    """Requests through blocks 1 to total - 1 of `block` tokens. Fills c.hits; returns how many cached blocks were evicted.

    prepend   1: of freed blocks those that are cached for nothing are used again first; 0: all queue up at the end
    """
    base = block_base(p, block)
    pool = empty_pool(total, base[base.shape[0] - 1])
    tables = empty_tables(c.prompt.shape[0])
    table = np.empty(max(1024, 2 * total), np.int32)
    numbers = np.empty(longest(p)[1] // block + 1, np.int32)
    while True:
        kind, r, length = step(c)
        if kind == DONE:
            break
        wanted = (length + block - 1) // block
        if kind == ADMIT:
            blocks(p, base, block, r, length, numbers)
            most = (length - 1) // block
            hit = 0
            idle = 0
            while hit < most:
                found = pool.first[numbers[hit]]
                if found < 0:
                    break
                idle += pool.used[found] == 0
                hit += 1
            if wanted - hit + idle > pool.tally[0]:
                refused(c)
                continue
            table = region(tables, table, r, max(1, (c.final[r] + block - 1) // block))
            begin = tables.where[r]
            for k in range(hit):
                found = pool.first[numbers[k]]
                if pool.used[found] == 0:
                    dequeue(pool, found)
                pool.used[found] += 1
                table[begin + k] = found
            for k in range(hit, wanted):
                table[begin + k] = fresh(pool)
            tables.size[r] = wanted
            tables.cached[r] = length // block
            for k in range(hit, length // block):
                publish(pool, table[begin + k], numbers[k])
            admitted(c, r, hit * block)
        elif kind == GROW:
            if wanted - tables.size[r] > pool.tally[0]:
                release(pool, tables, table, preempted(c), prepend)
                continue
            begin = tables.where[r]
            for k in range(tables.size[r], wanted):
                table[begin + k] = fresh(pool)
            tables.size[r] = wanted
            for k in range(tables.cached[r], length // block):
                node = node_of(p, r, (k + 1) * block)
                publish(pool, table[begin + k], base[node] + k - p.begin[node] // block)
            tables.cached[r] = length // block
            grown(c, r, length)
        else:
            release(pool, tables, table, r, prepend)
            ended(c, r)
    return pool.tally[1]
