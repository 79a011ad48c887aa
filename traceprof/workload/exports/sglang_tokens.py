"""SGLang's `token-trace` dataset: the token ids of each prompt, the length of its answer, and `ts` (s from the start).

Newer than SGLang 0.5.23. Source: sgl-project/sglang dfb5af1, benchmark/datasets/token_trace.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote
from typing import TYPE_CHECKING

from traceprof.workload.exports.prompts import json_line

if TYPE_CHECKING:
    from traceprof.workload.exports import Told
    from traceprof.workload.exports.prompts import Prompts

TOOL = "sglang.bench_serving --dataset-name token-trace"
CHECKED = "dfb5af1"
CARRIES = frozenset({"prompts", "messages", "texts", "token ids", "tools", "endpoints", "times", "sessions"})
BLOCK_SIZE: int | None = None
SUFFIX = ""


def lines(prompts: Prompts) -> Iterator[bytes]:
    """A line a request."""
    for row, ids in prompts.with_ids(lengths=True):
        yield json_line(
            {
                "ts": row.arrival_us / 1e6,
                "session_id": row.session,
                "turn_id": row.turn if row.session is not None else None,
                "input_tokens": ids.tolist(),
                "num_output_tokens": row.output_tokens,
            }
        )


def command(path: str, told: Told) -> str:
    """One run of the tool."""
    return (
        f"python -m sglang.bench_serving --backend sglang --model {quote(told.model)} --dataset-name token-trace --dataset-path {quote(path)} "
        f"--num-prompts {told.requests}"
    )
