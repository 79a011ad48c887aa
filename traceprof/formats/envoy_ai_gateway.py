"""Envoy AI Gateway access logs: one JSON object a request, whose keys the user chose; read are those that its docs propose.

No prompts. `duration` counts ms from `start_time`; `-` and null stand for what is not known. The upstream's service time is when
its headers came, which is no first token: it is kept in extra_json. Retries are one row. Source: envoyproxy/ai-gateway c217da8a,
docs; Envoy's response flags.
"""

from __future__ import annotations

from typing import Any

from traceprof.bodies import openai, settle
from traceprof.formats.base import (
    BadRecord,
    Has,
    Request,
    Skip,
    elapsed,
    first_of,
    http_code,
    lasted,
    leftovers,
    parse_time,
    text,
)

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.SESSIONS
summary = "Envoy AI Gateway JSON access logs (JSONL)"

_ENVOYS = frozenset(("response_code", "response_flags", "response_code_details", ":authority", "x-envoy-upstream-service-time",
                     "x-envoy-origin-path", "upstream_host"))  # fmt: skip
_USAGE = "gen_ai.usage."
_CACHED = (f"{_USAGE}cached_input_tokens", f"{_USAGE}cache_read.input_tokens")


def detect(record: dict[str, Any]) -> bool:
    """A start and a duration, one of Envoy's own fields, and one of the gateway's."""
    return (
        "start_time" in record
        and "duration" in record
        and not _ENVOYS.isdisjoint(record)
        and any(key.startswith("gen_ai.") for key in record)
    )


def read(record: dict[str, Any]) -> Request | Skip:
    """One request, known by its lengths; embeddings are skipped, told by their path."""
    path = str(first_of(record, ("x-envoy-origin-path", ":path", "path")))
    if "embedding" in path:
        return Skip("embedding")
    if (start := _given(record, "start_time")) is None:
        raise BadRecord("missing_field", "no start_time")
    out = Request(content_level="lengths", content_state="absent", clock="absolute", arrival_quality="measured")  # fmt: skip
    out.arrival_us = parse_time(start, "start_time")[0]
    lasted(out, elapsed(record.get("duration"), "duration", 1e3, out.quality))
    out.request_id = text(_given(record, "x-request-id"))
    out.session_id = text(_given(record, "session.id"))
    out.session_kind = "explicit" if out.session_id else None
    out.user_id = text(_given(record, "user.id"))
    out.model_requested = text(_given(record, "gen_ai.request.model"))
    out.model_served = text(_given(record, "gen_ai.response.model")) or text(_given(record, "gen_ai.request.model_override"))  # fmt: skip
    backend = text(_given(record, "gen_ai.provider.name"))
    out.provider = backend and backend.partition("/route/")[0]
    out.app = text(_given(record, "user-agent"))
    openai.read_usage(
        out,
        {
            "prompt_tokens": _given(record, f"{_USAGE}input_tokens"),
            "completion_tokens": _given(record, f"{_USAGE}output_tokens"),
            "prompt_tokens_details": {
                "cached_tokens": next((c for k in _CACHED if (c := _given(record, k)) is not None), None),
            },
        },
    )
    if not out.input_tokens and not out.output_tokens:  # 0 where no model answered
        out.input_tokens = out.output_tokens = out.cached_input_tokens = out.tokens_source = None
    _outcome(out, record)
    kept = {k: _given(record, k) for k in ("x-envoy-upstream-service-time", "x-envoy-origin-path")}
    out.extra_json = leftovers(kept, kept)
    return out


def _given(record: dict[str, Any], key: str) -> Any:
    value = record.get(key)
    return None if value in ("-", "") else value


def _outcome(out: Request, record: dict[str, Any]) -> None:
    """Fill status from the code, and from the flags when the client or the upstream broke off."""
    code = _given(record, "response_code")
    out.http_status = http_code(str(code) if isinstance(code, (int, str)) else None)
    settle(out, None)
    flags = text(_given(record, "response_flags"))
    if flags:
        out.error_type = flags
        out.status = "cancelled" if "DC" in flags.split(",") else "error" if out.status == "ok" else out.status  # fmt: skip
    if out.status == "unknown" and out.output_tokens:
        out.status = "ok"
