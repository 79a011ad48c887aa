"""A session of two turns stays one: in every format with text, turn 2 begins with turn 1 and its answer, byte for byte."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from conftest import rows

from traceprof.templates import BuiltIn, prepare_messages
from traceprof.trace import Trace

Ingested = Callable[..., Trace]
Turn = tuple[list[Any], dict[str, Any]]  # messages sent, message answered
Log = list[Any]

ARGS = '{"order":"1042","deep":{"b":1,"a":[1,2]}}'
FUNCTION = {"name": "look_up", "description": "Look up", "parameters": {"type": "object", "properties": {"order": {"type": "string"}}}}  # fmt: skip
TOOLS = [{"type": "function", "function": FUNCTION}]
CALLED = {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": ARGS}}]}  # fmt: skip
SAID = [{"role": "system", "content": "Be terse.\n"}, {"role": "user", "content": "Hvor er 1042? \n"}]
SPOKEN = {"role": "assistant", "content": " Sendt på mandag ☃.\n\n"}
END = {"role": "assistant", "content": "Fredag."}

PLAIN: list[Turn] = [(SAID, SPOKEN), ([*SAID, SPOKEN, {"role": "user", "content": "Når?"}], END)]
CALLS: list[Turn] = [(SAID, CALLED), ([*SAID, CALLED, {"role": "tool", "tool_call_id": "c1", "content": '{"sent":true}'}], END)]  # fmt: skip

AT = ("2026-08-21T12:00:00", "2026-08-21T12:00:05")
MS = (1787313600000, 1787313605000)


def tools_of(turn: Turn) -> dict[str, Any]:
    """The tools, in a session that calls one."""
    calls = any("tool_calls" in m for m in (*turn[0], turn[1]))
    return {"tools": TOOLS} if calls else {}


def openai(turn: Turn) -> dict[str, Any]:
    return {"model": "m", "messages": turn[0], **tools_of(turn)}


def completion(turn: Turn) -> dict[str, Any]:
    usage = {"prompt_tokens": 90, "completion_tokens": 9}
    return {"model": "m", "choices": [{"index": 0, "message": turn[1], "finish_reason": "stop"}], "usage": usage}  # fmt: skip


def system_of(turn: Turn) -> str:
    return str(turn[0][0]["content"])


def anthropic(turn: Turn) -> dict[str, Any]:
    tools = [{"name": FUNCTION["name"], "description": FUNCTION["description"], "input_schema": FUNCTION["parameters"]}]  # fmt: skip
    said = [{"role": "user" if m["role"] == "tool" else m["role"], "content": blocks(m)} for m in turn[0][1:]]
    body = {"max_tokens": 9, "system": system_of(turn), "messages": said}
    return {**body, "tools": tools} if tools_of(turn) else body


def blocks(message: dict[str, Any]) -> list[Any]:
    if message["role"] == "tool":
        return [{"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": message["content"]}]  # fmt: skip
    if "tool_calls" in message:
        return [{"type": "tool_use", "id": "c1", "name": "look_up", "input": json.loads(ARGS)}]
    return [{"type": "text", "text": message["content"]}]


def message(turn: Turn) -> dict[str, Any]:
    usage = {"input_tokens": 90, "output_tokens": 9}
    return {"type": "message", "role": "assistant", "content": blocks(turn[1]), "stop_reason": "end_turn", "usage": usage}  # fmt: skip


def converse(turn: Turn) -> dict[str, Any]:
    spec = {"name": FUNCTION["name"], "description": FUNCTION["description"], "inputSchema": {"json": FUNCTION["parameters"]}}  # fmt: skip
    said = [{"role": "user" if m["role"] == "tool" else m["role"], "content": [block(m)]} for m in turn[0][1:]]  # fmt: skip
    body = {"modelId": "m", "system": [{"text": system_of(turn)}], "messages": said}
    return {**body, "toolConfig": {"tools": [{"toolSpec": spec}]}} if tools_of(turn) else body


def block(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        return {"toolResult": {"toolUseId": "c1", "content": [{"text": message["content"]}]}}
    if "tool_calls" in message:
        return {"toolUse": {"toolUseId": "c1", "name": "look_up", "input": json.loads(ARGS)}}
    return {"text": message["content"]}


def conversed(turn: Turn) -> dict[str, Any]:
    usage = {"inputTokens": 90, "outputTokens": 9}
    return {"output": {"message": {"role": "assistant", "content": [block(turn[1])]}}, "stopReason": "end_turn", "usage": usage}  # fmt: skip


def converse_stream(turn: Turn) -> list[Any]:
    """The events of an answer, some letters each."""
    whole = block(turn[1])
    written = ARGS if "toolUse" in whole else whole["text"]
    pieces = [written[i : i + 5] for i in range(0, len(written), 5)]
    named = {"toolUse": {"toolUseId": "c1", "name": "look_up"}}
    deltas = [{"toolUse": {"input": p}} if "toolUse" in whole else {"text": p} for p in pieces]
    start = [{"contentBlockStart": {"contentBlockIndex": 0, "start": named}}] if "toolUse" in whole else []
    grown = [{"contentBlockDelta": {"contentBlockIndex": 0, "delta": d}} for d in deltas]
    return [{"messageStart": {"role": "assistant"}}, *start, *grown, {"messageStop": {"stopReason": "end_turn"}}]  # fmt: skip


def gemini(turn: Turn) -> dict[str, Any]:
    said = [{"role": "model" if m["role"] == "assistant" else "user", "parts": [part(m)]} for m in turn[0][1:]]  # fmt: skip
    body = {"systemInstruction": {"parts": [{"text": system_of(turn)}]}, "contents": said}
    return {**body, "tools": [{"functionDeclarations": [FUNCTION]}]} if tools_of(turn) else body


def part(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        return {"functionResponse": {"id": "c1", "name": "look_up", "response": json.loads(message["content"])}}  # fmt: skip
    if "tool_calls" in message:
        return {"functionCall": {"id": "c1", "name": "look_up", "args": json.loads(ARGS)}}
    return {"text": message["content"]}


def generated(turn: Turn, at: str = AT[0]) -> dict[str, Any]:
    usage = {"promptTokenCount": 90, "candidatesTokenCount": 9, "totalTokenCount": 99}
    candidate = {"content": {"role": "model", "parts": [part(turn[1])]}, "finishReason": "STOP"}
    return {"candidates": [candidate], "usageMetadata": usage, "createTime": f"{at}Z"}


def langchain(message: dict[str, Any]) -> dict[str, Any]:
    kind = {"system": "System", "user": "Human", "assistant": "AI", "tool": "Tool"}[message["role"]]
    held = {"content": message["content"] or "", "tool_call_id": message.get("tool_call_id")}
    if "tool_calls" in message:
        held["tool_calls"] = [{"name": "look_up", "args": json.loads(ARGS), "id": "c1", "type": "tool_call"}]
    return {"lc": 1, "type": "constructor", "id": ["langchain", "schema", f"{kind}Message"], "kwargs": held}


def gen_ai(message: dict[str, Any]) -> dict[str, Any]:
    """A message of the GenAI conventions, as Langfuse keeps it when it comes over OpenTelemetry."""
    if message["role"] == "tool":
        made = {"type": "tool_call_response", "id": "c1", "response": message["content"]}
    elif "tool_calls" in message:
        made = {"type": "tool_call", "id": "c1", "name": "look_up", "arguments": json.loads(ARGS)}
    else:
        made = {"type": "text", "content": message["content"]}
    return {"role": message["role"], "parts": [made]}


def pairs(request: Callable[[Turn], Any], response: Callable[[Turn], Any]) -> Callable[[list[Turn]], Log]:
    """A logger's own wrapper around bodies of some dialect."""
    return lambda turns: [
        {"request_id": f"r{i}", "session_id": "s", "timestamp": f"{AT[i]}Z", "model": "m", "request": request(t), "response": response(t)}
        for i, t in enumerate(turns)
    ]  # fmt: skip


