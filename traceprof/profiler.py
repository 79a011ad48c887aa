"""trace -> profile: runs each measure whose needs the trace meets, and names those that it leaves out.

    TRACE --> PROFILE/profile.json, requests.parquet, mrc.parquet, concurrency.parquet, prefixes.parquet

Requests are held in memory as a narrow table; tokens stream through the tree chunk by chunk.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

import traceprof
from traceprof import schema
from traceprof.caches import engine, infinite, memory
from traceprof.caches.traffic import Traffic
from traceprof.errors import TraceprofError
from traceprof.lab import LARGE, SLOW, Lab, Machine, machine_part, providers_part, replicas_part, timed
from traceprof.load import concurrency as flight
from traceprof.load.arrivals import arrivals
from traceprof.load.lengths import lengths
from traceprof.load.models import answered_by
from traceprof.load.sessions import sessions
from traceprof.prefix import over_time as by_time
from traceprof.prefix.blocks import SCHEME
from traceprof.prefix.reuse import MissRatioCurve
from traceprof.prefix.tree import RadixTree, Stats, TopPrefix, hit_tokens
from traceprof.remedies import SAMPLE_TOKENS, find_breakers
from traceprof.simulate.host import Host
from traceprof.simulate.study import Objectives, Pool, study
from traceprof.tokenizer import Tokenizer
from traceprof.tokens import UNUSABLE, TokenizerInfo, chunks, loaded, sizes_of, tokenizer_of
from traceprof.trace import Trace, staged, write_json
from traceprof.verdict import Constraints, verdict
from traceprof.workers import Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCKS = (1, 16, 32, 64, 128, 256, 512)
TOP_PREFIXES = 20
PREVIEW_CHARS = 160
MIN_PREFIX = 16  # tokens: shorter ones are the template's own opening
PROFILE_FILE = "profile.json"

_COLUMNS = (
    "request_id", "session_id", "session_kind", "tenant_id", "model_requested", "model_served", "clock", "status",
    "arrival_ts", "end_ts", "arrival_offset_us", "e2e_us", "first_token_ts", "ttft_us", "input_tokens", "output_tokens", "cached_input_tokens",
    "served_from_response_cache", "content_state", "content_level", "block_size", "hash_scope", "hash_scheme", "cache_salt", "source_format", "quality",
    "params",
)  # fmt: skip


class Prompts(NamedTuple):
    """What the prefix measures run over: positions of the measured requests and what identifies their prompts."""

    column: str  # input_ids or block_hashes
    unit: int  # tokens a symbol stands for
    rows: NDArray[np.int64]  # positions in the trace, in order
    roots: NDArray[np.int64]  # of each: the group of requests it can share with
    tokens: NDArray[np.int64]  # true length of each
    symbols: NDArray[np.int64]  # symbols of each
    output_tokens: NDArray[np.int64]  # -1 when no ids
    ceil: bool  # whether the last, partial block has a hash


class Prefix(NamedTuple):
    """What the tree found, one entry a measured request."""

    matched: NDArray[np.int64]  # symbols
    matched_with_outputs: NDArray[np.int64] | None
    sessions: (
        NDArray[np.int64] | None
    )  # a number for each session, -1 for none; None where the log names none
    matched_in_session: NDArray[np.int64] | None
    curve: MissRatioCurve
    stats: Stats
    top: list[TopPrefix]
    top_symbols: list[NDArray[Any]]
    how_outputs: str  # when outputs enter
    # rejected requests neither count nor warm; None where there are none
    matched_without_rejected: NDArray[np.int64] | None
    traffic: Traffic  # the measured requests as paths, with the times at which outputs are cached


def profile(
    trace: Trace,
    out: str | os.PathLike[str],
    *,
    machine: Machine | None = None,
    virtual: Virtual | None = None,
    constraints: Constraints | None = None,
    progress: Progress | None = None,
    name: str | None = None,
) -> dict[str, Any]:
    """Measure a trace and write the profile folder; returns what profile.json holds.

    machine      what the engines' caches are sized for; without one, Llama-3.1-8B on one 80 GB card
    virtual      what engines are simulated on; None: they are not
    constraints  what the verdict must keep to, see there
    """
    say = progress or (lambda what, done, total: None)
    rows = _load(trace)
    left_out: list[dict[str, str]] = []
    info = tokenizer_of(trace)
    prompts = _prompts(trace, rows, info, left_out)
    beside = ThreadPoolExecutor(1)  # what holds the interpreter lock, while the kernels run
    decoder = beside.submit(_decoder, trace, info, prompts)
    found = beside.submit(_breakers_part, trace, prompts, progress)
    beside.shutdown(wait=False)
    prefix = None if prompts is None else measure_prefix(trace, rows, prompts, say)
    profile: dict[str, Any] = {
        "schema_version": schema.PROFILE_SCHEMA_VERSION,
        "traceprof_version": traceprof.__version__,
        "trace": _trace_part(trace, rows, name),
        "tokenizer": _tokenizer_part(info, prompts),
    }
    per_request: pl.DataFrame | None = None
    previews: list[str | None] = []
    if prompts is not None and prefix is not None:
        previews = _previews(decoder.result(), prefix, _told_ids(rows, prompts, prefix))
        hits = {b: _hits(prompts, prefix.matched, b) for b in BLOCKS}
        with_outputs = None
        if prefix.matched_with_outputs is not None:
            with_outputs = {b: _hits(prompts, prefix.matched_with_outputs, b) for b in BLOCKS}
        else:
            left_out.append(
                {"measure": "hit rate with outputs cached", "reason": "the trace does not identify outputs"}
            )
        per_request = _per_request(rows, prompts, hits, with_outputs, prefix)
        profile["tokens"] = {
            "input": int(prompts.tokens.sum()),
            "output": _output_total(rows, prompts),
            "distinct": prefix.stats.distinct_tokens,
        }
        profile["prefix"] = _prefix_part(rows, prompts, prefix, hits, with_outputs, previews, left_out)
        profile["prefix"] |= _time_part(rows, prompts, prefix, left_out)
        lab = lab_of(rows, prompts, prefix)
        profile["cache"] = _cache_part(prefix.curve, prompts) | machine_part(
            lab, machine or Machine(), whole=False, progress=say
        )
        profile["cache"]["replicas"], profile["cache"]["providers"] = None, None
        if not lab.slow_too:
            names = ", ".join(engine(name).LABEL for name in SLOW)
            left_out.append(
                {
                    "measure": f"caches of {names}",
                    "reason": "too many requests or tokens: `traceprof caches` has them",
                }
            )
        if lab.input_tokens <= LARGE:
            profile["cache"]["replicas"] = replicas_part(lab, machine or Machine(), progress=say)
            profile["cache"]["providers"] = providers_part(lab)
            if not lab.timed:
                left_out.append({"measure": "API providers' caches", "reason": lab.how})
        else:
            left_out.append(
                {
                    "measure": "sizes of memory, replicas, API providers",
                    "reason": f"more than {LARGE:,} input tokens: `traceprof caches` has them (--replicas, --providers)",
                }
            )
    else:
        profile["tokens"] = {
            "input": _total(rows["input_tokens"]),
            "output": _total(rows["output_tokens"]),
            "distinct": None,
        }
        profile["prefix"], profile["cache"] = None, None
    profile["lengths"] = _lengths_part(rows, prompts, left_out)
    steps, load = _concurrency_part(rows, prompts, left_out)
    profile["concurrency"] = load
    profile["arrivals"] = _arrivals_part(rows, left_out)
    profile["sessions"] = _sessions_part(rows, left_out)
    profile["reported"] = _reported(rows)
    profile["structured"] = _structured_part(rows)
    profile["simulation"] = _simulation_part(rows, prompts, prefix, virtual, left_out, say)
    profile |= found.result()
    profile["left_out"] = left_out
    profile["verdict"] = verdict(profile, None, constraints)
    with staged(out, mine=PROFILE_FILE) as stage:
        if per_request is not None and prompts is not None and prefix is not None:
            _write(per_request, stage / "requests.parquet", schema.PROFILE_REQUESTS)
            points = prefix.curve.points()
            curve = {"capacity_tokens": points.capacity_tokens, "hit_tokens": points.hit_tokens}
            _write(pl.DataFrame(curve), stage / "mrc.parquet", schema.MRC)
            _write(
                _prefix_table(rows, prompts, prefix, previews), stage / "prefixes.parquet", schema.PREFIXES
            )
        if steps is not None:
            bins = flight.over_time(steps, _starts(rows)["start_us"].to_numpy())
            frame = pl.DataFrame(bins._asdict())
            if load is None:
                frame = frame.with_columns(in_flight_mean=pl.lit(None), in_flight_peak=pl.lit(None))
            _write(frame, stage / "concurrency.parquet", schema.CONCURRENCY)
        write_json(stage / PROFILE_FILE, profile)
    return profile


def _hits(prompts: Prompts, matched: NDArray[np.int64], block: int) -> NDArray[np.int64] | None:
    return hit_tokens(matched, prompts.symbols, prompts.tokens, prompts.unit, block, ceil=prompts.ceil)


def _symbols(hits: NDArray[np.int64], prompts: Prompts) -> NDArray[np.int64]:
    """Hit tokens as matched symbols: a last, partial block is one where it has a hash of its own."""
    return -(-hits // prompts.unit) if prompts.ceil else hits // prompts.unit


def _write(frame: pl.DataFrame, path: Path, columns: tuple[schema.Column, ...]) -> None:
    table = frame.select(c.name for c in columns).to_arrow().cast(schema.arrow(columns))
    pq.write_table(table, path, compression="zstd")


# -- what is measured ------------------------------------------------------------------------------------------


def _load(trace: Trace) -> pl.DataFrame:
    """One narrow row a request, in the trace's order, with what the measures ask for."""
    words = [c.name for c in schema.REQUESTS if pa.types.is_dictionary(c.type) and c.name in _COLUMNS]
    rows = trace.scan("requests").select(_COLUMNS).with_columns(pl.col(words).cast(pl.String)).collect()
    start = pl.when(pl.col("clock").is_in(["absolute", "relative"])).then("arrival_offset_us")
    ends = (pl.col("end_ts") - pl.col("arrival_ts")).dt.total_microseconds()
    rows = rows.with_columns(
        start_us=start,
        end_us=start + pl.coalesce(ends, "e2e_us"),
        ttft_us=pl.coalesce(
            "ttft_us", (pl.col("first_token_ts") - pl.col("arrival_ts")).dt.total_microseconds()
        ),
        engine_load=~pl.col("served_from_response_cache").fill_null(False),
    )
    return answered_by(rows, "model")


