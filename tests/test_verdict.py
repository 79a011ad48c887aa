"""The rules, each with the user's number beside its threshold."""

from __future__ import annotations

import pytest

from traceprof.verdict import verdict


def profile(*, rate=0.2, users=40, models=1, measured=True, exact=True, requests=10_000):
    load = (
        None
        if users is None
        else {"p99": users, "peak": users * 2, "measured": measured, "busy": {"p99": users}}
    )
    return {
        "trace": {"models": {f"m{i}": 1 for i in range(models)}, "requests": requests},
        "tokenizer": {"exact": exact},
        "prefix": None if rate is None else {"hit_rate": {"1": rate, "16": max(0, rate - 0.01)}},
        "concurrency": load,
    }


@pytest.mark.parametrize(
    ("case", "favoured"),
    [
        ({"users": 1, "rate": 0.9}, "Ollama or llama.cpp"),
        ({"users": 1, "rate": 0.0}, "Ollama or llama.cpp"),
        ({"users": 40, "rate": 0.9}, "SGLang"),
        ({"users": 1000, "rate": 0.95}, "SGLang"),
        ({"users": 40, "rate": 0.1}, "vLLM"),
        ({"users": 40, "rate": 0.9, "models": 8}, "vLLM"),
        ({"users": 3, "rate": 0.1}, "llama.cpp"),
        ({"users": None, "rate": 0.1}, "vLLM"),
        ({"users": 29, "rate": None}, "vLLM"),
    ],
)
def test_favoured_engine(case, favoured):
    """One user: llama.cpp; many who share: SGLang; many who do not, or many models: vLLM."""
    assert verdict(profile(**case))["favoured"] == favoured


@pytest.mark.parametrize(
    ("case", "confidence"),
    [
        ({"users": 40, "rate": 0.9}, "moderate"),
        ({"users": 40, "rate": 0.45}, "low"),  # near the threshold
        ({"users": 6, "rate": 0.9}, "low"),
        ({"users": 40, "rate": 0.9, "measured": False}, "low"),
        ({"users": 40, "rate": 0.9, "exact": False}, "low"),
        ({"users": 40, "rate": 0.9, "requests": 20}, "low"),
        ({"users": None, "rate": 0.9}, "low"),
    ],
)
def test_rules_are_never_sure_and_unsure_where_numbers_are_weak(case, confidence):
    """Moderate at best; low when a number is missing, estimated, few, or close to its threshold."""
    assert verdict(profile(**case))["confidence"] == confidence


def test_every_reason_states_number_and_source():
    """No reason without the user's own number and where its threshold comes from."""
    found = verdict(profile(users=40, rate=0.9, models=5))
    assert len(found["reasons"]) == 4
    for reason in found["reasons"]:
        assert reason["yours"] and reason["source"]
    assert found["checked_by"] is None
    assert "rules of thumb" in found["caveat"]


def test_tensorrt_llm_is_named_only_for_one_stable_model():
    """Ceiling throughput on NVIDIA is a choice of hardware and patience, which no log tells."""
    assert "TensorRT-LLM" in [a["engine"] for a in verdict(profile(rate=0.9))["alternatives"]]
    assert "TensorRT-LLM" not in [a["engine"] for a in verdict(profile(models=8))["alternatives"]]


def test_no_request_favours_nothing():
    """A log of which every record was rejected."""
    assert verdict(profile(requests=0))["favoured"] == "undecided"
