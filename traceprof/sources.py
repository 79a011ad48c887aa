"""Where logs come from: files, folders, globs, stdin and object stores, plain or compressed, cut into records of bounded size.

Everything here works on bytes and streams; nothing keeps more than one chunk of a file in memory.
"""

from __future__ import annotations

import bz2
import contextlib
import csv
import glob
import gzip
import io
import itertools
import lzma
import os
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, TypeGuard

import orjson

from traceprof import envelopes, formats, stores
from traceprof.errors import TraceprofError
from traceprof.formats.base import BadRecord
from traceprof.stores import Remote

HEAD_BYTES = 1 << 20
MAX_RECORD_BYTES = 64 << 20
_MAGIC = {b"\x1f\x8b": "gz", b"\x28\xb5\x2f\xfd": "zst", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz"}
_KNOWN_BINARY = {
    b"SQLite format 3\x00": "an SQLite database; export the table as JSONL or CSV",
    b"\x80\x02": "a Python pickle, which is never opened, since opening one runs code",
    b"\x80\x04": "a Python pickle, which is never opened, since opening one runs code",
    b"\x80\x05": "a Python pickle, which is never opened, since opening one runs code",
    b"PK\x03\x04": "a zip archive; unpack it first",
}
_BOM = b"\xef\xbb\xbf"
_PARQUET = b"PAR1"
SAMPLE = 200  # records that a format is told by
_OFFLOADED = re.compile(r"(?:^|/)data/[0-9a-f-]{8,}_(?:input|output)\.json(?:\.gz)?$")
_PIECE = 1 << 16
_DAMAGE = (
    EOFError,
    zlib.error,
    lzma.LZMAError,
    OSError,
)  # OSError: gzip.BadGzipFile, bz2 and zstd among others


class CutOff(Exception):  # noqa: N818  not an error of the program
    """The stream cannot be read to its end; `rest` is the record it breaks off in, which starts at `row`."""

    def __init__(self, why: str, row: int = 1, rest: bytes = b"") -> None:
        self.why, self.row, self.rest = why, row, rest
        super().__init__(why)


@dataclass(frozen=True, slots=True)
class Source:
    """One file to read: its path, its name in the trace (relative to what the user gave), and whether they named it."""

    path: Path | Remote
    name: str
    named: bool
    size: int

    @property
    def shown(self) -> Path | Remote | str:
        """What to call it in a message."""
        return self.name if self.name == "stdin" else self.path

    def stamp(self) -> list[Any]:
        """Where it lies, its size, and when it was changed: the same as long as it is the same log."""
        if isinstance(self.path, Remote):
            return [str(self.path), self.size, self.path.modified]
        return [os.fspath(self.path.resolve()), self.size, self.path.stat().st_mtime_ns]


class Sniff(NamedTuple):
    """What the first bytes of a file say: container jsonl, json, csv, text or parquet, the format, and why; or why not."""

    container: str | None
    format: str | None
    reason: str
    envelope: str | None = None  # what a collector wrapped around each line


def resolve(inputs: tuple[str, ...], spool: Path) -> list[Source]:
    """The files that the user's words stand for, in order: files, folders (all files below), globs, `-` for stdin, URLs.

    A file that several words stand for is read once.
    """
    found: dict[
        Path | str, tuple[Path | Remote, Path, bool]
    ] = {}  # by real path: path, relative to the word, named

    def take(path: Path, relative: Path, named: bool) -> None:
        found.setdefault(path.resolve(), (path, relative, named))

    for word in inputs:
        if stores.is_url(word):
            several = stores.objects(word)
            for remote, key in several:
                found.setdefault(str(remote), (remote, Path(key), len(several) == 1))
            continue
        path = Path(word)
        if word == "-":
            copy = spool / "stdin"
            if not copy.exists():
                with copy.open("wb") as sink:
                    while block := sys.stdin.buffer.read(1 << 20):
                        sink.write(block)
            take(copy, Path("stdin"), True)
        elif path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p.relative_to(path)))
            if not files:
                raise TraceprofError(
                    "the folder holds no files", path=path, remedy="give a log file or a folder of them"
                )
            for file in files:
                take(file, file.relative_to(path), False)
        elif path.exists():
            if not path.is_file():
                raise TraceprofError(
                    "not a regular file", path=path, remedy="give a file, a folder or - for stdin"
                )
            take(path, Path(path.name), True)
        else:
            magic = glob.has_magic(word)
            files = [Path(p) for p in sorted(glob.glob(word, recursive=True))] if magic else []  # noqa: PTH207  words, not paths
            files = [p for p in files if p.is_file()]
            if not files:
                what = "no file matches" if magic else "no such file"
                raise TraceprofError(what, path=word, remedy="check the path")
            for file in files:
                take(file, Path(file.name), False)
    return _named(list(found.values()))


