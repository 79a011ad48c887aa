"""Gateways and clouds: what only one of their logs has, and the arrays that their exports put records into."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SAMPLES, jsonl, pair, reasons, rows, sample_records

from traceprof import bodies, formats
from traceprof.bodies import converse, gemini, invoke
from traceprof.formats.base import Request
from traceprof.ingest import Options, ingest
from traceprof.trace import Trace

Ingested = Callable[..., Trace]


def one(ingested: Ingested, record: Any, **options: Any) -> dict[str, Any]:
    """The one row that a record gives, with its content."""
    trace = ingested([record], **options)
    assert len(rows(trace)) == 1, (reasons(trace), trace.manifest["skipped_by_reason"])
    return {**(rows(trace, "content") or [{}])[0], **rows(trace)[0]}


def skipped(ingested: Ingested, *records: Any, **options: Any) -> dict[str, int]:
    """How many of the records were skipped, by reason."""
    found: dict[str, int] = ingested(list(records), **options).manifest["skipped_by_reason"]
    return found


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# -- records inside the array of an export -----------------------------------------------------------------


def printed(member: str, log: list[Any]) -> dict[str, bytes]:
    """Documents that hold the log under one name, in every way that exports are written."""
    around = {"success": True, "n": [1, {member: 2}], member: log, "text": member, "errors": []}
    halves = [{member: log[:1]}, {"messages": [], member: log[1:]}]
    return {
        "one line": json.dumps(around).encode(),
        "printed": json.dumps(around, indent=2).encode(),
        "a document a line": b"\n".join(json.dumps(h).encode() for h in halves),
        "documents end to end": b"".join(json.dumps(h).encode() for h in halves),
    }


@pytest.mark.parametrize("member", ["records", "result", "data", "logEvents", "events"])
def test_records_in_the_array_of_an_export(member: str, ingested: Ingested) -> None:
    """They are the records, counted from 1, however the document around them is written."""
    log = [pair(n, app="naïve ☃") for n in range(1, 4)]
    plain = ingested(log)
    for way, document in printed(member, log).items():
        trace = ingested(document, "export.json")
        told = trace.manifest["sources"][0]["detected_by"]
        assert told == f"3 of 3 sampled records, each in an envelope ({member}[])", way
        assert [r["source_row"] for r in rows(trace)] == [1, 2, 3], way
        kept = [(r["request_id"], r["arrival_ts"]) for r in rows(trace)]
        assert kept == [(r["request_id"], r["arrival_ts"]) for r in rows(plain)], way


def test_events_of_cloudwatch_hold_lines(ingested: Ingested) -> None:
    """Each message of an array is a line of the log: JSON, or text."""
    lines = (SAMPLES / "apisix-access.log").read_text().splitlines()
    events = [{"timestamp": 1787313600000, "message": line, "ingestionTime": 1} for line in lines]
    trace = ingested(json.dumps({"events": events}).encode(), "events.json")
    plain = ingested(SAMPLES / "apisix-access.log")
    assert [r["request_id"] for r in rows(trace)] == [r["request_id"] for r in rows(plain)] != []
    events = [{"timestamp": n, "message": json.dumps(pair(n))} for n in (1, 2)]
    trace = ingested(json.dumps({"logEvents": events}).encode(), "events.json")
    assert [r["request_id"] for r in rows(trace)] == ["r1", "r2"]


def test_an_export_larger_than_a_record_may_be(ingested: Ingested) -> None:
    """The limit is that of each record in the array, not of the document."""
    log = [pair(n) for n in range(1, 200)]
    log[5]["request"]["messages"][0]["content"] = "x" * 5_000
    document = json.dumps({"records": log}).encode()
    assert len(document) > 40_000
    trace = ingested(document, "export.json", max_record_bytes=4_000)
    assert reasons(trace) == {"record_too_large": 1} and len(rows(trace)) == 198
    assert rows(trace, "rejects")[0]["source_row"] == 6


def test_an_export_that_breaks_off(ingested: Ingested) -> None:
    """What stands before the cut is read, the record that it is in is a reject."""
    document = json.dumps({"result": [pair(1), pair(2), pair(3)], "errors": []}).encode()
    trace = ingested(document[: document.index(b"question 3")], "export.json")
    assert [r["request_id"] for r in rows(trace)] == ["r1", "r2"] and reasons(trace) == {"truncated_json": 1}


def test_a_request_with_an_array_in_it_stays_whole(ingested: Ingested) -> None:
    """A record that is a request itself is not taken apart, whatever its arrays are called."""
    log = [pair(n, data=[{"x": 1}], result=[{"y": 2}]) for n in (1, 2)]
    trace = ingested(log)
    assert [r["request_id"] for r in rows(trace)] == ["r1", "r2"]
    assert trace.manifest["sources"][0]["container"] == "jsonl"


# -- Gemini ------------------------------------------------------------------------------------------------


def gemini_pair(request: dict[str, Any], response: Any, **around: Any) -> dict[str, Any]:
    return {"timestamp": "2026-08-21T12:00:00Z", "model": "gemini-2.5-flash", "request": request, "response": response, **around}  # fmt: skip


def snake(value: Any) -> Any:
    """A body with its keys in snake_case, as BigQuery has them."""
    if isinstance(value, list):
        return [snake(v) for v in value]
    if not isinstance(value, dict):
        return value
    return {"".join(f"_{c.lower()}" if c.isupper() else c for c in k): snake(v) for k, v in value.items()}


ASKED = {
    "systemInstruction": {"role": "user", "parts": [{"text": "be brief"}]},
    "contents": [
        {"parts": [{"text": "weather?"}, {"inlineData": {"mimeType": "image/png", "data": "iVBO"}}]},
        {"role": "model", "parts": [{"text": "hm", "thought": True}, {"functionCall": {"id": "c1", "name": "get", "args": {"b": 1, "a": 2}}}]},
        {"role": "user", "parts": [{"functionResponse": {"id": "c1", "name": "get", "response": {"t": 35}}}]},
    ],
    "tools": [{"functionDeclarations": [{"name": "get", "description": "d", "parametersJsonSchema": {"type": "object"}}]}, {"googleSearch": {}}],
    "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
    "generationConfig": {"temperature": 0.5, "topP": 0.25, "topK": 8, "candidateCount": 2, "maxOutputTokens": 99, "stopSequences": ["a", "b"], "seed": 4},
}  # fmt: skip


@pytest.mark.parametrize("spelled", [lambda b: b, snake])
def test_gemini_prompt(spelled: Callable[[Any], Any], ingested: Ingested) -> None:
    """Contents become OpenAI-like messages in either spelling: system first, calls and their results, media, thoughts apart."""
    row = one(ingested, gemini_pair(spelled(ASKED), {"candidates": []}))
    said = json.loads(row["messages_json"])
    media = said[1]["content"].pop()
    assert said == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "weather?"}]},
        {"role": "assistant", "content": None, "reasoning_content": "hm",
         "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "get", "arguments": '{"b":1,"a":2}'}}]},
        {"role": "tool", "tool_call_id": "c1", "name": "get", "content": '{"t":35}'},
    ]  # fmt: skip
    assert media["type"] == "image" and row["media"][0]["kind"] == "image"
    tools = json.loads(row["tools_json"])
    assert tools[0] == {"type": "function", "function": {"name": "get", "description": "d", "parameters": {"type": "object"}}}  # fmt: skip
    assert len(tools) == 2 and row["max_output_tokens"] == 99
    assert row["params"] == {"temperature": 0.5, "top_p": 0.25, "top_k": 8, "n": 2, "seed": 4, "stop_count": 2,
                             "response_format": None, "tool_choice": "required", "reasoning_effort": None}  # fmt: skip


PIECES = [
    {"candidates": [{"content": {"role": "model", "parts": [{"text": "th", "thought": True}]}}]},
    {"candidates": [{"content": {"role": "model", "parts": [{"text": "ink", "thought": True}, {"text": "It "}]}}]},
    {"candidates": [{"content": {"role": "model", "parts": [{"text": "rains."}]}, "finishReason": "MAX_TOKENS"}], "modelVersion": "v1",
     "usageMetadata": {"promptTokenCount": 100, "cachedContentTokenCount": 60, "candidatesTokenCount": 5, "thoughtsTokenCount": 7, "totalTokenCount": 112}},
]  # fmt: skip


@pytest.mark.parametrize(
    "way",
    [
        lambda chunks: chunks,
        json.dumps,  # the array that streamGenerateContent answers with
        lambda chunks: "".join(f"data: {json.dumps(c)}\r\n\r\n" for c in chunks),
        lambda chunks: [json.dumps(c) for c in chunks],
    ],
)
def test_gemini_streams(way: Callable[[Any], Any], ingested: Ingested) -> None:
    """The pieces of a stream are one answer: texts joined, thoughts apart, the last usage; output counts thoughts."""
    row = one(ingested, gemini_pair({"contents": [{"parts": [{"text": "q"}]}]}, way(PIECES)))
    assert json.loads(row["output_json"]) == {"role": "assistant", "content": "It rains.", "reasoning_content": "think"}  # fmt: skip
    counts = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")
    assert [row[c] for c in counts] == [100, 60, 12, 7]
    assert (row["finish_reason"], row["model_served"], row["stream"], row["status"]) == ("length", "v1", True, "ok")  # fmt: skip
    row = one(ingested, gemini_pair({"contents": [{"parts": [{"text": "q"}]}]}, way(PIECES[:2])))
    assert (row["status"], row["finish_reason"], row["input_tokens"]) == ("incomplete", None, None)


@pytest.mark.parametrize(
    ("usage", "output"),
    [
        ({"promptTokenCount": 8, "candidatesTokenCount": 388, "thoughtsTokenCount": 2193, "totalTokenCount": 2589}, 2581),
        ({"promptTokenCount": 8, "candidatesTokenCount": 400, "thoughtsTokenCount": 300, "totalTokenCount": 408}, 400),
        ({"promptTokenCount": 5, "thoughtsTokenCount": 4, "totalTokenCount": 9}, 4),
        ({"promptTokenCount": 5, "totalTokenCount": 5}, None),
    ],
)  # fmt: skip
def test_gemini_thoughts_are_output(usage: dict[str, int], output: int | None) -> None:
    """Thoughts are counted beside the candidates, unless the total says that they are inside; what is not said is null."""
    out = Request()
    gemini.read_usage(out, usage)
    assert out.output_tokens == output


@pytest.mark.parametrize(
    ("reason", "said"),
    [("STOP", "stop"), (1, "stop"), (2, "length"), ("SAFETY", "content_filter"), (7, "content_filter"), ("OTHER", "other"), (None, None)],
)  # fmt: skip
def test_gemini_finish_reasons(reason: Any, said: str | None) -> None:
    """Reasons as words or as the numbers of their enum."""
    out = Request()
    gemini.read_response(out, {"candidates": [{"content": {"parts": [{"text": "x"}]}, "finishReason": reason}]})  # fmt: skip
    assert out.finish_reason == said


def test_gemini_on_the_server(ingested: Ingested) -> None:
    """Cached content is a part of the prompt that the log does not hold; the SDK's config stands beside the contents."""
    body = {"contents": "hi", "model": "models/gemini-2.5-pro", "config": {"system_instruction": "be brief", "max_output_tokens": 7, "temperature": 1.0}}  # fmt: skip
    row = one(ingested, {"timestamp": "2026-08-21T12:00:00Z", **body})
    assert json.loads(row["messages_json"]) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
    ]
    assert (row["model_requested"], row["max_output_tokens"], row["content_state"]) == ("gemini-2.5-pro", 7, "complete")  # fmt: skip
    row = one(ingested, gemini_pair({"contents": [{"parts": []}], "cachedContent": "cachedContents/1"}, None))
    assert row["content_state"] == "partial_history"


