"""Prompt files of benchmarks: `prompt`, perhaps how long the answer is to be, perhaps an answer (vLLM `custom`, GuideLLM, AIBrix).

A shape that other data may have too, so it is told last and by exact keys. No times and no order are known; a prompt is a text that
the benchmark puts into a user message. Source: vllm-project/vllm 237145e, benchmarks/datasets/custom.py; vllm-project/guidellm
ee7a774; vllm-project/aibrix 1521023, benchmarks/generator/workload_generator/README.md.
"""

from __future__ import annotations

from typing import Any

from traceprof.formats.base import BadRecord, Has, Request, count, dumps, first_of

has = Has.LENGTHS | Has.TEXT | Has.OUTPUTS
summary = "prompt files of benchmarks: vLLM custom, GuideLLM, AIBrix (JSONL, CSV, Parquet)"

_INPUT = ("prompt_tokens", "prompt_tokens_count", "input_tokens", "prompt_length")
_OUTPUT = ("output_tokens", "output_tokens_count", "completion_tokens", "output_length")
_ANSWER = ("completion", "response", "output")
_KEYS = {"prompt", *_INPUT, *_OUTPUT, *_ANSWER}


def detect(record: dict[str, Any]) -> bool:
    """A prompt that is text, and nothing but counts and an answer beside it."""
    return isinstance(record.get("prompt"), str) and record.keys() <= _KEYS


def read(record: dict[str, Any]) -> Request:
    """One request of one user message."""
    prompt, answer = record.get("prompt"), first_of(record, _ANSWER)
    if not isinstance(prompt, str):
        raise BadRecord("wrong_type" if "prompt" in record else "missing_field", "prompt is not a text")
    out = Request(messages_json=dumps([{"role": "user", "content": prompt}]))
    if isinstance(answer, str) and answer:
        out.output_json, out.status = dumps({"role": "assistant", "content": answer}), "ok"
    out.input_tokens = count(first_of(record, _INPUT), "prompt_tokens", out.quality)
    out.output_tokens = count(first_of(record, _OUTPUT), "output_tokens", out.quality)
    if out.input_tokens is not None or out.output_tokens is not None:
        out.tokens_source = "trace"
    return out
