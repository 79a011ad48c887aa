"""A trace as what a workload is made of: the requests that can be sent, when, after which turn, and what their prompts share.

Requests of which no prompt is known (cut, redacted, counted only), and those that no engine saw, are left out and counted.
Where a log has no common clock, arrivals follow from the order: a session begins at 0, and each later turn comes when the one
before it ended and its delay is over.
"""

from __future__ import annotations

import heapq
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from traceprof.caches.traffic import Traffic
from traceprof.errors import TraceprofError
from traceprof.load import concurrency as flight
from traceprof.load.models import answered_by
from traceprof.prefix.tree import RadixTree
from traceprof.tokens import UNUSABLE, Sizes, TokenizerInfo, chunks, loaded, sizes_of, tokenize, tokenizer_of
from traceprof.trace import MANIFEST, Trace
from traceprof.workers import Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from traceprof.tokenizer import Tokenizer

CONVERSATIONS = ("explicit", "file")  # kinds of session whose requests follow each other

_COLUMNS = (
    "request_id", "session_id", "session_kind", "parent_request_id", "tenant_id", "model_requested", "model_served", "clock",
    "status", "arrival_ts", "end_ts", "first_token_ts", "arrival_offset_us", "e2e_us", "ttft_us", "delay_after_parent_us", "operation",
    "input_tokens", "output_tokens", "max_output_tokens", "served_from_response_cache", "content_state", "content_level", "block_size",
    "hash_scope", "hash_scheme", "cache_salt", "params", "media", "source_file", "source_row", "turn_index",
)  # fmt: skip


class Source(NamedTuple):
    """The requests of a trace that can be sent, in the trace's order."""

    trace: Trace  # with the tokens of its prompts
    rows: pl.DataFrame  # one row a request: what the requests part says, and the columns below
    #   row             position in the trace
    #   model           name that its client asked for
    #   served          number of the model that answered: one engine each
    #   tokens          of the prompt
    #   output          tokens of the answer, null when not known
    #   arrival_us      on one clock, from 0
    #   took_us         from arrival to end; null when not known
    #   guessed_us      the same, estimated where it is not known
    #   parent          position in this table of the turn before, -1 for none
    #   think_us        from the end of the turn before to this arrival
    traffic: Traffic | None  # their prompts as paths of one tree; None: only their lengths are known
    column: str | None  # what the tree was grown from: input_ids or block_hashes
    unit: int  # tokens that the trace tells apart
    times: str  # recorded, session (each session has its own zero) or order
    left_out: list[dict[str, Any]]  # requests, reason
    info: TokenizerInfo | None  # which tokenizer made the ids


def prepared(
    trace: Trace,
    folder: Path,
    tokenizer: str | None = None,
    chat_template: str | None = None,
    *,
    jobs: int = 1,
    progress: Progress | None = None,
) -> tuple[Trace, Tokenizer]:
    """The trace with tokens of all prompts under one tokenizer, and that tokenizer.

    The trace's own tokens serve where that tokenizer made them, or where it holds no text; else they are made in `folder`, and
    the trace stays as it is. Without `tokenizer` it is the one that made the trace's tokens, or the built-in one.
    """
    info = tokenizer_of(trace)
    asked = (tokenizer, chat_template)
    if asked == (None, None) and info is not None and info.reload is not None:
        asked = info.reload
    target = loaded(*asked)
    text = (trace.scan("requests").select("content_level").collect().to_series() == "text").any()
    made = info is not None and info.unit == 1 and info.digest == target.digest
    if not text or made or not trace.parts("content"):
        return trace, target
    for kind in ("requests", "content", "tokens"):
        (folder / kind).mkdir()
        for part in trace.parts(kind):
            (folder / kind / part.name).symlink_to(os.path.realpath(part))
    (folder / MANIFEST).write_bytes((trace.path / MANIFEST).read_bytes())
    copy = Trace(folder)
    tokenize(copy, *asked, jobs=jobs, progress=progress)
    return copy, target


