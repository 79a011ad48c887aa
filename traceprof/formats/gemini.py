"""Gemini logs: generateContent bodies alone, or request and response pairs, in the wrappers that loggers use."""

from __future__ import annotations

from typing import Any

from traceprof.bodies import gemini
from traceprof.formats import pairs
from traceprof.formats.base import Has

has = Has.ARRIVALS | Has.LENGTHS | Has.TEXT | Has.OUTPUTS
summary = "Gemini bodies, alone or with their answer, times and ids as for `openai` (JSONL)"

read = pairs.read


def detect(record: dict[str, Any]) -> bool:
    """Whether the record is, or directly holds, a generateContent body."""
    return pairs.is_pair(record, gemini)
