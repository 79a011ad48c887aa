"""SGLang's request log (--log-requests), as JSON or as text with Python literals, one event a line, joined by `rid`.

A request is its `request.finished` line (`Finish:`), or, when there is none, the line that received it. The OpenAI body, which has
no rid, is joined in the order of the log where parameters and prompt fit. Level 0 and 1 log no prompt; level 2, the default, cuts
texts and lists over 2048 in their middle; level 3 logs all. Source: sgl-project/sglang 01bb9120, request_logger.py; captures of
0.5.23.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from traceprof import bodies
from traceprof.bodies import literals, sglang
from traceprof.formats.base import (
    BadRecord,
    Has,
    Request,
    Result,
    Skip,
    attempt,
    ended,
    epoch_us,
    first_of,
    parse_time,
    status_of_http,
    text,
)
from traceprof.formats.linetimes import LineClock

lines = True
has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.TEXT | Has.TOKENS | Has.OUTPUTS | Has.SESSIONS
summary = "SGLang's request log, JSON or text, best with --log-requests-level 3"

HELD_BYTES = 32 << 20  # log text of requests without an end; beyond it the oldest are given out as they are
_STALE_US = 600_000_000  # a body that no request followed within this time was refused
_HEAD = 160  # characters within which a line says what it is
_LINE = r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?: [A-Z]+\d+)*\] "
_MARK = re.compile(
    _LINE
    + r"(?:Prefill batch|Decode batch)\b|(?:Receive|Finish)(?: OpenAI)?: obj=|\"event\": ?\"request\.(?:received|finished)"
)
_SAID = re.compile(r"(Receive OpenAI|Receive|Finish): (?=obj=)")
_EVENTS = {
    "Receive OpenAI": "request.received.openai",
    "Receive": "request.received",
    "Finish": "request.finished",
}
_NAMED = re.compile(r"[\s,]*(\w+)=")
_ACCESS = re.compile(r'"POST (?:/v1/(?:chat/)?completions|/generate) HTTP/[\d.]+" ([45]\d\d)')


def detect(record: Any) -> bool:
    """An event as an object, or a line that begins as SGLang's do."""
    if isinstance(record, dict):
        event = record.get("event")
        return isinstance(event, str) and event.startswith("request.") and isinstance(record.get("obj"), dict)
    return isinstance(record, str) and _MARK.search(record, 0, _HEAD) is not None


def read_all(records: Iterable[Any]) -> Iterator[tuple[Any, Result]]:
    """All lines of all files, each exactly once."""
    log = _Log()
    for record in records:
        begins = record.value[:_HEAD] if isinstance(record.value, str) else ""
        if isinstance(record.value, dict) or ": obj=" in begins or '"request.' in begins:
            found = attempt(log.take, record)
            yield from found if isinstance(found, list) else [(record, found)]
            while log.held > HELD_BYTES:
                yield from log.oldest()
        elif '" 4' in begins or '" 5' in begins:
            yield from log.refused(record)
        else:
            yield record, Skip("other_line")
    yield from log.rest()


@dataclass(slots=True, eq=False)
class _Event:
    """A line that waits for others: an OpenAI body, or what received one request or a batch of them."""

    record: Any
    obj: dict[str, Any]
    at: int | None  # us since 1970 of the line, in the server's zone
    resolution_us: int | None
    affinity: str | None
    body: dict[str, Any] | None = None
    left: dict[str, int | None] = field(default_factory=dict)  # rids without an end, and places in a batch


