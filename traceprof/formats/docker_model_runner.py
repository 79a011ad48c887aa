"""Docker Model Runner's recent requests, as `GET /engines/requests` answers: per model its records, ten at most.

Bodies are text; streams were put together by the runner, and long base64 of media is cut. `timestamp` is the second of
arrival; ids of the runner end with the same moment in ns, which is taken when it agrees. The end is not told. A status 408 also
stands for a request that ended without any answer. Source: docker/model-runner 642c7211, pkg/metrics/openai_recorder.go.
"""

from __future__ import annotations

from typing import Any

from traceprof import bodies
from traceprof.bodies import openai
from traceprof.formats.base import (
    BadRecord,
    Has,
    Request,
    Skip,
    attempt,
    cut_state,
    http_code,
    parse_time,
    text,
)

has = Has.ARRIVALS | Has.LENGTHS | Has.TEXT | Has.OUTPUTS
summary = "Docker Model Runner's recent requests, GET /engines/requests (JSON, JSONL)"


def detect(record: dict[str, Any]) -> bool:
    """The records of a model beside its configuration."""
    return {"records", "config", "model"} <= record.keys()


def read(record: dict[str, Any]) -> list[Any] | Skip:
    """One request a record of the model; requests that generate no text are skipped by kind."""
    held = record.get("records")
    if not isinstance(held, list):
        raise BadRecord("wrong_type", "records is not a list")
    return [attempt(_request, one) for one in held] or Skip("empty_list")


def _request(one: Any) -> Request | Skip | list[Request | Skip]:
    if not isinstance(one, dict):
        raise BadRecord("wrong_type", f"a record is a {type(one).__name__}, not an object")
    out = Request(clock="absolute", arrival_quality="measured", arrival_resolution_us=1_000_000)
    out.request_id = text(one.get("id"))
    out.arrival_us = parse_time(one.get("timestamp"), "timestamp")[0]
    exact = (out.request_id or "").rpartition("_")[2]
    if len(exact) == 19 and exact.isdecimal() and abs(int(exact) // 1000 - out.arrival_us) <= 2_000_000:
        out.arrival_us, out.arrival_resolution_us = int(exact) // 1000, None
    out.model_requested = text(one.get("model"))
    out.app = text(one.get("user_agent"))
    body, reply = bodies.decoded(one.get("request")), bodies.answer(one.get("response"))
    dialect = bodies.of_request(body) if isinstance(body, dict) else None
    if dialect is not None:
        dialect = bodies.of_pair(dialect, reply)
        dialect.read_request(out, body)
        if out.media and "...[truncated " in str(one.get("request")):
            out.content_state = "truncated"  # what is left of two pictures may be the same
    elif isinstance(body, dict):
        return Skip(bodies.other_kind(body) or "not_a_generation")
    else:
        out.content_level = "lengths"
        out.content_state = "truncated" if isinstance(body, str) and body else "absent"
    if reply is not None:
        bodies.read_response(out, reply, dialect or openai)
    error = bodies.decoded(one.get("error"))
    out.http_status = http_code(one.get("status_code"))
    bodies.settle(out, error.get("error", error) if isinstance(error, dict) else error)
    if out.http_status == 408 and reply is None:
        out.status = "incomplete"
    return openai.sequences(out, body, reply) if dialect is openai else cut_state(out)
