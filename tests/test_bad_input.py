"""Logs as they should not be: every record is accounted for, every failure is one line, nothing is a traceback."""

from __future__ import annotations

import bz2
import copy
import ctypes
import gzip
import json
import lzma
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import FORMATS, LABELS, SAMPLES, Ran, asked, jsonl, pair, reasons, rows, sample_records, whole
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from traceprof import formats
from traceprof.errors import TraceprofError, UsageError
from traceprof.ingest import Options, ingest
from traceprof.trace import Trace

Ingested = Callable[..., Trace]
Command = Callable[..., Ran]

# -- one bad record among good ones --------------------------------------------------------------------------

BAD_LINES: dict[str, tuple[bytes, str]] = {
    "cut in a string": (b'{"request": {"model": "m", "messages": [{"role": "us', "truncated_json"),
    "cut after a key": (b'{"request": {"model": "m", "messages":', "truncated_json"),
    "cut between values": (b'{"request": {"model": "m",', "truncated_json"),
    "no JSON": (b"2026-08-21 12:00:00 INFO request done", "invalid_json"),
    "a stray comma": (json.dumps(pair(9)).encode() + b",", "invalid_json"),
    "two objects": (json.dumps(pair(9)).encode() * 2, "invalid_json"),
    "single quotes": (b"{'request': {}}", "invalid_json"),
    "not UTF-8": (json.dumps(pair(9)).encode().replace(b"question", b"qu\xe9stion"), "invalid_utf8"),
    "a NUL byte": (json.dumps(pair(9)).encode().replace(b"question", b"qu\x00stion"), "nul_byte"),
    "a number": (b"17", "wrong_type"),
    "a string": (b'"request"', "wrong_type"),
    "null": (b"null", "wrong_type"),
    "a list of numbers": (b"[17]", "wrong_type"),
    "nested too deep": (b"[" * 100_000 + b"]" * 100_000, "invalid_json"),
    "no body": (b'{"timestamp": 1, "hello": "world"}', "missing_field"),
    "messages no list": (jsonl([pair(9, request={"model": "m", "messages": "hi"})]), "wrong_type"),
    "a message no object": (jsonl([pair(9, request={"model": "m", "messages": ["hi"]})]), "wrong_type"),
    "no role": (jsonl([pair(9, request={"model": "m", "messages": [{"content": "hi"}]})]), "missing_field"),
    "content a number": (jsonl([pair(9, request={"model": "m", "messages": [{"role": "user", "content": 7}]})]), "wrong_type"),
    "a part a number": (jsonl([pair(9, request={"model": "m", "messages": [{"role": "user", "content": [7]}]})]), "wrong_type"),
    "model a number": (jsonl([pair(9, request={"model": 7, "messages": []})]), "wrong_type"),
    "tools an object": (jsonl([pair(9, request={"model": "m", "messages": [], "tools": {"a": 1}})]), "wrong_type"),
    "prompt of floats": (jsonl([pair(9, request={"model": "m", "prompt": [0.5]})]), "wrong_type"),
    "an id below zero": (jsonl([pair(9, request={"model": "m", "prompt": [-1]})]), "wrong_type"),
    "time in words": (jsonl([pair(9, timestamp="yesterday")]), "bad_time"),
    "time a list": (jsonl([pair(9, timestamp=[2026])]), "bad_time"),
    "time true": (jsonl([pair(9, timestamp=True)]), "bad_time"),
    "time of month 13": (jsonl([pair(9, timestamp="2026-13-01T00:00:00Z")]), "bad_time"),
    "time negative": (jsonl([pair(9, timestamp=-5)]), "negative_time"),
    "time before 1970": (jsonl([pair(9, timestamp="1969-12-31T23:59:59Z")]), "negative_time"),
    "time NaN": (jsonl([pair(9, timestamp=float("nan"))]), "non_finite_time"),
    "time Infinity": (jsonl([pair(9, timestamp=float("inf"))]), "non_finite_time"),
    "time minus Infinity": (jsonl([pair(9, timestamp=float("-inf"))]), "non_finite_time"),
    "time of 1e18 digits": (jsonl([pair(9, timestamp=1e300)]), "bad_time"),
    "time an integer of 400 digits": (jsonl([pair(9, timestamp=10**400)]), "bad_time"),
    "latency negative": (jsonl([pair(9, latency_ms=-1)]), "negative_time"),
    "latency NaN": (jsonl([pair(9, latency_ms=float("nan"))]), "non_finite_time"),
    "latency of a million years": (jsonl([pair(9, latency_ms=3e16)]), "bad_time"),
    "latency of 400 digits": (jsonl([pair(9, latency_ms=10**400)]), "bad_time"),
    "end before arrival": (jsonl([pair(9, end_time="2026-08-21T11:00:00Z")]), "end_before_arrival"),
    "an id seen before": (jsonl([pair(1)]), "duplicate_request_id"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_record_is_set_aside_and_the_rest_is_read(case: str, ingested: Ingested) -> None:
    """One bad record costs one record: it is in rejects/ with its file, line, reason, words and text."""
    line, reason = BAD_LINES[case]
    line = line.strip(b"\n")
    trace = ingested(jsonl([pair(1), pair(2)]) + b"\n" + line + b"\n" + jsonl([pair(3)]))
    assert reasons(trace) == {reason: 1}
    assert [r["request_id"] for r in rows(trace)] == ["r1", "r2", "r3"]
    (reject,) = rows(trace, "rejects")
    assert (reject["source_file"], reject["source_row"], reject["source_format"]) == (
        "log.jsonl",
        4,
        "openai",
    )
    assert reject["detail"]
    if reason != "duplicate_request_id":
        assert reject["raw"] == line.decode("utf-8", "replace")


SURVIVES: dict[str, Any] = {
    "a huge temperature": {"temperature": 10**400},
    "a NaN temperature": {"temperature": float("nan"), "top_p": float("inf")},
    "a huge seed": {"seed": 2**70, "n": 2**40, "top_k": -(2**40)},
    "a huge limit": {"max_tokens": 10**400},
    "odd stops": {"stop": {"a": 1}, "tool_choice": {"type": "x"}, "response_format": "json", "stream": "yes"},
    "odd names": {"user": {"a": 1}, "metadata": [1], "prompt_cache_key": 7, "cache_salt": ["x"]},
}


@pytest.mark.parametrize("case", SURVIVES)
def test_odd_parameters_do_not_cost_the_request(case: str, ingested: Ingested) -> None:
    """A parameter that no column can hold is left out; the request stays."""
    body = {"model": "m", "messages": [{"role": "user", "content": "q"}], **SURVIVES[case]}
    trace = ingested([pair(1, request=body), pair(2)])
    assert len(rows(trace)) == 2 and reasons(trace) == {}


WRONG: list[Any] = [None, "", "x", "-1", "nan", 0, -1, 1.5, 1e300, 10**400, True, [], {}, [None], [[]], {"a": None}, "2026-13-01",
                    "\ud800", float("nan"), float("-inf"), 2**63, 70_000]  # fmt: skip


def changed(value: Any, depth: int = 3) -> Iterator[Any]:
    """The value with each field in it replaced by each wrong value, or missing."""
    if depth == 0:
        return
    keys: Any = (
        value.keys()
        if isinstance(value, dict)
        else range(min(2, len(value)))
        if isinstance(value, list)
        else ()
    )
    for key in list(keys):
        for wrong in WRONG:
            other = copy.copy(value)
            other[key] = wrong
            yield other
        if isinstance(value, dict):
            yield {k: v for k, v in value.items() if k != key}
        for inner in changed(value[key], depth - 1):
            other = copy.copy(value)
            other[key] = inner
            yield other


@pytest.mark.parametrize(
    "name", [n for n in FORMATS if not formats.reads_lines(formats.load(n.split(".")[0]))]
)
def test_wrong_types_and_missing_fields_everywhere(name: str, ingested: Ingested) -> None:
    """Whatever stands in whichever field: the record is read, rejected or skipped, and counted."""
    log = sample_records(name)
    log = sorted(log[:20], key=lambda r: len(json.dumps(r, default=str)))
    if name == "openai-batch":
        log = [log[0], next(r for r in log if r.get("response"))]
    elif name.startswith("mapping"):
        log = log[-2:]
    elif name == "weka":
        log[-1] = {**log[-1], "requests": [e for e in log[-1]["requests"] if e["type"] == "subagent"][:1]}
        log = [json.loads(json.dumps(log[-1], default=str))]
        log[0]["requests"][0]["requests"] = log[0]["requests"][0]["requests"][:1]
        log[0]["requests"][0]["requests"][0]["hash_ids"] = log[0]["requests"][0]["requests"][0]["hash_ids"][
            :3
        ]
    bad = [other for record in log[:2] for other in changed(record, 5 if name == "weka" else 4)]
    assert len(bad) > 50
    lines = [
        json.dumps(r, default=str).encode() for r in bad
    ]  # escapes lone surrogates, as a sloppy logger does
    trace = ingested(
        jsonl([*(json.dumps(r, default=str).encode() for r in log[:2]), *lines]),
        duplicates="keep",
        **{**asked(name), "format": name.split(".")[0]},
    )
    assert "unreadable" not in reasons(trace), rows(trace, "rejects")
    for row in rows(trace):
        assert row["input_tokens"] is None or row["input_tokens"] >= 0


def test_duplicates(ingested: Ingested) -> None:
    """An id that came before is a reject by default, skipped or kept on request; the first in the file stays."""
    log = [pair(1), pair(2), pair(1, timestamp="2026-08-21T11:00:00Z"), pair(2)]
    trace = ingested(log)
    assert [(r["request_id"], r["source_row"]) for r in rows(trace)] == [("r1", 1), ("r2", 2)]
    assert [(r["reason"], r["source_row"]) for r in rows(trace, "rejects")] == [
        ("duplicate_request_id", 3), ("duplicate_request_id", 4),
    ]  # fmt: skip
    assert "question" in rows(trace, "rejects")[0]["raw"]
    trace = ingested(log, duplicates="skip")
    assert trace.manifest["skipped_by_reason"] == {"duplicate_request_id": 2} and len(rows(trace)) == 2
    assert len(rows(ingested(log, duplicates="keep"))) == 4


def test_several_records_on_a_line(ingested: Ingested) -> None:
    """A line that holds a list is that many records, each with a row id of its own; an empty one is skipped."""
    trace = ingested(jsonl([[pair(1, request_id=None), pair(2, request_id=None), 7], pair(3), []]))
    assert [r["source_row"] for r in rows(trace)] == [1, 1, 2]
    assert reasons(trace) == {"wrong_type": 1} and trace.manifest["skipped_by_reason"] == {"empty_list": 1}


def test_a_bom_inside_the_file(ingested: Ingested) -> None:
    """Files joined with their BOMs read as one."""
    one = b"\xef\xbb\xbf" + jsonl([pair(1)])
    assert len(rows(ingested(one + jsonl([pair(2)]) + b"\xef\xbb\xbf" + jsonl([pair(3)])))) == 3


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_the_limit_of_a_record_is_the_same_everywhere(
    pack: Callable[[bytes], bytes], ingested: Ingested
) -> None:
    """--max-record-bytes holds for lines and array elements, short of a chunk or not, compressed or not."""
    long = pair(2, note="x" * 5000)
    size = len(json.dumps(long))
    trace = ingested(pack(jsonl([pair(1), long, pair(3)])), max_record_bytes=2000)
    assert reasons(trace) == {"record_too_large": 1} and len(rows(trace)) == 2
    (reject,) = rows(trace, "rejects")
    assert reject["source_row"] == 2 and reject["raw"] is None and f"{size} bytes" in reject["detail"]
    trace = ingested(pack(json.dumps([pair(1), long, pair(3)]).encode()), max_record_bytes=2000)
    assert reasons(trace) == {"record_too_large": 1} and [r["source_row"] for r in rows(trace)] == [1, 3]
    assert len(rows(ingested(jsonl([pair(1), long, pair(3)]), max_record_bytes=size))) == 3


def test_a_first_record_longer_than_the_sample(ingested: Ingested) -> None:
    """A log whose first record is longer than a megabyte is detected: as a line, pretty-printed, or in an array."""
    long = pair(1, request={"model": "m", "messages": [{"role": "user", "content": "x" * 3_000_000}]})
    for log in (jsonl([long, pair(2)]), json.dumps(long).encode(), json.dumps(long, indent=2).encode(),
                json.dumps([long, pair(2)]).encode(), json.dumps([long], indent=1).encode()):  # fmt: skip
        for pack in (bytes, gzip.compress):
            assert rows(ingested(pack(log)))[0]["request_id"] == "r1"
    trace = ingested(jsonl([long, pair(2)]), max_record_bytes=100_000)
    assert reasons(trace) == {"record_too_large": 1} and len(rows(trace)) == 1


def test_json_shapes(ingested: Ingested) -> None:
    """Arrays on one line, pretty-printed, cut short or with rubbish behind; objects one after another: all are read."""
    pairs = [pair(i) for i in range(1, 5)]
    one, pretty = json.dumps(pairs), json.dumps(pairs, indent=2)
    for log in (
        one,
        pretty,
        one + "\n",
        " \n " + pretty,
        "\n".join(json.dumps(p, indent=1) for p in pairs),
        "\n\n" + jsonl(pairs).decode(),
    ):
        assert [r["request_id"] for r in rows(ingested(log.encode()))] == ["r1", "r2", "r3", "r4"], log[:80]
    trace = ingested(one[:-150].encode())
    assert reasons(trace) == {"truncated_json": 1} and len(rows(trace)) == 3
    assert rows(trace, "rejects")[0]["source_row"] == 4
    trace = ingested(one.encode() + b" }")
    assert reasons(trace) == {"invalid_json": 1} and len(rows(trace)) == 4


def test_csv_rows(ingested: Ingested) -> None:
    """Rows with too few or many cells, bad counts, bad bytes and stray quotes are set aside as they stand in the file."""
    log = (
        b"\r\n"
        b"TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
        b"2024-05-10 00:00:00+00:00,1,2\r\n"
        b"2024-05-10 00:00:01+00:00,1\r\n"
        b"2024-05-10 00:00:02+00:00,1,2,3\r\n"
        b"2024-05-10 00:00:03+00:00,-1,2\r\n"
        b'"2024-05-10 00:00:04+00:00","many",2\r\n'
        b"2024-05-10 00:00:05+00:00,1,\xff\r\n"
        b"2024-05-10 00:00:06+00:00,1,\x00\r\n"
        b"not a time,1,2\r\n"
        b",1,2\r\n"
        b"\r\n"
        b'"2024-05-10 00:00:07+00:00",1,2'
    )
    trace = ingested(log, "a.csv", format="azure-llm")
    assert [r["source_row"] for r in rows(trace)] == [3, 13]
    found = {r["source_row"]: (r["reason"], r["raw"]) for r in rows(trace, "rejects")}
    assert {k: v[0] for k, v in found.items()} == {
        4: "wrong_columns", 5: "wrong_columns", 6: "bad_count", 7: "bad_count", 8: "invalid_utf8", 9: "nul_byte",
        10: "bad_time", 11: "missing_field",
    }  # fmt: skip
    assert found[7][1] == '"2024-05-10 00:00:04+00:00","many",2'


def test_a_damaged_header_costs_no_crash(ingested: Ingested) -> None:
    """A carriage return in a CSV header, or one name of a megabyte, is part of a name."""
    row = b"2024-05-10 00:00:00+00:00,1,2,x\n"
    for extra in (b"no\rte", b"n" * 1_000_000):
        trace = ingested(
            b"TIMESTAMP,ContextTokens,GeneratedTokens," + extra + b"\n" + row, "a.csv", format="azure-llm"
        )
        assert [r["input_tokens"] for r in rows(trace)] == [1]


def test_a_bare_carriage_return_is_no_line_end(ingested: Ingested) -> None:
    """A damaged line end costs its rows, and the rows after it keep their numbers."""
    line = b"2024-05-10 00:00:00+00:00,1,2\r\n"
    log = (
        b"TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
        + line * 3
        + line.replace(b"\n", b"\x08")
        + line * 3
        + line.strip()
    )
    trace = ingested(log, "a.csv")
    assert [r["source_row"] for r in rows(trace)] == [2, 3, 4, 6, 7, 8] and reasons(trace) == {
        "invalid_csv": 1
    }


def test_a_stray_quote_does_not_hang(ingested: Ingested) -> None:
    """One unclosed quote in a large CSV file takes no longer than the file is long."""
    line = b"2024-05-10 00:00:00+00:00,1,2\n"
    log = b"TIMESTAMP,ContextTokens,GeneratedTokens\n" + line * 10 + b'"oops,1,2\n' + line * 300_000
    trace = ingested(log, "a.csv", chunk_bytes=1 << 22)
    assert len(rows(trace)) >= 10 and trace.manifest["rejects"] >= 1


# -- files ---------------------------------------------------------------------------------------------------


def test_a_file_that_breaks_off_is_read_up_to_there(ingested: Ingested) -> None:
    """A compressed log cut in the middle gives all its whole records, and one reject that holds the broken one."""
    import random

    noise = random.Random(1)
    log = jsonl(pair(i, note=f"{noise.getrandbits(4000):x}") for i in range(1, 2000))
    packs = {
        "gz": gzip.compress,
        "bz2": bz2.compress,
        "xz": lzma.compress,
        "zst": lambda b: pa.compress(b, codec="zstd", asbytes=True),
    }
    for name, pack in packs.items():
        packed = pack(log)
        trace = ingested(packed[: len(packed) * 2 // 3])
        n = len(rows(trace))
        assert n > 500, name
        assert reasons(trace) == {"file_cut_off": 1}
        (reject,) = rows(trace, "rejects")
        assert reject["source_row"] == n + 1
        if reject["raw"]:
            assert log.splitlines()[n].startswith(reject["raw"].encode())
    trace = ingested(gzip.compress(log)[:-4])
    assert len(rows(trace)) == 1999 and reasons(trace) == {"file_cut_off": 1}
    array = gzip.compress(json.dumps([json.loads(line) for line in log.splitlines()]).encode())
    trace = ingested(array[: len(array) // 2])
    assert len(rows(trace)) > 100 and reasons(trace) == {"file_cut_off": 1}


def unreadable(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files that hold no log: name -> (path, what the message must say)."""
    out: dict[str, tuple[Path, str]] = {}

    def add(name: str, body: bytes, says: str) -> None:
        (folder / name).write_bytes(body)
        out[name] = (folder / name, says)

    add("empty.jsonl", b"", "empty")
    add("blank.jsonl", b" \n\n\t\n", "empty")
    add("empty.jsonl.gz", gzip.compress(b""), "empty")
    add("bom.jsonl", b"\xef\xbb\xbf", "empty")
    add("random.bin", bytes(range(256)) * 64, "binary")
    add("cut.gz", gzip.compress(os.urandom(4000))[:12], "cannot be read")
    add("fake.gz", b"\x1f\x8b" + b"x" * 100, "cannot be read")
    add("fake.zst", b"\x28\xb5\x2f\xfd" + b"x" * 100, "cannot be read")
    add("pickle.pkl", pickle.dumps([pair()]), "pickle")
    add("utf16.jsonl", jsonl([pair()]).decode().encode("utf-16"), "UTF-16")
    add("prose.md", b"# Title\n\nNothing here, really.\n", "neither JSON")
    add("other.json", b'{"name": "harbor", "version": 1}', "no known format")
    add("other.csv", b"a,b\n1,2\n", "no known format")
    pq.write_table(pa.table({"a": [1]}), folder / "rows.parquet")
    out["rows.parquet"] = (folder / "rows.parquet", "parquet of no known format (fields: a)")
    (folder / "cut.parquet").write_bytes(b"PAR1" + b"x" * 100)
    out["cut.parquet"] = (folder / "cut.parquet", "damaged")
    with zipfile.ZipFile(folder / "logs.zip", "w") as archive:
        archive.writestr("log.jsonl", jsonl([pair()]))
    out["logs.zip"] = (folder / "logs.zip", "zip")
    return out


def test_files_that_are_no_logs(tmp_path: Path, command: Command) -> None:
    """Given alone, such a file is an error with exit code 1 that names it, says why and what to do; no trace is left."""
    (tmp_path / "in").mkdir()
    for name, (path, says) in unreadable(tmp_path / "in").items():
        ran = command("ingest", path, "-o", tmp_path / "out" / "trace")
        line = ran.error()
        assert (
            ran.code == 1 and name in line and says in line and ("traceprof formats" in line or "; " in line)
        ), line
        assert not (tmp_path / "out" / "trace").exists()
    assert not list((tmp_path / "out").glob(".*"))


def test_a_folder_of_everything(tmp_path: Path, command: Command) -> None:
    """In a folder each file is read as what it is; those that are no logs are named in the manifest and in a line."""
    folder = tmp_path / "in"
    (folder / "deep" / "er").mkdir(parents=True)
    no_logs = unreadable(folder)
    for name, file in ((n, f) for n, f in FORMATS.items() if not asked(n)):
        shutil.copy(SAMPLES / file, folder / "deep" / "er" / file)
        if not file.endswith((".csv", ".parquet")):
            (folder / f"{name}.gz").write_bytes(gzip.compress((SAMPLES / file).read_bytes()))
    (folder / ".hidden.jsonl").write_bytes(jsonl([pair()]))
    (folder / "dangling.jsonl").symlink_to(tmp_path / "nowhere")
    ran = command("ingest", folder, "-o", tmp_path / "t", "--duplicates", "keep")
    assert ran.code == 0 and f"{len(no_logs)} files not read" in ran.err and "Traceback" not in ran.err
    manifest = whole(Trace(tmp_path / "t")).manifest
    assert set(manifest["formats"]) == {label for label in LABELS if not asked(label)}
    assert {s["file"] for s in manifest["sources"] if s["format"] is None} == set(no_logs)
    assert command("ingest", folder, "-o", tmp_path / "t", "--duplicates", "skip", "--strict").code == 3


def test_what_the_user_may_get_wrong(tmp_path: Path, command: Command) -> None:
    """Wrong words end with one line that names the thing and the remedy: 1 for files, 2 for usage."""
    log = tmp_path / "log.jsonl"
    log.write_bytes(jsonl([pair()]))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "stranger").mkdir()
    (tmp_path / "stranger" / "precious.txt").write_text("keep me")
    (tmp_path / "none").mkdir()
    os.mkfifo(tmp_path / "pipe")
    trace = tmp_path / "t"
    cases: list[tuple[list[object], int, list[str]]] = [
        ([tmp_path / "missing.jsonl", "-o", trace], 1, ["missing.jsonl", "no such file", "check the path"]),
        ([f"{tmp_path}/*.zip", "-o", trace], 1, ["*.zip", "no file matches"]),
        ([tmp_path / "none", "-o", trace], 1, ["none", "holds no files", "give a log file"]),
        ([tmp_path / "pipe", "-o", trace], 1, ["pipe", "not a regular file", "stdin"]),
        ([log, "-o", tmp_path / "file"], 1, ["file", "not written by traceprof", "give another -o"]),
        ([log, "-o", tmp_path / "stranger"], 1, ["stranger", "not written by traceprof", "give another -o"]),
        ([log, "-o", tmp_path / "file" / "trace"], 1, ["cannot be written", "give another -o"]),
        ([log, "-o", tmp_path], 1, ["not written by traceprof"]),
        ([log, "-o", trace, "--format", "opnai"], 2, ["opnai", "did you mean openai"]),
        ([log, "-o", trace, "--block-size", "16"], 2, ["--block-size", "openai"]),
        ([log, "-o", trace, "--block-size", "0"], 2, ["--block-size"]),
        ([log, "-o", trace, "--order", "random"], 2, ["--order"]),
        ([log, "-o", trace, "--jobs", "0"], 2, ["--jobs"]),
        ([log], 2, ["-o"]),
        (["-o", trace], 2, ["LOG"]),
    ]
    for words, code, says in cases:
        ran = command("ingest", *words)
        line = ran.error()
        assert ran.code == code and all(s in line for s in says), (words, ran.code, line)
    assert (tmp_path / "file").read_text() == "mine" and (tmp_path / "stranger" / "precious.txt").exists()
    assert not trace.exists() and not list(tmp_path.glob(".*"))
    assert command("ingets", log).code == 2


def test_block_size_is_refused_for_formats_that_fix_it(tmp_path: Path) -> None:
    """--block-size is for Mooncake; for Qwen, whose size is known, it is an error, not ignored."""
    with pytest.raises(UsageError):
        ingest([SAMPLES / "qwen-bailian.jsonl"], tmp_path / "t", Options(block_size=32))


def test_an_unreadable_file(tmp_path: Path) -> None:
    """A file without read permission is an error that says so; root is asked to do without the right to read all."""
    log = tmp_path / "log.jsonl"
    log.write_bytes(jsonl([pair()]))
    log.chmod(0)
    words = [sys.executable, "-m", "traceprof.cli.main", "ingest", str(log), "-o", str(tmp_path / "t")]
    ran = subprocess.run(words, capture_output=True, text=True, preexec_fn=_as_any_user, check=False)
    assert ran.returncode == 1 and "check its permissions" in ran.stderr and "Traceback" not in ran.stderr


def _as_any_user() -> None:
    """Drop CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH (Linux), which root keeps over an exec otherwise."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2):
        libc.prctl(24, capability, 0, 0, 0)


def test_strict_counts_rejects(tmp_path: Path, process: Callable[..., Ran]) -> None:
    """--strict ends with 3 when a record was rejected, and leaves the trace; stdin is a log like any other."""
    log = jsonl([pair(1), pair(2), b"oops"])
    ran = process("ingest", "-", "-o", tmp_path / "t", "--strict", "--json", stdin=log)
    assert ran.code == 3 and json.loads(ran.out)["rejects"] == 1
    assert Trace(tmp_path / "t").manifest["sources"][0]["file"] == "stdin"
    assert process("ingest", "-", "-o", tmp_path / "t", "-q", stdin=log).code == 0
    ran = process("ingest", "-", "-o", tmp_path / "u", stdin=b"")
    assert ran.code == 1 and "empty" in ran.error()


def test_names_that_collide(tmp_path: Path) -> None:
    """Files of one name in different folders keep apart; a file given twice is read once; odd names are no obstacle."""
    for folder in ("2026-08-20", "2026-08-21"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "log.jsonl").write_bytes(
            jsonl([pair(1, request_id=None), pair(2, request_id=None)])
        )
    trace = whole(ingest([f"{tmp_path}/2026-08-2?/*.jsonl", tmp_path / "2026-08-20"], tmp_path / "t"))
    assert [s["file"] for s in trace.manifest["sources"]] == ["2026-08-20/log.jsonl", "2026-08-21/log.jsonl"]
    assert len({r["request_id"] for r in rows(trace)}) == 4
    odd = os.fsencode(tmp_path) + b"/caf\xe9 \n.jsonl"
    Path(os.fsdecode(odd)).write_bytes(jsonl([pair(1)]))
    assert len(rows(ingest([os.fsdecode(odd)], tmp_path / "t"))) == 1


MEASURE = """
import json, resource, sys
from traceprof.ingest import Options, ingest
from pathlib import Path
ingest([Path(sys.argv[1]) / "small.jsonl"], Path(sys.argv[1]) / "t0")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
trace = ingest([sys.argv[2]], Path(sys.argv[1]) / "t", Options(max_record_bytes=int(sys.argv[3])))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([(after - before) * 1024, trace.manifest["requests"], trace.manifest["rejects_by_reason"]]))
"""


@pytest.mark.parametrize("shape", ["line", "line.gz", "element", "string element", "number element"])
def test_a_record_of_100_mb_costs_no_memory(shape: str, tmp_path: Path) -> None:
    """A record over the limit is passed over in constant memory, in JSON lines and inside an array."""
    (tmp_path / "small.jsonl").write_bytes(jsonl([pair(1)]))
    good = json.dumps(pair(1)).encode()
    begin, end = {
        "line": (b'{"request": "', b'"}\n' + json.dumps(pair(2)).encode() + b"\n"),
        "element": (b', {"request": "\\"', b'"}, ' + json.dumps(pair(2)).encode() + b"]"),
        "string element": (b', "', b'", ' + json.dumps(pair(2)).encode() + b"]"),
        "number element": (b", 1", b", " + json.dumps(pair(2)).encode() + b"]"),
    }[shape.removesuffix(".gz")]
    path = tmp_path / "log"
    filler = (b"1" if shape == "number element" else b"x") * (1 << 20)
    with gzip.open(path, "wb", 1) if shape.endswith("gz") else path.open("wb") as sink:
        sink.write(
            (b"" if shape.startswith("line") else b"[")
            + good
            + (b"\n" if shape.startswith("line") else b"")
            + begin
        )
        for _ in range(100):
            sink.write(filler)
        sink.write(end)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path), str(path), str(4 << 20)],
        capture_output=True,
        check=True,
    )
    grew, requests, rejected = json.loads(done.stdout)
    assert requests == 2 and rejected == {"record_too_large": 1}
    assert grew < 60 << 20


# -- anything at all -----------------------------------------------------------------------------------------

_edit = st.tuples(
    st.sampled_from(["flip", "cut", "drop", "insert", "repeat"]),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 400),
    st.sampled_from(
        [
            b"\x00",
            b"\xff",
            b'"',
            b"{",
            b"}",
            b"[",
            b"]",
            b"\n",
            b"\r",
            b"\\",
            b",",
            b"-1",
            b"1e999",
            b"null",
            b"\xef\xbb\xbf",
        ]
    ),
)


def edited(log: bytes, edits: list[tuple[str, float, int, bytes]]) -> bytes:
    for kind, place, length, word in edits:
        at = int(place * len(log))
        if kind == "flip":
            log = log[:at] + bytes([log[at] ^ (1 << length % 8)]) + log[at + 1 :] if log else log
        elif kind == "cut":
            log = log[:at]
        elif kind == "drop":
            log = log[:at] + log[at + length :]
        elif kind == "insert":
            log = log[:at] + word + log[at:]
        else:
            log = log[: at + length] + log[at:]
    return log


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=40, deadline=5_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(_edit, min_size=1, max_size=4), packed=st.booleans())
def test_damaged_logs_never_crash(name: str, edits: list[Any], packed: bool, tmp_path: Path) -> None:
    """Flipped, cut, repeated and inserted bytes anywhere: a trace whose counts add up, or one clear error."""
    log = (SAMPLES / FORMATS[name]).read_bytes()
    log = edited(gzip.compress(log), edits) if packed else edited(log, edits)
    path = tmp_path / FORMATS[name]
    path.write_bytes(log)
    try:
        trace = ingest([path], tmp_path / "t", Options(**asked(name)))
    except TraceprofError as bad:
        assert path.name in str(bad) and bad.exit_code == 1
    else:
        whole(trace)
        assert "unreadable" not in reasons(trace), rows(trace, "rejects")
