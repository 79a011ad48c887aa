"""The verdict: rules with the user's number beside each threshold, simulation and replay over them, flips, split."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceprof.errors import UsageError
from traceprof.latency import parse_slo
from traceprof.verdict import Constraints, rules, verdict
from traceprof.verdict.flips import by_rules
from traceprof.verdict.rules import Facts


def profile(
    *,
    rate=0.2,
    users=40,
    models=1,
    measured=True,
    exact=True,
    requests=10_000,
    structured=None,
    rounding=0.01,
):
    load = {"p99": users, "peak": (users or 0) * 2, "measured": measured, "busy": {"p99": users}}
    return {
        "trace": {
            "models": {f"m{i}": 1 for i in range(models)},
            "requests": requests,
            "span_seconds": 3600.0,
        },
        "tokenizer": {"exact": exact},
        "prefix": None if rate is None else {"hit_rate": {"1": rate, "16": max(0, rate - rounding)}},
        "concurrency": None if users is None else load,
        "structured": None
        if structured is None
        else {"requests": 1000, "response_format": round(1000 * structured)},
    }


def simulation(
    speeds,
    *,
    card="h100",
    given=True,
    slo_given=True,
    calibrated=None,
    quantile=0.99,
    per_s=None,
    sharing=(),
    users=(),
    parts=(),
):
    """What a simulation says, as far as a verdict reads it."""
    return {
        "machine": {"card": card, "vendor": {"h100": "nvidia"}.get(card, card), "label": f"Llama-3.1-8B on {card}", "gpus": 1, "given": given, "capacity_tokens": 400_000},
        "slo": {"ttft_s": 2.0, "tpot_s": 0.1, "quantile": quantile, "given": slo_given, "words": "TTFT 2 s, TPOT 100 ms"},
        "requests": 5000,
        "engines": {
            name: {"label": rules.label(name), "requests": 5000, "refused": 0, "max_speed": s, "slo_share": 0.4 if s is None else 1.0,
                   "requests_per_s": per_s, "replicas": None, "usd_per_million_tokens": None, "cold_start_s": 60.0}
            for name, s in speeds.items()
        },
        "sweeps": {"sharing": list(sharing), "users": list(users)},
        "parts": list(parts),
        "calibrated": calibrated,
    }  # fmt: skip


def simulated(speeds, *, case=None, constraints=None, **more):
    return verdict(
        {**profile(**(case or {})), "simulation": simulation(speeds, **more)}, constraints=constraints
    )


def comparison(
    favoured=None,
    outcome="favoured",
    *,
    among=(),
    ok=True,
    simulated=False,
    doubts=(),
    engines=("sglang", "vllm"),
):
    pair = {
        "a": "sglang",
        "b": "vllm",
        "metric": "e2e",
        "scale": "ratio",
        "ratio": 1.2,
        "low": 1.1,
        "high": 1.3,
        "outcome": "a",
    }
    return {
        "results": ["results"],
        "simulated": simulated,
        "margin": 0.05,
        "engines": {name: {"engine": name, "max_rate_per_s": 1.0, "goodput_per_s": 1.0} for name in engines},
        "pairs": [pair],
        "control": {"aa": [], "ok": ok},
        "split_by_variant": None,
        "outcome": {"favoured": favoured, "outcome": outcome, "among": list(among), "why": "E2E is 20 % lower", "metric": "e2e",
                    "trust": "lowered" if doubts else "full", "doubts": list(doubts)},
    }  # fmt: skip


# ---- rules


@pytest.mark.parametrize(
    ("case", "constraints", "engines"),
    [
        ({"users": 1, "rate": 0.9}, {}, ["ollama", "llamacpp"]),
        ({"users": 1, "rate": 0.0}, {}, ["ollama", "llamacpp"]),
        ({"users": 3, "rate": 0.1}, {}, ["llamacpp", "ollama"]),
        ({"users": 3, "rate": 0.1}, {"hardware": "apple"}, ["llamacpp", "ollama", "mlx_lm"]),
        ({"users": 3, "rate": 0.1, "structured": 0.3}, {"hardware": "apple"}, ["llamacpp", "ollama"]),
        ({"users": 30, "rate": 0.1}, {"hardware": "apple"}, ["mlx_lm", "llamacpp"]),
        ({"users": 30, "rate": 0.1}, {"hardware": "cpu"}, ["llamacpp", "vllm"]),
        ({"users": 40, "rate": 0.9}, {}, ["sglang", "vllm"]),
        ({"users": 40, "rate": 0.9, "rounding": 0.2}, {}, ["sglang"]),
        ({"users": 1000, "rate": 0.95}, {}, ["sglang", "vllm"]),
        ({"users": 40, "rate": 0.1}, {}, ["vllm"]),
        ({"users": 40, "rate": 0.1}, {"hardware": "nvidia"}, ["vllm", "tensorrt_llm"]),
        ({"users": 40, "rate": 0.1}, {"hardware": "nvidia", "ops_team": True}, ["tensorrt_llm", "vllm"]),
        ({"users": 40, "rate": 0.1}, {"hardware": "amd", "ops_team": True}, ["vllm"]),
        ({"users": 40, "rate": 0.9, "models": 8}, {"hardware": "nvidia"}, ["vllm"]),
        ({"users": None, "rate": 0.1}, {}, ["vllm"]),
        ({"users": 29, "rate": None}, {}, ["vllm"]),
        ({"users": None, "rate": None}, {}, []),
    ],
)
def test_favoured_engine(case, constraints, engines):
    """Few users: one program; many who share: SGLang or vLLM; many who do not, or many models: vLLM; hardware rules engines out."""
    found = verdict(profile(**case), constraints=Constraints(**constraints))
    assert found["engines"] == engines
    assert found["favoured"] == ("undecided" if not engines else found["favoured"])
    assert found["checked_by"] is None and "rules of thumb" in found["caveat"]


@pytest.mark.parametrize(
    ("case", "confidence"),
    [
        ({"users": 40, "rate": 0.9}, "moderate"),
        ({"users": 40, "rate": 0.55}, "low"),  # near the threshold below which another comes first
        ({"users": 40, "rate": 0.45}, "moderate"),  # vLLM is among the favoured on both sides of it
        ({"users": 6, "rate": 0.9}, "low"),
        ({"users": 40, "rate": 0.9, "measured": False}, "low"),
        ({"users": 40, "rate": 0.9, "exact": False}, "low"),
        ({"users": 40, "rate": 0.9, "requests": 20}, "low"),
        ({"users": None, "rate": 0.9}, "low"),
    ],
)
def test_rules_are_never_sure_and_unsure_where_numbers_are_weak(case, confidence):
    """Moderate at best; low when a number is missing, estimated, few, or so close to a threshold that the first engine would be out."""
    assert verdict(profile(**case))["confidence"] == confidence


def test_every_reason_and_input_states_number_and_source():
    """No reason without the user's own number and where its threshold comes from; what is not known says so."""
    found = verdict(profile(users=40, rate=0.9, models=5))
    assert [r["yours"] for r in found["reasons"]] == [
        "5 models",
        "40 in flight (p99 of busy time), 80 at the peak",
    ]
    assert all(reason["source"] for reason in found["reasons"])
    by = {one["input"]: one for one in found["inputs"]}
    assert {
        "prompt_tokens",
        "output_tokens",
        "hit_rate",
        "rounding",
        "users",
        "burst",
        "models",
        "hardware",
        "structured",
        "ops_team",
        "slo",
    } == set(by)
    assert by["structured"]["value"] is None and by["structured"]["yours"] == "not in the log"
    assert by["hit_rate"]["value"] == 0.9 and by["hit_rate"]["threshold"] == "50 %"


