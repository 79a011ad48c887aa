"""vllm-mlx: whole sequences in RAM, least recently used first to go.

Read in vllm-mlx (`vllm_mlx/memory_cache.py`, commit 007286d, MemoryAwarePrefixCache):

* A prompt is kept when it is computed, and sequences that it begins with go; prompt and answer are kept beside it when
  the request ends.
* A prompt takes the longest sequence that begins with it; else the longest that it begins with; else, and only else,
  the longest common prefix. What was taken is the last to go.
* A fifth of the free memory; a sequence larger than that is not kept.
"""

from __future__ import annotations

from traceprof.caches.traffic import Outcome, Traffic

LABEL = "vllm-mlx"
BLOCK_SIZE = 1
ASSUMPTIONS = (
    "vllm-mlx with its defaults; the KV memory given here is what its cache may take (by default 20 % of free memory)",
    "of sequences equally near, the one used last is taken; no paged cache, no SSD tier",
    "read from source and held against a slow twin; it runs on Apple silicon only",
)


def simulate(traffic: Traffic, capacity_tokens: int) -> Outcome:
    """The traffic against a store of capacity_tokens.

    >>> chat = Traffic.of_lists([([1, 2, 3], [4, 5], 0, 1), ([1, 2, 3, 4, 6], [], 2, 9), ([1, 2, 9], [], 3, 9)])
    >>> simulate(chat, 100).hit_tokens.tolist()
    [0, 4, 2]
    """
    from traceprof.kernels.clock import UNLIMITED
    from traceprof.kernels.entries import VLLM_MLX, sequences

    clock = traffic.clock(quantum=UNLIMITED, limit=UNLIMITED)
    dropped = sequences(traffic.paths(), clock, VLLM_MLX, UNLIMITED, capacity_tokens)
    return Outcome.of(clock, int(dropped))
