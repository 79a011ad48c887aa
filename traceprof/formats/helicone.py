"""Helicone exports: what the export script writes (JSONL, JSON, 12-column CSV), and rows of the ClickHouse table.

Bodies stand in a row only when they were asked for (`--include-body`); else there is a signed URL, which expires and is never
fetched. Token columns follow the rule of the version that wrote them, so a body's own usage comes first. Times without a zone
are UTC. Source: Helicone/helicone examples/export 05a819cb, packages/llm-mapper 301a87bc, statusBadge.tsx 559a63f9.
"""

from __future__ import annotations

from typing import Any

from traceprof import bodies
from traceprof.bodies import spans
from traceprof.formats.base import (
    BadRecord,
    Has,
    Request,
    Skip,
    cut_state,
    elapsed,
    first_of,
    http_code,
    leftovers,
    parse_time,
    text,
)

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.TEXT | Has.OUTPUTS | Has.SESSIONS
summary = "Helicone exports with or without bodies, and ClickHouse rows (JSONL, JSON, CSV)"

_KEYS = {"response_id", "response_created_at", "request_created_at"}
_NO_CACHE = "00000000-0000-0000-0000-000000000000"
_STATES = {-1: ("error", "timeout"), -2: ("incomplete", None), -3: ("cancelled", None), -4: ("rejected", "threat")}  # fmt: skip
_LABELS = ("helicone-session-path", "helicone-session-name")
_OTHERS = {
    "/embeddings": "embedding", "/moderations": "moderation", "/images/": "image", "/audio/": "audio", "/rerank": "rerank",
}  # fmt: skip


def detect(record: dict[str, Any]) -> bool:
    """The three columns that every export has."""
    return record.keys() >= _KEYS


def read(record: dict[str, Any]) -> spans.Rows | Skip:
    """One request; embeddings and the events of tools and vector stores are skipped by kind."""
    body = _body(record.get("request_body"))
    kind = _other(record, body)
    if kind is not None:
        return Skip(kind)
    out = Request(
        clock="absolute",
        arrival_quality="measured",
        request_id=text(first_of(record, ("request_id", "response_id"))),
    )
    _times(out, record)
    about = {**(_body(record.get("request_properties")) or {}), **(_body(record.get("properties")) or {})}
    named = {str(k).lower(): text(v) for k, v in about.items()}
    spans.session(out, named.get("helicone-session-id"), None)
    out.user_id = text(first_of(record, ("request_user_id", "user_id")))
    out.tenant_id = text(record.get("organization_id"))
    out.provider = text(record.get("provider"))
    out.model_requested = text(first_of(record, ("request_model", "model")))
    rows: spans.Rows = spans.read_prompt(out, body, {})
    response = _body(record.get("response_body"))
    status = first_of(record, ("response_status", "status"))
    if isinstance(rows, Request):
        if response is not None or isinstance(record.get("response_body"), (str, list)):
            spans.read_answer(out, response or record["response_body"])
        out.model_served = out.model_served or text(record.get("response_model"))
        if out.input_tokens is None and out.output_tokens is None:
            _counts(out, record)
    for row in rows if isinstance(rows, list) else [rows]:
        if isinstance(row, Request):
            _outcome(row, status, response)
            row.served_from_response_cache = _hit(record.get("cache_reference_id"))
            row.extra_json = leftovers(named, _LABELS)
    return rows


def _body(value: Any) -> dict[str, Any] | None:
    """An object, also out of JSON text whose quotes the export script doubled once too often."""
    found = bodies.as_object(value)
    if found is None and isinstance(value, str) and value.lstrip().startswith('{""'):
        found = bodies.as_object(value.replace('""', '"'))
    return found


def _other(record: dict[str, Any], body: dict[str, Any] | None) -> str | None:
    """What a row is that is no generation; None for one that is."""
    if body is not None and body.get("_type") in ("tool", "vector_db", "data"):
        return "not_a_generation"
    path = str(record.get("request_path") or record.get("target_url") or "")
    found = next((kind for part, kind in _OTHERS.items() if part in path), None)
    return found or bodies.other_kind(body)


def _times(out: Request, record: dict[str, Any]) -> None:
    start = record.get("request_created_at")
    if start in (None, ""):
        raise BadRecord("missing_field", "no request_created_at")
    out.arrival_us = parse_time(start, "request_created_at")[0]
    out.end_us = spans.when(record.get("response_created_at"), "response_created_at", out.quality)
    out.e2e_us = elapsed(first_of(record, ("delay_ms", "latency")), "delay_ms", 1e3, out.quality)
    out.ttft_us = elapsed(record.get("time_to_first_token"), "time_to_first_token", 1e3, out.quality) or None
    if out.ttft_us is not None:
        out.first_token_us = out.arrival_us + out.ttft_us


def _counts(out: Request, record: dict[str, Any]) -> None:
    """The columns, which some versions write without and some with the cached part; 0 for an answer that never came."""
    given, made = record.get("prompt_tokens"), record.get("completion_tokens")
    if given in (None, "", 0, "0") and made in (None, "", 0, "0"):
        return
    read, written = record.get("prompt_cache_read_tokens"), record.get("prompt_cache_write_tokens")
    total = record.get("total_tokens")
    if type(given) is type(made) is int and total == given + made:
        total = None  # Helicone's own sum of the two tells nothing
    apart = True if str(record.get("provider")).upper() == "ANTHROPIC" else None
    spans.read_counts(out, spans.Counts(given, made, read, written, None, total), apart)
    if apart is None and read is None:
        out.quality.append("usage_rule_assumed")


def _outcome(out: Request, status: Any, response: dict[str, Any] | None) -> None:
    code = int(status) if str(status) in ("-1", "-2", "-3", "-4") else status
    cut_state(out)
    if type(code) is int and code in _STATES:
        out.status, out.error_type = _STATES[code]
        return
    out.http_status = http_code(code)
    bodies.settle(out, (response or {}).get("error"))


def _hit(reference: Any) -> bool | None:
    """Whether Helicone answered out of its own cache: then the row names the request whose answer it was."""
    name = text(reference)
    return None if name is None else name != _NO_CACHE
