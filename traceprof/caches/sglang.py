"""SGLang's prefix cache: a radix tree of pages (one token by default), evicted leaf by leaf.

Read in SGLang 0.5.23 (`srt/mem_cache/radix_cache.py`, `common.py`, `allocator/base.py`, `evict_policy.py`):

* A prompt hits at most its first n - 1 tokens. Looking up cuts a node where the match ends, and counts as access for
  all of the node that was cut.
* A prompt is inserted when its prefill is done, prompt and output when the request finishes, without the token sampled
  last. There the leaf is cut at the end of the prompt, whose part takes priority 1.
* A running request pins its path up to the root; what it holds beyond the tree is its own.
* Room is made only for what is missing, by whole leaf nodes: least recently used ("lru"), least often ("lfu"),
  inserted but once and then least recently ("slru"), lowest priority first ("priority").
* A request that is retracted gives its room back and leaves nothing new in the tree.
"""

from __future__ import annotations

from traceprof.caches.traffic import Outcome, Traffic

LABEL = "SGLang"
BLOCK_SIZE = 1
POLICIES = ("lru", "lfu", "slru", "priority")
QUANTUM = 16  # tokens of output that take their room at once
ASSUMPTIONS = (
    "SGLang 0.5.23 with its defaults: radix cache on, pages of one token (some attention backends force 16 to 128), LRU",
    "one full-attention pool; no hierarchical cache, no speculative decoding, fcfs schedule",
    "a prompt is prefilled in one piece and in the tree at once; outputs take their room 16 tokens at a time",
    "the last request admitted is the first to be retracted; room for outputs to come is not reserved",
)


def simulate(
    traffic: Traffic, capacity_tokens: int, *, page_size: int = BLOCK_SIZE, policy: str = "lru"
) -> Outcome:
    """The traffic through a radix cache of capacity_tokens // page_size pages.

    >>> twice = Traffic.of_lists([([1, 2, 3, 4], [], 0, 1), ([1, 2, 3, 4], [], 2, 3), ([1, 2, 9], [], 4, 5)])
    >>> simulate(twice, 100).hit_tokens.tolist()
    [0, 3, 2]
    """
    from traceprof.kernels.page_tree import sglang

    pages = capacity_tokens // page_size
    clock = traffic.clock(quantum=max(QUANTUM, page_size), limit=pages * page_size)
    evicted = sglang(traffic.paths(), clock, page_size, pages, POLICIES.index(policy))
    return Outcome.of(clock, int(evicted) * page_size)
