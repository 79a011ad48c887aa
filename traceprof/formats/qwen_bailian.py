"""Qwen-Bailian traces: Mooncake's shape with 16-token blocks, times in seconds, and a chat tree.

`chat_id` is the request, `parent_chat_id` (-1 at the root) the turn before it; the session is the root of the walk.
Source: alibaba-edu/qwen-bailian-usagetraces-anon.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from traceprof.formats.base import BadRecord, Has, Request, Skip, attempt, count, offset_us, text
from traceprof.formats.mooncake import block_row

has = Has.ARRIVALS | Has.LENGTHS | Has.BLOCKS | Has.SESSIONS
summary = "Qwen-Bailian traces, 16-token block hashes and chat trees (JSONL)"
hash_scope = "file"


def detect(record: dict[str, Any]) -> bool:
    """Block hashes of a chat turn."""
    return {"chat_id", "parent_chat_id", "hash_ids", "turn"} <= record.keys()


def read_all(records: Iterable[Any]) -> Iterator[tuple[Any, Request | Skip | BadRecord]]:
    """All rows in file order; a turn finds its session through its parent."""
    root: dict[str, str] = {}
    first: str | None = None
    for record in records:
        first = record.file if first is None else first
        scope = "" if record.file == first else f"{record.file}:"  # ids are those of one file
        yield record, attempt(_request, record.value, scope, root)


def _request(row: dict[str, Any], scope: str, root: dict[str, str]) -> Request:
    out = block_row(row, 16)
    out.hash_scheme = "siphash24-remap"
    out.arrival_us = offset_us(row.get("timestamp"), "timestamp", 1e6)
    chat, parent = text(row.get("chat_id")), text(row.get("parent_chat_id"))
    if chat is None:
        raise BadRecord("missing_field", "no chat_id")
    out.request_id = out.session_id = scope + chat
    if parent not in (None, "-1"):
        out.parent_request_id = f"{scope}{parent}"
        out.session_id = root.get(out.parent_request_id, out.parent_request_id)
    root[out.request_id] = out.session_id
    out.session_kind = "explicit"
    turn = count(row.get("turn"), "turn", out.quality)
    out.turn_index = None if turn is None else max(0, turn - 1)
    out.app = text(row.get("type"))
    return out
