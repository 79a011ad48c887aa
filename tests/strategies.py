"""One home for hypothesis strategies: small traces that share a lot."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import strategies as st

from tests.naive import NO_END, Request

symbols = st.lists(st.integers(0, 2), max_size=9).map(tuple)


@st.composite
def prompts(draw, earlier):
    """New, or an earlier one: as it was, cut short, or carried on."""
    if earlier and draw(st.booleans()):
        old = draw(st.sampled_from(earlier))
        return old[: draw(st.integers(0, len(old)))] + draw(symbols)
    # long equal runs reach the kernel's wide comparison
    return (draw(st.integers(0, 1)),) * draw(st.sampled_from([0, 0, 0, 1, 63, 66, 130])) + draw(symbols)


@st.composite
def traces(draw, unit=1, max_size=14, outputs=False):
    """A list of requests in arrival order, several roots, ties; for a unit > 1 partial blocks and unhashed tails."""
    requests = []
    sequences = []
    clock = 0
    for _ in range(draw(st.integers(0, max_size))):
        prompt = draw(prompts(sequences))
        tokens = len(prompt) * unit
        if unit > 1:  # down to one token in the last block, up to a tail of more than a block
            tokens += draw(st.integers(1 - unit, unit + 1)) if prompt else draw(st.integers(0, unit + 1))
        clock += draw(st.sampled_from([0, 0, 1, 3]))
        output = draw(st.none() | symbols) if outputs else None
        end_us = draw(st.sampled_from([NO_END, *range(clock - 2, clock + 13)])) if outputs else NO_END
        requests.append(
            Request(prompt, draw(st.sampled_from([0, 0, 0, 1, 5])), tokens, clock, output, end_us)
        )
        sequences += [prompt, prompt + (output or ())]
    return requests


@st.composite
def cut(draw, requests):
    """The same requests as chunks, some of them empty."""
    bounds = sorted(draw(st.lists(st.integers(0, len(requests)), max_size=4)))
    bounds = [0, *bounds, len(requests)]
    return [requests[a:b] for a, b in pairwise(bounds)]


runs = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 20)), max_size=12)
