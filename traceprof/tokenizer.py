"""One tokenizer with its chat template: requests in, token ids out.

`load` finds the files, `Tokenizer.encode` turns texts into ids, `encode_requests` turns logged requests into the ids an engine
would have seen. Ids are those of Hugging Face `tokenizers`, always: the faster `fastokens` serves only a tokenizer for which it
gave equal ids on a set of awkward texts, and any batch on which it fails goes to `tokenizers`.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from traceprof import templates
from traceprof.errors import TraceprofError
from traceprof.templates import ChatTemplate, TemplateError

if TYPE_CHECKING:
    from datetime import datetime

    import fastokens._native
    import numpy as np
    import numpy.typing as npt
    import tokenizers

    IdArray = npt.NDArray[np.uint32]
    OffsetArray = npt.NDArray[np.int64]

#: Building fastokens takes about 1 s, tokenizers reads about 4 MB/s: below this many characters the build does not pay.
FAST_FROM_CHARS = 2_000_000
#: Bytes that fastokens may keep of texts between special tokens, which chat traffic repeats; its ids stay equal.
SEGMENT_CACHE_BYTES = 64 << 20

_BUILT_IN = "DeepSeek-V4 (built in)"
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_SURROGATE = re.compile("[\ud800-\udfff]")


Json: TypeAlias = str | bytes | memoryview
"""JSON as text or as bytes, wherever they lie."""


class Encoded(NamedTuple):
    """Ids of several texts, end to end.

    Example: ids = [5, 6, 7], offsets = [0, 2, 2, 3]: three texts of 2, 0 and 1 tokens.
    """

    ids: IdArray  # every text's ids, one after another
    offsets: OffsetArray  # len(texts) + 1; text i is ids[offsets[i]:offsets[i + 1]]


class EncodedRequests(NamedTuple):
    """Ids of a batch of requests, row for row."""

    input: Encoded  # prompt tokens; no tokens in a row that is not valid
    input_valid: npt.NDArray[np.bool_]  # False: nothing to tokenize, or an error
    output: Encoded  # tokens the model generated, without the one that ended its turn
    output_valid: npt.NDArray[np.bool_]  # False: output not known
    media_parts: npt.NDArray[np.int32]  # images and the like, counted as the few tokens of their placeholder
    errors: list[str | None]  # what was wrong with a row, whose input or output then has no ids


class Tokenizer:
    """A tokenizer.json and the chat template that goes with it.

    >>> load(None).encode(["Hello", "Hello world"], add_special_tokens=False)
    Encoded(ids=array([19923, 19923,  2058], dtype=uint32), offsets=array([0, 1, 3]))
    """

    def __init__(
        self,
        name: str,
        tokenizer_json: bytes,
        template: ChatTemplate,
        special_tokens: Mapping[str, str],
        *,
        exact: bool,
        path: str | None = None,
        reload: tuple[str | None, str | None] | None = None,
    ) -> None:
        import tokenizers

        try:
            self._tokenizers = tokenizers.Tokenizer.from_buffer(tokenizer_json)
        except Exception as error:  # the library raises bare Exception
            raise TraceprofError(
                f"not a tokenizer.json: {error}",
                path=path or name,
                remedy="give the model's own tokenizer.json",
            ) from error
        # a file may ask for cut or padded ids, which no serving engine does
        self._tokenizers.no_truncation()
        self._tokenizers.no_padding()
        self._json = tokenizer_json
        self._chars_seen = 0
        self.reload = reload  # what `load` was given, to have it again
        self.name = name
        self.template = template
        self.special_tokens = dict(special_tokens)
        self.exact = exact  # False: not the model's own tokenizer or template, so counts are estimates
        self.digest = _digest(tokenizer_json, template)
        added = self._tokenizers.get_added_tokens_decoder().values()
        ends = {token.content for token in added if token.special}
        self._end_of_turn = ends.union(special_tokens.values(), template.end_of_turn) - {""}

    def __reduce__(self) -> tuple[Any, ...]:
        if self.reload is None:
            raise TypeError("only a tokenizer made by load() can be sent to another process")
        return load, self.reload

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return self._tokenizers.get_vocab_size(with_added_tokens=True)

    @property
    def backend(self) -> Literal["fastokens", "tokenizers"]:
        """The library that batches go to, once there is enough text for building it to pay; asking builds it."""
        return "tokenizers" if self._fastokens is None else "fastokens"

    def encode(self, texts: Sequence[str], add_special_tokens: bool) -> Encoded:
        """Token ids of each text; `add_special_tokens` lets the tokenizer put its BOS and the like around a text.

        Lone surrogates, which UTF-8 cannot hold, count as U+FFFD.
        """
        texts = list(texts)
        try:
            return self._encode(texts, add_special_tokens)
        except (UnicodeEncodeError, TypeError):
            return self._encode([_SURROGATE.sub("\ufffd", text) for text in texts], add_special_tokens)

    def decode(self, ids: Sequence[int] | IdArray, special: bool = True) -> str:
        """The text of ids, with their special tokens or without."""
        text: str = self._tokenizers.decode([int(i) for i in ids], skip_special_tokens=not special)
        return text

    def _encode(self, texts: list[str], add_special_tokens: bool) -> Encoded:
        self._chars_seen += sum(map(len, texts))
        worth_building = self._chars_seen >= FAST_FROM_CHARS or "_fastokens" in self.__dict__
        if worth_building and self._fastokens is not None:
            try:
                return _encode_fast(self._fastokens, texts, add_special_tokens)
            except (UnicodeEncodeError, KeyboardInterrupt, SystemExit):
                raise
            except BaseException:  # a panic in Rust is no Exception; the batch is done again below
                pass
        return _encode_reference(self._tokenizers, texts, add_special_tokens)

    @functools.cached_property
    def _fastokens(self) -> fastokens._native.Tokenizer | None:
        """fastokens for this tokenizer, or None where it cannot read it or disagrees with `tokenizers`."""
        try:
            from fastokens._native import Tokenizer as Native

            native = Native.from_json_str(self._json.decode())
            native.no_truncation()
            native.no_padding()
            native.enable_segment_cache(SEGMENT_CACHE_BYTES)
            probes = probe_texts(self)
            for add_special_tokens in (False, True):
                fast = _encode_fast(native, probes, add_special_tokens)
                reference = _encode_reference(self._tokenizers, probes, add_special_tokens)
                if not (_same(fast.ids, reference.ids) and _same(fast.offsets, reference.offsets)):
                    return None
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # not installed, not this kind of model, or a panic in Rust
            return None
        return native


def _encode_fast(native: fastokens._native.Tokenizer, texts: list[str], add_special_tokens: bool) -> Encoded:
    import numpy as np

    ids, offsets = native.encode_batch_flat(texts, add_special_tokens)
    return Encoded(np.frombuffer(ids, "<u4"), np.frombuffer(offsets, "<u8").astype(np.int64))


def _encode_reference(reference: tokenizers.Tokenizer, texts: list[str], add_special_tokens: bool) -> Encoded:
    import numpy as np

    encodings = reference.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
    rows = [encoding.ids for encoding in encodings]
    offsets = _offsets(np.fromiter(map(len, rows), np.int64, len(rows)))
    ids = np.empty(offsets[-1], np.uint32)
    for row, start in zip(rows, offsets, strict=False):
        ids[start : start + len(row)] = row
    return Encoded(ids, offsets)


def _same(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    import numpy as np

    return bool(np.array_equal(a, b))


def _offsets(lengths: OffsetArray) -> OffsetArray:
    import numpy as np

    return np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))


def probe_texts(tokenizer: Tokenizer) -> list[str]:
    """Texts on which tokenizer libraries are apt to differ: what a backend must encode like `tokenizers` to be used."""
    words = [
        "The quick brown fox can't, won't and SHOULDN'T'VE jumped; it's 12:30, $1,234,567.89 (50%)!",
        "def f(x: int) -> str:\n\treturn f'{x:>10}'  # комментарий\n\n\n    if x != 0:\r\n\t\tpass\r\n",
        "naïve café — Ελληνικά Кириллица עברית العربية हिन्दी தமிழ் ไทยภาษา ខ្មែរ አማርኛ ქართული հայերեն",
        "你好，世界。漢字仮名交じり文、カタカナ。한국어 텍스트 ㄱㄴㄷ 𠀀𠮷",
        "👍🏽👩‍👩‍👧‍👦🇩🇪❤️ ☃︎ ½ ² Ⅷ ﬁ ſ ß ẞ İ ı ǆ Å Å Å",
        "a\u0301e\u0308\u0301 \u0301\u0308 x\u200dy\u200bz\u00ad\ufeff \u2028\u2029\u0085 \u00a0\u3000 \u202e\u061c",
        "\x00\x01\x02\x07\x08\x0b\x0c\x1b\x1f\x7f\x80\x9f\ufffd\uffff\U0010ffff\ue000",
        " ",
        "  leading and trailing  ",
        "\n\n \n  \n\t\n" + " " * 300 + "x" + "\n" * 100 + "\t" * 37 + "\r\r\n",
        "1 12 123 1234 12345 0.5 1e-9 ١٢٣ １２３ ²³ 1_000 0xDEADBEEF 3.14.15 --5",
        "Donaudampfschifffahrtsgesellschaftskapitän" * 20,
        "x" * 3000 + "ab" * 500 + "0" * 1000 + "=" * 200 + "-" * 77 + "漢" * 300,
        '{"role": "user", "content": [{"text": "\\u00e9\\n\\"q\\""}]}<b>&amp;</b> http://a.b/c?d=e#f ~/x_y/z.py',
        "<think>\n</think> [INST] [/INST] <s></s> <|im_start|>user\n<|im_end|> ▁▁ Ġ Ċ ĉ <0x0A> [UNK]",
    ]
    added = [t.content for t in tokenizer._tokenizers.get_added_tokens_decoder().values()]
    around = [f"a{t}b {t} \n{t}\n\n{t}{t}{t[:-1]}x{t[1:]} 1{t}2" for t in (*added[:100], *added[-20:])]
    chat = "".join(f"{t} {word}\n" for t, word in zip(added[:50], words * 4, strict=False))
    return ["", *words, *around, chat, " ".join(words), "".join(words)]


# --- finding a tokenizer -----------------------------------------------------------------------------------------------------------


def load(
    spec: str | os.PathLike[str] | None = None, chat_template: str | os.PathLike[str] | None = None
) -> Tokenizer:
    """The tokenizer that `spec` names, with its chat template or the one in the file `chat_template`.

    - a folder with tokenizer.json, and tokenizer_config.json or chat_template.jinja if there are any
    - a tokenizer.json; when it lies in such a folder, with its neighbours
    - a name on the Hugging Face hub: "org/name"
    - None: the built-in tokenizer of DeepSeek-V4 with a template of our own, `exact` False
    """
    reload = (
        None if spec is None else os.fspath(spec),
        None if chat_template is None else os.fspath(chat_template),
    )
    files = _built_in() if spec is None else _find(os.fspath(spec))
    name = _BUILT_IN if spec is None else os.fspath(spec)
    special_tokens = _special_tokens(files)
    exact = spec is not None
    if chat_template is not None:
        template = ChatTemplate(_text(Path(chat_template)), special_tokens, os.fspath(chat_template))
    elif spec is None:
        template = templates.BuiltIn(special_tokens["bos_token"], special_tokens["eos_token"])
    elif source := _template_source(files):
        template = ChatTemplate(source, special_tokens, f"{name}: chat template", exact=exact)
    else:
        template = templates.fallback()
    return Tokenizer(
        name,
        files.tokenizer_json,
        template,
        special_tokens,
        exact=exact and template.exact,
        path=files.path,
        reload=reload,
    )


class _Files(NamedTuple):
    """What a model's folder holds about its tokenizer."""

    path: str  # of tokenizer.json
    tokenizer_json: bytes
    config: dict[str, Any]  # tokenizer_config.json
    special_tokens_map: dict[str, Any]  # special_tokens_map.json, an older home of bos_token and the like
    processor: dict[str, Any]  # chat_template.json, where multimodal models once kept their template
    jinja: dict[str, str]  # chat_template.jinja as "default", additional_chat_templates/NAME.jinja as NAME


