"""TensorRT-LLM's tree of blocks."""

from __future__ import annotations

from collections import OrderedDict
from itertools import count

from traceprof.caches import tensorrt_llm
from traceprof.simulate.live_caches.base import TOKEN_BYTES, Holder, common


class _Block:
    __slots__ = ("children", "key", "parent", "stored", "users")

    def __init__(self) -> None:
        self.key = b""  # its tokens; empty: it is not in the tree
        self.parent: _Block | None = None
        self.children: dict[bytes, _Block] = {}
        self.users = 0  # running requests
        self.stored = 0  # counts up with every block that enters the tree

    def leave(self) -> None:
        """Go out of the tree, with all that goes on from here."""
        assert self.parent is not None
        del self.parent.children[self.key]
        gone = [self]
        while gone:
            block = gone.pop()
            gone += block.children.values()
            block.key, block.parent, block.children = b"", None, {}


class Partial:
    """TensorRT-LLM's tree of blocks, of which the last may be found in part."""

    def __init__(self, tokens: int, block_size: int = tensorrt_llm.BLOCK_SIZE) -> None:
        self._size, self._bytes = block_size, block_size * TOKEN_BYTES
        self._total = tokens // block_size
        self.limit = self._total * block_size - 1
        self._tables: dict[int, list[_Block]] = {}  # of running jobs
        self._promised: dict[int, int] = {}  # blocks that they will still take
        self.flush()

    def flush(self) -> bool:
        """Only while nothing runs."""
        if self._tables:
            return False
        self._free = OrderedDict.fromkeys(_Block() for _ in range(self._total))  # the first is taken first
        self._roots: dict[str, _Block] = {}
        self._stored = count(1)
        return True

    def used(self) -> int:
        """Blocks of running requests."""
        return (self._total - len(self._free)) * self._size

    def _keys(self, job: Holder, tokens: int) -> list[bytes]:
        """Of its first tokens; the last one perhaps shorter."""
        told = job.sequence(tokens)
        return [told[i : i + self._bytes] for i in range(0, len(told), self._bytes)]

    def _take(self, table: list[_Block], length: int) -> None:
        """Fresh blocks for so many tokens."""
        while len(table) * self._size < length:
            block, _ = self._free.popitem(last=False)
            if block.key:
                block.leave()
            block.users = 1
            table.append(block)

    def _claim(self, table: list[_Block], block: _Block) -> None:
        if not block.users:
            del self._free[block]
        block.users += 1
        table.append(block)

    def _store(self, job: Holder, tokens: int) -> None:
        node = self._roots.setdefault(job.root, _Block())
        for block, key in zip(self._tables[job.number], self._keys(job, tokens), strict=False):
            found = node.children.get(key)
            if found is None:
                found = block
                block.key, block.parent, block.stored = key, node, next(self._stored)
                node.children[key] = block
            node = found

    def admit(self, job: Holder, length: int) -> int | None:
        """Whole blocks, and the part of the next that matches; room for all that it may say."""
        node = self._roots.setdefault(job.root, _Block())
        total, pinned, at = -(-(job.final + 1) // self._size), 0, node
        for key in self._keys(job, length // self._size * self._size):
            if key not in at.children:
                break
            at = at.children[key]
            pinned += at.users > 0
        if total - pinned > len(self._free) - sum(self._promised.values()):
            return None
        hit, table = 0, self._tables.setdefault(job.number, [])
        for key in self._keys(job, length - 1):
            found, same = self._best(node, key)
            if found is None:
                break
            hit += same
            if same < self._size:
                self._reuse(table, found)
                break
            self._claim(table, found)
            node = found
        self._take(table, length)
        self._promised[job.number] = total - len(table)
        self._store(job, length // self._size * self._size)
        return hit

    def _best(self, node: _Block, key: bytes) -> tuple[_Block | None, int]:
        """The block that begins like `key` for longest, of equals the last that was stored, and how many tokens that are."""
        if key in node.children:
            return node.children[key], len(key) // TOKEN_BYTES
        alike = ((common(child.key, key), child.stored, child) for child in node.children.values())
        same, _, found = max(alike, key=lambda one: one[:2], default=(0, 0, None))
        return (found, same) if same else (None, 0)

    def _reuse(self, table: list[_Block], block: _Block) -> None:
        """Copy a block that is in use or goes on; take one over that is not, and what else it held is lost."""
        if block.users or block.children:
            self._take(table, (len(table) + 1) * self._size)
        else:
            block.leave()
            self._claim(table, block)

    def room(self) -> None:
        """It is taken at once."""

    def computed(self, job: Holder, length: int) -> None:
        """It was known before: a request with the same prompt is held back until then."""

    def grow(self, job: Holder, length: int) -> bool:
        """It was promised."""
        table = self._tables[job.number]
        before = len(table)
        self._take(table, length)
        self._promised[job.number] -= len(table) - before
        return True

    def release(self, job: Holder, ended: bool) -> None:
        """All of it can be found; blocks queue up, the last first."""
        self._store(job, job.held)
        del self._promised[job.number]
        for block in reversed(self._tables.pop(job.number)):
            block.users -= 1
            if not block.users:
                self._free[block] = None
