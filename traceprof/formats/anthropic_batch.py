"""Anthropic message batches: what created a batch, `{"requests": [{custom_id, params}]}`, and its results, joined on `custom_id`.

No row has a time; results come in any order. The requests may also stand one a line. As for OpenAI's batches, a result goes
to the file of requests that shares most ids with its own. Source: anthropics/anthropic-sdk-python 009b0353.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from traceprof import bodies
from traceprof.bodies import anthropic
from traceprof.formats.base import BadRecord, Has, Request, Result, Skip, attempt, cut_state, text
from traceprof.formats.openai_batch import joined, outcome, unique

has = Has.LENGTHS | Has.TEXT | Has.OUTPUTS
summary = "Anthropic message batches, requests and results joined on custom_id (JSON, JSONL)"

_ENDED = {"errored": "error", "canceled": "cancelled", "expired": "error"}


def detect(record: dict[str, Any]) -> bool:
    """A list of requests, one request (custom_id, params), or a result (custom_id, result)."""
    if "custom_id" in record:
        return isinstance(record.get("params"), dict) or isinstance(record.get("result"), dict)
    held = record.get("requests")
    first = held[0] if isinstance(held, list) and held else None
    return isinstance(first, dict) and {"custom_id", "params"} <= first.keys()


def read_all(records: Iterable[Any]) -> Iterator[tuple[Any, Result]]:
    """All records of one import's batches: yields (record, what it became); a batch is bounded, so they are held."""
    created: list[tuple[Any, list[Any]]] = []
    results = []
    for record in records:
        value = record.value
        if "result" in value and "params" not in value:
            results.append(record)
        else:
            created.append((record, value["requests"] if "custom_id" not in value else [value]))
    asked = [(record.file, _name(one)) for record, held in created for one in held]
    places = joined(asked, [(r.file, _name(r.value)) for r in results])
    by_request = {
        found.at: (results[i].value, found.by_order) for i, found in enumerate(places) if found.at >= 0
    }
    seen: dict[str, str] = {}
    at = 0
    for record, held in created:
        rows = []
        for one in held:
            result, by_order = by_request.get(at, (None, False))
            name = unique(asked[at], _message_id(result), seen)
            rows.append(attempt(_request, one, result, name, by_order))
            at += 1
        yield record, rows if "custom_id" not in record.value else rows[0]
    for record, found in zip(results, places, strict=True):
        yield record, outcome(found)


def _name(one: Any) -> str:
    return str(one.get("custom_id")) if isinstance(one, dict) else ""


def _message_id(result: dict[str, Any] | None) -> str | None:
    message = result["result"].get("message") if result and isinstance(result["result"], dict) else None
    return text(message.get("id")) if isinstance(message, dict) else None


def _request(one: Any, answer: dict[str, Any] | None, name: str, by_order: bool) -> Request | Skip:
    params = one.get("params") if isinstance(one, dict) else None
    if not isinstance(params, dict):
        raise BadRecord("wrong_type", "a request of the batch has no params")
    if "messages" not in params:
        raise BadRecord("missing_field", "params has no messages")
    out = Request(request_id=name)
    anthropic.read_request(out, params)
    result = answer["result"] if answer is not None else None
    if isinstance(result, dict):
        message, error = bodies.answer(result.get("message")), result.get("error")
        if message is not None:
            bodies.read_response(out, message, anthropic)
        out.status = _ENDED.get(str(result.get("type")), out.status)
        if out.status == "error":
            out.error_type = _error_type(error) or text(result.get("type"))
    if by_order:
        out.quality.append("joined_by_order")
    return cut_state(out)


def _error_type(error: Any) -> str | None:
    """The type of an error, which may stand in an envelope `{type: error, error: {type, message}}`."""
    inner = error.get("error") if isinstance(error, dict) else None
    error = inner if isinstance(inner, dict) else error
    return text(error.get("type")) if isinstance(error, dict) else None
