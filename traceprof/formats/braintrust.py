"""Braintrust spans: export of a project's logs as spans (JSONL, JSON, Parquet), of which those of type llm are model calls.

The export of traces has one row a trace, sums of many calls, and is no log of requests. A span that was updated is taken as its
largest `_xact_id` has it, so spans are held on disk until the log's end (see `held`). One of type llm
around another repeats it, and is skipped. `metrics.time_to_first_token` of a call that
did not stream is its whole duration. Source: Braintrust docs (export, logs), braintrustdata/braintrust-sdk 02939ab.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from traceprof import bodies
from traceprof.bodies import spans
from traceprof.formats.base import (
    SESSION_KEYS,
    BadRecord,
    Has,
    Request,
    Result,
    Skip,
    attempt,
    elapsed,
    first_of,
    leftovers,
    text,
)
from traceprof.formats.held import Held, key_of

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.TEXT | Has.OUTPUTS | Has.SESSIONS
summary = "Braintrust spans of type llm (JSONL, JSON, Parquet)"

_WHOLE = (
    0.9  # share of its duration from which a first token is taken for the end of a call that did not stream
)
_RESPONSES = ("instructions", "previous_response_id", "max_output_tokens", "conversation")


def detect(record: dict[str, Any]) -> bool:
    """A span: its place in a trace and its kind."""
    return {"span_attributes", "root_span_id", "span_id"} <= record.keys()


def read_all(records: Iterable[Any]) -> Iterator[tuple[Any, Result]]:
    """All spans of one import; yields (record, what it became), other types first."""
    parents: set[int] = set()  # 64 bits of each id that a span of type llm names as its parent
    with Held() as held:
        for record in records:
            value = record.value
            about = bodies.as_object(value.get("span_attributes"))
            if about is None:
                yield record, BadRecord("missing_field", "no span_attributes")
            elif about.get("type") != "llm":
                yield record, Skip("not_a_generation")
            else:
                done = held.keep(record, text(value.get("span_id")), _rank(value.get("_xact_id")))
                if done is not None:
                    yield done
                parent = _parent(value)
                if parent is not None:
                    parents.add(key_of(parent))
        for record in held:
            name = text(record.value.get("span_id"))
            if name is not None and key_of(name) in parents:
                yield record, Skip("repeats_its_child")
            else:
                yield record, attempt(_read, record.value)


def _parent(value: dict[str, Any]) -> str | None:
    parents = bodies.decoded(value.get("span_parents"))
    return text(parents[0]) if isinstance(parents, list) and parents else None


def _rank(given: Any) -> int:
    return int(given) if str(given).isdecimal() and len(str(given)) < 20 else 0


def _read(value: dict[str, Any]) -> spans.Rows | Skip:
    about = _filled(value.get("span_attributes"))
    beside = _filled(value.get("metadata"))
    metrics = _filled(value.get("metrics"))
    if "embed" in str(about.get("name")).lower():
        return Skip("embedding")
    kind = bodies.other_kind({"model": beside.get("model"), "input": value.get("input")})
    if kind is not None:
        return Skip(kind)
    out = Request(clock="absolute", request_id=text(value.get("span_id")))
    asked = spans.asked(beside)
    _times(out, value, metrics, asked.get("stream"))
    spans.session(out, first_of(beside, SESSION_KEYS), value.get("root_span_id"))
    out.parent_request_id = _parent(value)
    out.tenant_id = text(value.get("project_id"))
    out.user_id = text(first_of(beside, ("user_id", "user")))
    out.provider = text(beside.get("provider"))
    given = bodies.decoded(value.get("input"))
    if isinstance(given, str) and any(key in asked for key in _RESPONSES):
        given = {"input": given, "model": str(asked.get("model") or "")}
    rows = spans.read_prompt(out, given, asked)
    if isinstance(rows, Request):
        spans.read_answer(out, value.get("output"))
        _usage(out, metrics)
        cached = metrics.get("cached")
        out.served_from_response_cache = bool(cached) if cached in (0, 1) else None
    for row in rows if isinstance(rows, list) else [rows]:
        if isinstance(row, Request):
            spans.settle(row, value.get("error"), out.end_us is not None)
            row.extra_json = leftovers(about, ("name",))
    return rows


def _filled(value: Any) -> dict[str, Any]:
    """An object, also out of JSON text, without the nulls of Parquet's columns."""
    return {k: v for k, v in (bodies.as_object(value) or {}).items() if v is not None}


def _times(out: Request, value: dict[str, Any], metrics: dict[str, Any], stream: Any) -> None:
    """`metrics.start` and `end` in seconds since 1970; without them the row's `created`."""
    flags = out.quality
    start, out.end_us = (spans.when(metrics.get(key), key, flags) for key in ("start", "end"))
    out.arrival_us, out.arrival_quality = start, "measured"
    if start is None:
        out.arrival_us, out.arrival_quality = spans.when(value.get("created"), "created", flags), "log_time"
    if out.arrival_us is None:
        out.clock, out.arrival_quality = "none", "none"
        return
    ttft = elapsed(metrics.get("time_to_first_token"), "time_to_first_token", 1e6, flags)
    if ttft is None or stream is False or start is None:
        return
    if stream is True or (out.end_us is not None and ttft < _WHOLE * (out.end_us - start)):
        out.ttft_us, out.first_token_us = ttft, start + ttft


def _usage(out: Request, metrics: dict[str, Any]) -> None:
    counts = spans.Counts(
        metrics.get("prompt_tokens"),
        metrics.get("completion_tokens"),
        metrics.get("prompt_cached_tokens"),
        metrics.get("prompt_cache_creation_tokens"),
        metrics.get("completion_reasoning_tokens"),
        first_of(metrics, ("tokens", "total_tokens")),
    )
    if counts.input is not None or counts.output is not None:
        spans.read_counts(out, counts)
