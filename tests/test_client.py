"""The replay client against a server whose times are known: order, times, connections, history, and runs that were cut off."""

from __future__ import annotations

import collections
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.knownserver import known_server
from tests.replaying import OPENAI, chat, new_run, row, send, turns, workload
from traceprof.engines import engine
from traceprof.errors import TraceprofError, UsageError
from traceprof.replay.clerk import mend
from traceprof.replay.nullengine import ENGINE as NULL
from traceprof.replay.nullengine import null_engine
from traceprof.replay.run import Progress, replay_run
from traceprof.replay.settings import Options, Target

TTFT_S, GAP_S = 0.03, 0.005
ROOT = Path(__file__).parent.parent


@pytest.fixture
def server(tmp_path):
    with known_server(tmp_path / "log", ttft_s=TTFT_S, gap_s=GAP_S) as found:
        yield found


def sent_ns(one):
    """When the server sent each chunk of an answer, from the answer."""
    return [int(word) for word in one["output_text"].split()]


# ---- times


def test_requests_are_sent_in_their_order_and_never_before_their_time(tmp_path, server):
    """40 requests 10 ms apart; the server's clock and ours are one, and nothing arrives before it was sent."""
    told, got = send(tmp_path, [row(i, i * 0.01, prompt=f"{i}") for i in range(40)], server.url)
    seen = {int(one["body"]["prompt"]): one["arrived_ns"] for one in server.seen()}
    assert len(seen) == len(server.seen()) == 40
    zero = told["zero_monotonic_ns"]
    for r in got:
        assert r["scheduled_us"] == r["intended_us"] == r["index"] * 10_000
        assert r["sent_us"] >= r["intended_us"]
        assert (seen[r["index"]] - zero) / 1000 >= r["sent_us"]
    assert [r["sent_us"] for r in got] == sorted(r["sent_us"] for r in got)


def test_latencies_are_the_servers_and_a_little_more(tmp_path, server):
    """No chunk is received before it was sent, none is counted twice; TTFT is never less than the server's."""
    told, got = send(tmp_path, [row(i, i * 0.01, n=5) for i in range(30)], server.url, keep_text=True)
    zero = told["zero_monotonic_ns"]
    for r in got:
        sent = sent_ns(r)
        assert len(r["chunk_us"]) == len(sent) == r["output_tokens"] == 5
        assert all(
            at + 1 >= (ns - zero) / 1000 for at, ns in zip(r["chunk_us"], sent, strict=True)
        )  # whole us
        assert r["first_token_us"] - r["intended_us"] >= TTFT_S * 1e6 - 1
        assert r["chunk_us"] == sorted(r["chunk_us"])
        assert r["first_token_us"] == r["chunk_us"][0] and r["last_token_us"] == r["chunk_us"][-1]
        assert r["sent_us"] <= r["first_byte_us"] <= r["first_token_us"] <= r["end_us"]
    assert told["summary"]["ttft"]["p50"] >= TTFT_S


def test_think_times_are_honoured(tmp_path, server):
    """A turn is sent after its predecessor's real end and the think time, by the server's clock; never before its schedule."""
    think = 0.08
    rows = turns("a", 0, [0.0, 0.01, 0.02], think) + turns("b", 3, [0.02, 0.5], 0.0)
    _, got = send(tmp_path, rows, server.url)
    for first, then in ((0, 1), (1, 2)):
        assert got[then]["intended_us"] == got[first]["end_us"] + think * 1e6
    assert got[4]["intended_us"] == 500_000
    assert all(r["sent_us"] >= r["intended_us"] for r in got)


def test_an_open_schedule_waits_for_nobody(tmp_path, server):
    """All turns of a session are under way at once."""
    _, got = send(tmp_path, turns("a", 0, [0.0, 0.001, 0.002], 5.0, n=200), server.url, mode="open")
    assert [r["intended_us"] for r in got] == [0, 1000, 2000]
    assert max(r["sent_us"] for r in got) < min(r["end_us"] for r in got)


