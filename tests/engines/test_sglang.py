"""SGLang's own prefix cache, request by request: the one that a server makes, and the two that it grew from."""

from __future__ import annotations

import numpy as np
import oracle
import pytest

from tests import lab
from traceprof.caches import sglang

TREES = ("rust", "python", "radix")  # UnifiedRadixCache and the cores that it can have, RadixCache


def ours(requests, pages, page, chunk, priority=None, **options):
    given = None if priority is None else np.array(priority, np.int64)
    return sglang.simulate(
        lab.traffic_of(requests), pages * page, page_size=page, chunk_tokens=chunk, priority=given, **options
    )


def settings(i, requests):
    """A different one for each of some dozens of traces."""
    page = (1, 4, 16)[i % 3]
    return {
        "pages": (60, 90, 130, 300)[i % 4] // page,
        "page": page,
        "policy": sglang.POLICIES[i // 3 % 4],
        "prefill": sglang.PREFILLS[i // 12 % 3],
        "chunk": (8192, 48, 16)[i // 36 % 3],
        "quantum": (16, 1)[i // 108 % 2],
        "priority": np.random.default_rng(i).integers(-1, 2, len(requests)).tolist(),
    }


@pytest.mark.parametrize("tree", TREES)
def test_hits_and_evictions_of_random_traces_are_those_of_sglang(tree):
    """1,000 traces of sessions that branch and overlap, most of them short of room, under each policy."""
    traces = [(r, settings(i, r)) for i, r in enumerate(lab.many(22, roots=2, output=40))]
    asked = [(requests, {**options, "tree": tree}) for requests, options in traces]
    seen = np.zeros(3, int)
    for (requests, options), theirs in zip(traces, oracle.answers("sglang", asked), strict=True):
        found = ours(requests, **options)
        assert found.hit_tokens.tolist() == theirs["hits"]
        assert (found.waited, found.preempted) == (theirs["waited"], theirs["preempted"])
        assert found.evicted_tokens == theirs["evicted"]
        seen += theirs["waited"], theirs["preempted"], theirs["evicted"]
    assert (seen > (1000, 20, 10_000)).all(), seen


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("policy", ["lru", "slru"])
def test_hits_of_long_traces_are_those_of_sglang(share, policy):
    """300 requests of ten times the random traces' length, and whatever TRACEPROF_DATA holds."""
    rows = []
    for label, requests, block in oracle.long_traces():
        options = {
            "pages": oracle.room(requests, share), "page": 1, "policy": policy, "prefill": "batch", "chunk": 8192, "quantum": 16,
        }  # fmt: skip
        (theirs,) = oracle.answers("sglang", [(requests, {**options, "tree": "rust"})])
        found = ours(requests, **options)
        rows.append(
            oracle.compared(label, f"{options}, 1 = {block}", requests, theirs["hits"], found.hit_tokens)
        )
        assert found.hit_tokens.tolist() == theirs["hits"]
        assert found.evicted_tokens == theirs["evicted"]
    oracle.table(rows)
