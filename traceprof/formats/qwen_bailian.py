"""Qwen-Bailian traces: Mooncake's shape with 16-token blocks, times in seconds, and a chat tree.

`chat_id` is the request, `parent_chat_id` (-1 at the root) the turn before it; the session is the root of the walk.
Source: alibaba-edu/qwen-bailian-usagetraces-anon.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from traceprof.formats.base import BadRecord, Has, Request, Skip, count, offset_us, text
from traceprof.formats.mooncake import block_row

has = Has.ARRIVALS | Has.LENGTHS | Has.BLOCKS | Has.SESSIONS
summary = "Qwen-Bailian usage traces: 16-token block hashes and chat trees (JSONL)"
hash_scope = "file"


def detect(record: dict[str, Any]) -> bool:
    """Block hashes of a chat turn."""
    return {"chat_id", "parent_chat_id", "hash_ids", "turn"} <= record.keys()


def read_all(records: Iterable[Any]) -> Iterator[tuple[Any, Request | Skip | BadRecord]]:
    """All rows in file order; a turn finds its session through its parent."""
    root: dict[tuple[str, str], str] = {}
    for record in records:
        try:
            row = record.value
            out = block_row(row, 16)
            out.hash_scheme = "siphash24-remap"
            out.arrival_us = offset_us(row.get("timestamp"), "timestamp", 1e6)
            out.request_id = text(row.get("chat_id"))
            if out.request_id is None:
                raise BadRecord("missing_field", "no chat_id")
            parent = text(row.get("parent_chat_id"))
            if parent not in (None, "-1"):
                out.parent_request_id = parent
            session = root.get(
                (record.file, parent or ""), parent if out.parent_request_id else out.request_id
            )
            assert session is not None
            root[record.file, out.request_id] = out.session_id = session
            out.session_kind = "explicit"
            turn = count(row.get("turn"), "turn", out.quality)
            out.turn_index = None if turn is None else max(0, turn - 1)
            kind = text(row.get("type"))
            out.app = kind
        except BadRecord as bad:
            yield record, bad
        else:
            yield record, out
