"""LangChain messages and results, as Langfuse, LangSmith and Weave keep them: constructor objects, dumps of them, or OpenAI-like ones.

`usage_metadata.input_tokens` is the whole prompt, cached part included. Source: langchain-ai/langchain (langchain_core
messages and load), langchain-ai/langsmith-sdk 012d990.
"""

from __future__ import annotations

from typing import Any

from traceprof.bodies import openai
from traceprof.formats.base import BadRecord, Request, dumps, finish, text

_ROLES = {
    "human": "user", "ai": "assistant", "system": "system", "tool": "tool", "function": "function",
    "developer": "developer", "chat": "", "generic": "",
}  # fmt: skip


def is_message(value: Any) -> bool:
    """Whether a value is a LangChain message: a constructor object, {type: human, ...}, or a dump with kwargs or data."""
    if not isinstance(value, dict) or isinstance(value.get("role"), str):
        return False
    if value.get("lc") is not None and isinstance(value.get("kwargs"), dict):
        return _kind(value) in _ROLES
    return isinstance(value.get("type"), str) and _kind(value) in _ROLES and bool({"content", "data"} & value.keys())  # fmt: skip


def _kind(value: dict[str, Any]) -> str:
    """`human` of a HumanMessage, whichever way it names itself."""
    name: Any = value.get("type")
    path = value.get("id")
    if name == "constructor" or not isinstance(name, str):
        inner = value.get("kwargs")
        name = path[-1] if isinstance(path, list) and path else None
        if not isinstance(name, str) and isinstance(inner, dict):
            name = inner.get("type")
    return str(name).removesuffix("Chunk").removesuffix("Message").lower()


def messages(values: list[Any]) -> list[Any]:
    """Messages of any of the shapes as OpenAI-like ones; those that are OpenAI's stay as they are."""
    return [message(v) for v in values]


def message(value: Any, role: str | None = None) -> Any:
    """One message as an OpenAI-like one; `role` for a dump that does not tell who speaks."""
    if is_pair(value):
        who = _ROLES.get(value[0], value[0])
        return {"role": who, "content": value[1]}
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("role"), str):
        return _plain(value) if _mixed(value) else value
    inner = next((value[k] for k in ("kwargs", "data") if isinstance(value.get(k), dict)), value)
    who = _ROLES.get(_kind(value), role)
    if who == "":
        who = text(inner.get("role")) or role
    if who is None:
        raise BadRecord("unknown_role", f"a message of kind {_kind(value)[:40]!r}")
    return _plain({"role": who, **{k: v for k, v in inner.items() if k not in ("role", "type")}})


