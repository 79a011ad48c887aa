"""Public traces, replay formats, and logs that a map of their owner names the fields of."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SAMPLES, Ran, jsonl, reasons, rows

from traceprof import formats
from traceprof.errors import TraceprofError, UsageError
from traceprof.formats import servegen
from traceprof.formats.maps import find
from traceprof.ingest import Options, ingest
from traceprof.trace import Trace

Ingested = Callable[..., Trace]
Command = Callable[..., Ran]


def skipped(trace: Trace) -> dict[str, int]:
    found: dict[str, int] = trace.manifest["skipped_by_reason"]
    return found


def all_of(trace: Trace) -> list[dict[str, Any]]:
    """Rows with their content and tokens, in the order of the log."""
    merged = [dict(r) for r in rows(trace)]
    for kind in ("content", "tokens"):
        for row, more in zip(merged, rows(trace, kind) or [{}] * len(merged), strict=True):
            row.update(more)
    return sorted(merged, key=lambda r: (r["source_row"], r["turn_index"] or 0))


# -- public traces -------------------------------------------------------------------------------------------


def test_azure_times_with_and_without_zone_and_fraction(ingested: Ingested) -> None:
    """2024 writes +00:00 and leaves a zero fraction out; 2025 has no zone, which the row says, and counts images."""
    found = rows(ingested(SAMPLES / "azure-llm.2024.csv"))
    assert found[2]["arrival_ts"] == datetime(2024, 5, 10, 0, 0, 1, tzinfo=UTC) and found[2]["quality"] == []
    found = rows(ingested(SAMPLES / "azure-llm.lmm-2025.csv"))
    assert [r["quality"] for r in found] == [["tz_assumed"]] * 3
    assert [r["media"] and r["media"][0]["count"] for r in found] == [1, None, 3]
    log = b"TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n2024-10-01 00:00:01,many,5,6\n"
    (row,) = rows(ingested(log, "a.csv"))
    assert row["media"] is None and "bad_NumImages" in row["quality"]  # an image count costs no request


def test_burstgpt_of_the_second_release(ingested: Ingested) -> None:
    """Session ID and Elapsed time are read by name; an elapsed time of zero is none, an empty session too."""
    first, second = rows(ingested(SAMPLES / "burstgpt.v2.csv"))[:2]
    assert first["session_id"] == "1f2e3d4c-0000-4000-8000-000000000001" and first["e2e_us"] == 4_200_000
    assert second["session_id"] is None or second["e2e_us"] is not None
    log = (
        b"Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        b"10454400.5,,0.0,GPT-4,417,0,417,API log\n"
    )
    (row,) = rows(ingested(log, "b.csv"))
    assert (row["session_id"], row["e2e_us"], row["status"]) == (None, None, "error")
    assert row["arrival_offset_us"] == 0  # a later part starts at a large offset


def test_lmsys_turns_of_one_row_share_model_and_session(ingested: Ingested, tmp_path: Path) -> None:
    """One request a model turn, as Parquet too; redacted names are said, and take no row out of the hit rates."""
    log = [json.loads(line) for line in (SAMPLES / "lmsys-chat.jsonl").read_text("utf-8").splitlines()]
    path = tmp_path / "lmsys.parquet"
    pq.write_table(pa.Table.from_pylist(log), path)
    for trace in (ingested(SAMPLES / "lmsys-chat.jsonl"), ingested(path)):
        found = all_of(trace)
        assert [r["turn_index"] for r in found] == [0, 0, 1, 0]
        assert [r["quality"] for r in found] == [[], ["names_redacted"], ["names_redacted"], []]
        assert {r["content_state"] for r in found} == {"complete"}
        assert [m["role"] for m in json.loads(found[2]["messages_json"])] == ["user", "assistant", "user"]
        assert found[2]["model_requested"] == "gpt-4" and found[2]["arrival_ts"] is None


def test_wildchat_times_are_those_of_whole_answers(ingested: Ingested, tmp_path: Path) -> None:
    """Each answer's time is its log time, to the second; equal chats are told apart; the user is a hash of hash and headers."""
    found = all_of(ingested(SAMPLES / "wildchat.jsonl"))
    assert [r["arrival_ts"].strftime("%H:%M:%S") for r in found] == ["00:02:53", "00:03:31", "00:04:10", "00:04:40", "00:05:00"]  # fmt: skip
    assert {r["arrival_quality"] for r in found} == {"log_time"} and {r["end_ts"] for r in found} == {None}
    assert found[0]["session_id"] != found[3]["session_id"]  # the same words, said twice
    assert found[0]["user_id"] != found[1]["user_id"] == found[2]["user_id"]
    assert found[4]["user_id"] is None and found[4]["session_id"] == "x"  # the first release
    kept = json.dumps([{k: str(v) for k, v in r.items()} for r in found])
    assert "Mozilla" not in kept and "22fd" not in kept and "Texas" not in kept
    stamp = datetime(2023, 4, 9, 0, 2, 53, tzinfo=UTC)
    turns = [{"role": "user", "content": "hi", "turn_identifier": 1}, {"role": "assistant", "content": "yo", "turn_identifier": 1, "timestamp": stamp}]  # fmt: skip
    path = tmp_path / "w.parquet"
    pq.write_table(
        pa.Table.from_pylist([{"conversation_hash": "h", "timestamp": stamp, "conversation": turns}]), path
    )
    assert rows(ingested(path))[0]["arrival_ts"] == stamp


