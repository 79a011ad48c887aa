"""How many at once: concurrency, arrivals, sessions."""

from __future__ import annotations

from traceprof.report.parts import (
    Cell,
    Chart,
    Section,
    Table,
    num,
)
from traceprof.report.words import (
    Profile,
    clean,
    count,
    duration,
    number,
    table_of,
)


def load_section(profile: Profile) -> Section | None:
    """Concurrency and arrivals."""
    parts: list[str | Table | Chart] = []
    busy, arrivals = table_of(profile, "concurrency"), table_of(profile, "arrivals")
    rows: list[tuple[Cell, ...]] = []
    if busy:
        caption = "Requests in flight over the trace: the filled area is the mean of each interval, the line its peak."
        if busy.get("p50") is not None and busy.get("p99") is not None:
            caption += f" Half of the time at most {number(busy['p50'])}, and {number(busy['p99'])} or less 99 % of the time."
        parts.append(Chart("concurrency", "Concurrency over time", caption))
        names = {
            "mean": "mean",
            "p50": "half of the time at most",
            "p95": "95 % of the time at most",
            "p99": "99 % of the time at most",
            "peak": "peak",
        }
        kind = "in flight" if busy.get("measured") is not False else "in flight (estimated)"
        rows += [
            (Cell(f"{kind}, {label}"), num(number(busy[k])))
            for k, label in names.items()
            if busy.get(k) is not None
        ]
    if arrivals:
        rate, most = arrivals.get("rate_mean"), arrivals.get("rate_peak_1s")
        caption = "Requests that arrive per second over the trace."
        if rate is not None and most is not None:
            caption += f" The mean is {number(rate)} a second, the busiest second saw {number(most)}."
        parts.append(Chart("arrivals", "Arrivals over time", caption))
        labels = {
            "rate_mean": "arrivals a second, mean",
            "rate_peak_1s": "arrivals in the busiest second",
            "cv": "coefficient of variation of the gaps between arrivals",
            "burstiness": "burstiness",
        }
        rows += [
            (Cell(label), num(number(arrivals[k])))
            for k, label in labels.items()
            if arrivals.get(k) is not None
        ]
    if rows:
        parts.append(Table("Concurrency and arrivals", ("What", "Requests"), rows))
    if busy.get("measured") is False:
        parts.append(clean(f"How concurrency was estimated: {busy.get('how') or 'not stated'}", 400))
    return Section("load", "How many at once", parts) if parts else None


def sessions_section(profile: Profile) -> Section | None:
    """Turns and think time."""
    sessions = table_of(profile, "sessions")
    shown = {
        "count": ("sessions", count),
        "turns_mean": ("turns in a session, mean", number),
        "turns_max": ("turns in the longest session", count),
        "think_time_p50": ("think time between an answer and the next turn, median", duration),
    }
    rows = [
        (Cell(label), num(say(sessions[k])))
        for k, (label, say) in shown.items()
        if sessions.get(k) is not None
    ]
    return (
        Section("sessions", "Sessions", [Table("Turns and think time", ("What", "Value"), rows)])
        if rows
        else None
    )
