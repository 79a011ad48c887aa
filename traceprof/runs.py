"""Runs and parts: requests as workers read them, and the merge that lays them out by arrival.

A run is what one chunk of log became: Arrow files in input order (or sorted, when far from it), and 16 bytes of sort
key and id a request. The merge knows all keys, cuts the global order into parts, and each part reads only the slices of
the runs that fall into it.
"""

from __future__ import annotations

import hashlib
import itertools
import operator
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import traceprof
from traceprof import formats, schema
from traceprof.formats.base import BadRecord, Request, Result, Skip, dumps
from traceprof.workers import Workers, give_back_memory

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from traceprof.formats.maps import Map

CHUNK_BYTES = 24 << 20  # raw log text a worker turns into one run
PART_BYTES = 64 << 20  # raw log text that goes into one part
PART_ROWS = 1 << 20
MAX_RECORD_BYTES = 64 << 20
LAST = np.iinfo(np.int64).max  # sort key of a request whose arrival is not known
ADAPTER_VERSION = 1
CLOCKS = ("absolute", "relative")  # those that all requests of a trace can share


@dataclass(frozen=True, slots=True)
class Options:
    """How to ingest; the same names as the command's options."""

    format: str | None = None
    order: str = "arrival"
    duplicates: str = "reject"
    block_size: int | None = None
    map: str | os.PathLike[str] | Map | None = None  # the TOML file of format mapping
    max_record_bytes: int = MAX_RECORD_BYTES
    resume: bool = False  # go on where a killed run of the same command ended
    jobs: int = 1  # worker processes; with more than one, a script needs `if __name__ == "__main__":`
    chunk_bytes: int = CHUNK_BYTES
    part_bytes: int = PART_BYTES
    spool_compression: str | None = (
        None  # of the runs; `ingest` chooses lz4 for logs that would fill the disk
    )


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
    arrivals: NDArray[np.int64] = field(
        default_factory=lambda: np.empty(0, np.int64)
    )  # us on the row's clock
    clocks: NDArray[np.int8] = field(
        default_factory=lambda: np.empty(0, np.int8)
    )  # index into CLOCKS, -1 for none

    def save(self) -> None:
        """Keep what is known of a finished run beside its files; it is whole, or not there."""
        counts = {name: getattr(self, name) for name in _COUNTED}
        known = {name: value for name in _ARRAYS if (value := getattr(self, name)) is not None}
        path = self.folder / _SAVED
        with path.with_suffix(".new").open("wb") as file:
            np.savez(file, counts=np.frombuffer(dumps(counts), np.uint8), **known)
        path.with_suffix(".new").replace(path)

    @classmethod
    def load(cls, folder: Path) -> Run | None:
        """The run that was saved in a folder; None when it was not finished."""
        if not (folder / _SAVED).exists():
            return None
        with np.load(folder / _SAVED, allow_pickle=False) as kept:
            counts = orjson.loads(kept["counts"].tobytes())
            arrays = {name: kept[name] for name in _ARRAYS if name in kept}
        for name in ("rejects", "skipped", "formats"):
            counts[name] = Counter(counts[name])
        return cls(folder, **arrays, **counts)


_SAVED = "run.npz"
_ARRAYS = ("keys", "ids", "sizes", "places", "arrivals", "clocks")
_COUNTED = ("requests", "records", "rejects", "skipped", "formats", "has_content", "has_tokens")
_BATCH = 1024
_REJECT_BYTES = 4 << 20  # of records that were rejected, kept before they are written
# rows of a record batch: the merge reads whole ones, so batches of what may be large are short
_PIECE = {"requests": _BATCH, "content": 64, "tokens": 64}
_TEXT = ("messages_json", "prompt_text", "tools_json", "output_json", "extra_json")
_DIRECT = [
    c.name
    for c in schema.REQUESTS
    if c.name in Request.__slots__ and c.name not in ("request_id", "media", "params", "quality")
]