def _built_in() -> _Files:
    import lzma
    from importlib import resources

    data = resources.files("traceprof") / "data"
    # kept in the package, not required from PyPI: a default that moved with an upgrade would change every profile
    tokenizer_json = lzma.decompress((data / "deepseek-v4.tokenizer.json.xz").read_bytes())
    config = {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>"}
    return _Files(_BUILT_IN, tokenizer_json, config, {}, {}, {})


def _find(spec: str) -> _Files:
    path = Path(spec).expanduser()
    if path.is_dir():
        return _from_folder(path)
    if path.is_file():
        if path.name == "tokenizer.json":
            return _from_folder(path.parent)
        return _Files(spec, _bytes(path), {}, {}, {}, {})
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", spec) and not spec.endswith(".json"):
        return _from_hub(spec)
    raise TraceprofError("no such tokenizer", path=spec, remedy=_REMEDY)


_REMEDY = "give a folder with tokenizer.json"


def _from_folder(folder: Path) -> _Files:
    if not (folder / "tokenizer.json").is_file():
        raise TraceprofError("holds no tokenizer.json", path=folder, remedy=_REMEDY)
    jinja = {
        path.stem: _text(path) for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))
    }
    if (folder / "chat_template.jinja").is_file():
        jinja["default"] = _text(folder / "chat_template.jinja")
    return _Files(
        os.fspath(folder / "tokenizer.json"),
        _bytes(folder / "tokenizer.json"),
        _json_object(folder / "tokenizer_config.json"),
        _json_object(folder / "special_tokens_map.json"),
        _json_object(folder / "chat_template.json"),
        jinja,
    )


