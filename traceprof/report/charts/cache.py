"""The miss-ratio curve with what GPUs hold."""

from __future__ import annotations

import altair as alt

from traceprof.report.charts.base import (
    HEIGHT,
    data,
    estimate,
    flags,
    log_x,
    rates_axis,
)
from traceprof.report.sections.cache import mrc_points
from traceprof.report.words import (
    Profile,
    clean,
    rows_of,
)


def mrc(profile: Profile) -> alt.Chart | None:
    """Hit rate against capacity in tokens, with what GPUs' memory holds; None for fewer than two points."""
    points = mrc_points(profile)
    if len(points) < 2:
        return None
    marks = [
        {"capacity": m["capacity_tokens"], "rate": m.get("hit_rate"), "label": clean(m.get("label"), 60)}
        for m in rows_of(profile, "cache", "memory_marks")
        if m.get("capacity_tokens")
    ]
    places = [c for c, _ in points] + [m["capacity"] for m in marks]
    low, high = min(places), max(places)
    rows = [{"capacity": c, "rate": r} for c, r in points]
    if high > points[-1][0]:
        rows.append(
            {"capacity": high, "rate": points[-1][1]}
        )  # beyond the last distance nothing more is found
    x = log_x("capacity:Q", "cache capacity, tokens", low, high)
    highest = max(r["rate"] for r in rows)
    curve = (
        alt.Chart(data(rows))
        .mark_line()
        .encode(
            x=x,
            y=rates_axis(highest, "hit rate"),
            tooltip=[
                alt.Tooltip("capacity:Q", title="capacity, tokens", format=".3s"),
                alt.Tooltip("rate:Q", title="hit rate", format=".1%"),
            ],
        )
    )
    layers = [curve, *flags(marks, low, high, x, "capacity", HEIGHT)]
    points_at = [m for m in marks if m["rate"] is not None]
    if points_at:
        layers.append(
            alt.Chart(data(points_at))
            .mark_point(style="mark-point", size=55, filled=True, opacity=1)
            .encode(
                x=x,
                y=alt.Y("rate:Q"),
                tooltip=[
                    alt.Tooltip("label:N", title="memory"),
                    alt.Tooltip("capacity:Q", title="capacity, tokens", format=".3s"),
                    alt.Tooltip("rate:Q", title="hit rate", format=".1%"),
                ],
            )
        )
    return alt.layer(*layers).properties(
        height=HEIGHT, title=f"Hit rate against cache capacity{estimate(profile)}"
    )
