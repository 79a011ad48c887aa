"""vLLM's request log: text lines of every generation, joined by request id.

Up to 0.11.0 the prompt stands in the INFO line; from 0.11.1 on at DEBUG only, as text and token ids, and (0.3x) the body of the
request as JSON, under an id of its own when the client sent one: then bodies are joined in the order of the log. Answers are
there with --enable-log-outputs, for text completions since 0.33. They name the call, of which each prompt (`cmpl-ID-0`) and each
turn of a Responses API call with the server's own tools (`resp_ID_0`) is a request. Times have 1 s, no zone and no year. An access
log names no request: only refusals are taken from it. Calls of /tokenize stand in the log as requests do, and are none. Source:
vllm-project/vllm 63c2b7ab, vllm/entrypoints/logger.py; 0.33.0, vllm/entrypoints/serve/utils/request_logger.py; captures of 0.32.0.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from traceprof import bodies
from traceprof.bodies import literals, openai
from traceprof.formats.base import BadRecord, Has, Request, Result, Skip, attempt, count, dumps, finish
from traceprof.formats.linetimes import LineClock

lines = True
has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.TEXT | Has.TOKENS | Has.OUTPUTS
summary = "vLLM's request log; up to 0.11.0 prompts stand at INFO, since then at DEBUG (text)"

HELD_BYTES = 32 << 20  # log text of requests without an end; beyond it the oldest are given out as they are
_WAIT_US = 600_000_000  # at most, between a body and the engine's first line of its request
_HEAD = 300  # characters within which a line says what it is
_MARK = re.compile(
    r"(?:DEBUG|INFO|WARNING|ERROR) \d\d-\d\d \d\d:\d\d:\d\d \[?[\w./-]+:\d+\] |Received request \S+: (?:prompt|params): "
)
_SAID = re.compile(
    r"(Received|Aborted|Finished|Added) request ([^\s:]+?)\.?(?=:? |$)|(Generated) response ([^\s:]+)"
    r"|(Request) (\S+)(?= details: | JSON body: | aborted\.| failed)"
)
_PROCESS = re.compile(r"\((\w+ pid=\d+)\)")
_FIELD = re.compile(r"[\s,]*([a-z_]+(?: shape)?): ")
_ANSWER = re.compile(r"( \(streaming (?:delta|complete)\))?(?: details)?: ")
_ACCESS = re.compile(r'"POST (\S+) HTTP/[\d.]+" ([45]\d\d)')
_LIMIT = re.compile(r"\bmax_log_len'?[=:] ?(\d+)")
_ENGINE = re.compile(r"LLM engine \(.*?\bmodel='([^']+)'(?:.*?\bserved_model_name='?([^,' ]+))?")
# all that some versions say of a stream at its end
_COUNTED = re.compile(r"<streaming_complete: (\d{1,9}) tokens>")
_NO_ID = "N/A"  # the id of a body whose call has none
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def detect(record: Any) -> bool:
    """A line that begins as vLLM's do, or tells of a request."""
    return isinstance(record, str) and _MARK.search(record, 0, _HEAD) is not None


def read_all(records: Iterable[Any]) -> Iterator[tuple[Any, Result]]:
    """All lines of all files; a request is its first line, given out when its end is seen, and its other lines are joined to it."""
    log = _Log()
    for record in records:
        line = record.value
        begins = line[:_HEAD] if isinstance(line, str) else ""
        if "equest " in begins or "response " in begins:
            found = attempt(log.take, record)
            yield from found if isinstance(found, list) else [(record, found)]
            while log.held > HELD_BYTES:
                yield log.oldest()
        elif '" 4' in begins or '" 5' in begins:
            yield from log.refused(record)
        else:
            if "max_log_len" in line or "LLM engine (" in begins:
                log.started(record)
            yield record, Skip("other_line")
    yield from log.rest()


@dataclass(slots=True, eq=False)
class _Open:
    """A request whose end was not seen yet."""

    record: Any  # its first line
    request: Request
    body: dict[str, Any] | None = None
    wanted: int = 0  # answers to come, once its parameters are known
    pieces: list[str] = field(default_factory=list)  # of a streamed answer
    piece_ids: list[int] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    answer_ids: list[list[int]] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)  # tokens of answers of which nothing else is told
    size: int = 0  # bytes of log text


