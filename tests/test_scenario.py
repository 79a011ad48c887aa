"""Scenarios: files that are right and wrong, the order of runs, and the search for the highest rate, held against models."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceprof import latency
from traceprof.errors import TraceprofError, UsageError
from traceprof.replay import launch, scenario
from traceprof.replay.scenario import Found, Rates, Slo, judge, plan, search, sweep, ways

SCENARIOS = Path(__file__).parent.parent / "replay" / "scenarios"
TWO = """
workloads = ["a.parquet", "b.parquet"]
[engines.x]
engine = "vllm"
url = "http://127.0.0.1:1"
[engines.y]
launch = "llamacpp"
variables = {model = "m.gguf", slots = 4}
"""


def read(folder: Path, body: str) -> scenario.Scenario:
    """A scenario from a file."""
    path = folder / "it.toml"
    path.write_text(body)
    return scenario.read(path)


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_scenarios_that_come_with_it_are_right(path):
    """Each can be read and planned, says what it is for, and launches only what there is a recipe for."""
    one = scenario.read(path)
    assert one.about and plan(one)
    for engine in one.engines:
        if engine.launch is not None:
            recipe = launch.Recipe.read(engine.launch)
            assert engine.variables.keys() <= recipe.variables.keys()
            if one.capacity_tokens is not None:
                assert recipe.pinned(one.capacity_tokens, engine.variant)


def test_a_scenario_is_read_whole(tmp_path):
    """Defaults where nothing is said, workloads beside the file where they are there."""
    (tmp_path / "a.parquet").touch()
    one = read(tmp_path, TWO)
    assert one.workloads == (tmp_path / "a.parquet", Path("b.parquet"))
    x, y = one.engines
    assert (x.name, x.engine.name, x.url, x.launch) == ("x", "vllm", "http://127.0.0.1:1", None)
    assert (y.engine.name, y.launch, y.variables) == (
        "llamacpp",
        "llamacpp",
        {"model": "m.gguf", "slots": "4"},
    )
    unnamed = TWO.replace('engine = "vllm"', "")
    assert read(tmp_path, unnamed).engines[0].engine.name == "openai"
    assert read(tmp_path, unnamed.replace("engines.x", "engines.sglang-b")).engines[0].engine.name == "sglang"
    assert (one.repeats, one.order, one.cache, one.slo, one.sweep) == (1, "interleaved", "auto", None, None)


WRONG = [
    ("workloads = []", "workloads is to be a list of names"),
    ('workloads = ["a"]\n', "engines is missing"),
    ("engines = 3\n" + TWO.partition("[engines.x]")[0], "engines is to be a table"),
    ("repeats = 0\n" + TWO, "repeats is to be a whole number from 1 on"),
    ("repeats = true\n" + TWO, "repeats is to be a whole number"),
    ('about = ""\n' + TWO, "about is to be a text"),
    ("about = 3\n" + TWO, "about is to be a text"),
    ('workloads = ["a"]\n[engines]\nz = 3\n', "engines.z is to be a table"),
    ('order = "dice"\n' + TWO, "order is to be one of interleaved, mirrored, random, blocked"),
    ('cache = "clear"\n' + TWO, "cache is to be one of auto, flush"),
    ('cache = "restart"\n' + TWO, "cache restart needs engines that are launched"),
    ("pause_s = -1\n" + TWO, "pause_s is to be a number from 0 on"),
    ("pause_s = inf\n" + TWO, "pause_s is to be a number"),
    ("speed = 2\n" + TWO, "speed is not known; there are about, "),
    (TWO + "[engines.z]\n", "engines.z.url or launch is needed"),
    (
        TWO + '[engines.z]\nurl = "http://u"\nlaunch = "vllm"\n',
        "engines.z.url or launch is needed, and not both",
    ),
    (TWO + '[engines.z]\nurl = "http://u"\nengine = "vlm"\n', "engines.z.engine: no engine is called 'vlm'"),
    (TWO + '[engines.vlm]\nurl = "http://u"\n', "no engine is called vlm: did you mean vllm?"),
    (
        TWO + '[engines.z]\nurl = "u:80"\n',
        "engines.z.url: u:80 is not the URL of a server; write http://u:80",
    ),
    (
        TWO + '[engines.vllm-z]\nurl = "http://u"\nmetrics = "http://v"\n',
        "engines.vllm-z.metrics is to be a list",
    ),
    (
        TWO + '[engines.vllm-z]\nurl = "http://u"\nmetrics = ["v:9"]\n',
        "engines.vllm-z.metrics: v:9 is not the URL",
    ),
    (TWO + '[options]\napi = "foo"\n', "options: no API is called foo; choose one of chat, completions"),
    (TWO + "[options]\nconcurrency = 4\n", "options: a concurrency is for a closed loop"),
    (
        TWO + '[engines.z]\nurl = "http://u"\nvariables = {a = "b"}\n',
        "engines.z.variables and variant are for engines",
    ),
    (TWO + '[engines.z]\nlaunch = "vllm"\nvariables = {a = [1]}\n', "engines.z.variables.a is to be a text"),
    (TWO + '[engines.z]\nurl = "http://u"\nkey = "secret"\n', "engines.z.key is not known"),
    (TWO + '[engines."a/b"]\nurl = "http://u"\n', "is no name for a folder"),
    (TWO + '[options]\nmode = "fast"\n', "options: no mode fast"),
    (TWO + "[options]\nprocess = 2\n", "options.process is not known"),
    (TWO + '[options]\nprocesses = "2"\n', "options.processes is to be of type int"),
    (TWO + "[options]\nstream = 1\n", "options.stream is to be of type bool"),
    (TWO + "[options]\nretries = true\n", "options.retries is to be of type int"),
    (TWO + '[options]\nsalt = "x"\n', "options.salt is not known"),
    (TWO + "[slo]\nttft_s = 1\n", "slo.ttft_s is no limit; they are called like ttft_p99_s"),
    (TWO + "[slo]\nttft_p99_s = 0\n", "slo.ttft_p99_s is to be a number above 0"),
    (TWO + "[slo]\nfailed = 2\n", "slo.failed is a share"),
    (TWO + "[sweep]\nlow = 1\nhigh = 2\n", "sweep needs limits in .slo."),
    (TWO + "[slo]\nttft_p99_s = 1\n[sweep]\nlow = 2\nhigh = 2\n", "sweep.high is to be above low"),
    (TWO + "[slo]\nttft_p99_s = 1\n[sweep]\nlow = 2\n", "sweep.high is missing"),
    ("a = ", "not TOML"),
]


@pytest.mark.parametrize("body, message", WRONG, ids=[message[:40] for _, message in WRONG])
def test_a_scenario_that_is_wrong_is_refused_with_file_and_key(tmp_path, body, message):
    """Before anything is sent."""
    with pytest.raises(TraceprofError, match=message) as caught:
        read(tmp_path, body)
    assert caught.value.path == str(tmp_path / "it.toml")


def test_a_scenario_that_is_not_there_is_said():
    """With its path."""
    with pytest.raises(UsageError, match=r"none\.toml: no such scenario"):
        scenario.read("none.toml")


def test_a_sweep_is_read_with_what_it_leaves_out(tmp_path):
    """One run at a rate, within a twentieth."""
    body = TWO + "[slo]\nttft_p99_s = 2\nitl_max_s = 0.5\n[sweep]\nlow = 1\nhigh = 3\n"
    one = read(tmp_path, body)
    assert one.sweep == Rates(1.0, 3.0, 0.05, 1)
    assert one.slo == Slo({("ttft", "p99"): 2.0, ("itl", "max"): 0.5}, 0.0)


# ---- the order of runs


@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 2),
    st.sampled_from(scenario.ORDERS),
)
def test_every_engine_runs_every_workload_as_often(repeats, engines, workloads, warmups, order):
    """Warm-ups first and on no figure; then as often as asked, each repeat once."""
    one = _made(repeats, engines, workloads, warmups, order)
    turns = plan(one)
    assert [t.warmup for t in turns] == sorted((t.warmup for t in turns), reverse=True)
    assert sum(t.warmup for t in turns) == warmups * engines
    measured = [(t.workload, t.engine.name, t.repeat) for t in turns if not t.warmup]
    assert len(set(measured)) == len(measured) == repeats * engines * workloads
    if order != "blocked":  # within a repeat, all engines are done with a workload before the next one begins
        blocks = [key for key, _ in groupby((t.repeat, t.workload) for t in turns if not t.warmup)]
        assert len(blocks) == repeats * workloads


def _made(repeats=1, engines=2, workloads=1, warmups=0, order="interleaved"):
    contenders = tuple(
        scenario.Contender(name, scenario.engines.engine("vllm"), url="u") for name in "ABC"[:engines]
    )
    return scenario.Scenario(
        Path("x"), tuple(Path(str(i)) for i in range(workloads)), contenders,
        repeats=repeats, order=order, warmup_runs=warmups,
    )  # fmt: skip


@pytest.mark.parametrize(
    "order, expected",
    [("interleaved", "ABABAB"), ("mirrored", "ABBAAB"), ("blocked", "AAABBB"), ("random", "ABBABA")],
)
def test_engines_take_turns_as_asked(order, expected):
    """Two engines, three repeats."""
    assert "".join(t.engine.name for t in plan(_made(3, order=order))) == expected


def test_the_cache_is_parted_by_what_there_is(tmp_path):
    """First a flush, then a salt, then a restart; never silently not at all."""
    one = read(tmp_path, TWO + '[engines.z]\nengine = "mlx_lm"\nurl = "http://u"\n')
    x, y, z = one.engines
    assert ways("auto", x, ["chat"]) == ("flush", "salt")
    assert ways("auto", y, ["chat"]) == ("flush", "restart")
    assert ways("salt", x, ["chat", "ids"]) == ("salt",)
    assert ways("keep", z, ["chat"]) == ("keep",)
    with pytest.raises(UsageError, match=r"nothing parts the cache of z .mlx-lm. .*say --cache keep"):
        ways("auto", z, ["chat"])
    with pytest.raises(UsageError, match="salt does not part the cache of y"):
        ways("salt", y, ["chat"])
    with pytest.raises(UsageError, match="salt does not part the cache of z"):
        ways("salt", z, ["ids"])


# ---- is it fast enough


def run_of(ttft_ms, failed=0, lag_ms=0):
    """A run's summary: answers of two tokens, 10 ms apart."""
    rows = [
        {
            "warmup": False, "attempt": 0, "outcome": "ok", "intended_us": 0, "taken_up_us": 1000 * lag_ms, "sent_us": 1000 * lag_ms, "first_token_us": 1000 * ms,
            "last_token_us": 1000 * ms + 10_000, "end_us": 1000 * ms + 10_000, "chunk_us": [1000 * ms, 1000 * ms + 10_000],
            "output_tokens": 2, "input_tokens": 5, "cached_tokens": None,
        }
        for ms in ttft_ms
    ]  # fmt: skip
    rows += [{**rows[0], "outcome": "timeout"}] * failed
    return latency.summary(pl.DataFrame(rows))


