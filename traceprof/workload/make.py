"""trace -> workload: the requests chosen, placed in time, given prompts, and written with the hit rates that they must get.

    asis    the trace's own prompts
    shared  the same sharing: the trace's own prompts, or, where they are not known or not to be shown, made ones that share as they did
    unique  prompts of the same lengths at the same times, no two of which begin alike

Rows are made and written batch by batch; what is held is a narrow table of all requests and the tree of their prompts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from traceprof import schema
from traceprof.caches.traffic import Traffic
from traceprof.errors import TraceprofError, UsageError
from traceprof.lab import Machine
from traceprof.trace import Trace, workspace
from traceprof.workers import Progress
from traceprof.workload import content, expected, scale, synthesis
from traceprof.workload.made import Made
from traceprof.workload.source import Source, prepared, read, sharing
from traceprof.workloads import Workload, write_workload

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from traceprof.tokenizer import Tokenizer

VARIANTS = ("asis", "shared", "unique")
_UNTIMED = {
    "session": "each session has its own clock: all begin at 0, unless --rate or --users spreads them",
    "order": "the log has no arrival times: all sessions begin at 0, unless --rate or --users spreads them",
}
_MODELS = {
    True: "{} models of the trace, each on an engine of its own",
    False: "{} models of the trace, all of them on one engine; --engine-per-model keeps them apart",
}


class Options(NamedTuple):
    """What a user asks for; everything left out leaves the trace as it is."""

    variant: str = "asis"
    synthesize: bool = False  # made prompts also where the trace's own are known
    prompts: str = "text"  # what prompts are sent as: text, where there is or is made some, or ids
    endpoint: str = "completions"  # where made texts are sent: completions or chat
    tokenizer: str | None = None
    chat_template: str | None = None
    window: str | None = None  # FROM..TO
    models: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()
    peak: str | None = None  # length of the busiest window
    sample: float | None = None
    sample_by: str = "session"  # or prefix
    requests: int | None = None
    speed: float | None = None
    rate: float | None = None  # requests a second
    users: float | None = None
    warmup: str | None = None  # duration or share
    engine_per_model: bool = False  # else one engine serves all models of the trace
    seed: int = 0
    engines: tuple[str, ...] = ()  # whose expected hit rates; all when empty
    jobs: int = 1


def make_workload(
    trace: Trace,
    out: str | os.PathLike[str],
    options: Options | None = None,
    *,
    machine: Machine | None = None,
    progress: Progress | None = None,
) -> Workload:
    """Write the workload file; what it is stands in its `meta`."""
    asked = options or Options()
    if sum(one is not None for one in (asked.rate, asked.users, asked.speed)) > 1:
        raise UsageError("--speed, --rate and --users each set the times", remedy="give one of them")
    if asked.prompts == "ids" and asked.endpoint == "chat":
        raise UsageError("--endpoint chat takes messages, not token ids", remedy="--prompts text")
    with workspace(out) as folder:
        (folder / "trace").mkdir()
        whole, tokenizer = prepared(
            trace, folder / "trace", asked.tokenizer, asked.chat_template, jobs=asked.jobs, progress=progress
        )
        source = read(whole, progress)
        if source.traffic is None and asked.variant != "unique":
            raise TraceprofError(
                "the log holds nothing that identifies a prompt, so nothing is known of what they share",
                path=trace.path,
                remedy="--variant unique needs only their lengths",
            )
        plan, steps = planned(source, asked)
        meta: dict[str, Any] = {
            "variant": asked.variant,
            "seed": asked.seed,
            "trace": {
                "name": ", ".join(trace.manifest["inputs"][:3]),
                "requests": trace.manifest["requests"],
                "privacy": trace.manifest["privacy"],
            },
            "tokenizer": {
                "name": tokenizer.name,
                "digest": tokenizer.digest,
                "exact": tokenizer.exact,
                "reload": tokenizer.reload,
            },
            "unit": source.unit,
            "times": source.times,
            "engine_per_model": asked.engine_per_model,
            "steps": steps,
        }
        rows = _Rows.of(source, plan, asked)
        say = progress or (lambda what, done, total: None)
        made = None
        if asked.variant == "unique" or asked.synthesize or not _has_own(source, rows, tokenizer.digest):
            made = _maker(source, rows, tokenizer, asked)
            prompts = made.traffic(rows.roots, say)
            batches = _made(source, rows.sharing(prompts), made, asked, folder)
        else:
            prompts = _own_traffic(source, plan, asked, progress)
            batches = _own(source, rows.sharing(prompts), asked, folder)
        meta["prompts"] = "the trace's own" if made is None else made.summary
        meta["notes"] = _notes(source, rows, made, prompts, tokenizer, asked)
        meta |= _counted(rows, prompts, asked, machine or Machine(), progress)
        meta["trace_hit_rate"] = steps[0]["hit_rate"]
        meta["endpoints"] = {}  # counted while they are written
        return write_workload(out, _told(batches, len(rows.tokens), meta["endpoints"], say), meta)


def _notes(
    source: Source, rows: _Rows, made: Made | None, prompts: Traffic, tokenizer: Tokenizer, asked: Options
) -> list[str]:
    """What somebody who sends it must know."""
    there = source.rows[rows.plan.at.tolist()]
    said = [] if made is None else made.notes(prompts.prompt)
    if not tokenizer.exact and (made is not None or (asked.prompts == "ids" and source.info is not None)):
        said.append(f"in tokens of {tokenizer.name}: give the --tokenizer of the model that is to be asked")
    if made is not None and asked.variant != "unique" and not asked.synthesize:
        said.append(
            "the trace holds ids of another tokenizer, so all prompts are made"
            if source.column == "input_ids"
            else "the trace does not hold every prompt, so all of them are made"
        )
    if made is None and asked.prompts == "text" and (media := int(rows.media.sum())):
        said.append(f"{_requests(media)} with text in place of images, audio or files")
    if source.times != "recorded" and asked.rate is None and asked.users is None:
        said.append(_UNTIMED[source.times])
    span_s = int(rows.plan.arrival_us[-1]) / 1e6
    if asked.rate is not None and span_s and abs(len(there) / span_s / asked.rate - 1) > 0.2:
        said.append(
            f"{len(there) / span_s:.3g} requests a second over all of it, not {asked.rate:g}: sessions begin at that rate, and so few of them run up and down again"
        )
    if (models := there["model"].n_unique()) > 1:
        said.append(_MODELS[asked.engine_per_model].format(models))
    if failed := int((there["status"] == "error").sum()):
        said.append(f"{_requests(failed)} failed in the trace; what failed is sent all the same")
    if open_ended := there["output"].null_count():
        said.append(f"{_requests(open_ended)} without a known length of the answer: the engine decides")
    return said


def _requests(n: int) -> str:
    return f"{n:,} {'request' if n == 1 else 'requests'}"


# -- which, and when -------------------------------------------------------------------------------------------


def planned(source: Source, asked: Options) -> tuple[scale.Plan, list[dict[str, Any]]]:
    """The requests chosen and placed in time, and each step that did so, with requests and the trace's hit rate after it."""
    steps: list[dict[str, Any]] = []
    tokens = source.rows["tokens"].to_numpy()
    random = np.random.default_rng([asked.seed, 0])
    plan = scale.whole(source)

    def note(step: str, **what: Any) -> None:
        steps.append({"step": step, **what, "requests": len(plan.at), "hit_rate": _rate(source, plan)})

    note("read", left_out=source.left_out)
    if asked.window is not None:
        moments = source.rows["arrival_ts"]
        first, last = scale.window_us(asked.window, moments.min())  # type: ignore[arg-type]
        plan = scale.window(plan, first, last)
        note("window", window=asked.window)
    for column, names, option in (
        ("model", asked.models, "--model"),
        ("tenant_id", asked.tenants, "--tenant"),
    ):
        if names:
            plan = scale.of_names(plan, source, column, names, option)
            note(option[2:], names=list(names))
    if asked.peak is not None:
        width = scale.duration_us(asked.peak, "--peak")
        begin = scale.busiest(plan, tokens, width)
        plan = scale.window(plan, begin, begin + width)
        note("peak", length=asked.peak, from_s=begin / 1e6)
    if asked.sample is not None:
        if asked.sample_by == "prefix":
            if source.traffic is None:
                raise UsageError(
                    "--sample-by prefix: the log identifies no prompt", remedy="--sample-by session"
                )
            plan = scale.sample_prefixes(plan, source.traffic, asked.sample, random)
        else:
            plan = scale.sample_sessions(plan, asked.sample, random)
        note("sample", share=asked.sample, by=asked.sample_by)
    if asked.requests is not None:
        plan = plan.take(np.arange(min(asked.requests, len(plan.at))))
        note("requests", first=asked.requests)
    plan = plan.from_zero()
    if asked.speed is not None:
        plan = scale.speed(plan, asked.speed)
        note("speed", factor=asked.speed)
    if asked.rate is not None or asked.users is not None:
        took = source.rows["guessed_us"].to_numpy()
        per_s = asked.rate or scale.rate_of_users(plan, took, asked.users or 1.0)
        poisson = len(plan.at) > 1 and plan.arrival_us[-1] == plan.arrival_us[0]
        plan = scale.at_rate(plan, per_s, random).from_zero()
        note(
            "users" if asked.rate is None else "rate",
            users=asked.users,
            per_s=per_s,
            sessions_at_once=scale.sessions_at_once(plan, took),
            gaps="exponential" if poisson else "the trace's",
        )
    return plan.from_zero(), steps


