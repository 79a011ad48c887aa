"""A simulated run as a replay's results: the same folder, the same files, so that whatever reads one reads the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from traceprof import latency, schema
from traceprof.caches.traffic import Traffic
from traceprof.engines import engine as record
from traceprof.errors import TraceprofError
from traceprof.replay.campaign import stated
from traceprof.replay.run import rates, spelled
from traceprof.replay.settings import Options
from traceprof.results import Results, check_free, new_run, write_manifest
from traceprof.simulate.host import Host
from traceprof.simulate.served import STEPS_KEPT, Load, Served, serve
from traceprof.simulate.study import Stretch

if TYPE_CHECKING:
    from traceprof.workers import Progress
    from traceprof.workloads import Workload

COLUMNS = [
    "index", "request_id", "session_id", "parent", "arrival_us", "think_us", "warmup", "input_tokens", "output_tokens", "prefix_of", "prefix_tokens",
]  # fmt: skip
OUTPUT = 128  # tokens of an answer whose length the workload leaves to the engine
CHUNKS = 20_000_000  # tokens of a run, above which it is not told when each was there


class Ask(NamedTuple):
    """How it is to be sent; as in a replay."""

    mode: str = "partly-open"
    concurrency: int = 0
    speed: float = 1.0


def simulate(
    workloads: Sequence[Workload],
    engines: Sequence[str],
    host: Host,
    folder: Path,
    ask: Ask | None = None,
    progress: Progress | None = None,
    traffics: Sequence[Traffic] | None = None,
) -> Results:
    """Each workload through each engine, one run each; raises TraceprofError where the folder holds results.

    traffics  what the workloads are of, where more is known than they tell: what prompts share with answers
    """
    asked = ask or Ask()
    check_free(folder)
    options = Options(mode=asked.mode, concurrency=asked.concurrency, speed=asked.speed)
    manifest = _manifest(workloads, engines, host, options)
    results = write_manifest(folder, manifest)
    number = 0
    for position, workload in enumerate(workloads):
        rows = _rows(workload)
        for name in engines:
            run = new_run(results, number, name)
            served = through(
                name, rows, host, asked, workload.path, None if traffics is None else traffics[position]
            )
            table = _table(rows, served, asked).cast(schema.arrow(schema.RESULT_REQUESTS))
            run.write(table, _told(name, workload, host, table, served, options))
            manifest["runs"].append(
                {
                    "number": number, "name": name, "workload": position, "repeat": 0, "warmup": False, "speed": 1.0, "salt": None, "state": "done",
                    "error": None, "held": None, "reasons": [],
                }
            )  # fmt: skip
            number += 1
            if progress is not None:
                progress("virtual engines", number, len(workloads) * len(engines))
    return write_manifest(folder, manifest)


def through(
    engine: str,
    rows: pl.DataFrame,
    host: Host,
    ask: Ask,
    path: Path | None = None,
    known: Traffic | None = None,
) -> Served:
    """A workload's rows through one engine; raises TraceprofError where what they share cannot be."""
    traffic = known or traffic_of(rows, path)
    scheduled = rows["arrival_us"].to_numpy() * 1000
    think = rows["think_us"].fill_null(0).to_numpy() * 1000
    parent = rows["parent"].fill_null(-1).to_numpy()
    if ask.mode == "open":
        parent = np.full(len(parent), -1, np.int64)
    load = Load(scheduled, think, parent).faster(ask.speed)
    if ask.mode == "closed":
        load = load._replace(scheduled=np.zeros(len(parent), np.int64), places=ask.concurrency)
    mean = int(traffic.total.mean()) if traffic.requests else 0
    steps = STEPS_KEPT if int((traffic.total - traffic.prompt).sum()) <= CHUNKS else 0
    return serve(
        engine, traffic, load, host.scheduler(engine), host.costs(engine, mean), host.capacity_tokens, token_bytes=host.token_bytes, steps=steps
    )  # fmt: skip


