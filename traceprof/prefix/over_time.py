"""Hits over time: by the clock, from a cold start, by turn, and what is lost when a cache is emptied or split.

Everything here is made of two arrays, one entry a request in the order of arrival: input tokens, and hit tokens of
whatever cache is looked at. What needs another cache (emptied, split among tenants, lost with a model that had to go)
runs the infinite one over the same traffic, prompts only, each part by itself.

Every function returns plain lists and dicts; rates are hit tokens / input tokens, null where there are no tokens.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from traceprof.caches import infinite
from traceprof.caches.traffic import I64, Traffic

SECOND = 1_000_000
HOUR = 3600 * SECOND
NEAR = 0.01  # of the hit rate: what counts as warm again
_MINUTES = (1, 2, 5, 10, 15, 30)
_WIDTHS_S = (
    *_MINUTES,
    *(60 * m for m in _MINUTES),
    *(3600 * h for h in (1, 2, 4, 6, 12, 24)),
)  # seconds; above that whole days
_WINDOWS = 50  # in how many parts a trace is cut to see when it is warm
_FEWEST = 20  # requests in such a part


def over_time(
    arrival_us: I64, tokens: I64, hits: I64, *, zero_us: int | None = None, bins: int = 120
) -> dict[str, Any]:
    """Hit rate in equal bins of a round width, and by hour of the day (UTC) where the clock's zero is known.

    zero_us  unix time of arrival_us = 0
    bins     at most

    >>> of = over_time(np.array([0, 500_000, 1_000_000]), np.array([4, 4, 2]), np.array([0, 3, 2]))
    >>> of["bin_s"], of["offset_s"], of["hit_rate"], of["by_hour"]
    (1, [0, 1], [0.375, 1.0], None)
    """
    if not len(tokens):
        return {
            "bin_s": None,
            "offset_s": [],
            "requests": [],
            "input_tokens": [],
            "hit_rate": [],
            "by_hour": None,
        }
    first = int(arrival_us.min())
    span = int(arrival_us.max()) - first
    width = _width_s(span, bins)
    at = (arrival_us - first) // (width * SECOND)
    n = span // (width * SECOND) + 1
    sums = [np.bincount(at, weights, n).astype(np.int64) for weights in (None, tokens, np.maximum(hits, 0))]
    return {
        "bin_s": width,
        "offset_s": [width * i for i in range(n)],
        "requests": sums[0].tolist(),
        "input_tokens": sums[1].tolist(),
        "hit_rate": _rates(sums[2], sums[1]),
        "by_hour": None if zero_us is None else _by_hour(arrival_us + zero_us, tokens, hits),
    }


def warm_up(arrival_us: I64, tokens: I64, hits: I64) -> dict[str, Any] | None:
    """How long a cold cache takes: the requests without which the first half hits within a point of the second half's rate.

    None for fewer than 40 requests. `requests` are counted in stretches of a fiftieth of all, 20 at least; `curve` has
    rates of stretches that double in length: [requests from, requests to, hit rate].

    >>> n = np.arange(1000)
    >>> warm_up(n * 1_000_000, np.full(1000, 10), np.where(n < 200, 0, 8))["requests"]
    200
    """
    n = len(tokens)
    if n < 2 * _FEWEST:
        return None
    hits = np.maximum(hits, 0)
    half = n // 2
    steady = _rate(hits[half:], tokens[half:])
    if steady is None:
        return None
    warm = half
    for after in _edges(n):
        rate = _rate(hits[after:half], tokens[after:half])
        if after < half and rate is not None and rate >= steady - NEAR:
            warm = after
            break
    doubling = sorted({0, n, *(1 << k for k in range(n.bit_length()) if 1 << k < n)})
    return {
        "steady_hit_rate": steady,
        "requests": warm,
        "input_tokens": int(tokens[:warm].sum()),
        "seconds": float(arrival_us[warm - 1] - arrival_us[0]) / SECOND if warm else 0.0,
        "curve": [
            [low, high, _rate(hits[low:high], tokens[low:high])] for low, high in itertools.pairwise(doubling)
        ],
    }


def by_turn(sessions: I64, tokens: I64, hits: I64, *, limit: int = 20) -> list[dict[str, Any]]:
    """The first, second, ... request of each session, those from the limit on together; requests of session -1 not at all.

    >>> turns = by_turn(np.array([0, 1, 0, -1]), np.array([4, 4, 8, 5]), np.array([0, 2, 6, 5]))
    >>> [(t["turn"], t["requests"], t["hit_rate"]) for t in turns]
    [(1, 2, 0.25), (2, 1, 0.75)]
    """
    order = np.argsort(sessions, kind="stable")
    order = order[sessions[order] >= 0]
    of = sessions[order]
    begins = np.flatnonzero(np.diff(of, prepend=-1))
    turn = np.arange(len(of)) - np.repeat(begins, np.diff(np.append(begins, len(of))))
    turn = np.minimum(turn, limit - 1)
    n = int(turn.max()) + 1 if len(turn) else 0
    hits = np.maximum(hits, 0)
    count = np.bincount(turn, minlength=n)
    all_tokens = np.bincount(turn, tokens[order], n).astype(np.int64)
    all_hits = np.bincount(turn, hits[order], n).astype(np.int64)
    rates = _rates(all_hits, all_tokens)
    return [
        {
            "turn": i + 1,
            "and_later": i + 1 == limit,
            "requests": int(count[i]),
            "input_tokens": int(all_tokens[i]),
            "hit_tokens": int(all_hits[i]),
            "hit_rate": rates[i],
        }
        for i in range(n)
    ]


def isolation(
    traffic: Traffic, tenants: I64, names: Sequence[str] | None = None, *, limit: int = 10
) -> dict[str, Any]:
    """What it costs to keep tenants' caches apart (vLLM's and SGLang's cache_salt), in an infinite cache.

    tenants  [request]  a number for each tenant, at least 0; -1 for none: they share with one another

    >>> three = Traffic.of_lists([([1, 2], [], 0, 0), ([1, 2, 3], [], 1, 1), ([1, 2, 3, 4], [], 2, 2)])
    >>> cost = isolation(three, np.array([0, 1, 0]))
    >>> cost["hit_tokens_shared"], cost["hit_tokens_isolated"], cost["lost_tokens"]
    (5, 2, 3)
    """
    together = infinite.hits_in_groups(traffic, np.zeros(traffic.requests, np.int64))
    nobody = int(tenants.max(initial=-1)) + 1
    group = np.where(tenants < 0, nobody, tenants)
    apart = infinite.hits_in_groups(traffic, group)
    lost = np.bincount(group, together - apart, nobody + 1).astype(np.int64)
    used = np.bincount(group, traffic.prompt, nobody + 1).astype(np.int64)
    losers = sorted((t for t in range(nobody) if lost[t]), key=lambda t: (-int(lost[t]), t))[:limit]
    return {
        "tenants": len(np.unique(tenants[tenants >= 0])),
        **_lost(traffic.prompt, together, apart, "shared", "isolated"),
        "within_share": _share(apart, together),
        "losers": [
            {
                "tenant": str(t) if names is None else names[t],
                "lost_tokens": int(lost[t]),
                "input_tokens": int(used[t]),
            }
            for t in losers
        ],
    }


def restart(traffic: Traffic, every_us: Sequence[int] = (HOUR, 24 * HOUR)) -> dict[str, Any] | None:
    """What is lost when an infinite cache is emptied: once in the middle of the time, and regularly; None without times.

    `middle` also says how long it takes until a stretch of requests (as in `warm_up`) misses no more than one point.
    """
    if not traffic.requests or traffic.arrival_us[-1] == traffic.arrival_us[0]:
        return None
    since = traffic.arrival_us - traffic.arrival_us[0]
    span = int(since[-1])
    never = infinite.hits_in_groups(traffic, np.zeros(traffic.requests, np.int64))
    middle = _emptied(traffic, never, since, np.array([span // 2], np.int64))
    after = int(np.searchsorted(since, span // 2))
    gap = (never - infinite.hits_in_groups(traffic, (since >= span // 2).astype(np.int64)))[after:]
    recovered = None
    edges = _edges(len(gap))
    for low, high in itertools.pairwise(edges):
        missed = _rate(gap[low:high], traffic.prompt[after + low : after + high])
        if missed is not None and missed <= NEAR:
            recovered = high
            break
    return {
        "middle": {
            **middle,
            "recovered_after_requests": recovered,
            "recovered_after_s": None
            if recovered is None
            else float(since[after + recovered - 1] - span // 2) / SECOND,
        },
        "regularly": [
            {"every_s": every // SECOND, **_emptied(traffic, never, since, np.arange(every, span + 1, every))}
            for every in every_us
            if every <= span
        ],
    }


def churn(traffic: Traffic, models: I64, slots: Sequence[int] = (1, 2, 4)) -> list[dict[str, Any]]:
    """Models that take turns in a few slots: the one not asked for longest goes, and its cache with it.

    `loads` counts how often a model had to be loaded, the first time included.

    models  [request]  a number for each model; requests of -1 take no part

    >>> abab = Traffic.of_lists([([1, 2], [], t, t) for t in range(4)], roots=[0, 1, 0, 1])
    >>> [(row["loads"], row["hit_tokens"], row["lost_tokens"]) for row in churn(abab, np.array([0, 1, 0, 1]), (1, 2))]
    [(4, 0, 4), (2, 4, 0)]
    """
    asked = np.flatnonzero(models >= 0)
    never = infinite.hits_in_groups(traffic, np.where(models >= 0, models, -1))
    turns = np.flatnonzero(np.diff(models[asked], prepend=-1))  # where another model is asked for
    count = len(np.unique(models[asked]))
    rows = []
    for n in slots:
        loaded: OrderedDict[int, int] = (
            OrderedDict()
        )  # model -> which load of all, least recently asked first
        loads = 0
        load = np.empty(len(turns), np.int64)
        for i, model in enumerate(models[asked][turns].tolist()):
            if model not in loaded:
                if len(loaded) == n:
                    loaded.popitem(last=False)
                loaded[model] = loads
                loads += 1
            loaded.move_to_end(model)
            load[i] = loaded[model]
        group = np.full(traffic.requests, -1, np.int64)
        group[asked] = np.repeat(load, np.diff(np.append(turns, len(asked))))
        kept = infinite.hits_in_groups(traffic, group)
        loss = _lost(traffic.prompt[asked], never[asked], kept[asked], "never", "swapping")
        rows.append(
            {
                "slots": n,
                "models": count,
                "loads": loads,
                "hit_tokens": loss["hit_tokens_swapping"],
                "hit_rate": loss["hit_rate_swapping"],
                "lost_tokens": loss["lost_tokens"],
                "lost_points": loss["lost_points"],
            }
        )
    return rows


def _emptied(traffic: Traffic, never: I64, since: I64, at: I64) -> dict[str, Any]:
    """An infinite cache that is emptied at these times."""
    epochs = np.searchsorted(at, since, side="right").astype(np.int64)
    kept = infinite.hits_in_groups(traffic, epochs)
    return {"restarts": len(at), **_lost(traffic.prompt, never, kept, "never", "restarting")}


def _lost(tokens: I64, whole: I64, part: I64, whole_name: str, part_name: str) -> dict[str, Any]:
    """Two caches side by side, of which the second has less."""
    rates = [_rate(hits, tokens) for hits in (whole, part)]
    return {
        "input_tokens": int(tokens.sum()),
        f"hit_tokens_{whole_name}": int(whole.sum()),
        f"hit_tokens_{part_name}": int(part.sum()),
        f"hit_rate_{whole_name}": rates[0],
        f"hit_rate_{part_name}": rates[1],
        "lost_tokens": int(whole.sum() - part.sum()),
        "lost_points": None if rates[0] is None or rates[1] is None else rates[0] - rates[1],
    }


def _share(part: I64, whole: I64) -> float | None:
    total = int(whole.sum())
    return int(part.sum()) / total if total else None


def _by_hour(unix_us: I64, tokens: I64, hits: I64) -> list[dict[str, Any]]:
    """24 hours of the day, UTC."""
    hour = unix_us // HOUR % 24
    sums = [
        np.bincount(hour, weights, 24).astype(np.int64) for weights in (None, tokens, np.maximum(hits, 0))
    ]
    rates = _rates(sums[2], sums[1])
    return [
        {"hour": h, "requests": int(sums[0][h]), "input_tokens": int(sums[1][h]), "hit_rate": rates[h]}
        for h in range(24)
    ]


def _width_s(span_us: int, bins: int) -> int:
    """The first round number of seconds that needs at most so many bins."""
    for width in _WIDTHS_S:
        if span_us // (width * SECOND) < bins:
            return width
    day = 24 * 3600
    return day * -(-(span_us + 1) // (bins * day * SECOND))


def _edges(n: int) -> list[int]:
    """Bounds of stretches of n requests, nearly equal: a fiftieth, but at least 20 requests each; one is n // 2."""
    parts = 2 * max(1, min(_WINDOWS // 2, n // (2 * _FEWEST)))
    return [n * i // parts for i in range(parts + 1)]


def _rate(hits: I64, tokens: I64) -> float | None:
    return _share(hits, tokens)


def _rates(hits: I64, tokens: I64) -> list[float | None]:
    return [h / t if t else None for h, t in zip(hits.tolist(), tokens.tolist(), strict=True)]
