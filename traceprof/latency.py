"""The one definition of TTFT, TPOT, ITL, E2E and goodput, from what a replay recorded; and other tools' definitions of the same.

All times of a request are microseconds since its run's start (`schema.RESULT_REQUESTS`); what comes out is seconds.

    TTFT   first token - intended time           from the time at which the request was to be sent, so that a client or an
    E2E    end of the answer - intended time     engine that holds requests back cannot hide it (coordinated omission)
    TPOT   (E2E - TTFT) / (output tokens - 1)
    ITL    gaps between successive chunks with content, pooled over requests
    send lag   sent - intended, of first attempts. Two parts: until the client took the request up, which is its own, and to connect
               or to wait for one of --max-connections, which is not

Only requests that ended well and were no warm-up are in any of them. Percentiles are linear between ranks (numpy's default).
`as_defined_by` computes the same run in the definitions of vLLM bench, SGLang bench, AIPerf, GuideLLM, inference-perf and MLPerf.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from traceprof.errors import UsageError

F64: TypeAlias = NDArray[np.float64]

US = 1e6
PERCENTILES = (50, 90, 95, 99)
LAG_LIMIT_S = 0.005  # p99 of the send lag above which a run cannot be compared
LAG_SHARE = 0.02  # or this share of the median TTFT, whichever is more


class Latencies(NamedTuple):
    """Seconds; one entry a request that ended well, NaN where a request has no such value."""

    ttft: F64
    ttft_from_sent: F64
    e2e: F64
    e2e_from_sent: F64
    tpot: F64
    itl: F64  # one entry a gap
    output_tokens: F64

    @classmethod
    def of(cls, requests: pl.DataFrame) -> Latencies:
        """From a run's requests.

        >>> row = {"warmup": False, "outcome": "ok", "intended_us": 0, "sent_us": 1000, "first_token_us": 201_000, "end_us": 401_000,
        ...        "last_token_us": 401_000, "chunk_us": [201_000, 301_000, 401_000], "output_tokens": 3}
        >>> one = Latencies.of(pl.DataFrame([row]))
        >>> one.ttft.tolist(), one.e2e_from_sent.tolist(), one.tpot.tolist(), one.itl.tolist()
        ([0.201], [0.4], [0.1], [0.1, 0.1])
        """
        ok = measured(requests)
        intended, sent, first, end = (
            _seconds(ok[name]) for name in ("intended_us", "sent_us", "first_token_us", "end_us")
        )
        tokens = _floats(ok["output_tokens"])
        ttft, e2e = first - intended, end - intended
        return cls(
            ttft,
            first - sent,
            e2e,
            end - sent,
            _per_token(e2e - ttft, tokens - 1),
            gaps(ok["chunk_us"]),
            tokens,
        )


def measured(requests: pl.DataFrame) -> pl.DataFrame:
    """The requests that are in figures: those that ended well and were no warm-up."""
    return requests.filter(~pl.col("warmup") & (pl.col("outcome").cast(pl.String) == "ok"))


def gaps(chunk_us: pl.Series) -> F64:
    """Seconds between successive chunks of each request, pooled."""
    times = chunk_us.drop_nulls()
    if not len(times):
        return np.empty(0)
    return times.list.diff(null_behavior="drop").explode().drop_nulls().to_numpy().astype(np.float64) / US


class Lag(NamedTuple):
    """How late requests were sent; seconds."""

    p50_s: float | None
    p99_s: float | None
    max_s: float | None
    client_p99_s: float | None  # of the part until the client took the request up: its own
    connect_p99_s: float | None  # of the part from there: to connect, or to wait for a connection
    limit_s: float  # of p99_s: above it the run is not valid for comparison
    valid: bool
    reason: str | None


def send_lag(requests: pl.DataFrame) -> Lag:
    """How late requests were sent, whatever became of them, and whether that is too late to compare engines by it.

    Of those that were sent at their first attempt: a retry comes late because the server asked for it.

    >>> late = pl.DataFrame({"warmup": [False], "attempt": [0], "outcome": ["ok"], "intended_us": [0], "taken_up_us": [8900],
    ...     "sent_us": [9000], "first_token_us": [109_000], "last_token_us": [109_000], "end_us": [109_000], "chunk_us": [[109_000]], "output_tokens": [1]})
    >>> send_lag(late).reason
    'requests were sent late by 9.0 ms (p99), more than 5.0 ms: the client or its machine is too slow for this workload'
    """
    sent = requests.filter(~pl.col("warmup") & pl.col("sent_us").is_not_null())
    first = sent.filter(sent["attempt"] == 0)
    ttft = Latencies.of(requests).ttft
    ttft = ttft[~np.isnan(ttft)]
    limit = max(LAG_LIMIT_S, LAG_SHARE * float(np.median(ttft)) if len(ttft) else 0.0)
    if not len(first):
        why = "every request was sent again: how late the first attempts were is not known"
        return Lag(None, None, None, None, None, limit, False, why if len(sent) else "nothing was sent")
    intended, left = _seconds(first["intended_us"]), _seconds(first["sent_us"])
    taken_up = _seconds(first["taken_up_us"].fill_null(first["sent_us"]))
    lag = left - intended
    p50, p99 = (float(v) for v in np.percentile(lag, (50, 99)))
    client, connect = (float(np.percentile(part, 99)) for part in (taken_up - intended, left - taken_up))
    reason = None
    if p99 > limit:
        whose = "the client or its machine is too slow for this workload"
        if connect > client:
            whose = f"to connect, or to wait for a connection, took {1000 * connect:.1f} ms; --connections-ahead opens them before"
        reason = (
            f"requests were sent late by {1000 * p99:.1f} ms (p99), more than {1000 * limit:.1f} ms: {whose}"
        )
    return Lag(p50, p99, float(lag.max()), client, connect, limit, reason is None, reason)


def window_s(requests: pl.DataFrame) -> float:
    """Seconds from the first intended time to the end of the last answer, warm-up left out."""
    seen = requests.filter(~pl.col("warmup"))
    if not len(seen):
        return 0.0
    return float(_seconds(seen["end_us"]).max() - _seconds(seen["intended_us"]).min())


def summary(requests: pl.DataFrame) -> dict[str, Any]:
    """Every figure of a run: counts by outcome, latencies, throughput, cached tokens, and the send lag."""
    seen = requests.filter(~pl.col("warmup"))
    found = Latencies.of(requests)
    ok = measured(requests)
    span = window_s(requests)
    outcomes = seen["outcome"].cast(pl.String).value_counts(sort=True)
    tokens = {name: _sum(ok[f"{name}_tokens"]) for name in ("input", "output", "cached")}
    told = ok.filter(pl.col("cached_tokens").is_not_null() & pl.col("input_tokens").is_not_null())
    cached_of = _sum(told["input_tokens"])
    return {
        "requests": len(seen),
        "warmup_requests": len(requests) - len(seen),
        "outcomes": dict(zip(outcomes["outcome"].to_list(), outcomes["count"].to_list(), strict=True)),
        "window_s": span,
        "requests_per_s": len(ok) / span if span else None,
        "input_tokens": tokens["input"],
        "output_tokens": tokens["output"],
        "output_tokens_per_s": None if tokens["output"] is None or not span else tokens["output"] / span,
        "requests_with_cached_tokens": len(told),
        "cached_tokens": tokens["cached"],
        "hit_rate": None
        if not cached_of or tokens["cached"] is None
        else _sum(told["cached_tokens"]) / cached_of,  # type: ignore[operator]
        **{
            name: spread(getattr(found, name))
            for name in ("ttft", "ttft_from_sent", "e2e", "e2e_from_sent", "tpot", "itl")
        },
        "send_lag": send_lag(requests)._asdict(),
    }


def spread(values: F64) -> dict[str, float | None]:
    """Mean, percentiles and maximum, NaN left out; all null of nothing.

    >>> spread(np.array([1.0, 3.0, np.nan]))["p50"]
    2.0
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return {"mean": None, **{f"p{q}": None for q in PERCENTILES}, "max": None}
    marks = np.percentile(known, PERCENTILES)
    return {
        "mean": float(known.mean()),
        **{f"p{q}": float(v) for q, v in zip(PERCENTILES, marks, strict=True)},
        "max": float(known.max()),
    }


