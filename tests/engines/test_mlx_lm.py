"""mlx-lm's own prompt cache, request by request, and its live server's cached tokens."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import replays
import servers
from tokenizers import Tokenizer

from tests import lab
from traceprof.caches import mlx_lm


def ours(requests, most, capacity, kind):
    return mlx_lm.simulate(lab.traffic_of(requests), capacity, sequences=most, chat=kind == "user")


def test_hits_and_evictions_of_random_traces_are_those_of_mlx_lm():
    """1,000 traces of sessions that branch and overlap, most of them short of sequences or of room."""
    traces = [
        (
            requests,
            {
                "most": (2, 10, 5)[i % 3],
                "capacity": (60, 200, 500, 10_000)[i % 4],
                "kind": ("user", "assistant")[i % 2],
            },
        )
        for i, requests in enumerate(lab.many(41, roots=2))
    ]
    seen = np.zeros(2, int)
    for (requests, options), theirs in zip(traces, oracle.answers("mlx_lm", traces), strict=True):
        found = ours(requests, **options)
        assert found.hit_tokens.tolist() == theirs["hits"]
        assert found.evicted_tokens == theirs["evicted"]
        seen += sum(theirs["hits"]), theirs["evicted"]
    assert (seen > 50_000).all(), seen


@pytest.mark.parametrize("most", [10, 100])
def test_hits_of_a_long_chat_log_are_those_of_mlx_lm(most):
    """300 requests in ten times the random traces' length, and whatever TRACEPROF_DATA holds."""
    rows = []
    for label, requests, unit in oracle.long_traces():
        options = {"most": most, "capacity": oracle.room(requests, 0.2), "kind": "user"}
        (theirs,) = oracle.answers("mlx_lm", [(requests, options)])
        found = ours(requests, **options)
        rows.append(
            oracle.compared(label, f"{options}, 1 = {unit}", requests, theirs["hits"], found.hit_tokens)
        )
        assert found.hit_tokens.tolist() == theirs["hits"]
        assert found.evicted_tokens == theirs["evicted"]
    oracle.table(rows)


@contextlib.contextmanager
def serving(folder: Path, *words: str) -> Iterator[int]:
    port = servers.free_port()
    home = folder / "home"
    (home / "hub").mkdir(parents=True)  # without it /v1/models, which nobody needs, fails
    command = [
        servers.python("mlx_lm"), "-m", "mlx_lm", "server", "--model", str(servers.MODEL), "--host", "127.0.0.1",
        "--port", str(port), *words,
    ]  # fmt: skip
    with servers.serving(
        "mlx-lm", command, port, folder / "mlx-lm.log", "/health", 120, HF_HOME=str(home), HF_HUB_OFFLINE="1"
    ):
        yield port


def complete(port: int, text: str, tokens: int) -> tuple[str, list[int], dict[str, Any]]:
    """The answer, its token ids and the usage."""
    asked = {
        "model": str(servers.MODEL), "prompt": text, "max_tokens": tokens, "temperature": 0, "logprobs": True,
        "top_logprobs": 1,
    }  # fmt: skip
    answer = servers.ask(port, "/v1/completions", asked)
    assert answer.status == 200, answer.said
    choice = answer.body()["choices"][0]
    return choice["text"], [int(one["id"]) for one in choice["logprobs"]["content"]], answer.usage()


@pytest.mark.parametrize("most", [3, 10])
def test_cached_tokens_of_a_live_server_are_the_models(tmp_path, most):
    """Texts that go on, branch and take turns, one after another; prompts that equal a kept sequence are left out."""
    tokenizer = Tokenizer.from_file(str(servers.MODEL / "tokenizer.json"))
    vocabulary = json.loads((servers.MODEL / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    words = sorted(w[1:] for w in vocabulary if w[0] == "\u0120" and w[1:].isalpha() and w.isprintable())
    rng = np.random.default_rng(most)
    made: list[lab.Request] = []
    texts: list[str] = []
    kept: set[tuple[int, ...]] = set()
    hits = []
    with serving(tmp_path, "--prompt-cache-size", str(most)) as port:
        while len(made) < 80:
            fresh = " ".join(str(w) for w in rng.choice(words, rng.integers(2, 30)))
            if texts and rng.random() < 0.75:
                old = texts[int(rng.integers(max(0, len(texts) - 14), len(texts)))]
                cut = len(old) if rng.random() < 0.6 else old.find(" ", int(rng.integers(len(old))))
                text = f"{old[:cut]} {fresh}"
            else:
                text = fresh
            prompt = tuple(tokenizer.encode(text).ids)
            if prompt in kept:
                continue
            said, output, usage = complete(port, text, int(rng.integers(1, 12)))
            assert usage["prompt_tokens"] == len(prompt)
            made.append(lab.Request(len(made), prompt, tuple(output), 10 * len(made), 1, 2))
            texts.append(text + said)
            hits.append(usage["cached"])
            kept |= {prompt[:-1], (*prompt, *output)}
    found = ours(made, most, 1 << 40, "assistant")
    assert found.hit_tokens.tolist() == hits
    assert sum(h > 0 for h in hits) > 30


def test_a_replay_is_told_the_cached_tokens_that_were_predicted(tmp_path):
    """Shared and unique as texts, and the chats themselves."""
    (tmp_path / "home" / "hub").mkdir(parents=True)
    names = ["shared", "unique", "chat"]
    engine = (
        "--launch",
        "mlx_lm",
        "--set",
        f"model={servers.MODEL}",
        "--set",
        f"python={servers.python('mlx_lm')}",
    )
    runs = replays.replayed(
        tmp_path, names, *engine, *replays.ONE_BY_ONE, HF_HOME=str(tmp_path / "home")
    )  # fmt: skip
    replays.report(runs, names)
    replays.shared_and_unique(runs[:2])
    replays.all_is_well(runs[2])
