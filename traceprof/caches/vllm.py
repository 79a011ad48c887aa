"""vLLM V1's prefix cache: full blocks under chained hashes, one queue of free blocks.

Read in vLLM 0.33.0 (`v1/core/block_pool.py`, `kv_cache_manager.py`, `single_type_kv_cache_manager.py`) and 0.21.0:

* A block is cached once it is full, prompt blocks when the request is scheduled, before the forward pass, generated
  ones as they fill. The token sampled last has no KV.
* A prompt hits at most floor((n - 1) / block) blocks: one token must be computed, and a block is the unit.
* Blocks of running requests are pinned. Freed blocks keep their content and queue up, a request's last block first, so
  that a prefix shrinks from its end. Taking a block from the front of the queue evicts what it was cached for.
* Equal blocks are not merged: both stay, and a lookup finds the one that was cached first.
* Since a release between 0.21 and 0.32 freed blocks that are cached for nothing are used again first ("prepend");
  before, they queued up like all others ("append").
* Block 0 is never used. Requests that find no room for their whole prompt (`scheduler_reserve_full_isl`) wait, first come
  first served, and nothing is kept free for those that run (`watermark` 0); a running request that finds no room throws
  out the one that was admitted last (`v1/core/sched/scheduler.py`).
* A block of generated tokens can be found from the next token on, as with `AsyncScheduler`, which plans a step before the
  tokens of the one before it are known; the plain scheduler lets it be found one token earlier.
"""

from __future__ import annotations

from traceprof.caches.traffic import Outcome, Traffic

LABEL = "vLLM"
BLOCK_SIZE = 16
ASSUMPTIONS = (
    "vLLM 0.33 with its defaults: prefix caching on, blocks of 16 (MLA, FlashInfer and hybrid models take larger ones)",
    "one group of full-attention layers; no speculative decoding, no connector, no prompt_logprobs",
    "a prompt is scheduled in one piece, and as many requests run at once as have room: no --max-num-seqs, no token budget",
    "first come first served; scheduler_reserve_full_isl on, watermark 0, as by default",
)


def simulate(
    traffic: Traffic, capacity_tokens: int, *, block_size: int = BLOCK_SIZE, free_order: str = "prepend"
) -> Outcome:
    """The traffic through a block pool of capacity_tokens // block_size blocks.

    free_order is "prepend" (0.32, 0.33) or "append" (0.21). A fully known prompt of whole blocks computes its last one:

    >>> twice = Traffic.of_lists([([1, 2, 3, 4], [], 0, 1), ([1, 2, 3, 4], [], 2, 3), ([1, 2, 3, 4, 5], [], 4, 5)])
    >>> simulate(twice, 100, block_size=2).hit_tokens.tolist()
    [0, 2, 4]
    """
    from traceprof.kernels.block_pool import block_pool

    assert free_order in ("prepend", "append")
    total = max(1, capacity_tokens // block_size)
    clock = traffic.clock(quantum=block_size, limit=(total - 1) * block_size)
    evicted = block_pool(traffic.paths(), clock, block_size, total, int(free_order == "prepend"))
    return Outcome.of(clock, int(evicted) * block_size)