# -- Converse ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("anthropic.claude-v2:1", "anthropic.claude-v2:1"),
        ("us.amazon.nova-lite-v1:0", "amazon.nova-lite-v1:0"),
        ("arn:aws:bedrock:eu-west-1:1:inference-profile/eu.meta.llama3-v1:0", "meta.llama3-v1:0"),
        ("arn:aws:bedrock:us-east-1:1:application-inference-profile/x1y2", "x1y2"),
        ("us", "us"),
        (None, None),
        ({"a": 1}, None),
    ],
)
def test_bedrock_model_names(name: Any, model: str | None) -> None:
    """The region of an inference profile and the rest of an ARN are no part of a model's name."""
    assert converse.model_name(name) == model


def test_converse_blocks(ingested: Ingested) -> None:
    """Blocks without a type become messages, results of tools before what was said; marks for the cache are left out."""
    body = {
        "modelId": "m",
        "system": "be brief",
        "messages": [
            {"role": "user", "content": [{"text": "a"}, {"cachePoint": {"type": "default"}}, {"guardContent": {"text": {"text": "b"}}}]},
            {"role": "assistant", "content": [{"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}},
                                              {"toolUse": {"toolUseId": "t", "name": "f", "input": {"z": 1, "a": 2}}}]},
            {"role": "user", "content": [{"text": "and?"}, {"toolResult": {"toolUseId": "t", "content": [{"json": {"k": 1}}, {"text": "x"}]}}]},
            {"role": "assistant", "content": [{"citationsContent": {"content": [{"text": "c"}], "citations": []}}]},
        ],
        "toolConfig": {"tools": [{"cachePoint": {"type": "default"}}], "toolChoice": {"tool": {"name": "f"}}},
    }  # fmt: skip
    row = one(ingested, {"timestamp": "2026-08-21T12:00:00Z", "request": body, "response": None})
    assert json.loads(row["messages_json"]) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "reasoning_content": "hm",
         "tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": '{"z":1,"a":2}'}}]},
        {"role": "tool", "tool_call_id": "t", "content": [{"type": "text", "text": '{"k":1}'}, {"type": "text", "text": "x"}]},
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": "c"},
    ]  # fmt: skip
    assert row["tools_json"] is None and row["params"]["tool_choice"] == "named"
    assert rows(ingested([{"request": body}]))[0]["source_format"] == "converse"


