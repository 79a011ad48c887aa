"""Prompt and answer of a model call as tracing platforms keep them: a request body, messages of several makers, or plain text.

A platform keeps what the instrumented program handed to it, so the shape is told by what stands there. One that is none of
these leaves the row without text (`unknown_prompt_shape`, `unknown_output_shape`); its counts and times stay.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

from traceprof import bodies
from traceprof.bodies import anthropic, gemini, langchain, openai, responses
from traceprof.formats.base import (
    BadRecord,
    Request,
    Skip,
    count,
    cut_mark,
    cut_state,
    dumps,
    first_of,
    http_code,
    parse_time,
    text,
)

Rows = Request | list[Request | Skip]
_ITEMS = ("function_call", "function_call_output", "reasoning", "item_reference")  # of the Responses API
_BLOCKS = ("text", "tool_use", "thinking", "redacted_thinking")  # of Anthropic
_CONTENT = ("messages", "prompt", "prompts", "input", "metadata")
_NUMBERS: dict[str, Callable[[str], Any]] = {
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "n": int,
    "seed": int,
}


# -- prompt --------------------------------------------------------------------------------------------------


def asked(given: Any) -> dict[str, Any]:
    """Parameters of a call under OpenAI's names, out of an object or JSON text in which numbers may be text.

    >>> asked('{"temperature": "0.2", "maxTokens": 9, "tools": "none"}')
    {'temperature': 0.2, 'max_tokens': 9}
    """
    out: dict[str, Any] = {}
    for key, value in (bodies.as_object(given) or {}).items():
        if value is None or value == "" or key in _CONTENT:
            continue
        key = {"maxTokens": "max_tokens", "topP": "top_p", "topK": "top_k"}.get(key, key)
        if key in _NUMBERS and isinstance(value, str):
            try:
                value = _NUMBERS[key](value)
            except (ValueError, OverflowError):
                continue
        elif key in ("tools", "functions"):
            value = bodies.decoded(value)
            if not isinstance(value, list):
                continue
        elif key == "stream" and isinstance(value, str):
            value = {"true": True, "false": False}.get(value.lower())
        elif key in ("model", "instructions") and not isinstance(value, str):
            continue
        out[key] = value
    return out


def read_prompt(out: Request, given: Any, beside: dict[str, Any]) -> Rows:
    """Fill prompt, tools and parameters from the input of a call and what stands `beside` it under OpenAI's names."""
    value = _unnested(bodies.decoded(given))
    if value in (None, "", [], {}):
        return absent(out, beside)
    if isinstance(value, str):
        if cut_mark(value) == "redacted":
            absent(out, beside).content_state = "redacted"
            return out
        return _of_body(out, {**beside, "prompt": value})
    if isinstance(value, list):
        key = _kind(value)
        return _unknown(out, beside) if key is None else _of_body(out, {**beside, key: value})
    if not isinstance(value, dict):
        return _unknown(out, beside)
    if langchain.is_message(value) or (isinstance(value.get("role"), str) and value.keys() & {"content", "parts"}):  # fmt: skip
        return _of_body(out, {**beside, "messages": [value]})
    body = {**beside, **value}
    if "messages" in value:
        said = _unnested(bodies.decoded(value["messages"]))
        return _of_body(out, {**body, "messages": said}) if said else absent(out, body)
    if "prompts" in value:
        return _of_body(out, {**body, "prompt": bodies.decoded(value["prompts"])})
    if isinstance(value.get("prompt"), (str, list)) or bodies.of_request(body) is not None:
        return _of_body(out, body)
    inner = bodies.decoded(value.get("input"))
    if isinstance(inner, list) and inner:
        key = "input" if "instructions" in body else _kind(inner)
        return _unknown(out, beside) if key is None else _of_body(out, {**body, key: inner})
    if isinstance(inner, str) and inner and isinstance(value.get("model"), str):
        return _of_body(out, body)
    return _unknown(out, beside)


