"""OpenAI-shaped logs: chat and text completion bodies, alone or wrapped with their answer, times and ids.

There is no standard wrapper, so the request body (`messages`, or `prompt` and `model`) and the answer
(`object: chat.completion`, `choices`) are looked for at the top level and one level below it, and times, ids, tenant
and session under the names that loggers use. Source: openai/openai-openapi; bodies of vLLM, SGLang and llama.cpp.
"""

from __future__ import annotations

from typing import Any

from traceprof.formats.base import (
    BadRecord,
    Has,
    Request,
    Skip,
    count,
    dumps,
    finish,
    first_of,
    http_code,
    messages,
    offset_us,
    parse_time,
    status_of_http,
    text,
)

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.TEXT | Has.OUTPUTS | Has.SESSIONS
summary = "OpenAI chat and text completions: bodies alone, or request and response pairs (JSONL)"

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
_SESSION_KEYS = ("session_id", "sessionId", "conversation_id", "thread_id", "chat_id", "session")
_TENANT_KEYS = (
    "tenant_id", "tenant", "team_id", "team", "organization_id", "org_id", "organization", "org", "project_id",
    "customer_id", "account_id", "api_key_id", "api_key_hash", "api_key_alias",
)  # fmt: skip
_STATUS_KEYS = ("status_code", "http_status", "statusCode", "status", "code")
_PARAM_KEYS = ("temperature", "top_p", "top_k", "n", "seed")
_SEC = 1_000_000
_ROLES: dict[str, tuple[str, int]] = {
    key: (role, rank)
    for role, keys in (
        ("arrival", _ARRIVAL_KEYS), ("end", _END_KEYS), ("first", _FIRST_KEYS), ("e2e", _E2E_KEYS), ("ttft", _TTFT_KEYS),
        ("id", _ID_KEYS), ("session", _SESSION_KEYS), ("tenant", _TENANT_KEYS), ("status", _STATUS_KEYS),
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


def detect(record: dict[str, Any]) -> bool:
    """Whether the record is, or directly holds, a chat or text completion body."""
    return request_body(record) is not None


def request_body(record: dict[str, Any]) -> dict[str, Any] | None:
    """The request body in a record: the record itself, or the object one level below that holds one."""
    if _is_body(record):
        return record
    for key in _REQUEST_KEYS:
        value = record.get(key)
        if isinstance(value, dict):
            if _is_body(value):
                return value
            inner = value.get("body")
            if isinstance(inner, dict) and _is_body(inner):
                return inner
    return None


def _is_anthropic(value: dict[str, Any]) -> bool:
    """An Anthropic Messages body: its system prompt and tools stand apart, and would be lost here."""
    tools = value.get("tools")
    return (
        "system" in value
        or "anthropic_version" in value
        or (
            isinstance(tools, list)
            and bool(tools)
            and isinstance(tools[0], dict)
            and "input_schema" in tools[0]
        )
    )


def _is_body(value: dict[str, Any]) -> bool:
    if "messages" in value:
        return not _is_anthropic(value)
    return "model" in value and (
        "prompt" in value or ("input" in value and not isinstance(value["input"], dict))
    )


def read(record: dict[str, Any]) -> Request | Skip | list[Request | Skip]:
    """One request; a list of them when a text completion asks for several prompts at once."""
    body = request_body(record)
    if body is None:
        if any(isinstance(v, dict) and _is_anthropic(v) for v in (record, *map(record.get, _REQUEST_KEYS))):
            raise BadRecord("unsupported", "an Anthropic Messages body; this reader takes OpenAI's")
        raise BadRecord(
            "missing_field", "neither messages nor prompt and model in the record or one level below it"
        )
    if "messages" not in body and "prompt" not in body:
        if "embed" in str(body.get("model")) or "encoding_format" in body or "dimensions" in body:
            return Skip("embedding")
        raise BadRecord("unsupported", "a Responses API body; this reader takes chat and text completions")
    response = response_body(record, body)
    wrapper = record if record is not body else {k: v for k, v in record.items() if k != "metadata"}
    out = Request()
    roles, rest = _roles(wrapper)
    _identity(out, wrapper, body, roles)
    _times(out, wrapper, roles)
    read_request(out, body)
    if response is not None:
        if response.get("type") == "message":
            raise BadRecord("unsupported", "an Anthropic Messages answer; this reader takes OpenAI's")
        read_response(out, response)
    _outcome(out, wrapper, response, roles)
    if record is not body and rest:
        out.extra_json = dumps(rest)
    return sequences(out, body)


def response_body(record: dict[str, Any], body: dict[str, Any]) -> dict[str, Any] | None:
    """The answer in a record: an object with choices or an error, at the top or one level down."""
    for key in _RESPONSE_KEYS:
        value = record.get(key)
        if isinstance(value, dict):
            inner = value.get("body")
            if isinstance(inner, dict) and "choices" in inner:
                return inner
            return value
        if isinstance(value, str) and value and record is body:
            return {"choices": [{"message": {"role": "assistant", "content": value}}]}
    return record if "choices" in record else None


def read_request(out: Request, body: dict[str, Any]) -> None:
    """Fill model, prompt, tools and parameters from a request body."""
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise BadRecord("wrong_type", f"model is a {type(model).__name__}, not a string")
    out.model_requested = model or out.model_requested
    if "messages" in body:
        out.operation = "chat"
        out.messages_json = messages(body["messages"], out)
        tools = body.get("tools") or body.get("functions")
        if tools is not None:
            if not isinstance(tools, list):
                raise BadRecord("wrong_type", f"tools is a {type(tools).__name__}, not a list")
            if not body.get("tools"):
                tools = [{"type": "function", "function": f} for f in tools]
            out.tools_json = dumps(tools)
    else:
        out.operation = "text"
    stream = body.get("stream")
    if isinstance(stream, bool):
        out.stream = stream
    limit = first_of(body, ("max_completion_tokens", "max_tokens"))
    if limit is not None:
        out.max_output_tokens = count(limit, "max_tokens", out.quality)
    out.user_id = text(first_of(body, ("user", "safety_identifier"))) or out.user_id
    out.cache_salt = text(body.get("cache_salt"))
    if out.session_id is None:
        meta = body.get("metadata")
        given = first_of(meta, _SESSION_KEYS) if isinstance(meta, dict) else None
        given = given if given is not None else body.get("session_id")
        if text(given):
            out.session_id, out.session_kind = text(given), "explicit"
        elif text(body.get("prompt_cache_key")):
            out.session_id, out.session_kind = text(body.get("prompt_cache_key")), "affinity_key"
    out.params = params(body)


def params(body: dict[str, Any]) -> dict[str, Any] | None:
    """Sampling parameters of a request body, in the schema's struct; None when there are none."""
    got: dict[str, Any] = {}
    for key in _PARAM_KEYS:
        value = body.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if key in ("temperature", "top_p"):
                if abs(value) < 1e38:  # a float32; not NaN
                    got[key] = float(value)
            elif abs(value) < (2**15 if key == "n" else 2**31 if key == "top_k" else 2**63):
                got[key] = int(value)
    stop = body.get("stop")
    if stop:
        got["stop_count"] = min(len(stop), 32_000) if isinstance(stop, list) else 1
    shape = body.get("response_format")
    if isinstance(shape, dict) and isinstance(shape.get("type"), str):
        got["response_format"] = shape["type"]
    choice = body.get("tool_choice")
    if choice is not None:
        got["tool_choice"] = choice if isinstance(choice, str) else "named"
    if isinstance(body.get("reasoning_effort"), str):
        got["reasoning_effort"] = body["reasoning_effort"]
    return got or None


def read_response(out: Request, response: dict[str, Any]) -> None:
    """Fill served model, output, finish reason and usage from an answer (or an error body)."""
    if isinstance(response.get("model"), str):
        out.model_served = response["model"] or None
    out.provider_request_id = text(response.get("id"))
    choices = response.get("choices")
    if isinstance(choices, list) and choices:
        answers = []
        for choice in choices:
            if not isinstance(choice, dict):
                continue
            message = choice.get("message")
            if isinstance(message, dict):
                answers.append({"role": "assistant", **{k: v for k, v in message.items() if v is not None}})
            elif isinstance(choice.get("text"), str):
                answers.append({"role": "assistant", "content": choice["text"]})
        first = choices[0]
        if isinstance(first, dict):
            out.finish_reason = finish(first.get("finish_reason"))
            ids = first.get("token_ids")
            if isinstance(ids, list) and all(type(i) is int and 0 <= i < 2**32 for i in ids):
                out.output_ids = ids
        if answers:
            out.output_json = dumps(answers[0] if len(answers) == 1 else answers)
        out.status = "ok"
    read_usage(out, response.get("usage"))


def read_usage(out: Request, usage: Any) -> None:
    """Token counts of an OpenAI usage object; prompt_tokens already include the cached ones."""
    if not isinstance(usage, dict):
        return
    out.input_tokens = count(usage.get("prompt_tokens"), "prompt_tokens", out.quality)
    out.output_tokens = count(usage.get("completion_tokens"), "completion_tokens", out.quality)
    details = usage.get("prompt_tokens_details")
    if isinstance(details, dict):
        out.cached_input_tokens = count(details.get("cached_tokens"), "cached_tokens", out.quality)
        out.cache_write_tokens = count(details.get("cache_write_tokens"), "cache_write_tokens", out.quality)
    details = usage.get("completion_tokens_details")
    if isinstance(details, dict):
        out.reasoning_tokens = count(details.get("reasoning_tokens"), "reasoning_tokens", out.quality)
    if out.cached_input_tokens is not None and (out.input_tokens or 0) < out.cached_input_tokens:
        out.cached_input_tokens = None
        out.quality.append("bad_cached_tokens")
    if out.input_tokens is not None or out.output_tokens is not None:
        out.tokens_source = "usage"


def _identity(out: Request, wrapper: dict[str, Any], body: dict[str, Any], roles: _Roles) -> None:
    out.request_id = text(_played(wrapper, roles, "id"))
    given = text(_played(wrapper, roles, "session"))
    meta = wrapper.get("metadata")
    if given is None and isinstance(meta, dict):
        given = text(first_of(meta, _SESSION_KEYS))
    if given:
        out.session_id, out.session_kind = given, "explicit"
    out.tenant_id = text(_played(wrapper, roles, "tenant"))
    out.app = text(wrapper.get("app"))
    out.parent_request_id = text(wrapper.get("parent_request_id"))
    if wrapper.get("turn_index") is not None:
        out.turn_index = count(wrapper["turn_index"], "turn_index", out.quality)
    if wrapper is not body:
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
    if type(value) is str and value[4:5] == "-" and value[:4].isdigit():  # a date; float() would take its time to refuse it
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
    settle(out, wrapper.get("error") or (response or {}).get("error"))


def settle(out: Request, error: Any) -> None:
    """Fill status and kind of error from the error that an answer reports and its HTTP status."""
    if error:
        out.status = "error"
        kind = first_of(error, ("type", "code")) if isinstance(error, dict) else None
        out.error_type = text(kind) or "error"
    by_http = status_of_http(out.http_status)
    if by_http is not None and (by_http != "ok" or out.status == "unknown"):
        out.status = by_http


def sequences(out: Request, body: dict[str, Any]) -> Request | list[Request | Skip]:
    """A text completion's `prompt`: a string, token ids, or a list of either (one sequence, so one row, each)."""
    if "messages" in body:
        ids = body.get("prompt_token_ids")
        if _is_ids(ids) and ids:
            out.input_ids = ids
        return out
    prompt = body["prompt"]
    if isinstance(prompt, str):
        out.prompt_text = prompt
        return out
    if _is_ids(prompt):
        out.input_ids, out.content_level = prompt, "tokens"
        return out
    if isinstance(prompt, list) and all(isinstance(p, str) or _is_ids(p) for p in prompt):
        from dataclasses import replace

        rows: list[Request | Skip] = []
        name = out.request_id or out.provider_request_id
        for i, one in enumerate(prompt):
            row = replace(
                out, quality=[*out.quality, "one_of_several_prompts"], output_json=None, output_ids=None
            )
            row.attempt_group = name
            row.request_id = None if name is None else f"{name}-{i}"
            row.input_tokens = row.output_tokens = row.cached_input_tokens = None
            if isinstance(one, str):
                row.prompt_text = one
            else:
                row.input_ids, row.content_level = one, "tokens"
            rows.append(row)
        return rows
    raise BadRecord(
        "wrong_type", f"prompt is a {type(prompt).__name__} that holds neither text nor token ids"
    )


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(i) is int and 0 <= i < 2**32 for i in value)