@pytest.mark.parametrize("processes", [1, 3])
def test_a_closed_loop_keeps_its_places_full_and_no_fuller(tmp_path, server, processes):
    """Seven places, 60 requests whose schedule does not matter."""
    _, got = send(
        tmp_path, [row(i, i * 100.0) for i in range(60)], server.url, mode="closed", concurrency=7, processes=processes
    )  # fmt: skip
    steps = sorted([(r["sent_us"], 1) for r in got] + [(r["end_us"], -1) for r in got])
    level = most = 0
    for _, step in steps:
        level += step
        most = max(most, level)
    assert most == 7
    assert {r["outcome"] for r in got} == {"ok"}


def test_speed_halves_schedule_and_think_times(tmp_path, server):
    """At 2.0."""
    _, got = send(tmp_path, turns("a", 0, [0.2, 0.3], 0.1), server.url, speed=2.0)
    assert got[0]["scheduled_us"] == 100_000
    assert got[1]["scheduled_us"] == 150_000
    assert got[1]["intended_us"] == max(150_000, got[0]["end_us"] + 50_000)


def test_many_requests_at_the_same_moment_all_go(tmp_path, server):
    """A burst larger than what is sent at one time, and than a small window ahead."""
    rows = [row(i) for i in range(200)]
    _, got = send(tmp_path, rows, server.url, window_requests=16)
    assert collections.Counter(r["outcome"] for r in got) == {"ok": 200}


def test_a_workload_that_does_not_fit_the_window_is_sent_whole_and_in_order(tmp_path, server):
    """Bodies of 20 kB through a window of 100 kB, turns that wait for others among them."""
    rows = []
    for i in range(60):
        rows += turns(f"s{i}", 2 * i, [i * 0.005, i * 0.005], 0.0, prompt=f"{i} " + "x" * 20_000)
    _, got = send(tmp_path, rows, server.url, window_bytes=100_000, window_requests=10_000)
    assert [r["index"] for r in got] == list(range(120))
    assert {r["outcome"] for r in got} == {"ok"}
    for r in got[1::2]:
        assert r["intended_us"] >= got[r["index"] - 1]["end_us"]


@pytest.mark.parametrize("how", [{"window_bytes": 2_000_000}, {"mode": "closed", "concurrency": 16}], ids=str)
def test_a_workload_is_never_held_whole(tmp_path, how):
    """100 MB of bodies: all due at once through a window of 2 MB, or in a closed loop, which needs few ahead."""
    rows = [row(i, prompt="x" * 100_000, n=2) for i in range(1000)]
    with null_engine(1000, 1000) as url:
        told, got = send(tmp_path, rows, url, engine=NULL, **how)
    assert collections.Counter(r["outcome"] for r in got) == {"ok": 1000}
    assert told["client"]["processes"][0]["memory_bytes"] < 70_000_000


def test_a_closed_loop_reads_past_turns_that_wait(tmp_path, server):
    """A session of 300 turns with 1000 s to think stands before ten requests that can go at once."""
    rows = [*turns("s", 0, [0.0] * 300, 1000.0), *(row(300 + i) for i in range(10))]
    w, run, stop = workload(tmp_path, rows), new_run(tmp_path), threading.Event()

    def watch(progress):
        if progress.ended == 11:
            stop.set()

    replay_run(w, OPENAI, server.url, Options(mode="closed", concurrency=2), run, stop=stop, progress=watch)
    assert [r["index"] for r in run.requests().to_dicts()] == [0, *range(300, 310)]


def test_a_closed_loop_does_not_wait_for_users_who_think(tmp_path, server):
    """80 sessions whose second turns come after 5 s stand before 50 requests that can go at once."""
    sessions = [turns(f"s{i}", 2 * i, [0.0] * 2, 5.0, n=1) for i in range(80)]
    rows = [one for session in sessions for one in session] + [row(160 + i, n=1) for i in range(50)]
    _, got = send(tmp_path, rows, server.url, mode="closed", concurrency=1)
    sent = {r["index"]: r["sent_us"] for r in got}
    assert max(sent[i] for i in range(160, 210)) < min(sent[i] for i in range(1, 160, 2))


def test_an_empty_workload_is_over_at_once(tmp_path, server):
    """No request, no result, nothing valid to compare."""
    told, got = send(tmp_path, [], server.url)
    assert (got, told["requests"], told["valid"]) == ([], 0, False)


# ---- connections


