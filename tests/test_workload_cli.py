"""`traceprof workload`: what it writes, what it prints, and what it refuses."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from tests.conftest import SAMPLES, pair
from traceprof.cli.workload import command as verb
from traceprof.report.words import percent
from traceprof.workload.exports import EXPORTS
from traceprof.workload.make import Options
from traceprof.workloads import Workload


@pytest.fixture
def trace(command, tmp_path):
    """A trace of Mooncake's hashes."""
    assert command("ingest", SAMPLES / "mooncake.jsonl", "-o", tmp_path / "trace").code == 0
    return tmp_path / "trace"


def test_the_summary_tells_requests_steps_and_hit_rates(command, trace, tmp_path):
    """A line each, not cut where it is piped."""
    out = tmp_path / "w.parquet"
    done = command("workload", trace, "-o", out, "--requests", 50, "--engine", "vllm", "--warmup", "10%")
    assert done.code == 0 and done.err == ""
    said = " ".join(done.out.split())
    assert done.out.startswith(f"{out}  asis, 50 requests as texts\n50 sessions over ")
    assert "prompts: made of" in said and "words of the tokenizer, as text" in said
    assert "- the trace does not hold every prompt" in said
    assert "warm-up: the first 5 requests are sent" in said
    assert "Nobody said what it runs on: see --model-config" in said
    meta = Workload(out).meta
    assert f"Hit rate of the workload {percent(meta['hit_rate'])} without limit" in said
    assert f"(the trace: {percent(meta['trace_hit_rate'])})" in said
    assert f" vLLM {percent(meta['expected']['vllm']['hit_rate'])} " in said
    assert [line.split()[:2] for line in done.out.splitlines() if "requests  " in line] == [
        ["read", "60"],
        ["requests", "50"],
    ]
    assert max(map(len, done.out.splitlines()[1:])) <= 80


def test_what_is_one_is_told_in_the_singular_and_a_machine_that_was_named_is_not_asked_for(
    command, ingested, tmp_path
):
    """One request of two was refused; what the engines are called, not what we call them."""
    trace = ingested([pair(1), pair(2, status_code=429, response=None)])
    done = command(
        "workload", trace.path, "-o", tmp_path / "w.parquet", "--variant", "unique", "--capacity-tokens", 9000,
        "--engine", "tensorrt_llm", "--warmup", "1h",
    )  # fmt: skip
    said = " ".join(done.out.split())
    assert "unique, 1 request as texts" in said and "1 session over" in said
    assert "left out: 1 request, seen by no engine" in said
    assert "warm-up: every request, so that a replay measures none" in said
    assert "engines with 9.0 k KV tokens: 9,000 tokens TensorRT-LLM unknown" in said
    assert "Nobody said" not in said and "tensorrt_llm" not in said
    assert Workload(tmp_path / "w.parquet").meta["machine"]["given"] is True


def test_json_is_what_stands_in_the_file(command, trace, tmp_path):
    """And nothing else is printed."""
    out = tmp_path / "w.parquet"
    done = command("workload", trace, "-o", out, "--variant", "unique", "--engine", "infinite", "--json")
    assert done.code == 0 and json.loads(done.out) == Workload(out).meta


def test_quiet_says_nothing(command, trace, tmp_path):
    """The file is there."""
    done = command("workload", trace, "-o", tmp_path / "w.parquet", "--engine", "infinite", "-q")
    assert (done.code, done.out, done.err) == (0, "", "") and (tmp_path / "w.parquet").exists()


def test_every_option_of_the_library_is_one_of_the_command():
    """Under its own name, with the same default."""
    given = verb.make_context("workload", ["trace", "-o", "file"]).params
    asked = {name: given[name] for name in Options._field_defaults}
    assert asked == {**Options._field_defaults, "jobs": None}


