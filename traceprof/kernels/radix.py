"""Kernels of the radix tree: plain functions of arrays; `traceprof.prefix.tree.RadixTree` is their facade.

A node is a run of symbols that no request ends or branches inside. Three requests of one root,
[1, 2, 3, 4], [1, 2, 9] and [1, 2], make three nodes:

    root 0 --[1, 2]--> node 1 --[3, 4]--> node 0
                              --[9]-----> node 2

Invariants, which every function here keeps:

* `parent[v]` is the node above v, or -1 - root for the nodes directly under a root (roots are no nodes).
* `depth[v]` counts the symbols from the root to v's end, so the run of v covers depths [depth - length, depth).
* The children of a node differ in their first symbol; `table` maps (parent, first symbol) to the child.
* A node boundary stands exactly at branch points and at ends of sequences: the node set does not depend on
  the order of insertion. A request therefore touches a node as a whole or not at all.
* On a split the LOWER part keeps the id: the node where a sequence ended is its end for ever.
* `last` never grows and `count` never grows on the way down: who touches a node touches everything above it.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from traceprof.kernels.jit import jit

Int: TypeAlias = Any  # a scalar: int64 once compiled
I64: TypeAlias = NDArray[np.int64]
I32: TypeAlias = NDArray[np.int32]
Symbols: TypeAlias = NDArray[np.unsignedinteger[Any]]  # uint32 token ids or uint64 block hashes

_NODE_MIX = np.uint64(0x9E3779B97F4A7C15)
_SYMBOL_MIX = np.uint64(0xC2B2AE3D27D4EB4F)
_LAST_MIX = np.uint64(0xFF51AFD7ED558CCD)
_WIDE = np.uint64(64)  # symbols compared at once; LLVM unrolls 32 fully and then misses the SIMD instructions


NODE = np.dtype(
    [
        ("start", np.int64),  # where its run begins in `symbols`
        ("length", np.int32),  # symbols in its run, at least 1
        ("depth", np.int32),  # symbols from the root to its end
        ("parent", np.int32),  # the node above, or -1 - root
        ("last", np.int32),  # last request whose prompt touched it, -1: none did (only outputs)
        ("count", np.int32),  # requests whose prompt passes through or ends here
        ("spare", np.int32),  # pads to 32 bytes: half a cache line, one memory access a node
    ]
)


class Tree(NamedTuple):
    """All state of one radix tree as arrays; the first `used[0]` nodes and `used[1]` symbols are valid."""

    nodes: Any  # [node] of NODE; Any lets mypy pass nodes[v].start, which only numba understands
    table: I32  # [slot] open addressing, linear probing, load <= 0.5: a child, or -1 for an empty slot
    symbols: Symbols  # what the nodes' runs point into: each distinct symbol state once
    used: I64  # [2] nodes, symbols


@jit
def _slot(tree: Tree, node: Int, symbol: Any) -> Any:
    """The slot of node's child that begins with symbol, or the empty slot where it belongs."""
    mask = np.uint64(tree.table.shape[0] - 1)
    mixed = (np.uint64(node) * _NODE_MIX) ^ (np.uint64(symbol) * _SYMBOL_MIX)
    mixed ^= mixed >> np.uint64(29)
    mixed *= _LAST_MIX
    mixed ^= mixed >> np.uint64(32)
    slot = mixed & mask
    while True:
        child = tree.table[slot]
        if child < 0:
            return slot
        if tree.nodes[child].parent == node and tree.symbols[tree.nodes[child].start] == symbol:
            return slot
        slot = (slot + np.uint64(1)) & mask


@jit
def _common(a: Symbols, a_from: Int, b: Symbols, b_from: Int, limit: Int) -> Int:
    """Length of the common prefix of two runs, at most limit.  Example: [1, 2, 3], [1, 2, 9], 3 -> 2"""
    # unsigned indices: numba then drops its test for negative ones, and the inner loop becomes SIMD
    i = np.uint64(a_from)
    j = np.uint64(b_from)
    k = np.uint64(0)
    n = np.uint64(limit)
    while k + _WIDE <= n:
        differ = np.uint64(0)
        for t in range(_WIDE):
            differ |= np.uint64(a[i + k + t] ^ b[j + k + t])
        if differ != np.uint64(0):
            break
        k += _WIDE
    while k < n and a[i + k] == b[j + k]:
        k += np.uint64(1)
    return np.int64(k)


