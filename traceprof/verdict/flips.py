"""At which number the verdict would flip, and how far the traffic is from it.

From the simulation's sweeps where the verdict rests on it, by straight lines between the points that were simulated; else from the
rules, which are asked again just beyond each of their thresholds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from traceprof.verdict import rules
from traceprof.verdict.evidence import MARGIN, contest, steady_speed
from traceprof.verdict.inputs import names, percent
from traceprof.verdict.rules import (
    FEW_USERS,
    MANY_MODELS,
    ROUNDING,
    SHARED,
    STRUCTURED,
    Facts,
    label,
)

_STEPS = 400  # of a sweep, between its ends
_NEAR_SHARE = 0.10
_NEAR_FACTOR = 2.0


class Flip(NamedTuple):
    """One number at which the verdict would be another."""

    input: str
    label: str
    yours: float | str | None
    at: float | str  # just beyond it
    side: str  # below, from, or is
    to: list[str]  # engines
    text: str  # behind the label
    near: bool  # and the engine to take first would not be among them
    by: str  # simulation or rules


def by_rules(of: Facts) -> list[Flip]:
    """The nearest number on each side of the traffic's at which the rules choose otherwise, input by input.

    >>> [(f.input, f.side, f.at, f.to) for f in by_rules(Facts(users=40, hit_rate=0.9, rounding=0.0)) if f.input == "hit_rate"]
    [('hit_rate', 'below', 0.5, ['vllm'])]
    """
    now = rules.choose(of)
    if not now:
        return []
    found = [flip for name in _BESIDE for flip in _nearest(of, now, name)]
    for kind, words in _HARDWARE.items():
        then = rules.choose(of._replace(hardware=kind))
        if kind != of.hardware and not set(then) >= set(now):
            text = f"if it is {words}: {names(then)}"
            found.append(
                Flip("hardware", "hardware", of.hardware, kind, "is", list(then), text, False, "rules")
            )
    then = rules.choose(of._replace(ops_team=not of.ops_team))
    if then != now:
        have, other = ("a team", "no team") if of.ops_team else ("no team", "a team")
        text = f"with {other} that builds and tunes engines: {names(then)}"
        found.append(Flip("ops_team", "operations", have, other, "is", list(then), text, False, "rules"))
    return found


_A_BIT = 1e-9
_BESIDE: Mapping[
    str, tuple[float, ...]
] = {  # the numbers right below and right above each threshold of the rules
    "hit_rate": (SHARED - _A_BIT, SHARED),
    "rounding": (ROUNDING, ROUNDING + _A_BIT),
    "users": (1, 2, FEW_USERS, FEW_USERS + 1),
    "models": (1, 2, MANY_MODELS - 1, MANY_MODELS),
    "structured": (STRUCTURED - _A_BIT, STRUCTURED),
}
_TITLES = {
    "hit_rate": "shared prefixes",
    "rounding": "hit rate at the engine's block",
    "users": "requests at once",
    "models": "models",
    "structured": "answers to a schema",
}
_HARDWARE = {"nvidia": "NVIDIA", "amd": "AMD", "apple": "Apple silicon", "cpu": "no GPU"}


def _nearest(of: Facts, now: tuple[str, ...], name: str) -> Iterator[Flip]:
    """The nearest number below and above the traffic's at which the rules choose others."""
    yours = getattr(of, name)
    if yours is None:
        return
    for down in (True, False):
        beyond = [x for x in _BESIDE[name] if (x < yours if down else x > yours)]
        for x in sorted(beyond, reverse=down):
            changed: dict[str, Any] = {name: x}
            then = rules.choose(of._replace(**changed))
            if then and then != now:
                yield _flip(name, float(yours), round(x, 6), down, now, then)
                break


def _flip(
    name: str, yours: float, at: float, down: bool, now: tuple[str, ...], then: tuple[str, ...]
) -> Flip:
    if name in ("users", "models"):
        where = f"{'up to' if down else 'from'} {at:g}{' in flight' if name == 'users' else ''}"
        distance = f"yours is {yours:g}"
        near = name == "users" and 1 / _NEAR_FACTOR <= yours / at <= _NEAR_FACTOR
    else:
        far = abs(yours - at)
        where = f"{'under' if down else 'from'} {percent(at)}"
        distance = f"{far * 100:.1f} points {'below' if down else 'above'} yours"
        near = far < (_NEAR_SHARE if name == "hit_rate" else _NEAR_SHARE / 5)
    near = near and now[0] not in then
    text = f"{where}: {names(then)} ({distance})"
    return Flip(name, _TITLES[name], yours, at, "below" if down else "from", list(then), text, near, "rules")


# ---- from the simulation's sweeps


