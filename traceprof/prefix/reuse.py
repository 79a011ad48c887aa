"""The miss-ratio curve of a prefix cache under LRU, exact at every capacity, from runs of reuse distances.

A token with reuse distance D hits in a cache of C tokens exactly if C >= D. A run (start, length) holds the distances
start, start + 1, ..., start + length - 1, so hits against capacity is a sum of ramps: piecewise linear, with whole
numbers at whole capacities.

    >>> curve = MissRatioCurve(np.array([3, 4]), np.array([2, 4]), input_tokens=20)  # 3 4 and 4 5 6 7
    >>> [curve.hit_tokens_at(capacity) for capacity in (0, 2, 3, 4, 5, 7, 1000)]
    [0, 0, 1, 3, 4, 6, 6]
    >>> curve.points().capacity_tokens.tolist(), curve.points().hit_tokens.tolist()
    ([2, 3, 4, 7], [0, 1, 3, 6])
    >>> curve.working_set(0.5)
    4
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

I64: TypeAlias = NDArray[np.int64]


class CurvePoints(NamedTuple):
    """Points of a miss-ratio curve, by capacity; straight lines between breakpoints are exact."""

    capacity_tokens: I64
    hit_tokens: I64
    hit_rate: NDArray[np.float64]  # hit tokens / input tokens


class MissRatioCurve:
    """Hit tokens against cache capacity; see the module's example.

    start, length  [runs]  as `traceprof.prefix.tree.ReuseRuns`, in any order, from any number of chunks
    input_tokens           of all requests: what hit rates are relative to
    """

    def __init__(self, start: NDArray[Any], length: NDArray[Any], input_tokens: int) -> None:
        assert len(start) == len(length)
        self.input_tokens = input_tokens
        # a run's ramp climbs by 1 a token from capacity start - 1 to start + length - 1
        foot = np.asarray(start, np.int64) - 1
        at = np.concatenate([foot, foot + length])
        turn = np.ones(len(at), np.int64)
        turn[len(foot) :] = -1
        order = np.argsort(at, kind="stable")
        at, turn = at[order], turn[order]
        groups = np.flatnonzero(np.diff(at, prepend=-1)) if len(at) else np.empty(0, np.intp)
        turns = np.add.reduceat(turn, groups) if len(at) else turn
        bends = turns != 0  # where one run ends and another begins, the curve goes straight on
        self._capacity = at[groups][bends]
        self._slope = np.cumsum(turns[bends])  # from this breakpoint to the next; 0 after the last
        climbs = self._slope[:-1] * np.diff(self._capacity)
        self._hits = np.concatenate([np.zeros(min(1, len(self._capacity)), np.int64), np.cumsum(climbs)])

    @property
    def max_hit_tokens(self) -> int:
        """Hits in an infinite cache."""
        return int(self._hits[-1]) if len(self._hits) else 0

    def hit_tokens_at(self, capacity: int) -> int:
        """Hit tokens in a cache of that many tokens."""
        return int(self._at(np.array([capacity], np.int64))[0])

    def points(self) -> CurvePoints:
        """All breakpoints: the whole curve."""
        return self._points(self._capacity, self._hits)

    def sampled(self, n: int = 200) -> CurvePoints:
        """The first and last breakpoint and about n capacities between, log-spaced; each with its exact value."""
        if len(self._capacity) == 0:
            return self.points()
        first, last = int(self._capacity[0]), int(self._capacity[-1])
        spaced = np.rint(np.geomspace(max(first, 1), max(last, 1), n)).astype(np.int64)
        capacity = np.unique(np.concatenate([[first, last], np.clip(spaced, first, last)]))
        return self._points(capacity, self._at(capacity))

    def working_set(self, quantile: float) -> int:
        """The smallest capacity with at least ceil(quantile * max hits) hit tokens; 0 when nothing ever hits."""
        # str(0.07) is the decimal that was meant: 0.07 * 100 would round up to 8
        target = math.ceil(Fraction(str(quantile)) * self.max_hit_tokens)
        if target <= 0:
            return 0
        k = int(np.searchsorted(self._hits, target)) - 1  # hits[k] < target <= hits[k + 1]: slope[k] > 0
        climb, slope = target - int(self._hits[k]), int(self._slope[k])
        return int(self._capacity[k]) - -climb // slope

    def _at(self, capacity: I64) -> I64:
        if len(self._capacity) == 0:
            return np.zeros(len(capacity), np.int64)
        k = np.searchsorted(self._capacity, capacity, side="right") - 1
        from_there = np.maximum(k, 0)
        hits = self._hits[from_there] + self._slope[from_there] * (capacity - self._capacity[from_there])
        return np.where(k < 0, 0, hits)

    def _points(self, capacity: I64, hits: I64) -> CurvePoints:
        return CurvePoints(capacity, hits, hits / max(self.input_tokens, 1))
