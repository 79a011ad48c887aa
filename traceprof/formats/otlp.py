"""OTLP JSON: export requests of spans and of log records, as the collector's file exporter and the SDKs' write them.

One export request a line, or one document; also Tempo's `batches`, Jaeger's traces, single spans, and what the Python SDK's console
exporter prints. What a span means is told by `bodies.conventions`. Content may stand in log records (semantic conventions 1.28
to 1.36, and events of later ones), which are joined to their span by its ids, in any order over all files of an import.

Memory: a line whose calls hold their prompts is read and forgotten. One with a call that does not waits for log records until the
end of the log, on disk (see `held`), as the log records do. In memory stay 8 bytes a span of a model, tool or agent, 16 a log record,
and the ids of the last 131,072 spans, to take once a call that several spans tell of. Log records whose span never came make
a request of their own, and its row says `no_span`.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from traceprof.bodies import genai, layouts
from traceprof.bodies.conventions import Calls, flat, key_of, lacks, other_kind, read
from traceprof.bodies.otel import Event, Span
from traceprof.formats.base import Has, Request, Result, Skip, attempt, dumps
from traceprof.formats.held import Held

if TYPE_CHECKING:
    from numpy.typing import NDArray

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.TEXT | Has.OUTPUTS | Has.SESSIONS
summary = "OTLP JSON, spans and logs: GenAI conventions, OpenLLMetry, OpenInference, AI SDK, vLLM, SGLang (JSON, JSONL)"

_JOINED = "joined_to_its_request"


def detect(record: dict[str, Any]) -> bool:
    """An export request of any signal, a trace of Tempo or Jaeger, or one span."""
    signals = (*layouts.SPANS, *layouts.LOGS, *layouts.METRICS)
    return layouts.groups(record, signals) is not None or layouts.is_jaeger(record) or layouts.is_single(record)  # fmt: skip


def read_all(records: Iterable[Any]) -> Iterator[tuple[Any, Result]]:
    """All records of one import; those that wait come last."""
    calls = Calls()
    with Held() as waiting, Held() as engines, Held() as logs, _Shelf() as shelf:
        for record in records:
            found = attempt(layouts.spans_of, record.value)
            if found is None:
                entries = attempt(_shelved, record.value, shelf)
                if not isinstance(entries, list):
                    yield record, entries
                elif any(isinstance(entry, int) for entry in entries):
                    light = record._replace(raw=b"", value=entries)
                    yield from filter(None, [logs.keep(light, None)])
                else:
                    yield record, [Skip(entry) for entry in entries]
            elif not isinstance(found, list):
                yield record, found
            else:
                lack = {lacks(span) for span in found if other_kind(span) is None}
                if "prompt" in lack or "client" in lack:
                    kept = (waiting if "prompt" in lack else engines).keep(record, None)
                    yield from filter(None, [kept])
                else:
                    yield record, calls.take_all(found) or Skip("no_spans")
        shelf.close()
        for record in itertools.chain(waiting, engines):
            found = layouts.spans_of(record.value) or []
            for span in found:
                span.events.extend(shelf.of(key_of(span.trace_id, span.span_id)).events)
            yield record, calls.take_all(found)
        seen = np.unique(np.array(calls.seen, np.int64))
        for record in logs:
            yield record, flat([_of_entry(entry, shelf, seen) for entry in record.value])


def _shelved(record: dict[str, Any], shelf: _Shelf) -> list[Any] | Skip:
    """Put the log records of a line on the shelf: of each its place there, or why it tells of no request."""
    out: list[Any] = []
    for one in layouts.logs_of(record):
        event = one.events[0]
        if not genai.belongs(event):
            out.append("other_log")
        elif one.span_id is None and not genai.is_whole(event):
            out.append("message_of_no_span")
        else:
            out.append(shelf.put(one))
    return out or Skip("no_spans")


def _of_entry(entry: Any, shelf: _Shelf, seen: NDArray[np.int64]) -> Any:
    """What a log record became: part of a call, whose span it was joined to; without the span, its first one is the call."""
    if not isinstance(entry, int):
        return Skip(entry)
    place = int(np.searchsorted(seen, shelf.keys[entry]))
    if place < len(seen) and seen[place] == shelf.keys[entry]:
        return Skip(_JOINED)
    return _without_span(shelf.of(shelf.keys[entry])) if shelf.is_first(entry) else Skip(_JOINED)


def _without_span(span: Span) -> Any:
    """A call known by its log records only: it arrives with the first, and ends with its choice."""
    whole = [e for e in span.events if genai.is_whole(e)]
    for event in whole:
        span.attributes.update(event.attributes)
    if whole and (other := other_kind(span)) is not None:
        return Skip(other)
    choices = [e.at for e in span.events if e.name == "gen_ai.choice" and isinstance(e.at, int)]
    span.end = max(choices, default=None)
    row = read(span)
    if isinstance(row, Request):
        row.arrival_quality = "log_time"
        row.quality.append("no_span")
        if row.status == "incomplete":  # nothing tells of its end
            row.status = "ok" if whole else "unknown"
    return row


class _Shelf:
    """Log records that belong to spans, in the order of the log; found by their span once the log has ended.

    They lie in memory up to 64 MiB, then in a temporary file.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(1 << 26, prefix="traceprof-")  # noqa: SIM115  closed by __exit__
        self.keys = array("q")
        self._offsets = array("q")
        self._end = 0
        self._order: NDArray[np.int64] = np.empty(0, np.int64)
        self._sorted: NDArray[np.int64] = np.empty(0, np.int64)

    def __enter__(self) -> _Shelf:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def put(self, one: Span) -> int:
        """Keep a log record; gives its place."""
        event, place = one.events[0], len(self.keys)
        at = event.at if isinstance(event.at, int) else None
        names = ("service.name", "deployment.environment.name", "deployment.environment")
        resource = {k: v for k in names if isinstance(v := one.resource.get(k), str)}
        line = (
            dumps([one.trace_id, one.span_id, event.name, at, event.attributes, resource, one.scope]) + b"\n"
        )
        self._file.seek(self._end)
        self._file.write(line)
        # one that names no span is a call by itself
        self.keys.append(key_of(one.trace_id, one.span_id) if one.span_id else key_of("log", str(place)))
        self._offsets.append(self._end)
        self._end += len(line)
        return place

    def close(self) -> None:
        """No more will be put: from now on it can be searched."""
        keys = np.array(self.keys, np.int64)
        self._order = np.argsort(keys, kind="stable")
        self._sorted = keys[self._order]

    def is_first(self, place: int) -> bool:
        """Whether the record at a place is the first of its span."""
        return bool(self._order[np.searchsorted(self._sorted, self.keys[place])] == place)

    def of(self, key: int) -> Span:
        """A span of what was logged for it, by time; the same record twice, as in overlapping exports, is one."""
        low, high = np.searchsorted(self._sorted, key), np.searchsorted(self._sorted, key, "right")
        span = Span(None, None, None, "", None, None, {})
        lines: dict[bytes, None] = {}
        for place in self._order[low:high]:
            self._file.seek(self._offsets[place])
            lines[self._file.readline()] = None
        for line in lines:
            span.trace_id, span.span_id, name, at, told, span.resource, span.scope = _loaded(line)
            span.events.append(Event(name, at, told))
        span.events.sort(key=lambda e: e.at if isinstance(e.at, int) else 0)
        span.start = next((e.at for e in span.events if isinstance(e.at, int)), None)
        return span


def _loaded(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return json.loads(line)  # takes NaN, which `dumps` may have written