def _kind(values: list[Any]) -> str | None:
    """What a list holds: messages, prompts, or the input items of the Responses API."""
    if any(isinstance(v, dict) and v.get("type") in _ITEMS for v in values):
        return "input"
    if any(
        langchain.is_message(v)
        or langchain.is_pair(v)
        or (isinstance(v, dict) and isinstance(v.get("role"), str))
        for v in values
    ):
        return "messages"
    return "prompt" if all(isinstance(v, str) for v in values) else None


def _unnested(value: Any) -> Any:
    """Messages out of the list of one prompt that LangChain puts around them."""
    while isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]
        if langchain.is_pair(value):
            return [value]
    return value


def _of_body(out: Request, body: dict[str, Any]) -> Rows:
    """A body with messages, a prompt or the input of the Responses API, in the dialect that it is in."""
    user, trace = out.user_id, out.session_id if out.session_kind == "trace" else None
    if trace is not None:
        out.session_id = out.session_kind = None  # what the body names as its session comes before it
    if isinstance(body.get("messages"), list):
        body = {**body, "messages": langchain.messages(_whole(body["messages"], "user"))}
    if isinstance(prompts := body.get("prompt"), list) and len(prompts) == 1 and isinstance(prompts[0], str):
        body = {**body, "prompt": prompts[0]}
    if not isinstance(body.get("model"), str):
        body.pop("model", None)
    dialect = bodies.of_request(body) or (openai if "input" not in body or "prompt" in body else responses)
    if dialect is openai and anthropic.is_request({"messages": body.get("messages"), "max_tokens": None}):
        dialect = anthropic  # whose blocks tell it also where a platform left its parameters out
    dialect.read_request(out, body)
    out.user_id = user or out.user_id
    if trace is not None and out.session_kind != "explicit":
        out.session_id, out.session_kind = trace, "trace"
    return openai.sequences(out, body) if dialect is openai else cut_state(out)


def _whole(values: list[Any], speaker: str) -> list[Any]:
    """Messages, of which those made of parts (Gemini, GenAI conventions, AI SDK) are OpenAI-like ones now."""
    from traceprof.bodies import genai  # which reads its prompts with this module

    out: list[Any] = []
    for value in values:
        parts = value.get("parts") if isinstance(value, dict) and value.get("content") is None else None
        if not isinstance(parts, list):
            out.append(value)
        elif any(isinstance(part, dict) and isinstance(part.get("type"), str) for part in parts):
            out.extend(genai.of_parts([value]))
        else:
            out.extend(gemini.turns(value, speaker))
    return out


def absent(out: Request, beside: dict[str, Any]) -> Request:
    """A call whose prompt the log does not hold; parameters and model are kept."""
    out.content_level, out.content_state = "lengths", "absent"
    openai.read_opening(out, {k: v for k, v in beside.items() if k != "model" or isinstance(v, str)})
    limit = first_of(beside, ("max_completion_tokens", "max_tokens", "max_output_tokens"))
    out.max_output_tokens = count(limit, "max_tokens", out.quality)
    out.params = openai.params(beside)
    return out


def _unknown(out: Request, beside: dict[str, Any]) -> Request:
    out.quality.append("unknown_prompt_shape")
    return absent(out, beside)


# -- answer --------------------------------------------------------------------------------------------------


def read_answer(out: Request, given: Any, asked_in: ModuleType | None = None) -> None:
    """Fill output, finish reason, served model and what usage the output of a call holds."""
    value = bodies.decoded(given)
    if value in (None, "", [], {}):
        return
    if isinstance(given, str) and not isinstance(value, (dict, list)):
        value = given  # a text in quotes is what the model wrote
    if isinstance(value, list):
        _answer_of_list(out, value, given, asked_in)
    elif isinstance(value, dict):
        _answer_of_object(out, value, given, asked_in)
    elif isinstance(value, str):
        whole = bodies.answer(value)  # of a stream
        if whole is not None:
            bodies.read_response(out, whole, asked_in or openai)
        elif cut_mark(value) == "redacted":
            out.quality.append("output_redacted")
        else:
            out.output_json = dumps({"role": "assistant", "content": value})


