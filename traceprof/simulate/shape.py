"""What a model's shapes mean for time: bytes that a step reads, operations that a token takes, KV bytes of a token.

Built from a config.json as traceprof.caches.memory reads it. The input table is looked up, not read. A routed expert is read
when some token of the step is routed to it. Weights in 8 or 4 bits keep input table and output projection in 16 bits, as the
published checkpoints do; GGUF types convert them too.
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any, NamedTuple

from traceprof.caches import memory
from traceprof.caches.memory import Model
from traceprof.errors import TraceprofError, UsageError
from traceprof.simulate.hardware import Card


class Precision(NamedTuple):
    """How weights are stored, and what they are multiplied in."""

    bytes: float  # of one parameter, with its share of the scales
    products: str  # the card's row of FLOP/s
    whole: bool = False  # input table and output projection too


PRECISIONS = {
    "bf16": Precision(2.0, "bf16", True),
    "fp16": Precision(2.0, "bf16", True),
    "fp32": Precision(4.0, "fp32", True),
    "fp8": Precision(1.0, "fp8"),
    "int8": Precision(1.0, "int8"),
    "fp4": Precision(0.5625, "fp4"),  # NVFP4: a scale of 8 bits for 16 values
    "int4": Precision(0.53, "bf16"),  # AWQ, GPTQ: weights only, groups of 128
    "mlx4": Precision(0.5625, "bf16", True),  # MLX: a scale and a bias of 16 bits for 64 values
    "q8_0": Precision(34 / 32, "bf16", True),
    "q4_k_m": Precision(0.606, "bf16", True),  # 4.85 bits
    "q4_0": Precision(18 / 32, "bf16", True),
}
_TOLD = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "float": "fp32"}


class Shape(NamedTuple):
    """A model as time sees it."""

    model: Model  # weights in all and KV cache
    precision: str  # of the weights, one of PRECISIONS
    read_bytes: float  # weights that every step reads
    expert_bytes: float  # all routed experts
    expert_share: float  # of them, what one token is routed to; 0: none
    active_parameters: float  # of the layers, that a token is multiplied with
    layers: int
    hidden: int
    pair_flops: float  # between one query and one key, over all layers that attend to everything
    window_pair_flops: float  # over those with a sliding window

    @property
    def name(self) -> str:
        """The model's."""
        return self.model.name

    def pair_flops_at(self, tokens: int = 0) -> float:
        """As `pair_flops`, with windows as far as they reach in sequences of that length; 0: in full."""
        held = min(1.0, self.model.window / tokens) if tokens and self.model.window else 1.0
        return self.pair_flops + held * self.window_pair_flops

    def capacity_tokens(self, card: Card, gpus: int = 1) -> int:
        """Tokens of KV cache beside the weights; 0 when these do not fit.

        >>> from traceprof.simulate.hardware import card
        >>> preset("Llama-3.1-8B").capacity_tokens(card("h100"))
        477742
        >>> preset("Llama-3.3-70B").capacity_tokens(card("h100"))
        0
        """
        return memory.capacity_tokens(self.model, gpus, card.memory_bytes, share=card.memory_share)


