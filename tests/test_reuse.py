"""The miss-ratio curve is exact at every capacity."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import naive
from tests.strategies import runs, traces
from tests.test_tree import columns
from traceprof.prefix.reuse import MissRatioCurve
from traceprof.prefix.tree import RadixTree

many = settings(max_examples=200, deadline=None)


def curve_of(runs, input_tokens=1000):
    start, length = np.array(runs, np.int64).reshape(-1, 2).T
    return MissRatioCurve(start, length, input_tokens)


@many
@given(runs)
def test_curve_equals_counting_distances(runs):
    """At every capacity the hits are the distances that fit."""
    distances = [range(start, start + length) for start, length in runs]
    curve = curve_of(runs)
    capacities = range(65)
    expected = naive.hits_by_capacity(distances, capacities)
    assert [curve.hit_tokens_at(c) for c in capacities] == expected
    assert curve.max_hit_tokens == expected[-1]
    points = curve.points()
    assert points.hit_tokens.tolist() == naive.hits_by_capacity(distances, points.capacity_tokens.tolist())
    assert (np.diff(points.capacity_tokens) > 0).all()
    assert (np.diff(points.hit_tokens) >= 0).all()
    # between two breakpoints the curve is straight, and at each it bends
    if len(points.capacity_tokens):
        assert np.interp(capacities, points.capacity_tokens, points.hit_tokens).round(6).tolist() == expected
        slopes = np.diff(points.hit_tokens) / np.diff(points.capacity_tokens)
        assert (np.diff([0, *slopes, 0]) != 0).all()


@many
@given(runs, st.integers(2, 30))
def test_sampled_points_are_exact_and_reach_both_ends(runs, n):
    """Sampling leaves points out, it never approximates one."""
    curve = curve_of(runs)
    sampled, whole = curve.sampled(n), curve.points()
    assert sampled.hit_tokens.tolist() == [curve.hit_tokens_at(c) for c in sampled.capacity_tokens.tolist()]
    assert len(sampled.capacity_tokens) <= n + 2
    if runs:
        assert sampled.capacity_tokens[[0, -1]].tolist() == whole.capacity_tokens[[0, -1]].tolist()
        assert sampled.hit_tokens[-1] == curve.max_hit_tokens
    assert sampled.hit_rate.tolist() == [hits / 1000 for hits in sampled.hit_tokens.tolist()]


@many
@given(runs, st.integers(0, 100))
def test_working_set_is_the_smallest_capacity_that_suffices(runs, percent):
    """No smaller capacity has that share of all hits."""
    curve = curve_of(runs)
    target = math.ceil(percent * curve.max_hit_tokens / 100) if percent * curve.max_hit_tokens % 100 else None
    target = percent * curve.max_hit_tokens // 100 if target is None else target
    capacity = curve.working_set(percent / 100)
    assert curve.hit_tokens_at(capacity) >= target
    assert capacity == 0 or curve.hit_tokens_at(capacity - 1) < target


@many
@given(traces())
def test_curve_equals_a_cache_that_really_evicts(trace):
    """One pass gives what simulating each capacity on its own gives; at infinity it is the ideal."""
    tree = RadixTree(reuse=True)
    found = tree.insert(*columns(trace, np.uint32))
    curve = MissRatioCurve(found.runs.start, found.runs.length, tree.input_tokens)
    for capacity in (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144):
        assert curve.hit_tokens_at(capacity) == naive.hits_at_capacity(trace, capacity)
    assert curve.max_hit_tokens == curve.hit_tokens_at(10**12) == int(found.matched.sum()) == tree.hit_tokens


@many
@given(traces(unit=4))
def test_curve_in_blocks_reaches_all_hit_tokens(trace):
    """Partial blocks and unhashed tails: at infinite capacity the curve has every hit token, no more."""
    tree = RadixTree(unit=4, reuse=True)
    found = tree.insert(*columns(trace, np.uint32))
    curve = MissRatioCurve(found.runs.start, found.runs.length, tree.input_tokens)
    distances = naive.reuse_distances(trace, 4)
    capacities = range(0, 200, 7)
    assert [curve.hit_tokens_at(c) for c in capacities] == naive.hits_by_capacity(distances, capacities)
    hits = [min(m * 4, r.tokens) for m, r in zip(naive.matched(trace), trace, strict=True)]
    assert curve.max_hit_tokens == tree.hit_tokens == sum(hits)


def test_nothing_reused_is_an_empty_curve():
    """No runs: no points, no hits, no working set."""
    curve = curve_of([])
    assert curve.points().capacity_tokens.tolist() == curve.sampled().hit_tokens.tolist() == []
    assert curve.hit_tokens_at(5) == curve.max_hit_tokens == curve.working_set(1.0) == 0


def test_a_decimal_quantile_means_that_decimal():
    """7% of 100 tokens are 7, though 0.07 * 100 is above 7 in floating point."""
    assert curve_of([(1, 100)]).working_set(0.07) == 7
