"""The statistics of compare: against slow twins, hand-checked cases, and how often they are wrong where the truth is known."""

from __future__ import annotations

import doctest
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import comparing
from traceprof import compare
from traceprof.compare import costs, figures, outcome, pairs, segments, statistics
from traceprof.compare.outcome import conclude
from traceprof.compare.pairs import Groups, Rules
from traceprof.compare.statistics import Draws, estimate, holm, of_quantiles, session_blocks

PAIRS = 200
# of 200 tests at 5 % more than 20 fail by chance once in a thousand times
MOST = 20


@pytest.mark.parametrize("module", [compare.runs, costs, figures, outcome, pairs, segments, statistics])
def test_docstring_examples(module):
    """Examples in the docs of functions hold."""
    assert doctest.testmod(module).failed == 0


# ---- slow twins


def slow_estimate(differences, blocks, draws):
    """Session blocks put together one by one, for every draw; what is returned is the sessions' part without the widths."""
    each = {}
    for i in range(differences.shape[1]):
        known = [v for v in differences[:, i].tolist() if not math.isnan(v)]
        if known:
            each[i] = sum(known) / len(known)
    numbers = sorted({int(blocks[i]) for i in each})
    members = [[each[i] for i in each if blocks[i] == n] for n in numbers]
    mean = sum(each.values()) / len(each)
    found = []
    for picks in draws.picks(len(numbers)):
        again = list(
            itertools.chain.from_iterable(
                m for m, n in zip(members, picks, strict=True) for m in [m] * int(n)
            )
        )
        found.append(sum(again) / len(again) - mean)
    sizes = [len(m) for m in members]
    effective = sum(sizes) ** 2 / sum(s * s for s in sizes)
    return mean, np.array(found) * math.sqrt(effective / (effective - 1)), effective


def slow_quantile(values, weights, q):
    """The least value at which the weights so far reach a share of q."""
    whole, so_far = sum(weights), 0.0
    for value, weight in sorted(zip(values, weights, strict=True)):
        so_far += weight
        if so_far >= q * whole - 1e-9:
            return value
    raise AssertionError


def planted(seed, repeats=3, n=60, blocks=9, missing=0.1):
    rng = np.random.default_rng(seed)
    of = rng.integers(0, blocks, n)
    values = rng.normal(size=(repeats, n)) + rng.normal(size=blocks)[of] + rng.normal(size=(repeats, 1))
    values[rng.random((repeats, n)) < missing] = np.nan
    return values, of


@pytest.mark.parametrize("seed", range(5))
def test_the_bootstrap_equals_its_slow_twin(seed):
    """Same picks, same means, draw by draw."""
    values, of = planted(seed)
    draws = Draws(seed, 50)
    mean, off, effective = slow_estimate(values, of, draws)
    found = estimate(values, of, draws, same_again=True)
    assert found.mean == pytest.approx(mean)
    assert found.draws[:50] == pytest.approx(mean + off * draws.widths(effective - 1))
    # repeats add Student's t with the standard error of their means, in both directions
    whole = estimate(values, of, draws)
    means = [np.nanmean(row) for row in values]
    jitter = np.std(means, ddof=1) / math.sqrt(3) * draws.student(2)
    assert whole.draws[:50] - found.draws[:50] == pytest.approx(jitter)
    assert whole.draws[50:] - found.draws[:50] == pytest.approx(-jitter)


@pytest.mark.parametrize("seed", range(5))
def test_quantiles_equal_their_slow_twin(seed):
    """Each draw's p90 of each side is that of the picked blocks' values."""
    a, of = planted(seed, repeats=2, missing=0.0)
    b, _ = planted(seed + 100, repeats=2, missing=0.0)
    draws = Draws(seed, 20)
    found = of_quantiles(a, b, of, draws, 0.9, same_again=True)
    _, numbers = np.unique(of, return_inverse=True)
    sizes = np.bincount(numbers)
    each = [slow_quantile(b[r], np.ones(60), 0.9) - slow_quantile(a[r], np.ones(60), 0.9) for r in (0, 1)]
    assert found.mean == pytest.approx(np.mean(each))
    effective = sizes.sum() ** 2 / (sizes**2).sum()
    for k, picks in enumerate(draws.picks(len(sizes))):
        weights = picks[numbers]
        now = [slow_quantile(b[r], weights, 0.9) - slow_quantile(a[r], weights, 0.9) for r in (0, 1)]
        wide = math.sqrt(effective / (effective - 1)) * draws.widths(effective - 1)[k]
        assert found.draws[k] == pytest.approx(found.mean + (np.mean(now) - found.mean) * wide)


@given(st.lists(st.floats(0.0001, 1.0), min_size=1, max_size=8))
def test_holm_equals_its_definition(p):
    """An adjusted p is at or under a level exactly if Holm's steps reject at that level."""
    found = holm(p)
    for level in (0.01, 0.05, 0.3):
        rejected = set()
        for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
            if p[i] * (len(p) - rank) > level:
                break
            rejected.add(i)
        assert {i for i, v in enumerate(found) if v <= level} == rejected


