"""One run of a workload against one engine: clerks and their clients started, one clock for all, results whole or to be gone on with.

    replay_run(workload, engine, url, options, run, *, resume=False, stop=None, progress=None) -> dict

The dict is what run.json holds (`Run.finish`); where `stop` was set it says `stopped` and no run.json is written: `resume=True` then
sends what is missing, on the clock where the lines end.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, NamedTuple

from traceprof.engines.base import Engine
from traceprof.errors import TraceprofError
from traceprof.replay.clerk import Clerk, Recorded, Shard, mend
from traceprof.replay.settings import Options, Target
from traceprof.results import Run
from traceprof.workloads import Workload

if TYPE_CHECKING:
    import polars as pl

LEAD_NS = 50_000_000  # from go to the first request, so that every process knows the clock before it runs
PRIME_S = 600.0  # for bodies of the first window, on a machine that does other things too


class Progress(NamedTuple):
    """Where a run stands."""

    requests: int  # of the workload
    ended: int  # of them, those of an earlier part of the run included
    failed: int  # of those that ended in this part: all but `ok`
    at_s: float  # on the run's own clock


def replay_run(
    workload: Workload,
    engine: Engine,
    url: str,
    options: Options,
    run: Run,
    *,
    resume: bool = False,
    stop: threading.Event | None = None,
    progress: Callable[[Progress], None] | None = None,
    began: Callable[[int], None] | None = None,
    finish: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Send a workload to an engine once, and write what each request saw into the run's folder.

    `began` is told the run's zero in ns of the monotonic clock, before the first request is due. `finish` is called in place of
    `run.finish` once each row has its result. Setting `stop` ends the run early: answers under way are waited for
    `options.drain_s`, then cut.
    """
    if run.finished:
        return run.told()
    target = Target.of(url)
    known = _take_up(run, resume)
    from_us = known.last_us + 1 if known.last_us else 0
    before = len(known.ended_us)
    clerks: list[Clerk] = []
    stopped = False
    try:
        for number in range(options.processes):
            shard = Shard(
                workload.path, engine, target, options, run.path, number, options.processes, from_us
            )
            clerks.append(Clerk(shard))
        zero_ns = _start(clerks, from_us, stop)
        if began is not None:
            began(zero_ns)
        while not all(clerk.wait(0.1 / len(clerks)) for clerk in clerks):
            if stop is not None and stop.is_set() and not stopped:
                stopped = True
                for clerk in clerks:
                    clerk.stop(options.drain_s)
            if progress is not None:
                progress(_progress(workload, clerks, before, zero_ns))
        if progress is not None:
            progress(_progress(workload, clerks, before, zero_ns))
    finally:
        for clerk in clerks:
            clerk.close()
    told = _told(workload, engine, target, options, run, clerks, zero_ns, from_us)
    if told["requests_ended"] < workload.requests:
        if not stopped:
            raise TraceprofError(
                f"{workload.requests - told['requests_ended']:,} requests have no result",
                path=run.path,
                remedy="go on with --resume",
            )
        return told
    told["stopped"] = False
    (finish or run.finish)(told)
    return told


def _take_up(run: Run, resume: bool) -> Recorded:
    """What an earlier part of the run has written."""
    if any(run.path.glob("requests-*.jsonl")):
        if not resume:
            raise TraceprofError(
                "holds a run that was cut off",
                path=run.path,
                remedy="go on with --resume, or give another -o",
            )
        mend(run.path)
    return Recorded.of(run.path)


def _start(clerks: list[Clerk], from_us: int, stop: threading.Event | None) -> int:
    """Let the clock run once every client has its first requests; its zero."""
    deadline = time.monotonic() + PRIME_S
    for clerk in clerks:
        while not clerk.primed.wait(0.1):
            if stop is not None and stop.is_set():
                break
            if time.monotonic() > deadline:
                raise TraceprofError("the sending process does not start")
    zero_ns = monotonic_ns() + LEAD_NS - from_us * 1000
    for clerk in clerks:
        clerk.go(zero_ns)
    return zero_ns


def _progress(workload: Workload, clerks: list[Clerk], before: int, zero_ns: int) -> Progress:
    return Progress(
        workload.requests,
        before + sum(clerk.ended for clerk in clerks),
        sum(clerk.failed for clerk in clerks),
        max(0.0, (monotonic_ns() - zero_ns) / 1e9),
    )


# ---- what the run says of itself


def _told(
    workload: Workload,
    engine: Engine,
    target: Target,
    options: Options,
    run: Run,
    clerks: list[Clerk],
    zero_ns: int,
    from_us: int,
) -> dict[str, Any]:
    """What run.json holds."""
    from traceprof import latency

    requests = run.lines()
    lag = latency.send_lag(requests)
    live: dict[str, int] = {}
    for clerk in clerks:
        for name, count in clerk.live_turns.items():
            live[name] = live.get(name, 0) + count
    return {
        "engine": {"name": engine.name, "label": engine.label, "at": target.authority},
        "options": spelled(options),
        "requests": workload.requests,
        "requests_ended": _ended(requests),
        "stopped": True,
        "resumed_at_us": from_us or None,
        "zero_monotonic_ns": zero_ns,
        "valid": lag.valid,
        "invalid_because": lag.reason,
        "rates": rates(requests),
        "summary": latency.summary(requests),
        "live_turns": live,
        "client": _client(clerks),
    }


def _ended(requests: pl.DataFrame) -> int:
    """Requests that are not to be sent again; the same as `Recorded` takes for ended."""
    cut = (requests["outcome"].cast(str) == "cancelled") | ~requests["final"].fill_null(True)
    return len(requests) - int(cut.sum())


def spelled(options: Options) -> dict[str, Any]:
    """Options as JSON; the key is not among them, only the name of its variable."""
    told = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    del told["count"]
    told["ca"] = None if options.ca is None else str(options.ca)
    return told


def rates(requests: pl.DataFrame) -> dict[str, float | None]:
    """Requests a second: as scheduled, as intended, and as they were sent, over the span between the first and the last of each.

    `achieved` is sent over intended, 1 where the client kept up with what it was to do.
    """
    seen = requests.filter(requests["sent_us"].is_not_null())
    found = {}
    for name in ("scheduled", "intended", "sent"):
        times = seen[f"{name}_us"]
        span = (int(times.max()) - int(times.min())) / 1e6 if len(times) > 1 else 0.0  # type: ignore[arg-type]
        found[f"{name}_per_s"] = (len(times) - 1) / span if span else None
    intended, sent = found["intended_per_s"], found["sent_per_s"]
    return {**found, "achieved": sent / intended if intended and sent else None}


def _client(clerks: list[Clerk]) -> dict[str, Any]:
    """The client's own work, of this part of the run."""
    processes = [{**clerk.facts, "clerk_cpu_s": clerk.cpu_s} for clerk in clerks]
    chunks = sum(clerk.chunks for clerk in clerks)
    cpu_s = sum(one["cpu_s"] for one in processes)
    whole_s = cpu_s + sum(one["clerk_cpu_s"] for one in processes)
    return {
        "chunks": chunks,
        "cpu_us_per_chunk": 1e6 * cpu_s / chunks if chunks else None,
        "cpu_us_per_chunk_with_clerk": 1e6 * whole_s / chunks if chunks else None,
        "cpu_busiest_second": max(one["cpu_busiest_second"] for one in processes),
        "loop_lag_max_s": max((one["loop_lag_max_s"] or 0.0 for one in processes), default=0.0),
        "processes": processes,
    }
