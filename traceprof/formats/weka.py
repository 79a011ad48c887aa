"""WEKA sessions (kv-cache-tester): one object a coding-agent session, block hashes of 64 tokens, local to the session.

`t` counts from the session's own start, so sessions share no clock. The last, partial block has no hash. Entries of
type `subagent` nest the requests of a sub-agent, whose `t` counts from the entry's. Source: callanjfox/kv-cache-tester.
"""

from __future__ import annotations

from typing import Any

from traceprof.formats.base import BadRecord, Has, Request, Skip, count, finish, hashes, offset_us, text

has = Has.ENDS | Has.LENGTHS | Has.BLOCKS | Has.SESSIONS
summary = "WEKA coding-agent sessions, 64-token block hashes (JSON, JSONL)"


def detect(record: dict[str, Any]) -> bool:
    """A session object with block_size, hash_id_scope and requests."""
    return {"block_size", "hash_id_scope", "requests"} <= record.keys()


def read(record: dict[str, Any]) -> list[Request | Skip]:
    """All requests of the session, sub-agents' included, by time within the session."""
    size = record.get("block_size")
    if type(size) is not int or size < 1:
        raise BadRecord("wrong_type", "block_size is not a positive whole number")
    entries = record.get("requests")
    if not isinstance(entries, list):
        raise BadRecord("wrong_type", "requests is not a list")
    session = text(record.get("id"))
    scope = session if record.get("hash_id_scope") == "local" else "global"
    if session is None and scope is None:
        raise BadRecord("missing_field", "no id, though hashes are local to the session")
    out: list[Request] = []
    _collect(entries, out, size, session, scope, None, 0)
    out.sort(key=lambda r: r.arrival_us or 0)
    if not out:
        return [Skip("empty_session")]
    for turn, request in enumerate(out):
        request.request_id = f"{session}/{turn}" if session else None
        request.turn_index = turn
    return list(out)


def _collect(
    entries: list[Any],
    out: list[Request],
    size: int,
    session: str | None,
    scope: str | None,
    agent: str | None,
    zero: int,
) -> None:
    """All requests of `entries`, whose times count from `zero` us of the session's clock."""
    for entry in entries:
        if not isinstance(entry, dict):
            raise BadRecord("wrong_type", "a request is not an object")
        if entry.get("type") == "subagent":
            inner = entry.get("requests")
            if not isinstance(inner, list):
                raise BadRecord("wrong_type", "requests of a sub-agent is not a list")
            began = zero + offset_us(entry.get("t"), "t", 1e6)
            _collect(inner, out, size, session, scope, text(entry.get("agent_id")) or "subagent", began)
            continue
        out.append(_request(entry, size, session, scope, agent, zero))


def _request(
    entry: dict[str, Any], size: int, session: str | None, scope: str | None, agent: str | None, zero: int
) -> Request:
    ids = hashes(entry.get("hash_ids"))
    tokens = count(entry.get("in"), "in")
    if tokens is None:
        raise BadRecord("missing_field", "a request has no `in`")
    if len(ids) > -(-tokens // size):
        raise BadRecord("length_mismatch", f"{len(ids)} blocks of {size} tokens for a prompt of {tokens}")
    start = zero + offset_us(entry.get("t"), "t", 1e6)
    api = None if entry.get("api_time") is None else offset_us(entry["api_time"], "api_time", 1e6)
    ttft = None if entry.get("ttft") is None else offset_us(entry["ttft"], "ttft", 1e6)
    think = None if entry.get("think_time") is None else offset_us(entry["think_time"], "think_time", 1e6)
    model = entry.get("model")
    return Request(
        clock="session",
        arrival_us=start,
        end_us=None if api is None else start + api,
        first_token_us=None if ttft is None else start + ttft,
        e2e_us=api,
        ttft_us=ttft,
        delay_after_parent_us=think,
        arrival_quality="measured",
        status="ok",
        content_level="hashes",
        session_id=session,
        session_kind="explicit" if session else None,
        app=agent,
        model_requested=model if isinstance(model, str) else None,
        stream=entry.get("type") == "s" if entry.get("type") in ("s", "n") else None,
        finish_reason=finish(entry.get("stop")),
        input_tokens=tokens,
        output_tokens=count(entry.get("out"), "out"),
        tokens_source="trace",
        block_hashes=ids,
        block_size=size,
        hash_scheme="weka-local",
        hash_scope=scope,
        last_block_partial=len(ids) * size > tokens,
    )
