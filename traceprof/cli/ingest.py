"""`traceprof ingest`: logs -> a trace folder."""

from __future__ import annotations

from typing import Any

import click

from traceprof.cli import options as opt


@click.command(name="ingest")
@click.argument("logs", nargs=-1, required=True, metavar="LOG...")
@click.option(
    "-o", "--out", required=True, metavar="TRACE", help="Folder to write; an old trace there is replaced."
)
@opt.ingest_options
@opt.jobs_option
@opt.json_option
@opt.quiet_option
def command(logs: tuple[str, ...], out: str, strict: bool, as_json: bool, quiet: bool, **words: Any) -> int:
    """Read logs of any supported format into a trace folder.

    LOG is a file, a folder, a glob, or - for stdin; plain, .gz, .zst, .bz2 or .xz. The format is told by content.

    \b
    traceprof ingest 'logs/2026-03-*/*.jsonl.gz' -o trace
    """
    from traceprof.ingest import ingest

    with opt.progress(quiet or as_json) as say:
        trace = ingest(logs, out, opt.make_options(**words), say)
    found = trace.manifest
    if as_json:
        opt.print_json(found)
    elif not quiet:
        click.echo(
            f"{found['requests']:,} requests in {out} ({found['records_in']:,} records in, "
            f"{found['rejects']:,} rejected, {found['skipped']:,} skipped)"
        )
        opt.say_rejects(found, out)
    opt.check_requests(found, out)
    return opt.strict_exit(strict, found["rejects"])