_GET_DIRECT = operator.attrgetter(*_DIRECT)


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
        self._arrivals: list[int] = []
        self._clocks: list[int] = []
        self._rejects: list[tuple[str, int, str, str, str, str | None]] = []
        self._rejected = 0  # bytes of text in them
        self._reject_file: Any = None
        empty = np.empty(0)
        self.run = Run(folder, empty.astype(np.int64), empty.astype(np.uint64), empty.astype(np.int32))

    def add(
        self,
        file: str,
        fmt: str,
        row: int,
        raw: bytes | memoryview,
        result: Result,
    ) -> None:
        """Take one record and what it became; a list stands for several requests of one record."""
        self.run.formats[fmt] += 1
        several = result if isinstance(result, list) else (result,)
        share = len(raw) // max(1, len(several))
        for place, one in enumerate(several):
            if self._add(file, fmt, row, place, raw, one, share):
                raw = b""  # the text of a record stands at the first of its rejects

    def _add(
        self,
        file: str,
        fmt: str,
        row: int,
        place: int,
        raw: bytes | memoryview,
        result: Request | Skip | BadRecord,
        size: int,
    ) -> bool:
        """Take one of a record's results; whether it is a reject."""
        run = self.run
        run.records += 1
        if type(result) is Request:
            bad = _check(result)
            if bad is None:
                self._take((file, fmt, row, place), result, size)
                return False
            result = bad
        if isinstance(result, Skip):
            run.skipped[result.reason] += 1
            return False
        assert isinstance(result, BadRecord)
        run.rejects[result.reason] += 1
        said = bytes(raw).decode("utf-8", "replace") or None
        self._rejects.append((file, row, fmt.replace("_", "-"), result.reason, result.detail, said))
        self._rejected += len(said or "")
        if len(self._rejects) >= _BATCH or self._rejected > _REJECT_BYTES:
            self._flush_rejects()
        return True

    def _take(self, where: tuple[str, str, int, int], request: Request, size: int) -> None:
        arrival = request.arrival_us
        timed = arrival is not None and request.clock in ("absolute", "relative")
        self._keys.append(arrival if timed and self.options.order == "arrival" else LAST)  # type: ignore[arg-type]
        self._arrivals.append(arrival if timed else LAST)  # type: ignore[arg-type]
        self._clocks.append(CLOCKS.index(request.clock) if timed else -1)
        content = (request.messages_json, request.prompt_text, request.tools_json, request.output_json)
        # a turn of a long chat is larger than its share of the record
        size = max(size, sum(len(c) for c in content if c is not None))
        self.bytes += size
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
                "\0".join(map(str, _identity(*w, q))).encode("utf-8", "replace"), digest_size=8
            ).hexdigest()
            for w, q in zip(where, rows, strict=True)
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
        columns.update(zip(_DIRECT, map(list, zip(*map(_GET_DIRECT, rows), strict=True)), strict=True))
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
            "output_hashes": [None] * len(rows),
            "block_size": columns["block_size"],
            "input_symbols": [
                _length(q.input_ids if q.block_hashes is None else q.block_hashes) for q in rows
            ],
            "output_symbols": [_length(q.output_ids) for q in rows],
            "input_length": [None] * len(rows),
            "output_length": [None] * len(rows),
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
            for start in range(0, len(rows), _PIECE[name]):
                self._files[name].write_batch(batch.slice(start, _PIECE[name]))
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
        arrivals, clocks = np.asarray(self._arrivals, np.int64), np.asarray(self._clocks, np.int8)
        order = np.argsort(keys, kind="stable")
        if len(order) and int(np.abs(order - np.arange(len(order))).max()) > max(_BATCH, len(order) // 4):
            # far from sorted: sort it here, so that a part need not read all of every run
            for name in self._files:
                table = _read_ipc(self.folder / f"{name}.arrow", 0, run.requests).take(order)
                with _new_ipc(
                    self.folder / f"{name}.arrow", table.schema, self.options.spool_compression
                ) as file:
                    file.write_table(table.combine_chunks(), max_chunksize=_PIECE[name])
            keys, ids, sizes, run.places = keys[order], ids[order], sizes[order], order
            arrivals, clocks = arrivals[order], clocks[order]
        run.keys, run.ids, run.sizes = keys, ids, sizes
        run.arrivals, run.clocks = arrivals, clocks
        self._flush_rejects()
        if self._reject_file is not None:
            self._reject_file.close()
        run.save()
        return run

    def _flush_rejects(self) -> None:
        if not self._rejects:
            return
        columns = map(list, zip(*self._rejects, strict=True))
        batch = _batch(dict(zip((c.name for c in schema.REJECTS), columns, strict=True)), schema.REJECTS)
        if self._reject_file is None:
            self._reject_file = _new_ipc(self.folder / "rejects.arrow", batch.schema)
        self._reject_file.write_batch(batch)
        self._rejects, self._rejected = [], 0


def _identity(file: str, fmt: str, row: int, place: int, request: Request) -> tuple[str | int, ...]:
    """What tells a row from all others: its record and the log's own id, or its place among the record's requests."""
    del fmt
    named = request.request_id or request.provider_request_id
    if named is None:
        return file, row, place
    return (file, row, named, place) if place else (file, row, named)


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
    return values[0] is None and set(map(type, values)) == {type(None)}


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


def _read_ipc(path: Path, start: int, count: int) -> pa.Table:
    """Rows [start, start + count) of a run's file; only the batches that hold them are read."""
    piece = _PIECE[path.stem]
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        first, last = start // piece, (start + count - 1) // piece
        table = pa.Table.from_batches([reader.get_batch(i) for i in range(first, last + 1)])
        return table.slice(start - first * piece, count)


def _rows(path: Path, wanted: NDArray[np.int64]) -> pa.Table:
    """Rows `wanted` of a run's file, copied, so that the batches around them can be let go."""
    start = int(wanted.min())
    return _read_ipc(path, start, int(wanted.max()) - start + 1).take(pa.array(wanted - start))


# -- merge ---------------------------------------------------------------------------------------------------


def merge(
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
    arrivals = np.concatenate([r.arrivals for r in runs])[order] if runs else np.empty(0, np.int64)
    clocks = np.concatenate([r.clocks for r in runs])[order] if runs else np.empty(0, np.int8)
    zero = {name: int(arrivals[clocks == i].min()) for i, name in enumerate(CLOCKS) if (clocks == i).any()}
    del arrivals, clocks
    files = [(r.folder, r.has_content, r.has_tokens) for r in runs]
    tasks = []
    for number, (low, high) in enumerate(itertools.pairwise(cuts)):
        tasks.append((stage, number, files, base, order[low:high], zero))
    for kind in ("requests", *(["content"] if any(r.has_content for r in runs) else []), *(["tokens"] if any(r.has_tokens for r in runs) else [])):  # fmt: skip
        (stage / kind).mkdir(exist_ok=True)
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
    folder.mkdir(parents=True, exist_ok=True)
    writer: Any = None
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
        batch = _batch(columns, schema.REJECTS)
        if writer is None:
            writer = _new_ipc(folder / "rejects.arrow", batch.schema)
        writer.write_batch(batch)
    writer.close()


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
    """Write part `number` of requests, content and tokens: the rows `order` of all runs laid end to end.

    Parts that a run before this one finished stay as they are; that of requests is put in its place last.
    """
    name = f"part-{number:05d}.parquet"
    if (stage / "requests" / name).exists():
        return
    of_run = np.searchsorted(base, order, side="right") - 1
    requests, content, tokens = [], [], []
    place = np.empty(len(order), np.int64)  # where each wanted row stands in the runs' rows laid end to end
    laid = 0
    any_content, any_tokens = any(f[1] for f in files), any(f[2] for f in files)
    for i in np.unique(of_run):
        folder, has_content, has_tokens = files[i]
        mine = np.flatnonzero(of_run == i)
        local = order[mine] - base[i]
        place[mine] = laid + np.arange(len(mine))
        laid += len(mine)
        requests.append(_rows(folder / "requests.arrow", local))
        if any_content:
            content.append(
                _rows(folder / "content.arrow", local)
                if has_content
                else _nulls(requests[-1], schema.CONTENT)
            )
        if any_tokens:
            tokens.append(
                _rows(folder / "tokens.arrow", local) if has_tokens else _nulls(requests[-1], schema.TOKENS)
            )
    table = _offsets(pa.concat_tables(requests).take(place), zero) if requests else None
    del requests
    spec = schema.arrow(schema.REQUESTS)
    table = spec.empty_table() if table is None else _typed(table, spec)
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
            _typed(laid_out, schema.arrow(schema.CONTENT)).replace_schema_metadata(footer()),
            stage / "content" / name,
            compression="zstd",
            compression_level=1,
            row_group_size=2048,
            use_dictionary=["session_id"],
            write_statistics=["row"],  # statistics would copy text into the footer
        )
    written = stage / "requests" / f".{name}"
    pq.write_table(
        table.replace_schema_metadata(footer()), written, compression="zstd", row_group_size=1 << 16
    )
    written.replace(stage / "requests" / name)
    del table, content, tokens
    give_back_memory()  # parts differ in what they ask for: what is free would lie in pieces, more of it with each part


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
        table.replace_schema_metadata({**footer(), **(metadata or {})}),
        path,
        compression="zstd",
        compression_level=1,
        row_group_size=2048,
        use_dictionary=False,
        write_statistics=False,
        write_batch_size=1 << 20,
        column_encoding={
            f"{name}.list.element": "BYTE_STREAM_SPLIT"
            for name in ("input_ids", "output_ids", "block_hashes", "output_hashes")
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


def footer() -> dict[bytes, bytes]:
    """What stands in the footer of every part."""
    return {
        b"traceprof": traceprof.__version__.encode(),
        b"schema_version": str(schema.TRACE_SCHEMA_VERSION).encode(),
    }


def _write_rejects(stage: Path) -> None:
    found = sorted((stage / "runs").rglob("rejects.arrow"))
    if not found:
        return
    (stage / "rejects").mkdir(exist_ok=True)
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
