"""What collectors wrap around each line of a log: Docker, Kubernetes, Compose, journald, cloud and search exports.

Exports of clouds put all records into an array under one name of an object: `MEMBERS[]`, and `MEMBERS[]json` where each of them is
wrapped again. A wrapped line becomes the line itself; before a text line, not before JSON, stands the collector's time and a space, as
`docker logs -t` prints it. Pieces of one long line are joined again. The lines that were joined leave blank lines behind
them, so that line numbers stay those of the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Protocol

import orjson


class Line(NamedTuple):
    """What a collector's line holds."""

    body: bytes  # without its newline
    stamp: bytes | None  # RFC 3339
    whole: bool  # False: the next line of the same stream goes on
    stream: bytes | str | None  # stdout and stderr are mixed line by line


_ANSI = re.compile(rb"\x1b\[[0-9;]*[A-Za-z]")
_CRI = re.compile(rb"(\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d)) (stdout|stderr) ([FP]) ?(.*)", re.DOTALL)
_STAMPED = re.compile(rb"(\d{4}-\d\d-\d\d[T ][\d:.,]+(?:Z|[+-]\d\d:?\d\d)?) (.*)", re.DOTALL)
_COMPOSE = re.compile(rb"[\w./-]+ +\| (.*)", re.DOTALL)
_SYSLOG = re.compile(rb"(?:<\d+>)?(?:\w{3} [ \d]\d [\d:]{8}|\d{4}-\d\d-\d\dT\S+) \S+ [\w./@-]+(?:\[\d+\])?: (.*)", re.DOTALL)  # fmt: skip
_PREFIX = re.compile(rb"[^{]{1,200}?(\{.*\})\s*", re.DOTALL)
_BODIES = (
    "log",
    "MESSAGE",
    "message",
    "@message",
    "textPayload",
    "jsonPayload",
    "line",
    "msg",
    "event",
    "_raw",
)
_TIMES = ("time", "timestamp", "@timestamp", "ts", "_time")


def _json(line: bytes) -> Line | None:
    """One JSON object a line: docker's json-file, journald -o json, Filebeat, Fluent Bit, CloudWatch, Cloud Logging, Loki."""
    if line[:1] != b"{":
        return None
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    key = next((k for k in _BODIES if record.get(k) is not None), None)
    if key is None:
        return None
    body = record[key]
    stamp = next((v for k in _TIMES if isinstance(v := record.get(k), str)), None)
    if stamp is None and str(record.get("__REALTIME_TIMESTAMP", "")).isdigit():
        at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(record["__REALTIME_TIMESTAMP"]))
        stamp = at.isoformat()
    if isinstance(body, list) and all(isinstance(b, int) and 0 <= b < 256 for b in body):
        body = bytes(body).decode("utf-8", "replace")  # journald writes what is not plain text as numbers
    if not isinstance(body, str):
        return Line(orjson.dumps(body), None, True, None) if isinstance(body, dict) else None
    whole = body.endswith("\n") or key != "log" or "stream" not in record
    return Line(
        body.encode("utf-8", "replace"), stamp.encode() if stamp else None, whole, record.get("stream")
    )


def _cri(line: bytes) -> Line | None:
    """Kubernetes: `TIME stdout F line`; P marks a piece of a line."""
    found = _CRI.fullmatch(line)
    return found and Line(found[4], found[1], found[3] == b"F", found[2])


def _stamped(line: bytes) -> Line | None:
    found = _STAMPED.fullmatch(line)
    return found and Line(found[2], found[1].replace(b" ", b"T"), True, None)


def _compose(line: bytes) -> Line | None:
    found = _COMPOSE.fullmatch(line)
    return found and Line(found[1], None, True, None)


def _syslog(line: bytes) -> Line | None:
    found = _SYSLOG.fullmatch(line)
    return found and Line(found[1], None, True, None)


def _prefix(line: bytes) -> Line | None:
    """Words before a JSON object, such as a time and a level."""
    found = _PREFIX.fullmatch(line)
    return found and Line(found[1], None, True, None)


KINDS: dict[str, Callable[[bytes], Line | None]] = {
    "json": _json, "cri": _cri, "compose": _compose, "syslog": _syslog, "stamped": _stamped, "prefix": _prefix,
}  # fmt: skip


# names of such an array: Azure; CloudWatch by subscription and by its CLI; Cloudflare; other APIs
MEMBERS = ("records", "logEvents", "events", "result", "data")


def unwrapped(lines: Iterator[bytes], kind: str) -> Iterator[bytes]:
    """Each line out of its envelope, a blank line for each that was joined to another; strange lines as they are."""
    read = KINDS[kind]
    open_: dict[Any, tuple[list[bytes], bytes | None]] = {}  # pieces so far, by stream
    for raw in lines:
        line = _ANSI.sub(b"", raw) if b"\x1b" in raw else raw
        found = read(line)
        if found is None:
            yield line
            continue
        pieces, stamp = open_.pop(found.stream, ([], found.stamp))
        pieces.append(found.body)
        if not found.whole:
            open_[found.stream] = pieces, stamp
            yield b""
            continue
        yield laid_out(pieces, stamp)
    for pieces, stamp in open_.values():
        yield laid_out(pieces, stamp)


def laid_out(pieces: list[bytes], stamp: bytes | None) -> bytes:
    """The pieces of a line as one line, after the collector's time when it is text."""
    body = b"".join(pieces).strip(b"\r\n").replace(b"\r", b" ").replace(b"\n", b" ")
    return body if stamp is None or not body or body.lstrip()[:1] in b"{[" else stamp + b" " + body


class Readable(Protocol):
    """What gives bytes: an open file or a stream."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""
        ...


class Unwrapped:
    """A stream of wrapped lines, as a stream of what they hold; memory is bounded by the longest joined line."""

    def __init__(self, stream: Readable, kind: str) -> None:
        self._lines = unwrapped(self._split(stream), kind)
        self._failed: Exception | None = None
        self._ready = b""

    def _split(self, stream: Readable) -> Iterator[bytes]:
        carry: list[bytes] = []
        while True:
            try:
                block = stream.read(1 << 20)
            except Exception as bad:  # told after the lines that could be read
                self._failed = bad
                block = b""
            if not block:
                break
            first, newline, rest = block.partition(b"\n")
            carry.append(first)
            if not newline:
                continue
            yield b"".join(carry).rstrip(b"\r")
            *whole, last = rest.split(b"\n")
            for line in whole:
                yield line.rstrip(b"\r")
            carry = [last]
        if any(carry):
            yield b"".join(carry)

    def read(self, size: int) -> bytes:
        """About `size` bytes of whole lines, fewer only at the end."""
        out: list[bytes] = []
        have = 0
        for line in self._lines:
            out.append(line)
            have += len(line) + 1
            if have >= size:
                break
        if not out and self._failed is not None:
            raise self._failed
        return b"\n".join(out) + b"\n" if out else b""
