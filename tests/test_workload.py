"""From a trace to a workload: its prompts, times and expectations against the trace's own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import vocabularies
from tests.conftest import CLI, FORMATS, SAMPLES, jsonl, pair, table
from tests.conftest import asked as how_to_read
from tests.naive import common_prefix
from traceprof import tokenizer as tk
from traceprof.caches import ENGINES
from traceprof.errors import TraceprofError, UsageError
from traceprof.ingest import Options as Ingest
from traceprof.ingest import ingest
from traceprof.lab import SLOW, Machine
from traceprof.privacy import Key, protect
from traceprof.profiler import profile
from traceprof.tokens import tokenize
from traceprof.workload import content, expected
from traceprof.workload.make import Options, make_workload
from traceprof.workloads import Workload

BUILT_IN = tk.load()
FEW = ("vllm", "infinite")  # engines, where it does not matter which


def make(trace, folder, name="w.parquet", machine=None, **words):
    """The workload of a trace."""
    return make_workload(trace, folder / name, Options(**{"engines": FEW, **words}), machine=machine)


def plain(workload):
    """Its rows as dicts."""
    return pa.Table.from_batches(list(workload.batches())).to_pylist()


def rows_of(workload):
    """Its rows as dicts, after a look at what must hold for every workload."""
    rows = plain(workload)
    meta = workload.meta
    assert meta["requests"] == len(rows) and meta["input_tokens"] == sum(r["input_tokens"] for r in rows)
    assert meta["output_tokens"] == sum(r["output_tokens"] or 0 for r in rows)
    assert [r["index"] for r in rows] == list(range(len(rows)))
    arrivals = [r["arrival_us"] for r in rows]
    assert arrivals == sorted(arrivals) and arrivals[0] == 0 and meta["span_us"] == arrivals[-1]
    turns: dict = {}
    for r in rows:
        said = [name for name in ("messages_json", "prompt_text", "prompt_ids") if r[name] is not None]
        endpoint = {"messages_json": "chat", "prompt_text": "completions", "prompt_ids": "ids"}
        assert [endpoint[name] for name in said] == [r["endpoint"]]
        if r["parent"] is None:
            assert r["think_us"] is None
        else:
            assert r["parent"] < r["index"] and rows[r["parent"]]["session_id"] == r["session_id"]
        if r["session_id"] is not None:
            assert r["turn_index"] == turns.get(r["session_id"], 0)
            turns[r["session_id"]] = r["turn_index"] + 1
    ids = prompts(rows)
    assert [len(one) for one in ids] == [r["input_tokens"] for r in rows]
    # ids of the log's own tokenizer are not those of the built-in one
    caches = [
        (meta["engine_per_model"] and r["model"], r["cache_salt"], r["endpoint"] == "ids") for r in rows
    ]
    shared = [0] * len(rows)
    for i, r in enumerate(rows):
        others = [common_prefix(ids[i], ids[j]) if caches[i] == caches[j] else 0 for j in range(i)]
        shared[i] = max(others, default=0)
        assert r["prefix_tokens"] == shared[i]
        assert (r["prefix_of"] is None) == (shared[i] == 0)
        assert r["prefix_of"] is None or others[r["prefix_of"]] == shared[i]
    assert meta["hit_tokens"] == sum(shared)
    return rows


def prompts(rows, tokenizer=BUILT_IN):
    """The token ids of each row's prompt, as an engine with that tokenizer sees them."""
    columns = ([r[name] for r in rows] for name in ("messages_json", "tools_json", "prompt_text"))
    got = tk.encode_requests(tokenizer, *columns).input
    return [
        r["prompt_ids"] or got.ids[got.offsets[i] : got.offsets[i + 1]].tolist() for i, r in enumerate(rows)
    ]


def hits(trace, folder, block):
    """{request: hit tokens} of a trace, as its profile has them."""
    profile(trace, folder / "profile")
    found = pl.read_parquet(folder / "profile" / "requests.parquet")
    return dict(zip(found["request_id"], found[f"hit_tokens_{block}"], strict=True))


