"""Spans of the GenAI semantic conventions, all versions, with their relatives: OpenLLMetry, and the spans of vLLM and SGLang.

Content stands in attributes (JSON text, or structured), in attributes of one value each (`gen_ai.prompt.0.role`), or in events of
the span; log records that belong to a span come here as its events. Input tokens include the cached ones. An engine's own
spans hold no text. Source: open-telemetry/semantic-conventions v1.27.0 to v1.41.1 (384d6616), opentelemetry-util-genai 1.3b0,
traceloop/openllmetry 93429cfb, sgl-project/sglang 021a8923, captures.
"""

from __future__ import annotations

import re
from typing import Any

from traceprof.bodies import decoded, openai, otel, spans
from traceprof.bodies.otel import Event, Span, first, listed
from traceprof.formats.base import BadRecord, Request, count, dumps, finish, offset_us, text

_CALLS = ("chat", "text_completion", "generate_content", "completion", "responses")
_OTHERS = {
    "embeddings": "embedding", "embedding": "embedding", "retrieval": "retriever", "execute_tool": "tool",
    "invoke_agent": "agent", "create_agent": "agent", "invoke_workflow": "workflow", "rerank": "rerank",
    "workflow": "workflow", "task": "workflow", "agent": "agent", "tool": "tool",
}  # fmt: skip
_INPUT = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.usage.prompt_tokens")
_OUTPUT = ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens", "llm.usage.completion_tokens")
_CACHED = (
    "gen_ai.usage.cache_read.input_tokens",
    "gen_ai.usage.cache_read_input_tokens",
    "gen_ai.usage.cached_tokens",
)
_WRITTEN = (
    "gen_ai.usage.cache_creation.input_tokens", "gen_ai.usage.cache_write.input_tokens",
    "gen_ai.usage.cache_creation_input_tokens",
)  # fmt: skip
_REASONING = ("gen_ai.usage.reasoning.output_tokens", "gen_ai.usage.reasoning_tokens")
_TOTAL = ("gen_ai.usage.total_tokens", "llm.usage.total_tokens")
_DETAILS = "gen_ai.client.inference.operation.details"
_MESSAGE = re.compile(r"gen_ai\.(system|developer|user|assistant|tool)\.message")
_PARTS = {"image": "image", "audio": "audio", "video": "video"}


def other_kind(span: Span) -> str | None:
    """Why a span is no call of a model; None for one that is."""
    given = span.attributes
    named = text(given.get("gen_ai.operation.name"))
    kind = text(given.get("traceloop.span.kind")) or text(given.get("llm.request.type"))
    for word in (named, kind):
        if word is not None and word.lower() in _OTHERS:
            return _OTHERS[word.lower()]
    if named in _CALLS or kind in ("chat", "completion") or is_engine(span):
        return None
    if (
        first(given, _INPUT) is None
        and first(given, ("gen_ai.request.model", "gen_ai.input.messages")) is None
    ):
        return "other_span"
    return "embedding" if "embed" in str(given.get("gen_ai.request.model")).lower() else None


def is_engine(span: Span) -> bool:
    """Whether a server's engine made the span, not the client that called it."""
    given = span.attributes
    return "gen_ai.latency.e2e" in given or (
        "gen_ai.request.id" in given and "gen_ai.usage.prompt_tokens" in given
    )


def holds_prompt(span: Span) -> bool:
    """Whether a span itself holds the prompt, or a part of it."""
    return any(k.startswith(("gen_ai.input.messages", "gen_ai.prompt", "llm.prompts.")) for k in span.attributes) or any(
        e.name in ("gen_ai.content.prompt", _DETAILS) or _MESSAGE.fullmatch(e.name) for e in span.events
    )  # fmt: skip


def belongs(event: Event) -> bool:
    """Whether a log record tells a part of a call: a message, a choice, or the details of it."""
    return event.name in ("gen_ai.choice", _DETAILS) or _MESSAGE.fullmatch(event.name) is not None


def is_whole(event: Event) -> bool:
    """Whether one event tells all of a call but its beginning."""
    return event.name == _DETAILS


