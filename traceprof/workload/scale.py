"""Which requests are sent and when: cut, thinned, compressed, or resampled in the trace's own rhythm.

Every step takes a Plan and gives one; what is random is drawn from the generator that it is given.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from traceprof.errors import TraceprofError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from traceprof.caches.traffic import Traffic
    from traceprof.workload.source import Source

_UNITS = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "min": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s|min|m|h|d)")


class Plan(NamedTuple):
    """Requests in the order in which they are sent."""

    at: NDArray[np.int64]  # position in the source's rows
    arrival_us: NDArray[np.int64]  # never falls
    think_us: NDArray[np.int64]  # -1: not known
    session: NDArray[np.int64]  # a number for each session; a request without one is a session of its own

    def take(self, which: NDArray[Any]) -> Plan:
        """Only these (a mask, or positions in order)."""
        return Plan(*(values[which] for values in self))

    def sorted(self) -> Plan:
        """By arrival; ties stay as they are."""
        return self.take(np.argsort(self.arrival_us, kind="stable"))

    def from_zero(self) -> Plan:
        """The first one is sent at 0."""
        return self._replace(arrival_us=self.arrival_us - self.arrival_us[:1].sum())


def whole(source: Source) -> Plan:
    """All requests of the source."""
    rows = source.rows
    names = (
        rows["session_id"].fill_null("")
        + "\0"
        + pl.select(
            pl.when(rows["session_id"].is_null())
            .then(pl.int_range(len(rows)).cast(pl.String))
            .otherwise(pl.lit(""))
        ).to_series()
    )
    return (
        Plan(
            np.arange(len(rows)),
            rows["arrival_us"].to_numpy().astype(np.int64),
            rows["think_us"].fill_null(-1).to_numpy().astype(np.int64),
            (names.rank("dense").cast(pl.Int64) - 1).to_numpy(),
        )
        .sorted()
        .from_zero()
    )


# -- words of the command line ---------------------------------------------------------------------------------


def duration_us(text: str, option: str) -> int:
    """A duration in us.

    >>> duration_us("1.5h", "--peak"), duration_us("10 m", "--peak"), duration_us("250ms", "--peak")
    (5400000000, 600000000, 250000)
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{option} {text!r} is no duration", remedy="write 30s, 10m or 1.5h")
    return round(float(found[1]) * _UNITS[found[2]])


def window_us(text: str, zero: datetime | None) -> tuple[int, int]:
    """FROM..TO as offsets in us from the first arrival, which was at `zero`; an end that is left out is open.

    >>> window_us("10m..40m", None), window_us("..30s", None)
    ((600000000, 2400000000), (0, 30000000))
    """
    first, dots, last = text.partition("..")
    if not dots:
        raise UsageError(f"--window {text!r} is no FROM..TO", remedy="write 10m..40m, or two ISO times")

    def offset(said: str, otherwise: int) -> int:
        if not said.strip():
            return otherwise
        if _DURATION.fullmatch(said.strip()) or said.strip() == "0":
            return 0 if said.strip() == "0" else duration_us(said, "--window")
        try:
            moment = datetime.fromisoformat(said.strip())
        except ValueError:
            raise UsageError(
                f"--window {said!r} is neither a duration nor an ISO time",
                remedy="write 10m, or 2026-08-21T12:00:00Z",
            ) from None
        if zero is None:
            raise UsageError(
                "--window with times of day: the log has none", remedy="give offsets: --window 10m..40m"
            )
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return round((moment - zero).total_seconds() * 1e6)

    found = offset(first, 0), offset(last, 2**62)
    if found[0] >= found[1]:
        raise UsageError(f"--window {text!r} ends before it begins")
    return found


def share(text: str, option: str) -> float | None:
    """A share as 20% or 0.2; None for what looks like a duration.

    >>> share("20%", "--warmup"), share("0.25", "--warmup"), share("5m", "--warmup")
    (0.2, 0.25, None)
    """
    said = text.strip()
    try:
        value = float(said[:-1]) / 100 if said.endswith("%") else float(said)
    except ValueError:
        return None
    if not 0 < value <= 1:
        raise UsageError(f"{option} {text!r} is no share", remedy="write 20%, or 0.2")
    return value