def is_pair(value: Any) -> bool:
    """A message written as (role, text)."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(v, str) for v in value)
        and value[0] in (*_ROLES, "user", "assistant")
    )


def _mixed(value: dict[str, Any]) -> bool:
    """An OpenAI-like message that still holds what only LangChain has."""
    calls = value.get("tool_calls")
    first = calls[0] if isinstance(calls, list) and calls else None
    return "additional_kwargs" in value or (isinstance(first, dict) and "args" in first)


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """Role, content, calls of tools, as LangChain itself sends them to an OpenAI-compatible server."""
    role = value["role"]
    more = value.get("additional_kwargs")
    more = more if isinstance(more, dict) else {}
    calls = more.get("tool_calls") or value.get("tool_calls")
    content, thought = _content(value.get("content"), bool(calls))
    out: dict[str, Any] = {"role": role, "content": content}
    if thought or isinstance(more.get("reasoning_content"), str):
        out["reasoning_content"] = thought or more["reasoning_content"]
    if role == "tool":
        out["tool_call_id"] = value.get("tool_call_id")
    elif isinstance(value.get("name"), str) and value["name"]:
        out["name"] = value["name"]
    if isinstance(calls, list) and calls and role == "assistant":
        out["tool_calls"] = [_call(c) for c in calls]
    if isinstance(more.get("function_call"), dict):
        out["function_call"] = more["function_call"]
    if ("tool_calls" in out or "function_call" in out) and not out["content"]:
        out["content"] = None
    return out


def _call(call: Any) -> Any:
    if not isinstance(call, dict) or isinstance(call.get("function"), dict):
        return call
    given = call.get("args")
    arguments = given if isinstance(given, str) else dumps({} if given is None else given).decode()
    return {
        "id": call.get("id"),
        "type": "function",
        "function": {"name": call.get("name"), "arguments": arguments},
    }


def _content(content: Any, has_calls: bool) -> tuple[Any, str]:
    """(content, what was thought): blocks of calls are dropped where `tool_calls` says them."""
    if not isinstance(content, list):
        return content, ""
    kept, thought = [], []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "thinking":
            thought.append(str(part.get("thinking") or ""))
        elif kind == "text":
            kept.append({"type": "text", "text": part.get("text")})
        elif not (kind in ("tool_use", "tool_call", "function_call", "input_json_delta") and has_calls):
            kept.append(part)
    return openai.one_text(kept) if kept else "", "".join(thought)


# -- results -------------------------------------------------------------------------------------------------


def is_result(value: dict[str, Any]) -> bool:
    """Whether an answer is an LLMResult."""
    return isinstance(value.get("generations"), list)


def read_result(out: Request, result: dict[str, Any]) -> None:
    """Fill output, finish reason, served model and usage from an LLMResult: a list of candidates, or one list of them a prompt."""
    found = result["generations"]
    if found and isinstance(found[0], list):
        found = found[0]
    answers: list[Any] = []
    for candidate in found:
        if not isinstance(candidate, dict):
            continue
        said = candidate.get("message")
        if isinstance(said, dict):
            answers.append({k: v for k, v in message(said, "assistant").items() if v is not None})
            _read_extras(out, said)
        elif isinstance(candidate.get("text"), str):
            answers.append({"role": "assistant", "content": candidate["text"]})
        info = candidate.get("generation_info")
        if isinstance(info, dict) and out.finish_reason is None:
            out.finish_reason = finish(info.get("finish_reason"))
    if answers:
        out.output_json = dumps(answers[0] if len(answers) == 1 else answers)
    whole = result.get("llm_output")
    if isinstance(whole, dict):
        out.model_served = text(whole.get("model_name")) or out.model_served
        if out.input_tokens is None:
            openai.read_usage(out, whole.get("token_usage"))


def read_message(out: Request, value: dict[str, Any]) -> None:
    """Fill output, finish reason and usage from an answer that is one message."""
    said = message(value, "assistant")
    out.output_json = dumps({k: v for k, v in said.items() if v is not None})
    _read_extras(out, value)


def _read_extras(out: Request, value: dict[str, Any]) -> None:
    inner = next((value[k] for k in ("kwargs", "data") if isinstance(value.get(k), dict)), value)
    about = inner.get("response_metadata")
    if isinstance(about, dict):
        out.finish_reason = finish(about.get("finish_reason") or about.get("stop_reason"))
        out.model_served = text(about.get("model_name") or about.get("model")) or out.model_served
    read_usage(out, inner.get("usage_metadata"))


def read_usage(out: Request, usage: Any) -> None:
    """Token counts of a `usage_metadata` object."""
    if not isinstance(usage, dict):
        return
    given, made = usage.get("input_token_details"), usage.get("output_token_details")
    given, made = (d if isinstance(d, dict) else {} for d in (given, made))
    openai.read_usage(
        out,
        {
            "prompt_tokens": usage.get("input_tokens"),
            "completion_tokens": usage.get("output_tokens"),
            "prompt_tokens_details": {
                "cached_tokens": given.get("cache_read"),
                "cache_write_tokens": given.get("cache_creation"),
            },
            "completion_tokens_details": {"reasoning_tokens": made.get("reasoning")},
        },
    )
