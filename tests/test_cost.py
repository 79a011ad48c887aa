"""What a step costs: cards from their files, shapes from config.json, and the formula, against figures worked out by hand."""

from __future__ import annotations

import doctest
import json
import tomllib
from importlib import resources
from math import inf

import pytest

from traceprof.caches import memory
from traceprof.errors import TraceprofError, UsageError
from traceprof.simulate import cost, hardware, schedulers, shape
from traceprof.simulate.cost import Costs
from traceprof.simulate.hardware import Factors, card, cards
from traceprof.simulate.served import closed_loop
from traceprof.simulate.shape import PRESETS, preset, read_shape, shape_of

DEEPSEEK_V3 = {
    "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128, "hidden_size": 7168, "vocab_size": 129280,
    "intermediate_size": 18432, "moe_intermediate_size": 2048, "n_routed_experts": 256, "num_experts_per_tok": 8, "n_shared_experts": 1,
    "first_k_dense_replace": 3, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "torch_dtype": "bfloat16", "quantization_config": {"quant_method": "fp8"},
}  # fmt: skip
GEMMA3 = {
    "text_config": {
        "num_hidden_layers": 12, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "hidden_size": 2560,
        "intermediate_size": 10240, "vocab_size": 262208, "sliding_window": 1024, "sliding_window_pattern": 6, "tie_word_embeddings": True,
    },
    "torch_dtype": "bfloat16",
}  # fmt: skip


@pytest.mark.parametrize("module", [hardware, shape, cost], ids=lambda module: module.__name__)
def test_examples_in_docstrings(module):
    """Doctests."""
    assert doctest.testmod(module).failed == 0


# -- cards ---------------------------------------------------------------------------------------------------------


def test_every_card_has_its_figures_and_their_sources():
    """Each figure of each file is in its unit's range, and nothing stands without a source or the word assumed."""
    for name, one in cards().items():
        assert name == one.name and one.label and one.source
        assert one.vendor in hardware.VENDORS
        assert 8e9 < one.memory_bytes < 1e12 and 0.5 < one.memory_share < 1
        assert 50e9 < one.bandwidth < 10e12 and 1e12 < one.flops["bf16"] < 5e15
        assert all(
            one.flops["bf16"] <= peak for kind, peak in one.flops.items() if kind not in ("bf16", "fp32")
        )
        assert all(0 < reached <= 1 for reached in one.sustained.values())
        assert (one.usd_per_hour is None) == (one.price_as_of is None) == (not one.price_source)
        assert one.watts and 10 < one.watts < 2000
        assert one.engines
        for engine, on in one.engines.items():
            assert engine in schedulers.ENGINES
            assert on.source, (name, engine)
            shares = (on.factors.compute, on.factors.memory, on.factors.attention)
            assert all(0 < share <= 1 for share in shares), (name, engine)
            assert 0 <= on.factors.decode <= 1
            assert (
                0 < on.factors.step_s < 0.02
                and 0 <= on.factors.seq_s < 0.01
                and 0 < on.factors.request_s < 0.1
            )
            assert on.cold_start_s and 1 < on.cold_start_s < 3600


def test_the_files_hold_no_key_that_nobody_reads():
    """A misspelt key would otherwise silently be a default."""
    at_top = {"label", "vendor", "memory_bytes", "memory_share", "bandwidth", "link", "link_s", "watts", "source", "flops", "sustained", "price", "engines", "variants"}  # fmt: skip
    of_engine = {*Factors._fields, "like", "cold_start_s", "source"}
    for file in (resources.files("traceprof.simulate") / "hardware").iterdir():
        told = tomllib.loads(file.read_text("utf-8"))
        assert told.keys() <= at_top, file.name
        assert all(own.keys() <= at_top for own in told.get("variants", {}).values())
        assert all(own.keys() <= of_engine for own in told["engines"].values()), file.name
        assert told.get("price", {}).keys() <= {"usd_per_hour", "as_of", "source"}


