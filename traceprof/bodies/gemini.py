"""Gemini bodies: contents of parts, systemInstruction and functionDeclarations; keys in camelCase or snake_case.

`promptTokenCount` has the cached part in it; thoughts are counted beside the candidates. A `cachedContent` is a part of the
prompt that lies on the server. Source: googleapis, generativelanguage and aiplatform; open-telemetry/opentelemetry-python-contrib
466ae4c0 (recorded calls); elastic/beats 974a14b9 (BigQuery rows, snake_case).
"""

from __future__ import annotations

from typing import Any

from traceprof.bodies import openai
from traceprof.formats.base import BadRecord, Request, count, dumps, get, messages, text

_ROLES = {"model": "assistant", "function": "tool", "tool": "tool", "system": "system"}
_FINISH = {"STOP": "stop", "1": "stop", "MAX_TOKENS": "length", "2": "length"}
_FILTERED = ("SAFETY", "3", "RECITATION", "4", "BLOCKLIST", "6", "PROHIBITED_CONTENT", "7", "SPII", "8", "IMAGE_SAFETY")  # fmt: skip


def is_request(body: dict[str, Any]) -> bool:
    """Contents made of parts; as plain text only beside a model, as the SDK takes them."""
    contents = body.get("contents")
    if isinstance(contents, str):
        return "model" in body
    if isinstance(contents, dict):
        return "parts" in contents
    return (
        isinstance(contents, list)
        and bool(contents)
        and all("parts" in one if isinstance(one, dict) else isinstance(one, str) for one in contents)
        and (isinstance(contents[0], dict) or "model" in body)
    )


def is_response(body: dict[str, Any]) -> bool:
    """An answer with candidates, or the word that the prompt was blocked."""
    candidates = body.get("candidates")
    if isinstance(candidates, list):
        return all(isinstance(c, dict) for c in candidates)
    said = get(get(body, "usageMetadata"), "promptTokenCount")
    return get(body, "promptFeedback") is not None or (said is not None and "candidates" not in body)


def is_chunk(chunk: dict[str, Any]) -> bool:
    """A piece of a streamed answer, which is an answer itself."""
    return is_response(chunk)


def join(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """One answer of a stream's pieces: parts one after another, finish reason and usage the last given."""
    out: dict[str, Any] = {}
    whole: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        out.update({k: v for k, v in chunk.items() if k != "candidates" and v is not None})
        candidates = chunk.get("candidates")
        for candidate in candidates if isinstance(candidates, list) else ():
            if not isinstance(candidate, dict):
                continue
            index = candidate.get("index")
            so_far = whole.setdefault(index if type(index) is int else 0, {"content": {"role": "model", "parts": []}})  # fmt: skip
            so_far["finishReason"] = get(candidate, "finishReason") or so_far.get("finishReason")
            parts = get(candidate.get("content"), "parts")
            for part in parts if isinstance(parts, list) else ():
                _grow(so_far["content"]["parts"], part)
    out["candidates"] = [whole[i] for i in sorted(whole)]
    return out


def _grow(parts: list[Any], part: Any) -> None:
    """Add a part; a text goes on the text before it, a thought on the thought."""
    last = parts[-1] if parts else None
    if isinstance(part, dict) and isinstance(last, dict):
        more, before = part.get("text"), last.get("text")
        if isinstance(more, str) and isinstance(before, str) and part.get("thought") == last.get("thought"):
            parts[-1] = {**last, "text": before + more}
            return
    parts.append(part)


def read_request(out: Request, body: dict[str, Any]) -> None:
    """Fill model, prompt, tools and parameters; the system instruction becomes the first message."""
    openai.read_opening(out, body)
    out.operation = "chat"
    if out.model_requested is not None:
        out.model_requested = out.model_requested.rpartition("/")[2] or None
    config = body.get("config")  # of the SDK: what else stands beside the contents
    given = {**config, **body} if isinstance(config, dict) else body
    system = get(given, "systemInstruction")
    whole = turns(system, "system") if system else []
    contents = body["contents"]
    for content in contents if isinstance(contents, list) else [contents]:
        whole.extend(turns(content, "user"))
    out.messages_json = messages(whole, out)
    out.tools_json = openai.tools_json({"tools": _tools(given.get("tools"))}, _tool)
    generation = get(given, "generationConfig")
    if not isinstance(generation, dict):
        generation = given if given is not body else {}
    out.max_output_tokens = count(get(generation, "maxOutputTokens"), "maxOutputTokens", out.quality)
    calling = get(get(given, "toolConfig"), "functionCallingConfig")
    mode = text(get(calling, "mode"))
    out.params = openai.params(
        {
            "temperature": generation.get("temperature"),
            "top_p": get(generation, "topP"),
            "top_k": get(generation, "topK"),
            "n": get(generation, "candidateCount"),
            "seed": generation.get("seed"),
            "stop": get(generation, "stopSequences"),
            "tool_choice": {"AUTO": "auto", "ANY": "required", "NONE": "none"}.get(mode or "", mode),
        }
    )
    if get(given, "cachedContent"):
        out.content_state = "partial_history"


def _tools(tools: Any) -> Any:
    """Function declarations one by one; the tools that Google runs itself as they are."""
    if not isinstance(tools, list):
        return tools
    out: list[Any] = []
    for tool in tools:
        declared = get(tool, "functionDeclarations")
        if isinstance(declared, list):
            out.extend(declared)
        elif tool:
            out.append(tool)
    return out


def _tool(tool: dict[str, Any]) -> Any:
    if "name" not in tool:
        return tool
    function: dict[str, Any] = {k: tool[k] for k in ("name", "description") if k in tool}
    parameters = tool.get("parameters")
    if parameters is None:
        parameters = get(tool, "parametersJsonSchema")
    if parameters is not None:
        function["parameters"] = parameters
    return {"type": "function", "function": function}


def read_response(out: Request, body: dict[str, Any]) -> None:
    """Fill served model, output, finish reason and usage from an answer."""
    out.model_served = text(get(body, "modelVersion")) or out.model_served
    out.provider_request_id = text(get(body, "responseId"))
    candidates = body.get("candidates")
    found = [c for c in candidates if isinstance(c, dict)] if isinstance(candidates, list) else []
    answers = [turn for c in found for turn in turns(c.get("content"), "assistant", "assistant")[-1:]]
    if answers:
        out.output_json = dumps(answers[0] if len(answers) == 1 else answers)
    if found:
        reason = text(get(found[0], "finishReason"))
        out.finish_reason = reason and _FINISH.get(reason, "content_filter" if reason in _FILTERED else "other")  # fmt: skip
        if out.finish_reason == "stop" and answers and answers[0].get("tool_calls"):
            out.finish_reason = "tool_calls"
        out.status = "ok"
    elif get(get(body, "promptFeedback"), "blockReason") is not None:
        out.finish_reason, out.status = "content_filter", "ok"
    read_usage(out, get(body, "usageMetadata"))


def read_usage(out: Request, usage: Any) -> None:
    """Token counts: the prompt has its cached part in it, thoughts stand beside the candidates unless the total says else."""
    if not isinstance(usage, dict):
        return
    prompt, said, thought, cached, total = (
        count(get(usage, name), name, out.quality)
        for name in ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "cachedContentTokenCount", "totalTokenCount")
    )  # fmt: skip
    inside = thought and said and total is not None and total == (prompt or 0) + said
    written = None if said is None and thought is None else (said or 0) + (0 if inside else thought or 0)
    openai.read_usage(
        out,
        {
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": thought},
        },
    )


