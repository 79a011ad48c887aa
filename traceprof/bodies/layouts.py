"""Where spans and log records stand in a record: OTLP JSON, Tempo's batches, a trace of Jaeger, one span alone.

Source: open-telemetry/opentelemetry-proto (trace.proto, logs.proto); jaegertracing (API of the UI); opentelemetry-sdk 1.45.2 (console
exporter); captures.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from traceprof.bodies.otel import (  # fmt: skip
    Event,
    Moment,
    Span,
    attributes,
    first,
    hex_id,
    is_failure,
    items,
    moment,
    nanos,
    plain,
)
from traceprof.formats.base import BadRecord, get, text

SPANS = ("resourceSpans", "batches")
LOGS = ("resourceLogs",)
METRICS = ("resourceMetrics",)


def groups(record: dict[str, Any], names: tuple[str, ...]) -> list[Any] | None:
    """The groups of an export request that is of one signal; None for any other."""
    inner = record.get("trace")  # of Tempo's API
    for holder in (record, inner):
        for name in names:
            found = get(holder, name)
            if isinstance(found, list) and (name != "batches" or any(map(_is_group, found))):
                return found
    return None


def _is_group(one: Any) -> bool:
    return isinstance(one, dict) and bool({"scopeSpans", "instrumentationLibrarySpans"} & one.keys())


def is_single(record: dict[str, Any]) -> bool:
    """Whether a record is one span of OTLP, or of the console exporter."""
    if all(get(record, name) is not None for name in ("traceId", "spanId", "startTimeUnixNano")):
        return True
    context = record.get("context")
    return isinstance(context, dict) and "trace_id" in context and {"parent_id", "kind", "attributes", "events"} <= record.keys()  # fmt: skip


def is_jaeger(record: dict[str, Any]) -> bool:
    """Whether a record is one trace of Jaeger."""
    return "traceID" in record and isinstance(record.get("spans"), list) and "processes" in record


def spans_of(record: dict[str, Any]) -> list[Span] | None:
    """All spans in a record, in its order; None for a record that holds none by its nature."""
    try:
        return _spans_of(record)
    except RecursionError:
        raise BadRecord("unsupported", "nested too deep") from None


def _spans_of(record: dict[str, Any]) -> list[Span] | None:
    if is_jaeger(record):
        processes = record.get("processes")
        known = processes if isinstance(processes, dict) else {}
        return [_of_jaeger(one, known) for one in items(record, "spans")]
    if is_single(record):
        return [_of_otlp(record, {}, "") if get(record, "spanId") is not None else _of_console(record)]
    found = groups(record, SPANS)
    if found is None:
        return None
    return [
        _of_otlp(one, resource, scope)
        for group in found
        if isinstance(group, dict)
        for resource, scope, one in _within(group, "scopeSpans", "instrumentationLibrarySpans", "spans")
    ]


def _within(group: dict[str, Any], *names: str) -> Iterator[tuple[dict[str, Any], str, dict[str, Any]]]:
    """(resource, scope, span or log record) of all in a group; its scopes have an old name, too."""
    *scopes, inner = names
    resource = attributes(get(group, "resource"))
    for name in scopes:
        for one in items(group, name):
            scope = get(one, "scope") or get(one, "instrumentationLibrary")
            for member in items(one, inner):
                yield resource, text(get(scope, "name")) or "", member


def _of_otlp(one: dict[str, Any], resource: dict[str, Any], scope: str) -> Span:
    status = get(one, "status")
    return Span(
        trace_id=hex_id(get(one, "traceId")),
        span_id=hex_id(get(one, "spanId")),
        parent_id=hex_id(get(one, "parentSpanId")),
        name=text(one.get("name")) or "",
        start=nanos(get(one, "startTimeUnixNano"), "startTimeUnixNano"),
        end=nanos(get(one, "endTimeUnixNano"), "endTimeUnixNano"),
        attributes=attributes(one),
        events=[
            Event(text(e.get("name")) or "", nanos(get(e, "timeUnixNano"), "timeUnixNano"), attributes(e))
            for e in items(one, "events")
        ],
        failed=is_failure(get(status, "code")),
        message=text(get(status, "message")),
        resource=resource,
        scope=scope,
        dropped=get(one, "droppedAttributesCount") not in (None, 0, "0"),
    )


def _of_jaeger(one: dict[str, Any], processes: dict[str, Any]) -> Span:
    """A span with times in us, tags for attributes, and the resource under `processID`."""
    tags = _tags(one, "tags")
    process = processes.get(str(one.get("processID")))
    resource = _tags(process, "tags")
    resource["service.name"] = get(process, "serviceName")
    parent = next((r.get("spanID") for r in items(one, "references") if r.get("refType") == "CHILD_OF"), None)
    begun = _micros(one.get("startTime"), "startTime")
    took = 0 if one.get("duration") == 0 else _micros(one.get("duration"), "duration")
    logs = [(log, _tags(log, "fields")) for log in items(one, "logs")]
    return Span(
        trace_id=hex_id(one.get("traceID")),
        span_id=hex_id(one.get("spanID")),
        parent_id=hex_id(parent),
        name=text(one.get("operationName")) or "",
        start=begun,
        end=begun + took if isinstance(begun, int) and isinstance(took, int) else None,
        attributes=tags,
        events=[
            Event(text(first(f, ("event", "message"))) or "", _micros(log.get("timestamp"), "timestamp"), f)
            for log, f in logs
        ],
        failed=is_failure(tags.get("otel.status_code")) or str(tags.get("error")).lower() == "true",
        message=text(tags.get("otel.status_description")),
        resource=resource,
        scope=text(first(tags, ("otel.scope.name", "otel.library.name"))) or "",
    )  # fmt: skip


def _micros(value: Any, what: str) -> Moment:
    exact = isinstance(value, (int, float)) and not isinstance(value, bool)
    return nanos(value * 1000 if exact else value, what)


def _tags(holder: Any, name: str) -> dict[str, Any]:
    return {one["key"]: one.get("value") for one in items(holder, name) if isinstance(one.get("key"), str)}


def _of_console(one: dict[str, Any]) -> Span:
    """A span as the console exporter of the Python SDK prints it."""
    notes: list[str] = []
    status = one.get("status")
    return Span(
        trace_id=hex_id(get(one.get("context"), "trace_id")),
        span_id=hex_id(get(one.get("context"), "span_id")),
        parent_id=hex_id(one.get("parent_id")),
        name=text(one.get("name")) or "",
        start=moment(one.get("start_time"), "start_time", notes),
        end=moment(one.get("end_time"), "end_time", notes),
        attributes=attributes(one),
        events=[
            Event(text(e.get("name")) or "", moment(e.get("timestamp"), "timestamp", notes), attributes(e))
            for e in items(one, "events")
        ],
        failed=is_failure(get(status, "status_code")),
        message=text(get(status, "description")),
        resource=attributes(one.get("resource")),
        quality=notes,
    )


def logs_of(record: dict[str, Any]) -> list[Span]:
    """The log records in a record, each as a span of nothing but its event: ids, resource, and what the record tells."""
    try:
        return _logs_of(record)
    except RecursionError:
        raise BadRecord("unsupported", "nested too deep") from None


def _logs_of(record: dict[str, Any]) -> list[Span]:
    out = []
    for group in groups(record, LOGS) or ():
        if not isinstance(group, dict):
            continue
        for resource, scope, one in _within(group, "scopeLogs", "instrumentationLibraryLogs", "logRecords"):
            given = attributes(one)
            at = nanos(_time(one), "timeUnixNano")
            name = text(get(one, "eventName")) or text(given.get("event.name")) or ""
            body = plain(one.get("body"))
            told = given if body is None else {**given, "gen_ai.event.content": body}
            out.append(Span(
                hex_id(get(one, "traceId")), hex_id(get(one, "spanId")), None, name, at, None, {},
                [Event(name, at, told)], resource=resource, scope=scope,
            ))  # fmt: skip
    return out


def _time(one: dict[str, Any]) -> Any:
    """When a log record was observed, else when it says that it happened; emitters leave the one or the other out."""
    observed = get(one, "observedTimeUnixNano")
    return get(one, "timeUnixNano") if observed in (None, 0, "0", "") else observed
