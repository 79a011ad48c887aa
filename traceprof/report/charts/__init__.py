"""The charts of a report, as altair charts: for the page, for .svg and .png, for a notebook.

The only home of altair and vl_convert. Text from a log reaches a chart as data values only, cleaned and cut: it is never the
name of a field, never an expression. Colours come from one theme: fixed ones in files, CSS variables in the page, so that the
page follows the reader's light or dark setting without drawing a chart again.
"""

from __future__ import annotations

import contextlib
import functools
import os
from importlib import metadata
from pathlib import Path

import altair as alt
from altair.utils import schemapi

from traceprof.errors import UsageError
from traceprof.report.charts.base import FILE_WIDTH, load_series, theme
from traceprof.report.charts.cache import mrc
from traceprof.report.charts.lengths import lengths
from traceprof.report.charts.load import arrivals, concurrency
from traceprof.report.charts.sharing import hit_rate, hit_rate_over_time, top_prefixes
from traceprof.report.charts.simulated import slo_by_rate
from traceprof.report.words import Profile, at


def charts(profile: Profile, folder: Path | None = None) -> dict[str, alt.Chart]:
    """Every chart that the profile and its folder have the numbers for, by name, in the report's order."""
    with schemapi.debug_mode(False):  # tests check each chart against the Vega-Lite schema; a report need not
        series = load_series(folder)
        made = {
            "hit_rate": hit_rate(profile),
            "top_prefixes": top_prefixes(profile),
            "hit_rate_over_time": hit_rate_over_time(profile),
            "mrc": mrc(profile),
            "slo_by_rate": slo_by_rate(profile),
            "input_lengths": lengths(profile, "input"),
            "output_lengths": lengths(profile, "output"),
            "concurrency": concurrency(series) if at(profile, "concurrency") else None,
            "arrivals": arrivals(series) if at(profile, "arrivals") else None,
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