def litellm(turns: list[Turn]) -> Log:
    return [
        {"id": f"r{i}", "trace_id": "s", "call_type": "acompletion", "status": "success", "startTime": MS[i] / 1e3, "endTime": MS[i] / 1e3 + 1,
         "completionStartTime": MS[i] / 1e3 + 1, "model": "m", "model_parameters": tools_of(t), "messages": t[0], "response": completion(t)}
        for i, t in enumerate(turns)
    ]  # fmt: skip


def litellm_anthropic(turns: list[Turn]) -> Log:
    return [
        {**row, "call_type": "anthropic_messages", "model_parameters": {k: v for k, v in anthropic(t).items() if k != "messages"},
         "messages": anthropic(t)["messages"], "response": message(t)}
        for row, t in zip(litellm(turns), turns, strict=True)
    ]  # fmt: skip


def spend(turns: list[Turn]) -> Log:
    return [
        {"request_id": f"r{i}", "call_type": "acompletion", "api_key": "88dc", "spend": 0, "startTime": AT[i], "endTime": AT[i], "cache_key": "",
         "model": "m", "session_id": "s", "proxy_server_request": json.dumps(openai(t)), "response": json.dumps(completion(t)), "status": "success"}
        for i, t in enumerate(turns)
    ]  # fmt: skip


