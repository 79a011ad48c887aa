"""requests -> tokens: fill a trace's tokens/ with the ids of every prompt and answer under one tokenizer.

Content parts are independent, so workers take one each. Within a part, rows stand by session, so texts that repeat
lie close together, which the tokenizer's segment cache lives from; ids are written back in arrival order.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from traceprof import schema
from traceprof.errors import TraceprofError
from traceprof.runs import write_tokens
from traceprof.tokenizer import EncodedRequests, Tokenizer, encode_requests, load
from traceprof.trace import Trace, staged
from traceprof.workers import Progress, Workers

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH_ROWS = 512
# bytes of compressed content, from which the fast library is worth its second of start-up
WORTH_FAST = 1 << 20
METADATA = b"tokenizer"  # key in the metadata of tokens parts
UNUSABLE = (
    "truncated",
    "redacted",
    "partial_history",
)  # content states whose text must not stand for the whole prompt


class TokenizerInfo(NamedTuple):
    """Which tokenizer made a trace's ids."""

    name: str
    exact: bool  # the model's own tokenizer and template, as far as the user told us
    digest: str | None
    reload: tuple[str | None, str | None] | None  # what to give to tokenizer.load to have it again
    errors: dict[str, int]  # rows without ids because their template failed, by reason
    cut_prompts: bool = False  # whether prompts that the logger cut have ids, as far as they go
    unit: int = 1  # tokens of the blocks that its ids were hashed in; 1: the trace has the ids


class Sizes(NamedTuple):
    """Lengths of what tokens/ holds of each request; -1 where it does not say."""

    symbols: NDArray[np.int64]  # ids or hashes of the prompt
    hashed: NDArray[np.bool_]  # whether they are block hashes
    output: NDArray[np.int64]  # output tokens
    length: NDArray[np.int64]  # tokens of a prompt that was hashed under a key

    @classmethod
    def unknown(cls, n: int) -> Sizes:
        """Of n requests of which nothing is known."""
        nothing = np.full(n, -1, np.int64)
        return cls(nothing, np.zeros(n, bool), nothing, nothing)


def sizes_of(trace: Trace, n: int) -> Sizes | None:
    """Those of a trace's n requests, without reading the lists; None when there is no tokens/."""
    import polars as pl

    if not trace.parts("tokens"):
        return None
    wanted = ("input_symbols", "output_symbols", "block_size", "input_length", "output_length")
    got = trace.scan("tokens").select(pl.col(wanted).cast(pl.Int64)).collect()
    if len(got) != n:
        raise TraceprofError(
            f"holds {len(got):,} rows for {n:,} requests",
            path=trace.path / "tokens",
            remedy="run traceprof tokenize",
        )
    return Sizes(
        got["input_symbols"].fill_null(-1).to_numpy(),
        got["block_size"].is_not_null().to_numpy(),
        got.select(pl.coalesce("output_length", "output_symbols").fill_null(-1)).to_series().to_numpy(),
        got["input_length"].fill_null(-1).to_numpy(),
    )


def tokenizer_of(trace: Trace) -> TokenizerInfo | None:
    """Which tokenizer made the trace's ids; None when the log itself held them (or holds none)."""
    found: TokenizerInfo | None = None
    errors: Counter[str] = Counter()
    for part in trace.parts("tokens"):
        said = (pq.read_schema(part).metadata or {}).get(METADATA)
        if said:
            value = json.loads(said)
            errors.update(value.pop("errors"))
            value["reload"] = tuple(value["reload"]) if value["reload"] else None
            found = TokenizerInfo(**value, errors={})
    return None if found is None else found._replace(errors=dict(errors.most_common()))


def tokenize(
    trace: Trace,
    tokenizer: str | None = None,
    chat_template: str | None = None,
    *,
    cut_prompts: bool = False,
    jobs: int = 1,
    progress: Progress | None = None,
) -> TokenizerInfo | None:
    """Write tokens/ for every request whose text the trace holds; ids and hashes that the log itself gave are kept.

    Prompts that the logger cut are left out, since what was cut away would be counted as different; with `cut_prompts` they are
    counted as far as they go.

    Returns None, and changes nothing, when no prompt is known as text alone. Raises TraceprofError when the tokenizer or the
    template cannot be loaded.
    """
    parts = trace.parts("content")
    if not any(_needs(part) for part in parts):
        return None
    say = progress or (lambda what, done, total: None)
    sizes = [part.stat().st_size for part in parts]
    errors: Counter[str] = Counter()
    jobs = jobs if len(parts) > 1 else 1
    with contextlib.ExitStack() as closing:
        stage = closing.enter_context(staged(trace.path / "tokens", mine=None))
        tasks = (
            (trace.path, number, stage, (tokenizer, chat_template), cut_prompts)
            for number in range(len(parts))
        )
        if tokenizer is None and chat_template is None:
            # the built-in format is light, and the rest holds no interpreter lock: threads share one tokenizer
            if sum(sizes) > WORTH_FAST:
                assert loaded(tokenizer, chat_template).backend
            threads = closing.enter_context(ThreadPoolExecutor(jobs))
            results = threads.map(lambda task: tokenize_part(*task), tasks)
        else:
            results = closing.enter_context(Workers(jobs)).imap(tokenize_part, tasks)
        done = 0
        for size, failed in zip(sizes, results, strict=True):
            errors.update(failed)
            done += size
            say("tokenize", done, sum(sizes))
        if errors and not any(_has_ids(part) for part in stage.glob("part-*.parquet")):
            why = errors.most_common(1)[0][0]
            raise TraceprofError(
                f"no prompt could be rendered: {why}", remedy="give the model's own --chat-template FILE"
            )
    return tokenizer_of(trace)


