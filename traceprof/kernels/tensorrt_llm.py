"""TensorRT-LLM's C++ block manager: a tree of blocks whose last may be partly filled, and one queue of free blocks.

A block in the tree is known for the tokens (top, end] of a path of the static tree, down to the static node `tail`. Full ones
are found by the number of their prefix. To find the block that goes along with a request for most of its tokens, every
block stands in a list at each static node that begins within it, and all blocks under one block in a list of theirs:
the deepest of these nodes on a request's path, whose list is not empty, has it.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from traceprof.kernels.clock import admitted, ended, grown, refused, step
from traceprof.kernels.jit import jit
from traceprof.kernels.paths import Paths, block_base, blocks, longest, path
from traceprof.kernels.state import ADMIT, DONE, GROW, Clock

Int: TypeAlias = Any
I32: TypeAlias = NDArray[np.int32]
I64: TypeAlias = NDArray[np.int64]

BLOCK = np.dtype(
    [
        ("top", np.int64),  # tokens above it
        ("end", np.int64),  # tokens down to its end, -1: not in the tree
        ("stored", np.int64),  # when it entered the tree
        ("tail", np.int32),  # static node of its last token
        ("number", np.int32),  # of its prefix, -1: not full
        ("used", np.int32),  # running requests that hold it
        ("before", np.int32),  # in the queue of free blocks, whose ring is the last entry
        ("after", np.int32),
        ("entry", np.int32),  # the first of its entries, -1: none
    ]
)

# an entry: a block in a list. Lists 0 to nodes - 1 are those of static nodes, nodes + b that of block b
ENTRY = np.dtype(
    [
        ("reach", np.int64),  # down to which token the block goes along with the node of the list
        ("block", np.int32),
        ("where", np.int32),  # the list
        ("kind", np.int32),  # PASSES, ENDS or LEAVES
        ("next", np.int32),  # in the list, a ring; of a spare entry: the next spare one
        ("back", np.int32),
        ("other", np.int32),  # the next entry of the same block, -1: none
    ]
)

PASSES, ENDS, LEAVES = range(3)  # how a block goes on from a list's node: behind it, not, before its end

# fields of _Manager.tally
_FREE, _PROMISED, _EVICTED, _STORED, _ENTRIES, _SPARE = range(6)


class _Manager(NamedTuple):
    p: Paths
    size: Int  # tokens of a block
    blocks: Any  # [block] of BLOCK
    entries: Any  # of ENTRY
    passing: I32  # [list] its first entry, -1: none; those that leave the node early stand behind those that pass it
    ending: I32  # [list] the same for those that end in it
    first: I32  # [prefix number] the full block, -1: none
    on: I32  # a path
    upto: I64
    stack: I32
    tally: I64


@jit
def _enqueue(m: _Manager, b: Int) -> None:
    """Put a block at the end of the queue."""
    ring = m.blocks.shape[0] - 1
    last = m.blocks[ring].before
    m.blocks[last].after = b
    m.blocks[b].before = last
    m.blocks[b].after = ring
    m.blocks[ring].before = b
    m.tally[_FREE] += 1


@jit
def _claim(m: _Manager, b: Int) -> None:
    """A request holds the block."""
    if m.blocks[b].used == 0:
        m.blocks[m.blocks[b].before].after = m.blocks[b].after
        m.blocks[m.blocks[b].after].before = m.blocks[b].before
        m.tally[_FREE] -= 1
    m.blocks[b].used += 1


@jit
def _enter(m: _Manager, b: Int, where: Int, reach: Int, kind: Int) -> None:
    """Put a block into a list: the last stored stands in front, of those that leave early at the end."""
    e = m.tally[_SPARE]
    if e >= 0:
        m.tally[_SPARE] = m.entries[e].next
    else:
        e = m.tally[_ENTRIES]
        m.tally[_ENTRIES] += 1
    m.entries[e].reach = reach
    m.entries[e].block = b
    m.entries[e].where = where
    m.entries[e].kind = kind
    m.entries[e].other = m.blocks[b].entry
    m.blocks[b].entry = e
    heads = m.ending if kind == ENDS else m.passing
    head = np.int64(heads[where])
    if head < 0:
        m.entries[e].next = e
        m.entries[e].back = e
        heads[where] = e
        return
    tail = np.int64(m.entries[head].back)
    m.entries[e].next = head
    m.entries[e].back = tail
    m.entries[tail].next = e
    m.entries[head].back = e
    if kind != LEAVES:
        heads[where] = e


@jit
def _detach(m: _Manager, b: Int) -> None:
    """Take one block out of the tree; those below it are the caller's care."""
    e = np.int64(m.blocks[b].entry)
    while e >= 0:
        heads = m.ending if m.entries[e].kind == ENDS else m.passing
        where = m.entries[e].where
        after = m.entries[e].next
        if after == e:
            heads[where] = -1
        else:
            m.entries[m.entries[e].back].next = after
            m.entries[after].back = m.entries[e].back
            if heads[where] == e:
                heads[where] = after
        other = np.int64(m.entries[e].other)
        m.entries[e].next = m.tally[_SPARE]
        m.tally[_SPARE] = e
        e = other
    if m.blocks[b].number >= 0:
        m.first[m.blocks[b].number] = -1
    m.blocks[b].entry = -1
    m.blocks[b].end = -1