def chat(number, words, **changes):
    """A chat request of these words; `model` and others may be changed."""
    model = changes.pop("model", "m")
    messages = [{"role": "system", "content": "You answer."}, {"role": "user", "content": words}]
    return pair(number, request={"model": model, "messages": messages}, **changes)


@pytest.fixture
def log():
    """Conversations of two tenants whose turns go on, and some single requests."""
    out = []
    for s in range(4):
        said = [{"role": "system", "content": "You are a careful assistant of few words. " * 4}]
        for turn in range(3):
            said.append({"role": "user", "content": f"Question {turn} of conversation {s}, at some length."})
            n = 10 * turn + s
            out.append(
                pair(n + 1, session_id=f"s{s}", tenant_id=f"t{s % 2}", latency_ms=700,
                     request={"model": "m", "messages": list(said), "temperature": 0.7, "max_tokens": 99, "top_p": 0.9})
            )  # fmt: skip
            said.append({"role": "assistant", "content": f"answer {n + 1}"})
    return sorted(out, key=lambda one: one["timestamp"])


# -- the trace's own prompts -------------------------------------------------------------------------------------


def test_asis_is_what_the_trace_holds(ingested, log, tmp_path):
    """Messages, sessions, turns, times, think times, lengths and parameters."""
    trace = ingested(log)
    workload = make(trace, tmp_path)
    rows = rows_of(workload)
    assert workload.meta["prompts"] == "the trace's own"
    for r, logged in zip(rows, log, strict=True):
        asked = logged["request"]
        assert json.loads(r["messages_json"]) == asked["messages"]
        assert (r["request_id"], r["session_id"], r["tenant_id"]) == (
            logged["request_id"], logged["session_id"], logged["tenant_id"],
        )  # fmt: skip
        assert r["model"] == "m" and r["recorded_e2e_us"] == 700_000
        assert json.loads(r["params_json"]) == {"temperature": 0.7, "top_p": 0.9}
    assert [r["arrival_us"] // 1_000_000 for r in rows] == [10 * t + s for t in range(3) for s in range(4)]
    assert [r["think_us"] for r in rows] == [None] * 4 + [9_300_000] * 8
    assert [r["parent"] for r in rows] == [None] * 4 + list(range(8))
    answers = table(tokenized(trace), "tokens")["output_symbols"].to_list()
    assert [r["output_tokens"] for r in rows] == answers
    assert not trace.parts("tokens") or trace.manifest["privacy"] == "text"


def tokenized(trace):
    tokenize(trace)
    return trace


def test_the_clients_limit_stands_where_no_length_is_known(ingested, tmp_path):
    """The engine decides, within it."""
    asked = pair(1, response=None)
    asked["request"]["max_tokens"] = 64
    (row,) = rows_of(make(ingested([asked]), tmp_path))
    assert row["output_tokens"] is None and json.loads(row["params_json"]) == {"max_tokens": 64}


def test_tools_and_media_of_messages(ingested, tmp_path):
    """Tools go along; of an image the trace has no more than its hash, so text stands there, and it is said."""
    tools = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    asked = pair(1)
    asked["request"] |= {"tools": tools}
    seen = pair(2)
    seen["request"]["messages"] = [{"role": "user", "content": [{"type": "text", "text": "what?"}, image]}]
    workload = make(ingested([asked, seen]), tmp_path)
    first, second = rows_of(workload)
    assert json.loads(first["tools_json"]) == tools and second["tools_json"] is None
    said = json.loads(second["messages_json"])[0]["content"]
    assert (
        said.startswith("what?\n") and "image" in said
    )  # one text: engines join parts each in their own way
    assert any("in place of images" in note for note in workload.meta["notes"])


@pytest.mark.parametrize(
    ("sample", "model", "endpoint", "column"),
    [
        ("openai.completions.jsonl", "base-8b", "completions", "prompt_text"),
        ("planted.jsonl", "planted-a", "ids", "prompt_ids"),
    ],
)  # fmt: skip
def test_prompts_of_completions_are_text_and_those_of_token_traces_ids(
    tmp_path, sample, model, endpoint, column
):
    """As they stand in the trace."""
    trace = ingest([SAMPLES / sample], tmp_path / "trace")
    rows = plain(make(trace, tmp_path, models=(model,)))
    assert rows and {r["endpoint"] for r in rows} == {endpoint}
    if column == "prompt_text":
        known = set(table(trace, "content")["prompt_text"])
        assert {r[column] for r in rows} <= known
    else:
        assert {tuple(r[column]) for r in rows} <= {tuple(ids) for ids in table(trace, "tokens")["input_ids"]}


@pytest.mark.parametrize("sample", ["conversation.jsonl", "openai-responses.jsonl", "helicone.jsonl", "ollama.jsonl", "planted.jsonl"])  # fmt: skip
def test_shared_profiles_as_the_trace_does(tmp_path, sample):
    """Its own prompts with its own sharing: request by request, after the way through a log of the workload."""
    trace = tokenized(ingest([SAMPLES / sample], tmp_path / "trace"))
    rows = rows_of(make(trace, tmp_path, variant="shared"))
    want = hits(trace, tmp_path, 1)
    again = tokenized(logged(rows, tmp_path))
    got = hits(again, tmp_path / "again", 1)
    assert got == {name: want[name] for name in got} and len(got) == len(rows)


def logged(rows, folder):
    """A trace of the log that an OpenAI server keeps of a workload's requests."""
    lines = []
    for i, r in enumerate(rows):
        body = {"model": r["model"] or "m", "max_tokens": r["output_tokens"]}
        if r["messages_json"]:
            body |= {"messages": json.loads(r["messages_json"])}
        else:
            body |= {"prompt": r["prompt_text"] or r["prompt_ids"]}
        if r["tools_json"]:
            body |= {"tools": json.loads(r["tools_json"])}
        lines.append({"request_id": r["request_id"], "timestamp": 1_700_000_000 + i, "request": body})
    path = folder / "again" / "log.jsonl"
    path.parent.mkdir()
    path.write_bytes(jsonl(lines))
    return ingest([path], folder / "again" / "trace")


# -- made prompts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["text", "ids"])
@pytest.mark.parametrize("sample", ["mooncake.jsonl", "qwen-bailian.jsonl", "agentic-mooncake.jsonl"])  # fmt: skip
def test_prompts_made_from_hashes_have_the_traces_hit_tokens(tmp_path, sample, how):
    """Request by request, to the token, at the trace's own block size; lengths and times are the trace's."""
    trace = ingest([SAMPLES / sample], tmp_path / "trace")
    rows = rows_of(make(trace, tmp_path, variant="shared", prompts=how))
    requests = table(trace, "requests")
    unit = int(requests["block_size"].drop_nulls()[0])
    want = hits(trace, tmp_path, unit) if unit in (1, 16, 32, 64, 128, 256, 512) else None
    lengths = dict(zip(requests["request_id"], requests["input_tokens"], strict=True))
    assert {r["request_id"]: r["input_tokens"] for r in rows} == {r["request_id"]: lengths[r["request_id"]] for r in rows}  # fmt: skip
    assert len(rows) == len(requests)
    if want is not None:
        assert {r["request_id"]: r["prefix_tokens"] for r in rows} == want


blocks = st.lists(
    st.lists(st.integers(0, 1), min_size=1, max_size=40), min_size=1, max_size=12
)  # what prompts were, in tokens of which only the hashes of blocks are known


@settings(max_examples=20)
@given(prompts=blocks, size=st.sampled_from([2, 4, 16]), how=st.sampled_from(["text", "ids"]))
def test_prompts_made_from_any_hashes_share_block_by_block_what_the_real_ones_did(
    tmp_path_factory, prompts, size, how
):
    """Every pair: whole blocks as far as the hashes agree, and not a token more."""
    folder = tmp_path_factory.mktemp("hashes")
    number: dict = {}
    chains = [
        [number.setdefault(tuple(p[: i + size]), len(number)) for i in range(0, len(p), size)]
        for p in prompts
    ]
    records = [
        {"timestamp": i, "input_length": len(p), "output_length": 1, "hash_ids": chain}
        for i, (p, chain) in enumerate(zip(prompts, chains, strict=True))
    ]
    (folder / "log.jsonl").write_bytes(jsonl(records))
    trace = ingest([folder / "log.jsonl"], folder / "trace", Ingest(block_size=size))
    rows = rows_of(make(trace, folder, prompts=how))
    ids = globals()["prompts"](rows)
    assert [len(one) for one in ids] == [len(p) for p in prompts]
    for i in range(len(prompts)):
        for j in range(i):
            agree = common_prefix(chains[i], chains[j])
            assert common_prefix(ids[i], ids[j]) == min(agree * size, len(prompts[i]), len(prompts[j]))
    if size == 16:
        assert [r["prefix_tokens"] for r in rows] == list(hits(trace, folder, 16).values())


def test_the_hash_trace_and_its_workload_profile_alike(tmp_path):
    """Made text through a log, our ingest, tokenizer and profiler: hit tokens and engines' caches as those of the hashes."""
    trace = ingest([SAMPLES / "mooncake.jsonl"], tmp_path / "trace")
    rows = rows_of(make(trace, tmp_path))
    want = hits(trace, tmp_path, 512)
    again = hits(tokenized(logged(rows, tmp_path)), tmp_path / "again", 512)
    assert again == want and sum(want.values()) > 0


def test_a_block_hash_of_privacy_is_enough(ingested, log, tmp_path):
    """Of a trace without text, made prompts share whole blocks as the text did; what of it no block held is not shared."""
    trace = tokenized(ingested(log))
    sealed = protect(trace, tmp_path / "sealed", "hashes", Key.random(), unit=16)
    rows = rows_of(make(sealed, tmp_path))
    want = list(hits(trace, tmp_path, 16).values())
    assert [r["prefix_tokens"] // 16 * 16 for r in rows] == want and sum(want) > 0
    assert [r["input_tokens"] for r in rows] == table(trace, "tokens")["input_symbols"].to_list()


def test_synthesized_prompts_share_token_by_token_and_tell_nothing(ingested, log, tmp_path):
    """Same lengths, same sharing; no word of a prompt of the trace is in the file."""
    trace = ingested(log)
    own = rows_of(make(trace, tmp_path))
    made = make(trace, tmp_path, "made.parquet", synthesize=True)
    rows = rows_of(made)
    for mine, its in zip(rows, own, strict=True):
        assert mine["input_tokens"] == its["input_tokens"]
        assert mine["prefix_tokens"] == its["prefix_tokens"]
        assert mine["messages_json"] is None and mine["tools_json"] is None
        same = (
            "request_id",
            "session_id",
            "arrival_us",
            "think_us",
            "parent",
            "output_tokens",
            "params_json",
        )
        assert {k: mine[k] for k in same} == {k: its[k] for k in same}
    said = json.dumps(rows) + json.dumps(made.meta)
    assert "careful" not in said and "conversation" not in said and "Question" not in said
    assert not any("made" in note for note in made.meta["notes"])


@pytest.mark.parametrize("how", ["text", "ids"])
def test_unique_prompts_have_the_same_lengths_and_times_and_share_nothing(ingested, log, tmp_path, how):
    """From the first token on."""
    trace = ingested(log)
    own = rows_of(make(trace, tmp_path))
    unique = make(trace, tmp_path, "unique.parquet", variant="unique", prompts=how)
    rows = rows_of(unique)
    for mine, its in zip(rows, own, strict=True):
        same = (
            "input_tokens",
            "output_tokens",
            "arrival_us",
            "think_us",
            "parent",
            "session_id",
            "request_id",
        )
        assert {k: mine[k] for k in same} == {k: its[k] for k in same}
    assert len({one[0] for one in prompts(rows)}) == len(rows)
    assert unique.meta["hit_tokens"] == 0
    assert {name: one["hit_tokens"] for name, one in unique.meta["expected"].items()} == dict.fromkeys(FEW, 0)
    if how == "text":
        found = hits(tokenized(logged(rows, tmp_path)), tmp_path / "again", 1)
        assert set(found.values()) == {0}


def test_unique_needs_no_more_than_lengths(tmp_path):
    """And the other variants say that they need more."""
    trace = ingest([SAMPLES / "length-trace.jsonl"], tmp_path / "trace")
    rows = rows_of(make(trace, tmp_path, variant="unique"))
    assert [r["input_tokens"] for r in rows] == table(trace, "requests")["input_tokens"].to_list()
    with pytest.raises(TraceprofError, match=r"nothing that identifies a prompt.*--variant unique"):
        make(trace, tmp_path, variant="shared")


def test_models_on_one_engine_share_what_their_prompts_have_in_common(ingested, tmp_path):
    """Real words do, unless each model has an engine; made ones share as in the trace; a salt stays apart in any case."""
    words = "the same long question, asked again and again, word for word"
    log = [chat(n, words, model=model) for n, model in ((1, "a"), (2, "b"), (3, "a"), (4, "a"))]
    log[3]["request"]["cache_salt"] = "mine"
    trace = ingested(log)
    for asked, like in (
        ({}, [None, 0, 0, None]),
        ({"engine_per_model": True}, [None, None, 0, None]),
        ({"synthesize": True}, [None, None, 0, None]),
        ({"synthesize": True, "engine_per_model": True}, [None, None, 0, None]),
    ):
        workload = make(trace, tmp_path, **asked)
        rows = rows_of(workload)
        assert [r["prefix_of"] for r in rows][:2] == like[:2]
        assert rows[2]["prefix_tokens"] == rows[2]["input_tokens"] and rows[3]["prefix_of"] is None
        assert workload.meta["models"] == 2 and any("2 models" in note for note in workload.meta["notes"])
        assert workload.meta["trace_hit_rate"] == pytest.approx(
            rows[2]["input_tokens"] / workload.meta["input_tokens"]
        )


def test_a_chat_endpoint_is_asked_where_it_is_wanted(tmp_path):
    """One user message, as long as the trace's prompt when rendered by the tokenizer's template."""
    trace = ingest([SAMPLES / "mooncake.jsonl"], tmp_path / "trace")
    model = vocabularies.words_tokenizer(tmp_path / "model")
    tokenizer = tk.load(model)
    workload = make(trace, tmp_path, variant="unique", endpoint="chat", tokenizer=str(model), requests=20)
    rows = plain(workload)
    assert {r["endpoint"] for r in rows} == {"chat"}
    assert all([m["role"] for m in json.loads(r["messages_json"])] == ["user"] for r in rows)
    ids = prompts(rows, tokenizer)
    lengths = table(trace, "requests")["input_tokens"].to_list()[:20]
    assert [len(one) for one in ids] == lengths == [r["input_tokens"] for r in rows]
    assert workload.meta["tokenizer"]["digest"] == tokenizer.digest


# -- what it must get --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["text", "ids"])
def test_expected_hit_rates_are_those_of_the_traces_profile(tmp_path, how):
    """Made prompts, in tokens, against the trace's own hashes: every engine has the same tokens in its cache."""
    trace = ingest([SAMPLES / "mooncake.jsonl"], tmp_path / "trace")
    engines = ("infinite", "vllm", "sglang", "llamacpp", "tensorrt_llm")
    for capacity in (60_000, 500_000):
        machine = Machine.of(capacity_tokens=capacity)
        found = profile(trace, tmp_path / "profile", machine=machine)["cache"]["engines"]
        meta = make(trace, tmp_path, prompts=how, engines=engines, machine=machine).meta
        assert list(meta["expected"]) == list(engines)
        for name in engines:
            assert meta["expected"][name]["hit_tokens"] == found[name]["hit_tokens"]
            assert meta["expected"][name]["hit_rate"] == pytest.approx(found[name]["hit_rate"])
        assert meta["expected"]["vllm"]["capacity_tokens"] == capacity
        assert meta["expected"]["infinite"]["capacity_tokens"] is None
        assert meta["hit_tokens"] > 0


def test_warm_up_is_sent_and_counts_in_no_expectation(ingested, log, tmp_path):
    """What it leaves in the cache, others hit."""
    trace = ingested(log)
    workload = make(trace, tmp_path, warmup="4s")
    rows = rows_of(workload)
    assert [r["warmup"] for r in rows] == [True] * 4 + [False] * 8
    counted = [r for r in rows if not r["warmup"]]
    infinite = workload.meta["expected"]["infinite"]
    assert infinite["hit_tokens"] == sum(r["prefix_tokens"] for r in counted)
    assert infinite["hit_rate"] == infinite["hit_tokens"] / sum(r["input_tokens"] for r in counted)
    warm = [r for r in rows if r["warmup"]]
    assert workload.meta["warmup"] == {
        "requests": 4,
        "input_tokens": sum(r["input_tokens"] for r in warm),
        "hit_tokens": sum(r["prefix_tokens"] for r in warm),
    }


def test_slow_models_run_where_they_are_named_or_requests_are_few(ingested, log, tmp_path, monkeypatch):
    """All others always."""
    trace = ingested(log)
    every = make(trace, tmp_path, engines=()).meta["expected"]
    assert list(every) == list(ENGINES)
    monkeypatch.setattr(expected, "MANY", 11)
    quick = make(trace, tmp_path, engines=()).meta["expected"]
    assert quick == {name: one for name, one in every.items() if name not in SLOW} and len(quick) < len(every)
    assert list(make(trace, tmp_path, engines=("llamacpp",)).meta["expected"]) == ["llamacpp"]


# -- steps -------------------------------------------------------------------------------------------------------


def test_each_step_tells_what_it_left_and_the_hit_rate_of_that(ingested, log, tmp_path):
    """In the order in which they are done; the last one is what the file holds."""
    trace = ingested(log)
    workload = make(
        trace, tmp_path, window="0..23s", tenants=("t0",), models=("m",), sample=0.5, requests=2, rate=3.0
    )
    steps = workload.meta["steps"]
    assert [step["step"] for step in steps] == [
        "read",
        "window",
        "model",
        "tenant",
        "sample",
        "requests",
        "rate",
    ]
    assert [step["requests"] for step in steps] == [12, 11, 11, 6, 3, 2, 2]
    rows = rows_of(workload)
    assert {r["tenant_id"] for r in rows} == {"t0"} and len(rows) == 2
    assert steps[-1]["hit_rate"] == workload.meta["hit_rate"]
    assert workload.meta["trace_hit_rate"] == steps[0]["hit_rate"]


def test_the_peak_is_the_busiest_window(ingested, tmp_path):
    """By input tokens."""
    log = [chat(n, "few words" if n < 20 or n > 24 else "many words " * 50) for n in range(1, 40)]
    workload = make(ingested(log), tmp_path, peak="5s")
    assert [r["request_id"] for r in rows_of(workload)] == [f"r{n}" for n in range(20, 25)]
    assert workload.meta["steps"][-1]["from_s"] == 19.0


def test_a_turn_whose_predecessor_is_left_out_is_a_first_turn(ingested, log, tmp_path):
    """With its recorded history."""
    rows = rows_of(make(ingested(log), tmp_path, window="10s..14s"))
    assert [r["parent"] for r in rows] == [None] * 4 and [r["turn_index"] for r in rows] == [0] * 4
    assert all(len(json.loads(r["messages_json"])) == 4 for r in rows)


def test_users_are_told_with_the_sessions_at_once_that_they_give(ingested, log, tmp_path):
    """The rate is the one of Little's law; within a session nothing changes."""
    workload = make(ingested(log), tmp_path, users=2.0)
    step = workload.meta["steps"][-1]
    assert step["step"] == "users" and step["per_s"] == pytest.approx(2 / 20.7 * 3)
    rows = rows_of(workload)
    for r in rows:
        if r["parent"] is not None:
            assert r["arrival_us"] - rows[r["parent"]]["arrival_us"] == 10_000_000
    assert step["sessions_at_once"] > 1


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"rate": 1.0, "speed": 2.0}, "each set the times"),
        ({"window": "2h..3h"}, "no request arrives"),
        ({"prompts": "ids", "endpoint": "chat"}, "takes messages, not token ids"),
        ({"models": ("x",)}, "the trace has: m"),
        ({"tenants": ("x",)}, "the trace has: t0, t1"),
        ({"tokenizer": "/nowhere/at/all"}, "no such tokenizer"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(ingested, log, tmp_path, asked, why):
    """And nothing is left behind."""
    trace = ingested(log)
    with pytest.raises(TraceprofError, match=why):
        make(trace, tmp_path / "out", **asked)
    assert not list((tmp_path / "out").glob("*")) and not list((tmp_path / "out").glob(".*"))


def test_a_log_without_times_is_not_sampled_by_prefix_where_no_prompt_is_known(tmp_path):
    """One line says what to give instead."""
    trace = ingest([SAMPLES / "length-trace.jsonl"], tmp_path / "trace")
    with pytest.raises(UsageError, match="--sample-by session"):
        make(trace, tmp_path, variant="unique", sample=0.5, sample_by="prefix")


# -- bytes and batches -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked", [{}, {"variant": "unique"}, {"synthesize": True, "prompts": "ids"}], ids=str
)
def test_the_same_seed_gives_the_same_bytes(ingested, log, tmp_path, asked):
    """Twice, with as many workers as one likes; another seed gives others where something is drawn."""
    trace = ingested(log)
    more = {"rate": 5.0, "sample": 0.75, **asked}
    digests = [
        hashlib.sha256(make(trace, tmp_path, f"{i}.parquet", jobs=jobs, **more).path.read_bytes()).hexdigest()
        for i, jobs in enumerate((1, 1, 2))
    ]
    assert len(set(digests)) == 1
    other = make(trace, tmp_path, "other.parquet", seed=1, **more).path.read_bytes()
    assert hashlib.sha256(other).hexdigest() != digests[0]