# -- fewer requests --------------------------------------------------------------------------------------------


def of_names(plan: Plan, source: Source, column: str, names: tuple[str, ...], option: str) -> Plan:
    """Only requests with one of these names in a column."""
    there = source.rows[column]
    found = plan.take(there.is_in(list(names)).fill_null(False).to_numpy()[plan.at])
    if not len(found.at):
        known = ", ".join(there.drop_nulls().value_counts(sort=True)[column].head(5).to_list()) or "none"
        raise TraceprofError(f"no request has {option} {', '.join(names)}", remedy=f"the trace has: {known}")
    return found


def window(plan: Plan, first_us: int, last_us: int) -> Plan:
    """Those that arrive within [first, last)."""
    found = plan.take((plan.arrival_us >= first_us) & (plan.arrival_us < last_us))
    if not len(found.at):
        end = int(plan.arrival_us[-1]) / 1e6
        raise TraceprofError("no request arrives in the --window", remedy=f"the trace spans {end:,.1f} s")
    return found


def busiest(plan: Plan, tokens: NDArray[np.int64], width_us: int) -> int:
    """Where the window of that width begins in which most input tokens arrive; the first of several.

    >>> plan = Plan(*(np.array(a) for a in ([0, 1, 2, 3], [0, 100, 105, 109], [-1] * 4, [0, 1, 2, 3])))
    >>> busiest(plan, np.array([9, 4, 4, 4]), 10)
    100
    """
    start = plan.arrival_us
    sums = np.concatenate(([0], np.cumsum(tokens[plan.at])))
    upto = np.searchsorted(start, start + width_us, side="left")
    return int(start[np.argmax(sums[upto] - sums[np.arange(len(start))])])


def sample_sessions(plan: Plan, part: float, random: np.random.Generator) -> Plan:
    """Whole sessions, drawn at random: that part of them, at least one."""
    names = np.unique(plan.session)
    drawn = random.permutation(names)[: max(1, round(part * len(names)))]
    return plan.take(np.isin(plan.session, drawn))


