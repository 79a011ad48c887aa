"""The trace folder as contract.md promises it: order, parts, counts, and whole or not at all."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import CLI, FORMATS, SAMPLES, Ran, asked, jsonl, pair, rows, table, whole
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from traceprof import formats, schema
from traceprof.errors import TraceprofError
from traceprof.ingest import Options, ingest
from traceprof.trace import Trace
from traceprof.workers import Workers

Ingested = Callable[..., Trace]
SMALL = {"chunk_bytes": 3_000, "part_bytes": 5_000}  # parts of about a dozen requests


def log_of(n: int, seed: int = 1, **changes: Any) -> list[dict[str, Any]]:
    """n pairs of 12 sessions in mixed order, a fifth of them at the same instant as another."""
    rng = random.Random(seed)
    out = []
    for i in range(n):
        at = rng.randrange(n * 4) // 5 * 0.125
        body = {
            "model": "m",
            "messages": [{"role": "user", "content": f"q{i}"}],
            "metadata": {"session_id": f"s{i % 12}"},
        }
        out.append(pair(i, timestamp=1787313600 + at, request_id=f"r{i}", request=body, **changes))
    return out


def said(trace: Trace) -> list[dict[str, Any]]:
    """Every row with its content and tokens, in order."""
    out = []
    content, tokens = rows(trace, "content"), rows(trace, "tokens")
    for i, row in enumerate(rows(trace)):
        one = {**row, **(content[i] if content else {}), **(tokens[i] if tokens else {})}
        one.pop("row", None)
        out.append(one)
    return out


# -- order and parts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["mixed", "sorted", "reversed"])
def test_requests_are_in_order_of_arrival(shape: str, ingested: Ingested) -> None:
    """Sorted by arrival within and across parts, ties in input order, whatever the order of the log."""
    log = log_of(400)
    if shape != "mixed":
        log.sort(key=lambda r: r["timestamp"], reverse=shape == "reversed")
    trace = ingested(log, **SMALL)
    assert len(trace.parts("requests")) > 10
    found = rows(trace)
    expected = sorted(range(len(log)), key=lambda i: log[i]["timestamp"])
    assert [r["request_id"] for r in found] == [log[i]["request_id"] for i in expected]
    assert [r["source_row"] for r in found] == [i + 1 for i in expected]
    first = min(r["timestamp"] for r in log)
    assert [r["arrival_offset_us"] for r in found] == [
        round((log[i]["timestamp"] - first) * 1e6) for i in expected
    ]


def test_order_file_keeps_the_file(ingested: Ingested) -> None:
    """--order file leaves every row where it stands, and the manifest says so."""
    log = log_of(200)
    trace = ingested(log, order="file", **SMALL)
    assert [r["request_id"] for r in rows(trace)] == [r["request_id"] for r in log]
    assert trace.manifest["order"] == "file" and min(r["arrival_offset_us"] for r in rows(trace)) == 0
    assert ingested(log).manifest["order"] == "arrival"


def test_rows_without_a_time_come_last_in_input_order(ingested: Ingested) -> None:
    """Where some arrivals are unknown, they stand behind the known ones, in input order."""
    log = [pair(5), pair(1, timestamp=None), pair(3), pair(2, timestamp=None)]
    found = rows(ingested(log))
    assert [r["request_id"] for r in found] == ["r3", "r5", "r1", "r2"]
    assert [r["arrival_offset_us"] for r in found] == [0, 2_000_000, None, None]


def test_parts_go_together(ingested: Ingested) -> None:
    """Part k of tokens and content holds the requests of part k: tokens row by row, content by session, then arrival."""
    log = log_of(300)
    for i, record in enumerate(log):
        record["response"]["choices"][0]["token_ids"] = [i]
        record["request"]["prompt_token_ids"] = [i, i + 1]
    trace = ingested(log, **SMALL)
    parts = {kind: trace.parts(kind) for kind in ("requests", "content", "tokens")}
    names = {kind: [p.name for p in paths] for kind, paths in parts.items()}
    assert names["requests"] == names["content"] == names["tokens"]
    for request_part, content_part, token_part in zip(*parts.values(), strict=True):
        requests, content, tokens = (pl.read_parquet(p) for p in (request_part, content_part, token_part))
        assert tokens["request_id"].to_list() == requests["request_id"].to_list()
        for request, ids in zip(requests["request_id"], tokens["input_ids"], strict=True):
            assert ids.to_list() == [int(request[1:]), int(request[1:]) + 1]
        assert sorted(content["row"].to_list()) == list(range(len(requests)))
        assert content["request_id"].to_list() == requests["request_id"].gather(content["row"]).to_list()
        places = list(zip(content["session_id"].to_list(), content["row"].to_list(), strict=True))
        assert places == sorted(places)


def test_files_have_the_published_schema(ingested: Ingested) -> None:
    """Every part of every kind has the columns and types of schema.py, and its version."""
    import pyarrow.parquet as pq

    trace = ingested([*log_of(40), pair(1, status_code=500), b"oops"], **SMALL)
    for kind in ("requests", "content", "rejects"):
        expected = schema.arrow(schema.FILES[f"trace/{kind}"])
        for part in trace.parts(kind):
            found = pq.read_schema(part)
            assert found.names == expected.names
            assert [f.type for f in found] == [f.type for f in expected], kind
    assert pq.read_schema(trace.parts("requests")[0]).metadata[b"schema_version"] == b"1"
    for column in schema.REQUESTS:
        if not column.nullable:
            assert table(trace, "requests")[column.name].null_count() == 0, column.name


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 999),
    n=st.integers(1, 60),
    chunk=st.integers(1, 20_000),
    part=st.integers(1, 20_000),
    doubled=st.booleans(),
)
def test_the_result_does_not_depend_on_chunks_and_parts(
    seed: int, n: int, chunk: int, part: int, doubled: bool, ingested: Ingested
) -> None:
    """Whatever the sizes of chunks and parts, the same rows, rejects and counts come out in the same order."""
    log: list[Any] = log_of(n, seed)
    log.insert(n // 2, b"{")
    if doubled:
        log += log_of(n, seed + 1)  # the same ids at other times
    one, other = (
        ingested(log, name="a.jsonl"),
        ingested(log, name="a.jsonl", chunk_bytes=chunk, part_bytes=part),
    )
    assert said(one) == said(other)
    by_row = [sorted(rows(t, "rejects"), key=lambda r: r["source_row"]) for t in (one, other)]
    assert by_row[0] == by_row[1]
    assert {**one.manifest, "created_at": 0} == {**other.manifest, "created_at": 0}


def test_far_from_sorted_runs_keep_the_first_duplicate(ingested: Ingested) -> None:
    """Of two rows with one id the first in the file stays, also where a chunk was sorted before the comparison."""
    log = [pair(i % 1500, timestamp=1787313600 + (9000 - i)) for i in range(3000)]
    trace = ingested(log)
    assert sorted(r["source_row"] for r in rows(trace)) == list(range(1, 1501))
    assert [r["request_id"] for r in rows(trace)] == [f"r{i}" for i in range(1499, -1, -1)]


def divisible(name: str) -> bool:
    """Not one thing that, cut in two, is no longer what it was: a table's file, a document, the log of one process."""
    if formats.load(name.split(".")[0]).__dict__.get("one_process"):
        return False
    return not name.endswith(".parquet") and not (
        name.endswith(".json") and isinstance(json.loads((SAMPLES / name).read_text("utf-8")), dict)
    )


