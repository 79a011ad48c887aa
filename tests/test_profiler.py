"""From a log to profile.json: against brute force on random logs, and by what must hold."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import naive
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from traceprof.errors import TraceprofError
from traceprof.ingest import Options, ingest
from traceprof.profiler import BLOCKS, open_profile, profile
from traceprof.tokens import tokenize

ROOT = Path(__file__).parent.parent
SCHEMA = jsonschema.Draft202012Validator(json.loads((ROOT / "schemas" / "profile.schema.json").read_text()))


def run(lines, folder, **options):
    """The profile of a log given as JSON values."""
    log = folder / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    trace = ingest([log], folder / "trace", Options(**options))
    tokenize(trace)
    found = profile(trace, folder / "profile")
    assert json.loads(json.dumps(found)) == open_profile(folder / "profile")
    SCHEMA.validate(json.loads(json.dumps(found)))
    return found


def completion(ids, at, end=None, model="m", output=None, **more):
    """One OpenAI text completion of token ids, with times in seconds."""
    line = {"timestamp": 1_700_000_000 + at, "request": {"model": model, "prompt": ids}, **more}
    if end is not None:
        line["end_time"] = 1_700_000_000 + end
    if output is not None:
        line["response"] = {
            "model": model,
            "choices": [{"text": "x", "token_ids": output, "finish_reason": "stop"}],
        }
    return line


REQUESTS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 2), max_size=40),  # prompt, over few ids so that prefixes are shared
        st.integers(0, 20),  # arrival
        st.integers(0, 9),  # how long it takes
        st.sampled_from(["m", "n"]),
        st.lists(st.integers(0, 2), max_size=4),  # output
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(REQUESTS)
def test_hits_equal_brute_force(tmp_path_factory, requests):
    """Every block size, with and without outputs, per model, ties in input order, empty prompts: as counted by hand."""
    folder = tmp_path_factory.mktemp("log")
    found = run([completion(p, a, a + d, m, o) for p, a, d, m, o in requests], folder)
    ordered = sorted(requests, key=lambda r: r[1])  # stable: ties stay in input order
    hits = []
    with_outputs = []
    for i, (prompt, arrival, _, model, _) in enumerate(ordered):
        before = [r for r in ordered[:i] if r[3] == model]
        seen = [r[0] for r in before]
        hits.append(max((common(prompt, s) for s in seen), default=0))
        seen += [r[0] + r[4] for r in before if r[1] + r[2] <= arrival]
        with_outputs.append(max((common(prompt, s) for s in seen), default=0))
    total = sum(len(r[0]) for r in requests)
    for b in BLOCKS:
        assert found["prefix"]["hit_tokens"][str(b)] == sum(h // b * b for h in hits)
        assert found["prefix"]["with_outputs"]["hit_tokens"][str(b)] == sum(h // b * b for h in with_outputs)
        rate = found["prefix"]["hit_rate"][str(b)]
        assert rate is None if total == 0 else rate == pytest.approx(sum(h // b * b for h in hits) / total)
    assert found["prefix"]["requests_with_hit"] == sum(h > 0 for h in hits)
    assert found["tokens"]["distinct"] == total - sum(hits)
    table = pl.read_parquet(folder / "profile" / "requests.parquet")
    assert table["hit_tokens_1"].to_list() == hits
    assert table["hit_tokens_1_with_outputs"].to_list() == with_outputs
    by_model = found["prefix"]["by_model"]
    assert sum(g["hit_tokens"]["1"] for g in by_model.values()) == sum(hits)


def common(a, b):
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(REQUESTS, st.integers(1, 80))
def test_curve_equals_an_lru_cache_of_that_size(tmp_path_factory, requests, capacity):
    """mrc.parquet read at a capacity is what an LRU over prefix states serves."""
    folder = tmp_path_factory.mktemp("log")
    run([completion(p, a, a + d, m) for p, a, d, m, _ in requests], folder)
    ordered = sorted(requests, key=lambda r: r[1])
    twins = [naive.Request(tuple(r[0]), root="mn".index(r[3]), tokens=len(r[0])) for r in ordered]
    expected = naive.hits_at_capacity(twins, capacity)
    points = pl.read_parquet(folder / "profile" / "mrc.parquet")
    at = np.interp(capacity, points["capacity_tokens"], points["hit_tokens"]) if len(points) else 0
    assert round(float(at)) == expected


def test_order_of_the_file_changes_nothing_but_ties(tmp_path):
    """A log back to front, or cut in two files, gives the same numbers."""
    lines = [completion([1, 2, 3, i % 3, i], i, i + 2) for i in range(9)]
    one = run(lines, tmp_path)
    (tmp_path / "r").mkdir()
    two = run(lines[::-1], tmp_path / "r")
    (tmp_path / "parts").mkdir()
    for k in (0, 1):
        (tmp_path / "parts" / f"{k}.jsonl").write_text(
            "".join(json.dumps(x) + "\n" for x in lines[k * 5 : k * 5 + 5])
        )
    three = profile(ingest([tmp_path / "parts"], tmp_path / "t3"), tmp_path / "p3")
    assert one["prefix"]["hit_tokens"] == two["prefix"]["hit_tokens"] == three["prefix"]["hit_tokens"]
    assert one["concurrency"] == two["concurrency"] == three["concurrency"]


def test_file_order_is_kept_when_asked(tmp_path):
    """--order file: the earlier line warms the cache, whatever its time."""
    lines = [completion([1, 2, 3, 4], 10), completion([1, 2], 0)]
    assert run(lines, tmp_path)["prefix"]["hit_tokens"]["1"] == 2
    (tmp_path / "f").mkdir()
    found = run(lines, tmp_path / "f", order="file")
    assert found["prefix"]["hit_tokens"]["1"] == 2
    assert pl.read_parquet(tmp_path / "f/profile/requests.parquet")["hit_tokens_1"].to_list() == [0, 2]
    assert pl.read_parquet(tmp_path / "profile/requests.parquet")["hit_tokens_1"].to_list() == [0, 2]


def test_where_sharing_comes_from(tmp_path):
    """by_origin: what the same session had sent before, and the rest; they sum to the hit rate."""
    lines = [
        completion([1, 2, 3, 4], 0, session_id="a"),
        completion([1, 2, 9, 9], 1, session_id="b"),  # 2 from a
        completion([1, 2, 3, 4, 5, 6], 2, session_id="a"),  # 4 from a itself
        completion([1, 2], 3),  # no session: 2 from others
    ]
    found = run(lines, tmp_path)["prefix"]
    assert found["by_origin"] == {"same_session": 4 / 16, "other_sessions": 4 / 16}
    assert found["hit_rate"]["1"] == 8 / 16


def test_sharing_over_time_is_the_same_sharing(tmp_path):
    """Sums over time, turns and tenants are those of the whole; a restart and walls lose what they must."""
    chat = [1, 2, 3, 4] * 8
    lines = [
        completion(
            chat[: 8 * turn] + [9] * (turn % 2),
            at=900 * n,
            model="m" if n < 6 else "n",
            session_id=f"s{n % 3}",
            user=f"u{n % 2}",
        )
        for n, turn in enumerate((1, 2, 3, 4, 1, 4, 2, 3, 4))
    ]
    found = run(lines, tmp_path)
    prefix = found["prefix"]
    whole, hits = prefix["input_tokens"], prefix["hit_tokens"]["1"]
    over = prefix["over_time"]
    assert (sum(over["requests"]), sum(over["input_tokens"])) == (9, whole)
    assert sum(h["requests"] for h in over["by_hour"]) == 9
    assert [h["hour"] for h in over["by_hour"] if h["requests"]] == [0, 22, 23]  # from 22:13:20 UTC
    assert [t["requests"] for t in prefix["by_turn"]] == [3, 3, 3]
    assert sum(t["hit_tokens"] for t in prefix["by_turn"]) == hits
    assert prefix["restart"]["middle"]["hit_tokens_never"] == hits
    assert prefix["restart"]["middle"]["hit_tokens_restarting"] < hits
    assert [r["restarts"] for r in prefix["restart"]["regularly"]] == [2]
    assert prefix["churn"][0] == {
        "slots": 1, "models": 2, "loads": 2, "hit_tokens": hits, "hit_rate": hits / whole, "lost_tokens": 0, "lost_points": 0.0,
    }  # fmt: skip
    assert prefix["warm_up"] is None  # too few requests to tell


def test_models_tenants_and_salts_do_not_share(tmp_path):
    """A model, and a cache_salt, is a cache of its own; tenants share one."""
    ids = list(range(8))
    lines = [
        completion(ids, 0, model="a", tenant="x"),
        completion(ids, 1, model="b", tenant="x"),
        completion(ids, 2, model="a", tenant="y"),
        {**completion(ids, 3, model="a"), "request": {"model": "a", "prompt": ids, "cache_salt": "s"}},
    ]
    found = run(lines, tmp_path)["prefix"]
    assert found["hit_tokens"]["1"] == 8
    assert found["by_tenant"]["y"]["hit_tokens"]["1"] == 8
    assert found["by_model"]["b"]["hit_tokens"]["1"] == 0


def test_a_gateway_cache_hit_is_no_engine_load(tmp_path):
    """Answers of a response cache are left out of prefixes and concurrency, and counted as left out."""
    base = {
        "call_type": "acompletion", "status": "success", "model_parameters": {}, "model": "m", "response": {},
        "messages": [{"role": "user", "content": "hello there, how are you today"}], "stream": True, "metadata": {},
    }  # fmt: skip
    times = {"startTime": 1.7e9, "endTime": 1.7e9 + 1, "completionStartTime": 1.7e9}
    lines = [{**base, **times, "id": "1"}, {**base, **times, "id": "2", "cache_hit": True}]
    found = run(lines, tmp_path)
    assert found["prefix"]["requests"] == 1
    assert found["concurrency"]["peak"] == 1
    assert any("response cache" in one["reason"] for one in found["left_out"])


def test_lengths_only_traces_get_what_they_can_support(tmp_path):
    """No prompt identity: no prefix part, and the profile says why."""
    log = tmp_path / "a.csv"
    log.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:00:00.0,10,2\n2023-11-16 18:00:02.0,30,4\n"
    )
    found = profile(ingest([log], tmp_path / "t"), tmp_path / "p")
    SCHEMA.validate(json.loads(json.dumps(found)))
    assert found["prefix"] is None and found["cache"] is None
    assert found["lengths"]["input"]["mean"] == 20
    assert found["concurrency"]["measured"] is False
    assert {one["measure"] for one in found["left_out"]} >= {"shared prefixes, miss-ratio curve"}


def test_block_hashes_keep_to_their_unit_and_their_file(tmp_path):
    """Only multiples of the unit exist; the last partial block counts with its true tokens; files do not share ids."""
    rows = [
        {"timestamp": 0, "input_length": 1100, "output_length": 1, "hash_ids": [1, 2, 3]},
        {"timestamp": 10, "input_length": 1100, "output_length": 1, "hash_ids": [1, 2, 3]},
        {"timestamp": 20, "input_length": 1536, "output_length": 1, "hash_ids": [1, 2, 4]},
    ]
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    one = profile(ingest([tmp_path / "a.jsonl"], tmp_path / "t1"), tmp_path / "p1")["prefix"]
    assert one["hit_tokens"] == {**{str(b): None for b in BLOCKS}, "512": 1100 + 1024}
    both = profile(ingest([tmp_path / "*.jsonl"], tmp_path / "t2"), tmp_path / "p2")["prefix"]
    assert both["hit_tokens"]["512"] == 2 * (1100 + 1024)
    assert both["radix_tree"]["nodes"] == 2 * one["radix_tree"]["nodes"]


def test_mixed_units_are_profiled_apart(tmp_path):
    """Token ids and block hashes in one trace: the larger group is measured, the other is named."""
    (tmp_path / "a.jsonl").write_text(json.dumps(completion([1, 2], 0)) + "\n")
    row = {"timestamp": 0, "input_length": 600, "output_length": 1, "hash_ids": [1, 2]}
    (tmp_path / "b.jsonl").write_text((json.dumps(row) + "\n") * 2)
    found = profile(ingest([tmp_path / "*.jsonl"], tmp_path / "t"), tmp_path / "p")
    assert found["tokenizer"]["unit"] == 512
    assert any("profile them apart" in one["reason"] for one in found["left_out"])


def test_top_prefix_shows_the_text_it_starts_with(tmp_path):
    """Previews come from the trace's own tokenizer."""
    system = {"role": "system", "content": "You are the night porter of a small hotel in Trieste. " * 5}
    lines = [
        {
            "timestamp": 1.7e9 + i,
            "request": {"model": "m", "messages": [system, {"role": "user", "content": f"{i} please"}]},
        }
        for i in range(6)
    ]
    best = run(lines, tmp_path)["prefix"]["top_prefixes"][0]
    assert best["requests"] == 6
    assert best["saved_tokens"] == 5 * best["tokens"]
    assert "night porter" in best["preview"]
    assert len(best["preview"]) <= 160


