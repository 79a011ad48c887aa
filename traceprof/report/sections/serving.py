"""Beyond one engine: replicas behind a router, and API providers with their prices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from traceprof.report.parts import Cell, Chart, Table, num, ratio
from traceprof.report.words import (
    Profile,
    at,
    clean,
    count,
    dollars,
    duration,
    engine_name,
    finite,
    number,
    percent,
    plural,
    rows_of,
    short,
)


class Replicas(NamedTuple):
    """What so many replicas did together."""

    hit_rate: float | None
    load_imbalance: float | None  # input tokens of the busiest / mean


_NOTHING = Replicas(None, None)


def replica_rates(profile: Profile) -> dict[str, dict[int, Replicas]]:
    """By policy (in words) and number of replicas."""
    found: dict[str, dict[int, Replicas]] = {}
    for row in rows_of(profile, "cache", "replicas", "rows"):
        n = finite(at(row, "replicas"))
        if n is not None:
            did = Replicas(finite(at(row, "hit_rate")), finite(at(row, "load_imbalance")))
            found.setdefault(clean(at(row, "label"), 60), {})[int(n)] = did
    return found


def replica_parts(profile: Profile) -> Iterator[str | Table | Chart]:
    """What scaling out does to the cache, and what a router gives back."""
    rates = replica_rates(profile)
    if not rates:
        return
    counts = list(dict.fromkeys(n for of in rates.values() for n in of))
    engine = engine_name(at(profile, "cache", "replicas", "engine"))
    each = short(at(profile, "cache", "replicas", "capacity_tokens_each"))
    yield (
        f"Each further replica has a cache of its own. Which requests meet the prompts they share is the router's choice: "
        f"here {engine}'s cache, {each} tokens of KV in each replica."
    )
    yield Table(
        "Hit rate by number of replicas and the router's policy",
        ("Policy", *(plural(n, "replica") for n in counts), f"Busiest of {counts[-1]}, times the mean"),
        [
            (
                Cell(label),
                *(ratio(of[n].hit_rate) for n in counts),
                num(number(of[counts[-1]].load_imbalance)),
            )
            for label, of in rates.items()
        ],
    )


def provider_parts(profile: Profile) -> Iterator[str | Table | Chart]:
    """What API providers' prompt caches would do, and cost."""
    offers = rows_of(profile, "cache", "providers", "offers")
    if not offers:
        return
    yield (
        "The same traffic through API providers' prompt caches, input tokens only, at list prices of "
        f"{clean(at(profile, 'cache', 'providers', 'as_of'), 10)}. Breakpoints are set where a prompt ends and where it parts from other sessions' prompts."
    )
    rows = [
        (
            Cell(f"{clean(at(o, 'label'), 60)}{' *' if at(o, 'unverified') else ''}"),
            num(duration(at(o, "ttl_s"))),
            num(count(at(o, "minimum_tokens"))),
            ratio(at(o, "hit_rate")),
            num(dollars(at(o, "input_usd_without_cache"))),
            num(dollars(at(o, "input_usd"))),
            num(percent(at(o, "saving"))),
        )
        for o in offers
    ]
    head = ("Model", "Kept for", "At least, tokens", "Hit rate", "Without cache", "With cache", "Saved")
    yield Table("API providers' prompt caches over this traffic", head, rows)
    if any(at(o, "unverified") for o in offers):
        yield "* Some of its prices or limits do not stand on the provider's own page: `unverified` in the JSON names them."
    for label, note in {clean(at(o, "label"), 60): clean(at(o, "note"), 400) for o in offers}.items():
        if note:
            yield f"{label}: {note}."
