"""The clock that drives every cache model: who is admitted, grows and ends when, first come first served.

A model is a loop around `step`, which says what happens next:

    ADMIT r   request r asks for room for `length` tokens of KV (its prompt; after a preemption also what it had
              generated). The model answers `admitted`, or `refused` when there is no room: r then waits at the head of
              the queue, and everybody behind it, until something ends.
    GROW r    decoding reached `length` tokens of KV. The model answers `grown`, or takes the room from `preempted`.
    END r     the model releases r. At one time ENDs come first, then growth, then arrivals.

What a request holds at its end is prompt + output - 1 tokens: the token sampled last has no KV. Decoding goes at an
even pace: output token j is there at first + j * (took - first) / output. A request waits as long as it must, and then
takes as long as it took in the log. GROW comes when the length passes a multiple of `quantum` (and before END, up to
what is held then), so a model that allots memory in blocks of `quantum` is asked exactly when it needs the next one.
A request that holds more than `limit` can never run: it passes without a call and keeps hits[r] = -1.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from traceprof.kernels.jit import jit

Int: TypeAlias = Any
I64: TypeAlias = NDArray[np.int64]

DONE, ADMIT, GROW, END = 0, 1, 2, 3

# fields of Clock.now
_TIME, _NEXT, _FRONT, _HEAP, _STACK, _RUNNING, _BLOCKED, PREEMPTIONS, WAITED = range(9)
FIELDS = 9
UNLIMITED = 1 << 60  # as a quantum: a request grows once, before it ends


class Clock(NamedTuple):
    """Times in microseconds, lengths in tokens; requests stand by arrival."""

    arrival: I64  # [request] never falls
    first: I64  # [request] from admission to the first output token
    took: I64  # [request] from admission to the end
    prompt: I64  # [request] tokens
    final: I64  # [request] KV tokens at the end: prompt + max(output - 1, 0)
    output: I64  # [request] tokens
    quantum: int
    limit: int  # KV tokens of the largest request that can run
    # state
    kv: I64  # [request] KV tokens held now, or to be held again after a preemption
    zero: I64  # [request] when it would have been admitted, had it run without a break
    runs: I64  # [request] 1: running
    hits: I64  # [request] what the model found at its first admission, -1: it never ran
    front: I64  # [request] preempted requests, the one to go on first at the end
    stack: I64  # [request] in order of admission, some of them ended
    heap_time: I64  # [request] heap of (what `_due` says, request): one entry a running request
    heap_who: I64
    now: I64  # [FIELDS]


@jit
def _wanted(c: Clock, r: Int) -> Int:
    """The length that r grows to next: the first token behind a multiple of quantum."""
    return min((c.kv[r] + c.quantum - 1) // c.quantum * c.quantum + 1, c.final[r])


@jit
def _due(c: Clock, r: Int) -> Int:
    """When request r grows next, or ends: twice the time, and 1 more for growth, so that at one time ends come first."""
    if c.kv[r] >= c.final[r]:
        return 2 * (c.zero[r] + c.took[r])
    token = _wanted(c, r) - c.prompt[r]
    return 2 * (c.zero[r] + c.first[r] + (c.took[r] - c.first[r]) * token // c.output[r]) + 1


@jit
def _push(c: Clock, time: Int, r: Int) -> None:
    at = c.now[_HEAP]
    c.now[_HEAP] = at + 1
    while at > 0:
        above = (at - 1) >> 1
        if (c.heap_time[above], c.heap_who[above]) <= (time, r):
            break
        c.heap_time[at] = c.heap_time[above]
        c.heap_who[at] = c.heap_who[above]
        at = above
    c.heap_time[at] = time
    c.heap_who[at] = r


@jit
def _sift(c: Clock, at: Int, time: Int, r: Int) -> None:
    """Put (time, r) where the entry `at` was."""
    size = c.now[_HEAP]
    while at > 0:  # it may belong above: only after an entry was taken from the middle
        above = (at - 1) >> 1
        if (c.heap_time[above], c.heap_who[above]) <= (time, r):
            break
        c.heap_time[at] = c.heap_time[above]
        c.heap_who[at] = c.heap_who[above]
        at = above
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        if below + 1 < size and (c.heap_time[below + 1], c.heap_who[below + 1]) < (
            c.heap_time[below],
            c.heap_who[below],
        ):
            below += 1
        if (time, r) <= (c.heap_time[below], c.heap_who[below]):
            break
        c.heap_time[at] = c.heap_time[below]
        c.heap_who[at] = c.heap_who[below]
        at = below
    c.heap_time[at] = time
    c.heap_who[at] = r


@jit
def _take(c: Clock, at: Int) -> None:
    """Remove the heap's entry `at`."""
    size = c.now[_HEAP] - 1
    c.now[_HEAP] = size
    if at < size:
        _sift(c, at, c.heap_time[size], c.heap_who[size])


