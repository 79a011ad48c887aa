"""How requests arrive: rate and burstiness."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def arrivals(arrival_us: NDArray[np.int64]) -> dict[str, float | None] | None:
    """Rates and gap statistics of sorted arrival times in us; None below two arrivals or without any span.

    * `rate_mean`     requests / (last arrival - first arrival), per second
    * `rate_peak_1s`  most arrivals in one of the seconds counted from the first arrival
    * `cv`            standard deviation / mean of the gaps: 1 for a Poisson process, more is burstier
    * `burstiness`    (cv - 1) / (cv + 1), Goh & Barabasi 2008: -1 regular, 0 Poisson, towards 1 bursty

    >>> arrivals(np.array([0, 1_000_000, 2_000_000]))["cv"]
    0.0
    """
    if len(arrival_us) < 2 or arrival_us[-1] == arrival_us[0]:
        return None
    span_s = float(arrival_us[-1] - arrival_us[0]) / 1e6
    gaps = np.diff(arrival_us).astype(np.float64)
    cv = float(gaps.std() / gaps.mean())
    seconds = (arrival_us - arrival_us[0]) // 1_000_000
    _, per_second = np.unique(seconds, return_counts=True)
    return {
        "rate_mean": len(arrival_us) / span_s,
        "rate_peak_1s": float(per_second.max()),
        "cv": cv,
        "burstiness": (cv - 1) / (cv + 1),
    }