@pytest.mark.parametrize("name", ["chat.jsonl", *filter(divisible, FORMATS.values())])
def test_splitting_a_log_and_joining_it_changes_nothing(name: str, tmp_path: Path) -> None:
    """A log cut into two files gives the same trace, but for the names and lines that rows come from."""
    if name.endswith(".json"):
        whole_log = json.loads((SAMPLES / name).read_text("utf-8"))
        pieces = [json.dumps(whole_log[:1]), json.dumps(whole_log[1:])]
    else:
        lines = (SAMPLES / name).read_bytes().splitlines(keepends=True)
        head = lines[:1] if name.endswith(".csv") else []
        cut = len(lines) // 2
        pieces = [b"".join(p).decode() for p in (lines[:cut], head + lines[cut:])]
    for i, piece in enumerate(pieces):
        (tmp_path / f"{i}{Path(name).suffix}").write_text(piece, "utf-8", newline="")
    options = Options(**asked(name))
    one = ingest([SAMPLES / name], tmp_path / "one", options)
    two = ingest(sorted(tmp_path.glob(f"?{Path(name).suffix}")), tmp_path / "two", options)
    own = ("row_id", "source_file", "source_row")
    if name.split(".")[0] in ("aiperf", "mooncake", "qwen-bailian"):
        own += (
            "hash_scope",
            "request_id",
            "session_id",
            "parent_request_id",
            "turn_index",
        )  # those of one file

    def kept(trace: Trace) -> list[dict[str, Any]]:
        out = []
        for row in said(whole(trace)):
            assigned = row["request_id"] == row["row_id"]
            out.append(
                {k: v for k, v in row.items() if k not in own and not (assigned and k == "request_id")}
            )
        return out

    assert kept(one) == kept(two)
    for key in (
        "records_in",
        "requests",
        "rejects",
        "skipped",
        "rejects_by_reason",
        "skipped_by_reason",
        "formats",
    ):
        assert one.manifest[key] == two.manifest[key]


