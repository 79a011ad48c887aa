"""Codex sessions: `~/.codex/sessions/**/rollout-*.jsonl`, items of a Responses API conversation and reports of usage.

A model call ends with a `token_count` whose totals changed; what the model wrote since the last one is its answer, all before
it the prompt. One that ended without a report (an interrupted one, or any of old versions) ends where new input follows.
The arrival is not logged: the last input before the answer is a lower bound; the end is the report. Tools are absent and
reasoning is encrypted, so the text is not the whole prompt. Memory holds one session's conversation at a time.
Source: uw-syfi/TraceLab 0b8a262 (a real session), openai/codex.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from traceprof.bodies import openai, responses
from traceprof.formats.base import (
    BadRecord,
    Has,
    Request,
    Result,
    Skip,
    as_bytes,
    attempt,
    cut_state,
    dumps,
    parse_time,
    text,
)

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.TEXT | Has.OUTPUTS | Has.SESSIONS
summary = "Codex sessions, rollout-*.jsonl (JSONL)"

_TYPES = ("session_meta", "response_item", "event_msg", "turn_context", "compacted")
_WRITTEN = ("reasoning", "function_call", "custom_tool_call", "local_shell_call", "web_search_call")
_OTHER = Skip("other_record")
_ITEM = Skip("joined_to_its_request")


def detect(record: dict[str, Any]) -> bool:
    """A typed payload with the time it was written."""
    return takes(record) and record["type"] in _TYPES


def takes(record: dict[str, Any]) -> bool:
    """A payload of any type: new versions add some."""
    return {"timestamp", "type", "payload"} <= record.keys() and isinstance(record["payload"], dict)


def read_all(records: Iterable[Any]) -> Iterator[tuple[Any, Result]]:
    """All records of all sessions: yields (record, what it became), the request with the report that ends it."""
    session = _Session()
    copied: set[bytes] = (
        set()
    )  # calls, so that a session that was forked from another does not repeat its calls
    file = None
    for record in records:
        value = record.value
        at = attempt(lambda v: parse_time(v["timestamp"], "timestamp")[0], value)
        if isinstance(at, BadRecord):
            yield record, at
            continue
        if value["type"] == "session_meta" and (record.file != file or session.history or session.written):
            yield from session.end("unknown", copied)
            session = _Session()
        file = record.file
        yield from session.take(record, value["type"], value["payload"], at, copied)
    yield from session.end("unknown", copied)


class _Item(NamedTuple):
    """An item of the conversation, and the messages that it is: as JSON without the brackets of a list, and their media."""

    item: dict[str, Any]
    body: bytes
    media: list[dict[str, Any]]


class _Session:
    """A conversation so far, and the call under way."""

    def __init__(self) -> None:
        self.id: str | None = None
        self.forked = False
        self.provider: str | None = None
        self.app: str | None = None
        self.instructions: str | None = None
        self.model: str | None = None
        self.effort: str | None = None
        self.turn: str | None = None
        self.calls = 0
        self.totals: Any = None
        self.history: list[_Item] = []
        self.heard: int | None = None  # us; when the last input was written
        self.asked: int | None = None  # `heard` when the call under way began to answer
        self.written: list[_Item] = []  # its answer
        self.since: list[_Item] = []  # input that came after it
        self.last: tuple[Any, int] | None = None  # the record of its last item, held until the call ends; us

    def take(
        self, record: Any, kind: str, payload: dict[str, Any], at: int, copied: set[bytes]
    ) -> Iterator[tuple[Any, Result]]:
        """What a record becomes, and the one that was held."""
        if kind == "response_item":
            yield from self._item(record, payload, at, copied)
            return
        if kind == "event_msg" and payload.get("type") == "token_count":
            yield from self._report(record, payload.get("info"), at, copied)
            return
        if kind == "event_msg" and payload.get("type") == "turn_aborted":
            yield from self.end("cancelled", copied)
        elif kind == "event_msg" and payload.get("type") == "user_message" and not self.written:
            self.heard = at
        elif kind == "session_meta" and self.id is None:
            self._begin(payload)
        elif kind == "turn_context":
            self.model = text(payload.get("model")) or self.model
            self.effort = text(payload.get("effort"))
            self.turn = text(payload.get("turn_id"))
        elif kind == "compacted":
            yield from self.end("unknown", copied)
            self._compact(payload)
        yield record, _OTHER

    def _begin(self, meta: dict[str, Any]) -> None:
        self.id = text(meta.get("id"))
        self.forked = meta.get("forked_from_id") is not None
        self.provider = text(meta.get("model_provider"))
        version = text(meta.get("cli_version"))
        self.app = "codex" + (f"/{version}" if version else "")
        base = meta.get("base_instructions")
        self.instructions = text(base.get("text")) if isinstance(base, dict) else None

    def _compact(self, payload: dict[str, Any]) -> None:
        """The conversation goes on from what replaces it; of old versions only the summary is known."""
        kept = payload.get("replacement_history")
        if not isinstance(kept, list):
            kept = [{"type": "message", "role": "user", "content": text(payload.get("message")) or ""}]
        whole = (attempt(_checked, item) for item in kept)
        self.history = [item for item in whole if isinstance(item, _Item)]

    def _item(
        self, record: Any, payload: dict[str, Any], at: int, copied: set[bytes]
    ) -> Iterator[tuple[Any, Result]]:
        item = attempt(_checked, payload)
        if not isinstance(item, _Item):
            yield record, item if isinstance(item, BadRecord) else _OTHER
            return
        if not _is_written(item.item):
            self.heard = at
            (self.since if self.written else self.history).append(item)
            yield record, _ITEM
            return
        if self.since:
            yield from self.end("unknown", copied)
        if not self.written:
            self.asked = self.heard
        if self.last is not None:
            yield self.last[0], _ITEM
        self.written.append(item)
        self.last = record, at

    def _report(self, record: Any, info: Any, at: int, copied: set[bytes]) -> Iterator[tuple[Any, Result]]:
        usage = info.get("last_token_usage") if isinstance(info, dict) else None
        totals = info.get("total_token_usage") if isinstance(info, dict) else None
        if not isinstance(usage, dict) or (totals is not None and totals == self.totals):
            yield record, Skip("repeated_usage" if isinstance(usage, dict) else "other_record")
            return
        self.totals = totals
        if self.last is not None:
            yield self.last[0], _ITEM
            self.last = None
        yield record, self._call(at, "ok", usage, copied)

    def end(self, status: str, copied: set[bytes]) -> Iterator[tuple[Any, Result]]:
        """The call under way, if there is one, ended without a report."""
        if self.last is not None:
            (record, at), self.last = self.last, None
            yield record, self._call(at, status, None, copied)

    def _call(self, at: int, status: str, usage: dict[str, Any] | None, copied: set[bytes]) -> Result:
        if not self.written:
            self.asked = self.heard
        out = attempt(self._request, at, status, usage)
        key = hashlib.blake2b(dumps([[w.item for w in self.written], self.totals]), digest_size=8).digest()
        again = self.forked and bool(self.written) and key in copied
        copied.add(key)
        self.history += self.written + self.since
        self.written, self.since = [], []
        if again:
            return Skip("copied_from_another_session")
        self.calls += 1
        result: Result = out
        return result

    def _request(self, at: int, status: str, usage: dict[str, Any] | None) -> Request:
        out = Request(clock="absolute", arrival_us=self.asked, end_us=at)
        if self.asked is not None:
            out.arrival_quality = "derived"
            out.quality.append("arrival_is_last_input")
        asked: dict[str, Any] = {"model": self.model, "input": [], "reasoning_effort": self.effort}
        responses.read_request(out, asked)
        bodies = [item.body for item in self.history if item.body]
        if self.instructions:
            bodies.insert(0, dumps({"role": "system", "content": self.instructions}))
        out.messages_json = b"[" + b",".join(bodies) + b"]"
        out.media = [one for item in self.history for one in item.media] or None
        responses.read_response(out, {"output": [written.item for written in self.written]})
        out.status, out.content_state = status, "partial_history"
        out.app, out.provider, out.trace_id = self.app, self.provider, self.turn
        if self.id is not None:
            out.session_id, out.session_kind = self.id, "explicit"
            out.turn_index, out.request_id = self.calls, f"{self.id}/{self.calls}"
            out.parent_request_id = f"{self.id}/{self.calls - 1}" if self.calls else None
        if usage is not None:
            openai.read_usage(
                out,
                {
                    "prompt_tokens": usage.get("input_tokens"),
                    "completion_tokens": usage.get("output_tokens"),
                    "prompt_tokens_details": {"cached_tokens": usage.get("cached_input_tokens")},
                    "completion_tokens_details": {"reasoning_tokens": usage.get("reasoning_output_tokens")},
                },
            )
        return cut_state(out)


def _is_written(item: dict[str, Any]) -> bool:
    """Whether the model wrote an item."""
    return item["type"] in _WRITTEN or (item["type"] == "message" and item.get("role") == "assistant")


def _checked(item: Any) -> _Item | None:
    """An item, as the Responses API has it, tools of other kinds as functions; None for what is no part of a prompt."""
    if not isinstance(item, dict):
        raise BadRecord("wrong_type", f"an item is a {type(item).__name__}, not an object")
    kind = item.get("type")
    if kind in ("function_call_output", "custom_tool_call_output"):
        said = item.get("output")
        said = said.get("content") if isinstance(said, dict) else said
        item = {"type": "function_call_output", "call_id": item.get("call_id"), "output": said}
    elif kind == "custom_tool_call":
        call = {"name": item.get("name"), "arguments": item.get("input"), "call_id": item.get("call_id")}
        item = {"type": "function_call", **call}
    elif kind == "local_shell_call":
        written = dumps(item.get("action")).decode()
        item = {
            "type": "function_call",
            "name": "shell",
            "arguments": written,
            "call_id": item.get("call_id"),
        }
    elif kind not in ("message", *_WRITTEN):
        return None
    out = Request()
    responses.read_request(out, {"input": [item]})
    return _Item(item, as_bytes(out.messages_json or b"[]")[1:-1], out.media or [])
