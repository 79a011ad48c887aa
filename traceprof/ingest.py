"""Logs -> a trace folder: detect, read, check, order by arrival, and account for every record.

    files --sources--> chunks --workers--> runs (Arrow, sorted by arrival) --merge--> parts (Parquet)

A chunk is a few tens of MB of whole records, so memory does not grow with the log. Workers turn chunks into runs;
the merge knows every run's sort keys (16 bytes a request), cuts the global order into parts, and each part reads only
the slices of the runs that fall into it.
"""

from __future__ import annotations

import csv
import io
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import traceprof
from traceprof import envelopes, formats, schema, sources, stores
from traceprof.errors import TraceprofError, UsageError
from traceprof.formats import mapping, maps
from traceprof.formats.base import BadRecord, Request, Result, Skip, attempt, dumps
from traceprof.runs import Options, Run, RunWriter, merge
from traceprof.trace import KINDS, MANIFEST, Trace, staged, write_json
from traceprof.workers import Progress, Workers

__all__ = ["Options", "ingest"]

WORTH_WORKERS = 8 << 20  # less log than this is read in-process: starting workers takes longer
_BEGUN = "ingest.json"  # in a folder under way: what it is made from
SPOOL_PLAIN_BYTES = 8 << 30  # runs of a larger log are compressed: a little slower, a fourth of the disk


class Record(NamedTuple):
    """One record of a log as it goes into a format's `read_all`."""

    file: str
    row: int
    raw: bytes
    value: Any


@dataclass(slots=True)
class Segment:
    """Consecutive records of one file: text lines, CSV lines under a header, or JSON values."""

    file: str
    format: str
    container: str
    first: int
    data: (
        bytes | list[bytes] | tuple[Path | stores.Remote, int, int]
    )  # text, records, or where the text lies: file, offset, length
    header: bytes = b""

    @property
    def size(self) -> int:
        """Bytes of raw text."""
        if isinstance(self.data, tuple):
            return self.data[2]
        return len(self.data) if isinstance(self.data, bytes) else sum(map(len, self.data))

    def text(self) -> bytes:
        """The bytes of whole lines."""
        if isinstance(self.data, tuple):
            path, offset, length = self.data
            with path.open("rb", buffering=0) as raw:
                raw.seek(offset)
                return raw.read(length)
        assert isinstance(self.data, bytes)
        return self.data


def ingest(
    inputs: Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    options: Options | None = None,
    progress: Progress | None = None,
) -> Trace:
    """Read logs of any supported format into a new trace folder at `out`.

    Raises TraceprofError when nothing can be read; single bad records go to rejects/ and are counted.
    """
    options = options or Options()
    if options.map is not None:
        options = replace(options, map=maps.load(options.map), format=options.format or "mapping")
    if options.format:
        _format_options(formats.load(options.format), options)
    say = progress or (lambda what, done, total: None)
    words = tuple(os.fspath(i) for i in inputs)
    if options.resume and "-" in words:
        raise UsageError("--resume cannot read stdin a second time", remedy="save the log to a file first")
    with staged(out, mine=MANIFEST, resume=_BEGUN if options.resume else None) as stage:
        spool = stage / "runs"
        spool.mkdir(exist_ok=True)
        files = _outside(sources.resolve(words, spool), Path(out))
        plan, described = _plan(files, options)
        _begin(stage, files, described, options)
        total = sum(s.size for s, _ in plan) or 1
        if total > SPOOL_PLAIN_BYTES:
            options = replace(options, spool_compression="lz4")
        with Workers(options.jobs if total > WORTH_WORKERS else 1) as pool:
            say("read", 0, total)
            runs = _read(plan, options, spool, pool, lambda done: say("read", done, total))
            say("read", total, total)
            counts = merge(runs, stage, options, pool, lambda done, of: say("sort and write", done, of))
        if not counts["records_in"]:
            raise _nothing(described)
        (stage / _BEGUN).unlink()
        _drop(spool)
        write_json(stage / MANIFEST, _manifest(words, described, options, counts, runs))
    return Trace(out)


