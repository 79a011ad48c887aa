"""Where logs come from: files, folders, globs and stdin, plain or compressed, cut into records of bounded size.

Everything here works on bytes and streams; nothing keeps more than one chunk of a file in memory.
"""

from __future__ import annotations

import bz2
import csv
import glob
import gzip
import io
import lzma
import re
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import orjson

from traceprof import formats
from traceprof.errors import TraceprofError
from traceprof.formats.base import BadRecord

HEAD_BYTES = 1 << 20
_MAGIC = {b"\x1f\x8b": "gz", b"\x28\xb5\x2f\xfd": "zst", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz"}
_KNOWN_BINARY = {
    b"PAR1": "a Parquet file; this version reads JSON, JSONL and CSV",
    b"SQLite format 3\x00": "an SQLite database; export the table as JSONL or CSV",
    b"\x80\x02": "a Python pickle, which is never opened, since opening one runs code",
    b"\x80\x04": "a Python pickle, which is never opened, since opening one runs code",
    b"\x80\x05": "a Python pickle, which is never opened, since opening one runs code",
    b"PK\x03\x04": "a zip archive; unpack it first",
}
CUT_OFF = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, OSError)


@dataclass(frozen=True, slots=True)
class Source:
    """One file to read: its path, its name in the trace (relative to what the user gave), and whether they named it."""

    path: Path
    name: str
    named: bool
    size: int


class Sniff(NamedTuple):
    """What the first bytes of a file say: container jsonl, json or csv, the format, and why; or why it is unusable."""

    container: str | None
    format: str | None
    reason: str


def resolve(inputs: tuple[str, ...], spool: Path) -> list[Source]:
    """The files that the user's words stand for, in order: files, folders (all files below), globs, `-` for stdin."""
    out: list[Source] = []
    for word in inputs:
        path = Path(word)
        if word == "-":
            copy = spool / "stdin"
            with copy.open("wb") as sink:
                while block := sys.stdin.buffer.read(1 << 20):
                    sink.write(block)
            out.append(Source(copy, "stdin", True, copy.stat().st_size))
        elif path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p.relative_to(path)))
            if not files:
                raise TraceprofError(
                    "the folder holds no files", path=path, remedy="give a log file or a folder of them"
                )
            out.extend(Source(p, p.relative_to(path).as_posix(), False, p.stat().st_size) for p in files)
        elif path.exists():
            if not path.is_file():
                raise TraceprofError(
                    "not a regular file", path=path, remedy="give a file, a folder or - for stdin"
                )
            out.append(Source(path, path.name, True, path.stat().st_size))
        else:
            found = sorted(glob.glob(word, recursive=True)) if glob.has_magic(word) else []  # noqa: PTH207  words, not paths
            if not found:
                what = "no file matches" if glob.has_magic(word) else "no such file"
                raise TraceprofError(what, path=word, remedy="check the path")
            out.extend(
                Source(Path(p), Path(p).name, False, Path(p).stat().st_size)
                for p in found
                if Path(p).is_file()
            )
    return out


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def open_stream(path: Path) -> IO[bytes]:
    """The file's bytes, decompressed by what its first bytes say (not by its name); a BOM is dropped."""
    try:
        raw = path.open("rb")
    except OSError as bad:
        raise TraceprofError(
            f"cannot be read: {bad.strerror}", path=path, remedy="check its permissions"
        ) from None
    magic = raw.read(6)
    raw.seek(0)
    kind = next((k for m, k in _MAGIC.items() if magic.startswith(m)), None)
    stream: Any = raw
    if kind == "gz":
        stream = gzip.GzipFile(fileobj=raw)
    elif kind == "bz2":
        stream = bz2.BZ2File(raw)
    elif kind == "xz":
        stream = lzma.LZMAFile(raw)  # noqa: SIM115  the caller closes it
    elif kind == "zst":
        import pyarrow as pa

        stream = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")
    return stream  # type: ignore[no-any-return]


def sniff(source: Source, force: str | None = None) -> Sniff:
    """Container and format of a file by its first megabyte; `force` names the format and leaves the container to find."""
    with open_stream(source.path) as stream:
        try:
            head = stream.read(HEAD_BYTES)
        except CUT_OFF as bad:
            return Sniff(None, None, f"the compressed file cannot be read: {bad}")
    head = head.removeprefix(b"\xef\xbb\xbf")
    whole = len(head) < HEAD_BYTES
    if not head.strip():
        return Sniff(None, None, "the file is empty")
    for magic, what in _KNOWN_BINARY.items():
        if head.startswith(magic):
            return Sniff(None, None, what)
    if _binary(head):
        return Sniff(None, None, "the file is binary, not text")
    container, sample = _sample(head, whole)
    if force:
        return Sniff(container, formats.load(force).__name__.rpartition(".")[2], "as asked by --format")
    name, votes = formats.detect(sample)
    if name is None:
        if not sample:
            return Sniff(None, None, "neither JSON, JSON lines nor CSV")
        keys = sorted({k for r in sample[:20] if isinstance(r, dict) for k in r})[:8]
        return Sniff(
            None, None, f"{container}, but of no known format (fields: {', '.join(map(str, keys)) or 'none'})"
        )
    return Sniff(container, name, f"{votes[name]} of {len(sample)} sampled records")


