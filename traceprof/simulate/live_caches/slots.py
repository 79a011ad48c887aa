"""The slots of llama.cpp and Ollama."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np

from traceprof.caches import llamacpp
from traceprof.simulate.live_caches.base import TOKEN_BYTES, Holder, common

RAM_TOKENS = 65_536  # llama.cpp's 8 GiB for idle sequences, in tokens of Llama-3.1-8B


class _Slot:
    def __init__(self) -> None:
        self.root, self.tokens = "", b""
        self.room = 0  # tokens; while it is busy more than it holds
        self.job: Holder | None = None
        self.used = -1

    def same(self, root: str, tokens: bytes) -> int:
        return common(self.tokens, tokens) if self.root == root else 0


class Slots:
    """llama.cpp's slots, each with one sequence, and the list in RAM that idle sequences are moved to and from."""

    def __init__(
        self, tokens: int, slots: int = llamacpp.SLOTS, *, unified: int = 1, ram_tokens: int = RAM_TOKENS
    ) -> None:
        self.slots = [_Slot() for _ in range(slots)]
        self.context = tokens if unified else tokens // slots
        self.limit = self.context
        self._total, self._unified, self._most = (
            self.context if unified else self.context * slots,
            unified,
            ram_tokens,
        )
        self._ram: list[tuple[str, bytes]] = []  # oldest first
        self._ticks = count()

    def flush(self) -> bool:
        """Idle slots and RAM; llama.cpp itself leaves RAM as it is."""
        erased = [self.erase(slot) for slot in range(len(self.slots))]
        return None not in erased

    def erase(self, number: int) -> int | None:
        """Empty a slot, and RAM; how many tokens it held, None where it is busy."""
        slot = self.slots[number]
        if slot.job is not None:
            return None
        gone = len(slot.tokens) // TOKEN_BYTES
        self._clear(slot)
        self._ram.clear()
        return gone

    def used(self) -> int:
        """Room of busy slots."""
        return sum(slot.room for slot in self.slots if slot.job is not None)

    def _clear(self, slot: _Slot) -> None:
        slot.tokens, slot.room = b"", 0

    def _idle(self) -> Iterator[_Slot]:
        return (slot for slot in self.slots if slot.job is None)

    def _save(self, slot: _Slot) -> None:
        """Copy a sequence to RAM, in place of what it begins with, unless it is there or too large."""
        if not self._most:
            return
        size = len(slot.tokens)
        same = [
            common(held, slot.tokens) * TOKEN_BYTES if root == slot.root else 0 for root, held in self._ram
        ]
        if size in same or 0 < self._most < size // TOKEN_BYTES:
            return
        self._ram = [one for one, alike in zip(self._ram, same, strict=True) if alike < len(one[1])]
        while self._most > 0 and self._saved() + size // TOKEN_BYTES > self._most:
            self._ram.pop(0)
        self._ram.append((slot.root, slot.tokens))

    def _saved(self) -> int:
        return sum(len(tokens) for _, tokens in self._ram) // TOKEN_BYTES

    def _bound(self) -> None:
        """Without a limit in bytes RAM keeps as many tokens as the context has."""
        while self._most < 0 and self._saved() > self._total:
            self._ram.pop(0)

    def _load(self, slot: _Slot, root: str, prompt: bytes) -> None:
        """Move what is better than the slot's sequence, in what it keeps of itself and in what it gives, into the slot."""
        size = np.float32(len(prompt) // TOKEN_BYTES)
        same = np.float32(slot.same(root, prompt))
        keep = same / np.float32(len(slot.tokens) // TOKEN_BYTES) if slot.tokens else np.float32(-1)
        give, best = same / size, -1
        for i, (its, held) in enumerate(self._ram):
            alike = np.float32(common(held, prompt) if its == root else 0)
            share = alike / np.float32(len(held) // TOKEN_BYTES)
            if share >= np.float32(0.25) and share > keep and alike / size > give:
                keep, give, best = share, alike / size, i
        if best >= 0:
            self._clear(slot)
            held = self._ram[best][1]
            if not self._unified or self._taken() + len(held) // TOKEN_BYTES <= self._total:
                slot.root, slot.tokens = self._ram.pop(best)
                slot.room = len(held) // TOKEN_BYTES

    def _taken(self) -> int:
        return sum(slot.room for slot in self.slots)

    def _choose(self, root: str, prompt: bytes) -> tuple[_Slot | None, bool]:
        """(slot, whether it goes through RAM): the most like the prompt, else the one not used for longest."""
        best, chosen = np.float32(0), None
        size = np.float32(len(prompt) // TOKEN_BYTES)
        for slot in self._idle():
            if slot.tokens:
                alike = np.float32(slot.same(root, prompt)) / size
                if alike > best and alike > np.float32(llamacpp.SIMILARITY):
                    best, chosen = alike, slot
        if chosen is not None:
            return chosen, bool(best * size / np.float32(len(chosen.tokens) // TOKEN_BYTES) < np.float32(0.5))
        for slot in self._idle():
            if chosen is None or slot.used <= chosen.used:
                chosen = slot
        return chosen, True

    def _purge(self, wanted: int) -> bool:
        """Clear idle slots one by one until there is room."""
        if not self._unified:
            return True
        for slot in self.slots:
            if self._taken() + wanted <= self._total:
                break
            if slot.job is None and slot.tokens:
                self._clear(slot)
        return self._taken() + wanted <= self._total

    def _fail(self) -> None:
        """The shared cache is full: every running request fails."""
        for slot in self.slots:
            if slot.job is not None:
                slot.job.failed = True
                self._leave(slot)
                self._clear(slot)

    def _leave(self, slot: _Slot) -> None:
        slot.job, slot.used = None, next(self._ticks)

    def admit(self, job: Holder, length: int) -> int | None:
        """Tokens that the chosen slot shares with the prompt, but for the last one; None: no slot is idle."""
        prompt = job.sequence(length)
        slot, through = self._choose(job.root, prompt)
        if slot is None:
            return None
        if through and self._most:
            if slot.tokens:
                self._save(slot)
            self._load(slot, job.root, prompt)
            self._bound()
        slot.job = job
        if self._most:
            for other in self._idle():
                if other.tokens:
                    self._save(other)
                    self._bound()
                    if self._unified:
                        self._clear(other)
        if length >= self.context:
            job.failed = True
            self._leave(slot)
            return 0
        hit = min(slot.same(job.root, prompt), length - 1)
        self._clear(slot)
        enough = self._purge(length)
        slot.root, slot.tokens, slot.room = job.root, prompt, length
        if not enough:
            self._fail()
        return hit

    def room(self) -> None:
        """It is taken at once."""

    def computed(self, job: Holder, length: int) -> None:
        """Others find it once the slot is idle."""

    def grow(self, job: Holder, length: int) -> bool:
        """One token more, or everybody fails."""
        slot = self._of(job)
        if self._purge(length - slot.room):
            slot.room = length
        else:
            self._fail()
        return True

    def release(self, job: Holder, ended: bool) -> None:
        """The slot keeps the sequence."""
        slot = self._of(job)
        slot.tokens, slot.room = job.sequence(job.held), job.held
        self._leave(slot)

    def _of(self, job: Holder) -> _Slot:
        return next(slot for slot in self.slots if slot.job is job)
