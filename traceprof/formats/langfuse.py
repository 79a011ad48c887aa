"""Langfuse exports: observations of the blob export (enriched `observations_v2`, legacy with their traces), of the UI and of the API.

Only GENERATION is a model call; one whose usage is the sum of its own children's repeats them. An observation that was
exported again is taken as its last `updated_at` has it, and legacy ones have their session and user in `traces`, so all are
held on disk until the log's end (see `held`). Times without a zone are UTC. Source: langfuse/langfuse 6275144614.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from traceprof import bodies
from traceprof.bodies import spans
from traceprof.formats.base import (
    BadRecord,
    Has,
    Request,
    Result,
    Skip,
    attempt,
    dumps,
    finish,
    first_of,
    leftovers,
    parse_time,
    text,
)
from traceprof.formats.held import Held, key_of

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.TEXT | Has.OUTPUTS | Has.SESSIONS
summary = "Langfuse observations: blob, UI and API exports, legacy ones with their traces (JSONL, JSON, CSV, Parquet)"

_CORE = {"trace_id", "type", "start_time", "parent_observation_id"}  # in every blob export
_UI = {"traceId", "type", "startTime"}
_UI_MORE = {"parentObservationId", "usageDetails", "usage", "modelParameters", "level", "completionStartTime"}
_READ = ("input_cached_tokens", "input_cache_read", "cache_read_input_tokens", "input_cached", "input_cache_read_tokens")  # fmt: skip
_WRITTEN = ("input_cache_creation", "cache_creation_input_tokens", "input_cache_write", "input_cache_creation_tokens")  # fmt: skip
_LABELS = ("name", "environment", "trace_name", "release", "version", "prompt_name", "prompt_version")
_THOUGHT = ("output_reasoning_tokens", "output_reasoning", "reasoning_tokens")


class _Seen(NamedTuple):
    """What is kept in memory of a trace."""

    user: str | None
    session: str | None


def detect(record: dict[str, Any]) -> bool:
    """The core columns of an observation, in either spelling, or those of a trace."""
    keys = record.keys()
    return keys >= _CORE or (keys >= _UI and not keys.isdisjoint(_UI_MORE)) or _is_trace(record)


def _is_trace(record: dict[str, Any]) -> bool:
    keys = record.keys()
    return (
        "type" not in keys
        and {"id", "timestamp", "tags", "bookmarked", "public"} <= keys
        and not keys.isdisjoint({"session_id", "sessionId"})
    )


def read_all(records: Iterable[Any]) -> Iterator[tuple[Any, Result]]:
    """All observations of one import; yields (record, what it became), traces and other types first.

    Memory holds user and session of each trace, and some 300 bytes an observation.
    """
    traces: dict[int, _Seen] = {}
    sums = _Sums()
    with Held() as held:
        for record in records:
            value = _spelled(record.value)
            if _is_trace(record.value):
                name = text(value.get("id"))
                if name is not None:
                    traces[key_of(name)] = _Seen(text(value.get("user_id")), text(value.get("session_id")))
                yield record, Skip("joined_to_its_request")
                continue
            kind = value.get("type")
            if kind != "GENERATION":
                yield record, _other(kind)
                continue
            name = text(value.get("id"))
            done = held.keep(record, name, _rank(value))
            if done is not None:
                yield done
            if done is None or done[0] is not record:
                sums.note(name, value)
        sums.close()
        for record in held:
            value = _spelled(record.value)
            name = text(value.get("id"))
            if name is not None and sums.repeats(name):
                yield record, Skip("sum_of_its_children")
            else:
                yield record, attempt(_read, value, traces)


def _other(kind: Any) -> Skip | BadRecord:
    if not isinstance(kind, str) or not kind:
        return BadRecord("missing_field", "no type of observation")
    return Skip("embedding" if kind == "EMBEDDING" else "not_a_generation")


class _Sums:
    """Usage of each observation that has any, and of the children that it is the parent of."""

    def __init__(self) -> None:
        self._own: dict[int, tuple[int | None, int, int]] = {}  # key -> parent's key, input, output
        self._children: dict[int, tuple[int, int]] = {}

    def note(self, name: str | None, value: dict[str, Any]) -> None:
        """The usage of an observation; of two updates the last noted holds."""
        usage = bodies.as_object(value.get("usage_details")) or bodies.as_object(value.get("usage")) or {}
        counts = [v if type(v := usage.get(k)) is int else 0 for k in ("input", "output")]
        parent = text(value.get("parent_observation_id"))
        if name is None:
            return
        if any(counts):
            self._own[key_of(name)] = (None if parent is None else key_of(parent), counts[0], counts[1])
        else:
            self._own.pop(key_of(name), None)

    def close(self) -> None:
        """Add up the children, once all are known."""
        for parent, given, made in self._own.values():
            if parent is not None and parent in self._own:
                before = self._children.get(parent, (0, 0))
                self._children[parent] = (before[0] + given, before[1] + made)

    def repeats(self, name: str) -> bool:
        """Whether an observation's usage is the sum of its children's."""
        key = key_of(name)
        found = self._children.get(key)
        return found is not None and found == self._own[key][1:]


_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")


def _spelled(record: dict[str, Any]) -> dict[str, Any]:
    """The columns as the blob export spells them; empty cells are none."""
    camel = "traceId" in record or "sessionId" in record
    out = {}
    for key, value in record.items():
        if isinstance(value, bytes):  # of Parquet files that ClickHouse wrote without a type for text
            value = value.decode("utf-8", "replace")
        if value is not None and value != "":
            out[_HUMP.sub("_", key).lower() if camel else key] = value
    return out


def _rank(value: dict[str, Any]) -> int:
    """Which of two updates holds: the last, and of equal ones that which has ended."""
    updated = spans.when(value.get("updated_at"), "updated_at", []) or 0
    return 2 * updated + ("end_time" in value)


def _read(value: dict[str, Any], traces: dict[int, _Seen]) -> spans.Rows:
    out = Request(clock="absolute", arrival_quality="measured", request_id=text(value.get("id")))
    flags = out.quality
    start = bodies.decoded(value.get("start_time"))
    if start is None:
        raise BadRecord("missing_field", "no start_time")
    out.arrival_us = parse_time(start, "start_time")[0]
    out.end_us = spans.when(value.get("end_time"), "end_time", flags)
    first = spans.when(value.get("completion_start_time"), "completion_start_time", flags)
    if first is not None and first == out.end_us:
        flags.append("first_token_is_end")  # some SDKs write the end there when nothing was streamed
    else:
        out.first_token_us = first
    trace = text(value.get("trace_id"))
    seen = traces.get(key_of(trace), _Seen(None, None)) if trace else _Seen(None, None)
    out.user_id = text(value.get("user_id")) or seen.user
    spans.session(out, text(value.get("session_id")) or seen.session, trace)
    out.parent_request_id = text(value.get("parent_observation_id"))
    out.tenant_id = text(value.get("project_id"))
    out.model_requested = text(first_of(value, ("provided_model_name", "model")))
    beside = spans.asked(value.get("model_parameters"))
    rows = spans.read_prompt(out, value.get("input"), beside)
    if isinstance(rows, Request):
        if out.messages_json is not None and out.tools_json is None:
            _tools(out, value.get("tool_definitions"))
        spans.read_answer(out, value.get("output"))
        _usage(out, value)
        out.finish_reason = out.finish_reason or finish(text(beside.get("finishReason")))
    failed = value.get("level") == "ERROR"
    ended = out.end_us is not None or value.get("output") is not None
    for row in rows if isinstance(rows, list) else [rows]:
        if isinstance(row, Request):
            spans.settle(row, failed and (value.get("status_message") or "error"), ended)
            row.extra_json = leftovers(value, _LABELS)
    return rows


def _tools(out: Request, given: Any) -> None:
    """Definitions by name, each as JSON text, where the input did not hold the tools themselves."""
    found = bodies.as_object(given)
    if not found:
        return
    tools = []
    for name, told in found.items():
        told = bodies.as_object(told)
        if told is None:
            out.quality.append("bad_tool_definitions")
            return
        tools.append(told if "function" in told else {"type": "function", "function": {"name": name, **told}})
    out.tools_json = dumps(tools)
    out.quality.append("tools_order_assumed")


def _usage(out: Request, value: dict[str, Any]) -> None:
    """Counts of `usage_details`, whose keys vary and whose `input` mostly leaves out what was cached; the sum tells."""
    usage = bodies.as_object(value.get("usage_details")) or bodies.as_object(value.get("usage"))
    if not usage or str(usage.get("unit") or "TOKENS").upper() != "TOKENS":
        return
    read, written, thought = (first_of(usage, keys) for keys in (_READ, _WRITTEN, _THOUGHT))
    known = (*_READ, *_WRITTEN, *_THOUGHT)
    others = [
        sum(v for k, v in usage.items() if k.startswith(side) and k not in known and type(v) is int and not k.endswith("cost"))
        for side in ("input_", "output_")
    ]  # fmt: skip
    counts = spans.Counts(
        first_of(usage, ("input", "prompt_tokens", "promptTokens")),
        first_of(usage, ("output", "completion_tokens", "completionTokens")),
        read,
        written,
        thought,
        first_of(usage, ("total", "total_tokens", "totalTokens")),
        *others,
    )
    spans.read_counts(out, counts)
