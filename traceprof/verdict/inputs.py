"""The decision inputs of the field, each with the user's number, the threshold it is held against, and where that is from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from traceprof.verdict import rules
from traceprof.verdict.rules import FEW_USERS, MANY_MODELS, ROUNDING, SHARED, Constraints, Facts, label

CHUNK = 8192  # tokens of prompts that an engine computes in one step
BURSTY = 2.0  # coefficient of variation of the gaps between arrivals
SWAP_SHARE = 0.05  # of the time: more than this spent on loading models hurts
LITTLE = 0.10  # hit rate below which it does not matter how an engine caches
ROUTED = 0.05  # of the hit rate, that a router must gain to be worth it

_SHARED_SOURCE = (
    "SGLang paper (arXiv 2312.07104): 50 to 99 % hit rate on the workloads where RadixAttention pays"
)
_USERS_SOURCE = "defaults: Ollama serves 1 request at a time (OLLAMA_NUM_PARALLEL), llama.cpp has 4 slots"
_MODELS_SOURCE = "convention: from about four models on, loading and memory of models decide"
_BLOCK_SOURCE = "defaults: SGLang matches single tokens (page size 1), vLLM whole blocks of 16; 5 points are what a replay can tell"
_CHUNK_SOURCE = (
    "defaults on an 80 GB card: vLLM max_num_batched_tokens, SGLang chunked_prefill_size, both 8,192"
)
_BURST_SOURCE = "random (Poisson) arrivals have 1"
_COLD_SOURCE = (
    "published H100 comparison: vLLM 62 s, SGLang 58 s, TensorRT-LLM 28 min with its engine build (releases since July 2026 "
    "have removed the build and load checkpoints)"
)


class Input(NamedTuple):
    """One number that decides, or would."""

    input: str
    label: str
    value: float | str | None
    yours: str
    threshold: str | None
    source: str
    means: str  # what follows
    decides: bool  # whether it is one of the verdict's reasons: the rules turned on it, or it stands out


def inputs(profile: Mapping[str, Any], of: Facts, constraints: Constraints) -> list[Input]:
    """All of them, in the order in which people ask; what the log does not tell says so."""
    found = (
        _prompt(profile),
        _output(profile, of),
        _hit_rate(of),
        _rounding(profile, of),
        *_cache(profile, of),
        _users(profile, of),
        _burst(profile, of),
        _models(of),
        *_swaps(profile),
        _hardware(of),
        _structured(of),
        _team(of),
        _slo(profile, constraints),
    )
    turned = rules.deciding(of)
    return [
        one._replace(decides=one.value is not None and (one.decides or one.input in turned)) for one in found
    ]


def reasons(found: list[Input], of: Facts) -> list[dict[str, str | None]]:
    """Those that decide, the strongest first."""
    turned = rules.deciding(of)
    strongest = sorted(
        (one for one in found if one.decides),
        key=lambda one: turned.index(one.input) if one.input in turned else len(turned),
    )
    return [
        {"text": one.means, "yours": one.yours, "threshold": one.threshold, "source": one.source}
        for one in strongest
    ]


def percent(share: float) -> str:
    """A ratio as people write it.

    >>> percent(0.9063)
    '90.6 %'
    """
    return f"{share * 100:.1f} %"


def seconds(value: float) -> str:
    """A time with the unit that fits.

    >>> seconds(0.05), seconds(2.0), seconds(1680), seconds(86_400)
    ('50 ms', '2 s', '28 min', '24 h')
    """
    if value < 1:
        return f"{value * 1000:.0f} ms"
    for unit, size in (("s", 1), ("min", 60)):
        if value < 120 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 3600:.3g} h"


def names(of: list[str] | tuple[str, ...], joint: str = "or") -> str:
    """Engines in a sentence.

    >>> names(["sglang", "vllm"]), names(("ollama", "llamacpp", "mlx_lm"))
    ('SGLang or vLLM', 'Ollama, llama.cpp or mlx-lm')
    """
    told = [label(name) for name in of]
    return told[0] if len(told) == 1 else f"{', '.join(told[:-1])} {joint} {told[-1]}"


def _prompt(profile: Mapping[str, Any]) -> Input:
    known = (profile.get("lengths") or {}).get("input")
    if known is None:
        return _unknown("prompt_tokens", "prompt length", "tokens", _CHUNK_SOURCE)
    long = known["p99"] > CHUNK
    means = (
        "Some prompts take several steps to compute: while they do, decoding must go on beside them (chunked prefill, which vLLM mixes "
        "into decoding steps and SGLang runs between them)."
        if long
        else "Prompts fit into one step of an engine: chunked prefill decides nothing."
    )
    yours = f"{known['p50']:,.0f} tokens, p99 {known['p99']:,.0f}"
    return Input(
        "prompt_tokens",
        "prompt length",
        known["p50"],
        yours,
        f"{CHUNK:,} tokens",
        _CHUNK_SOURCE,
        means,
        long,
    )


def _output(profile: Mapping[str, Any], of: Facts) -> Input:
    lengths = profile.get("lengths") or {}
    known, prompt = lengths.get("output"), lengths.get("input")
    if known is None:
        return _unknown("output_tokens", "output length", "tokens", "your log")
    yours = f"{known['p50']:,.0f} tokens, p99 {known['p99']:,.0f}"
    means = "Each output token is a pass over the weights, shared by all who decode at that moment."
    if prompt is not None and known["mean"]:
        computed = prompt["mean"] * (1 - (of.hit_rate or 0.0)) / known["mean"]
        means = (
            f"For each output token {computed:.3g} prompt tokens are computed that no cache spares. " + means
        )
    return Input("output_tokens", "output length", known["p50"], yours, None, "your log", means, False)


def _hit_rate(of: Facts) -> Input:
    if of.hit_rate is None:
        return _unknown("hit_rate", "shared prefixes", f"{SHARED * 100:.0f} %", _SHARED_SOURCE)
    if of.hit_rate < SHARED:
        means = "Most of what arrives is new: raw prefill and decode speed decide" + (
            ", and engines' caches make no difference."
            if of.hit_rate < LITTLE
            else " before engines' caches."
        )
    elif of.users is not None and of.users <= FEW_USERS:
        means = "Much of what arrives has been seen before: a server that keeps each conversation's cache spares it, as all of these do."
    else:
        means = "Much of what arrives has been seen before: reuse of prefixes decides."
    return Input(
        "hit_rate",
        "shared prefixes",
        of.hit_rate,
        f"{percent(of.hit_rate)} of input tokens",
        f"{SHARED * 100:.0f} %",
        _SHARED_SOURCE,
        means,
        False,
    )


def _rounding(profile: Mapping[str, Any], of: Facts) -> Input:
    cached = (profile.get("cache") or {}).get("engines") or {}
    by_engine = ", ".join(
        f"{label(name)} {percent(cached[name]['hit_rate'])} ({cached[name]['block_size']})"
        for name in ("sglang", "vllm", "tensorrt_llm", "lmdeploy")
        if name in cached and cached[name]["hit_rate"] is not None
    )
    if of.rounding is None:
        return _unknown(
            "rounding", "hit rate at the engine's block", f"{ROUNDING * 100:.0f} points", _BLOCK_SOURCE
        )
    loses = of.rounding > ROUNDING
    means = (
        "Whole blocks lose much of what single tokens match: an engine that matches tokens is ahead."
        if loses
        else "What rounding down to vLLM's blocks costs against matching single tokens: too little to part the engines."
    )
    yours = f"{of.rounding * 100:.1f} points" + (f"; by engine and block: {by_engine}" if by_engine else "")
    return Input(
        "rounding",
        "hit rate at the engine's block",
        of.rounding,
        yours,
        f"{ROUNDING * 100:.0f} points",
        _BLOCK_SOURCE,
        means,
        loses,
    )


def _cache(profile: Mapping[str, Any], of: Facts) -> Iterator[Input]:
    """What is shared against what a machine holds; not for a machine that nobody named, where the hardware is another kind."""
    cache = profile.get("cache") or {}
    machine, cached = cache.get("machine") or {}, (cache.get("engines") or {}).get("vllm") or {}
    holds, sets = machine.get("capacity_tokens"), cache.get("working_set_tokens") or {}
    wanted = sets.get("99%")
    if (of.hit_rate or 0.0) < ROUTED or holds is None or wanted is None:
        return
    if not (machine["given"] or of.hardware in (None, "nvidia", "amd")):
        return
    lost = max(0.0, (of.hit_rate or 0.0) - (cached.get("hit_rate") or 0.0) - (of.rounding or 0.0))
    scarce = lost >= ROUTED and wanted > holds
    means = "What is shared stays in the cache of one machine."
    if scarce:
        means = (
            f"One machine's cache forgets what is shared: {percent(lost)} of input tokens that a larger one would have. More memory, a host "
            "tier (SGLang's hierarchical cache, vLLM's KV offloading), or several replicas with routing by prefix."
        )
    waited = cached.get("waited_requests") or 0
    if waited:
        means += f" Kept as long as in your log, {waited:,} requests would wait for room: plan for more than one replica."
    yield Input(
        "cache_tokens",
        "cache it takes",
        wanted,
        f"{wanted:,} tokens for 99 % of the hits, {sets['90%']:,} for 90 %",
        f"{holds:,} tokens",
        machine["label"] + ("" if machine["given"] else ", which nobody named"),
        means,
        scarce or bool(waited),
    )


def _users(profile: Mapping[str, Any], of: Facts) -> Input:
    load = profile.get("concurrency")
    if load is None or of.users is None:
        return _unknown("users", "requests at once", f"{FEW_USERS} in flight", _USERS_SOURCE)
    means = (
        "Few requests at once: batching has nothing to batch."
        if of.users <= FEW_USERS
        else "Many requests at once: continuous batching pays."
    )
    yours = f"{of.users} in flight (p99 of busy time), {load['peak']} at the peak"
    return Input(
        "users",
        "requests at once",
        of.users,
        yours + ("" if load["measured"] else ", estimated"),
        f"{FEW_USERS} in flight",
        _USERS_SOURCE,
        means,
        False,
    )


def _burst(profile: Mapping[str, Any], of: Facts) -> Input:
    known = profile.get("arrivals")
    if known is None or known.get("cv") is None:
        return _unknown("burst", "bursts", f"{BURSTY:g}", _BURST_SOURCE)
    bursty = known["cv"] >= BURSTY
    means = "Arrivals are steady: the mean rate is what to plan for."
    if bursty:
        means = f"Requests come in bursts, up to {known['rate_peak_1s']:,.0f} in a second: plan for the peak, not the mean."
        if (of.hit_rate or 0.0) >= SHARED:
            means += (
                " Of requests that arrive together and begin alike, vLLM computes the beginning once, SGLang once each until the "
                "first is through its prefill."
            )
    return Input(
        "burst",
        "bursts",
        known["cv"],
        f"coefficient of variation {known['cv']:.2g} of the gaps between arrivals",
        f"{BURSTY:g}",
        _BURST_SOURCE,
        means,
        bursty,
    )


def _models(of: Facts) -> Input:
    many = of.models >= MANY_MODELS
    means = (
        "Many models: a broad and moving zoo wants the engine with the widest model support, one server a model."
        if many
        else "Few models: each can have the engine that suits it."
        if of.models > 1
        else "One model: nothing has to be swapped."
    )
    return Input(
        "models",
        "models",
        of.models,
        f"{of.models} model{'' if of.models == 1 else 's'}",
        f"{MANY_MODELS}",
        _MODELS_SOURCE,
        means,
        many,
    )


def _swaps(profile: Mapping[str, Any]) -> Iterator[Input]:
    """What it costs when models take turns on few places: loads of the trace x the time that each takes; and what builds would."""
    rows = (profile.get("prefix") or {}).get("churn") or []
    span = profile["trace"].get("span_seconds")
    if not rows or not span:
        return
    simulated = (profile.get("simulation") or {}).get("engines") or {}
    load_s = (simulated.get("vllm") or {}).get("cold_start_s") or rules.SERVERS["vllm"].cold_start_s or 0.0
    build_s = rules.SERVERS["tensorrt_llm"].cold_start_s or 0.0
    most = rows[-1]
    hurts = most["loads"] * load_s > SWAP_SHARE * span
    means = (
        f"Models that take turns would spend the time loading ({seconds(load_s)} each): every model wants a place of its own."
        if hurts
        else "Models seldom take turns: they could be loaded as they are asked for."
    )
    means += f" Where engines are built first, {most['models']} models are {seconds(most['models'] * build_s)} of builds, again with each new version."
    loads = ", ".join(
        f"{row['loads']:,} with {row['slots']} place{'s' if row['slots'] > 1 else ''}" for row in rows
    )
    yield Input(
        "swaps",
        "loads of models",
        most["loads"],
        f"{loads}, of {most['models']} models in {seconds(span)}",
        f"{SWAP_SHARE * 100:.0f} % of the time",
        _COLD_SOURCE,
        means,
        False,
    )


def _hardware(of: Facts) -> Input:
    if of.hardware is None:
        return _unknown("hardware", "hardware", None, "--hardware", "not said")
    out = [name for name, server in rules.SERVERS.items() if of.hardware not in server.hardware]
    told = {"nvidia": "NVIDIA", "amd": "AMD", "apple": "Apple silicon", "cpu": "CPU"}[of.hardware]
    means = (
        f"{names(out, 'and')} {'is' if len(out) == 1 else 'are'} out." if out else "All engines run on it."
    )
    return Input("hardware", "hardware", of.hardware, told, None, "engines' installation pages", means, True)


def _structured(of: Facts) -> Input:
    source = "mlx-lm issue 1007, open: its server ignores response_format; Ollama's MLX runner did until August 2026 (17929)"
    threshold = f"{rules.STRUCTURED * 100:.0f} % of requests"
    if of.structured is None:
        return _unknown("structured", "answers to a schema", threshold, source)
    many = of.structured >= rules.STRUCTURED
    means = (
        "Answers must follow a schema: mlx-lm does not hold them to it, the others do."
        if many
        else "Hardly any answer must follow a schema."
    )
    yours = f"{percent(of.structured)} of requests"
    return Input("structured", "answers to a schema", of.structured, yours, threshold, source, means, many)


def _team(of: Facts) -> Input:
    yours = "a team that builds and tunes engines" if of.ops_team else "nobody said so"
    means = (
        "An engine that wants builds and tuning is affordable."
        if of.ops_team
        else "Of two that are equal, the one that needs no build goes first."
    )
    return Input("ops_team", "operations", str(of.ops_team).lower(), yours, None, "--ops-team", means, False)


def _slo(profile: Mapping[str, Any], constraints: Constraints) -> Input:
    simulated = (profile.get("simulation") or {}).get("slo") or {}
    limits = dict(constraints.slo or {})
    if not limits:
        limits = {k.removesuffix("_s"): v for k, v in simulated.items() if k.endswith("_s") and v is not None}
    if not limits:
        return _unknown("slo", "objectives", None, "--slo", "not said")
    told = ", ".join(f"{k.upper()} {seconds(v)}" for k, v in limits.items())
    given = constraints.slo is not None or bool(simulated.get("given"))
    yours = told if given else f"{told}: nobody said so"
    return Input(
        "slo",
        "objectives",
        told,
        yours,
        None,
        "--slo",
        "What counts as fast enough: the highest rate that keeps to it ranks the engines.",
        False,
    )


def _unknown(
    name: str, title: str, threshold: str | None, source: str, yours: str = "not in the log"
) -> Input:
    return Input(name, title, None, yours, threshold, source, "It takes no part in this verdict.", False)
