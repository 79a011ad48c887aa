"""APISIX AI plugins: one object of a logger plugin a request, with `llm_summary`, and with prompt and answer where it logs them.

`latency` counts ms from `start_time`. `llm_summary.duration` is the time to the first token of a stream; without a stream it is the
whole answer, and no first token. Source: apache/apisix f519a0f0, ai-proxy and log-util.
"""

from __future__ import annotations

from typing import Any

from traceprof import bodies
from traceprof.formats.base import (
    BadRecord,
    Has,
    Read,
    Request,
    count,
    dumps,
    elapsed,
    first_of,
    http_code,
    lasted,
    parse_time,
    text,
)

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.TEXT | Has.OUTPUTS
summary = "APISIX AI plugins, JSON of the logger plugins (JSONL)"


def detect(record: dict[str, Any]) -> bool:
    """The summary of ai-proxy, or its request beside a route."""
    return isinstance(record.get("llm_summary"), dict) or ("llm_request" in record and "route_id" in record)


def read(record: dict[str, Any]) -> Read:
    """One request; embeddings are skipped by kind."""
    if record.get("start_time") is None:
        raise BadRecord("missing_field", "no start_time")
    summed, request, response = (bodies.as_object(record.get(k)) or {} for k in ("llm_summary", "request", "response"))  # fmt: skip
    out = Request(clock="absolute", arrival_quality="measured")
    out.arrival_us = parse_time(record["start_time"], "start_time")[0]
    out.stream = {"true": True, "false": False}.get(str(summed.get("stream")).lower())
    first = elapsed(summed.get("duration"), "duration", 1e3, out.quality) if out.stream else None
    lasted(out, elapsed(record.get("latency"), "latency", 1e3, out.quality), first)
    headers = bodies.as_object(request.get("headers")) or {}
    out.request_id = text(headers.get("x-request-id"))
    consumer = bodies.as_object(record.get("consumer")) or {}
    out.tenant_id = text(consumer.get("username"))
    out.user_id = text(summed.get("end_user_id"))
    out.model_requested = text(summed.get("request_model"))
    out.model_served = text(summed.get("model"))
    out.provider = text(record.get("upstream"))
    out.http_status = http_code(response.get("status"))
    sent = bodies.as_object(record.get("llm_request"))
    if sent is not None and "model" not in sent and out.model_requested:
        sent = {"model": out.model_requested, **sent}
    usage = {
        "prompt_tokens": summed.get("prompt_tokens"),
        "completion_tokens": summed.get("completion_tokens"),
        "prompt_tokens_details": {"cached_tokens": summed.get("cache_read_input_tokens")},
        "completion_tokens_details": {"reasoning_tokens": summed.get("reasoning_tokens")},
    }
    result = bodies.exchange(out, sent, None, usage)
    out.cache_write_tokens = count(summed.get("cache_creation_input_tokens"), "cache_creation_input_tokens", out.quality)  # fmt: skip
    answer = bodies.decoded(record.get("llm_response_text"))
    said = first_of(answer, ("content", "text")) if isinstance(answer, dict) else answer
    if isinstance(said, str) and said:
        out.output_json = dumps({"role": "assistant", "content": said})
    return result
