"""How sure a paired difference is: session-block bootstrap, repeats by Student's t, Holm, and a margin below which nobody cares.

A pair of runs gives one difference a request: the logarithm of b's latency over a's, for the same request of the workload in the same
block (repeat). Requests of a run are not independent, so they are never resampled by themselves. Two things are exchangeable:

    session blocks   the traffic could have been other sessions. Neighbours in time share queues, so sessions in the order of their
                     first arrival are cut into blocks of neighbours, and blocks are drawn with replacement
    repeats          the same engine could have had another start, another neighbour on the machine. There are 2 to 10 of them, and
                     to resample so few understates their scatter: their part is drawn from Student's t with repeats - 1 degrees
                     of freedom and the standard error of the repeats' means

Both parts are added draw by draw. What a session and a repeat have together is in both, which errs to the side of wide intervals. Every
draw of t comes with both signs: to swap a and b mirrors every figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import log
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

F64: TypeAlias = NDArray[np.float64]
I64: TypeAlias = NDArray[np.int64]

FEWEST_BLOCKS = 20  # of sessions, where there are as many sessions
DRAWS = 5000
AT_ONCE = 100  # draws whose quantiles are looked for at once


class Draws:
    """The random numbers of a comparison: the same in all its tests, and in any order of them."""

    def __init__(self, seed: int = 0, draws: int = DRAWS) -> None:
        self.seed, self.draws = seed, draws
        self.picks = cache(self._picks)
        self.student = cache(self._student)

    def _picks(self, blocks: int) -> F64:
        """How often each block was drawn, a row a draw; each row adds up to the number of blocks."""
        random = np.random.default_rng([self.seed, 1, blocks])
        return random.multinomial(blocks, np.full(blocks, 1 / blocks), self.draws).astype(np.float64)

    def _student(self, freedom: int) -> F64:
        return np.random.default_rng([self.seed, 2, freedom]).standard_t(freedom, self.draws)

    def widths(self, freedom: float) -> F64:
        """What turns normal deviates into Student's of so many degrees of freedom, which need not be a whole number."""
        return np.sqrt(freedom / np.random.default_rng([self.seed, 3]).chisquare(freedom, self.draws))


class Estimate(NamedTuple):
    """A mean difference and what it might have been."""

    mean: float
    draws: F64
    requests: int
    blocks: int  # of sessions
    repeats: int

    def interval(self, level: float, beside: float = 0.0) -> tuple[float, float]:
        """Bounds that the true mean is within, but for a share of `level`; `beside` widens both."""
        low, high = np.quantile(self.draws, (level / 2, 1 - level / 2))
        return float(low) - beside, float(high) + beside

    def p(self, margin: float = 0.0, beside: float = 0.0) -> float:
        """Two-sided p of "they differ by no more than the margin". Never 0: so few draws cannot tell."""
        n = len(self.draws)
        above = 1 + int((self.draws - beside <= margin).sum())
        below = 1 + int((self.draws + beside >= -margin).sum())
        return min(1.0, 2 * min(above, below) / (n + 1))


