"""vllm-mlx: whole sequences, least recently used first to go, of which a prompt copies what it has in common with one."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from traceprof.kernels.clock import admitted, ended, grown, step
from traceprof.kernels.jit import jit
from traceprof.kernels.paths import Paths
from traceprof.kernels.sequences import common, jumps
from traceprof.kernels.state import ADMIT, DONE, GROW, Clock

Int: TypeAlias = Any
I32: TypeAlias = NDArray[np.int32]
I64: TypeAlias = NDArray[np.int64]


class _Store(NamedTuple):
    """Sequences in a ring by last use: entry 0 is head and tail."""

    request: I64  # [entry] the request whose first tokens it holds
    tokens: I64  # [entry] how many
    before: I64
    after: I64
    sums: I64  # [4] entries, tokens of them, tokens thrown out, first free entry
    through: I32  # [static node] entries that pass it or end in it
    ending: I32  # [static node] entries that end in it


@jit
def _use(s: _Store, e: Int) -> None:
    """As the last to go."""
    s.after[s.before[e]] = s.after[e]
    s.before[s.after[e]] = s.before[e]
    _append(s, e)


@jit
def _append(s: _Store, e: Int) -> None:
    s.before[e], s.after[e] = s.before[0], 0
    s.after[s.before[0]] = e
    s.before[0] = e


@jit
def _count(p: Paths, s: _Store, e: Int, change: Int) -> None:
    v = np.int64(p.node[s.request[e]])
    s.ending[v] += change
    while v >= 0:
        s.through[v] += change
        v = np.int64(p.parent[v])


@jit
def vllm_mlx(p: Paths, c: Clock, most: Int, room: Int, shortest: Int) -> Int:
    """Requests against `most` sequences of `room` tokens together. Fills c.hits; returns tokens thrown out.

    shortest  tokens from which on a sequence is kept, and what is in common used
    """
    j = jumps(p)
    size = min(most, room, c.prompt.shape[0]) + 2
    s = _Store(
        np.full(size, -1, np.int64), np.zeros(size, np.int64), np.zeros(size, np.int64), np.arange(1, size + 1),
        np.zeros(4, np.int64), np.zeros(p.parent.shape[0], np.int32), np.zeros(p.parent.shape[0], np.int32),
    )  # fmt: skip
    s.after[0] = 0
    s.sums[3] = 1
    while True:
        kind, r, length = step(c)
        if kind == DONE:
            return s.sums[2]
        if kind == GROW:
            grown(c, r, length)
            continue
        if kind == ADMIT:
            # the longest that begins with the prompt, unless one equals it; else the longest that the prompt begins
            # with; else the nearest, of equals the last used
            longer: Int = 0
            shorter: Int = 0
            near: Int = 0
            reach: Int = 0
            deepest: Int = 0  # no entry has more than so many tokens of it
            on_path: Int = 0  # entries that end in a node of its path
            v = np.int64(p.node[r])
            upto = length
            while v >= 0:
                if p.begin[v] < upto:
                    if deepest == 0 and s.through[v] > 0:
                        deepest = min(upto, p.end[v])
                    on_path += s.ending[v]
                upto = min(upto, p.begin[v])
                v = np.int64(p.parent[v])
            e = s.before[0] if length >= shortest and deepest >= shortest else 0
            while e != 0:
                if on_path == 0 and deepest < length and (shorter > 0 or reach == deepest):
                    break  # nothing better can follow
                same = common(p, j, s.request[e], s.tokens[e], r, length)
                if same > p.begin[p.node[s.request[e]]]:
                    on_path -= 1
                if same == length:
                    if s.tokens[e] == length:
                        longer = e
                        break
                    if longer == 0 or s.tokens[e] > s.tokens[longer]:
                        longer = e
                elif same == s.tokens[e]:
                    if shorter == 0 or same > s.tokens[shorter]:
                        shorter = e
                elif same > reach:
                    reach = same
                    near = e
                e = s.before[e]
            hit: Int = 0
            if longer > 0:
                hit = length
                _use(s, longer)
            elif shorter > 0:
                hit = s.tokens[shorter]
                _use(s, shorter)
            elif reach >= shortest:
                hit = reach
                _use(s, near)
            admitted(c, r, hit)
            continue
        ended(c, r)
        tokens = c.prompt[r] + c.output[r]
        if tokens < shortest or tokens > room:
            continue
        e = s.before[0] if s.ending[p.node[r]] > 0 else 0
        while e != 0 and not (
            s.tokens[e] == tokens and common(p, j, s.request[e], tokens, r, tokens) == tokens
        ):
            e = s.before[e]
        if e != 0:
            _use(s, e)
            continue
        while s.sums[0] > 0 and (s.sums[1] + tokens > room or s.sums[0] >= most):
            e = s.after[0]
            s.after[0] = s.after[e]
            s.before[s.after[e]] = 0
            s.sums[0] -= 1
            s.sums[1] -= s.tokens[e]
            s.sums[2] += s.tokens[e]
            _count(p, s, e, -1)
            s.after[e] = s.sums[3]
            s.sums[3] = e
        e = s.sums[3]
        s.sums[3] = s.after[e]
        s.request[e], s.tokens[e] = r, tokens
        s.sums[0] += 1
        s.sums[1] += tokens
        _count(p, s, e, 1)
        _append(s, e)
