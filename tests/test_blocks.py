"""Keyed hashes of blocks against their slow twin and the vectors of the paper."""

from __future__ import annotations

import naive
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from traceprof.prefix.blocks import block_hashes, rehashed
from traceprof.prefix.tree import sequences

KEY = bytes(range(16))
# SipHash-2-4 of the bytes 0, 1, 2, ... n - 1 under that key (reference implementation, vectors_sip64)
VECTORS = {0: "310e0edd47db6f72", 1: "fd67dc93c539f874", 8: "6224939a79f5f593", 15: "e545be4961ca29a1", 63: "724506eb4c328a95"}  # fmt: skip

ids = st.lists(st.sampled_from([0, 1, 2, 2**32 - 1, 70_000]), max_size=20)


def test_twin_gives_the_published_vectors():
    """The slow twin is SipHash-2-4."""
    for n, told in VECTORS.items():
        assert naive.siphash(KEY, bytes(range(n))) == int.from_bytes(bytes.fromhex(told), "little")


@given(
    key=st.binary(min_size=16, max_size=16),
    unit=st.integers(1, 7),
    rows=st.lists(st.tuples(ids, ids), max_size=6),
)
def test_block_hashes_are_those_of_the_twin(key, unit, rows):
    """Full blocks of prompt and output, chained; a block that begins in the prompt and ends in the output is the output's."""
    found = block_hashes(key, unit, *sequences([p for p, _ in rows]), *sequences([o for _, o in rows]))
    for i, (prompt, output) in enumerate(rows):
        own, behind = naive.block_hashes(key, unit, prompt, output)
        assert found.prompt[found.prompt_offsets[i] : found.prompt_offsets[i + 1]].tolist() == own
        assert found.output[found.output_offsets[i] : found.output_offsets[i + 1]].tolist() == behind


@given(key=st.binary(min_size=16, max_size=16), values=st.lists(st.integers(0, 2**64 - 1), max_size=9))
def test_single_values_are_hashed_alone(key, values):
    """Each value is SipHash-2-4 of its eight bytes."""
    found = rehashed(key, np.array(values, np.uint64))
    assert found.tolist() == [naive.siphash(key, v.to_bytes(8, "little")) for v in values]