def test_a_connection_is_kept_and_used_again(tmp_path, server):
    """Requests one after the other need one."""
    send(tmp_path, turns("a", 0, [0.0] * 10, 0.0), server.url)
    assert len({one["connection"] for one in server.seen()}) == 1


def test_requests_at_once_have_a_connection_each(tmp_path):
    """There is no cap: 200 answers are under way, none waits for another's connection."""
    with known_server(tmp_path / "log", ttft_s=8.0) as server:
        told, _ = send(tmp_path, [row(i) for i in range(200)], server.url)
        assert len({one["connection"] for one in server.seen()}) == 200
    assert told["client"]["processes"][0]["connections"] == 200


def test_the_number_of_connections_can_be_limited(tmp_path, server):
    """Four at most: the rest wait, and are told to have been sent late, which is not the client's own doing."""
    told, got = send(tmp_path, [row(i) for i in range(20)], server.url, max_connections=4)
    assert len({one["connection"] for one in server.seen()}) <= 4
    assert {r["outcome"] for r in got} == {"ok"}
    assert told["client"]["processes"][0]["queued_for_connection"] == 16
    assert not told["valid"] and "to wait for a connection" in told["invalid_because"]
    lag = told["summary"]["send_lag"]
    assert lag["client_p99_s"] < lag["connect_p99_s"] <= lag["p99_s"]


def test_connections_can_be_opened_before_the_clock_runs(tmp_path, server):
    """As many as asked for, also where it is no multiple of a burst."""
    told, got = send(tmp_path, [row(i) for i in range(40)], server.url, connections_ahead=40)
    assert told["client"]["processes"][0]["connections"] == 40
    assert told["client"]["processes"][0]["reused"] == 40
    assert {r["outcome"] for r in got} == {"ok"}


@pytest.mark.parametrize("processes", [2, 5])
def test_processes_share_the_sessions_and_one_clock(tmp_path, server, processes):
    """Each row once; a session's rows are in one file, and its turns still wait for each other."""
    rows = []
    for i in range(20):
        rows += turns(f"s{i}", 3 * i, [i * 0.01] * 3, 0.01)
    run = new_run(tmp_path)
    told, got = send(tmp_path, rows, server.url, run=run, processes=processes)
    assert [r["index"] for r in got] == list(range(60))
    homes = collections.defaultdict(set)
    files = sorted(run.path.glob("requests-*.jsonl"))
    assert len(files) == processes
    for file in files:
        for line in file.read_text().splitlines():
            homes[json.loads(line)["session_id"]].add(file.name)
    assert all(len(where) == 1 for where in homes.values())
    assert len({home for where in homes.values() for home in where}) > 1
    for r in got:
        if r["index"] % 3:
            assert r["intended_us"] == got[r["index"] - 1]["end_us"] + 10_000
    assert len(told["client"]["processes"]) == processes


# ---- what is asked


def test_a_key_from_the_environment_is_sent_and_stands_nowhere_in_the_results(tmp_path, server, monkeypatch):
    """Every request carries it."""
    monkeypatch.setenv("SOME_KEY", "sk-very-secret")
    told, _ = send(tmp_path, [row(i) for i in range(5)], server.url, api_key_env="SOME_KEY")
    assert [one["headers"]["authorization"] for one in server.seen()] == ["Bearer sk-very-secret"] * 5
    assert "sk-very-secret" not in json.dumps(told)
    for file in (tmp_path / "runs").rglob("*"):
        assert file.is_dir() or b"sk-very-secret" not in file.read_bytes()


def test_a_key_that_is_not_in_the_environment_is_said_before_anything_is_sent(tmp_path, server):
    """By the name of its variable."""
    with pytest.raises(UsageError, match="NO_SUCH_KEY"):
        send(tmp_path, [row(0)], server.url, api_key_env="NO_SUCH_KEY")
    assert server.seen() == []


def test_a_salt_that_an_engine_does_not_know_is_an_error_not_a_run_without_it(tmp_path, server):
    """Found when the first body is made."""
    with pytest.raises(UsageError, match="salt"):
        send(tmp_path, [row(0)], server.url, salt="a")
    assert server.seen() == []


