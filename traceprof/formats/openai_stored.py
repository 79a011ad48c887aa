"""Completions of the OpenAI API without their requests: stored ones, as the API lists them, and answers logged alone.

A stored one has the request's parameters flattened into it; its messages are not there unless an export put them in, as
`GET /chat/completions/{id}/messages` gives them. `created` is the only time. Source: openai/openai-openapi f85dbe2.
"""

from __future__ import annotations

from typing import Any

from traceprof.bodies import openai
from traceprof.formats import pairs
from traceprof.formats.base import (
    SESSION_KEYS,
    BadRecord,
    Has,
    Request,
    Skip,
    attempt,
    cut_state,
    dumps,
    first_of,
    messages,
    parse_time,
    text,
)

has = Has.ARRIVALS | Has.LENGTHS | Has.TEXT | Has.OUTPUTS | Has.SESSIONS
summary = "completions without their requests: stored ones in pages, or answers logged alone (JSON, JSONL)"

_ASKED = frozenset(("messages", "prompt", *pairs.REQUEST_KEYS))  # where a logger would have the request


def detect(record: dict[str, Any]) -> bool:
    """A page of completions; a stored completion; or an answer alone, without anything that it answers."""
    if record.get("object") == "list":
        held = record.get("data")
        return isinstance(held, list) and any(map(_is_completion, held))
    stored = "input_user" in record and "request_id" in record
    return _is_completion(record) and (stored or not record.keys() & _ASKED)


def _is_completion(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.get("object") in ("chat.completion", "text_completion")
        and "choices" in value
    )


def read(record: dict[str, Any]) -> Request | Skip | list[Any]:
    """One request a completion."""
    if record.get("object") != "list":
        return _completion(record)
    held = record.get("data")
    if not isinstance(held, list):
        raise BadRecord("wrong_type", "data is not a list of completions")
    return [attempt(_completion, one) for one in held] or Skip("empty_list")


def _completion(one: Any) -> Request:
    if not isinstance(one, dict):
        raise BadRecord("wrong_type", f"a completion is a {type(one).__name__}, not an object")
    out = Request(request_id=text(one.get("request_id")))
    out.operation = "text" if one.get("object") == "text_completion" else "chat"
    if one.get("created") is not None:
        out.arrival_us = parse_time(one["created"], "created")[0]
        out.clock, out.arrival_quality, out.arrival_resolution_us = "absolute", "derived", 1_000_000
        out.quality.append("arrival_is_created")
    said = one.get("messages")
    said = said.get("data") if isinstance(said, dict) else said
    if isinstance(said, list) and said:
        out.messages_json = messages([_unnumbered(m) for m in said], out)
    else:
        out.content_level, out.content_state = "lengths", "absent"
    tools = one.get("tools")
    out.tools_json = dumps(tools) if isinstance(tools, list) and tools else None
    out.params = openai.params(one)
    out.user_id = text(one.get("input_user"))
    meta = one.get("metadata")
    out.session_id = text(first_of(meta, SESSION_KEYS)) if isinstance(meta, dict) else None
    out.session_kind = "explicit" if out.session_id else None
    openai.read_response(out, one)
    return cut_state(out)


def _unnumbered(message: Any) -> Any:
    """A message without the id that it was stored under, which is no part of the prompt."""
    if not isinstance(message, dict):
        return message
    return {k: v for k, v in message.items() if v is not None and k != "id"}
