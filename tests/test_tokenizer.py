"""The tokenizer: ids equal to Hugging Face tokenizers whatever serves them, files found, requests encoded."""

import hashlib
import json
import multiprocessing
import pickle
import re
import subprocess
import sys
from datetime import datetime
from importlib import resources

import llama3
import numpy as np
import orjson
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from traceprof import tokenizer as tk
from traceprof.errors import TraceprofError

BYTE_BPE_CORPUS = [
    "the cat sat on the mat, then 12 naïve cafés 漢字 👍",
    "def f(x):\n    return x + 1\n",
] * 50
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def trained(model, trainer, **parts):
    tokenizer = tokenizers.Tokenizer(model)
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    tokenizer.train_from_iterator(BYTE_BPE_CORPUS, trainer)
    return tokenizer


def byte_bpe():
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    tokenizer = trained(
        tokenizers.models.BPE(),
        tokenizers.trainers.BpeTrainer(
            vocab_size=500,
            special_tokens=["<|im_start|>", "<|im_end|>", "<|bos|>"],
            initial_alphabet=byte_level.alphabet(),
            show_progress=False,
        ),
        pre_tokenizer=byte_level(add_prefix_space=False),
        decoder=tokenizers.decoders.ByteLevel(),
    )
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", tokenizer.token_to_id("<|bos|>"))]
    )
    return tokenizer


def unigram():
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
    )
    return trained(
        tokenizers.models.Unigram(),
        trainer,
        normalizer=tokenizers.normalizers.NFKC(),
        pre_tokenizer=tokenizers.pre_tokenizers.Metaspace(),
        decoder=tokenizers.decoders.Metaspace(),
    )


def sentencepiece_bpe():
    """As Llama 2 and Mistral have it: a leading space prepended, unknown characters as bytes."""
    vocab = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{b:02X}>" for b in range(256)),
        "▁",
        *"thecatsonmd",
        "th",
        "the",
        "▁the",
        "▁c",
        "at",
    ]
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "c"), ("a", "t")]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            {token: i for i, token in enumerate(vocab)},
            merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


def word_piece():
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=["[UNK]", "[CLS]"], show_progress=False
    )
    return trained(
        tokenizers.models.WordPiece(unk_token="[UNK]"),
        trainer,
        normalizer=tokenizers.normalizers.BertNormalizer(),
        pre_tokenizer=tokenizers.pre_tokenizers.BertPreTokenizer(),
    )


def made(backend_tokenizer, name="test", template=None, exact=True):
    template = template or tk.ChatTemplate(CHATML)
    return tk.Tokenizer(name, backend_tokenizer.to_str().encode(), template, {}, exact=exact)


@pytest.fixture(scope="module")
def default():
    return tk.load()


@pytest.fixture(scope="module")
def small():
    return made(byte_bpe())


@pytest.fixture(scope="module")
def all_kinds(default, small):
    kinds = {"default": default, "byte bpe": small, "unigram": made(unigram())}
    kinds |= {"sentencepiece bpe": made(sentencepiece_bpe()), "word piece": made(word_piece())}
    if (text := llama3.tokenizer_json()) is not None:
        kinds["llama 3"] = tk.Tokenizer("llama 3", text.encode(), tk.ChatTemplate(CHATML), {}, exact=True)
    for tokenizer in kinds.values():
        assert tokenizer.backend in ("fastokens", "tokenizers")  # builds it: small batches would not
    return kinds


def assert_ids_of_tokenizers(tokenizer, texts, add_special_tokens):
    reference = tokenizer._tokenizers  # the library itself, whatever `backend` says
    encoded = tokenizer.encode(texts, add_special_tokens)
    assert encoded.ids.dtype == np.uint32
    assert encoded.offsets.dtype == np.int64
    assert len(encoded.offsets) == len(texts) + 1
    for text, start, end in zip(texts, encoded.offsets, encoded.offsets[1:], strict=False):
        assert (
            encoded.ids[start:end].tolist()
            == reference.encode(text, add_special_tokens=add_special_tokens).ids
        ), text
    assert encoded.offsets[-1] == len(encoded.ids)


