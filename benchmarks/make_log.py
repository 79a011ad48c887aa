"""Make a chat log to measure with: OpenAI request and response pairs of multi-turn sessions, any size.

    python benchmarks/make_log.py chat.jsonl --mb 1000

The same for the same Python and seed. Prose comes from the docstrings of the standard library, so tokenizers see real
words. A few applications share system prompts, sessions grow turn by turn, arrivals are Poisson, and lines are written
when a request ends, as gateways do.
"""

from __future__ import annotations

import argparse
import heapq
import importlib
import inspect
import json
import pkgutil
import random
import sys
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

START = datetime(2026, 3, 2, 9, tzinfo=UTC)


def prose() -> list[str]:
    """Paragraphs of English from the standard library's docstrings."""
    warnings.simplefilter("ignore")  # modules and names that a later Python drops
    found: set[str] = set()
    for module in pkgutil.iter_modules():
        if module.name.startswith("_") or module.name in {
            "antigravity",
            "this",
            "idlelib",
            "lib2to3",
            "turtledemo",
        }:
            continue
        if not module.module_finder.path.endswith(("python3.11", "python3.12", "python3.13", "python3.14")):  # type: ignore[union-attr]
            continue
        try:
            loaded = importlib.import_module(module.name)
        except Exception:
            continue
        for _, thing in [("", loaded), *inspect.getmembers(loaded)]:
            text = (
                None if thing is sys.modules["__main__"] else getattr(thing, "__doc__", None)
            )  # not this script's
            if isinstance(text, str):
                found.update(p for p in text.split("\n\n") if 80 < len(p) < 1500)
    return sorted(found)


def write(path: Path, size: int, seed: int = 7) -> int:
    """Write about `size` bytes of log; returns the number of requests."""
    rng = random.Random(seed)
    pool = prose()

    def words(n: int) -> str:
        out, have = [], 0
        while have < n:
            out.append(rng.choice(pool))
            have += len(out[-1])
        return "\n\n".join(out)[: n + 200]

    apps = [(f"app-{i}", words(rng.choice([800, 2500, 6000, 12000]))) for i in range(12)]
    clock, written, number, session = 0.0, 0, 0, 0
    live: list[
        tuple[float, int, list[dict[str, str]], str, int]
    ] = []  # next turn at, session, messages, app, turns left
    lines: list[tuple[float, int, bytes]] = []  # by the time they are written
    with path.open("wb") as sink:
        while written < size:
            clock += rng.expovariate(20.0)
            session += 1
            name, system = rng.choices(apps, weights=[8, 5, 4, 3, 2, 2, 1, 1, 1, 1, 1, 1])[0]
            first = [
                {"role": "system", "content": system},
                {"role": "user", "content": words(rng.randint(100, 1500))},
            ]
            heapq.heappush(live, (clock, session, first, name, min(20, int(rng.expovariate(0.25)))))
            while live and live[0][0] <= clock:
                at, who, messages, name, left = heapq.heappop(live)
                answer = words(rng.randint(200, 1800))
                took = 0.2 + len(answer) / 200
                number += 1
                record = {
                    "timestamp": (START + timedelta(seconds=at)).isoformat(timespec="milliseconds"),
                    "request_id": f"req-{number:09d}",
                    "session_id": f"s-{who}",
                    "tenant": name,
                    "latency_ms": round(took * 1000),
                    "ttft_ms": 200,
                    "status_code": 200,
                    "request": {
                        "model": "llama-3.1-8b",
                        "messages": messages,
                        "temperature": 0.7,
                        "stream": True,
                    },
                    "response": {
                        "id": f"chatcmpl-{number:09d}",
                        "object": "chat.completion",
                        "model": "llama-3.1-8b",
                        "choices": [
                            {
                                "index": 0,
                                "message": {"role": "assistant", "content": answer},
                                "finish_reason": "stop",
                            }
                        ],
                    },
                }
                line = json.dumps(record).encode() + b"\n"
                written += len(line)
                heapq.heappush(lines, (at + took, number, line))
                if left:
                    grown = [
                        *messages,
                        {"role": "assistant", "content": answer},
                        {"role": "user", "content": words(rng.randint(60, 900))},
                    ]
                    heapq.heappush(live, (at + took + rng.expovariate(0.05), who, grown, name, left - 1))
            while lines and lines[0][0] < clock:
                sink.write(heapq.heappop(lines)[2])
        while lines:
            sink.write(heapq.heappop(lines)[2])
    return number


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("path", type=Path)
    parser.add_argument("--mb", type=float, default=100)
    args = parser.parse_args()
    print(f"{write(args.path, int(args.mb * 1e6)):,} requests in {args.path}")
