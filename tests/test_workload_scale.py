"""Fewer requests and other times: what each step keeps, and what it changes."""

from __future__ import annotations

import doctest
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceprof.caches.traffic import Traffic
from traceprof.errors import TraceprofError, UsageError
from traceprof.workload import scale
from traceprof.workload.expected import rate


def plan_of(arrivals, sessions=None, think=None):
    """Requests at these times (us), each a session of its own unless told otherwise."""
    n = len(arrivals)
    return scale.Plan(
        np.arange(n),
        np.array(arrivals, np.int64),
        np.array([-1] * n if think is None else think, np.int64),
        np.arange(n) if sessions is None else np.array(sessions),
    )


def dice(seed=0):
    return np.random.default_rng(seed)


plans = st.lists(st.tuples(st.integers(0, 10_000_000), st.integers(0, 6)), min_size=1, max_size=60).map(
    lambda rows: plan_of(*map(list, zip(*sorted(rows), strict=True)))
)


def gaps_in_sessions(plan):
    """{session: us between its requests}"""
    return {
        int(one): np.diff(plan.arrival_us[plan.session == one]).tolist() for one in np.unique(plan.session)
    }


def test_examples_in_the_docstrings_hold():
    """Durations, windows, shares and the busiest window."""
    assert doctest.testmod(scale).failed == 0


@pytest.mark.parametrize("said", ["", "10", "ten minutes", "-5s", "5 parsecs", "1e3s"])
def test_what_is_no_duration_is_told(said):
    """With the option that it was given for."""
    with pytest.raises(UsageError, match="--peak"):
        scale.duration_us(said, "--peak")


@pytest.mark.parametrize(
    ("said", "why"),
    [("10m", "no FROM..TO"), ("40m..10m", "ends before"), ("x..10m", "neither a duration nor an ISO time")],
)
def test_what_is_no_window_is_told(said, why):
    """In one line."""
    with pytest.raises(UsageError, match=why):
        scale.window_us(said, None)


def test_a_window_may_be_given_in_times_of_day():
    """UTC where no zone is named; a log without dates cannot have one."""
    zero = datetime(2026, 8, 21, 12, 0, tzinfo=UTC)
    want = (600_000_000, 1_800_000_000)
    assert scale.window_us("2026-08-21T12:10..2026-08-21T14:30+02:00", zero) == want
    assert scale.window_us("10m..2026-08-21T12:30Z", zero) == want
    assert scale.window_us("2026-08-21T11:00..5s", zero)[0] == -int(timedelta(hours=1).total_seconds() * 1e6)
    with pytest.raises(UsageError, match="the log has none"):
        scale.window_us("2026-08-21T12:10..", None)


@pytest.mark.parametrize("said", ["0", "0%", "120%", "1.5", "-0.1"])
def test_what_is_no_share_is_told(said):
    """A share is more than nothing and at most all."""
    with pytest.raises(UsageError, match="no share"):
        scale.share(said, "--sample")


def test_a_window_holds_its_beginning_and_not_its_end():
    """[first, last)."""
    assert scale.window(plan_of([0, 10, 20, 30]), 10, 30).at.tolist() == [1, 2]
    with pytest.raises(TraceprofError, match="no request arrives"):
        scale.window(plan_of([0, 10]), 50, 60)


@given(plans, st.integers(1, 5_000_000), st.integers(0, 1000))
def test_the_busiest_window_has_most_tokens_of_all(plan, width, seed):
    """Against every window that begins at an arrival."""
    tokens = dice(seed).integers(0, 1000, len(plan.at))
    begin = scale.busiest(plan, tokens, width)

    def held(first):
        return sum(
            int(t) for t, at in zip(tokens, plan.arrival_us, strict=True) if first <= at < first + width
        )

    assert held(begin) == max(held(int(at)) for at in plan.arrival_us)