def _prompts(
    trace: Trace, rows: pl.DataFrame, info: TokenizerInfo | None, left_out: list[dict[str, str]]
) -> Prompts | None:
    """Which requests the prefix measures run over; None when the trace identifies no prompt."""
    sizes = sizes_of(trace, len(rows))
    if sizes is None:
        left_out.append(
            {
                "measure": "shared prefixes, miss-ratio curve",
                "reason": "the trace has text but no tokens yet: run traceprof tokenize"
                if (rows["content_level"] == "text").any()
                else "the log holds nothing that identifies a prompt: no text, no token ids, no block hashes",
            }
        )
        return None
    counted = rows["engine_load"].to_numpy()
    if not counted.all():
        left_out.append(
            {
                "measure": f"prefixes of {int((~counted).sum()):,} requests",
                "reason": "a gateway's response cache answered them: no engine saw them",
            }
        )
    with_ids = (sizes.symbols >= 0) & ~sizes.hashed & counted
    with_hashes = (sizes.symbols >= 0) & sizes.hashed & counted
    units = rows["block_size"].fill_null(0).to_numpy()
    groups = {int(u): int(with_hashes[units == u].sum()) for u in np.unique(units[with_hashes])}
    groups[1] = groups.get(1, 0) + int(with_ids.sum())
    groups = {u: n for u, n in groups.items() if n}
    if not groups:
        left_out.append(
            {"measure": "shared prefixes, miss-ratio curve", "reason": "no request's prompt is identified"}
        )
        return None
    unit = max(groups, key=lambda u: (groups[u], -u))
    column = "input_ids" if unit == 1 and with_ids.any() else "block_hashes"
    chosen = with_ids if column == "input_ids" else with_hashes & (units == unit)
    for other, n in groups.items():
        if other != unit:
            left_out.append(
                {
                    "measure": f"prefixes of {n:,} requests",
                    "reason": f"known in units of {other} tokens, not {unit}: profile them apart",
                }
            )
    unknown = int((counted & (sizes.symbols < 0)).sum())
    if unknown:
        left_out.append(
            {
                "measure": f"prefixes of {unknown:,} requests",
                "reason": _why_unknown(rows.filter(counted & (sizes.symbols < 0)), info),
            }
        )
    at = np.flatnonzero(chosen)
    keys = ["model", "cache_salt", "hash_scope"]
    if column == "input_ids" and info is not None and not info.exact:
        keys.append("content_level")  # ids of the log's own tokenizer mean something else than ours
    roots = rows[at.tolist()].select(pl.struct(keys).rank("dense").cast(pl.Int64) - 1).to_series().to_numpy()
    symbols = sizes.symbols[at]
    tokens = symbols
    if column == "block_hashes":
        counted = sizes.length[at]
        logged = rows["input_tokens"].cast(pl.Int64).fill_null(-1).to_numpy()[at]
        tokens = np.where(counted >= 0, counted, logged)
    keyed = column == "block_hashes" and bool((rows["hash_scheme"].gather(at) == SCHEME).any())
    return Prompts(column, unit, at, roots, tokens, symbols, sizes.output[at], not keyed)


