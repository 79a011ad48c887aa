"""How each engine makes up a step: who decodes, whose prompt is computed, how many at once.

An engine repeats steps. In a step every running sequence yields one token ("decode"), or pieces of waiting prompts are computed
("prefill"), or both ("mixed"), up to so many tokens. Requests are admitted first come first served. Defaults as each engine
has them on a card of that memory; read in the versions that docs/engines.md names.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from traceprof.errors import UsageError

GIB = 1 << 30
NO_LIMIT = 1 << 30


class Scheduler(NamedTuple):
    """Tokens and sequences of one step."""

    engine: str  # as in traceprof.caches
    max_seqs: int  # sequences that run at once
    step_tokens: int  # tokens computed in a step, decoding sequences included where it is mixed
    chunk_tokens: int  # of them, those of prompts
    mixed: bool  # decode and prefill in one step; else steps of prompts go first and decoding waits
    prefill_seqs: int = NO_LIMIT  # prompts that are computed at the same time
    source: str = ""  # where the figures are from


def scheduler(engine: str, memory_bytes: int = 80 * GIB, **changes: Any) -> Scheduler:
    """An engine's own defaults on a card with that much memory; `changes` are fields that its user sets.

    >>> scheduler("vllm").step_tokens, scheduler("vllm", 24 * GIB).step_tokens, scheduler("ollama").max_seqs
    (8192, 2048, 1)
    >>> scheduler("vllm", max_seqs=32).max_seqs
    32
    """
    if engine not in _DEFAULTS:
        raise UsageError(f"no scheduler of {engine} is known", remedy="one of " + ", ".join(ENGINES))
    found = _DEFAULTS[engine]
    large = memory_bytes >= 70 * GIB
    if engine == "vllm":
        if memory_bytes >= 160 * GIB:
            found = found._replace(step_tokens=16384, chunk_tokens=16384, max_seqs=1024)
        elif not large:
            found = found._replace(step_tokens=2048, chunk_tokens=2048, max_seqs=256)
    elif engine == "sglang":
        gib = memory_bytes / GIB
        chunk = 2048 if gib < 20 else 4096 if gib < 60 else 8192 if gib < 160 else 16384
        found = found._replace(step_tokens=chunk, chunk_tokens=chunk)
    return found._replace(**changes)


_DEFAULTS = {
    one.engine: one
    for one in (
        Scheduler("vllm", 1024, 8192, 8192, True, source="vLLM 0.33 engine/arg_utils.py get_batch_defaults; chunked prefill on"),
        Scheduler("sglang", 2048, 8192, 8192, False, source="SGLang 0.5.23 server_args: chunked_prefill_size by memory, no mixed chunks"),
        Scheduler("tensorrt_llm", 2048, 8192, 8192, True, source="TensorRT-LLM llm_args: max_batch_size 2048, max_num_tokens 8192, in-flight batching"),
        Scheduler("tgi", 128, 4096, 4096, True, source="TGI 3 launcher: max_batch_prefill_tokens 4096, max_concurrent_requests 128; prompts join the decoding batch"),
        Scheduler("lmdeploy", 256, 8192, 8192, True, source="LMDeploy 0.16 TurboMind: max_batch_size 256 on H100, max_prefill_token_num 8192"),
        Scheduler("llamacpp", 4, 2048, 2048, True, source="llama.cpp: 4 slots, n_batch 2048, decoding tokens first"),
        Scheduler("ollama", 1, 2048, 2048, True, source="Ollama: OLLAMA_NUM_PARALLEL 1, llama-server below"),
        Scheduler("mlx_lm", 32, 16384, 16384, False, 8, source="mlx-lm 0.32 server: decode concurrency 32, prompt concurrency 8, steps of 2048"),
        Scheduler("vllm_mlx", 256, 16384, 16384, False, 8, source="vllm-mlx: max-num-seqs 256, mlx-lm's batch generator"),
        Scheduler("omlx", 8, 16384, 16384, False, 8, source="oMLX: 8 requests at once"),
    )
}  # fmt: skip
ENGINES = tuple(_DEFAULTS)
