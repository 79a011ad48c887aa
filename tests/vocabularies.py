"""Small tokenizers that know whole words, of the kinds that models have."""

from __future__ import annotations

import json
import random

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TRIMMED = CHATML.replace("m.content", "m.content | trim")
LOUD = CHATML.replace("m.content", "m.content | upper")
WORDS = sorted(
    {
        "".join(random.Random(i).choice("bcdfghklmnprstvw") + random.Random(-i - 1).choice("aeiou") for _ in range(2 + i % 2))
        + random.Random(i * 7).choice("bdgklmnprst")
        for i in range(150)
    }
)  # fmt: skip


def _corpus():
    dice = random.Random(3)
    return [" ".join(dice.choice(WORDS) for _ in range(200)) for _ in range(300)]


def byte_bpe(bos=True):
    """As GPT-2 and Llama 3: a space belongs to the word behind it; BOS before every text."""
    found = tokenizers.Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    found.train_from_iterator(
        [*_corpus(), *(word for word in WORDS for _ in range(50))],
        trainers.BpeTrainer(
            vocab_size=3000,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if bos:
        found.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", found.token_to_id("<s>"))]
        )
    return found


def sentence_piece():
    """As Llama 2: a mark before every word, the first one included; BOS before every text."""
    found = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    found.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    found.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    found.decoder = decoders.Metaspace()
    found.train_from_iterator(
        _corpus(), trainers.BpeTrainer(vocab_size=3000, special_tokens=SPECIAL, show_progress=False)
    )
    found.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", found.token_to_id("<s>"))]
    )
    return found


def framed():
    """As BERT and T5: something before every text and something behind it."""
    found = byte_bpe(bos=False)
    marks = [(mark, found.token_to_id(mark)) for mark in ("<s>", "</s>")]
    found.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=marks)
    return found


KINDS = {"byte bpe": byte_bpe, "sentence piece": sentence_piece, "framed": framed}


def words_tokenizer(folder, kind="byte bpe", template=CHATML):
    """A model's folder with a tokenizer and a chat template; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    KINDS[kind]().save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
