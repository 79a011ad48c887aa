"""Whole comparisons of results folders: who wins, where, at what cost, and what is said of results that cannot be trusted."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner
from rich.console import Console

from tests import comparing
from traceprof import schema
from traceprof.cli.main import cli
from traceprof.compare import Options, compare
from traceprof.errors import TraceprofError, UsageError
from traceprof.report.compared import compared as shown
from traceprof.results import Results

STEADY = comparing.Machine(run=0.005, stall=0.02)
FASTER = {"ttft": math.log(0.8), "tpot": math.log(0.8)}


@pytest.fixture
def of():
    return comparing.traffic(1, 60)


@pytest.fixture
def shared(tmp_path, of):
    return comparing.workload(tmp_path / "shared.parquet", of)


@pytest.fixture
def made(tmp_path, of, shared):
    """Makes results of one workload."""

    def make(engines, name="r", **how):
        how.setdefault("machine", STEADY)
        how.setdefault("repeats", 4)
        return comparing.results(tmp_path / name, engines, [(shared, of, "shared")], **how)

    return make


def printed(found, width=80):
    out = io.StringIO()
    shown(found, Console(file=out, width=width))
    return out.getvalue()


def by_metric(found):
    return {one["metric"]: one for one in found["pairs"]}


def test_the_faster_engine_is_favoured_and_by_how_much_is_said(made):
    """20 % lower latencies: E2E decides, the true ratio is in the interval, every figure of the table stands."""
    found = compare([made({"a": {}, "b": FASTER})], Options(gpu="h100", gpus=2))
    json.dumps(found, allow_nan=False)
    assert (found["outcome"]["favoured"], found["outcome"]["metric"], found["outcome"]["trust"]) == (
        "b",
        "e2e",
        "full",
    )
    assert found["control"]["ok"] is True and found["warnings"] == []
    one = by_metric(found)["ttft"]
    assert one["low"] < 0.8 < one["high"] and one["ratio"] == pytest.approx(0.8, abs=0.02)
    assert one["p_holm"] < 0.05 and (one["blocks"], one["n_sessions"], one["outcome"]) == (4, 60, "b")
    a = found["engines"]["a"]
    assert (a["runs"], a["valid_runs"], a["cold_start_s"], a["errors"]) == (4, 4, 12.0, {})
    assert a["hit_rate"]["predicted"] == 0.5 and a["latency"]["ttft"]["p99"] > a["latency"]["ttft"]["p50"] > 0
    hour = a["usd_per_hour"]
    assert a["usd_per_million_tokens"] == pytest.approx(
        hour / 3600 / a["throughput"]["output_tokens_per_s"] * 1e6
    )
    assert found["prices"]["gpu"] == "h100" and found["prices"]["as_of"]
    text = printed(found)
    assert max(map(len, text.splitlines())) <= 80
    assert "Favoured: b" in text and "E2E of b is" in text and "$ a million output tokens" in text


def test_the_other_order_of_engines_mirrors_everything(made):
    """Swapped names: the same winner, every ratio upside down."""
    one = compare([made({"a": {}, "b": FASTER}, "one", seed=5)])
    folder = made({"a": {}, "b": FASTER}, "other", seed=5)
    other = compare([comparing.amended(folder, engines=Results(folder).manifest["engines"][::-1])])
    assert one["outcome"]["favoured"] == other["outcome"]["favoured"] == "b"
    for x, y in zip(one["pairs"], other["pairs"], strict=True):
        assert (x["a"], x["b"], x["metric"]) == (y["b"], y["a"], y["metric"])
        assert {"a": "b", "b": "a"}.get(x["outcome"], x["outcome"]) == y["outcome"]
        assert (x["ratio"], x["low"], x["high"]) == pytest.approx(
            (1 / y["ratio"], 1 / y["high"], 1 / y["low"])
        )
        assert x["p_holm"] == y["p_holm"]


def test_two_replays_of_one_engine_have_no_winner(made):
    """Two folders with one engine each, of one name: told apart by folder, and neither is favoured; that they lie apart in time is said."""
    folders = [made({"vllm": {}}, name, seed=n) for n, name in enumerate(("monday", "tuesday"))]
    found = compare(folders)
    assert list(found["engines"]) == ["monday/vllm", "tuesday/vllm"]
    assert found["outcome"]["favoured"] is None
    assert found["outcome"]["trust"] == "lowered" and "at different times" in found["warnings"][0]


def test_one_block_is_not_enough(made):
    """However large the difference: how runs of one engine differ is not known."""
    found = compare([made({"a": {}, "b": FASTER}, repeats=1)])
    one = by_metric(found)["e2e"]
    assert one["ratio"] < 0.9 and one["p"] is None and one["outcome"] == "not enough data"
    assert found["outcome"]["favoured"] is None and "--repeats 3" in found["outcome"]["why"]
    assert found["control"] == {"aa": [], "ok": None} and "No control" in printed(found)


def test_a_simulation_needs_no_second_run(made):
    """Its runs cannot differ: one is enough, and only the sessions' part is unsure."""
    found = compare(
        [
            made(
                {"a": {}, "b": FASTER},
                repeats=1,
                simulated={"card": "h100"},
                machine=comparing.Machine(0, 0, 0, 0),
            )
        ]
    )
    assert found["simulated"] and found["outcome"]["favoured"] == "b"
    assert "simulated" in printed(found)
    closed = {"mode": "closed", "simulated": {"card": "h100"}, "machine": comparing.Machine(0, 0, 0, 0)}
    found = compare([made({"a": {}, "b": FASTER}, "closed", repeats=1, **closed)])
    assert by_metric(found)["throughput"]["outcome"] == "no practical difference"  # arrivals decide it here
    assert (found["outcome"]["favoured"], found["outcome"]["metric"]) == ("b", "e2e")