@jit
def _split(tree: Tree, slot: Any, lower: Int, at: Int) -> Int:
    """Cut the node in `slot` after its first `at` symbols; the new upper part is returned, lower keeps its id.

    Example: [1, 2, 3, 4] at 2 -> upper [1, 2] with the child lower [3, 4]
    """
    upper = tree.used[0]
    tree.used[0] = upper + 1
    tree.nodes[upper].start = tree.nodes[lower].start
    tree.nodes[upper].length = at
    tree.nodes[upper].depth = tree.nodes[lower].depth - tree.nodes[lower].length + at
    tree.nodes[upper].parent = tree.nodes[lower].parent
    tree.nodes[upper].last = tree.nodes[lower].last
    tree.nodes[upper].count = tree.nodes[lower].count
    tree.table[slot] = upper  # same parent, same first symbol: the slot is upper's now
    tree.nodes[lower].start += at
    tree.nodes[lower].length -= at
    tree.nodes[lower].parent = upper
    tree.table[_slot(tree, upper, tree.symbols[tree.nodes[lower].start])] = lower
    return upper


@jit
def _walk(tree: Tree, node: Int, symbols: Symbols, begin: Int, end: Int) -> tuple[Int, Int]:
    """Insert symbols[begin:end] below node (-1 - root: from the root): (its end node, symbols matched).

    Nothing is counted or touched here. A new leaf has last -1 and count 0.
    """
    above = 0 if node < 0 else tree.nodes[node].depth
    at = begin
    while at < end:
        slot = _slot(tree, node, symbols[at])
        child = np.int64(tree.table[slot])
        if child < 0:  # symbols[at:end] is new: a leaf, and the only copy of symbols that is ever made
            leaf = tree.used[0]
            tree.used[0] = leaf + 1
            begins = tree.used[1]
            tree.used[1] = begins + end - at
            tree.symbols[begins : begins + end - at] = symbols[at:end]
            tree.nodes[leaf].start = begins
            tree.nodes[leaf].length = end - at
            tree.nodes[leaf].depth = above + end - begin
            tree.nodes[leaf].parent = node
            tree.nodes[leaf].last = -1
            tree.nodes[leaf].count = 0
            tree.table[slot] = leaf
            return leaf, at - begin
        length = np.int64(tree.nodes[child].length)
        # the first symbol is known to be equal: the table said so
        same = 1 + _common(
            tree.symbols, tree.nodes[child].start + 1, symbols, at + 1, min(length, end - at) - 1
        )
        if same < length:
            child = _split(tree, slot, child, same)
        node = child
        at += same
    return node, end - begin


@jit
def _touch(tree: Tree, node: Int, request: Int) -> None:
    """Count request on every node from node up to its root."""
    while node >= 0:
        tree.nodes[node].last = request
        tree.nodes[node].count += 1
        node = np.int64(tree.nodes[node].parent)


@jit
def _add(fenwick: I64, at: Int, amount: Int) -> None:
    """weight[at] += amount, in the Fenwick tree over weight (fenwick[0] is unused)."""
    at += 1
    while at < fenwick.shape[0]:
        fenwick[at] += amount
        at += at & -at


@jit
def _sum_through(fenwick: I64, at: Int) -> Int:
    """weight[0] + ... + weight[at]."""
    total: Int = 0
    at += 1
    while at > 0:
        total += fenwick[at]
        at -= at & -at
    return total


@jit
def insert(
    tree: Tree,
    symbols: Symbols,
    offsets: I64,
    roots: I64,
    first_request: Int,
    matched: I64,
    end_node: I64,
) -> None:
    """Insert the sequences symbols[offsets[k]:offsets[k + 1]] as requests first_request + k.

    Fills matched[k] (symbols already in the tree) and end_node[k].
    """
    for k in range(roots.shape[0]):
        node, same = _walk(tree, -1 - roots[k], symbols, offsets[k], offsets[k + 1])
        _touch(tree, node, first_request + k)
        matched[k] = same
        end_node[k] = node


