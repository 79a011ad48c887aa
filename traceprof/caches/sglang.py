"""SGLang's prefix cache: a radix tree of pages (one token by default), evicted leaf by leaf.

Read in SGLang 0.5.23 (`srt/mem_cache/unified_radix_cache.py` and its tree core, `radix_cache.py` which came before,
`common.py`, `allocator/base.py`, `evict_policy.py`, `srt/managers/schedule_policy.py`, `scheduler.py`):

* A prompt hits at most its first n - 1 tokens. Looking up cuts a node where the match ends, and counts as access for
  all of the node that was cut.
* A prompt is inserted when the result of its prefill is there, with its first token: those that are admitted before
  that compute the same once more, and give back what they have twice. Prompt and output are inserted when the request
  finishes, without the token sampled last. There the leaf is cut at the end of the prompt, whose part takes a priority
  higher by 1.
* A running request pins its path up to the root; what it holds beyond the tree is its own.
* Room is made only for what is missing, by whole leaf nodes: least recently used ("lru"), least often ("lfu"),
  inserted but once and then least recently ("slru"), lowest priority first ("priority").
* When the head of the queue finds no room, nobody is admitted until a request leaves.
* A request that is retracted gives its room back and leaves nothing new in the tree.
"""

from __future__ import annotations

import numpy as np

from traceprof.caches.traffic import I64, Outcome, Traffic

LABEL = "SGLang"
BLOCK_SIZE = 1
POLICIES = ("lru", "lfu", "slru", "priority")
PREFILLS = ("first token", "admission")
QUANTUM = 16  # tokens of output that take their room at once
PRIORITIES = 1 << 25  # beyond them the order of eviction would overflow
ASSUMPTIONS = (
    "SGLang 0.5.23 with its defaults: radix cache on, pages of one token (some attention backends force 16 to 128), LRU",
    "one full-attention pool; no hierarchical cache, no speculative decoding, fcfs schedule",
    "a prompt is prefilled in one piece and in the tree when its first token comes, by the log or as estimated",
    "outputs take their room 16 tokens at a time (SGLang: one by one), and room for outputs to come is not reserved",
    "the last request admitted is the first to be retracted, and the first to go on; SGLang retracts the one with the shortest output and queues it last",
    "prefixes of waiting requests are not touched (SGLang does so in every 32nd round)",
)


def simulate(
    traffic: Traffic,
    capacity_tokens: int,
    *,
    page_size: int = BLOCK_SIZE,
    policy: str = "lru",
    prefill: str = "first token",
    priority: I64 | None = None,
    quantum: int = QUANTUM,
) -> Outcome:
    """The traffic through a radix cache of capacity_tokens // page_size pages.

    prefill   when a prompt is in the tree: "first token" as in SGLang, or at "admission", as if prefill took no time
    priority  [request] as given with it, less than 2^25 either way; 0 where nothing is said
    quantum   tokens of output that take their room at once; 1 is exact

    The second prompt comes before the first one's first token, at 50; nothing is computed twice of the third:

    >>> siblings = Traffic.of_lists([([1, 2, 3], [], 0, 100), ([1, 2, 3, 4], [], 20, 120), ([1, 2, 3, 5], [], 60, 80)])
    >>> simulate(siblings, 100).hit_tokens.tolist(), simulate(siblings, 100, prefill="admission").hit_tokens.tolist()
    ([0, 0, 3], [0, 3, 3])
    """
    from traceprof.kernels.clock import FIELDS
    from traceprof.kernels.page_tree import sglang

    n = traffic.requests
    given = np.zeros(n, np.int64) if priority is None else np.asarray(priority, np.int64)
    assert len(given) == n
    assert not n or abs(given).max() < PRIORITIES
    pages = capacity_tokens // page_size
    clock = traffic.clock(quantum=max(quantum, page_size), limit=pages * page_size)
    prefills = clock._replace(
        heap_time=np.empty(n, np.int64), heap_who=np.empty(n, np.int64), now=np.zeros(FIELDS, np.int64)
    )
    late = int(PREFILLS.index(prefill) == 0)
    evicted = sglang(traffic.paths(), clock, prefills, late, page_size, pages, POLICIES.index(policy), given)
    return Outcome.of(clock, int(evicted) * page_size)
