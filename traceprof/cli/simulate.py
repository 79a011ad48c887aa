"""`traceprof simulate`: engines in virtual time, on hardware that nobody has to rent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from traceprof.cli import options as opt

if TYPE_CHECKING:
    from traceprof.simulate.host import Host
    from traceprof.simulate.study import Objectives


@click.command(name="simulate")
@click.argument("paths", metavar="TRACE|WORKLOAD...", nargs=-1)
@click.option("--engine", "engines", multiple=True, metavar="NAME", help="Only this engine (repeatable).  [default: those that are usual on the hardware]")  # fmt: skip
@click.option("-o", "--out", metavar="RESULTS", default=None, type=click.Path(file_okay=False), help="Results folder, as replay writes it: traceprof compare reads it.")  # fmt: skip
@click.option("--mode", type=click.Choice(["partly-open", "open", "closed"]), default="partly-open", show_default=True, help="Of workloads: as in replay.")  # fmt: skip
@click.option(
    "--concurrency", type=click.IntRange(0), default=0, help="Requests at once, with --mode closed."
)
@click.option("--speed", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="So many times as fast.")  # fmt: skip
@click.option("--max-seqs", type=click.IntRange(1), default=None, help="Sequences that every engine runs at once.  [default: the engine's own]")  # fmt: skip
@opt.slo_option
@opt.virtual_options
@click.option("--serve", "serving", is_flag=True, help="Answer as the one --engine would, in real time: a server to try a replay on.")  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Of --serve; 0: any that is free.")  # fmt: skip
@click.option("--tokenizer", metavar="FILE|DIR|NAME", default=None, help="Of --serve: how it splits text.  [default: pieces of words, which are other lengths than a model's]")  # fmt: skip
@opt.json_option
@opt.quiet_option
def command(
    paths: tuple[str, ...], engines: tuple[str, ...], out: str | None, slo: str | None, serving: bool, port: int, tokenizer: str | None, as_json: bool, quiet: bool, **words: Any,
) -> int:  # fmt: skip
    """Run traffic through engines in virtual time: their schedulers, caches and steps on the hardware that you name.

    Of a TRACE the busiest stretch is run, and pressed together until the objectives no longer hold. WORKLOADs are run as a replay would
    send them. Cards: h100, h200, a100, l40s, b200, mi300x, apple-m4-pro, ..., cpu. Models: a config.json, or a name such as Llama-3.3-70B.

    \b
    traceprof simulate trace --gpu h100 --model-config ./my-model --slo ttft=1s,tpot=50ms
    traceprof simulate shared.parquet unique.parquet --engine vllm --engine sglang -o results
    traceprof simulate --serve --engine vllm --port 8000
    """  # fmt: skip
    from traceprof.errors import UsageError
    from traceprof.latency import parse_slo
    from traceprof.simulate.study import Objectives

    host = opt.host(words)._replace(max_seqs=words.pop("max_seqs"))
    names = _names(engines, host)
    objectives = Objectives.of(parse_slo(slo) if slo else None)
    if serving:
        if paths or len(engines) != 1:
            raise UsageError("--serve answers as one engine", remedy="give one --engine and no TRACE")
        return _serve(names[0], host, port, tokenizer, quiet)
    if not paths:
        raise UsageError("nothing to run", remedy="give a TRACE or a WORKLOAD, or --serve")
    if all(Path(path).is_dir() for path in paths):
        if len(paths) > 1:
            raise UsageError("one TRACE at a time", remedy="traceprof simulate TRACE")
        _only_for(("mode", "concurrency", "speed"), "a WORKLOAD")
        return _trace(paths[0], names, host, objectives, out, as_json, quiet)
    _only_for(("slo",), "a TRACE")
    return _workloads(paths, names, host, words, out, as_json, quiet)


def _only_for(options: tuple[str, ...], what: str) -> None:
    """Refuse options that would do nothing."""
    from traceprof.errors import UsageError

    context = click.get_current_context()
    for name in options:
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            raise UsageError(f"--{name} is for {what}", remedy="leave it out")


def _names(engines: tuple[str, ...], host: Host) -> tuple[str, ...]:
    """Names of cache models; a name that people write otherwise is understood."""
    import difflib

    from traceprof.errors import UsageError
    from traceprof.simulate.schedulers import ENGINES

    found = []
    for name in engines:
        key = name.lower().replace("-", "_").replace(".", "")
        if key not in ENGINES:
            near = difflib.get_close_matches(key, ENGINES, 1)
            raise UsageError(f"{name} is not simulated", remedy=f"did you mean {near[0]}?" if near else "one of " + ", ".join(ENGINES))  # fmt: skip
        host.scheduler(key)
        found.append(key)
    return tuple(dict.fromkeys(found)) or host.engines


def _trace(path: str, names: tuple[str, ...], host: Host, objectives: Objectives, out: str | None, as_json: bool, quiet: bool) -> int:  # fmt: skip
    from traceprof.profiler import open_pools
    from traceprof.results import check_free
    from traceprof.simulate.study import study
    from traceprof.trace import Trace

    if out is not None:
        check_free(Path(out))
    with opt.progress(quiet or as_json) as say:
        found, ids = open_pools(Trace(path), say)
        told = study(
            found.pools,
            host,
            objectives,
            names,
            prefixes_known=found.prefixes_known,
            how=found.how,
            progress=say,
        )
        if out is not None:
            from traceprof.simulate.results import simulate, without_prompts
            from traceprof.simulate.study import Stretch

            folder = Path(out)
            made, traffics = [], []
            for n, (pool, rows) in enumerate(zip(found.pools, found.rows, strict=True)):
                whole = Stretch.whole(pool)
                traffics.append(whole.traffic)
                made.append(
                    without_prompts(folder / f"workload-{n}.parquet", whole, ids[rows.tolist()].to_list())
                )
            simulate(made, names, host, folder, progress=say, traffics=traffics)
    assert told is not None
    if as_json:
        opt.print_json(told)
    elif not quiet:
        from rich.console import Console

        from traceprof.report.sections.simulated import simulated

        simulated(told, Console(), out)
    return 0


def _workloads(paths: tuple[str, ...], names: tuple[str, ...], host: Host, words: dict[str, Any], out: str | None, as_json: bool, quiet: bool) -> int:  # fmt: skip
    import tempfile

    from traceprof.simulate.results import Ask, simulate
    from traceprof.workloads import Workload

    workloads = [Workload(path) for path in paths]
    ask = Ask(**{name: words[name] for name in Ask._fields})
    with tempfile.TemporaryDirectory() as nowhere, opt.progress(quiet or as_json) as say:
        results = simulate(workloads, names, host, Path(out or nowhere), ask, say)
        if as_json:
            opt.print_json({**results.manifest, "results": [run.told() for run in results.runs]})
        elif not quiet:
            from rich.console import Console

            from traceprof.report.replayed import replayed

            replayed(results, Console())
    return 0


def _serve(name: str, host: Host, port: int, tokenizer: str | None, quiet: bool) -> int:
    from traceprof.caches import engine
    from traceprof.simulate.live_prompts import Exact
    from traceprof.simulate.serve import serve
    from traceprof.tokenizer import load

    def began(url: str) -> None:
        if not quiet:
            click.echo(
                f"A virtual {engine(name).LABEL}, as fast as {host.label}: {url}\nCtrl-C ends it.", err=True
            )

    prompts = Exact(load(tokenizer)) if tokenizer else None
    serve(
        name, host.costs(name), host.scheduler(name), host.capacity_tokens, port=port, model=host.shape.name, tokenizer=prompts, began=began
    )  # fmt: skip
    return 0
