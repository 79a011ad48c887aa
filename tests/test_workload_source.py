"""Which requests of a trace a workload may send, when, and after which turn."""

from __future__ import annotations

import json

import pytest

from tests.conftest import jsonl, pair
from traceprof.errors import TraceprofError
from traceprof.tokens import tokenize
from traceprof.workload import source


def read(trace, **how):
    """The sendable requests of a text trace."""
    tokenize(trace)
    return source.read(trace, **how)


def at(seconds, number, **changes):
    """A request that came so many seconds into the log."""
    minutes, rest = divmod(seconds, 60)
    stamp = f"2026-08-21T12:{int(minutes):02d}:{rest:06.3f}Z"
    return pair(number, timestamp=stamp, **changes)


def of_names(found, column):
    """{request: value} of one column."""
    return dict(zip(found.rows["request_id"], found.rows[column], strict=True))


def parents(found):
    """{request: the turn before it, or None}."""
    names = found.rows["request_id"].to_list()
    return {name: None if up < 0 else names[up] for name, up in of_names(found, "parent").items()}


def test_a_turn_follows_the_one_that_ended_last_before_it(ingested):
    """Think time is the gap from that end to the arrival, to the microsecond."""
    log = [
        at(0, 1, session_id="s", latency_ms=800),
        at(2.5, 2, session_id="s", latency_ms=1000),
        at(10, 3, session_id="s", latency_ms=50),
        at(1, 4, session_id="other"),
    ]
    found = read(ingested(log))
    assert parents(found) == {"r1": None, "r4": None, "r2": "r1", "r3": "r2"}
    assert of_names(found, "think_us") == {"r1": None, "r4": None, "r2": 1_700_000, "r3": 6_500_000}
    assert of_names(found, "arrival_us") == {"r1": 0, "r4": 1_000_000, "r2": 2_500_000, "r3": 10_000_000}
    assert found.times == "recorded"


def test_requests_of_a_session_that_overlap_follow_none_of_each_other(ingested):
    """Of two at once the one behind both follows the one that ended last."""
    log = [
        at(0, 1, session_id="s", latency_ms=5000),
        at(1, 2, session_id="s", latency_ms=1000),
        at(6, 3, session_id="s", latency_ms=10),
    ]
    found = read(ingested(log))
    assert parents(found) == {"r1": None, "r2": None, "r3": "r1"}
    assert of_names(found, "think_us")["r3"] == 1_000_000


def test_the_parent_that_a_log_names_wins(ingested):
    """Also where another request of the session ended later, and where the log names no session."""
    log = [
        at(0, 1, session_id="s", latency_ms=100),
        at(1, 2, session_id="s", latency_ms=100),
        at(3, 3, session_id="s", latency_ms=100, parent_request_id="r1"),
        at(4, 4, latency_ms=100),
        at(5, 5, latency_ms=100, parent_request_id="r4"),
    ]
    found = read(ingested(log))
    assert parents(found) == {"r1": None, "r2": "r1", "r3": "r1", "r4": None, "r5": "r4"}
    assert of_names(found, "think_us")["r3"] == 2_900_000
    sessions = of_names(found, "session_id")
    assert sessions["r4"] == sessions["r5"] == "r4"


def test_without_an_end_the_order_is_known_and_no_think_time(ingested):
    """A session that the log names is a conversation: its requests follow each other."""
    log = [at(0, 1, session_id="s", latency_ms=None), at(3, 2, session_id="s", latency_ms=None)]
    found = read(ingested(log))
    assert parents(found) == {"r1": None, "r2": "r1"}
    assert of_names(found, "think_us") == {"r1": None, "r2": None}
    assert of_names(found, "took_us") == {"r1": None, "r2": None}


def test_a_delay_in_place_of_a_time_counts_from_the_end_of_the_turn_before(ingested):
    """The end is estimated where the trace has none, and the delay is the think time."""
    log = [
        {"timestamp": 0, "session_id": "s", "input_length": 800, "output_length": 40, "hash_ids": [1, 2]},
        {"delay": 2000, "session_id": "s", "input_length": 900, "output_length": 4, "hash_ids": [1, 3]},
        {"timestamp": 500, "session_id": "t", "input_length": 90, "output_length": 4, "hash_ids": [9]},
    ]
    found = source.read(ingested(log))
    took = 100_000 + 40 * 25_000  # 800 tokens at 8,000 a second, 25 ms an output token
    assert sorted(found.rows["arrival_us"].to_list()) == [0, 500_000, took + 2_000_000]
    assert found.rows["think_us"].drop_nulls().to_list() == [2_000_000]
    assert found.times == "recorded"


