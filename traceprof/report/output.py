"""A profile folder -> one file; its ending says which kind."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from traceprof.errors import TraceprofError, UsageError
from traceprof.profiler import find_profile, open_profile

KINDS = (".html", ".md", ".json", ".svg", ".png")


def write(profile: str | os.PathLike[str], out: str | os.PathLike[str], chart: str | None = None) -> None:
    """Render the profile in a folder to `out`: .html, .md, .json, or (one chart) .svg and .png.

    The file is complete or absent. Raises UsageError for another ending or a chart that the profile does not have.
    """
    folder, target = find_profile(profile), Path(out)
    kind = target.suffix.lower()
    if kind not in KINDS:
        raise UsageError(
            f"cannot write {kind or 'a file without an ending'}",
            path=target,
            remedy=f"use one of {' '.join(KINDS)}",
        )
    found = open_profile(folder)
    if not target.parent.is_dir():
        raise TraceprofError("no such folder", path=target.parent, remedy="make it first")
    handle, name = tempfile.mkstemp(prefix=f".{target.stem}.", suffix=kind, dir=target.parent)
    os.close(handle)
    part = Path(name)
    try:
        if kind == ".html":
            from traceprof.report.html import render_html

            part.write_text(render_html(found, folder), encoding="utf-8")
        elif kind == ".md":
            from traceprof.report.markdown import render_markdown

            part.write_text(render_markdown(found), encoding="utf-8")
        elif kind == ".json":
            from traceprof.report.json import render_json

            part.write_bytes(render_json(found))
        else:
            from traceprof.report.charts import charts, save_chart

            drawn = charts(found, folder)
            if not drawn:
                raise TraceprofError("the profile has nothing to draw", path=folder)
            wanted = chart or next(iter(drawn))
            if wanted not in drawn:
                raise UsageError(f"no chart is called {wanted!r}", remedy=f"one of: {', '.join(drawn)}")
            save_chart(drawn[wanted], part)
        part.chmod(0o644)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
