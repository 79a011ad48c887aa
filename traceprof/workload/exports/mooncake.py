"""Mooncake trace: `timestamp` (ms), `input_length`, `output_length`, and a number for each 512 tokens, equal where prefixes are.

Read by Mooncake's own tools, AIPerf, SGLang's and vLLM's benchmarks, GuideLLM, Dynamo and cache simulators, each of which makes prompts
of its own from the numbers. Source: kvcache-ai/Mooncake 3b5a594, FAST25-release.
"""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote
from typing import TYPE_CHECKING

from traceprof.workload.exports.prompts import json_line

if TYPE_CHECKING:
    from traceprof.workload.exports import Told
    from traceprof.workload.exports.prompts import Prompts

TOOL = "Mooncake traces"
CHECKED = "FAST25 release"
CARRIES = frozenset({"times", "models", "salts"})
BLOCK_SIZE: int | None = 512
SUFFIX = ""


def lines(prompts: Prompts) -> Iterator[bytes]:
    """A line a request; whole ms, as in the published traces."""
    for row, blocks in prompts.with_blocks():
        yield json_line(
            {
                "timestamp": row.arrival_us // 1000,
                "input_length": row.input_tokens,
                "output_length": row.output_tokens,
                "hash_ids": blocks,
            }
        )


def command(path: str, told: Told) -> str:
    """AIPerf sends such a trace."""
    return (
        f"aiperf profile -m {quote(told.model)} --url localhost:8000 --streaming --custom-dataset-type mooncake_trace --input-file {quote(path)} "
        f"--isl-block-size {told.block_size} --fixed-schedule --extra-inputs ignore_eos:true"
    )
