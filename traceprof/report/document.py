"""The document that the page and the Markdown share: sections of text, tables and named charts.

Every key of the profile may be missing or null; what is there is told, what is not is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from traceprof.report.over_time import time_section
from traceprof.report.parts import Cell, Chart, Section, Table, num, quote, ratio
from traceprof.report.serving import provider_parts, replica_parts
from traceprof.report.simulated import simulation_section
from traceprof.report.words import (
    MISSING,
    BlockRate,
    Profile,
    about,
    at,
    block_rates,
    clean,
    clock,
    count,
    duration,
    engine_name,
    favourite,
    finite,
    number,
    percent,
    plural,
    rows_of,
    short,
    size,
    table_of,
)

LONGEST_TABLE = 20  # rows of a list that has no natural end: models, tenants, prefixes


class Figure(NamedTuple):
    """A headline number."""

    value: str
    label: str
    note: str


@dataclass(frozen=True)
class Document:
    """What a report says, whatever it is written in."""

    title: str
    subtitle: str
    answer: list[str]  # the first sentence is the headline
    figures: list[Figure] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)


def document(profile: Profile) -> Document:
    """Everything a report says about a profile, in the order a reader needs it."""
    sections = (
        _verdict(profile),
        _sharing(profile),
        time_section(profile),
        _cache(profile),
        simulation_section(profile),
        _breakers(profile),
        _lengths(profile),
        _load(profile),
        _sessions(profile),
        _left_out(profile),
        _input(profile),
        _method(profile),
    )
    name = clean(at(profile, "trace", "name"), 80)
    return Document(
        title=f"Traffic profile of {name}" if name else "Traffic profile",
        subtitle=subtitle(profile),
        answer=list(answer(profile)),
        figures=figures(profile),
        notices=list(notices(profile)),
        sections=[section for section in sections if section is not None],
    )


def subtitle(profile: Profile) -> str:
    """How much was looked at: requests, span, dates."""
    parts = []
    if at(profile, "trace", "requests") is not None:
        parts.append(plural(at(profile, "trace", "requests"), "request"))
    if finite(at(profile, "tokens", "input")):
        parts.append(f"{short(at(profile, 'tokens', 'input'))} input tokens")
    if finite(at(profile, "trace", "span_seconds")):
        parts.append(duration(at(profile, "trace", "span_seconds")))
    first, last = clock(at(profile, "trace", "first_arrival")), clock(at(profile, "trace", "last_arrival"))
    if first and last and first != last:
        parts.append(f"{first.removesuffix(' UTC')} to {last[11:] if last[:10] == first[:10] else last}")
    elif first:
        parts.append(first)
    return ", ".join(parts)


def answer(profile: Profile) -> Iterator[str]:
    """The answer in plain words: how much was seen before, how many at once, what that favours."""
    yield seen_before(profile)
    rates = block_rates(profile)
    if rates:
        yield _where_from(profile, rates)
    mean, peak = at(profile, "concurrency", "mean"), at(profile, "concurrency", "peak")
    if mean is not None:
        guess = "" if at(profile, "concurrency", "measured") is not False else " (an estimate)"
        at_peak = "" if peak is None else f", and {number(peak)} at the peak"
        verb = "is" if number(mean) == "1" else "are"
        yield f"On average {number(mean)} {'request' if verb == 'is' else 'requests'} {verb} in flight at once{at_peak}{guess}."
    elif at(profile, "trace", "requests"):
        yield "How many requests run at once cannot be told from this log."
    cached, told = (
        at(profile, "reported", "cached_hit_rate"),
        at(profile, "reported", "requests_with_cached_tokens"),
    )
    if cached is not None:
        yield (
            f"The log itself reports {percent(cached)} of the input as served from a prefix cache"
            f" ({plural(told, 'request')} that tell)."
        )
    if at(profile, "verdict") is not None:
        yield favours(profile)


def seen_before(profile: Profile) -> str:
    """The headline sentence: how much of what is sent has been seen before."""
    rates = block_rates(profile)
    if not at(profile, "trace", "requests") and not rates:
        return "There are no requests in this trace."
    if not rates:
        return "How much of what you send has been seen before cannot be told from this log."
    if rates[0].rate == 0:
        return "Nothing you send has been seen before."
    guess = about(profile)
    share = f"{guess}{percent(rates[0].rate)}"
    return f"{share[:1].upper()}{share[1:]} of what you send has been seen before."


def _where_from(profile: Profile, rates: list[BlockRate]) -> str:
    first, guess = rates[0], about(profile)
    if first.rate == 0:
        return "No prompt begins like an earlier prompt to the same model, so no prefix cache can spare any of it."
    whole = "" if first.block == 1 else f", counted in whole blocks of {count(first.block)} tokens"
    input_tokens, requests = at(profile, "tokens", "input"), at(profile, "trace", "requests")
    text = f"That is the share of input tokens that stood at the start of an earlier prompt to the same model{whole}"
    if first.hit_tokens is not None and input_tokens:
        of = f" in {plural(requests, 'request')}" if requests else ""
        text += f": {guess}{short(first.hit_tokens)} of {short(input_tokens)} input tokens{of}"
    text += ". A prefix cache that never forgets would not compute them again; one that forgets finds less."
    default = next((r for r in rates if r.block == 16 and first.block < 16), None)
    if default is not None:
        text += f" In blocks of 16 tokens, vLLM's default, it is {guess}{percent(default.rate)}."
    if first.with_outputs is not None and first.with_outputs > first.rate:
        text += f" With the model's own answers kept in the cache too, it is {guess}{percent(first.with_outputs)}."
    return text


def confidence_words(profile: Profile) -> str:
    """The verdict's confidence as a phrase: "moderate confidence"."""
    words = clean(at(profile, "verdict", "confidence"), 60)
    return (
        "" if not words else words if "confidence" in words.lower() or " " in words else f"{words} confidence"
    )


