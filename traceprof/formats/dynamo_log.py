"""Dynamo's frontend log as JSON lines (DYN_LOGGING_JSONL=1): rows of a request joined by request_id, without any text.

A request is its `request completed` row; it arrives with `request received`, or elapsed_ms before it ends. A refused one has
an `http response sent` row only. Numbers are strings; text completions have no counts. Source: captures of Dynamo 1.6.1.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

from traceprof.formats.base import (
    Has,
    Request,
    Result,
    Skip,
    attempt,
    count,
    dumps,
    elapsed,
    ended,
    http_code,
    parse_time,
    status_of_http,
    text,
)

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS
summary = "Dynamo frontend log, without text (JSONL)"

_MOST = 100_000  # requests that are open, or ended lately
_CALLS = {
    "chat_completions": "chat", "completions": "text", "responses": "responses", "messages": "chat",
    "anthropic_messages": "chat",
}  # fmt: skip
_URIS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text",
    "/v1/responses": "responses",
    "/v1/messages": "chat",
}


def detect(record: dict[str, Any]) -> bool:
    """A row of the frontend's logger, of a part of Dynamo's own."""
    return takes(record) and "dynamo" in record["target"]


def takes(record: dict[str, Any]) -> bool:
    """A row of the frontend's logger, of whichever of its parts: libraries write to it, too."""
    return all(isinstance(record.get(key), str) for key in ("time", "level", "target", "message"))


def read_all(records: Iterable[Any]) -> Iterator[tuple[Any, Result]]:
    """All rows of all files."""
    begun: OrderedDict[str, Any] = OrderedDict()  # received rows
    over: OrderedDict[str, None] = OrderedDict()  # ids of requests that ended
    for record in records:
        row = record.value
        said, name = row["message"], text(row.get("request_id"))
        if name is None or said not in ("request received", "request completed", "http response sent"):
            yield record, Skip("other_line")
        elif said == "request received":
            before = begun.pop(name, None)
            begun[name] = record
            oldest = begun.popitem(last=False)[1] if len(begun) > _MOST else None
            for one in (before, oldest):
                if one is not None:
                    yield one, attempt(_request, one.value, None)
        elif said == "request completed":
            first = begun.pop(name, None)
            over[name] = None
            if len(over) > _MOST:
                over.popitem(last=False)
            if first is not None:
                yield first, Skip("joined_to_its_request")
            yield record, attempt(_request, None if first is None else first.value, row)
        elif name in begun or name in over:
            yield record, Skip("joined_to_its_request")
        else:
            yield record, attempt(_refused, row)
    for record in begun.values():
        yield record, attempt(_request, record.value, None)


def _request(first: dict[str, Any] | None, last: dict[str, Any] | None) -> Request | Skip:
    """The request of its received and its completed row; one of them may be missing."""
    row = last or first or {}
    operation = _CALLS.get(str(row.get("endpoint")))
    if operation is None:
        return Skip("embedding" if "embed" in str(row.get("endpoint")) else "not_a_generation")
    out = _common(row, operation)
    kind = row.get("request_type")
    out.stream = kind == "stream" if kind in ("stream", "unary") else None
    if first is not None:
        out.arrival_us, out.arrival_quality = parse_time(first.get("time"), "time")[0], "log_time"
    if last is None:
        out.status = "incomplete"
        return out
    out.end_us = parse_time(last.get("time"), "time")[0]
    out.e2e_us, out.ttft_us = (
        elapsed(last.get("elapsed_ms"), "elapsed_ms", 1e3, out.quality),
        elapsed(last.get("ttft_ms"), "ttft_ms", 1e3, out.quality),
    )
    if first is None and out.e2e_us is not None:
        ended(out, out.end_us, out.e2e_us)
        out.arrival_resolution_us = 1_000
    if out.arrival_us is not None and out.ttft_us is not None:
        out.first_token_us = out.arrival_us + out.ttft_us
    for name in ("input_tokens", "output_tokens"):
        setattr(out, name, count(last.get(name), name, out.quality))
    if out.input_tokens is not None:
        out.tokens_source = "usage"
    status = str(last.get("status"))
    out.status = "ok" if status == "success" else "cancelled" if "cancel" in status else "error"
    if out.status == "error":
        out.error_type = text(last.get("error_type")) or "error"
    counts = ((kind, attempt(count, last.get(f"{kind}_count"), kind)) for kind in ("image", "audio", "video"))
    media = [
        {"kind": kind, "count": n, "bytes": None, "hash": None}
        for kind, n in counts
        if isinstance(n, int) and n
    ]
    out.media = media or None
    return out


def _refused(row: dict[str, Any]) -> Request | Skip:
    """A request of which only the HTTP answer is told: it never got as far as an engine."""
    operation = _URIS.get(str(row.get("uri")))
    code = http_code(row.get("status"))
    if operation is None or code is None or code < 400:
        return Skip("other_line")
    out = _common(row, operation)
    out.http_status, out.status = code, status_of_http(code) or "error"
    took = elapsed(row.get("latency_ms"), "latency_ms", 1e3, out.quality)
    ended(out, parse_time(row.get("time"), "time")[0], took or 0)
    out.arrival_resolution_us = 1_000
    return out


def _common(row: dict[str, Any], operation: str) -> Request:
    out = Request(operation=operation, clock="absolute", content_level="lengths", content_state="absent")
    out.request_id, out.trace_id = text(row.get("request_id")), text(row.get("trace_id"))
    out.model_requested = text(row.get("model"))
    if text(row.get("x_request_id")):
        out.extra_json = dumps({"x_request_id": text(row["x_request_id"])})
    return out