def _rate(source: Source, plan: scale.Plan) -> float | None:
    return None if source.traffic is None else expected.rate(source.traffic.subset(plan.at))


# -- rows ------------------------------------------------------------------------------------------------------


class _Rows(NamedTuple):
    """Everything of a workload but its prompts."""

    plan: scale.Plan
    table: pl.DataFrame  # columns of schema.WORKLOAD
    trace_row: NDArray[np.int64]  # of each request its position in the trace
    tokens: NDArray[np.int64]  # of its prompt in the trace
    media: NDArray[np.bool_]  # whether its messages hold media
    served: NDArray[np.int64]  # a number for each engine
    roots: NDArray[np.int64]  # a number for each group of requests that can share a cache

    @classmethod
    def of(cls, source: Source, plan: scale.Plan, asked: Options) -> _Rows:
        rows = source.rows[plan.at.tolist()]
        n = len(rows)
        index = np.full(len(source.rows), -1, np.int64)
        index[plan.at] = np.arange(n)
        before = rows["parent"].to_numpy()
        parent = np.where(before >= 0, index[before], -1)
        parent[parent >= np.arange(n)] = -1
        warm = np.zeros(n, bool) if asked.warmup is None else scale.warm_up(plan, asked.warmup)
        limits, known = rows["max_output_tokens"].to_list(), rows["output"].is_not_null().to_list()
        params = [
            content.params_json(one, None if has_output else limit)
            for one, has_output, limit in zip(rows["params"].to_list(), known, limits, strict=True)
        ]
        table = pl.DataFrame(
            {
                "index": np.arange(n),
                "request_id": rows["request_id"],
                "session_id": rows["session_id"],
                "turn_index": pl.DataFrame({"session": plan.session})
                .select(pl.int_range(pl.len()).over("session"))
                .to_series(),
                "parent": pl.Series(parent),
                "arrival_us": plan.arrival_us,
                "think_us": pl.Series(plan.think_us),
                "recorded_e2e_us": rows["took_us"],
                "warmup": warm,
                "model": rows["model"],
                "tenant_id": rows["tenant_id"],
                "cache_salt": rows["cache_salt"],
                "output_tokens": rows["output"].clip(lower_bound=1),
                "params_json": pl.Series(params, dtype=pl.String),
            }
        ).with_columns(
            parent=pl.when(pl.col("parent") >= 0).then("parent"),
            think_us=pl.when((pl.col("parent") >= 0) & (pl.col("think_us") >= 0)).then("think_us"),
        )
        media = rows["media"].list.len().fill_null(0).to_numpy() > 0
        served = rows["served"] if asked.engine_per_model else pl.zeros(n, pl.Int64, eager=True)
        caches = rows.select(pl.struct(served.alias("engine"), "cache_salt").rank("dense").cast(pl.Int64) - 1)
        return cls(
            plan,
            table,
            rows["row"].to_numpy(),
            rows["tokens"].to_numpy(),
            media,
            served.to_numpy(),
            caches.to_series().to_numpy(),
        )

    def sharing(self, prompts: Traffic) -> _Rows:
        """With the prompts' lengths, and what each has in common with an earlier one."""
        like, shared = prompts.shared()
        known = pl.Series(like)
        return self._replace(
            table=self.table.with_columns(
                input_tokens=pl.Series(prompts.prompt),
                prefix_of=pl.select(pl.when(known >= 0).then(known)).to_series(),
                prefix_tokens=pl.Series(shared),
            )
        )

    def batch(self, where: slice, prompts: dict[str, Any]) -> pa.RecordBatch:
        """Some of the rows with their prompts; columns that are not given are null."""
        part = self.table[where.start : where.stop].to_arrow()
        columns = []
        for field in schema.arrow(schema.WORKLOAD):
            if field.name in prompts:
                column = prompts[field.name]
            elif field.name in part.column_names:
                column = part.column(field.name)
            else:
                column = pa.nulls(len(part), field.type)
            if isinstance(column, pa.ChunkedArray):
                column = column.combine_chunks()
            if pa.types.is_dictionary(field.type) and not pa.types.is_dictionary(column.type):
                column = column.cast(pa.string()).dictionary_encode()
            columns.append(column.cast(field.type))
        return pa.RecordBatch.from_arrays(columns, schema=schema.arrow(schema.WORKLOAD))


