"""Amazon Bedrock's Converse bodies, and those of Nova, which are the same: blocks without a type, known by their one key.

`usage.inputTokens` leaves out what was read from and written to the cache. Source: AWS docs, Bedrock Converse and
ConverseStream; panther-labs/panther-analysis daa10c88.
"""

from __future__ import annotations

from typing import Any

from traceprof.bodies import anthropic, openai
from traceprof.formats.base import BadRecord, Request, count, dumps, finish, first_of, messages, text

_BLOCKS = frozenset(("text", "image", "document", "video", "audio", "toolUse", "toolResult", "guardContent", "reasoningContent",
                     "cachePoint", "citationsContent"))  # fmt: skip
_EVENTS = ("messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop")
_STOP = {"guardrail_intervened": "content_filter", "content_filtered": "content_filter"}


def is_request(body: dict[str, Any]) -> bool:
    """Messages with the keys that only this dialect has, or with blocks that have no type."""
    said = body.get("messages")
    if not isinstance(said, list):
        return False
    if "inferenceConfig" in body or "toolConfig" in body:
        return True
    return any(
        isinstance(block, dict) and "type" not in block and not _BLOCKS.isdisjoint(block)
        for message in said[:3]
        if isinstance(message, dict) and type(message.get("content")) is list
        for block in message["content"][:3]
    )


def is_response(body: dict[str, Any]) -> bool:
    """An output that holds a message."""
    output = body.get("output")
    return isinstance(output, dict) and isinstance(output.get("message"), dict)


def is_chunk(chunk: dict[str, Any]) -> bool:
    """An event of ConverseStream, or of a stream of Nova."""
    return any(isinstance(chunk.get(key), dict) for key in _EVENTS)


