"""The radix tree over token ids (or block hashes): how much of each prompt some earlier prompt already was.

    >>> tree = RadixTree()
    >>> prompts = sequences([[1, 2, 3, 4], [1, 2, 9], [1, 2]])
    >>> tree.insert(*prompts).matched.tolist()
    [0, 2, 2]
    >>> tree.stats()
    Stats(nodes=3, leaves=2, max_depth=2, max_depth_tokens=4, distinct_tokens=5)
    >>> tree.prefix_symbols(2).tolist()
    [1, 2, 9]

Words: a *symbol* is what the tree compares, a uint32 token id or a uint64 block hash; a *unit* is the tokens one
symbol stands for (1 for token ids, 512 for a Mooncake trace); a *root* is an index >= 0, one per group of requests
that can share a cache (a model and hash scope): nothing is shared between roots. Requests are numbered 0, 1, 2, ...
in the order of insertion. They come in chunks; the tree copies only what it did not hold yet, so a chunk can be
dropped after its call, and how a trace is cut into chunks changes no result.

The loops are in `traceprof.kernels.radix`, imported at first use: importing this module costs only numpy.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

I64: TypeAlias = NDArray[np.int64]
Symbols: TypeAlias = NDArray[np.unsignedinteger[Any]]

_CANDIDATES = 20_000  # top_prefixes looks only at so many nodes, the best by saved tokens


_PAGES = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)


class ReuseRuns(NamedTuple):
    """Reuse distances as runs: the tokens of a run have the distances start, start + 1, ..., start + length - 1."""

    start: I64  # distance of the first token, >= 1: it hits in an LRU cache of at least so many tokens
    length: I64  # tokens in the run, >= 1
    request: I64  # whose tokens they are


class Inserted(NamedTuple):
    """What `RadixTree.insert` found, one entry a request."""

    matched: I64  # symbols that some earlier request of the same root began with
    end_node: I64  # node where the request ends (-1 - root for an empty one), valid for ever: see `extend`
    runs: ReuseRuns  # empty unless the tree was made with reuse=True


class Stats(NamedTuple):
    """Size of a tree; roots are not counted as nodes."""

    nodes: int
    leaves: int  # nodes without children
    max_depth: int  # nodes on the longest way from a root to a leaf
    max_depth_tokens: int  # tokens on the way with most of them
    distinct_tokens: (
        int  # sum over requests of tokens - hit tokens: what an infinite cache would hold of the prompts
    )


class Nodes(NamedTuple):
    """All nodes but the roots, as arrays with one entry a node."""

    parent: NDArray[np.int32]  # node above, -1 under a root
    depth_symbols: NDArray[np.int32]  # symbols from the root to the node's end
    length: NDArray[np.int32]  # symbols in the node's own run
    count: NDArray[np.int32]  # type: ignore[assignment]  # requests that pass through it or end there
    last: NDArray[np.int32]  # the last of them, -1 where only outputs were inserted
    root: NDArray[np.int32]


class TopPrefix(NamedTuple):
    """A prefix that many requests share."""

    node: int
    root: int
    tokens: int  # its length
    requests: int  # how many begin with it
    saved_tokens: int  # (requests - 1) * tokens: what a cache saves by holding it


class RadixTree:
    """A radix tree that grows by chunks of requests; see the module's example.

    unit            tokens a symbol stands for
    reuse           also emit reuse distances (for the miss-ratio curve); costs a few percent
    dtype           of the symbols: uint32 or uint64
    requests_total  a hint that spares regrowing; the tree takes more requests than that, too
    """

    def __init__(
        self, *, unit: int = 1, reuse: bool = False, dtype: DTypeLike = np.uint32, requests_total: int = 0
    ) -> None:
        from traceprof.kernels.radix import NODE, Tree

        self.unit = unit
        self.reuse = reuse
        self.dtype = np.dtype(dtype)
        assert unit >= 1
        assert self.dtype in (np.dtype(np.uint32), np.dtype(np.uint64))
        self.requests = 0  # inserted so far
        self.input_tokens = 0  # sum of their tokens
        self.hit_tokens = 0  # sum of what of them was there before, at block size 1 (or unit)
        self._has_outputs = (
            False  # once true, distances would be wrong: an output has no place in the LRU stack
        )
        self._tree = Tree(
            nodes=np.empty(0, NODE),
            table=np.full(64, -1, np.int32),
            symbols=np.zeros(0, self.dtype),
            used=np.zeros(2, np.int64),
        )
        # true lengths by request: only a unit > 1 (whose last block may be partial) and the LRU stack need them
        self._tokens = np.empty(requests_total if self._keeps_tokens else 0, np.int64)
        self._fenwick = np.zeros(_power_of_two(requests_total if reuse else 1) + 1, np.int64)
        self._room = _SymbolRoom(self.dtype)
        self._stack_tokens = np.zeros(1, np.int64)  # sum of the weights in the Fenwick tree

    @property
    def _keeps_tokens(self) -> bool:
        return self.reuse or self.unit > 1

    def insert(
        self,
        symbols: NDArray[Any],
        offsets: NDArray[Any],
        roots: NDArray[Any] | None = None,
        tokens: NDArray[Any] | None = None,
    ) -> Inserted:
        """Insert a chunk of n requests in order.

        symbols  [..]     of all requests, one behind the other
        offsets  [n + 1]  request k has symbols[offsets[k]:offsets[k + 1]]
        roots    [n]      all 0 when left out
        tokens   [n]      true lengths; symbols * unit when left out. Less than that: the last block is partial.
                          More: the tail was never hashed, it cannot hit, but it fills cache.
        """
        from traceprof.kernels import radix

        chunk = _prompts(symbols, offsets, roots, tokens, self.dtype, self.unit)
        n = len(chunk.roots)
        self._reserve(sequences=n, symbols=int(chunk.offsets[-1] - chunk.offsets[0]))
        matched, end_node = np.empty(n, np.int64), np.empty(n, np.int64)
        runs = no_runs()
        if self.reuse:
            assert not self._has_outputs, "a tree with outputs has no reuse distances"
            self._remember(chunk.tokens)
            start, length, request, found = radix.insert_with_reuse(
                self._tree,
                chunk.symbols,
                chunk.offsets,
                chunk.roots,
                self.requests,
                matched,
                end_node,
                self.unit,
                self._tokens,
                self._fenwick,
                self._stack_tokens,
            )
            runs = ReuseRuns(start[:found].copy(), length[:found].copy(), request[:found].copy())
        else:
            self._remember(chunk.tokens)
            radix.insert(
                self._tree, chunk.symbols, chunk.offsets, chunk.roots, self.requests, matched, end_node
            )
        self._count(chunk.tokens, matched)
        return Inserted(matched, end_node, runs)

    def extend(self, end_nodes: NDArray[Any], symbols: NDArray[Any], offsets: NDArray[Any]) -> I64:
        """Continue sequences behind the nodes where they ended; returns their new end nodes.

        Nothing is measured and no request is counted: this is how outputs enter.

        >>> tree = RadixTree()
        >>> prompt = tree.insert(*sequences([[1, 2]]))
        >>> _ = tree.extend(prompt.end_node, *sequences([[7, 8]]))
        >>> tree.insert(*sequences([[1, 2, 7, 8, 5]])).matched.tolist()
        [4]
        """
        from traceprof.kernels import radix

        assert not self.reuse, "a tree with outputs has no reuse distances"
        behind = _plain(end_nodes, np.int64)
        flat, bounds = _plain(symbols, self.dtype), _plain(offsets, np.int64)
        assert len(bounds) == len(behind) + 1
        self._reserve(sequences=len(behind), symbols=int(bounds[-1] - bounds[0]))
        self._has_outputs = True
        end_node = np.empty(len(behind), np.int64)
        radix.extend(self._tree, behind, flat, bounds, end_node)
        return end_node

    def stats(self) -> Stats:
        """Size of the tree."""
        from traceprof.kernels import radix

        parent = self._of_nodes("parent")
        is_parent = np.zeros(len(parent), np.bool_)
        is_parent[parent[parent >= 0]] = True
        return Stats(
            nodes=len(parent),
            leaves=len(parent) - int(is_parent.sum()),
            max_depth=int(radix.levels_and_roots(parent)[0].max(initial=0)),
            max_depth_tokens=int(self._depth_tokens(np.arange(len(parent))).max(initial=0)),
            distinct_tokens=self.input_tokens - self.hit_tokens,
        )

    def nodes(self) -> Nodes:
        """All nodes (copies: the tree may grow on)."""
        from traceprof.kernels import radix

        parent = self._of_nodes("parent")
        return Nodes(
            parent=np.maximum(parent, -1),
            depth_symbols=self._of_nodes("depth"),
            length=self._of_nodes("length"),
            count=self._of_nodes("count"),
            last=self._of_nodes("last"),
            root=radix.levels_and_roots(parent)[1],
        )

    def prefix_symbols(self, node: int) -> Symbols:
        """The symbols from the root to the end of node (none for an end node -1 - root)."""
        tree = self._tree
        runs: list[Symbols] = []
        while node >= 0:
            start = int(tree.nodes["start"][node])
            runs.append(tree.symbols[start : start + int(tree.nodes["length"][node])])
            node = int(tree.nodes["parent"][node])
        return np.concatenate([*runs[::-1], np.empty(0, self.dtype)])

    def top_prefixes(self, limit: int) -> list[TopPrefix]:
        """The shared prefixes that save most, best first.

        A long and a short prefix of nearly the same requests are one finding: of two nodes on one root path whose
        request counts are within a factor 2, only the better stands.
        """
        from traceprof.kernels import radix

        parent, count = self._of_nodes("parent"), self._of_nodes("count")
        shared = np.flatnonzero(count >= 2)
        tokens = self._depth_tokens(shared)
        saved = (count[shared].astype(np.int64) - 1) * tokens
        if len(shared) > _CANDIDATES:
            best = np.argpartition(saved, -_CANDIDATES)[-_CANDIDATES:]
            best.sort()  # ties below go to the lower node id
            shared, tokens, saved = shared[best], tokens[best], saved[best]
        rank = np.lexsort((-tokens, -saved))
        ranked = shared[rank].astype(np.int64)
        chosen = radix.choose_prefixes(ranked, parent, count, min(limit, len(ranked)))
        return [self._top_prefix(int(node)) for node in chosen]

    def _top_prefix(self, node: int) -> TopPrefix:
        above = node
        while above >= 0:
            above = int(self._tree.nodes["parent"][above])
        tokens = int(self._depth_tokens(np.array([node]))[0])
        requests = int(self._tree.nodes["count"][node])
        return TopPrefix(node, -1 - above, tokens, requests, (requests - 1) * tokens)

    def _depth_tokens(self, nodes: NDArray[np.intp]) -> I64:
        """Tokens from the root to the end of each node; a partial last block has its last toucher's length."""
        depth: I64 = self._tree.nodes["depth"][nodes].astype(np.int64) * self.unit
        if self.unit == 1 or self.requests == 0:
            return depth
        last: NDArray[np.int32] = self._tree.nodes["last"][nodes]
        return np.where(last < 0, depth, np.minimum(depth, self._tokens[last]))

    def _of_nodes(self, field: str) -> NDArray[np.int32]:
        """A copy of one field of all nodes."""
        values: NDArray[np.int32] = self._tree.nodes[field][: int(self._tree.used[0])].copy()
        return values

    def _count(self, tokens: I64, matched: I64) -> None:
        self.requests += len(tokens)
        self.input_tokens += int(tokens.sum())
        self.hit_tokens += int(np.minimum(matched * self.unit, tokens).sum())

    def _remember(self, tokens: I64) -> None:
        """Keep the lengths of the next requests, and make the Fenwick tree reach them."""
        end = self.requests + len(tokens)
        if self._keeps_tokens:
            self._tokens = _grown(self._tokens, self.requests, end)
            self._tokens[self.requests : end] = tokens
        if self.reuse:
            while len(self._fenwick) - 1 < end:
                # its size is a power of two: of the new half only the last entry, a sum over all, is not 0
                size = len(self._fenwick) - 1
                self._fenwick = np.concatenate([self._fenwick, np.zeros(size, np.int64)])
                self._fenwick[2 * size] = self._fenwick[size]

    def _reserve(self, *, sequences: int, symbols: int) -> None:
        """Make room for that many more sequences: kernels never grow anything.

        A sequence makes at most two nodes: the upper part of a split, and a leaf.
        """
        from traceprof.kernels import radix

        tree = self._tree
        used_nodes, used_symbols = tree.used.tolist()
        nodes = used_nodes + 2 * sequences
        tree = tree._replace(nodes=_grown(tree.nodes, used_nodes, nodes))
        if used_symbols + symbols > len(tree.symbols):
            self._tree = tree = tree._replace(
                symbols=np.empty(0, self.dtype)
            )  # a view bars the pages from moving
            tree = tree._replace(symbols=self._room.at_least(used_symbols + symbols, used_symbols))
        if len(tree.table) < 2 * nodes:
            tree = tree._replace(table=np.full(_power_of_two(2 * nodes), -1, np.int32))
            radix.rehash(tree)
        self._tree = tree


