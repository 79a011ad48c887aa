"""Hits over time, by turn and tenant; caches that are emptied or split, against ones that are built anew for each part."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import lab
from traceprof.caches.traffic import Traffic
from traceprof.prefix import over_time as ot

SECOND = ot.SECOND


def numbers(values):
    return np.array(values, np.int64)


def shared(requests, part):
    """Hit tokens of each request against earlier ones of the same part."""
    known, hits = {}, []
    for r in requests:
        states = known.setdefault(part[r.number], set())
        mine = [(r.root, r.prompt[:n]) for n in range(1, len(r.prompt) + 1)]
        hits.append(sum(s in states for s in mine) if part[r.number] is not None else 0)
        states.update(mine)
    return hits


ROWS = st.lists(
    st.tuples(st.integers(0, 10_000), st.integers(1, 50), st.floats(0, 1)), min_size=1, max_size=60
)


@given(ROWS, st.integers(1, 20))
def test_bins_hold_everything_once(rows, bins):
    """Each request is in the bin of its time; bins are as wide as they must be, and no more of them than asked for."""
    rows = sorted(rows)
    arrival = numbers([t * SECOND // 3 for t, _, _ in rows])
    tokens = numbers([n for _, n, _ in rows])
    hits = numbers([int(n * share) for _, n, share in rows])
    found = ot.over_time(arrival, tokens, hits, bins=bins)
    width = found["bin_s"] * SECOND
    assert len(found["hit_rate"]) <= bins
    assert found["offset_s"] == [i * found["bin_s"] for i in range(len(found["hit_rate"]))]
    for i, rate in enumerate(found["hit_rate"]):
        inside = [k for k in range(len(rows)) if (arrival[k] - arrival[0]) // width == i]
        assert found["requests"][i] == len(inside)
        assert found["input_tokens"][i] == tokens[inside].sum()
        assert rate == (hits[inside].sum() / tokens[inside].sum() if inside else None)
    assert sum(found["requests"]) == len(rows)


def test_bins_grow_to_days_and_hours_are_of_the_day():
    """A year in at most 120 bins of whole days; hours count from the clock's zero."""
    at = numbers([0, 365 * 24 * 3600 * SECOND])
    found = ot.over_time(at, numbers([1, 1]), numbers([0, 1]), zero_us=5 * 3600 * SECOND)
    assert found["bin_s"] == 4 * 24 * 3600
    assert len(found["hit_rate"]) <= 120
    assert [row["hour"] for row in found["by_hour"]] == list(range(24))
    assert [row["requests"] for row in found["by_hour"] if row["requests"]] == [2]
    assert found["by_hour"][5] == {"hour": 5, "requests": 2, "input_tokens": 2, "hit_rate": 0.5}


def test_no_requests_make_no_bins():
    """Empty in, empty out."""
    nothing = numbers([])
    assert ot.over_time(nothing, nothing, nothing)["hit_rate"] == []
    assert ot.warm_up(nothing, nothing, nothing) is None
    assert ot.by_turn(nothing, nothing, nothing) == []
    assert ot.restart(Traffic.of_lists([])) is None


def test_a_refused_request_hits_nothing():
    """Its -1 is no hit token."""
    found = ot.over_time(numbers([0, 0]), numbers([5, 5]), numbers([-1, 5]))
    assert found["hit_rate"] == [0.5]


