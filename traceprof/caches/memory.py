"""Tokens of KV cache that fit into GPU memory beside a model's weights, from its config.json.

    capacity = (GPUs x memory x share - weights) / bytes of one token
    bytes of one token, grouped or multi-head attention: layers x KV heads x (key + value head size) x bytes per value
    multi-head latent attention (MLA): layers x (kv_lora_rank + qk_rope_head_dim) x bytes per value, whole on every GPU
    layers with a sliding window of W: as above, times W / tokens of a sequence where the sequence is longer than W

With tensor parallelism KV heads are divided over the GPUs, at least one on each. Activations and graphs take a little
more, so these are upper marks to read a curve by, not a promise: an engine says at its start what it really has. Engines
mean different things by a share of memory (vLLM 0.92 of all of it, TensorRT-LLM 0.9 of what is free after the weights,
SGLang and LMDeploy 0.8 to 0.9); compared are engines with equal KV tokens, at vLLM's share.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from traceprof.errors import TraceprofError, UsageError

MEMORY_SHARE = 0.92  # vLLM's default gpu_memory_utilization
_BYTES = {
    "float32": 4.0, "float16": 2.0, "half": 2.0, "bfloat16": 2.0, "auto": 2.0,
    "fp8": 1.0, "fp8_e4m3": 1.0, "fp8_e5m2": 1.0, "int8": 1.0,
    "q8_0": 34 / 32, "q4_0": 18 / 32,  # llama.cpp: blocks of 32 values with a scale
}  # fmt: skip
KV_DTYPES = tuple(_BYTES)


class Model(NamedTuple):
    """What a model's weights and KV cache take."""

    name: str
    weight_bytes: int
    kv_heads: int  # what tensor parallelism divides; 0: nothing is divided (MLA)
    full_bytes: float  # KV bytes of a token in the layers that attend to everything, all heads
    window_bytes: float = 0.0  # in the layers with a sliding window
    window: int = 0  # tokens of it

    def token_bytes(self, gpus: int = 1, sequence_tokens: int = 0) -> float:
        """KV bytes of one token over all GPUs together, in sequences of that length (0: window layers count in full)."""
        # the fullest GPU decides: heads are divided as far as they go, at least one on each; MLA is whole on every GPU
        on_each = max(1, -(-self.kv_heads // gpus)) / max(1, self.kv_heads)
        held = min(1.0, self.window / sequence_tokens) if sequence_tokens else 1.0
        return gpus * on_each * (self.full_bytes + held * self.window_bytes)


class Mark(NamedTuple):
    """One machine on the capacity axis."""

    label: str
    capacity_tokens: int
    token_bytes: float  # KV bytes of a token


# shapes from the models' config.json: layers, KV heads, head size; bf16
LLAMA_8B = Model("Llama-3.1-8B", 8_030_261_248 * 2, 8, 32 * 8 * (128 + 128) * 2)
LLAMA_70B = Model("Llama-3.3-70B", 70_553_706_496 * 2, 8, 80 * 8 * (128 + 128) * 2)

# memory of a card by the name it is sold under, as nvidia-smi shows it (MiB): RTX 4090, L40S, H100, H200, B200
_CARD_BYTES = {
    "24 GB": 24_564 << 20, "48 GB": 46_068 << 20, "80 GB": 81_559 << 20, "141 GB": 143_771 << 20, "192 GB": 183_359 << 20,
}  # fmt: skip
_MACHINES = (
    (LLAMA_8B, 1, "24 GB"),
    (LLAMA_8B, 1, "80 GB"),
    (LLAMA_70B, 4, "80 GB"),
    (LLAMA_70B, 8, "141 GB"),
)


def capacity_tokens(
    model: Model, gpus: int, gpu_bytes: int, *, share: float = MEMORY_SHARE, sequence_tokens: int = 0
) -> int:
    """Tokens of KV cache that `gpus` devices hold beside the weights; 0 when the weights do not fit.

    >>> capacity_tokens(LLAMA_8B, 1, 80 * 10**9)
    438991
    """
    free = gpus * gpu_bytes * share - model.weight_bytes
    return max(0, int(free / model.token_bytes(gpus, sequence_tokens)))


def parse_bytes(text: str) -> int:
    """Memory as people write it: a card's name ("80 GB": what an 80 GB card has), GiB, MiB, or bytes.

    >>> parse_bytes("80GB") == 81_559 * 2**20, parse_bytes("40 GiB"), parse_bytes("1000000000")
    (True, 42949672960, 1000000000)
    """
    found = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,6})?)\s*(GB|GIB|G|MB|MIB|M|TB|TIB|T|B)?\s*", text.upper())
    if found is None:
        raise UsageError(f"no size of memory: {text!r}", remedy="write it as 80GB, 96GiB or in bytes")
    number, unit = float(found[1]), found[2] or "B"
    card = _CARD_BYTES.get(f"{found[1]} GB") if unit == "GB" else None
    if card is not None:
        return card
    power = {"B": 0, "M": 2, "G": 3, "T": 4}[unit[0]]
    return int(number * (1000 if unit in ("GB", "MB", "TB") else 1024) ** power)


