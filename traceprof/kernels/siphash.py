"""SipHash-2-4 over blocks of token ids, each chained to the block before it; `traceprof.prefix.blocks` is the facade.

The hash of block b of a sequence is SipHash-2-4 under the key of the 8 bytes of the hash before it (0 for the first) and
the 4 bytes of each of its ids, little-endian: two blocks have one hash exactly when all ids up to their ends are equal,
but for collisions of 64 bits. Source: Aumasson and Bernstein, SipHash: a fast short-input PRF, 2012.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from traceprof.kernels.jit import jit

U64: TypeAlias = Any  # a scalar: uint64 once compiled
I64: TypeAlias = NDArray[np.int64]

_V0, _V1 = np.uint64(0x736F6D6570736575), np.uint64(0x646F72616E646F6D)
_V2, _V3 = np.uint64(0x6C7967656E657261), np.uint64(0x7465646279746573)
_FINAL = np.uint64(0xFF)
_SIXTY_FOUR = np.uint64(64)


@jit
def _left(x: U64, by: U64) -> U64:
    return (x << by) | (x >> (_SIXTY_FOUR - by))


@jit
def _round(v0: U64, v1: U64, v2: U64, v3: U64) -> tuple[U64, U64, U64, U64]:
    v0 += v1
    v1 = _left(v1, np.uint64(13)) ^ v0
    v0 = _left(v0, np.uint64(32))
    v2 += v3
    v3 = _left(v3, np.uint64(16)) ^ v2
    v0 += v3
    v3 = _left(v3, np.uint64(21)) ^ v0
    v2 += v1
    v1 = _left(v1, np.uint64(17)) ^ v2
    v2 = _left(v2, np.uint64(32))
    return v0, v1, v2, v3


@jit
def _absorb(v0: U64, v1: U64, v2: U64, v3: U64, word: U64) -> tuple[U64, U64, U64, U64]:
    v3 ^= word
    v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return v0 ^ word, v1, v2, v3


@jit
def hash_words(k0: U64, k1: U64, words: NDArray[np.uint64], size: U64) -> U64:
    """SipHash-2-4 of the first `size` bytes of `words`; bytes past them are zero."""
    v0, v1, v2, v3 = k0 ^ _V0, k1 ^ _V1, k0 ^ _V2, k1 ^ _V3
    whole = int(size) // 8
    for i in range(whole):
        v0, v1, v2, v3 = _absorb(v0, v1, v2, v3, words[i])
    last = np.uint64(size) << np.uint64(56)
    if int(size) % 8:
        last |= words[whole]
    v0, v1, v2, v3 = _absorb(v0, v1, v2, v3, last)
    v2 ^= _FINAL
    for _ in range(4):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return v0 ^ v1 ^ v2 ^ v3


@jit
def chain(
    k0: U64,
    k1: U64,
    unit: int,
    ids: NDArray[np.uint32],  # prompts, end to end
    offsets: I64,  # n + 1
    outputs: NDArray[np.uint32],
    output_offsets: I64,  # n + 1
    hashes: NDArray[np.uint64],  # to fill: a hash for each full block of a prompt
    output_hashes: NDArray[np.uint64],  # to fill: for each block that the output fills behind it
) -> None:
    """Hashes of all full blocks of prompt and output laid end to end, sequence after sequence."""
    words = np.zeros(1 + (unit + 1) // 2, np.uint64)
    size = np.uint64(8 + 4 * unit)
    at = out_at = 0
    for i in range(len(offsets) - 1):
        start, prompt = offsets[i], offsets[i + 1] - offsets[i]
        out_start = output_offsets[i]
        length = prompt + output_offsets[i + 1] - out_start
        before = np.uint64(0)
        for block in range(length // unit):
            words[0] = before
            words[1:] = np.uint64(0)
            for j in range(unit):
                place = block * unit + j
                one = ids[start + place] if place < prompt else outputs[out_start + place - prompt]
                words[1 + j // 2] |= np.uint64(one) << np.uint64(32 * (j % 2))
            before = hash_words(k0, k1, words, size)
            if (block + 1) * unit <= prompt:
                hashes[at] = before
                at += 1
            else:
                output_hashes[out_at] = before
                out_at += 1


@jit
def each(k0: U64, k1: U64, values: NDArray[np.uint64], hashes: NDArray[np.uint64]) -> None:
    """The hash of each value by itself: equal where they are equal."""
    word = np.zeros(1, np.uint64)
    for i in range(len(values)):
        word[0] = values[i]
        hashes[i] = hash_words(k0, k1, word, np.uint64(8))
