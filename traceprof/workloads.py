"""The workload file: one Parquet file of requests to send, in the order of arrival, and what it is in its metadata.

WORKLOAD.parquet    columns of `traceprof.schema.WORKLOAD`; under the key `traceprof` a JSON object:

kind                "traceprof-workload"
schema_version, traceprof_version
variant             asis, shared or unique
seed                what everything random in it was drawn from
trace               name and counts of the trace that it was made from
tokenizer           name and digest, and whether counts are exact
unit                tokens that the trace tells apart (1: token ids)
times               recorded, session or order: how arrivals were known
engine_per_model    whether each model has an engine of its own
prompts, notes      what they are, and what a sender must know
endpoints           number of requests by the endpoint that they are for: chat, completions, ids
steps               what was done to it, in order, with requests and the trace's hit rate after each
requests, sessions, models, span_us, input_tokens, output_tokens, hit_tokens, hit_rate, trace_hit_rate
warmup              requests, input_tokens, hit_tokens
machine             what the engines' caches are sized for; `given`: whether somebody named it
expected            by engine: hit_tokens, hit_rate, capacity_tokens, of all that is no warm-up
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import traceprof
from traceprof import schema
from traceprof.errors import TraceprofError

if TYPE_CHECKING:
    import pyarrow as pa

KIND = "traceprof-workload"
ROW_GROUP = 4096  # requests: what is read ahead at once,
GROUP_BYTES = 64 << 20  # or as many as take this much


class Workload:
    """A workload file; rows are read in batches, so that one larger than memory can be sent."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = Path(path)
        try:
            with pq.ParquetFile(self.path) as file:
                told = (file.metadata.metadata or {}).get(b"traceprof")
                self.requests: int = file.metadata.num_rows
        except FileNotFoundError:
            raise TraceprofError(
                "no such workload", path=self.path, remedy="make one: traceprof workload TRACE -o FILE"
            ) from None
        except pa.ArrowInvalid:
            raise _no_workload(self.path, "it is no Parquet file, or not the whole of one") from None
        except OSError as bad:
            if self.path.is_dir():
                raise _no_workload(self.path, "it is a folder") from None
            raise TraceprofError(
                f"cannot be read: {bad.strerror or 'it is damaged'}", path=self.path
            ) from None
        self.meta: dict[str, Any] = _object(told)
        if self.meta.get("kind") != KIND:
            raise _no_workload(self.path, "it is a Parquet file of something else")
        if self.meta.get("schema_version") != schema.WORKLOAD_SCHEMA_VERSION:
            raise TraceprofError(
                f"made by another version of traceprof ({self.meta.get('traceprof_version')})",
                path=self.path,
                remedy="make it again",
            )

    def batches(self, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """All rows in order, a row group at a time."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.path) as file:
                yield from file.iter_batches(ROW_GROUP, columns=columns)
        except (OSError, pa.ArrowInvalid):
            raise TraceprofError(
                "cannot be read to its end: it is damaged", path=self.path, remedy="make it again"
            ) from None

    def endpoints(self) -> Counter[str]:
        """Number of requests by the endpoint that they are for: chat, completions, ids."""
        counts: Counter[str] = Counter()
        for batch in self.batches(["endpoint"]):
            counts.update(batch.column("endpoint").cast("string").to_pylist())
        return counts


def _no_workload(path: Path, why: str) -> TraceprofError:
    return TraceprofError(
        f"not a workload: {why}", path=path, remedy="give the file that traceprof workload wrote"
    )


def _object(told: bytes | None) -> dict[str, Any]:
    """A JSON object; empty where it is none."""
    try:
        found = json.loads(told or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def labels(workloads: Sequence[tuple[str, str]]) -> list[str]:
    """What to call workloads, each a variant and a file: by the variant, by the file's name where two have one variant, or by all of its path.

    >>> labels([("shared", "a/s.parquet"), ("unique", "a/u.parquet")])
    ['shared', 'unique']
    >>> labels([("asis", "a/monday.parquet"), ("asis", "a/sunday.parquet")])
    ['monday', 'sunday']
    """
    variants = [variant for variant, _ in workloads]
    names = [Path(file).name.removesuffix(".parquet") for _, file in workloads]
    ways = (variants, names, [file for _, file in workloads])
    return next((way for way in ways if len(set(way)) == len(way)), ways[-1])


def sent_as(endpoints: Mapping[str, int]) -> str:
    """As what requests are sent, in words.

    >>> sent_as({"chat": 61}), sent_as({"chat": 40, "ids": 21})
    ('as chats', '40 as chats, 21 as token ids')
    """
    told = [(count, _AS.get(name, name)) for name, count in endpoints.items() if count]
    return told[0][1] if len(told) == 1 else ", ".join(f"{count:,} {how}" for count, how in told)


_AS = {"chat": "as chats", "completions": "as texts", "ids": "as token ids"}


def write_workload(
    path: str | os.PathLike[str], batches: Iterable[pa.RecordBatch], meta: dict[str, Any]
) -> Workload:
    """Write a workload, whole or not at all. `meta` may still be filled while the batches are made."""
    import pyarrow.parquet as pq

    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(part, schema.arrow(schema.WORKLOAD), compression="zstd") as out:
            for batch in batches:
                fit = GROUP_BYTES * batch.num_rows // max(batch.nbytes, 1)
                out.write_batch(batch.cast(out.schema), row_group_size=max(1, min(ROW_GROUP, fit)))
            whole = {
                "kind": KIND,
                "schema_version": schema.WORKLOAD_SCHEMA_VERSION,
                "traceprof_version": traceprof.__version__,
                **meta,
            }
            out.add_key_value_metadata({"traceprof": json.dumps(whole, ensure_ascii=False)})
        part.replace(path)
    except OSError as bad:
        raise TraceprofError(
            f"cannot be written: {bad.strerror}", path=path, remedy="give another -o"
        ) from None
    finally:
        part.unlink(missing_ok=True)
    return Workload(path)
