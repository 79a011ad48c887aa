"""`traceprof formats`: what can be read, and what each format can tell."""

from __future__ import annotations

import click

from traceprof.cli import options as opt

_LETTERS = {
    "arrivals": "a", "ends": "e", "lengths": "l", "text": "t", "tokens": "i", "blocks": "b", "outputs": "o", "sessions": "s",
}  # fmt: skip
_LEGEND = "a arrivals, e ends, l lengths, t text, i token ids, b blocks, o outputs, s sessions"


@click.command(name="formats")
@click.argument("words", nargs=-1, metavar="[WORD]...")
@opt.json_option
def command(words: tuple[str, ...], as_json: bool) -> None:
    """List the log formats, and what each can tell; with WORDs, those that have them all in name or description.

    \b
    traceprof formats
    traceprof formats langfuse
    """
    import shutil
    import textwrap

    from traceprof import formats

    rows = []
    for name in formats.NAMES:
        module = formats.load(name)
        row = {
            "format": formats.label(module),
            "has": [flag.name.lower() for flag in module.has],
            "about": module.summary.replace("`", ""),
        }
        if all(word.lower() in f"{row['format']} {row['about']}".lower() for word in words):
            rows.append(row)
    if as_json:
        opt.print_json(rows)
        return
    if not rows:
        click.echo("no format is described so; anything in JSONL, CSV or Parquet is read by --format mapping")
        return
    width = max(len(r["format"]) for r in rows)
    room = max(40, shutil.get_terminal_size((100, 24)).columns - width - len(_LETTERS) - 4)
    click.echo(_LEGEND)
    for row in rows:
        told = "".join(letter if flag in row["has"] else "·" for flag, letter in _LETTERS.items())
        first, *more = textwrap.wrap(row["about"], room)
        click.echo(f"{row['format']:<{width}}  {told}  {first}")
        for line in more:
            click.echo(f"{'':<{width + len(_LETTERS) + 4}}{line}")
