"""The charts of a report, as altair charts: for the page, for .svg and .png, for a notebook.

The only home of altair and vl_convert. Text from a log reaches a chart as data values only, cleaned and cut: it is never the
name of a field, never an expression. Colours come from one theme: fixed ones in files, CSS variables in the page, so that the
page follows the reader's light or dark setting without drawing a chart again.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import altair as alt
from altair.utils import schemapi

from traceprof.errors import UsageError
from traceprof.report.document import histogram, mrc_points
from traceprof.report.simulated import by_rate
from traceprof.report.words import Profile, about, at, block_rates, clean, rows_of, short, table_of

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
ALONE, KEPT = "prompts alone", "with outputs kept"
MEAN, PEAK = "mean", "peak"


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


def charts(profile: Profile, folder: Path | None = None) -> dict[str, alt.Chart]:
    """Every chart that the profile and its folder have the numbers for, by name, in the report's order."""
    with schemapi.debug_mode(False):  # tests check each chart against the Vega-Lite schema; a report need not
        series = _series(folder)
        made = {
            "hit_rate": _hit_rate(profile),
            "top_prefixes": _top_prefixes(profile),
            "hit_rate_over_time": _hit_rate_over_time(profile),
            "mrc": _mrc(profile),
            "slo_by_rate": _slo_by_rate(profile),
            "input_lengths": _lengths(profile, "input"),
            "output_lengths": _lengths(profile, "output"),
            "concurrency": _concurrency(series) if at(profile, "concurrency") else None,
            "arrivals": _arrivals(series) if at(profile, "arrivals") else None,
        }
        return {
            name: chart.properties(
                width="container",
                autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
                config=theme(),
            )
            for name, chart in made.items()
            if chart is not None
        }


def save_chart(chart: alt.Chart, path: str | Path) -> None:
    """Write a chart as .svg or .png, with its fonts and colours, on white."""
    import vl_convert

    path = Path(path)
    spec = chart.to_dict()
    spec.update(width=FILE_WIDTH, padding=16)
    if path.suffix.lower() == ".svg":
        path.write_text(vl_convert.vegalite_to_svg(spec, vl_version=_vl_version()), encoding="utf-8")
    elif path.suffix.lower() == ".png":
        path.write_bytes(vl_convert.vegalite_to_png(spec, vl_version=_vl_version(), scale=2))
    else:
        raise UsageError(
            f"charts are written as .svg or .png, not {path.suffix or 'without a suffix'}", path=path
        )


@functools.cache
def javascript() -> str:
    """Vega, Vega-Lite and vega-embed as one script that sets `vegaEmbed` and needs no network; about 900 kB."""
    import vl_convert

    kept = _cache() / f"vega-{metadata.version('vl-convert-python')}-{_vl_version()}.js"
    try:
        return kept.read_text("utf-8")
    except OSError:
        pass
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=_vl_version())
    bundle = bundle.replace("</script", r"<\/script").replace("<!--", r"<\!--").replace("\r\n", "\n")
    with contextlib.suppress(OSError):  # no place to keep it: the next page takes its three seconds again
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(f".{os.getpid()}")
        part.write_text(bundle, "utf-8")
        part.replace(kept)
    return bundle