def _begin(
    stage: Path, files: list[sources.Source], described: list[dict[str, Any]], options: Options
) -> None:
    """Note what this ingest reads and how; what a killed one left in `stage` is kept only when it did the same."""
    what = {
        "version": traceprof.__version__,
        "files": [f.stamp() for f in files],
        "sources": described,
        "options": {k: v for k, v in asdict(options).items() if k not in ("jobs", "resume")},
    }
    noted = dumps(what)
    note = stage / _BEGUN
    if note.exists() and note.read_bytes() != noted:
        for old in stage.iterdir():
            if old.is_dir():
                _drop(old)
        (stage / "runs").mkdir()
    note.write_bytes(noted)


def _outside(files: list[sources.Source], target: Path) -> list[sources.Source]:
    """The files without those of the trace that is to be replaced; an error when a log of the user lies in there."""
    old = target.resolve()
    kept = []
    for source in files:
        path = None if isinstance(source.path, stores.Remote) else source.path.resolve()
        if path is None or old not in path.parents:
            kept.append(source)
        elif path.relative_to(old).parts[0] not in (*KINDS, MANIFEST):
            raise TraceprofError(
                f"lies inside the folder that is to be replaced, {target}",
                path=source.path,
                remedy="give another -o",
            )
    return kept


# -- plan ----------------------------------------------------------------------------------------------------


def _plan(
    files: list[sources.Source], options: Options
) -> tuple[list[tuple[sources.Source, sources.Sniff]], list[dict[str, Any]]]:
    """Which files will be read, as what; and a line for the manifest about each one."""
    plan: list[tuple[sources.Source, sources.Sniff]] = []
    described: list[dict[str, Any]] = []
    for source in files:
        found = sources.sniff(source, options.format, options.max_record_bytes)
        described.append(
            {
                "file": source.name,
                "bytes": source.size,
                "format": found.format and found.format.replace("_", "-"),
                "container": found.container,
                "detected_by": found.reason,
            }
        )
        if found.format is not None:
            if isinstance(options.map, maps.Map) and not plan:
                mapping.check(options.map, sources.look(source.path, unwrap=False).records, source.name)
            plan.append((source, found))
        elif source.named and len(files) == 1:
            raise TraceprofError(
                f"cannot be read as a log: {found.reason}",
                path=source.shown,
                remedy=None if ";" in found.reason else "see: traceprof formats",
            )
    if not plan:
        raise _nothing(described)
    return plan, described


def _nothing(described: list[dict[str, Any]]) -> TraceprofError:
    shown = "; ".join(f"{d['file']}: {d['detected_by']}" for d in described[:3])
    more = f" and {len(described) - 3} more" if len(described) > 3 else ""
    return TraceprofError(f"no request found ({shown}{more})", remedy="see: traceprof formats")


# -- read ----------------------------------------------------------------------------------------------------


def _read(
    plan: list[tuple[sources.Source, sources.Sniff]],
    options: Options,
    spool: Path,
    pool: Workers,
    say: Callable[[float], None],
) -> list[Run]:
    """All runs, in input order."""
    joined: dict[str, list[tuple[sources.Source, sources.Sniff]]] = {}
    apart = []
    for source, found in plan:
        assert found.format is not None
        if hasattr(formats.load(found.format), "read_all"):
            joined.setdefault(found.format, []).append((source, found))
        else:
            apart.append((source, found))
    done = 0.0
    runs: list[Run] = []
    tasks = ((spool / f"{i:06d}", segments, options) for i, segments in enumerate(_tasks(apart, options)))
    for run in pool.imap(read_chunk, tasks):
        runs.append(run)
        done += float(run.sizes.sum())
        say(done)
    for name, members in joined.items():
        for run in _read_joined(formats.load(name), members, options, spool / f"joined-{name}"):
            runs.append(run)
            done += float(run.sizes.sum())
            say(done)
    return runs