def test_oasst_paths_from_rows_and_from_trees(ingested: Ingested) -> None:
    """An assistant message is a request whose prompt is the path above it; in rows a parent may come after its child."""
    log = (SAMPLES / "oasst.messages.jsonl").read_bytes().splitlines(keepends=True)
    trace = ingested(b"".join(reversed(log)))
    found = {r["request_id"]: r for r in all_of(trace)}
    assert [m["content"] for m in json.loads(found["343ee2d4"]["messages_json"])] == ["Can you explain tides?", "The moon pulls the sea.", "And the sun?"]  # fmt: skip
    assert (found["343ee2d4"]["parent_request_id"], found["343ee2d4"]["turn_index"]) == ("c8e83833", 1)
    assert found["18145bf4"]["quality"] == [] and found["18145bf4"]["model_requested"] == "chip20b"
    assert found["c8e83833"]["quality"] == ["human_written"] and found["c8e83833"]["arrival_ts"] is None
    assert reasons(trace) == {"no_prompt": 1} and skipped(trace) == {"user_message": 2}
    loop = [json.loads(log[1]) | {"parent_id": "6708c47f"}, json.loads(log[2])]
    assert reasons(ingested(loop)) == {"unsupported": 1}  # a message that is its own ancestor ends the walk
    tree = {"message_id": "a", "text": "q", "role": "prompter", "replies": [
        {"message_id": "b", "text": "x", "role": "assistant", "replies": [
            {"message_id": "c", "text": "q2", "role": "prompter", "replies": [{"message_id": "d", "text": "z", "role": "assistant"}]}]},
        {"message_id": "e", "text": "y", "role": "assistant"}]}  # fmt: skip
    found = all_of(ingested([{"message_tree_id": "t", "tree_state": "x", "prompt": tree}]))
    assert {r["request_id"]: r["parent_request_id"] for r in found} == {"b": None, "d": "b", "e": None}


def test_fastchat_keeps_the_chat_and_drops_the_address(ingested: Ingested) -> None:
    """start and finish are the request's; the system message comes first; votes are skipped; no address is kept."""
    trace = ingested(SAMPLES / "fastchat.jsonl")
    first, second, third = all_of(trace)
    assert (first["end_ts"] - first["arrival_ts"]).total_seconds() == pytest.approx(1.7766)
    assert [m["role"] for m in json.loads(second["messages_json"])] == ["system", "user", "assistant", "user"]
    assert second["session_id"] == first["session_id"] and second["turn_index"] == 1
    assert third["media"][0]["kind"] == "image" and "iVBOR" not in third["messages_json"]
    assert skipped(trace) == {"not_a_generation": 2}
    assert "0.0.0.0" not in str(all_of(trace))
    line = {"tstamp": 1787313601.0, "type": "chat", "model": "m", "state": {"roles": ["U", "A"], "messages": [["U", "hi"], ["A", None]]}}  # fmt: skip
    (row,) = rows(ingested([line]))
    assert (row["status"], row["arrival_quality"], row["end_ts"]) == ("incomplete", "log_time", None)


# -- ServeGen ------------------------------------------------------------------------------------------------


def test_servegen_is_sampled_only_when_asked(command: Command, tmp_path: Path) -> None:
    """By content alone the files are refused with the reason; --format servegen samples them, and every row says so."""
    ran = command("ingest", SAMPLES / "servegen.csv", "-o", tmp_path / "t")
    assert (
        ran.code == 1
        and "a model of requests, not requests" in ran.error()
        and "--format servegen" in ran.error()
    )
    found = rows(ingest([SAMPLES / "servegen"], tmp_path / "t", Options(format="servegen")))
    assert {tuple(r["quality"]) for r in found} == {("sampled_from_model",)}
    assert {r["arrival_quality"] for r in found} == {"derived"} and {r["status"] for r in found} == {
        "unknown"
    }


def test_servegen_windows_and_histograms(tmp_path: Path) -> None:
    """ceil(rate x length) gaps fill each window, the last of which ends it; lengths are values of the histograms in force."""
    trace = ingest([SAMPLES / "servegen"], tmp_path / "t", Options(format="servegen"))
    found = rows(trace)
    by_window = {row: [r for r in found if r["source_row"] == row] for row in (2, 7)}
    assert len(by_window[2]) in (15, 16) and len(by_window[7]) in (
        283,
        284,
    )  # 0.0267/s and 0.4733/s for 600 s
    assert skipped(trace) == {"idle_window": 5, "histograms": 1}
    shown = json.loads((SAMPLES / "servegen" / "chunk-9-dataset.json").read_text("utf-8"))["64800"]
    sizes = {int(pair.split(":")[0]) for pair in shown["image_tokens"].strip("{}").split(",")}
    outputs = {int(pair.split(":")[0]) for pair in shown["output_tokens"].strip("{}").split(",")}
    assert {r["input_tokens"] for r in found} <= {50 + size for size in sizes}  # 50 of text, one image
    assert {r["output_tokens"] for r in found} <= outputs
    assert {r["media"][0]["count"] for r in found} == {1} and {r["tenant_id"] for r in found} == {"chunk-9"}
    again = rows(ingest([SAMPLES / "servegen"], tmp_path / "u", Options(format="servegen")))
    assert [r["arrival_offset_us"] for r in again] == [r["arrival_offset_us"] for r in found]
    turned = [SAMPLES / "servegen" / f"chunk-9-{part}" for part in ("trace.csv", "dataset.json")]
    other = rows(ingest(turned, tmp_path / "v", Options(format="servegen")))
    assert [r["input_tokens"] for r in other] == [
        r["input_tokens"] for r in found
    ]  # in whichever order they come


