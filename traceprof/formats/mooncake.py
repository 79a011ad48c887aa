"""Mooncake traces: `timestamp` (ms), `input_length`, `output_length`, `hash_ids` of prefix-chained 512-token blocks.

Ids are comparable within one file; the last, partial block has an id. Replayers add `session_id` and, in place of the time of a later
turn, `delay` (ms after the turn before it ended), and know some fields by other names.
Source: kvcache-ai/Mooncake 3b5a594, FAST25-release; ai-dynamo/dynamo 3962252, docs/benchmarks/mocker-trace-replay.md.
"""

from __future__ import annotations

from typing import Any

from traceprof.formats.base import BadRecord, Has, Request, count, epoch_us, first_of, hashes, offset_us, text

has = Has.ARRIVALS | Has.LENGTHS | Has.BLOCKS | Has.SESSIONS
summary = "Mooncake block-hash traces, 512 tokens or `--block-size` (JSONL)"
options = {"block_size": 512}
hash_scope = "file"


def detect(record: dict[str, Any]) -> bool:
    """Lengths and hash_ids at a time or after a delay, and none of the keys of its relatives."""
    return (
        "hash_ids" in record
        and not _RELATIVES & record.keys()
        and bool(_TIMES & record.keys())
        and bool(_LENGTHS & record.keys())
    )


_TIMES = {"timestamp", "created_time", "delay", "delay_ms"}
_LENGTHS = {"input_length", "input_tokens"}
_RELATIVES = {"chat_id", "request_id", "wait_for", "prefix_reset", "img_ids"}


def read(record: dict[str, Any], block_size: int = 512) -> Request:
    """One request, known by its block hashes."""
    out = block_row(record, block_size)
    out.hash_scheme = "mooncake-remap"
    session = text(record.get("session_id"))
    if session is not None:
        out.session_id, out.session_kind = session, "explicit"
    timed(out, first_of(record, ("timestamp", "created_time")), first_of(record, ("delay", "delay_ms")))
    return out


def timed(out: Request, stamp: Any, delay: Any) -> None:
    """Fill when a request of a replay trace is sent: at a time (ms from the start, or since 1970), or after a delay (ms).

    Of a request that only waits for the turn before it, the order is known and no time.
    """
    if delay is not None:
        out.delay_after_parent_us = offset_us(delay, "delay", 1e3)
    if stamp is None and delay is not None:
        out.clock, out.arrival_quality = "order_only", "none"
        return
    out.arrival_quality, out.arrival_resolution_us = "measured", 1_000
    if isinstance(stamp, str) and len(stamp) > 12 and stamp.isdecimal():
        stamp = int(stamp)
    if isinstance(stamp, (int, float)) and 1e11 < stamp < 9e18:
        out.clock, out.arrival_us = "absolute", epoch_us(stamp, "timestamp")
    else:
        out.clock, out.arrival_us = "relative", offset_us(stamp, "timestamp", 1e3)


def length_row(record: dict[str, Any], inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Request:
    """A row that tells of its prompt and answer no more than their lengths, under the first of these names."""
    tokens = count(first_of(record, inputs), "input_length")
    if tokens is None:
        raise BadRecord("missing_field", "no input_length")
    return Request(
        status="ok",
        content_level="lengths",
        content_state="absent",
        input_tokens=tokens,
        output_tokens=count(first_of(record, outputs), "output_length"),
        tokens_source="trace",
    )


def block_row(record: dict[str, Any], block_size: int) -> Request:
    """What Mooncake and Qwen rows share: lengths and block hashes, the last block possibly partial."""
    ids = hashes(record.get("hash_ids"))
    tokens = count(first_of(record, ("input_length", "input_tokens")), "input_length")
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
        output_tokens=count(first_of(record, ("output_length", "output_tokens")), "output_length"),
        tokens_source="trace",
        block_hashes=ids,
        block_size=block_size,
        last_block_partial=whole,
        quality=[] if whole else ["tail_without_hash"],
    )
