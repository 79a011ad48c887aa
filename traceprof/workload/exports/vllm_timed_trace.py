"""vLLM's `timed_trace`: a Mooncake trace in blocks of 16, which vllm bench makes token ids of and sends at its times.

A number stands for the same random ids wherever it stands, so prompts share whole blocks as the workload's do: what vLLM's cache of
blocks of 16 sees. The ids are drawn from Python's own string hash: without PYTHONHASHSEED every run of the tool sends others.
Source: vllm-project/vllm 0.32.0, benchmarks/datasets/datasets.py (TimedTrace).
"""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote
from typing import TYPE_CHECKING

from traceprof.workload.exports.prompts import json_line

if TYPE_CHECKING:
    from traceprof.workload.exports import Told
    from traceprof.workload.exports.prompts import Prompts

TOOL = "vllm bench serve --dataset-name timed_trace"
CHECKED = "0.32.0"
CARRIES = frozenset({"times", "models", "salts"})
BLOCK_SIZE: int | None = 16
SUFFIX = ""


def lines(prompts: Prompts) -> Iterator[bytes]:
    """A line a request."""
    for row, blocks in prompts.with_blocks():
        yield json_line(
            {
                "timestamp": row.ms,
                "input_length": row.input_tokens,
                "output_length": row.output_tokens,
                "hash_ids": blocks,
            }
        )


def command(path: str, told: Told) -> str:
    """One run of the tool."""
    return (
        f"PYTHONHASHSEED=0 vllm bench serve --backend vllm --model {quote(told.model)} --dataset-name timed_trace --dataset-path {quote(path)} "
        f"--timed-trace-chunk-hash-size {told.block_size} --timed-trace-sec-multiplier 0.001 --num-prompts {told.requests}"
    )