class _Log:
    """What is known between the lines of a log."""

    def __init__(self) -> None:
        self.held = 0  # bytes of log text of what is open
        self._open: dict[str, _Open] = {}
        self._calls: dict[str, list[str]] = {}  # open requests whose answers may be under the name of a call
        self._bodies: dict[str, deque[_Open]] = {}  # by process
        self._several: tuple[str | None, dict[str, Any]] = (
            None,
            {},
        )  # id and body of a call with several prompts
        self._limit: int | None = None  # of --max-log-len, where a line tells it
        self._model: str | None = None
        self._clocks: dict[str, LineClock] = {}
        self._answers = False  # whether any answer was logged
        self._tokenized = ""  # the call of /tokenize that was seen last

    def take(self, record: Any) -> list[tuple[Any, Result]]:
        """What a line of a request settles."""
        line = _ANSI.sub("", record.value) if "\x1b" in record.value else record.value
        found = _SAID.search(line, 0, _HEAD)
        if found is None:
            return [(record, Skip("other_line"))]
        kind, name = (word for word in found.groups() if word is not None)
        head, rest = line[: found.start()], line[found.end() :]
        if name.startswith("tokenize-"):
            return [*self._counted_only(_process(head), name), (record, Skip("tokenization"))]
        if kind == "Request" and rest.startswith(" JSON body: "):
            return self._body(record, head, name, rest[12:])
        if kind == "Received" or (kind == "Request" and rest.startswith(" details: ")):
            return self._asked(record, head, name, _fields(rest[rest.find(": ") + 2 :]))
        if kind == "Generated" and name in self._calls:
            name = self._of_call(name, rest)
        out = self._open.get(name)
        if kind == "Added" or out is None:
            known = out is not None or name.rpartition("-")[0] in self._open
            return [(record, Skip("joined_to_its_request" if known else "other_line"))]
        joined: tuple[Any, Result] = record, Skip("joined_to_its_request")
        at = self._clock(record).read(head)
        q = out.request
        if kind == "Generated":
            self._answers = True
            if q.first_token_us is None and "delta" in rest[:40] and at.resolution_us is None:
                q.first_token_us = at.us
            if not self._answered(out, rest):
                return [joined]
        elif kind == "Finished":
            q.status = "ok"
        elif kind == "Aborted" or rest.startswith(" aborted"):
            q.status, q.finish_reason = "cancelled", "abort"
        else:
            q.status = "rejected" if "(bad request)" in rest[:40] else "error"
            q.error_type = "bad_request" if q.status == "rejected" else "error"
        q.end_us = at.us
        return [joined, self._close(name)]

    def _asked(self, record: Any, head: str, name: str, said: dict[str, Any]) -> list[tuple[Any, Result]]:
        """A line with a request's prompt, its parameters, or both."""
        settled: list[tuple[Any, Result]] = []
        out = self._open.get(name)
        if out is not None and out.wanted:  # the id of an earlier request again
            settled.append(self._close(name))
            out = None
        if out is None:
            kind = "text" if name.startswith("cmpl-") else "responses" if name.startswith("resp_") else "chat"
            out = _Open(record, Request(operation=kind, request_id=name), size=len(record.raw))
            self._open[name] = out
            if kind != "chat":
                self._calls.setdefault(_call(name), []).append(name)
            self.held += len(record.raw)
            self._clock(record).arrive(out.request, head)
            out.request.model_served = self._model
        else:
            settled.append((record, Skip("joined_to_its_request")))
        q = out.request
        self._prompt(q, said.get("prompt"), said.get("prompt_token_ids"))
        if out.body is None:
            settled.extend(self._find_body(out, name, _process(head)))
        given = said.get("params")
        if given == "pooling":
            return [*settled, self._close(name, Skip("embedding"))]
        if isinstance(given, dict):
            n = given.get("n")
            out.wanted = n if type(n) is int and 0 < n < 10_000 else 1
            q.params = {**(q.params or {}), **(openai.params(given) or {})} or None
            if out.body is None:
                q.max_output_tokens = count(given.get("max_tokens"), "max_tokens", q.quality)
        lora = said.get("lora_request")
        if q.model_requested is None and isinstance(lora, dict) and isinstance(lora.get("lora_name"), str):
            q.model_requested = lora["lora_name"]
        return settled

    def _prompt(self, q: Request, prompt: Any, ids: Any) -> None:
        """Prompt and ids as far as they are whole: --max-log-len cuts both at one length, and leaves no mark."""
        said = prompt if isinstance(prompt, str) and prompt else None
        tokens = ids if openai.is_ids(ids) and ids else None
        if said is None and tokens is None:
            return
        limit = self._limit
        if limit is None and said and tokens and len(said) == len(tokens) >= 16:
            limit = len(said)
        cut = said is not None and len(said) == limit
        if tokens is not None and len(tokens) == limit:
            tokens, cut = None, True
        elif cut and tokens is not None:  # only the text was too long
            said, cut = None, False
            q.quality.append("prompt_text_truncated")
        q.prompt_text, q.input_ids = said, tokens
        q.content_state = "truncated" if cut else "complete"
        if tokens is not None:
            q.input_tokens, q.tokens_source = len(tokens), "counted"

    def _body(self, record: Any, head: str, name: str, text: str) -> list[tuple[Any, Result]]:
        """A line with the body of a request, which waits for the lines under the request's own id."""
        try:
            body = orjson.loads(text)
        except orjson.JSONDecodeError:
            self._limit = self._limit or len(text)
            raise BadRecord("truncated_json", "the body of a request is cut off") from None
        if not isinstance(body, dict) or bodies.of_request(body) is None:
            return [(record, Skip(bodies.other_kind(body) or "not_a_generation"))]
        out = _Open(record, Request(request_id=name), body)
        self._clock(record).arrive(out.request, head)
        self.held += len(record.raw)
        waiting = self._bodies.setdefault(_process(head), deque())
        waiting.append(out)
        since = (out.request.arrival_us or 0) - _WAIT_US
        stale = []  # no request followed: no later one has to look at them
        while (waiting[0].request.arrival_us or 0) < since:
            stale.append(_alone(waiting.popleft()))
            self.held -= len(stale[-1][0].raw)
        return stale

    def _find_body(self, out: _Open, name: str, process: str) -> list[tuple[Any, Result]]:
        """Join the body that was logged for a request: the one of its id, else the first of its process that fits."""
        call = _call(name)  # several prompts of one call: cmpl-ID-0, cmpl-ID-1
        if call == self._several[0]:
            _fill(out, self._several[1])
            return []
        waiting = self._bodies.get(process) or deque()
        names = f"{name} -{call} {call} "
        kept = next((b for b in waiting if f"-{b.request.request_id} " in names), None)
        if kept is None:
            kept = next((b for b in waiting if _fits(b, out.request)), None)
            if kept is None:
                return []
            out.request.quality.append("joined_by_order")
        waiting.remove(kept)
        self.held -= len(kept.record.raw)
        assert kept.body is not None
        if isinstance(kept.body.get("prompt"), list):
            self._several = call, kept.body
        if kept.request.arrival_us is not None:
            out.request.arrival_us = kept.request.arrival_us
        _fill(out, kept.body)
        return [(kept.record, Skip("joined_to_its_request"))]

    def _counted_only(self, process: str, name: str) -> list[tuple[Any, Result]]:
        """The body of a call of /tokenize, which has no id and is logged right before the call: the first line takes it."""
        waiting = self._bodies.get(process)
        if name == self._tokenized or not waiting or waiting[-1].request.request_id != _NO_ID:
            return []
        self._tokenized = name
        out = waiting.pop()
        self.held -= len(out.record.raw)
        return [(out.record, Skip("tokenization"))]

    def refused(self, record: Any) -> list[tuple[Any, Result]]:
        """A refusal in the access log: that of the oldest body of its route that no engine has seen."""
        found = _ACCESS.search(record.value)
        for waiting in self._bodies.values() if found is not None else ():
            assert found is not None
            out = next((b for b in waiting if found[1].endswith(_route(b.body or {}))), None)
            if out is not None:
                waiting.remove(out)
                self.held -= len(out.record.raw)
                out.request.http_status = int(found[2])
                out.request.status = "rejected" if found[2] < "500" else "error"
                out.request.quality.append("joined_by_order")
                return [_alone(out), (record, Skip("joined_to_its_request"))]
        return [(record, Skip("other_line"))]

    def _answered(self, out: _Open, rest: str) -> bool:
        """A line with an answer, or a piece of a streamed one; whether it is the last of the request."""
        q = out.request
        found = _ANSWER.match(rest)
        if found is None:
            return False
        said = _fields(rest[found.end() :])
        if q.stream is None:
            q.stream = found[1] is not None
        delta = found[1] == " (streaming delta)"
        ids, words = said.get("output_token_ids"), said.get("output")
        if openai.is_ids(ids) and ids and delta:
            out.piece_ids.extend(ids)
        elif openai.is_ids(ids) and ids:
            out.answer_ids.append(ids)
        out.size, self.held = out.size + len(rest), self.held + len(rest)
        if not isinstance(words, str):
            return False
        reason = said.get("finish_reason")
        if isinstance(reason, str) and reason != "streaming_complete":
            q.finish_reason = q.finish_reason or finish(reason)
        counted = _COUNTED.fullmatch(words) if found[1] == " (streaming complete)" else None
        if counted is not None:
            out.counts.append(int(counted[1]))
        else:
            (out.pieces if delta else out.answers).append(words)
        if delta or len(out.answers) + len(out.counts) < out.wanted:
            return False
        q.status = {"abort": "cancelled", "error": "error"}.get(str(reason), "ok")
        if any(len(one) == self._limit for one in (*out.answers, *out.answer_ids)):
            q.quality.append("output_truncated")
        return True

    def _close(self, name: str, instead: Skip | None = None) -> tuple[Any, Result]:
        """A request as it stands, or what it is instead."""
        out = self._open.pop(name)
        self.held -= out.size
        if out.request.operation != "chat":
            mine = self._calls[_call(name)]
            mine.remove(name)
            if not mine:
                del self._calls[_call(name)]
        return out.record, instead or _finished(out)

    def _of_call(self, call: str, rest: str) -> str:
        """The request that an answer under the name of its call is of: whole ones come in the order of the prompts, of the
        Responses API the last turn's only; a piece of a stream, which names no prompt, is nobody's where there are several.
        """
        mine = self._calls[call]
        if call.startswith("resp_"):
            return mine[-1]
        return call if len(mine) > 1 and rest.startswith(" (streaming delta)") else mine[0]

    def oldest(self) -> tuple[Any, Result]:
        """The request, or the body, that has been open for longest."""
        for waiting in self._bodies.values():
            if len(waiting) > len(self._open):
                out = waiting.popleft()
                self.held -= len(out.record.raw)
                return _alone(out)
        return self._close(next(iter(self._open)))

    def rest(self) -> Iterator[tuple[Any, Result]]:
        """What is open at the end of the log: cut off, where answers are logged."""
        for waiting in self._bodies.values():
            yield from map(_alone, waiting)
        for name, out in list(self._open.items()):
            if out.pieces or (self._answers and out.request.operation == "chat"):
                out.request.status = "incomplete"
            yield self._close(name)

    def _clock(self, record: Any) -> LineClock:
        return self._clocks.setdefault(record.file, LineClock())

    def started(self, record: Any) -> None:
        """Model and --max-log-len, of the lines that a server begins with."""
        limit, model = _LIMIT.search(record.value), _ENGINE.search(record.value)
        if limit is not None:
            self._limit = int(limit[1])
        if model is not None:
            self._model = model[2] or model[1]


