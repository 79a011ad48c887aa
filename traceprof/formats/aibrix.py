"""AIBrix workload files: one line a tick, `timestamp` (ms) and the `requests` that start then; no request is an idle tick.

The client puts each prompt into a user message. Prompts of one session are sent as one growing chat, whose answers the file does not
have: there, the first prompt is whole and the later ones are only what is new. Older files write `Prompt Length` and `Output Length`.
Source: vllm-project/aibrix e3e10f9, benchmarks/generator, benchmarks/client.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from traceprof.formats.base import (
    BadRecord,
    Has,
    Request,
    Result,
    Skip,
    attempt,
    count,
    dumps,
    first_of,
    messages,
    offset_us,
    text,
)

has = Has.ARRIVALS | Has.LENGTHS | Has.TEXT | Has.SESSIONS
summary = "AIBrix workload files, one line a tick (JSONL)"
one_process = True  # a file counts its own sessions


def detect(record: dict[str, Any]) -> bool:
    """A time and the requests of that time, and nothing else."""
    return record.keys() == {"timestamp", "requests"} and isinstance(record["requests"], list)


def read_all(records: Iterable[Any]) -> Iterator[tuple[Any, Result]]:
    """All ticks in order; of each session of a file is remembered how many turns there were."""
    turns: Counter[tuple[str, str]] = Counter()
    first: str | None = None
    for record in records:
        first = record.file if first is None else first
        yield record, attempt(_tick, record.value, "" if record.file == first else f"{record.file}:", turns)


def _tick(tick: dict[str, Any], scope: str, turns: Counter[tuple[str, str]]) -> Result:
    if not tick["requests"]:
        return Skip("idle_tick")
    at = offset_us(tick.get("timestamp"), "timestamp", 1e3)
    return [attempt(_request, one, at, scope, turns) for one in tick["requests"]]


def _request(one: Any, at: int, scope: str, turns: Counter[tuple[str, str]]) -> Request:
    if not isinstance(one, dict):
        raise BadRecord("wrong_type", "a request is not an object")
    out = Request(
        clock="relative",
        arrival_us=at,
        arrival_quality="measured",
        arrival_resolution_us=1_000,
        model_requested=text(one.get("model")),
    )
    prompt = one.get("prompt")
    if isinstance(prompt, str):
        out.messages_json = dumps([{"role": "user", "content": prompt}])
    elif prompt is not None:
        out.messages_json = messages(prompt, out)
    else:
        out.content_level, out.content_state = "lengths", "absent"
    out.output_tokens = count(first_of(one, ("output_length", "Output Length")), "output_length", out.quality)
    tokens = count(first_of(one, ("prompt_length", "Prompt Length")), "prompt_length", out.quality)
    session = text(one.get("session_id"))
    if session is not None:
        out.session_id, out.session_kind = scope + session, "explicit"
        out.turn_index = turns[scope, session]
        turns[scope, session] += 1
    if out.turn_index:
        out.content_state = "partial_history"
    else:
        out.input_tokens = tokens
    if out.messages_json is None and tokens is None:
        raise BadRecord("missing_field", "neither prompt nor prompt_length")
    if out.input_tokens is not None or out.output_tokens is not None:
        out.tokens_source = "trace"
    return out