# --- ids


def test_fast_library_serves_the_tokenizers_that_matter(all_kinds):
    """Else every other test of equality would compare tokenizers with itself."""
    assert all_kinds["default"].backend == "fastokens"
    assert all_kinds["byte bpe"].backend == "fastokens"
    if "llama 3" in all_kinds:
        assert all_kinds["llama 3"].backend == "fastokens"


@pytest.mark.parametrize(
    "kind", ["default", "byte bpe", "unigram", "sentencepiece bpe", "word piece", "llama 3"]
)
def test_ids_are_those_of_tokenizers_for_the_probe_texts(all_kinds, kind):
    if kind not in all_kinds:
        pytest.skip("llama-models is not installed")
    for add_special_tokens in (False, True):
        assert_ids_of_tokenizers(all_kinds[kind], tk.probe_texts(all_kinds[kind]), add_special_tokens)


SCRIPTS = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from(" \t\n\r\x00'.,0123456789aeinrst"),
        st.characters(min_codepoint=0x300, max_codepoint=0x36F),
        st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF),
        st.characters(min_codepoint=0x1F300, max_codepoint=0x1FAFF),
    ),
    max_size=60,
)


@settings(max_examples=250, deadline=None)
@given(data=st.data(), add_special_tokens=st.booleans())
def test_ids_are_those_of_tokenizers_for_any_text(all_kinds, data, add_special_tokens):
    kind = data.draw(st.sampled_from(sorted(all_kinds)))
    tokenizer = all_kinds[kind]
    special = sorted(t.content for t in tokenizer._tokenizers.get_added_tokens_decoder().values())
    piece = SCRIPTS | st.sampled_from([*special, "<|", "|>", "  ", "\n\n"])
    texts = data.draw(st.lists(st.lists(piece, max_size=8).map("".join), max_size=4))
    assert_ids_of_tokenizers(tokenizer, texts, add_special_tokens)