def _fields(rest: str) -> dict[str, Any]:
    """`name: value, name: value` of a line; raises BadRecord when prompt, parameters or output are no Python values."""
    out: dict[str, Any] = {}
    at = 0
    while (found := _FIELD.match(rest, at)) is not None:
        name, at = found[1], found.end()
        if name in ("sampling_params", "params_list"):
            name = "params"
        if name == "params" and rest.startswith("PoolingParams", at):
            return {**out, "params": "pooling"}
        try:
            out[name], at = literals.value(rest, at)
        except literals.BadLiteral as bad:
            if name in ("prompt", "params", "prompt_token_ids", "output"):
                raise BadRecord("invalid_literal", f"{name} is no Python value: {bad}") from None
            break
    return out


def _call(name: str) -> str:
    """The call that a request is of: cmpl-ID of cmpl-ID-0, resp_ID of resp_ID_0; else the request itself."""
    call, _, place = name.rpartition("_" if name.startswith("resp_") else "-")
    return call if place.isdecimal() and len(place) < 6 and call != "resp" else name


def _process(head: str) -> str:
    found = _PROCESS.search(head)
    return found[1] if found else ""


def _route(body: dict[str, Any]) -> str:
    return (
        "/chat/completions" if "messages" in body else "/responses" if "input" in body else "/v1/completions"
    )


