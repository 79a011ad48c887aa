"""KV capacity from a model's config.json, against figures that engines and model cards publish."""

from __future__ import annotations

import json

import pytest

from traceprof.caches import memory
from traceprof.caches.memory import capacity_tokens, model_of, parse_bytes, read_model
from traceprof.errors import TraceprofError, UsageError

LLAMA_8B = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096, "intermediate_size": 14336, "vocab_size": 128256, "torch_dtype": "bfloat16"}  # fmt: skip
LLAMA_70B = {"num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8, "hidden_size": 8192, "intermediate_size": 28672, "vocab_size": 128256, "torch_dtype": "bfloat16"}  # fmt: skip
DEEPSEEK_V3 = {
    "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128, "hidden_size": 7168, "vocab_size": 129280,
    "intermediate_size": 18432, "moe_intermediate_size": 2048, "n_routed_experts": 256, "n_shared_experts": 1, "first_k_dense_replace": 3,
    "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "torch_dtype": "bfloat16",
    "quantization_config": {"quant_method": "fp8"},
}  # fmt: skip
MIXTRAL = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096, "intermediate_size": 14336, "vocab_size": 32000, "num_local_experts": 8, "torch_dtype": "bfloat16"}  # fmt: skip
QWEN3_4B = {"num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "hidden_size": 2560, "intermediate_size": 9728, "vocab_size": 151936, "tie_word_embeddings": True, "sliding_window": None, "use_sliding_window": False, "max_window_layers": 36}  # fmt: skip
GEMMA3 = {
    "text_config": {"num_hidden_layers": 12, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "hidden_size": 2560, "intermediate_size": 10240, "vocab_size": 262208, "sliding_window": 1024, "sliding_window_pattern": 6, "tie_word_embeddings": True},
    "torch_dtype": "bfloat16",
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "kv_bytes", "parameters"),
    [
        (LLAMA_8B, 131_072, 8.03e9),  # 128 KiB a token
        (LLAMA_70B, 327_680, 70.55e9),  # 320 KiB
        (DEEPSEEK_V3, 70_272, 671e9),  # 576 values x 61 layers x 2 bytes
        (MIXTRAL, 131_072, 46.7e9),
        (QWEN3_4B, 147_456, 4.02e9),
    ],
)
def test_bytes_of_a_token_and_of_the_weights(config, kv_bytes, parameters):
    """KV bytes to the byte; parameters as the model cards say them."""
    model = model_of(config)
    assert model.token_bytes() == kv_bytes
    stored = 1.03 if config is DEEPSEEK_V3 else 2
    assert model.weight_bytes / stored == pytest.approx(parameters, rel=0.005)


def test_tensor_parallelism_divides_heads_and_never_a_latent_cache():
    """Beyond the KV heads every GPU holds a copy; MLA is whole on each."""
    llama, deepseek = model_of(LLAMA_70B), model_of(DEEPSEEK_V3)
    assert [llama.token_bytes(n) for n in (1, 2, 8, 16)] == [327_680, 327_680, 327_680, 655_360]
    assert model_of({**LLAMA_70B, "num_key_value_heads": 6}).token_bytes(4) == 4 * 2 / 6 * 245_760
    assert deepseek.token_bytes(8) == 8 * 70_272


def test_sliding_windows_hold_a_window():
    """Ten of Gemma's twelve layers hold 1,024 tokens of a sequence, however long it is."""
    model = model_of(GEMMA3)
    layer = 4 * 512 * 2
    assert model.token_bytes() == 12 * layer
    assert model.token_bytes(1, 512) == 12 * layer
    assert model.token_bytes(1, 10_240) == (2 + 10 / 10) * layer
    assert model_of({**LLAMA_8B, "sliding_window": 4096}).token_bytes(1, 8192) == 131_072 / 2
    mixed = {**LLAMA_8B, "num_hidden_layers": 4, "layer_types": ["linear_attention", "full_attention"] * 2}
    assert model_of(mixed).token_bytes() == 2 * 4096


@pytest.mark.parametrize(
    ("kv_dtype", "share"), [("fp8", 0.5), ("q8_0", 34 / 64), ("q4_0", 18 / 64), ("float32", 2)]
)
def test_a_type_of_kv_cache(kv_dtype, share):
    """fp8 takes half of bf16, llama.cpp's types their blocks' bytes."""
    assert model_of(LLAMA_8B, kv_dtype=kv_dtype).token_bytes() == 131_072 * share
    scheme = {
        "quantization_config": {"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8}}
    }
    assert model_of({**LLAMA_8B, **scheme}).token_bytes() == 65_536


def test_capacity_of_machines_grows_with_memory():
    """Labels and order; a model that does not fit is not there."""
    assert [m.label for m in memory.marks()][:2] == ["Llama-3.1-8B on 24 GB", "Llama-3.1-8B on 80 GB"]
    found = memory.marks(model_of(LLAMA_70B, name="mine"))
    assert len(found) == 6
    assert [m.capacity_tokens for m in found] == sorted(m.capacity_tokens for m in found)
    assert all("mine on" in m.label for m in found)
    assert capacity_tokens(model_of(LLAMA_70B), 1, parse_bytes("80GB")) == 0


@pytest.mark.parametrize("text", ["", "80 XB", "many", "-3GB", "1e9", "9" * 400])
def test_no_size_of_memory(text):
    """An error that says how to write it."""
    with pytest.raises(UsageError, match="80GB"):
        parse_bytes(text)


def test_a_models_folder(tmp_path):
    """Weights as stored beside the config count as they are; what cannot be sized says what to give instead."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    assert read_model(tmp_path).weight_bytes == 16_060_522_496
    assert read_model(tmp_path, weight_bytes=5).weight_bytes == 5
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 77}}))
    assert read_model(tmp_path / "config.json").weight_bytes == 77
    for text in (
        "[]",
        "{",
        json.dumps({"model_type": "bert"}),
        json.dumps({**LLAMA_8B, "num_hidden_layers": "x"}),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(TraceprofError, match=r"config\.json"):
            read_model(tmp_path)
    with pytest.raises(UsageError, match=r"config\.json"):
        read_model(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="fp8"):
        model_of(LLAMA_8B, kv_dtype="fp5")
