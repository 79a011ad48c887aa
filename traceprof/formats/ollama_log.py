"""Ollama's server log: gin's access lines, written at the end of a request, in local time with 1 s; no prompt, no counts, no model.

A line's arrival is its end less its duration. The zone is that of the server's other lines (`time=...+02:00`), or of a
collector's stamp. Bodies are in the files that OLLAMA_DEBUG_LOG_REQUESTS writes: `ollama`. Source: ollama/ollama fb3076099,
gin-gonic/gin logger.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from traceprof.formats.base import (
    BadRecord,
    Has,
    Request,
    Result,
    Skip,
    attempt,
    ended,
    parse_time,
    status_of_http,
)
from traceprof.formats.linetimes import LineClock

lines = True
has = Has.ARRIVALS | Has.ENDS
summary = "Ollama server log, access lines without prompts (text)"

_GIN = re.compile(
    r"\[GIN\] (\d{4})/(\d\d)/(\d\d) - (\d\d:\d\d:\d\d) \| +(\d{3}) \| +([\d.a-zµμ]+) \| +\S* \| (\w+) +\"([^\"?]*)"
)
_SLOG = re.compile(r"time=(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?)(Z|[+-]\d\d:\d\d) level=\w+ source=")
_PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s|µs|μs|us|ns)")
_UNIT_US = {"h": 3.6e9, "m": 6e7, "s": 1e6, "ms": 1e3, "µs": 1, "μs": 1, "us": 1, "ns": 1e-3}
_ROUTES = {
    "/api/chat": "chat", "/api/generate": "text", "/v1/chat/completions": "chat", "/v1/completions": "text",
    "/v1/responses": "responses", "/v1/messages": "chat",
}  # fmt: skip


def detect(record: Any) -> bool:
    """An access line of gin, or a line of Go's slog with its source."""
    return isinstance(record, str) and ("[GIN] 2" in record[:80] or _SLOG.search(record, 0, 160) is not None)


def read_all(records: Iterable[Any]) -> Iterator[tuple[Any, Result]]:
    """All lines of all files."""
    zone: int | None = None  # us that access lines are ahead of UTC, as the last line before that tells it
    for record in records:
        line = record.value if isinstance(record.value, str) else ""
        if "[GIN]" in line[:160]:
            found = _GIN.search(line, 0, 400)
            yield record, Skip("other_line") if found is None else attempt(_request, record, found, zone)
            continue
        said = _SLOG.search(line, 0, 160) if "time=" in line[:80] else None
        if said is not None:
            zone = _ahead(said[2])
        yield record, Skip("other_line")


def _request(record: Any, found: re.Match[str], zone: int | None) -> Request | Skip:
    """The request of an access line."""
    operation = _ROUTES.get(found[8]) if found[7] == "POST" else None
    if operation is None:
        return Skip("embedding" if "/embed" in found[8] else "other_line")
    took = duration_us(found[6])
    if took is None:
        raise BadRecord("bad_time", "the duration cannot be read")
    local = f"{found[1]}-{found[2]}-{found[3]} {found[4]}"
    parse_time(local, "the line's time")  # a bad date is told
    at = LineClock().read(f"{record.value[: found.start()]}{local}")
    out = Request(operation=operation, content_level="lengths", content_state="absent")
    assert at.us is not None
    zone = zone if at.assumed else 0  # a collector's stamp is in UTC
    out.quality.extend(at.assumed if zone is None else ())
    ended(out, at.us - (zone or 0), took)
    out.arrival_resolution_us = at.resolution_us
    out.http_status = int(found[5])
    out.status = status_of_http(out.http_status) or "unknown"
    return out


def duration_us(said: str) -> int | None:
    """Microseconds of a Go Duration's text.

    >>> duration_us("1m2s"), duration_us("812.3ms"), duration_us("soon")
    (62000000, 812300, None)
    """
    parts = _PART.findall(said) if len(said) < 40 else []
    if not parts or "".join(number + unit for number, unit in parts) != said:
        return None
    return round(sum(float(number) * _UNIT_US[unit] for number, unit in parts))


def _ahead(zone: str) -> int:
    if zone == "Z":
        return 0
    minutes = int(zone[1:3]) * 60 + int(zone[4:6])
    return (-1 if zone[0] == "-" else 1) * minutes * 60_000_000