def test_bodies_are_those_of_the_engine(tmp_path, server):
    """vLLM is told to go on to the planned length, with a salt; under a base path of its own."""
    send(tmp_path, [row(0, n=4)], server.url + "/proxy/v1", engine=engine("vllm"), salt="run7", model="other")
    (one,) = server.seen()
    assert one["path"] == "/proxy/v1/completions"
    assert one["body"]["model"] == "other"
    assert one["body"]["cache_salt"] == "run7"
    assert (one["body"]["max_tokens"], one["body"]["min_tokens"], one["body"]["ignore_eos"]) == (4, 4, True)
    assert one["headers"]["content-type"] == "application/json"


def test_a_workload_without_a_model_needs_one_named(tmp_path, server):
    """An error before anything is sent."""
    with pytest.raises(TraceprofError, match="--model"):
        send(tmp_path, [row(0, model=None)], server.url)


@pytest.mark.parametrize(
    "url", ["ftp://h", "http://", "h:80", "http://u:p@h", "http://h/?q=1", "http://h:99999"]
)
def test_what_is_no_url_of_a_server_is_said(url):
    """With the remedy."""
    with pytest.raises(UsageError):
        Target.of(url)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "sideways"}, {"mode": "closed"}, {"mode": "closed", "concurrency": 1, "processes": 2},
        {"history": "none"}, {"speed": 0.0}, {"processes": 0}, {"retries": -1}, {"stall_s": 0.0},
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(wrong):
    """Before anything runs."""
    with pytest.raises(UsageError):
        Options(**wrong)


# ---- history


def session(texts: list[str], at_s: float = 0.0, first: int = 0, name: str = "s"):
    """A chat session whose turns each carry the recorded history."""
    rows = turns(name, first, [at_s] * len(texts), 0.0)
    messages = []
    for i, text in enumerate(texts):
        messages.append({"role": "user", "content": text})
        rows[i] |= chat(messages)
        messages.append({"role": "assistant", "content": f"recorded {i}"})
    return rows


def test_recorded_history_is_sent_as_it_is(tmp_path, server):
    """Whatever the engine said."""
    send(tmp_path, session(["a", "b", "c"]), server.url)
    last = server.seen()[-1]["body"]["messages"]
    assert [m["content"] for m in last] == ["a", "recorded 0", "b", "recorded 1", "c"]


def test_live_history_carries_the_engines_own_answers(tmp_path, server):
    """Each later turn holds what was answered to all turns before, in their places."""
    rows = session(["a", "b", "c"]) + session(["x", "y"], 0.01, first=3, name="t")
    told, got = send(tmp_path, rows, server.url, history="live", keep_text=True)
    asked = [[m["content"] for m in one["body"]["messages"]] for one in server.seen()]
    said = [r["output_text"] for r in got]
    assert ["a", said[0], "b", said[1], "c"] in asked
    assert ["x", said[3], "y"] in asked
    assert told["live_turns"] == {"replaced": 4, "kept": 0}


def test_live_history_of_many_sessions_in_a_small_window_is_sent_whole(tmp_path, server):
    """Rows that wait for an answer are read no further ahead than the window allows."""
    rows = []
    for i in range(30):
        rows += session([f"{i} " + "x" * 3000, "again", "and again"], i * 0.005, first=3 * i, name=f"s{i}")
    _, got = send(tmp_path, rows, server.url, history="live", window_bytes=20_000)
    assert [r["index"] for r in got] == list(range(90))
    assert {r["outcome"] for r in got} == {"ok"}


def test_live_history_goes_on_with_the_recorded_answer_where_a_turn_failed(tmp_path):
    """A server that is not there: every turn is refused, none is lost."""
    told, got = send(tmp_path, session(["a", "b", "c"]), "http://127.0.0.1:1", history="live")
    assert [r["outcome"] for r in got] == ["refused"] * 3
    assert told["live_turns"] == {"replaced": 0, "kept": 2}


def test_live_history_goes_on_with_the_recorded_answer_of_a_turn_before_a_cut(tmp_path, server):
    """What was answered in an earlier part of the run is not known any more."""
    w, run, stop = workload(tmp_path, session(["a", "b", "c"], 0.0)), new_run(tmp_path), threading.Event()
    options = Options(history="live")

    def watch(progress):
        if progress.ended:
            stop.set()

    replay_run(w, OPENAI, server.url, options, run, stop=stop, progress=watch)
    before = [r["outcome"] for r in run.requests().to_dicts()].count("ok")
    assert before >= 1
    told = replay_run(w, OPENAI, server.url, options, run, resume=True)
    assert [r["outcome"] for r in run.requests().to_dicts()] == ["ok"] * 3
    assert told["live_turns"]["kept"] == (before < 3)