# ---- hand-checked


def test_session_blocks_keep_sessions_whole_and_neighbours_together():
    """A thousand sessions make a hundred blocks of ten that follow each other; a session is never parted."""
    sessions = np.tile(np.arange(1000), 2)
    starts = np.concatenate([np.arange(1000.0), np.arange(1000.0) + 5000])
    found = session_blocks(sessions, starts)
    assert len(set(found)) == 100
    assert (found[:1000] == np.arange(1000) // 10).all() and (found[1000:] == found[:1000]).all()
    assert len(set(session_blocks(np.arange(7), np.arange(7.0)))) == 7


def test_an_interval_by_hand():
    """Two repeats, whose means are 0.1 and 0.3, of sessions that are all alike: Student's t with one degree of freedom alone."""
    values = np.repeat([[0.1], [0.3]], 40, axis=1)
    found = estimate(values, np.arange(40), Draws(0, 20_000))
    assert found.mean == pytest.approx(0.2)
    assert (found.requests, found.blocks, found.repeats) == (40, 40, 2)
    low, high = found.interval(0.05)
    # 12.706 x (0.1414 / sqrt 2) on each side
    assert high - 0.2 == pytest.approx(1.27, rel=0.1) and low == pytest.approx(0.4 - high)
    assert found.p() == pytest.approx(0.295, abs=0.02)  # of t = 2 with one degree of freedom
    assert found.p(0.5) == 1.0


def test_one_repeat_or_one_session_tells_nothing():
    """No interval where there is no scatter to measure; nearly all in one session is one session."""
    values = np.random.default_rng(0).normal(size=(1, 30))
    assert estimate(values, np.arange(30), Draws()) is None
    assert estimate(np.repeat(values, 2, 0), np.zeros(30, int), Draws()) is None
    assert estimate(np.repeat(values, 2, 0), np.array([1] + [0] * 29), Draws()) is None
    assert estimate(np.full((2, 4), np.nan), np.arange(4), Draws()) is None
    assert statistics.of_repeats(np.array([0.1, np.nan]), Draws()) is None


@given(st.integers(0, 10_000))
def test_the_other_way_round_everything_is_mirrored(seed):
    """b against a is a against b with the sign turned."""
    a, of = planted(seed, missing=0.05)
    b, _ = planted(seed + 1, missing=0.05)
    for one, other in (
        (estimate(b - a, of, Draws(0, 200)), estimate(a - b, of, Draws(0, 200))),
        (of_quantiles(a, b, of, Draws(0, 200), 0.9), of_quantiles(b, a, of, Draws(0, 200), 0.9)),
    ):
        assert one.mean == pytest.approx(-other.mean)
        assert one.interval(0.05) == pytest.approx(tuple(-v for v in reversed(other.interval(0.05))))
        assert one.p(0.1) == other.p(0.1)


# ---- how often it is wrong


def settled(of, sides, k, margin=0.0, **how):
    compared = comparing.compared(of, sides, seed=100_000 + k, **how)
    rules = Rules(margin, 0.05, {"ttft": 0.3}, Draws(0, 1000))
    return pairs.settled(pairs.tested(compared, Groups.of(compared), rules, None), rules)


def wrong(margin=0.0, sessions=40, **how):
    """Of so many comparisons of an engine with itself: those that find any winner, and tests at 5 % by metric."""
    any_, single = 0, dict.fromkeys(("ttft", "tpot", "e2e", "slo"), 0)
    for k in range(PAIRS):
        found = settled(comparing.traffic(k, sessions), {"a": {}, "b": {}}, k, margin, **how)
        any_ += any(pairs.winner(one) for one in found)
        for one in found:
            single[one["metric"]] += one["p"] <= 0.05
    return any_, single


@pytest.mark.parametrize("repeats", [2, 3, 5])
def test_an_engine_does_not_win_against_itself(repeats):
    """200 A/A pairs without any margin, runs that differ, stretches that go together: at most the level, of each metric and of all."""
    any_, single = wrong(repeats=repeats)
    assert any_ <= MOST and max(single.values()) <= MOST


def test_a_machine_that_drifts_makes_no_winner():
    """By 3 % a run: neither A B A B nor A A B B, where drift and engine cannot be told apart."""
    for order in ("interleaved", "blocked"):
        any_, single = wrong(repeats=3, order=order, machine=comparing.Machine(drift=0.03))
        assert any_ <= MOST and max(single.values()) <= MOST


def test_few_sessions_of_unlike_kinds_make_no_winner():
    """Each session likes one engine or the other, none is better over all: what was drawn is not taken for the truth."""
    count = 0
    for k in range(PAIRS):
        of = comparing.traffic(k, 15)
        likes = 0.3 * np.random.default_rng(k).normal(size=15)[of.session]
        sides = {"a": {}, "b": {"ttft": likes, "tpot": likes}}
        found = settled(of, sides, k, machine=comparing.Machine(run=0.0, stall=0.0))
        count += any(one["p"] <= 0.05 for one in found if one["metric"] == "e2e")
    assert count <= MOST


def test_single_requests_would_be_wrong_far_too_often():
    """The same pairs by a bootstrap of single requests: why it is not done."""
    count = 0
    for k in range(PAIRS):
        of = comparing.traffic(k, 40)
        compared = comparing.compared(of, {"a": {}, "b": {}}, seed=100_000 + k)
        pair = next(iter(pairs.matched(compared)))
        rules = Rules(0.0, 0.05, {}, Draws(0, 400))
        matrix = pairs.Differences.of(pairs.METRICS["ttft"], pair, rules).matrix
        flat = matrix.ravel()
        alone = flat[np.random.default_rng(k).integers(0, len(flat), (400, len(flat)))].mean(1)
        low, high = np.quantile(alone, (0.025, 0.975))
        count += low > 0 or high < 0
    assert count > 0.3 * PAIRS


def test_ten_percent_are_found():
    """Five blocks on a steady machine: b's latencies 10 % lower are found beyond a margin of 5 % in at least 40 of 50 pairs, and no difference is found where there is none."""
    steady = comparing.Machine(run=0.01, stall=0.05)
    won = same = 0
    for k in range(50):
        of = comparing.traffic(k, 40)
        less = math.log(0.9)
        for sides, is_same in (
            ({"a": {}, "b": {"ttft": less, "tpot": less}}, False),
            ({"a": {}, "b": {}}, True),
        ):
            found = {one["metric"]: one for one in settled(of, sides, k, 0.05, repeats=5, machine=steady)}
            if is_same:
                same += found["e2e"]["outcome"] == pairs.SAME
            else:
                won += pairs.winner(found["e2e"]) == "b"
                assert pairs.winner(found["e2e"]) != "a"
    assert won >= 40 and same >= 45


def pair(a, b, metric, outcome, reason=None):
    return {
        "a": a, "b": b, "metric": metric, "scale": "difference" if metric in ("slo", "failed") else "ratio", "outcome": outcome, "reason": reason,
        "ratio": 0.8, "difference": 0.2, "low": 0.7, "high": 0.9, "blocks": 3, "n_sessions": 9,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("found", "favoured", "outcome", "metric"),
    [
        # the SLO alone decides where it tells them apart, or leaves it open
        ([pair("x", "y", "slo", "b"), pair("x", "y", "e2e", "a")], "y", "favoured", "slo"),
        ([pair("x", "y", "slo", pairs.TOO_LITTLE, "?"), pair("x", "y", "e2e", "a")], None, pairs.TOO_LITTLE, "slo"),
        # E2E where they are alike in it
        ([pair("x", "y", "slo", pairs.SAME), pair("x", "y", "e2e", "a")], "x", "favoured", "e2e"),
        ([pair("x", "y", "slo", pairs.SAME), pair("x", "y", "e2e", pairs.SAME)], None, pairs.SAME, "e2e"),
        ([pair("x", "y", "slo", pairs.SAME), pair("x", "y", "e2e", pairs.TOO_LITTLE, "?")], None, pairs.SAME, "slo"),
        # nobody who fails more
        ([pair("x", "y", "slo", "b"), pair("x", "y", "e2e", "b"), pair("x", "y", "failed", "a")], None, pairs.TOO_LITTLE, "slo"),
    ],
)  # fmt: skip
def test_which_metric_decides(found, favoured, outcome, metric):
    """One after the other, as it was said before; the others are told beside it."""
    told = conclude(["slo", "e2e"], ["x", "y"], found)
    assert (told["favoured"], told["outcome"], told["metric"]) == (favoured, outcome, metric)
    assert ("beside that" in told["why"]) == any(
        one["metric"] != "slo" and pairs.winner(one) and one["metric"] != metric for one in found
    )


def test_who_is_favoured_among_three():
    """An engine that none beats; a circle of three favours nobody."""
    won = [
        pair("x", "y", "e2e", "a"),
        pair("x", "z", "e2e", "a"),
        pair("y", "z", "e2e", pairs.TOO_LITTLE, "?"),
    ]
    assert conclude(["e2e"], ["x", "y", "z"], won)["favoured"] == "x"
    circle = [pair("x", "y", "e2e", "a"), pair("x", "z", "e2e", "b"), pair("y", "z", "e2e", "a")]
    told = conclude(["e2e"], ["x", "y", "z"], circle)
    assert told["favoured"] is None and told["why"].count("E2E of") == 3
    opposite = [pair("x", "y", "ttft", "a"), pair("x", "y", "tpot", "b")]
    told = conclude([outcome.TOGETHER], ["x", "y"], opposite)
    assert told["favoured"] is None and "TTFT of x" in told["why"] and "TPOT of y" in told["why"]
