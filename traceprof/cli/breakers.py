"""`traceprof breakers`: what in the prompts keeps them from sharing, and what each remedy would save."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from traceprof.cli import options as opt

if TYPE_CHECKING:
    from traceprof.remedies import Breakers

_PREVIEWS = 3  # requests whose text is shown for each finding


@click.command(name="breakers")
@click.argument("trace", metavar="TRACE")
@click.option(
    "--fix-preview", is_flag=True, help="Show the text before and after the remedy, of a few requests each."
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=None,
    metavar="N",
    help="Measure only the first N requests.  [default: all]",
)
@opt.json_option
@opt.quiet_option
def command(trace: str, fix_preview: bool, limit: int | None, as_json: bool, quiet: bool) -> None:
    """List what in the prompts costs them shared prefix: where it is, what is lost by it, what to change.

    What a remedy saves is measured: the prompts are changed as it says, tokenized again, and compared again.

    \b
    traceprof breakers trace
    traceprof breakers trace --fix-preview
    """  # fmt: skip
    from traceprof.errors import TraceprofError
    from traceprof.remedies import find_breakers, previews
    from traceprof.trace import open_trace

    opened = open_trace(trace)
    opt.check_requests(opened.manifest, str(opened.path))
    if not opened.parts("tokens"):
        text = bool(opened.parts("content"))
        raise TraceprofError(
            "the trace has text but no tokens yet" if text else "nothing in the trace identifies a prompt",
            path=opened.path,
            remedy=f"run: traceprof tokenize {opened.path}" if text else "see: traceprof inspect",
        )
    with opt.progress(quiet or as_json) as say:
        found = find_breakers(opened, limit_requests=limit, progress=say)
        shown = None
        if fix_preview:
            shown = previews(opened, found.findings, _PREVIEWS, limit_requests=limit)
    if as_json:
        opt.print_json(_as_dict(found, shown))
    elif not quiet:
        _print(found, shown)


def _as_dict(found: Breakers, shown: list[list[tuple[str, str]]] | None) -> dict[str, Any]:
    """What was found, for machines; `preview` stands with each finding where it was asked for."""
    findings = [one._asdict() for one in found.findings]
    for one, pairs in zip(findings, shown or [], strict=False):
        one["preview"] = [{"before": before, "after": after} for before, after in pairs]
    return {**found._asdict(), "findings": findings}


def _print(found: Breakers, shown: list[list[tuple[str, str]]] | None) -> None:
    """A table of the findings, each with its remedy below it; text of the log is printed as text and nothing else."""
    from rich.console import Console

    from traceprof.report.terminal import Page
    from traceprof.report.words import clean, percent, plural, short

    page = Page(Console())
    if not found.findings:
        page.prose(f"Nothing that is worth a change was found ({found.how}).")
        return
    alone = len(found.findings) == 1
    page.prose(
        f"{plural(len(found.findings), 'thing')} in the prompts {'costs' if alone else 'cost'} shared prefix: "
        f"{short(found.together)} tokens{'' if alone else ' together'}. "
        f"The hit rate is {percent(found.findings[0].hit_rate_before)}.",
        "bold",
    )
    page.prose(f"Cache without limit, {found.how}.", "dim")
    page.line()
    page.line(page.text(f"  {'lost':>9} {'requests':>9} {'hit rate':>9}  what, and where", "dim"))
    for number, one in enumerate(found.findings):
        row = page.text(
            f"  {short(one.lost_tokens):>9} {short(one.requests):>9} {percent(one.hit_rate_after):>9}  "
        )
        row.append(one.kind.replace("_", " "), "bold")
        row.append(f"  {clean(one.where)}")
        row.truncate(page.width, overflow="ellipsis")
        page.line(row)
        page.prose(clean(one.remedy, 600), indent=_INDENT)
        for before, after in shown[number] if shown else ():
            for label, text in (("before", before), ("after", after)):
                page.prose(clean(text) or "(nothing)", "dim", indent=_INDENT, first=f"{label:7} ")
        if shown and not shown[number]:
            page.prose(
                "no text to show: the place is not in a text, or the trace holds none", "dim", indent=_INDENT
            )
    if shown is None:
        page.line()
        page.prose("See what a remedy changes with --fix-preview.", "dim")


_INDENT = 12  # of what stands below a finding