def _named(files: list[tuple[Path | Remote, Path, bool]]) -> list[Source]:
    """Sources whose names differ: of files with one name, as much of the path as tells them apart."""
    names = [relative.as_posix() for _, relative, _ in files]
    for depth in itertools.count(1):
        count = Counter(names)
        same = [i for i, name in enumerate(names) if count[name] > 1]
        if not same:
            break
        for i in same:
            path = files[i][0]
            whole = path.path if isinstance(path, Remote) else path.resolve().as_posix()[1:]
            names[i] = "/".join(whole.split("/")[-depth:])  # real paths differ, so this ends
    return [
        Source(
            path,
            os.fsencode(name).decode("utf-8", "replace"),
            named,
            path.size if isinstance(path, Remote) else path.stat().st_size,
        )
        for (path, _, named), name in zip(files, names, strict=True)
    ]


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


class Stream:
    """A file's bytes, decompressed; what can be read of a damaged file is read before `CutOff` is raised."""

    def __init__(self, raw: IO[bytes], decoder: Any) -> None:
        self._raw, self._decoder = raw, decoder
        self._read = decoder.read1 if hasattr(decoder, "read1") else decoder.read
        self._why: str | None = None
        self._started = False

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(*_DAMAGE):
            self._decoder.close()
        self._raw.close()

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, fewer only at the end; without the BOM that the file may begin with."""
        pieces: list[bytes] = []
        have = 0
        while have < size and self._why is None:
            try:
                piece = self._read(min(size - have, _PIECE))
            except _DAMAGE as bad:
                self._why = f"{type(bad).__name__}: {bad}"
                break
            if not piece:
                break
            pieces.append(piece)
            have += len(piece)
        if not have and self._why is not None:
            raise CutOff(self._why)
        block = b"".join(pieces)
        if not self._started:
            self._started, block = True, block.removeprefix(_BOM)
        return block


def open_stream(path: Path | Remote) -> Stream:
    """The file's bytes, decompressed by what its first bytes say (not by its name)."""
    try:
        raw = path.open("rb")
    except OSError as bad:
        raise TraceprofError(
            f"cannot be read: {bad.strerror}", path=path, remedy="check its permissions"
        ) from None
    kind = _compression(raw.read(6))
    raw.seek(0)
    decoder: Any = raw
    if kind == "gz":
        decoder = gzip.GzipFile(fileobj=raw)
    elif kind == "bz2":
        decoder = bz2.BZ2File(raw)
    elif kind == "xz":
        decoder = lzma.LZMAFile(raw)  # noqa: SIM115  the stream closes it
    elif kind == "zst":
        import pyarrow as pa

        decoder = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")
    return Stream(raw, decoder)


def _compression(magic: bytes) -> str | None:
    return next((kind for begins, kind in _MAGIC.items() if magic.startswith(begins)), None)


_PROSE = (".md", ".rst", ".html", ".pdf")


