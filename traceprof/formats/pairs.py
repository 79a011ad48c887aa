"""Wrappers that loggers put around a request body and its answer: there is no standard one.

The request body and the answer are looked for at the top level and one level below it, also as JSON in a string; times,
ids, tenant and session under the names that loggers use. What the bodies mean is told by `traceprof.bodies`.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

from traceprof import bodies
from traceprof.bodies import openai
from traceprof.formats.base import (
    SESSION_KEYS,
    BadRecord,
    Request,
    Skip,
    count,
    dumps,
    first_of,
    http_code,
    offset_us,
    parse_time,
    text,
)

_REQUEST_KEYS = (
    "request",
    "req",
    "request_body",
    "requestBody",
    "body",
    "input",
    "params",
    "payload",
    "kwargs",
)
_RESPONSE_KEYS = (
    "response",
    "res",
    "resp",
    "response_body",
    "responseBody",
    "output",
    "completion",
    "result",
)
_ARRIVAL_KEYS = (
    "arrival_ts", "arrival_time", "arrival", "request_ts", "request_time", "requested_at", "received_at", "start_time",
    "startTime", "started_at", "start_ts", "start", "timestamp", "ts", "@timestamp", "time", "datetime", "created_at",
    "request_created_at", "createdAt",
)  # fmt: skip
_END_KEYS = ("end_ts", "end_time", "endTime", "ended_at", "end", "finished_at", "completed_at", "response_ts",
             "response_created_at")  # fmt: skip
_FIRST_KEYS = (
    "first_token_ts",
    "first_token_time",
    "first_token_at",
    "completion_start_time",
    "completionStartTime",
)
_E2E_KEYS = {
    "latency_us": 1, "duration_us": 1, "e2e_us": 1,
    "latency_ms": 1e3, "duration_ms": 1e3, "elapsed_ms": 1e3, "e2e_ms": 1e3, "response_time_ms": 1e3,
    "dur_ms": 1e3, "took_ms": 1e3, "total_ms": 1e3, "delay_ms": 1e3, "dur_s": 1e6, "took_s": 1e6,
    "total_time_ms": 1e3, "durationMs": 1e3, "latencyMs": 1e3,
    "latency_s": 1e6, "duration_s": 1e6, "elapsed_s": 1e6, "e2e_s": 1e6, "latency_seconds": 1e6,
    "duration_seconds": 1e6, "elapsed_seconds": 1e6,
}  # fmt: skip
_TTFT_KEYS = {
    "ttft_us": 1, "ttft_ms": 1e3, "time_to_first_token_ms": 1e3, "first_token_ms": 1e3, "timeToFirstTokenMs": 1e3,
    "ttft_s": 1e6, "time_to_first_token_s": 1e6, "ttft_seconds": 1e6,
}  # fmt: skip
_ID_KEYS = ("request_id", "requestId", "req_id", "x_request_id", "x-request-id", "id", "uuid", "log_id")
_TENANT_KEYS = (
    "tenant_id", "tenant", "team_id", "team", "organization_id", "org_id", "organization", "org", "project_id",
    "customer_id", "account_id", "api_key_id", "api_key_hash", "api_key_alias",
)  # fmt: skip
_STATUS_KEYS = ("status_code", "http_status", "statusCode", "status", "code")
_SEC = 1_000_000
_ROLES: dict[str, tuple[str, int]] = {
    key: (role, rank)
    for role, keys in (
        ("arrival", _ARRIVAL_KEYS), ("end", _END_KEYS), ("first", _FIRST_KEYS), ("e2e", _E2E_KEYS), ("ttft", _TTFT_KEYS),
        ("id", _ID_KEYS), ("session", SESSION_KEYS), ("tenant", _TENANT_KEYS), ("status", _STATUS_KEYS),
    )
    for rank, key in enumerate(keys)
}  # fmt: skip
_MAPPED = frozenset(
    (*_ROLES, *_REQUEST_KEYS, *_RESPONSE_KEYS, "messages", "prompt", "model", "user", "user_id", "app", "tools",
     "functions", "stream", "parent_request_id", "turn", "turn_index", "error", "usage", "metadata")
)  # fmt: skip


_Roles = dict[str, str]
"""role -> the key of a wrapper that plays it: of several names for one role, the first of its list that is there."""


def _roles(wrapper: dict[str, Any]) -> tuple[_Roles, dict[str, Any]]:
    """Who plays which role in a wrapper, and the scalars that play none."""
    roles: _Roles = {}
    rest: dict[str, Any] = {}
    for key, value in wrapper.items():
        if value is None:
            continue
        found = _ROLES.get(key)
        if found is not None:
            role, rank = found
            if role not in roles or rank < _ROLES[roles[role]][1]:
                roles[role] = key
        elif key not in _MAPPED and not isinstance(value, (dict, list)):
            rest[key] = value
    return roles, rest


def _played(wrapper: dict[str, Any], roles: _Roles, role: str) -> Any:
    key = roles.get(role)
    return None if key is None else wrapper[key]


class Found(NamedTuple):
    """A request body in a record."""

    body: dict[str, Any]
    dialect: ModuleType
    bare: bool  # the record is the body


def find(record: dict[str, Any]) -> Found | None:
    """The request body in a record: the record itself, or the object one level below that is one."""
    dialect = bodies.of_request(record)
    if dialect is not None:
        return Found(record, dialect, True)
    for key in _REQUEST_KEYS:
        value = bodies.as_object(record.get(key))
        for body in (value, bodies.as_object(value.get("body"))) if value else ():
            if body is not None and (dialect := bodies.of_request(body)) is not None:
                return Found(body, dialect, False)
    return None


def is_pair(record: dict[str, Any], dialect: ModuleType) -> bool:
    """Whether the record is, or directly holds, a request body of that dialect."""
    found = find(record)
    return found is not None and bodies.of_pair(found.dialect, answer(record, found)) is dialect


def read(record: dict[str, Any]) -> Request | Skip | list[Request | Skip]:
    """One request; a list of them when a text completion asks for several prompts at once."""
    found = find(record)
    if found is None:
        kind = bodies.other_kind(record) or next(
            (k for key in _REQUEST_KEYS if (k := bodies.other_kind(bodies.decoded(record.get(key))))), None
        )
        if kind is not None:
            return Skip(kind)
        raise BadRecord("missing_field", "no request body in the record or one level below it")
    body, dialect, bare = found
    response = answer(record, found)
    wrapper = record if not bare else {k: v for k, v in record.items() if k != "metadata"}
    out = Request()
    roles, rest = _roles(wrapper)
    _identity(out, wrapper, bare, roles)
    _times(out, wrapper, roles)
    dialect = bodies.of_pair(dialect, response)
    dialect.read_request(out, body)
    if response is not None:
        bodies.read_response(out, response, dialect)
    _outcome(out, wrapper, response, roles)
    if not bare and rest:
        out.extra_json = dumps(rest)
    return openai.sequences(out, body) if dialect is openai else out


def answer(record: dict[str, Any], found: Found) -> dict[str, Any] | None:
    """The answer in a record: an object, at the top or one level down."""
    for key in _RESPONSE_KEYS:
        value = record.get(key)
        body = bodies.answer(value)
        if isinstance(value, str) and value and found.bare and not (body and bodies.of_response(body)):
            return {
                "choices": [{"message": {"role": "assistant", "content": value}}]
            }  # also one that is JSON
        if body is not None:
            inner = bodies.answer(body.get("body"))
            return inner if inner and bodies.of_response(inner) else body
    return record if bodies.of_response(record) is not None else None


def _identity(out: Request, wrapper: dict[str, Any], bare: bool, roles: _Roles) -> None:
    out.request_id = text(_played(wrapper, roles, "id"))
    given = text(_played(wrapper, roles, "session"))
    meta = wrapper.get("metadata")
    if given is None and isinstance(meta, dict):
        given = text(first_of(meta, SESSION_KEYS))
    if given:
        out.session_id, out.session_kind = given, "explicit"
    out.tenant_id = text(_played(wrapper, roles, "tenant"))
    out.app = text(wrapper.get("app"))
    out.parent_request_id = text(wrapper.get("parent_request_id"))
    if wrapper.get("turn_index") is not None:
        out.turn_index = count(wrapper["turn_index"], "turn_index", out.quality)
    if not bare:
        out.user_id = text(first_of(wrapper, ("user_id", "user")))
        model = wrapper.get("model")
        if isinstance(model, str):
            out.model_requested = model or None


def _times(out: Request, wrapper: dict[str, Any], roles: _Roles) -> None:
    arrival = _played(wrapper, roles, "arrival")
    base: int | None = None
    if arrival is not None:
        # a small number counts from the start of the log; an absolute one lies after 1973
        number = _float(arrival)
        if number is not None and number < 1e8:
            base = offset_us(number, "arrival", _SEC)
            out.clock = "relative"
            out.quality.append("relative_seconds_assumed")
        else:
            base, naive = parse_time(arrival, "arrival")
            out.clock = "absolute"
            if naive:
                out.quality.append("tz_assumed")
        out.arrival_us, out.arrival_quality = base, "measured"
    e2e = ttft = None
    if (key := roles.get("e2e")) is not None:
        e2e = offset_us(wrapper[key], key, _E2E_KEYS[key])
    if (key := roles.get("ttft")) is not None:
        ttft = offset_us(wrapper[key], key, _TTFT_KEYS[key])
    out.e2e_us, out.ttft_us = e2e, ttft
    end, first = _played(wrapper, roles, "end"), _played(wrapper, roles, "first")
    if end is not None:
        out.end_us = _same_clock(end, "end", out)
    elif base is not None and e2e is not None:
        out.end_us = base + e2e
        out.quality.append("end_is_arrival_plus_duration")
    if first is not None:
        out.first_token_us = _same_clock(first, "first token", out)
    elif base is not None and ttft is not None:
        out.first_token_us = base + ttft
    if base is None and out.end_us is not None and e2e is not None:
        out.arrival_us, out.clock = out.end_us - e2e, "absolute"
        out.arrival_quality = "derived"
        out.quality.append("arrival_is_end_minus_duration")


def _float(value: Any) -> float | None:
    if (
        type(value) is str and value[4:5] == "-" and value[:4].isdigit()
    ):  # a date; float() would take its time to refuse it
        return None
    try:
        return float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else None
    except (ValueError, OverflowError):
        return None


def _same_clock(value: Any, what: str, out: Request) -> int:
    number = _float(value)
    if out.clock == "relative" and number is not None:
        return offset_us(number, what, _SEC)
    return parse_time(value, what)[0]


def _outcome(out: Request, wrapper: dict[str, Any], response: dict[str, Any] | None, roles: _Roles) -> None:
    out.http_status = http_code(_played(wrapper, roles, "status"))
    if out.http_status is None and "status" in roles:  # a word such as "failed"
        out.http_status = next((c for key in _STATUS_KEYS if (c := http_code(wrapper.get(key)))), None)
    bodies.settle(out, wrapper.get("error") or (response or {}).get("error"))
