"""A million requests through a virtual engine, in one process on one core.

    python -m benchmarks.bench_simulate            1 million requests, vLLM and SGLang
    python -m benchmarks.bench_simulate --small    20,000, a smoke run

The traffic is that of bench_caches: chats of six turns, ten system prompts, 1.2 billion prompt tokens. It comes at half of its own
rate, which keeps Llama-3.1-8B on one H100 busy without drowning it. `cache alone` is the same cache model at recorded times: what
remains is the engine's steps.
"""

from __future__ import annotations

import argparse
import time

from benchmarks.bench_caches import Load as Chats
from benchmarks.bench_caches import grown
from benchmarks.bench_run import load_average
from traceprof.caches import engine
from traceprof.simulate.host import Host
from traceprof.simulate.served import Load, serve

SPEED = 0.5


def main() -> None:
    """Print a line an engine."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="20,000 requests")
    parser.add_argument("--engine", action="append", help="another engine than vllm and sglang")
    chosen = parser.parse_args()
    chats = Chats(20_000 if chosen.small else 1_000_000)
    traffic, _ = grown(chats)
    host = Host.of()
    output = int((traffic.total - traffic.prompt).sum())
    print(
        f"{traffic.requests:,} requests, {int(traffic.prompt.sum()):,} prompt tokens, {output:,} generated; {load_average()}"
    )
    print(
        f"{'engine':14}{'s':>8}{'us/request':>12}{'steps':>12}{'cache alone':>13}{'times that':>12}{'virtual h':>11}{'busy':>7}{'hit':>8}"
    )
    for name in chosen.engine or ["vllm", "sglang"]:
        first = traffic.subset(slice(0, 100))
        scheduler, costs = host.scheduler(name), host.costs(name, 1500)
        load = Load.at(traffic.arrival_us, SPEED)
        serve(name, first, Load.at(first.arrival_us), scheduler, costs, host.capacity_tokens)  # compiles
        began = time.perf_counter()
        engine(name).simulate(traffic, host.capacity_tokens)
        alone = time.perf_counter() - began
        began = time.perf_counter()
        served = serve(name, traffic, load, scheduler, costs, host.capacity_tokens)
        took = time.perf_counter() - began
        hit = served.hit_tokens[served.ok].sum() / served.prompt[served.ok].sum()
        print(
            f"{name:14}{took:>8.1f}{1e6 * took / traffic.requests:>12.1f}{served.decode_steps:>12,}{alone:>13.1f}{took / alone:>11.1f}x"
            f"{served.window_s / 3600:>11.2f}{served.busy_s / served.window_s:>7.2f}{100 * hit:>7.1f}%"
        )


if __name__ == "__main__":
    main()
