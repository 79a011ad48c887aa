"""Engines' cache models over one large trace, beside libCacheSim's LRU on the same blocks and what memory allows.

    python -m benchmarks.bench_caches            1 million requests, 1 billion prompt tokens
    python -m benchmarks.bench_caches --small    1/50 of it, a smoke run

The load: conversations of six turns under ten system prompts; a turn sends the history with the answers. Tokens are
made chunk by chunk and go through the radix tree, which makes requests paths; the models run over those. Compilation
is not timed. `blocks` are those of 16 tokens that prompts and outputs touch, the same number for every engine; `pinned`
is what an engine could not avoid: one pass over an array of one 4-byte number a block, in random order.
libCacheSim (GPL-3.0, installed into an environment of its own under --work) gets the block numbers of every prompt.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from traceprof.caches import ENGINES, engine
from traceprof.caches.traffic import Traffic
from traceprof.lab import Lab, Machine, machine_part, providers_part, replicas_part
from traceprof.prefix import over_time
from traceprof.prefix.tree import RadixTree

TURNS = 6
SYSTEMS, SYSTEM_TOKENS = 10, 400
BLOCK = 16
LIBCACHESIM = "libcachesim==0.3.5"
REPLAY = """
import sys, time
import libcachesim as lcs
reader = lcs.TraceReader(sys.argv[1], trace_type=lcs.TraceType.ORACLE_GENERAL_TRACE)
cache = lcs.LRU(cache_size=int(sys.argv[2]))
start = time.perf_counter()
missed = cache.process_trace(reader)[0]
print(time.perf_counter() - start, 1 - missed)
"""


class Load:
    """Lengths, times and tokens of all requests, by arrival."""

    def __init__(self, requests: int) -> None:
        rng = np.random.default_rng(11)
        self.sessions = sessions = max(1, requests // TURNS)
        asked = rng.integers(40, 200, (sessions, TURNS))
        answered = rng.integers(20, 320, (sessions, TURNS))
        total = SYSTEM_TOKENS + np.cumsum(asked + answered, axis=1)
        begins = np.sort(rng.uniform(0, requests * 60_000, sessions))
        paces = answered * 25_000 + rng.integers(2_000_000, 60_000_000, (sessions, TURNS))
        arrival = (begins[:, None] + np.cumsum(paces, axis=1) - paces).astype(np.int64)
        order = np.argsort(arrival, axis=None, kind="stable")
        self.session = order // TURNS
        self.total = total.ravel()[order]
        self.output = answered.ravel()[order]
        self.prompt = self.total - self.output
        self.arrival = arrival.ravel()[order]
        self.first = self.arrival + self.prompt * 125
        self.end = self.first + self.output * 25_000
        self.longest = int(total.max())

    def tokens(self, session: int, upto: int) -> np.ndarray:
        """The first tokens of a session: a system prompt, then what nobody else says."""
        made = np.arange(upto, dtype=np.uint32)
        made += np.uint32(1) + np.uint32(session * 2_654_435_761 % 2**32)
        made[: min(upto, SYSTEM_TOKENS)] = np.arange(min(upto, SYSTEM_TOKENS)) + 7_000 * (session % SYSTEMS)
        return made

    def chunks(self, size: int = 4_000) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        for at in range(0, len(self.session), size):
            piece = slice(at, min(at + size, len(self.session)))
            offsets = np.concatenate([[0], np.cumsum(self.total[piece])])
            symbols = np.concatenate(
                [
                    self.tokens(int(s), int(n))
                    for s, n in zip(self.session[piece], self.total[piece], strict=True)
                ]
            )
            yield piece, symbols, offsets


def grown(load: Load) -> tuple[Traffic, float]:
    """The paths, and the seconds that the tree itself took."""
    tree = RadixTree()
    ends, took = [], 0.0
    for _, symbols, offsets in load.chunks():
        start = time.perf_counter()
        ends.append(tree.insert(symbols, offsets).end_node)
        took += time.perf_counter() - start
    end_node = np.concatenate(ends)
    traffic = Traffic.of_tree(
        tree, end_node, load.total, load.prompt, load.output, load.arrival, load.first, load.end
    )
    return traffic, took


def block_stream(traffic: Traffic) -> np.ndarray:
    """The block numbers of all prompts, in order."""
    from traceprof.kernels import paths

    p = traffic.paths()
    base = paths.block_base(p, BLOCK)
    numbers = np.empty(int((traffic.prompt // BLOCK).sum()), np.int32)
    at = 0
    for r in range(traffic.requests):
        at += paths.blocks(p, base, BLOCK, r, int(traffic.prompt[r]), numbers[at:])
    return numbers


def libcachesim(stream: np.ndarray, blocks: int, work: Path) -> tuple[float, float] | None:
    """Seconds and hit rate of its LRU in C++, None where it cannot be had."""
    home = work / "venvs" / "libcachesim"
    python = home / "bin" / "python"
    if not python.exists():
        venv.create(home, with_pip=True)
        words = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", LIBCACHESIM]
        if subprocess.run(words, check=False).returncode:
            return None
    record = np.dtype([("time", "<u4"), ("id", "<u8"), ("size", "<u4"), ("next", "<i8")])
    rows = np.zeros(len(stream), record)
    rows["id"], rows["size"], rows["next"] = stream.astype(np.uint64) + 1, 1, -1
    file = work / "blocks.oracleGeneral.bin"
    rows.tofile(file)
    done = subprocess.run(
        [python, "-c", REPLAY, file, str(blocks)], capture_output=True, text=True, check=False
    )
    file.unlink()
    if done.returncode:
        print(f"libcachesim: {done.stderr.strip().splitlines()[-1:]}")
        return None
    seconds, rate = map(float, done.stdout.split())
    return seconds, rate


def pinned(blocks: int) -> float:
    """Seconds of reading one number a block in random order."""
    where = np.random.default_rng(1).permutation(blocks).astype(np.int32)
    values = np.zeros(blocks, np.int32)
    start = time.perf_counter()
    values.take(where).sum()
    return time.perf_counter() - start


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true", help="a smoke run")
    parser.add_argument("--work", type=Path, default=Path("out/bench"))
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    small = Traffic.of_lists([([1, 2, 3], [4], 0, 5), ([1, 2, 4], [5], 1, 6)])
    for name in ENGINES:  # compile
        engine(name).simulate(small, 200)
    load = Load(20_000 if chosen.small else 1_000_000)
    traffic, took = grown(load)
    prompts, every = int(load.prompt.sum()), int(load.total.sum())
    print(
        f"{traffic.requests:,} requests, {prompts / 1e6:,.0f} M prompt tokens, {len(traffic.parent):,} nodes"
    )
    print(f"tree: {took:.2f} s, {every / took / 1e6:,.0f} M tokens/s\n")
    capacity = Machine().at(0).capacity_tokens
    blocks = every / BLOCK
    limit = pinned(int(blocks))
    print(f"{'engine':14}{'seconds':>9}{'M blocks/s':>12}{'of pinned':>11}{'hit rate':>10}{'waited':>10}")
    for name in ENGINES:
        start = time.perf_counter()
        found = engine(name).simulate(traffic, capacity)
        seconds = time.perf_counter() - start
        rate = found.hit_tokens.clip(0).sum() / prompts
        print(
            f"{name:14}{seconds:9.2f}{blocks / seconds / 1e6:12.1f}{limit / seconds:11.3f}{rate:10.4f}{found.waited:10,}"
        )
    start = time.perf_counter()
    lab = Lab.of(traffic, np.zeros(traffic.requests, np.int64), "as made")
    machine_part(lab, Machine())
    wall = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"\nthe whole lab, all engines on two threads: {wall:.1f} s, peak memory of the process {peak:,.0f} MB"
    )
    for what, measure in (
        ("replicas behind a router (vllm), one thread", lambda: replicas_part(lab, Machine())),
        ("API providers, one thread", lambda: providers_part(lab)),
        ("restarts, emptied hourly and daily", lambda: over_time.restart(traffic)),
    ):
        start = time.perf_counter()
        measure()
        print(f"{what}: {time.perf_counter() - start:.1f} s")
    stream = block_stream(traffic)
    peer = libcachesim(stream, capacity // BLOCK, chosen.work)
    if peer is not None:
        start = time.perf_counter()
        engine("vllm").simulate(traffic, capacity)
        ours = time.perf_counter() - start
        theirs = len(stream) / peer[0]
        print(
            f"libCacheSim LRU: {theirs / 1e6:.1f} M blocks/s, block hit rate {peer[1]:.4f} (head first, nothing pinned)"
        )
        print(f"ours (vllm): {blocks / ours / 1e6:.1f} M blocks/s, {blocks / ours / theirs:.2f} of it")


if __name__ == "__main__":
    sys.exit(main())
