"""llama.cpp's server: a few slots that each keep one sequence, and a list of sequences in RAM. They are moved, not shared."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from traceprof.kernels.clock import ADMIT, DONE, GROW, Clock, admitted, ended, grown, refused, step
from traceprof.kernels.jit import jit
from traceprof.kernels.paths import Paths, longest, path

Int: TypeAlias = Any
I32: TypeAlias = NDArray[np.int32]
I64: TypeAlias = NDArray[np.int64]

_ENTRIES, _RAM_TOKENS, _DROPPED, _MARK, _RELEASES = range(5)


class _Slots(NamedTuple):
    """A sequence is a request and how many of its tokens are kept."""

    p: Paths
    mark: I64  # [static node] the last path that passed it
    place: I32  # [static node] where on that path
    on: I32
    upto: I64
    request: I64  # [slot] whose tokens it keeps
    tokens: I64  # [slot] how many, 0: empty
    busy: I64  # [slot] 1: a request is being served
    used: I64  # [slot] number of its last release, -1: never used
    ram_request: I64  # [entry] oldest first
    ram_tokens: I64
    tally: I64


@jit
def _follow(s: _Slots, request: Int, tokens: Int) -> None:
    """Mark the path of a sequence, for `_common`."""
    n = path(s.p, request, tokens, s.on, s.upto)
    s.tally[_MARK] += 1
    for i in range(n):
        s.mark[s.on[i]] = s.tally[_MARK]
        s.place[s.on[i]] = i


@jit
def _common(s: _Slots, request: Int, tokens: Int) -> Int:
    """Tokens that a sequence has in common with the one that was marked."""
    v = np.int64(s.p.node[request])
    upto = tokens
    while v >= 0:
        if s.p.begin[v] < upto and s.mark[v] == s.tally[_MARK]:
            return min(upto, s.upto[s.place[v]])
        upto = min(upto, s.p.begin[v])
        v = np.int64(s.p.parent[v])
    return 0


@jit
def _drop(s: _Slots, entry: Int) -> None:
    """Take an entry out of RAM."""
    s.tally[_RAM_TOKENS] -= s.ram_tokens[entry]
    s.tally[_ENTRIES] -= 1
    for i in range(entry, s.tally[_ENTRIES]):
        s.ram_request[i] = s.ram_request[i + 1]
        s.ram_tokens[i] = s.ram_tokens[i + 1]


@jit
def _save(s: _Slots, slot: Int, limit: Int) -> None:
    """Copy what a slot keeps to RAM, unless it is there or too large; what it contains goes, and the oldest for room."""
    tokens = s.tokens[slot]
    if tokens == 0:
        return
    _follow(s, s.request[slot], tokens)
    for i in range(s.tally[_ENTRIES]):
        if _common(s, s.ram_request[i], s.ram_tokens[i]) == tokens:
            return
    if tokens > limit:
        return
    i = 0
    while i < s.tally[_ENTRIES]:
        if _common(s, s.ram_request[i], s.ram_tokens[i]) == s.ram_tokens[i]:
            _drop(s, i)
        else:
            i += 1
    while s.tally[_RAM_TOKENS] + tokens > limit:
        s.tally[_DROPPED] += s.ram_tokens[0]
        _drop(s, 0)
    at = s.tally[_ENTRIES]
    s.ram_request[at] = s.request[slot]
    s.ram_tokens[at] = tokens
    s.tally[_ENTRIES] += 1
    s.tally[_RAM_TOKENS] += tokens


@jit
def slots(
    p: Paths, c: Clock, count: Int, room: Int, unified: Int, ram: Int, save_idle: Int, similarity: Any
) -> Int:
    """Requests through `count` slots. Fills c.hits; returns tokens that were dropped for room.

    room        tokens of all slots together (unified) or of one slot
    ram         tokens of the cache in RAM, 0: there is none
    save_idle   1: whenever a request starts, all other idle slots are saved, and where unified cleared
    similarity  share of a prompt that a slot must have to be chosen for it
    """
    widest = longest(p)[0] + 1
    entries = min(ram, c.prompt.shape[0]) + 2
    s = _Slots(
        p,
        np.zeros(p.parent.shape[0], np.int64),
        np.zeros(p.parent.shape[0], np.int32),
        np.empty(widest, np.int32),
        np.empty(widest, np.int64),
        np.zeros(count, np.int64),
        np.zeros(count, np.int64),
        np.zeros(count, np.int64),
        np.full(count, -1, np.int64),
        np.empty(entries, np.int64),
        np.empty(entries, np.int64),
        np.zeros(5, np.int64),
    )
    serves = np.empty(c.prompt.shape[0], np.int64)  # [request] its slot
    while True:
        kind, r, length = step(c)
        if kind == DONE:
            break
        if kind == GROW:
            grown(c, r, length)
            continue
        if kind != ADMIT:
            s.busy[serves[r]] = 0
            s.used[serves[r]] = s.tally[_RELEASES]
            s.tally[_RELEASES] += 1
            ended(c, r)
            continue
        held = 0  # tokens that running requests have, or will have at their end
        idle = 0
        for k in range(count):
            if s.busy[k]:
                held += s.tokens[k]
            else:
                idle += 1
        if idle == 0 or (unified and held + c.final[r] > room):
            refused(c)
            continue
        _follow(s, r, length)
        # the idle slot that has most of the prompt, if that is enough
        slot: Int = -1
        best = np.float32(0)
        for k in range(count):
            if s.busy[k] or s.tokens[k] == 0:
                continue
            has = np.float32(_common(s, s.request[k], s.tokens[k])) / np.float32(length)
            if has > best and has > np.float32(similarity):
                best = has
                slot = k
        loses: Any = slot >= 0 and (best * np.float32(length)) / np.float32(s.tokens[slot]) < np.float32(0.5)
        if slot < 0:
            loses = True
            for k in range(count):  # of equals the last: the slots are first used from the end
                if s.busy[k] == 0 and (slot < 0 or s.used[k] <= s.used[slot]):
                    slot = k
        if loses and ram > 0:
            _save(s, slot, ram)
            _follow(s, r, length)
            same = _common(s, s.request[slot], s.tokens[slot]) if s.tokens[slot] > 0 else 0
            keep = np.float32(same) / np.float32(s.tokens[slot]) if s.tokens[slot] > 0 else np.float32(-1)
            has = np.float32(same) / np.float32(length)
            found = -1
            for i in range(s.tally[_ENTRIES]):
                common = np.float32(_common(s, s.ram_request[i], s.ram_tokens[i]))
                keeps = common / np.float32(s.ram_tokens[i])
                gives = common / np.float32(length)
                if keeps >= np.float32(0.25) and keep < keeps and has < gives:
                    keep = keeps
                    has = gives
                    found = i
            if found >= 0:
                s.request[slot] = s.ram_request[found]
                s.tokens[slot] = s.ram_tokens[found]
                _drop(s, found)
        hit = min(_common(s, s.request[slot], s.tokens[slot]), length - 1) if s.tokens[slot] > 0 else 0
        if save_idle and ram > 0:
            for k in range(count):
                if k != slot and s.busy[k] == 0 and s.tokens[k] > 0:
                    _save(s, k, ram)
                    if unified:
                        s.tokens[k] = 0
        if unified:  # idle slots give way, one by one
            needed = held + c.final[r]
            for k in range(count):
                if k != slot and s.busy[k] == 0:
                    needed += s.tokens[k]
            for k in range(count):
                if needed > room and k != slot and s.busy[k] == 0:
                    needed -= s.tokens[k]
                    s.tally[_DROPPED] += s.tokens[k]
                    s.tokens[k] = 0
        serves[r] = slot
        s.busy[slot] = 1
        s.request[slot] = r
        s.tokens[slot] = c.final[r]
        admitted(c, r, hit)
    return s.tally[_DROPPED]
