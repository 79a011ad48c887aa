"""OpenAssistant conversation trees: rows of messages that name their parent, or whole trees nested under `prompt`.

People wrote both sides (rows say `human_written`), except where a message is `synthetic`. Each assistant message is one request,
whose prompt is the path from the root to it; siblings share that path. Times tell when volunteers wrote, not when a model was
asked, so none are taken. Rows are held in memory until all are read: a parent may come after its child.
Source: LAION-AI/Open-Assistant f1e6ed9, oasst-data/schemas.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from traceprof.formats.base import BadRecord, Has, Request, Result, Skip, attempt, dumps, text

has = Has.TEXT | Has.OUTPUTS | Has.SESSIONS
summary = "OpenAssistant trees and message rows, one request an assistant message (JSONL, Parquet)"

_ROLES = {"prompter": "user", "assistant": "assistant"}
_Path = list[dict[str, Any]]


def detect(record: dict[str, Any]) -> bool:
    """A message that names its tree, or a tree with its first message."""
    if "message_tree_id" not in record:
        return False
    return {"message_id", "parent_id"} <= record.keys() or isinstance(record.get("prompt"), dict)


def read_all(records: Iterable[Any]) -> Iterator[tuple[Any, Result]]:
    """Trees as they come; then the rows, in order, each assistant message with the path above it."""
    rows: list[Any] = []
    known: dict[str, dict[str, Any]] = {}
    for record in records:
        if "prompt" in record.value:
            yield record, attempt(_tree, record.value)
            continue
        rows.append(record)
        name = text(record.value.get("message_id"))
        if name is not None:
            known.setdefault(name, record.value)
    for record in rows:
        yield record, attempt(_row, record.value, known)


def _row(message: dict[str, Any], known: dict[str, dict[str, Any]]) -> Request | Skip:
    if _role(message) == "user":
        return Skip("user_message")
    path: _Path = [message]
    above = {id(message)}
    while (parent := text(path[-1].get("parent_id"))) is not None:
        found = known.get(parent)
        if found is None:
            raise BadRecord("no_prompt", "a message above it is in none of the files given")
        if id(found) in above:
            raise BadRecord("unsupported", "a message is its own ancestor")
        above.add(id(found))
        path.append(found)
    return _request(path[::-1], text(message.get("message_tree_id")))


def _tree(tree: dict[str, Any]) -> Result:
    """All assistant messages of a tree, each before what replies to it."""
    out: list[Request | Skip | BadRecord] = []
    open_: list[_Path] = [[tree["prompt"]]]
    while open_:
        path = open_.pop()
        message = path[-1]
        if not isinstance(message, dict):
            raise BadRecord("wrong_type", "a reply is not an object")
        if _role(message) == "assistant":
            out.append(attempt(_request, path, text(tree.get("message_tree_id"))))
        replies = message.get("replies") or []
        if not isinstance(replies, list):
            raise BadRecord("wrong_type", "replies is not a list")
        open_.extend([*path, reply] for reply in reversed(replies))
    return out or Skip("no_model_turn")


def _role(message: dict[str, Any]) -> str:
    role = _ROLES.get(str(message.get("role")))
    if role is None:
        raise BadRecord("unknown_role", f"a message is from {str(message.get('role'))[:40]!r}")
    return role


def _request(path: _Path, tree: str | None) -> Request | Skip:
    said = []
    for message in path:
        if not isinstance(message.get("text"), str):
            raise BadRecord("wrong_type", "a message has no text")
        said.append({"role": _role(message), "content": message["text"]})
    *prompt, answer = said
    if not prompt:
        return Skip("model_turn_without_prompt")
    last = path[-1]
    turns = [text(m.get("message_id")) for m, s in zip(path, said, strict=True) if s["role"] == "assistant"]
    made = last.get("synthetic") is True
    return Request(
        clock="order_only",
        status="ok",
        request_id=text(last.get("message_id")),
        session_id=tree,
        session_kind="explicit" if tree else None,
        parent_request_id=turns[-2] if len(turns) > 1 else None,
        turn_index=len(turns) - 1,
        user_id=text(path[-2].get("user_id")),
        model_requested=text(last.get("model_name")) if made else None,
        messages_json=dumps(prompt),
        output_json=dumps(answer),
        quality=[] if made else ["human_written"],
    )