def _answer_of_list(out: Request, values: list[Any], given: Any, asked_in: ModuleType | None) -> None:
    values = _whole(values, "assistant")
    items = [v for v in values if isinstance(v, dict)]
    if any("message" in v and "done" not in v for v in items):
        openai.read_response(out, {"choices": items})
    elif items and all(v.get("type") in (*_ITEMS, "message") and "stop_reason" not in v for v in items):
        responses.read_response(out, {"output": items})
    elif (whole := bodies.answer(values)) is not None:
        bodies.read_response(out, whole, asked_in or openai)
    else:
        said = [v for v in items if _is_message(v)]
        said = [v for v in said if langchain.message(v).get("role") == "assistant"]
        if not said:
            _told_or_unknown(out, given)
        elif len(said) == 1:
            _answer_of_message(out, said[0])
        else:
            out.output_json = dumps([langchain.message(v) for v in said])


def _answer_of_message(out: Request, value: dict[str, Any]) -> None:
    content = value.get("content")
    blocks = isinstance(value.get("role"), str) and isinstance(content, list) and "tool_calls" not in value
    if blocks and all(isinstance(b, dict) and b.get("type") in _BLOCKS for b in content or ()):
        anthropic.read_response(out, value)
    else:
        langchain.read_message(out, value)


def _is_message(value: dict[str, Any]) -> bool:
    return langchain.is_message(value) or isinstance(value.get("role"), str)


def _answer_of_object(
    out: Request, value: dict[str, Any], given: Any, asked_in: ModuleType | None, depth: int = 2
) -> None:
    dialect = bodies.of_response(value)
    if dialect is not None:
        bodies.read_response(out, value, asked_in or dialect)
    elif langchain.is_result(value):
        langchain.read_result(out, value)
    elif _is_message(value) or isinstance(value.get("kwargs"), dict):
        _answer_of_message(out, _whole([value], "assistant")[-1])
    else:
        for key in ("message", "output", "response", "messages"):
            inner = value.get(key)
            if isinstance(inner, dict) and depth:
                return _answer_of_object(out, inner, given, asked_in, depth - 1)
            if isinstance(inner, list) and any(isinstance(v, dict) for v in inner):
                return _answer_of_list(out, inner, given, asked_in)
            if isinstance(inner, str) and inner and len(value.keys() - {"usage_metadata"}) == 1:
                out.output_json = dumps({"role": "assistant", "content": inner})
                return None
        if not value.get("error"):
            _told_or_unknown(out, given)
    return None


def _told_or_unknown(out: Request, given: Any) -> None:
    """JSON that is no answer's shape: written as text, it is what the model wrote."""
    if isinstance(given, str):
        out.output_json = dumps({"role": "assistant", "content": given})
    else:
        out.quality.append("unknown_output_shape")


# -- times and outcome ---------------------------------------------------------------------------------------


def when(value: Any, what: str, flags: list[str]) -> int | None:
    """us since 1970 of a time that a request can do without; a zone that is not written is UTC, as platforms have it."""
    value = bodies.decoded(value)
    if value is None or value == "":
        return None
    try:
        return parse_time(value, what)[0]
    except BadRecord:
        flags.append(f"bad_{what}")
        return None


_CLASS = re.compile(
    r"^['\"\s]*([A-Za-z_][\w.]{0,100}?(?:Error|Exception|Timeout|Interrupt|Exit|Cancelled|Abort))\b", re.MULTILINE
)  # fmt: skip
_CODE = re.compile(r"(?:Error code|status[_ ]?code|HTTP)[:= ]{1,3}(\d{3})\b", re.IGNORECASE)
_STOPPED = ("CancelledError", "KeyboardInterrupt", "GeneratorExit", "AbortError", "TaskCancelled")


