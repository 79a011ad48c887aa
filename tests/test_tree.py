"""The radix tree equals its slow twins, however the trace is cut into chunks."""

from __future__ import annotations

import doctest
import mmap
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import naive
from tests.strategies import cut, symbols, traces
from traceprof.prefix import reuse as reuse_module
from traceprof.prefix import tree as tree_module
from traceprof.prefix.tree import RadixTree, hit_tokens, sequences

many = settings(max_examples=200, deadline=None)
dtypes = st.sampled_from([np.uint32, np.uint64])
units = st.sampled_from([1, 4])


def columns(chunk, dtype):
    flat, offsets = sequences([r.symbols for r in chunk], dtype)
    roots = np.array([r.root for r in chunk], np.int64)
    return flat, offsets, roots, np.array([r.tokens for r in chunk], np.int64)


def insert_all(tree, chunks):
    """All chunks' results, joined."""
    parts = [tree.insert(*columns(chunk, tree.dtype)) for chunk in chunks]
    matched = [m for part in parts for m in part.matched.tolist()]
    end_node = [e for part in parts for e in part.end_node.tolist()]
    runs = [run for part in parts for run in zip(*(column.tolist() for column in part.runs), strict=True)]
    return matched, end_node, runs


def named(tree):
    """The tree's nodes, each named by its prefix, as naive.nodes gives them."""
    nodes = tree.nodes()
    level = {-1: 0}
    for v in np.argsort(nodes.depth_symbols).tolist():
        level[v] = level[int(nodes.parent[v])] + 1
    return {
        naive.Node(
            int(nodes.root[v]),
            tuple(tree.prefix_symbols(v).tolist()),
            int(nodes.length[v]),
            level[v],
            int(nodes.count[v]),
            int(nodes.last[v]),
        )
        for v in range(len(nodes.parent))
    }


@many
@given(st.data(), dtypes, units, st.booleans())
def test_matched_nodes_counts_and_stats_equal_the_twin(data, dtype, unit, reuse):
    """Matches, node set, counts and stats are those of the obvious definition."""
    trace = data.draw(traces(unit))
    tree = RadixTree(unit=unit, reuse=reuse, dtype=dtype)
    matched, end_node, _ = insert_all(tree, data.draw(cut(trace)))
    assert matched == naive.matched(trace)
    for request, node in zip(trace, end_node, strict=True):
        assert tuple(tree.prefix_symbols(node).tolist()) == request.symbols
        if not request.symbols:
            assert node == -1 - request.root
    expected = naive.nodes(trace)
    assert named(tree) == set(expected)
    assert len(tree.nodes().parent) == len(expected)
    stats = tree.stats()
    parents = {(n.root, n.prefix[: -n.length]) for n in expected}
    assert stats.nodes == len(expected)
    assert stats.leaves == sum((n.root, n.prefix) not in parents for n in expected)
    assert stats.max_depth == max((n.level for n in expected), default=0)
    hits = [min(m * unit, r.tokens) for m, r in zip(matched, trace, strict=True)]
    assert stats.distinct_tokens == sum(r.tokens for r in trace) - sum(hits)
    depths = [
        len(n.prefix) * unit if unit == 1 else min(len(n.prefix) * unit, trace[n.last].tokens)
        for n in expected
    ]
    assert stats.max_depth_tokens == max(depths, default=0)


@many
@given(st.data(), traces())
def test_node_set_does_not_depend_on_insertion_order(data, trace):
    """Nodes and the total of distinct tokens are the same for every order."""
    other = data.draw(st.permutations(trace))
    trees = RadixTree(), RadixTree()
    insert_all(trees[0], [trace])
    insert_all(trees[1], [other])
    shapes = [{node._replace(last=0) for node in named(tree)} for tree in trees]
    assert shapes[0] == shapes[1]
    assert trees[0].stats() == trees[1].stats()


@many
@given(st.data(), dtypes, units)
def test_reuse_distances_equal_a_brute_force_lru_stack(data, dtype, unit):
    """Per request the same distances as a stack of all states, all roots in one."""
    trace = data.draw(traces(unit))
    total = data.draw(st.sampled_from([0, len(trace)]))
    tree = RadixTree(unit=unit, reuse=True, dtype=dtype, requests_total=total)
    _, _, runs = insert_all(tree, data.draw(cut(trace)))
    distances = [[] for _ in trace]
    for start, length, request in runs:
        assert start >= 1
        assert length >= 1
        distances[request] += range(start, start + length)
    expected = naive.reuse_distances(trace, unit)
    assert [sorted(d) for d in distances] == [sorted(d) for d in expected]
    assert tree.hit_tokens == sum(len(d) for d in distances)


@many
@given(st.data(), traces(), dtypes)
def test_extend_continues_where_a_sequence_ended(data, trace, dtype):
    """Outputs make nodes of their own, count nobody, and later prompts match them."""
    half = data.draw(st.integers(0, len(trace)))
    tree = RadixTree(dtype=dtype)
    _, end_node, _ = insert_all(tree, [trace[:half]])
    which = [k for k in range(half) if data.draw(st.booleans())]
    outputs = [data.draw(symbols) for _ in which]
    ends = tree.extend(np.array([end_node[k] for k in which], np.int64), *sequences(outputs, dtype))
    extensions = [
        (trace[k].root, trace[k].symbols + output) for k, output in zip(which, outputs, strict=True)
    ]
    assert [tuple(tree.prefix_symbols(node).tolist()) for node in ends.tolist()] == [s for _, s in extensions]
    assert named(tree) == set(naive.nodes(trace[:half], extensions))
    matched, _, _ = insert_all(tree, [trace[half:]])
    known = [naive.Request(s, root) for root, s in extensions] + trace[:half]
    later = [naive.matched([*known, *trace[half : i + 1]])[-1] for i in range(half, len(trace))]
    assert matched == later
    assert named(tree) == set(naive.nodes(trace, extensions))