class _Log:
    """What is known between the lines of a log."""

    def __init__(self) -> None:
        self.held = 0
        self._open: dict[str, _Event] = {}  # by rid
        self._bodies: deque[_Event] = deque()
        self._clocks: dict[str, LineClock] = {}
        self._zone: int | None = None  # us that lines are ahead of UTC, once a request has told it

    def take(self, record: Any) -> list[tuple[Any, Result]]:
        """What an event settles."""
        value = record.value if isinstance(record.value, dict) else _parsed(record.value)
        kind, obj = value.get("event"), value.get("obj")
        if obj == "embedding" or (isinstance(obj, dict) and "is_cross_encoder_request" in obj):
            return [(record, Skip("embedding"))]
        if not isinstance(obj, dict):
            raise BadRecord("wrong_type", "obj is not an object")
        headers = value.get("headers")
        key = headers.get("x-smg-routing-key") if isinstance(headers, dict) else None
        event = _Event(record, obj, *self._time(record, value), text(key))
        rids = first_of(value, ("rid",)) or obj.get("rid")
        if kind == "request.received.openai":
            return self._asked(event)
        if kind == "request.received":
            return self._received(event, rids if isinstance(rids, list) else [rids])
        if kind == "request.finished":
            return self._finished(event, text(rids), value.get("out"))
        return [(record, Skip("other_line"))]

    def _time(self, record: Any, value: dict[str, Any]) -> tuple[int | None, int | None]:
        if "timestamp" not in value:
            if not isinstance(record.value, str):
                return None, None
            at = self._clocks.setdefault(record.file, LineClock()).read(record.value[:_HEAD])
            return at.us, at.resolution_us
        found = attempt(parse_time, value["timestamp"], "timestamp")
        return (None, None) if isinstance(found, BadRecord) else (found[0], None)

    def _asked(self, event: _Event) -> list[tuple[Any, Result]]:
        waiting = self._bodies
        stale: list[tuple[Any, Result]] = []
        while waiting and event.at is not None and (waiting[0].at or 0) < event.at - _STALE_US:
            stale.append(self._alone(waiting.popleft()))
        waiting.append(event)
        self.held += len(event.record.raw)
        return stale

    def _received(self, event: _Event, rids: list[Any]) -> list[tuple[Any, Result]]:
        names = [text(rid) or f"row {event.record.row}/{i}" for i, rid in enumerate(rids)]
        if not names or any(name.startswith("HEALTH_CHECK") for name in names):
            return [(event.record, Skip("health_check" if names else "empty_list"))]
        before = [pair for name in names if name in self._open for pair in self._unfinished(self._open[name])]
        for i, name in enumerate(names):
            self._open[name] = event
            event.left[name] = i if len(names) > 1 else None
        self.held += len(event.record.raw)
        return before

    def _finished(self, event: _Event, name: str | None, out: Any) -> list[tuple[Any, Result]]:
        if name is not None and name.startswith("HEALTH_CHECK"):
            return [(event.record, Skip("health_check"))]
        out = out if isinstance(out, dict) else {}
        self._learn(event, out.get("meta_info"))
        settled: list[tuple[Any, Result]] = []
        begun = self._open.pop(name, None) if name is not None else None
        if name is not None and begun is not None:
            settled = self._find_body(begun, sglang.words(event.obj.get("text"))[0])
            del begun.left[name]
            if not begun.left:
                self.held -= len(begun.record.raw)
                settled.append((begun.record, Skip("joined_to_its_request")))
        return [*settled, (event.record, attempt(self._request, event.obj, name, begun, event, out))]

    def _unfinished(self, event: _Event, status: int | None = None) -> list[tuple[Any, Result]]:
        """A line that received requests, as those of them that never ended, and the body that belongs to it."""
        mine = event.left
        for name in mine:
            del self._open[name]
        self.held -= len(event.record.raw)
        joined = self._find_body(event, None)
        made: list[Any] = []
        for name, i in mine.items():
            obj = event.obj if i is None else {k: _of_batch(v, i) for k, v in event.obj.items()}
            made.append(attempt(self._request, obj, name, event, None, None, status))
        return [*joined, (event.record, made[0] if len(made) == 1 else made)]

    def _alone(self, event: _Event) -> tuple[Any, Result]:
        """An OpenAI body that no request followed."""
        self.held -= len(event.record.raw)
        event.body = event.obj
        return event.record, attempt(self._request, {}, None, event, None, None)

    def refused(self, record: Any) -> list[tuple[Any, Result]]:
        """A refusal in the access log, which names no request: it is that of the only one that is open."""
        found = _ACCESS.search(record.value)
        only = next(iter(self._open.values()), None)
        if found is None or only is None or len(only.left) != len(self._open):
            return [(record, Skip("other_line"))]
        settled = self._unfinished(only, int(found[1]))
        return [*settled, (record, Skip("joined_to_its_request"))]

    def oldest(self) -> list[tuple[Any, Result]]:
        """The line that has waited for longest."""
        if len(self._bodies) > len(self._open):
            return [self._alone(self._bodies.popleft())]
        return self._unfinished(next(iter(self._open.values())))

    def rest(self) -> Iterator[tuple[Any, Result]]:
        """What waits at the end of the log."""
        for event in dict.fromkeys(self._open.values()):
            yield from self._unfinished(event)
        yield from map(self._alone, self._bodies)

    def _find_body(self, begun: _Event, said: str | None) -> list[tuple[Any, Result]]:
        """Join the OpenAI body that was logged before a request: the first that fits it."""
        if begun.body is not None:
            return []
        for body in self._bodies:
            early = body.at is None or begun.at is None or 0 <= begun.at - body.at <= _STALE_US
            if early and _fits(body.obj, begun.obj, said):
                begun.body = body.obj
                begun.affinity = begun.affinity or body.affinity
                self._bodies.remove(body)
                self.held -= len(body.record.raw)
                return [(body.record, Skip("joined_to_its_request"))]
        return []

    def _learn(self, event: _Event, meta: Any) -> None:
        """How far lines are ahead of UTC: a request ends, in UTC, when its line is written, in the server's zone."""
        over = attempt(epoch_us, meta.get("request_finished_ts"), "ts") if isinstance(meta, dict) else None
        if event.at is not None and isinstance(over, int) and self._zone is None:
            ahead = round((event.at - over) / _QUARTER) * _QUARTER
            self._zone = ahead if abs(ahead) <= 14 * 4 * _QUARTER else None

    def _request(
        self,
        obj: dict[str, Any],
        name: str | None,
        begun: _Event | None,
        end: _Event | None,
        out: dict[str, Any] | None,
        status: int | None = None,
    ) -> Request | Skip:
        """A request, of the line that received it and the one that ended it, as far as they are there."""
        if out is not None and "embedding" in out:
            return Skip("embedding")
        q = Request(request_id=name)
        if obj:
            sglang.read_request(q, obj)
        if begun is not None and begun.body is not None:
            _given(q, begun.body)
            q.quality.extend(["joined_by_order"] if obj else [])
        if q.session_id is None and begun is not None and begun.affinity is not None:
            q.session_id, q.session_kind = begun.affinity, "affinity_key"
        if out is not None:
            sglang.read_response(q, out)
            q.status = "ok" if q.status == "unknown" else q.status
        elif obj:
            q.status = "incomplete"
        if status is not None:
            q.http_status, q.status = status, status_of_http(status) or q.status
        if q.arrival_us is None:
            self._by_lines(q, begun, end)
        return q

    def _by_lines(self, q: Request, begun: _Event | None, end: _Event | None) -> None:
        """Times of the lines, where the engine gave none."""
        line, zone = begun or end, self._zone
        if line is None or line.at is None or line.at < (zone or 0):
            return
        q.clock, q.arrival_quality, q.arrival_resolution_us = "absolute", "log_time", line.resolution_us
        q.arrival_us = line.at - (zone or 0)
        if zone is None:
            q.quality.append("tz_assumed")
        if begun is None and q.e2e_us is not None:
            ended(q, q.arrival_us, q.e2e_us)
        elif q.e2e_us is not None:
            q.end_us = q.arrival_us + q.e2e_us
            q.quality.append("end_is_arrival_plus_duration")


