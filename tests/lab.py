"""The cache lab said slowly: the clock that drives the models, and small traffic for their property tests.

A model here is an object with

    admit(request, length) -> hit tokens of its prompt, or None where there is no room
    grow(request, length) -> whether there was room
    release(request, ended)  -> None; ended is False when it was preempted

where `request` is a `Request` and length counts KV tokens. `drive` is the twin of `traceprof.kernels.clock`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

from traceprof.caches.traffic import Traffic


class Request(NamedTuple):
    number: int
    prompt: tuple[int, ...]
    output: tuple[int, ...]
    arrival: int
    first: int  # after admission
    took: int  # after admission
    root: int = 0

    @property
    def tokens(self):
        """Prompt and output."""
        return self.prompt + self.output

    @property
    def final(self):
        """KV tokens at the end: the token sampled last has none."""
        return len(self.prompt) + max(len(self.output) - 1, 0)


class Drive(NamedTuple):
    hits: list[int]  # -1: never ran
    waited: int
    preempted: int


def drive(requests, model, quantum, limit=None):
    """Run a model over requests in the order of their arrival; see `traceprof.kernels.clock` for the rules."""
    hits = [-1] * len(requests)
    kv = {r.number: len(r.prompt) for r in requests}
    spent = dict.fromkeys(kv, 0)  # time that it has run
    zero = {}
    arriving = [r for r in requests if limit is None or r.final <= limit]
    back = []  # preempted, the one to go on first at the end
    running = []  # in the order of admission
    now, blocked, waited, preempted = 0, False, 0, 0

    def wanted(r):
        return min(-(-kv[r.number] // quantum) * quantum + 1, r.final)

    def due(r):
        if kv[r.number] >= r.final:
            return zero[r.number] + r.took
        token = wanted(r) - len(r.prompt)
        return zero[r.number] + r.first + (r.took - r.first) * token // len(r.output)

    while True:
        head = back[-1] if back else arriving[0] if arriving else None
        waits = head is not None and (bool(back) or head.arrival <= now)
        event = min(running, key=lambda r: (due(r), r.number), default=None)
        takes_event = event is not None and (
            due(event) <= now
            if waits and not blocked
            else head is None or waits or due(event) <= head.arrival
        )
        if takes_event:
            now = max(now, due(event))
            if kv[event.number] >= event.final:
                model.release(event, True)
                running.remove(event)
                blocked = False
                continue
            length = wanted(event)
            if model.grow(event, length):
                kv[event.number] = length
            else:
                victim = running.pop()
                spent[victim.number] = now - zero[victim.number]
                model.release(victim, False)
                back.append(victim)
                preempted += 1
                blocked = True
            continue
        if head is None:
            return Drive(hits, waited, preempted)
        now = max(now, head.arrival)
        hit = model.admit(head, kv[head.number])
        if hit is None and running:
            blocked = True
            continue
        if back:
            back.pop()
        else:
            arriving.pop(0)
            if hit is not None:
                hits[head.number] = hit
                waited += now > head.arrival
        if hit is not None:
            blocked = False
            zero[head.number] = now - spent[head.number]
            running.append(head)


def traffic_of(requests):
    """The same requests for the kernels."""
    made = Traffic.of_lists(
        [(r.prompt, r.output, r.arrival, r.arrival + r.took) for r in requests], [r.root for r in requests]
    )
    return made._replace(first_us=np.array([r.arrival + r.first for r in requests], np.int64))


@st.composite
def requests(draw, max_size=14, roots=(0,), symbols=2, longest=9, waits=(0, 0, 1, 3)):
    """Requests that share a lot, overlap a lot, and arrive in bursts."""
    made = []
    known = []  # sequences so far
    clock = 0
    for number in range(draw(st.integers(0, max_size))):
        some = st.lists(st.integers(0, symbols - 1), max_size=longest).map(tuple)
        if known and draw(st.booleans()):
            old = draw(st.sampled_from(known))
            prompt = old[: draw(st.integers(0, len(old)))] + draw(some)
        else:
            prompt = (draw(st.integers(0, 1)),) * draw(st.sampled_from([0, 0, 2, 5])) + draw(some)
        prompt = prompt or (0,)
        output = draw(some)
        clock += draw(st.sampled_from(waits))
        took = draw(st.integers(0, 12))
        made.append(
            Request(
                number, prompt, output, clock, draw(st.integers(0, took)), took, draw(st.sampled_from(roots))
            )
        )
        known += [prompt, prompt + output]
    return made


def many(seed, n=1000, **shape):
    """n random traces without hypothesis, where a model's twin is fast: `shape` as `random_requests`."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        yield random_requests(rng, **shape)


def random_requests(rng, size=25, symbols=3, prefix=40, tail=12, output=20, gap=4, took=40, roots=1):
    """One random trace of chats: sessions carry on, branch, and share openings."""
    made, known = [], []
    clock = 0
    for number in range(int(rng.integers(1, size + 1))):
        fresh = tuple(int(t) for t in rng.integers(0, symbols, rng.integers(1, tail + 1)))
        if known and rng.random() < 0.75:
            old = known[int(rng.integers(len(known)))]
            cut = len(old) if rng.random() < 0.5 else int(rng.integers(0, len(old) + 1))
            prompt = old[:cut] + fresh
        else:
            prompt = (int(rng.integers(0, symbols)),) * int(rng.integers(0, prefix)) + fresh
        out = tuple(int(t) for t in rng.integers(0, symbols, rng.integers(0, output + 1)))
        clock += int(rng.integers(0, gap))
        lasts = int(rng.integers(0, took + 1))
        made.append(
            Request(
                number, prompt, out, clock, int(rng.integers(0, lasts + 1)), lasts, int(rng.integers(roots))
            )
        )
        known += [prompt, prompt + out]
    return made
