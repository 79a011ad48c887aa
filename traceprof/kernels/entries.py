"""Servers for Apple silicon that keep whole sequences and copy what a prompt shares with the nearest one: mlx-lm, vllm-mlx."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from traceprof.kernels.clock import ADMIT, DONE, GROW, Clock, admitted, ended, grown, step
from traceprof.kernels.jit import jit
from traceprof.kernels.paths import Paths, longest, path

Int: TypeAlias = Any
I32: TypeAlias = NDArray[np.int32]
I64: TypeAlias = NDArray[np.int64]

MLX_LM, VLLM_MLX = range(2)
_ENTRIES, _TOKENS, _DROPPED, _MARK = range(4)


class _Store(NamedTuple):
    """Sequences in the order in which they will be thrown out; one is a request and how many of its tokens are kept."""

    p: Paths
    mark: I64  # [static node] the last path that passed it
    place: I32  # [static node] where on that path
    on: I32
    upto: I64
    request: I64  # [entry]
    tokens: I64
    common: I64  # [entry] tokens in common with the sequence that was marked last
    tally: I64


@jit
def _compare(s: _Store, request: Int, tokens: Int) -> None:
    """Fill `common` for all entries."""
    n = path(s.p, request, tokens, s.on, s.upto)
    s.tally[_MARK] += 1
    for i in range(n):
        s.mark[s.on[i]] = s.tally[_MARK]
        s.place[s.on[i]] = i
    for entry in range(s.tally[_ENTRIES]):
        v = np.int64(s.p.node[s.request[entry]])
        upto = s.tokens[entry]
        same: Int = 0
        while v >= 0:
            if s.p.begin[v] < upto and s.mark[v] == s.tally[_MARK]:
                same = min(upto, s.upto[s.place[v]])
                break
            upto = min(upto, s.p.begin[v])
            v = np.int64(s.p.parent[v])
        s.common[entry] = same


@jit
def _drop(s: _Store, entry: Int) -> None:
    s.tally[_TOKENS] -= s.tokens[entry]
    s.tally[_ENTRIES] -= 1
    for i in range(entry, s.tally[_ENTRIES]):
        s.request[i] = s.request[i + 1]
        s.tokens[i] = s.tokens[i + 1]
        s.common[i] = s.common[i + 1]


@jit
def _append(s: _Store, request: Int, tokens: Int) -> None:
    at = s.tally[_ENTRIES]
    s.request[at] = request
    s.tokens[at] = tokens
    s.common[at] = tokens
    s.tally[_ENTRIES] += 1
    s.tally[_TOKENS] += tokens


@jit
def _store(s: _Store, request: Int, tokens: Int, most: Int, limit: Int, prefixes: Int, after: Int) -> None:
    """Keep a sequence as the last to go; entries that it begins with go if `prefixes`. Room is made before, or `after`."""
    if tokens == 0:
        return
    _compare(s, request, tokens)
    for entry in range(s.tally[_ENTRIES]):
        if s.common[entry] == tokens == s.tokens[entry]:  # there already: only its turn changes
            _drop(s, entry)
            _append(s, request, tokens)
            return
    if not after and tokens > limit:
        return
    if prefixes:
        entry = 0
        while entry < s.tally[_ENTRIES]:
            if s.common[entry] == s.tokens[entry]:
                _drop(s, entry)
            else:
                entry += 1
    if not after:
        while s.tally[_TOKENS] + tokens > limit:
            s.tally[_DROPPED] += s.tokens[0]
            _drop(s, 0)
    _append(s, request, tokens)
    while s.tally[_ENTRIES] > most or s.tally[_TOKENS] > limit:
        s.tally[_DROPPED] += s.tokens[0]
        _drop(s, 0)


@jit
def sequences(p: Paths, c: Clock, rules: Int, most: Int, limit: Int) -> Int:
    """Requests against a store of at most `most` sequences and `limit` tokens. Fills c.hits; returns tokens thrown out."""
    widest = longest(p)[0] + 1
    room = min(most, min(limit, 2 * c.prompt.shape[0])) + 3
    s = _Store(
        p,
        np.zeros(p.parent.shape[0], np.int64),
        np.zeros(p.parent.shape[0], np.int32),
        np.empty(widest, np.int32),
        np.empty(widest, np.int64),
        np.empty(room, np.int64),
        np.empty(room, np.int64),
        np.empty(room, np.int64),
        np.zeros(4, np.int64),
    )
    while True:
        kind, r, length = step(c)
        if kind == DONE:
            break
        if kind == GROW:
            grown(c, r, length)
            continue
        if kind != ADMIT:
            _store(s, r, c.final[r], most, limit, int(rules == MLX_LM), int(rules == MLX_LM))
            ended(c, r)
            continue
        _compare(s, r, length)
        hit: Int = 0
        used: Int = -1
        if rules == MLX_LM:  # an entry that is the prompt, else the longest common prefix
            for entry in range(s.tally[_ENTRIES]):
                if s.common[entry] == length == s.tokens[entry]:
                    hit = length
                elif hit < length:
                    hit = max(hit, min(s.common[entry], length - 1))
        else:  # the longest entry that begins with the prompt, else the longest that it begins with, else the nearest
            best: Int = -1
            for entry in range(s.tally[_ENTRIES]):
                if s.common[entry] == length:
                    rank = 3
                    size = s.tokens[entry] if s.tokens[entry] > length else np.int64(1) << 60
                elif s.common[entry] == s.tokens[entry]:
                    rank = 2
                    size = s.common[entry]
                elif s.common[entry] > 0:
                    rank = 1
                    size = s.common[entry]
                else:
                    continue
                order = rank * (np.int64(1) << 61) + size
                if order >= best:
                    best = order
                    used = entry
                    hit = s.common[entry]
            if used >= 0:
                request, tokens = s.request[used], s.tokens[used]
                _drop(s, used)
                _append(s, request, tokens)
            _store(s, r, length, most, limit, 1, 0)
        admitted(c, r, hit)
    return s.tally[_DROPPED]