def _tasks(plan: list[tuple[sources.Source, sources.Sniff]], options: Options) -> Iterator[list[Segment]]:
    """Segments, gathered to about one chunk of raw text; small files share a chunk."""
    batch: list[Segment] = []
    size = 0
    for source, found in plan:
        for segment in _segments(source, found, options):
            batch.append(segment)
            size += segment.size
            if size >= options.chunk_bytes:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _segments(source: sources.Source, found: sources.Sniff, options: Options) -> Iterator[Segment]:
    assert found.format is not None and found.container is not None

    def segment(
        first: int,
        data: bytes | list[bytes] | tuple[Path | stores.Remote, int, int],
        container: str,
        header: bytes = b"",
    ) -> Segment:
        assert found.format is not None
        return Segment(source.name, found.format, container, first, data, header)

    header = b""
    chunk = max(1 << 16, min(options.chunk_bytes, 8 << 20))
    if found.container == "parquet":
        for group, rows in enumerate(sources.parquet_groups(source.path)):
            yield segment(1, (source.path, group, rows), "parquet")
        return
    lined = found.container in ("jsonl", "text") and not found.envelope
    if lined and sources.seekable(source.path):
        for span in sources.spans(source.path, chunk, options.max_record_bytes):
            if isinstance(span, sources.TooLarge):
                yield segment(span.row, [str(span.size).encode()], "too_large")
            else:
                yield segment(span.first, (source.path, span.offset, span.length), found.container)
        return
    with sources.open_stream(source.path) as raw:
        array = found.envelope if found.envelope and "[]" in found.envelope else None
        stream = envelopes.Unwrapped(raw, found.envelope) if found.envelope and not array else raw
        try:
            if found.container == "json" or array:
                values = sources.elements_of(stream, options.max_record_bytes, array)
                yield from _json_segments(values, segment, chunk, found.container)
                return
            for piece in sources.lines(
                stream, chunk, options.max_record_bytes, quoted=found.container == "csv"
            ):
                if isinstance(piece, sources.TooLarge):
                    yield segment(piece.row, [str(piece.size).encode()], "too_large")
                elif found.container == "csv" and not header:
                    blank = len(piece.data) - len(piece.data.lstrip())
                    header, _, rest = piece.data[blank:].partition(b"\n")
                    yield segment(2 + piece.data.count(b"\n", 0, blank), rest, "csv", header)
                else:
                    yield segment(piece.first, piece.data, found.container, header)
        except sources.CutOff as bad:
            yield segment(bad.row, [bad.why.encode(), bad.rest], "cut_off")


def _json_segments(
    values: Iterator[tuple[int, bytes | sources.TooLarge]],
    segment: Callable[..., Segment],
    chunk: int,
    container: str,
) -> Iterator[Segment]:
    batch: list[bytes] = []
    first, size = 1, 0
    broken: sources.CutOff | None = None
    while True:
        try:
            number, value = next(values, (0, None))
        except sources.CutOff as bad:
            number, value, broken = 0, None, bad
        if batch and (not isinstance(value, bytes) or size > chunk or len(batch) >= 4096):
            yield segment(first, batch, container)
            batch, size = [], 0
        if value is None:
            break
        if isinstance(value, sources.TooLarge):
            yield segment(number, [str(value.size).encode()], "too_large")
            continue
        if not batch:
            first = number
        batch.append(value)
        size += len(value)
    if broken is not None:
        raise broken


def read_chunk(folder: Path, segments: list[Segment], options: Options) -> Run:
    """One chunk -> one run in `folder` (runs in a worker); a run that is there already is taken as it is."""
    done = Run.load(folder)
    if done is not None:
        return done
    writer = RunWriter(folder, options)
    for segment in segments:
        module = formats.load(segment.format)
        extra = _format_options(module, options)
        if hasattr(module, "file_name"):
            extra["file"] = segment.file
        for row, raw, value in _records(segment, options.max_record_bytes):
            if isinstance(value, BadRecord):
                noticed = any(word in bytes(raw) for word in getattr(module, "notices", ()))
                writer.add(segment.file, segment.format, row, raw, Skip("other_line") if noticed else value)
            elif isinstance(value, list) and segment.container == "jsonl":  # several records on one line
                writer.add(segment.file, segment.format, row, raw, _apply_all(module, value, extra))
            else:
                writer.add(segment.file, segment.format, row, raw, _apply(module, value, extra))
    return writer.finish()


