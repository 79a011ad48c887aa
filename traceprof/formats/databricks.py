"""Databricks inference tables: those of model serving (legacy), of AI Gateway and of Unity AI Gateway (JSONL, CSV, Parquet).

Bodies are JSON in strings, OpenAI's where a language model is served; the rows of other models are skipped. A body over the limit
(1 MiB, newer 10 MiB) is null, and MAX_REQUEST_SIZE_EXCEEDED among the error codes says so. Rows are delivered at least once: the second of an
id is a duplicate. Refused calls (401, 403, 429) may be missing. Source: Databricks docs.
"""

from __future__ import annotations

from typing import Any

from traceprof import bodies
from traceprof.formats.base import (
    BadRecord,
    Has,
    Read,
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

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.TEXT | Has.OUTPUTS
summary = "Databricks inference tables of model serving and AI Gateway (JSONL, CSV, Parquet)"

_TABLES = (
    {"databricks_request_id", "timestamp_ms", "execution_time_ms"},
    {"databricks_request_id", "request_time", "execution_duration_ms"},
    {"invocation_id", "event_time", "latency_ms"},
)
_TOO_LARGE = "MAX_REQUEST_SIZE_EXCEEDED"


def detect(record: dict[str, Any]) -> bool:
    """The columns of one of the three tables."""
    return any(table <= record.keys() for table in _TABLES)


def read(record: dict[str, Any]) -> Read:
    """One call; embeddings and calls of models that are no language models are skipped."""
    began = first_of(record, ("timestamp_ms", "request_time", "event_time"))
    if began in (None, ""):
        raise BadRecord("missing_field", "no time of the request")
    out = Request(clock="absolute", arrival_quality="measured")
    if record.get("timestamp_ms") is not None:
        out.arrival_us = parse_time(_milliseconds(began), "timestamp_ms")[0]
    else:
        out.arrival_us, naive = parse_time(began, "time of the request")
        if naive:
            out.quality.append("tz_assumed")
    took = first_of(record, ("execution_time_ms", "execution_duration_ms", "latency_ms"))
    lasted(out, elapsed(took, "execution_duration_ms", 1e3, out.quality))
    out.request_id = text(first_of(record, ("databricks_request_id", "invocation_id")))
    out.user_id = text(record.get("requester"))
    out.http_status = http_code(record.get("status_code"))
    meta = bodies.as_object(record.get("request_metadata")) or {}
    out.model_requested = text(meta.get("endpoint_name"))
    out.model_served = text(meta.get("model_name")) or text(record.get("served_entity_id"))
    out.provider = "databricks"
    share = record.get("sampling_fraction")
    try:
        out.sampling_fraction = float(share) if share not in (None, "") and 0 < float(share) <= 1 else None
    except (TypeError, ValueError, OverflowError):
        out.quality.append("bad_sampling_fraction")
    out.extra_json = leftovers(record, ("client_request_id",))
    if _TOO_LARGE in str(record.get("logging_error_codes")):
        out.quality.append("too_large_to_log")
    sent = bodies.decoded(record.get("request"))
    if isinstance(sent, dict):
        if out.model_requested and "model" not in sent:  # the endpoint stands for it
            sent = {"model": out.model_requested, **sent}
        given = sent.get("input")
        if isinstance(given, str) or (isinstance(given, list) and all(isinstance(g, str) for g in given)):
            return Skip("embedding")
    return bodies.exchange(out, sent or None, record.get("response"))


def _milliseconds(value: Any) -> Any:
    """Milliseconds whose digits may stand in a string, as a CSV has them."""
    return int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 20 else value
