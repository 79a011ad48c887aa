"""`traceprof inspect`: exactly what a trace keeps."""

from __future__ import annotations

import click

from traceprof.cli import options as opt

_MEANS = {
    "text": "Prompts and answers stand in content/ as they were logged; deleting that folder removes them.",
    "tokens": "No text is kept. Token ids are: whoever has the tokenizer can turn them back into text.",
    "hashes": "No text and no token ids are kept. Prompts are hashes under a key that is not in the trace.",
}


@click.command(name="inspect")
@click.argument("trace", metavar="TRACE")
@click.option(
    "--rejects", is_flag=True, help="List the records that could not be used, with file, line and reason."
)
@opt.json_option
def command(trace: str, rejects: bool, as_json: bool) -> int:
    """Show what a trace keeps: every column, how it is kept, in how many rows, and the words in it.

    Below privacy level text it also looks for what should not be there, and ends with 1 when it finds any.

    \b
    traceprof inspect trace
    traceprof inspect trace --rejects
    """
    from traceprof.privacy import inventory, leaks
    from traceprof.trace import open_trace

    opened = open_trace(trace)
    trace = str(opened.path)
    if rejects:
        listed = opt.first_rejects(trace, opened.manifest["rejects"])
        if as_json:
            opt.print_json(listed)
        else:
            click.echo("\n".join(listed) or "no record was rejected")
        return 0
    kept, found = inventory(opened), leaks(opened)
    manifest = opened.manifest
    sizes = {
        kind: sum(part.stat().st_size for part in opened.parts(kind))
        for kind in dict.fromkeys(k.kind for k in kept)
    }
    if as_json:
        opt.print_json(
            {
                "privacy": manifest["privacy"],
                "protection": manifest.get("protection"),
                "bytes": sizes,
                "columns": [k._asdict() for k in kept],
                "leaks": found,
            }
        )
        return 1 if found else 0
    click.echo(f"{trace}: privacy level {manifest['privacy']}. {_MEANS[manifest['privacy']]}")
    if manifest.get("protection"):
        click.echo("Protection: " + ", ".join(f"{k} {v}" for k, v in manifest["protection"].items()))
    click.echo("Files named in manifest.json: " + ", ".join(s["file"] for s in manifest["sources"][:5]))
    width = max((len(k.column) for k in kept), default=0)
    for kind, size in sizes.items():
        click.echo(f"\n{kind}/  {size:,} bytes")
        for one in (k for k in kept if k.kind == kind):
            words = "" if one.distinct is None else f"  {one.distinct:,} different"
            if one.words and one.how != "pseudonym":
                shown = ", ".join(w if len(w) <= 40 else w[:37] + "..." for w in one.words)
                words += f": {shown}" + (", ..." if one.distinct and one.distinct > len(one.words) else "")
            click.echo(f"  {one.column:<{width}}  {one.rows:>9,} rows  {one.how}{words}")
    click.echo()
    for leak in found:
        click.echo(f"AGAINST ITS LEVEL: {leak}")
    if manifest["privacy"] != "text" and not found:
        click.echo("Nothing stands in it against its privacy level.")
    return 1 if found else 0