def test_tensorrt_llm_is_named_only_for_one_stable_model():
    """Ceiling throughput on NVIDIA is a choice of hardware and patience, which no log tells; builds rule it out for many models."""
    assert "TensorRT-LLM" in [a["engine"] for a in verdict(profile(rate=0.9))["alternatives"]]
    many = verdict(profile(models=8))
    assert "TensorRT-LLM" not in [a["engine"] for a in many["alternatives"]]
    assert "TensorRT-LLM wants a build for each of 8 models" in many["headline"]
    assert "TensorRT-LLM" not in [
        a["engine"] for a in verdict(profile(rate=0.9), constraints=Constraints("amd"))["alternatives"]
    ]


@pytest.mark.parametrize(
    ("requests", "why"), [(0, "there is no request"), (9, "there are fewer than 10 requests")]
)
def test_too_few_requests_favour_nothing(requests, why):
    """A log of which every record was rejected, or nearly."""
    found = verdict({**profile(requests=requests), "simulation": simulation({"vllm": 3.0})})
    assert (found["favoured"], found["unsure"], found["engines"]) == ("undecided", [why], [])


FACTS = st.builds(
    Facts,
    requests=st.just(1000),
    users=st.none() | st.integers(0, 60),
    hit_rate=st.none() | st.floats(0, 1),
    rounding=st.none() | st.floats(0, 0.2),
    models=st.integers(1, 9),
    structured=st.none() | st.floats(0, 0.2),
    hardware=st.sampled_from([None, *rules.HARDWARE]),
    ops_team=st.booleans(),
)


