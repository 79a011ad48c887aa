"""Conversations: how many, how long, and how long people think."""

from __future__ import annotations

from typing import Any

import polars as pl


def sessions(requests: pl.DataFrame) -> dict[str, Any] | None:
    """Counts, turns and think time; None when the log names no session.

    `requests` has session_id, session_kind, start_us, end_us (both nullable), clock. An id that its maker calls a
    trace is a session only when it groups more than one request. Think time is the gap between the end of a turn and
    the arrival of the next one in the same session, where both are known and in order; seconds.
    """
    rows = requests.filter(pl.col("session_id").is_not_null())
    if not len(rows):
        return None
    turns = rows.group_by("session_id").agg(
        pl.len().alias("turns"), (pl.col("session_kind").cast(pl.String) == "trace").all().alias("trace")
    )
    turns = turns.filter(~pl.col("trace") | (pl.col("turns") > 1))
    if not len(turns):
        return None
    timed = (
        rows.join(turns.select("session_id"), on="session_id", how="semi")
        .filter(pl.col("start_us").is_not_null())
        .sort("session_id", "start_us", maintain_order=True)
    )
    think = timed.select(
        ((pl.col("start_us") - pl.col("end_us").shift(1)).over("session_id") / 1e6).alias("s")
    ).filter(pl.col("s") >= 0)
    return {
        "count": len(turns),
        "turns_mean": turns["turns"].mean(),
        "turns_max": turns["turns"].max(),
        "think_time_p50": think["s"].median(),
    }
