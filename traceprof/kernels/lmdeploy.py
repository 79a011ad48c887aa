"""LMDeploy's block trie over the pool of `traceprof.kernels.block_pool`.

A block's time of access is that of the last release of a sequence that held it, so leaves by time of access are the pool's
queue of free blocks: what is cached for nothing stands in front, then the cached ones, the longest unused first.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from traceprof.kernels.block_pool import (
    Pool,
    dequeue,
    empty_pool,
    empty_tables,
    enqueue,
    fresh,
    node_of,
    publish,
    region,
    release,
)
from traceprof.kernels.clock import admitted, ended, grown, preempted, refused, step
from traceprof.kernels.jit import jit
from traceprof.kernels.paths import Paths, block_base, blocks, longest
from traceprof.kernels.state import ADMIT, DONE, GROW, Clock

Int: TypeAlias = Any
I32: TypeAlias = NDArray[np.int32]


@jit
def _attach(pool: Pool, table: I32, at: Int, number: Int) -> None:
    """The block table[at] is full: it enters the trie, or gives way to the one that is there already."""
    there = pool.first[number]
    if there < 0:
        publish(pool, table[at], number)
        return
    if pool.used[there] == 0:
        dequeue(pool, there)
    pool.used[there] += 1
    own = table[at]
    pool.used[own] = 0
    enqueue(pool, own, pool.after[pool.after.shape[0] - 1])
    table[at] = there


@jit
def _evict_all(pool: Pool) -> None:
    """What is left of an attempt to make room that failed: nothing is cached but what a sequence holds."""
    ring = pool.after.shape[0] - 1
    block = np.int64(pool.before[ring])
    while block != ring and pool.holds[block] >= 0:
        pool.first[pool.holds[block]] = -1
        pool.holds[block] = -1
        pool.tally[1] += 1
        block = np.int64(pool.before[block])


@jit
def lmdeploy(p: Paths, c: Clock, block: Int, total: Int, ahead: Int) -> Int:
    """Requests through blocks 1 to total - 1 of `block` tokens. Fills c.hits; returns how many cached blocks were evicted.

    ahead   tokens for which room is taken before they are there; only when a sequence has used up its room it takes
            more, and only then its full blocks enter the trie
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
        if kind == ADMIT:
            wanted = (length + ahead + block - 1) // block
            blocks(p, base, block, r, length, numbers)
            hit = 0
            while hit < (length - 1) // block and pool.first[numbers[hit]] >= 0:
                hit += 1
            table = region(tables, table, r, max(1, (c.final[r] + 2 * ahead) // block + 2))
            begin = tables.where[r]
            for k in range(hit):
                found = pool.first[numbers[k]]
                if pool.used[found] == 0:
                    dequeue(pool, found)
                pool.used[found] += 1
                table[begin + k] = found
            tables.size[r] = hit
            if wanted - hit > pool.tally[0]:
                _evict_all(pool)
                release(pool, tables, table, r, 1)
                refused(c)
                continue
            for k in range(hit, wanted):
                table[begin + k] = fresh(pool)
            tables.size[r] = wanted
            tables.cached[r] = length // block
            for k in range(hit, length // block):
                _attach(pool, table, begin + k, numbers[k])
            admitted(c, r, hit * block)
        elif kind == GROW:
            begin = tables.where[r]
            while tables.size[r] * block <= length:
                held = np.int64(tables.size[r])
                wanted = (held * block + ahead + block - 1) // block
                if wanted - held > pool.tally[0]:
                    break
                for k in range(held, wanted):
                    table[begin + k] = fresh(pool)
                tables.size[r] = wanted
                for k in range(tables.cached[r], held):
                    node = node_of(p, r, (k + 1) * block)
                    _attach(pool, table, begin + k, base[node] + k - p.begin[node] // block)
                tables.cached[r] = held
            if tables.size[r] * block <= length:
                _evict_all(pool)
                release(pool, tables, table, preempted(c), 1)
            else:
                grown(c, r, length)
        else:
            release(pool, tables, table, r, 1)
            ended(c, r)
    return pool.tally[1]
