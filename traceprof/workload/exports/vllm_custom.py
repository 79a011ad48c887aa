"""vLLM's `custom` dataset: a prompt and the length of its answer a line, sent to the completions endpoint as it stands.

Messages are written as the workload's chat template writes them, so that --skip-chat-template sends the very tokens.
Source: vllm-project/vllm 0.32.0, benchmarks/datasets/datasets.py (CustomDataset).
"""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote
from typing import TYPE_CHECKING

from traceprof.workload.exports.prompts import json_line

if TYPE_CHECKING:
    from traceprof.workload.exports import Told
    from traceprof.workload.exports.prompts import Prompts

TOOL = "vllm bench serve --dataset-name custom"
CHECKED = "0.32.0"
CARRIES = frozenset({"prompts", "texts", "tools", "endpoints"})
BLOCK_SIZE: int | None = None
SUFFIX = ".jsonl"


def lines(prompts: Prompts) -> Iterator[bytes]:
    """A line a request."""
    for row, text in prompts.with_text(lengths=True):
        yield json_line({"prompt": text, "output_tokens": row.output_tokens})


def command(path: str, told: Told) -> str:
    """One run of the tool, in order, at the workload's mean rate."""
    return (
        f"vllm bench serve --backend vllm --model {quote(told.model)} --dataset-name custom --dataset-path {quote(path)} --custom-output-len -1 "
        f"--skip-chat-template --disable-shuffle --no-oversample --num-prompts {told.requests} --request-rate {told.rate} --ignore-eos"
    )
