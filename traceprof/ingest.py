"""Logs -> a trace folder: detect, read, check, order by arrival, and account for every record.

    files --sources--> chunks --workers--> runs (Arrow, sorted by arrival) --merge--> parts (Parquet)

A chunk is a few tens of MB of whole records, so memory does not grow with the log. Workers turn chunks into runs;
the merge knows every run's sort keys (16 bytes a request), cuts the global order into parts, and each part reads only
the slices of the runs that fall into it.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import itertools
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import traceprof
from traceprof import formats, schema, sources
from traceprof.errors import TraceprofError, UsageError
from traceprof.formats.base import BadRecord, Request, Result, Skip, attempt, dumps
from traceprof.trace import KINDS, MANIFEST, Trace, staged, write_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK_BYTES = 24 << 20  # raw log text a worker turns into one run
PART_BYTES = 96 << 20  # raw log text that goes into one part
PART_ROWS = 1 << 20
WORTH_WORKERS = 8 << 20  # less log than this is read in-process: starting workers takes longer
SPOOL_PLAIN_BYTES = 8 << 30  # runs of a larger log are compressed: a little slower, a fourth of the disk
MAX_RECORD_BYTES = 64 << 20
LAST = np.iinfo(np.int64).max  # sort key of a request whose arrival is not known
ADAPTER_VERSION = 1

Progress = Callable[[str, float, float], None]
"""Called with (what is being done, amount done, amount in all)."""


class Record(NamedTuple):
    """One record of a log as it goes into a format's `read_all`."""

    file: str
    row: int
    raw: bytes
    value: Any


@dataclass(frozen=True, slots=True)
class Options:
    """How to ingest; the same names as the command's options."""

    format: str | None = None
    order: str = "arrival"
    duplicates: str = "reject"
    block_size: int | None = None
    max_record_bytes: int = MAX_RECORD_BYTES
    jobs: int = 1  # worker processes; with more than one, a script needs `if __name__ == "__main__":`
    chunk_bytes: int = CHUNK_BYTES
    part_bytes: int = PART_BYTES
    spool_compression: str | None = (
        None  # of the runs; `ingest` chooses lz4 for logs that would fill the disk
    )


