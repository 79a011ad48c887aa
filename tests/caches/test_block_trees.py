"""TensorRT-LLM's and LMDeploy's prefix caches against a slow twin, and rule by rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import lab
from tests.caches.pool import Pool
from traceprof.caches import lmdeploy, tensorrt_llm
from traceprof.caches.traffic import Traffic

TWINS = {
    "tensorrt_llm": (tensorrt_llm.simulate, {"equal": "keep old", "partial": True}),
    "lmdeploy": (lmdeploy.simulate, {"equal": "share one"}),
}


def both(name, requests, usable, block):
    simulate, rules = TWINS[name]
    pool = Pool(usable + 1, block, **rules)
    slow = lab.drive(requests, pool, block, usable * block)
    fast = simulate(lab.traffic_of(requests), usable * block, block_size=block)
    assert fast.hit_tokens.tolist() == slow.hits
    assert fast.evicted_tokens == pool.evicted * block
    assert (fast.waited, fast.preempted) == (slow.waited, slow.preempted)
    assert sorted(pool.free) == list(range(1, usable + 1))
    return slow, pool


@pytest.mark.parametrize("name", TWINS)
@given(requests=lab.requests(roots=(0, 0, 1)), usable=st.integers(0, 24), block=st.integers(1, 4))
def test_it_equals_its_twin(name, requests, usable, block):
    """Hits, evictions, waits and preemptions, whatever the room."""
    both(name, requests, usable, block)


@pytest.mark.parametrize("name", TWINS)
def test_it_equals_its_twin_on_a_thousand_longer_traces(name):
    """Most of them under pressure."""
    waited = preempted = evicted = 0
    for i, requests in enumerate(lab.many(13, roots=2)):
        slow, pool = both(name, requests, (12, 20, 40, 90)[i % 4], (1, 4, 3, 16)[i % 3])
        waited += slow.waited
        preempted += slow.preempted
        evicted += pool.evicted
    assert waited > 2000
    assert preempted > 100
    assert evicted > 7000


def hits(name, requests, capacity=1000, **options):
    return TWINS[name][0](Traffic.of_lists(requests), capacity, block_size=4, **options).hit_tokens.tolist()


def test_tensorrt_llm_copies_what_matches_of_a_block():
    """Also of a prompt that is shorter than the block, never the last token, and not where partial reuse is off."""
    first = ([1, 2, 3, 4, 5, 6, 7, 8], [], 0, 1)
    assert hits("tensorrt_llm", [first, ([1, 2, 3, 4, 5, 6, 9, 9], [], 2, 3)]) == [0, 6]
    assert hits("tensorrt_llm", [first, ([1, 2, 3], [], 2, 3)]) == [0, 2]
    assert hits("tensorrt_llm", [first, (first[0], [], 2, 3)]) == [0, 7]
    assert hits("tensorrt_llm", [first, (first[0], [], 2, 3)], partial_reuse=False) == [0, 4]
    # what is no full block yet cannot be copied
    assert hits("tensorrt_llm", [([1, 2, 3, 4, 5, 6], [], 0, 1), ([1, 2, 3, 4, 5, 6, 9], [], 2, 3)]) == [0, 4]


def test_lmdeploy_never_reuses_the_block_of_the_last_token():
    """A prompt of whole blocks computes its last one."""
    first = ([1, 2, 3, 4, 5, 6, 7, 8], [], 0, 1)
    assert hits("lmdeploy", [first, (first[0], [], 2, 3), ([*first[0], 9], [], 4, 5)]) == [0, 4, 8]


def test_equal_blocks_take_room_once_in_lmdeploy():
    """Two that run at the same time share the block that both filled; in TensorRT-LLM each holds its own."""
    twice = [([1, 2, 3, 4], [], 0, 9), ([1, 2, 3, 4], [], 0, 9), ([5, 6, 7], [], 1, 9)]
    pool = TWINS["lmdeploy"][0](Traffic.of_lists(twice), 8, block_size=4)
    assert pool.waited == 0
    assert TWINS["tensorrt_llm"][0](Traffic.of_lists(twice), 8, block_size=4).waited == 1
