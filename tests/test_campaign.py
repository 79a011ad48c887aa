"""Whole replays: the order of runs, what parts their caches, predictions and counters, stops and resumes, sweeps."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from tests import replaying, vocabularies
from traceprof.caches.traffic import Traffic
from traceprof.engines import engine
from traceprof.engines.asking import asker
from traceprof.errors import TraceprofError
from traceprof.replay import campaign, scenario
from traceprof.replay.campaign import Watching, replay
from traceprof.replay.scenario import Contender, Rates, Scenario, Slo
from traceprof.report.replayed import _sweep, replayed
from traceprof.report.terminal import Page
from traceprof.results import Results, new_run, write_manifest
from traceprof.workloads import Workload

HERE = Path(__file__).parent
QUICK = Watching(ready_s=20, scrape_s=0, settle_s=5, quiet_s=0.1, calibrate=False)


@contextlib.contextmanager
def vllm(*words):
    """The URL of a stand-in for vLLM in its own process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(HERE / "vllm_stand_in.py"), str(port), *map(str, words)])
    url = f"http://127.0.0.1:{port}"
    try:
        ask = asker(url)
        end = time.monotonic() + 30
        while not ask("GET", "/health", None).ok:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        yield url
    finally:
        process.kill()
        process.wait()


def workload(path, n=40, seed=1, name="w", gap_s=0.0, warm=0, **meta):
    """Prompts as token ids that share beginnings, each with what it shares."""
    rng = random.Random(seed)
    prompts: list[list[int]] = []
    for _ in range(n):
        old = rng.choice(prompts) if prompts and rng.random() < 0.8 else []
        prompts.append(
            old[: rng.randrange(len(old) + 1)] + [rng.randrange(1000) for _ in range(rng.randrange(1, 30))]
        )
    like, shared = Traffic.of_lists([(p, (), 0, 0) for p in prompts]).shared()
    rows = [
        replaying.row(
            i, gap_s * i, n=3, endpoint="ids", prompt_text=None, prompt_ids=prompt, input_tokens=len(prompt), model="a",
            warmup=i < warm, prefix_of=None if like[i] < 0 else int(like[i]), prefix_tokens=int(shared[i]),
        )
        for i, prompt in enumerate(prompts)
    ]  # fmt: skip
    (path / name).mkdir()
    return replaying.workload(path / name, rows, **meta).path


def scene(paths, *engines, **more):
    """One request at a time, so that the order is known."""
    more.setdefault("options", {"mode": "closed", "concurrency": 1})
    return Scenario(Path(), tuple(paths), tuple(engines), **more)


def vllm_at(name, url):
    return Contender(name, engine("vllm"), url)


def test_engines_take_turns_from_an_empty_cache_and_every_hit_is_as_predicted(tmp_path):
    """Two workloads, two engines, two repeats: eight runs, each flushed, told = predicted, counters = sums."""
    paths = [workload(tmp_path), workload(tmp_path, 25, 2, "v")]
    with vllm() as a, vllm() as b:
        found = replay(scene(paths, vllm_at("a", a), vllm_at("b", b), repeats=2), tmp_path / "r", QUICK)
    states = found.manifest["runs"]
    assert [(s["name"], s["workload"], s["repeat"]) for s in states] == [
        ("a", 0, 0), ("b", 0, 0), ("a", 1, 0), ("b", 1, 0), ("a", 0, 1), ("b", 0, 1), ("a", 1, 1), ("b", 1, 1),
    ]  # fmt: skip
    assert {s["state"] for s in states} == {"done"}
    for state, run in zip(states, found.runs, strict=True):
        told = run.told()
        assert run.name == state["name"] == told["name"]
        assert told["isolation"] == {"how": "flush: POST /reset_prefix_cache", "ok": True, "why": None}
        assert (
            told["server"]["settings"] == {"block_size": 4} and told["server"]["capacity_tokens"] == 100_000
        )
        assert told["server"]["model"] == "stand-in" and told["server"]["version"] == "0.0"
        cache = told["cache"]
        assert cache["equal_requests"] == cache["told_requests"] == cache["requests"] == told["requests"]
        assert cache["told_tokens"] == cache["predicted_tokens"] > 0
        assert cache["unexplained_tokens"] == cache["prompts_of_other_length"] == 0
        assert all(check["agrees"] for check in told["counters"]["against_requests"])
        requests = run.requests()
        assert requests["predicted_cached_tokens"].to_list() == requests["cached_tokens"].to_list()
    assert found.manifest["workloads"][0]["digest"] != found.manifest["workloads"][1]["digest"]