@pytest.mark.parametrize("sample", ["conversation.jsonl", "mooncake.jsonl", "sglang-token-trace.jsonl"])
@pytest.mark.parametrize("asked", [{}, {"rate": 7.0, "seed": 5}], ids=["in order", "in another order"])
def test_rows_in_batches_are_those_at_once(tmp_path, monkeypatch, sample, asked):
    """However few are read at once, and in whatever order they are sent."""
    trace = tokenized(ingest([SAMPLES / sample], tmp_path / "trace"))
    whole = rows_of(make(trace, tmp_path, "whole.parquet", **asked))
    for rows in (1, 3):
        monkeypatch.setattr(content, "BATCH_ROWS", rows)
        assert rows_of(make(trace, tmp_path, "part.parquet", **asked)) == whole


def test_prompts_follow_their_requests_into_another_order(ingested, tmp_path, monkeypatch):
    """A trace of several parts whose sessions begin in another order; each request keeps its own prompt."""
    monkeypatch.setattr(content, "BATCH_ROWS", 16)
    log = [
        chat(n, f"the words of request {n}", session_id=f"s{n * n % 37}", latency_ms=20)
        for n in range(1, 200)
    ]
    workload = make(ingested(log), tmp_path, rate=20.0)
    rows = rows_of(workload)
    assert sorted(r["request_id"] for r in rows) == sorted(one["request_id"] for one in log)
    assert [r["request_id"] for r in rows] != [one["request_id"] for one in log]
    for r in rows:
        assert f"the words of request {r['request_id'][1:]}" in {
            m["content"] for m in json.loads(r["messages_json"])
        }


