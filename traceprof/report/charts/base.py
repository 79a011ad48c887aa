"""What all charts share: the theme, axes, labelled rules, rows over time."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import altair as alt

from traceprof.report.words import (
    Profile,
    about,
)

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


HEIGHT = 260


SI = "format(datum.value, '~s')"  # 0, 5k, 10M: each tick in its own unit


FILE_WIDTH = 760  # a chart in a file has no container to fill


OTHERS = (
    "#8f72c9",
    "#5b9440",
    "#c75b8e",
    "#7f8890",
    "#a98724",
    "#b5564a",
    "#3f7fd0",
    "#2f9a8a",
)  # at least 3.3 : 1 on white and on black


def theme(
    *,
    ink: str = "#1f2328",
    soft: str = "#5b636d",
    line: str = "#d9dbd6",
    paper: str = "#ffffff",
    first: str = "#1f6f8b",
    second: str = "#bd6a2f",
) -> dict[str, Any]:
    """A Vega-Lite config in the given colours; the defaults are for files, on white."""
    label = {"font": FONT, "fontSize": 11.5}
    return {
        "background": paper,
        "font": FONT,
        "view": {"stroke": None},
        "axis": {
            "labelColor": soft, "titleColor": soft, "gridColor": line, "domainColor": line, "tickColor": line,
            "labelFontSize": 11.5, "titleFontSize": 11.5, "titleFontWeight": "normal", "titlePadding": 8,
            "labelPadding": 5, "tickSize": 4, "labelOverlap": "greedy",
        },
        "axisX": {"grid": False, "labelFlush": True},
        "axisY": {"domain": False, "ticks": False, "tickCount": 5},
        "legend": {
            "labelColor": ink, "labelFontSize": 12, "title": None, "orient": "top", "direction": "horizontal",
            "symbolType": "square", "offset": 6, "labelLimit": 240,
        },
        "title": {"color": ink, "anchor": "start", "fontSize": 14, "fontWeight": 600, "offset": 10},
        "range": {"category": [first, second, *OTHERS]},
        "bar": {"color": first}, "rect": {"color": first}, "line": {"color": first, "strokeWidth": 2},
        "area": {"color": first}, "point": {"color": first, "filled": True, "size": 50},
        "rule": {"color": soft}, "text": {"color": ink, **label},
        "style": {
            "mark-rule": {"color": second, "strokeWidth": 1.25},
            "mark-text": {"color": ink, **label},
            "halo": {"fill": paper, "stroke": paper, "strokeWidth": 5, "strokeJoin": "round", **label},
            "mark-point": {"color": second, "stroke": paper, "strokeWidth": 1.5},
        },
    }  # fmt: skip


def rates_axis(highest: float, title: str) -> alt.Y:
    """A share from zero: to 100 %, or closer in where everything is small."""
    top = (
        1.0
        if highest > 0.25
        else next(t for t in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3) if highest <= t * 0.9)
    )
    return alt.Y(
        "rate:Q",
        title=title,
        scale=alt.Scale(domain=[0, top]),
        axis=alt.Axis(format=".0%" if top > 0.05 else ".1%"),
    )


def flags(
    marks: list[dict[str, Any]], low: float, high: float, x: alt.X, field: str, height: int
) -> list[alt.Chart]:
    """Rules over the whole height, each with its label on a row of its own above the plot, so that labels never meet.

    Labels run to the side that has room: those of the left half to the right, on the upper rows, the leftmost highest;
    those of the right half to the left, the rightmost highest. So a label passes above the rules on its way.
    """
    span = math.log(high / low) or 1.0
    ranked = sorted(marks, key=lambda m: m[field])
    at_left = [m for m in ranked if math.log(m[field] / low) / span <= 0.5]
    at_right = [m for m in ranked if m not in at_left]
    rules, texts = [], []
    for row, mark in enumerate([*at_right, *reversed(at_left)]):
        top = -16 - 17 * row
        side = -1 if mark in at_right else 1
        place = math.log(mark[field] / low) / span
        room = alt.ExprRef(f"{place if side < 0 else 1 - place:.4f} * width + {20 if side < 0 else -6}")
        text = {"align": "left" if side > 0 else "right", "dx": 6 * side, "baseline": "middle", "limit": room}
        base = alt.Chart(data([mark])).encode(x=x)
        rules.append(base.mark_rule(style="mark-rule").encode(y=alt.YValue(top - 6), y2=alt.Y2Value(height)))
        texts += [
            base.mark_text(style=s, **text).encode(y=alt.YValue(top), text=alt.Text("label:N"))
            for s in ("halo", "mark-text")
        ]
    return [*rules, *texts]


def load_series(folder: Path | None) -> list[dict[str, Any]]:
    """The rows of concurrency.parquet, none where there is no such file."""
    path = None if folder is None else Path(folder) / "concurrency.parquet"
    if path is None or not path.is_file():
        return []
    import polars as pl

    return pl.read_parquet(path).sort("offset_s").to_dicts()


def over_time(rows: list[dict[str, Any]], *columns: str) -> tuple[list[dict[str, Any]], str, float]:
    """Rows at offsets in a fitting unit, closed by one more at the end of the last bin; the unit; the bin's width in seconds."""
    kept = [row for row in rows if any(row.get(c) is not None for c in columns)]
    if len(kept) < 2:
        return [], "", 1.0
    width = min(b["offset_s"] - a["offset_s"] for a, b in itertools.pairwise(kept)) or 1.0
    end = kept[-1]["offset_s"] + width
    unit, scale = next(
        (u, s)
        for u, s in (("days", 86400), ("hours", 3600), ("minutes", 60), ("seconds", 1))
        if end >= 3 * s or s == 1
    )
    shown = [{"time": round(row["offset_s"] / scale, 5), **{c: row.get(c) for c in columns}} for row in kept]
    return [*shown, {**shown[-1], "time": round(end / scale, 5)}], unit, width


def time_x(unit: str) -> alt.X:
    """A linear axis of time since the first request, in that unit."""
    return alt.X(
        "time:Q",
        title=f"{unit} since the first request",
        scale=alt.Scale(nice=False),
        axis=alt.Axis(tickCount=6),
    )


def data(rows: list[dict[str, Any]]) -> alt.InlineData:
    """Rows that stand in the chart itself."""
    return alt.InlineData(values=rows)


def estimate(profile: Profile) -> str:
    """What a title adds where token counts are estimates."""
    return " (token counts are estimates)" if about(profile) else ""


def log_x(field: str, title: str, low: float, high: float) -> alt.X:
    """A logarithmic axis with as few ticks as tell the scale: powers of ten, or 1-2-5 steps over a short span."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1,) if math.log10(high / low) > 2.5 else (1, 2, 5)
    ticks = [step * 10.0**d for d in decades for step in steps if low <= step * 10.0**d <= high]
    return alt.X(
        field,
        title=title,
        scale=alt.Scale(type="log", domain=[low, high], nice=False),
        axis=alt.Axis(values=ticks, labelExpr=SI),
    )
