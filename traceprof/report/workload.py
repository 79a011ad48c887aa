"""A workload, or a file of another tool that was made of one, in short, for a console."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from traceprof.report.terminal import Page
from traceprof.report.words import (
    Profile,
    at,
    clean,
    count,
    duration,
    engine_name,
    percent,
    plural,
    rows_of,
    short,
    table_of,
)
from traceprof.workloads import sent_as

if TYPE_CHECKING:
    from rich.console import Console

    from traceprof.workload.exports import Exported

NOTE = 400  # characters of a note
BAR = 16


def made(meta: Profile, path: str, console: Console, labels: dict[str, str]) -> None:
    """Print what a workload is, from its metadata: `path` is where it is, `labels` are the names of the engines' caches."""
    page = Page(console)
    page.line(
        page.text(clean(path, 4096), "bold").append(
            f"  {clean(at(meta, 'variant'), 20)}, {plural(at(meta, 'requests'), 'request')} "
            f"{sent_as(table_of(meta, 'endpoints'))}",
            "dim",
        ),
        whole=True,
    )
    page.prose(
        f"{plural(at(meta, 'sessions'), 'session')} over {duration((at(meta, 'span_us') or 0) / 1e6)}; "
        f"{count(at(meta, 'input_tokens'))} input and {count(at(meta, 'output_tokens'))} output tokens of {clean(at(meta, 'tokenizer', 'name'))}"
    )
    page.prose(f"prompts: {clean(at(meta, 'prompts'), NOTE)}")
    steps = rows_of(meta, "steps")
    for left in rows_of(steps[0], "left_out") if steps else ():
        page.prose(
            f"left out: {plural(at(left, 'requests'), 'request')}, {clean(at(left, 'reason'), NOTE)}",
            first="- ",
        )
    for note in rows_of(meta, "notes"):
        page.prose(clean(note, NOTE), first="- ")
    _steps(steps, page)
    _expected(meta, page, labels)


def _steps(steps: Sequence[Profile], page: Page) -> None:
    """What was done to the trace, with what each step left of its sharing."""
    page.head("Steps", "hit rate of the trace's prompts, cache without limit")
    for step in steps:
        page.line(
            f"  {clean(at(step, 'step'), 20):21}{plural(at(step, 'requests'), 'request'):>18}{_rate(at(step, 'hit_rate')):>9}"
        )


def _expected(meta: Profile, page: Page, labels: dict[str, str]) -> None:
    """The hit rates that engines are to show."""
    size = short(at(meta, "machine", "capacity_tokens"))
    page.head(
        "Hit rate of the workload",
        f"{_rate(at(meta, 'hit_rate'))} without limit (the trace: {_rate(at(meta, 'trace_hit_rate'))})",
    )
    page.line(
        page.text(
            f"  to expect of engines with {size} KV tokens: {clean(at(meta, 'machine', 'label'), 40)}", "dim"
        )
    )
    for name in table_of(meta, "expected"):
        rate = at(meta, "expected", name, "hit_rate")
        label = labels.get(name) or engine_name(name)
        row = page.text(f"  {label:21}{_rate(rate):>8}  ").append_text(page.bar(rate or 0.0, BAR))
        row.rstrip()
        page.line(row)
    warm = at(meta, "warmup", "requests")
    if warm and warm == at(meta, "requests"):
        page.prose("warm-up: every request, so that a replay measures none: a shorter --warmup", "yellow", 2)
    elif warm:
        first = "the first request is" if warm == 1 else f"the first {count(warm)} requests are"
        page.prose(f"warm-up: {first} sent, and in none of these rates", "dim", 2)
    if at(meta, "machine", "given") is False:
        page.prose(
            "Nobody said what it runs on: see --model-config, --gpu-memory, --capacity-tokens.", "dim", 2
        )


def exported(told: Exported, console: Console, *, of: int | None = None) -> None:
    """Print what a file for another tool lacks, and how to use it; `of`: requests of the workload, where that was told already."""
    page = Page(console)
    if of is None:
        page.line(
            page.text(clean(told.path, 4096), "bold").append(f"  {plural(told.requests, 'request')}", "dim"),
            whole=True,
        )
    page.line()
    if of is not None and told.requests < of:
        page.prose(f"in the file: {count(told.requests)} of {plural(of, 'request')}", first="- ")
    for left in told.left_out:
        page.prose(f"not in the file: {clean(left, NOTE)}", first="- ")
    page.line("use it with")
    page.line(told.command, whole=True)
    if told.model is None and "MODEL" in told.command:
        page.prose(
            "MODEL stands for the name under which the engine knows its model: --served-model NAME puts it there.",
            "yellow",
        )


def _rate(rate: float | None) -> str:
    return "unknown" if rate is None else percent(rate)
