"""What is known beyond rules: engines ranked by simulation, and what a replay found; each says which engines are level.

Engines within the margin of the best are level: 10 % for a simulation, whatever the comparison was made with for a replay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from traceprof import engines
from traceprof.errors import UsageError
from traceprof.verdict import rules
from traceprof.verdict.inputs import Input, names
from traceprof.verdict.rules import FEW_USERS, Facts, label

MARGIN = 0.10  # of the highest rate: what a simulation cannot tell apart
SLACK = 2.0  # times the recorded rate that a simple server must hold to be enough


class Evidence(NamedTuple):
    """What one source says."""

    by: str  # replay, simulation or rules
    engines: tuple[str, ...]  # level with one another, the one to take first; none: nothing can be said
    headline: str
    reasons: list[dict[str, str | None]]
    ranking: list[dict[str, Any]]
    margin: float | None
    weak: list[str]  # what makes it weak
    caps: list[str]  # why it is not surer, though nothing is wrong
    sure: bool = False  # a replay whose control held
    light: bool = False  # so little load that the simplest server is enough


def by_rules(of: Facts, told: Sequence[Input] = ()) -> Evidence:
    """The weakest: the first choice of the rules, and what the strongest of the inputs says."""
    chosen = rules.choose(of)
    ranking: list[dict[str, Any]] = [
        {"engine": name, "label": label(name), "place": i + 1, "excluded": None}
        for i, name in enumerate(chosen)
    ]
    for name, server in rules.SERVERS.items():
        out, fits = rules.allowed(name, of), (of.hardware or "nvidia") in server.hardware
        if out is not None and fits:
            ranking.append({"engine": name, "label": label(name), "place": None, "excluded": out})
    if not chosen:
        headline = "Neither load nor sharing is known: no engine is favoured."
    elif len(chosen) > 1:
        headline = f"{names(chosen[:1])} first, {names(chosen[1:], 'and')} close to it: only a measurement parts them."
    else:
        headline = f"{names(chosen)} first."
    strongest = next((one.means for key in rules.deciding(of) for one in told if one.input == key), None)
    if chosen and strongest:
        headline += f" {strongest}"
    out_of_it = [row for row in ranking if row["excluded"]]
    headline += "".join(f" {row['label']} {row['excluded']}." for row in out_of_it)
    return Evidence(
        "rules", chosen, headline, [], ranking, None, [], ["these are rules, nothing was measured"]
    )


# ---- simulation


def by_simulation(profile: Mapping[str, Any], of: Facts) -> Evidence | None:
    """Engines by the highest multiple of the recorded rate that holds the SLO; None where there is no simulation that fits."""
    told = profile.get("simulation")
    if not told or not told.get("engines"):
        return None
    machine = told["machine"]
    if of.hardware not in (None, machine["vendor"]):
        return None  # of another machine than the one that was asked for
    ranking = _ranked(told, of)
    able = {
        row["engine"]: row["speed"] for row in ranking if row["excluded"] is None and row["speed"] is not None
    }
    few = told["requests"] < rules.FEW_REQUESTS <= of.requests
    weak = [f"only {told['requests']} requests were simulated"] if few else []
    reasons = _reasons(ranking, f"simulation: {machine['label']}, {slo_words(told['slo'])}")
    found = Evidence(
        "simulation", (), _none_holds(told, ranking), reasons, ranking, MARGIN, weak, _caps(told)
    )
    if not able:
        return found
    if of.users is not None and of.users <= FEW_USERS and (simple := _simple(able, of)):
        return found._replace(engines=simple, headline=_light(simple, able), light=True)
    level, ahead = contest(able, of)
    return found._replace(engines=level, headline=_headline(level, ahead, able, ranking))


def contest(able: Mapping[str, float], of: Facts) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Engines level with the best, the one to take first; and those ahead of them that want a team where there is none.

    >>> contest({"vllm": 10.0, "sglang": 9.5, "tensorrt_llm": 13.0}, Facts(users=40, hit_rate=0.9))
    (('sglang', 'vllm'), ('tensorrt_llm',))
    >>> contest({"vllm": 10.0, "tensorrt_llm": 13.0}, Facts(users=40, hit_rate=0.9, ops_team=True))
    (('tensorrt_llm',), ())
    """
    plain = {n: s for n, s in able.items() if of.ops_team or not rules.builds(n)} or able
    best = max(plain.values())
    level = [n for n, s in able.items() if best <= s * (1 + MARGIN)]
    ahead = tuple(n for n in level if n not in plain and able[n] > best * (1 + MARGIN))
    return tuple(rules.in_order((n for n in level if n not in ahead), of)), ahead


