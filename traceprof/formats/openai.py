"""OpenAI-shaped logs: chat and text completion bodies, alone or wrapped with their answer, times and ids.

What stands around the bodies is read by `pairs`, the bodies by `bodies.openai`.
"""

from __future__ import annotations

from typing import Any

from traceprof.bodies import openai
from traceprof.formats import pairs
from traceprof.formats.base import Has

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.TEXT | Has.TOKENS | Has.OUTPUTS | Has.SESSIONS
summary = "chat and text completion bodies, alone or with their answer, times and ids under the names loggers use (JSONL)"

read = pairs.read


def detect(record: dict[str, Any]) -> bool:
    """Whether the record is, or directly holds, a chat or text completion body."""
    return pairs.is_pair(record, openai)
