"""GuideLLM: a prompt, its length and its answer's, and `relative_timestamp` (s), which the `replay` profile sends at.

Messages are written as the workload's chat template writes them and go to the completions endpoint, since a row of GuideLLM is one text.
Source: GuideLLM 0.8.1, data/preprocessors/mappers.py, benchmark/profiles/replay.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote
from typing import TYPE_CHECKING

from traceprof.workload.exports.prompts import json_line

if TYPE_CHECKING:
    from traceprof.workload.exports import Told
    from traceprof.workload.exports.prompts import Prompts

TOOL = "GuideLLM"
CHECKED = "0.8.1"
CARRIES = frozenset({"prompts", "texts", "tools", "endpoints", "times"})
BLOCK_SIZE: int | None = None
SUFFIX = ".jsonl"


def lines(prompts: Prompts) -> Iterator[bytes]:
    """A line a request."""
    for row, text in prompts.with_text(lengths=True):
        yield json_line(
            {
                "prompt": text,
                "prompt_tokens_count": row.input_tokens,
                "output_tokens_count": row.output_tokens,
                "relative_timestamp": row.arrival_us / 1e6,
            }
        )


def command(path: str, told: Told) -> str:
    """One run of the tool, at the workload's times."""
    return (
        f"guidellm run --backend kind=openai_http,target=http://localhost:8000,model={quote(told.model)},request_format=/v1/completions "
        f"--data kind=json_file,path={quote(path)} --profile kind=replay,time_scale=1.0"
    )