def test_a_folder_that_is_no_trace_is_named(tmp_path):
    """One line with the path and what to do."""
    with pytest.raises(TraceprofError, match=r"no such trace folder; make one"):
        from traceprof.trace import Trace

        Trace(tmp_path / "none")


def test_tokenizing_again_keeps_what_the_log_told(tmp_path):
    """Ids and hashes of the log survive every tokenizer; text is encoded anew by each."""
    text = {
        "timestamp": 1.7e9,
        "request": {"model": "m", "messages": [{"role": "user", "content": "hello " * 9}]},
    }
    log = tmp_path / "log.jsonl"
    log.write_text(
        "".join(
            json.dumps(x) + "\n" for x in (completion([5, 6, 7], 1, output=[8]), text, completion([5], 2))
        )
    )
    trace = ingest([log], tmp_path / "t")
    tokenize(trace)
    first = trace.scan("tokens").collect()
    plain = tmp_path / "plain.jinja"
    plain.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    tokenize(trace, None, str(plain))
    again = trace.scan("tokens").collect()
    assert first["input_ids"].to_list()[1:] == again["input_ids"].to_list()[1:] == [[5, 6, 7], [5]]
    assert again["output_ids"].to_list() == first["output_ids"].to_list() == [None, [8], None]
    assert 0 < len(again["input_ids"][0]) < len(first["input_ids"][0])
    assert again["input_symbols"].to_list() == [len(x) for x in again["input_ids"]]


