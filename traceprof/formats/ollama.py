"""Ollama: the body files of OLLAMA_DEBUG_LOG_REQUESTS, and logs of its native bodies in the wrappers that loggers use.

A body file holds one request, whatever its API; its name tells when it came and by which route:
`20260821T100000.000100000Z-000001_api_chat_body.json`. Answers are not there. A lone answer tells its own times. Source:
ollama/ollama 03036c30, server/inference_request_log.go.
"""

from __future__ import annotations

import re
from typing import Any

from traceprof.bodies import ollama as dialect
from traceprof.formats import pairs
from traceprof.formats.base import BadRecord, Has, Request, Skip, parse_time

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.TEXT | Has.OUTPUTS
summary = (
    "Ollama: request body files, and native bodies alone or with their answer as for `openai` (JSON, JSONL)"
)

file_name = re.compile(r"(\d{8}T\d{6}\.\d{1,9}Z)-(\d+)_(\w+)_body\.json")


def detect(record: dict[str, Any]) -> bool:
    """A native body, alone or with its answer, or a native answer."""
    return pairs.is_pair(record, dialect) or _answered(record)


def _answered(record: dict[str, Any]) -> bool:
    return dialect.is_response(record) and "total_duration" in record and "created_at" in record


def read(record: dict[str, Any], file: str = "") -> Request | Skip | list[Request | Skip]:
    """One request; a call without a prompt only loads the model."""
    named = file_name.search(file)
    native = named is not None and named[3] in ("api_chat", "api_generate")
    if (native or "keep_alive" in record) and not record.get("messages") and not record.get("prompt"):
        return Skip("model_load")
    if _answered(record) and not pairs.is_pair(record, dialect):
        out = Request(content_level="lengths", content_state="absent")
        dialect.read_response(out, record)
        return out
    if not native:
        read: Request | Skip | list[Request | Skip] = pairs.read(record)
    else:
        out = Request()
        dialect.read_request(out, record)
        out.stream = record.get("stream") is not False  # the default
        read = out
    if named is not None:
        for i, one in enumerate(read if isinstance(read, list) else [read]):
            if isinstance(one, Request):
                _arrive(one, named, i)
    return read


def _arrive(out: Request, named: re.Match[str], place: int) -> None:
    """Give a request the time and the number in the name of its file."""
    try:
        out.arrival_us = parse_time(named[1], "the file's name")[0]
    except BadRecord:
        return
    out.clock, out.arrival_quality = "absolute", "measured"
    out.request_id = f"{named[1]}-{named[2]}" + (f"-{place}" if place else "")
