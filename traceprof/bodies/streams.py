"""Streamed answers as loggers keep them: server-sent events as text, JSON lines as text, or a list of chunks.

Each dialect that streams has `is_chunk(chunk)` and `join(chunks) -> body`; `bodies.answer` puts a stream together by them.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

_BREAK = re.compile(r"\r\n|\n|\r")


class Streamed(dict[str, Any]):
    """An answer that was put together from the chunks of a stream."""


def chunks(value: Any) -> list[dict[str, Any]]:
    """The chunks of a stream, in order; none when the value is no stream.

    >>> chunks('event: x\\ndata: {"a": 1}\\n\\ndata: [DONE]\\n')
    [{'a': 1}]
    """
    if isinstance(value, str):
        value = _events(value)
    if not isinstance(value, list):
        return []
    found: list[dict[str, Any]] = []
    torn = False  # a piece is no whole event: the logger kept what the network gave it
    for piece in value:
        one = _parsed(piece) if isinstance(piece, (str, bytes)) else [piece]
        torn = torn or not (one or not isinstance(piece, str) or piece.isspace() or "[DONE]" in piece)
        found.extend(c for c in one if isinstance(c, dict))
    if torn and all(isinstance(piece, str) for piece in value):
        whole = [c for c in _events("".join(value)) if isinstance(c, dict)]
        return max(found, whole, key=len)
    return found


def _events(text: str) -> list[Any]:
    """The payloads of server-sent events, or the values of JSON lines."""
    lines = _BREAK.split(text)  # not splitlines(): a text may hold U+2028 and the like
    first = next((line for line in lines if line.strip()), "")
    if first.startswith(("data:", "event:", "id:", "retry:", ":")):
        out: list[Any] = []
        payload: list[str] = []
        for line in (*lines, ""):
            if line.startswith("data:"):
                payload.append(line[5:].removeprefix(" "))
            elif not line.strip() and payload:
                whole = _one("\n".join(payload))
                out.extend(whole if whole else (v for one in payload for v in _one(one)))
                payload = []
        return out
    if first.startswith("{"):
        return [value for line in lines for value in _one(line)]
    return []


def _parsed(piece: str | bytes) -> list[Any]:
    if isinstance(piece, bytes):
        piece = piece.decode("utf-8", "replace")
    return _one(piece) or _events(piece)


def _one(text: str) -> list[Any]:
    try:
        return [orjson.loads(text)]
    except orjson.JSONDecodeError:
        return []
