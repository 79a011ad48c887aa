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

from typing import Any, TypeAlias

from traceprof.kernels import machine
from traceprof.kernels.jit import jit
from traceprof.kernels.state import (
    ADMIT,
    BLOCKED,
    DONE,
    END,
    FRONT,
    GROW,
    HEAP,
    NEXT,
    ON,
    PREEMPTIONS,
    RUNNING,
    STACK,
    TIME,
    WAITED,
    Clock,
    push,
    sift,
    take,
    taken_out,
    wanted,
)  # fmt: skip

Int: TypeAlias = Any


@jit
def _due(c: Clock, r: Int) -> Int:
    """When request r grows next, or ends: twice the time, and 1 more for growth, so that at one time ends come first."""
    if c.kv[r] >= c.final[r]:
        return 2 * (c.zero[r] + c.took[r])
    token = wanted(c, r) - c.prompt[r]
    return 2 * (c.zero[r] + c.first[r] + (c.took[r] - c.first[r]) * token // c.output[r]) + 1


@jit
def step(c: Clock) -> tuple[Int, Int, Int]:
    """What happens next: (DONE, ADMIT, GROW or END, request, length)."""
    if c.machine.rules[ON]:
        return machine.step(c)
    requests = c.arrival.shape[0]
    now = c.now
    while True:
        # who stands at the head of the queue: a preempted request before those that wait or arrive
        head = -1
        if now[FRONT] > 0:
            head = c.front[now[FRONT] - 1]
        else:
            while now[NEXT] < requests and c.final[now[NEXT]] > c.limit:
                now[NEXT] += 1
            if now[NEXT] < requests:
                head = now[NEXT]
        waits = head >= 0 and (now[FRONT] > 0 or c.arrival[head] <= now[TIME])
        admits = waits and now[BLOCKED] == 0
        if now[HEAP] > 0:
            time = c.heap_time[0] >> 1
            if time <= now[TIME] or (not admits and (head < 0 or waits or time <= c.arrival[head])):
                r = c.heap_who[0]
                now[TIME] = max(now[TIME], time)
                if c.kv[r] >= c.final[r]:
                    return END, r, c.kv[r]
                return GROW, r, wanted(c, r)
        if head < 0:
            return DONE, -1, 0
        now[TIME] = max(now[TIME], c.arrival[head])
        return ADMIT, head, c.kv[head]


@jit
def admitted(c: Clock, r: Int, hit: Int) -> None:
    """The request at the head of the queue runs; hit counts at its first admission only."""
    now = c.now
    now[BLOCKED] = 0
    now[RUNNING] += 1
    c.runs[r] = 1
    c.stack[now[STACK]] = r  # once: a preempted request was taken off
    now[STACK] += 1
    if c.machine.rules[ON]:
        machine.admitted(c, r, hit)
        return
    if now[FRONT] > 0:
        now[FRONT] -= 1  # zero was moved when it was preempted; it lost the time since
        c.zero[r] += now[TIME]
    else:
        now[NEXT] += 1
        c.hits[r] = hit
        c.zero[r] = now[TIME]
        if now[TIME] > c.arrival[r]:
            now[WAITED] += 1
    push(c, _due(c, r), r)


@jit
def refused(c: Clock) -> None:
    """There is no room for the head of the queue now; where nothing runs there never will be, and it is passed over."""
    now = c.now
    if now[RUNNING] > 0:
        now[BLOCKED] = 1
    elif c.machine.rules[ON]:
        machine.dropped(c)
    elif now[FRONT] > 0:
        now[FRONT] -= 1
    else:
        now[NEXT] += 1


@jit
def grown(c: Clock, r: Int, length: Int) -> None:
    """Request r, of the last GROW, holds that many tokens."""
    c.kv[r] = length
    sift(c, 0, machine.due(c, r) if c.machine.rules[ON] else _due(c, r), r)


@jit
def ended(c: Clock, r: Int) -> None:
    """Request r, of the last END, is released."""
    c.runs[r] = 0
    c.now[RUNNING] -= 1
    c.now[BLOCKED] = 0
    take(c, 0)
    if c.machine.rules[ON]:
        machine.over(c, r)


@jit
def preempted(c: Clock) -> Int:
    """The running request that was admitted last, back at the head of the queue: the model releases what it holds."""
    now = c.now
    while True:  # those above the last running one have ended
        r = c.stack[now[STACK] - 1]
        now[STACK] -= 1
        if c.runs[r] == 1:
            break
    c.runs[r] = 0
    now[RUNNING] -= 1
    now[PREEMPTIONS] += 1
    now[BLOCKED] = 1  # what it held goes to the one that grows
    c.front[now[FRONT]] = r
    now[FRONT] += 1
    if c.machine.rules[ON]:
        machine.preempted(c, r)
        return r
    taken_out(c, r)
    c.zero[r] -= now[TIME]  # how long it has run, negative; see `admitted`
    return r