def sniff(source: Source, force: str | None = None, limit: int = MAX_RECORD_BYTES) -> Sniff:
    """Container and format of a file by its first records; `force` names the format and leaves the container to find.

    Raises TraceprofError when nothing in the sample tells two formats apart.
    """
    if not source.named and source.name.lower().endswith(_PROSE):
        return Sniff(None, None, "prose, whose examples are no log; name the file itself to have it read")
    if not source.named and _OFFLOADED.search(source.name):
        return Sniff(None, None, "a body that Bedrock moved out of its log; the log has the row")
    with open_stream(source.path) as stream:
        try:
            head = stream.read(HEAD_BYTES)
        except CutOff as bad:
            return Sniff(None, None, f"the compressed file cannot be read: {bad.why}")
    if not head.strip():
        return Sniff(None, None, "the file is empty")
    for magic, what in _KNOWN_BINARY.items():
        if head.startswith(magic):
            return Sniff(None, None, what)
    if _is_framed_otlp(head):
        what = "OTLP messages with their length before each; let the collector's file exporter write `format: json`, no compression"
        return Sniff(None, None, what)
    if head[257:262] == b"ustar":
        return Sniff(None, None, "a tar archive; unpack it first")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return Sniff(None, None, "UTF-16 text; convert it with: iconv -f utf-16 -t utf-8")
    if not head.startswith(_PARQUET) and _binary(head):
        return Sniff(None, None, "the file is binary, not text")
    module = formats.load(force) if force else None
    try:
        found = look(source.path, limit, head, unwrap=not getattr(module, "as_it_stands", False))
    except CutOff as bad:
        return Sniff(None, None, f"the Parquet file is damaged: {bad.why}")
    if module is not None:
        if formats.reads_lines(module) and found.container in ("csv", "jsonl"):
            found = found._replace(container="text")
        return Sniff(
            found.container, module.__name__.rpartition(".")[2], "as asked by --format", found.envelope
        )
    names, votes = formats.detect(found.records)
    named = formats.of_file(source.name) if formats.generic(names) and found.records else None
    if named is not None:
        return Sniff(found.container, named, "the name of the file", found.envelope)
    if len(names) > 1:
        known = " or ".join(sorted(n.replace("_", "-") for n in names))
        raise TraceprofError(
            f"could be {known}: {votes[names[0]]} of {len(found.records)} sampled records are like each",
            path=source.shown,
            remedy="say which with --format",
        )
    if not names:
        return Sniff(None, None, _unknown(found))
    asked = getattr(formats.load(names[0]), "only_when_asked", None)
    if asked is not None:
        return Sniff(None, None, asked)
    wrapped = f", each in an envelope ({found.envelope})" if found.envelope else ""
    reason = f"{votes[names[0]]} of {len(found.records)} sampled records{wrapped}"
    return Sniff(found.container, names[0], reason, found.envelope)


class Look(NamedTuple):
    """Container, the records of the sample, and the envelope around each line."""

    container: str
    records: list[Any]
    envelope: str | None
    long: bool = False  # there is JSON, but its first record is over the limit


def look(
    path: Path | Remote, limit: int = MAX_RECORD_BYTES, head: bytes | None = None, *, unwrap: bool = True
) -> Look:
    """What a file's first bytes hold; with `unwrap`, out of the envelope when only so it is of a known format."""
    if head is None:
        with open_stream(path) as stream:
            head = stream.read(HEAD_BYTES)
    if head.startswith(_PARQUET):
        rows = parquet_rows(path)
        return Look("parquet", [record for _, _, record in itertools.islice(rows, SAMPLE)], None)
    whole = len(head) < HEAD_BYTES
    container, records = sample(head, whole)
    if not records and not whole and container != "csv":
        records = _long_sample(path, container, limit)
        if not records and head.lstrip()[:1] in (b"{", b"["):
            return Look(container, [], None, long=True)
    if not unwrap:
        return Look(container, records, None)
    names = formats.detect(records)[0]
    if container != "json" and not names:
        for kind in envelopes.KINDS:
            inner = envelopes.Unwrapped(io.BytesIO(head), kind).read(HEAD_BYTES)
            inner_container, inner_records = sample(inner, whole)
            if inner_container != "csv" and formats.detect(inner_records)[0]:
                return Look(inner_container, inner_records, kind)
    if formats.generic(names):
        return _in_array(head, records) or Look(container, records, None)
    return Look(container, records, None)


def _in_array(head: bytes, records: list[Any]) -> Look | None:
    """What the array holds that an export put all records into; None when there is no such array, or nothing known in it."""
    for member in envelopes.MEMBERS:
        if not all(isinstance(r, dict) and isinstance(r.get(member), list) for r in records):
            continue
        for kind in ("", "json") if b'"%s"' % member.encode() in head else ():
            envelope = f"{member}[]{kind}"
            inner = b"\n".join(_whole(elements_of(io.BytesIO(head), HEAD_BYTES, envelope)))
            container, found = sample(inner, True)
            if container != "csv" and formats.detect(found)[0]:
                return Look("text" if container == "text" else "json", found, envelope)
    return None


