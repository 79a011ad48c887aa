"""TGI's prefix cache: a radix trie of prompts, one token a block.

Read in TGI 3 (`backends/v3/src/radix.rs`, `block_allocator.rs`, `queue.rs`):

* Room for the prompt and everything that may be generated is taken when a request is scheduled.
* Only prompts are kept, and only once their request has ended: answers never, and requests that run side by side do
  not share. So a follow-up turn finds what an earlier prompt held, not the answer to it.
* A prompt that is known to its end computes its last token.
* The oldest leaf gives way, from its end, as far as room is needed.
"""

from __future__ import annotations

from traceprof.caches.traffic import Outcome, Traffic

LABEL = "TGI"
BLOCK_SIZE = 1
ASSUMPTIONS = (
    "TGI 3 with its defaults: flashinfer, blocks of one token (flashdecoding takes 256; off for vision models and LoRA)",
    "max_new_tokens is what was generated: TGI takes room for all that a request may generate",
    "what a running request uses is not evicted (TGI does not protect a node that is matched only in part)",
    "read from source and held against a slow twin; TGI is not to be had as a package",
)


def simulate(traffic: Traffic, capacity_tokens: int, *, block_size: int = BLOCK_SIZE) -> Outcome:
    """The traffic through a trie of capacity_tokens // block_size blocks.

    >>> chat = Traffic.of_lists([([1, 2, 3], [4, 5], 0, 1), ([1, 2, 3, 4, 5, 6], [], 2, 3)])
    >>> simulate(chat, 100).hit_tokens.tolist()
    [0, 3]
    """
    from traceprof.kernels.clock import UNLIMITED
    from traceprof.kernels.page_tree import tgi

    blocks = capacity_tokens // block_size
    clock = traffic.clock(quantum=UNLIMITED, limit=blocks * block_size)
    evicted = tgi(traffic.paths(), clock, block_size, blocks)
    return Outcome.of(clock, int(evicted) * block_size)
