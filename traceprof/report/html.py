"""The report as one self-contained page: text and tables first, charts drawn in it, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources
from pathlib import Path

from traceprof import __version__
from traceprof.report.document import document
from traceprof.report.parts import Chart, Table
from traceprof.report.words import Profile

TEMPLATE = "report.html.j2"

_DRAW = """\
const drawn = [];
for (const place of document.querySelectorAll(".chart")) {
  const spec = JSON.parse(document.getElementById(place.dataset.spec).textContent);
  drawn.push(
    vegaEmbed(place, spec, {
      mode: "vega-lite", renderer: "svg", actions: false, ast: true, defaultStyle: false, hover: true,
      config: JSON.parse(document.getElementById("chart-theme").textContent),
      tooltip: { disableDefaultStyle: true },
      loader: { load: () => Promise.reject(new Error("this page loads nothing")) },
    }).catch((error) => {
      place.textContent = "This chart could not be drawn; the tables hold its numbers.";
      console.error(place.id, error);
    })
  );
}
Promise.all(drawn).then(() => { document.documentElement.dataset.charts = "drawn"; });
"""


def render_html(profile: Profile, folder: Path | None = None) -> str:
    """The page; `folder` is the profile's own, for the series that profile.json is too small for."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    from traceprof.report import charts
    from traceprof.report.charts.base import theme

    told = document(profile)
    places = {part.key for section in told.sections for part in section.parts if isinstance(part, Chart)}
    made = charts.charts(profile, folder)
    drawn = {name: chart.to_dict(validate=False) for name, chart in made.items() if name in places}
    for spec in drawn.values():
        for unused in ("title", "config", "$schema"):
            spec.pop(unused, None)
    colours = {name: f"var(--{name})" for name in ("ink", "soft", "line", "first", "second")}
    scripts = [charts.javascript(), _DRAW] if drawn else []
    jinja = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.filters["prose"] = _prose
    jinja.tests["table"] = lambda part: isinstance(part, Table)
    jinja.tests["chart"] = lambda part: isinstance(part, Chart)
    page = resources.files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    return jinja.from_string(page).render(
        told=told,
        drawn=drawn.keys(),
        specs={name: Markup(_json(spec)) for name, spec in drawn.items()},
        theme=Markup(_json(theme(paper="var(--paper)", **colours) | {"background": None})),
        scripts=[Markup(script) for script in scripts],
        policy=_policy(scripts),
        version=__version__,
    )


def _policy(scripts: list[str]) -> str:
    """A content security policy under which these scripts run, no other does, and nothing is fetched."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes) or "'none'"
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def _json(value: object) -> str:
    """JSON that can stand inside a script element."""
    import orjson

    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode().replace("<", "\\u003c")


def _prose(text: str) -> str:
    """Escaped text, `x` as code, numbers kept on one line with their units."""
    from markupsafe import Markup, escape

    kept = re.sub(r"(\d) (%|[kMGT]\b|µs\b|ms\b|s\b|min\b|h\b|d\b|[KMGT]iB\b)", "\\1\u00a0\\2", text)
    pieces = re.split(r"`([^`]*)`", kept)
    return Markup("").join(
        Markup("<code>{}</code>").format(p) if i % 2 else escape(p) for i, p in enumerate(pieces)
    )