def test_small_and_large_batches_give_equal_ids(all_kinds):
    """The switch to the fast library in the middle of a log changes nothing."""
    texts = ["Hello <|im_end|> world 漢字 " * 20, "x"]
    fresh = tk.load()
    before = fresh.encode(texts, False)
    assert "_fastokens" not in fresh.__dict__
    large = fresh.encode(["word " * (tk.FAST_FROM_CHARS // 5), *texts], False)
    assert "_fastokens" in fresh.__dict__
    after = fresh.encode(texts, False)
    assert np.array_equal(before.ids, after.ids)
    assert np.array_equal(large.ids[large.offsets[1] :], after.ids)


def test_lone_surrogates_count_as_replacement_characters(all_kinds):
    for tokenizer in all_kinds.values():
        for add_special_tokens in (False, True):
            broken = tokenizer.encode(["ok", "a\ud800b\udfff", "\udc00\ud83d"], add_special_tokens)
            mended = tokenizer.encode(["ok", "a\ufffdb\ufffd", "\ufffd\ufffd"], add_special_tokens)
            assert np.array_equal(broken.ids, mended.ids)


def test_batch_on_which_the_fast_library_fails_goes_to_tokenizers():
    class Panic(BaseException):
        """What a panic in Rust looks like from here."""

    class Failing:
        def encode_batch_flat(self, *_):
            raise Panic

    tokenizer = made(byte_bpe())
    tokenizer.__dict__["_fastokens"] = Failing()
    assert_ids_of_tokenizers(tokenizer, ["the cat", ""], True)


def test_truncation_and_padding_of_the_file_are_ignored():
    cut = byte_bpe()
    cut.enable_truncation(3)
    cut.enable_padding(length=8)
    tokenizer = made(cut)
    whole = made(byte_bpe()).encode(["the cat sat on the mat", "the"], False)
    assert np.array_equal(tokenizer.encode(["the cat sat on the mat", "the"], False).ids, whole.ids)
    assert tokenizer.backend == "fastokens"
    assert np.array_equal(tokenizer.encode(["the cat sat on the mat", "the"], False).ids, whole.ids)


def test_no_texts_give_no_ids(small):
    encoded = small.encode([], False)
    assert encoded.ids.tolist() == []
    assert encoded.offsets.tolist() == [0]


@given(text=SCRIPTS)
def test_decode_gives_back_the_text(default, text):
    assert default.decode(default.encode([text], False).ids) == text


# --- the built-in tokenizer


def test_built_in_tokenizer_is_the_file_its_license_names(default):
    license_text = (resources.files("traceprof") / "data" / "deepseek-v4.LICENSE").read_text()
    (digest,) = re.findall(r"sha256 of tokenizer.json: (\w{64})", license_text)
    assert hashlib.sha256(default._json).hexdigest() == digest
    assert "MIT" in license_text


def test_built_in_tokenizer_says_that_it_is_a_stand_in(default):
    assert default.name == "DeepSeek-V4 (built in)"
    assert default.exact is False
    assert default.vocab_size == 129280
    assert default.special_tokens == {
        "bos_token": "<｜begin▁of▁sentence｜>",
        "eos_token": "<｜end▁of▁sentence｜>",
    }
    assert default.digest == tk.load(None).digest


def test_import_loads_no_heavy_library():
    heavy = ["tokenizers", "fastokens", "jinja2", "huggingface_hub", "numpy", "pyarrow", "orjson"]
    code = f"import sys, traceprof.tokenizer; print([m for m in {heavy} if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


# --- load


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    byte_bpe().save(str(folder / "tokenizer.json"))
    config = {
        "bos_token": {"content": "<|bos|>", "lstrip": False},
        "eos_token": "<|im_end|>",
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**config, "chat_template": "config {{ bos_token }}"})
    )
    return folder


def rendered(tokenizer, tools=None):
    return tokenizer.template.render([{"role": "user", "content": "x"}], tools)


def test_folder_gives_tokenizer_template_and_special_tokens(folder):
    tokenizer = tk.load(folder)
    assert tokenizer.exact
    assert tokenizer.special_tokens == {"bos_token": "<|bos|>", "eos_token": "<|im_end|>"}
    assert rendered(tokenizer) == "config <|bos|>"
    assert rendered(tk.load(folder / "tokenizer.json")) == "config <|bos|>"
    (folder / "special_tokens_map.json").write_text('{"bos_token": "other", "pad_token": "<pad>"}')
    assert tk.load(folder).special_tokens["bos_token"] == "<|bos|>"
    assert tk.load(folder).special_tokens["pad_token"] == "<pad>"


def test_jinja_file_wins_over_config_and_an_argument_over_both(folder, tmp_path):
    digests = {tk.load(folder).digest}
    (folder / "chat_template.jinja").write_text("file {{ eos_token }}")
    assert rendered(tk.load(folder)) == "file <|im_end|>"
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    assert rendered(tk.load(folder)) == "file <|im_end|>"
    assert rendered(tk.load(folder), [{}]) == "tools"
    digests.add(tk.load(folder).digest)
    (tmp_path / "mine.jinja").write_text("mine")
    given = tk.load(folder, tmp_path / "mine.jinja")
    assert rendered(given) == "mine"
    assert given.exact
    digests.add(given.digest)
    assert len(digests) == 3


def test_named_templates_in_the_config(folder):
    named = [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert rendered(tk.load(folder)) == "d"
    assert rendered(tk.load(folder), [{}]) == "t"


def test_tokenizer_without_template_is_not_exact(folder):
    (folder / "tokenizer_config.json").unlink()
    tokenizer = tk.load(folder)
    assert not tokenizer.exact
    assert rendered(tokenizer).startswith("<|im_start|>user\nx<|im_end|>")
    assert not tk.load(None, None).exact


def test_own_name_for_a_tokenizer_json(folder, tmp_path):
    (folder / "tokenizer.json").rename(tmp_path / "llama.json")
    assert not tk.load(tmp_path / "llama.json").exact


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("no/such/folder", "no such tokenizer; give a folder with tokenizer.json"),
        ("/no/such/tokenizer.json", "no such tokenizer"),
        ("models/tokenizer.json", "no such tokenizer"),
        ("./model", "no such tokenizer"),
        ("gpt2", "no such tokenizer"),
    ],
)
def test_path_that_does_not_exist_is_told(spec, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TraceprofError, match=says):
        tk.load(spec)


