"""LMCache agent traces: `timestamp` (us since 1970), `input` (the whole rendered prompt), `output`, `session_id`.

One file a session; rows are not sorted by time, and the published hit rates use file order (`--order file`).
Source: LMCache/lmcache-agent-trace.
"""

from __future__ import annotations

from typing import Any

from traceprof.formats.base import BadRecord, Has, Request, dumps, offset_us, text

has = Has.ARRIVALS | Has.TEXT | Has.OUTPUTS | Has.SESSIONS
summary = "LMCache agent traces (JSONL)"


def detect(record: dict[str, Any]) -> bool:
    """Flat text in `input` and `output` under an integer `timestamp` and a `session_id`."""
    return (
        isinstance(record.get("input"), str)
        and "output" in record
        and "session_id" in record
        and type(record.get("timestamp")) is int
        and "model" not in record
    )


def read(record: dict[str, Any]) -> Request:
    """One request; the prompt is a text completion's."""
    prompt, output = record.get("input"), record.get("output")
    if not isinstance(prompt, str):
        raise BadRecord("wrong_type" if "input" in record else "missing_field", "input is not text")
    session = text(record.get("session_id"))
    return Request(
        operation="text",
        clock="absolute",
        arrival_us=offset_us(record.get("timestamp"), "timestamp", 1),
        arrival_quality="measured",
        status="ok",
        session_id=session,
        session_kind="explicit" if session else None,
        prompt_text=prompt,
        output_json=dumps({"role": "assistant", "content": output}) if isinstance(output, str) else None,
    )
