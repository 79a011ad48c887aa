"""Agentic traces of SGLang's benchmark: one JSON object whose `conversations` are lists of turns, each `messages` and `prompt_tokens`.

A turn holds only what is new since the turn before, without the model's answers, which the replay gets from the server. So of each
conversation the first prompt is whole, and the later ones are known by their length. Conversations have no names: they are numbered.
Source: sgl-project/sglang 3666ee9, benchmark/datasets/agentic_trace.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from traceprof.formats.base import BadRecord, Has, Request, Result, Skip, attempt, count, messages

has = Has.LENGTHS | Has.TEXT | Has.SESSIONS
summary = "SGLang agentic traces, conversations as what is new in each turn (JSON)"


def detect(record: dict[str, Any]) -> bool:
    """Conversations that are lists of turns, each with messages."""
    found = record.get("conversations")
    first = found[0] if isinstance(found, list) and found else None
    turn = first[0] if isinstance(first, list) and first else None
    return isinstance(turn, dict) and "messages" in turn


def read_all(records: Iterable[Any]) -> Iterator[tuple[Any, Result]]:
    """All conversations of all files, numbered as they come."""
    number = 0
    for record in records:
        out: list[Request | Skip | BadRecord] = []
        for conversation in record.value["conversations"]:
            if isinstance(conversation, list):
                out.extend(attempt(_turn, turn, str(number), k) for k, turn in enumerate(conversation))
            else:
                out.append(BadRecord("wrong_type", "a conversation is not a list"))
            number += 1
        yield record, out or Skip("empty_conversation")


def _turn(turn: Any, session: str, k: int) -> Request:
    if not isinstance(turn, dict):
        raise BadRecord("wrong_type", "a turn is not an object")
    out = Request(clock="order_only", session_id=session, session_kind="explicit", turn_index=k)
    out.messages_json = messages(turn.get("messages"), out)
    if k:
        out.content_state = "partial_history"
    out.input_tokens = count(turn.get("prompt_tokens"), "prompt_tokens", out.quality)
    if out.input_tokens is not None:
        out.tokens_source = "trace"
    return out
