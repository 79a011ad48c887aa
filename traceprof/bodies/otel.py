"""OpenTelemetry spans as plain values: attributes, events, ids and times, and what every call's span says alike.

Encoders differ: an intValue is a number or its digits, an id hex of either case or base64, a kind or status a number or a
word, a name camelCase or snake_case. Source: open-telemetry/opentelemetry-proto (trace.proto, common.proto), captures.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from traceprof.bodies import decoded, spans
from traceprof.formats.base import (
    BadRecord,
    Request,
    Skip,
    count,
    dumps,
    get,
    http_code,
    parse_time,
    status_of_http,
    text,
)

Moment = int | BadRecord | None  # us since 1970, why it is none, or that nothing is said


class Event(NamedTuple):
    """Something that happened within a span; also a log record that belongs to it."""

    name: str
    at: Moment
    attributes: dict[str, Any]


@dataclass(slots=True)
class Span:
    """One span; ids in lower-case hex."""

    trace_id: str | None
    span_id: str | None
    parent_id: str | None
    name: str
    start: Moment
    end: Moment
    attributes: dict[str, Any]
    events: list[Event] = field(default_factory=list)
    failed: bool = False
    message: str | None = None  # what the status says about the failure
    resource: dict[str, Any] = field(default_factory=dict)
    scope: str = ""  # name of the instrumentation
    dropped: bool = False  # attributes were left out, as limits of the SDK demand
    quality: list[str] = field(default_factory=list)


# -- values --------------------------------------------------------------------------------------------------


def items(value: Any, name: str) -> list[dict[str, Any]]:
    """The objects in a list under a name; none when there is no list."""
    found = get(value, name)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def plain(value: Any) -> Any:
    """An AnyValue as a plain value; None for an empty one.

    >>> plain({"arrayValue": {"values": [{"intValue": "7"}, {"kvlistValue": {"values": [{"key": "a", "value": {}}]}}]}})
    [7, {'a': None}]
    """
    if not isinstance(value, dict):
        return None
    for name, given in value.items():
        if given is None:  # some encoders write all fields of which one is set
            continue
        if name in ("stringValue", "string_value", "bytesValue", "bytes_value"):
            return given if isinstance(given, str) else text(given)
        if name in ("intValue", "int_value"):
            return int(given) if isinstance(given, str) and _DIGITS.fullmatch(given) else given
        if name in ("doubleValue", "double_value", "boolValue", "bool_value"):
            return given
        if name in ("arrayValue", "array_value"):
            inside = given.get("values") if isinstance(given, dict) else None
            return [plain(one) for one in inside] if isinstance(inside, list) else []
        if name in ("kvlistValue", "kvlist_value"):
            return attributes(given, "values")
    return None


_DIGITS = re.compile(r"-?\d{1,19}")


def attributes(holder: Any, name: str = "attributes") -> dict[str, Any]:
    """Attributes of a resource, span, event or log record: a list of key and value, or already an object."""
    given = get(holder, name)
    if isinstance(given, dict):
        return given
    return {
        one["key"]: plain(one.get("value"))
        for one in (given if isinstance(given, list) else ())
        if isinstance(one, dict) and isinstance(one.get("key"), str)
    }


def hex_id(value: Any) -> str | None:
    """A trace's or span's id in lower-case hex; None for none or all zeros. A wrong encoder wrote base64.

    >>> hex_id("051581BF3CB55C13"), hex_id("BRWBvzy1XBM="), hex_id("0x0000000000000000")
    ('051581bf3cb55c13', '051581bf3cb55c13', None)
    """
    said = text(value)
    if said is None:
        return None
    said = said.removeprefix("0x")
    if len(said) in (12, 24) and not _HEX.fullmatch(said):
        try:
            said = base64.b64decode(said, validate=True).hex()
        except binascii.Error:
            return said
    said = said.lower() if _HEX.fullmatch(said) else said
    return said if said.strip("0") else None


_HEX = re.compile("[0-9a-fA-F]+")


def nanos(value: Any, what: str) -> Moment:
    """A time in ns since 1970, a number or its digits, as us; None for 0, which stands for not known."""
    if value is None or value in (0, "0", ""):
        return None
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return BadRecord("bad_time", f"{what} is a {type(value).__name__}, not ns since 1970")
    if isinstance(value, float) and not math.isfinite(value):
        return BadRecord("non_finite_time", f"{what} is {value}")
    if value < 0:
        return BadRecord("negative_time", f"{what} is before 1970")
    return int(value) // 1000 if value < 2**63 else BadRecord("bad_time", f"{what} is beyond any clock")


def moment(value: Any, what: str, quality: list[str]) -> Moment:
    """A time as ISO 8601 or a number; one without a zone is UTC, which `quality` notes."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    try:
        at, naive = parse_time(value, what)
    except BadRecord as bad:
        return bad
    if naive and "tz_assumed" not in quality:
        quality.append("tz_assumed")
    return at


