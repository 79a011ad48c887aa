"""Latencies against sums by hand, in our definitions and in those of other tools; results folders that were cut off."""

from __future__ import annotations

import json
import math
import statistics

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceprof import latency, results, schema
from traceprof.errors import TraceprofError


def row(index=0, **more):
    """One request that ended well: 100 ms late, first token after 200 ms, four tokens 50 ms apart."""
    found = {
        "index": index, "request_id": f"r{index}", "session_id": None, "warmup": False, "attempt": 0,
        "scheduled_us": 0, "intended_us": 20_000, "sent_us": 120_000, "first_byte_us": 319_000, "first_token_us": 320_000,
        "last_token_us": 470_000, "end_us": 480_000, "chunk_us": [320_000, 370_000, 420_000, 470_000], "chunk_chars": [1, 1, 1, 1],
        "outcome": "ok", "http_status": 200, "error_type": None, "finish_reason": "length", "input_tokens": 10, "output_tokens": 4,
        "reasoning_tokens": None, "cached_tokens": 4, "cached_state": "told", "tokens_source": "usage", "bytes_sent": 100,
        "bytes_received": 900, "output_hash": 7, "output_text": None,
    }  # fmt: skip
    return found | more


def frame(rows):
    return pl.DataFrame(rows, schema=pl.from_arrow(schema.arrow(schema.RESULT_REQUESTS).empty_table()).schema)


def test_every_figure_of_one_request():
    """Intended at 20 ms, sent at 120, first token at 320, last at 470, end at 480: by hand."""
    found = latency.summary(frame([row()]))
    assert found["ttft"]["p50"] == pytest.approx(0.3)
    assert found["ttft_from_sent"]["p50"] == pytest.approx(0.2)
    assert found["e2e"]["p50"] == pytest.approx(0.46)
    assert found["tpot"]["p50"] == pytest.approx(0.16 / 3)
    assert found["itl"]["mean"] == pytest.approx(0.05)
    assert found["send_lag"]["max_s"] == pytest.approx(0.1)
    assert not found["send_lag"]["valid"]
    assert found["window_s"] == pytest.approx(0.46)
    assert found["output_tokens_per_s"] == pytest.approx(4 / 0.46)
    assert found["hit_rate"] == 0.4


def test_other_tools_definitions_of_the_same_request():
    """What vLLM bench, AIPerf, GuideLLM, inference-perf and MLPerf would print."""

    def told(tool):
        return {k: pytest.approx(v["mean"]) for k, v in latency.as_defined_by(tool, frame([row()])).items()}

    assert told("vllm_bench") == {"ttft": 0.2, "tpot": 0.05, "itl": 0.05, "e2el": 0.35}
    assert told("sglang_bench") == told("vllm_bench")
    assert told("aiperf") == {
        "time_to_first_token": 0.2, "inter_token_latency": 0.05, "inter_chunk_latency": 0.05, "request_latency": 0.35,
    }  # fmt: skip
    assert told("guidellm") == {
        "time_to_first_token": 0.2, "time_per_output_token": 0.0875, "inter_token_latency": 0.05, "request_latency": 0.36,
    }  # fmt: skip
    assert told("inference_perf")["normalized_time_per_output_token"] == 0.09
    assert told("mlperf") == {"ttft": 0.32, "tpot": 0.16 / 3, "latency": 0.48}


def test_the_send_lag_has_a_part_of_the_client_and_one_of_the_connection():
    """30 ms late, of which 1 ms is the client's; a second attempt is in no lag."""
    rows = [
        row(0, intended_us=0, taken_up_us=1000, sent_us=30_000),
        row(1, attempt=1, intended_us=0, taken_up_us=900_000, sent_us=900_000),
    ]
    found = latency.send_lag(frame(rows))
    assert (found.p99_s, found.max_s, found.client_p99_s, found.connect_p99_s) == pytest.approx(
        (0.03, 0.03, 0.001, 0.029)
    )
    assert not found.valid and "to wait for a connection, took 29.0 ms" in found.reason
    both = latency.send_lag(frame([row(0, intended_us=0, taken_up_us=5000, sent_us=9000)]))
    assert not both.valid and "the client or its machine is too slow" in both.reason  # the larger part of it
    assert "sent again" in latency.send_lag(frame(rows[1:])).reason


def test_a_failed_request_is_counted_and_in_no_latency():
    """Warm-up and errors stand apart; a request that was never sent has no send lag."""
    rows = [
        row(0, sent_us=20_000),
        row(
            1,
            outcome="refused",
            sent_us=None,
            first_token_us=None,
            last_token_us=None,
            chunk_us=None,
            output_tokens=None,
        ),
        row(2, warmup=True, end_us=9_000_000),
    ]
    found = latency.summary(frame(rows))
    assert found["outcomes"] == {"ok": 1, "refused": 1}
    assert (found["requests"], found["warmup_requests"]) == (2, 1)
    assert found["send_lag"]["valid"]
    assert found["window_s"] == pytest.approx(0.46)
    assert found["ttft"]["max"] == pytest.approx(0.3)
    nothing = latency.summary(frame([]))
    assert nothing["ttft"]["p50"] is None
    assert nothing["send_lag"]["reason"] == "nothing was sent"