def traffic_of(rows: pl.DataFrame, path: Path | None = None) -> Traffic:
    """What a workload's rows ask for: prompts that share as it says, and answers that no later prompt repeats."""
    said = rows["output_tokens"].drop_nulls().to_numpy()
    usual = int(np.median(said)) if len(said) else OUTPUT
    output = rows["output_tokens"].fill_null(usual).cast(pl.Int64).to_numpy()
    like = rows["prefix_of"].fill_null(-1).cast(pl.Int64).to_numpy()
    shared = rows["prefix_tokens"].fill_null(0).cast(pl.Int64).to_numpy()
    prompt = rows["input_tokens"].cast(pl.Int64).to_numpy()
    earlier = like < np.arange(len(prompt))
    of_other = prompt[np.where(earlier, np.maximum(like, 0), 0)] if len(prompt) else prompt
    fits = earlier & (shared >= 0) & (shared <= np.where(like >= 0, np.minimum(prompt, of_other), 0))
    if not fits.all():
        raise TraceprofError(
            "prefix_of and prefix_tokens do not fit the prompts",
            path=path,
            remedy="make the workload again: traceprof workload",
        )
    return Traffic.of_shared(like, shared, prompt).answered(output)


def _rows(workload: Workload) -> pl.DataFrame:
    rows = pl.from_arrow(pa.Table.from_batches(workload.batches(COLUMNS)))
    assert isinstance(rows, pl.DataFrame)
    return rows


def _table(rows: pl.DataFrame, served: Served, ask: Ask) -> pa.Table:
    """`schema.RESULT_REQUESTS` of a run."""
    ok = served.ok
    sent, end = served.sent // 1000, served.end // 1000
    first = served.first // 1000
    n = len(rows)
    times = served.token_times()

    def where_ok(values: Any) -> pa.Array:
        return pa.array(values, mask=~ok)

    chunks: dict[str, Any] = {"chunk_us": pa.nulls(n), "chunk_chars": pa.nulls(n)}
    if times is not None:
        offsets = np.concatenate(
            [[0], np.cumsum([len(one) if good else 0 for one, good in zip(times, ok, strict=True)])]
        )
        whole = (
            np.concatenate(
                [one for one, good in zip(times, ok, strict=True) if good] or [np.zeros(0, np.int64)]
            )
            // 1000
        )
        chunks["chunk_us"] = pa.ListArray.from_arrays(
            pa.array(offsets, pa.int32()), pa.array(whole), mask=pa.array(~ok)
        )
    scheduled = (rows["arrival_us"].to_numpy() / ask.speed).astype(np.int64) if ask.mode != "closed" else sent
    words = {
        "outcome": np.where(ok, "ok", "http_error"), "finish_reason": where_ok(np.full(n, "length")),
        "cached_state": np.where(ok, "told", "absent"), "tokens_source": np.where(ok, "usage", "none"),
    }  # fmt: skip
    return pa.table(
        {
            **{name: rows[name].to_arrow() for name in ("index", "request_id", "session_id", "warmup")},
            "attempt": pa.array(np.zeros(n, np.int16)), "final": pa.array(np.ones(n, np.bool_)), "scheduled_us": scheduled, "intended_us": sent,
            "taken_up_us": sent, "sent_us": sent, "first_byte_us": where_ok(first), "first_token_us": where_ok(first), "last_token_us": where_ok(end),
            "end_us": end, **chunks, "http_status": pa.array(np.where(ok, 200, 400).astype(np.int16)),
            "error_type": pa.array(np.full(n, "does_not_fit"), mask=ok), "input_tokens": where_ok(served.prompt), "output_tokens": where_ok(served.output),
            "reasoning_tokens": pa.nulls(n), "cached_tokens": where_ok(np.maximum(served.hit_tokens, 0)),
            "predicted_cached_tokens": where_ok(np.maximum(served.hit_tokens, 0)),
            "bytes_sent": np.zeros(n, np.int64), "bytes_received": np.zeros(n, np.int64), "output_hash": pa.nulls(n), "output_text": pa.nulls(n), **words,
        }
    ).select([column.name for column in schema.RESULT_REQUESTS])  # fmt: skip