def hit_tokens(
    matched: I64, symbols_n: I64, tokens: I64, unit: int, block: int, *, ceil: bool = True
) -> I64 | None:
    """Hit tokens of each request at a block size, in tokens; None where the unit knows no such blocks.

    With `ceil`, hashes of a unit above 1 cover the last, partial block, so that a prompt found to its end is a hit as a whole;
    without, blocks that are not full are none, as for token ids.

    >>> hit_tokens(np.array([37]), np.array([50]), np.array([50]), 1, 16).tolist()
    [32]
    >>> three = np.array([3])  # of three hashes of 512 tokens, in a prompt of 1,100 tokens
    >>> hit_tokens(three - 1, three, np.array([1100]), 512, 512).tolist()
    [1024]
    >>> hit_tokens(three, three, np.array([1100]), 512, 1024).tolist()  # all of it, the partial block included
    [1100]
    >>> hit_tokens(three, three, np.array([1100]), 512, 16) is None
    True
    """
    if block % unit:
        return None
    hit = np.minimum(matched * unit // block * block, tokens)
    if unit == 1 or not ceil:
        return hit
    whole = (matched == symbols_n) & (
        symbols_n * unit >= tokens
    )  # the ceil rule: every token is in some block
    return np.where(whole, tokens, hit)


def no_runs() -> ReuseRuns:
    """No runs at all."""
    return ReuseRuns(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64))


