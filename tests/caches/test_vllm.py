"""vLLM's prefix cache against a slow twin, and rule by rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import lab
from tests.caches.pool import Pool
from traceprof.caches import vllm
from traceprof.caches.traffic import Traffic


def both(requests, total, block, order):
    pool = Pool(total, block, order)
    slow = lab.drive(requests, pool, block, (total - 1) * block)
    fast = vllm.simulate(lab.traffic_of(requests), total * block, block_size=block, free_order=order)
    assert fast.hit_tokens.tolist() == slow.hits
    assert fast.evicted_tokens == pool.evicted * block
    assert (fast.waited, fast.preempted) == (slow.waited, slow.preempted)
    assert sorted(pool.free) == list(range(1, total))
    return slow, pool


@given(
    lab.requests(roots=(0, 0, 1)),
    st.integers(1, 25),
    st.integers(1, 4),
    st.sampled_from(["prepend", "append"]),
)
def test_it_equals_its_twin(requests, total, block, order):
    """Hits, evictions, waits and preemptions, whatever the room."""
    both(requests, total, block, order)


def test_it_equals_its_twin_on_a_thousand_longer_traces():
    """Most of them under pressure."""
    waited = preempted = evicted = 0
    for i, requests in enumerate(lab.many(11, roots=2)):
        slow, pool = both(
            requests, (12, 20, 40, 90)[i % 4], (1, 4, 3, 16)[i % 3], ("prepend", "append")[i % 2]
        )
        waited += slow.waited
        preempted += slow.preempted
        evicted += pool.evicted
    assert waited > 2000
    assert preempted > 100
    assert evicted > 10_000


def hits(requests, capacity=1000, **options):
    return vllm.simulate(Traffic.of_lists(requests), capacity, block_size=2, **options).hit_tokens.tolist()


def test_one_token_is_always_computed_and_a_block_is_the_unit():
    """A prompt of whole blocks that is fully known computes its last block again."""
    known = ([1, 2, 3, 4], [], 0, 1)
    assert hits([known, ([1, 2, 3, 4], [], 2, 3)]) == [0, 2]
    assert hits([known, ([1, 2, 3, 4, 5], [], 2, 3)]) == [0, 4]
    assert hits([known, ([1, 2, 3], [], 2, 3)]) == [0, 2]


def test_a_prompt_is_shared_from_its_admission_and_an_output_as_blocks_fill():
    """Two that arrive at the same time share; half of an output is there while it is being decoded."""
    assert hits([([1, 2, 3], [], 0, 9), ([1, 2, 3], [], 0, 9)]) == [0, 2]
    answer = ([1, 2], [3, 4, 5, 6, 7], 0, 100)  # first token at 50, one every 10 from there
    follow = [1, 2, 3, 4, 5, 6, 7, 8]
    assert [hits([answer, (follow, [], at, 200)])[1] for at in (40, 79, 80, 89, 90)] == [2, 2, 4, 4, 6]


def test_a_prefix_shrinks_from_its_end():
    """Of a freed request the last blocks go first."""
    long, other = [1, 2, 3, 4, 5, 6, 7, 8], [11, 12, 13, 14, 15, 16]
    found = hits([(long, [], 0, 1), (other, [], 2, 3), ([*long, 9], [], 4, 5)], 14)
    assert found == [0, 0, 6]  # six usable blocks: three of the four give way... of which one was free anyway


def test_what_is_cached_for_nothing_is_used_first_in_newer_versions():
    """The half-filled tail of a request costs an older prefix its block only where it queues up behind it."""
    requests = [([1, 2, 3], [], 0, 1), ([4, 5, 6, 7], [], 2, 3), ([8, 9], [], 4, 5), ([1, 2, 3], [], 6, 7)]
    assert hits(requests, 10, free_order="prepend")[3] == 2
    assert hits([*requests[:1], ([4, 5, 6, 7, 8], [], 2, 3), *requests[2:]], 8, free_order="append")[3] == 0


def test_a_request_longer_than_the_pool_is_refused():
    """It never ran; the others did."""
    assert hits([(list(range(40)), [], 0, 1), ([1, 2, 3], [], 2, 3), ([1, 2, 3], [], 4, 5)], 20) == [-1, 0, 2]


@pytest.mark.parametrize("capacity", [0, 1, 15, 16, 31])
def test_a_pool_of_nothing_runs_nothing(capacity):
    """Below two blocks there is only the null block."""
    found = vllm.simulate(Traffic.of_lists([([1, 2, 3], [4], 0, 1)]), capacity)
    assert found.hit_tokens.tolist() == [-1]
