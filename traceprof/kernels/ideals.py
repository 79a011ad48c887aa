"""Two caches that no engine has: one that forgets nothing, and LRU token by token."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from traceprof.kernels.clock import admitted, ended, grown, step
from traceprof.kernels.jit import jit
from traceprof.kernels.paths import Paths, longest, path
from traceprof.kernels.state import ADMIT, DONE, END, Clock

Int: TypeAlias = Any
I64: TypeAlias = NDArray[np.int64]


@jit
def in_groups(p: Paths, prompt: I64, which: I64, group: I64, hits: I64) -> None:
    """Prompts only: each group of requests has a cache of its own that forgets nothing. Fills hits[which].

    which   requests, group by group, each group in the order of arrival
    group   [request] its group, at least 0
    """
    held = p.begin.copy()  # [node] down to which depth
    owner = np.full(held.shape[0], -1, np.int64)  # [node] the group that held is about
    for r in which:
        hit = 0
        upto = prompt[r]
        v = np.int64(p.node[r])
        while v >= 0:
            if p.begin[v] < upto:
                if owner[v] != group[r]:
                    owner[v] = group[r]
                    held[v] = p.begin[v]
                deep = min(p.end[v], upto)
                hit += min(held[v], deep) - p.begin[v]
                held[v] = max(held[v], deep)
            upto = min(upto, p.begin[v])
            v = np.int64(p.parent[v])
        hits[r] = hit


@jit
def infinite(p: Paths, c: Clock, unsampled: Int) -> None:
    """Everything stays: a prompt from its arrival, its output from the request's end. Fills c.hits.

    Of an output all is kept but the last `unsampled` tokens: 1 is what an engine has the KV of.
    """
    held = p.begin.copy()
    stack, ends = np.empty(longest(p)[0], np.int32), np.empty(longest(p)[0], np.int64)
    while True:
        kind, r, _ = step(c)
        if kind == DONE:
            break
        if kind == ADMIT:
            n = path(p, r, c.prompt[r], stack, ends)
            hit = 0
            for i in range(n):
                v = stack[i]
                hit += max(0, min(held[v], ends[i]) - p.begin[v])
                held[v] = max(held[v], ends[i])
            admitted(c, r, hit)
        elif kind == END:
            n = path(p, r, c.prompt[r] + max(c.output[r] - unsampled, 0), stack, ends)
            for i in range(n):
                held[stack[i]] = max(held[stack[i]], ends[i])
            ended(c, r)
        else:
            grown(c, r, c.final[r])


# the list of nodes by last touch: entry `nodes` is the head and tail of a ring


@jit
def _unlink(before: I64, after: I64, v: Int) -> None:
    after[before[v]] = after[v]
    before[after[v]] = before[v]


@jit
def _append(before: I64, after: I64, v: Int) -> None:
    ring = before.shape[0] - 1
    before[v] = before[ring]
    after[v] = ring
    after[before[ring]] = v
    before[ring] = v


@jit
def lru(p: Paths, c: Clock, outputs: Int, capacity: Int) -> Int:
    """LRU over tokens: of one request the last are the first to go. Nothing is pinned. Fills c.hits; returns tokens evicted.

    A prompt is touched as a whole when it arrives, prompt and output (where outputs is 1) when the request ends.
    """
    nodes = p.parent.shape[0]
    held = p.begin.copy()
    before, after = np.empty(nodes + 1, np.int64), np.empty(nodes + 1, np.int64)
    before[nodes] = after[nodes] = nodes
    stack, ends = np.empty(longest(p)[0], np.int32), np.empty(longest(p)[0], np.int64)
    total = 0
    evicted = 0
    while True:
        kind, r, _ = step(c)
        if kind == DONE:
            break
        if kind == ADMIT:
            upto = c.prompt[r]
        elif kind == END:
            if not outputs:
                ended(c, r)
                continue
            upto = c.final[r]
        else:
            grown(c, r, c.final[r])
            continue
        n = path(p, r, upto, stack, ends)
        hit = 0
        for k in range(n):  # from the end up: the root becomes the most recent
            v = stack[n - 1 - k]
            had = held[v] - p.begin[v]
            if had > 0:
                _unlink(before, after, v)
                hit += min(held[v], ends[n - 1 - k]) - p.begin[v]
            held[v] = max(held[v], ends[n - 1 - k])
            total += held[v] - p.begin[v] - had
            _append(before, after, v)
        while total > capacity:
            v = after[nodes]
            out = min(total - capacity, held[v] - p.begin[v])
            held[v] -= out
            total -= out
            evicted += out
            if held[v] == p.begin[v]:
                _unlink(before, after, v)
        if kind == ADMIT:
            admitted(c, r, hit)
        else:
            ended(c, r)
    return evicted