def test_prompts_are_salted_where_the_cache_cannot_be_emptied(tmp_path):
    """Every run under its own salt: each hits as the first."""
    with vllm("noflush") as url:
        found = replay(scene([workload(tmp_path)], vllm_at("a", url), repeats=2), tmp_path / "r", QUICK)
    first, second = (run.told() for run in found.runs)
    assert first["isolation"]["how"] == second["isolation"]["how"] == "salt"
    assert (
        first["cache"]["told_tokens"] == second["cache"]["told_tokens"] == second["cache"]["predicted_tokens"]
    )
    assert first["options"]["salt"] != second["options"]["salt"]


def test_a_flush_that_was_asked_for_and_refused_is_an_error(tmp_path):
    """It names the engine and what it needs."""
    with (
        vllm("noflush") as url,
        pytest.raises(
            TraceprofError, match=r"cache of a was not emptied: answered 404.*VLLM_SERVER_DEV_MODE"
        ),
    ):
        replay(scene([workload(tmp_path)], vllm_at("a", url), cache="flush"), tmp_path / "r", QUICK)
    assert Results(tmp_path / "r").manifest["runs"][0]["state"] == "failed"


def test_hits_that_are_left_from_earlier_runs_are_told(tmp_path):
    """cache = keep: the second run has hits that its own prompts cannot explain."""
    with vllm() as url:
        found = replay(
            scene([workload(tmp_path)], vllm_at("a", url), repeats=2, cache="keep"), tmp_path / "r", QUICK
        )
    first, second = (run.told()["cache"] for run in found.runs)
    shown = io.StringIO()
    replayed(found, Console(file=shown, width=80))
    notes = " ".join(shown.getvalue().split())
    assert (
        "! run 1 (a, asis): the engine tells " in notes and "! run 0 (a, asis): the engine tells" not in notes
    )
    assert "cannot be of this run's own prompts" in notes
    assert first["unexplained_tokens"] == 0
    left_over = (
        second["told_tokens"] - first["told_tokens"]
    )  # in blocks; what a cache could have is counted in tokens
    assert left_over / 2 < second["unexplained_tokens"] <= left_over


def test_a_replay_that_was_stopped_goes_on(tmp_path):
    """Stopped in its first run; resumed: every request once, the second run from the start; results of another replay are refused."""
    path = workload(tmp_path, 30)
    stop = threading.Event()
    with vllm("0.02") as url:
        todo = scene([path], vllm_at("a", url), repeats=2)

        def say(said):
            if said.progress is not None and said.progress.ended >= 5:
                stop.set()

        found = replay(todo, tmp_path / "r", QUICK, stop=stop, say=say)
        assert [s["state"] for s in found.manifest["runs"]] == ["stopped"]
        assert not found.runs[0].finished
        dead = dataclasses.replace(todo, engines=(vllm_at("a", "http://127.0.0.1:9"),))
        with pytest.raises(TraceprofError, match="holds results"):
            replay(dead, tmp_path / "r", QUICK)  # said before anybody is waited for
        with pytest.raises(TraceprofError, match="other scenario"):
            replay(dataclasses.replace(todo, repeats=3), tmp_path / "r", QUICK, resume=True)
        found = replay(todo, tmp_path / "r", QUICK, resume=True)
    assert [s["state"] for s in found.manifest["runs"]] == ["done", "done"]
    for run in found.runs:
        assert run.requests()["index"].to_list() == list(range(30))
        assert set(run.requests()["outcome"].to_list()) == {"ok"}
    first, second = (run.told() for run in found.runs)
    assert not first["isolation"]["ok"] and "cut off" in first["isolation"]["why"]
    assert second["cache"]["equal_requests"] == 30


