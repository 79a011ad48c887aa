"""What engines are sized for, when requests are taken to run, and every model on an engine of its own."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from tests import lab as twins
from traceprof.caches import ENGINES, lru, memory
from traceprof.errors import UsageError
from traceprof.lab import SLOW, Lab, Machine, engines_part, machine_part, timed
from traceprof.load import concurrency as flight

LLAMA = {"num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 8, "hidden_size": 512, "intermediate_size": 1024, "vocab_size": 1000, "sliding_window": 64}  # fmt: skip


def test_a_machine_as_people_name_it(tmp_path):
    """Nothing, a card, a model, a type of cache, or the engine's own figure."""
    usual = Machine.of()
    assert not usual.given
    assert usual.at(0).label == "Llama-3.1-8B on 80 GB"
    assert usual.at(0) in memory.marks()
    assert Machine.of(gpu_memory="141GB").at(0).capacity_tokens > 900_000
    assert Machine.of(capacity_tokens=5000).at(0)[:2] == ("5,000 tokens", 5000)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    named = Machine.of(model_config=str(tmp_path), gpus=2, gpu_memory="1GiB", weights="0.5GiB")
    assert named.given
    room = int(((2 << 30) * 0.92 - (1 << 29)) / (4 * 8 * 128 * 2))
    assert named.at(0) == (f"{tmp_path.name} on 2 x 1GiB", room, 4 * 8 * 128 * 2)
    assert named.at(640).capacity_tokens == int(((2 << 30) * 0.92 - (1 << 29)) / (4 * 8 * 128 * 2 / 10))
    assert all(tmp_path.name in m.label for m in named.marks(0))
    half = Machine.of(model_config=str(tmp_path), kv_dtype="fp8", capacity_tokens=1)
    assert half.at(0).token_bytes == 4 * 8 * 128


def test_a_machine_that_cannot_be(tmp_path):
    """Weights that do not fit, and options of a model without a model."""
    with pytest.raises(UsageError, match="does not fit"):
        Machine.of(gpu_memory="8GiB")
    with pytest.raises(UsageError, match="--model-config"):
        Machine.of(kv_dtype="fp8")


def frame(start, end, ttft):
    return pl.DataFrame(
        {"start_us": start, "end_us": end, "ttft_us": ttft},
        schema=dict.fromkeys(("start_us", "end_us", "ttft_us"), pl.Int64),
    )


def test_times_as_logged_and_as_estimated():
    """Ends and first tokens of the log count; what it lacks follows the published assumption, and says so."""
    prompt, output = np.array([8000, 8000, 16_000]), np.array([40, 40, 40])
    measured = timed(frame([0, 5, 9], [10, 20, 30], [4, 99, None]), prompt, output, one_clock=True)
    assert measured.arrival_us.tolist() == [0, 5, 9]
    assert measured.first_us.tolist() == [4, 20, 9 + int(21 * 2 / 3)]
    assert measured.end_us.tolist() == [10, 20, 30]
    assert "1 have no time of the first token" in measured.how
    guessed = timed(frame([0, 5, None], [None] * 3, [None] * 3), prompt, output, one_clock=True)
    assert guessed.arrival_us.tolist() == [0, 5, 5]
    assert (guessed.end_us - guessed.arrival_us).tolist() == [2_000_000, 2_000_000, 3_000_000]
    assert (guessed.first_us - guessed.arrival_us).tolist() == [1_000_000, 1_000_000, 2_000_000]
    assert flight.ASSUMED in guessed.how


@pytest.mark.parametrize(("start", "clock"), [([0, 5, 9], False), ([3, 1, 2], True), ([None] * 3, True)])
def test_without_one_clock_requests_follow_one_another(start, clock):
    """Nothing overlaps, and the profile says why."""
    one = timed(
        frame(start, [50] * 3, [None] * 3), np.ones(3, np.int64), np.ones(3, np.int64), one_clock=clock
    )
    assert not any(map(any, one[:3]))
    assert "end before the next one arrives" in one.how


def test_each_model_has_an_engine_of_its_own():
    """Two models that fill a cache do not drive each other out; a request that no model saw is not there."""
    requests = twins.random_requests(np.random.default_rng(5), size=60)
    traffic = twins.traffic_of(requests)
    served = np.array([r.number % 3 - 1 for r in requests])
    made = Lab.of(traffic, served, "as logged")
    assert made.input_tokens == sum(len(r.prompt) for r in requests if r.number % 3)
    found = made.run("lru", 70, 1.0)
    apart = [lru.simulate(traffic.subset(served == k), 70) for k in (0, 1)]
    assert found.hit_tokens == sum(int(a.hit_tokens.sum()) for a in apart)
    assert found.evicted_tokens == sum(a.evicted_tokens for a in apart) > 0
    assert not found.unbounded
    # a part of the tree is as good as the whole
    slow = [twins_hits([r for r in requests if r.number % 3 == k + 1]) for k in (0, 1)]
    assert found.hit_tokens == sum(slow)


def twins_hits(requests):
    traffic = twins.traffic_of([r._replace(number=i) for i, r in enumerate(requests)])
    return int(lru.simulate(traffic, 70).hit_tokens.sum())


def test_engines_by_size_of_memory():
    """More memory never costs LRU hits; what threw nothing out is not run again."""
    requests = twins.random_requests(np.random.default_rng(6), size=80)
    made = Lab.of(twins.traffic_of(requests), np.zeros(len(requests), np.int64), "as logged")
    marks = [memory.Mark(str(n), n, 2.0) for n in (10, 50, 200, 10**6, 10**7)]
    part = engines_part(made, memory.Mark("here", 60, 2.0), marks, ("infinite", "lru"))
    rates = [m["hit_rate"] for m in part["lru"]["by_memory"]]
    assert rates == sorted(rates)
    assert rates[-1] == rates[-2] == part["infinite"]["hit_rate"]
    assert part["lru"]["hit_tokens"] == made.run("lru", 60, 2.0).hit_tokens
    assert part["infinite"]["capacity_tokens"] is None
    assert {m["hit_rate"] for m in part["infinite"]["by_memory"]} == {part["infinite"]["hit_rate"]}


def test_a_profile_of_a_large_trace_leaves_slow_models_and_sizes_out(monkeypatch):
    """The command runs all of them, whatever the size."""
    requests = twins.random_requests(np.random.default_rng(6), size=30)
    made = Lab.of(twins.traffic_of(requests), np.zeros(len(requests), np.int64), "as logged")
    monkeypatch.setattr("traceprof.lab.LARGE", made.input_tokens - 1)
    few = machine_part(made, Machine(), whole=False)["engines"]
    assert set(ENGINES) - set(few) == set(SLOW)
    assert not any(e["by_memory"] for e in few.values())
    every = machine_part(made, Machine())["engines"]
    assert list(every) == list(ENGINES)
    assert all(len(e["by_memory"]) == 4 for e in every.values())