def _has_ids(part: Path) -> bool:
    lengths = pq.read_table(part, columns=["input_symbols"]).column("input_symbols")
    return bool(lengths.null_count < len(lengths))


def _needs(content: Path) -> bool:
    """Whether a part has prompts of which only the text is known."""
    requests = content.parent.parent / "requests" / content.name
    level = pq.read_table(requests, columns=["content_level"]).column("content_level").cast(pa.string())
    return bool(pc.any(pc.equal(level, "text")).as_py())


def loaded(tokenizer: str | None, chat_template: str | None) -> Tokenizer:
    """The tokenizer of a process, kept between parts and steps for as long as its files stay as they are."""
    return _kept(tokenizer, chat_template, _stamp(tokenizer), _stamp(chat_template))


@functools.lru_cache(maxsize=4)
def _kept(tokenizer: str | None, chat_template: str | None, *_stamps: object) -> Tokenizer:
    return load(tokenizer, chat_template)


def _stamp(spec: str | None) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of the files that a tokenizer or template may be read from."""
    if spec is None or not Path(spec).exists():
        return ()
    folder = Path(spec) if Path(spec).is_dir() else Path(spec).parent
    files = sorted(p for p in folder.iterdir() if p.suffix in (".json", ".jinja") or p == Path(spec))
    return tuple((p.name, (at := p.stat()).st_size, at.st_mtime_ns) for p in files)


def tokenize_part(
    path: Path, number: int, stage: Path, spec: tuple[str | None, str | None], cut_prompts: bool = False
) -> Counter[str]:
    """Write tokens part `number` into `stage`, under the tokenizer and template of `spec`; returns why rows failed."""
    tokenizer = loaded(*spec)
    name = f"part-{number:05d}.parquet"
    requests = pq.read_table(
        path / "requests" / name,
        columns=["request_id", "content_state", "content_level", "arrival_ts", "block_size"],
    )
    unusable = [state for state in UNUSABLE if not (cut_prompts and state == "truncated")]
    usable = pc.invert(pc.is_in(requests.column("content_state").cast(pa.string()), pa.array(unusable)))
    # rows whose ids or hashes the log itself told
    told = pc.invert(pc.equal(requests.column("content_level").cast(pa.string()), "text"))
    given = path / "tokens" / name
    old = pq.read_table(given) if given.exists() and pc.any(told).as_py() else None
    if old is not None:
        usable = pc.and_(usable, pc.invert(told))
    rows, encoded = _encode(path / "content" / name, tokenizer, usable, requests.column("arrival_ts"))
    errors: Counter[str] = Counter()
    for one in encoded:
        errors.update(e for e in one.errors if e is not None)
    inputs = _lists(rows, [e.input for e in encoded], [e.input_valid for e in encoded], len(requests))
    outputs = _lists(rows, [e.output for e in encoded], [e.output_valid for e in encoded], len(requests))
    made: dict[str, Any] = {
        "input_ids": inputs,
        "output_ids": outputs,
        "input_symbols": pc.list_value_length(inputs),
        "output_symbols": pc.list_value_length(outputs),
    }
    columns = []
    for column in schema.TOKENS:
        if column.name in ("request_id", "block_size"):
            columns.append(requests.column(column.name))
            continue
        new = made.get(column.name, pa.nulls(len(requests), column.type))
        columns.append(new if old is None else _where(told, old.column(column.name), new))
    table = pa.table(columns, schema=schema.arrow(schema.TOKENS))
    info = {
        "name": tokenizer.name,
        "exact": tokenizer.exact,
        "digest": tokenizer.digest,
        "reload": tokenizer.reload,
        "errors": dict(errors),
        "cut_prompts": cut_prompts,
    }
    write_tokens(table, stage / name, {METADATA: json.dumps(info).encode()})
    return errors


def _encode(
    path: Path, tokenizer: Tokenizer, usable: pa.ChunkedArray, arrival: pa.ChunkedArray
) -> tuple[NDArray[np.int64], list[EncodedRequests]]:
    """(row in the requests part of each content row, in the order they stand; their ids, batch after batch)."""
    rows: list[NDArray[np.int64]] = []
    encoded = []
    may = usable.to_numpy()
    times = (
        arrival.to_pylist() if any("strftime_now" in s for s in tokenizer.template.sources.values()) else None
    )
    for batch in pq.ParquetFile(path).iter_batches(
        BATCH_ROWS, columns=["row", "messages_json", "prompt_text", "tools_json", "output_json"]
    ):
        at = batch.column("row").to_numpy().astype(np.int64)
        allowed = may[at]
        columns = [batch.column(c) for c in ("messages_json", "tools_json", "prompt_text", "output_json")]
        # JSON is parsed as bytes
        columns = [c if i == 2 else c.cast(pa.large_binary()) for i, c in enumerate(columns)]
        if not allowed.all():
            mask = pa.array(allowed)
            columns = [pc.if_else(mask, c, pa.scalar(None, c.type)) for c in columns]
        messages, tools, answers = (_views(columns[i]) for i in (0, 1, 3))
        prompts = columns[2].to_pylist()
        now = None if times is None else [times[i] for i in at]
        encoded.append(encode_requests(tokenizer, messages, tools, prompts, answers, now))
        rows.append(at)
    return (np.concatenate(rows) if rows else np.empty(0, np.int64)), encoded


def _views(column: pa.Array) -> list[memoryview | None]:
    """The values of a binary column where they lie; parsing reads them once, so there is no need of a copy."""
    if column.null_count == len(column):
        return [None] * len(column)
    _, offsets, data = column.buffers()
    at = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1].tolist()
    bytes_ = memoryview(data)
    known = column.is_valid().to_pylist()
    return [bytes_[a:b] if ok else None for a, b, ok in zip(at[:-1], at[1:], known, strict=True)]


def _where(told: pa.ChunkedArray, old: pa.ChunkedArray, new: pa.Array) -> pa.Array:
    """Of each row the old value where the log told it, else the new one; nulls are values."""
    n = len(new)
    pick = np.where(told.to_numpy(), np.arange(n), np.arange(n, 2 * n))
    return pa.chunked_array([*old.chunks, new]).take(pa.array(pick)).combine_chunks()


def _lists(rows: NDArray[np.int64], parts: list[Any], valid: list[NDArray[np.bool_]], n: int) -> pa.ListArray:
    """Ids of content rows as one list array over all `n` requests, in their order; null where not valid."""
    type_ = schema.arrow(schema.TOKENS).field("input_ids").type
    if not parts:
        return pa.nulls(n, type_)
    known = np.zeros(n, bool)
    known[rows] = np.concatenate(valid)
    ends = np.zeros(n + 1, np.int64)
    ends[rows + 1] = np.concatenate([np.diff(one.offsets) for one in parts])
    np.cumsum(ends, out=ends)
    ids = np.empty(ends[-1], np.uint32)
    starts = iter(ends[rows].tolist())
    for one in parts:
        for a, b in itertools.pairwise(one.offsets.tolist()):
            start = next(starts)
            ids[start : start + b - a] = one.ids[a:b]
    return pa.ListArray.from_arrays(
        pa.array(ends.astype(np.int32)), pa.array(ids), type=type_, mask=pa.array(~known)
    )


class Chunk(NamedTuple):
    """Rows of a trace in arrival order, as arrays: symbols of prompt and output, end to end."""

    first: int  # position of the first row in the trace
    symbols: NDArray[Any]  # uint32 token ids or uint64 block hashes
    offsets: NDArray[np.int64]  # n + 1
    known: NDArray[np.bool_]  # False: nothing identifies the row's prompt
    output_symbols: NDArray[np.uint32]
    output_offsets: NDArray[np.int64]
    output_known: NDArray[np.bool_]


def chunks(trace: Trace, column: str = "input_ids", *, outputs: bool = False) -> Iterator[Chunk]:
    """The trace's token ids (`input_ids`) or block hashes (`block_hashes`), chunk after chunk."""
    of_outputs = "output_ids" if column == "input_ids" else "output_hashes"
    wanted = [column, of_outputs] if outputs else [column]
    groups = [
        (part, group)
        for part in trace.parts("tokens")
        for group in range(pq.read_metadata(part).num_row_groups)
    ]
    first = 0
    with ThreadPoolExecutor(2) as readers:  # decoding lists takes longer than anything done with them
        ahead: deque[Future[pa.Table]] = deque()
        for number in range(len(groups) + _AHEAD):
            if number < len(groups):
                ahead.append(readers.submit(_read_group, *groups[number], wanted))
            if number < _AHEAD and number < len(groups):
                continue
            if not ahead:
                break
            table = ahead.popleft().result()
            none = np.empty(0, np.uint32), np.zeros(len(table) + 1, np.int64), np.zeros(len(table), bool)
            out = flat(table.column(of_outputs)) if outputs else none
            yield Chunk(first, *flat(table.column(column)), *out)
            first += len(table)


_AHEAD = 3


def _read_group(part: Path, group: int, columns: list[str]) -> pa.Table:
    return pq.ParquetFile(part).read_row_group(group, columns=columns, use_threads=False)


def flat(column: pa.ChunkedArray) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.bool_]]:
    """(values end to end, offsets, whether known) of a column of lists."""
    lists = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    offsets = lists.offsets.to_numpy().astype(np.int64)
    known = ~lists.is_null().to_numpy(zero_copy_only=False)
    values = lists.values.to_numpy()[offsets[0] : offsets[-1]]
    offsets = offsets - offsets[0]
    return values, offsets, known