def test_servegen_executes_nothing_and_samples_no_flood(tmp_path: Path) -> None:
    """A histogram that is no dict of numbers is a reject; so is a window of more requests than memory should hold."""
    flag = tmp_path / "executed"
    (tmp_path / "chunk-1-trace.csv").write_text(
        "0,1,1,Gamma,1,1\n600,9000,1,Gamma,1,1\n1200,0,0,,0,0\nodd,line\n"
    )
    evil = f"{{4: __import__('pathlib').Path({str(flag)!r}).touch()}}"
    for shown in (evil, "{4: 'x'}", "{4: 1e999}", "{" * 5000, "[]", "{4: 0.5", 7, "{-1: 1}", "{4: 0}"):
        (tmp_path / "chunk-1-dataset.json").write_text(json.dumps({"0": {"input_tokens": "{4: 1}", "output_tokens": shown}}, indent=1))  # fmt: skip
        trace = ingest([tmp_path / f"chunk-1-{p}" for p in ("dataset.json", "trace.csv")], tmp_path / "t", Options(format="servegen"))  # fmt: skip
        assert reasons(trace) == {"unsupported": 1, "wrong_type": 1}, shown
        assert skipped(trace) == {"idle_window": 1, "other_line": 1}
        assert all(r["input_tokens"] is None for r in rows(trace)) and len(rows(trace)) in (599, 600)
    assert not flag.exists()
    assert not servegen.detect("0,1,1,Gamma,1") and not servegen.detect({"0": {"a": "{}"}})


def test_a_tar_archive_is_no_log(tmp_path: Path, command: Command) -> None:
    """The texts in an archive are not read as one file, asked for or not; the error says what to do."""
    with tarfile.open(tmp_path / "client.tar.gz", "w:gz") as archive:
        archive.add(SAMPLES / "servegen", "servegen")
    for words in ((), ("--format", "servegen")):
        ran = command("ingest", tmp_path / "client.tar.gz", "-o", tmp_path / "t", *words)
        assert ran.code == 1 and "a tar archive; unpack it first" in ran.error()


def test_servegen_offline_traces(ingested: Ingested) -> None:
    """Batch jobs have an order and no arrival; the same image is the same image; hashes compare over all files."""
    found = all_of(ingested(SAMPLES / "servegen-offline.jsonl"))
    assert {r["arrival_ts"] for r in found} == {None} and {r["clock"] for r in found} == {"order_only"}
    assert {r["hash_scope"] for r in found[:10]} == {"servegen-offline"}
    assert found[8]["media"][0]["hash"] != found[9]["media"][0]["hash"]
    assert found[10]["e2e_us"] == 14_000_000 and found[10]["block_hashes"] is None


# -- replay formats ------------------------------------------------------------------------------------------


def test_mooncake_sessions_and_delays(ingested: Ingested) -> None:
    """A turn that only waits has a delay and no arrival; other names and absolute times are read too."""
    trace = ingested(SAMPLES / "mooncake.sessions.jsonl")
    found = all_of(trace)
    assert [r["arrival_offset_us"] for r in found] == [0, 10_000, None, None, 500_500]
    assert [r["delay_after_parent_us"] for r in found] == [None, None, 250_000, 50_000, None]
    assert [r["session_id"] for r in found] == [
        "session-a",
        "session-b",
        "session-a",
        "session-b",
        "session-c",
    ]
    (row,) = rows(ingested([{"timestamp": "1753780607550317897", "input_length": 700, "output_length": 84, "hash_ids": [2843241808, 137021281]}]))  # fmt: skip
    assert row["clock"] == "absolute" and row["arrival_ts"].year == 2025


def test_lengths_tell_their_unit_by_their_file(ingested: Ingested) -> None:
    """A decimal point anywhere in a file's times means seconds, none means ms; dates and epoch times are since 1970."""

    def arrivals(*stamps: Any) -> tuple[set[str], list[int]]:
        found = rows(ingested([{"timestamp": s, "input_length": 5, "output_length": 2} for s in stamps]))
        return {r["clock"] for r in found}, [r["arrival_offset_us"] for r in found]

    assert arrivals(0, 2, 2.5) == ({"relative"}, [0, 2_000_000, 2_500_000])
    assert arrivals(0, 2, 3) == ({"relative"}, [0, 2_000, 3_000])
    assert arrivals(1787313600, 1787313602) == ({"absolute"}, [0, 2_000_000])
    assert arrivals("2026-08-21T12:00:00Z", "2026-08-21T12:00:00.5Z") == ({"absolute"}, [0, 500_000])
    (row,) = rows(ingested([{"input_length": 5, "output_length": 2}]))
    assert row["clock"] == "none" and row["quality"] == []
    assert not formats.claims({"timestamp": 0, "input_length": 5, "output_length": 2, "note": "x"})


