"""Small traffic for the property tests of the cache lab, for the kernels and for the twins in `tests.drive`."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tests.drive import Request, drive
from traceprof.caches.traffic import Traffic

__all__ = ["Request", "drive", "many", "random_requests", "requests", "traffic_of"]


def traffic_of(requests):
    """The same requests for the kernels."""
    made = Traffic.of_lists(
        [(r.prompt, r.output, r.arrival, r.arrival + r.took) for r in requests], [r.root for r in requests]
    )
    return made._replace(first_us=np.array([r.arrival + r.first for r in requests], np.int64))


@st.composite
def requests(draw, max_size=14, roots=(0,), symbols=2, longest=9, waits=(0, 0, 1, 3)):
    """Requests that share a lot, overlap a lot, and arrive in bursts."""
    made = []
    known = []  # sequences so far
    clock = 0
    for number in range(draw(st.integers(0, max_size))):
        some = st.lists(st.integers(0, symbols - 1), max_size=longest).map(tuple)
        if known and draw(st.booleans()):
            old = draw(st.sampled_from(known))
            prompt = old[: draw(st.integers(0, len(old)))] + draw(some)
        else:
            prompt = (draw(st.integers(0, 1)),) * draw(st.sampled_from([0, 0, 2, 5])) + draw(some)
        prompt = prompt or (0,)
        output = draw(some)
        clock += draw(st.sampled_from(waits))
        took = draw(st.integers(0, 12))
        made.append(
            Request(
                number, prompt, output, clock, draw(st.integers(0, took)), took, draw(st.sampled_from(roots))
            )
        )
        known += [prompt, prompt + output]
    return made


def many(seed, n=1000, **shape):
    """n random traces without hypothesis, where a model's twin is fast: `shape` as `random_requests`."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        yield random_requests(rng, **shape)


def random_requests(rng, size=25, symbols=3, prefix=40, tail=12, output=20, gap=4, took=40, roots=1):
    """One random trace of chats: sessions carry on, branch, and share openings."""
    made, known = [], []
    clock = 0
    for number in range(int(rng.integers(1, size + 1))):
        fresh = tuple(int(t) for t in rng.integers(0, symbols, rng.integers(1, tail + 1)))
        if known and rng.random() < 0.75:
            old = known[int(rng.integers(len(known)))]
            cut = len(old) if rng.random() < 0.5 else int(rng.integers(0, len(old) + 1))
            prompt = old[:cut] + fresh
        else:
            prompt = (int(rng.integers(0, symbols)),) * int(rng.integers(0, prefix)) + fresh
        out = tuple(int(t) for t in rng.integers(0, symbols, rng.integers(0, output + 1)))
        clock += int(rng.integers(0, gap))
        lasts = int(rng.integers(0, took + 1))
        made.append(
            Request(
                number, prompt, out, clock, int(rng.integers(0, lasts + 1)), lasts, int(rng.integers(roots))
            )
        )
        known += [prompt, prompt + out]
    return made
