"""Routers before several replicas, against a router's tree of text said slowly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import lab, naive
from traceprof.caches import infinite, lru, routing
from traceprof.caches.routing import Options, replica_study, route
from traceprof.caches.traffic import Traffic
from traceprof.kernels.prompt_paths import cut_paths, nodes_at, prompt_paths


class Node:
    """A stretch of text, when each who was sent it was so, and who was first."""

    def __init__(self, text, stamps, first, parent):
        self.text, self.stamps, self.first, self.parent = text, stamps, first, parent
        self.children = {}


class Tree:
    """The routers' tree of prompts: split where they part, cut back from its leaves, as `policies/tree.rs` does."""

    def __init__(self, tenants):
        self.root = Node((), {}, None, None)
        self.now = tenants  # each was inserted with an empty text
        self.sizes = dict.fromkeys(range(tenants), 0)

    def tick(self):
        self.now += 1
        return self.now - 1

    def insert(self, text, tenant):
        at = self.root
        while text:
            child = at.children.get(text[0])
            if child is None:
                at.children[text[0]] = Node(text, {tenant: self.tick()}, tenant, at)
                self.sizes[tenant] += len(text)
                return
            shared = naive.common_prefix(text, child.text)
            if shared < len(child.text):
                upper = Node(child.text[:shared], dict(child.stamps), child.first, at)
                upper.children[child.text[shared]] = child
                child.text, child.parent = child.text[shared:], upper
                at.children[text[0]] = child = upper
            if tenant not in child.stamps:
                child.stamps[tenant] = 0
                self.sizes[tenant] += len(child.text)
            at, text = child, text[shared:]
        at.stamps[tenant] = self.tick()

    def match(self, text):
        """(length, who was sent it first, or has it still)."""
        at, matched = self.root, 0
        while text and (child := at.children.get(text[0])):
            shared = naive.common_prefix(text, child.text)
            matched += shared
            at, text = child, text[shared:]
            if shared < len(child.text):
                break
        now = self.tick()
        if at is self.root:
            return 0, None
        tenant = at.first if at.first in at.stamps else min(at.stamps)
        if now % 8 == 0:
            at.stamps[tenant] = now
        return matched, tenant

    def match_of(self, text, tenant):
        """How much one of them was sent."""
        at, matched = self.root, 0
        while text and (child := at.children.get(text[0])) and tenant in child.stamps:
            shared = naive.common_prefix(text, child.text)
            matched += shared
            at, text = child, text[shared:]
            if shared < len(child.text):
                break
        return matched

    def nodes(self, at=None):
        for child in (at or self.root).children.values():
            yield child
            yield from self.nodes(child)

    def cut_back(self, room):
        """The oldest leaf of each who has too much, again and again; of two as old the one whose beginning is less."""
        for tenant in self.sizes:
            while self.sizes[tenant] > room:
                leaves = [
                    node for node in self.nodes()
                    if tenant in node.stamps and not any(tenant in c.stamps for c in node.children.values())
                ]  # fmt: skip
                oldest = min(node.stamps[tenant] for node in leaves)
                (leaf,) = [node for node in leaves if node.stamps[tenant] == oldest][:1]
                self.ties += sum(node.stamps[tenant] == oldest for node in leaves) - 1
                self.sizes[tenant] -= len(leaf.text)
                del leaf.stamps[tenant]
                if not leaf.stamps:
                    del leaf.parent.children[leaf.text[0]]

    ties = 0


def loads(requests, served, r, workers):
    """Requests in flight at each worker when r arrives."""
    flying = [served[q.number] for q in requests[: r.number] if q.arrival + q.took > r.arrival]
    return [flying.count(w) for w in range(workers)]


