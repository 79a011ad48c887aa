"""LMDeploy's prefix cache: a trie of blocks of 64, off unless asked for.

Read in LMDeploy 0.18.0 (`pytorch/paging/block_trie/`, `pytorch/paging/block_manager/`):

* A block is in the trie once it is full; a request whose block is there already takes that one and frees its own.
* A block can be reused only if it ends before the prompt's last token: one token must be computed.
* Leaves that only the trie holds are evicted, least recently used first; matching, allocating and freeing count as use.
"""

from __future__ import annotations

from traceprof.caches.traffic import Outcome, Traffic

LABEL = "LMDeploy"
BLOCK_SIZE = 64
ASSUMPTIONS = (
    "LMDeploy 0.18 with --enable-prefix-caching, which is off by default: without it the hit rate is 0",
    "the PyTorch engine with blocks of 64; TurboMind has rules of its own for generated blocks",
    "times of access are exact; LMDeploy keeps them in whole seconds, within which its order is arbitrary",
)


def simulate(traffic: Traffic, capacity_tokens: int, *, block_size: int = BLOCK_SIZE) -> Outcome:
    """The traffic through a pool of capacity_tokens // block_size blocks.

    >>> twice = Traffic.of_lists([([1, 2, 3, 4], [], 0, 1), ([1, 2, 3, 4], [], 2, 3)])
    >>> simulate(twice, 100, block_size=2).hit_tokens.tolist()
    [0, 2]
    """
    from traceprof.kernels.block_pool import SHARE_ONE, block_pool

    total = capacity_tokens // block_size + 1  # the pool never uses its block 0
    clock = traffic.clock(quantum=block_size, limit=(total - 1) * block_size)
    evicted = block_pool(traffic.paths(), clock, block_size, total, prepend=1, equal=SHARE_ONE, partial=0)
    return Outcome.of(clock, int(evicted) * block_size)