def _binary(head: bytes) -> bool:
    control = sum(head.count(bytes([b])) for b in (*range(9), *range(14, 27), *range(28, 32)))
    return control > len(head) // 20


def _sample(head: bytes, whole: bool) -> tuple[str, list[Any]]:
    """(container, up to 200 parsed records) of a file's head."""
    lines = head.split(b"\n")
    if not whole and len(lines) > 1:
        lines.pop()  # the last line is cut by the head's end
    first = head.lstrip()[:1]
    parsed: list[Any] = []
    for line in lines[:400]:
        if len(parsed) >= 200:
            break
        if line[:1].isspace():
            line = line.strip()
        if line[:1] in (b"{", b"["):
            try:
                value = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            parsed.extend(value if isinstance(value, list) else [value])
    records = [v for v in parsed if isinstance(v, dict)]
    if first == b"[" and not (lines and _is_json(lines[0])):
        return "json", _elements_sample(head)
    if records and (first != b"{" or len(lines) == 1 or _is_json(lines[0]) or not _pretty(lines)):
        return ("json" if first == b"[" and whole and len(lines) <= 2 else "jsonl"), records[:200]
    if first in (b"{", b"["):
        if len(lines) == 1 and not whole:
            return "jsonl", []  # one line longer than the head
        found = _elements_sample(head)
        return ("json", found) if found else ("jsonl", records)
    try:
        rows = list(
            csv.DictReader(io.StringIO(b"\n".join(lines[:50]).decode("utf-8", "replace"), newline=""))
        )
    except csv.Error:
        rows = []
    if rows and len(rows[0]) > 1:
        return "csv", [{k: v for k, v in row.items() if k is not None} for row in rows]
    return "jsonl", []


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


def _pretty(lines: list[bytes]) -> bool:
    """Whether the head looks like one document printed over many lines."""
    return lines[0].strip() in (b"{", b"[") or (len(lines) > 1 and lines[1][:1] in (b" ", b"\t"))


def _elements_sample(head: bytes) -> list[Any]:
    out = []
    for _, raw in elements(io.BytesIO(head), limit=HEAD_BYTES):
        if isinstance(raw, bytes):
            try:
                out.append(orjson.loads(raw))
            except orjson.JSONDecodeError:
                break
        if len(out) >= 200:
            break
    return out


# -- cutting a stream into records ---------------------------------------------------------------------------


class Lines(NamedTuple):
    """Whole lines of a file, the first of which is line `first`."""

    first: int
    data: bytes


class Span(NamedTuple):
    """Whole lines of an uncompressed file, by place: whoever parses them reads them."""

    first: int
    offset: int
    length: int


class TooLarge(NamedTuple):
    """A record longer than the limit; its bytes were passed over."""

    row: int
    size: int


def plain(path: Path) -> bool:
    """Whether the file is not compressed."""
    with path.open("rb") as raw:
        head = raw.read(6)
    return not any(head.startswith(m) for m in _MAGIC)


def spans(path: Path, chunk: int, limit: int) -> Iterator[Span | TooLarge]:
    """The same as `lines` for an uncompressed file, by place: the bytes are looked at, but not kept."""
    buffer = bytearray(chunk)
    row = 1
    with path.open("rb", buffering=0) as raw:
        begin = 3 if raw.read(3) == b"\xef\xbb\xbf" else 0
        while True:
            raw.seek(begin)
            length = lines_in = 0  # of the span that starts at `begin`
            while have := raw.readinto(buffer) or 0:
                cut = buffer.rfind(b"\n", 0, have) if not length else buffer.find(b"\n", 0, have)
                if cut >= 0:
                    lines_in = buffer.count(b"\n", 0, cut + 1)
                    length += cut + 1
                    break
                length += have
            if not length:
                return
            yield TooLarge(row, length) if length > max(limit, chunk) else Span(row, begin, length)
            row, begin = row + (lines_in or 1), begin + length