def test_a_workload_or_its_trace_is_exported_alike(command, trace, tmp_path):
    """In one go or in two: the same bytes, the same words."""
    workload = tmp_path / "w.parquet"
    more = ("--variant", "shared", "--engine", "infinite")
    assert command("workload", trace, "-o", workload, *more, "-q").code == 0
    first, second = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    done = command("workload", workload, "-o", first, "--export", "openai", "--served-model", "tiny")
    assert done.code == 0 and str(first) in done.out and "MODEL" not in done.out
    styled = command("workload", workload, "-o", tmp_path / "[red]x", "--export", "openai")
    assert "[red]x" in styled.out  # a path is no markup
    once = command("workload", trace, "-o", second, *more, "--export", "mooncake")
    assert once.out.count("60 requests as") == once.out.count(f"{second}  ") == 1
    assert "aiperf profile -m MODEL" in once.out and "--served-model NAME" in " ".join(once.out.split())
    again = command(
        "workload", trace, "-o", second, *more, "--export", "openai", "--served-model", "tiny", "--json"
    )
    assert again.code == 0 and first.read_bytes() == second.read_bytes()
    told = json.loads(again.out)
    assert told["export"]["path"] == str(second) and told["export"]["requests"] == told["requests"] == 60
    assert not list(tmp_path.glob(".*"))


def test_help_names_every_export(command):
    """A new one shows itself."""
    said = command("workload", "--help").out
    assert all(name in said for name in EXPORTS)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--engine", "nothing"), "no model of an engine called 'nothing'"),
        (("--sample", "5m"), "--sample '5m' is no share"),
        (("--rate", "2", "--users", "3"), "each set the times"),
        (("--served-model", "x"), "give --export"),
        (("--peak", "soon"), "--peak 'soon' is no duration"),
        (("--speed", "0"), "--speed"),
    ],
)
def test_bad_usage_is_one_line(command, trace, tmp_path, words, why):
    """With exit code 2, and no file."""
    done = command("workload", trace, "-o", tmp_path / "w.parquet", *words)
    assert done.code == 2 and why in done.error() and not (tmp_path / "w.parquet").exists()


def test_a_workload_is_no_trace(command, trace, tmp_path):
    """It can only be exported, and by no option be made another."""
    workload = tmp_path / "w.parquet"
    assert command("workload", trace, "-o", workload, "--engine", "infinite", "-q").code == 0
    for words in ((), ("--export", "openai", "--rate", "5")):
        done = command("workload", workload, "-o", tmp_path / "x", *words)
        assert done.code == 2 and "is a workload already" in done.error()
    done = command("workload", tmp_path / "nothing", "-o", tmp_path / "x")
    assert done.code == 1 and "no such trace folder" in done.error()


def test_every_choice_reaches_the_workload(command, trace, tmp_path):
    """By what the file holds."""
    out = tmp_path / "w.parquet"
    done = command(
        "workload", trace, "-o", out, "--variant", "shared", "--prompts", "ids", "--window", "1s..12s", "--peak", "8s",
        "--sample", "50%", "--sample-by", "prefix", "--requests", 9, "--speed", 4, "--warmup", "0.2", "--seed", 7,
        "--engine", "sglang", "--capacity-tokens", 99_000, "--engine-per-model", "--json",
    )  # fmt: skip
    meta = json.loads(done.out)
    assert [step["step"] for step in meta["steps"]] == [
        "read",
        "window",
        "peak",
        "sample",
        "requests",
        "speed",
    ]
    assert (meta["variant"], meta["seed"], meta["requests"]) == ("shared", 7, 9)
    assert meta["expected"]["sglang"]["capacity_tokens"] == 99_000 and list(meta["expected"]) == ["sglang"]
    rows = pa.Table.from_batches(list(Workload(out).batches())).to_pylist()
    assert {r["endpoint"] for r in rows} == {"ids"} and sum(r["warmup"] for r in rows) == 2
    assert rows[-1]["arrival_us"] <= 2_000_000 and meta["engine_per_model"]
