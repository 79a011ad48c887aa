"""mlx-lm's server: a handful of whole sequences in three queues, of which a prompt copies what it has in common with one."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from traceprof.kernels.clock import admitted, ended, grown, step
from traceprof.kernels.jit import jit
from traceprof.kernels.paths import Paths
from traceprof.kernels.sequences import Jumps, common, jumps
from traceprof.kernels.state import ADMIT, DONE, GROW, Clock

Int: TypeAlias = Any
I64: TypeAlias = NDArray[np.int64]

ASSISTANT, USER = range(2)  # the queue of system prompts stays empty: see the facade


class _Store(NamedTuple):
    """Sequences by the order in which they were kept; one is a request and how many of its tokens."""

    request: I64  # [entry]
    tokens: I64  # [entry]
    kind: I64  # [entry] ASSISTANT or USER
    kinds: I64  # [2] entries of each kind
    sums: I64  # [3] entries, tokens of them, tokens thrown out


@jit
def _remove(s: _Store, entry: Int) -> None:
    s.kinds[s.kind[entry]] -= 1
    s.sums[0] -= 1
    s.sums[1] -= s.tokens[entry]
    for i in range(entry, s.sums[0]):
        s.request[i] = s.request[i + 1]
        s.tokens[i] = s.tokens[i + 1]
        s.kind[i] = s.kind[i + 1]


@jit
def _pop(s: _Store) -> None:
    """Throw out the oldest of the assistant's, unless there are more of the user's."""
    kind = ASSISTANT if s.kinds[ASSISTANT] > 0 and s.kinds[ASSISTANT] >= s.kinds[USER] else USER
    entry = 0
    while s.kind[entry] != kind:
        entry += 1
    s.sums[2] += s.tokens[entry]
    _remove(s, entry)


@jit
def _insert(p: Paths, j: Jumps, s: _Store, r: Int, tokens: Int, kind: Int, most: Int) -> None:
    """Keep a sequence instead of itself and of all that it begins with."""
    entry = 0
    while entry < s.sums[0]:
        held = s.tokens[entry]
        if held <= tokens and common(p, j, s.request[entry], held, r, tokens) == held:
            _remove(s, entry)
        else:
            entry += 1
    at = s.sums[0]
    s.request[at], s.tokens[at], s.kind[at] = r, tokens, kind
    s.kinds[kind] += 1
    s.sums[0] += 1
    s.sums[1] += tokens
    if s.sums[0] > most:
        _pop(s)


@jit
def mlx_lm(p: Paths, c: Clock, most: Int, capacity: Int, prompt_kind: Int) -> Int:
    """Requests against `most` sequences of `capacity` tokens beside the running ones. Fills c.hits; returns tokens thrown out.

    prompt_kind  the queue of prompts whose answers are still to come
    """
    j = jumps(p)
    room = most + 2
    s = _Store(
        np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.int64), np.zeros(2, np.int64),
        np.zeros(3, np.int64),
    )  # fmt: skip
    active: Int = 0  # tokens of running requests
    while True:
        kind, r, length = step(c)
        if kind == DONE:
            return s.sums[2]
        if kind == GROW:
            active += length - c.kv[r]
            grown(c, r, length)
            continue
        if kind != ADMIT:
            active -= c.kv[r]
            _insert(p, j, s, r, c.prompt[r] + c.output[r], ASSISTANT, most)
            ended(c, r)
            continue
        hit: Int = 0
        for entry in range(s.sums[0]):
            same = common(p, j, s.request[entry], s.tokens[entry], r, length)
            if same == length == s.tokens[entry]:
                hit = length
            elif hit < length:
                hit = max(hit, min(same, length - 1))
        while s.sums[1] > max(0, capacity - active - hit):
            _pop(s)
        active += length
        if length - hit > 1:
            _insert(p, j, s, r, length - 1, prompt_kind, most)
        admitted(c, r, hit)
