"""Options that several verbs share, and what they print in common."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from traceprof.ingest import Options
    from traceprof.lab import Machine
    from traceprof.profiler import Virtual
    from traceprof.simulate.host import Host
    from traceprof.verdict import Constraints
    from traceprof.workers import Progress

F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON, and nothing else."
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress, no summary.")
jobs_option = click.option(
    "-j", "--jobs", type=click.IntRange(1), default=None, help="Worker processes.  [default: one a core]"
)


def ingest_options(function: F) -> F:
    """What decides how logs are read."""
    for option in (
        click.option("--resume", is_flag=True, help="Go on where the same command was killed before."),
        click.option("--strict", is_flag=True, help="Exit with 3 when any record was rejected."),
        click.option("--max-record-bytes", type=click.IntRange(1024), default=64 << 20, show_default=True, help="Reject longer records."),
        click.option("--block-size", type=click.IntRange(1), default=None, help="Tokens a block hash stands for, where a Mooncake trace differs from 512."),
        click.option("--duplicates", type=click.Choice(["reject", "skip", "keep"]), default="reject", show_default=True, help="What to do with a request_id that came before."),
        click.option("--order", type=click.Choice(["arrival", "file"]), default="arrival", show_default=True, help="Order of the requests."),
        click.option("--map", "map_", metavar="FILE", type=click.Path(dir_okay=False), default=None, help="A TOML file that names the fields of a log of your own (format mapping)."),
        click.option("--format", "format_", metavar="NAME", default=None, help="Format of the logs.  [default: told by content]"),
    ):  # fmt: skip
        function = option(function)
    return function


def tokenizer_options(function: F) -> F:
    """Which tokenizer and chat template turn text into token ids."""
    for option in (
        click.option("--cut-prompts", is_flag=True, help="Measure prompts that the logger cut, too, as far as they go."),
        click.option("--chat-template", metavar="FILE", type=click.Path(dir_okay=False), default=None, help="A Jinja chat template, in place of the tokenizer's own."),
        click.option("--tokenizer", metavar="FILE|DIR|NAME", default=None, help="tokenizer.json, a model folder, or a name on the Hugging Face hub.  [default: DeepSeek-V4, for estimates]"),
    ):  # fmt: skip
        function = option(function)
    return function


_factors = click.option(
    "--factors",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    default=None,
    help="How fast your engines are: what traceprof calibrate wrote.",
)
_precision = click.option(
    "--precision",
    metavar="TYPE",
    default=None,
    help="Type of the weights: bf16, fp8, int4, q4_k_m, ...  [default: the model's own]",
)
_gpu = click.option(
    "--gpu",
    metavar="NAME",
    default=None,
    help="The card: h100, a100, l40s, mi300x, apple-m4-pro, cpu, ...  [default: h100]",
)


def machine_options(function: F) -> F:
    """What the engines' caches are sized for."""
    for option in (
        click.option("--capacity-tokens", type=click.IntRange(1), default=None, help="KV tokens of each engine, as it says at its start.  [default: from memory and weights]"),
        click.option("--weights", metavar="SIZE", default=None, help="What the weights take.  [default: as stored beside the config, or counted from its shapes]"),
        click.option("--kv-dtype", metavar="TYPE", default="auto", show_default=True, help="Type of the KV cache: fp8, bfloat16, q8_0, ..."),
        click.option("--model-config", metavar="FILE|DIR", default=None, help="The config.json of the model.  [default: Llama-3.1-8B]"),
        click.option("--gpus", type=click.IntRange(1), default=1, show_default=True, help="GPUs that share the model (tensor parallelism)."),
        click.option("--gpu-memory", metavar="SIZE", default=None, help="Memory of one GPU: 24GB, 80GB, 96GiB, ...  [default: 80GB]"),
    ):  # fmt: skip
        function = option(function)
    return function


def simulation_options(function: F) -> F:
    """What engines are simulated on, beside `machine_options`."""
    for option in (
        click.option("--simulate/--no-simulate", default=True, show_default=True, help="Run the traffic through engines in virtual time."),
        _factors, _precision, _gpu,
    ):  # fmt: skip
        function = option(function)
    return function


SIMULATION = ("gpu", "precision", "factors", "simulate")


