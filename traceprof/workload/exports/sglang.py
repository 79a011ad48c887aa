"""SGLang's `openai` dataset: a chat body a line. A text goes as the message of a user; token ids cannot go.

Source: SGLang 0.5.23, benchmark/datasets/openai_dataset.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from shlex import quote
from typing import TYPE_CHECKING

from traceprof.workload.exports.prompts import json_line, user_messages

if TYPE_CHECKING:
    from traceprof.workload.exports import Told
    from traceprof.workload.exports.prompts import Prompts

TOOL = "sglang.bench_serving --dataset-name openai"
CHECKED = "0.5.23"
CARRIES = frozenset({"prompts", "messages", "tools", "parameters", "salts", "endpoints"})
BLOCK_SIZE: int | None = None
SUFFIX = ""


def lines(prompts: Prompts) -> Iterator[bytes]:
    """A line a request."""
    for row in prompts.rows(lengths=True):
        if row.endpoint == "ids":
            prompts.refuse("requests of token ids (sglang-tokens takes them)")
            continue
        yield json_line(
            {
                "messages": user_messages(row),
                "max_tokens": row.output_tokens,
                "tools": json.loads(row.tools) or None if row.tools else None,
                "cache_salt": row.salt,
                **row.parameters,
            }
        )


def command(path: str, told: Told) -> str:
    """One run of the tool, at the workload's mean rate."""
    return (
        f"python -m sglang.bench_serving --backend sglang-oai-chat --model {quote(told.model)} --dataset-name openai --dataset-path {quote(path)} "
        f"--num-prompts {told.requests} --request-rate {told.rate}"
    )
