"""Whole sequences as caches of slots and entries hold them: the first so many tokens of a request, and what two have in common."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from traceprof.kernels.jit import jit
from traceprof.kernels.paths import Paths

Int: TypeAlias = Any
I32: TypeAlias = NDArray[np.int32]


class Jumps(NamedTuple):
    """Shortcuts up the static tree, so that two paths find their fork in few steps."""

    level: I32  # [node] nodes above it
    over: I32  # [node] an ancestor some way up, of level 0 itself; equal levels jump equally far


@jit
def jumps(p: Paths) -> Jumps:
    """Of each node: its level, and where to jump.

    A jump from v goes as far as two jumps from its parent if those are equally long, else to the parent: jumps of
    lengths 1, 1, 3, 1, 1, 3, 7, ..., with which any ancestor is O(log level) steps away.
    """
    nodes = p.parent.shape[0]
    level, over = np.full(nodes, -1, np.int32), np.empty(nodes, np.int32)
    chain = np.empty(nodes, np.int32)
    for start in range(nodes):
        n = 0
        v = np.int64(start)
        while v >= 0 and level[v] < 0:
            chain[n] = v
            n += 1
            v = np.int64(p.parent[v])
        for k in range(n - 1, -1, -1):
            v = np.int64(chain[k])
            above = np.int64(p.parent[v])
            if above < 0:
                level[v] = 0
                over[v] = v
                continue
            level[v] = level[above] + 1
            once = over[above]
            twice = over[once]
            over[v] = twice if level[above] - level[once] == level[once] - level[twice] else above
    return Jumps(level, over)


@jit
def common(p: Paths, j: Jumps, a: Int, a_tokens: Int, b: Int, b_tokens: Int) -> Int:
    """Tokens that the first a_tokens of request a and the first b_tokens of request b have in common."""
    most = min(a_tokens, b_tokens)
    v, w = np.int64(p.node[a]), np.int64(p.node[b])
    if v == w or v < 0 or w < 0:
        return most if v >= 0 and w >= 0 else 0
    if j.level[v] < j.level[w]:
        v, w = w, v
    if j.level[v] > j.level[w]:
        below = j.level[w] + 1
        while j.level[v] > below:
            v = np.int64(j.over[v]) if j.level[j.over[v]] >= below else np.int64(p.parent[v])
        if p.parent[v] == w:
            return min(most, p.begin[v])
        v = np.int64(p.parent[v])
    while p.parent[v] != p.parent[w]:
        if j.level[v] == 0:
            return 0  # other roots
        if j.over[v] != j.over[w]:
            v, w = np.int64(j.over[v]), np.int64(j.over[w])
        else:
            v, w = np.int64(p.parent[v]), np.int64(p.parent[w])
    return min(most, min(p.begin[v], p.begin[w]))