def test_without_times_sessions_begin_at_zero_and_turns_come_in_order(ingested):
    """A turn comes when the one before it has ended."""
    log = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
                      {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]},
        {"messages": [{"role": "user", "content": "e"}, {"role": "assistant", "content": "f"}]},
    ]  # fmt: skip
    found = read(ingested(log, name="chat.jsonl"))
    assert found.times == "order"
    rows = found.rows
    for i, up in enumerate(rows["parent"]):
        assert rows["arrival_us"][i] == (0 if up < 0 else rows["arrival_us"][up] + rows["guessed_us"][up])
    assert (rows["parent"] >= 0).sum() == 1


def test_what_no_engine_saw_and_what_is_cut_is_left_out_and_counted(ingested):
    """Each with its reason, and requests + left out are all."""
    log = [
        at(0, 1),
        at(1, 2, status_code=429, response={"error": {"message": "slow down", "type": "rate_limit"}}),
        at(2, 3, request={"model": "m", "messages": [{"role": "user", "content": "cut" + "x" * 50 + "... [truncated]"}]}),
    ]  # fmt: skip
    trace = ingested(log)
    found = read(trace)
    states = trace.scan("requests").select("content_state", "status").collect().to_dicts()
    lost = sum(one["status"] == "rejected" or one["content_state"] == "truncated" for one in states)
    assert lost == 2
    assert len(found.rows) == 3 - lost
    assert sum(one["requests"] for one in found.left_out) == lost
    assert all(one["reason"] for one in found.left_out)


def test_a_trace_of_which_nothing_can_be_sent_says_why(ingested):
    """One line with the reason and its count."""
    log = [at(0, 1, status_code=429, response={"error": {"message": "no", "type": "rate_limit"}})]
    with pytest.raises(TraceprofError, match=r"no request of it can be sent \(1: seen by no engine"):
        read(ingested(log))


def test_a_model_is_what_was_asked_for_and_is_served_by_what_answered(ingested):
    """A request without an answer goes where its name always led."""

    def asked(number, served):
        answer = {"model": served, "choices": [{"message": {"role": "assistant", "content": "a"}}]}
        request = {"model": "alias", "messages": [{"role": "user", "content": "q"}]}
        return at(number, number, request=request, response=answer if served else None)

    found = read(ingested([asked(1, "m-1"), asked(2, None)]))
    assert found.rows["model"].to_list() == ["alias", "alias"]
    assert found.rows["answered_by"].to_list() == ["m-1", "m-1"]


def test_prompts_are_shared_within_a_model_or_together(ingested):
    """Two models are two engines, unless one serves all."""

    def asked(number, model):
        words = [{"role": "user", "content": "the same question of many words, asked once more"}]
        return at(number, number, request={"model": model, "messages": words}, response=None)

    trace = ingested([asked(1, "a"), asked(2, "b")])
    found = read(trace)
    assert found.traffic.shared()[1].tolist() == [0, 0]
    together = source.sharing(found, one_engine=True)
    assert together.shared()[1].tolist() == [0, found.rows["tokens"][1]]


def test_the_trace_stays_as_it_is_when_another_tokenizer_is_asked_for(ingested, tmp_path):
    """Tokens under the other one are made beside it."""
    trace = ingested([at(0, 1), at(1, 2)])
    tokenize(trace)
    before = {p.name: p.read_bytes() for kind in ("requests", "content", "tokens") for p in trace.parts(kind)}
    from tests.vocabularies import words_tokenizer

    (tmp_path / "side").mkdir()
    copy, other = source.prepared(trace, tmp_path / "side", str(words_tokenizer(tmp_path / "model")))
    assert copy.path != trace.path and other.digest != source.tokenizer_of(trace).digest
    assert source.tokenizer_of(copy).digest == other.digest
    after = {p.name: p.read_bytes() for kind in ("requests", "content", "tokens") for p in trace.parts(kind)}
    assert before == after


def test_chosen_takes_sequences_out_of_many():
    """Against the obvious loop."""
    import numpy as np

    values = np.arange(10, dtype=np.uint32)
    offsets = np.array([0, 3, 3, 7, 10])
    got, ends = source.chosen(values, offsets, np.array([0, 1, 3]))
    assert got.tolist() == [0, 1, 2, 7, 8, 9] and ends.tolist() == [0, 3, 3, 6]


def test_requests_known_otherwise_than_most_are_left_out(ingested):
    """A trace of blocks of two sizes is measured in the one that most have."""
    log = [
        {"timestamp": i, "input_length": 600, "output_length": 1, "hash_ids": [1, 2 + i]} for i in range(3)
    ]
    found = source.read(ingested(jsonl(log)))
    assert found.unit == 512 and found.column == "block_hashes" and len(found.rows) == 3
    assert json.dumps(found.left_out) == "[]"
