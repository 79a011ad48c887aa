"""What was read, what was left out and why, and what each number means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from traceprof.report.parts import (
    LONGEST_TABLE,
    Cell,
    Chart,
    Section,
    Table,
    more,
    num,
    ratio,
    spoken,
)
from traceprof.report.sections.cache import mrc_points
from traceprof.report.words import (
    Profile,
    at,
    block_rates,
    clean,
    count,
    finite,
    rows_of,
    table_of,
)


def left_out_section(profile: Profile) -> Section | None:
    """Measures that the log could not support, each with the reason."""
    rows = [
        (Cell(spoken(clean(item.get("measure"), 100))), Cell(clean(item.get("reason"), 400)))
        for item in rows_of(profile, "left_out")
        if isinstance(item, Mapping)
    ]
    if not rows:
        return None
    intro = "A number that the log cannot support is left out, never guessed."
    return Section(
        "left-out",
        "What was left out, and why",
        [intro, Table("Measures left out", ("Measure", "Why"), rows)],
    )


def input_section(profile: Profile) -> Section | None:
    """Requests by format and model, records set aside, files not read."""
    trace = table_of(profile, "trace")
    rows = [(Cell("requests"), num(count(trace["requests"])))] if trace.get("requests") is not None else []
    rows += [(Cell(f"format {clean(k, 80)}"), num(count(v))) for k, v in table_of(trace, "formats").items()]
    models = sorted(table_of(trace, "models").items(), key=lambda item: -(finite(item[1]) or 0))
    rows += [(Cell(f"model {clean(k, 80) or 'not named'}"), num(count(v))) for k, v in models[:LONGEST_TABLE]]
    parts: list[str | Table | Chart] = [Table("Requests", ("What", "Requests"), rows)] if rows else []
    parts.extend(more(len(models), "models"))
    for key, title, head in (
        ("rejects_by_reason", "Records that could not be used; each stands in the trace's rejects/", "Why"),
        ("skipped", "Records that are no model call of their own", "What"),
        ("quality", "What was derived, assumed or repaired", "Flag (docs/formats.md)"),
    ):
        counted = [(Cell(spoken(clean(str(k), 120))), num(count(v))) for k, v in table_of(trace, key).items()]
        if counted:
            parts.append(
                Table(title, (head, "Records" if key != "quality" else "Requests"), counted[:LONGEST_TABLE])
            )
    unread = [
        (Cell(clean(one.get("file"), 120)), Cell(clean(one.get("reason"), 300)))
        for one in rows_of(trace, "not_read")
        if isinstance(one, Mapping)
    ]
    if unread:
        parts.append(Table("Files that were not read", ("File", "Why"), unread[:LONGEST_TABLE]))
        parts.extend(more(len(unread), "files"))
    return Section("input", "What was read", parts) if parts else None


def method_section(profile: Profile) -> Section:
    """Definitions of the numbers, and other definitions of hit rate with their values."""
    rows = [(Cell(word), Cell(text)) for word, text in definitions(profile)]
    parts: list[str | Table | Chart] = [Table("What each number means", ("Number", "Definition"), rows)]
    others = {k: v for k, v in table_of(profile, "prefix", "definitions").items() if isinstance(v, Mapping)}
    if others:
        parts.append(
            "Publications define hit rate in other ways. The rate in this report is the token-weighted one; the others, over the same traffic:"
        )
        table = [
            (Cell(spoken(clean(k, 80))), ratio(v.get("value")), Cell(clean(v.get("means"), 400)))
            for k, v in others.items()
        ]
        parts.append(Table("Other definitions of hit rate", ("Name", "Value", "Meaning"), table))
    return Section("method", "Method and definitions", parts)


def definitions(profile: Profile) -> Iterator[tuple[str, str]]:
    """Each number's definition in a sentence, for the numbers this profile has."""
    name = clean(at(profile, "tokenizer", "name"), 80)
    source = {
        "tokens": f"token ids under {name or 'the named tokenizer'}",
        "hashes": "hashes of token blocks that the log holds",
        "counts": "the counts that the log holds",
    }.get(str(at(profile, "tokenizer", "source")))
    if source:
        unit = at(profile, "tokenizer", "unit")
        block = f", {count(unit)} tokens each" if unit not in (None, 1) else ""
        exact = " They are estimates." if at(profile, "tokenizer", "exact") is False else ""
        yield "Tokens", f"Counted after the chat template, from {source}{block}.{exact}"
    if block_rates(profile):
        yield (
            "Hit rate",
            "Sum of hit tokens / sum of input tokens, so long prompts weigh more (token-weighted). Each prompt is compared with earlier prompts in arrival order, per model; models exchange nothing.",
        )
        yield (
            "Hit tokens",
            "Of a request's input tokens, how many a cache that holds every earlier request already had, counted from the first token and rounded down to whole blocks.",
        )
        yield (
            "Ceiling",
            "The hit rate of a cache without limit, which never evicts. A real cache is at or below it.",
        )
        yield (
            "Block size",
            "The engine's unit of reuse (SGLang says page). 1 is a radix tree over tokens, 16 is vLLM's default.",
        )
    if any(r.with_outputs is not None for r in block_rates(profile)):
        yield (
            "With outputs",
            "Each request's output is kept behind its prompt too, once it ended. An engine that caches generated tokens can reach it.",
        )
    if len(mrc_points(profile)) > 1:
        yield (
            "Capacity curve",
            "Hit rate against cache capacity in tokens, from reuse distances: tokens of distinct prefix state touched since this state was last touched, least recently used leaves first.",
        )
    if at(profile, "concurrency") is not None:
        yield (
            "Concurrency",
            "Requests in flight at an instant, from arrival and end times; percentiles are over time, not over requests.",
        )
    if at(profile, "arrivals") is not None:
        yield (
            "Coefficient of variation",
            "Standard deviation / mean of the gaps between arrivals: 1 for random (Poisson) arrivals, above 1 for bursts, near 0 for a steady clock.",
        )
    if at(profile, "sessions") is not None:
        yield "Think time", "From the end of an answer to the arrival of the next turn of its session."
    yield "Missing values", "A value that the log does not give is left out, never counted as zero."