def read(span: Span) -> spans.Rows:
    """A call; several, when a text completion asks for several prompts at once."""
    out = otel.opened(span)
    if is_engine(span) and span.parent_id is None and out.session_kind == "trace":
        out.session_id = out.session_kind = None  # it begins a trace for every request
    given = _with_details(span)
    out.provider_request_id = text(first(given, ("gen_ai.response.id", "gen_ai.request.id")))
    if "completion" in (given.get("gen_ai.operation.name"), given.get("llm.request.type")) or (
        given.get("gen_ai.operation.name") == "text_completion"
        or str(out.provider_request_id).startswith("cmpl-")
    ):
        out.operation = "text"
    out.provider = text(first(given, ("gen_ai.provider.name", "gen_ai.system"))) or _engine(span)
    out.model_served = text(given.get("gen_ai.response.model"))
    _read_usage(out, given)
    _read_durations(out, given)
    _read_answer(out, span, given)
    otel.settled(out, span)
    if out.first_token_us is not None and not is_engine(span):
        out.stream = True
    if text(given.get("gen_ai.request.previous_response.id")):
        out.content_state = "partial_history"
    return _read_prompt(out, span, given, _asked(given, out.quality))


def _with_details(span: Span) -> dict[str, Any]:
    """The span's attributes, and those of an event that tells the details of the call."""
    found = [e.attributes for e in span.events if e.name == _DETAILS]
    return {k: v for one in (*found, span.attributes) for k, v in one.items()} if found else span.attributes


def _engine(span: Span) -> str | None:
    return next((e for e in ("vllm", "sglang") if span.scope.startswith(e)), None)


# -- parameters and counts -----------------------------------------------------------------------------------


def _asked(given: dict[str, Any], quality: list[str]) -> dict[str, Any]:
    """Parameters of the call under OpenAI's names."""
    out: dict[str, Any] = {
        name: given[f"gen_ai.request.{name}"]
        for name in ("temperature", "top_p", "top_k", "seed", "n", "model")
        if given.get(f"gen_ai.request.{name}") is not None
    }
    shape = first(given, ("gen_ai.output.type", "gen_ai.openai.request.response_format"))
    choices = given.get("gen_ai.request.choice.count")
    effort = text(first(given, ("gen_ai.request.reasoning.level", "gen_ai.request.reasoning_effort")))
    more = {
        "model": text(out.get("model")),
        "max_tokens": count(given.get("gen_ai.request.max_tokens"), "max_tokens", quality),
        "n": out.get("n") if choices is None else choices,
        "seed": first(given, ("gen_ai.request.seed", "gen_ai.openai.request.seed")),
        "stop": given.get("gen_ai.request.stop_sequences"),
        "response_format": {"type": shape} if isinstance(shape, str) else None,
        "reasoning_effort": effort if effort and effort.isalpha() else None,  # "[]" for none
        "stream": _truth(first(given, ("gen_ai.request.stream", "gen_ai.is_streaming", "llm.is_streaming"))),
    }
    return {k: v for k, v in {**out, **more}.items() if v is not None}


def _truth(value: Any) -> bool | None:
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower())
    return value if isinstance(value, bool) else None


def _read_usage(out: Request, given: dict[str, Any]) -> None:
    named = (_INPUT, _OUTPUT, _CACHED, _WRITTEN, _REASONING, _TOTAL)
    otel.read_usage(out, (first(given, names) for names in named))


def _read_durations(out: Request, given: dict[str, Any]) -> None:
    """Durations that the span itself tells, all in seconds; the first token follows from its own."""
    out.queue_us = _seconds(out, given.get("gen_ai.latency.time_in_queue"), "time_in_queue")
    out.e2e_us = _seconds(out, given.get("gen_ai.latency.e2e"), "e2e")
    said = first(given, ("gen_ai.response.time_to_first_chunk", "gen_ai.latency.time_to_first_token"))
    out.ttft_us = _seconds(out, said, "time_to_first_token")
    if out.ttft_us is not None and out.arrival_us is not None:
        out.first_token_us = out.arrival_us + out.ttft_us


def _seconds(out: Request, value: Any, what: str) -> int | None:
    if value is None:
        return None
    try:
        return offset_us(value, what, 1e6)
    except BadRecord:
        out.quality.append(f"bad_{what}")
        return None


# -- prompt --------------------------------------------------------------------------------------------------


def _read_prompt(out: Request, span: Span, given: dict[str, Any], asked: dict[str, Any]) -> spans.Rows:
    """Fill prompt, tools and parameters from the first place that holds a prompt."""
    tools = _tools(given)
    if tools:
        asked["tools"] = tools
    before = len(out.quality)
    try:
        found, cut = _prompt(span, given)
        rows = spans.absent(out, asked) if found is None else spans.read_prompt(out, found, asked)
    except BadRecord:
        del out.quality[before:]
        rows, cut = spans.absent(out, asked), False
        out.quality.append("unknown_prompt_shape")
    return otel.finished(out, rows, cut)