def test_what_failed_before_anything_was_sent_is_no_obstacle(tmp_path):
    """An engine that is not there: an error before anything is written, and the same command again."""
    path = workload(tmp_path, 3)
    with pytest.raises(TraceprofError, match=r"was not ready after 0\.2 s"):
        replay(
            scene([path], vllm_at("a", "http://127.0.0.1:9")),
            tmp_path / "r",
            dataclasses.replace(QUICK, ready_s=0.2),
        )
    assert not (tmp_path / "r").exists()
    with vllm("noflush") as url, pytest.raises(TraceprofError):
        replay(scene([path], vllm_at("a", url), cache="flush"), tmp_path / "r", QUICK)
    with vllm() as url:
        found = replay(scene([path], vllm_at("b", url)), tmp_path / "r", QUICK)
    assert [s["state"] for s in found.manifest["runs"]] == ["done"]
    assert [run.path.name for run in found.runs] == ["000-b"]


def test_a_model_that_is_not_served_is_an_error(tmp_path):
    """With the names of those that are."""
    with vllm() as url, pytest.raises(TraceprofError, match="serves no model called b; it serves stand-in"):
        one = dataclasses.replace(vllm_at("a", url), model="b")
        replay(scene([workload(tmp_path, 3)], one), tmp_path / "r", QUICK)


def test_a_run_is_whole_where_an_engine_tells_neither_capacity_nor_counts(tmp_path):
    """No /metrics: room for all. No usage: answers are counted by the workload's tokenizer, and marked so."""
    trained = vocabularies.byte_bpe()
    trained.save(str(tmp_path / "tokenizer.json"))
    told_of = {"tokenizer": {"name": "t", "exact": True, "reload": [str(tmp_path / "tokenizer.json"), None]}}
    with vllm("nometrics") as a, vllm("nousage", "nometrics") as b:
        found = replay(
            scene([workload(tmp_path, **told_of)], vllm_at("a", a), vllm_at("b", b)), tmp_path / "r", QUICK
        )
    first, second = found.runs
    assert first.told()["server"]["capacity_tokens"] is None
    assert first.told()["cache"]["predicted_tokens"] > 0
    assert "without counters" in first.told()["counters"]["trouble"]
    assert set(first.requests()["tokens_source"]) == {"usage"}
    assert set(second.requests()["tokens_source"]) == {"counted"}
    assert second.requests()["output_tokens"].min() > 0
    assert second.told()["cache"]["told_tokens"] is None


def test_warm_up_is_in_no_hit_rate(tmp_path):
    """Engine and model over the same requests."""
    with vllm() as url:
        found = replay(scene([workload(tmp_path, 60, warm=20)], vllm_at("a", url)), tmp_path / "r", QUICK)
    told = found.runs[0].told()
    assert told["cache"]["requests"] == told["cache"]["equal_requests"] == 60
    assert (
        told["cache"]["predicted_hit_rate"] == told["cache"]["told_hit_rate"] == told["summary"]["hit_rate"]
    )
    late = found.runs[0].requests().filter(~pl.col("warmup"))
    assert told["summary"]["hit_rate"] == late["cached_tokens"].sum() / late["input_tokens"].sum()


def test_a_resumed_run_keeps_its_salt_and_claims_nothing_of_counters_that_it_did_not_read(tmp_path):
    """Both parts share one cache, so every hit is as predicted; counters of the first part are gone."""
    stop = threading.Event()
    with vllm("noflush", "0.02") as url:
        todo = scene([workload(tmp_path, 30)], vllm_at("a", url), cache="salt")

        def say(said):
            if said.progress is not None and said.progress.ended >= 10:
                stop.set()

        replay(todo, tmp_path / "r", QUICK, stop=stop, say=say)
        found = replay(todo, tmp_path / "r", QUICK, resume=True)
    told = found.runs[0].told()
    assert found.manifest["runs"][0]["salt"] == told["options"]["salt"]
    # the one that was cut off had left what is new in its prompt, below 30 tokens
    assert told["cache"]["unexplained_tokens"] < 30
    assert told["cache"]["equal_requests"] >= 29
    assert told["counters"]["against_requests"] == [] and "cut off" in told["counters"]["trouble"]


