"""Prompts as paths whose nodes they always pass whole: what routers and providers compare, who never see an output.

In the tree of all sequences a prompt may end inside a node. Cut there, every request's prompt is the chain of nodes from
`node[request]` to a root, so whatever is known about one token of a node is known about all of them.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from traceprof.kernels.jit import jit
from traceprof.kernels.paths import Paths

Int: TypeAlias = Any
I64: TypeAlias = NDArray[np.int64]


@jit
def nodes_at(p: Paths, depth: I64) -> I64:
    """For each request, the node of its path in which the first depth[request] tokens end; -1 - root for none."""
    found = np.empty(p.node.shape[0], np.int64)
    for r in range(found.shape[0]):
        v = np.int64(p.node[r])
        while v >= 0 and p.begin[v] >= depth[r]:
            v = np.int64(p.parent[v])
        found[r] = v
    return found


def prompt_paths(p: Paths, prompt: I64) -> Paths:
    """The tree cut at the end of every prompt; `node` is then where a prompt ends, and all of that node is of the prompt."""
    cut, ends = cut_paths(p, (prompt,))
    return cut._replace(node=ends[0].astype(np.int32))


def cut_paths(p: Paths, depths: tuple[I64, ...]) -> tuple[Paths, list[I64]]:
    """The tree cut at some depths [request] of every request's path, and the nodes that end there (-1 - root for depth 0).

    `node` is where the first of them ends.
    """
    at = [nodes_at(p, depth) for depth in depths]
    # a child that begins inside its parent: those who pass there do not pass what lies below in the parent
    parent = p.parent.astype(np.int64)
    inside = np.flatnonzero(parent >= 0)
    inside = inside[p.begin[inside] < p.end[parent[inside]]]
    where = np.concatenate([*at, parent[inside], np.arange(len(parent))])
    depth = np.concatenate([*depths, p.begin[inside], p.end])
    kept = where >= 0
    where, depth = where[kept], depth[kept]
    order = np.lexsort((depth, where))
    where, depth = where[order], depth[order]
    new = np.ones(len(where), np.bool_)
    new[1:] = (where[1:] != where[:-1]) | (depth[1:] != depth[:-1])
    where, depth = where[new], depth[new]  # piece k ends at that depth of that node
    first = np.searchsorted(where, np.arange(len(parent)))

    def piece(node: I64, depth_in_it: I64) -> I64:
        """The number of the piece of a node that ends at a depth, which was cut."""
        found = node.copy()
        real = node >= 0
        found[real] = _find(first, depth, node[real], depth_in_it[real])
        return found

    head = np.zeros(len(where), np.bool_)
    head[first] = True
    above = np.arange(len(where)) - 1
    above[first] = piece(parent, p.begin)
    begin = np.empty(len(where), np.int64)
    begin[first] = p.begin
    begin[~head] = depth[np.flatnonzero(~head) - 1]
    ends = [piece(node, d) for node, d in zip(at, depths, strict=True)]
    return Paths(above.astype(np.int32), begin, depth, ends[0].astype(np.int32)), ends


@jit
def _find(first: I64, depth: I64, node: I64, wanted: I64) -> I64:
    """Of each node's pieces, the one that ends at the wanted depth (or, should there be none, the first below it)."""
    found = np.empty(node.shape[0], np.int64)
    for i in range(node.shape[0]):
        low = first[node[i]]
        high = first[node[i] + 1] - 1 if node[i] + 1 < first.shape[0] else depth.shape[0] - 1
        while low < high:
            middle = (low + high) // 2
            if depth[middle] < wanted[i]:
                low = middle + 1
            else:
                high = middle
        found[i] = low
    return found
