"""BurstGPT: Timestamp (s), Model, Request tokens, Response tokens, Total tokens, Log Type; newer files add Session ID
and Elapsed time. A response of 0 tokens is a failed call. Columns are found by name. Source: HPMLL/BurstGPT.
"""

from __future__ import annotations

from typing import Any

from traceprof.formats.base import BadRecord, Has, Request, count, offset_us, text

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.SESSIONS
summary = "BurstGPT, 6 or 8 columns (CSV)"


def detect(record: dict[str, Any]) -> bool:
    """The columns that both generations of the file have."""
    return {"Timestamp", "Model", "Request tokens", "Response tokens"} <= record.keys()


def read(record: dict[str, Any]) -> Request:
    """One request, known by its lengths."""
    tokens = count(record.get("Request tokens"), "Request tokens")
    if tokens is None:
        raise BadRecord("missing_field", "no Request tokens")
    output = count(record.get("Response tokens"), "Response tokens")
    arrival = offset_us(None if record.get("Timestamp") == "" else record.get("Timestamp"), "Timestamp", 1e6)
    elapsed = offset_us(record["Elapsed time"], "Elapsed time", 1e6) if record.get("Elapsed time") else None
    session = text(record.get("Session ID"))
    return Request(
        clock="relative",
        arrival_us=arrival,
        arrival_quality="measured",
        end_us=arrival + elapsed if elapsed else None,
        e2e_us=elapsed or None,
        content_level="lengths",
        content_state="absent",
        status="error" if output == 0 else "ok",
        session_id=session,
        session_kind="explicit" if session else None,
        app=text(record.get("Log Type")),
        model_requested=text(record.get("Model")),
        input_tokens=tokens,
        output_tokens=output,
        tokens_source="trace",
    )
