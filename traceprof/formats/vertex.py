"""Vertex AI request-response logging: rows of the BigQuery table, exported as JSON lines or Parquet.

`full_request` and `full_response` are the bodies, Gemini's or a partner's (rawPredict); where they are missing the payload arrays hold
them as text, a stream's piece by piece. `createTime` of the answer is when the request was made; `logging_time` is when the row was
written, about the end; `metadata.request_latency` is in ms. `request_id` is a NUMERIC: as a float it would name several requests.
Source: elastic/beats 974a14b9 and elastic/integrations 91e9f683 (fields); Google docs.
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
    elapsed,
    first_of,
    leftovers,
    parse_time,
    text,
)

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.TEXT | Has.OUTPUTS | Has.SESSIONS
summary = "Vertex AI request-response logging, exported from BigQuery (JSONL, Parquet)"

_OTHER = {"embedding": "embedding", "gecko": "embedding", "imagen": "image", "imagegeneration": "image", "veo-": "video", "rank": "rerank"}  # fmt: skip


def detect(record: dict[str, Any]) -> bool:
    """The columns of the table."""
    return {"logging_time", "request_payload", "response_payload"} <= record.keys() or {
        "logging_time", "api_method", "full_request",
    } <= record.keys()  # fmt: skip


def read(record: dict[str, Any]) -> Read:
    """One call; embeddings, images and predictions of other models are skipped by kind."""
    model = text(record.get("model")) or text(record.get("endpoint")) or ""
    model = model.rpartition("/")[2]
    kind = next((kind for word, kind in _OTHER.items() if word in model), None)
    if kind is not None:
        return Skip(kind)
    sent = _first(record, "full_request", "request_payload")
    if isinstance(sent, list):  # pieces of one text
        sent = "".join(piece for piece in sent if isinstance(piece, str)) or None
    answer = bodies.answer(_first(record, "full_response", "response_payload"))
    method = str(record.get("api_method"))
    if isinstance(sent, dict) and isinstance(sent.get("instances"), list):
        return Skip("not_a_generation")
    out = Request(clock="absolute", provider="vertex")
    out.model_requested = model or None
    _times(out, record, answer or {})
    out.request_id = _identifier(record.get("request_id"), out)
    out.stream = method.lower().startswith("stream") if record.get("api_method") else None
    labels = sent.get("labels") if isinstance(sent, dict) else None
    labels = labels if isinstance(labels, dict) else {}
    out.tenant_id = text(first_of(labels, ("tenant", "tenant_id", "team")))
    out.session_id = text(first_of(labels, SESSION_KEYS))
    out.session_kind = "explicit" if out.session_id else None
    out.extra_json = leftovers(record, ("deployed_model_id", "model_version"))
    if isinstance(sent, dict):  # its `model` is a resource name
        sent = {**sent, **({"model": model} if model else {})}
    return bodies.exchange(out, sent, answer)


def _first(record: dict[str, Any], body: str, payload: str) -> Any:
    """A body, or what the array of its pieces holds: the one piece, or all of them; None when there is none."""
    whole = bodies.as_object(record.get(body))
    if whole:
        return whole
    pieces = bodies.decoded(record.get(payload))
    return bodies.decoded(pieces[0]) if isinstance(pieces, list) and len(pieces) == 1 else pieces or None


def _identifier(value: Any, out: Request) -> str | None:
    """A request's id without the zeros that a NUMERIC may have behind its point."""
    if isinstance(value, float):
        out.quality.append("imprecise_request_id")
        return None
    name = text(value)
    whole, point, rest = (name or "").partition(".")
    return whole if point and not rest.strip("0") else name


def _times(out: Request, record: dict[str, Any], answer: dict[str, Any]) -> None:
    if record.get("logging_time") is None:
        raise BadRecord("missing_field", "no logging_time")
    logged = _stamp(record["logging_time"], "logging_time")
    meta = bodies.as_object(record.get("metadata")) or {}
    out.e2e_us = elapsed(meta.get("request_latency"), "request_latency", 1e3, out.quality)
    made = first_of(answer, ("createTime", "create_time"))
    began = None
    if made is not None:
        try:
            began = _stamp(made, "createTime")
        except BadRecord:
            out.quality.append("bad_createTime")
    if began is not None:
        out.arrival_us, out.arrival_quality = began, "measured"
        if logged >= began:
            out.end_us = logged
            out.quality.append("end_is_log_time")
    elif out.e2e_us is not None and out.e2e_us <= logged:
        out.arrival_us, out.end_us, out.arrival_quality = logged - out.e2e_us, logged, "derived"
        out.quality += ["end_is_log_time", "arrival_is_end_minus_duration"]
    else:
        out.arrival_us, out.arrival_quality = logged, "log_time"


def _stamp(value: Any, what: str) -> int:
    """A time; BigQuery writes the zone as ` UTC`."""
    return parse_time(value.removesuffix(" UTC") if isinstance(value, str) else value, what)[0]
