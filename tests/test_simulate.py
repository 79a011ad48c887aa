"""`traceprof simulate`: hosts, studies of a trace, runs of a workload, results that others read, calibration."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import jsonschema
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import lab
from tests.conftest import CLI
from traceprof import contracts
from traceprof.caches.traffic import Traffic
from traceprof.errors import TraceprofError, UsageError
from traceprof.results import Results
from traceprof.simulate import calibrate as fitting
from traceprof.simulate.hardware import Factors
from traceprof.simulate.host import Host, of_memory, read_factors
from traceprof.simulate.results import Ask, simulate, through, without_prompts
from traceprof.simulate.schedulers import scheduler
from traceprof.simulate.served import closed_loop
from traceprof.simulate.study import (
    QUANTILE,
    Objectives,
    Pool,
    Stretch,
    _openings,
    capacity,
    sessions_load,
    study,
)  # fmt: skip
from traceprof.workloads import Workload

HOST = Host.of()


def chats(requests=400, per_s=4.0, turns=4, seed=0, shared=600):
    """Sessions of some turns behind one of two system prompts; each turn waits for the one before."""
    rng = np.random.default_rng(seed)
    listed, sessions = [], []
    for session in range(requests // turns):
        begin = rng.uniform(0, requests / per_s)
        tokens = [*range(10_000 * (session % 2), 10_000 * (session % 2) + shared)]
        for _ in range(turns):
            asked, said = int(rng.integers(20, 300)), int(rng.integers(5, 200))
            tokens = [*tokens, *rng.integers(50_000, 90_000, asked).tolist()]
            answer = rng.integers(50_000, 90_000, said).tolist()
            listed.append((begin, session, [*tokens], answer, begin + 0.3 + said * 0.02))
            tokens += answer
            begin += 0.3 + said * 0.02 + rng.exponential(8)
    listed.sort(key=lambda one: one[0])
    traffic = Traffic.of_lists([(p, o, int(a * 1e6), int(e * 1e6)) for a, _, p, o, e in listed])
    sessions = np.array([one[1] for one in listed])
    return Pool("m", traffic, sessions, np.array([f"tenant-{s % 2}" for s in sessions]))


def workload_of(path, pool) -> Workload:
    stretch = Stretch.whole(pool)
    return without_prompts(path, stretch, [f"r{n}" for n in range(pool.traffic.requests)])


# ---- hosts


def test_a_host_says_what_does_not_fit_and_what_is_not_known():
    """The remedy is in the line."""
    with pytest.raises(UsageError, match=r"does not fit on H100.*more --gpus"):
        Host.of("h100", model="Llama-3.3-70B")
    with pytest.raises(UsageError, match="did you mean h100"):
        Host.of("h10")
    with pytest.raises(UsageError, match="does not run on"):
        Host.of("apple-m4-pro").scheduler("tensorrt_llm")
    assert Host.of("h100", 4, "Llama-3.3-70B").capacity_tokens > 100_000
    assert of_memory("30GB") is None


def test_what_no_machine_can_be_is_refused():
    """Macs share no model; weights must fit whatever the cache is said to be; factors are checked."""
    with pytest.raises(UsageError, match="no link"):
        Host.of("apple-m4-pro", 4)
    with pytest.raises(UsageError, match="does not fit"):
        Host.of("l40s", model="Llama-3.3-70B", capacity_tokens=100_000)


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("[engines.vllm]\ncompute = 0\n", "vllm.compute is 0"),
        ("[engines.vllm]\nstep_s = nan\n", "vllm.step_s is nan"),
        ("[engines.vlm]\ncompute = 1\n", "vlm is no engine"),
        ('card = "l40s"\n[engines.vllm]\ncompute = 1\n', "fitted with card l40s, not h100"),
    ],
)
def test_factors_that_cannot_be_used_are_refused(tmp_path, text, wanted):
    """Of nothing, of no engine, of another machine."""
    file = tmp_path / "f.toml"
    file.write_text(text)
    with pytest.raises(TraceprofError, match=wanted):
        Host.of(factors=file)


def test_models_of_other_rates_are_each_over_their_own_time():
    """A model that asks once a minute does not thin out the one that asks ten times a second."""
    fast, slow = chats(400, per_s=10), chats(60, per_s=0.05, seed=1)._replace(model="n")
    alone, both = (
        study(pools, HOST, Objectives(), ["vllm"])["engines"]["vllm"] for pools in ([fast], [fast, slow])
    )
    assert both["requests_per_s"] == pytest.approx(alone["requests_per_s"], rel=0.05)
    assert both["output_tokens_per_s"] == pytest.approx(alone["output_tokens_per_s"], rel=0.05)
    shares = {
        p["value"]: p["share"]
        for p in study([fast, slow], HOST, Objectives(), ["vllm"])["parts"]
        if p["by"] == "model"
    }
    whole = fast.traffic.prompt.sum() + slow.traffic.prompt.sum()
    assert shares["m"] == pytest.approx(fast.traffic.prompt.sum() / whole)


def test_factors_are_read_back_as_they_were_written(tmp_path):
    """What calibrate writes is what --factors takes; a broken file says how to make one."""
    factors = Factors(0.5, 0.25, 0.125, 0.001, 0.0001, 0.01, 0.0)
    none = fitting.Errors(0.1, 0.2, None, 0.0)
    file = tmp_path / "f.toml"
    fitting.write(file, [fitting.Fit("vllm", factors, 1, 1, none, none, none)], HOST)
    assert read_factors(file) == {"vllm": factors}
    assert Host.of(factors=file).factors("vllm") == factors
    assert Host.of(factors=file).factors("sglang") != factors
    file.write_text("[engines]\nvllm = 3\n")
    with pytest.raises(TraceprofError, match="traceprof calibrate"):
        read_factors(file)


# ---- what is run


def test_later_turns_wait_for_the_one_before_and_think_as_recorded():
    """Parents are turns of the same session that had ended; their gap is the time to think."""
    pool = chats(40)
    load = sessions_load(pool.traffic, pool.sessions)
    for r, parent in enumerate(load.parent.tolist()):
        if parent >= 0:
            assert pool.sessions[parent] == pool.sessions[r]
            gap = pool.traffic.arrival_us[r] - pool.traffic.end_us[parent]
            assert load.think[r] == gap * 1000 >= 0
        else:
            before = (pool.sessions[:r] == pool.sessions[r]) & (
                pool.traffic.end_us[:r] <= pool.traffic.arrival_us[r]
            )
            assert not before.any()
    assert (load.parent >= 0).sum() == 30


def test_the_busiest_stretch_is_the_shortest_one():
    """Against looking at every stretch."""
    pool = chats(300, seed=4)
    at = pool.traffic.arrival_us
    found = Stretch.busiest(pool, 60, 20)
    spans = [at[i + 59] - at[i] for i in range(len(at) - 59)]
    assert found.span_s == pytest.approx(min(spans) / 1e6)
    assert found.measured.sum() == 60 and found.warm <= 20


@given(lab.requests(max_size=12))
def test_made_unique_nothing_is_shared_and_nothing_else_changes(requests):
    """Of all, or of some: those that are left share what they did among themselves, or less."""
    traffic = lab.traffic_of(requests)
    n = traffic.requests
    pool = Pool("m", traffic, np.full(n, -1), np.full(n, ""))
    stretch = Stretch.whole(pool) if n else None
    if stretch is None:
        return
    all_of_it = stretch.unique(np.ones(n, np.bool_))
    assert all_of_it.shared_tokens == 0
    assert (all_of_it.traffic.prompt == traffic.prompt).all() and (
        all_of_it.traffic.total == traffic.total
    ).all()
    some = stretch.unique(np.arange(n) % 2 == 0)
    assert some.shared_tokens <= stretch.shared_tokens
    assert stretch.unique(np.zeros(n, np.bool_)).shared_tokens == stretch.shared_tokens


@given(st.floats(0.001, 900.0))
def test_capacity_is_within_its_grid_of_the_truth(limit):
    """The speed that is found holds, and the next one of the grid does not."""
    found = capacity(lambda speed: 1.0 if speed <= limit else 0.0)
    assert found.max_speed is not None
    assert found.max_speed <= limit * (1 + 1e-12)
    assert found.max_speed * 2 ** (1 / 16) > limit * (1 - 1e-12)
    assert not found.capped


def test_capacity_says_when_it_stopped_and_when_nothing_holds():
    """At least so much; or nothing, after the slowest was tried."""
    told = capacity(lambda speed: 1.0, most=3)
    assert (told.max_speed, told.capped) == (8.0, True)
    asked = []
    assert capacity(lambda speed: asked.append(speed) or 0.5).max_speed is None
    assert len(asked) == 5


def test_objectives_are_a_request_s_own():
    """TTFT has room for what the prompt takes alone, unless a limit was given; a request of one token has no TPOT."""
    usual, given_ = Objectives(), Objectives.of({"ttft": 0.5, "tpot": 0.05})
    ideal = HOST.costs("vllm")
    short, long = usual.limits(ideal, np.array([100, 100_000]))[0]
    assert 2.0 < short < 2.1 and long > 10
    assert given_.limits(ideal, np.array([100, 100_000]))[0].tolist() == [0.5, 0.5]
    assert given_.words == "TTFT 0.5 s, TPOT 50 ms"


# ---- the study


@pytest.fixture(scope="module")
def told():
    return study([chats(400)], HOST, Objectives())


def test_a_study_tells_every_engine(told):
    """Figures that must hold together, whatever the engine."""
    assert set(told["engines"]) == set(HOST.engines)
    for one in told["engines"].values():
        assert one["requests"] == 400 and one["refused"] == 0
        assert one["max_rate_per_s"] == pytest.approx(one["requests_per_s"] * one["max_speed"])
        assert one["replicas"] == int(np.ceil(1 / one["max_speed"] - 1e-9)) or one["replicas"] == 1
        assert 0 < one["ttft"]["p50"] <= one["ttft"]["p99"] <= one["ttft"]["max"]
        assert one["in_flight_mean"] == pytest.approx(
            one["e2e"]["mean"] * one["requests_per_s"]
        )  # Little's law
    assert told["engines"]["sglang"]["hit_rate"] > 0.5
    assert told["engines"]["ollama"]["max_speed"] < told["engines"]["vllm"]["max_speed"]
    assert [round(p["hit_rate"], 9) for p in told["sweeps"]["sharing"]] == sorted(
        round(p["hit_rate"], 9) for p in told["sweeps"]["sharing"]
    )
    assert told["sweeps"]["sharing"][0]["hit_rate"] == 0
    assert [(p["by"], p["value"]) for p in told["parts"]] == [
        ("tenant", "tenant-0"), ("tenant", "tenant-1"), ("prefix", "opening 1, 600 tokens"), ("prefix", "opening 2, 600 tokens"),
    ]  # fmt: skip
    for by in ("tenant", "prefix"):
        assert sum(p["share"] for p in told["parts"] if p["by"] == by) == pytest.approx(1)


def test_openings_are_what_sets_requests_apart():
    """Below what all have in common; what is short, or alone, sets nobody apart."""
    common = [*range(100)]
    groups = {n: [*common, *range(1000 * n, 1000 * n + 80)] for n in (1, 2, 3)}
    listed = [([*groups[n], 10_000 + i], [], i, i + 1) for i, n in enumerate([1, 2, 1, 3, 1, 2])]
    listed.append(([7, 8], [], 9, 10))
    n = len(listed)
    pool = Pool("m", Traffic.of_lists(listed), np.full(n, -1), np.full(n, ""))
    assert _openings(Stretch.whole(pool)).tolist() == ["opening 1, 100 tokens"] * 6 + [""]
    some = Stretch.whole(pool).of(np.arange(n) < 6)
    one, two = "opening 1, 180 tokens", "opening 2, 180 tokens"
    assert _openings(some).tolist() == [one, two, one, "", one, two]


def test_hours_of_the_day_are_run_apart_where_there_are_some():
    """Half a day: the hours that come to most tokens; not within an hour or two."""
    pool = chats(400, per_s=400 / (8 * 3600))
    hours = pool.traffic.arrival_us // 3_600_000_000 % 24
    found = study([pool._replace(hours=hours)], HOST, Objectives(), ["vllm"])
    told = [p for p in found["parts"] if p["by"] == "hour"]
    assert 2 <= len(told) <= 4 and all(p["value"][2:] == ":00" for p in told)
    for p in told:
        which = hours == int(p["value"][:2])
        assert p["requests"] == which.sum()
        assert p["share"] == pytest.approx(pool.traffic.prompt[which].sum() / pool.traffic.prompt.sum())
    short = study([chats(400)._replace(hours=np.arange(400) % 2)], HOST, Objectives(), ["vllm"])
    assert not [p for p in short["parts"] if p["by"] == "hour"]


def test_a_study_is_the_same_twice(told):
    """Nothing in it is random."""
    assert study([chats(400)], HOST, Objectives()) == told


def test_sharing_helps_and_slower_hardware_hurts():
    """Whether prompts begin alike, and on what it runs."""
    pool = chats(400, per_s=10, shared=3000)
    fast, slow = (
        study([pool], Host.of(gpu), Objectives.of({"ttft": 1.0, "tpot": 0.1}), ["vllm"])
        for gpu in ("h100", "l40s")
    )
    assert slow["unique"]["vllm"]["max_speed"] < slow["engines"]["vllm"]["max_speed"]
    assert slow["engines"]["vllm"]["max_speed"] < fast["engines"]["vllm"]["max_speed"]


def test_a_coarse_clock_is_spread_and_said():
    """Ten requests every three seconds did not come at one instant."""
    pool = chats(200)
    coarse = pool._replace(
        traffic=pool.traffic._replace(arrival_us=pool.traffic.arrival_us // 3_000_000 * 3_000_000),
        sessions=np.full(200, -1),
    )
    found = study([coarse], HOST, Objectives(), ["vllm"])
    assert any("clock is coarse" in text for text in found["assumptions"])


# ---- results


def test_a_simulated_run_is_read_like_a_replay(tmp_path, command):
    """The same files: Little's law, tokens one by one, cached tokens; and compare takes it."""
    made = workload_of(tmp_path / "w.parquet", chats(200))
    results = simulate([made], ["vllm", "sglang"], HOST, tmp_path / "r")
    assert [one.name for one in Results(tmp_path / "r").runs] == ["vllm", "sglang"]
    for one in results.runs:
        summary, rows = one.told()["summary"], one.requests()
        assert summary["outcomes"] == {"ok": 200}
        assert one.told()["valid"]
        assert rows["chunk_us"].list.len().to_list() == rows["output_tokens"].to_list()
        assert (rows["chunk_us"].list.first() == rows["first_token_us"]).all()
        assert (rows["chunk_us"].list.last() - rows["last_token_us"]).abs().max() <= 1
        assert summary["hit_rate"] == rows["cached_tokens"].sum() / rows["input_tokens"].sum() > 0.3
        assert summary["send_lag"]["max_s"] == 0
    ran = command("compare", tmp_path / "r", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out)["simulated"] is True
    with pytest.raises(TraceprofError, match="holds results"):
        simulate([made], ["vllm"], HOST, tmp_path / "r")


