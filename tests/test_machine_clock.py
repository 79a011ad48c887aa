"""Engines in virtual time: the kernel against its slow twin, and what must hold whatever the traffic."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import lab, machine
from tests.caches.pool import Pool
from traceprof.simulate.schedulers import Scheduler
from traceprof.simulate.served import Load, serve


class Costs(NamedTuple):
    step_s: float
    seq_s: float = 0.0
    weight_s: float = 0.0
    expert_s: float = 0.0
    expert_share: float = 0.0
    token_s: float = 0.0
    kv_s: float = 0.0
    pair_s: float = 0.0
    request_s: float = 0.0
    overlap: float = float("inf")


@st.composite
def rules(draw):
    step = draw(st.integers(1, 40))
    return machine.Rules(
        draw(st.integers(1, 6)),
        max(step, 8),
        draw(st.integers(1, step)),
        draw(st.booleans()),
        draw(st.sampled_from([1, 2, 1 << 30])),
        draw(st.sampled_from([0, 0, 1, 3])),
        draw(st.sampled_from([0, 0, 700])),
    )


def sends(requests, waits, times):
    """Each second or so a turn that waits for the one before; arrivals as in the request."""
    made = []
    for i, r in enumerate(requests):
        parent = i - 1 if waits and i and i % waits == 0 else -1
        made.append(machine.Sent(0 if times == 0 else r.arrival * times, (i % 3) * 400, parent))
    return made


def both(requests, sent, total, block, how, costs):
    pool = Pool(total, block)
    ns = (*(round(c * 1e9, 6) if i != 4 else c for i, c in enumerate(costs[:8])), costs.overlap)
    slow, (waited, preempted) = machine.run(requests, sent, pool, block, (total - 1) * block, how, ns)
    load = Load(*(np.array([s[i] for s in sent], np.int64) for i in range(3)), places=how.places)
    scheduler = Scheduler(
        "vllm", how.max_seqs, how.step_tokens, how.chunk_tokens, how.mixed, how.prefill_seqs
    )
    fast = serve(
        "vllm", lab.traffic_of(requests), load, scheduler, costs._replace(request_s=how.request_ns / 1e9), total * block,
        steps=1 << 14, options={"block_size": block},
    )  # fmt: skip
    assert fast.hit_tokens.tolist() == [t.hit for t in slow]
    assert fast.sent.tolist() == [t.intended for t in slow]
    assert fast.begun.tolist() == [t.begun for t in slow]
    assert fast.end.tolist() == [t.end for t in slow]
    assert (fast.waited, fast.preemptions) == (waited, preempted)
    times = fast.token_times()
    for r, t, found in zip(requests, slow, times, strict=True):
        if t.hit >= 0 and r.output:
            assert found.tolist() == list(t.tokens)
            assert len(t.tokens) == len(r.output)
    assert sorted(pool.free) == list(range(1, total))
    return slow, fast


COSTS = (
    Costs(1e-6, 1e-7, 2e-6, 0, 0, 1.5e-7, 3e-9, 1e-9),
    Costs(0, 0, 0, 0, 0, 1e-6),
    Costs(1e-6, 0, 1e-6, 4e-6, 0.3, 1e-7),
    Costs(1e-9),
    Costs(1e-6, 0, 3e-6, 1e-6, 0.2, 4e-7, 2e-9, 1e-9, 0, 1.5),
)


@settings(max_examples=400)
@given(lab.requests(roots=(0, 0, 1)), st.integers(2, 25), st.integers(1, 4), rules(), st.sampled_from(COSTS), st.integers(0, 3), st.sampled_from([0, 500, 3000]))  # fmt: skip
def test_the_clock_equals_its_twin(requests, total, block, how, costs, waits, times):
    """Every send, admission, token and end, to the nanosecond, open and closed, under pressure and without."""
    if how.places:
        requests = [r._replace(arrival=0) for r in requests]
        times = 0
    both(requests, sends(requests, waits, times), total, block, how, costs)


def test_it_equals_its_twin_on_longer_traces_under_pressure():
    """With preemptions in decoding and in prefill."""
    preempted = waited = 0
    for i, requests in enumerate(lab.many(7, 300, roots=2)):
        how = machine.Rules((2, 4, 64)[i % 3], 64, (16, 64)[i % 2], i % 5 != 0, 1 << 30, 0, 0)
        _, fast = both(requests, sends(requests, i % 4, (0, 900)[i % 2]), (12, 20, 40, 90)[i % 4], (1, 4, 3, 16)[i % 3], how, COSTS[i % 4])  # fmt: skip
        preempted += fast.preemptions
        waited += fast.waited
    assert preempted > 100
    assert waited > 500


ENGINES = (
    "vllm",
    "sglang",
    "tensorrt_llm",
    "tgi",
    "lmdeploy",
    "llamacpp",
    "ollama",
    "mlx_lm",
    "vllm_mlx",
    "omlx",
)


@pytest.mark.parametrize("name", ENGINES)
def test_what_holds_for_every_engine(name):
    """Tokens are conserved, nothing is served before it was sent, first come first served, and twice as fast is nowhere later alone."""
    for i, requests in enumerate(lab.many(5, 40)):
        traffic = lab.traffic_of(requests)
        load = Load.at(traffic.arrival_us, 1.0)
        scheduler = Scheduler(name, 4, 64, 32, i % 2 == 0)
        options = {"block_size": 4} if name in ("vllm", "tensorrt_llm", "lmdeploy", "omlx") else {}
        costs = COSTS[0]
        found = serve(name, traffic, load, scheduler, costs, 400, steps=1 << 14, options=options)
        ok = found.ok
        assert (found.sent == load.scheduled).all()
        assert (found.first[ok] > found.sent[ok]).all()
        assert (found.end[ok] >= found.first[ok]).all()
        order = np.argsort(found.begun[ok], kind="stable")
        assert (np.diff(found.sent[ok][order]) >= 0).all()  # FCFS
        if not found.preemptions:
            todo = np.maximum(found.prompt - np.maximum(found.hit_tokens, 0), 1)[ok].sum()
            assert found.computed_tokens == todo
        for times, r, good in zip(found.token_times(), requests, ok, strict=True):
            if good:
                assert len(times) == max(1, len(r.output))
                assert (np.diff(times) > 0).all()


@pytest.mark.parametrize("name", ENGINES)
def test_alone_faster_hardware_is_never_later(name):
    """One request at a time, so that nobody's luck in the queue hides it."""
    for requests in lab.many(9, 20):
        traffic = lab.traffic_of(requests)
        load = Load.closed(traffic.requests, 1)
        scheduler = Scheduler(name, 4, 64, 64, True)
        slow, fast = (
            serve(
                name,
                traffic,
                load,
                scheduler,
                COSTS[0]._replace(**{n: k * c for n, c in COSTS[0]._asdict().items() if n != "overlap"}),
                100_000,
            )
            for k in (2, 1)
        )
        assert (slow.hit_tokens == fast.hit_tokens).all()
        assert (fast.end - fast.sent <= slow.end - slow.sent).all()


@pytest.mark.parametrize("name", ENGINES)
def test_one_after_the_other_hits_are_those_of_the_cache_alone(name):
    """Where the timing is fixed, part 3's model decides alone."""
    from traceprof.caches import engine

    for requests in lab.many(3, 30):
        apart = [r._replace(arrival=i * 1000, first=1, took=2) for i, r in enumerate(requests)]
        traffic = lab.traffic_of(apart)
        load = Load.at(traffic.arrival_us)
        scheduler = Scheduler(name, 1 if name == "ollama" else 4, 1 << 20, 1 << 20, True)
        found = serve(name, traffic, load, scheduler, Costs(1e-9), 300)
        assert found.hit_tokens.tolist() == engine(name).simulate(traffic, 300).hit_tokens.tolist()
