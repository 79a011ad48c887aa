"""The ideal of a finite cache: LRU token by token, with nothing pinned."""

from __future__ import annotations

from traceprof.caches.traffic import Outcome, Traffic

LABEL = "LRU, token by token"
BLOCK_SIZE = 1
ASSUMPTIONS = (
    "running requests pin nothing, so none ever waits",
    "an output is there once its request ended",
)


def simulate(traffic: Traffic, capacity_tokens: int, *, outputs: bool = True) -> Outcome:
    """The least recently used token goes first, of one request the last; running requests pin nothing.

    Without outputs this is what the miss-ratio curve says at that capacity, token for token.

    >>> simulate(Traffic.of_lists([([1, 2, 3], [], 0, 5), ([4, 5], [], 6, 7), ([1, 2, 3], [], 8, 9)]), 4).hit_tokens.tolist()
    [0, 0, 2]
    """
    from traceprof.kernels.ideals import lru
    from traceprof.kernels.state import UNLIMITED

    clock = traffic.clock(quantum=UNLIMITED, limit=UNLIMITED)
    evicted = lru(traffic.paths(), clock, int(outputs), capacity_tokens)
    return Outcome(clock.hits, int(evicted), 0, 0)