def _from_hub(name: str) -> _Files:
    import huggingface_hub
    from huggingface_hub import constants

    asked = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    offline = asked or not _reachable(constants.ENDPOINT)
    fetch = functools.partial(huggingface_hub.hf_hub_download, name, local_files_only=offline)
    try:
        folder = Path(fetch("tokenizer.json")).parent
    except Exception as error:  # one of a dozen kinds: no such model, no network, not logged in, no disk
        why = (
            "HF_HUB_OFFLINE is set"
            if asked
            else "the hub cannot be reached"
            if offline
            else str(error).strip()[:200]
        )
        raise TraceprofError(
            f"cannot get tokenizer.json of {name!r} from the Hugging Face hub ({why})", remedy=_REMEDY
        ) from error
    for file in (
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "chat_template.json",
    ):
        try:
            fetch(file)
        except huggingface_hub.errors.EntryNotFoundError:
            continue
        except Exception as error:
            if not offline:
                raise TraceprofError(
                    f"cannot get {file} of {name!r} from the Hugging Face hub", remedy=_REMEDY
                ) from error
    return _from_folder(folder)


def _reachable(endpoint: str) -> bool:
    """Whether the hub answers at all; its own client would try for half a minute, with a line on stderr each time."""
    import socket
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    at = urlsplit(endpoint)
    if getproxies() or not at.hostname:
        return True
    try:
        with socket.create_connection(
            (at.hostname, at.port or (80 if at.scheme == "http" else 443)), timeout=5
        ):
            return True
    except OSError:
        return False


