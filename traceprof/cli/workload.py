"""`traceprof workload`: a trace as a workload that can be sent to engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from traceprof.cli import options as opt
from traceprof.workload.exports import EXPORTS

if TYPE_CHECKING:
    from traceprof.workload.exports import Exported

F = TypeVar("F", bound=Callable[..., Any])


def prompt_options(function: F) -> F:
    """What is sent."""
    for option in (
        click.option("--chat-template", metavar="FILE", type=click.Path(dir_okay=False), default=None, help="A Jinja chat template, in place of the tokenizer's own."),
        click.option("--tokenizer", metavar="FILE|DIR|NAME", default=None, help="Tokenizer of the engines that are to be asked.  [default: the one that made the trace's tokens]"),
        click.option("--endpoint", type=click.Choice(["completions", "chat"]), default="completions", show_default=True, help="Where made texts are sent."),
        click.option("--prompts", type=click.Choice(["text", "ids"]), default="text", show_default=True, help="Send prompts as text (messages, where the trace has them), or as token ids."),
        click.option("--synthesize", is_flag=True, help="Make the prompts of words that say nothing, also where the trace holds text."),
        click.option("--variant", type=click.Choice(["asis", "shared", "unique"]), default="asis", show_default=True, help="The trace's own prompts; prompts that share as they do; prompts of the same lengths that share nothing."),
    ):  # fmt: skip
        function = option(function)
    return function


def choice_options(function: F) -> F:
    """Which requests are sent."""
    for option in (
        click.option("--requests", type=click.IntRange(1), default=None, help="Only the first so many requests."),
        click.option("--sample-by", type=click.Choice(["session", "prefix"]), default="session", show_default=True, help="With --sample: whole sessions, or whole groups of requests that share a prefix."),
        click.option("--sample", metavar="SHARE", default=None, help="Only that share of the sessions, whole: 20%, or 0.2."),
        click.option("--peak", metavar="DURATION", default=None, help="Only the window of that length in which most input tokens arrive."),
        click.option("--tenant", "tenants", multiple=True, metavar="NAME", help="Only this tenant's requests (repeatable)."),
        click.option("--model", "models", multiple=True, metavar="NAME", help="Only requests for this model (repeatable)."),
        click.option("--window", metavar="FROM..TO", default=None, help="Only requests that arrive within: 10m..40m, or two ISO times."),
    ):  # fmt: skip
        function = option(function)
    return function


def time_options(function: F) -> F:
    """When they are sent."""
    for option in (
        click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="What everything random is drawn from."),
        click.option("--warmup", metavar="DURATION|SHARE", default=None, help="Mark the beginning as warm-up: sent, but in no figure."),
        click.option("--users", type=click.FloatRange(0, min_open=True), default=None, help="The same, for that many sessions at once on average."),
        click.option("--rate", type=click.FloatRange(0, min_open=True), default=None, help="Mean requests a second: session starts drawn from the trace's own gaps, bursts kept."),
        click.option("--speed", type=click.FloatRange(0, min_open=True), default=None, help="So many times as fast, think times included."),
    ):  # fmt: skip
        function = option(function)
    return function


def expected_options(function: F) -> F:
    """What is to be expected of engines."""
    for option in (
        opt.machine_options,
        click.option("--engine-per-model", is_flag=True, help="Each model of the trace is served by an engine of its own.  [default: one for all]"),
        click.option("--engine", "engines", multiple=True, metavar="NAME", help="Say the hit rate to expect of this engine only (repeatable).  [default: all]"),
    ):  # fmt: skip
        function = option(function)
    return function


def export_options(function: F) -> F:
    """The files of other tools."""
    for option in (
        click.option("--block-size", type=click.IntRange(1), default=None, help="With --export: tokens that a block hash stands for, where the file holds hashes."),
        click.option("--served-model", metavar="NAME", default=None, help="With --export: the name under which the engine knows its model."),
        click.option("--export", "name", type=click.Choice(EXPORTS), default=None, help="Write the input file of another tool, see docs/exports.md."),
    ):  # fmt: skip
        function = option(function)
    return function


OF_EXPORT = ("trace", "out", "name", "served_model", "block_size", "as_json", "quiet", "jobs")


@click.command(name="workload")
@click.argument("trace", metavar="TRACE|WORKLOAD")
@click.option(
    "-o",
    "--out",
    metavar="FILE",
    required=True,
    type=click.Path(dir_okay=False),
    help="The workload file (Parquet); with --export, the file of that tool.",
)
@prompt_options
@choice_options
@time_options
@expected_options
@export_options
@opt.jobs_option
@opt.json_option
@opt.quiet_option
@click.pass_context
def command(
    context: click.Context,
    /,
    trace: str,
    out: str,
    sample: str | None,
    name: str | None,
    served_model: str | None,
    block_size: int | None,
    jobs: int | None,
    as_json: bool,
    quiet: bool,
    **words: Any,
) -> None:
    """Make a workload of a trace: which requests to send, when, and with which prompts.

    Benchmark two of them, `shared` and `unique`: the difference is what prefix caching is worth. The file says which hit rate each
    engine's cache is to show. The same trace, options and seed give the same bytes. See docs/workloads.md.

    \b
    traceprof workload trace -o shared.parquet --variant shared
    traceprof workload trace -o unique.parquet --variant unique --tokenizer ./my-model
    traceprof workload trace -o peak.parquet --peak 10m --rate 20 --warmup 1m
    traceprof workload shared.parquet -o trace.jsonl --export mooncake
    """
    from pathlib import Path

    from traceprof.caches import ENGINES
    from traceprof.errors import UsageError
    from traceprof.lab import Machine
    from traceprof.trace import open_trace, workspace
    from traceprof.workload.exports import export
    from traceprof.workload.make import Options, make_workload
    from traceprof.workload.scale import share
    from traceprof.workloads import Workload

    if name is None and (served_model or block_size):
        raise UsageError("--served-model and --block-size say how a file is exported", remedy="give --export")
    if Path(trace).is_file():
        given = click.core.ParameterSource.COMMANDLINE
        more = [p for p in context.params if context.get_parameter_source(p) is given and p not in OF_EXPORT]
        if name is None or more:
            raise UsageError(
                f"{trace} is a workload already, which can only be exported",
                remedy="give --export, and nothing that makes another workload",
            )
        told = export(Workload(trace), name, out, model=served_model, block_size=block_size)
        _say(None, told, out, as_json, quiet)
        return
    if unknown := [one for one in words["engines"] if one not in ENGINES]:
        raise UsageError(
            f"no model of an engine called {unknown[0]!r}", remedy="one of " + ", ".join(ENGINES)
        )
    part = None if sample is None else share(sample, "--sample")
    if sample is not None and part is None:
        raise UsageError(f"--sample {sample!r} is no share", remedy="write 20%, or 0.2")
    machine = Machine.of(**{one: words.pop(one) for one in opt.MACHINE})
    options = Options(sample=part, jobs=opt.jobs_or_cores(jobs), **words)
    with opt.progress(quiet or as_json) as say, workspace(out) as folder:
        place = Path(out) if name is None else folder / "workload.parquet"
        workload = make_workload(open_trace(trace), place, options, machine=machine, progress=say)
        exported = None
        if name is not None:
            exported = export(workload, name, out, model=served_model, block_size=block_size)
    _say(workload.meta, exported, out, as_json, quiet)


def _say(
    made: dict[str, Any] | None, exported: Exported | None, out: str, as_json: bool, quiet: bool
) -> None:
    """What was made, and what of it another tool's file holds."""
    if as_json:
        told = {} if exported is None else {"export": {**exported._asdict(), "path": str(exported.path)}}
        opt.print_json({**(made or {}), **told})
    if as_json or quiet:
        return
    from rich.console import Console

    from traceprof.caches import ENGINES, engine
    from traceprof.report import workload as report

    console = Console()
    if made is not None:
        report.made(made, out, console, {name: engine(name).LABEL for name in ENGINES})
    if exported is not None:
        report.exported(exported, console, of=None if made is None else made["requests"])
