"""A comparison for a console: engines side by side, what differs and how sure that is, and the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from traceprof.report.terminal import Page
from traceprof.report.words import (
    at,
    clean,
    dollars,
    duration,
    finite,
    number,
    percent,
    plural,
    rows_of,
    table_of,
)

if TYPE_CHECKING:
    from rich.console import Console

Told = Mapping[str, Any]
LABEL = 28  # characters
WIDTH = 13  # of an engine's column
FAR = 3.0  # a ratio from which on it is told as one
ACROSS = 4  # engines in one table
SAME = "no practical difference"
METRICS = {
    "ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E", "ttft_p99": "TTFT p99", "tpot_p99": "TPOT p99", "slo": "SLO met", "failed": "failed", "throughput": "tokens/s", "max_rate": "top rate",
}  # fmt: skip
TRAITS = {
    "prefix_tokens": "tokens of shared prefix", "prefix_share": "of the prompt shared", "input_tokens": "tokens of prompt",
    "arrivals_per_s": "arrivals in the second before",
}  # fmt: skip


class Row(NamedTuple):
    """A figure of every engine."""

    label: str
    keys: tuple[str, ...]
    shown: Callable[[Any], str]


def _ms(seconds: Any) -> str:
    return "-" if finite(seconds) is None else number(1000 * seconds)


def _bare(value: Any) -> str:
    return "-" if finite(value) is None else number(value)


ROWS = (
    Row("output tokens/s", ("throughput", "output_tokens_per_s"), _bare),
    Row("requests/s", ("throughput", "requests_per_s"), _bare),
    *(
        Row(f"{name.upper()} {mark}, ms", ("latency", name, mark), _ms)
        for name in ("ttft", "tpot", "itl", "e2e") for mark in ("p50", "p99")
    ),
    Row("within the SLO", ("slo_share",), percent),
    Row("goodput, requests/s", ("goodput_per_s",), _bare),
    Row("highest rate, requests/s", ("max_rate_per_s",), _bare),
    Row("hit rate told", ("hit_rate", "told"), percent),
    Row("hit rate of the model", ("hit_rate", "predicted"), percent),
    Row("failed", ("failed_share",), percent),
    Row("cold start", ("cold_start_s",), duration),
    Row("$ a million output tokens", ("usd_per_million_tokens",), dollars),
    Row("$ the same, at highest rate", ("usd_per_million_tokens_at_max_rate",), dollars),
    Row("$ a thousand requests", ("usd_per_request",), lambda usd: dollars(1000 * usd)),
    Row("joules an output token", ("joules_per_token",), _bare),
)  # fmt: skip


def compared(found: Told, console: Console, file: Path | None = None) -> None:
    """Print a comparison."""
    page = Page(console)
    for workload in rows_of(found, "workloads"):
        _workload(workload, found, page)
    if at(found, "control", "aa") or rows_of(found, "warnings") or not at(found, "simulated"):
        page.line()
    _control(found, page)
    for text in rows_of(found, "warnings"):
        page.prose(clean(text, 600), "yellow", first="! ")
    if (split := at(found, "split_by_variant")) is not None:
        page.prose(_upper(clean(split, 600)) + ".", "bold")
    _answer(found, page)
    if file is not None:
        page.line()
        page.line(page.text().append("Comparison", "bold").append(f"  {clean(file, 4096)}"), whole=True)


def _workload(workload: Told, found: Told, page: Page) -> None:
    engines = table_of(workload, "engines")
    blocks = max((at(one, "compared_runs") or 0 for one in engines.values()), default=0)
    rest = f"{clean(at(workload, 'variant'), 20)}, {plural(at(workload, 'requests'), 'request')}, {plural(blocks, 'block')} of each engine"
    if at(workload, "speed") != 1:
        rest += f", at speed {number(at(workload, 'speed'))}"
    page.head(clean(Path(at(workload, "file") or "").name, 40), rest)
    names = list(engines)
    for first in range(0, len(names), ACROSS):
        _side_by_side({name: engines[name] for name in names[first : first + ACROSS]}, page)
    _pairs(rows_of(workload, "pairs"), ("second vs first", "favours"), _favours, found, page)
    _pairs(rows_of(workload, "predictions"), ("simulated vs measured", "so?"), _agrees, found, page)
    for one in _crossings(rows_of(workload, "crossovers")):
        page.prose(one, indent=2)


def _side_by_side(engines: Mapping[str, Told], page: Page) -> None:
    page.line(
        page.text(
            f"  {'':{LABEL}}" + "".join(f"{clean(name, WIDTH - 1):>{WIDTH}}" for name in engines), "dim"
        )
    )
    for row in ROWS:
        values = [at(one, *row.keys) for one in engines.values()]
        if any(finite(value) is not None for value in values):
            cells = ("-" if finite(value) is None else row.shown(value) for value in values)
            page.line(f"  {row.label:{LABEL}}" + "".join(f"{cell:>{WIDTH}}" for cell in cells))


def _pairs(
    pairs: Sequence[Told], titles: tuple[str, str], last: Callable[[Told], str], found: Told, page: Page
) -> None:
    """One line a pair and metric: who, in what, by how much, how sure, what that means."""
    shown = [one for one in pairs if at(one, "low") is not None]
    if not shown:
        return
    first, means = titles
    sure = f"{number(100 * (1 - (finite(at(found, 'level')) or 0.0)))} % interval"
    page.line()
    page.line(page.text(_row(first, "", "is", sure, means), "dim"))
    for one in shown:
        who, metric = clean(f"{at(one, 'b')} vs {at(one, 'a')}", 24), METRICS.get(at(one, "metric"), "")
        ratio = at(one, "scale") == "ratio"
        difference, low, high = (_change(at(one, key), ratio) for key in (at(one, "scale"), "low", "high"))
        interval = f"{low} to {high}" if low and high else ""
        style = "bold" if at(one, "outcome") in ("a", "b") else ""
        page.line(page.text(_row(who, metric, difference or "-", interval, last(one)), style))


def _favours(one: Told) -> str:
    """The engine's name."""
    outcome = at(one, "outcome")
    return clean(at(one, outcome), 13) if outcome in ("a", "b") else {SAME: "neither"}.get(outcome, "?")


