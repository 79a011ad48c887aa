"""A live llama.cpp server: the cached tokens of every answer, one after another and side by side."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import servers

from tests import lab
from traceprof.caches import llamacpp

HERE = Path(__file__).parent
TOKEN_BYTES = 2 * 2 * 2 * 64 * 2  # of the tiny model: layers x heads x keys and values x size x f16


def serving(folder: Path, **settings: Any):
    port = servers.free_port()
    words = [
        servers.python("llamacpp"),
        str(HERE / "llamacpp_serving.py"),
        f"{servers.MODEL}.gguf",
        str(port),
        json.dumps(settings),
    ]
    return servers.serving("llama.cpp", words, port, folder / "llama-server.log", "/health", limit_s=60)


def complete(port: int, prompt: list[int], tokens: int) -> dict[str, Any]:
    """One completion of token ids, greedy: the ids that came back, and the server's own account."""
    asked = {
        "prompt": prompt,
        "n_predict": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "return_tokens": True,
    }
    answer = servers.ask(port, "/completion", asked)
    assert answer.status == 200, answer.said
    said = answer.body()
    assert said["timings"]["cache_n"] + said["timings"]["prompt_n"] == len(prompt)
    return {"output": said["tokens"], "hit": said["timings"]["cache_n"]}


def one_after_another(port: int, seed: int, number: int = 60) -> tuple[list[lab.Request], list[int]]:
    """Conversations that go on, branch and take turns, each request sent when the one before was answered."""
    rng = np.random.default_rng(seed)
    made: list[lab.Request] = []
    hits = []
    for i in range(number):
        fresh = [int(t) for t in rng.integers(100, 4000, rng.integers(3, 120))]
        if made and rng.random() < 0.7:
            old = made[int(rng.integers(max(0, len(made) - 8), len(made)))].tokens
            prompt = [*old[: len(old) if rng.random() < 0.6 else int(rng.integers(1, len(old)))], *fresh]
        else:
            prompt = fresh
        prompt = prompt[:900]
        found = complete(port, prompt, int(rng.integers(1, 12)))
        made.append(lab.Request(i, tuple(prompt), tuple(found["output"]), 10 * i, 1, 2))
        hits.append(found["hit"])
    return made, hits


@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("unified", [True, False])
@pytest.mark.parametrize("ram_mib", [0, 8192])
def test_cached_tokens_of_sequential_requests_are_the_servers(tmp_path, slots, unified, ram_mib):
    """Slot choice by similarity and age, saving and restoring through RAM, with slots together or apart."""
    context = 8192
    settings = {"n_ctx": context, "n_parallel": slots, "kv_unified": unified, "cache_ram_mib": ram_mib}
    with serving(tmp_path, **settings) as port:
        requests, theirs = one_after_another(port, seed=slots + 10 * unified)
    ram_tokens = (ram_mib << 20) // TOKEN_BYTES
    ours = llamacpp.simulate(
        lab.traffic_of(requests), context, slots=slots, unified=unified, ram_tokens=ram_tokens
    )
    assert ours.hit_tokens.tolist() == theirs
    assert sum(h > 0 for h in theirs) > 5


def test_requests_side_by_side_take_slots_of_their_own(tmp_path):
    """A warm prefix serves one of those that arrive together; the next ones wait for a slot, and find theirs."""
    prefix = list(range(500, 900))
    with serving(tmp_path, n_ctx=32_768, n_parallel=4, kv_unified=True, cache_ram_mib=0) as port:
        warm = complete(port, prefix, 4)
        found: dict[int, dict[str, Any]] = {}

        def send(k: int) -> None:
            found[k] = complete(port, [*prefix, 1000 + k], 200)

        threads = [threading.Thread(target=send, args=(k,)) for k in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    requests = [lab.Request(0, tuple(prefix), tuple(warm["output"]), 0, 1, 2)]
    requests += [
        lab.Request(1 + k, (*prefix, 1000 + k), tuple(found[k]["output"]), 10, 1, 200) for k in range(4)
    ]
    ours = llamacpp.simulate(lab.traffic_of(requests), 32_768, slots=4, ram_tokens=0)
    # which of the four came first is the server's to say
    assert sorted(ours.hit_tokens[1:].tolist()) == sorted(f["hit"] for f in found.values()) == [0, 0, 0, 400]
