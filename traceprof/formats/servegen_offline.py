"""Offline traces of ServeGen (ACDC): batch jobs of Alibaba Cloud, in the order of the submitted file, without arrivals.

Two kinds: block hashes of 16 tokens with image ids and no output, or both lengths and `duration` (ms). Hash ids are one namespace over
all files; request_id counts within one job, so it names no request. Source: alibaba/ServeGen d70c8b2, data/offline.
"""

from __future__ import annotations

import hashlib
from typing import Any

from traceprof.formats.base import Has, Request, elapsed
from traceprof.formats.mooncake import block_row, length_row

has = Has.LENGTHS | Has.BLOCKS
summary = "ServeGen offline traces: batch jobs as 16-token block hashes, or as lengths and durations (JSONL)"


def detect(record: dict[str, Any]) -> bool:
    """A request of a job by its modality, with hashes and images, or with a duration."""
    if not {"request_id", "type", "input_length"} <= record.keys():
        return False
    return {"hash_ids", "img_ids"} <= record.keys() or {"output_length", "duration"} <= record.keys()


def read(record: dict[str, Any]) -> Request:
    """One request of a batch job."""
    if "hash_ids" in record:
        out = block_row(record, 16)
        out.hash_scheme, out.hash_scope = "siphash-remap", "servegen-offline"
    else:
        out = length_row(record, ("input_length",), ("output_length",))
        out.e2e_us = elapsed(record.get("duration"), "duration", 1e3, out.quality)
    out.clock, out.arrival_quality = "order_only", "none"
    images = record.get("img_ids")
    if isinstance(images, list) and images:
        out.media = [_image(str(name)) for name in images]
    return out


def _image(name: str) -> dict[str, Any]:
    """An image that only its name is known of; the same name is the same image."""
    digest = hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=8).digest()
    return {"kind": "image", "count": 1, "bytes": None, "hash": int.from_bytes(digest, "little")}
