"""Which replica each request is sent to, where that depends on what was sent before.

A router sees prompts and counts the requests that it has sent and that have not ended; nothing else.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from traceprof.kernels.jit import jit
from traceprof.kernels.paths import Paths

Int: TypeAlias = Any
Float: TypeAlias = Any
I32: TypeAlias = NDArray[np.int32]
I64: TypeAlias = NDArray[np.int64]


class Flights(NamedTuple):
    """Arrivals and ends, in microseconds."""

    arrival: I64  # [request] never falls
    end: I64  # [request]
    by_end: I64  # requests by (end, request)


@jit
def _land(f: Flights, r: Int, landed: Int, load: I64, server: I32) -> Int:
    """Requests that have ended when r arrives are no load any more; returns how many have landed."""
    n = f.arrival.shape[0]
    while landed < n:
        one = f.by_end[landed]
        if one >= r or f.end[one] > f.arrival[r]:
            break
        load[server[one]] -= 1
        landed += 1
    return landed


@jit
def _least(load: I64) -> Int:
    """The first with the fewest requests in flight."""
    best = 0
    for w in range(1, load.shape[0]):
        if load[w] < load[best]:
            best = w
    return best


@jit
def least_loaded(f: Flights, workers: Int) -> I32:
    """The one with the fewest requests in flight; of several the one that was sent the fewest so far, then the first."""
    n = f.arrival.shape[0]
    server = np.empty(n, np.int32)
    load, sent = np.zeros(workers, np.int64), np.zeros(workers, np.int64)
    landed = 0
    for r in range(n):
        landed = _land(f, r, landed, load, server)
        best = 0
        for w in range(1, workers):
            if load[w] < load[best] or (load[w] == load[best] and sent[w] < sent[best]):
                best = w
        server[r] = best
        load[best] += 1
        sent[best] += 1
    return server


@jit
def bounded(f: Flights, workers: Int, home: I32, factor: Float) -> I32:
    """Each request to its home, unless that has more than `factor` times the mean load: then to the least loaded."""
    n = f.arrival.shape[0]
    server = np.empty(n, np.int32)
    load = np.zeros(workers, np.int64)
    total = 0
    landed = 0
    for r in range(n):
        before = landed
        landed = _land(f, r, landed, load, server)
        total -= landed - before
        w = np.int64(home[r])
        most = (total + 1) / workers * factor
        if total > 0 and load[w] > most:
            other = _least(load)
            if load[other] <= most:
                w = other
        server[r] = w
        load[w] += 1
        total += 1
    return server


@jit
def _imbalanced(load: I64, absolute: Int, relative: Float) -> Any:
    most, fewest = load[0], load[0]
    for w in range(1, load.shape[0]):
        most, fewest = max(most, load[w]), min(fewest, load[w])
    return most - fewest > absolute and np.float32(most) > np.float32(fewest) * np.float32(relative)


@jit
def cache_aware(p: Paths, f: Flights, workers: Int, threshold: Float, absolute: Int, relative: Float) -> I32:
    """SGLang's rule: to the first one who was sent the longest known prefix, if that is long enough.

    p  prompts as whole nodes, see `prompt_paths`. A node belongs to whom it was first sent to.
    """
    n = f.arrival.shape[0]
    server = np.empty(n, np.int32)
    owner = np.full(p.parent.shape[0], -1, np.int32)
    load = np.zeros(workers, np.int64)
    landed = 0
    for r in range(n):
        landed = _land(f, r, landed, load, server)
        known = np.int64(p.node[r])
        while known >= 0 and owner[known] < 0:
            known = np.int64(p.parent[known])
        w = _least(load)
        if known >= 0 and not _imbalanced(load, absolute, relative):
            share = np.float32(p.end[known]) / np.float32(p.end[p.node[r]])
            if share > np.float32(threshold):
                w = np.int64(owner[known])
        v = np.int64(p.node[r])
        while v != known:
            owner[v] = w
            v = np.int64(p.parent[v])
        server[r] = w
        load[w] += 1
    return server


@jit
def cache_aware_each(
    p: Paths, f: Flights, workers: Int, threshold: Float, absolute: Int, relative: Float
) -> I32:
    """vLLM's rule: of those who were sent the longest known prefix, to the least loaded, if it is long enough.

    p  prompts as whole nodes, see `prompt_paths`. At most 64 workers: who was sent a node is a mask.
    """
    n = f.arrival.shape[0]
    server = np.empty(n, np.int32)
    sent = np.zeros(p.parent.shape[0], np.uint64)
    load = np.zeros(workers, np.int64)
    landed = 0
    for r in range(n):
        landed = _land(f, r, landed, load, server)
        known = np.int64(p.node[r])
        while known >= 0 and sent[known] == 0:
            known = np.int64(p.parent[known])
        w = _least(load)
        if (
            known >= 0
            and not _imbalanced(load, absolute, relative)
            and p.end[known] / p.end[p.node[r]] > np.float64(np.float32(threshold))
        ):
            w = np.int64(-1)
            for one in range(workers):
                if sent[known] >> np.uint64(one) & np.uint64(1) and (w < 0 or load[one] < load[w]):
                    w = np.int64(one)
        mine = np.uint64(1) << np.uint64(w)
        v = np.int64(p.node[r])
        while v >= 0 and sent[v] & mine == 0:
            sent[v] |= mine
            v = np.int64(p.parent[v])
        server[r] = w
        load[w] += 1
    return server
