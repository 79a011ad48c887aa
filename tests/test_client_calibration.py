"""What the client adds, measured against an engine of known times; and that engine itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.replaying import chat, row, turns, workload
from traceprof.errors import TraceprofError
from traceprof.replay import calibrate as module
from traceprof.replay.calibrate import busiest, calibrate
from traceprof.replay.nullengine import DEFAULT_TOKENS, null_engine
from traceprof.replay.settings import Options


@given(
    st.lists(st.tuples(st.integers(0, 40), st.none() | st.integers(1, 300)), min_size=1, max_size=12),
    st.sampled_from([0.5, 1.0, 2.0]), st.integers(1, 30),
)  # fmt: skip
def test_the_busiest_window_is_the_one_of_a_twin_that_tries_all(tmp_path_factory, asked, speed, seconds):
    """Every window that begins with a request, scaled by the speed."""
    path = tmp_path_factory.mktemp("w")
    rows = [row(i, at, n=n) for i, (at, n) in enumerate(sorted(asked, key=lambda one: one[0]))]
    found = busiest(workload(path, rows), Options(speed=speed), seconds)

    def tokens(first, after):
        return sum(r["output_tokens"] or DEFAULT_TOKENS for r in rows[first:after])

    best = 0
    for first, begins in enumerate(rows):
        ends = begins["arrival_us"] / speed + seconds * 1e6
        after = sum(r["arrival_us"] / speed < ends for r in rows)
        best = max(best, tokens(first, after))
        if first == found.first:
            assert found.after == after
    assert tokens(found.first, found.after) == best


def test_the_pace_of_tokens_is_the_traces_own(tmp_path):
    """In the middle of its requests; 20 ms where it does not tell."""
    ttft = module.TTFT_US
    rows = [row(i, n=11, recorded_e2e_us=ttft + 10 * gap) for i, gap in enumerate([9_000, 30_000, 31_000])]
    assert busiest(workload(tmp_path, rows), Options(), 60).gap_us == 30_000
    assert busiest(workload(tmp_path, [row(0, n=1)]), Options(), 60).gap_us == module.GAP_US
    assert busiest(workload(tmp_path, [row(0, n=2, recorded_e2e_us=10**9)]), Options(), 60).gap_us == 100_000


def test_a_workload_without_requests_cannot_be_calibrated_by(tmp_path):
    """An error, not a bound."""
    with pytest.raises(TraceprofError, match="no requests"):
        calibrate(workload(tmp_path, []), Options())


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"processes": 2},
        {"mode": "closed", "concurrency": 4},
        {"stream": False},
        {"history": "live", "speed": 2.0},
    ],
    ids=str,
)
def test_every_chunk_of_the_calibration_is_compared(tmp_path, how):
    """Chats, texts and ids; turns sent by themselves; warm-up counted like the rest; biases never below zero."""
    rows = turns("s", 0, [0.0, 0.1, 0.2], 0.1, **chat([{"role": "user", "content": "x"}]), n=10)
    rows += [
        row(3, 0.2, n=10, warmup=True),
        row(4, 0.3, endpoint="ids", prompt_text=None, prompt_ids=[1, 2], n=10),
    ]
    told = calibrate(workload(tmp_path, rows), Options(**how), seconds=30)
    assert told["requests"] == told["answered"] == 5
    assert told["chunks"] == (5 if how.get("stream") is False else 50)
    assert 1 <= told["peak_streams"] <= 5
    bias = told["ttft_bias_s"]
    assert bias["p50"] < module.TTFT_US / 1e6  # the engine's own time is not in it
    assert 0 < bias["p50"] <= bias["p99"] == told["adds_at_most"]["ttft_p99_s"] <= bias["max"]
    assert f"{1000 * bias['p99']:.1f} ms to TTFT p99" in told["words"]
    if how.get("stream") is False:
        assert told["adds_at_most"]["itl_p99_s"] is None
    else:
        assert 0 <= told["itl_bias_s"]["p50"] <= told["adds_at_most"]["itl_p99_s"]


def test_only_the_busiest_window_is_sent(tmp_path):
    """Three turns of a session long ago, three of forty tokens each now: those, each by itself."""
    rows = turns("s", 0, [0.0, 0.3, 0.6, 100.0, 100.0, 100.0], 0.0, n=2)
    rows = [r | {"output_tokens": 40} if r["index"] > 2 else r for r in rows]
    told = calibrate(workload(tmp_path, rows), Options(), seconds=5)
    assert (told["first_row"], told["requests"], told["chunks"], told["peak_streams"]) == (3, 3, 120, 3)


def test_waits_for_a_connection_are_not_what_the_client_adds(tmp_path):
    """--max-connections is the user's wish, and how long one waits for it the engine's doing: five at once, not one after another."""
    told = calibrate(workload(tmp_path, [row(i, n=2) for i in range(5)]), Options(max_connections=1))
    assert told["peak_streams"] == 5


def test_no_answer_of_the_calibration_takes_longer_than_its_window(tmp_path):
    """Answers of a million tokens, and two seconds for it."""
    told = calibrate(workload(tmp_path, [row(i, n=1_000_000) for i in range(2)]), Options(), seconds=2.0)
    assert told["answered"] == 2
    assert told["chunks"] == 2 * int(2.0 / told["gap_s"])


def test_calibration_can_be_stopped(tmp_path):
    """Ctrl-C while it runs: no bound."""
    stop = threading.Event()
    stop.set()
    told = calibrate(workload(tmp_path, [row(0), row(1, 50.0)]), Options(), stop=stop)
    assert told == {"stopped": True}


def test_nothing_of_a_calibration_is_left(tmp_path, monkeypatch):
    """Its folder is temporary."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "w").mkdir()
    calibrate(workload(tmp_path / "w", [row(0)]), Options())
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


# ---- the engine


def test_the_null_engine_answers_at_its_times_not_before():
    """The first event after TTFT, the others a gap apart; what it says is when it sent."""
    with null_engine(20_000, 5_000) as url:
        body = b'{"model":"m","stream":true,"max_tokens":4,"prompt":"x"}'
        with urllib.request.urlopen(f"{url}/v1/completions", data=body) as answer:
            text = answer.read().decode()
    words = [word.split('"')[0] for word in text.replace("A", "S").split("S")[1:] if word[0].isdigit()]
    arrived, *sent = (int(word) for word in words)
    assert len(sent) == 4
    for i, at in enumerate(sent):
        assert at - arrived >= 20_000_000 + i * 5_000_000


def test_the_null_engine_ends_with_whoever_started_it():
    """Killed without a chance to clean up."""
    code = "from traceprof.replay.nullengine import null_engine\nimport time\nwith null_engine(1, 1) as url:\n    print(url, flush=True)\n    time.sleep(600)"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent
    ) as parent:
        assert parent.stdout is not None
        url = parent.stdout.readline().strip()
        os.kill(parent.pid, signal.SIGKILL)
    while True:  # until it is gone
        try:
            urllib.request.urlopen(url, timeout=1, data=b"{}").close()
        except urllib.error.URLError as gone:
            if isinstance(gone.reason, ConnectionRefusedError):
                break
        time.sleep(0.05)
