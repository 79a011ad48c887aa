"""Request bodies as bytes, made ahead of time from rows of a workload.

Messages and tools go in byte for byte as the workload holds them, so that every engine is sent the same prompt; only
Ollama's chat, Anthropic's and OpenAI's Responses spell them their own way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import orjson

from traceprof.engines.base import OUTPUT, Endpoint, Engine
from traceprof.errors import UsageError

_CONSTRAINTS = (
    "response_format", "structured_outputs", "json_schema", "regex", "ebnf", "grammar", "structural_tag", "format",
)  # fmt: skip
_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_OLLAMA_OPTIONS = (
    "temperature", "top_p", "top_k", "min_p", "seed", "stop", "frequency_penalty", "presence_penalty", "repeat_penalty",
)  # fmt: skip
_TGI_PARAMETERS = ("temperature", "top_p", "top_k", "seed", "stop", "frequency_penalty", "repetition_penalty")
_LMDEPLOY_FIELDS = ("temperature", "top_p", "top_k", "min_p", "stop", "repetition_penalty", "ignore_eos")
_ANTHROPIC_FIELDS = ("temperature", "top_p", "top_k", "thinking", "metadata")
_RESPONSES_FIELDS = ("temperature", "top_p", "parallel_tool_calls", "reasoning", "metadata", "user")


def endpoint_of(engine: Engine, row: Mapping[str, Any], api: str | None = None) -> Endpoint:
    """Where a row of the workload goes: by its own kind, or, for a chat, through another `api` of the engine."""
    kind = row["endpoint"]
    if api is not None and api not in engine.endpoints:
        raise UsageError(
            f"{engine.label} has no API called {api}", remedy=f"it has {', '.join(engine.endpoints)}"
        )
    if api is not None and kind not in (api, _OTHER_APIS.get(api)):
        raise UsageError(f"{_KINDS[kind]} cannot be sent as {api}", remedy="leave the API to the engine")
    found = engine.endpoints.get(api or kind)
    if found is None:
        takes = ", ".join(_KINDS.get(name, name) for name in engine.endpoints)
        raise UsageError(
            f"{engine.label} takes no {_KINDS.get(api or kind, api or kind)}",
            remedy=f"make the workload of what it takes: {takes}",
        )
    return found


_KINDS = {"chat": "chats", "completions": "prompts as text", "ids": "prompts as token ids"}
_OTHER_APIS = {"responses": "chat", "messages": "chat", "native": "chat", "generate": "completions"}
APIS = (*_KINDS, *_OTHER_APIS)
"""Names of the APIs that engines may have."""


def constrained(params: Mapping[str, Any]) -> bool:
    """Whether a grammar decides where the answer ends, so that its length must not be forced."""
    for key in _CONSTRAINTS:
        value = params.get(key)
        if value and not (
            key == "response_format" and isinstance(value, dict) and value.get("type") == "text"
        ):
            return True
    if any(key.startswith("guided_") and params[key] for key in params):
        return True
    return params.get("tool_choice") not in (None, "auto", "none")


def request_of(
    engine: Engine,
    row: Mapping[str, Any],
    *,
    model: str,
    stream: bool,
    salt: str | None,
    pin_output: bool,
    api: str | None = None,
) -> tuple[str, dict[str, str], bytes]:
    """Path, extra headers and body that send one row of a workload.

    `output_tokens` of the row bounds the answer; with `pin_output` the engine is also told to go on to it, where it can be
    told and no grammar decides. `salt` parts this run from others, the row's own parts it from other rows.
    """
    endpoint = endpoint_of(engine, row, api)
    params: dict[str, Any] = json.loads(row["params_json"]) if row.get("params_json") else {}
    head: dict[str, Any] = {"model": model, "stream": stream}
    limit = row.get("output_tokens")
    if limit is not None:
        for name in _LIMITS:
            params.pop(name, None)
    if pin_output and limit is not None and endpoint.pin and not constrained(params):
        params.pop("stop", None)
        params |= {key: limit if value == OUTPUT else value for key, value in endpoint.pin.items()}
    if endpoint.salt is not None:
        own = row.get("cache_salt")
        parts = [part for part in (salt, own) if part]
        if parts:
            head[endpoint.salt] = "/".join(parts)
    elif salt is not None:
        raise UsageError(
            f"{engine.label} has no cache salt on {endpoint.path}",
            remedy="flush its cache between runs" if engine.flush else f"between runs, {engine.between_runs}",
        )
    write = _WRITERS.get(endpoint.dialect, _openai)
    return write(endpoint, row, head, params, limit)


Made = tuple[str, dict[str, str], bytes]


def _openai(
    endpoint: Endpoint,
    row: Mapping[str, Any],
    head: dict[str, Any],
    params: dict[str, Any],
    limit: int | None,
) -> Made:
    """Chat and completions: everything as it is, the prompt last."""
    if head["stream"] and endpoint.usage:
        head["stream_options"] = {"include_usage": True}
    if limit is not None:
        head[endpoint.limit] = limit
    body = orjson.dumps({**params, **head})[:-1]
    if row["endpoint"] == "chat":
        tools = row.get("tools_json")
        body += b',"messages":' + row["messages_json"].encode()
        body += b',"tools":' + tools.encode() if tools else b""
    elif row["endpoint"] == "ids":
        body += b',"prompt":' + orjson.dumps(list(row["prompt_ids"]))
    else:
        body += b',"prompt":' + _dumps(row["prompt_text"])
    return endpoint.path, {}, body + b"}"


def _ollama(
    endpoint: Endpoint,
    row: Mapping[str, Any],
    head: dict[str, Any],
    params: dict[str, Any],
    limit: int | None,
) -> Made:
    """Ollama's own: sampling under `options`, a text prompt `raw`, so that no template is put around it."""
    options = {key: params[key] for key in _OLLAMA_OPTIONS if params.get(key) is not None}
    if limit is not None:
        options["num_predict"] = limit
    body = {**head, "options": options}
    if isinstance(params.get("response_format"), dict):
        body["format"] = _schema_of(params["response_format"])
    if row["endpoint"] == "chat":
        body["messages"] = [_ollama_message(m) for m in json.loads(row["messages_json"])]
        if row.get("tools_json"):
            body["tools"] = json.loads(row["tools_json"])
    else:
        body |= {"prompt": row["prompt_text"], "raw": True}
    return endpoint.path, {}, _dumps(body)