def _whole(values: Iterator[tuple[int, bytes | TooLarge]]) -> list[bytes]:
    """The first values of a document, each on one line; not the one that the head's end cuts."""
    taken = [v for _, v in itertools.islice(values, SAMPLE) if isinstance(v, bytes)]
    return [v.replace(b"\n", b" ") for v in taken if v[:1] not in (b"{", b"[") or _is_json(v)]


def _unknown(found: Look) -> str:
    if not found.records:
        if found.long:
            return "its first record is longer than --max-record-bytes or no whole JSON; raise the limit"
        return "neither JSON, JSON lines nor CSV"
    first = found.records[0]
    if str(next(iter(first), "") if isinstance(first, dict) else first).startswith(("data:", "event:")):
        return "the events of a streamed answer, without the request that it answers"
    keys = list(dict.fromkeys(str(k) for r in found.records[:20] if isinstance(r, dict) for k in r))[:12]
    if not all(_NAME.fullmatch(k) for k in keys):  # lines of text, of which nothing may be repeated here
        return "text lines of no known format"
    told = ", ".join(keys) or "none"
    return f"{found.container} of no known format (fields: {told}); name its fields with --format mapping --map FILE"


_PARTITION = re.compile(r"(?:^|/)(\w+)=([^/]*)(?=/)")


