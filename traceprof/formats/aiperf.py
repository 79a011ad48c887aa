"""Input files of AIPerf: Mooncake-like rows with a text, messages or a whole body in place of lengths; single turns, and sessions.

`timestamp` (ms) is when to send, `delay` (ms) how long after the turn before it ended. A session's later turns are sent after the turns
before them and the answers that the server gives: where a row holds only what is new (`message_mode` delta, `turns`, lengths or text
without a history), the prompt is partial and so is its length. Rows are sent, not answered: their status is unknown.
Source: ai-dynamo/aiperf 0109a64, dataset/loader/{models,mooncake_trace,multi_turn,single_turn,random_pool,inputs_json}.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from traceprof import bodies
from traceprof.bodies import openai
from traceprof.formats.base import (
    BadRecord,
    Has,
    Read,
    Request,
    Result,
    Skip,
    attempt,
    count,
    dumps,
    messages,
    text,
)
from traceprof.formats.mooncake import block_row, timed

has = Has.ARRIVALS | Has.LENGTHS | Has.TEXT | Has.BLOCKS | Has.SESSIONS
summary = (
    "AIPerf input files: Mooncake variants, single and multi turn, random pools, inputs.json (JSONL, JSON)"
)
options = {"block_size": 512}
hash_scope = "file"

_WHEN = {"timestamp", "delay", "session_id", "type", "output_length", "extra"}
_ROW = _WHEN | {
    "input_length", "text_input", "messages", "tools", "payload", "message_mode", "context_mode", "hash_ids"
}  # fmt: skip
_MEDIA = {"image": "image_url", "audio": "input_audio", "video": "video_url"}
_SHOWN = {"text", "texts", *_MEDIA, *(f"{kind}s" for kind in _MEDIA)}
_TURN = _WHEN | _SHOWN | {"role", "image_uuids"}
_WHOLE = "message_array_with_responses"


def detect(record: dict[str, Any]) -> bool:
    """The keys of one of AIPerf's loaders, and no other; what other logs may hold too only beside a time in ms."""
    keys = record.keys()
    if keys == {"data"}:
        first = record["data"][0] if isinstance(record["data"], list) and record["data"] else None
        return isinstance(first, dict) and isinstance(first.get("payloads"), list)
    if "turns" in record:
        turns = record["turns"]
        first = turns[0] if isinstance(turns, list) and turns else None
        return (
            keys <= {"type", "session_id", "turns"}
            and isinstance(first, dict)
            and bool(_SHOWN & first.keys())
        )
    if keys <= _ROW:
        if "text_input" in record or "message_mode" in record or "context_mode" in record:
            return True
        scheduled = "delay" in record or "output_length" in record or _small(record.get("timestamp"))
        if isinstance(record.get("messages"), list) or isinstance(record.get("payload"), dict):
            return scheduled
        return "input_length" in record and "hash_ids" not in record and bool({"delay", "session_id"} & keys)
    if keys <= _TURN and _SHOWN & keys:
        return record.get("type") in ("single_turn", "random_pool") or bool(
            {"delay", "output_length", "texts", "images", "audios", "videos"} & keys
            or _small(record.get("timestamp"))
        )
    return keys == {"session_id", "payloads"} and isinstance(record["payloads"], list)


def takes(record: dict[str, Any]) -> bool:
    """Whether a record may stand in such a file: also a plain row of a Mooncake trace."""
    return detect(record) or ("hash_ids" in record and record.keys() <= _ROW)


def _small(stamp: Any) -> bool:
    return isinstance(stamp, (int, float)) and not isinstance(stamp, bool) and 0 <= stamp < 1e9


def read_all(records: Iterable[Any], block_size: int = 512) -> Iterator[tuple[Any, Result]]:
    """All rows in order; of each session is remembered how many turns there were."""
    turns: Counter[str] = Counter()
    for record in records:
        yield record, attempt(_read, record.value, turns, block_size)


def _read(record: dict[str, Any], turns: Counter[str], block_size: int) -> Any:
    if "turns" in record:
        return _conversation(record, turns)
    if "payloads" in record:
        return _payloads(record, turns)
    if "data" in record:
        sessions = (
            [s for s in record["data"] if isinstance(s, dict)] if isinstance(record["data"], list) else []
        )
        return [one for session in sessions for one in _payloads(session, turns)] or Skip("empty_list")
    if _SHOWN & record.keys():
        return _turn(record, turns, None, whole=True)
    return _row(record, turns, block_size)


