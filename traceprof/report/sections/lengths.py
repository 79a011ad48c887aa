"""How long requests are."""

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
    count,
    finite,
    rows_of,
    table_of,
)

_STATISTICS = ("mean", "p50", "p90", "p95", "p99", "max")


def lengths_section(profile: Profile) -> Section | None:
    """Histograms and percentiles of input, output and total tokens."""
    parts: list[str | Table | Chart] = []
    rows = []
    for side in ("input", "output", "total"):
        lengths = table_of(profile, "lengths", side)
        if not lengths:
            continue
        if side != "total" and len(histogram(profile, side)) > 0:
            caption = f"Requests by {side} length in tokens (logarithmic)."
            if None not in (lengths.get("p50"), lengths.get("p99")) and lengths["p50"] < lengths["p99"]:
                caption += f" Half are at most {count(lengths['p50'])}, and 1 in 100 is above {count(lengths['p99'])}."
            parts.append(Chart(f"{side}_lengths", f"{side.capitalize()} lengths", caption))
        if any(lengths.get(s) is not None for s in _STATISTICS):
            rows.append((Cell(side), *(num(count(lengths.get(s))) for s in _STATISTICS)))
    if rows:
        parts.append(Table("Tokens per request", ("Tokens", *_STATISTICS), rows))
    return Section("lengths", "How long requests are", parts) if parts else None


def histogram(profile: Profile, side: str) -> list[tuple[float, float, int]]:
    """(lower edge, upper edge, requests) of each bin with a width; edges fit a logarithmic axis."""
    bins = []
    for row in rows_of(profile, "lengths", side, "histogram"):
        low, high = finite(row[0]), finite(row[1])
        if low is None or high is None or high <= 0 or row[2] is None:
            continue
        low = low if low > 0 else min(0.5, high / 2)
        if high > low:
            bins.append((low, high, int(row[2])))
    return bins