def _template_source(files: _Files) -> str | dict[str, str] | None:
    """The template(s) of a model; as in transformers a .jinja file wins over tokenizer_config.json."""
    if files.jinja:
        return files.jinja
    source = files.config.get("chat_template") or files.processor.get("chat_template")
    if isinstance(source, str):
        return source
    if not source:
        return None
    try:
        return {str(named["name"]): str(named["template"]) for named in source}
    except (KeyError, TypeError) as error:
        raise TraceprofError(
            "chat_template is neither a text nor a list of named templates",
            path=Path(files.path).with_name("tokenizer_config.json"),
            remedy="pass --chat-template FILE",
        ) from error


def _special_tokens(files: _Files) -> dict[str, str]:
    """bos_token, eos_token and the like, each in either of its spellings: "<s>" or {"content": "<s>", ...}."""
    tokens = {}
    for key in _NAMED_TOKENS:
        value = files.config.get(key) or files.special_tokens_map.get(key)
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str):
            tokens[key] = value
    return tokens


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TraceprofError(f"cannot be read: {error.strerror}", path=path, remedy=_REMEDY) from error


def _text(path: Path) -> str:
    try:
        return _bytes(path).decode()
    except UnicodeDecodeError as error:
        raise TraceprofError(f"is not UTF-8 text: {error.reason}", path=path) from error