def test_what_was_simulated_is_held_against_what_was_measured(made):
    """The simulation has TTFT right and TPOT 30 % too high: both are told, and only live engines are ranked."""
    live = made({"a": {}, "b": FASTER}, "live")
    exact = comparing.Machine(0, 0, 0, 0)
    wrong = {"tpot": math.log(1.3)}
    virtual = made({"a": wrong}, "virtual", repeats=1, simulated={"card": "h100"}, machine=exact)
    kinds = [{"name": "a", "engine": "vllm"}, {"name": "b", "engine": "sglang"}]
    comparing.amended(virtual, engines=kinds[:1])
    comparing.amended(live, engines=kinds)
    found = compare([live, virtual])
    assert (
        not found["simulated"] and found["outcome"]["favoured"] == "b" and found["outcome"]["trust"] == "full"
    )
    assert {(one["a"], one["b"]) for one in found["pairs"]} == {("live/a", "b")}
    said = {one["metric"]: (one["a"], one["b"], one["outcome"]) for one in found["predictions"]}
    assert said["ttft"] == ("live/a", "virtual/a", "no practical difference")
    assert said["tpot"] == ("live/a", "virtual/a", "a")
    assert next(one for one in found["predictions"] if one["metric"] == "tpot")["ratio"] == pytest.approx(
        1.3, abs=0.02
    )
    text = printed(found)
    assert "simulated vs measured" in text and "virtual/a vs live/a      TPOT" in text


def test_folders_that_were_replayed_otherwise_are_told(made):
    """Twice the speed is another load."""
    folders = [made({"vllm": {}}, "one"), made({"sglang": FASTER}, "two", options={"speed": 2.0})]
    found = compare(folders)
    assert list(found["engines"]) == ["vllm", "sglang"]
    assert "the folders were replayed with other options: speed" in found["warnings"]


def test_where_the_winner_changes_is_found(made, of):
    """b is slow to the first token below 2,000 shared tokens, and quick above: the cut is there, each side has its winner."""
    turns = np.where(of.prefix > 2000, math.log(0.6), math.log(1.4))
    found = compare([made({"a": {}, "b": {"ttft": turns}})])
    one = next(c for c in found["crossovers"] if (c["by"], c["metric"]) == ("prefix_tokens", "ttft"))
    assert (one["below"], one["above"]) == ("a", "b")
    assert of.prefix[of.prefix <= 2000].max() <= one["at"] <= np.sort(of.prefix[of.prefix > 2000])[20]
    segments = [s for s in found["segments"] if s["by"] == "prefix_tokens"]
    assert sum(s["requests"] for s in segments) == of.n
    outcomes = [next(p for p in s["pairs"] if p["metric"] == "ttft")["outcome"] for s in segments]
    assert outcomes[0] == "a" and outcomes[-1] == "b"
    assert "TTFT: b wins from" in printed(found) and "tokens of shared prefix on, a below." in printed(found)


