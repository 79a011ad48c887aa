"""A replay's results for a console: one line a run, and what a reader must know before comparing them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traceprof.report.terminal import Page
from traceprof.report.words import at, clean, duration, number, percent, plural, rows_of, short
from traceprof.workloads import labels, sent_as

if TYPE_CHECKING:
    from rich.console import Console

    from traceprof.results import Results, Run

Told = Mapping[str, Any]
NAME = 18  # characters of a run's name
NOTABLE = 0.02  # difference of hit rates that is told
COLUMNS = (
    ("ok", 5),
    ("req/s", 7),
    ("tok/s", 7),
    ("ttft p50", 9),
    ("p99", 7),
    ("tpot p50", 9),
    ("cached", 8),
    ("model", 8),
)  # 80 columns with the name
SWEEP = (
    ("ok", 5),
    ("offered", 9),
    ("achieved", 9),
    ("ttft p50", 9),
    ("p99", 7),
    ("tpot p50", 9),
    ("cached", 8),
    ("SLO", 4),
)  # the same


def replayed(results: Results, console: Console) -> None:
    """Print what came of a replay."""
    page = Page(console)
    manifest = results.manifest
    page.line(page.text(clean(results.path, 4096), "bold"), whole=True)
    states = rows_of(manifest, "runs")
    runs = {at(state, "number"): run.told() for state, run in zip(states, results.runs, strict=False)}
    workloads = rows_of(manifest, "workloads")
    for n, workload in enumerate(workloads):
        mine = [state for state in states if at(state, "workload") == n]
        if mine:
            _workload(workload, mine, runs, manifest, page)
    page.line()
    names = labels([(str(at(one, "variant")), str(at(one, "file"))) for one in workloads])
    for one in rows_of(manifest, "sweep"):
        _sweep(one, manifest, names, page)
    if at(manifest, "sweep") is None:
        for state in states:
            _slo(state, names, page)
    _client(manifest, page)
    starts = {at(told, "name"): at(told, "server", "cold_start_s") for told in runs.values()}
    if cold := ", ".join(f"{clean(name, 40)} {duration(s)}" for name, s in starts.items() if s is not None):
        page.prose(f"Cold starts: {cold}.")
    paths = {at(state, "number"): run for state, run in zip(states, results.runs, strict=False)}
    for state in states:
        name = _run(state, names)
        for note in _notes(state, runs.get(at(state, "number")) or {}, paths.get(at(state, "number"))):
            page.prose(f"{name}: {note}", "yellow", first="! ")


def _run(state: Told, workloads: Sequence[str]) -> str:
    """A run's number, engine and workload."""
    on = clean(workloads[at(state, "workload")], 40)
    return f"run {at(state, 'number')} ({clean(at(state, 'name'), 40)}, {on})"


def _workload(
    workload: Told, states: list[Told], runs: Mapping[int, Told], manifest: Told, page: Page
) -> None:
    """A line a run; those of a sweep by engine and rate."""
    swept = at(manifest, "sweep") is not None or at(manifest, "scenario", "sweep") is not None
    columns = SWEEP if swept else COLUMNS
    api = at(manifest, "options", "api")
    how = f"to {clean(api, 20)}" if api else sent_as(at(workload, "endpoints") or {})
    what = (
        f"{clean(at(workload, 'variant'), 20)}, {plural(at(workload, 'requests'), 'request')} {how}".rstrip()
    )
    units = "requests a second and ms" if swept else "latencies in ms"
    page.head(clean(Path(at(workload, "file")).name, 40), f"{what}; {units}")
    page.line(page.text(f"  {'run':{NAME}}" + _row([name for name, _ in columns], columns), "dim"))
    engines = [at(one, "name") for one in rows_of(manifest, "engines")]
    if swept:
        states = sorted(
            states,
            key=lambda of: (
                not at(of, "warmup"),
                engines.index(at(of, "name")),
                at(of, "speed"),
                at(of, "number"),
            ),
        )
    for state in states:
        told = runs.get(at(state, "number")) or {}
        name = clean(at(state, "name"), 16) + (
            "" if at(state, "speed") == 1 else f" x{at(state, 'speed'):.3g}"
        )
        if at(state, "warmup"):
            name += " warm-up"
        if not told:
            page.line(f"  {name[:NAME]:{NAME}}{clean(at(state, 'state'), 20):>9}")
            continue
        page.line(f"  {name[:NAME]:{NAME}}" + _row(_cells(state, told, swept), columns))


def _cells(state: Told, told: Told, swept: bool) -> tuple[str, ...]:
    """What a run's line says."""
    found = at(told, "summary") or {}
    per_s = number(at(found, "requests_per_s"))
    held = {True: "yes", False: "no"}.get(at(state, "held"), "-")
    return (
        short(at(found, "outcomes", "ok") or 0),
        number(at(told, "rates", "scheduled_per_s")) if swept else per_s,
        per_s if swept else number(at(found, "output_tokens_per_s")),
        _ms(at(found, "ttft", "p50")),
        _ms(at(found, "ttft", "p99")),
        _ms(at(found, "tpot", "p50")),
        percent(at(found, "hit_rate")),
        held if swept else percent(at(told, "cache", "predicted_hit_rate")),
    )


def _row(cells: Sequence[str], columns: Sequence[tuple[str, int]]) -> str:
    return "".join(f"{cell:>{width}}" for cell, (_, width) in zip(cells, columns, strict=True))


