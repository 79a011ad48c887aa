"""How many requests are in flight at once, swept from arrivals and ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What a request is assumed to take when the log has no end: a mid-size model on one data-centre GPU under load.
PREFILL_TOKENS_PER_S = 8_000.0
TPOT_S = 0.025
ASSUMED = (
    f"Each request is taken to last input tokens / {PREFILL_TOKENS_PER_S:,.0f} per second "
    f"+ {TPOT_S * 1000:.0f} ms per output token"
)


class Steps(NamedTuple):
    """Requests in flight as a step function: `level[i]` from `at_us[i]` to `at_us[i + 1]`."""

    at_us: NDArray[np.int64]
    level: NDArray[np.int64]


def in_flight(start_us: NDArray[np.int64], end_us: NDArray[np.int64]) -> Steps:
    """Sweep the intervals [start, end): a request that ends when another starts is not in flight with it.

    Empty intervals add nothing, but the time from the first start to the last end counts. Arrays need not be sorted.

    >>> in_flight(np.array([0, 5]), np.array([5, 9])).level.tolist()
    [1, 1, 0]
    """
    keep = end_us > start_us
    # the first arrival and the last end are there even when nothing takes time at them
    edges = [start_us.min(), end_us.max()] if len(start_us) else []
    at = np.concatenate([start_us[keep], end_us[keep], np.array(edges, np.int64)])
    change = np.concatenate(
        [np.ones(keep.sum(), np.int64), np.full(keep.sum(), -1), np.zeros(len(edges), np.int64)]
    )
    times, where = np.unique(at, return_inverse=True)
    delta = np.zeros(len(times), np.int64)
    np.add.at(delta, where, change)
    return Steps(times, np.cumsum(delta))


def concurrency(steps: Steps) -> dict[str, Any] | None:
    """Time-weighted mean and percentiles, and the peak, between the first start and the last end; None without time.

    The p-th percentile is the smallest level that is not exceeded for at least p % of the time. `busy` has the same
    over the time in which anything is in flight, and `share_of_time`, how much of the whole that is.
    """
    if not steps.level.any():
        return None
    width, level = np.diff(steps.at_us), steps.level[:-1]
    active = level > 0
    return {
        **_weighted(level, width),
        "busy": {
            **_weighted(level[active], width[active]),
            "share_of_time": float(width[active].sum() / width.sum()),
        },
    }


def _weighted(level: NDArray[np.int64], width: NDArray[np.int64]) -> dict[str, float | int]:
    """Mean, percentiles and peak of levels held for `width` each."""
    total = int(width.sum())
    order = np.argsort(level, kind="stable")
    held = np.cumsum(width[order])

    def percentile(p: int) -> int:
        return int(level[order[np.searchsorted(held, -(-total * p // 100))]])

    return {
        "mean": float((width * level).sum() / total),
        "p50": percentile(50),
        "p95": percentile(95),
        "p99": percentile(99),
        "peak": int(level.max()),
    }


class Bins(NamedTuple):
    """Concurrency and arrivals over time, in equal bins."""

    offset_s: NDArray[np.float64]
    in_flight_mean: NDArray[np.float64]
    in_flight_peak: NDArray[np.int64]
    arrivals: NDArray[np.int64]


def over_time(steps: Steps, arrival_us: NDArray[np.int64], bins: int = 600) -> Bins:
    """Aggregate to at most `bins` bins of whole seconds (of equal width), from the first arrival to the last event."""
    first = int(arrival_us.min())
    last = max(int(arrival_us.max()), int(steps.at_us[-1]) if len(steps.at_us) else first)
    width = max(1, -(-(last - first + 1) // (bins * 1_000_000))) * 1_000_000
    n = (last - first) // width + 1
    edges = first + np.arange(n + 1, dtype=np.int64) * width
    count = np.bincount((arrival_us - first) // width, minlength=n)[:n]
    mean, peak = np.zeros(n), np.zeros(n, np.int64)
    if len(steps.at_us):
        area = np.concatenate([[0], np.cumsum(np.diff(steps.at_us) * steps.level[:-1])]).astype(np.float64)
        at = np.searchsorted(steps.at_us, edges, side="right") - 1
        inside = np.clip(at, 0, None)
        reach = np.where(at >= 0, area[inside] + (edges - steps.at_us[inside]) * steps.level[inside], 0.0)
        mean = np.diff(reach) / width
        begins = np.where(at >= 0, steps.level[inside], 0)[:-1]
        peak = begins.astype(np.int64)
        where = (steps.at_us - first) // width
        ok = (where >= 0) & (where < n)
        np.maximum.at(peak, where[ok], steps.level[ok])
    return Bins((edges[:-1] - first) / 1e6, mean, peak, count.astype(np.int64))