_QUARTER = 900_000_000  # us; zones are whole quarters of an hour apart


def _parsed(line: str) -> dict[str, Any]:
    """An event out of its line: JSON after a time, or `Receive: obj=..., headers=...`."""
    said = _SAID.search(line, 0, _HEAD)
    if said is None:
        try:
            value = orjson.loads(line[line.index("{") :])
        except (ValueError, orjson.JSONDecodeError):
            raise BadRecord("truncated_json", "the event is not whole JSON") from None
        if not isinstance(value, dict):
            raise BadRecord("wrong_type", "the event is not an object")
        return value
    out: dict[str, Any] = {"event": _EVENTS[said[1]]}
    at = said.end()
    while (found := _NAMED.match(line, at)) is not None:
        if line.startswith("EmbeddingReqInput", found.end()):
            return {**out, "obj": "embedding"}
        try:
            out[found[1]], at = literals.value(line, found.end())
        except literals.BadLiteral as bad:
            raise BadRecord("invalid_literal", f"{found[1]} is no Python value: {bad}") from None
    return out


def _given(q: Request, body: dict[str, Any]) -> None:
    """Fill what only the OpenAI body says: messages, tools, model, user."""
    dialect = bodies.of_request(body)
    whole = Request()
    if dialect is None or isinstance(attempt(dialect.read_request, whole, sglang.plain(body)), BadRecord):
        return
    for name in ("messages_json", "tools_json", "model_requested", "user_id", "max_output_tokens"):
        if getattr(whole, name) is not None:
            setattr(q, name, getattr(whole, name))
    q.operation = whole.operation
    q.params = {**(q.params or {}), **(whole.params or {})} or None
    q.media = q.media or whole.media
    q.stream = whole.stream if q.stream is None else q.stream
    q.cache_salt = q.cache_salt or whole.cache_salt
    if q.session_id is None:
        q.session_id, q.session_kind = whole.session_id, whole.session_kind
    if whole.messages_json is None:
        return
    halved = sglang.cut(body.get("messages"))
    if q.content_state == "absent" or (q.content_state == "truncated" and not halved):
        q.content_level, q.content_state = "text", "truncated" if halved else whole.content_state
        q.prompt_text = None  # where it is there, it was cut


def _of_batch(value: Any, place: int) -> Any:
    """One request's part of a batch's field."""
    return (
        value[place]
        if isinstance(value, list) and place < len(value)
        else None
        if isinstance(value, list)
        else value
    )


def _fits(body: dict[str, Any], obj: dict[str, Any], said: str | None) -> bool:
    """Whether an OpenAI body can be that of a request: the same parameters, its last words in the prompt."""
    given = obj.get("sampling_params")
    limit = first_of(body, ("max_completion_tokens", "max_tokens"))
    if isinstance(given, dict) and limit is not None and given.get("max_new_tokens") != limit:
        return False
    if (
        isinstance(body.get("stream"), bool)
        and isinstance(obj.get("stream"), bool)
        and body["stream"] != obj["stream"]
    ):
        return False
    asked = body.get("messages", body.get("prompt"))
    last = asked[-1] if isinstance(asked, list) and asked else asked
    last = last.get("content") if isinstance(last, dict) else last
    last = sglang.words(last)[0]
    return said is None or last is None or last[-80:].strip() in said
