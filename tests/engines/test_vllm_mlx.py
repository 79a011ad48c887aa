"""vllm-mlx's own prefix cache, request by request."""

from __future__ import annotations

import oracle
import pytest

from tests import lab
from tests.caches.test_vllm_mlx import InTokenOrder
from traceprof.caches import vllm_mlx


def ours(requests, most, room, shortest):
    return vllm_mlx.simulate(lab.traffic_of(requests), room, sequences=most, shortest=shortest)


def in_token_order(requests, most, room, shortest):
    """What our twin makes of them with vllm-mlx's own choice among sequences that are equally near."""
    return lab.drive(requests, InTokenOrder(most, room, shortest), 1 << 60).hits


def test_hits_of_random_traces_are_those_of_vllm_mlx():
    """1,000 traces. With room enough every hit is ours; without, all that differs is which of equally near ones was used."""
    traces = [
        (
            requests,
            {"most": (1000, 5)[i % 3 // 2], "room": (10_000, 300)[i % 2], "shortest": (1, 10)[i // 2 % 2]},
        )
        for i, requests in enumerate(lab.many(51))
    ]
    total = differ = 0
    for (requests, options), theirs in zip(traces, oracle.answers("vllm_mlx", traces), strict=True):
        found = ours(requests, **options).hit_tokens.tolist()
        assert in_token_order(requests, **options) == theirs["hits"]
        if options["room"] == 10_000 and options["most"] == 1000:
            assert found == theirs["hits"]
        total += len(requests)
        differ += sum(a != b for a, b in zip(found, theirs["hits"], strict=True))
    print(f"{differ} of {total} requests differ")
    assert differ < 0.01 * total


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_hits_of_a_long_chat_log_are_close_to_those_of_vllm_mlx(share):
    """300 requests in ten times the random traces' length, and whatever TRACEPROF_DATA holds."""
    rows = []
    for label, requests, unit in oracle.long_traces():
        options = {"most": 1000, "room": oracle.room(requests, share), "shortest": 128 if unit == 1 else 1}
        (theirs,) = oracle.answers("vllm_mlx", [(requests, options)])
        found = ours(requests, **options)
        rows.append(
            oracle.compared(label, f"{options}, 1 = {unit}", requests, theirs["hits"], found.hit_tokens)
        )
        assert rows[-1][-1] <= 0.03 * len(requests)
        if len(requests) < 1000:
            assert in_token_order(requests, **options) == theirs["hits"]
    oracle.table(rows)
