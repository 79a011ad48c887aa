"""Whole sequences, as mlx-lm and vllm-mlx keep them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from traceprof.caches import mlx_lm, vllm_mlx
from traceprof.simulate.live_caches.base import TOKEN_BYTES, Holder, common


class Sequences:
    """mlx-lm's whole sequences, of which a prompt copies what it shares with the nearest."""

    def __init__(self, tokens: int, sequences: int = mlx_lm.SEQUENCES, *, chat: int = 1) -> None:
        self.limit = 1 << 60  # running requests are not bounded by it
        self._tokens, self._most = tokens, sequences
        self._prompts = "user" if chat else "assistant"
        self._running: dict[int, int] = {}
        self.flush()

    def flush(self) -> bool:
        """Running requests have copies of their own."""
        self._queues: dict[str, list[tuple[str, bytes]]] = {"assistant": [], "user": []}  # oldest first
        return True

    def used(self) -> int:
        """Tokens of running requests."""
        return sum(self._running.values())

    def _all(self) -> Iterator[tuple[str, bytes]]:
        return (one for queue in self._queues.values() for one in queue)

    def _pop(self) -> None:
        """Of the assistant's while there are as many of them as of the user's."""
        assistant, user = self._queues.values()
        (assistant if assistant and len(assistant) >= len(user) else user).pop(0)

    def _insert(self, root: str, tokens: bytes, kind: str) -> None:
        """In place of what it begins with."""
        for queue in self._queues.values():
            queue[:] = [one for one in queue if one[0] != root or not tokens.startswith(one[1])]
        self._queues[kind].append((root, tokens))
        if sum(map(len, self._queues.values())) > self._most:
            self._pop()

    def admit(self, job: Holder, length: int) -> int | None:
        """What the nearest sequence has of the prompt; all of it where one equals it."""
        prompt = job.sequence(length)
        mine = [held for root, held in self._all() if root == job.root]
        hit = length if prompt in mine else max((common(held, prompt) for held in mine), default=0)
        hit = hit if prompt in mine else min(hit, length - 1)
        spare = max(0, self._tokens - self.used() - hit)
        while sum(len(held) for _, held in self._all()) // TOKEN_BYTES > spare:
            self._pop()
        self._running[job.number] = length
        if length - hit > 1:
            self._insert(job.root, job.sequence(length - 1), self._prompts)
        return hit

    def room(self) -> None:
        """It is made at once."""

    def computed(self, job: Holder, length: int) -> None:
        """It was kept before."""

    def grow(self, job: Holder, length: int) -> bool:
        """There is always room; it is taken in pieces."""
        if length % mlx_lm.QUANTUM == 1 or length == job.final:
            self._running[job.number] = length
        return True

    def release(self, job: Holder, ended: bool) -> None:
        """Prompt and answer are kept, with the token sampled last."""
        del self._running[job.number]
        self._insert(job.root, job.sequence(job.held + 1), "assistant")


class Recent:
    """vllm-mlx's whole sequences, least recently used first to go."""

    def __init__(
        self, tokens: int, sequences: int = vllm_mlx.SEQUENCES, *, shortest: int = vllm_mlx.SHORTEST
    ) -> None:
        self.limit = 1 << 60
        self._tokens, self._most, self._shortest = tokens, sequences, shortest
        self._running: dict[int, int] = {}
        self.flush()

    def flush(self) -> bool:
        """Running requests have copies of their own."""
        self._kept: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        return True

    def used(self) -> int:
        """Tokens of running requests."""
        return sum(self._running.values())

    def admit(self, job: Holder, length: int) -> int | None:
        """Of one that the prompt equals or begins; else of the longest that it begins with; else of the nearest."""
        self._running[job.number] = length
        prompt = job.sequence(length)
        if length < self._shortest:
            return 0
        best, chosen = (0, 0), None
        for one in reversed(self._kept):
            if one[0] != job.root:
                continue
            alike, size = common(one[1], prompt), len(one[1]) // TOKEN_BYTES
            if alike == length:
                rank = (3, 1 << 60 if size == length else size)
            elif alike == size:
                rank = (2, size)
            else:
                rank = (1, alike) if alike >= self._shortest else (0, 0)
            if rank > best:
                best, chosen = rank, one
        if chosen is None:
            return 0
        self._kept.move_to_end(chosen)
        return length if best[0] == 3 else best[1]

    def room(self) -> None:
        """Running requests take none of it."""

    def computed(self, job: Holder, length: int) -> None:
        """It is kept when the request has ended."""

    def grow(self, job: Holder, length: int) -> bool:
        """There is always room."""
        self._running[job.number] = length
        return True

    def release(self, job: Holder, ended: bool) -> None:
        """Prompt and answer are kept, with the token sampled last."""
        del self._running[job.number]
        whole = job.root, job.sequence(job.held + 1)
        size = len(whole[1]) // TOKEN_BYTES
        if not self._shortest <= size <= self._tokens:
            return
        if whole not in self._kept:
            held = sum(len(tokens) for _, tokens in self._kept) // TOKEN_BYTES
            while self._kept and (held + size > self._tokens or len(self._kept) >= self._most):
                (_, gone), _ = self._kept.popitem(last=False)
                held -= len(gone) // TOKEN_BYTES
        self._kept[whole] = None
        self._kept.move_to_end(whole)
