"""Charts of engines in virtual time."""

from __future__ import annotations

import math

import altair as alt

from traceprof.report.charts.base import (
    HEIGHT,
    data,
)
from traceprof.report.sections.simulated import by_rate
from traceprof.report.words import (
    Profile,
    at,
    clean,
    rows_of,
    table_of,
)


def slo_by_rate(profile: Profile) -> alt.Chart | None:
    """Share of requests within the objectives against the rate, a line for each engine."""
    labels = {
        name: clean(at(one, "label"), 40) for name, one in by_rate(table_of(profile, "simulation")).items()
    }
    rows = [
        {"speed": at(row, "speed"), "in_flight": at(row, "concurrency"), "engine": label, "share": share}
        for row in rows_of(profile, "simulation", "sweeps", "users")
        for name, label in labels.items()
        if at(row, "speed") and (share := at(row, "engines", name)) is not None
    ]
    speeds = [row["speed"] for row in rows]
    last: dict[str, tuple[float, int]] = {}
    for row in rows:  # no line over speeds that an engine was not tried at
        before, piece = last.get(row["engine"], (row["speed"], 0))
        row["piece"] = piece + (row["speed"] > 2 * before)
        last[row["engine"]] = row["speed"], row["piece"]
    if len(set(speeds)) < 2 or len({row["share"] for row in rows}) < 2:
        return None
    low, high = min(speeds), max(speeds)
    powers = range(round(math.log2(low)), round(math.log2(high)) + 1)
    x = alt.X(
        "speed:Q",
        title="multiple of the recorded rate",
        scale=alt.Scale(type="log", base=2, domain=[low, high], nice=False, padding=6),
        axis=alt.Axis(
            values=[2.0**power for power in powers],
            labelExpr="datum.value < 1 ? '1/' + format(1 / datum.value, ',d') : format(datum.value, ',d')",
        ),
    )
    shown = list(labels.values())
    lines = (
        alt.Chart(data(rows))
        .mark_line(point=alt.OverlayMarkDef(size=42, filled=True, opacity=1), opacity=0.9)
        .encode(
            x=x,
            y=alt.Y(
                "share:Q",
                title="share within the objectives",
                scale=alt.Scale(domain=[0, 1]),
                axis=alt.Axis(format=".0%"),
            ),
            detail="piece:N",
            color=alt.Color("engine:N", scale=alt.Scale(domain=shown), legend=alt.Legend(columns=2)),
            shape=alt.Shape("engine:N", scale=alt.Scale(domain=shown)),
            tooltip=[
                alt.Tooltip("engine:N", title="engine"),
                alt.Tooltip("speed:Q", title="times the recorded rate", format=".3~g"),
                alt.Tooltip("in_flight:Q", title="in flight, as in the log", format=".3~g"),
                alt.Tooltip("share:Q", title="within the objectives", format=".1%"),
            ],
        )
    )
    here = alt.Chart(data([{"speed": 1}])).mark_rule(strokeDash=[4, 3]).encode(x=x)
    return alt.layer(*([here] if low <= 1 <= high else []), lines).properties(
        height=HEIGHT, title="Requests within the objectives by rate"
    )