def goodput(requests: pl.DataFrame, objectives: Mapping[str, float]) -> float | None:
    """Requests a second that meet every objective: seconds by `ttft`, `tpot` or `e2e`. One that failed meets none.

    A request of one token has no TPOT, and meets that objective.
    """
    span = window_s(requests)
    if not span:
        return None
    found = Latencies.of(requests)
    good = np.ones(len(found.ttft), np.bool_)
    for name, limit in objectives.items():
        values: F64 = getattr(found, name)
        good &= (values <= limit) | (np.isnan(values) & (name == "tpot"))
    return float(good.sum()) / span


_OBJECTIVE = re.compile(r"\s*(ttft|tpot|e2e)\s*=\s*([0-9]*\.?[0-9]+)\s*(ms|s)\s*")


def parse_slo(text: str) -> dict[str, float]:
    """Objectives as a user writes them, in seconds by metric: what `goodput` takes.

    >>> parse_slo("ttft=500ms,tpot=50ms, e2e=10s")
    {'ttft': 0.5, 'tpot': 0.05, 'e2e': 10.0}
    """
    limits: dict[str, float] = {}
    for part in text.split(","):
        found = _OBJECTIVE.fullmatch(part)
        value = 0.0 if found is None else float(found[2])
        if found is None or not value or found[1] in limits:
            raise UsageError(
                f"{part.strip()!r} is no objective, or a second one of a metric",
                remedy="write ttft=500ms,tpot=50ms; there are ttft, tpot and e2e, in ms or s",
            )
        limits[found[1]] = value / 1000 if found[3] == "ms" else value
    return limits


