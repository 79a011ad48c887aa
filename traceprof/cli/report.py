"""`traceprof report`: profile -> page, text, JSON or a chart."""

from __future__ import annotations

import click


@click.command(name="report")
@click.argument("profile", metavar="PROFILE")
@click.option(
    "-o",
    "--out",
    required=True,
    metavar="FILE",
    help="Where to; its ending says what: .html, .md, .json, .svg or .png.",
)
@click.option(
    "--chart", metavar="NAME", default=None, help="For .svg and .png: which chart.  [default: hit_rate]"
)
def command(profile: str, out: str, chart: str | None) -> None:
    """Render a profile as one self-contained page, as text, as JSON, or one of its charts as a picture.

    \b
    traceprof report profile -o report.html
    """
    from traceprof.report.output import write

    write(profile, out, chart)
    click.echo(out)
