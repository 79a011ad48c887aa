"""OpenAI-shaped logs: chat and text completion bodies, alone or wrapped with their answer, times and ids.

What stands around the bodies is read by `pairs`, the bodies by `bodies.openai`.
"""

from __future__ import annotations

from typing import Any

from traceprof import bodies
from traceprof.bodies import openai
from traceprof.formats import pairs
from traceprof.formats.base import Has

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.TEXT | Has.TOKENS | Has.OUTPUTS | Has.SESSIONS
summary = "chat and text completion bodies, alone or with their answer, times and ids under the names loggers use (JSONL)"

read = pairs.read


def detect(record: dict[str, Any]) -> bool:
    """Whether the record is, or directly holds, a chat or text completion body."""
    found = pairs.find(record)
    if found is None or bodies.of_pair(found.dialect, pairs.answer(record, found)) is not openai:
        return False
    return found.cut is not None or _asks(found.body)


def _asks(body: dict[str, Any]) -> bool:
    """Whether it is for a model: translations, linters' reports and exports of chats have `messages` too, without roles."""
    said = body.get("messages")
    if "messages" not in body or isinstance(body.get("model"), str):
        return True
    return isinstance(said, list) and any(isinstance(one, dict) and "role" in one for one in said)
