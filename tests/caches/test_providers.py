"""Providers' caches against twins over tokens, and what they cost."""

from __future__ import annotations

import datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import lab, naive
from traceprof.caches import infinite, providers
from traceprof.caches.providers import (
    Reuse,
    bill,
    compare,
    last_message_tokens,
    offers,
    opening_tokens,
    simulate,
)
from traceprof.caches.traffic import Traffic

OFFERS = offers()
SECOND = 1_000_000


class Marks:
    """Entries by root and tokens, and when they die."""

    def __init__(self, offer, ttl):
        self.offer, self.ttl = offer, ttl
        self.dies, self.seen = {}, {}

    def alive(self, states, request, upto, now):
        """The longest of the request's first `upto` tokens that is there."""
        for n in range(upto, 0, -1):
            if states.get((request.root, request.tokens[:n]), now) > now:
                return n
        return 0

    def arrive(self, request, now):
        self.parted = {
            **getattr(self, "parted", {}),
            request.number: self.alive(self.seen, request, len(request.prompt), now),
        }
        hit = self.alive(self.dies, request, len(request.prompt), now)
        if hit:
            key = (request.root, request.tokens[:hit])
            self.dies[key] = max(self.dies[key], now + self.ttl)
        return hit

    def write(self, request, at, depth):
        if depth >= max(1, self.offer.minimum_tokens):
            key = (request.root, request.tokens[:depth])
            self.dies[key] = max(self.dies.get(key, at), at + self.ttl)

    def first(self, request, at, opening):
        self.write(request, at, len(request.prompt))
        for depth in opening:
            self.write(request, at, depth)
        if self.offer.joins:
            self.write(request, at, self.parted[request.number])
            for n in range(1, len(request.prompt) + 1):
                key = (request.root, request.tokens[:n])
                self.seen[key] = max(self.seen.get(key, at), at + self.ttl)

    def end(self, request, at):
        if self.offer.outputs:
            self.write(request, at, len(request.tokens))


class Prefixes(Marks):
    """Every prefix of a prompt."""

    def arrive(self, request, now):
        found = self.alive(self.dies, request, len(request.prompt), now)
        hit = min(found, len(request.prompt) - 1) // self.offer.step_tokens * self.offer.step_tokens
        if hit < self.offer.minimum_tokens:
            return 0
        self.touch(request, now, found)
        return hit

    def touch(self, request, at, upto):
        for n in range(1, upto + 1):
            key = (request.root, request.tokens[:n])
            self.dies[key] = max(self.dies.get(key, at), at + self.ttl)

    def first(self, request, at, opening):
        self.touch(request, at, len(request.prompt))

    def end(self, request, at):
        pass


def slow(requests, offer, ttl, breakpoints=()):
    """Hits of each request: all that happened before it arrived, then it."""
    model = (Marks if offer.kind == "marks" else Prefixes)(offer, ttl)
    events = []
    for r in requests:
        mark = [min(int(depths[r.number]), len(r.prompt)) for depths in breakpoints]
        events.append(
            (
                r.arrival + r.first,
                r.number,
                0,
                lambda r=r, mark=mark: model.first(r, r.arrival + r.first, mark),
            )
        )
        events.append((r.arrival + r.took, r.number, 1, lambda r=r: model.end(r, r.arrival + r.took)))
    events.sort(key=lambda e: e[:3])
    hits = []
    for r in requests:
        while events and (
            events[0][0] < r.arrival or (events[0][0] == r.arrival and events[0][1] < r.number)
        ):
            events.pop(0)[3]()
        hits.append(model.arrive(r, r.arrival))
    return hits


def small(kind, minimum, step=1, outputs=False, joins=False):
    """An offer for tiny prompts."""
    name = "anthropic-claude-opus-5" if kind == "marks" else "openai-gpt-5.4"
    return OFFERS[name]._replace(minimum_tokens=minimum, step_tokens=step, outputs=outputs, joins=joins)


def agree(requests, offer, ttl, breakpoints=()):
    traffic = lab.traffic_of(requests)
    found = simulate(traffic, offer, ttl / SECOND, breakpoints=breakpoints)
    assert found.hit_tokens.tolist() == slow(requests, offer, ttl, breakpoints)
    kept = traffic.prompt // offer.step_tokens * offer.step_tokens
    expected = np.where(traffic.prompt >= offer.minimum_tokens, np.maximum(kept - found.hit_tokens, 0), 0)
    assert found.written_tokens.tolist() == expected.tolist()