@jit
def _is_leaf(m: _Manager, b: Int) -> Any:
    where = m.p.parent.shape[0] + b
    return m.passing[where] < 0 and m.ending[where] < 0


@jit
def _fresh(m: _Manager) -> Int:
    """The first free block, for a request; out of the tree goes what it was known for, and all that goes on from there."""
    b = np.int64(m.blocks[m.blocks.shape[0] - 1].after)
    _claim(m, b)
    if m.blocks[b].end < 0:
        return b
    nodes = m.p.parent.shape[0]
    m.stack[0] = b
    high = 1
    while high > 0:
        high -= 1
        x = np.int64(m.stack[high])
        for heads in (m.passing, m.ending):
            head = np.int64(heads[nodes + x])
            e = head
            while e >= 0:
                m.stack[high] = m.entries[e].block
                high += 1
                e = np.int64(m.entries[e].next)
                if e == head:
                    break
        m.tally[_EVICTED] += m.blocks[x].end - m.blocks[x].top
        _detach(m, x)
    return b


@jit
def _store(m: _Manager, b: Int, above: Int, top: Int, end: Int, i: Int, number: Int) -> Int:
    """Block b is known for the tokens (top, end] of the path that is in m.on; returns where on the path it ends.

    i is the place of the path's node with its first token.
    """
    while m.upto[i] < end:
        i += 1
    v = np.int64(m.on[i])
    m.blocks[b].top = top
    m.blocks[b].end = end
    m.blocks[b].tail = v
    m.blocks[b].number = number
    m.blocks[b].stored = m.tally[_STORED]
    m.tally[_STORED] += 1
    if number >= 0:
        m.first[number] = b
    reach = end
    kind = ENDS
    at = i
    while True:
        begin = m.p.begin[v]
        if begin >= top:
            _enter(m, b, v, reach, kind)
        if begin <= top:
            break
        reach = begin
        at -= 1
        v = np.int64(m.on[at])
        kind = PASSES if reach >= m.p.end[v] else LEAVES
    if above >= 0:
        if m.p.begin[v] == top:  # other blocks behind `above` begin in other nodes
            reach = top
            kind = LEAVES
        _enter(m, b, m.p.parent.shape[0] + above, reach, kind)
    return i


@jit
def _exact(m: _Manager, where: Int, end: Int) -> Int:
    """The block of a list that ends at that token, in the list's node; -1: none."""
    head = np.int64(m.ending[where])
    e = head
    while e >= 0:
        if m.entries[e].reach == end:
            return np.int64(m.entries[e].block)
        e = np.int64(m.entries[e].next)
        if e == head:
            break
    return np.int64(-1)


