"""`traceprof profile`: trace -> profile folder."""

from __future__ import annotations

from typing import Any

import click

from traceprof.cli import options as opt


@click.command(name="profile")
@click.argument("trace", metavar="TRACE")
@click.option(
    "-o", "--out", required=True, metavar="PROFILE", help="Folder to write; an old profile there is replaced."
)
@opt.machine_options
@opt.simulation_options
@opt.constraint_options
@opt.json_option
@opt.quiet_option
def command(trace: str, out: str, as_json: bool, quiet: bool, **words: Any) -> None:
    """Measure a trace: shared prefixes, miss-ratio curve, engines' caches, lengths, concurrency, sessions, verdict.

    \b
    traceprof profile trace -o profile
    traceprof profile trace -o profile --model-config ./my-model --gpus 2 --gpu-memory 80GB
    """
    from traceprof.profiler import profile
    from traceprof.trace import Trace

    machine, virtual, constraints = opt.machines(words)
    with opt.progress(quiet or as_json) as say:
        found = profile(
            Trace(trace), out, machine=machine, virtual=virtual, constraints=constraints, progress=say
        )
    if as_json:
        opt.print_json(found)
    elif not quiet:
        opt.show(found)
