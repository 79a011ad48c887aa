"""LMSYS-Chat-1M and the arena sets of its shape: one row a conversation, expanded to one request a model turn.

No times, no token counts. Where `redacted` is true, names in the text stand as NAME_1: the words are not those that were sent, but
equal words stay equal, so sharing keeps its shape and the rows say `names_redacted`. Source: the card of lmsys/lmsys-chat-1m.
"""

from __future__ import annotations

from typing import Any

from traceprof.formats.base import BadRecord, Has, Request, Skip, text
from traceprof.formats.conversation import expand, plain

has = Has.TEXT | Has.OUTPUTS | Has.SESSIONS
summary = "LMSYS-Chat-1M, one request a model turn (Parquet, JSONL)"


def detect(record: dict[str, Any]) -> bool:
    """A conversation with the marks of OpenAI's moderation, and none of WildChat's."""
    return {"conversation_id", "conversation", "openai_moderation"} <= record.keys() and "toxic" not in record


def read(record: dict[str, Any]) -> Skip | list[Request | Skip]:
    """One request a model turn; all turns of a row went to one model."""
    turns = record.get("conversation")
    if not isinstance(turns, list):
        raise BadRecord("missing_field", "no list under conversation")
    rows = expand(plain(turns), text(record.get("conversation_id")))
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, Request):
            row.model_requested = text(record.get("model"))
            if record.get("redacted") is True:
                row.quality.append("names_redacted")
    return rows
