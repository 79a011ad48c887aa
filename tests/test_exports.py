"""Exports: what a workload becomes in other tools' files, held against its rows, a slow twin, and what our own readers make of it."""

from __future__ import annotations

import functools
import json
import shlex
from datetime import datetime
from itertools import count
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import SAMPLES, pair, rows
from traceprof import schema
from traceprof.errors import TraceprofError, UsageError
from traceprof.profiler import profile
from traceprof.tokenizer import Tokenizer, load
from traceprof.tokens import tokenize
from traceprof.workload.exports import EXPORTS, export, find
from traceprof.workload.exports.prompts import FACTS
from traceprof.workload.make import Options, make_workload
from traceprof.workloads import Workload, write_workload

NUMBER = count()
RENDERED = ("vllm-custom", "guidellm", "sglang-tokens")  # what makes text or token ids of messages


@functools.cache
def tokenizer() -> Tokenizer:
    return load(None)


def workload(folder: Path, *requests: dict, unit: int = 1, **meta) -> Workload:
    """A workload of these rows; what they do not say is plain, and prompts that are no ids share nothing."""
    whole = [
        {
            "index": i, "request_id": f"r{i}", "turn_index": 0, "arrival_us": 1000 * i, "warmup": False, "endpoint": "ids", "output_tokens": 5,
            "input_tokens": len(request.get("prompt_ids", "x")), "prefix_tokens": 0, **request,
        }
        for i, request in enumerate(requests)
    ]  # fmt: skip
    built_in = tokenizer()
    told = {
        "kind": "traceprof-workload",
        "unit": unit,
        "tokenizer": {"name": built_in.name, "digest": built_in.digest, "reload": [None, None]},
        **meta,
    }
    table = pa.Table.from_pylist(whole, schema=schema.arrow(schema.WORKLOAD))
    return write_workload(folder / f"w{next(NUMBER)}.parquet", table.to_batches(), told)


def ids(*prompt: int, **more) -> dict:
    return {"prompt_ids": list(prompt), **more}


def chat(*said: str, **more) -> dict:
    """Turns of user and assistant, by turns."""
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
    return {"endpoint": "chat", "messages_json": json.dumps(messages), **more}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def exported(work: Workload, name: str, folder: Path, **options) -> list[dict]:
    return lines(export(work, name, folder / f"e{next(NUMBER)}.jsonl", **options).path)


SESSION = (
    chat("Where is Paris?", session_id="s", turn_index=0, recorded_e2e_us=400, model="m"),
    chat("Alone.", arrival_us=900, output_tokens=7, model="m"),
    chat(
        "Where is Paris?", "In France.", "And Rome?", session_id="s", turn_index=1, parent=0, think_us=1600, model="m",
        tools_json='[{"type":"function","function":{"name":"look"}}]', params_json='{"temperature":0.5,"top_p":0.9}',
    ),
    chat("Beside.", session_id="s", turn_index=2, parent=None, model="m"),
)  # fmt: skip


# -- every export ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPORTS)
def test_the_same_workload_gives_the_same_bytes(name, tmp_path):
    """And a line a request, or fewer where several make a session."""
    work = workload(tmp_path, *(chat("A", "B", str(i)) for i in range(600)))
    first, second = (export(work, name, tmp_path / f"{i}.jsonl") for i in (1, 2))
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.requests == 600 and len(first.path.read_text().splitlines()) in (600, 601)


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_that_cannot_be_written_whole_leaves_what_was_there(name, tmp_path):
    """No request has an answer of a known length, or the third has a prompt that no template renders."""
    path = tmp_path / "there.jsonl"
    path.write_text("as it was")
    nothing = workload(tmp_path, chat("A", output_tokens=None))
    broken = workload(
        tmp_path, chat("A"), chat("B"), {"endpoint": "chat", "messages_json": '{"role": "user"}'}
    )
    raised = 0
    for work in (nothing, broken):
        try:
            export(work, name, path)
        except TraceprofError as error:
            raised += 1
            assert str(work.path) in str(error) and path.read_text() == "as it was"
        else:
            path.write_text("as it was")
    assert raised == (name not in ("openai", "aiperf")) + (name in RENDERED)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".jsonl", ".parquet", ".parquet"]


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_says_what_it_leaves_out(name, tmp_path):
    """Everything that it does not carry of a workload that has everything, and nothing of one that has only a prompt."""
    full = workload(
        tmp_path,
        *SESSION,
        chat("Salted.", cache_salt="x", tenant_id="t", model="other", warmup=True),
    )
    plain = workload(tmp_path, chat("Only a prompt."))
    path = tmp_path / "out.jsonl"
    carried = find(name).CARRIES
    assert carried <= FACTS.keys()
    silent = {"token ids", "texts", "endpoints"} | (set() if "prompts" in carried else {"messages", "tools"})
    expected = [said for fact, said in FACTS.items() if fact not in carried | silent]
    told = [said for said in export(full, name, path).left_out if not said[-1].isdigit()]
    assert told == expected
    told = export(plain, name, path).left_out
    assert told == [FACTS[fact] for fact in ("prompts", "messages") if fact not in carried | silent]


