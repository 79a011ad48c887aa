"""What the bytes of an answer mean: when its tokens came, what it said, how it ended, what it counted.

One reader for streams (SSE, JSON lines) and whole bodies, since servers answer a stream with a whole error and the other way
round. Dialects, by what their events look like:

chat          OpenAI chat completions: `choices[].delta`, or `choices[].message` at once
completions   OpenAI completions: `choices[].text`
responses     OpenAI Responses: typed events, `response.completed` last
messages      Anthropic messages: typed events, `message_stop` last
ollama        Ollama's /api/chat and /api/generate: JSON lines, `done` on the last
tgi           TGI's /generate_stream and /generate: `token`, `generated_text` on the last
lmdeploy      LMDeploy's /generate: `text`, `meta_info.finish_reason` on the last

An event counts as received when the last byte of its data was. Nothing that a server sends makes a reader raise.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import orjson

TOLD, NULL, ABSENT = "told", "null", "absent"
_FOREIGN = re.compile(rb"^(?!:|data|event|id|retry)[ \t]*[^\s]", re.MULTILINE)
"""A line that is none of a stream of events."""


class Received(NamedTuple):
    """What one receive of the socket gave, in order."""

    data: bytes  # bytes of the body, transfer coding removed
    at_us: int  # us since the run's start


class Answer(NamedTuple):
    """The columns of `traceprof.schema.RESULT_REQUESTS` that a body tells, and what was said."""

    outcome: str  # ok, http_error, stream_error, malformed or empty
    error_type: str | None  # type or code of the error, never its message
    first_token_us: int | None  # first non-empty content, reasoning or tool delta
    last_token_us: int | None
    chunk_us: list[int]  # of each event that carried some
    chunk_chars: list[int]
    finish_reason: str | None
    input_tokens: int | None  # whole prompt, cached part included
    output_tokens: int | None
    reasoning_tokens: int | None
    cached_tokens: int | None
    cached_state: str  # told, null or absent
    tokens_source: str  # usage or none
    text: str  # content of the first choice
    reasoning: str  # its thoughts
    tool_calls: list[dict[str, Any]]  # as OpenAI's message has them


def read_answer(dialect: str, status: int, content_type: str, received: Sequence[Received]) -> Answer:
    """What a response says, from the bytes of its body in the order of their arrival.

    >>> event = b'data: {"choices": [{"delta": {"content": "hi"}, "finish_reason": "stop"}]}'
    >>> read_answer("chat", 200, "text/event-stream", [Received(event[:9], 5), Received(event[9:], 7)])[:6]
    ('ok', None, 7, 7, [7], [2])
    """
    body = b"".join(piece.data for piece in received)
    reading = _Reading()
    if not 200 <= status < 300:
        reading.failed = ("http_error", _error_type(_load(body)))
        return reading.answer()
    ends = list(accumulate(len(piece.data) for piece in received))
    read = _READERS[dialect]
    for name, data, end in _events(body, content_type):
        if data == b"[DONE]":
            reading.ended = True
            continue
        event = _load(data)
        if not isinstance(event, dict):
            reading.fail("malformed", "not_json")
            continue
        reading.events += 1
        before = reading.chars
        try:
            if name == "error" or _is_error(event):
                reading.fail("stream_error", _error_type(event))
            else:
                read(reading, event)
        except _ShapeError:
            reading.fail("malformed", "wrong_shape")
        if reading.chars > before:
            reading.chunk_us.append(received[bisect_left(ends, end)].at_us)
            reading.chunk_chars.append(reading.chars - before)
    if not reading.events and _FOREIGN.search(body):
        reading.fail("malformed", "no_stream")
    return reading.answer()


def output_hash(answer: Answer) -> int | None:
    """A hash of 64 bits of all that was said, so that two engines' answers can be compared without keeping them."""
    calls = [call["function"] for call in answer.tool_calls]
    if not (answer.text or answer.reasoning or calls):
        return None
    said = json.dumps([answer.text, answer.reasoning, calls])
    return int.from_bytes(hashlib.blake2b(said.encode(), digest_size=8).digest(), "little")


