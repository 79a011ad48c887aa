"""vllm-mlx: whole sequences in RAM, least recently used first to go.

Read in vllm-mlx 0.6.0 (`memory_cache.py` MemoryAwarePrefixCache, `scheduler.py`):

* A finished request's prompt and answer are kept, to the last token, beside the sequences that they begin with. Its
  prompt is there for others only then.
* A prompt takes a sequence that equals it or begins with it; else, and only else, the longest that it begins with; else
  what it has in common with the nearest. What was taken is the last to go.
* Sequences of less than 128 tokens are not kept, nor prompts of less looked up, nor less than that in common used.
* A fifth of the free memory, and 1,000 sequences; a sequence larger than that is not kept.
"""

from __future__ import annotations

from traceprof.caches.traffic import Outcome, Traffic

LABEL = "vllm-mlx"
BLOCK_SIZE = 1
SEQUENCES = 1000
SHORTEST = 128
ASSUMPTIONS = (
    "vllm-mlx 0.6.0 with --continuous-batching and its defaults otherwise: no chunked prefill, no paged cache, no SSD tier",
    "the KV memory given here is what its cache may take (by default 20 % of free memory)",
    "of sequences equally near the one used last is taken; vllm-mlx takes a neighbour in the order of token ids",
    "full attention: what cannot be trimmed (recurrent models) is reused only as a whole",
)


def simulate(
    traffic: Traffic, capacity_tokens: int, *, sequences: int = SEQUENCES, shortest: int = SHORTEST
) -> Outcome:
    """The traffic against a store of so many sequences, of capacity_tokens together.

    A sequence that the prompt begins with is preferred to a longer way along another one:

    >>> a, b = ([1, 2], [], 0, 1), ([1, 2, 3, 4, 5], [], 2, 3)
    >>> simulate(Traffic.of_lists([a, b, ([1, 2, 3, 4, 6], [], 4, 5)]), 100, shortest=1).hit_tokens.tolist()
    [0, 2, 2]
    """
    from traceprof.kernels.state import UNLIMITED
    from traceprof.kernels.vllm_mlx import vllm_mlx

    assert shortest > 0
    clock = traffic.clock(quantum=UNLIMITED, limit=UNLIMITED)
    dropped = vllm_mlx(traffic.paths(), clock, sequences, capacity_tokens, shortest)
    return Outcome.of(clock, int(dropped))
