"""vLLM's own block manager in two releases, and a live server, request by request."""

from __future__ import annotations

import itertools
import json
import random
import re
import subprocess
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import replays
import servers

from tests import lab
from traceprof.caches import vllm

OLDER = "vllm-tpu==0.21.0"  # pure Python, and its v1/core is that of vLLM 0.21


def ours(requests, total, block, order="prepend"):
    return vllm.simulate(lab.traffic_of(requests), total * block, block_size=block, free_order=order)


@pytest.fixture(scope="module")
def older() -> str:
    """A folder with the package of 0.21 alone, to be run by the interpreter of the newer one."""
    folder = servers.ENGINES / "vllm" / "older"
    if not (folder / "vllm").exists():
        words = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), OLDER]
        done = subprocess.run([servers.python("vllm"), *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    return str(folder)


@pytest.mark.parametrize(("release", "order"), [("0.32", "prepend"), ("0.21", "append")])
def test_hits_and_evictions_of_random_traces_are_those_of_vllm(release, order, request):
    """1,000 traces of sessions that branch and overlap, most of them short of room; the releases free in different orders."""
    traces = [
        (requests, {"total": (9, 14, 24, 40, 90)[i % 5], "block": (16, 4, 2, 8)[i % 4]})
        for i, requests in enumerate(lab.many(21, roots=2))
    ]
    where = {"OLDER": request.getfixturevalue("older")} if release == "0.21" else {}
    seen = [0, 0, 0]
    for (requests, options), theirs in zip(traces, oracle.answers("vllm", traces, **where), strict=True):
        assert theirs["release"].startswith(release)
        found = ours(requests, **options, order=order)
        assert found.hit_tokens.tolist() == theirs["hits"]
        assert (found.waited, found.preempted) == (theirs["waited"], theirs["preempted"])
        assert found.evicted_tokens == theirs["evicted"] * options["block"]
        seen = [
            a + b
            for a, b in zip(seen, (theirs["waited"], theirs["preempted"], theirs["evicted"]), strict=True)
        ]
    assert min(seen) > 100


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_hits_of_a_long_chat_log_are_those_of_vllm(share):
    """300 requests in ten times the random traces' length, and whatever TRACEPROF_DATA holds."""
    rows = []
    for label, requests, unit in oracle.long_traces():
        block = 1 if unit > 1 else 16
        options = {"total": oracle.room(requests, share) // block + 2, "block": block}
        (theirs,) = oracle.answers("vllm", [(requests, options)])
        found = ours(requests, **options)
        rows.append(
            oracle.compared(label, f"{options}, 1 = {unit}", requests, theirs["hits"], found.hit_tokens)
        )
        assert found.hit_tokens.tolist() == theirs["hits"]
        assert found.evicted_tokens == theirs["evicted"] * block
    oracle.table(rows)


def test_hits_under_its_own_scheduler_are_ours_but_for_one_in_a_hundred():
    """300 traces, most of them short of room: what waits, what is thrown out and what it finds when it comes back.

    Its steps are our microseconds: the first token a step after admission, one a step, the room given back a step later. In
    traces as dense as these much happens in the same step, in another order than ours, and a block is full a step sooner or later.
    """
    traces = []
    for i, requests in enumerate(lab.many(33, 300, roots=2)):
        answered = [r._replace(output=r.output or (1,), first=0) for r in requests]
        timed = [r._replace(took=len(r.output) + 1) for r in answered]
        traces.append((timed, {"total": (9, 14, 24, 40, 90)[i % 5], "block": (16, 4, 2, 8)[i % 4]}))
    asked = [(requests, options | {"scheduler": True}) for requests, options in traces]
    answers = oracle.answers("vllm", asked, MODEL=str(servers.MODEL), HF_HUB_OFFLINE="1")
    found = [ours(requests, **options) for requests, options in traces]
    their_hits, our_hits = (
        np.concatenate(hits) for hits in ([a["hits"] for a in answers], [f.hit_tokens for f in found])
    )
    differ = int((their_hits != our_hits).sum())
    totals = int(their_hits.clip(0).sum()), int(our_hits.clip(0).sum())
    waited = sum(a["waited"] for a in answers), sum(f.waited for f in found)
    preempted = sum(a["preempted"] for a in answers), sum(f.preempted for f in found)
    print(
        f"\n{len(our_hits)} requests, {differ} differ; theirs and ours: hits {totals}, waited {waited}, preempted {preempted}"
    )
    assert (their_hits < 0).tolist() == (our_hits < 0).tolist()
    assert differ < len(our_hits) / 100
    assert abs(totals[0] - totals[1]) < totals[0] / 200
    assert abs(waited[0] - waited[1]) < waited[0] / 50
    assert abs(preempted[0] - preempted[1]) < preempted[0] / 10
    assert waited[0] > 1000 and preempted[0] > 300


READY_S = 400  # on two busy cores
SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "2", "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo", "VLLM_SERVER_DEV_MODE": "1",
}  # fmt: skip


class Server:
    """A vLLM server on CPU with room for 59 blocks of 32 tokens."""

    def __init__(self, port: int):
        self.port = port
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as reply:
            (config,) = re.findall(r"vllm:cache_config_info\{(.*?)\}", reply.read().decode())
        said = dict(re.findall(r'(\w+)="(.*?)"', config))
        self.block, self.total = int(said["block_size"]), int(said["num_gpu_blocks"])

        self.room = f"{self.total} blocks of {self.block}"

    def ours(self, requests: list[lab.Request], **options: str) -> Any:
        """The same requests through a cache of the size that the server says it has."""
        size = self.total * self.block
        return vllm.simulate(lab.traffic_of(requests), size, block_size=self.block, **options)

    def forget(self) -> None:
        """Empty the cache."""
        assert servers.ask(self.port, "/reset_prefix_cache", {}).status == 200

    def ask(self, prompt: list[int], tokens: int, on_token: Any = None) -> tuple[list[int], int]:
        """The answer's token ids, and cached_tokens; `on_token` is called with the ids so far."""
        body = {
            "model": "tiny", "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "temperature": 0,
            "return_token_ids": True, "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        ids: list[int] = []
        cached = -1
        with urllib.request.urlopen(request, timeout=120) as reply:
            for line in reply:
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line[6:])
                if event.get("usage"):
                    cached = (event["usage"].get("prompt_tokens_details") or {}).get("cached_tokens", 0)
                for choice in event["choices"]:
                    ids += choice.get("token_ids") or []
                    if on_token:
                        on_token(ids)
        assert len(ids) == tokens
        return ids, cached


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("vllm")
    port = servers.free_port()
    words = [
        servers.python("vllm"), "-m", "vllm.entrypoints.openai.api_server", "--model", str(servers.MODEL),
        "--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32",
        "--max-model-len", "1024", "--max-num-seqs", "8", "--block-size", "32", "--enforce-eager",
        "--enable-prompt-tokens-details", "--num-gpu-blocks-override", "60",
    ]  # fmt: skip
    homes = {
        "HF_HOME": str(folder / "hub"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "VLLM_CONFIG_ROOT": str(folder),
    }
    with servers.serving("vLLM", words, port, folder / "vllm.log", "/health", READY_S, **SETTINGS, **homes):
        yield Server(port)


def next_prompt(rng: random.Random, known: list[list[int]], most: int) -> list[int]:
    """Fresh tokens behind all or some of a sequence that the server saw, or behind nothing."""
    old = rng.choice(known) if known and rng.random() < 0.8 else []
    cut = len(old) if rng.random() < 0.7 else rng.randrange(len(old) + 1)
    return old[: min(cut, most - 90)] + [rng.randrange(10, 4000) for _ in range(rng.randrange(1, 90))]


def test_cached_tokens_of_a_live_server_are_ours_one_request_after_another(server):
    """150 requests for some ten times the room: every usage.prompt_tokens_details.cached_tokens."""
    server.forget()
    rng = random.Random(7)
    known: list[list[int]] = []
    requests, theirs = [], []
    for i in range(150):
        prompt = next_prompt(rng, known, 700)
        output, cached = server.ask(prompt, rng.randrange(1, 80))
        requests.append(lab.Request(i, tuple(prompt), tuple(output), 2 * i, 0, 1))
        theirs.append(cached)
        known = [*known, prompt + output][-40:]
    found = server.ours(requests)
    oracle.table([oracle.compared("one by one", server.room, requests, theirs, found.hit_tokens)])
    assert found.hit_tokens.tolist() == theirs
    # the room matters, and so does the order in which blocks are freed
    assert found.evicted_tokens > 10_000
    assert server.ours(requests, free_order="append").hit_tokens.tolist() != theirs


def test_cached_tokens_of_a_live_server_are_ours_while_others_run(server):
    """Four at a time, each going on from what the one before it has answered so far; a dozen times, short of room."""
    server.forget()
    rng = random.Random(8)
    known: list[list[int]] = []
    requests, theirs, overlaps, clock = [], [], 0, 0
    for _ in range(12):
        for prompt, output, cached, ahead, overlapped in _wave(server, rng, next_prompt(rng, known, 250)):
            clock += 3 + ahead  # one token a tick: when the one before it had answered `ahead` tokens
            requests.append(
                lab.Request(len(requests), tuple(prompt), tuple(output), clock, 1, 1 + len(output))
            )
            theirs.append(cached)
            overlaps += overlapped
            known = [*known, prompt + output][-40:]
        clock += 1 + len(output)
    found = server.ours(requests)
    oracle.table([oracle.compared("four at a time", server.room, requests, theirs, found.hit_tokens)])
    assert found.hit_tokens.tolist() == theirs
    assert overlaps > 30 and found.evicted_tokens > 3_000


def _wave(server: Server, rng: random.Random, prompt: list[int]):
    """(prompt, output, cached, tokens that the one before it had answered, whether it was still running then)."""
    length, made, threads = 110, [], []
    ahead = 0
    for place in range(4):
        entry: dict[str, Any] = {"prompt": prompt, "ahead": ahead}
        seen = threading.Event()
        # far from where a block fills, so that a token sooner or later is the same
        goes_on = next(t for t in range(rng.randrange(20, 32), 80) if (len(prompt) + t) % 32 == 16)

        def run(entry=entry, seen=seen, goes_on=goes_on):
            def on_token(ids):
                if len(ids) >= goes_on:
                    entry.setdefault("so_far", ids[:goes_on])
                    seen.set()

            entry["sent"] = time.monotonic()
            entry["output"], entry["cached"] = server.ask(entry["prompt"], length, on_token)
            entry["ended"] = time.monotonic()

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        made.append(entry)
        assert seen.wait(60), place
        ahead = goes_on
        prompt = prompt + entry["so_far"] + [rng.randrange(10, 4000) for _ in range(rng.randrange(3, 40))]
    for thread in threads:
        thread.join()
    running = [False] + [a["ended"] > b["sent"] for a, b in itertools.pairwise(made)]
    return [
        (e["prompt"], e["output"], e["cached"], e["ahead"], r) for e, r in zip(made, running, strict=True)
    ]


def test_a_replay_is_told_the_cached_tokens_that_were_predicted(tmp_path):
    """Shared, unique and the chats themselves, with blocks of 32 as the server says; every counter is the sum of what requests were told."""
    names = ["shared", "unique", "chat"]
    engine = (
        "--launch", "vllm:cpu", "--set", f"model={servers.MODEL}", "--set", f"python={servers.python('vllm')}", "--set", "max_seqs=8",
        "--set", "block_size=32", "--set", "context=4096", "--set", "tool_parser=pythonic",
    )  # fmt: skip
    homes = {
        "HF_HOME": str(tmp_path / "hub"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "VLLM_CONFIG_ROOT": str(tmp_path),
    }
    runs = replays.replayed(tmp_path, names, *engine, *replays.ONE_BY_ONE, **homes)
    replays.report(runs, names)
    replays.shared_and_unique(runs[:2])
    told = replays.all_is_well(runs[2])
    assert told["server"]["settings"] == {"block_size": 32}
    assert {c["what"]: c["agrees"] for c in told["counters"]["against_requests"]} == dict.fromkeys(
        (
            "prompt tokens",
            "cached tokens",
            "generated tokens",
            "tokens looked up",
            "tokens found",
            "requests",
        ),
        True,
    )