def is_failure(code: Any) -> bool:
    """Whether a status code is ERROR: as a number, a word of the protocol, or the short word of an SDK."""
    return code == 2 or (isinstance(code, str) and code.upper().rpartition("_")[2] == "ERROR")


# -- lists that were flattened -------------------------------------------------------------------------------


def listed(given: dict[str, Any], prefix: str) -> tuple[list[Any], bool]:
    """(the items of a list of attributes PREFIX.N.NAME, whether one is missing), each as a tree; also a list kept whole.

    >>> listed({"p.0.role": "user", "p.2.role": "x", "p.2.call.0.id": 7}, "p")
    ([{'role': 'user'}, {'role': 'x', 'call': [{'id': 7}]}], True)
    """
    whole = decoded(given.get(prefix))
    if isinstance(whole, list):
        return [tree(one) for one in whole], False
    start = len(prefix) + 1
    found = {k[start:]: v for k, v in given.items() if k.startswith(prefix) and k[start - 1 : start] == "."}
    if not found:
        return [], False
    numbered = _grown(found)
    places = sorted((int(k), k) for k in numbered if k.isdecimal() and len(k) < 10)
    holes = [place for place, _ in places] != list(range(len(places)))
    return [_closed(numbered[name]) for _, name in places], holes


def tree(value: Any) -> Any:
    """An object with dotted names as objects in objects, those with numbers for names as lists; other values as they are.

    >>> tree({"message.role": "user", "message.parts": [{"part.text": "x"}]})
    {'message': {'role': 'user', 'parts': [{'part': {'text': 'x'}}]}}
    """
    if isinstance(value, list):
        return [tree(one) for one in value]
    if not isinstance(value, dict):
        return value
    return _closed(_grown(value)) if any("." in k for k in value) else {k: tree(v) for k, v in value.items()}


def _grown(flat: dict[str, Any]) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for name, value in flat.items():
        at = root
        *path, last = name.split(".", 32)
        for step in path:
            inner = at.get(step)
            if not isinstance(inner, dict):
                inner = at[step] = {}
            at = inner
        if value is not None:
            at[last] = tree(value)
    return root


def _closed(value: Any) -> Any:
    """A tree whose objects with nothing but numbers for names are lists, in their order."""
    if not isinstance(value, dict):
        return value
    if value and all(k.isdecimal() and len(k) < 10 for k in value):
        return [_closed(value[k]) for k in sorted(value, key=int)]
    return {k: _closed(v) for k, v in value.items()}


# -- what every call says ------------------------------------------------------------------------------------

_SESSIONS = (
    "gen_ai.conversation.id", "session.id", "traceloop.association.properties.session_id",
    "traceloop.association.properties.conversation_id", "traceloop.association.properties.thread_id",
    "exgentic.session.id", "ai.telemetry.metadata.sessionId",
)  # fmt: skip
_USERS = (
    "user.id",
    "enduser.id",
    "gen_ai.user",
    "traceloop.association.properties.user_id",
    "ai.telemetry.metadata.userId",
)
_FIRST = (
    "First Token Stream Event",
    "ai.stream.firstChunk",
    "gen_ai.content.completion.chunk",
    "llm.content.completion.chunk",
)


