"""vLLM's own block manager, request by request."""

from __future__ import annotations

import oracle
import pytest

from tests import lab
from traceprof.caches import vllm


def ours(requests, total, block, order="prepend"):
    return vllm.simulate(lab.traffic_of(requests), total * block, block_size=block, free_order=order)


def test_hits_and_evictions_of_random_traces_are_those_of_vllm():
    """1,000 traces of sessions that branch and overlap, most of them short of room."""
    traces = [
        (requests, {"total": (9, 14, 24, 40, 90)[i % 5], "block": (16, 4, 2, 8)[i % 4]})
        for i, requests in enumerate(lab.many(21, roots=2))
    ]
    seen = [0, 0, 0]
    for (requests, options), theirs in zip(traces, oracle.answers("vllm", traces), strict=True):
        found = ours(requests, **options)
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