@jit
def insert_with_reuse(
    tree: Tree,
    symbols: Symbols,
    offsets: I64,
    roots: I64,
    first_request: Int,
    matched: I64,
    end_node: I64,
    unit: Int,
    tokens: I64,
    fenwick: I64,
    total: I64,
) -> tuple[I64, I64, I64, Int]:
    """As `insert`, and emit the reuse distances: (start_distance, length_tokens, request, how many runs).

    tokens[r] is the true length of request r of the WHOLE trace so far; the depth of s symbols in it is
    min(s * unit, tokens[r]) tokens. weight[t] (in the Fenwick tree) = tokens whose last touch is request t,
    total[0] their sum.

    The LRU stack is ordered by (last descending, depth ascending), all roots in one. On the path of request i
    the symbols with the same last = t lie at depths [a, b), and they are all that is left of t above depth b:
    what is above a in the stack is exactly what was touched after t. Hence the first token of the run has
    the distance 1 + sum of weight[t'] over t' > t, and its other tokens follow one by one.

    Climbing from the end meets the OLDEST run first. What was taken out of weight before lay at smaller t, so
    total - sum_through(t) is not disturbed by it: no correction is needed.
    """
    room = max(1024, 4 * roots.shape[0])
    run_start = np.empty(room, np.int64)
    run_length = np.empty(room, np.int64)
    run_request = np.empty(room, np.int64)
    runs = 0
    for k in range(roots.shape[0]):
        request = first_request + k
        node, same = _walk(tree, -1 - roots[k], symbols, offsets[k], offsets[k + 1])
        matched[k] = same
        end_node[k] = node
        while node >= 0:
            before = np.int64(tree.nodes[node].last)
            b = np.int64(tree.nodes[node].depth)
            a = b
            while node >= 0 and tree.nodes[node].last == before:  # one run: [a, b)
                a -= tree.nodes[node].length
                tree.nodes[node].last = request
                tree.nodes[node].count += 1
                node = np.int64(tree.nodes[node].parent)
            if before < 0:  # the new leaf: it was nowhere in the stack
                continue
            length = min(b * unit, tokens[request]) - min(a * unit, tokens[request])
            if length > 0:
                if runs == room:
                    room *= 2
                    run_start = _grown(run_start, room)
                    run_length = _grown(run_length, room)
                    run_request = _grown(run_request, room)
                run_start[runs] = total[0] - _sum_through(fenwick, before) + 1
                run_length[runs] = length
                run_request[runs] = request
                runs += 1
            # a symbol weighs what its last toucher gave it, so weight[before] never falls below 0
            leaving = min(b * unit, tokens[before]) - min(a * unit, tokens[before])
            _add(fenwick, before, -leaving)
            total[0] -= leaving
        # hit or new, hashed or not: all tokens of the request are now the most recent ones
        _add(fenwick, request, tokens[request])
        total[0] += tokens[request]
    return run_start, run_length, run_request, runs


@jit
def _grown(values: I64, room: Int) -> I64:
    """A copy with room for more."""
    grown = np.empty(room, np.int64)
    grown[: values.shape[0]] = values
    return grown


@jit
def extend(tree: Tree, behind: I64, symbols: Symbols, offsets: I64, end_node: I64) -> None:
    """Insert symbols[offsets[k]:offsets[k + 1]] behind node behind[k]; no request is counted."""
    for k in range(behind.shape[0]):
        end_node[k] = _walk(tree, behind[k], symbols, offsets[k], offsets[k + 1])[0]


@jit
def rehash(tree: Tree) -> None:
    """Enter all nodes into tree.table, which holds only -1."""
    for node in range(tree.used[0]):
        slot = _slot(tree, np.int64(tree.nodes[node].parent), tree.symbols[tree.nodes[node].start])
        tree.table[slot] = node


@jit
def levels_and_roots(parent: I32) -> tuple[I32, I32]:
    """For each node: nodes from its root down to it (1 under a root), and its root.  Example: [2, -1, 1] -> [3, 1, 2], [0, 0, 0]"""
    nodes = parent.shape[0]
    level = np.zeros(nodes, np.int32)
    root = np.zeros(nodes, np.int32)
    for begin in range(nodes):
        # a parent may have a larger id than its child: climb to the first node known, then fill in on a second climb
        node = np.int64(begin)
        steps = 0
        while node >= 0 and level[node] == 0:
            steps += 1
            node = np.int64(parent[node])
        known = 0 if node < 0 else level[node]
        at = -1 - node if node < 0 else root[node]
        node = np.int64(begin)
        for climbed in range(steps):
            level[node] = known + steps - climbed
            root[node] = at
            node = np.int64(parent[node])
    return level, root


@jit
def choose_prefixes(ranked: I64, parent: I32, count: I32, limit: Int) -> I64:
    """The first `limit` of ranked nodes, without those that say the same as a better one.

    Two nodes on one root path are the same finding where their counts are within a factor 2. count never
    grows on the way down, so a climb can stop at the first node that is more than twice as frequent.
    """
    chosen = np.zeros(parent.shape[0], np.bool_)
    covered = np.zeros(parent.shape[0], np.bool_)  # close above a chosen node
    result = np.empty(limit, np.int64)
    found = 0
    for candidate in ranked:
        if found == limit:
            break
        close = 2 * np.int64(count[candidate])
        same_finding = covered[candidate]
        node = np.int64(candidate)
        while not same_finding and node >= 0 and count[node] <= close:
            same_finding = chosen[node]
            node = np.int64(parent[node])
        if same_finding:
            continue
        result[found] = candidate
        found += 1
        chosen[candidate] = True
        node = np.int64(candidate)
        while node >= 0 and count[node] <= close:
            covered[node] = True
            node = np.int64(parent[node])
    return result[:found]
