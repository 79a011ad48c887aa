"""Dynamo's `agentic_mooncake`, version 2: Mooncake rows of which each may name what it follows, and how long after that it comes.

A request comes at its time or, where the one that it follows ends late, as long after that as in the trace. All stand in one play,
since numbers of blocks are of one play. Source: ai-dynamo/dynamo, AgenticMooncakeRow (loadgen/types.rs); Dynamo 1.6.1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from shlex import quote
from typing import TYPE_CHECKING

from traceprof.workload.exports.prompts import json_line, milliseconds

if TYPE_CHECKING:
    from traceprof.workload.exports import Told
    from traceprof.workload.exports.prompts import Prompts

TOOL = "Dynamo (dynamo.replay, agentic_mooncake)"
CHECKED = "1.6.1"
CARRIES = frozenset({"times", "models", "salts", "sessions", "think times"})
BLOCK_SIZE: int | None = 512
SUFFIX = ""


def lines(prompts: Prompts) -> Iterator[bytes]:
    """A header, and a line a request."""
    meta = prompts.workload.meta
    yield json_line(
        {
            "schema": "dynamo.agentic_mooncake",
            "version": 2,
            "block_size": prompts.block_size,
            "hash_id_scope": "local",
            "source": {"format": meta["kind"], "digest": f"{meta.get('variant')}-{meta.get('seed')}"},
        }
    )
    written: dict[int, str] = {}  # of those that a later one may follow
    for row, blocks in prompts.with_blocks():
        if row.session is not None:
            written[row.number] = row.request_id
        before = None if row.parent is None else written.get(row.parent)
        yield json_line(
            {
                "request_id": row.request_id,
                "play_id": "workload",
                "session_id": row.session or row.request_id,
                "model": prompts.asked_model or row.model or "",
                "input_length": row.input_tokens,
                "output_length": row.output_tokens,
                "hash_ids": blocks,
                "not_before_ms": row.ms,
                "recorded_api_time_ms": None
                if row.end_us is None
                else milliseconds(row.end_us - row.arrival_us),
                "dependencies": None
                if before is None
                else [
                    {
                        "request_id": before,
                        "trigger": "completion",
                        "delay_ms": milliseconds(row.think_us or 0),
                        "relation": "sequence",
                    }
                ],
            }
        )


def command(path: str, told: Told) -> str:
    """A replay through the simulated engine."""
    said = f'{json.dumps(path)}, trace_block_size={told.block_size}, trace_format="agentic_mooncake", execution_model={json.dumps(told.model)}'
    return "python -c " + quote(
        f"from dynamo.replay import run_trace_replay; print(run_trace_replay({said}).summary)"
    )
