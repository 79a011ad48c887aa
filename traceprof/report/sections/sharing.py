"""What requests share: by block size, origin, model, tenant and prefix."""

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
    quote,
)
from traceprof.report.words import (
    Profile,
    at,
    block_label,
    block_rates,
    count,
    finite,
    percent,
    rows_of,
    table_of,
)


def sharing_section(profile: Profile) -> Section | None:
    """Hit rates by block size, origin, model, tenant; the largest prefixes; the tree."""
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
    yield from more(len(ranked), f"{title.lower()}s")


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
    yield from more(len(prefixes), "prefixes")