def test_modes_and_speed_are_those_of_a_replay(tmp_path):
    """Closed loops hold so many; twice the speed is half the arrivals; open waits for nobody."""
    made = workload_of(tmp_path / "w.parquet", chats(200))
    rows = pl.read_parquet(made.path)
    closed = through("vllm", rows, HOST, Ask("closed", 5))
    events = sorted([(t, 1) for t in closed.sent] + [(t, -1) for t in closed.end], key=lambda e: (e[0], e[1]))
    assert max(np.cumsum([d for _, d in events])) == 5
    opened = through("vllm", rows, HOST, Ask("open", speed=2.0))
    assert (opened.sent == (rows["arrival_us"].to_numpy() * 500)).all()


def test_requests_that_never_fit_fail_and_are_counted(tmp_path):
    """A prompt larger than the cache gets an error; the turn behind it is sent all the same."""
    pool = chats(40, shared=3000)
    made = workload_of(tmp_path / "w.parquet", pool)
    small = Host.of(capacity_tokens=3200)
    one = simulate([made], ["vllm"], small, tmp_path / "r").runs[0]
    outcomes = one.told()["summary"]["outcomes"]
    assert outcomes["http_error"] > 0 and sum(outcomes.values()) == 40
    assert (
        one.requests()
        .filter(pl.col("outcome").cast(pl.String) == "http_error")["first_token_us"]
        .null_count()
        == outcomes["http_error"]
    )