def shape_of(
    config: dict[str, Any], *, name: str = "model", precision: str | None = None, kv_dtype: str = "auto"
) -> Shape:
    """A shape from what a config.json holds; raises KeyError or ValueError where it does not tell.

    precision  of the weights, where it is not what the config says

    >>> llama = shape_of(PRESETS["Llama-3.1-8B"])
    >>> llama.read_bytes == 2 * (8_030_261_248 - 128_256 * 4096), llama.pair_flops == 32 * 4 * 4096
    (True, True)
    >>> shape_of(PRESETS["Qwen3-30B-A3B"], precision="fp8").active_parameters / 1e9
    2.73069056
    """
    c = memory.decoder(config)
    kind = precision or _told_precision(c)
    if kind not in PRECISIONS:
        raise UsageError(f"no precision of weights: {kind!r}", remedy="one of " + ", ".join(PRECISIONS))
    size, _, whole = PRECISIONS[kind]
    count = memory.parameters(config)
    table = size if whole else 2.0
    head = (count.head or count.embedding) * table
    stored = (count.layers + count.experts) * size + (count.embedding + count.head) * table
    layers, heads = int(c["num_hidden_layers"]), int(c["num_attention_heads"])
    if c.get("kv_lora_rank"):
        keys, values = int(c["qk_nope_head_dim"]) + int(c["qk_rope_head_dim"]), int(c["v_head_dim"])
    else:
        keys = int(c.get("head_dim") or int(c["hidden_size"]) // heads)
        values = int(c.get("v_head_dim") or keys)
    pairs = 2.0 * heads * (keys + values)
    kinds = memory.layer_kinds(c, layers)
    return Shape(
        model=memory.model_of(config, name=name, kv_dtype=kv_dtype, weight_bytes=int(stored)),
        precision=kind,
        read_bytes=count.layers * size + head,
        expert_bytes=count.experts * size,
        expert_share=count.expert_share,
        active_parameters=count.layers + count.experts * count.expert_share,
        layers=layers,
        hidden=int(c["hidden_size"]),
        pair_flops=pairs * kinds.count("full"),
        window_pair_flops=pairs * kinds.count("window"),
    )


def preset(name: str, *, precision: str | None = None, kv_dtype: str = "auto") -> Shape:
    """A model that is known here by name.

    >>> preset("llama-3.1-8b", precision="fp8").precision
    'fp8'
    """
    known = {key.lower(): key for key in PRESETS}
    asked = name.strip().lower()
    if asked not in known:
        near = difflib.get_close_matches(asked, known, n=1)
        raise UsageError(
            f"no model {name} is known here",
            remedy=f"did you mean {known[near[0]]}?"
            if near
            else f"give its config.json, or one of {', '.join(PRESETS)}",
        )
    key = known[asked]
    return shape_of(PRESETS[key], name=key, precision=precision, kv_dtype=kv_dtype)


def read_shape(model: str | Path, *, precision: str | None = None, kv_dtype: str = "auto") -> Shape:
    """A model from its config.json or the folder that holds it, or by the name of a preset."""
    path = Path(model)
    if not path.exists() and path.suffix != ".json":
        return preset(str(model), precision=precision, kv_dtype=kv_dtype)
    held = memory.read_model(path, kv_dtype=kv_dtype)  # with its errors, its name and the weights beside it
    file = path / "config.json" if path.is_dir() else path
    try:
        config = json.loads(file.read_text("utf-8"))
        found = shape_of(config, name=held.name, precision=precision, kv_dtype=kv_dtype)
        return found if precision else found._replace(model=held)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as bad:
        raise TraceprofError(
            f"not a decoder's config.json whose times we can tell: {bad}",
            path=file,
            remedy="simulate with a preset: " + ", ".join(PRESETS),
        ) from None


def _told_precision(c: dict[str, Any]) -> str:
    quantized = c.get("quantization_config")
    if isinstance(quantized, dict):
        method = str(quantized.get("quant_method") or "") + str(quantized.get("quant_algo") or "").lower()
        bits = int(quantized.get("bits") or quantized.get("num_bits") or 0)
        if "fp4" in method:
            return "fp4"
        if "fp8" in method or method in ("compressed-tensors", "modelopt"):
            return "fp8"
        return "int8" if bits == 8 else "int4"
    told = str(c.get("torch_dtype") or c.get("dtype") or "bfloat16").removeprefix("torch.")
    return _TOLD.get(told, "bf16")


# config.json of models that people size for
PRESETS: dict[str, dict[str, Any]] = {
    "Llama-3.1-8B": {
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096,
        "intermediate_size": 14336, "vocab_size": 128256, "torch_dtype": "bfloat16",
    },
    "Llama-3.3-70B": {
        "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8, "hidden_size": 8192,
        "intermediate_size": 28672, "vocab_size": 128256, "torch_dtype": "bfloat16",
    },
    "Llama-3.2-3B": {
        "num_hidden_layers": 28, "num_attention_heads": 24, "num_key_value_heads": 8, "hidden_size": 3072,
        "intermediate_size": 8192, "vocab_size": 128256, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    },
    "Qwen3-8B": {
        "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "hidden_size": 4096,
        "intermediate_size": 12288, "vocab_size": 151936, "torch_dtype": "bfloat16",
    },
    "Qwen3-30B-A3B": {
        "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "hidden_size": 2048,
        "intermediate_size": 6144, "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8,
        "decoder_sparse_step": 1, "vocab_size": 151936, "torch_dtype": "bfloat16",
    },
    "Qwen2.5-0.5B": {
        "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "hidden_size": 896,
        "intermediate_size": 4864, "vocab_size": 151936, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    },
}  # fmt: skip