def _maker(source: Source, rows: _Rows, tokenizer: Tokenizer, asked: Options) -> Made:
    """What makes the prompts: sharing as the trace's do, or sharing nothing."""
    if source.traffic is None or asked.variant == "unique":
        tree = synthesis.apart(rows.tokens)
    else:
        tree = source.traffic.subset(rows.plan.at)
    spoken, chat = asked.prompts == "text", asked.endpoint == "chat"
    return Made.of(tokenizer, tree, spoken=spoken, chat=chat, seed=asked.seed)


def _own_traffic(source: Source, plan: scale.Plan, asked: Options, progress: Progress | None) -> Traffic:
    """What the trace's own prompts share when they are sent: one engine for all its models sees more than each of many."""
    tree = source.traffic
    if tree is None or (not asked.engine_per_model and source.rows["served"].n_unique() > 1):
        tree = sharing(source, progress, one_engine=True)
    return tree.subset(plan.at)


def _has_own(source: Source, rows: _Rows, digest: str) -> bool:
    """Whether the trace itself holds what to send, of every request: text, or ids of the tokenizer of that digest."""
    if source.column == "input_ids":
        text = bool(source.trace.parts("content"))
        return text or source.info is None or source.info.digest == digest
    if not source.trace.parts("content"):
        return False
    there = source.trace.scan("content").select(
        n=(pl.col("messages_json").is_not_null() | pl.col("prompt_text").is_not_null()).sum()
    )
    if there.collect().item() < len(rows.trace_row):
        return False
    complete = source.rows["content_state"].to_numpy()[rows.plan.at] == "complete"
    if not complete.all():
        return False
    wanted = ("messages_json", "prompt_text")
    return all(
        _known(found).all()
        for _, found in content.gathered(source.trace, np.sort(rows.trace_row), wanted, Path())
    )


