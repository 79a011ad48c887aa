"""Bedrock Converse logs: bodies alone, or request and response pairs, in the wrappers that loggers use."""

from __future__ import annotations

from typing import Any

from traceprof.bodies import converse
from traceprof.formats import pairs
from traceprof.formats.base import Has

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.TEXT | Has.OUTPUTS | Has.SESSIONS
summary = "Bedrock Converse bodies, alone or with their answer, times and ids as for `openai` (JSONL)"

read = pairs.read


def detect(record: dict[str, Any]) -> bool:
    """Whether the record is, or directly holds, a Converse body."""
    return pairs.is_pair(record, converse)
