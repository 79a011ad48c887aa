"""Charts of what requests share."""

from __future__ import annotations

import itertools
from typing import Any

import altair as alt

from traceprof.report.charts.base import (
    HEIGHT,
    SI,
    data,
    estimate,
    over_time,
    rates_axis,
    time_x,
)
from traceprof.report.words import (
    Profile,
    block_rates,
    clean,
    rows_of,
    short,
    table_of,
)

ALONE, KEPT = "prompts alone", "with outputs kept"


def hit_rate(profile: Profile) -> alt.Chart | None:
    """Hit rate by block size, of prompts alone and with outputs kept."""
    rates = block_rates(profile)
    if not any(r.rate or r.with_outputs for r in rates):
        return None
    rows: list[dict[str, Any]] = [{"block": str(r.block), "what": ALONE, "rate": r.rate} for r in rates]
    rows += [
        {"block": str(r.block), "what": KEPT, "rate": r.with_outputs}
        for r in rates
        if r.with_outputs is not None
    ]
    kinds = list(dict.fromkeys(row["what"] for row in rows))
    encode: dict[str, Any] = {
        "x": alt.X(
            "block:N",
            sort=None,
            title="block size, tokens",
            axis=alt.Axis(labelAngle=0),
            scale=alt.Scale(paddingInner=0.3, paddingOuter=0.15),
        ),
        "y": rates_axis(max(row["rate"] for row in rows), "share of input tokens"),
        "tooltip": [
            alt.Tooltip("block:N", title="block size"),
            alt.Tooltip("what:N", title="counting"),
            alt.Tooltip("rate:Q", title="hit rate", format=".1%"),
        ],
    }
    if len(kinds) > 1:
        encode["xOffset"] = alt.XOffset("what:N", sort=kinds)
        encode["color"] = alt.Color("what:N", sort=kinds, scale=alt.Scale(domain=kinds))
    chart = alt.Chart(data(rows)).mark_bar(cornerRadiusEnd=1).encode(**encode)
    return chart.properties(height=HEIGHT, title=f"Hit rate by block size{estimate(profile)}")


def hit_rate_over_time(profile: Profile) -> alt.Chart | None:
    """Hit rate in each bin of time."""
    series = table_of(profile, "prefix", "over_time")
    columns = ("offset_s", "hit_rate", "requests")
    bins = [
        dict(zip(columns, row, strict=True))
        for row in zip(*(rows_of(series, c) for c in columns), strict=False)
    ]
    steps, unit, _ = over_time(bins, "hit_rate", "requests")
    rows = [
        {"time": a["time"], "until": b["time"], "rate": a["hit_rate"], "requests": a["requests"]}
        for a, b in itertools.pairwise(steps)
        if a["hit_rate"] is not None
    ]
    highest = max((row["rate"] for row in rows), default=0.0)
    if not highest:
        return None
    return (
        alt.Chart(data(rows))
        .mark_bar(opacity=0.75)
        .encode(
            x=time_x(unit),
            x2="until:Q",
            y2=alt.datum(0),
            y=rates_axis(highest, "hit rate"),
            tooltip=[
                alt.Tooltip("time:Q", title=unit, format=".4~g"),
                alt.Tooltip("rate:Q", title="hit rate", format=".1%"),
                alt.Tooltip("requests:Q", title="requests", format=","),
            ],
        )
        .properties(height=180, title="Hit rate over time" + estimate(profile))
    )


def top_prefixes(profile: Profile) -> alt.Chart | None:
    """The ten prefixes that spare most input tokens."""
    rows = []
    for rank, prefix in enumerate(rows_of(profile, "prefix", "top_prefixes")[:10], 1):
        saved = prefix.get("saved_tokens")
        if saved is None:
            continue
        what = (
            clean(prefix.get("preview"), 120)
            or f"{short(prefix.get('tokens'))} tokens in {short(prefix.get('requests'))} requests"
        )
        rows.append({"rank": rank, "saved": saved, "label": f"{rank}.  {what}"})
    if not rows:
        return None
    place = alt.Y("rank:O", axis=None, scale=alt.Scale(paddingInner=0, paddingOuter=0))
    base = alt.Chart(data(rows)).encode(y=place)
    bars = base.mark_bar(height=9, yOffset=8, cornerRadiusEnd=1).encode(
        x=alt.X(
            "saved:Q",
            title="input tokens saved",
            axis=alt.Axis(labelExpr=SI, tickCount=4),
            scale=alt.Scale(domainMin=0),
        ),
        tooltip=[
            alt.Tooltip("saved:Q", title="tokens saved", format=","),
            alt.Tooltip("label:N", title="prefix"),
        ],
    )
    text = base.mark_text(
        align="left", baseline="middle", dy=-8, limit=alt.ExprRef("width"), style="mark-text"
    ).encode(x=alt.XValue(0), text=alt.Text("label:N"))
    return (bars + text).properties(
        height=36 * len(rows), title=f"Largest shared prefixes{estimate(profile)}"
    )
