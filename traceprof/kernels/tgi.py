"""TGI's radix trie of prompts, in pages.

As in `traceprof.kernels.page_tree` a cached node covers the pages (top, end] of a path of the static tree, down to the static
node `tail`; `home` is the static node of its first page. Other than there a lookup cuts nothing: the request stands on
the node in which its match ends, and holds all of it. Of leaves that were used at the same time the one of the lower
number goes first; numbers are given as TGI gives them, the one that was freed last first.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from traceprof.kernels.clock import admitted, ended, grown, refused, step
from traceprof.kernels.jit import jit
from traceprof.kernels.paths import Paths, longest, path
from traceprof.kernels.state import ADMIT, DONE, GROW, Clock

Int: TypeAlias = Any
I32: TypeAlias = NDArray[np.int32]
I64: TypeAlias = NDArray[np.int64]

NODE = np.dtype(
    [
        ("top", np.int64),  # pages above it
        ("end", np.int64),  # pages down to its end; top: the node is spare
        ("time", np.int64),  # last use
        ("above", np.int32),  # the cached node it hangs on, -1: the root
        ("tail", np.int32),  # static node of its last page
        ("home", np.int32),  # static node of its first page
        ("next", np.int32),  # the next cached node, or spare one, of the same list, -1: none
        ("refs", np.int32),  # children, and running requests that stand on it; 0: a leaf that may be evicted
    ]
)

# fields of _Trie.tally
_USED, _SPARE, _HEAP, _TIME, _MARK, _FREE, _EVICTED = range(7)
_ROOM = 16  # entries of the heap and nodes that one event may add


class _Trie(NamedTuple):
    p: Paths  # in pages
    nodes: Any  # [cached node] of NODE
    first: I32  # [static node] a cached node at home there, -1: none
    mark: I32  # [static node] the last path that passed it
    place: I32  # [static node] where on that path
    on: I32  # the path
    upto: I64
    heap_key: I64  # leaves, the first to go on top; some entries are stale
    heap_node: I32
    tally: I64


@jit
def _key(t: _Trie, v: Int) -> Int:
    return t.nodes[v].time * (np.int64(1) << 31) + v


@jit
def _offer(t: _Trie, v: Int) -> None:
    """Enter a leaf as one that may be evicted."""
    key = _key(t, v)
    at = t.tally[_HEAP]
    t.tally[_HEAP] = at + 1
    while at > 0:
        above = (at - 1) >> 1
        if t.heap_key[above] <= key:
            break
        t.heap_key[at] = t.heap_key[above]
        t.heap_node[at] = t.heap_node[above]
        at = above
    t.heap_key[at] = key
    t.heap_node[at] = v


@jit
def _pop(t: _Trie) -> Int:
    """The leaf that goes first, -1 when there is none."""
    while t.tally[_HEAP] > 0:
        v = np.int64(t.heap_node[0])
        key = t.heap_key[0]
        size = t.tally[_HEAP] - 1
        t.tally[_HEAP] = size
        last_key = t.heap_key[size]
        last = t.heap_node[size]
        at = 0
        while True:
            below = 2 * at + 1
            if below >= size:
                break
            if below + 1 < size and t.heap_key[below + 1] < t.heap_key[below]:
                below += 1
            if last_key <= t.heap_key[below]:
                break
            t.heap_key[at] = t.heap_key[below]
            t.heap_node[at] = t.heap_node[below]
            at = below
        t.heap_key[at] = last_key
        t.heap_node[at] = last
        if t.nodes[v].end > t.nodes[v].top and t.nodes[v].refs == 0 and _key(t, v) == key:
            return v
    return -1


@jit
def _let_go(t: _Trie, v: Int) -> None:
    """One reference less; the root, -1, counts none."""
    if v >= 0:
        t.nodes[v].refs -= 1
        if t.nodes[v].refs == 0:
            _offer(t, v)


@jit
def _touch(t: _Trie, v: Int) -> None:
    t.nodes[v].time = t.tally[_TIME]
    if t.nodes[v].refs == 0:
        _offer(t, v)


@jit
def _new(t: _Trie, above: Int, home: Int, tail: Int, top: Int, end: Int, refs: Int) -> Int:
    v = t.tally[_SPARE]
    if v >= 0:
        t.tally[_SPARE] = t.nodes[v].next
    else:
        v = t.tally[_USED]
        t.tally[_USED] += 1
    t.nodes[v].top = top
    t.nodes[v].end = end
    t.nodes[v].time = t.tally[_TIME]
    t.nodes[v].above = above
    t.nodes[v].tail = tail
    t.nodes[v].home = home
    t.nodes[v].next = t.first[home]
    t.first[home] = v
    t.nodes[v].refs = refs
    if refs == 0:
        _offer(t, v)
    return v


@jit
def _leave_home(t: _Trie, v: Int) -> None:
    home = t.nodes[v].home
    at = t.first[home]
    if at == v:
        t.first[home] = t.nodes[v].next
        return
    while t.nodes[at].next != v:
        at = t.nodes[at].next
    t.nodes[at].next = t.nodes[v].next


@jit
def _with_page(p: Paths, v: Int, page: Int) -> Int:
    """The static node, v or one above it, in which that page, counted from 1, ends."""
    while p.begin[v] >= page:
        v = np.int64(p.parent[v])
    return v


@jit
def _evict(t: _Trie, pages: Int) -> None:
    """Throw out leaf after leaf, of the last one only the end that is needed, until so many pages are free or none is left."""
    gone = 0
    while gone < pages:
        v = _pop(t)
        if v < 0:
            break
        size = t.nodes[v].end - t.nodes[v].top
        if pages - gone < size:
            end = t.nodes[v].end - (pages - gone)
            t.nodes[v].end = end
            t.nodes[v].tail = _with_page(t.p, np.int64(t.nodes[v].tail), end)
            _offer(t, v)
            gone = pages
            break
        gone += size
        _leave_home(t, v)
        t.nodes[v].end = t.nodes[v].top
        t.nodes[v].next = t.tally[_SPARE]
        t.tally[_SPARE] = v
        _let_go(t, np.int64(t.nodes[v].above))
    t.tally[_FREE] += gone
    t.tally[_EVICTED] += gone


@jit
def _walk(t: _Trie, request: Int, pages: Int) -> tuple[Int, Int, Int]:
    """(the cached node in which the longest known prefix of the request's first pages ends, its length, where on the path)."""
    n = path(t.p, request, pages, t.on, t.upto)
    t.tally[_MARK] += 1
    mark = t.tally[_MARK]
    for i in range(n):
        t.mark[t.on[i]] = mark
        t.place[t.on[i]] = i
    t.tally[_TIME] += 1
    at: Int = -1
    depth: Int = 0
    i = 0
    while depth < pages:
        while t.upto[i] <= depth:
            i += 1
        v = np.int64(t.first[t.on[i]])
        while v >= 0 and t.nodes[v].top != depth:
            v = np.int64(t.nodes[v].next)
        if v < 0:
            break
        _touch(t, v)
        at = v
        s = np.int64(t.nodes[v].tail)
        depth = t.nodes[v].end
        while t.mark[s] != mark:
            depth = t.p.begin[s]
            s = np.int64(t.p.parent[s])
        depth = min(depth, t.upto[t.place[s]])
        if depth < t.nodes[v].end:
            break
    return at, depth, i


@jit
def _insert(t: _Trie, request: Int, pages: Int) -> Int:
    """Keep the request's first pages; returns how many were there already."""
    at, depth, i = _walk(t, request, pages)
    if depth == pages:
        return depth
    while t.upto[i] <= depth:
        i += 1
    if at >= 0 and depth < t.nodes[at].end:  # cut: the lower part keeps its number and who stands on it
        _leave_home(t, at)
        tail = np.int64(t.nodes[at].tail)
        upper = _new(
            t, np.int64(t.nodes[at].above), np.int64(t.nodes[at].home), _with_page(t.p, tail, depth),
            t.nodes[at].top, depth, 1,
        )  # fmt: skip
        home = _with_page(t.p, tail, depth + 1)
        t.nodes[at].above = upper
        t.nodes[at].top = depth
        t.nodes[at].home = home
        t.nodes[at].next = t.first[home]
        t.first[home] = at
        at = upper
    last = i
    while t.upto[last] < pages:
        last += 1
    if at >= 0:
        t.nodes[at].refs += 1
    _new(t, at, np.int64(t.on[i]), np.int64(t.on[last]), depth, pages, 0)
    return depth


@jit
def _roomy(t: _Trie) -> _Trie:
    """The same with room for whatever one event adds."""
    nodes, key, node = t.nodes, t.heap_key, t.heap_node
    if t.tally[_USED] + _ROOM > nodes.shape[0]:
        nodes = np.empty(2 * nodes.shape[0], NODE)
        nodes[: t.tally[_USED]] = t.nodes[: t.tally[_USED]]
    if t.tally[_HEAP] + _ROOM > key.shape[0]:
        t.tally[_HEAP] = 0
        if 2 * t.tally[_USED] + _ROOM > key.shape[0]:
            key = np.empty(4 * t.tally[_USED] + _ROOM, np.int64)
            node = np.empty(4 * t.tally[_USED] + _ROOM, np.int32)
        fresh = _Trie(t.p, nodes, t.first, t.mark, t.place, t.on, t.upto, key, node, t.tally)
        for v in range(t.tally[_USED]):
            if nodes[v].end > nodes[v].top and nodes[v].refs == 0:
                _offer(fresh, v)
    return _Trie(t.p, nodes, t.first, t.mark, t.place, t.on, t.upto, key, node, t.tally)


@jit
def tgi(p: Paths, c: Clock, page: Int, total: Int) -> Int:
    """Requests through a trie over `total` pages. Fills c.hits; returns how many cached pages were evicted."""
    requests = c.prompt.shape[0]
    static = p.parent.shape[0]
    widest = longest(p)[0] + 1
    t = _Trie(
        Paths(p.parent, p.begin // page, p.end // page, p.node),
        np.empty(1024, NODE),
        np.full(static, -1, np.int32),
        np.full(static, -1, np.int32),
        np.empty(static, np.int32),
        np.empty(widest, np.int32),
        np.empty(widest, np.int64),
        np.empty(4096, np.int64),
        np.empty(4096, np.int32),
        np.zeros(7, np.int64),
    )
    t.tally[_SPARE] = -1
    t.tally[_FREE] = total
    stands = np.full(requests, -1, np.int32)  # [request] the node that it holds
    known = np.zeros(requests, np.int64)  # [request] pages that were found
    while True:
        kind, r, length = step(c)
        if kind == DONE:
            break
        t = _roomy(t)
        if kind == ADMIT:
            at, found, _ = _walk(t, r, length // page)
            if at >= 0:
                t.nodes[at].refs += 1
            wanted = (c.final[r] + page - 1) // page - found
            if wanted > t.tally[_FREE]:
                _evict(t, wanted - t.tally[_FREE])
            if wanted > t.tally[_FREE]:
                _let_go(t, at)
                refused(c)
                continue
            t.tally[_FREE] -= wanted
            stands[r] = at
            known[r] = found
            admitted(c, r, min(found * page, length - 1))
        elif kind == GROW:
            grown(c, r, length)
        else:
            _let_go(t, np.int64(stands[r]))
            prompt = c.prompt[r] // page
            there = known[r]
            if c.prompt[r] > known[r] * page and prompt > 0:
                there = _insert(t, r, prompt)
            held = (c.final[r] + page - 1) // page
            t.tally[_FREE] += held - prompt + there - known[r]
            ended(c, r)
    return t.tally[_EVICTED]