def sample_prefixes(plan: Plan, traffic: Traffic, part: float, random: np.random.Generator) -> Plan:
    """Whole subtrees of the prompts' tree, drawn at random until they hold that part of the requests.

    A subtree with more than half of what is wanted is entered, so that one system prompt before all requests does not make
    them one subtree; requests that share what lies below stay together. One that would lead away from what is wanted is left.
    """
    wanted = max(1, round(part * len(plan.at)))
    names, of, sizes = np.unique(
        subtrees(traffic, plan.at, max(1, wanted // 2)), return_inverse=True, return_counts=True
    )
    drawn = np.zeros(len(names), bool)
    held = 0
    for one in random.permutation(len(names)).tolist():
        if abs(held + sizes[one] - wanted) < wanted - held:
            drawn[one] = True
            held += int(sizes[one])
    return plan.take(drawn[of])


def subtrees(traffic: Traffic, at: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Of each of these requests the highest node on its path below which no more than `most` of them end.

    A request that ends at a node with more below it stands alone, as -1 - its place in `at`.
    """
    parent = traffic.parent.astype(np.int64)
    end = traffic.node[at].astype(np.int64)
    count = np.zeros(len(parent), np.int64)
    np.add.at(count, end[end >= 0], 1)
    for node in np.argsort(-traffic.end, kind="stable"):  # the deepest first: children before their parents
        if parent[node] >= 0:
            count[parent[node]] += count[node]
    unit = -1 - np.arange(len(at))
    top = np.full(len(parent), -1, np.int64)  # the highest small node above each, itself included
    for node in np.argsort(traffic.end, kind="stable"):
        up = parent[node]
        above = top[up] if up >= 0 else -1
        top[node] = above if above >= 0 else node if count[node] <= most else -1
    found: NDArray[np.int64] = np.where(end >= 0, top[end], -1)
    found[found < 0] = unit[found < 0]
    return found


# -- other times -----------------------------------------------------------------------------------------------


def speed(plan: Plan, factor: float) -> Plan:
    """Everything so many times as fast: arrivals, and think times with them."""
    return plan._replace(
        arrival_us=np.round(plan.arrival_us / factor).astype(np.int64),
        think_us=np.where(plan.think_us < 0, -1, np.round(plan.think_us / factor)).astype(np.int64),
    )


def at_rate(plan: Plan, per_s: float, random: np.random.Generator) -> Plan:
    """Sessions begin so that `per_s` requests arrive a second on average; within a session times stay.

    The gaps between session starts are the trace's own, drawn in blocks of neighbours (a moving-block bootstrap), so that bursts and
    lulls stay bursts and lulls, then stretched as a whole. A trace without gaps gets those of a Poisson process.
    """
    _, first = np.unique(plan.session, return_index=True)
    first = np.sort(first)  # of each session its first request, in order of time
    starts = plan.arrival_us[first]
    span = (len(plan.at) - 1) / per_s * 1e6 if len(first) == len(plan.at) else len(plan.at) / per_s * 1e6
    moved = starts_like(np.diff(starts), span, random)
    number = np.empty(int(plan.session.max()) + 1, np.int64)
    number[plan.session[first]] = np.arange(len(first))
    shift = (moved - starts)[number[plan.session]]
    return plan._replace(arrival_us=plan.arrival_us + shift).sorted()


def starts_like(gaps: NDArray[np.int64], span_us: float, random: np.random.Generator) -> NDArray[np.int64]:
    """As many starts as the gaps part, from 0 to `span_us`, with gaps drawn from these in blocks of neighbours."""
    n = len(gaps)
    if n == 0:
        return np.zeros(1, np.int64)
    if gaps.sum() == 0:
        drawn = random.exponential(size=n)
    else:
        block = max(1, round(n**0.5))
        begin = random.integers(0, n, -(-n // block))  # blocks go on at the front when they reach the end
        drawn = gaps[(begin[:, None] + np.arange(block)) % n].reshape(-1)[:n].astype(np.float64)
        if drawn.sum() == 0:
            drawn = gaps.astype(np.float64)
    moved = np.concatenate(([0.0], np.cumsum(drawn)))
    found: NDArray[np.int64] = np.round(moved * (span_us / moved[-1])).astype(np.int64)
    return found


def rate_of_users(plan: Plan, took_us: NDArray[np.int64], users: float) -> float:
    """The rate at which that many sessions go on at once on average: users / mean duration of a session (Little's law)."""
    begin, end = _spans(plan, took_us)
    mean_s = max(float((end - begin).mean()) / 1e6, 1e-6)
    return users / mean_s * len(plan.at) / len(begin)


def sessions_at_once(plan: Plan, took_us: NDArray[np.int64]) -> float:
    """Mean number of sessions that go on, from the first one's beginning to the last one's."""
    begin, end = _spans(plan, took_us)
    first, last = int(begin.min()), int(begin.max())
    return (
        float((np.minimum(end, last) - begin).sum() / (last - first)) if last > first else float(len(begin))
    )


def _spans(plan: Plan, took_us: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Beginning and end of each session."""
    names, of = np.unique(plan.session, return_inverse=True)
    begin, end = np.full(len(names), 2**62, np.int64), np.zeros(len(names), np.int64)
    np.minimum.at(begin, of, plan.arrival_us)
    np.maximum.at(end, of, plan.arrival_us + took_us[plan.at])
    return begin, end


def warm_up(plan: Plan, text: str) -> NDArray[np.bool_]:
    """Which requests only warm up: those of the first DURATION, or the first SHARE of them."""
    part = share(text, "--warmup")
    if part is not None:
        return np.arange(len(plan.at)) < round(part * len(plan.at))
    return plan.arrival_us < duration_us(text, "--warmup")