def _schema_of(asked: dict[str, Any]) -> Any:
    schema = asked.get("json_schema")
    return schema.get("schema", "json") if isinstance(schema, dict) else "json"


def _ollama_message(message: dict[str, Any]) -> dict[str, Any]:
    out = {**message, "content": _text(message.get("content"))}
    if message.get("tool_calls"):
        out["tool_calls"] = [
            {"function": {"name": c["function"]["name"], "arguments": _arguments(c)}}
            for c in message["tool_calls"]
        ]
    return out


def _tgi(
    endpoint: Endpoint,
    row: Mapping[str, Any],
    head: dict[str, Any],
    params: dict[str, Any],
    limit: int | None,
) -> Made:
    """TGI's own: `inputs` and `parameters`."""
    parameters: dict[str, Any] = {
        key: params[key] for key in _TGI_PARAMETERS if params.get(key) is not None
    } | {"details": True}
    if parameters.get("temperature") == 0:  # refused there: greedy is the default
        del parameters["temperature"]
    if limit is not None:
        parameters["max_new_tokens"] = limit
    path = endpoint.path if head["stream"] else endpoint.path.removesuffix("_stream")
    return path, {}, _dumps({"inputs": row["prompt_text"], "parameters": parameters})


def _lmdeploy(
    endpoint: Endpoint,
    row: Mapping[str, Any],
    head: dict[str, Any],
    params: dict[str, Any],
    limit: int | None,
) -> Made:
    """LMDeploy's /generate, which takes token ids."""
    body = {key: params[key] for key in _LMDEPLOY_FIELDS if params.get(key) is not None}
    body |= {"stream": head["stream"], "input_ids": list(row["prompt_ids"])}
    bound = _limit(params, limit)
    if bound is not None:
        body["max_tokens"] = bound
    return endpoint.path, {}, _dumps(body)


