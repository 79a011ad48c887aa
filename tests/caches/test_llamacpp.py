"""llama.cpp's slots against a slow twin, and rule by rule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import lab, naive
from tests.caches import slots as twin
from traceprof.caches import llamacpp, ollama
from traceprof.caches.traffic import Traffic


def both(requests, total, slots=4, unified=True, similarity=0.1, ram=100, save_idle=True, quantum=16):
    hits, evicted, waited, failed = twin.run(
        requests, total, slots, unified, similarity, ram, save_idle, quantum
    )
    fast = llamacpp.simulate(
        lab.traffic_of(requests), total, slots=slots, unified=unified, ram_tokens=ram, save_idle=save_idle,
        similarity=similarity, quantum=quantum,
    )  # fmt: skip
    assert fast.hit_tokens.tolist() == hits
    assert fast.evicted_tokens == evicted
    assert (fast.waited, fast.preempted) == (waited, 0)
    return sum(h for h in hits if h > 0), evicted, waited, failed


@given(
    lab.requests(roots=(0, 0, 1)),
    st.integers(1, 70),
    st.integers(1, 4),
    st.booleans(),
    st.sampled_from([0.0, 0.1, 0.5]),
    st.integers(-1, 60),
    st.booleans(),
    st.integers(1, 4),
)
def test_it_equals_its_twin(requests, total, slots, unified, similarity, ram, save_idle, quantum):
    """Hits, losses and waits, whatever the slots, the room and the flags."""
    both(requests, total, slots, unified, similarity, ram, save_idle, quantum)


def test_it_equals_its_twin_on_a_thousand_longer_traces():
    """In all their flags; enough hit, are lost, wait and fail."""
    seen = np.zeros(4, int)
    for i, requests in enumerate(lab.many(31, roots=2)):
        seen += both(
            requests, (90, 150, 300, 1000)[i % 4], slots=(1, 2, 4)[i % 3], unified=i % 5 > 1, ram=(0, 60, 200, 1000, -1)[i // 3 % 5],
            save_idle=i % 7 > 1, similarity=(0.1, 0.0, 0.5)[i // 4 % 3], quantum=(1, 16)[i % 2],
        )  # fmt: skip
    assert (seen > (50_000, 50_000, 3000, 200)).all(), seen


@given(lab.requests(roots=(0, 0, 1)), st.data())
def test_two_sequences_have_in_common_what_their_tokens_say(requests, data):
    """By jumps up the tree, whatever parts of two requests are compared."""
    from traceprof.kernels.sequences import common, jumps

    p = lab.traffic_of(requests).paths()
    j = jumps(p)
    for a in requests:
        b = data.draw(st.sampled_from(requests))
        n, m = data.draw(st.integers(0, len(a.tokens))), data.draw(st.integers(0, len(b.tokens)))
        same = naive.common_prefix(a.tokens[:n], b.tokens[:m]) if a.root == b.root else 0
        assert common(p, j, a.number, n, b.number, m) == same


def hits(requests, capacity=1000, **options):
    return llamacpp.simulate(Traffic.of_lists(requests), capacity, **options).hit_tokens.tolist()


A, B, C = list(range(10)), list(range(100, 110)), list(range(200, 210))


def test_the_last_token_of_a_prompt_is_always_computed():
    """A prompt that is known to its end hits all but one."""
    assert hits([(A, [], 0, 1), (A, [], 2, 3), ([*A, 11], [], 4, 5)]) == [0, 9, 10]


def test_an_output_stays_but_for_the_token_sampled_last():
    """Of three tokens two have been computed."""
    assert hits([(A, [21, 22, 23], 0, 1), ([*A, 21, 22, 23, 24], [], 2, 3)]) == [0, 12]


def test_slots_share_nothing_while_they_run():
    """A second request with the same prompt finds another slot, empty."""
    assert hits([(A, [], 0, 9), (A, [], 1, 9)]) == [0, 0]
    assert hits([(A, [], 0, 9), (A, [], 9, 19)]) == [0, 9]


def test_a_request_waits_for_a_slot():
    """With one slot the second runs after the first, and finds what it left."""
    found = llamacpp.simulate(Traffic.of_lists([(A, [], 0, 9), (A, [], 1, 9)]), 100, slots=1)
    assert found.hit_tokens.tolist() == [0, 9]
    assert found.waited == 1


def test_a_slot_must_have_more_than_a_tenth_of_the_prompt():
    """One token of ten is too little: an empty slot is taken, and RAM has nothing better."""
    near = [0, 1, *range(50, 58)]
    far = [0, *range(50, 59)]
    quiet = {"ram_tokens": 0, "unified": False}
    assert hits([(A, [], 0, 1), (near, [], 2, 3)], **quiet) == [0, 2]
    assert hits([(A, [], 0, 1), (far, [], 2, 3)], **quiet) == [0, 0]
    assert hits([(A, [], 0, 1), (far, [], 2, 3)], similarity=0.05, **quiet) == [0, 1]


def test_what_a_slot_loses_is_lost_without_ram():
    """The second session takes the only slot; RAM keeps the first."""
    three = [(A, [], 0, 1), (B, [], 2, 3), ([*A, 11], [], 4, 5)]
    assert hits(three, slots=1, ram_tokens=0) == [0, 0, 0]
    assert hits(three, slots=1) == [0, 0, 10]


def test_a_fork_late_in_a_slot_is_not_saved():
    """More than half is kept, so the old end is gone; less than half, and it is in RAM."""
    late, early = [*A[:6], 61, 62], [*A[:4], *range(61, 67)]
    assert hits([(A, [], 0, 1), (late, [], 2, 3), (A, [], 4, 5)], slots=1) == [0, 6, 6]
    assert hits([(A, [], 0, 1), (early, [], 2, 3), (A, [], 4, 5)], slots=1) == [0, 4, 9]


def test_ram_drops_the_oldest_however_often_it_was_used():
    """Room is made for the slot's own sequence before RAM is searched: the first one saved goes, though it is asked for."""
    rounds = [(A, [], 0, 1), (B, [], 2, 3), (C, [], 4, 5), ([300] * 10, [], 6, 7), ([*A, 11], [], 8, 9)]
    assert hits(rounds, slots=1, ram_tokens=39)[-1] == 0
    assert hits(rounds, slots=1, ram_tokens=40)[-1] == 10