def slow_cache_aware(requests, workers, said, each):
    """Request by request, as `policies/cache_aware.rs` of either router; None where chance decides what is forgotten."""
    tree, served = Tree(workers), []
    due = requests[0].arrival + said.tree_cut_s if requests else 0
    for r in requests:
        while r.arrival >= due:
            tree.cut_back(said.tree_tokens)
            due += said.tree_cut_s
        if tree.ties:
            return None
        text = ((r.root, t) for t in r.prompt)
        text = tuple(text)
        load = loads(requests, served, r, workers)
        unequal = (
            max(load) - min(load) > said.balance_abs_threshold
            and max(load) > min(load) * said.balance_rel_threshold
        )
        if each:
            matched = [tree.match_of(text, w) for w in range(workers)]
            good = not unequal and text and max(matched) / len(text) > np.float32(said.cache_threshold)
            able = [w for w in range(workers) if not good or matched[w] == max(matched)]
            chosen = min(able, key=lambda w: load[w])
        elif unequal:
            chosen = load.index(min(load))
        else:
            matched, first = tree.match(text)
            share = np.float32(matched) / np.float32(len(text)) if text else 0
            chosen = first if share > np.float32(said.cache_threshold) else load.index(min(load))
        served.append(chosen)
        tree.insert(text, chosen)
    return served


def slow_bounded(requests, workers, home, factor):
    served = []
    for r in requests:
        load = loads(requests, served, r, workers)
        most = (sum(load) + 1) / workers * factor
        w = home[r.number]
        if sum(load) and load[w] > most:
            fine = [one for one in range(workers) if load[one] <= most]
            w = min(fine, key=lambda one: load[one]) if fine else w
        served.append(w)
    return served


def slow_least_loaded(requests, workers):
    served = []
    for r in requests:
        load = loads(requests, served, r, workers)
        served.append(min(range(workers), key=lambda w: (load[w], served.count(w), w)))
    return served


OPTIONS = st.builds(
    Options,
    prefix_tokens=st.integers(1, 12),
    load_factor=st.sampled_from([0.5, 1.0, 1.25, 3.0]),
    cache_threshold=st.sampled_from([0.0, 0.3, 0.5, 0.9]),
    balance_abs_threshold=st.integers(0, 3),
    balance_rel_threshold=st.sampled_from([1.0, 1.5, 4.0]),
    tree_tokens=st.sampled_from([4, 12, 30, 1000]),
    tree_cut_s=st.sampled_from([1, 5, 20]),
)


def agree(requests, workers, said):
    """Every policy that looks at what was sent before, against its twin."""
    traffic = lab.traffic_of(requests)
    for policy, each in (("cache_aware", False), ("cache_aware_vllm", True)):
        slow = slow_cache_aware(requests, workers, said, each)
        if slow is not None:
            in_us = said._replace(tree_cut_s=said.tree_cut_s / 1e6)
            assert route(traffic, workers, policy, options=in_us).tolist() == slow
    home = route(traffic, workers, "prefix_hash", options=said._replace(load_factor=1e9))
    served = route(traffic, workers, "prefix_hash", options=said)
    assert served.tolist() == slow_bounded(requests, workers, home, said.load_factor)
    assert route(traffic, workers, "least_loaded").tolist() == slow_least_loaded(requests, workers)


@given(lab.requests(roots=(0, 0, 1)), st.integers(2, 5), OPTIONS)
def test_policies_say_what_their_twins_say(requests, workers, said):
    """Where each request goes, with any thresholds and whatever runs."""
    agree(requests, workers, said)


def test_policies_on_a_thousand_longer_traces():
    """As above: sessions that carry on and branch, loads that part."""
    for i, requests in enumerate(lab.many(11, 1000, took=60)):
        forgets = (1000, 60, 150)[i % 3], (5, 30)[i % 2]
        agree(requests, 2 + i % 4, Options(i % 9 + 1, 1.25, (0.3, 0.5)[i % 2], i % 3, 1.5, *forgets))


