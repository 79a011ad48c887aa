"""A clock whose times are computed: an engine that makes step after step, each as long as what is computed in it takes.

    at the end of a step   sequences that have all their tokens leave; who was sent meanwhile queues up, first come first served
    then, mixed            decoding sequences take room for their next token, and prompts fill what is left of the step's tokens
    or, not mixed          while there are prompts to compute, steps compute those alone, and decoding waits

A prompt is computed in pieces of what the step has left, in the order of admission; from the end of its last piece on the
sequence decodes, a token a step. Who waits is admitted as long as there are tokens and sequences left in the step and the cache
has room. How long a step takes is said in `_step_ns`. Steps in which nothing but decoding happens run in a loop of their own.

A request is sent at its scheduled time, or when the turn before has ended and the time to think is over, whichever is later; in a
closed loop when a place is free (see `traceprof.replay.pacing`). REQUEST_NS after that the engine's queue has it.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from traceprof.kernels import heap
from traceprof.kernels.jit import jit
from traceprof.kernels.state import (
    ADMIT,
    BLOCKED,
    CHUNK_TOKENS,
    DONE,
    END,
    FRONT,
    GROW,
    HEAP,
    MAX_SEQS,
    MIXED,
    PLACES,
    PREFILL_SEQS,
    REQUEST_NS,
    RUNNING,
    STEP_TOKENS,
    TIME,
    WAITED,
    Clock,
    Machine,
    push,
    taken_out,
    wanted,
)  # fmt: skip

Int: TypeAlias = Any
Float: TypeAlias = Any
F64: TypeAlias = NDArray[np.float64]

# Machine.state
(
    _PHASE, STEPS, _DECODING, _CONTEXT, PREFILLS, _LATER, _READY, _QUEUED, _ADMITTED, _PLACE, _FREE, _PLANNED, PIECES,
    COMPUTED, PREFILL_STEPS, BUSY_NS,
) = range(16)  # fmt: skip
_START, _BOUNDARY, _GROWTH, _ADMISSION, _RUN = range(5)
_NEVER = np.int64(1) << 62


@jit
def _step_ns(costs: F64, decoding: Int, tokens: Int, read: Float, pairs: Float) -> Int:
    """How long a step takes, ns: see `traceprof.simulate.cost.Costs`."""
    step, seq, weight, expert, share, token, kv, pair, overlap = costs
    moved = weight
    if expert > 0.0:
        moved += expert * (1.0 - (1.0 - share) ** tokens)
    products = token * tokens
    work = max(moved, products)
    if overlap < np.inf and moved > 0.0 and products > 0.0:
        work *= (1.0 + (min(moved, products) / work) ** overlap) ** (1.0 / overlap)
    return max(1, np.int64(step + seq * decoding + work + kv * read + pair * pairs + 0.5))


@jit
def due(c: Clock, r: Int) -> Int:
    """At how many decoding steps request r grows next, or ends: twice that, and 1 more for growth."""
    m = c.machine
    start = m.since[r] - m.made[r] - c.prompt[r]
    if c.kv[r] >= c.final[r]:
        return 2 * (start + c.final[r])
    return 2 * (start + wanted(c, r) - 1) + 1


@jit
def _send_later(m: Machine, r: Int, time: Int) -> None:
    heap.push(m.later, m.later_who, m.state[_LATER], time, r)
    m.state[_LATER] += 1


@jit
def _over(c: Clock, r: Int) -> None:
    """A request ended or failed now: its place is free, and those that wait for it may follow."""
    m = c.machine
    now = c.now[TIME]
    m.end[r] = now
    if m.rules[PLACES] > 0:
        m.places[(m.state[_PLACE] + m.state[_FREE]) % m.rules[PLACES]] = now
        m.state[_FREE] += 1
    child = m.child[r]
    while child >= 0:
        _send_later(m, child, max(m.scheduled[child], now + m.think[child]))
        child = m.sibling[child]


@jit
def _sent(c: Clock, r: Int, time: Int) -> None:
    """A request is sent; one that can never run fails at once."""
    m = c.machine
    m.intended[r] = time
    if c.final[r] > c.limit:
        _over(c, r)
        return
    m.queue[m.state[_QUEUED]] = r
    m.state[_QUEUED] += 1


@jit
def _send(c: Clock) -> None:
    """Those whose time has come."""
    m, state = c.machine, c.machine.state
    now = c.now[TIME]
    while True:
        while state[_LATER] > 0 and m.later[0] <= now:
            time, r = m.later[0], m.later_who[0]
            heap.take(m.later, m.later_who, state[_LATER], 0)
            state[_LATER] -= 1
            if m.rules[PLACES] == 0:
                _sent(c, r, time)
            else:
                heap.push(m.ready, m.ready_time, state[_READY], r, time)
                state[_READY] += 1
        if state[_READY] == 0 or state[_FREE] == 0:
            return
        r, time = m.ready[0], m.ready_time[0]
        heap.take(m.ready, m.ready_time, state[_READY], 0)
        state[_READY] -= 1
        time = max(time, m.places[state[_PLACE]])
        state[_PLACE] = (state[_PLACE] + 1) % m.rules[PLACES]
        state[_FREE] -= 1
        _sent(c, r, time)


@jit
def _there(m: Machine) -> Int:
    """When the engine has the request at the head of its queue."""
    if m.state[_ADMITTED] == m.state[_QUEUED]:
        return _NEVER
    return m.intended[m.queue[m.state[_ADMITTED]]] + m.rules[REQUEST_NS]


@jit
def _head(c: Clock) -> Int:
    """Who is admitted next, -1: nobody waits."""
    if c.now[FRONT] > 0:
        return c.front[c.now[FRONT] - 1]
    if _there(c.machine) <= c.now[TIME]:
        return c.machine.queue[c.machine.state[_ADMITTED]]
    return -1


@jit
def _next_ns(c: Clock) -> Int:
    """When somebody is sent or reaches the engine next."""
    m = c.machine
    time = m.later[0] if m.state[_LATER] > 0 else _NEVER
    there = _there(m)
    return min(time, there) if there > c.now[TIME] else time


@jit
def _room(m: Machine) -> Int:
    """Tokens of prompts that a step can compute."""
    if m.rules[MIXED] == 0:
        return m.rules[CHUNK_TOKENS]
    return min(m.rules[CHUNK_TOKENS], m.rules[STEP_TOKENS] - m.state[_DECODING])


@jit
def _after_step(m: Machine, time: Int) -> None:
    """A decoding step is over."""
    state = m.state
    state[STEPS] += 1
    state[_CONTEXT] += state[_DECODING]
    if state[STEPS] < m.steps.shape[0]:
        m.steps[state[STEPS]] = time


@jit
def _decodes(c: Clock, r: Int) -> None:
    """A prompt is computed: its first token is there."""
    m, state = c.machine, c.machine.state
    if m.first[r] < 0:
        m.first[r] = c.now[TIME]
    m.since[r] = state[STEPS]
    state[_DECODING] += 1
    state[_CONTEXT] += c.prompt[r] + m.made[r] + 1
    if state[PIECES] < m.pieces.shape[0]:
        piece = m.pieces[state[PIECES]]
        piece[0], piece[1], piece[2], piece[3] = r, m.made[r], state[STEPS], c.now[TIME]
    state[PIECES] += 1
    push(c, due(c, r), r)


@jit
def _run(c: Clock) -> None:
    """One step with pieces of prompts, or decoding steps until something else happens."""
    m, state, now = c.machine, c.machine.state, c.now
    began = now[TIME]
    if state[PREFILLS] == 0:
        until = c.heap_time[0] >> 1
        other = _next_ns(c)
        while state[STEPS] < until and now[TIME] < other:
            decoding = state[_DECODING]
            now[TIME] += _step_ns(m.costs, decoding, decoding, float(state[_CONTEXT]), 0.0)
            _after_step(m, now[TIME])
        state[BUSY_NS] += now[TIME] - began
        return
    left = _room(m)
    tokens: Int = 0
    read = 0.0
    pairs = 0.0
    for at in range(state[PREFILLS]):
        r = m.prefills[at]
        piece = min(m.todo[r], left)
        if piece <= 0:
            break
        before = c.kv[r] - m.todo[r]
        tokens += piece
        read += before
        pairs += piece * (before + 0.5 * (piece + 1))
        m.todo[r] -= piece
        left -= piece
    decoding = state[_DECODING] if m.rules[MIXED] == 1 else 0
    if decoding > 0:
        read += state[_CONTEXT]
    now[TIME] += _step_ns(m.costs, decoding, tokens + decoding, read, pairs)
    state[COMPUTED] += tokens
    state[PREFILL_STEPS] += 1
    state[BUSY_NS] += now[TIME] - began
    if m.rules[MIXED] == 1:
        _after_step(m, now[TIME])
    kept = 0
    for at in range(state[PREFILLS]):
        r = m.prefills[at]
        if m.todo[r] == 0:
            _decodes(c, r)
        else:
            m.prefills[kept] = r
            kept += 1
    state[PREFILLS] = kept


@jit
def step(c: Clock) -> tuple[Int, Int, Int]:
    """As `traceprof.kernels.clock.step`."""
    m, state, now = c.machine, c.machine.state, c.now
    if state[_PHASE] == _START:
        for r in range(m.scheduled.shape[0]):
            if m.waits[r] == 0:
                _send_later(m, r, m.scheduled[r])
        for _ in range(m.rules[PLACES]):
            m.places[state[_FREE]] = 0
            state[_FREE] += 1
        state[_PHASE] = _BOUNDARY
    while True:
        if state[_PHASE] == _BOUNDARY:
            if now[HEAP] > 0 and c.heap_time[0] <= 2 * state[STEPS]:
                r = c.heap_who[0]
                return END, r, c.kv[r]
            _send(c)
            room = _room(m)
            planned: Int = 0
            for at in range(state[PREFILLS]):
                planned = min(room, planned + m.todo[m.prefills[at]])
                if planned == room:
                    break
            state[_PLANNED] = planned
            state[_PHASE] = _GROWTH if m.rules[MIXED] == 1 else _ADMISSION
        if state[_PHASE] == _GROWTH:
            if now[HEAP] > 0 and c.heap_time[0] <= 2 * state[STEPS] + 1:
                r = c.heap_who[0]
                if c.kv[r] >= c.final[r]:
                    return END, r, c.kv[r]
                return GROW, r, wanted(c, r)
            state[_PHASE] = _ADMISSION if m.rules[MIXED] == 1 else _RUN
        if state[_PHASE] == _ADMISSION:
            head = _head(c)
            if (
                head >= 0
                and (now[BLOCKED] == 0 or now[RUNNING] == 0)
                and now[RUNNING] < m.rules[MAX_SEQS]
                and state[PREFILLS] < m.rules[PREFILL_SEQS]
                and state[_PLANNED] < _room(m)
            ):
                return ADMIT, head, c.kv[head]
            state[_PHASE] = _RUN if m.rules[MIXED] == 1 or state[PREFILLS] > 0 else _GROWTH
        if state[_PHASE] == _RUN:
            if state[_DECODING] > 0 or state[PREFILLS] > 0:
                _run(c)
            elif now[HEAP] == 0 and now[FRONT] == 0 and _there(m) > now[TIME]:
                time = _next_ns(c)
                if time == _NEVER:
                    return DONE, -1, 0
                now[TIME] = max(now[TIME], time)
            state[_PHASE] = _BOUNDARY


@jit
def admitted(c: Clock, r: Int, hit: Int) -> None:
    """As `traceprof.kernels.clock.admitted`; what is not hit is computed. hit < 0: it fails."""
    m, state, now = c.machine, c.machine.state, c.now
    if now[FRONT] > 0:
        now[FRONT] -= 1
    else:
        if _there(m) < now[TIME]:
            now[WAITED] += 1
        state[_ADMITTED] += 1
        c.hits[r] = hit
        m.begun[r] = now[TIME]
    if hit < 0:
        push(c, 2 * state[STEPS], r)
        return
    m.todo[r] = max(1, c.kv[r] - hit)
    m.prefills[state[PREFILLS]] = r
    state[PREFILLS] += 1
    state[_PLANNED] = min(_room(m), state[_PLANNED] + m.todo[r])


@jit
def dropped(c: Clock) -> None:
    """The head of the queue will never have room: it fails."""
    r = _head(c)
    c.hits[r] = -1
    if c.now[FRONT] > 0:
        c.now[FRONT] -= 1
    else:
        c.machine.state[_ADMITTED] += 1
    _over(c, r)


@jit
def _stops(c: Clock, r: Int) -> Int:
    """A request decodes no more; the tokens that it has."""
    m, state = c.machine, c.machine.state
    tokens = m.made[r] + state[STEPS] - m.since[r] + 1
    state[_DECODING] -= 1
    state[_CONTEXT] -= c.prompt[r] + tokens
    m.since[r] = -1
    return tokens


@jit
def over(c: Clock, r: Int) -> None:
    """Request r left the engine."""
    if c.machine.since[r] >= 0:
        _stops(c, r)
    _over(c, r)


@jit
def preempted(c: Clock, r: Int) -> None:
    """Request r was thrown out: what it has generated is computed again with its prompt."""
    m, state = c.machine, c.machine.state
    if m.todo[r] > 0:
        m.todo[r] = 0
        kept = 0
        for at in range(state[PREFILLS]):
            if m.prefills[at] != r:
                m.prefills[kept] = m.prefills[at]
                kept += 1
        state[PREFILLS] = kept
    else:
        taken_out(c, r)
        m.made[r] = _stops(c, r)
        c.kv[r] = min(c.prompt[r] + m.made[r], c.final[r])