@many
@given(st.data(), units, st.integers(0, 6))
def test_top_prefixes_rank_by_saved_tokens_and_drop_what_says_the_same(data, unit, limit):
    """Of two nodes on one path with counts within a factor 2 only the better one stands."""
    trace = data.draw(traces(unit, max_size=25))
    tree = RadixTree(unit=unit)
    insert_all(tree, [trace])

    def tokens(n):
        return min(len(n.prefix) * unit, trace[n.last].tokens)

    top = tree.top_prefixes(limit)
    shared = [n for n in naive.nodes(trace) if n.count >= 2]
    saved = [p.saved_tokens for p in top]
    assert saved == sorted(saved, reverse=True)
    assert len(top) <= limit
    if top:
        assert saved[0] == max((n.count - 1) * tokens(n) for n in shared)
    by_prefix = {(n.root, n.prefix): n for n in shared}
    found = []
    for p in top:
        node = by_prefix[p.root, tuple(tree.prefix_symbols(p.node).tolist())]
        assert (p.tokens, p.requests) == (tokens(node), node.count)
        assert p.saved_tokens == (p.requests - 1) * p.tokens
        found.append(node)
    assert naive.top_prefixes(found, limit) == found
    if len(top) < limit:  # then whatever was left out is on the path of something chosen
        assert all(n in found or naive.top_prefixes([*found, n], limit) == found for n in shared)


def test_reading_arrow_memory_needs_no_copy_and_no_writing():
    """Read-only, sliced and unaligned input gives the same as plain arrays."""
    flat, offsets = sequences([[8, 8], [1, 2, 3], [1, 2, 9]])
    unaligned = np.frombuffer(b"x" + flat.tobytes(), np.uint8)[1:].view(np.uint32)
    assert not unaligned.flags.aligned
    assert RadixTree().insert(unaligned, offsets[1:].astype(np.int32)).matched.tolist() == [0, 2]


class NoRemap(mmap.mmap):
    """Memory as on a system that cannot move pages."""

    def resize(self, newsize):
        raise SystemError("mmap: resizing not available--no mremap()")


@pytest.mark.parametrize("pages", [mmap.mmap, NoRemap])
def test_large_growth_keeps_everything(monkeypatch, pages):
    """Thousands of nodes through many regrowings of every array, with both ends of the symbols' range."""
    monkeypatch.setattr(mmap, "mmap", pages)
    rng = np.random.default_rng(3)
    top = np.iinfo(np.uint64).max
    prompts = [(top - rng.integers(0, 4, 30).astype(np.uint64)).tolist() for _ in range(3000)]
    once, piecewise = (RadixTree(dtype=np.uint64, reuse=True) for _ in range(2))
    a = once.insert(*sequences(prompts, np.uint64))
    b = [piecewise.insert(*sequences(prompts[k : k + 7], np.uint64)) for k in range(0, 3000, 7)]
    assert once.stats() == piecewise.stats()
    assert a.matched.tolist() == [m for part in b for m in part.matched.tolist()]
    for name in ("start", "length", "request"):
        joined = np.concatenate([getattr(part.runs, name) for part in b])
        assert getattr(a.runs, name).tolist() == joined.tolist()


@pytest.mark.parametrize(
    ("matched", "symbols_n", "tokens", "unit", "block", "hit"),
    [
        (37, 50, 50, 1, 16, 32),  # token ids: floor to the block
        (50, 50, 50, 1, 16, 48),  # also when all of it matched
        (2, 3, 1100, 512, 512, 1024),
        (3, 3, 1100, 512, 512, 1100),  # ceil rule: the partial block hit with its true length
        (3, 3, 1100, 512, 1024, 1100),
        (2, 2, 1100, 512, 512, 1024),  # floor rule: the tail was never hashed
        (2, 2, 1100, 512, 1024, 1024),
        (3, 4, 2000, 512, 1024, 1024),
        (0, 0, 0, 512, 512, 0),
        (3, 3, 1100, 512, 16, None),  # there are no such blocks
        (3, 3, 1100, 512, 768, None),
    ],
)
def test_hit_tokens_at_a_block_size(matched, symbols_n, tokens, unit, block, hit):
    """Hits are rounded down to blocks; a last partial block counts only where it was hashed."""
    result = hit_tokens(np.array([matched]), np.array([symbols_n]), np.array([tokens]), unit, block)
    assert hit is result if result is None else result.tolist() == [hit]


@pytest.mark.parametrize("module", [tree_module, reuse_module])
def test_docstring_examples_hold(module):
    """The worked examples are true."""
    assert doctest.testmod(module).failed == 0


def test_importing_the_tree_does_not_import_numba():
    """The kernels load at first use."""
    code = "import sys, traceprof.prefix.tree, traceprof.prefix.reuse; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