def _fits(waiting: _Open, q: Request) -> bool:
    """Whether a body can be that of a request: shortly before it, of its kind, its last words in the prompt."""
    body = waiting.body or {}
    if not 0 <= (q.arrival_us or 0) - (waiting.request.arrival_us or 0) <= _WAIT_US:
        return False
    if ("prompt" in body) != (q.operation == "text"):
        return False
    said = body.get("messages", body.get("input", body.get("prompt")))
    last = said[-1] if isinstance(said, list) and said else said
    last = last.get("content") if isinstance(last, dict) else last
    if q.prompt_text is None or q.content_state != "complete" or not isinstance(last, str):
        return True
    return last.strip() in q.prompt_text


def _in_body(body: dict[str, Any]) -> Request:
    """What a body says."""
    out = Request()
    dialect = bodies.of_request(body)
    assert dialect is not None
    dialect.read_request(out, body)
    return out


_OF_BODY = ("messages_json", "tools_json", "media", "model_requested", "user_id", "session_id", "session_kind", "cache_salt",
            "stream", "parent_request_id", "max_output_tokens", "params")  # fmt: skip


def _fill(out: _Open, body: dict[str, Any]) -> None:
    """Give a request what its body says and the engine's lines do not."""
    out.body = body
    whole = attempt(_in_body, body)
    if not isinstance(whole, Request):
        return
    for name in _OF_BODY:
        if getattr(whole, name) is not None:
            setattr(out.request, name, getattr(whole, name))
    if whole.messages_json is not None and out.request.input_ids is None:
        out.request.content_state = whole.content_state
    out.request.quality.extend(whole.quality)


