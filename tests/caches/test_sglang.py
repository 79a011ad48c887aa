"""SGLang's radix cache against a slow twin, and rule by rule."""

from __future__ import annotations

import collections
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import lab
from tests.naive import common_prefix
from tests.prefills import Prefills
from traceprof.caches import sglang
from traceprof.caches.traffic import Traffic


class Node:
    def __init__(self, parent, key, priority, time):
        self.parent, self.key, self.priority, self.time = parent, key, priority, time
        self.children, self.locks, self.hits = [], 0, 0


class Radix:
    """Keys are tuples of pages; a page is a tuple of tokens, the first one led by the root."""

    def __init__(self, total, page, policy, priority=None):
        self.free, self.page, self.policy = total, page, policy
        self.priority = priority or collections.defaultdict(int)  # of a request, by number
        self.clock = itertools.count()
        self.root = Node(None, (), 0, 0)
        self.root.locks = 1
        self.running = {}  # number -> [node, own from page, pages held, pages inserted]
        self.evicted = 0

    def _key(self, request, tokens):
        n = tokens // self.page
        return tuple((request.root, *request.tokens[i * self.page : (i + 1) * self.page]) for i in range(n))

    def _nodes(self):
        found, stack = [], [self.root]
        while stack:
            node = stack.pop()
            found.append(node)
            stack += node.children
        return found[1:]

    def _leaves(self):
        return [n for n in self._nodes() if not n.children and not n.locks]

    def _evictable(self):
        return sum(len(n.key) for n in self._nodes() if not n.locks)

    def _rank(self, node):
        first = {"lru": 0, "lfu": node.hits, "slru": node.hits >= 2, "priority": node.priority}[self.policy]
        return first, node.time

    def _evict(self, pages):
        gone = 0
        while gone < pages:
            node = min(self._leaves(), key=self._rank)
            node.parent.children.remove(node)
            gone += len(node.key)
        self.free += gone
        self.evicted += gone

    def _split(self, node, at):
        upper = Node(node.parent, node.key[:at], node.priority, next(self.clock))
        upper.locks, upper.hits, upper.children = node.locks, node.hits, [node]
        node.parent.children[node.parent.children.index(node)] = upper
        node.parent, node.key = upper, node.key[at:]
        return upper

    def _down(self, key, each=lambda node, depth: None):
        """Walk, cut where the match ends; (node, pages matched)."""
        now = next(self.clock)
        node, depth = self.root, 0
        while depth < len(key):
            child = next((c for c in node.children if c.key[0] == key[depth]), None)
            if child is None:
                break
            child.time = now
            same = common_prefix(child.key, key[depth:])
            whole = same == len(child.key)
            node = child if whole else self._split(child, same)
            depth += same
            each(node, depth)
            if not whole:
                break
        return node, depth

    def _insert(self, key, known, priority):
        def each(node, depth):
            node.priority = max(node.priority, priority)
            node.hits += depth > known

        node, depth = self._down(key, each)
        if depth < len(key):
            leaf = Node(node, key[depth:], priority, next(self.clock))
            leaf.hits = int(len(key) > known)
            node.children.append(leaf)
        return depth

    def _lock(self, node, change):
        while node is not self.root:
            node.locks += change
            node = node.parent

    def _checkpoint(self, request, tokens):
        state = self.running[request.number]
        node, own, _, known = state
        key = self._key(request, tokens)
        priority = self.priority[request.number]
        matched = self._insert(key, known, priority)
        state[3] = max(known, len(key))
        prompt = len(request.prompt) // self.page
        if 0 < prompt < len(key):
            self._insert(key[:prompt], prompt, priority + 1)
        self.free += max(0, matched - own)
        state[0], _ = self._down(key)
        state[1] = len(key)
        self._lock(state[0], 1)
        self._lock(node, -1)

    def admit(self, request, length):
        node, hit = self._down(self._key(request, length - 1))
        self._lock(node, 1)
        pages = -(-length // self.page)
        if pages - hit > self.free + self._evictable():
            self._lock(node, -1)
            return None
        self.free -= pages - hit
        self.running[request.number] = [node, hit, pages, 0]
        return hit * self.page

    def room(self):
        self._evict(-self.free)

    def computed(self, request, length):
        self._checkpoint(request, length)

    def grow(self, request, length):
        state = self.running[request.number]
        more = -(-length // self.page) - state[2]
        self._evict(min(more - self.free, self._evictable()))
        if more > self.free:
            return False
        self.free -= more
        state[2] += more
        return True

    def release(self, request, ended):
        if ended:
            self._checkpoint(request, request.final)
        node, own, held, _ = self.running.pop(request.number)
        self.free += held - own
        self._lock(node, -1)


def both(requests, total, page, policy, prefill="batch", quantum=sglang.QUANTUM, chunk=8192, priority=None):
    given = dict(enumerate(priority)) if priority else None
    model = Radix(total, page, policy, given)
    driven = Prefills(model, prefill, page, max(1, chunk // page) * page)
    slow = lab.drive(requests, driven, max(quantum, page), total * page)
    fast = sglang.simulate(
        lab.traffic_of(requests), total * page, page_size=page, policy=policy, prefill=prefill, quantum=quantum,
        chunk_tokens=chunk, priority=None if priority is None else np.array(priority, np.int64),
    )  # fmt: skip
    assert fast.hit_tokens.tolist() == slow.hits
    assert fast.evicted_tokens == model.evicted * page
    assert (fast.waited, fast.preempted) == (slow.waited, slow.preempted)
    assert model.free + sum(len(n.key) for n in model._nodes()) == total
    assert not driven.computing
    return slow, model


@given(
    lab.requests(roots=(0, 0, 1)),
    st.integers(1, 40),
    st.sampled_from([1, 1, 2, 3]),
    st.sampled_from(sglang.POLICIES),
    st.sampled_from(sglang.PREFILLS),
    st.sampled_from([1, 2, 16]),
    st.sampled_from([1, 8, 8192]),
)
def test_it_equals_its_twin(requests, total, page, policy, prefill, quantum, chunk):
    """Hits, evictions, waits and retractions, whatever the room, page, policy, and when a prompt is there."""
    both(requests, total, page, policy, prefill, quantum, chunk)


@given(st.data(), lab.requests(), st.integers(8, 40))
def test_it_equals_its_twin_with_priorities(data, requests, total):
    """Requests of different weight, under the policy that looks at it."""
    many = st.lists(st.integers(-2, 2), min_size=len(requests), max_size=len(requests))
    both(requests, total, 1, "priority", priority=data.draw(many))


@pytest.mark.parametrize("prefill", sglang.PREFILLS)
def test_it_equals_its_twin_on_a_thousand_longer_traces(prefill):
    """Most of them under pressure, and some with requests retracted before their prompt was computed."""
    seen = np.zeros(3, int)
    for i, requests in enumerate(lab.many(12, roots=2, output=40)):
        slow, model = both(
            requests,
            (60, 90, 130, 300)[i % 4] // (1, 4, 16)[i % 3],
            (1, 4, 16)[i % 3],
            sglang.POLICIES[i // 3 % 4],
            prefill,
            (16, 1)[i // 12 % 2],
            (8192, 20)[i // 24 % 2],
            [int(p) for p in np.random.default_rng(i).integers(0, 3, len(requests))],
        )
        seen += slow.waited, slow.preempted, model.evicted
    assert (seen > (1000, 20, 10_000)).all(), seen


def hits(requests, capacity=1000, **options):
    return sglang.simulate(Traffic.of_lists(requests), capacity, **options).hit_tokens.tolist()


def test_one_token_is_always_computed():
    """Only one, where vLLM computes a block."""
    known = ([1, 2, 3, 4], [], 0, 1)
    assert hits([known, ([1, 2, 3, 4], [], 2, 3)]) == [0, 3]
    assert hits([known, ([1, 2, 3, 4, 5], [], 2, 3)]) == [0, 4]
    assert hits([known, ([1, 2, 3, 4, 5], [], 2, 3)], page_size=3) == [0, 3]


def test_requests_of_one_instant_do_not_share_what_they_compute():
    """Those that come later find it, though it has no first token yet; before that all three prompts take room."""
    one = ([1, 2, 3, 4], [5, 6], 0, 100)
    again = [1, 2, 3, 4, 7]
    assert [hits([one, (again, [], at, 200)])[1] for at in (0, 1)] == [0, 4]
    assert [hits([one, (again, [], at, 200)], prefill="admission")[1] for at in (0, 1)] == [4, 4]
    assert [hits([one, (again, [], at, 200)], prefill="first token")[1] for at in (0, 49, 50)] == [0, 0, 4]
    trio = Traffic.of_lists([one, (again, [], 0, 90), ([1, 2, 3, 8], [], 0, 90)])
    assert [sglang.simulate(trio, room).waited for room in (12, 13)] == [1, 0]
    assert sglang.simulate(trio, 12, prefill="admission").waited == 0


def test_a_round_prefills_so_many_tokens_and_the_next_one_finds_them():
    """Of five at once the first two fill the first round; the others find the first, the second is not done yet."""
    five = [([1, 2, 3, 4, n], [], 0, 100) for n in (5, 6, 7, 8, 9)]
    assert hits(five) == [0] * 5
    assert hits(five, chunk_tokens=8) == [0, 0, 4, 4, 4]
    assert hits(five, chunk_tokens=11) == [0, 0, 0, 4, 4]


def test_a_batch_takes_its_room_when_all_of_it_was_looked_up():
    """What the second finds is not thrown out for the first, where both come at once."""
    before = [([1, 2, 3], [], 0, 1), ([4, 5, 6], [], 2, 3)]
    at_once = [([7, 8, 9], [], 4, 5), ([1, 2, 3, 3], [], 4, 5)]
    assert hits([*before, *at_once], 8) == [0, 0, 0, 3]
    assert hits([*before, *at_once], 8, prefill="admission") == [0, 0, 0, 0]


def test_an_output_is_shared_only_once_its_request_finished():
    """And without the token that was sampled last."""
    answer = ([1, 2], [3, 4, 5, 6, 7], 0, 100)
    follow = [1, 2, 3, 4, 5, 6, 7, 8]
    assert [hits([answer, (follow, [], at, 200)])[1] for at in (1, 99, 100)] == [2, 2, 6]


def test_nodes_go_as_a_whole_and_answers_before_their_prompts():
    """One token too many costs the whole answer, though not the prompt; pinned nodes stay."""
    first = ([1, 2, 3, 4], [5, 6, 7, 8, 9], 0, 1)  # 8 tokens: prompt and four of the answer
    other = ([11, 12, 13], [], 2, 3)
    again = ([1, 2, 3, 4, 5, 6, 7, 8, 9], [], 4, 5)
    assert hits([first, other, again], 11)[2] == 8
    assert hits([first, other, again], 10)[2] == 4
    assert hits([first, (other[0], [], 0, 1), (again[0], [], 0, 9)], 12) == [0, 0, 8]


@pytest.mark.parametrize(("policy", "kept"), [("lru", 0), ("lfu", 3), ("slru", 3), ("priority", 0)])
def test_policies_differ_in_what_they_keep(policy, kept):
    """A prompt seen three times outlives a newer one that was seen once, where the policy counts."""
    often = [([1, 2, 3, 4], [], t, t + 1) for t in (0, 2, 4)]
    once = [([n, n, n, n], [], t, t + 1) for t, n in ((6, 7), (8, 8), (10, 9))]
    assert hits([*often, *once, ([1, 2, 3, 4], [], 12, 13)], 12, policy=policy)[-1] == kept


def test_a_prompt_outlives_answers_under_the_priority_policy():
    """A finished prompt has priority 1, whatever came later."""
    answered = ([1, 2, 3], [4, 5, 6], 0, 1)
    later = ([7, 8], [9, 9, 9, 9], 2, 3)
    probe = ([1, 2, 3, 4], [], 6, 7)
    fill = ([20, 21, 22], [], 4, 5)
    assert hits([answered, later, fill, probe], 10, policy="priority")[-1] == 3


def test_a_prompt_that_hundreds_of_thousands_share_outlives_one_seen_twice():
    """Counts of use do not overflow beside the time: the shared part stays, the pair goes."""
    n = 600_000
    opening, pair = [1, 2, 3, 4], [5, 6, 7, 8]
    asked = [opening] * 4 + [pair] * 2 + [[9, 9, 9, 9, 9], opening]
    small = Traffic.of_lists([(p, [], t, t) for t, p in enumerate(asked)])
    repeated = np.repeat(np.arange(small.requests), [n, 1, 1, 1, 1, 1, 1, 1])
    times = np.arange(len(repeated), dtype=np.int64)
    many = small._replace(
        node=small.node[repeated], prompt=small.prompt[repeated], total=small.total[repeated],
        arrival_us=times, first_us=times, end_us=times,
    )  # fmt: skip
    assert sglang.simulate(many, 10, policy="lfu").hit_tokens[-1] == 3


def test_a_request_of_higher_priority_is_kept_longer():
    """Under the priority policy the newer prompt goes first, where the older one weighs more."""
    asked = [([1, 2, 3], [], 0, 1), ([4, 5, 6], [], 2, 3), ([7, 8, 9], [], 4, 5), ([1, 2, 3, 4], [], 6, 7)]
    kept = [hits(asked, 7, policy="priority", priority=np.array([p, 0, 0, 0]))[3] for p in (-1, 0, 1)]
    assert kept == [0, 0, 3]