def join(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """One answer of a stream's events: blocks by their index, usage and metrics of the last event."""
    out: dict[str, Any] = {}
    blocks: dict[int, dict[str, Any]] = {}
    for event in chunks:
        for key in ("contentBlockStart", "contentBlockDelta"):
            part = event.get(key)
            if isinstance(part, dict):
                index = part.get("contentBlockIndex")
                _grow(blocks.setdefault(index if type(index) is int else 0, {}), first_of(part, ("start", "delta")))  # fmt: skip
        for key in ("messageStop", "metadata"):
            if isinstance(event.get(key), dict):
                out.update(event[key])
        for key, value in event.items():  # throttlingException, modelStreamErrorException and the like
            if key.endswith("Exception"):
                out["error"] = {"type": key, **(value if isinstance(value, dict) else {})}
    for block in blocks.values():
        if "written" in block:
            block.setdefault("toolUse", {})["input"] = anthropic.written_input(block.pop("written"))
    out["output"] = {"message": {"role": "assistant", "content": list(blocks.values())}}
    return out


def _grow(block: dict[str, Any], piece: Any) -> None:
    """Add a piece of a stream to its block; the arguments of a tool's call are written as text."""
    if not isinstance(piece, dict):
        return
    if isinstance(piece.get("text"), str):
        block["text"] = block.get("text", "") + piece["text"]
    call = piece.get("toolUse")
    if isinstance(call, dict):
        if isinstance(call.get("input"), str):
            block["written"] = block.get("written", "") + call["input"]
        else:
            block["toolUse"] = {**call}
    thought = piece.get("reasoningContent")
    if isinstance(thought, dict) and isinstance(thought.get("text"), str):
        so_far = block.setdefault("reasoningContent", {"reasoningText": {"text": ""}})["reasoningText"]
        so_far["text"] += thought["text"]


def read_request(out: Request, body: dict[str, Any]) -> None:
    """Fill model, prompt, tools and parameters; the system prompt becomes the first message."""
    openai.read_opening(out, body)
    out.operation = "chat"
    out.model_requested = out.model_requested or model_name(body.get("modelId"))
    system = body.get("system")
    if isinstance(system, str):
        system = [{"text": system}]
    if system is not None and not isinstance(system, list):
        raise BadRecord("wrong_type", f"system is a {type(system).__name__}, not a list")
    whole = [{"role": "system", "content": openai.one_text(_parts(system))}] if system else []
    for i, message in enumerate(body["messages"]):
        if not isinstance(message, dict):
            raise BadRecord("wrong_type", f"message {i} is a {type(message).__name__}, not an object")
        whole.extend(_turns(message))
    out.messages_json = messages(whole, out)
    chosen = _tools(out, body.get("toolConfig"))
    config, more = (
        value if isinstance(value, dict) else {}
        for value in (body.get("inferenceConfig"), body.get("additionalModelRequestFields"))
    )
    limit = first_of(config, ("maxTokens", "max_new_tokens", "max_tokens"))
    out.max_output_tokens = count(limit, "maxTokens", out.quality)
    out.params = openai.params(
        {
            "temperature": config.get("temperature"),
            "top_p": first_of(config, ("topP", "top_p")),
            "top_k": first_of({**more, **config}, ("topK", "top_k")),
            "stop": config.get("stopSequences"),
            "tool_choice": chosen,
        }
    )
    if body.get("promptVariables"):  # of a prompt that Bedrock keeps
        out.content_state = "partial_history"


def model_name(name: Any) -> str | None:
    """The model of an id or ARN, without the region that an inference profile puts before it.

    >>> model_name("arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude-haiku-4-5-v1:0")
    'anthropic.claude-haiku-4-5-v1:0'
    """
    name = text(name)
    if name is None:
        return None
    last = name.rpartition("/")[2]
    region, dot, rest = last.partition(".")
    return (rest if dot and region in _REGIONS else last) or None


_REGIONS = ("us", "us-gov", "eu", "apac", "jp", "au", "ca", "sa", "global")


def _tools(out: Request, config: Any) -> Any:
    """Fill the tools of a toolConfig; the choice that it makes among them."""
    if not isinstance(config, dict):
        return None
    tools = config.get("tools")
    if isinstance(tools, list):  # a cache point is no tool
        tools = [t for t in tools if not (isinstance(t, dict) and "cachePoint" in t)]
    out.tools_json = openai.tools_json({"tools": tools}, _tool)
    choice = config.get("toolChoice")
    kind = next(iter(choice), None) if isinstance(choice, dict) else None
    return {"any": "required", "tool": {}}.get(kind, kind) if kind else None


def _tool(tool: dict[str, Any]) -> Any:
    spec = tool.get("toolSpec")
    if not isinstance(spec, dict):
        return tool
    function: dict[str, Any] = {k: spec[k] for k in ("name", "description") if k in spec}
    schema = spec.get("inputSchema")
    if isinstance(schema, dict):
        function["parameters"] = schema.get("json", schema)
    return {"type": "function", "function": function}


def read_response(out: Request, body: dict[str, Any]) -> None:
    """Fill output, stop reason and usage from an answer."""
    output = body.get("output")
    message = output.get("message") if isinstance(output, dict) else None
    if isinstance(message, dict):
        answers = _turns({"role": "assistant", "content": message.get("content")})
        if answers:
            out.output_json = dumps(answers[-1])
        reason = body.get("stopReason")
        out.finish_reason = finish(_STOP.get(str(reason), reason))
        out.status = "ok"
    usage = body.get("usage")
    if isinstance(usage, dict):
        anthropic.read_usage(
            out,
            {
                "input_tokens": usage.get("inputTokens"),
                "cache_read_input_tokens": first_of(usage, ("cacheReadInputTokens", "cacheReadInputTokenCount")),
                "cache_creation_input_tokens": first_of(usage, ("cacheWriteInputTokens", "cacheWriteInputTokenCount")),
                "output_tokens": usage.get("outputTokens"),
            },
        )  # fmt: skip


def _turns(message: dict[str, Any]) -> list[dict[str, Any]]:
    """A message as OpenAI-like ones: results of tools come first, as a server puts them, then what was said."""
    content = message.get("content")
    if not isinstance(content, list):
        return [{"role": message.get("role"), "content": content}]
    results: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    said: list[Any] = []
    thought: list[str] = []
    for block in content:
        call, result, reason = (_object(block, k) for k in ("toolUse", "toolResult", "reasoningContent"))
        if call is not None:
            given = call.get("input")
            written = given if isinstance(given, str) else dumps(given).decode()
            function = {"name": call.get("name"), "arguments": written}
            calls.append({"id": call.get("toolUseId"), "type": "function", "function": function})
        elif result is not None:
            answer = openai.one_text(_parts(result.get("content")))
            results.append({"role": "tool", "tool_call_id": result.get("toolUseId"), "content": answer or ""})
        elif reason is not None:
            thought.append(str((_object(reason, "reasoningText") or {}).get("text") or ""))
        else:
            said.extend(_parts([block]))
    return openai.turn(message.get("role"), said, calls, thought, results)


def _object(block: Any, key: str) -> dict[str, Any] | None:
    value = block.get(key) if isinstance(block, dict) else None
    return value if isinstance(value, dict) else None


def _parts(blocks: Any) -> list[Any]:
    """Blocks as OpenAI-like parts: text, JSON as its text, and media; marks for the cache are no part of the prompt."""
    out: list[Any] = []
    for block in blocks if isinstance(blocks, list) else ():
        if not isinstance(block, dict):
            out.append(block)
            continue
        guarded = (
            _object(block, "guardContent") or {}
        )  # what a guardrail looks at is part of the prompt all the same
        inner = _object(guarded, "text") or guarded or _object(block, "citationsContent") or block
        if isinstance(inner.get("text"), str):
            out.append({"type": "text", "text": inner["text"]})
        elif isinstance(inner.get("content"), list):
            out.extend(_parts(inner["content"]))
        elif "json" in inner:
            out.append({"type": "text", "text": dumps(inner["json"]).decode()})
        elif "cachePoint" not in inner:
            kind = next(iter(inner), None)
            out.append({"type": kind, **inner} if isinstance(kind, str) else inner)
    return out