def test_no_crossover_where_one_engine_is_better_everywhere(made):
    """Segments, and no point at which the winner changes; without the file, lengths are the engine's and prefixes are not there."""
    folder = made({"a": {}, "b": FASTER})
    found = compare([folder])
    assert found["segments"] and found["crossovers"] == []
    (folder.parent / "shared.parquet").unlink()
    found = compare([folder])
    assert {s["by"] for s in found["segments"]} == {"input_tokens", "arrivals_per_s"}
    assert "is not where it was" in found["warnings"][0]


def test_workloads_that_point_at_different_engines_are_told(tmp_path, of, shared):
    """b wins by its cache, a in raw speed; the traffic as it is decides."""
    alone = comparing.traffic(2, 60)
    unique = comparing.workload(tmp_path / "unique.parquet", alone, "unique")
    slower = {"ttft": math.log(1.3), "tpot": math.log(1.3)}
    folder = comparing.results(
        tmp_path / "r", {"a": {}, "b": {}}, [(unique, alone, "unique"), (shared, of, "shared")], repeats=4, machine=STEADY,
        effects={("b", "shared"): FASTER, ("b", "unique"): slower},
    )  # fmt: skip
    found = compare([folder])
    assert [one["outcome"]["favoured"] for one in found["workloads"]] == ["a", "b"]
    assert found["main_workload"] == 1 and found["outcome"]["favoured"] == "b"
    assert found["split_by_variant"].startswith(
        "with the traffic's own shared prefixes b is favoured, with unique prompts of the same lengths a"
    )
    # the same on both: nothing to say
    same = {("b", "shared"): FASTER, ("b", "unique"): FASTER}
    folder = comparing.results(
        tmp_path / "s", {"a": {}, "b": {}}, [(unique, alone, "unique"), (shared, of, "shared")], repeats=4, machine=STEADY, effects=same
    )  # fmt: skip
    assert compare([folder])["split_by_variant"] is None


def test_the_slo_decides_where_there_is_one(made):
    """b keeps 0.25 s for far more requests: goodput, share and outcome follow by hand; the scenario's own SLO is taken where none is given."""
    folder = made({"a": {}, "b": {"ttft": math.log(0.5)}})
    found = compare([folder], Options(slo={"ttft": 0.25}))
    assert found["slo"] == {"ttft_s": 0.25, "tpot_s": None, "e2e_s": None, "given": True}
    assert (found["outcome"]["metric"], found["outcome"]["favoured"]) == ("slo", "b")
    runs = [run for run in Results(folder).runs if run.name == "a"]
    shares = []
    for run in runs:
        rows = run.requests()
        shares.append(float(((rows["first_token_us"] - rows["intended_us"]) <= 250_000).mean()))
    assert found["engines"]["a"]["slo_share"] == pytest.approx(np.mean(shares))
    comparing.amended(folder, scenario={"order": "mirrored", "slo": {"failed": 0.0, "ttft_p99_s": 0.25}})
    again = compare([folder])
    assert again["slo"] == {**found["slo"], "given": False} and again["pairs"] == found["pairs"]


def test_who_fails_more_is_not_favoured(made):
    """Faster, but 10 % of its requests fail."""
    found = compare([made({"a": {}, "b": {**FASTER, "failed": 0.1}})])
    assert by_metric(found)["failed"]["outcome"] == "a"
    assert (
        found["outcome"]["favoured"] is None
        and "the share of requests that failed" in found["outcome"]["why"]
    )
    assert found["engines"]["b"]["errors"]["reset"] > 0
    assert any("are in no latency of that pair" in text for text in found["warnings"])


def test_runs_that_are_not_valid_are_left_out_and_named(made):
    """Run 0 was sent late: its whole block is not compared."""
    found = compare([made({"a": {}, "b": FASTER}, invalid=[0])])
    assert found["engines"]["a"]["valid_runs"] == 3 and by_metric(found)["e2e"]["blocks"] == 3
    assert "run 0 (a) is not compared: requests were sent late" in found["warnings"]
    nothing = compare([made({"a": {}, "b": FASTER}, "none", invalid=range(8))])
    assert nothing["outcome"]["favoured"] is None and nothing["outcome"]["outcome"] == "not enough data"
    assert printed(nothing)