def sequences(rows: Iterable[Sequence[int]], dtype: DTypeLike = np.uint32) -> tuple[Symbols, I64]:
    """Lists as (symbols, offsets).  Example: [[1, 2], [], [3]] -> [1, 2, 3], [0, 2, 2, 3]"""
    listed = [np.asarray(row, dtype) for row in rows]
    offsets = np.cumsum([0, *(len(row) for row in listed)], dtype=np.int64)
    return np.concatenate([np.empty(0, dtype), *listed]), offsets


class _Prompts(NamedTuple):
    symbols: Symbols
    offsets: I64
    roots: I64
    tokens: I64


def _prompts(
    symbols: NDArray[Any],
    offsets: NDArray[Any],
    roots: NDArray[Any] | None,
    tokens: NDArray[Any] | None,
    dtype: np.dtype[Any],
    unit: int,
) -> _Prompts:
    """A chunk with every column there and of the kernels' types."""
    bounds = _plain(offsets, np.int64)
    n = len(bounds) - 1
    if roots is None:
        roots = np.zeros(n, np.int64)
    if tokens is None:
        tokens = np.diff(bounds) * unit
    assert len(roots) == len(tokens) == n
    return _Prompts(_plain(symbols, dtype), bounds, _plain(roots, np.int64), _plain(tokens, np.int64))


