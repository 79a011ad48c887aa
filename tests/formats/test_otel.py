"""Facts of OpenTelemetry logs: OTLP with spans and log records, Phoenix, and the traces that inference-perf replays."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import SAMPLES, jsonl, reasons, rows, sample_records
from test_bad_input import WRONG

from traceprof.bodies import aisdk, conventions, otel
from traceprof.errors import TraceprofError
from traceprof.formats import otlp
from traceprof.formats.base import Skip
from traceprof.ingest import Record
from traceprof.trace import Trace

Ingested = Callable[..., Trace]
START = 1_787_313_600  # s since 1970
ASKED = [{"role": "user", "parts": [{"type": "text", "content": "Where is it?"}]}]
CHAT = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "m",
    "gen_ai.input.messages": json.dumps(ASKED),
}
BARE = {k: v for k, v in CHAT.items() if k != "gen_ai.input.messages"}


def any_value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": value}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [any_value(v) for v in value]}}
    if isinstance(value, dict):
        return {"kvlistValue": {"values": [{"key": k, "value": any_value(v)} for k, v in value.items()]}}
    return {"stringValue": value}


def pairs(given: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": k, "value": any_value(v)} for k, v in given.items()]


def ns(second: float) -> str:
    return str(START * 10**9 + round(second * 10**9))


def span(
    number: int, given: dict[str, Any], at: tuple[float, float] = (0, 1), parent: int = 0, **more: Any
) -> dict[str, Any]:
    """Span `number` of one trace, with these attributes, from and to a second."""
    return {
        "traceId": "ab" * 16, "spanId": f"{number:016x}", "parentSpanId": f"{parent:016x}" if parent else "", "name": "x",
        "startTimeUnixNano": ns(at[0]), "endTimeUnixNano": ns(at[1]), "attributes": pairs(given), **more,
    }  # fmt: skip


def spans(*found: dict[str, Any], scope: str = "") -> dict[str, Any]:
    return {"resourceSpans": [{"scopeSpans": [{"scope": {"name": scope}, "spans": list(found)}]}]}


def log(number: int, name: str, body: Any = None, at: float = 0, **given: Any) -> dict[str, Any]:
    """A log record of span `number`."""
    return {
        "traceId": "ab" * 16, "spanId": f"{number:016x}", "observedTimeUnixNano": ns(at), "eventName": name,
        "body": any_value(body) if body is not None else {}, "attributes": pairs(given),
    }  # fmt: skip


def logs(*found: dict[str, Any]) -> dict[str, Any]:
    return {"resourceLogs": [{"scopeLogs": [{"logRecords": list(found)}]}]}


def prompts(trace: Trace) -> dict[str, Any]:
    """The messages of each request, by its id."""
    return {
        c["request_id"]: c["messages_json"] and json.loads(c["messages_json"]) for c in rows(trace, "content")
    }


def skipped(trace: Trace) -> dict[str, int]:
    found: dict[str, int] = trace.manifest["skipped_by_reason"]
    return found


# -- log records -----------------------------------------------------------------------------------------------

TOLD = [
    log(1, "gen_ai.system.message", {"content": "Be terse."}, at=0.1),
    log(1, "gen_ai.user.message", {"content": "Where is it?"}, at=0.2),
    log(1, "gen_ai.choice", {"index": 0, "finish_reason": "stop", "message": {"content": "Here."}}, at=0.9),
]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_log_records_join_their_span_in_any_order(
    order: tuple[int, ...], ingested: Ingested, tmp_path: Path
) -> None:
    """A span and its messages may come in any order, on one line of a file or over several files."""
    parts = [spans(span(1, BARE)), logs(TOLD[2], TOLD[0]), logs(TOLD[1])]
    for one_file in (True, False):
        folder = tmp_path / str(one_file)
        folder.mkdir()
        for place, i in enumerate(order):
            with (folder / f"{0 if one_file else place}.jsonl").open("ab") as file:
                file.write(jsonl([parts[i]]))
        trace = ingested(folder)
        assert prompts(trace)[f"{1:016x}"] == [
            {"role": "system", "content": "Be terse."},
            {"role": "user", "content": "Where is it?"},
        ]
        (row,) = rows(trace)
        assert (row["finish_reason"], row["arrival_quality"]) == ("stop", "measured")
        assert skipped(trace) == {"joined_to_its_request": 3}
        assert trace.manifest["source_records"] == 3


def test_log_records_without_their_span_are_a_request(ingested: Ingested) -> None:
    """Their first one is when it arrives at the latest, their choice is its end; the row says that there was no span."""
    trace = ingested([logs(*TOLD), logs(log(2, "gen_ai.user.message", {"content": "And?"}, at=5))])
    first, second = rows(trace)
    assert (first["arrival_quality"], first["quality"], first["status"]) == ("log_time", ["no_span"], "ok")
    assert [first[k].timestamp() - START for k in ("arrival_ts", "end_ts")] == pytest.approx([0.1, 0.9])
    assert (second["status"], second["end_ts"]) == ("unknown", None)
    assert skipped(trace) == {"joined_to_its_request": 2}


def test_log_records_of_overlapping_exports_are_taken_once(ingested: Ingested) -> None:
    """The same log record twice is one message."""
    trace = ingested([logs(*TOLD), spans(span(1, BARE)), logs(*TOLD[1:])])
    assert [m["role"] for m in prompts(trace)[f"{1:016x}"]] == ["system", "user"]
    assert skipped(trace) == {"joined_to_its_request": 5}


def test_an_event_of_details_is_a_call_even_without_ids(ingested: Ingested) -> None:
    """It holds all of a call but its beginning; a message that names no span belongs to nobody."""
    event = log(0, "gen_ai.client.inference.operation.details", at=3, **BARE, **{"gen_ai.input.messages": ASKED, "gen_ai.usage.input_tokens": 4})  # fmt: skip
    trace = ingested([logs(event, {**event}, log(0, "gen_ai.user.message", {"content": "?"})), logs(log(3, "app.ready", "x"))])  # fmt: skip
    assert [(r["input_tokens"], r["quality"], r["status"]) for r in rows(trace)] == [(4, ["no_span"], "ok")] * 2  # fmt: skip
    assert skipped(trace) == {"message_of_no_span": 1, "other_log": 1}


def test_content_on_the_span_is_not_held(ingested: Ingested) -> None:
    """A line whose calls hold their prompts is given out before the next one is read; one that waits, at the end."""
    read = []

    def records() -> Any:
        for row, value in enumerate([spans(span(1, CHAT)), spans(span(2, BARE)), spans(span(3, CHAT))]):
            read.append(row)
            yield Record("f", row, b"{}", value)

    out = []
    for record, result in otlp.read_all(records()):
        assert isinstance(result, list)
        out.append((record.row, len(read), result[0].content_state))
    assert out == [(0, 1, "complete"), (2, 3, "complete"), (1, 3, "absent")]


def test_events_of_a_tools_span_are_no_call(ingested: Ingested) -> None:
    """Messages logged within the span of an agent or a tool belong to that span."""
    trace = ingested(
        [logs(log(1, "gen_ai.user.message", {"content": "x"})), spans(span(1, {"gen_ai.operation.name": "invoke_agent"}))]
    )  # fmt: skip
    assert skipped(trace) == {"joined_to_its_request": 1, "agent": 1} and not rows(trace)


def test_consent_not_given(ingested: Ingested) -> None:
    """Events without content tell no prompt: the row has its counts, and no text."""
    events = [log(1, "gen_ai.user.message"), log(1, "gen_ai.choice", {"index": 0, "finish_reason": "length", "message": {"role": "assistant"}})]  # fmt: skip
    trace = ingested([spans(span(1, {**BARE, "gen_ai.usage.input_tokens": 7})), logs(*events)])
    (row,) = rows(trace)
    assert (row["content_state"], row["input_tokens"], row["finish_reason"]) == ("absent", 7, "length")


# -- spans within spans ------------------------------------------------------------------------------------------

NESTED = [
    span(1, BARE | {"gen_ai.system": "adk"}, (0, 10)),
    span(2, {"http.request.method": "POST"}, (1, 9), parent=1),
    span(3, CHAT, (2, 8), parent=2),
]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_call_that_several_spans_tell_of_counts_once(order: tuple[int, ...], ingested: Ingested) -> None:
    """Whether they stand on one line or on three, and in which order: one request, with the prompt."""
    lines = [NESTED[i] for i in order]
    for log_ in ([spans(*lines)], [spans(line) for line in lines]):
        trace = ingested(log_)
        assert [r["request_id"] for r in rows(trace)] == [f"{3:016x}"]
        found = skipped(trace)
        assert found.pop("other_span") == 1
        assert found in ({"wraps_another_call": 1}, {"part_of_another_call": 1})


def test_a_call_below_a_tool_is_another(ingested: Ingested) -> None:
    """What a tool or an agent asks of a model is a call of its own, though it lies within the call that used the tool."""
    tool = span(2, {"gen_ai.operation.name": "execute_tool"}, (1, 9), parent=1)
    trace = ingested([spans(span(1, CHAT, (0, 10)), tool, span(3, CHAT, (2, 8), parent=2))])
    assert len(rows(trace)) == 2 and skipped(trace) == {"tool": 1}


def test_a_child_that_begins_after_its_parent_is_the_next_turn(ingested: Ingested) -> None:
    """Some emitters chain the turns of a conversation as parents and children: all of them are calls."""
    turns = [span(n, CHAT, (n * 2, n * 2 + 1), parent=n - 1) for n in (1, 2, 3)]
    for log_ in ([spans(*turns)], [spans(t) for t in turns], [spans(t) for t in reversed(turns)]):
        assert len(rows(ingested(log_))) == 3


def test_an_engines_span_gives_way_to_its_client(ingested: Ingested) -> None:
    """A span of vLLM within the call of a traced client is that call; alone it is a request without text."""
    engine = span(2, {"gen_ai.request.id": "r", "gen_ai.latency.e2e": 0.5, "gen_ai.usage.prompt_tokens": 3}, (0.2, 0.7), parent=1)  # fmt: skip
    for client in (CHAT, BARE):
        trace = ingested([spans(engine, scope="vllm.llm_engine"), spans(span(1, client))])
        assert [r["request_id"] for r in rows(trace)] == [f"{1:016x}"]
        assert skipped(trace) == {"part_of_another_call": 1}
    (row,) = rows(ingested([spans(engine, scope="vllm.llm_engine")]))
    assert (row["provider"], row["content_state"], row["e2e_us"]) == ("vllm", "absent", 500_000)


@pytest.mark.parametrize("apart", [False, True])
def test_the_span_around_a_call_counts_when_only_it_holds_the_prompt(ingested: Ingested, apart: bool) -> None:
    """Two instrumentations of one process, of which one records content: the prompt is kept, whether one export holds both or two do."""
    outer = span(1, {"openinference.span.kind": "LLM", "llm.input_messages.0.message.role": "user",
                     "llm.input_messages.0.message.content": "hello"}, (0, 2))  # fmt: skip
    inner = span(2, BARE, (0.5, 1.5), parent=1)
    trace = ingested([spans(inner), spans(outer)] if apart else [spans(inner, outer)])
    assert prompts(trace) == {f"{1:016x}": [{"role": "user", "content": "hello"}]}
    assert skipped(trace) == {"part_of_another_call": 1}


def test_two_calls_within_one_that_holds_a_prompt_are_two(ingested: Ingested) -> None:
    """Attempts below a router's span are calls of their own, with or without a prompt: none is lost for its text."""
    router = span(1, CHAT, (0, 9))
    trace = ingested([spans(span(2, BARE, (1, 2), parent=1), span(3, BARE, (3, 4), parent=1), router)])
    assert {r["request_id"] for r in rows(trace)} == {f"{2:016x}", f"{3:016x}"}


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch, ingested: Ingested) -> None:
    """Of spans within spans only the last are remembered; calls are still counted when more came between."""
    monkeypatch.setattr(conventions, "RECENT", 4)
    calls = conventions.Calls()
    found = [calls.take_all([_span(n, 1000 + n)]) for n in range(50)]
    assert not any(isinstance(one, Skip) for (one,) in found)
    assert max(map(len, (calls._taken, calls._above, calls._below))) <= 4 and len(calls.seen) == 50