@jit
def step(c: Clock) -> tuple[Int, Int, Int]:
    """What happens next: (DONE, ADMIT, GROW or END, request, length)."""
    requests = c.arrival.shape[0]
    now = c.now
    while True:
        # who stands at the head of the queue: a preempted request before those that wait or arrive
        head = -1
        if now[_FRONT] > 0:
            head = c.front[now[_FRONT] - 1]
        else:
            while now[_NEXT] < requests and c.final[now[_NEXT]] > c.limit:
                now[_NEXT] += 1
            if now[_NEXT] < requests:
                head = now[_NEXT]
        waits = head >= 0 and (now[_FRONT] > 0 or c.arrival[head] <= now[_TIME])
        admits = waits and now[_BLOCKED] == 0
        if now[_HEAP] > 0:
            time = c.heap_time[0] >> 1
            if time <= now[_TIME] or (not admits and (head < 0 or waits or time <= c.arrival[head])):
                r = c.heap_who[0]
                now[_TIME] = max(now[_TIME], time)
                if c.kv[r] >= c.final[r]:
                    return END, r, c.kv[r]
                return GROW, r, _wanted(c, r)
        if head < 0:
            return DONE, -1, 0
        now[_TIME] = max(now[_TIME], c.arrival[head])
        return ADMIT, head, c.kv[head]


@jit
def admitted(c: Clock, r: Int, hit: Int) -> None:
    """The request at the head of the queue runs; hit counts at its first admission only."""
    now = c.now
    if now[_FRONT] > 0:
        now[_FRONT] -= 1  # zero was moved when it was preempted; it lost the time since
        c.zero[r] += now[_TIME]
    else:
        now[_NEXT] += 1
        c.hits[r] = hit
        c.zero[r] = now[_TIME]
        if now[_TIME] > c.arrival[r]:
            now[WAITED] += 1
    now[_BLOCKED] = 0
    now[_RUNNING] += 1
    c.runs[r] = 1
    c.stack[now[_STACK]] = r  # once: a preempted request was taken off
    now[_STACK] += 1
    _push(c, _due(c, r), r)


@jit
def refused(c: Clock) -> None:
    """There is no room for the head of the queue now; where nothing runs there never will be, and it is passed over."""
    now = c.now
    if now[_RUNNING] > 0:
        now[_BLOCKED] = 1
    elif now[_FRONT] > 0:
        now[_FRONT] -= 1
    else:
        now[_NEXT] += 1


@jit
def grown(c: Clock, r: Int, length: Int) -> None:
    """Request r, of the last GROW, holds that many tokens."""
    c.kv[r] = length
    _sift(c, 0, _due(c, r), r)


@jit
def ended(c: Clock, r: Int) -> None:
    """Request r, of the last END, is released."""
    _take(c, 0)
    c.runs[r] = 0
    c.now[_RUNNING] -= 1
    c.now[_BLOCKED] = 0


@jit
def preempted(c: Clock) -> Int:
    """The running request that was admitted last, back at the head of the queue: the model releases what it holds."""
    now = c.now
    while True:  # those above the last running one have ended
        r = c.stack[now[_STACK] - 1]
        now[_STACK] -= 1
        if c.runs[r] == 1:
            break
    c.runs[r] = 0
    now[_RUNNING] -= 1
    now[PREEMPTIONS] += 1
    for at in range(now[_HEAP]):
        if c.heap_who[at] == r:
            _take(c, at)
            break
    c.zero[r] -= now[_TIME]  # how long it has run, negative; see `admitted`
    c.front[now[_FRONT]] = r
    now[_FRONT] += 1
    now[_BLOCKED] = 1  # what it held goes to the one that grows
    return r
