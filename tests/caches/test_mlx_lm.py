"""mlx-lm's sequences against a slow twin, and rule by rule."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tests import lab
from tests.naive import common_prefix
from traceprof.caches import mlx_lm
from traceprof.caches.traffic import Traffic


class MlxLm:
    """Sequences are tuples of tokens with their root; queues are lists, the oldest first."""

    def __init__(self, most, capacity, chat):
        self.most, self.capacity = most, capacity
        self.queues = {"assistant": [], "user": [], "system": []}
        self.prompts = "user" if chat else "assistant"
        self.active = {}
        self.dropped = 0

    def _all(self):
        return [sequence for queue in self.queues.values() for sequence in queue]

    def _pop(self):
        kinds = list(self.queues)
        for a, b in itertools.pairwise(kinds):
            if self.queues[a] and len(self.queues[a]) >= len(self.queues[b]):
                self.dropped += len(self.queues[a].pop(0))
                return
        self.dropped += len(self.queues["system"].pop(0))

    def _insert(self, sequence, kind):
        for queue in self.queues.values():
            queue[:] = [old for old in queue if common_prefix(old, sequence) < len(old)]
        self.queues[kind].append(sequence)
        if len(self._all()) > self.most:
            self._pop()

    def _sequence(self, request, tokens):
        return tuple((request.root, t) for t in request.tokens[:tokens])

    def admit(self, request, length):
        prompt = self._sequence(request, length)
        if prompt in self._all():
            hit = length
        else:
            hit = max((min(length - 1, common_prefix(old, prompt)) for old in self._all()), default=0)
        while sum(map(len, self._all())) > max(0, self.capacity - sum(self.active.values()) - hit):
            self._pop()
        self.active[request.number] = length
        if length - hit > 1:
            self._insert(prompt[:-1], self.prompts)
        return hit

    def grow(self, request, length):
        self.active[request.number] = length
        return True

    def release(self, request, ended):
        del self.active[request.number]
        self._insert(self._sequence(request, len(request.tokens)), "assistant")


def both(requests, most, capacity, chat):
    twin = MlxLm(most, capacity, chat)
    slow = lab.drive(requests, twin, mlx_lm.QUANTUM)
    fast = mlx_lm.simulate(lab.traffic_of(requests), capacity, sequences=most, chat=chat)
    assert fast.hit_tokens.tolist() == slow.hits
    assert fast.evicted_tokens == twin.dropped
    return twin


@given(lab.requests(roots=(0, 0, 1)), st.integers(1, 6), st.integers(0, 120), st.booleans())
def test_it_equals_its_twin(requests, most, capacity, chat):
    """Hits and drops, whatever the room."""
    both(requests, most, capacity, chat)


def test_it_equals_its_twin_on_a_thousand_longer_traces():
    """Most of them short of sequences or of room."""
    dropped = 0
    for i, requests in enumerate(lab.many(16, roots=2)):
        dropped += both(requests, (2, 10, 5)[i % 3], (60, 200, 500, 10_000)[i % 4], i % 2 == 0).dropped
    assert dropped > 50_000


def hits(requests, capacity=1000, **options):
    return mlx_lm.simulate(Traffic.of_lists(requests), capacity, **options).hit_tokens.tolist()


def test_an_answer_is_kept_to_its_last_token():
    """The token sampled last has been computed when the answer is complete."""
    assert hits([([1, 2, 3], [4, 5], 0, 1), ([1, 2, 3, 4, 5, 6], [], 2, 9)]) == [0, 5]


def test_a_prompt_is_there_for_others_while_its_answer_is_computed():
    """But for its last token; all of three that come meanwhile use it."""
    chat = [1, 2, 3, 4]
    assert hits([(chat, [9] * 8, 0, 50), *[([*chat, 6 + k], [], 5, 20) for k in range(3)]]) == [0, 3, 4, 4]


def test_the_sequence_that_was_kept_first_goes_first_however_often_it_was_used():
    """The first was used since, and goes all the same when there are too many."""
    a, b, c = [1] * 5, [2] * 5, [3] * 5
    used = [(a, [], 0, 1), (b, [], 2, 3), ([1, 1, 7], [], 4, 5), (c, [], 6, 7), ([*a, 8], [], 8, 9)]
    assert hits(used, sequences=3) == [0, 0, 2, 0, 2]
    assert hits(used, sequences=4) == [0, 0, 2, 0, 5]


def test_the_answers_go_before_the_prompts_that_still_wait_for_theirs():
    """A prompt in the user's queue stays while newer answers come and go."""
    waits = ([1] * 6, [5] * 4, 0, 100)
    others = [([20 + k] * 6, [], 2 + 2 * k, 3 + 2 * k) for k in range(4)]
    again = ([1, 1, 1, 1, 1, 9], [], 50, 51)
    assert hits([waits, *others, again], sequences=3)[-1] == 5
    assert hits([waits, *others, again], sequences=3, chat=False)[-1] == 0


def test_running_requests_take_of_the_same_memory():
    """A long prompt leaves no room for what was kept when the next one comes."""
    kept, long = ([1] * 10, [], 0, 1), ([2] * 30, [], 2, 90)
    assert hits([kept, ([*kept[0], 3], [], 4, 5)], 40)[-1] == 10
    assert hits([kept, long, ([7, 7], [], 3, 4), ([*kept[0], 3], [], 4, 5)], 35)[-1] == 0