def _json_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(_text(path))
    except ValueError as error:
        raise TraceprofError(f"is not JSON: {error}", path=path, remedy="fetch the file again") from error
    if not isinstance(value, dict):
        raise TraceprofError("is not a JSON object", path=path, remedy="fetch the file again")
    return value


def _digest(tokenizer_json: bytes, template: ChatTemplate) -> str:
    """Names the tokenizer and template together: equal digests give equal ids for equal requests."""
    import hashlib  # loads OpenSSL, a third of this package's start-up

    digest = hashlib.blake2b(tokenizer_json, digest_size=16)
    digest.update(json.dumps([template.sources, template.special_tokens], sort_keys=True).encode())
    return digest.hexdigest()


# --- requests ------------------------------------------------------------------------------------------------------------------------


def encode_requests(
    tokenizer: Tokenizer,
    messages_json: Sequence[Json | None],
    tools_json: Sequence[Json | None] | None = None,
    prompt_text: Sequence[str | None] | None = None,
    output_json: Sequence[Json | None] | None = None,
    now: Sequence[datetime | None] | None = None,
) -> EncodedRequests:
    """Token ids of a batch of logged requests; all sequences have one entry a row.

    Input ids: `messages_json` (OpenAI messages) through the chat template with its generation prompt; without messages,
    `prompt_text` as a completions endpoint encodes it, with the tokenizer's own BOS.
    Output ids: what the template adds when the assistant's message in `output_json` is appended, up to the token that ends its turn;
    for a prompt, the output's text. `now` is what a template's strftime_now() shows: the time of the request.
    A row that cannot be rendered has no ids and says why in `errors`; no row fails the others.
    """
    import numpy as np

    count = len(messages_json)
    nothing: Sequence[None] = [None] * count
    chats = _Texts()
    prompts = _Texts()
    outputs = _Texts()
    errors: list[str | None] = [None] * count
    media_parts = np.zeros(count, np.int32)
    renderer = _Renderer(tokenizer)
    columns = zip(
        messages_json,
        tools_json or nothing,
        prompt_text or nothing,
        output_json or nothing,
        now or nothing,
        strict=True,
    )
    for row, (messages, tools, prompt, output, at) in enumerate(columns):
        try:
            chat = renderer.chat(messages, tools, at)
            if chat is not None:
                chats.add(row, chat.text)
                media_parts[row] = chat.media_parts
                generated = renderer.generated(chat, output)
            elif prompt is not None:
                prompts.add(row, prompt)
                generated = renderer.text(output)
            else:
                continue
        except TemplateError as error:
            errors[row] = str(error)
            continue
        if generated is not None:
            outputs.add(row, generated)
    # chats and outputs go in one call, which keeps all threads busy longer
    plain = tokenizer.encode(chats.texts + outputs.texts, add_special_tokens=False)
    chat_ids, output_ids = _cut(plain, len(chats.texts))
    prompt_ids = tokenizer.encode(prompts.texts, add_special_tokens=True)
    input_rows, output_rows = chats.rows + prompts.rows, outputs.rows
    return EncodedRequests(
        input=_in_rows(
            _interleave(chats.rows, chat_ids, prompts.rows, prompt_ids), sorted(input_rows), count
        ),
        input_valid=_marked(input_rows, count),
        output=_in_rows(output_ids, output_rows, count),
        output_valid=_marked(output_rows, count),
        media_parts=media_parts,
        errors=errors,
    )