def langfuse(sent: Callable[[Turn], Any], got: Callable[[Turn], Any]) -> Callable[[list[Turn]], Log]:
    return lambda turns: [
        {"id": f"o{i}", "trace_id": f"t{i}", "type": "GENERATION", "parent_observation_id": "", "start_time": AT[i].replace("T", " "),
         "end_time": AT[i].replace("T", " "), "session_id": "s", "input": json.dumps(sent(t)), "output": json.dumps(got(t)), "provided_model_name": "m"}
        for i, t in enumerate(turns)
    ]  # fmt: skip


def langsmith(sent: Callable[[Turn], Any], got: Callable[[Turn], Any]) -> Callable[[list[Turn]], Log]:
    return lambda turns: [
        {"id": f"r{i}", "run_type": "llm", "dotted_order": f"d{i}", "trace_id": f"t{i}", "start_time": AT[i], "end_time": AT[i], "inputs": sent(t),
         "outputs": got(t), "status": "success", "extra": {"metadata": {"thread_id": "s"}, "invocation_params": {"model": "m", **tools_of(t)}}}
        for i, t in enumerate(turns)
    ]  # fmt: skip


def weave(op: str, sent: Callable[[Turn], Any], got: Callable[[Turn], Any]) -> Callable[[list[Turn]], Log]:
    return lambda turns: [
        {"id": f"r{i}", "op_name": f"weave:///t/p/op/{op}:x", "trace_id": f"t{i}", "thread_id": "s", "started_at": f"{AT[i]}Z", "ended_at": f"{AT[i]}Z",
         "inputs": {"self": "weave:///x", **sent(t)}, "output": got(t), "summary": {}, "attributes": {}}
        for i, t in enumerate(turns)
    ]  # fmt: skip


def braintrust(turns: list[Turn]) -> Log:
    return [
        {"_xact_id": "1", "span_id": f"r{i}", "root_span_id": f"t{i}", "span_attributes": {"type": "llm"}, "input": t[0],
         "output": completion(t)["choices"], "metadata": {"model": "m", "session_id": "s", **tools_of(t)}, "metrics": {"start": MS[i] / 1e3}}
        for i, t in enumerate(turns)
    ]  # fmt: skip


def helicone(turns: list[Turn]) -> Log:
    return [
        {"request_id": f"r{i}", "response_id": f"x{i}", "request_created_at": f"{AT[i]}Z", "response_created_at": f"{AT[i]}Z",
         "request_properties": {"Helicone-Session-Id": "s"}, "request_body": openai(t), "response_body": completion(t), "response_status": 200}
        for i, t in enumerate(turns)
    ]  # fmt: skip


def portkey(turns: list[Turn]) -> Log:
    return [
        {"id": f"r{i}", "created_at": f"{AT[i]}Z", "request": {"body": openai(t)}, "response": {"body": completion(t)}, "req_units": 1, "res_units": 1}
        for i, t in enumerate(turns)
    ]  # fmt: skip


