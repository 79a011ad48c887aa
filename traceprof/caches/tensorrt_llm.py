"""TensorRT-LLM's prefix cache: a tree of blocks of 32, evicted by priority and then least recently used, with partial reuse.

Read in TensorRT-LLM's C++ manager (`cpp/tensorrt_llm/batch_manager/evictionPolicy.cpp`, `kvCacheManager.cpp`, commit
05a9191) and `docs/source/features/kvcache.md`; its Python manager "v2", which some models prefer, differs.

* Blocks enter the tree as they are filled. Where an equal block is there already the old one stays in the tree.
* All requests have the default retention priority, so the queue of free blocks is plain LRU by release, a request's
  last block first: only leaves reach its front.
* `enable_partial_reuse` (default): of the first block that does not match as a whole, the tokens that do are copied.
  So a hit is counted in tokens, up to n - 1: one token must be computed.
"""

from __future__ import annotations

from traceprof.caches.traffic import Outcome, Traffic

LABEL = "TensorRT-LLM"
BLOCK_SIZE = 32
ASSUMPTIONS = (
    "the C++ block manager with its defaults: block reuse and partial reuse on, blocks of 32 tokens, no host cache",
    "every request has the default retention priority (35); a block that matches in part is copied, not taken over",
    "read from source and held against a slow twin; no TensorRT-LLM runs without an NVIDIA GPU",
)


def simulate(
    traffic: Traffic, capacity_tokens: int, *, block_size: int = BLOCK_SIZE, partial_reuse: bool = True
) -> Outcome:
    """The traffic through a pool of capacity_tokens // block_size blocks.

    >>> two = Traffic.of_lists([([1, 2, 3, 4], [], 0, 1), ([1, 2, 3, 9], [], 2, 3)])
    >>> simulate(two, 100, block_size=2).hit_tokens.tolist()
    [0, 3]
    """
    from traceprof.kernels.block_pool import KEEP_OLD, block_pool

    total = capacity_tokens // block_size + 1  # the pool never uses its block 0
    clock = traffic.clock(quantum=block_size, limit=(total - 1) * block_size)
    evicted = block_pool(
        traffic.paths(), clock, block_size, total, prepend=1, equal=KEEP_OLD, partial=int(partial_reuse)
    )
    return Outcome.of(clock, int(evicted) * block_size)
