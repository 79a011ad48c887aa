"""vllm-mlx's sequences against a slow twin, and rule by rule."""

from __future__ import annotations

import bisect

from hypothesis import given
from hypothesis import strategies as st

from tests import lab
from tests.naive import common_prefix
from traceprof.caches import vllm_mlx
from traceprof.caches.traffic import Traffic


class VllmMlx:
    """Sequences are tuples of tokens with their root, in the order of last use."""

    def __init__(self, most, room, shortest):
        self.most, self.room, self.shortest = most, room, shortest
        self.kept = []
        self.dropped = 0

    def _sequence(self, request, tokens):
        return tuple((request.root, t) for t in request.tokens[:tokens])

    def _use(self, sequence):
        self.kept.remove(sequence)
        self.kept.append(sequence)

    def _orders(self, prompt):
        """In which order longer sequences, and those that fork, are tried: the last used first."""
        return self.kept[::-1], self.kept[::-1]

    def admit(self, request, length):
        prompt = self._sequence(request, length)
        if length < self.shortest:
            return 0
        latest, neighbours = self._orders(prompt)  # max takes the first of equals
        longer = [old for old in latest if old[:length] == prompt]
        shorter = [old for old in latest if prompt[: len(old)] == old]
        if prompt in self.kept:
            self._use(prompt)
            return length
        if longer:
            self._use(max(longer, key=len))
            return length
        if shorter:
            found = max(shorter, key=len)
            self._use(found)
            return len(found)
        nearest = max(neighbours, key=lambda old: common_prefix(old, prompt), default=())
        reach = common_prefix(nearest, prompt)
        if reach < self.shortest:
            return 0
        self._use(nearest)
        return reach

    def grow(self, request, length):
        return True

    def release(self, request, ended):
        whole = self._sequence(request, len(request.tokens))
        if not self.shortest <= len(whole) <= self.room:
            return
        if whole in self.kept:
            self._use(whole)
            return
        while self.kept and (
            sum(map(len, self.kept)) + len(whole) > self.room or len(self.kept) >= self.most
        ):
            self.dropped += len(self.kept.pop(0))
        self.kept.append(whole)


class InTokenOrder(VllmMlx):
    """As vllm-mlx itself: by token ids, and of those that fork only the two neighbours of the prompt."""

    def _orders(self, prompt):
        order = sorted(self.kept)
        at = bisect.bisect_left(order, prompt)
        return order, order[max(0, at - 1) : at + 1]


def both(requests, most, room, shortest):
    twin = VllmMlx(most, room, shortest)
    slow = lab.drive(requests, twin, 1 << 60)
    fast = vllm_mlx.simulate(lab.traffic_of(requests), room, sequences=most, shortest=shortest)
    assert fast.hit_tokens.tolist() == slow.hits
    assert fast.evicted_tokens == twin.dropped
    return sum(slow.hits), twin.dropped


@given(lab.requests(roots=(0, 0, 1)), st.integers(1, 6), st.integers(0, 120), st.integers(1, 5))
def test_it_equals_its_twin(requests, most, room, shortest):
    """Hits and drops, whatever the room."""
    both(requests, most, room, shortest)


def test_it_equals_its_twin_on_a_thousand_longer_traces():
    """Most of them short of room."""
    hits = dropped = 0
    for i, requests in enumerate(lab.many(18, roots=2)):
        h, d = both(requests, (3, 1000)[i % 2], (60, 200, 500, 10_000)[i % 4], (1, 10)[i // 4 % 2])
        hits += h
        dropped += d
    assert hits > 50_000
    assert dropped > 50_000


def hits(requests, capacity=1000, **options):
    options = {"shortest": 1} | options
    return vllm_mlx.simulate(Traffic.of_lists(requests), capacity, **options).hit_tokens.tolist()


def test_a_prompt_is_shared_when_its_answer_is_complete():
    """Prompt and answer to the last token, and not before."""
    assert hits([([1, 2, 3], [4], 0, 9), ([1, 2, 3, 5], [], 1, 9), ([1, 2, 3, 4, 6], [], 20, 21)]) == [
        0,
        0,
        4,
    ]


def test_a_prompt_that_another_sequence_begins_with_is_found_whole():
    """Its last token counts as cached, though it is computed again."""
    assert hits([([1, 2, 3], [4], 0, 1), ([1, 2, 3], [], 2, 3), ([1, 2], [], 4, 5)]) == [0, 3, 2]


def test_short_prompts_and_short_beginnings_do_not_count():
    """Under 128 tokens nothing is kept, looked up or shared."""
    short, long = list(range(127)), list(range(128))
    for prompt, found in ((short, 0), (long, 128)):
        assert hits([(prompt, [], 0, 1), (prompt, [], 2, 3)], shortest=128)[1] == found
    fork = [*range(127), *range(500, 600)]
    assert hits([(list(range(300)), [], 0, 1), (fork, [], 2, 3)], shortest=128)[1] == 0
    assert hits([(list(range(300)), [], 0, 1), (fork, [], 2, 3)], shortest=127)[1] == 127


def test_what_was_used_last_goes_last():
    """Room for two: the first is used, so the second gives way to the third."""
    a, b, c = [1] * 5, [2] * 5, [3] * 5
    used = [(a, [], 0, 1), (b, [], 2, 3), (a, [], 4, 5), (c, [], 6, 7), (b, [], 8, 9), (a, [], 10, 11)]
    assert hits(used, 10)[4] == 0
    assert hits([*used[:4], used[5]], 10)[4] == 5
