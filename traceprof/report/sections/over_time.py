"""Sharing over time: what a cold cache takes, what restarts, walls between tenants and model swaps cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from traceprof.report.parts import Cell, Chart, Section, Table, num, quote, ratio
from traceprof.report.words import Profile, at, count, duration, finite, percent, plural, rows_of, short


def time_facts(profile: Profile) -> Iterator[str]:
    """What there is to say, a sentence each."""
    warm, half = (
        finite(at(profile, "prefix", "warm_up", "requests")),
        finite(at(profile, "prefix", "requests")),
    )
    if warm is not None:
        steady = percent(at(profile, "prefix", "warm_up", "steady_hit_rate"))
        if half is not None and 2 * warm >= half - 1:
            yield f"The first half of the requests never hits as often as the second ({steady}): the cache still warms up, or the traffic changed."
        elif not warm:
            yield f"A cold cache is warm at once: the first requests hit as often as the last, {steady}."
        else:
            yield (
                f"A cold cache is warm after {plural(round(warm), 'request')}, {duration(at(profile, 'prefix', 'warm_up', 'seconds'))}: "
                f"from there on it hits within a point of the second half's {steady}."
            )
    middle = at(profile, "prefix", "restart", "middle")
    if isinstance(middle, Mapping):
        made_up = at(middle, "recovered_after_s")
        yield (
            f"A restart half-way loses {short(at(middle, 'lost_tokens'))} hit tokens, {_points(middle)}"
            + ("" if made_up is None else f", made up for within {duration(made_up)}")
            + "."
            + "".join(
                f" One every {duration(at(row, 'every_s'))} loses {_points(row)}."
                for row in rows_of(profile, "prefix", "restart", "regularly")
            )
        )
    walls = at(profile, "prefix", "isolation")
    if isinstance(walls, Mapping):
        apart, together = percent(at(walls, "hit_rate_isolated")), percent(at(walls, "hit_rate_shared"))
        yield (
            f"Caches kept apart for each of {plural(at(walls, 'tenants'), 'tenant')} (cache_salt) would hit "
            + (f"as often, {apart}." if apart == together else f"{apart} in place of {together}.")
        )
    for row in rows_of(profile, "prefix", "churn")[:1]:
        yield (
            f"{count(at(row, 'models'))} models that take turns on one GPU would be loaded {plural(at(row, 'loads'), 'time')}, "
            f"which loses {_points(row)}."
        )


def _points(row: Profile) -> str:
    points = finite(at(row, "lost_points"))
    return "nothing" if not points else f"{100 * points:.1f} points of the hit rate"


def time_section(profile: Profile) -> Section | None:
    """The section, None where the profile has none of it."""
    parts: list[str | Table | Chart] = []
    rates = rows_of(profile, "prefix", "over_time", "hit_rate")
    if len(rates) > 1:
        caption = f"Share of input tokens found in an unbounded cache, in steps of {duration(at(profile, 'prefix', 'over_time', 'bin_s'))}."
        parts.append(Chart("hit_rate_over_time", "Hit rate over time", caption))
    parts.extend(time_facts(profile))
    head = ("Requests", "Input tokens", "Hit rate")
    hours = [row for row in rows_of(profile, "prefix", "over_time", "by_hour") if at(row, "requests")]
    if len(hours) > 1:
        rows = [(Cell(f"{count(at(row, 'hour')).zfill(2)}:00"), *_counts(row)) for row in hours]
        parts.append(Table("Sharing by hour of the day, UTC", ("Hour", *head), rows))
    turns = rows_of(profile, "prefix", "by_turn")
    if len(turns) > 1:
        rows = [
            (Cell(f"{count(at(row, 'turn'))}{' and later' if at(row, 'and_later') else ''}"), *_counts(row))
            for row in turns
        ]
        parts.append(Table("Sharing by turn of the session", ("Turn", *head), rows))
    losers = rows_of(profile, "prefix", "isolation", "losers")
    if losers:
        parts.append(
            Table(
                "Who would lose most if tenants shared no cache",
                ("Tenant", "Lost tokens", "Input tokens"),
                [
                    (
                        quote(at(row, "tenant"), "unnamed"),
                        num(count(at(row, "lost_tokens"))),
                        num(count(at(row, "input_tokens"))),
                    )
                    for row in losers
                ],
            )
        )
    churn = rows_of(profile, "prefix", "churn")
    if churn:
        parts.append(
            Table(
                "Models that take turns on a GPU: the one not asked for longest goes, and its cache with it",
                ("Models loaded at once", "Loads", "Hit rate", "Lost tokens"),
                [
                    (
                        num(count(at(row, "slots"))),
                        num(count(at(row, "loads"))),
                        ratio(at(row, "hit_rate")),
                        num(count(at(row, "lost_tokens"))),
                    )
                    for row in churn
                ],
            )
        )
    return Section("time", "Sharing over time", parts) if parts else None


def _counts(row: Profile) -> tuple[Cell, ...]:
    return num(count(at(row, "requests"))), num(count(at(row, "input_tokens"))), ratio(at(row, "hit_rate"))