def lines(stream: IO[bytes], chunk: int, limit: int, *, quoted: bool = False) -> Iterator[Lines | TooLarge]:
    """A text stream as chunks of whole lines of about `chunk` bytes; a line over `limit` bytes is passed over.

    With `quoted`, a newline inside a pair of double quotes (CSV) does not end a record.
    """
    row, carry = 1, b""
    skipping = 0  # bytes of an oversized line passed over so far
    first = True
    while True:
        block = stream.read(chunk)
        if first:
            block, first = block.removeprefix(b"\xef\xbb\xbf"), False
        if not block:
            break
        if skipping:
            end = block.find(b"\n")
            if end < 0:
                skipping += len(block)
                continue
            yield TooLarge(row, skipping + end)
            row, skipping, block = row + 1, 0, block[end + 1 :]
        data = carry + block
        cut = _last_break(data, quoted)
        if cut < 0:
            carry = data
            if len(carry) > limit:
                skipping, carry = len(carry), b""
            continue
        yield Lines(row, data[:cut])
        row += data.count(b"\n", 0, cut)
        carry = data[cut:]
    if skipping:
        yield TooLarge(row, skipping)
    elif carry:
        yield Lines(row, carry)


def _last_break(data: bytes, quoted: bool) -> int:
    """Just past the last newline that ends a record, or -1."""
    cut = data.rfind(b"\n") + 1
    if quoted:
        while cut > 0 and data.count(b'"', 0, cut) % 2:
            cut = data.rfind(b"\n", 0, cut - 1) + 1
    return cut or -1


_STRING_END = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}"]|[^\s,:\[\]{}"]+', re.DOTALL)


def elements(stream: IO[bytes], limit: int, chunk: int = 1 << 20) -> Iterator[tuple[int, bytes | TooLarge]]:
    """The values of a JSON document: the elements of its top-level array, or its top-level values one after another.

    Yields (number from 1, bytes), or TooLarge in place of bytes over `limit`. A value cut off by the end of the file
    is yielded as it is, for the parser to refuse.
    """
    number, depth, base = 0, 0, 0  # base: depth at which values start (1 inside a top-level array)
    data, pos, start = b"", 0, -1  # start: offset in data of the value under way, -1 between values
    opened = False  # whether a top-level array has been entered
    dropped = 0  # bytes already passed over of a value over the limit
    in_string = False  # inside a string of such a value
    ended = False
    while not ended:
        block = stream.read(chunk)
        ended = not block
        data += block
        if in_string:
            close = _STRING_END.match(data)
            if close is None:
                rest = data[-1:] if (len(data) - len(data.rstrip(b"\\"))) % 2 else b""
                dropped, data = dropped + len(data) - len(rest), rest
                continue
            dropped, data, pos, start, in_string = dropped + close.end(), data[close.end() :], 0, 0, False
        while True:
            match = _TOKEN.search(data, pos)
            if match is None:
                pos = len(data)
                break
            if match.end() == len(data) and not ended:
                pos = match.start()  # the token may go on in the next block
                break
            token = match.group()
            if token == b'"':  # an unclosed string: needs more data
                pos = len(data) if ended else match.start()
                in_string = not ended and start >= 0 and len(data) - start > limit
                break
            pos = match.end()
            if token in (b"[", b"{"):
                if token == b"[" and depth == 0 and start < 0 and not opened:
                    opened, base, depth = True, 1, 1
                    continue
                if depth == base and start < 0:
                    start = match.start()
                depth += 1
            elif token in (b"]", b"}"):
                depth -= 1
                if depth < base:
                    opened, base, depth = False, 0, max(depth, 0)
                    continue
            elif depth == base and start < 0:
                start = match.start()
            if depth == base and start >= 0:
                number += 1
                size = dropped + pos - start
                yield number, (TooLarge(number, size) if size > limit else data[start:pos])
                start, dropped = -1, 0
        if in_string:
            dropped, data, pos, start = dropped + len(data) - start, b"", 0, 0
            continue
        keep = start if start >= 0 else pos
        if start >= 0 and pos - start > limit:  # drop what has been scanned of a value that is over the limit
            dropped += pos - start
            keep, start = pos, 0
            data, pos = data[keep:], 0
            continue
        data, pos = data[keep:], pos - keep
        start = 0 if start >= 0 else -1
    if start >= 0:
        number += 1
        yield number, (TooLarge(number, dropped + len(data)) if dropped else data[start:])


def parse(raw: bytes) -> Any:
    """One JSON value; raises BadRecord that names what is wrong with the bytes."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as bad:
        first = str(bad)
    try:
        words = raw.decode("utf-8")
    except UnicodeDecodeError as bad:
        raise BadRecord("invalid_utf8", f"byte {bad.start + 1} is not UTF-8") from None
    if "\x00" in words:
        raise BadRecord("nul_byte", f"a NUL byte at character {words.index(chr(0)) + 1}")
    import json  # takes NaN, lone surrogates and large integers, which orjson refuses

    try:
        return json.loads(words)
    except (ValueError, RecursionError) as bad:
        said = str(bad) or first
        cut = "unterminated" in said.lower() or (said.startswith("Expecting") and raw[-1:] not in b"}]")
        raise BadRecord("truncated_json" if cut else "invalid_json", said[:200]) from None
