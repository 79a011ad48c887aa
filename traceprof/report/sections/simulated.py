"""Engines in virtual time: a line an engine on a console, a section of the report, and what these figures rest on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from traceprof.report.parts import Cell, Chart, Section, Table, num, ratio
from traceprof.report.words import (
    MISSING,
    Profile,
    at,
    clean,
    count,
    dollars,
    duration,
    finite,
    number,
    percent,
    rows_of,
    table_of,
)

if TYPE_CHECKING:
    from rich.console import Console

    from traceprof.report.terminal import Page

Told = Mapping[str, Any]
NAME = 16  # characters of an engine's name
COLUMNS = ("hit", "ttft p50", "p99", "tpot", "in SLO", "max req/s", "GPUs", "$/M tok")
WIDTHS = (7, 9, 7, 7, 8, 10, 6, 8)  # 80 columns with the name
NONE_HOLDS = "none holds"
LONGEST = 20  # parts of the traffic that are shown


# --- console ----------------------------------------------------------------------------------------


def simulated(told: Told, console: Console, results: str | None = None) -> None:
    """Print `simulation` of a profile."""
    from traceprof.report.terminal import Page

    page = Page(console)
    page.head("Engines in virtual time", clean(at(told, "machine", "label"), 60))
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
    for one in by_rate(told).values():
        at_least = ">=" if at(one, "max_speed_capped") else ""
        cells = (
            _or_dash(percent(at(one, "hit_rate"))), _time(at(one, "ttft", "p50")), _time(at(one, "ttft", "p99")), _time(at(one, "tpot", "p50")),
            _or_dash(percent(at(one, "slo_share"))), at_least + _rate(at(one, "max_rate_per_s")),
            _or_dash(gpus(told, one)), _dollars(at(one, "usd_per_million_tokens")),
        )  # fmt: skip
        page.line(page.text(f"  {clean(at(one, 'label'), NAME):{NAME}}" + _row(cells)))


def by_rate(told: Told) -> dict[str, Told]:
    """Engines by name, those that carry most first."""
    engines = {name: one for name, one in table_of(told, "engines").items() if isinstance(one, Mapping)}
    return dict(
        sorted(
            engines.items(), key=lambda e: (-(at(e[1], "max_speed") or 0.0), -(at(e[1], "slo_share") or 0.0))
        )
    )


def basis(told: Told) -> str:
    """What was run, and what for."""
    quantile = at(told, "slo", "quantile")
    whose = "as given" if at(told, "slo", "given") else "by default"
    return (
        f"What was run: {clean(at(told, 'window'), 200)}. A rate holds while {_share(quantile)} of requests keep to "
        f"{clean(at(told, 'slo', 'words'), 200)} ({whose}). GPUs are those that the recorded rate takes."
    )


def gpus(told: Told, one: Told) -> str:
    """How many cards the recorded rate takes with an engine."""
    replicas = finite(at(one, "replicas"))
    return MISSING if replicas is None else count(replicas * (finite(at(told, "machine", "gpus")) or 1))


def _row(cells: tuple[str, ...]) -> str:
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True))


def _or_dash(text: str) -> str:
    return "-" if text == MISSING else text


def _share(value: object) -> str:
    """A share that somebody set, in as few digits as it has.

    >>> _share(0.99), _share(0.999), _share(None)
    ('99 %', '99.9 %', 'n/a')
    """
    return percent(value).replace(".0 %", " %")


def _time(seconds: float | None) -> str:
    """In few digits.

    >>> _time(0.0123), _time(1.5), _time(1234.0), _time(7076.0), _time(None)
    ('12 ms', '1.5 s', '21 min', '2.0 h', '-')
    """
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{1000 * seconds:.{1 if seconds < 0.01 else 0}f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _rate(rate: float | None) -> str:
    """Requests a second in three digits.

    >>> _rate(0.08390), _rate(1.0007), _rate(12345.6), _rate(0.0000123), _rate(None)
    ('0.0839', '1.00', '12,346', '1.2e-05', '-')
    """
    if rate is None:
        return "-"
    return (
        number(round(rate)) if rate >= 1000 else f"{rate:.2g}" if rate < 1e-4 else f"{rate:#.3g}".rstrip(".")
    )


def _dollars(usd: float | None) -> str:
    return "-" if usd is None else f"{usd:.2f}" if usd < 1000 else number(round(usd))


# --- report -----------------------------------------------------------------------------------------


def simulation_section(profile: Profile) -> Section | None:
    """What each engine would do with this traffic on the machine that was named."""
    told = table_of(profile, "simulation")
    if not by_rate(told):
        return None
    return Section("virtual", "Engines in virtual time", list(_parts(told)))


def _parts(told: Told) -> Iterator[str | Table | Chart]:
    machine = clean(at(told, "machine", "label"), 100)
    assumed = (
        ""
        if at(told, "machine", "given")
        else " That machine is assumed: name yours with `--gpu` and `--model-config`."
    )
    yield (
        f"This traffic went through a model of each engine's scheduler and prefix cache, step by step, on {machine}. "
        f"It is computed, not measured.{assumed}"
    )
    yield basis(told)
    yield Chart(
        "slo_by_rate",
        "Requests within the objectives by rate",
        "Share of requests within the objectives when the same traffic comes faster or slower than recorded. Each point was "
        "run; the dashed line stands at the recorded rate.",
    )
    yield _engines(told)
    engines = by_rate(told).values()
    if overloaded := sum((finite(at(one, "max_speed")) or 0.0) < 1 for one in engines):
        who = "Every engine" if overloaded == len(engines) else "An engine that takes several"
        yield f"{who} falls behind on one machine at the recorded rate: its TTFT is mostly waiting."
    yield from _apart(told)
    if assumptions := [clean(one, 600) for one in rows_of(told, "assumptions")]:
        yield Table(
            "What this rests on",
            ("Assumption",),
            [(Cell(f"{one[:1].upper()}{one[1:]}."),) for one in assumptions],
        )
    yield Table(
        "How fast each engine is taken to be, and where that is from",
        ("Engine", "Cold start", "Source"),
        [
            (Cell(clean(at(one, "label"), 40)), num(duration(at(one, "cold_start_s"))), Cell(clean(at(one, "source"), 600)))
            for one in engines
        ],
    )  # fmt: skip


def _engines(told: Told) -> Table:
    """All figures of all engines; the rate of unique prompts beside that of the traffic as it is."""
    unique = table_of(told, "unique")
    rows = []
    for name, one in by_rate(told).items():
        rate, speed = finite(at(one, "requests_per_s")), finite(at(unique, name, "max_speed"))
        alone = num(NONE_HOLDS if speed is None or rate is None else _rate(rate * speed))
        rows.append(
            (
                Cell(clean(at(one, "label"), 40)),
                num(_highest(one)),
                *([alone] if unique else []),
                num(gpus(told, one)),
                num(dollars(at(one, "usd_per_million_tokens"))),
                num(duration(at(one, "ttft", "p50"))),
                num(duration(at(one, "ttft", "p99"))),
                num(duration(at(one, "tpot", "p50"))),
                ratio(at(one, "hit_rate")),
                ratio(at(one, "slo_share")),
            )
        )
    head = (
        "Engine", "Highest rate, requests/s", *(["If no prompt shared anything"] if unique else []), "GPUs for the recorded rate",
        "A million tokens at the highest rate", "TTFT p50", "TTFT p99", "TPOT p50", "Hit rate", "Within the objectives",
    )  # fmt: skip
    return Table("What one machine carries, and how it goes at the recorded rate", head, rows)


def _highest(one: Told) -> str:
    """The rate up to which the objectives hold.

    >>> _highest({"max_rate_per_s": 2.5}), _highest({"max_rate_per_s": 2.5, "max_speed_capped": True}), _highest({})
    ('2.50', 'at least 2.50', 'none holds')
    """
    rate = finite(at(one, "max_rate_per_s"))
    return (
        NONE_HOLDS if rate is None else f"{'at least ' if at(one, 'max_speed_capped') else ''}{_rate(rate)}"
    )


def _apart(told: Told) -> Iterator[str | Table | Chart]:
    """Parts of the traffic that could be served apart."""
    parts = [part for part in rows_of(told, "parts") if isinstance(part, Mapping)]
    if not parts:
        return
    labels = {name: clean(at(one, "label"), 40) for name, one in table_of(told, "engines").items()}
    shown = [name for name in labels if any(name in table_of(part, "engines") for part in parts)]
    yield Table(
        "Each part alone on a machine: the highest rate, as a multiple of its own recorded one",
        ("Part", "Requests", "Of all tokens", "Hit rate, ceiling", *(labels[name] for name in shown)),
        [
            (
                Cell(f"{clean(at(part, 'by'), 20)} {clean(at(part, 'value'), 80)}"),
                num(count(at(part, "requests"))),
                ratio(at(part, "share")),
                ratio(at(part, "hit_rate")),
                *(num(NONE_HOLDS if (speed := finite(at(part, "engines", name))) is None else f"{number(speed)} x") for name in shown),
            )
            for part in parts[:LONGEST]
        ],
    )  # fmt: skip
    if len(parts) > LONGEST:
        yield f"{count(len(parts) - LONGEST)} more parts are in profile.json."
