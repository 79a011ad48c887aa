"""Dynamo's request trace (DYN_REQUEST_TRACE, formerly DYN_AGENT_TRACE): request_end events, joined with request_payload by request_id.

The events stand alone or under `event`. Block hashes are chained u64, the last, partial block included, and the same for the same
tokens in every process. Payloads (chat only) are there when asked for; refused requests leave no row. Source: ai-dynamo/dynamo
01a60e69, docs/agents/agent-tracing.md; captures of 1.6.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from traceprof import bodies
from traceprof.formats.base import (
    BadRecord,
    Has,
    Request,
    Result,
    Skip,
    attempt,
    count,
    dumps,
    elapsed,
    ended,
    epoch_us,
    finish,
    first_of,
    hashes,
    text,
)

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.TEXT | Has.BLOCKS | Has.OUTPUTS | Has.SESSIONS
summary = "Dynamo request trace, block hashes and bodies (JSONL)"

HELD_BYTES = 32 << 20  # of rows whose partner has not come; beyond it the oldest go without
_HELD_ROWS = 10_000
_OUTCOMES = {"error": "error", "cancelled": "cancelled", "abort": "cancelled"}


def detect(record: dict[str, Any]) -> bool:
    """An event with a schema of Dynamo's, or a row that holds one."""
    event = record.get("event", record)
    schema = event.get("schema") if isinstance(event, dict) else None
    own = isinstance(schema, str) and schema.startswith("dynamo.")
    return own and schema != "dynamo.agentic_mooncake"  # the header of a replay trace


def read_all(records: Iterable[Any]) -> Iterator[tuple[Any, Result]]:
    """All rows of all files: a request is its request_end, or its payload when there is none."""
    waiting: dict[str, Any] = {}  # by request id: a row whose partner has not come
    held = 0
    for record in records:
        event = record.value.get("event", record.value)
        kind = str(event.get("event_type"))
        if kind not in _PARTS:
            yield record, Skip("tool_call" if kind.startswith("tool_") else "other_event")
            continue
        part = event.get(_PARTS[kind])
        name = text(part.get("request_id")) if isinstance(part, dict) else None
        if name is None:
            yield record, attempt(_request, *((event, None) if kind == "request_end" else (None, event)))
            continue
        partner = waiting.pop(name, None)
        if partner is not None:
            held -= len(partner.raw)
            other = _event(partner)
            if other.get("event_type") != kind:
                end, payload = (record, partner) if kind == "request_end" else (partner, record)
                yield payload, Skip("joined_to_its_request")
                yield end, attempt(_request, _event(end), _event(payload))
                continue
            yield _alone(partner)
        waiting[name] = record
        held += len(record.raw)
        while held > HELD_BYTES or len(waiting) > _HELD_ROWS:
            oldest = waiting.pop(next(iter(waiting)))
            held -= len(oldest.raw)
            yield _alone(oldest)
    for record in waiting.values():
        yield _alone(record)


_PARTS = {"request_end": "request", "request_payload": "payload"}


def _event(record: Any) -> dict[str, Any]:
    event: dict[str, Any] = record.value.get("event", record.value)
    return event


def _alone(record: Any) -> tuple[Any, Result]:
    event = _event(record)
    ended = event.get("event_type") == "request_end"
    return record, attempt(_request, *((event, None) if ended else (None, event)))


def _request(end: dict[str, Any] | None, payload: dict[str, Any] | None) -> Request:
    """The request of its two events, as far as they are there."""
    out = Request(clock="absolute", content_level="lengths", content_state="absent")
    if payload is not None:
        _payload(out, payload)
    if end is not None:
        _end(out, end)
    return out


def _payload(out: Request, event: dict[str, Any]) -> None:
    """Prompt and answer."""
    part = event.get("payload")
    if not isinstance(part, dict):
        raise BadRecord("wrong_type", "payload is not an object")
    out.request_id = text(part.get("request_id"))
    out.arrival_us, out.arrival_quality = (
        epoch_us(event.get("event_time_unix_ms"), "event_time_unix_ms"),
        "measured",
    )
    body = bodies.as_object(part.get("request"))
    dialect = None if body is None else bodies.of_request(body)
    if body is None or dialect is None:
        raise BadRecord("no_prompt", "payload has no request body")
    dialect.read_request(out, body)
    out.content_level = "text"
    if out.content_state == "absent":
        out.content_state = "complete"
    answer = bodies.answer(part.get("response"))
    if answer is not None:
        bodies.read_response(out, answer, dialect)
        bodies.settle(out, answer.get("error"))
    if part.get("payload_complete") is False and out.status in ("ok", "unknown"):
        out.status = "incomplete"


