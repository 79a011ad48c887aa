"""LiteLLM's table of spend, LiteLLM_SpendLogs: one row an attempt, as CSV, JSON lines, or what `/spend/logs` answers.

Bodies and metadata are JSON in strings. The prompt is in `proxy_server_request` (in `messages` of older versions), and only
with `store_prompts_in_spend_logs`; strings over MAX_STRING_LENGTH_PROMPT_IN_DB are cut in the middle. `startTime` is the start
of the attempt; where `litellm_received_at` is kept, that is the arrival: a time of the server's zone, which is told by the
row's own `startTime`, as zones lie quarters of an hour apart. Times without a zone are UTC. `cache_hit` is LiteLLM's own cache
of answers. A request that failed has no call_type, and its times are those of its end. Source: BerriAI/litellm 1.90.7, captures; schema.prisma 029f645f, spend_tracking_utils.py 00907c60.
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
    cut_state,
    first_of,
    http_code,
    messages,
    parse_time,
    status_of_http,
    text,
)
from traceprof.formats.litellm import GENERATIONS, read_usage, unless_zero

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.TEXT | Has.OUTPUTS | Has.SESSIONS
summary = "LiteLLM_SpendLogs, LiteLLM's table of spend (CSV, JSON, JSONL)"

_QUARTER = 15 * 60 * 1_000_000  # us
_PROBE = "litellm-internal-health-check"
_PASSED = ("pass_through_endpoint", "agenerate_content", "agenerate_content_stream", "generate_content", "generate_content_stream")  # fmt: skip
_LONGEST_WAIT = (
    10 * 60 * 1_000_000
)  # us between a request's arrival and the start of an attempt that we believe


def detect(record: dict[str, Any]) -> bool:
    """The columns that no other log has together."""
    return {"request_id", "call_type", "spend", "startTime", "cache_key", "api_key"} <= record.keys()


def read(record: dict[str, Any]) -> Request | Skip | list[Request | Skip]:
    """One attempt; embeddings, tools, health checks and other calls that generate no text are skipped by kind."""
    call = str(record.get("call_type"))
    body = bodies.as_object(record.get("proxy_server_request")) or {}
    dialect = bodies.of_request(body)
    passed = dialect is not None and call in _PASSED
    failed = not call and record.get("status") == "failure" and bodies.other_kind(body) is None
    operation = GENERATIONS.get(call) or ("other" if passed or failed else None)
    if any(_PROBE in str(record.get(key)) for key in ("api_key", "team_id", "request_tags")):
        return Skip("health_check")
    if operation is None or text(record.get("mcp_namespaced_tool_name")):
        return Skip("embedding" if "embed" in call else "not_a_generation")
    if record.get("startTime") in (None, ""):
        raise BadRecord("missing_field", "no startTime")
    meta = bodies.as_object(record.get("metadata")) or {}
    asked = body.get("metadata")
    asked = asked if isinstance(asked, dict) else {}
    response = bodies.answer(record.get("response")) or None
    dialect = bodies.of_pair(dialect, response) if dialect is not None else None
    out = Request(operation=operation, clock="absolute", arrival_quality="attempt_start")
    if dialect is not None:
        dialect.read_request(out, body)
    else:
        _older_prompt(out, record)
    _times(out, record, asked)
    if failed and out.arrival_quality == "attempt_start":
        out.arrival_quality = "log_time"
    _identity(out, record, meta, body, asked)
    if response is not None:
        bodies.read_response(out, response, dialect or openai)
    _counts(out, record, meta)
    _outcome(out, record, meta)
    return openai.sequences(out, body, response) if dialect is openai else cut_state(out)


def _older_prompt(out: Request, record: dict[str, Any]) -> None:
    """What older versions put into `messages`; nothing, or what is left of a body that was cut."""
    said, sent = (bodies.decoded(record.get(key)) for key in ("messages", "proxy_server_request"))
    if isinstance(said, list) and said:
        out.messages_json = messages(said, out)
        return
    cut = any(isinstance(value, str) and value.lstrip()[:1] in ("{", "[") for value in (said, sent))
    out.content_level, out.content_state = "lengths", "truncated" if cut else "absent"


def _times(out: Request, record: dict[str, Any], asked: dict[str, Any]) -> None:
    start = parse_time(record["startTime"], "startTime")[0]
    out.arrival_us = start
    if record.get("endTime") not in (None, ""):
        out.end_us = parse_time(record["endTime"], "endTime")[0]
    first = record.get("completionStartTime")
    if out.stream and first not in (None, "") and first != record.get("endTime"):
        out.first_token_us = parse_time(first, "completionStartTime")[0]
    try:
        received = parse_time(asked.get("litellm_received_at"), "litellm_received_at")[0]
    except BadRecord:
        return
    waited = (start - received) % _QUARTER
    if waited <= _LONGEST_WAIT:
        out.arrival_us, out.arrival_quality = start - waited, "measured"
        if received != out.arrival_us:
            out.quality.append("zone_of_received_at_derived")


def _identity(
    out: Request, record: dict[str, Any], meta: dict[str, Any], body: dict[str, Any], asked: dict[str, Any]
) -> None:
    out.request_id = text(record.get("request_id"))
    hidden = asked.get("hidden_params")
    out.attempt_group = text(hidden.get("litellm_call_id")) if isinstance(hidden, dict) else None
    retries = meta.get("attempted_retries")
    out.attempt_no = retries if type(retries) is int and 0 <= retries < 1000 else None
    session = text(record.get("session_id"))
    given = text(first_of(asked, ("session_id", "trace_id"))) or text(
        first_of(body, ("litellm_session_id", "litellm_trace_id"))
    )
    out.session_id, out.trace_id = session, session
    if session:  # without one of the client's, LiteLLM makes one up for each request
        out.session_kind = "explicit" if session == given else "trace"
    key = text(record.get("api_key"))
    out.tenant_id = (
        text(record.get("team_id")) or text(record.get("organization_id")) or text(meta.get("user_api_key_alias"))
        or (key if key and not key.startswith("sk-") else None)
    )  # fmt: skip
    out.user_id = text(record.get("end_user")) or text(meta.get("user_api_key_end_user_id"))
    out.app = text(asked.get("user_agent")) or text(meta.get("user_agent"))
    named = text(record.get("model_group")) or text(record.get("model"))
    out.model_requested = out.model_requested or named
    out.provider = text(record.get("custom_llm_provider"))


def _counts(out: Request, record: dict[str, Any], meta: dict[str, Any]) -> None:
    """The columns count; what they leave out (cached, reasoning) is in the metadata."""
    found = (meta.get(key) for key in ("usage_object", "additional_usage_values"))
    usage = next((u for u in found if isinstance(u, dict) and u), {})
    read_usage(out, {**_columns(record), **{k: v for k, v in usage.items() if v is not None}})


def _columns(record: dict[str, Any]) -> dict[str, Any]:
    return {key: record.get(key) for key in ("prompt_tokens", "completion_tokens")}


def _outcome(out: Request, record: dict[str, Any], meta: dict[str, Any]) -> None:
    # what stands in `response` may be the alias already that the proxy shows its client
    out.model_served = text(record.get("model")) or out.model_served
    told = (record.get("status"), meta.get("status"))
    if "success" in told:
        out.status = "ok"
    if "failure" in told:
        info = meta.get("error_information")
        info = info if isinstance(info, dict) else {}
        out.http_status = http_code(info.get("error_code"))
        out.error_type = text(info.get("error_class"))
        status = status_of_http(out.http_status)
        out.status = status if status not in (None, "ok") else "error"
    unless_zero(out, "failure" in told)
    hit = record.get("cache_hit")
    hit = hit.lower() if isinstance(hit, str) else hit
    known = {"true": True, "false": False, "none": False, True: True, False: False}
    out.served_from_response_cache = known.get(hit) if isinstance(hit, (str, bool)) else None
