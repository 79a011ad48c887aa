"""Engines' prefix caches for requests that are not known in advance: what `traceprof.caches` models, one call at a time.

A cache is an object that is told what its scheduler does:

    admit(job, length)     tokens of the prompt that it has, or None where there is no room for `length` tokens: the job waits
    room()                 all that are to be computed in this step are admitted
    computed(job, length)  so many tokens of the job have been computed
    grow(job, length)      whether there is room for that many; None of the job's tokens is lost if not
    release(job, ended)    the job's memory is free; `ended` is False where it lost it to another
    flush()                forget everything; whether that could be done

`job.sequence(n)` are its first n tokens as bytes, TOKEN_BYTES each, `job.root` what parts caches (a salt), `job.held` how many
of its tokens have KV now and `job.final` how many will have. Each is as its model in `traceprof.caches`, but that oMLX's
evicts prefixes from their ends.
"""

from __future__ import annotations

from collections.abc import Callable

from traceprof.caches import ollama, omlx, vllm
from traceprof.errors import UsageError
from traceprof.simulate.live_caches.base import TOKEN_BYTES, Cache, Holder
from traceprof.simulate.live_caches.blocks import Blocks
from traceprof.simulate.live_caches.partial import Partial
from traceprof.simulate.live_caches.radix import Radix
from traceprof.simulate.live_caches.sequences import Recent, Sequences
from traceprof.simulate.live_caches.slots import RAM_TOKENS, Slots
from traceprof.simulate.live_caches.tries import BlockTrie, PromptTrie

__all__ = ["TOKEN_BYTES", "Cache", "Holder", "Slots", "live_cache"]
SSD_TOKENS = 762_939  # oMLX's tenth of a 1 TB SSD, in tokens of Llama-3.1-8B


def live_cache(engine: str, capacity_tokens: int, **options: int) -> Cache:
    """The cache of an engine with that many tokens of KV; options as those of its model in `traceprof.caches`.

    >>> live_cache("vllm", 1024).limit, live_cache("vllm", 1024, block_size=32).limit
    (1008, 992)
    """
    if engine not in _CACHES:
        raise UsageError(f"no live cache of {engine} is known", remedy="one of " + ", ".join(_CACHES))
    try:
        return _CACHES[engine](capacity_tokens, **options)
    except TypeError:
        raise UsageError(f"the cache of {engine} has no option {', '.join(options)}") from None


def _vllm(tokens: int, block_size: int = vllm.BLOCK_SIZE) -> Cache:
    return Blocks(tokens, block_size)


def _omlx(tokens: int, block_size: int = omlx.BLOCK_SIZE, ssd_tokens: int = SSD_TOKENS) -> Cache:
    made = Blocks(ssd_tokens, block_size, at_end=True)
    made.limit = min(made.limit, tokens)
    return made


def _ollama(tokens: int, num_parallel: int = ollama.NUM_PARALLEL, ram_tokens: int = RAM_TOKENS) -> Cache:
    return Slots(tokens, num_parallel, unified=0, ram_tokens=ram_tokens)


_CACHES: dict[str, Callable[..., Cache]] = {
    "vllm": _vllm, "sglang": Radix, "tensorrt_llm": Partial, "tgi": PromptTrie, "lmdeploy": BlockTrie, "llamacpp": Slots,
    "ollama": _ollama, "mlx_lm": Sequences, "vllm_mlx": Recent, "omlx": _omlx,
}  # fmt: skip
