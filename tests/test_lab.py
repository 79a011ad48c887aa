"""The clock of the cache lab, paths instead of tokens, and the two ideals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import lab, naive, strategies
from traceprof.caches import infinite, lru
from traceprof.caches.traffic import Traffic
from traceprof.prefix.reuse import MissRatioCurve
from traceprof.prefix.tree import RadixTree, sequences


class Infinite:
    """A set of states; outputs enter at the end."""

    def __init__(self):
        self.states = set()

    def _states(self, request, upto):
        return [(request.root, request.tokens[:n]) for n in range(1, upto + 1)]

    def admit(self, request, length):
        states = self._states(request, length)
        hit = sum(s in self.states for s in states)
        self.states.update(states)
        return hit

    def grow(self, request, length):
        return True

    def release(self, request, ended):
        self.states.update(self._states(request, request.final))


class Lru(Infinite):
    """States by recency, most recent last; the longest of a request's states is touched first."""

    def __init__(self, capacity):
        self.capacity = capacity
        self.states = []

    def admit(self, request, length):
        states = self._states(request, length)
        hit = sum(s in self.states for s in states)
        self.states = [s for s in self.states if s not in states] + states[::-1]
        self.states = self.states[max(0, len(self.states) - self.capacity) :]
        return hit

    def release(self, request, ended):
        self.admit(request, request.final)


class Rooms:
    """A cache of nothing: so many tokens of room, to see who waits and who is thrown out."""

    def __init__(self, room):
        self.room = room
        self.held = {}
        self.log = []

    def admit(self, request, length):
        if sum(self.held.values()) + length > self.room:
            return None
        self.held[request.number] = length
        self.log.append(("admit", request.number, length))
        return 0

    def grow(self, request, length):
        if sum(self.held.values()) - self.held[request.number] + length > self.room:
            return False
        self.held[request.number] = length
        self.log.append(("grow", request.number, length))
        return True

    def release(self, request, ended):
        del self.held[request.number]
        self.log.append(("end" if ended else "preempt", request.number, 0))


def rooms(requests, room, quantum):
    """The same with the kernel's clock."""
    from traceprof.kernels import clock

    c = lab.traffic_of(requests).clock(quantum, room)
    held, log = {}, []
    while True:
        kind, r, length = clock.step(c)
        if kind == clock.DONE:
            return c, log
        if kind == clock.ADMIT:
            if sum(held.values()) + length > room:
                clock.refused(c)
            else:
                held[r] = length
                log.append(("admit", r, length))
                clock.admitted(c, r, 0)
        elif kind == clock.GROW:
            if sum(held.values()) - held[r] + length > room:
                victim = clock.preempted(c)
                del held[victim]
                log.append(("preempt", victim, 0))
            else:
                held[r] = length
                log.append(("grow", r, length))
                clock.grown(c, r, length)
        else:
            del held[r]
            log.append(("end", r, 0))
            clock.ended(c, r)


@given(lab.requests(), st.integers(1, 60), st.integers(1, 5))
def test_the_clock_says_what_its_twin_says(requests, room, quantum):
    """Admissions, growth, ends and preemptions in the same order, in any room."""
    model = Rooms(room)
    slow = lab.drive(requests, model, quantum, room)
    c, log = rooms(requests, room, quantum)
    assert log == model.log
    assert c.hits.tolist() == slow.hits
    assert (c.now[-1], c.now[-2]) == (slow.waited, slow.preempted)
    assert not model.held


def test_the_clock_on_a_thousand_longer_traces():
    """As above, where many wait and are thrown out."""
    seen = [0, 0]
    for i, requests in enumerate(lab.many(7)):
        model = Rooms(90)
        slow = lab.drive(requests, model, 1 + i % 16, 90)
        log = rooms(requests, 90, 1 + i % 16)[1]
        assert log == model.log
        seen[0] += slow.waited
        seen[1] += slow.preempted
    assert min(seen) > 300


