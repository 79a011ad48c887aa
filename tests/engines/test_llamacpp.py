"""A live llama.cpp server: the cached tokens of every answer, one after another and side by side."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import replays
import servers

from tests import lab
from traceprof.caches import llamacpp

HERE = Path(__file__).parent
# of the tiny model: layers x heads x keys and values x size x f16, and three numbers of four bytes
TOKEN_BYTES = 2 * 2 * 2 * 64 * 2 + 12


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
    """One completion of token ids, greedy: the ids that came back, and the server's own account; hit -1: an error."""
    asked = {
        "prompt": prompt,
        "n_predict": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "return_tokens": True,
    }
    answer = servers.ask(port, "/completion", asked)
    said = answer.body()
    if answer.status != 200:
        return {"output": [], "hit": -1, "error": said["error"]["message"]}
    assert said["timings"]["cache_n"] + said["timings"]["prompt_n"] == len(prompt)
    return {"output": said["tokens"], "hit": said["timings"]["cache_n"]}


def one_after_another(
    port: int, seed: int, longest: int, number: int = 60
) -> tuple[list[lab.Request], list[int]]:
    """Conversations that go on, branch and take turns, each request sent when the one before was answered."""
    rng = np.random.default_rng(seed)
    made: list[lab.Request] = []
    hits = []
    for i in range(number):
        fresh = [int(t) for t in rng.integers(100, 4000, rng.integers(3, longest // 4))]
        if made and rng.random() < 0.75:
            old = made[int(rng.integers(max(0, len(made) - 10), len(made)))].tokens
            prompt = [*old[: len(old) if rng.random() < 0.6 else int(rng.integers(1, len(old)))], *fresh]
        else:
            prompt = fresh
        prompt = prompt[:longest]
        found = complete(port, prompt, int(rng.integers(1, 40)))
        made.append(lab.Request(i, tuple(prompt), tuple(found["output"]), 10 * i, 1, 2))
        hits.append(found["hit"])
    return made, hits


@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("unified", [True, False])
@pytest.mark.parametrize("ram_mib", [0, 1, 8192, -1])
@pytest.mark.parametrize("save_idle", [True, False])
def test_cached_tokens_of_sequential_requests_are_the_servers(tmp_path, slots, unified, ram_mib, save_idle):
    """Slot choice by similarity and age, saving and restoring through RAM, with room enough and without, prompts too long."""
    tight = (1024 if unified else 1024 * slots, 1100)
    for context, longest in (tight, (8192, 1500)) if ram_mib == 8192 else (tight,):
        settings = {"n_ctx": context, "n_parallel": slots, "kv_unified": unified, "cache_ram_mib": ram_mib}
        with serving(tmp_path, **settings, cache_idle_slots=save_idle) as port:
            requests, theirs = one_after_another(port, slots + 10 * unified + 20 * save_idle, longest)
        ours = llamacpp.simulate(
            lab.traffic_of(requests), context, slots=slots, unified=unified, save_idle=save_idle, quantum=1,
            ram_tokens=ram_mib if ram_mib <= 0 else (ram_mib << 20) // TOKEN_BYTES,
        )  # fmt: skip
        assert ours.hit_tokens.tolist() == theirs
        assert sum(h > 0 for h in theirs) > 5


def test_a_full_cache_fails_all_that_run(tmp_path):
    """Three answers grow beyond the context that they share: each ends in an error, and nothing is left of their prompts."""
    prompts = [[1000 * (k + 1) + t for t in range(200)] for k in range(3)]
    with serving(tmp_path, n_ctx=1024, n_parallel=4, kv_unified=True, cache_ram_mib=0) as port:
        found = side_by_side(port, prompts, 400)
        after = complete(port, prompts[0], 1)
    assert [f["hit"] for f in found] == [-1, -1, -1], found
    assert {f["error"] for f in found} == {"Context size has been exceeded."}
    requests = [lab.Request(k, tuple(p), tuple(range(400)), 0, 1, 400) for k, p in enumerate(prompts)]
    requests.append(lab.Request(3, tuple(prompts[0]), (1,), 1000, 1, 2))
    ours = llamacpp.simulate(lab.traffic_of(requests), 1024, ram_tokens=0, quantum=1)
    assert ours.hit_tokens.tolist() == [-1, -1, -1, after["hit"]] == [-1, -1, -1, 0]


@pytest.mark.parametrize("unified", [True, False])
@pytest.mark.parametrize("ram_mib", [0, 8192])
def test_cached_tokens_beside_running_requests_are_the_servers(tmp_path, unified, ram_mib):
    """Each round one to three long answers hold slots while short conversations go on in the others, and branch off them."""
    rng = np.random.default_rng(3)
    made: list[lab.Request] = []
    hits: list[int] = []
    known: list[list[int]] = []  # sequences to go on with
    now = 0

    def prompt() -> list[int]:
        fresh = [int(t) for t in rng.integers(100, 4000, rng.integers(20, 200))]
        if not known or rng.random() < 0.2:
            return fresh
        old = known[int(rng.integers(max(0, len(known) - 3), len(known)))][:1500]
        return [*old[: len(old) if rng.random() < 0.5 else int(rng.integers(1, len(old)))], *fresh]

    def answered(asked: list[int], found: dict[str, Any], at: int, took: int) -> None:
        made.append(lab.Request(len(made), tuple(asked), tuple(found["output"]), at, 1, took))
        hits.append(found["hit"])

    with serving(tmp_path, n_ctx=16_384, n_parallel=4, kv_unified=unified, cache_ram_mib=ram_mib) as port:
        for held in (1, 3, 2, 3):
            long, threads = [], []
            for _ in range(held):
                asked, found = prompt(), {}
                known.append(asked)
                threads.append(
                    threading.Thread(target=lambda a=asked, f=found: f.update(complete(port, a, 1500)))
                )
                threads[-1].start()
                time.sleep(0.1)  # it has its slot
                long.append((asked, found, now := now + 10))
            short = []
            for _ in range(5):
                asked = prompt()
                short.append((asked, complete(port, asked, 8), now := now + 10))
                known.append([*asked, *short[-1][1]["output"]])
            assert all(t.is_alive() for t in threads), "the long answers were too short"
            for t in threads:
                t.join()
            for asked, found, at in long:
                answered(asked, found, at, 1000 + 10 * held)
            for asked, found, at in short:
                answered(asked, found, at, 5)
            now += 2000
    ours = llamacpp.simulate(
        lab.traffic_of(made), 16_384, unified=unified, ram_tokens=(ram_mib << 20) // TOKEN_BYTES
    )
    assert ours.hit_tokens.tolist() == hits
    assert sum(h > 0 for h in hits) > 8


def side_by_side(port: int, prompts: list[list[int]], tokens: int) -> list[dict[str, Any]]:
    """The same of many that are sent at once."""
    found: dict[int, dict[str, Any]] = {}

    def send(k: int) -> None:
        found[k] = complete(port, prompts[k], tokens)

    threads = [threading.Thread(target=send, args=(k,)) for k in range(len(prompts))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return [found[k] for k in range(len(prompts))]


def test_requests_side_by_side_take_slots_of_their_own(tmp_path):
    """A warm prefix serves one of those that arrive together; the next ones wait for a slot, and find theirs."""
    prefix = list(range(500, 900))
    with serving(tmp_path, n_ctx=32_768, n_parallel=4, kv_unified=True, cache_ram_mib=0) as port:
        warm = complete(port, prefix, 4)
        found = side_by_side(port, [[*prefix, 1000 + k] for k in range(4)], 200)
    requests = [lab.Request(0, tuple(prefix), tuple(warm["output"]), 0, 1, 2)]
    requests += [
        lab.Request(1 + k, (*prefix, 1000 + k), tuple(found[k]["output"]), 10, 1, 200) for k in range(4)
    ]
    ours = llamacpp.simulate(lab.traffic_of(requests), 32_768, slots=4, ram_tokens=0)
    # which of the four came first is the server's to say
    assert sorted(ours.hit_tokens[1:].tolist()) == sorted(f["hit"] for f in found) == [0, 0, 0, 400]


def test_a_replay_is_told_the_cached_tokens_that_were_predicted(tmp_path):
    """Shared, unique and the chats themselves, one by one; then side by side at the trace's times."""
    names = ["shared", "unique", "chat"]
    engine = (
        "--launch", "llamacpp:xllamacpp", "--set", f"model={servers.MODEL}.gguf", "--set", f"python={servers.python('llamacpp')}",
        "--set", "threads=1",
    )  # fmt: skip
    runs = replays.replayed(tmp_path, names, *engine, *replays.ONE_BY_ONE)
    replays.report(runs, names)
    replays.shared_and_unique(runs[:2])
    replays.all_is_well(runs[2])