@given(FACTS)
def test_just_beyond_a_flip_the_rules_choose_what_it_says_and_before_it_as_now(of):
    """The numbers at which the verdict flips are those at which it does, and the nearest ones."""
    now = rules.choose(of)
    for flip in by_rules(of):
        if flip.side == "is":
            value = flip.at if flip.input == "hardware" else not of.ops_team
            assert rules.choose(of._replace(**{flip.input: value})) == tuple(flip.to) != now
            continue
        whole = flip.input in ("users", "models")
        down = flip.side == "below"
        step = 0 if whole else -1e-6 if down else 1e-6
        value = flip.at + step if not whole else int(flip.at)
        assert rules.choose(of._replace(**{flip.input: value})) == tuple(flip.to) != now
        before = value + (1 if down else -1) if whole else flip.at - step
        inside = before > flip.at if down else before < flip.at
        if inside and (before <= flip.yours if down else before >= flip.yours):
            assert rules.choose(of._replace(**{flip.input: before})) == now


@given(FACTS)
def test_no_engine_is_chosen_that_is_ruled_out(of):
    """Hardware and answers to a schema rule out, whatever else is said."""
    assert all(rules.allowed(name, of) is None for name in rules.choose(of))


# ---- simulation


def test_the_highest_rate_that_holds_wins_and_rests_on_simulation():
    """Beyond the margin of 10 % the faster one is favoured, with the figures of all beside it."""
    found = simulated({"vllm": 14.0, "sglang": 10.0, "ollama": None})
    assert (found["engines"], found["checked_by"], found["margin"]) == (["vllm"], "simulation", 0.1)
    assert (
        found["headline"] == "vLLM holds the objectives up to 14.0x of the recorded rate, SGLang up to 10.0x."
    )
    assert found["reasons"][0]["yours"] == "vLLM 14.0x, SGLang 10.0x, Ollama under the slowest tried"
    assert (
        "simulation: Llama-3.1-8B on h100, TTFT 2 s, TPOT 100 ms for 99 % of requests"
        in found["reasons"][0]["source"]
    )
    assert (
        found["confidence"] == "moderate"
        and "its costs are not calibrated to a replay of yours" in found["unsure"]
    )


@pytest.mark.parametrize(
    ("speeds", "case", "constraints", "engines"),
    [
        ({"vllm": 10.0, "sglang": 10.9}, {"rate": 0.1}, {}, ["vllm", "sglang"]),  # rules: little is shared
        ({"vllm": 10.9, "sglang": 10.0}, {"rate": 0.9}, {}, ["sglang", "vllm"]),  # rules: much is shared
        ({"vllm": 10.0, "sglang": 11.1}, {"rate": 0.1}, {}, ["sglang"]),
        ({"vllm": 10.0, "tensorrt_llm": 10.9}, {"rate": 0.1}, {}, ["vllm", "tensorrt_llm"]),  # no build
        ({"vllm": 10.0, "tensorrt_llm": 10.9}, {"rate": 0.1}, {"hardware": "nvidia", "ops_team": True}, ["tensorrt_llm", "vllm"]),
        ({"vllm": 10.0, "tensorrt_llm": 20.0}, {"models": 8}, {}, ["vllm"]),  # builds rule it out
        ({"lmdeploy": 10.5, "tgi": 10.0}, {"rate": 0.1}, {}, ["lmdeploy", "tgi"]),  # wider support
    ],
)  # fmt: skip
def test_within_the_margin_engines_are_level_and_rules_say_which_to_take(speeds, case, constraints, engines):
    """No practical difference: the tie is broken by the rules, by builds, by support."""
    found = simulated(speeds, case=case, constraints=Constraints(**constraints))
    assert found["engines"] == engines
    level = len(engines) > 1
    assert found["headline"].startswith("No practical difference between ") == level
    assert (f"Take {rules.label(engines[0])}" in found["headline"]) == level


