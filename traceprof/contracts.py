"""The JSON contracts, as JSON Schema (draft 2020-12): what a pipeline may rely on in profile.json and manifest.json.

`python -m traceprof.contracts schemas` writes them, and one schema a table, to schemas/; a test holds the files to this
module and real profiles to the files. More keys may stand beside those that are named.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from traceprof import schema

Schema = dict[str, Any]

_INT: Schema = {"type": "integer"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_NUM: Schema = {"type": "number"}
_RATE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
_STR: Schema = {"type": "string"}
_BOOL: Schema = {"type": "boolean"}
_BLOCKS = ("1", "16", "32", "64", "128", "256", "512")


def _or_null(what: Schema) -> Schema:
    return {"anyOf": [what, {"type": "null"}]}


def _object(
    properties: dict[str, Schema], means: str | None = None, optional: tuple[str, ...] = ()
) -> Schema:
    found: Schema = {
        "type": "object",
        "properties": properties,
        "required": [k for k in properties if k not in optional],
    }
    return found | ({"description": means} if means else {})


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of}


def _map(of: Schema) -> Schema:
    return {"type": "object", "additionalProperties": of}


def _said(what: Schema, means: str) -> Schema:
    return {**what, "description": means}


_HITS = _object(
    {b: _or_null(_COUNT) for b in _BLOCKS}, "tokens, by block size; null where the trace cannot tell"
)
_RATES = _object({b: _or_null(_RATE) for b in _BLOCKS}, "hit tokens / input tokens, by block size")
_GROUP = _object({"requests": _COUNT, "input_tokens": _COUNT, "hit_tokens": _HITS, "hit_rate": _RATES})
_LENGTHS = _object(
    {
        **dict.fromkeys(("mean", "p50", "p90", "p95", "p99"), _NUM),
        "max": _COUNT,
        "histogram": _said(
            _list(_list(_COUNT)), "[lower, upper, count]: requests with lower <= tokens < upper"
        ),
    }
)
_LEVELS = {"mean": _NUM, "p50": _COUNT, "p95": _COUNT, "p99": _COUNT, "peak": _COUNT}


def _time_keys() -> dict[str, Schema]:
    """How sharing goes on through the trace: keys of `prefix`."""
    lost = {"lost_tokens": _COUNT, "lost_points": _said(_or_null(_NUM), "of the hit rate")}
    row = {"requests": _COUNT, "input_tokens": _COUNT, "hit_rate": _or_null(_RATE)}
    return {
        "over_time": _or_null(
            _object(
                {
                    "bin_s": _or_null(_COUNT),
                    "offset_s": _list(_COUNT),
                    "requests": _list(_COUNT),
                    "input_tokens": _list(_COUNT),
                    "hit_rate": _list(_or_null(_RATE)),
                    "by_hour": _said(_or_null(_list(_object({"hour": _COUNT, **row}))), "of the day, UTC"),
                }
            )
        ),
        "warm_up": _or_null(
            _object(
                {
                    "steady_hit_rate": _said(_RATE, "of the second half of the requests"),
                    "requests": _said(
                        _COUNT, "after which the rest of the first half hits as often, within a point"
                    ),
                    "input_tokens": _COUNT,
                    "seconds": _NUM,
                    "curve": _said(_list({"type": "array"}), "[requests from, requests to, hit rate]"),
                },
                "how long a cold, infinite cache takes",
            )
        ),
        "by_turn": _or_null(_list(_object({"turn": _COUNT, "and_later": _BOOL, **row}))),
        "restart": _or_null(
            _object(
                {
                    "middle": _object({**lost, "recovered_after_s": _or_null(_NUM)}),
                    "regularly": _list(_object({"every_s": _COUNT, "restarts": _COUNT, **lost})),
                },
                "what an infinite cache loses when it is emptied",
            )
        ),
        "isolation": _or_null(
            _object(
                {
                    "tenants": _COUNT,
                    "hit_rate_shared": _or_null(_RATE),
                    "hit_rate_isolated": _or_null(_RATE),
                    **lost,
                    "losers": _list(_object({"tenant": _STR, "lost_tokens": _COUNT, "input_tokens": _COUNT})),
                },
                "what it costs to keep tenants' caches apart (cache_salt)",
            )
        ),
        "churn": _or_null(
            _list(
                _object(
                    {"slots": _COUNT, "models": _COUNT, "loads": _COUNT, "hit_rate": _or_null(_RATE), **lost},
                    "models that take turns in so many slots, where a model's cache goes with it",
                )
            )
        ),
    }


def _simulation() -> Schema:
    """`simulation`: engines in virtual time."""
    speed = _said(
        _or_null(_NUM),
        "highest multiple of the recorded rate at which the objectives hold; null: not even the slowest that was tried",
    )
    speeds = _map(speed)
    spread = _object(
        {name: _or_null(_NUM) for name in ("mean", "p50", "p90", "p95", "p99", "max")}, "seconds"
    )
    engine = {
        "label": _STR, "requests": _COUNT, "refused": _COUNT, "preemptions": _COUNT, "hit_tokens": _or_null(_COUNT), "hit_rate": _or_null(_RATE),
        "requests_per_s": _or_null(_NUM), "output_tokens_per_s": _or_null(_NUM), "total_tokens_per_s": _or_null(_NUM),
        "busy": _said(_NUM, "share of the time in which it computes"), "in_flight_mean": _or_null(_NUM), "ttft": spread, "tpot": spread, "e2e": spread,
        "slo_share": _said(_RATE, "of requests that meet the objectives at the recorded rate"), "goodput_per_s": _or_null(_NUM), "max_speed": speed,
        "max_speed_capped": _said(_BOOL, "faster was not tried: at least so much"), "max_rate_per_s": _or_null(_NUM),
        "replicas": _said(_or_null(_COUNT), "that the recorded rate takes"), "usd_per_million_tokens": _or_null(_NUM), "cold_start_s": _or_null(_NUM),
        "source": _said(_STR, "of how fast the engine is on that card"),
    }  # fmt: skip
    machine = {
        "card": _STR, "cards": _STR, "label": _STR, "vendor": _STR, "gpus": _COUNT, "model": _STR, "precision": _STR, "capacity_tokens": _COUNT,
        "token_bytes": _NUM, "given": _said(_BOOL, "whether somebody named it"), "price_per_hour": _or_null(_NUM), "price_source": _or_null(_STR),
        "fitted": _said(_list(_STR), "engines whose factors were fitted to a replay"),
    }  # fmt: skip
    slo = {
        **dict.fromkeys(("ttft_s", "tpot_s", "e2e_s"), _or_null(_NUM)), "ttft_times_alone": _NUM, "tpot_times_alone": _NUM, "quantile": _RATE,
        "given": _BOOL, "words": _STR,
    }  # fmt: skip
    part = {
        "by": _STR,
        "value": _STR,
        "requests": _COUNT,
        "share": _RATE,
        "hit_rate": _or_null(_RATE),
        "engines": speeds,
    }
    return _object(
        {
            "machine": _object(machine),
            "slo": _object(slo),
            "requests": _COUNT,
            "of_requests": _COUNT,
            "window": _STR,
            "engines": _map(_object(engine)),
            "unique": _said(
                _map(_object({"max_speed": speed})), "the same requests, but that no prompt begins as another"
            ),
            "sweeps": _object(
                {
                    "sharing": _list(_object({"hit_rate": _RATE, "engines": speeds})),
                    "users": _list(
                        _object({"speed": _NUM, "concurrency": _NUM, "engines": _map(_or_null(_RATE))})
                    ),
                }
            ),
            "parts": _list(_object(part)),
            "assumptions": _list(_STR),
            "calibrated": _or_null(_list(_STR)),
        },
        "engines in virtual time: null where they were not asked for, or the trace tells too little",
    )


def profile_schema() -> Schema:
    """profile.json."""
    trace = _object(
        {
            "name": _STR,
            "requests": _COUNT,
            "rejects": _COUNT,
            "not_read": _said(_list(_object({"file": _STR, "reason": _STR})), "files that are no log"),
            "quality": _said(_map(_COUNT), "rows by flag: what was derived, assumed or repaired in them"),
            "skipped": _said(_map(_COUNT), "records that are no model call of this trace, by reason"),
            "records_in": _said(_COUNT, "requests + rejects + skipped"),
            "first_arrival": _said(_or_null(_STR), "ISO 8601, UTC; null when the clock is relative"),
            "last_arrival": _or_null(_STR),
            "span_seconds": _or_null(_NUM),
            "models": _map(_COUNT),
            "formats": _map(_COUNT),
        }
    )
    tokenizer = _object(
        {
            "name": _or_null(_STR),
            "exact": _said(_BOOL, "false: counts are estimates under a stand-in tokenizer"),
            "unit": _said(_COUNT, "tokens one symbol stands for"),
            "source": {"enum": ["tokens", "hashes", "counts"]},
            "note": _or_null(_STR),
        }
    )
    tokens = _object({k: _or_null(_COUNT) for k in ("input", "output", "distinct")})
    prefix = _object(
        {
            "requests": _said(_COUNT, "requests that were measured"),
            "input_tokens": _COUNT,
            "hit_tokens": _HITS,
            "hit_rate": _RATES,
            "with_outputs": _or_null(_object({"hit_tokens": _HITS, "hit_rate": _RATES, "how": _STR})),
            "mean_of_requests": _RATES,
            "requests_with_hit": _COUNT,
            "redundant_tokens": _said(_COUNT, "input tokens - distinct tokens"),
            "radix_tree": _object(
                dict.fromkeys(("nodes", "leaves", "max_depth", "max_depth_tokens"), _COUNT)
            ),
            "by_origin": _said(
                _or_null(_object({"same_session": _RATE, "other_sessions": _RATE})),
                "parts of the hit rate at the finest unit, which they sum to",
            ),
            "by_model": _map(_GROUP),
            "by_tenant": _or_null(_map(_GROUP)),
            "top_prefixes": _list(
                _object(
                    {
                        "tokens": _COUNT,
                        "requests": _COUNT,
                        "saved_tokens": _said(_COUNT, "(requests - 1) x tokens"),
                        "model": _or_null(_STR),
                        "preview": _said(_or_null(_STR), "null unless the trace holds text"),
                    }
                )
            ),
            "definitions": _map(_object({"value": _or_null(_RATE), "means": _STR})),
            **_time_keys(),
        }
    )
    engine = _object(
        {
            "label": _STR,
            "hit_tokens": _said(_COUNT, "input tokens that its prefix cache would have held"),
            "hit_rate": _or_null(_RATE),
            "capacity_tokens": _said(_or_null(_COUNT), "of KV, for each model; null: infinite"),
            "block_size": _COUNT,
            "evicted_tokens": _said(_COUNT, "thrown out to make room, over all the time"),
            "waited_requests": _said(_COUNT, "requests that had to wait for room"),
            "preemptions": _said(_COUNT, "times that a running request was thrown out to let another go on"),
            "refused_requests": _said(_COUNT, "requests that are longer than the cache"),
            "by_memory": _list(
                _object({"label": _STR, "capacity_tokens": _COUNT, "hit_rate": _or_null(_RATE)})
            ),
            "assumptions": _list(_STR),
        }
    )
    cache = _object(
        {
            "mrc": _said(_list({"type": "array"}), "[capacity in tokens, hit rate], exact at each capacity"),
            "working_set_tokens": _object(dict.fromkeys(("50%", "90%", "99%", "100%"), _COUNT)),
            "memory_marks": _list(_object({"label": _STR, "capacity_tokens": _COUNT, "hit_rate": _RATE})),
            "policy": _STR,
            "machine": _object(
                {"label": _STR, "capacity_tokens": _COUNT, "token_bytes": _NUM, "given": _BOOL},
                "what the engines' caches are sized for; given: false where nobody named it",
            ),
            "engines": _map(engine),
            "replicas": _or_null(
                _object(
                    {
                        "engine": _STR,
                        "capacity_tokens_each": _COUNT,
                        "rows": _list(
                            _object(
                                {
                                    "replicas": _COUNT,
                                    "policy": _STR,
                                    "label": _STR,
                                    "hit_tokens": _COUNT,
                                    "hit_rate": _or_null(_RATE),
                                    "evicted_tokens": _COUNT,
                                    "load_imbalance": _said(
                                        _or_null(_NUM), "input tokens of the busiest replica / mean"
                                    ),
                                }
                            )
                        ),
                        "assumptions": _list(_STR),
                    },
                    "an engine's cache on several replicas, by the router's policy",
                )
            ),
            "providers": _or_null(
                _object(
                    {
                        "as_of": _said(_STR, "when the prices were read"),
                        "offers": _list(
                            _object(
                                {
                                    "offer": _STR,
                                    "provider": _STR,
                                    "label": _STR,
                                    "ttl_s": _COUNT,
                                    "minimum_tokens": _COUNT,
                                    "hit_tokens": _COUNT,
                                    "written_tokens": _COUNT,
                                    "hit_rate": _or_null(_RATE),
                                    "input_usd_without_cache": _NUM,
                                    "input_usd": _NUM,
                                    "output_usd": _NUM,
                                    "cheapest": _said(_BOOL, "of the offer's lifetimes"),
                                    "pays": _said(_BOOL, "whether the cache saves anything"),
                                    "unverified": _list(_STR),
                                }
                            )
                        ),
                        "assumptions": _list(_STR),
                    },
                    "API providers' prompt caches, priced",
                )
            ),
        }
    )
    concurrency = _object(
        {
            **_LEVELS,
            "busy": _object({**_LEVELS, "share_of_time": _RATE}),
            "measured": _BOOL,
            "how": _or_null(_STR),
        }
    )
    arrivals = _object(dict.fromkeys(("rate_mean", "rate_peak_1s", "cv", "burstiness"), _NUM))
    sessions = _object(
        {
            "count": _COUNT,
            "turns_mean": _NUM,
            "turns_max": _COUNT,
            "think_time_p50": _said(_or_null(_NUM), "s"),
        }
    )
    reported = _object(
        {
            "requests": _COUNT,
            "input_tokens": _COUNT,
            "output_tokens": _or_null(_COUNT),
            "requests_with_cached_tokens": _COUNT,
            "cached_input_tokens": _or_null(_COUNT),
            "cached_hit_rate": _or_null(_RATE),
        },
        "what the log itself says, to hold the profile against",
    )
    breaker = _object(
        {
            "kind": _STR,
            "where": _STR,
            "requests": _COUNT,
            "lost_tokens": _said(
                _COUNT, "measured: tokens that would not have to be computed with the remedy"
            ),
            "example": _or_null(_STR),
            "example_fixed": _or_null(_STR),
            "remedy": _STR,
            "hit_rate_before": _RATE,
            "hit_rate_after": _RATE,
            "message": _or_null(_COUNT),
            "offset": _or_null(_COUNT),
        }
    )
    breakers_measured = _object(
        {"together_tokens": _said(_COUNT, "saved with all remedies at once"), "requests": _COUNT, "how": _STR}
    )
    reason = _object({"text": _STR, "yours": _STR, "threshold": _or_null(_STR), "source": _STR})
    any_value: Schema = {"type": ["number", "string", "null"]}
    verdict = _object(
        {
            "favoured": _said(_STR, "in words; undecided where no engine is"),
            "engines": _said(_list(_STR), "the same by name, level with one another, the one to take first"),
            "headline": _said(_STR, "what to do, in a sentence or two"),
            "confidence": {"enum": ["low", "moderate", "high"]},
            "unsure": _said(_list(_STR), "why the confidence is not higher"),
            "reasons": _list(reason),
            "checked_by": _said(
                {"enum": [None, "replay", "simulation"]}, "what the verdict rests on; null: rules"
            ),
            "disagreements": _said(_list(_STR), "what less trusted evidence would favour instead"),
            "inputs": _said(
                _list(
                    _object(
                        {
                            "input": _STR,
                            "label": _STR,
                            "value": _said(any_value, "null: not known"),
                            "yours": _STR,
                            "threshold": _or_null(_STR),
                            "source": _STR,
                            "means": _STR,
                            "decides": _said(_BOOL, "whether it is one of the reasons"),
                        }
                    )
                ),
                "everything that decides, or would",
            ),
            "flips": _said(
                _list(
                    _object(
                        {
                            "input": _STR,
                            "label": _STR,
                            "yours": any_value,
                            "at": {"type": ["number", "string"]},
                            "side": {"enum": ["below", "from", "is"]},
                            "to": _said(_list(_STR), "engines; none where no engine does it"),
                            "text": _STR,
                            "near": _BOOL,
                            "by": {"enum": ["rules", "simulation"]},
                        }
                    )
                ),
                "numbers at which the verdict would be another",
            ),
            "ranking": _said(
                _list(_object({"engine": _STR, "label": _STR})), "best first, with the figures of its source"
            ),
            "margin": _said(_or_null(_NUM), "share within which engines are level; null for rules"),
            "split": _or_null(
                _object(
                    {
                        "by": _STR,
                        "parts": _list(
                            _object({"value": _STR, "share": _NUM, "engine": _STR, "max_speed": _NUM})
                        ),
                        "single": _said(_STR, "the best engine for all of it"),
                        "default": _STR,
                        "gain": _said(_NUM, "more capacity than with the single engine"),
                        "machines": _object({"single": _NUM, "split": _NUM}, "at the recorded rate"),
                        "replicas": _object(
                            {"single": _COUNT, "split": _COUNT}, "the same in whole machines"
                        ),
                        "pays_now": _BOOL,
                        "rule": _STR,
                        "text": _STR,
                        "config": _object(
                            {
                                **dict.fromkeys(("litellm", "olla", "nginx", "envoy"), _or_null(_STR)),
                                "notes": _list(_STR),
                            },
                            "the rule for each router; null where it cannot follow it",
                        ),
                    }
                )
            ),
            "advice": _said(_list(_STR), "what to do whichever engine it is"),
            "caveat": _STR,
            "alternatives": _list(_object({"engine": _STR, "when": _STR})),
        }
    )
    return _file(
        "profile.json",
        {
            "schema_version": {"const": schema.PROFILE_SCHEMA_VERSION},
            "traceprof_version": _STR,
            "trace": trace,
            "tokenizer": tokenizer,
            "tokens": tokens,
            "prefix": _or_null(prefix),
            "cache": _or_null(cache),
            "lengths": _object({side: _or_null(_LENGTHS) for side in ("input", "output", "total")}),
            "concurrency": _or_null(concurrency),
            "arrivals": _or_null(arrivals),
            "sessions": _or_null(sessions),
            "reported": _or_null(reported),
            "breakers": _list(breaker),
            "breakers_measured": _or_null(breakers_measured),
            "left_out": _list(_object({"measure": _STR, "reason": _STR})),
            "structured": _said(
                _or_null(_object({"requests": _COUNT, "response_format": _COUNT})),
                "requests whose answer must follow a schema, of those whose parameters the log tells",
            ),
            "simulation": _or_null(_simulation()),
            "verdict": verdict,
        },
    )


def comparison_schema() -> Schema:
    """comparison.json."""
    pair = _object(
        {
            "a": _STR,
            "b": _STR,
            "metric": _STR,
            "scale": _said({"enum": ["ratio", "difference"]}, "which of the two low and high are of"),
            "ratio": _said(_or_null(_NUM), "geometric mean of b / a over paired requests"),
            "difference": _said(_or_null(_NUM), "b - a"),
            "low": _or_null(_NUM),
            "high": _or_null(_NUM),
            "p": _said(_or_null(_NUM), "of a difference that is within the margin"),
            "p_holm": _or_null(_NUM),
            "outcome": {"enum": ["a", "b", "no practical difference", "not enough data"]},
            "reason": _or_null(_STR),
            "n_requests": _COUNT,
            "n_sessions": _COUNT,
            "blocks": _said(_COUNT, "runs of each that were paired"),
        },
        optional=("p", "p_holm", "difference", "reason"),
    )
    pairs = _list(pair)
    outcome = _object(
        {
            "favoured": _or_null(_STR),
            "outcome": {"enum": ["favoured", "no practical difference", "not enough data"]},
            "among": _list(_STR),
            "metric": _STR,
            "why": _STR,
            "trust": {"enum": ["full", "lowered"]},
            "doubts": _list(_STR),
        }
    )
    workload = _object(
        {
            "variant": _or_null(_STR), "file": _STR, "requests": _COUNT, "order": _or_null(_STR), "mode": _STR, "speed": _NUM, "decides": _list(_STR),
            "engines": _map({"type": "object"}), "pairs": pairs, "outcome": outcome, "warnings": _list(_STR),
        }
    )  # fmt: skip
    return _file(
        "comparison.json",
        {
            "schema_version": {"const": 1},
            "traceprof_version": _STR,
            "results": _list(_STR),
            "simulated": _BOOL,
            "slo": _or_null({"type": "object"}),
            "margin": _RATE,
            "level": _RATE,
            "main_workload": _said(_COUNT, "whose engines, pairs, segments and crossovers stand at the top"),
            "engines": _map({"type": "object"}),
            "workloads": _list(workload),
            "pairs": pairs,
            "control": _object({"aa": _list({"type": "object"}), "ok": _or_null(_BOOL)}),
            "segments": _list({"type": "object"}),
            "crossovers": _list({"type": "object"}),
            "split_by_variant": _or_null(_STR),
            "warnings": _list(_STR),
            "outcome": {"type": "object"},
            "prices": {"type": "object"},
        },
    )


def manifest_schema() -> Schema:
    """manifest.json of a trace folder."""
    source = _object(
        {
            "file": _STR,
            "bytes": _COUNT,
            "format": _said(_or_null(_STR), "null: not read"),
            "container": _or_null(_STR),
            "detected_by": _STR,
        }
    )
    return _file(
        "manifest.json",
        {
            "kind": {"const": "traceprof-trace"},
            "schema_version": {"const": schema.TRACE_SCHEMA_VERSION},
            "traceprof_version": _STR,
            "created_at": _STR,
            "records_in": _said(_COUNT, "requests + rejects + skipped"),
            "requests": _COUNT,
            "rejects": _COUNT,
            "skipped": _COUNT,
            "source_records": _said(
                _COUNT, "records of the files; a conversation is one, and several requests"
            ),
            "rejects_by_reason": _map(_COUNT),
            "skipped_by_reason": _map(_COUNT),
            "order": {"enum": ["arrival", "file"]},
            "privacy": {"enum": ["text", "tokens", "hashes"]},
            "protection": _object(
                {
                    "key_id": _said(_STR, "the same in all traces made under one key"),
                    "scheme": _said(_STR, "how blocks of token ids were hashed; with privacy hashes only"),
                    "block_size": _said(_COUNT, "tokens of a hashed block; with privacy hashes only"),
                },
                "below privacy text only",
                optional=("scheme", "block_size"),
            ),
            "options": {"type": "object"},
            "inputs": _list(_STR),
            "sources": _list(source),
            "formats": _map(_COUNT),
        },
        optional=("protection",),
    )


def table_schema(name: str) -> Schema:
    """One Parquet table of a trace or profile: its columns with Arrow type, nullability and meaning."""
    columns = [
        {"name": c.name, "type": str(c.type), "nullable": c.nullable, "meaning": c.meaning}
        for c in schema.FILES[name]
    ]
    return {"table": name, "columns": columns}


def _file(name: str, properties: dict[str, Schema], optional: tuple[str, ...] = ()) -> Schema:
    found = _object(properties, optional=optional)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": name, **found}


def files() -> dict[str, str]:
    """Name and text of every file of schemas/."""
    found = {
        "profile.schema.json": profile_schema(),
        "manifest.schema.json": manifest_schema(),
        "comparison.schema.json": comparison_schema(),
    }
    for name in schema.FILES:
        found[f"{name.replace('/', '-')}.columns.json"] = table_schema(name)
    return {name: json.dumps(value, indent=2, ensure_ascii=False) + "\n" for name, value in found.items()}


def main(folder: str) -> None:
    """Write schemas/."""
    for name, text in files().items():
        (Path(folder) / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
