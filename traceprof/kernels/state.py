"""What a clock keeps: `Clock`, of any clock, and `Machine`, of one whose times are computed."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from traceprof.kernels import heap
from traceprof.kernels.jit import jit

Int: TypeAlias = Any
I64: TypeAlias = NDArray[np.int64]
F64: TypeAlias = NDArray[np.float64]

DONE, ADMIT, GROW, END = 0, 1, 2, 3

# fields of Clock.now
TIME, NEXT, FRONT, HEAP, STACK, RUNNING, BLOCKED, PREEMPTIONS, WAITED = range(9)
FIELDS = 9
UNLIMITED = 1 << 60  # as a quantum: a request grows once, before it ends

# Machine.rules
ON, MAX_SEQS, STEP_TOKENS, CHUNK_TOKENS, MIXED, PREFILL_SEQS, PLACES, REQUEST_NS = range(8)
RULES = 8
# Machine.state
STATE = 16


class Machine(NamedTuple):
    """Times in ns. What comes before `intended` is given, the rest is filled."""

    rules: I64  # [RULES] ON: 0 where times are those of the log
    costs: F64  # [9] ns: as `traceprof.simulate.cost.Costs`, but for request_s
    scheduled: I64  # [request] when it is to be sent, at the earliest
    think: I64  # [request] from the end of the turn before
    child: I64  # [request] the first of those that wait for its end, -1: none
    sibling: I64  # [request] the next that waits for the same
    waits: I64  # [request] 1: it waits for another
    intended: I64  # [request] when it was sent, -1: never
    begun: I64  # [request] when it was admitted first
    first: I64  # [request] when its first token was there
    end: I64  # [request] when its last token was there, or it failed
    made: I64  # [request] tokens that it had before it was last preempted
    since: (
        I64  # [request] decoding steps that were over at its first token since then, -1: it does not decode
    )
    todo: I64  # [request] tokens of its prompt that are still to be computed
    later: I64  # heap (time, request) of those that were not sent
    later_who: I64
    ready: I64  # closed loop: heap (request, time) of those that may be sent
    ready_time: I64
    places: I64  # closed loop: ring of times since when a place is free
    queue: I64  # those that were sent, in order
    prefills: I64  # those whose prompt is being computed, in order
    steps: I64  # [decoding step] its end, as far as there is room
    pieces: (
        I64  # [piece, 4] request, tokens made before it, decoding steps over at its first token, time of that
    )
    state: I64


def machine(
    rules: I64, costs: F64, scheduled: I64, think: I64, parent: I64, steps: int = 0, pieces: int = 0
) -> Machine:
    """A machine at its start.

    parent  [request]  the turn that it waits for, -1: none
    steps, pieces      room for what is told of them
    """
    n = len(scheduled)
    child, sibling = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    for r in np.flatnonzero(parent >= 0)[::-1].tolist():
        sibling[r] = child[parent[r]]
        child[parent[r]] = r
    never = {name: np.full(n, -1, np.int64) for name in ("intended", "begun", "first", "end", "since")}
    empty = {
        name: np.zeros(n, np.int64)
        for name in ("made", "todo", "later", "later_who", "ready", "ready_time", "queue", "prefills")
    }
    return Machine(
        rules=rules, costs=costs, scheduled=scheduled, think=think, child=child, sibling=sibling, waits=(parent >= 0).astype(np.int64),
        places=np.zeros(max(1, int(rules[PLACES])), np.int64), steps=np.zeros(steps, np.int64), pieces=np.zeros((pieces, 4), np.int64),
        state=np.zeros(STATE, np.int64), **never, **empty,
    )  # fmt: skip


def no_machine() -> Machine:
    """What stands in a clock of recorded times."""
    nothing = np.zeros(0, np.int64)
    return machine(np.zeros(RULES, np.int64), np.zeros(9), nothing, nothing, nothing)


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
    machine: Machine


@jit
def wanted(c: Clock, r: Int) -> Int:
    """The length that r grows to next: the first token behind a multiple of quantum."""
    return min((c.kv[r] + c.quantum - 1) // c.quantum * c.quantum + 1, c.final[r])


@jit
def push(c: Clock, key: Int, r: Int) -> None:
    """Enter a running request into the heap."""
    heap.push(c.heap_time, c.heap_who, c.now[HEAP], key, r)
    c.now[HEAP] += 1


@jit
def sift(c: Clock, at: Int, key: Int, r: Int) -> None:
    """Put it where the entry `at` was."""
    heap.sift(c.heap_time, c.heap_who, c.now[HEAP], at, key, r)


@jit
def take(c: Clock, at: Int) -> None:
    """Remove the heap's entry `at`."""
    heap.take(c.heap_time, c.heap_who, c.now[HEAP], at)
    c.now[HEAP] -= 1


@jit
def taken_out(c: Clock, r: Int) -> None:
    """Remove a request's entry, wherever it stands."""
    for at in range(c.now[HEAP]):
        if c.heap_who[at] == r:
            take(c, at)
            return