def marks(model: Model | None = None, *, sequence_tokens: int = 0) -> list[Mark]:
    """Machines that people have, by capacity: for a model the cards that it fits on, without one a few usual pairs."""
    if model is None:
        pairs = list(_MACHINES)
    else:
        pairs = [(model, n, size) for size in _CARD_BYTES for n in (1, 2, 4, 8)]
    found = [
        Mark(
            f"{m.name} on {f'{n} x ' if n > 1 else ''}{size}",
            capacity_tokens(m, n, _CARD_BYTES[size], sequence_tokens=sequence_tokens),
            m.token_bytes(n, sequence_tokens),
        )
        for m, n, size in pairs
    ]
    found = sorted(
        (mark for mark in found if mark.capacity_tokens > 0), key=lambda mark: mark.capacity_tokens
    )
    if model is None or len(found) <= _MARKS:
        return found
    return [found[i * (len(found) - 1) // (_MARKS - 1)] for i in range(_MARKS)]


_MARKS = 6


def read_model(path: str | Path, *, kv_dtype: str = "auto", weight_bytes: int | None = None) -> Model:
    """A model from its config.json, or the folder that holds it (and perhaps the weights).

    Weights: as given; else the folder's safetensors; else counted from the shapes in the config, which is within a
    few percent for the usual decoder families.
    """
    path = Path(path)
    file = path / "config.json" if path.is_dir() else path
    try:
        config = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise UsageError(
            "no config.json here", path=path, remedy="give a model's config.json or its folder"
        ) from None
    except (OSError, ValueError) as bad:
        raise TraceprofError(f"unreadable: {bad}", path=file, remedy="give a model's config.json") from None
    if not isinstance(config, dict):
        raise TraceprofError("no JSON object", path=file, remedy="give a model's config.json")
    stored = _stored_weights(file.parent)
    name = str(config.get("_name_or_path") or "") or file.resolve().parent.name
    try:
        return model_of(config, name=name, kv_dtype=kv_dtype, weight_bytes=weight_bytes or stored)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as bad:
        why = f"no {bad.args[0]} in it" if isinstance(bad, KeyError) else str(bad)
        raise TraceprofError(
            f"not a decoder's config.json that we can size: {why}",
            path=file,
            remedy="give the capacity itself: --capacity-tokens N",
        ) from None


def model_of(
    config: dict[str, Any], *, name: str = "model", kv_dtype: str = "auto", weight_bytes: int | None = None
) -> Model:
    """A model from what its config.json holds; raises KeyError or ValueError where it does not tell.

    >>> llama = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096,
    ...          "intermediate_size": 14336, "vocab_size": 128256, "torch_dtype": "bfloat16"}
    >>> made = model_of(llama)
    >>> made.token_bytes(), made.weight_bytes // 2
    (131072.0, 8030261248)
    """
    c = decoder(config)
    layers = int(c["num_hidden_layers"])
    kinds = layer_kinds(c, layers)
    full, windowed = kinds.count("full"), kinds.count("window")
    value = _BYTES[_kv_dtype(c, kv_dtype)]
    window = int(c.get("sliding_window") or 0)
    weights = weight_bytes or int(parameters(c).total * _weight_bytes_per_value(c))
    if c.get("kv_lora_rank"):
        latent = int(c["kv_lora_rank"]) + int(c["qk_rope_head_dim"]) + int(c.get("index_head_dim") or 0)
        return Model(name, weights, 0, layers * latent * value)
    heads = int(c.get("num_key_value_heads") or c["num_attention_heads"])
    keys = int(c.get("head_dim") or int(c["hidden_size"]) // int(c["num_attention_heads"]))
    row = heads * (keys + int(c.get("v_head_dim") or keys)) * value
    shared = int(c.get("num_kv_shared_layers") or 0)  # they read the cache of an earlier layer
    full = max(1, full - round(shared * full / layers)) if shared else full
    windowed -= round(shared * windowed / layers)
    return Model(name, weights, heads, full * row, windowed * row, window)


def decoder(config: dict[str, Any]) -> dict[str, Any]:
    """The text decoder's part of a config.json; of a model that takes images and the like, the nested one."""
    for nested in ("text_config", "llm_config", "language_config"):
        if isinstance(config.get(nested), dict):
            return {**config, **config[nested]}
    return config


def layer_kinds(c: dict[str, Any], layers: int) -> list[str]:
    """What each layer keeps: "full", "window" (sliding) or "state" (of fixed size: Mamba, linear attention)."""
    told = c.get("layer_types")
    if isinstance(told, list) and len(told) == layers:
        return ["window" if "sliding" in str(t) or "chunked" in str(t) else "full" if "full" in str(t) or t == "attention" else "state" for t in told]  # fmt: skip
    interval = c.get("full_attention_interval") or c.get("attn_layer_period")
    if interval:  # Qwen3-Next, Jamba: one layer in so many attends, the others keep a state
        return ["full" if i % int(interval) == 0 else "state" for i in range(layers)]
    if c.get("sliding_window") and c.get("use_sliding_window", True):
        pattern = int(c.get("sliding_window_pattern") or c.get("_sliding_window_pattern") or 0)
        if pattern > 1:  # Gemma 2 and 3: the last of so many layers attends to everything
            return ["full" if (i + 1) % pattern == 0 else "window" for i in range(layers)]
        if (
            c.get("use_sliding_window") and c.get("max_window_layers") is not None
        ):  # Qwen2: from that layer on
            return ["full" if i < int(c["max_window_layers"]) else "window" for i in range(layers)]
        return ["window"] * layers
    return ["full"] * layers


def _kv_dtype(c: dict[str, Any], asked: str) -> str:
    if asked not in _BYTES:
        raise UsageError(f"no type of KV cache: {asked!r}", remedy="one of " + ", ".join(KV_DTYPES))
    if asked != "auto":
        return asked
    scheme = (c.get("quantization_config") or {}).get("kv_cache_scheme")
    if isinstance(scheme, dict) and scheme.get("num_bits") == 8:
        return "fp8"
    told = str(c.get("torch_dtype") or c.get("dtype") or "auto").removeprefix("torch.")
    return told if told in _BYTES else "auto"


def _weight_bytes_per_value(c: dict[str, Any]) -> float:
    quantized = c.get("quantization_config")
    if isinstance(quantized, dict):
        method = str(quantized.get("quant_method") or "")
        bits = quantized.get("bits") or quantized.get("num_bits")
        if bits:
            return float(bits) / 8 * 1.06  # with its scales, and some layers left as they were
        if "fp8" in method or method in ("fbgemm_fp8", "compressed-tensors", "modelopt"):
            return 1.03
        if method in ("mxfp4", "nvfp4", "awq", "gptq", "bitsandbytes"):
            return 0.56
    told = str(c.get("torch_dtype") or c.get("dtype") or "auto").removeprefix("torch.")
    return _BYTES.get(told, 2.0)


class Parameters(NamedTuple):
    """Parameters of a decoder by what a step does with them."""

    embedding: int  # the input table, whose rows are looked up
    head: int  # the output projection; 0 where it is the input table, which is then read for it
    layers: int  # attention, norms, dense MLPs, shared experts and routers of all layers
    experts: int = 0  # the routed experts of all layers
    expert_share: float = 0.0  # of them, what one token is routed to

    @property
    def total(self) -> int:
        """All that are stored."""
        return self.embedding + self.head + self.layers + self.experts


def parameters(config: dict[str, Any]) -> Parameters:
    """A decoder's parameters, by the shapes in its config.json; norms and biases left out but RMS.

    >>> llama = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096,
    ...          "intermediate_size": 14336, "vocab_size": 128256}
    >>> parameters(llama)
    Parameters(embedding=525336576, head=525336576, layers=6979588096, experts=0, expert_share=0.0)
    """
    c = decoder(config)
    layers = int(c["num_hidden_layers"])
    hidden, vocabulary = int(c["hidden_size"]), int(c["vocab_size"])
    heads = int(c["num_attention_heads"])
    if c.get("kv_lora_rank"):
        nope, rope, v = int(c["qk_nope_head_dim"]), int(c["qk_rope_head_dim"]), int(c["v_head_dim"])
        latent, rank = int(c["kv_lora_rank"]), int(c.get("q_lora_rank") or 0)
        queries = hidden * rank + rank * heads * (nope + rope) if rank else hidden * heads * (nope + rope)
        attention = queries + hidden * (latent + rope) + latent * heads * (nope + v) + heads * v * hidden
    else:
        kv = int(c.get("num_key_value_heads") or heads)
        size = int(c.get("head_dim") or hidden // heads)
        attention = 2 * hidden * heads * size + 2 * hidden * kv * size
    dense = 3 * hidden * int(c.get("intermediate_size") or 0)
    experts = int(c.get("n_routed_experts") or c.get("num_local_experts") or c.get("num_experts") or 0)
    routed, share = 0, 0.0
    if experts:
        width = int(c.get("moe_intermediate_size") or c["intermediate_size"])
        shared = int(c.get("n_shared_experts") or 0) * 3 * hidden * width
        shared += 3 * hidden * int(c.get("shared_expert_intermediate_size") or 0)
        first_dense = int(c.get("first_k_dense_replace") or 0)
        every = int(c.get("decoder_sparse_step") or c.get("moe_layer_freq") or 1)
        sparse_layers = sum(1 for i in range(first_dense, layers) if every == 1 or (i + 1) % every == 0)
        mlp = sparse_layers * (shared + experts * hidden) + (layers - sparse_layers) * dense
        routed = sparse_layers * experts * 3 * hidden * width
        share = min(1.0, int(c.get("num_experts_per_tok") or experts) / experts)
    else:
        mlp = layers * dense
    table = vocabulary * hidden
    inside = layers * (attention + 2 * hidden) + mlp + hidden
    return Parameters(table, 0 if c.get("tie_word_embeddings") else table, inside, routed, share)


def _stored_weights(folder: Path) -> int | None:
    """Bytes of the weights that lie beside a config.json."""
    index = folder / "model.safetensors.index.json"
    try:
        told = json.loads(index.read_text("utf-8"))["metadata"]["total_size"]
        return int(told)
    except (OSError, ValueError, KeyError, TypeError):
        sizes = [f.stat().st_size for f in folder.glob("*.safetensors")]
        return sum(sizes) or None