def session_blocks(sessions: I64, starts: F64) -> I64:
    """The block of each request. `sessions` numbers the session of each request, `starts` says when each was to be sent.

    Few sessions are blocks by themselves; of many, about S^(2/3) blocks are made, so that neighbours stay together.

    >>> session_blocks(np.array([0, 1, 0, 2]), np.array([5.0, 1.0, 9.0, 7.0])).tolist()
    [1, 0, 1, 2]
    """
    if not len(sessions):
        return np.empty(0, np.int64)
    known, of = np.unique(sessions, return_inverse=True)
    first = np.full(len(known), np.inf)
    np.fmin.at(first, of, starts)
    place = np.empty(len(known), np.int64)
    place[np.argsort(first, kind="stable")] = np.arange(len(known))
    blocks = min(len(known), max(FEWEST_BLOCKS, round(len(known) ** (2 / 3))))
    found: I64 = (place * blocks // len(known))[of]
    return found


def estimate(differences: F64, blocks: I64, draws: Draws, same_again: bool = False) -> Estimate | None:
    """The mean over requests of a matrix of differences, a row a repeat; NaN where a pair is not complete.

    `same_again`: a repeat cannot differ (a simulation), or is not asked about (within one engine). None where there are not two session blocks
    with a pair, or, unless `same_again`, not two repeats: then nothing is known of the scatter.
    """
    known = ~np.isnan(differences)
    differences, known = differences[known.any(1)], known[known.any(1)]
    repeats = len(differences)
    if not repeats or (repeats < 2 and not same_again):
        return None
    values = np.where(known, differences, 0.0)
    times = known.sum(0)
    at = np.flatnonzero(times)
    each = values.sum(0)[at] / times[at]  # a request's mean over repeats
    _, of = np.unique(blocks[at], return_inverse=True)
    sizes, sums = np.bincount(of).astype(np.float64), np.bincount(of, each)
    if not _enough(sizes):
        return None
    mean = float(each.mean())
    picks = draws.picks(len(sizes))
    off = _widened((picks @ sums) / (picks @ sizes) - mean, sizes, draws)
    return _with_repeats(
        mean, off, None if same_again else values.sum(1) / known.sum(1), draws, len(at), len(sizes), repeats
    )


def of_quantiles(
    a: F64, b: F64, blocks: I64, draws: Draws, q: float, same_again: bool = False
) -> Estimate | None:
    """The same for a quantile of each run: the mean over repeats of b's less a's, of requests that have both."""
    known = ~np.isnan(b - a)
    rows = np.flatnonzero(known.any(1))
    if not len(rows) or (len(rows) < 2 and not same_again):
        return None
    _, of = np.unique(blocks[known.any(0)], return_inverse=True)
    numbers = np.full(len(blocks), -1)
    numbers[known.any(0)] = of
    sizes = np.bincount(of).astype(np.float64)
    if not _enough(sizes):
        return None
    picks = draws.picks(len(sizes))
    once = np.ones((1, len(sizes)))
    each, off = [], np.zeros(len(picks))
    for r in rows:
        mine = numbers[known[r]]
        sides = [(side[r, known[r]], mine) for side in (b, a)]
        above, below = (float(weighted_quantile(*side, once, q)[0]) for side in sides)
        each.append(above - below)
        of_b, of_a = (weighted_quantile(*side, picks, q) for side in sides)
        off += (of_b - of_a - each[-1]) / len(rows)
    off = _widened(off, sizes, draws)
    mean = float(np.mean(each))
    return _with_repeats(
        mean,
        off,
        None if same_again else np.array(each),
        draws,
        int(known.any(0).sum()),
        len(sizes),
        len(rows),
    )


def weighted_quantile(values: F64, blocks: I64, picks: F64, q: float) -> F64:
    """A high quantile of values whose blocks were picked so often, a row of `picks` at a time: the least value that a share of q does not pass.

    >>> weighted_quantile(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0, 0, 1, 1]), np.array([[1.0, 1.0], [2.0, 0.0]]), 0.75).tolist()
    [3.0, 2.0]
    """
    top = np.argsort(-values, kind="stable")[: int(4 * (1 - q) * len(values)) + 50]
    descending, of = values[top], blocks[top]
    room = (1 - q) * (picks @ np.bincount(blocks, minlength=picks.shape[1]))
    found = np.empty(len(picks))
    for first in range(0, len(picks), AT_ONCE):
        some = slice(first, first + AT_ONCE)
        passed = np.cumsum(picks[some][:, of], axis=1) > room[some, None] + 1e-9
        at = np.where(passed.any(1), passed.argmax(1), len(top) - 1)
        found[some] = descending[at]
    return found


def _enough(sizes: F64) -> bool:
    """Whether there are two session blocks, and not one that holds nearly all."""
    return len(sizes) >= 2 and _effective(sizes) >= 2


def _effective(sizes: F64) -> float:
    """How many blocks of equal size tell as much (Kish)."""
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def _widened(off: F64, sizes: F64, draws: Draws) -> F64:
    """Bootstrap deviations of few blocks are too small, and too short in the tails."""
    blocks = _effective(sizes)
    return np.asarray(off * np.sqrt(blocks / (blocks - 1)) * draws.widths(blocks - 1))


def _with_repeats(
    mean: float, off: F64, each: F64 | None, draws: Draws, requests: int, blocks: int, repeats: int
) -> Estimate:
    """The sessions' deviations with those of the repeats, of which `each` is one; None: they have none."""
    jitter = np.zeros(len(off))
    if each is not None:
        jitter = float(each.std(ddof=1)) / np.sqrt(len(each)) * draws.student(len(each) - 1)
    return Estimate(mean, mean + np.concatenate([off + jitter, off - jitter]), requests, blocks, repeats)


def of_repeats(differences: F64, draws: Draws, same_again: bool = False) -> Estimate | None:
    """The same for a figure of which a run has only one, such as throughput: its repeats are all that is known."""
    known = differences[~np.isnan(differences)]
    if not len(known) or (len(known) < 2 and not same_again):
        return None
    each = None if same_again else known
    return _with_repeats(float(known.mean()), np.zeros(draws.draws), each, draws, 0, 0, len(known))


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted for being several: the smallest times all of them, the next times one less, and so on; none falls below one before.

    >>> [round(v, 3) for v in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    found, worst = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        worst = max(worst, min(1.0, (len(p) - rank) * p[i]))
        found[i] = worst
    return found


def drift(positions: Sequence[Sequence[int]], levels: Sequence[Sequence[float]]) -> float:
    """How much a figure moves from one run to the next, whoever's turn it is: the common slope within each engine's runs.

    >>> round(drift([[0, 2], [1, 3]], [[1.0, 1.2], [5.0, 5.2]]), 9)
    0.1
    """
    across = square = 0.0
    for at, level in zip(positions, levels, strict=True):
        away = np.asarray(at, np.float64) - np.mean(at)
        across += float(away @ np.asarray(level))
        square += float(away @ away)
    return across / square if square else 0.0


class Decision(NamedTuple):
    """What a pair comes to in one metric."""

    sign: int  # -1: b has less than a, 1: more, 0: neither is sure
    same: bool  # surely within the margin


def decide(low: float, high: float, p_holm: float, margin: float, level: float) -> Decision:
    """A difference is one if it is surely beyond the margin; no difference is one if it is surely within.

    >>> decide(0.08, 0.2, 0.001, 0.05, 0.05), decide(-0.02, 0.03, 1.0, 0.05, 0.05), decide(-0.02, 0.2, 0.3, 0.05, 0.05)
    (Decision(sign=1, same=False), Decision(sign=0, same=True), Decision(sign=0, same=False))
    """
    if -margin < low and high < margin:
        return Decision(0, True)
    if p_holm > level:
        return Decision(0, False)
    return Decision(1 if low > margin else -1 if high < -margin else 0, False)


def log_margin(margin: float) -> float:
    """A share as a distance of logarithms, the same both ways: 5 % more, or what 5 % more is taken from.

    >>> round(log_margin(0.05), 5)
    0.04879
    """
    return log(1 + margin)
