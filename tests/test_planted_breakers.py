"""Breakers planted into real conversations are found, are worth what they are worth, and nothing else is."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import planted
import pytest

from tests import naive
from tests.conftest import jsonl
from traceprof import remedies
from traceprof.ingest import Options, ingest
from traceprof.remedies import Finding, find_breakers
from traceprof.tokens import chunks, tokenize
from traceprof.trace import Trace

RATES = [0.05, 0.5, 1.0]
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"{kind}, {place}": (kind, {"place": place})
        for kind in planted.VOLATILE
        for place in ("front", "middle")
    },
    **{
        f"{kind}, mixed": (kind, {"place": "middle", "mixed": True}) for kind in ("date", "uuid", "user_name")
    },
    "retrieved_documents": ("retrieved_documents", {}),
    "tool_order": ("tool_order", {}),
    "json_key_order, tools": ("json_key_order", {"place": "tools"}),
    "json_key_order, system": ("json_key_order", {"place": "system"}),
    "whitespace": ("whitespace", {}),
    "template_drift, two": ("template_drift", {"versions": 2}),
    "template_drift, eight": ("template_drift", {"versions": 8}),
    "history_truncated": ("history_truncated", {}),
    "history_rewritten, calls": ("history_rewritten", {"how": "calls"}),
    "history_rewritten, reasoning": ("history_rewritten", {"how": "reasoning"}),
    "history_rewritten, summary": ("history_rewritten", {"how": "summary"}),
    "tokenization_seam": ("tokenization_seam", {}),
    "model_split, two": ("model_split", {"models": 2}),
    "model_split, eight": ("model_split", {"models": 8}),
    "tenant_split": ("tenant_split", {"tenants": 10}),
}
# where all of the traffic has the other version, nothing is split
NEEDS_OTHERS = {"date, mixed", "uuid, mixed", "user_name, mixed", "template_drift, two", "model_split, two"}
# (case, rate) that costs less than what is worth a line: it must not be reported
TOO_LITTLE = {
    ("date, front", 0.05),
    ("date, middle", 0.05),
    ("user_name, middle", 0.05),
    ("history_rewritten, calls", 0.05),
    ("history_rewritten, reasoning", 0.05),
    ("tokenization_seam", 0.05),
}
# (kind, message) that a person finds in the conversations as they are: SWE-agent's system prompt stands there in the versions of
# several releases, and the task before instructions that all tasks share
VERIFIED = {"agents": {("template_drift", 0), ("retrieved_documents", 1)}}
# both remedies change the same text, and the second one does not know what the first one made of it: a lower bound
SAME_TEXT = {"names and white space"}
PAIRS = {
    "a time and a history cut short": (
        ("timestamp", 0.05, {"place": "middle"}),
        ("history_truncated", 0.5, {}),
        planted.airline,
    ),
    "an id and tools out of order": (
        ("request_id", 0.25, {"place": "front"}),
        ("tool_order", 0.5, {}),
        planted.trading,
    ),
    "names and white space": (
        ("user_name", 0.5, {"place": "middle"}),
        ("whitespace", 0.1, {}),
        planted.airline,
    ),
    "two versions and tenants": (
        ("template_drift", 0.5, {"versions": 2}),
        ("tenant_split", 0.5, {"tenants": 5}),
        planted.airline,
    ),
}


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """traced(requests): their trace, the whole way from a log on disk."""

    @functools.cache
    def made(log: bytes) -> Trace:
        folder = tmp_path_factory.mktemp("log")
        (folder / "log.jsonl").write_bytes(log)
        trace = ingest([folder / "log.jsonl"], folder / "trace", Options())
        assert trace.manifest["rejects"] == 0
        tokenize(trace)
        return trace

    return lambda requests: made(jsonl(planted.record(i, r) for i, r in enumerate(requests)))


def ids(trace: Trace, requests: list[planted.Request]) -> list[tuple[Any, list[int]]]:
    """(root, ids) of each prompt."""
    found = [
        c.symbols[a:b].tolist() for c in chunks(trace) for a, b in itertools.pairwise(c.offsets.tolist())
    ]
    return [((r.model, r.salt), one) for r, one in zip(requests, found, strict=True)]


def truth(traced: Any, plant: planted.Planted) -> int:
    """What the remedy is worth: see tests/planted.py."""
    before = ids(traced(plant.requests), plant.requests)
    if plant.kind == "tokenization_seam":
        return planted.lost_at_seams(plant.requests, [one for _, one in before])[1]
    return planted.truth(before, ids(traced(plant.remedied), plant.remedied))


def hit_rate(prompts: list[tuple[Any, list[int]]]) -> float:
    """Hit tokens in input tokens."""
    return sum(planted.hits(prompts)) / sum(len(one) for _, one in prompts)


def least_worth(prompts: list[tuple[Any, list[int]]]) -> float:
    """Tokens that are worth a line to a user."""
    return max(remedies.LEAST_TOKENS, remedies.LEAST_SHARE * sum(len(one) for _, one in prompts))


def stands_right(one: Finding, plant: planted.Planted) -> None:
    """The finding says where it was planted, and of how many requests."""
    if plant.messages is None:
        assert one.message is None
    else:
        assert one.message in plant.messages
        assert "message" in one.where
    if plant.kind in ("tool_order", "json_key_order") and plant.messages is None:
        assert one.where == "tools"
    if plant.span is not None:
        assert one.offset is not None
        assert plant.span[0] <= one.offset <= plant.span[1]
        assert f"character {one.offset}" in one.where
    assert len(plant.breaking) <= one.requests <= len(plant.carrying)


@pytest.mark.parametrize(
    ("case", "rate"), [(c, r) for c in CASES for r in RATES if r < 1 or c not in NEEDS_OTHERS]
)
def test_a_planted_breaker_is_found_where_it_is_and_worth_what_it_is(traced, case, rate):
    """Kind, place, number of requests and saving are right, and nothing else is reported."""
    kind, options = CASES[case]
    plant = planted.plant(kind, rate, **options)
    trace = traced(plant.requests)
    before = ids(trace, plant.requests)
    worth = truth(traced, plant)
    seen = find_breakers(trace, limit_requests=None)
    assert seen.measured_requests == seen.of_requests == len(plant.requests)
    there_anyway = VERIFIED["agents"] if options.get("how") == "reasoning" else set()
    findings = [f for f in seen.findings if (f.kind, f.message) not in there_anyway]
    assert (worth < least_worth(before)) == ((case, rate) in TOO_LITTLE)
    if (case, rate) in TOO_LITTLE:
        assert not findings
        return
    assert [f.kind for f in findings] == [kind]
    if kind != "tokenization_seam":  # see the next test
        stands_right(findings[0], plant)
    assert findings[0].lost_tokens == pytest.approx(worth, rel=0.01)
    if len(findings) == len(seen.findings):
        assert seen.together == pytest.approx(worth, rel=0.01)
    assert findings[0].hit_rate_before == pytest.approx(hit_rate(before))
    assert findings[0].hit_rate_after > findings[0].hit_rate_before
    assert findings[0].remedy.endswith(".")


@pytest.mark.parametrize("kind", planted.VOLATILE)
def test_a_value_in_a_short_system_prompt_keeps_the_tools_behind_it_apart(traced, kind):
    """A line of instructions is little to share; 20 tools behind it are much."""
    plant = planted.plant(kind, 0.5, clean=planted.trading(), place="front")
    (one,) = find_breakers(traced(plant.requests), limit_requests=None).findings
    assert one.kind == kind
    stands_right(one, plant)
    assert one.lost_tokens == pytest.approx(truth(traced, plant), rel=0.01)


def test_a_seam_is_counted_where_ids_part_and_nowhere_else(traced):
    """Of the requests that go on in the middle of a word only those whose ids differ count."""
    plant = planted.plant("tokenization_seam", 0.5)
    before = [one for _, one in ids(traced(plant.requests), plant.requests)]
    torn, lost = planted.lost_at_seams(plant.requests, before)
    (one,) = find_breakers(traced(plant.requests), limit_requests=None).findings
    assert (one.kind, one.requests, one.lost_tokens) == ("tokenization_seam", torn, lost)
    assert 0 < torn < len(plant.breaking)


@pytest.mark.parametrize("pair", PAIRS)
def test_two_breakers_are_told_apart(traced, pair):
    """Each is worth what mending it alone saves, and `together` what mending both saves."""
    first, second, clean = PAIRS[pair]
    both = planted.plant_both(first, second, clean())
    before, *mended = (
        ids(traced(requests), requests)
        for requests in (both.requests, both.first_mended, both.second_mended, both.mended)
    )
    worth = [planted.truth(before, after) for after in mended]
    seen = find_breakers(traced(both.requests), limit_requests=None)
    by_kind = {f.kind: f for f in seen.findings}
    assert set(by_kind) == {first[0], second[0]}
    assert len(seen.findings) == 2
    assert seen.findings[0].lost_tokens >= seen.findings[1].lost_tokens
    stands_right(by_kind[first[0]], both.first)
    stands_right(by_kind[second[0]], both.second)
    assert by_kind[first[0]].lost_tokens == pytest.approx(worth[0], rel=0.01)
    assert by_kind[second[0]].lost_tokens == pytest.approx(worth[1], rel=0.01)
    if pair in SAME_TEXT:
        assert max(worth[:2]) * 0.99 <= seen.together <= worth[2] * 1.01
    else:
        assert seen.together == pytest.approx(worth[2], rel=0.01)


@pytest.mark.parametrize("name", planted.CLEAN)
def test_nothing_is_reported_on_conversations_as_they_are(traced, name):
    """A date that never changes, a history that grows, other questions behind one prompt: none of them is a breaker."""
    seen = find_breakers(traced(planted.CLEAN[name]()), limit_requests=None)
    assert {(f.kind, f.message) for f in seen.findings} <= VERIFIED.get(name, set())


@pytest.mark.parametrize("kind", planted.VOLATILE)
@pytest.mark.parametrize("place", ["front", "middle"])
def test_a_value_that_never_changes_is_no_breaker(traced, kind, place):
    """The same time, id or name in every request stands in nobody's way."""
    line, constant, *_ = planted.VOLATILE[kind]
    seen = find_breakers(traced(planted.airline(line.format(constant), place)), limit_requests=None)
    assert seen.findings == []
    assert seen.together == 0


def test_the_truth_counts_hits_as_the_obvious_twin_does(traced):
    """The trie of the generator against `tests/naive.py`."""
    plant = planted.plant("uuid", 0.5, place="middle")
    prompts = ids(traced(plant.requests), plant.requests)[:60]
    twins = [naive.Request(tuple(one), 0) for _, one in prompts]
    assert planted.hits(prompts) == naive.matched(twins)


@pytest.mark.parametrize("case", CASES)
def test_planting_is_deterministic_and_changes_what_it_says(case):
    """The same arguments give the same log, and only the requests that carry the breaker differ from the remedied ones."""
    kind, options = CASES[case]
    one, two = planted.plant(kind, 0.5, **options), planted.plant(kind, 0.5, **options)
    assert jsonl(one.records) == jsonl(two.records)
    assert jsonl(one.records) != jsonl(planted.plant(kind, 0.5, seed=8, **options).records)
    assert one.breaking <= one.carrying
    assert len(one.requests) == len(one.remedied)
    for i, (a, b) in enumerate(zip(one.requests, one.remedied, strict=True)):
        assert i in one.carrying or jsonl([planted.record(i, a)]) == jsonl([planted.record(i, b)])
