"""Tokens per second of the radix-tree kernel on one core, beside what the memory allows.

    python -m benchmarks.bench_kernel            299 M tokens in 100,000 requests
    python -m benchmarks.bench_kernel --small    1/50 of it, a smoke run

The load: multi-turn sessions under a few system prompts. Each turn sends the whole history again, so request
(session, turn) is the first `system + turns * turn_tokens` ids of its session's stream. Chunks are made by numpy and
dropped after use; only the tree's own copy of the distinct tokens stays. Compilation is not timed.
The limits are one pass of np.array_equal over two buffers of the chunk's size (as much memory as the kernel must read)
and one of np.copyto.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from traceprof.prefix.tree import RadixTree, sequences

TURNS = 8
TURN_TOKENS = 400
SYSTEM_TOKENS = 1190
SYSTEM_PROMPTS = 8
CHUNK = 4_000  # requests, some 12 M tokens


class Chunk(NamedTuple):
    symbols: np.ndarray  # uint32, of all requests
    offsets: np.ndarray  # int64 [n + 1]


def chunks(requests: int) -> Iterator[Chunk]:
    """Turns in random order over all sessions, each session's own in order."""
    rng = np.random.default_rng(7)
    sessions = max(requests // TURNS, 1)
    # sessions begin spread over the trace and then run at their own pace
    begins = rng.uniform(0, 1, sessions)
    times = begins[:, None] + np.cumsum(rng.exponential(0.01, (sessions, TURNS)), axis=1)
    order = np.argsort(times.ravel())
    session, turn = order // TURNS, order % TURNS
    lengths = SYSTEM_TOKENS + (turn + 1) * TURN_TOKENS + rng.integers(-20, 20, len(order))
    for at in range(0, len(order), CHUNK):
        yield _chunk(session[at : at + CHUNK], lengths[at : at + CHUNK])


def _chunk(session: np.ndarray, lengths: np.ndarray) -> Chunk:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    symbols = np.empty(offsets[-1], np.uint32)
    for k in range(len(session)):
        symbols[offsets[k] : offsets[k + 1]] = _stream(int(session[k]), int(lengths[k]))
    return Chunk(symbols, offsets)


def _stream(session: int, length: int) -> np.ndarray:
    """The first ids of a session: a system prompt, then what nobody else says."""
    position = np.arange(length, dtype=np.uint32)
    who = np.where(position < SYSTEM_TOKENS, session % SYSTEM_PROMPTS, SYSTEM_PROMPTS + session).astype(
        np.uint32
    )
    mixed = (position + np.uint32(1)) * np.uint32(0x9E3779B1) ^ who * np.uint32(0x85EBCA77)
    mixed ^= mixed >> np.uint32(15)
    return (mixed * np.uint32(0xC2B2AE3D) >> np.uint32(8)) % np.uint32(150_000)


def measure(requests: int, *, reuse: bool) -> None:
    warm = RadixTree(reuse=reuse)
    for first in range(100):  # compile, or load from the disk cache; so many that every array grows once
        warm.insert(*sequences([[first, 2, 3], [first, 2, 4], [first]]))
    warm.stats()
    tree = RadixTree(reuse=reuse, requests_total=requests)
    kernel = equal = copy = 0.0
    hits = runs = 0
    for chunk in chunks(requests):
        twin = chunk.symbols.copy()
        np.array_equal(chunk.symbols, twin)  # the timed pass then has its scratch memory mapped
        began = time.thread_time()
        np.array_equal(chunk.symbols, twin)
        equal += time.thread_time() - began
        began = time.thread_time()
        np.copyto(twin, chunk.symbols)
        copy += time.thread_time() - began
        del twin
        gc.collect()
        began = time.thread_time()
        inserted = tree.insert(chunk.symbols, chunk.offsets)
        kernel += time.thread_time() - began
        hits += int(inserted.matched.sum())
        runs += len(inserted.runs.start)
    tokens = tree.input_tokens
    print(f"{'with' if reuse else 'without'} reuse distances")
    print(
        f"  {tokens / 1e6:,.0f} M tokens, {tree.requests:,} requests, hit rate {hits / tokens:.3f}, {runs:,} runs"
    )
    print(f"  {tree.stats()}")
    print(f"  kernel           {kernel:6.2f} s   {tokens / kernel / 1e9:6.2f} billion tokens/s on one core")
    for name, seconds in (("np.array_equal", equal), ("np.copyto", copy)):
        rate = tokens / seconds / 1e9
        print(
            f"  {name:<16} {seconds:6.2f} s   {rate:6.2f} billion tokens/s; the kernel has {seconds / kernel:.0%} of it"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="2,000 requests")
    requests = 2_000 if parser.parse_args().small else 100_000
    for reuse in (False, True):
        measure(requests, reuse=reuse)


if __name__ == "__main__":
    main()