@given(plans, st.floats(0.01, 1), st.integers(0, 99))
def test_a_sample_of_sessions_takes_whole_sessions_and_so_many(plan, part, seed):
    """At least one, in the order in which they stood."""
    found = scale.sample_sessions(plan, part, dice(seed))
    names = set(plan.session.tolist())
    kept = set(found.session.tolist())
    assert len(kept) == max(1, round(part * len(names)))
    assert found.at.tolist() == [i for i in plan.at if int(plan.session[i]) in kept]


def test_a_sample_by_prefix_keeps_what_shares_together_and_the_hit_rate_near():
    """A system prompt before all, 40 documents of 10 questions each: a fifth of the requests, whole documents."""
    system = list(range(50))
    requests = [
        ([*system, *range(1000 * d, 1000 * d + 80), 100_000 + 10 * d + q], [], 0, 0)
        for q in range(10)
        for d in range(1, 41)
    ]
    traffic = Traffic.of_lists(requests)
    plan = plan_of(list(range(len(requests))))
    document = np.array([d for q in range(10) for d in range(1, 41)])
    found = scale.sample_prefixes(plan, traffic, 0.2, dice())
    kept, sizes = np.unique(document[found.at], return_counts=True)
    assert len(found.at) == 80 and (sizes == 10).all() and len(kept) == 8
    whole = rate(traffic)
    assert abs(rate(traffic.subset(found.at)) - whole) < 0.01
    thinned = plan.take(np.sort(dice().permutation(400)[:80]))  # what single requests would make of it
    assert abs(rate(traffic.subset(thinned.at)) - whole) > 0.05


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=30),
    st.integers(1, 8),
)
def test_subtrees_are_the_highest_with_few_enough_requests(prompts, most):
    """Against the obvious search of each prompt's shortest prefix that at most so many begin with."""
    traffic = Traffic.of_lists([(p, [], 0, 0) for p in prompts])
    found = scale.subtrees(traffic, np.arange(len(prompts)), most)

    def naive(prompt):
        for n in range(1, len(prompt) + 1):
            begun = tuple(prompt[:n])
            if sum(tuple(other[:n]) == begun for other in prompts) <= most:
                return frozenset(i for i, other in enumerate(prompts) if tuple(other[:n]) == begun)
        return None  # ends where more go on, or as too many others do

    for i, prompt in enumerate(prompts):
        together = frozenset(j for j in range(len(prompts)) if found[j] == found[i])
        assert together == (naive(prompt) or frozenset([i]))


@given(plans, st.floats(0.1, 50))
def test_speed_divides_all_times(plan, factor):
    """Arrivals and think times, to the microsecond; what is not known stays so."""
    plan = plan._replace(think_us=np.where(np.arange(len(plan.at)) % 2, plan.arrival_us, -1))
    found = scale.speed(plan, factor)
    assert (abs(found.arrival_us - plan.arrival_us / factor) <= 0.5).all()
    known = plan.think_us >= 0
    assert (found.think_us[~known] == -1).all()
    assert (abs(found.think_us - plan.think_us / factor) <= 0.5)[known].all()


@given(plans, st.floats(0.1, 1000), st.integers(0, 99))
def test_at_a_rate_every_request_is_sent_once_and_sessions_stay_as_they_are(plan, per_s, seed):
    """Arrivals never fall, and the gaps within a session are the recorded ones."""
    found = scale.at_rate(plan, per_s, dice(seed))
    assert sorted(found.at.tolist()) == plan.at.tolist()
    assert (np.diff(found.arrival_us) >= 0).all()
    assert gaps_in_sessions(found) == gaps_in_sessions(plan)


@pytest.mark.parametrize("per_s", [0.5, 20, 3000])
def test_a_rate_is_met(per_s):
    """Of single requests exactly, from the first arrival to the last."""
    plan = plan_of(np.cumsum(dice(1).integers(0, 9000, 500)))
    found = scale.at_rate(plan, per_s, dice(2))
    span = (found.arrival_us[-1] - found.arrival_us[0]) / 1e6
    assert (len(plan.at) - 1) / span == pytest.approx(per_s, rel=1e-4)


