"""Whether parts of the traffic that favour different engines are worth two engines, and what the split gains.

A part that an engine serves up to s times its recorded rate takes 1 / s of a machine at the recorded rate. Parts that run at the same time
(models, tenants, prefixes) add up; hours do not, there the busiest one counts. The gain is how many more machines the best single
engine takes than the best engine of each part:

    models  chat 10x on vLLM, 5x on SGLang     1/10 + 1/8 with vLLM = 0.225
            code  8x on vLLM, 16x on SGLang    1/10 + 1/16 split    = 0.1625   38 % more capacity
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import ceil
from typing import Any, NamedTuple

from traceprof.verdict import rules
from traceprof.verdict.evidence import MARGIN
from traceprof.verdict.inputs import percent
from traceprof.verdict.rules import Facts, label
from traceprof.verdict.snippets import hour, snippets

_WORDS = {
    "model": "model",
    "tenant": "tenant",
    "hour": "hour of the day",
    "prefix": "prompts that begin with",
}


class Part(NamedTuple):
    """Requests of one model, tenant, hour or prefix."""

    value: str
    share: float  # of input tokens
    speeds: Mapping[str, float]  # engine -> multiple of the part's own rate that it serves


def best_split(profile: Mapping[str, Any], of: Facts) -> dict[str, Any] | None:
    """The split with the highest gain; None where none gains more than the margin over the best single engine."""
    parts = (profile.get("simulation") or {}).get("parts") or []
    kinds = list(dict.fromkeys(part["by"] for part in parts))
    found = [split for by in kinds if (split := _split(by, parts, of, profile)) is not None]
    return max(found, key=lambda split: float(split["gain"]), default=None)


def machines(parts: Sequence[Part], engine: Callable[[Part], str], together: bool) -> float:
    """Machines at the recorded rate: the sum of parts that run side by side, else the most of any.

    >>> two = [Part("chat", 0.5, {"vllm": 10.0}), Part("code", 0.5, {"vllm": 8.0})]
    >>> machines(two, lambda part: "vllm", True), machines(two, lambda part: "vllm", False)
    (0.225, 0.125)
    """
    taken = [1 / part.speeds[engine(part)] for part in parts]
    return sum(taken) if together else max(taken)


def _split(
    by: str, rows: Sequence[Mapping[str, Any]], of: Facts, profile: Mapping[str, Any]
) -> dict[str, Any] | None:
    parts = [
        Part(
            str(row["value"]),
            row["share"],
            {n: s for n, s in row["engines"].items() if s and rules.allowed(n, of) is None},
        )
        for row in rows
        if row["by"] == by
    ]
    if any(not part.speeds for part in parts):
        return None  # a part that no engine carries is no reason for two
    everywhere = [n for n in rules.SERVERS if parts and all(n in part.speeds for part in parts)]
    if len(parts) < 2 or not everywhere:
        return None
    together = by != "hour"
    single = min(everywhere, key=lambda n: machines(parts, lambda part: n, together))
    alone = machines(parts, lambda part: single, together)

    def own(part: Part) -> str:
        """The part's best engine, the single one where that is as good."""
        best = max(part.speeds, key=lambda n: part.speeds[n])
        near = single in part.speeds and part.speeds[best] <= part.speeds[single] * (1 + MARGIN)
        return single if near else best

    gain = alone / machines(parts, own, together) - 1
    if gain <= MARGIN:
        return None
    routes = {part.value: own(part) for part in parts}
    default = max(
        set(routes.values()), key=lambda n: (sum(p.share for p in parts if routes[p.value] == n), n)
    )
    whole = ceil(alone)
    pools = {
        n: machines([p for p in parts if routes[p.value] == n], own, together) for n in set(routes.values())
    }
    apart = sum(ceil(taken) for taken in pools.values())
    return {
        "by": by,
        "parts": [
            {
                "value": part.value,
                "share": part.share,
                "engine": routes[part.value],
                "label": label(routes[part.value]),
                "max_speed": part.speeds[routes[part.value]],
                "single_max_speed": part.speeds[single],
            }
            for part in parts
        ],
        "single": single,
        "default": default,
        "gain": gain,
        "machines": {"single": alone, "split": sum(pools.values()) if together else max(pools.values())},
        "replicas": {"single": whole, "split": apart},
        "pays_now": apart <= whole,
        "rule": " ".join(_rule(by, parts, routes, default)),
        "text": _text(by, gain, single, whole, apart, together),
        "config": snippets(by, {v: n for v, n in routes.items() if n != default}, default, _models(profile)),
    }


def _models(profile: Mapping[str, Any]) -> list[str]:
    return list(profile["trace"]["models"])


def _rule(by: str, parts: Sequence[Part], routes: Mapping[str, str], default: str) -> Iterator[str]:
    """The routing rule in words."""
    for engine in dict.fromkeys(routes[part.value] for part in parts):
        if engine == default:
            continue
        mine = [part for part in parts if routes[part.value] == engine]
        told = ", ".join(part.value if by != "hour" else f"{hour(part.value):02d}:00" for part in mine[:8])
        more = f" and {len(mine) - 8} more" if len(mine) > 8 else ""
        share = percent(sum(part.share for part in mine))
        unit = " (UTC)" if by == "hour" else ""
        yield f"{_WORDS.get(by, by).capitalize()} {told}{more}{unit} to {label(engine)} ({share} of input tokens)."
    yield f"All else to {label(default)}."


def _text(by: str, gain: float, single: str, whole: int, apart: int, together: bool) -> str:
    text = f"Split by {_WORDS.get(by, by).split(' ')[0]}: {gain * 100:.0f} % more traffic on the same machines than all of it on {label(single)}."
    if not together:
        text += " The engine is changed with the hour, and each change costs a cold start."
    if apart > whole:
        one = "one machine holds" if whole == 1 else f"{whole} machines hold"
        text += f" At today's rate {one} all of it on {label(single)}, the split takes {apart}: it pays once the traffic has grown."
    return text