def test_hub_name_without_a_hub_names_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(TraceprofError) as caught:
        tk.load("no-such-org/no-such-model")
    assert "give a folder with tokenizer.json" in str(caught.value)
    assert "HF_HUB_OFFLINE" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("tokenizer.json", b"{", "tokenizer.json: not a tokenizer.json"),
        ("tokenizer.json", b"\xff\xfe", "tokenizer.json: not a tokenizer.json"),
        ("tokenizer.json", b'{"model": 1}', "tokenizer.json: not a tokenizer.json"),
        ("tokenizer_config.json", b"{", "tokenizer_config.json: is not JSON"),
        ("tokenizer_config.json", b"[]", "tokenizer_config.json: is not a JSON object"),
        ("special_tokens_map.json", b"\xff", "special_tokens_map.json: is not UTF-8"),
        ("chat_template.jinja", b"{% if %}", "does not compile"),
        ("chat_template.jinja", b"\xff", "chat_template.jinja: is not UTF-8"),
        ("tokenizer_config.json", b'{"chat_template": [{"nom": 1}]}', "tokenizer_config.json: chat_template"),
    ],
)
def test_broken_file_is_named(folder, file, content, says):
    (folder / file).write_bytes(content)
    with pytest.raises(TraceprofError, match=re.escape(says)) as caught:
        tk.load(folder)
    assert "\n" not in str(caught.value)


def test_folder_without_tokenizer_is_told(tmp_path):
    with pytest.raises(TraceprofError, match=r"holds no tokenizer\.json"):
        tk.load(tmp_path)
    with pytest.raises(TraceprofError, match="cannot be read"):
        tk.load(None, tmp_path / "none.jinja")


def test_tokenizer_travels_to_a_worker_process(folder):
    tokenizer = tk.load(folder)
    assert pickle.loads(pickle.dumps(tokenizer)).digest == tokenizer.digest
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        ids, offsets = pool.apply(tokenizer.encode, (["the cat", "sat"], True))
    here = tokenizer.encode(["the cat", "sat"], True)
    assert np.array_equal(ids, here.ids)
    assert np.array_equal(offsets, here.offsets)


# --- encode_requests


def row_ids(encoded, valid):
    return [
        encoded.ids[encoded.offsets[i] : encoded.offsets[i + 1]].tolist() if ok else None
        for i, ok in enumerate(valid)
    ]


def requests(tokenizer, *rows, now=None):
    """Rows of (messages, tools, prompt, output) as plain values -> input texts, output texts, result."""
    dumped = [[None if v is None else orjson.dumps(v).decode() for v in row] for row in rows]
    prompts = [row[2] for row in rows]
    result = tk.encode_requests(
        tokenizer, [r[0] for r in dumped], [r[1] for r in dumped], prompts, [r[3] for r in dumped], now
    )
    texts = [
        [None if ids is None else tokenizer.decode(ids) for ids in row_ids(*columns)]
        for columns in ((result.input, result.input_valid), (result.output, result.output_valid))
    ]
    return (*texts, result)