def test_a_refused_prompt_warms_no_cache_in_its_own_definition(tmp_path):
    """A storm of 429 and retries looks like sharing; `without_rejected` is what a model saw."""
    lines = []
    for i in range(5):
        prompt = [i * 10 + k for k in range(8)]
        lines += [completion(prompt, 2 * i, status_code=429), completion(prompt, 2 * i + 1, status_code=200)]
    found = run(lines, tmp_path)["prefix"]
    assert found["hit_rate"]["1"] == 0.5
    assert found["definitions"]["without_rejected"]["value"] == 0


def test_a_request_that_takes_no_time_still_spans_the_log(tmp_path):
    """Concurrency is weighted from the first arrival to the last end, idle time included."""
    lines = [completion([1], 0, 0), completion([2], 99, 100)]
    assert run(lines, tmp_path)["concurrency"]["mean"] == pytest.approx(0.01)


def test_prompts_cut_by_the_logger_keep_their_length(tmp_path):
    """They are left out of the hit rate, and counted by the log's own usage elsewhere."""
    cut = "start ... (litellm_truncated skipped 90000 chars. x) ... end"
    base = {
        "call_type": "acompletion",
        "status": "success",
        "model_parameters": {},
        "model": "m",
        "metadata": {},
    }
    lines = [
        {**base, "id": str(i), "startTime": 1.7e9 + i, "completionStartTime": None, "prompt_tokens": tokens,
         "completion_tokens": 5, "messages": [{"role": "user", "content": text}],
         "response": {"choices": [{"message": {"content": cut}}]}}
        for i, (text, tokens) in enumerate([("hello", 9), (cut, 25_000)])
    ]  # fmt: skip
    found = run(lines, tmp_path)
    assert found["prefix"]["requests"] == 1
    assert any("1 were cut or redacted" in left["reason"] for left in found["left_out"])
    assert found["lengths"]["input"]["max"] == 25_000
    assert found["lengths"]["output"]["max"] == 5  # a cut answer is not counted by its stump
    assert found["prefix"]["with_outputs"] is None