def test_converse_stream() -> None:
    """Blocks by their index, a call's arguments out of the pieces they were written in; an exception ends it."""
    events = [
        {"messageStart": {"role": "assistant"}},
        {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": "I "}}},
        {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": "look."}}},
        {"contentBlockStart": {"contentBlockIndex": 1, "start": {"toolUse": {"toolUseId": "t", "name": "f"}}}},
        {"contentBlockDelta": {"contentBlockIndex": 1, "delta": {"toolUse": {"input": '{"a"'}}}},
        {"contentBlockDelta": {"contentBlockIndex": 1, "delta": {"toolUse": {"input": ":1}"}}}},
        {"messageStop": {"stopReason": "tool_use"}},
        {"metadata": {"usage": {"inputTokens": 3, "outputTokens": 9, "cacheReadInputTokens": 40, "cacheWriteInputTokens": 2}}},
    ]  # fmt: skip
    out = Request()
    answer = bodies.answer(events)
    assert answer is not None
    bodies.read_response(out, answer, converse)
    assert json.loads(out.output_json or "") == {
        "role": "assistant", "content": "I look.",
        "tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}],
    }  # fmt: skip
    assert (out.input_tokens, out.cached_input_tokens, out.cache_write_tokens, out.output_tokens) == (45, 40, 2, 9)  # fmt: skip
    assert (out.finish_reason, out.stream, out.status) == ("tool_calls", True, "ok")
    cut = bodies.answer([*events[:2], {"modelStreamErrorException": {"message": "x"}}])
    assert cut is not None and cut["error"]["type"] == "modelStreamErrorException"


def test_dialects_are_told_apart() -> None:
    """A body of one provider is not taken for another's, however much they look alike."""
    typed = {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}]}
    told = {
        "converse": {"messages": [{"role": "user", "content": [{"text": "q"}]}], "system": [{"text": "s"}]},
        "anthropic": {**typed, "system": "s", "max_tokens": 1},
        "openai": {**typed, "model": "m"},
        "gemini": {"contents": [{"parts": [{"text": "q"}]}]},
    }
    for name, body in told.items():
        found = bodies.of_request(body)
        assert found is not None and found.__name__.endswith(name)
        assert formats.claims({"request": body}) == [name]
    assert bodies.of_request({"contents": ["a page", "another"]}) is None
    assert bodies.of_response({"usage_metadata": {"input_tokens": 3}}) is None


# -- Bedrock -----------------------------------------------------------------------------------------------


def call(**changes: Any) -> dict[str, Any]:
    record = {
        "schemaType": "ModelInvocationLog", "timestamp": "2026-08-21T12:00:00Z", "requestId": "q1", "operation": "InvokeModel",
        "modelId": "meta.llama3", "input": {"inputBodyJson": {"prompt": "hi"}}, "output": {"outputBodyJson": {"generation": "yo"}},
    }  # fmt: skip
    return {**record, **changes}