def _span(number: int, parent: int) -> otel.Span:
    return otel.Span("t", str(number), str(parent), "", number * 10, number * 10 + 5, dict(CHAT))


def test_overlapping_exports_are_duplicates(ingested: Ingested) -> None:
    """The same span twice is the same request twice."""
    trace = ingested([spans(span(1, CHAT)), spans(span(1, CHAT))])
    assert reasons(trace) == {"duplicate_request_id": 1} and len(rows(trace)) == 1


# -- encodings -----------------------------------------------------------------------------------------------------


def test_ids_and_numbers_of_all_encoders() -> None:
    """Hex of either case, base64, a 0x prefix; integers as numbers or digits; a field that is set among nulls."""
    assert {otel.hex_id(x) for x in ("051581BF3CB55C13", "BRWBvzy1XBM=", "0x051581bf3cb55c13")} == {"051581bf3cb55c13"}  # fmt: skip
    assert otel.hex_id("0" * 16) is None and otel.hex_id("") is None
    assert otel.plain({"intValue": "-7"}) == otel.plain({"int_value": -7}) == -7
    assert otel.plain({"stringValue": None, "boolValue": False}) is False
    assert otel.nanos("1787313600123456789", "t") == otel.nanos(1787313600123456789, "t") == 1787313600123456


