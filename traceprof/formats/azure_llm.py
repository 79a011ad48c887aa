"""Azure LLM inference traces of 2023 and 2024 (and LMM 2025): TIMESTAMP, ContextTokens, GeneratedTokens.

Times are wall clock to 100 ns without a zone (2023, 2025) or with +00:00 and no fraction where it is zero (2024); no prompts,
no ends. NumImages (2025) counts images whose content nobody knows. Source: Azure/AzurePublicDataset b469a11.
"""

from __future__ import annotations

from typing import Any

from traceprof.formats.base import BadRecord, Has, Request, count, parse_time

has = Has.ARRIVALS | Has.LENGTHS
summary = "Azure LLM inference traces 2023 and 2024, and multimodal 2025 (CSV)"


def detect(record: dict[str, Any]) -> bool:
    """The three columns of the data set."""
    return {"TIMESTAMP", "ContextTokens", "GeneratedTokens"} <= record.keys()


def read(record: dict[str, Any]) -> Request:
    """One request, known by its lengths."""
    tokens = count(record.get("ContextTokens"), "ContextTokens")
    if tokens is None:
        raise BadRecord("missing_field", "no ContextTokens")
    if not record.get("TIMESTAMP"):
        raise BadRecord("missing_field", "no TIMESTAMP")
    arrival, naive = parse_time(record["TIMESTAMP"], "TIMESTAMP")
    flags = ["tz_assumed"] if naive else []
    images = count(record.get("NumImages"), "NumImages", flags)
    return Request(
        clock="absolute",
        arrival_us=arrival,
        arrival_quality="measured",
        content_level="lengths",
        content_state="absent",
        status="ok",
        input_tokens=tokens,
        output_tokens=count(record.get("GeneratedTokens"), "GeneratedTokens"),
        tokens_source="trace",
        media=[{"kind": "image", "count": images, "bytes": None, "hash": None}] if images else None,
        quality=flags,
    )