def _plain(values: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    """As a contiguous, aligned, read-only array: numba compiles a kernel again for every other kind."""
    plain = np.require(values, dtype, ["C", "A"]).view()
    plain.flags.writeable = False
    return plain


class _SymbolRoom:
    """Memory for the tree's symbols, the one array that can outgrow all others together.

    On Linux it grows by moving pages (mremap): no bytes are copied and old and new never stand side by side.
    Pages are mapped when they are first written, so room that is never used costs nothing.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._pages: mmap.mmap | None = None

    def at_least(self, needed: int, used: int) -> Symbols:
        """Room for that many symbols, with the `used` first ones of the room before."""
        size = self._dtype.itemsize
        old = self._pages
        room = max(needed, len(old) // size * 3 // 2 if old else 0, 1) * size
        if old is not None:
            try:
                old.resize(room)
            except (SystemError, OSError, ValueError, BufferError):  # no mremap on this system: copy
                self._pages = None
        if self._pages is None:
            self._pages = mmap.mmap(-1, room, flags=_PAGES)
            if old is not None:
                self._pages[: used * size] = memoryview(old)[: used * size]
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without large pages: slower, not wrong
                self._pages.madvise(mmap.MADV_HUGEPAGE)
        return np.frombuffer(self._pages, self._dtype)


def _grown(values: NDArray[Any], used: int, needed: int) -> NDArray[Any]:
    """The array, or a copy of its first `used` entries with room for at least `needed`.

    Fresh memory is mapped when it is first written, so room that is never used costs nothing.
    """
    if needed <= len(values):
        return values
    grown = np.empty(max(needed, 2 * len(values)), values.dtype)
    grown[:used] = values[:used]
    return grown


def _power_of_two(at_least: int) -> int:
    return 1 << max(6, (at_least - 1).bit_length())
