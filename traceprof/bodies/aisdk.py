"""Spans of the AI SDK for JavaScript: its own attributes (`ai.*`), which hold the prompt that the GenAI ones leave out.

A call of a provider is a span `....doGenerate` or `....doStream` within the one of the function that the user called. Input tokens
include the cached ones. Source: its pages on telemetry, and spans captured from ai 5.0.277.
"""

from __future__ import annotations

from typing import Any

from traceprof.bodies import decoded, openai, otel, spans
from traceprof.bodies.otel import Span, first
from traceprof.formats.base import BadRecord, Request, count, dumps, finish, text

KIND = "ai.operationId"
_OTHERS = {"ai.toolCall": "tool", "ai.embed": "embedding", "ai.embedMany": "embedding", "ai.rerank": "rerank"}
_INPUT = ("ai.usage.inputTokens", "ai.usage.promptTokens", "gen_ai.usage.input_tokens")
_OUTPUT = ("ai.usage.outputTokens", "ai.usage.completionTokens", "gen_ai.usage.output_tokens")
_CACHED = ("ai.usage.cachedInputTokens", "ai.usage.inputTokenDetails.cacheReadTokens")
_REASONING = ("ai.usage.reasoningTokens", "ai.usage.outputTokenDetails.reasoningTokens")


def other_kind(span: Span) -> str | None:
    """Why a span is no call of a model; None for one that is."""
    named = str(span.attributes.get(KIND))
    if named.endswith(".doEmbed"):
        return "embedding"
    return None if named.endswith((".doGenerate", ".doStream")) else _OTHERS.get(named, "other_span")


def read(span: Span) -> spans.Rows:
    """A call of a provider."""
    given = span.attributes
    out = otel.opened(span)
    out.stream = str(given.get(KIND)).endswith(".doStream")
    out.provider = text(given.get("ai.model.provider"))
    out.model_requested = text(given.get("ai.model.id"))
    out.model_served = text(first(given, ("ai.response.model", "gen_ai.response.model")))
    out.provider_request_id = text(first(given, ("ai.response.id", "gen_ai.response.id")))
    used = (
        first(given, names) for names in (_INPUT, _OUTPUT, _CACHED, (), _REASONING, ("ai.usage.totalTokens",))
    )
    spans.read_counts(out, spans.Counts(*used), apart=False)
    _read_answer(out, given)
    otel.settled(out, span)
    asked = _asked(given, out.quality)
    said = decoded(given.get("ai.prompt.messages"))
    try:
        messages = [m for turn in said for m in _turns(turn)] if isinstance(said, list) else None
        rows = spans.absent(out, asked) if messages is None else spans.read_prompt(out, messages, asked)
    except BadRecord:
        out.quality.append("unknown_prompt_shape")
        rows = spans.absent(out, asked)
    return otel.finished(out, rows)


def _asked(given: dict[str, Any], quality: list[str]) -> dict[str, Any]:
    """Parameters and tools of the call under OpenAI's names."""
    choice = decoded(given.get("ai.prompt.toolChoice"))
    tools = given.get("ai.prompt.tools")
    shaped = (
        [_tool(t) for one in tools if isinstance(t := decoded(one), dict)] if isinstance(tools, list) else []
    )
    limit = first(
        given, ("ai.settings.maxOutputTokens", "ai.settings.maxTokens", "gen_ai.request.max_tokens")
    )
    found = {
        "model": text(given.get("ai.model.id")),
        "max_tokens": count(limit, "max_tokens", quality),
        "tools": shaped or None,
        "tool_choice": choice.get("type") if isinstance(choice, dict) and shaped else None,
        **{name: given.get(f"ai.settings.{key}") for name, key in (("temperature", "temperature"), ("top_p", "topP"), ("top_k", "topK"), ("seed", "seed"))},
    }  # fmt: skip
    return {k: v for k, v in found.items() if v is not None}


def _tool(tool: dict[str, Any]) -> Any:
    if tool.get("type") not in (None, "function"):
        return tool
    function = {"name": tool.get("name"), "description": tool.get("description"), "parameters": first(tool, ("inputSchema", "parameters"))}  # fmt: skip
    return {"type": "function", "function": {k: v for k, v in function.items() if v is not None}}


def _turns(message: Any) -> list[dict[str, Any]]:
    """A message as OpenAI-like ones."""
    if not isinstance(message, dict):
        raise BadRecord("wrong_type", "a message is not an object")
    parts = message.get("content")
    if not isinstance(parts, list):
        return [{"role": message.get("role"), "content": parts}]
    said: list[Any] = []
    calls: list[Any] = []
    thought: list[str] = []
    results: list[dict[str, Any]] = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "tool-call":
            calls.append(_call(part))
        elif kind == "tool-result":
            results.append({"role": "tool", "tool_call_id": part.get("toolCallId"), "content": _result(part)})
        elif kind == "reasoning":
            thought.append(str(part.get("text") or ""))
        elif kind == "text":
            said.append({"type": "text", "text": part.get("text")})
        else:
            said.append(part)
    return openai.turn(message.get("role"), said, calls, thought, results)


def _call(part: dict[str, Any]) -> dict[str, Any]:
    """A call of a tool; `input`, before version 5 `args`, is an object or its JSON."""
    given = first(part, ("input", "args"))
    function = {"name": part.get("toolName"), "arguments": given if isinstance(given, str) else dumps(given).decode()}  # fmt: skip
    return {"id": part.get("toolCallId"), "type": "function", "function": function}


def _result(part: dict[str, Any]) -> str:
    """What a tool answered; before version 5 `result`, since then an `output` that says how its value is meant."""
    value = first(part, ("output", "result"))
    if isinstance(value, dict) and "value" in value and "type" in value:
        value = value["value"]
    return value if isinstance(value, str) else dumps(value).decode()


def _read_answer(out: Request, given: dict[str, Any]) -> None:
    said = text(first(given, ("ai.response.text", "ai.response.object", "ai.result.text")))
    calls = decoded(first(given, ("ai.response.toolCalls", "ai.result.toolCalls")))
    thought = text(given.get("ai.response.reasoning"))
    answer: dict[str, Any] = {"role": "assistant", "content": said}
    if thought:
        answer["reasoning_content"] = thought
    if isinstance(calls, list) and calls:
        answer["tool_calls"] = [_call(c) for c in calls if isinstance(c, dict)]
    if said or thought or "tool_calls" in answer:
        out.output_json = dumps(answer)
    out.finish_reason = finish(str(given.get("ai.response.finishReason") or "").replace("-", "_"))