def kong(turns: list[Turn]) -> Log:
    return [
        {"request": {"id": f"r{i}"}, "response": {"status": 200}, "latencies": {"request": 9}, "started_at": MS[i],
         "ai": {"proxy": {"payload": {"request": json.dumps(openai(t)), "response": json.dumps(completion(t))}}}}
        for i, t in enumerate(turns)
    ]  # fmt: skip


def cloudflare(turns: list[Turn]) -> Log:
    return [
        {"id": f"r{i}", "created_at": f"{AT[i]}Z", "provider": "openai", "cached": False, "tokens_in": 1, "tokens_out": 1,
         "request": json.dumps(openai(t)), "response": json.dumps(completion(t))}
        for i, t in enumerate(turns)
    ]  # fmt: skip


def apim(turns: list[Turn]) -> Log:
    return [
        {"category": "GatewayLogs", "correlationId": f"r{i}", "time": f"{AT[i]}Z", "durationMs": 9, "properties": {
            "url": "https://x/openai/deployments/m/chat/completions", "requestBody": json.dumps(openai(t)), "responseBody": json.dumps(completion(t))}}
        for i, t in enumerate(turns)
    ]  # fmt: skip


def bedrock(operation: str, sent: Callable[[Turn], Any], got: Callable[[Turn], Any]) -> Callable[[list[Turn]], Log]:  # fmt: skip
    return lambda turns: [
        {"schemaType": "ModelInvocationLog", "timestamp": f"{AT[i]}Z", "requestId": f"r{i}", "operation": operation, "modelId": "m",
         "input": {"inputBodyJson": sent(t)}, "output": {"outputBodyJson": got(t)}}
        for i, t in enumerate(turns)
    ]  # fmt: skip


def vertex(turns: list[Turn]) -> Log:
    return [
        {"logging_time": f"{AT[i].replace('T', ' ')} UTC", "request_id": str(i + 9), "request_payload": [json.dumps(gemini(t))],
         "response_payload": [json.dumps(generated(t, AT[i]))], "model": "publishers/google/models/m", "api_method": "generateContent"}
        for i, t in enumerate(turns)
    ]  # fmt: skip


def databricks(turns: list[Turn]) -> Log:
    return [
        {"databricks_request_id": f"r{i}", "timestamp_ms": MS[i], "execution_time_ms": 9, "request": json.dumps(openai(t)), "response": json.dumps(completion(t))}
        for i, t in enumerate(turns)
    ]  # fmt: skip


def sagemaker(turns: list[Turn]) -> Log:
    return [
        {"eventMetadata": {"eventId": f"r{i}", "inferenceTime": f"{AT[i]}Z"}, "captureData": {
            "endpointInput": {"encoding": "JSON", "data": json.dumps(openai(t))},
            "endpointOutput": {"encoding": "BASE64", "data": base64.b64encode(json.dumps(completion(t)).encode()).decode()}}}
        for i, t in enumerate(turns)
    ]  # fmt: skip


def conversation(turns: list[Turn]) -> Log:
    return [{"id": "s", "messages": [*turns[1][0], turns[1][1]], **tools_of(turns[0])}]


FORMATS: dict[str, Callable[[list[Turn]], Log]] = {
    "openai": pairs(openai, completion),
    "anthropic": pairs(anthropic, message),
    "converse": pairs(converse, conversed),
    "gemini": pairs(gemini, generated),
    "litellm": litellm,
    "litellm of Anthropic": litellm_anthropic,
    "litellm-spendlogs": spend,
    "langfuse": langfuse(openai, lambda t: t[1]),
    "langfuse of Anthropic": langfuse(anthropic, message),
    "langfuse of parts": langfuse(
        lambda t: {"messages": list(map(gen_ai, t[0])), **tools_of(t)}, lambda t: [gen_ai(t[1])]
    ),
    "langsmith": langsmith(
        lambda t: {"messages": [list(map(langchain, t[0]))]},
        lambda t: {"generations": [[{"message": langchain(t[1])}]]},
    ),
    "langsmith of OpenAI": langsmith(openai, completion),
    "weave": weave("openai.chat.completions.create", openai, completion),
    "weave of Anthropic": weave("anthropic.Messages.create", anthropic, message),
    "weave of Gemini": weave("google.genai.models.Models.generate_content", gemini, generated),
    "weave of Bedrock": weave("BedrockRuntime.converse", converse, conversed),
    "braintrust": braintrust,
    "helicone": helicone,
    "portkey": portkey,
    "kong": kong,
    "cloudflare": cloudflare,
    "azure-apim": apim,
    "bedrock": bedrock("Converse", converse, conversed),
    "bedrock of a stream": bedrock("ConverseStream", converse, converse_stream),
    "bedrock of Anthropic": bedrock("InvokeModel", anthropic, message),
    "vertex": vertex,
    "databricks": databricks,
    "sagemaker": sagemaker,
    "conversation": conversation,
}


