"""NVIDIA Dynamo's frontend and KV router before its simulated engine, whose cache is vLLM's."""

from __future__ import annotations

import replays
import servers


def test_a_replay_is_told_the_cached_tokens_that_were_predicted(tmp_path):
    """Shared and unique, with blocks of 64 as the frontend says; every counter is the sum of what requests were told."""
    names = ["shared", "unique"]
    engine = (
        "--launch",
        "dynamo:mocker",
        "--set",
        f"model={servers.MODEL}",
        "--set",
        f"python={servers.python('dynamo')}",
    )
    runs = replays.replayed(tmp_path, names, *engine, *replays.ONE_BY_ONE)
    replays.report(runs, names)
    replays.shared_and_unique(runs)
    told = runs[0].told()
    assert told["server"]["settings"] == {"block_size": 64}
    assert all(check["agrees"] for check in told["counters"]["against_requests"])