# ---- runs that were cut off


SCRIPT = """
import sys
from pathlib import Path
from tests.replaying import OPENAI
from traceprof.replay.run import replay_run
from traceprof.replay.settings import Options
from traceprof.results import Run
from traceprof.workloads import Workload
replay_run(Workload(sys.argv[1]), OPENAI, sys.argv[2], Options(processes=2), Run(Path(sys.argv[3])))
"""


def test_a_killed_replay_goes_on_and_each_row_has_exactly_one_result(tmp_path, server):
    """kill -9 in the middle: its clients end, too; what was written stays; the rest is sent, on one clock."""
    rows = []
    for i in range(60):
        rows += turns(f"s{i}", 2 * i, [i * 0.03] * 2, 0.01)
    w, run = workload(tmp_path, rows), new_run(tmp_path)
    replay = subprocess.Popen([sys.executable, "-c", SCRIPT, w.path, server.url, run.path], cwd=ROOT)
    while len(server.seen()) < 30:
        time.sleep(0.01)
    os.kill(replay.pid, signal.SIGKILL)
    replay.wait()
    asked = 0
    while asked != (asked := len(server.seen())):
        time.sleep(0.5)
    assert asked < 120  # its clients had them all
    before = run.requests().to_dicts()
    assert 10 < len(before) < 120 and not run.finished
    with (run.path / "requests-00.jsonl").open("ab") as lines:
        lines.write(b'{"index": 7, "cut')  # as a crash of the machine would leave it
    with pytest.raises(TraceprofError, match="--resume"):
        replay_run(w, OPENAI, server.url, Options(processes=2), run)
    told = replay_run(w, OPENAI, server.url, Options(processes=3), run, resume=True)
    got = run.requests().to_dicts()
    assert [r["index"] for r in got] == list(range(120))
    lines = [
        json.loads(line)["index"]
        for file in run.path.glob("requests-*.jsonl")
        for line in file.read_text().splitlines()
    ]
    assert sorted(lines) == list(range(120))  # none was sent again that had been answered
    known = {r["index"]: r for r in before}
    assert all(got[i] == r for i, r in known.items())
    last = max(r["end_us"] for r in before)
    assert told["resumed_at_us"] == last + 1
    assert all(r["sent_us"] > last for r in got if r["index"] not in known)
    for r in got[1::2]:
        assert r["intended_us"] >= got[r["index"] - 1]["end_us"] + 10_000
    assert run.finished and told["summary"]["outcomes"] == {"ok": 120}


def test_stopping_cancels_what_is_under_way_and_the_run_can_go_on(tmp_path, server):
    """Ctrl-C: attempts under way are lines of outcome cancelled; going on sends them and the rest."""
    rows = [row(i, i * 0.01, n=40) for i in range(100)]
    w, run, stop = workload(tmp_path, rows), new_run(tmp_path), threading.Event()
    seen: list[Progress] = []

    def watch(progress):
        seen.append(progress)
        if progress.ended >= 5:
            stop.set()

    told = replay_run(w, OPENAI, server.url, Options(window_requests=4), run, stop=stop, progress=watch)
    assert told["stopped"] and not run.finished
    outcomes = collections.Counter(r["outcome"] for r in run.requests().to_dicts())
    assert set(outcomes) == {"ok", "cancelled"} and outcomes["cancelled"] > 0
    assert told["requests_ended"] == outcomes["ok"] < 100
    assert [p.ended for p in seen] == sorted(p.ended for p in seen)
    again = replay_run(w, OPENAI, server.url, Options(), run, resume=True, progress=seen.append)
    got = run.requests().to_dicts()
    assert [r["index"] for r in got] == list(range(100))
    assert {r["outcome"] for r in got} == {"ok"}
    assert sum(r["attempt"] == 1 for r in got) == outcomes["cancelled"]
    assert again["requests_ended"] == seen[-1].ended == 100