@given(
    lab.requests(roots=(0, 0, 1)),
    st.integers(0, 5),
    st.integers(1, 12),
    st.booleans(),
    st.booleans(),
    st.data(),
)
def test_marks_say_what_their_twin_says(requests, minimum, ttl, outputs, joins, data):
    """Entries at the ends of prompts, openings and answers, and where prompts part."""
    breakpoints = [
        np.array([data.draw(st.integers(0, len(r.prompt))) for r in requests], np.int64)
        for _ in range(data.draw(st.integers(0, 3)))
    ]
    agree(requests, small("marks", minimum, outputs=outputs, joins=joins), ttl, breakpoints)


@given(lab.requests(roots=(0, 0, 1)), st.integers(0, 5), st.integers(1, 12), st.integers(1, 4))
def test_prefixes_say_what_their_twin_says(requests, minimum, ttl, step):
    """Whatever is common, in steps, while it lives."""
    agree(requests, small("prefixes", minimum, step), ttl)


def test_both_kinds_on_a_thousand_longer_traces():
    """As above, 500 traces each."""
    for i, requests in enumerate(lab.many(21, 1000)):
        if i % 2:
            agree(requests, small("prefixes", i % 7, 1 + i % 5), 1 + i % 60)
        else:
            traffic = lab.traffic_of(requests)
            at = (opening_tokens(traffic), last_message_tokens(traffic, 5))[: i % 4]
            agree(requests, small("marks", i % 7, outputs=i % 3 == 0, joins=i % 5 == 0), 1 + i % 60, at)


def test_a_lifetime_begins_again_with_every_read():
    """Asked every four minutes an entry of five lives for ever; left alone for five it is gone."""
    minute = 60 * SECOND
    every = [([1, 2, 3], [], 4 * minute * i, 4 * minute * i) for i in range(5)] + [
        ([1, 2, 3], [], 21 * minute, 21 * minute)
    ]
    found = simulate(Traffic.of_lists(every), small("marks", 1), 300)
    assert found.hit_tokens.tolist() == [0, 3, 3, 3, 3, 0]
    assert simulate(Traffic.of_lists(every), small("marks", 1), 3600).hit_tokens.tolist() == [
        0,
        3,
        3,
        3,
        3,
        3,
    ]


def test_an_entry_is_there_with_the_first_token_not_before():
    """Two that arrive together both write."""
    both = Traffic.of_lists([([1, 2], [], 0, 10), ([1, 2], [], 3, 13), ([1, 2], [], 5, 15)])
    assert both.first_us.tolist() == [5, 8, 10]
    assert simulate(both, small("marks", 1), 300).hit_tokens.tolist() == [0, 0, 2]


def test_what_parts_before_a_mark_shares_nothing_without_an_opening():
    """Two questions about one document: a breakpoint behind the document is what pays."""
    two = Traffic.of_lists([([1, 2, 3, 4], [], 0, 0), ([1, 2, 3, 5], [], 1, 1), ([1, 2, 3, 6], [], 2, 2)])
    assert simulate(two, small("marks", 1), 300).hit_tokens.tolist() == [0, 0, 0]
    assert simulate(two, small("marks", 1), 300, breakpoints=[opening_tokens(two)]).hit_tokens.tolist() == [
        0,
        3,
        3,
    ]
    # DeepSeek finds out by itself, one request later
    assert simulate(two, small("marks", 1, joins=True), 300).hit_tokens.tolist() == [0, 0, 3]
    # and with prefixes there are no marks; 2 tokens a step
    assert simulate(two, small("prefixes", 2, 2), 300).hit_tokens.tolist() == [0, 2, 2]


def test_openai_counts_in_steps_of_128_from_1024():
    """1,500 common tokens are 1,408 cached ones; 1,000 are none; a repeated prompt is computed for its last tokens."""
    offer = OFFERS["openai-gpt-5.4"]
    a = list(range(1500))
    requests = [
        ([*a, 7], [], 0, 0),
        ([*a, 8], [], 1, 1),
        ([*a[:1000], 9], [], 2, 2),
        (a[:1408], [], 3, 3),
        (a[:1409], [], 4, 4),
    ]
    found = simulate(Traffic.of_lists(requests), offer)
    assert found.hit_tokens.tolist() == [0, 1408, 0, 1280, 1408]
    assert found.written_tokens.tolist() == [1408, 0, 0, 128, 0]


