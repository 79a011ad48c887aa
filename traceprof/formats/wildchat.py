"""WildChat: one row a conversation with ChatGPT, expanded to one request a model turn.

An assistant turn's `timestamp` is when the server had received the whole answer, to the second; when the request arrived is not told,
so that time stands as the arrival, marked `log_time`. The row's `timestamp` is that of its last turn. A user is who shares a hashed
address and request headers. `conversation_hash` is that of the content, so equal chats share it: the first `turn_identifier` tells
them apart. Source: the card of allenai/WildChat-1M.
"""

from __future__ import annotations

import hashlib
from typing import Any

from traceprof.formats.base import BadRecord, Has, Request, Skip, attempt, dumps, first_of, parse_time, text
from traceprof.formats.conversation import expand, plain

has = Has.ARRIVALS | Has.TEXT | Has.OUTPUTS | Has.SESSIONS
summary = "WildChat, one request a model turn (Parquet, JSONL)"


def detect(record: dict[str, Any]) -> bool:
    """A conversation under its hash (or an id, in the first release), judged toxic or not."""
    return "conversation" in record and ("conversation_hash" in record or "toxic" in record)


def read(record: dict[str, Any]) -> Skip | list[Request | Skip]:
    """One request a model turn, at the time its answer was logged."""
    turns = record.get("conversation")
    if not isinstance(turns, list):
        raise BadRecord("missing_field", "no list under conversation")
    rows = expand(plain(turns), _session(record, turns))
    if isinstance(rows, Skip):
        return rows
    user = _user(record, turns)
    said = [turn for turn in turns if turn["role"] == "assistant"]
    for turn, row in zip(said, rows, strict=True):
        if not isinstance(row, Request):
            continue
        row.model_requested, row.user_id = text(record.get("model")), user
        row.request_id = text(turn.get("turn_identifier"))
        last = record.get("timestamp") if turn is turns[-1] else None
        _logged(row, turn.get("timestamp") or last)
        if record.get("redacted") is True:
            row.quality.append("names_redacted")
    return rows


def _session(record: dict[str, Any], turns: list[Any]) -> str | None:
    name = text(first_of(record, ("conversation_hash", "conversation_id")))
    first = turns[0].get("turn_identifier") if turns and isinstance(turns[0], dict) else None
    return f"{name}-{text(first)}" if name and text(first) else name


def _user(record: dict[str, Any], turns: list[Any]) -> str | None:
    """Who shares the hashed address and the headers, as one word; neither is kept."""
    asked: dict[str, Any] = next((turn for turn in turns if turn.get("role") == "user"), {})
    address = text(record.get("hashed_ip")) or text(asked.get("hashed_ip"))
    if address is None:
        return None
    header = record.get("header") or asked.get("header")
    return hashlib.blake2b(address.encode("utf-8", "replace") + dumps(header), digest_size=8).hexdigest()


def _logged(row: Request, stamp: Any) -> None:
    if stamp is None:
        return
    found = attempt(parse_time, stamp, "timestamp")
    if isinstance(found, BadRecord):
        row.quality.append("bad_timestamp")
        return
    row.clock, row.arrival_us = "absolute", found[0]
    row.arrival_quality, row.arrival_resolution_us = "log_time", 1_000_000