def test_aiperf_turns_go_on_from_answers_that_the_file_lacks(ingested: Ingested) -> None:
    """Of a delta session the first prompt is whole; later ones are partial, and their length is not that of the prompt."""
    found = {r["request_id"]: r for r in all_of(ingested(SAMPLES / "aiperf.jsonl"))}
    assert (found["s_7/0"]["content_state"], found["s_7/1"]["content_state"]) == (
        "complete",
        "partial_history",
    )
    assert (
        found["s_7/1"]["parent_request_id"] == "s_7/0"
        and found["s_7/1"]["delay_after_parent_us"] == 1_500_000
    )
    assert (found["s_8/0"]["input_tokens"], found["s_8/1"]["input_tokens"]) == (300, None)
    whole = {"session_id": "w", "messages": [{"role": "user", "content": "q"}], "output_length": 3}
    log = [whole, {**whole, "delay": 5}, {**whole, "delay": 5, "message_mode": "delta"}]
    assert [r["content_state"] for r in all_of(ingested(log))] == ["complete", "complete", "partial_history"]
    alone = [{"session_id": "x", "text": "a", "delay": 0}, {"session_id": "x", "text": "b", "delay": 1}]
    assert {r["content_state"] for r in rows(ingested(alone))} == {"complete"}  # each entry is self-contained
    replaced = {"session_id": "y", "input_length": 70, "context_mode": "message_array_with_responses"}
    assert [r["input_tokens"] for r in rows(ingested([replaced, replaced]))] == [70, 70]


def test_aiperf_sessions_may_lie_in_several_rows(ingested: Ingested) -> None:
    """Turns of one session_id go on over rows; a system turn that leads them stands before each and is no turn."""
    log = [
        {
            "session_id": "s",
            "turns": [{"role": "system", "text": "Be brief."}, {"text": "a", "timestamp": 0}],
        },
        {"session_id": "s", "turns": [{"text": "b", "delay": 3}]},
    ]
    found = all_of(ingested(log))
    assert [r["turn_index"] for r in found] == [0, 1]
    assert [m["role"] for m in json.loads(found[0]["messages_json"])] == ["system", "user"]
    only = [{"session_id": "s", "turns": [{"role": "system", "text": "Be brief."}]}]
    assert len(rows(ingested(only))) == 1  # nothing else is there: then it is the turn


def test_aiperf_claims_only_what_is_its_own() -> None:
    """Rows that other logs write, too, are AIPerf's only beside its own keys or a small time in ms."""
    said = [{"role": "user", "content": "q"}]
    for record, mine in (
        ({"text_input": "q"}, True),
        ({"messages": said, "timestamp": 12}, True),
        ({"messages": said, "timestamp": 1787313600}, False),
        ({"payload": {"model": "m", "messages": said}, "timestamp": 12}, True),
        ({"payload": {"model": "m", "messages": said}, "timestamp": 12, "response": {}}, False),
        ({"text": "a corpus"}, False),
        ({"text": "a line", "timestamp": "2026-08-21"}, False),
        ({"turns": ["q", "q"], "question_id": 1}, False),
        ({"input_length": 5, "session_id": "s"}, True),
    ):
        assert (formats.claims(record) == ["aiperf"]) == mine, record


def test_agentic_mooncake_keeps_the_graph(ingested: Ingested) -> None:
    """The parent is the request before; delay and tool wait add up, and a wait for several says that it is one."""
    found = {r["request_id"]: r for r in rows(ingested(SAMPLES / "agentic-mooncake.jsonl"))}
    assert {k: r["parent_request_id"] for k, r in found.items()} == {
        "r1": None,
        "c1": "r1",
        "r2": "r1",
        "r3": "r2",
    }
    assert found["r2"]["delay_after_parent_us"] == 1_150_000 and found["r2"]["quality"] == [
        "delay_after_join"
    ]
    assert found["r3"]["clock"] == "order_only" and found["r3"]["arrival_offset_us"] is None
    small = [{"request_id": "a", "timestamp": 0, "input_length": 100, "output_length": 1, "hash_ids": [1, 2]}]
    assert reasons(ingested(small)) == {"length_mismatch": 1}  # blocks of 64, which the file does not say
    assert rows(ingested(small, block_size=64))[0]["block_size"] == 64


def test_agentic_mooncake_of_version_2_reads_its_header(ingested: Ingested) -> None:
    """Block size comes from the header, hashes compare within a play; plays made from WEKA sessions share no clock."""
    log = [json.loads(line) for line in (SAMPLES / "agentic-mooncake.v2.jsonl").read_text().splitlines()]
    found = all_of(ingested(log))
    assert {r["block_size"] for r in found} == {64} and {r["hash_scope"] for r in found} == {"play-1"}
    assert [r["e2e_us"] for r in found] == [120_000, 80_000, None]
    assert found[1]["delay_after_parent_us"] is None  # it waited for a dispatch, not for an end
    assert (found[2]["parent_request_id"], found[2]["delay_after_parent_us"]) == ("play-1:0", 20_500)
    log[0]["source"]["format"] = "weka"
    assert {r["clock"] for r in rows(ingested(log))} == {"session"}


def test_prompt_files_are_told_last_and_by_exact_keys(ingested: Ingested) -> None:
    """A prompt beside anything else is no prompt file; beside a model it is a completion body."""
    assert formats.claims({"prompt": "q", "output_tokens": 5}) == ["prompt_dataset"]
    assert formats.claims({"prompt": "Speichern", "context": "a button"}) == []
    assert formats.claims({"prompt": "q", "model": "m"}) == ["openai"]
    (row,) = all_of(ingested([{"prompt": "q", "completion": "a"}]))
    assert json.loads(row["output_json"]) == {"role": "assistant", "content": "a"} and row["clock"] == "none"


