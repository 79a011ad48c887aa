"""ShareGPT conversations: `conversations: [{from, value}]`, expanded to one request a model turn.

Ids such as `abc_0` and `abc_11` are parts of one long chat, cut by the data set's makers; each part stands alone.
No times, no token counts. Some parts are empty and many begin with a model turn.
"""

from __future__ import annotations

from typing import Any

from traceprof.formats.base import BadRecord, Has, Request, Skip, text
from traceprof.formats.conversation import expand

has = Has.TEXT | Has.OUTPUTS | Has.SESSIONS
summary = "ShareGPT conversations, one request a model turn (JSON, JSONL)"

_ROLE = {
    "human": "user", "user": "user", "system": "system", "tool": "tool", "observation": "tool",
    "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant", "assistant": "assistant",
    "function_call": "assistant", "model": "assistant",
}  # fmt: skip


def detect(record: dict[str, Any]) -> bool:
    """`conversations` as a list whose turns have `from` and `value` (or an empty one, with an id)."""
    turns = record.get("conversations")
    return isinstance(turns, list) and (not turns or (isinstance(turns[0], dict) and "from" in turns[0]))


def read(record: dict[str, Any]) -> Request | Skip | list[Request | Skip]:
    """One request a model turn."""
    turns = record.get("conversations")
    if not isinstance(turns, list):
        raise BadRecord("missing_field", "no list of conversations")
    out = []
    for i, turn in enumerate(turns):
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise BadRecord("wrong_type", f"turn {i} has no text in `value`")
        role = _ROLE.get(str(turn.get("from")))
        if role is None:
            raise BadRecord("unknown_role", f"turn {i} is from {str(turn.get('from'))[:40]!r}")
        out.append({"role": role, "content": turn["value"]})
    return expand(out, text(record.get("id")))