def test_engines_run_where_they_run():
    """TensorRT-LLM on NVIDIA only, MLX on Apple's chips (and, for tests, on a CPU), vLLM not on a Mac's GPU."""
    on = {name: set(one.engines) for name, one in cards().items()}
    vendors = {name: one.vendor for name, one in cards().items()}
    assert {vendors[name] for name, engines in on.items() if "tensorrt_llm" in engines} == {"nvidia"}
    assert {vendors[name] for name, engines in on.items() if "omlx" in engines} == {"apple"}
    assert all("vllm" not in engines for name, engines in on.items() if vendors[name] == "apple")
    assert all({"llamacpp", "ollama"} <= engines for engines in on.values())
    assert set(vendors.values()) == set(hardware.VENDORS)


def test_an_engine_that_is_like_another_takes_what_it_does_not_say():
    """SGLang's efficiencies on an H100 are vLLM's, its overheads its own."""
    h100 = card("h100")
    vllm, sglang = h100.on("vllm").factors, h100.on("sglang").factors
    assert sglang == vllm._replace(step_s=sglang.step_s, seq_s=sglang.seq_s)
    assert sglang.step_s < vllm.step_s


def test_a_card_is_found_however_it_is_written_and_an_unknown_one_says_what_is_near():
    """Case, blanks and underscores do not count."""
    assert card("Apple M4_Pro") is cards()["apple-m4-pro"]
    with pytest.raises(UsageError, match="did you mean apple-m4-max"):
        card("apple-m4max")
    with pytest.raises(UsageError, match="one of a100"):
        card("radeon")
    with pytest.raises(UsageError, match="tensorrt_llm does not run on MI300X"):
        card("mi300x").on("tensorrt_llm")


# -- shapes --------------------------------------------------------------------------------------------------------


def test_presets_are_the_models_that_memory_sizes():
    """One definition of Llama's shapes, whichever way it is asked."""
    for known in (memory.LLAMA_8B, memory.LLAMA_70B):
        assert preset(known.name).model == known


@pytest.mark.parametrize(
    ("name", "total", "read"),
    [
        ("Llama-3.1-8B", 8.03e9, 7.50e9),  # without the input table of 128,256 x 4,096
        ("Llama-3.3-70B", 70.55e9, 69.50e9),
        ("Llama-3.2-3B", 3.21e9, 3.21e9),  # tied: the table is the output projection
        ("Qwen3-8B", 8.19e9, 7.57e9),
        ("Qwen2.5-0.5B", 0.494e9, 0.494e9),
    ],
)
def test_what_is_stored_and_what_a_step_reads(name, total, read):
    """Parameters as the model cards say them; a step looks a token up in the input table and reads the rest."""
    found = preset(name)
    assert found.model.weight_bytes / 2 == pytest.approx(total, rel=0.005)
    assert found.read_bytes / 2 == pytest.approx(read, rel=0.005)


def test_weights_in_eight_bits_keep_input_table_and_output_projection():
    """Llama-3.3-70B in FP8: 68.45 G in one byte, 2 x 1.05 G in two: 72.7 GB stored, 70.6 GB read."""
    found = preset("Llama-3.3-70B", precision="fp8")
    table = 128_256 * 8192
    assert found.model.weight_bytes == 70_553_706_496 - 2 * table + 4 * table
    assert found.read_bytes == found.model.weight_bytes - 2 * table
    q8 = preset("Llama-3.3-70B", precision="q8_0")
    assert q8.model.weight_bytes == int(70_553_706_496 * 34 / 32)


def test_experts_are_read_as_far_as_tokens_are_routed_to_them():
    """DeepSeek-V3: 671 B in all, 37 B active; Qwen3-30B-A3B: 30.5 and 3.3 B with its tables."""
    deepseek = shape_of(DEEPSEEK_V3)
    assert deepseek.precision == "fp8" and deepseek.expert_share == 8 / 256
    assert (deepseek.read_bytes + deepseek.expert_bytes) / 1e9 == pytest.approx(671, rel=0.01)
    assert (deepseek.active_parameters + 2 * 129280 * 7168) / 1e9 == pytest.approx(37.5, rel=0.02)
    qwen = preset("Qwen3-30B-A3B")
    assert qwen.model.weight_bytes / 2e9 == pytest.approx(30.5, rel=0.01)
    assert (qwen.active_parameters + 2 * 151936 * 2048) / 1e9 == pytest.approx(3.35, rel=0.02)
    # one token alone reads an eighth of 128 experts in the formula, many read all
    one = Costs.of(card("h100").ideal(), qwen, 1, Factors())
    assert one.step(decoding=1, read_tokens=0) == pytest.approx(one.weight_s + one.expert_s * 8 / 128)
    assert one.step(decoding=400, read_tokens=0) == pytest.approx(one.weight_s + one.expert_s, rel=1e-6)