def _why_unknown(rows: pl.DataFrame, info: TokenizerInfo | None) -> str:
    """Why the prompts of these rows are not known, each reason with its count."""
    cut = int(rows["content_state"].is_in(UNUSABLE).sum())
    failed = min(sum(info.errors.values()), len(rows) - cut) if info else 0
    said = []
    if cut:
        said.append(f"{cut:,} were cut or redacted by the logger, or lie on the server in part")
    if failed:
        first = next(iter(info.errors)) if info else ""
        said.append(f"{failed:,} could not be rendered ({first})")
    if rest := len(rows) - cut - failed:
        said.append(f"the log does not hold {f'the prompts of {rest:,}' if said else 'their prompts'}")
    return "; ".join(said)


def measure_prefix(trace: Trace, rows: pl.DataFrame, prompts: Prompts, say: Progress) -> Prefix:
    """Stream the prompts through a tree with reuse distances, and prompts with outputs through one that stays.

    The second one makes requests paths (`Traffic`), over which everything else is measured without looking at tokens.
    """
    dtype = np.uint32 if prompts.column == "input_ids" else np.uint64
    total = float(prompts.tokens.sum()) or 1.0
    n = len(prompts.rows)
    tree = RadixTree(unit=prompts.unit, reuse=True, dtype=dtype, requests_total=n)
    has_outputs = bool((prompts.output_tokens >= 0).any())
    whole = RadixTree(unit=prompts.unit, dtype=dtype) if has_outputs else None
    matched, end_node, known = np.zeros(n, np.int64), np.zeros(n, np.int64), prompts.symbols.copy()
    runs = []
    done = 0
    with ThreadPoolExecutor(1) as threads:  # the kernels hold no interpreter lock
        for piece in _pieces(trace, prompts, outputs=whole is not None):
            at, roots = piece.at, prompts.roots[piece.at]
            beside = None if whole is None else threads.submit(_insert_whole, whole, piece, roots)
            found = tree.insert(piece.symbols, piece.offsets, roots, prompts.tokens[at])
            runs.append(found.runs)
            matched[at] = found.matched
            end_node[at] = found.end_node
            if beside is not None:
                end_node[at] = beside.result()
                known[at] += np.diff(piece.output_offsets)
            done += int(prompts.tokens[at].sum())
            say("prefix tree", done, total)
    top = [one for one in tree.top_prefixes(5 * TOP_PREFIXES) if one.tokens >= MIN_PREFIX][:TOP_PREFIXES]
    start, end, how_outputs = _times(rows, prompts)
    output = np.maximum(_output_lengths(rows, prompts), 0)
    # a prompt's last, partial block has a hash of its own (ceil) or none: what it stands for ends with the prompt
    identified = known * prompts.unit
    if prompts.ceil:
        identified = np.minimum(identified, prompts.tokens + np.where(prompts.output_tokens >= 0, output, 0))
    traffic = Traffic.of_tree(
        tree if whole is None else whole, end_node, identified, prompts.tokens, output, start, start, end
    )
    whole = None

    def in_groups(group: NDArray[np.int64]) -> NDArray[np.int64]:
        return _symbols(infinite.hits_in_groups(traffic, group), prompts)

    sessions = _numbers(rows["session_id"].gather(prompts.rows))
    rejected = rows["status"].gather(prompts.rows).eq_missing("rejected").to_numpy()
    return Prefix(
        matched,
        _symbols(infinite.hits_with_outputs(traffic), prompts) if has_outputs else None,
        sessions,
        None if sessions is None else in_groups(sessions),
        MissRatioCurve(
            np.concatenate([r.start for r in runs]) if runs else np.empty(0, np.int64),
            np.concatenate([r.length for r in runs]) if runs else np.empty(0, np.int64),
            tree.input_tokens,
        ),
        tree.stats(),
        top,
        [tree.prefix_symbols(one.node) for one in top],
        how_outputs,
        in_groups(-rejected.astype(np.int64)) if rejected.any() else None,
        traffic,
    )


def _insert_whole(whole: RadixTree, piece: _Piece, roots: NDArray[np.int64]) -> NDArray[np.int64]:
    """Prompts, and behind each its output (nothing, where it is not known): where they end."""
    ends = whole.insert(piece.symbols, piece.offsets, roots).end_node
    return whole.extend(ends, piece.output_symbols, piece.output_offsets)


def _times(rows: pl.DataFrame, prompts: Prompts) -> tuple[NDArray[np.int64], NDArray[np.int64], str]:
    """Arrival and end of each measured request, and in words when outputs are cached.

    Where the requests do not stand in the order of one clock, each ends before the next one arrives; so does one
    whose end is not known. Requests without a time stand last.
    """
    measured = rows[prompts.rows.tolist()]
    start, end = measured["start_us"], measured["end_us"]
    known = start.drop_nulls()
    ends = len(end) - end.null_count()
    if not len(known) or not _one_clock(measured) or not start.fill_null(known.max()).is_sorted() or not ends:
        why = "the log has no end times" if not ends else "requests do not stand in the order of one clock"
        return (
            np.zeros(len(start), np.int64),
            np.zeros(len(start), np.int64),
            f"{why}: an output is taken to be cached before the next request arrives",
        )
    how = "an output is cached from the moment its request ended"
    if ends < len(end):
        how += f"; {len(end) - ends:,} of {len(end):,} requests have no end, and theirs before the next request arrives"
    start = start.fill_null(known.max())
    return start.to_numpy(), pl.select(pl.max_horizontal(start, end)).to_series().to_numpy(), how


def _numbers(names: pl.Series) -> NDArray[np.int64] | None:
    """A number for each name, in the order of the names, -1 for a request without one; None when there are none."""
    if names.null_count() == len(names):
        return None
    return (names.rank("dense").cast(pl.Int64) - 1).fill_null(-1).to_numpy()


class _Piece(NamedTuple):
    at: slice  # into Prompts' arrays
    symbols: NDArray[Any]
    offsets: NDArray[np.int64]
    output_symbols: NDArray[Any]
    output_offsets: NDArray[np.int64]
    output_known: NDArray[np.bool_]


