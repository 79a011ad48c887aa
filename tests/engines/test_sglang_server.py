"""SGLang's own server on CPU: its scheduler, radix cache, HTTP and counters; tests/interop/shims/sglang stands in for its kernels."""

from __future__ import annotations

import replays
import servers

SHIMS = servers.HERE / "shims" / "sglang"


def test_a_replay_is_told_the_cached_tokens_that_were_predicted(tmp_path):
    """Shared, unique and the chats themselves, one by one; every counter is the sum of what requests were told."""
    names = ["shared", "unique", "chat"]
    engine = (
        "--launch", "sglang:cpu", "--set", f"model={servers.MODEL}", "--set", f"python={servers.python('sglang_server')}",
        "--set", "max_seqs=32", "--set", "context=4096",
    )  # fmt: skip
    runs = replays.replayed(tmp_path, names, *engine, *replays.ONE_BY_ONE, PYTHONPATH=str(SHIMS))
    replays.report(runs, names)
    replays.shared_and_unique(runs[:2])
    told = replays.all_is_well(runs[2])
    assert told["server"]["settings"] == {"page_size": 1}
    for run, name in zip(runs, names, strict=True):
        agrees = {c["what"]: c["agrees"] for c in run.told()["counters"]["against_requests"]}
        if name == "unique":  # a counter that has counted nothing is not there
            assert agrees.pop("cached tokens") in (True, None)
        assert agrees and all(agrees.values()), agrees