def _agrees(one: Told) -> str:
    """Whether what was simulated is what was measured."""
    return {"a": "no", "b": "no", SAME: "yes"}.get(at(one, "outcome"), "?")


def _row(who: str, metric: str, difference: str, interval: str, favours: str) -> str:
    return f"  {who:25}{metric:9}{difference:>9}  {interval:20} {favours}"


def _change(value: Any, ratio: bool) -> str:
    real = finite(value)
    if real is None:
        return ""
    if ratio and not 1 / FAR < real < FAR:
        return f"{real:.3g}x"
    return f"{100 * (real - 1):+.1f} %" if ratio else f"{100 * real:+.1f} pt"


def _crossings(found: Sequence[Told]) -> Iterator[str]:
    """B wins above 8,000 shared tokens, loses below."""
    for one in found:
        where = at(one, "at")
        by = clean(at(one, "by"), 40)
        point = percent(where) if by == "prefix_share" else number(where)
        yield (
            f"{METRICS.get(at(one, 'metric'), '')}: {clean(at(one, 'above'), 40)} wins from {point} {TRAITS.get(by, by)} on, "
            f"{clean(at(one, 'below'), 40)} below."
        )


def _control(found: Told, page: Page) -> None:
    held, tests = at(found, "control", "ok"), rows_of(found, "control", "aa")
    if held:
        most = max((abs((finite(at(one, "ratio")) or 1) - 1) for one in tests), default=0.0)
        page.prose(
            f"Control: runs of one engine differ by {percent(most)} at most, and none by more than the margin for sure."
        )
    elif held is None and not at(found, "simulated"):
        page.prose("No control: one run of each engine cannot be held against another of it.")


def _answer(found: Told, page: Page) -> None:
    """The outcome, with its reasons."""
    outcome, engines = at(found, "outcome") or {}, table_of(found, "engines")
    name = at(outcome, "favoured")
    if name is not None:
        head = f"Favoured: {clean(name, 60)}"
    elif at(outcome, "outcome") == SAME:
        head = f"No practical difference: {', '.join(clean(one, 60) for one in rows_of(outcome, 'among'))}"
    else:
        head = "Not enough data to favour one"
    rest = "simulated" if at(found, "simulated") else ""
    if at(outcome, "trust") == "lowered":
        rest = "; ".join(filter(None, (rest, "with doubts, see above")))
    page.head(head, rest)
    page.prose(_upper(clean(at(outcome, "why"), 1500)) + ("." if at(outcome, "why") else ""), indent=2)
    if any(at(one, "usd_per_hour") is not None for one in engines.values()) and at(found, "prices", "as_of"):
        page.prose(
            f"Prices: {number(at(found, 'prices', 'gpus'))} x {clean(at(found, 'prices', 'gpu'), 40)}, list price of {clean(at(found, 'prices', 'as_of'), 10)}.",
            "dim", indent=2,
        )  # fmt: skip


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
