"""Write a tiny Llama with random weights, as a Hugging Face directory and as GGUF: `python tiny_model.py DIR` (DIR and DIR.gguf).

Two layers, hidden size 256, 4,096 pieces of a byte-level BPE trained on the standard library's own source, ChatML. A head of 64
because vLLM's CPU attention takes only certain sizes. Rows of the output matrix that belong to special or unprintable pieces are
zero, so that a greedy answer never ends early and never cuts a character: max_tokens=N gives exactly N tokens on every engine.
"""

from __future__ import annotations

import json
import sys
import sysconfig
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY, HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD, FEED_FORWARD, CONTEXT = 4096, 256, 2, 4, 2, 64, 512, 8192
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tokenizer(out: Path) -> tuple[list[str], list[str]]:
    """Train the tokenizer, save it, and give its pieces and merges."""
    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    found.decoder = decoders.ByteLevel()
    source = sorted(map(str, Path(sysconfig.get_paths()["stdlib"]).glob("*.py")))[:120]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    found.train(source, trainer)
    found.save(str(out / "tokenizer.json"))
    model = json.loads((out / "tokenizer.json").read_text("utf-8"))["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return pieces, [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]


def weights(pieces: list[str]) -> dict[str, np.ndarray]:
    """Random weights under Hugging Face's names."""
    random = np.random.default_rng(0)

    def some(*shape: int, scale: float = 0.05) -> np.ndarray:
        return (random.standard_normal(shape) * scale).astype(np.float32)

    head = some(len(pieces), HIDDEN, scale=1.0)
    for i, piece in enumerate(pieces):
        if piece in SPECIAL or not all(33 <= ord(c) < 127 or c == "\u0120" for c in piece):
            head[i] = 0
    found = {
        "model.embed_tokens.weight": some(len(pieces), HIDDEN, scale=1.0),
        "model.norm.weight": np.ones(HIDDEN, np.float32),
        "lm_head.weight": head,
    }
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        found |= {
            at + "self_attn.q_proj.weight": some(HEADS * HEAD, HIDDEN),
            at + "self_attn.k_proj.weight": some(KV_HEADS * HEAD, HIDDEN),
            at + "self_attn.v_proj.weight": some(KV_HEADS * HEAD, HIDDEN),
            at + "self_attn.o_proj.weight": some(HIDDEN, HEADS * HEAD),
            at + "mlp.gate_proj.weight": some(FEED_FORWARD, HIDDEN),
            at + "mlp.up_proj.weight": some(FEED_FORWARD, HIDDEN),
            at + "mlp.down_proj.weight": some(HIDDEN, FEED_FORWARD),
            at + "input_layernorm.weight": np.ones(HIDDEN, np.float32),
            at + "post_attention_layernorm.weight": np.ones(HIDDEN, np.float32),
        }
    return found


def hugging_face(out: Path, pieces: list[str], held: dict[str, np.ndarray]) -> None:
    """The directory that vLLM loads; the tokenizer is in it already."""
    names = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[2], "pad_token": SPECIAL[0]}
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD,
        "vocab_size": len(pieces), "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "hidden_act": "silu", "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0,
        "torch_dtype": "float32", "attention_bias": False, "mlp_bias": False,
    }  # fmt: skip
    of_tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False, "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False, "chat_template": TEMPLATE, **names,
    }  # fmt: skip
    for name, value in (
        ("config", config),
        ("tokenizer_config", of_tokenizer),
        ("special_tokens_map", names),
        ("generation_config", {"bos_token_id": 0, "eos_token_id": 2, "do_sample": False}),
    ):
        (out / f"{name}.json").write_text(json.dumps(value, indent=1), "utf-8")
    (out / "chat_template.jinja").write_text(TEMPLATE, "utf-8")
    save_file(held, out / "model.safetensors", metadata={"format": "pt"})


def llama_cpp(out: Path, pieces: list[str], merges: list[str], held: dict[str, np.ndarray]) -> None:
    """The same as one GGUF file; rotary halves of q and k interleaved, as llama.cpp wants them."""

    def interleaved(matrix: np.ndarray, heads: int) -> np.ndarray:
        rows, columns = matrix.shape
        return matrix.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)

    file = gguf.GGUFWriter(out, "llama")
    file.add_name("tiny-random-llama")
    file.add_context_length(CONTEXT)
    file.add_embedding_length(HIDDEN)
    file.add_block_count(LAYERS)
    file.add_feed_forward_length(FEED_FORWARD)
    file.add_head_count(HEADS)
    file.add_head_count_kv(KV_HEADS)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_rope_freq_base(10000.0)
    file.add_key_length(HEAD)
    file.add_value_length(HEAD)
    file.add_vocab_size(len(pieces))
    file.add_file_type(0)
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre("gpt-2")
    file.add_token_list(pieces)
    file.add_token_types([3 if piece in SPECIAL else 1 for piece in pieces])
    file.add_token_merges(merges)
    file.add_bos_token_id(0)
    file.add_eos_token_id(2)
    file.add_add_bos_token(False)
    file.add_chat_template(TEMPLATE)
    file.add_tensor("token_embd.weight", held["model.embed_tokens.weight"])
    file.add_tensor("output_norm.weight", held["model.norm.weight"])
    file.add_tensor("output.weight", held["lm_head.weight"])
    for layer in range(LAYERS):
        at, to = f"model.layers.{layer}.", f"blk.{layer}."
        file.add_tensor(to + "attn_q.weight", interleaved(held[at + "self_attn.q_proj.weight"], HEADS))
        file.add_tensor(to + "attn_k.weight", interleaved(held[at + "self_attn.k_proj.weight"], KV_HEADS))
        for theirs, ours in (
            ("self_attn.v_proj", "attn_v"),
            ("self_attn.o_proj", "attn_output"),
            ("mlp.gate_proj", "ffn_gate"),
            ("mlp.up_proj", "ffn_up"),
            ("mlp.down_proj", "ffn_down"),
            ("input_layernorm", "attn_norm"),
            ("post_attention_layernorm", "ffn_norm"),
        ):
            file.add_tensor(f"{to}{ours}.weight", held[f"{at}{theirs}.weight"])
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    pieces, merges = tokenizer(out)
    held = weights(pieces)
    hugging_face(out, pieces, held)
    llama_cpp(out.with_name(out.name + ".gguf"), pieces, merges, held)


if __name__ == "__main__":
    main()