def _told(
    name: str, workload: Workload, host: Host, table: pa.Table, served: Served, options: Options
) -> dict[str, Any]:
    """run.json."""
    requests = pl.from_arrow(table)
    assert isinstance(requests, pl.DataFrame)
    known = record(name)
    return {
        "engine": {"name": known.name, "label": known.label, "at": None},
        "options": spelled(options),
        "requests": workload.requests,
        "requests_ended": workload.requests,
        "stopped": False,
        "resumed_at_us": None,
        "valid": True,
        "invalid_because": None,
        "rates": rates(requests),
        "summary": latency.summary(requests),
        "name": name,
        "repeat": 0,
        "warmup_run": False,
        "speed": 1.0,
        "workload": str(workload.path),
        "server": {
            "version": "virtual", "model": host.shape.name, "capacity_tokens": host.capacity_tokens, "capacity_from": host.label,
            "cold_start_s": host.card.on(name).cold_start_s, "settings": host.scheduler(name)._asdict(),
        },
        "isolation": {"how": "none", "ok": True, "why": None},
        "simulated": {
            **host.told(), "costs": host.costs(name)._asdict(), "factors": host.factors(name)._asdict(), "source": host.card.on(name).source,
            "decode_steps": served.decode_steps, "computed_tokens": served.computed_tokens, "preemptions": served.preemptions,
            "evicted_tokens": served.evicted_tokens, "busy_s": served.busy_s,
        },
    }  # fmt: skip


def _manifest(
    workloads: Sequence[Workload], engines: Sequence[str], host: Host, options: Options
) -> dict[str, Any]:
    """As a replay's."""
    return {
        "simulated": host.told(),
        "scenario": {
            "about": f"in virtual time: {host.label}", "repeats": 1, "order": "interleaved", "warmup_runs": 0, "cache": "restart",
            "capacity_tokens": host.capacity_tokens, "pause_s": 0.0, "slo": None, "sweep": None,
        },
        "options": spelled(options),
        "workloads": [stated(one.path, one) for one in workloads],
        "engines": [
            {"name": name, "engine": record(name).name, "at": None, "launch": None, "variant": None, "variables": {}, "cache": {}, "model": None} for name in engines
        ],
        "runs": [],
        "sweep": None,
        "calibration": {"before": None, "after": None},
    }  # fmt: skip


def without_prompts(path: Path, stretch: Stretch, requests: Sequence[str]) -> Workload:
    """A workload that holds when each request is sent, how long it is and what it shares, and no prompts: to be simulated, not to be sent."""
    from traceprof.workloads import write_workload

    pool, n = stretch.pool, stretch.traffic.requests
    like, shared = stretch.traffic.shared()
    start = stretch.load.scheduled // 1000
    turn, parent = np.zeros(n, np.int32), stretch.load.parent
    for r in np.flatnonzero(parent >= 0).tolist():
        turn[r] = turn[parent[r]] + 1
    columns: dict[str, Any] = {
        "index": np.arange(n), "request_id": pa.array(requests), "session_id": pa.array([None if s < 0 else str(s) for s in pool.sessions.tolist()]),
        "turn_index": turn, "parent": pa.array(parent, mask=parent < 0), "arrival_us": start,
        "think_us": pa.array(stretch.load.think // 1000, mask=parent < 0), "warmup": ~stretch.measured, "model": pa.array([pool.model] * n),
        "tenant_id": pa.array([t or None for t in pool.tenants.tolist()]), "endpoint": pa.array(["ids"] * n),
        "input_tokens": stretch.traffic.prompt, "output_tokens": stretch.traffic.total - stretch.traffic.prompt,
        "prefix_of": pa.array(like, mask=like < 0), "prefix_tokens": shared,
    }  # fmt: skip
    table = pa.table(
        {c.name: columns.get(c.name, pa.nulls(n, c.type)) for c in schema.WORKLOAD}
    ).cast(schema.arrow(schema.WORKLOAD))  # fmt: skip
    meta = {
        "variant": "asis", "seed": None, "unit": 1, "times": "recorded", "prompts": "none: for simulation only", "requests": n, "models": [pool.model],
        "sessions": len(set(pool.sessions.tolist()) - {-1}), "span_us": int(start[-1] - start[0]) if n else 0,
        "input_tokens": int(stretch.traffic.prompt.sum()), "output_tokens": int((stretch.traffic.total - stretch.traffic.prompt).sum()),
        "hit_rate": stretch.shared_tokens / max(1, stretch.prompt_tokens), "engine_per_model": True,
    }  # fmt: skip
    return write_workload(path, table.combine_chunks().to_batches(), meta)