def favours(profile: Profile) -> str:
    """What the traffic favours and how sure that is, in one sentence."""
    engine, sure = favourite(profile), confidence_words(profile)
    how = f" ({sure})" if sure else ""
    text = f"That favours {engine}{how}" if engine else f"That favours no engine clearly{how}"
    checked = at(profile, "verdict", "checked_by")
    if checked == "replay":
        return f"{text}; a replay on live engines checked it."
    by = ", checked by simulation" if checked == "simulation" else ""
    return f"{text}{by}; only a replay on your hardware proves it."


def figures(profile: Profile) -> list[Figure]:
    """The headline figures, at most four."""
    found = []
    rates = block_rates(profile)
    if rates:
        unit = "any length" if rates[0].block == 1 else f"blocks of {count(rates[0].block)}"
        found.append(Figure(percent(rates[0].rate), "seen before", f"ceiling for any prefix cache, {unit}"))
    if at(profile, "concurrency", "mean") is not None:
        peaks = [
            f"{name} {number(at(profile, 'concurrency', name))}"
            for name in ("p95", "peak")
            if at(profile, "concurrency", name) is not None
        ]
        measured = "" if at(profile, "concurrency", "measured") is not False else ", estimated"
        found.append(
            Figure(
                number(at(profile, "concurrency", "mean")),
                "in flight on average",
                ", ".join(peaks) + measured,
            )
        )
    into, out = at(profile, "lengths", "input", "p50"), at(profile, "lengths", "output", "p50")
    if into is not None:
        late = [
            count(v) for side in ("input", "output") if (v := at(profile, "lengths", side, "p95")) is not None
        ]
        way = "input" if out is None else "in → out"
        value = count(into) if out is None else f"{count(into)} → {count(out)}"
        found.append(Figure(value, "median tokens", f"{way}, p95 {' → '.join(late)}" if late else way))
    if at(profile, "verdict") is not None:
        found.append(
            Figure(favourite(profile) or "No clear one", "favoured engine", confidence_words(profile))
        )
    return found


