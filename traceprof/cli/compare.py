"""`traceprof compare`: engines side by side on the same workloads, and which one they favour."""

from __future__ import annotations

import click

from traceprof.cli import options as opt


@click.command(name="compare")
@click.argument("results", nargs=-1, required=True, metavar="RESULTS...")
@click.option(
    "-o",
    "--out",
    default=None,
    metavar="FILE",
    help="Where the comparison goes.  [default: comparison.json in the first RESULTS]",
)
@click.option(
    "--slo",
    metavar="LIMITS",
    default=None,
    help="What is fast enough for a request: ttft=500ms,tpot=50ms (also e2e).  [default: the scenario's]",
)
@click.option(
    "--price",
    "prices",
    multiple=True,
    metavar="NAME=USD_PER_HOUR",
    help="What the machine of an engine costs an hour (repeatable).",
)
@click.option(
    "--gpu",
    metavar="NAME",
    default=None,
    help="GPU of all other engines, at its dated list price: h100, a100, ...",
)
@click.option(
    "--gpus", type=click.IntRange(1), default=1, show_default=True, help="How many of them an engine has."
)
@click.option(
    "--margin",
    type=click.FloatRange(0, 1),
    default=None,
    help="Differences below this share are of no matter.  [default: 0.05; 0.1 where it was simulated]",
)
@click.option(
    "--level",
    type=click.FloatRange(0, 0.5, min_open=True),
    default=0.05,
    show_default=True,
    help="Chance of a false winner.",
)
@click.option(
    "--profile",
    metavar="PROFILE",
    default=None,
    help="Profile of the traffic: its verdict then rests on this comparison.",
)
@opt.team_options
@opt.json_option
@opt.quiet_option
def command(
    results: tuple[str, ...],
    out: str | None,
    slo: str | None,
    prices: tuple[str, ...],
    gpu: str | None,
    gpus: int,
    margin: float | None,
    level: float,
    profile: str | None,
    hardware: str | None,
    ops_team: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Hold the engines of one or more RESULTS against each other, pair by pair and request by request.

    RESULTS are folders of traceprof replay or simulate. Every difference comes with an interval; below the margin there is none, and where
    too little was measured it says so. With --profile, profile.json gets a verdict that rests on it: make the report anew then.

    \b
    traceprof compare results
    traceprof compare results --slo ttft=500ms,tpot=50ms --gpu h100
    traceprof compare results --profile out/profile
    traceprof compare monday tuesday --price vllm=2.50 --price sglang=2.50 -o comparison.json
    """  # fmt: skip
    from pathlib import Path

    from traceprof.compare import Options, compare, write
    from traceprof.latency import parse_slo

    limits = parse_slo(slo) if slo else {}
    paths = [Path(word) for word in results]
    found = compare(paths, Options(limits, margin, level, dict(map(_price, prices)), gpu, gpus))
    file = Path(out) if out else paths[0] / "comparison.json"
    whole = None
    if profile is not None:
        from traceprof.profiler import judge_again
        from traceprof.verdict import Constraints

        whole = judge_again(profile, found, Constraints(hardware, ops_team, limits or None))
        found["verdict"] = whole["verdict"]
    write(found, file)
    if as_json:
        opt.print_json(found)
    elif not quiet:
        from rich.console import Console

        from traceprof.report.compared import compared

        compared(found, Console(), file)
        if whole is not None:
            from traceprof.report.terminal import Page, verdict_section

            verdict_section(whole, Page(Console()))


def _price(word: str) -> tuple[str, float]:
    """`NAME=USD_PER_HOUR`."""
    from traceprof.errors import UsageError

    name, _, amount = word.rpartition("=")
    try:
        value = float(amount.removeprefix("$"))
    except ValueError:
        value = -1.0
    if not name or not 0 <= value < float("inf"):
        raise UsageError(f"--price {word} is no price", remedy="write --price vllm=2.50")
    return name, value
