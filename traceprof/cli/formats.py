"""`traceprof formats`: what can be read, and what each format can tell."""

from __future__ import annotations

import click

from traceprof.cli import options as opt


@click.command(name="formats")
@opt.json_option
def command(as_json: bool) -> None:
    """List the log formats, and what each can tell.

    \b
    traceprof formats --json
    """
    from traceprof import formats

    rows = []
    for name in formats.NAMES:
        module = formats.load(name)
        rows.append(
            {
                "format": formats.label(module),
                "has": [flag.name.lower() for flag in module.has],
                "about": module.summary.replace("`", ""),
            }
        )
    if as_json:
        opt.print_json(rows)
        return
    width = max(len(r["format"]) for r in rows)
    for row in rows:
        click.echo(f"{row['format']:<{width}}  {row['about']}")
        click.echo(f"{'':<{width}}  tells {', '.join(row['has'])}")