@dataclass(slots=True)
class Segment:
    """Consecutive records of one file: text lines, CSV lines under a header, or JSON values."""

    file: str
    format: str
    container: str
    first: int
    data: (
        bytes | list[bytes] | tuple[Path, int, int]
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


@dataclass(slots=True)
class Run:
    """What one chunk became: files sorted by arrival, and what the merge has to know of each row."""

    folder: Path
    keys: NDArray[np.int64]  # sort key per row: arrival in us, LAST when unknown
    ids: NDArray[np.uint64]  # hash of request_id per row, 0 for ids that we assigned
    sizes: NDArray[np.int32]  # bytes of content per row
    places: NDArray[np.int64] | None = (
        None  # place of each row in the input, where the run is not in its order
    )
    requests: int = 0
    records: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    has_content: bool = False
    has_tokens: bool = False
    first_arrival: dict[str, int] = field(default_factory=dict)  # earliest arrival by clock


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
    if options.format:
        formats.load(options.format)
    say = progress or (lambda what, done, total: None)
    words = tuple(os.fspath(i) for i in inputs)
    with staged(out, mine=MANIFEST) as stage:
        spool = stage / "runs"
        spool.mkdir()
        files = _outside(sources.resolve(words, spool), Path(out))
        plan, described = _plan(files, options)
        total = sum(s.size for s, _ in plan) or 1
        if total > SPOOL_PLAIN_BYTES:
            options = replace(options, spool_compression="lz4")
        with Workers(options.jobs if total > WORTH_WORKERS else 1) as pool:
            runs = _read(plan, options, spool, pool, lambda done: say("read", done, total))
            counts = _merge(runs, stage, options, pool, lambda done, of: say("sort and write", done, of))
        if not counts["records_in"]:
            raise _nothing(described)
        _drop(spool)
        write_json(stage / MANIFEST, _manifest(words, described, options, counts, runs))
    return Trace(out)


def _outside(files: list[sources.Source], target: Path) -> list[sources.Source]:
    """The files without those of the trace that is to be replaced; an error when a log of the user lies in there."""
    old = target.resolve()
    kept = []
    for source in files:
        path = source.path.resolve()
        if old not in path.parents:
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
    plan, described = [], []
    for source in files:
        found = sources.sniff(source, options.format)
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
            plan.append((source, found))
        elif source.named and len(files) == 1:
            raise TraceprofError(
                f"cannot be read as a log: {found.reason}", path=source.path, remedy="see: traceprof formats"
            )
    if not plan:
        raise _nothing(described)
    return plan, described


def _nothing(described: list[dict[str, Any]]) -> TraceprofError:
    shown = "; ".join(f"{d['file']}: {d['detected_by']}" for d in described[:3])
    more = f" and {len(described) - 3} more" if len(described) > 3 else ""
    return TraceprofError(f"no request found ({shown}{more})", remedy="see: traceprof formats")


class Workers:
    """`jobs` worker processes, started with the first task; with one, work is done in-process."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: Any, *rest: Any) -> None:
        if self._executor is None:
            return
        if kind is not None:  # end them now: nobody may write to a folder that is about to be removed
            for process in list((getattr(self._executor, "_processes", None) or {}).values()):
                process.kill()
        self._executor.shutdown(cancel_futures=True)

    def imap(self, function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """function(*task) for each task, in order; a bounded number of tasks is under way."""
        if self.jobs == 1:
            for task in tasks:
                yield function(*task)
            return
        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                self.jobs,
                mp_context=get_context("spawn"),
                initializer=_die_with_parent,
                initargs=(os.getpid(),),
            )
        waiting: list[Future[Any]] = []
        try:
            for task in tasks:
                with _interrupts_held():
                    waiting.append(self._executor.submit(function, *task))
                while len(waiting) > self.jobs + 1:
                    yield waiting.pop(0).result()
                while sum(not f.done() for f in waiting) > self.jobs + 1:
                    wait(waiting, return_when=FIRST_COMPLETED)
            for future in waiting:
                yield future.result()
        except BrokenProcessPool:
            raise TraceprofError(
                "a worker process was killed, most likely for want of memory",
                remedy="a smaller --jobs needs less",
            ) from None


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits while a worker starts; the worker inherits the mask and never sees it: the command ends it."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    came: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler or signal.SIG_DFL)
    if came:
        raise KeyboardInterrupt


def _die_with_parent(parent: int) -> None:
    """A worker ends when the command is killed, also by SIGKILL (Linux)."""
    import ctypes
    import sys

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _keep_memory()
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _keep_memory() -> None:
    """Let a worker keep what it freed: getting pages from the system again for every batch is a tenth of its time."""
    import ctypes

    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc: no maps of their own for large blocks, no giving back below 1 GB
        libc.mallopt(-4, 0)
        libc.mallopt(-1, 1 << 30)
        pa.set_memory_pool(pa.system_memory_pool())


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
        runs.extend(_read_joined(formats.load(name), members, options, spool / f"joined-{name}"))
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
        first: int, data: bytes | list[bytes] | tuple[Path, int, int], container: str, header: bytes = b""
    ) -> Segment:
        assert found.format is not None
        return Segment(source.name, found.format, container, first, data, header)

    header = b""
    chunk = max(1 << 16, min(options.chunk_bytes, 8 << 20))
    if found.container == "jsonl" and sources.plain(source.path):
        for span in sources.spans(source.path, chunk, options.max_record_bytes):
            if isinstance(span, sources.TooLarge):
                yield segment(span.row, [str(span.size).encode()], "too_large")
            else:
                yield segment(span.first, (source.path, span.offset, span.length), "jsonl")
        return
    with sources.open_stream(source.path) as stream:
        try:
            if found.container == "json":
                yield from _json_segments(sources.elements(stream, options.max_record_bytes), segment, chunk)
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
    values: Iterator[tuple[int, bytes | sources.TooLarge]], segment: Callable[..., Segment], chunk: int
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
            yield segment(first, batch, "json")
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
    """One chunk -> one run in `folder` (runs in a worker)."""
    writer = RunWriter(folder, options)
    for segment in segments:
        module = formats.load(segment.format)
        extra = _format_options(module, options)
        for row, raw, value in _records(segment, options.max_record_bytes):
            if isinstance(value, BadRecord):
                writer.add(segment.file, segment.format, row, raw, value)
            elif isinstance(value, list) and segment.container == "jsonl":  # several records on one line
                writer.add(segment.file, segment.format, row, raw, _apply_all(module, value, extra))
            else:
                writer.add(segment.file, segment.format, row, raw, _apply(module, value, extra))
    return writer.finish()


def _format_options(module: ModuleType, options: Options) -> dict[str, Any]:
    if options.block_size is None:
        return {}
    if "block_size" not in getattr(module, "options", {}):
        raise UsageError(f"--block-size does not apply to {formats.label(module)} logs")
    return {"block_size": options.block_size}


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


def _records(segment: Segment, limit: int) -> Iterator[tuple[int, bytes, Any]]:
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
    else:
        data = segment.data if isinstance(segment.data, list) else segment.text().split(b"\n")
        for row, raw in enumerate(data, segment.first):
            if len(raw) > limit:
                yield row, b"", _too_large(len(raw))
                continue
            if not raw or raw.isspace():
                continue
            try:
                yield row, raw, sources.parse(raw)
            except BadRecord as bad:
                yield row, raw, bad


def _too_large(size: int) -> BadRecord:
    return BadRecord("record_too_large", f"{size} bytes; raise --max-record-bytes to keep it")


def _csv_records(segment: Segment) -> Iterator[tuple[int, bytes, Any]]:
    """Rows of a CSV file; each is decoded and parsed with the lines that it stands on."""
    assert isinstance(segment.data, bytes)
    names = next(csv.reader([segment.header.decode("utf-8", "replace")]), [])
    names = [n.strip() for n in names]
    csv.field_size_limit(1 << 30)
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
    bad: list[tuple[str, int, bytes, BadRecord]] = []
    _format_options(module, options)

    def records() -> Iterator[Record]:
        for segment in itertools.chain.from_iterable(_tasks(members, options)):
            for row, raw, value in _records(segment, options.max_record_bytes):
                several = isinstance(value, list) and segment.container == "jsonl"
                for one in value if several else (value,):
                    if isinstance(one, BadRecord):
                        bad.append((segment.file, row, raw, one))
                    elif not isinstance(one, dict):
                        said = f"the record is a {type(one).__name__}, not an object"
                        bad.append((segment.file, row, raw, BadRecord("wrong_type", said)))
                    elif not module.detect(one):
                        said = f"not a record of {formats.label(module)}"
                        bad.append((segment.file, row, raw, BadRecord("missing_field", said)))
                    else:
                        yield Record(segment.file, row, raw, one)

    number = 0
    writer = RunWriter(folder / f"{number:06d}", options)
    for record, result in module.read_all(records()):
        writer.add(record.file, name, record.row, record.raw, result)
        if writer.bytes > options.chunk_bytes:
            yield writer.finish()
            number += 1
            writer = RunWriter(folder / f"{number:06d}", options)
    for file, row, raw, reject in bad:
        writer.add(file, name, row, raw, reject)
    yield writer.finish()


# -- runs ----------------------------------------------------------------------------------------------------

_BATCH = 1024
_TEXT = ("messages_json", "prompt_text", "tools_json", "output_json", "extra_json")
_DIRECT = [
    c.name
    for c in schema.REQUESTS
    if c.name in Request.__slots__ and c.name not in ("request_id", "media", "params", "quality")
]


class RunWriter:
    """Collects what readers return, in input order, and writes it sorted by arrival."""

    def __init__(self, folder: Path, options: Options) -> None:
        self.folder, self.options = folder, options
        self.folder.mkdir(parents=True, exist_ok=True)
        self.bytes = 0
        self._rows: list[Request] = []
        self._where: list[tuple[str, str, int, int]] = []  # file, format, row, place in it
        self._files: dict[str, Any] = {}
        self._keys: list[int] = []
        self._ids: list[bytes] = []
        self._sizes: list[int] = []
        self._rejects: list[tuple[str, int, str, str, str, str | None]] = []
        empty = np.empty(0)
        self.run = Run(folder, empty.astype(np.int64), empty.astype(np.uint64), empty.astype(np.int32))

    def add(
        self,
        file: str,
        fmt: str,
        row: int,
        raw: bytes,
        result: Result,
    ) -> None:
        """Take one record and what it became; a list stands for several requests of one record."""
        self.run.formats[fmt] += 1
        several = result if isinstance(result, list) else (result,)
        share = len(raw) // max(1, len(several))
        for place, one in enumerate(several):
            self._add(file, fmt, row, place, raw, one, share)

    def _add(
        self,
        file: str,
        fmt: str,
        row: int,
        place: int,
        raw: bytes,
        result: Request | Skip | BadRecord,
        size: int,
    ) -> None:
        run = self.run
        run.records += 1
        self.bytes += size
        if type(result) is Request:
            bad = _check(result)
            if bad is None:
                self._take((file, fmt, row, place), result, size)
                return
            result = bad
        if isinstance(result, Skip):
            run.skipped[result.reason] += 1
            return
        assert isinstance(result, BadRecord)
        run.rejects[result.reason] += 1
        self._rejects.append(
            (
                file,
                row,
                fmt.replace("_", "-"),
                result.reason,
                result.detail,
                raw.decode("utf-8", "replace") or None,
            )
        )

    def _take(self, where: tuple[str, str, int, int], request: Request, size: int) -> None:
        arrival = request.arrival_us
        timed = arrival is not None and request.clock in ("absolute", "relative")
        self._keys.append(arrival if timed and self.options.order == "arrival" else LAST)  # type: ignore[arg-type]
        if arrival is not None and timed:
            known = self.run.first_arrival.get(request.clock)
            if known is None or arrival < known:
                self.run.first_arrival[request.clock] = arrival
        identity = request.request_id or request.provider_request_id
        self._ids.append(b"" if identity is None else identity.encode("utf-8", "replace"))
        self._sizes.append(min(size, 2**31 - 1))
        self._rows.append(request)
        self._where.append(where)
        if len(self._rows) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        rows, where = self._rows, self._where
        if not rows:
            return
        self._rows, self._where = [], []
        row_ids = [
            hashlib.blake2b(
                f"{file}\0{row}\0{q.request_id or q.provider_request_id or place}".encode("utf-8", "replace"),
                digest_size=8,
            ).hexdigest()
            for (file, _, row, place), q in zip(where, rows, strict=True)
        ]
        ids = [q.request_id or q.provider_request_id or rid for q, rid in zip(rows, row_ids, strict=True)]
        columns: dict[str, Any] = {
            "row_id": row_ids,
            "source_format": [w[1].replace("_", "-") for w in where],
            "source_file": [w[0] for w in where],
            "source_row": [w[2] for w in where],
            "adapter_version": np.full(len(rows), ADAPTER_VERSION, np.int16),
            "quality": [q.quality for q in rows],
            "request_id": ids,
            "media": [q.media for q in rows],
            "params": [q.params for q in rows],
            "arrival_ts": [q.arrival_us if q.clock == "absolute" else None for q in rows],
            "first_token_ts": [q.first_token_us if q.clock == "absolute" else None for q in rows],
            "end_ts": [q.end_us if q.clock == "absolute" else None for q in rows],
            "arrival_offset_us": [q.arrival_us for q in rows],  # the merge takes the first arrival off
        }
        for name in _DIRECT:
            columns[name] = [getattr(q, name) for q in rows]
        for place, q in enumerate(rows):
            if q.clock != "absolute" and q.arrival_us is not None:
                if columns["e2e_us"][place] is None and q.end_us is not None:
                    columns["e2e_us"][place] = q.end_us - q.arrival_us
                if columns["ttft_us"][place] is None and q.first_token_us is not None:
                    columns["ttft_us"][place] = q.first_token_us - q.arrival_us
        for place, (file, fmt, _, _) in enumerate(where):
            if columns["hash_scope"][place] is None and columns["block_size"][place] is not None:
                scope = getattr(formats.load(fmt), "hash_scope", None)
                columns["hash_scope"][place] = file if scope == "file" else scope
        content: dict[str, Any] = {
            "row": np.zeros(len(rows), np.int32),
            "request_id": ids,
            "session_id": columns["session_id"],
            "messages_json": [q.messages_json for q in rows],
            "prompt_text": [q.prompt_text for q in rows],
            "tools_json": [q.tools_json for q in rows],
            "output_json": [q.output_json for q in rows],
            "extra_json": [q.extra_json for q in rows],
        }
        tokens: dict[str, Any] = {
            "request_id": ids,
            "input_ids": [q.input_ids for q in rows],
            "output_ids": [q.output_ids for q in rows],
            "block_hashes": [q.block_hashes for q in rows],
            "block_size": columns["block_size"],
            "input_symbols": [
                _length(q.input_ids if q.block_hashes is None else q.block_hashes) for q in rows
            ],
            "output_symbols": [_length(q.output_ids) for q in rows],
        }
        for name, spec, cells in (
            ("requests", schema.REQUESTS, columns),
            ("content", schema.CONTENT, content),
            ("tokens", schema.TOKENS, tokens),
        ):
            batch = _batch(cells, spec)
            if name not in self._files:
                path = self.folder / f"{name}.arrow"
                self._files[name] = _new_ipc(path, batch.schema, self.options.spool_compression)
            self._files[name].write_batch(batch)
        self.run.has_content |= any(not _all_null(content[c]) for c in _TEXT)
        self.run.has_tokens |= any(not _all_null(tokens[c]) for c in ("input_ids", "block_hashes"))

    def finish(self) -> Run:
        """Write the run's files and say what is in them."""
        self._flush()
        for file in self._files.values():
            file.close()
        run = self.run
        run.requests = len(self._keys)
        keys = np.asarray(self._keys, np.int64)
        ids = _id_hashes(self._ids)
        sizes = np.asarray(self._sizes, np.int32)
        order = np.argsort(keys, kind="stable")
        if len(order) and int(np.abs(order - np.arange(len(order))).max()) > max(_BATCH, len(order) // 4):
            for (
                name
            ) in self._files:  # far from sorted: sort it here, so that a part need not read all of every run
                table = _read_ipc(self.folder / f"{name}.arrow", 0, run.requests).take(order)
                with _new_ipc(
                    self.folder / f"{name}.arrow", table.schema, self.options.spool_compression
                ) as file:
                    file.write_table(table.combine_chunks(), max_chunksize=_BATCH)
            keys, ids, sizes, run.places = keys[order], ids[order], sizes[order], order
        run.keys, run.ids, run.sizes = keys, ids, sizes
        if self._rejects:
            cells = dict(
                zip(
                    (c.name for c in schema.REJECTS), map(list, zip(*self._rejects, strict=True)), strict=True
                )
            )
            _write_ipc(self.folder / "rejects.arrow", _batch(cells, schema.REJECTS))
        return run


def _check(request: Request) -> BadRecord | None:
    """What no reader has to check again: times that contradict one another."""
    arrival, end, first = request.arrival_us, request.end_us, request.first_token_us
    if arrival is not None and end is not None and end < arrival:
        return BadRecord("end_before_arrival", f"it ends {(arrival - end) / 1e6:g} s before it arrives")
    if first is not None and ((arrival is not None and first < arrival) or (end is not None and first > end)):
        request.first_token_us = None
        request.quality.append("bad_first_token")
    if request.input_ids is not None:
        request.content_level = "tokens"  # better than text: it is what the engine saw
    return None


def _all_null(values: list[Any]) -> bool:
    return next((v for v in values if v is not None), None) is None


def _length(value: Any) -> int | None:
    return None if value is None else len(value)


def _batch(columns: dict[str, Any], spec: tuple[schema.Column, ...]) -> pa.RecordBatch:
    """Columns of Python values as Arrow; words stay plain here and become dictionaries in the parts."""
    arrays = []
    for column in spec:
        values = columns[column.name]
        type_ = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if isinstance(values, list) and _all_null(values):
            arrays.append(pa.nulls(len(values), type_))
        else:
            arrays.append(pa.array(values, type_))
    return pa.record_batch(arrays, names=[c.name for c in spec])


def _id_hashes(ids: list[bytes]) -> NDArray[np.uint64]:
    """64-bit hash of each id; 0 stands for no id."""
    out = np.zeros(len(ids), np.uint64)
    for i, name in enumerate(ids):
        if name:
            out[i] = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little") | 1
    return out


def _new_ipc(path: Path, spec: pa.Schema, compression: str | None = None) -> Any:
    return pa.ipc.new_file(str(path), spec, options=pa.ipc.IpcWriteOptions(compression=compression))


def _write_ipc(path: Path, batch: pa.RecordBatch) -> None:
    with _new_ipc(path, batch.schema) as writer:
        writer.write_batch(batch)


def _read_ipc(path: Path, start: int, count: int) -> pa.Table:
    """Rows [start, start + count) of a run's file; only the batches that hold them are read."""
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        first, last = start // _BATCH, (start + count - 1) // _BATCH
        table = pa.Table.from_batches([reader.get_batch(i) for i in range(first, last + 1)])
        return table.slice(start - first * _BATCH, count)


# -- merge ---------------------------------------------------------------------------------------------------


def _merge(
    runs: list[Run], stage: Path, options: Options, pool: Workers, say: Callable[[float, float], None]
) -> dict[str, Any]:
    """Runs -> parts; returns the counts of the manifest."""
    rejects: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    for run in runs:
        rejects.update(run.rejects)
        skipped.update(run.skipped)
    keys = np.concatenate([r.keys for r in runs]) if runs else np.empty(0, np.int64)
    base = np.cumsum([0, *(r.requests for r in runs)])
    ids = np.concatenate([r.ids for r in runs]) if runs else np.empty(0, np.uint64)
    again = np.zeros(len(ids), bool)
    if options.duplicates != "keep":
        again = _duplicates(ids, _input_places(runs, base))
    del ids
    if again.any():
        _set_aside(runs, base, again, stage / "runs" / "duplicates", options)
        (rejects if options.duplicates == "reject" else skipped)["duplicate_request_id"] += int(again.sum())
    order = np.argsort(keys, kind="stable")
    order = order[~again[order]]
    sizes = np.concatenate([r.sizes for r in runs])[order] if runs else np.empty(0, np.int32)
    cuts = _cuts(sizes, options.part_bytes)
    zero: dict[str, int] = {}
    for run in runs:
        for clock, first in run.first_arrival.items():
            zero[clock] = min(first, zero.get(clock, first))
    files = [(r.folder, r.has_content, r.has_tokens) for r in runs]
    tasks = []
    for number, (low, high) in enumerate(itertools.pairwise(cuts)):
        tasks.append((stage, number, files, base, order[low:high], zero))
    for kind in ("requests", *(["content"] if any(r.has_content for r in runs) else []), *(["tokens"] if any(r.has_tokens for r in runs) else [])):  # fmt: skip
        (stage / kind).mkdir()
    for done, _ in enumerate(pool.imap(write_part, tasks), 1):
        say(done, len(tasks))
    _write_rejects(stage)
    return {
        "source_records": sum(sum(r.formats.values()) for r in runs),
        "records_in": sum(r.records for r in runs),
        "requests": len(order),
        "rejects": sum(rejects.values()),
        "skipped": sum(skipped.values()),
        "rejects_by_reason": dict(rejects.most_common()),
        "skipped_by_reason": dict(skipped.most_common()),
    }


def _input_places(runs: list[Run], base: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Where each row stood in the input; None when the runs laid end to end are in its order."""
    if all(r.places is None for r in runs):
        return None
    return np.concatenate(
        [base[i] + (np.arange(r.requests) if r.places is None else r.places) for i, r in enumerate(runs)]
    )


def _duplicates(ids: NDArray[np.uint64], places: NDArray[np.int64] | None) -> NDArray[np.bool_]:
    """True where an id that the log gave stands a second time (in input order)."""
    again = np.zeros(len(ids), bool)
    order = np.argsort(ids, kind="stable") if places is None else np.lexsort((places, ids))
    ordered = ids[order]
    again[order[1:]] = (ordered[1:] == ordered[:-1]) & (ordered[1:] != 0)
    return again


def _set_aside(
    runs: list[Run], base: NDArray[np.int64], again: NDArray[np.bool_], folder: Path, options: Options
) -> None:
    """Write the rows whose id came before as rejects (unless the user asked to drop them)."""
    if options.duplicates != "reject":
        return
    folder.mkdir(parents=True)
    batches = []
    for i, run in enumerate(runs):
        places = np.flatnonzero(again[base[i] : base[i + 1]])
        if not len(places):
            continue
        rows = _read_ipc(run.folder / "requests.arrow", 0, run.requests).take(places)
        raw: list[str | None] = [None] * len(places)
        if run.has_content:
            kept = _read_ipc(run.folder / "content.arrow", 0, run.requests).take(places)
            raw = [
                dumps({k: row[k] for k in _TEXT if row[k] is not None}).decode() for row in kept.to_pylist()
            ]
        ids = rows.column("request_id").to_pylist()
        columns = {
            "source_file": rows.column("source_file").to_pylist(),
            "source_row": rows.column("source_row").to_pylist(),
            "source_format": rows.column("source_format").to_pylist(),
            "reason": ["duplicate_request_id"] * len(places),
            "detail": [
                f"request_id {one!r} came before; --duplicates keep takes both, skip drops them"
                for one in ids
            ],
            "raw": raw,
        }
        batches.append(_batch(columns, schema.REJECTS))
    with _new_ipc(folder / "rejects.arrow", batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _cuts(sizes: NDArray[np.int32], part_bytes: int) -> list[int]:
    """Row numbers at which parts begin, and the end; a part holds about `part_bytes` of log, at most PART_ROWS rows."""
    cuts = [0]
    total = np.cumsum(sizes, dtype=np.int64)
    while cuts[-1] < len(sizes):
        start = cuts[-1]
        before = int(total[start - 1]) if start else 0
        end = int(np.searchsorted(total, before + part_bytes)) + 1
        cuts.append(min(end, start + PART_ROWS, len(sizes)))
    return cuts if len(cuts) > 1 else [0, 0]


def write_part(
    stage: Path,
    number: int,
    files: list[tuple[Path, bool, bool]],
    base: NDArray[np.int64],
    order: NDArray[np.int64],
    zero: dict[str, int],
) -> None:
    """Write part `number` of requests, content and tokens: the rows `order` of all runs laid end to end."""
    name = f"part-{number:05d}.parquet"
    of_run = np.searchsorted(base, order, side="right") - 1
    requests, content, tokens = [], [], []
    place = np.empty(len(order), np.int64)  # where each wanted row stands in the slices laid end to end
    laid = 0
    any_content, any_tokens = any(f[1] for f in files), any(f[2] for f in files)
    for i in np.unique(of_run):
        folder, has_content, has_tokens = files[i]
        mine = np.flatnonzero(of_run == i)
        local = order[mine] - base[i]
        start, count = int(local.min()), int(local.max() - local.min()) + 1
        place[mine] = laid + local - start
        laid += count
        requests.append(_read_ipc(folder / "requests.arrow", start, count))
        if any_content:
            content.append(
                _read_ipc(folder / "content.arrow", start, count)
                if has_content
                else _nulls(requests[-1], schema.CONTENT)
            )
        if any_tokens:
            tokens.append(
                _read_ipc(folder / "tokens.arrow", start, count)
                if has_tokens
                else _nulls(requests[-1], schema.TOKENS)
            )
    table = _offsets(pa.concat_tables(requests).take(place), zero) if requests else None
    del requests
    spec = schema.arrow(schema.REQUESTS)
    table = spec.empty_table() if table is None else _typed(table, spec)
    pq.write_table(
        table.replace_schema_metadata(_metadata()),
        stage / "requests" / name,
        compression="zstd",
        row_group_size=1 << 16,
    )
    if any_tokens and len(table):
        write_tokens(
            _typed(pa.concat_tables(tokens).take(place), schema.arrow(schema.TOKENS)), stage / "tokens" / name
        )
    if any_content and len(table):
        sessions = table.column("session_id")
        rows = np.arange(len(table), dtype=np.int32)
        by_session = pc.sort_indices(
            pa.table({"session": sessions, "row": rows}), [("session", "ascending"), ("row", "ascending")]
        )
        laid_out = pa.concat_tables(content).take(pc.take(pa.array(place), by_session))
        laid_out = laid_out.set_column(0, "row", pc.take(pa.array(rows), by_session))
        pq.write_table(
            _typed(laid_out, schema.arrow(schema.CONTENT)).replace_schema_metadata(_metadata()),
            stage / "content" / name,
            compression="zstd",
            compression_level=1,
            row_group_size=2048,
            use_dictionary=["session_id"],
            write_statistics=["row"],  # statistics would copy text into the footer
        )


def _typed(table: pa.Table, spec: pa.Schema) -> pa.Table:
    """The table in the types of its schema: words of few kinds become dictionaries."""
    arrays = [
        column.dictionary_encode() if pa.types.is_dictionary(field.type) else column
        for column, field in zip(table.columns, spec, strict=True)
    ]
    return pa.table(arrays, names=spec.names).unify_dictionaries().combine_chunks().cast(spec)


def write_tokens(table: pa.Table, path: Path, metadata: dict[bytes, bytes] | None = None) -> None:
    """Write one tokens part; splitting ids into byte streams makes it smallest, and three times faster than plain."""
    pq.write_table(
        table.replace_schema_metadata({**_metadata(), **(metadata or {})}),
        path,
        compression="zstd",
        compression_level=1,
        row_group_size=2048,
        use_dictionary=False,
        write_statistics=False,
        write_batch_size=1 << 20,
        column_encoding={
            f"{name}.list.element": "BYTE_STREAM_SPLIT"
            for name in ("input_ids", "output_ids", "block_hashes")
        },
    )


def _nulls(like: pa.Table, spec: tuple[schema.Column, ...]) -> pa.Table:
    """Rows of a file that a run does not have: ids of the requests, nulls otherwise."""
    arrays = [
        like.column(c.name).combine_chunks() if c.name in ("request_id", "session_id", "block_size")
        else pa.array(np.zeros(len(like), np.int32)) if c.name == "row"
        else pa.nulls(len(like), c.type)
        for c in spec
    ]  # fmt: skip
    return pa.table(arrays, names=[c.name for c in spec])


def _offsets(table: pa.Table, zero: dict[str, int]) -> pa.Table:
    """arrival_offset_us from the readers' own clock to us since the first arrival of the trace."""
    at = table.schema.get_field_index("arrival_offset_us")
    clock = table.column("clock")
    offset = table.column(at)
    for name, first in zero.items():
        offset = pc.if_else(pc.equal(clock, name), pc.subtract(table.column(at), first), offset)
    return table.set_column(at, table.schema.field(at), offset)


def _metadata() -> dict[bytes, bytes]:
    return {
        b"traceprof": traceprof.__version__.encode(),
        b"schema_version": str(schema.TRACE_SCHEMA_VERSION).encode(),
    }


def _write_rejects(stage: Path) -> None:
    found = sorted((stage / "runs").rglob("rejects.arrow"))
    if not found:
        return
    (stage / "rejects").mkdir()
    spec = schema.arrow(schema.REJECTS)
    with pq.ParquetWriter(
        stage / "rejects" / "part-00000.parquet",
        spec,
        compression="zstd",
        write_statistics=False,
    ) as writer:
        for path in found:
            with pa.memory_map(str(path)) as source:
                reader = pa.ipc.open_file(source)
                for i in range(reader.num_record_batches):
                    writer.write_table(pa.Table.from_batches([reader.get_batch(i)]).cast(spec))


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
