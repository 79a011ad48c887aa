"""TGI's trie of prompts and LMDeploy's trie of blocks."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import count

from traceprof.caches import lmdeploy, tgi
from traceprof.simulate.live_caches.base import TOKEN_BYTES, Holder, common, digest


class _Branch:
    __slots__ = ("children", "holders", "key", "number", "parent", "time")

    def __init__(self, number: int, key: bytes, time: int, parent: _Branch | None) -> None:
        self.number, self.key, self.time, self.parent = number, key, time, parent
        self.children: dict[bytes, _Branch] = {}  # by first page
        self.holders = 0  # running requests whose match ends in it


class PromptTrie:
    """TGI's trie: prompts alone, once their request has ended; the leaf used longest ago gives way from its end."""

    def __init__(self, tokens: int, block_size: int = tgi.BLOCK_SIZE) -> None:
        self._page, self._bytes = block_size, block_size * TOKEN_BYTES
        self._total = max(0, tokens // block_size - 1)  # one is reserved
        self.limit = self._total * block_size
        self._running: dict[int, tuple[_Branch, int, int]] = {}  # (where it stands, pages found, pages taken)
        self.flush()

    def flush(self) -> bool:
        """Only while nothing runs."""
        if self._running:
            return False
        self._free, self._time = self._total, 0
        self._roots: dict[str, _Branch] = {}
        self._numbers, self._spare = (
            count(),
            list[int](),
        )  # of nodes: of equally old leaves the lower goes first
        return True

    def used(self) -> int:
        """Pages that running requests have taken."""
        return sum(taken for _, _, taken in self._running.values()) * self._page

    def _pages(self, job: Holder) -> bytes:
        return job.sequence(job.prompt // self._page * self._page)

    def _branch(self, key: bytes, parent: _Branch) -> _Branch:
        number = self._spare.pop() if self._spare else next(self._numbers)
        made = parent.children[key[: self._bytes]] = _Branch(number, key, self._time, parent)
        return made

    def _find(self, root: str, key: bytes) -> tuple[_Branch, int, int]:
        """(where the match ends, pages of it that match, all pages that match)."""
        self._time += 1
        node, same, found = self._roots.setdefault(root, _Branch(-1, b"", 0, None)), 0, 0
        while same * self._bytes == len(node.key):
            rest = key[found * self._bytes :]
            child = node.children.get(rest[: self._bytes])
            if child is None:
                break
            child.time = self._time
            node, same = child, common(child.key, rest) // self._page
            found += same
        return node, same, found

    def _leaves(self) -> Iterator[_Branch]:
        stack = list(self._roots.values())
        while stack:
            node = stack.pop()
            stack += node.children.values()
            if not (node.children or node.holders) and node.parent is not None:
                yield node

    def _evict(self, pages: int) -> None:
        """Make room as far as it goes."""
        heap = [(leaf.time, leaf.number, leaf) for leaf in self._leaves()]
        heapq.heapify(heap)
        while pages > 0 and heap:
            node = heapq.heappop(heap)[2]
            parent, size = node.parent, len(node.key) // self._bytes
            assert parent is not None
            gone = min(pages, size)
            pages, self._free = pages - gone, self._free + gone
            if gone < size:
                node.key = node.key[: (size - gone) * self._bytes]
                continue
            del parent.children[node.key[: self._bytes]]
            self._spare.append(node.number)
            if parent.parent is not None and not (parent.children or parent.holders):
                heapq.heappush(heap, (parent.time, parent.number, parent))

    def admit(self, job: Holder, length: int) -> int | None:
        """What earlier prompts had, and room for all that it may say."""
        node, _, found = self._find(job.root, self._pages(job))
        node.holders += 1
        wanted = -(-job.final // self._page) - found
        if wanted > self._free:
            self._evict(wanted - self._free)
        if wanted > self._free:
            node.holders -= 1
            return None
        self._free -= wanted
        self._running[job.number] = node, found, wanted
        return min(found * self._page, length - 1)

    def room(self) -> None:
        """It is taken at once."""

    def computed(self, job: Holder, length: int) -> None:
        """Others find it once the request has ended."""

    def grow(self, job: Holder, length: int) -> bool:
        """There is room for all of it."""
        return True

    def release(self, job: Holder, ended: bool) -> None:
        """Its prompt is kept."""
        node, there, taken = self._running.pop(job.number)
        node.holders -= 1
        key = self._pages(job)
        if job.prompt > there * self._page and key:
            node, same, there = self._find(job.root, key)
            rest = key[there * self._bytes :]
            if rest:
                self._branch(rest, self._cut(node, same))
        self._free += taken - (len(key) // self._bytes - there)

    def _cut(self, node: _Branch, pages: int) -> _Branch:
        """What a branch goes on from that leaves a node after so many pages."""
        at = pages * self._bytes
        if at == len(node.key):
            return node
        assert node.parent is not None
        upper = self._branch(node.key[:at], node.parent)
        node.key, node.parent = node.key[at:], upper
        upper.children[node.key[: self._bytes]] = node
        return upper


class BlockTrie:
    """LMDeploy's full blocks under chained hashes: equal ones are merged, leaves give way, those released longest ago first."""

    def __init__(
        self,
        tokens: int,
        block_size: int = lmdeploy.BLOCK_SIZE,
        prefill_interval: int = lmdeploy.PREFILL_INTERVAL,
    ) -> None:
        self._block, self._ahead = block_size, prefill_interval
        self._total = max(1, tokens // block_size) - 1  # one is reserved
        self.limit = self._total * block_size - prefill_interval
        self._paths: dict[
            int, list[bytes]
        ] = {}  # of running jobs: keys of the blocks that they share with the trie
        self._sizes: dict[int, int] = {}  # their blocks, the private ones included
        self.flush()

    def flush(self) -> bool:
        """Only while nothing runs."""
        if self._paths:
            return False
        self._holders: dict[bytes, int] = {}  # of a block in the trie: running jobs
        self._parent: dict[bytes, bytes] = {}
        self._children: dict[bytes, int] = {}
        self._released: dict[bytes, int] = {}
        self._leaves: list[tuple[int, bytes]] = []  # a heap; some entries are stale
        self._time = 0
        return True

    def used(self) -> int:
        """Blocks of running jobs."""
        shared = sum(held > 0 for held in self._holders.values())
        return (shared + self._private()) * self._block

    def _private(self) -> int:
        return sum(self._sizes.values()) - sum(map(len, self._paths.values()))

    def _chain(self, job: Holder, length: int, before: bytes, begin: int) -> Iterator[bytes]:
        """Keys of its full blocks from the one with that number on."""
        told, size = job.sequence(length), self._block * TOKEN_BYTES
        for k in range(begin, length // self._block):
            before = digest(before + told[k * size : (k + 1) * size])
            yield before

    def _offer(self, key: bytes) -> None:
        if not self._holders[key] and not self._children.get(key):
            heapq.heappush(self._leaves, (self._released[key], key))

    def _make_room(self, blocks: int) -> bool:
        """Evict leaf after leaf until so many blocks are free; whether they are."""
        free = self._total - len(self._holders) - self._private()
        while free < blocks:
            if not self._leaves:
                return False
            time, key = heapq.heappop(self._leaves)
            if self._holders.get(key) != 0 or self._children.get(key) or self._released[key] != time:
                continue
            free += 1
            parent = self._parent.pop(key)
            del self._holders[key], self._released[key]
            self._children.pop(key, None)
            if parent in self._holders:
                self._children[parent] -= 1
                self._offer(parent)
        return True

    def _hold(self, path: list[bytes], key: bytes, before: bytes) -> None:
        if key not in self._holders:
            self._parent[key] = before
            if before in self._holders:
                self._children[before] = self._children.get(before, 0) + 1
        self._holders[key] = self._holders.get(key, 0) + 1
        path.append(key)

    def _attach(self, job: Holder, upto: int) -> None:
        """Its first full blocks enter the trie, or give way to equal ones that are there."""
        path = self._paths[job.number]
        before = path[-1] if path else digest(job.root.encode())
        for key in self._chain(job, upto * self._block, before, len(path)):
            self._hold(path, key, before)
            before = key

    def admit(self, job: Holder, length: int) -> int | None:
        """Blocks that end before the last token, and room ahead."""
        path = self._paths[job.number] = []
        before = digest(job.root.encode())
        for key in self._chain(job, (length - 1) // self._block * self._block, before, 0):
            if key not in self._holders:
                break
            self._hold(path, key, before)
            before = key
        hit = self._sizes[job.number] = len(path)
        wanted = -(-(length + self._ahead) // self._block)
        if not self._make_room(wanted - hit):
            self.release(job, False)
            return None
        self._sizes[job.number] = wanted
        self._attach(job, length // self._block)
        return hit * self._block

    def room(self) -> None:
        """It is taken at once."""

    def computed(self, job: Holder, length: int) -> None:
        """It was known before."""

    def grow(self, job: Holder, length: int) -> bool:
        """More when the room that was taken ahead is used up; only then what was said meanwhile enters the trie."""
        if length % self._block != 1 % self._block and length != job.final:
            return True
        while (size := self._sizes[job.number]) * self._block <= length:
            wanted = -(-(size * self._block + self._ahead) // self._block)
            if not self._make_room(wanted - size):
                return False
            self._sizes[job.number] = wanted
            self._attach(job, size)
        return True

    def release(self, job: Holder, ended: bool) -> None:
        """What is in the trie stays there."""
        self._time += 1
        del self._sizes[job.number]
        for key in self._paths.pop(job.number):
            self._holders[key] -= 1
            self._released[key] = self._time
            self._offer(key)
