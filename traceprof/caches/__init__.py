"""Engines' prefix caches, one file each, how much memory they have, and how requests are spread over replicas."""

from __future__ import annotations

import importlib
from typing import Any, Protocol, cast

ENGINES = (
    "infinite", "lru", "vllm", "sglang", "tensorrt_llm", "tgi", "lmdeploy", "llamacpp", "ollama", "mlx_lm", "vllm_mlx", "omlx",
)  # fmt: skip
"""Names of the cache models, the two ideals first."""


class Engine(Protocol):
    """What every module of an engine has."""

    LABEL: str  # the engine's name as people write it
    BLOCK_SIZE: int  # tokens in which prefixes are matched, by default
    ASSUMPTIONS: tuple[str, ...]  # what the model takes for granted, in sentences

    def simulate(self, traffic: Any, capacity_tokens: int, **options: Any) -> Any:
        """The traffic through a cache of that many tokens of KV: a `traceprof.caches.traffic.Outcome`."""


def engine(name: str) -> Engine:
    """The model of an engine's cache.

    >>> engine("lru").LABEL
    'LRU, token by token'
    """
    assert name in ENGINES, name
    return cast(Engine, importlib.import_module(f"traceprof.caches.{name}"))