def test_several_files_are_one_log(tmp_path: Path) -> None:
    """Offsets count from the first arrival of all files; ids are compared across files; the manifest names each."""
    (tmp_path / "b.jsonl").write_bytes(jsonl([pair(10), pair(30)]))
    (tmp_path / "a.jsonl").write_bytes(jsonl([pair(20), pair(30)]))
    trace = whole(ingest([tmp_path / "b.jsonl", tmp_path / "a.jsonl"], tmp_path / "t"))
    assert [r["request_id"] for r in rows(trace)] == ["r10", "r20", "r30"]
    assert [r["arrival_offset_us"] for r in rows(trace)] == [0, 10_000_000, 20_000_000]
    assert [r["source_file"] for r in rows(trace)] == ["b.jsonl", "a.jsonl", "b.jsonl"]
    assert [r["source_file"] for r in rows(trace, "rejects")] == ["a.jsonl"]
    assert [s["file"] for s in trace.manifest["sources"]] == ["b.jsonl", "a.jsonl"]


def test_deleting_content_removes_all_text(ingested: Ingested) -> None:
    """No word of a prompt or an answer stands in requests/; without content/ the trace still opens."""
    import shutil

    trace = ingested(SAMPLES / "chat.jsonl")
    words = ["Fernweh Outdoor", "berth/fit.go", "届け先", "iVBORw0KGgo"]
    raw = b"".join(p.read_bytes() for p in trace.parts("requests"))
    dump = json.dumps(rows(trace), default=str, ensure_ascii=False)
    assert not any(w in dump or w.encode() in raw for w in words)
    shutil.rmtree(trace.path / "content")
    assert len(table(Trace(trace.path), "requests")) == trace.manifest["requests"]
    assert table(Trace(trace.path), "content").height == 0


def test_the_manifest_says_what_the_trace_was_made_from(ingested: Ingested) -> None:
    """Version, options, order, sources with bytes, container and format, counts by reason; no absolute path."""
    trace = ingested([pair(1), b"{"], order="file", duplicates="keep", max_record_bytes=4096)
    manifest = trace.manifest
    assert manifest["kind"] == "traceprof-trace" and manifest["schema_version"] == 1
    assert manifest["options"] == {
        "format": None,
        "duplicates": "keep",
        "block_size": None,
        "max_record_bytes": 4096,
    }
    (source,) = manifest["sources"]
    assert source["container"] == "jsonl" and source["format"] == "openai" and source["bytes"] > 0
    assert str(trace.path.parent) not in json.dumps(manifest)


# -- many processes ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log large enough that workers are worth it."""
    path = tmp_path_factory.mktemp("big") / "big.jsonl"
    with path.open("wb") as sink:
        for i in range(5):
            log = log_of(2_000, i, note="x" * 1_000)
            sink.write(jsonl({**r, "request_id": f"{i}-{r['request_id']}"} for r in log))
    assert path.stat().st_size > 12 << 20
    return path


def test_workers_change_nothing(big: Path, tmp_path: Path, process: Callable[..., Ran]) -> None:
    """Two jobs write the same bytes' worth of rows as one."""
    for jobs in (1, 2):
        ran = process("ingest", big, "-o", tmp_path / f"t{jobs}", "-j", jobs, "-q")
        assert ran.code == 0 and ran.err == "", ran.err
    one, two = (whole(Trace(tmp_path / f"t{jobs}")) for jobs in (1, 2))
    assert one.manifest["requests"] == 10_000
    for kind in ("requests", "content"):
        assert table(one, kind).equals(table(two, kind))


