"""Claude Code sessions: `~/.claude/projects/DIR/*.jsonl`, rows of a conversation that each name the row before them.

One answer of the API is several rows, a block each, with the same message id and request id; the last usage holds. The prompt
is the conversation so far, through `parentUuid`: since the last compaction, with the results of all tools that an answer
called. The system prompt and the tools are absent, so the text is not the whole prompt. The arrival is not logged: the last
input before the answer is a lower bound, the last row of the answer a bound of its end. A sub-agent's rows are a
conversation of their own within the run (`trace_id`). Copies that a resumed or forked session made are told by their `uuid`.
Rows are held until the conversations of a file end. Source: daaain/claude-code-log a641071, uw-syfi/TraceLab 0b8a262.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from traceprof.bodies import anthropic
from traceprof.formats.base import (
    BadRecord,
    Has,
    Request,
    Result,
    Skip,
    as_bytes,
    attempt,
    cut_state,
    http_code,
    parse_time,
    status_of_http,
    text,
)
from traceprof.formats.held import key_of

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.TEXT | Has.OUTPUTS | Has.SESSIONS
summary = "Claude Code sessions, ~/.claude/projects (JSONL)"

KEPT_PROMPTS = 32  # which later ones go on from
HELD_BYTES = 64 << 20  # of rows, after which a row that begins a conversation ends the ones before it
_OTHER = Skip("other_record")
_JOINED = Skip("joined_to_its_request")
_COPIED = Skip("copied_from_another_session")
_NOTES = (
    "summary", "system", "progress", "attachment", "file-history-snapshot", "queue-operation", "mode", "permission-mode",
    "last-prompt", "ai-title", "custom-title", "agent-name", "agent-color", "tag", "pr-link", "worktree-state",
)  # fmt: skip


def detect(record: dict[str, Any]) -> bool:
    """A row of a conversation, or one of the notes that stand among them."""
    if {"uuid", "parentUuid", "isSidechain", "sessionId"} <= record.keys():
        return True
    noted = record.get("type") in _NOTES and "message" not in record
    return noted and bool(record.keys() & {"sessionId", "leafUuid", "messageId", "snapshot"})


def takes(record: dict[str, Any]) -> bool:
    """A row of any type: new versions add notes of types of their own."""
    return isinstance(record.get("type"), str)


def read_all(records: Iterable[Any]) -> Iterator[tuple[Any, Result]]:
    """All rows of all sessions: yields (row, what it became), the request with the last row of its answer."""
    talk = _Talk()
    known: set[int] = set()  # uuids
    turns: Counter[str] = Counter()
    file, size = None, 0
    for record in records:
        row = attempt(_row, record)
        if not isinstance(row, _Row):
            yield record, row
            continue
        begins = row.parent not in talk.rows
        if talk.rows and begins and (record.file != file or (size > HELD_BYTES and row.parent is None)):
            yield from talk.told(turns)
            talk, size = _Talk(), 0
        file, size = record.file, size + len(record.raw)
        key = key_of(row.uuid)
        row.copied = key in known
        known.add(key)
        if row.uuid in talk.rows:
            yield record, _COPIED
        else:
            talk.add(row)
    yield from talk.told(turns)


class _Piece(NamedTuple):
    """A message of a prompt: OpenAI-like ones as JSON, without the brackets of a list, and the media in it."""

    body: bytes
    media: list[dict[str, Any]]


@dataclass(slots=True, eq=False)
class _Row:
    """A row of a conversation."""

    record: Any
    uuid: str
    parent: str | None
    at: int  # us since 1970
    kind: str  # user, assistant, api_error, compact_boundary or other
    message: dict[
        str, Any
    ]  # role, content and what the API answered with; empty unless it is user's or assistant's
    piece: _Piece
    copied: bool = False
    place: int = 0
    answer: list[_Row] = field(default_factory=list)  # all rows of the answer that it is of


class _Prompt(NamedTuple):
    """What stood before a row."""

    pieces: list[_Piece]
    root: str  # uuid of the first row
    whole: bool  # no row is missing
    heard: int | None  # us; when the last input was written
    before: _Row | None  # the answer before
    failed: int  # attempts that failed since the last input
    last: str | None  # uuid of the last row but failed attempts


_KEPT = ("id", "model", "stop_reason", "usage")


def _row(record: Any) -> _Row | Skip:
    value = record.value
    uuid = text(value.get("uuid"))
    if uuid is None:
        return _OTHER
    kind, message = str(value.get("type")), value.get("message")
    said: dict[str, Any] = {}
    piece = _Piece(b"", [])
    if kind in ("user", "assistant"):
        if not isinstance(message, dict):
            raise BadRecord("wrong_type", f"message is a {type(message).__name__}, not an object")
        said = {"role": kind, "content": message.get("content"), **{k: message.get(k) for k in _KEPT}}
        piece = _piece(said)  # raises for what is no message
    else:
        kind = str(value.get("subtype")) if kind == "system" else "other"
    at = parse_time(value.get("timestamp"), "timestamp")[0]
    return _Row(record, uuid, text(value.get("parentUuid")), at, kind, said, piece)


def _piece(message: dict[str, Any]) -> _Piece:
    out = Request()
    anthropic.read_request(out, {"messages": [{"role": message["role"], "content": message["content"]}]})
    return _Piece(as_bytes(out.messages_json or b"[]")[1:-1], out.media or [])


class _Talk:
    """Conversations that may belong together: the rows of a file."""

    def __init__(self) -> None:
        self.rows: dict[str, _Row] = {}
        self._answers: dict[tuple[str, str], list[_Row]] = {}
        self._results: dict[str, list[_Row]] = {}  # tool_use id -> rows with its result
        self._prompts: dict[str, _Prompt] = {}  # the last ones, by the row that they stand before

    def add(self, row: _Row) -> None:
        """Take the next row."""
        row.place = len(self.rows)
        self.rows[row.uuid] = row
        if row.kind == "assistant":
            name = text(row.message["id"]) or row.uuid, text(row.record.value.get("requestId")) or ""
            row.answer = self._answers.setdefault(name, [])
            row.answer.append(row)
        for used in _ids(row, "tool_result", "tool_use_id"):
            self._results.setdefault(used, []).append(row)

    def told(self, turns: Counter[str]) -> Iterator[tuple[Any, Result]]:
        """What each row became."""
        for row in self.rows.values():
            if row.copied or any(r.copied for r in row.answer):
                yield row.record, _COPIED
            elif row.kind == "api_error" or (row.answer and row is row.answer[-1]):
                yield row.record, attempt(self._called, row, turns)
            else:
                yield row.record, _JOINED if row.kind in ("user", "assistant") else _OTHER

    def _called(self, last: _Row, turns: Counter[str]) -> Request | Skip:
        value = last.record.value
        failed = last.kind == "api_error" or _is_failure(last)
        if last.message.get("model") == "<synthetic>" and not failed:
            return Skip("not_a_generation")  # Claude Code wrote it itself
        first = last.answer[0] if last.answer else last
        out = Request(clock="absolute", request_id=text(value.get("requestId")))
        prompt = self._prompt(first)
        out.messages_json = b"[" + b",".join(piece.body for piece in prompt.pieces) + b"]"
        out.media = [one for piece in prompt.pieces for one in piece.media] or None
        out.content_state = "partial_history"
        if not prompt.whole:
            out.quality.append("parent_not_found")
        if failed:
            _read_failure(out, value)
        else:
            anthropic.read_response(out, _joined(last.answer))
            out.quality.append("end_is_last_output")
        out.end_us = max((row.at for row in last.answer), default=last.at)
        if prompt.heard is not None:
            out.arrival_us, out.arrival_quality = prompt.heard, "derived"
            out.quality.append("arrival_is_last_input")
        if prompt.failed or last.kind == "api_error":
            out.attempt_group, out.attempt_no = prompt.last, prompt.failed
        _read_session(out, value, prompt, turns)
        return cut_state(out)

    def _prompt(self, row: _Row) -> _Prompt:
        """What stands before a row, through its parents up to the beginning or the last compaction."""
        steps: list[list[_Row]] = []  # newest first: the rows of an answer, or one of a user
        fresh: list[int] = []  # us; of input, and of ends of failed attempts, since the answer before
        root, missing, failed = row.uuid, row.parent, 0
        last: str | None = None
        before: _Row | None = None
        known: _Prompt | None = None
        answered = False
        seen = {row.uuid}
        above = self.rows.get(row.parent or "")
        while above is not None and above.uuid not in seen:
            seen.add(above.uuid)
            root, missing = above.uuid, above.parent
            if last is None and above.kind == "api_error":
                failed += 1
                fresh.append(above.at + _backoff_us(above.record.value))
            elif last is None and above.answer is not row.answer:
                last = above.uuid
            if above.answer and above.answer is not row.answer and not _is_failure(above):
                steps.append([r for r in above.answer if r.place < row.place])
                first = steps[-1][0]
                if not answered:
                    fresh.extend(result.at for result in self._results_of(steps[-1], row.place))
                answered = True
                if before is None and above.message["model"] != "<synthetic>":
                    before = above
                known = self._prompts.get(first.uuid)
                if known is not None:
                    root, missing = known.root, None if known.whole else ""
                    break
                root, missing = first.uuid, first.parent
            elif above.kind == "user":
                steps.append([above])
                if not answered:
                    fresh.append(above.at)
            if above.kind == "compact_boundary" or above.record.value.get("isCompactSummary") is True:
                missing = None
                break
            above = self.rows.get(missing or "")
        pieces = self._laid_out(steps, row.place, known.pieces if known is not None else [])
        heard = max((at for at in fresh if at <= row.at), default=None)
        whole = missing is None or missing in self.rows
        out = _Prompt(pieces, root, whole, heard, before, failed, last)
        self._prompts[row.uuid] = out
        if len(self._prompts) > KEPT_PROMPTS:
            del self._prompts[next(iter(self._prompts))]
        return out

    def _laid_out(self, steps: list[list[_Row]], place: int, start: list[_Piece]) -> list[_Piece]:
        """The messages of steps, oldest first: after an answer come the results of all tools that it called."""
        pieces = list(start)
        told: set[str] = set()
        for step in reversed(steps):
            if not step[0].answer:
                if step[0].uuid not in told:
                    pieces.append(step[0].piece)
                continue
            pieces.append(_piece(_joined(step)))
            for result in sorted(self._results_of(step, place), key=lambda r: r.place):
                if result.uuid not in told:
                    told.add(result.uuid)
                    pieces.append(result.piece)
        return pieces

    def _results_of(self, answer: list[_Row], place: int) -> Iterator[_Row]:
        """The rows before a place with results of the tools that an answer called."""
        for row in answer:
            session = row.record.value.get("sessionId")  # a copy of the session has results of its own
            for used in _ids(row, "tool_use", "id"):
                for result in self._results.get(used, ()):
                    if result.place < place and result.record.value.get("sessionId") == session:
                        yield result


def _is_failure(row: _Row) -> bool:
    """Whether an answer is only what Claude Code tells the user of a failed call; no model sees it."""
    return row.record.value.get("isApiErrorMessage") is True


def _backoff_us(value: dict[str, Any]) -> int:
    """How long Claude Code waited after a failed attempt, which is lost in the log when it is no number."""
    waited = value.get("retryInMs")
    return round(waited * 1000) if isinstance(waited, (int, float)) and 0 <= waited < 1e7 else 0


def _read_session(out: Request, value: dict[str, Any], prompt: _Prompt, turns: Counter[str]) -> None:
    out.trace_id = session = text(value.get("sessionId"))
    if session is not None and value.get("isSidechain") is True:
        session = f"{session}/{text(value.get('agentId')) or prompt.root}"
    if session is not None:
        out.session_id, out.session_kind = session, "explicit"
        out.turn_index = turns[session]
        turns[session] += 1
    version = text(value.get("version"))
    out.app = "claude-code" + (f"/{version}" if version else "")
    if prompt.before is not None:
        asked = text(prompt.before.record.value.get("requestId"))
        out.parent_request_id = asked or text(prompt.before.message["id"])


def _read_failure(out: Request, value: dict[str, Any]) -> None:
    """What Claude Code noted of an attempt that the API refused or broke off: an error of the API, or a word."""
    error = value.get("error")
    if isinstance(error, dict):
        out.http_status = http_code(error.get("status"))
    else:
        out.http_status = http_code(value.get("apiErrorStatus"))
        out.error_type = text(error)
    for _ in range(4):  # errors within errors: the innermost type, or the code of what broke the connection
        if not isinstance(error, dict):
            break
        named = None if error.get("type") == "error" else text(error.get("type"))
        out.error_type = named or text(error.get("code")) or out.error_type
        error = error.get("error") or error.get("cause")
    status = status_of_http(out.http_status)
    out.status = status if status not in (None, "ok") else "error"


def _joined(answer: list[_Row]) -> dict[str, Any]:
    """One message of the rows of an answer: each block once, thoughts that are not shown left out, the last usage."""
    blocks: list[Any] = []
    message: dict[str, Any] = {}
    for row in answer:
        message.update({k: v for k, v in row.message.items() if v is not None})
        content = row.message["content"]
        content = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
        for block in content:
            hidden = isinstance(block, dict) and block.get("type") == "thinking" and not block.get("thinking")
            if not hidden and block not in blocks:
                blocks.append(block)
    return {**message, "content": blocks}


def _ids(row: _Row, kind: str, key: str) -> Iterator[str]:
    """The ids of a row's blocks of one kind."""
    content = row.message.get("content")
    for block in content if isinstance(content, list) else ():
        if isinstance(block, dict) and block.get("type") == kind and isinstance(block.get(key), str):
            yield block[key]
