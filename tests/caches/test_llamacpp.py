"""llama.cpp's slots and RAM cache, and Ollama's, against a slow twin, and rule by rule."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests import lab
from tests.naive import common_prefix
from traceprof.caches import llamacpp, ollama
from traceprof.caches.traffic import Traffic


class Server:
    """A slot is [sequence, busy, released at]; a sequence is a tuple of tokens led by its root."""

    def __init__(self, slots, room, unified, ram, save_idle):
        self.slots = [[(), False, -1] for _ in range(slots)]
        self.room, self.unified, self.limit, self.save_idle = room, unified, ram, save_idle
        self.ram = []
        self.serves = {}
        self.dropped = 0
        self.released = 0

    def _sequence(self, request, tokens):
        return tuple((request.root, t) for t in request.tokens[:tokens])

    def _save(self, sequence):
        if not sequence or any(common_prefix(e, sequence) == len(sequence) for e in self.ram):
            return
        if len(sequence) > self.limit:
            return
        self.ram = [e for e in self.ram if common_prefix(e, sequence) < len(e)]
        while sum(map(len, self.ram)) + len(sequence) > self.limit:
            self.dropped += len(self.ram.pop(0))
        self.ram.append(sequence)

    def admit(self, request, length):
        prompt = self._sequence(request, length)
        held = sum(len(s[0]) for s in self.slots if s[1])
        idle = [s for s in self.slots if not s[1]]
        if not idle or (self.unified and held + request.final > self.room):
            return None
        f = np.float32
        likely = [(f(common_prefix(s[0], prompt)) / f(length), s) for s in idle if s[0]]
        likely = [(sim, s) for sim, s in likely if sim > f(0.1)]
        if likely:
            sim, slot = max(likely, key=lambda one: one[0])
            loses = sim * f(length) / f(len(slot[0])) < f(0.5)
        else:
            oldest = min(s[2] for s in idle)
            slot, loses = [s for s in idle if s[2] == oldest][-1], True
        if loses and self.limit:
            self._save(slot[0])
            same = common_prefix(slot[0], prompt)
            best = (f(same) / f(len(slot[0])) if slot[0] else f(-1), f(same) / f(length))
            found = None
            for entry in self.ram:
                lcp = common_prefix(entry, prompt)
                keep, sim = f(lcp) / f(len(entry)), f(lcp) / f(length)
                if keep >= f(0.25) and best[0] < keep and best[1] < sim:
                    best, found = (keep, sim), entry
            if found is not None:
                self.ram.remove(found)
                slot[0] = found
        hit = min(common_prefix(slot[0], prompt), length - 1)
        others = [s for s in idle if s is not slot]
        if self.save_idle and self.limit:
            for one in others:
                self._save(one[0])
                if self.unified:
                    one[0] = ()
        for one in others:
            if self.unified and held + request.final + sum(len(s[0]) for s in others) > self.room:
                self.dropped += len(one[0])
                one[0] = ()
        slot[0], slot[1] = self._sequence(request, request.final), True
        self.serves[request.number] = slot
        return hit

    def grow(self, request, length):
        return True

    def release(self, request, ended):
        slot = self.serves.pop(request.number)
        slot[1] = False
        slot[2] = self.now()

    def now(self):
        self.released += 1
        return self.released


def both(requests, slots, capacity, unified, ram, save_idle):
    room = capacity if unified else capacity // slots
    model = Server(slots, room, unified, ram, save_idle)
    slow = lab.drive(requests, model, 1 << 60, room)
    options = {"slots": slots, "unified": unified, "ram_tokens": ram, "save_idle": save_idle}
    fast = llamacpp.simulate(lab.traffic_of(requests), capacity, **options)
    assert fast.hit_tokens.tolist() == slow.hits
    assert fast.evicted_tokens == model.dropped
    assert fast.waited == slow.waited
    return slow, model


@given(
    lab.requests(roots=(0, 0, 1), waits=(1, 3)),
    st.integers(1, 4), st.integers(1, 120), st.booleans(), st.sampled_from([0, 0, 10, 30, 200]), st.booleans(),
)  # fmt: skip
def test_it_equals_its_twin(requests, slots, capacity, unified, ram, save_idle):
    """Hits, drops and waits, with and without RAM, slots together or apart."""
    both(requests, slots, capacity, unified, ram, save_idle)


def test_it_equals_its_twin_on_a_thousand_longer_traces():
    """Most of them short of slots, context or RAM."""
    seen = np.zeros(3, int)
    for i, requests in enumerate(lab.many(15, roots=2)):
        slots, unified = (1, 4, 2)[i % 3], bool(i // 3 % 2)
        capacity = (90, 150, 400)[i // 6 % 3] * (1 if unified else slots)
        slow, model = both(requests, slots, capacity, unified, (0, 60, 300, 5000)[i // 18 % 4], i % 5 > 0)
        seen += slow.waited, model.dropped, sum(h > 0 for h in slow.hits)
    assert (seen > 1000).all(), seen


def hits(requests, capacity=1000, **options):
    return llamacpp.simulate(Traffic.of_lists(requests), capacity, **options).hit_tokens.tolist()


def test_requests_side_by_side_never_share():
    """Three of them with one warm prefix: the first takes the slot that has it."""
    warm = (list(range(50)), [], 0, 1)
    three = [([*range(50), 60 + k], [], 2, 9) for k in range(3)]
    assert hits([warm, *three]) == [0, 50, 0, 0]


def test_a_conversation_finds_its_slot_answer_included():
    """Whatever came between, as long as there is a slot for it; the last token sampled has no KV."""
    first = (list(range(20)), [30, 31, 32], 0, 1)
    other = (list(range(100, 120)), [], 2, 3)
    again = ([*range(20), 30, 31, 32, 33], [], 4, 5)
    for options in ({}, {"ram_tokens": 0}, {"unified": False, "ram_tokens": 0}, {"slots": 1}):
        assert hits([first, other, again], **options)[2] == 22
    assert hits([first, other, again], slots=1, ram_tokens=0)[2] == 0


def test_ram_throws_out_the_oldest_and_moves_what_it_gives():
    """A sequence that was moved into a slot is no longer in RAM."""
    talks = [(list(range(100 * k, 100 * k + 20)), [], 2 * k, 2 * k + 1) for k in range(4)]
    back = [([*range(100 * k, 100 * k + 20), 7], [], 20 + k, 20.5 + k) for k in range(4)]
    requests = [(p, o, int(a * 10), int(e * 10)) for p, o, a, e in [*talks, *back]]
    assert hits(requests, slots=1, ram_tokens=1000)[4:] == [20, 20, 20, 20]
    assert hits(requests, slots=1, ram_tokens=45)[4:] == [0, 0, 0, 0]
    assert hits(requests[:4] + requests[6:], slots=1, ram_tokens=45)[4:] == [20, 20]


def test_ollama_serves_one_at_a_time():
    """Four at once wait for one another, and find what the one before left."""
    four = [([1, 2, 3, 4, 5, 6, 7, 8, 9, 10 + k], [], 0, 5) for k in range(4)]
    found = ollama.simulate(Traffic.of_lists(four), 100)
    assert found.hit_tokens.tolist() == [0, 9, 9, 9]
    assert found.waited == 3
    assert ollama.simulate(Traffic.of_lists(four), 100, num_parallel=4).hit_tokens.tolist() == [0, 0, 0, 0]