def _alone(out: _Open) -> tuple[Any, Result]:
    """A request of which only the body was logged."""
    assert out.body is not None
    whole = attempt(_in_body, out.body)
    if not isinstance(whole, Request):
        return out.record, whole
    for name in (
        "request_id",
        "arrival_us",
        "clock",
        "arrival_quality",
        "arrival_resolution_us",
        "status",
        "http_status",
    ):
        setattr(whole, name, getattr(out.request, name))
    whole.quality.extend(out.request.quality)
    return out.record, attempt(openai.sequences, whole, out.body) if "prompt" in out.body else whole


def _finished(out: _Open) -> Request:
    """A request with its answer."""
    q = out.request
    said = out.answers or (["".join(out.pieces)] if out.pieces and out.wanted < 2 else [])
    ids = out.answer_ids[0] if len(out.answer_ids) == 1 else None
    if ids is None and out.piece_ids and out.wanted < 2:
        ids = out.piece_ids
        if sum(out.counts) != len(ids):
            q.quality.append("output_ids_from_deltas")  # tokens that make no text of their own are not logged
    if "output_truncated" not in q.quality:
        answers = [{"role": "assistant", "content": one} for one in said]
        if answers:
            q.output_json = dumps(answers[0] if len(answers) == 1 else answers)
        q.output_ids = ids or None
        counted = sum(out.counts) or sum(map(len, out.answer_ids if ids is None else [ids]))
        if counted:
            q.output_tokens, q.tokens_source = counted, "counted"
    if q.messages_json is None and q.prompt_text is None and q.input_ids is None:
        q.content_level, q.content_state = "lengths", "absent"
    if q.end_us is not None and q.arrival_us is not None and q.end_us < q.arrival_us:
        q.end_us = None
        q.quality.append("bad_end")
    return q
