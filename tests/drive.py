"""The clock of the cache lab said slowly: the twin of `traceprof.kernels.clock`.

It needs nothing but Python, so the same code drives our twins and, in an engine's own interpreter, the engine's own cache.
A model is an object with

    admit(request, length) -> hit tokens of its prompt, or None where there is no room
    grow(request, length) -> whether there was room
    release(request, ended)  -> None; ended is False when it was preempted

where `request` is a `Request` and length counts KV tokens.
"""

from __future__ import annotations

from typing import NamedTuple


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
        event = min(running, key=lambda r: (due(r), kv[r.number] < r.final, r.number), default=None)
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