@pytest.mark.parametrize("name", EXPORTS)
def test_commands_name_the_file_and_the_model(name, tmp_path):
    """What is told to be typed is about this file, also where a shell would take its name apart."""
    path = tmp_path / "my file.jsonl"
    told = export(workload(tmp_path, *SESSION), name, path, model="org/name").command
    words = [word for line in told.splitlines() for word in shlex.split(line)]
    assert any(str(path) in word for word in words)
    assert any("org/name" in word for word in words) or name in ("dynamo", "openai")


@pytest.mark.parametrize("name", EXPORTS)
def test_every_export_is_in_its_page_with_the_version_it_was_checked_with(name):
    """docs/exports.md has a row for each."""
    page = (SAMPLES.parent / "docs" / "exports.md").read_text("utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
    assert find(name).CHECKED in row


def test_an_unknown_export_is_refused_with_the_names_that_there_are(tmp_path):
    """So is a block size where there are no blocks, and a file name that the tool would not read."""
    work = workload(tmp_path, ids(1, 2))
    with pytest.raises(UsageError, match=r"'k6'.*mooncake"):
        export(work, "k6", tmp_path / "out.jsonl")
    with pytest.raises(UsageError, match="no block hashes"):
        export(work, "openai", tmp_path / "out.jsonl", block_size=16)
    with pytest.raises(UsageError, match=r"out\.jsonl"):
        export(work, "vllm-custom", tmp_path / "out.txt")


# -- blocks ----------------------------------------------------------------------------------------------------


def numbered(requests, size):
    """The slow twin: a block is all that stands before its end, of one model and salt; numbers go by first use."""
    known: dict = {}
    return [
        [
            known.setdefault((model, salt, *prompt[: first + size]), len(known))
            for first in range(0, len(prompt), size)
        ]
        for prompt, model, salt in requests
    ]


def alike(one, other) -> int:
    """Tokens with which both prompts begin, where they go to one cache."""
    (prompt, *cache), (also, *its) = one, other
    same = [a == b for a, b in zip(prompt, also, strict=False)]
    return [*same, False].index(False) if cache == its else 0


@given(
    requests=st.lists(
        st.tuples(
            st.lists(st.integers(0, 1), min_size=1, max_size=12),
            st.sampled_from([None, "m", "n"]),
            st.sampled_from([None, "s"]),
        ),
        min_size=1,
        max_size=12,
    ),
    size=st.integers(1, 5),
    choose=st.randoms(use_true_random=False),
)
def test_blocks_are_numbered_as_prefixes_are_equal(requests, size, choose, tmp_path_factory):
    """In every prompt each block, the last one also where it is not full, whichever of those that share most a row names."""
    folder = tmp_path_factory.mktemp("blocks")
    told = []
    for i, (prompt, model, salt) in enumerate(requests):
        shared = [alike(one, requests[i]) for one in requests[:i]]
        most = max(shared, default=0)
        like = choose.choice([j for j, n in enumerate(shared) if n == most]) if most else None
        told.append(ids(*prompt, model=model, cache_salt=salt, prefix_of=like, prefix_tokens=most))
    found = exported(workload(folder, *told), "mooncake", folder, block_size=size)
    assert [row["hash_ids"] for row in found] == numbered(requests, size)
    assert [row["input_length"] for row in found] == [len(prompt) for prompt, _, _ in requests]


def test_blocks_of_a_request_that_is_not_written_are_still_known(tmp_path):
    """A later one that repeats them has them whole."""
    gone = ids(1, 2, 3, output_tokens=None)
    again = ids(1, 2, 3, 4, prefix_of=0, prefix_tokens=3), ids(1, 2, 3, 5, prefix_of=0, prefix_tokens=3)
    found = exported(workload(tmp_path, gone, *again), "mooncake", tmp_path, block_size=2)
    assert [row["hash_ids"] for row in found] == [[0, 1], [0, 2]]


def test_blocks_are_as_large_as_what_the_workload_tells_apart(tmp_path):
    """Where nobody asks for others: vLLM's 16 would say no more than the 512 of a trace of hashes."""
    work = workload(tmp_path, {"input_tokens": 1000}, unit=512)
    got = export(work, "vllm-timed-trace", tmp_path / "t.jsonl")
    assert "--timed-trace-chunk-hash-size 512" in got.command
    assert [row["hash_ids"] for row in lines(got.path)] == [[0, 1]]
    assert len(exported(work, "vllm-timed-trace", tmp_path, block_size=16)[0]["hash_ids"]) == 63


def test_a_workload_that_does_not_tell_what_it_shares_has_no_blocks(tmp_path):
    """Rather than blocks that all differ."""
    with pytest.raises(TraceprofError, match="what its prompts share"):
        export(workload(tmp_path, ids(1, 2, prefix_tokens=None)), "mooncake", tmp_path / "t.jsonl")


# -- sessions --------------------------------------------------------------------------------------------------


def test_a_session_is_a_chain_for_aiperf_and_dynamo(tmp_path):
    """Its turns have a session and a delay; what does not follow the latest of its session stands alone."""
    work = workload(tmp_path, *SESSION)
    for name in ("aiperf", "dynamo"):
        got = export(work, name, tmp_path / "out.jsonl")
        found = [{k: r.get(k) for k in ("timestamp", "session_id", "delay")} for r in lines(got.path)]
        assert found == [
            {"timestamp": 0, "session_id": "s", "delay": None},
            {"timestamp": 0.9, "session_id": None, "delay": None},
            {"timestamp": 2, "session_id": "s", "delay": 1.6},
            {"timestamp": 3, "session_id": None, "delay": None},
        ]
        assert (
            "requests that stand alone, for they do not follow the latest of their session: 1" in got.left_out
        )


def test_dynamos_agentic_rows_name_what_they_follow(tmp_path):
    """Each not before its time, and as long after the end of the turn before as in the trace."""
    header, *found = exported(workload(tmp_path, *SESSION), "dynamo-agentic", tmp_path, block_size=32)
    assert (header["schema"], header["version"], header["block_size"]) == ("dynamo.agentic_mooncake", 2, 32)
    told = [(r["request_id"], r["not_before_ms"], r["session_id"], r.get("dependencies")) for r in found]
    after = {"request_id": "r0", "trigger": "completion", "delay_ms": 1.6, "relation": "sequence"}
    assert told == [
        ("r0", 0, "s", None),
        ("r1", 0.9, "r1", None),
        ("r2", 2, "s", [after]),
        ("r3", 3, "s", None),
    ]


def test_a_session_is_a_line_for_inference_perf(tmp_path):
    """Its spans end as recorded, or as the think time after them tells; the history stands in each."""
    unknown = chat("Hello", session_id="u", turn_index=0, arrival_us=5000)
    later = chat("Hello", "Hi", "Bye", session_id="u", turn_index=1, parent=4, think_us=3000, arrival_us=9000)
    found = exported(workload(tmp_path, *SESSION, unknown, later), "inference-perf", tmp_path)
    assert [(one["session_id"], one["span_count"]) for one in found] == [("r1", 1), ("s", 3), ("u", 2)]
    first, second = found[2]["spans"]
    assert (first["start_time"], first["end_time"]) == (
        "2026-01-01T00:00:00.005000Z",
        "2026-01-01T00:00:00.006000Z",
    )
    asked = [json.loads(span["attributes"]["gen_ai.input.messages"]) for span in (first, second)]
    assert asked[1][: len(asked[0])] == asked[0] and len(asked[1]) == 3
    assert found[1]["spans"][0]["end_time"] == "2026-01-01T00:00:00.000400Z"


# -- prompts ---------------------------------------------------------------------------------------------------


def test_openai_lines_hold_the_request_and_when_to_send_it(tmp_path):
    """Keys that a request has nothing for are left out; parents are named."""
    salted = ids(
        7, 8, cache_salt="x", tenant_id="t", warmup=True, arrival_us=1_500_000, params_json='{"top_k":4}'
    )
    found = exported(workload(tmp_path, *SESSION, salted), "openai", tmp_path)
    asked = {
        "model": "m",
        "messages": json.loads(SESSION[2]["messages_json"]),
        "tools": json.loads(SESSION[2]["tools_json"]),
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
    }
    assert found[2] == {
        "timestamp": 0.002, "request_id": "r2", "session_id": "s", "turn_index": 1, "parent_request_id": "r0", "think_s": 0.0016,
        "method": "POST", "url": "/v1/chat/completions", "body": asked,
    }  # fmt: skip
    assert found[4] == {
        "timestamp": 1.5, "request_id": "r4", "tenant_id": "t", "warmup": True, "method": "POST", "url": "/v1/completions",
        "body": {"prompt": [7, 8], "max_tokens": 5, "top_k": 4, "cache_salt": "x"},
    }  # fmt: skip


def test_aiperf_gets_messages_as_they_are_and_bodies_of_what_is_none(tmp_path):
    """Tools and parameters beside messages; text and ids in a whole body."""
    text = {"endpoint": "completions", "prompt_text": "Once upon", "params_json": '{"top_k":4}'}
    found = exported(workload(tmp_path, *SESSION, text, ids(5, 6)), "aiperf", tmp_path, model="tiny")
    assert found[2]["messages"] == json.loads(SESSION[2]["messages_json"])
    assert found[2]["tools"] == json.loads(SESSION[2]["tools_json"])
    assert found[2]["extra"] == {"temperature": 0.5, "top_p": 0.9} and found[2]["output_length"] == 5
    streamed = {"stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True}
    assert (
        found[4]["payload"]
        == {"model": "tiny", "prompt": "Once upon", "max_tokens": 5, "top_k": 4} | streamed
    )
    assert found[5]["payload"] == {"model": "tiny", "prompt": [5, 6], "max_tokens": 5} | streamed


@pytest.mark.parametrize("name", ["vllm-custom", "guidellm"])
def test_texts_are_read_as_the_tokens_of_the_prompts(name, tmp_path):
    """A completions endpoint puts its BOS before them and has what the chat endpoint, or the ids, would have made."""
    given = [chat("Where is Paris?", "In France.", "And Rome? Grüße 🙂"), chat("One\n\n two")]
    once = "Once upon a time"
    numbers = tokenizer().encode([once], add_special_tokens=True).ids.tolist()
    given += [{"endpoint": "completions", "prompt_text": once}, ids(*numbers)]
    work = workload(tmp_path, *given)
    texts = [row["prompt"] for row in exported(work, name, tmp_path)]
    read = [tokenizer().encode([text], add_special_tokens=True).ids.tolist() for text in texts]
    asked = [row["input_tokens"] for row in exported(work, "sglang-tokens", tmp_path)]
    assert read == asked and read[2] == read[3] == numbers and texts[2] == once


def test_ids_that_no_text_stands_for_are_refused_where_text_is_wanted(tmp_path):
    """And counted: a word in two pieces that its tokenizer writes as one comes back as that one. The others are written."""
    whole, first, second = (tokenizer().encode([text], True).ids.tolist() for text in ("Hello", "Hell", "o"))
    assert [*first, *second] != whole
    work = workload(tmp_path, ids(*whole), ids(*first, *second))
    got = export(work, "vllm-custom", tmp_path / "out.jsonl")
    assert lines(got.path) == [{"prompt": "Hello", "output_tokens": 5}]
    assert got.requests == 1 and "requests of token ids that no text stands for: 1" in got.left_out


def test_a_text_is_a_users_message_for_sglang_and_token_ids_are_refused(tmp_path):
    """The body of a chat has no other place for it."""
    text = {"endpoint": "completions", "prompt_text": "Once upon", "params_json": '{"top_p":0.9}'}
    got = export(workload(tmp_path, text, ids(1, 2)), "sglang", tmp_path / "out.jsonl")
    assert lines(got.path) == [
        {"messages": [{"role": "user", "content": "Once upon"}], "max_tokens": 5, "top_p": 0.9}
    ]
    assert "requests of token ids (sglang-tokens takes them): 1" in got.left_out


def test_the_clients_own_limit_stands_for_a_length_that_is_not_known(tmp_path):
    """And without one the request is left out of files that must have a length."""
    limited = chat("A", output_tokens=None, params_json='{"max_tokens":64,"temperature":0.0}')
    work = workload(tmp_path, limited, chat("B", output_tokens=None))
    got = export(work, "sglang", tmp_path / "out.jsonl")
    assert [(r["max_tokens"], r["temperature"]) for r in lines(got.path)] == [(64, 0.0)]
    assert "requests whose length of output the trace does not tell: 1" in got.left_out
    found = exported(work, "openai", tmp_path)
    assert [row["body"].get("max_tokens") for row in found] == [64, None]


def test_half_a_surrogate_pair_does_not_stop_an_export(tmp_path):
    """JSON may hold what UTF-8 cannot; it goes out as what tokenizers make of it."""
    half = {"endpoint": "chat", "messages_json": '[{"role":"user","content":"a\\ud83d"}]'}
    (found,) = exported(workload(tmp_path, half), "openai", tmp_path)
    assert found["body"]["messages"][0]["content"] == "a\ufffd"


def test_azures_columns_hold_times_and_lengths(tmp_path):
    """As the public traces write them: seven digits of a second, and no zone."""
    work = workload(tmp_path, ids(1, 2), ids(1, 2, 3, arrival_us=1_250_000, output_tokens=9))
    path = export(work, "azure", tmp_path / "t.csv").path
    assert path.read_text().splitlines() == [
        "TIMESTAMP,ContextTokens,GeneratedTokens",
        "2026-01-01 00:00:00.0000000,2,5",
        "2026-01-01 00:00:01.2500000,3,9",
    ]


# -- there and back --------------------------------------------------------------------------------------------


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look",
            "description": "Look it up.",
            "parameters": {"type": "object", "properties": {}},
        },
    }
]


