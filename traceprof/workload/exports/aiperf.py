"""AIPerf's `mooncake_trace` rows with the prompts themselves: messages, or a whole body where the prompt is a text or token ids.

A later turn has both `timestamp` and `delay` (ms): with --fixed-schedule the first decides, once the turn before has ended; in the other
modes the second. A request that does not follow the latest of its session stands alone. Source: AIPerf 0.13.0, dataset/loader/models.py
(MooncakeTrace) and mooncake_trace.py, timing/strategies/fixed_schedule.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from shlex import quote
from typing import TYPE_CHECKING, Any

from traceprof.workload.exports.prompts import ALL, body, json_line

if TYPE_CHECKING:
    from traceprof.workload.exports import Told
    from traceprof.workload.exports.prompts import Prompts

TOOL = "AIPerf"
CHECKED = "0.13.0"
CARRIES = ALL - {"endpoints", "models", "tenants", "warm-up"}
BLOCK_SIZE: int | None = None
SUFFIX = ""


def lines(prompts: Prompts) -> Iterator[bytes]:
    """A line a request."""
    for row in prompts.rows():
        said: dict[str, Any] = {"timestamp": row.ms, **prompts.in_session(row)}
        if row.endpoint == "chat":
            extra = row.parameters | ({"cache_salt": row.salt} if row.salt is not None else {})
            said |= {
                "messages": json.loads(row.messages or "[]"),
                "tools": json.loads(row.tools) or None if row.tools else None,
                "output_length": row.output_tokens,
                "extra": extra or None,
            }
        else:
            # such a body goes out as it is: --extra-inputs does not reach it
            streamed = {"stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True}
            said |= {"payload": body(row, prompts.asked_model) | streamed, "output_length": row.output_tokens}
        yield json_line(said)


def command(path: str, told: Told) -> str:
    """One run of the tool, at the workload's times."""
    return (
        f"aiperf profile -m {quote(told.model)} --url localhost:8000 --endpoint-type {'chat' if told.chat else 'completions'} --streaming "
        f"--custom-dataset-type mooncake_trace --input-file {quote(path)} --fixed-schedule --extra-inputs ignore_eos:true"
    )
