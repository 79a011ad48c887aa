"""What every cache model runs over: who asks for which prefix, and when.

    >>> two = Traffic.of_lists([([1, 2, 3], [7, 8], 0, 5), ([1, 2, 3, 7, 9], [], 6, 8)])
    >>> two.prompt.tolist(), two.total.tolist()
    ([3, 5], [5, 5])
    >>> two.parent.tolist(), two.begin.tolist(), two.end.tolist(), two.node.tolist()
    ([-1, 2, 0, 2], [0, 4, 3, 4], [3, 5, 4, 5], [3, 1])

Tokens are looked at once, when the tree of all sequences is grown; from then on a sequence is its path in that tree
(`traceprof.kernels.paths`), and a cache model costs the same whatever the prompts' lengths. A model of requests with
times is driven by `traceprof.kernels.clock`, whose docstring says how requests queue, decode and end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from traceprof.kernels.paths import Paths
    from traceprof.kernels.state import Clock, Machine
    from traceprof.prefix.tree import RadixTree

I64: TypeAlias = NDArray[np.int64]
I32: TypeAlias = NDArray[np.int32]


class Traffic(NamedTuple):
    """Requests in the order of their arrival, over the static tree of all their sequences."""

    parent: I32  # [node] the node above, or -1 - root
    begin: I64  # [node] tokens above it
    end: I64  # [node] tokens down to its end
    node: I32  # [request] where its prompt + output ends
    prompt: I64  # [request] tokens
    total: I64  # [request] prompt + output tokens
    arrival_us: I64  # [request] never falls
    first_us: I64  # [request] when its first output token came
    end_us: I64  # [request] at least first_us, which is at least arrival_us
    machine: Machine | None = None  # computes when requests run; None: they run as they did in the log

    @classmethod
    def of_tree(
        cls,
        tree: RadixTree,
        end_node: I64,
        known: I64,
        prompt: I64,
        output: I64,
        arrival_us: I64,
        first_us: I64,
        end_us: I64,
    ) -> Traffic:
        """Requests whose sequences were inserted into a tree.

        end_node  [request]  where the sequence ended there, prompt and, where it is known, output
        known     [request]  tokens which that path identifies
        prompt, output       tokens; what of them lies behind `known` (an answer that the trace only counts, a tail
                             that was not hashed) becomes a leaf of the request's own: it takes room and never hits
        """
        nodes = tree.nodes()
        parent = np.where(nodes.parent < 0, -1 - nodes.root, nodes.parent)
        total = prompt + output
        reached = np.minimum(known, total)
        own = np.flatnonzero(reached < total)
        depth = nodes.depth_symbols.astype(np.int64) * tree.unit
        node = end_node.astype(np.int32)
        node[own] = len(depth) + np.arange(len(own))
        return cls(
            np.concatenate([parent, end_node[own]]).astype(np.int32),
            np.concatenate([depth - nodes.length.astype(np.int64) * tree.unit, reached[own]]),
            np.concatenate([depth, total[own]]),
            node,
            prompt,
            total,
            arrival_us,
            first_us,
            end_us,
        )

    @classmethod
    def of_lists(
        cls,
        requests: Iterable[tuple[Sequence[int], Sequence[int], int, int]],
        roots: Sequence[int] | None = None,
    ) -> Traffic:
        """Small traffic by hand: (prompt, output, arrival_us, end_us) of each request; the first token comes half-way."""
        from traceprof.prefix.tree import RadixTree, sequences

        listed = list(requests)
        tree = RadixTree()
        where = None if roots is None else np.array(roots, np.int64)
        prompts = tree.insert(*sequences([p for p, *_ in listed]), where).end_node
        end_node = tree.extend(prompts, *sequences([o for _, o, *_ in listed]))
        prompt, output, arrival, end = (
            np.array([(len(p), len(o), a, e) for p, o, a, e in listed], np.int64).reshape(-1, 4).T.copy()
        )
        return cls.of_tree(
            tree, end_node, prompt + output, prompt, output, arrival, arrival + (end - arrival) // 2, end
        )

    @classmethod
    def of_shared(cls, like: I64, shared: I64, prompt: I64) -> Traffic:
        """Prompts of which is only known what `shared` told: with which earlier one each begins, and how far. No times, no outputs.

        >>> Traffic.of_shared(np.array([-1, 0, 0]), np.array([0, 2, 3]), np.array([4, 5, 3])).end.tolist()
        [4, 2, 5, 3]
        """
        from traceprof.kernels.paths import tree_of_shared

        n = len(prompt)
        parent, node = np.empty(2 * n, np.int32), np.empty(n, np.int32)
        begin, end = np.empty(2 * n, np.int64), np.empty(2 * n, np.int64)
        made = tree_of_shared(like, shared, prompt, parent, begin, end, node)
        nothing = np.zeros(n, np.int64)
        return cls(parent[:made], begin[:made], end[:made], node, prompt, prompt, nothing, nothing, nothing)

    def shared(self) -> tuple[I64, I64]:
        """For each prompt an earlier one that begins with the longest run of the same tokens (-1: none), and its length.

        >>> two = Traffic.of_lists([([1, 2, 3], [4], 0, 1), ([1, 2, 4], [], 2, 3), ([5], [], 4, 5)])
        >>> tuple(found.tolist() for found in two.shared())
        ([-1, 0, -1], [0, 2, 0])
        """
        from traceprof.kernels.paths import shared

        like, tokens = np.empty(self.requests, np.int64), np.empty(self.requests, np.int64)
        shared(self.paths(), self.prompt, like, tokens)
        return like, tokens

    @property
    def requests(self) -> int:
        """How many."""
        return len(self.node)

    def subset(self, which: NDArray[Any]) -> Traffic:
        """Only these requests (a mask or positions in order), over the part of the tree that they use.

        >>> two = Traffic.of_lists([([1, 2, 3], [], 0, 5), ([4, 5], [], 6, 8)])
        >>> two.subset(np.array([False, True])).end.tolist()
        [2]
        """
        from traceprof.kernels.paths import used

        others = ("parent", "begin", "end", "machine")
        part = self._replace(
            **{name: getattr(self, name)[which] for name in self._fields if name not in others}
        )
        number = used(part.paths())
        kept = number >= 0

        def renumbered(node: I32) -> I32:
            found = node.copy()
            found[node >= 0] = number[node[node >= 0]]
            return found

        return part._replace(
            parent=renumbered(self.parent[kept]),
            begin=self.begin[kept],
            end=self.end[kept],
            node=renumbered(part.node),
        )

    def answered(self, output: I64) -> Traffic:
        """Prompts with so many tokens of answers behind them: each a leaf of its own, which takes room and never hits.

        >>> Traffic.of_lists([([1, 2], [], 0, 1)]).answered(np.array([3])).total.tolist()
        [5]
        """
        own = np.flatnonzero(output > 0)
        total = self.prompt + output
        node = self.node.copy()
        node[own] = len(self.parent) + np.arange(len(own))
        return self._replace(
            parent=np.concatenate([self.parent, self.node[own]]),
            begin=np.concatenate([self.begin, self.prompt[own]]),
            end=np.concatenate([self.end, total[own]]),
            node=node,
            total=total,
        )

    def paths(self) -> Paths:
        """The arrays that kernels walk."""
        from traceprof.kernels.paths import Paths

        return Paths(self.parent, self.begin, self.end, self.node)

    def clock(self, quantum: int, limit: int) -> Clock:
        """A clock at its start: see `traceprof.kernels.clock`."""
        from traceprof.kernels.state import FIELDS, Clock, no_machine

        n = self.requests
        output = self.total - self.prompt
        return Clock(
            arrival=self.arrival_us,
            first=self.first_us - self.arrival_us,
            took=self.end_us - self.arrival_us,
            prompt=self.prompt,
            final=self.prompt + np.maximum(output - 1, 0),
            output=output,
            quantum=quantum,
            limit=limit,
            kv=self.prompt.copy(),
            zero=np.zeros(n, np.int64),
            runs=np.zeros(n, np.int64),
            hits=np.full(n, -1, np.int64),
            front=np.empty(n, np.int64),
            stack=np.empty(n, np.int64),
            heap_time=np.empty(n, np.int64),
            heap_who=np.empty(n, np.int64),
            now=np.zeros(FIELDS, np.int64),
            machine=self.machine or no_machine(),
        )


class Outcome(NamedTuple):
    """What a cache model did with the traffic."""

    hit_tokens: I64  # [request] of its prompt; -1: it can never fit, the engine refuses it
    evicted_tokens: int  # thrown out to make room, over all the time
    waited: int  # requests that had to wait for room
    preempted: int  # times that a running request was thrown out to let another go on

    @classmethod
    def of(cls, clock: Clock, evicted_tokens: int) -> Outcome:
        """From a clock that has run to its end."""
        from traceprof.kernels.state import PREEMPTIONS, WAITED

        return cls(clock.hits, evicted_tokens, int(clock.now[WAITED]), int(clock.now[PREEMPTIONS]))
