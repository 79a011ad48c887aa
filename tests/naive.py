"""Slow, obvious twins of the fast functions: each says in a few lines what its kernel must return.

A request is its symbols (a tuple), its root and its true length in tokens; `unit` is tokens per symbol.
A *state* is (root, prefix): what a prefix cache holds one entry for.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

NO_END = -(1 << 63)  # an unknown end: the output is there before the next request arrives


class Request(NamedTuple):
    symbols: tuple[int, ...]
    root: int = 0
    tokens: int = 0
    arrival_us: int = 0
    output: tuple[int, ...] | None = None  # None: unknown
    end_us: int = NO_END


def common_prefix(a, b):
    """[1, 2, 3], [1, 2, 9, 9] -> 2"""
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


def matched(requests):
    """The longest common prefix with any earlier request of the same root."""
    return [
        max((common_prefix(r.symbols, e.symbols) for e in requests[:i] if e.root == r.root), default=0)
        for i, r in enumerate(requests)
    ]


def matched_with_outputs(requests):
    """As `matched`, against the earlier prompts and what had ended of them with their outputs behind."""
    result = []
    for i, request in enumerate(requests):
        known = list(inserted_before(requests, i))
        result.append(
            max((common_prefix(request.symbols, s) for root, s in known if root == request.root), default=0)
        )
    return result


def inserted_before(requests, i):
    """(root, symbols) of all that is in the tree when request i arrives."""
    for earlier in requests[:i]:
        yield earlier.root, earlier.symbols
        if earlier.output is not None and earlier.end_us <= requests[i].arrival_us:
            yield earlier.root, earlier.symbols + earlier.output


def states(request):
    """All prefixes but the empty one, shortest first."""
    return [(request.root, request.symbols[:n]) for n in range(1, len(request.symbols) + 1)]


class Node(NamedTuple):
    """A node, named by its state: the prefix at its end."""

    root: int
    prefix: tuple[int, ...]
    length: int  # symbols since the node above ends
    level: int  # nodes from the root down to it
    count: int
    last: int


def nodes(requests, extensions=()):
    """The canonical node set: ends of sequences and branch points. extensions: (root, symbols) that are not counted."""
    sequences = [(r.root, r.symbols) for r in requests] + list(extensions)
    ends = {(root, symbols) for root, symbols in sequences if symbols}
    following = {}
    for root, symbols in sequences:
        for n in range(1, len(symbols)):
            following.setdefault((root, symbols[:n]), set()).add(symbols[n])
    ends |= {state for state, symbols in following.items() if len(symbols) > 1}
    result = []
    for root, prefix in ends:
        above = [n for n in range(1, len(prefix)) if (root, prefix[:n]) in ends]
        through = [i for i, r in enumerate(requests) if r.root == root and r.symbols[: len(prefix)] == prefix]
        result.append(
            Node(
                root,
                prefix,
                length=len(prefix) - max(above, default=0),
                level=len(above) + 1,
                count=len(through),
                last=max(through, default=-1),
            )
        )
    return result


def reuse_distances(requests, unit=1):
    """For each request the distances of its hit tokens: an LRU stack of all states, most recent first.

    A request puts its own states on top, ancestors above descendants, below them its unhashed tail, which is a
    state nobody can ask for. A state weighs what its last toucher gave it.
    """
    stack = []  # (state, tokens)
    result = []
    for i, request in enumerate(requests):
        distances = []
        own = []
        for n, state in enumerate(states(request)):
            tokens = min((n + 1) * unit, request.tokens) - min(n * unit, request.tokens)
            own.append((state, tokens))
            above = 0
            for other, weight in stack:
                if other == state:
                    distances += [above + 1 + k for k in range(tokens)]
                    break
                above += weight
        own.append((("tail", i), request.tokens - sum(tokens for _, tokens in own)))
        mine = {state for state, _ in own}
        stack = own + [entry for entry in stack if entry[0] not in mine]
        result.append(distances)
    return result


def hits_at_capacity(requests, capacity):
    """Hit tokens of a token-level LRU prefix cache that really evicts (unit 1): every entry is one token's state."""
    cache = []
    hits = 0
    for request in requests:
        own = states(request)
        hits += len(set(own) & set(cache))
        cache = (own + [state for state in cache if state not in set(own)])[:capacity]
    return hits


def hits_by_capacity(distances, capacities):
    """A token with distance D hits exactly if capacity >= D."""
    count = Counter(d for of_request in distances for d in of_request)
    return [sum(n for d, n in count.items() if d <= capacity) for capacity in capacities]


def top_prefixes(found, limit):
    """found: (node, saved tokens, ...) best first. One of a root path whose counts are within a factor 2 stands."""
    chosen = []
    for node in found:
        close = (
            c
            for c in chosen
            if c.root == node.root
            and common_prefix(c.prefix, node.prefix) == min(len(c.prefix), len(node.prefix))
            and max(c.count, node.count) <= 2 * min(c.count, node.count)
        )
        if len(chosen) < limit and not any(close):
            chosen.append(node)
    return chosen


def siphash(key, data):
    """SipHash-2-4 of bytes under a 16-byte key, as its paper writes it."""
    mask = 2**64 - 1

    def left(x, by):
        return (x << by | x >> (64 - by)) & mask

    def rounds(v, n):
        v0, v1, v2, v3 = v
        for _ in range(n):
            v0 = (v0 + v1) & mask
            v1 = left(v1, 13) ^ v0
            v0 = left(v0, 32)
            v2 = (v2 + v3) & mask
            v3 = left(v3, 16) ^ v2
            v0 = (v0 + v3) & mask
            v3 = left(v3, 21) ^ v0
            v2 = (v2 + v1) & mask
            v1 = left(v1, 17) ^ v2
            v2 = left(v2, 32)
        return v0, v1, v2, v3

    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    v = k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573
    tail = len(data) % 8
    padded = data + bytes(7 - tail) + bytes([len(data) % 256])
    for i in range(0, len(padded), 8):
        word = int.from_bytes(padded[i : i + 8], "little")
        v = rounds((v[0], v[1], v[2], v[3] ^ word), 2)
        v = v[0] ^ word, v[1], v[2], v[3]
    v = rounds((v[0], v[1], v[2] ^ 0xFF, v[3]), 4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def block_hashes(key, unit, prompt, output):
    """(hashes of the prompt's full blocks, of those that prompt and output fill together behind them)"""
    whole, found, before = [*prompt, *output], [], 0
    for start in range(0, len(whole) - unit + 1, unit):
        ids = b"".join(i.to_bytes(4, "little") for i in whole[start : start + unit])
        before = siphash(key, before.to_bytes(8, "little") + ids)
        found.append(before)
    own = len(prompt) // unit
    return found[:own], found[own:]


def shared(prompts):
    """For each prompt (root, tokens) the length of the longest run that an earlier one of its root begins with, and who does."""
    found = []
    for i, (root, prompt) in enumerate(prompts):
        runs = [common_prefix(prompt, other) if root == of else 0 for of, other in prompts[:i]]
        most = max(runs, default=0)
        found.append((most, {j for j, run in enumerate(runs) if run == most and most > 0}))
    return found
