"""Ollama: one llama.cpp server a model, one request at a time unless told otherwise.

Read in Ollama 0.33 (`llm/llama_server.go`): GGUF models run in a child `llama-server` with `-np OLLAMA_NUM_PARALLEL`, 1 by
default, which leaves slots a KV cache of their own each, and llama.cpp's defaults for the rest.
"""

from __future__ import annotations

from traceprof.caches import llamacpp
from traceprof.caches.traffic import Outcome, Traffic

LABEL = "Ollama"
BLOCK_SIZE = 1
NUM_PARALLEL = 1
ASSUMPTIONS = (
    "Ollama 0.33 with a GGUF model and its defaults: OLLAMA_NUM_PARALLEL 1, --cache-ram 8192",
    "OLLAMA_CONTEXT_LENGTH is all the KV memory: by default it is 4k to 256k, and longer prompts are cut",
    "the model stays loaded: by default it is unloaded, cache and all, after 5 idle minutes",
)
sized = llamacpp.sized


def simulate(
    traffic: Traffic, capacity_tokens: int, *, num_parallel: int = NUM_PARALLEL, ram_tokens: int = 65_536
) -> Outcome:
    """The traffic through one server with num_parallel slots.

    >>> chat = Traffic.of_lists([([1, 2, 3], [4, 5], 0, 10), ([1, 2, 3, 4, 6], [], 2, 9)])
    >>> found = simulate(chat, 100)
    >>> found.hit_tokens.tolist(), found.waited
    ([0, 4], 1)
    """
    return llamacpp.simulate(
        traffic, capacity_tokens, slots=num_parallel, unified=False, ram_tokens=ram_tokens
    )
