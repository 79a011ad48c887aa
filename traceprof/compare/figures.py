"""What each engine did on a workload: means over its valid runs of what `latency.summary` has for each, with costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from traceprof.compare import costs
from traceprof.compare.pairs import TOO_LITTLE
from traceprof.compare.runs import Block, Compared, Contender

SHOWN = ("ttft", "tpot", "itl", "e2e")
MARKS = ("mean", "p50", "p90", "p95", "p99", "max")


def mean(values: Sequence[Any]) -> float | None:
    """Of those that are known.

    >>> mean([1.0, None, 3.0]), mean([None])
    (2.0, None)
    """
    known = [value for value in values if value is not None]
    return float(sum(known) / len(known)) if known else None


def under(told: Any, *keys: str) -> Any:
    """The value under nested keys; None where one is missing."""
    for key in keys:
        told = told.get(key) if isinstance(told, Mapping) else None
    return told


def of_engine(
    one: Contender, compared: Compared, objectives: Mapping[str, float], usd_per_hour: float | None
) -> dict[str, Any]:
    """One engine's side of the table. Runs at other speeds than the compared one are those of a sweep, and only in its result."""
    blocks = one.at(compared.speed)
    summaries = [under(block.told, "summary") or {} for block in blocks]
    tokens_per_s = mean([s.get("output_tokens_per_s") for s in summaries])
    requests_per_s = mean([s.get("requests_per_s") for s in summaries])
    good = [block.seen.meets(objectives) for block in blocks] if objectives else []
    spans = [s.get("window_s") for s in summaries]
    asked = sum(s.get("requests") or 0 for s in summaries)
    errors: dict[str, int] = {}
    for s in summaries:
        for outcome, count in (s.get("outcomes") or {}).items():
            if outcome != "ok":
                errors[outcome] = errors.get(outcome, 0) + count
    per_million = costs.dollars_per(usd_per_hour, tokens_per_s)
    best = _best_block(one)
    at_best = (
        costs.dollars_per(usd_per_hour, under(best.told, "summary", "output_tokens_per_s")) if best else None
    )
    last = blocks[-1].told if blocks else {}
    return {
        "engine": one.engine, "label": under(last, "engine", "label"), "version": under(last, "server", "version"),
        "model": under(last, "server", "model"), "capacity_tokens": under(last, "server", "capacity_tokens"),
        "runs": len(one.blocks), "valid_runs": len(one.valid), "compared_runs": len(blocks), "requests": asked,
        "hit_rate": {
            "told": mean([_told_rate(block) for block in blocks]),
            "predicted": mean([under(block.told, "cache", "predicted_hit_rate") for block in blocks]),
        },
        "throughput": {"requests_per_s": requests_per_s, "output_tokens_per_s": tokens_per_s},
        "latency": {
            name: {mark: mean([under(s, name, mark) for s in summaries]) for mark in MARKS} for name in SHOWN
        },
        "goodput_per_s": mean([float((g == 1).sum()) / s for g, s in zip(good, spans, strict=True) if s]) if good else None,
        "slo_share": mean([float((g == 1).sum() / max(1, (g >= 0).sum())) for g in good]),
        "max_speed": under(one.sweep, "speed"), "max_rate_per_s": _rate(one, compared),
        "errors": errors, "failed_share": sum(errors.values()) / asked if asked else None,
        "cold_start_s": mean([under(block.told, "server", "cold_start_s") for block in one.blocks]),
        "usd_per_hour": usd_per_hour,
        "usd_per_million_tokens": None if per_million is None else per_million * costs.MILLION,
        "usd_per_million_tokens_at_max_rate": None if at_best is None else at_best * costs.MILLION,
        "usd_per_request": costs.dollars_per(usd_per_hour, requests_per_s),
        "joules_per_token": mean([_joules(block) for block in blocks]),
    }  # fmt: skip


def _told_rate(block: Block) -> float | None:
    for keys in (("summary", "hit_rate"), ("counters", "hit_rate")):
        if (found := under(block.told, *keys)) is not None:
            return float(found)
    return None


def _joules(block: Block) -> float | None:
    """By output token."""
    span, tokens = under(block.told, "summary", "window_s"), under(block.told, "summary", "output_tokens")
    whole = costs.joules(block.run, span) if span and tokens else None
    return None if whole is None else whole / tokens


def _best_block(one: Contender) -> Block | None:
    """A run at the highest rate that held the SLO."""
    best = under(one.sweep, "speed")
    held = [
        block for block in one.valid if best is not None and block.speed == best and block.state.get("held")
    ]
    return held[-1] if held else None


def _rate(one: Contender, compared: Compared) -> float | None:
    """Requests a second at the highest speed that held the SLO."""
    speed, span_us = under(one.sweep, "speed"), compared.stated.get("span_us")
    return compared.rows / span_us * 1e6 * speed if speed and span_us else None


def by_rate(compared: Compared, margin: float) -> list[dict[str, Any]]:
    """Pairs by the highest rate that holds the SLO: between the highest that was seen to hold and the lowest above it that was not."""
    found = []
    ranges = {one.name: _range(one) for one in compared.contenders}
    for k, a in enumerate(compared.ranked):
        for b in compared.ranked[k + 1 :]:
            (a_low, a_high), (b_low, b_high) = ranges[a.name], ranges[b.name]
            low, high = (b_low / a_high if a_high < inf else 0.0), (b_high / a_low if a_low else inf)
            outcome: str = TOO_LITTLE
            reason: str | None = "the rates that were tried do not tell them apart"
            if low > 1 + margin:
                outcome, reason = "b", None
            elif high < 1 / (1 + margin):
                outcome, reason = "a", None
            elif 1 / (1 + margin) < low and high < 1 + margin:
                outcome, reason = "no practical difference", None
            found.append(
                {
                    "a": a.name, "b": b.name, "metric": "max_rate", "scale": "ratio", "ratio": b_low / a_low if a_low and b_low else None, "difference": None,
                    "low": low, "high": high if high < inf else None, "p": None, "p_holm": None, "outcome": outcome, "reason": reason,
                    "n_requests": 0, "n_sessions": 0, "session_blocks": 0, "blocks": 0, "drift": 0.0,
                    "speeds": {a.name: under(a.sweep, "speed"), b.name: under(b.sweep, "speed")},
                }
            )  # fmt: skip
    return found


def _range(one: Contender) -> tuple[float, float]:
    """Bounds of the highest speed that holds."""
    speed, failed = under(one.sweep, "speed"), under(one.sweep, "failed_at")
    return (float(speed) if speed else 0.0), (float(failed) if failed else inf)