def turns(content: Any, role: str, always: str | None = None) -> list[dict[str, Any]]:
    """A content as OpenAI-like messages: results of functions one by one, then what was said.

    Its own role comes before `role`, unless a role holds `always`.
    """
    if isinstance(content, str):
        content = {"parts": [{"text": content}]}
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise BadRecord("wrong_type", f"a content is a {type(content).__name__}, not an object")
    parts = content.get("parts")
    if isinstance(parts, (dict, str)):
        parts = [parts]
    if parts is not None and not isinstance(parts, list):
        raise BadRecord("wrong_type", f"parts is a {type(parts).__name__}, not a list")
    own = text(content.get("role"))
    speaker = always or (role if role == "system" else _ROLES.get(own or "", own or role))
    results: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    said: list[Any] = []
    thought: list[str] = []
    for part in parts or ():
        call, answer = get(part, "functionCall"), get(part, "functionResponse")
        if isinstance(call, dict):
            written = {"name": call.get("name"), "arguments": dumps(call.get("args") or {}).decode()}
            calls.append({**_id(call, "id"), "type": "function", "function": written})
        elif isinstance(answer, dict):
            body = answer.get("response")
            content_text = body if isinstance(body, str) else dumps(body).decode()
            results.append({"role": "tool", **_id(answer, "tool_call_id"), "name": answer.get("name"), "content": content_text})  # fmt: skip
        elif isinstance(part, dict) and part.get("thought") is True:
            thought.append(str(part.get("text") or ""))
        else:
            said.append(_part(part))
    return openai.turn(speaker, said, calls, thought, results)


def _id(value: dict[str, Any], name: str) -> dict[str, Any]:
    """The id of a call, which older models do not give."""
    return {name: value["id"]} if text(value.get("id")) else {}


def _part(part: Any) -> Any:
    """Text, or media by the first word of its MIME type; signatures of thoughts are no text."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, dict):
        return part
    if isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    for name in ("inlineData", "fileData"):
        media = get(part, name)
        if isinstance(media, dict):
            kind = str(get(media, "mimeType")).partition("/")[0]
            return {"type": kind if kind in ("image", "audio", "video") else "file", name: media}
    key = next((k for k in part if k not in ("thoughtSignature", "thought_signature")), None)
    return {"type": key, **part} if isinstance(key, str) else part
