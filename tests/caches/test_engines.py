"""What every engine's model has in common."""

from __future__ import annotations

import numpy as np
import pytest

from tests import lab
from traceprof.caches import ENGINES, engine, infinite
from traceprof.caches.traffic import Traffic


@pytest.mark.parametrize("name", ENGINES)
def test_a_model_says_what_it_is(name):
    """Label, block size, and assumptions that are sentences."""
    model = engine(name)
    assert model.LABEL
    assert model.BLOCK_SIZE >= 1
    assert all(len(a) > 20 and not a.endswith(".") for a in model.ASSUMPTIONS)


@pytest.mark.parametrize("name", ENGINES)
def test_hits_are_within_the_prompt_and_the_same_each_time(name):
    """Never negative but for the refused, never more than the prompt, nothing in an empty trace."""
    model = engine(name)
    for requests in lab.many(31, 40):
        traffic = lab.traffic_of(requests)
        for capacity in (0, 1, 40, 64, 300, 100_000):
            found = model.simulate(traffic, capacity)
            again = model.simulate(traffic, capacity)
            assert found.hit_tokens.tolist() == again.hit_tokens.tolist()
            assert (found.hit_tokens >= -1).all()
            assert (found.hit_tokens <= traffic.prompt).all()
            assert min(found[1:]) >= 0
    nothing = Traffic.of_lists([])
    assert model.simulate(nothing, 100)[1:] == (0, 0, 0)


@pytest.mark.parametrize("name", sorted(set(ENGINES) - {"infinite", "vllm", "tensorrt_llm", "lmdeploy"}))
def test_with_room_for_all_nobody_beats_a_cache_that_forgets_nothing(name):
    """One request at a time, so nobody can share what is not finished yet."""
    for requests in lab.many(32, 40):
        apart = [r._replace(arrival=100 * i, first=1, took=2) for i, r in enumerate(requests)]
        traffic = lab.traffic_of(apart)
        whole = name in ("mlx_lm", "vllm_mlx")  # they keep the token sampled last, too
        ceiling = infinite.hits_with_outputs(traffic) if whole else infinite.simulate(traffic, 0).hit_tokens
        found = engine(name).simulate(traffic, 1_000_000).hit_tokens
        assert (found <= ceiling).all()
        if name in ("lru",):
            assert (found == ceiling).all()
        if name == "sglang":  # all but the token that is always computed
            assert (found == np.minimum(ceiling, traffic.prompt - 1)).all()