@given(lab.requests(roots=(0, 0, 3)))
def test_paths_stand_for_tokens(requests):
    """Two requests agree in as many blocks as their tokens say, whatever the block."""
    from traceprof.kernels import paths

    traffic = lab.traffic_of(requests)
    p = traffic.paths()
    for block in (1, 2, 3, 7):
        base = paths.block_base(p, block)
        found = []
        for r in requests:
            numbers = np.empty(len(r.tokens) // block + 1, np.int32)
            n = paths.blocks(p, base, block, r.number, len(r.tokens), numbers)
            found.append(numbers[:n].tolist())
        for a in requests:
            for b in requests:
                same = naive.common_prefix(a.tokens, b.tokens) // block if a.root == b.root else 0
                ours = naive.common_prefix(found[a.number], found[b.number])
                assert ours == same
                assert not set(found[a.number][ours:]) & set(found[b.number][ours:])


@given(lab.requests(roots=(0, 0, 3)), st.integers(0, 70))
def test_the_ideals_equal_their_twins(requests, capacity):
    """Infinite and LRU, with outputs."""
    traffic = lab.traffic_of(requests)
    assert infinite.simulate(traffic).hit_tokens.tolist() == lab.drive(requests, Infinite(), 1 << 60).hits
    slow = lab.drive(requests, Lru(capacity), 1 << 60)
    assert lru.simulate(traffic, capacity).hit_tokens.tolist() == slow.hits


@given(strategies.traces(outputs=True))
def test_hits_with_outputs_equal_the_twin(trace):
    """An output is there, to its last token, for the requests that arrive at or after its end."""
    tree = RadixTree()
    n = len(trace)
    ends = tree.insert(
        *sequences([r.symbols for r in trace]), np.array([r.root for r in trace], np.int64)
    ).end_node
    ends = tree.extend(ends, *sequences([r.output or () for r in trace]))
    prompt, output, arrival, end = (
        np.array(
            [(len(r.symbols), len(r.output or ()), r.arrival_us, max(r.arrival_us, r.end_us)) for r in trace],
            np.int64,
        )
        .reshape(n, 4)
        .T.copy()
    )
    traffic = Traffic.of_tree(tree, ends, prompt + output, prompt, output, arrival, arrival, end)
    assert infinite.hits_with_outputs(traffic).tolist() == naive.matched_with_outputs(trace)


@given(strategies.traces(), st.data())
def test_hits_in_groups_equal_the_twin(trace, data):
    """Each group shares with itself only; who is in none is not there."""
    groups = data.draw(st.lists(st.integers(-1, 2), min_size=len(trace), max_size=len(trace)))
    traffic = Traffic.of_lists([(r.symbols, (), 0, 0) for r in trace], [r.root for r in trace])
    expected = [0] * len(trace)
    for group in range(3):
        members = [i for i, g in enumerate(groups) if g == group]
        for i, hit in zip(members, naive.matched([trace[i] for i in members]), strict=True):
            expected[i] = hit
    assert infinite.hits_in_groups(traffic, np.array(groups, np.int64)).tolist() == expected


@pytest.mark.parametrize("seed", range(4))
def test_lru_is_the_miss_ratio_curve_at_every_capacity(seed):
    """The simulator at C and the curve read at C, 250 traces, exactly."""
    for requests in lab.many(seed, 250, roots=2):
        tree = RadixTree(reuse=True)
        roots = np.array([r.root for r in requests])
        runs = tree.insert(*sequences([r.prompt for r in requests]), roots).runs
        curve = MissRatioCurve(runs.start, runs.length, tree.input_tokens)
        traffic = lab.traffic_of(requests)
        for capacity in (0, 1, 5, 17, 40, 100, 333, 10_000):
            hits = lru.simulate(traffic, capacity, outputs=False).hit_tokens.sum()
            assert hits == curve.hit_tokens_at(capacity)
