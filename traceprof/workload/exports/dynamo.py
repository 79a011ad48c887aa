"""Dynamo's replay: Mooncake rows in sessions, a later turn with its `delay` (ms) after the turn before.

Where `delay` is not known, Dynamo takes the time between the two. A request that does not follow the latest of its session stands alone;
`dynamo-agentic` says of each what it follows. Source: ai-dynamo/dynamo 0230a31, lib/mocker/src/loadgen/trace.rs (from_mooncake).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from shlex import quote
from typing import TYPE_CHECKING

from traceprof.workload.exports.prompts import json_line

if TYPE_CHECKING:
    from traceprof.workload.exports import Told
    from traceprof.workload.exports.prompts import Prompts

TOOL = "Dynamo (dynamo.replay)"
CHECKED = "1.6.1"
CARRIES = frozenset({"times", "models", "salts", "sessions", "think times"})
BLOCK_SIZE: int | None = 512
SUFFIX = ""


def lines(prompts: Prompts) -> Iterator[bytes]:
    """A line a request."""
    for row, blocks in prompts.with_blocks():
        yield json_line(
            {
                "timestamp": row.ms,
                **prompts.in_session(row),
                "input_length": row.input_tokens,
                "output_length": row.output_tokens,
                "hash_ids": blocks,
            }
        )


def command(path: str, told: Told) -> str:
    """A replay through the simulated engine."""
    said = f"{json.dumps(path)}, trace_block_size={told.block_size}"
    return "python -c " + quote(
        f"from dynamo.replay import run_trace_replay; print(run_trace_replay({said}).summary)"
    )