class _Texts:
    """Texts to encode and the rows they came from."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.texts: list[str] = []

    def add(self, row: int, text: str) -> None:
        self.rows.append(row)
        self.texts.append(text)


class _Chat(NamedTuple):
    text: str  # the prompt
    messages: list[templates.Message]  # as the template got them
    tools: list[Any] | None
    media_parts: int
    now: datetime | None


class _Renderer:
    """Renders the rows of one batch."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._template = tokenizer.template
        self._end_of_turn = tokenizer._end_of_turn
        # looked up by length: some tokenizers have a thousand special tokens, of twenty lengths
        self._end_lengths = sorted({len(token) for token in self._end_of_turn}, reverse=True)
        self._asks_always: bool | None = (
            None  # whether the template ignores add_generation_prompt; None: not asked yet
        )
        # one parsed value for equal tools, which a log repeats in every request of an application
        self._tools: dict[str | bytes, list[Any] | None] = {}

    def chat(self, messages_json: Json | None, tools_json: Json | None, now: datetime | None) -> _Chat | None:
        messages = _parsed("messages", messages_json)
        if not messages:
            return None
        if not isinstance(messages, list):
            raise TemplateError("messages are not a list")
        tools = self._parsed_tools(tools_json)
        prepared = self._template.prepare(messages, tools)
        messages = prepared.messages
        try:
            text = self._template.render(messages, tools, now=now)
        except TemplateError:
            renamed = templates.developer_as_system(messages)
            if renamed == messages:
                raise
            messages = renamed
            text = self._template.render(messages, tools, now=now)
        return _Chat(text, messages, tools, prepared.media_parts, now)

    def generated(self, chat: _Chat, output_json: Json | None) -> str | None:
        """What the model wrote after the prompt, as the template writes it; None when the log does not tell."""
        message = _assistant_message(output_json)
        if message is None:
            return None
        try:
            answer = self._template.prepare([message], chat.tools).messages
            if isinstance(self._template, templates.BuiltIn):
                return self._template.answer(answer[0])
            whole = self._template.render(
                [*chat.messages, *answer], chat.tools, add_generation_prompt=False, now=chat.now
            )
        except TemplateError:
            return _content_text(message)
        if not whole.startswith(chat.text):
            # the template shows a finished answer otherwise than it asks for one (thinking left out, say)
            return _content_text(message)
        written = whole[len(chat.text) :]
        return self._without_end_of_turn(written[: len(written) - len(self._always_asked(chat, whole))])

    def _always_asked(self, chat: _Chat, whole: str) -> str:
        """The prompt for an answer that some templates write even after one, though asked not to."""
        if self._asks_always is None:
            self._asks_always = self._probe_asks_always()
        if not self._asks_always:
            return ""
        n = 0
        while n < min(len(chat.text), len(whole) - len(chat.text)) and chat.text[-1 - n] == whole[-1 - n]:
            n += 1
        return whole[len(whole) - n :]

    def _probe_asks_always(self) -> bool:
        """Whether add_generation_prompt changes nothing, and a user's turn ends otherwise at the end than in the middle."""
        hello: templates.Message = {"role": "user", "content": "Hello"}
        try:
            one = [self._template.prepare([hello]).messages, self._template.prepare([hello, hello]).messages]
            asked, unasked = (self._template.render(one[0], None, ask) for ask in (True, False))
            middle, end = self._template.render(one[1], None, False).split("Hello")[-2:]
        except (TemplateError, ValueError):
            return False
        return asked == unasked and "Hello" in asked and not middle.startswith(end)

    def text(self, output_json: Json | None) -> str | None:
        """The text of a completion."""
        message = _assistant_message(output_json)
        return None if message is None else _content_text(message)

    def _without_end_of_turn(self, text: str) -> str:
        end = text.rstrip()
        length = next((n for n in self._end_lengths if end[-n:] in self._end_of_turn), 0)
        return end[:-length] if length else text

    def _parsed_tools(self, tools_json: Json | None) -> list[Any] | None:
        if tools_json is None:
            return None
        if isinstance(tools_json, memoryview):
            tools_json = bytes(tools_json)
        if tools_json not in self._tools:
            tools = _parsed("tools", tools_json)
            if tools is not None and not isinstance(tools, list):
                raise TemplateError("tools are not a list")
            # servers treat [] as no tools
            self._tools[tools_json] = templates.shared(tools) if tools else None
        return self._tools[tools_json]