def machines(words: dict[str, Any]) -> tuple[Machine, Virtual, Constraints]:
    """What `machine_options`, `simulation_options` and `constraint_options` say, which it takes out of the words."""
    from traceprof.errors import TraceprofError, UsageError
    from traceprof.lab import Machine
    from traceprof.profiler import Virtual
    from traceprof.simulate.hardware import card
    from traceprof.simulate.host import HARDWARE, Host, of_memory
    from traceprof.simulate.study import Objectives
    from traceprof.verdict import Constraints

    said = {name: words.pop(name) for name in MACHINE}
    of = {name: words.pop(name) for name in SIMULATION}
    constraints = Constraints.of(**{name: words.pop(name) for name in CONSTRAINTS})
    gpu = of["gpu"]
    if gpu is None and said["gpu_memory"] is None and constraints.hardware is not None:
        gpu = HARDWARE[constraints.hardware]
    if gpu is not None and constraints.hardware not in (None, card(gpu).vendor):
        raise UsageError(f"--gpu {gpu} is no {constraints.hardware} hardware", remedy="leave one of them out")
    if gpu is not None and said["gpu_memory"] is None:
        chosen = card(gpu)
        machine = Machine.of(**{**said, "gpu_memory": str(chosen.memory_bytes)}, label=chosen.label)
    else:
        machine = Machine.of(**said)
    objectives = Objectives.of(constraints.slo)
    if not of["simulate"]:
        return machine, Virtual(None, "it was asked not to: --no-simulate"), constraints
    if gpu is None and said["gpu_memory"] is not None:
        gpu = of_memory(said["gpu_memory"])
    if gpu is None and said["gpu_memory"] is not None:
        return (
            machine,
            Virtual(None, f"no card with {said['gpu_memory']} is known: name one with --gpu"),
            constraints,
        )
    try:
        host = Host.of(
            gpu,
            said["gpus"],
            said["model_config"],
            of["precision"],
            said["kv_dtype"],
            said["capacity_tokens"],
            of["factors"],
        )
    except TraceprofError as bad:
        if of["gpu"] or of["precision"] or of["factors"] or isinstance(bad, UsageError):
            raise
        return machine, Virtual(None, str(bad)), constraints
    return machine, Virtual(host, None, objectives), constraints


slo_option = click.option(
    "--slo", metavar="LIMITS", default=None, help="What is fast enough: ttft=500ms,tpot=50ms (also e2e)."
)


def virtual_options(function: F) -> F:
    """What engines are simulated on."""
    for option in (
        _factors,
        click.option("--capacity-tokens", type=click.IntRange(1), default=None, help="KV tokens of each engine, as it says at its start.  [default: from memory and weights]"),
        click.option("--kv-dtype", metavar="TYPE", default="auto", show_default=True, help="Type of the KV cache: fp8, bfloat16, q8_0, ..."),
        _precision,
        click.option("--model-config", metavar="FILE|DIR|NAME", default=None, help="The config.json of the model, or a name: Llama-3.3-70B.  [default: Llama-3.1-8B]"),
        click.option("--gpus", type=click.IntRange(1), default=1, show_default=True, help="GPUs that share the model (tensor parallelism)."),
        _gpu,
    ):  # fmt: skip
        function = option(function)
    return function


def host(words: dict[str, Any]) -> Host:
    """What `virtual_options` say."""
    from traceprof.simulate.host import Host

    names = ("gpu", "gpus", "precision", "kv_dtype", "capacity_tokens", "factors")
    return Host.of(model=words.pop("model_config"), **{name: words.pop(name) for name in names})


def constraint_options(function: F) -> F:
    """What the team says to the verdict."""
    return team_options(slo_option(function))


def team_options(function: F) -> F:
    """The same, but for objectives."""
    for option in (
        click.option("--ops-team", is_flag=True, help="There is a team that builds and tunes engines."),
        click.option("--hardware", type=click.Choice(["nvidia", "amd", "apple", "cpu"]), default=None, help="What it is to run on."),
    ):  # fmt: skip
        function = option(function)
    return function


CONSTRAINTS = ("hardware", "ops_team", "slo")

MACHINE = ("gpu_memory", "gpus", "model_config", "kv_dtype", "weights", "capacity_tokens")


def jobs_or_cores(jobs: int | None) -> int:
    """The number of worker processes: what was asked, or one a core."""
    return (
        jobs or len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else jobs or os.cpu_count() or 1
    )


