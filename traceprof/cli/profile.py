"""`traceprof profile`: trace -> profile folder."""

from __future__ import annotations

import click

from traceprof.cli import options as opt


@click.command(name="profile")
@click.argument("trace", metavar="TRACE")
@click.option(
    "-o", "--out", required=True, metavar="PROFILE", help="Folder to write; an old profile there is replaced."
)
@opt.json_option
@opt.quiet_option
def command(trace: str, out: str, as_json: bool, quiet: bool) -> None:
    """Measure a trace: shared prefixes, miss-ratio curve, lengths, concurrency, arrivals, sessions, verdict.

    \b
    traceprof profile trace -o profile
    """
    from traceprof.profiler import profile
    from traceprof.trace import Trace

    with opt.progress(quiet or as_json) as say:
        found = profile(Trace(trace), out, progress=say)
    if as_json:
        opt.print_json(found)
    elif not quiet:
        opt.show(found)