def steady_speed(told: Mapping[str, Any]) -> float:
    """The multiple of the recorded rate beyond which the traffic is over before an engine could fall behind: no steady load.

    Ten times as long as a request may take, and ten seconds at least, is what it must last.

    >>> engine = {"requests": 800, "requests_per_s": 8.0}
    >>> steady_speed({"engines": {"vllm": engine}, "slo": {"ttft_s": 2.0, "tpot_s": 0.1}})
    5.0
    """
    limits = [told["slo"].get(name) or 0.0 for name in ("ttft_s", "e2e_s")]
    spans = [
        one["requests"] / one["requests_per_s"]
        for one in told["engines"].values()
        if one.get("requests_per_s")
    ]
    return min(spans, default=float("inf")) / (_STEADY * max(1.0, *limits))


_STEADY = 10.0


def _simple(able: Mapping[str, float], of: Facts) -> tuple[str, ...]:
    """Servers of one program that hold the load with some slack."""
    fit = (n for n, s in able.items() if n in rules.SERVERS and rules.SERVERS[n].simple and s >= SLACK)
    return tuple(rules.in_order(fit, of))


def slo_words(slo: Mapping[str, Any]) -> str:
    """The objectives in words.

    >>> slo_words({"words": "TTFT 2 s, TPOT 100 ms", "quantile": 0.99})
    'TTFT 2 s, TPOT 100 ms for 99 % of requests'
    """
    return f"{slo['words']} for {slo['quantile'] * 100:g} % of requests"


def times(speed: float) -> str:
    """A multiple of the recorded rate.

    >>> times(0.42), times(14.21), times(260.0)
    ('0.42x', '14.2x', '260x')
    """
    return f"{speed:.2f}x" if speed < 1 else f"{speed:.1f}x" if speed < 100 else f"{speed:,.0f}x"


def _ranked(told: Mapping[str, Any], of: Facts) -> list[dict[str, Any]]:
    """One row an engine, best first; those that are out last."""
    most = steady_speed(told)
    rows: list[dict[str, Any]] = []
    for name, one in told["engines"].items():
        out = rules.allowed(name, of)
        if out is None and one["requests"] and one["refused"] >= one["requests"]:
            out = "refuses every request"
        speed = one["max_speed"]
        rows.append(
            {
                "engine": name,
                "label": label(name),
                "max_speed": speed,
                "speed": None if speed is None else min(speed, most),
                "at_least": speed is not None and (speed > most or bool(one.get("max_speed_capped"))),
                "relative": None,
                "slo_share": one["slo_share"],
                "replicas": one["replicas"],
                "usd_per_million_tokens": one["usd_per_million_tokens"],
                "excluded": out,
            }
        )
    rows.sort(key=lambda r: (r["excluded"] is not None, -(r["speed"] or 0.0), -(r["slo_share"] or 0.0)))
    best = next((r["speed"] for r in rows if r["excluded"] is None and r["speed"]), None)
    for row in rows:
        if best is not None and row["speed"] is not None:
            row["relative"] = row["speed"] / best
    return rows


def _held(row: Mapping[str, Any]) -> str:
    """How much of the load an engine holds, in words."""
    if row["speed"] is None:
        return "under the slowest tried"
    return f"{'at least ' if row['at_least'] else ''}{times(row['speed'])}"


def _reasons(ranking: list[dict[str, Any]], source: str) -> list[dict[str, str | None]]:
    shown = [row for row in ranking if row["excluded"] is None]
    if not shown:
        return []
    return [
        {
            "text": "The highest multiple of your recorded rate at which the objectives still hold, on one replica of the machine.",
            "yours": ", ".join(f"{row['label']} {_held(row)}" for row in shown),
            "threshold": f"{MARGIN * 100:.0f} % apart",
            "source": source,
        }
    ]