def make_options(
    format_: str | None,
    order: str,
    duplicates: str,
    block_size: int | None,
    map_: str | None,
    max_record_bytes: int,
    resume: bool,
    jobs: int | None,
) -> Options:
    """The ingest options of the command line."""
    from traceprof.ingest import Options

    return Options(
        format=format_,
        order=order,
        duplicates=duplicates,
        block_size=block_size,
        map=map_,
        max_record_bytes=max_record_bytes,
        resume=resume,
        jobs=jobs_or_cores(jobs),
    )


def strict_exit(strict: bool, rejects: int) -> int:
    """3 when records were rejected and the user wants to know by exit code."""
    return 3 if strict and rejects else 0


def print_json(value: Any) -> None:
    """The machine-readable result, on stdout."""
    import orjson

    sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n")
    sys.stdout.buffer.flush()


@contextlib.contextmanager
def progress(quiet: bool) -> Iterator[Progress | None]:
    """A bar a step on a terminal, nothing in a pipe."""
    with bars(quiet) as shown:
        if shown is None:
            yield None
            return
        known: dict[str, Any] = {}

        def say(what: str, done: float, total: float) -> None:
            if what not in known:
                known[what] = shown.add_task(what, total=total)
            shown.update(known[what], completed=done, total=total)

        yield say


@contextlib.contextmanager
def bars(quiet: bool) -> Iterator[Bars | None]:
    """Where bars are drawn; None in a pipe."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        yield shown


def check_requests(manifest: dict[str, Any], trace: str) -> None:
    """Nothing to profile is an error, which says why."""
    if manifest["requests"]:
        return
    from traceprof.errors import TraceprofError

    counted = {**manifest["rejects_by_reason"], **manifest["skipped_by_reason"]}
    why = ", ".join(f"{n:,} {reason}" for reason, n in list(counted.items())[:4])
    remedy = f"see {trace}/rejects" if manifest["rejects"] else "see: traceprof formats"
    raise TraceprofError(f"none of {manifest['records_in']:,} records is a request ({why})", remedy=remedy)


def say_template_errors(errors: dict[str, int]) -> None:
    """Prompts without tokens, and why, on stderr."""
    for reason, n in list(errors.items())[:3]:
        click.echo(f"{n:,} {'request has' if n == 1 else 'requests have'} no tokens: {reason}", err=True)


def say_rejects(manifest: dict[str, Any], trace: str) -> None:
    """One line on stderr about records that could not be used, and about files that could not be read."""
    if manifest["rejects"]:
        what = "record" if manifest["rejects"] == 1 else "records"
        why = ", ".join(f"{n:,} {reason}" for reason, n in list(manifest["rejects_by_reason"].items())[:4])
        click.echo(f"{manifest['rejects']:,} {what} rejected ({why}):", err=True)
        for line in first_rejects(trace):
            click.echo(f"  {line}", err=True)
        click.echo(f"  all of them: traceprof inspect {trace} --rejects", err=True)
    unread = [s for s in manifest["sources"] if s["format"] is None]
    if unread:
        # what may well be a log first, what people keep beside logs last
        unread.sort(
            key=lambda s: ("no known format" not in s["detected_by"], s["file"].endswith((".md", "LICENSE")))
        )
        click.echo(f"{len(unread)} {'file' if len(unread) == 1 else 'files'} not read:", err=True)
        for one in unread[:_SHOWN]:
            click.echo(f"  {one['file']}: {one['detected_by']}", err=True)
        if len(unread) > _SHOWN:
            click.echo(f"  and {len(unread) - _SHOWN} more: {trace}/manifest.json, sources", err=True)


_SHOWN = 3


def first_rejects(trace: str, most: int = _SHOWN) -> list[str]:
    """The first rejected records of a trace, a line each: file, line, reason, detail."""
    from traceprof.trace import Trace

    found = Trace(trace).scan("rejects").head(most).collect()
    wanted = ("source_file", "source_row", "reason", "detail")
    return [
        f"{file}:{row}: {reason.replace('_', ' ')}, {detail}"
        for file, row, reason, detail in found.select(wanted).iter_rows()
    ]


def show(profile: dict[str, Any], report: Path | None = None) -> None:
    """The summary of a profile, for people."""
    from rich.console import Console

    from traceprof.report.terminal import summary

    summary(profile, Console(), report)