def test_bursts_stay_bursts_at_another_rate():
    """The gaps are the trace's own but for one factor, and long runs of neighbours stay neighbours."""
    gaps = np.concatenate([np.full(30, 10), [200_000], np.arange(1, 40) * 1000, [0, 0, 0]])
    drawn = np.diff(scale.starts_like(gaps, 10_000_000_000, dice(5)))
    factor = np.median(drawn[drawn > 0]) / np.median(gaps[gaps > 0])
    scales = [d / g for d in drawn for g in gaps if g and abs(d / g / factor - 1) < 0.5]
    assert scales  # some factor explains them
    block = round(len(gaps) ** 0.5)
    for factor in drawn[drawn > 0] / gaps[gaps > 0][0]:
        said = np.round(drawn / factor)
        if np.isin(said, gaps).all():
            runs = sum(
                any((said[i : i + block] == np.roll(gaps, -k)[:block]).all() for k in range(len(gaps)))
                for i in range(0, len(said) - block, block)
            )
            assert runs == len(range(0, len(said) - block, block))
            break
    else:
        raise AssertionError("no factor makes them the trace's gaps")


def test_a_trace_without_gaps_gets_those_of_a_poisson_process():
    """Mean 1 / rate, and as many short ones as an exponential law has: the median is ln 2 of the mean."""
    plan = plan_of([0] * 4001)
    gaps = np.diff(scale.at_rate(plan, 10, dice()).arrival_us)
    assert gaps.mean() == pytest.approx(100_000, rel=1e-4)
    assert np.median(gaps) / gaps.mean() == pytest.approx(np.log(2), abs=0.05)


def test_users_are_sessions_at_once_on_average():
    """Littles's law: 400 sessions of 3 turns that last 50 s, at 7 users."""
    starts = np.cumsum(dice(3).integers(0, 2_000_000, 400))
    rows = sorted((start + 20_000_000 * turn, s) for s, start in enumerate(starts) for turn in range(3))
    plan = plan_of([at for at, _ in rows], [s for _, s in rows])
    took = np.full(len(rows), 10_000_000)
    per_s = scale.rate_of_users(plan, took, 7)
    assert per_s == pytest.approx(7 / 50 * 3)
    found = scale.at_rate(plan, per_s, dice(4))
    assert scale.sessions_at_once(found, took) == pytest.approx(7, rel=0.06)


def test_sessions_at_once_is_the_mean_over_the_time_in_which_they_begin():
    """One from 0 to 10 s and one from 4 to 8: 1 + 4 of 4 seconds before the last begins."""
    plan = plan_of([0, 4_000_000, 9_000_000], [0, 1, 0])
    assert scale.sessions_at_once(plan, np.array([0, 4_000_000, 1_000_000])) == pytest.approx(1.0)
    plan = plan_of([0, 4_000_000, 8_000_000, 9_000_000], [0, 1, 2, 0])
    assert scale.sessions_at_once(plan, np.array([0, 2_000_000, 0, 1_000_000])) == pytest.approx(1.25)


@pytest.mark.parametrize(("said", "marked"), [("20s", 2), ("25%", 1), ("0.5", 2), ("1", 4)])
def test_warm_up_is_the_beginning_by_time_or_by_share(said, marked):
    """Marked, not cut."""
    assert scale.warm_up(plan_of([0, 10_000_000, 20_000_000, 30_000_000]), said).tolist() == [
        i < marked for i in range(4)
    ]


def test_the_same_seed_draws_the_same():
    """And another one draws otherwise."""
    plan = plan_of(np.cumsum(dice(1).integers(0, 9000, 300)))
    first, again, other = (scale.at_rate(plan, 5, dice(seed)).arrival_us for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()