def test_short_prompts_are_not_cached():
    """Below Anthropic's minimum nothing is written or read, and nothing is paid for it."""
    offer = OFFERS["anthropic-claude-haiku-4-5"]
    short = Traffic.of_lists([(range(4095), [], 0, 0), (range(4095), [], 1, 1)])
    found = simulate(short, offer)
    assert not found.hit_tokens.any()
    assert not found.written_tokens.any()
    spent = bill(short, offer, found, 300)
    assert spent["input_usd"] == spent["input_usd_without_cache"] == pytest.approx(2 * 4095 / 1e6)
    long = Traffic.of_lists([(range(4096), [], 0, 0), (range(4096), [], 1, 1)])
    assert simulate(long, offer).hit_tokens.tolist() == [0, 4096]


@given(lab.requests(waits=(0, 1, 3)), st.booleans())
def test_without_an_end_every_prefix_is_the_infinite_cache(requests, sampled):
    """A lifetime longer than the trace, no minimum, first tokens at once: the ceiling without outputs, but for a last token."""
    requests = [r._replace(first=0, took=0) for r in requests]
    traffic = lab.traffic_of(requests)
    ceiling = infinite.hits_in_groups(traffic, np.zeros(traffic.requests, np.int64))
    found = simulate(traffic, small("prefixes", 0), 1e6).hit_tokens
    assert found.tolist() == np.minimum(ceiling, traffic.prompt - 1).tolist()


@given(lab.requests(roots=(0, 1)), st.lists(st.integers(-1, 2), min_size=14, max_size=14))
def test_openings_are_what_another_session_begins_with_too(requests, names):
    """The longest prefix that is not the session's own, against all pairs."""
    traffic = lab.traffic_of(requests)
    sessions = np.array(names[: len(requests)], np.int64)
    expected = []
    for r in requests:
        others = [
            o for o in requests
            if o.number != r.number and o.root == r.root and (names[o.number] < 0 or names[o.number] != names[r.number])
        ]  # fmt: skip
        shared = 0
        while shared < len(r.prompt) and any(
            o.prompt[: shared + 1] == r.prompt[: shared + 1] for o in others
        ):
            shared += 1
        expected.append(shared)
    assert opening_tokens(traffic, sessions).tolist() == expected


@given(lab.requests(), st.integers(0, 9))
def test_the_last_message_ends_where_another_prompt_parts_from_it(requests, tail):
    """The longest prefix in common with any other prompt, if it reaches into the tail."""
    expected = []
    for r in requests:
        parted = max(
            (naive.common_prefix(r.prompt, o.prompt) for o in requests if o.number != r.number), default=0
        )
        expected.append(parted if parted >= len(r.prompt) - tail else len(r.prompt))
    assert last_message_tokens(lab.traffic_of(requests), tail).tolist() == expected


def test_the_head_of_an_answer_does_not_hide_a_message():
    """A template sets a few tokens behind the last message: the next request goes on before them, and hits all the same."""
    head = [7] * 3
    a, b = list(range(10, 2010)), list(range(3000, 3500))
    turns = Traffic.of_lists(
        [
            (a + head, [], 0, 0),
            (a + b + head, [], SECOND, SECOND),
            (a + b + b + head, [], 2 * SECOND, 2 * SECOND),
        ]
    )
    (row, _) = compare([turns], [np.zeros(3, np.int64)], ["anthropic-claude-opus-5"])
    assert row["hit_tokens"] == 2000 + 2500
    (row, _) = compare([turns], [np.zeros(3, np.int64)], ["anthropic-claude-opus-5"], tail_tokens=2)
    assert row["hit_tokens"] == 0