def parquet_rows(path: Path | Remote, group: int | None = None) -> Iterator[tuple[int, bytes, Any]]:
    """(row from 1, JSON of the row, the row as a dict) of a Parquet file, or of one of its row groups.

    Columns that Hive keeps in the names of folders (`.../date=2026-08-21/...`) are in the row.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    partitions = dict(_PARTITION.findall(os.fspath(path)))
    try:
        file = pq.ParquetFile(path.open("rb") if isinstance(path, Remote) else path)
        row = 1
        if group is not None:
            row += sum(file.metadata.row_group(i).num_rows for i in range(group))
        for batch in file.iter_batches(256, row_groups=None if group is None else [group]):
            maps = [f.name for f in batch.schema if pa.types.is_map(f.type)]
            for record in batch.to_pylist():
                for name, value in partitions.items():
                    record.setdefault(name, value)
                for name in maps:
                    if record[name] is not None:
                        record[name] = dict(record[name])
                yield row, orjson.dumps(record, default=_spelled, option=orjson.OPT_NON_STR_KEYS), record
                row += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as bad:
        raise CutOff(str(bad).splitlines()[0][:200]) from None


def parquet_groups(path: Path | Remote) -> list[int]:
    """Bytes of each row group of a Parquet file, uncompressed."""
    import pyarrow.parquet as pq

    meta = pq.read_metadata(path.open("rb") if isinstance(path, Remote) else path)
    return [meta.row_group(i).total_byte_size for i in range(meta.num_row_groups)]


def _spelled(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _long_sample(path: Path | Remote, container: str, limit: int) -> list[Any]:
    """The first records of a file whose first one is longer than the head."""
    with open_stream(path) as stream, contextlib.suppress(CutOff):
        if container == "json":
            raws: Iterator[Any] = (raw for _, raw in elements(stream, limit))
        else:
            raws = (
                line
                for piece in lines(stream, HEAD_BYTES, limit)
                if isinstance(piece, Lines)
                for line in piece.data.split(b"\n")
            )
        for raw in itertools.islice((raw for raw in raws if isinstance(raw, bytes) and raw.strip()), 20):
            with contextlib.suppress(BadRecord):
                value = parse(raw)
                return value if isinstance(value, list) else [value]
    return []


def _is_framed_otlp(head: bytes) -> bool:
    """Whether a file begins as the collector's exporter begins one with `format: proto` or `compression`.

    That is a length in 4 bytes, then a zstd frame, or a protobuf message whose first field is a group of spans or log records.
    """
    size, message = int.from_bytes(head[:4], "big"), head[4:]
    if not 8 < size < 1 << 26 or (size < len(message) and int.from_bytes(message[size : size + 3], "big") >= 1 << 18):  # fmt: skip
        return False
    if message.startswith(b"\x28\xb5\x2f\xfd"):
        return True
    found = re.match(rb"\x0a([\x80-\xff]{0,4}[\x00-\x7f])[\x0a\x12]", message)
    if found is None:
        return False
    length: bytes = found[1]
    inner = sum((byte & 127) << 7 * place for place, byte in enumerate(length))
    return 1 + len(length) + inner <= size


_NAME = re.compile(r"[\w .@/-]{1,40}")


def _binary(head: bytes) -> bool:
    control = sum(head.count(bytes([b])) for b in (*range(9), *range(14, 27), *range(28, 32)))
    return control > len(head) // 20


_TAG = re.compile(
    rb'\[[^\[\]{}"]{1,80}\]\s*\S'
)  # a line of text that begins with a time or a level in brackets


def sample(head: bytes, whole: bool) -> tuple[str, list[Any]]:
    """(container, up to SAMPLE records) of a file's head; none where the first record is longer than the head.

    A record is parsed JSON, a row of CSV as a dict, or a line of text as it is.
    """
    lines = head.split(b"\n")
    if not whole and len(lines) > 1:
        lines.pop()  # the last line is cut by the head's end
    lines = [line.strip() for line in itertools.islice((li for li in lines if not li.isspace() and li), 400)]
    first = lines[0][:1] if lines else b""
    if first == b"[" and not (len(lines) > 1 and _is_json(lines[0])) and not _TAG.match(lines[0]):
        return "json", _elements_sample(head)
    if first == b"{" and not _is_json(lines[0]) and (_pretty(head) or _glued(lines)):
        return "json", _elements_sample(head)
    parsed: list[Any] = []
    for line in lines:
        if line[:1] in (b"{", b"["):
            with contextlib.suppress(BadRecord):
                value = parse(line)
                parsed.extend(value if isinstance(value, list) else [value])
    records = [v for v in parsed if isinstance(v, dict)]
    words = [
        line.decode("utf-8", "replace")
        for line in lines
        if line[:1] not in (b"{", b"[") or not _is_json(line)
    ]
    told = [line for line in words if formats.claims(line)]
    if told and len(told) >= sum(map(bool, map(formats.claims, records))):
        return "text", told[:SAMPLE]
    if records or first in (b"{", b"["):
        return "jsonl", records[:SAMPLE]
    try:
        rows = list(
            csv.DictReader(io.StringIO(b"\n".join(lines[:50]).decode("utf-8", "replace"), newline=""))
        )
    except csv.Error:
        rows = []
    if rows and len(rows[0].keys() - {None}) > 1:
        return "csv", [{k: v for k, v in row.items() if k is not None} for row in rows]
    return "jsonl", []


def _is_json(line: bytes) -> bool:
    try:
        parse(line)
    except BadRecord:
        return False
    return True


def _pretty(head: bytes) -> bool:
    """Whether the head looks like one document printed over many lines."""
    lines = head.lstrip().split(b"\n", 2)
    second = lines[1] if len(lines) > 1 else b""
    return second[:1] in (b" ", b"\t") or (lines[0].strip() == b"{" and second[:1] != b"{")


def _glued(lines: list[bytes]) -> bool:
    """Whether a file is one line of objects with nothing between them, as Firehose puts records together."""
    if len(lines) > 1:
        return False
    begun = (raw for _, raw in itertools.islice(elements(io.BytesIO(lines[0]), HEAD_BYTES), 2))
    return [isinstance(raw, bytes) and raw[:1] == b"{" for raw in begun] == [True, True]


def _elements_sample(head: bytes) -> list[Any]:
    out = []
    for _, raw in elements(io.BytesIO(head), limit=HEAD_BYTES):
        if isinstance(raw, bytes):
            with contextlib.suppress(BadRecord):
                out.append(parse(raw))
        if len(out) >= SAMPLE:
            break
    return out


# -- cutting a stream into records ---------------------------------------------------------------------------


class Readable(Protocol):
    """What gives bytes: an open file or a `Stream`."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""
        ...


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


