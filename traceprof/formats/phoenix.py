"""Arize Phoenix: rows of a spans dataframe (JSONL, CSV, Parquet), a saved TraceDataset (Parquet), and spans of its REST API.

A column is a field of the span or an attribute of OpenInference; messages are lists with dotted names, in CSV as Python or numpy
writes them, which is parsed as a literal up to 1 MiB and never run. JSON cuts times to ms. Calls that several spans tell of are
taken once, the innermost. Source: Arize-ai/phoenix 9478f954 (trace_dataset.py).
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Iterator
from typing import Any

from traceprof.bodies import decoded, literals
from traceprof.bodies.conventions import Calls
from traceprof.bodies.openinference import KIND
from traceprof.bodies.otel import Event, Span, attributes, hex_id, is_failure, items, moment
from traceprof.formats.base import Has, Result, attempt, get, text

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.TEXT | Has.OUTPUTS | Has.SESSIONS
summary = "Arize Phoenix spans: dataframe rows and TraceDataset (JSONL, CSV, Parquet)"

_LITERAL_BYTES = 1 << 20


def detect(record: dict[str, Any]) -> bool:
    """The ids of a span beside its kind and the time it began."""
    if not {"span_kind", "start_time"} <= record.keys():
        return False
    return "context.span_id" in record or "context.trace_id" in record or isinstance(record.get("context"), dict)  # fmt: skip


def read_all(records: Iterable[Any]) -> Iterator[tuple[Any, Result]]:
    """All spans of one import, in the order of the log; of those that lie within one another the first that tells of the call counts."""
    calls = Calls()
    for record in records:
        span = attempt(_span, record.value)
        yield record, calls.take_all([span]) if isinstance(span, Span) else span


def _span(row: dict[str, Any]) -> Span:
    cells = {k: v for k, v in row.items() if not _is_empty(v)}
    context = cells.get("context")
    notes: list[str] = []
    given = {k.removeprefix("attributes."): _cell(v) for k, v in cells.items() if k.startswith("attributes.")}
    given.update(attributes(cells))
    if text(cells.get("span_kind")):
        given[KIND] = text(cells["span_kind"])
    events = decoded(_cell(cells.get("events")))
    return Span(
        trace_id=hex_id(cells.get("context.trace_id") or get(context, "trace_id")),
        span_id=hex_id(cells.get("context.span_id") or get(context, "span_id")),
        parent_id=hex_id(cells.get("parent_id")),
        name=text(cells.get("name")) or "",
        start=moment(cells.get("start_time"), "start_time", notes),
        end=moment(cells.get("end_time"), "end_time", notes),
        attributes=given,
        events=[
            Event(text(e.get("name")) or "", moment(e.get("timestamp"), "timestamp", notes), attributes(e))
            for e in items({"events": events}, "events")
        ],
        failed=is_failure(cells.get("status_code")),
        message=text(cells.get("status_message")),
        quality=notes,
    )


def _is_empty(value: Any) -> bool:
    """Whether a cell is empty: a dataframe has one in every row for each column that any row fills."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _cell(value: Any) -> Any:
    """A cell of CSV in which a list or object stands as Python writes it; any other as it is."""
    if not isinstance(value, str) or value[:2] not in ("[{", "{'", "['") or len(value) > _LITERAL_BYTES:
        return value
    if value[:2] == "[{" and value[2:3] == '"':  # JSON
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return _of_numpy(value)


def _of_numpy(value: str) -> Any:
    """A list out of what numpy writes, which has no commas: a dataframe read from Parquet holds its arrays."""
    try:
        found, end = literals.value(value)
    except literals.BadLiteral:
        return value
    return found if end == len(value.rstrip()) else value
