"""SGLang's radix tree."""

from __future__ import annotations

import heapq
from itertools import count

from traceprof.caches import sglang
from traceprof.simulate.live_caches.base import TOKEN_BYTES, Holder, common


class _Node:
    __slots__ = ("children", "key", "locks", "parent", "time")

    def __init__(self, parent: _Node | None, key: bytes, time: int) -> None:
        self.parent = parent  # None: a root, or no longer in the tree
        self.key, self.time = key, time
        self.children: dict[bytes, _Node] = {}  # by first page
        self.locks = 0  # running requests that stand on it or below


class Radix:
    """SGLang's tree of pages, evicted leaf by leaf."""

    def __init__(self, tokens: int, page_size: int = sglang.BLOCK_SIZE) -> None:
        self._page, self._bytes = page_size, page_size * TOKEN_BYTES
        self._total = tokens // page_size
        self.limit = self._total * page_size
        self._running: dict[int, _Standing] = {}
        self.flush()

    def flush(self) -> bool:
        """Only while nothing runs."""
        if self._running:
            return False
        self._free, self._evictable = self._total, 0
        self._roots: dict[str, _Node] = {}
        self._leaves: list[tuple[int, int, _Node]] = []  # a heap by last access; some entries are stale
        self._clock, self._entries = count(), count()
        return True

    def used(self) -> int:
        """Pages that running requests stand on or hold beside the tree."""
        return (self._total - self._free - self._evictable) * self._page

    def _pages(self, job: Holder, tokens: int) -> bytes:
        return job.sequence(tokens // self._page * self._page)

    def _offer(self, node: _Node) -> None:
        """Enter a node that may be evicted."""
        if not node.children and not node.locks and node.parent is not None:
            heapq.heappush(self._leaves, (node.time, next(self._entries), node))

    def _down(self, root: str, key: bytes) -> tuple[_Node, int]:
        """Walk along a key and cut where it leaves the tree: (node, pages that match)."""
        now, node, depth = next(self._clock), self._roots.setdefault(root, _Node(None, b"", 0)), 0
        while depth * self._bytes < len(key):
            at = depth * self._bytes
            child = node.children.get(key[at : at + self._bytes])
            if child is None:
                break
            child.time = now
            same = common(child.key, key[at:]) // self._page
            whole = same * self._bytes == len(child.key)
            node = child if whole else self._cut(child, same)
            self._offer(child)
            depth += same
            if not whole:
                break
        return node, depth

    def _cut(self, node: _Node, pages: int) -> _Node:
        at, parent = pages * self._bytes, node.parent
        assert parent is not None
        upper = _Node(parent, node.key[:at], next(self._clock))
        upper.locks = node.locks
        parent.children[upper.key[: self._bytes]] = upper
        node.parent, node.key = upper, node.key[at:]
        upper.children[node.key[: self._bytes]] = node
        return upper

    def _insert(self, root: str, key: bytes) -> tuple[_Node, int]:
        """(the node in which the key ends, pages that were there)."""
        node, depth = self._down(root, key)
        rest = key[depth * self._bytes :]
        if rest:
            leaf = _Node(node, rest, next(self._clock))
            node.children[rest[: self._bytes]] = leaf
            self._evictable += len(rest) // self._bytes
            self._offer(leaf)
            node = leaf
        return node, depth

    def _lock(self, at: _Node, change: int) -> None:
        node: _Node | None = at
        while node is not None and node.parent is not None:
            before, node.locks = node.locks, node.locks + change
            if not before or not node.locks:
                self._evictable -= change * (len(node.key) // self._bytes)
            if not node.locks:
                self._offer(node)
            node = node.parent

    def _evict(self, pages: int) -> None:
        """Whole leaves, the least recently used first, as long as there are some."""
        while pages > 0 and self._leaves:
            time, _, node = heapq.heappop(self._leaves)
            if node.parent is not None and node.time == time and not (node.children or node.locks):
                pages -= self._drop(node)

    def _drop(self, node: _Node) -> int:
        """Take a leaf out of the tree; its pages."""
        parent, gone = node.parent, len(node.key) // self._bytes
        assert parent is not None
        node.parent = None
        del parent.children[node.key[: self._bytes]]
        self._free, self._evictable = self._free + gone, self._evictable - gone
        self._offer(parent)
        return gone

    def admit(self, job: Holder, length: int) -> int | None:
        """Pages that are known but for the last token, and the promise of room for the rest."""
        node, hit = self._down(job.root, self._pages(job, length - 1))
        self._lock(node, 1)
        wanted = -(-length // self._page)
        if wanted - hit > self._free + self._evictable:
            self._lock(node, -1)
            return None
        self._free -= wanted - hit
        self._running[job.number] = _Standing(node, hit, wanted)
        return hit * self._page

    def room(self) -> None:
        """Evict what was promised."""
        self._evict(-self._free)

    def computed(self, job: Holder, length: int) -> None:
        """Others find it from now on."""
        self._keep(job, length)

    def _keep(self, job: Holder, tokens: int) -> None:
        """Give the job's pages to the tree, cut at the end of its prompt, and stand on them."""
        mine = self._running[job.number]
        key = self._pages(job, tokens)
        pages = len(key) // self._bytes
        node, known = self._insert(job.root, key)
        prompt = job.prompt // self._page
        if 0 < prompt < pages:
            self._insert(job.root, key[: prompt * self._bytes])
        self._free += max(0, known - mine.own)
        self._lock(node, 1)
        self._lock(mine.node, -1)
        mine.node, mine.own = node, pages

    def grow(self, job: Holder, length: int) -> bool:
        """Room page by page."""
        mine = self._running[job.number]
        more = -(-length // self._page) - mine.held
        if more <= 0:
            return True
        self._evict(more - self._free)
        if more > self._free:
            return False
        self._free -= more
        mine.held += more
        return True

    def release(self, job: Holder, ended: bool) -> None:
        """What is kept goes to the tree."""
        if ended:
            self._keep(job, job.held)
        mine = self._running.pop(job.number)
        self._free += mine.held - mine.own
        self._lock(mine.node, -1)


class _Standing:
    """A running request in a tree."""

    __slots__ = ("held", "node", "own")

    def __init__(self, node: _Node, own: int, held: int) -> None:
        self.node = node  # it and all above it are pinned
        self.own = own  # pages from which on its memory is not the tree's
        self.held = held  # pages