def test_sliding_windows_bound_what_attention_takes():
    """Ten of twelve layers see 1,024 tokens: in sequences of 10,240 they count a tenth."""
    found = shape_of(GEMMA3)
    assert found.pair_flops == 2 * 4 * 8 * 256 and found.window_pair_flops == 10 * 4 * 8 * 256
    assert found.pair_flops_at() == 12 * 4 * 8 * 256
    assert found.pair_flops_at(10_240) == 3 * 4 * 8 * 256
    card_ = card("h100")
    long = Costs.of(card_, found, 1, Factors(), context_tokens=10_240)
    assert long.kv_s == pytest.approx(Costs.of(card_, found, 1, Factors()).kv_s / 4)


def test_a_shape_is_read_from_a_folder_or_by_name(tmp_path):
    """The same from config.json as from a preset; precision as told there or as asked."""
    folder = tmp_path / "Llama-3.1-8B"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(PRESETS["Llama-3.1-8B"]), "utf-8")
    assert read_shape(folder) == read_shape("Llama-3.1-8B") == preset("Llama-3.1-8B")
    quantized = {**PRESETS["Llama-3.1-8B"], "quantization_config": {"quant_method": "awq", "bits": 4}}
    (folder / "config.json").write_text(json.dumps(quantized), "utf-8")
    assert read_shape(folder).precision == "int4"
    assert read_shape(folder, precision="fp8").precision == "fp8"


def test_what_cannot_be_read_says_so(tmp_path):
    """A name that nobody knows, a config that is none, a precision that does not exist."""
    with pytest.raises(UsageError, match=r"did you mean Llama-3\.1-8B"):
        read_shape("llama3.1-8b")
    with pytest.raises(UsageError, match="no precision of weights: 'fp9'"):
        preset("Llama-3.1-8B", precision="fp9")
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"hidden_size": 1}), "utf-8")
    with pytest.raises(TraceprofError, match="num_hidden_layers"):
        read_shape(file)


# -- costs ---------------------------------------------------------------------------------------------------------


def test_a_token_alone_takes_the_time_of_reading_the_weights():
    """Llama-3.1-8B in bf16 on an H100: 15.01 GB at 3.35 TB/s x 0.77, and 1.2 ms of the engine's own."""
    found = card("h100")._replace(overlap=inf)
    costs = Costs.of(found, preset("Llama-3.1-8B"), 1, Factors(memory=0.77, step_s=1.2e-3))
    by_hand = 2 * (8_030_261_248 - 128_256 * 4096) / (3.35e12 * 0.77) + 1.2e-3
    assert costs.step(decoding=1, read_tokens=0) == pytest.approx(by_hand)
    # 8,000 tokens of context: 128 KiB each
    assert costs.step(decoding=1, read_tokens=8000) == pytest.approx(
        by_hand + 8000 * 131_072 / (3.35e12 * 0.77)
    )


def test_reading_weights_and_products_hide_each_other_in_part():
    """Where both take as long, a step takes 2^(1/1.5) times that; where one is nothing, the other alone."""
    costs = Costs(0, 0, 1.0, 0, 0, 0.01, 0, 0, 0, 1.5)
    assert costs.step(decoding=100, read_tokens=0) == pytest.approx(2 ** (1 / 1.5))
    assert costs._replace(overlap=inf).step(decoding=100, read_tokens=0) == 1.0
    assert costs._replace(overlap=1.0).step(decoding=100, read_tokens=0) == pytest.approx(2.0)
    assert costs._replace(token_s=0.0).step(decoding=100, read_tokens=0) == 1.0