@jit
def _longest(m: _Manager, where: Int, most: Int) -> tuple[Int, Int]:
    """(block of a list that goes along furthest, of these the one that was stored last; down to which token, at most `most`)."""
    best: Int = -1
    far: Int = 0
    for heads in (m.passing, m.ending):
        head = np.int64(heads[where])
        e = head
        while e >= 0:
            reach = min(m.entries[e].reach, most)
            b = np.int64(m.entries[e].block)
            if reach > far or (reach == far and m.blocks[b].stored > m.blocks[best].stored):
                best = b
                far = reach
            if m.entries[e].kind == LEAVES and reach == most:
                break
            # from the first, the last stored of those that pass, to the end, where the last stored of the others is
            e = np.int64(m.entries[e].next if m.entries[e].kind == ENDS else m.entries[e].back)
            if e == head or m.entries[e].kind == PASSES:
                break
    return best, far


@jit
def _partial(m: _Manager, above: Int, top: Int, most: Int, i: Int, exact_only: Int) -> tuple[Int, Int]:
    """(block behind `above` that shares most tokens of the path, down to which token it does), -1: there is none.

    i is the place of the path's node with token top + 1. A block that ends where the request may is preferred.
    """
    nodes = m.p.parent.shape[0]
    j = i
    while m.upto[j] < most:
        j += 1
    for at in range(j, i - 1, -1):
        v = np.int64(m.on[at])
        where = v if m.p.begin[v] >= top else nodes + above
        if at == j and most < top + m.size:
            b = _exact(m, where, most)
            if b >= 0:
                return b, most
        if exact_only:
            break
        b, far = _longest(m, where, min(m.upto[at], most))
        if b >= 0 and far > top:
            return b, far
    return np.int64(-1), top


@jit
def _keep(m: _Manager, table: I32, begin: Int, r: Int, tokens: Int, partly: Int, numbers: I32) -> None:
    """Store the request's blocks down to that token: full ones, and (partly) one that is not.

    numbers   of its full blocks
    """
    n = path(m.p, r, tokens, m.on, m.upto)
    full = tokens // m.size
    above: Int = -1
    k = 0
    while k < full and m.first[numbers[k]] >= 0:
        above = np.int64(m.first[numbers[k]])
        k += 1
    i = 0
    while k < full:
        while m.upto[i] <= k * m.size:
            i += 1
        b = np.int64(table[begin + k])
        i = _store(m, b, above, k * m.size, (k + 1) * m.size, i, numbers[k])
        above = b
        k += 1
    if partly and tokens > full * m.size:
        while m.upto[i] <= full * m.size:
            i += 1
        v = np.int64(m.on[n - 1])
        where = v if m.p.begin[v] >= full * m.size else m.p.parent.shape[0] + above
        if _exact(m, where, tokens) < 0:
            _store(m, np.int64(table[begin + full]), above, full * m.size, tokens, i, -1)


@jit
def _roomy(m: _Manager, most: Int) -> _Manager:
    """The same with room for so many more entries."""
    if m.tally[_ENTRIES] + most <= m.entries.shape[0]:
        return m
    entries = np.empty(2 * m.entries.shape[0] + most, ENTRY)
    entries[: m.tally[_ENTRIES]] = m.entries[: m.tally[_ENTRIES]]
    return _Manager(
        m.p, m.size, m.blocks, entries, m.passing, m.ending, m.first, m.on, m.upto, m.stack, m.tally
    )


@jit
def _manager(p: Paths, size: Int, total: Int, prefixes: Int) -> _Manager:
    nodes = p.parent.shape[0]
    widest = longest(p)[0] + 1
    m = _Manager(
        p,
        size,
        np.zeros(total + 1, BLOCK),
        np.empty(1024, ENTRY),
        np.full(nodes + total, -1, np.int32),
        np.full(nodes + total, -1, np.int32),
        np.full(prefixes, -1, np.int32),
        np.empty(widest, np.int32),
        np.empty(widest, np.int64),
        np.empty(total + 1, np.int32),
        np.zeros(6, np.int64),
    )
    m.tally[_SPARE] = -1
    m.blocks[total].before = total
    m.blocks[total].after = total
    for b in range(total):
        m.blocks[b].end = -1
        m.blocks[b].entry = -1
        _enqueue(m, b)
    return m


