"""`traceprof caches`: the trace through engines' own prefix caches."""

from __future__ import annotations

from typing import Any

import click

from traceprof.cli import options as opt


@click.command(name="caches")
@click.argument("trace", metavar="TRACE")
@click.option(
    "--engine",
    "engines",
    multiple=True,
    metavar="NAME",
    help="Only this engine (repeatable).  [default: all]",
)
@click.option(
    "--replicas",
    is_flag=True,
    help="Also on several replicas behind a router, by its policy; of the first --engine.  [default: vllm]",
)
@click.option("--providers", is_flag=True, help="Also API providers' prompt caches, and what they cost.")
@opt.machine_options
@opt.json_option
@opt.quiet_option
def command(
    trace: str,
    engines: tuple[str, ...],
    replicas: bool,
    providers: bool,
    as_json: bool,
    quiet: bool,
    **machine: Any,
) -> None:
    """Show the hit rate that this traffic gets in each engine's prefix cache, by size of GPU memory.

    Engines are modelled after their source, see docs/engines.md. --json has what each model assumes.

    \b
    traceprof caches trace
    traceprof caches trace --engine vllm --engine sglang --model-config ./my-model --gpu-memory 80GB
    traceprof caches trace --capacity-tokens 150000 --replicas --providers
    """
    from traceprof.caches import ENGINES
    from traceprof.errors import TraceprofError, UsageError
    from traceprof.lab import USUAL_ENGINE, Machine, machine_part, providers_part, replicas_part
    from traceprof.profiler import open_lab
    from traceprof.trace import open_trace

    if unknown := [name for name in engines if name not in ENGINES]:
        raise UsageError(
            f"no model of an engine called {unknown[0]!r}", remedy="one of " + ", ".join(ENGINES)
        )
    sized = Machine.of(**machine)
    with opt.progress(quiet or as_json) as say:
        lab = open_lab(open_trace(trace), say)
        found = machine_part(lab, sized, engines or ENGINES, progress=say)
        if replicas:
            found["replicas"] = replicas_part(lab, sized, (*engines, USUAL_ENGINE)[0], progress=say)
        if providers:
            found["providers"] = providers_part(lab)
            if found["providers"] is None:
                raise TraceprofError(f"API providers keep prompts for a time, and {lab.how}", path=trace)
    if as_json:
        opt.print_json(found)
    else:
        from rich.console import Console

        from traceprof.report.terminal import caches

        caches(found, Console())
