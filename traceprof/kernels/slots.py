"""llama.cpp's server: slots that each hold one sequence, and a list of sequences in RAM which they are moved to and from."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from traceprof.kernels.clock import admitted, ended, grown, refused, step
from traceprof.kernels.jit import jit
from traceprof.kernels.paths import Paths
from traceprof.kernels.sequences import Jumps, common, jumps
from traceprof.kernels.state import ADMIT, DONE, END, Clock

Int: TypeAlias = Any
I64: TypeAlias = NDArray[np.int64]

NO_LIMIT = -1  # as ram_tokens: by bytes none; what stays then is as many tokens as the context has

_LOST, _SAVED, _THERE = 0, 1, 2  # what came of saving a slot

# fields of _State.now
_TOKENS, _ALIVE, _FREE, _EVICTED, _USED, _TICK = range(6)


class _State(NamedTuple):
    """Slots, and entries in RAM as a ring by age: entry 0 is head and tail."""

    owner: I64  # [slot] the request whose first tokens it holds
    tokens: I64  # [slot] how many; of a busy slot what has room
    busy: I64  # [slot] 1: its request runs
    used: I64  # [slot] when a request last ended in it, -1: never
    copy: I64  # [slot] the entry that was saved from it, 0: none known
    stamp: I64  # [slot] of that entry when it was saved
    who: I64  # [entry] the request whose first tokens it holds
    held: I64  # [entry] how many
    born: I64  # [entry] counts up with every saving
    before: I64
    after: I64
    now: I64


@jit
def _remove(s: _State, e: Int) -> None:
    s.after[s.before[e]] = s.after[e]
    s.before[s.after[e]] = s.before[e]
    s.now[_TOKENS] -= s.held[e]
    s.now[_ALIVE] -= 1
    s.held[e] = -1
    s.after[e] = s.now[_FREE]
    s.now[_FREE] = e


@jit
def _drop_oldest(s: _State) -> None:
    e = s.after[0]
    s.now[_EVICTED] += s.held[e]
    _remove(s, e)


@jit
def _save(p: Paths, j: Jumps, s: _State, slot: Int, ram: Int) -> Int:
    """Copy an idle slot into RAM: _THERE when an entry begins with it already, _LOST when it is too large."""
    r, tokens = s.owner[slot], s.tokens[slot]
    known = s.copy[slot]
    if known > 0 and s.held[known] == tokens and s.born[known] == s.stamp[slot]:
        return _THERE
    e = s.after[0]
    while e != 0:
        if s.held[e] >= tokens and common(p, j, s.who[e], s.held[e], r, tokens) == tokens:
            return _THERE
        e = s.after[e]
    if ram >= 0 and tokens > ram:
        return _LOST
    e = s.after[0]
    while e != 0:
        following = s.after[e]
        if s.held[e] < tokens and common(p, j, s.who[e], s.held[e], r, tokens) == s.held[e]:
            _remove(s, e)
        e = following
    while ram >= 0 and s.now[_TOKENS] + tokens > ram:
        _drop_oldest(s)
    e = s.now[_FREE]
    s.now[_FREE] = s.after[e]
    s.who[e], s.held[e] = r, tokens
    s.before[e], s.after[e] = s.before[0], 0
    s.after[s.before[0]] = e
    s.before[0] = e
    s.now[_TOKENS] += tokens
    s.now[_ALIVE] += 1
    s.now[_TICK] += 1
    s.born[e] = s.now[_TICK]
    s.copy[slot], s.stamp[slot] = e, s.now[_TICK]
    return _SAVED


@jit
def _load(p: Paths, j: Jumps, s: _State, slot: Int, r: Int, prompt: Int) -> Int:
    """The entry that is better than what the slot holds, in both what it keeps and what it gives; 0: none.

    Float32 and the order of entries as in the server: the first that beats all before it in both.
    """
    lcp = common(p, j, s.owner[slot], s.tokens[slot], r, prompt) if s.tokens[slot] > 0 else 0
    keep = np.float32(lcp) / np.float32(s.tokens[slot]) if s.tokens[slot] > 0 else np.float32(-1.0)
    sim = np.float32(lcp) / np.float32(prompt)
    best = 0
    e = s.after[0]
    while e != 0:
        most = np.float32(min(s.held[e], prompt))
        size = np.float32(s.held[e])
        if most / size >= np.float32(0.25) and most / size > keep and most / np.float32(prompt) > sim:
            lcp = common(p, j, s.who[e], s.held[e], r, prompt)
            e_keep, e_sim = np.float32(lcp) / size, np.float32(lcp) / np.float32(prompt)
            if e_keep >= np.float32(0.25) and e_keep > keep and e_sim > sim:
                keep, sim, best = e_keep, e_sim, e
        e = s.after[e]
    return best


@jit
def _empty(s: _State, slot: Int) -> None:
    s.now[_USED] -= s.tokens[slot]
    s.tokens[slot] = 0
    s.copy[slot] = 0


@jit
def _purge(s: _State, wanted: Int, total: Int) -> bool:
    """Clear idle slots, the first first, until so many tokens more have room; False: they have not."""
    for slot in range(s.tokens.shape[0]):
        if s.now[_USED] + wanted <= total:
            return True
        if s.busy[slot] == 0 and s.tokens[slot] > 0:
            s.now[_EVICTED] += s.tokens[slot]
            _empty(s, slot)
    return bool(s.now[_USED] + wanted <= total)


@jit
def _fail(c: Clock, s: _State, slot_of: I64) -> None:
    """The shared cache is full: every running request gets an error, and its slot is cleared."""
    for slot in range(s.tokens.shape[0]):
        if s.busy[slot] == 1:
            r = s.owner[slot]
            c.hits[r] = -1
            c.final[r] = c.kv[r]  # nothing more to come but its END
            slot_of[r] = -1
            s.busy[slot] = 0
            s.now[_TICK] += 1
            s.used[slot] = s.now[_TICK]
            _empty(s, slot)


@jit
def _room(c: Clock, r: Int, length: Int) -> Int:
    """Tokens that a request which holds `length` has taken room for: `quantum` of its output at a time."""
    return min((length + c.quantum - 1) // c.quantum * c.quantum, max(c.final[r], length))


@jit
def slots(
    p: Paths, c: Clock, count: Int, context: Int, unified: Int, similarity: Any, ram: Int, save_idle: Int
) -> Int:
    """Fills c.hits and returns the tokens of copies thrown out. The clock must have no limit.

    count       slots
    context     tokens of a slot's context; a prompt must be shorter, and the clock may not let a request grow to it
    unified     1: the slots share one KV cache of that size; 0: each has its own
    similarity  share of the prompt (float32) that a slot must have to be chosen for it
    ram         tokens of the list in RAM, 0: there is none, NO_LIMIT: see there
    save_idle   1: idle slots are copied to RAM whenever a request starts, and cleared if unified
    """
    requests = c.arrival.shape[0]
    total = context if unified else context * count
    room = min(requests, ram) + 2 if ram >= 0 else requests + 2
    s = _State(
        np.full(count, -1, np.int64), np.zeros(count, np.int64), np.zeros(count, np.int64), np.full(count, -1, np.int64),
        np.zeros(count, np.int64), np.zeros(count, np.int64), np.full(room, -1, np.int64), np.full(room, -1, np.int64),
        np.zeros(room, np.int64), np.zeros(room, np.int64), np.arange(1, room + 1), np.zeros(6, np.int64),
    )  # fmt: skip
    s.after[0] = 0
    s.now[_FREE] = 1
    j = jumps(p)
    slot_of = np.full(requests, -1, np.int64)
    while True:
        kind, r, length = step(c)
        if kind == DONE:
            return s.now[_EVICTED]
        if kind == END:
            left = slot_of[r]
            if left >= 0:
                s.busy[left] = 0
                s.now[_TICK] += 1
                s.used[left] = s.now[_TICK]
            ended(c, r)
            continue
        if kind != ADMIT:
            more = _room(c, r, length) - s.tokens[slot_of[r]]
            if unified and not _purge(s, more, total):
                _fail(c, s, slot_of)
            else:
                s.tokens[slot_of[r]] += more
                s.now[_USED] += more
                grown(c, r, length)
            continue

        # the slot most like the prompt, else the one not used for longest
        slot: Int = -1
        update: Any = False
        best = np.float32(0.0)
        hit: Int = 0
        if similarity != np.float32(0.0):
            for i in range(count):
                if s.busy[i] == 0 and s.tokens[i] > 0:
                    lcp = common(p, j, s.owner[i], s.tokens[i], r, length)
                    sim = np.float32(lcp) / np.float32(length)
                    if sim > best and sim > similarity:
                        best = sim
                        slot = i
            if slot >= 0:
                update = best * np.float32(length) / np.float32(s.tokens[slot]) < np.float32(0.5)
        if slot < 0:
            for i in range(count):
                if s.busy[i] == 0 and (slot < 0 or s.used[i] <= s.used[slot]):
                    slot = i
                    update = True
        if slot < 0:
            refused(c)
            continue

        safe = False  # what the slot holds is in RAM, too
        if update and ram != 0:
            if s.tokens[slot] > 0:
                safe = _save(p, j, s, slot, ram) != _LOST
            e = _load(p, j, s, slot, r, length)
            if e > 0:
                if not safe:
                    s.now[_EVICTED] += s.tokens[slot]
                safe = False
                _empty(s, slot)
                if not unified or s.now[_USED] + s.held[e] <= total:  # else neither is there now
                    s.owner[slot], s.tokens[slot] = s.who[e], s.held[e]
                    s.now[_USED] += s.held[e]
                    _remove(s, e)
            while ram == NO_LIMIT and s.now[_TOKENS] > total:
                _drop_oldest(s)
        s.busy[slot] = 1
        if save_idle and ram != 0:
            for i in range(count):
                if s.busy[i] == 0 and s.tokens[i] > 0:
                    came = _save(p, j, s, i, ram)
                    while came == _SAVED and ram == NO_LIMIT and s.now[_TOKENS] > total:
                        _drop_oldest(s)
                    if unified:
                        if came == _LOST:
                            s.now[_EVICTED] += s.tokens[i]
                        _empty(s, i)
        if length >= context:  # refused only now
            s.busy[slot] = 0
            s.now[_TICK] += 1
            s.used[slot] = s.now[_TICK]
            c.took[r] = 0
            c.final[r] = length
            admitted(c, r, -1)
            continue
        if s.tokens[slot] > 0:
            hit = common(p, j, s.owner[slot], s.tokens[slot], r, length)
            if hit == length:
                hit -= 1  # one token must be computed
            if not safe:
                s.now[_EVICTED] += s.tokens[slot] - hit
        _empty(s, slot)
        s.owner[slot] = r
        slot_of[r] = slot
        wanted = _room(c, r, length)
        enough = not unified or _purge(s, wanted, total)
        s.tokens[slot] = wanted
        s.now[_USED] += wanted
        if not enough:
            c.took[r] = 0
            c.final[r] = length
        admitted(c, r, hit)
        if not enough:
            _fail(c, s, slot_of)