def test_an_engine_that_wants_a_team_is_told_and_not_taken_where_there_is_none():
    """TensorRT-LLM 30 % ahead: the others compete, and the team that would change it is one of the flips."""
    speeds = {"vllm": 10.0, "sglang": 9.9, "tensorrt_llm": 13.0}
    found = simulated(speeds, case={"rate": 0.1}, constraints=Constraints("nvidia"))
    assert found["engines"] == ["vllm", "sglang"]
    assert (
        "TensorRT-LLM holds 30 % more, for a team that builds and tunes engines (--ops-team)."
        in found["headline"]
    )
    flip = next(f for f in found["flips"] if f["input"] == "ops_team")
    assert (flip["to"], flip["by"], flip["at"]) == (["tensorrt_llm"], "simulation", "a team")
    team = simulated(speeds, case={"rate": 0.1}, constraints=Constraints("nvidia", ops_team=True))
    assert team["engines"] == ["tensorrt_llm"]
    assert next(f for f in team["flips"] if f["input"] == "ops_team")["to"] == ["vllm", "sglang"]
    assert simulated({"tensorrt_llm": 13.0}, case={"rate": 0.1})["engines"] == ["tensorrt_llm"]  # nobody else


def test_a_log_that_is_over_before_an_engine_falls_behind_parts_no_engines():
    """5,000 requests at 25 a second are 200 s; pressed into less than 20 s they tell of a burst, not of a load: 10x is the most."""
    found = simulated({"vllm": 100.0, "sglang": 50.0, "lmdeploy": 8.0}, case={"rate": 0.9}, per_s=25.0)
    assert found["engines"] == ["sglang", "vllm"]
    assert "up to at least 10.0x of the recorded rate" in found["headline"]
    assert found["reasons"][0]["yours"] == "vLLM at least 10.0x, SGLang at least 10.0x, LMDeploy 8.0x"
    assert "the log is too short to tell engines apart beyond 10.0x of its rate" in found["unsure"]
    assert found["ranking"][0]["max_speed"] == 100.0
    longer = simulated({"vllm": 100.0, "sglang": 50.0}, case={"rate": 0.9}, per_s=1.0)
    assert longer["engines"] == ["vllm"] and not any("too short" in text for text in longer["unsure"])


def test_calibrated_costs_are_told_by_engine():
    """Whether the engines that are compared were fitted to a replay."""
    some = simulated({"vllm": 14.0, "sglang": 10.0}, calibrated=["vllm"])["unsure"]
    assert "only vLLM is calibrated, SGLang not" in some
    assert not any("calibrated" in text for text in simulated({"vllm": 14.0}, calibrated=["vllm"])["unsure"])


def test_at_light_load_the_simplest_server_is_enough():
    """Few users: not the fastest, but what holds the objectives with some slack; and where it no longer would."""
    points = [{"concurrency": 1.5 * speed, "speed": speed, "engines": {"vllm": 1.0}} for speed in (1, 2, 4)]
    found = simulated({"vllm": 80.0, "ollama": 2.4}, case={"users": 3, "rate": 0.1}, users=points)
    assert found["engines"] == ["ollama"]
    assert found["headline"].startswith("Light load: Ollama holds the objectives up to 2.4x")
    assert "vLLM would hold 80.0x, which nobody asks for" in found["headline"]
    flip = found["flips"][0]
    assert (flip["input"], flip["at"], flip["to"]) == ("users", 3.6, ["vllm"])
    assert simulated({"vllm": 80.0, "ollama": 1.4}, case={"users": 3, "rate": 0.1})["engines"] == ["vllm"]


