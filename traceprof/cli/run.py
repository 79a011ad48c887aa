"""`traceprof run`: the main job, from logs to the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from traceprof.cli import options as opt
from traceprof.cli import private


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
@private.privacy_options
@opt.tokenizer_options
@opt.machine_options
@opt.simulation_options
@opt.constraint_options
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
    """Ingest, tokenize, profile and report in one go.

    LOG is a file, a folder, a glob, a URL (s3, gs, az), or - for stdin; plain, .gz, .zst, .bz2 or .xz.
    Leaves OUT/trace (Parquet), OUT/profile/profile.json and OUT/report.html.

    \b
    traceprof run chat.jsonl.gz -o out --tokenizer ./my-model
    """
    from concurrent.futures import ThreadPoolExecutor

    from traceprof.profiler import profile
    from traceprof.report.output import write
    from traceprof.tokens import loaded, tokenize
    from traceprof.workers import give_back_memory, keep_memory

    keep_memory()
    folder = Path(out)
    kept = private.taken(words)
    machine, virtual, constraints = opt.machines(words)  # before an hour of reading
    settings = opt.make_options(**words)
    if kept.tokenizer or kept.chat_template:  # a wrong path is told before an hour of reading
        loaded(kept.tokenizer, kept.chat_template)
    with opt.progress(quiet or as_json) as say, ThreadPoolExecutor(1) as beside:
        if _bytes(logs) > _LARGE:
            beside.submit(_warm_up, kept.tokenizer, kept.chat_template)
        trace, info = private.make_trace(
            logs,
            folder / "trace",
            settings,
            say,
            kept,
        )
        opt.check_requests(trace.manifest, str(trace.path))
        if kept.privacy == "text":
            model = kept.tokenizer, kept.chat_template
            info = tokenize(trace, *model, cut_prompts=kept.cut_prompts, jobs=settings.jobs, progress=say)
        give_back_memory()
        found = profile(
            trace, folder / "profile", machine=machine, virtual=virtual, constraints=constraints, progress=say
        )
        report = folder / "report.html"
        write(folder / "profile", report)
    if as_json:
        opt.print_json(found)
    elif not quiet:
        opt.show(found, report)
        opt.say_rejects(trace.manifest, str(trace.path))
        opt.say_template_errors(info.errors if info else {})
    return opt.strict_exit(strict, trace.manifest["rejects"])


_LARGE = 32 << 20  # bytes of log, from which start-up of the later steps is worth doing beside the reading


def _bytes(logs: tuple[str, ...]) -> int:
    """Size of the files that are named as such."""
    return sum(Path(log).stat().st_size for log in logs if Path(log).is_file())


def _warm_up(tokenizer: str | None, chat_template: str | None) -> None:
    """Load what the later steps begin with while the workers read: tokenizer, kernels, charts."""
    from traceprof.caches import infinite
    from traceprof.caches.traffic import Traffic
    from traceprof.prefix.tree import RadixTree, sequences
    from traceprof.tokens import loaded

    if tokenizer is None and chat_template is None:
        assert loaded(None, None).backend
    tiny = sequences([[1, 2], [1]])
    RadixTree(reuse=True).insert(*tiny)
    RadixTree().insert(*tiny)
    infinite.hits_with_outputs(Traffic.of_lists([([1, 2], [3], 0, 1)]))
    import traceprof.report.charts  # noqa: F401