def test_a_workload_is_read_back(ingested, log, tmp_path):
    """By its file alone, with what it was made of."""
    made = make(ingested(log), tmp_path, variant="unique", seed=3)
    again = Workload(made.path)
    assert again.meta == made.meta and again.requests == 12
    assert (again.meta["variant"], again.meta["seed"]) == ("unique", 3)
    assert again.meta["trace"] == {"name": "log.jsonl", "requests": 12, "privacy": "text"}
    assert again.meta["tokenizer"]["exact"] is False and np.isfinite(again.meta["hit_rate"])


def test_what_a_sender_must_know_is_noted(ingested, tmp_path):
    """Requests that failed, and answers of unknown length."""
    log = [pair(1), pair(2, status_code=500, response={"error": {"message": "no", "type": "server_error"}})]
    notes = make(ingested(log), tmp_path).meta["notes"]
    assert notes == [
        "1 request failed in the trace; what failed is sent all the same",
        "1 request without a known length of the answer: the engine decides",
    ]


@pytest.mark.parametrize("sample", sorted(FORMATS)[::6])
def test_every_format_gives_a_workload_or_says_why_not(tmp_path, sample):
    """With each request in it, or counted as left out."""
    trace = ingest([SAMPLES / FORMATS[sample]], tmp_path / "trace", Ingest(**how_to_read(sample)))
    try:
        workload = make(trace, tmp_path, variant="unique", engines=("infinite",))
    except TraceprofError as bad:
        assert "no request of it can be sent" in str(bad)
        return
    rows = rows_of(workload)
    left_out = sum(one["requests"] for one in workload.meta["steps"][0]["left_out"])
    assert len(rows) + left_out == trace.manifest["requests"]