def _format_options(module: ModuleType, options: Options) -> dict[str, Any]:
    known = getattr(module, "options", {})
    given: dict[str, Any] = {}
    if options.block_size is not None:
        if "block_size" not in known:
            raise UsageError(f"--block-size does not apply to {formats.label(module)} logs")
        given["block_size"] = options.block_size
    if options.map is not None and "map" not in known:
        raise UsageError(f"--map does not apply to {formats.label(module)} logs", remedy="leave --format out")
    if "map" in known:
        if options.map is None:
            raise UsageError(
                "--format mapping needs --map FILE", remedy="see docs/formats.md, Your own format"
            )
        given["plan"] = options.map
    return given


def _apply(module: ModuleType, value: Any, extra: dict[str, Any]) -> Result:
    if not isinstance(value, dict):
        return BadRecord("wrong_type", f"the record is a {type(value).__name__}, not an object")
    result: Result = attempt(module.read, value, **extra)
    return result


def _apply_all(module: ModuleType, values: list[Any], extra: dict[str, Any]) -> Result:
    out: list[Request | Skip | BadRecord] = []
    for value in values:
        result = _apply(module, value, extra)
        out.extend(result if isinstance(result, list) else (result,))
    return out or Skip("empty_list")


def _records(segment: Segment, limit: int) -> Iterator[tuple[int, bytes | memoryview, Any]]:
    """(row, raw bytes, parsed value or BadRecord) of a segment; a record over `limit` bytes is not parsed."""
    if segment.container == "too_large":
        assert isinstance(segment.data, list)
        yield segment.first, b"", _too_large(int(segment.data[0]))
    elif segment.container == "cut_off":
        assert isinstance(segment.data, list)
        why, rest = segment.data
        said = f"the compressed file ends early or is damaged ({why.decode()})"
        yield segment.first, rest, BadRecord("file_cut_off", said)
    elif segment.container == "csv":
        yield from _csv_records(segment)
    elif segment.container == "parquet":
        yield from _parquet_records(segment, limit)
    else:
        data: Iterable[bytes | memoryview] = (
            segment.data if isinstance(segment.data, list) else sources.split(segment.text())
        )
        parse: Callable[[bytes | memoryview], Any] = _line if segment.container == "text" else sources.parse
        for row, raw in enumerate(data, segment.first):
            if len(raw) > limit:
                yield row, b"", _too_large(len(raw))
                continue
            if not raw or (raw[0] <= 32 and bytes(raw).isspace()):
                continue
            try:
                yield row, raw, parse(raw)
            except BadRecord as bad:
                yield row, raw, bad


def _line(raw: bytes | memoryview) -> str | BadRecord:
    """One line of a text log."""
    raw = bytes(raw).rstrip(b"\r")
    if b"\x00" in raw:
        return BadRecord("nul_byte", f"a NUL byte at byte {raw.index(0) + 1}")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as bad:
        return BadRecord("invalid_utf8", f"byte {bad.start + 1} is not UTF-8")


def _parquet_records(segment: Segment, limit: int) -> Iterator[tuple[int, bytes, Any]]:
    """Rows of one row group."""
    assert isinstance(segment.data, tuple)
    path, group, _ = segment.data
    row = 0
    try:
        for row, raw, record in sources.parquet_rows(path, group):
            yield (
                row,
                raw if len(raw) <= limit else b"",
                record if len(raw) <= limit else _too_large(len(raw)),
            )
    except sources.CutOff as bad:
        yield row + 1, b"", BadRecord("file_cut_off", f"the Parquet file is damaged ({bad.why})")


def _too_large(size: int) -> BadRecord:
    return BadRecord("record_too_large", f"{size} bytes; raise --max-record-bytes to keep it")


def _csv_records(segment: Segment) -> Iterator[tuple[int, bytes, Any]]:
    """Rows of a CSV file; each is decoded and parsed with the lines that it stands on."""
    assert isinstance(segment.data, bytes)
    csv.field_size_limit(1 << 30)
    names = next(csv.reader([segment.header.decode("utf-8", "replace").replace("\r", " ")]), [])
    names = [n.strip() for n in names]
    taken: list[bytes] = []  # lines that the reader took for the row under way

    def lines() -> Iterator[str]:
        for line in io.BytesIO(segment.data):  # type: ignore[arg-type]
            taken.append(line)
            yield line.decode("utf-8", "surrogateescape")

    reader = csv.reader(lines())
    row = segment.first
    while True:
        problem: BadRecord | None = None
        try:
            cells = next(reader, None)
        except csv.Error as bad:
            cells, problem = [], BadRecord("invalid_csv", str(bad))
        raw, rows = b"".join(taken).rstrip(b"\r\n"), len(taken)
        taken.clear()
        if cells is None:
            return
        if problem is not None:
            yield row, raw, problem
        elif cells:
            yield row, raw, _csv_record(names, cells, raw)
        row += rows