def test_a_run_is_judged_by_every_limit():
    """Each that is broken is named with its value."""
    summary = run_of([100, 300])
    assert judge(Slo({("ttft", "max"): 0.3, ("tpot", "mean"): 0.0101}), summary) == (True, ())
    verdict = judge(Slo({("ttft", "max"): 0.2, ("itl", "p50"): 0.005, ("e2e", "p50"): 9}), summary)
    assert verdict.holds is False
    assert verdict.reasons == ("ttft max 0.300 s > 0.2 s", "itl p50 0.010 s > 0.005 s")


def test_failed_requests_count_against_it():
    """One of ten: held with a share of 0.1, not below."""
    summary = run_of([100] * 9, failed=1)
    limits = {("ttft", "p99"): 1.0}
    assert judge(Slo(limits, failed=0.1), summary).holds is True
    assert judge(Slo(limits), summary) == (False, ("1 of 10 requests failed",))


def test_a_run_without_answers_holds_nothing():
    """There is no TTFT to be below a limit."""
    rows = pl.DataFrame(
        {
            "warmup": [False], "attempt": [0], "outcome": ["refused"], "intended_us": [0], "taken_up_us": [0], "sent_us": [0], "first_token_us": [None], "last_token_us": [None],
            "end_us": [5], "chunk_us": [[]], "output_tokens": [None], "input_tokens": [None], "cached_tokens": [None],
        },
        schema_overrides={
            **dict.fromkeys(("first_token_us", "last_token_us", "output_tokens", "input_tokens", "cached_tokens"), pl.Int64),
            "chunk_us": pl.List(pl.Int64),
        },
    )  # fmt: skip
    verdict = judge(Slo({("ttft", "p99"): 1.0}, failed=1.0), latency.summary(rows))
    assert verdict.holds is False and verdict.reasons == ("there is no ttft",)


