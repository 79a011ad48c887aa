"""OpenAI Responses API bodies: instructions, input items and flat tools; output items; usage with the cached part included.

With `previous_response_id`, `conversation` or a `prompt` template a part of the prompt lies on the server: what stands here is not all of it, and
the row says so. Source: openai/openai-openapi f85dbe2.
"""

from __future__ import annotations

from typing import Any

from traceprof.bodies import openai
from traceprof.formats.base import BadRecord, Request, count, dumps, first_of, messages, text

_MARKS = (
    "instructions",
    "previous_response_id",
    "max_output_tokens",
    "conversation",
    "tools",
    "reasoning",
    "text",
)
_STATUS = {"completed": "ok", "incomplete": "ok", "failed": "error", "cancelled": "cancelled"}


def is_request(body: dict[str, Any]) -> bool:
    """A model and an input that is text or items; an embedding has them too, and none of the other keys."""
    if "input" not in body or "messages" in body or not isinstance(body.get("model"), str):
        return False
    given = body["input"]
    if "encoding_format" in body or "dimensions" in body or "embed" in body["model"] or "voice" in body:
        return False
    if "moderation" in body["model"]:
        return False
    if isinstance(given, list):
        return bool(given) and all(isinstance(item, dict) for item in given)
    return isinstance(given, str) and any(key in body for key in _MARKS)


def is_response(body: dict[str, Any]) -> bool:
    """A response object, by name or by its output items."""
    return body.get("object") == "response" and "choices" not in body


def is_chunk(chunk: dict[str, Any]) -> bool:
    """An event of a streamed response."""
    return str(chunk.get("type")).startswith("response.")


def join(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """The response as the last event that holds it whole gives it; of a cut stream, with the items that were done."""
    out: dict[str, Any] = {"object": "response", "output": []}
    done: list[Any] = []
    for event in chunks:
        if isinstance(event.get("response"), dict):
            out = {"object": "response", **event["response"]}
        elif event.get("type") == "response.output_item.done" and isinstance(event.get("item"), dict):
            done.append(event["item"])
    if done and not out.get("output"):
        out["output"] = done
    return out


def read_request(out: Request, body: dict[str, Any]) -> None:
    """Fill model, prompt, tools and parameters; instructions become the first message."""
    out.operation = "responses"
    openai.read_opening(out, body)
    whole: list[dict[str, Any]] = []
    if isinstance(body.get("instructions"), str):
        whole.append({"role": "system", "content": body["instructions"]})
    given = body["input"]
    if isinstance(given, str):
        whole.append({"role": "user", "content": given})
    else:
        for i, item in enumerate(given):
            for turn in _turns(item, i):
                before = whole[-1] if whole else {}
                if "tool_calls" in turn and before.get("role") == "assistant":  # items of one answer
                    calls = [*before.get("tool_calls", ()), *turn["tool_calls"]]
                    whole[-1] = {**before, "tool_calls": calls}
                else:
                    whole.append(turn)
    out.messages_json = messages(whole, out)
    out.tools_json = openai.tools_json(body, _tool)
    conversation = body.get("conversation")
    if isinstance(conversation, dict):
        conversation = conversation.get("id")
    if text(conversation):
        out.session_id, out.session_kind = text(conversation), "explicit"
    elif out.session_id is None and text(body.get("prompt_cache_key")):
        out.session_id, out.session_kind = text(body["prompt_cache_key"]), "affinity_key"
    out.parent_request_id = text(body.get("previous_response_id")) or out.parent_request_id
    if body.get("previous_response_id") or conversation or body.get("prompt"):
        out.content_state = "partial_history"
    out.max_output_tokens = count(body.get("max_output_tokens"), "max_output_tokens", out.quality)
    out.user_id = text(first_of(body, ("user", "safety_identifier"))) or out.user_id
    out.params = openai.params(body)


def read_response(out: Request, body: dict[str, Any]) -> None:
    """Fill served model, output, status and usage from a response object."""
    openai.read_answered(out, body)
    items = body.get("output")
    if isinstance(items, list):
        answer: dict[str, Any] = {"role": "assistant", "content": None}
        said: list[str] = []
        calls: list[Any] = []
        for i, item in enumerate(items):
            for turn in _turns(item, i):
                content = turn.get("content")
                if isinstance(content, str) and turn["role"] == "assistant":
                    said.append(content)
                calls.extend(turn.get("tool_calls") or [])
        if said:
            answer["content"] = "".join(said)
        if calls:
            answer["tool_calls"] = calls
        if said or calls:
            out.output_json = dumps(answer)
        out.status = _STATUS.get(str(body.get("status")), out.status)
        why = body.get("incomplete_details")
        reason = why.get("reason") if isinstance(why, dict) else None
        if reason is not None:
            out.finish_reason = {"max_output_tokens": "length", "content_filter": "content_filter"}.get(
                str(reason), "other"
            )
        elif body.get("status") == "completed":
            out.finish_reason = "tool_calls" if calls else "stop"
    read_usage(out, body.get("usage"))


def read_usage(out: Request, usage: Any) -> None:
    """Token counts; input_tokens include the cached ones, output_tokens the reasoning."""
    if not isinstance(usage, dict):
        return
    openai.read_usage(
        out,
        {
            "prompt_tokens": usage.get("input_tokens"),
            "completion_tokens": usage.get("output_tokens"),
            "prompt_tokens_details": usage.get("input_tokens_details"),
            "completion_tokens_details": usage.get("output_tokens_details"),
        },
    )


def _turns(item: Any, i: int) -> list[dict[str, Any]]:
    """An item as OpenAI-like messages; reasoning, which the client cannot read, as none."""
    if not isinstance(item, dict):
        raise BadRecord("wrong_type", f"item {i} is a {type(item).__name__}, not an object")
    kind = item.get("type", "message")
    if kind == "message" and isinstance(item.get("role"), str):
        return [{"role": item["role"], "content": _content(item.get("content"))}]
    if kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        return [{"role": "assistant", "content": None, "tool_calls": [call]}]
    if kind == "function_call_output":
        return [
            {"role": "tool", "tool_call_id": item.get("call_id"), "content": _content(item.get("output"))}
        ]
    if kind == "reasoning":
        return []
    if kind == "message":
        raise BadRecord("missing_field", f"item {i} has no role")
    return [{"role": "assistant", "content": dumps(item).decode()}]  # a call of a tool that the provider runs


def _content(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    return openai.one_text(
        [
            {"type": "text", "text": part.get("text")}
            if isinstance(part, dict) and part.get("type") in ("input_text", "output_text", "text")
            else part
            for part in content
        ]
    )


def _tool(tool: dict[str, Any]) -> Any:
    if tool.get("type") != "function" or "function" in tool:
        return tool
    return {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}
