"""LMDeploy's block trie against a slow twin, and rule by rule."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests import lab
from traceprof.caches import lmdeploy
from traceprof.caches.traffic import Traffic


class Trie:
    """Blocks known by root and tokens: how many sequences hold each, when it was last released. Private blocks are counted."""

    def __init__(self, room, block, ahead):
        self.room, self.block, self.ahead = room, block, ahead
        self.holders = {}  # key of a block in the trie -> sequences
        self.time = {}
        self.now = 0
        self.path = {}  # request -> keys of blocks that it shares with the trie
        self.size = {}  # request -> blocks, the private ones included
        self.evicted = 0

    def _key(self, request, k):
        return request.root, request.tokens[: (k + 1) * self.block]

    def _free(self):
        return self.room - len(self.holders) - sum(self.size[r] - len(self.path[r]) for r in self.size)

    def _make_room(self, blocks):
        """Evict leaf after leaf until so many blocks are free; whether they are."""
        while self._free() < blocks:
            inner = {(root, tokens[: -self.block]) for root, tokens in self.holders}
            leaves = [key for key, held in self.holders.items() if not held and key not in inner]
            if not leaves:
                return False
            key = min(leaves, key=self.time.__getitem__)
            del self.holders[key]
            self.evicted += 1
        return True

    def _hold(self, request, key):
        self.holders[key] = self.holders.get(key, 0) + 1
        self.path[request.number].append(key)

    def _let_go(self, request):
        self.now += 1
        del self.size[request.number]
        for key in self.path.pop(request.number):
            self.holders[key] -= 1
            self.time[key] = self.now

    def _attach(self, request, upto):
        for k in range(len(self.path[request.number]), upto):
            self._hold(request, self._key(request, k))  # if it was there, the request's own block is free

    def admit(self, request, length):
        self.path[request.number], self.size[request.number] = [], 0
        for k in range((length - 1) // self.block):
            if self._key(request, k) not in self.holders:
                break
            self._hold(request, self._key(request, k))
        hit = self.size[request.number] = len(self.path[request.number])
        wanted = -(-(length + self.ahead) // self.block)
        if not self._make_room(wanted - hit):
            self._let_go(request)
            return None
        self.size[request.number] = wanted
        self._attach(request, length // self.block)
        return hit * self.block

    def grow(self, request, length):
        while (size := self.size[request.number]) * self.block <= length:
            wanted = -(-(size * self.block + self.ahead) // self.block)
            if not self._make_room(wanted - size):
                return False
            self.size[request.number] = wanted
            self._attach(request, size)
        return True

    def release(self, request, ended):
        self._let_go(request)


def both(requests, total, block, ahead):
    model = Trie(total - 1, block, ahead)
    slow = lab.drive(requests, model, block, (total - 1) * block - ahead)
    fast = lmdeploy.simulate(
        lab.traffic_of(requests), total * block, block_size=block, prefill_interval=ahead
    )
    assert fast.hit_tokens.tolist() == slow.hits
    assert fast.evicted_tokens == model.evicted * block
    assert (fast.waited, fast.preempted) == (slow.waited, slow.preempted)
    assert not model.size
    assert not any(model.holders.values())
    return slow, model


@given(
    requests=lab.requests(roots=(0, 0, 1)),
    total=st.integers(1, 24),
    block=st.integers(1, 4),
    ahead=st.sampled_from([1, 2, 5, 16]),
)
def test_it_equals_its_twin(requests, total, block, ahead):
    """Hits, evictions, waits and preemptions, whatever the room."""
    both(requests, total, block, ahead)


def test_it_equals_its_twin_on_a_thousand_longer_traces():
    """Most of them under pressure."""
    seen = np.zeros(4, int)
    for i, requests in enumerate(lab.many(33, roots=2)):
        block = (1, 4, 3, 16)[i % 4]
        slow, model = both(requests, (100, 130, 180, 330)[i // 4 % 4] // block, block, (1, 4, 16)[i % 3])
        seen += slow.waited, slow.preempted, model.evicted, sum(h for h in slow.hits if h > 0)
    assert (seen > (1000, 100, 10_000, 50_000)).all(), seen


def hits(requests, capacity=1000, ahead=1):
    return lmdeploy.simulate(
        Traffic.of_lists(requests), capacity, block_size=4, prefill_interval=ahead
    ).hit_tokens.tolist()


def test_the_block_of_the_last_token_is_never_reused():
    """A prompt of whole blocks computes its last one."""
    first = ([1, 2, 3, 4, 5, 6, 7, 8], [], 0, 1)
    assert hits([first, (first[0], [], 2, 3), ([*first[0], 9], [], 4, 5)]) == [0, 4, 8]


def test_equal_blocks_take_room_once():
    """Two that run at the same time share the block that both filled, so a third finds room."""
    for second, waited in (([1, 2, 3, 4], 0), ([9, 2, 3, 4], 1)):
        side_by_side = [([1, 2, 3, 4], [], 0, 9), (second, [], 0, 9), ([5, 6, 7], [], 1, 9)]
        found = lmdeploy.simulate(Traffic.of_lists(side_by_side), 20, block_size=4, prefill_interval=1)
        assert found.waited == waited


def test_an_answer_enters_the_trie_when_its_sequence_takes_more_room():
    """The block that an answer fills last is lost where the room taken ahead had not been used up."""
    answer = [5, 6, 7, 8, 9]  # with its prompt two blocks of KV
    chat = [([1, 2, 3, 4], answer, 0, 9), ([1, 2, 3, 4, *answer, 1, 1, 1, 1], [], 10, 11)]
    assert hits(chat, ahead=1) == [0, 8]
    assert hits(chat, ahead=5) == [0, 4]


def test_an_attempt_that_fails_has_evicted_what_nobody_holds():
    """The third waits for the second and then finds room beside the first prompt, which is gone all the same."""
    second = [2] * 12
    waits = [([1] * 5, [], 0, 1), (second, [], 2, 9), ([*second, 3], [], 3, 4), ([1] * 5, [], 20, 21)]
    roomy, tight = (
        lmdeploy.simulate(Traffic.of_lists(waits), (usable + 1) * 4, block_size=4, prefill_interval=5)
        for usable in (9, 6)
    )
    assert roomy.hit_tokens.tolist() == [0, 0, 12, 4]
    assert tight.hit_tokens.tolist() == [0, 0, 12, 0]
    assert (roomy.waited, tight.waited) == (0, 1)
    assert tight.evicted_tokens == 4
