"""Prompts made of a tokenizer's words: text or token ids of planned lengths that share what they are to share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from traceprof.caches.traffic import Traffic
from traceprof.errors import TraceprofError
from traceprof.prefix.tree import RadixTree
from traceprof.workload import vocabulary
from traceprof.workload.content import ids_column
from traceprof.workload.synthesis import Synthesis

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from traceprof.tokenizer import Tokenizer
    from traceprof.workers import Progress

BATCH_TOKENS = 1 << 20
FIRSTS = 10_000  # of the words that can begin a prompt: as many are used, or as there are prompts


class Made(NamedTuple):
    """What decides every prompt; none is kept."""

    synthesis: Synthesis
    words: vocabulary.Vocabulary
    frame: vocabulary.Frame
    tokenizer: Tokenizer
    spoken: bool  # text; else token ids

    @classmethod
    def of(cls, tokenizer: Tokenizer, tree: Traffic, *, spoken: bool, chat: bool, seed: int) -> Made:
        """Prompts that share what those of `tree` do, for the endpoint of completions or of chats.

        Raises TraceprofError where the tokenizer has too few words, or the endpoint changes every text.
        """
        words = vocabulary.vocabulary(tokenizer, seed, unspoken=not spoken)
        frame = vocabulary.NO_FRAME
        if spoken:
            words, frame = vocabulary.framed(tokenizer, words, chat=chat)
        made = Synthesis.of(
            tree,
            tokens=words.spoken if spoken else len(words.ids),
            filler=words.spoken,
            firsts=min(len(words.first_ids), max(FIRSTS, tree.requests)) if spoken else None,
            opening=len(frame.opening),
            seed=seed,
        )
        return cls(made, words, frame, tokenizer, spoken)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens that were planned for each prompt."""
        return self.synthesis.traffic.prompt

    def numbers(self, request: int) -> NDArray[np.int64]:
        """The words of a prompt: all of its tokens but the frame's; at least one."""
        found = self.synthesis.prompt(request)
        words = found[len(self.frame.opening) : max(len(found) - len(self.frame.closing), 0)]
        return words if len(words) else np.array([request % self.synthesis.firsts])

    def ids(self, numbers: NDArray[np.int64]) -> NDArray[np.uint32]:
        """The tokens of a prompt of these words."""
        return np.concatenate([self.frame.opening, self.words.tokens(numbers), self.frame.closing])

    def traffic(self, roots: NDArray[np.int64], progress: Progress) -> Traffic:
        """All prompts as paths of the tree of what they really share; prompts of different roots share no cache."""
        tree = RadixTree(dtype=np.uint32)
        n = len(self.lengths)
        end_node, length = np.zeros(n, np.int64), np.zeros(n, np.int64)
        for where in self.pieces(slice(0, n)):
            ids = [self.ids(self.numbers(i)) for i in range(where.start, where.stop)]
            offsets = np.cumsum([0, *map(len, ids)], dtype=np.int64)
            end_node[where] = tree.insert(np.concatenate(ids), offsets, roots[where]).end_node
            length[where] = np.diff(offsets)
            progress("what prompts share", where.stop, n)
        nothing = np.zeros(n, np.int64)
        return Traffic.of_tree(tree, end_node, length, length, nothing, nothing, nothing, nothing)

    def pieces(self, around: slice) -> Iterator[slice]:
        """A run of prompts in pieces of about BATCH_TOKENS."""
        first = around.start
        while first < around.stop:
            reach = np.cumsum(self.lengths[first : around.stop])
            n = max(1, int(np.searchsorted(reach, BATCH_TOKENS, side="right")))
            yield slice(first, first + n)
            first += n

    def columns(self, where: slice) -> dict[str, Any]:
        """These prompts as columns of a workload. Raises TraceprofError where a text does not come back as planned."""
        numbers = [self.numbers(i) for i in range(where.start, where.stop)]
        ids = [self.ids(one) for one in numbers]
        if not self.spoken:
            return {"prompt_ids": ids_column(ids), "endpoint": pa.array(["ids"] * len(ids))}
        texts = [self.frame.anchor + self.words.text(one) for one in numbers]
        for planned, got in zip(
            ids, vocabulary.encoded(self.tokenizer, texts, chat=self.frame.chat), strict=True
        ):
            if not np.array_equal(planned, got):
                raise TraceprofError(
                    f"a text of {len(planned):,} words comes back from {self.tokenizer.name} as other tokens",
                    remedy="--prompts ids",
                )
        if self.frame.chat:
            said = [vocabulary.messages(text) for text in texts]
            return {
                "messages_json": pa.array(said, pa.large_string()),
                "endpoint": pa.array(["chat"] * len(ids)),
            }
        return {
            "prompt_text": pa.array(texts, pa.large_string()),
            "endpoint": pa.array(["completions"] * len(ids)),
        }

    @property
    def summary(self) -> str:
        """What the prompts are, in words."""
        return f"made of {self.words.spoken:,} words of the tokenizer, as {'text' if self.spoken else 'token ids'}"

    def notes(self, lengths: NDArray[np.int64]) -> list[str]:
        """Where prompts of these real lengths differ from the plan."""
        made, frame = self.synthesis, self.frame
        said = []
        if frame.tokens:
            said.append(
                f"{len(frame.opening)} tokens before and {len(frame.closing)} behind its words stand in every prompt"
            )
        if made.crowded:
            said.append(
                f"{made.crowded:,} prompts or branches begin at one place, more than there are tokens: they differ within "
                f"{int(made.digits.max())} tokens, not in the first"
            )
        if longer := int((lengths > self.lengths).sum()):
            said.append(
                f"{longer:,} prompts are longer than in the trace, which has fewer tokens there than stand in every prompt"
            )
        return said