def settle(out: Request, error: Any, ended: bool) -> None:
    """Fill status, kind of error and HTTP status from an error's object, text or traceback; no more of it is kept."""
    cut_state(out)
    if not error:
        if out.status == "unknown":
            out.status = "ok" if ended else "incomplete"
        return
    value = bodies.decoded(error)
    if isinstance(value, dict):
        out.http_status = http_code(first_of(value, ("status_code", "status", "code"))) or out.http_status
        bodies.settle(out, value)
        return
    trace = str(value).startswith("Traceback")  # the error stands at its end, else at the beginning
    said = str(value)[-4000:] if trace else str(value)[:4000]
    found = _CLASS.findall(said)
    code = _CODE.search(said)
    out.http_status = http_code(code[1]) if code else out.http_status
    bodies.settle(out, "error")
    if found:
        out.error_type = found[-1 if trace else 0].rpartition(".")[2]
    if out.error_type in _STOPPED:
        out.status = "cancelled"


class Counts(NamedTuple):
    """Token counts as a platform writes them, in which the whole may leave out its parts."""

    input: Any
    output: Any
    read: Any = None  # part of the input: from a cache
    written: Any = None  # part of the input: to a cache
    thought: Any = None  # part of the output
    total: Any = None
    more_input: int = 0  # other parts: audio, images
    more_output: int = 0


def read_counts(out: Request, counts: Counts, apart: bool | None = None) -> None:
    """Fill token counts; `apart` says whether the input leaves out its parts, where the maker's rule is known.

    Else the total tells: given + made + parts shows that they do, given + made that they do not. Parts that are larger
    than the whole are never in it; smaller ones without a total are assumed to be, and the row says so.
    """
    flags = out.quality
    names = ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens", "total_tokens")  # fmt: skip
    given, made, read, written, thought, total = (
        count(value, name, flags) for value, name in zip(counts, names, strict=False)
    )
    if not any((given, made, read, written)):
        return  # 0 everywhere is how platforms say that they do not know
    cache = (read or 0) + (written or 0)
    parts = (cache + counts.more_input, (thought or 0) + counts.more_output)
    rule = (apart, False) if apart is not None else _left_out((given, made), parts, total)
    if rule is not None and cache > (given or 0):
        rule = (True, rule[1])  # whatever the total is the sum of
    if rule is None:
        rule = (cache > (given or 0), False)
        if cache and not rule[0]:
            flags.append("usage_rule_assumed")
    if rule[0] and given is not None and parts[0]:
        given = count(given + parts[0], "input_tokens", flags)
        flags.append("usage_excludes_cache_fixed")
    if rule[1] and made is not None:
        made = count(made + parts[1], "output_tokens", flags)
    if read is not None and read > (given or 0):
        read = None
        flags.append("bad_cached_tokens")
    out.input_tokens, out.output_tokens = given, made
    out.cached_input_tokens, out.cache_write_tokens, out.reasoning_tokens = read, written, thought
    if given is not None or made is not None:
        out.tokens_source = "usage"


def _left_out(
    whole: tuple[int | None, int | None], parts: tuple[int, int], total: int | None
) -> tuple[bool, bool] | None:
    """Whether input and output leave out their parts, as a total tells; None when it does not.

    >>> _left_out((156, 19), (1024, 0), 1199), _left_out((1180, 19), (1024, 0), 1199), _left_out((5, 5), (1, 0), 99)
    ((True, True), (False, False), None)
    """
    if total is None or whole == (None, None):
        return None
    said = (whole[0] or 0) + (whole[1] or 0)
    for apart in ((True, True), (False, False), (True, False), (False, True)):
        if said + sum(p for p, left in zip(parts, apart, strict=True) if left) == total:
            return apart
    return None


def session(out: Request, given: Any, trace: Any) -> None:
    """The session that the program named, else the trace, which groups the calls of one run."""
    out.trace_id = text(trace)
    if text(given):
        out.session_id, out.session_kind = text(given), "explicit"
    elif out.trace_id:
        out.session_id, out.session_kind = out.trace_id, "trace"
