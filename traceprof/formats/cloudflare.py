"""Cloudflare AI Gateway: logs of the API or the dashboard (JSON), and Logpush (NDJSON).

The API's rows say when, how long and how many tokens; bodies are fetched by a second call, and are read when they were put
beside under `request` and `response`. Logpush has neither time nor id nor counts, and its bodies are encrypted: only the model,
the provider and the status are left, unless they were decrypted. `cached` is the gateway's own response cache. Whether
`created_at` is the beginning or the moment of logging is not documented: it is taken as the latter.
Source: Cloudflare docs 0170ffd8.
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
    Skip,
    count,
    elapsed,
    first_of,
    http_code,
    leftovers,
    parse_time,
    text,
)

has = Has.ARRIVALS | Has.LENGTHS | Has.SESSIONS
summary = "Cloudflare AI Gateway logs of the API, and Logpush without times (JSON, JSONL)"

_OTHER = {"embed": "embedding", "image": "image", "audio": "audio", "speech": "audio", "moderation": "moderation", "rerank": "rerank"}  # fmt: skip


def detect(record: dict[str, Any]) -> bool:
    """The columns of Logpush, or those of the API."""
    return {"Gateway", "RequestBody", "ResponseBody", "Provider"} <= record.keys() or {
        "tokens_in",
        "tokens_out",
        "created_at",
        "provider",
        "cached",
    } <= record.keys()


def read(record: dict[str, Any]) -> Read:
    """One request; calls that generate no text are skipped by kind."""
    if "Gateway" in record and "RequestBody" in record:
        return _pushed(record)
    path = str(record.get("path")).lower()
    for word, kind in _OTHER.items():
        if word in path or word in str(record.get("model_type")).lower():
            return Skip(kind)
    if record.get("created_at") is None:
        raise BadRecord("missing_field", "no created_at")
    out = Request(clock="absolute", arrival_quality="log_time")
    out.arrival_us = parse_time(record["created_at"], "created_at")[0]
    if isinstance(record["created_at"], str) and "." not in record["created_at"]:
        out.arrival_resolution_us = 1_000_000
    out.e2e_us = elapsed(record.get("duration"), "duration", 1e3, out.quality)
    out.request_id = text(record.get("id"))
    _identity(out, bodies.as_object(record.get("metadata")) or {})
    out.model_requested, out.provider = text(record.get("model")), text(record.get("provider"))
    out.http_status = http_code(record.get("status_code"))
    if isinstance(record.get("success"), bool):
        out.status = "ok" if record["success"] else "error"
    cached = record.get("cached")
    out.served_from_response_cache = cached if isinstance(cached, bool) else None
    step = record.get("step")
    out.attempt_no = step if type(step) is int and 0 <= step < 2**15 else None
    if "stream" in str(record.get("response_content_type")):
        out.stream = True
    out.extra_json = leftovers(record, ("path", "cost", "request_type"))
    usage = {
        "prompt_tokens": count(record.get("tokens_in"), "tokens_in", out.quality),
        "completion_tokens": count(record.get("tokens_out"), "tokens_out", out.quality),
    }
    return bodies.exchange(out, record.get("request"), record.get("response"), usage)


def _pushed(record: dict[str, Any]) -> Read:
    endpoint = str(record.get("Endpoint")).lower()
    for word, kind in _OTHER.items():
        if word in endpoint:
            return Skip(kind)
    out = Request(model_requested=text(record.get("Model")), provider=text(record.get("Provider")))
    out.http_status = http_code(record.get("StatusCode"))
    cached = record.get("Cached")
    out.served_from_response_cache = cached if isinstance(cached, bool) else None
    meta = bodies.as_object(record.get("Metadata"))
    if meta and not _encrypted(meta):
        _identity(out, meta)
    out.extra_json = leftovers(record, ("Gateway", "Endpoint"))
    sent, got = (bodies.decoded(record.get(key)) for key in ("RequestBody", "ResponseBody"))
    result = bodies.exchange(out, None if _encrypted(sent) else sent, None if _encrypted(got) else got)
    if _encrypted(sent):
        out.content_state = "redacted"
    return result


def _encrypted(value: Any) -> bool:
    return isinstance(value, dict) and value.get("type") == "encrypted"


def _identity(out: Request, meta: dict[str, Any]) -> None:
    """Fill session and user from what the client sent as metadata."""
    out.session_id = text(first_of(meta, SESSION_KEYS))
    out.session_kind = "explicit" if out.session_id else None
    out.user_id = text(first_of(meta, ("user", "user_id", "userId")))
    out.tenant_id = text(first_of(meta, ("tenant", "tenant_id", "team", "teamID")))