def _csv_record(names: list[str], cells: list[str], raw: bytes) -> dict[str, str] | BadRecord:
    if b"\x00" in raw:
        return BadRecord("nul_byte", f"a NUL byte at byte {raw.index(0) + 1}")
    if not raw.isascii():
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as bad:
            return BadRecord("invalid_utf8", f"byte {bad.start + 1} is not UTF-8")
    if len(cells) != len(names):
        return BadRecord("wrong_columns", f"{len(cells)} cells under {len(names)} columns")
    return dict(zip(names, cells, strict=True))


def _read_joined(
    module: ModuleType, members: list[tuple[sources.Source, sources.Sniff]], options: Options, folder: Path
) -> Iterator[Run]:
    """Formats whose records belong together are read here, in order, all files of the import at once."""
    name = formats.label(module).replace("-", "_")
    extra = _format_options(module, options)
    takes = getattr(module, "takes", module.detect)
    number = 0
    writer = RunWriter(folder / f"{number:06d}", options)

    def records() -> Iterator[Record]:
        for segment in itertools.chain.from_iterable(_tasks(members, options)):
            for row, raw, value in _records(segment, options.max_record_bytes):
                raw = bytes(raw)  # kept until its partners come; a view would keep the whole chunk
                several = isinstance(value, list) and segment.container == "jsonl"
                if several and not value:
                    writer.add(segment.file, name, row, raw, Skip("empty_list"))
                for one in value if several else (value,):
                    if several and len(value) > 1:
                        raw = dumps(
                            one
                        )  # its own text: with all of the line, each would hold that of all others
                    if isinstance(one, BadRecord):
                        writer.add(segment.file, name, row, raw, one)
                    elif isinstance(one, str) and segment.container == "text":
                        yield Record(segment.file, row, raw, one)
                    elif not isinstance(one, dict):
                        said = f"the record is a {type(one).__name__}, not an object"
                        writer.add(segment.file, name, row, raw, BadRecord("wrong_type", said))
                    elif not takes(one):
                        said = f"not a record of {formats.label(module)}"
                        writer.add(segment.file, name, row, raw, BadRecord("missing_field", said))
                    else:
                        yield Record(segment.file, row, raw, one)

    for record, result in module.read_all(records(), **extra):
        writer.add(record.file, name, record.row, record.raw, result)
        if writer.bytes > options.chunk_bytes:
            yield writer.finish()
            number += 1
            writer = RunWriter(folder / f"{number:06d}", options)
    yield writer.finish()


def _drop(spool: Path) -> None:
    import shutil

    shutil.rmtree(spool)


def _manifest(
    words: tuple[str, ...],
    described: list[dict[str, Any]],
    options: Options,
    counts: dict[str, Any],
    runs: list[Run],
) -> dict[str, Any]:
    by_format: Counter[str] = Counter()
    for run in runs:
        by_format.update(run.formats)
    return {
        "kind": "traceprof-trace",
        "schema_version": schema.TRACE_SCHEMA_VERSION,
        "traceprof_version": traceprof.__version__,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "records_in": counts["records_in"],
        "requests": counts["requests"],
        "rejects": counts["rejects"],
        "skipped": counts["skipped"],
        "source_records": counts["source_records"],
        "rejects_by_reason": counts["rejects_by_reason"],
        "skipped_by_reason": counts["skipped_by_reason"],
        "order": options.order,
        "privacy": "text",
        "options": {
            "format": options.format,
            "duplicates": options.duplicates,
            "block_size": options.block_size,
            "max_record_bytes": options.max_record_bytes,
        },
        "inputs": [Path(w).name if w != "-" else "stdin" for w in words],
        "sources": described,
        "formats": {k.replace("_", "-"): v for k, v in by_format.most_common()},
    }
