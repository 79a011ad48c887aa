"""LangSmith runs: JSONL of `list_runs` or the export API, and the bulk export (Parquet, in which inputs and outputs are JSON text).

Only runs of type llm are model calls, and of those around one another only the innermost, so they are held on disk until the log's
end (see `held`); a run that was exported again once it had ended takes the place of the one before. The session is what the program
wrote to `extra.metadata`; the top-level `session_id` is the project. Large inputs lie in another place (`inputs_s3_urls`) and are
absent here. Times without a zone are UTC. Source: langchain-ai/langsmith-sdk bc8dd672a and 012d990, docs run-data-format 06aee259,
data-export 09798759.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from traceprof import bodies
from traceprof.bodies import langchain, spans
from traceprof.formats.base import (
    SESSION_KEYS,
    BadRecord,
    Has,
    Request,
    Result,
    Skip,
    attempt,
    count,
    first_of,
    leftovers,
    parse_time,
    text,
)
from traceprof.formats.held import Held, key_of

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.TEXT | Has.OUTPUTS | Has.SESSIONS
summary = "LangSmith runs, also of the bulk export (JSONL, JSON, Parquet)"

_LS = {"ls_model_name": "model", "ls_temperature": "temperature", "ls_max_tokens": "max_tokens", "ls_stop": "stop"}  # fmt: skip


def detect(record: dict[str, Any]) -> bool:
    """A run: its type, and its place in the tree of a trace."""
    return "run_type" in record and ("dotted_order" in record or {"trace_id", "start_time", "inputs"} <= record.keys())  # fmt: skip


def read_all(records: Iterable[Any]) -> Iterator[tuple[Any, Result]]:
    """All runs of one import; yields (record, what it became), other types first."""
    parents: set[int] = set()  # 64 bits of each id that an llm run names as its parent
    with Held() as held:
        for record in records:
            value = record.value
            kind = value.get("run_type")
            if not isinstance(kind, str):
                yield record, BadRecord("missing_field", "no run_type")
            elif kind != "llm":
                yield record, Skip("embedding" if kind == "embedding" else "not_a_generation")
            else:
                parent = text(value.get("parent_run_id"))
                if parent is not None:
                    parents.add(key_of(parent))
                done = held.keep(record, text(value.get("id")), int(value.get("end_time") not in (None, "")))
                if done is not None:
                    yield done
        for record in held:
            name = text(record.value.get("id"))
            if name is not None and key_of(name) in parents:
                yield record, Skip("repeats_its_child")
            else:
                yield record, attempt(_read, record.value)


def _read(record: dict[str, Any]) -> spans.Rows:
    out = Request(clock="absolute", arrival_quality="measured", request_id=text(record.get("id")))
    extra = bodies.as_object(record.get("extra")) or {}
    about = bodies.as_object(extra.get("metadata")) or {}
    _times(out, record)
    spans.session(out, first_of(about, SESSION_KEYS), record.get("trace_id"))
    out.parent_request_id = text(record.get("parent_run_id"))
    out.tenant_id = text(record.get("tenant_id"))
    out.app = text(record.get("session_name"))
    out.user_id = text(about.get("user_id"))
    out.provider = text(about.get("ls_provider"))
    beside = spans.asked(extra.get("invocation_params"))
    named = spans.asked({_LS[k]: v for k, v in about.items() if k in _LS})
    beside.setdefault("model", beside.get("model_name"))
    beside = {**named, **{k: v for k, v in beside.items() if v is not None}}
    inputs = bodies.decoded(record.get("inputs"))
    rows = spans.read_prompt(out, inputs, beside)
    if not inputs and _offloaded(record, "inputs"):
        out.quality.append("prompt_offloaded")
    if isinstance(rows, Request):
        outputs = bodies.decoded(record.get("outputs"))
        spans.read_answer(out, outputs)
        _counts(out, record, outputs)
    ended = record.get("end_time") not in (None, "")
    pending = record.get("status") == "pending"
    for row in rows if isinstance(rows, list) else [rows]:
        if isinstance(row, Request):
            failed = record.get("error") or (record.get("status") == "error" and "error")
            spans.settle(row, failed, ended and not pending)
            row.extra_json = leftovers(record, ("name", "trace_tier"))
    return rows


def _times(out: Request, record: dict[str, Any]) -> None:
    if record.get("start_time") in (None, ""):
        raise BadRecord("missing_field", "no start_time")
    out.arrival_us = parse_time(record["start_time"], "start_time")[0]
    out.end_us = spans.when(record.get("end_time"), "end_time", out.quality)
    out.first_token_us = spans.when(record.get("first_token_time"), "first_token_time", out.quality)
    events = bodies.decoded(record.get("events"))
    if out.first_token_us is None and isinstance(events, list):
        first = next((e for e in events if isinstance(e, dict) and e.get("name") == "new_token"), {})
        out.first_token_us = spans.when(first.get("time"), "first_token_time", out.quality)


def _offloaded(record: dict[str, Any], what: str) -> bool:
    """Whether inputs or outputs were too large for the row, which then has where they lie."""
    elsewhere = bodies.as_object(record.get("s3_urls")) or {}
    return bool(bodies.decoded(record.get(f"{what}_s3_urls")) or elsewhere.get(what))


def _counts(out: Request, record: dict[str, Any], outputs: Any) -> None:
    """Usage of the answer, else that of the run, which says 0 for a call that failed."""
    if out.input_tokens is None and isinstance(outputs, dict):
        langchain.read_usage(out, outputs.get("usage_metadata"))
    if out.input_tokens is not None or out.output_tokens is not None:
        return
    given = count(record.get("prompt_tokens"), "prompt_tokens", out.quality)
    made = count(record.get("completion_tokens"), "completion_tokens", out.quality)
    if not given and not made:
        return
    details = bodies.as_object(record.get("prompt_token_details")) or {}
    langchain.read_usage(
        out,
        {
            "input_tokens": given,
            "output_tokens": made,
            "input_token_details": details,
            "output_token_details": bodies.as_object(record.get("completion_token_details")),
        },
    )