def _parsed(what: str, text: Json | None) -> Any:
    """The JSON value of a text, or None without one."""
    import orjson

    if text is None:
        return None
    try:
        return orjson.loads(text)
    except ValueError:
        try:
            return json.loads(
                bytes(text) if isinstance(text, memoryview) else text
            )  # reads what orjson refuses: NaN, lone surrogates
        except (ValueError, RecursionError) as error:
            raise TemplateError(f"{what} are not JSON") from error


def _assistant_message(output_json: Json | None) -> templates.Message | None:
    """The first choice of a logged output as a message: from a message, a choice around one, a bare text, or a list of these."""
    value = _parsed("outputs", output_json)
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, dict) and isinstance(value.get("message"), dict):
        value = value["message"]
    if isinstance(value, dict) and "content" not in value and isinstance(value.get("text"), str):
        value = value["text"]
    if isinstance(value, str):
        return {"role": "assistant", "content": value}
    return {"role": "assistant", **value} if isinstance(value, dict) else None


def _content_text(message: templates.Message) -> str | None:
    content = message.get("content")
    if isinstance(content, list):
        content = templates.prepare_messages([message], "string").messages[0]["content"]
    return content if isinstance(content, str) else None


def _cut(encoded: Encoded, count: int) -> tuple[Encoded, Encoded]:
    """The first `count` texts and the others."""
    ids, offsets = encoded
    at = offsets[count]
    return Encoded(ids[:at], offsets[: count + 1]), Encoded(ids[at:], offsets[count:] - at)


def _interleave(rows_a: list[int], a: Encoded, rows_b: list[int], b: Encoded) -> Encoded:
    """Two sets of texts as one, in the order of their rows."""
    import numpy as np

    if not rows_b:
        return a
    if not rows_a:
        return b
    pieces = [
        (row, e.ids[e.offsets[i] : e.offsets[i + 1]])
        for rows, e in ((rows_a, a), (rows_b, b))
        for i, row in enumerate(rows)
    ]
    ordered = [ids for _, ids in sorted(pieces, key=lambda piece: piece[0])]
    return Encoded(np.concatenate(ordered), _offsets(np.fromiter(map(len, ordered), np.int64, len(ordered))))


def _in_rows(encoded: Encoded, rows: list[int], count: int) -> Encoded:
    """The same ids with offsets for all `count` rows.  Example: offsets [0, 2], rows [1], count 3 -> [0, 0, 2, 2]"""
    import numpy as np

    lengths = np.zeros(count, np.int64)
    lengths[rows] = np.diff(encoded.offsets)
    return Encoded(encoded.ids, _offsets(lengths))


def _marked(rows: list[int], count: int) -> npt.NDArray[np.bool_]:
    import numpy as np

    marked = np.zeros(count, np.bool_)
    marked[rows] = True
    return marked