TOOLS = ("vllm_bench", "sglang_bench", "aiperf", "guidellm", "inference_perf", "mlperf")


def as_defined_by(tool: str, requests: pl.DataFrame) -> dict[str, dict[str, float | None]]:
    """The same run under another tool's definitions: its own names, each with mean, percentiles and maximum in seconds.

    vllm_bench      from the send; E2E ends with the last token; TPOT = (E2E - TTFT) / (N - 1); ITL pooled gaps of chunks
    sglang_bench    the same
    aiperf          from the send; its ITL is vLLM's TPOT; its inter-chunk latency the pooled gaps
    guidellm        from the send; its TPOT = (last token - start) / N, which holds TTFT, too; its ITL = (last - first) / (N - 1)
    inference_perf  from the send; TPOT = (last - first) / (N - 1); NTPOT = E2E / N; ITL pooled gaps
    mlperf          from the scheduled time; TPOT = (latency - TTFT) / (n - 1)
    """
    ok = measured(requests)
    start, scheduled, first, last, end = (
        _seconds(ok[name])
        for name in ("sent_us", "scheduled_us", "first_token_us", "last_token_us", "end_us")
    )
    n = _floats(ok["output_tokens"])
    decode = _per_token(last - first, n - 1)
    chunks = gaps(ok["chunk_us"])
    found: dict[str, F64]
    if tool in ("vllm_bench", "sglang_bench"):
        found = {"ttft": first - start, "tpot": decode, "itl": chunks, "e2el": last - start}
    elif tool == "aiperf":
        found = {
            "time_to_first_token": first - start,
            "inter_token_latency": decode,
            "inter_chunk_latency": chunks,
            "request_latency": last - start,
        }
    elif tool == "guidellm":
        found = {
            "time_to_first_token": first - start,
            "time_per_output_token": _per_token(last - start, n),
            "inter_token_latency": decode,
            "request_latency": end - start,
        }
    elif tool == "inference_perf":
        found = {
            "time_to_first_token": first - start,
            "time_per_output_token": decode,
            "normalized_time_per_output_token": _per_token(end - start, n),
            "inter_token_latency": chunks,
            "request_latency": end - start,
        }
    else:
        if tool != "mlperf":
            raise UsageError(f"no tool is called {tool}", remedy=f"one of {', '.join(TOOLS)}")
        found = {
            "ttft": first - scheduled,
            "tpot": _per_token(end - first, n - 1),
            "latency": end - scheduled,
        }
    return {name: spread(values) for name, values in found.items()}


def _per_token(seconds: F64, tokens: F64) -> F64:
    """NaN where there is nothing to divide by."""
    found: F64 = np.full(len(seconds), np.nan)
    np.divide(seconds, tokens, out=found, where=tokens > 0)
    return found


def _floats(values: pl.Series) -> F64:
    return values.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def _seconds(values: pl.Series) -> F64:
    return _floats(values) / US


def _sum(values: pl.Series) -> int | None:
    known = values.drop_nulls()
    return int(known.cast(pl.Int64).sum()) if len(known) else None
