"""mlx-lm's and vllm-mlx's stores of whole sequences against slow twins, and rule by rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import lab
from tests.naive import common_prefix
from traceprof.caches import mlx_lm, vllm_mlx
from traceprof.caches.traffic import Traffic


class MlxLm:
    """Sequences are tuples of tokens led by their root, in the order in which they were kept."""

    def __init__(self, most, limit):
        self.most, self.limit, self.kept, self.dropped = most, limit, [], 0

    def _sequence(self, request, tokens):
        return tuple((request.root, t) for t in request.tokens[:tokens])

    def admit(self, request, length):
        prompt = self._sequence(request, length)
        if prompt in self.kept:
            return length
        return max((min(common_prefix(e, prompt), length - 1) for e in self.kept), default=0)

    def grow(self, request, length):
        return True

    def release(self, request, ended):
        whole = self._sequence(request, request.final)
        if whole in self.kept:
            self.kept.remove(whole)
            self.kept.append(whole)
            return
        self.kept = [e for e in self.kept if common_prefix(e, whole) < len(e)] + [whole]
        while len(self.kept) > self.most or sum(map(len, self.kept)) > self.limit:
            self.dropped += len(self.kept.pop(0))


class VllmMlx(MlxLm):
    def _store(self, sequence, prefixes):
        if sequence in self.kept:
            self.kept.remove(sequence)
        elif len(sequence) > self.limit:
            return
        elif prefixes:
            self.kept = [e for e in self.kept if common_prefix(e, sequence) < len(e)]
        while sum(map(len, self.kept)) + len(sequence) > self.limit:
            self.dropped += len(self.kept.pop(0))
        self.kept.append(sequence)

    def admit(self, request, length):
        prompt = self._sequence(request, length)
        common = {e: common_prefix(e, prompt) for e in reversed(self.kept)}
        longer = [e for e in common if common[e] == length]
        shorter = [e for e in common if common[e] == len(e)]
        near = [e for e in common if common[e]]
        used = None
        if prompt in self.kept:
            used = prompt
        elif longer:
            used = max(longer, key=len)
        elif shorter:
            used = max(shorter, key=len)
        elif near:
            used = max(near, key=common.get)
        if used is not None:
            self.kept.remove(used)
            self.kept.append(used)
        self._store(prompt, True)
        return common.get(used, 0)

    def release(self, request, ended):
        self._store(self._sequence(request, request.final), False)


MODELS = {
    "mlx_lm": (lambda most, limit: MlxLm(most, limit), lambda t, most, limit: mlx_lm.simulate(t, limit, sequences=most)),
    "vllm_mlx": (lambda most, limit: VllmMlx(10**9, limit), lambda t, most, limit: vllm_mlx.simulate(t, limit)),
}  # fmt: skip


def both(name, requests, most, limit):
    twin, simulate = MODELS[name]
    model = twin(most, limit)
    slow = lab.drive(requests, model, 1 << 60)
    fast = simulate(lab.traffic_of(requests), most, limit)
    assert fast.hit_tokens.tolist() == slow.hits
    assert fast.evicted_tokens == model.dropped
    return model


@pytest.mark.parametrize("name", MODELS)
@given(requests=lab.requests(roots=(0, 0, 1)), most=st.integers(1, 6), limit=st.integers(0, 120))
def test_it_equals_its_twin(name, requests, most, limit):
    """Hits and drops, whatever the room."""
    both(name, requests, most, limit)


@pytest.mark.parametrize("name", MODELS)
def test_it_equals_its_twin_on_a_thousand_longer_traces(name):
    """Most of them short of room."""
    dropped = 0
    for i, requests in enumerate(lab.many(16, roots=2)):
        dropped += both(name, requests, (2, 10, 5)[i % 3], (60, 200, 500, 10_000)[i % 4]).dropped
    assert dropped > 10_000


def test_ten_sequences_and_the_first_kept_goes_first():
    """In mlx-lm using a sequence does not keep it; in vllm-mlx it does."""
    talks = [([100 + k] * 5, [], 2 * k, 2 * k + 1) for k in range(10)]
    again = [([100] * 6, [], 30, 31)]
    other = [([50] * 5, [], 40, 41)]
    found = Traffic.of_lists([*talks, *again, *other, ([100] * 7, [], 50, 51), ([101] * 6, [], 60, 61)])
    assert mlx_lm.simulate(found, 1000).hit_tokens[10:].tolist() == [5, 0, 6, 0]
    small = Traffic.of_lists([*talks[:3], *again, *other, ([101] * 6, [], 50, 51), ([100] * 7, [], 60, 61)])
    assert vllm_mlx.simulate(small, 17).hit_tokens.tolist() == [0, 0, 0, 5, 0, 0, 6]


def test_side_by_side_all_use_the_same_sequence():
    """What is found is copied."""
    warm = ([1, 2, 3, 4], [], 0, 1)
    three = [([1, 2, 3, 4, 9 + k], [], 5, 20) for k in range(3)]
    assert mlx_lm.simulate(Traffic.of_lists([warm, *three]), 100).hit_tokens.tolist() == [0, 4, 4, 4]