def test_a_workload_that_cannot_be_is_refused(tmp_path):
    """Never a crash: what shares more than there is, or with nobody."""
    made = workload_of(tmp_path / "w.parquet", chats(40))
    rows = pl.read_parquet(made.path)
    for bad in (
        rows.with_columns(prefix_of=None, prefix_tokens=pl.lit(5, pl.Int32)),
        rows.with_columns(prefix_tokens=pl.col("input_tokens") + 1),
        rows.with_columns(prefix_of=pl.col("index") + 1),
    ):
        with pytest.raises(TraceprofError, match="do not fit"):
            through("vllm", bad, HOST, Ask())


# ---- the closed loop that published figures are of


def test_one_at_a_time_takes_what_the_formula_says():
    """Prompt and tokens of requests that never meet, by hand."""
    costs, scheduled = HOST.costs("vllm", 600), scheduler("vllm")
    found = closed_loop("vllm", costs, scheduled, prompt_tokens=512, output_tokens=3, concurrency=1, requests=4, capacity_tokens=100_000)  # fmt: skip
    prefill = costs.step(decoding=0, read_tokens=0, prompt_tokens=512, pairs=512 * 513 / 2)
    steps = [costs.step(decoding=1, read_tokens=512 + j) for j in (1, 2)]
    assert found.ttft_s.tolist() == pytest.approx([costs.request_s + prefill] * 4, abs=1e-8)
    assert found.e2e_s.tolist() == pytest.approx([costs.request_s + prefill + sum(steps)] * 4, abs=1e-8)


