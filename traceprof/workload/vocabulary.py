"""Words of a tokenizer that mean one token each wherever they stand, and how a prompt of them is framed.

A text of such words, "w" and then " w" after " w", comes back from the tokenizer as the tokens that were planned. Which words do is
found by trying: each word alone, then all of them in many orders, then each at the beginning; and each prompt that is made of them
is encoded again before it is used. A prompt begins without a space where it can: there are servers and templates that strip one.
"""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from traceprof.errors import TraceprofError
from traceprof.templates import TemplateError
from traceprof.tokenizer import Encoded, encode_requests

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from traceprof.tokenizer import Tokenizer

_WORD = re.compile("[A-Za-z]{2,12}")
_LETTERS = re.compile(r"[^\W\d_]{1,20}")
_MARK = re.compile(r"<.*>|\[.*\]")  # what may well mean something to a template or an engine
FEWEST = 16  # words, below which texts would hardly differ
ENOUGH = 1000  # words to begin with, with which nothing better is looked for
_PROBE = 64  # words of one probe
_ANCHORS = ("", " ", "- ", "Text: ")  # what may stand before the first word
_TRIED = 4_000_000  # characters that may be spent on trying words at the beginning


class Vocabulary(NamedTuple):
    """Tokens to make prompts of, and the words that stand for them."""

    ids: NDArray[np.uint32]  # [word] its token, behind another word
    words: list[str]  # [word]; ids behind them have no word: they are for prompts of ids
    first_words: list[str]  # what can begin a prompt, in an order of its own: ASCII before other letters
    first_ids: NDArray[np.uint32]  # its token there

    @property
    def spoken(self) -> int:
        """How many ids have a word."""
        return len(self.words)

    def text(self, numbers: NDArray[np.int64]) -> str:
        """The words of these numbers; the first of them is one of what can begin a prompt."""
        first, *rest = numbers.tolist()
        return " ".join([self.first_words[first], *(self.words[one] for one in rest)])

    def tokens(self, numbers: NDArray[np.int64]) -> NDArray[np.uint32]:
        """What that text is to come back as, behind what a frame puts before it."""
        return np.concatenate([self.first_ids[numbers[:1]], self.ids[numbers[1:]]])


class Frame(NamedTuple):
    """What stands around the words of a prompt, on one endpoint."""

    chat: bool  # one user message through the chat template; else the text of a completion
    anchor: str  # text before the first word
    opening: NDArray[np.uint32]  # tokens before the first word's
    closing: NDArray[np.uint32]  # tokens behind the last word's

    @property
    def tokens(self) -> int:
        """Of every prompt, however short."""
        return len(self.opening) + len(self.closing)


NO_FRAME = Frame(False, "", np.empty(0, np.uint32), np.empty(0, np.uint32))


@functools.lru_cache(maxsize=4)
def vocabulary(tokenizer: Tokenizer, seed: int, *, unspoken: bool = False) -> Vocabulary:
    """The words of a tokenizer in an order of the seed's; `unspoken` adds all its other ordinary tokens behind them.

    What can begin a prompt is not known yet: see `framed`.

    Raises TraceprofError where too few words stand for themselves.
    """
    random = np.random.default_rng([seed, 1])
    found: dict[str, int] = {}
    letters: set[str] = set()
    other: list[int] = []
    for token in range(tokenizer.vocab_size):
        said = tokenizer.decode([token], special=False)
        if _LETTERS.fullmatch(said.strip()):
            letters.add(said.strip())
        if _WORD.fullmatch(said.strip()):
            found.setdefault(said.strip(), token)
        elif said and not _MARK.fullmatch(said.strip()):
            other.append(token)
    words = sorted(found)
    twice = _encoded(tokenizer, [f" {word} {word}" for word in words])
    # an added "▁" before the first word is the tokenizer's, and the same for all
    lengths = np.array([len(ids) for ids in twice])
    usual = lengths.min(initial=9)
    ids = {
        word: int(got[-1])
        for word, got in zip(words, twice, strict=True)
        if len(got) == usual <= 3 and got[-1] == got[-2]
    }
    words = _standing(tokenizer, ids, random)
    if len(words) < FEWEST:
        raise TraceprofError(
            f"only {len(words)} words of the tokenizer {tokenizer.name} are one token wherever they stand",
            remedy="give the --tokenizer of the model that is to be asked",
        )
    order = [words[i] for i in random.permutation(len(words))]
    all_ids = [ids[word] for word in order]
    if unspoken:
        rest = sorted({*other, *found.values()} - set(all_ids))
        all_ids += [rest[i] for i in random.permutation(len(rest))]
    as_array = np.array(all_ids, np.uint32)
    if unspoken:
        return Vocabulary(as_array, order, [], as_array)
    firsts = sorted(letters)
    firsts = [firsts[i] for i in random.permutation(len(firsts))]
    firsts.sort(key=lambda word: not word.isascii())
    return Vocabulary(as_array, order, firsts, np.empty(0, np.uint32))


def _encoded(tokenizer: Tokenizer, texts: list[str], special: bool = False) -> list[NDArray[np.uint32]]:
    return _split(tokenizer.encode(texts, add_special_tokens=special))


def _split(got: Encoded) -> list[NDArray[np.uint32]]:
    return [got.ids[a:b] for a, b in zip(got.offsets[:-1], got.offsets[1:], strict=True)]