def test_the_traces_own_prompts_are_sent_as_ids_where_that_is_asked(ingested, log, tmp_path):
    """As the template renders them, with the same sharing; whose ids they are is noted where it is a guess."""
    trace = ingested(log)
    text, ids = make(trace, tmp_path), make(trace, tmp_path, "ids.parquet", prompts="ids")
    rows = rows_of(ids)
    assert [r["prompt_ids"] for r in rows] == prompts(rows_of(text))
    assert {r["endpoint"] for r in rows} == {"ids"} and {r["tools_json"] for r in rows} == {None}
    assert ids.meta["hit_tokens"] == text.meta["hit_tokens"] and text.meta["notes"] == []
    assert any("give the --tokenizer" in note for note in ids.meta["notes"])
    model = str(vocabularies.words_tokenizer(tmp_path / "model"))
    assert make(trace, tmp_path, "exact.parquet", prompts="ids", tokenizer=model).meta["notes"] == []


def test_ids_of_another_tokenizer_are_not_sent(ingested, log, tmp_path):
    """Prompts are made in their place, as long as they are and with their sharing."""
    trace = tokenized(ingested(log))
    sealed = protect(trace, tmp_path / "sealed", "tokens", Key.random())
    own = rows_of(make(sealed, tmp_path))
    assert {r["endpoint"] for r in own} == {"ids"}
    model = vocabularies.words_tokenizer(tmp_path / "model")
    workload = make(sealed, tmp_path, "other.parquet", tokenizer=str(model), prompts="ids")
    rows = plain(workload)
    assert any("ids of another tokenizer" in note for note in workload.meta["notes"])
    size = tk.load(model).vocab_size
    assert all(max(r["prompt_ids"]) < size for r in rows)
    for mine, its in zip(rows, own, strict=True):
        assert (mine["input_tokens"], mine["prefix_tokens"]) == (its["input_tokens"], its["prefix_tokens"])