def _known(table: pa.Table) -> NDArray[np.bool_]:
    return np.asarray(
        pc.or_(table.column("messages_json").is_valid(), table.column("prompt_text").is_valid())
    )


def _own(source: Source, rows: _Rows, asked: Options, folder: Path) -> Iterator[pa.RecordBatch]:
    """The trace's own prompts: text where it has some, unless ids are asked for and there."""
    ids_only = asked.prompts == "ids" and source.column == "input_ids"
    columns: tuple[str, ...] = content.TEXT if source.trace.parts("content") and not ids_only else ()
    columns += ("input_ids",) if source.column == "input_ids" else ("block_hashes",)
    for where, found in content.gathered(source.trace, rows.trace_row, columns, folder / "content"):
        nothing = pa.nulls(len(found), pa.large_string())
        said = {
            name: found.column(name).combine_chunks() if name in found.column_names else nothing
            for name in content.TEXT
        }
        chat = np.asarray(said["messages_json"].is_valid())
        text = ~chat & np.asarray(said["prompt_text"].is_valid())
        media = np.flatnonzero(rows.media[where] & chat)
        if len(media):
            listed = said["messages_json"].to_pylist()
            for i in media:
                listed[i] = content.sendable(listed[i])
            said["messages_json"] = pa.array(listed, pa.large_string())
        prompts: dict[str, Any] = {
            "endpoint": pa.array(np.where(chat, "chat", np.where(text, "completions", "ids")).tolist()),
            "messages_json": said["messages_json"],
            "tools_json": pc.if_else(pa.array(chat), said["tools_json"], pa.scalar(None, pa.large_string())),
            "prompt_text": pc.if_else(
                pa.array(text), said["prompt_text"], pa.scalar(None, pa.large_string())
            ),
        }
        if source.column == "input_ids":
            ids = found.column("input_ids").combine_chunks()
            prompts["prompt_ids"] = pc.if_else(pa.array(~chat & ~text), ids, pa.scalar(None, ids.type))
        else:
            prompts["block_hashes"] = found.column("block_hashes")
        yield rows.batch(where, prompts)


