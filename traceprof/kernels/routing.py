"""Which replica each request is sent to, where that depends on what was sent before.

A router sees prompts and counts the requests that it has sent and that have not ended; nothing else.
"""

from __future__ import annotations

import heapq
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
def _least_of(load: I64, mask: Any) -> Int:
    """The first of those in the mask with the fewest requests in flight."""
    best = -1
    for w in range(load.shape[0]):
        if mask >> np.uint64(w) & np.uint64(1) and (best < 0 or load[w] < load[best]):
            best = w
    return best


@jit
def _still(mask: Any, owner: Int) -> Int:
    """The owner, if it is in the mask, else the first that is."""
    if mask >> np.uint64(owner) & np.uint64(1):
        return np.int64(owner)
    first = np.int64(0)
    while mask >> np.uint64(first) & np.uint64(1) == 0:
        first += 1
    return first


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
            w = _least_of(load, sent[known])
        mine = np.uint64(1) << np.uint64(w)
        v = np.int64(p.node[r])
        while v >= 0 and sent[v] & mine == 0:
            sent[v] |= mine
            v = np.int64(p.parent[v])
        server[r] = w
        load[w] += 1
    return server


class Forest(NamedTuple):
    """A router's tree that is cut back: nodes of the static tree in stretches, as the router's own nodes would be.

    A stretch goes down to its bottom, where somebody's prompt ended or two parted. Who was sent one node of it was
    sent all of it. Timestamps are those of a counter, 0 where a stretch was only passed.
    """

    sent: NDArray[np.uint64]  # [node] mask of workers
    owner: I32  # [node] whom it was sent first
    bottom: I64  # [node] the last node of its stretch
    stamp: NDArray[np.int64]  # [node, worker] of stretches, at their bottom
    size: I64  # [worker] tokens
    clock: I64  # [1]


@jit
def _split(p: Paths, t: Forest, v: Int) -> None:
    """Let a stretch end at v, which lies above its bottom: both parts keep the timestamps."""
    below = t.bottom[v]
    for w in range(t.stamp.shape[1]):
        t.stamp[v, w] = t.stamp[below, w]
    end = v
    while v >= 0 and t.bottom[v] == below:
        t.bottom[v] = end
        v = np.int64(p.parent[v])


@jit
def _remember(p: Paths, t: Forest, end: Int, known: Int, w: Int) -> None:
    """A prompt that ends at `end`, of which the tree has the nodes down to `known`, was sent to w."""
    if end < 0:
        t.clock[0] += 1
        return
    mine = np.uint64(1) << np.uint64(w)
    v = end
    while v != known:  # new nodes: one stretch
        t.sent[v] = mine
        t.owner[v] = w
        t.bottom[v] = end
        t.size[w] += p.end[v] - p.begin[v]
        v = np.int64(p.parent[v])
    if known >= 0 and t.bottom[known] != known:
        _split(p, t, known)
    v = known
    while v >= 0 and t.sent[v] & mine == 0:
        t.sent[v] |= mine
        t.size[w] += p.end[v] - p.begin[v]
        if t.bottom[v] == v:
            t.stamp[v, w] = 0
        v = np.int64(p.parent[v])
    t.clock[0] += 1
    t.stamp[end, w] = t.clock[0] - 1


@jit
def _cut_back(p: Paths, t: Forest, w: Int, room: Int) -> None:
    """Take leaves from w, the oldest first, until no more than `room` tokens are left."""
    mine = np.uint64(1) << np.uint64(w)
    nodes = p.parent.shape[0]
    children = np.zeros(nodes, np.int32)
    for v in range(nodes):
        if t.sent[v] & mine and p.parent[v] >= 0:
            children[p.parent[v]] += 1
    leaves: Any = [(t.stamp[v, w], v) for v in range(nodes) if t.sent[v] & mine != 0 and children[v] == 0]
    heapq.heapify(leaves)
    while t.size[w] > room and len(leaves) > 0:
        end = np.int64(heapq.heappop(leaves)[1])
        above = end
        while above >= 0 and t.bottom[above] == end:
            t.sent[above] &= ~mine
            t.size[w] -= p.end[above] - p.begin[above]
            above = np.int64(p.parent[above])
        if above >= 0:
            children[above] -= 1
            if children[above] == 0:
                heapq.heappush(leaves, (t.stamp[above, w], above))


@jit
def cache_aware_forgetful(
    p: Paths,
    f: Flights,
    workers: Int,
    threshold: Float,
    absolute: Int,
    relative: Float,
    each: Int,
    room: Int,
    every: Int,
) -> I32:
    """Both rules, with a tree that is cut back to `room` tokens a worker every so many microseconds.

    each  1: vLLM's rule, as `cache_aware_each`; 0: SGLang's, as `cache_aware`, where a stretch whose owner lost it goes
          to the first who has it, and every eighth look at a stretch renews it
    """
    n = f.arrival.shape[0]
    nodes = p.parent.shape[0]
    t = Forest(
        np.zeros(nodes, np.uint64),
        np.full(nodes, -1, np.int32),
        np.full(nodes, -1, np.int64),
        np.zeros((nodes, workers), np.int64),
        np.zeros(workers, np.int64),
        np.full(1, workers, np.int64),  # each worker is entered with an empty prompt
    )
    server = np.empty(n, np.int32)
    load = np.zeros(workers, np.int64)
    landed = 0
    due = f.arrival[0] + every if n > 0 else 0
    for r in range(n):
        if f.arrival[r] >= due:
            for w in range(workers):
                if t.size[w] > room:
                    _cut_back(p, t, w, room)
            due += (f.arrival[r] - due) // every * every + every
        landed = _land(f, r, landed, load, server)
        end = np.int64(p.node[r])
        known = end
        while known >= 0 and t.sent[known] == 0:
            known = np.int64(p.parent[known])
        w = _least(load)
        if not _imbalanced(load, absolute, relative):
            if each:
                if known >= 0 and p.end[known] / p.end[end] > np.float64(np.float32(threshold)):
                    w = _least_of(load, t.sent[known])
            else:
                t.clock[0] += 1
                if known >= 0:
                    first = _still(t.sent[known], t.owner[known])
                    if (t.clock[0] - 1) & 7 == 0:
                        t.stamp[t.bottom[known], first] = t.clock[0] - 1
                    share = np.float32(p.end[known]) / np.float32(p.end[end])
                    if share > np.float32(threshold):
                        w = first
        _remember(p, t, end, known, w)
        server[r] = w
        load[w] += 1
    return server