def _prompt(span: Span, given: dict[str, Any]) -> tuple[Any, bool]:
    """(messages or a prompt, None where the span holds neither; whether a part of it is known to be missing)."""
    said = given.get("gen_ai.input.messages")
    whole = decoded(said)
    if whole not in (None, "", []):
        if isinstance(whole, str) and whole.lstrip()[:1] in ("[", "{"):
            return None, True  # JSON that was cut
        turns = of_parts(_instructions(given)) + (of_parts(whole) if isinstance(whole, list) else [])
        return (turns or None) if isinstance(whole, list) else whole, False
    for event in span.events:
        if event.name == "gen_ai.content.prompt":
            return event.attributes.get("gen_ai.prompt"), False
    for prefix in ("gen_ai.prompt", "llm.prompts"):
        flat, holes = listed(given, prefix)
        if flat:
            if given.get("llm.request.type") == "completion" and len(flat) == 1 and isinstance(flat[0], dict):
                return {"prompt": flat[0].get("content")}, holes or span.dropped
            return [_unfolded(one) for one in flat], holes or span.dropped
    if isinstance(given.get("gen_ai.prompt"), str):
        return given["gen_ai.prompt"], False
    told = [_of_event(e, kind[1]) for e in span.events if (kind := _MESSAGE.fullmatch(e.name))]
    # without the consent to record content, its events tell who spoke and nothing more
    return (told, False) if any(m.get("content") for m in told) else (None, False)


def _instructions(given: dict[str, Any]) -> list[Any]:
    """The system prompt as a message, where it stands apart from the messages."""
    parts = decoded(given.get("gen_ai.system_instructions"))
    if isinstance(parts, str) and parts:
        parts = [{"type": "text", "content": parts}]
    return [{"role": "system", "parts": parts}] if isinstance(parts, list) and parts else []


def of_parts(messages: list[Any]) -> list[Any]:
    """Messages made of parts as OpenAI-like ones; an instrumentation that was given no messages wrote the role None."""
    return [turn for one in messages if not _is_void(one) for turn in _turn(one)]