# ---- calibration


def test_calibration_finds_an_engine_that_is_another(tmp_path):
    """Measured on factors that the card does not have: what was not fitted to is met within a few per cent."""
    made = workload_of(tmp_path / "w.parquet", chats(240, per_s=3))
    real = tmp_path / "real.toml"
    real.write_text(
        "[engines.vllm]\ncompute = 0.2\nmemory = 0.3\nattention = 0.1\nstep_s = 0.01\nseq_s = 0.0005\nrequest_s = 0.05\n"
    )
    results = simulate([made], ["vllm"], Host.of(factors=real), tmp_path / "r")
    fits, left_out = fitting.calibrate(results, HOST)
    assert left_out == [] and [one.engine for one in fits] == ["vllm"]
    before, after = fits[0].before, fits[0].after
    assert before.ttft > 0.3 and before.tpot > 0.3
    assert max(after.ttft, after.tpot, after.e2e, after.throughput) < 0.15
    assert fits[0].held_out_requests == 120


def test_calibrate_says_what_it_cannot_fit(tmp_path):
    """Results of nothing that is simulated."""
    made = workload_of(tmp_path / "w.parquet", chats(40))
    results = simulate([made], ["vllm"], HOST, tmp_path / "r")
    file = results.runs[0].path / "run.json"
    told = json.loads(file.read_text("utf-8"))
    told["engine"] |= {"name": "litellm", "label": "LiteLLM"}
    file.write_text(json.dumps(told), "utf-8")
    with pytest.raises(TraceprofError, match="LiteLLM is not simulated"):
        fitting.calibrate(results, HOST)


