"""SGLang's radix cache of pages, evicted leaf by leaf.

A cached node covers the pages (top, end] of a path of the static tree, down to the static node `tail`; `home` is the
static node in which its first page ends. Equal states are the same page of the same static node, so the child that goes
on with a request's next page is found in the list of cached nodes at home there: no token is compared.
All depths here are in pages.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from traceprof.kernels.clock import admitted, ended, grown, preempted, refused, step
from traceprof.kernels.jit import jit
from traceprof.kernels.machine import COMPUTED
from traceprof.kernels.paths import Paths, longest, path
from traceprof.kernels.state import (
    ADMIT,
    CHUNK_TOKENS,
    DONE,
    GROW,
    HEAP,
    ON,
    TIME,
    UNLIMITED,
    Clock,
    push,
    take,
)

Int: TypeAlias = Any
I32: TypeAlias = NDArray[np.int32]
I64: TypeAlias = NDArray[np.int64]

LRU, LFU, SLRU, PRIORITY = range(4)
BATCH, ADMISSION, FIRST_TOKEN = range(3)
_AGE = np.int64(1) << 36  # a policy's first criterion, up to 2^26, stands above the time: 2 for each lookup

NODE = np.dtype(
    [
        ("top", np.int64),  # pages above it
        ("end", np.int64),  # pages down to its end
        ("time", np.int64),  # last access
        ("above", np.int32),  # the cached node it hangs on, -1: the root
        ("tail", np.int32),  # static node of its last page
        ("home", np.int32),  # static node of its first page
        (
            "next",
            np.int32,
        ),  # the next cached node of the same home, -1: none; of a spare node: the next spare one
        ("children", np.int32),
        ("locks", np.int32),  # running requests that stand on it or below
        ("hits", np.int32),
        ("priority", np.int32),
    ]
)

# fields of _Tree.tally
_USED, _SPARE, _HEAP, _TIME, _MARK, _FREE, _EVICTABLE, _EVICTED, _POLICY, _PROMISED, _SEEN = range(11)


class _Tree(NamedTuple):
    p: Paths  # in pages
    nodes: Any  # [cached node] of NODE
    first: I32  # [static node] a cached node at home there, -1: none
    mark: I32  # [static node] the last path that passed it
    place: I32  # [static node] where on that path
    on: I32  # the path
    upto: I64
    heap_key: I64  # leaves that may be evicted, the first to go on top; some entries are stale
    heap_node: I32
    tally: I64


@jit
def _key(t: _Tree, v: Int) -> Int:
    """What orders leaves for eviction, the smallest first."""
    policy = t.tally[_POLICY]
    first = 0
    if policy == LFU:
        first = t.nodes[v].hits
    elif policy == SLRU:
        first = 1 if t.nodes[v].hits >= 2 else 0
    elif policy == PRIORITY:
        first = t.nodes[v].priority
    return first * _AGE + t.nodes[v].time


@jit
def _offer(t: _Tree, v: Int) -> None:
    """Enter a node as one that may be evicted, if it may."""
    if t.nodes[v].children > 0 or t.nodes[v].locks > 0:
        return
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
def _pop(t: _Tree) -> Int:
    """The leaf that goes first, -1 when none may go."""
    while t.tally[_HEAP] > 0:
        v = t.heap_node[0]
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
        alive = t.nodes[v].end > t.nodes[v].top
        if alive and t.nodes[v].children == 0 and t.nodes[v].locks == 0 and _key(t, v) == key:
            return v
    return -1


@jit
def _new(t: _Tree, above: Int, home: Int, tail: Int, top: Int, end: Int) -> Int:
    v = t.tally[_SPARE]
    if v >= 0:
        t.tally[_SPARE] = t.nodes[v].next
    else:
        v = t.tally[_USED]
        t.tally[_USED] += 1
    t.nodes[v].top = top
    t.nodes[v].end = end
    t.nodes[v].time = t.tally[_TIME] + 1  # made after what this operation looked at
    t.nodes[v].above = above
    t.nodes[v].tail = tail
    t.nodes[v].home = home
    t.nodes[v].next = t.first[home]
    t.first[home] = v
    t.nodes[v].children = 0
    t.nodes[v].locks = 0
    t.nodes[v].hits = 0
    t.nodes[v].priority = 0
    return v


@jit
def _leave_home(t: _Tree, v: Int) -> None:
    home = t.nodes[v].home
    at = t.first[home]
    if at == v:
        t.first[home] = t.nodes[v].next
        return
    while t.nodes[at].next != v:
        at = t.nodes[at].next
    t.nodes[at].next = t.nodes[v].next


@jit
def _evict(t: _Tree, pages: Int) -> None:
    """Throw out whole leaves until at least so many pages are free."""
    gone = 0
    while gone < pages:
        v = _pop(t)
        if v < 0:
            break
        size = t.nodes[v].end - t.nodes[v].top
        gone += size
        _leave_home(t, v)
        above = t.nodes[v].above
        t.nodes[v].end = t.nodes[v].top
        t.nodes[v].next = t.tally[_SPARE]
        t.tally[_SPARE] = v
        if above >= 0:
            t.nodes[above].children -= 1
            _offer(t, above)
    t.tally[_FREE] += gone
    t.tally[_EVICTABLE] -= gone
    t.tally[_EVICTED] += gone


@jit
def _lock(t: _Tree, v: Int, change: Int) -> None:
    """Pin (1) or release (-1) everything from a node up to the root."""
    while v >= 0:
        if change > 0 and t.nodes[v].locks == 0:
            t.tally[_EVICTABLE] -= t.nodes[v].end - t.nodes[v].top
        t.nodes[v].locks += change
        if t.nodes[v].locks == 0:
            t.tally[_EVICTABLE] += t.nodes[v].end - t.nodes[v].top
            _offer(t, v)
        v = np.int64(t.nodes[v].above)


@jit
def _walk(t: _Tree, request: Int, pages: Int, insert: Int, known: Int, priority: Int) -> tuple[Int, Int]:
    """(the node that ends the longest cached prefix of the request's first pages, its length); one is cut if it must be.

    Every node on the way was looked at now, also the rest of one that is cut. With insert the rest of the pages becomes
    a leaf, which is the node returned; nodes behind the first `known` pages count a hit, and take a higher priority.
    """
    n = path(t.p, request, pages, t.on, t.upto)
    t.tally[_MARK] += 1
    mark = t.tally[_MARK]
    for i in range(n):
        t.mark[t.on[i]] = mark
        t.place[t.on[i]] = i
    t.tally[_TIME] += 2
    now = t.tally[_TIME]
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
        t.nodes[v].time = now
        # how far this node goes along the path
        s = np.int64(t.nodes[v].tail)
        same = np.int64(t.nodes[v].end)
        while t.mark[s] != mark:
            same = t.p.begin[s]
            s = np.int64(t.p.parent[s])
        same = min(same, t.upto[t.place[s]])
        if same < t.nodes[v].end:
            home = t.nodes[v].home
            _leave_home(t, v)
            tail = s
            while t.p.begin[tail] >= same:  # nodes without a page of their own
                tail = np.int64(t.p.parent[tail])
            upper = _new(t, t.nodes[v].above, home, tail, depth, same)
            t.nodes[upper].hits = t.nodes[v].hits
            t.nodes[upper].locks = t.nodes[v].locks
            t.nodes[upper].priority = t.nodes[v].priority
            t.nodes[upper].children = 1
            t.nodes[v].above = upper
            t.nodes[v].top = same
            new_home = np.int64(t.nodes[v].tail)
            while t.p.begin[new_home] > same:
                new_home = np.int64(t.p.parent[new_home])
            t.nodes[v].home = new_home
            t.nodes[v].next = t.first[new_home]
            t.first[new_home] = v
            _offer(t, v)
            v = np.int64(upper)
        else:
            _offer(t, v)
        if insert:
            t.nodes[v].priority = max(t.nodes[v].priority, priority)
            if same > known:
                t.nodes[v].hits += 1
            _offer(t, v)
        at = v
        depth = same
    matched = depth
    if insert and depth < pages:
        while t.upto[i] <= depth:
            i += 1
        leaf = _new(t, at, t.on[i], t.on[n - 1], depth, pages)
        t.nodes[leaf].priority = priority
        if pages > known:
            t.nodes[leaf].hits = 1
        if at >= 0:
            t.nodes[at].children += 1
        t.tally[_EVICTABLE] += pages - depth
        _offer(t, leaf)
        at = leaf
    return at, matched


@jit
def _roomy(t: _Tree) -> _Tree:
    """The same with room for whatever one event adds."""
    nodes, key, node = t.nodes, t.heap_key, t.heap_node
    if t.tally[_USED] + 16 > nodes.shape[0]:
        nodes = np.empty(2 * nodes.shape[0] + 16, NODE)
        nodes[: t.tally[_USED]] = t.nodes[: t.tally[_USED]]
    # releasing a path offers each of its nodes, evicting each node at most once
    wanted = t.tally[_HEAP] + 2 * t.on.shape[0] + t.tally[_USED] + 64
    if wanted > key.shape[0]:
        if t.tally[_HEAP] > 4 * t.tally[_USED] + 1024:  # mostly stale: enter what may go anew
            t.tally[_HEAP] = 0
            for v in range(t.tally[_USED]):
                if t.nodes[v].end > t.nodes[v].top:
                    _offer(t, v)
        if t.tally[_HEAP] + 2 * t.on.shape[0] + t.tally[_USED] + 64 > key.shape[0]:
            key = np.empty(2 * wanted, np.int64)
            node = np.empty(2 * wanted, np.int32)
            key[: t.tally[_HEAP]] = t.heap_key[: t.tally[_HEAP]]
            node[: t.tally[_HEAP]] = t.heap_node[: t.tally[_HEAP]]
    return _Tree(t.p, nodes, t.first, t.mark, t.place, t.on, t.upto, key, node, t.tally)


@jit
def _checkpoint(
    t: _Tree, c: Clock, r: Int, tokens: Int, page: Int, priority: Int, stands: I32, own: I64, known: I64
) -> None:
    """Give the request's full pages to the tree, cut at the end of its prompt, and pin it there."""
    pages = tokens // page
    at, matched = _walk(t, r, pages, 1, known[r], priority)
    known[r] = max(known[r], pages)
    prompt = c.prompt[r] // page
    if 0 < prompt < pages:
        _walk(t, r, prompt, 1, prompt, priority + 1)
    t.tally[_FREE] += max(0, matched - own[r])  # what others had put there meanwhile
    # RadixCache looks the whole up once more here: that finds `at` again (cutting keeps the lower node), changes no order
    own[r] = pages
    _lock(t, at, 1)
    _lock(t, np.int64(stands[r]), -1)
    stands[r] = at


@jit
def _computed(
    t: _Tree,
    c: Clock,
    prefills: Clock,
    page: Int,
    priority: I64,
    computing: I64,
    rest: I64,
    stands: I32,
    own: I64,
    known: I64,
) -> _Tree:
    """Give the tree what the machine has computed since, round by round, each after it took the room that it needed."""
    m, tally = c.machine, t.tally
    new = m.state[COMPUTED] - tally[_SEEN]
    tally[_SEEN] = m.state[COMPUTED]
    while new > 0:
        tokens = min(new, m.rules[CHUNK_TOKENS])
        new -= tokens
        pages = min(tally[_PROMISED], (tokens + page - 1) // page)
        missing = pages - tally[_FREE] - tally[_PROMISED]
        tally[_PROMISED] -= pages
        if missing > 0:
            t = _roomy(t)
            _evict(t, missing)
        while tokens > 0:
            r = prefills.heap_who[0]
            piece = min(tokens, rest[r])
            tokens -= piece
            rest[r] -= piece
            t = _roomy(t)
            _checkpoint(t, c, r, computing[r] - rest[r], page, priority[r], stands, own, known)
            if rest[r] == 0:
                take(prefills, 0)
                computing[r] = -1
    return t


@jit
def _empty(p: Paths, page: Int, total: Int, policy: Int) -> _Tree:
    """A tree without nodes and `total` free pages."""
    static = p.parent.shape[0]
    widest = longest(p)[0] + 1
    room = 1024
    t = _Tree(
        Paths(p.parent, p.begin // page, p.end // page, p.node),
        np.empty(room, NODE),
        np.full(static, -1, np.int32),
        np.full(static, -1, np.int32),
        np.empty(static, np.int32),
        np.empty(widest, np.int32),
        np.empty(widest, np.int64),
        np.empty(room, np.int64),
        np.empty(room, np.int32),
        np.zeros(11, np.int64),
    )
    t.tally[_SPARE] = -1
    t.tally[_FREE] = total
    t.tally[_POLICY] = policy
    return t


@jit
def sglang(
    p: Paths,
    c: Clock,
    prefills: Clock,
    how: Int,
    chunk: Int,
    page: Int,
    total: Int,
    policy: Int,
    priority: I64,
) -> Int:
    """Requests through a cache of `total` pages. Fills c.hits; returns how many cached pages were evicted.

    prefills   its heap takes those whose prompt is being computed; the rest of it is not looked at
    how        BATCH: those admitted at one instant together; ADMISSION: each alone, at once; FIRST_TOKEN: until then
    chunk      pages that a round computes; a prompt of more is given to the tree piece by piece
    priority   [request]
    """
    requests = c.prompt.shape[0]
    t = _empty(p, page, total, policy)
    stands = np.full(requests, -1, np.int32)  # [request] the node that it pins
    own = np.zeros(requests, np.int64)  # [request] pages from which on its memory is its own, not the tree's
    held = np.zeros(requests, np.int64)  # [request] pages of its memory
    known = np.zeros(requests, np.int64)  # [request] pages that it has inserted before
    computing = np.full(requests, -1, np.int64)  # [request] tokens that its prefill computes, -1: it is done
    simulated = c.machine.rules[ON] == 1  # then rounds take time, and are known
    rest = np.zeros(requests if simulated else 0, np.int64)  # [request] tokens still to be computed
    instant: Int = -1  # when the batch was admitted, -1: there is none
    batch: Int = 0  # pages that it computes; prefills' heap knows a request by those up to its last one
    over: Int = 0  # of them those in rounds that took their room
    ends: Int = np.int64(chunk)  # of them those up to the end of the round whose results come next
    while True:
        kind, r, length = step(c)
        if kind == DONE:
            break
        if simulated and c.machine.state[COMPUTED] != t.tally[_SEEN]:
            t = _computed(t, c, prefills, page, priority, computing, rest, stands, own, known)
        upto = c.now[TIME]  # the time, or the pages of the batch, up to which results are there
        if how == BATCH and not simulated:
            if kind == ADMIT and c.now[TIME] == instant:
                upto = batch // chunk * chunk
            else:
                upto = np.int64(UNLIMITED)
                instant = c.now[TIME] if kind == ADMIT else np.int64(-1)
                batch = 0
            if upto > over and t.tally[_FREE] < 0:
                t = _roomy(t)
                _evict(t, -t.tally[_FREE])  # what was promised
            over = 0 if batch == 0 else upto
        while not simulated and prefills.now[HEAP] > 0:
            done = prefills.heap_who[0]
            last, until = prefills.heap_time[0], upto
            if how != BATCH:  # its rounds are its own
                if last > upto:
                    break
                last = held[done] - own[done]
                ends, until = np.int64(chunk), last
            while ends <= last and ends <= until:
                if ends < last:  # it goes on in the next round
                    t = _roomy(t)
                    tokens = (held[done] - (last - ends)) * page
                    _checkpoint(t, c, done, tokens, page, priority[done], stands, own, known)
                ends += chunk
            if last > until:
                break
            take(prefills, 0)
            t = _roomy(t)
            _checkpoint(t, c, done, computing[done], page, priority[done], stands, own, known)
            computing[done] = -1
        if batch == 0:
            ends = np.int64(chunk)
        if kind != GROW:  # evicting pops an entry of the heap for each that it pushes
            t = _roomy(t)
        wanted = (length + page - 1) // page
        if kind == ADMIT:
            at, hit = _walk(t, r, (length - 1) // page, 0, 0, 0)
            _lock(t, at, 1)
            if wanted - hit > t.tally[_FREE] + t.tally[_EVICTABLE]:
                _lock(t, at, -1)
                refused(c)
                continue
            t.tally[_FREE] -= wanted - hit
            stands[r] = at
            own[r] = hit
            held[r] = wanted
            known[r] = 0
            admitted(c, r, hit * page)
            if simulated:
                rest[r] = c.machine.todo[r]
                t.tally[_PROMISED] += (rest[r] + page - 1) // page
            computing[r] = length
            if how == BATCH:
                batch += wanted - hit
                push(prefills, batch, r)
            else:
                if t.tally[_FREE] < 0:
                    _evict(t, -t.tally[_FREE])
                push(prefills, c.zero[r] + c.first[r] if how == FIRST_TOKEN else c.now[TIME], r)
        elif kind == GROW:
            more = wanted - held[r]
            if more > t.tally[_FREE]:
                _evict(t, more - t.tally[_FREE])
            if more > t.tally[_FREE]:
                victim = preempted(c)
                if computing[victim] >= 0:
                    computing[victim] = -1
                    if simulated:
                        t.tally[_PROMISED] -= (rest[victim] + page - 1) // page
                    for i in range(prefills.now[HEAP]):
                        if prefills.heap_who[i] == victim:
                            take(prefills, i)
                            break
                t = _roomy(t)
                t.tally[_FREE] += held[victim] - own[victim]
                _lock(t, np.int64(stands[victim]), -1)
                continue
            t.tally[_FREE] -= more
            held[r] = wanted
            grown(c, r, length)
        else:
            _checkpoint(t, c, r, length, page, priority[r], stands, own, known)
            t.tally[_FREE] += held[r] - own[r]
            _lock(t, np.int64(stands[r]), -1)
            ended(c, r)
    return t.tally[_EVICTED]
