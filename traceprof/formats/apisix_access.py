"""APISIX access logs (nginx text) with the columns of its AI plugins, as APISIX 3.13 and later configure them.

Lines end with `"$request_type" "$llm_time_to_first_token" "$llm_model" "$request_llm_model" "$llm_prompt_tokens" "$llm_completion_tokens"`;
request_type is ai_chat, ai_stream or traditional_http. nginx writes a line when a request ends, to 1 s, and its duration in s: the
arrival is the difference. A format that the user changed is not read. Source: apache/apisix f519a0f0, conf and docs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from traceprof.bodies import openai, settle
from traceprof.formats.base import (
    BadRecord,
    Has,
    Request,
    Result,
    Skip,
    attempt,
    elapsed,
    http_code,
    parse_time,
    stamped,
    text,
)

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS
summary = "APISIX access logs with the columns of its AI plugins (text)"
lines = True

_LINE = re.compile(
    r'\S+ - \S+ \[(?P<at>[^\]]{20,30})\] \S+ "(?P<call>[^"]*)" (?P<status>\d{3}) \d+ (?P<took>[\d.]+) .*?'
    r'"(?P<id>[^" ]*)" "(?P<type>ai_chat|ai_stream|traditional_http)" "(?P<ttft>[^"]*)" "(?P<served>[^"]*)" "(?P<asked>[^"]*)"'
    r'\s+"(?P<prompt>[^"]*)" "(?P<completion>[^"]*)"'
)


def detect(record: dict[str, Any] | str) -> bool:
    """A line with the columns of the AI plugins."""
    return isinstance(record, str) and '" "ai_' in record and _LINE.match(stamped(record)[1]) is not None


def read_all(records: Iterable[Any]) -> Iterator[tuple[Any, Result]]:
    """One request a line; lines of other traffic are skipped."""
    for record in records:
        # a collector's time is when the line came to it: nginx's own is the better one
        found = _LINE.match(stamped(record.value)[1]) if isinstance(record.value, str) else None
        if found is None or found["type"] == "traditional_http":
            yield record, Skip("other_line")
        else:
            yield record, attempt(_request, found)


def _request(found: re.Match[str]) -> Request:
    try:
        at = datetime.strptime(found["at"], "%d/%b/%Y:%H:%M:%S %z")
    except ValueError:
        raise BadRecord("bad_time", "the time is not as nginx writes it") from None
    out = Request(content_level="lengths", content_state="absent", clock="absolute", arrival_resolution_us=1_000_000)  # fmt: skip
    out.end_us = parse_time(at, "the line's time")[0]
    took = elapsed(found["took"], "request_time", 1e6, out.quality)
    if took is None or took > out.end_us:
        out.arrival_us, out.end_us, out.arrival_quality = out.end_us, None, "log_time"
    else:
        out.arrival_us, out.e2e_us, out.arrival_quality = out.end_us - took, took, "derived"
        out.quality.append("arrival_is_end_minus_duration")
    out.request_id = text(found["id"])
    out.stream = found["type"] == "ai_stream"
    if out.stream:
        out.ttft_us = elapsed(_given(found["ttft"]), "time_to_first_token", 1e3, out.quality)
        if out.ttft_us is not None:
            out.first_token_us = out.arrival_us + out.ttft_us
    out.model_served, out.model_requested = _given(found["served"]), _given(found["asked"])
    openai.read_usage(out, {"prompt_tokens": _given(found["prompt"]), "completion_tokens": _given(found["completion"])})  # fmt: skip
    if not out.input_tokens:  # 0 where no model answered
        out.input_tokens = out.output_tokens = out.tokens_source = None
    out.http_status = http_code(found["status"])
    settle(out, None)
    return out


def _given(value: str) -> str | None:
    return None if value in ("", "-", "0") else value
