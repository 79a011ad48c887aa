"""TraceLab round traces: one row a model call of Claude Code or Codex, with counts and the times of what happened around it.

Neither the arrival nor the end is in the sessions that rows come from: the last message or tool result before the first
output stands for the one, the last thing that was written for the other. Public rows hold no text, and pseudonyms for ids.
`input_tokens_total` = `prefix_tokens` (read from the cache) + `newly_append_tokens`. Source: uw-syfi/TraceLab 0b8a262.
"""

from __future__ import annotations

from typing import Any

from traceprof.formats.base import BadRecord, Has, Request, count, parse_time, text

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.SESSIONS
summary = "TraceLab round traces of Claude Code and Codex sessions (JSONL)"

_INPUT = ("user_message", "tool_result")


def detect(record: dict[str, Any]) -> bool:
    """The keys that no other trace has together."""
    return {"round_index", "timing_events", "input_tokens_total"} <= record.keys()


def read(record: dict[str, Any]) -> Request:
    """One request, known by its lengths."""
    out = Request(content_level="lengths", content_state="absent", status="ok")
    out.request_id = text(record.get("trace_key")) or text(record.get("round_id"))
    out.session_id = text(record.get("session_id"))
    out.session_kind = "explicit" if out.session_id else None
    out.turn_index = count(record.get("round_index"), "round_index", out.quality)
    out.user_id = text(record.get("user"))
    out.provider = text(record.get("provider"))
    out.model_requested = text(record.get("model"))
    _counts(out, record)
    _times(out, record.get("timing_events"))
    return out


def _counts(out: Request, record: dict[str, Any]) -> None:
    out.input_tokens = count(record.get("input_tokens_total"), "input_tokens_total")
    if out.input_tokens is None:
        raise BadRecord("missing_field", "no input_tokens_total")
    cached = count(record.get("prefix_tokens"), "prefix_tokens", out.quality)
    if cached is not None and cached > out.input_tokens:
        out.quality.append("bad_cached_tokens")
        cached = None
    out.cached_input_tokens = cached
    written = record.get("claude_cache_creation_input_tokens")
    out.cache_write_tokens = count(written, "claude_cache_creation_input_tokens", out.quality)
    out.output_tokens = count(record.get("output_tokens"), "output_tokens", out.quality)
    thought = record.get("reasoning_output_tokens")
    out.reasoning_tokens = count(thought, "reasoning_output_tokens", out.quality)
    out.tokens_source = "trace"


def _times(out: Request, events: Any) -> None:
    if not isinstance(events, list):
        raise BadRecord("wrong_type", "timing_events is not a list")
    asked: int | None = None
    done: int | None = None
    for event in events:
        if not isinstance(event, dict) or event.get("timestamp") is None:
            continue
        at = parse_time(event["timestamp"], "timestamp")[0]
        if event.get("event_type") not in _INPUT:
            done = at
        elif done is None:
            asked = at
    if asked is None and done is None:
        return
    out.clock, out.arrival_us, out.end_us = "absolute", asked, done
    if asked is not None:
        out.arrival_quality = "derived"
        out.quality.append("arrival_is_last_input")
    if done is not None:
        out.quality.append("end_is_last_output")
