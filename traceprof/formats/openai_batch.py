"""OpenAI batch files: input files of bodies, and output or error files of answers, joined on `custom_id`.

No row has a time; answers come in any order. A `custom_id` is one request's within a batch, and may come again in the next:
an answer goes to the input file that shares most ids with its own file. A batch is bounded (50,000 requests), so rows are
held in memory. Mistral's, which have no `url`, are read too. Source: openai/openai-openapi.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from traceprof import bodies
from traceprof.bodies import openai
from traceprof.formats.base import (
    BadRecord,
    Has,
    Request,
    Result,
    Skip,
    attempt,
    cut_state,
    http_code,
    text,
)

has = Has.LENGTHS | Has.TEXT | Has.OUTPUTS
summary = "OpenAI batch input files, and output and error files joined on custom_id (JSONL)"

_OTHER = re.compile(r"/(embedding|moderation|image|rerank|score|audio|video)s?\b")


def detect(record: dict[str, Any]) -> bool:
    """An input line (custom_id, body) or an output line (custom_id, response, error)."""
    return "custom_id" in record and ("body" in record or ("response" in record and "error" in record))


def read_all(records: Iterable[Any]) -> Iterator[tuple[Any, Result]]:
    """All records of all batch files of one import: yields (record, what it became).

    An answer that found its request is skipped as joined; an answer without one is rejected: it has no prompt.
    """
    asked: list[Any] = []
    answers: list[Any] = []
    for record in records:
        (asked if "body" in record.value else answers).append(record)
    places = joined(list(map(_place, asked)), list(map(_place, answers)))
    by_request = {
        found.at: (answers[i].value, found.by_order) for i, found in enumerate(places) if found.at >= 0
    }
    seen: dict[str, str] = {}
    for i, record in enumerate(asked):
        answer, by_order = by_request.get(i, (None, False))
        name = unique(_place(record), text(answer.get("id")) if answer else None, seen)
        yield record, attempt(_request, record.value, answer, name, by_order)
    for record, found in zip(answers, places, strict=True):
        yield record, outcome(found)


class Found(NamedTuple):
    """Where an answer's request is: its place among the requests, or -1 (there is none) or -2 (it has an answer)."""

    at: int
    by_order: bool  # several requests have its custom_id: one of the likeliest file was taken, in order


def joined(asked: list[tuple[str, str]], answers: list[tuple[str, str]]) -> list[Found]:
    """For each answer the place of its request; both are told as (file, custom_id).

    >>> joined([("a", "1"), ("a", "2"), ("b", "1")], [("a-out", "2"), ("a-out", "1"), ("b-out", "1"), ("b-out", "9")])
    [Found(at=1, by_order=False), Found(at=0, by_order=True), Found(at=2, by_order=True), Found(at=-1, by_order=False)]
    """
    waiting: dict[str, dict[str, list[int]]] = {}  # file -> custom_id -> places of requests without an answer
    for at, (file, name) in enumerate(asked):
        waiting.setdefault(file, {}).setdefault(name, []).append(at)
    times = Counter(name for _, name in asked)
    by_file: dict[str, list[int]] = {}
    for i, (file, _) in enumerate(answers):
        by_file.setdefault(file, []).append(i)
    out = [Found(-1, False)] * len(answers)
    for file, places in by_file.items():
        shared = {f: sum(answers[i][1] in names for i in places) for f, names in waiting.items()}
        best = sorted(waiting, key=lambda f: (-shared[f], f != file))  # else in the order given
        for i in places:
            name = answers[i][1]
            held = next((waiting[f] for f in best if name in waiting[f]), None)
            if held is None:
                out[i] = Found(-2 if name in times else -1, False)
                continue
            out[i] = Found(held[name].pop(0), times[name] > 1)
            if not held[name]:
                del held[name]
    return out


def unique(place: tuple[str, str], answer: str | None, seen: dict[str, str]) -> str:
    """The id of a request: its custom_id, or with its answer's id or its file where another batch had that one before.

    One that comes again in a file and has no answer of its own stays a duplicate.
    """
    file, name = place
    before = seen.get(name)
    seen[name] = file
    if before is None or (before == file and answer is None):
        return name
    return f"{name}@{answer or file}"


def outcome(found: Found) -> Skip | BadRecord:
    """What became of an answer."""
    if found.at == -2:
        return BadRecord("duplicate_request_id", "a second answer for the same custom_id")
    if found.at == -1:
        return BadRecord("no_prompt", "an answer whose request is in none of the files given")
    return Skip("joined_to_its_request")


def _place(record: Any) -> tuple[str, str]:
    return record.file, str(record.value["custom_id"])


def _request(
    value: dict[str, Any], answer: dict[str, Any] | None, name: str, by_order: bool
) -> Request | Skip | list[Request | Skip]:
    other = _OTHER.search(str(value.get("url") or ""))
    if other is not None:
        return Skip("rerank" if other[1] == "score" else other[1])
    body = value["body"]
    if not isinstance(body, dict):
        raise BadRecord("wrong_type", f"body is a {type(body).__name__}, not an object")
    dialect = bodies.of_request(body)
    if dialect is None:
        kind = bodies.other_kind(body) or ("embedding" if "embed" in str(body.get("model")) else None)
        if kind is None:
            raise BadRecord("unsupported", "a batch row whose body asks neither for a chat nor for a text")
        return Skip(kind)
    out = Request(request_id=name)
    response = answer.get("response") if answer else None
    reply = bodies.answer(response.get("body")) if isinstance(response, dict) else None
    dialect = bodies.of_pair(dialect, reply)
    dialect.read_request(out, body)
    if reply is not None:
        bodies.read_response(out, reply, dialect)
    if isinstance(response, dict):
        out.http_status = http_code(response.get("status_code"))
    if answer is not None:
        bodies.settle(out, answer.get("error") or (reply or {}).get("error"))
    if by_order:
        out.quality.append("joined_by_order")
    return openai.sequences(out, body, reply) if dialect is openai else cut_state(out)