def test_more_load_than_a_machine_holds_says_how_many_it_takes():
    """Under the recorded rate the number of replicas is what one wants to know."""
    assert "it takes 3 replicas" in simulated({"vllm": 0.4, "sglang": 0.2})["headline"]


def test_where_no_engine_holds_the_objectives_that_comes_first():
    """Which engine is the lesser question then; the rules answer it, and the verdict says that the simulation could not."""
    found = simulated({"vllm": None, "sglang": None}, case={"rate": 0.1})
    assert found["headline"].startswith(
        "No engine holds TTFT 2 s, TPOT 100 ms for 99 % of requests on Llama-3.1-8B on h100, not even at the slowest rate tried; "
        "vLLM comes closest, with 40.0 % at the recorded rate. A faster machine, more GPUs for the model, or looser objectives. vLLM first."
    )
    assert found["engines"] == ["vllm"] and found["checked_by"] is None
    assert "the simulation does not tell" in found["unsure"] and found["confidence"] == "low"


def test_a_simulation_of_another_machine_is_not_rested_on():
    """A Mac was named, an H100 simulated."""
    found = simulated({"vllm": 80.0, "sglang": 70.0}, case={"users": 3}, constraints=Constraints("apple"))
    assert found["checked_by"] is None and found["engines"] == ["llamacpp", "ollama", "mlx_lm"]
    assert "the simulation is of Llama-3.1-8B on h100, not of the hardware that was named" in found["unsure"]


def test_a_simulation_of_other_objectives_is_weak():
    """It still ranks the engines, and says for what."""
    found = simulated({"vllm": 80.0}, constraints=Constraints("nvidia", slo={"ttft": 0.5}))
    assert found["checked_by"] == "simulation" and found["confidence"] == "low"
    assert (
        "the simulation is of other objectives, TTFT 2 s, TPOT 100 ms for 99 % of requests" in found["unsure"]
    )
    same = simulated({"vllm": 80.0}, constraints=Constraints("nvidia", slo={"ttft": 2.0, "tpot": 0.1}))
    assert same["confidence"] == "moderate"


def test_where_simulation_and_rules_disagree_it_says_so():
    """The less trusted one is told beside the verdict, unless they share an engine."""
    found = simulated({"vllm": 10.0, "lmdeploy": 20.0}, case={"rate": 0.9})
    assert found["engines"] == ["lmdeploy"]
    assert found["disagreements"] == ["the rules would favour SGLang or vLLM"]
    assert simulated({"vllm": 20.0, "lmdeploy": 10.0}, case={"rate": 0.9})["disagreements"] == []


SHARING = [
    {"hit_rate": 0.0, "engines": {"vllm": 10.0, "sglang": 8.0}},
    {"hit_rate": 1.0, "engines": {"vllm": 20.0, "sglang": 30.0}},
]  # vllm 10 + 10 h, sglang 8 + 22 h: level from 10 + 10 h = 1.1 (8 + 22 h), h = 0.0845, to 1.1 (10 + 10 h) = 8 + 22 h, h = 0.2727


def test_flips_are_read_off_the_sweep_of_sharing_by_straight_lines():
    """First level, then overtaken; each with its distance."""
    found = simulated({"vllm": 10.0, "sglang": 8.0}, case={"rate": 0.02}, sharing=SHARING)
    flips = [
        (f["input"], f["side"], f["at"], f["to"], f["near"])
        for f in found["flips"]
        if f["by"] == "simulation"
    ]
    assert [(i, s, t, n) for i, s, _, t, n in flips] == [
        ("hit_rate", "from", ["vllm", "sglang"], False),
        ("hit_rate", "from", ["sglang"], False),
    ]
    assert [at for *_, at, _, _ in flips] == pytest.approx([0.0845, 0.2727], abs=2e-4)
    assert "points above yours, simulated" in found["flips"][0]["text"]
    down = simulated({"vllm": 17.0, "sglang": 24.0}, case={"rate": 0.7}, sharing=SHARING)["flips"]
    assert [(f["side"], f["to"]) for f in down if f["by"] == "simulation"] == [
        ("below", ["vllm", "sglang"]),
        ("below", ["vllm"]),
    ]