FAMILIES: dict[str, tuple[Any, Any, Any]] = {  # body, answer, (prompt, answer, finish reason, limit)
    "llama": ({"prompt": "p", "max_gen_len": 9}, {"generation": "a", "stop_reason": "length"}, ("p", "a", "length", 9)),
    "titan": ({"inputText": "p", "textGenerationConfig": {"maxTokenCount": 8}},
              {"results": [{"outputText": "a", "completionReason": "FINISH", "tokenCount": 1}]}, ("p", "a", "stop", 8)),
    "cohere": ({"prompt": "p", "max_tokens": 7}, {"generations": [{"text": "a", "finish_reason": "MAX_TOKENS"}]}, ("p", "a", "length", 7)),
    "mistral": ({"prompt": "p", "max_tokens": 6}, {"outputs": [{"text": "a", "stop_reason": "stop"}]}, ("p", "a", "stop", 6)),
    "claude 2": ({"prompt": "p", "max_tokens_to_sample": 5}, {"completion": "a", "stop_reason": "stop_sequence"}, ("p", "a", "stop", 5)),
    "jurassic": ({"prompt": "p", "maxTokens": 4}, {"completions": [{"data": {"text": "a"}, "finishReason": {"reason": "endoftext"}}]}, ("p", "a", "stop", 4)),
    "deepseek": ({"prompt": "p", "max_tokens": 3}, {"choices": [{"text": "a", "stop_reason": "stop"}]}, ("p", "a", "stop", 3)),
    "llama stream": ({"prompt": "p"}, [{"generation": "a", "stop_reason": None}, {"generation": "b", "stop_reason": "stop"}], ("p", "ab", "stop", None)),
    "titan stream": ({"inputText": "p"}, [{"outputText": "a", "index": 0}, {"outputText": "b", "completionReason": "LENGTH"}, "[DONE]"], ("p", "ab", "length", None)),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_bedrock_native_bodies(family: str, ingested: Ingested) -> None:
    """Each family's own names for prompt, limit, answer and why it ended."""
    body, answer, (prompt, said, why, limit) = FAMILIES[family]
    row = one(ingested, call(input={"inputBodyJson": body, "inputTokenCount": 5}, output={"outputBodyJson": answer, "outputTokenCount": 2}))  # fmt: skip
    assert row["prompt_text"] == prompt and row["operation"] == "text"
    assert json.loads(row["output_json"])["content"] == said
    assert (row["finish_reason"], row["max_output_tokens"], row["status"]) == (why, limit, "ok")
    assert row["input_tokens"] == 5 and row["output_tokens"] == (1 if family == "titan" else 2)
    assert invoke.is_request(body)


def test_bedrock_counts_and_times(ingested: Ingested) -> None:
    """The log's counts leave out the cached part; streams time their first byte; times are to a second."""
    stream = [{"generation": "yo", "stop_reason": "stop"}, {"amazon-bedrock-invocationMetrics": {"invocationLatency": 640, "firstByteLatency": 310}}]  # fmt: skip
    counted = {"inputBodyJson": {"prompt": "hi"}, "inputTokenCount": 10, "cacheReadInputTokenCount": 90, "cacheWriteInputTokenCount": 5}  # fmt: skip
    row = one(ingested, call(operation="InvokeModelWithResponseStream", input=counted, output={"outputBodyJson": stream, "outputTokenCount": 3}))  # fmt: skip
    assert (row["input_tokens"], row["cached_input_tokens"], row["cache_write_tokens"], row["output_tokens"]) == (105, 90, 5, 3)  # fmt: skip
    assert row["first_token_ts"] == at("2026-08-21T12:00:00.310")
    assert row["end_ts"] == at("2026-08-21T12:00:00.640") and row["stream"] is True
    assert row["arrival_resolution_us"] == 1_000_000
    row = one(ingested, call())
    assert row["end_ts"] is None and row["input_tokens"] is None and row["stream"] is False


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("ThrottlingException", "rejected"),
        ("ValidationException", "rejected"),
        ("ModelTimeoutException", "error"),
    ],
)
def test_bedrock_errors(code: str, status: str, ingested: Ingested) -> None:
    """A refused call is rejected, one that the model failed is an error; zero tokens then mean that none are known."""
    row = one(ingested, call(errorCode=code, input={"inputBodyJson": {"prompt": "hi"}, "inputTokenCount": 0}, output=None))  # fmt: skip
    assert (row["status"], row["error_type"], row["input_tokens"]) == (status, code, None)


def test_bedrock_who_and_what(ingested: Ingested) -> None:
    """An assumed role without its session's name is the tenant, unless metadata names one; other operations are skipped."""
    role = {"arn": "arn:aws:sts::1:assumed-role/app/i-0abc"}
    assert one(ingested, call(identity=role))["tenant_id"] == "arn:aws:sts::1:assumed-role/app"
    row = one(ingested, call(identity=role, requestMetadata={"team": "t", "session_id": "s", "user": "u"}))
    assert (row["tenant_id"], row["session_id"], row["user_id"]) == ("t", "s", "u")
    assert "tz_assumed" in one(ingested, call(timestamp="2025-05-15 14:17:22.000000000"))["quality"]
    others = [call(operation="ListModels"), call(modelId="cohere.embed-v4:0"), call(modelId="cohere.rerank-v3"), call(modelId="amazon.nova-canvas-v1:0")]  # fmt: skip
    assert skipped(ingested, *others) == {"not_a_generation": 1, "embedding": 1, "rerank": 1, "image": 1}


def test_bedrock_offloaded_bodies(tmp_path: Path) -> None:
    """Of a body that lies in S3 the row says so; the object itself is left alone in a folder, and told in the manifest."""
    away = call(input={"inputBodyS3Path": "s3://b/data/q1_input.json.gz", "inputTokenCount": 40}, output={"outputBodyS3Path": "s3://b/x"})  # fmt: skip
    (tmp_path / "log" / "data").mkdir(parents=True)
    (tmp_path / "log" / "12.json").write_bytes(jsonl([away]))
    (tmp_path / "log" / "data" / "0a1b2c3d-0001_input.json").write_bytes(jsonl([{"model": "m", "messages": []}]))  # fmt: skip
    trace = ingest([tmp_path / "log"], tmp_path / "t", Options())
    (row,) = rows(trace)
    assert (row["content_level"], row["content_state"], row["input_tokens"]) == ("lengths", "absent", 40)
    assert row["quality"] == ["prompt_offloaded", "output_offloaded"]
    told = {s["file"]: s["detected_by"] for s in trace.manifest["sources"]}
    assert "Bedrock moved" in told["data/0a1b2c3d-0001_input.json"]


# -- Vertex ------------------------------------------------------------------------------------------------


def logged(**changes: Any) -> dict[str, Any]:
    record = {
        "logging_time": "2026-08-21 12:00:01 UTC", "request_id": "9", "api_method": "generateContent", "model": "publishers/google/models/g",
        "request_payload": [], "response_payload": [], "metadata": None,
        "full_request": {"contents": [{"parts": [{"text": "q"}]}]}, "full_response": {"candidates": [{"content": {"parts": [{"text": "a"}]}}]},
    }  # fmt: skip
    return {**record, **changes}