def _responses(
    endpoint: Endpoint,
    row: Mapping[str, Any],
    head: dict[str, Any],
    params: dict[str, Any],
    limit: int | None,
) -> Made:
    """OpenAI Responses: turns as input items, nothing stored."""
    body = {
        **{key: params[key] for key in _RESPONSES_FIELDS if params.get(key) is not None},
        **head,
        "store": False,
    }
    bound = _limit(params, limit)
    if bound is not None:
        body["max_output_tokens"] = bound
    items: list[dict[str, Any]] = []
    for message in json.loads(row["messages_json"]):
        if message["role"] == "tool":
            output = _text(message.get("content"))
            items.append(
                {"type": "function_call_output", "call_id": message.get("tool_call_id"), "output": output}
            )
            continue
        if message.get("content"):
            kind = "output_text" if message["role"] == "assistant" else "input_text"
            content = message["content"]
            if isinstance(content, list):
                content = [{"type": kind, "text": p["text"]} if "text" in p else p for p in content]
            items.append({"role": message["role"], "content": content})
        items += [
            {"type": "function_call", "call_id": call.get("id"), **call["function"]}
            for call in message.get("tool_calls") or []
        ]
    body["input"] = items
    if row.get("tools_json"):
        body["tools"] = [
            {"type": "function", **t["function"]} if "function" in t else t
            for t in json.loads(row["tools_json"])
        ]
    return endpoint.path, {}, _dumps(body)


def _messages(
    endpoint: Endpoint,
    row: Mapping[str, Any],
    head: dict[str, Any],
    params: dict[str, Any],
    limit: int | None,
) -> Made:
    """Anthropic: the system prompt apart, tool calls and results as blocks, turns of one side in a row joined."""
    body = {**{key: params[key] for key in _ANTHROPIC_FIELDS if params.get(key) is not None}, **head}
    stop = params.get("stop")
    if stop:
        body["stop_sequences"] = [stop] if isinstance(stop, str) else stop
    body["max_tokens"] = _limit(params, limit) or 4096  # the API wants one
    system: list[str] = []
    turns: list[dict[str, Any]] = []
    for message in json.loads(row["messages_json"]):
        if message["role"] in ("system", "developer"):
            system.append(_text(message.get("content")))
            continue
        role = "assistant" if message["role"] == "assistant" else "user"
        blocks = _blocks(message)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    if system:
        body["system"] = "\n\n".join(system)
    body["messages"] = turns
    if row.get("tools_json"):
        body["tools"] = [
            {
                "name": f["name"],
                "description": f.get("description", ""),
                "input_schema": f.get("parameters", {}),
            }
            for f in (t.get("function", t) for t in json.loads(row["tools_json"]))
        ]
    return endpoint.path, {"anthropic-version": "2023-06-01"}, _dumps(body)


def _blocks(message: dict[str, Any]) -> list[dict[str, Any]]:
    if message["role"] == "tool":
        said = _text(message.get("content"))
        return [{"type": "tool_result", "tool_use_id": message.get("tool_call_id"), "content": said}]
    text = _text(message.get("content"))
    blocks: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    blocks += [
        {"type": "tool_use", "id": c.get("id"), "name": c["function"]["name"], "input": _arguments(c)}
        for c in message.get("tool_calls") or []
    ]
    return blocks


def _text(content: Any) -> str:
    """The words of a message; parts in their order."""
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    return content or ""


def _arguments(call: dict[str, Any]) -> Any:
    given = call["function"].get("arguments") or "{}"
    try:
        return json.loads(given) if isinstance(given, str) else given
    except ValueError:
        return {}


def _limit(params: Mapping[str, Any], limit: int | None) -> int | None:
    """The row's bound, or the one that the trace's client set."""
    return limit if limit is not None else next((params[k] for k in _LIMITS if params.get(k)), None)


def _dumps(value: Any) -> bytes:
    """JSON bytes; Python's own writer takes lone surrogates, which traces hold now and then."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value).encode()


_WRITERS = {
    "ollama": _ollama,
    "tgi": _tgi,
    "lmdeploy": _lmdeploy,
    "responses": _responses,
    "messages": _messages,
}