def test_of_one_hash_for_blocks_of_two_lengths_the_shorter_is_shared(ingested, tmp_path):
    """A prompt cannot share more than there is."""
    log = [
        {"timestamp": i, "input_length": tokens, "output_length": 1, "hash_ids": [1, 2]}
        for i, tokens in enumerate((600, 900, 700))
    ]
    rows = rows_of(make(ingested(log), tmp_path))
    assert [r["input_tokens"] for r in rows] == [600, 900, 700]
    assert [r["prefix_tokens"] for r in rows] == [0, 600, 700]


def test_two_processes_write_the_same_bytes(command, tmp_path):
    """However they hash their strings."""
    assert command("ingest", SAMPLES / "conversation.jsonl", "-o", tmp_path / "trace").code == 0
    written = []
    for seed in ("1", "2"):
        out = tmp_path / f"{seed}.parquet"
        words = [
            "workload",
            tmp_path / "trace",
            "-o",
            out,
            "--synthesize",
            "--rate",
            "3",
            "--engine",
            "vllm",
            "-q",
        ]
        subprocess.run(
            [*CLI, *map(str, words)], env={**os.environ, "PYTHONHASHSEED": seed}, check=True, timeout=120
        )
        written.append(out.read_bytes())
    assert written[0] == written[1]
