"""A trace's own prompts, in the order of a workload: messages, texts, ids and block hashes, a few rows at a time.

A trace stands by arrival; a workload may not, once its sessions begin at other times. Then rows pass through files, one for each
batch of the workload, so that no more than a part of the trace and a batch of the workload is held at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from traceprof import schema, templates

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from traceprof.trace import Trace

BATCH_ROWS = 1024
TEXT = ("messages_json", "tools_json", "prompt_text")
_FILES = 500  # open at once

_PARAMS = ("temperature", "top_p", "top_k", "n", "seed", "reasoning_effort")
_WORDS = {"tool_choice": ("auto", "none", "required"), "response_format": ("json_object", "text")}


def gathered(
    trace: Trace, rows: NDArray[np.int64], columns: tuple[str, ...], folder: Path
) -> Iterator[tuple[slice, pa.Table]]:
    """(places in `rows`, those rows' columns of content/ and tokens/), batch after batch; `folder` is for files on the way."""
    if not columns:
        for first in range(0, len(rows), BATCH_ROWS):
            yield slice(first, min(first + BATCH_ROWS, len(rows))), pa.table({})
        return
    batch = max(BATCH_ROWS, -(-len(rows) // _FILES)) if _jumps(rows) else BATCH_ROWS
    pieces = _pieces(trace, rows, columns)
    if not _jumps(rows):
        held, first = pa.table({}), 0
        for _, piece in pieces:
            held = piece if not len(held) else pa.concat_tables([held, piece])
            while len(held) >= batch or (len(held) and first + len(held) == len(rows)):
                yield slice(first, first + min(batch, len(held))), held.slice(0, batch)
                first += min(batch, len(held))
                held = held.slice(batch)
        return
    folder.mkdir()
    files: dict[int, pq.ParquetWriter] = {}
    for places, piece in pieces:
        whole = piece.append_column("place", pa.array(places))
        for number in np.unique(places // batch).tolist():
            if number not in files:
                files[number] = pq.ParquetWriter(folder / str(number), whole.schema, compression="lz4")
            files[number].write_table(whole.filter(pa.array(places // batch == number)))
    for file in files.values():
        file.close()
    for number in sorted(files):
        got = pq.read_table(folder / str(number)).sort_by("place")
        (folder / str(number)).unlink()
        yield slice(number * batch, number * batch + len(got)), got.drop_columns("place")


def _jumps(rows: NDArray[np.int64]) -> bool:
    return bool((np.diff(rows) < 0).any())


def _pieces(
    trace: Trace, rows: NDArray[np.int64], columns: tuple[str, ...]
) -> Iterator[tuple[NDArray[np.int64], pa.Table]]:
    """(places in `rows`, in order; their columns) of each part of the trace."""
    content = [name for name in columns if name in TEXT]
    tokens = [name for name in columns if name not in TEXT]
    first = 0
    for part in trace.parts("requests"):
        n = pq.read_metadata(part).num_rows
        places = np.flatnonzero((rows >= first) & (rows < first + n))
        wanted = pa.array(rows[places] - first)
        first += n
        if not len(places):
            continue
        found: dict[str, Any] = {}
        if content:
            text = pq.read_table(trace.path / "content" / part.name, columns=["row", *content])
            where = np.full(n, -1, np.int64)
            where[text.column("row").to_numpy()] = np.arange(len(text))
            at = where[wanted.to_numpy()]
            lines = text.take(pa.array(at, mask=at < 0))
            found |= {name: lines.column(name) for name in content}
        if tokens:
            ids = pq.read_table(trace.path / "tokens" / part.name, columns=tokens).take(wanted)
            found |= {name: ids.column(name) for name in tokens}
        yield places, pa.table(found)


def sendable(messages_json: str) -> str:
    """Messages in which text stands where media were: the trace holds only their hashes.

    >>> said = '[{"role":"user","content":[{"type":"image_url","sha":"ab","bytes":7}]}]'
    >>> sendable(said) == said, "image" in sendable(said)
    (False, True)
    """
    messages = json.loads(messages_json)
    for message in messages:
        parts = message.get("content")
        if isinstance(parts, list) and any(isinstance(part, dict) and "sha" in part for part in parts):
            # one text: engines join parts each in their own way
            message["content"] = templates.prepare_messages(
                [{"role": "user", "content": parts}], "string"
            ).messages[0]["content"]
    return json.dumps(messages, ensure_ascii=False, separators=(",", ":"))


def params_json(params: dict[str, Any] | None, limit: int | None) -> str | None:
    """Sampling parameters as fields of an OpenAI body; `limit` is the client's own on the output.

    What the trace knows only in part (a JSON schema, stop sequences, a tool by name) is left out.

    >>> params_json({"temperature": 0.5, "n": None, "response_format": "json_object"}, 64)
    '{"temperature": 0.5, "response_format": {"type": "json_object"}, "max_tokens": 64}'
    """
    said = params or {}
    found = {name: _plain(said[name]) for name in _PARAMS if said.get(name) is not None}
    if said.get("tool_choice") in _WORDS["tool_choice"]:
        found["tool_choice"] = said["tool_choice"]
    if said.get("response_format") in _WORDS["response_format"]:
        found["response_format"] = {"type": said["response_format"]}
    if limit is not None:
        found["max_tokens"] = limit
    return json.dumps(found) if found else None


def _plain(value: Any) -> Any:
    """A number as it was written: 0.7, not the 0.699999988 that 32 bits hold of it."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def ids_column(ids: Sequence[NDArray[np.uint32]]) -> pa.Array:
    """Lists of token ids as a column."""
    ends = np.cumsum([0, *map(len, ids)]).astype(np.int32)
    values = np.concatenate([np.empty(0, np.uint32), *ids])
    type_ = schema.arrow(schema.WORKLOAD).field("prompt_ids").type
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(values), type=type_)