def read(trace: Trace, progress: Progress | None = None) -> Source:
    """All requests of a trace that can be sent. Raises TraceprofError when there are none."""
    rows = _load(trace)
    sizes = sizes_of(trace, len(rows)) or Sizes.unknown(len(rows))
    left_out: list[dict[str, Any]] = []

    def kept(where: NDArray[np.bool_], rest: NDArray[np.bool_], reason: str) -> NDArray[np.bool_]:
        if lost := int((rest & ~where).sum()):
            left_out.append({"requests": lost, "reason": reason})
        return rest & where

    seen = rows["seen"].to_numpy()
    rest = kept(
        seen, np.ones(len(rows), bool), "seen by no engine: refused, or answered by a gateway's cache"
    )
    known = rest & (sizes.symbols >= 0)
    if known.any():
        units = np.where(sizes.hashed, rows["block_size"].fill_null(0).to_numpy(), 1)
        counts = {int(u): int((units[known] == u).sum()) for u in np.unique(units[known])}
        unit = max(counts, key=lambda u: (counts[u], -u))
        hashed = unit > 1 or not (known & ~sizes.hashed).any()
        column: str | None = "block_hashes" if hashed else "input_ids"
        cut = rows["content_state"].is_in(UNUSABLE).to_numpy()
        rest = kept(
            ~(cut & (sizes.symbols < 0)),
            rest,
            "with a prompt that the logger cut or redacted, or that lies on the server in part",
        )
        rest = kept(sizes.symbols >= 0, rest, "with a prompt that the log does not identify")
        rest = kept(
            (sizes.hashed == hashed) & (units == unit),
            rest,
            f"known otherwise than in units of {unit} tokens",
        )
    else:
        unit, column = 1, None
    tokens = np.where(
        sizes.length >= 0, sizes.length, rows["input_tokens"].cast(pl.Int64).fill_null(-1).to_numpy()
    )
    if column == "input_ids":
        tokens = sizes.symbols
    rest = kept(tokens > 0, rest, "with an empty prompt, or one of unknown length")
    at = np.flatnonzero(rest)
    if not len(at):
        why = "; ".join(f"{one['requests']:,}: {one['reason']}" for one in left_out) or "the trace is empty"
        raise TraceprofError(f"no request of it can be sent ({why})", path=trace.path)
    info = tokenizer_of(trace)
    rows = rows[at.tolist()].with_columns(row=pl.Series(at), tokens=pl.Series(tokens[at]))
    output = pl.Series(sizes.output[at])
    rows = rows.with_columns(
        output=pl.select(
            pl.when(output >= 0).then(output).otherwise(rows["output_tokens"].cast(pl.Int64))
        ).to_series()
    )
    timeline = _timeline(rows)
    rows = rows.with_columns(**timeline.columns)
    source = Source(trace, rows, None, column, unit, timeline.times, left_out, info)
    return source if column is None else source._replace(traffic=sharing(source, progress))


def sharing(source: Source, progress: Progress | None = None, *, one_engine: bool = False) -> Traffic:
    """The prompts as paths of the tree of what they share: within a model, as in the trace, or all of them on one engine."""
    assert source.column is not None
    rows = source.rows
    keys = ["cache_salt", "hash_scope"] if one_engine else ["answered_by", "cache_salt", "hash_scope"]
    if source.column == "input_ids" and source.info is not None and not source.info.exact:
        keys.append("content_level")  # ids of the log's own tokenizer mean something else than ours
    roots = rows.select(pl.struct(keys).rank("dense").cast(pl.Int64) - 1).to_series().to_numpy()
    say = progress or (lambda what, done, total: None)
    return _traffic(
        source.trace,
        source.column,
        source.unit,
        rows["row"].to_numpy(),
        roots,
        rows["tokens"].to_numpy(),
        say,
    )


def _load(trace: Trace) -> pl.DataFrame:
    """One narrow row a request."""
    frame = trace.scan("requests").select(_COLUMNS)
    words = [name for name, kind in frame.collect_schema().items() if kind == pl.Categorical]
    rows = frame.with_columns(pl.col(words).cast(pl.String)).collect()
    ends = (pl.col("end_ts") - pl.col("arrival_ts")).dt.total_microseconds()
    first = (pl.col("first_token_ts") - pl.col("arrival_ts")).dt.total_microseconds()
    rows = rows.with_columns(
        took_us=pl.coalesce(ends, "e2e_us"),
        ttft_us=pl.coalesce("ttft_us", first),
        seen=~pl.col("served_from_response_cache").fill_null(False) & (pl.col("status") != "rejected"),
        model=pl.coalesce("model_requested", "model_served"),
    )
    # the turns of one record are a conversation, whether or not it has a name
    turns = (
        pl.col("session_id").is_null()
        & pl.col("turn_index").is_not_null()
        & (pl.len().over("source_file", "source_row") > 1)
    )
    rows = rows.with_columns(
        session_id=pl.when(turns)
        .then(pl.format("{}:{}", "source_file", "source_row"))
        .otherwise("session_id"),
        session_kind=pl.when(turns).then(pl.lit("explicit")).otherwise("session_kind"),
    )
    return answered_by(rows, "answered_by").with_columns(
        answered_by=pl.col("answered_by").fill_null("unknown"),
        served=pl.col("answered_by").fill_null("unknown").rank("dense").cast(pl.Int64) - 1,
    )


