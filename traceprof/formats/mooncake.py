"""Mooncake traces: `timestamp` (ms), `input_length`, `output_length`, `hash_ids` of prefix-chained 512-token blocks.

Ids are comparable within one file; the last, partial block has an id. Source: kvcache-ai/Mooncake, FAST25-release.
"""

from __future__ import annotations

from typing import Any

from traceprof.formats.base import BadRecord, Has, Request, count, hashes, offset_us

has = Has.ARRIVALS | Has.LENGTHS | Has.BLOCKS
summary = "Mooncake block-hash traces, 512 tokens or `--block-size` (JSONL)"
options = {"block_size": 512}
hash_scope = "file"


def detect(record: dict[str, Any]) -> bool:
    """Lengths and hash_ids under a timestamp, and none of the keys of its relatives."""
    return {
        "timestamp",
        "input_length",
        "output_length",
        "hash_ids",
    } <= record.keys() and "chat_id" not in record


def read(record: dict[str, Any], block_size: int = 512) -> Request:
    """One request, known by its block hashes."""
    out = block_row(record, block_size)
    out.arrival_us = offset_us(record.get("timestamp"), "timestamp", 1e3)
    out.arrival_resolution_us = 1_000
    out.hash_scheme = "mooncake-remap"
    return out


def block_row(record: dict[str, Any], block_size: int) -> Request:
    """What Mooncake and Qwen rows share: lengths and block hashes, the last block possibly partial."""
    ids = hashes(record.get("hash_ids"))
    tokens = count(record.get("input_length"), "input_length")
    if tokens is None:
        raise BadRecord("missing_field", "no input_length")
    if len(ids) > -(-tokens // block_size):
        raise BadRecord(
            "length_mismatch",
            f"{len(ids)} blocks of {block_size} tokens for a prompt of {tokens}: give the trace's --block-size",
        )
    whole = len(ids) == -(-tokens // block_size)
    return Request(
        clock="relative",
        arrival_quality="measured",
        content_level="hashes",
        status="ok",
        input_tokens=tokens,
        output_tokens=count(record.get("output_length"), "output_length"),
        tokens_source="trace",
        block_hashes=ids,
        block_size=block_size,
        last_block_partial=whole,
        quality=[] if whole else ["tail_without_hash"],
    )
