"""The hit rates that a workload's prompts get in engines' prefix caches: what a replay of it is held against.

Answers take room from their request's end on, and no later prompt is taken to repeat one: an engine that is made to write so many
tokens writes others than the trace's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from traceprof.caches import ENGINES, infinite
from traceprof.caches.traffic import Traffic
from traceprof.lab import LARGE, MANY, SLOW, Machine, simulator, timed
from traceprof.workers import Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Sent(NamedTuple):
    """The requests of a workload, in order."""

    prompts: Traffic  # as paths of one tree; its times are not used
    served: NDArray[np.int64]  # a number for each engine
    arrival_us: NDArray[np.int64]
    took_us: NDArray[np.int64]  # -1: not known
    output: NDArray[np.int64]  # tokens of the answers, 0 where not known
    warmup: NDArray[np.bool_]  # sent, but in no figure


def hit_tokens(prompts: Traffic) -> NDArray[np.int64]:
    """Of each prompt, the tokens that an earlier one began with: a cache that forgets nothing.

    >>> hit_tokens(Traffic.of_lists([([1, 2, 3], [], 0, 5), ([1, 2, 4], [], 6, 8)])).tolist()
    [0, 2]
    """
    return np.asarray(infinite.hits_in_groups(prompts, np.zeros(prompts.requests, np.int64)))


def rate(prompts: Traffic) -> float:
    """Hit tokens / input tokens."""
    whole = int(prompts.prompt.sum())
    return float(hit_tokens(prompts).sum() / whole) if whole else 0.0


def in_time(sent: Sent) -> Traffic:
    """The prompts with answers behind them, at the times at which they arrive, decode and end."""
    known = pl.Series(sent.took_us >= 0)
    rows = pl.DataFrame({"start_us": sent.arrival_us}).with_columns(
        end_us=pl.when(known).then(pl.Series(sent.arrival_us + sent.took_us)),
        ttft_us=pl.lit(None, pl.Int64),
    )
    times = timed(rows, sent.prompts.prompt, sent.output, one_clock=True)
    return sent.prompts.answered(sent.output)._replace(
        arrival_us=times.arrival_us, first_us=times.first_us, end_us=times.end_us
    )


def hits(
    traffic: Traffic, served: NDArray[np.int64], name: str, capacity_tokens: int, token_bytes: float
) -> NDArray[np.int64]:
    """Of each prompt, the tokens that the named engine has in its cache; `served` by several, each has its own.

    -1: the engine refuses it, because it can never fit.
    """
    found = np.full(traffic.requests, -1, np.int64)
    simulate = simulator(name, token_bytes)
    for model in np.unique(served):
        found[served == model] = simulate(traffic.subset(served == model), capacity_tokens).hit_tokens
    return found


def expected(
    sent: Sent, machine: Machine, names: Sequence[str] = (), progress: Progress | None = None
) -> dict[str, dict[str, Any]]:
    """By engine: hit_tokens, hit_rate, capacity_tokens (null: unlimited), of all requests that are no warm-up.

    Without names all engines, but the slow models only up to LARGE tokens and MANY requests.
    """
    traffic = in_time(sent)
    here = machine.at(int(traffic.total.mean()))
    counted = ~sent.warmup
    whole = int(traffic.prompt[counted].sum())
    large = int(traffic.prompt.sum()) > LARGE or traffic.requests > MANY
    chosen = names or [name for name in ENGINES if not (large and name in SLOW)]
    found = {}
    for done, name in enumerate(chosen, 1):
        got = hits(traffic, sent.served, name, here.capacity_tokens, here.token_bytes)
        known = int(np.maximum(got, 0)[counted].sum())
        found[name] = {
            "hit_tokens": known,
            "hit_rate": known / whole if whole else None,
            "capacity_tokens": None if name == "infinite" else here.capacity_tokens,
        }
        if progress is not None:
            progress("engines' caches", done, len(chosen))
    return found