def test_a_difference_within_what_the_client_adds_ranks_nobody(made):
    """40 ms of TTFT, measured by a client that may add 50 ms; TPOT is over many tokens."""
    found = by_metric(compare([made({"a": {}, "b": FASTER}, calibration_s=0.05)]))
    assert (
        found["ttft"]["outcome"] == "not enough data"
        and "what the client may add, 50 ms" in found["ttft"]["reason"]
    )
    assert found["tpot"]["outcome"] == "b"
    unknown = compare([made({"a": {}, "b": FASTER}, "u", calibration_s=None)])
    assert any("--no-calibrate" in text for text in unknown["warnings"])


def test_a_control_that_fails_lowers_the_trust(made):
    """A machine that gets 12 % slower with every run: the runs of one engine differ by more than the margin."""
    found = compare([made({"a": {}, "b": {}}, machine=comparing.Machine(run=0, stall=0.02, drift=0.12))])
    assert found["control"]["ok"] is False and found["outcome"]["trust"] == "lowered"
    assert "the control failed: runs" in found["warnings"][0]
    assert found["outcome"]["favoured"] is None


def test_a_cache_that_was_not_empty_is_told(made):
    """Cached tokens that no prompt of the run explains; a cache that nothing emptied."""
    found = compare([made({"a": {}, "b": FASTER}, unexplained=200)])
    assert "run 0 (a): 20 % of its cached tokens cannot be of its own prompts" in found["warnings"][0]
    assert found["outcome"]["trust"] == "lowered"
    found = compare([made({"a": {}, "b": FASTER}, "kept", isolated=False)])
    assert "the cache may hold prompts of earlier runs: nothing empties it" in found["warnings"][0]


def test_cached_tokens_are_held_against_the_workload_where_the_cache_has_no_model(made, of):
    """Twice the shared prefix is told to be cached: half of it is not of this run."""
    folder = made({"a": {}, "b": FASTER})
    for run in Results(folder).runs:
        told = run.told()
        told["cache"] = None
        (run.path / "run.json").write_text(json.dumps(told))
        if run.name == "b":
            rows = run.requests().with_columns(pl.col("cached_tokens") * 2)
            rows.write_parquet(run.path / "requests.parquet")
    warnings = compare([folder])["warnings"]
    assert len(warnings) == 4 and all("(b): 50 % of its cached tokens" in text for text in warnings)


def test_an_order_that_confounds_is_told(made):
    """All of a, then all of b."""
    found = compare([made({"a": {}, "b": FASTER}, order="blocked")])
    assert "each engine had all its runs before the next one" in found["warnings"][0]


def test_answers_of_other_length_are_not_compared_by_e2e(made):
    """b writes half as much: E2E would favour it, TTFT and TPOT have no difference."""
    found = compare([made({"a": {}, "b": {"answer": 0.5}})])
    assert by_metric(found)["e2e"]["outcome"] == "b"
    assert (found["outcome"]["metric"], found["outcome"]["favoured"]) == ("ttft and tpot", None)
    assert found["outcome"]["outcome"] == "no practical difference"
    assert any("E2E compares other work" in text for text in found["warnings"])


def test_a_closed_loop_is_decided_by_throughput_first(made):
    """By hand: the mean of log ratios of output tokens a second, block by block."""
    folder = made({"a": {}, "b": FASTER}, mode="closed")
    one = by_metric(compare([folder]))["throughput"]
    rates = {
        name: [r.told()["summary"]["output_tokens_per_s"] for r in Results(folder).runs if r.name == name]
        for name in "ab"
    }
    assert one["ratio"] == pytest.approx(np.exp(np.mean(np.log(rates["b"]) - np.log(rates["a"]))))
    assert compare([folder])["workloads"][0]["decides"] == ["throughput", "e2e"]


def test_three_engines(made):
    """The best of three is favoured; where two are equally good, both are named."""
    found = compare([made({"a": {}, "b": FASTER, "c": {"ttft": math.log(0.6), "tpot": math.log(0.6)}})])
    assert found["outcome"]["favoured"] == "c" and len(found["pairs"]) % 3 == 0
    found = compare(
        [made({"a": FASTER, "b": {}, "c": FASTER}, "tie", machine=comparing.Machine(0.001, 0, 0.001, 0.05))]
    )
    assert found["outcome"]["favoured"] is None and found["outcome"]["among"] == ["a", "c"]
    assert found["outcome"]["outcome"] == "no practical difference"
    assert "No practical difference: a, c" in printed(found)


