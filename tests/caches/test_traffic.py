"""Prompts by what they share: enough to run every cache model again, and nothing to read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from tests import lab, naive
from traceprof.caches import ENGINES, engine
from traceprof.caches.traffic import Traffic


def alone(requests):
    """The same requests without outputs."""
    return [r._replace(output=()) for r in requests]


@given(lab.requests(roots=(0, 1)))
@settings(max_examples=300)
def test_shared_names_an_earlier_request_and_how_far_it_goes_along(requests):
    """Against the twin: the longest run, and one of those that have it; nobody where there is none."""
    like, tokens = lab.traffic_of(alone(requests)).shared()
    expected = naive.shared([(r.root, r.prompt) for r in requests])
    assert tokens.tolist() == [most for most, _ in expected]
    for who, (most, those) in zip(like.tolist(), expected, strict=True):
        assert who in those if most else who == -1


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_does_the_same_with_a_tree_made_of_what_is_shared(name):
    """The tree comes back: hits, evictions, waits."""
    for requests in lab.many(51, 60, roots=2):
        of = lab.traffic_of(alone(requests))
        again = Traffic.of_shared(*of.shared(), of.prompt)._replace(
            arrival_us=of.arrival_us, first_us=of.first_us, end_us=of.end_us
        )
        for capacity in (64, 300, 100_000):
            found, expected = (engine(name).simulate(one, capacity) for one in (again, of))
            assert found.hit_tokens.tolist() == expected.hit_tokens.tolist()
            assert found[1:] == expected[1:]


def test_a_tree_of_what_is_shared_is_the_smallest():
    """Sequences that end inside others cut them; equal ones end at one node."""
    of = Traffic.of_lists([([1, 2, 3, 4], [], 0, 0), ([1, 2], [], 0, 0), ([1, 2], [], 0, 0), ([], [], 0, 0)])
    again = Traffic.of_shared(*of.shared(), of.prompt)
    assert sorted(zip(again.begin.tolist(), again.end.tolist(), strict=True)) == [(0, 2), (2, 4)]
    assert again.node[1] == again.node[2] and again.node[3] == -1
    assert np.array_equal(again.prompt, of.prompt)
