"""Profiles as the profiler writes them, built in memory: a rich one, and the ways in which a log can hold less.

`example()` is a coding assistant's afternoon; the variants each lack something or hold something hostile.
`write(folder, profile)` leaves a profile folder, with the series of `series(profile)`.
"""

from __future__ import annotations

import copy
import functools
import math
import random
from pathlib import Path
from typing import Any

import orjson

BLOCKS = ("1", "16", "32", "64", "128", "256", "512")


def log_histogram(
    rng: random.Random, n: int, mu: float, sigma: float, top: float
) -> tuple[list[list[float]], dict[str, float]]:
    values = sorted(min(top, max(1.0, rng.lognormvariate(mu, sigma))) for _ in range(n))
    low, high = math.log10(values[0]), math.log10(values[-1] + 1)
    edges = [10 ** (low + (high - low) * i / 40) for i in range(41)]
    bins = [[edges[i], edges[i + 1], sum(edges[i] <= v < edges[i + 1] for v in values)] for i in range(40)]
    at = {f"p{q}": float(round(values[min(n - 1, n * q // 100)])) for q in (50, 90, 95, 99)}
    return bins, {"mean": sum(values) / n, **at, "max": float(round(values[-1]))}


def example() -> dict[str, Any]:
    """A coding assistant's afternoon, with everything a profile can hold; a copy of one's own."""
    return copy.deepcopy(_example())


@functools.cache
def _example() -> dict[str, Any]:
    rng = random.Random(7)
    inputs, input_stats = log_histogram(rng, 12_345, 8.0, 1.0, 131_072)
    outputs, output_stats = log_histogram(rng, 12_345, 5.3, 0.9, 8_192)
    totals, total_stats = log_histogram(rng, 12_345, 8.2, 0.95, 139_264)
    input_tokens = 61_234_567
    rates = dict(zip(BLOCKS, (0.6243, 0.6178, 0.6121, 0.6012, 0.5811, 0.5402, 0.4689), strict=True))
    kept = {k: v + 0.0731 for k, v in rates.items()}
    mrc = []
    for i in range(200):
        capacity = round(10 ** (3 + 4.3 * i / 199))
        mrc.append([capacity, 0.6243 / (1 + math.exp(-2.6 * (math.log10(capacity) - 5.35)))])
    top = mrc[-1][1]
    mrc = [[c, r * 0.6243 / top] for c, r in mrc]

    def rate_at(capacity: int) -> float:
        return max(r for c, r in mrc if c <= capacity)

    previews = [
        "You are a senior software engineer working in a large monorepo. Follow the style guide below exactly and never change files that the task does not name. ## Style guide 1. Prefer small functions",
        "You are a helpful assistant. Answer in the language of the user.",
        "Translate the following support ticket into English, keep names and order numbers as they are:",
        'Given the JSON schema {"type": "object", "properties": {"sku": {"type": "string"}}} extract',
        "<|system|> You are ACME's billing agent. Today is Tuesday.",
        "Résumé en trois phrases, sans jargon : ",
        "以下の会議メモを箇条書きで要約してください。",
        None,
    ]
    saved = (18_234_112, 6_102_004, 3_991_220, 2_004_188, 1_188_040, 640_221, 301_002, 120_440)
    lengths = (4_812, 212, 31_204, 1_022, 904, 88, 120, 2_048)
    return {
        "schema_version": 1,
        "trace": {
            "name": "assistant-2026-05-04",
            "requests": 12_345,
            "rejects": 12,
            "rejects_by_reason": {"truncated_json": 12},
            "not_read": [{"file": "notes.txt", "reason": "text lines of no known format"}],
            "quality": {"tz_assumed": 9000},
            "skipped": {"embedding": 410, "duplicate": 3},
            "first_arrival": "2026-05-04T09:00:00.120000Z",
            "last_arrival": "2026-05-04T13:12:44.000000Z",
            "span_seconds": 15_163.88,
            "models": {"meta-llama/Llama-3.1-8B-Instruct": 10_100, "Qwen/Qwen2.5-Coder-32B-Instruct": 2_245},
            "formats": {"litellm": 12_345},
        },
        "tokenizer": {"name": "cl100k_base", "exact": False, "unit": 1, "source": "tokens", "note": "A stand-in: no tokenizer was named"},
        "tokens": {"input": input_tokens, "output": 3_402_118, "distinct": round(input_tokens * (1 - 0.6243))},
        "prefix": {
            "requests": 12_345,
            "input_tokens": input_tokens,
            "hit_tokens": {k: round(v * input_tokens) for k, v in rates.items()},
            "hit_rate": rates,
            "with_outputs": {"hit_tokens": {k: round(v * input_tokens) for k, v in kept.items()}, "hit_rate": kept},
            "mean_of_requests": {k: v - 0.1 for k, v in rates.items()},
            "requests_with_hit": 11_802,
            "redundant_tokens": round(0.6243 * input_tokens),
            "radix_tree": {"nodes": 18_221, "leaves": 9_330, "max_depth": 41, "max_depth_tokens": 131_072},
            "by_origin": {"same_session": 0.4021, "other_sessions": 0.2222},
            "by_model": {
                "meta-llama/Llama-3.1-8B-Instruct": {
                    "requests": 10_100, "input_tokens": 50_100_200, "hit_tokens": {"1": 33_000_000}, "hit_rate": {"1": 0.6587},
                },
                "Qwen/Qwen2.5-Coder-32B-Instruct": {
                    "requests": 2_245, "input_tokens": 11_134_367, "hit_tokens": {"1": 5_228_740}, "hit_rate": {"1": 0.4696},
                },
            },
            "by_tenant": {
                "checkout": {"requests": 7_000, "input_tokens": 40_000_000, "hit_tokens": {"1": 28_800_000}, "hit_rate": {"1": 0.72}},
                "search": {"requests": 5_345, "input_tokens": 21_234_567, "hit_tokens": {"1": 9_428_740}, "hit_rate": {"1": 0.444}},
            },
            "top_prefixes": [
                {"tokens": t, "requests": s // t + 1, "saved_tokens": s, "preview": p, "model": "meta-llama/Llama-3.1-8B-Instruct"}
                for s, t, p in zip(saved, lengths, previews, strict=True)
            ],
            "over_time": {
                "bin_s": 1800, "offset_s": [1800 * i for i in range(9)], "requests": [1_372] * 9, "input_tokens": [6_803_840] * 9,
                "hit_rate": [0.31, 0.58, 0.66, 0.65, None, 0.67, 0.64, 0.66, 0.65],
                "by_hour": [
                    {"hour": h, "requests": 2_469 if 9 <= h < 14 else 0, "input_tokens": 12_246_913 if 9 <= h < 14 else 0, "hit_rate": 0.6243 if 9 <= h < 14 else None}
                    for h in range(24)
                ],
            },
            "warm_up": {"steady_hit_rate": 0.6655, "requests": 1_976, "input_tokens": 9_800_000, "seconds": 2_411.0, "curve": [[0, 6172, 0.58], [6172, 12345, 0.6655]]},
            "by_turn": [
                {"turn": 1, "and_later": False, "requests": 1_402, "input_tokens": 6_000_000, "hit_tokens": 1_800_000, "hit_rate": 0.3},
                {"turn": 2, "and_later": True, "requests": 10_943, "input_tokens": 55_234_567, "hit_tokens": 36_428_740, "hit_rate": 0.6595},
            ],
            "restart": {
                "middle": {"lost_tokens": 811_000, "lost_points": 0.0132, "recovered_after_requests": 240, "recovered_after_s": 611.0},
                "regularly": [{"every_s": 3600, "restarts": 4, "lost_tokens": 2_910_000, "lost_points": 0.0475}],
            },
            "isolation": {
                "tenants": 2, "hit_rate_shared": 0.6243, "hit_rate_isolated": 0.6012, "lost_tokens": 1_414_518, "lost_points": 0.0231,
                "losers": [{"tenant": "search", "lost_tokens": 1_414_518, "input_tokens": 21_234_567}],
            },
            "churn": [{"slots": 1, "models": 2, "loads": 811, "hit_tokens": 14_000_000, "hit_rate": 0.2286, "lost_tokens": 24_228_740, "lost_points": 0.3957}],
            "definitions": {
                "mean_of_requests": {"value": 0.5243, "means": "mean of each request's own ratio, so that short prompts weigh as much as long ones"},
                "full_blocks_only": {"value": 0.6102, "means": "hit blocks / full blocks, a request's last partial block left out"},
                "last_half": {"value": 0.6655, "means": "the token-weighted rate over the second half of the trace, after warm-up"},
            },
        },
        "cache": {
            "mrc": mrc,
            "working_set_tokens": {"50%": 221_000, "90%": 1_950_000, "99%": 9_800_000, "100%": 19_900_000},
            "memory_marks": [
                {"label": "Llama-3.1-70B on two 80 GB GPUs", "capacity_tokens": 38_000, "hit_rate": rate_at(38_000)},
                {"label": "Qwen2.5-32B on one 80 GB GPU", "capacity_tokens": 42_000, "hit_rate": rate_at(42_000)},
                {"label": "Llama-3.1-8B on one 80 GB GPU", "capacity_tokens": 455_000, "hit_rate": rate_at(455_000)},
                {"label": "Llama-3.1-8B on one 141 GB GPU", "capacity_tokens": 921_000, "hit_rate": rate_at(921_000)},
            ],
            "machine": {"label": "Llama-3.1-8B on 80 GB", "capacity_tokens": 455_000, "token_bytes": 131_072.0, "given": False},
            "engines": {
                name: {
                    "label": label, "hit_tokens": int(rate * 61_234_567), "hit_rate": rate, "capacity_tokens": 455_000, "block_size": block,
                    "evicted_tokens": 31_000_000, "waited_requests": waited, "preemptions": 3, "refused_requests": 2,
                    "by_memory": [
                        {"label": f"Llama-3.1-8B on {size} GB", "capacity_tokens": size * 5_700, "hit_rate": rate * (0.7 + size / 500)} for size in (24, 80, 141)
                    ],
                    "assumptions": [f"{label} with its defaults and nothing else that would matter here", "requests enter when they arrived"],
                }
                for name, label, rate, block, waited in (
                    ("infinite", "infinite cache", 0.6315, 1, 0), ("vllm", "vLLM", 0.3821, 16, 120), ("sglang", "SGLang", 0.4011, 1, 97),
                    ("llamacpp", "llama.cpp server", 0.1032, 1, 11_204),
                )
            },
            "replicas": {
                "engine": "vllm", "capacity_tokens_each": 455_000,
                "rows": [
                    {
                        "replicas": n, "policy": policy, "label": label, "hit_tokens": round(61_234_567 * rate), "hit_rate": rate,
                        "evicted_tokens": 9_000_000, "load_imbalance": 1 + (n - 1) * uneven,
                    }
                    for n in (1, 2, 4)
                    for policy, label, rate, uneven in (
                        ("round_robin", "round robin", 0.3821 / n, 0.01), ("cache_aware", "cache-aware (SGLang's router)", 0.3821 + n / 100, 0.1),
                    )
                ],
                "assumptions": ["all replicas are healthy and of one kind"],
            },
            "providers": {
                "as_of": "2026-05-04",
                "offers": [
                    {
                        "offer": "acme-large", "provider": "Acme", "label": "Acme Large", "ttl_s": ttl, "minimum_tokens": 1024, "hit_tokens": 30_000_000,
                        "written_tokens": 20_000_000, "hit_rate": 0.4899, "input_usd_without_cache": 306.17, "input_usd": usd, "output_usd": 85.05,
                        "saving": 1 - usd / 306.17, "saving_usd": 306.17 - usd, "cheapest": ttl == 300, "pays": True, "unverified": ["read"],
                    }
                    for ttl, usd in ((300, 121.1), (3600, 190.5))
                ],
                "assumptions": ["a lifetime is exact"],
            },
        },
        "lengths": {
            "input": {**input_stats, "histogram": inputs},
            "output": {**output_stats, "histogram": outputs},
            "total": {**total_stats, "histogram": totals},
        },
        "concurrency": {"mean": 23.41, "p50": 19, "p95": 80, "p99": 110, "peak": 187, "measured": True, "how": None},
        "arrivals": {"rate_mean": 0.8141, "rate_peak_1s": 22, "cv": 2.31, "burstiness": 1.9},
        "sessions": {"count": 1_402, "turns_mean": 8.8, "turns_max": 64, "think_time_p50": 21.4},
        "breakers": [
            {
                "kind": "timestamp", "where": "system prompt, character 31", "requests": 2_100, "lost_tokens": 1_900_200,
                "example": "Current time: 2026-05-04 09:12:44", "remedy": "Move the time to the end of the prompt, or round it to the day.",
            },
            {
                "kind": "tool_order", "where": "tools", "requests": 310, "lost_tokens": 402_000,
                "example": None, "remedy": "Send the tools sorted by name.",
            },
        ],
        "left_out": [
            {"measure": "time_to_first_token", "reason": "the log has no first-token times"},
            {"measure": "cost", "reason": "no prices were given"},
        ],
        "verdict": {
            "favoured": "sglang",
            "confidence": "moderate",
            "reasons": [
                {"text": "A large part of the input repeats", "yours": "62.4 %", "threshold": "50 %", "source": "SGLang paper, figure 5"},
                {"text": "Reuse ends inside blocks", "yours": "0.7 % lost at 16", "threshold": "5 %", "source": "block rounding, this trace"},
                "Most reuse is inside a session, which routing by session keeps.",
            ],
            "checked_by": None,
            "split": None,
            "caveat": "Both engines cache prefixes by default; the difference shrinks once the cache holds the working set.",
        },
    }  # fmt: skip


def lengths_only() -> dict[str, Any]:
    """A log with counts and arrivals but no text, no ends, no sessions."""
    profile = example()
    profile["tokenizer"] = {"name": None, "exact": True, "unit": 1, "source": "counts", "note": None}
    profile.update(prefix=None, cache=None, sessions=None, breakers=None)
    profile["tokens"]["distinct"] = None
    profile["concurrency"].update(measured=False, how="Each request is taken to last 20 ms an output token")
    profile["left_out"] = [{"measure": "prefix", "reason": "the log holds no prompts, tokens or hashes"}]
    profile["verdict"] = {
        "favoured": "either",
        "confidence": "low",
        "reasons": ["Sharing is unknown."],
        "checked_by": None,
        "split": None,
    }
    return profile


def hash_trace() -> dict[str, Any]:
    """A trace of hashes of 512-token blocks: smaller blocks cannot be told, and there is no text."""
    profile = example()
    profile["tokenizer"] = {"name": "mooncake", "exact": True, "unit": 512, "source": "hashes", "note": None}
    prefix = profile["prefix"]
    for key in ("hit_tokens", "hit_rate", "mean_of_requests"):
        prefix[key] = {k: v if k == "512" else None for k, v in prefix[key].items()}
    prefix.update(with_outputs=None, by_origin=None, by_tenant=None, by_turn=None, isolation=None)
    prefix["over_time"]["by_hour"] = None
    prefix["by_model"] = {
        "unknown": {
            "requests": 12_345,
            "input_tokens": 61_234_567,
            "hit_tokens": {"1": None},
            "hit_rate": {"1": None},
        }
    }
    for top in prefix["top_prefixes"]:
        top.update(preview=None, model=None)
    profile.update(sessions=None, breakers=None, concurrency=None)
    profile["trace"].update(
        first_arrival="1970-01-01T00:00:00.000000Z", last_arrival="1970-01-01T04:12:44.000000Z", name=None
    )
    return profile


def single_request() -> dict[str, Any]:
    """One request: nothing to share, a span of nothing."""
    one = {"mean": 812.0, "p50": 812.0, "p90": 812.0, "p95": 812.0, "p99": 812.0, "max": 812.0}
    return {
        "schema_version": 1,
        "trace": {
            "name": "one", "requests": 1, "rejects": 0, "skipped": {}, "first_arrival": "2026-05-04T09:00:00Z",
            "last_arrival": "2026-05-04T09:00:00Z", "span_seconds": 0.0, "models": {"m": 1}, "formats": {"openai": 1},
        },
        "tokenizer": {"name": "Qwen/Qwen3-8B", "exact": True, "unit": 1, "source": "tokens", "note": None},
        "tokens": {"input": 812, "output": 40, "distinct": 812},
        "prefix": {
            "hit_tokens": dict.fromkeys(BLOCKS, 0), "hit_rate": dict.fromkeys(BLOCKS, 0.0), "with_outputs": None,
            "requests_with_hit": 0, "redundant_tokens": 0, "radix_tree": {"nodes": 1, "leaves": 1, "max_depth": 1},
            "by_origin": None, "by_model": {}, "by_tenant": {}, "top_prefixes": [],
        },
        "cache": {"mrc": [[812, 0.0]], "working_set_tokens": {"50%": None, "100%": 0}, "memory_marks": []},
        "lengths": {
            "input": {**one, "histogram": [[812, 813, 1]]}, "output": {**one, "histogram": [[0, 1, 1]]}, "total": {**one, "histogram": []},
        },
        "concurrency": {"mean": 1.0, "p50": 1, "p95": 1, "p99": 1, "peak": 1, "measured": True, "how": None},
        "arrivals": {"rate_mean": None, "rate_peak_1s": 1, "cv": None, "burstiness": None},
        "sessions": {"count": 1, "turns_mean": 1.0, "turns_max": 1, "think_time_p50": None},
        "breakers": [],
        "left_out": [],
        "verdict": None,
    }  # fmt: skip


def empty() -> dict[str, Any]:
    """No request at all: every measure is null."""
    keys = (
        "tokenizer",
        "tokens",
        "prefix",
        "cache",
        "lengths",
        "concurrency",
        "arrivals",
        "sessions",
        "breakers",
        "verdict",
    )
    return {
        "schema_version": 1,
        "trace": {"requests": 0, "rejects": 0, "models": {}, "formats": {}},
        **dict.fromkeys(keys),
    }


HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)><!-- `code` | [link](http://evil.example) ![i](http://evil.example/i.png) "
    'datum[\'x\']; {"expr": "alert(3)"} {{ 7 * 7 }} {% raw %} [red]markup[/red] &amp; "quoted" \'single\' '
)
INVISIBLE = (
    "\x1b[31mred\x1b[0m\x1b]0;title\x07\u202edesrever\u202c\u2066\x00\x08\u200b\ufeff\r\n\ud800 \x9b2J"
)


def hostile() -> dict[str, Any]:
    """Every string that a log can put into a profile, as bad as it comes."""
    profile = example()
    bad = INVISIBLE + HOSTILE
    profile["trace"].update(
        name=bad,
        models={bad: 12_345},
        formats={bad: 1},
        skipped={bad: 1},
        not_read=[{"file": bad, "reason": bad}],
        quality={bad: 1},
    )
    profile["tokenizer"].update(name=bad, note=bad)
    prefix = profile["prefix"]
    group = prefix["by_tenant"]["search"]
    prefix["by_tenant"] = {bad: group, "W" * 1_000_000: group, "__proto__": group, "": group}
    prefix["by_model"] = {bad: group, "datum.x[0].y": group}
    for top, preview in zip(
        prefix["top_prefixes"],
        (bad, "W" * 1_000_000, "datum['label']", "a.b\\.c[0]", "\\", "\u202e", "مرحبا بالعالم", ""),
        strict=True,
    ):
        top.update(preview=preview, model=bad)
    prefix["definitions"] = {bad: {"value": 0.5, "means": bad}}
    for mark in profile["cache"]["memory_marks"]:
        mark["label"] = bad
    profile["cache"]["engines"] = {bad: {"hit_rate": 0.5, "text": bad}}
    profile["concurrency"].update(measured=False, how=bad)
    profile["breakers"] = [
        {"kind": bad, "where": bad, "requests": 1, "lost_tokens": 1, "example": bad, "remedy": bad}
    ]
    profile["left_out"] = [{"measure": bad, "reason": bad}]
    profile["verdict"].update(
        favoured=bad,
        confidence=bad,
        reasons=[bad, {"text": bad, "yours": bad}],
        caveat=bad,
        split={bad: {bad: [bad, 1]}},
    )
    return profile


VARIANTS = {
    "example": example,
    "lengths_only": lengths_only,
    "hash_trace": hash_trace,
    "single_request": single_request,
    "empty": empty,
    "hostile": hostile,
}


def series(profile: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of concurrency.parquet: in flight and arrivals in at most 600 bins."""
    rng = random.Random(11)
    span = (profile.get("trace") or {}).get("span_seconds") or 0.0
    n = 600 if span else 1
    rows = []
    for i in range(n):
        wave = 1 + 0.8 * math.sin(i / 60) + (2.5 if 300 < i < 330 else 0)
        mean = 18 * wave * rng.uniform(0.7, 1.3)
        rows.append(
            {
                "offset_s": i * span / n,
                "in_flight_mean": mean if span else 1.0,
                "in_flight_peak": round(mean * rng.uniform(1.2, 2.4)) if span else 1,
                "arrivals": round(20 * wave * rng.uniform(0.4, 1.6)) if span else 1,
            }
        )
    return rows


def write(folder: Path, profile: dict[str, Any]) -> Path:
    """A profile folder as `traceprof profile` leaves it, as far as a report reads it."""
    import polars as pl

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "profile.json").write_bytes(orjson.dumps(_encodable(profile)))
    if profile.get("concurrency") or profile.get("arrivals"):
        schema = {
            "offset_s": pl.Float64,
            "in_flight_mean": pl.Float64,
            "in_flight_peak": pl.Int64,
            "arrivals": pl.Int64,
        }
        pl.DataFrame(series(profile), schema=schema).write_parquet(folder / "concurrency.parquet")
    return folder


def _encodable(value: Any) -> Any:
    """The same value without lone surrogates, which no JSON file holds."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_encodable(k): _encodable(v) for k, v in value.items()}
    return [_encodable(v) for v in value] if isinstance(value, list) else copy.copy(value)
