"""OpenAI chat and text completion bodies, as every OpenAI-compatible server takes and gives them.

Source: openai/openai-openapi; bodies of vLLM, SGLang and llama.cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from traceprof.formats.base import (
    SESSION_KEYS,
    BadRecord,
    Request,
    Skip,
    count,
    cut_state,
    dumps,
    finish,
    first_of,
    messages,
    text,
)

_PARAM_KEYS = ("temperature", "top_p", "top_k", "n", "seed")


def is_request(body: dict[str, Any]) -> bool:
    """Messages, or a prompt and a model; what other dialects mark as theirs is asked for first."""
    return "messages" in body or ("model" in body and "prompt" in body)


def is_response(body: dict[str, Any]) -> bool:
    """An answer with choices."""
    return "choices" in body


def is_chunk(chunk: dict[str, Any]) -> bool:
    """A piece of a streamed chat answer, or of a streamed text completion."""
    if chunk.get("object") == "chat.completion.chunk":
        return True
    choices = chunk.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return isinstance(first, dict) and ("delta" in first or "text" in first)


def join(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """One answer of a stream's chunks: texts and arguments of tool calls concatenated, usage and finish reason the last given."""
    out: dict[str, Any] = {"choices": []}
    joined: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for key in ("id", "model", "created", "usage", "error", "prompt_token_ids"):
            if chunk.get(key) is not None:
                out[key] = chunk[key]
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            index = choice.get("index")
            place = index if type(index) is int else 0
            whole = joined.setdefault(place, {"index": place, "finish_reason": None})
            whole["finish_reason"] = choice.get("finish_reason") or whole["finish_reason"]
            if choice.get("prompt_token_ids") is not None:
                whole["prompt_token_ids"] = choice["prompt_token_ids"]
            ids = choice.get("token_ids")
            if isinstance(ids, list):
                whole.setdefault("token_ids", []).extend(ids)
            if isinstance(choice.get("text"), str):
                whole["text"] = whole.get("text", "") + choice["text"]
            if isinstance(choice.get("delta"), dict):
                _grow(whole.setdefault("message", {}), choice["delta"])
    out["choices"] = [joined[i] for i in sorted(joined)]
    return out


def _grow(message: dict[str, Any], delta: dict[str, Any]) -> None:
    """Add what a chunk says to the message so far."""
    for key, value in delta.items():
        if value is None:
            continue
        if key == "tool_calls" and isinstance(value, list):
            calls = message.setdefault("tool_calls", [])
            for call in value:
                if not isinstance(call, dict):
                    continue
                index = call.get("index")
                place = (
                    index
                    if type(index) is int and 0 <= index <= len(calls)
                    else len(calls) - (not call.get("id"))
                )
                if not 0 <= place < len(calls):
                    calls.append(
                        {k: v for k, v in call.items() if k not in ("index", "function")} | {"function": {}}
                    )
                    place = len(calls) - 1
                if isinstance(call.get("function"), dict):
                    _grow(calls[place]["function"], call["function"])
        elif key in _GROWING and isinstance(value, str):
            before = message.get(key)
            message[key] = (before if isinstance(before, str) else "") + value
        else:
            message[key] = value


_GROWING = ("content", "reasoning_content", "reasoning", "refusal", "arguments", "name")


def read_request(out: Request, body: dict[str, Any]) -> None:
    """Fill model, prompt, tools and parameters from a request body."""
    read_opening(out, body)
    if "messages" in body:
        out.operation = "chat"
        out.messages_json = messages(body["messages"], out)
        tools = body.get("tools") or body.get("functions")
        if tools is not None:
            if not isinstance(tools, list):
                raise BadRecord("wrong_type", f"tools is a {type(tools).__name__}, not a list")
            if not body.get("tools"):
                tools = [{"type": "function", "function": f} for f in tools]
            out.tools_json = dumps(tools)
    else:
        out.operation = "text"
    limit = first_of(body, ("max_completion_tokens", "max_tokens"))
    if limit is not None:
        out.max_output_tokens = count(limit, "max_tokens", out.quality)
    out.user_id = text(first_of(body, ("user", "safety_identifier"))) or out.user_id
    out.cache_salt = text(body.get("cache_salt"))
    if out.session_id is None:
        meta = body.get("metadata")
        given = first_of(meta, SESSION_KEYS) if isinstance(meta, dict) else None
        given = given if given is not None else body.get("session_id")
        if text(given):
            out.session_id, out.session_kind = text(given), "explicit"
        elif text(body.get("prompt_cache_key")):
            out.session_id, out.session_kind = text(body.get("prompt_cache_key")), "affinity_key"
    out.params = params(body)


