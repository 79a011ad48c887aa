"""SGLang's request metrics file (--export-metrics-to-file): one line a finished request, what was asked beside what was measured.

`request_parameters` is a GenerateReqInput as JSON in a string, without text and ids when the log level hides them. Answers, models
and users are not there, health checks neither. Source: sgl-project/sglang 0.5.23, captures.
"""

from __future__ import annotations

from typing import Any

from traceprof import bodies
from traceprof.bodies import sglang
from traceprof.formats.base import BadRecord, Has, Request, first_of, text

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.TEXT | Has.TOKENS
summary = "SGLang's request metrics file (JSONL)"


def detect(record: dict[str, Any]) -> bool:
    """Parameters as JSON in a string beside the counts of a meta_info."""
    return isinstance(record.get("request_parameters"), str) and "prompt_tokens" in record


def read(record: dict[str, Any]) -> Request:
    """One finished request."""
    asked = bodies.as_object(record.get("request_parameters"))
    if asked is None:
        raise BadRecord("wrong_type", "request_parameters is not an object in a string")
    out = Request()
    sglang.read_request(out, asked)
    sglang.measured(out, record)
    if out.status == "unknown" and out.finish_reason is not None:
        out.status = "ok"
    out.request_id = text(first_of(record, ("id",))) or text(asked.get("rid"))
    return out
