"""When requests are to be sent, against a twin that walks through time one microsecond after the other."""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceprof.replay.pacing import MODES, Pacer, Planned


@st.composite
def plans(draw):
    """Requests in the order of arrival: sessions of some turns, branches too, and how long each will take."""
    made, took = [], []
    at = 0
    parents = []
    for index in range(draw(st.integers(1, 12))):
        at += draw(st.sampled_from([0, 0, 1, 2, 7]))
        parent = draw(st.none() | st.integers(0, index - 1)) if index else None
        think = 0 if parent is None else draw(st.integers(0, 6))
        parents.append(parent)
        made.append(Planned(index, at, think, parent))
        took.append(draw(st.integers(1, 9)))
    return [p._replace(children=parents.count(p.index)) for p in made], took


def walked(mode, concurrency, planned, took, from_us=0):
    """By index when each is to be sent: what happens is looked up anew at every microsecond."""
    sent, ended = {}, {}
    now = from_us
    while len(ended) < len(planned):
        for index, at in sent.items():
            if at + took[index] == now:
                ended[index] = now
        for p in planned:
            if p.index in sent or (mode == "closed" and len(sent) - len(ended) >= concurrency):
                continue
            waited = (
                p.parent is None
                or mode == "open"
                or (p.parent in ended and ended[p.parent] + p.think_us <= now)
            )
            if waited and (mode == "closed" or p.scheduled_us <= now):
                sent[p.index] = now
        now += 1
    return sent


def paced(pacer, planned, took, late=0, ahead=None):
    """By index the times that the pacer gives; `late` is how slow the client is, `ahead` how many requests it knows at once."""
    to_add, intended, ends = list(planned), {}, []
    added = 0
    while len(intended) < len(planned) or ends:
        while to_add and (ahead is None or added - len(intended) < ahead):
            pacer.add(to_add.pop(0))
            added += 1
        times = [t for t in (pacer.next_us(), ends[0][0] if ends else None) if t is not None]
        now = min(times)
        while ends and ends[0][0] <= now:
            at, index = heapq.heappop(ends)
            pacer.ended(index, at)
        while (turn := pacer.pop(now + late)) is not None:
            intended[turn.index] = turn.intended_us
            heapq.heappush(ends, (turn.intended_us + took[turn.index], turn.index))
    assert pacer.unsent == 0 and pacer.next_us() is None and not pacer._ended
    return intended


@given(plans(), st.sampled_from(MODES), st.integers(1, 4), st.integers(0, 20))
def test_intended_times_are_those_of_the_twin(plan, mode, concurrency, from_us):
    """All three modes, from the beginning or from where an earlier part of the run ended."""
    planned, took = plan
    found = paced(Pacer(mode, concurrency if mode == "closed" else 0, from_us), planned, took)
    assert found == walked(mode, concurrency, planned, took, from_us)


@given(plans(), st.sampled_from(["open", "partly-open"]), st.integers(1, 30))
def test_a_late_client_moves_no_intended_time_of_an_open_schedule(plan, mode, late):
    """What is popped late is still told the time at which it was to be sent, where no turn before was late."""
    planned, took = plan
    alone = [p._replace(parent=None, children=0, think_us=0) for p in planned]
    assert paced(Pacer(mode), alone, took, late=late) == {p.index: p.scheduled_us for p in alone}


@given(plans(), st.sampled_from(["open", "partly-open"]), st.integers(1, 5))
def test_requests_told_in_a_small_window_go_at_the_same_times(plan, mode, ahead):
    """Only so many are with the client at once, those that wait for others among them."""
    planned, took = plan
    assert paced(Pacer(mode), planned, took, ahead=ahead) == walked(mode, 0, planned, took)


def test_a_parent_that_ended_in_an_earlier_part_of_the_run_is_not_waited_for():
    """Its end is told with the request."""
    pacer = Pacer("partly-open", from_us=50)
    pacer.add(Planned(7, 10, 30, parent=6, parent_ended_us=40))
    pacer.add(Planned(8, 10, 0, parent=None))
    assert pacer.pop(69).index == 8
    assert pacer.pop(69) is None
    assert pacer.pop(70) == (7, 70)


def test_a_closed_loop_goes_by_the_order_of_the_workload_not_by_readiness():
    """One place: request 0, then 1, though 2 was ready before it."""
    pacer = Pacer("closed", 1)
    for p in (Planned(0, 0, 0, None, 1), Planned(1, 0, 0, 0), Planned(2, 0, 0, None)):
        pacer.add(p)
    assert pacer.pop(0).index == 0
    assert pacer.pop(5) is None
    pacer.ended(0, 6)
    assert (pacer.next_us(), pacer.pop(6)) == (6, (1, 6))
    pacer.ended(1, 8)
    assert pacer.pop(9) == (2, 8)


@pytest.mark.parametrize("mode", MODES)
def test_a_request_of_a_child_that_comes_after_its_parents_end_is_not_forgotten(mode):
    """The parent's end is kept while children are still to come, and not longer."""
    pacer = Pacer(mode, 1 if mode == "closed" else 0)
    pacer.add(Planned(0, 0, 0, None, children=2))
    assert pacer.pop(0).index == 0
    pacer.ended(0, 10)
    pacer.add(Planned(1, 1, 5, 0))
    pacer.add(Planned(2, 1, 7, 0))
    times = {}
    for now in range(100):
        while (turn := pacer.pop(now)) is not None:
            times[turn.index] = turn.intended_us
            pacer.ended(turn.index, now + 1)
    assert (
        times
        == {
            "partly-open": {1: 15, 2: 17},
            "open": {1: 1, 2: 1},
            "closed": {1: 15, 2: 17},
        }[mode]
    )
    assert not pacer._ended