def test_token_traces(ingested: Ingested) -> None:
    """Prompts are ids; an answer is its ids or their number; an id that is none costs the row."""
    found = all_of(ingested(SAMPLES / "sglang-token-trace.jsonl"))
    assert [r["output_tokens"] for r in found] == [2, 16, 2, 1] and found[1]["output_ids"] is None
    assert [r["arrival_offset_us"] for r in found] == [0, 410_000, 1_250_000, 2_500_000]
    good = {"input_tokens": [1], "num_output_tokens": 1}
    assert reasons(ingested([good, {**good, "input_tokens": [1, -1]}])) == {"wrong_type": 1}


def test_agentic_conversations_know_later_prompts_by_length(ingested: Ingested) -> None:
    """Only what is new stands in a turn: the first prompt is whole, all have the length of the whole prompt."""
    found = sorted(
        all_of(ingested(SAMPLES / "sglang-agentic.json")), key=lambda r: (r["session_id"], r["turn_index"])
    )
    assert [r["input_tokens"] for r in found] == [73, 412, 655, 21]
    assert [r["content_state"] for r in found] == [
        "complete",
        "partial_history",
        "partial_history",
        "complete",
    ]
    assert [r["session_id"] for r in found] == ["0", "0", "0", "1"]


def test_aibrix_ticks_and_sessions(ingested: Ingested, tmp_path: Path) -> None:
    """A tick may be idle or start several requests; of a session the first prompt is whole; files do not share sessions."""
    trace = ingested(SAMPLES / "aibrix.sessions.jsonl")
    found = all_of(trace)
    assert skipped(trace) == {"idle_tick": 1} and len(found) == 4
    later = next(r for r in found if r["turn_index"] == 1)
    assert (later["content_state"], later["input_tokens"], later["output_tokens"]) == (
        "partial_history",
        None,
        5,
    )
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_bytes((SAMPLES / "aibrix.sessions.jsonl").read_bytes())
    both = rows(ingest([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "t"))
    assert {r["session_id"] for r in both} == {"0", "1", "b.jsonl:0", "b.jsonl:1", None}
    bad = {"timestamp": 1, "requests": [{"prompt": "q", "prompt_length": 3}, 7, {"output_length": 3}]}
    trace = ingested([bad])
    assert len(rows(trace)) == 1 and reasons(trace) == {"wrong_type": 1, "missing_field": 1}


# -- a log of one's own --------------------------------------------------------------------------------------


@pytest.fixture
def mapped(tmp_path: Path) -> Callable[..., Trace]:
    """mapped(records or bytes, map text, name=...): the trace of a log read by a map."""

    def make(log: list[Any] | bytes, words: str, name: str = "own.jsonl", **options: Any) -> Trace:
        (tmp_path / "own.toml").write_text(words, "utf-8")
        (tmp_path / name).write_bytes(log if isinstance(log, bytes) else jsonl(log))
        return ingest([tmp_path / name], tmp_path / "out", Options(map=tmp_path / "own.toml", **options))

    return make


def test_one_map_reads_nested_json_and_its_table(ingested: Ingested) -> None:
    """A dotted path is a nested field, or a column of that name: both samples give the same rows."""
    own = ("row_id", "source_file", "source_row")
    found = [
        [{k: v for k, v in r.items() if k not in own} for r in all_of(ingested(SAMPLES / file, map=SAMPLES / "mapping.toml"))]
        for file in ("mapping.jsonl", "mapping.table.csv")
    ]  # fmt: skip
    assert found[0] == found[1] and [r["request_id"] for r in found[0]] == ["a-1", "a-3", "a-5", "a-6"]
    assert [r["status"] for r in found[0]] == ["ok", "ok", "cancelled", "error"]
    assert found[0][1]["cached_input_tokens"] == 32 and found[0][0]["provider"] == "our-gateway"
    assert json.loads(found[0][0]["extra_json"]) == {"node": "gpu-1"}


def test_paths() -> None:
    """Dots, indices from either end, keys with dots in them, JSON in a text on the way; what is not there is None."""
    record = {"a": {"b.c": {"d": [1, {"e": 2}]}}, "log": '{"x": {"y": "[3, 4]"}}', "a.z": 5, "n": None}
    for path, value in {
        "a.b.c.d[0]": 1, "a.b.c.d[-1].e": 2, "log.x.y[1]": 4, "a.z": 5, "a.b.q": None, "a.b.c.d[7]": None, "n": None, "q[0]": None,
    }.items():  # fmt: skip
        assert find(record, path) == value, path


AT = datetime(2026, 8, 21, 12, 0, 1, 250_000, UTC)


@pytest.mark.parametrize(
    ("value", "setting"),
    [
        (1787313601.25, 'unit = "s"'),
        ("1787313601.25", 'unit = "s"'),
        (1787313601250, 'unit = "ms"'),
        (1787313601250000, 'unit = "us"'),
        (1787313601250000000, 'unit = "ns"'),
        ("2026-08-21T12:00:01.25Z", 'unit = "iso"'),
        ("2026-08-21T14:00:01.25", 'unit = "iso", zone = "+02:00"'),
        ("2026-08-21 14:00:01.250", 'zone = "Europe/Berlin"'),
        ("21/Aug/2026:14:00:01.250 +0200", 'unit = "%d/%b/%Y:%H:%M:%S.%f %z"'),
        ("21.08.2026 14:00:01.250", 'unit = "%d.%m.%Y %H:%M:%S.%f", zone = "Europe/Berlin"'),
    ],
)
def test_a_map_states_units_and_zones(value: Any, setting: str, mapped: Callable[..., Trace]) -> None:
    """One instant in every way that a log may write it."""
    (row,) = rows(
        mapped([{"t": value, "n": 5}], f'[fields]\narrival = {{path = "t", {setting}}}\ninput_tokens = "n"')
    )
    assert row["arrival_ts"] == AT and row["quality"] == [] and row["arrival_quality"] == "measured"


def test_a_map_reads_durations_ends_and_relative_times(mapped: Callable[..., Trace]) -> None:
    """Durations complete arrivals and ends; small numbers count from the log's start, larger ones when the map says so."""
    words = (
        '[fields]\nend = {path = "t", unit = "s"}\nduration = {path = "d", unit = "ms"}\ninput_tokens = "n"'
    )
    (row,) = rows(mapped([{"t": 1787313601.25, "d": 250, "n": 1}], words))
    assert (
        row["arrival_ts"] == datetime(2026, 8, 21, 12, 0, 1, tzinfo=UTC)
        and row["arrival_quality"] == "derived"
    )
    words = '[fields]\narrival = {path = "t", unit = "s"}\nduration = {path = "d", unit = "us"}\nttft = {path = "f", unit = "ns"}\ninput_tokens = "n"'
    first, second = rows(
        mapped([{"t": 7.5, "d": 90, "f": 4000, "n": 1}, {"t": 8, "d": "-", "f": None, "n": 1}], words)
    )
    assert (first["clock"], first["arrival_offset_us"], first["e2e_us"], first["ttft_us"]) == (
        "relative",
        0,
        90,
        4,
    )
    assert second["arrival_offset_us"] == 500_000 and second["e2e_us"] is None
    words = (
        '[fields]\narrival = {path = "t", unit = "ms", zero = "start", moment = "logged"}\ninput_tokens = "n"'
    )
    first, second = rows(mapped([{"t": 2_000_000_000, "n": 1}, {"t": 2_000_000_001, "n": 1}], words))
    assert (second["clock"], second["arrival_offset_us"], second["arrival_quality"]) == (
        "relative",
        1_000,
        "log_time",
    )


def test_a_map_reads_every_kind_of_prompt(mapped: Callable[..., Trace]) -> None:
    """Bodies of any dialect, messages, a system prompt beside a question, a text, token ids, block hashes, lengths."""
    said = [{"role": "user", "content": "hi"}]

    def one(record: dict[str, Any], fields: str, constants: str = "") -> dict[str, Any]:
        (row,) = all_of(mapped([record], f"[fields]\n{fields}\n[constants]\n{constants}"))
        return row

    row = one(
        {"b": {"model": "c", "system": "Be brief.", "max_tokens": 5, "messages": said}}, 'request = "b"'
    )
    assert [m["role"] for m in json.loads(row["messages_json"])] == ["system", "user"] and row[
        "model_requested"
    ] == "c"
    row = one({"m": json.dumps(said), "s": "Be brief."}, 'messages = "m"\nsystem = "s"')
    assert [m["role"] for m in json.loads(row["messages_json"])] == ["system", "user"]
    row = one(
        {"q": "hi", "s": "Be brief.", "a": '{"city": "Bergen"}'}, 'prompt = "q"\nsystem = "s"\nanswer = "a"'
    )
    assert [m["content"] for m in json.loads(row["messages_json"])] == ["Be brief.", "hi"]
    assert json.loads(row["output_json"])["content"] == '{"city": "Bergen"}'  # a text, also one that is JSON
    row = one({"q": "<s>hi"}, 'prompt = "q"', 'model = "base"')
    assert (row["prompt_text"], row["operation"], row["model_requested"]) == ("<s>hi", "text", "base")
    row = one({"i": "[1, 2, 3]", "o": [4]}, 'token_ids = "i"\noutput_ids = "o"', 'tokenizer = "llama"')
    assert (row["input_ids"], row["output_ids"], row["content_level"]) == ([1, 2, 3], [4], "tokens")
    row = one({"h": [7, 8], "n": 20}, 'block_hashes = "h"\ninput_tokens = "n"', "block_size = 16")
    assert (row["block_hashes"], row["hash_scope"], row["last_block_partial"]) == ([7, 8], "own.jsonl", True)
    row = one({"u": {"input_tokens": 3, "cache_read_input_tokens": 7, "output_tokens": 2}}, 'usage = "u"')
    assert (row["input_tokens"], row["cached_input_tokens"], row["content_level"]) == (10, 7, "lengths")
    row = one(
        {"n": 3, "c": 7}, 'input_tokens = {path = "n", excludes_cached = true}\ncached_input_tokens = "c"'
    )
    assert row["input_tokens"] == 10 and "usage_excludes_cache_fixed" in row["quality"]


def test_a_map_may_take_the_requests_out_of_a_list(mapped: Callable[..., Trace]) -> None:
    """`each` names the list; a path that begins with ^. is of the record around it; one bad element costs one."""
    words = 'each = "tick.calls"\n[fields]\narrival = {path = "^.at", unit = "ms"}\ninput_tokens = "n"\nuser = "who"'
    log = [{"at": 5, "tick": {"calls": [{"n": 1, "who": "a"}, {"n": 2, "who": "b"}]}}, {"at": 9, "tick": {"calls": [{"n": 3, "who": "c"}, 7, {"n": "x"}]}}, {"at": 1, "tick": {}}]  # fmt: skip
    with pytest.raises(TraceprofError, match="has no list under"):
        mapped([log[2]], words)
    trace = mapped([*log[:2], {"at": 11, "tick": {"calls": []}}], words)
    assert [(r["arrival_offset_us"], r["user_id"]) for r in rows(trace)][:3] == [
        (0, "a"),
        (0, "b"),
        (4_000, "c"),
    ]
    assert skipped(trace) == {"empty_list": 1}


def test_a_map_leaves_records_out(mapped: Callable[..., Trace]) -> None:
    """By a value, by any other value, or by a missing one; cells of a table are text, which changes nothing."""
    for log, name in (
        ([{"k": "chat", "n": 1, "t": True}, {"k": "ping", "n": 1, "t": True}, {"k": "chat", "n": 1, "t": False}, {"n": 1, "t": True}], "own.jsonl"),
        (b"k,n,t\nchat,1,true\nping,1,True\nchat,1,false\n,1,true\n", "own.csv"),
    ):  # fmt: skip
        words = '[fields]\ninput_tokens = "n"\n[[skip]]\npath = "k"\nnot = ["chat"]\nmissing = true\n[[skip]]\npath = "t"\nis = false'
        trace = mapped(log, words, name)
        assert len(rows(trace)) == 1 and skipped(trace) == {"skipped_by_map": 3}


def test_a_map_reads_outcomes(mapped: Callable[..., Trace]) -> None:
    """HTTP codes, words that are known or that the map explains, and errors; an unknown word is said, not guessed."""
    words = '[fields]\ninput_tokens = "n"\nstatus = {path = "s", words = {boo = "error"}}\nerror = {path = "e", optional = true}'
    log = [{"n": 1, "s": s} for s in (200, "429", 503, "Completed", "aborted", "boo", "weird", True)]
    found = all_of(mapped([*log, {"n": 1, "e": {"type": "overloaded"}}], words))
    assert [r["status"] for r in found] == ["ok", "rejected", "error", "ok", "cancelled", "error", "unknown", "ok", "error"]  # fmt: skip
    assert [r["http_status"] for r in found[:3]] == [200, 429, 503] and found[6]["quality"] == ["bad_status"]
    assert found[8]["error_type"] == "overloaded"


GOOD = '[fields]\narrival = {path = "meta.ts", unit = "ms"}\nrequest = "body"\n'
BODY = {"model": "m", "messages": [{"role": "user", "content": "q"}]}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("[fields\n", "own.toml:1: not TOML"),
        (GOOD.replace("arrival", "arival"), "has no key 'arival'; did you mean arrival?"),
        ("[field]\n", "has no key 'field'; did you mean fields?"),
        (GOOD.replace('"ms"', '"msec"'), "[fields] arrival has an unknown unit ('msec'); one of:"),
        (GOOD.replace('"ms"', '"s"'), 'beyond any clock (1787313600120); write unit = "ms"'),
        (GOOD.replace('"ms"', '"us"'), '1787313600120 us is no time of these years; write unit = "ms"'),
        (GOOD.replace('unit = "ms"', 'unit = "iso"'), 'gives it no unit (1787313600120); write unit = "ms"'),
        (GOOD.replace('"ms"', '"%d.%m %H:%M"'), "has a pattern without a year"),
        (GOOD.replace('"ms"', '"%Y-%Q"'), "has a pattern that is none"),
        (GOOD.replace("meta.ts", "meta.tss"), 'has "meta.tss"; did you mean "meta.ts"?'),
        (GOOD.replace("meta.ts", "meta..ts"), "has no path ('meta..ts')"),
        (GOOD.replace('"body"', '"meta"'), "is an object of ts, not a request body of a known API"),
        (GOOD + 'duration = "meta.ts"\n', "[fields] duration has no unit; add unit"),
        (
            GOOD + 'status = {path = "meta.ts", words = {a = "fine"}}\n',
            "has no status 'fine'; one of: ok, error",
        ),
        ('[fields]\nmodel = "m"\n', "names no prompt; give request, messages"),
        ('[fields]\nblock_hashes = "h"\n', "has no block_size; add block_size = 16"),
        (GOOD + "[constants]\nmodel = 7\n", "[constants] model is not a text in quotes"),
        (GOOD + '[[skip]]\npath = "k"\n', "[[skip]] says no value; add is"),
        (GOOD.replace('"ms"', '"ms", zone = "Mars"'), "has no known zone ('Mars')"),
    ],
)
def test_a_wrong_map_is_told_in_one_line(words: str, said: str, command: Command, tmp_path: Path) -> None:
    """Every mistake names the map's file and the key, and says what to write instead."""
    (tmp_path / "own.toml").write_text(words)
    (tmp_path / "own.jsonl").write_bytes(jsonl([{"meta": {"ts": 1787313600120}, "body": BODY}] * 3))
    ran = command("ingest", tmp_path / "own.jsonl", "--map", tmp_path / "own.toml", "-o", tmp_path / "t")
    assert ran.code == 1 and str(tmp_path / "own.toml") in ran.error() and said in ran.error(), ran.error()