def _traffic(
    trace: Trace,
    column: str,
    unit: int,
    at: NDArray[np.int64],
    roots: NDArray[np.int64],
    tokens: NDArray[np.int64],
    say: Progress,
) -> Traffic:
    """The prompts as paths of one tree; what of a prompt was not hashed is a leaf of its own."""
    tree = RadixTree(unit=unit, dtype=np.uint32 if column == "input_ids" else np.uint64)
    n = len(at)
    end_node, known = np.zeros(n, np.int64), np.zeros(n, np.int64)
    done = 0
    for chunk in chunks(trace, column):
        to = int(np.searchsorted(at, chunk.first + len(chunk.known)))
        wanted = at[done:to] - chunk.first
        symbols, offsets = chosen(chunk.symbols, chunk.offsets, wanted)
        end_node[done:to] = tree.insert(symbols, offsets, roots[done:to]).end_node
        known[done:to] = np.diff(offsets) * unit
        done = to
        say("prefix tree", done, n)
    nothing = np.zeros(n, np.int64)
    return Traffic.of_tree(
        tree, end_node, np.minimum(known, tokens), tokens, nothing, nothing, nothing, nothing
    )


def chosen(
    symbols: NDArray[Any], offsets: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Some of many sequences that lie end to end.  Example: [5, 6, 7], [0, 1, 3], rows [1] -> [6, 7], [0, 2]"""
    if len(rows) == len(offsets) - 1:
        return symbols, offsets
    parts = [symbols[offsets[i] : offsets[i + 1]] for i in rows]
    return np.concatenate([symbols[:0], *parts]), np.cumsum([0, *map(len, parts)], dtype=np.int64)


# -- when, and after what --------------------------------------------------------------------------------------


class _Timeline(NamedTuple):
    columns: dict[str, pl.Series]
    times: str


def _timeline(rows: pl.DataFrame) -> _Timeline:
    """Arrivals on one clock, and of each request the turn before it: see the module's docstring.

    A turn's predecessor is what the log names; else the request of its session that ended last before it came; where ends are not
    known, the one that came before it, in sessions that are conversations. Requests of a session that overlap follow none.
    """
    clocks = rows.filter(pl.col("arrival_offset_us").is_not_null())["clock"].unique().to_list()
    one = len(clocks) == 1 and clocks[0] in ("absolute", "relative", "session")
    times = "order" if not one else "session" if clocks[0] == "session" else "recorded"
    start = rows["arrival_offset_us"].to_list() if one else [None] * len(rows)
    took = rows["took_us"].to_list()
    prefill = rows["tokens"].to_numpy() / flight.PREFILL_TOKENS_PER_S
    decode = rows["output"].fill_null(0).to_numpy() * flight.TPOT_S
    guess = ((prefill + decode) * 1e6).astype(np.int64).tolist()
    names = rows["request_id"].to_list()
    sessions, kinds = rows["session_id"].to_list(), rows["session_kind"].to_list()
    named, delays = rows["parent_request_id"].to_list(), rows["delay_after_parent_us"].to_list()
    where: dict[str, int] = {}  # of each name the last request so far
    latest = max((s for s in start if s is not None), default=0)
    arrival = [0] * len(rows)
    parent = [-1] * len(rows)
    think: list[int | None] = [None] * len(rows)
    running: dict[
        str, list[tuple[int, int]]
    ] = {}  # of each session: (end, request) of those not known to have ended
    ended: dict[str, int] = {}  # the last that did
    before: dict[str, int] = {}  # the last that came

    for i in range(len(rows)):
        came = start[i]
        told = where.get(named[i], -1) if named[i] is not None else -1
        if told >= 0 and sessions[i] is None:
            sessions[i] = sessions[told] = sessions[told] or names[told]
            before[sessions[i]] = max(before.get(sessions[i], -1), told)
        session = sessions[i]
        if session is not None:
            heap = running.setdefault(session, [])
            while came is not None and heap and heap[0][0] <= came:
                ended[session] = heapq.heappop(heap)[1]
            previous = before.get(session, -1)
            if told >= 0 and sessions[told] == session:
                parent[i] = told
            elif (
                previous >= 0
                and came is not None
                and start[previous] is not None
                and took[previous] is not None
            ):
                parent[i] = ended.get(session, -1)
            elif kinds[i] in CONVERSATIONS:
                parent[i] = previous
            before[session] = i
        up = parent[i]
        if came is None:
            arrival[i] = latest if up < 0 and times == "recorded" else 0
            if up >= 0:
                lasted = took[up] if took[up] is not None else guess[up]
                arrival[i] = arrival[up] + lasted + (delays[i] or 0)
        else:
            arrival[i] = came
        if up >= 0:
            if delays[i] is not None:
                think[i] = delays[i]
            elif (
                came is not None
                and start[up] is not None
                and took[up] is not None
                and came >= start[up] + took[up]
            ):
                think[i] = came - start[up] - took[up]
        where[names[i]] = i
        if session is not None and came is not None and took[i] is not None:
            heapq.heappush(running[session], (came + took[i], i))
    return _Timeline(
        {
            "session_id": pl.Series(sessions, dtype=pl.String),
            "arrival_us": pl.Series(arrival, dtype=pl.Int64),
            "guessed_us": pl.Series(
                [g if t is None else t for t, g in zip(took, guess, strict=True)], dtype=pl.Int64
            ),
            "parent": pl.Series(parent, dtype=pl.Int64),
            "think_us": pl.Series(think, dtype=pl.Int64),
        },
        times,
    )
