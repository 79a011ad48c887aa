"""How much cache it takes: the miss-ratio curve, GPU memory, engines' own caches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from traceprof.report.parts import (
    Cell,
    Chart,
    Section,
    Table,
    num,
    ratio,
)
from traceprof.report.sections.serving import provider_parts, replica_parts
from traceprof.report.words import (
    Profile,
    at,
    block_rates,
    clean,
    count,
    engine_name,
    finite,
    percent,
    rows_of,
    short,
    table_of,
)


def cache_section(profile: Profile) -> Section | None:
    """Capacity against hit rate, by GPU, by engine, by replicas and at API providers."""
    parts: list[str | Table | Chart] = []
    curve = mrc_points(profile)
    ceiling = next((r.rate for r in block_rates(profile)), None)
    if len(curve) > 1:
        caption = "Hit rate of a cache that evicts the least recently used state, against its capacity in tokens (logarithmic)."
        half = at(profile, "cache", "working_set_tokens", "50%")
        if half is not None and curve[-1][1] > 0:
            caption += f" {short(half)} tokens give half of the {percent(curve[-1][1])} that {short(curve[-1][0])} tokens give."
        if rows_of(profile, "cache", "memory_marks"):
            caption += " Vertical rules mark what a GPU's memory holds."
        parts.append(Chart("mrc", "Hit rate against cache capacity", caption))
    marks = [m for m in rows_of(profile, "cache", "memory_marks") if isinstance(m, Mapping)]
    if marks:
        rows = []
        for mark in sorted(marks, key=lambda m: finite(m.get("capacity_tokens")) or 0):
            rate = finite(mark.get("hit_rate"))
            row = [
                Cell(clean(mark.get("label"), 100)),
                num(short(mark.get("capacity_tokens"))),
                num(percent(rate), rate),
            ]
            rows.append((*row, num(percent(rate / ceiling if rate is not None and ceiling else None))))
        parts.append(
            Table(
                "What a GPU's memory holds",
                ("Model and memory", "Capacity, tokens", "Hit rate", "Of the ceiling"),
                rows,
            )
        )
    sets = [
        (Cell(f"{clean(k, 20)} of the ceiling"), num(count(v)))
        for k, v in table_of(profile, "cache", "working_set_tokens").items()
        if v is not None
    ]
    if sets:
        parts.append(
            Table(
                "Working set: the smallest cache that reaches part of the ceiling",
                ("Part", "Capacity, tokens"),
                sets,
            )
        )
    parts.extend(_engine_caches(profile))
    parts.extend(replica_parts(profile))
    parts.extend(provider_parts(profile))
    return Section("cache", "How much cache it takes", parts) if parts else None


def _engine_caches(profile: Profile) -> Iterator[str | Table | Chart]:
    """What each engine's own cache makes of the traffic: here, and by size of memory."""
    engines = {k: v for k, v in table_of(profile, "cache", "engines").items() if isinstance(v, Mapping)}
    if not engines:
        return
    machine = clean(at(profile, "cache", "machine", "label"), 100)
    rows = [
        (
            Cell(clean(e.get("label"), 40) or engine_name(name)),
            ratio(e.get("hit_rate")),
            num(count(e.get("block_size"))),
            num(count(e.get("evicted_tokens"))),
            num(count(e.get("waited_requests"))),
            num(count(e.get("refused_requests"))),
        )
        for name, e in engines.items()
    ]
    yield (
        "Each engine keeps and throws out prefixes in its own way. These are models of their caches, written after their "
        "source and, where the engine runs without a GPU, held against it request by request. Each model of the trace has an "
        f"engine of its own{f' with what {machine} holds' if machine else ''}; requests hold their room from arrival to end."
    )
    title = "Each engine's own prefix cache, over this traffic"
    size = short(at(profile, "cache", "machine", "capacity_tokens"))
    yield Table(
        f"{title}: {size} tokens of KV" if machine else title,
        ("Engine", "Hit rate", "Block, tokens", "Evicted tokens", "Requests that waited", "Too long"),
        rows,
    )
    marks = [m for e in engines.values() for m in rows_of(e, "by_memory") if isinstance(m, Mapping)]
    labels = list(dict.fromkeys((clean(m.get("label"), 60), finite(m.get("capacity_tokens"))) for m in marks))
    if labels:
        yield Table(
            "The same by GPU memory",
            ("Engine", *(f"{label}: {short(size)}" for label, size in labels)),
            [
                (
                    Cell(clean(e.get("label"), 40) or engine_name(name)),
                    *(ratio(m.get("hit_rate")) for m in rows_of(e, "by_memory") if isinstance(m, Mapping)),
                )
                for name, e in engines.items()
            ],
        )
    told = [(e, rows_of(e, "assumptions")) for e in engines.values()]
    if any(said for _, said in told):
        yield Table(
            "What each model of a cache takes for granted",
            ("Engine", "Assumes"),
            [
                (Cell(clean(e.get("label"), 40)), Cell("; ".join(clean(one, 400) for one in said) + "."))
                for e, said in told
                if said
            ],
        )


def mrc_points(profile: Profile) -> list[tuple[float, float]]:
    """The miss-ratio curve as (capacity_tokens, hit_rate), capacity rising and positive."""
    points = []
    for point in rows_of(profile, "cache", "mrc"):
        capacity, rate = finite(point[0]), finite(point[1])
        if capacity is not None and rate is not None and capacity > 0:
            points.append((capacity, rate))
    return sorted(points)