def message_of(answer: Answer) -> dict[str, Any]:
    """The assistant's message that a next turn carries: content and tool calls, as clients send them back."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text}
    if answer.tool_calls:
        message["tool_calls"] = answer.tool_calls
    return message


# ---- a body as events


def _events(body: bytes, content_type: str) -> Iterator[tuple[str, bytes, int]]:
    """(name, data, where its last byte ends) of each event of a stream, or of a whole body as its only one."""
    head = body.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if head in (b"{", b"["):
        yield from _json_events(body)
    elif "json" in content_type and head:
        yield "", body, len(body)
    else:
        yield from _sse_events(body)


def _json_events(body: bytes) -> Iterator[tuple[str, bytes, int]]:
    whole = body.strip(b"\xef\xbb\xbf \t\r\n")
    value = _load(whole)
    if isinstance(value, list):  # TGI answers a list of one
        for item in value:
            yield "", orjson.dumps(item) if isinstance(item, dict) else b"", len(body.rstrip())
        return
    if value is not None:
        yield "", whole, len(body.rstrip())
        return
    at = 0
    for line in body.splitlines(keepends=True):
        data = line.strip(b"\xef\xbb\xbf \t\r\n")
        if data:
            yield "", data, at + len(line.rstrip())
        at += len(line)


def _sse_events(body: bytes) -> Iterator[tuple[str, bytes, int]]:
    """Server-sent events as the HTML standard cuts them; the last may lack its empty line."""
    name, data, end, at = "", [], 0, 0
    for line in body.splitlines(keepends=True):
        content = line.rstrip(b"\r\n")
        if content.startswith(b"data:"):
            value = content[6:] if content.startswith(b"data: ") else content[5:]
            data.append(value)
            if value:
                end = at + len(content)
        elif content.startswith(b"event:"):
            name = content[6:].strip().decode("utf-8", "replace")
        elif not content and data:
            yield from _event(name, data, end)
            name, data = "", []
        elif not content:
            name = ""
        at += len(line)
    if data:
        yield from _event(name, data, end)


def _event(name: str, data: list[bytes], end: int) -> Iterator[tuple[str, bytes, int]]:
    value = b"\n".join(data).strip()
    if value:
        yield name, value, end


def _load(data: bytes) -> Any:
    """A JSON value; None when it is none. Python's own reader takes NaN and lone surrogates, which servers do send."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        try:
            return json.loads(data.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            return None


# ---- what the events add up to


class _ShapeError(Exception):
    """A field that is not what its dialect says."""


class _Reading:
    """What has been read of an answer so far."""

    def __init__(self) -> None:
        self.events = self.chars = 0
        self.chunk_us: list[int] = []
        self.chunk_chars: list[int] = []
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.calls: dict[Any, dict[str, Any]] = {}
        self.finish: str | None = None
        self.ended = False
        self.failed: tuple[str, str | None] | None = None
        self.input: int | None = None
        self.output: int | None = None
        self.hidden: int | None = None
        self.cached: int | None = None
        self.cached_state = ABSENT
        self.counted = False
        self.usage: dict[str, Any] = {}  # of Anthropic's events, merged

    def fail(self, outcome: str, error_type: str | None) -> None:
        """Keep the first failure; one that the server tells of before one that only we see."""
        if self.failed is None or (self.failed[0] == "malformed" and outcome == "stream_error"):
            self.failed = (outcome, error_type)

    def say(self, text: Any, to: list[str] | None = None, first: bool = True) -> None:
        """Take a piece of content; only the first choice's is kept."""
        if text is None:
            return
        if not isinstance(text, str):
            raise _ShapeError
        self.chars += len(text)
        if text and first:
            (self.text if to is None else to).append(text)

    def call(self, key: Any, told: dict[str, Any], first: bool = True) -> None:
        """Take a piece of a tool call: `id`, `name`, `arguments`, each as far as it is there."""
        name, arguments = told.get("name"), told.get("arguments")
        if isinstance(arguments, dict | list):
            arguments = orjson.dumps(arguments).decode()
        if not isinstance(name, str | None) or not isinstance(arguments, str | None):
            raise _ShapeError
        self.chars += len(name or "") + len(arguments or "")
        if not first:
            return
        made = self.calls.setdefault(
            key, {"id": None, "type": "function", "function": {"name": "", "arguments": ""}}
        )
        if isinstance(told.get("id"), str):
            made["id"] = told["id"]
        made["function"]["name"] += name or ""
        made["function"]["arguments"] += arguments or ""

    def finished(self, reason: Any) -> None:
        """Take the reason of the end; two of them mean that the server gave up."""
        if isinstance(reason, dict):
            reason = reason.get("type")
        if not isinstance(reason, str) or not reason:
            return
        self.finish, self.ended = reason[:64], True
        if reason in ("error", "abort"):
            self.fail("stream_error", reason)

    def counts(self, input_: Any, output: Any) -> None:
        """Take token counts; a later event's are better."""
        self.input = _count(input_, self.input)
        self.output = _count(output, self.output)
        self.counted = self.input is not None or self.output is not None

    def cache(self, holder: Any, key: str) -> bool:
        """Take the cached tokens where they are told, and whether they are. Told is never unsaid, null not by absence."""
        if not isinstance(holder, dict) or key not in holder:
            return False
        value = _count(holder[key], None)
        if value is not None:
            self.cached, self.cached_state = value, TOLD
        elif self.cached_state != TOLD:
            self.cached_state = NULL
        return True

    def answer(self) -> Answer:
        """The answer as it stands."""
        outcome, error_type = self.failed or ("ok", None)
        if self.failed is None and not (self.chars or self.finish or self.output):
            outcome = "empty"
        elif self.failed is None and not self.ended:
            outcome, error_type = "malformed", "truncated"
        return Answer(
            outcome, error_type,
            self.chunk_us[0] if self.chunk_us else None, self.chunk_us[-1] if self.chunk_us else None,
            self.chunk_us, self.chunk_chars, self.finish,
            self.input, self.output, self.hidden, self.cached, self.cached_state,
            "usage" if self.counted else "none",
            _whole(self.text), _whole(self.reasoning), list(self.calls.values()),
        )  # fmt: skip


def _whole(pieces: list[str]) -> str:
    """One text of pieces; halves of a character that were sent apart are put together."""
    return "".join(pieces).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _count(value: Any, otherwise: int | None) -> int | None:
    """A count of tokens that fits its column; otherwise, what was known before."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        return otherwise
    return value


# ---- errors


def _is_error(event: dict[str, Any]) -> bool:
    """Whether an event is an error, in any of the shapes that servers give it."""
    if event.get("error") or event.get("object") == "error" or event.get("type") == "error":
        return True
    return "choices" not in event and "message" in event and "code" in event and "type" in event


def _error_type(body: Any) -> str | None:
    """The type or code of an error body; never its message, which may quote the prompt.

    {"error": {"type", "code", "message"}}    most
    {"object": "error", "type", "code"}       SGLang, old vLLM
    {"message", "type", "code"}               Dynamo
    {"error": "text", "error_type"}           TGI; mlx-lm and Ollama give the text alone
    {"detail": [{"type"}]}                    FastAPI
    """
    if isinstance(body, list) and body:
        body = body[0]
    if not isinstance(body, dict):
        return None
    inner = body.get("error")
    detail = body.get("detail")
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):
        inner = detail[0]
    where = inner if isinstance(inner, dict) else body
    told = [where.get("type"), where.get("code"), body.get("error_type"), where.get("status")]
    for value in told:
        word = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if isinstance(word, str) and word not in ("None", "error") and re.fullmatch(r"[\w .:/-]{1,64}", word):
            return word
    return None


# ---- dialects


def _list(value: Any) -> list[dict[str, Any]]:
    """A list of objects, empty where there is none."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise _ShapeError
    return value


def _dict(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _ShapeError
    return value


def _chat(reading: _Reading, event: dict[str, Any]) -> None:
    for i, choice in enumerate(_list(event.get("choices"))):
        number = choice.get("index", i)
        first = number in (0, None)
        said = _dict(choice.get("delta") or choice.get("message"))
        content = said.get("content")
        if isinstance(content, list):  # parts, as some servers send them
            content = "".join(p["text"] for p in _list(content) if isinstance(p.get("text"), str))
        thought = said.get("reasoning_content")  # some send the thought under both names
        reading.say(thought or said.get("reasoning"), reading.reasoning, first)
        reading.say(content, first=first)
        reading.say(said.get("refusal"), first=first)
        for j, call in enumerate(_list(said.get("tool_calls"))):
            reading.call(_key(call, j), {**_dict(call.get("function")), "id": call.get("id")}, first)
        if said.get("function_call"):
            reading.call("function_call", _dict(said["function_call"]), first)
        if first:
            reading.finished(choice.get("finish_reason"))
    _openai_usage(reading, event)


def _key(call: dict[str, Any], position: int) -> Any:
    index = call.get("index", position)
    return index if isinstance(index, int) else position


def _completions(reading: _Reading, event: dict[str, Any]) -> None:
    for i, choice in enumerate(_list(event.get("choices"))):
        first = choice.get("index", i) in (0, None)
        reading.say(choice.get("text"), first=first)
        if first:
            reading.finished(choice.get("finish_reason"))
    _openai_usage(reading, event)


def _openai_usage(reading: _Reading, event: dict[str, Any]) -> None:
    """Counts of `usage`, or of llama.cpp's `timings` where there is no usage."""
    usage = event.get("usage")
    if isinstance(usage, dict) and usage:
        reading.counts(usage.get("prompt_tokens"), usage.get("completion_tokens"))
        details = usage.get("completion_tokens_details")
        hidden = details.get("reasoning_tokens") if isinstance(details, dict) else None
        reading.hidden = _count(
            hidden if hidden is not None else usage.get("reasoning_tokens"), reading.hidden
        )
        if not (
            reading.cache(usage.get("prompt_tokens_details"), "cached_tokens")
            or reading.cache(usage, "cached_tokens")  # oMLX
            or reading.cache(usage, "prompt_cache_hit_tokens")  # DeepSeek
        ):
            reading.cache(usage, "prompt_tokens_details")  # null
    timings = event.get("timings")
    if isinstance(timings, dict):
        cached, computed = _count(timings.get("cache_n"), None), _count(timings.get("prompt_n"), None)
        if not reading.counted and cached is not None and computed is not None:
            reading.counts(cached + computed, timings.get("predicted_n"))
        if reading.cached_state != TOLD:
            reading.cache(timings, "cache_n")


def _responses(reading: _Reading, event: dict[str, Any]) -> None:
    kind = event.get("type")
    if not isinstance(kind, str):  # a whole answer
        _response(reading, event, say=True)
        return
    if kind in ("response.output_text.delta", "response.refusal.delta"):
        reading.say(event.get("delta"))
    elif kind.startswith("response.reasoning") and kind.endswith(".delta"):
        reading.say(event.get("delta"), reading.reasoning)
    elif kind == "response.output_item.added":
        item = _dict(event.get("item"))
        if item.get("type") == "function_call":
            reading.call(_item(event), {"name": item.get("name"), "id": item.get("call_id")})
    elif kind == "response.function_call_arguments.delta":
        reading.call(_item(event), {"arguments": event.get("delta")})
    elif kind in ("response.completed", "response.incomplete", "response.failed"):
        _response(reading, _dict(event.get("response")), say=not reading.chars)


def _item(event: dict[str, Any]) -> Any:
    index = event.get("output_index")
    return index if isinstance(index, int) else 0


def _response(reading: _Reading, body: dict[str, Any], say: bool) -> None:
    """The answer whole; its words only where no delta has brought them."""
    for i, item in enumerate(_list(body.get("output")) if say else []):
        if item.get("type") == "function_call":
            told = {"name": item.get("name"), "arguments": item.get("arguments"), "id": item.get("call_id")}
            reading.call(i, told)
            continue
        to = reading.reasoning if item.get("type") == "reasoning" else None
        for part in _list(item.get("content")) or _list(item.get("summary")):
            reading.say(part.get("text") if "text" in part else part.get("refusal"), to)
    if body.get("status") == "failed":
        reading.fail("stream_error", _error_type(body))
    reason = body.get("incomplete_details")
    reading.finished(reason.get("reason") if isinstance(reason, dict) else body.get("status"))
    usage = body.get("usage")
    if isinstance(usage, dict):
        reading.counts(usage.get("input_tokens"), usage.get("output_tokens"))
        details = usage.get("output_tokens_details")
        if isinstance(details, dict):
            reading.hidden = _count(details.get("reasoning_tokens"), reading.hidden)
        if not reading.cache(usage.get("input_tokens_details"), "cached_tokens"):
            reading.cache(usage, "input_tokens_details")


def _messages(reading: _Reading, event: dict[str, Any]) -> None:
    kind = event.get("type")
    if kind == "message_start":
        _anthropic_usage(reading, _dict(event.get("message")).get("usage"))
    elif kind == "content_block_start":
        _block(reading, _item_index(event), _dict(event.get("content_block")), whole=False)
    elif kind == "content_block_delta":
        delta = _dict(event.get("delta"))
        reading.say(delta.get("text"))
        reading.say(delta.get("thinking"), reading.reasoning)
        if delta.get("partial_json") is not None:
            reading.call(_item_index(event), {"arguments": delta["partial_json"]})
    elif kind == "message_delta":
        reading.finished(_dict(event.get("delta")).get("stop_reason"))
        _anthropic_usage(reading, event.get("usage"))
    elif kind == "message_stop":
        reading.ended = True
    elif kind == "message":
        for i, block in enumerate(_list(event.get("content"))):
            _block(reading, i, block, whole=True)
        reading.finished(event.get("stop_reason"))
        _anthropic_usage(reading, event.get("usage"))


def _item_index(event: dict[str, Any]) -> Any:
    index = event.get("index")
    return index if isinstance(index, int) else 0


def _block(reading: _Reading, index: Any, block: dict[str, Any], whole: bool) -> None:
    reading.say(block.get("text"))
    reading.say(block.get("thinking"), reading.reasoning)
    if block.get("type") == "tool_use":
        told = {"name": block.get("name"), "id": block.get("id")}
        if whole or block.get("input"):  # a stream opens with an empty one
            told["arguments"] = block.get("input")
        reading.call(index, told)


def _anthropic_usage(reading: _Reading, usage: Any) -> None:
    """`input_tokens` leaves out what was read from and written to the cache."""
    if not isinstance(usage, dict):
        return
    reading.usage |= {key: value for key, value in usage.items() if value is not None}
    usage = usage | reading.usage
    stored = sum(_count(usage.get(f"cache_{what}_input_tokens"), 0) or 0 for what in ("read", "creation"))
    fresh = _count(usage.get("input_tokens"), None)
    reading.counts(None if fresh is None else fresh + stored, usage.get("output_tokens"))
    reading.cache(usage, "cache_read_input_tokens")


def _ollama(reading: _Reading, event: dict[str, Any]) -> None:
    said = _dict(event.get("message")) if "message" in event else event
    reading.say(said.get("thinking"), reading.reasoning)
    reading.say(said.get("content") if "message" in event else said.get("response"))
    for call in _list(said.get("tool_calls")):
        reading.call(len(reading.calls), {**_dict(call.get("function")), "id": call.get("id")})
    if event.get("done"):
        reading.ended = True
        reading.finished(event.get("done_reason"))
        reading.counts(event.get("prompt_eval_count"), event.get("eval_count"))


def _tgi(reading: _Reading, event: dict[str, Any]) -> None:
    token = event.get("token")
    if isinstance(token, dict):
        if not token.get("special"):
            reading.say(token.get("text"))
    elif isinstance(event.get("generated_text"), str):
        reading.say(event["generated_text"])
    if event.get("generated_text") is not None:
        reading.ended = True
    details = event.get("details")
    if isinstance(details, dict):
        reading.finished(details.get("finish_reason"))
        prefill = details.get("prefill")
        told = details.get("input_length")
        if told is None and isinstance(prefill, list) and prefill:
            told = len(prefill)
        reading.counts(told, details.get("generated_tokens"))


def _lmdeploy(reading: _Reading, event: dict[str, Any]) -> None:
    reading.say(event.get("text"))
    told = _dict(event.get("meta_info"))
    reading.finished(told.get("finish_reason"))
    reading.counts(told.get("prompt_tokens"), told.get("completion_tokens"))


_READERS: dict[str, Callable[[_Reading, dict[str, Any]], None]] = {
    "chat": _chat,
    "completions": _completions,
    "responses": _responses,
    "messages": _messages,
    "ollama": _ollama,
    "tgi": _tgi,
    "lmdeploy": _lmdeploy,
}
DIALECTS = tuple(_READERS)
"""Names of the dialects."""