def test_a_map_needs_its_format_and_a_file(command: Command, tmp_path: Path) -> None:
    """--format mapping asks for --map; --map is no option of other formats; a map that is not there is told; so is a log of text."""
    log = tmp_path / "own.jsonl"
    log.write_bytes(jsonl([{"meta": {"ts": 1787313600120}, "body": BODY}]))
    ran = command("ingest", log, "--format", "mapping", "-o", tmp_path / "t")
    assert ran.code == 2 and "--map FILE" in ran.error()
    (tmp_path / "own.toml").write_text(GOOD)
    ran = command("ingest", log, "--format", "openai", "--map", tmp_path / "own.toml", "-o", tmp_path / "t")
    assert ran.code == 2 and "--map does not apply to openai logs" in ran.error()
    ran = command("ingest", log, "--map", tmp_path / "none.toml", "-o", tmp_path / "t")
    assert ran.code == 1 and "none.toml: the map cannot be read" in ran.error()
    (tmp_path / "words.txt").write_text("one line\nanother line\n")
    ran = command("ingest", tmp_path / "words.txt", "--map", tmp_path / "own.toml", "-o", tmp_path / "t")
    assert ran.code == 1 and "words.txt" in ran.error()
    with pytest.raises(UsageError):
        ingest([log], tmp_path / "t", Options(format="mapping"))


