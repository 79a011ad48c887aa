"""`traceprof run`: the main job, from logs to the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from traceprof.cli import options as opt


@click.command(name="run")
@click.argument("logs", nargs=-1, required=True, metavar="LOG...")
@click.option(
    "-o",
    "--out",
    default="traceprof-out",
    show_default=True,
    metavar="OUT",
    help="Folder for trace, profile and report.",
)
@opt.ingest_options
@opt.tokenizer_options
@opt.jobs_option
@opt.json_option
@opt.quiet_option
def command(
    logs: tuple[str, ...],
    out: str,
    tokenizer: str | None,
    chat_template: str | None,
    strict: bool,
    as_json: bool,
    quiet: bool,
    **words: Any,
) -> int:
    """Ingest, tokenize, profile and report in one go.

    Leaves OUT/trace (Parquet), OUT/profile/profile.json and OUT/report.html.

    \b
    traceprof run chat.jsonl.gz -o out --tokenizer ./my-model
    """
    from traceprof.ingest import ingest
    from traceprof.profiler import profile
    from traceprof.report.output import write
    from traceprof.tokens import tokenize
    from traceprof.workers import keep_memory

    keep_memory()
    folder = Path(out)
    settings = opt.make_options(**words)
    if tokenizer or chat_template:  # a wrong path is told before an hour of reading
        from traceprof.tokenizer import load

        load(tokenizer, chat_template)
    with opt.progress(quiet or as_json) as say:
        trace = ingest(logs, folder / "trace", settings, say)
        opt.check_requests(trace.manifest, str(trace.path))
        info = tokenize(trace, tokenizer, chat_template, jobs=settings.jobs, progress=say)
        found = profile(trace, folder / "profile", progress=say)
        report = folder / "report.html"
        write(folder / "profile", report)
    if as_json:
        opt.print_json(found)
    elif not quiet:
        opt.show(found, report)
        opt.say_rejects(trace.manifest, str(trace.path))
        opt.say_template_errors(info.errors if info else {})
    return opt.strict_exit(strict, trace.manifest["rejects"])