def test_cut_prompts_are_measured_when_asked(tmp_path):
    """--cut-prompts: what is left of them counts as it stands, and the profile says so."""
    cut = "all of us begin like this " * 9 + "[truncated]"
    log = tmp_path / "log.jsonl"
    log.write_bytes(
        b"".join(
            json.dumps(
                {
                    "timestamp": 1.7e9 + i,
                    "request": {"model": "m", "messages": [{"role": "user", "content": cut}]},
                }
            ).encode()
            + b"\n"
            for i in range(3)
        )
    )
    trace = ingest([log], tmp_path / "t")
    tokenize(trace)
    assert profile(trace, tmp_path / "p")["prefix"] is None
    tokenize(trace, cut_prompts=True)
    found = profile(trace, tmp_path / "p")
    assert found["prefix"]["requests"] == 3 and found["prefix"]["hit_rate"]["1"] == 2 / 3
    assert "cut" in found["tokenizer"]["note"]


def test_a_templates_complaint_never_quotes_the_prompt(tmp_path):
    """What a template says of a request stays out of profile and tokens unless it stands in the template itself."""
    template = tmp_path / "t.jinja"
    template.write_text(
        "{% for m in messages %}{% if 'secret' in m.content %}{{ raise_exception('bad: ' + m.content) }}{% endif %}"
        "{% if m.content == 'odd' %}{{ raise_exception('Only even messages are allowed') }}{% endif %}{{ m.content }}{% endfor %}"
    )
    log = tmp_path / "log.jsonl"
    texts = ("a secret of mine", "odd", "fine")
    log.write_text(
        "".join(
            json.dumps({"model": "m", "messages": [{"role": "user", "content": t}]}) + "\n" for t in texts
        )
    )
    trace = ingest([log], tmp_path / "t")
    info = tokenize(trace, None, str(template))
    assert info is not None and sum(info.errors.values()) == 2
    said = json.dumps(profile(trace, tmp_path / "p"))
    kept = b"".join(p.read_bytes() for p in trace.parts("tokens"))
    assert "secret" not in said and b"secret" not in kept
    assert any("Only even messages are allowed" in reason for reason in info.errors)