def _is_void(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") == "None" and not message.get("parts")


def _turn(message: Any) -> list[Any]:
    """A message as OpenAI-like ones: results of tools one by one, then what was said."""
    parts = decoded(message.get("parts")) if isinstance(message, dict) else None
    if not isinstance(parts, list):
        return [message]
    results: list[Any] = []
    calls: list[Any] = []
    said: list[Any] = []
    thought: list[str] = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "tool_call":
            written = {"name": part.get("name"), "arguments": _written(part.get("arguments", {}))}
            calls.append({"id": part.get("id"), "type": "function", "function": written})
        elif kind == "tool_call_response":
            answer = part.get("response", part.get("result"))
            results.append({"role": "tool", "tool_call_id": part.get("id"), "content": _written(answer)})
        elif kind == "reasoning":
            thought.append(str(part.get("content") or ""))
        else:
            said.append(_part(part))
    turns = openai.turn(message.get("role"), said, calls, thought, results)
    if text(message.get("name")) and turns is not results:
        turns[-1]["name"] = text(message["name"])
    return turns


def _written(value: Any) -> str:
    """Text as it is, any other value as the JSON that a model reads."""
    return value if isinstance(value, str) else "" if value is None else dumps(value).decode()


def _part(part: Any) -> Any:
    """A part as OpenAI-like content: text, or media by its kind."""
    if not isinstance(part, dict):
        return {"type": "text", "text": part} if isinstance(part, str) else part
    kind = part.get("type")
    if kind == "text" and isinstance(part.get("content"), str):
        return {"type": "text", "text": part["content"]}
    if kind in ("blob", "file", "uri"):
        named = text(part.get("modality")) or str(part.get("mime_type")).partition("/")[0]
        return {**part, "type": _PARTS.get(named, "file")}
    return part


def _unfolded(flat: Any) -> Any:
    """A message of one value an attribute; its content may be parts as JSON text, its tool calls lack the OpenAI frame."""
    if not isinstance(flat, dict):
        raise BadRecord("wrong_type", f"a message is a {type(flat).__name__}, not an object")
    out: dict[str, Any] = {"role": flat.get("role"), "content": flat.get("content")}
    if isinstance(out["content"], str) and out["content"].lstrip()[:1] == "[":
        parts = decoded(out["content"])
        if isinstance(parts, list) and parts and all(isinstance(p, dict) and isinstance(p.get("type"), str) for p in parts):  # fmt: skip
            out["content"] = openai.one_text(parts)
    if text(flat.get("tool_call_id")):
        out["tool_call_id"] = text(flat["tool_call_id"])
    calls = flat.get("tool_calls")
    if isinstance(calls, list):
        out["tool_calls"] = [
            {"id": c.get("id"), "type": "function", "function": {"name": c.get("name"), "arguments": _written(c.get("arguments"))}}
            for c in calls
            if isinstance(c, dict)
        ]  # fmt: skip
    return out


def _of_event(event: Event, role: str) -> dict[str, Any]:
    """A message told by an event: its body is the message, less its role where the event's name says it."""
    body = decoded(event.attributes.get("gen_ai.event.content", event.attributes))
    if not isinstance(body, dict):
        return {"role": role, "content": body if isinstance(body, str) else None}
    out: dict[str, Any] = {"role": text(body.get("role")) or role, "content": body.get("content")}
    if out["role"] == "tool":
        out["tool_call_id"] = text(body.get("id")) or text(body.get("tool_call_id"))
    if isinstance(body.get("tool_calls"), list):
        out["tool_calls"] = body["tool_calls"]
    return out


def _tools(given: dict[str, Any]) -> list[Any]:
    """Tool definitions in OpenAI's frame."""
    found = decoded(given.get("gen_ai.tool.definitions"))
    if not isinstance(found, list):
        found = listed(given, "llm.request.functions")[0]
    out = []
    for tool in found:
        tool = decoded(tool)
        if not isinstance(tool, dict):
            continue
        if tool.get("type", "function") == "function" and "function" not in tool:
            inner = {k: decoded(v) if k == "parameters" else v for k, v in tool.items() if k != "type"}
            tool = {"type": "function", "function": inner}
        out.append(tool)
    return out


# -- answer --------------------------------------------------------------------------------------------------


def _read_answer(out: Request, span: Span, given: dict[str, Any]) -> None:
    """Fill output and finish reason from the first place that holds an answer."""
    answers, reasons = _answers(span, given)
    said = [{"role": "assistant", **{k: v for k, v in m.items() if k != "role"}} for m in answers if isinstance(m, dict)]  # fmt: skip
    if said:
        out.output_json = dumps(said[0] if len(said) == 1 else said)
    told = decoded(first(given, ("gen_ai.response.finish_reasons", "gen_ai.response.finish_reason")))
    reasons = (told if isinstance(told, list) else [told]) + reasons
    word = next((r for r in reasons if isinstance(r, str) and r), None)
    out.finish_reason = finish({"tool_call": "tool_calls"}.get(word.lower(), word.lower())) if word else None


def _answers(span: Span, given: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """(messages of the answer, reasons why they ended)."""
    whole = decoded(given.get("gen_ai.output.messages"))
    if isinstance(whole, list):
        turns = [turn for one in whole for turn in _turn(one)[-1:]]
        bare = [{k: v for k, v in t.items() if k != "finish_reason"} for t in turns if isinstance(t, dict)]
        return bare, [m.get("finish_reason") for m in whole if isinstance(m, dict)]
    for event in span.events:
        if event.name == "gen_ai.content.completion":
            value = decoded(event.attributes.get("gen_ai.completion"))
            value = [{"content": value}] if isinstance(value, str) and value else value
            return value if isinstance(value, list) else [], []
    for prefix in ("gen_ai.completion", "llm.completions"):
        flat = [one for one in listed(given, prefix)[0] if isinstance(one, dict)]
        if flat:
            return [_unfolded(one) for one in flat if one.keys() & {"content", "tool_calls"}], [m.get("finish_reason") for m in flat]  # fmt: skip
    for name in ("gen_ai.output.text", "gen_ai.completion"):
        if isinstance(given.get(name), str) and given[name]:
            return [{"content": given[name]}], []
    choices = [decoded(e.attributes.get("gen_ai.event.content", e.attributes)) for e in span.events if e.name == "gen_ai.choice"]  # fmt: skip
    found = [c for c in choices if isinstance(c, dict)]
    told = [c["message"] if isinstance(c.get("message"), dict) else c for c in found]
    kept = [{k: m[k] for k in ("content", "tool_calls") if m.get(k) is not None} for m in told]
    return [m for m in kept if m.get("content") or m.get("tool_calls")], [
        c.get("finish_reason") for c in found
    ]