@pytest.mark.parametrize(
    ("given", "name"),
    [("5374205265901353984", "5374205265901353984"), (Decimal("5374205265901353984.000000000"), "5374205265901353984"), (17, "17")],
)  # fmt: skip
def test_vertex_ids_keep_all_digits(given: Any, name: str, ingested: Ingested) -> None:
    """A NUMERIC comes as text, or with the zeros of its scale; a float would name several requests, and names none."""
    assert one(ingested, logged(request_id=str(given)))["request_id"] == name
    row = one(ingested, logged(request_id=5.374205265901354e18))
    assert row["request_id"] == row["row_id"] and "imprecise_request_id" in row["quality"]


def test_vertex_times(ingested: Ingested) -> None:
    """createTime is the arrival and the log's time the end; without it the latency, in ms, tells the arrival."""
    answer = {**logged()["full_response"], "createTime": "2026-08-21T12:00:00.25Z"}
    row = one(ingested, logged(full_response=answer))
    assert (row["arrival_ts"], row["end_ts"]) == (at("2026-08-21T12:00:00.25"), at("2026-08-21T12:00:01"))
    assert row["arrival_quality"] == "measured" and row["quality"] == ["end_is_log_time"]
    row = one(ingested, logged(metadata={"request_latency": 750.5}))
    assert row["arrival_ts"] == at("2026-08-21T12:00:00.2495") and row["arrival_quality"] == "derived"
    row = one(ingested, logged())
    assert (row["arrival_ts"], row["end_ts"], row["arrival_quality"]) == (at("2026-08-21T12:00:01"), None, "log_time")  # fmt: skip
    late = {**answer, "createTime": "2026-08-21T12:00:09Z"}
    assert one(ingested, logged(full_response=late))["end_ts"] is None


def test_vertex_payloads(ingested: Ingested) -> None:
    """Without the bodies the payload arrays tell: one text, a text in pieces, or the chunks of a stream."""
    body = json.dumps({"contents": [{"parts": [{"text": "question"}]}]})
    chunks = [json.dumps({"candidates": [{"content": {"parts": [{"text": t}]}}]}) for t in ("a", "b")]
    for sent in ([body], [body[:20], body[20:]]):
        row = one(ingested, logged(full_request=None, full_response=None, request_payload=sent, response_payload=chunks))  # fmt: skip
        assert "question" in row["messages_json"] and json.loads(row["output_json"])["content"] == "ab"
    row = one(ingested, logged(full_request=None, full_response=None, request_payload=[], response_payload=chunks[:1]))  # fmt: skip
    assert (row["content_state"], row["stream"]) == ("absent", False)
    predict = logged(full_request={"instances": [{"a": 1}]}, api_method="predict")
    embed = logged(model="publishers/google/models/text-embedding-005")
    assert skipped(ingested, predict, embed) == {"not_a_generation": 1, "embedding": 1}


# -- Azure -------------------------------------------------------------------------------------------------


def test_azure_ticks(ingested: Ingested) -> None:
    """requestTime and responseTime count 100 ns since the year 1; a negative duration is no duration."""
    told = {
        "requestTime": 638515262815394150,
        "responseTime": 638515262825606520,
        "modelName": "gpt-35-turbo",
    }
    record = {"category": "RequestResponse", "operationName": "ChatCompletions_Create", "time": "2024-05-24T12:23:02Z", "durationMs": -1021}  # fmt: skip
    for properties in (told, json.dumps(told)):
        row = one(ingested, {**record, "properties": properties})
        assert row["arrival_ts"] == at("2024-05-17T07:04:41.539415")
        assert row["end_ts"] == at("2024-05-17T07:04:42.560652")
        assert row["e2e_us"] is None and row["quality"] == ["bad_durationMs"]
    row = one(ingested, {**record, "properties": {}, "durationMs": 5})
    assert (row["arrival_quality"], row["arrival_ts"], row["e2e_us"]) == ("log_time", at("2024-05-24T12:23:02"), 5_000)  # fmt: skip
    other = [{**record, "properties": {"modelName": "dall-e-3"}}, {**record, "operationName": "Create_Thread"}]  # fmt: skip
    assert skipped(ingested, {**record, "properties": told}, *other, {**record, "category": "Audit"}) == {"image": 1, "not_a_generation": 1, "other_category": 1}  # fmt: skip


BODY = json.dumps({"messages": [{"role": "user", "content": "where?"}], "max_tokens": 9})


def gateway(name: str, **properties: Any) -> dict[str, Any]:
    told = {"url": "https://x/openai/deployments/d/chat/completions?v=1", "responseCode": 200, **properties}
    return {"category": "GatewayLogs", "correlationId": name, "time": "2026-08-21T12:00:00.5Z", "durationMs": 40, "properties": told}  # fmt: skip


def told(name: str, number: int, asked: str = "", answered: str = "", **more: Any) -> dict[str, Any]:
    return {"CorrelationId": name, "SequenceNumber": number, "IsStreamCompletion": False, "PromptTokens": 0, "CompletionTokens": 0,
            "TimeGenerated": "2026-08-21T12:00:00.6Z", "RequestMessages": asked, "ResponseMessages": answered, **more}  # fmt: skip


ASKS = json.dumps([{"role": "user", "content": "a long question"}])
ANSWERS = json.dumps([{"role": "assistant", "content": "yes"}])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_apim_messages_are_put_together(order: tuple[int, ...], tmp_path: Path) -> None:
    """Messages split by SequenceNumber and the gateway's row are one request, in whichever order and file they stand."""
    log = [gateway("c", requestBody=BODY[:30]), told("c", 1, ASKS[9:], ANSWERS), told("c", 0, ASKS[:9], PromptTokens=70, CompletionTokens=3)]  # fmt: skip
    for i, n in enumerate(order):
        (tmp_path / f"{i}.jsonl").write_bytes(jsonl([log[n]]))
    trace = ingest(sorted(tmp_path.glob("*.jsonl")), tmp_path / "t")
    (row,) = rows(trace)
    content = rows(trace, "content")[0]
    assert trace.manifest["skipped_by_reason"] == {"joined_to_its_request": 2}
    assert (content["messages_json"], content["output_json"]) == (ASKS.replace(": ", ":").replace(", ", ","), '{"role":"assistant","content":"yes"}')  # fmt: skip
    assert (row["arrival_ts"], row["end_ts"]) == (at("2026-08-21T12:00:00.5"), at("2026-08-21T12:00:00.54"))
    assert (row["input_tokens"], row["output_tokens"], row["model_requested"]) == (70, 3, "d")
    assert row["content_state"] == "complete" and "tools_unknown" in row["quality"]


