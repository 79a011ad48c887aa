"""Agentic Mooncake, the trace of Dynamo's replay: Mooncake rows as a graph of requests, in two versions.

Version 1 names what a row waits for (`wait_for`, ids; `branches` says the same from the other side), and how long after the last of them
it starts: `delay` of the agent and `tool_wait_ms`; `timestamp` (ms) is when it was recorded to start. The block size is not in the file
(512, or --block-size). Version 2 begins with a header (`schema`, `block_size`), and its rows have `not_before_ms` and typed
`dependencies`; hash ids are those of one play. The parent is the request before in the same conversation, else what spawned it.
Source: ai-dynamo/dynamo, lib/data-gen/src/mooncake.rs (AgenticMooncakeRow, versions 1 and 2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from traceprof.formats.base import (
    Has,
    Request,
    Result,
    Skip,
    attempt,
    elapsed,
    first_of,
    text,
)
from traceprof.formats.mooncake import block_row, length_row, timed

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.BLOCKS | Has.OUTPUTS | Has.SESSIONS
summary = "agentic Mooncake traces of Dynamo's replay, versions 1 and 2 (JSONL)"
options = {"block_size": 512}
hash_scope = "file"
one_process = True  # a header tells how the rows below it are meant

SCHEMA = "dynamo.agentic_mooncake"

_GRAPH = {"wait_for", "branches", "prefix_reset", "tool_wait_ms", "not_before_ms"}


def detect(record: dict[str, Any]) -> bool:
    """The header, or a named request with lengths that has block hashes or stands in a graph."""
    if record.get("schema") == SCHEMA:
        return True
    if "request_id" not in record or not {"input_length", "input_tokens"} & record.keys():
        return False
    return bool(_GRAPH & record.keys()) or (
        "hash_ids" in record and not {"img_ids", "chat_id"} & record.keys()
    )


def read_all(records: Iterable[Any], block_size: int = 512) -> Iterator[tuple[Any, Result]]:
    """All rows in order, each read as the last header above it in its file says."""
    file: str | None = None
    header: dict[str, Any] = {}
    for record in records:
        if record.file != file:
            file, header = record.file, {}
        if record.value.get("schema") == SCHEMA:
            header = record.value
            yield record, Skip("header")
        else:
            yield record, attempt(_request, record.value, header, block_size)


def _request(row: dict[str, Any], header: dict[str, Any], block_size: int) -> Request:
    size = header.get("block_size")
    out = _prompt(row, size if type(size) is int and size > 0 else block_size)
    out.request_id = text(row.get("request_id"))
    session = text(row.get("session_id"))
    out.session_id, out.session_kind = session, "explicit" if session else None
    out.model_requested = text(row.get("model"))
    out.trace_id = text(row.get("play_id"))
    ids = row.get("output_token_ids")
    if isinstance(ids, list) and all(type(i) is int and 0 <= i < 2**32 for i in ids):
        out.output_ids = ids
    if "not_before_ms" in row:
        if out.block_hashes is not None:
            out.hash_scope = out.trace_id
        timed(out, row["not_before_ms"], None)
        source = header.get("source")
        if isinstance(source, dict) and "weka" in str(source.get("format")):
            out.clock = "session"  # the plays of such a file each count from their own start
        out.e2e_us = elapsed(row.get("recorded_api_time_ms"), "recorded_api_time_ms", 1e3, out.quality)
        if out.e2e_us is not None and out.arrival_us is not None:
            out.end_us = out.arrival_us + out.e2e_us
        _dependencies(out, row)
    else:
        _waits(out, row)
    return out


def _prompt(row: dict[str, Any], block_size: int) -> Request:
    if row.get("hash_ids") is not None:
        out = block_row(row, block_size)
        out.hash_scheme = "mooncake-remap"
        return out
    return length_row(row, ("input_length", "input_tokens"), ("output_length", "output_tokens"))


def _waits(out: Request, row: dict[str, Any]) -> None:
    """Version 1: a row starts `delay` plus `tool_wait_ms` after the last that it waits for."""
    stamp = first_of(row, ("timestamp", "created_time"))
    delay = first_of(row, ("delay", "delay_ms"))
    waited = elapsed(row.get("tool_wait_ms"), "tool_wait_ms", 1e3, out.quality)
    if stamp is None and delay is None and waited is None:
        out.clock, out.arrival_quality = "order_only", "none"
    else:
        timed(out, stamp, delay if delay is not None or waited is None else 0)
    if waited is not None:
        out.delay_after_parent_us = (out.delay_after_parent_us or 0) + waited
    before = row.get("wait_for")
    if isinstance(before, list) and before:
        out.parent_request_id = text(before[0])
        if len(before) > 1 and out.delay_after_parent_us is not None:
            out.quality.append("delay_after_join")  # of the last that ended, whichever that was


def _dependencies(out: Request, row: dict[str, Any]) -> None:
    """Version 2: what a row follows in its conversation, else what spawned it."""
    found = row.get("dependencies")
    edges = [edge for edge in found if isinstance(edge, dict)] if isinstance(found, list) else []
    for relation in ("sequence", "spawn"):
        edge = next((e for e in edges if e.get("relation") == relation), None)
        if edge is not None:
            out.parent_request_id = text(edge.get("request_id"))
            if edge.get("trigger") == "completion":
                out.delay_after_parent_us = elapsed(edge.get("delay_ms"), "delay_ms", 1e3, out.quality)
            return
