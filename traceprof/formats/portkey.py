"""Portkey logs export: one object an attempt, with both bodies. Fallbacks and retries share a trace_id.

`created_at` is the start of the attempt, `response_time` counts ms from there; `cache_status` is Portkey's own response
cache; `metadata` is two lists, keys and values. Source: Portkey docs 08d4d1e1; Portkey-AI/gateway 1082bd37, logsService.
"""

from __future__ import annotations

from typing import Any

from traceprof import bodies
from traceprof.formats.base import (
    SESSION_KEYS,
    BadRecord,
    Has,
    Read,
    Request,
    count,
    elapsed,
    first_of,
    http_code,
    lasted,
    leftovers,
    parse_time,
    text,
)

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.TEXT | Has.OUTPUTS | Has.SESSIONS
summary = "Portkey logs export (JSONL)"

_SERVED = ("HIT", "SEMANTIC HIT")
_ONE_OF_SEVERAL = ("FALLBACK", "LOADBALANCE", "CONDITIONAL")


def detect(record: dict[str, Any]) -> bool:
    """The units that only Portkey counts in."""
    return "req_units" in record and "res_units" in record


def read(record: dict[str, Any]) -> Read:
    """One attempt; embeddings and other calls that generate no text are skipped by kind."""
    if record.get("created_at") is None:
        raise BadRecord("missing_field", "no created_at")
    out = Request(clock="absolute", arrival_quality="attempt_start")
    out.arrival_us = parse_time(record["created_at"], "created_at")[0]
    lasted(out, elapsed(record.get("response_time"), "response_time", 1e3, out.quality))
    meta = _metadata(record.get("metadata"))
    out.request_id = text(record.get("id"))
    out.trace_id = text(record.get("trace_id"))
    if record.get("mode") in _ONE_OF_SEVERAL or record.get("retry_success_count"):
        out.attempt_group = out.trace_id
    out.session_id = text(first_of(meta, SESSION_KEYS))
    out.session_kind = "explicit" if out.session_id else None
    out.user_id = text(first_of(meta, ("_user", "user", "user_id")))
    out.tenant_id = text(first_of(meta, ("_organisation", "organisation", "tenant", "team")))
    out.model_served = text(record.get("ai_model"))
    out.provider = text(record.get("ai_org"))
    stream = record.get("stream_mode")
    out.stream = stream if isinstance(stream, bool) else None
    cache = text(record.get("cache_status"))
    out.served_from_response_cache = cache in _SERVED if cache else None
    out.http_status = http_code(record.get("response_status_code"))
    if record.get("is_success") in (0, False):
        out.status = "error"
    out.extra_json = leftovers(record, ("mode", "config", "prompt_slug", "cost", "cost_currency"))
    sent, got = (_body(record.get(key)) for key in ("request", "response"))
    usage = {
        name: count(record.get(key), key, out.quality)
        for name, key in (("prompt_tokens", "req_units"), ("completion_tokens", "res_units"))
    }
    return bodies.exchange(out, sent, got, usage)


def _body(value: Any) -> Any:
    """What stands under `body`, in a value that may be JSON text."""
    value = bodies.decoded(value)
    return value.get("body") if isinstance(value, dict) and "body" in value else value


def _metadata(value: Any) -> dict[str, Any]:
    """Two lists, keys and values, as an object."""
    given = bodies.as_object(value) or {}
    keys, values = given.get("key"), given.get("value")
    if isinstance(keys, list) and isinstance(values, list):
        return {k: v for k, v in zip(keys, values, strict=False) if isinstance(k, str)}
    return given
