"""SGLang's own radix cache, request by request."""

from __future__ import annotations

import numpy as np
import oracle
import pytest

from tests import lab
from traceprof.caches import sglang


def ours(requests, pages, page, policy):
    return sglang.simulate(lab.traffic_of(requests), pages * page, page_size=page, policy=policy)


def test_hits_and_evictions_of_random_traces_are_those_of_sglang():
    """1,000 traces of sessions that branch and overlap, most of them short of room, under each policy."""
    traces = [
        (
            requests,
            {
                "pages": (60, 90, 130, 300)[i % 4] // (1, 4, 16)[i % 3],
                "page": (1, 4, 16)[i % 3],
                "policy": sglang.POLICIES[i // 3 % 4],
            },
        )
        for i, requests in enumerate(lab.many(22, roots=2, output=40))
    ]
    seen = np.zeros(3, int)
    for (requests, options), theirs in zip(traces, oracle.answers("sglang", traces), strict=True):
        found = ours(requests, **options)
        assert found.hit_tokens.tolist() == theirs["hits"]
        assert (found.waited, found.preempted) == (theirs["waited"], theirs["preempted"])
        assert found.evicted_tokens == theirs["evicted"]
        seen += theirs["waited"], theirs["preempted"], theirs["evicted"]
    assert (seen > (1000, 20, 10_000)).all(), seen


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("policy", ["lru", "slru"])
def test_hits_of_a_long_chat_log_are_those_of_sglang(share, policy):
    """300 requests in ten times the random traces' length, and whatever TRACEPROF_DATA holds."""
    rows = []
    for label, requests, block in oracle.long_traces():
        options = {"pages": oracle.room(requests, share), "page": 1, "policy": policy}
        (theirs,) = oracle.answers("sglang", [(requests, options)])
        found = ours(requests, **options)
        rows.append(
            oracle.compared(label, f"{options}, 1 = {block}", requests, theirs["hits"], found.hit_tokens)
        )
        assert found.hit_tokens.tolist() == theirs["hits"]
        assert found.evicted_tokens == theirs["evicted"]
    oracle.table(rows)