def test_a_map_reaches_workers_and_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The map goes to worker processes with the options, and names the columns of Parquet, times of its own included."""
    monkeypatch.setattr("traceprof.ingest.WORTH_WORKERS", 0)
    (tmp_path / "own.toml").write_text('[fields]\narrival = "at"\nrequest = "body"\ntenant = "who.team"\n')
    table = [{"at": AT, "body": json.dumps(BODY), "who": {"team": f"t{i}"}} for i in range(4)]
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "own.parquet")
    trace = ingest(
        [tmp_path / "own.parquet"], tmp_path / "t", Options(map=str(tmp_path / "own.toml"), jobs=2)
    )
    assert {r["tenant_id"] for r in rows(trace)} == {"t0", "t1", "t2", "t3"}
    assert {r["arrival_ts"] for r in rows(trace)} == {AT}


def test_a_changed_map_starts_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--resume takes up a killed ingest only when the map still says the same."""
    (tmp_path / "own.toml").write_text('[fields]\ninput_tokens = "n"\n')
    (tmp_path / "own.jsonl").write_bytes(jsonl([{"n": 1, "m": 2}]))

    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("traceprof.trace.shutil.rmtree", lambda *a, **k: None)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("traceprof.ingest.merge", killed)
        ingest([tmp_path / "own.jsonl"], tmp_path / "t", Options(map=tmp_path / "own.toml"))
    (left,) = tmp_path.glob(".t.*.partial")
    left.rename(tmp_path / ".t.99999999-x.partial")  # of a process that is gone
    (tmp_path / "own.toml").write_text('[fields]\ninput_tokens = "m"\n')
    monkeypatch.undo()
    trace = ingest([tmp_path / "own.jsonl"], tmp_path / "t", Options(map=tmp_path / "own.toml", resume=True))
    assert rows(trace)[0]["input_tokens"] == 2