def _row(record: dict[str, Any], turns: Counter[str], block_size: int) -> Read:
    """A row of a Mooncake variant, by what stands for its prompt."""
    whole = "messages" in record and record.get("message_mode") != "delta"
    whole = whole or "payload" in record or record.get("context_mode") == _WHOLE
    if record.get("hash_ids") is not None:
        out, whole = block_row(record, block_size), True
        out.hash_scheme = "mooncake-remap"
    else:
        out = Request()
        out.output_tokens = count(record.get("output_length"), "output_length", out.quality)
        if record.get("text_input") is not None:
            if not isinstance(record["text_input"], str):
                raise BadRecord("wrong_type", "text_input is not a text")
            out.messages_json = dumps([{"role": "user", "content": record["text_input"]}])
        elif record.get("messages") is not None:
            openai.read_request(out, {"messages": record["messages"], "tools": record.get("tools")})
        elif record.get("payload") is None:
            out.content_level, out.content_state = "lengths", "absent"
            out.input_tokens = count(record.get("input_length"), "input_length")
            if out.input_tokens is None:
                raise BadRecord("missing_field", "no input_length, text_input, messages or payload")
        if out.input_tokens is not None or out.output_tokens is not None:
            out.tokens_source = "trace"
    _place(out, record, turns, whole)
    return _body(out, record["payload"]) if record.get("payload") is not None else out


def _place(out: Request, record: dict[str, Any], turns: Counter[str], whole: bool) -> None:
    """When a request is sent, and its turn within its session; a later turn that is not `whole` is partial."""
    stamp, delay = record.get("timestamp"), record.get("delay")
    if stamp is not None or delay is not None:
        timed(out, stamp, delay)
    else:
        out.clock, out.arrival_quality = "order_only", "none"
    session = text(record.get("session_id"))
    if session is None:
        return
    out.session_id, out.session_kind = session, "explicit"
    out.turn_index = turns[session]
    turns[session] += 1
    out.request_id = f"{session}/{out.turn_index}"
    if out.turn_index:
        out.parent_request_id = f"{session}/{out.turn_index - 1}"
        if not whole:
            out.content_state = "partial_history"
            out.input_tokens = None


def _body(out: Request, payload: Any) -> Read:
    """A whole request body, as it is sent."""
    if not isinstance(payload, dict):
        raise BadRecord("wrong_type", "payload is not an object")
    dialect = bodies.of_request(payload) or (openai if "prompt" in payload else None)
    if dialect is None:
        kind = bodies.other_kind(payload)
        if kind is None:
            raise BadRecord("unsupported", "a payload of no known API")
        return Skip(kind)
    dialect.read_request(out, payload)
    return openai.sequences(out, payload) if dialect is openai else out


def _payloads(session: dict[str, Any], turns: Counter[str]) -> list[Any]:
    """The bodies of one session of an inputs.json, each with its history."""
    found = session.get("payloads")
    if not isinstance(found, list):
        raise BadRecord("wrong_type", "payloads is not a list")
    out: list[Any] = []
    for payload in found:
        request = Request()
        _place(request, {"session_id": session.get("session_id")}, turns, True)
        made = attempt(_body, request, payload)
        out.extend(made if isinstance(made, list) else (made,))
    return out or [Skip("empty_conversation")]


def _conversation(record: dict[str, Any], turns: Counter[str]) -> Result:
    """The turns of one session; a system prompt that leads them is no turn, and stands before each."""
    given = record["turns"]
    if not isinstance(given, list):
        raise BadRecord("wrong_type", "turns is not a list")
    system = None
    if len(given) > 1 and isinstance(given[0], dict) and given[0].keys() <= {"role", "text", "texts"}:
        system = given[0] if given[0].get("role") == "system" else None
    out: list[Any] = []
    for turn in given[1:] if system else given:
        if isinstance(turn, dict):
            out.append(attempt(_turn, {**turn, "session_id": record.get("session_id")}, turns, system))
        else:
            out.append(BadRecord("wrong_type", "a turn is not an object"))
    return out or Skip("empty_conversation")


def _turn(
    turn: dict[str, Any], turns: Counter[str], system: dict[str, Any] | None, whole: bool = False
) -> Request:
    """One turn; a row of its own is `whole`, those of a session go on from the ones before."""
    out = Request()
    said = [{"role": "system", "content": _content(system)}] if system else []
    role = turn.get("role")
    said.append({"role": role if isinstance(role, str) and role else "user", "content": _content(turn)})
    out.messages_json = messages(said, out)
    out.max_output_tokens = count(turn.get("output_length"), "output_length", out.quality)
    _place(out, turn, turns, whole)
    return out


def _content(turn: dict[str, Any]) -> Any:
    """Text and media of a turn, as parts where there are several."""
    parts: list[Any] = [{"type": "text", "text": said} for said in _values(turn, "text")]
    for kind, part in _MEDIA.items():
        parts += [{"type": part, part: {"url": shown}} for shown in _values(turn, kind)]
    if not parts:
        raise BadRecord("missing_field", "a turn without text or media")
    return openai.one_text(parts)


def _values(turn: dict[str, Any], kind: str) -> list[str]:
    """All values of one modality: `text`, a list of them under `texts`, or named lists of them."""
    given = [turn.get(kind), *_listed(turn.get(f"{kind}s"), kind)]
    found: list[str] = []
    for value in given:
        found += (
            _listed(value.get("contents"), kind)
            if isinstance(value, dict)
            else []
            if value is None
            else [value]
        )
    if not all(isinstance(value, str) for value in found):
        raise BadRecord("wrong_type", f"{kind} of a turn is no text")
    return found


def _listed(value: Any, kind: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadRecord("wrong_type", f"{kind}s of a turn is not a list")
    return value
