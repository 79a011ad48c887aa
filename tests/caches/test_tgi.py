"""TGI's radix trie against a slow twin, and rule by rule."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests import lab
from tests.caches.test_sglang import Radix
from traceprof.caches import tgi
from traceprof.caches.traffic import Traffic


class Trie(Radix):
    """Prompts only, from their end on; leaves give way from their end."""

    def __init__(self, total, page):
        super().__init__(total, page, "lru")

    def _evict(self, pages):
        while pages > 0:
            node = min(self._leaves(), key=self._rank)
            gone = min(pages, len(node.key))
            node.key = node.key[: len(node.key) - gone]
            if not node.key:
                node.parent.children.remove(node)
            pages -= gone
            self.free += gone
            self.evicted += gone

    def admit(self, request, length):
        node, hit = self._down(self._key(request, length - 1))
        self._lock(node, 1)
        pages = -(-(length + len(request.output)) // self.page) - hit
        if pages > self.free + self._evictable():
            self._lock(node, -1)
            return None
        self._evict(pages - self.free)
        self.free -= pages
        self.running[request.number] = node, pages
        return hit * self.page

    def grow(self, request, length):
        return True

    def release(self, request, ended):
        node, pages = self.running.pop(request.number)
        key = self._key(request, len(request.prompt))
        matched = self._insert(key, 0, 0)
        self.free += pages - (len(key) - matched)
        self._lock(node, -1)


def both(requests, total, page):
    model = Trie(total, page)
    slow = lab.drive(requests, model, 1 << 60, total * page)
    fast = tgi.simulate(lab.traffic_of(requests), total * page, block_size=page)
    assert fast.hit_tokens.tolist() == slow.hits
    assert fast.evicted_tokens == model.evicted * page
    assert fast.waited == slow.waited
    assert model.free + sum(len(n.key) for n in model._nodes()) == total
    return slow, model


@given(lab.requests(roots=(0, 0, 1)), st.integers(1, 40), st.sampled_from([1, 1, 2, 3]))
def test_it_equals_its_twin(requests, total, page):
    """Hits, evictions and waits, whatever the room."""
    both(requests, total, page)


def test_it_equals_its_twin_on_a_thousand_longer_traces():
    """Most of them under pressure."""
    seen = np.zeros(2, int)
    for i, requests in enumerate(lab.many(14, roots=2)):
        slow, model = both(requests, (60, 90, 130, 300)[i % 4] // (1, 4, 16)[i % 3], (1, 4, 16)[i % 3])
        seen += slow.waited, model.evicted
    assert (seen > (1000, 10_000)).all(), seen


def hits(requests, capacity=1000):
    return tgi.simulate(Traffic.of_lists(requests), capacity).hit_tokens.tolist()


def test_only_prompts_are_kept_and_only_once_their_request_ended():
    """Side by side nothing is shared, and of a finished request its prompt alone."""
    first = ([1, 2, 3], [4, 5], 0, 10)
    assert [hits([first, ([1, 2, 3, 4, 5], [], at, 20)])[1] for at in (0, 9, 10)] == [0, 0, 3]
    assert hits([first, ([1, 2, 3], [], 10, 20)]) == [0, 2]


def test_the_oldest_leaf_gives_way_from_its_end():
    """As much as is needed, and no more."""
    assert hits([([1, 2, 3, 4, 5], [], 0, 1), ([6, 7], [], 2, 3), ([1, 2, 3, 4, 5], [], 4, 5)], 6)[2] == 4


def test_room_for_the_answer_is_taken_at_once():
    """A second request waits for the whole answer of the first, though nothing of it is there yet."""
    found = tgi.simulate(Traffic.of_lists([([1], [2] * 8, 0, 10), ([3], [], 1, 2)]), 9)
    assert found.waited == 1
