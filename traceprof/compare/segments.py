"""Where in the traffic an engine wins: the same test within parts of the workload, and the point at which the winner changes.

Requests are parted by

    prefix_tokens    tokens that an earlier prompt begins with, too
    prefix_share     of the prompt
    input_tokens     of the prompt
    arrivals_per_s   requests that arrived in the second before, itself included; as recorded
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import floor, log10
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from traceprof.compare import pairs
from traceprof.compare.pairs import METRICS, Differences, Groups, Rules
from traceprof.compare.runs import BOOL, F64, LATENCIES, Compared

PARTS = 4  # quarters of the requests
CUTS = 64  # places at which the winner may change


class Trait(NamedTuple):
    """What a request is sorted by."""

    by: str
    values: F64  # NaN where it is not known


def traits(compared: Compared) -> list[Trait]:
    """Of the workload's file; without it, what the runs tell."""
    workload = compared.workload
    if workload is None:
        return list(_seen(compared))
    columns = ["prefix_tokens", "input_tokens", "arrival_us"]
    table = pa.Table.from_batches(workload.batches(columns))
    prefix, prompt, arrival = (
        table[name].cast(pa.float64()).fill_null(float("nan")).to_numpy() for name in columns
    )
    share = np.full(len(prompt), np.nan)
    np.divide(prefix, prompt, out=share, where=prompt > 0)
    return [
        Trait("prefix_tokens", prefix), Trait("prefix_share", share), Trait("input_tokens", prompt),
        Trait("arrivals_per_s", lately(arrival / 1e6)),
    ]  # fmt: skip


def _seen(compared: Compared) -> Iterator[Trait]:
    """Lengths as an engine counts them, and arrivals."""
    for one in compared.contenders:
        for block in one.at(compared.speed):
            yield Trait("input_tokens", block.seen.input_tokens)
            yield Trait("arrivals_per_s", lately(block.seen.scheduled_s))
            return


def lately(at_s: F64) -> F64:
    """How many arrived in the second before each, itself included.

    >>> lately(np.array([0.0, 0.5, 0.9, 5.0])).tolist()
    [1.0, 2.0, 3.0, 1.0]
    """
    order = np.argsort(at_s, kind="stable")
    sorted_s = at_s[order]
    found = np.full(len(at_s), np.nan)
    found[order] = np.arange(1, len(at_s) + 1) - np.searchsorted(sorted_s, sorted_s - 1.0, "right")
    found[np.isnan(at_s)] = np.nan
    return found


def edges(values: F64) -> list[float]:
    """Bounds of up to four parts with about as many requests each, at round numbers; fewer where many values are equal.

    >>> edges(np.array([1.0, 120.0, 977.0, 1023.0, 4096.0, 8000.0, 8000.0, 8000.0]))
    [1.0, 760.0, 2600.0, 8000.0]
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return []
    inner = [rounded(float(v)) for v in np.quantile(known, np.arange(1, PARTS) / PARTS)]
    low, high = float(known.min()), float(known.max())
    return [low, *sorted({v for v in inner if low < v < high}), high]


def rounded(value: float) -> float:
    """To two digits that count.

    >>> rounded(1234.5), rounded(0.0567), rounded(0.0)
    (1200.0, 0.057, 0.0)
    """
    return float(round(value, 1 - floor(log10(abs(value))))) if value else 0.0


class Found(NamedTuple):
    """What the parts of a workload come to."""

    segments: list[dict[str, Any]]
    crossovers: list[dict[str, Any]]


def segmented(compared: Compared, groups: Groups, rules: Rules) -> Found:
    """Every pair in every part. Holm's adjustment goes over the parts and metrics of one pair by one trait."""
    parts: list[dict[str, Any]] = []
    crossovers: list[dict[str, Any]] = []
    for trait in traits(compared):
        bounds = edges(trait.values)
        mine: list[dict[str, Any]] = [
            {"by": trait.by, "from": low, "to": high, "requests": int(within(trait.values, low, high, bounds).sum()), "pairs": []}
            for low, high in pairwise(bounds)
        ]  # fmt: skip
        if len(mine) < 2:
            continue
        for pair in (one for one in pairs.matched(compared) if one.blocks_a):
            whole = [Differences.of(METRICS[name], pair, rules) for name in LATENCIES]
            tests = [
                pairs.test(
                    of.among(within(trait.values, one["from"], one["to"], bounds)),
                    groups,
                    rules,
                )
                for one in mine
                for of in whole
            ]
            pairs.settled(tests, rules)
            for k, one in enumerate(mine):
                one["pairs"] += tests[k * len(whole) : (k + 1) * len(whole)]
            for m, of in enumerate(whole):
                if {"a", "b"} <= {one["outcome"] for one in tests[m :: len(whole)]}:
                    crossovers += _crossover(trait, of, groups, rules)
        parts += mine
    return Found(parts, crossovers)


def within(values: F64, low: float, high: float, bounds: list[float]) -> BOOL:
    """Which lie in a part; the last one has its upper bound, too."""
    found: BOOL = (values >= low) & ((values < high) | ((high == bounds[-1]) & (values == high)))
    return found


def _crossover(trait: Trait, of: Differences, groups: Groups, rules: Rules) -> Iterator[dict[str, Any]]:
    """Where the winner changes: the cut that parts the differences best, if each side of it has its own winner."""
    at = cut(trait.values, of.matrix)
    if at is None:
        return
    sides = [pairs.test(of.among(some), groups, rules) for some in (trait.values < at, trait.values >= at)]
    pairs.settled(sides, rules)
    below, above = (pairs.winner(one) for one in sides)
    if below and above and below != above:
        yield {
            "by": trait.by, "metric": of.metric.name, "at": at, "below": below, "above": above,
            "below_pair": sides[0], "above_pair": sides[1],
        }  # fmt: skip


def cut(values: F64, differences: F64) -> float | None:
    """The value that parts a matrix of differences (a row a repeat) into two groups that are as unlike as can be and of other signs.

    >>> cut(np.array([1.0, 2.0, 3.0, 4.0]), np.array([[0.1, 0.2, -0.3, -0.1]]))
    3.0
    """
    known = ~np.isnan(differences)
    times = known.sum(0)
    at = np.flatnonzero((times > 0) & ~np.isnan(values))
    each = np.where(known, differences, 0.0).sum(0)[at] / times[at]
    order = np.argsort(values[at], kind="stable")
    x, each = values[at][order], each[order]
    if not len(x):
        return None
    sums = np.concatenate([[0.0], np.cumsum(each)])
    candidates = np.unique(np.quantile(x, np.arange(1, CUTS) / CUTS, method="lower"))
    best, found = 0.0, None
    for candidate in candidates:
        n = int(np.searchsorted(x, candidate))
        if not n:
            continue
        below, above = sums[n] / n, (sums[-1] - sums[n]) / (len(x) - n)
        unlike = n * (len(x) - n) * (below - above) ** 2
        if below * above < 0 and unlike > best:
            best, found = unlike, float(candidate)
    return found