@pytest.mark.parametrize("name", ["otlp.sdk", "otlp.console", "otlp.phoenix"])
def test_real_exports_of_one_session_say_the_same(name: str, ingested: Ingested) -> None:
    """Each capture holds the same session: a tool call, its result, a stream and an error, whatever the encoder."""
    trace = ingested(next(SAMPLES.glob(f"{name}.*")))
    found = rows(trace)
    for at in range(0, len(found), 4):
        tool, answer, stream, error = found[at : at + 4]
        assert [r["finish_reason"] for r in (tool, answer, stream)] == ["tool_calls", "stop", "stop"]
        assert (error["status"], error["http_status"], error["error_type"]) == ("rejected", 400, "BadRequestError")  # fmt: skip
        said = prompts(trace)
        assert [len(said[r["request_id"]]) for r in (tool, answer, stream, error)] == [2, 4, 2, 2]
        assert said[answer["request_id"]][:2] == said[tool["request_id"]]
        assert (tool["input_tokens"], tool["output_tokens"]) == (41, 7)
    assert len(found) == {"otlp.sdk": 12}.get(name, 4)


def test_one_pretty_document_and_objects_one_after_another(ingested: Ingested) -> None:
    """An export request printed over many lines, and spans as the console exporter prints them."""
    whole = json.dumps(spans(span(1, CHAT), span(2, CHAT, (2, 3))), indent=2).encode()
    assert len(rows(ingested(whole, "x.json"))) == 2
    printed = "\n".join(json.dumps(s, indent=4) for s in sample_records("otlp.console")).encode()
    assert len(rows(ingested(printed, "x.log"))) == 4


