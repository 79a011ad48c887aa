"""LMDeploy's prefix cache: a trie of blocks of 64, off unless asked for.

Read in LMDeploy 0.18.0 (`pytorch/paging/block_trie/`, `block_manager/`, `eviction_helper/`, `prefill_scheduler.py`):

* A prompt's full blocks are in the trie as soon as it is admitted; a sequence whose block is there already takes that
  one and frees its own.
* A block can be reused only if it ends before the prompt's last token: one token must be computed.
* Room is taken `prefill_interval` tokens ahead. Only when a sequence has used up its room it takes more, and only then
  the blocks that it has filled meanwhile enter the trie: the last block of an answer often never does.
* Leaves that only the trie holds are evicted, those released longest ago first. An attempt that fails for want of room
  has evicted all of them, but for the prefix that it matched.
"""

from __future__ import annotations

from traceprof.caches.traffic import Outcome, Traffic

LABEL = "LMDeploy"
BLOCK_SIZE = 64
PREFILL_INTERVAL = 16
ASSUMPTIONS = (
    "LMDeploy 0.18 with --enable-prefix-caching, which is off by default: without it the hit rate is 0",
    "the PyTorch engine with blocks of 64 and prefill_interval 16; TurboMind has rules of its own",
    "a prompt is prefilled in one piece; one block is reserved, as LMDeploy does for its dummy inputs",
    "times of access are exact; LMDeploy keeps them in whole seconds, within which its order is arbitrary",
    "the last request admitted is the first to be preempted; LMDeploy preempts the one that finds no room to grow",
)


def simulate(
    traffic: Traffic,
    capacity_tokens: int,
    *,
    block_size: int = BLOCK_SIZE,
    prefill_interval: int = PREFILL_INTERVAL,
) -> Outcome:
    """The traffic through a pool of capacity_tokens // block_size blocks, of which one is reserved.

    >>> twice = Traffic.of_lists([([1, 2, 3, 4], [], 0, 1), ([1, 2, 3, 4], [], 2, 3)])
    >>> simulate(twice, 100, block_size=2).hit_tokens.tolist()
    [0, 2]
    """
    from traceprof.kernels.lmdeploy import lmdeploy

    total = max(1, capacity_tokens // block_size)
    clock = traffic.clock(quantum=block_size, limit=(total - 1) * block_size - prefill_interval)
    evicted = lmdeploy(traffic.paths(), clock, block_size, total, prefill_interval)
    return Outcome.of(clock, int(evicted) * block_size)