def _caps(told: Mapping[str, Any]) -> list[str]:
    caps = ["it is a simulation, not your hardware"]
    if told.get("of_requests") and told["requests"] < told["of_requests"]:
        caps.append(f"what was simulated is {told['window']}")
    fitted = told.get("calibrated") or []
    if not fitted:
        caps.append("its costs are not calibrated to a replay of yours")
    elif others := [name for name in told["engines"] if name not in fitted]:
        caps.append(
            f"only {names(list(fitted), 'and')} {'is' if len(fitted) == 1 else 'are'} calibrated, {names(others, 'and')} not"
        )
    most = steady_speed(told)
    capped = [one["max_speed"] for one in told["engines"].values() if one.get("max_speed_capped")]
    if capped or any((one["max_speed"] or 0.0) > most for one in told["engines"].values()):
        caps.append(
            f"the log is too short to tell engines apart beyond {times(min(most, *capped, most))} of its rate"
        )
    if not told["machine"].get("given"):
        caps.append(f"nobody named the machine: {told['machine']['label']} is assumed")
    if not told["slo"].get("given"):
        caps.append(f"nobody named objectives: {slo_words(told['slo'])} is assumed")
    return caps


def _headline(
    level: tuple[str, ...], ahead: tuple[str, ...], able: Mapping[str, float], ranking: list[dict[str, Any]]
) -> str:
    first, best = level[0], max(able[name] for name in level)
    held = {row["engine"]: _held(row) for row in ranking}
    if len(level) > 1:
        at_least = any(row["at_least"] for row in ranking if row["engine"] in level)
        text = (
            f"No practical difference between {names(level, 'and')}: all hold the objectives up to {'at least' if at_least else 'about'} "
            f"{times(best)} of the recorded rate, less than {MARGIN * 100:.0f} % apart. Take {label(first)}, by rule."
        )
    else:
        text = f"{label(first)} holds the objectives up to {held[first]} of the recorded rate"
        others = sorted(((s, n) for n, s in able.items() if n not in (first, *ahead)), reverse=True)
        text += (
            f", {label(others[0][1])} up to {held[others[0][1]]}." if others else "; no other engine does."
        )
    for name in ahead:
        text += f" {label(name)} holds {(able[name] / best - 1) * 100:.0f} % more, for a team that builds and tunes engines (--ops-team)."
    if best < 1:
        text += f" That is less than you have: it takes {replicas(best)} replicas."
    return text


