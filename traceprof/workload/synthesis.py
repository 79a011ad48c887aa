"""Prompts that share with each other exactly what they are to share, and say nothing.

A tree says what prompts have in common. Each of its nodes gets tokens of its own: the node and the place in it decide each token,
so the same path always reads the same, and nothing is kept. Of the children of one node every one begins with another token, as
long as the vocabulary lasts; when it does not, with another sequence of tokens, as short as can be.

    >>> tree = Traffic.of_lists([([1, 2, 3], [], 0, 1), ([1, 2, 9], [], 2, 3)])
    >>> made = Synthesis.of(tree, tokens=100, seed=0)
    >>> first, second = made.prompt(0), made.prompt(1)
    >>> (first[:2] == second[:2]).all(), first[2] == second[2]
    (np.True_, np.False_)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from traceprof.caches.traffic import Traffic

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Synthesis(NamedTuple):
    """What decides every token of every prompt; tokens are numbers below `tokens`."""

    traffic: Traffic  # prompts as paths
    up: NDArray[np.int64]  # [node] whose child it is, -1 for none
    begin: NDArray[np.int64]  # [node] where its own tokens begin
    ordinal: NDArray[np.int64]  # [node] its place among the children of the same node
    digits: NDArray[np.int64]  # [node] tokens that tell it from them
    tokens: int  # to choose from
    filler: int  # the first so many of them, which stand behind a node's beginning
    firsts: int  # the first so many of them, with which a prompt may begin
    seed: int

    @classmethod
    def of(
        cls,
        traffic: Traffic,
        *,
        tokens: int,
        seed: int,
        filler: int | None = None,
        firsts: int | None = None,
        opening: int = 0,
    ) -> Synthesis:
        """For prompts of which the first `opening` tokens are the same anyway, so that what tells them apart comes behind."""
        parent = traffic.parent.astype(np.int64)
        up = parent
        # a node that lies within the opening tells nothing: what is below it hangs on what is above
        while (hidden := (up >= 0) & (traffic.end[np.maximum(up, 0)] <= opening)).any():
            up = np.where(hidden, parent[np.maximum(up, 0)], up)
        # prompts of different roots share nothing, also where nothing else tells them apart
        up = np.maximum(up, -1)
        shown = np.flatnonzero(traffic.end > opening)
        order = shown[np.argsort(up[shown], kind="stable")]
        above, first, sizes = np.unique(up[order], return_index=True, return_counts=True)
        ordinal = np.zeros(len(parent), np.int64)
        ordinal[order] = np.arange(len(order)) - np.repeat(first, sizes)
        digits = np.zeros(len(parent), np.int64)
        bases = np.where(above < 0, firsts or tokens, tokens)
        digits[order] = np.repeat(_digits(sizes, bases, tokens), sizes)
        begin = np.maximum(traffic.begin, opening)
        return cls(traffic, up, begin, ordinal, digits, tokens, filler or tokens, firsts or tokens, seed)

    @property
    def crowded(self) -> int:
        """Nodes that begin with a token with which another child of the same node begins: there are too few tokens."""
        return int((self.digits > 1).sum())

    def prompt(self, request: int, tokens: int | None = None) -> NDArray[np.int64]:
        """Its tokens, or the first so many of them."""
        length = int(self.traffic.prompt[request]) if tokens is None else tokens
        path = self._path(request)
        ends = np.minimum(self.traffic.end[path], length)
        starts = np.minimum(np.concatenate(([0], ends[:-1])), ends)
        place = np.arange(int(ends[-1]) if len(ends) else 0)
        node = np.repeat(path, ends - starts)
        found = (_mixed(node, place, self.seed) % np.uint64(self.filler)).astype(np.int64)
        for one in path[(self.begin[path] < ends) & (self.digits[path] > 0)].tolist():
            rest = int(self.ordinal[one])
            for digit in range(int(self.digits[one])):
                at = int(self.begin[one]) + digit
                if at >= min(int(self.traffic.end[one]), length):
                    break
                base = self.firsts if self.up[one] < 0 and digit == 0 else self.tokens
                turn = _mixed(self.up[one : one + 1], np.array([digit]), self.seed + 1)[0]
                found[at] = (rest + int(turn % np.uint64(base))) % base
                rest //= base
        return found

    def _path(self, request: int) -> NDArray[np.int64]:
        """Nodes from the root to the prompt's end."""
        nodes = []
        node = int(self.traffic.node[request])
        while node >= 0:
            nodes.append(node)
            node = int(self.traffic.parent[node])
        return np.array(nodes[::-1], np.int64)


def _digits(sizes: NDArray[np.int64], first: NDArray[np.int64], base: int) -> NDArray[np.int64]:
    """Digits that tell so many apart, the first one of its own base.

    >>> _digits(np.array([1, 100, 101, 10001]), np.array([100, 100, 100, 100]), 100).tolist()
    [1, 1, 2, 3]
    """
    found = np.ones(len(sizes), np.int64)
    reach = first.copy()
    while (short := sizes > reach).any():
        found += short
        reach *= base
    return found


def _mixed(node: NDArray[np.int64], place: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """A number for each node and place, as good as drawn (splitmix64's finish over both)."""
    x = node.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x ^= place.astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
    x += np.full(1, seed, np.uint64) * np.uint64(0xD6E8FEB86659FD93)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def apart(lengths: NDArray[np.int64]) -> Traffic:
    """Prompts of these lengths that share nothing."""
    n = len(lengths)
    nothing = np.zeros(n, np.int64)
    return Traffic(
        np.full(n, -1, np.int32), nothing, lengths.astype(np.int64), np.arange(n, dtype=np.int32),
        lengths.astype(np.int64), lengths.astype(np.int64), nothing, nothing, nothing,
    )  # fmt: skip