@pytest.mark.parametrize("name", ["otlp.jaeger", "otlp.phoenix"])
def test_answers_of_an_api_are_unwrapped(name: str, ingested: Ingested) -> None:
    """Jaeger and Phoenix put what they answer into `data`: the same requests as without."""
    answer = {"data": sample_records(name), "total": 0, "errors": None}
    for body in (json.dumps(answer), json.dumps(answer, indent=2)):
        trace = ingested(body.encode(), "answer.json")
        assert prompts(trace) == prompts(ingested(SAMPLES / f"{name}.jsonl"))
        assert trace.manifest["sources"][0]["format"] == "otlp"


def test_lines_of_metrics_are_skipped(ingested: Ingested) -> None:
    """All signals may go to one file: a line of metrics tells of no request."""
    trace = ingested([spans(span(1, CHAT)), {"resourceMetrics": [{"scopeMetrics": []}]}])
    assert len(rows(trace)) == 1 and skipped(trace) == {"no_spans": 1}


def test_length_prefixed_files_are_refused_by_name(tmp_path: Path, ingested: Ingested) -> None:
    """The collector's protobuf and zstd files are binary: the error names the setting that writes what can be read."""
    import pyarrow as pa

    packed = pa.compress(jsonl([spans(span(1, CHAT))]), codec="zstd", asbytes=True)
    proto = b"\x0a\x2c\x0a\x1e\x0a\x1c\x0a\x0c" + b"service.name" + b"\x12\x0c\x0a\x0asupport-ui" + b"\x12\x0a" + b"x" * 12  # fmt: skip
    for message in (packed, proto):
        for times in (1, 3):
            with pytest.raises(TraceprofError, match="format: json"):
                ingested((len(message).to_bytes(4, "big") + message) * times, "traces.json")
    for other in (b"\n\n\n\n\n\n\n\n\n", b"\x00" * 200):
        with pytest.raises(TraceprofError) as refused:
            ingested(other, "x")
        assert "format: json" not in str(refused.value)


# -- dialects ------------------------------------------------------------------------------------------------------

FIRST: dict[str, dict[str, Any]] = {
    "gen_ai": span(1, CHAT | {"gen_ai.response.time_to_first_chunk": 0.25}),
    "engine": span(1, {"gen_ai.request.id": "r", "gen_ai.usage.prompt_tokens": 1, "gen_ai.latency.e2e": 1.0, "gen_ai.latency.time_to_first_token": 0.25}),
    "OpenLLMetry": span(1, CHAT, events=[{"name": "gen_ai.content.completion.chunk", "timeUnixNano": ns(t)} for t in (0.5, 0.25)]),
    "OpenInference": span(1, {"openinference.span.kind": "LLM"}, events=[{"name": "First Token Stream Event", "timeUnixNano": ns(0.25)}]),
}  # fmt: skip


@pytest.mark.parametrize("dialect", FIRST)
def test_the_first_token_of_each_dialect(dialect: str, ingested: Ingested) -> None:
    """An attribute in seconds, or the first of the events that tell of chunks."""
    (row,) = rows(ingested([spans(FIRST[dialect])]))
    assert row["first_token_ts"].timestamp() - START == pytest.approx(0.25)
    assert row["ttft_us"] == (250_000 if dialect in ("gen_ai", "engine") else None)


