"""Tokens of KV cache that fit into GPU memory: total x share - weights, over the bytes of one token.

    bytes per token = layers x KV heads x (key + value) x head size x bytes per value

Activations and graphs take a little more, so these are upper marks to read a miss-ratio curve by, not a promise.
The share of memory an engine takes is vLLM's default, 0.92 (gpu_memory_utilization).
"""

from __future__ import annotations

from typing import NamedTuple

MEMORY_SHARE = 0.92


class Model(NamedTuple):
    """What a model's weights and KV cache take."""

    name: str
    weight_bytes: int
    kv_bytes_per_token: int


class Mark(NamedTuple):
    """One machine on the capacity axis."""

    label: str
    capacity_tokens: int


# shapes from the models' config.json: layers, KV heads, head size; bf16 unless said
LLAMA_8B = Model("Llama-3.1-8B", 8_030_261_248 * 2, 32 * 8 * (128 + 128) * 2)
LLAMA_70B = Model("Llama-3.3-70B", 70_553_706_496 * 2, 80 * 8 * (128 + 128) * 2)

# memory of a card by the name it is sold under, as nvidia-smi shows it (MiB): RTX 4090, H100, H200
_CARD_BYTES = {"24 GB": 24_564 << 20, "80 GB": 81_559 << 20, "141 GB": 143_771 << 20}
_MACHINES = (
    (LLAMA_8B, 1, "24 GB"),
    (LLAMA_8B, 1, "80 GB"),
    (LLAMA_70B, 4, "80 GB"),
    (LLAMA_70B, 8, "141 GB"),
)


def capacity_tokens(model: Model, gpus: int, gpu_bytes: int) -> int:
    """Tokens of KV cache that `gpus` devices hold beside the weights; 0 when the weights do not fit.

    >>> capacity_tokens(LLAMA_8B, 1, 80 * 10**9)
    438991
    """
    return max(0, int(gpus * gpu_bytes * MEMORY_SHARE - model.weight_bytes) // model.kv_bytes_per_token)


def marks() -> list[Mark]:
    """Common machines, by capacity."""
    found = [
        Mark(f"{m.name} on {f'{n} x ' if n > 1 else ''}{size}", capacity_tokens(m, n, _CARD_BYTES[size]))
        for m, n, size in _MACHINES
    ]
    return sorted(found, key=lambda mark: mark.capacity_tokens)
