"""How long prompts and answers are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BINS_PER_DECADE = 8


def lengths(tokens: NDArray[np.int64]) -> dict[str, Any] | None:
    """Mean, percentiles (linear interpolation), max and a log-spaced histogram of token counts; None when empty.

    `histogram` is a list of [lower, upper, count]: counts of lower <= tokens < upper, the first bin for 0 alone.

    >>> lengths(np.array([1, 2, 3]))["mean"]
    2.0
    """
    if not len(tokens):
        return None
    p50, p90, p95, p99 = np.percentile(tokens, (50, 90, 95, 99))
    return {
        "mean": float(tokens.mean()),
        "p50": float(p50),
        "p90": float(p90),
        "p95": float(p95),
        "p99": float(p99),
        "max": int(tokens.max()),
        "histogram": _histogram(tokens),
    }


def _histogram(tokens: NDArray[np.int64]) -> list[list[int]]:
    decades = int(np.ceil(np.log10(max(10, int(tokens.max()) + 1))))
    edges = np.unique(np.round(np.logspace(0, decades, decades * BINS_PER_DECADE + 1)).astype(np.int64))
    edges = np.concatenate([[0], edges])
    counts, _ = np.histogram(tokens, edges)
    used = np.flatnonzero(counts)
    low, high = int(used[0]), int(used[-1])
    return [[int(edges[i]), int(edges[i + 1]), int(counts[i])] for i in range(low, high + 1)]
