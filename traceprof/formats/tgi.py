"""text-generation-inference: its JSON log (--json-output), and logs of its native bodies in the wrappers that loggers use.

A log row is written at the end of a request, its times are Rust's Durations. It has no prompt, no id and no count of the prompt; the
answer's tokens are inference_time / time_per_token. A row of level ERROR is a request that failed. Source:
huggingface/text-generation-inference db931fcf, router/src/{server,logging}.rs.
"""

from __future__ import annotations

import re
from typing import Any

from traceprof.bodies import openai
from traceprof.bodies import tgi as dialect
from traceprof.formats import pairs
from traceprof.formats.base import BadRecord, Has, Request, Skip, count, ended, parse_time

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.TEXT | Has.TOKENS | Has.OUTPUTS
summary = "text-generation-inference: JSON log, and native bodies alone or with their answer as for `openai` (JSONL)"

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|µs|μs|us|ms|s)")
_UNIT_NS = {"ns": 1, "µs": 1e3, "μs": 1e3, "us": 1e3, "ms": 1e6, "s": 1e9}
_QUOTED = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"')
_PARAMETER = re.compile(r"(\w+): (?:Some\()?(-?\d[\d.e+-]*|\[[^\]]*\])")
_CALLS = {"generate": False, "generate_stream": True}


def detect(record: dict[str, Any]) -> bool:
    """A row of the router's log, or a native body, alone or with its answer."""
    target = record.get("target")
    if isinstance(target, str):
        return target.startswith("text_generation_router") and "timestamp" in record
    return pairs.is_pair(record, dialect)


def read(record: dict[str, Any]) -> Request | Skip | list[Request | Skip]:
    """One request; rows that tell of none are skipped."""
    if not isinstance(record.get("target"), str):
        return pairs.read(record)
    span = record.get("span")
    if not isinstance(span, dict):
        return Skip("other_line")
    if "total_time" not in span and (record.get("level") != "ERROR" or "name" not in span):
        return Skip("other_line")
    at, naive = parse_time(record.get("timestamp"), "timestamp")
    out = Request(operation="text", clock="absolute", content_level="lengths", content_state="absent")
    out.quality.extend(["tz_assumed"] if naive else [])
    out.stream = _CALLS.get(str(span.get("name")))
    if "total_time" not in span:
        out.arrival_us, out.arrival_quality, out.status, out.error_type = at, "log_time", "error", "error"
        return out
    took = _ns(span["total_time"])
    if took is None:
        raise BadRecord("bad_time", "total_time is not a duration")
    ended(out, at, round(took / 1e3))
    waited = _ns(span.get("queue_time"))
    out.queue_us = None if waited is None else round(waited / 1e3)
    out.status = "ok" if record.get("message") == "Success" else "error"
    out.output_tokens = _generated(_ns(span.get("inference_time")), _ns(span.get("time_per_token")))
    if out.output_tokens is not None:
        out.tokens_source = "usage"
        out.quality.append("output_tokens_from_times")
    _parameters(out, span)
    return out


def _ns(value: Any) -> float | None:
    """Nanoseconds of a Rust Duration's Debug text, such as 1.56s or 38.1µs; None when it is none.

    >>> _ns("1.5ms"), _ns("soon")
    (1500000.0, None)
    """
    found = _DURATION.fullmatch(value) if isinstance(value, str) and len(value) < 40 else None
    took = None if found is None else float(found[1]) * _UNIT_NS[found[2]]
    return took if took is not None and took < 1e18 else None


def _generated(whole: float | None, each: float | None) -> int | None:
    """Tokens that were generated in a time, of the time for each; None where that is no whole number.

    >>> _generated(1.562211e9, 82.221e6)
    19
    """
    if whole is None or each is None or each < 1:
        return None
    tokens = whole / each
    return round(tokens) if 0.99 < tokens < 1e6 and abs(tokens - round(tokens)) < 0.05 else None


def _parameters(out: Request, span: dict[str, Any]) -> None:
    """Sampling parameters out of the Debug text of a struct; `Some(123)` of the span's own seed."""
    said = span.get("parameters")
    if not isinstance(said, str):
        return
    given: dict[str, Any] = {}
    for key, value in _PARAMETER.findall(_QUOTED.sub('""', said)):
        given[key] = ["" for _ in range(value.count('""'))] if value[0] == "[" else _number(value)
    out.max_output_tokens = count(given.get("max_new_tokens"), "max_new_tokens", out.quality)
    seed = _PARAMETER.search(f"seed: {span.get('seed')}")
    if seed is not None and seed[2][0] != "[":
        given["seed"] = _number(seed[2])
    out.params = openai.params(given)


def _number(value: str) -> float | int | None:
    try:
        return int(value) if value.lstrip("-").isdigit() and len(value) < 20 else float(value)
    except ValueError:
        return None
