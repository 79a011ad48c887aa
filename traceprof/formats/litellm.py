"""LiteLLM StandardLoggingPayload: one object an attempt, as every LiteLLM callback writes it (JSON, JSONL, arrays).

`startTime` is the start of the attempt; `completionStartTime` is a first token only when `stream` is true;
`litellm_call_id` is shared by a failed attempt and its fallback; `trace_id` is the client's session when it sent one,
else fresh for every request; `cache_hit` is LiteLLM's own response cache. Source: BerriAI/litellm 1.90.7, captures.
"""

from __future__ import annotations

from typing import Any

from traceprof import bodies
from traceprof.bodies import anthropic, openai, responses
from traceprof.formats.base import (
    BadRecord,
    Has,
    Request,
    Skip,
    count,
    cut_state,
    dumps,
    first_of,
    http_code,
    messages,
    parse_time,
    text,
)

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.TEXT | Has.OUTPUTS | Has.SESSIONS
summary = "LiteLLM StandardLoggingPayload from any callback (JSON, JSONL)"

GENERATIONS = {
    "completion": "chat", "acompletion": "chat", "text_completion": "text", "atext_completion": "text",
    "anthropic_messages": "chat", "responses": "responses", "aresponses": "responses",
}  # fmt: skip


def detect(record: dict[str, Any]) -> bool:
    """The keys that no other log has together."""
    return {"startTime", "completionStartTime", "model_parameters", "call_type", "status"} <= record.keys()


def read(record: dict[str, Any]) -> Request | Skip:
    """One attempt; embeddings, images and other calls that generate no text are skipped by kind."""
    call = str(record.get("call_type"))
    operation = GENERATIONS.get(call)
    if operation is None:
        return Skip("embedding" if "embed" in call else "not_a_generation")
    out = Request(operation=operation, clock="absolute", arrival_quality="attempt_start")
    if record.get("startTime") is None:
        raise BadRecord("missing_field", "no startTime")
    out.arrival_us, naive = parse_time(record["startTime"], "startTime")
    if naive:
        out.quality.append("tz_assumed")
    if record.get("endTime") is not None:
        out.end_us = parse_time(record["endTime"], "endTime")[0]
    stream = record.get("stream")
    out.stream = stream if isinstance(stream, bool) else None
    if stream is True and record.get("completionStartTime") is not None:
        out.first_token_us = parse_time(record["completionStartTime"], "completionStartTime")[0]
    meta = record.get("metadata") if isinstance(record.get("metadata"), dict) else {}
    assert isinstance(meta, dict)
    _identity(out, record, meta)
    _prompt(out, record)
    response = record.get("response")
    if isinstance(response, dict) and response:
        bodies.read_response(out, response, openai)
    elif isinstance(response, str) and response and not response.startswith("redacted"):
        out.output_json = dumps({"role": "assistant", "content": response})
    # what stands in `response` may be the alias already that the proxy shows its client
    out.model_served = text(record.get("model"))
    _counts(out, record, meta)
    failed = record.get("status") == "failure"
    out.status = "error" if failed else "ok"
    if failed:
        info = record.get("error_information")
        code = info.get("error_code") if isinstance(info, dict) else None
        out.http_status = http_code(code)
        out.error_type = text(info.get("error_class")) if isinstance(info, dict) else None
        if out.http_status is not None and 400 <= out.http_status < 500:
            out.status = "rejected"
    out.served_from_response_cache = record.get("cache_hit") is True
    return cut_state(out)


def _identity(out: Request, record: dict[str, Any], meta: dict[str, Any]) -> None:
    out.request_id = text(record.get("id"))
    out.attempt_group = text(first_of(record, ("litellm_call_id", "call_id")))
    given = meta.get("requester_metadata")
    asked = text(first_of(given, ("session_id", "conversation_id"))) if isinstance(given, dict) else None
    if asked:
        out.session_id, out.session_kind = asked, "explicit"
    elif text(record.get("trace_id")):
        out.session_id, out.session_kind = text(record["trace_id"]), "trace"
    out.trace_id = text(record.get("trace_id"))
    out.tenant_id = text(first_of(meta, ("user_api_key_team_id", "user_api_key_org_id", "user_api_key_alias", "user_api_key_hash")))  # fmt: skip
    out.user_id = text(record.get("end_user")) or text(meta.get("user_api_key_end_user_id"))
    out.app = text(meta.get("user_agent"))
    out.model_requested = text(record.get("model_group")) or text(record.get("model"))
    out.model_served = text(record.get("model"))
    out.provider = text(record.get("custom_llm_provider"))


def _prompt(out: Request, record: dict[str, Any]) -> None:
    given = record.get("messages")
    parameters = record.get("model_parameters")
    if isinstance(parameters, dict):
        out.params = openai.params(parameters)
        limit = first_of(parameters, ("max_completion_tokens", "max_tokens"))
        out.max_output_tokens = count(limit, "max_tokens", out.quality)
        tools = parameters.get("tools")
        if isinstance(tools, list) and tools:
            out.tools_json = dumps(tools)
    if given in (None, "", [], {}) or (isinstance(given, str) and given.startswith("redacted")):
        out.content_level, out.content_state = "lengths", "redacted" if given else "absent"
        return
    if isinstance(given, dict) and isinstance(given.get("messages"), list):
        given = given["messages"]
    beside = {k: v for k, v in parameters.items() if k != "model"} if isinstance(parameters, dict) else {}
    if out.operation == "responses" and isinstance(given, (str, list)):
        responses.read_request(out, {**beside, "input": given})
    elif record.get("call_type") == "anthropic_messages" and isinstance(given, list):
        anthropic.read_request(out, {**beside, "messages": given})
    elif isinstance(given, str):
        out.prompt_text = given
    else:
        out.messages_json = messages(given, out)
        if out.operation == "text" and len(given) == 1 and isinstance(given[0].get("content"), str):
            out.prompt_text, out.messages_json = (
                given[0]["content"],
                None,
            )  # LiteLLM wraps it in a user message


def _counts(out: Request, record: dict[str, Any], meta: dict[str, Any]) -> None:
    usage = meta.get("usage_object")
    read_usage(out, usage if isinstance(usage, dict) else record)
    if out.input_tokens is None:
        out.input_tokens = count(record.get("prompt_tokens"), "prompt_tokens", out.quality)
    if out.output_tokens is None:
        out.output_tokens = count(record.get("completion_tokens"), "completion_tokens", out.quality)
    unless_zero(out, record.get("status") == "failure")


def unless_zero(out: Request, failed: bool) -> None:
    """Take back counts of 0, by which LiteLLM means that it does not know."""
    if not out.input_tokens and (failed or not out.output_tokens):
        out.input_tokens = out.output_tokens = out.cached_input_tokens = out.cache_write_tokens = None
        out.reasoning_tokens = out.tokens_source = None


def read_usage(out: Request, usage: dict[str, Any]) -> None:
    """Counts of LiteLLM's usage, in which `prompt_tokens` is the whole prompt whoever the provider is."""
    openai.read_usage(out, usage)
    if out.cached_input_tokens is None:
        cached = count(usage.get("cache_read_input_tokens"), "cache_read_input_tokens", out.quality)
        out.cached_input_tokens = cached if cached is not None and cached <= (out.input_tokens or 0) else None
    if out.cache_write_tokens is None:
        written = count(usage.get("cache_creation_input_tokens"), "cache_creation_input_tokens", out.quality)
        out.cache_write_tokens = written