def notices(profile: Profile) -> Iterator[str]:
    """What a reader must know before trusting a number: what is estimated, what was not read."""
    tokenizer = table_of(profile, "tokenizer")
    if tokenizer.get("exact") is False:
        name, note = clean(tokenizer.get("name"), 80), clean(tokenizer.get("note"), 400)
        under = f" under the tokenizer {name}" if name else ""
        text = f"Token counts are estimates{under}, not your model's own."
        if note:
            text += f" {note.rstrip('.')}."
        yield f"{text} For the real ones name your model's tokenizer: `--tokenizer FILE|DIR|NAME`."
    if at(profile, "concurrency", "measured") is False:
        how = clean(at(profile, "concurrency", "how"), 300)
        missing = "" if how and "arrival time" in how else ": the log does not say when each request ended"
        yield f"Concurrency is an estimate{missing}." + (f" {how.rstrip('.')}." if how else "")
    rejects = at(profile, "trace", "rejects")
    if rejects:
        was, are = ("record was", "is") if rejects == 1 else ("records were", "are")
        yield f"{count(rejects)} input {was} set aside as unusable and {are} in no number here; the trace folder keeps each with its reason."


def _verdict(profile: Profile) -> Section | None:
    verdict = table_of(profile, "verdict")
    if not verdict:
        return None
    parts: list[str | Table | Chart] = []
    engine, sure = favourite(profile), confidence_words(profile)
    parts.append(
        (f"Favoured: {engine}" if engine else "No engine is clearly favoured")
        + (f", with {sure}." if sure else ".")
    )
    if verdict.get("headline"):
        parts.append(clean(verdict["headline"], 800))
    parts += [f"But {clean(text, 300)}." for text in rows_of(verdict, "disagreements")]
    unsure = [clean(u, 300) for u in rows_of(verdict, "unsure")]
    if unsure:
        parts.append(f"Not more sure, because {'; '.join(unsure)}.")
    reasons = [r if isinstance(r, Mapping) else {"text": r} for r in rows_of(verdict, "reasons")]
    if reasons:
        parts.append(_beside_thresholds("Your number beside each threshold", "Reason", reasons))
    flips = [f for f in rows_of(verdict, "flips") if isinstance(f, Mapping)]
    if flips:
        said = [(Cell(clean(f.get("label"), 80)), Cell(clean(f.get("text"), 300))) for f in flips]
        parts.append(Table("Where the verdict would flip, nearest first of each", ("Input", "At"), said))
    parts.extend(_split(verdict))
    parts += [clean(text, 600) for text in rows_of(verdict, "advice")]
    others = [a for a in rows_of(verdict, "alternatives") if isinstance(a, Mapping)]
    if others:
        said = [(Cell(clean(a.get("engine"), 80)), Cell(clean(a.get("when"), 300))) for a in others]
        parts.append(Table("What would change it", ("Engine", "When"), said))
    told = [{**i, "text": i.get("label")} for i in rows_of(verdict, "inputs") if isinstance(i, Mapping)]
    if told:
        parts.append(_beside_thresholds("Everything that decides, or would", "Input", told))
    if verdict.get("caveat"):
        parts.append(clean(verdict["caveat"], 800))
    checked = verdict.get("checked_by")
    proof = "Only a replay of this traffic on your hardware proves it."
    if checked == "replay":
        parts.append("This verdict was checked by a replay on live engines.")
    elif checked == "simulation":
        parts.append(f"This verdict was checked in simulation, not on hardware. {proof}")
    else:
        parts.append(f"This verdict is read from the log alone. {proof}")
    return Section("verdict", "Verdict", parts)


