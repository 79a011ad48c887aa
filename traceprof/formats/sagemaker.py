"""SageMaker data capture: one object a call of an endpoint, input and output as JSON, Base64 or CSV.

The only time is `inferenceTime`, to 1 s. Input and output may be captured in records of their own: they are joined on eventId, and lie
in a temporary file until all of the log is read. Streamed answers are not captured, and a share of the calls is sampled away.
Bodies are TGI's or OpenAI's; rows of CSV come from other models. Source: ai-dynamo/aiperf 1acb3691; AWS docs.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
from typing import Any

from traceprof import bodies
from traceprof.bodies import tgi
from traceprof.formats.base import (
    SESSION_KEYS,
    BadRecord,
    Has,
    Read,
    Request,
    Result,
    Skip,
    attempt,
    first_of,
    leftovers,
    parse_time,
    text,
)
from traceprof.formats.held import Held, key_of

has = Has.ARRIVALS | Has.TEXT | Has.OUTPUTS | Has.LENGTHS | Has.SESSIONS
summary = "SageMaker data capture of TGI and OpenAI-like endpoints (JSONL)"

_INPUT, _OUTPUT = "endpointInput", "endpointOutput"


def detect(record: dict[str, Any]) -> bool:
    """What was captured, and of which event."""
    return "captureData" in record and "eventMetadata" in record


def read_all(records: Iterable[Any]) -> Iterator[tuple[Any, Result]]:
    """Yields (record, what it became): a whole record at once; halves at the end, until which they lie on disk."""
    seen: dict[int, set[str]] = {}
    with Held() as halves:
        for record in records:
            sides = _captured(record.value)
            key = _key(record)
            if key is None or len(sides) != 1:
                yield record, attempt(_request, record.value, sides)
            elif sides.keys() <= seen.setdefault(key, set()):
                yield record, BadRecord("duplicate_request_id", "the same half of an event again")
            else:
                seen[key].update(sides)
                refused = halves.keep(record, None)
                if refused is not None:
                    yield refused
        waiting: dict[int, Any] = {}
        for record in halves:
            key = _key(record) or 0  # none where JSON cannot spell the id the same way twice
            if key in waiting:
                yield from _joined(record, waiting.pop(key))
            elif len(seen.get(key, ())) == 2:
                waiting[key] = record
            else:
                yield from _alone(record)
        for record in waiting.values():  # whose other half could not be kept
            yield from _alone(record)


def _key(record: Any) -> int | None:
    event = text(_object(record.value.get("eventMetadata")).get("eventId"))
    return None if event is None else key_of(event)


def _joined(one: Any, other: Any) -> Iterator[tuple[Any, Result]]:
    asked, answered = (one, other) if _INPUT in _captured(one.value) else (other, one)
    both = {**_captured(answered.value), **_captured(asked.value)}
    yield asked, attempt(_request, asked.value, both)
    yield answered, Skip("joined_to_its_request")


def _alone(record: Any) -> Iterator[tuple[Any, Result]]:
    sides = _captured(record.value)
    if _INPUT in sides:
        yield record, attempt(_request, record.value, sides)
    else:
        yield record, BadRecord("no_prompt", "an answer whose request is in none of the files given")


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _captured(value: dict[str, Any]) -> dict[str, Any]:
    """The sides of a call that a record holds."""
    data = _object(value.get("captureData"))
    return {side: data[side] for side in (_INPUT, _OUTPUT) if isinstance(data.get(side), dict)}


def _request(value: dict[str, Any], sides: dict[str, Any]) -> Read:
    meta = _object(value.get("eventMetadata"))
    if meta.get("inferenceTime") is None:
        raise BadRecord("missing_field", "no inferenceTime")
    asked, answered = _object(sides.get(_INPUT)), _object(sides.get(_OUTPUT))
    if asked.get("encoding") == "CSV":
        return Skip("not_a_generation")
    out = Request(clock="absolute", arrival_quality="measured", arrival_resolution_us=1_000_000)
    out.arrival_us = parse_time(meta["inferenceTime"], "inferenceTime")[0]
    out.request_id = text(meta.get("eventId"))
    out.provider = "sagemaker"
    said = _attributes(meta.get("customAttributes"))
    out.tenant_id = text(first_of(said, ("tenant", "tenant_id", "team")))
    out.user_id = text(first_of(said, ("user", "user_id")))
    out.session_id = text(first_of(said, SESSION_KEYS))
    out.session_kind = "explicit" if out.session_id else None
    out.extra_json = leftovers(meta, ("inferenceId",))
    body, answer = bodies.decoded(_data(asked)), _data(answered)
    if isinstance(body, dict) and bodies.of_request(body) is None and isinstance(body.get("inputs"), str):
        tgi.read_request(out, body)  # inputs without parameters, which elsewhere may ask for an embedding
        got = bodies.answer(answer)
        if got is None or bodies.of_response(got) is None:
            return Skip("not_a_generation")
        bodies.read_response(out, got, tgi)
        return out
    return bodies.exchange(out, body, answer)


def _data(side: dict[str, Any]) -> Any:
    """The text of a side, out of Base64."""
    data = side.get("data")
    if side.get("encoding") != "BASE64" or not isinstance(data, str):
        return data
    try:
        return base64.b64decode(data, validate=True).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        raise BadRecord("wrong_type", "data is no Base64") from None


def _attributes(value: Any) -> dict[str, str]:
    """`name=value` of the header with custom attributes: a list of them, or one text with `;` or `,` between."""
    parts = value if isinstance(value, list) else str(value or "").replace(";", ",").split(",")
    pairs = (part.partition("=") for part in parts if isinstance(part, str))
    return {name.strip(): given.strip() for name, mark, given in pairs if mark}
