"""Charts of arrivals and concurrency."""

from __future__ import annotations

from typing import Any

import altair as alt

from traceprof.report.charts.base import (
    data,
    over_time,
    time_x,
)

MEAN, PEAK = "mean", "peak"


def concurrency(series: list[dict[str, Any]]) -> alt.Chart | None:
    """Requests in flight over the trace: mean of each bin as an area, its peak as a line."""
    rows, unit, _ = over_time(series, "in_flight_mean", "in_flight_peak")
    if not rows:
        return None
    x = time_x(unit)
    y = {"title": "requests in flight", "axis": alt.Axis(tickCount=5), "scale": alt.Scale(domainMin=0)}
    colour = alt.Color("what:N", scale=alt.Scale(domain=[MEAN, PEAK]))
    tooltip = [
        alt.Tooltip("time:Q", title=unit, format=".4~g"),
        alt.Tooltip("in_flight_mean:Q", title="mean", format=",.1f"),
        alt.Tooltip("in_flight_peak:Q", title="peak", format=","),
    ]
    base = alt.Chart(data(rows))
    mean = base.transform_calculate(what=f"'{MEAN}'").mark_area(interpolate="step-after", opacity=0.75)
    peak = base.transform_calculate(what=f"'{PEAK}'").mark_line(interpolate="step-after", strokeWidth=1.25)
    return alt.layer(
        mean.encode(x=x, y=alt.Y("in_flight_mean:Q", **y), color=colour, tooltip=tooltip),
        peak.encode(x=x, y=alt.Y("in_flight_peak:Q", **y), color=colour, tooltip=tooltip),
    ).properties(height=220, title="Requests in flight")


def arrivals(series: list[dict[str, Any]]) -> alt.Chart | None:
    """Requests that arrive per second over the trace."""
    rows, unit, width = over_time(series, "arrivals")
    if not rows:
        return None
    rows = [{"time": row["time"], "rate": (row["arrivals"] or 0) / width} for row in rows]
    return (
        alt.Chart(data(rows))
        .mark_area(interpolate="step-after", opacity=0.75)
        .encode(
            x=time_x(unit),
            y=alt.Y(
                "rate:Q", title="requests a second", axis=alt.Axis(tickCount=4), scale=alt.Scale(domainMin=0)
            ),
            tooltip=[
                alt.Tooltip("time:Q", title=unit, format=".4~g"),
                alt.Tooltip("rate:Q", title="requests a second", format=".3~g"),
            ],
        )
        .properties(height=160, title="Arrivals")
    )
