"""Records of a log that cannot be read before its end is known: of several updates of one id the last holds, or a row waits for its trace.

They lie in a temporary file (TMPDIR, compressed), so memory holds about 200 bytes a record, never its text.
"""

from __future__ import annotations

import hashlib
import struct
import tempfile
from array import array
from collections.abc import Iterator
from typing import Any

import orjson
import pyarrow as pa

from traceprof.formats.base import BadRecord, Skip, dumps

# rank, row; bytes compressed, of the file's name, of the raw text, of the value
_HEAD = struct.Struct("<qQIIII")


def key_of(name: str) -> int:
    """A name as 64 bits, as everything that is kept in memory for a long log knows it."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=8).digest(), "little")


class Held:
    """Records in the order of the log; of those with one name the one of the highest rank, the first among equals."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="traceprof-")  # noqa: SIM115  closed by __exit__
        self._end = 0
        self._at: dict[int, int] = {}  # key of a name -> its place in _offsets
        self._offsets = array("q")  # of the records that hold
        self._like: Any = None

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def keep(self, record: Any, name: str | None, rank: int = 0) -> tuple[Any, Skip | BadRecord] | None:
        """Keep a record; gives back the one of two updates that does not hold, or the record when it cannot be kept."""
        self._like = record
        rank = max(-(2**63), min(rank, 2**63 - 1))
        key = None if name is None else key_of(name)
        place = None if key is None else self._at.get(key)
        beaten: Any = None
        if place is not None:
            before = self._head(self._offsets[place])
            if rank <= before[0]:
                return record, Skip("older_update")
            file, _, _ = self._read(self._offsets[place], before)
            beaten = record._replace(file=file, row=before[1], raw=b"", value=None)
        try:
            body = _packed(record.value)
        except (TypeError, ValueError, RecursionError):
            return record, BadRecord("unsupported", "nested too deep to be kept until the end of the log")
        offset = self._write(record, body, rank)
        if place is not None:
            self._offsets[place] = offset
            return beaten, Skip("older_update")
        if key is not None:
            self._at[key] = len(self._offsets)
        self._offsets.append(offset)
        return None

    def __iter__(self) -> Iterator[Any]:
        """The records that hold, each as it came, in the order of the log."""
        for offset in sorted(self._offsets):
            head = self._head(offset)
            file, raw, body = self._read(offset, head)
            yield self._like._replace(file=file, row=head[1], raw=raw, value=_unpacked(body))

    def _write(self, record: Any, body: bytes, rank: int) -> int:
        file = record.file.encode("utf-8", "replace")
        packed = pa.compress(file + record.raw + body, codec="lz4", asbytes=True)
        offset = self._end
        self._file.seek(offset)
        head = _HEAD.pack(rank, record.row, len(packed), len(file), len(record.raw), len(body))
        self._end += self._file.write(head) + self._file.write(packed)
        return offset

    def _head(self, offset: int) -> tuple[int, int, int, int, int, int]:
        self._file.seek(offset)
        found: tuple[int, int, int, int, int, int] = _HEAD.unpack(self._file.read(_HEAD.size))
        return found

    def _read(self, offset: int, head: tuple[int, ...]) -> tuple[str, bytes, bytes]:
        """(name of the file, raw text, value) of the record at an offset."""
        _, _, packed, file, raw, body = head
        self._file.seek(offset + _HEAD.size)
        whole = pa.decompress(
            self._file.read(packed), decompressed_size=file + raw + body, codec="lz4", asbytes=True
        )
        return whole[:file].decode(), whole[file : file + raw], whole[file + raw :]


def _packed(value: Any) -> bytes:
    try:
        return orjson.dumps(value, default=_spelled)  # times of Parquet as ISO 8601
    except TypeError:
        return dumps(value)


def _spelled(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _unpacked(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        import json  # takes NaN, which `dumps` may have written

        return json.loads(body)
