"""vllm-mlx's own MemoryAwarePrefixCache under our clock; run by an interpreter with MLX, see `oracle.answers`."""

import json
import sys

import mlx.core as mx
from drive import Request, drive
from mlx_lm.models.cache import KVCache
from vllm_mlx.memory_cache import MemoryAwarePrefixCache, MemoryCacheConfig

BYTES = 2  # of a token: a key and a value of one byte


def layer(tokens):
    """A KV cache of that many tokens, full."""
    made = KVCache()
    made.keys = made.values = mx.zeros((1, 1, tokens, 1), mx.int8)
    made.offset = tokens
    return made


class Server:
    """What `scheduler.py` does with the cache, without chunked prefill."""

    def __init__(self, most, room, shortest):
        self.cache = MemoryAwarePrefixCache(
            None, MemoryCacheConfig(max_entries=most, min_prefix_tokens=shortest)
        )
        self.cache._max_memory = room * BYTES

    def admit(self, request, length):
        prompt = self._tokens(request, length)
        found, remaining = self.cache.fetch(prompt)
        hit = len(prompt) - len(remaining)
        return hit if found else 0

    def grow(self, request, length):
        return True

    def release(self, request, ended):
        tokens = self._tokens(request, len(request.tokens))
        self.cache.store(tokens, [layer(len(tokens))], evict_prefixes=False)

    def _tokens(self, request, length):
        # another root is another first token, at whose cost the clock does not look: roots are 0 here
        assert request.root == 0
        return list(request.tokens[:length])


for line in sys.stdin:
    asked = json.loads(line)
    requests = [Request(r[0], tuple(r[1]), tuple(r[2]), *r[3:]) for r in asked["requests"]]
    model = Server(asked["most"], asked["room"], asked["shortest"])
    done = drive(requests, model, 1 << 60)
    kept = sum(len(tokens) for tokens in model.cache._entries)
    assert kept * BYTES == model.cache._current_memory
    print(json.dumps({"hits": done.hits, "kept": kept}))