def by_simulation(told: Mapping[str, Any], of: Facts, level: Sequence[str], *, light: bool) -> list[Flip]:
    """Where the sweep of sharing changes who leads, the load at which an engine stops to hold the objectives, and what a team would change."""
    most = steady_speed(told)

    def able(speeds: Mapping[str, float | None]) -> dict[str, float]:
        known = {n: s for n, s in speeds.items() if s is not None and rules.allowed(n, of) is None}
        return {n: min(s, most) for n, s in known.items()}

    now = able({name: one["max_speed"] for name, one in told["engines"].items()})
    found = [*_load(told, level, now, most)]
    if now and not light:
        points = (told.get("sweeps") or {}).get("sharing") or []
        found = [*_sharing(points, of, set(level), able), *found]
        team, _ = contest(now, of._replace(ops_team=not of.ops_team))
        if team[0] != level[0]:
            have, other = ("a team", "no team") if of.ops_team else ("no team", "a team")
            text = f"with {other} that builds and tunes engines: {names(team)} (simulated)"
            found.append(
                Flip("ops_team", "operations", have, other, "is", list(team), text, False, "simulation")
            )
    return found


Able: TypeAlias = Callable[[Mapping[str, float | None]], dict[str, float]]


def _sharing(points: Sequence[Mapping[str, Any]], of: Facts, now: set[str], able: Able) -> Iterator[Flip]:
    """The nearest hit rates on each side of the traffic's from which others are level, then ahead."""
    points = sorted(points, key=lambda p: p["hit_rate"])
    if len(points) < 2 or of.hit_rate is None:
        return
    low, high = points[0]["hit_rate"], points[-1]["hit_rate"]

    def at(rate: float) -> frozenset[str]:
        there = able(_between(points, rate))
        return frozenset(contest(there, of)[0]) if there else frozenset()

    yours = min(max(of.hit_rate, low), high)
    for down, end in ((True, low), (False, high)):
        here, x = at(yours), yours
        for _ in range(2):  # first level with others, then behind them
            change = _change(at, here, x, end)
            if change is None:
                break
            x, here = change
            if here != now:
                yield _overtaken(of.hit_rate, x, down, here, now)


def _overtaken(yours: float, rate: float, down: bool, then: frozenset[str], now: set[str]) -> Flip:
    lead = _in_order(then)
    who = f"{names(lead, 'and')} level" if len(lead) > 1 else names(lead)
    far = abs(yours - rate)
    text = (
        f"{'under' if down else 'from'} {percent(rate)}: {who} "
        f"({far * 100:.1f} points {'below' if down else 'above'} yours, simulated)"
    )
    near = far < _NEAR_SHARE and not then & now
    side = "below" if down else "from"
    return Flip("hit_rate", _TITLES["hit_rate"], yours, round(rate, 4), side, lead, text, near, "simulation")


def _in_order(of: Iterable[str]) -> list[str]:
    known = list(rules.SERVERS)
    return sorted(of, key=lambda name: known.index(name) if name in known else len(known))


def _between(points: Sequence[Mapping[str, Any]], rate: float) -> dict[str, float | None]:
    """Every engine's value at a hit rate, on straight lines between the points; None where one of the two is."""
    for a, b in itertools.pairwise(points):
        low, high = a["hit_rate"], b["hit_rate"]
        if low <= rate <= high:
            part = 0.0 if high == low else (rate - low) / (high - low)
            pairs = {name: (a["engines"][name], b["engines"].get(name)) for name in a["engines"]}
            return {
                n: None if None in pair else pair[0] + part * (pair[1] - pair[0]) for n, pair in pairs.items()
            }
    return {}


def _change(
    at: Callable[[float], frozenset[str]], here: frozenset[str], start: float, end: float
) -> tuple[float, frozenset[str]] | None:
    """Where, going from start to end, somebody else leads for the first time, to a thousandth of the way."""
    last = start
    for i in range(1, _STEPS + 1):
        x = start + (end - start) * i / _STEPS
        then = at(x)
        if then and then != here:
            good, bad = last, x
            while abs(bad - good) > 1e-4:
                middle = (good + bad) / 2
                good, bad = (middle, bad) if at(middle) == here else (good, middle)
            return bad, at(bad)
        last = x
    return None


def _load(
    told: Mapping[str, Any], level: Sequence[str], able: Mapping[str, float], most: float
) -> Iterator[Flip]:
    """Requests in flight from which the engine to take first no longer holds the objectives, and who still does.

    Twice the speed is taken to be twice the requests in flight.
    """
    points = (told.get("sweeps") or {}).get("users") or []
    yours = next((p["concurrency"] for p in points if p["speed"] == 1), None)
    first = level[0]
    if (
        not yours or first not in able or not 1 <= able[first] < most
    ):  # too little as it is, or too much to tell
        return
    end = able[first] * yours
    still = _in_order(n for n, speed in able.items() if speed > able[first] * (1 + MARGIN))
    text = (
        f"from {number(end)} on average: {label(first)} no longer holds the objectives, "
        f"{names(still) + ' would' if still else 'nor does another: more replicas'} (yours is {number(yours)}, simulated)"
    )
    near = able[first] < _NEAR_FACTOR and bool(still)
    yield Flip("users", _TITLES["users"], yours, float(f"{end:.4g}"), "from", still, text, near, "simulation")


def number(value: float) -> str:
    """A load as people write it.

    >>> number(2.168), number(31.2), number(7984.0)
    ('2.2', '31', '7,984')
    """
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"
