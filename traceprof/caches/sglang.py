"""SGLang's prefix cache: a radix tree of pages (one token by default), evicted leaf by leaf.

Read in SGLang 0.5.23 (`srt/mem_cache/unified_radix_cache.py` and its tree core, `radix_cache.py` which came before,
`common.py`, `allocator/base.py`, `evict_policy.py`, `srt/managers/schedule_policy.py`, `scheduler.py`):

* A prompt hits at most its first n - 1 tokens. Looking up cuts a node where the match ends, and counts as access for
  all of the node that was cut.
* Requests that wait when a scheduling round begins are looked up, take room and are prefilled together, up to
  `--chunked-prefill-size` new tokens a round. Their prompts are inserted when the round's result is there: within a round
  nobody shares what others compute, and what is there twice is given back. Who arrives meanwhile waits for the next
  round, and finds it.
* Prompt and output are inserted when the request finishes, without the token sampled last. There the leaf is cut at the
  end of the prompt, whose part takes a priority higher by 1.
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
PREFILLS = ("batch", "admission", "first token")
CHUNK_TOKENS = 8192
QUANTUM = 16  # tokens of output that take their room at once
PRIORITIES = 1 << 25  # beyond them the order of eviction would overflow
ASSUMPTIONS = (
    "SGLang 0.5.23 with its defaults: radix cache on, pages of one token (some attention backends force 16 to 128), LRU",
    "one full-attention pool; no hierarchical cache, no speculative decoding, fcfs schedule",
    "requests that arrive at one instant are one prefill batch, in rounds of 8,192 tokens (80 GB cards), and do not share; later ones find their prompts",
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
    prefill: str = "batch",
    chunk_tokens: int = CHUNK_TOKENS,
    priority: I64 | None = None,
    quantum: int = QUANTUM,
) -> Outcome:
    """The traffic through a radix cache of capacity_tokens // page_size pages.

    prefill       "batch" as above, where a prefill takes no time; with "admission" each prompt is prefilled alone; with
                  "first token" alone, too, and in the tree from its first token on: as if nobody waited for a round
    chunk_tokens  new tokens that a round prefills: --chunked-prefill-size, 8,192 on an 80 GB card
    priority      [request] as given with it, less than 2^25 either way; 0 where nothing is said
    quantum       tokens of output that take their room at once; 1 is exact

    The first two come at once, the third before they have a token:

    >>> siblings = Traffic.of_lists([([1, 2, 3], [], 0, 100), ([1, 2, 3, 4], [], 0, 100), ([1, 2, 3, 5], [], 20, 80)])
    >>> [simulate(siblings, 100, prefill=how).hit_tokens.tolist() for how in PREFILLS]
    [[0, 0, 3], [0, 3, 3], [0, 0, 0]]
    """
    from traceprof.kernels.page_tree import sglang
    from traceprof.kernels.state import FIELDS

    n = traffic.requests
    given = np.zeros(n, np.int64) if priority is None else np.asarray(priority, np.int64)
    assert len(given) == n
    assert not n or abs(given).max() < PRIORITIES
    pages = capacity_tokens // page_size
    clock = traffic.clock(quantum=max(quantum, page_size), limit=pages * page_size)
    prefills = clock._replace(
        heap_time=np.empty(n, np.int64), heap_who=np.empty(n, np.int64), now=np.zeros(FIELDS, np.int64)
    )
    chunk = max(1, chunk_tokens // page_size)
    how, which = PREFILLS.index(prefill), POLICIES.index(policy)
    evicted = sglang(traffic.paths(), clock, prefills, how, chunk, page_size, pages, which, given)
    return Outcome.of(clock, int(evicted) * page_size)