# ---- the command


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulate")
    rng = np.random.default_rng(2)
    rows, at = [], 0
    for n in range(120):
        at += int(rng.exponential(400))
        blocks = [n % 3, 3 + n % 3, *([100 + n] if n % 2 else [])]
        rows.append(
            {
                "timestamp": at,
                "input_length": 512 * len(blocks) - 9,
                "output_length": int(rng.integers(1, 90)),
                "hash_ids": blocks,
            }
        )
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    subprocess.run([*CLI, "ingest", folder / "log.jsonl", "-o", folder / "trace", "-q"], check=True)
    return folder / "trace"


def test_simulate_a_trace(trace, tmp_path, command):
    """A table for people in 80 columns, the same as JSON, and results on the way."""
    both = command("simulate", trace, "--engine", "llama.cpp", "--engine", "mlx-lm", "--gpu", "apple-m4-pro")
    assert both.code == 0 and "llama.cpp" in both.out and "mlx-lm" in both.out
    ran = command("simulate", trace, "-o", tmp_path / "r", "--slo", "ttft=3s,tpot=200ms")
    assert (ran.code, ran.err) == (0, "")
    assert max(map(len, ran.out.splitlines())) <= 80
    assert "TensorRT-LLM" in ran.out and "TTFT 3 s, TPOT 200 ms (as given)" in " ".join(ran.out.split())
    assert len(Results(tmp_path / "r").runs) == len(HOST.engines)
    ran = command("simulate", trace, "--engine", "vllm", "--json")
    told = json.loads(ran.out)
    assert list(told["engines"]) == ["vllm"] and told["requests"] == 120
    assert told["slo"]["quantile"] == QUANTILE


