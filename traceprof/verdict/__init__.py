"""Profile (and comparison) -> which engine this traffic favours, why, how sure, and at which number that would flip.

    verdict(profile)                       rests on profile["simulation"] where there is one, else on rules
    verdict(profile, comparison)           rests on the comparison of a replay, where it tells anything

Trust goes replay, simulation, rules; `checked_by` says which one it is (null: rules), and where they disagree `disagreements` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from traceprof.verdict import evidence, flips, rules
from traceprof.verdict.evidence import Evidence
from traceprof.verdict.inputs import ROUTED, Input, inputs, names, percent, reasons
from traceprof.verdict.rules import Constraints, Facts, label
from traceprof.verdict.split import best_split

__all__ = ["Constraints", "verdict"]

CAVEATS = {
    "rules": "These are rules of thumb applied to your numbers. Engines differ with model, hardware and version.",
    "simulation": "A simulation on published hardware figures, not a measurement: differences under 10 % mean nothing.",
    "replay": "It holds for the workload, the versions, the settings and the hardware that were replayed.",
}


def verdict(
    profile: Mapping[str, Any],
    comparison: Mapping[str, Any] | None = None,
    constraints: Constraints | None = None,
) -> dict[str, Any]:
    """The `verdict` of a profile, as docs/verdict.md describes it."""
    wanted = constraints or Constraints()
    of = Facts.of(profile, wanted)
    told = inputs(profile, of, wanted)
    sources = _sources(profile, comparison, of, told)
    found = next((one for one in sources if one.engines), sources[0])
    if of.requests < rules.TOO_FEW_REQUESTS and found.by != "replay":
        why = (
            f"there are fewer than {rules.TOO_FEW_REQUESTS} requests"
            if of.requests
            else "there is no request"
        )
        found = Evidence("rules", (), "Too few requests to favour an engine.", [], [], None, [why], [])
        return _answer(of, found, told if of.requests else [], [], [], None, [], [])
    turning = _flips(profile, of, found)
    disagreements = _disagreements(sources, found)
    weak = [*_weak(profile, of, found), *found.weak, *_near(turning, found)]
    silent = sources[: sources.index(found)]  # more trusted, and no answer
    weak += [f"the {one.by} does not tell" for one in silent]
    weak += _other_case(profile, of, wanted)
    split = None if found.by == "replay" else best_split(profile, of)
    return _answer(
        of,
        found._replace(
            weak=list(dict.fromkeys(weak)), headline=" ".join(one.headline for one in (*silent, found))
        ),
        told,
        turning,
        disagreements,
        split,
        _alternatives(of, found),
        list(_advice(profile, of, found)),
    )


def _sources(
    profile: Mapping[str, Any], comparison: Mapping[str, Any] | None, of: Facts, told: Sequence[Input]
) -> list[Evidence]:
    """What there is to go by, the most trusted first; rules are always there."""
    simulated = evidence.by_simulation(profile, of)
    compared = None if comparison is None else evidence.by_comparison(comparison)
    return [one for one in (compared, simulated, evidence.by_rules(of, told)) if one is not None]


def _answer(
    of: Facts,
    found: Evidence,
    told: Sequence[Input],
    turning: Sequence[flips.Flip],
    disagreements: list[str],
    split: dict[str, Any] | None,
    alternatives: list[dict[str, str]],
    advice: list[str],
) -> dict[str, Any]:
    return {
        "favoured": _favoured(of, found),
        "engines": list(found.engines),
        "headline": found.headline,
        "confidence": _confidence(found, disagreements),
        "unsure": [*found.weak, *found.caps],
        "reasons": [*found.reasons, *reasons(list(told), of)],
        "checked_by": None if found.by == "rules" else found.by,
        "disagreements": disagreements,
        "inputs": [one._asdict() for one in told],
        "flips": [one._asdict() for one in turning],
        "ranking": found.ranking,
        "margin": found.margin,
        "split": split,
        "advice": advice,
        "caveat": CAVEATS[found.by],
        "alternatives": alternatives,
    }


def _favoured(of: Facts, found: Evidence) -> str:
    """The engines in words; of many that a simulation cannot part the first, and those that the rules favour, too."""
    if not found.engines:
        return "undecided"
    first, *others = found.engines
    if found.by == "simulation" and set(found.engines) & set(rules.choose(of)):
        others = [name for name in others if name in rules.choose(of)]
    return names([first, *others][:_NAMED])


_NAMED = 3  # engines in one breath


def _confidence(found: Evidence, disagreements: list[str]) -> str:
    """High only with a live replay whose control held; low where a number is missing, estimated, few, or close to a flip."""
    if found.weak or not found.engines:
        return "low"
    return "high" if found.sure and not disagreements else "moderate"


def _flips(profile: Mapping[str, Any], of: Facts, found: Evidence) -> list[flips.Flip]:
    """Of the evidence it rests on, and by the rules where that does not tell."""
    told = profile.get("simulation")
    simulated: list[flips.Flip] = []
    if found.by == "simulation" and found.engines and told:
        simulated = flips.by_simulation(told, of, found.engines, light=found.light)
    known = {flip.input for flip in simulated}
    return [*simulated, *(flip for flip in flips.by_rules(of) if flip.input not in known)]


def _near(turning: Sequence[flips.Flip], found: Evidence) -> Iterator[str]:
    yield from (
        f"it is close to a flip: {flip.label} {flip.text}"
        for flip in turning
        if flip.near and flip.by == found.by
    )


def _disagreements(sources: Sequence[Evidence], found: Evidence) -> list[str]:
    """What less trusted evidence favours instead, where it shares no engine with the verdict."""
    less = [] if found.light else sources[sources.index(found) + 1 :]
    apart = (one for one in less if one.engines and not set(one.engines) & set(found.engines))
    return [f"the {one.by} would favour {names(one.engines)}" for one in apart]


def _weak(profile: Mapping[str, Any], of: Facts, found: Evidence) -> Iterator[str]:
    """Inputs that are missing, estimated, or few. A replay measured what it rests on."""
    if found.by == "replay":
        return
    if of.hit_rate is None:
        yield "nothing is known of shared prefixes"
    load = profile.get("concurrency")
    if load is None:
        yield "nothing is known of concurrency"
    elif not load["measured"] and found.by == "rules":  # a simulation finds its own
        yield "concurrency is an estimate"
    if not profile["tokenizer"]["exact"]:
        yield "token counts are estimates"
    if of.requests < rules.FEW_REQUESTS:
        yield f"there are fewer than {rules.FEW_REQUESTS} requests"


def _other_case(profile: Mapping[str, Any], of: Facts, constraints: Constraints) -> Iterator[str]:
    """Where the simulation is not of what the team said: other hardware, or other objectives."""
    told = profile.get("simulation")
    if not told:
        return
    machine = told["machine"]
    if of.hardware not in (None, machine["vendor"]):
        yield f"the simulation is of {machine['label']}, not of the hardware that was named"
    if any(told["slo"].get(f"{name}_s") != limit for name, limit in (constraints.slo or {}).items()):
        yield f"the simulation is of other objectives, {evidence.slo_words(told['slo'])}"


def _alternatives(of: Facts, found: Evidence) -> list[dict[str, str]]:
    """What the numbers of a log do not tell."""
    known = {*found.engines, *(row["engine"] for row in found.ranking)}
    out = []
    if (
        of.models == 1
        and of.hardware in (None, "nvidia")
        and {"sglang", "vllm"} & set(found.engines)
        and "tensorrt_llm" not in known
    ):
        out.append(
            {
                "engine": label("tensorrt_llm"),
                "when": "the hardware is NVIDIA only, the model stays for months, and the last bit of throughput is worth the care "
                "(in releases that build an engine, about half an hour per model and GPU)",
            }
        )
    if found.by == "rules" and found.engines == ("vllm",) and of.hardware != "apple":
        out.append(
            {
                "engine": label("sglang"),
                "when": "you run it already: where little is shared the two are within a few percent of each other in published comparisons",
            }
        )
    return out


def _advice(profile: Mapping[str, Any], of: Facts, found: Evidence) -> Iterator[str]:
    """What to do, whatever the engine: mend what breaks sharing, route by prefix, set what defaults leave off, measure."""
    mended = max(
        (b["hit_rate_after"] for b in profile.get("breakers") or [] if b.get("hit_rate_after")), default=0.0
    )
    before = of.hit_rate
    if before is not None and mended - before >= ROUTED:
        then = rules.choose(of._replace(hit_rate=mended))
        flip = f", which by the rules favours {names(then)}" if then != rules.choose(of) else ""
        yield f"Mend what breaks sharing first: the hit rate would be {percent(mended)} in place of {percent(before)}{flip}."
    yield from _routing(profile, of)
    yield from _unlike_parts(profile, of)
    named = {*found.engines, *(row["engine"] for row in found.ranking if not row["excluded"])}
    if of.users is not None and 1 < of.users <= rules.FEW_USERS and "ollama" in named:
        yield "Ollama serves one request at a time unless told otherwise: with OLLAMA_NUM_PARALLEL=4 it serves as llama.cpp does."
    if found.engines[:1] == ("sglang",) and of.hit_rate is not None and of.hit_rate >= rules.SHARED:
        yield "SGLang serves first come, first served: with --schedule-policy lpm those whose prefix is cached go first."
    if of.models >= rules.MANY_MODELS:
        yield "Models are served apart anyway, so each may have the engine that suits it, behind one router: simulate or replay them one by one."
    if found.by != "replay" and found.engines:
        chosen = " and ".join(names((name,)) for name in found.engines[:2])
        yield (
            f"Prove it on your hardware: `traceprof workload TRACE -o shared.parquet --variant shared`, the same with `unique`, then "
            f"`traceprof replay shared.parquet unique.parquet` against {chosen}."
        )


def _routing(profile: Mapping[str, Any], of: Facts) -> Iterator[str]:
    """What routing by prefix is worth, from the caches of several replicas."""
    rows = ((profile.get("cache") or {}).get("replicas") or {}).get("rows") or []
    counts = [row["replicas"] for row in rows]
    few = of.users is not None and of.users <= rules.FEW_USERS
    if not counts or few:
        return
    most = [row for row in rows if row["replicas"] == max(counts) and row["hit_rate"] is not None]
    plain = next((row for row in most if row["policy"] == "round_robin"), None)
    best = max(most, key=lambda row: row["hit_rate"], default=None)
    if plain is None or best is None or best["hit_rate"] - plain["hit_rate"] < ROUTED:
        return
    yield (
        f"With more than one replica route by prefix: {best['replicas']} replicas hit {percent(best['hit_rate'])} with "
        f"{best['label']}, {percent(plain['hit_rate'])} with round robin."
    )


def _unlike_parts(profile: Mapping[str, Any], of: Facts) -> Iterator[str]:
    """Models, or tenants, of which some share much and others hardly anything: two engines may serve them better than one."""
    few = of.users is not None and of.users <= rules.FEW_USERS
    for key, noun in (("by_model", "models"), ("by_tenant", "tenants")):
        groups = (profile.get("prefix") or {}).get(key) or {}
        whole = sum(group["input_tokens"] for group in groups.values())
        shares = {
            name: (rate, group["input_tokens"] / whole)
            for name, group in groups.items()
            if (rate := next((r for r in group["hit_rate"].values() if r is not None), None)) is not None
        }
        much = [part for rate, part in shares.values() if rate >= rules.SHARED]
        little = [part for rate, part in shares.values() if rate < rules.SHARED]
        if not few and min(sum(much), sum(little)) >= ROUTED:
            yield (
                f"Your {noun} are not alike: {len(much)} of them share more than {rules.SHARED * 100:.0f} % ({percent(sum(much))} of input tokens), "
                f"{len(little)} less: a simulation or replay of each tells whether two engines serve them better than one."
            )
