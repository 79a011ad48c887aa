"""The LiteLLM proxy before llama.cpp: what it passes on, and what it drops."""

from __future__ import annotations

import json

import replays
import servers


def test_a_replay_through_the_proxy_is_told_what_the_engine_tells(tmp_path):
    """Chats: cached tokens are those of llama.cpp's slots. Streamed texts: the proxy drops them, and the result says so."""
    with servers.llama_cpp(tmp_path) as port:
        program = servers.ENGINES / "litellm" / "bin" / "litellm"
        servers.python("litellm")
        names = ["chat", "shared"]
        engine = (
            "--launch", "litellm", "--set", f"upstream=http://127.0.0.1:{port}/v1", "--set", "name=tiny", "--set", f"program={program}",
        )  # fmt: skip
        runs = replays.replayed(tmp_path, names, *engine, *replays.ONE_BY_ONE)
        chat, shared = (run.told() for run in runs)
    print("\n", json.dumps([one["counters"]["against_requests"] for one in (chat, shared)], indent=1))
    assert chat["summary"]["outcomes"] == shared["summary"]["outcomes"] == {"ok": chat["requests"]}
    assert chat["summary"]["requests_with_cached_tokens"] == chat["requests"]
    assert chat["summary"]["cached_tokens"] > 0
    assert shared["summary"]["requests_with_cached_tokens"] == 0
    checks = {check["what"]: check for check in chat["counters"]["against_requests"]}
    assert checks["prompt tokens"]["agrees"] and checks["cached tokens"]["agrees"]
