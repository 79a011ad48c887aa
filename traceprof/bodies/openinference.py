"""Spans of OpenInference: what Arize Phoenix and its instrumentations record.

A message stands one value an attribute (`llm.input_messages.0.message.role`), or as a list with dotted names (Phoenix). The body that
went to the provider, where `input.value` and `output.value` hold it, comes first: it has the exact bytes and the tools. Prompt
tokens include the cached ones. Source: Arize-ai/openinference 1fe497f1; recorded spans of envoyproxy/ai-gateway c217da8a.
"""

from __future__ import annotations

from typing import Any

from traceprof import bodies
from traceprof.bodies import decoded, openai, otel, spans
from traceprof.bodies.otel import Span, first, listed
from traceprof.formats.base import BadRecord, Request, Skip, dumps, finish, text

KIND = "openinference.span.kind"
_WORDS = {"reranker": "rerank", "unknown": "other_span", "prompt": "other_span"}


def other_kind(span: Span) -> str | None:
    """Why a span is no call of a model, by its kind; None for one that is."""
    kind = str(span.attributes.get(KIND)).lower()
    return None if kind == "llm" else _WORDS.get(kind, kind if kind in _KINDS else "other_span")


_KINDS = ("chain", "agent", "tool", "retriever", "embedding", "guardrail", "evaluator")


def read(span: Span) -> spans.Rows | Skip:
    """A call; several, when a text completion asks for several prompts at once; none for images and the like."""
    given = span.attributes
    asked = spans.asked(given.get("llm.invocation_parameters"))
    body = decoded(given.get("input.value"))
    other = bodies.other_kind({**asked, **body}) if isinstance(body, dict) else None
    if other is not None:
        return Skip(other)
    out = otel.opened(span)
    out.provider = text(first(given, ("llm.provider", "llm.system")))
    name = text(given.get("llm.model_name"))
    out.model_requested = text(asked.get("model")) or name
    _read_answer(out, given)
    out.model_served = out.model_served or name
    _read_usage(out, given)
    out.finish_reason = out.finish_reason or finish(given.get("llm.finish_reason"))
    otel.settled(out, span)
    if out.first_token_us is not None:
        out.stream = True
    return _read_prompt(out, span, body, asked)


def _read_prompt(out: Request, span: Span, body: Any, asked: dict[str, Any]) -> spans.Rows:
    given = span.attributes
    tools = [t for one in listed(given, "llm.tools")[0] if (t := _tool(one)) is not None]
    if tools:
        asked = {**asked, "tools": tools}
    said = given.get("input.value")
    flat, holes = listed(given, "llm.input_messages")
    prompts, gaps = listed(given, "llm.prompts")
    cut = False
    try:
        if _is_sent(body):
            rows = spans.read_prompt(out, body, asked)
        elif flat:
            cut = holes or span.dropped
            rows = spans.read_prompt(out, [_message(one) for one in flat], asked)
        elif prompts:
            cut = gaps or span.dropped
            texts = [p.get("prompt", {}).get("text") for p in prompts if isinstance(p, dict) and isinstance(p.get("prompt"), dict)]  # fmt: skip
            rows = spans.read_prompt(out, {"prompt": texts[0] if len(texts) == 1 else texts}, asked)
        else:
            rows = spans.read_prompt(out, said, asked)
    except BadRecord:
        out.quality.append("unknown_prompt_shape")
        return spans.absent(out, asked)
    return otel.finished(out, rows, cut)


def _is_sent(body: Any) -> bool:
    """Whether an input is a body as it went to the provider, not the input of a framework around the call."""
    if not isinstance(body, dict) or bodies.of_request(body) is None:
        return False
    said = body.get("messages", [])
    return isinstance(said, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) for m in said
    )


def _message(one: Any) -> dict[str, Any]:
    """A message of one value an attribute as an OpenAI-like one."""
    inner = one.get("message") if isinstance(one, dict) else None
    if not isinstance(inner, dict):
        raise BadRecord("wrong_type", "a message is not an object")
    out: dict[str, Any] = {"role": inner.get("role"), "content": inner.get("content")}
    parts = inner.get("contents")
    if isinstance(parts, list) and parts:
        out["content"] = openai.one_text([_part(p) for p in parts])
    calls = inner.get("tool_calls")
    framed = [c["tool_call"] for c in calls if isinstance(c, dict) and isinstance(c.get("tool_call"), dict)] if isinstance(calls, list) else []  # fmt: skip
    if framed:
        out["tool_calls"] = [{"id": c.get("id"), "type": "function", "function": c.get("function")} for c in framed]  # fmt: skip
    for key in ("tool_call_id", "name"):
        if text(inner.get(key)):
            out[key] = text(inner[key])
    return out


def _part(one: Any) -> Any:
    inner = one.get("message_content") if isinstance(one, dict) else None
    if not isinstance(inner, dict):
        return one
    image = inner.get("image")
    if isinstance(image, dict):
        at = image.get("image")
        return {"type": "image_url", "image_url": at if isinstance(at, dict) else image}
    return inner


def _tool(one: Any) -> Any:
    """A tool's definition, in OpenAI's frame; one of another dialect as it is."""
    inner = one.get("tool") if isinstance(one, dict) else None
    given = decoded(inner.get("json_schema")) if isinstance(inner, dict) else None
    if not isinstance(given, dict):
        return None
    if "function" in given or "name" not in given:
        return given
    function = {"parameters" if k == "input_schema" else k: v for k, v in given.items() if k != "type"}
    return {"type": "function", "function": function}


def _read_answer(out: Request, given: dict[str, Any]) -> None:
    """Fill output, finish reason and usage from the provider's answer, else from the messages of the output."""
    said = given.get("output.value")
    whole = decoded(said)
    if isinstance(whole, dict) and bodies.of_response(whole) is not None:
        bodies.read_response(out, whole, openai)
        return
    found = [m for m in listed(given, "llm.output_messages")[0] if isinstance(m, dict)]
    told = [{**_message(m), "role": "assistant"} for m in found if isinstance(m.get("message"), dict)]
    texts = [c.get("completion", {}).get("text") for c in listed(given, "llm.choices")[0] if isinstance(c, dict) and isinstance(c.get("completion"), dict)]  # fmt: skip
    told = told or [{"role": "assistant", "content": t} for t in texts if isinstance(t, str)]
    if told:
        out.output_json = dumps(told[0] if len(told) == 1 else told)
    else:
        spans.read_answer(out, said)


def _read_usage(out: Request, given: dict[str, Any]) -> None:
    """Token counts of the span, where the answer itself has none."""
    if out.input_tokens is not None:
        return
    names = ("prompt", "completion", "prompt_details.cache_read", "prompt_details.cache_write", "completion_details.reasoning", "total")  # fmt: skip
    otel.read_usage(out, (given.get(f"llm.token_count.{name}") for name in names))
