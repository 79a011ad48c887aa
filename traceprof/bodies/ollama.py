"""Ollama's native bodies: chat (`messages`) and generate (`prompt`) with `options`, answered whole or as JSON lines.

Images stand beside a message's text, arguments of tool calls are objects, durations are in ns. `prompt_eval_count` is the whole
prompt. A prompt over `num_ctx` is cut by the server without a word. Source: ollama/ollama 03036c30, api/types.go.
"""

from __future__ import annotations

from typing import Any

from traceprof.bodies import openai
from traceprof.formats.base import BadRecord, Request, count, dumps, finish, messages, parse_time

_OPTIONS = frozenset(
    ("num_ctx", "num_predict", "num_keep", "num_batch", "num_gpu", "num_thread", "main_gpu", "use_mmap", "seed", "temperature",
     "top_k", "top_p", "min_p", "typical_p", "tfs_z", "repeat_last_n", "repeat_penalty", "presence_penalty",
     "frequency_penalty", "mirostat", "mirostat_tau", "mirostat_eta", "penalize_newline", "stop", "numa")
)  # fmt: skip


def is_request(body: dict[str, Any]) -> bool:
    """Messages or a prompt with what only this dialect has: options, keep_alive, images apart, arguments as an object."""
    if not isinstance(body.get("model"), str) or ("messages" not in body and "prompt" not in body):
        return False
    options = body.get("options")
    if "keep_alive" in body or (isinstance(options, dict) and not options.keys().isdisjoint(_OPTIONS)):
        return True
    said = body.get("messages")
    if not isinstance(said, list):
        return "messages" not in body and ("raw" in body or isinstance(body.get("images"), list))
    return any(isinstance(message, dict) and _marked(message) for message in said)


def _marked(message: dict[str, Any]) -> bool:
    calls = message.get("tool_calls")
    return isinstance(message.get("images"), list) or (
        isinstance(calls, list)
        and any(isinstance(c, dict) and isinstance(c.get("function"), dict)
                and isinstance(c["function"].get("arguments"), dict) for c in calls)
    )  # fmt: skip


def is_response(body: dict[str, Any]) -> bool:
    """A message or a text, and whether it is done."""
    return "done" in body and ("message" in body or "response" in body) and "choices" not in body


is_chunk = is_response  # chunks are answers that are not done


def join(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """One answer of a stream's lines: texts concatenated, everything else as the last line says it."""
    out: dict[str, Any] = {}
    said: dict[str, Any] = {}  # the message, or text and thought of a generate call
    for chunk in chunks:
        out.update({k: v for k, v in chunk.items() if k not in ("message", "response", "thinking")})
        piece = chunk.get("message", chunk)
        if not isinstance(piece, dict):
            continue
        for key in ("content", "response", "thinking"):
            if isinstance(piece.get(key), str):
                said[key] = said.get(key, "") + piece[key]
        if isinstance(piece.get("tool_calls"), list):
            said.setdefault("tool_calls", []).extend(piece["tool_calls"])
    if "response" in said:
        return {**out, **said}
    return {**out, "message": {"role": "assistant", **said}}


def read_request(out: Request, body: dict[str, Any]) -> None:
    """Fill model, prompt, tools and parameters; a prompt that the model's template is put around is a user's message."""
    openai.read_opening(out, body)
    out.operation = "chat"
    if "messages" in body:
        said = body["messages"]
        if not isinstance(said, list):
            raise BadRecord("wrong_type", f"messages is a {type(said).__name__}, not a list")
        out.messages_json = messages([_turn(message, i) for i, message in enumerate(said)], out)
    else:
        _prompt(out, body)
    out.tools_json = openai.tools_json(body, lambda tool: tool)
    options = body.get("options")
    options = options if isinstance(options, dict) else {}
    limit = options.get("num_predict")
    if limit not in (-1, -2):  # no limit, fill the context
        out.max_output_tokens = count(limit, "num_predict", out.quality)
    shape = body.get("format")
    kind = {"type": "json_schema" if isinstance(shape, dict) else "json_object"} if shape else None
    out.params = openai.params({**options, "response_format": kind})


def _prompt(out: Request, body: dict[str, Any]) -> None:
    """The prompt of a generate call."""
    prompt = body.get("prompt")
    if not isinstance(prompt, str):
        raise BadRecord("wrong_type", f"prompt is a {type(prompt).__name__}, not text")
    if body.get("context"):
        out.content_state = "partial_history"
    if body.get("raw") is True or body.get("suffix"):
        out.operation, out.prompt_text = "text", prompt
        return
    system = body.get("system")
    whole = [{"role": "system", "content": system}] if isinstance(system, str) and system else []
    user = {"role": "user", "content": prompt, "images": body.get("images")}
    out.messages_json = messages([*whole, _turn(user, 0)], out)


def read_response(out: Request, body: dict[str, Any]) -> None:
    """Fill served model, output, finish reason, counts and times from an answer."""
    openai.read_answered(out, body)
    said = body.get("message")
    if not isinstance(said, dict):
        said = {"role": "assistant", "content": body.get("response"), "thinking": body.get("thinking")}
    if isinstance(said.get("content"), str) or said.get("tool_calls"):
        out.output_json = dumps(_turn({"role": "assistant", **said}, 0))
        out.status = "ok" if body.get("done") is True else "incomplete"
    if body.get("done") is True:  # old versions do not say why
        out.finish_reason = finish(body.get("done_reason") or "other")
    out.input_tokens = count(body.get("prompt_eval_count"), "prompt_eval_count", out.quality)
    out.output_tokens = count(body.get("eval_count"), "eval_count", out.quality)
    if out.input_tokens is not None or out.output_tokens is not None:
        out.tokens_source = "usage"
    _times(out, body)


def _times(out: Request, body: dict[str, Any]) -> None:
    """The answer's own times: a whole one is made at created_at, total_duration after the request came."""
    took = body.get("total_duration")
    if type(took) is not int or not 0 <= took < 10**18:
        return
    if out.e2e_us is None:
        out.e2e_us = took // 1_000
    if out.end_us is not None or body.get("done") is not True or out.clock not in ("none", "absolute"):
        return
    try:
        end, naive = parse_time(body.get("created_at"), "created_at")
    except BadRecord:
        return
    if naive or end < (out.arrival_us or out.e2e_us):
        return
    out.end_us = end
    if out.arrival_us is None:
        out.clock, out.arrival_us, out.arrival_quality = "absolute", end - out.e2e_us, "derived"
        out.quality.append("arrival_is_end_minus_duration")


def _turn(message: Any, i: int) -> dict[str, Any]:
    """A message as an OpenAI-like one: images become parts, arguments JSON in a string, thought `reasoning_content`."""
    if not isinstance(message, dict):
        raise BadRecord("wrong_type", f"message {i} is a {type(message).__name__}, not an object")
    out: dict[str, Any] = {}
    for key, value in message.items():
        if value is None or key == "images":
            continue
        if key == "thinking":
            out["reasoning_content"] = value
        elif key == "tool_name":
            out["name"] = value
        elif key == "tool_calls" and isinstance(value, list):
            out[key] = [_call(call) for call in value]
        else:
            out[key] = value
    images = message.get("images")
    if isinstance(images, list) and images:
        words = [{"type": "text", "text": out.get("content")}] if out.get("content") else []
        out["content"] = [*words, *({"type": "image", "image": image} for image in images)]
    out.setdefault("content", None)
    return out


def _call(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return call
    given = function.get("arguments")
    made = {**function, "arguments": given if isinstance(given, str) else dumps(given).decode()}
    made.pop("index", None)
    return {"type": "function", **call, "function": made}