def opened(span: Span) -> Request:
    """A request with the span's ids, times, session, user and application."""
    if span.start is None:
        raise BadRecord("missing_field", "the span has no start time")
    if isinstance(span.start, BadRecord):
        raise span.start
    out = Request(
        clock="absolute",
        arrival_us=span.start,
        arrival_quality="measured",
        request_id=span.span_id,
        parent_request_id=span.parent_id,
        quality=list(span.quality),
    )
    if isinstance(span.end, BadRecord):
        out.quality.append("bad_end_time")
    else:
        out.end_us = span.end
    given = span.attributes
    spans.session(out, first(given, _SESSIONS), span.trace_id)
    out.user_id = text(first(given, _USERS))
    service = text(span.resource.get("service.name"))
    out.app = None if service is None or service.startswith("unknown_service") else service
    out.first_token_us = min(
        (e.at for e in span.events if e.name in _FIRST and isinstance(e.at, int)), default=None
    )
    stage = first(span.resource, ("deployment.environment.name", "deployment.environment"))
    told = {"agent": text(given.get("gen_ai.agent.name")), "environment": text(stage)}
    told = {k: v for k, v in told.items() if v is not None and len(v) <= 200}
    out.extra_json = dumps(told) if told else None
    return out


def read_usage(out: Request, said: Iterable[Any]) -> None:
    """Fill token counts: input, output, cached, written, reasoning, total.

    Cached and written tokens are in the input, as the conventions say, unless the total tells else, or they are more than
    the input: some instrumentations pass on Anthropic's counts as they are.
    """
    given, made, cached, written, thought, total = said
    counts = spans.Counts(given, made, cached, written, thought, total)
    whole, *parts = (count(value, "tokens", []) or 0 for value in (given, cached, written))
    spans.read_counts(out, counts, True if 0 < whole < sum(parts) else None if total is not None else False)


def finished(out: Request, rows: spans.Rows, cut: bool = False) -> spans.Rows:
    """The rows of a call whose prompt was read; `cut`: a part of it is known to be missing."""
    _note_tools(out)
    for row in rows if isinstance(rows, list) else [rows]:
        if cut and not isinstance(row, Skip):
            row.content_state = "truncated"
    return rows


def _note_tools(out: Request) -> None:
    """A row whose messages call tools that nothing defines says so: its prompt was longer than what is known of it."""
    if out.tools_json is None and out.messages_json is not None:
        told = (out.messages_json, out.output_json)
        if any(
            b'"tool_calls":[{' in (t if isinstance(t, bytes) else t.encode("utf-8", "replace"))
            for t in told
            if t
        ):
            out.quality.append("tools_unknown")


def settled(out: Request, span: Span) -> None:
    """Fill status, kind of error and HTTP status from the span's status, `error.type` and the exception it recorded."""
    kind = text(span.attributes.get("error.type"))
    raised: dict[str, Any] = next((e.attributes for e in reversed(span.events) if e.name == "exception"), {})
    if not span.failed and kind is None:
        spans.settle(out, None, out.end_us is not None)
        return
    name = text(raised.get("exception.type")) or kind
    said = text(raised.get("exception.message")) or span.message or ""
    spans.settle(out, f"{name or 'error'}: {said}", True)
    given = span.attributes
    out.http_status = http_code(kind) or http_code(given.get("http.response.status_code")) or out.http_status
    if name is not None and http_code(name) is None:
        out.error_type = name.rpartition(".")[2][:100]
    if out.status == "error":
        out.status = status_of_http(out.http_status) or "error"
    if out.status == "ok":  # it failed after the answer began
        out.status = "error"


def first(given: dict[str, Any], names: tuple[str, ...]) -> Any:
    """The first of several attributes that is set, neither null nor an empty text."""
    return next((v for name in names if (v := given.get(name)) is not None and v != ""), None)
