"""What providers' request and answer bodies mean: one module a dialect.

A dialect has `is_request(body)`, `is_response(body)`, `read_request(out, body)` and `read_response(out, body)`, which
fill a `Request`: messages, tools and outputs as canonical OpenAI-like JSON, counts with the cached part included. A dialect
that streams has `is_chunk(chunk)` and `join(chunks)`, which makes one answer of a stream's chunks.
"""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

import orjson

from traceprof.bodies import anthropic, converse, gemini, ollama, openai, responses, sglang, streams, tgi
from traceprof.formats.base import Read, Request, Skip, cut_state, status_of_http, text

# in the order in which they are asked: those with distinguishing keys first
_DIALECTS = (gemini, converse, anthropic, responses, ollama, tgi, sglang, openai)


def of_request(body: dict[str, Any]) -> ModuleType | None:
    """The dialect of a request body; None when it is no request for text, such as one for an image of some size."""
    for dialect in _DIALECTS:
        if dialect.is_request(body):
            drawn = dialect is openai and "messages" not in body and other_kind(body) is not None
            return None if drawn else dialect
    return None


def of_response(body: dict[str, Any]) -> ModuleType | None:
    """The dialect of an answer; None when it is none."""
    for dialect in _DIALECTS:
        if dialect.is_response(body):
            return dialect
    return None


def of_pair(request: ModuleType, response: dict[str, Any] | None) -> ModuleType:
    """The dialect of a request whose body alone may be OpenAI's or another's: its answer tells."""
    if request is not openai or response is None or "choices" in response:
        return request
    return next((other for other in (anthropic, ollama) if other.is_response(response)), request)


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
    if isinstance(value, list) and len(pieces) == 1 and of_response(pieces[0]) is not None:
        return pieces[0]  # an answer alone in a list
    return None


def exchange(out: Request, sent: Any, got: Any, usage: dict[str, Any] | None = None) -> Read:
    """Fill a request from the two bodies that a gateway kept; a Skip when what was sent asks for no text.

    Whatever else the record says is filled before. A body that is not there leaves the prompt absent, one that is no whole
    JSON was cut. `usage`, shaped as OpenAI's, is what the record itself counts: it holds where the answer counts nothing.
    """
    body, reply = decoded(sent), answer(got)
    asked = of_request(body) if isinstance(body, dict) else None
    if asked is not None:
        asked = of_pair(asked, reply)
        asked.read_request(out, body)
    elif isinstance(body, dict) and body:
        return Skip(other_kind(body) or "not_a_generation")
    else:
        out.content_level = "lengths"
        out.content_state = "truncated" if isinstance(body, str) and body.strip() else "absent"
    if reply is not None:
        read_response(out, reply, asked or openai)
    elif isinstance(got, str) and got.lstrip()[:1] in ("{", "["):
        out.quality.append("output_truncated")
    counts = [usage.get(key) for key in ("prompt_tokens", "completion_tokens")] if usage else []
    counted = any(c not in (None, 0, "0", "") for c in counts)  # gateways write 0 where they do not know
    if counted and out.input_tokens is None and out.output_tokens is None:
        openai.read_usage(out, usage)
    settle(out, (reply or {}).get("error"))
    return openai.sequences(out, body, reply) if asked is openai else cut_state(out)


def other_kind(body: Any) -> str | None:
    """What a body asks for that generates no text: embedding, rerank, moderation, image, video, audio; None otherwise."""
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
    if model.startswith("sora"):
        return "video"
    pictured = _SIZE.fullmatch(str(body.get("size"))) or body.get("response_format") in ("b64_json", "url")
    if (
        "dall-e" in model
        or "gpt-image" in model
        or ("prompt" in body and "messages" not in body and pictured)
    ):
        return "image"
    return None


_SIZE = re.compile(r"\d+x\d+|auto|\d+K")


def settle(out: Request, error: Any) -> None:
    """Fill status and kind of error from the error that an answer reports and its HTTP status."""
    if error:
        out.status = "error"
        words = [error.get(key) for key in ("type", "code", "status")] if isinstance(error, dict) else []
        words = [w for w in words if w is not None]
        kind = next((w for w in words if isinstance(w, str) and w), words[0] if words else None)
        out.error_type = text(kind) or out.error_type or "error"
    by_http = status_of_http(out.http_status)
    if by_http is not None and (by_http != "ok" or out.status == "unknown"):
        out.status = by_http
