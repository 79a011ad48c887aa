"""OTel traces that inference-perf replays: one JSON object with `spans`, each with flat attributes of the GenAI conventions.

Times are ISO 8601, UTC where they name no zone. Source: kubernetes-sigs/inference-perf 7de5ef2 (docs/otel_trace_replay.md, examples).
"""

from __future__ import annotations

from typing import Any

from traceprof.bodies.conventions import Calls
from traceprof.bodies.otel import Event, Span, attributes, hex_id, is_failure, items, moment
from traceprof.formats.base import BadRecord, Has, Request, Skip, get, text

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.TEXT | Has.OUTPUTS | Has.SESSIONS
summary = "OTel traces for inference-perf's replay (JSON)"


def detect(record: dict[str, Any]) -> bool:
    """A list of spans with span_id and plain attributes."""
    spans = record.get("spans")
    first = spans[0] if isinstance(spans, list) and spans else None
    return isinstance(first, dict) and "span_id" in first and isinstance(first.get("attributes"), dict)


def read(record: dict[str, Any]) -> list[Request | Skip | BadRecord] | Skip:
    """All calls of a trace."""
    if not isinstance(record.get("spans"), list):
        raise BadRecord("wrong_type", "spans is not a list")
    return Calls().take_all([_span(one, record) for one in items(record, "spans")]) or Skip("no_spans")


def _span(one: dict[str, Any], record: dict[str, Any]) -> Span:
    notes: list[str] = []
    trace = hex_id(one.get("trace_id")) or hex_id(record.get("trace_id"))

    def scoped(span: Any) -> str | None:  # such files count spans within a trace: span_001, span_002
        known = hex_id(span)
        return f"{trace}/{known}" if trace and known else known

    return Span(
        trace_id=trace,
        span_id=scoped(one.get("span_id")),
        parent_id=scoped(one.get("parent_span_id")),
        name=text(one.get("name")) or "",
        start=moment(one.get("start_time"), "start_time", notes),
        end=moment(one.get("end_time"), "end_time", notes),
        attributes=attributes(one),
        events=[
            Event(text(e.get("name")) or "", moment(e.get("timestamp"), "timestamp", notes), attributes(e))
            for e in items(one, "events")
        ],
        failed=is_failure(get(one.get("status"), "code")),
        message=text(get(one.get("status"), "message")),
        resource=attributes(one, "resource_attributes"),
        quality=notes,
    )
