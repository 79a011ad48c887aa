"""Anthropic Messages bodies: system and tools stand apart, content is blocks, usage excludes the cached part.

Source: anthropics/anthropic-sdk-python 009b0353.
"""

from __future__ import annotations

from typing import Any

import orjson

from traceprof.bodies import openai
from traceprof.formats.base import BadRecord, Request, count, dumps, finish, messages, text


def is_request(body: dict[str, Any]) -> bool:
    """Messages with what only this dialect has: a system prompt apart, tools with input_schema, blocks of tool use."""
    said = body.get("messages")
    if not isinstance(said, list):
        return False
    if "system" in body or "anthropic_version" in body:
        return True
    tools = body.get("tools")
    if isinstance(tools, list) and tools and isinstance(tools[0], dict) and "input_schema" in tools[0]:
        return True
    return "max_tokens" in body and any(
        isinstance(block, dict) and block.get("type") in ("tool_use", "tool_result", "thinking")
        for message in said
        if isinstance(message, dict) and type(message.get("content")) is list
        for block in message["content"]
    )


def is_response(body: dict[str, Any]) -> bool:
    """A message, or an error in its envelope."""
    kind = body.get("type")
    return (kind == "message" and "content" in body) or (
        kind == "error" and isinstance(body.get("error"), dict)
    )


_EVENTS = (
    "message_start",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
)


def is_chunk(chunk: dict[str, Any]) -> bool:
    """An event of a streamed message."""
    return chunk.get("type") in _EVENTS


