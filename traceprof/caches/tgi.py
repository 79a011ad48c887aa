"""TGI's prefix cache: a radix trie of prompts, one token a block.

Read in TGI 3.3.7 (`backends/v3/src/radix.rs`, `block_allocator.rs`, `queue.rs`):

* Room for the prompt and everything that may be generated is taken when a request is scheduled.
* Only prompts are kept, and only once their request has ended: answers never, and requests that run side by side do
  not share. So a follow-up turn finds what an earlier prompt held, not the answer to it.
* A prompt that is known to its end computes its last token, and is not inserted again.
* A request holds the node in which its match ends, all of it. The leaf used longest ago gives way, from its end, as far
  as room is needed. An attempt that fails for want of room has thrown out every leaf that it could.
"""

from __future__ import annotations

from traceprof.caches.traffic import Outcome, Traffic

LABEL = "TGI"
BLOCK_SIZE = 1
ASSUMPTIONS = (
    "TGI 3.3 with its defaults: flashinfer, blocks of one token (flashdecoding takes 256; off for vision models and LoRA)",
    "max_new_tokens is what was generated: TGI takes room for all that a request may generate",
    "a prompt is prefilled in one piece, and no budget of prefill tokens holds it back; block 0 is reserved",
)


def simulate(traffic: Traffic, capacity_tokens: int, *, block_size: int = BLOCK_SIZE) -> Outcome:
    """The traffic through a trie over capacity_tokens // block_size blocks, of which one is reserved.

    >>> chat = Traffic.of_lists([([1, 2, 3], [4, 5], 0, 1), ([1, 2, 3, 4, 5, 6], [], 2, 3)])
    >>> simulate(chat, 100).hit_tokens.tolist()
    [0, 3]
    """
    from traceprof.kernels.state import UNLIMITED
    from traceprof.kernels.tgi import tgi

    blocks = max(0, capacity_tokens // block_size - 1)
    clock = traffic.clock(quantum=UNLIMITED, limit=blocks * block_size)
    evicted = tgi(traffic.paths(), clock, block_size, blocks)
    return Outcome.of(clock, int(evicted) * block_size)