def chat(turns, gap_s, sessions=20, system=2000, turn=500):
    """Sessions side by side that take a turn every `gap_s`, all with one system prompt."""
    rng = np.random.default_rng(3)
    said = list(rng.integers(0, 1 << 30, system))
    history = [list(said) for _ in range(sessions)]
    requests, owners = [], []
    for t in range(turns):
        for s in range(sessions):
            history[s] += list(rng.integers(0, 1 << 30, turn))
            at = int((t * gap_s + s) * SECOND)
            requests.append((list(history[s]), list(range(10)), at, at + SECOND // 2))
            owners.append(s)
    return Traffic.of_lists(requests), np.array(owners, np.int64)


def test_which_lifetime_is_cheaper_depends_on_how_long_people_think():
    """Turns a minute apart: five minutes. Twenty minutes apart: the hour, though writing costs more."""
    for gap_s, cheapest in ((60, 300), (1200, 3600)):
        traffic, sessions = chat(6, gap_s)
        rows = compare([traffic], [sessions], ["anthropic-claude-opus-5"])
        assert [row["ttl_s"] for row in rows if row["cheapest"]] == [cheapest]
        assert all(row["input_tokens"] == traffic.prompt.sum() for row in rows)
    # and where nothing is ever asked again, a cache costs more than none
    rng = np.random.default_rng(8)
    alone = Traffic.of_lists([(rng.integers(0, 1 << 30, 2000), [], i, i) for i in range(20)])
    rows = compare([alone], names=["anthropic-claude-opus-5", "openai-gpt-5.4"])
    assert [row["pays"] for row in rows] == [False] * 5
    assert [round(row["saving"], 9) for row in rows] == [-0.25, -1.0, 0.0, 0.0, 0.0]


def test_a_bill_adds_up():
    """Read, written and plain tokens are the prompt; parts are priced apart and added."""
    traffic, sessions = chat(5, 200)
    halves = [traffic.subset(sessions < 10), traffic.subset(sessions >= 10)]
    of = [sessions[sessions < 10], sessions[sessions >= 10]]
    for name, offer in OFFERS.items():
        for row in compare(halves, of, [name]):
            apart = []
            for half, group in zip(halves, of, strict=True):
                at = [last_message_tokens(half)]
                if not offer.joins:
                    at.append(opening_tokens(half, group))
                reuse = simulate(half, offer, row["ttl_s"], breakpoints=at)
                assert (reuse.hit_tokens + reuse.written_tokens <= half.prompt).all()
                apart.append(bill(half, offer, reuse, row["ttl_s"]))
            for key in ("hit_tokens", "written_tokens", "input_usd", "input_usd_without_cache", "output_usd"):
                assert row[key] == pytest.approx(sum(one[key] for one in apart))
            assert row["saving_usd"] == pytest.approx(row["input_usd_without_cache"] - row["input_usd"])
            assert row["input_usd_per_request"] == pytest.approx(row["input_usd"] / traffic.requests)


def test_a_long_prompt_costs_more_as_a_whole():
    """Above 272,000 tokens GPT-6.2 asks twice for input and 1.5 times for output."""
    offer = OFFERS["openai-gpt-6.2-sol"]
    for tokens, times, output_times in ((272_000, 1, 1), (272_001, 2, 1.5)):
        one = Traffic.of_lists([(range(tokens), range(100), 0, 1)])
        spent = bill(one, offer, Reuse(np.array([1000]), np.array([0])), 1800)
        assert spent["input_usd_without_cache"] == pytest.approx(tokens * 2.0 * times / 1e6)
        assert spent["input_usd"] == pytest.approx(((tokens - 1000) * 2.0 + 1000 * 0.1) * times / 1e6)
        assert spent["output_usd"] == pytest.approx(100 * 10 * output_times / 1e6)


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
def test_prices_are_whole(offer):
    """Every offer has prices, a source for them, and says what could not be verified and why."""
    assert offer.kind in ("marks", "prefixes")
    assert offer.source
    assert all(url.startswith("https://") for url in offer.source)
    assert 0 < offer.read < offer.input < offer.output
    assert offer.write
    assert all(price >= offer.input for price in offer.write.values())
    assert list(offer.write) == sorted(offer.write)
    assert set(offer.unverified) <= set(offer._fields)
    assert bool(offer.unverified) <= bool(offer.note)
    assert datetime.date(2026, 1, 1) < providers.as_of()


def test_no_requests_cost_nothing():
    """Nothing to pay, nothing to divide by."""
    (row, _) = compare([Traffic.of_lists([])], names=["anthropic-claude-opus-5"])
    assert (row["input_usd"], row["hit_rate"], row["saving"], row["input_usd_per_request"]) == (
        0,
        None,
        None,
        None,
    )
