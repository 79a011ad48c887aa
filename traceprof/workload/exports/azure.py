"""The columns of Azure's public traces: time, tokens of the prompt, tokens of the answer; inference-perf's `trace_replay` reads them.

Source: inference-perf 0.7.0, utils/trace_reader.py; Azure/AzurePublicDataset b469a11.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from traceprof.workload.exports import Told
    from traceprof.workload.exports.prompts import Prompts

TOOL = "inference-perf (trace_replay)"
CHECKED = "0.7.0"
CARRIES = frozenset({"times"})
BLOCK_SIZE: int | None = None
SUFFIX = ""

_START = datetime(2026, 1, 1, tzinfo=UTC)  # times count from the first


def lines(prompts: Prompts) -> Iterator[bytes]:
    """A line a request, and the names of the columns."""
    yield b"TIMESTAMP,ContextTokens,GeneratedTokens\n"
    for row in prompts.rows(lengths=True, heavy=()):
        at = _START + timedelta(microseconds=row.arrival_us)
        yield f"{at:%Y-%m-%d %H:%M:%S.%f}0,{row.input_tokens},{row.output_tokens}\n".encode()


def command(path: str, told: Told) -> str:
    """The settings of a run, which makes prompts of its own of these lengths."""
    trace = f'trace: {{file: "{path}", format: AzurePublicDataset}}'
    return f"""inference-perf --config_file run.yml   # run.yml:
api: {{type: completion, streaming: true}}
server: {{type: vllm, model_name: {told.model}, base_url: "http://localhost:8000", ignore_eos: true}}
tokenizer: {{pretrained_model_name_or_path: {told.model}}}
data: {{type: random, {trace}}}
load: {{type: trace_replay, {trace}, stages: [{{rate: {told.rate}, duration: {told.seconds}}}]}}"""
