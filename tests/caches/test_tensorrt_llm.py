"""TensorRT-LLM's block manager against a slow twin, and rule by rule."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests import lab
from tests.naive import common_prefix
from traceprof.caches import tensorrt_llm
from traceprof.caches.traffic import Traffic


class Block:
    def __init__(self):
        self.key = None  # its tokens; None: it is not in the tree
        self.parent = None
        self.children = []
        self.users = 0
        self.stored = 0

    def find(self, key):
        return next((child for child in self.children if child.key == key), None)

    def detach(self):
        """Leave the tree, with all that goes on from here; how many tokens that were."""
        gone = len(self.key) + sum([child.detach() for child in list(self.children)])
        self.parent.children.remove(self)
        self.key = self.parent = None
        return gone


class Manager:
    """Free blocks in a list, the first to be used in front."""

    def __init__(self, total, size, partial=True):
        self.size, self.partial = size, partial
        self.free = [Block() for _ in range(total)]
        self.roots = {}
        self.tables = {}
        self.promised = {}
        self.evicted = self.count = 0

    def _keys(self, request, upto):
        """Of the first tokens, the last one perhaps shorter."""
        return [request.tokens[k : min(k + self.size, upto)] for k in range(0, upto, self.size)]

    def _fresh(self, request):
        block = self.free.pop(0)
        if block.key is not None:
            self.evicted += block.detach()
        block.users = 1
        self.tables[request.number].append(block)

    def _claim(self, request, block):
        if block.users == 0:
            self.free.remove(block)
        block.users += 1
        self.tables[request.number].append(block)

    def _store(self, request, keys):
        node = self.roots.setdefault(request.root, Block())
        for block, key in zip(self.tables[request.number], keys, strict=False):
            found = node.find(key)
            if found is None:
                assert block.key is None
                found, self.count = block, self.count + 1
                block.key, block.parent, block.stored = key, node, self.count
                node.children.append(block)
            node = found

    def _best(self, node, key):
        """(block, tokens that match)."""
        found = node.find(key)
        if found is not None:
            return found, len(key)
        same = [(common_prefix(child.key, key), child.stored, child) for child in node.children]
        same = [s for s in same if s[0] > 0]
        return (max(same)[2], max(same)[0]) if same and self.partial else (None, 0)

    def admit(self, request, length):
        node = self.roots.setdefault(request.root, Block())
        total = -(-(request.final + 1) // self.size)
        there = node
        shared = 0
        for key in self._keys(request, length // self.size * self.size):
            there = there.find(key)
            if there is None:
                break
            shared += there.users > 0
        if total - shared > len(self.free) - sum(self.promised.values()):
            return None
        self.tables[request.number] = []
        hit = 0
        for key in self._keys(request, length - 1):
            found, same = self._best(node, key)
            if found is None:
                break
            hit += same
            if same == self.size:
                self._claim(request, found)
                node = found
                continue
            if found.users or found.children:
                self._fresh(request)
            else:
                self.evicted += found.detach() - same
                self._claim(request, found)
            break
        self._grow_to(request, length)
        self.promised[request.number] = total - len(self.tables[request.number])
        self._store(request, self._keys(request, length // self.size * self.size))
        return hit

    def _grow_to(self, request, length):
        while len(self.tables[request.number]) * self.size < length:
            self._fresh(request)

    def grow(self, request, length):
        before = len(self.tables[request.number])
        self._grow_to(request, length)
        self.promised[request.number] -= len(self.tables[request.number]) - before
        return True

    def release(self, request, ended):
        self._store(request, self._keys(request, request.final))
        del self.promised[request.number]
        for block in reversed(self.tables.pop(request.number)):
            block.users -= 1
            if block.users == 0:
                self.free.append(block)


def both(requests, total, size, partial=True):
    model = Manager(total, size, partial)
    slow = lab.drive(requests, model, size, total * size - 1)
    fast = tensorrt_llm.simulate(
        lab.traffic_of(requests), total * size, block_size=size, partial_reuse=partial
    )
    assert fast.hit_tokens.tolist() == slow.hits
    assert fast.evicted_tokens == model.evicted
    assert (fast.waited, fast.preempted) == (slow.waited, 0)
    assert len(model.free) == total
    return slow, model


@given(
    requests=lab.requests(roots=(0, 0, 1)),
    total=st.integers(1, 24),
    size=st.integers(1, 5),
    partial=st.booleans(),
)
def test_it_equals_its_twin(requests, total, size, partial):
    """Hits, evictions and waits, whatever the room."""
    both(requests, total, size, partial)


def test_it_equals_its_twin_on_a_thousand_longer_traces():
    """Most of them under pressure."""
    seen = np.zeros(3, int)
    for i, requests in enumerate(lab.many(15, roots=2, output=30)):
        size = (2, 4, 7, 16)[i % 4]
        slow, model = both(requests, (100, 130, 180, 330)[i // 4 % 4] // size, size, i % 5 > 0)
        seen += slow.waited, model.evicted, sum(h for h in slow.hits if h > 0)
    assert (seen > (1000, 10_000, 50_000)).all(), seen


def hits(requests, blocks=1000, **options):
    return tensorrt_llm.simulate(
        Traffic.of_lists(requests), 4 * blocks, block_size=4, **options
    ).hit_tokens.tolist()


def test_the_tokens_that_match_of_a_block_are_taken():
    """Also of a prompt that is shorter than the block, never the last token, and not where partial reuse is off."""
    first = ([1, 2, 3, 4, 5, 6, 7, 8], [], 0, 1)
    assert hits([first, ([1, 2, 3, 4, 5, 6, 9, 9], [], 2, 3)]) == [0, 6]
    assert hits([first, ([1, 2, 3], [], 2, 3)]) == [0, 2]
    assert hits([first, (first[0], [], 2, 3)]) == [0, 7]
    assert hits([first, (first[0], [], 2, 3)], partial_reuse=False) == [0, 4]


def test_a_block_that_is_not_full_is_kept_from_the_end_of_its_request():
    """Not while it runs; and an answer, too, is there at the end only."""
    first = ([1, 2, 3, 4, 5, 6], [7, 8, 9, 9], 0, 10)
    again = [1, 2, 3, 4, 5, 6, 7, 8, 9, 9]
    assert [hits([first, (again, [], at, 20)])[1] for at in (0, 9, 10)] == [4, 4, 9]
    assert hits([first, ([*again[:6], 0], [], 10, 20)]) == [0, 6]


def test_a_leaf_that_matches_in_part_is_taken_over_and_its_rest_is_lost():
    """Unless somebody uses it, or something goes on from it: then it is copied."""
    first = [1, 2, 3, 4, 5, 6, 7, 8]
    part = [1, 2, 3, 4, 5, 6, 9]
    again = [*first, 9]
    assert hits([(first, [], 0, 1), (part, [], 2, 3), (again, [], 4, 5)]) == [0, 6, 6]
    assert hits([(first, [], 0, 5), (part, [], 2, 3), (again, [], 6, 7)]) == [0, 6, 8]
    assert hits([(again, [], 0, 1), (part, [], 2, 3), (again, [], 4, 5)]) == [0, 6, 8]


def test_a_request_waits_for_room_for_all_that_it_may_generate():
    """And is then never thrown out."""
    two = Traffic.of_lists([([1], [2] * 11, 0, 10), ([3], [4] * 11, 1, 12)])
    found = [tensorrt_llm.simulate(two, 4 * blocks, block_size=4) for blocks in (5, 6)]
    assert [(f.waited, f.preempted) for f in found] == [(1, 0), (0, 0)]


def test_a_block_that_is_used_again_takes_all_behind_it_out_of_the_tree():
    """Two compute a prompt side by side; the answer of one hangs on the other's block, which is the first to be used again."""
    requests = [
        ([1, 2, 3, 4], [], 0, 1),
        ([1, 2, 3, 4], [5, 6, 7, 8, 9], 0, 10),  # its own block for the prompt is known for nothing
        ([7] * 12, [], 11, 12),  # takes the blocks that were never used
        ([8] * 3, [], 12, 13),  # and this one that of the first
        ([1, 2, 3, 4, 5, 6, 7, 8, 9], [], 20, 21),
    ]
    assert hits(requests[:3] + requests[4:], 6)[-1] == 8
    found = tensorrt_llm.simulate(Traffic.of_lists(requests), 24, block_size=4)
    assert found.hit_tokens.tolist()[-1] == 0
    assert found.evicted_tokens >= 8
