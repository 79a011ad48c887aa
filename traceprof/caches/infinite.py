"""The ceiling: a cache that forgets nothing."""

from __future__ import annotations

import numpy as np

from traceprof.caches.traffic import I64, Outcome, Traffic

LABEL = "infinite cache"
BLOCK_SIZE = 1
ASSUMPTIONS = ("nothing is ever thrown out, nothing waits", "an output is there once its request ended")


def simulate(traffic: Traffic, capacity_tokens: int | None = None) -> Outcome:
    """Everything stays: a prompt from its arrival, what an engine has of its output from the request's end.

    >>> simulate(Traffic.of_lists([([1, 2, 3], [7, 8], 0, 5), ([1, 2, 3, 7, 8, 9], [], 6, 8)])).hit_tokens.tolist()
    [0, 4]
    """
    return Outcome(_run(traffic, unsampled=1), 0, 0, 0)


def hits_with_outputs(traffic: Traffic) -> I64:
    """Hit tokens of each prompt where the whole output counts, the token sampled last included.

    >>> hits_with_outputs(Traffic.of_lists([([1, 2, 3], [7, 8], 0, 5), ([1, 2, 3, 7, 8, 9], [], 6, 8)])).tolist()
    [0, 5]
    """
    return _run(traffic, unsampled=0)


def hits_in_groups(traffic: Traffic, group: I64) -> I64:
    """Hit tokens of each prompt against earlier prompts of its own group; requests of group -1 take no part and have 0.

    >>> three = Traffic.of_lists([([1, 2], [], 0, 1), ([1, 2], [], 2, 3), ([1, 2, 3], [], 4, 5)])
    >>> hits_in_groups(three, np.array([0, 1, 0])).tolist()
    [0, 0, 2]
    """
    from traceprof.kernels.ideals import in_groups

    order = np.argsort(group, kind="stable")
    hits = np.zeros(traffic.requests, np.int64)
    in_groups(traffic.paths(), traffic.prompt, order[group[order] >= 0], group, hits)
    return hits


def _run(traffic: Traffic, unsampled: int) -> I64:
    from traceprof.kernels.ideals import infinite
    from traceprof.kernels.state import UNLIMITED

    clock = traffic.clock(quantum=UNLIMITED, limit=UNLIMITED)
    infinite(traffic.paths(), clock, unsampled)
    return clock.hits