def _end(out: Request, event: dict[str, Any]) -> None:
    """What was measured of it, its blocks and its session."""
    part = event.get("request")
    if not isinstance(part, dict):
        raise BadRecord("wrong_type", "request is not an object")
    out.request_id = text(part.get("request_id"))
    out.model_requested = text(part.get("model")) or out.model_requested
    for name in ("input_tokens", "output_tokens"):
        setattr(out, name, count(part.get(name), name, out.quality))
    out.cached_input_tokens = count(part.get("cached_tokens"), "cached_tokens", out.quality)
    _blocks(out, part.get("replay"))
    if out.cached_input_tokens is not None and out.cached_input_tokens > (out.input_tokens or 0):
        out.cached_input_tokens = None
        out.quality.append("bad_cached_tokens")
    out.tokens_source = "usage"
    end = event.get("event_time_unix_ms")
    out.end_us = None if end is None else epoch_us(end, "event_time_unix_ms")
    out.e2e_us, out.ttft_us = (
        elapsed(part.get("total_time_ms"), "total_time_ms", 1e3, out.quality),
        elapsed(part.get("ttft_ms"), "ttft_ms", 1e3, out.quality),
    )
    out.queue_us = elapsed(part.get("prefill_wait_time_ms"), "prefill_wait_time_ms", 1e3, out.quality)
    if part.get("request_received_ms") is not None:
        out.arrival_us = epoch_us(part["request_received_ms"], "request_received_ms")
        out.arrival_quality = "measured"
    elif out.arrival_us is None and out.end_us is not None and out.e2e_us is not None:
        ended(out, out.end_us, out.e2e_us)
    elif out.arrival_us is None:
        out.arrival_us, out.arrival_quality = out.end_us, "log_time"
    if out.arrival_us is not None and out.ttft_us is not None:
        out.first_token_us = out.arrival_us + out.ttft_us
    out.arrival_resolution_us = 1_000
    why = part.get("finish_reason_metadata")
    reason = why.get("finish_reason") if isinstance(why, dict) else None
    if isinstance(reason, str):
        out.finish_reason, out.status = finish(reason), _OUTCOMES.get(reason, "ok")
    agent = event.get("agent_context")
    if isinstance(agent, dict):
        _session(out, agent)
    said = {k: part.get(k) for k in ("x_request_id", "kv_hit_rate", "queue_depth")}
    said["input_trigger"] = agent.get("input_trigger") if isinstance(agent, dict) else None
    kept = {k: v for k, v in said.items() if isinstance(v, (str, int, float))}
    out.extra_json = dumps(kept) if kept else None


def _session(out: Request, agent: dict[str, Any]) -> None:
    """The chain of turns a request belongs to; what it is called depends on the version."""
    session = text(first_of(agent, ("trajectory_id", "program_id", "session_id")))
    if session is not None:
        out.session_id, out.session_kind = session, "explicit"
    run = text(first_of(agent, ("session_id", "workflow_id")))
    out.trace_id = run if run != session else text(agent.get("parent_session_id"))


def _blocks(out: Request, replay: Any) -> None:
    """Block hashes, where they are as many as the prompt's length asks for."""
    if not isinstance(replay, dict):
        return
    length = count(replay.get("input_length"), "input_length", out.quality)
    if out.input_tokens is None:
        out.input_tokens = length
    size = replay.get("trace_block_size")
    found = attempt(hashes, replay.get("input_sequence_hashes"), "input_sequence_hashes")
    whole = type(size) is int and 0 < size < 2**31 and length is not None and not isinstance(found, BadRecord)
    if not whole or len(found) != -(-(length or 0) // size):  # type: ignore[operator]
        out.quality.append("bad_block_hashes")
        return
    out.block_hashes, out.block_size, out.last_block_partial = found, size, True
    out.hash_scheme, out.hash_scope, out.content_level = "dynamo-u64", "dynamo", "hashes"
    if out.content_state == "absent":
        out.content_state = "complete"
