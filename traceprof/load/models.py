"""Which model answers a request."""

from __future__ import annotations

import polars as pl


def answered_by(rows: pl.DataFrame, name: str) -> pl.DataFrame:
    """Rows with a column of that name: the model that served, null where the log names none at all.

    A request without an answer goes to the model that its alias always got, if there is but one.

    >>> rows = pl.DataFrame({"model_requested": ["a", "a", "b"], "model_served": ["a-1", None, None]})
    >>> answered_by(rows, "model")["model"].to_list()
    ['a-1', 'a-1', 'b']
    """
    usual = (
        rows.filter(pl.col("model_served").is_not_null() & pl.col("model_requested").is_not_null())
        .group_by("model_requested")
        .agg(pl.col("model_served").unique())
        .filter(pl.col("model_served").list.len() == 1)
        .select("model_requested", usual=pl.col("model_served").list.first())
    )
    return (
        rows.join(usual, on="model_requested", how="left", maintain_order="left")
        .with_columns(pl.coalesce("model_served", "usual", "model_requested").alias(name))
        .drop("usual")
    )