def test_a_long_prompt_takes_its_products_and_its_pairs():
    """28,650 tokens on an A100: 2 x 6.98 G products a token, 4 x 4,096 a pair and layer, at the shares given."""
    costs = Costs.of(
        card("a100")._replace(overlap=inf),
        preset("Llama-3.1-8B"),
        1,
        Factors(compute=0.7, memory=0.77, attention=0.5),
    )
    tokens = 28_650
    pairs = tokens * (tokens + 1) / 2
    by_hand = tokens * 2 * 6_979_588_096 / (312e12 * 0.7) + pairs * 32 * 4 * 4096 / (312e12 * 0.5)
    assert costs.step(decoding=0, read_tokens=0, prompt_tokens=tokens, pairs=pairs) == pytest.approx(
        by_hand, rel=1e-4
    )


def test_tensor_parallelism_divides_the_work_and_adds_all_reduces():
    """Four cards: a quarter of weights, KV and products; 160 all-reduces a step, each sends 1.5 x hidden x 2 bytes a token."""
    h100, llama = card("h100"), preset("Llama-3.3-70B")
    one, four = (Costs.of(h100, llama, gpus, Factors(step_s=1e-3)) for gpus in (1, 4))
    assert four.weight_s == pytest.approx(one.weight_s / 4)
    assert four.kv_s == pytest.approx(one.kv_s / 4)
    assert four.step_s == pytest.approx(one.step_s + 160 * h100.link_s)
    assert four.token_s == pytest.approx(one.token_s / 4 + 160 * 1.5 * 8192 * 2 / h100.link)
    # beyond the KV heads every card holds a copy
    assert Costs.of(h100, llama, 16, Factors()).kv_s == pytest.approx(one.kv_s / 8)


def test_what_decoding_adds_where_reading_does_not_hide_it():
    """On a Mac each sequence adds its products at the card's rate for them."""
    mac, llama = card("apple-m2-ultra"), preset("Llama-3.1-8B", precision="q4_0")
    hidden = Costs.of(mac, llama, 1, Factors(seq_s=1e-4))
    shown = Costs.of(mac, llama, 1, Factors(seq_s=1e-4, decode=0.3))
    assert hidden.seq_s == 1e-4
    assert shown.seq_s - hidden.seq_s == pytest.approx(2 * 6_979_588_096 / (27.2e12 * 0.3))


@pytest.mark.parametrize("name", sorted(cards()))
def test_faster_hardware_is_never_slower(name):
    """Twice the bandwidth, twice the FLOP/s, twice the share reached: no step takes longer, and each takes more with more in it."""
    one, llama = card(name), preset("Llama-3.1-8B", precision="fp8")
    for engine, on in one.engines.items():
        base = Costs.of(one, llama, 2, on.factors)
        better = [
            Costs.of(one._replace(bandwidth=2 * one.bandwidth), llama, 2, on.factors),
            Costs.of(
                one._replace(flops={kind: 2 * peak for kind, peak in one.flops.items()}), llama, 2, on.factors
            ),
            Costs.of(one.ideal(), llama, 2, Factors(request_s=0)),
        ]
        for decoding, prompt in ((1, 0), (64, 0), (0, 2048), (32, 512)):
            load = {
                "decoding": decoding,
                "read_tokens": 1000.0 * decoding,
                "prompt_tokens": prompt,
                "pairs": prompt**2 / 2,
            }
            took = base.step(**load)
            assert all(other.step(**load) <= took for other in better), engine
            assert base.step(**{**load, "read_tokens": load["read_tokens"] + 1}) > took
            assert base.step(**{**load, "decoding": decoding + 1}) >= took


def test_the_simulator_counts_a_request_as_the_formula_does():
    """One request alone: a step of its prompt, then one for each further token over a context that grows by one."""
    costs = Costs.of(card("a100"), preset("Llama-3.1-8B"), 1, card("a100").on("vllm").factors)
    served = closed_loop(
        "vllm", costs, schedulers.scheduler("vllm"), prompt_tokens=100, output_tokens=4, concurrency=1, requests=1, capacity_tokens=10_000
    )  # fmt: skip
    prompt = costs.step(decoding=0, read_tokens=0, prompt_tokens=100, pairs=100 * 101 / 2)
    assert served.ttft_s[0] == pytest.approx(prompt + costs.request_s, abs=1e-6)
    decoded = sum(costs.step(decoding=1, read_tokens=100 + n) for n in range(3))
    assert served.tpot_s[0] == pytest.approx(decoded / 3, rel=1e-3)
