"""oMLX's blocks on the SSD against a slow twin, and rule by rule."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests import lab
from traceprof.caches import omlx
from traceprof.caches.traffic import Traffic


class Omlx:
    """A block is its root and all tokens down to its end; `ssd` is in the order of last use."""

    def __init__(self, room, block):
        self.room, self.block = room, block
        self.ssd = {}
        self.index = {}  # block -> its entry: a list of the running requests that were given it
        self.tables = {}
        self.evicted = 0

    def _chain(self, request, tokens):
        return [(request.root, request.tokens[:end]) for end in range(self.block, tokens + 1, self.block)]

    def _touch(self, block):
        self.ssd[block] = self.ssd.pop(block)

    def admit(self, request, length):
        table = []  # fetch_cache
        for block in self._chain(request, length):
            if block not in self.index and block not in self.ssd:
                break
            table.append((block, self.index.setdefault(block, [])))
        for _, entry in table:
            entry.append(request.number)
        valid = []  # reconstruct_cache
        for block, entry in table:
            if block not in self.ssd:
                del self.index[block]
                break
            self._touch(block)
            valid.append((block, entry))
        for block, entry in table[len(valid) :]:
            entry.remove(request.number)
            if not entry and self.index.get(block) is entry:
                del self.index[block]
        self.tables[request.number] = valid
        hit = len(valid) * self.block
        return hit - 1 if hit == length else hit

    def grow(self, request, length):
        return True

    def release(self, request, ended):
        table = self.tables.pop(request.number)
        for block in self._chain(request, request.final)[len(table) :]:  # store_cache
            if block in self.index:
                continue
            self.index[block] = []
            if block in self.ssd:
                self._touch(block)
                continue
            while self.room and len(self.ssd) >= self.room:
                self.ssd.pop(next(iter(self.ssd)))
                self.evicted += 1
            if self.room:
                self.ssd[block] = True
        for _, entry in table:  # release_for_eviction
            entry.remove(request.number)


def both(requests, room, block):
    twin = Omlx(room, block)
    slow = lab.drive(requests, twin, 1 << 60)
    fast = omlx.simulate(lab.traffic_of(requests), 1 << 40, ssd_tokens=room * block, block_size=block)
    assert fast.hit_tokens.tolist() == slow.hits
    assert fast.evicted_tokens == twin.evicted * block
    return sum(slow.hits), twin.evicted


@given(lab.requests(roots=(0, 0, 1)), st.integers(0, 30), st.integers(1, 4))
def test_it_equals_its_twin(requests, room, block):
    """Hits and evictions, whatever the room."""
    both(requests, room, block)


def test_it_equals_its_twin_on_a_thousand_longer_traces():
    """Most of them short of room."""
    hits = evicted = 0
    for i, requests in enumerate(lab.many(17, roots=2)):
        h, e = both(requests, (5, 12, 40, 500)[i % 4], (4, 1, 8)[i % 3])
        hits += h
        evicted += e
    assert hits > 30_000
    assert evicted > 10_000


def hits(requests, room=1000, capacity=10**6):
    found = omlx.simulate(Traffic.of_lists(requests), capacity, ssd_tokens=2 * room, block_size=2)
    return found.hit_tokens.tolist()


def test_blocks_are_there_when_the_request_has_ended():
    """Two that run side by side share nothing."""
    assert hits([([1, 2, 3], [], 0, 9), ([1, 2, 3], [], 1, 9), ([1, 2, 3], [], 9, 10)]) == [0, 0, 2]


def test_an_answer_counts_in_full_blocks_without_its_last_token():
    """Three of prompt and three of answer: five have been computed, two blocks."""
    assert hits([([1, 2, 3], [4, 5, 6], 0, 1), ([1, 2, 3, 4, 5, 6, 7], [], 2, 3)]) == [0, 4]


def test_the_last_token_of_a_prompt_that_is_known_whole_is_computed():
    """Two blocks, less one token."""
    assert hits([([1, 2, 3, 4], [], 0, 1), ([1, 2, 3, 4], [], 2, 3)]) == [0, 3]


def test_a_prefix_loses_its_front_first():
    """One block too many: the first of the older prompt goes, and the two behind it are of no use to anybody."""
    long = ([1, 2, 3, 4, 5, 6, 7], [], 0, 1)
    other = ([11, 12, 13], [], 2, 3)
    assert hits([long, other, ([*long[0], 8], [], 4, 5)], room=4) == [0, 0, 6]
    assert hits([long, other, ([*long[0], 8], [], 4, 5)], room=3) == [0, 0, 0]


def test_a_block_that_the_index_still_knows_is_not_written_again():
    """The answer's block was evicted; the same answer does not bring it back, looking for it in vain does."""
    asked, answer = [1, 2], [3, 4, 5]
    talk = (asked, answer, 0, 1)
    others = [([20 + k] * 4, [], 2 + k, 3 + k) for k in range(2)]
    again = (asked, answer, 10, 11)
    follow = [*asked, *answer, 6]
    room = 4  # two blocks of the talk, two and two of the others
    assert hits([talk, *others, again, (follow, [], 12, 13)], room)[-1] == 2
    assert hits([talk, *others, again, (follow, [], 12, 13), (follow, [], 14, 15)], room)[-1] == 5


def test_a_request_longer_than_the_memory_is_refused():
    """It never ran."""
    assert hits([([1] * 30, [], 0, 1), ([1] * 20, [], 2, 3)], capacity=25) == [-1, 0]