OPENLLMETRY = {"llm.request.type": "chat", "gen_ai.request.model": "m"}
HELD: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "all there": (OPENLLMETRY | {"gen_ai.prompt.0.role": "user", "gen_ai.prompt.0.content": "x"}, {}, "complete"),
    "the first gone": (OPENLLMETRY | {"gen_ai.prompt.1.role": "user", "gen_ai.prompt.1.content": "x"}, {}, "truncated"),
    "one between gone": (OPENLLMETRY | {f"llm.prompts.{n}.{k}": v for n in (0, 2) for k, v in (("role", "user"), ("content", "x"))}, {}, "truncated"),
    "attributes dropped": (OPENLLMETRY | {"gen_ai.prompt.0.role": "user", "gen_ai.prompt.0.content": "x"}, {"droppedAttributesCount": 3}, "truncated"),
    "JSON cut": (BARE | {"gen_ai.input.messages": json.dumps(ASKED)[:-9]}, {}, "truncated"),
    "masked": (BARE | {"gen_ai.input.messages": json.dumps(ASKED).replace("Where is it?", "__REDACTED__")}, {}, "redacted"),
    "inputs hidden": ({"openinference.span.kind": "LLM", "input.value": "__REDACTED__"}, {}, "redacted"),
    "a list cut": ({"openinference.span.kind": "LLM", "llm.input_messages.1.message.role": "user", "llm.input_messages.1.message.content": "x"}, {}, "truncated"),
    "a list cut beside the whole body": ({"openinference.span.kind": "LLM", "llm.input_messages.1.message.role": "user", "input.value": '{"messages":[{"role":"user","content":"x"}]}'}, {"droppedAttributesCount": 3}, "complete"),
    "on the provider's side": (CHAT | {"gen_ai.request.previous_response.id": "r"}, {}, "partial_history"),
    "nothing": ({"openinference.span.kind": "LLM"}, {}, "absent"),
}  # fmt: skip


@pytest.mark.parametrize("case", HELD)
def test_a_prompt_that_is_not_whole_says_so(case: str, ingested: Ingested) -> None:
    """Cut, masked or missing: a part of a prompt is never taken for all of it."""
    given, more, state = HELD[case]
    (row,) = rows(ingested([spans(span(1, given, **more))]))
    assert row["content_state"] == state


ENDED: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {
    "fine": ({}, ("ok", None, None)),
    "a number": ({"status": {"code": 2, "message": "Error code: 429 - slow down"}}, ("rejected", 429, "error")),
    "a word": ({"status": {"code": "STATUS_CODE_ERROR"}}, ("error", None, "error")),
    "an exception": ({"status": {"code": 2}, "events": [{"name": "exception", "attributes": pairs({"exception.type": "openai.InternalServerError", "exception.message": "Error code: 503 - busy"})}]}, ("error", 503, "InternalServerError")),
    "handled": ({"events": [{"name": "exception", "attributes": pairs({"exception.type": "ValueError"})}]}, ("ok", None, None)),
    "cancelled": ({"status": {"code": 2}, "events": [{"name": "exception", "attributes": pairs({"exception.type": "asyncio.CancelledError"})}]}, ("cancelled", None, "CancelledError")),
    "cut off": ({"endTimeUnixNano": "0"}, ("incomplete", None, None)),
}  # fmt: skip


@pytest.mark.parametrize("case", ENDED)
def test_how_a_call_ended(case: str, ingested: Ingested) -> None:
    """Status, HTTP status and kind of error come from the span's status and the exception it recorded; no message is kept."""
    more, expected = ENDED[case]
    trace = ingested([spans(span(1, CHAT, **more))])
    (row,) = rows(trace)
    assert (row["status"], row["http_status"], row["error_type"]) == expected
    assert "slow down" not in json.dumps(rows(trace, "content"))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("CHAIN", "chain"), ("AGENT", "agent"), ("TOOL", "tool"), ("RETRIEVER", "retriever"), ("EMBEDDING", "embedding"),
     ("RERANKER", "rerank"), ("GUARDRAIL", "guardrail"), ("EVALUATOR", "evaluator"), ("SOMETHING", "other_span")],
)  # fmt: skip
def test_spans_that_are_no_call_are_skipped_by_kind(kind: str, reason: str, ingested: Ingested) -> None:
    """OpenInference names the kind; a call within them keeps its parent's id."""
    trace = ingested([spans(span(1, {"openinference.span.kind": kind}, (0, 9)), span(2, CHAT, parent=1))])
    assert skipped(trace) == {reason: 1}
    (row,) = rows(trace)
    assert row["parent_request_id"] == f"{1:016x}" and row["trace_id"] == "ab" * 16