def responses(turn: Turn) -> dict[str, Any]:
    return {"model": "m", "instructions": system_of(turn), "input": [i for m in turn[0][1:] for i in items(m)], **tools_of(turn)}  # fmt: skip


def items(message: dict[str, Any]) -> list[Any]:
    if message["role"] == "tool":
        return [{"type": "function_call_output", "call_id": message["tool_call_id"], "output": message["content"]}]  # fmt: skip
    kind = "output_text" if message["role"] == "assistant" else "input_text"
    said = [{"type": kind, "text": message["content"]}]
    spoken = [{"type": "message", "role": message["role"], "content": said}] if message["content"] else []
    calls = [{"type": "function_call", "call_id": c["id"], **c["function"]} for c in message.get("tool_calls", ())]  # fmt: skip
    return [*spoken, {"type": "reasoning", "summary": []}, *calls] if calls else spoken


def responded(turn: Turn) -> dict[str, Any]:
    return {"object": "response", "status": "completed", "output": items(turn[1])}


FORMATS["openai-responses"] = pairs(responses, responded)
SEVERAL = {
    **CALLED,
    "content": "Vent.",
    "tool_calls": [*CALLED["tool_calls"], {**CALLED["tool_calls"][0], "id": "c2"}],
}
GIVEN = [{"role": "tool", "tool_call_id": name, "content": "1"} for name in ("c1", "c2")]
MANY: list[Turn] = [(SAID, SEVERAL), ([*SAID, SEVERAL, *GIVEN], END)]


@pytest.mark.parametrize("name", ["openai", "openai-responses"])
def test_several_calls_of_one_answer(name: str, ingested: Ingested) -> None:
    """Text and calls that stand apart in items are one message, as the answer that they were was."""
    first, second = (rendered(row) for row in rows(ingested(FORMATS[name](MANY)), "content"))
    assert second[0].startswith(f"{first[0]}{first[1]}<eos>")


def rendered(row: dict[str, Any]) -> tuple[str, str]:
    """Prompt and answer of a row through the built-in template."""
    template = BuiltIn("<bos>", "<eos>")
    tools = json.loads(row["tools_json"]) if row["tools_json"] else None
    said, answer = json.loads(row["messages_json"]), json.loads(row["output_json"])
    asked = template.render(prepare_messages(said, "string").messages, tools)
    return asked, template.answer(prepare_messages([answer], "string").messages[0])


@pytest.mark.parametrize("turns", [PLAIN, CALLS], ids=["said", "called"])
@pytest.mark.parametrize("name", FORMATS)
def test_turns_share_their_prefix(name: str, turns: list[Turn], ingested: Ingested) -> None:
    """Turn 2's prompt begins with turn 1's prompt and answer, and both render as the same chat in OpenAI's bodies does."""
    trace = ingested(FORMATS[name](turns))
    assert set(trace.manifest["formats"]) == {name.partition(" ")[0]}
    assert trace.manifest["requests"] == 2
    found = [rendered(row) for row in rows(trace, "content")]
    assert found[1][0].startswith(found[0][0] + found[0][1] + "<eos>")
    plain = ingested(FORMATS["openai"](turns))
    assert found == [rendered(row) for row in rows(plain, "content")]