def _pieces(trace: Trace, prompts: Prompts, *, outputs: bool = False) -> Any:
    """The measured prompts' symbols, chunk by chunk, rows that are not measured left out."""
    done = 0
    for chunk in chunks(trace, prompts.column, outputs=outputs):
        n = len(chunk.known)
        end = int(np.searchsorted(prompts.rows, chunk.first + n))
        at = slice(done, end)
        wanted = prompts.rows[at] - chunk.first
        done = end
        if not len(wanted):
            continue
        symbols, offsets = _select(chunk.symbols, chunk.offsets, wanted, n)
        out_symbols, out_offsets = _select(chunk.output_symbols, chunk.output_offsets, wanted, n)
        yield _Piece(at, symbols, offsets, out_symbols, out_offsets, chunk.output_known[wanted])


def _select(
    symbols: NDArray[Any], offsets: NDArray[np.int64], wanted: NDArray[np.int64], n: int
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    if len(wanted) == n:
        return symbols, offsets
    parts = [symbols[offsets[i] : offsets[i + 1]] for i in wanted]
    return np.concatenate(parts), np.cumsum([0, *map(len, parts)], dtype=np.int64)


# -- parts of profile.json ---------------------------------------------------------------------------------------


def _rate(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _total(values: pl.Series) -> int | None:
    return int(values.sum()) if values.null_count() < len(values) else None


def _iso(value: Any) -> str | None:
    return None if value is None else value.isoformat().replace("+00:00", "Z")


def _counts(values: pl.Series) -> dict[str, int]:
    got = values.fill_null("unknown").value_counts(sort=True, name="n")
    return dict(zip(got.to_series(0).to_list(), got["n"].to_list(), strict=True))


def _flags(rows: pl.DataFrame) -> dict[str, int]:
    """How many rows have each quality flag, the most frequent first."""
    got = rows["quality"].explode().drop_nulls().value_counts(sort=True, name="n")
    return dict(zip(got.to_series(0).to_list(), got["n"].to_list(), strict=True))


def _trace_part(trace: Trace, rows: pl.DataFrame, name: str | None) -> dict[str, Any]:
    manifest = trace.manifest
    timed = rows["start_us"].drop_nulls()
    return {
        "name": name or ", ".join(manifest["inputs"][:3]) + (" ..." if len(manifest["inputs"]) > 3 else ""),
        "requests": len(rows),
        "rejects": manifest["rejects"],
        "rejects_by_reason": manifest["rejects_by_reason"],
        "not_read": [
            {"file": f["file"], "reason": f["detected_by"]}
            for f in manifest["sources"]
            if f["format"] is None
        ],
        "quality": _flags(rows),
        "skipped": manifest["skipped_by_reason"],
        "records_in": manifest["records_in"],
        "first_arrival": _iso(rows["arrival_ts"].min()),
        "last_arrival": _iso(rows["arrival_ts"].max()),
        "span_seconds": None if not len(timed) else (timed.max() - timed.min()) / 1e6,  # type: ignore[operator]
        "models": _counts(rows["model"]),
        "formats": _counts(rows["source_format"]),
        "status": _counts(rows["status"]),
        "order": manifest["order"],
        "privacy": manifest["privacy"],
    }


def _tokenizer_part(info: TokenizerInfo | None, prompts: Prompts | None) -> dict[str, Any]:
    if prompts is None:
        return {
            "name": None,
            "exact": True,
            "unit": 1,
            "source": "counts",
            "note": "lengths as the log counts them",
        }
    if prompts.column == "block_hashes" and info is not None and info.unit == prompts.unit:
        return {
            "name": info.name,
            "exact": info.exact,
            "unit": prompts.unit,
            "source": "hashes",
            "digest": info.digest,
            "note": f"prompts are known as keyed hashes of {prompts.unit}-token blocks: nothing of them can be read",
        }
    if prompts.column == "block_hashes":
        return {
            "name": None,
            "exact": True,
            "unit": prompts.unit,
            "source": "hashes",
            "note": f"prompts are known as hashes of {prompts.unit}-token blocks made by the log's source",
        }
    if info is None:
        return {
            "name": None,
            "exact": True,
            "unit": 1,
            "source": "tokens",
            "note": "token ids as the log holds them",
        }
    cut = "Prompts that the logger cut are counted as far as they go." if info.cut_prompts else None
    stands_in = not info.exact and info.reload is not None and info.reload[0] is not None
    note = "It has no chat template: ChatML stands in for the model's own." if stands_in else None
    return {
        "name": info.name,
        "exact": info.exact,
        "unit": 1,
        "source": "tokens",
        "digest": info.digest,
        "note": " ".join(filter(None, (note, cut))) or None,
    }


def _output_total(rows: pl.DataFrame, prompts: Prompts) -> int | None:
    got = _output_lengths(rows, prompts)
    known = got[got >= 0]
    return int(known.sum()) if len(known) else None


def _output_lengths(rows: pl.DataFrame, prompts: Prompts) -> NDArray[np.int64]:
    """Output tokens of the measured requests under the profile's tokenizer, the log's own count where it has no text."""
    logged = rows["output_tokens"].cast(pl.Int64).fill_null(-1).to_numpy()[prompts.rows]
    return np.where(prompts.output_tokens >= 0, prompts.output_tokens, logged)


def _per_request(
    rows: pl.DataFrame,
    prompts: Prompts,
    hits: dict[int, NDArray[np.int64] | None],
    with_outputs: dict[int, NDArray[np.int64] | None] | None,
    prefix: Prefix,
) -> pl.DataFrame:
    finest = prefix.matched_with_outputs
    both = None if finest is None else np.minimum(finest * prompts.unit, prompts.tokens)
    nothing = pl.repeat(None, len(prompts.rows), dtype=pl.Int64, eager=True)
    return pl.DataFrame(
        {
            "request_id": rows["request_id"].gather(prompts.rows),
            "input_tokens": prompts.tokens,
            **{f"hit_tokens_{b}": nothing if h is None else pl.Series(h) for b, h in hits.items()},
            "hit_tokens_1_with_outputs": nothing if both is None or prompts.unit > 1 else pl.Series(both),
        }
    )


def _sums(hits: dict[int, NDArray[np.int64] | None], whole: int) -> dict[str, Any]:
    tokens = {str(b): None if h is None else int(h.sum()) for b, h in hits.items()}
    return {
        "hit_tokens": tokens,
        "hit_rate": {b: None if t is None else _rate(t, whole) for b, t in tokens.items()},
    }


def _prefix_part(
    rows: pl.DataFrame,
    prompts: Prompts,
    prefix: Prefix,
    hits: dict[int, NDArray[np.int64] | None],
    with_outputs: dict[int, NDArray[np.int64] | None] | None,
    previews: list[str | None],
    left_out: list[dict[str, str]],
) -> dict[str, Any]:
    whole = int(prompts.tokens.sum())
    finest = np.minimum(prefix.matched * prompts.unit, prompts.tokens)
    filled = prompts.tokens > 0
    means = {
        str(b): None if h is None or not filled.any() else float((h[filled] / prompts.tokens[filled]).mean())
        for b, h in hits.items()
    }
    origin = None
    if prefix.matched_in_session is not None:
        own = int(np.minimum(prefix.matched_in_session * prompts.unit, prompts.tokens).sum())
        origin = {"same_session": _rate(own, whole), "other_sessions": _rate(int(finest.sum()) - own, whole)}
    else:
        left_out.append(
            {"measure": "sharing within and across sessions", "reason": "the log names no sessions"}
        )
    measured = rows[prompts.rows.tolist()]
    return {
        "requests": len(prompts.rows),
        "input_tokens": whole,
        **_sums(hits, whole),
        "with_outputs": None
        if with_outputs is None
        else {**_sums(with_outputs, whole), "how": prefix.how_outputs},
        "mean_of_requests": means,
        "requests_with_hit": int((finest > 0).sum()),
        "redundant_tokens": int(finest.sum()),
        "radix_tree": {
            "nodes": prefix.stats.nodes,
            "leaves": prefix.stats.leaves,
            "max_depth": prefix.stats.max_depth,
            "max_depth_tokens": prefix.stats.max_depth_tokens,
        },
        "by_origin": origin,
        "by_model": _by(measured["model"], prompts, hits),
        "by_tenant": _by(measured["tenant_id"], prompts, hits)
        if measured["tenant_id"].null_count() < len(measured)
        else None,
        "top_prefixes": [
            {
                "tokens": one.tokens,
                "requests": one.requests,
                "saved_tokens": one.saved_tokens,
                "model": model,
                "preview": preview,
            }
            for one, model, preview in zip(
                prefix.top, _root_models(rows, prompts, prefix), previews, strict=True
            )
        ],
        "definitions": definitions(prompts, prefix, measured["status"].to_numpy()),
    }


def _time_part(
    rows: pl.DataFrame, prompts: Prompts, prefix: Prefix, left_out: list[dict[str, str]]
) -> dict[str, Any]:
    """How sharing goes on through the trace, and what it loses to restarts, walls between tenants, and model swaps.

    All in an infinite cache of the prompts. Without times on one clock only what needs their order is known.
    """
    measured = rows[prompts.rows.tolist()]
    times = _arrivals_of(measured)
    hits = np.minimum(prefix.matched * prompts.unit, prompts.tokens)
    found: dict[str, Any] = dict.fromkeys(
        ("over_time", "warm_up", "restart", "by_turn", "isolation", "churn")
    )
    if times is None:
        left_out.append(
            {
                "measure": "hit rate over time, restarts",
                "reason": "the requests do not stand in the order of one clock",
            }
        )
    else:
        traffic = prefix.traffic._replace(arrival_us=times.start_us)
        found["over_time"] = by_time.over_time(times.start_us, prompts.tokens, hits, zero_us=times.zero_us)
        found["warm_up"] = by_time.warm_up(times.start_us, prompts.tokens, hits)
        found["restart"] = by_time.restart(traffic)
    if prefix.sessions is not None:
        found["by_turn"] = by_time.by_turn(prefix.sessions, prompts.tokens, hits)
    tenants = _numbers(measured["tenant_id"])
    if tenants is not None and tenants.max() > 0:
        names = measured["tenant_id"].drop_nulls().unique().sort().to_list()
        found["isolation"] = by_time.isolation(prefix.traffic, tenants, names)
    models = _numbers(measured["model"])
    if models is not None and models.max() > 0:
        slots = [n for n in (1, 2, 4, 8) if n <= models.max()]  # with more, all stay
        found["churn"] = by_time.churn(prefix.traffic, models, slots)
    return found


class _Arrivals(NamedTuple):
    start_us: NDArray[np.int64]  # never falls
    zero_us: int | None  # unix time of start_us = 0, where that is known


def _arrivals_of(measured: pl.DataFrame) -> _Arrivals | None:
    """When the measured requests arrived; None where that is not known of all, on one clock and in order."""
    start = measured["start_us"]
    if not len(start) or start.null_count() or not _one_clock(measured) or not start.is_sorted():
        return None
    zero = measured["arrival_ts"].dt.epoch("us")[0]
    first = start.to_numpy().astype(np.int64)
    return _Arrivals(first, None if zero is None else int(zero) - int(first[0]))


def _by(
    names: pl.Series, prompts: Prompts, hits: dict[int, NDArray[np.int64] | None], most: int = 50
) -> dict[str, dict[str, Any]]:
    """Requests, tokens and hits by a name, the largest first; everything past `most` names as one row."""
    sums = pl.DataFrame({"name": names.fill_null("unknown"), "input_tokens": prompts.tokens}).with_columns(
        **{f"hit_{b}": pl.Series(h) for b, h in hits.items() if h is not None}
    )
    table = (
        sums.group_by("name")
        .agg(pl.len().alias("requests"), pl.exclude("name").sum())
        .sort("input_tokens", "name", descending=[True, False])
    )
    if len(table) > most:
        rest = table[most:].select(
            pl.lit(f"{len(table) - most} others").alias("name"), pl.exclude("name").sum()
        )
        table = pl.concat([table[:most], rest.select(table.columns)])
    out = {}
    for row in table.iter_rows(named=True):
        tokens = {str(b): None if h is None else int(row[f"hit_{b}"]) for b, h in hits.items()}
        out[row["name"]] = {
            "requests": int(row["requests"]),
            "input_tokens": int(row["input_tokens"]),
            "hit_tokens": tokens,
            "hit_rate": {b: None if t is None else _rate(t, row["input_tokens"]) for b, t in tokens.items()},
        }
    return out


def _root_models(rows: pl.DataFrame, prompts: Prompts, prefix: Prefix) -> list[str | None]:
    first = dict(zip(prompts.roots[::-1].tolist(), prompts.rows[::-1].tolist(), strict=True))
    return [rows["model"][first[one.root]] for one in prefix.top]


def definitions(prompts: Prompts, prefix: Prefix, status: NDArray[Any]) -> dict[str, dict[str, Any]]:
    """The other things that publications call hit rate, each with its sentence; at the trace's own unit, or 16."""
    unit = prompts.unit if prompts.unit > 1 else 16
    matched, ok, seen = prefix.matched, status == "ok", status != "rejected"
    reached = matched if prefix.matched_without_rejected is None else prefix.matched_without_rejected
    reached = np.minimum(reached * prompts.unit, prompts.tokens)
    hit = _hits(prompts, matched, unit)
    assert hit is not None
    finest = np.minimum(matched * prompts.unit, prompts.tokens)
    blocks = -(-prompts.tokens // unit)
    hit_blocks = -(-hit // unit)
    full = prompts.tokens // unit
    half = len(hit) // 2
    filled = blocks > 0

    def entry(value: float | None, means: str) -> dict[str, Any]:
        return {"value": value, "means": means}

    return {
        "token_weighted": entry(_rate(int(finest.sum()), int(prompts.tokens.sum())), "sum of hit tokens / sum of input tokens, at the finest unit the trace knows"),
        f"token_weighted_blocks_of_{unit}": entry(_rate(int(hit.sum()), int(prompts.tokens.sum())), f"sum of hit tokens in blocks of {unit} / sum of input tokens"),
        "block_weighted": entry(_rate(int(hit_blocks.sum()), int(blocks.sum())), f"hit blocks of {unit} / all blocks, the last partial one included"),
        "full_blocks_only": entry(_rate(int(np.minimum(hit // unit, full).sum()), int(full.sum())), f"hit full blocks of {unit} / full blocks"),
        "mean_of_requests": entry(float((finest[filled] / prompts.tokens[filled]).mean()) if filled.any() else None, "mean over requests of hit tokens / input tokens: short prompts weigh as much as long ones"),
        "mean_of_requests_in_blocks": entry(float((hit_blocks[filled] / blocks[filled]).mean()) if filled.any() else None, f"mean over requests of hit blocks of {unit} / blocks"),
        "last_half": entry(_rate(int(hit[half:].sum()), int(prompts.tokens[half:].sum())), f"token-weighted in blocks of {unit}, over the last half of the requests; the first half only warms the cache"),
        "requests_with_hit": entry(_rate(int((finest > 0).sum()), len(finest)), "share of requests that hit at all"),
        "successful_requests": entry(_rate(int(finest[ok].sum()), int(prompts.tokens[ok].sum())), "token-weighted over the requests that ended well; the others still warm the cache"),
        "without_rejected": entry(_rate(int(reached[seen].sum()), int(prompts.tokens[seen].sum())), "token-weighted, where requests refused with a 4xx neither count nor warm the cache: no model saw them"),
    }  # fmt: skip


def _cache_part(curve: MissRatioCurve, prompts: Prompts) -> dict[str, Any]:
    points = curve.sampled(200)
    whole = max(1, curve.input_tokens)
    return {
        "mrc": [[int(c), float(r)] for c, r in zip(points.capacity_tokens, points.hit_rate, strict=True)],
        "working_set_tokens": {f"{round(q * 100)}%": curve.working_set(q) for q in (0.5, 0.9, 0.99, 1.0)},
        "memory_marks": [
            {"label": m.label, "capacity_tokens": m.capacity_tokens, "hit_rate": curve.hit_tokens_at(m.capacity_tokens) / whole}
            for m in memory.marks()
        ],
        "policy": "LRU over prefixes, one memory for all models of the trace; a hit is counted token by token",
    }  # fmt: skip


def open_lab(trace: Trace, progress: Progress | None = None) -> Lab:
    """The lab of a trace by itself, without a profile; raises TraceprofError where the trace identifies no prompt."""
    rows = _load(trace)
    left_out: list[dict[str, str]] = []
    prompts = _prompts(trace, rows, tokenizer_of(trace), left_out)
    if prompts is None:
        raise TraceprofError(left_out[-1]["reason"], path=trace.path)
    say = progress or (lambda what, done, total: None)
    return lab_of(rows, prompts, measure_prefix(trace, rows, prompts, say))


def lab_of(rows: pl.DataFrame, prompts: Prompts, prefix: Prefix) -> Lab:
    """The measured requests for the engines' caches: with times, apart by model, without those that no model saw."""
    measured = rows[prompts.rows.tolist()]
    output = prefix.traffic.total - prefix.traffic.prompt
    times = timed(measured, prompts.tokens, output, one_clock=_one_clock(measured))
    model = measured["model"].fill_null("unknown").rank("dense").cast(pl.Int64) - 1
    served_by = measured.select(pl.when(pl.col("status") == "rejected").then(-1).otherwise(model))
    return Lab.of(
        prefix.traffic._replace(arrival_us=times.arrival_us, first_us=times.first_us, end_us=times.end_us),
        served_by.to_series().to_numpy(),
        times.how,
        prefix.sessions,
        prompts.unit,
    )


class Virtual(NamedTuple):
    """What engines are simulated on, and for what."""

    host: Host | None
    why_not: str | None = None  # where there is none
    objectives: Objectives = Objectives()
    engines: tuple[str, ...] | None = None  # None: those that are usual there


def _structured_part(rows: pl.DataFrame) -> dict[str, int] | None:
    """Requests whose answer must follow a schema, of those whose parameters the log tells; None where it tells none."""
    told = rows.filter(
        pl.col("engine_load") & (pl.col("params").is_not_null() | (pl.col("content_level") == "text"))
    )
    if told["params"].null_count() == len(told):
        return None
    shape = told["params"].struct.field("response_format")
    return {"requests": len(told), "response_format": int((shape != "text").sum())}


class Pools(NamedTuple):
    """A trace's requests for engines in virtual time."""

    pools: list[Pool]  # one a model
    rows: list[NDArray[np.int64]]  # of each its requests' positions in the trace
    prefixes_known: bool
    how: str  # how times are known, in words


def _pools(rows: pl.DataFrame, prompts: Prompts | None, prefix: Prefix | None) -> Pools | str:
    """By model, without requests that no model saw; why not, where the trace tells too little."""
    if prompts is not None and prefix is not None:
        at, traffic = prompts.rows, prefix.traffic
    else:
        inputs, outputs = _all_lengths(rows, None)
        at = np.flatnonzero((inputs > 0) & (outputs >= 0) & rows["engine_load"].to_numpy())
        alone, nothing = np.full(len(at), -1, np.int64), np.zeros(len(at), np.int64)
        traffic = Traffic.of_shared(alone, nothing, inputs[at]).answered(outputs[at])
    if not len(at):
        return "no request has lengths of prompt and output"
    measured = rows[at.tolist()]
    times = timed(measured, traffic.prompt, traffic.total - traffic.prompt, one_clock=_one_clock(measured))
    if times.arrival_us[-1] <= times.arrival_us[0]:
        return times.how
    traffic = traffic._replace(arrival_us=times.arrival_us, first_us=times.first_us, end_us=times.end_us)
    named = measured.select(
        pl.col("model").fill_null("unknown"),
        pl.col("tenant_id").fill_null(""),
        session=pl.col("session_id").rank("dense").cast(pl.Int64).fill_null(-1),
        seen=pl.col("status") != "rejected",
        hour=pl.col("arrival_ts").dt.hour().cast(pl.Int64).fill_null(-1),
    )
    model, seen = named["model"].to_numpy(), named["seen"].to_numpy()
    tenants, sessions, hours = (named[name].to_numpy() for name in ("tenant_id", "session", "hour"))
    if not seen.any():
        return "every request was rejected: no model saw one"
    apart = [(one, np.flatnonzero((model == one) & seen)) for one in np.unique(model[seen]).tolist()]
    pools = [
        Pool(one, traffic.subset(which), sessions[which], tenants[which], hours[which])
        for one, which in apart
    ]
    return Pools(pools, [at[which] for _, which in apart], prefix is not None, times.how)


def open_pools(trace: Trace, progress: Progress | None = None) -> tuple[Pools, pl.Series]:
    """Those of a trace, without a profile, and the ids of all its requests; raises TraceprofError where it tells too little."""
    rows = _load(trace)
    prompts = _prompts(trace, rows, tokenizer_of(trace), [])
    say = progress or (lambda what, done, total: None)
    found = _pools(rows, prompts, None if prompts is None else measure_prefix(trace, rows, prompts, say))
    if isinstance(found, str):
        raise TraceprofError(found, path=trace.path)
    return found, rows["request_id"]


def _simulation_part(
    rows: pl.DataFrame,
    prompts: Prompts | None,
    prefix: Prefix | None,
    virtual: Virtual | None,
    left_out: list[dict[str, str]],
    progress: Progress,
) -> dict[str, Any] | None:
    """Engines in virtual time; None where they are not asked for, or the trace tells too little."""
    if virtual is None:
        return None
    if virtual.host is None:
        left_out.append({"measure": "engines in virtual time", "reason": str(virtual.why_not)})
        return None
    found = _pools(rows, prompts, prefix)
    if isinstance(found, str):
        left_out.append({"measure": "engines in virtual time", "reason": found})
        return None
    return study(
        found.pools, virtual.host, virtual.objectives, virtual.engines, prefixes_known=found.prefixes_known, how=found.how, progress=progress
    )  # fmt: skip


def _breakers_part(trace: Trace, prompts: Prompts | None, progress: Progress | None) -> dict[str, Any]:
    """What breaks sharing; nothing where the trace identifies no prompt."""
    if prompts is None:
        return {"breakers": [], "breakers_measured": None}
    found = find_breakers(trace, limit_tokens=SAMPLE_TOKENS, progress=progress)
    return {
        "breakers": [f._asdict() for f in found.findings],
        "breakers_measured": {
            "together_tokens": found.together,
            "requests": found.measured_requests,
            "how": found.how,
        },
    }


def _all_lengths(rows: pl.DataFrame, prompts: Prompts | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Input and output tokens of every row, -1 when not known: measured where possible, else as the log counts them."""
    inputs = rows["input_tokens"].cast(pl.Int64).fill_null(-1).to_numpy().copy()
    outputs = rows["output_tokens"].cast(pl.Int64).fill_null(-1).to_numpy().copy()
    if prompts is not None:
        inputs[prompts.rows] = prompts.tokens
        outputs[prompts.rows] = _output_lengths(rows, prompts)
    return inputs, outputs


def _lengths_part(
    rows: pl.DataFrame, prompts: Prompts | None, left_out: list[dict[str, str]]
) -> dict[str, Any]:
    inputs, outputs = _all_lengths(rows, prompts)
    engine = rows["engine_load"].to_numpy()
    inputs, outputs = inputs[engine], outputs[engine]
    both = (inputs >= 0) & (outputs >= 0)
    part = {
        "input": lengths(inputs[inputs >= 0]),
        "output": lengths(outputs[outputs >= 0]),
        "total": lengths((inputs + outputs)[both]),
    }
    left_out.extend(
        {"measure": f"{side} lengths", "reason": f"the log gives no {side} tokens and no text of them"}
        for side in ("input", "output")
        if part[side] is None
    )
    return part


def _starts(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col("start_us").is_not_null())


def _one_clock(rows: pl.DataFrame) -> bool:
    return _starts(rows)["clock"].n_unique() == 1


def _concurrency_part(
    rows: pl.DataFrame, prompts: Prompts | None, left_out: list[dict[str, str]]
) -> tuple[flight.Steps | None, dict[str, Any] | None]:
    timed = _starts(rows)
    if not len(timed) or not _one_clock(rows):
        reason = "the log has no arrival times"
        if len(timed):
            reason = "the files do not share one clock"
        elif (rows["clock"] == "session").any():
            reason = "each session counts from its own start: sessions share no clock"
        left_out.append({"measure": "concurrency over time", "reason": reason})
        return None, None
    served = timed.filter("engine_load")
    measured = served["end_us"].null_count() == 0
    how = None
    ends = served["end_us"]
    if not measured:
        at = (
            rows.with_row_index("at")
            .filter(pl.col("start_us").is_not_null() & pl.col("engine_load"))["at"]
            .to_numpy()
        )
        inputs, outputs = (of_all[at] for of_all in _all_lengths(rows, prompts))
        missing = int(served["end_us"].null_count())
        seconds = np.maximum(inputs, 0) / flight.PREFILL_TOKENS_PER_S + np.maximum(outputs, 0) * flight.TPOT_S
        guess = served["start_us"] + pl.Series((seconds * 1e6).astype(np.int64))
        ends = pl.select(pl.coalesce(ends, guess)).to_series()
        how = flight.ASSUMED if missing == len(served) else f"{missing:,} of {len(served):,} requests have no end. {flight.ASSUMED}"  # fmt: skip
    if untimed := int(rows["engine_load"].sum()) - len(served):
        measured = False
        said = f"{untimed:,} of {untimed + len(served):,} requests have no arrival time and are not counted here."
        how = f"{said} {how}" if how else said
        left_out.append(
            {"measure": f"load of {untimed:,} requests", "reason": "the log gives no time of their arrival"}
        )
    steps = flight.in_flight(served["start_us"].to_numpy().astype(np.int64), ends.to_numpy().astype(np.int64))
    found = flight.concurrency(steps)
    if found is None:
        left_out.append({"measure": "concurrency over time", "reason": "no request takes any time"})
        return steps, None
    return steps, {**found, "measured": measured, "how": how}


def _arrivals_part(rows: pl.DataFrame, left_out: list[dict[str, str]]) -> dict[str, Any] | None:
    timed = _starts(rows)
    found = arrivals(np.sort(timed["start_us"].to_numpy())) if len(timed) and _one_clock(rows) else None
    if found is None:
        left_out.append(
            {
                "measure": "arrival rate and burstiness",
                "reason": "fewer than two requests at different times"
                if len(timed) and _one_clock(rows)
                else "the files do not share one clock"
                if len(timed)
                else "the log has no arrival times on one clock",
            }
        )
    return found


def _sessions_part(rows: pl.DataFrame, left_out: list[dict[str, str]]) -> dict[str, Any] | None:
    in_session = pl.when(pl.col("clock") == "session").then("arrival_offset_us").otherwise("start_us")
    took = (
        pl.when(pl.col("clock") == "session")
        .then(pl.col("arrival_offset_us") + pl.col("e2e_us"))
        .otherwise("end_us")
    )
    found = sessions(rows.with_columns(start_us=in_session, end_us=took))
    if found is None:
        left_out.append({"measure": "sessions and think time", "reason": "the log names no sessions"})
    return found


def _reported(rows: pl.DataFrame) -> dict[str, Any] | None:
    """What the log itself says of tokens and its engine's cache, to hold the profile against."""
    told = rows.filter(pl.col("input_tokens").is_not_null() & pl.col("engine_load"))
    if not len(told):
        return None
    cached = told.filter(pl.col("cached_input_tokens").is_not_null())
    return {
        "requests": len(told),
        "input_tokens": int(told["input_tokens"].cast(pl.Int64).sum()),
        "output_tokens": _total(told["output_tokens"].cast(pl.Int64)),
        "requests_with_cached_tokens": len(cached),
        "cached_input_tokens": _total(cached["cached_input_tokens"].cast(pl.Int64)),
        "cached_hit_rate": _rate(int(cached["cached_input_tokens"].cast(pl.Int64).sum()), int(cached["input_tokens"].cast(pl.Int64).sum()))
        if len(cached)
        else None,
    }  # fmt: skip


def _decoder(trace: Trace, info: TokenizerInfo | None, prompts: Prompts | None) -> Tokenizer | None:
    """The tokenizer that made the trace's ids, if the trace holds text and the tokenizer is still the same."""
    if prompts is None or prompts.column != "input_ids" or info is None or info.reload is None:
        return None
    if trace.manifest["privacy"] != "text":
        return None
    try:
        tokenizer = loaded(*info.reload)
    except TraceprofError:
        return None
    return tokenizer if tokenizer.digest == info.digest else None


def _told_ids(rows: pl.DataFrame, prompts: Prompts, prefix: Prefix) -> list[bool]:
    """Of each top prefix, whether its ids are the log's own, which another tokenizer made."""
    first = dict(zip(prompts.roots[::-1].tolist(), prompts.rows[::-1].tolist(), strict=True))
    return [rows["content_level"][first[one.root]] == "tokens" for one in prefix.top]


def _previews(tokenizer: Tokenizer | None, prefix: Prefix, told: list[bool]) -> list[str | None]:
    """The first characters of each top prefix; None when there is nothing to decode them with."""
    if tokenizer is None:
        return [None] * len(prefix.top)
    return [
        None if of_log and not tokenizer.exact else _preview(tokenizer, ids, prefix.top_symbols)
        for ids, of_log in zip(prefix.top_symbols, told, strict=True)
    ]


def _preview(tokenizer: Tokenizer, ids: NDArray[Any], others: list[NDArray[Any]]) -> str:
    """How a prefix starts; one that continues another of the list, how it goes on from there."""
    shown = max((len(o) for o in others if len(o) < len(ids) and np.array_equal(o, ids[: len(o)])), default=0)
    opening = (
        not shown and len(ids) > 1 and not tokenizer.decode(ids[:1], special=False)
    )  # it begins every prompt
    words = " ".join(tokenizer.decode(ids[shown + opening : shown + PREVIEW_CHARS]).split())
    if shown and len(words) < 12:  # too little to know it by: show how it ends
        words = " ".join(tokenizer.decode(ids[-40:]).split())
    return ("... " if shown else "") + words[: PREVIEW_CHARS - 4]


def _prefix_table(
    rows: pl.DataFrame, prompts: Prompts, prefix: Prefix, previews: list[str | None]
) -> pl.DataFrame:
    models = _root_models(rows, prompts, prefix)
    spec = {
        "tokens": pl.Int64,
        "requests": pl.Int64,
        "saved_tokens": pl.Int64,
        "model": pl.String,
        "preview": pl.String,
    }
    return pl.DataFrame(
        [
            (t.tokens, t.requests, t.saved_tokens, m, p)
            for t, m, p in zip(prefix.top, models, previews, strict=True)
        ],
        schema=spec,
        orient="row",
    )


def find_profile(path: str | os.PathLike[str]) -> Path:
    """The profile folder that a path means: itself, the one that holds the profile.json, or `profile` in a run's output."""
    path = Path(path)
    if path.name == PROFILE_FILE:
        return path.parent
    inner = path / "profile"
    return inner if not (path / PROFILE_FILE).exists() and (inner / PROFILE_FILE).exists() else path


def judge_again(
    path: str | os.PathLike[str], comparison: Mapping[str, Any], constraints: Constraints | None = None
) -> dict[str, Any]:
    """Give the profile of a folder a verdict that rests on a comparison of its traffic; what profile.json then holds."""
    found = open_profile(path)
    found["verdict"] = verdict(found, comparison, constraints)
    file = find_profile(path) / PROFILE_FILE
    part = file.with_name(f".{PROFILE_FILE}.{os.getpid()}")
    try:
        write_json(part, found)
        part.replace(file)
    except OSError as bad:
        raise TraceprofError(f"cannot be written: {bad.strerror}", path=file) from None
    finally:
        part.unlink(missing_ok=True)
    return found


def open_profile(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The profile.json of a profile folder; raises TraceprofError when there is none."""
    import json

    file = find_profile(path) / PROFILE_FILE
    try:
        value: dict[str, Any] = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise TraceprofError(
            "no profile here", path=path, remedy="make one: traceprof profile TRACE -o PROFILE"
        ) from None
    except (OSError, ValueError) as bad:
        raise TraceprofError(f"unreadable: {bad}", path=file, remedy="profile the trace again") from None
    if value.get("schema_version") != schema.PROFILE_SCHEMA_VERSION:
        raise TraceprofError("made by another version", path=file, remedy="profile the trace again")
    return value
