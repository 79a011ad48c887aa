"""What this client adds on this machine: the workload's busiest minute against an engine whose times are known.

    calibrate(workload, options) -> dict

Asked before and after a run. Every event of the null engine carries the time at which it was sent, so that what the client tells
and what was so can be compared one by one:

    TTFT bias   (first token received - intended) - (first token sent - request arrived)
    ITL bias    |gap between two chunks received - gap between the same two sent|

Loopback and the null engine's own work stand in both, so the bound is on the high side.
"""

from __future__ import annotations

import dataclasses
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from traceprof import latency
from traceprof.errors import TraceprofError
from traceprof.replay.nullengine import DEFAULT_TOKENS, ENGINE, null_engine
from traceprof.replay.run import Progress, replay_run
from traceprof.replay.settings import Options
from traceprof.results import Run
from traceprof.workloads import Workload, write_workload

TTFT_US = 100_000
GAP_US = 20_000  # where the trace does not tell how fast tokens came
GAPS_US = (5_000, 100_000)  # bounds of what it tells
WINDOW_S = 60.0


class Busiest(NamedTuple):
    """A part of a workload."""

    first: int  # row
    after: int  # row behind the last
    gap_us: int  # between tokens, as recorded
    tokens: int  # to be generated


def calibrate(
    workload: Workload,
    options: Options,
    *,
    seconds: float = WINDOW_S,
    stop: threading.Event | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """How much the client adds to TTFT and ITL under the busiest `seconds` of a workload, sent as `options` say."""
    part = busiest(workload, options, seconds)
    with tempfile.TemporaryDirectory(prefix="traceprof-") as folder:
        small = _cut(workload, part, Path(folder) / "busiest.parquet", seconds)
        how = dataclasses.replace(
            options,
            model="null", api=None, mode="closed" if options.mode == "closed" else "open", history="recorded",
            pin_output=False, salt=None, retries=0, ca=None, api_key_env=None, keep_text=True, count=None,
            max_connections=None, first_byte_s=60.0, stall_s=60.0, drain_s=0.0,
        )  # fmt: skip
        run = Run(Path(folder) / "000-null")
        run.path.mkdir()
        with null_engine(TTFT_US, part.gap_us) as url:
            told = replay_run(small, ENGINE, url, how, run, stop=stop, progress=progress)
        if told["stopped"]:
            return {"stopped": True}
        return {"stopped": False, **_compared(run, told, part, seconds)}


def busiest(workload: Workload, options: Options, seconds: float) -> Busiest:
    """The rows of the window of so many seconds in which most tokens are asked for; of a closed loop, as many rows as fill it."""
    arrivals, tokens, took = [], [], []
    for batch in workload.batches(["arrival_us", "output_tokens", "recorded_e2e_us"]):
        arrivals.append(batch.column("arrival_us").to_numpy())
        tokens.append(pc.fill_null(batch.column("output_tokens"), DEFAULT_TOKENS).to_numpy())
        took.append(pc.fill_null(batch.column("recorded_e2e_us"), 0).to_numpy())
    if not arrivals:
        raise TraceprofError("has no requests", path=workload.path)
    at, n = np.concatenate(arrivals) / options.speed, np.concatenate(tokens).astype(np.int64)
    gap_us = _gap_us(n, np.concatenate(took))
    if options.mode == "closed":
        busy_us = np.cumsum(TTFT_US + (n - 1) * gap_us) / options.concurrency
        rows = max(1, int(np.searchsorted(busy_us, seconds * 1e6)))
        return Busiest(0, rows, gap_us, int(n[:rows].sum()))
    after = np.searchsorted(at, at + seconds * 1e6)
    sums = np.concatenate([[0], np.cumsum(n)])
    first = int(np.argmax(sums[after] - sums[np.arange(len(at))]))
    return Busiest(first, int(after[first]), gap_us, int(sums[after[first]] - sums[first]))


def _gap_us(tokens: NDArray[np.int64], took_us: NDArray[np.int64]) -> int:
    """Time between tokens as the trace recorded it, in the middle of its requests."""
    told = (took_us > TTFT_US) & (tokens > 1)
    if not told.any():
        return GAP_US
    return int(np.clip(np.median((took_us[told] - TTFT_US) / (tokens[told] - 1)), *GAPS_US))


def _cut(workload: Workload, part: Busiest, path: Path, seconds: float) -> Workload:
    """These rows as a workload of their own, each sent by itself."""
    found: list[pa.RecordBatch] = []
    at = first_us = 0
    longest = max(1, int(seconds * 1e6 / part.gap_us))  # no answer takes longer than the window
    for batch in workload.batches():
        low, high = max(part.first - at, 0), min(part.after - at, batch.num_rows)
        if low < high:
            rows = batch.slice(low, high - low)
            number = np.arange(at + low - part.first, at + high - part.first)
            arrivals = rows.column("arrival_us").to_numpy()
            first_us = first_us if found else int(arrivals[0])
            new = {
                "index": pa.array(number), "arrival_us": pa.array(arrivals - first_us),
                "parent": pa.nulls(len(number), pa.int64()), "warmup": pa.array(np.zeros(len(number), np.bool_)),
                "output_tokens": pc.min_element_wise(
                    pc.fill_null(rows.column("output_tokens"), DEFAULT_TOKENS), pa.scalar(longest, pa.int32())
                ),
            }  # fmt: skip
            columns = [new.get(name, rows.column(name)) for name in rows.schema.names]
            found.append(pa.RecordBatch.from_arrays(columns, schema=rows.schema))
        at += batch.num_rows
    return write_workload(path, found, {"variant": "asis"})


def _compared(run: Run, told: dict[str, Any], part: Busiest, seconds: float) -> dict[str, Any]:
    """What the client told, against what was sent."""
    zero_ns = told["zero_monotonic_ns"]
    ttft: list[float] = []
    itl: list[NDArray[np.float64]] = []
    requests = run.requests()
    ok = latency.measured(requests)
    columns = (ok[name].to_list() for name in ("intended_us", "first_token_us", "chunk_us", "output_text"))
    for intended_us, first_us, chunk_us, text in zip(*columns, strict=True):
        arrived, *sent = (int(word[1:]) for word in text.split())
        ttft.append((first_us - intended_us) / 1e6 - (sent[0] - arrived) / 1e9)
        received = np.array(chunk_us, np.int64) * 1000 + zero_ns
        if len(received) == len(sent):
            itl.append(np.abs(np.diff(received) - np.diff(np.array(sent, np.int64))) / 1e9)
    ttft_bias = latency.spread(np.array(ttft))
    itl_bias = latency.spread(np.concatenate(itl) if itl else np.empty(0))
    return {
        "requests": len(requests),
        "answered": len(ok),
        "seconds": seconds,
        "first_row": part.first,
        "chunks": told["client"]["chunks"],
        "peak_streams": _peak(requests["sent_us"].to_numpy(), requests["end_us"].to_numpy()),
        "ttft_s": TTFT_US / 1e6,
        "gap_s": part.gap_us / 1e6,
        "ttft_bias_s": ttft_bias,
        "itl_bias_s": itl_bias,
        "adds_at_most": {"ttft_p99_s": ttft_bias["p99"], "itl_p99_s": itl_bias["p99"]},
        "words": words(ttft_bias["p99"], itl_bias["p99"]),
        "send_lag": told["summary"]["send_lag"],
        "rates": told["rates"],
        "client": told["client"],
    }


def words(ttft_s: float | None, itl_s: float | None) -> str:
    """The bound as a sentence.

    >>> words(0.0004, 0.00125)
    'this client on this machine adds at most 0.4 ms to TTFT p99, 1.2 ms to ITL p99'
    """
    if ttft_s is None:
        return "no request of the calibration was answered: what this client adds is not known"
    told = f"this client on this machine adds at most {1000 * ttft_s:.1f} ms to TTFT p99"
    return told if itl_s is None else f"{told}, {1000 * itl_s:.1f} ms to ITL p99"


def _peak(begins: NDArray[Any], ends: NDArray[Any]) -> int:
    """Most answers under way at once."""
    at = np.concatenate([begins, ends]).astype(np.float64)
    step = np.concatenate([np.ones(len(begins), np.int64), -np.ones(len(ends), np.int64)])
    known = ~np.isnan(at)
    order = np.lexsort((step[known], at[known]))
    return int(np.cumsum(step[known][order]).max(initial=0))
