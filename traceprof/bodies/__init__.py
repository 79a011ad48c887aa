"""What providers' request and answer bodies mean: one module a dialect.

A dialect has `is_request(body)`, `is_response(body)`, `read_request(out, body)` and `read_response(out, body)`, which
fill a `Request`: messages, tools and outputs as canonical OpenAI-like JSON, counts with the cached part included. A dialect
that streams has `is_chunk(chunk)` and `join(chunks)`, which makes one answer of a stream's chunks.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import orjson

from traceprof.bodies import anthropic, openai, responses, streams
from traceprof.formats.base import Request, first_of, status_of_http, text

# in the order in which they are asked: those with distinguishing keys first
_DIALECTS = (anthropic, responses, openai)


def of_request(body: dict[str, Any]) -> ModuleType | None:
    """The dialect of a request body; None when it is no request for text."""
    for dialect in _DIALECTS:
        if dialect.is_request(body):
            return dialect
    return None


def of_response(body: dict[str, Any]) -> ModuleType | None:
    """The dialect of an answer; None when it is none."""
    for dialect in _DIALECTS:
        if dialect.is_response(body):
            return dialect
    return None


def of_pair(request: ModuleType, response: dict[str, Any] | None) -> ModuleType:
    """The dialect of a request whose body alone may be OpenAI's or Anthropic's: its answer tells."""
    if request is not openai or response is None or "choices" in response:
        return request
    return anthropic if anthropic.is_response(response) else request


def read_response(out: Request, body: dict[str, Any], asked: ModuleType) -> None:
    """Fill the answer; one that no dialect knows (an error, say) is read as the dialect that was asked in would.

    A stream whose chunks end without a finish reason was cut: its status is `incomplete`.
    """
    (of_response(body) or asked).read_response(out, body)
    if isinstance(body, streams.Streamed):
        out.stream = True
        if out.finish_reason is None and out.status in ("ok", "unknown"):
            out.status = "incomplete"


def decoded(value: Any) -> Any:
    """JSON in a string, also in a string in a string; any other value, and a text that is not JSON, as it is."""
    for _ in range(3):
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "[", '"'):
            break
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            break
    return value


def as_object(value: Any) -> dict[str, Any] | None:
    """An object as it is, or out of JSON text; None for anything else."""
    value = decoded(value)
    return value if isinstance(value, dict) else None


def answer(value: Any) -> dict[str, Any] | None:
    """An answer: an object, JSON text of one, or a stream (server-sent events, JSON lines, a list of chunks) put together."""
    value = decoded(value)
    if isinstance(value, dict):
        return value
    pieces = streams.chunks(value)
    for dialect in _DIALECTS:
        if any(map(dialect.is_chunk, pieces)):
            return streams.Streamed(dialect.join(pieces))
    return None


def other_kind(body: Any) -> str | None:
    """What a body asks for that generates no text: embedding, rerank, moderation, image, audio; None otherwise."""
    if not isinstance(body, dict):
        return None
    model = str(body.get("model") or "").lower()
    if "rerank" in model or ("documents" in body and "query" in body):
        return "rerank"
    if "moderation" in model:
        return "moderation"
    if "input" in body and ("embed" in model or "encoding_format" in body or "dimensions" in body):
        return "embedding"
    if "tts" in model or "whisper" in model or ("voice" in body and "input" in body):
        return "audio"
    if "dall-e" in model or "gpt-image" in model or ("prompt" in body and "size" in body):
        return "image"
    return None


def settle(out: Request, error: Any) -> None:
    """Fill status and kind of error from the error that an answer reports and its HTTP status."""
    if error:
        out.status = "error"
        kind = first_of(error, ("type", "code")) if isinstance(error, dict) else None
        out.error_type = text(kind) or "error"
    by_http = status_of_http(out.http_status)
    if by_http is not None and (by_http != "ok" or out.status == "unknown"):
        out.status = by_http
