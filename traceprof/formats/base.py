"""What every log format is made of: the record it yields, what it may say, and the parsing that all share.

A format is one module of this package with

* `has: Has`                     what such a log can tell,
* `detect(record) -> bool`       whether one parsed record is of this format,
* `read(record) -> Request | Skip | list`  what it means; raises `BadRecord` when it cannot be used,
* optionally `read_all(records)` in place of `read`, when records of one file (or of several) belong together,
* optionally `takes(record) -> bool`, beside `read_all`, when its files hold records that `detect` leaves to another format,
* optionally `only_when_asked = "why"`, when it is not read by content but only with --format,
* optionally `lines = True`, when its records are lines of text (`str`; JSON lines of such a log come as `str` or, when all
  of the file is JSON, as `dict`). It has `read_all`, and skips lines that tell of no request as `other_line`.

No format invents a value that its log does not hold.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Flag, auto
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_I32 = 2**31 - 1
SESSION_KEYS = ("session_id", "sessionId", "conversation_id", "thread_id", "chat_id", "session")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Has(Flag):
    """What a log can tell; a measure states what it needs, and runs when the trace has it."""

    ARRIVALS = auto()
    ENDS = auto()
    LENGTHS = auto()
    TEXT = auto()
    TOKENS = auto()
    BLOCKS = auto()
    OUTPUTS = auto()
    SESSIONS = auto()


class BadRecord(ValueError):  # noqa: N818  a record, not an error of the program
    """This record cannot be used: `reason` is one countable word, `detail` says it in a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}")


@dataclass(slots=True)
class Skip:
    """A record that is read but is no model call of ours, e.g. an embedding row."""

    reason: str


@dataclass(slots=True)
class Request:
    """One model-call attempt as a format reads it; field names as in schema.REQUESTS, times in us on `clock`."""

    operation: str = "chat"
    clock: str = "none"
    arrival_us: int | None = None  # us since 1970 (absolute) or since the trace's or session's own zero
    first_token_us: int | None = None
    end_us: int | None = None
    arrival_quality: str = "none"
    arrival_resolution_us: int | None = None
    status: str = "unknown"
    content_level: str = "text"
    content_state: str = "complete"
    request_id: str | None = None
    provider_request_id: str | None = None
    attempt_group: str | None = None
    attempt_no: int | None = None
    session_id: str | None = None
    session_kind: str | None = None
    parent_request_id: str | None = None
    trace_id: str | None = None
    turn_index: int | None = None
    tenant_id: str | None = None
    user_id: str | None = None
    app: str | None = None
    model_requested: str | None = None
    model_served: str | None = None
    provider: str | None = None
    stream: bool | None = None
    queue_us: int | None = None
    ttft_us: int | None = None
    e2e_us: int | None = None
    delay_after_parent_us: int | None = None
    http_status: int | None = None
    error_type: str | None = None
    finish_reason: str | None = None
    served_from_response_cache: bool | None = None
    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    tokens_source: str | None = None
    max_output_tokens: int | None = None
    tokenizer: str | None = None
    block_size: int | None = None
    hash_scheme: str | None = None
    hash_scope: str | None = None
    last_block_partial: bool | None = None
    cache_salt: str | None = None
    media: list[dict[str, Any]] | None = None
    params: dict[str, Any] | None = None
    sampling_fraction: float | None = None
    messages_json: bytes | str | None = None
    prompt_text: str | None = None
    tools_json: bytes | str | None = None
    output_json: bytes | str | None = None
    extra_json: bytes | str | None = None
    input_ids: list[int] | None = None
    output_ids: list[int] | None = None
    block_hashes: NDArray[np.uint64] | None = None
    quality: list[str] = field(default_factory=list)


Read = Request | Skip | list["Request | Skip"]
Result = Request | Skip | BadRecord | list["Request | Skip | BadRecord"]


