"""Azure OpenAI diagnostics, category RequestResponse: who was called when and for how long; no prompts and no token counts.

Blob and Event Hub exports name columns in camelCase, Log Analytics in PascalCase with `_s`, `_d`, `_t` behind. `requestTime` and
`responseTime` are .NET ticks (100 ns since the year 1); `durationMs` may be negative. Rows of other categories (Audit, Trace) are
skipped. Source: elastic/integrations 4275d16a (fields).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from traceprof import bodies
from traceprof.formats.base import (
    BadRecord,
    Has,
    Request,
    Skip,
    elapsed,
    http_code,
    leftovers,
    parse_time,
    text,
)

has = Has.ARRIVALS | Has.ENDS
summary = "Azure OpenAI diagnostic logs, category RequestResponse (JSONL, CSV)"

_UNIX_TICKS = 621_355_968_000_000_000  # 1970 in ticks
_SUFFIXES = ("_s", "_d", "_t", "_b", "_g")


def columns(record: dict[str, Any]) -> dict[str, Any]:
    """A row's columns, in lower case and without the marks of types that Log Analytics puts behind them.

    >>> columns({"TimeGenerated": 1, "backendTime_d": 2})
    {'timegenerated': 1, 'backendtime': 2}
    """
    out: dict[str, Any] = {}
    for key, value in record.items():
        name = key.removesuffix(" [UTC]")  # as the portal exports times
        name = name[:-2] if name[-2:] in _SUFFIXES else name
        if value is not None and value != "":
            out.setdefault(name.lower(), value)
    return out


def stamp(value: Any, what: str) -> int:
    """Microseconds since 1970 of a row's time, also as the portal's CSV spells it; raises BadRecord.

    >>> stamp("8/21/2026, 12:00:00.120 PM", "time") == stamp("2026-08-21T12:00:00.12Z", "time")
    True
    """
    if isinstance(value, str) and value[-3:] in (" AM", " PM"):
        for written in ("%m/%d/%Y, %I:%M:%S.%f %p", "%m/%d/%Y, %I:%M:%S %p"):
            try:
                value = datetime.strptime(value, written).replace(tzinfo=UTC)
                break
            except ValueError:
                continue
    return parse_time(value, what)[0]


def category(record: dict[str, Any]) -> str | None:
    """The category of a row of diagnostics."""
    return text(record.get("category")) or text(record.get("Category"))


def detect(record: dict[str, Any]) -> bool:
    """A row of the category, which says what operation it was."""
    return category(record) == "RequestResponse" and ("operationName" in record or "OperationName" in record)


def read(record: dict[str, Any]) -> Request | Skip:
    """One call; embeddings, images and calls that generate no text are skipped by kind."""
    if category(record) != "RequestResponse":
        return Skip("other_category")
    row = columns(record)
    told = columns(bodies.as_object(row.get("properties")) or {})
    operation = _operation(str(row.get("operationname")).lower())
    kind = bodies.other_kind({"model": told.get("modelname"), "input": ""})  # told by the model's name
    if kind is not None or operation not in ("chat", "text", "responses"):
        return Skip(kind or operation or "not_a_generation")
    out = Request(operation=operation, content_level="lengths", content_state="absent", clock="absolute")
    _times(out, row, told)
    out.request_id = text(row.get("correlationid"))
    out.tenant_id = text(told.get("objectid"))
    out.model_requested, out.model_served = text(told.get("modeldeploymentname")), text(told.get("modelname"))
    out.provider = "azure"
    out.stream = {"Streaming": True, "Non-Streaming": False}.get(str(told.get("streamtype")))
    out.http_status = http_code(row.get("resultsignature"))
    bodies.settle(out, None)
    out.extra_json = leftovers(told, ("modelversion", "requestlength", "responselength", "apiname"))
    return out


def _operation(name: str) -> str | None:
    if "embedding" in name:
        return "embedding"
    if "image" in name:
        return "image"
    if "audio" in name or "speech" in name:
        return "audio"
    if "chatcompletion" in name:
        return "chat"
    if "completion" in name:
        return "text"
    return "responses" if "response" in name and "create" in name else None


def _times(out: Request, row: dict[str, Any], told: dict[str, Any]) -> None:
    out.e2e_us = elapsed(row.get("durationms"), "durationMs", 1e3, out.quality)
    began, ended = _ticks(told.get("requesttime")), _ticks(told.get("responsetime"))
    if began is not None:
        out.arrival_us, out.arrival_quality = began, "measured"
        if ended is not None and ended < began:
            out.quality.append("bad_responseTime")
        else:
            out.end_us = ended
        return
    logged = row.get("time", row.get("timegenerated"))
    if logged is None:
        raise BadRecord("missing_field", "neither requestTime nor time")
    out.arrival_us, out.arrival_quality = stamp(logged, "time"), "log_time"


def _ticks(value: Any) -> int | None:
    """Microseconds since 1970 of .NET ticks."""
    try:
        ticks = int(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else 0
    except (ValueError, OverflowError):
        return None
    us = (ticks - _UNIX_TICKS) // 10
    return us if 0 <= us < 1e17 else None