def _beside_thresholds(caption: str, first: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Texts, each with the user's number, the threshold, and where that is from; columns that are empty are left out."""
    cells = [
        (
            Cell(clean(row.get("text"), 600)),
            num(clean(row.get("yours"), 300)),
            num(clean(row.get("threshold"), 60)),
            Cell(clean(row.get("source"), 300)),
            Cell(clean(row.get("means"), 600)),
        )
        for row in rows
    ]
    keep = [0, *(i for i in (1, 2, 3, 4) if any(row[i].text for row in cells))]
    head = (first, "Yours", "Threshold", "Where the threshold is from", "What follows")
    return Table(caption, tuple(head[i] for i in keep), [tuple(row[i] for i in keep) for row in cells])


def _split(verdict: Mapping[str, Any]) -> Iterator[str | Table]:
    """Which part of the traffic would go where, and what that gains."""
    split = verdict.get("split")
    if not split:
        return
    routed = [p for p in rows_of(verdict, "split", "parts") if isinstance(p, Mapping)]
    if not routed:
        yield Table("How the traffic could be split", ("Part", "Value"), list(_flat(split)))
        return
    yield f"{clean(at(verdict, 'split', 'text'), 600)} {clean(at(verdict, 'split', 'rule'), 600)}"
    yield Table(
        "How the traffic could be split",
        (clean(at(verdict, "split", "by"), 40).capitalize() or "Part", "Engine", "Of input tokens", "Holds"),
        [
            (
                Cell(clean(part.get("value"), 120)),
                Cell(clean(part.get("label"), 60) or engine_name(part.get("engine"))),
                ratio(part.get("share")),
                num(f"{number(part.get('max_speed'))} x its rate"),
            )
            for part in routed[:LONGEST_TABLE]
        ],
    )
    yield from _more(len(routed), "parts")
    yield "The rule as configuration of LiteLLM, Olla, nginx and Envoy is in profile.json, under `verdict.split.config`."


def _sharing(profile: Profile) -> Section | None:
    prefix, rates = table_of(profile, "prefix"), block_rates(profile)
    if not prefix:
        return None
    parts: list[str | Table | Chart] = []
    if rates:
        both = any(r.with_outputs is not None for r in rates)
        best, worst = rates[0], rates[-1]
        caption = "Share of input tokens found in an unbounded cache, when only whole blocks can be reused"
        caption += (
            ": the left bar of each pair counts prompts alone, the right one keeps outputs too."
            if both
            else "."
        )
        if worst.rate < best.rate:
            caption += f" It falls from {percent(best.rate)} at {block_label(best.block)} to {percent(worst.rate)} at {block_label(worst.block)}."
        parts.append(Chart("hit_rate", "Hit rate by block size", caption))
        head = (
            ("Block size", "Hit tokens", "Hit rate", "With outputs")
            if both
            else ("Block size", "Hit tokens", "Hit rate")
        )
        rows = []
        for r in rates:
            row = [Cell(block_label(r.block)), num(count(r.hit_tokens)), num(percent(r.rate), r.rate)]
            rows.append(tuple([*row, num(percent(r.with_outputs), r.with_outputs)] if both else row))
        parts.append(Table("Token-weighted hit rate by block size, in tokens", head, rows))
        absent = sorted(
            int(k) for k, v in table_of(prefix, "hit_rate").items() if v is None and str(k).isdigit()
        )
        if absent:
            parts.append(f"Block sizes {', '.join(count(b) for b in absent)} cannot be told from this trace.")
    parts.extend(_origins(profile))
    parts.extend(_groups(profile, "by_model", "Model"))
    parts.extend(_groups(profile, "by_tenant", "Tenant"))
    parts.extend(_top_prefixes(profile))
    tree = table_of(prefix, "radix_tree")
    facts = (
        ("distinct tokens", at(profile, "tokens", "distinct")),
        ("tokens seen before (redundant)", prefix.get("redundant_tokens")),
        ("requests with any hit", prefix.get("requests_with_hit")),
        ("radix tree nodes", tree.get("nodes")),
        ("radix tree leaves", tree.get("leaves")),
        ("deepest path, nodes", tree.get("max_depth")),
        ("deepest path, tokens", tree.get("max_depth_tokens")),
    )
    shape = [(Cell(name), num(count(value))) for name, value in facts if value is not None]
    if shape:
        parts.append(Table("The tree of all prompts", ("What", "Count"), shape))
    return Section("sharing", "What your requests share", parts) if parts else None


def block_label(block: int) -> str:
    """A block size in words.

    >>> block_label(1), block_label(16), block_label(64)
    ('1 (any length)', '16 (vLLM default)', '64')
    """
    return {1: "1 (any length)", 16: "16 (vLLM default)"}.get(block, count(block))


def _origins(profile: Profile) -> Iterator[str | Table | Chart]:
    same, other = (
        finite(at(profile, "prefix", "by_origin", key)) for key in ("same_session", "other_sessions")
    )
    if same is None or other is None:
        return
    new = max(0.0, 1 - same - other)
    yield Table(
        "Where the shared tokens were seen first, as shares of all input tokens",
        ("Origin", "Share of input"),
        [
            (Cell("earlier turns of the same session"), num(percent(same), same)),
            (Cell("other sessions"), num(percent(other), other)),
            (Cell("not seen before"), num(percent(new), new)),
        ],
    )


def _groups(profile: Profile, key: str, title: str) -> Iterator[str | Table | Chart]:
    """Sharing by model or tenant; a single model says nothing new."""
    groups = {str(k): v for k, v in table_of(profile, "prefix", key).items() if isinstance(v, Mapping)}
    if len(groups) < (2 if key == "by_model" else 1):
        return
    ranked = sorted(groups.items(), key=lambda item: -(finite(item[1].get("input_tokens")) or 0))
    rows = []
    for name, group in ranked[:LONGEST_TABLE]:
        rate = next((r.rate for r in block_rates({"prefix": group})), None)
        row = (
            quote(name, "unnamed"),
            num(count(group.get("requests"))),
            num(count(group.get("input_tokens"))),
            num(percent(rate), rate),
        )
        rows.append(row)
    yield Table(f"Sharing by {title.lower()}", (title, "Requests", "Input tokens", "Hit rate"), rows)
    yield from _more(len(ranked), f"{title.lower()}s")


def _more(total: int, what: str) -> Iterator[str]:
    if total > LONGEST_TABLE:
        yield f"The {LONGEST_TABLE} largest of {count(total)} {what} are shown."


def _top_prefixes(profile: Profile) -> Iterator[str | Table | Chart]:
    prefixes = [p for p in rows_of(profile, "prefix", "top_prefixes") if isinstance(p, Mapping)]
    if not prefixes:
        return
    first = prefixes[0]
    share, total = finite(first.get("saved_tokens")), finite(at(profile, "tokens", "input"))
    part = f" The first alone spares {percent(share / total)} of all input tokens." if share and total else ""
    caption = (
        "Input tokens that each prefix spares when it is computed once and found again by every later request."
        + part
    )
    yield Chart("top_prefixes", "Largest shared prefixes", caption)
    models = any(p.get("model") for p in prefixes)
    rows = []
    for rank, p in enumerate(prefixes[:LONGEST_TABLE], 1):
        row = [
            Cell(str(rank)),
            quote(p.get("preview")),
            *(num(count(p.get(k))) for k in ("saved_tokens", "tokens", "requests")),
        ]
        rows.append(tuple([*row, quote(p.get("model"), "")] if models else row))
    head = ("Rank", "Starts with", "Tokens saved", "Length", "Requests", *(["Model"] if models else []))
    yield Table("Largest shared prefixes, by input tokens saved", head, rows)
    yield from _more(len(prefixes), "prefixes")


def _cache(profile: Profile) -> Section | None:
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


def _breakers(profile: Profile) -> Section | None:
    breakers = [b for b in rows_of(profile, "breakers") if isinstance(b, Mapping)]
    if not breakers:
        return None
    rows = [
        (
            Cell(_words(clean(b.get("kind"), 80))),
            Cell(clean(b.get("where"), 200)),
            num(count(b.get("requests"))),
            num(count(b.get("lost_tokens"))),
            num(_change(b.get("hit_rate_before"), b.get("hit_rate_after"))),
            quote(b.get("example"), ""),
            quote(b.get("example_fixed"), ""),
            Cell(clean(b.get("remedy"), 400)),
        )
        for b in breakers
    ]
    head = ("What", "Where", "Requests", "Lost tokens", "Hit rate", "As it is", "As it would be", "Remedy")
    keep = [
        i
        for i in range(len(head))
        if i not in (4, 5, 6) or any(row[i].text not in ("", MISSING) for row in rows)
    ]
    intro = (
        "Prompts that would share more were it not for something small near their start. What each costs was measured: the prompts "
        "were changed as the remedy says and sent through the tree again."
    )
    together = at(profile, "breakers_measured", "together_tokens")
    if len(rows) > 1 and together is not None:
        intro += f" All remedies at once save {short(together)} tokens; they overlap."
    how = clean(at(profile, "breakers_measured", "how"), 200)
    if how:
        intro += f" {how[:1].upper()}{how[1:]}."
    table = Table(
        "What breaks sharing, and what to do",
        tuple(head[i] for i in keep),
        [tuple(row[i] for i in keep) for row in rows],
    )
    return Section("breakers", "What breaks sharing", [intro, table])


_STATISTICS = ("mean", "p50", "p90", "p95", "p99", "max")


def _lengths(profile: Profile) -> Section | None:
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


def _load(profile: Profile) -> Section | None:
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


def _sessions(profile: Profile) -> Section | None:
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


def _left_out(profile: Profile) -> Section | None:
    rows = [
        (Cell(_words(clean(item.get("measure"), 100))), Cell(clean(item.get("reason"), 400)))
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


def _input(profile: Profile) -> Section | None:
    trace = table_of(profile, "trace")
    rows = [(Cell("requests"), num(count(trace["requests"])))] if trace.get("requests") is not None else []
    rows += [(Cell(f"format {clean(k, 80)}"), num(count(v))) for k, v in table_of(trace, "formats").items()]
    models = sorted(table_of(trace, "models").items(), key=lambda item: -(finite(item[1]) or 0))
    rows += [(Cell(f"model {clean(k, 80) or 'not named'}"), num(count(v))) for k, v in models[:LONGEST_TABLE]]
    parts: list[str | Table | Chart] = [Table("Requests", ("What", "Requests"), rows)] if rows else []
    parts.extend(_more(len(models), "models"))
    for key, title, head in (
        ("rejects_by_reason", "Records that could not be used; each stands in the trace's rejects/", "Why"),
        ("skipped", "Records that are no model call of their own", "What"),
        ("quality", "What was derived, assumed or repaired", "Flag (docs/formats.md)"),
    ):
        counted = [(Cell(_words(clean(str(k), 120))), num(count(v))) for k, v in table_of(trace, key).items()]
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
        parts.extend(_more(len(unread), "files"))
    return Section("input", "What was read", parts) if parts else None


def _method(profile: Profile) -> Section:
    rows = [(Cell(word), Cell(text)) for word, text in definitions(profile)]
    parts: list[str | Table | Chart] = [Table("What each number means", ("Number", "Definition"), rows)]
    others = {k: v for k, v in table_of(profile, "prefix", "definitions").items() if isinstance(v, Mapping)}
    if others:
        parts.append(
            "Publications define hit rate in other ways. The rate in this report is the token-weighted one; the others, over the same traffic:"
        )
        table = [
            (Cell(_words(clean(k, 80))), ratio(v.get("value")), Cell(clean(v.get("means"), 400)))
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


def _flat(value: Any, name: str = "") -> Iterator[tuple[Cell, ...]]:
    """Nested mappings and lists as rows of name and value."""
    pairs: Iterable[tuple[str, Any]]
    if isinstance(value, Mapping):
        pairs = ((str(k), v) for k, v in value.items())
    elif isinstance(value, list):
        pairs = ((str(i), v) for i, v in enumerate(value, 1))
    else:
        yield Cell(clean(_words(name), 120)), _cell(name, value)
        return
    for key, item in pairs:
        yield from _flat(item, f"{name} {key}".strip())


def _change(before: object, after: object) -> str:
    """A rate before and after, as one cell.

    >>> _change(0.5, 0.75), _change(None, 0.5)
    ('50.0 % → 75.0 %', '')
    """
    was, becomes = finite(before), finite(after)
    return "" if was is None or becomes is None else f"{percent(was)} → {percent(becomes)}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _cell(key: str, value: Any) -> Cell:
    """A value whose key says what it is: `hit_rate`, `share`, `_seconds`, `_bytes`, else a number or text."""
    if finite(value) is None:
        return Cell(MISSING if value is None else clean(value, 300))
    if key.endswith(("rate", "share", "ratio", "fraction")) and 0 <= value <= 1:
        return ratio(value)
    if key.endswith(("_seconds", "_s")):
        return num(duration(value))
    return num(size(value) if key.endswith("_bytes") else number(value))
