"""Engines in virtual time for a console: a line an engine, and what these figures rest on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from traceprof.report.terminal import Page
from traceprof.report.words import at, clean, number, percent, rows_of, table_of

if TYPE_CHECKING:
    from rich.console import Console

Told = Mapping[str, Any]
NAME = 17  # characters of an engine's name
COLUMNS = ("hit", "ttft p50", "p99", "tpot p50", "in SLO", "req/s max", "GPUs", "$/M tok")
WIDTHS = (7, 9, 8, 9, 7, 10, 6, 8)  # 80 columns with the name


def simulated(told: Told, console: Console, results: str | None = None) -> None:
    """Print `simulation` of a profile."""
    page = Page(console)
    machine = table_of(told, "machine")
    page.head("Engines in virtual time", clean(at(machine, "label"), 60))
    table(told, page)
    page.line()
    page.prose(basis(told))
    for assumption in rows_of(told, "assumptions"):
        page.prose(clean(assumption, 400), "dim", first="  ")
    if results is not None:
        page.line()
        page.line(page.text().append("Results", "bold").append(f"  {clean(results, 4096)}"), whole=True)


def table(told: Told, page: Page) -> None:
    """A line an engine, by the rate that it carries."""
    page.line(page.text(f"  {'':{NAME}}" + _row(COLUMNS), "dim"))
    gpus = at(told, "machine", "gpus") or 1
    for one in by_rate(told):
        cells = (
            percent(at(one, "hit_rate")), _time(at(one, "ttft", "p50")), _time(at(one, "ttft", "p99")), _time(at(one, "tpot", "p50")),
            percent(at(one, "slo_share")), _rate(at(one, "max_rate_per_s")),
            "-" if at(one, "replicas") is None else number(at(one, "replicas") * gpus), _dollars(at(one, "usd_per_million_tokens")),
        )  # fmt: skip
        page.line(page.text(f"  {clean(at(one, 'label'), NAME):{NAME}}" + _row(cells)))


def by_rate(told: Told) -> list[Told]:
    """Engines, those that carry most first."""
    engines = [one for one in table_of(told, "engines").values() if isinstance(one, Mapping)]
    return sorted(engines, key=lambda one: (-(at(one, "max_speed") or 0.0), -(at(one, "slo_share") or 0.0)))


def basis(told: Told) -> str:
    """What was run, and what for."""
    quantile = at(told, "slo", "quantile")
    whose = "as given" if at(told, "slo", "given") else "by default"
    return (
        f"Run was {clean(at(told, 'window'), 200)}. A rate holds while {percent(quantile)} of requests keep to "
        f"{clean(at(told, 'slo', 'words'), 200)} ({whose}). GPUs are those that the recorded rate takes."
    )


def _row(cells: tuple[str, ...]) -> str:
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True))


def _time(seconds: float | None) -> str:
    """In three digits.

    >>> _time(0.0123), _time(1.5), _time(1234.0), _time(None)
    ('12 ms', '1.5 s', '21 min', '-')
    """
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{1000 * seconds:.{1 if seconds < 0.01 else 0}f} ms"
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _rate(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.3g}" if rate < 1000 else number(round(rate))


def _dollars(usd: float | None) -> str:
    return "-" if usd is None else f"{usd:.2f}" if usd < 1000 else number(round(usd))
