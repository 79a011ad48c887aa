"""Requests as paths of one tree that never changes: what a cache model compares instead of tokens.

The radix tree of all sequences (prompt + output) of a trace is grown once, see `traceprof.caches.traffic`. After that two
sequences agree as far as their paths have the same nodes. Node v covers the depths (begin[v], end[v]] in tokens;
the state "the first d tokens" is known by (v, d), and by the number base[v] + d - begin[v] - 1.
A sequence may end inside its last node, and a child may begin inside its parent (where a trace knows blocks of more
than one token): of a parent counts what lies above its child's begin.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from traceprof.kernels.jit import jit

Int: TypeAlias = Any
I32: TypeAlias = NDArray[np.int32]
I64: TypeAlias = NDArray[np.int64]


class Paths(NamedTuple):
    """The tree, and where each request ends in it."""

    parent: I32  # [node] the node above, or -1 - root
    begin: I64  # [node] tokens above it
    end: I64  # [node] tokens down to its end
    node: I32  # [request] where its prompt and output end; -1 - root for an empty one


@jit
def path(p: Paths, request: Int, tokens: Int, nodes: I32, ends: I64) -> Int:
    """The nodes of the request's first `tokens` tokens, from the root down, and the depth up to which each counts.

    Fills nodes[:n] and ends[:n] and returns n; they must have room for the longest path.
    """
    n = 0
    v = np.int64(p.node[request])
    upto = tokens
    while v >= 0:
        if p.begin[v] < upto:
            nodes[n] = v
            ends[n] = min(p.end[v], upto)
            n += 1
        upto = min(upto, p.begin[v])
        v = np.int64(p.parent[v])
    for i in range(n // 2):
        j = n - 1 - i
        nodes[i], nodes[j] = nodes[j], nodes[i]
        ends[i], ends[j] = ends[j], ends[i]
    return n


@jit
def block_base(p: Paths, block: Int) -> I64:
    """For each node, the number of the first block that ends in it; one entry more: how many blocks there are.

    Block k covers the tokens [k * block, (k + 1) * block) and belongs to the node in which it ends: there it has the
    number base[v] + k - begin[v] // block. Equal numbers mean equal prefixes, as a chained hash does.
    """
    nodes = p.parent.shape[0]
    base = np.empty(nodes + 1, np.int64)
    total = 0
    for v in range(nodes):
        base[v] = total
        total += p.end[v] // block - p.begin[v] // block
    base[nodes] = total
    return base


@jit
def blocks(p: Paths, base: I64, block: Int, request: Int, upto: Int, numbers: I32) -> Int:
    """Numbers of the full blocks among the request's first `upto` tokens, first to last; returns how many."""
    count = upto // block
    filled = count
    v = np.int64(p.node[request])
    while filled > 0:
        above = p.begin[v] // block  # blocks that end above this node
        for k in range(above, filled):
            numbers[k] = base[v] + k - above
        filled = min(filled, above)
        v = np.int64(p.parent[v])
    return count


@jit
def longest(p: Paths) -> tuple[Int, Int]:
    """(most nodes on a request's path, most tokens of one): room for `path` and `blocks`."""
    nodes = 0
    tokens = 0
    for request in range(p.node.shape[0]):
        v = np.int64(p.node[request])
        if v >= 0:
            tokens = max(tokens, p.end[v])
        n = 0
        while v >= 0:
            n += 1
            v = np.int64(p.parent[v])
        nodes = max(nodes, n)
    return nodes, tokens


@jit
def used(p: Paths) -> I32:
    """For each node its number among those that some request's path passes, in the same order; -1 for the others."""
    number = np.full(p.parent.shape[0], -1, np.int32)
    for request in range(p.node.shape[0]):
        v = np.int64(p.node[request])
        while v >= 0 and number[v] < 0:
            number[v] = 0
            v = np.int64(p.parent[v])
    kept = 0
    for node in range(number.shape[0]):
        if number[node] == 0:
            number[node] = kept
            kept += 1
    return number


@jit
def shared(p: Paths, upto: I64, like: I64, tokens: I64) -> None:
    """For each request an earlier one that begins with the longest run of the same tokens, and the length of that run.

    Of each only its first upto[request] tokens are looked at. Fills like[request] (-1 where it begins as none before) and tokens[request]; see `tree_of_shared`, which is the way back.
    """
    most, _ = longest(p)
    nodes, ends = np.empty(most, np.int32), np.empty(most, np.int64)
    reached = p.begin.copy()  # [node] how far down some request went there
    by = np.full(p.parent.shape[0], -1, np.int64)  # [node] the request that did
    for request in range(p.node.shape[0]):
        n = path(p, request, upto[request], nodes, ends)
        like[request] = -1
        tokens[request] = 0
        together = True
        for i in range(n):
            v = np.int64(nodes[i])
            if together and by[v] >= 0:
                like[request] = by[v]
                tokens[request] = min(reached[v], ends[i])
            together = together and reached[v] >= ends[i]
            if ends[i] > reached[v]:
                reached[v] = ends[i]
                by[v] = request


@jit
def tree_of_shared(like: I64, tokens: I64, length: I64, parent: I32, begin: I64, end: I64, node: I32) -> Int:
    """The tree of sequences of which is only known what `shared` tells; returns how many nodes there are, two a request at most.

    Fills parent, begin, end [node] and node [request].
    """
    made = 0
    for request in range(like.shape[0]):
        above = np.int64(-1)
        if tokens[request] > 0:
            v = np.int64(node[like[request]])
            while begin[v] >= tokens[request]:
                v = np.int64(parent[v])
            above = v
            if end[v] > tokens[request]:  # cut: the lower part keeps its number
                above = np.int64(made)
                parent[made], begin[made], end[made] = parent[v], begin[v], tokens[request]
                parent[v] = made
                begin[v] = tokens[request]
                made += 1
        if length[request] > tokens[request]:
            parent[made], begin[made], end[made] = above, tokens[request], length[request]
            above = np.int64(made)
            made += 1
        node[request] = above
    return made