HI = [{"role": "user", "content": "Hi 漢字"}]


def test_chat_prompt_and_nothing_side_by_side(small):
    inputs, outputs, result = requests(
        small,
        (HI, None, None, {"role": "assistant", "content": "Yo <|im_end|>?"}),
        (None, None, "Once upon", "a time"),
        (None, None, None, "unasked"),
        (HI, None, "ignored", None),
        (None, None, "", {"text": "t"}),
        ([], None, None, None),
    )
    chat = "<|im_start|>user\nHi 漢字<|im_end|>\n<|im_start|>assistant\n"
    assert inputs == [chat, "<|bos|>Once upon", None, chat, "<|bos|>", None]
    assert outputs == ["Yo <|im_end|>?", "a time", None, None, "t", None]
    assert result.errors == [None] * 6
    assert result.input_valid.tolist() == [True, True, False, True, True, False]
    assert result.output_valid.tolist() == [True, True, False, False, True, False]
    assert result.input.offsets[-1] == len(result.input.ids)
    assert len(result.input.offsets) == len(result.output.offsets) == 7


@pytest.mark.parametrize(
    "output",
    [
        {"role": "assistant", "content": "Yo"},
        {"content": "Yo"},
        "Yo",
        ["Yo", "other choice"],
        [{"message": {"role": "assistant", "content": "Yo"}, "index": 0}, {"message": {"content": "No"}}],
        {"role": "assistant", "content": [{"type": "text", "text": "Yo"}]},
    ],
)
def test_output_is_found_in_each_of_its_shapes(small, default, output):
    for tokenizer in (small, default):
        assert requests(tokenizer, (HI, None, None, output))[1] == ["Yo"]
        assert requests(tokenizer, (None, None, "p", output))[1] == ["Yo"]


@pytest.mark.parametrize("output", [[], None, 3, {"role": "assistant"}, {"content": None}])
def test_prompt_with_unknown_output_has_none(small, output):
    assert requests(small, (None, None, "p", output))[1] == [None]


def test_tool_calls_are_output_as_the_template_writes_them(default):
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a":  1}'}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    inputs, outputs, _ = requests(default, (HI, tools, None, {"content": None, "tool_calls": [call]}))
    assert outputs == [
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
    ]
    assert json.dumps(tools[0]) in inputs[0]


def test_template_that_shows_answers_otherwise_falls_back_to_the_content(small):
    hides = tk.ChatTemplate("{{ messages|length }}{% if add_generation_prompt %}>{% endif %}")
    refuses = tk.ChatTemplate("{% if messages|length > 1 %}{{ raise_exception('no') }}{% endif %}x")
    for template in (hides, refuses):
        tokenizer = made(byte_bpe(), template=template)
        _, outputs, result = requests(tokenizer, (HI, None, None, "Yo"))
        assert outputs == ["Yo"]
        assert result.errors == [None]


def test_row_that_cannot_be_rendered_fails_alone(small):
    picky = tk.ChatTemplate(
        "{% if messages[0].role != 'user' %}{{ raise_exception('only\nusers') }}{% endif %}ok"
    )
    tokenizer = made(byte_bpe(), template=picky)
    good, bad = orjson.dumps(HI).decode(), '[{"role": "robot"}]'
    result = tk.encode_requests(
        tokenizer, [good, bad, "{", '["x"]', '{"a": 1}', good], output_json=[None] * 5 + ["{"]
    )
    assert result.errors[0] is None
    assert "only users" in result.errors[1]
    assert "not JSON" in result.errors[2]
    assert "not an object" in result.errors[3]
    assert "not a list" in result.errors[4]
    assert "outputs are not JSON" in result.errors[5]
    assert result.input_valid.tolist() == [True, False, False, False, False, True]
    assert not result.output_valid.any()
    assert result.input.offsets.tolist()[1:6] == [result.input.offsets[1]] * 5