def test_the_map_of_the_docs_is_a_map(tmp_path: Path) -> None:
    """The example of docs/formats.md is read as it stands, and reads the log that stands beside it."""
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text("utf-8")
    section = page.partition("## Your own format")[2].partition("\n## ")[0]
    log, words = (section.partition(f"```{kind}\n")[2].partition("```")[0] for kind in ("json", "toml"))
    (tmp_path / "calls.jsonl").write_text(log, "utf-8")
    (tmp_path / "calls.toml").write_text(words, "utf-8")
    trace = ingest([tmp_path / "calls.jsonl"], tmp_path / "t", Options(map=tmp_path / "calls.toml"))
    assert trace.manifest["requests"] >= 1 and not trace.manifest["rejects"]


def test_a_table_of_a_benchmark(mapped: Callable[..., Trace]) -> None:
    """Cells are text: numbers with points, empty cells and quoted JSON are read as what the map says."""
    out = io.StringIO()
    table = csv.writer(out)
    table.writerow(["prompt_tokens", "Generated tokens", "ttft", "launch_time", "finish_time"])
    table.writerow(["21073.0", "100.0", "0.32274", "1747437847.0254288", "1747437849.4366298"])
    table.writerow(["", "7", "", "1747437848", "1747437849"])
    words = (
        '[fields]\narrival = {path = "launch_time", unit = "s"}\nend = {path = "finish_time", unit = "s"}\n'
        'ttft = {path = "ttft", unit = "s"}\ninput_tokens = "prompt_tokens"\noutput_tokens = "Generated tokens"\n'
    )
    first, second = rows(mapped(out.getvalue().encode(), words, "own.csv"))
    assert (first["input_tokens"], first["output_tokens"], first["ttft_us"]) == (21073, 100, 322_740)
    assert (first["end_ts"] - first["arrival_ts"]).total_seconds() == pytest.approx(2.411201)
    assert (second["input_tokens"], second["output_tokens"], second["ttft_us"]) == (None, 7, None)
