"""What a run costs: dollars by a price an hour, joules by the power that the GPUs drew."""

from __future__ import annotations

import numpy as np
import polars as pl

from traceprof.errors import UsageError
from traceprof.replay.gpu import GPU
from traceprof.results import Run
from traceprof.simulate.hardware import Card, card

MILLION = 1_000_000


def priced(gpu: str) -> Card:
    """The card of that name, if its file has a price.

    >>> priced("H100").name
    'h100'
    """
    found = card(gpu)
    if found.usd_per_hour is None:
        raise UsageError(f"no price is known of {found.label}", remedy="give one: --price NAME=USD_PER_HOUR")
    return found


def dollars_per(usd_per_hour: float | None, per_s: float | None) -> float | None:
    """Dollars for one of what comes at a rate.

    >>> dollars_per(3.6, 2.0)
    0.0005
    """
    return usd_per_hour / 3600 / per_s if usd_per_hour is not None and per_s else None


def joules(run: Run, span_s: float) -> float | None:
    """Energy that all GPUs of the machine drew in the first `span_s` of a run; None where no power was told.

    Power is integrated by trapezoids between samples; before the first and after the last one, by less than a sample, it is taken at the mean.
    """
    if not (run.path / GPU).exists():
        return None
    rows = pl.read_parquet(run.path / GPU, columns=["at_us", "gpu", "power_w"]).drop_nulls("power_w")
    rows = rows.filter(pl.col("at_us").is_between(0, round(span_s * 1e6)))
    whole = 0.0
    for _, one in rows.sort("at_us").group_by("gpu"):
        at, power = one["at_us"].to_numpy() / 1e6, one["power_w"].to_numpy().astype(np.float64)
        if len(at) < 2 or at[-1] == at[0]:
            return None
        whole += span_s * float(np.trapezoid(power, at)) / float(at[-1] - at[0])
    return whole or None