def test_a_template_that_fails_on_all_is_an_error(tmp_path):
    """Not a profile without prefixes."""
    template = tmp_path / "t.jinja"
    template.write_text("{{ raise_exception('no such luck today') }}")
    log = tmp_path / "log.jsonl"
    log.write_text('{"model": "m", "messages": [{"role": "user", "content": "x"}]}\n')
    trace = ingest([log], tmp_path / "t")
    with pytest.raises(TraceprofError, match=r"no prompt could be rendered.*no such luck today"):
        tokenize(trace, None, str(template))
    assert not trace.parts("tokens")


def test_a_template_that_changed_is_read_again(tmp_path):
    """A tokenizer is kept between steps only while its files stay as they are."""
    log = tmp_path / "log.jsonl"
    log.write_text('{"model": "m", "messages": [{"role": "user", "content": "hello"}]}\n')
    trace = ingest([log], tmp_path / "t")
    template = tmp_path / "t.jinja"
    counts = []
    for source in ("{{ messages[0].content }}", "{{ messages[0].content }} and more of it"):
        template.write_text(source)
        tokenize(trace, None, str(template))
        counts.append(len(trace.scan("tokens").collect()["input_ids"][0]))
    assert counts[0] < counts[1]


def test_requests_without_an_arrival_are_named_where_load_is_told(tmp_path):
    """Load over some of the requests is no measurement of all: it says how many are missing."""

    def line(i, **time):
        body = {"model": "m", "messages": [{"role": "user", "content": f"question {i}"}]}
        return {**time, "latency_ms": 900, "request": body}

    found = run([line(i, **({"timestamp": 1.7e9 + i} if i % 4 else {})) for i in range(40)], tmp_path)
    assert found["concurrency"]["measured"] is False and "10 of 40" in found["concurrency"]["how"]
    assert any(left["measure"] == "load of 10 requests" for left in found["left_out"])