def replicas(speed: float) -> int:
    """Replicas that a load takes of which one holds that multiple.

    >>> replicas(0.42), replicas(1.0), replicas(12.0)
    (3, 1, 1)
    """
    return max(1, -int(-1 / speed // 1))


def _light(simple: tuple[str, ...], able: Mapping[str, float]) -> str:
    first = simple[0]
    text = f"Light load: {label(first)} holds the objectives up to {times(able[first])} of the recorded rate, so the simplest server is enough"
    fastest = max(able, key=lambda name: able[name])
    if fastest not in simple and able[fastest] > able[first] * (1 + MARGIN):
        text += f"; {label(fastest)} would hold {times(able[fastest])}, which nobody asks for"
    return text + "."


def _none_holds(told: Mapping[str, Any], ranking: list[dict[str, Any]]) -> str:
    shares = [row for row in ranking if row["excluded"] is None and row["slo_share"] is not None]
    least = min((one["refused"] for one in told["engines"].values()), default=0)
    if least > (1 - told["slo"]["quantile"]) * told["requests"]:
        holds = told["machine"]["capacity_tokens"]
        return (
            f"{least:,} of {told['requests']:,} requests need more tokens than the KV cache of {told['machine']['label']} holds ({holds:,}): no engine "
            "serves them there. More GPUs for the model, cards with more memory, a smaller precision of weights or KV cache, or shorter prompts."
        )
    text = f"No engine holds {slo_words(told['slo'])} on {told['machine']['label']}, not even at the slowest rate tried"
    if shares:
        nearest = max(shares, key=lambda row: row["slo_share"])
        text += f"; {nearest['label']} comes closest, with {nearest['slo_share'] * 100:.1f} % at the recorded rate"
    return f"{text}. A faster machine, more GPUs for the model, or looser objectives."


# ---- replay


def by_comparison(comparison: Mapping[str, Any]) -> Evidence:
    """What the comparison of runs found: of live ones, or of simulated ones."""
    outcome, control = comparison["outcome"], comparison.get("control") or {}
    live = not comparison.get("simulated")
    what = "replay" if live else "simulated replay"
    favoured, words = outcome.get("favoured"), str(outcome.get("why") or "there is not enough data")
    same = outcome.get("outcome") == SAME
    among = [favoured] if favoured else list(outcome.get("among") or []) if same else []
    level = tuple(dict.fromkeys(engine_of(comparison, name) for name in among))
    if favoured:
        headline = f"{label(level[0])} won the {what}: {words}."
    elif level:
        headline = f"No practical difference between {names(level, 'and')} in the {what}: {words}."
    else:
        headline = f"The {what} does not tell: {words}."
    weak = [str(doubt) for doubt in outcome.get("doubts") or []]
    if control.get("ok") is False and not weak:
        weak.append("the control failed: an engine differs from itself")
    caps = [] if live else ["it is a simulation, not your hardware"]
    if control.get("ok") is None:
        caps.append("no engine was held against itself: there is no control")
    if comparison.get("split_by_variant"):
        caps.append(str(comparison["split_by_variant"]))
    margin = comparison.get("margin")
    results = comparison.get("results") or ["results"]
    source = f"{what}: {results if isinstance(results, str) else ', '.join(results)}"
    sure = live and bool(level) and control.get("ok") is True and outcome.get("trust", "full") == "full"
    return Evidence(
        "replay" if live else "simulation", level, headline, _pairs(comparison, among, margin, source), _compared(comparison), margin,
        weak, caps, sure,
    )  # fmt: skip


SAME = "no practical difference"
_SHOWN = 4


def _pairs(
    comparison: Mapping[str, Any], among: list[Any], margin: float | None, source: str
) -> list[dict[str, str | None]]:
    """The pairs of the verdict's engines, those of the metric that decided first."""
    metric = comparison["outcome"].get("metric")
    known = [
        pair
        for pair in comparison.get("pairs") or []
        if None not in (pair.get("ratio"), pair.get("low"), pair.get("high"))
        and {pair["a"], pair["b"]} & {*among}
    ]
    known.sort(key=lambda pair: pair["metric"] != metric)
    found: list[dict[str, str | None]] = []
    for pair in known[:_SHOWN]:
        a, b, told = pair["a"], pair["b"], pair.get("outcome")
        ratio = pair.get("scale", "ratio") == "ratio"
        size, low, high = (
            f"{pair[key]:.3f}" if ratio else f"{100 * pair[key]:+.1f} points"
            for key in ("ratio", "low", "high")
        )
        ahead = f"{pair[told]} is ahead" if told in ("a", "b") else str(told)
        found.append(
            {
                "text": f"{pair['metric']}: {ahead}.",
                "yours": f"{b} {'/' if ratio else '-'} {a} = {size} ({low} to {high})",
                "threshold": None if margin is None else f"{margin * 100:.0f} % apart",
                "source": source,
            }
        )
    return found


def engine_of(comparison: Mapping[str, Any], contender: Any) -> str:
    """The engine that a contender of a comparison is, or the contender's own name where two are the same engine."""
    kinds = {name: (of or {}).get("engine") or name for name, of in (comparison.get("engines") or {}).items()}
    kind = kinds.get(contender, contender)
    if list(kinds.values()).count(kind) > 1:
        return str(contender)
    try:
        return engines.engine(str(kind)).name
    except UsageError:
        return str(contender)


def _compared(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a contender, by goodput, then throughput."""
    rows = [
        {
            "engine": name,
            "label": label(name),
            "max_rate_per_s": (of or {}).get("max_rate_per_s"),
            "goodput_per_s": (of or {}).get("goodput_per_s"),
            "usd_per_million_tokens": (of or {}).get("usd_per_million_tokens"),
            "excluded": None,
        }
        for name, of in (comparison.get("engines") or {}).items()
    ]
    return sorted(rows, key=lambda r: (-(r["max_rate_per_s"] or 0.0), -(r["goodput_per_s"] or 0.0)))