def test_a_total_tells_whether_cached_tokens_are_in_the_input(ingested: Ingested) -> None:
    """The conventions have them in it; an emitter whose total is larger by them left them out."""
    usage = {"gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 5, "gen_ai.usage.cache_read.input_tokens": 4}  # fmt: skip
    found = []
    for more in ({}, {"gen_ai.usage.total_tokens": 15}, {"gen_ai.usage.total_tokens": 19}):
        (row,) = rows(ingested([spans(span(1, CHAT | usage | more))]))
        found.append((row["input_tokens"], row["cached_input_tokens"]))
    assert found == [(10, 4), (10, 4), (14, 4)]


def test_a_cached_part_that_is_more_than_the_input_is_not_in_it(ingested: Ingested) -> None:
    """Some instrumentations pass on Anthropic's own counts, whose input leaves out the cache, whatever total they make of them."""
    usage = {"gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 5, "gen_ai.usage.cache_read.input_tokens": 900,
             "gen_ai.usage.cache_creation.input_tokens": 40}  # fmt: skip
    for more in ({}, {"gen_ai.usage.total_tokens": 15}, {"gen_ai.usage.total_tokens": 955}):
        (row,) = rows(ingested([spans(span(1, CHAT | usage | more))]))
        assert (row["input_tokens"], row["cached_input_tokens"], row["cache_write_tokens"]) == (950, 900, 40)
        assert "usage_excludes_cache_fixed" in row["quality"]


def test_parts_of_messages(ingested: Ingested) -> None:
    """Text, thought, tool calls and results, and media, become OpenAI-like; results come before what was said."""
    parts: list[dict[str, Any]] = [
        {"type": "reasoning", "content": "hm"}, {"type": "text", "content": "a"}, {"type": "text", "content": "b"},
        {"type": "tool_call", "id": "c", "name": "f", "arguments": {"x": 1}},
        {"type": "tool_call_response", "id": "c0", "result": {"y": 2}}, {"type": "uri", "modality": "audio", "uri": "s3://b/k"},
    ]  # fmt: skip
    given = BARE | {"gen_ai.input.messages": [{"role": "assistant", "parts": parts}], "gen_ai.system_instructions": "Be terse."}  # fmt: skip
    trace = ingested([spans(span(1, given))])
    system, result, said = prompts(trace)[f"{1:016x}"]
    assert system == {"role": "system", "content": "Be terse."}
    assert result == {"role": "tool", "tool_call_id": "c0", "content": '{"y":2}'}
    assert [p.get("text") or p["type"] for p in said["content"]] == ["a", "b", "audio"]
    assert said["reasoning_content"] == "hm"
    assert said["tool_calls"] == [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}]  # fmt: skip
    assert rows(trace)[0]["media"][0]["kind"] == "audio"


def test_the_body_that_was_sent_comes_before_its_copies(ingested: Ingested) -> None:
    """OpenInference keeps the provider's body whole: its order of keys, its tools, its answer."""
    body = '{"model":"m","messages":[{"content":"x","role":"user"}],"tools":[{"type":"function","function":{"name":"f"}}]}'  # fmt: skip
    given = {"openinference.span.kind": "LLM", "input.value": body, "llm.input_messages.0.message.role": "user", "llm.input_messages.0.message.content": "copy",
             "output.value": '{"choices":[{"message":{"content":"y"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}'}  # fmt: skip
    trace = ingested([spans(span(1, given))])
    (content,) = rows(trace, "content")
    assert content["messages_json"] == '[{"content":"x","role":"user"}]'
    assert content["tools_json"] == '[{"type":"function","function":{"name":"f"}}]'
    assert (rows(trace)[0]["input_tokens"], rows(trace)[0]["finish_reason"]) == (3, "stop")


def test_tools_that_nothing_defines(ingested: Ingested) -> None:
    """Messages that call tools show that there were definitions, which some instrumentations leave out: the row says so."""
    calls = [
        *ASKED,
        {"role": "assistant", "parts": [{"type": "tool_call", "id": "c", "name": "f", "arguments": {}}]},
    ]
    given = BARE | {"gen_ai.input.messages": calls}
    tools = {"gen_ai.tool.definitions": [{"type": "function", "name": "f"}]}
    found = [rows(ingested([spans(span(1, g))]))[0]["quality"] for g in (given, given | tools, CHAT)]
    assert found == [["tools_unknown"], [], []]