@given(lab.requests(roots=(0, 0, 3)), st.data())
def test_prompts_are_chains_of_whole_nodes(requests, data):
    """Two prompts have the nodes in common that they have the tokens in common of, cut wherever one wants."""
    traffic = lab.traffic_of(requests)
    also = np.array([data.draw(st.integers(0, len(r.prompt))) for r in requests], np.int64)
    p, (ends_at, also_at) = cut_paths(traffic.paths(), (traffic.prompt, also))
    assert ends_at.tolist() == p.node.tolist()
    chains = []
    for r in requests:
        chain, v = [], int(p.node[r.number])
        while v >= 0:
            chain.append(v)
            v = int(p.parent[v])
        assert v == -1 - r.root
        ends = [int(p.end[v]) for v in chain] + [0]
        assert ends[0] == len(r.prompt)
        assert [int(p.begin[v]) for v in chain] == ends[1:]
        assert also[r.number] in ends
        if also[r.number]:
            assert chain[ends.index(also[r.number])] == also_at[r.number]
        else:
            assert also_at[r.number] == -1 - r.root
        chains.append(chain[::-1])
    for a in requests:
        for b in requests:
            n = naive.common_prefix(chains[a.number], chains[b.number])
            same = naive.common_prefix(a.prompt, b.prompt) if a.root == b.root else 0
            assert (p.end[chains[a.number][n - 1]] if n else 0) == same


def test_a_child_that_begins_inside_its_parent_is_cut_off_there():
    """In a trace of blocks a prompt may leave a node in its midst: what lies below is not of the prompt."""
    # node 0 stands for 4 tokens, node 1 for what follows the first 2 of them
    traffic = Traffic(
        np.array([-1, 0], np.int32), np.array([0, 2]), np.array([4, 5]), np.array([0, 1], np.int32),
        np.array([4, 5]), np.array([4, 5]), np.array([0, 1]), np.array([0, 1]), np.array([0, 1]),
    )  # fmt: skip
    p = prompt_paths(traffic.paths(), traffic.prompt)
    assert p.begin.tolist() == [0, 2, 2]
    assert p.end.tolist() == [2, 4, 5]
    assert p.parent.tolist() == [-1, 0, 0]
    assert p.node.tolist() == [1, 2]
    assert nodes_at(traffic.paths(), np.array([2, 2])).tolist() == [0, 0]


def test_sessions_stay_together_and_the_others_spread():
    """One replica a session; requests without one go their own ways; more replicas move few sessions."""
    n = 4000
    traffic = Traffic.of_lists([([1], [], t, t) for t in range(n)])
    sessions = np.where(np.arange(n) % 4 == 3, -1, np.arange(n) % 500)
    eight = route(traffic, 8, "session_sticky", sessions=sessions)
    for one in range(500):
        assert len(set(eight[sessions == one].tolist())) <= 1
    spread = np.bincount(eight[sessions < 0], minlength=8)
    assert spread.min() > 0.7 * spread.mean()
    nine = route(traffic, 9, "session_sticky", sessions=sessions)
    moved = (eight != nine).mean()
    assert 0.05 < moved < 0.2  # a ninth
    assert (nine[eight != nine] == 8).all()


def test_equal_beginnings_go_the_same_way():
    """prefix_hash looks at the first tokens only; round robin and random look at nothing."""
    tails = [([1, 2, 3, t], [], t, t) for t in range(40)] + [
        ([4, t, 5], [], 40 + t, 40 + t) for t in range(40)
    ]
    traffic = Traffic.of_lists(tails)
    served = route(traffic, 4, "prefix_hash", options=Options(prefix_tokens=3))
    assert len(set(served[:40].tolist())) == 1
    assert len(set(served[40:].tolist())) == 4
    assert route(traffic, 4, "round_robin").tolist() == [0, 1, 2, 3] * 20
    a, b = (route(traffic, 4, "random", options=Options(seed=s)) for s in (1, 2))
    assert (route(traffic, 4, "random", options=Options(seed=1)) == a).all()
    assert (a != b).any()


def test_a_long_queue_beats_a_known_prefix():
    """Everybody has the same prompt: it stays with the first, until that one is far ahead."""
    same = [([1, 2, 3, 4], [], 0, 100)] * 10
    served = route(
        Traffic.of_lists(same), 2, "cache_aware", options=Options(balance_abs_threshold=3)
    ).tolist()
    assert served == [0, 0, 0, 0, 1, 0, 1, 0, 1, 0]