def test_close_to_being_overtaken_is_unsure():
    """Within ten points of where the favoured engine is no longer level with the best."""
    found = simulated({"vllm": 12.0, "sglang": 12.4}, case={"rate": 0.2}, sharing=SHARING)
    assert found["engines"] == ["vllm", "sglang"]
    assert found["confidence"] == "moderate"  # alone, either of the two stays in the verdict
    alone = [
        {"hit_rate": 0.0, "engines": {"vllm": 10.0, "sglang": 8.0}},
        {"hit_rate": 0.1, "engines": {"vllm": 10.0, "sglang": 20.0}},
    ]
    close = simulated({"vllm": 10.0, "sglang": 8.6}, case={"rate": 0.005}, sharing=alone)
    assert close["confidence"] == "low" and any(
        u.startswith("it is close to a flip") for u in close["unsure"]
    )


# ---- replay


def test_a_replay_is_trusted_over_the_simulation_and_says_where_they_disagree():
    """Replay over simulation over rules."""
    told = {**profile(rate=0.1), "simulation": simulation({"vllm": 14.0, "sglang": 10.0})}
    found = verdict(told, comparison("sglang"))
    assert (found["engines"], found["checked_by"], found["margin"]) == (["sglang"], "replay", 0.05)
    assert found["disagreements"] == ["the simulation would favour vLLM", "the rules would favour vLLM"]
    assert found["confidence"] == "moderate"  # it would be high if nothing disagreed
    assert found["reasons"][0]["yours"] == "vllm / sglang = 1.200 (1.100 to 1.300)"


@pytest.mark.parametrize(
    ("told", "confidence", "checked_by"),
    [
        (comparison("sglang"), "high", "replay"),
        (comparison("sglang", ok=None), "moderate", "replay"),
        (comparison("sglang", ok=False, doubts=["the control failed: runs 1 and 3 differ"]), "low", "replay"),
        (comparison("sglang", simulated=True), "moderate", "simulation"),
        (comparison(None, "no practical difference", among=["sglang", "vllm"]), "high", "replay"),
        (comparison(None, "not enough data", among=["sglang", "vllm"]), "low", None),
    ],
)
def test_only_a_live_replay_whose_control_held_is_sure(told, confidence, checked_by):
    """High takes live engines and an engine that did not differ from itself; a replay that tells nothing leaves it to the rules."""
    found = verdict(profile(rate=0.9), told)
    assert (found["confidence"], found["checked_by"]) == (confidence, checked_by)
    if checked_by is None:
        assert "the replay does not tell" in found["unsure"] and found["engines"] == ["sglang", "vllm"]


def test_a_comparison_of_simulated_runs_is_a_simulation():
    """Held against the profile's own simulation, whatever that one holds."""
    for speeds in ({"vllm": 14.0, "sglang": 10.0}, {"vllm": None, "sglang": None}):
        found = verdict(
            {**profile(rate=0.9), "simulation": simulation(speeds)}, comparison("sglang", simulated=True)
        )
        assert (found["engines"], found["checked_by"]) == (["sglang"], "simulation")


def test_two_contenders_of_one_engine_keep_their_names():
    """vLLM against vLLM with other flags."""
    told = comparison("vllm-b", engines=("vllm-a", "vllm-b"))
    for name in told["engines"]:
        told["engines"][name]["engine"] = "vllm"
    found = verdict(profile(), told)
    assert found["engines"] == ["vllm-b"] and found["headline"].startswith("vllm-b won the replay")


# ---- split


def part(value, share, by="model", **speeds):
    return {"by": by, "value": value, "requests": 100, "share": share, "hit_rate": 0.5, "engines": speeds}