def _cache() -> Path:
    """The user's cache folder, where the bundled runtime is kept: bundling takes three seconds."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "traceprof"


def _vl_version() -> str:
    return ".".join(str(alt.SCHEMA_VERSION).lstrip("v").split(".")[:2])


# --- sharing ----------------------------------------------------------------------------------------


def _rates_axis(highest: float, title: str) -> alt.Y:
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


def _hit_rate(profile: Profile) -> alt.Chart | None:
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
        "y": _rates_axis(max(row["rate"] for row in rows), "share of input tokens"),
        "tooltip": [
            alt.Tooltip("block:N", title="block size"),
            alt.Tooltip("what:N", title="counting"),
            alt.Tooltip("rate:Q", title="hit rate", format=".1%"),
        ],
    }
    if len(kinds) > 1:
        encode["xOffset"] = alt.XOffset("what:N", sort=kinds)
        encode["color"] = alt.Color("what:N", sort=kinds, scale=alt.Scale(domain=kinds))
    chart = alt.Chart(_data(rows)).mark_bar(cornerRadiusEnd=1).encode(**encode)
    return chart.properties(height=HEIGHT, title=f"Hit rate by block size{_estimate(profile)}")


def _hit_rate_over_time(profile: Profile) -> alt.Chart | None:
    series = table_of(profile, "prefix", "over_time")
    columns = ("offset_s", "hit_rate", "requests")
    bins = [
        dict(zip(columns, row, strict=True))
        for row in zip(*(rows_of(series, c) for c in columns), strict=False)
    ]
    steps, unit, _ = _over_time(bins, "hit_rate", "requests")
    rows = [
        {"time": a["time"], "until": b["time"], "rate": a["hit_rate"], "requests": a["requests"]}
        for a, b in itertools.pairwise(steps)
        if a["hit_rate"] is not None
    ]
    highest = max((row["rate"] for row in rows), default=0.0)
    if not highest:
        return None
    return (
        alt.Chart(_data(rows))
        .mark_bar(opacity=0.75)
        .encode(
            x=_time_x(unit),
            x2="until:Q",
            y2=alt.datum(0),
            y=_rates_axis(highest, "hit rate"),
            tooltip=[
                alt.Tooltip("time:Q", title=unit, format=".4~g"),
                alt.Tooltip("rate:Q", title="hit rate", format=".1%"),
                alt.Tooltip("requests:Q", title="requests", format=","),
            ],
        )
        .properties(height=180, title="Hit rate over time" + _estimate(profile))
    )


def _top_prefixes(profile: Profile) -> alt.Chart | None:
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
    base = alt.Chart(_data(rows)).encode(y=place)
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
        height=36 * len(rows), title=f"Largest shared prefixes{_estimate(profile)}"
    )


def _mrc(profile: Profile) -> alt.Chart | None:
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
    x = _log_x("capacity:Q", "cache capacity, tokens", low, high)
    highest = max(r["rate"] for r in rows)
    curve = (
        alt.Chart(_data(rows))
        .mark_line()
        .encode(
            x=x,
            y=_rates_axis(highest, "hit rate"),
            tooltip=[
                alt.Tooltip("capacity:Q", title="capacity, tokens", format=".3s"),
                alt.Tooltip("rate:Q", title="hit rate", format=".1%"),
            ],
        )
    )
    layers = [curve, *_flags(marks, low, high, x, "capacity", HEIGHT)]
    points_at = [m for m in marks if m["rate"] is not None]
    if points_at:
        layers.append(
            alt.Chart(_data(points_at))
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
        height=HEIGHT, title=f"Hit rate against cache capacity{_estimate(profile)}"
    )


def _slo_by_rate(profile: Profile) -> alt.Chart | None:
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
        alt.Chart(_data(rows))
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
    here = alt.Chart(_data([{"speed": 1}])).mark_rule(strokeDash=[4, 3]).encode(x=x)
    return alt.layer(*([here] if low <= 1 <= high else []), lines).properties(
        height=HEIGHT, title="Requests within the objectives by rate"
    )


def _flags(
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
        base = alt.Chart(_data([mark])).encode(x=x)
        rules.append(base.mark_rule(style="mark-rule").encode(y=alt.YValue(top - 6), y2=alt.Y2Value(height)))
        texts += [
            base.mark_text(style=s, **text).encode(y=alt.YValue(top), text=alt.Text("label:N"))
            for s in ("halo", "mark-text")
        ]
    return [*rules, *texts]


# --- lengths ----------------------------------------------------------------------------------------


def _lengths(profile: Profile, side: str) -> alt.Chart | None:
    bins = histogram(profile, side)
    if sum(n > 0 for _, _, n in bins) < 2:
        return None
    low, high = bins[0][0], bins[-1][1]
    if high / low < 4:
        low, high = low / 2, high * 2
    rows = [{"low": lo, "high": hi, "requests": n} for lo, hi, n in bins]
    x = _log_x("low:Q", f"{side} tokens", low, high)
    bars = (
        alt.Chart(_data(rows))
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
    flags = _flags(marks, low, high, x, "low", 180)
    return alt.layer(bars, *flags).properties(
        height=180, title=f"{side.capitalize()} lengths{_estimate(profile)}"
    )


# --- load -------------------------------------------------------------------------------------------


def _series(folder: Path | None) -> list[dict[str, Any]]:
    """The rows of concurrency.parquet, none where there is no such file."""
    path = None if folder is None else Path(folder) / "concurrency.parquet"
    if path is None or not path.is_file():
        return []
    import polars as pl

    return pl.read_parquet(path).sort("offset_s").to_dicts()


def _over_time(rows: list[dict[str, Any]], *columns: str) -> tuple[list[dict[str, Any]], str, float]:
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


def _time_x(unit: str) -> alt.X:
    return alt.X(
        "time:Q",
        title=f"{unit} since the first request",
        scale=alt.Scale(nice=False),
        axis=alt.Axis(tickCount=6),
    )


def _concurrency(series: list[dict[str, Any]]) -> alt.Chart | None:
    rows, unit, _ = _over_time(series, "in_flight_mean", "in_flight_peak")
    if not rows:
        return None
    x = _time_x(unit)
    y = {"title": "requests in flight", "axis": alt.Axis(tickCount=5), "scale": alt.Scale(domainMin=0)}
    colour = alt.Color("what:N", scale=alt.Scale(domain=[MEAN, PEAK]))
    tooltip = [
        alt.Tooltip("time:Q", title=unit, format=".4~g"),
        alt.Tooltip("in_flight_mean:Q", title="mean", format=",.1f"),
        alt.Tooltip("in_flight_peak:Q", title="peak", format=","),
    ]
    base = alt.Chart(_data(rows))
    mean = base.transform_calculate(what=f"'{MEAN}'").mark_area(interpolate="step-after", opacity=0.75)
    peak = base.transform_calculate(what=f"'{PEAK}'").mark_line(interpolate="step-after", strokeWidth=1.25)
    return alt.layer(
        mean.encode(x=x, y=alt.Y("in_flight_mean:Q", **y), color=colour, tooltip=tooltip),
        peak.encode(x=x, y=alt.Y("in_flight_peak:Q", **y), color=colour, tooltip=tooltip),
    ).properties(height=220, title="Requests in flight")


def _arrivals(series: list[dict[str, Any]]) -> alt.Chart | None:
    rows, unit, width = _over_time(series, "arrivals")
    if not rows:
        return None
    rows = [{"time": row["time"], "rate": (row["arrivals"] or 0) / width} for row in rows]
    return (
        alt.Chart(_data(rows))
        .mark_area(interpolate="step-after", opacity=0.75)
        .encode(
            x=_time_x(unit),
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


# --- shared -----------------------------------------------------------------------------------------


def _data(rows: list[dict[str, Any]]) -> alt.InlineData:
    return alt.InlineData(values=rows)


def _estimate(profile: Profile) -> str:
    return " (token counts are estimates)" if about(profile) else ""


def _log_x(field: str, title: str, low: float, high: float) -> alt.X:
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