def test_who_was_first_keeps_a_prefix_in_sglangs_router_only():
    """A prompt that was sent to both: SGLang's goes back to the first, vLLM's to the less loaded."""
    requests = [
        ([1, 2, 3, 4], [], 0, 9),
        ([9, 9], [], 1, 3),  # to 1, which has nothing to do
        ([1, 2, 3, 4, 5, 6, 7, 8, 9], [], 4, 9),  # known to less than half: to 1, the less loaded
        ([1, 2, 3, 4], [], 10, 99),  # nobody is busy
        ([1, 2, 3, 4], [], 11, 99),
    ]
    traffic = Traffic.of_lists(requests)
    said = Options(cache_threshold=0.5)
    assert route(traffic, 2, "cache_aware", options=said).tolist() == [0, 1, 1, 0, 0]
    assert route(traffic, 2, "cache_aware_vllm", options=said).tolist() == [0, 1, 1, 0, 1]


def chats(n, sessions, turns=8):
    """Sessions that take turns, each turn all of the one before and more."""
    rng = np.random.default_rng(5)
    history = {s: list(rng.integers(0, 1 << 20, 30)) for s in range(sessions)}
    requests, owners = [], []
    for t in range(n):
        s = int(rng.integers(sessions))
        if len(history[s]) > 30 * turns:
            history[s] = list(rng.integers(0, 1 << 20, 30))
        history[s] += list(rng.integers(0, 1 << 20, 20))
        requests.append(([7] * 5 + history[s], [], t, t + 3))
        owners.append(s)
    return Traffic.of_lists(requests), np.array(owners, np.int64)


def test_scaling_out_costs_hits_and_a_router_gives_them_back():
    """Hits fall with every replica under round robin; by session nearly all stay."""
    traffic, sessions = chats(600, 40)
    rows = replica_study([traffic], lru.simulate, 1 << 30, (1, 2, 4, 8), sessions=[sessions])
    assert len(rows) == 4 * len(routing.POLICIES)
    hits = {(row["replicas"], row["policy"]): row["hit_tokens"] for row in rows}
    alone = int(infinite.simulate(traffic).hit_tokens.sum())
    assert {hits[1, policy] for policy in routing.POLICIES} == {alone}
    assert alone > hits[2, "round_robin"] > hits[4, "round_robin"] > hits[8, "round_robin"]
    for policy in ("session_sticky", "cache_aware", "cache_aware_vllm"):
        assert hits[8, policy] > 0.98 * alone
    for row in rows:
        assert row["hit_rate"] == row["hit_tokens"] / traffic.prompt.sum()
        assert 1 <= row["load_imbalance"] <= row["replicas"]


@pytest.mark.parametrize("policy", routing.POLICIES)
def test_the_study_adds_up_what_each_replica_does(policy):
    """Hits, evictions and imbalance of the rows are those of the replicas' own traffic."""
    traffic, sessions = chats(200, 10)
    (row,) = replica_study([traffic], lru.simulate, 500, (3,), [policy], sessions=[sessions])
    served = route(traffic, 3, policy, sessions=sessions)
    outcomes = [lru.simulate(traffic.subset(served == one), 500) for one in range(3)]
    assert row["hit_tokens"] == sum(int(o.hit_tokens.sum()) for o in outcomes)
    assert row["evicted_tokens"] == sum(o.evicted_tokens for o in outcomes)
    most = max(int(traffic.prompt[served == one].sum()) for one in range(3))
    assert row["load_imbalance"] == pytest.approx(most / (traffic.prompt.sum() / 3))


def test_no_requests_have_no_rate():
    """Nothing to route, nothing to divide by."""
    nothing = Traffic.of_lists([])
    for policy in routing.POLICIES:
        assert route(nothing, 4, policy).tolist() == []
    (row,) = replica_study([nothing], lru.simulate, 10, (2,), ["round_robin"])
    assert (row["hit_tokens"], row["hit_rate"], row["load_imbalance"]) == (0, None, None)