def _made(source: Source, rows: _Rows, made: Made, asked: Options, folder: Path) -> Iterator[pa.RecordBatch]:
    """Made prompts, beside the hashes that the trace has of the real ones."""
    hashes = source.column == "block_hashes" and asked.variant != "unique"
    kept = content.gathered(
        source.trace, rows.trace_row, ("block_hashes",) if hashes else (), folder / "content"
    )
    for around, found in kept:
        for where in made.pieces(around):
            prompts = made.columns(where)
            if hashes:
                first = where.start - around.start
                prompts["block_hashes"] = found.column("block_hashes").slice(first, where.stop - where.start)
            yield rows.batch(where, prompts)


def _told(
    batches: Iterator[pa.RecordBatch], n: int, endpoints: dict[str, int], say: Progress
) -> Iterator[pa.RecordBatch]:
    """The same batches, while progress is told and requests are counted by endpoint."""
    done = 0
    for batch in batches:
        done += len(batch)
        for one in batch.column("endpoint").cast(pa.string()).value_counts().to_pylist():
            endpoints[one["values"]] = endpoints.get(one["values"], 0) + one["counts"]
        say("prompts", done, n)
        yield batch


# -- what it must get ------------------------------------------------------------------------------------------


def _counted(
    rows: _Rows, prompts: Traffic, asked: Options, machine: Machine, progress: Progress | None
) -> dict[str, Any]:
    """Counts and expected hit rates, from the prompts themselves."""
    output = rows.table["output_tokens"].fill_null(0).to_numpy().astype(np.int64)
    took = rows.table["recorded_e2e_us"].fill_null(-1).to_numpy().astype(np.int64)
    warmup = rows.table["warmup"].to_numpy()
    sent = expected.Sent(prompts, rows.served, rows.plan.arrival_us, took, output, warmup)
    hits = expected.hit_tokens(prompts)
    return {
        "requests": len(hits),
        "sessions": len(np.unique(rows.plan.session)),
        "models": rows.table["model"].n_unique(),
        "span_us": int(rows.plan.arrival_us[-1]),
        "input_tokens": int(prompts.prompt.sum()),
        "output_tokens": int(output.sum()),
        "hit_tokens": int(hits.sum()),
        "hit_rate": float(hits.sum() / prompts.prompt.sum()),
        "warmup": {
            "requests": int(warmup.sum()),
            "input_tokens": int(prompts.prompt[warmup].sum()),
            "hit_tokens": int(hits[warmup].sum()),
        },
        "machine": {
            **machine.at(int((prompts.prompt + output).mean()))._asdict(),
            "given": machine.given,
        },
        "expected": expected.expected(sent, machine, asked.engines, progress),
    }