def read_opening(out: Request, body: dict[str, Any]) -> None:
    """Fill what requests of every dialect say alike: the model, and whether to stream."""
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise BadRecord("wrong_type", f"model is a {type(model).__name__}, not a string")
    out.model_requested = model or out.model_requested
    stream = body.get("stream")
    if isinstance(stream, bool):
        out.stream = stream


def tools_json(body: dict[str, Any], shaped: Callable[[dict[str, Any]], Any]) -> bytes | None:
    """The tools of another dialect, each as `shaped` makes it OpenAI's; None where there are none."""
    tools = body.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise BadRecord("wrong_type", f"tools is a {type(tools).__name__}, not a list")
    for tool in tools or ():
        if not isinstance(tool, dict):
            raise BadRecord("wrong_type", f"a tool is a {type(tool).__name__}, not an object")
    return dumps([shaped(tool) for tool in tools]) if tools else None


def one_text(parts: list[Any]) -> Any:
    """A single text part as its text; other lists of parts as they are."""
    only = parts[0] if len(parts) == 1 else None
    if isinstance(only, dict) and only.get("type") == "text" and isinstance(only.get("text"), str):
        return only["text"]
    return parts


def turn(
    role: Any, said: list[Any], calls: list[Any], thought: list[str], results: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The messages of one turn that another dialect keeps as blocks: results of tools first, as a server puts them, then what was said."""
    if results and not (said or calls or thought):
        return results
    out: dict[str, Any] = {"role": role, "content": one_text(said) if said else None}
    if thought:
        out["reasoning_content"] = "".join(thought)
    if calls:
        out["tool_calls"] = calls
    elif not said:
        out["content"] = ""
    return [*results, out]


def params(body: dict[str, Any]) -> dict[str, Any] | None:
    """Sampling parameters of a request body, in the schema's struct; None when there are none."""
    got: dict[str, Any] = {}
    for key in _PARAM_KEYS:
        value = body.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if key in ("temperature", "top_p"):
                if abs(value) < 1e38:  # a float32; not NaN
                    got[key] = float(value)
            elif abs(value) < (2**15 if key == "n" else 2**31 if key == "top_k" else 2**63):
                got[key] = int(value)
    stop = body.get("stop")
    if stop:
        got["stop_count"] = min(len(stop), 32_000) if isinstance(stop, list) else 1
    shape = body.get("response_format")
    if isinstance(shape, dict) and isinstance(shape.get("type"), str):
        got["response_format"] = shape["type"]
    choice = body.get("tool_choice")
    if choice is not None:
        got["tool_choice"] = choice if isinstance(choice, str) else "named"
    if isinstance(body.get("reasoning_effort"), str):
        got["reasoning_effort"] = body["reasoning_effort"]
    return got or None


def read_response(out: Request, response: dict[str, Any]) -> None:
    """Fill served model, output, finish reason and usage from an answer (or an error body)."""
    read_answered(out, response)
    choices = response.get("choices")
    if isinstance(choices, list) and choices:
        _read_choices(out, choices)
        out.status = "ok"
    _take_prompt_ids(out, response)
    read_usage(out, response.get("usage"))


def _read_choices(out: Request, choices: list[Any]) -> None:
    answers = []
    for choice in choices:
        if not isinstance(choice, dict):
            continue
        message = choice.get("message")
        if isinstance(message, dict):
            answers.append({"role": "assistant", **{k: v for k, v in message.items() if v is not None}})
        elif isinstance(choice.get("text"), str):
            answers.append({"role": "assistant", "content": choice["text"]})
    first = choices[0]
    if isinstance(first, dict):
        out.finish_reason = finish(first.get("finish_reason"))
        if is_ids(first.get("token_ids")):
            out.output_ids = first["token_ids"]
        _take_prompt_ids(out, first)
    if answers:
        out.output_json = dumps(answers[0] if len(answers) == 1 else answers)


def _take_prompt_ids(out: Request, told: dict[str, Any]) -> None:
    """The ids that the engine made of the prompt, where it was asked to return them (vLLM's return_token_ids)."""
    ids = told.get("prompt_token_ids")
    if ids and is_ids(ids):
        out.input_ids = ids


def read_answered(out: Request, response: dict[str, Any]) -> None:
    """Fill what answers of every dialect say alike: the model that served, and the answer's id."""
    if isinstance(response.get("model"), str):
        out.model_served = response["model"] or None
    out.provider_request_id = text(response.get("id"))


def read_usage(out: Request, usage: Any) -> None:
    """Token counts of an OpenAI usage object; prompt_tokens already include the cached ones."""
    if not isinstance(usage, dict):
        return
    out.input_tokens = count(usage.get("prompt_tokens"), "prompt_tokens", out.quality)
    out.output_tokens = count(usage.get("completion_tokens"), "completion_tokens", out.quality)
    details = usage.get("prompt_tokens_details")
    if isinstance(details, dict):
        out.cached_input_tokens = count(details.get("cached_tokens"), "cached_tokens", out.quality)
        out.cache_write_tokens = count(details.get("cache_write_tokens"), "cache_write_tokens", out.quality)
    details = usage.get("completion_tokens_details")
    if isinstance(details, dict):
        out.reasoning_tokens = count(details.get("reasoning_tokens"), "reasoning_tokens", out.quality)
    if out.cached_input_tokens is not None and (out.input_tokens or 0) < out.cached_input_tokens:
        out.cached_input_tokens = None
        out.quality.append("bad_cached_tokens")
    if out.input_tokens is not None or out.output_tokens is not None:
        out.tokens_source = "usage"


def sequences(
    out: Request, body: dict[str, Any], response: dict[str, Any] | None = None
) -> Request | list[Request | Skip]:
    """A text completion's `prompt`: a string, token ids, or a list of either (one sequence, so one row, each).

    Each of several prompts gets its own choices; what the answer counts is of all together, and is left out.
    """
    if "messages" in body:
        ids = body.get("prompt_token_ids")
        if ids and is_ids(ids):
            out.input_ids = ids
        return cut_state(out)
    prompt = body["prompt"]
    several = isinstance(prompt, list) and all(isinstance(p, str) or is_ids(p) for p in prompt)
    if several and len(prompt) == 1:
        prompt, several = prompt[0], False
    if isinstance(prompt, str) or is_ids(prompt):
        return cut_state(_prompted(out, prompt))
    if not several:
        wrong = f"prompt is a {type(prompt).__name__} that holds neither text nor token ids"
        raise BadRecord("wrong_type", wrong)
    rows: list[Request | Skip] = []
    name = out.request_id or out.provider_request_id
    choices = _choices_by_prompt(response, body, len(prompt))
    for i, one in enumerate(prompt):
        row = replace(out, quality=[*out.quality, "one_of_several_prompts"])
        row.attempt_group = name
        row.request_id = None if name is None else f"{name}-{i}"
        row.input_tokens = row.output_tokens = row.cached_input_tokens = None
        row.cache_write_tokens = row.reasoning_tokens = None
        row.tokens_source = row.input_ids = row.output_json = row.output_ids = row.finish_reason = None
        if choices[i]:
            _read_choices(row, choices[i])
        rows.append(cut_state(_prompted(row, one)))
    return rows


def _prompted(out: Request, prompt: str | list[int]) -> Request:
    if isinstance(prompt, str):
        out.prompt_text = prompt
    else:
        out.input_ids, out.content_level = prompt, "tokens"
    return out


def _choices_by_prompt(
    response: dict[str, Any] | None, body: dict[str, Any], prompts: int
) -> list[list[Any]]:
    """The choices of each of several prompts: choice i is of prompt i // n."""
    n = body.get("n")
    each = n if type(n) is int and n > 0 else 1
    out: list[list[Any]] = [[] for _ in range(prompts)]
    choices = (response or {}).get("choices")
    for place, choice in enumerate(choices if isinstance(choices, list) else ()):
        index = choice.get("index") if isinstance(choice, dict) else None
        of = (index if type(index) is int else place) // each
        if 0 <= of < prompts:
            out[of].append(choice)
    return out


def is_ids(value: Any) -> bool:
    """Whether a value is a list of token ids."""
    return isinstance(value, list) and all(type(i) is int and 0 <= i < 2**32 for i in value)