def alive(marker: str) -> list[int]:
    """Processes whose command line or environment names `marker`."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit() and int(place.name) != os.getpid():
            try:
                words = (place / "environ").read_bytes() + (place / "cmdline").read_bytes()
                state = (place / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if marker.encode() in words and state != "Z":
                found.append(int(place.name))
    return found


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
def test_a_killed_ingest_leaves_the_old_trace_or_the_new_one(big: Path, tmp_path: Path) -> None:
    """SIGKILL at any moment: the folder is a whole trace, workers end, and the next ingest sweeps what was left."""
    out = tmp_path / "trace"
    old = ingest([SAMPLES / "chat.jsonl"], out).manifest["requests"]
    marker = f"traceprof-test-{os.getpid()}-{time.monotonic_ns()}"
    words = [*CLI, "ingest", str(big), "-o", str(out), "-j", "2", "-q"]
    env = {**os.environ, "TRACEPROF_TEST": marker}
    began = time.monotonic()
    subprocess.run(words, env=env, check=True)
    full = time.monotonic() - began
    assert Trace(out).manifest["requests"] == 10_000
    rng = random.Random(5)
    moments = [full * rng.uniform(0.2, 1.0) for _ in range(9)] + [full * f for f in (0.9, 0.97, 1.03)]
    left_behind = 0
    for i, moment in enumerate(moments):
        if i % 3 == 0:
            ingest([SAMPLES / "chat.jsonl"], out)
        running = subprocess.Popen(words, env=env)
        try:
            running.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            running.send_signal(signal.SIGKILL)
            running.wait()
        assert whole(Trace(out)).manifest["requests"] in (old, 10_000)
        left_behind += len(list(tmp_path.glob(".trace.*")))
        deadline = time.monotonic() + 5
        while alive(marker) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert alive(marker) == []
    assert left_behind > 0  # the kills did come in the middle
    ingest([SAMPLES / "chat.jsonl"], out)
    assert [p.name for p in tmp_path.iterdir()] == ["trace"]


def test_an_interrupted_ingest_changes_nothing(big: Path, tmp_path: Path) -> None:
    """Ctrl-C ends with one line and 130, also while workers start; the old trace stands, with nothing beside it."""
    out = tmp_path / "trace"
    before = ingest([SAMPLES / "chat.jsonl"], out).manifest
    for later in (0, 0.1, 0.3, 0.5):
        running = subprocess.Popen(
            [*CLI, "ingest", str(big), "-o", str(out), "-j", "2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        deadline = time.monotonic() + 30
        while not list(tmp_path.glob(".trace.*.partial/runs")) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(later)
        os.killpg(running.pid, signal.SIGINT)
        done, err = running.communicate(timeout=60)
        if done:  # a fast machine
            continue
        assert err.decode().strip() == "Error: interrupted; nothing was changed"
        assert running.returncode == 130
        assert Trace(out).manifest == before
        assert [p.name for p in tmp_path.iterdir()] == ["trace"]


def test_a_killed_worker_is_told(tmp_path: Path) -> None:
    """A worker that the system kills ends the job with a line that says what helps, not with a bug report."""
    with pytest.raises(TraceprofError, match="--jobs"), Workers(2) as pool:
        list(pool.imap(os._exit, [(1,), (1,)]))


def test_an_error_leaves_the_old_trace(tmp_path: Path) -> None:
    """An ingest that fails changes nothing and leaves nothing beside."""
    out = tmp_path / "t" / "trace"
    ingest([SAMPLES / "chat.jsonl"], out)
    before = sorted((p, p.stat().st_mtime_ns) for p in out.rglob("*"))
    (tmp_path / "empty.jsonl").write_bytes(b"")
    for log in (tmp_path / "empty.jsonl", tmp_path / "missing"):
        with pytest.raises(TraceprofError):
            ingest([log], out)
    assert sorted((p, p.stat().st_mtime_ns) for p in out.rglob("*")) == before
    assert [p.name for p in out.parent.iterdir()] == ["trace"]


def test_what_is_replaced(tmp_path: Path) -> None:
    """An empty folder and an old trace are replaced, whole; brackets in the name are no pattern."""
    out = tmp_path / "[a-z] trace"
    out.mkdir()
    ingest([SAMPLES / "mooncake.jsonl"], out)
    assert (out / "tokens").exists()
    dead = subprocess.Popen(["true"])
    dead.wait()
    stale = tmp_path / f".{out.name}.{dead.pid}-abc.partial"
    stale.mkdir()
    trace = ingest([SAMPLES / "azure-llm.csv"], out, Options())
    assert not (trace.path / "tokens").exists() and not stale.exists()


def test_a_log_inside_the_trace_it_would_replace(tmp_path: Path) -> None:
    """A trace folder that holds the log itself is not replaced: the log would go with it."""
    out = tmp_path / "trace"
    ingest([SAMPLES / "chat.jsonl"], out)
    log = out / "new.jsonl"
    log.write_bytes(jsonl([pair(1)]))
    with pytest.raises(TraceprofError, match="inside"):
        ingest([log], out)
    assert log.exists()


def test_opening_what_is_no_trace(tmp_path: Path) -> None:
    """A missing folder, a file, a stranger's folder and a broken manifest each say what they are."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for name, body in (
        ("broken", b"{"),
        ("list", b"[]"),
        ("other", b'{"kind": "x"}'),
        ("latin", b'{"a": "\xe9"}'),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_bytes(body)
    for name in ("missing", "file", "empty", "broken", "list", "other", "latin"):
        with pytest.raises(TraceprofError, match=name):
            Trace(tmp_path / name)