def test_ram_without_a_limit_keeps_as_much_as_the_context():
    """--cache-ram -1 has no limit of bytes, and one of tokens."""
    rounds = [(A, [], 0, 1), (B, [], 2, 3), (C, [], 4, 5), ([*A, 11], [], 6, 7)]
    assert hits(rounds, 20, slots=1, ram_tokens=-1)[-1] == 10
    assert hits(rounds, 19, slots=1, ram_tokens=-1)[-1] == 0


def test_idle_slots_go_to_ram_so_that_others_can_have_their_sequences():
    """While the session's own slot is busy, its sequence can come from RAM: only where idle slots are saved."""
    busy = [(A, [], 0, 1), (B, [], 2, 3), ([*A, 11], [], 4, 50), ([*B, 11], [], 5, 50), ([*B, 12], [], 6, 50)]
    assert hits(busy, unified=False, slots=3) == [0, 0, 10, 10, 10]
    assert hits(busy, unified=False, slots=3, save_idle=False) == [0, 0, 10, 10, 0]


def test_each_slot_has_its_part_of_the_context_unless_it_is_shared():
    """Forty tokens and four slots: a prompt of ten does not fit into ten."""
    assert hits([(A, [], 0, 1)], 40, unified=False) == [-1]
    assert hits([(A, [], 0, 1)], 44, unified=False) == [0]
    assert hits([(A, [], 0, 1)], 11) == [0]


def test_an_output_ends_where_the_context_does():
    """Ten of prompt and one of output fill eleven; the slot holds what was computed."""
    assert hits([(A, [21, 22, 23, 24], 0, 1), ([*A, 21], [], 2, 3)], 13) == [0, 10]
    assert hits([(A, [21, 22, 23, 24], 0, 1), ([*A, 21], [], 2, 3)], 11) == [0, -1]


def test_a_full_shared_cache_fails_everybody_who_runs():
    """The third prompt finds no room, and takes the two that run with it; the fourth starts from nothing."""
    four = [(A, [], 0, 9), (B, [], 1, 9), (C, [], 2, 9), (A, [], 3, 9)]
    assert hits(four, 25) == [-1, -1, -1, 0]
    assert hits(four, 31, unified=False, slots=2) == [0, 0, 0, 9]


@pytest.mark.parametrize("capacity", [0, 1, 3])
def test_a_context_of_nothing_runs_nothing(capacity):
    """Every prompt is refused."""
    assert hits([([1, 2, 3], [4], 0, 1)], capacity) == [-1]


def test_ollama_serves_one_at_a_time():
    """Four at once wait for one another, and find what the one before left."""
    four = [([1, 2, 3, 4, 5, 6, 7, 8, 9, 10 + k], [], 0, 5) for k in range(4)]
    found = ollama.simulate(Traffic.of_lists(four), 100)
    assert found.hit_tokens.tolist() == [0, 9, 9, 9]
    assert found.waited == 3
    assert ollama.simulate(Traffic.of_lists(four), 100, num_parallel=4).hit_tokens.tolist() == [0, 0, 0, 0]
