"""Wrappers that loggers put around a request body and its answer: there is no standard one.

The request body and the answer are looked for at the top level and one level below it, also as JSON in a string; times,
ids, tenant and session under the names that loggers use, ids also in headers. What the bodies mean is told by
`traceprof.bodies`.
"""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any, NamedTuple

from traceprof import bodies
from traceprof.bodies import anthropic, openai, responses
from traceprof.formats.base import (
    SESSION_KEYS,
    BadRecord,
    Request,
    Skip,
    count,
    cut_state,
    dumps,
    first_of,
    http_code,
    offset_us,
    parse_time,
    text,
)

REQUEST_KEYS = (
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
_RETRY_KEYS = ("attempt_no", "attempt_index", "retry", "retry_no", "retry_attempt")
_RETRIED_KEYS = ("retries", "retry_count", "retryCount")
_ATTEMPT_KEYS = ("attempt", "attempt_number", "attemptNumber")
_GROUP_KEYS = ("attempt_group", "idempotency_key", "idempotencyKey")
_COUNT_KEYS = (
    "prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "cached_tokens", "cache_read_input_tokens",
    "cache_creation_input_tokens",
)  # fmt: skip
_STATUS_KEYS = ("status_code", "http_status", "statusCode", "status", "code")
_SEC = 1_000_000
_ROLES: dict[str, tuple[str, int]] = {
    key: (role, rank)
    for role, keys in (
        ("arrival", _ARRIVAL_KEYS), ("end", _END_KEYS), ("first", _FIRST_KEYS), ("e2e", _E2E_KEYS), ("ttft", _TTFT_KEYS),
        ("id", _ID_KEYS), ("session", SESSION_KEYS), ("tenant", _TENANT_KEYS), ("status", _STATUS_KEYS),
        ("retry", _RETRY_KEYS), ("retried", _RETRIED_KEYS), ("attempt", _ATTEMPT_KEYS), ("group", _GROUP_KEYS),
    )
    for rank, key in enumerate(keys)
}  # fmt: skip
_MAPPED = frozenset(
    (*_ROLES, *REQUEST_KEYS, *_RESPONSE_KEYS, *_COUNT_KEYS, "total_tokens", "messages", "prompt", "model", "user", "user_id", "app", "tools",
     "functions", "stream", "parent_request_id", "turn", "turn_index", "error", "usage", "metadata")
)  # fmt: skip


_PRIVATE = re.compile(
    r"(?i)key|secret|passw|auth|cookie|e.?mail|(^|_)ip($|_)|(client|remote|source|user)ip|addr|traceback|stack|phone|token$"
)

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
        elif key not in _MAPPED and not isinstance(value, (dict, list)) and not _PRIVATE.search(key):
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
    cut: str | None = None  # what is left of its JSON, which the logger cut: nothing of it can be read


def find(record: dict[str, Any]) -> Found | None:
    """The request body in a record: the record itself, or the object one level below that is one."""
    dialect = bodies.of_request(record)
    if dialect is not None:
        return Found(record, dialect, True)
    for key in REQUEST_KEYS:
        value = bodies.as_object(record.get(key))
        for body in (value, bodies.as_object(value.get("body"))) if value else ():
            if body is not None and (dialect := bodies.of_request(body)) is not None:
                return Found(body, dialect, False)
    for key in REQUEST_KEYS:
        given = bodies.decoded(record.get(key))
        for body in (given, given.get("body") if isinstance(given, dict) else None):
            if _is_cut(body):
                return Found({}, openai, False, cut=body)
    return None


_BODY = re.compile(r'\s*\{.{0,2000}?"(?:messages|prompt|choices|model|object|contents)"\s*:', re.DOTALL)


def _is_cut(value: Any) -> bool:
    """Whether a value is the beginning of a body's JSON, or of an answer's."""
    if not isinstance(value, str) or _BODY.match(value) is None:
        return False
    return isinstance(bodies.decoded(value), str)


def is_pair(record: dict[str, Any], dialect: ModuleType) -> bool:
    """Whether the record is, or directly holds, a request body of that dialect."""
    found = find(record)
    return found is not None and bodies.of_pair(found.dialect, answer(record, found)) is dialect


def read(record: dict[str, Any]) -> Request | Skip | list[Request | Skip]:
    """One request; a list of them when a text completion asks for several prompts at once."""
    found = find(record)
    if found is None:
        return Skip(_other_kind(record))
    body, dialect, bare, cut = found
    response = answer(record, found)
    wrapper = record if not bare else {k: v for k, v in record.items() if k != "metadata"}
    out = Request()
    roles, rest = _roles(wrapper)
    headers = _headers(wrapper)
    _identity(out, wrapper, bare, roles, headers)
    _times(out, wrapper, roles)
    dialect = bodies.of_pair(dialect, response)
    if cut is not None:
        out.operation = "chat" if '"messages"' in cut else "text" if '"prompt"' in cut else "other"
        out.content_level, out.content_state = "lengths", "truncated"
    else:
        dialect.read_request(out, body)
    if response is not None:
        bodies.read_response(out, response, dialect)
        _created(out, response)
    _counted(out, wrapper)
    _outcome(out, wrapper, response, roles)
    _attempts(out, wrapper, roles, headers)
    if isinstance(response, _Text) and out.status in ("error", "rejected"):
        out.output_json = None  # what an error said
    if not bare and rest:
        out.extra_json = dumps(rest)
    return openai.sequences(out, body, response) if dialect is openai and cut is None else cut_state(out)


def _other_kind(record: dict[str, Any]) -> str:
    """What a record asks for that generates no text; raises BadRecord when it asks for nothing that we know."""
    for value in (record, *(bodies.decoded(record.get(key)) for key in REQUEST_KEYS)):
        inner = bodies.decoded(value.get("body")) if isinstance(value, dict) else None
        kind = bodies.other_kind(value) or bodies.other_kind(inner)
        if kind is not None:
            return kind
    raise BadRecord("missing_field", "no request body in the record or one level below it")


class _Text(dict[str, Any]):
    """An answer that the logger kept as plain text."""

    def __init__(self, said: str) -> None:
        super().__init__(choices=[{"message": {"role": "assistant", "content": said}}])


def answer(record: dict[str, Any], found: Found) -> dict[str, Any] | None:
    """The answer in a record: an object, a message, or plain text, at the top or one level down."""
    for key in _RESPONSE_KEYS:
        value = record.get(key)
        body = bodies.answer(value)
        if isinstance(value, str) and value and _is_text(value, body):
            return _Text(value)
        if isinstance(value, list) and len(value) == 1 and body is None:
            body = value[0] if isinstance(value[0], dict) else None
        if body is not None:
            if body.get("role") == "assistant" and "content" in body and bodies.of_response(body) is None:
                return {"choices": [{"message": body}]}
            inner = bodies.answer(body.get("body"))
            return inner if inner and bodies.of_response(inner) else body
    return record if bodies.of_response(record) is not None else None


def _is_text(value: str, body: dict[str, Any] | None) -> bool:
    """Whether a string is what the model said, also where that is JSON: not an answer's body, whole or cut."""
    if body is None:
        return not _is_cut(value) and not value.startswith(("data:", "event:"))
    return bodies.of_response(body) is None and not body.keys() & {"error", "body"}


def _identity(
    out: Request, wrapper: dict[str, Any], bare: bool, roles: _Roles, headers: dict[str, Any]
) -> None:
    out.request_id = text(_played(wrapper, roles, "id")) or text(headers.get("x-request-id"))
    given = text(_played(wrapper, roles, "session")) or text(headers.get("x-session-id"))
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


def _headers(wrapper: dict[str, Any]) -> dict[str, Any]:
    """The headers in an HTTP dump, names in lower case; those of the request before those of the answer."""
    out: dict[str, Any] = {}
    for key in _DUMPED & wrapper.keys():
        held = wrapper[key]
        if isinstance(held, dict) and "eaders" not in key:
            held = held.get("headers")
        if isinstance(held, dict):
            asked = not key.startswith("res")
            for name, value in held.items():
                one = value[0] if isinstance(value, list) and value else value
                if asked or name.lower() not in out:
                    out[name.lower()] = one
    return out


_DUMPED = frozenset(("headers", "request_headers", "requestHeaders", "request", "req", "response_headers", "responseHeaders", "response", "res"))  # fmt: skip


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


def _created(out: Request, response: dict[str, Any]) -> None:
    """The second in which the server made its answer stands for the arrival where the logger noted no time."""
    whole = response.get("object") == "response"
    made = _second(response.get("created_at" if whole else "created"))
    if out.clock != "none" or out.end_us is not None or made is None:
        return
    out.clock, out.arrival_us, out.arrival_resolution_us = "absolute", made, _SEC
    out.arrival_quality = "derived"
    out.quality.append("arrival_is_created")
    done = _second(response.get("completed_at")) if whole else None
    if done is not None and done >= made:
        out.end_us = done


def _second(value: Any) -> int | None:
    """Microseconds of a server's second; None for what is no time of our days."""
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and 1e9 < value < 1e11
    return int(value) * _SEC if known else None


def _counted(out: Request, wrapper: dict[str, Any]) -> None:
    """Counts beside the bodies hold where the answer has none; all zero is how gateways say that they do not know."""
    if out.input_tokens is not None or out.output_tokens is not None:
        return
    usage = wrapper.get("usage")
    if not isinstance(usage, dict):
        usage = {key: wrapper[key] for key in _COUNT_KEYS if wrapper.get(key) is not None}
    if all(value in (0, "0", "", None) for key, value in usage.items() if key in _COUNT_KEYS):
        return
    if "cache_read_input_tokens" in usage or "cache_creation_input_tokens" in usage:
        anthropic.read_usage(out, usage)
    elif "input_tokens" in usage or "output_tokens" in usage:
        responses.read_usage(out, usage)
    else:
        openai.read_usage(out, usage)


def _attempts(out: Request, wrapper: dict[str, Any], roles: _Roles, headers: dict[str, Any]) -> None:
    """Which attempt this is, from 0; attempts that a logger numbers under one id become requests of one group."""
    number = _whole(_played(wrapper, roles, "retry"))
    counted = _whole(_played(wrapper, roles, "attempt"))
    if number is None and counted is not None:
        number = max(0, counted - 1)
        out.quality.append("attempts_counted_from_one")
    out.attempt_no, out.attempt_group = number, text(_played(wrapper, roles, "group"))
    if number is None:
        retried = _whole(_played(wrapper, roles, "retried"))
        out.attempt_no = retried if retried is not None else _whole(headers.get("x-stainless-retry-count"))
    elif out.attempt_group is None and out.request_id is not None:
        out.attempt_group = out.request_id
        if number:
            out.request_id = f"{out.request_id}-retry{number}"


def _whole(value: Any) -> int | None:
    """A small whole number, also as its digits."""
    if isinstance(value, str) and value.isdecimal() and len(value) < 5:
        value = int(value)
    return value if type(value) is int and 0 <= value < 10_000 else None


def _outcome(out: Request, wrapper: dict[str, Any], response: dict[str, Any] | None, roles: _Roles) -> None:
    out.http_status = http_code(_played(wrapper, roles, "status"))
    if out.http_status is None and "status" in roles:  # a word such as "failed"
        out.http_status = next((c for key in _STATUS_KEYS if (c := http_code(wrapper.get(key)))), None)
    for key in _RESPONSE_KEYS if out.http_status is None else ():  # of an HTTP dump
        dump = wrapper.get(key)
        if isinstance(dump, dict) and "body" in dump:
            codes = (http_code(dump.get(name)) for name in _STATUS_KEYS)
            out.http_status = next((code for code in codes if code is not None), None)
    bodies.settle(out, wrapper.get("error") or (response or {}).get("error"))
