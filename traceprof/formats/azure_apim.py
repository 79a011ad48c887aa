"""Azure API Management before language models: GatewayLogs, and ApiManagementGatewayLlmLog, joined on the correlation id.

A GatewayLogs row has the times, the status and, where they are logged, the bodies as text, cut at the configured limit (at most 8 KB).
A row of the LLM log has the counts and the messages; those over 32 KB are split over rows by SequenceNumber. It has no tools.
Where a body was cut, the messages of the LLM log take its place. Rows lie in a temporary file until all of the log is read, then
in memory as long as one of their request's is still to come. Source: elastic/integrations 104cd7b4 (fields); Azure Monitor docs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from traceprof import bodies
from traceprof.formats.azure_openai import category, columns, stamp
from traceprof.formats.base import (
    BadRecord,
    Has,
    Request,
    Result,
    Skip,
    attempt,
    count,
    dumps,
    elapsed,
    first_of,
    http_code,
    lasted,
    messages,
    text,
)
from traceprof.formats.held import Held, key_of

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.TEXT | Has.OUTPUTS
summary = "Azure API Management GatewayLogs and ApiManagementGatewayLlmLog, joined on the correlation id (JSONL, CSV)"

_ASKS = re.compile(r"/(?:chat/completions|completions|responses|messages|converse|invoke)(?:[/?]|$)|:(?:stream)?generatecontent", re.IGNORECASE)  # fmt: skip
_OTHER = {"embedding": "embedding", "/images/": "image", "/audio/": "audio", "rerank": "rerank", "moderation": "moderation"}  # fmt: skip
_DEPLOYMENT = re.compile(r"/deployments/([^/?]+)")


def detect(record: dict[str, Any]) -> bool:
    """A row of one of the two tables, as diagnostics or as Log Analytics exports it."""
    kind = category(record)
    if kind in ("GatewayLogs", "GatewayLlmLogs"):
        return "correlationId" in record or "CorrelationId" in record
    return "CorrelationId" in record and (
        {"SequenceNumber", "IsStreamCompletion"} <= record.keys()
        or {"ApiId", "ResponseCode"} <= record.keys()
    )


def read_all(records: Iterable[Any]) -> Iterator[tuple[Any, Result]]:
    """All rows of one import: yields (record, what it became), each request when the last of its rows was read."""
    rows: Counter[int] = Counter()
    with Held() as kept:
        for record in records:
            refused = kept.keep(record, None)
            if refused is None:
                rows[_key(record)] += 1
            else:
                yield refused
        waiting: dict[int, list[Any]] = {}
        for record in kept:
            key = _key(record)
            group = waiting.setdefault(key, [])
            group.append(record)
            if len(group) == rows[key]:
                yield from _joined(waiting.pop(key))
        for group in waiting.values():  # an id that JSON cannot spell the same way twice
            yield from _joined(group)


def _key(record: Any) -> int:
    name = text(_row(record.value).get("correlationid"))
    return key_of(f"id {name}" if name else f"row {record.row} of {record.file}")


def _row(value: dict[str, Any]) -> dict[str, Any]:
    """A row's columns, those in `properties` among them."""
    row = columns(value)
    return {**columns(bodies.as_object(row.get("properties")) or {}), **row}


def _joined(group: list[Any]) -> Iterator[tuple[Any, Result]]:
    """What the rows of one correlation id became."""
    told = [(record, _row(record.value)) for record in group]
    pieces = [(record, row) for record, row in told if "sequencenumber" in row]
    calls = [(record, row) for record, row in told if "sequencenumber" not in row]
    said = attempt(_said, [row for _, row in pieces]) if pieces else {}
    if not calls and pieces:  # the LLM log alone
        first, *rest = pieces
        yield first[0], said if isinstance(said, BadRecord) else attempt(_request, first[1], said)
        pieces = rest
    for number, (record, row) in enumerate(calls):
        known = said if isinstance(said, dict) and number == 0 else {}
        yield record, attempt(_request, row, known)
    for record, _ in pieces:
        yield record, Skip("joined_to_its_request")