def swept(folder, found):
    parts = [{"workload": 0, "client_late_at": None, "trials": [], **one} for one in found]
    comparing.amended(folder, sweep=parts)


@pytest.mark.parametrize(
    ("a", "b", "outcome"),
    [
        ((2.0, 2.1), (3.0, 3.1), "b"),  # 3.0 / 2.1 is above the margin
        ((3.0, 3.1), (2.0, 2.1), "a"),
        ((2.0, 2.05), (2.02, 2.06), "no practical difference"),  # at most 3 % apart
        ((2.0, 2.5), (2.4, 2.6), "not enough data"),
        ((None, 0.5), (3.0, None), "b"),  # not even the lowest; all that were tried
        ((3.0, None), (3.0, None), "not enough data"),
    ],
)
def test_the_highest_rate_decides_a_sweep(made, of, a, b, outcome):
    """Between the highest speed that held and the lowest that did not."""
    folder = made({"a": {}, "b": {}}, repeats=2)
    swept(folder, [{"name": n, "speed": s, "failed_at": f} for n, (s, f) in (("a", a), ("b", b))])
    found = compare([folder])
    one = found["pairs"][-1]
    assert (one["metric"], one["outcome"]) == ("max_rate", outcome)
    assert found["outcome"]["favoured"] == {"a": "a", "b": "b"}.get(outcome)
    per_s = of.n / np.ptp(of.arrival_s)
    if b[0]:
        assert found["engines"]["b"]["max_rate_per_s"] == pytest.approx(b[0] * per_s, rel=1e-4)
    assert "highest rate, requests/s" in printed(found)


def test_energy_is_power_over_time(made):
    """Two GPUs, one at 300 W, one whose power grows from 100 W by one a second: their mean over the run, over the tokens of the answers."""
    folder = made({"a": {}, "b": {}}, repeats=2)
    for run in Results(folder).runs:
        if run.name == "a":
            at = np.arange(0, int(1e6 * run.told()["summary"]["window_s"]), 1_000_000)
            rows = [
                {"at_us": int(t), "gpu": g, "utilization": 1.0, "memory_bytes": 1, "power_w": w}
                for t in at
                for g, w in ((0, 100.0 + t / 1e6), (1, 300.0))
            ]
            pl.from_arrow(pa.Table.from_pylist(rows, schema=schema.arrow(schema.RESULT_GPU))).write_parquet(
                run.path / "gpu.parquet"
            )
    found = compare([folder])["engines"]
    rate = found["a"]["throughput"]["output_tokens_per_s"]
    assert found["a"]["joules_per_token"] == pytest.approx((400 + at[-1] / 2e6) / rate, rel=1e-2)
    assert found["b"]["joules_per_token"] is None


def test_the_command_writes_prints_and_refuses(made, tmp_path):
    """comparison.json beside the results or where it is asked for; errors name the option."""
    folder = str(made({"vllm": {}, "sglang": FASTER}))
    run = CliRunner().invoke(
        cli,
        ["compare", folder, "--slo", "ttft=300ms,tpot=50ms", "--price", "vllm=2.5"],
        catch_exceptions=False,
    )
    assert run.exit_code == 0 and "Favoured: sglang" in run.stdout and "Comparison  " in run.stdout
    kept = json.loads((tmp_path / "r" / "comparison.json").read_text())
    assert (
        kept["engines"]["vllm"]["usd_per_hour"] == 2.5 and kept["engines"]["sglang"]["usd_per_hour"] is None
    )
    run = CliRunner().invoke(
        cli, ["compare", folder, "--json", "-o", str(tmp_path / "x" / "c.json")], catch_exceptions=False
    )
    assert json.loads(run.stdout) == json.loads((tmp_path / "x" / "c.json").read_text())
    for words, error in (
        (["--price", "vlm=2"], "no engine is called that"),
        (["--price", "vllm=x"], "is no price"),
        (["--gpu", "h10"], "did you mean h100"),
        ([folder], "given twice"),
    ):
        with pytest.raises(UsageError, match=error):
            CliRunner().invoke(cli, ["compare", folder, *words], catch_exceptions=False)
    with pytest.raises(TraceprofError, match="no results here"):
        CliRunner().invoke(cli, ["compare", str(tmp_path)], catch_exceptions=False)
    with pytest.raises(UsageError, match="no workload was given to two engines"):
        compare([made({"alone": {}}, "alone")])