def test_developer_is_called_system_where_the_template_refuses_it(small, default):
    picky = tk.ChatTemplate(
        "{% for m in messages %}{% if m.role == 'developer' %}{{ raise_exception('no') }}{% endif %}{{ m.role }} {% endfor %}"
    )
    chat = [{"role": "developer", "content": "d"}, *HI]
    assert requests(made(byte_bpe(), template=picky), (chat, None, None, "x"))[:2] == (
        ["system user "],
        ["assistant "],
    )
    assert requests(small, (chat, None, None, None))[0][0].startswith("<|im_start|>developer\n")


def test_media_are_counted_and_keep_their_identity(small):
    def chat(url):
        return [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "see"},
                    {"type": "image_url", "image_url": {"url": url}},
                ],
            }
        ]

    inputs, _, result = requests(
        small, *((chat(url), None, None, None) for url in ("a", "a", "b")), (HI, None, None, None)
    )
    assert result.media_parts.tolist() == [1, 1, 1, 0]
    assert inputs[0] == inputs[1] != inputs[2]


def test_template_sees_the_time_of_the_request(small):
    dated = made(byte_bpe(), template=tk.ChatTemplate("{{ strftime_now('%d %b %Y') }}"))
    days = [datetime(2024, 1, 2), datetime(2024, 1, 3)]
    assert requests(dated, (HI, None, None, None), (HI, None, None, None), now=days)[0] == [
        "02 Jan 2024",
        "03 Jan 2024",
    ]


def test_json_that_only_python_reads_is_read(small):
    result = tk.encode_requests(small, ['[{"role": "user", "content": "a\\ud800", "x": NaN}]'])
    assert result.errors == [None]
    assert "a\ufffd" in small.decode(result.input.ids)


def test_empty_batch(small):
    result = tk.encode_requests(small, [])
    assert result.errors == []
    assert result.input.offsets.tolist() == result.output.offsets.tolist() == [0]


def test_turns_of_a_conversation_share_their_prefix(default):
    """What the whole product counts: each prompt begins with the prompt and output before it."""
    chat, rows = [{"role": "system", "content": "Be brief."}], []
    for turn in range(4):
        chat = [*chat, {"role": "user", "content": f"Question {turn}?\n"}]
        answer = {"role": "assistant", "content": f"Answer {turn}."}
        rows.append((chat, [{"name": "f"}], None, answer))
        chat = [*chat, answer]
    _, _, result = requests(default, *rows)
    inputs, outputs = row_ids(result.input, result.input_valid), row_ids(result.output, result.output_valid)
    for earlier, output, later in zip(inputs, outputs, inputs[1:], strict=False):
        known = earlier + output
        assert later[: len(known)] == known


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.none()
            | st.lists(
                st.fixed_dictionaries(
                    {"role": st.sampled_from(["user", "assistant", "tool"]), "content": SCRIPTS}
                ),
                max_size=3,
            ),
            st.none() | SCRIPTS,
            st.none() | SCRIPTS,
        ),
        max_size=6,
    )
)
def test_batch_equals_its_rows_one_by_one(small, rows):
    full = [(messages, None, prompt, output) for messages, prompt, output in rows]
    _, _, together = requests(small, *full)
    alone = [requests(small, row)[2] for row in full]
    for side in ("input", "output"):
        assert row_ids(getattr(together, side), getattr(together, f"{side}_valid")) == [
            row_ids(getattr(one, side), getattr(one, f"{side}_valid"))[0] for one in alone
        ]


def test_a_template_that_always_asks_for_an_answer_does_not_lengthen_outputs():
    """Some templates ignore add_generation_prompt; what they append after an answer was not generated."""
    always = tk.ChatTemplate(
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|end|>{% endfor %}<assistant>",
        end_of_turn=("<|end|>",),
    )
    assert requests(made(byte_bpe(), template=always), (HI, None, None, "fine"))[1] == ["fine"]
