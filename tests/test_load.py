"""Lengths, arrivals, concurrency, sessions: against slow twins and by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceprof.load.arrivals import arrivals
from traceprof.load.concurrency import concurrency, in_flight, over_time
from traceprof.load.lengths import lengths
from traceprof.load.sessions import sessions

TIMES = st.integers(0, 200)
INTERVALS = st.lists(st.tuples(TIMES, st.integers(0, 50)), min_size=1, max_size=30)


def level_at(intervals, at):
    return sum(start <= at < start + took for start, took in intervals)


@given(INTERVALS)
def test_sweep_equals_counting_at_every_instant(intervals):
    """The level between two events is the number of intervals that hold the instant."""
    start = np.array([s for s, _ in intervals])
    steps = in_flight(start, start + np.array([t for _, t in intervals]))
    for at in range(260):
        k = int(np.searchsorted(steps.at_us, at, side="right")) - 1
        assert (steps.level[k] if k >= 0 else 0) == level_at(intervals, at)


@given(INTERVALS)
def test_concurrency_is_weighted_by_time(intervals):
    """Mean, percentiles and peak equal those of one sample an instant."""
    start = np.array([s for s, _ in intervals])
    steps = in_flight(start, start + np.array([t for _, t in intervals]))
    found = concurrency(steps)
    if found is None:
        assert all(t == 0 for _, t in intervals)
        return
    first, last = int(steps.at_us[0]), int(steps.at_us[-1])
    samples = sorted(level_at(intervals, at) for at in range(first, last))
    assert found["mean"] == pytest.approx(sum(samples) / len(samples))
    assert found["peak"] == samples[-1]
    for p in (50, 95, 99):
        assert found[f"p{p}"] == samples[-(-len(samples) * p // 100) - 1]
    busy = [s for s in samples if s]
    assert found["busy"]["mean"] == pytest.approx(sum(busy) / len(busy))
    assert found["busy"]["share_of_time"] == pytest.approx(len(busy) / len(samples))


@given(INTERVALS)
def test_bins_keep_area_peak_and_arrivals(intervals):
    """The bins' mean levels hold the whole area, the highest bin is the peak, and no arrival is lost."""
    start = np.array([s for s, _ in intervals], np.int64) * 1_000_000
    end = start + np.array([t for _, t in intervals]) * 1_000_000
    steps = in_flight(start, end)
    bins = over_time(steps, np.sort(start), bins=7)
    assert len(bins.offset_s) <= 7
    assert bins.arrivals.sum() == len(intervals)
    width = bins.offset_s[1] - bins.offset_s[0] if len(bins.offset_s) > 1 else None
    if width is not None and len(steps.at_us):
        assert (bins.in_flight_mean * width).sum() == pytest.approx((end - start).sum() / 1e6)
        assert bins.in_flight_peak.max() == steps.level.max()


def test_a_request_that_ends_as_another_starts_is_not_in_flight_with_it():
    """Intervals are half open."""
    found = concurrency(in_flight(np.array([0, 10]), np.array([10, 20])))
    assert found is not None and found["peak"] == 1


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=50))
def test_lengths_equal_the_plain_formulas(tokens):
    """Mean, percentiles and maximum; the histogram counts every value once, in its bin."""
    found = lengths(np.array(tokens))
    assert found is not None
    assert found["mean"] == pytest.approx(sum(tokens) / len(tokens))
    assert found["p50"] == pytest.approx(float(np.median(tokens)))
    assert found["max"] == max(tokens)
    for low, high, n in found["histogram"]:
        assert n == sum(low <= t < high for t in tokens)
    assert sum(n for *_, n in found["histogram"]) == len(tokens)


def test_arrivals_by_hand():
    """Gaps of 1, 1 and 4 s: mean 2, deviation sqrt(2)."""
    found = arrivals(np.array([0, 1, 2, 6]) * 1_000_000)
    assert found is not None
    assert found["rate_mean"] == pytest.approx(4 / 6)
    assert found["cv"] == pytest.approx(2**0.5 / 2)
    assert found["burstiness"] == pytest.approx((found["cv"] - 1) / (found["cv"] + 1))
    assert found["rate_peak_1s"] == 1


def test_arrivals_need_two_different_times():
    """One request, or several at one instant, have no rate."""
    assert arrivals(np.array([5])) is None
    assert arrivals(np.array([5, 5])) is None


def test_sessions_by_hand():
    """Turns by id; a trace id that groups nothing is no session; think time only where both ends are known."""
    rows = pl.DataFrame(
        {
            "session_id": ["a", "a", "a", "t1", "t2", "t2", None],
            "session_kind": ["explicit"] * 3 + ["trace"] * 3 + [None],
            "start_us": [0, 10_000_000, 30_000_000, 0, 0, 5_000_000, 0],
            "end_us": [4_000_000, 20_000_000, None, 1, 2_000_000, 6_000_000, 1],
        }
    )
    found = sessions(rows)
    assert found == {"count": 2, "turns_mean": 2.5, "turns_max": 3, "think_time_p50": 6.0}
    assert sessions(rows.filter(pl.col("session_id").is_null())) is None
