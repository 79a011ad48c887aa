"""TensorRT-LLM's prefix cache: a tree of blocks of 32 whose last may be partly filled, and partial reuse.

Read in TensorRT-LLM's C++ manager, "V1" (`cpp/tensorrt_llm/batch_manager/kvCacheManager.cpp`, `evictionPolicy.cpp`, with
the lookup tree of early 2026), and where its PyTorch backend calls it (`_torch/pyexecutor/resource_manager.py`):

* A request is admitted when there is room for its prompt and all that it may generate (GUARANTEED_NO_EVICT, the
  default): it waits for that, but is never thrown out later. Blocks that running requests hold count as there.
* A prompt's full blocks enter the tree when its prefill is done; what was generated, and the last block, though it is not
  full, when the request ends. Where an equal block is there the old one stays, and the request's own is known for nothing.
* A lookup takes the prompt without its last token, block by block. Of the first block that does not match as a whole it
  takes the tokens that do (`enable_partial_reuse`): a block that is in use or not a leaf is copied; a leaf that nobody
  uses is taken out of the tree and over, and with it goes what else it held.
* Free blocks queue up at release, a request's last block first, those known for nothing as all others (all requests have
  the same retention priority). A block that is used again takes all behind it out of the tree.
"""

from __future__ import annotations

from traceprof.caches.traffic import Outcome, Traffic

LABEL = "TensorRT-LLM"
BLOCK_SIZE = 32
ASSUMPTIONS = (
    "the C++ block manager (V1) under the PyTorch backend, blocks of 32 tokens, block reuse and partial reuse on, no host cache",
    "scheduler GUARANTEED_NO_EVICT, which is the default; some models prefer the block manager V2, which differs",
    "max_tokens is what was generated: a request is admitted when all of it fits",
    "every request has the default retention priority; a prompt is prefilled in one piece and in the tree at once",
    "of blocks that match equally far the one stored last is taken, where TensorRT-LLM's choice is arbitrary",
    "read from source and held against a slow twin; no TensorRT-LLM runs without an NVIDIA GPU",
)


def simulate(
    traffic: Traffic, capacity_tokens: int, *, block_size: int = BLOCK_SIZE, partial_reuse: bool = True
) -> Outcome:
    """The traffic through capacity_tokens // block_size blocks.

    >>> two = Traffic.of_lists([([1, 2, 3, 4], [], 0, 1), ([1, 2, 3, 9], [], 2, 3)])
    >>> simulate(two, 100, block_size=2).hit_tokens.tolist()
    [0, 3]
    """
    from traceprof.kernels.tensorrt_llm import tensorrt_llm

    total = capacity_tokens // block_size
    clock = traffic.clock(quantum=block_size, limit=total * block_size - 1)
    evicted = tensorrt_llm(traffic.paths(), clock, block_size, total, int(partial_reuse))
    return Outcome.of(clock, int(evicted))