def attempt(read: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """What `read(*args)` makes of a record; a BadRecord when it cannot, whatever stands in the record."""
    try:
        return read(*args, **options)
    except BadRecord as bad:
        return bad
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as bug:
        return BadRecord("unreadable", f"{type(bug).__name__}: {bug}"[:200])


# -- values -----------------------------------------------------------------------------------------------


def text(value: Any) -> str | None:
    """A string or None; numbers become their text, so that an id of 17 and of "17" are one.

    >>> text(17), text(""), text(None)
    ('17', None, None)
    """
    if type(value) is str:
        return value or None
    if value is None or isinstance(value, (dict, list, bool)):
        return None
    return str(value)


def count(value: Any, what: str, flags: list[str] | None = None) -> int | None:
    """A token count: a whole number from 0 to 2^31-1, or None.

    Anything else raises BadRecord, or, when `flags` is given, leaves None and a quality flag `bad_WHAT`.

    >>> count(12, "prompt_tokens"), count("12", "prompt_tokens"), count(None, "prompt_tokens")
    (12, 12, None)
    """
    if type(value) is int and 0 <= value <= MAX_I32:
        return value
    if value is None or value == "":
        return None
    number: float | None
    try:
        number = (
            float(value) if isinstance(value, (str, float, int)) and not isinstance(value, bool) else None
        )
    except (ValueError, OverflowError):
        number = None
    if number is not None and number.is_integer() and 0 <= number <= MAX_I32:
        return int(number)
    if flags is not None:
        flags.append(f"bad_{what}")
        return None
    raise BadRecord("bad_count", f"{what} is {_show(value)}, not a whole number from 0 to {MAX_I32}")


def _show(value: Any) -> str:
    """A value for an error message: its type when it may be private or long, itself when it is a number."""
    if isinstance(value, (int, float)) or value is None:
        return repr(value)[:40]
    return f"a {type(value).__name__}"


def epoch_us(value: Any, what: str) -> int:
    """Microseconds since 1970 of an absolute time: an ISO 8601 string, or a number whose unit its size tells.

    Numbers up to 1e11 are seconds, up to 1e14 ms, up to 1e17 us, above ns (holds for 1973 and later).

    >>> epoch_us("2026-08-21T12:00:00.120Z", "timestamp") == epoch_us(1787313600.12, "timestamp")
    True
    """
    return parse_time(value, what)[0]


def parse_time(value: Any, what: str) -> tuple[int, bool]:
    """(us since 1970, whether the zone had to be assumed as UTC); raises BadRecord."""
    if isinstance(value, str) and len(value) > 9 and value[4:5].isdigit():
        with contextlib.suppress(ValueError):  # "1712010100123": ISO 8601 may be written without dashes too
            return _number_us(float(value), what), False
    if isinstance(value, (str, datetime)):
        try:
            stamp = value if isinstance(value, datetime) else datetime.fromisoformat(value.strip())
        except ValueError:
            try:
                return _number_us(float(str(value)), what), False
            except ValueError:
                raise BadRecord("bad_time", f"{what} is neither ISO 8601 nor a number") from None
        naive = stamp.tzinfo is None
        delta = (stamp.replace(tzinfo=UTC) if naive else stamp) - _EPOCH
        us = (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
        if us < 0:
            raise BadRecord("negative_time", f"{what} is before 1970")
        return us, naive
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _number_us(value, what), False
    raise BadRecord("bad_time", f"{what} is {_show(value)}, not a time")


_LINE_TIME = re.compile(r"(\d{4}-\d\d-\d\dT[\d:.,]+(?:Z|[+-]\d\d:?\d\d)?) ")


def stamped(line: str) -> tuple[int | None, str]:
    """(us since 1970 or None, the rest) of a line of text that a collector put its time before.

    >>> stamped("2026-08-21T12:00:00.5Z INFO ready"), stamped("INFO ready")
    ((1787313600500000, 'INFO ready'), (None, 'INFO ready'))
    """
    found = _LINE_TIME.match(line)
    if found is None:
        return None, line
    try:
        return parse_time(found[1], "the line's time")[0], line[found.end() :]
    except BadRecord:
        return None, line


def _number_us(value: float, what: str) -> int:
    if isinstance(value, int) and abs(value) >= 2**63:
        raise BadRecord("bad_time", f"{what} is beyond any clock")
    if not math.isfinite(value):
        raise BadRecord("non_finite_time", f"{what} is {value}")
    if value < 0:
        raise BadRecord("negative_time", f"{what} is {value:g}")
    if value < 1e11:
        return round(value * 1_000_000)
    if value < 1e14:
        return round(value * 1_000)
    if value < 1e17:
        return round(value)
    if value < 9e18:
        return int(value) // 1_000
    raise BadRecord("bad_time", f"{what} is {value:g}, beyond any clock")


def offset_us(value: Any, what: str, unit_us: float) -> int:
    """Microseconds of a relative time or a duration given in units of `unit_us`; raises BadRecord.

    >>> offset_us("1.5", "Timestamp", 1e6)
    1500000
    """
    try:
        number = float(value) if not isinstance(value, (bool, dict, list)) and value is not None else math.nan
    except (TypeError, ValueError, OverflowError):
        raise BadRecord("bad_time", f"{what} is not a number that a clock shows") from None
    if not math.isfinite(number):
        reason = "bad_time" if value is None or isinstance(value, (bool, dict, list)) else "non_finite_time"
        raise BadRecord(reason, f"{what} is {_show(value)}")
    if number < 0:
        raise BadRecord("negative_time", f"{what} is {number:g}")
    if number * unit_us > 1e17:
        raise BadRecord("bad_time", f"{what} is {number:g}, beyond any clock")
    return round(number * unit_us)


def elapsed(value: Any, what: str, unit_us: float, flags: list[str]) -> int | None:
    """Microseconds of a duration that a log may give, in units of `unit_us`; a wrong one is left out and flagged.

    >>> elapsed("1.5", "latency", 1e3, []), elapsed("-", "latency", 1e3, []), elapsed(-1, "latency", 1e3, f := []), f
    (1500, None, None, ['bad_latency'])
    """
    if value is None or value in ("", "-"):
        return None
    try:
        return offset_us(value, what, unit_us)
    except BadRecord:
        flags.append(f"bad_{what}")
        return None


def lasted(out: Request, e2e_us: int | None, ttft_us: int | None = None) -> None:
    """Fill end and first token from the durations that a log gives after the arrival."""
    out.e2e_us, out.ttft_us = e2e_us, ttft_us
    if out.arrival_us is not None and ttft_us is not None:
        out.first_token_us = out.arrival_us + ttft_us
    if out.arrival_us is not None and e2e_us is not None:
        out.end_us = out.arrival_us + e2e_us
        out.quality.append("end_is_arrival_plus_duration")


def ended(out: Request, end_us: int, e2e_us: int) -> None:
    """Fill end, duration and arrival of a request that is only known to have ended so, after so long; raises BadRecord."""
    out.end_us, out.e2e_us, out.arrival_us = end_us, e2e_us, end_us - e2e_us
    if out.arrival_us < 0:
        raise BadRecord("negative_time", "it ended sooner after 1970 than it took")
    out.clock, out.arrival_quality = "absolute", "derived"
    out.quality.append("arrival_is_end_minus_duration")


def hashes(value: Any, what: str = "hash_ids") -> NDArray[np.uint64]:
    """A list of block hashes, each a whole number from 0 to 2^64-1; raises BadRecord."""
    if not isinstance(value, list):
        raise BadRecord("wrong_type", f"{what} is {_show(value)}, not a list")
    try:
        if not set(map(type, value)) <= {int}:
            raise OverflowError
        return np.array(value, np.uint64)
    except OverflowError:
        wrong = f"{what} holds something that is no whole number from 0 to 2^64-1"
        raise BadRecord("wrong_type", wrong) from None


def dumps(value: Any) -> bytes:
    """Compact JSON, keys in their original order."""
    try:
        return orjson.dumps(value)
    except TypeError:  # deep nesting, or an int beyond 64 bits: the standard library can
        import json

        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


FINISH = {
    "stop": "stop", "end_turn": "stop", "stop_sequence": "stop", "eos_token": "stop", "eos": "stop",
    "length": "length", "max_tokens": "length",
    "tool_calls": "tool_calls", "tool_use": "tool_calls", "function_call": "tool_calls",
    "content_filter": "content_filter", "refusal": "refusal", "abort": "abort", "cancelled": "abort",
}  # fmt: skip


def finish(value: Any) -> str | None:
    """The finish reason in the schema's words; None when the log has none."""
    return None if not value else FINISH.get(str(value), "other")


def get(value: Any, name: str) -> Any:
    """A field by its camelCase name, or by the snake_case one that protocol buffers are also printed in."""
    if not isinstance(value, dict):
        return None
    found = value.get(name)
    return value.get(_snake(name)) if found is None else found


@functools.cache
def _snake(name: str) -> str:
    return re.sub("[A-Z]", lambda c: "_" + c[0].lower(), name)


def http_code(value: Any) -> int | None:
    """An HTTP status code, given as a number or its digits; None for anything else.

    >>> http_code(429), http_code("200"), http_code("ok"), http_code(70000)
    (429, 200, None, None)
    """
    if (isinstance(value, str) and len(value) == 3 and value.isdecimal()) or (
        isinstance(value, float) and value.is_integer()
    ):
        value = int(value)
    return value if type(value) is int and 100 <= value < 600 else None


def status_of_http(code: int | None) -> str | None:
    """ok, rejected (4xx: no model saw it) or error (5xx); None when there is no code."""
    if code is None or not 100 <= code < 600:
        return None
    return "ok" if code < 400 else "cancelled" if code == 499 else "rejected" if code < 500 else "error"


# -- prompts ----------------------------------------------------------------------------------------------

_MEDIA_PARTS = {
    "image_url": "image", "input_image": "image", "image": "image", "input_audio": "audio", "audio": "audio",
    "file": "file", "input_file": "file", "document": "file", "video_url": "video", "video": "video",
}  # fmt: skip


def messages(value: Any, request: Request) -> bytes:
    """Canonical JSON of a list of OpenAI-like messages, as `checked` leaves them; marks of a cut prompt are noted."""
    kept = checked(value, request)
    for message in kept:
        said = message.get("content")
        if type(said) is not str or said[-1:] in _MARK_ENDS or said[:1] in _MARK_BEGINS:
            _note_mark(message, request)
    return dumps(kept)


def checked(value: Any, request: Request) -> list[dict[str, Any]]:
    """A list of OpenAI-like messages in which media parts are {type, sha, bytes}, noted in `request.media`.

    Raises BadRecord when the value is not a list of objects with a role and a content that is a string, a list of
    parts or null.
    """
    if not isinstance(value, list):
        raise BadRecord("wrong_type", f"messages is {_show(value)}, not a list")
    swap: dict[int, Any] = {}
    for i, message in enumerate(value):
        if type(message) is dict and type(message.get("role")) is type(message.get("content")) is str:
            continue
        if not isinstance(message, dict):
            raise BadRecord("wrong_type", f"message {i} is {_show(message)}, not an object")
        if not isinstance(message.get("role"), str):
            raise BadRecord("missing_field", f"message {i} has no role")
        content = message.get("content")
        if isinstance(content, list):
            kept = _parts(content, i, request)
            if kept is not content:
                swap[i] = {**message, "content": kept}
        elif content is not None and not isinstance(content, str):
            raise BadRecord(
                "wrong_type", f"content of message {i} is {_show(content)}, not text, parts or null"
            )
    return [swap.get(i, m) for i, m in enumerate(value)] if swap else value


def _parts(parts: list[Any], i: int, request: Request) -> list[Any]:
    out = parts
    for j, part in enumerate(parts):
        if isinstance(part, str):
            continue
        if not isinstance(part, dict):
            raise BadRecord("wrong_type", f"part {j} of message {i} is {_show(part)}, not an object")
        kind = _MEDIA_PARTS.get(str(part.get("type")))
        if kind is None:
            continue
        if out is parts:
            out = list(parts)
        out[j] = _placeholder(part, kind, request)
    return out


def _placeholder(part: dict[str, Any], kind: str, request: Request) -> dict[str, Any]:
    """A media part as {type, sha, bytes}: the same media always gives the same placeholder, so sharing is kept."""
    if "sha" in part and "bytes" in part and len(part) == 3:  # already one of ours
        return part
    body = dumps(part)
    digest = hashlib.blake2b(body, digest_size=16)
    if request.media is None:
        request.media = []
    request.media.append(
        {"kind": kind, "count": 1, "bytes": len(body), "hash": int.from_bytes(digest.digest()[:8], "little")}
    )
    return {"type": part["type"], "sha": digest.hexdigest(), "bytes": len(body)}


_CUT_INSIDE = b"(litellm_truncated skipped "  # in the middle of a text, whose head and tail are kept
_CUT_AT_END = re.compile(r"(?i)[\[<(](?:\.\.\.|\u2026)?\s*truncated\b[^\[\]<>()\n]{0,60}[\]>)]\s*$")
_REDACTED = re.compile(
    r"(?i)redacted(?:[ -]by[ -].{1,80})?|\*{3,}"
    r"|[\[<({*_]+\s?(?:[^\W_]+[ _:-]+){0,3}(?:redacted|masked|filtered|scrubbed|withheld)(?:[ _:-]+[^\W_]+){0,6}\s?[\])>}*_]+"
)
_MARK_ENDS, _MARK_BEGINS = (
    "]>) \n",
    "rR[<({*_",
)  # what a mark ends or begins with: a text that does not is looked at no further


def cut_mark(said: str) -> str | None:
    """truncated or redacted, when a text ends with a logger's mark that it was cut or is one for what it hid.

    >>> cut_mark("a long story...[truncated]"), cut_mark("[REDACTED]"), cut_mark("What does [REDACTED] mean?")
    ('truncated', 'redacted', None)
    """
    if said[-1:].isspace():
        said = said.rstrip()
    if said[-1:] in ("]", ">", ")") and _CUT_AT_END.search(said[-100:]):
        return "truncated"
    return "redacted" if len(said) < 120 and said[:1] in _MARK_BEGINS and _REDACTED.fullmatch(said) else None


def cut_state(out: Request) -> Request:
    """The request, after a look for marks of a logger that cut or redacted: a cut prompt is never taken for a whole one.

    `messages` notes marks in the messages it is given; this finds LiteLLM's, which stand inside a text, and those in
    `prompt_text` and the answer. An answer that was cut or redacted is dropped.
    """
    if out.output_json is not None:
        answer = as_bytes(out.output_json)
        if _CUT_INSIDE in answer:
            out.output_json = None
            out.quality.append("output_truncated")
        elif any(word in answer for word in (b"runcated", b"RUNCATED", b"edacted", b"EDACTED", b'"***')):
            mark = _answer_mark(answer)
            if mark is not None:
                out.output_json = None
                out.quality.append(f"output_{mark}")
    for part in (out.messages_json, out.prompt_text, out.tools_json):
        if part is not None and _CUT_INSIDE in as_bytes(part):
            out.content_state = "truncated"
    if out.prompt_text is not None and out.content_state == "complete":
        out.content_state = cut_mark(out.prompt_text) or "complete"
    return out


def as_bytes(value: bytes | str) -> bytes:
    """Text as UTF-8."""
    return value if isinstance(value, bytes) else value.encode("utf-8", "replace")


def _answer_mark(said: bytes) -> str | None:
    try:
        answer = orjson.loads(said)
    except orjson.JSONDecodeError:  # spelled by the standard library: too deep, or too large a number
        return None
    for one in answer if isinstance(answer, list) else (answer,):
        spoken = one.get("content") if isinstance(one, dict) else None
        mark = cut_mark(spoken) if isinstance(spoken, str) else None
        if mark is not None:
            return mark
    return None


def _note_mark(message: dict[str, Any], request: Request) -> None:
    """Note a mark in a message; that a tool's result was cut is what the model saw, unless it was the logger."""
    said = message.get("content")
    for one in said if type(said) is list else (said,):
        one = one.get("text") if type(one) is dict else one
        mark = cut_mark(one) if type(one) is str else None
        if mark == "redacted" or (mark == "truncated" and message["role"] not in ("tool", "function")):
            request.content_state = mark


def leftovers(record: dict[str, Any], keys: Iterable[str]) -> bytes | None:
    """The scalars under `keys`, which have no column, as JSON; None when there are none."""
    found = {key: record.get(key) for key in keys}
    kept = {k: v for k, v in found.items() if v not in (None, "") and isinstance(v, (str, int, float))}
    return dumps(kept) if kept else None


def first_of(record: dict[str, Any], keys: Iterable[str]) -> Any:
    """The first value among `keys` that is present and not null."""
    for key in keys:
        value = record.get(key)
        if value is not None:
            return value
    return None
