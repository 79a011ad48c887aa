"""TGI's radix trie against a slow twin, and rule by rule."""

from __future__ import annotations

import heapq

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests import lab
from tests.naive import common_prefix
from traceprof.caches import tgi
from traceprof.caches.traffic import Traffic


class Node:
    def __init__(self, number, pages, time, parent):
        self.number, self.pages, self.time, self.parent = number, pages, time, parent
        self.children = []
        self.holders = 0  # running requests


class Trie:
    """Nodes hold pages; a leaf is a node without children that nobody holds."""

    def __init__(self, total, page):
        self.page, self.free = page, total
        self.root = Node(-1, (), 0, None)
        self.time = 0
        self.nodes = 0  # numbers given to nodes
        self.spare = []  # numbers that are free again, the last freed last
        self.running = {}
        self.evicted = 0

    def _pages(self, request):
        tokens, page = request.prompt, self.page
        return tuple((request.root, tokens[k : k + page]) for k in range(0, len(tokens) - page + 1, page))

    def _node(self, pages, parent):
        number = self.spare.pop() if self.spare else self.nodes
        self.nodes = max(self.nodes, number + 1)
        node = Node(number, pages, self.time, parent)
        parent.children.append(node)
        return node

    def _find(self, pages):
        """(node, pages of it that match, all pages that match)."""
        self.time += 1
        node, same, found = self.root, 0, 0
        while same == len(node.pages):
            child = next((c for c in node.children if c.pages[:1] == pages[found : found + 1]), None)
            if child is None:
                break
            child.time = self.time
            node, same = child, common_prefix(child.pages, pages[found:])
            found += same
        return node, same, found

    def _all(self, node):
        return [n for child in node.children for n in [child, *self._all(child)]]

    def _evict(self, pages):
        """Make room as far as it goes."""
        heap = [(n.time, n.number, n) for n in self._all(self.root) if not n.children and not n.holders]
        heapq.heapify(heap)
        while pages > 0 and heap:
            node = heapq.heappop(heap)[2]
            gone = min(pages, len(node.pages))
            node.pages = node.pages[: len(node.pages) - gone]
            pages -= gone
            self.free += gone
            self.evicted += gone
            if not node.pages:
                above = node.parent
                above.children.remove(node)
                self.spare.append(node.number)
                if above is not self.root and not above.children and not above.holders:
                    heapq.heappush(heap, (above.time, above.number, above))

    def admit(self, request, length):
        node, _, found = self._find(self._pages(request))
        node.holders += 1
        wanted = -(-request.final // self.page) - found
        if wanted > self.free:
            self._evict(wanted - self.free)
        if wanted > self.free:
            node.holders -= 1
            return None
        self.free -= wanted
        self.running[request.number] = node, found, wanted
        return min(found * self.page, length - 1)

    def grow(self, request, length):
        return True

    def release(self, request, ended):
        held, found, taken = self.running.pop(request.number)
        held.holders -= 1
        pages = self._pages(request)
        there = found
        if len(request.prompt) > found * self.page and pages:
            node, same, there = self._find(pages)
            if there < len(pages):
                if same < len(node.pages):
                    upper = self._node(node.pages[:same], node.parent)
                    node.parent.children.remove(node)
                    node.pages, node.parent = node.pages[same:], upper
                    upper.children.append(node)
                    node = upper
                self._node(pages[there:], node)
        self.free += taken - (len(pages) - there)


def both(requests, total, page):
    model = Trie(max(0, total - 1), page)
    slow = lab.drive(requests, model, 1 << 60, max(0, total - 1) * page)
    fast = tgi.simulate(lab.traffic_of(requests), total * page, block_size=page)
    assert fast.hit_tokens.tolist() == slow.hits
    assert fast.evicted_tokens == model.evicted * page
    assert fast.waited == slow.waited
    assert model.free + sum(len(n.pages) for n in model._all(model.root)) == max(0, total - 1)
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
    assert hits([([1, 2, 3, 4, 5], [], 0, 1), ([6, 7], [], 2, 3), ([1, 2, 3, 4, 5], [], 4, 5)], 7)[2] == 4


def test_room_for_the_answer_is_taken_at_once():
    """A second request waits for the whole answer of the first, though nothing of it is there yet."""
    two = Traffic.of_lists([([1], [2] * 8, 0, 10), ([3], [], 1, 2)])
    assert [tgi.simulate(two, capacity).waited for capacity in (9, 10)] == [1, 0]


def test_an_attempt_that_fails_has_thrown_out_every_leaf():
    """The third waits for the second and then finds room beside the first prompt, which is gone all the same."""
    waits = [([1], [], 0, 1), ([2], [3, 3, 3, 3], 2, 9), ([4, 4, 4], [], 3, 4), ([1, 1], [], 20, 21)]
    assert hits(waits, 9)[3] == 1
    assert hits(waits, 6)[3] == 0


def test_what_is_matched_in_part_is_held_as_a_whole():
    """While a request runs that found but the first token of a prompt, none of that prompt is evicted: another waits."""
    for second, waited in (([1, 9], 1), ([8, 9], 0)):
        two = Traffic.of_lists([([1, 2, 3], [], 0, 1), (second, [], 2, 9), ([5, 5], [], 3, 20)])
        assert tgi.simulate(two, 6).waited == waited