def _said(pieces: list[dict[str, Any]]) -> dict[str, Any]:
    """What the rows of the LLM log say of one request: the first that names a thing holds; messages are put together."""
    order: dict[int, dict[str, Any]] = {}
    for piece in pieces:
        number = count(piece["sequencenumber"], "SequenceNumber")
        order.setdefault(0 if number is None else number, piece)
    out: dict[str, Any] = {}
    for number in sorted(order):
        for key, value in order[number].items():
            if isinstance(value, bool) or value not in (0, "0"):  # counts stand in one of the rows only
                out.setdefault(key, value)
    whole = sorted(order) == list(range(min(order), min(order) + len(order))) and min(order) <= 1
    for key in ("requestmessages", "responsemessages"):
        parts = [order[number].get(key) for number in sorted(order)]
        if len(parts) == 1 and not isinstance(parts[0], str):
            out[key] = parts[0]
            continue
        joined = "".join(part for part in parts if isinstance(part, str))
        out[key] = bodies.decoded(joined) if whole else joined
    return out


def _request(row: dict[str, Any], said: dict[str, Any]) -> Request | Skip | list[Request | Skip]:
    """One call; what is no call of a language model is skipped."""
    url = str(row.get("url") or "")
    sent, got = (first_of(row, names) for names in (("requestbody", "backendrequestbody"), ("responsebody", "backendresponsebody")))  # fmt: skip
    body = bodies.as_object(sent)
    kind = next((kind for word, kind in _OTHER.items() if word in url.lower()), None)
    if (
        kind is None
        and not said
        and not _ASKS.search(url)
        and (body is None or bodies.of_request(body) is None)
    ):
        kind = "not_a_generation"
    if kind is not None:
        return Skip(kind)
    began = first_of(row, ("time", "timegenerated"))
    if began is None:
        raise BadRecord("missing_field", "neither time nor TimeGenerated")
    # a row of the LLM log is written when the answer is known
    out = Request(clock="absolute", arrival_quality="log_time" if "sequencenumber" in row else "measured")
    out.arrival_us = stamp(began, "time")
    lasted(out, elapsed(first_of(row, ("durationms", "totaltime")), "durationMs", 1e3, out.quality))
    deployed = _DEPLOYMENT.search(url)
    deployment = deployed[1] if deployed else text(said.get("deploymentname"))
    out.request_id = text(row.get("correlationid"))
    out.tenant_id = text(row.get("apimsubscriptionid"))
    out.model_requested, out.model_served = deployment, text(said.get("modelname"))
    out.provider = "azure"
    out.http_status = http_code(row.get("responsecode"))
    out.error_type = text(row.get("lasterrorreason"))
    cache = text(row.get("cache"))
    out.served_from_response_cache = cache == "hit" if cache else None
    out.stream = {"true": True, "false": False}.get(str(said.get("isstreamcompletion")).lower())
    if body and "model" not in body and deployment:
        body = {"model": deployment, **body}
    usage = {"prompt_tokens": said.get("prompttokens"), "completion_tokens": said.get("completiontokens")}
    result = bodies.exchange(out, body or sent, got, usage)
    if result is out:
        _completed(out, said)
    return result


def _completed(out: Request, said: dict[str, Any]) -> None:
    """Fill from the LLM log what the bodies lack; an answer that ends in the middle was cut by the log."""
    if out.status == "incomplete":
        out.output_json = None
        out.status = "ok"
        out.quality.append("output_truncated")
    asked, answered = said.get("requestmessages"), said.get("responsemessages")
    if out.content_level == "lengths" and asked:
        if isinstance(asked, list):
            out.messages_json = messages(asked, out)
            out.content_level, out.content_state = "text", "complete"
            out.quality.append("tools_unknown")
        else:
            out.content_state = "truncated"
    if out.output_json is None and isinstance(answered, list):
        turns = [turn for turn in answered if isinstance(turn, dict)]
        if turns:
            out.output_json = dumps(turns[0] if len(turns) == 1 else turns)
    if out.status == "unknown" and out.output_tokens:
        out.status = "ok"
