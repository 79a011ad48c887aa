"""Token traces of SGLang's benchmark: the ids of each prompt, those of its answer or their number, and `ts` (s from the start).

Marconi's traces are of this shape and name session and turn. The file does not say whose ids they are.
Source: sgl-project/sglang dfb5af1, benchmark/datasets/token_trace.py; meghrathod/marconi-repro, src/trace_replayer.py.
"""

from __future__ import annotations

from typing import Any

from traceprof.formats.base import MAX_I32, BadRecord, Has, Request, count, offset_us, text

has = Has.ARRIVALS | Has.LENGTHS | Has.TOKENS | Has.OUTPUTS | Has.SESSIONS
summary = "SGLang token traces, prompts as token ids (JSONL)"


def detect(record: dict[str, Any]) -> bool:
    """A list of prompt ids, and the answer's ids or their number."""
    return isinstance(record.get("input_tokens"), list) and bool(
        {"output_tokens", "num_output_tokens"} & record.keys()
    )


def read(record: dict[str, Any]) -> Request:
    """One request, known by its token ids."""
    asked = _ids(record.get("input_tokens"), "input_tokens")
    if asked is None:
        raise BadRecord("missing_field", "no input_tokens")
    given = _ids(record.get("output_tokens"), "output_tokens")
    session = text(record.get("session_id"))
    out = Request(
        operation="text",
        status="ok",
        content_level="tokens",
        input_ids=asked,
        output_ids=given,
        input_tokens=len(asked),
        output_tokens=None if given is None else len(given),
        tokens_source="trace",
        session_id=session,
        session_kind="explicit" if session else None,
    )
    if given is None:
        out.output_tokens = count(record.get("num_output_tokens"), "num_output_tokens", out.quality)
    out.turn_index = count(record.get("turn_id"), "turn_id", out.quality)
    if record.get("ts") is not None:
        out.clock, out.arrival_quality = "relative", "measured"
        out.arrival_us = offset_us(record["ts"], "ts", 1e6)
    return out


def _ids(value: Any, what: str) -> list[int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > MAX_I32:
        raise BadRecord("wrong_type", f"{what} is a {type(value).__name__}, not a list")
    if not all(type(i) is int and 0 <= i < 2**32 for i in value):
        raise BadRecord("wrong_type", f"{what} holds something that is no token id")
    return value
