"""Charts of lengths."""

from __future__ import annotations

import altair as alt

from traceprof.report.charts.base import (
    SI,
    data,
    estimate,
    flags,
    log_x,
)
from traceprof.report.sections.lengths import histogram
from traceprof.report.words import (
    Profile,
    at,
    short,
)


def lengths(profile: Profile, side: str) -> alt.Chart | None:
    """Requests by length of one side, input or output, on a logarithmic axis."""
    bins = histogram(profile, side)
    if sum(n > 0 for _, _, n in bins) < 2:
        return None
    low, high = bins[0][0], bins[-1][1]
    if high / low < 4:
        low, high = low / 2, high * 2
    rows = [{"low": lo, "high": hi, "requests": n} for lo, hi, n in bins]
    x = log_x("low:Q", f"{side} tokens", low, high)
    bars = (
        alt.Chart(data(rows))
        .mark_rect(strokeWidth=0)
        .encode(
            x=x,
            x2=alt.X2("high:Q"),
            y=alt.Y(
                "requests:Q",
                title="requests",
                axis=alt.Axis(labelExpr=SI, tickCount=4),
                scale=alt.Scale(domainMin=0),
            ),
            y2=alt.Y2Datum(0),
            tooltip=[
                alt.Tooltip("low:Q", title="from, tokens", format=",.0f"),
                alt.Tooltip("high:Q", title="below, tokens", format=",.0f"),
                alt.Tooltip("requests:Q", format=","),
            ],
        )
    )
    half, most = (at(profile, "lengths", side, name) for name in ("p50", "p99"))
    stats = [("p50", half), ("p99", most)] if half != most else [("p50 to p99", half)]
    marks = [{"low": v, "label": f"{name} {short(v)}"} for name, v in stats if v and low <= v <= high]
    ruled = flags(marks, low, high, x, "low", 180)
    return alt.layer(bars, *ruled).properties(
        height=180, title=f"{side.capitalize()} lengths{estimate(profile)}"
    )
