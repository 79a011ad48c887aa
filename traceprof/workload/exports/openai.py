"""OpenAI bodies: a line a request, with when to send it and what it follows, for clients of one's own.

timestamp   s since the workload's start
method, url, body   the HTTP request; `max_tokens` is the length of the answer in the trace
request_id, session_id, turn_index, parent_request_id
think_s     s from the end of the turn before to this one
warmup      true where the request is in no figure
"""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote
from typing import TYPE_CHECKING

from traceprof.workload.exports.prompts import ALL, body, json_line

if TYPE_CHECKING:
    from traceprof.workload.exports import Told
    from traceprof.workload.exports.prompts import Prompts

TOOL = "any HTTP client"
CHECKED = ""
CARRIES = ALL
BLOCK_SIZE: int | None = None
SUFFIX = ""

_URLS = {"chat": "/v1/chat/completions"}


def lines(prompts: Prompts) -> Iterator[bytes]:
    """A line a request."""
    names: dict[int, str] = {}  # of those that a later one may name
    for row in prompts.rows():
        if row.session is not None:
            names[row.number] = row.request_id
        yield json_line(
            {
                "timestamp": row.arrival_us / 1e6,
                "request_id": row.request_id,
                "session_id": row.session,
                "turn_index": row.turn if row.session is not None else None,
                "parent_request_id": None if row.parent is None else names.get(row.parent),
                "think_s": None if row.think_us is None else row.think_us / 1e6,
                "tenant_id": row.tenant,
                "warmup": True if row.warmup else None,
                "method": "POST",
                "url": _URLS.get(row.endpoint, "/v1/completions"),
                "body": body(row, prompts.asked_model),
            }
        )


def command(path: str, told: Told) -> str:
    """What is in it, read back."""
    return f"traceprof run {quote(path)} -o report"
