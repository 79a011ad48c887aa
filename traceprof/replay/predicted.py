"""What the model of an engine's cache has of each prompt, fed with the requests as they were really sent, against what the engine tells.

The workload says which earlier request each prompt begins with, and how far, so no prompt is looked at. A request takes its room
when it was sent and gives it back when its answer ended. Answers take room, too; no later prompt is taken to repeat one, since
the engine wrote others than the trace's (with live history one does, and the engine may have more than is predicted).
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from traceprof.caches import engine
from traceprof.caches.traffic import Traffic
from traceprof.lab import simulator

if TYPE_CHECKING:
    from traceprof.workloads import Workload

I64 = NDArray[np.int64]
SPARE = 1024  # tokens of blocks that are not full, at most
COLUMNS = ["index", "prefix_of", "prefix_tokens", "input_tokens", "model", "cache_salt"]


class Predicted(NamedTuple):
    """By row of the workload; -1 where nothing is predicted, since the request never ran."""

    cached: I64  # tokens of the prompt that the model of the cache has
    prompt: I64  # tokens of the prompt as planned
    ceiling: I64  # tokens that a cache that forgets nothing has: more cannot be explained by this run


def predicted(
    workload: Workload,
    requests: pl.DataFrame,
    cache: str,
    capacity_tokens: int,
    token_bytes: float = 0.0,
    options: Mapping[str, Any] | None = None,
) -> Predicted | None:
    """One run's requests (`schema.RESULT_REQUESTS`) through the cache model of that name; None where the workload tells too little."""
    import pyarrow as pa

    told = pa.Table.from_batches(workload.batches(COLUMNS))
    rows = pl.from_arrow(told)
    assert isinstance(rows, pl.DataFrame)
    if rows["prefix_tokens"].null_count():
        return None
    like = rows["prefix_of"].fill_null(-1).to_numpy()
    shared = rows["prefix_tokens"].cast(pl.Int64).to_numpy()
    prompt = rows["input_tokens"].cast(pl.Int64).to_numpy()
    ran = requests.filter(
        pl.col("sent_us").is_not_null()
        & pl.col("outcome").cast(pl.String).is_in(["ok", "cancelled", "timeout", "stalled"])
    ).sort("sent_us", "index")
    at = ran["index"].to_numpy()
    whole = Traffic.of_shared(like, shared, prompt)
    end = ran["end_us"].to_numpy()
    sent = ran["sent_us"].to_numpy()
    first = ran["first_token_us"].fill_null(pl.Series(end)).to_numpy()
    if options and "slots" in options:
        sent = _began(sent, end, options["slots"])
    traffic = (
        whole.subset(at)
        .answered(ran["output_tokens"].fill_null(0).cast(pl.Int64).to_numpy())
        ._replace(arrival_us=sent, first_us=first, end_us=np.maximum(end, first))
    )
    simulate = simulator(cache, token_bytes) if token_bytes else engine(cache).simulate
    room = int(traffic.total.sum()) + SPARE * (traffic.requests + 1)  # more changes nothing
    hits = simulate(traffic, min(capacity_tokens, room), **(options or {})).hit_tokens
    cached, ceiling = np.full(len(rows), -1, np.int64), np.full(len(rows), -1, np.int64)
    cached[at] = hits
    ceiling[at] = traffic.shared()[1]
    return Predicted(cached, prompt, ceiling)


def _began(sent: I64, end: I64, slots: int) -> I64:
    """When each request got a slot, first come first served: what it waited in the engine is in its end, and must not be waited again.

    >>> _began(np.array([0, 1, 2]), np.array([10, 5, 12]), 2).tolist()
    [0, 1, 5]
    """
    busy: list[int] = []
    began = sent.copy()
    for i, (at, until) in enumerate(zip(sent.tolist(), end.tolist(), strict=True)):
        if len(busy) == slots:
            began[i] = max(at, heapq.heappop(busy))
        heapq.heappush(busy, until)
    return began