def test_several_prompts_of_one_call(ingested: Ingested) -> None:
    """A text completion that asks for several prompts is several requests, and the line one record."""
    trace = ingested([spans(span(1, {"openinference.span.kind": "LLM", "input.value": '{"model":"m","prompt":["a","b"]}'}))])  # fmt: skip
    assert [c["prompt_text"] for c in rows(trace, "content")] == ["a", "b"]
    assert (trace.manifest["records_in"], trace.manifest["source_records"]) == (2, 1)


# -- Phoenix and inference-perf ------------------------------------------------------------------------------------


def test_phoenix_exports_of_one_project_say_the_same(ingested: Ingested) -> None:
    """Dataframe as JSON lines and CSV, saved dataset, REST API and OTLP: the same four calls of the same session."""
    told = []
    for name in ("phoenix.jsonl", "phoenix.table.csv", "phoenix.dataset.parquet", "phoenix.rest.json", "otlp.phoenix.jsonl"):  # fmt: skip
        trace = ingested(SAMPLES / name)
        said = prompts(trace)
        told.append(
            [
                (r["request_id"], r["session_id"], r["status"], r["cached_input_tokens"], r["finish_reason"], said[r["request_id"]])
                for r in rows(trace)
                if r["request_id"] != "051581bf3cb55c13"  # the modelled row of phoenix.jsonl
            ]
        )  # fmt: skip
    assert len(told[0]) == 4 and all(one == told[0] for one in told)


def test_csv_cells_are_literals_and_never_run(ingested: Ingested, tmp_path: Path) -> None:
    """A list in a cell is parsed as a literal; anything else in it is left alone."""
    marker = tmp_path / "ran"
    head = "context.span_id,context.trace_id,span_kind,start_time,end_time,attributes.llm.input_messages\n"
    cells = [
        "[{'message.role': 'user', 'message.content': \"it's\"}]",
        f"[{{'message.role': 'user', 'message.content': open('{marker}', 'w')}}]",
        "[{'message.role'" + "[" * 500,
    ]
    log_ = head + "".join(
        f'{n:016x},t,LLM,2026-08-21T12:00:0{n}Z,2026-08-21T12:00:09Z,"{c.replace(chr(34), chr(34) * 2)}"\n'
        for n, c in enumerate(cells, 1)
    )
    trace = ingested(log_.encode(), "spans.csv", format="phoenix")
    assert not marker.exists() and len(rows(trace)) == 3
    assert prompts(trace)[f"{1:016x}"] == [{"role": "user", "content": "it's"}]


def test_phoenix_cells_as_numpy_writes_them(ingested: Ingested) -> None:
    """A dataframe that was read from Parquet holds arrays: their text in CSV has no commas, and says `array` within."""
    import numpy as np

    call = np.array([{"tool_call.id": "c", "tool_call.function.name": "f", "tool_call.function.arguments": "{}"}], object)  # fmt: skip
    said = np.array(
        [
            {"message.role": "user", "message.content": 'It\'s "ok"?'},
            {"message.role": "assistant", "message.tool_calls": call},
        ],
        dtype=object,
    )
    names = ["name", "span_kind", "start_time", "end_time", "context.span_id", "context.trace_id", "attributes.llm.input_messages"]  # fmt: skip
    cells = ["x", "LLM", "2026-08-21T12:00:00Z", "2026-08-21T12:00:01Z", "1f", "2f", str(said)]
    told = io.StringIO()
    csv.writer(told).writerows([names, cells])
    trace = ingested(told.getvalue().encode(), "spans.csv")
    assert prompts(trace)["1f"] == [
        {"role": "user", "content": "It's \"ok\"?"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        ]},
    ]  # fmt: skip


def test_turns_of_a_replay_trace(ingested: Ingested) -> None:
    """A turn's parent is the turn before it; all turns of the trace are one session; ids of a span count within their trace."""
    trace = ingested(SAMPLES / "inference-perf.json")
    turns = [r for r in rows(trace) if r["trace_id"] == "conversation_trace"]
    ids = [f"conversation_trace/span_conv_turn{i}" for i in (1, 2, 3)]
    assert [r["parent_request_id"] for r in turns] == [None, *ids]
    assert {r["session_id"] for r in turns} == {"conversation_trace"}
    first, second = (prompts(trace)[r["request_id"]] for r in turns[:2])
    assert second[: len(first)] == first


