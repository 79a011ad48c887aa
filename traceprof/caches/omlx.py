"""oMLX: full blocks of 256 tokens on an SSD; nothing is kept in memory by default.

Read in oMLX (`omlx/cache/prefix_cache.py` 06591b78, `paged_cache.py` and `paged_ssd_cache.py` a4b6bf08, `scheduler.py`):

* A finished request writes its full blocks, prompt and answer without the token sampled last. A half-filled block is lost.
* A prompt reads its blocks from the first one on until one is missing. If that is all of the prompt, its last token is
  computed again.
* The SSD evicts the block that was written or read longest ago. Reading and writing go from the front, so a prefix loses
  its first block first, and what lies behind it takes room that nobody can use.
* An index in memory knows blocks that are gone. It forgets one when reading it fails; before that it is not written again.
"""

from __future__ import annotations

from traceprof.caches.traffic import Outcome, Traffic

LABEL = "oMLX"
BLOCK_SIZE = 256
SSD_BYTES = 100 * 10**9  # a tenth of a 1 TB SSD
ASSUMPTIONS = (
    "oMLX with its defaults: blocks of 256, a tenth of a 1 TB SSD, no cache in memory (hot_cache_max_size 0)",
    "models of full attention only; hybrid ones take blocks of 2,048 or 4,096 and keep states",
    "requests do not wait: oMLX runs 8 at a time, and looks for their prompts when they arrive",
    "the KV memory given here holds running requests only; the limit of 100,000 known blocks is left out",
    "read from source and held against a slow twin; oMLX runs on Apple silicon only, and its versions differ",
)


def sized(token_bytes: float) -> dict[str, int]:
    """Options that depend on the model: the SSD in tokens."""
    return {"ssd_tokens": int(SSD_BYTES / token_bytes)}


def simulate(
    traffic: Traffic, capacity_tokens: int, *, ssd_tokens: int = 762_939, block_size: int = BLOCK_SIZE
) -> Outcome:
    """The traffic against an SSD of ssd_tokens (by default of Llama-3.1-8B), rounded up to blocks.

    >>> chat = Traffic.of_lists([([1, 2, 3], [4, 5, 6], 0, 1), ([1, 2, 3, 4], [], 2, 3), ([1, 2, 3, 4, 5, 9], [], 4, 5)])
    >>> simulate(chat, 100, block_size=2).hit_tokens.tolist()
    [0, 3, 4]
    """
    from traceprof.kernels.omlx import omlx
    from traceprof.kernels.state import UNLIMITED

    clock = traffic.clock(quantum=UNLIMITED, limit=capacity_tokens)
    evicted = omlx(traffic.paths(), clock, block_size, -(-ssd_tokens // block_size))
    return Outcome.of(clock, int(evicted) * block_size)