@jit
def tensorrt_llm(p: Paths, c: Clock, size: Int, total: Int, partial: Int) -> Int:
    """Requests through `total` blocks of `size` tokens. Fills c.hits; returns how many cached tokens were evicted.

    partial   1: of a block that does not match as a whole the tokens that do are taken
    """
    base = block_base(p, size)
    m = _manager(p, size, total, base[base.shape[0] - 1])
    requests = c.prompt.shape[0]
    where = np.full(requests, -1, np.int64)  # [request] its blocks in the table
    held = np.zeros(requests, np.int64)  # [request] how many
    most = longest(p)[1] // size + 2
    numbers = np.empty(most, np.int32)
    # regions of powers of two in the table, the free ones chained through their first field
    spare = np.full(40, -1, np.int64)
    table = np.empty(max(1024, 2 * total), np.int32)
    top = 0
    while True:
        kind, r, length = step(c)
        if kind == DONE:
            break
        last = (c.final[r] + size) // size  # blocks of prompt and output, the token sampled last included
        if kind == ADMIT:
            full = length // size
            blocks(p, base, size, r, length, numbers)
            shared = 0
            for k in range(full):
                b = m.first[numbers[k]]
                if b < 0:
                    break
                shared += m.blocks[b].used > 0
            if last - shared > m.tally[_FREE] - m.tally[_PROMISED]:
                refused(c)
                continue
            m = _roomy(m, m.on.shape[0] + most)
            power = 0
            while (1 << power) < last:
                power += 1
            begin = spare[power]
            if begin >= 0:
                spare[power] = table[begin]
            else:
                begin = top
                top += 1 << power
                if top > table.shape[0]:
                    larger = np.empty(2 * top, np.int32)
                    larger[:begin] = table[:begin]
                    table = larger
            where[r] = begin
            path(p, r, length, m.on, m.upto)
            hit = 0
            above: Int = -1
            k = 0
            while (k + 1) * size < length:  # a block whose end is not the prompt's
                b = np.int64(m.first[numbers[k]])
                if b < 0:
                    break
                _claim(m, b)
                table[begin + k] = b
                above = b
                k += 1
                hit = k * size
            if hit < length - 1:
                i = 0
                while m.upto[i] <= hit:
                    i += 1
                b, far = _partial(m, above, hit, min(hit + size, length - 1), i, 1 - partial)
                if b >= 0:
                    if m.blocks[b].used > 0 or not _is_leaf(m, b):
                        b = _fresh(m)  # a copy
                    else:
                        m.tally[_EVICTED] += m.blocks[b].end - far
                        _detach(m, b)
                        _claim(m, b)
                    table[begin + k] = b
                    k += 1
                    hit = far
            size_now = (length + size - 1) // size
            while k < size_now:
                table[begin + k] = _fresh(m)
                k += 1
            held[r] = size_now
            m.tally[_PROMISED] += last - size_now
            _keep(m, table, begin, r, length, 0, numbers)
            admitted(c, r, hit)
        elif kind == GROW:
            wanted = (length + size - 1) // size
            for k in range(held[r], wanted):
                table[where[r] + k] = _fresh(m)
                m.tally[_PROMISED] -= 1
            held[r] = wanted
            grown(c, r, length)
        else:
            m = _roomy(m, m.on.shape[0] + most)
            blocks(p, base, size, r, length, numbers)
            _keep(m, table, where[r], r, length, 1, numbers)
            m.tally[_PROMISED] -= last - held[r]
            for k in range(held[r] - 1, -1, -1):
                b = np.int64(table[where[r] + k])
                m.blocks[b].used -= 1
                if m.blocks[b].used == 0:
                    _enqueue(m, b)
            power = 0
            while (1 << power) < last:
                power += 1
            table[where[r]] = spare[power]
            spare[power] = where[r]
            ended(c, r)
    return m.tally[_EVICTED]