def test_ai_sdk_spans_hold_prompt_tools_and_steps(ingested: Ingested) -> None:
    """A step of the AI SDK is a call, what wraps steps is none; a step begins with the prompt and answer of the one before."""
    trace = ingested(SAMPLES / "otlp.aisdk.jsonl")
    assert trace.manifest["skipped_by_reason"] == {"other_span": 3, "tool": 1}
    found, said = rows(trace), rows(trace, "content")
    assert [r["stream"] for r in found] == [False, False, True, False]
    assert [r["first_token_ts"] is not None for r in found] == [False, False, True, False]
    assert [(r["input_tokens"], r["cached_input_tokens"], r["output_tokens"]) for r in found] == [
        (61, None, 14), (96, None, 9), (120, 96, 4), (None, None, None),
    ]  # fmt: skip
    assert [r["status"] for r in found] == ["ok", "ok", "ok", "error"] and found[0]["session_id"] == "s_7"
    first, second = (json.loads(c["messages_json"]) for c in said[:2])
    assert second[: len(first)] == first and second[len(first)] == json.loads(said[0]["output_json"])
    assert second[-1] == {"role": "tool", "tool_call_id": "call_9", "content": '{"status":"shipped","day":3}'}
    assert json.loads(said[2]["messages_json"])[2:] == [
        *second[2:],
        json.loads(said[1]["output_json"]),
        {"role": "user", "content": "Thanks!"},
    ]
    older = {"type": "tool-call", "toolCallId": "c", "toolName": "f", "args": {"a": 1}}
    answered = {"type": "tool-result", "toolCallId": "c", "toolName": "f", "result": {"b": 2}}
    assert aisdk._turns({"role": "assistant", "content": [older]})[0]["tool_calls"][0]["function"] == {
        "name": "f",
        "arguments": '{"a":1}',
    }
    assert aisdk._turns({"role": "tool", "content": [answered]}) == [
        {"role": "tool", "tool_call_id": "c", "content": '{"b":2}'}
    ]


# -- what stands where it should not ---------------------------------------------------------------------------------


def replaced(value: Any, wrong: Any) -> Any:
    """The value with every field in it replaced by a wrong one, one after another."""
    if isinstance(value, dict):
        for key in value:
            yield {**value, key: wrong}
            yield {k: v for k, v in value.items() if k != key}
            for inner in replaced(value[key], wrong):
                yield {**value, key: inner}
    elif isinstance(value, list):
        for i in range(len(value)):
            yield [*value[:i], wrong, *value[i + 1 :]]
            for inner in replaced(value[i], wrong):
                yield [*value[:i], inner, *value[i + 1 :]]


def decoded(value: Any) -> Any:
    """A span's JSON texts as the structures in them, so that what is wrong gets in there, too."""
    if isinstance(value, list):
        return [decoded(v) for v in value]
    if isinstance(value, dict):
        said = value.get("stringValue")
        if isinstance(said, str) and said[:1] in "[{" and said[1:]:
            try:
                return {"stringValue": {"json": json.loads(said)}}
            except ValueError:
                return value
        return {k: decoded(v) for k, v in value.items()}
    return value


def encoded(value: Any) -> Any:
    if isinstance(value, list):
        return [encoded(v) for v in value]
    if isinstance(value, dict):
        return json.dumps(value["json"]) if value.keys() == {"json"} else {k: encoded(v) for k, v in value.items()}  # fmt: skip
    return value


@pytest.mark.parametrize("place", range(9))
def test_wrong_types_deep_in_spans_and_log_records(place: int, ingested: Ingested) -> None:
    """Whatever stands in whichever field of a span, an event, an attribute or the JSON in it: nothing breaks."""
    log_ = [*sample_records("otlp")[5:11], *sample_records("otlp.events")[:3]]
    record = decoded(log_[place])
    every = max(1, sum(1 for _ in replaced(record, None)) // 60)  # each field meets some of the wrong values
    bad = [
        encoded(v)
        for at, wrong in enumerate(WRONG)
        for v in itertools.islice(replaced(record, wrong), at % every, None, every)
    ]
    trace = ingested(jsonl([log_[place], *(json.dumps(r).encode() for r in bad)]), format="otlp", duplicates="keep")  # fmt: skip
    broken = [r["detail"] for r in rows(trace, "rejects") if r["reason"] == "unreadable"]
    assert not broken
    for row in rows(trace):
        assert row["input_tokens"] is None or row["input_tokens"] >= 0


def test_nested_too_deep(ingested: Ingested) -> None:
    """A value nested deeper than can be read costs its record, not the log."""
    deep: Any = {"stringValue": "x"}
    for _ in range(200):
        deep = {"arrayValue": {"values": [deep]}}
    trace = ingested([spans(span(1, CHAT)), spans({**span(2, BARE), "attributes": [{"key": "gen_ai.input.messages", "value": deep}]})])  # fmt: skip
    assert f"{1:016x}" in [r["request_id"] for r in rows(trace)]
    assert "unreadable" not in reasons(trace)