def test_a_run_whose_client_was_late_tells_nothing():
    """Neither that the engine held it, nor that it did not."""
    verdict = judge(Slo({("ttft", "p99"): 1.0}), run_of([100], lag_ms=50))
    assert verdict.holds is None and "sent late" in verdict.reasons[0]


# ---- the highest rate


@given(
    st.floats(0.01, 10), st.floats(1.01, 1000), st.floats(0, 1.2), st.floats(0.001, 0.5), st.integers(1, 5)
)
def test_the_search_finds_the_edge_of_an_engine_with_one(low, factor, where, precision, repeats):
    """A model that holds up to its edge: the answer is at most a precision below it, and never above."""
    rates = Rates(low, low * factor, precision, repeats)
    edge = low * factor**where
    found = search(rates, lambda rate: rate <= edge)
    if edge >= rates.high:
        assert found.rate == rates.high and found.failed_at is None
    else:
        assert found.rate is not None and found.failed_at is not None
        assert found.rate <= edge < found.failed_at <= found.rate * (1 + precision) * (1 + 1e-9)
    # the runs at a rate stop when its majority is certain, and the number of rates is that of a bisection
    tried = {trial.rate for trial in found.trials}
    assert len(found.trials) == len(tried) * (repeats // 2 + 1) or repeats % 2 == 0
    assert len(tried) <= 3 + max(0, np.ceil(np.log2(np.log(factor) / np.log1p(precision))))


def test_an_engine_that_holds_not_even_the_lowest_rate():
    """Null, and one rate tried."""
    found = search(Rates(1, 8, repeats=3), lambda rate: False)
    assert (found.rate, found.failed_at, len(found.trials)) == (None, 1, 2)


@given(st.integers(1, 5), st.lists(st.booleans(), min_size=400, max_size=400))
def test_an_engine_that_answers_as_it_likes_still_ends_the_search(repeats, answers):
    """Any answers: it ends, and what it says agrees with the majority at each rate."""
    left = iter(answers)
    found = search(Rates(1, 8, 0.05, repeats), lambda _: next(left))
    votes = {}
    for rate, held in found.trials:
        votes.setdefault(rate, []).append(held)
    held = {rate: sum(vote) * 2 > repeats for rate, vote in votes.items()}
    assert all(len(vote) <= repeats for vote in votes.values())
    if found.rate is not None:
        assert held[found.rate]
    if found.failed_at is not None:
        assert not held[found.failed_at]


def test_one_bad_run_of_three_does_not_move_the_edge():
    """An engine that fails each third run, wherever it is below the edge."""
    count = iter(range(1000))
    found = search(Rates(1, 16, 0.02, 3), lambda rate: rate <= 5 and next(count) % 3 != 2)
    assert found.rate is not None and 4.9 <= found.rate <= 5


def test_searches_of_two_engines_can_take_turns():
    """A generator each: A B A B, until both are done."""
    edges = {"a": 3.0, "b": 7.0}
    steps = {name: sweep(Rates(1, 16, 0.01)) for name in edges}
    asked = {name: next(one) for name, one in steps.items()}
    order, found = [], {}
    while asked:
        for name in list(asked):
            order.append(name)
            try:
                asked[name] = steps[name].send(asked[name] <= edges[name])
            except StopIteration as over:
                found[name] = over.value
                del asked[name]
    assert order[:6] == ["a", "b"] * 3
    assert all(isinstance(one, Found) for one in found.values())
    assert 2.97 <= found["a"].rate <= 3 and 6.93 <= found["b"].rate <= 7
