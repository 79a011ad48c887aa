"""OpenAI batch files: an input file of bodies, and output or error files of answers, joined on `custom_id`.

No row has a time; answers come in any order. A batch is bounded (50,000 requests), so the answers are held in memory.
Source: openai/openai-openapi.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from traceprof import bodies
from traceprof.bodies import openai
from traceprof.formats.base import BadRecord, Has, Request, Result, Skip, attempt, http_code, text

has = Has.LENGTHS | Has.TEXT | Has.OUTPUTS
summary = "OpenAI batch input files, and output and error files joined on custom_id (JSONL)"


def detect(record: dict[str, Any]) -> bool:
    """An input line (custom_id, method, url, body) or an output line (custom_id, response, error)."""
    if "custom_id" not in record:
        return False
    return ("url" in record and "body" in record) or ("response" in record and "error" in record)


def read_all(records: Iterable[Any]) -> Iterator[tuple[Any, Result]]:
    """All records of all batch files of one import: yields (record, what it became).

    An answer that found its request is skipped as joined; an answer without one is rejected: it has no prompt.
    """
    inputs: list[Any] = []
    answers: dict[str, list[Any]] = {}
    for record in records:
        value = record.value
        if "body" in value and "url" in value:
            inputs.append(record)
        else:
            answers.setdefault(str(value["custom_id"]), []).append(record)
    for record in inputs:
        found = answers.pop(str(record.value["custom_id"]), [])
        yield record, attempt(_request, record.value, found[0].value if found else None)
        for answer in found[:1]:
            yield answer, Skip("joined_to_its_request")
        for answer in found[1:]:
            yield answer, BadRecord("duplicate_request_id", "a second answer for the same custom_id")
    for orphans in answers.values():
        for answer in orphans:
            yield answer, BadRecord("no_prompt", "an answer whose request is in none of the files given")


def _request(value: dict[str, Any], answer: dict[str, Any] | None) -> Request | Skip | list[Request | Skip]:
    if "embedding" in str(value["url"]):
        return Skip("embedding")
    body = value["body"]
    if not isinstance(body, dict):
        raise BadRecord("wrong_type", f"body is a {type(body).__name__}, not an object")
    if "messages" not in body and "prompt" not in body:
        if "embed" in str(body.get("model")):
            return Skip("embedding")
        raise BadRecord(
            "unsupported", f"batch rows of {value['url']}; this reader takes chat and text completions"
        )
    out = Request(request_id=text(value["custom_id"]))
    openai.read_request(out, body)
    if answer is not None:
        error, response = answer.get("error"), answer.get("response")
        if isinstance(response, dict):
            out.http_status = http_code(response.get("status_code"))
            got = response.get("body")
            if isinstance(got, dict):
                openai.read_response(out, got)
                error = error or got.get("error")
        bodies.settle(out, error)
    return openai.sequences(out, body)