def _ms(seconds: Any) -> str:
    return "-" if seconds is None else number(1000 * seconds)


def _sweep(found: Told, manifest: Told, workloads: Sequence[str], page: Page) -> None:
    """The highest rate that held the SLO."""
    name, speed, failed = (clean(at(found, "name"), 40), at(found, "speed"), at(found, "failed_at"))
    if len(workloads) > 1:
        name += f" on {clean(workloads[at(found, 'workload')], 40)}"
    whole = rows_of(manifest, "workloads")[at(found, "workload")]
    span = (at(whole, "span_us") or 0) / 1e6
    per_s = at(whole, "requests") / span if span else None
    late = at(found, "client_late_at")
    if late is not None:
        known = (
            "nothing is known of"
            if speed is None
            else f"holds the SLO at {speed:.3g} times the recorded rate; nothing is known above, of"
        )
        page.prose(f"{name}: {known} {late:.3g} times: the client could not send that fast", "bold")
        return
    if speed is None:
        page.prose(f"{name} does not hold the SLO even at {failed:.3g} times the recorded rate", "bold")
        return
    rate = "" if per_s is None else f", {number(per_s * speed)} requests a second offered"
    above = "the highest that was tried" if failed is None else f"not at {failed:.3g}"
    page.prose(f"{name} holds the SLO up to {speed:.3g} times the recorded rate{rate} ({above})", "bold")


def _slo(state: Told, workloads: Sequence[str], page: Page) -> None:
    """Whether a run held it, where there is one."""
    if at(state, "held") is not None:
        reasons = "; ".join(clean(why, 100) for why in rows_of(state, "reasons"))
        held = "holds the SLO" if at(state, "held") else f"does not hold the SLO: {reasons}"
        page.prose(f"R{_run(state, workloads)[1:]} {held}.")


def _client(manifest: Told, page: Page) -> None:
    """What the client itself adds."""
    ttft, itl = at(manifest, "calibration", "ttft_p99_s"), at(manifest, "calibration", "itl_p99_s")
    if ttft is not None:
        page.prose(
            f"This client adds at most {_ms(ttft)} ms to the p99 of TTFT and {_ms(itl)} ms to that of ITL: differences below that are its own."
        )


def _failed(run: Run | None) -> str:
    """How requests failed, most often first: 3 http_error (400 BadRequestError), 1 reset."""
    import polars as pl

    if run is None:
        return ""
    ways = [pl.col(name).cast(pl.String) for name in ("outcome", "http_status", "error_type")]
    found = (
        run.requests().filter((pl.col("outcome").cast(pl.String) != "ok") & ~pl.col("warmup")).select(ways)
    )
    counts = found.group_by(pl.all()).len().sort("len", "outcome", descending=[True, False]).rows()[:5]
    return ", ".join(
        f"{n:,} {outcome}" + (f" ({clean(' '.join(word for word in why if word), 60)})" if any(why) else "") for outcome, *why, n in counts
    )  # fmt: skip


def _notes(state: Told, told: Told, run: Run | None) -> Iterator[str]:
    """What must be known before a run is compared."""
    if at(state, "state") != "done":
        error = at(state, "error")
        yield clean(error, 400) if error else f"{clean(at(state, 'state'), 20)}: go on with --resume"
        return
    if not at(told, "valid"):
        yield f"not to be compared: {clean(at(told, 'invalid_because'), 300)}"
    if failed := _failed(run):
        yield f"ended otherwise than well: {failed}"
    if not at(told, "isolation", "ok"):
        yield f"the cache may hold prompts of earlier runs: {clean(at(told, 'isolation', 'why'), 200)}"
    cache = at(told, "cache") or {}
    other = at(cache, "prompts_of_other_length")
    if other:
        yield (
            f"{plural(other, 'prompt')} had another number of tokens than planned: another tokenizer or chat template, or parts of messages "
            "that the engine joins in its own way; the model of its cache knows only the plan"
        )
    told_rate, predicted_rate = at(cache, "told_hit_rate"), at(cache, "predicted_hit_rate")
    if told_rate is not None and predicted_rate is not None and abs(told_rate - predicted_rate) >= NOTABLE:
        yield (
            f"the engine tells {percent(told_rate)} cached, the model of its cache has {percent(predicted_rate)}; "
            f"{short(at(cache, 'equal_requests'))} of {short(at(cache, 'told_requests'))} requests are equal. Requests side by side can cost that much; "
            "else its flags, its memory or other users are not as assumed"
        )
    unexplained, of = at(cache, "unexplained_tokens"), at(cache, "told_tokens")
    if unexplained and unexplained > 0.01 * of:
        yield f"{short(unexplained)} cached tokens cannot be of this run's own prompts: its cache was not empty"
    for check in rows_of(told, "counters", "against_requests"):
        if at(check, "agrees") is False:
            yield (
                f"{clean(at(check, 'what'), 30)}: {short(at(check, 'client'))} told to requests, {short(at(check, 'server'))} "
                f"counted: {clean(at(check, 'note'), 200)}"
            )
    if (
        at(told, "summary", "requests_with_cached_tokens") == 0
        and at(told, "counters", "hit_rate") is not None
    ):
        yield f"no request is told its cached tokens; by the engine's counters the hit rate is {percent(at(told, 'counters', 'hit_rate'))}"