def test_goodput_counts_requests_that_meet_every_objective():
    """A request of one token has no TPOT and meets it; one that failed meets nothing."""
    rows = [
        row(0),
        row(1, first_token_us=900_000, end_us=1_020_000),
        row(2, output_tokens=1, end_us=320_000),
        row(3, outcome="timeout", end_us=1_020_000),
    ]
    assert latency.goodput(frame(rows), {"ttft": 0.5, "tpot": 0.04}) == pytest.approx(1.0)
    assert latency.goodput(frame(rows), {"ttft": 0.5}) == pytest.approx(2.0)
    assert latency.goodput(frame([]), {"ttft": 1.0}) is None


TIMES = st.lists(
    st.tuples(*[st.integers(0, 10**6)] * 4, st.integers(0, 40) | st.none(), st.booleans()), max_size=20
)


@given(TIMES)
def test_latencies_equal_sums_by_hand(given_rows):
    """Request by request, in plain Python."""
    rows, ttft, e2e, tpot, itl = [], [], [], [], []
    for i, (lag, wait, decode, rest, tokens, ok) in enumerate(given_rows):
        sent, first = 5_000 + lag, 5_000 + lag + wait
        last, end = first + decode, first + decode + rest
        rows.append(
            row(
                i, intended_us=5_000, sent_us=sent, first_token_us=first, last_token_us=last, end_us=end, chunk_us=[first, last],
                output_tokens=tokens, outcome="ok" if ok else "reset",
            )
        )  # fmt: skip
        if ok:
            ttft.append((lag + wait) / 1e6)
            e2e.append((lag + wait + decode + rest) / 1e6)
            itl.append(decode / 1e6)
            if tokens is not None and tokens > 1:
                tpot.append((decode + rest) / 1e6 / (tokens - 1))
    found = latency.summary(frame(rows))
    for name, values in (("ttft", ttft), ("e2e", e2e), ("tpot", tpot), ("itl", itl)):
        if values:
            assert found[name]["mean"] == pytest.approx(statistics.fmean(values), abs=1e-9)
            assert found[name]["p50"] == pytest.approx(statistics.median(values), abs=1e-9)
            assert found[name]["max"] == pytest.approx(max(values), abs=1e-9)
        else:
            assert found[name]["max"] is None
    lags = sorted(lag for lag, *_ in given_rows)
    if lags:
        at = 0.99 * (len(lags) - 1)
        low, high = lags[math.floor(at)], lags[math.ceil(at)]
        assert found["send_lag"]["p99_s"] == pytest.approx((low + (high - low) * (at % 1)) / 1e6, abs=1e-9)


def test_a_run_that_was_cut_off_tells_what_its_lines_hold(tmp_path):
    """Whole lines only, the last attempt of each request, in the order of the workload; finished, the same from Parquet."""
    made = results.write_manifest(tmp_path / "r", {"workload": {"name": "w"}, "runs": []})
    run = results.new_run(made, 0, "vllm")
    lines = [row(2), row(0, outcome="timeout"), row(0, attempt=1), row(1)]
    text = "".join(json.dumps(one) + "\n" for one in lines)
    (run.path / "requests-0.jsonl").write_text(text[: text.index('{"index": 1')])
    (run.path / "requests-1.jsonl").write_text(json.dumps(row(1)) + "\n" + json.dumps(row(3))[:40])
    cut = run.requests()
    assert cut["index"].to_list() == [0, 1, 2]
    assert cut["outcome"].to_list() == ["ok", "ok", "ok"]
    assert not run.finished
    run.finish({"engine": "vllm"})
    (again,) = results.Results(tmp_path / "r").runs
    assert again.name == "vllm"
    assert again.told() == {"engine": "vllm"}
    assert again.requests().equals(cut)


def test_a_folder_without_results_is_named(tmp_path):
    """No folder, no manifest, somebody else's manifest, damaged JSON."""
    with pytest.raises(TraceprofError, match="traceprof replay"):
        results.Results(tmp_path / "none")
    (tmp_path / "manifest.json").write_text('{"kind": "other"}')
    with pytest.raises(TraceprofError, match="not traceprof results"):
        results.Results(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(TraceprofError, match="unreadable"):
        results.Results(tmp_path)


def test_a_tool_that_is_not_known_is_said():
    """With the names that are."""
    with pytest.raises(TraceprofError, match="no tool is called vllm; one of vllm_bench, sglang_bench"):
        latency.as_defined_by("vllm", frame([row()]))