def test_stopping_does_not_wait_for_the_schedule(tmp_path, server):
    """What is due in hours, and did not fit the window, is not waited for."""
    rows = [row(i, 0.0 if i < 5 else 10_000.0) for i in range(50)]
    w, run, stop = workload(tmp_path, rows), new_run(tmp_path), threading.Event()

    def watch(progress):
        if progress.ended == 5:
            stop.set()

    replay_run(w, OPENAI, server.url, Options(window_requests=4), run, stop=stop, progress=watch)
    assert [r["outcome"] for r in run.requests().to_dicts()] == ["ok"] * 5


def test_stopping_can_wait_for_answers_under_way(tmp_path, server):
    """With time to drain, nothing is cancelled and nothing new is sent."""
    rows = [row(i, i * 0.01, n=20) for i in range(300)]
    w, run, stop = workload(tmp_path, rows), new_run(tmp_path), threading.Event()

    def watch(progress):
        if progress.ended:
            stop.set()

    replay_run(w, OPENAI, server.url, Options(drain_s=30.0), run, stop=stop, progress=watch)
    got = run.requests().to_dicts()
    assert 0 < len(got) < 300
    assert {r["outcome"] for r in got} == {"ok"}
    assert len(server.seen()) == len(got)


def test_a_run_that_is_whole_is_not_sent_again(tmp_path, server):
    """Asked to go on with it, it tells what it holds."""
    run = new_run(tmp_path)
    told, _ = send(tmp_path, [row(0)], server.url, run=run)
    again, _ = send(tmp_path, [row(0)], server.url, run=run, resume=True)
    assert len(server.seen()) == 1
    assert again == json.loads(json.dumps(told))


def test_a_client_that_is_killed_is_an_error_with_a_remedy(tmp_path, server):
    """Out of memory, say: what came until then stays, and the run can go on."""
    rows = [row(i, i * 0.01, n=10) for i in range(200)]
    w, run, killed = workload(tmp_path, rows), new_run(tmp_path), []

    def kill(progress):
        if progress.ended > 20 and not killed:
            found = subprocess.run(
                ["ps", "-A", "-o", "pid=,ppid=,command="], capture_output=True, text=True, check=True
            )
            for line in found.stdout.splitlines():
                pid, parent, command = line.split(maxsplit=2)
                if int(parent) == os.getpid() and "traceprof.replay.client" in command:
                    killed.append(pid)
                    os.kill(int(pid), signal.SIGKILL)

    with pytest.raises(TraceprofError, match="--resume"):
        replay_run(w, OPENAI, server.url, Options(), run, progress=kill)
    assert killed
    replay_run(w, OPENAI, server.url, Options(), run, resume=True)
    assert [r["index"] for r in run.requests().to_dicts()] == list(range(200))


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, server):
    """Here a limit on the size of files; what was written whole stays."""
    w, run = workload(tmp_path, [row(i, i * 0.01) for i in range(50)]), new_run(tmp_path)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
    found = subprocess.run(
        [sys.executable, "-c", limit + SCRIPT, w.path, server.url, run.path],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert re.search(r"TraceprofError: .*requests-0.\.jsonl: cannot be written: File too large", found.stderr)
    assert 0 < len(run.requests()) < 50
    replay_run(w, OPENAI, server.url, Options(), run, resume=True)
    assert [r["index"] for r in run.requests().to_dicts()] == list(range(50))


def test_a_host_that_does_not_exist_is_said_before_anything_is_started(tmp_path):
    """By its name."""
    with pytest.raises(TraceprofError, match=r"no host nowhere\.invalid"):
        send(tmp_path, [row(0)], "http://nowhere.invalid:8000")


def test_mending_takes_away_a_last_line_that_was_cut(tmp_path):
    """Whole lines stay, also where the cut one is long or the only one."""
    for name, content, left in (
        ("requests-00.jsonl", b'{"a": 1}\n{"b', b'{"a": 1}\n'),
        ("requests-01.jsonl", b'{"a": 1}\n', b'{"a": 1}\n'),
        ("requests-02.jsonl", b"x" * 200_000, b""),
        ("requests-03.jsonl", b"y\n" + b"x" * 200_000, b"y\n"),
        ("requests-04.jsonl", b"", b""),
    ):
        (tmp_path / name).write_bytes(content)
        mend(tmp_path)
        assert (tmp_path / name).read_bytes() == left
