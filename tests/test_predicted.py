"""Predicted cached tokens of a run against the cache model over the prompts themselves."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tests import lab, replaying
from traceprof import schema
from traceprof.caches import engine
from traceprof.caches.traffic import Traffic
from traceprof.replay.predicted import predicted


def workload(path, requests):
    """A workload of prompts, and what they share."""
    of = Traffic.of_lists([(r.prompt, (), 0, 0) for r in requests])
    like, shared = of.shared()
    rows = [
        replaying.row(
            i, input_tokens=len(r.prompt), prefix_of=None if like[i] < 0 else int(like[i]), prefix_tokens=int(shared[i])
        )
        for i, r in enumerate(requests)
    ]  # fmt: skip
    return replaying.workload(path, rows)


def ran(requests, order, **more):
    """Results of requests that were sent in another order than the workload's."""
    rows = [
        {
            "index": i, "request_id": f"r{i}", "warmup": False, "attempt": 0, "scheduled_us": 0, "intended_us": 0,
            "sent_us": 100 * place, "first_token_us": 100 * place + 20, "end_us": 100 * place + 150, "outcome": "ok",
            "output_tokens": len(requests[i].output), "cached_state": "absent", "tokens_source": "usage", "bytes_sent": 1,
            "bytes_received": 1, **more,
        }
        for place, i in enumerate(order)
    ]  # fmt: skip
    empty = pl.from_arrow(schema.arrow(schema.RESULT_REQUESTS).empty_table())
    return pl.DataFrame(rows, schema=empty.schema)


@pytest.mark.parametrize("name", ["vllm", "sglang", "llamacpp", "lru"])
def test_predicted_is_what_the_model_says_of_the_prompts_in_the_order_of_sending(tmp_path, name):
    """Random traces sent in random orders; the answers are of nobody's prompt."""
    rng = np.random.default_rng(5)
    for requests in lab.many(61, 25):
        order = rng.permutation(len(requests)).tolist()
        fresh = [tuple(1000 + 100 * i + k for k in range(len(r.output))) for i, r in enumerate(requests)]
        expected = Traffic.of_lists(
            [(requests[i].prompt, fresh[i], 100 * place, 100 * place + 150) for place, i in enumerate(order)]
        )
        expected = expected._replace(first_us=expected.arrival_us + 20)
        for capacity in (80, 100_000):
            found = predicted(workload(tmp_path, requests), ran(requests, order), name, capacity)
            assert found is not None
            hits = engine(name).simulate(expected, capacity).hit_tokens
            assert found.cached[order].tolist() == hits.tolist()


def test_requests_that_never_ran_have_none(tmp_path):
    """Refused ones neither have cached tokens nor leave any."""
    requests = [lab.Request(i, (1, 2, 3, 4 + i), (), 0, 0, 0) for i in range(3)]
    done = ran(requests, [0, 1, 2]).with_columns(
        outcome=pl.when(pl.col("index") == 0).then(pl.lit("refused")).otherwise(pl.lit("ok"))
    )
    found = predicted(workload(tmp_path, requests), done, "lru", 1000)
    assert found.cached.tolist() == [-1, 0, 3]
    assert found.ceiling.tolist() == [-1, 0, 3]


def test_nothing_is_predicted_of_a_workload_that_does_not_say_what_its_prompts_share(tmp_path):
    """None, so that nobody takes it for a cache without hits."""
    made = replaying.workload(tmp_path, [replaying.row(0)])
    assert predicted(made, ran([lab.Request(0, (1,), (), 0, 0, 0)], [0]), "lru", 1000) is None
