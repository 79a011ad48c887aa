"""W&B Weave calls: rows of the trace server's calls query (JSONL, JSON), of which those of model clients' methods are read.

A call of LiteLLM or LangChain may have that of the provider's client below it, and then repeats it: such rows are held on disk
until the log's end (see `held`), and skipped when a client's call names them as its parent. Usage is taken from the answer, or from
`summary.usage` of such a call, never from a parent's. Large values may be references (`weave:///...`), which are not followed.
Source: wandb/weave 00439504, weave/integrations 0038e79d.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

from traceprof import bodies
from traceprof.bodies import anthropic, langchain, openai, responses, spans
from traceprof.formats.base import (
    SESSION_KEYS,
    BadRecord,
    Has,
    Request,
    Result,
    Skip,
    attempt,
    first_of,
    leftovers,
    parse_time,
    text,
)
from traceprof.formats.held import Held, key_of

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.TEXT | Has.OUTPUTS | Has.SESSIONS
summary = "W&B Weave calls of model clients (JSONL, JSON)"

_CLIENTS = re.compile(
    r"(?:^|\.)(?:chat\.completions\.(?:create|parse|stream)|completions\.create|responses\.(?:create|parse)|(?:async)?messages\.(?:create|stream)"
    r"|chat\.(?:complete|stream)(?:_async)?|chat_completion|completions_create|(?:async)?models\.generate_content(?:_stream)?"
    r"|bedrockruntime\.converse(?:_stream)?)$",
    re.IGNORECASE,
)
_WRAPPERS = re.compile(
    r"^(?:litellm\.a?(?:text_)?completion|langchain\.(?:Llm|ChatModel)\..+)$", re.IGNORECASE
)
_OTHERS = {"embedding": re.compile("embed", re.IGNORECASE), "image": re.compile(r"\bimages?\.", re.IGNORECASE), "moderation": re.compile("moderation", re.IGNORECASE)}  # fmt: skip
_REFERENCE = "weave:///"


def detect(record: dict[str, Any]) -> bool:
    """A call: its op, its trace and its start."""
    return {"op_name", "trace_id", "started_at", "inputs"} <= record.keys()


def read_all(records: Iterable[Any]) -> Iterator[tuple[Any, Result]]:
    """All calls of one import; those that may repeat the client's call below them come last."""
    parents: set[int] = set()  # 64 bits of each id that a client's call names as its parent
    with Held() as held:
        for record in records:
            value = record.value
            op = _op(value.get("op_name"))
            if op is None:
                yield record, BadRecord("missing_field", "no op_name")
            elif value.get("deleted_at"):
                yield record, Skip("deleted")
            elif _CLIENTS.search(op):
                parent = text(value.get("parent_id"))
                if parent is not None:
                    parents.add(key_of(parent))
                yield record, attempt(_read, value, op)
            elif _WRAPPERS.match(op):
                done = held.keep(record, None)
                if done is not None:
                    yield done
            else:
                kind = next((k for k, pattern in _OTHERS.items() if pattern.search(op)), "not_a_generation")
                yield record, Skip(kind)
        for record in held:
            name = text(record.value.get("id"))
            if name is not None and key_of(name) in parents:
                yield record, Skip("repeats_its_child")
            else:
                yield record, attempt(_read, record.value, str(_op(record.value["op_name"])))


def _op(name: Any) -> str | None:
    """`openai.chat.completions.create` of `weave:///team/project/op/openai.chat.completions.create:digest`.

    >>> _op("weave:///team/project/op/litellm.completion:ab12"), _op("litellm.completion"), _op(7)
    ('litellm.completion', 'litellm.completion', None)
    """
    if not isinstance(name, str) or not name:
        return None
    return name.rpartition("/")[2].partition(":")[0] if name.startswith("weave:") else name


def _read(value: dict[str, Any], op: str) -> spans.Rows:
    out = Request(clock="absolute", arrival_quality="measured", request_id=text(value.get("id")))
    started = value.get("started_at")
    if started in (None, ""):
        raise BadRecord("missing_field", "no started_at")
    out.arrival_us = parse_time(started, "started_at")[0]
    out.end_us = spans.when(value.get("ended_at"), "ended_at", out.quality)
    about = bodies.as_object(value.get("attributes")) or {}
    spans.session(out, text(value.get("thread_id")) or first_of(about, SESSION_KEYS), value.get("trace_id"))
    out.parent_request_id = text(value.get("parent_id"))
    out.user_id = text(value.get("wb_user_id"))
    out.tenant_id = text(value.get("project_id"))
    out.provider = None if _WRAPPERS.match(op) or "." not in op else op.partition(".")[0]
    given = bodies.as_object(value.get("inputs")) or {}
    rows = _prompt(out, given)
    if isinstance(rows, Request):
        answer = value.get("output")
        if isinstance(answer, str) and answer.startswith(_REFERENCE):
            rows.quality.append("output_is_reference")
        else:
            spans.read_answer(out, answer, _dialect(op))
        if out.input_tokens is None and out.output_tokens is None:
            _usage(out, value.get("summary"), op)
    ended = out.end_us is not None
    for row in rows if isinstance(rows, list) else [rows]:
        if isinstance(row, Request):
            spans.settle(row, value.get("exception"), ended)
            row.extra_json = leftovers({"op": op, **value}, ("op", "display_name"))
    return rows


def _prompt(out: Request, given: dict[str, Any]) -> spans.Rows:
    """The client's arguments are the body; what is a reference is not in the log."""
    refs = {k for k, v in given.items() if isinstance(v, str) and v.startswith(_REFERENCE) and k != "self"}
    body = {k: v for k, v in given.items() if k not in refs and k != "self"}
    beside = spans.asked(body)
    if refs & {"messages", "prompt", "input"}:
        out.quality.append("prompt_is_reference")
        return spans.absent(out, beside)
    rows = spans.read_prompt(out, {**body, **beside}, {})
    if refs & {"tools", "functions", "system"} and isinstance(rows, Request):
        rows.quality.append("prompt_part_is_reference")
        rows.content_state = "truncated"
    return rows


def _dialect(op: str) -> ModuleType:
    word = op.lower()
    return anthropic if "messages." in word else responses if "responses." in word else openai


def _usage(out: Request, summary: Any, op: str) -> None:
    """`summary.usage` of a call of one model."""
    usage = (bodies.as_object(summary) or {}).get("usage")
    if not isinstance(usage, dict) or len(usage) != 1:
        return
    model, counts = next(iter(usage.items()))
    if not isinstance(counts, dict):
        return
    out.model_served = out.model_served or model or None
    if "input_tokens" not in counts:
        openai.read_usage(out, counts)
    elif "input_token_details" in counts:
        langchain.read_usage(out, counts)
    else:
        (anthropic if _dialect(op) is anthropic else responses).read_usage(out, counts)
