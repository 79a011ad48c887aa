"""Profile -> which engine this traffic favours, why, how sure: the rules the field agrees on, with the user's numbers.

Rules are the weakest evidence: they say where to look first. Only a replay on the user's hardware proves it.
"""

from __future__ import annotations

from typing import Any

SHARED = 0.5  # hit rate from which prefix reuse decides
FEW_USERS = 4  # requests in flight that a slot-based server holds side by side
MANY_MODELS = 4
FEW_REQUESTS = 100
TOO_FEW_REQUESTS = 10  # below, no engine is favoured

_SHARED_SOURCE = (
    "SGLang paper (arXiv 2312.07104): 50 to 99 % hit rate on the workloads where RadixAttention pays"
)
_USERS_SOURCE = "defaults: Ollama serves 1 request at a time (OLLAMA_NUM_PARALLEL), llama.cpp has 4 slots"
_MODELS_SOURCE = "convention: from about four models on, loading and memory of models decide"
_BLOCK_SOURCE = "defaults: SGLang matches single tokens (page size 1), vLLM whole blocks of 16"

CAVEAT = "These are rules of thumb applied to your numbers. Engines differ with model, hardware and version."


def verdict(profile: dict[str, Any]) -> dict[str, Any]:
    """The `verdict` of a profile: favoured engine, confidence (low, moderate), reasons with number, threshold, source."""
    prefix, load = profile.get("prefix"), profile.get("concurrency")
    models = len(profile["trace"]["models"])
    rates = (prefix or {}).get("hit_rate") or {}
    rate = next((r for r in rates.values() if r is not None), None)
    reasons: list[dict[str, str | None]] = []
    if not profile["trace"]["requests"]:
        return _answer("undecided", ["there is no request"], reasons, [])
    users = None if load is None else load["busy"]["p99"]
    if load is not None:
        reasons.append(
            {
                "text": (
                    "Few requests at once: batching has nothing to batch."
                    if load["busy"]["p99"] <= FEW_USERS
                    else "Many requests at once: continuous batching pays."
                ),
                "yours": f"{load['busy']['p99']} in flight (p99 of busy time), {load['peak']} at the peak"
                + ("" if load["measured"] else ", estimated"),
                "threshold": f"{FEW_USERS} in flight",
                "source": _USERS_SOURCE,
            }
        )
    if rate is not None:
        reasons.append(
            {
                "text": (
                    "Much of what arrives has been seen before: reuse of prefixes decides."
                    if rate >= SHARED
                    else "Most of what arrives is new: raw prefill and decode speed decide."
                ),
                "yours": f"{rate * 100:.1f} % of input tokens",
                "threshold": f"{SHARED * 100:.0f} %",
                "source": _SHARED_SOURCE,
            }
        )
    fine, coarse = rates.get("1"), rates.get("16")
    if fine is not None and coarse is not None:
        reasons.append(
            {
                "text": "What rounding down to vLLM's blocks costs against matching single tokens.",
                "yours": f"{(fine - coarse) * 100:.1f} points of hit rate",
                "threshold": None,
                "source": _BLOCK_SOURCE,
            }
        )
    if models >= MANY_MODELS:
        reasons.append(
            {
                "text": "Many models: a broad and moving zoo wants the engine with the widest model support.",
                "yours": f"{models} models",
                "threshold": f"{MANY_MODELS}",
                "source": _MODELS_SOURCE,
            }
        )
    if profile["trace"]["requests"] < TOO_FEW_REQUESTS:
        return _answer("undecided", [f"there are fewer than {TOO_FEW_REQUESTS} requests"], reasons, [])
    favoured = "undecided" if users is None and rate is None else _favoured(users, rate, models)
    return _answer(favoured, _unsure(profile, users, rate), reasons, _alternatives(favoured, models))


def _answer(
    favoured: str, unsure: list[str], reasons: list[dict[str, str | None]], alternatives: list[dict[str, str]]
) -> dict[str, Any]:
    return {
        "favoured": favoured,
        "confidence": "low" if unsure else "moderate",  # rules never prove: moderate is their best
        "unsure": unsure,
        "reasons": reasons,
        "checked_by": None,
        "split": None,
        "caveat": CAVEAT,
        "alternatives": alternatives,
    }


def _favoured(users: float | None, rate: float | None, models: int) -> str:
    if users is not None and users <= 1:
        return "Ollama or llama.cpp"
    if models >= MANY_MODELS:
        return "vLLM"
    if rate is not None and rate >= SHARED:
        return "llama.cpp" if users is not None and users <= FEW_USERS else "SGLang"
    if users is not None and users <= FEW_USERS:
        return "llama.cpp"
    return "vLLM"


def _unsure(profile: dict[str, Any], users: float | None, rate: float | None) -> list[str]:
    """Why confidence is low: inputs that are missing, estimated, few, or close to their threshold."""
    load = profile.get("concurrency")
    why = []
    if rate is None:
        why.append("nothing is known of shared prefixes")
    elif abs(rate - SHARED) < 0.1:
        why.append(f"the hit rate is within 10 points of {SHARED * 100:.0f} %")
    if users is None or load is None:
        why.append("nothing is known of concurrency")
    elif not load["measured"]:
        why.append("concurrency is an estimate")
    elif FEW_USERS / 2 <= users <= FEW_USERS * 2:
        why.append(f"concurrency is within a factor 2 of {FEW_USERS}")
    if not profile["tokenizer"]["exact"]:
        why.append("token counts are estimates")
    if profile["trace"]["requests"] < FEW_REQUESTS:
        why.append(f"there are fewer than {FEW_REQUESTS} requests")
    return why


def _alternatives(favoured: str, models: int) -> list[dict[str, str]]:
    out = []
    if models == 1 and favoured in ("SGLang", "vLLM"):
        out.append(
            {
                "engine": "TensorRT-LLM",
                "when": "the hardware is NVIDIA only, the model stays for months, and the last bit of throughput is "
                "worth a build of about half an hour per model and GPU",
            }
        )
    return out