def test_a_cold_start_ends_where_the_first_half_is_like_the_second():
    """Rising rates are warm late, even ones at once; a lucky stretch at the start does not count."""
    n = 2000
    at, tokens = np.arange(n) * SECOND, np.full(n, 100)
    even = ot.warm_up(at, tokens, np.full(n, 60))
    assert (even["requests"], even["input_tokens"], even["seconds"]) == (0, 0, 0)
    assert even["steady_hit_rate"] == 0.6
    cold = np.where(np.arange(n) < 600, 0, 60)
    found = ot.warm_up(at, tokens, cold)
    assert (found["requests"], found["input_tokens"], found["seconds"]) == (600, 60_000, 599.0)
    cold[:40] = 100
    assert ot.warm_up(at, tokens, cold)["requests"] == 600
    never = ot.warm_up(at, tokens, np.arange(n) * 100 // n)
    assert never["requests"] == 1000
    assert found["curve"][0] == [0, 1, 0.0]
    assert found["curve"][-1] == [1024, 2000, 0.6]
    assert [low for low, _, _ in found["curve"]][1:] == [high for _, high, _ in found["curve"]][:-1]


@given(
    st.lists(st.tuples(st.integers(-1, 3), st.integers(1, 9), st.integers(0, 9)), max_size=40),
    st.integers(1, 6),
)
def test_turns_are_counted_within_their_sessions(rows, limit):
    """The k-th request of each session, the last row with all later ones."""
    sessions, tokens, hits = (numbers([row[k] for row in rows]) for k in range(3))
    seen, expected = {}, {}
    for s, t, h in rows:
        if s >= 0:
            seen[s] = seen.get(s, 0) + 1
            row = expected.setdefault(min(seen[s], limit), [0, 0, 0])
            row[:] = row[0] + 1, row[1] + t, row[2] + h
    found = ot.by_turn(sessions, tokens, hits, limit=limit)
    assert {r["turn"]: [r["requests"], r["input_tokens"], r["hit_tokens"]] for r in found} == expected
    assert all(r["hit_rate"] == r["hit_tokens"] / r["input_tokens"] for r in found)
    assert [r["turn"] for r in found if r["and_later"]] == [r["turn"] for r in found if r["turn"] == limit]


@given(lab.requests(roots=(0, 0, 1)), st.lists(st.integers(-1, 2), min_size=14, max_size=14))
def test_isolation_is_a_cache_for_each_tenant(requests, tenants):
    """One cache for all against one each, token by token."""
    tenants = tenants[: len(requests)]
    traffic = lab.traffic_of(requests)
    together, apart = shared(requests, [0] * len(requests)), shared(requests, tenants)
    found = ot.isolation(traffic, numbers(tenants), ["a", "b", "c"])
    assert found["hit_tokens_shared"] == sum(together)
    assert found["hit_tokens_isolated"] == sum(apart)
    assert found["lost_tokens"] == sum(together) - sum(apart)
    assert found["tenants"] == len({t for t in tenants if t >= 0})
    expected = {}
    for t, whole, part in zip(tenants, together, apart, strict=True):
        if t >= 0 and whole > part:
            expected["abc"[t]] = expected.get("abc"[t], 0) + whole - part
    assert {one["tenant"]: one["lost_tokens"] for one in found["losers"]} == expected
    if together and sum(together):
        assert found["within_share"] == sum(apart) / sum(together)


@given(lab.requests(roots=(0, 0, 1), waits=(0, 1, 3, 9)), st.integers(1, 12))
def test_a_restart_is_a_new_cache(requests, every):
    """Emptied in the middle and regularly: what came before is not there."""
    traffic = lab.traffic_of(requests)
    found = ot.restart(traffic, [every])
    if not requests or requests[0].arrival == requests[-1].arrival:
        assert found is None
        return
    first = requests[0].arrival
    span = requests[-1].arrival - first
    never = sum(shared(requests, [0] * len(requests)))
    middle = sum(shared(requests, [r.arrival - first >= span // 2 for r in requests]))
    assert found["middle"]["hit_tokens_never"] == never
    assert found["middle"]["hit_tokens_restarting"] == middle
    assert found["middle"]["lost_tokens"] == never - middle
    if every > span:
        assert found["regularly"] == []
    else:
        (row,) = found["regularly"]
        assert row["restarts"] == span // every
        assert row["hit_tokens_restarting"] == sum(
            shared(requests, [(r.arrival - first) // every for r in requests])
        )


def test_recovery_is_the_time_until_nothing_is_missed():
    """100 sessions that all come back: each misses its own prefix once, then the cache is as good as the old one."""
    rng = np.random.default_rng(1)
    prompts = [list(rng.integers(0, 1 << 30, 50)) for _ in range(100)]
    order = [s for _ in range(20) for s in range(100)]
    traffic = Traffic.of_lists([(prompts[s], [], t * SECOND, t * SECOND) for t, s in enumerate(order)])
    found = ot.restart(traffic, [500 * SECOND])
    assert found["middle"]["lost_tokens"] == 100 * 50
    # stretches of 20 requests: the fifth is the last that misses, the sixth shows it
    assert found["middle"]["recovered_after_requests"] == pytest.approx(120, abs=3)
    assert found["middle"]["recovered_after_s"] == pytest.approx(120, abs=3)
    assert found["regularly"][0]["restarts"] == 3
    assert found["regularly"][0]["lost_tokens"] == 3 * 100 * 50


@given(
    lab.requests(),
    st.lists(st.integers(-1, 3), min_size=14, max_size=14),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
)
def test_churn_is_a_new_cache_at_every_load(requests, models, slots):
    """A model that left and comes back finds nothing of its own."""
    models = models[: len(requests)]
    requests = [r._replace(root=max(m, 0)) for r, m in zip(requests, models, strict=True)]
    traffic = lab.traffic_of(requests)
    rows = ot.churn(traffic, numbers(models), slots)
    whole = sum(shared(requests, [None if m < 0 else m for m in models]))
    for n, row in zip(slots, rows, strict=True):
        stack, loads, part = [], 0, []
        for m in models:
            if m < 0:
                part.append(None)
                continue
            found = [one for one in stack if one[0] == m]
            if not found:
                found = [(m, loads)]
                loads += 1
                stack = stack[-(n - 1) :] if n > 1 else []
            stack = [one for one in stack if one[0] != m] + found
            part.append(found[0])
        kept = sum(shared(requests, part))
        assert (row["slots"], row["loads"], row["models"]) == (n, loads, len(set(models) - {-1}))
        assert (row["hit_tokens"], row["lost_tokens"]) == (kept, whole - kept)