def test_apim_llm_log_alone_is_written_at_the_end(ingested: Ingested) -> None:
    """A row of the LLM log has the answer's counts: its time is when it was written, and no arrival was measured."""
    asked = json.dumps([{"role": "user", "content": "q"}])
    alone = one(ingested, told("a", 0, asked))
    assert (alone["arrival_quality"], alone["end_ts"]) == ("log_time", None)


def test_apim_cut_bodies(ingested: Ingested) -> None:
    """A body that was cut is no prompt, and a piece that is missing leaves none; whole bodies stay as they are."""
    row = one(ingested, gateway("a", requestBody=BODY, responseBody='{"choices":[{"mess'))
    assert (row["content_state"], row["max_output_tokens"], row["output_json"]) == ("complete", 9, None)
    assert "output_truncated" in row["quality"]
    row = one(ingested, gateway("a", requestBody=BODY[:30]))
    assert (row["content_level"], row["content_state"], row["status"]) == ("lengths", "truncated", "ok")
    missing = [gateway("a", requestBody=BODY[:30]), told("a", 0, ASKS[:9]), told("a", 2, ASKS[9:])]
    (row,) = rows(ingested(missing))
    assert (row["content_level"], row["content_state"]) == ("lengths", "truncated")
    sse = 'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"It"}}]}\n\n'
    row = one(ingested, gateway("a", requestBody=BODY, responseBody=sse))
    assert (row["status"], row["output_json"]) == ("ok", None) and "output_truncated" in row["quality"]


def test_apim_of_log_analytics(ingested: Ingested) -> None:
    """Columns in PascalCase and with the marks of their types mean the same; a row of its own tells what it can."""
    row = one(ingested, {"Category": "GatewayLogs", "CorrelationId": "c", "TimeGenerated": "2026-08-21T12:00:00Z", "url_s": "https://x/openai/deployments/d/chat/completions",
                         "requestBody_s": BODY, "responseCode_d": 200.0, "DurationMs": 40, "apimSubscriptionId_s": "team"})  # fmt: skip
    assert (row["http_status"], row["tenant_id"], row["e2e_us"], row["max_output_tokens"]) == (200, "team", 40_000, 9)  # fmt: skip
    alone = one(ingested, told("c", 0, ASKS, ANSWERS, PromptTokens=7, CompletionTokens=1, ModelName="m"))
    assert (alone["arrival_ts"], alone["status"], alone["input_tokens"], alone["stream"]) == (at("2026-08-21T12:00:00.6"), "ok", 7, False)  # fmt: skip


def test_times_as_the_azure_portal_exports_them(tmp_path: Path) -> None:
    """The portal's CSV puts the zone into the column's name, and writes times with AM and PM."""
    asked = "method,url_s,Category,CorrelationId,DurationMs,TimeGenerated [UTC]"
    log = f'{asked}\nPOST,/deployments/m/chat/completions,GatewayLogs,a,40,"8/21/2026, 1:00:00.120 PM"\nPOST,/deployments/m/chat/completions,GatewayLogs,b,40,"8/21/2026, 12:00:00 AM"\n'
    (tmp_path / "log.csv").write_text(log)
    found = rows(ingest([tmp_path / "log.csv"], tmp_path / "trace", Options()))
    assert {r["request_id"]: r["arrival_ts"] for r in found} == {"a": at("2026-08-21T13:00:00.120"), "b": at("2026-08-21T00:00:00")}  # fmt: skip
    columns = "TimeGenerated [UTC],Category,OperationName,DurationMs,CorrelationId,ResultSignature"
    (tmp_path / "own.csv").write_text(f'{columns}\n"8/21/2026, 1:00:00.120 PM",RequestResponse,ChatCompletions_Create,812,a,200\n')  # fmt: skip
    (row,) = rows(ingest([tmp_path / "own.csv"], tmp_path / "own", Options()))
    assert (row["arrival_ts"], row["arrival_quality"]) == (at("2026-08-21T13:00:00.120"), "log_time")


def test_apim_other_traffic(ingested: Ingested) -> None:
    """Calls of other APIs and of embeddings are skipped; a second row of one id goes by the rule for duplicates."""
    log = [gateway("a", url="https://x/orders/1", requestBody='{"id": 1}'), gateway("b", url="https://x/openai/deployments/d/embeddings"),
           gateway("c", requestBody=BODY), gateway("c", requestBody=BODY)]  # fmt: skip
    trace = ingested(log)
    assert trace.manifest["skipped_by_reason"] == {"not_a_generation": 1, "embedding": 1}
    assert len(rows(trace)) == 1 and reasons(trace) == {"duplicate_request_id": 1}


# -- Databricks, SageMaker ---------------------------------------------------------------------------------