def test_a_stop_is_heard_while_an_engine_is_waited_for(tmp_path):
    """SIGTERM: the command ends within moments, not at the end of the wait."""
    path = workload(tmp_path, 2)
    words = [str(path), "--engine", "vllm=http://127.0.0.1:9", "--ready", "90", "--no-calibrate", "-o", "r"]
    process = subprocess.Popen(
        [sys.executable, "-m", "traceprof.cli.main", "replay", *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    time.sleep(3)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0 and "stopp" in said and "Traceback" not in said
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "url",
    [
        "http://me:hunter2@127.0.0.1:9",
        "htp://me:hunter2@h",
        "http://h:80x/hunter2",
        "http://h/?api_key=hunter2",
    ],
)
@pytest.mark.parametrize("before", ["", "vllm="])
def test_nothing_of_a_url_but_its_host_is_printed(tmp_path, url, before):
    """It may hold a password or a key."""
    done = command(
        workload(tmp_path, 2),
        "--engine",
        before + url,
        "--ready",
        "1",
        "--no-calibrate",
        "-o",
        "r",
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "hunter2" not in done.stdout + done.stderr


def told_at(late=None):
    """What a run says at a speed: its TTFT is the speed in seconds; above `late` the client is."""
    return lambda step: {
        "summary": {
            "requests": 10, "outcomes": {"ok": 10}, "ttft": {"p99": step.speed},
            "send_lag": {"valid": late is None or step.speed <= late, "reason": "late"},
        }
    }  # fmt: skip


def swept(todo, ask):
    """The runs of a sweep of a scenario, and what it found."""
    steps, runs, told = campaign._steps(todo), [], None
    with contextlib.suppress(StopIteration):
        while True:
            step = steps.send(told)
            told = ask(step)
            held, reasons = scenario.judge(todo.slo, told["summary"])
            runs.append(
                {
                    "number": len(runs), "name": step.turn.engine.name, "workload": 0, "warmup": False, "speed": step.speed,
                    "held": held, "reasons": reasons,
                }
            )  # fmt: skip
    return runs, campaign._found(todo, runs)


def test_a_sweep_runs_the_engines_in_turns_until_each_is_decided():
    """The highest speed whose TTFT holds, by engine; runs told again give what was found."""
    a, b = (Contender(name, engine("vllm"), f"http://{name}") for name in "ab")
    todo = scene(
        ["w"], a, b, slo=Slo({("ttft", "p99"): 3.0}), sweep=Rates(1.0, 8.0, precision=0.1), options={}
    )
    runs, found = swept(todo, told_at())
    assert [run["name"] for run in runs] == ["a", "b"] * (len(runs) // 2)
    assert [one["name"] for one in found] == ["a", "b"]
    for one in found:
        assert 3.0 / 1.1 <= one["speed"] <= 3.0 < one["failed_at"] <= 3.0 * 1.1
        assert len(one["trials"]) == len(runs) // 2 and one["client_late_at"] is None


@pytest.mark.parametrize(("late", "speed"), [(2.0, 1.0), (0.5, None)])
def test_a_sweep_does_not_take_the_client_s_limit_for_the_engine_s(late, speed):
    """It ends where the client was late, with what held before, and says so."""
    a = Contender("a", engine("vllm"), "http://a")
    todo = scene(["w"], a, slo=Slo({("ttft", "p99"): 30.0}), sweep=Rates(1.0, 8.0), options={})
    runs, (found,) = swept(todo, told_at(late))
    assert found["speed"] == speed and found["failed_at"] is None
    assert found["client_late_at"] == runs[-1]["speed"] > late
    shown = io.StringIO()
    manifest = {"sweep": [found], "workloads": [{"span_us": 10_000_000, "requests": 10}]}
    _sweep(found, manifest, ["asis"], Page(Console(file=shown, width=200)))
    assert "the client could not send that fast" in " ".join(shown.getvalue().split())


def command(*words, cwd):
    return subprocess.run(
        [sys.executable, "-m", "traceprof.cli.main", "replay", *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=120
    )  # fmt: skip


def test_the_command_finds_the_engine_out_and_prints_what_came_of_it(tmp_path):
    """A table, JSON, and a scenario file."""
    path = workload(tmp_path, 12)
    with vllm() as url:
        shown = command(path, "--engine", url, "-o", "r", "--no-calibrate", "--scrape", "0", cwd=tmp_path)
        assert shown.returncode == 0, shown.stderr
        assert "asis, 12 requests as token ids; " in shown.stdout and "\n  vllm " in shown.stdout
        again = command(
            path,
            "--engine",
            f"vllm-b={url}",
            "-o",
            "s",
            "--json",
            "--mode",
            "closed",
            "--concurrency",
            "1",
            cwd=tmp_path,
        )
        told = json.loads(again.stdout)
        assert told["runs"][0]["name"] == "vllm-b" and told["results"][0]["cache"]["equal_requests"] == 12
        bound = told["calibration"]
        assert bound["ttft_p99_s"] == max(
            bound[when]["adds_at_most"]["ttft_p99_s"] for when in ("before", "after")
        )
        (tmp_path / "s.toml").write_text(
            f'workloads = ["{path}"]\nrepeats = 2\n[engines.x]\nengine = "vllm"\nurl = "{url}"\n[slo]\nttft_p99_s = 60.0\n'
        )
        third = command("--scenario", "s.toml", "-o", "t", "--no-calibrate", "--json", cwd=tmp_path)
        shown = command("--scenario", "s.toml", "-o", "u", "--no-calibrate", cwd=tmp_path)
    assert "Run 0 (x, asis) holds the SLO." in shown.stdout
    assert third.returncode == 0, third.stderr
    assert [(run["name"], run["repeat"]) for run in json.loads(third.stdout)["runs"]] == [("x", 0), ("x", 1)]


def test_counters_may_be_at_another_address(tmp_path):
    """As those of an engine behind a router: they agree with what its requests were told; capacity and blocks are theirs, too."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        elsewhere = free.getsockname()[1]
    path = workload(tmp_path, 12)
    with vllm("nometrics", f"at:{elsewhere}") as url:
        words = (path, "--engine", url, "--no-calibrate", "--json", "--mode", "closed", "--concurrency", "1")
        done = command(*words, "--metrics-url", f"http://127.0.0.1:{elsewhere}", "-o", "r", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        dead = command(*words, "--metrics-url", "http://127.0.0.1:9", "-o", "s", cwd=tmp_path)
        none = command(*words, "--metrics-url", f"{url}/health", "-o", "s", cwd=tmp_path)
        router = Contender("r", engine("litellm"), url, metrics=(f"http://127.0.0.1:{elsewhere}",))
        behind = campaign.scrape.whose(router.engine, router.metrics)
        plain = dataclasses.replace(router, engine=engine("openai"))
        found = replay(scene([path], plain), tmp_path / "t", QUICK)
    assert dead.returncode == 1 and "/metrics at 127.0.0.1:9 did not answer" in dead.stderr
    assert none.returncode == 1 and "answered 200, without counters" in none.stderr
    assert not (tmp_path / "s").exists()
    told = json.loads(done.stdout)
    (run,) = told["results"]
    assert all(check["agrees"] for check in run["counters"]["against_requests"])
    assert run["server"]["settings"] == {"block_size": 4} and run["server"]["capacity_tokens"] == 100_000
    assert told["engines"][0]["counters_at"] == [f"127.0.0.1:{elsewhere}"]
    assert behind.name == "vllm"
    run = found.runs[0].told()
    assert run["counters"]["of"] == "vllm" and run["engine"]["name"] == "openai"
    assert all(check["agrees"] for check in run["counters"]["against_requests"])
    assert run["counters"]["hit_rate"] > 0 and run["server"]["capacity_tokens"] == 100_000


def test_what_goes_on_is_told_with_engine_and_workload(tmp_path):
    """The client's own calibration, too, by the workload that asks most of it."""
    paths = [workload(tmp_path, 3), workload(tmp_path, 9, 2, "v")]
    seen = []
    with vllm() as url:
        found = replay(
            scene(paths, vllm_at("a", url)),
            tmp_path / "r",
            dataclasses.replace(QUICK, calibrate=True),
            say=seen.append,
        )
    steps = list(dict.fromkeys((said.number, said.name, said.workload) for said in seen))
    assert steps == [
        (None, "a", ""), (None, "before", str(paths[1])), (0, "a", str(paths[0])), (1, "a", str(paths[1])), (None, "after", str(paths[1])),
    ]  # fmt: skip
    measured = [said.progress for said in seen if said.number is None and said.workload]
    assert {at.requests for at in measured} == {9} and measured[-1].ended == 9
    assert found.manifest["calibration"]["before"]["requests"] == 9
    assert [one["endpoints"] for one in found.manifest["workloads"]] == [{"ids": 3}, {"ids": 9}]


def test_the_runs_of_a_sweep_are_listed_by_engine_and_rate(tmp_path):
    """In the order in which they were made they tell nothing; offered and achieved rates stand side by side."""
    runs, found = [], []
    paths = [workload(tmp_path, 4, name=name, variant=name) for name in ("shared", "unique")]
    a, b = (Contender(name, engine("vllm"), f"http://{name}") for name in "ab")
    todo = scene(paths, a, b, slo=Slo({("ttft", "p99"): 3.0}), sweep=Rates(1.0, 4.0), options={})
    told = campaign._manifest(todo, {path: Workload(path) for path in paths})
    results = write_manifest(tmp_path / "r", told)
    for number, (name, speed, held) in enumerate(
        [("a", 1.0, True), ("b", 1.0, True), ("a", 4.0, False), ("b", 4.0, True), ("a", 2.0, True)]
    ):
        runs.append(
            {
                "number": number, "name": name, "workload": 0, "repeat": 0, "warmup": False, "speed": speed, "state": "done", "held": held,
                "reasons": [],
            }
        )  # fmt: skip
        summary = {"outcomes": {"ok": 4}, "requests_per_s": 0.9 * speed, "hit_rate": 0.5}
        rates = {"scheduled_per_s": 1.1 * speed}
        run = new_run(results, number, name)
        (run.path / "run.json").write_text(
            json.dumps(
                {"summary": summary, "rates": rates, "name": name, "valid": True, "isolation": {"ok": True}}
            )
        )
    for name, speed, failed in (("a", 2.0, 4.0), ("b", 4.0, None)):
        found.append(
            {"workload": 0, "name": name, "speed": speed, "failed_at": failed, "client_late_at": None}
        )
    shown = io.StringIO()
    replayed(
        write_manifest(tmp_path / "r", told | {"runs": runs, "sweep": found}), Console(file=shown, width=80)
    )
    lines = shown.getvalue().splitlines()
    first = next(
        i for i, line in enumerate(lines) if line.split()[:4] == ["run", "ok", "offered", "achieved"]
    )
    table = [line.split() for line in lines[first + 1 : first + 6]]
    assert [row[0] + row[1] for row in table] == ["a4", "ax2", "ax4", "b4", "bx4"]
    assert [row[-1] for row in table] == ["yes", "yes", "no", "yes", "yes"]
    assert table[1][3:5] == ["2.2", "1.8"]
    assert max(map(len, lines[1:])) <= 80
    said = " ".join(" ".join(lines).split())
    assert "a on shared holds the SLO up to 2 times the recorded rate" in said


def test_how_requests_failed_is_printed_without_their_messages(tmp_path):
    """Counts by outcome, status and type."""
    rows = [replaying.row(i, **replaying.chat([{"role": "user", "content": "hi"}])) for i in range(3)]
    path = replaying.workload(tmp_path, rows).path
    with vllm() as url:
        done = command(path, "--engine", f"vllm={url}", "-o", "r", "--no-calibrate", cwd=tmp_path)
    said = " ".join(done.stdout.split())
    assert "! run 0 (vllm, asis): ended otherwise than well: 3 http_error (400 BadRequestError)" in said
    assert (
        "secret"
        not in done.stdout
        + done.stderr
        + (tmp_path / "r" / "runs" / "000-vllm" / "requests-00.jsonl").read_text()
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no workload"),
        (("W",), "no engine"),
        (("W", "--engine", "vllm=ftp://x"), "not the URL of a server"),
        (("W", "--engine", "vllm=http://127.0.0.1:9", "--mode", "closed"), "a closed loop needs a concurrency"),
        (("W", "--engine", "http://127.0.0.1:9"), "nothing answers at"),
        (("J", "--engine", "http://127.0.0.1:9"), "not a workload: it is no Parquet file"),
        (("J", "--engine", "vllm=http://127.0.0.1:9"), "not a workload: it is no Parquet file"),
        (("W", "--engine", "a b=http://127.0.0.1:9"), "a b is no name for a folder"),
        (("W", "--engine", "vlm=http://127.0.0.1:9"), "no engine is called vlm; did you mean vllm?"),
        (("W", "--engine", "production=http://127.0.0.1:9"), "nothing answers at 127.0.0.1:9 that would tell which engine production is"),
        (("W", "--engine", "localhost:9"), "--engine: localhost:9 is not the URL of a server; write http://localhost:9"),
        (("W", "--engine", "vllm=127.0.0.1:9"), "--engine vllm: 127.0.0.1:9 is not the URL of a server; write http://127.0.0.1:9"),
        (("W", "--engine", "vllm"), "--engine vllm: no URL; --engine vllm=http://HOST:PORT, or --launch vllm"),
        (("W", "--engine", "http://127.0.0.1:9", "--api", "foo"), "no API is called foo; choose one of chat"),
        (("W", "--engine", "vllm=http://127.0.0.1:9", "--api", "native"), "vLLM has no API called native; it has chat"),
        (("W", "--engine", "vllm=http://127.0.0.1:9", "--api", "responses"), "prompts as token ids cannot be sent as responses"),
        (("W", "--engine", "ollama=http://127.0.0.1:9"), "Ollama takes no prompts as token ids"),
        (("W", "--engine", "http://127.0.0.1:9", "--concurrency", "4"), "a concurrency is for a closed loop, and the mode is partly-open"),
        (("W", "--engine", "http://127.0.0.1:9", "--mode", "closed"), "a closed loop needs a concurrency"),
        (("W", "--engine", "vllm=http://127.0.0.1:9", "--metrics-url", "x=http://127.0.0.1:9"), "no engine here is called that; there is vllm"),
        (("W", "--engine", "vllm=http://127.0.0.1:9", "--metrics-url", "b:9"), "--metrics-url: b:9 is not the URL of a server"),
        (("W", "--engine", "vllm=http://127.0.0.1:9", "--launch", "llamacpp:xllamacpp"), "needs model; give it: --set model=..."),
        (("W", "--engine", "vllm=http://127.0.0.1:9", "--launch", "dynamo", "--set", "model=x", "--capacity-tokens", "9"), "Dynamo cannot be given a number of KV tokens"),
        (("W", "--engine", "vllm=http://127.0.0.1:9", "--resume"), "holds nothing to go on with"),
        (("W", "--launch", "nope"), "no engine is called"),
        (("W", "--launch", "llamacpp:nope", "--set", "model=x"), "no variant is called nope"),
        (("W", "--launch", "llamacpp", "--set", "modle=x"), "no recipe has it"),
        (("W", "--launch", "llamacpp:xllamacpp"), "needs model; give it: --set model=..."),
        (("W", "--engine", "vllm=http://127.0.0.1:9", "--set", "a=b"), "--set is for engines that are launched"),
        (("W", "--engine", "vllm=http://a", "--engine", "vllm=http://b"), "two engines have one name"),
        (("W", "--engine", "vllm=http://127.0.0.1:9", "--scenario", "x.toml"), "--engine stands beside --scenario"),
        (("--scenario", "x.toml"), "no such scenario"),
        (("W", "--engine", "vllm=http://127.0.0.1:9", "--api-key-env", "NOPE"), "the environment has no NOPE"),
        (("W", "--engine", "openai=http://127.0.0.1:9", "--repeats", "2"), "nothing parts the cache of openai"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_in_one_line_and_nothing_is_written(tmp_path, words, said):
    """Exit code 1 or 2, one line, no traceback, no folder."""
    (tmp_path / "junk").write_bytes(b"PAR1 and no more")
    files = {"W": workload(tmp_path, 2), "J": tmp_path / "junk"}
    done = command(*(files.get(word, word) for word in words), "-o", "r", "--no-calibrate", cwd=tmp_path)
    assert done.returncode in (1, 2) and said in done.stderr
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "r").exists()