def conversations():
    """Three conversations, one of them with tools, whose turns end before the next ones begin; single requests with the same system prompt."""
    history: dict[str, list] = {}
    for k in range(18):
        name = "abc"[k % 3]
        said = history.setdefault(name, [{"role": "system", "content": "You are terse and kind. " * 20}])
        said.append({"role": "user", "content": f"Question {k} of {name}? " * (k % 5 + 3)})
        answer = {"role": "assistant", "content": f"Answer {k}. " * (k % 4 + 1)}
        tools = {"tools": TOOLS} if name == "b" else {}
        yield pair(
            k * 7 + 1,
            session_id=name,
            latency_ms=1500 + 7 * k,
            request={"model": "m" if k % 3 else "n", "messages": list(said), "temperature": 0.5, **tools},
            response={
                "choices": [{"message": answer, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 100 + k, "completion_tokens": 10 + k},
            },
        )
        said.append(answer)
        if k % 4 == 0:
            yield pair(
                k * 7 + 3,
                request_id=f"single{k}",
                request={"model": "m", "messages": [said[0], {"role": "user", "content": f"Single {k}"}]},
            )


def seen(trace, folder) -> list[dict]:
    """What a profile makes of each request: when, which session, how long, what a cache would have had of it."""
    tokenize(trace)
    profile(trace, folder)
    hits = pl.read_parquet(folder / "requests.parquet").to_dicts()
    told = rows(trace)
    start = min((row["arrival_ts"] for row in told if row["arrival_ts"] is not None), default=None)
    return [
        {
            "id": row["request_id"],
            "us": row["arrival_offset_us"] if start is None else micros(row["arrival_ts"], start),
            "session": row["session_id"],
            **{key: value for key, value in hit.items() if key.startswith(("input", "hit")) and "with" not in key},
        }
        for row, hit in zip(told, hits, strict=True)
    ]  # fmt: skip


def micros(at: datetime | None, start: datetime) -> int | None:
    return None if at is None else round((at - start).total_seconds() * 1e6)


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """(trace, its workload) of a log with text and of one with hashes."""
    from traceprof.ingest import Options as Reading
    from traceprof.ingest import ingest

    folder = tmp_path_factory.mktemp("logs")
    (folder / "chat.jsonl").write_text("".join(json.dumps(r) + "\n" for r in conversations()))
    found = {}
    for name, log in (("text", folder / "chat.jsonl"), ("hashes", SAMPLES / "mooncake.jsonl")):
        trace = ingest([log], folder / name, Reading())
        variant = "asis" if name == "text" else "shared"
        asked = Options(variant=variant, engines=("infinite",), engine_per_model=True)
        found[name] = trace, make_workload(trace, folder / f"{name}.parquet", asked)
    return found


def test_openai_bodies_come_back_as_the_trace(logs, ingested, tmp_path):
    """Every request with its id, time, session, length, and hit tokens at every block size."""
    trace, work = logs["text"]
    back = ingested(export(work, "openai", tmp_path / "out.jsonl").path)
    assert back.manifest["formats"].keys() == {"openai"}
    there = seen(trace, tmp_path / "a")
    assert seen(back, tmp_path / "b") == there and sum(row["hit_tokens_1"] for row in there) > 1000
    assert len({row["session"] for row in there}) == 4


def test_a_mooncake_trace_comes_back_as_itself(logs, tmp_path):
    """Prompts made for its hashes go back into the very rows that they came from, but for the numbers' order of first use."""
    _, work = logs["hashes"]
    before = lines(SAMPLES / "mooncake.jsonl")
    after = exported(work, "mooncake", tmp_path)
    known: dict[int, int] = {}
    for row in before:
        row["hash_ids"] = [known.setdefault(one, len(known)) for one in row["hash_ids"]]
    assert after == before


def known_blocks(found: list[dict]) -> list[int]:
    """Of each row the blocks that stood in an earlier one."""
    known: set[int] = set()
    hits = []
    for row in found:
        hits.append(sum(1 for one in row["hash_ids"] if one in known))
        known.update(row["hash_ids"])
    return hits


def test_prompts_made_for_hashes_share_in_smaller_blocks_what_they_share_in_those(logs, tmp_path):
    """A block of 512 is 32 of 16, and no more than that is shared."""
    _, work = logs["hashes"]
    large, small = (known_blocks(exported(work, "mooncake", tmp_path, block_size=n)) for n in (512, 16))
    assert small == [32 * one for one in large] and sum(large) * 512 == work.meta["hit_tokens"] > 10_000


@pytest.mark.parametrize("size", [16, 64, 512])
@pytest.mark.parametrize("name", ["mooncake", "dynamo", "dynamo-agentic", "vllm-timed-trace"])
def test_block_traces_come_back_with_the_hits_of_their_block_size(name, size, logs, ingested, tmp_path):
    """Times, lengths and, at the file's block size, the hit tokens of every request; sessions where the file has them."""
    trace, work = logs["text"]
    path = export(work, name, tmp_path / "out.jsonl", block_size=size).path
    back = ingested(path, block_size=size)
    there, here = (seen(one, tmp_path / folder) for one, folder in ((trace, "a"), (back, "b")))
    told = ("us", "input_tokens", f"hit_tokens_{size}")
    assert [[row[key] for key in told] for row in here] == [[row[key] for key in told] for row in there]
    if size == 16:
        assert sum(row["hit_tokens_16"] for row in here) > 1000
    if name.startswith("dynamo"):
        named = [(row["session"], other["session"]) for row, other in zip(there, here, strict=True)]
        assert all(one == other for one, other in named if one is not None)


@pytest.mark.parametrize("each", [False, True])
def test_blocks_of_one_token_share_what_the_workload_expects(each, logs, tmp_path):
    """All that a cache which forgets nothing has of the prompts, with one engine for all models and with one each."""
    trace, _ = logs["text"]
    asked = Options(engines=("infinite",), engine_per_model=each)
    work = make_workload(trace, tmp_path / "w.parquet", asked)
    hits = sum(known_blocks(exported(work, "mooncake", tmp_path, block_size=1)))
    assert hits == work.meta["hit_tokens"] > 1000


@pytest.mark.parametrize("name", ["aiperf", "inference-perf", "sglang", "sglang-tokens"])
def test_files_with_prompts_come_back_with_their_hits(name, logs, ingested, tmp_path):
    """Lengths and hit tokens of every request of one model, in order; times and sessions where the file has them."""
    trace, _ = logs["text"]
    work = make_workload(trace, tmp_path / "m.parquet", Options(models=("m",), engines=("infinite",)))
    back = ingested(export(work, name, tmp_path / "out.jsonl").path)
    expected = {"inference-perf": "inference-perf", "sglang": "openai", "sglang-tokens": "sglang-token-trace"}
    assert back.manifest["formats"].keys() == {expected.get(name, name)}
    models = [row["model_requested"] for row in rows(trace)]
    there = [row for row, model in zip(seen(trace, tmp_path / "a"), models, strict=True) if model == "m"]
    here = seen(back, tmp_path / "b")
    assert len(here) == len(there) == work.requests > 10
    tokens = [key for key in there[0] if key.startswith(("input", "hit"))]
    assert [[row[key] for key in tokens] for row in here] == [[row[key] for key in tokens] for row in there]
    assert sum(row["hit_tokens_1"] for row in here) == work.meta["hit_tokens"] > 1000
    if name != "sglang":
        start = there[0]["us"]
        assert [row["us"] for row in here] == [row["us"] - start for row in there]
        named = [(row["session"], other["session"]) for row, other in zip(there, here, strict=True)]
        assert [other for one, other in named if one is not None] == [
            one for one, _ in named if one is not None
        ]
