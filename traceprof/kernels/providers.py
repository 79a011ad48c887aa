"""Caches that keep a prefix for a time, and are as large as they need to be: what API providers sell."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from traceprof.kernels.jit import jit
from traceprof.kernels.paths import Paths

Int: TypeAlias = Any
I64: TypeAlias = NDArray[np.int64]

JOIN = -(1 << 40)  # as the node of a write: where the request parted from all that was seen before


class Writes(NamedTuple):
    """Entries to be made, by (time, request)."""

    at: I64  # [write] microseconds
    request: I64  # [write]
    node: I64  # [write] the prefix down to its end is kept as one entry; JOIN; or -1 - root for nothing


@jit
def marked(p: Paths, arrival: I64, w: Writes, ttl: Int, minimum: Int) -> I64:
    """Hit tokens of each prompt where only whole entries can be read: the longest that the prompt begins with.

    p        prompts as whole nodes, cut at every mark
    ttl      us that an entry is kept after it was written or read
    minimum  tokens of the shortest prefix that is kept
    """
    n = arrival.shape[0]
    nodes = p.parent.shape[0]
    dies = np.full(nodes, np.iinfo(np.int64).min, np.int64)  # [node] of the entry that ends with it
    seen = np.full(nodes, np.iinfo(np.int64).min, np.int64)  # [node] until when it is remembered
    join = np.full(n, -1, np.int64)  # [request] the last node that was seen before
    hits = np.zeros(n, np.int64)
    done = 0
    for r in range(n):
        now = arrival[r]
        while done < w.at.shape[0] and w.at[done] <= now and w.request[done] < r:
            v = w.node[done]
            dead = w.at[done] + ttl
            if v == JOIN:
                v = join[w.request[done]]
                u = np.int64(p.node[w.request[done]])
                while u >= 0:
                    seen[u] = max(seen[u], dead)
                    u = np.int64(p.parent[u])
            if v >= 0 and p.end[v] >= minimum:
                dies[v] = max(dies[v], dead)
            done += 1
        v = np.int64(p.node[r])
        while v >= 0:
            if join[r] < 0 and seen[v] > now:
                join[r] = v
            if dies[v] > now:
                hits[r] = p.end[v]
                dies[v] = max(dies[v], now + ttl)
                break
            v = np.int64(p.parent[v])
        while v >= 0 and join[r] < 0:
            if seen[v] > now:
                join[r] = v
            v = np.int64(p.parent[v])
    return hits


@jit
def prefixes(p: Paths, arrival: I64, w: Writes, ttl: Int, minimum: Int, step: Int) -> I64:
    """Hit tokens of each prompt where every prefix of a prompt is kept, in steps; one token at least is computed.

    p     prompts as whole nodes
    w     one write a request: its whole prompt, whatever the node
    step  tokens
    """
    n = arrival.shape[0]
    dies = np.full(p.parent.shape[0], np.iinfo(np.int64).min, np.int64)
    hits = np.zeros(n, np.int64)
    done = 0
    for r in range(n):
        now = arrival[r]
        while done < w.at.shape[0] and w.at[done] <= now and w.request[done] < r:
            dead = w.at[done] + ttl
            v = np.int64(p.node[w.request[done]])
            while v >= 0:
                dies[v] = max(dies[v], dead)
                v = np.int64(p.parent[v])
            done += 1
        v = np.int64(p.node[r])
        if v < 0:
            continue
        length = p.end[v]
        while v >= 0 and dies[v] <= now:
            v = np.int64(p.parent[v])
        if v < 0:
            continue
        hit = min(p.end[v], length - 1) // step * step
        if hit >= minimum:
            hits[r] = hit
            while v >= 0:
                dies[v] = max(dies[v], now + ttl)
                v = np.int64(p.parent[v])
    return hits


@jit
def openings(p: Paths, group: I64) -> I64:
    """The last node of each request's path that requests of another group pass too; -1 - root for none.

    p  prompts as whole nodes
    """
    n = group.shape[0]
    first = np.full(p.parent.shape[0], -1, np.int64)  # [node] the group that passed first
    shared = np.zeros(p.parent.shape[0], np.bool_)
    for r in range(n):
        v = np.int64(p.node[r])
        while v >= 0:
            if first[v] < 0:
                first[v] = group[r]
            elif first[v] != group[r]:
                shared[v] = True
            v = np.int64(p.parent[v])
    found = np.empty(n, np.int64)
    for r in range(n):
        v = np.int64(p.node[r])
        while v >= 0 and not shared[v]:
            v = np.int64(p.parent[v])
        found[r] = v
    return found