def seekable(path: Path | Remote) -> TypeGuard[Path]:
    """Whether lines can be read by their place: a file that is not compressed, on this machine."""
    if isinstance(path, Remote):
        return False
    with path.open("rb") as raw:
        return _compression(raw.read(6)) is None


def spans(path: Path, chunk: int, limit: int) -> Iterator[Span | TooLarge]:
    """The same as `lines` for an uncompressed file, by place: the bytes are looked at, but not kept."""
    buffer = bytearray(chunk)
    row = 1
    with path.open("rb", buffering=0) as raw:
        begin = len(_BOM) if raw.read(len(_BOM)) == _BOM else 0
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
            long = length > max(limit, chunk)  # then it is one line; `ingest` looks at shorter ones
            yield TooLarge(row, length - lines_in) if long else Span(row, begin, length)
            row, begin = row + (lines_in or 1), begin + length


def split(data: bytes) -> Iterator[memoryview]:
    """Lines of `data` without their newlines, each where it lies."""
    whole = memoryview(data)
    start = 0
    while (end := data.find(b"\n", start)) >= 0:
        yield whole[start:end]
        start = end + 1
    yield whole[start:]


def lines(stream: Readable, chunk: int, limit: int, *, quoted: bool = False) -> Iterator[Lines | TooLarge]:
    """A text stream as chunks of whole lines of about `chunk` bytes; a line over `limit` bytes is passed over.

    With `quoted`, a newline inside a pair of double quotes (CSV) does not end a record. Raises CutOff at the end of
    what can be read of a damaged stream.
    """
    row, carry = 1, b""
    skipping = 0  # bytes of an oversized line passed over so far
    while True:
        try:
            block = stream.read(chunk)
        except CutOff as bad:
            raise CutOff(bad.why, row, carry) from None
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
    """Just past the last newline that ends a record, or -1.

    >>> _last_break(b'1,"a"\\n2,"b\\n', True)  # the second newline is inside quotes
    6
    """
    end = len(data)
    inside = quoted and data.count(b'"') % 2 == 1
    while True:
        quote = data.rfind(b'"', 0, end) if quoted else -1
        if not inside:
            cut = data.rfind(b"\n", quote + 1, end) + 1
            if cut:
                return cut
        if quote < 0:
            return -1
        end, inside = quote, not inside


