"""The miss-ratio curve and the LRU simulator say the same at every capacity, on every sample log."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import SAMPLES

from traceprof import profiler
from traceprof.caches import lru
from traceprof.errors import TraceprofError
from traceprof.ingest import Options, ingest
from traceprof.tokens import tokenize, tokenizer_of


def logs():
    return sorted(p for p in SAMPLES.iterdir() if p.is_file() and p.suffix not in (".md", ".toml"))


@pytest.mark.parametrize("log", logs(), ids=lambda p: p.name)
def test_the_simulator_at_a_capacity_is_the_curve_there(log, tmp_path):
    """Hit tokens, exactly, from no room to room for all."""
    told = log.name.split(".")[0]
    try:
        trace = ingest([log], tmp_path / "t", Options(format=told if told == "servegen" else None))
    except TraceprofError:
        return  # what cannot be read alone is another test's business
    if trace.manifest["privacy"] == "text":
        tokenize(trace)
    rows = profiler._load(trace)
    prompts = profiler._prompts(trace, rows, tokenizer_of(trace), [])
    if prompts is None:
        return  # nothing in it identifies a prompt
    prefix = profiler.measure_prefix(trace, rows, prompts, lambda what, done, total: None)
    most = prefix.curve.working_set(1.0)
    for capacity in {0, 1, 17, *np.linspace(0, most + 1, 9).astype(int).tolist(), 10**9}:
        found = lru.simulate(prefix.traffic, capacity, outputs=False).hit_tokens.clip(0).sum()
        assert found == prefix.curve.hit_tokens_at(capacity), capacity