def _standing(tokenizer: Tokenizer, ids: dict[str, int], random: np.random.Generator) -> list[str]:
    """Those words that come back as themselves in whatever company: all are tried in several orders, and what fails is dropped."""
    words = sorted(ids)
    for _ in range(8):
        clean = True
        for _ in range(3):
            order = [words[i] for i in random.permutation(len(words))]
            groups = [order[i : i + _PROBE] for i in range(0, len(order), _PROBE)]
            texts = ["".join(f" {word}" for word in group) for group in groups]
            for group, got in zip(groups, _encoded(tokenizer, texts), strict=True):
                planned = np.array([ids[word] for word in group if word in ids], np.uint32)
                if len(planned) < len(group):
                    continue  # one of them has been dropped in this round
                agree = 0  # back from the end; the word where it stops is the culprit
                while agree < min(len(got), len(planned)) and got[-1 - agree] == planned[-1 - agree]:
                    agree += 1
                if agree < len(planned):
                    clean = False
                    del ids[group[len(group) - 1 - agree]]
        words = sorted(ids)
        if clean:
            return words
    return []


# -- what stands around them -------------------------------------------------------------------------------------


def framed(tokenizer: Tokenizer, words: Vocabulary, *, chat: bool) -> tuple[Vocabulary, Frame]:
    """What the endpoint puts around a prompt's words, and the vocabulary with what can begin one there.

    Around them stand the tokenizer's own BOS, the chat template, an anchor before the first word where it is needed.
    Raises TraceprofError where no way is found in which words stay themselves.
    """
    before, behind = _rendered(tokenizer) if chat else ("", "")
    best: tuple[Vocabulary, Frame] | None = None
    for anchor in _ANCHORS:
        found = _behind(tokenizer, words, before + anchor, behind, Frame(chat, anchor, *NO_FRAME[2:]))
        if found and (best is None or len(found[0].first_ids) > len(best[0].first_ids)):
            best = found
        if best and len(best[0].first_ids) >= min(ENOUGH, len(words.first_words) // 4):
            break
    if best is None:
        raise _changed(tokenizer, chat)
    return best


def _changed(tokenizer: Tokenizer, chat: bool) -> TraceprofError:
    return TraceprofError(
        f"the {'chat template' if chat else 'tokenizer'} of {tokenizer.name} changes every text that is put into it",
        remedy="--prompts ids" + (", or --endpoint completions" if chat else ""),
    )


def _rendered(tokenizer: Tokenizer) -> tuple[str, str]:
    """What the chat template writes before and behind the text of a user's message."""
    text = "aaaa bbbb"
    template = tokenizer.template
    try:
        whole = template.render(template.prepare(json.loads(messages(text))).messages)
    except TemplateError as bad:
        raise TraceprofError(
            f"a user message cannot be rendered: {bad}", remedy="--endpoint completions"
        ) from None
    before, found, behind = whole.rpartition(text)
    if not found:
        raise _changed(tokenizer, True)
    return before, behind


def _behind(
    tokenizer: Tokenizer, words: Vocabulary, before: str, behind: str, frame: Frame
) -> tuple[Vocabulary, Frame] | None:
    """Words that come back as one token of their own behind a text; None where there are too few."""
    most = max(ENOUGH, _TRIED // (len(before) + len(behind) + 20))
    x, y = words.words[:2]
    then = words.ids[:2].tolist()
    texts = [f"{before}{word} {x} {y}{behind}" for word in words.first_words[:most]]
    seen: list[tuple[tuple[int, ...], int, tuple[int, ...]]] = []
    for got in _encoded(tokenizer, texts, special=not frame.chat):
        at = np.flatnonzero((got[:-1] == then[0]) & (got[1:] == then[1]))
        k = int(at[-1]) if len(at) else 0
        seen.append(
            (tuple(got[: k - 1].tolist()), int(got[k - 1]), tuple(got[k + 2 :].tolist()))
            if k
            else ((), -1, ())
        )
    around = Counter((before, behind) for before, token, behind in seen if token >= 0).most_common(1)
    if not around:
        return None
    opening, closing = around[0][0]
    taken = Counter(token for _, token, _ in seen)
    firsts = {
        word: token
        for word, (before, token, behind) in zip(words.first_words, seen, strict=False)
        if (before, behind) == (opening, closing) and token >= 0 and taken[token] == 1
    }
    if len(firsts) < FEWEST // 2:
        return None
    told = words._replace(first_words=list(firsts), first_ids=np.array(list(firsts.values()), np.uint32))
    return told, frame._replace(opening=np.array(opening, np.uint32), closing=np.array(closing, np.uint32))


def encoded(tokenizer: Tokenizer, texts: list[str], *, chat: bool) -> list[NDArray[np.uint32]]:
    """The tokens that an engine makes of each text, as a completion's prompt or as one user message."""
    if not chat:
        return _encoded(tokenizer, texts, special=True)
    said = encode_requests(tokenizer, [messages(text) for text in texts])
    if bad := next((error for error in said.errors if error is not None), None):
        raise TraceprofError(f"a user message cannot be rendered: {bad}", remedy="--endpoint completions")
    return _split(said.input)


def messages(text: str) -> str:
    """One user message, as JSON."""
    return json.dumps([{"role": "user", "content": text}], ensure_ascii=False)
