"""FastChat logs, as Chatbot Arena writes them: one JSON line a chat turn or a vote, a file a day (`YYYY-MM-DD-conv.json`).

`start` and `finish` (s) enclose the model's answer; `state` holds the whole conversation, whose last message is that answer. Votes
are skipped, addresses are not kept. Source: lm-sys/FastChat 0e6d3e4, serve/gradio_web_server.py, conversation.py.
"""

from __future__ import annotations

from typing import Any

from traceprof.bodies import openai
from traceprof.formats.base import (
    BadRecord,
    Has,
    Request,
    Skip,
    attempt,
    count,
    dumps,
    first_of,
    messages,
    parse_time,
    text,
)

has = Has.ARRIVALS | Has.ENDS | Has.TEXT | Has.OUTPUTS | Has.SESSIONS
summary = "FastChat and Chatbot Arena conversation logs (JSONL)"


def detect(record: dict[str, Any]) -> bool:
    """A line of the web server: a time, what happened, and the state of the chat (of both chats of a battle)."""
    return {"tstamp", "type"} <= record.keys() and bool({"state", "states"} & record.keys())


def read(record: dict[str, Any]) -> Request | Skip:
    """One request a chat line; votes, and turns that were not answered, are skipped."""
    if record.get("type") != "chat":
        return Skip("not_a_generation")
    state = record.get("state")
    if not isinstance(state, dict):
        raise BadRecord("wrong_type" if "state" in record else "missing_field", "state is not an object")
    out = Request(session_id=text(state.get("conv_id")), model_requested=text(record.get("model")))
    out.session_kind = "explicit" if out.session_id else None
    _times(out, record)
    said = _said(state)
    if not said or said[-1]["role"] != "assistant":
        return Skip("no_model_turn")
    *prompt, answer = said
    if not prompt:
        return Skip("model_turn_without_prompt")
    out.messages_json = messages(prompt, out)
    if answer["content"] is None:
        out.status = "incomplete"
    else:
        out.output_json, out.status = dumps(answer), "ok"
    out.turn_index = sum(m["role"] == "assistant" for m in prompt) or 0
    asked = record.get("gen_params")
    if isinstance(asked, dict):
        out.params = openai.params(asked)
        out.max_output_tokens = count(asked.get("max_new_tokens"), "max_new_tokens", out.quality)
    return out


def _times(out: Request, record: dict[str, Any]) -> None:
    """Start and finish; of a line without a start only when it was written is known."""
    stamp = first_of(record, ("start", "tstamp"))
    if stamp is None:
        return
    out.arrival_us = parse_time(stamp, "start")[0]
    out.clock, out.arrival_quality = "absolute", "measured" if record.get("start") is not None else "log_time"
    if record.get("finish") is not None and out.arrival_quality == "measured":
        end = attempt(parse_time, record["finish"], "finish")
        if isinstance(end, BadRecord):
            out.quality.append("bad_finish")
        else:
            out.end_us = end[0]


def _said(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The chat as OpenAI-like messages, the system prompt first."""
    turns = state.get("messages")
    if not isinstance(turns, list):
        raise BadRecord("missing_field", "no list under state.messages")
    roles = state.get("roles")
    model = roles[1] if isinstance(roles, list) and len(roles) > 1 else "ASSISTANT"
    system = first_of(state, ("system_message", "system"))
    out = [{"role": "system", "content": system}] if isinstance(system, str) and system else []
    for i, turn in enumerate(turns):
        if not isinstance(turn, list) or len(turn) < 2 or not isinstance(turn[0], str):
            raise BadRecord("wrong_type", f"message {i} is not a pair of a role and a text")
        out.append({"role": "assistant" if turn[0] == model else "user", "content": _content(turn[1])})
    return out


def _content(said: Any) -> Any:
    """A text; a text with its images (vision chats) as parts."""
    if not isinstance(said, list):
        return said
    shown = said[1] if len(said) > 1 and isinstance(said[1], list) else []
    parts: list[Any] = [{"type": "text", "text": said[0]}] if said and isinstance(said[0], str) else []
    return parts + [{"type": "image_url", "image_url": {"url": image}} for image in shown]