def test_databricks_in_parquet(tmp_path: Path) -> None:
    """Typed columns say the same as text: times, lists of error codes, structs."""
    table = pa.table(
        {
            "databricks_request_id": ["a", "b"],
            "request_time": pa.array([1787313600_118000, 1787313601_000000], pa.timestamp("us", "UTC")),
            "execution_duration_ms": pa.array([812, None], pa.int64()),
            "status_code": pa.array([200, 429], pa.int32()),
            "request": [BODY, None],
            "response": [None, None],
            "sampling_fraction": [0.5, 2.0],
            "logging_error_codes": [[], ["MAX_REQUEST_SIZE_EXCEEDED"]],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    trace = ingest([tmp_path / "t.parquet"], tmp_path / "t")
    first, second = rows(trace)
    assert (first["arrival_ts"], first["end_ts"]) == (at("2026-08-21T12:00:00.118"), at("2026-08-21T12:00:00.930"))  # fmt: skip
    assert (first["sampling_fraction"], second["sampling_fraction"]) == (0.5, None)
    assert (second["content_state"], second["status"], second["quality"]) == ("absent", "rejected", ["too_large_to_log"])  # fmt: skip


def test_databricks_endpoints_stand_for_models(ingested: Ingested) -> None:
    """Bodies name no model; a list of texts is an embedding, items are the Responses API."""

    def row(body: dict[str, Any], name: str = "a") -> dict[str, Any]:
        return {"databricks_request_id": name, "timestamp_ms": 1787313600118, "execution_time_ms": 5, "request": json.dumps(body), "request_metadata": {"endpoint_name": "e"}}  # fmt: skip

    assert one(ingested, row(json.loads(BODY)))["model_requested"] == "e"
    assert one(ingested, row({"input": [{"role": "user", "content": "q"}]}))["operation"] == "responses"
    assert skipped(ingested, row({"input": ["a"]}), row({"inputs": [1]}, "b")) == {"embedding": 1, "not_a_generation": 1}  # fmt: skip


def half(side: str, data: str, encoding: str = "JSON", name: str = "e1", **meta: Any) -> dict[str, Any]:
    return {"captureData": {side: {"data": data, "encoding": encoding}}, "eventMetadata": {"eventId": name, "inferenceTime": "2026-08-21T12:00:00Z", **meta}}  # fmt: skip


@pytest.mark.parametrize("turned", [False, True])
def test_sagemaker_halves_are_joined(turned: bool, tmp_path: Path) -> None:
    """Input and output captured apart find each other across files, whichever comes first."""
    asked = json.dumps({"inputs": "q", "parameters": {"max_new_tokens": 3}})
    said = base64.b64encode(b'{"generated_text": "a"}').decode()
    halves = [half("endpointInput", asked), half("endpointOutput", said, "BASE64")]
    for i, record in enumerate(reversed(halves) if turned else halves):
        (tmp_path / f"{i}.jsonl").write_bytes(jsonl([record]))
    trace = ingest(sorted(tmp_path.glob("*.jsonl")), tmp_path / "t")
    assert [json.loads(c["output_json"])["content"] for c in rows(trace, "content")] == ["a"]
    assert rows(trace, "content")[0]["prompt_text"] == "q"
    assert trace.manifest["skipped_by_reason"] == {"joined_to_its_request": 1}


def test_sagemaker_what_is_no_request(ingested: Ingested) -> None:
    """An answer alone, a half that comes twice and broken Base64 are rejects; inputs without a generated text are none."""
    asked = json.dumps({"inputs": "q", "parameters": {"max_new_tokens": 3}})
    log = [half("endpointInput", asked), half("endpointInput", asked), half("endpointOutput", "[]", name="e2"), half("endpointInput", "?", "BASE64", name="e3")]  # fmt: skip
    assert reasons(ingested(log)) == {"duplicate_request_id": 1, "no_prompt": 1, "wrong_type": 1}
    row = one(ingested, half("endpointInput", asked, customAttributes="tenant=acme;session_id=s"))
    assert (row["tenant_id"], row["session_id"], row["arrival_resolution_us"]) == ("acme", "s", 1_000_000)
    assert skipped(ingested, half("endpointInput", '{"inputs": "q"}'), half("endpointInput", "1,2", "CSV", name="e4")) == {"not_a_generation": 2}  # fmt: skip


# -- gateways ----------------------------------------------------------------------------------------------


def test_portkey_attempts(ingested: Ingested) -> None:
    """Fallbacks of one trace are one group; durations count ms from the start; Portkey's own cache is told."""
    log = sample_records("portkey")
    found = {r["request_id"]: r for r in rows(ingested(log))}
    assert found["pk-1"]["attempt_group"] == found["pk-2"]["attempt_group"] == "tr-1"
    assert found["pk-3"]["attempt_group"] is None and found["pk-3"]["trace_id"] == "tr-2"
    assert found["pk-2"]["end_ts"] == at("2026-08-21T12:00:02.004")
    assert [found[f"pk-{n}"]["served_from_response_cache"] for n in (3, 4)] == [False, True]
    plain = one(ingested, {**log[2], "metadata": {"session_id": "s_9"}, "cache_status": "", "response_status_code": None, "is_success": 0})  # fmt: skip
    assert (plain["session_id"], plain["served_from_response_cache"], plain["http_status"]) == ("s_9", None, None)  # fmt: skip


def test_cloudflare_bodies(ingested: Ingested) -> None:
    """Encrypted bodies are redacted, decrypted ones and those fetched by a second call are read."""
    row = one(ingested, {**sample_records("cloudflare.logpush")[0], "RequestBody": BODY, "Metadata": {"user": "u"}})  # fmt: skip
    assert (row["content_state"], row["user_id"], row["clock"]) == ("complete", "u", "none")
    api = {"id": "1", "created_at": "2026-08-21T12:00:01Z", "provider": "openai", "cached": False, "tokens_in": 9, "tokens_out": 2}  # fmt: skip
    row = one(ingested, {**api, "request": BODY, "response": {"choices": [{"message": {"content": "a"}}]}})
    assert json.loads(row["output_json"])["content"] == "a" and row["content_level"] == "text"
    assert (row["input_tokens"], row["arrival_resolution_us"], row["end_ts"]) == (9, 1_000_000, None)


def test_openrouter_counts_are_the_models_own(ingested: Ingested) -> None:
    """Of a generation the native counts hold; cached tokens beyond the prompt are an error; sums of a day are rejected."""
    record = sample_records("openrouter.generation")[0]
    row = one(ingested, record)
    assert (row["input_tokens"], row["output_tokens"]) == (1180, 19)
    assert row["ttft_us"] is None and json.loads(row["extra_json"])["latency"] == 313
    wrong = one(ingested, {"data": {**record["data"], "native_tokens_cached": 5_000}})
    assert wrong["cached_input_tokens"] is None and "bad_cached_tokens" in wrong["quality"]
    day = {"date": "2026-08-21", "model": "m", "model_permaslug": "m", "endpoint_id": "e", "requests": 5, "prompt_tokens": 50}  # fmt: skip
    trace = ingested(json.dumps({"data": [day, day]}).encode(), "activity.json")
    assert reasons(trace) == {"unsupported": 2} and "CSV" in rows(trace, "rejects")[0]["detail"]


def test_envoy_keys_of_the_user(ingested: Ingested) -> None:
    """Counts may be text, `-` is nothing; headers that came are no first token; a client that left cancelled."""
    found = rows(ingested(sample_records("envoy-ai-gateway")))
    assert [r["input_tokens"] for r in found] == [1180, 1215, None, None]
    assert all(r["first_token_ts"] is None and r["ttft_us"] is None for r in found)
    assert [(r["status"], r["error_type"]) for r in found[2:]] == [("rejected", "RL"), ("cancelled", "DC")]
    assert formats.claims({"start_time": 1, "duration": 2, "gen_ai.request.model": "m"}) == []  # a span


def test_sagemaker_halves_in_any_order(ingested: Ingested) -> None:
    """Inputs and outputs captured apart are joined on the event, however far apart; an input alone is a request."""

    def half(event: str, side: str, body: Any) -> dict[str, Any]:
        held = {"encoding": "JSON", "data": json.dumps(body)}
        return {"captureData": {f"endpoint{side}": held}, "eventMetadata": {"eventId": event, "inferenceTime": "2026-08-21T12:00:00Z"}}  # fmt: skip

    ask = {"model": "m", "messages": [{"role": "user", "content": "q"}]}
    reply = {"choices": [{"message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}]}
    log = [half("b", "Output", reply), half("a", "Input", ask), half("c", "Input", ask), half("b", "Input", ask),
           half("a", "Output", reply), half("a", "Input", ask), half("d", "Output", reply)]  # fmt: skip
    trace = ingested(log)
    assert {r["request_id"]: r["status"] for r in rows(trace)} == {"a": "ok", "b": "ok", "c": "unknown"}
    assert reasons(trace) == {"duplicate_request_id": 1, "no_prompt": 1}
    assert trace.manifest["skipped_by_reason"] == {"joined_to_its_request": 2}


def test_envoy_zeros(ingested: Ingested) -> None:
    """0 cached tokens are what the gateway counted; 0 tokens in all are what it did not."""
    base = sample_records("envoy-ai-gateway")[0]
    counted = {"gen_ai.usage.input_tokens": 30, "gen_ai.usage.output_tokens": 2, "gen_ai.usage.cached_input_tokens": 0}  # fmt: skip
    failed = {"gen_ai.usage.input_tokens": 0, "gen_ai.usage.output_tokens": 0, "response_code": 503}
    for changes, expected in ((counted, (30, 0, 2, "usage")), (failed, (None, None, None, None))):
        row = one(ingested, {**base, **changes})
        assert (row["input_tokens"], row["cached_input_tokens"], row["output_tokens"], row["tokens_source"]) == expected  # fmt: skip


def test_kong_transformers_are_calls_of_their_own(ingested: Ingested) -> None:
    """What the client asked for is what the proxy noted, whatever model rewrote it before."""
    log = sample_records("kong")[0]
    proxy = next(iter(log["ai"].values()))
    other = {"meta": {"request_model": "small"}, "usage": {"prompt_tokens": 7777, "completion_tokens": 7}, "cache": {"cache_status": "Hit"}}  # fmt: skip
    alone = one(ingested, {**log, "ai": {"ai-proxy": proxy}})
    both = one(ingested, {**log, "ai": {"ai-request-transformer": other, "ai-proxy": proxy, "ai-response-transformer": other}})  # fmt: skip
    assert alone == both


def test_kong_names_in_either_number(ingested: Ingested) -> None:
    """prompt_tokens and prompt_token are one; rows of other routes are skipped in a mixed log."""
    log = sample_records("kong")
    assert rows(ingested(log))[1]["input_tokens"] == 1215
    bare = {**log[2], "ai": {"ai-proxy": {"usage": {"prompt_token": 7, "completion_token": 2}, "meta": {"request_model": "m"}}}}  # fmt: skip
    row = one(ingested, bare)
    assert (row["input_tokens"], row["output_tokens"], row["content_state"]) == (7, 2, "absent")
    other = {k: v for k, v in log[0].items() if k != "ai"}
    assert skipped(ingested, log[0], log[1], other) == {"not_a_generation": 1}


def test_apisix_first_token_only_of_streams(ingested: Ingested) -> None:
    """`duration` is the time to the first token when the answer was streamed, and nothing else when it was not."""
    streamed, whole, *_ = rows(ingested(sample_records("apisix")))
    assert streamed["first_token_ts"] == at("2026-08-21T12:00:00.431") and whole["first_token_ts"] is None
    assert whole["e2e_us"] == 911_000


def test_apisix_access_lines(ingested: Ingested) -> None:
    """nginx writes when a request has ended: the arrival lies its duration before, in the line's own zone."""
    trace = ingested(SAMPLES / "apisix-access.log")
    first, _, refused, _ = rows(trace)
    assert (first["arrival_ts"], first["end_ts"]) == (at("2026-08-21T11:59:59.216"), at("2026-08-21T12:00:01"))  # fmt: skip
    assert refused["end_ts"] == at("2026-08-21T12:00:06") and refused["input_tokens"] is None
    assert trace.manifest["skipped_by_reason"] == {"other_line": 1}
    combined = '192.0.2.9 - - [21/Aug/2026:12:00:01 +0000] "GET / HTTP/1.1" 200 2 "-" "curl"'
    assert formats.claims(combined) == []


def test_kinds_of_errors_are_words() -> None:
    """Of an error's type, code and status the first word is its kind; a number only when there is no word."""
    cases = {"INVALID_ARGUMENT": {"code": 400, "status": "INVALID_ARGUMENT"}, "content_filter": {"type": None, "code": "content_filter", "status": 400},
             "429": {"code": 429}, "error": {"message": "x"}}  # fmt: skip
    for kind, error in cases.items():
        out = Request()
        bodies.settle(out, error)
        assert (out.error_type, out.status) == (kind, "error")
