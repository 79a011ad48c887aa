"""The verdict: which engine, why, where that would flip, how the traffic could be split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from traceprof.report.answer import confidence_words
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
from traceprof.report.words import (
    MISSING,
    Profile,
    at,
    clean,
    duration,
    engine_name,
    favourite,
    finite,
    number,
    rows_of,
    size,
    table_of,
)


def verdict_section(profile: Profile) -> Section | None:
    """The favoured engine, its reasons beside their thresholds, flips and split."""
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
    yield from more(len(routed), "parts")
    yield "The rule as configuration of LiteLLM, Olla, nginx and Envoy is in profile.json, under `verdict.split.config`."


def _flat(value: Any, name: str = "") -> Iterator[tuple[Cell, ...]]:
    """Nested mappings and lists as rows of name and value."""
    pairs: Iterable[tuple[str, Any]]
    if isinstance(value, Mapping):
        pairs = ((str(k), v) for k, v in value.items())
    elif isinstance(value, list):
        pairs = ((str(i), v) for i, v in enumerate(value, 1))
    else:
        yield Cell(clean(spoken(name), 120)), _cell(name, value)
        return
    for key, item in pairs:
        yield from _flat(item, f"{name} {key}".strip())


def _cell(key: str, value: Any) -> Cell:
    """A value whose key says what it is: `hit_rate`, `share`, `_seconds`, `_bytes`, else a number or text."""
    if finite(value) is None:
        return Cell(MISSING if value is None else clean(value, 300))
    if key.endswith(("rate", "share", "ratio", "fraction")) and 0 <= value <= 1:
        return ratio(value)
    if key.endswith(("_seconds", "_s")):
        return num(duration(value))
    return num(size(value) if key.endswith("_bytes") else number(value))
