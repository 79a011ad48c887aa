"""The ceiling: a cache that forgets nothing."""

from __future__ import annotations

from traceprof.caches.traffic import Outcome, Traffic

LABEL = "infinite cache"
BLOCK_SIZE = 1


def simulate(traffic: Traffic, *, outputs: bool = True) -> Outcome:
    """Everything stays: a prompt from its arrival, its output, where the trace knows it, from the request's end.

    >>> infinite = simulate(Traffic.of_lists([([1, 2, 3], [7, 8], 0, 5), ([1, 2, 3, 7, 9], [], 6, 8)]))
    >>> infinite.hit_tokens.tolist()
    [0, 4]
    """
    from traceprof.kernels.clock import UNLIMITED
    from traceprof.kernels.ideals import infinite

    clock = traffic.clock(quantum=UNLIMITED, limit=UNLIMITED)
    infinite(traffic.paths(), clock, int(outputs))
    return Outcome(clock.hits, 0, 0, 0)