def test_simulate_says_what_is_wrong(trace, tmp_path, command):
    """Exit 2, one line, with a remedy."""
    for words, wanted in (
        (("--engine", "vlm", trace), "did you mean vllm"),
        (("--gpu", "h101", trace), "no card h101"),
        (("--serve", trace), "--serve answers as one engine"),
        ((), "nothing to run"),
        ((tmp_path / "no.parquet",), "no such workload"),
        ((trace, "--slo", "ttft=fast"), "ttft"),
        ((trace, "--speed", "2"), "--speed is for a WORKLOAD"),
    ):
        ran = command("simulate", *words)
        assert ran.code in (1, 2) and ran.out == "" and wanted in ran.error(), words


def test_run_ends_with_a_verdict_that_rests_on_it(trace, tmp_path, command):
    """By default; not where it was asked not to."""
    log = trace.parent / "log.jsonl"
    ran = command("run", log, "-o", tmp_path / "a", "--json")
    told = json.loads(ran.out)
    assert ran.code == 0 and told["verdict"]["checked_by"] == "simulation"
    assert set(told["simulation"]["engines"]) == set(HOST.engines)
    assert told["simulation"]["machine"]["given"] is False
    ran = command("run", log, "-o", tmp_path / "b", "--json", "--no-simulate")
    told = json.loads(ran.out)
    assert told["simulation"] is None and told["verdict"]["checked_by"] is None
    assert any("--no-simulate" in one["reason"] for one in told["left_out"])
    ran = command("profile", trace, "-o", tmp_path / "c", "--json", "--gpu-memory", "30GB")
    assert any("no card with 30GB" in one["reason"] for one in json.loads(ran.out)["left_out"])


def test_compare_gives_a_profile_its_verdict(trace, tmp_path, command):
    """profile.json holds what compare concluded, and the report is made of it."""
    assert command("profile", trace, "-o", tmp_path / "p", "-q").code == 0
    assert command("simulate", trace, "-o", tmp_path / "r", "-q").code == 0
    ran = command("compare", tmp_path / "r", "--profile", tmp_path / "p", "--json")
    assert (ran.code, ran.err) == (0, "")
    told = json.loads(ran.out)
    jsonschema.Draft202012Validator(contracts.comparison_schema()).validate(told)
    kept = json.loads((tmp_path / "p" / "profile.json").read_text("utf-8"))
    jsonschema.Draft202012Validator(contracts.profile_schema()).validate(kept)
    assert kept["verdict"] == told["verdict"]
    assert told["verdict"]["checked_by"] == "simulation"
    assert [p.name for p in Path(tmp_path / "p").iterdir() if p.name.startswith(".")] == []
