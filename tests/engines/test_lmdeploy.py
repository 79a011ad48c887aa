"""LMDeploy's own scheduler and block trie, request by request."""

from __future__ import annotations

import numpy as np
import oracle
import pytest

from tests import lab
from traceprof.caches import lmdeploy


def ours(requests, blocks, block, ahead):
    return lmdeploy.simulate(
        lab.traffic_of(requests), blocks * block, block_size=block, prefill_interval=ahead
    )


def same(found, theirs, block):
    assert found.hit_tokens.tolist() == theirs["hits"]
    assert (found.waited, found.preempted) == (theirs["waited"], theirs["preempted"])
    assert found.evicted_tokens == theirs["evicted"] * block


def test_hits_and_evictions_of_random_traces_are_those_of_lmdeploy():
    """1,000 traces of sessions that branch and overlap, most of them short of room."""
    traces = []
    for i, requests in enumerate(lab.many(31, roots=2, output=40)):
        block = (1, 4, 3, 16)[i % 4]
        room = (100, 130, 180, 330)[i // 4 % 4]
        traces.append((requests, {"blocks": room // block, "block": block, "ahead": (1, 4, 16)[i % 3]}))
    seen = np.zeros(3, int)
    for (requests, options), theirs in zip(traces, oracle.answers("lmdeploy", traces), strict=True):
        same(ours(requests, **options), theirs, options["block"])
        seen += theirs["waited"], theirs["preempted"], theirs["evicted"]
    assert (seen > (1000, 100, 10_000)).all(), seen


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_hits_of_a_long_chat_log_are_those_of_lmdeploy(share):
    """300 requests in ten times the random traces' length, and whatever TRACEPROF_DATA holds, in blocks as it has them."""
    rows = []
    for label, requests, unit in oracle.long_traces():
        block, ahead = (64, 16) if unit == 1 else (1, 1)
        blocks = (oracle.room(requests, share) + ahead) // block + 2
        options = {"blocks": blocks, "block": block, "ahead": ahead}
        (theirs,) = oracle.answers("lmdeploy", [(requests, options)])
        found = ours(requests, **options)
        rows.append(
            oracle.compared(label, f"{options}, 1 = {unit}", requests, theirs["hits"], found.hit_tokens)
        )
        same(found, theirs, block)
    oracle.table(rows)
