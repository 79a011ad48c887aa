"""Prompts as tokens, and words to answer with, for engines that have no model.

Pieces()          a word of up to 4 letters with the space before it is a token, a longer word is several: no tokenizer of any
                  model, but text that begins alike has tokens that begin alike, and a chat that goes on repeats what was said
Exact(tokenizer)  a model's own tokenizer and chat template (`traceprof.tokenizer`): prompts have the lengths that the engine counts
"""

from __future__ import annotations

import json
import re
import zlib
from array import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from traceprof.tokenizer import Tokenizer

WORDS = (
    " amet", " elit", " enim", " quis", " nisi", " aute", " sint", " sunt", " anim", " erat", " diam", " nunc", " eget", " arcu",
    " odio", " nibh", " urna", " orci", " ante", " quam", " sede", " vita", " odia", " eros", " nisl", " pede", " ipsa", " illo",
)  # fmt: skip
"""What answers are made of: each one token of `Pieces`, also when it stands in a longer text."""

_PIECE = re.compile(r"\s?[^\s]{1,4}|\s")


class PromptError(ValueError):
    """A prompt that cannot be made into tokens."""


class Prompts(Protocol):
    """How prompts become tokens, packed as `live_caches` has them."""

    @property
    def words(self) -> Sequence[str]:
        """What answers are made of."""

    @property
    def vocabulary(self) -> Sequence[bytes]:
        """The token of each word."""

    def text(self, text: str) -> bytes:
        """Of a text."""

    def chat(self, messages: list[Any], tools: list[Any] | None) -> bytes:
        """Of a chat."""


def packed(tokens: Iterable[int]) -> bytes:
    """Tokens as bytes.

    >>> packed([1, 2]).hex()
    '01000000000000000200000000000000'
    """
    return array("q", tokens).tobytes()


class Pieces:
    """Cheap and always the same; see the module's docstring.

    >>> len(Pieces().text("What is an engine?")) // 8
    5
    """

    def __init__(self) -> None:
        self.words = WORDS
        self.vocabulary = [self.text(word) for word in WORDS]

    def text(self, text: str) -> bytes:
        """The checksum of each piece stands for it."""
        return packed(zlib.crc32(piece.encode("utf-8", "surrogatepass")) for piece in _PIECE.findall(text))

    def chat(self, messages: list[Any], tools: list[Any] | None) -> bytes:
        """Written like ChatML, the tools before all."""
        written = [json.dumps(tools), "\n"] if tools else []
        for message in messages:
            if not isinstance(message, dict):
                raise PromptError("a message is no object")
            calls = message.get("tool_calls")
            written += ["<|im_start|>", str(message.get("role")), "\n", _words(message.get("content"))]
            written += [json.dumps(calls)] if calls else []
            written.append("<|im_end|>\n")
        return self.text("".join([*written, "<|im_start|>assistant\n"]))


def _words(content: Any) -> str:
    """Of a message: its text, or those of its parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


class Exact:
    """A model's own tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # a word of several tokens would not be one token of an answer
        known = {word: ids for word in WORDS if len(ids := self._plain(word)) == 1} or {WORDS[0]: [0]}
        self.words = list(known)
        self.vocabulary = [packed(ids) for ids in known.values()]

    def _plain(self, text: str) -> list[int]:
        return [int(token) for token in self._tokenizer.encode([text], False).ids]

    def text(self, text: str) -> bytes:
        """As a completions endpoint does, with what the tokenizer puts before."""
        return self._row(None, None, text)

    def chat(self, messages: list[Any], tools: list[Any] | None) -> bytes:
        """Through the chat template."""
        return self._row(json.dumps(messages), json.dumps(tools) if tools else None, None)

    def _row(self, messages: str | None, tools: str | None, text: str | None) -> bytes:
        from traceprof.tokenizer import encode_requests

        found = encode_requests(self._tokenizer, [messages], [tools], [text])
        if found.errors[0] is not None:
            raise PromptError(found.errors[0])
        return packed(int(token) for token in found.input.ids)
