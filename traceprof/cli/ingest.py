"""`traceprof ingest`: logs -> a trace folder."""

from __future__ import annotations

from typing import Any

import click

from traceprof.cli import options as opt
from traceprof.cli import private


@click.command(name="ingest")
@click.argument("logs", nargs=-1, required=True, metavar="LOG...")
@click.option(
    "-o", "--out", required=True, metavar="TRACE", help="Folder to write; an old trace there is replaced."
)
@opt.ingest_options
@private.privacy_options
@opt.tokenizer_options
@opt.jobs_option
@opt.json_option
@opt.quiet_option
def command(
    logs: tuple[str, ...],
    out: str,
    strict: bool,
    as_json: bool,
    quiet: bool,
    **words: Any,
) -> int:
    """Read logs of any supported format into a trace folder.

    LOG is a file, a folder, a glob, a URL (s3, gs, az), or - for stdin; plain, .gz, .zst, .bz2 or .xz. The format is told by content.
    Below --privacy text the prompts are tokenized at once and no text is kept; only there --tokenizer is used.

    \b
    traceprof ingest 'logs/2026-03-*/*.jsonl.gz' -o trace
    traceprof ingest logs/ -o trace --privacy hashes --key ~/.traceprof.key
    """
    kept = private.taken(words)
    with opt.progress(quiet or as_json) as say:
        trace, info = private.make_trace(
            logs,
            out,
            opt.make_options(**words),
            say,
            kept,
        )
    found = trace.manifest
    if as_json:
        opt.print_json(found)
    elif not quiet:
        click.echo(
            f"{found['requests']:,} requests in {out} ({found['records_in']:,} records in, "
            f"{found['rejects']:,} rejected, {found['skipped']:,} skipped)"
        )
        opt.say_rejects(found, out)
        opt.say_template_errors(info.errors if info else {})
    opt.check_requests(found, out)
    return opt.strict_exit(strict, found["rejects"])
