"""Conversation files: one record a conversation of OpenAI-like messages, expanded to one request a model turn.

The prompt of turn k is every message before it, its output the message itself. Such files have no times and no
token counts: only their order is known. Fine-tuning JSONL (`messages` that end with the assistant) is of this kind.
"""

from __future__ import annotations

from typing import Any

from traceprof.formats.base import BadRecord, Has, Request, Skip, checked, dumps, text

has = Has.TEXT | Has.OUTPUTS | Has.SESSIONS
summary = "conversations of OpenAI-like messages that end with the model's turn (JSON, JSONL)"


def detect(record: dict[str, Any]) -> bool:
    """Messages that already end with the model's turn, without a model to send them to."""
    turns = record.get("messages")
    return (
        isinstance(turns, list)
        and bool(turns)
        and isinstance(turns[-1], dict)
        and turns[-1].get("role") == "assistant"
        and not record.keys() & {"model", "response", "usage", "choices"}
    )


def read(record: dict[str, Any]) -> Request | Skip | list[Request | Skip]:
    """One request a model turn."""
    turns = record.get("messages")
    if not isinstance(turns, list):
        raise BadRecord("missing_field", "no list of messages")
    session = text(record.get("id") or record.get("conversation_id") or record.get("session_id"))
    return expand(turns, session, record.get("tools"))


def plain(turns: list[Any]) -> list[Any]:
    """Turns with who spoke and what was said, and nothing else; what is no object stays, for `expand` to refuse."""
    return [{"role": t.get("role"), "content": t.get("content")} if isinstance(t, dict) else t for t in turns]


def expand(turns: list[Any], session: str | None, tools: Any = None) -> Skip | list[Request | Skip]:
    """Requests of a conversation, in order; a model turn that nothing precedes has no prompt and is skipped."""
    if not turns:
        return Skip("empty_conversation")
    kept = checked(turns, Request())
    out: list[Request | Skip] = []
    for k, turn in enumerate(kept):
        if turn["role"] != "assistant":
            continue
        if k == 0:
            out.append(Skip("model_turn_without_prompt"))
            continue
        out.append(
            Request(
                clock="order_only",
                status="ok",
                session_id=session,
                session_kind="explicit" if session else None,
                turn_index=sum(type(r) is Request for r in out),
                messages_json=dumps(kept[:k]),
                output_json=dumps(turn),
                tools_json=dumps(tools) if isinstance(tools, list) and tools else None,
            )
        )
    return out or Skip("no_model_turn")