def join(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """One message of a stream's events; the last usage that an event gives for a count holds."""
    out: dict[str, Any] = {"type": "message", "content": []}
    blocks: dict[Any, dict[str, Any]] = {}
    usage: dict[str, Any] = {}
    for event in chunks:
        kind = event.get("type")
        if kind == "error" and isinstance(event.get("error"), dict):
            out["error"] = event["error"]
        for part in (event.get("message") if kind == "message_start" else None, event):
            if isinstance(part, dict) and isinstance(part.get("usage"), dict):
                usage.update({k: v for k, v in part["usage"].items() if v is not None})
        if kind == "message_start" and isinstance(event.get("message"), dict):
            out.update({k: v for k, v in event["message"].items() if k in ("id", "model", "role")})
        elif kind == "content_block_start" and isinstance(event.get("content_block"), dict):
            blocks[_place(event)] = dict(event["content_block"])
        elif kind == "content_block_delta" and isinstance(event.get("delta"), dict):
            _grow(blocks.setdefault(_place(event), {"type": "text", "text": ""}), event["delta"])
        elif kind == "message_delta" and isinstance(event.get("delta"), dict):
            out["stop_reason"] = event["delta"].get("stop_reason")
    for block in blocks.values():
        written = block.pop("partial_json", None)
        if written is not None:
            block["input"] = written_input(written)
        out["content"].append(block)
    out["usage"] = usage
    return out


def _place(event: dict[str, Any]) -> Any:
    index = event.get("index")
    return index if type(index) is int else 0


def _grow(block: dict[str, Any], delta: dict[str, Any]) -> None:
    for key in ("text", "thinking", "partial_json"):
        value = delta.get(key)
        if isinstance(value, str):
            before = block.get(key)
            block[key] = (before if isinstance(before, str) else "") + value


def written_input(written: str) -> Any:
    """A tool's input out of the JSON that a stream wrote piece by piece; the text as it is when it was cut."""
    if not written:
        return {}
    try:
        return orjson.loads(written)
    except orjson.JSONDecodeError:
        return written


def read_request(out: Request, body: dict[str, Any]) -> None:
    """Fill model, prompt, tools and parameters; the system prompt becomes the first message."""
    openai.read_opening(out, body)
    out.operation = "chat"
    said = body["messages"]
    if not isinstance(said, list):
        raise BadRecord("wrong_type", f"messages is a {type(said).__name__}, not a list")
    system = body.get("system")
    whole = [{"role": "system", "content": _unmarked(system)}] if system else []
    for i, message in enumerate(said):
        if not isinstance(message, dict):
            raise BadRecord("wrong_type", f"message {i} is a {type(message).__name__}, not an object")
        whole.extend(_turns(message))
    out.messages_json = messages(whole, out)
    out.tools_json = openai.tools_json(body, _tool)
    out.max_output_tokens = count(body.get("max_tokens"), "max_tokens", out.quality)
    meta = body.get("metadata")
    if isinstance(meta, dict):
        out.user_id = text(meta.get("user_id")) or out.user_id
    asked = {**body, "stop": body.get("stop_sequences"), "tool_choice": _choice(body.get("tool_choice"))}
    out.params = openai.params(asked)


def read_response(out: Request, body: dict[str, Any]) -> None:
    """Fill served model, output, stop reason and usage from a message, or from an error."""
    openai.read_answered(out, body)
    content = body.get("content")
    if isinstance(content, (list, str)):
        answers = _turns({"role": "assistant", "content": content})
        if answers:
            out.output_json = dumps(answers[0])
        out.finish_reason = finish(body.get("stop_reason"))
        out.status = "ok"
    read_usage(out, body.get("usage"))


def read_usage(out: Request, usage: Any) -> None:
    """Token counts: input_tokens leaves out what was read from and written to the cache; the whole prompt is their sum."""
    if not isinstance(usage, dict):
        return
    fresh = count(usage.get("input_tokens"), "input_tokens", out.quality)
    read = count(usage.get("cache_read_input_tokens"), "cache_read_input_tokens", out.quality)
    written = count(usage.get("cache_creation_input_tokens"), "cache_creation_input_tokens", out.quality)
    out.cached_input_tokens, out.cache_write_tokens = read, written
    if fresh is not None:
        out.input_tokens = count(fresh + (read or 0) + (written or 0), "input_tokens", out.quality)
        if read or written:
            out.quality.append("usage_excludes_cache_fixed")
    out.output_tokens = count(usage.get("output_tokens"), "output_tokens", out.quality)
    if out.input_tokens is not None or out.output_tokens is not None:
        out.tokens_source = "usage"


def _turns(message: dict[str, Any]) -> list[dict[str, Any]]:
    """A message as OpenAI-like ones: results of tools come first, as a server puts them, then what was said."""
    content = message.get("content")
    if not isinstance(content, list):
        return [{k: v for k, v in message.items() if k != "cache_control"}]
    results: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    parts: list[Any] = []
    thought: list[str] = []
    for block in content:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "tool_use":
            function = {"name": block.get("name"), "arguments": dumps(block.get("input")).decode()}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        elif kind == "tool_result":
            said = block.get("content")
            said = "" if said is None else _unmarked(said)
            results.append({"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": said})
        elif kind == "thinking":
            thought.append(str(block.get("thinking") or ""))
        elif kind != "redacted_thinking":
            parts.append(_unmarked(block))
    return openai.turn(message.get("role"), parts, calls, thought, results)


def _unmarked(value: Any) -> Any:
    """A block, or a list of them, without marks for the cache, which are no part of the prompt."""
    if isinstance(value, list):
        return openai.one_text([_unmarked(v) for v in value])
    if isinstance(value, dict):
        return {k: v for k, v in value.items() if k != "cache_control"}
    return value


def _tool(tool: dict[str, Any]) -> Any:
    if "input_schema" not in tool:  # the provider runs it itself: {"type": "web_search_...", "name": ...}
        return _unmarked(tool)
    function = {"name": tool.get("name")}
    if "description" in tool:
        function["description"] = tool["description"]
    return {"type": "function", "function": {**function, "parameters": tool["input_schema"]}}


def _choice(value: Any) -> Any:
    return value.get("type") if isinstance(value, dict) and value.get("type") != "tool" else value
