"""inference-perf's OTel replay: a session a line, its requests as spans, sent with the recorded history.

A request waits for the closest one of its session that had ended when it began, then for the time between. When a session begins is
up to the run (`concurrent_sessions`, `session_rate`). The file is read as a data set of the `datasets` library.
Source: inference-perf 0.7.0, datagen/replay/otel_trace_replay_datagen.py and otel_trace_to_replay_graph.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from traceprof.workload.exports.prompts import json_line, user_messages

if TYPE_CHECKING:
    from traceprof.workload.exports import Told
    from traceprof.workload.exports.prompts import Prompts, Row

TOOL = "inference-perf (otel_trace_replay)"
CHECKED = "0.7.0"
CARRIES = frozenset({"prompts", "messages", "tools", "models", "sessions", "think times"})
BLOCK_SIZE: int | None = None
SUFFIX = ""

_START = datetime(2026, 1, 1, tzinfo=UTC)


def lines(prompts: Prompts) -> Iterator[bytes]:
    """A line a session, in the order in which their last requests arrive; only sessions that go on are held."""
    last, ends = _outline(prompts)
    going: dict[str, list[dict[str, Any]]] = {}
    for row in prompts.rows(lengths=True):
        if row.endpoint == "ids":
            prompts.refuse("requests of token ids")
            continue
        session = row.session or row.request_id
        span = _span(row, session, ends.get(row.number), prompts.asked_model)
        if row.session is None:
            yield _session(session, [span])
            continue
        going.setdefault(session, []).append(span)
        if last[session] == row.number:
            yield _session(session, going.pop(session))
    for session in list(going):  # the last request of such a session was refused
        yield _session(session, going.pop(session))


def _outline(prompts: Prompts) -> tuple[dict[str, int], dict[int, int]]:
    """Of each session the index of its last request; of each request whose end a later one's think time tells, that end."""
    last: dict[str, int] = {}
    ends: dict[int, int] = {}
    for batch in prompts.workload.batches(["index", "session_id", "parent", "arrival_us", "think_us"]):
        for row in batch.to_pylist():
            if row["session_id"] is not None:
                last[row["session_id"]] = row["index"]
            if row["parent"] is not None and row["think_us"] is not None:
                ends.setdefault(row["parent"], row["arrival_us"] - row["think_us"])
    return last, ends


def _span(row: Row, session: str, told_end_us: int | None, model: str | None) -> dict[str, Any]:
    """All have the same keys, since their types are told by the first of a file; the number keeps two that are equal apart."""
    end_us = row.end_us if row.end_us is not None else told_end_us
    name = model or row.model or ""
    return {
        "trace_id": session,
        "span_id": row.request_id,
        "name": f"chat {name}",
        "kind": "SPAN_KIND_CLIENT",
        "start_time": _moment(row.arrival_us),
        "end_time": _moment(row.arrival_us if end_us is None else max(end_us, row.arrival_us)),
        "attributes": {
            "traceprof.index": row.number,
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": name,
            "gen_ai.request.max_tokens": row.output_tokens,
            "gen_ai.usage.input_tokens": row.input_tokens,
            "gen_ai.usage.output_tokens": row.output_tokens,
            "gen_ai.input.messages": json.dumps(user_messages(row), ensure_ascii=False),
            "gen_ai.tool.definitions": row.tools or "[]",
        },
        "status": {"code": 1},
    }


def _session(session: str, spans: list[dict[str, Any]]) -> bytes:
    return json_line(
        {
            "trace_id": session,
            "session_id": session,
            "source_id": session,
            "span_count": len(spans),
            "spans": spans,
        }
    )


def _moment(us: int) -> str:
    return (_START + timedelta(microseconds=us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def command(path: str, told: Told) -> str:
    """The settings of a run; gaps between turns are kept, which it cuts at 15 s unless told otherwise."""
    return f"""inference-perf --config_file run.yml   # run.yml:
api: {{type: chat, streaming: true}}
server: {{type: vllm, model_name: {told.model}, base_url: "http://localhost:8000", ignore_eos: true}}
tokenizer: {{pretrained_model_name_or_path: {told.model}}}
data:
  type: otel_trace_replay
  otel_trace_replay:
    hf_dataset_path: {{path: json, data_files: "{path}"}}
    use_static_model: true
    static_model_name: {told.model}
    max_wait_ms: 86400000
load: {{type: trace_session_replay, stages: [{{concurrent_sessions: 8}}]}}"""