_BETWEEN = re.compile(rb"[^\s,:]")  # where the next value starts
_INSIDE = re.compile(rb'["\[\]{}]')
_STRING = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*("?)', re.DOTALL)  # to the closing quote, or as far as it goes
_SCALAR_END = re.compile(rb"[\s,:\[\]{}\"]")


def elements(
    stream: Readable, limit: int, chunk: int = 1 << 20, member: bytes | None = None
) -> Iterator[tuple[int, bytes | TooLarge]]:
    """The values of a JSON document: the elements of its top-level array, or its top-level values one after another.

    With `member`, a name in its quotes, they are the elements of the array of that name in each top-level object.

    Yields (number from 1, bytes), or TooLarge in place of bytes over `limit`. A value cut off by the end of the file
    is yielded as it is, for the parser to refuse. Raises CutOff at the end of what can be read of a damaged stream.
    Memory is bounded: a value is kept in pieces, which are dropped once they are more than `limit`.
    """
    number = 0
    opened = False  # inside the array
    inside = False  # inside the object around it
    name: bytes | None = None  # of the object's member whose value comes next
    depth = 0  # brackets open in the value under way
    where = "between"  # or in "brackets", a "string" or a "scalar" of the value under way
    pieces: list[bytes] = []
    size = 0
    carry = b""  # a backslash at the end of a block: what it escapes is in the next one

    def keep(piece: bytes) -> None:
        nonlocal size
        size += len(piece)
        if size > limit:
            pieces.clear()
        else:
            pieces.append(piece)

    def value() -> Iterator[tuple[int, bytes | TooLarge]]:
        nonlocal number, size, where, name
        got = TooLarge(number + 1, size) if size > limit else b"".join(pieces)
        pieces.clear()
        size, where = 0, "between"
        if member is not None and not opened:  # a name or what it names
            name = got if inside and name is None and isinstance(got, bytes) else None
            return
        number += 1
        yield number, got

    while True:
        try:
            block = stream.read(chunk)
        except CutOff as bad:
            raise CutOff(bad.why, number + 1, b"".join(pieces) + carry) from None
        if not block:
            break
        data, pos = carry + block, 0
        carry = b""
        while pos < len(data):
            start = pos
            if where == "between":
                found = _BETWEEN.search(data, pos)
                if found is None:
                    break
                start = pos = found.start()
                first = data[pos : pos + 1]
                if member is not None and not opened and first == (b"}" if inside else b"{"):
                    inside, name, pos = not inside, None, pos + 1
                    continue
                if first == b"[" and not opened and (member is None or (inside and name == member)):
                    opened, name, pos = True, None, pos + 1
                    continue
                if first == b"]" and opened:
                    opened, pos = False, pos + 1
                    continue
                depth = 0
                where = "string" if first == b'"' else "brackets" if first in (b"[", b"{") else "scalar"
                pos += 1
                if where == "brackets":
                    depth = 1
            if where == "scalar":
                found = _SCALAR_END.search(data, pos)
                pos = len(data) if found is None else found.start()
                keep(data[start:pos])
                if found is not None:
                    yield from value()
                continue
            while pos < len(data):
                if where == "string":
                    match = _STRING.match(data, pos)
                    assert match is not None
                    pos = match.end()
                    if not match.group(1):  # it goes on in the next block
                        carry, pos = data[pos:], len(data)
                        break
                    where = "brackets"
                    if not depth:
                        break
                found = _INSIDE.search(data, pos)
                if found is None:
                    pos = len(data)
                    break
                pos = found.end()
                what = found.group()
                if what == b'"':
                    where = "string"
                else:
                    depth += 1 if what in b"[{" else -1
                    if not depth:
                        break
            keep(data[start : pos - len(carry)])
            if where == "brackets" and not depth:
                yield from value()
    if carry:
        keep(carry)
    if where != "between":
        yield from value()


def elements_of(stream: Readable, limit: int, envelope: str | None) -> Iterator[tuple[int, bytes | TooLarge]]:
    """`elements`, out of the array that an envelope such as `records[]` names, and each out of its own (`logEvents[]json`)."""
    member, _, kind = (envelope or "").partition("[]")
    for number, value in elements(stream, limit, member=f'"{member}"'.encode() if member else None):
        found = envelopes.KINDS[kind](value) if kind and isinstance(value, bytes) else None
        yield number, value if found is None else envelopes.laid_out([found.body], found.stamp)


def parse(raw: bytes | memoryview) -> Any:
    """One JSON value; raises BadRecord that names what is wrong with the bytes."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as bad:
        first = str(bad)
    raw = bytes(raw).removeprefix(_BOM)  # of a file that was appended to another
    try:
        words = raw.decode("utf-8")
    except UnicodeDecodeError as bad:
        raise BadRecord("invalid_utf8", f"byte {bad.start + 1} is not UTF-8") from None
    if "\x00" in words:
        raise BadRecord("nul_byte", f"a NUL byte at character {words.index(chr(0)) + 1}")
    import json  # takes NaN, lone surrogates and large integers, which orjson refuses

    try:
        return whole_characters(json.loads(words))
    except (ValueError, RecursionError) as bad:
        said = str(bad) or first
        begun = raw.lstrip()[:1] in (b"{", b"[") and raw.rstrip()[-1:] not in (b"}", b"]")
        cut = begun and ("unterminated" in said.lower() or said.startswith("Expecting"))
        raise BadRecord("truncated_json" if cut else "invalid_json", said[:200]) from None


def whole_characters(value: Any) -> Any:
    """The value with lone surrogates, which JSON can spell but no encoding can hold, as U+FFFD.

    >>> whole_characters({"a": ["x\\ud800"]})
    {'a': ['x\ufffd']}
    """
    if isinstance(value, str):
        return value if value.isascii() else _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [whole_characters(v) for v in value]
    if isinstance(value, dict):
        return {whole_characters(k): whole_characters(v) for k, v in value.items()}
    return value


_SURROGATE = re.compile("[\ud800-\udfff]")
