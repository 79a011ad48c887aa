"""An engine in virtual time said slowly: the twin of `traceprof.kernels.machine`, one step after the other, everything in lists.

Models are those of `tests.drive`. Times are ns.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class Rules(NamedTuple):
    max_seqs: int
    step_tokens: int
    chunk_tokens: int
    mixed: bool
    prefill_seqs: int
    places: int = 0  # of a closed loop
    request_ns: int = 0


class Sent(NamedTuple):
    """When a request is to be sent, and after whom."""

    scheduled: int
    think: int = 0
    parent: int = -1


class Told(NamedTuple):
    intended: int
    begun: int
    tokens: tuple[int, ...]  # when each was there
    end: int
    hit: int


def step_ns(costs, decoding, tokens, read, pairs):
    step, seq, weight, expert, share, token, kv, pair, overlap = costs
    moved = weight + (expert * (1.0 - (1.0 - share) ** tokens) if expert else 0.0)
    products = token * tokens
    work = max(moved, products)
    if overlap < math.inf and moved > 0 and products > 0:
        work *= (1.0 + (min(moved, products) / work) ** overlap) ** (1.0 / overlap)
    return max(1, int(step + seq * decoding + work + kv * read + pair * pairs + 0.5))


def run(requests, sent, model, quantum, limit, rules, costs):
    """[Told] by request, and (waited, preempted)."""
    n = len(requests)
    intended, begun, end = [-1] * n, [-1] * n, [-1] * n
    tokens = [[] for _ in range(n)]
    hits = [-1] * n
    kv = [len(r.prompt) for r in requests]  # room that it has
    todo = [0] * n
    later = [(s.scheduled, i) for i, s in enumerate(sent) if s.parent < 0]
    ready, places = [], [0] * rules.places
    queue, back, prefills, decoding, order = [], [], [], [], []
    now, blocked, waited, preempted = 0, False, 0, 0

    def have(i):
        return len(tokens[i])

    def over(i):
        end[i] = now
        if rules.places:
            places.append(now)
        later.extend((max(s.scheduled, now + s.think), k) for k, s in enumerate(sent) if s.parent == i)

    def send(i, time):
        intended[i] = time
        if limit is not None and requests[i].final > limit:
            over(i)
        else:
            queue.append(i)

    def sends():
        while due := sorted(one for one in later if one[0] <= now):
            later.remove(due[0])
            if rules.places:
                ready.append((due[0][1], due[0][0]))
            else:
                send(due[0][1], due[0][0])
        while ready and places:
            i, time = min(ready)
            ready.remove((i, time))
            send(i, max(time, places.pop(0)))
            while due := sorted(one for one in later if one[0] <= now):  # who waited for one that failed
                later.remove(due[0])
                ready.append((due[0][1], due[0][0]))

    def wanted(i):
        return min(-(-kv[i] // quantum) * quantum + 1, requests[i].final)

    def leaves(i):
        model.release(requests[i], True)
        order.remove(i)
        decoding.remove(i)
        over(i)

    def grow():
        """Room for what is decoded next: in the order of when it was needed first, which is now for all but those that asked before."""
        nonlocal blocked, preempted
        while True:
            asks = [
                i
                for i in decoding
                if kv[i] < requests[i].final and len(requests[i].prompt) + have(i) >= wanted(i)
            ]
            if not asks:
                return
            i = min(asks)
            length = wanted(i)
            if model.grow(requests[i], length):
                kv[i] = length
                continue
            victim = order.pop()
            model.release(requests[victim], False)
            if victim in prefills:
                prefills.remove(victim)
                todo[victim] = 0
            else:
                decoding.remove(victim)
                kv[victim] = min(len(requests[victim].prompt) + have(victim), requests[victim].final)
            back.append(victim)
            preempted += 1
            blocked = True

    def room():
        return (
            min(rules.chunk_tokens, rules.step_tokens - len(decoding)) if rules.mixed else rules.chunk_tokens
        )

    def admit():
        nonlocal blocked, waited
        while True:
            arrived = queue and intended[queue[0]] + rules.request_ns <= now
            planned = sum(todo[i] for i in prefills)
            if not (back or arrived) or (blocked and order) or len(order) >= rules.max_seqs:
                return
            if len(prefills) >= rules.prefill_seqs or planned >= room():
                return
            i = back[-1] if back else queue[0]
            hit = model.admit(requests[i], kv[i])
            if hit is None and order:
                blocked = True
                return
            again = bool(back)
            if back:
                back.pop()
            else:
                queue.pop(0)
            if hit is None:
                hits[i] = -1
                over(i)
                continue
            blocked = False
            if not again:
                hits[i] = hit
                begun[i] = now
                waited += now > intended[i] + rules.request_ns
            todo[i] = max(1, kv[i] - hit)
            order.append(i)
            prefills.append(i)

    while True:
        for i in sorted((i for i in decoding if have(i) >= max(1, len(requests[i].output))), key=lambda i: i):
            leaves(i)
            blocked = False
        sends()
        if rules.mixed:
            grow()
            admit()
        else:
            admit()
            if not prefills:
                grow()
        if not prefills and not decoding:
            if back or (queue and intended[queue[0]] + rules.request_ns <= now):
                continue
            times = [time for time, _ in later] + [intended[queue[0]] + rules.request_ns for _ in queue[:1]]
            if not times:
                break
            now = min(times)
            continue
        left, computed, read, pairs = room(), 0, 0, 0.0
        for i in prefills:
            piece = max(0, min(todo[i], left))
            before = kv[i] - todo[i]
            if piece:
                read += before
                pairs += sum(before + k + 1 for k in range(piece))
            computed += piece
            todo[i] -= piece
            left -= piece
        decodes = list(decoding) if rules.mixed or not prefills else []
        read += sum(len(requests[i].prompt) + have(i) for i in decodes)
        now += step_ns(costs, len(decodes), computed + len(decodes), float(read), pairs)
        for i in decodes:
            tokens[i].append(now)
        for i in [i for i in prefills if not todo[i]]:
            prefills.remove(i)
            decoding.append(i)
            tokens[i].append(now)
    return [Told(*each) for each in zip(intended, begun, map(tuple, tokens), end, hits, strict=True)], (
        waited,
        preempted,
    )