def test_a_split_gains_what_the_parts_machines_add_up_to():
    """1/10 + 1/8 with vLLM against 1/10 + 1/16 split; one machine does it today, so it does not pay yet."""
    parts = [part("chat", 0.6, vllm=10.0, sglang=5.0), part("code", 0.4, vllm=8.0, sglang=16.0)]
    split = simulated({"vllm": 9.0, "sglang": 7.0}, parts=parts)["split"]
    assert split["gain"] == pytest.approx((1 / 10 + 1 / 8) / (1 / 10 + 1 / 16) - 1)
    assert (split["single"], split["default"], split["pays_now"]) == ("vllm", "vllm", False)
    assert split["rule"] == "Model code to SGLang (40.0 % of input tokens). All else to vLLM."
    assert (
        split["replicas"] == {"single": 1, "split": 2}
        and "it pays once the traffic has grown" in split["text"]
    )
    heavy = [{**p, "engines": {n: s / 20 for n, s in p["engines"].items()}} for p in parts]
    assert simulated({"vllm": 0.4, "sglang": 0.3}, parts=heavy)["split"]["pays_now"]


def test_hours_do_not_add_up():
    """By hour the busiest counts: 1/2 with vLLM, 1/4 split, since vLLM's night takes as much."""
    parts = [part("9", 0.7, "hour", vllm=2.0, sglang=4.0), part("23", 0.3, "hour", vllm=4.0, sglang=2.0)]
    split = simulated({"vllm": 2.0, "sglang": 2.0}, parts=parts)["split"]
    assert split["gain"] == pytest.approx((1 / 2) / (1 / 4) - 1)
    assert "each change costs a cold start" in split["text"] and "(UTC)" in split["rule"]


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [part("chat", 1.0, vllm=10.0, sglang=5.0)],  # one part
        [
            part("chat", 0.5, vllm=10.0, sglang=5.0),
            part("code", 0.5, vllm=8.0, sglang=8.7),
        ],  # within the margin
        [
            part("chat", 0.95, vllm=1.0, sglang=0.5),
            part("code", 0.05, vllm=20.0, sglang=40.0),
        ],  # too small a part
        [
            part("chat", 0.5, vllm=10.0, mlx_lm=50.0),
            part("code", 0.5, vllm=8.0, mlx_lm=1.0),
        ],  # does not run there
        [
            part("chat", 0.5, vllm=None, sglang=5.0),
            part("code", 0.5, vllm=8.0, sglang=None),
        ],  # no engine serves all
    ],
)
def test_no_gain_above_the_margin_is_no_split(parts):
    """A split costs operations, so it must gain more than what a simulation cannot tell."""
    assert (
        simulated({"vllm": 9.0, "sglang": 7.0}, parts=parts, constraints=Constraints("nvidia"))["split"]
        is None
    )


def test_the_best_way_to_split_is_the_one_that_is_told():
    """By tenant it gains more than by model."""
    parts = [
        part("chat", 0.5, vllm=10.0, sglang=8.0), part("code", 0.5, vllm=8.0, sglang=12.0),
        part("ours", 0.5, "tenant", vllm=10.0, sglang=2.0), part("theirs", 0.5, "tenant", vllm=2.0, sglang=10.0),
    ]  # fmt: skip
    assert simulated({"vllm": 9.0, "sglang": 7.0}, parts=parts)["split"]["by"] == "tenant"


# ---- what goes in


def test_nothing_of_what_goes_in_is_changed():
    """A verdict is a pure function."""
    told = {**profile(rate=0.7), "simulation": simulation({"vllm": 10.0, "sglang": 9.5}, sharing=SHARING)}
    kept = copy.deepcopy(told)
    assert verdict(told) == verdict(told) and told == kept


@pytest.mark.parametrize("text", ["ttft=500", "ttft=0s", "ttft=1s,ttft=2s", "itl=5ms", "", "ttft=-1s"])
def test_objectives_that_cannot_be_read_are_refused(text):
    """With what can be written instead."""
    with pytest.raises(UsageError, match="is no objective"):
        parse_slo(text)


def test_hardware_that_is_not_known_is_refused():
    """With what is."""
    with pytest.raises(UsageError, match="no hardware is called 'tpu'"):
        Constraints.of("tpu")
