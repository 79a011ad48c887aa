"""Keyed hashes of token blocks: what is left of a prompt when nobody may read it, and sharing must still be measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


SCHEME = "siphash-2-4-chain"  # hash_scheme of a trace's rows whose blocks were hashed here


class BlockHashes(NamedTuple):
    """Chained hashes of full blocks; sequence i has prompt[prompt_offsets[i] : prompt_offsets[i + 1]]."""

    prompt: NDArray[np.uint64]
    prompt_offsets: NDArray[np.int64]
    output: NDArray[np.uint64]  # of the blocks that prompt and output fill together, behind the prompt's own
    output_offsets: NDArray[np.int64]


def _halves(key: bytes) -> tuple[np.uint64, np.uint64]:
    low, high = np.frombuffer(key, "<u8")
    return low, high


def block_hashes(
    key: bytes,
    unit: int,
    ids: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    outputs: NDArray[np.uint32],
    output_offsets: NDArray[np.int64],
) -> BlockHashes:
    """SipHash-2-4 under a 16-byte key of each full block of `unit` ids, chained: equal hashes mean equal prefixes.

    A block that begins in the prompt and ends in the output is the output's; the ids that fill no block have no hash.
    """
    from traceprof.kernels import siphash

    prompts = np.diff(offsets)
    blocks = prompts // unit
    of_output = (prompts + np.diff(output_offsets)) // unit - blocks
    prompt_offsets = np.concatenate(([0], np.cumsum(blocks)))
    out_offsets = np.concatenate(([0], np.cumsum(of_output)))
    found = np.empty(prompt_offsets[-1], np.uint64), np.empty(out_offsets[-1], np.uint64)
    siphash.chain(*_halves(key), unit, ids, offsets, outputs, output_offsets, *found)
    return BlockHashes(found[0], prompt_offsets, found[1], out_offsets)


def rehashed(key: bytes, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each 64-bit value under the key: equal where they were equal, telling nothing else."""
    from traceprof.kernels import siphash

    found = np.empty(len(values), np.uint64)
    siphash.each(*_halves(key), np.ascontiguousarray(values, np.uint64), found)
    return found
